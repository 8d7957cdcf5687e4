//! Replies to echo requests (RFC 792, RFC 1122 §3.2.2.6, RFC 4443 §4.2) on ports behind which no host stack stands.
//!
//! 1. The packet must be a whole, genuine echo request between two hosts.
//! 2. The reply goes back with addresses exchanged, data, identifier and sequence number as they came.
//!
//! IPv4 options and IPv6 extension headers of the request are not repeated, so a reply is never longer than its request.

use super::icmp::{is_host_v4, is_host_v6, packet_v4, packet_v6};
use crate::wire::{
    Ecn, Icmpv4, Icmpv4Message, Icmpv6, Icmpv6Message, Ipv4, Ipv6, icmpv4, icmpv6, ipv4, ipv6, protocol,
};

/// The reply to `packet`, an IP packet to an address of ours, if it is an echo request. Fragments are to be reassembled
/// before.
#[must_use]
pub fn reply(packet: &[u8]) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => reply_v4(packet),
        _ => reply_v6(packet),
    }
}

fn reply_v4(packet: &[u8]) -> Option<Vec<u8>> {
    let ip = Ipv4::parse(packet).ok()?;
    let between_hosts = is_host_v4(ip.src()) && is_host_v4(ip.dst());
    if ip.is_fragment() || ip.protocol() != protocol::ICMP || !between_hosts {
        return None;
    }
    let request = Icmpv4::parse(ip.payload()).ok()?;
    if (request.kind(), request.code()) != (icmpv4::ECHO_REQUEST, 0) || !request.checksum_ok() {
        return None;
    }
    let (identifier, sequence) = halves(request.rest());
    // As unique between the two hosts as the request's; with the request's leave, or lack of it, to fragment.
    let id = (!ip.dont_fragment()).then_some(ip.id());
    let tos = Ecn::NotEct.mark(ip.tos());
    let mut reply = packet_v4(ip.dst(), ip.src(), tos, id, icmpv4::HEADER_LEN, request.body())?;
    Icmpv4Message::EchoReply { identifier, sequence }.emit(reply.get_mut(ipv4::HEADER_LEN..)?).ok()?;
    Some(reply)
}

fn reply_v6(packet: &[u8]) -> Option<Vec<u8>> {
    let ip = Ipv6::parse(packet).ok()?;
    let upper = ip.upper().ok()?;
    let (src, dst) = (ip.src(), ip.dst());
    if upper.fragment || upper.protocol != protocol::ICMPV6 || !is_host_v6(src) || !is_host_v6(dst) {
        return None;
    }
    let request = Icmpv6::parse(upper.payload).ok()?;
    if (request.kind(), request.code()) != (icmpv6::ECHO_REQUEST, 0) || !request.checksum_ok(src, dst) {
        return None;
    }
    let (identifier, sequence) = halves(request.rest());
    let traffic_class = Ecn::NotEct.mark(ip.traffic_class());
    let mut reply = packet_v6(dst, src, traffic_class, icmpv6::HEADER_LEN, request.body())?;
    Icmpv6Message::EchoReply { identifier, sequence }
        .emit(reply.get_mut(ipv6::HEADER_LEN..)?, dst, src)
        .ok()?;
    Some(reply)
}

/// Identifier and sequence number of an echo.
fn halves([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exception::samples::{checksum, echo_v4, echo_v6, fix_checksum, fix_icmpv6};
    use proptest::prelude::*;

    #[test]
    fn a_reply_mirrors_its_request() {
        let request = echo_v4(8, b"how are you?");
        let mut expected = request.clone();
        (expected[8], expected[20]) = (64, 0);
        expected[1] &= !3;
        for n in 0..4 {
            expected.swap(12 + n, 16 + n);
        }
        fix_checksum(&mut expected);
        expected[22..24].fill(0);
        let check = checksum(&[&expected[20..]]);
        expected[22..24].copy_from_slice(&check.to_be_bytes());
        assert_eq!(reply(&request), Some(expected));

        let request = echo_v6(128, b"how are you?");
        let mut expected = request.clone();
        (expected[7], expected[40]) = (64, 129);
        for n in 0..16 {
            expected.swap(8 + n, 24 + n);
        }
        fix_icmpv6(&mut expected);
        assert_eq!(reply(&request), Some(expected));
    }

    #[test]
    fn leave_to_fragment_is_mirrored_with_its_identification() {
        for (word, id) in [([0x40, 0], 0), ([0, 0], 0x1234)] {
            let mut request = echo_v4(8, &[7; 100]);
            request[4..6].copy_from_slice(&[0x12, 0x34]);
            request[6..8].copy_from_slice(&word);
            fix_checksum(&mut request);
            let reply = reply(&request).unwrap();
            let ip = Ipv4::parse(&reply).unwrap();
            assert_eq!((ip.dont_fragment(), ip.id()), (word[0] != 0, id));
        }
    }

    #[test]
    fn options_and_extension_headers_are_left_out() {
        let mut request = echo_v4(8, b"abcd");
        request.splice(20..20, [7, 4, 4, 0]); // record route, without room
        (request[0], request[3]) = (0x46, request.len() as u8);
        fix_checksum(&mut request);
        let plain = reply(&echo_v4(8, b"abcd")).unwrap();
        assert_eq!(reply(&request), Some(plain));

        let mut request = echo_v6(128, b"abcd");
        request.splice(40..40, [58, 0, 1, 4, 0, 0, 0, 0]);
        (request[5], request[6]) = (request[5] + 8, 60);
        let plain = reply(&echo_v6(128, b"abcd")).unwrap();
        assert_eq!(reply(&request), Some(plain));
    }

    #[test]
    fn what_is_not_answered() {
        let v4 = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = echo_v4(8, b"abcd");
            change(&mut packet);
            fix_checksum(&mut packet);
            packet
        };
        let v6 = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = echo_v6(128, b"abcd");
            change(&mut packet);
            fix_icmpv6(&mut packet);
            packet
        };
        assert!(reply(&v4(&|_| ())).is_some() && reply(&v6(&|_| ())).is_some());
        for (name, packet) in [
            ("a reply", echo_v4(0, b"abcd")),
            ("IPv6 reply", echo_v6(129, b"abcd")),
            ("a wrong checksum", v4(&|p| p[28] ^= 1)),
            (
                "a code",
                v4(&|p| {
                    p[21] = 1;
                    p[22..24].fill(0);
                    let c = checksum(&[&p[20..]]);
                    p[22..24].copy_from_slice(&c.to_be_bytes());
                }),
            ),
            ("IPv6 code", v6(&|p| p[41] = 1)),
            ("a fragment", v4(&|p| p[6] = 0x20)),
            ("to broadcast", v4(&|p| p[16..20].fill(255))),
            ("from multicast", v4(&|p| p[12] = 224)),
            ("to IPv6 multicast", v6(&|p| p[24] = 0xff)),
            ("from nowhere", v6(&|p| p[8..24].fill(0))),
            ("UDP", v4(&|p| p[9] = 17)),
            ("IPv6 UDP", v6(&|p| p[6] = 17)),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(reply(&packet), None, "{name}");
        }
        let mut wrong = echo_v6(128, b"abcd");
        wrong[48] ^= 1;
        assert_eq!(reply(&wrong), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut packet in proptest::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
            if let [first, _, high, low, ..] = &mut packet[..] {
                (*first, *high, *low) = (if v6 { 0x60 } else { 0x45 }, 0, *low % 64);
            }
            fix_checksum(&mut packet);
            if let Some(reply) = reply(&packet) {
                prop_assert!(reply.len() <= packet.len());
            }
        }

        #[test]
        fn data_of_any_length_comes_back(data in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let reply_v4 = reply(&echo_v4(8, &data)).unwrap();
            prop_assert_eq!(&reply_v4[28..], &data[..]);
            prop_assert_eq!(checksum(&[&reply_v4[20..]]), 0);
            prop_assert_eq!(&reply(&echo_v6(128, &data)).unwrap()[48..], &data[..]);
        }
    }
}
