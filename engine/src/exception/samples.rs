//! Packets for the tests of this folder, built octet by octet, with a checksum of their own.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv6Addr};

pub(super) const SRC_V4: [u8; 4] = [198, 51, 100, 7];
pub(super) const DST_V4: [u8; 4] = [203, 0, 113, 9];
pub(super) const SRC_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
pub(super) const DST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

/// RFC 1071 §1 by the letter, over pieces of even length but the last; 0 over what carries its own checksum.
pub(super) fn checksum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    !words.fold(0_u32, |sum, word| (sum + word) % 0x10000 + (sum + word) / 0x10000) as u16
}

/// Sets the checksum of the IPv4 header at the start of `packet`, as far as there is one.
pub(super) fn fix_checksum(packet: &mut [u8]) {
    let len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) {
        header[10..12].fill(0);
        let check = checksum(&[header]);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
}

/// Sets the checksum of an ICMPv6 message that directly follows the IPv6 header.
pub(super) fn fix_icmpv6(packet: &mut [u8]) {
    packet[42..44].fill(0);
    let length = (packet.len() as u32 - 40).to_be_bytes();
    let check = checksum(&[&packet[8..40], &length, &[0, 0, 0, 58], &packet[40..]]);
    packet[42..44].copy_from_slice(&check.to_be_bytes());
}

/// An IPv4 packet: TTL 17, "don't fragment", ECN-capable.
pub(super) fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = ((payload.len() + 20) as u16).to_be_bytes();
    let mut packet = vec![0x45, 0xba, high, low, 0, 0, 0x40, 0, 17, protocol, 0, 0];
    packet.extend([SRC_V4, DST_V4].concat());
    fix_checksum(&mut packet);
    packet.extend(payload);
    packet
}

/// An IPv6 packet: hop limit 17.
pub(super) fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x6b, 0x80, 0, 0, high, low, next_header, 17];
    packet.extend([SRC_V6.octets(), DST_V6.octets()].concat());
    packet.extend(payload);
    packet
}

/// Bytes that differ from place to place.
pub(super) fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31) ^ (n >> 8) as u8).collect()
}

/// A UDP packet of `len` bytes in all, at least 28.
pub(super) fn udp_v4(len: usize) -> Vec<u8> {
    v4(17, &datagram(len - 20))
}

/// A UDP packet of `len` bytes in all, at least 48.
pub(super) fn udp_v6(len: usize) -> Vec<u8> {
    v6(17, &datagram(len - 40))
}

fn datagram(len: usize) -> Vec<u8> {
    let [high, low] = (len as u16).to_be_bytes();
    [&[0x30, 0x39, 0, 53, high, low, 0, 0], &data(len - 8)[..]].concat()
}

/// An echo request (8) or reply (0).
pub(super) fn echo_v4(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0xab, 0xcd, 0, 5], data].concat();
    let check = checksum(&[&message]);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    v4(1, &message)
}

/// An echo request (128) or reply (129).
pub(super) fn echo_v6(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut packet = v6(58, &[&[kind, 0, 0, 0, 0xab, 0xcd, 0, 5], data].concat());
    fix_icmpv6(&mut packet);
    packet
}

/// Who sent an IP packet.
pub(super) fn source(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        IpAddr::from(*packet[12..].first_chunk::<4>().unwrap())
    } else {
        IpAddr::from(*packet[8..].first_chunk::<16>().unwrap())
    }
}
