//! The third stage: into a tunnel.
//!
//! 1. Can the packet go: is there a way out, does it fit, is there an SA that may send?
//! 2. Padding is chosen, the tunnel's headers are copied in front, room is made behind.
//! 3. Lengths, DSCP and ECN, checksums and numbers are filled in.
//! 4. All packets that want ESP are sealed in one call.
//! 5. Packets of a tunnel that lies in another one go through all of this again, into that one.
//!
//! A packet that gets a sequence number has passed every check before, so numbers are not spent on packets that do not leave.

use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::{Batch, Next, Packet, nested};
use crate::drops::Reason;
use crate::esp::{Mode, OutboundSa, cipher, sa::Lease, seal};
use crate::flow;
use crate::ring::{BATCH, Frame};
use crate::tables::Tables;
use crate::tag::{Cause, Origin};
use crate::trace::watch::Eye;
use crate::tunnel::{Layout, TEMPLATE_MAX, Tunnel};
use crate::wire::{Sum, esp, ethernet, ipv4, ipv6, protocol, udp};

/// Runs the stage for all packets that are to enter a tunnel. `aside`: step 4 is any worker's (see [`crate::fan_out`]).
#[inline]
pub(crate) fn encapsulate(
    packets: &mut Batch<'_>,
    tables: &Tables,
    worker: usize,
    aside: bool,
    eye: impl Eye,
) {
    into_tunnels(packets, tables, worker, aside, eye);
    for _ in 1..tables.depth() {
        packets.iter_mut().for_each(nested::unlink);
        into_tunnels(packets, tables, worker, aside, eye);
    }
}

/// Steps 1 to 4. What is for a tunnel once more has a link header that nothing is in yet.
#[inline]
fn into_tunnels(packets: &mut Batch<'_>, tables: &Tables, worker: usize, aside: bool, eye: impl Eye) {
    if tables.is_spread() {
        packets.iter().for_each(|packet| prefetch(packet, tables, worker));
    }
    build_and_seal(packets, tables, worker, aside, eye);
}

/// Asks the processor for the SA that a packet will be sealed with, and for what it will be counted in.
#[inline]
fn prefetch(packet: &Packet<'_>, tables: &Tables, worker: usize) {
    let Next::Tunnel(index) = packet.next else { return };
    if let Some(counters) = tables.counters(index, worker) {
        crate::ring::prefetch(counters);
    }
    if let Some(sa) = tables.tunnel(index).and_then(|tunnel| tunnel.outbound_of(worker)) {
        sa.prefetch();
    }
}

/// Step 1. Returns the port to leave by.
#[inline(always)]
fn admit(packet: &mut Packet<'_>, tunnel: &Tunnel, sa: Option<&OutboundSa>) -> Result<u16, Reason> {
    let port = tunnel.way_out?;
    if packet.frame.len() > tunnel.mtu {
        return Err(Reason::TooBig);
    }
    if tunnel.mode.is_some() && sa.is_none() {
        return Err(Reason::NoSa);
    }
    if packet.protocol != ethernet::TEB {
        tunnel.clamp(packet.frame.bytes_mut());
    }
    Ok(port)
}

/// What becomes of a packet that cannot go. If it is for the near end's being another router's, as far as the tables know, who has sent
/// it here may know better.
#[cold]
#[inline(never)]
fn refuse(packet: &mut Packet<'_>, index: u32, tunnel: &Tunnel, reason: Reason, tables: &Tables) {
    let waits = reason == Reason::Backup
        && packet.protocol != ethernet::TEB
        && tables.pair(tunnel.local, tunnel.remote).is_some_and(|pair| pair.is_silent() && pair.has_room());
    packet.next = match waits {
        true => Next::Exception(Cause::Backup),
        false => Next::Drop(reason),
    };
    if waits {
        packet.origin = Origin::Into(index).encode();
    }
}

/// Sequence numbers in hand for the tunnel that the last packet went into.
struct Numbers {
    tunnel: u32,
    lease: Lease,
}

/// Steps 1 to 4, those before the last packet by packet.
#[inline]
fn build_and_seal(packets: &mut Batch<'_>, tables: &Tables, worker: usize, aside: bool, eye: impl Eye) {
    let mut jobs: ArrayVec<cipher::SealJob<'_>, BATCH> = ArrayVec::new();
    let mut numbers = Numbers { tunnel: 0, lease: Lease { first: 0, count: 0 } };
    let mut any_summed = false;
    let mut rest = packets.as_mut_slice();
    while let Some((packet, following)) = rest.split_first_mut() {
        rest = following;
        let Next::Tunnel(index) = packet.next else { continue };
        let Some(tunnel) = tables.tunnel(index) else {
            packet.next = Next::Drop(Reason::NoRoute);
            continue;
        };
        let sa = tunnel.outbound_of(worker);
        let port = match admit(packet, tunnel, sa) {
            Ok(port) => port,
            Err(reason) => {
                refuse(packet, index, tunnel, reason, tables);
                continue;
            }
        };
        eye.goes_in(packet, index);
        let Packet { frame, next, protocol, tos, summed, sequence, .. } = packet;
        *summed = tunnel.is_summed();
        any_summed |= *summed;
        let inner_len = frame.len() as u64;
        let mut put_aside = false;
        let built = match (sa, tunnel.mode) {
            (Some(sa), Some(mode)) => {
                let number = || numbers.next(index, tunnel, sa, rest);
                protect(frame, tunnel, sa, mode, *protocol, *tos, number).map(|job| {
                    if aside {
                        *sequence = numbers.last();
                        put_aside = true;
                    } else {
                        jobs.extend(job);
                    }
                })
            }
            _ => wrap(frame, tunnel, *protocol, *tos),
        };
        *next = match built {
            Ok(()) => {
                if let Some(counters) = tables.counters(index, worker) {
                    counters.out_packets.add(1);
                    counters.out_bytes.add(inner_len);
                }
                match put_aside {
                    true => Next::ToSeal(index),
                    false => tunnel.carrier.map_or(Next::Send(u32::from(port)), Next::Tunnel),
                }
            }
            Err(reason) => Next::Drop(reason),
        };
    }
    cipher::seal(&mut jobs);
    drop(jobs);
    if any_summed {
        sum_up(packets);
    }
}

/// Over IPv6 a datagram has a checksum (RFC 8200 section 8.1), of what the cipher made: receivers such as Linux insist on it
/// for ESP in UDP too, unlike over IPv4 (RFC 3948 section 2.1).
#[cold]
fn sum_up(packets: &mut Batch<'_>) {
    let built = |packet: &&mut Packet<'_>| matches!(packet.next, Next::Send(_) | Next::Tunnel(_));
    for packet in packets.iter_mut().filter(|packet| packet.summed).filter(built) {
        if sum_datagram(packet.frame.bytes_mut()).is_none() {
            packet.next = Next::Drop(Reason::TooBig);
        }
    }
}

/// What the cipher is to do in a frame that was built for tunnel `tunnel`, with the number `sequence` of its SA `sa`.
pub(crate) fn job<'p>(
    frame: &'p mut Frame<'_>,
    tunnel: &Tunnel,
    sa: &'p OutboundSa,
    sequence: u64,
) -> Option<cipher::SealJob<'p>> {
    let esp_at = ethernet::HEADER_LEN + tunnel.layout().ip + tunnel.layout().udp;
    seal::job(frame.bytes_mut().get_mut(esp_at..)?, sa, sequence).ok()
}

/// Fills in the checksum of the datagram in a frame of ours, behind an IPv6 header without extensions.
pub(crate) fn sum_datagram(frame: &mut [u8]) -> Option<()> {
    let packet = frame.get_mut(ethernet::HEADER_LEN..)?;
    let (header, datagram) = packet.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
    let (src, dst) = header.last_chunk::<32>()?.split_first_chunk::<16>()?;
    let (src, dst) = (Ipv6Addr::from(*src), Ipv6Addr::from(*dst.first_chunk::<16>()?));
    *datagram.get_mut(6..8)?.first_chunk_mut()? = [0, 0];
    let length = u32::try_from(datagram.len()).ok()?;
    let checksum = udp::checksum(datagram, Sum::pseudo_v6(src, dst, protocol::UDP, length));
    *datagram.get_mut(6..8)?.first_chunk_mut()? = checksum.to_be_bytes();
    Some(())
}

impl Numbers {
    /// The next sequence number of `sa`, the SA of tunnel `index`. Taken for all the packets in a row that go the same way
    /// at once: what is shared between workers is touched once for them all.
    #[inline]
    fn next(
        &mut self,
        index: u32,
        tunnel: &Tunnel,
        sa: &OutboundSa,
        following: &[Packet<'_>],
    ) -> Result<u64, Reason> {
        if self.lease.count == 0 || self.tunnel != index {
            let goes =
                |packet: &&Packet<'_>| packet.next == Next::Tunnel(index) && packet.frame.len() <= tunnel.mtu;
            let more = following.iter().take_while(goes).count();
            self.lease = sa.take(more as u64 + 1).map_err(|_| Reason::SaExhausted)?;
            self.tunnel = index;
        }
        let number = self.lease.first;
        self.lease.first += 1;
        self.lease.count -= 1;
        Ok(number)
    }

    /// The number that was given last.
    #[inline]
    fn last(&self) -> u64 {
        self.lease.first.wrapping_sub(1)
    }
}

/// GRE alone: step 2 and 3 without ESP.
#[inline]
fn wrap(frame: &mut Frame<'_>, tunnel: &Tunnel, protocol: u16, tos: u8) -> Result<(), Reason> {
    if tunnel.layout().udp != 0 {
        return wrap_in_udp(frame, tunnel, protocol, tos);
    }
    push_headers(frame, tunnel)?;
    let packet = frame.bytes_mut().get_mut(ethernet::HEADER_LEN..).ok_or(Reason::TooBig)?;
    let layout = tunnel.layout();
    let total_len = packet.len();
    let (outer, gre) = packet.split_at_mut_checked(layout.ip).ok_or(Reason::TooBig)?;
    fill_ip(outer, layout.v6, tunnel.outer_sum, total_len, tos);
    fill_gre(gre, tunnel, protocol).ok_or(Reason::TooBig)
}

/// GRE in UDP (RFC 8086): steps 2 and 3. The source port is the flow's, so that the routers on the way may spread flows, and
/// keep each in order. Over IPv6 the checksum is computed by [`sum_up`] (section 6.2), over IPv4 it is 0 (section 6.1).
#[inline(never)]
fn wrap_in_udp(frame: &mut Frame<'_>, tunnel: &Tunnel, protocol: u16, tos: u8) -> Result<(), Reason> {
    let flow = match protocol {
        ethernet::TEB => flow::hash_frame(frame.bytes()),
        _ => flow::hash(frame.bytes()),
    };
    push_headers(frame, tunnel)?;
    let packet = frame.bytes_mut().get_mut(ethernet::HEADER_LEN..).ok_or(Reason::TooBig)?;
    let layout = tunnel.layout();
    let total_len = packet.len();
    let (outer, datagram) = packet.split_at_mut_checked(layout.ip).ok_or(Reason::TooBig)?;
    fill_ip(outer, layout.v6, tunnel.outer_sum, total_len, tos);
    let length = datagram.len() as u16;
    fill_gre(datagram.get_mut(udp::HEADER_LEN..).ok_or(Reason::TooBig)?, tunnel, protocol)
        .ok_or(Reason::TooBig)?;
    let header = datagram.first_chunk_mut::<{ udp::HEADER_LEN }>().ok_or(Reason::TooBig)?;
    [header[0], header[1]] = flow::source_port(flow).to_be_bytes();
    [header[4], header[5]] = length.to_be_bytes();
    Ok(())
}

/// GRE in ESP: steps 2 and 3, and the job for step 4.
#[inline]
fn protect<'p>(
    frame: &'p mut Frame<'_>,
    tunnel: &'p Tunnel,
    sa: &'p OutboundSa,
    mode: Mode,
    protocol: u16,
    tos: u8,
    number: impl FnOnce() -> Result<u64, Reason>,
) -> Result<Option<cipher::SealJob<'p>>, Reason> {
    let layout = tunnel.layout();
    let payload_len = layout.middle + layout.gre + frame.len();
    let pad_len = padding(payload_len, tunnel);
    let tail = seal::tail_len(pad_len);
    // Room is looked for before a number is taken.
    if frame.tailroom() < tail && frame.headroom() + frame.tailroom() < layout.template() + tail {
        return Err(Reason::TooBig);
    }
    push_headers(frame, tunnel)?;
    if !frame.extend(tail) {
        return Err(Reason::TooBig);
    }
    let sequence = number()?;

    let packet = frame.bytes_mut().get_mut(ethernet::HEADER_LEN..).ok_or(Reason::TooBig)?;
    let total_len = packet.len();
    let (outer, rest) = packet.split_at_mut_checked(layout.ip).ok_or(Reason::TooBig)?;
    fill_ip(outer, layout.v6, tunnel.outer_sum, total_len, tos);
    let (datagram, esp) = rest.split_at_mut_checked(layout.udp).ok_or(Reason::TooBig)?;
    if let Some(header) = datagram.first_chunk_mut::<{ udp::HEADER_LEN }>() {
        let length = (total_len - layout.ip) as u16;
        [header[4], header[5]] = length.to_be_bytes();
    }
    let payload =
        esp.get_mut(layout.esp..).and_then(|rest| rest.get_mut(..payload_len)).ok_or(Reason::TooBig)?;
    let (middle, gre) = payload.split_at_mut_checked(layout.middle).ok_or(Reason::TooBig)?;
    if !middle.is_empty() {
        fill_ip(middle, layout.v6, tunnel.middle_sum, payload_len, tos);
    }
    fill_gre(gre, tunnel, protocol).ok_or(Reason::TooBig)?;
    let next_header = match mode {
        Mode::Transport => protocol::GRE,
        Mode::Tunnel if layout.v6 => protocol::IPV6,
        Mode::Tunnel => protocol::IPV4,
    };
    seal::prepare(esp, sa, sequence, pad_len, next_header).map_err(|_| Reason::TooBig)?;
    seal::job(esp, sa, sequence).map(Some).map_err(|_| Reason::TooBig)
}

/// Octets of padding for a payload of that many bytes: to the tunnel's multiple where the packet then still fits the path,
/// else to 4, with which the tunnel's MTU was computed. `ring` takes 22 to 36 ns longer for a length that is not a multiple
/// of 16.
#[inline]
fn padding(payload_len: usize, tunnel: &Tunnel) -> u8 {
    let Layout { ip, udp, esp: header, .. } = tunnel.layout();
    let long = esp::pad_len(payload_len, tunnel.pad());
    if ip + udp + header + payload_len + seal::tail_len(long) <= tunnel.path_mtu {
        long
    } else {
        esp::pad_len(payload_len, esp::ALIGNMENT)
    }
}

/// Copies the template in front of the packet, after moving the packet back where there is too little headroom.
#[inline]
fn push_headers(frame: &mut Frame<'_>, tunnel: &Tunnel) -> Result<(), Reason> {
    const { assert!(TEMPLATE_MAX == crate::ring::TEMPLATE_LEN) };
    frame.make_headroom(tunnel.template_len()).ok_or(Reason::TooBig)?;
    if frame.push_template(&tunnel.template, tunnel.template_len()) { Ok(()) } else { Err(Reason::TooBig) }
}

/// Length, DSCP and ECN, and for IPv4 the checksum, of which `sum` is the part that never changes. `total_len` is that of
/// the packet with this header; DSCP and ECN are the inner packet's (RFC 2983 section 4.1, RFC 6040 section 4.1).
#[inline]
fn fill_ip(header: &mut [u8], v6: bool, sum: u32, total_len: usize, tos: u8) {
    if v6 {
        if let Some(header) = header.first_chunk_mut::<{ ipv6::HEADER_LEN }>() {
            let payload_len = total_len.saturating_sub(ipv6::HEADER_LEN) as u16;
            header[0] = 0x60 | tos >> 4;
            header[1] = tos << 4;
            [header[4], header[5]] = payload_len.to_be_bytes();
        }
    } else if let Some(header) = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>() {
        let total_len = total_len as u16;
        let sum = sum + u32::from(tos) + u32::from(total_len);
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !(sum as u16).wrapping_add((sum >> 16) as u16);
        header[1] = tos;
        [header[2], header[3]] = total_len.to_be_bytes();
        [header[10], header[11]] = checksum.to_be_bytes();
    }
}

/// Protocol type, sequence number and checksum of the GRE packet, whose key and flags are there already. `None` when it is
/// shorter than its header.
#[inline(always)]
fn fill_gre(packet: &mut [u8], tunnel: &Tunnel, protocol: u16) -> Option<()> {
    let fixed = packet.first_chunk_mut::<4>()?;
    [fixed[2], fixed[3]] = protocol.to_be_bytes();
    if tunnel.gre_sequence {
        let field = packet.get_mut(..tunnel.layout().gre)?.last_chunk_mut::<4>()?;
        *field = tunnel.sequences.take().to_be_bytes();
    }
    if tunnel.gre_checksum {
        *packet.get_mut(4..6)?.first_chunk_mut()? = [0, 0];
        let checksum = Sum::new().with(packet).finish();
        *packet.get_mut(4..6)?.first_chunk_mut()? = checksum.to_be_bytes();
    }
    Some(())
}
