//! What stands in a packet's headers, as far as a test may ask: read once, without a check of anything, from whatever is there.
//!
//! What a word means is what pcap-filter(7) says it means: ports are those of TCP, UDP and SCTP, in the first piece of a packet;
//! of IPv6 extension headers none is stepped over, but a fragment header for the protocol; ARP's addresses are addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{ethernet, ipv6, protocol};

/// Reverse ARP has the form of ARP (RFC 903).
const RARP: u16 = 0x8035;

/// The headers of a frame or packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers {
    /// Bytes on the link or in the tunnel.
    pub len: u32,
    /// EtherType: of a packet without a link header, that of its IP version; 0: neither.
    pub ethertype: u16,
    /// Source and destination: of IP, or ARP's sender and target.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// IPv4's protocol or IPv6's next header.
    pub protocol: Option<u8>,
    /// Behind an IPv6 fragment header.
    pub behind_fragment: Option<u8>,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A piece of a packet, and not the whole.
    pub fragment: bool,
}

impl Headers {
    /// Of an Ethernet frame of `len` bytes, of which `bytes` are the first.
    pub fn of_frame(bytes: &[u8], len: usize) -> Headers {
        let ethertype =
            bytes.get(12..14).and_then(<[u8]>::first_chunk).map_or(0, |at| u16::from_be_bytes(*at));
        let payload = bytes.get(ethernet::HEADER_LEN..).unwrap_or_default();
        Headers::of(ethertype, payload, len)
    }

    /// Of an IP packet.
    pub fn of_packet(bytes: &[u8]) -> Headers {
        let ethertype = match bytes.first().map(|first| first >> 4) {
            Some(4) => ethernet::IPV4,
            Some(6) => ethernet::IPV6,
            _ => 0,
        };
        Headers::of(ethertype, bytes, bytes.len())
    }

    fn of(ethertype: u16, payload: &[u8], len: usize) -> Headers {
        let headers = Headers { len: len as u32, ethertype, ..Headers::default() };
        match ethertype {
            ethernet::IPV4 => headers.with_ipv4(payload),
            ethernet::IPV6 => headers.with_ipv6(payload),
            ethernet::ARP | RARP => headers.with_arp(payload),
            _ => None,
        }
        .unwrap_or(headers)
    }

    /// RFC 791 section 3.1.
    fn with_ipv4(self, packet: &[u8]) -> Option<Headers> {
        let [first, _, _, _, _, _, f0, f1, ttl, upper, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
            *packet.first_chunk::<20>()?;
        let pieces = u16::from_be_bytes([f0, f1]) & 0x3fff;
        // An offset: not the first.
        let ports = if pieces & 0x1fff == 0 {
            ports(upper, packet.get(usize::from(first & 0xf) * 4..).unwrap_or_default())
        } else {
            None
        };
        Some(Headers {
            ends: Some((Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into())),
            protocol: Some(upper),
            ports,
            ttl,
            fragment: pieces != 0,
            ..self
        })
    }

    /// RFC 8200 section 3.
    fn with_ipv6(self, packet: &[u8]) -> Option<Headers> {
        let (header, payload) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let (upper, ttl) = (header[6], header[7]);
        let (src, dst) = header.last_chunk::<32>()?.split_first_chunk::<16>()?;
        let fragment = upper == protocol::FRAGMENT;
        Some(Headers {
            ends: Some((Ipv6Addr::from(*src).into(), Ipv6Addr::from(*dst.first_chunk::<16>()?).into())),
            protocol: Some(upper),
            behind_fragment: payload.first().copied().filter(|_| fragment),
            ports: ports(upper, payload),
            ttl,
            fragment,
            ..self
        })
    }

    /// RFC 826, for Ethernet and IPv4.
    fn with_arp(self, message: &[u8]) -> Option<Headers> {
        let message = message.first_chunk::<28>()?;
        let address = |at: usize| {
            message.get(at..at + 4).and_then(<[u8]>::first_chunk::<4>).map(|octets| IpAddr::from(*octets))
        };
        Some(Headers { ends: Some((address(14)?, address(24)?)), ..self })
    }
}

fn ports(upper: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match upper {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let [a, b, c, d] = *payload.first_chunk::<4>()?;
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        _ => None,
    }
}
