//! Packets that several stages are measured with.

use std::net::Ipv4Addr;

use culvert_engine::wire::{EthernetHeader, GreHeader, Ipv4Header, MacAddr, ethernet, ipv4, protocol};

/// Lengths of inner packets, in bytes.
pub(crate) const LENGTHS: [usize; 3] = [64, 512, 1400];

/// An IPv4 packet of `len` bytes.
pub(crate) fn inner(len: usize) -> Vec<u8> {
    let ends = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 2, 0, 1));
    ip(protocol::UDP, ends, &vec![0x5a; len - ipv4::HEADER_LEN])
}

/// A GRE packet around an IPv4 packet of `len` bytes.
pub(crate) fn gre(header: GreHeader, len: usize) -> Vec<u8> {
    let mut packet = vec![0; header.len()];
    packet.extend(inner(len));
    header.emit(&mut packet).expect("there is room for the header");
    packet
}

/// A frame as it comes from the network: Ethernet, IPv4, GRE, and an IPv4 packet of `len` bytes.
pub(crate) fn frame(header: GreHeader, len: usize) -> Vec<u8> {
    let ends = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1));
    let mut link = [0; ethernet::HEADER_LEN];
    let (dst, src) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    EthernetHeader { dst, src, ethertype: ethernet::IPV4 }.emit(&mut link);
    [&link[..], &ip(protocol::GRE, ends, &gre(header, len))].concat()
}

fn ip(protocol: u8, (src, dst): (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
    let mut header = [0; ipv4::HEADER_LEN];
    let total_len = (ipv4::HEADER_LEN + payload.len()) as u16;
    Ipv4Header { tos: 0, total_len, id: 0, dont_fragment: true, ttl: 64, protocol, src, dst }
        .emit(&mut header);
    [&header[..], payload].concat()
}
