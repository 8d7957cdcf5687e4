//! Building a snapshot:
//! 1. routes are collected: what is never forwarded, connected subnets, our own addresses, static routes, tunnels' routes;
//! 2. neighbours become host routes, so that one look-up gives route and link address together;
//! 3. tunnels' ends become host routes with a mark, which is how nesting is seen without a look-up of its own;
//! 4. each tunnel's way out is looked up and its headers are laid out; one that would lie deeper in others than it may has none;
//! 5. the exact-match tables are built.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Ends, Gateway, GreEntry, Inbound, Link, MAX_DEPTH, NextHop, Pair, PortEntry, PortKind, RouteSource,
    Stack, Tables, TablesSpec, To, TunnelSpec,
};
use crate::drops::Reason;
use crate::esp::Spi;
use crate::fib::{Fib, FibError, Prefix};
use crate::hash::FlatMap;
use crate::tunnel::{Settings, Tunnel, Underlay};
use crate::wire::ethernet::MacAddr;

/// IKE and ESP in UDP (RFC 3948 section 2.1).
const NAT_T_PORT: u16 = 4500;

/// How many have been built.
static BUILT: AtomicU64 = AtomicU64::new(0);

/// The path MTU of a tunnel that has no way out, until it has one.
const DEFAULT_MTU: usize = 1500;

/// Destinations that are never forwarded and go to the host, which knows what to do with them: multicast and broadcast,
/// link-local, loopback, and "this network" (RFC 1812 section 5.3.7, RFC 4291 section 2).
const NEVER_FORWARDED: [(&str, u8); 10] = [
    ("0.0.0.0", 8),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("224.0.0.0", 4),
    ("255.255.255.255", 32),
    ("::", 128),
    ("::1", 128),
    ("::ffff:0:0", 96),
    ("fe80::", 10),
    ("ff00::", 8),
];

/// A specification that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two routes to the same destinations.
    #[error("two routes to {0}")]
    DuplicateRoute(Prefix),
    /// Two inbound SAs with one SPI.
    #[error("two inbound SAs with SPI {0:#010x}")]
    DuplicateSpi(Spi),
    /// Two tunnels that received packets could not be told apart by.
    #[error("two tunnels from {local} to {remote} with the same key")]
    DuplicateTunnel {
        /// Their near end.
        local: IpAddr,
        /// Their far end.
        remote: IpAddr,
    },
    /// A port or tunnel that is not in the lists.
    #[error("no {what} number {index}")]
    Unknown {
        /// "port" or "tunnel".
        what: &'static str,
        /// The number given.
        index: usize,
    },
    /// Two Ethernet tunnels on one port.
    #[error("port number {0} is bridged with two tunnels")]
    DuplicateBridge(usize),
    /// Ends of different families.
    #[error("a tunnel from {local} to {remote} mixes IPv4 and IPv6")]
    MixedFamilies {
        /// The near end.
        local: IpAddr,
        /// The far end.
        remote: IpAddr,
    },
    /// More than the tables can number.
    #[error("too many {0}")]
    TooMany(&'static str),
}

impl From<FibError> for BuildError {
    fn from(error: FibError) -> BuildError {
        match error {
            FibError::Duplicate { prefix, .. } => BuildError::DuplicateRoute(prefix),
            FibError::NextHop { .. } | FibError::TooLarge => BuildError::TooMany("routes"),
        }
    }
}

/// A next hop while the tables are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    to: To,
    /// The router that it leads by.
    via: Option<IpAddr>,
    underlay: bool,
    inside: bool,
    source: RouteSource,
}

impl From<To> for Way {
    fn from(to: To) -> Way {
        Way { to, via: None, underlay: false, inside: false, source: RouteSource::Given }
    }
}

/// Routes while they are collected.
#[derive(Default)]
struct Routes {
    hops: BTreeMap<Prefix, Way>,
    groups: Vec<Vec<(Way, u16)>>,
}

impl Routes {
    /// The subnet of an address of ours, which gives way to a route that is there already.
    fn offer(&mut self, prefix: Prefix, to: To) {
        self.hops.entry(prefix).or_insert(Way { source: RouteSource::Connected, ..to.into() });
    }

    /// A route that replaces one that is there already.
    fn set(&mut self, prefix: Prefix, to: To, source: RouteSource) {
        self.hops.insert(prefix, Way { source, ..to.into() });
    }

    fn index(&self) -> Result<Fib, BuildError> {
        Ok(Fib::build((0..).zip(self.hops.keys()).map(|(index, prefix)| (*prefix, index)))?)
    }

    /// The way to `address` and the prefix of its route; of a group, the first that leads anywhere, and into a tunnel only where
    /// none leads past them.
    fn lookup(&self, fib: &Fib, hops: &[(Prefix, Way)], address: IpAddr) -> (Option<Prefix>, Way) {
        let index = match address {
            IpAddr::V4(address) => fib.lookup_v4(address),
            IpAddr::V6(address) => fib.lookup_v6(address),
        };
        let Some((prefix, way)) = index.and_then(|index| hops.get(index as usize)).copied() else {
            return (None, To::Nowhere.into());
        };
        let To::Group(group) = way.to else { return (Some(prefix), way) };
        let members = self.groups.get(group as usize).into_iter().flatten();
        let station = |way: &&(Way, u16)| matches!(way.0.to, To::Station { .. });
        let link = |way: &&(Way, u16)| matches!(way.0.to, To::Unresolved { .. });
        let found = members.clone().find(station).or(members.clone().find(link)).or(members.clone().next());
        (Some(prefix), found.map_or(To::Nowhere.into(), |(way, _)| *way))
    }

    fn ways(&self) -> Vec<(Prefix, Way)> {
        self.hops.iter().map(|(prefix, way)| (*prefix, *way)).collect()
    }
}

/// Next hops with their groups and routers, numbered: those of routes first, in the order of prefixes, then groups' members.
struct Numbered {
    next_hops: Vec<NextHop>,
    prefixes: Box<[Prefix]>,
    sources: HashMap<u32, RouteSource>,
    groups: Vec<Box<[u32]>>,
    routers: HashMap<u32, IpAddr>,
}

/// Places in a group's list, at most: weights are scaled down to fit.
const GROUP_PLACES: usize = 256;

fn number(routes: &Routes) -> Numbered {
    let mut ways: Vec<Way> = routes.hops.values().copied().collect();
    let not_given = |way: &Way| Some(way.source).filter(|source| *source != RouteSource::Given);
    let sources = (0..).zip(&ways).filter_map(|(hop, way)| Some((hop, not_given(way)?))).collect();
    let mut groups = Vec::with_capacity(routes.groups.len());
    for group in &routes.groups {
        let first = ways.len() as u32;
        ways.extend(group.iter().map(|(way, _)| *way));
        let total: usize = group.iter().map(|(_, weight)| usize::from(*weight)).sum();
        let scale = total.div_ceil(GROUP_PLACES).max(1);
        let places = (first..).zip(group).flat_map(|(hop, (_, weight))| {
            std::iter::repeat_n(hop, usize::from(*weight).div_ceil(scale).max(1))
        });
        groups.push(places.collect());
    }
    Numbered {
        next_hops: ways
            .iter()
            .map(|way| NextHop { to: way.to, underlay: way.underlay, inside: way.inside })
            .collect(),
        prefixes: routes.hops.keys().copied().collect(),
        sources,
        groups,
        routers: (0..).zip(&ways).filter_map(|(hop, way)| Some((hop, way.via?))).collect(),
    }
}

pub(super) fn build(mut spec: TablesSpec) -> Result<Tables, BuildError> {
    validate(&spec)?;
    let stations: HashMap<(u16, IpAddr), MacAddr> =
        spec.neighbours.iter().map(|n| ((n.port as u16, n.address), n.mac)).collect();

    let mut routes = collect_routes(&spec, &stations)?;
    let (fib, ways) = (routes.index()?, routes.ways());
    for neighbour in &spec.neighbours {
        let port = neighbour.port as u16;
        // On the link itself: what is reached through a router is no station of ours, whatever its address.
        if let (Some(prefix), way) = routes.lookup(&fib, &ways, neighbour.address)
            && way.to == (To::Unresolved { port })
            && way.via.is_none()
        {
            let to = To::Station { port, mac: neighbour.mac };
            routes.set(neighbour.address.into(), to, RouteSource::Neighbour(prefix));
        }
    }
    let (fib, ways) = (routes.index()?, routes.ways());
    for (address, inside) in ends(&spec) {
        let (prefix, way) = routes.lookup(&fib, &ways, address);
        let source = match way.source {
            source @ (RouteSource::Own | RouteSource::Reserved) => source,
            RouteSource::Neighbour(prefix) => RouteSource::TunnelEnd(Some(prefix)),
            _ => RouteSource::TunnelEnd(prefix),
        };
        routes.hops.insert(address.into(), Way { underlay: true, inside, source, ..way });
    }
    let (fib, ways) = (routes.index()?, routes.ways());
    let Numbered { next_hops, prefixes, sources, groups, routers } = number(&routes);

    let mut ports: Vec<PortEntry> = spec
        .ports
        .iter()
        .map(|port| PortEntry {
            mac: port.mac,
            any_mac: port.any_mac,
            mtu: usize::from(port.mtu),
            kind: port.host_of.map_or(PortKind::Station, |port| PortKind::HostOf(port as u32)),
            stack: port.stack,
            shared: port.shared.clone(),
            front: PortEntry::NO_FRONT,
            shared_front: PortEntry::NO_FRONT,
        })
        .collect();
    for (index, tunnel) in (0..).zip(&spec.tunnels) {
        if let Some(port) = tunnel.bridge {
            let entry = ports.get_mut(port).ok_or(BuildError::Unknown { what: "port", index: port })?;
            if entry.kind != PortKind::Station {
                return Err(BuildError::DuplicateBridge(port));
            }
            entry.kind = PortKind::Bridged(index);
        }
    }
    ports.iter_mut().for_each(PortEntry::set_front);
    let to: Vec<To> =
        spec.tunnels.iter().map(|tunnel| routes.lookup(&fib, &ways, tunnel.remote).1.to).collect();
    let (tunnels, depth) = lay_out_all(&spec.tunnels, &to, &ports)?;

    let mut tables = Tables {
        number: BUILT.fetch_add(1, Ordering::Relaxed) + 1,
        links: next_hops.iter().map(|hop| Link::new(hop, &ports)).collect(),
        ports,
        fib,
        next_hops,
        prefixes,
        sources,
        groups,
        routers,
        stations,
        tunnels,
        counters: spec.tunnels.iter().map(|tunnel| tunnel.counters.clone()).collect(),
        inbound: FlatMap::default(),
        gre_v4: FlatMap::default(),
        gre_v6: FlatMap::default(),
        carried_v4: FlatMap::default(),
        carried_v6: FlatMap::default(),
        pairs_v4: FlatMap::default(),
        pairs_v6: FlatMap::default(),
        udp_ports: vec![NAT_T_PORT],
        gre_in_udp: spec.tunnels.iter().any(in_udp),
        depth,
    };
    index_tunnels(&mut tables, &spec)?;
    index_sas(&mut tables, &mut spec)?;
    crate::ring::in_huge_pages(&tables.next_hops);
    crate::ring::in_huge_pages(&tables.tunnels);
    crate::ring::in_huge_pages(tables.inbound.slots());
    Ok(tables)
}

/// Everything that names another thing by number names one that is there, and numbers fit their types.
fn validate(spec: &TablesSpec) -> Result<(), BuildError> {
    let port = |index: usize| match index < spec.ports.len() {
        true => Ok(()),
        false => Err(BuildError::Unknown { what: "port", index }),
    };
    if spec.ports.len() > usize::from(u16::MAX) {
        return Err(BuildError::TooMany("ports"));
    }
    if u32::try_from(spec.tunnels.len()).is_err() {
        return Err(BuildError::TooMany("tunnels"));
    }
    for tunnel in &spec.tunnels {
        let (local, remote) = (tunnel.local, tunnel.remote);
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(BuildError::MixedFamilies { local, remote });
        }
        tunnel.bridge.map_or(Ok(()), port)?;
    }
    for neighbour in &spec.neighbours {
        port(neighbour.port)?;
    }
    for entry in &spec.ports {
        entry.host_of.map_or(Ok(()), port)?;
        if let Stack::Port(index) = entry.stack {
            port(index)?;
        }
    }
    for route in &spec.routes {
        exists(&route.gateway, spec)?;
    }
    Ok(())
}

fn exists(gateway: &Gateway, spec: &TablesSpec) -> Result<(), BuildError> {
    match gateway {
        Gateway::Port { port, .. } if *port >= spec.ports.len() => {
            Err(BuildError::Unknown { what: "port", index: *port })
        }
        Gateway::Tunnel(tunnel) if *tunnel >= spec.tunnels.len() => {
            Err(BuildError::Unknown { what: "tunnel", index: *tunnel })
        }
        Gateway::Group(members) => members.iter().try_for_each(|(member, _)| exists(member, spec)),
        Gateway::Port { .. } | Gateway::Tunnel(_) | Gateway::Host | Gateway::Discard => Ok(()),
    }
}

fn collect_routes(
    spec: &TablesSpec,
    stations: &HashMap<(u16, IpAddr), MacAddr>,
) -> Result<Routes, BuildError> {
    let mut routes = Routes::default();
    // Static and tunnel routes first: those that would hide each other are a mistake.
    for route in &spec.routes {
        let way = way(&route.gateway, &mut routes, stations);
        add_once(&mut routes, route.prefix, way)?;
    }
    for (index, tunnel) in (0..).zip(&spec.tunnels) {
        for prefix in &tunnel.routes {
            add_once(&mut routes, *prefix, To::Tunnel(index).into())?;
        }
        for (address, len) in &tunnel.inner {
            if let Some(subnet) = subnet(*address, *len) {
                routes.offer(subnet, To::Tunnel(index));
            }
        }
    }
    for (index, port) in (0..).zip(&spec.ports) {
        for (address, len) in &port.addresses {
            if let Some(subnet) = subnet(*address, *len) {
                routes.offer(subnet, To::Unresolved { port: index });
            }
            if let Some(broadcast) = broadcast(*address, *len) {
                routes.set(broadcast.into(), To::Host, RouteSource::Connected);
            }
        }
    }
    // Our own addresses last, and whatever else claims them: the router must stay reachable.
    let ports = spec.ports.iter().flat_map(|port| &port.addresses);
    let inner = spec.tunnels.iter().flat_map(|tunnel| &tunnel.inner);
    for (address, _) in ports.chain(inner) {
        routes.set((*address).into(), To::Host, RouteSource::Own);
    }
    for tunnel in spec.tunnels.iter().filter(|tunnel| !tunnel.backup) {
        routes.set(tunnel.local.into(), To::Host, RouteSource::Own);
    }
    for (address, len) in NEVER_FORWARDED {
        if let Ok(prefix) = format!("{address}/{len}").parse() {
            routes.set(prefix, To::Host, RouteSource::Reserved);
        }
    }
    Ok(routes)
}

/// Where a gateway leads. A group is put into the list of groups; a group in a group leads nowhere.
fn way(gateway: &Gateway, routes: &mut Routes, stations: &HashMap<(u16, IpAddr), MacAddr>) -> Way {
    match gateway {
        Gateway::Group(members) => {
            let members = members
                .iter()
                .map(|(member, weight)| match member {
                    Gateway::Group(_) => (To::Nowhere.into(), *weight),
                    member => (way(member, routes, stations), *weight),
                })
                .collect();
            routes.groups.push(members);
            To::Group(routes.groups.len() as u32 - 1).into()
        }
        Gateway::Tunnel(index) => To::Tunnel(*index as u32).into(),
        Gateway::Host => To::HostForwards.into(),
        Gateway::Discard => To::Nowhere.into(),
        Gateway::Port { port, via } => {
            let port = *port as u16;
            let to = match via.and_then(|via| stations.get(&(port, via))) {
                Some(mac) => To::Station { port, mac: *mac },
                None => To::Unresolved { port },
            };
            Way { via: *via, ..to.into() }
        }
    }
}

fn add_once(routes: &mut Routes, prefix: Prefix, way: Way) -> Result<(), BuildError> {
    match routes.hops.insert(prefix, way) {
        Some(before) if before != way => Err(BuildError::DuplicateRoute(prefix)),
        _ => Ok(()),
    }
}

/// The subnet of an address, unless it is the address alone.
fn subnet(address: IpAddr, len: u8) -> Option<Prefix> {
    let network = match address {
        IpAddr::V4(address) if len < 32 => {
            IpAddr::from(Ipv4Addr::from_bits(address.to_bits() & !(u32::MAX >> len)))
        }
        IpAddr::V6(address) if len < 128 => {
            IpAddr::from(std::net::Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> len)))
        }
        _ => return None,
    };
    Prefix::new(network, len).ok()
}

/// The broadcast address of an IPv4 subnet; a /31 has none (RFC 3021).
fn broadcast(address: IpAddr, len: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) if len < 31 => {
            Some(Ipv4Addr::from_bits(address.to_bits() | u32::MAX >> len).into())
        }
        _ => None,
    }
}

/// The ends of tunnels, and whether all tunnels that an address is an end of may lie in others: they say so, or their near
/// end is an address in a tunnel.
fn ends(spec: &TablesSpec) -> BTreeMap<IpAddr, bool> {
    let inner: HashSet<IpAddr> =
        spec.tunnels.iter().flat_map(|tunnel| &tunnel.inner).map(|(address, _)| *address).collect();
    let mut ends = BTreeMap::new();
    for tunnel in &spec.tunnels {
        let inside = tunnel.depth > 1 || inner.contains(&tunnel.local);
        for end in [tunnel.local, tunnel.remote] {
            *ends.entry(end).or_insert(true) &= inside;
        }
    }
    ends
}

/// How many tunnels a packet of that one would be in when it leaves, itself counted; `None` for more than [`MAX_DEPTH`], and
/// where it would never leave.
fn levels(tunnel: usize, to: &[To]) -> Option<usize> {
    let mut at = tunnel;
    for level in 1..=MAX_DEPTH {
        match to.get(at)? {
            To::Tunnel(carrier) => at = *carrier as usize,
            _ => return Some(level),
        }
    }
    None
}

/// Step 4. `to`: where the far end of each tunnel is. Those that are carried come after their carriers, whose MTU and way out
/// are theirs. Returns as well how many tunnels a packet is in at most.
fn lay_out_all(
    specs: &[TunnelSpec],
    to: &[To],
    ports: &[PortEntry],
) -> Result<(Vec<Tunnel>, usize), BuildError> {
    let levels: Vec<Option<usize>> = (0..specs.len()).map(|tunnel| levels(tunnel, to)).collect();
    let mut tunnels: Vec<Option<Tunnel>> = specs.iter().map(|_| None).collect();
    let mut deepest = 1;
    let orders = (1..=MAX_DEPTH).map(Some).chain([None]);
    let mut rest: Vec<usize> = (0..specs.len()).collect();
    for order in orders {
        let (now, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|tunnel| levels.get(*tunnel) == Some(&order));
        rest = later;
        for number in now {
            let (Some(spec), Some(to)) = (specs.get(number), to.get(number)) else { continue };
            let carrier = match (to, order) {
                (To::Tunnel(carrier), Some(level)) if level <= spec.depth => {
                    let laid_out = tunnels.get(*carrier as usize).and_then(Option::as_ref);
                    laid_out.map(|laid_out| (*carrier, laid_out))
                }
                _ => None,
            };
            let tunnel = lay_out(spec, *to, carrier, ports)?;
            if tunnel.carrier.is_some() {
                deepest = deepest.max(order.unwrap_or(1));
            }
            if let Some(place) = tunnels.get_mut(number) {
                *place = Some(tunnel);
            }
        }
    }
    Ok((tunnels.into_iter().flatten().collect(), deepest))
}

/// `carrier`: the tunnel that this one may lie in, and its number.
fn lay_out(
    tunnel: &TunnelSpec,
    to: To,
    carrier: Option<(u32, &Tunnel)>,
    ports: &[PortEntry],
) -> Result<Tunnel, BuildError> {
    let none = MacAddr::default();
    let (port, destination) = match to {
        _ if tunnel.backup => (Err(Reason::Backup), none),
        To::Station { port, mac } => (Ok(port), mac),
        To::Unresolved { .. } => (Err(Reason::NoNeighbour), none),
        To::Tunnel(_) => (carrier.map_or(Err(Reason::Nested), |(_, carrier)| carrier.way_out), none),
        To::Host | To::HostForwards | To::Nowhere | To::Group(_) => (Err(Reason::NoRoute), none),
    };
    let link = match to {
        To::Station { port, .. } | To::Unresolved { port } => ports.get(usize::from(port)),
        _ => None,
    };
    let carried = carrier.map(|(_, carrier)| carrier.mtu);
    let learned = tunnel.path_mtu.map(usize::from).into_iter().chain(carried).min();
    let underlay = Underlay {
        source: link.map_or(none, |port| port.mac),
        destination,
        port,
        carrier: carrier.map(|(number, _)| number),
        path_mtu: learned.unwrap_or(usize::MAX).min(link.map_or(DEFAULT_MTU, |port| port.mtu)),
        learned,
    };
    let settings = Settings {
        local: tunnel.local,
        remote: tunnel.remote,
        gre: tunnel.gre,
        ttl: tunnel.ttl,
        mtu: tunnel.mtu.map(usize::from),
        protection: tunnel.protection.as_ref(),
        gre_in_udp: tunnel.gre_in_udp,
        bridge: tunnel.bridge.map(|port| port as u16),
        clamp_mss: tunnel.clamp_mss,
        sequences: Arc::clone(&tunnel.sequences),
    };
    let mixed = BuildError::MixedFamilies { local: tunnel.local, remote: tunnel.remote };
    Tunnel::new(settings, underlay).ok_or(mixed)
}

/// Does the tunnel's GRE go in UDP?
fn in_udp(tunnel: &TunnelSpec) -> bool {
    tunnel.gre_in_udp && tunnel.protection.is_none()
}

/// Workers that share the tables, at least one.
fn workers(spec: &TablesSpec) -> u32 {
    u16::try_from(spec.workers).unwrap_or(u16::MAX).max(1).into()
}

fn index_tunnels(tables: &mut Tables, spec: &TablesSpec) -> Result<(), BuildError> {
    let workers = workers(spec);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let (mut carried_v4, mut carried_v6) = (Vec::new(), Vec::new());
    for ((index, tunnel), laid_out) in (0_u32..).zip(&spec.tunnels).zip(&tables.tunnels) {
        if tunnel.backup {
            continue;
        }
        // What is to come out of a tunnel, and perhaps protected by it alone, is not taken from a port.
        let carried = laid_out.carrier.is_some() || laid_out.way_out == Err(Reason::Nested);
        let (v4, v6) = if carried { (&mut carried_v4, &mut carried_v6) } else { (&mut v4, &mut v6) };
        let udp = in_udp(tunnel);
        let plain = tunnel.protection.is_none() && !udp && tunnel.gre.is_plain();
        let entry = GreEntry { tunnel: index, plain, udp, owner: index % workers };
        match (tunnel.local, tunnel.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                v4.push(((local.to_bits(), remote.to_bits(), tunnel.gre.key), entry));
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                v6.push(((local.to_bits(), remote.to_bits(), tunnel.gre.key), entry));
            }
            _ => {}
        }
    }
    let (mut pairs_v4, mut pairs_v6) = (BTreeMap::<_, Pair>::new(), BTreeMap::<_, Pair>::new());
    for tunnel in &spec.tunnels {
        let pair = match (tunnel.local, tunnel.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                pairs_v4.entry((local.to_bits(), remote.to_bits(), None)).or_default()
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                pairs_v6.entry((local.to_bits(), remote.to_bits(), None)).or_default()
            }
            _ => continue,
        };
        pair.add(tunnel);
    }
    let v4_twice = |local: u32, remote: u32| BuildError::DuplicateTunnel {
        local: Ipv4Addr::from_bits(local).into(),
        remote: Ipv4Addr::from_bits(remote).into(),
    };
    let v6_twice = |local: u128, remote: u128| BuildError::DuplicateTunnel {
        local: std::net::Ipv6Addr::from_bits(local).into(),
        remote: std::net::Ipv6Addr::from_bits(remote).into(),
    };
    tables.gre_v4 = FlatMap::build(v4).map_err(|twice| v4_twice(twice.0.0, twice.0.1))?;
    tables.gre_v6 = FlatMap::build(v6).map_err(|twice| v6_twice(twice.0.0, twice.0.1))?;
    tables.carried_v4 = FlatMap::build(carried_v4).map_err(|twice| v4_twice(twice.0.0, twice.0.1))?;
    tables.carried_v6 = FlatMap::build(carried_v6).map_err(|twice| v6_twice(twice.0.0, twice.0.1))?;
    tables.pairs_v4 = FlatMap::build(pairs_v4).map_err(|twice| v4_twice(twice.0.0, twice.0.1))?;
    tables.pairs_v6 = FlatMap::build(pairs_v6).map_err(|twice| v6_twice(twice.0.0, twice.0.1))?;
    Ok(())
}

fn index_sas(tables: &mut Tables, spec: &mut TablesSpec) -> Result<(), BuildError> {
    let workers = workers(spec);
    let mut inbound = Vec::new();
    for (index, tunnel) in (0..).zip(&mut spec.tunnels).filter(|(_, tunnel)| !tunnel.backup) {
        let Some(protection) = &mut tunnel.protection else { continue };
        let transport = protection.mode == crate::esp::Mode::Transport;
        // Our source port is where the far end sends to.
        let mut udp_ports: Vec<u16> = protection.udp.map(|udp| udp.source).into_iter().collect();
        for sa in protection.inbound.drain(..) {
            udp_ports.extend(sa.udp_port());
            let fixed = transport && protection.udp.is_none() && sa.udp_port().is_none();
            let ends = if fixed { Ends::new(tunnel.remote, tunnel.local) } else { Ends::Any };
            let plain = transport && tunnel.gre.is_plain();
            let (spi, key) = (sa.spi(), tunnel.gre.key);
            let owner = (spi % workers) as u16;
            inbound.push((spi, Inbound { sa, tunnel: index, ends, key, plain, owner }));
        }
        tables.udp_ports.extend(udp_ports);
    }
    tables.udp_ports.sort_unstable();
    tables.udp_ports.dedup();
    tables.inbound = FlatMap::build(inbound).map_err(|twice| BuildError::DuplicateSpi(twice.0))?;
    Ok(())
}
