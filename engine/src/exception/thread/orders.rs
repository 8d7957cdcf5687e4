//! What the control plane tells the exception thread, and hears of it.

use std::net::IpAddr;

use super::super::{keepalive, neighbour};
use crate::wire::ethernet::MacAddr;

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// How everything is now.
    Setup(Setup),
    /// All stations on a port's link are to hear whose an address is.
    Announce(Announcement),
}

/// An address that is said to be at a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The port's number.
    pub port: u16,
    /// The station.
    pub mac: MacAddr,
    /// The address.
    pub address: IpAddr,
}

/// What the thread is told, whole, after each change of the tables.
#[derive(Debug, Default)]
pub struct Setup {
    /// By port number.
    pub ports: Vec<PortSetup>,
    /// By tunnel number.
    pub tunnels: Vec<TunnelSetup>,
}

/// A port.
#[derive(Debug, Clone)]
pub struct PortSetup {
    /// Its address on the link.
    pub mac: MacAddr,
    /// Our addresses on it, each with the length of its subnet's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The host resolves neighbours on its link, and is asked by [`Event::Resolve`]. Otherwise ARP and ND are ours.
    pub host_resolves: bool,
}

/// A tunnel.
#[derive(Debug, Clone, Default)]
pub struct TunnelSetup {
    /// Our addresses inside.
    pub inner: Vec<IpAddr>,
    /// Keepalives, where it sends any.
    pub keepalive: Option<keepalive::Settings>,
    /// Fragment IPv4 packets that are too long even where they say not to.
    pub fragment: bool,
}

/// What the thread tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A neighbour for the tables, or one less.
    Neighbour(neighbour::Change),
    /// The host is to resolve that station.
    Resolve {
        /// The port's number.
        port: u16,
        /// The station.
        address: IpAddr,
    },
    /// The longest packet that reaches a tunnel's far end, in bytes, is now that.
    PathMtu {
        /// The tunnel's number.
        tunnel: u32,
        /// In bytes.
        mtu: usize,
    },
    /// What keepalives have shown of a tunnel.
    Liveness {
        /// The tunnel's number.
        tunnel: u32,
        /// What.
        liveness: keepalive::Liveness,
    },
}
