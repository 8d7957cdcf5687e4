//! The first stage: what a frame is, and whose.
//!
//! 1. Ethernet: is it for this station? Tagged, multicast and unknown types are the host's.
//! 2. IP is checked and the route looked up.
//! 3. For us: ESP, ESP in UDP and GRE are the engine's; all else is the host's, byte for byte.
//! 4. For others: it is forwarded (see [`super::forward`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use super::{Next, Packet, Stages};
use super::{common, forward, nested};
use crate::drops::Reason;
use crate::esp::whence::Source;
use crate::tables::{Address, Ends, NextHop, Pair, PortEntry, PortKind, Stack, Tables, To};
use crate::tag::{Cause, Origin};
use crate::wire::{Ethernet, Gre, Ipv4, Ipv6, Udp, ethernet, icmpv4, icmpv6, protocol, udp};

/// Asks the processor for what the look-ups of a batch will read first, where there are so many tunnels that it would have
/// to be waited for. Only the commonest packets are looked at; a wrong guess costs nothing but the guess.
#[cold]
pub(crate) fn look_ahead(packets: &[Packet<'_>], tables: &Tables) {
    let mut esp = false;
    for packet in packets {
        match Glimpse::of(packet) {
            Some(Glimpse::Esp(spi)) => {
                tables.prefetch_spi(spi);
                esp = true;
            }
            Some(Glimpse::Gre(local, remote, key)) => tables.prefetch_gre(local, remote, key),
            // Routes to many tunnels are few nodes: they are looked up at once.
            Some(Glimpse::To(destination)) => tables.prefetch_next_hop(destination),
            None => {}
        }
    }
    if !esp {
        return;
    }
    for packet in packets {
        if let Some(Glimpse::Esp(spi)) = Glimpse::of(packet)
            && let Some((_, inbound)) = tables.inbound_by_spi(spi)
        {
            inbound.sa.prefetch();
        }
    }
}

/// What a frame is at first sight, without a check: IPv4 without options, and ESP, GRE or something else in it.
enum Glimpse {
    /// With this SPI.
    Esp(u32),
    /// With these addresses, the near one first, and this key.
    Gre(Ipv4Addr, Ipv4Addr, Option<u32>),
    /// Neither, to this address.
    To(Ipv4Addr),
}

impl Glimpse {
    #[inline]
    fn of(packet: &Packet<'_>) -> Option<Glimpse> {
        let header = packet.frame.bytes().first_chunk::<42>()?;
        let [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, 0x45, ..] = header else { return None };
        let (outer, payload) = header.split_last_chunk::<8>()?;
        let [first, second] = *payload.as_chunks::<4>().0 else { return None };
        match *outer.get(23)? {
            protocol::ESP => Some(Glimpse::Esp(u32::from_be_bytes(first))),
            protocol::GRE => {
                let [.., r0, r1, r2, r3, l0, l1, l2, l3] = *outer else { return None };
                let key = (first[0] & 0xb0 == 0x20).then(|| u32::from_be_bytes(second));
                Some(Glimpse::Gre([l0, l1, l2, l3].into(), [r0, r1, r2, r3].into(), key))
            }
            _ => outer.last_chunk::<4>().map(|to| Glimpse::To((*to).into())),
        }
    }
}

/// Runs the stage for one packet that was received on `port`.
#[inline(always)]
pub(crate) fn receive(
    packet: &mut Packet<'_>,
    port: &PortEntry,
    tables: &Tables,
    worker: usize,
    stages: &mut Stages,
) {
    if common::receive(packet, port, tables, worker as u32, stages) {
        return;
    }
    packet.next = classify(packet, port, tables, worker as u32).unwrap_or_else(Next::Drop);
    stages.note(packet.next);
}

#[inline(never)] // so that the common packets have the registers to themselves
pub(super) fn classify(
    packet: &mut Packet<'_>,
    port: &PortEntry,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    let frame = Ethernet::parse(packet.frame.bytes()).map_err(|_| Reason::EthernetMalformed)?;
    packet.source = frame.src();
    match port.kind {
        PortKind::Station => {}
        PortKind::Bridged(tunnel) => return bridged(packet, tunnel),
        PortKind::HostOf(nic) => return from_host(packet, nic, tables),
    }
    if !port.has(frame.dst()) {
        if frame.dst().is_multicast() {
            return Ok(Next::Host);
        }
        if frame.dst().is_virtual_router() {
            if !is_for_us(&frame, tables)? {
                if let Some(next) = ahead(packet, tables) {
                    return Ok(next);
                }
                // Where the kernel takes its own before the port does, there is no host to judge what is left.
                if port.stack != Stack::Kernel {
                    return Ok(Next::Host);
                }
            }
        } else if !port.any_mac {
            return Err(Reason::NotOurs);
        }
    }
    if packet.frame.slots() > 1 {
        return several_slots(packet, tables);
    }
    if frame.tags_len() != 0 {
        return Ok(Next::Host);
    }
    match frame.ethertype() {
        ethernet::IPV4 => ipv4(packet, tables, worker),
        ethernet::IPV6 => ipv6(packet, tables, worker),
        _ => Ok(Next::Host),
    }
}

/// A port that is bridged gives every frame to its tunnel, whole.
#[cold]
fn bridged(packet: &mut Packet<'_>, tunnel: u32) -> Result<Next, Reason> {
    if packet.frame.slots() > 1 {
        return Err(Reason::MultiSlot);
    }
    packet.protocol = ethernet::TEB;
    packet.tos = 0;
    packet.origin = Origin::Into(tunnel).encode();
    Ok(Next::Tunnel(tunnel))
}

/// What the host sends by a port leaves as it is, but for what would undo a tunnel's protection: a kernel that was given the
/// tunnel's SAs or GRE as well must not send beside us. Headers are read as they stand: a frame in several slots, or with a
/// checksum that the host left to the card, is guarded like any other.
#[cold]
fn from_host(packet: &Packet<'_>, nic: u32, tables: &Tables) -> Result<Next, Reason> {
    let frame = Ethernet::parse(packet.frame.bytes()).map_err(|_| Reason::EthernetMalformed)?;
    match frame.ethertype() {
        ethernet::IPV4 => {
            if let Ok(ip) = Ipv4::quoted(frame.payload()) {
                guard(ip.src(), ip.dst(), ip.protocol(), ip.payload(), tables)?;
            }
        }
        ethernet::IPV6 => {
            if let Ok(ip) = Ipv6::quoted(frame.payload())
                && let Ok(upper) = ip.upper()
            {
                let payload = frame.payload().get(upper.offset..).unwrap_or_default();
                guard(ip.src(), ip.dst(), upper.protocol, payload, tables)?;
            }
        }
        _ => {}
    }
    Ok(Next::Send(nic))
}

/// GRE and ESP between the ends of a protected tunnel are not the host's to send. Nor is IKE, where another router has the near
/// end: its far end would take what this router's strongSwan lets go of for gone.
fn guard<A: Address>(src: A, dst: A, protocol: u8, payload: &[u8], tables: &Tables) -> Result<(), Reason> {
    if !matches!(protocol, protocol::GRE | protocol::ESP | protocol::UDP) {
        return Ok(());
    }
    let Some(pair) = A::pairs(tables).get(&A::key(src, dst, None)) else { return Ok(()) };
    match protocol {
        protocol::GRE if pair.protected => Err(Reason::CleartextForProtected),
        protocol::ESP if pair.protected => Err(Reason::EspFromHost),
        protocol::UDP if pair.protected && is_esp_in_udp(payload, tables) => Err(Reason::EspFromHost),
        protocol::UDP if pair.silent && is_from_ike(payload) => Err(Reason::Backup),
        _ => Ok(()),
    }
}

/// A datagram from one of IKE's ports (RFC 7296 section 2).
fn is_from_ike(payload: &[u8]) -> bool {
    payload.first_chunk().is_some_and(|port| matches!(u16::from_be_bytes(*port), 500 | 4500))
}

/// ESP in a datagram from a port of ours for that: neither IKE nor a keepalive (RFC 3948 section 2).
fn is_esp_in_udp(payload: &[u8], tables: &Tables) -> bool {
    Udp::parse(payload).is_ok_and(|datagram| {
        tables.is_encap_port(datagram.source()) && !matches!(datagram.payload(), [0xff] | [0, 0, 0, 0, ..])
    })
}

/// Is the packet in a frame, which is to an address that routers share by CARP or VRRP and that we do not know to be master of, for an
/// address of ours? Such a frame is taken as any other: tunnels whose near end another router holds are silent by themselves. All
/// else but their packets is the host's, whose CARP knows which of them it is master of.
#[cold]
fn is_for_us(frame: &Ethernet<'_>, tables: &Tables) -> Result<bool, Reason> {
    let Some(destination) = destination(frame)? else { return Ok(false) };
    Ok(matches!(tables.route(destination), Some(NextHop { to: To::Host, .. })))
}

/// Where the IP packet in a frame goes; `None` where it is another protocol's.
fn destination(frame: &Ethernet<'_>) -> Result<Option<IpAddr>, Reason> {
    let bytes = frame.payload();
    Ok(match frame.ethertype() {
        ethernet::IPV4 => {
            let octets = bytes.get(16..20).and_then(<[u8]>::first_chunk::<4>);
            Some(IpAddr::from(*octets.ok_or(Reason::IpMalformed)?))
        }
        ethernet::IPV6 => {
            let octets = bytes.get(24..40).and_then(<[u8]>::first_chunk::<16>);
            Some(IpAddr::from(*octets.ok_or(Reason::IpMalformed)?))
        }
        _ => None,
    })
}

/// A frame longer than a buffer lies in several, where neither cipher nor checksum can work on it: it is the host's if it
/// is for us, and dropped otherwise (the host might forward it unprotected).
#[cold]
fn several_slots(packet: &mut Packet<'_>, tables: &Tables) -> Result<Next, Reason> {
    let frame = Ethernet::parse(packet.frame.bytes()).map_err(|_| Reason::EthernetMalformed)?;
    let Some(destination) = destination(&frame)? else { return Ok(Next::Host) };
    match tables.route(destination) {
        Some(NextHop { to: To::Host | To::HostForwards, .. }) => Ok(Next::Host),
        _ => Err(Reason::MultiSlot),
    }
}

#[inline(always)]
fn ipv4(packet: &mut Packet<'_>, tables: &Tables, worker: u32) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(ethernet::HEADER_LEN..).unwrap_or_default();
    let ip = Ipv4::parse(bytes).map_err(|_| Reason::IpMalformed)?;
    let outer = Outer::of(&ip);
    if let Some(next) = from_tunnel(packet, &outer, tables, worker) {
        return Ok(next);
    }
    let hop = tables.fib().lookup_v4(outer.dst).and_then(|hop| Some((hop, tables.next_hop(hop)?)));
    match hop {
        Some((_, NextHop { to: To::Host, .. })) => return local_v4(packet, tables, worker),
        Some((hop, NextHop { to: To::Unresolved { .. }, .. })) => return unresolved_v4(packet, hop, tables),
        Some((_, NextHop { to: To::HostForwards, .. })) => return Ok(Next::Host),
        _ => {}
    }
    strip_ethernet(packet, outer.end);
    let (hop, way) = hop.ok_or(Reason::NoRoute)?;
    forward::ipv4(packet, hop, way, tables)
}

/// The header is read once more: if it were handed over, every packet would have it written to memory.
#[inline(never)]
fn local_v4(packet: &mut Packet<'_>, tables: &Tables, worker: u32) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(ethernet::HEADER_LEN..).unwrap_or_default();
    let outer = Outer::of(&Ipv4::parse(bytes).map_err(|_| Reason::IpMalformed)?);
    local(packet, &outer, tables, worker)
}

/// As [`local_v4`], of a packet for a station that is not known.
#[cold]
#[inline(never)]
fn unresolved_v4(packet: &mut Packet<'_>, hop: u32, tables: &Tables) -> Result<Next, Reason> {
    let way = tables.next_hop(hop).ok_or(Reason::NoRoute)?;
    if let Some(next) = unless_there(packet, way, tables) {
        return Ok(next);
    }
    let bytes = packet.frame.bytes().get(ethernet::HEADER_LEN..).unwrap_or_default();
    let end = Outer::of(&Ipv4::parse(bytes).map_err(|_| Reason::IpMalformed)?).end;
    strip_ethernet(packet, end);
    forward::ipv4(packet, hop, way, tables)
}

#[inline(never)]
fn ipv6(packet: &mut Packet<'_>, tables: &Tables, worker: u32) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(ethernet::HEADER_LEN..).unwrap_or_default();
    let ip = Ipv6::parse(bytes).map_err(|_| Reason::IpMalformed)?;
    let end = ethernet::HEADER_LEN + crate::wire::ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let hop = tables.fib().lookup_v6(ip.dst()).and_then(|hop| Some((hop, tables.next_hop(hop)?)));
    if let Some((_, NextHop { to: To::Host, .. })) = hop {
        let upper = ip.upper().map_err(|_| Reason::IpMalformed)?;
        let outer = Outer {
            src: ip.src(),
            dst: ip.dst(),
            protocol: upper.protocol,
            tos: ip.traffic_class(),
            fragment: upper.fragment,
            first: upper.first,
            payload_at: ethernet::HEADER_LEN + upper.offset,
            end,
        };
        return match from_tunnel(packet, &outer, tables, worker) {
            Some(next) => Ok(next),
            None => local(packet, &outer, tables, worker),
        };
    }
    if let Some((_, NextHop { to: To::HostForwards, .. })) = hop {
        return Ok(Next::Host);
    }
    if let Some((_, way @ NextHop { to: To::Unresolved { .. }, .. })) = hop
        && let Some(next) = unless_there(packet, way, tables)
    {
        return Ok(next);
    }
    strip_ethernet(packet, end);
    let (hop, way) = hop.ok_or(Reason::NoRoute)?;
    forward::ipv6(packet, hop, way, tables)
}

/// Leaves the IP packet alone in the frame, which ends `end` bytes into it: no link header, no padding behind.
#[inline(always)]
fn strip_ethernet(packet: &mut Packet<'_>, end: usize) {
    packet.frame.truncate(end);
    packet.frame.pull(ethernet::HEADER_LEN);
}

/// What the header of a packet for us says. Offsets in bytes from the start of the frame.
struct Outer<A> {
    src: A,
    dst: A,
    protocol: u8,
    tos: u8,
    fragment: bool,
    /// Not a later fragment: the payload starts with the header that `protocol` names.
    first: bool,
    payload_at: usize,
    end: usize,
}

impl Outer<Ipv4Addr> {
    #[inline(always)]
    fn of(ip: &Ipv4<'_>) -> Outer<Ipv4Addr> {
        Outer {
            src: ip.src(),
            dst: ip.dst(),
            protocol: ip.protocol(),
            tos: ip.tos(),
            fragment: ip.is_fragment(),
            first: ip.fragment_offset() == 0,
            payload_at: ethernet::HEADER_LEN + ip.header_len(),
            end: ethernet::HEADER_LEN + usize::from(ip.total_len()),
        }
    }
}

/// A packet that one look-up shows to be for an end of a tunnel, as nearly all of them are on the way in: no route needs to be
/// looked up, since our end is an address of ours. `None` is no verdict yet.
#[inline(always)]
fn from_tunnel<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer<A>,
    tables: &Tables,
    worker: u32,
) -> Option<Next> {
    if outer.fragment {
        return None;
    }
    match outer.protocol {
        protocol::GRE => {
            let gre = Gre::parse(packet.frame.bytes().get(outer.payload_at..outer.end)?).ok()?;
            let entry = *A::tunnels(tables).get(&A::key(outer.dst, outer.src, gre.key()))?;
            let (plain, protocol, header_len) =
                (entry.plain && gre.is_plain(), gre.protocol(), gre.header_len());
            packet.tos = outer.tos;
            packet.frame.truncate(outer.end);
            if plain {
                packet.protocol = protocol;
                packet.frame.pull(outer.payload_at + header_len);
                return Some(Next::Inner(entry.tunnel));
            }
            if entry.udp {
                return None;
            }
            if entry.owner != worker {
                return Some(Next::HandOver(entry.owner));
            }
            packet.frame.pull(outer.payload_at);
            Some(Next::Gre(entry.tunnel))
        }
        protocol::ESP => {
            let spi = packet.frame.bytes().get(outer.payload_at..)?.first_chunk::<4>()?;
            let (index, inbound) = tables.inbound_by_spi(u32::from_be_bytes(*spi))?;
            if !A::between(&inbound.ends, outer.src, outer.dst) {
                return None;
            }
            if inbound.owner() != worker {
                return Some(Next::HandOver(inbound.owner()));
            }
            packet.tos = outer.tos;
            packet.frame.truncate(outer.end);
            packet.frame.pull(outer.payload_at);
            inbound.sa.prefetch();
            Some(Next::Open(index))
        }
        _ => None,
    }
}

/// A packet to one of our addresses that [`from_tunnel`] had no verdict on.
#[inline(never)]
fn local<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer<A>,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    packet.tos = outer.tos;
    match outer.protocol {
        protocol::ESP | protocol::GRE if outer.fragment => Err(Reason::Fragment),
        protocol::ESP => esp(packet, outer, outer.payload_at..outer.end, None, tables, worker),
        protocol::GRE => unknown_gre(packet, outer, tables),
        protocol::UDP => encapsulated_in_udp(packet, outer, tables, worker),
        protocol::ICMP | protocol::ICMPV6 if is_error(packet, outer) => Ok(Next::Exception(Cause::IcmpError)),
        _ => Ok(Next::Host),
    }
}

/// Is this an ICMP error about a packet that did not arrive? (RFC 792; RFC 4443 section 2.1: types below 128.)
fn is_error<A>(packet: &Packet<'_>, outer: &Outer<A>) -> bool {
    let kind = packet.frame.bytes().get(outer.payload_at).copied();
    kind.is_some_and(|kind| match outer.protocol {
        protocol::ICMP => kind == icmpv4::UNREACHABLE,
        _ => kind == icmpv6::UNREACHABLE || kind == icmpv6::PACKET_TOO_BIG,
    })
}

/// What becomes of a GRE packet that no tunnel takes. One that wants its packets in UDP does not take it.
fn unknown_gre<A: Address>(packet: &Packet<'_>, outer: &Outer<A>, tables: &Tables) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(outer.payload_at..outer.end).unwrap_or_default();
    let gre = Gre::parse(bytes).map_err(|_| Reason::GreMalformed)?;
    if A::tunnels(tables).get(&A::key(outer.dst, outer.src, gre.key())).is_some() {
        return Err(Reason::GreUnknown);
    }
    no_tunnel(outer.src, outer.dst, tables)
}

/// What becomes of GRE between two ends by a key that no tunnel there has.
fn no_tunnel<A: Address>(src: A, dst: A, tables: &Tables) -> Result<Next, Reason> {
    match A::pairs(tables).get(&A::key(dst, src, None)) {
        Some(pair) if pair.is_silent() => silent(pair),
        Some(pair) if pair.live => Err(Reason::GreKey),
        _ => Err(Reason::GreUnknown),
    }
}

/// RFC 3948 section 2.2, 2.3: ESP, IKE behind a marker of four zero bytes, or a keepalive. RFC 8086: GRE.
fn encapsulated_in_udp<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer<A>,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(outer.payload_at..outer.end).ok_or(Reason::IpMalformed)?;
    let ours = |port| tables.is_encap_port(port) || tables.is_gre_port(port);
    if outer.fragment {
        // Only a first fragment says which port it is for. One that ends before it shows whether it is IKE is the host's.
        let port = bytes.get(2..4).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
        let marker = bytes.get(udp::HEADER_LEN..).and_then(<[u8]>::first_chunk::<4>);
        let is_esp = marker.is_some_and(|marker| *marker != [0; 4]);
        let to_us = outer.first
            && port.is_some_and(|port| tables.is_gre_port(port) || tables.is_encap_port(port) && is_esp);
        return if to_us { Err(Reason::Fragment) } else { Ok(Next::Exception(Cause::Datagram)) };
    }
    let datagram = Udp::parse(bytes).map_err(|_| Reason::IpMalformed)?;
    if !ours(datagram.destination()) {
        return Ok(Next::Host);
    }
    if tables.is_gre_port(datagram.destination()) {
        let sound = match datagram.checksum() {
            0 => !A::CHECKSUM,
            _ => datagram.checksum_ok(A::pseudo(outer.src, outer.dst, protocol::UDP, datagram.length())),
        };
        let end = outer.payload_at + usize::from(datagram.length());
        return if sound { gre_in_udp(packet, outer, end, tables, worker) } else { Err(Reason::UdpChecksum) };
    }
    match datagram.payload() {
        [0xff] => Err(Reason::NatKeepalive),
        [0, 0, 0, 0, ..] => Ok(Next::Host),
        payload => {
            let (at, source) = (outer.payload_at + udp::HEADER_LEN, outer.src.source(datagram.source()));
            esp(packet, outer, at..at + payload.len(), Some(source), tables, worker)
        }
    }
}

/// The frame is left with the GRE packet of a datagram that ends `end` bytes into it, and that is a tunnel's.
fn gre_in_udp<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer<A>,
    end: usize,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(outer.payload_at + udp::HEADER_LEN..end).unwrap_or_default();
    let gre = Gre::parse(bytes).map_err(|_| Reason::GreMalformed)?;
    match A::tunnels(tables).get(&A::key(outer.dst, outer.src, gre.key())) {
        Some(entry) if entry.udp && entry.owner != worker => Ok(Next::HandOver(entry.owner)),
        Some(entry) if entry.udp => {
            packet.frame.truncate(end);
            packet.frame.pull(outer.payload_at + udp::HEADER_LEN);
            Ok(Next::Gre(entry.tunnel))
        }
        Some(_) => Err(Reason::GreUnknown),
        None => no_tunnel(outer.src, outer.dst, tables),
    }
}

/// The frame is left with the ESP packet alone, which lies at `esp` in it; or as it was received, to be handed over, or because it
/// came in UDP from `source`, which is not where the packets before it came from.
#[inline]
fn esp<A: Address>(
    packet: &mut Packet<'_>,
    outer: &Outer<A>,
    esp: Range<usize>,
    source: Option<Source>,
    tables: &Tables,
    worker: u32,
) -> Result<Next, Reason> {
    let bytes = packet.frame.bytes().get(esp.clone()).unwrap_or_default();
    let spi = bytes.first_chunk::<4>().ok_or(Reason::EspMalformed)?;
    let Some((index, inbound)) = tables.inbound_by_spi(u32::from_be_bytes(*spi)) else {
        return unknown_spi(outer.src, outer.dst, tables);
    };
    inbound.sa.prefetch();
    // The SA may be for packets between two addresses alone (RFC 4301 section 5.2, step 4).
    if inbound.ends != Ends::Any && !A::between(&inbound.ends, outer.src, outer.dst) {
        return Err(Reason::EspMalformed);
    }
    if inbound.owner() != worker {
        return Ok(Next::HandOver(inbound.owner()));
    }
    if source.is_some_and(|source| !inbound.sa.is_from(source)) {
        return Ok(Next::Elsewhere(index));
    }
    packet.frame.truncate(esp.end);
    packet.frame.pull(esp.start);
    Ok(Next::Open(index))
}

/// Where the datagram in a frame, which was found to have ESP in it, is from, and where in the frame that lies.
#[cold]
pub(crate) fn esp_in_udp(frame: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
    let bytes = frame.get(ethernet::HEADER_LEN..)?;
    if bytes.first()? >> 4 == 4 {
        let ip = Ipv4::parse(bytes).ok()?;
        let datagram = Udp::parse(ip.payload()).ok()?;
        let at = ethernet::HEADER_LEN + ip.header_len() + udp::HEADER_LEN;
        return Some((
            SocketAddr::new(ip.src().into(), datagram.source()),
            at..at + datagram.payload().len(),
        ));
    }
    let ip = Ipv6::parse(bytes).ok()?;
    let (upper, end) = (ip.upper().ok()?, crate::wire::ipv6::HEADER_LEN + usize::from(ip.payload_len()));
    let datagram = Udp::parse(bytes.get(upper.offset..end)?).ok()?;
    let at = ethernet::HEADER_LEN + upper.offset + udp::HEADER_LEN;
    Some((SocketAddr::new(ip.src().into(), datagram.source()), at..at + datagram.payload().len()))
}

/// What becomes of a packet by an SA that is not known: from the far end of a tunnel whose keys are negotiated, it may only be early.
#[cold]
pub(super) fn unknown_spi<A: Address>(src: A, dst: A, tables: &Tables) -> Result<Next, Reason> {
    match A::pairs(tables).get(&A::key(dst, src, None)) {
        Some(pair) if pair.is_silent() => silent(pair),
        Some(pair) if pair.has_room() => Ok(Next::Exception(Cause::UnknownSpi)),
        _ => Err(Reason::EspUnknownSpi),
    }
}

/// What becomes of a packet for a near end that another router has, as far as the tables know: who has sent it here may know better.
fn silent(pair: &Pair) -> Result<Next, Reason> {
    if pair.has_room() { Ok(Next::Exception(Cause::Backup)) } else { Err(Reason::Backup) }
}

/// What becomes of a packet that the other router is to have, on whose link nobody is known to have its address. `None`: it is none,
/// or has to find its way in another manner.
#[cold]
#[inline(never)]
fn unless_there(packet: &Packet<'_>, way: &NextHop, tables: &Tables) -> Option<Next> {
    let To::Unresolved { port } = way.to else { return None };
    // Where no host stack is, nobody can become master.
    let entry = tables.ports.get(usize::from(port))?;
    if entry.stack == Stack::Own { None } else { ahead(packet, tables) }
}

/// What becomes of a tunnel's packet for a near end that another router has; `None` for all others.
#[cold]
#[inline(never)]
fn ahead(packet: &Packet<'_>, tables: &Tables) -> Option<Next> {
    let bytes = packet.frame.bytes().get(ethernet::HEADER_LEN..)?;
    let pair = nested::ends_of_tunnels(bytes, tables).and_then(|(src, dst)| tables.pair(dst, src))?;
    pair.is_silent().then(|| silent(pair).unwrap_or_else(Next::Drop))
}
