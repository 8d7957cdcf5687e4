//! Where the far end's packets come from, and SAs that are moved there. See [`crate::keys::mapping`].

use std::net::SocketAddr;

use super::Associations;
use super::shared::News;
use crate::config::{Direction, UdpEncap};
use crate::keys::sa::{Ends, Id, Origin};

impl Associations {
    /// Do packets come in UDP, as far as is known?
    #[must_use]
    pub fn are_in_udp(&self) -> bool {
        self.receivers.iter().any(|receiver| receiver.about.ends.udp.is_some())
    }

    /// Does the far end send from elsewhere than is known, since this was last asked? By which SA, who tells of that one, and from where.
    pub fn elsewhere(&mut self) -> Option<(Id, Origin, SocketAddr)> {
        let mut found = None;
        for receiver in &mut self.receivers {
            let Some((version, source)) = receiver.inbound.source() else { continue };
            let news = std::mem::replace(&mut receiver.source, version) != version;
            // Nothing is known of a port where packets were not to come in UDP.
            if news && far(Direction::In, receiver.about.ends).is_some_and(|known| known != source) {
                found = Some((receiver.about.id, receiver.about.sa.origin, source));
            }
        }
        found
    }

    /// What the SA is known by here that its source calls `id`.
    #[must_use]
    pub fn known_as(&mut self, id: Id) -> Id {
        self.find(id).map_or(id, |about| about.id)
    }

    /// The far end that sends by the SA `by` is at `source` now: all its SAs are moved. Returns by what those are known now that were
    /// known by where they lead. Their source goes on calling them what it did.
    pub fn follow(&mut self, by: Id, source: SocketAddr) -> Vec<Id> {
        let before = self.find(by).and_then(|about| far(Direction::In, about.ends));
        let mut renamed = Vec::new();
        let mut news = Vec::new();
        for about in self.all() {
            let Some(direction) = about.sa.direction else { continue };
            if before.is_none() || far(direction, about.ends) != before {
                continue;
            }
            let ends = at(direction, about.ends, source);
            about.ends = ends;
            if about.shared {
                news.push(News::Moved(about.id, ends));
            }
            let id = Id { at: ends.destination, ..about.id };
            if id != about.id {
                about.called.get_or_insert(about.id);
                about.id = id;
                renamed.push(id);
            }
        }
        self.news.append(&mut news);
        renamed
    }
}

/// The far one of an SA's ends, where its packets go in UDP.
fn far(direction: Direction, ends: Ends) -> Option<SocketAddr> {
    let udp = ends.udp?;
    Some(match direction {
        Direction::In => SocketAddr::new(ends.source, udp.source),
        Direction::Out => SocketAddr::new(ends.destination, udp.destination),
    })
}

/// The ends, were the far one at `far`.
fn at(direction: Direction, ends: Ends, far: SocketAddr) -> Ends {
    match direction {
        Direction::In => {
            Ends { source: far.ip(), udp: ends.udp.map(|udp| UdpEncap { source: far.port(), ..udp }), ..ends }
        }
        Direction::Out => Ends {
            destination: far.ip(),
            udp: ends.udp.map(|udp| UdpEncap { destination: far.port(), ..udp }),
            ..ends
        },
    }
}
