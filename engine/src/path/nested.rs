//! Tunnels in tunnels: what keeps them apart, and what joins those that may lie in each other.
//!
//! An end of a tunnel is never reached through a tunnel: neither does a packet to it enter one, nor does one come out
//! ([`may_enter`], [`out_of_tunnel`]). Where tunnels may lie in others (their near end is an address inside one, or they are
//! allowed more depth than 1) this holds for tunnels' packets alone, since the address is one that hosts speak with as well.
//!
//! A tunnel that the tables let lie in another is carried by it: its packets go on into that one ([`unlink`]), and come out
//! of that one alone ([`receive`]), never from a port, where anybody could send them.

use std::net::IpAddr;

use super::{Batch, Next, Packet, Stages, receive};
use crate::drops::Reason;
use crate::tables::{Address, Ends, GreEntry, NextHop, Tables, To};
use crate::tag::Origin;
use crate::wire::{Gre, Ipv4, Ipv6, Udp, ethernet, ipv6, protocol, udp};

/// May a packet enter a tunnel on its way to an end of tunnels, the next hop `hop`?
#[cold]
pub(crate) fn may_enter(packet: &[u8], hop: &NextHop, tables: &Tables) -> Result<(), Reason> {
    let ordinary = hop.inside && !is_of_tunnels(packet, tables);
    if ordinary { Ok(()) } else { Err(Reason::Nested) }
}

/// A packet out of a tunnel to an end of tunnels that may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToEnd {
    /// The far end asks whether we are there.
    Keepalive,
    /// A packet of a tunnel that may lie in that one.
    Carried,
    /// No tunnel's packet.
    Ordinary,
}

/// What is a packet out of tunnel `index` to an end of tunnels, the next hop `hop`?
#[cold]
pub(crate) fn out_of_tunnel(
    packet: &Packet<'_>,
    index: u32,
    hop: &NextHop,
    tables: &Tables,
) -> Result<ToEnd, Reason> {
    let bytes = packet.frame.bytes();
    if tables.tunnel(index).is_some_and(|tunnel| tunnel.ends().may_ask(bytes)) {
        return Ok(ToEnd::Keepalive);
    }
    match (hop.inside, is_of_tunnels(bytes, tables)) {
        (true, false) => Ok(ToEnd::Ordinary),
        (true, true) if hop.to == To::Host && tables.depth() > 1 => Ok(ToEnd::Carried),
        _ => Err(Reason::Nested),
    }
}

/// Does the IP packet go from the near end of a tunnel to its far one, without being the tunnel's?
#[cold]
pub(crate) fn is_between_ends(packet: &Packet<'_>, tables: &Tables) -> bool {
    let bytes = packet.frame.bytes();
    let between = match Outer::read(bytes) {
        Some(Outer { src: IpAddr::V4(src), dst: IpAddr::V4(dst), .. }) => is_pair(src, dst, tables),
        Some(Outer { src: IpAddr::V6(src), dst: IpAddr::V6(dst), .. }) => is_pair(src, dst, tables),
        _ => false,
    };
    between && !is_of_tunnels(bytes, tables)
}

fn is_pair<A: Address>(src: A, dst: A, tables: &Tables) -> bool {
    A::pairs(tables).get(&A::key(src, dst, None)).is_some_and(|pair| pair.live)
}

/// An IP header. Offsets in bytes from its start.
struct Outer {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    tos: u8,
    fragment: bool,
    payload_at: usize,
    end: usize,
}

impl Outer {
    fn read(bytes: &[u8]) -> Option<Outer> {
        if bytes.first()? >> 4 == 4 {
            let ip = Ipv4::parse(bytes).ok()?;
            return Some(Outer {
                src: ip.src().into(),
                dst: ip.dst().into(),
                protocol: ip.protocol(),
                tos: ip.tos(),
                fragment: ip.is_fragment(),
                payload_at: ip.header_len(),
                end: usize::from(ip.total_len()),
            });
        }
        let ip = Ipv6::parse(bytes).ok()?;
        let upper = ip.upper().ok()?;
        Some(Outer {
            src: ip.src().into(),
            dst: ip.dst().into(),
            protocol: upper.protocol,
            tos: ip.traffic_class(),
            fragment: upper.fragment,
            payload_at: upper.offset,
            end: ipv6::HEADER_LEN + usize::from(ip.payload_len()),
        })
    }
}

/// Is this GRE or ESP, or in UDP what tunnels here have there? What cannot be read might be.
fn is_of_tunnels(bytes: &[u8], tables: &Tables) -> bool {
    Outer::read(bytes).is_none_or(|outer| is_tunnels(&outer, bytes, tables))
}

/// Source and destination of a packet that is GRE or ESP, or in UDP what tunnels here have there.
pub(crate) fn ends_of_tunnels(bytes: &[u8], tables: &Tables) -> Option<(IpAddr, IpAddr)> {
    let outer = Outer::read(bytes)?;
    is_tunnels(&outer, bytes, tables).then_some((outer.src, outer.dst))
}

fn is_tunnels(outer: &Outer, bytes: &[u8], tables: &Tables) -> bool {
    match outer.protocol {
        protocol::GRE | protocol::ESP => true,
        protocol::UDP => {
            let ports = bytes.get(outer.payload_at..outer.end).and_then(<[u8]>::first_chunk::<4>);
            let Some([a, b, c, d]) = ports else { return false };
            let (source, destination) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            // RFC 3948 section 2.2, 2.3: IKE has a marker, and is no tunnel's packet.
            let payload = bytes.get(outer.payload_at + udp::HEADER_LEN..outer.end).unwrap_or_default();
            let esp = !matches!(payload, [] | [0xff] | [0, 0, 0, 0, ..]);
            tables.is_gre_port(destination)
                || esp && (tables.is_encap_port(source) || tables.is_encap_port(destination))
        }
        _ => false,
    }
}

/// Takes the link header off a packet that has been put into a tunnel, and is for another one now.
#[cold]
pub(crate) fn unlink(packet: &mut Packet<'_>) {
    let Next::Tunnel(carrier) = packet.next else { return };
    packet.frame.pull(ethernet::HEADER_LEN);
    let (protocol, tos) = match packet.frame.bytes() {
        [first, tos, ..] if first >> 4 == 4 => (ethernet::IPV4, *tos),
        [first, second, ..] => (ethernet::IPV6, first << 4 | second >> 4),
        _ => {
            packet.next = Next::Drop(Reason::IpMalformed);
            return;
        }
    };
    (packet.protocol, packet.tos, packet.summed) = (protocol, tos, false);
    packet.origin = Origin::Into(carrier).encode();
}

/// Finds the tunnels of packets that came out of their carriers.
#[cold]
pub(crate) fn receive(packets: &mut Batch<'_>, stages: &mut Stages, tables: &Tables, worker: usize) {
    let worker = worker as u32;
    for packet in packets.iter_mut() {
        let Next::Carried(carrier) = packet.next else { continue };
        let verdict = match Outer::read(packet.frame.bytes()) {
            Some(outer) => match (outer.src, outer.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    carried(packet, &outer, src, dst, carrier, tables, worker)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    carried(packet, &outer, src, dst, carrier, tables, worker)
                }
                _ => Err(Reason::IpMalformed),
            },
            None => Err(Reason::IpMalformed),
        };
        packet.next = verdict.unwrap_or_else(Next::Drop);
        stages.note(packet.next);
    }
}

/// The frame is left with the GRE or ESP packet alone.
fn carried<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer,
    src: A,
    dst: A,
    carrier: u32,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    if outer.fragment {
        return Err(Reason::Fragment);
    }
    packet.tos = outer.tos;
    packet.frame.truncate(outer.end);
    let bytes = packet.frame.bytes().get(outer.payload_at..).ok_or(Reason::IpMalformed)?;
    let (at, next, owner) = match outer.protocol {
        protocol::GRE => {
            let entry = gre(bytes, src, dst, carrier, tables)?;
            if entry.udp {
                return Err(Reason::GreUnknown);
            }
            let owner = if entry.plain { worker } else { entry.owner };
            (outer.payload_at, Next::Gre(entry.tunnel), owner)
        }
        protocol::ESP => {
            let Some((index, owner)) = esp(bytes, src, dst, carrier, tables)? else {
                return receive::unknown_spi(src, dst, tables);
            };
            (outer.payload_at, Next::Open(index), owner)
        }
        protocol::UDP => {
            let datagram = Udp::parse(bytes).map_err(|_| Reason::IpMalformed)?;
            let at = outer.payload_at + udp::HEADER_LEN;
            let end = outer.payload_at + usize::from(datagram.length());
            if tables.is_gre_port(datagram.destination()) {
                let pseudo = A::pseudo(src, dst, protocol::UDP, datagram.length());
                let sound = match datagram.checksum() {
                    0 => !A::CHECKSUM,
                    _ => datagram.checksum_ok(pseudo),
                };
                if !sound {
                    return Err(Reason::UdpChecksum);
                }
                let entry = gre(datagram.payload(), src, dst, carrier, tables)?;
                if !entry.udp {
                    return Err(Reason::GreUnknown);
                }
                packet.frame.truncate(end);
                (at, Next::Gre(entry.tunnel), entry.owner)
            } else if tables.is_encap_port(datagram.destination()) {
                let Some((index, owner)) = esp(datagram.payload(), src, dst, carrier, tables)? else {
                    return receive::unknown_spi(src, dst, tables);
                };
                packet.frame.truncate(end);
                (at, Next::Open(index), owner)
            } else {
                return Err(Reason::Nested);
            }
        }
        _ => return Err(Reason::Nested),
    };
    if owner != worker {
        return Ok(Next::HandOver(owner));
    }
    packet.frame.pull(at);
    Ok(next)
}

/// The tunnel of a GRE packet that came out of tunnel `carrier`.
fn gre<A: Address>(bytes: &[u8], src: A, dst: A, carrier: u32, tables: &Tables) -> Result<GreEntry, Reason> {
    let gre = Gre::parse(bytes).map_err(|_| Reason::GreMalformed)?;
    match A::carried(tables).get(&A::key(dst, src, gre.key())) {
        Some(entry) => may_lie_in(entry.tunnel, carrier, tables).map(|()| *entry),
        None if A::pairs(tables).get(&A::key(dst, src, None)).is_some_and(|pair| pair.live) => {
            Err(Reason::GreKey)
        }
        None => Err(Reason::Nested),
    }
}

/// The SA of an ESP packet that came out of tunnel `carrier`, and the worker that opens it; `None` where the SPI is not known.
fn esp<A: Address>(
    bytes: &[u8],
    src: A,
    dst: A,
    carrier: u32,
    tables: &Tables,
) -> Result<Option<(u32, u32)>, Reason> {
    let spi = bytes.first_chunk::<4>().ok_or(Reason::EspMalformed)?;
    let Some((index, inbound)) = tables.inbound_by_spi(u32::from_be_bytes(*spi)) else { return Ok(None) };
    may_lie_in(inbound.tunnel, carrier, tables)?;
    // The SA may be for packets between two addresses alone (RFC 4301 section 5.2, step 4).
    if inbound.ends != Ends::Any && !A::between(&inbound.ends, src, dst) {
        return Err(Reason::EspMalformed);
    }
    Ok(Some((index, inbound.owner())))
}

/// Where its packets go in is where they come out.
fn may_lie_in(tunnel: u32, carrier: u32, tables: &Tables) -> Result<(), Reason> {
    let lies = tables.tunnel(tunnel).is_some_and(|tunnel| tunnel.carrier == Some(carrier));
    if lies { Ok(()) } else { Err(Reason::Nested) }
}
