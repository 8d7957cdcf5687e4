//! What a snapshot is built from. Ports and tunnels are known by their place in the lists.

use std::net::IpAddr;
use std::sync::Arc;

use crate::counters::TunnelCounterSet;
use crate::fib::Prefix;
use crate::gre::{Options, Sequences};
use crate::tunnel::Protection;
use crate::wire::ethernet::MacAddr;

/// A port.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// Its address on the link.
    pub mac: MacAddr,
    /// Addresses on the link that routers share (CARP, VRRP), of which this one is master: frames to them are as frames to its own.
    pub shared: Vec<MacAddr>,
    /// Take unicast frames to any address, for ports whose own is not known.
    pub any_mac: bool,
    /// The longest IP packet that may leave by it, in bytes.
    pub mtu: u16,
    /// Our addresses on it, each with the length of its subnet's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Where frames go that are not the engine's.
    pub stack: Stack,
    /// The port that this one is the host's side of: what the host sends on it leaves there.
    pub host_of: Option<usize>,
}

/// The host stack behind a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stack {
    /// Whatever the worker has for all of them.
    #[default]
    Shared,
    /// The port of that number, whose frames are copied as they are (netmap's host rings).
    Port(usize),
    /// The kernel takes what is its own before the port does (AF_XDP).
    Kernel,
    /// None: the exception thread answers for our addresses.
    Own,
}

/// A tunnel.
pub struct TunnelSpec {
    /// Our end.
    pub local: IpAddr,
    /// The far end, of the same family.
    pub remote: IpAddr,
    /// Our addresses inside, each with the length of its subnet's prefix.
    pub inner: Vec<(IpAddr, u8)>,
    /// What lies behind it, the far end's inner address included.
    pub routes: Vec<Prefix>,
    /// GRE options.
    pub gre: Options,
    /// TTL or hop limit of outer packets.
    pub ttl: u8,
    /// The longest inner packet in bytes; `None`: computed from the port's MTU.
    pub mtu: Option<u16>,
    /// The longest outer packet that reaches the far end, in bytes, where less than the port's MTU was learned.
    pub path_mtu: Option<u16>,
    /// ESP, or none.
    pub protection: Option<Protection>,
    /// GRE in UDP (RFC 8086). Means nothing for a protected tunnel.
    pub gre_in_udp: bool,
    /// For a payload of Ethernet frames: the port that they are bridged with.
    pub bridge: Option<usize>,
    /// How many tunnels a packet of this one may be in when it leaves, itself counted: 1 keeps it out of all others. 0 counts as
    /// 1, and more than [`MAX_DEPTH`](super::MAX_DEPTH) as that.
    pub depth: usize,
    /// Lower the segment size that TCP SYNs ask for to what fits the tunnel.
    pub clamp_mss: bool,
    /// Another router holds our end for now: nothing is sent, and nothing that comes is taken for the tunnel's.
    pub backup: bool,
    /// Counters, one for each worker.
    pub counters: TunnelCounterSet,
    /// GRE sequence numbers.
    pub sequences: Arc<Sequences>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateway {
    /// Out of that port: to that router, or to the destination itself.
    Port {
        /// The port's number.
        port: usize,
        /// The router on the link.
        via: Option<IpAddr>,
    },
    /// Into that tunnel.
    Tunnel(usize),
    /// To the host stack, which forwards it as it came.
    Host,
    /// Nowhere, on purpose.
    Discard,
    /// One of several ways for each flow, each as often as its weight says. None of them a group itself.
    Group(Vec<(Gateway, u16)>),
}

/// A route.
#[derive(Debug, Clone)]
pub struct RouteSpec {
    /// The destinations.
    pub prefix: Prefix,
    /// The way there.
    pub gateway: Gateway,
}

/// A station on a link.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourSpec {
    /// The port's number.
    pub port: usize,
    /// Its IP address.
    pub address: IpAddr,
    /// Its address on the link.
    pub mac: MacAddr,
}

/// Everything a snapshot is built from.
#[derive(Default)]
pub struct TablesSpec {
    /// Workers that share the tables; 0 counts as one. What only one of them may change, such as a replay window, belongs to
    /// one for as long as this number stays.
    pub workers: usize,
    /// Ports.
    pub ports: Vec<PortSpec>,
    /// Tunnels.
    pub tunnels: Vec<TunnelSpec>,
    /// Routes beside those of ports and tunnels.
    pub routes: Vec<RouteSpec>,
    /// Known stations.
    pub neighbours: Vec<NeighbourSpec>,
}
