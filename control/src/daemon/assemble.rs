//! From everything that is known to the engine's tables: pure, so that each change of the host is one call.
//!
//! [`build`]:
//! 1. The configuration comes first; of the host it takes what the configuration does not say (addresses, MACs, MTUs), and
//!    routes to prefixes that the configuration does not route; then stations that the exception thread has found.
//! 2. Tunnels that the routes would lead deeper into tunnels than they may are kept out of them ([`hold`](super::hold)).
//! 3. The engine builds its tables. A tunnel that has no way to keep stays down: the engine puts no packet into more tunnels
//!    than it may be in, whatever the routes say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use culvert_engine::exception::keepalive;
use culvert_engine::exception::thread::{PortSetup, Setup, TunnelSetup};
use culvert_engine::fib::Prefix;
use culvert_engine::tables::{
    BuildError, Gateway, NeighbourSpec, PortSpec, RouteSpec, Stack, Tables, TablesSpec,
};
use culvert_engine::wire::ethernet::MacAddr;

use super::carp;
use super::devices::{has_host_rings, is_of_host, link_name};
use super::hold::{self, Holds, Placed};
use crate::config::{Config, Port, Prefix as ConfigPrefix};
use crate::plan::{self, Kept};
use crate::routes::{Hop, HostTables, Way, prefix_around};

/// What is known of a port's device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// The port's address on its link, where the configuration gives none.
    pub(super) mac: Option<MacAddr>,
    /// The device's MTU in bytes.
    pub(super) mtu: Option<u32>,
}

/// Everything that tables are made of.
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) kept: &'a Kept,
    /// For each port.
    pub(super) links: &'a [Link],
    pub(super) host: &'a HostTables,
    /// Stations that the exception thread has found, by port and address.
    pub(super) found: &'a BTreeMap<(usize, IpAddr), MacAddr>,
    /// For each tunnel what was learned of its path's MTU, in bytes.
    pub(super) path_mtus: &'a [Option<u16>],
    /// Ways that tunnels have had and keep.
    pub(super) holds: &'a Holds,
    /// The time, for those.
    pub(super) now: Instant,
}

/// Tables, and what they were made of.
pub(super) struct Built {
    pub(super) tables: Tables,
    /// All routes as the engine has them.
    pub(super) routes: BTreeMap<Prefix, Gateway>,
    pub(super) setup: Setup,
    /// All stations that the tables have.
    pub(super) neighbours: Vec<NeighbourSpec>,
    /// Where the tunnels' packets go.
    pub(super) placed: Placed,
}

/// Builds the tables. See the module page.
///
/// # Errors
/// What the engine finds contradictory.
pub(super) fn build(known: &Known<'_>) -> Result<Built, BuildError> {
    let mut spec = specification(known);
    let mut routes = effective(&spec);
    let placed = hold::place(known.config, &spec, &routes, known.holds, known.now);
    let ways = placed.held.iter().filter_map(|(tunnel, held)| {
        Some((Prefix::from(spec.tunnels.get(*tunnel)?.remote), held.way.clone()))
    });
    let ways: BTreeMap<Prefix, Gateway> = ways.collect();
    spec.routes.retain(|route| !ways.contains_key(&route.prefix));
    spec.routes.extend(ways.into_iter().map(|(prefix, gateway)| RouteSpec { prefix, gateway }));
    if !placed.held.is_empty() {
        routes = effective(&spec);
    }
    let (setup, neighbours) = (setup(known, &spec), spec.neighbours.clone());
    let tables = Tables::build(spec)?;
    Ok(Built { tables, routes, setup, neighbours, placed })
}

/// Step 1.
pub(super) fn specification(known: &Known<'_>) -> TablesSpec {
    let Known { config, kept, host, .. } = known;
    let mut spec = plan::specification(config, kept);
    for (number, (port, spec)) in config.ports.iter().zip(&mut spec.ports).enumerate() {
        let link = known.links.get(number).copied().unwrap_or_default();
        complete(spec, port, link);
        let here = kept.masters.iter().filter(|group| group.interface == link_name(port));
        spec.shared = here.map(carp::shared_mac).collect();
        spec.stack = if is_of_host(config, port) { Stack::Kernel } else { Stack::Own };
        let of_host = host.port_addresses.iter().filter(|(port, ..)| *port == number);
        add_addresses(&mut spec.addresses, of_host.map(|(_, address, len)| (*address, *len)));
    }
    add_host_sides(&mut spec, config);
    for (number, spec) in spec.tunnels.iter_mut().enumerate() {
        spec.path_mtu = known.path_mtus.get(number).copied().flatten();
        let of_host = host.tunnel_addresses.iter().filter(|(tunnel, ..)| *tunnel == number);
        add_addresses(&mut spec.inner, of_host.map(|(_, address, len)| (*address, *len)));
    }
    add_routes(&mut spec, config, host);
    let mut stations: BTreeMap<(usize, IpAddr), MacAddr> = known.found.clone();
    stations.extend(host.neighbours.iter().map(|station| ((station.port, station.address), station.mac)));
    stations.extend(spec.neighbours.iter().map(|station| ((station.port, station.address), station.mac)));
    let stations = stations.into_iter();
    spec.neighbours = stations.map(|((port, address), mac)| NeighbourSpec { port, address, mac }).collect();
    spec
}

/// What the configuration leaves to the device.
fn complete(spec: &mut PortSpec, port: &Port, link: Link) {
    spec.any_mac = false;
    if let (None, Some(mac)) = (port.mac, link.mac) {
        spec.mac = mac;
    }
    spec.mtu = mtu(port, link);
}

/// The host's side of each port that has one of its own: a port more, behind all others, in the order of the first.
fn add_host_sides(spec: &mut TablesSpec, config: &Config) {
    for (number, _) in config.ports.iter().enumerate().filter(|(_, port)| has_host_rings(config, port)) {
        let side = spec.ports.len();
        let Some(port) = spec.ports.get_mut(number) else { continue };
        port.stack = Stack::Port(side);
        let (mac, mtu) = (port.mac, port.mtu);
        spec.ports.push(PortSpec {
            mac,
            any_mac: false,
            shared: Vec::new(),
            mtu,
            addresses: Vec::new(),
            stack: Stack::Shared,
            host_of: Some(number),
        });
    }
}

fn mtu(port: &Port, link: Link) -> u16 {
    let of_link = link.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
    match (port.mtu, of_link) {
        (Some(mtu), Some(most)) => mtu.min(most),
        (None, Some(mtu)) => mtu,
        (_, None) => port.mtu(),
    }
}

/// The ports' MTUs in bytes.
pub(super) fn mtus(config: &Config, links: &[Link]) -> Vec<u16> {
    let links = links.iter().copied().chain(std::iter::repeat(Link::default()));
    config.ports.iter().zip(links).map(|(port, link)| mtu(port, link)).collect()
}

/// Link-local ones of IPv6 are the link's alone: what is for them is never forwarded (RFC 4291 section 2.5.6).
fn add_addresses(to: &mut Vec<(IpAddr, u8)>, more: impl Iterator<Item = (IpAddr, u8)>) {
    for (address, len) in more {
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if !link_local && to.iter().all(|(known, _)| *known != address) {
            to.push((address, len));
        }
    }
}

/// The host's routes to what the configuration does not route. What lies on a link where the host is but another station is
/// reached by that link.
fn add_routes(spec: &mut TablesSpec, config: &Config, host: &HostTables) {
    let configured: BTreeSet<Prefix> = spec.routes.iter().map(|route| route.prefix).collect();
    let apart = config.ports.iter().filter(|port| !is_of_host(config, port)).flat_map(|port| &port.addresses);
    let apart: Vec<ConfigPrefix> = apart.map(|address| address.network()).collect();
    for route in &host.routes {
        let inside = |network: &ConfigPrefix| {
            network.len <= route.prefix.prefix_len() && plan::covers(*network, route.prefix.addr())
        };
        let the_host_s = !matches!(route.way, Way::Forward(_));
        if configured.contains(&route.prefix) || the_host_s && apart.iter().any(inside) {
            continue;
        }
        spec.routes.push(RouteSpec { prefix: route.prefix, gateway: gateway(&route.way) });
    }
}

fn gateway(way: &Way) -> Gateway {
    let single = |hop: &Hop| match hop {
        Hop::Port { port, via } => Gateway::Port { port: *port, via: *via },
        Hop::Tunnel(tunnel) => Gateway::Tunnel(*tunnel),
    };
    match way {
        Way::Forward(hops) => match hops.as_slice() {
            [(hop, _)] => single(hop),
            hops => {
                let weight = |weight: u32| u16::try_from(weight).unwrap_or(u16::MAX);
                Gateway::Group(hops.iter().map(|(hop, share)| (single(hop), weight(*share))).collect())
            }
        },
        // The host tells the senders why.
        Way::Host | Way::Unreachable | Way::Prohibit => Gateway::Host,
        Way::Blackhole => Gateway::Discard,
    }
}

/// All routes of a specification as `Tables::build` takes them: connected subnets where no other route to them is given, and
/// our own addresses whatever is given.
fn effective(spec: &TablesSpec) -> BTreeMap<Prefix, Gateway> {
    let mut routes: BTreeMap<Prefix, Gateway> =
        spec.routes.iter().map(|route| (route.prefix, route.gateway.clone())).collect();
    for (number, tunnel) in spec.tunnels.iter().enumerate() {
        for (address, len) in &tunnel.inner {
            connect(&mut routes, *address, *len, Gateway::Tunnel(number));
        }
    }
    for (number, port) in spec.ports.iter().enumerate() {
        for (address, len) in &port.addresses {
            connect(&mut routes, *address, *len, Gateway::Port { port: number, via: None });
        }
    }
    let of_ports = spec.ports.iter().flat_map(|port| &port.addresses);
    let ours = of_ports.chain(spec.tunnels.iter().flat_map(|tunnel| &tunnel.inner));
    let near_ends = spec.tunnels.iter().filter(|tunnel| !tunnel.backup).map(|tunnel| tunnel.local);
    let ours = ours.map(|(address, _)| *address).chain(near_ends);
    let ours = ours.filter(|address| !plan::is_stand_in(*address));
    routes.extend(ours.map(|address| (Prefix::from(address), Gateway::Host)));
    routes
}

fn connect(routes: &mut BTreeMap<Prefix, Gateway>, address: IpAddr, len: u8, gateway: Gateway) {
    if let Some(subnet) = prefix_around(address, len).filter(|subnet| *subnet != Prefix::from(address)) {
        routes.entry(subnet).or_insert(gateway);
    }
}

/// What the exception thread is to know.
fn setup(known: &Known<'_>, spec: &TablesSpec) -> Setup {
    let ports = known.config.ports.iter().zip(&spec.ports).map(|(port, spec)| PortSetup {
        mac: spec.mac,
        addresses: spec.addresses.clone(),
        host_resolves: is_of_host(known.config, port),
    });
    let tunnels = known.config.tunnels.iter().zip(&spec.tunnels).map(|(tunnel, spec)| TunnelSetup {
        inner: spec.inner.iter().map(|(address, _)| *address).collect(),
        keepalive: tunnel.keepalive.map(|keepalive| keepalive::Settings {
            period: u64::try_from(keepalive.period.as_nanos()).unwrap_or(u64::MAX),
            retries: keepalive.retries,
        }),
        fragment: tunnel.fragment,
    });
    Setup { ports: ports.collect(), tunnels: tunnels.collect() }
}

/// The prefixes that the host is to send into a tunnel's interface: those that the configuration routes into it, but for
/// the ones that hold a tunnel's far end, which the host has to reach as well (IKE).
pub(super) fn host_routes(config: &Config, tunnel: usize) -> Vec<Prefix> {
    let far_ends = || config.tunnels.iter().map(|tunnel| tunnel.remote);
    let routes = plan::tunnel_routes(config).filter(|route| route.tunnel == tunnel);
    let routes = routes.filter(|route| !far_ends().any(|remote| plan::covers(route.prefix, remote)));
    routes.filter_map(|route| prefix_around(route.prefix.addr, route.prefix.len)).collect()
}

/// Does the tunnel have an interface of the host's? One that carries Ethernet frames belongs to its port.
pub(super) fn has_interface(config: &Config, tunnel: usize) -> bool {
    config.tunnels.get(tunnel).is_some_and(plan::has_ip)
}
