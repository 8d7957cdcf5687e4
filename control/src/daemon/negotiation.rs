//! Tunnels whose keys strongSwan negotiates: their SAs are put to work as they come and go, and charon hears that they are.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Daemon, log};
use crate::config::Group;
use crate::keys::mapping::Mapping;
use crate::keys::{News, Places};
use crate::plan;

/// Where charon's plugin finds a daemon whose socket is at `socket`.
pub(super) fn places(socket: &Path, vici: &Path) -> Places {
    let mut plugin = socket.as_os_str().to_owned();
    plugin.push(".keys");
    Places { vici: vici.to_owned(), plugin: PathBuf::from(plugin) }
}

/// For how long nothing is begun where both routers are master, unless that is said again.
const HOLD: Duration = Duration::from_secs(3);

impl Daemon {
    /// Groups whose SAs stay as they are, and nothing is begun: those in doubt, and those of which both routers are master and this one is
    /// silent. The address is here: what its strongSwan let go of, the far end would hear of, and the other router sends with it.
    fn left(&self) -> Vec<&Group> {
        self.carp.doubted().chain(self.pair.splits().filter(|group| self.is_quiet(group))).collect()
    }

    /// Nothing is begun for some time, where that is so.
    pub(super) fn hold_keys(&mut self, now: Instant) {
        let silent = self.pair.splits().any(|group| self.is_quiet(group));
        self.keys.hold(self.carp.deadline().max(silent.then(|| now + HOLD)));
    }

    /// The tunnels are those of the configuration from now on.
    pub(super) fn steer_keys(&mut self) {
        self.hold_keys(Instant::now());
        let tunnels = super::carp::negotiated(&self.config.tunnels, &self.kept.tunnels, &self.left());
        let counters = self.kept.tunnels.iter().map(|kept| &kept.counters);
        let tunnels = tunnels.iter().map(AsRef::as_ref).zip(counters);
        if let Err(why) = self.keys.steer(tunnels, plan::router(self.config.carp.router), Instant::now()) {
            log::error(format_args!("keys cannot be negotiated: {why}"));
        }
        self.stand();
        self.install_keys();
    }

    /// Takes in what charon and its SAs have come to, and has it in force before charon goes on.
    pub(super) fn follow_keys(&mut self, now: Instant) {
        if self.keys.follow(now) {
            self.install_keys();
            self.rebuild();
            self.tell_tunnels();
            self.tell_partner(now);
        }
        self.keys.settle();
        for news in self.keys.news() {
            match news {
                News::From(origin) => log::info(format_args!("tunnels have their keys from {origin}")),
                News::Untold(why) => log::warn(format_args!("keys: {why}")),
            }
        }
        for Mapping { tunnel, source, followed } in self.keys.mappings() {
            let why = if followed { "" } else { "; no NAT is known there, so nothing follows it" };
            log::tunnel(&tunnel).info(format_args!("its far end sends from {source} now{why}"));
        }
    }

    /// The tables are to have what SAs there are now.
    pub(super) fn install_keys(&mut self) {
        for (tunnel, kept) in self.config.tunnels.iter().zip(&mut self.kept.tunnels) {
            if let Some(installed) = self.keys.installed(&tunnel.name) {
                kept.outbound = installed.outbound.into_iter().chain(installed.more).collect();
                kept.inbound = installed.inbound;
                kept.udp = installed.udp;
                kept.ends = installed.ends.map(|ends| (ends.source, ends.destination));
            }
        }
        self.generation += 1;
    }
}
