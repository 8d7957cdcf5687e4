//! What a configuration says, as types: names, units and defaults of the configuration file, every value already within
//! its range. Each entry knows the line it comes from, so that later refusals can point there as well.

mod carp;
mod ike;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use super::report::Position;

pub use carp::{Carp, CarpCheck, CarpGroup, CarpHook, Group, HookEvent, Router, Sync, SyncProof};
pub use ike::{Auth, Certified, Ike, KeyPair, MlKem, Profile, Revocation, Role, Trust};

/// A whole configuration, checked: names are unique, and every port or tunnel that is named exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[engine]`.
    pub engine: Engine,
    /// `[log]`.
    pub log: Log,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[carp]`.
    pub carp: Carp,
    /// `[[port]]`, in the order of the files.
    pub ports: Vec<Port>,
    /// `[[tunnel]]`, in the order of the files.
    pub tunnels: Vec<Tunnel>,
    /// `[[route]]`, in the order of the files.
    pub routes: Vec<Route>,
    /// `[[neighbour]]`, in the order of the files.
    pub neighbours: Vec<Neighbour>,
}

/// `[engine]`: the process as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    /// Worker threads, 0 to 256; 0: one for each receive queue, at most one per core.
    pub workers: u16,
    /// Whether frames that are not the engine's go to the host stack.
    pub host_port: bool,
    /// What a worker does that finds nothing to do.
    pub idle: Idle,
    /// Where the table stands; `None` where the configuration has none.
    pub at: Option<Position>,
}

impl Default for Engine {
    fn default() -> Self {
        Self { workers: 0, host_port: true, idle: Idle::Adaptive, at: None }
    }
}

/// What a worker does that finds nothing to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Idle {
    /// It looks again for a moment, then sleeps until something comes.
    Adaptive,
    /// It looks again, always: no packet waits for a thread to wake, and the core is busy all the time.
    Spin,
}

impl Idle {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Idle::Adaptive => "adaptive",
            Idle::Spin => "spin",
        }
    }
}

/// `[log]`: what the daemon writes about what happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// Where the table stands; `None` where the configuration has none.
    pub at: Option<Position>,
}

/// How much something matters; each level comes with those before it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum LogLevel {
    /// Something does not work, and will not by itself.
    Error,
    /// Something is not as it was meant to be.
    Warn,
    /// Something happened that an operator may want to know of.
    #[default]
    Info,
    /// Something happened that helps to find errors.
    Debug,
}

impl LogLevel {
    /// All of them, what matters most first.
    pub const ALL: [LogLevel; 4] = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];

    /// The name that the configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// The form of the lines in the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum LogFormat {
    /// For people: `culvert: warn: tunnel "oslo": down: no way out`.
    #[default]
    Text,
    /// `time=.. level=warn tunnel=oslo msg="down: no way out"`.
    Logfmt,
    /// The same as a JSON object.
    Json,
}

impl LogFormat {
    /// All of them.
    pub const ALL: [LogFormat; 3] = [LogFormat::Text, LogFormat::Logfmt, LogFormat::Json];

    /// The name that the configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Logfmt => "logfmt",
            LogFormat::Json => "json",
        }
    }
}

/// `[metrics]`: the Prometheus endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Where it listens, on a loopback address; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Where the table stands; `None` where the configuration has none.
    pub at: Option<Position>,
}

/// `[[port]]`: an Ethernet port that the engine drives.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Unique among ports, usable as an interface name, never `host`.
    pub name: String,
    /// What carries its frames.
    pub device: Device,
    /// Its address, where the configuration sets one: unicast, not zero.
    pub mac: Option<Mac>,
    /// Its own addresses with the length of their networks; host bits are kept.
    pub addresses: Vec<Prefix>,
    /// Longest IP packet in bytes, 576 to 65535; `None`: the device's.
    pub mtu: Option<u16>,
    /// Whether netmap may be emulated on kinds of interfaces where that is known to stall or to panic kernels.
    pub unsafe_emulation: bool,
    /// Where the entry stands.
    pub at: Position,
}

impl Port {
    /// The longest IP packet in bytes as far as the configuration shows: Ethernet's where it says nothing.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(ETHERNET_MTU)
    }
}

/// The longest IP packet in a plain Ethernet frame, in bytes (RFC 894).
const ETHERNET_MTU: u16 = 1500;

/// What is behind a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Device {
    /// `netmap:IF`: the rings of a network interface, through netmap(4).
    Netmap(String),
    /// `xdp:IF`: the queues of a network interface, through AF_XDP.
    Xdp(String),
    /// `tap:NAME`: a TAP interface.
    Tap(String),
    /// `pcap`: capture files, named when they are replayed.
    Pcap,
    /// `memory`: rings in memory.
    Memory,
}

impl Device {
    /// Whether no host stack stands behind the port, so that routes and neighbours come from the configuration alone.
    #[must_use]
    pub fn is_synthetic(&self) -> bool {
        matches!(self, Device::Pcap | Device::Memory)
    }
}

/// An Ethernet address, in the order of the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address with a prefix length of 0 to 32 (IPv4) or 128 (IPv6) bits. Routes have no host bits; the addresses of
/// ports and tunnels keep them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Prefix {
    /// The address.
    pub addr: IpAddr,
    /// How many of its bits name the network.
    pub len: u8,
}

impl Prefix {
    /// The network: the same prefix with its host bits cleared.
    #[must_use]
    pub fn network(self) -> Prefix {
        let addr = match self.addr {
            IpAddr::V4(v4) => {
                let host_bits = 32_u32.saturating_sub(u32::from(self.len));
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let host_bits = 128_u32.saturating_sub(u32::from(self.len));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Prefix { addr, len: self.len }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The largest `max_depth`: as many tunnels as the engine puts a packet into at most.
pub const MAX_DEPTH: u8 = culvert_engine::tables::MAX_DEPTH as u8;

/// `[[tunnel]]`: a GRE tunnel to another router.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// Unique among tunnels, usable as an interface name, never `host`. Empty for a number that no tunnel has now.
    pub name: String,
    /// Whether packets go into it and come out of it. One that is not enabled has no interface, and no route leads into it.
    pub enabled: bool,
    /// Our outer address.
    pub local: Local,
    /// The far router's outer address: unicast, of `local`'s family, not `local` itself.
    pub remote: IpAddr,
    /// Our address on the tunnel's host interface.
    pub inner: Option<Prefix>,
    /// The far router's address inside the tunnel.
    pub peer: Option<IpAddr>,
    /// Networks behind the tunnel, without host bits.
    pub routes: Vec<Prefix>,
    /// GRE key (RFC 2890 section 2.1); `None`: the packets carry none.
    pub key: Option<u32>,
    /// Whether GRE checksums are sent and demanded (RFC 2784 section 2.1).
    pub checksum: bool,
    /// Whether GRE sequence numbers are sent and demanded (RFC 2890 section 2.2).
    pub sequence: bool,
    /// TTL or hop limit of the outer header, 1 to 255.
    pub ttl: u8,
    /// Longest inner IP packet.
    pub mtu: Mtu,
    /// Whether inner IPv4 packets that are too long are fragmented even where they say not to. Otherwise their sender is told.
    pub fragment: bool,
    /// Whether the segment size that TCP SYNs ask for is lowered to what fits.
    pub clamp_mss: bool,
    /// What the tunnel carries.
    pub payload: Payload,
    /// What the GRE packets go in. [`Encapsulation::Udp`] only where `protect` is [`Protect::None`] and there is no
    /// `keepalive`.
    pub encapsulation: Encapsulation,
    /// The port whose Ethernet frames it carries, of which no other tunnel carries any; it exists. `Some` only where
    /// `payload` is [`Payload::Ethernet`]; such a tunnel without a port carries nothing.
    pub bridge: Option<String>,
    /// GRE keepalives; `None`: none are sent. `Some` only where `payload` is [`Payload::Ip`].
    pub keepalive: Option<Keepalive>,
    /// How many tunnels a packet of this one may be in when it leaves, itself counted: 1 to [`MAX_DEPTH`].
    pub max_depth: u8,
    /// How the GRE packets are protected.
    pub protect: Protect,
    /// Where the entry stands.
    pub at: Position,
}

impl Tunnel {
    /// What stands where a tunnel has gone from a running configuration, so that the others keep their numbers: no tunnel.
    #[must_use]
    pub fn vacant() -> Tunnel {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Tunnel {
            name: String::new(),
            enabled: false,
            local: Local::Address(nowhere),
            remote: nowhere,
            inner: None,
            peer: None,
            routes: Vec::new(),
            key: None,
            checksum: false,
            sequence: false,
            ttl: 64,
            mtu: Mtu::Auto,
            fragment: false,
            clamp_mss: false,
            payload: Payload::Ip,
            encapsulation: Encapsulation::Gre,
            bridge: None,
            keepalive: None,
            protect: Protect::None,
            max_depth: 1,
            at: Position::nowhere(),
        }
    }

    /// Is there no tunnel, only a number?
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }
}

/// Our outer address of a tunnel.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Local {
    /// A fixed address.
    Address(IpAddr),
    /// `carp:VHID@IF`: the virtual address that this group of routers shares.
    Carp {
        /// The group.
        group: Group,
        /// Its address, where `[carp]` gives it.
        address: Option<IpAddr>,
    },
}

impl Local {
    /// The address, as far as it is known.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Local::Address(address) => Some(*address),
            Local::Carp { address, .. } => *address,
        }
    }

    /// The group of routers that share the address.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        match self {
            Local::Address(_) => None,
            Local::Carp { group, .. } => Some(group),
        }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Address(address) => write!(f, "{address}"),
            Local::Carp { group, .. } => write!(f, "carp:{group}"),
        }
    }
}

/// How long an inner packet of a tunnel may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mtu {
    /// As long as the outer packet still fits the path.
    Auto,
    /// This many bytes, 576 to 65535; at least 1280 where the tunnel carries IPv6 (RFC 8200 section 5).
    Bytes(u16),
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload {
    /// IPv4 and IPv6 packets.
    Ip,
    /// Ethernet frames (transparent Ethernet bridging).
    Ethernet,
}

/// What the GRE packets of an unprotected tunnel go in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encapsulation {
    /// IP, as protocol 47.
    Gre,
    /// UDP (RFC 8086), with a source port for each flow.
    Udp,
}

impl Encapsulation {
    /// The name that configuration and reports use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Encapsulation::Gre => "gre",
            Encapsulation::Udp => "udp",
        }
    }
}

/// GRE keepalives of a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// Time between two keepalives, 100 ms to 1 h.
    pub period: Duration,
    /// How many may stay unanswered before the tunnel is down, 1 to 255.
    pub retries: u8,
}

/// How a tunnel's GRE packets are protected.
#[derive(Clone, Debug, PartialEq)]
pub enum Protect {
    /// Not at all: `protect = "none"`.
    None,
    /// By ESP with fixed keys.
    Manual(Manual),
    /// By ESP with keys from IKE.
    Ike(Box<Ike>),
}

impl Protect {
    /// From now on, nothing says where it stands: for comparisons.
    pub(crate) fn forget_places(&mut self) {
        match self {
            Protect::None => {}
            Protect::Manual(manual) => manual.sas.iter_mut().for_each(|sa| sa.at = Position::nowhere()),
            Protect::Ike(ike) => ike.at = Position::nowhere(),
        }
    }
}

/// ESP's way to carry the GRE packet (RFC 4303 section 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Outer IP, ESP, GRE.
    Transport,
    /// Outer IP, ESP, IP, GRE.
    Tunnel,
}

/// `[tunnel.protect]` with fixed SAs.
#[derive(Clone, Debug, PartialEq)]
pub struct Manual {
    /// Transport or tunnel mode.
    pub mode: Mode,
    /// Multiple that the ESP plaintext is padded to, in bytes: 4 or 16.
    pub pad: u8,
    /// At least one SA, at most one of them outbound.
    pub sas: Vec<ManualSa>,
}

impl Manual {
    /// The outbound SA, if there is one.
    #[must_use]
    pub fn outbound(&self) -> Option<&ManualSa> {
        self.sas.iter().find(|sa| sa.direction == Direction::Out)
    }

    /// The inbound SAs.
    pub fn inbound(&self) -> impl Iterator<Item = &ManualSa> {
        self.sas.iter().filter(|sa| sa.direction == Direction::In)
    }
}

/// Which way an SA's packets go, as this router sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Towards us.
    In,
    /// Away from us.
    Out,
}

/// An AEAD for ESP with a 16-byte ICV (RFC 4106, RFC 7634).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Suite {
    /// `aes128gcm16`.
    Aes128Gcm16,
    /// `aes256gcm16`.
    Aes256Gcm16,
    /// `chacha20poly1305`.
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite, in the order of the documentation.
    pub const ALL: [Suite; 3] = [Suite::Aes128Gcm16, Suite::Aes256Gcm16, Suite::ChaCha20Poly1305];

    /// Length in bytes of the salt that follows the cipher key (RFC 4106 section 8.1, RFC 7634 section 2).
    pub const SALT_LEN: usize = 4;

    /// Length of the cipher key in bytes, without the salt.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Suite::Aes128Gcm16 => 16,
            Suite::Aes256Gcm16 | Suite::ChaCha20Poly1305 => 32,
        }
    }

    /// The name that configuration and command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Suite::Aes128Gcm16 => "aes128gcm16",
            Suite::Aes256Gcm16 => "aes256gcm16",
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }

    /// The suite of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `[[tunnel.protect.manual]]`: a fixed SA.
#[derive(Clone, Debug, PartialEq)]
pub struct ManualSa {
    /// Which way its packets go.
    pub direction: Direction,
    /// Its number in host byte order, 256 or more (RFC 4303 section 2.1).
    pub spi: u32,
    /// Its AEAD.
    pub suite: Suite,
    /// Whether sequence numbers have 64 bits (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Cipher key and salt, as long as the suite wants them together.
    pub key: Secret,
    /// UDP encapsulation (RFC 3948), if any.
    pub udp_encap: Option<UdpEncap>,
    /// Replay window in packets, 64 to 65536. Means nothing for an outbound SA.
    pub replay_window: u32,
    /// Where the entry stands.
    pub at: Position,
}

impl ManualSa {
    /// The cipher key: [`Suite::key_len`] bytes.
    #[must_use]
    pub fn cipher_key(&self) -> &[u8] {
        self.key.expose().split_last_chunk::<{ Suite::SALT_LEN }>().map_or(&[], |(key, _)| key)
    }

    /// The salt, in the order of the wire.
    #[must_use]
    pub fn salt(&self) -> [u8; Suite::SALT_LEN] {
        self.key.expose().last_chunk().copied().unwrap_or_default()
    }
}

/// UDP ports of encapsulated ESP as they stand in the packets of the SA, in host byte order, neither 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UdpEncap {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// Bytes that are never shown and are wiped when dropped.
#[derive(Clone, PartialEq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps bytes that are to stay hidden.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves, for the one place that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// `[[route]]`: a static route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it leads to, without host bits; unique among routes.
    pub prefix: Prefix,
    /// How packets get there.
    pub target: RouteTarget,
    /// Where the entry stands.
    pub at: Position,
}

/// How packets follow a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteTarget {
    /// Out of a port.
    Port {
        /// The port's name; it exists.
        port: String,
        /// The next router, of the prefix's family; `None`: the destination itself is the neighbour.
        via: Option<IpAddr>,
    },
    /// Into a tunnel.
    Tunnel(
        /// The tunnel's name; it exists.
        String,
    ),
}

/// `[[neighbour]]`: the Ethernet address of a host beside us.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// The port it is reached through; it exists.
    pub port: String,
    /// Its Ethernet address: unicast, not zero.
    pub mac: Mac,
    /// Where the entry stands.
    pub at: Position,
}
