//! What is told of tunnels that would lie deeper in tunnels than they may, in the log and by `culvert show tunnels`.

use super::hold::{Placed, RETURN};
use super::status::NestingStatus;
use super::{Daemon, log};
use crate::nesting::Detour;

/// Tunnels that one change of a route tells of by name.
const LISTED: usize = 8;

impl Daemon {
    /// Logs what is otherwise than with the tables before.
    pub(super) fn tell_placed(&self, placed: &Placed) {
        let before = &self.view.placed;
        let new = placed.held.iter().filter(|(tunnel, held)| {
            !held.returning && before.held.get(tunnel).is_none_or(|before| before.detour != held.detour)
        });
        let mut new = new.map(|(tunnel, held)| {
            let why = held.detour.why(&self.config);
            (self.name_of(*tunnel), format!("{why}; it keeps its way by {}", self.describe(&held.way)))
        });
        new.by_ref().take(LISTED).for_each(|(name, why)| log::tunnel(name).error(why));
        more(new.count(), "keep their ways");
        let down = placed.nested.iter().filter(|(tunnel, detour)| before.nested.get(tunnel) != Some(detour));
        let mut down = down.map(|(tunnel, detour)| {
            let why = detour.why(&self.config);
            (self.name_of(*tunnel), format!("{why}; it has no other way and is down"))
        });
        down.by_ref().take(LISTED).for_each(|(name, why)| log::tunnel(name).error(why));
        more(down.count(), "have no other way and are down");
        let back = before
            .held
            .keys()
            .filter(|tunnel| !placed.held.contains_key(tunnel) && !placed.nested.contains_key(tunnel));
        let seconds = RETURN.as_secs();
        let mut back = back.map(|tunnel| self.name_of(*tunnel));
        back.by_ref().take(LISTED).for_each(|name| {
            log::tunnel(name).info(format_args!(
                "no route has led it into a tunnel for {seconds} s; it follows its route again"
            ));
        });
        more(back.count(), "follow their routes again");
    }

    /// What `show tunnels` says of it.
    pub(super) fn nesting_of(&self, tunnel: usize) -> Option<NestingStatus> {
        let of = |detour: &Detour| NestingStatus {
            why: detour.why(&self.config),
            route: detour.prefix.to_string(),
            path: detour.path.tunnels.iter().map(|tunnel| self.name_of(*tunnel).to_owned()).collect(),
            way: None,
            returning: false,
        };
        if let Some(held) = self.view.placed.held.get(&tunnel) {
            let way = Some(self.describe(&held.way));
            return Some(NestingStatus { way, returning: held.returning, ..of(&held.detour) });
        }
        self.view.placed.nested.get(&tunnel).map(of)
    }

    pub(super) fn name_of(&self, tunnel: usize) -> &str {
        self.config.tunnels.get(tunnel).map_or("?", |tunnel| &tunnel.name)
    }
}

fn more(count: usize, what: &str) {
    if count > 0 {
        log::warn(format_args!("{count} more tunnels {what}: culvert show tunnels"));
    }
}
