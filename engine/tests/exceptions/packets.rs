//! Packets built and read by the book, with nothing of the engine's.

use std::net::{IpAddr, Ipv6Addr};

use crate::lab::{LINK, checksum, fix_checksum, ip};

/// A UDP datagram's bytes; port 9 discards.
pub(crate) fn udp(source: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&source.to_be_bytes()[..], &[0, 9], &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// A UDP packet of `len` bytes in all.
pub(crate) fn udp_packet(src: IpAddr, dst: IpAddr, len: usize, seed: u8) -> Vec<u8> {
    let headers = if src.is_ipv4() { 28 } else { 48 };
    let data: Vec<u8> = (0..len - headers).map(|n| (n as u8).wrapping_mul(13) ^ seed).collect();
    ip(src, dst, 17, 0, 64, &udp(4000 + u16::from(seed), &data))
}

/// The packet with "don't fragment" set.
pub(crate) fn df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    fix_checksum(&mut packet);
    packet
}

/// The packet with that TTL or hop limit.
pub(crate) fn ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[8] = ttl;
        fix_checksum(&mut packet);
    } else {
        packet[7] = ttl;
    }
    packet
}

/// The packet one hop further.
pub(crate) fn hop(packet: &[u8]) -> Vec<u8> {
    let left = if packet[0] >> 4 == 4 { packet[8] } else { packet[7] };
    ttl(packet.to_vec(), left - 1)
}

/// The checksum of an upper-layer packet over IPv6, or of ICMP over IPv4, which has no pseudo header.
fn upper_checksum(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let len = bytes.len() as u32;
    let pseudo = match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &len.to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) if protocol != 1 => {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &(len as u16).to_be_bytes()].concat()
        }
        _ => Vec::new(),
    };
    checksum(&[&pseudo[..], bytes].concat())
}

/// Sets the checksum at `at` of the upper-layer packet.
pub(crate) fn sealed(src: IpAddr, dst: IpAddr, protocol: u8, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at..at + 2].fill(0);
    let sum = upper_checksum(src, dst, protocol, &bytes).to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&sum);
    bytes
}

/// An ICMP or ICMPv6 packet.
pub(crate) fn icmp(src: IpAddr, dst: IpAddr, head: [u8; 2], rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let protocol = if src.is_ipv4() { 1 } else { 58 };
    let message = [&head[..], &[0, 0], &rest, body].concat();
    ip(src, dst, protocol, 0, 64, &sealed(src, dst, protocol, message, 2))
}

/// What an ICMP packet says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Icmp {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) head: [u8; 2],
    pub(crate) rest: u32,
    pub(crate) body: Vec<u8>,
}

impl Icmp {
    /// Reads one, all checksums right.
    pub(crate) fn read(packet: &[u8]) -> Icmp {
        let (src, dst) = ends(packet);
        let (protocol, message) = match packet[0] >> 4 {
            4 => {
                assert_eq!(checksum(&packet[..20]), 0, "the header's checksum");
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                assert_eq!(total, packet.len());
                (packet[9], &packet[20..])
            }
            _ => {
                assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
                (packet[6], &packet[40..])
            }
        };
        assert_eq!(protocol, if src.is_ipv4() { 1 } else { 58 });
        assert_eq!(upper_checksum(src, dst, protocol, message), 0, "the message's checksum");
        let rest = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
        Icmp { src, dst, head: [message[0], message[1]], rest, body: message[8..].to_vec() }
    }

    /// Is it about that packet, of which it may quote less than all?
    pub(crate) fn is_about(&self, packet: &[u8]) -> bool {
        self.body.len() >= packet.len().min(28) && packet.starts_with(&self.body)
    }
}

pub(crate) fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"));
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// What is in a frame of plain GRE between those ends, over IPv4 or IPv6.
pub(crate) fn unwrapped(frame: &[u8], src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let packet = &frame[LINK..];
    assert_eq!(ends(packet), (src, dst));
    let (protocol, at) = if packet[0] >> 4 == 4 { (packet[9], 20) } else { (packet[6], 40) };
    assert_eq!(protocol, 47, "GRE");
    let inner = &packet[at + 4..];
    let ethertype = if inner[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    assert_eq!(packet[at..at + 4], [0, 0, ethertype[0], ethertype[1]], "a GRE header without options");
    inner.to_vec()
}

/// The packet that IPv4 fragments make, in whatever order they come (RFC 791 section 3.2).
pub(crate) fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let word = |packet: &[u8]| u16::from_be_bytes([packet[6], packet[7]]);
    let mut pieces: Vec<&[u8]> = fragments.iter().map(Vec::as_slice).collect();
    pieces.sort_by_key(|packet| word(packet) & 0x1fff);
    let mut whole = pieces[0][..20].to_vec();
    for (nth, piece) in pieces.iter().enumerate() {
        assert_eq!(checksum(&piece[..20]), 0);
        assert_eq!(piece[4..6], pieces[0][4..6], "one identification");
        assert_eq!(usize::from(word(piece) & 0x1fff) * 8, whole.len() - 20, "no gap");
        assert_eq!(word(piece) & 0x2000 != 0, nth + 1 < pieces.len(), "more fragments");
        whole.extend_from_slice(&piece[20..]);
    }
    let total = (whole.len() as u16).to_be_bytes();
    whole[2..4].copy_from_slice(&total);
    whole[6..8].fill(0);
    fix_checksum(&mut whole);
    whole
}

/// An IPv6 packet in fragments (RFC 8200 section 4.5) whose first parts have those lengths, a multiple of 8 each.
pub(crate) fn fragments_v6(packet: &[u8], id: u32, lengths: &[usize]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let mut cuts: Vec<usize> = lengths.to_vec();
    cuts.push(payload.len() - lengths.iter().sum::<usize>());
    let mut at = 0;
    let mut fragments = Vec::new();
    for len in cuts {
        let more = u16::from(at + len < payload.len());
        let word = (at as u16 | more).to_be_bytes();
        let mut fragment = header.to_vec();
        fragment[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
        fragment[6] = 44;
        fragment.extend([header[6], 0, word[0], word[1]]);
        fragment.extend(id.to_be_bytes());
        fragment.extend(&payload[at..at + len]);
        fragments.push(fragment);
        at += len;
    }
    fragments
}

/// An IPv4 packet in fragments, likewise.
pub(crate) fn fragments_v4(packet: &[u8], id: u16, lengths: &[usize]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let mut cuts: Vec<usize> = lengths.to_vec();
    cuts.push(payload.len() - lengths.iter().sum::<usize>());
    let mut at = 0;
    let mut fragments = Vec::new();
    for len in cuts {
        let more = if at + len < payload.len() { 0x2000 } else { 0 };
        let mut fragment = [header, &payload[at..at + len]].concat();
        fragment[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
        fragment[4..6].copy_from_slice(&id.to_be_bytes());
        fragment[6..8].copy_from_slice(&((at / 8) as u16 | more).to_be_bytes());
        fix_checksum(&mut fragment);
        fragments.push(fragment);
        at += len;
    }
    fragments
}

/// A frame of ARP (RFC 826), as it is on the wire.
pub(crate) fn arp(dst: [u8; 6], src: [u8; 6], operation: u8, words: ([u8; 4], [u8; 6], [u8; 4])) -> Vec<u8> {
    let (sender, target_mac, target) = words;
    let mut frame = [&dst[..], &src, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &src].concat();
    frame.extend([&sender[..], &target_mac, &target].concat());
    frame.resize(60, 0);
    frame
}

/// A frame of ND (RFC 4861 sections 4.3 and 4.4): type, flags, target, and the source's link address as the option.
pub(crate) fn nd(
    macs: ([u8; 6], [u8; 6]),
    ends: (Ipv6Addr, Ipv6Addr),
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
) -> Vec<u8> {
    let ((dst_mac, src_mac), (src, dst)) = (macs, ends);
    let option = if kind == 135 { 1 } else { 2 };
    let message = [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), &[option, 1], &src_mac].concat();
    let message = sealed(src.into(), dst.into(), 58, message, 2);
    let mut packet = ip(src.into(), dst.into(), 58, 0, 255, &message);
    // No flow label.
    packet[1..4].fill(0);
    [&dst_mac[..], &src_mac, &[0x86, 0xdd], &packet].concat()
}
