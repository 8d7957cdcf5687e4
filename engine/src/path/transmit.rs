//! The last stage: every packet ends here, in a transmit ring or as a counted drop.

use super::{Batch, Next, Packet};
use crate::counters::WorkerCounters;
use crate::drops::Reason;
use crate::ring::{Refused, TxQueue};
use crate::tables::{NextHop, PortEntry, Tables, To};
use crate::wire::{EthernetHeader, ethernet};

/// Sends the packets, in order. `received_on` is the port they came from, `host` the number of the host's queue in `queues`.
#[inline]
pub(crate) fn transmit(
    packets: &mut Batch<'_>,
    queues: &mut [TxQueue],
    received_on: &PortEntry,
    host: Option<usize>,
    tables: &Tables,
    counters: &WorkerCounters,
) {
    for packet in packets.drain(..) {
        if let Err(reason) = send(packet, queues, received_on, host, tables, counters) {
            counters.count_drop(reason, 1);
        }
    }
}

#[inline]
fn send(
    mut packet: Packet<'_>,
    queues: &mut [TxQueue],
    received_on: &PortEntry,
    host: Option<usize>,
    tables: &Tables,
    counters: &WorkerCounters,
) -> Result<(), Reason> {
    let port = match packet.next {
        Next::Send(port) => port as usize,
        Next::Station(hop) => {
            let Some(NextHop { to: To::Station { port, mac }, .. }) = tables.next_hop(hop) else {
                return Err(Reason::NoRoute);
            };
            let (port, mac) = (*port, *mac);
            let src = tables.ports.get(usize::from(port)).ok_or(Reason::NoRoute)?.mac;
            push_ethernet(&mut packet, EthernetHeader { dst: mac, src, ethertype: 0 })?;
            usize::from(port)
        }
        Next::Host => host.ok_or(Reason::NoHost)?,
        Next::HostInner => {
            let header = EthernetHeader { dst: received_on.mac, src: packet.source, ethertype: 0 };
            push_ethernet(&mut packet, header)?;
            host.ok_or(Reason::NoHost)?
        }
        Next::Drop(reason) => return Err(reason),
        // The stages before have dealt with these.
        Next::Open(_) => return Err(Reason::EspUnknownSpi),
        Next::Gre(_) | Next::Inner(_) => return Err(Reason::GreUnknown),
        Next::Tunnel(_) => return Err(Reason::NoSa),
    };
    let queue = queues.get_mut(port).ok_or(Reason::NoRoute)?;
    queue.ring.push(packet.frame).map_err(|refused| match refused {
        Refused::Full => Reason::TxFull,
        Refused::TooLong => Reason::TooBig,
    })?;
    if let Some(counters) = counters.port(port) {
        counters.tx.add(1);
    }
    Ok(())
}

/// Puts a link header in front of an IP packet; its EtherType follows from the version.
#[inline]
fn push_ethernet(packet: &mut Packet<'_>, header: EthernetHeader) -> Result<(), Reason> {
    let frame = &mut packet.frame;
    let version = frame.bytes().first().ok_or(Reason::IpMalformed)? >> 4;
    let ethertype = if version == 4 { ethernet::IPV4 } else { ethernet::IPV6 };
    frame.make_headroom(ethernet::HEADER_LEN).ok_or(Reason::TooBig)?;
    frame.push(ethernet::HEADER_LEN);
    let room = frame.bytes_mut().first_chunk_mut().ok_or(Reason::TooBig)?;
    EthernetHeader { ethertype, ..header }.emit(room);
    Ok(())
}
