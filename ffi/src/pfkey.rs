//! The messages of PF_KEY version 2 (RFC 2367) as FreeBSD has them: the header, the extensions that follow it, and the constants
//! by which both are read. The names are those of `<net/pfkeyv2.h>` and `<netipsec/ipsec.h>`.
//!
//! They are compiled on every system, so that what reads them can be tested on every system; only FreeBSD's kernel speaks
//! them so. Lengths count 8 bytes. All fields are in the byte order of the machine, but for SPIs, addresses and ports, which are in network order.

use bytemuck::{Pod, Zeroable};

constants! {
    /// The family of the sockets.
    pub const PF_KEY: i32 = 27;
    /// The version of all messages here; also the protocol of the socket.
    pub const PF_KEY_V2: u8 = 2;

    /// An SA's place is taken.
    pub const SADB_GETSPI: u8 = 1;
    /// An SA has been completed, or changed.
    pub const SADB_UPDATE: u8 = 2;
    /// An SA has come.
    pub const SADB_ADD: u8 = 3;
    /// An SA is taken away.
    pub const SADB_DELETE: u8 = 4;
    /// An SA is asked for, or was.
    pub const SADB_GET: u8 = 5;
    /// Someone wishes to hear when SAs end.
    pub const SADB_REGISTER: u8 = 7;
    /// The time of an SA is over, or nearly so.
    pub const SADB_EXPIRE: u8 = 8;
    /// All SAs of a kind are taken away.
    pub const SADB_FLUSH: u8 = 9;
    /// All SAs are asked for; also each of them.
    pub const SADB_DUMP: u8 = 10;

    /// Kind of SA: any.
    pub const SADB_SATYPE_UNSPEC: u8 = 0;
    /// Kind of SA: ESP.
    pub const SADB_SATYPE_ESP: u8 = 3;

    /// Extension: [`sadb_sa`].
    pub const SADB_EXT_SA: u16 = 1;
    /// Extension: [`sadb_lifetime`], what the SA has done.
    pub const SADB_EXT_LIFETIME_CURRENT: u16 = 2;
    /// Extension: [`sadb_lifetime`], when it ends.
    pub const SADB_EXT_LIFETIME_HARD: u16 = 3;
    /// Extension: [`sadb_lifetime`], when it is to be replaced.
    pub const SADB_EXT_LIFETIME_SOFT: u16 = 4;
    /// Extension: [`sadb_address`], where its packets come from.
    pub const SADB_EXT_ADDRESS_SRC: u16 = 5;
    /// Extension: [`sadb_address`], where its packets go.
    pub const SADB_EXT_ADDRESS_DST: u16 = 6;
    /// Extension: [`sadb_key`] of the cipher.
    pub const SADB_EXT_KEY_ENCRYPT: u16 = 9;
    /// Extension: [`sadb_x_sa2`].
    pub const SADB_X_EXT_SA2: u16 = 19;
    /// Extension: [`sadb_x_nat_t_type`].
    pub const SADB_X_EXT_NAT_T_TYPE: u16 = 20;
    /// Extension: [`sadb_x_nat_t_port`], the source's.
    pub const SADB_X_EXT_NAT_T_SPORT: u16 = 21;
    /// Extension: [`sadb_x_nat_t_port`], the destination's.
    pub const SADB_X_EXT_NAT_T_DPORT: u16 = 22;
    /// Extension: [`sadb_x_sa_replay`].
    pub const SADB_X_EXT_SA_REPLAY: u16 = 26;
    /// Extension: [`sadb_address`], where the packets of an SA that is updated come from henceforth.
    pub const SADB_X_EXT_NEW_ADDRESS_SRC: u16 = 27;
    /// Extension: [`sadb_address`], where the packets of an SA that is updated go henceforth.
    pub const SADB_X_EXT_NEW_ADDRESS_DST: u16 = 28;

    /// State of an SA: without keys yet.
    pub const SADB_SASTATE_LARVAL: u8 = 0;
    /// State of an SA: in use.
    pub const SADB_SASTATE_MATURE: u8 = 1;
    /// State of an SA: to be replaced.
    pub const SADB_SASTATE_DYING: u8 = 2;
    /// State of an SA: over.
    pub const SADB_SASTATE_DEAD: u8 = 3;
    /// Flag of an SA: its sequence numbers have 64 bits.
    pub const SADB_X_SAFLAGS_ESN: u32 = 0x400;

    /// Cipher: AES-GCM with an ICV of 16 bytes (RFC 4106).
    pub const SADB_X_EALG_AESGCM16: u8 = 20;
    /// Cipher: ChaCha20-Poly1305 (RFC 7634).
    pub const SADB_X_EALG_CHACHA20POLY1305: u8 = 15;

    /// Transport mode.
    pub const IPSEC_MODE_TRANSPORT: u8 = 1;
    /// Tunnel mode.
    pub const IPSEC_MODE_TUNNEL: u8 = 2;
}

/// What every message begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_msg {
    /// [`PF_KEY_V2`].
    pub sadb_msg_version: u8,
    /// What it says: `SADB_GETSPI` and so on.
    pub sadb_msg_type: u8,
    /// Why what was asked for was not done; 0 where it was.
    pub sadb_msg_errno: u8,
    /// Kind of SA.
    pub sadb_msg_satype: u8,
    /// How long it is, with its extensions.
    pub sadb_msg_len: u16,
    /// Zero.
    pub sadb_msg_reserved: u16,
    /// Number that the asker gave it. In a dump: how many are left.
    pub sadb_msg_seq: u32,
    /// The asker's process.
    pub sadb_msg_pid: u32,
}

/// What every extension begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_ext {
    /// How long it is.
    pub sadb_ext_len: u16,
    /// Which it is.
    pub sadb_ext_type: u16,
}

/// An SA.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_sa {
    /// How long it is.
    pub sadb_sa_len: u16,
    /// [`SADB_EXT_SA`].
    pub sadb_sa_exttype: u16,
    /// SPI, in network order.
    pub sadb_sa_spi: u32,
    /// Bytes of the window's bitmap: eight packets each.
    pub sadb_sa_replay: u8,
    /// `SADB_SASTATE_*`.
    pub sadb_sa_state: u8,
    /// Authentication.
    pub sadb_sa_auth: u8,
    /// `SADB_X_EALG_*`.
    pub sadb_sa_encrypt: u8,
    /// `SADB_X_SAFLAGS_*`.
    pub sadb_sa_flags: u32,
}

/// Limits, or what has been done; 0 for no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_lifetime {
    /// How long it is.
    pub sadb_lifetime_len: u16,
    /// `SADB_EXT_LIFETIME_*`.
    pub sadb_lifetime_exttype: u16,
    /// Connections; FreeBSD: packets.
    pub sadb_lifetime_allocations: u32,
    /// Bytes.
    pub sadb_lifetime_bytes: u64,
    /// Seconds since it came; or when it came.
    pub sadb_lifetime_addtime: u64,
    /// Seconds since it was first used; or when that was.
    pub sadb_lifetime_usetime: u64,
}

/// An address; a socket address follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_address {
    /// How long it is.
    pub sadb_address_len: u16,
    /// `SADB_EXT_ADDRESS_*`.
    pub sadb_address_exttype: u16,
    /// Protocol.
    pub sadb_address_proto: u8,
    /// Bits that count.
    pub sadb_address_prefixlen: u8,
    /// Zero.
    pub sadb_address_reserved: u16,
}

/// A key; its bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_key {
    /// How long it is.
    pub sadb_key_len: u16,
    /// `SADB_EXT_KEY_*`.
    pub sadb_key_exttype: u16,
    /// Bits of the key, salt included.
    pub sadb_key_bits: u16,
    /// Zero.
    pub sadb_key_reserved: u16,
}

/// What else there is to an SA.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_x_sa2 {
    /// How long it is.
    pub sadb_x_sa2_len: u16,
    /// [`SADB_X_EXT_SA2`].
    pub sadb_x_sa2_exttype: u16,
    /// `IPSEC_MODE_*`.
    pub sadb_x_sa2_mode: u8,
    /// Zero.
    pub sadb_x_sa2_reserved1: u8,
    /// Zero.
    pub sadb_x_sa2_reserved2: u16,
    /// Last number sent, lower half.
    pub sadb_x_sa2_sequence: u32,
    /// Number that its owner gave it.
    pub sadb_x_sa2_reqid: u32,
}

/// ESP in UDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_x_nat_t_type {
    /// How long it is.
    pub sadb_x_nat_t_type_len: u16,
    /// [`SADB_X_EXT_NAT_T_TYPE`].
    pub sadb_x_nat_t_type_exttype: u16,
    /// `UDP_ENCAP_*` of `<netinet/udp.h>`: 2 for ESP in UDP, 0 for none.
    pub sadb_x_nat_t_type_type: u8,
    /// Zero.
    pub sadb_x_nat_t_type_reserved: [u8; 3],
}

/// A UDP port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_x_nat_t_port {
    /// How long it is.
    pub sadb_x_nat_t_port_len: u16,
    /// [`SADB_X_EXT_NAT_T_SPORT`] or [`SADB_X_EXT_NAT_T_DPORT`].
    pub sadb_x_nat_t_port_exttype: u16,
    /// The port, in network order.
    pub sadb_x_nat_t_port_port: u16,
    /// Zero.
    pub sadb_x_nat_t_port_reserved: u16,
}

/// A window that [`sadb_sa`] has no room for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct sadb_x_sa_replay {
    /// How long it is.
    pub sadb_x_sa_replay_len: u16,
    /// [`SADB_X_EXT_SA_REPLAY`].
    pub sadb_x_sa_replay_exttype: u16,
    /// The window, in packets.
    pub sadb_x_sa_replay_replay: u32,
}
