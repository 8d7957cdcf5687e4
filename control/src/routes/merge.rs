//! What the engine's tables need, made of what the host knows and of which links are the engine's. Pure: a state in, routes
//! and stations out.
//!
//! [`merge`](fn@merge), for each prefix of the host's routes:
//! 1. take its routes by metric, lowest first, and of those the first that leads somewhere: a hop counts while the host does not
//!    call it dead and its link is up, with a signal. A hop into a tunnel always counts: whether the tunnel can be used is
//!    the engine's to say, and packets for it must not fall to a route beside it that leaves in the clear;
//! 2. if all its hops are the engine's ports and tunnels, packets to it are forwarded by the engine; otherwise it is the
//!    host's own ([`Way::Host`]), also where it says things that the engine's tables cannot (types of service, source
//!    prefixes, MPLS);
//! 3. the host's addresses are the host's own;
//! 4. stations on ports are taken over, with addresses that are known.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_engine::fib::Prefix;
use culvert_engine::wire::ethernet::MacAddr;

use super::state::{Address, HostState, LinkIndex, NextHop, Route, RouteKey, RouteKind};

/// Which of the host's links are the engine's, by name. A port belongs here if the host's packets to and from that link go
/// through it; one that is only a neighbour of the link (`tap:`) does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Port numbers by the names of their links.
    pub ports: BTreeMap<String, usize>,
    /// Tunnel numbers by the names of their host interfaces, which are the tunnels' own names.
    pub tunnels: BTreeMap<String, usize>,
}

/// One of the ways that share the packets of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// Out of a port.
    Port {
        /// The port's number: the link too, where `via` is a link-local address.
        port: usize,
        /// The router on the link, perhaps of the other address family (RFC 5549); `None`: the destination itself.
        via: Option<IpAddr>,
    },
    /// Into a tunnel.
    Tunnel(usize),
}

/// What happens to packets to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// They are forwarded: each flow takes one of these ways, with a chance in proportion to its weight (at least 1).
    Forward(Vec<(Hop, u32)>),
    /// They go to the host.
    Host,
    /// They are dropped in silence.
    Blackhole,
    /// They are dropped with an ICMP error: host unreachable.
    Unreachable,
    /// They are dropped with an ICMP error: administratively prohibited.
    Prohibit,
}

/// A route for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedRoute {
    /// The destinations.
    pub prefix: Prefix,
    /// What happens to packets to them.
    pub way: Way,
}

/// A station on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortNeighbour {
    /// The port's number.
    pub port: usize,
    /// Its IP address.
    pub address: IpAddr,
    /// Its address on the link.
    pub mac: MacAddr,
}

/// What the host contributes to the engine's tables. Equal where nothing that matters to the engine has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostTables {
    /// Routes, one for each prefix, in the order of prefixes.
    pub routes: Vec<MergedRoute>,
    /// Stations.
    pub neighbours: Vec<PortNeighbour>,
    /// The host's addresses on ports: port number, address, length of its subnet's prefix.
    pub port_addresses: Vec<(usize, IpAddr, u8)>,
    /// The host's addresses on tunnels: tunnel number, address, length of its subnet's prefix.
    pub tunnel_addresses: Vec<(usize, IpAddr, u8)>,
}

/// Whose a link is.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Port(usize),
    Tunnel(usize),
    Host,
}

/// Makes the engine's share of what the host knows. Routes of all tables in `state` count as one.
#[must_use]
pub fn merge(state: &HostState, interfaces: &Interfaces) -> HostTables {
    let view = View { state, interfaces };
    let mut routes = view.routes();
    let mut tables = HostTables::default();
    for &Address { link, address, prefix_len, .. } in &state.addresses {
        if is_forwarded(address) {
            routes.insert(address.into(), Way::Host);
        }
        match view.owner(link) {
            Owner::Port(port) => tables.port_addresses.push((port, address, prefix_len)),
            Owner::Tunnel(tunnel) => tables.tunnel_addresses.push((tunnel, address, prefix_len)),
            Owner::Host => {}
        }
    }
    for (&(link, address), neighbour) in &state.neighbours {
        if let (Owner::Port(port), Some(mac)) = (view.owner(link), neighbour.mac) {
            tables.neighbours.push(PortNeighbour { port, address, mac });
        }
    }
    tables.routes = routes.into_iter().map(|(prefix, way)| MergedRoute { prefix, way }).collect();
    // Links are numbered by the host, as they came; ports and tunnels by us.
    tables.neighbours.sort_unstable();
    tables.port_addresses.sort_unstable();
    tables.tunnel_addresses.sort_unstable();
    tables
}

/// Groups are not found by longest prefix, and IPv6's link-local addresses are never forwarded (RFC 4291 section 2.5.6):
/// each link has its own of them.
fn is_forwarded(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !link_local && !address.is_multicast()
}

struct View<'a> {
    state: &'a HostState,
    interfaces: &'a Interfaces,
}

impl View<'_> {
    /// Steps 1 and 2.
    fn routes(&self) -> BTreeMap<Prefix, Way> {
        let mut candidates: BTreeMap<Prefix, Vec<(&RouteKey, &Route)>> = BTreeMap::new();
        for (key, routes) in &self.state.routes {
            if is_forwarded(key.prefix.addr()) {
                candidates.entry(key.prefix).or_default().extend(routes.iter().map(|route| (key, route)));
            }
        }
        let best = |(prefix, mut routes): (Prefix, Vec<(&RouteKey, &Route)>)| {
            // Whatever their metrics: the host looks at these first.
            if routes.iter().any(|(_, route)| route.selective) {
                return Some((prefix, Way::Host));
            }
            routes.sort_by_key(|(key, _)| key.metric);
            let way = routes.into_iter().find_map(|(_, route)| self.way(route))?;
            Some((prefix, way))
        };
        candidates.into_iter().filter_map(best).collect()
    }

    /// What a route does; `None`: it does not count.
    fn way(&self, route: &Route) -> Option<Way> {
        match route.kind {
            RouteKind::Unicast => self.forward(&route.hops),
            RouteKind::Local | RouteKind::Other(_) => Some(Way::Host),
            RouteKind::Blackhole => Some(Way::Blackhole),
            RouteKind::Unreachable => Some(Way::Unreachable),
            RouteKind::Prohibit => Some(Way::Prohibit),
            RouteKind::Multicast | RouteKind::Throw => None,
        }
    }

    fn forward(&self, hops: &[NextHop]) -> Option<Way> {
        let live: Vec<&NextHop> = hops.iter().filter(|hop| self.counts(hop)).collect();
        if live.is_empty() {
            return None;
        }
        let ours: Option<Vec<(Hop, u32)>> = live.into_iter().map(|hop| self.hop(hop)).collect();
        Some(ours.map_or(Way::Host, Way::Forward))
    }

    fn counts(&self, hop: &NextHop) -> bool {
        let link = self.state.links.get(&hop.link);
        match self.owner(hop.link) {
            Owner::Tunnel(_) => true,
            Owner::Port(_) | Owner::Host => hop.alive && link.is_some_and(|link| link.up && link.carrier),
        }
    }

    /// The hop as the engine takes it; `None`: it cannot.
    fn hop(&self, hop: &NextHop) -> Option<(Hop, u32)> {
        let ours = match self.owner(hop.link) {
            _ if hop.encapsulates => return None,
            Owner::Port(port) => Hop::Port { port, via: hop.gateway },
            Owner::Tunnel(tunnel) => Hop::Tunnel(tunnel),
            Owner::Host => return None,
        };
        Some((ours, hop.weight.max(1)))
    }

    fn owner(&self, link: LinkIndex) -> Owner {
        let Some(link) = self.state.links.get(&link) else { return Owner::Host };
        let tunnel = self.interfaces.tunnels.get(&link.name).map(|tunnel| Owner::Tunnel(*tunnel));
        let port = self.interfaces.ports.get(&link.name).map(|port| Owner::Port(*port));
        tunnel.or(port).unwrap_or(Owner::Host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routes::state::{Link, Neighbour};
    use crate::routes::suite::{forward, interfaces, ip, port, prefix, way};

    const WAN: LinkIndex = 11;
    const LAN: LinkIndex = 12;
    const OSLO: LinkIndex = 13;
    const OTHER: LinkIndex = 14;

    /// `wan`, `lan`, `oslo` and a link that is nobody's, all up.
    fn host() -> HostState {
        let link = |name: &str| Link {
            name: name.into(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            kind: None,
        };
        let names = [(WAN, "wan"), (LAN, "lan"), (OSLO, "oslo"), (OTHER, "other")];
        HostState {
            links: names.into_iter().map(|(index, name)| (index, link(name))).collect(),
            ..HostState::default()
        }
    }

    fn unicast(hops: &[NextHop]) -> Route {
        Route { kind: RouteKind::Unicast, hops: hops.to_vec(), source: None, selective: false }
    }

    fn add(state: &mut HostState, to: &str, metric: u32, route: Route) {
        let key = RouteKey { table: 254, prefix: prefix(to), metric };
        state.routes.entry(key).or_default().push(route);
    }

    fn via(link: LinkIndex, router: &str) -> NextHop {
        NextHop::new(link, Some(ip(router)))
    }

    #[test]
    fn a_tunnel_s_interface_leads_into_the_tunnel() {
        let mut state = host();
        add(&mut state, "10.2.0.0/16", 0, unicast(&[NextHop::new(OSLO, None)]));
        assert_eq!(way(&state, "10.2.0.0/16"), forward(Hop::Tunnel(0)));
    }

    /// What would have gone into a tunnel never leaves beside it.
    #[test]
    fn a_tunnel_without_a_signal_keeps_its_routes() {
        let mut state = host();
        add(&mut state, "10.2.0.0/16", 10, unicast(&[NextHop { alive: false, ..NextHop::new(OSLO, None) }]));
        add(&mut state, "10.2.0.0/16", 20, unicast(&[via(WAN, "192.0.2.254")]));
        let oslo = state.links.get_mut(&OSLO).expect("oslo");
        (oslo.up, oslo.carrier) = (false, false);
        assert_eq!(way(&state, "10.2.0.0/16"), forward(Hop::Tunnel(0)));
    }

    #[test]
    fn other_links_are_the_host_s() {
        let mut state = host();
        add(&mut state, "10.2.0.0/16", 0, unicast(&[via(OTHER, "10.0.0.1")]));
        add(&mut state, "10.3.0.0/16", 0, unicast(&[via(WAN, "192.0.2.2"), via(OTHER, "10.0.0.1")]));
        let wrapped = NextHop { encapsulates: true, ..via(WAN, "192.0.2.2") };
        add(&mut state, "10.4.0.0/16", 0, unicast(&[wrapped]));
        for to in ["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"] {
            assert_eq!(way(&state, to), Some(Way::Host), "{to}");
        }
    }

    #[test]
    fn dead_hops_and_links_are_left_out() {
        let mut state = host();
        let dead = NextHop { alive: false, ..via(WAN, "192.0.2.3") };
        add(&mut state, "10.2.0.0/16", 0, unicast(&[via(WAN, "192.0.2.2"), dead, via(LAN, "10.1.0.2")]));
        add(&mut state, "10.3.0.0/16", 10, unicast(&[via(LAN, "10.1.0.2")]));
        add(&mut state, "10.3.0.0/16", 20, unicast(&[via(WAN, "192.0.2.2")]));
        add(&mut state, "10.4.0.0/16", 0, unicast(&[via(99, "192.0.2.2")]));
        state.links.get_mut(&LAN).expect("lan").carrier = false;
        assert_eq!(way(&state, "10.2.0.0/16"), forward(port(0, Some("192.0.2.2"))));
        assert_eq!(way(&state, "10.3.0.0/16"), forward(port(0, Some("192.0.2.2"))), "the next metric");
        assert_eq!(way(&state, "10.4.0.0/16"), None, "a link that is not there");
    }

    #[test]
    fn ways_keep_their_order_and_weights() {
        let mut state = host();
        let heavy = NextHop { weight: 3, ..NextHop::new(OSLO, None) };
        add(&mut state, "10.2.0.0/16", 0, unicast(&[via(WAN, "192.0.2.2"), heavy]));
        let expected = vec![(port(0, Some("192.0.2.2")), 1), (Hop::Tunnel(0), 3)];
        assert_eq!(way(&state, "10.2.0.0/16"), Some(Way::Forward(expected)));
    }

    /// The engine's tables know neither types of service nor source prefixes: the host decides.
    #[test]
    fn what_holds_for_some_packets_only_is_the_host_s() {
        let mut state = host();
        add(&mut state, "10.2.0.0/16", 0, unicast(&[via(WAN, "192.0.2.2")]));
        let some = Route { selective: true, ..unicast(&[via(LAN, "10.1.0.2")]) };
        add(&mut state, "10.2.0.0/16", 50, some);
        assert_eq!(way(&state, "10.2.0.0/16"), Some(Way::Host));
    }

    #[test]
    fn groups_and_link_local_prefixes_are_not_forwarded() {
        let mut state = host();
        for to in ["fe80::/64", "ff00::/8", "224.0.0.0/4"] {
            add(&mut state, to, 0, unicast(&[NextHop::new(WAN, None)]));
            assert_eq!(way(&state, to), None);
        }
        let own = Address { link: WAN, address: ip("fe80::1"), prefix_len: 64, peer: None };
        state.addresses.insert(own);
        let tables = merge(&state, &interfaces());
        assert!(tables.routes.is_empty());
        assert_eq!(tables.port_addresses, [(0, ip("fe80::1"), 64)]);
    }

    #[test]
    fn addresses_are_the_host_s_whatever_a_route_says() {
        let mut state = host();
        add(&mut state, "192.0.2.1/32", 0, unicast(&[NextHop::new(WAN, None)]));
        for (link, address) in [(WAN, "192.0.2.1"), (OSLO, "172.27.27.252"), (OTHER, "10.0.0.9")] {
            state.addresses.insert(Address { link, address: ip(address), prefix_len: 32, peer: None });
            assert_eq!(way(&state, &format!("{address}/32")), Some(Way::Host));
        }
        let tables = merge(&state, &interfaces());
        assert_eq!(tables.port_addresses, [(0, ip("192.0.2.1"), 32)]);
        assert_eq!(tables.tunnel_addresses, [(0, ip("172.27.27.252"), 32)]);
    }

    #[test]
    fn stations_count_on_ports_when_they_are_known() {
        let mut state = host();
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        let stations = [(WAN, "192.0.2.2", mac), (WAN, "192.0.2.3", None), (OTHER, "10.0.0.1", mac)];
        for (link, address, mac) in stations {
            state.neighbours.insert((link, ip(address)), Neighbour { mac, permanent: false });
        }
        let known = PortNeighbour { port: 0, address: ip("192.0.2.2"), mac: MacAddr([2, 0, 0, 0, 0, 9]) };
        assert_eq!(merge(&state, &interfaces()).neighbours, [known]);
    }

    prop_compose! {
        fn any_hop()(link in WAN..OTHER + 2, router in prop::option::of(1_u8..4), weight in 0_u32..4, alive: bool,
            encapsulates: bool) -> NextHop {
            let gateway = router.map(|last| ip(&format!("192.0.2.{last}")));
            NextHop { link, gateway, weight, alive, encapsulates, onlink: false }
        }
    }

    proptest! {
        /// However many routes there are to a prefix, it has one way or none; a way has hops, and their weights are not zero;
        /// and the numbers that the host gives its links do not matter.
        #[test]
        fn every_state_makes_sound_tables(
            routes in prop::collection::vec((0_u8..3, 0_u32..3, prop::collection::vec(any_hop(), 0..4)), 0..12),
            shift in 1_u32..1000,
        ) {
            let (mut state, mut renumbered) = (host(), host());
            renumbered.links =
                renumbered.links.into_iter().map(|(index, link)| (index + shift, link)).collect();
            for (third, metric, mut hops) in routes {
                let to = format!("10.{third}.0.0/16");
                add(&mut state, &to, metric, unicast(&hops));
                hops.iter_mut().for_each(|hop| hop.link += shift);
                add(&mut renumbered, &to, metric, unicast(&hops));
            }
            let tables = merge(&state, &interfaces());
            prop_assert!(tables.routes.is_sorted_by(|one, other| one.prefix < other.prefix));
            for route in &tables.routes {
                if let Way::Forward(hops) = &route.way {
                    prop_assert!(!hops.is_empty() && hops.iter().all(|(_, weight)| *weight >= 1));
                }
            }
            prop_assert_eq!(merge(&renumbered, &interfaces()), tables);
        }
    }
}
