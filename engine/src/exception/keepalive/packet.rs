//! The packets of GRE keepalives: see [`Ends`].

use std::net::IpAddr;

use crate::wire::{Gre, GreHeader, Ipv4, Ipv4Header, Ipv6, Ipv6Header, ipv4, ipv6, protocol};

/// Protocol type of the inner GRE packet.
pub const PROTOCOL: u16 = 0;
/// Length of what our keepalives carry, in bytes.
pub const NONCE_LEN: usize = 8;
/// The most that a keepalive may carry to be answered, in bytes.
pub const MAX_PAYLOAD: usize = 64;
/// Network control (RFC 4594 section 3.1): full queues are no dead peers.
const TOS: u8 = 0xc0;
/// TTL of the inner packet, which the peer forwards.
const TTL: u8 = 255;

/// The ends of a tunnel, and what its GRE headers carry: what its keepalives are made and known by, as vendors send them. A
/// router that wants to know whether its peer is there wraps a packet that the peer would send *it*:
///
/// ```text
/// | outer IP, us to peer | GRE, IPv4 or IPv6 | inner IP, peer to us | GRE, protocol 0 | nonce |
/// ```
///
/// The peer takes off what it takes off any packet, and forwards the rest, which comes back as a GRE packet of protocol 0.
/// No RFC defines this; over IPv6 it is the same with IPv6 headers. Vendors send no payload; ours is a nonce, which a peer
/// that forwards sends back untouched, so that nobody else can make an unprotected tunnel look alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's, of the same family.
    pub remote: IpAddr,
    /// GRE key.
    pub key: Option<u32>,
    /// GRE checksums.
    pub checksum: bool,
}

impl Ends {
    /// The packet that goes into the tunnel to come back: from the inner IP header on. `None` where the ends are of two
    /// families.
    #[must_use]
    pub fn probe(&self, nonce: u64) -> Option<Vec<u8>> {
        let header = GreHeader { protocol: PROTOCOL, checksum: self.checksum, key: self.key, sequence: None };
        let gre_len = header.len() + NONCE_LEN;
        let mut packet;
        let at = match (self.remote, self.local) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                packet = vec![0; ipv4::HEADER_LEN + gre_len];
                let total_len = packet.len() as u16;
                let protocol = protocol::GRE;
                Ipv4Header { tos: TOS, total_len, id: 0, dont_fragment: true, ttl: TTL, protocol, src, dst }
                    .emit(packet.first_chunk_mut()?);
                ipv4::HEADER_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                packet = vec![0; ipv6::HEADER_LEN + gre_len];
                Ipv6Header {
                    traffic_class: TOS,
                    flow_label: 0,
                    payload_len: gre_len as u16,
                    next_header: protocol::GRE,
                    hop_limit: TTL,
                    src,
                    dst,
                }
                .emit(packet.first_chunk_mut()?);
                ipv6::HEADER_LEN
            }
            _ => return None,
        };
        *packet.last_chunk_mut()? = nonce.to_be_bytes();
        header.emit(packet.get_mut(at..)?).ok()?;
        Some(packet)
    }

    /// Whether a packet that came out of this tunnel could be the peer's keepalive: GRE from our end to the peer's. The one
    /// question that the packet path asks about a packet that it would drop as `nested`; [`Self::asked`] decides.
    #[must_use]
    pub fn may_ask(&self, packet: &[u8]) -> bool {
        match (packet.first().map(|first| first >> 4), self.local, self.remote) {
            (Some(4), IpAddr::V4(local), IpAddr::V4(remote)) => {
                let ends = packet.get(12..20);
                packet.get(9) == Some(&protocol::GRE)
                    && ends.is_some_and(|ends| ends == [local.octets(), remote.octets()].as_flattened())
            }
            (Some(6), IpAddr::V6(local), IpAddr::V6(remote)) => {
                let ends = packet.get(8..40);
                packet.get(6) == Some(&protocol::GRE)
                    && ends.is_some_and(|ends| ends == [local.octets(), remote.octets()].as_flattened())
            }
            _ => false,
        }
    }

    /// What the peer's keepalive carries, if a packet that came out of this tunnel is one: from our end to the peer's, whole,
    /// without options or extension headers, with time left to live; and in it a GRE packet of protocol 0 with the tunnel's
    /// own key, the checksum right where there is one, and at most [`MAX_PAYLOAD`] bytes behind it.
    #[must_use]
    pub fn asked<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        let (src, dst, upper, ttl, payload): (IpAddr, IpAddr, _, _, _) = match packet.first()? >> 4 {
            4 => {
                let ip =
                    Ipv4::parse(packet).ok().filter(|ip| !ip.is_fragment() && ip.options().is_empty())?;
                (ip.src().into(), ip.dst().into(), ip.protocol(), ip.ttl(), ip.payload())
            }
            6 => {
                let ip = Ipv6::parse(packet).ok()?;
                (ip.src().into(), ip.dst().into(), ip.next_header(), ip.hop_limit(), ip.payload())
            }
            _ => return None,
        };
        if (src, dst, upper) != (self.local, self.remote, protocol::GRE) || ttl < 2 {
            return None;
        }
        let gre = Gre::parse(payload).ok()?;
        let ours = gre.protocol() == PROTOCOL && gre.key() == self.key && gre.checksum_ok();
        (ours && gre.payload().len() <= MAX_PAYLOAD).then(|| gre.payload())
    }
}
