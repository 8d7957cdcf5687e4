//! Is this router ready to be master? If it is not, it says so to whoever asks (`culvert carp ready`), runs hooks, and is demoted
//! where the system can.
//!
//! Ready is a router
//! 1. that has not been told to yield;
//! 2. that has been up for `ready_after`, if the configuration says so;
//! 3. whose ports all have their devices and links;
//! 4. whose tunnels know the Ethernet addresses of their next hops;
//! 5. that is linked with its partner and has been told all, or has looked for it in vain for a while;
//! 6. whose checks pass.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use culvert_engine::ring::Health;
use serde_json::{Value, json};

use super::carp::masters;
use super::devices::OpenPort;
use super::{Daemon, log};
use crate::carp::checks::Checks;
use crate::carp::demotion::{Demoted, demotion};
use crate::carp::guard::Guard;
use crate::carp::hooks::Occasion;
use crate::config::{Group, HookEvent, Tunnel};

/// How many tunnels are named of those that wait for the same.
const NAMED: usize = 3;
/// How long the partner has to tell all, when a link is back.
const GRACE: Duration = Duration::from_secs(2);
/// How long the partner is looked for before it counts as absent, beside twice its dead time.
const ABSENT: Duration = Duration::from_secs(2);

/// What was found last.
pub(super) struct Readiness {
    demoted: Demoted,
    /// Where there is a count to be added to; and the daemon's socket.
    guard: Option<(Guard, PathBuf)>,
    checks: Checks,
    /// What is missing; `None`: nobody has looked yet.
    missing: Option<Vec<String>>,
    /// What the system said against demoting.
    trouble: Option<String>,
}

impl Readiness {
    pub(super) fn new(socket: &Path, checks: Checks) -> Readiness {
        let guard = demotion().map(|_| (Guard::idle(), socket.to_owned()));
        Readiness {
            demoted: Demoted::beside(socket, demotion()),
            guard,
            checks,
            missing: None,
            trouble: None,
        }
    }

    /// `shares`: with addresses that the other router is to take when this daemon dies.
    fn guard(&mut self, shares: bool) {
        let Some((guard, socket)) = &mut self.guard else { return };
        if let Err(error) = guard.watch(shares, socket) {
            log::error(format_args!("carp: nobody will demote this router if the daemon dies: {error}"));
            self.guard = None;
        }
    }

    /// The groups of which this router is master are advertised now, and not each in its time.
    pub(super) fn advertise(&mut self) {
        self.demoted.advertise();
    }

    /// When a check is to begin.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.checks.deadline()
    }

    /// Readable when a check has ended.
    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.checks.wait_fd()
    }

    /// What was found missing last; `None`: nobody has looked yet.
    pub(super) fn missing(&self) -> Option<&[String]> {
        self.missing.as_deref()
    }

    /// Demoted, or no more.
    fn demote(&mut self, is: bool) {
        let outcome = self.demoted.set(is);
        if let Ok(true) = outcome {
            log::info(if is {
                "carp: demoted until this router is ready"
            } else {
                "carp: not demoted any more"
            });
        }
        let trouble = outcome.err();
        if trouble.is_some() && trouble != self.trouble {
            trouble
                .iter()
                .for_each(|why| log::error(format_args!("carp: cannot change the demotion: {why}")));
        }
        self.trouble = trouble;
    }

    /// The daemon ends. `shares`: with addresses that another router has as well. Without it, this one is no router any more: it stays
    /// demoted, and the next daemon takes that back when it is ready.
    pub(super) fn end(mut self, shares: bool) {
        self.demote(shares);
    }
}

impl Daemon {
    /// What keeps this router from being ready, for people. Empty: it is.
    pub(super) fn missing(&self, now: Instant) -> Vec<String> {
        let mut missing = Vec::new();
        let carp = &self.config.carp;
        if self.yielded.is_some() {
            missing.push("it has yielded (culvert carp resume takes that back)".to_owned());
        }
        let left = carp.ready_after.saturating_sub(now.saturating_duration_since(self.started));
        if !left.is_zero() {
            missing.push(format!("it has been up for less than {:?}", carp.ready_after));
        }
        for (port, config) in self.ports.iter().zip(&self.config.ports) {
            match OpenPort::health(port) {
                Health::Attached => {}
                Health::Down => missing.push(format!("port {:?} is down", config.name)),
                Health::Departed => missing.push(format!("port {:?} is gone", config.name)),
            }
        }
        let tables = self.tables.load();
        // Also of tunnels that are another router's yet, which have no way out.
        let waits = |tunnel: &&Tunnel| {
            let station = tables.station(tunnel.remote, 0);
            station.is_some_and(|(port, address)| tables.link_address(port, address).is_none())
        };
        let tunnels = self.config.tunnels.iter().filter(|tunnel| tunnel.enabled && !tunnel.is_vacant());
        let waiting: Vec<&str> = tunnels.filter(waits).map(|tunnel| tunnel.name.as_str()).collect();
        if !waiting.is_empty() {
            let named = waiting.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = waiting.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            missing.push(format!("the next hop does not answer of tunnels {named}{more}"));
        }
        let ready = self.readiness.missing.as_ref().is_some_and(Vec::is_empty);
        match (&carp.sync, self.partner.status()) {
            (Some(_), Some(link))
                if link.up && !self.pair.is_complete() && is_overdue(link.seconds, ready) =>
            {
                missing.push("the partner has not told all of its SAs yet".to_owned());
            }
            (Some(sync), Some(link))
                if !link.up && now.saturating_duration_since(self.started) < sync.dead * 2 + ABSENT =>
            {
                missing.push(format!("the partner is looked for: {}", link.why.unwrap_or_default()));
            }
            _ => {}
        }
        missing.extend(self.readiness.checks.missing());
        missing
    }

    /// Has checks run, and hears what has become of them.
    pub(super) fn follow_checks(&mut self, now: Instant) {
        if self.readiness.checks.is_empty() {
            return;
        }
        let masters: Vec<String> = masters(&self.carp).iter().map(Group::to_string).collect();
        if self.readiness.checks.follow(&masters.join(" "), now) {
            self.follow_readiness(now);
        }
    }

    /// Looks whether this router is ready, and has it known where that has changed.
    pub(super) fn follow_readiness(&mut self, now: Instant) {
        self.readiness.guard(!self.config.carp.groups.is_empty());
        if self.config.carp.at.is_none() {
            return;
        }
        let missing = self.missing(now);
        let ready = missing.is_empty();
        self.readiness.demote(!ready);
        let before = self.readiness.missing.replace(missing.clone());
        if before.as_ref().is_some_and(|before| before.is_empty() == ready) {
            return;
        }
        match ready {
            true => log::info("carp: this router is ready"),
            false => log::warn(format_args!("carp: this router is not ready: {}", missing.join("; "))),
        }
        let event = if ready { HookEvent::Ready } else { HookEvent::Unready };
        self.hooks.happen(Occasion { event, group: None });
    }

    /// Somebody asks.
    pub(super) fn carp_ready(&mut self) -> Value {
        let now = Instant::now();
        self.follow_readiness(now);
        let missing = self.missing(now);
        json!({"ready": missing.is_empty(), "missing": missing})
    }

    /// Tells what has become of hooks.
    pub(super) fn hear_hooks(&mut self) {
        for report in self.hooks.reports() {
            let of = report.occasion.group.as_ref().map_or(String::new(), |(group, _)| format!(" {group}"));
            let what = format!("carp{of}: hook for {}, {}", report.occasion.event.name(), report.command);
            for line in report.output.lines() {
                log::info(format_args!("{what}: {line}"));
            }
            match report.why {
                None => log::info(format_args!("{what}: done in {:.1} s", report.seconds)),
                Some(why) => log::error(format_args!("{what}: {why}")),
            }
        }
    }
}

/// Has a partner that is linked for so many seconds been long in telling all? A router that was `ready` before, and is master perhaps,
/// does not give that up for the moment that a link takes which is back.
fn is_overdue(seconds: f64, ready: bool) -> bool {
    !ready || seconds >= GRACE.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_back_has_a_moment() {
        assert!(is_overdue(0.0, false), "at the start all has to be there");
        assert!(!is_overdue(0.1, true) && is_overdue(2.1, true));
    }
}
