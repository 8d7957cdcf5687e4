//! The messages of FreeBSD's routing sockets and of the sysctls below `net.route` (route(4), sysctl(3)), for 64-bit
//! systems: headers, the socket addresses that follow them, and the constants by which both are read. The names are those of
//! `<net/route.h>`, `<net/if.h>`, `<net/if_dl.h>` and `<netinet/in.h>`.
//!
//! They are compiled on every system, so that what reads them can be tested on every system; only FreeBSD's kernel
//! speaks them. All fields are in the byte order of the machine, but for IP addresses and ports.

use bytemuck::{Pod, Zeroable};

constants! {
    /// The version of all messages here.
    pub const RTM_VERSION: u8 = 5;
    /// A route, or a link-layer address, has come ([`rt_msghdr`]).
    pub const RTM_ADD: u8 = 0x1;
    /// A route, or a link-layer address, has gone ([`rt_msghdr`]).
    pub const RTM_DELETE: u8 = 0x2;
    /// A route has changed ([`rt_msghdr`]).
    pub const RTM_CHANGE: u8 = 0x3;
    /// An entry of a table that was asked for ([`rt_msghdr`]).
    pub const RTM_GET: u8 = 0x4;
    /// A destination seems to be cut off ([`rt_msghdr`]).
    pub const RTM_LOSING: u8 = 0x5;
    /// An ICMP redirect was obeyed ([`rt_msghdr`]).
    pub const RTM_REDIRECT: u8 = 0x6;
    /// An interface has an address (`ifa_msghdr`; [`ifa_msghdrl`] from the sysctl).
    pub const RTM_NEWADDR: u8 = 0xc;
    /// An interface has an address no more (`ifa_msghdr`).
    pub const RTM_DELADDR: u8 = 0xd;
    /// An interface is, or has changed (`if_msghdr`; [`if_msghdrl`] from the sysctl).
    pub const RTM_IFINFO: u8 = 0xe;
    /// An interface has come or gone (`if_announcemsghdr`).
    pub const RTM_IFANNOUNCE: u8 = 0x11;

    /// The route is in use.
    pub const RTF_UP: i32 = 0x1;
    /// The gateway is a router, not the link itself.
    pub const RTF_GATEWAY: i32 = 0x2;
    /// The destination is a single address, and there is no mask.
    pub const RTF_HOST: i32 = 0x4;
    /// Packets are refused with an ICMP error.
    pub const RTF_REJECT: i32 = 0x8;
    /// The message tells of something done.
    pub const RTF_DONE: i32 = 0x40;
    /// A link-layer address, not a route.
    pub const RTF_LLINFO: i32 = 0x400;
    /// Set by hand; of a link-layer address: permanent.
    pub const RTF_STATIC: i32 = 0x800;
    /// Packets are dropped in silence.
    pub const RTF_BLACKHOLE: i32 = 0x1000;
    /// Set by the system; of a link-layer address: the system's own.
    pub const RTF_PINNED: i32 = 0x10_0000;
    /// A broadcast address.
    pub const RTF_BROADCAST: i32 = 0x40_0000;
    /// A multicast address.
    pub const RTF_MULTICAST: i32 = 0x80_0000;

    /// A destination follows the header. Addresses follow in the order of these bits.
    pub const RTA_DST: i32 = 0x1;
    /// A gateway follows.
    pub const RTA_GATEWAY: i32 = 0x2;
    /// A mask follows.
    pub const RTA_NETMASK: i32 = 0x4;
    /// A [`sockaddr_dl`] with the interface's name follows.
    pub const RTA_IFP: i32 = 0x10;
    /// The interface's address follows.
    pub const RTA_IFA: i32 = 0x20;
    /// A broadcast address, or the far end's address, follows.
    pub const RTA_BRD: i32 = 0x80;

    /// sysctl below `net.route`: all routes.
    pub const NET_RT_DUMP: i32 = 1;
    /// sysctl below `net.route`: entries with certain flags; with [`RTF_LLINFO`], link-layer addresses.
    pub const NET_RT_FLAGS: i32 = 2;
    /// sysctl below `net.route`: all interfaces and their addresses, with headers that say how long they are.
    pub const NET_RT_IFLISTL: i32 = 5;
    /// sysctl: the network.
    pub const CTL_NET: i32 = 4;
    /// Routing sockets, and their sysctls.
    pub const PF_ROUTE: i32 = 17;
    /// The family of [`sockaddr_in`].
    pub const AF_INET: u8 = 2;
    /// The family of [`sockaddr_dl`].
    pub const AF_LINK: u8 = 18;
    /// The family of [`sockaddr_in6`].
    pub const AF_INET6: u8 = 28;

    /// The interface is up, as its administrator wishes.
    pub const IFF_UP: i32 = 0x1;
    /// There is one far end.
    pub const IFF_POINTOPOINT: i32 = 0x10;
    /// The link is down.
    pub const LINK_STATE_DOWN: u8 = 1;
    /// Ethernet.
    pub const IFT_ETHER: u8 = 0x6;
    /// Loopback.
    pub const IFT_LOOP: u8 = 0x18;
    /// An encapsulating interface.
    pub const IFT_TUNNEL: u8 = 0x83;
    /// A VLAN (IEEE 802.1Q).
    pub const IFT_L2VLAN: u8 = 0x87;
    /// An aggregate of links (IEEE 802.3ad).
    pub const IFT_IEEE8023ADLAG: u8 = 0xa1;
    /// A bridge.
    pub const IFT_BRIDGE: u8 = 0xd1;
}

/// Metrics of a route.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct rt_metrics {
    /// Metrics that the kernel leaves alone.
    pub rmx_locks: u64,
    /// MTU in bytes, or 0.
    pub rmx_mtu: u64,
    /// Expected hops.
    pub rmx_hopcount: u64,
    /// When it ends, in seconds; 0: never.
    pub rmx_expire: u64,
    /// Not used here.
    pub rmx_recvpipe: u64,
    /// Not used here.
    pub rmx_sendpipe: u64,
    /// Not used here.
    pub rmx_ssthresh: u64,
    /// Not used here.
    pub rmx_rtt: u64,
    /// Not used here.
    pub rmx_rttvar: u64,
    /// Packets sent.
    pub rmx_pksent: u64,
    /// Its share of the packets, among next hops of one destination.
    pub rmx_weight: u64,
    /// The kernel's number for the next hop.
    pub rmx_nhidx: u64,
    /// Zero.
    pub rmx_filler: [u64; 2],
}

/// A route, or a link-layer address. Socket addresses follow, each rounded up to 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct rt_msghdr {
    /// Bytes of the message, addresses included.
    pub rtm_msglen: u16,
    /// [`RTM_VERSION`].
    pub rtm_version: u8,
    /// `RTM_*`.
    pub rtm_type: u8,
    /// The interface's number.
    pub rtm_index: u16,
    /// Zero.
    pub _rtm_spare1: u16,
    /// `RTF_*`.
    pub rtm_flags: i32,
    /// `RTA_*`: the addresses that follow.
    pub rtm_addrs: i32,
    /// The process that asked.
    pub rtm_pid: i32,
    /// Its number for the request.
    pub rtm_seq: i32,
    /// Why it failed, or 0.
    pub rtm_errno: i32,
    /// Not used here.
    pub rtm_fmask: i32,
    /// Not used here.
    pub rtm_inits: u64,
    /// Metrics.
    pub rtm_rmx: rt_metrics,
}

/// The state and the counters of an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct if_data {
    /// `IFT_*`.
    pub ifi_type: u8,
    /// Not used here.
    pub ifi_physical: u8,
    /// Bytes of its link-layer address.
    pub ifi_addrlen: u8,
    /// Bytes of its link-layer header.
    pub ifi_hdrlen: u8,
    /// `LINK_STATE_*`.
    pub ifi_link_state: u8,
    /// CARP's virtual host of an address, or 0.
    pub ifi_vhid: u8,
    /// Bytes of this structure.
    pub ifi_datalen: u16,
    /// MTU in bytes.
    pub ifi_mtu: u32,
    /// Not used here.
    pub ifi_metric: u32,
    /// Bits per second.
    pub ifi_baudrate: u64,
    /// Packets received.
    pub ifi_ipackets: u64,
    /// Errors on receipt.
    pub ifi_ierrors: u64,
    /// Packets sent.
    pub ifi_opackets: u64,
    /// Errors on sending.
    pub ifi_oerrors: u64,
    /// Collisions.
    pub ifi_collisions: u64,
    /// Bytes received.
    pub ifi_ibytes: u64,
    /// Bytes sent.
    pub ifi_obytes: u64,
    /// Multicast packets received.
    pub ifi_imcasts: u64,
    /// Multicast packets sent.
    pub ifi_omcasts: u64,
    /// Packets dropped on receipt.
    pub ifi_iqdrops: u64,
    /// Packets dropped on sending.
    pub ifi_oqdrops: u64,
    /// Packets of an unknown protocol.
    pub ifi_noproto: u64,
    /// Offloads.
    pub ifi_hwassist: u64,
    /// When it was attached.
    pub __ifi_epoch: u64,
    /// When it last changed.
    pub __ifi_lastchange: [u64; 2],
}

/// An interface, from [`NET_RT_IFLISTL`]. Socket addresses follow after `ifm_len` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct if_msghdrl {
    /// Bytes of the message, addresses included.
    pub ifm_msglen: u16,
    /// [`RTM_VERSION`].
    pub ifm_version: u8,
    /// [`RTM_IFINFO`].
    pub ifm_type: u8,
    /// `RTA_*`: the addresses that follow.
    pub ifm_addrs: i32,
    /// `IFF_*`.
    pub ifm_flags: i32,
    /// Its number.
    pub ifm_index: u16,
    /// Zero.
    pub _ifm_spare1: u16,
    /// Bytes of this header, `ifm_data` included.
    pub ifm_len: u16,
    /// Where `ifm_data` begins.
    pub ifm_data_off: u16,
    /// Zero.
    pub _ifm_spare2: i32,
    /// Its state.
    pub ifm_data: if_data,
}

/// An address of an interface, from [`NET_RT_IFLISTL`]. Socket addresses follow after `ifam_len` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ifa_msghdrl {
    /// Bytes of the message, addresses included.
    pub ifam_msglen: u16,
    /// [`RTM_VERSION`].
    pub ifam_version: u8,
    /// [`RTM_NEWADDR`].
    pub ifam_type: u8,
    /// `RTA_*`: the addresses that follow.
    pub ifam_addrs: i32,
    /// Flags of the address.
    pub ifam_flags: i32,
    /// The interface's number.
    pub ifam_index: u16,
    /// Zero.
    pub _ifam_spare1: u16,
    /// Bytes of this header, `ifam_data` included.
    pub ifam_len: u16,
    /// Where `ifam_data` begins.
    pub ifam_data_off: u16,
    /// Not used here.
    pub ifam_metric: i32,
    /// Its state and counters.
    pub ifam_data: if_data,
}

/// An IPv4 address, as FreeBSD lays it out.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sockaddr_in {
    /// Bytes of it.
    pub sin_len: u8,
    /// [`AF_INET`].
    pub sin_family: u8,
    /// Port, in network order.
    pub sin_port: u16,
    /// The address, in network order.
    pub sin_addr: [u8; 4],
    /// Zero.
    pub sin_zero: [u8; 8],
}

/// An IPv6 address, as FreeBSD lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sockaddr_in6 {
    /// Bytes of it.
    pub sin6_len: u8,
    /// [`AF_INET6`].
    pub sin6_family: u8,
    /// Port, in network order.
    pub sin6_port: u16,
    /// Flow label.
    pub sin6_flowinfo: u32,
    /// The address, in network order.
    pub sin6_addr: [u8; 16],
    /// The interface of a link-local address, or 0.
    pub sin6_scope_id: u32,
}

/// A link-layer address, an interface's name, or both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sockaddr_dl {
    /// Bytes of it.
    pub sdl_len: u8,
    /// [`AF_LINK`].
    pub sdl_family: u8,
    /// The interface's number, or 0.
    pub sdl_index: u16,
    /// `IFT_*`.
    pub sdl_type: u8,
    /// Bytes of the name.
    pub sdl_nlen: u8,
    /// Bytes of the address.
    pub sdl_alen: u8,
    /// Zero.
    pub sdl_slen: u8,
    /// The name, then the address; it may be longer than this.
    pub sdl_data: [u8; 46],
}
