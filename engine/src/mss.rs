//! TCP's maximum segment size held against a tunnel's MTU: a SYN that passes asks for no larger segments than the
//! tunnel takes, so that both ends send fitting packets from the start, whatever becomes of ICMP errors.
//!
//! 1. One look at fixed places tells nearly every packet that is no SYN from one that may be.
//! 2. A SYN's headers are checked, behind IPv4 options and IPv6 extension headers too; later fragments have none.
//! 3. The option is lowered, never raised or added, and the checksum follows.
//!
//! On the fast path: nothing here allocates.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::wire::{Ipv4, Ipv6, ipv4, ipv6, protocol, tcp};

/// First octet of an IPv4 header without options (RFC 791 §3.1).
const IPV4_PLAIN: u8 = 0x45;
/// Up to the TCP flags behind an IPv4 header without options.
const IPV4_FLAGS_END: usize = ipv4::HEADER_LEN + tcp::FLAGS_AT + 1;
/// Up to the TCP flags behind an IPv6 header without extension headers.
const IPV6_FLAGS_END: usize = ipv6::HEADER_LEN + tcp::FLAGS_AT + 1;

/// Lowers the maximum segment size of the TCP SYN that `packet`, an IP packet, may be, to what an MTU of `mtu`
/// bytes leaves: less fixed IP and TCP headers, whatever their options (RFC 6691 §2). Returns whether it was
/// lowered; any other bytes stay as they are.
#[inline]
pub fn clamp(packet: &mut [u8], mtu: usize) -> bool {
    may_be_syn(packet) && clamp_syn(packet, mtu)
}

/// Step 1: whether [`clamp`] would look further. In the commonest packets, TCP without options, this is the protocol and one
/// flag.
#[inline(always)]
pub fn may_be_syn(packet: &[u8]) -> bool {
    match packet.first() {
        Some(&IPV4_PLAIN) => packet
            .first_chunk::<IPV4_FLAGS_END>()
            .is_some_and(|start| start[9] == protocol::TCP && start[IPV4_FLAGS_END - 1] & tcp::SYN != 0),
        Some(0x60..=0x6f) => packet.first_chunk::<IPV6_FLAGS_END>().is_some_and(|start| match start[6] {
            protocol::TCP => start[IPV6_FLAGS_END - 1] & tcp::SYN != 0,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS => {
                true
            }
            _ => false,
        }),
        Some(0x46..=0x4f) => packet.get(9) == Some(&protocol::TCP),
        _ => false,
    }
}

/// Steps 2 and 3.
#[cold]
fn clamp_syn(packet: &mut [u8], mtu: usize) -> bool {
    let Some((start, end, ip_len)) = segment(packet) else { return false };
    let Some(segment) = packet.get_mut(start..end) else { return false };
    match mtu.checked_sub(ip_len + tcp::HEADER_LEN) {
        None | Some(0) => false,
        Some(limit) => tcp::lower_mss(segment, u16::try_from(limit).unwrap_or(u16::MAX)),
    }
}

/// Where the SYN segment starts and ends in the packet, and the length of the fixed IP header, all in bytes.
fn segment(packet: &[u8]) -> Option<(usize, usize, usize)> {
    let (protocol, start, payload, ip_len) = if packet.first()? >> 4 == 4 {
        let ip = Ipv4::parse(packet).ok().filter(|ip| ip.fragment_offset() == 0)?;
        (ip.protocol(), ip.header_len(), ip.payload(), ipv4::HEADER_LEN)
    } else {
        let upper = Ipv6::parse(packet).ok()?.upper().ok().filter(|upper| upper.first)?;
        (upper.protocol, upper.offset, upper.payload, ipv6::HEADER_LEN)
    };
    let syn = payload.get(tcp::FLAGS_AT).is_some_and(|flags| flags & tcp::SYN != 0);
    (protocol == protocol::TCP && syn).then_some((start, start + payload.len(), ip_len))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Ipv4Header, Ipv6Header, Sum, Tcp, checksum};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 2, 0, 2)];
    const V6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 2)];

    /// A segment with these flags that announces 1460 bytes.
    fn segment(flags: u8, pseudo: Sum) -> Vec<u8> {
        let mut segment = vec![4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, flags, 0xff, 0xff, 0, 0, 0, 0];
        segment.extend([1, 3, 3, 7, 2, 4, 0x05, 0xb4]);
        let check = pseudo.with(&segment).finish();
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        segment
    }

    /// An IPv4 packet with that flags and offset word and these options.
    fn v4(flags: u8, fragment: u16, options: &[u8]) -> Vec<u8> {
        let segment = segment(flags, Sum::pseudo_v4(V4[0], V4[1], protocol::TCP, 28));
        let total_len = (20 + options.len() + segment.len()) as u16;
        let mut packet = vec![0; 20];
        let [src, dst] = V4;
        Ipv4Header {
            tos: 0,
            total_len,
            id: 7,
            dont_fragment: false,
            ttl: 64,
            protocol: protocol::TCP,
            src,
            dst,
        }
        .emit(packet.first_chunk_mut().unwrap());
        packet[0] += (options.len() / 4) as u8;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend(options);
        packet[10..12].fill(0);
        let check = checksum::checksum(&packet);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet.extend(segment);
        packet
    }

    /// An IPv6 packet with these extension headers, the first of that kind.
    fn v6(flags: u8, next_header: u8, extensions: &[u8]) -> Vec<u8> {
        let segment = segment(flags, Sum::pseudo_v6(V6[0], V6[1], protocol::TCP, 28));
        let mut packet = vec![0; 40];
        let [src, dst] = V6;
        let payload_len = (extensions.len() + segment.len()) as u16;
        Ipv6Header { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit: 64, src, dst }
            .emit(packet.first_chunk_mut().unwrap());
        packet.extend(extensions);
        packet.extend(segment);
        packet
    }

    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;

    /// The segment size in a packet whose last 28 bytes are a segment, after its checksum was verified.
    fn size(packet: &[u8]) -> u16 {
        let tcp = &packet[packet.len() - 28..];
        let pseudo = match packet[0] >> 4 {
            4 => Sum::pseudo_v4(V4[0], V4[1], protocol::TCP, 28),
            _ => Sum::pseudo_v6(V6[0], V6[1], protocol::TCP, 28),
        };
        assert!(pseudo.with(tcp).is_valid());
        Tcp::parse(tcp).unwrap().mss().unwrap()
    }

    /// RFC 6691 section 2: the MTU less 40 over IPv4, less 60 over IPv6, options not counted.
    #[test]
    fn what_is_clamped_and_what_is_not() {
        let destination_options = [protocol::TCP, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |word: u16| {
            let [high, low] = word.to_be_bytes();
            [protocol::TCP, 0, high, low, 0, 0, 0, 1]
        };
        for (name, packet, after) in [
            ("SYN", v4(tcp::SYN, 0x4000, &[]), 1360),
            ("SYN and ACK", v4(SYN_ACK, 0x4000, &[]), 1360),
            ("behind options", v4(tcp::SYN, 0, &[1, 1, 1, 0]), 1360),
            ("a first fragment", v4(tcp::SYN, 0x2000, &[]), 1360),
            ("a later fragment", v4(tcp::SYN, 0x2001, &[]), 1460),
            ("ACK alone", v4(ACK, 0x4000, &[]), 1460),
            ("ACK alone, behind options", v4(ACK, 0, &[1, 1, 1, 0]), 1460),
            ("IPv6", v6(tcp::SYN, protocol::TCP, &[]), 1340),
            ("IPv6, ACK alone", v6(ACK, protocol::TCP, &[]), 1460),
            ("IPv6, behind options", v6(SYN_ACK, protocol::DESTINATION_OPTIONS, &destination_options), 1340),
            ("IPv6, ACK behind options", v6(ACK, protocol::DESTINATION_OPTIONS, &destination_options), 1460),
            ("IPv6, a first fragment", v6(tcp::SYN, protocol::FRAGMENT, &fragment(1)), 1340),
            ("IPv6, a later fragment", v6(tcp::SYN, protocol::FRAGMENT, &fragment(8)), 1460),
            ("IPv6, not TCP", v6(tcp::SYN, protocol::UDP, &[]), 1460),
        ] {
            let mut clamped = packet.clone();
            assert_eq!(clamp(&mut clamped, 1400), after != 1460, "{name}");
            assert_eq!(size(&clamped), after, "{name}");
            let mut again = clamped.clone();
            assert!(!clamp(&mut again, 1400) && again == clamped, "{name}: a second time");
            assert!(!clamp(&mut clamped, 1500) && again == clamped, "{name}: never raised");
            for mtu in [0, 40, if packet[0] >> 4 == 4 { 40 } else { 60 }] {
                assert!(!clamp(&mut packet.clone(), mtu), "{name}: no room for any data");
            }
            for len in 0..packet.len() {
                let mut cut = packet[..len].to_vec();
                assert!(!clamp(&mut cut, 1400) && cut == packet[..len], "{name}: cut at {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120), mtu in 0..2000_usize,
            first in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x60), any::<u8>()],
        ) {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            let before = packet.clone();
            prop_assert_eq!(clamp(&mut packet, mtu), packet != before);
        }

        #[test]
        fn only_size_and_checksum_change(mtu in 0..3000_usize, v6_packet in any::<bool>()) {
            let before = if v6_packet { v6(tcp::SYN, protocol::TCP, &[]) } else { v4(tcp::SYN, 0, &[]) };
            let headers = if v6_packet { 60 } else { 40 };
            let mut packet = before.clone();
            clamp(&mut packet, mtu);
            let allowed = mtu.checked_sub(headers).filter(|&limit| limit > 0).unwrap_or(1460);
            prop_assert_eq!(usize::from(size(&packet)), allowed.min(1460));
            let at = packet.len() - 28;
            for (n, (old, new)) in before.iter().zip(&packet).enumerate() {
                prop_assert!(old == new || [at + 16, at + 17, at + 26, at + 27].contains(&n), "byte {}", n);
            }
        }
    }
}
