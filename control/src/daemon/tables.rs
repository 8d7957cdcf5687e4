//! The tables of the running daemon: what they are built of, when, and what follows them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::exception::thread::{Order, Setup};
use culvert_engine::fib::Prefix;
use culvert_engine::tables::{Gateway, NeighbourSpec};
use culvert_engine::wire::ethernet::MacAddr;

use super::assemble::{self, Built, Known, Link};
use super::hold::{Holds, Placed};
use super::{Daemon, log};
use crate::config::Config;
use crate::plan::{self, Kept};
use crate::replay;
use crate::routes::HostTables;

/// How long changes are collected before tables are built of them: a link that comes up brings a dozen within this time.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The same while interfaces are made, each of which is a change: tables of thousands of tunnels take longer than a few of those.
const DEBOUNCE_BEHIND: Duration = Duration::from_millis(500);

/// What tables are built of, as far as it changes: equal, and there is nothing to build.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MadeOf {
    pub(super) host: HostTables,
    pub(super) links: Vec<Link>,
    pub(super) stations: BTreeMap<(usize, IpAddr), MacAddr>,
    pub(super) path_mtus: Vec<Option<u16>>,
    /// Of negotiated SAs, and of roles.
    pub(super) generation: u64,
}

/// What is shown of the tables.
#[derive(Default)]
pub(super) struct View {
    pub(super) routes: BTreeMap<Prefix, Gateway>,
    pub(super) neighbours: Vec<NeighbourSpec>,
    /// By port, address and MTU in bytes.
    pub(super) links: Vec<(MacAddr, u16)>,
    pub(super) placed: Placed,
}

impl Daemon {
    pub(super) fn rebuild_due(&self) -> Option<Instant> {
        let collect = if self.interfaces.are_behind() { DEBOUNCE_BEHIND } else { DEBOUNCE };
        self.changed.map(|since| since + collect)
    }

    pub(super) fn note_change(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
    }

    /// Builds and publishes new tables, where they would differ. On an error, the last good ones stay.
    pub(super) fn rebuild(&mut self) {
        self.changed = None;
        let made_of = MadeOf {
            host: self.host.tables(),
            links: self.host.links(),
            stations: self.learned.stations.clone(),
            path_mtus: self.learned.path_mtus.clone(),
            generation: self.generation,
        };
        let now = Instant::now();
        if made_of == self.made_of && self.holds.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let config = plan::as_it_is(&self.config, &self.kept);
        let known = known(&config, &self.kept, &made_of, &self.holds, now);
        let built = match assemble::build(&known) {
            Ok(built) => built,
            Err(error) => {
                let error = plan::explain(&error, &config).to_string();
                self.holds.postpone(now);
                if self.told.build.as_ref() != Some(&error) {
                    log::error(format_args!("the tables stay as they are: {error}"));
                    self.told.build = Some(error);
                }
                return;
            }
        };
        self.told.build = None;
        self.made_of = made_of;
        let Built { tables, routes, setup, neighbours, placed } = built;
        self.holds.remember(&placed, now);
        self.tables.store(Arc::new(tables));
        log::debug(format_args!("new tables: {} routes, {} neighbours", routes.len(), neighbours.len()));
        self.take_view(routes, neighbours, placed, &setup);
        self.put_to_use(setup);
    }

    pub(super) fn take_view(
        &mut self,
        routes: BTreeMap<Prefix, Gateway>,
        neighbours: Vec<NeighbourSpec>,
        placed: Placed,
        setup: &Setup,
    ) {
        self.tell_placed(&placed);
        self.view = View {
            routes,
            neighbours,
            links: setup
                .ports
                .iter()
                .zip(assemble::mtus(&self.config, &self.made_of.links))
                .map(|(port, mtu)| (port.mac, mtu))
                .collect(),
            placed,
        };
    }

    /// Makes everybody else follow tables that have just been published.
    pub(super) fn put_to_use(&mut self, setup: Setup) {
        // The thread ends with this one.
        let _ = self.orders.send(Order::Setup(setup));
        self.exceptions_bell.wake();
        let tables = self.tables.load_full();
        self.host.want(tables.wanted_neighbours());
        self.interfaces.apply(&self.config, &self.mtus());
        #[cfg(target_os = "linux")]
        self.steering.set(&plan::as_it_is(&self.config, &self.kept), &self.view.routes, &mut self.ports);
        self.tell_tunnels();
    }

    /// Makes all interfaces that there should be, however long it takes.
    pub(super) fn finish_interfaces(&mut self) {
        while self.interfaces.are_behind() {
            self.interfaces.go_on(&self.config, &self.mtus());
        }
    }

    /// The tunnels' MTUs as their hosts know them, in bytes.
    pub(super) fn mtus(&self) -> Vec<usize> {
        let tables = self.tables.load();
        let tunnels = self.config.tunnels.iter().zip(tables.tunnels());
        tunnels.map(|(config, tunnel)| replay::inner_mtu(config, tunnel)).collect()
    }
}

/// What there is to build tables of.
pub(super) fn known<'a>(
    config: &'a Config,
    kept: &'a Kept,
    made_of: &'a MadeOf,
    holds: &'a Holds,
    now: Instant,
) -> Known<'a> {
    Known {
        config,
        kept,
        links: &made_of.links,
        host: &made_of.host,
        found: &made_of.stations,
        path_mtus: &made_of.path_mtus,
        holds,
        now,
    }
}
