//! A number for the flow that a packet belongs to: packets of one flow have the same, those of different flows hardly ever.
//! It chooses between ways that are equally good (next hops, workers, source ports), so that no flow is reordered.
//!
//! 1. Addresses are read, and the upper-layer protocol, behind IPv6 extension headers if there are any.
//! 2. TCP, UDP, UDP-Lite, SCTP, DCCP: the ports. ESP: the SPI. GRE: the key. Others: nothing more.
//! 3. Pieces of a packet count by their addresses alone, for only the first of them has ports.
//!
//! What does not change on the way alone is looked at: not TTL, DSCP or the flow label. Nobody can be kept from choosing
//! flows that fall together; that costs him his own throughput, and others no more than a heavy flow would.

use crate::hash::fold;
use crate::wire::{Ipv6, ethernet, protocol};

/// Bit 2 of the GRE flags, a key is present (RFC 2890 section 2); bit 0, a checksum stands before it (RFC 2784 section 2.1).
const GRE_KEY: u16 = 0x2000;
const GRE_CHECKSUM: u16 = 0x8000;
/// Bits 13 to 15 of the GRE flags. Version 1 (RFC 2637) keeps a length where version 0 has the upper half of the key.
const GRE_VERSION: u16 = 0x0007;
/// The first bits behind the point of the square root of 2: any number with no pattern to it does.
const SQRT2: u64 = 0x6a09_e667_f3bc_c908;

/// The flow of an IP packet, as 32 well mixed bits. Anything is taken: what is too short for an IP header, or of another
/// version, is flow 0. Checksums and lengths are not verified.
#[inline]
#[must_use]
pub fn hash(packet: &[u8]) -> u32 {
    match packet.first().map(|first| first >> 4) {
        Some(4) => ipv4(packet),
        Some(6) => ipv6(packet),
        _ => None,
    }
    .unwrap_or(0)
}

/// The flow of an Ethernet frame: that of its IP packet where it holds one (tags are stepped over), else of its addresses
/// and type. A frame shorter than its headers is flow 0.
#[inline]
#[must_use]
pub fn hash_frame(frame: &[u8]) -> u32 {
    let Ok(parsed) = ethernet::Ethernet::parse(frame) else { return 0 };
    match parsed.ethertype() {
        ethernet::IPV4 | ethernet::IPV6 => hash(parsed.payload()),
        ethertype => {
            let word =
                |mac: ethernet::MacAddr| mac.0.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            mix(fold(word(parsed.src()), word(parsed.dst())), u64::from(ethertype))
        }
    }
}

/// The source port of a UDP tunnel for a flow: 49152 to 65535, the dynamic ports (RFC 8086 section 3.2.1).
#[inline]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    // The upper bits: whoever spreads flows by the lower ones still gets every port.
    0xc000 | (hash >> 18) as u16
}

#[inline]
fn ipv4(packet: &[u8]) -> Option<u32> {
    let header = packet.first_chunk::<20>()?;
    let [_, _, _, _, _, _, f0, f1, _, upper, _, _, addresses @ ..] = *header;
    let addresses = u64::from_be_bytes(addresses);
    // More fragments, or an offset (RFC 791 section 3.1).
    if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Some(mix(addresses, 0));
    }
    let payload = packet.get(usize::from(header[0] & 0xf) * 4..).unwrap_or_default();
    Some(mix(addresses, ends(upper, payload)))
}

#[inline]
fn ipv6(packet: &[u8]) -> Option<u32> {
    let (header, payload) = packet.split_first_chunk::<40>()?;
    let upper = header[6];
    let (words, _) = header.get(8..)?.as_chunks::<16>();
    let [source, destination] = words else { return None };
    let (source, destination) = (u128::from_be_bytes(*source), u128::from_be_bytes(*destination));
    let half = |source: u128, destination: u128| fold(source as u64, destination as u64);
    let addresses = fold(half(source, destination), half(source >> 64, destination >> 64));
    let ends = match upper {
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS => {
            behind_extensions(packet)
        }
        _ => ends(upper, payload),
    };
    Some(mix(addresses, ends))
}

/// As [`ends`], for an IPv6 packet with extension headers.
#[cold]
fn behind_extensions(packet: &[u8]) -> u64 {
    match Ipv6::parse(packet).and_then(|ip| ip.upper()) {
        Ok(upper) if !upper.fragment => ends(upper.protocol, upper.payload),
        _ => 0,
    }
}

/// Protocol and what tells its conversations apart, as a word; 0 stands for pieces.
#[inline]
fn ends(upper: u8, payload: &[u8]) -> u64 {
    let conversation = match upper {
        // Ports, or the SPI: the first four bytes in each of them.
        protocol::TCP
        | protocol::UDP
        | protocol::ESP
        | protocol::SCTP
        | protocol::UDP_LITE
        | protocol::DCCP => payload.first_chunk::<4>().map_or(0, |word| u32::from_be_bytes(*word)),
        protocol::GRE => gre_key(payload).unwrap_or(0),
        _ => 0,
    };
    u64::from(conversation) << 8 | u64::from(upper)
}

#[inline]
fn gre_key(packet: &[u8]) -> Option<u32> {
    let flags = u16::from_be_bytes(*packet.first_chunk::<2>()?);
    if flags & (GRE_KEY | GRE_VERSION) != GRE_KEY {
        return None;
    }
    let at = if flags & GRE_CHECKSUM != 0 { 8 } else { 4 };
    packet.get(at..)?.first_chunk::<4>().map(|word| u32::from_be_bytes(*word))
}

/// Two multiplications: with one, neighbouring addresses filled some of 16 ways 1.6 times over (tests below).
#[inline]
fn mix(addresses: u64, ends: u64) -> u32 {
    let mixed = fold(fold(addresses, SQRT2), ends);
    (mixed ^ mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EthernetHeader, GreHeader, Ipv4Header, Ipv6Header};
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(src: u32, dst: u32, upper: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            tos: 0,
            total_len: 20 + payload.len() as u16,
            id: 0,
            dont_fragment: false,
            ttl: 64,
            protocol: upper,
            src: Ipv4Addr::from(src),
            dst: Ipv4Addr::from(dst),
        };
        let mut packet = vec![0; 20];
        header.emit(packet.first_chunk_mut().unwrap());
        packet.extend(payload);
        packet
    }

    fn v6(src: u128, dst: u128, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: payload.len() as u16,
            next_header,
            hop_limit: 64,
            src: Ipv6Addr::from(src),
            dst: Ipv6Addr::from(dst),
        };
        let mut packet = vec![0; 40];
        header.emit(packet.first_chunk_mut().unwrap());
        packet.extend(payload);
        packet
    }

    fn ports(source: u16, destination: u16) -> [u8; 8] {
        let [a, b] = source.to_be_bytes();
        let [c, d] = destination.to_be_bytes();
        [a, b, c, d, 1, 2, 3, 4]
    }

    fn gre(checksum: bool, key: Option<u32>) -> Vec<u8> {
        let header = GreHeader { protocol: 0x0800, checksum, key, sequence: Some(9) };
        let mut packet = vec![0; header.len() + 4];
        header.emit(&mut packet).unwrap();
        packet
    }

    const V4: (u32, u32) = (0x0a01_0001, 0x0a02_0001);
    const V6: (u128, u128) = ((0x2001_0db8 << 96) | 1, (0x2001_0db8 << 96) | 2);

    const PORTED: [u8; 5] =
        [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::DCCP, protocol::UDP_LITE];

    #[test]
    fn addresses_protocol_and_ports_tell_flows_apart() {
        for upper in PORTED {
            let mut seen = HashSet::new();
            for (packet, swapped) in [
                (v4(V4.0, V4.1, upper, &ports(1, 2)), v4(V4.1, V4.0, upper, &ports(1, 2))),
                (v4(V4.0, V4.1, upper, &ports(2, 1)), v4(V4.0, V4.1 + 1, upper, &ports(1, 2))),
                (v6(V6.0, V6.1, upper, &ports(1, 2)), v6(V6.1, V6.0, upper, &ports(1, 2))),
                (v6(V6.0, V6.1, upper, &ports(2, 1)), v6(V6.0, V6.1 + (1 << 64), upper, &ports(1, 2))),
                (
                    v4(V4.0, V4.1, protocol::ICMP, &ports(1, 2)),
                    v6(V6.0, V6.1, protocol::ICMPV6, &ports(1, 2)),
                ),
            ] {
                assert!(seen.insert(hash(&packet)), "{packet:x?}");
                assert!(seen.insert(hash(&swapped)), "{swapped:x?}");
            }
        }
    }

    #[test]
    fn esp_counts_by_its_spi_and_gre_by_its_key() {
        for family in [
            |upper, payload: &[u8]| v4(V4.0, V4.1, upper, payload),
            |upper, payload: &[u8]| v6(V6.0, V6.1, upper, payload),
        ] {
            let esp = |spi: u32, sequence: u32| {
                hash(&family(protocol::ESP, &[spi.to_be_bytes(), sequence.to_be_bytes()].concat()))
            };
            assert_eq!(esp(7, 1), esp(7, 2));
            assert_ne!(esp(7, 1), esp(8, 1));
            let gre = |checksum, key| hash(&family(protocol::GRE, &gre(checksum, key)));
            assert_eq!(gre(false, Some(7)), gre(true, Some(7)));
            assert_ne!(gre(false, Some(7)), gre(false, Some(8)));
            assert_ne!(gre(true, Some(7)), gre(true, Some(8)));
            // Without a key the sequence number does not stand in for it.
            let plain = |sequence: u8| hash(&family(protocol::GRE, &[0x10, 0, 8, 0, 0, 0, 0, sequence]));
            assert_eq!(plain(1), plain(2));
            // PPTP's GRE: a length where the key would be.
            let pptp = |length: u8| hash(&family(protocol::GRE, &[0x20, 1, 0x88, 0x0b, 0, length, 0, 1]));
            assert_eq!(pptp(1), pptp(2));
        }
    }

    #[test]
    fn extension_headers_are_stepped_over_for_ipv6() {
        let plain = v6(V6.0, V6.1, protocol::UDP, &ports(1, 2));
        let mut options = vec![protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
        options.extend(ports(1, 2));
        assert_eq!(hash(&plain), hash(&v6(V6.0, V6.1, protocol::DESTINATION_OPTIONS, &options)));
    }

    #[test]
    fn options_are_stepped_over_for_ipv4() {
        let plain = v4(V4.0, V4.1, protocol::UDP, &ports(1, 2));
        let mut with_options = plain.clone();
        with_options[0] = 0x46;
        with_options.splice(20..20, [1, 1, 1, 1]);
        assert_eq!(hash(&plain), hash(&with_options));
    }

    #[test]
    fn all_pieces_of_a_packet_are_one_flow() {
        let piece = |flags_and_offset: u16, payload: &[u8]| {
            let mut packet = v4(V4.0, V4.1, protocol::UDP, payload);
            packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
            hash(&packet)
        };
        assert_eq!(piece(0x2000, &ports(1, 2)), piece(0x0001, &[0xee; 8]));
        assert_eq!(piece(0x2000, &ports(1, 2)), piece(0x2002, &[0xdd; 8]));
        // Don't fragment makes no piece.
        assert_eq!(piece(0x4000, &ports(1, 2)), piece(0, &ports(1, 2)));
        assert_ne!(piece(0x2000, &ports(1, 2)), piece(0, &ports(1, 2)));
        let piece = |offset_and_more: u16, payload: [u8; 8]| {
            let [a, b] = offset_and_more.to_be_bytes();
            hash(&v6(
                V6.0,
                V6.1,
                protocol::FRAGMENT,
                &[[protocol::UDP, 0, a, b, 0, 0, 0, 1], payload].concat(),
            ))
        };
        assert_eq!(piece(1, ports(1, 2)), piece(8, [0xee; 8]));
        // RFC 6946: a fragment header on a whole packet.
        assert_eq!(piece(0, ports(1, 2)), hash(&v6(V6.0, V6.1, protocol::UDP, &ports(1, 2))));
    }

    #[test]
    fn a_frame_counts_as_its_packet_or_by_its_addresses() {
        let frame = |src: u8, ethertype: u16, payload: &[u8]| {
            let mut frame = vec![0; 14];
            EthernetHeader {
                dst: ethernet::MacAddr([2, 0, 0, 0, 0, 9]),
                src: ethernet::MacAddr([2, 0, 0, 0, 0, src]),
                ethertype,
            }
            .emit(frame.first_chunk_mut().unwrap());
            frame.extend(payload);
            hash_frame(&frame)
        };
        let packet = v4(V4.0, V4.1, protocol::TCP, &ports(1, 2));
        assert_eq!(frame(1, ethernet::IPV4, &packet), hash(&packet));
        let tagged = [&[0, 7, 8, 0][..], &packet].concat();
        assert_eq!(frame(1, ethernet::VLAN, &tagged), hash(&packet));
        assert_ne!(frame(1, ethernet::ARP, &[]), frame(2, ethernet::ARP, &[]));
        assert_eq!(hash_frame(&[0; 13]), 0);
    }

    /// Flows as a site has them: neighbouring addresses, neighbouring ports. Spread over `ways` by the upper or by the lower
    /// bits, no way gets more than 1.2 times its share (for 16,384 flows on 16 ways chance alone gives 1.1 at four sigma).
    fn spreads(hashes: &[u32]) {
        const WAYS: usize = 16;
        for way in [|hash: u32| hash as usize % WAYS, |hash: u32| (hash as usize * WAYS) >> 32] {
            let mut counts = [0; WAYS];
            hashes.iter().for_each(|hash| counts[way(*hash)] += 1);
            let most = counts.iter().max().copied().unwrap_or_default();
            assert!(most * WAYS * 10 < hashes.len() * 12, "{counts:?}");
        }
        let source_ports: HashSet<_> = hashes.iter().map(|hash| source_port(*hash)).collect();
        // Of n boxes, n balls thrown at random leave a share of 1/e empty.
        assert!(source_ports.len() > 16_384 * 6 / 10, "{}", source_ports.len());
    }

    #[test]
    fn flows_spread_evenly() {
        let n = 16_384;
        let tcp = protocol::TCP;
        spreads(&(0..n).map(|i| hash(&v4(V4.0, V4.1, tcp, &ports(i as u16, 443)))).collect::<Vec<_>>());
        spreads(
            &(0..n).map(|i| hash(&v4(V4.0, V4.1, tcp, &ports(443, 49_152 + i as u16)))).collect::<Vec<_>>(),
        );
        spreads(&(0..n).map(|i| hash(&v4(V4.0 + i, V4.1, tcp, &ports(1, 2)))).collect::<Vec<_>>());
        spreads(&(0..n).map(|i| hash(&v4(V4.0, V4.1 + (i << 8), tcp, &ports(1, 2)))).collect::<Vec<_>>());
        spreads(
            &(0..n)
                .map(|i| hash(&v4(V4.0 + (i & 127), V4.1 + (i >> 7), protocol::ICMP, &[])))
                .collect::<Vec<_>>(),
        );
        let wide = u128::from;
        spreads(&(0..n).map(|i| hash(&v6(V6.0 + wide(i), V6.1, tcp, &ports(1, 2)))).collect::<Vec<_>>());
        spreads(
            &(0..n).map(|i| hash(&v6(V6.0, V6.1 + (wide(i) << 64), tcp, &ports(1, 2)))).collect::<Vec<_>>(),
        );
        spreads(&(0..n).map(|i| hash(&v6(V6.0, V6.1, tcp, &ports(i as u16, 443)))).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), version in 0..3_u8) {
            if let Some(first) = bytes.first_mut() {
                *first = [*first, *first & 0xf | 0x40, *first & 0xf | 0x60][usize::from(version)];
            }
            let _ = hash(&bytes);
            let _ = hash_frame(&bytes);
        }

        #[test]
        fn what_changes_within_a_flow_does_not_count(
            upper in prop::sample::select(&PORTED[..]), conversation in any::<[u8; 4]>(),
            one in any::<[u8; 16]>(), other in any::<[u8; 40]>(), tos in any::<u8>(), ttl in any::<u8>(),
            label in 0..0x10_0000_u32,
        ) {
            let (one, other) = ([&conversation[..], &one].concat(), [&conversation[..], &other].concat());
            let mut changed = v4(V4.0, V4.1, upper, &other);
            (changed[1], changed[4], changed[8]) = (tos, ttl, ttl);
            prop_assert_eq!(hash(&v4(V4.0, V4.1, upper, &one)), hash(&changed));
            let mut changed = v6(V6.0, V6.1, upper, &other);
            changed[7] = ttl;
            changed[..4].copy_from_slice(&(6 << 28 | u32::from(tos) << 20 | label).to_be_bytes());
            prop_assert_eq!(hash(&v6(V6.0, V6.1, upper, &one)), hash(&changed));
        }

        #[test]
        fn source_ports_are_dynamic_ones(hash in any::<u32>()) {
            prop_assert!(source_port(hash) >= 49_152);
        }
    }
}
