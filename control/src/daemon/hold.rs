//! Tunnels kept out of tunnels while routes change: each change is tried here before tables are built of it.
//!
//! [`place`]:
//! 1. The route to each tunnel's far end is looked up. Of several ways, those that lead into a tunnel are not taken where
//!    others leave by a port.
//! 2. A tunnel whose packets would be in more tunnels than they may keeps its way out of a port: the route that it had, as it is
//!    now; or if that is gone, the way that it had; or if nobody is there any more, the next wider route out of a port. A tunnel
//!    that never had any takes a wider route if its near end is an address of a port; one that lies inside a tunnel must not
//!    leave past it, perhaps unprotected, and has no way. Those that carry others come first: what lies in one that keeps its
//!    way stays there.
//! 3. When its route is right again it keeps the way for [`RETURN`] more, so that a route that comes and goes does not move the
//!    tunnel each time.
//!
//! [`Holds`] is what is remembered from one time to the next.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_engine::fib::Prefix;
use culvert_engine::tables::{Gateway, TablesSpec};

use crate::config::{Config, Prefix as ConfigPrefix};
use crate::nesting::{Detour, Detours, Nesting};
use crate::plan;
use crate::routes::prefix_around;

/// How long a route has to stay right before a tunnel follows it again. Longer than a routing protocol takes to fall back into
/// the same mistake: BGP over a tunnel that its own routes cut off needs seconds to a few.
pub(super) const RETURN: Duration = Duration::from_secs(10);

/// A way to a tunnel's far end, out of ports alone, and the route that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    prefix: Prefix,
    gateway: Gateway,
}

/// What is remembered of a tunnel.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The last way that the routes gave it out of ports.
    way: Option<Way>,
    held: Option<Memo>,
}

/// A tunnel that keeps a way.
#[derive(Debug, Clone)]
struct Memo {
    kept: Held,
    /// Its route is right again: from then on it follows it.
    until: Option<Instant>,
}

/// A tunnel that keeps a way which the routes do not give, or give in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The way.
    pub(super) way: Gateway,
    /// What the routes say instead, or have said until lately.
    pub(super) detour: Detour,
    /// The routes are right again, and have to stay so for a while.
    pub(super) returning: bool,
}

/// Tunnels that keep ways, from one change to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    tunnels: Vec<Memory>,
}

impl Holds {
    /// When a tunnel is to follow its route again, unless something changes before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tunnels.iter().filter_map(|memory| memory.held.as_ref()?.until).min()
    }

    /// Remembers what was placed at `now`, once the tables are in use.
    pub(super) fn remember(&mut self, placed: &Placed, now: Instant) {
        self.tunnels.resize(placed.tunnels, Memory::default());
        for (number, memory) in self.tunnels.iter_mut().enumerate() {
            let held = placed.held.get(&number);
            // Not while another way is kept: it would move if its route went wrong once more.
            if held.is_none() || memory.way.is_none() {
                memory.way = placed.ways.get(&number).cloned().or(memory.way.take());
            }
            let before = memory.held.as_ref().and_then(|memo| memo.until);
            memory.held = held.map(|held| Memo {
                kept: held.clone(),
                until: held.returning.then(|| before.unwrap_or(now + RETURN)),
            });
        }
    }

    /// What is due at `now` could not be done.
    pub(super) fn postpone(&mut self, now: Instant) {
        for memo in self.tunnels.iter_mut().filter_map(|memory| memory.held.as_mut()) {
            memo.until = memo.until.map(|until| if until <= now { now + RETURN } else { until });
        }
    }

    /// The same, but for what is remembered of these tunnels, which are others now.
    pub(super) fn without(&self, tunnels: impl Iterator<Item = usize>) -> Holds {
        let mut holds = self.clone();
        for tunnel in tunnels {
            if let Some(memory) = holds.tunnels.get_mut(tunnel) {
                *memory = Memory::default();
            }
        }
        holds
    }

    fn of(&self, tunnel: usize) -> Memory {
        self.tunnels.get(tunnel).cloned().unwrap_or_default()
    }
}

/// Where the tunnels' packets go.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// How many there are.
    tunnels: usize,
    /// Ways out of ports that the routes give tunnels, or gave those that keep them.
    ways: BTreeMap<usize, Way>,
    /// Tunnels that keep another way.
    pub(super) held: BTreeMap<usize, Held>,
    /// Tunnels that would be deeper in tunnels than they may, and have no way to keep.
    pub(super) nested: BTreeMap<usize, Detour>,
}

/// The route to a tunnel's far end.
enum Found {
    /// Out of ports.
    Out(Way),
    /// Into that tunnel.
    Into(usize, Prefix),
    /// Into that tunnel, and out of ports as well.
    Both(usize, Way),
    /// Nowhere, or to the host.
    Nothing,
}

/// Places all tunnels. `spec` and its `routes` are as the configuration and the host have them.
pub(super) fn place(
    config: &Config,
    spec: &TablesSpec,
    routes: &BTreeMap<Prefix, Gateway>,
    holds: &Holds,
    now: Instant,
) -> Placed {
    let mut placing = Placing::new(config, spec, routes, holds, now);
    placing.leave_by_ports();
    // A tunnel that keeps its way out carries others as it did: they are looked at after it, and need not leave it.
    for circle in placing.nesting.carried() {
        placing.carry(circle);
    }
    placing.finish()
}

/// Tunnels while they are placed.
struct Placing<'a> {
    config: &'a Config,
    spec: &'a TablesSpec,
    routes: &'a BTreeMap<Prefix, Gateway>,
    holds: &'a Holds,
    now: Instant,
    found: Vec<Found>,
    /// Tunnels to one far end share its route, and go together: those that are carried.
    far_ends: HashMap<IpAddr, Vec<usize>>,
    /// Where several ways share packets, some by a tunnel, those go astray as if all did: this is what is told.
    told: Nesting,
    /// As it is while some keep their ways.
    nesting: Nesting,
    placed: Placed,
    /// Without a way to keep.
    stranded: Vec<(usize, Prefix)>,
    // Made once there is something to tell, or to keep.
    detours: OnceCell<Detours<'a>>,
    inner_addresses: OnceCell<HashSet<IpAddr>>,
}

impl<'a> Placing<'a> {
    fn new(
        config: &'a Config,
        spec: &'a TablesSpec,
        routes: &'a BTreeMap<Prefix, Gateway>,
        holds: &'a Holds,
        now: Instant,
    ) -> Placing<'a> {
        let tunnels = config.tunnels.iter();
        let found: Vec<Found> = tunnels
            .map(|tunnel| if tunnel.enabled { find(tunnel.remote, routes) } else { Found::Nothing })
            .collect();
        let mut far_ends: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (number, (tunnel, found)) in config.tunnels.iter().zip(&found).enumerate() {
            if matches!(found, Found::Into(..)) {
                far_ends.entry(tunnel.remote).or_default().push(number);
            }
        }
        let carriers = |both: bool| {
            let carrier = |found: &Found| match found {
                Found::Into(carrier, _) => Some(*carrier),
                Found::Both(carrier, _) if both => Some(*carrier),
                _ => None,
            };
            Nesting::new(found.iter().map(carrier).collect(), plan::limits(config))
        };
        Placing {
            config,
            spec,
            routes,
            holds,
            now,
            far_ends,
            told: carriers(true),
            nesting: carriers(false),
            placed: Placed { tunnels: found.len(), ..Placed::default() },
            found,
            stranded: Vec::new(),
            detours: OnceCell::new(),
            inner_addresses: OnceCell::new(),
        }
    }

    /// Those whose routes leave by ports, with some of their packets at least.
    fn leave_by_ports(&mut self) {
        let found = std::mem::take(&mut self.found);
        for (number, found) in found.iter().enumerate() {
            match found {
                Found::Out(way) => {
                    self.placed.ways.insert(number, way.clone());
                    self.linger(&[number]);
                }
                Found::Both(_, way) => {
                    self.hold(number, way, way.prefix);
                }
                Found::Into(..) | Found::Nothing => {}
            }
        }
        self.found = found;
    }

    /// One that another carries, or several that carry each other in a circle. Of those the ones leave it that cannot lie in any,
    /// then those that have their near end at a port; what can lie in them stays.
    fn carry(&mut self, mut circle: Vec<usize>) {
        circle.sort_by_key(|number| (self.nesting.limit(*number), !self.is_at_a_port(*number), *number));
        for number in circle {
            let (Some(Found::Into(_, prefix)), true) =
                (self.found.get(number), self.nesting.carrier(number).is_some())
            else {
                continue; // It has gone with another one to the same far end.
            };
            let prefix = *prefix;
            let remote = self.config.tunnels.get(number).map(|tunnel| tunnel.remote);
            let all = remote.and_then(|remote| self.far_ends.get(&remote)).cloned().unwrap_or_default();
            let nested: Vec<usize> =
                all.iter().copied().filter(|number| self.nesting.is_nested(*number)).collect();
            let out =
                if nested.is_empty() { self.linger(&all) } else { self.keep_out(&all, &nested, prefix) };
            if out {
                all.iter().for_each(|number| self.nesting.take_out(*number));
            }
        }
    }

    /// Is its near end an address of a port, and of none inside a tunnel?
    fn is_at_a_port(&self, number: usize) -> bool {
        let Some(tunnel) = self.spec.tunnels.get(number) else { return false };
        let mut on_ports = self.spec.ports.iter().flat_map(|port| &port.addresses);
        let inside = || self.inner_addresses.get_or_init(|| inner_addresses(self.spec));
        on_ports.any(|(address, _)| *address == tunnel.local) && !inside().contains(&tunnel.local)
    }

    /// Tunnels to one far end, some of them deeper in tunnels than they may be by the route to `prefix`: do they keep a way?
    fn keep_out(&mut self, all: &[usize], nested: &[usize], prefix: Prefix) -> bool {
        let Some(way) = nested.iter().chain(all).find_map(|number| self.way_to_keep(*number, prefix)) else {
            self.stranded.extend(nested.iter().map(|number| (*number, prefix)));
            return false;
        };
        nested.iter().for_each(|number| self.hold(*number, &way, prefix));
        true
    }

    fn hold(&mut self, number: usize, way: &Way, prefix: Prefix) {
        if let Some(detour) = self.detour(&self.told, number, prefix) {
            self.placed.held.insert(number, Held { way: way.gateway.clone(), detour, returning: false });
        }
        self.placed.ways.insert(number, way.clone());
    }

    /// Tunnels to one far end whose route is right: does one of them keep its way for a while?
    fn linger(&mut self, all: &[usize]) -> bool {
        let lingers = |memo: &Memo| {
            memo.until.is_none_or(|until| self.now < until)
                && is_usable(&memo.kept.way, self.spec, self.routes)
        };
        let memos = all.iter().filter_map(|number| Some((*number, self.holds.of(*number).held?)));
        let lingering: Vec<(usize, Held)> = memos
            .filter(|(_, memo)| lingers(memo))
            .map(|(number, memo)| (number, Held { returning: true, ..memo.kept }))
            .collect();
        let any = !lingering.is_empty();
        self.placed.held.extend(lingering);
        any
    }

    /// Step 2, for a tunnel whose route is that to `prefix`.
    fn way_to_keep(&self, number: usize, prefix: Prefix) -> Option<Way> {
        let Placing { spec, routes, .. } = self;
        let tunnel = spec.tunnels.get(number)?;
        let out_of = |prefix: Prefix| Some(Way { prefix, gateway: out_of_ports(routes.get(&prefix)?)? });
        let wider =
            || (0..prefix.prefix_len()).rev().find_map(|len| out_of(prefix_around(tunnel.remote, len)?));
        let Some(way) = self.holds.of(number).way else {
            return if self.is_at_a_port(number) { wider() } else { None };
        };
        let had = || Some(way.clone());
        let had_and_usable = || had().filter(|way| is_usable(&way.gateway, spec, routes));
        out_of(way.prefix).or_else(had_and_usable).or_else(wider).or_else(had)
    }

    fn detour(&self, nesting: &Nesting, number: usize, prefix: Prefix) -> Option<Detour> {
        let detours = self.detours.get_or_init(|| Detours::new(self.config));
        detours.of(nesting, number, Some(as_configured(prefix)))
    }

    fn finish(mut self) -> Placed {
        // Of a circle, one that keeps its way may have made the path of another short enough.
        let nested = self.stranded.iter().filter(|(number, _)| self.nesting.is_nested(*number));
        let nested = nested
            .filter_map(|(number, prefix)| Some((*number, self.detour(&self.nesting, *number, *prefix)?)))
            .collect();
        self.placed.nested = nested;
        self.placed
    }
}

/// Step 1.
fn find(remote: IpAddr, routes: &BTreeMap<Prefix, Gateway>) -> Found {
    let Some((prefix, gateway)) = route_of(remote, routes) else { return Found::Nothing };
    let way = out_of_ports(gateway).map(|gateway| Way { prefix, gateway });
    match (first_tunnel(gateway), way) {
        (None, Some(way)) => Found::Out(way),
        (Some(tunnel), Some(way)) => Found::Both(tunnel, way),
        (Some(tunnel), None) => Found::Into(tunnel, prefix),
        (None, None) => Found::Nothing,
    }
}

/// Our addresses inside tunnels.
fn inner_addresses(spec: &TablesSpec) -> HashSet<IpAddr> {
    spec.tunnels.iter().flat_map(|tunnel| &tunnel.inner).map(|(address, _)| *address).collect()
}

/// Is there somebody to send to: a router whose address on the link is known, or that lies on a network of the port's?
fn is_usable(way: &Gateway, spec: &TablesSpec, routes: &BTreeMap<Prefix, Gateway>) -> bool {
    match way {
        Gateway::Port { port, via: Some(via) } => {
            let known =
                spec.neighbours.iter().any(|station| (station.port, station.address) == (*port, *via));
            let on_link = Gateway::Port { port: *port, via: None };
            known || route_of(*via, routes).is_some_and(|(_, gateway)| *gateway == on_link)
        }
        Gateway::Port { port, via: None } => {
            spec.ports.get(*port).is_some_and(|port| !port.addresses.is_empty())
        }
        Gateway::Group(members) => members.iter().any(|(member, _)| is_usable(member, spec, routes)),
        Gateway::Tunnel(_) | Gateway::Host | Gateway::Discard => false,
    }
}

/// The ways of a gateway that leave by ports; `None` where there are none.
fn out_of_ports(gateway: &Gateway) -> Option<Gateway> {
    match gateway {
        Gateway::Port { .. } => Some(gateway.clone()),
        Gateway::Group(members) => {
            let ports = members.iter().filter(|(member, _)| matches!(member, Gateway::Port { .. }));
            match ports.cloned().collect::<Vec<_>>().as_slice() {
                [] => None,
                [(only, _)] => Some(only.clone()),
                several => Some(Gateway::Group(several.to_vec())),
            }
        }
        Gateway::Tunnel(_) | Gateway::Host | Gateway::Discard => None,
    }
}

fn first_tunnel(gateway: &Gateway) -> Option<usize> {
    match gateway {
        Gateway::Tunnel(tunnel) => Some(*tunnel),
        Gateway::Group(members) => members.iter().find_map(|(member, _)| first_tunnel(member)),
        Gateway::Port { .. } | Gateway::Host | Gateway::Discard => None,
    }
}

/// The route that an address takes; longest prefix first.
fn route_of(address: IpAddr, routes: &BTreeMap<Prefix, Gateway>) -> Option<(Prefix, &Gateway)> {
    let longest = Prefix::from(address).prefix_len();
    (0..=longest).rev().find_map(|len| {
        let prefix = prefix_around(address, len)?;
        Some((prefix, routes.get(&prefix)?))
    })
}

fn as_configured(prefix: Prefix) -> ConfigPrefix {
    ConfigPrefix { addr: prefix.addr(), len: prefix.prefix_len() }
}
