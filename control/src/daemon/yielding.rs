//! A planned hand-over: this router says that it is not ready any more, so that CARP makes the other one master, and carries what
//! still comes to it until the other one does.
//!
//! 1. It is refused where nobody is there to take over with what is shared, or who is there says that it is not ready, unless
//!    that is meant.
//! 2. The router is not ready: it is demoted, hooks for `unready` run, `culvert carp ready` says no.
//! 3. A group of which it is not master any more, and nobody else yet, is carried on: for [`ALONE`] at the most.
//!    Where there is to be a link and it goes, nobody hears that the other one is master: for [`TAIL`] from then.
//! 4. When the partner is master, what neighbours and switches still send here is carried for [`TAIL`]. Both have numbers of their
//!    own, and each packet comes to one of them.
//!
//! A daemon that is told to end does that first, where its router is master and it is not refused: as long as `yield_on_stop` says
//! for 2., and as long as it takes for 3. and 4. Told again, it ends at once.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::carp::masters;
use super::{Daemon, log};
use crate::Failure;
use crate::carp::Role;
use crate::config::Group;

/// How long a group that nobody is master of is carried on: three advertisements and more, as CARP takes them by default.
const ALONE: Duration = Duration::from_secs(10);
/// How long it is when the partner is master: until those around have heard of that (gratuitous ARP), and what is under way has come.
/// What is accepted meanwhile, the partner does not hear of.
const TAIL: Duration = Duration::from_millis(500);

/// This router has yielded.
#[derive(Debug, Default)]
pub(super) struct Yielded {
    /// The groups of which it was master then, or has been since.
    groups: BTreeMap<Group, Left>,
}

/// A group as this router leaves it.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    /// Since when it is not master.
    alone: Option<Instant>,
    /// Since when the partner is, or cannot be heard of.
    followed: Option<Instant>,
    /// It was carried on when that was last looked at.
    carried: bool,
}

impl Left {
    /// What is so now. `partner`: it is master, or may be without this router hearing of it.
    fn look(&mut self, role: Role, partner: bool, now: Instant) {
        if role == Role::Master {
            *self = Left::default();
            return;
        }
        self.alone.get_or_insert(now);
        if partner {
            self.followed.get_or_insert(now);
        }
    }

    /// Until when it is carried on, by a router that is not its master.
    fn until(&self) -> Option<Instant> {
        let alone = self.alone.map(|since| since + ALONE);
        self.followed.map_or(alone, |since| Some(since + TAIL))
    }

    fn is_carried(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }
}

impl Yielded {
    /// Until when nothing changes by the clock.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.groups.values().filter(|left| left.carried).filter_map(Left::until).min()
    }

    /// Does this router carry the group on though it is not master?
    pub(super) fn carries(&self, group: &Group) -> bool {
        self.groups.get(group).is_some_and(|left| left.carried)
    }
}

impl Daemon {
    /// This router is to be master no more, if another one can be. Asked again, it says how far that is.
    ///
    /// # Errors
    /// Nobody would take over, and `force` was not said.
    pub(super) fn yield_carp(&mut self, force: bool) -> Result<Value, Failure> {
        let now = Instant::now();
        if self.config.carp.at.is_none() {
            return Err(Failure::usage(
                "there is no [carp] here: nothing is shared with another router".to_owned(),
            ));
        }
        if self.yielded.is_none() {
            let why = self.no_successor();
            if let Some(why) = why.filter(|_| !force) {
                return Err(Failure::failed(format!("{why}; --force hands over all the same")));
            }
            self.give_up(now);
        }
        Ok(self.yielding(now))
    }

    fn give_up(&mut self, now: Instant) {
        log::info("carp: this router yields, as was asked for");
        let groups = masters(&self.carp).into_iter().map(|group| (group, Left::default()));
        self.yielded = Some(Yielded { groups: groups.collect() });
        // What it accepted until now is said before anybody else receives.
        self.tell_partner(now);
        self.follow_readiness(now);
    }

    /// It may be master again.
    pub(super) fn resume_carp(&mut self) -> Value {
        let now = Instant::now();
        if self.yielded.take().is_some() {
            log::info("carp: this router may be master again");
            self.apply_roles(now);
            self.follow_readiness(now);
        }
        self.yielding(now)
    }

    /// Is the daemon to end now?
    pub(super) fn is_to_end(&mut self, now: Instant) -> bool {
        let told = self.stop.swap(false, Ordering::Relaxed);
        match self.leaves {
            None => told && !self.begin_to_leave(now),
            Some(_) if told => true,
            Some(since) => self.has_left(since, now),
        }
    }

    /// Is this router master of a group, or does it carry one on?
    fn is_needed(&self) -> bool {
        let carries = self.yielded.as_ref().is_some_and(|yielded| yielded.deadline().is_some());
        carries || !masters(&self.carp).is_empty()
    }

    /// Hands over, if there is something to hand over and somebody to take it. Is that to be waited for?
    fn begin_to_leave(&mut self, now: Instant) -> bool {
        if self.config.carp.yield_on_stop.is_zero() || !self.is_needed() {
            return false;
        }
        if self.yielded.is_none() {
            if let Some(why) = self.no_successor() {
                log::warn(format_args!("carp: this router is master and ends without handing over: {why}"));
                return false;
            }
            self.give_up(now);
        }
        self.leaves = Some(now);
        true
    }

    /// A daemon that is to end has waited for that since then. Has it come?
    fn has_left(&self, since: Instant, now: Instant) -> bool {
        if !self.is_needed() {
            return true;
        }
        let late = now >= since + self.config.carp.yield_on_stop;
        if let Some(group) = masters(&self.carp).first().filter(|_| late) {
            log::warn(format_args!("carp {group}: nobody has made another router master; the daemon ends"));
            return true;
        }
        // What is carried on has a time of its own.
        now >= since + self.config.carp.yield_on_stop + ALONE + TAIL
    }

    /// When a daemon that is to end looks whether it has left.
    pub(super) fn leave_by(&self, now: Instant) -> Option<Instant> {
        self.leaves.map(|since| since + self.config.carp.yield_on_stop).filter(|by| *by > now)
    }

    fn yielding(&self, now: Instant) -> Value {
        let group = |group: &Group| {
            let left = self.yielded.as_ref().and_then(|yielded| yielded.groups.get(group));
            let carried = left.is_some_and(|left| left.is_carried(now));
            json!({
                "role": self.carp.role(group), "carried": carried, "partner_is_master": self.pair.is_master(Some(group)),
            })
        };
        let groups: BTreeMap<String, Value> =
            self.carp.members().map(|(name, _)| (name.to_string(), group(name))).collect();
        json!({"yielded": self.yielded.is_some(), "groups": groups})
    }

    /// Why nobody could take over from here without a new negotiation.
    fn no_successor(&self) -> Option<String> {
        let Some(link) = self.partner.status() else {
            return Some("there is no [carp.sync]: the other router knows nothing of the SAs".to_owned());
        };
        if !link.up {
            return Some(format!("the other router is not linked: {}", link.why.unwrap_or_default()));
        }
        if !self.pair.is_complete() {
            return Some("the other router has not said what it has".to_owned());
        }
        let waits = |group: &Group| self.pair.role(group) == Role::Init;
        if let Some(group) = masters(&self.carp).into_iter().find(waits) {
            return Some(format!("the other router is init for {group}"));
        }
        self.pair.missing().and_then(unready)
    }

    /// Looks whether what is carried on has changed, and has that in force.
    pub(super) fn follow_yield(&mut self, now: Instant) {
        let Some(yielded) = &mut self.yielded else { return };
        let mut changed = false;
        for (group, member) in self.carp.members() {
            if member.role == Role::Master {
                yielded.groups.entry(group.clone()).or_default();
            }
        }
        // What is shared could be accepted by both. Without [carp.sync] nothing is.
        let deaf = self.config.carp.sync.is_some() && !self.pair.is_complete();
        for (group, left) in &mut yielded.groups {
            left.look(self.carp.role(group), deaf || self.pair.is_master(Some(group)), now);
            let carried = left.is_carried(now);
            if carried != left.carried {
                (left.carried, changed) = (carried, true);
                let what =
                    if carried { "carried on until the other router is master" } else { "handed over" };
                log::info(format_args!("carp {group}: {what}"));
            }
        }
        if changed {
            self.apply_roles(now);
        }
    }
}

/// Why a router that lacks this is not to take over.
fn unready(missing: &[String]) -> Option<String> {
    (!missing.is_empty()).then(|| format!("the other router is not ready: {}", missing.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_ready_says_why() {
        let [down, up] = ["port \"wan\" is down", "it has been up for less than 5s"].map(str::to_owned);
        assert_eq!(unready(&[]), None);
        let why = unready(&[down, up]).expect("it is not ready");
        assert_eq!(
            why,
            "the other router is not ready: port \"wan\" is down; it has been up for less than 5s"
        );
    }

    /// Carried while nobody is master, a moment longer when somebody is, never for ever; and not by a master.
    #[test]
    fn how_long_it_is_carried() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut left = Left::default();
        left.look(Role::Master, false, at(0));
        assert!(!left.is_carried(at(0)), "a master carries anyhow");
        left.look(Role::Backup, false, at(100));
        assert!(left.is_carried(at(100)) && left.is_carried(at(10_099)) && !left.is_carried(at(10_100)));
        left.look(Role::Backup, true, at(3000));
        left.look(Role::Backup, true, at(3400));
        assert!(left.is_carried(at(3499)) && !left.is_carried(at(3500)));
        // The link goes: what was heard stays heard.
        left.look(Role::Backup, false, at(3450));
        assert!(!left.is_carried(at(3500)));
        left.look(Role::Master, false, at(4000));
        left.look(Role::Backup, true, at(5000));
        assert!(left.is_carried(at(5499)) && !left.is_carried(at(5500)), "another time");
    }
}
