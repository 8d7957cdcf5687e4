//! The last stage: every packet ends here, in a transmit ring or as a counted drop.

use super::{Batch, Next, Packet};
use crate::counters::WorkerCounters;
use crate::drops::Reason;
use crate::ring::{Refused, TxQueue};
use crate::tables::{Link, Stack, Tables};
use crate::tag::{Cause, Exception, Injected, Origin};
use crate::wire::ethernet;
use crate::wire::ethernet::MacAddr;

/// Where frames go that leave by no port: numbers of transmit queues.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exits {
    /// The host stack, for ports that have none of their own.
    pub(crate) host: Option<usize>,
    /// The tunnels' host interfaces.
    pub(crate) interfaces: Option<usize>,
    /// The exception thread.
    pub(crate) exceptions: Option<usize>,
    /// The first of the other workers, which follow each other in the order of their numbers; ours is left out.
    pub(crate) peers: Option<usize>,
    /// Our own number.
    pub(crate) worker: usize,
}

impl Exits {
    /// The queue towards worker `worker`.
    #[inline]
    fn peer(&self, worker: usize) -> Option<usize> {
        Some(self.peers? + worker - usize::from(worker > self.worker))
    }
}

/// Sends the packets, in order. `received_by` is the address of the port that they came by, if they did.
#[inline(never)]
pub(crate) fn transmit(
    packets: &mut Batch<'_>,
    queues: &mut [TxQueue],
    exits: &Exits,
    received_by: MacAddr,
    tables: &Tables,
    counters: &WorkerCounters,
) {
    for packet in packets.iter_mut() {
        // Whoever has to know has looked.
        let _ = transmit_one(packet, queues, exits, received_by, tables, counters);
    }
}

/// Sends one packet, or counts why not.
#[inline(always)]
pub(crate) fn transmit_one(
    packet: &mut Packet<'_>,
    queues: &mut [TxQueue],
    exits: &Exits,
    received_by: MacAddr,
    tables: &Tables,
    counters: &WorkerCounters,
) -> Result<(), Reason> {
    let sent = match packet.next {
        Next::Send(port) => queue(packet, port as usize, queues, counters),
        Next::Station(hop) => {
            station(packet, hop, tables).and_then(|port| queue(packet, port, queues, counters))
        }
        Next::Drop(reason) => refuse(packet, reason, queues, exits),
        _ => send_other(packet, queues, exits, received_by, tables, counters),
    };
    if let Err(reason) = sent {
        counters.count_drop(reason, 1);
    }
    sent
}

/// Makes a packet for a station the frame that it will leave as.
pub(crate) fn complete(packet: &mut Packet<'_>, tables: &Tables) {
    if let Next::Station(hop) = packet.next {
        packet.next = match station(packet, hop, tables) {
            Ok(port) => Next::Send(port as u32),
            Err(reason) => Next::Drop(reason),
        };
    }
}

/// Puts the link header of next hop `hop` in front of the packet. Returns the port that it leaves by.
#[inline(always)]
fn station(packet: &mut Packet<'_>, hop: u32, tables: &Tables) -> Result<usize, Reason> {
    let Link { addresses, port, .. } = tables.link(hop).ok_or(Reason::NoRoute)?;
    push_ethernet(packet, addresses)?;
    Ok(usize::from(*port))
}

/// A packet that cannot go on is the exception thread's where that can do something about it.
#[cold]
#[inline(never)]
fn refuse(
    packet: &mut Packet<'_>,
    reason: Reason,
    queues: &mut [TxQueue],
    exits: &Exits,
) -> Result<(), Reason> {
    let Some(cause) = Cause::of(reason) else { return Err(reason) };
    let queue = exits.exceptions.and_then(|queue| queues.get_mut(queue)).ok_or(reason)?;
    packet.frame.set_tag(packet.origin | exception(cause));
    queue.ring.push(&mut packet.frame).map_err(|_| reason)?;
    if cause.is_loss() { Err(reason) } else { Ok(()) }
}

/// The tag of an exception, without its origin.
#[inline]
fn exception(cause: Cause) -> u32 {
    Exception { cause, origin: Origin::Port(0) }.encode()
}

/// Sends what goes neither to a station nor as it is by a port.
#[inline(never)] // so that the common packets have the registers to themselves
fn send_other(
    packet: &mut Packet<'_>,
    queues: &mut [TxQueue],
    exits: &Exits,
    received_by: MacAddr,
    tables: &Tables,
    counters: &WorkerCounters,
) -> Result<(), Reason> {
    let port = match packet.next {
        Next::HandOver(worker) => return hand_over(packet, worker as usize, queues, exits),
        Next::Host => host(packet, exits, tables)?,
        Next::Exception(cause @ (Cause::UnknownSpi | Cause::Backup)) => {
            return hold(packet, cause, queues, exits);
        }
        Next::Exception(cause) => match exits.exceptions {
            Some(queue) => {
                packet.frame.set_tag(packet.origin | exception(cause));
                queue
            }
            None if matches!(cause, Cause::IcmpError | Cause::Datagram) => host(packet, exits, tables)?,
            None => return Err(cause.reason()),
        },
        Next::HostInner(tunnel) => match exits.interfaces {
            Some(queue) => {
                packet.frame.set_tag(tunnel);
                queue
            }
            None => {
                let mut addresses = [0; 12];
                if let Some((to, from)) = addresses.split_first_chunk_mut() {
                    *to = received_by.0;
                    from.copy_from_slice(&packet.source.0);
                }
                push_ethernet(packet, &addresses)?;
                exits.host.ok_or(Reason::NoHost)?
            }
        },
        // Whoever calls has dealt with these.
        Next::Drop(reason) => return Err(reason),
        Next::Send(_) | Next::Station(_) => return Err(Reason::NoRoute),
        // The stages before have dealt with these.
        Next::Open(_) | Next::Elsewhere(_) | Next::ToOpen(_) | Next::Opened(_) => {
            return Err(Reason::EspUnknownSpi);
        }
        Next::Gre(_) | Next::Inner(_) => return Err(Reason::GreUnknown),
        // More tunnels than there may be.
        Next::Tunnel(_) | Next::Carried(_) => return Err(Reason::Nested),
        Next::ToSeal(_) => return Err(Reason::NoSa),
        Next::Aside => return Ok(()),
    };
    queue(packet, port, queues, counters)
}

/// Puts a frame into the queue of port `port`.
#[inline(always)]
fn queue(
    packet: &mut Packet<'_>,
    port: usize,
    queues: &mut [TxQueue],
    counters: &WorkerCounters,
) -> Result<(), Reason> {
    let queue = queues.get_mut(port).ok_or(Reason::NoRoute)?;
    queue.ring.push(&mut packet.frame).map_err(|refused| match refused {
        Refused::Full => Reason::TxFull,
        Refused::TooLong => Reason::TooBig,
    })?;
    if let Some(counters) = counters.port(port) {
        counters.tx.add(1);
    }
    Ok(())
}

/// A packet that comes before the news of it, as it may be, is kept for a moment. Anybody can send such: they never take more than half
/// of the room that there is for exceptions.
#[cold]
#[inline(never)]
fn hold(packet: &mut Packet<'_>, cause: Cause, queues: &mut [TxQueue], exits: &Exits) -> Result<(), Reason> {
    let queue = exits.exceptions.and_then(|queue| queues.get_mut(queue)).ok_or(cause.reason())?;
    if queue.ring.space() < queue.ring.slots() / 2 {
        return Err(cause.reason());
    }
    packet.frame.set_tag(packet.origin | exception(cause));
    queue.ring.push(&mut packet.frame).map_err(|_| cause.reason())
}

/// Another worker takes the frame as if it had received it, by the same port.
#[inline(never)]
fn hand_over(
    packet: &mut Packet<'_>,
    worker: usize,
    queues: &mut [TxQueue],
    exits: &Exits,
) -> Result<(), Reason> {
    let queue = exits.peer(worker).and_then(|queue| queues.get_mut(queue)).ok_or(Reason::HandoverFull)?;
    let injected = match Origin::decode(packet.origin) {
        Origin::Tunnel(tunnel) => Injected::Carried(tunnel),
        _ => Injected::Receive(packet.origin),
    };
    packet.frame.set_tag(injected.encode());
    queue.ring.push(&mut packet.frame).map_err(|_| Reason::HandoverFull)
}

/// The queue that a frame for the host stack goes to, of the port that it came by.
fn host(packet: &mut Packet<'_>, exits: &Exits, tables: &Tables) -> Result<usize, Reason> {
    let stack = tables.ports.get(packet.origin as usize).map_or(Stack::Shared, |port| port.stack);
    match stack {
        Stack::Shared => exits.host.ok_or(Reason::NoHost),
        Stack::Port(port) if exits.worker == 0 => Ok(port),
        // The host has one ring pair on a port, which is worker 0's.
        Stack::Port(_) => {
            packet.frame.set_tag(Injected::Host(packet.origin).encode());
            exits.peer(0).ok_or(Reason::NoHost)
        }
        Stack::Kernel => Err(Reason::NoHost),
        Stack::Own => {
            packet.frame.set_tag(packet.origin | exception(Cause::Local));
            exits.exceptions.ok_or(Reason::NoHost)
        }
    }
}

/// Puts a link header with these addresses in front of an IP packet; its EtherType follows from the version.
#[inline(always)]
fn push_ethernet(packet: &mut Packet<'_>, addresses: &[u8; 12]) -> Result<(), Reason> {
    let frame = &mut packet.frame;
    let version = frame.bytes().first().ok_or(Reason::IpMalformed)? >> 4;
    let ethertype = if version == 4 { ethernet::IPV4 } else { ethernet::IPV6 };
    if frame.headroom() < ethernet::HEADER_LEN {
        frame.make_headroom(ethernet::HEADER_LEN).ok_or(Reason::TooBig)?;
    }
    let room = frame.push_array::<{ ethernet::HEADER_LEN }>().ok_or(Reason::TooBig)?;
    let (to_and_from, kind) = room.split_first_chunk_mut::<12>().ok_or(Reason::TooBig)?;
    *to_and_from = *addresses;
    kind.copy_from_slice(&ethertype.to_be_bytes());
    Ok(())
}
