//! The keys of tunnels whose near end two routers share: what the partner hears of them, and what it tells.

use std::ops::RangeInclusive;
use std::time::Instant;

use super::Keys;
use super::associations::shared::{News, Told};
use super::sa::{Ends, Id, Origin, Sa};
use crate::sync::message::Message;

impl Keys {
    /// A session with the partner has begun or ended: it has to hear of everything.
    pub fn forget_partner(&mut self) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.associations.forget_partner();
        }
    }

    /// Says what the partner has to hear now.
    pub fn tell_partner(&mut self, now: Instant, mut say: impl FnMut(Message)) {
        for (name, tunnel) in self.tunnels.iter_mut().filter(|(_, tunnel)| tunnel.shared) {
            tunnel.associations.tell(now, |news| {
                say(match news {
                    News::Sa(told) => Message::Sa(name.clone(), told),
                    News::Moved(id, ends) => Message::Moved(id, ends),
                    News::Removed(id) => Message::Removed(id),
                    News::Edge(id, edge) => Message::Edge(id, edge),
                    News::Ask(id, count) => Message::Ask(id, count),
                });
            });
        }
    }

    /// The partner begins to tell of all SAs that it has.
    pub fn partner_begins(&mut self) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.associations.begin(Origin::Partner);
        }
    }

    /// It has told of all SAs of the tunnels of which it is master, and `is_master` says which. Returns whether other SAs are to be
    /// installed.
    pub fn partner_has_told(&mut self, now: Instant, is_master: impl Fn(&str) -> bool) -> bool {
        let told = self.tunnels.iter_mut().filter(|(name, tunnel)| tunnel.shared && is_master(name));
        told.fold(false, |any, (_, tunnel)| any | tunnel.associations.partner_has_told(now))
    }

    /// The partner has this SA. Returns whether other SAs are to be installed.
    ///
    /// # Errors
    /// Nothing can be done with it, in words.
    pub fn adopt(&mut self, name: &str, told: Told, now: Instant) -> Result<bool, String> {
        let tunnel = self.tunnels.get_mut(name).filter(|tunnel| tunnel.shared);
        let tunnel = tunnel.ok_or("no tunnel of that name is shared here")?;
        let (id, traffic) = (told.sa.id, tunnel.traffic());
        let sa = Sa { reqid: tunnel.reqid, window: tunnel.window, ..told.sa };
        let changed = tunnel.associations.adopt(Told { sa, ..told }, traffic, now)?;
        self.ids.insert(id, name.to_owned());
        Ok(changed)
    }

    /// The partner has the SA no more. Returns whether other SAs are to be installed.
    pub fn partner_removed(&mut self, id: Id, now: Instant) -> bool {
        let Some(tunnel) = self.ids.get(&id).and_then(|name| self.tunnels.get_mut(name)) else {
            return false;
        };
        let changed = tunnel.associations.partner_removed(id, now);
        if !tunnel.associations.has(id) {
            self.ids.remove(&id);
        }
        changed
    }

    /// The packets of the partner's SA come from or go to other places. Returns whether other SAs are to be installed.
    pub fn partner_moved(&mut self, id: Id, ends: Ends) -> bool {
        let Some(name) = self.ids.remove(&id) else { return false };
        let changed = self.tunnels.get_mut(&name).is_some_and(|it| it.associations.partner_moved(id, ends));
        self.ids.insert(Id { at: ends.destination, ..id }, name);
        changed
    }

    /// The partner has received up to `edge` by the SA.
    pub fn edge(&mut self, id: Id, edge: u64) {
        if let Some(tunnel) = self.ids.get(&id).and_then(|name| self.tunnels.get_mut(name)) {
            tunnel.associations.edge(id, edge);
        }
    }

    /// The partner asks for so many numbers. What is returned is its from now on.
    pub fn give(&mut self, id: Id, count: u64) -> Option<RangeInclusive<u64>> {
        self.ids.get(&id).and_then(|name| self.tunnels.get_mut(name))?.associations.give(id, count)
    }

    /// The partner gives numbers. Returns whether other SAs are to be installed.
    pub fn take(&mut self, id: Id, numbers: RangeInclusive<u64>) -> bool {
        let tunnel = self.ids.get(&id).and_then(|name| self.tunnels.get_mut(name));
        tunnel.is_some_and(|tunnel| tunnel.associations.take(id, numbers))
    }

    /// This router is silent in the tunnel from now on, or sends and receives; `beside`: the partner does so as well for a moment.
    /// Returns whether other SAs are to be installed.
    pub fn stand(&mut self, name: &str, silent: bool, beside: bool) -> bool {
        let Some(tunnel) = self.tunnels.get_mut(name).filter(|tunnel| tunnel.shared) else { return false };
        if silent {
            tunnel.associations.hand_over();
            return false;
        }
        if beside && !tunnel.associations.is_silent() {
            // It goes on as it is. With what a new master gives, that one would be given other numbers in turn, and have to move.
            return false;
        }
        let changed = tunnel.associations.take_over();
        if changed {
            // What the strongSwan of here negotiates now takes over soon.
            (self.youngest, self.look) = (Some(Instant::now()), Instant::now());
        }
        changed
    }
}
