//! The messages by which Linux tells of its SAs (`NETLINK_XFRM`): what follows the netlink header, the attributes behind
//! that, and the constants by which both are read. The names are those of `<linux/xfrm.h>`.
//!
//! All fields are in the byte order of the machine, but for addresses, SPIs and ports, which are in network order.

use bytemuck::{Pod, Zeroable};

constants! {
    /// There is an SA (`xfrm_usersa_info`).
    pub const XFRM_MSG_NEWSA: u16 = 0x10;
    /// An SA is taken away ([`xfrm_usersa_id`], and the SA as [`XFRMA_SA`]).
    pub const XFRM_MSG_DELSA: u16 = 0x11;
    /// SAs are asked for ([`xfrm_usersa_id`]).
    pub const XFRM_MSG_GETSA: u16 = 0x12;
    /// The time of an SA is over, or nearly so ([`xfrm_user_expire`]).
    pub const XFRM_MSG_EXPIRE: u16 = 0x18;
    /// An SA is there anew, or has changed (`xfrm_usersa_info`).
    pub const XFRM_MSG_UPDSA: u16 = 0x1a;
    /// All SAs of a protocol are taken away ([`xfrm_usersa_flush`]).
    pub const XFRM_MSG_FLUSHSA: u16 = 0x1c;

    /// Attribute: ESP in UDP ([`xfrm_encap_tmpl`]).
    pub const XFRMA_ENCAP: u16 = 4;
    /// Attribute: an SA (`xfrm_usersa_info`).
    pub const XFRMA_SA: u16 = 6;
    /// Attribute: an AEAD ([`xfrm_algo_aead`], and the key).
    pub const XFRMA_ALG_AEAD: u16 = 18;
    /// Attribute: sequence numbers and a window of any size ([`xfrm_replay_state_esn`], and the window's bits).
    pub const XFRMA_REPLAY_ESN_VAL: u16 = 23;

    /// Group of events: SAs whose time is over, or nearly so.
    pub const XFRMNLGRP_EXPIRE: u32 = 2;
    /// Group of events: SAs that come, change and go.
    pub const XFRMNLGRP_SA: u32 = 3;

    /// Flag of an SA: its sequence numbers have 64 bits.
    pub const XFRM_STATE_ESN: u8 = 128;
    /// Transport mode.
    pub const XFRM_MODE_TRANSPORT: u8 = 0;
    /// Tunnel mode.
    pub const XFRM_MODE_TUNNEL: u8 = 1;
    /// No limit.
    pub const XFRM_INF: u64 = u64::MAX;
}

/// Attribute: whether an SA sends ([`XFRM_SA_DIR_OUT`]) or receives; a byte, since Linux 6.10. Older headers do not have it.
pub const XFRMA_SA_DIR: u16 = 33;
/// It receives.
pub const XFRM_SA_DIR_IN: u8 = 1;
/// It sends.
pub const XFRM_SA_DIR_OUT: u8 = 2;

/// Which packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_selector {
    /// Destination.
    pub daddr: [u8; 16],
    /// Source.
    pub saddr: [u8; 16],
    /// Destination port.
    pub dport: u16,
    /// Bits of it that count.
    pub dport_mask: u16,
    /// Source port.
    pub sport: u16,
    /// Bits of it that count.
    pub sport_mask: u16,
    /// Family of the addresses; 0 where there are none.
    pub family: u16,
    /// Bits of the destination that count.
    pub prefixlen_d: u8,
    /// Bits of the source that count.
    pub prefixlen_s: u8,
    /// Protocol.
    pub proto: u8,
    /// Padding.
    pub pad0: [u8; 3],
    /// Interface.
    pub ifindex: i32,
    /// User.
    pub user: u32,
}

/// What an SA is known by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_id {
    /// Where its packets go.
    pub daddr: [u8; 16],
    /// SPI, in network order.
    pub spi: u32,
    /// Protocol: 50 for ESP.
    pub proto: u8,
    /// Padding.
    pub pad0: [u8; 3],
}

/// When an SA is to be replaced (soft) and when it ends (hard), by each measure; [`XFRM_INF`], or 0 of a time, for never.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_lifetime_cfg {
    /// Bytes.
    pub soft_byte_limit: u64,
    /// Bytes.
    pub hard_byte_limit: u64,
    /// Packets.
    pub soft_packet_limit: u64,
    /// Packets.
    pub hard_packet_limit: u64,
    /// Seconds since it came.
    pub soft_add_expires_seconds: u64,
    /// Seconds since it came.
    pub hard_add_expires_seconds: u64,
    /// Seconds since it was first used.
    pub soft_use_expires_seconds: u64,
    /// Seconds since it was first used.
    pub hard_use_expires_seconds: u64,
}

/// What an SA has done.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_lifetime_cur {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// When it came, in seconds since 1970.
    pub add_time: u64,
    /// When it was first used, in seconds since 1970; 0 where it was not.
    pub use_time: u64,
}

/// What went wrong with an SA's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_stats {
    /// Left of the window.
    pub replay_window: u32,
    /// Seen before.
    pub replay: u32,
    /// Not genuine.
    pub integrity_failed: u32,
}

/// An SA; its attributes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_usersa_info {
    /// Which packets.
    pub sel: xfrm_selector,
    /// What it is known by.
    pub id: xfrm_id,
    /// Where its packets come from.
    pub saddr: [u8; 16],
    /// Its limits.
    pub lft: xfrm_lifetime_cfg,
    /// What it has done.
    pub curlft: xfrm_lifetime_cur,
    /// What went wrong.
    pub stats: xfrm_stats,
    /// Number of the request that led to it.
    pub seq: u32,
    /// Number that its owner gave it.
    pub reqid: u32,
    /// Family of its addresses.
    pub family: u16,
    /// `XFRM_MODE_*`.
    pub mode: u8,
    /// Its window in packets, where no [`XFRMA_REPLAY_ESN_VAL`] says more.
    pub replay_window: u8,
    /// `XFRM_STATE_*`.
    pub flags: u8,
    /// Padding.
    pub pad0: [u8; 7],
}

/// What an SA is asked for by, or was known by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_usersa_id {
    /// Where its packets go.
    pub daddr: [u8; 16],
    /// SPI, in network order.
    pub spi: u32,
    /// Family of the address.
    pub family: u16,
    /// Protocol.
    pub proto: u8,
    /// Padding.
    pub pad0: u8,
}

/// The time of an SA is over, or nearly so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_user_expire {
    /// The SA.
    pub state: xfrm_usersa_info,
    /// Not 0: it is over, and the SA is gone.
    pub hard: u8,
    /// Padding.
    pub pad0: [u8; 7],
}

/// All SAs of a protocol are taken away.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_usersa_flush {
    /// The protocol; 0 for all.
    pub proto: u8,
}

/// An AEAD; the key follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_algo_aead {
    /// The kernel's name of it, ended by a NUL.
    pub alg_name: [u8; 64],
    /// Bits of the key, salt included.
    pub alg_key_len: u32,
    /// Bits of the integrity check value.
    pub alg_icv_len: u32,
}

/// ESP in UDP.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_encap_tmpl {
    /// `UDP_ENCAP_*` of `<linux/udp.h>`: 2 for ESP in UDP.
    pub encap_type: u16,
    /// Source port, in network order.
    pub encap_sport: u16,
    /// Destination port, in network order.
    pub encap_dport: u16,
    /// Padding.
    pub pad0: u16,
    /// Address before the NAT.
    pub encap_oa: [u8; 16],
}

/// Sequence numbers and window; the window's bits follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct xfrm_replay_state_esn {
    /// Words of 32 bits that follow.
    pub bmp_len: u32,
    /// Last number sent, lower half.
    pub oseq: u32,
    /// Highest number received, lower half.
    pub seq: u32,
    /// Last number sent, upper half.
    pub oseq_hi: u32,
    /// Highest number received, upper half.
    pub seq_hi: u32,
    /// The window, in packets.
    pub replay_window: u32,
}
