//! Neighbour discovery (RFC 4861): solicitations and advertisements, the two messages of ICMPv6 that do for IPv6 what ARP
//! does for IPv4. Router discovery and redirects are not handled.
//! Parsing: 1. code 0, and a target that is not multicast; 2. the options one by one, none of length 0; 3. the one that holds
//! a link address. What the IPv6 header must say is for the caller to check: hop limit 255, and the rules that
//! [`Nd::parse`] takes the addresses for.

use super::{Icmpv6, MacAddr, Malformed, Sum, protocol};
use std::net::Ipv6Addr;

/// ICMPv6 type of a solicitation (RFC 4861 §4.3).
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement (RFC 4861 §4.4).
pub const ADVERTISEMENT: u8 = 136;
/// The hop limit that proves that no router was in between (RFC 4861 §3.1).
pub const HOP_LIMIT: u8 = 255;
/// Length in bytes of a message with the one option that is written: header, target, link address.
pub const LEN: usize = 32;

/// Option: link address of the sender (RFC 4861 §4.6.1).
const SOURCE_LINK: u8 = 1;
/// Option: link address of the target (RFC 4861 §4.6.1).
const TARGET_LINK: u8 = 2;
/// Options are measured in units of eight bytes (RFC 4861 §4.6).
const UNIT: usize = 8;
/// The flags of an advertisement, in the first byte behind the checksum (RFC 4861 §4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A checked solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nd {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    link: Option<MacAddr>,
}

impl Nd {
    /// Reads a message of a packet from `src` to `dst`, its checksum verified before.
    ///
    /// # Errors
    /// What RFC 4861 §7.1.1 and §7.1.2 say is to be discarded: [`Malformed::Truncated`] when shorter than target and options
    /// say, [`Malformed::Length`] for an option of length 0, or a link address that is none of Ethernet's,
    /// [`Malformed::AddressFormat`] for another type or code, and for a target, source, destination or link address that the
    /// message must not have.
    pub fn parse(icmp: &Icmpv6<'_>, src: Ipv6Addr, dst: Ipv6Addr) -> Result<Self, Malformed> {
        let kind = icmp.kind();
        if !matches!(kind, SOLICITATION | ADVERTISEMENT) || icmp.code() != 0 {
            return Err(Malformed::AddressFormat);
        }
        let (target, options) = icmp.body().split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
        let target = Ipv6Addr::from_octets(*target);
        let [flags, ..] = icmp.rest();
        let wanted = if kind == SOLICITATION { SOURCE_LINK } else { TARGET_LINK };
        let link = link_option(options, wanted)?;
        let message = Self { kind, flags, target, link };
        if target.is_multicast() || target.is_unspecified() || src.is_multicast() {
            return Err(Malformed::AddressFormat);
        }
        let probe = kind == SOLICITATION && src.is_unspecified();
        if probe && (dst != solicited_node(target) || link.is_some()) {
            return Err(Malformed::AddressFormat);
        }
        if kind == ADVERTISEMENT && (src.is_unspecified() || dst.is_multicast() && message.solicited()) {
            return Err(Malformed::AddressFormat);
        }
        Ok(message)
    }

    /// [`SOLICITATION`] or [`ADVERTISEMENT`].
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// The address that is asked for or spoken of.
    #[must_use]
    pub const fn target(&self) -> Ipv6Addr {
        self.target
    }

    /// The link address given: the sender's in a solicitation, the target's in an advertisement. Unicast, not zero.
    #[must_use]
    pub const fn link(&self) -> Option<MacAddr> {
        self.link
    }

    /// An advertisement that answers a solicitation.
    #[must_use]
    pub const fn solicited(&self) -> bool {
        self.flags & SOLICITED != 0
    }

    /// An advertisement that may replace the link address known before.
    #[must_use]
    pub const fn overrides(&self) -> bool {
        self.flags & OVERRIDE != 0
    }
}

/// The link address in the last option of type `wanted`.
fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, Malformed> {
    let mut link = None;
    while let Some(([kind, units], _)) = options.split_first_chunk::<2>() {
        let len = usize::from(*units) * UNIT;
        if len == 0 {
            return Err(Malformed::Length);
        }
        let (option, rest) = options.split_at_checked(len).ok_or(Malformed::Truncated)?;
        if *kind == wanted {
            // RFC 2464 §6: the option is one unit long.
            let [_, _, a, b, c, d, e, f] = *option else { return Err(Malformed::Length) };
            let mac = MacAddr([a, b, c, d, e, f]);
            if mac.is_multicast() || mac == MacAddr::default() {
                return Err(Malformed::AddressFormat);
            }
            link = Some(mac);
        }
        options = rest;
    }
    if options.is_empty() { Ok(link) } else { Err(Malformed::Truncated) }
}

/// The group that solicitations for an address are sent to (RFC 4291 §2.7.1).
#[must_use]
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The link address of an IPv6 group (RFC 2464 §7).
#[must_use]
pub const fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The link-local address that a station makes of its link address (RFC 4862 §5.3, RFC 2464 §4).
#[must_use]
pub const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A message to write; each carries the sender's link address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdMessage {
    /// Who has that address?
    Solicitation {
        /// The address.
        target: Ipv6Addr,
        /// The sender's link address.
        mac: MacAddr,
    },
    /// A router has that address. It replaces what was known before.
    Advertisement {
        /// The address.
        target: Ipv6Addr,
        /// Its link address.
        mac: MacAddr,
        /// Whether this is an answer.
        solicited: bool,
    },
}

impl NdMessage {
    /// Writes the message, to go from `src` to `dst` with [`HOP_LIMIT`].
    pub fn emit(&self, out: &mut [u8; LEN], src: Ipv6Addr, dst: Ipv6Addr) {
        let (kind, flags, target, option, mac) = match *self {
            Self::Solicitation { target, mac } => (SOLICITATION, 0, target, SOURCE_LINK, mac),
            Self::Advertisement { target, mac, solicited } => {
                let flags = ROUTER | OVERRIDE | if solicited { SOLICITED } else { 0 };
                (ADVERTISEMENT, flags, target, TARGET_LINK, mac)
            }
        };
        let [a, b, c, d, e, f] = mac.0;
        let [header @ .., _, _, _, _, _, _, _, _] = out;
        let (fixed, address) = header.split_at_mut(8);
        fixed.copy_from_slice(&[kind, 0, 0, 0, flags, 0, 0, 0]);
        address.copy_from_slice(&target.octets());
        if let Some(tail) = out.last_chunk_mut() {
            *tail = [option, 1, a, b, c, d, e, f];
        }
        let check = Sum::pseudo_v6(src, dst, protocol::ICMPV6, LEN as u32).with(out).finish();
        [out[2], out[3]] = check.to_be_bytes();
    }
}
