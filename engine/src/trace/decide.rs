//! What would become of a packet, asked of the tables by the look-ups that packets take, without one being sent.
//!
//! 1. The route is looked up.
//! 2. Of several ways, the packet's flow chooses one.
//! 3. What the route cannot do is a drop.

use std::net::IpAddr;

use super::Headers;
use crate::drops::Reason;
use crate::flow;
use crate::path::forward;
use crate::tables::{Found, NextHop, Tables, To};

/// What was decided.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// The route.
    pub found: Option<Found>,
    /// Where it leads; of several ways, the one that the flow takes.
    pub next: Option<NextHop>,
    /// The router on the link that it leads by.
    pub via: Option<IpAddr>,
    /// Why the packet would be dropped, or given to the exception thread.
    pub refused: Option<Reason>,
}

impl Tables {
    /// What would become of this IP packet, which came in on a port. Its length is not looked at, nor its TTL.
    pub fn decide(&self, packet: &[u8]) -> Decision {
        let found = Headers::of_packet(packet).ends.and_then(|(_, to)| self.find(to));
        let Some(route) = found else {
            return Decision { found: None, next: None, via: None, refused: Some(Reason::NoRoute) };
        };
        let chosen = match route.next.to {
            To::Group(group) => self.member(group, flow::hash(packet)).map(|(hop, next)| (hop, *next)),
            _ => Some((route.hop, route.next)),
        };
        let refused = match chosen.map(|(_, next)| next.to) {
            Some(To::Host | To::HostForwards) => None,
            Some(to) => {
                let known =
                    if matches!(to, To::Unresolved { .. }) { Err(Reason::NoNeighbour) } else { Ok(()) };
                forward::before(packet, &route.next, self, false).and(known).err()
            }
            None => Some(Reason::NoRoute),
        };
        Decision {
            found,
            next: chosen.map(|(_, next)| next),
            via: chosen.and_then(|(hop, _)| self.router(hop)),
            refused,
        }
    }
}
