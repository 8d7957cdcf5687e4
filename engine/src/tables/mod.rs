//! The tables that packets are looked up in: one immutable snapshot of ports, routes, neighbours, tunnels and SAs, built as
//! a whole and published as a whole. What must change per packet (sequence numbers, windows, counters) is behind `Arc`s
//! that a new snapshot takes over from the old one.

mod build;
mod spec;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

pub use build::BuildError;
pub use spec::{Gateway, NeighbourSpec, PortSpec, RouteSpec, Stack, TablesSpec, TunnelSpec};

use crate::counters::{TunnelCounterSet, TunnelCounters};
use crate::esp::whence::Source;
use crate::esp::{InboundSa, Spi};
use crate::fib::{Fib, Prefix};
use crate::hash::{FastHash, FlatMap};
use crate::tunnel::Tunnel;
use crate::wire::ethernet::MacAddr;
use crate::wire::{Sum, udp};

/// The most tunnels that a packet may be in when it leaves, whatever is configured: each takes its share of the MTU.
pub const MAX_DEPTH: usize = 4;

/// Tunnels beyond which look-ups are prefetched: some 64 of them, with keys, fill half of a usual second-level cache.
const SPREAD: usize = 64;

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To us: the engine's own protocols, and the host stack for all others.
    Host,
    /// To the host stack, which forwards it: nothing in it is ours.
    HostForwards,
    /// Out of a port, to that station.
    Station {
        /// The port's number.
        port: u16,
        /// The next hop's address on the link.
        mac: MacAddr,
    },
    /// Out of a port, if only the station were known.
    Unresolved {
        /// The port's number.
        port: u16,
    },
    /// Into a tunnel.
    Tunnel(u32),
    /// One of the ways of the group of that number, for each flow one.
    Group(u32),
    /// Nowhere, though it is an address that the tables know: no route leads there.
    Nowhere,
}

/// The result of a route look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The way to go.
    pub to: To,
    /// The address is an end of a tunnel: a packet to it never enters one, and never comes out of one.
    pub underlay: bool,
    /// It is an end of tunnels that may lie in others alone: their own packets are held to that, and what else goes there is
    /// like any other packet.
    pub inside: bool,
}

/// What lies on the way out by a next hop, for the packet that is like nearly all others: the numbers of both are the same. A
/// quarter of a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Link {
    /// The station's address and ours, as they lie in a frame.
    pub(crate) addresses: [u8; 12],
    /// The port, which there may be none of: of what is no station.
    pub(crate) port: u16,
    /// The longest packet out of a tunnel that goes there as it is but for its TTL. 0: each has to be looked at more closely,
    /// since it is no station, or an end of tunnels.
    pub(crate) longest: u16,
}

impl Link {
    const NONE: Link = Link { addresses: [0; 12], port: u16::MAX, longest: 0 };

    fn new(hop: &NextHop, ports: &[PortEntry]) -> Link {
        let To::Station { port, mac: MacAddr([d0, d1, d2, d3, d4, d5]) } = hop.to else { return Link::NONE };
        let Some(PortEntry { mac: MacAddr([s0, s1, s2, s3, s4, s5]), mtu, .. }) =
            ports.get(usize::from(port))
        else {
            return Link::NONE;
        };
        let longest = if hop.underlay { 0 } else { u16::try_from(*mtu).unwrap_or(u16::MAX) };
        Link { addresses: [d0, d1, d2, d3, d4, d5, *s0, *s1, *s2, *s3, *s4, *s5], port, longest }
    }
}

/// Where a route of the tables comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteSource {
    /// It was given, by [`RouteSpec`] or [`TunnelSpec::routes`].
    Given,
    /// The subnet of an address of ours on a port or in a tunnel, or its broadcast address.
    Connected,
    /// An address of ours.
    Own,
    /// Never forwarded, whatever other routes say.
    Reserved,
    /// A station on the link that the route to this prefix leads to.
    Neighbour(Prefix),
    /// An end of a tunnel, which is reached as the route to this prefix says, and by no tunnel.
    TunnelEnd(Option<Prefix>),
}

/// What a route look-up finds, with what is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The destinations of the route.
    pub prefix: Prefix,
    /// Where it comes from.
    pub source: RouteSource,
    /// Where it leads.
    pub next: NextHop,
    /// The number of that next hop.
    pub(crate) hop: u32,
}

/// What receiving and sending on a port needs to know.
#[derive(Debug)]
pub(crate) struct PortEntry {
    pub(crate) mac: MacAddr,
    pub(crate) any_mac: bool,
    pub(crate) mtu: usize,
    pub(crate) kind: PortKind,
    pub(crate) stack: Stack,
    /// See [`PortSpec::shared`].
    shared: Vec<MacAddr>,
    /// See [`PortEntry::is_to_us`]: our own address, and the first of those.
    front: u64,
    shared_front: u64,
}

impl PortEntry {
    /// Nothing that a frame starts with: the lower 16 bits are not looked at, and are 0.
    const NO_FRONT: u64 = 1;

    /// Is a frame, whose first bytes these are, for the station that we are on the port's link? `false` on other ports, and
    /// where the address is another one but may be ours.
    #[inline(always)]
    pub(crate) fn is_to_us(&self, front: [u8; 8]) -> bool {
        let front = u64::from_le_bytes(front) << 16;
        front == self.front || front == self.shared_front
    }

    /// Is that the port's address, or one that routers share and this one is master of?
    pub(crate) fn has(&self, mac: MacAddr) -> bool {
        mac == self.mac || self.shared.contains(&mac)
    }

    /// To be called once the port is what it will be.
    fn set_front(&mut self) {
        let front = |mac: &MacAddr| {
            let MacAddr([a, b, c, d, e, f]) = *mac;
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) << 16
        };
        (self.front, self.shared_front) = match self.kind {
            PortKind::Station => (front(&self.mac), self.shared.first().map_or(PortEntry::NO_FRONT, front)),
            PortKind::Bridged(_) | PortKind::HostOf(_) => (PortEntry::NO_FRONT, PortEntry::NO_FRONT),
        };
    }
}

/// What frames a port receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortKind {
    /// Those of a link on which we are a station.
    Station,
    /// All that an Ethernet tunnel is to take.
    Bridged(u32),
    /// The host's, to be sent by another port.
    HostOf(u32),
}

/// An inbound SA with what is asked of its packets: with its SPI a cache line, so that the common packet is looked up there and
/// needs nothing of its tunnel.
pub(crate) struct Inbound {
    pub(crate) sa: Arc<InboundSa>,
    pub(crate) tunnel: u32,
    pub(crate) ends: Ends,
    /// The tunnel's GRE key.
    pub(crate) key: Option<u32>,
    /// GRE in transport mode, of which nothing is to be checked but the key.
    pub(crate) plain: bool,
    /// See [`Inbound::owner`].
    owner: u16,
}

impl Inbound {
    /// The worker that the window belongs to, the only one that opens packets of the SA.
    #[inline(always)]
    pub(crate) fn owner(&self) -> u32 {
        self.owner.into()
    }
}

/// The outer source and destination that packets of an inbound SA must have, in wire order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Any: they may come through a NAT, or carry an inner header that says.
    Any,
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl Ends {
    fn new(remote: IpAddr, local: IpAddr) -> Ends {
        match (remote, local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => Ends::V4(remote.octets(), local.octets()),
            (IpAddr::V6(remote), IpAddr::V6(local)) => Ends::V6(remote.octets(), local.octets()),
            _ => Ends::Any,
        }
    }
}

/// What a GRE packet that came unprotected is found to belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GreEntry {
    pub(crate) tunnel: u32,
    /// The tunnel is not protected, and nothing is to be checked but the key, which is right.
    pub(crate) plain: bool,
    /// The tunnel's packets come in UDP, and not otherwise.
    pub(crate) udp: bool,
    /// The worker that the received sequence numbers belong to.
    pub(crate) owner: u32,
}

/// What the tunnels between two ends are.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// One of them is protected.
    pub(crate) protected: bool,
    /// One of them has its near end here.
    pub(crate) live: bool,
    /// One of them has it at another router.
    pub(crate) silent: bool,
    /// SAs of one that is live are negotiated, so that packets may come by one which the tables do not know yet.
    pub(crate) negotiated: bool,
    /// As many packets wait as may for news of an SA, or of the near end (see [`crate::exception::early`]).
    full: AtomicBool,
}

impl Pair {
    /// Counts in a tunnel between these ends.
    fn add(&mut self, tunnel: &TunnelSpec) {
        self.protected |= tunnel.protection.is_some();
        self.live |= !tunnel.backup;
        self.silent |= tunnel.backup;
        let negotiated = tunnel.protection.as_ref().is_some_and(|protection| protection.negotiated);
        self.negotiated |= negotiated && !tunnel.backup;
    }

    /// Has another router the near end?
    pub(crate) fn is_silent(&self) -> bool {
        self.silent && !self.live
    }

    /// May a packet wait for news: by an SA that the tables do not know for one, and any for the near end?
    pub(crate) fn has_room(&self) -> bool {
        (self.negotiated || self.is_silent()) && !self.full.load(Ordering::Relaxed)
    }
}

/// An IP address of one family, with the tables of that family: the path is compiled once for each.
pub(crate) trait Address: Copy + Eq {
    /// What tunnels of this family are found by.
    type Key: Copy + Eq + FastHash;
    /// Must UDP datagrams have a checksum (RFC 8200 section 8.1)?
    const CHECKSUM: bool;

    /// The sum of the pseudo header of an upper-layer packet of `length` bytes.
    fn pseudo(src: Self, dst: Self, protocol: u8, length: u16) -> Sum;
    fn key(local: Self, remote: Self, key: Option<u32>) -> Self::Key;
    /// Tunnels whose packets come by ports.
    fn tunnels(tables: &Tables) -> &FlatMap<Self::Key, GreEntry>;
    /// Tunnels whose packets come out of other tunnels.
    fn carried(tables: &Tables) -> &FlatMap<Self::Key, GreEntry>;
    /// Pairs of ends between which there are tunnels.
    fn pairs(tables: &Tables) -> &FlatMap<Self::Key, Pair>;
    fn between(ends: &Ends, src: Self, dst: Self) -> bool;
    fn source(self, port: u16) -> Source;
}

impl Address for Ipv4Addr {
    type Key = (u32, u32, Option<u32>);
    const CHECKSUM: bool = false;

    fn pseudo(src: Self, dst: Self, protocol: u8, length: u16) -> Sum {
        Sum::pseudo_v4(src, dst, protocol, length)
    }

    #[inline]
    fn key(local: Self, remote: Self, key: Option<u32>) -> Self::Key {
        (local.to_bits(), remote.to_bits(), key)
    }

    #[inline]
    fn tunnels(tables: &Tables) -> &FlatMap<Self::Key, GreEntry> {
        &tables.gre_v4
    }

    fn carried(tables: &Tables) -> &FlatMap<Self::Key, GreEntry> {
        &tables.carried_v4
    }

    #[inline]
    fn pairs(tables: &Tables) -> &FlatMap<Self::Key, Pair> {
        &tables.pairs_v4
    }

    #[inline]
    fn between(ends: &Ends, src: Self, dst: Self) -> bool {
        matches!(ends, Ends::V4(remote, local) if *remote == src.octets() && *local == dst.octets())
    }

    #[inline]
    fn source(self, port: u16) -> Source {
        Source::v4(self, port)
    }
}

impl Address for Ipv6Addr {
    type Key = (u128, u128, Option<u32>);
    const CHECKSUM: bool = true;

    fn pseudo(src: Self, dst: Self, protocol: u8, length: u16) -> Sum {
        Sum::pseudo_v6(src, dst, protocol, u32::from(length))
    }

    #[inline]
    fn key(local: Self, remote: Self, key: Option<u32>) -> Self::Key {
        (local.to_bits(), remote.to_bits(), key)
    }

    #[inline]
    fn tunnels(tables: &Tables) -> &FlatMap<Self::Key, GreEntry> {
        &tables.gre_v6
    }

    fn carried(tables: &Tables) -> &FlatMap<Self::Key, GreEntry> {
        &tables.carried_v6
    }

    #[inline]
    fn pairs(tables: &Tables) -> &FlatMap<Self::Key, Pair> {
        &tables.pairs_v6
    }

    #[inline]
    fn between(ends: &Ends, src: Self, dst: Self) -> bool {
        matches!(ends, Ends::V6(remote, local) if *remote == src.octets() && *local == dst.octets())
    }

    #[inline]
    fn source(self, port: u16) -> Source {
        Source::v6(self, port)
    }
}

/// One snapshot. See the module page.
///
/// No cache line of it holds the count of those who keep it, which would be taken from the cores that read whenever one writes.
#[repr(align(128))]
pub struct Tables {
    /// Higher than that of all built before.
    number: u64,
    pub(crate) ports: Vec<PortEntry>,
    fib: Fib,
    next_hops: Vec<NextHop>,
    /// For each next hop.
    links: Vec<Link>,
    /// For each route its prefix: what the next hop of the same number stands for.
    prefixes: Box<[Prefix]>,
    /// Where routes come from that were not given, by the number of their next hop.
    sources: HashMap<u32, RouteSource>,
    /// For each group the numbers of its next hops, each as often as its weight says.
    groups: Vec<Box<[u32]>>,
    /// The routers that next hops lead by.
    routers: HashMap<u32, IpAddr>,
    /// All known stations, by port and address.
    stations: HashMap<(u16, IpAddr), MacAddr>,
    tunnels: Vec<Tunnel>,
    /// Each tunnel's, in their order: close together, so that finding them costs no look at the tunnel.
    counters: Vec<TunnelCounterSet>,
    inbound: FlatMap<Spi, Inbound>,
    gre_v4: FlatMap<(u32, u32, Option<u32>), GreEntry>,
    gre_v6: FlatMap<(u128, u128, Option<u32>), GreEntry>,
    carried_v4: FlatMap<(u32, u32, Option<u32>), GreEntry>,
    carried_v6: FlatMap<(u128, u128, Option<u32>), GreEntry>,
    pairs_v4: FlatMap<(u32, u32, Option<u32>), Pair>,
    pairs_v6: FlatMap<(u128, u128, Option<u32>), Pair>,
    udp_ports: Vec<u16>,
    /// Is there a tunnel whose packets come in UDP?
    gre_in_udp: bool,
    /// The most tunnels that a packet is in when it leaves.
    depth: usize,
}

/// A snapshot as workers see it: replaced whole, read without a lock.
pub type Published = Arc<ArcSwap<Tables>>;

impl Tables {
    /// Builds a snapshot.
    ///
    /// # Errors
    /// [`BuildError`] for a specification that contradicts itself.
    pub fn build(spec: TablesSpec) -> Result<Tables, BuildError> {
        build::build(spec)
    }

    /// This snapshot, ready to be shared with workers.
    pub fn publish(self) -> Published {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// Tells these tables from all others: higher than that of all built before, and not 0.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Where packets to `address` go; `None` without a route.
    pub fn route(&self, address: IpAddr) -> Option<NextHop> {
        let index = match address {
            IpAddr::V4(address) => self.fib.lookup_v4(address),
            IpAddr::V6(address) => self.fib.lookup_v6(address),
        };
        self.next_hop(index?).copied()
    }

    /// What the look-up of `address` finds, as the packet path looks it up; `None` without a route.
    pub fn find(&self, address: IpAddr) -> Option<Found> {
        let hop = match address {
            IpAddr::V4(address) => self.fib.lookup_v4(address),
            IpAddr::V6(address) => self.fib.lookup_v6(address),
        }?;
        let source = self.sources.get(&hop).copied().unwrap_or(RouteSource::Given);
        Some(Found { prefix: *self.prefixes.get(hop as usize)?, source, next: *self.next_hop(hop)?, hop })
    }

    /// The forwarding table; what it finds are numbers of next hops.
    #[inline]
    pub(crate) fn fib(&self) -> &Fib {
        &self.fib
    }

    #[inline]
    pub(crate) fn next_hop(&self, index: u32) -> Option<&NextHop> {
        self.next_hops.get(index as usize)
    }

    /// The link that next hop `index` leads by.
    #[inline]
    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(index as usize)
    }

    /// The next hop in group `group` for packets of a flow with that hash (see [`crate::flow::hash`]), and its number.
    #[inline]
    pub(crate) fn member(&self, group: u32, flow: u32) -> Option<(u32, &NextHop)> {
        let members = self.groups.get(group as usize)?;
        let hop = *members.get((flow as usize).checked_rem(members.len())?)?;
        Some((hop, self.next_hop(hop)?))
    }

    /// The ways of group `group`, each as often as its weight says.
    pub fn members(&self, group: u32) -> impl Iterator<Item = &NextHop> {
        let hops = self.groups.get(group as usize).into_iter().flatten();
        hops.filter_map(|hop| self.next_hop(*hop))
    }

    /// The router that next hop `hop` leads by.
    pub(crate) fn router(&self, hop: u32) -> Option<IpAddr> {
        self.routers.get(&hop).copied()
    }

    /// The link address of station `address` on port `port`, where it is known.
    pub fn link_address(&self, port: u16, address: IpAddr) -> Option<MacAddr> {
        self.stations.get(&(port, address)).copied()
    }

    /// The port and the station on its link that packets of a flow to `address` go to, where that is what the route says.
    pub fn station(&self, address: IpAddr, flow: u32) -> Option<(u16, IpAddr)> {
        let hop = match address {
            IpAddr::V4(address) => self.fib.lookup_v4(address)?,
            IpAddr::V6(address) => self.fib.lookup_v6(address)?,
        };
        let (hop, to) = match self.next_hop(hop)?.to {
            To::Group(group) => {
                let (hop, next) = self.member(group, flow)?;
                (hop, next.to)
            }
            to => (hop, to),
        };
        match to {
            To::Station { port, .. } | To::Unresolved { port } => {
                Some((port, self.routers.get(&hop).copied().unwrap_or(address)))
            }
            To::Host | To::HostForwards | To::Tunnel(_) | To::Group(_) | To::Nowhere => None,
        }
    }

    /// The tunnel that packets of a flow to `address` go into, where that is what the route says.
    pub fn tunnel_to(&self, address: IpAddr, flow: u32) -> Option<u32> {
        match self.route(address)?.to {
            To::Tunnel(tunnel) => Some(tunnel),
            To::Group(group) => match self.member(group, flow)?.1.to {
                To::Tunnel(tunnel) => Some(tunnel),
                _ => None,
            },
            _ => None,
        }
    }

    /// The port and the station on its link that outer packets of tunnel `tunnel` go to, of whatever tunnel they are in by then.
    pub fn station_of(&self, tunnel: u32) -> Option<(u16, IpAddr)> {
        let first = self.tunnel(tunnel)?;
        let mut on_the_way = std::iter::successors(Some(first), |tunnel| self.tunnel(tunnel.carrier?));
        let last = on_the_way.find(|tunnel| tunnel.carrier.is_none())?;
        self.station(last.remote, 0)
    }

    /// The most tunnels that a packet is in when it leaves: 1 where none lies in another.
    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The longest IP packet that may leave by port `port`, in bytes.
    pub fn port_mtu(&self, port: u16) -> Option<usize> {
        self.ports.get(usize::from(port)).map(|port| port.mtu)
    }

    /// The longest IP packet that may leave towards `address`, in bytes; `None` where no link is on the way.
    pub fn link_mtu(&self, address: IpAddr) -> Option<usize> {
        self.port_mtu(self.station(address, 0)?.0)
    }

    /// The stations that routes and tunnels lead by, port and address of each: worth knowing before a packet comes.
    pub fn wanted_neighbours(&self) -> Vec<(u16, IpAddr)> {
        let port = |hop: u32| match self.next_hop(hop)?.to {
            To::Station { port, .. } | To::Unresolved { port } => Some(port),
            _ => None,
        };
        let routers = self.routers.iter().filter_map(|(hop, router)| Some((port(*hop)?, *router)));
        let ends = self.tunnels.iter().filter_map(|tunnel| self.station(tunnel.remote, 0));
        let wanted: BTreeSet<(u16, IpAddr)> = routers.chain(ends).collect();
        wanted.into_iter().collect()
    }

    /// All tunnels, in the order of the specification.
    pub fn tunnels(&self) -> &[Tunnel] {
        &self.tunnels
    }

    #[inline]
    pub(crate) fn tunnel(&self, index: u32) -> Option<&Tunnel> {
        self.tunnels.get(index as usize)
    }

    /// What worker `worker` counts of a tunnel.
    #[inline]
    pub(crate) fn counters(&self, tunnel: u32, worker: usize) -> Option<&TunnelCounters> {
        self.counters.get(tunnel as usize)?.get(worker)
    }

    /// The inbound SA with this SPI, and its index.
    #[inline(always)]
    pub(crate) fn inbound_by_spi(&self, spi: Spi) -> Option<(u32, &Inbound)> {
        self.inbound.find(&spi)
    }

    /// Tells workers whether more packets by unknown SAs may wait between these ends, in tables that they have now.
    pub(crate) fn set_room(&self, local: IpAddr, remote: IpAddr, room: bool) {
        if let Some(pair) = self.pair(local, remote) {
            pair.full.store(!room, Ordering::Relaxed);
        }
    }

    /// What the tunnels between two ends are, if there are any.
    pub(crate) fn pair(&self, local: IpAddr, remote: IpAddr) -> Option<&Pair> {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => self.pairs_v4.get(&Address::key(local, remote, None)),
            (IpAddr::V6(local), IpAddr::V6(remote)) => self.pairs_v6.get(&Address::key(local, remote, None)),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn inbound(&self, index: u32) -> Option<&Inbound> {
        self.inbound.at(index)
    }

    /// Are there so many tunnels that what a packet needs is hardly ever in the processor's caches?
    #[inline]
    pub(crate) fn is_spread(&self) -> bool {
        self.tunnels.len() > SPREAD
    }

    /// Asks the processor for the next hop of a packet to `destination`.
    #[inline]
    pub(crate) fn prefetch_next_hop(&self, destination: Ipv4Addr) {
        if let Some(hop) = self.fib.lookup_v4(destination).and_then(|hop| self.next_hop(hop)) {
            crate::ring::prefetch(hop);
        }
    }

    /// Asks the processor for what a packet into tunnel `index` will read, but for its SA and the counters themselves.
    #[inline]
    pub(crate) fn prefetch_outbound(&self, index: u32) {
        if let Some(tunnel) = self.tunnel(index) {
            tunnel.prefetch_outbound();
        }
        if let Some(counters) = self.counters.get(index as usize) {
            crate::ring::prefetch(counters);
        }
    }

    /// Asks the processor for the slot in which an SA is looked up.
    #[inline]
    pub(crate) fn prefetch_spi(&self, spi: Spi) {
        if let Some(slot) = self.inbound.slot_hint(&spi) {
            crate::ring::prefetch(slot);
        }
    }

    /// Asks the processor for the slot in which an unprotected tunnel is looked up.
    #[inline]
    pub(crate) fn prefetch_gre<A: Address>(&self, local: A, remote: A, key: Option<u32>) {
        if let Some(slot) = A::tunnels(self).slot_hint(&A::key(local, remote, key)) {
            crate::ring::prefetch(slot);
        }
    }

    /// Is this a UDP port of ours for ESP in UDP?
    #[inline]
    pub(crate) fn is_encap_port(&self, port: u16) -> bool {
        self.udp_ports.contains(&port)
    }

    /// Is this the port of GRE in UDP, and does a tunnel use it?
    #[inline]
    pub(crate) fn is_gre_port(&self, port: u16) -> bool {
        self.gre_in_udp && port == udp::GRE_PORT
    }
}
