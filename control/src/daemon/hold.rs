//! Tunnels kept out of tunnels while routes change: each change is tried here before tables are built of it.
//!
//! [`place`]:
//! 1. The route to each tunnel's far end is looked up. Of several ways, those that lead into a tunnel are not taken where
//!    others leave by a port.
//! 2. A tunnel whose packets would be in more tunnels than they may keeps its way out of a port: the route that it had, as it is
//!    now; or if that is gone, the way that it had; or if nobody is there any more, the next wider route out of a port. A tunnel
//!    that never had any takes a wider route if its near end is an address of a port; one that lies inside a tunnel must not
//!    leave past it, perhaps unprotected, and has no way.
//! 3. When its route is right again it keeps the way for [`RETURN`] more, so that a route that comes and goes does not move the
//!    tunnel each time.
//!
//! [`Holds`] is what is remembered from one time to the next.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
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
    let found: Vec<Found> = config
        .tunnels
        .iter()
        .map(|tunnel| if tunnel.enabled { find(tunnel.remote, routes) } else { Found::Nothing })
        .collect();
    let carriers = |both: bool| {
        let carrier = |found: &Found| match found {
            Found::Into(carrier, _) => Some(*carrier),
            Found::Both(carrier, _) if both => Some(*carrier),
            _ => None,
        };
        Nesting::new(found.iter().map(carrier).collect(), plan::limits(config))
    };
    // Where several ways share packets, some by a tunnel, those go astray as if all did.
    let told = carriers(true);
    let refused: BTreeSet<usize> = carriers(false).nested().collect();
    // Made once there is something to tell.
    let detours = LazyCell::new(|| Detours::new(config));
    let inside = LazyCell::new(|| inner_addresses(spec));
    let mut stranded = Vec::new();
    let mut placed = Placed { tunnels: found.len(), ..Placed::default() };
    for (number, found) in found.iter().enumerate() {
        let memory = holds.of(number);
        if let Found::Out(way) | Found::Both(_, way) = found {
            placed.ways.insert(number, way.clone());
        }
        let detour = |prefix: Prefix| detours.of(&told, number, Some(as_configured(prefix)));
        match found {
            Found::Into(_, prefix) if refused.contains(&number) => {
                let Some(detour) = detour(*prefix) else { continue };
                match keep(number, spec, routes, &memory, *prefix, || &*inside) {
                    Some(way) => {
                        let held = Held { way: way.gateway.clone(), detour, returning: false };
                        placed.held.insert(number, held);
                        placed.ways.insert(number, way);
                    }
                    None => stranded.push((number, *prefix)),
                }
            }
            Found::Both(_, way) => {
                if let Some(detour) = detour(way.prefix) {
                    let way = way.gateway.clone();
                    placed.held.insert(number, Held { way, detour, returning: false });
                }
            }
            Found::Out(_) | Found::Into(..) => {
                let lingers = |memo: &Memo| memo.until.is_none_or(|until| now < until);
                if let Some(memo) = memory.held.filter(lingers)
                    && is_usable(&memo.kept.way, spec, routes)
                {
                    placed.held.insert(number, Held { returning: true, ..memo.kept });
                }
            }
            Found::Nothing => {}
        }
    }
    // Told as it is while others keep their ways; those may have made the path of one short enough.
    let carrier = |(number, found): (usize, &Found)| match found {
        Found::Into(carrier, _) if !placed.held.contains_key(&number) => Some(*carrier),
        _ => None,
    };
    let nesting = Nesting::new(found.iter().enumerate().map(carrier).collect(), plan::limits(config));
    let refused: BTreeSet<usize> = nesting.nested().collect();
    let nested = stranded.into_iter().filter(|(number, _)| refused.contains(number));
    let nested = nested.filter_map(|(number, prefix)| {
        Some((number, detours.of(&nesting, number, Some(as_configured(prefix)))?))
    });
    placed.nested = nested.collect();
    placed
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

/// Step 2, for a tunnel whose route is that to `prefix`.
fn keep<'i>(
    number: usize,
    spec: &TablesSpec,
    routes: &BTreeMap<Prefix, Gateway>,
    memory: &Memory,
    prefix: Prefix,
    inner_addresses: impl Fn() -> &'i HashSet<IpAddr>,
) -> Option<Way> {
    let tunnel = spec.tunnels.get(number)?;
    let out_of = |prefix: Prefix| Some(Way { prefix, gateway: out_of_ports(routes.get(&prefix)?)? });
    let wider = || (0..prefix.prefix_len()).rev().find_map(|len| out_of(prefix_around(tunnel.remote, len)?));
    let Some(way) = &memory.way else {
        let mut on_ports = spec.ports.iter().flat_map(|port| &port.addresses);
        let at_a_port = on_ports.any(|(address, _)| *address == tunnel.local);
        return if at_a_port && !inner_addresses().contains(&tunnel.local) { wider() } else { None };
    };
    let had = || Some(way.clone());
    let had_and_usable = || had().filter(|way| is_usable(&way.gateway, spec, routes));
    out_of(way.prefix).or_else(had_and_usable).or_else(wider).or_else(had)
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
