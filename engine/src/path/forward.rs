//! Forwarding an IP packet whose route is known: towards a station, into a tunnel, or up to the host.
//!
//! 1. An end of a tunnel is never reached through a tunnel (nesting is refused packet by packet too).
//! 2. What the route cannot do is a drop.
//! 3. TTL or hop limit goes down by one (RFC 1812 section 5.3.1, RFC 8200 section 3).
//! 4. The packet must fit the link.

use super::{Next, Packet, nested};
use crate::drops::Reason;
use crate::flow;
use crate::tables::{NextHop, Tables, To};
use crate::wire::{ethernet, ipv4, ipv6};

/// Forwards the IPv4 packet that the frame holds, checked before, to the next hop `next`, of number `hop`.
#[inline(always)]
pub(crate) fn ipv4(
    packet: &mut Packet<'_>,
    hop: u32,
    next: &NextHop,
    tables: &Tables,
) -> Result<Next, Reason> {
    let header = packet.frame.bytes().first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(Reason::IpMalformed)?;
    let (tos, link_local) = (header[1], header[12] == 169 && header[13] == 254);
    before(packet.frame.bytes(), next, tables, link_local)?;
    ipv4::decrement_ttl(packet.frame.bytes_mut()).ok_or(Reason::TtlExceeded)?;
    (packet.protocol, packet.tos) = (ethernet::IPV4, tos);
    onward(packet, hop, next, tables)
}

/// Forwards the IPv6 packet that the frame holds, checked before, to the next hop `next`, of number `hop`.
#[inline]
pub(crate) fn ipv6(
    packet: &mut Packet<'_>,
    hop: u32,
    next: &NextHop,
    tables: &Tables,
) -> Result<Next, Reason> {
    let header = packet.frame.bytes().first_chunk::<{ ipv6::HEADER_LEN }>().ok_or(Reason::IpMalformed)?;
    let (tos, link_local) = (header[0] << 4 | header[1] >> 4, header[8] == 0xfe && header[9] & 0xc0 == 0x80);
    before(packet.frame.bytes(), next, tables, link_local)?;
    ipv6::decrement_hop_limit(packet.frame.bytes_mut()).ok_or(Reason::TtlExceeded)?;
    (packet.protocol, packet.tos) = (ethernet::IPV6, tos);
    onward(packet, hop, next, tables)
}

/// Sends a packet of ours on its way: not forwarded, so its TTL stays.
pub(crate) fn ours(
    packet: &mut Packet<'_>,
    hop: u32,
    next: &NextHop,
    tables: &Tables,
) -> Result<Next, Reason> {
    before(packet.frame.bytes(), next, tables, false)?;
    onward(packet, hop, next, tables)
}

/// Steps 1 and 2.
#[inline(always)]
pub(crate) fn before(packet: &[u8], hop: &NextHop, tables: &Tables, link_local: bool) -> Result<(), Reason> {
    // What comes out of a tunnel was held against this before it was accepted.
    if hop.underlay && matches!(hop.to, To::Tunnel(_)) {
        nested::may_enter(packet, hop, tables)?;
    }
    if link_local {
        return Err(Reason::LinkLocal);
    }
    match hop.to {
        To::Nowhere | To::Host | To::HostForwards => Err(Reason::NoRoute),
        To::Station { .. } | To::Unresolved { .. } | To::Tunnel(_) | To::Group(_) => Ok(()),
    }
}

/// Step 4.
#[inline(always)]
fn onward(packet: &mut Packet<'_>, hop: u32, next: &NextHop, tables: &Tables) -> Result<Next, Reason> {
    match next.to {
        To::Tunnel(index) => {
            tables.prefetch_outbound(index);
            Ok(Next::Tunnel(index))
        }
        To::Station { port, .. } | To::Unresolved { port } => {
            let mtu = tables.ports.get(usize::from(port)).map_or(0, |port| port.mtu);
            if packet.frame.len() > mtu {
                return Err(Reason::TooBig);
            }
            match next.to {
                To::Station { .. } => Ok(Next::Station(hop)),
                _ => Err(Reason::NoNeighbour),
            }
        }
        To::Group(group) => spread(packet, group, tables),
        To::Host | To::HostForwards | To::Nowhere => Err(Reason::NoRoute),
    }
}

/// Several ways lead there: each flow takes one, and keeps to it.
#[inline(never)]
fn spread(packet: &mut Packet<'_>, group: u32, tables: &Tables) -> Result<Next, Reason> {
    let flow = flow::hash(packet.frame.bytes());
    match tables.member(group, flow) {
        Some((_, NextHop { to: To::Group(_), .. })) | None => Err(Reason::NoRoute),
        Some((hop, next)) => onward(packet, hop, next, tables),
    }
}
