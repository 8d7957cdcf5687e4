//! The second stage: out of a tunnel.
//!
//! A GRE packet that came in clear goes through steps 3 to 5 alone, and only where its tunnel is not protected.
//!
//! 1. Every ESP packet of the batch is looked up in its SA's window, and becomes a job for the cipher.
//! 2. The cipher opens them all.
//! 3. Each authentic one loses its trailer, in tunnel mode its inner header, and its GRE header, each checked.
//! 4. The inner packet is checked and routed; ECN marks of the outer header are carried over (RFC 6040).
//! 5. Only now do the window and the GRE sequence number move on: a packet dropped before changed no state.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Batch, Next, Packet, Stages, common, forward, nested, receive};
use crate::drops::Reason;
use crate::esp::replay::ReplayWindow;
use crate::esp::{Mode, cipher, open};
use crate::exception::keepalive;
use crate::gre::{self, Checked};
use crate::mss;
use crate::ring::{BATCH, Frame};
use crate::tables::{Inbound, NextHop, Tables, To};
use crate::tag::{Cause, Origin};
use crate::trace::watch::{Eye, Shut};
use crate::tunnel::Tunnel;
use crate::wire::{Ecn, Esp, Gre, Ipv4, Ipv6, esp, ethernet, ipv4, ipv6, protocol};

/// Bytes from the start of an ESP packet to its ciphertext.
pub(crate) const CIPHERTEXT_AT: usize = esp::HEADER_LEN + esp::IV_LEN;

/// The worker that runs the stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<E> {
    /// Its number.
    pub(crate) worker: usize,
    /// Is there an exception thread to give packets to? Without one they are dropped, and a dropped packet changes no state.
    pub(crate) exceptions: bool,
    /// Who looks on.
    pub(crate) eye: E,
}

/// Runs the stage for all packets that are to be opened: at once, unless the verdict on one of them hangs on one before
/// it, as with a number seen twice. Then what stands before is finished first.
#[inline]
pub(crate) fn open<E: Eye>(packets: &mut Batch<'_>, stages: &mut Stages, tables: &Tables, here: Here<E>) {
    let mut rest = packets.as_mut_slice();
    while !rest.is_empty() {
        let done = open_run(rest, stages, tables, here);
        rest = rest.get_mut(done..).unwrap_or_default();
    }
}

/// Step 1 for packets that any worker may open: those whose number the window has not seen. It is asked as it stands, whatever
/// is on its way to it, and once more in [`finish`].
#[inline(never)]
pub(crate) fn look_up(packets: &mut Batch<'_>, tables: &Tables) {
    for packet in packets.iter_mut() {
        let Next::Open(index) = packet.next else { continue };
        packet.next = match unseen(packet, index, tables) {
            Ok(sequence) => {
                packet.sequence = sequence;
                Next::ToOpen(index)
            }
            Err(reason) => Next::Drop(reason),
        };
    }
}

fn unseen(packet: &Packet<'_>, index: u32, tables: &Tables) -> Result<u64, Reason> {
    let inbound = tables.inbound(index).ok_or(Reason::EspUnknownSpi)?;
    let esp = Esp::parse(packet.frame.bytes()).map_err(|_| Reason::EspMalformed)?;
    inbound.sa.window().check(esp.sequence()).map_err(|_| Reason::EspReplay)
}

/// Steps 3 to 5 for packets that any worker has opened, in the order in which they came.
#[inline(never)]
pub(crate) fn finish(packets: &mut Batch<'_>, stages: &mut Stages, tables: &Tables, here: Here<Shut>) {
    for packet in packets.iter_mut() {
        let Next::Opened(index) = packet.next else { continue };
        match tables.inbound(index) {
            Some(inbound) => decapsulate(packet, inbound, stages, tables, here),
            None => packet.next = Next::Drop(Reason::EspUnknownSpi),
        }
    }
}

/// Opens packets up to the first that must wait. Returns how many, at least one.
#[inline]
fn open_run<E: Eye>(
    packets: &mut [Packet<'_>],
    stages: &mut Stages,
    tables: &Tables,
    here: Here<E>,
) -> usize {
    let (done, authentic) = match stages.sealed() || tables.is_spread() {
        true => decrypt(packets, tables, here.worker),
        false => (packets.len(), 0),
    };
    let mut nth = 0;
    for packet in packets.get_mut(..done).unwrap_or_default() {
        if let Next::Open(index) = packet.next {
            let genuine = authentic >> nth & 1 == 1;
            nth += 1;
            let Some(inbound) = tables.inbound(index) else { continue };
            inbound.sa.window().settle();
            if genuine {
                decapsulate(packet, inbound, stages, tables, here);
            } else {
                packet.next = Next::Drop(Reason::EspAuth);
            }
            continue;
        }
        let delivered = match packet.next {
            Next::Inner(index) => {
                if let Some(next) = common::inner(packet, index, tables, here) {
                    packet.next = next;
                    continue;
                }
                let checked = Checked { header_len: 0, protocol: packet.protocol, sequence: None };
                deliver(packet, index, checked, tables, here, None)
            }
            Next::Gre(index) => cleartext(packet, index, tables, here),
            Next::Elsewhere(index) => {
                if let Err(reason) = from_elsewhere(packet, index, stages, tables, here) {
                    packet.next = Next::Drop(reason);
                }
                continue;
            }
            _ => continue,
        };
        packet.next = delivered.unwrap_or_else(Next::Drop);
        stages.note(packet.next);
    }
    done
}

/// Steps 1 and 2. Returns how many packets were looked at before one that must wait, and a bit for each of them that is
/// still [`Next::Open`], the first one's lowest: was it authentic?
#[inline(never)] // a function of its own, so that the loops have the registers to themselves
fn decrypt(packets: &mut [Packet<'_>], tables: &Tables, worker: usize) -> (usize, u64) {
    let mut jobs: ArrayVec<cipher::OpenJob<'_>, BATCH> = ArrayVec::new();
    let (total, mut waiting) = (packets.len(), 0);
    let spread = tables.is_spread();
    let mut rest = packets.iter_mut();
    for Packet { frame, next, sequence, .. } in rest.by_ref() {
        let Next::Open(index) = *next else {
            if let Next::Inner(index) | Next::Gre(index) = *next
                && spread
            {
                prefetch_counters(index, tables, worker);
            }
            continue;
        };
        let Some(inbound) = tables.inbound(index) else {
            *next = Next::Drop(Reason::EspUnknownSpi);
            continue;
        };
        let candidate = match open::candidate(frame.bytes(), &inbound.sa) {
            Ok(Some(candidate)) => candidate,
            // Something of this SA is in flight, so packets were taken before this one.
            Ok(None) => {
                waiting = 1;
                break;
            }
            Err(reason) => {
                *next = Next::Drop(reason);
                continue;
            }
        };
        frame.pull(CIPHERTEXT_AT);
        let shift = if frame.from_offset_port() { 0 } else { make_room(frame, inbound, tables) };
        *sequence = candidate.sequence;
        if spread {
            prefetch_counters(inbound.tunnel, tables, worker);
        }
        // What is left is the plaintext once it has been opened.
        jobs.push(open::job(frame.cut(shift + esp::ICV_LEN), shift, &inbound.sa, &candidate));
    }
    let done = total - rest.len() - waiting;
    if jobs.is_empty() {
        return (done.max(1), 0);
    }
    cipher::open(&mut jobs);
    (done, (0..).zip(&jobs).fold(0, |bits, (nth, job)| bits | u64::from(job.authentic) << nth))
}

/// All steps for one packet in UDP that came from elsewhere than those before: what comes from a NAT that has given its sender another
/// address or port, or from somebody who has sent a genuine packet on from there. Where it is the newest of its SA, that is noted; one
/// that was sent again, or overtaken, is no news. So there are few of them, and each is opened by itself. (What was put aside before
/// it may be overtaken by it, once.)
#[cold]
#[inline(never)]
fn from_elsewhere<E: Eye>(
    packet: &mut Packet<'_>,
    index: u32,
    stages: &mut Stages,
    tables: &Tables,
    here: Here<E>,
) -> Result<(), Reason> {
    let inbound = tables.inbound(index).ok_or(Reason::EspUnknownSpi)?;
    let (source, esp) = receive::esp_in_udp(packet.frame.bytes()).ok_or(Reason::EspMalformed)?;
    packet.frame.keep(esp.start, esp.end);
    let (window, esp) =
        (inbound.sa.window(), Esp::parse(packet.frame.bytes()).map_err(|_| Reason::EspMalformed)?);
    let sequence = window.check(esp.sequence()).map_err(|_| Reason::EspReplay)?;
    let candidate = open::Candidate { sequence, iv: *esp.iv() };
    packet.frame.pull(CIPHERTEXT_AT);
    let shift =
        if packet.frame.from_offset_port() { 0 } else { make_room(&mut packet.frame, inbound, tables) };
    packet.sequence = sequence;
    let mut job = open::job(packet.frame.cut(shift + esp::ICV_LEN), shift, &inbound.sa, &candidate);
    cipher::open(std::slice::from_mut(&mut job));
    if !job.authentic {
        return Err(Reason::EspAuth);
    }
    let before = window.highest();
    decapsulate(packet, inbound, stages, tables, here);
    // Accepted, and the newest.
    if sequence > before && window.highest() == sequence {
        inbound.sa.came_from(source);
    }
    Ok(())
}

/// Grows a frame, which starts with the ciphertext, by as many bytes as the plaintext is to be moved forward as it is decrypted,
/// so that, with the link header in front again, the inner packet starts where the buffer does. That is where ports without
/// offsets send from; frames of such a port alone are shifted.
#[cold]
fn make_room(frame: &mut Frame<'_>, inbound: &Inbound, tables: &Tables) -> usize {
    let headers =
        tables.tunnel(inbound.tunnel).map_or(0, |tunnel| tunnel.layout().gre + tunnel.layout().middle);
    let shift = frame.headroom().saturating_sub(ethernet::HEADER_LEN.saturating_sub(headers));
    frame.push(shift);
    shift
}

/// Asks the processor for what a packet of the tunnel will be counted in.
#[inline]
fn prefetch_counters(tunnel: u32, tables: &Tables, worker: usize) {
    if let Some(counters) = tables.counters(tunnel, worker) {
        crate::ring::prefetch(counters);
    }
}

/// Steps 3 to 5 for an authentic packet; the frame is its plaintext.
#[inline(always)]
fn decapsulate<E: Eye>(
    packet: &mut Packet<'_>,
    inbound: &Inbound,
    stages: &mut Stages,
    tables: &Tables,
    here: Here<E>,
) {
    // Nothing that has to be noted comes of these.
    packet.next = match common::decapsulate(packet, inbound, tables, here) {
        Some(next) => next,
        None => {
            let next = beyond_common(packet, inbound, tables, here).unwrap_or_else(Next::Drop);
            stages.note(next);
            next
        }
    };
}

/// The same for the packets that are not like nearly all.
#[inline(never)]
fn beyond_common<E: Eye>(
    packet: &mut Packet<'_>,
    inbound: &Inbound,
    tables: &Tables,
    here: Here<E>,
) -> Result<Next, Reason> {
    let received = Some((inbound.sa.window(), packet.sequence));
    let (payload_len, next_header) = open::trailer(packet.frame.bytes())?;
    packet.frame.truncate(payload_len);
    if inbound.plain && next_header == protocol::GRE {
        let gre = Gre::parse(packet.frame.bytes()).map_err(|_| Reason::GreMalformed)?;
        if gre.is_plain() && gre.key() == inbound.key {
            let checked = Checked { header_len: gre.header_len(), protocol: gre.protocol(), sequence: None };
            return deliver(packet, inbound.tunnel, checked, tables, here, received);
        }
    }
    let checked = uncommon(packet, inbound, next_header, tables)?;
    deliver(packet, inbound.tunnel, checked, tables, here, received)
}

/// Step 3 for what is not plain GRE in transport mode.
#[inline(never)]
fn uncommon(
    packet: &mut Packet<'_>,
    inbound: &Inbound,
    next_header: u8,
    tables: &Tables,
) -> Result<Checked, Reason> {
    let tunnel = tables.tunnel(inbound.tunnel).ok_or(Reason::EspUnknownSpi)?;
    match (tunnel.mode, next_header) {
        (_, protocol::NONE) => {
            inbound.sa.window().accept(packet.sequence).map_err(|_| Reason::EspReplay)?;
            return Err(Reason::EspDummy);
        }
        (Some(Mode::Transport), protocol::GRE) => {}
        (Some(Mode::Tunnel), protocol::IPV4 | protocol::IPV6) => {
            // A fragment in here is no frame that a port received, and not put together.
            packet.origin = Origin::Tunnel(inbound.tunnel).encode();
            strip_middle(packet, tunnel, next_header)?;
        }
        _ => return Err(Reason::EspMalformed),
    }
    let gre = Gre::parse(packet.frame.bytes()).map_err(|_| Reason::GreMalformed)?;
    gre::check(&gre, &tunnel.gre, &tunnel.sequences)
}

/// Takes off the inner IP header of tunnel mode. The SA is for GRE between the tunnel's ends alone (RFC 4301 section 5.2,
/// step 4).
#[inline(never)]
fn strip_middle(packet: &mut Packet<'_>, tunnel: &Tunnel, next_header: u8) -> Result<(), Reason> {
    let bytes = packet.frame.bytes();
    let (ends, tos, protocol, header_len, total_len): ((IpAddr, IpAddr), u8, u8, usize, usize) =
        if next_header == protocol::IPV4 {
            let ip = Ipv4::parse(bytes).map_err(|_| Reason::EspMalformed)?;
            if ip.is_fragment() {
                return Err(Reason::Fragment);
            }
            let total_len = usize::from(ip.total_len());
            ((ip.src().into(), ip.dst().into()), ip.tos(), ip.protocol(), ip.header_len(), total_len)
        } else {
            let ip = Ipv6::parse(bytes).map_err(|_| Reason::EspMalformed)?;
            let upper = ip.upper().map_err(|_| Reason::EspMalformed)?;
            if upper.fragment {
                return Err(Reason::Fragment);
            }
            let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
            ((ip.src().into(), ip.dst().into()), ip.traffic_class(), upper.protocol, upper.offset, total_len)
        };
    if ends != (tunnel.remote, tunnel.local) || protocol != protocol::GRE {
        return Err(Reason::EspMalformed);
    }
    // A mark on either outer header counts.
    packet.tos = ecn(Ecn::of(tos), Ecn::of(packet.tos)).ok_or(Reason::Ecn)?.mark(tos);
    packet.frame.truncate(total_len);
    packet.frame.pull(header_len);
    Ok(())
}

/// A GRE packet that came unprotected, for tunnel `index`; the frame holds it.
#[inline]
fn cleartext<E: Eye>(
    packet: &mut Packet<'_>,
    index: u32,
    tables: &Tables,
    here: Here<E>,
) -> Result<Next, Reason> {
    let tunnel = tables.tunnel(index).ok_or(Reason::GreUnknown)?;
    if tunnel.mode.is_some() {
        return Err(Reason::CleartextForProtected);
    }
    let gre = Gre::parse(packet.frame.bytes()).map_err(|_| Reason::GreMalformed)?;
    let checked = gre::check(&gre, &tunnel.gre, &tunnel.sequences)?;
    deliver(packet, index, checked, tables, here, None)
}

/// A number that came with a packet, and the window that is to take note of it; of a packet that came in clear, nothing.
pub(super) type Received<'a> = Option<(&'a ReplayWindow, u64)>;

/// Step 5 for ESP.
#[inline(always)]
fn accept(received: Received<'_>) -> Result<(), Reason> {
    received.map_or(Ok(()), |(window, sequence)| window.accept(sequence)).map_err(|_| Reason::EspReplay)
}

/// Steps 4 and 5, for a checked GRE packet of tunnel `index` that the frame holds.
#[inline(never)]
pub(super) fn deliver<E: Eye>(
    packet: &mut Packet<'_>,
    index: u32,
    checked: Checked,
    tables: &Tables,
    here: Here<E>,
    received: Received<'_>,
) -> Result<Next, Reason> {
    packet.frame.pull(checked.header_len);
    let inner = match checked.protocol {
        ethernet::IPV4 => Inner::ipv4(packet, index, tables)?,
        ethernet::IPV6 => Inner::ipv6(packet, index, tables)?,
        keepalive::PROTOCOL => return exception(packet, index, Cause::Returned, here, received),
        _ => Inner::ethernet(packet, index, tables)?,
    };
    let mut carried = false;
    if let Inner::V4(Some((_, hop))) | Inner::V6(Some((_, hop))) = inner
        && hop.underlay
    {
        match nested::out_of_tunnel(packet, index, hop, tables)? {
            nested::ToEnd::Keepalive => return exception(packet, index, Cause::Keepalive, here, received),
            nested::ToEnd::Carried => carried = true,
            nested::ToEnd::Ordinary => {}
        }
    }
    accept(received)?;
    if let Some(sequence) = checked.sequence
        && let Some(tunnel) = tables.tunnel(index)
    {
        tunnel.sequences.accept(sequence);
    }
    if let Some(counters) = tables.counters(index, here.worker) {
        counters.in_packets.add(1);
        counters.in_bytes.add(packet.frame.len() as u64);
    }
    here.eye.came_out(packet, index, checked);
    packet.origin = Origin::Tunnel(index).encode();
    if carried {
        return Ok(Next::Carried(index));
    }
    match inner {
        Inner::V4(Some((_, NextHop { to: To::Host | To::HostForwards, .. })))
        | Inner::V6(Some((_, NextHop { to: To::Host | To::HostForwards, .. }))) => Ok(Next::HostInner(index)),
        Inner::V4(Some((hop, way))) => forward::ipv4(packet, hop, way, tables),
        Inner::V6(Some((hop, way))) => forward::ipv6(packet, hop, way, tables),
        Inner::V4(None) | Inner::V6(None) => Err(Reason::NoRoute),
        Inner::Frame(port) => Ok(Next::Send(port)),
    }
}

/// A packet out of tunnel `index` that is the exception thread's.
#[cold]
fn exception<E>(
    packet: &mut Packet<'_>,
    index: u32,
    cause: Cause,
    here: Here<E>,
    received: Received<'_>,
) -> Result<Next, Reason> {
    if !here.exceptions {
        return Err(cause.reason());
    }
    accept(received)?;
    packet.origin = Origin::Tunnel(index).encode();
    Ok(Next::Exception(cause))
}

/// A SYN from the far side must not ask for longer segments than those on their way back may be.
#[inline(always)]
fn clamp(packet: &mut Packet<'_>, index: u32, tables: &Tables) {
    if mss::may_be_syn(packet.frame.bytes())
        && let Some(tunnel) = tables.tunnel(index)
    {
        tunnel.clamp(packet.frame.bytes_mut());
    }
}

/// An inner packet that is in order, and where it goes: a next hop with its number, or the number of a port.
enum Inner<'t> {
    V4(Option<(u32, &'t NextHop)>),
    V6(Option<(u32, &'t NextHop)>),
    Frame(u32),
}

impl<'t> Inner<'t> {
    #[inline(always)]
    fn ipv4(packet: &mut Packet<'_>, index: u32, tables: &'t Tables) -> Result<Inner<'t>, Reason> {
        let ip = Ipv4::parse(packet.frame.bytes()).map_err(|_| Reason::IpMalformed)?;
        let hop = tables.fib().lookup_v4(ip.dst());
        let (total_len, before, outer) =
            (usize::from(ip.total_len()), Ecn::of(ip.tos()), Ecn::of(packet.tos));
        // What follows the inner packet is padding against traffic analysis (RFC 4303 section 2.7).
        packet.frame.truncate(total_len);
        // Of nearly all packets: the outer header says nothing, so the inner one stays.
        if outer != Ecn::NotEct {
            let after = ecn(before, outer).ok_or(Reason::Ecn)?;
            if after != before {
                ipv4::set_ecn(packet.frame.bytes_mut(), after).map_err(|_| Reason::IpMalformed)?;
            }
        }
        clamp(packet, index, tables);
        Ok(Inner::V4(hop.and_then(|hop| Some((hop, tables.next_hop(hop)?)))))
    }

    #[inline(never)]
    fn ipv6(packet: &mut Packet<'_>, index: u32, tables: &'t Tables) -> Result<Inner<'t>, Reason> {
        let ip = Ipv6::parse(packet.frame.bytes()).map_err(|_| Reason::IpMalformed)?;
        let hop = tables.fib().lookup_v6(ip.dst());
        let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
        let before = Ecn::of(ip.traffic_class());
        let after = ecn(before, Ecn::of(packet.tos)).ok_or(Reason::Ecn)?;
        packet.frame.truncate(total_len);
        if after != before {
            ipv6::set_ecn(packet.frame.bytes_mut(), after).map_err(|_| Reason::IpMalformed)?;
        }
        clamp(packet, index, tables);
        Ok(Inner::V6(hop.and_then(|hop| Some((hop, tables.next_hop(hop)?)))))
    }

    #[inline(never)]
    fn ethernet(packet: &Packet<'_>, index: u32, tables: &Tables) -> Result<Inner<'t>, Reason> {
        if packet.frame.len() < ethernet::HEADER_LEN {
            return Err(Reason::EthernetMalformed);
        }
        let tunnel = tables.tunnel(index).ok_or(Reason::NoRoute)?;
        tunnel.bridge.map(|port| Inner::Frame(u32::from(port))).ok_or(Reason::NoRoute)
    }
}

/// The mark that a packet leaves a tunnel with, from its own and that of the outer header (RFC 6040 section 4.2, figure 4);
/// `None` for a packet to be dropped.
#[inline]
const fn ecn(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::ecn;
    use crate::wire::Ecn::{self, Ce, Ect0, Ect1, NotEct};

    /// RFC 6040 figure 4, row by row: inner Not-ECT, ECT(0), ECT(1), CE; columns outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn rfc6040_figure_4() {
        const TABLE: [(Ecn, [Option<Ecn>; 4]); 4] = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in TABLE {
            assert_eq!([NotEct, Ect0, Ect1, Ce].map(|outer| ecn(inner, outer)), row, "inner {inner:?}");
        }
    }
}
