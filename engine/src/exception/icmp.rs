//! ICMP errors to the senders of packets that cannot go on (RFC 792, RFC 1812 §4.3 and §5.2.7, RFC 4443).
//!
//! 1. The packet must be one about which an error may be sent (RFC 1812 §4.3.2.7, RFC 4443 §2.4 e): see [`error_for`].
//! 2. The error must make sense for it: nothing is too big that fits.
//! 3. IP and ICMP headers are put in front of as much of the packet as an error carries.
//!
//! How often is another matter: [`super::limit`]. Not done here: source-route options are not turned around (RFC 1812
//! §4.3.2.6), and no extensions of RFC 4884 are added.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{
    Icmpv4Message, Icmpv6Message, Ipv4, Ipv4Header, Ipv6, Ipv6Header, icmpv4, icmpv6, ipv4, ipv6, protocol,
};

/// TTL and hop limit of what we send (the default that IANA's "IP TTL" parameter names).
pub(super) const TTL: u8 = 64;
/// TOS and traffic class of errors: internetwork control, precedence 6 (RFC 1812 §4.3.2.5), which is class selector 6
/// (RFC 2474 §4.2.2.2); not ECN-capable.
const TOS: u8 = 0xc0;
/// The smallest MTU that an IPv4 sender can be told: every link carries it (RFC 791 §3.2).
const IPV4_MIN_MTU: usize = 68;
/// The smallest MTU that IPv6 works with (RFC 8200 §5).
const IPV6_MIN_MTU: usize = 1280;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// No route leads to the destination.
    NoRoute,
    /// The destination, or the next router on the way to it, does not answer on its link.
    HostUnreachable,
    /// Forwarding it is forbidden here.
    Prohibited,
    /// It is longer than the way out allows.
    TooBig {
        /// The longest IP packet that the way out takes, in bytes.
        mtu: usize,
    },
}

/// The ICMP packet that tells the sender of `packet`, an IP packet, what became of it, sent from `from`, an address of
/// ours of the same family. `None` where none may be sent:
///
/// - the packet's header is wrong (RFC 1812 §4.3.2.7);
/// - it is an ICMP error itself, may be one, or is an ICMPv6 redirect;
/// - over IPv4, it is a fragment but not the first (over IPv6, one whose ICMPv6 type cannot be seen);
/// - its source is not the address of one host, or its destination is multicast or broadcast. That an IPv6 packet to
///   multicast is too big is said (RFC 4443 §2.4 e.3);
/// - it is too big only for others: it fits, routers may fragment it, or it is within the 1280 bytes that every IPv6
///   link must take (RFC 8200 §5).
///
/// Packets that came as broadcast or multicast of their link are never forwarded, so they do not come here.
#[must_use]
pub fn error_for(packet: &[u8], what: Error, from: IpAddr) -> Option<Vec<u8>> {
    match from {
        IpAddr::V4(from) => error_v4(packet, what, from),
        IpAddr::V6(from) => error_v6(packet, what, from),
    }
}

fn error_v4(bytes: &[u8], what: Error, from: Ipv4Addr) -> Option<Vec<u8>> {
    let ip = Ipv4::parse(bytes).ok()?;
    let unicast = is_host_v4(ip.src()) && is_host_v4(ip.dst());
    let about_error =
        ip.protocol() == protocol::ICMP && ip.payload().first().is_none_or(|kind| icmpv4::is_error(*kind));
    if !unicast || about_error || ip.fragment_offset() != 0 {
        return None;
    }
    let total_len = usize::from(ip.total_len());
    let message = match what {
        Error::TimeExceeded => Icmpv4Message::TimeExceeded,
        Error::NoRoute => Icmpv4Message::Unreachable { code: icmpv4::NETWORK_UNREACHABLE },
        Error::HostUnreachable => Icmpv4Message::Unreachable { code: icmpv4::HOST_UNREACHABLE },
        Error::Prohibited => Icmpv4Message::Unreachable { code: icmpv4::PROHIBITED },
        Error::TooBig { mtu } if total_len > mtu && ip.dont_fragment() => {
            Icmpv4Message::FragmentationNeeded {
                mtu: u16::try_from(mtu.max(IPV4_MIN_MTU)).unwrap_or(u16::MAX),
            }
        }
        Error::TooBig { .. } => return None,
    };
    let quote = icmpv4::quote(bytes.get(..total_len)?);
    let mut error = packet_v4(from, ip.src(), TOS, None, icmpv4::HEADER_LEN, quote)?;
    message.emit(error.get_mut(ipv4::HEADER_LEN..)?).ok()?;
    Some(error)
}

fn error_v6(bytes: &[u8], what: Error, from: Ipv6Addr) -> Option<Vec<u8>> {
    let ip = Ipv6::parse(bytes).ok()?;
    let upper = ip.upper().ok()?;
    let too_big = matches!(what, Error::TooBig { .. });
    let destination = is_host_v6(ip.dst()) || (too_big && ip.dst().is_multicast());
    // Of a later fragment the type cannot be seen, so it may be an error.
    let kind = upper.payload.first().filter(|_| upper.first);
    let about_error = upper.protocol == protocol::ICMPV6 && kind.is_none_or(|kind| icmpv6::is_error(*kind));
    if !is_host_v6(ip.src()) || !destination || about_error {
        return None;
    }
    let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let message = match what {
        Error::TimeExceeded => Icmpv6Message::TimeExceeded,
        Error::NoRoute => Icmpv6Message::Unreachable { code: icmpv6::NO_ROUTE },
        Error::HostUnreachable => Icmpv6Message::Unreachable { code: icmpv6::ADDRESS_UNREACHABLE },
        Error::Prohibited => Icmpv6Message::Unreachable { code: icmpv6::PROHIBITED },
        // A sender never goes below 1280 bytes (RFC 8201 §4), so telling it less would help nobody.
        Error::TooBig { mtu } if total_len > mtu.max(IPV6_MIN_MTU) => {
            Icmpv6Message::PacketTooBig { mtu: u32::try_from(mtu.max(IPV6_MIN_MTU)).unwrap_or(u32::MAX) }
        }
        Error::TooBig { .. } => return None,
    };
    let quote = icmpv6::quote(bytes.get(..total_len)?);
    let mut error = packet_v6(from, ip.src(), TOS, icmpv6::HEADER_LEN, quote)?;
    message.emit(error.get_mut(ipv6::HEADER_LEN..)?, from, ip.src()).ok()?;
    Some(error)
}

/// Whether an IPv4 address can be one host's: not "this network", loopback, multicast, reserved or broadcast (RFC 1812
/// §5.3.7).
pub(super) fn is_host_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

/// Whether an IPv6 address can be one host's: not the unspecified address, loopback or multicast (RFC 4291 §2).
pub(super) fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// An IPv4 packet with room for an ICMP header of `header_len` bytes in front of `body`. With an identification routers
/// may fragment it; without one they may not, and it needs none (RFC 6864 §4.1).
pub(super) fn packet_v4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    tos: u8,
    id: Option<u16>,
    header_len: usize,
    body: &[u8],
) -> Option<Vec<u8>> {
    let mut packet = with_room(ipv4::HEADER_LEN + header_len, body);
    Ipv4Header {
        tos,
        total_len: u16::try_from(packet.len()).ok()?,
        id: id.unwrap_or(0),
        dont_fragment: id.is_none(),
        ttl: TTL,
        protocol: protocol::ICMP,
        src,
        dst,
    }
    .emit(packet.first_chunk_mut()?);
    Some(packet)
}

/// An IPv6 packet with room for an ICMPv6 header of `header_len` bytes in front of `body`.
pub(super) fn packet_v6(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    traffic_class: u8,
    header_len: usize,
    body: &[u8],
) -> Option<Vec<u8>> {
    let mut packet = with_room(ipv6::HEADER_LEN + header_len, body);
    Ipv6Header {
        traffic_class,
        flow_label: 0,
        payload_len: u16::try_from(header_len + body.len()).ok()?,
        next_header: protocol::ICMPV6,
        hop_limit: TTL,
        src,
        dst,
    }
    .emit(packet.first_chunk_mut()?);
    Some(packet)
}

/// `room` zero bytes, then `body`.
fn with_room(room: usize, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(room + body.len());
    packet.resize(room, 0);
    packet.extend_from_slice(body);
    packet
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exception::samples::{self, checksum, fix_checksum, udp_v4, udp_v6};
    use crate::wire::{Icmpv4, Icmpv6};
    use proptest::prelude::*;

    const OURS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const OURS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    fn about(packet: &[u8], what: Error) -> Option<Vec<u8>> {
        error_for(packet, what, if packet[0] >> 4 == 6 { OURS_V6 } else { OURS_V4 })
    }

    /// Type and code, the four bytes behind the checksum, and the quote, after everything else was checked.
    fn read(error: &[u8], sender: IpAddr) -> ([u8; 2], [u8; 4], &[u8]) {
        match sender {
            IpAddr::V4(sender) => {
                let ip = Ipv4::parse(error).unwrap();
                assert_eq!((IpAddr::V4(ip.src()), ip.dst(), ip.protocol()), (OURS_V4, sender, 1));
                assert_eq!((ip.ttl(), ip.tos(), ip.dont_fragment(), ip.id()), (64, 0xc0, true, 0));
                assert!(
                    error.len() <= 576 && checksum(&[ip.payload()]) == 0 && checksum(&[&error[..20]]) == 0
                );
                let icmp = Icmpv4::parse(ip.payload()).unwrap();
                ([icmp.kind(), icmp.code()], icmp.rest(), icmp.body())
            }
            IpAddr::V6(sender) => {
                let ip = Ipv6::parse(error).unwrap();
                assert_eq!((IpAddr::V6(ip.src()), ip.dst(), ip.next_header()), (OURS_V6, sender, 58));
                assert_eq!((ip.hop_limit(), ip.traffic_class()), (64, 0xc0));
                let length = u32::from(ip.payload_len()).to_be_bytes();
                assert!(
                    error.len() <= 1280
                        && checksum(&[&error[8..40], &length, &[0, 0, 0, 58], ip.payload()]) == 0
                );
                let icmp = Icmpv6::parse(ip.payload()).unwrap();
                ([icmp.kind(), icmp.code()], icmp.rest(), icmp.body())
            }
        }
    }

    #[test]
    fn types_and_codes() {
        let too_big = Error::TooBig { mtu: 1400 };
        for (what, v4, v6) in [
            (Error::TimeExceeded, [11, 0], [3, 0]),
            (Error::NoRoute, [3, 0], [1, 0]),
            (Error::HostUnreachable, [3, 1], [1, 3]),
            (Error::Prohibited, [3, 13], [1, 1]),
            (too_big, [3, 4], [2, 0]),
        ] {
            for (packet, kind, most) in [(udp_v4(1500), v4, 548), (udp_v6(1500), v6, 1232)] {
                let error = about(&packet, what).unwrap();
                let (found, rest, quote) = read(&error, samples::source(&packet));
                let mtu = if what == too_big { 1400_u32 } else { 0 };
                assert_eq!((found, rest, quote), (kind, mtu.to_be_bytes(), &packet[..most]), "{what:?}");
            }
        }
    }

    #[test]
    fn short_packets_are_quoted_whole_without_link_padding() {
        for packet in [udp_v4(40), udp_v6(60)] {
            let padded = [&packet[..], &[0; 6]].concat();
            let error = about(&padded, Error::NoRoute).unwrap();
            assert_eq!(read(&error, samples::source(&packet)).2, packet);
        }
    }

    /// RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e: each line a packet, and whether there may be an error about it.
    #[test]
    fn packets_about_which_nothing_is_said() {
        let v4 = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = udp_v4(100);
            change(&mut packet);
            fix_checksum(&mut packet);
            packet
        };
        let v6 = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = udp_v6(100);
            change(&mut packet);
            packet
        };
        let icmp = |kind: u8| v4(&|p| (p[9], p[20]) = (1, kind));
        let icmpv6 = |kind: u8| v6(&|p| (p[6], p[40]) = (58, kind));
        let fragment_v6 = |next, offset| {
            v6(&|p| {
                p[6] = 44;
                p[40..48].copy_from_slice(&[next, 0, 0, offset, 0, 0, 0, 9]);
                p[48] = 128;
            })
        };
        let source = |octets: [u8; 4]| v4(&|p| p[12..16].copy_from_slice(&octets));
        let destination = |octets: [u8; 4]| v4(&|p| p[16..20].copy_from_slice(&octets));
        let address_v6 = |at: usize, address: &str| {
            let octets = address.parse::<Ipv6Addr>().unwrap().octets();
            v6(&|p| p[at..at + 16].copy_from_slice(&octets))
        };
        for (name, packet, said) in [
            ("UDP", v4(&|_| ()), true),
            ("echo request", icmp(8), true),
            ("echo reply", icmp(0), true),
            ("timestamp", icmp(13), true),
            ("unreachable", icmp(3), false),
            ("source quench", icmp(4), false),
            ("redirect", icmp(5), false),
            ("time exceeded", icmp(11), false),
            ("parameter problem", icmp(12), false),
            ("a type that nobody knows", icmp(200), false),
            (
                "ICMP without a type",
                v4(&|p| {
                    p.truncate(20);
                    (p[3], p[9]) = (20, 1);
                }),
                false,
            ),
            ("the first fragment", v4(&|p| p[6] = 0x20), true),
            ("a later fragment", v4(&|p| p[7] = 1), false),
            ("from this network", source([0, 0, 0, 0]), false),
            ("from loopback", source([127, 0, 0, 1]), false),
            ("from multicast", source([224, 0, 0, 5]), false),
            ("from a reserved address", source([240, 0, 0, 1]), false),
            ("from broadcast", source([255, 255, 255, 255]), false),
            ("to multicast", destination([224, 0, 0, 5]), false),
            ("to broadcast", destination([255, 255, 255, 255]), false),
            ("to this network", destination([0, 1, 2, 3]), false),
            (
                "a wrong checksum",
                {
                    let mut p = udp_v4(100);
                    p[10] ^= 1;
                    p
                },
                false,
            ),
            ("IPv6 UDP", v6(&|_| ()), true),
            ("IPv6 echo request", icmpv6(128), true),
            ("IPv6 neighbour solicitation", icmpv6(135), true),
            ("IPv6 unreachable", icmpv6(1), false),
            ("IPv6 too big", icmpv6(2), false),
            ("an IPv6 error of a type that nobody knows", icmpv6(127), false),
            ("IPv6 redirect", icmpv6(137), false),
            ("IPv6 first fragment", fragment_v6(17, 1), true),
            ("IPv6 later fragment", fragment_v6(17, 8), true),
            ("IPv6 first fragment of an echo request", fragment_v6(58, 1), true),
            ("IPv6 later fragment of ICMPv6", fragment_v6(58, 8), false),
            ("from nowhere", address_v6(8, "::"), false),
            ("from IPv6 multicast", address_v6(8, "ff02::5"), false),
            ("from IPv6 loopback", address_v6(8, "::1"), false),
            ("to IPv6 multicast", address_v6(24, "ff0e::5"), false),
            ("extension headers without an end", v6(&|p| (p[6], p[41]) = (60, 200)), false),
        ] {
            for what in [Error::TimeExceeded, Error::NoRoute, Error::HostUnreachable, Error::Prohibited] {
                assert_eq!(about(&packet, what).is_some(), said, "{name}: {what:?}");
            }
        }
        let mut multicast = udp_v6(1500);
        multicast[24..40].copy_from_slice(&"ff0e::5".parse::<Ipv6Addr>().unwrap().octets());
        assert!(about(&multicast, Error::TooBig { mtu: 1400 }).is_some());
        multicast[8] = 0xff;
        assert!(about(&multicast, Error::TooBig { mtu: 1400 }).is_none());
        assert_eq!(error_for(&udp_v4(100), Error::NoRoute, OURS_V6), None);
        assert_eq!(error_for(&udp_v6(100), Error::NoRoute, OURS_V4), None);
    }

    #[test]
    fn too_big_for_what() {
        let v4 = |len, dont_fragment: bool| {
            let mut packet = udp_v4(len);
            packet[6] = if dont_fragment { 0x40 } else { 0 };
            fix_checksum(&mut packet);
            packet
        };
        for (packet, mtu, told) in [
            (v4(1401, true), 1400, Some(1400)),
            (v4(1400, true), 1400, None),
            // RFC 791: routers may fragment it, and so should we.
            (v4(1500, false), 1400, None),
            (v4(100, true), 20, Some(68)),
            (v4(65_535, true), 65_534, Some(65_534)),
            (udp_v6(1401), 1400, Some(1400)),
            (udp_v6(1400), 1400, None),
            // RFC 2473 section 7.1: a tunnel tells 1280 at least, and must itself carry what is no longer.
            (udp_v6(1281), 1000, Some(1280)),
            (udp_v6(1280), 1000, None),
        ] {
            let told_now = about(&packet, Error::TooBig { mtu })
                .map(|error| u32::from_be_bytes(read(&error, samples::source(&packet)).1));
            assert_eq!(told_now, told, "{} bytes, MTU {mtu}", packet.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            mut packet in proptest::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>(), kind in 0..5,
        ) {
            let what = [Error::TimeExceeded, Error::NoRoute, Error::HostUnreachable, Error::Prohibited,
                Error::TooBig { mtu: 50 }][kind as usize];
            if let [first, _, high, low, ..] = &mut packet[..] {
                (*first, *high, *low) = (if v6 { 0x60 } else { 0x45 }, 0, *low % 128);
            }
            if !v6 {
                fix_checksum(&mut packet);
            }
            if let Some(error) = error_for(&packet, what, if v6 { OURS_V6 } else { OURS_V4 }) {
                let (_, _, quote) = read(&error, samples::source(&packet));
                prop_assert!(packet.starts_with(quote));
                prop_assert_eq!(about(&error, what), None, "no error about an error");
            }
        }
    }
}
