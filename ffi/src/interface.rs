//! What an interface does by itself, and how to tell it not to: on FreeBSD the capabilities of an interface
//! ([`ifreq`], `<net/if.h>`) and the name of its driver (a sysctl, `<net/if_mib.h>`), on Linux the requests of
//! `<linux/ethtool.h>`.
//!
//! Both systems' are compiled on each, so that they can be compared with the C headers; only its own kernel speaks them.

use bytemuck::{Pod, Zeroable};

use crate::layout::Ioctl;

/// FreeBSD's.
pub(crate) mod freebsd {
    constants! {
        /// Capability: checksums of received IPv4 packets are verified.
        pub const IFCAP_RXCSUM: u32 = 0x1;
        /// Capability: checksums of sent IPv4 packets are filled in.
        pub const IFCAP_TXCSUM: u32 = 0x2;
        /// Capability: VLAN tags are taken off received frames, and put into sent ones.
        pub const IFCAP_VLAN_HWTAGGING: u32 = 0x10;
        /// Capability: checksums inside VLANs.
        pub const IFCAP_VLAN_HWCSUM: u32 = 0x80;
        /// Capability: long TCP segments over IPv4 are cut when sent.
        pub const IFCAP_TSO4: u32 = 0x100;
        /// Capability: long TCP segments over IPv6 are cut when sent.
        pub const IFCAP_TSO6: u32 = 0x200;
        /// Capability: received TCP segments are joined.
        pub const IFCAP_LRO: u32 = 0x400;
        /// Capability: long TCP segments inside VLANs are cut when sent.
        pub const IFCAP_VLAN_HWTSO: u32 = 0x40000;
        /// Capability: the driver has netmap in it; enabled: it is in netmap mode. Cannot be set.
        pub const IFCAP_NETMAP: u32 = 0x100000;
        /// Capability: checksums of received packets over IPv6 are verified.
        pub const IFCAP_RXCSUM_IPV6: u32 = 0x200000;
        /// Capability: checksums of sent packets over IPv6 are filled in.
        pub const IFCAP_TXCSUM_IPV6: u32 = 0x400000;
        /// Capability: checksums inside VXLAN packets.
        pub const IFCAP_VXLAN_HWCSUM: u32 = 0x2000_0000;
        /// Capability: long TCP segments inside VXLAN packets are cut when sent.
        pub const IFCAP_VXLAN_HWTSO: u32 = 0x4000_0000;

        /// Third number of the sysctls about interfaces in general, after `CTL_NET` and `PF_LINK`.
        pub const NETLINK_GENERIC: i32 = 0;
        /// Fourth number: the table of interfaces, with an interface's index behind it.
        pub const IFMIB_IFDATA: i32 = 2;
        /// Last number: the name and unit of the interface's driver, as a C string.
        pub const IFDATA_DRIVERNAME: i32 = 3;
    }
}

/// Linux's.
pub(crate) mod linux {
    constants! {
        /// Request: describe the driver ([`ethtool_drvinfo`](crate::ethtool_drvinfo)).
        pub const ETHTOOL_GDRVINFO: u32 = 0x3;
        /// Request: are received checksums verified ([`ethtool_value`](crate::ethtool_value))?
        pub const ETHTOOL_GRXCSUM: u32 = 0x14;
        /// Request: set that.
        pub const ETHTOOL_SRXCSUM: u32 = 0x15;
        /// Request: are sent checksums filled in?
        pub const ETHTOOL_GTXCSUM: u32 = 0x16;
        /// Request: set that.
        pub const ETHTOOL_STXCSUM: u32 = 0x17;
        /// Request: are long TCP segments cut when sent?
        pub const ETHTOOL_GTSO: u32 = 0x1e;
        /// Request: set that.
        pub const ETHTOOL_STSO: u32 = 0x1f;
        /// Request: are long packets cut by the kernel, just before the driver?
        pub const ETHTOOL_GGSO: u32 = 0x23;
        /// Request: set that.
        pub const ETHTOOL_SGSO: u32 = 0x24;
        /// Request: the `ETH_FLAG_*` that are on.
        pub const ETHTOOL_GFLAGS: u32 = 0x25;
        /// Request: set those.
        pub const ETHTOOL_SFLAGS: u32 = 0x26;
        /// Request: are received packets joined by the kernel?
        pub const ETHTOOL_GGRO: u32 = 0x2b;
        /// Request: set that.
        pub const ETHTOOL_SGRO: u32 = 0x2c;

        /// Flag: the interface puts VLAN tags into sent frames.
        pub const ETH_FLAG_TXVLAN: u32 = 0x80;
        /// Flag: the interface takes VLAN tags off received frames.
        pub const ETH_FLAG_RXVLAN: u32 = 0x100;
        /// Flag: the interface joins received TCP segments.
        pub const ETH_FLAG_LRO: u32 = 0x8000;
    }
}

/// FreeBSD: a request about an interface's capabilities. In C the two numbers are members of a union.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ifreq {
    /// Name of the interface, ended by a zero.
    pub ifr_name: [u8; crate::IFNAMSIZ],
    /// `IFCAP_*` wanted; out: those that the interface can have.
    pub ifr_reqcap: i32,
    /// Out: `IFCAP_*` that are on.
    pub ifr_curcap: i32,
    /// The rest of C's union.
    pub pad0: [u8; 8],
}

/// Linux: a request with one number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ethtool_value {
    /// `ETHTOOL_*`.
    pub cmd: u32,
    /// In or out.
    pub data: u32,
}

/// Linux: what an interface's driver says of itself, in C strings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ethtool_drvinfo {
    /// [`ETHTOOL_GDRVINFO`](crate::ETHTOOL_GDRVINFO).
    pub cmd: u32,
    /// Name of the driver.
    pub driver: [u8; 32],
    /// Its version.
    pub version: [u8; 32],
    /// That of the firmware.
    pub fw_version: [u8; 32],
    /// Where the device is.
    pub bus_info: [u8; 32],
    /// Version of the expansion ROM.
    pub erom_version: [u8; 32],
    /// Zero.
    pub reserved2: [u8; 12],
    /// Number of private flags.
    pub n_priv_flags: u32,
    /// Number of statistics.
    pub n_stats: u32,
    /// Number of self-tests.
    pub testinfo_len: u32,
    /// Bytes of EEPROM.
    pub eedump_len: u32,
    /// Bytes of registers.
    pub regdump_len: u32,
}

/// FreeBSD: the capabilities that an interface can have, and those that are on ([`ifreq`]).
pub const SIOCGIFCAP: crate::IoctlRequest = GET_CAPABILITIES.of_target();
/// FreeBSD: sets an interface's capabilities ([`ifreq`]).
pub const SIOCSIFCAP: crate::IoctlRequest = SET_CAPABILITIES.of_target();

const SET_CAPABILITIES: Ioctl = Ioctl::inwards::<ifreq>("SIOCSIFCAP", 30);
const GET_CAPABILITIES: Ioctl = Ioctl::both_ways::<ifreq>("SIOCGIFCAP", 31);

pub(crate) const FREEBSD_IOCTLS: &[Ioctl] = &[SET_CAPABILITIES, GET_CAPABILITIES];
