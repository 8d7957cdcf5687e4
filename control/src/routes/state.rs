//! What the host knows of its network, as plain values: links, addresses, routes and neighbours. Equal states compare
//! equal, however they came about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use culvert_engine::fib::{Prefix, PrefixError};
use culvert_engine::wire::ethernet::MacAddr;

/// The host's number for a link, its interface index. A link that goes and comes back may have another.
pub type LinkIndex = u32;

/// A station is known by the link it is on, and its address there.
pub type NeighbourKey = (LinkIndex, IpAddr);

/// A link: a network interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its address, where it has one of Ethernet's kind.
    pub mac: Option<MacAddr>,
    /// The longest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Has its administrator switched it on?
    pub up: bool,
    /// Is there a signal, as far as the host can tell?
    pub carrier: bool,
    /// What the host says it is, where it says so: `veth`, `tun`, `bridge`, `vlan`, ...
    pub kind: Option<String>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: LinkIndex,
    /// The address.
    pub address: IpAddr,
    /// How many leading bits it shares with its subnet, or `peer` with its.
    pub prefix_len: u8,
    /// The far end's address, where the link has one far end.
    pub peer: Option<IpAddr>,
}

/// Which of several routes is meant, and which is preferred: the host takes the longest prefix, then the lowest metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table that it stands in.
    pub table: u32,
    /// Its destinations.
    pub prefix: Prefix,
    /// Its metric; 0 where the host has none.
    pub metric: u32,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it to a next hop.
    Unicast,
    /// Keeps it: the destination is the host's own, an anycast or a broadcast address.
    Local,
    /// Sends it to a group.
    Multicast,
    /// Drops it in silence.
    Blackhole,
    /// Drops it with an ICMP error: host unreachable.
    Unreachable,
    /// Drops it with an ICMP error: administratively prohibited.
    Prohibit,
    /// Leaves it to the host's next table.
    Throw,
    /// Something that is not known here; the number is the host's.
    Other(u8),
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it does.
    pub kind: RouteKind,
    /// Where it leads: several hops share the packets by weight, flow by flow.
    pub hops: Vec<NextHop>,
    /// The source address of the host's own packets.
    pub source: Option<IpAddr>,
    /// It holds for some packets to its destinations only: those of a type of service, or from a source prefix.
    pub selective: bool,
}

/// A next hop of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The link that it is reached by.
    pub link: LinkIndex,
    /// The router there; `None`: the destination itself is on the link. It may be of the other address family.
    pub gateway: Option<IpAddr>,
    /// Its share of the flows, relative to the other hops'; at least 1.
    pub weight: u32,
    /// The router is on the link although no subnet of the link says so.
    pub onlink: bool,
    /// The host does not say that this hop is dead, or that its link has no signal.
    pub alive: bool,
    /// The host wraps packets on this way in something else (MPLS, a lightweight tunnel).
    pub encapsulates: bool,
}

impl NextHop {
    /// A live hop by `link`, weight 1.
    #[must_use]
    pub fn new(link: LinkIndex, gateway: Option<IpAddr>) -> NextHop {
        NextHop { link, gateway, weight: 1, onlink: false, alive: true, encapsulates: false }
    }
}

/// What the host knows of a station on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address on the link; `None` where it has not been found, or not found again.
    pub mac: Option<MacAddr>,
    /// It was set by hand and does not expire.
    pub permanent: bool,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// Links by their numbers.
    pub links: BTreeMap<LinkIndex, Link>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Routes. Where several have the same key, the host takes the first that it can use.
    pub routes: BTreeMap<RouteKey, Vec<Route>>,
    /// Stations, by link and address.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
}

impl HostState {
    /// The link of that name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<(LinkIndex, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, link)| (*index, link))
    }

    /// Makes the state what it is after `change`.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Link(index, link) => put(&mut self.links, index, link),
            Change::Address(address, true) => {
                self.addresses.insert(address);
            }
            Change::Address(address, false) => {
                self.addresses.remove(&address);
            }
            Change::Routes(key, routes) => {
                put(&mut self.routes, key, Some(routes).filter(|list| !list.is_empty()))
            }
            Change::Neighbour(key, neighbour) => put(&mut self.neighbours, key, neighbour),
        }
    }
}

fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
}

/// Something that is now otherwise than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The link is now this; `None`: it has gone.
    Link(LinkIndex, Option<Link>),
    /// The address is there, or not any more.
    Address(Address, bool),
    /// The routes of this key are now these; none: they have gone.
    Routes(RouteKey, Vec<Route>),
    /// The station is now this; `None`: it is forgotten.
    Neighbour(NeighbourKey, Option<Neighbour>),
}

/// The prefix of `length` bits that `address` lies in; `None` for a length that the family does not have.
#[must_use]
pub fn prefix_around(address: IpAddr, length: u8) -> Option<Prefix> {
    match Prefix::new(address, length) {
        Ok(prefix) => Some(prefix),
        Err(PrefixError::HostBits { network, .. }) => Prefix::new(network, length).ok(),
        Err(_) => None,
    }
}
