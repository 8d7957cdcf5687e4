//! Packets that wait: for a station that is asked for, for tables that know it, or for an SA of which the news is on its way.

use std::net::IpAddr;

use super::super::early;
use super::super::icmp::Error;
use super::super::keepalive;
use super::super::settled::Ticket;
use super::{Event, Made, Parts, ends, is_still};
use crate::drops::Reason;
use crate::flow;
use crate::gre::Payload;
use crate::tables::Tables;
use crate::tag::{Injected, Origin};
use crate::wire::ethernet;

/// A packet that waits for a station.
pub(super) struct Held {
    pub(super) bound: Bound,
    pub(super) packet: Vec<u8>,
    /// Whose it is.
    pub(super) ticket: Ticket,
}

/// Where such a packet is to go.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    /// To the station itself, or to those behind it; and where it came in.
    Station(Origin),
    /// Into a tunnel whose outer packets go there: the one between these ends, whatever has its number later.
    Tunnel(u32, keepalive::Ends),
}

impl Parts {
    /// Packets that have a way by tables that are new to the thread.
    pub(super) fn release(&mut self, tables: &Tables) {
        if std::mem::replace(&mut self.seen, tables.number()) == tables.number() {
            return;
        }
        for (key, held) in self.waiting.release(|key, held| is_ready(key, held, tables)) {
            self.go_on(key, held, tables);
        }
        self.made.extend(self.early.release(|spi| tables.inbound_by_spi(spi).is_some()));
        self.tell_room(tables);
    }

    /// A packet that has waited goes on, if there is a way.
    fn go_on(&mut self, (port, address): (u16, IpAddr), held: Held, tables: &Tables) {
        match held.bound {
            Bound::Tunnel(tunnel, ends) if is_still(tables, tunnel, ends) => {
                let Held { packet, ticket, .. } = held;
                self.made.push(Made {
                    injected: Injected::IntoTunnel(tunnel),
                    bytes: packet,
                    ticket: Some(ticket),
                });
            }
            Bound::Tunnel(..) => self.drop(Reason::NoNeighbour),
            Bound::Station(_) => match tables.link_address(port, address) {
                Some(mac) => self.send(port, mac, &held.packet, Some(held.ticket)),
                None => self.drop(Reason::NoNeighbour),
            },
        }
    }

    /// A packet for a tunnel whose next station is known. The tunnel's headers have its address only once the tables do.
    pub(super) fn enter(&mut self, number: u32, held: Held, tables: &Tables, now: u64) {
        if tables.tunnel(number).is_some_and(|tunnel| tunnel.way_out() == Err(Reason::Backup)) {
            return self.drop(Reason::Backup);
        }
        let Some(key) = tables.station_of(number) else { return self.drop(Reason::NoNeighbour) };
        if is_ready(key, &held, tables) {
            return self.go_on(key, held, tables);
        }
        if self.waiting.push(now, key, held).0.is_some() {
            self.drop(Reason::NoNeighbour);
        }
    }

    /// A packet whose next station is not known: it waits while that is asked for.
    pub(super) fn no_neighbour(
        &mut self,
        packet: &[u8],
        origin: Origin,
        ticket: Ticket,
        tables: &Tables,
        now: u64,
    ) {
        let out = ends(packet).and_then(|(_, dst)| way(packet, dst, origin, tables));
        let (key, bound) = match out {
            Some(Out::Station(port, address)) => ((port, address), Bound::Station(origin)),
            Some(Out::Tunnel(number)) => {
                let tunnel = tables.tunnel(number);
                let Some((tunnel, key)) =
                    tunnel.and_then(|tunnel| Some((tunnel, tables.station_of(number)?)))
                else {
                    return self.drop(Reason::NoNeighbour);
                };
                (key, Bound::Tunnel(number, tunnel.ends()))
            }
            None => return self.drop(Reason::NoNeighbour),
        };
        let held = Held { bound, packet: packet.to_vec(), ticket };
        // The worker looked it up in tables that are older than these: nothing would release it.
        if is_ready(key, &held, tables) {
            return self.go_on(key, held, tables);
        }
        let host_resolves = self.setup.ports.get(usize::from(key.0)).is_some_and(|port| port.host_resolves);
        if host_resolves {
            let (lost, ask) = self.waiting.push(now, key, held);
            if ask {
                self.events.push(Event::Resolve { port: key.0, address: key.1 });
            }
            if lost.is_some() {
                self.drop(Reason::NoNeighbour);
            }
        } else {
            self.neighbours.wait(now, key.0, key.1, packet.len(), held, &mut self.neighbours_out);
        }
    }

    /// A packet by an SA that the worker's tables did not know: it waits for tables that do.
    pub(super) fn early(&mut self, frame: &[u8], origin: Origin, ticket: Ticket, tables: &Tables, now: u64) {
        let (injected, packet) = match origin {
            Origin::Port(port) => (Injected::Receive(port), frame.get(ethernet::HEADER_LEN..)),
            Origin::Tunnel(carrier) => (Injected::Carried(carrier), Some(frame)),
            Origin::Into(_) => return self.drop(Reason::EspUnknownSpi),
        };
        let Some((pair, spi)) = packet.and_then(early::sealed) else {
            return self.drop(Reason::EspMalformed);
        };
        let held = Made { injected, bytes: frame.to_vec(), ticket: Some(ticket) };
        if tables.inbound_by_spi(spi).is_some() {
            return self.made.push(held);
        }
        if self.early.push(now, pair, spi, held).is_some() {
            self.drop(Reason::EspUnknownSpi);
        }
        if !self.early.takes(pair) {
            tables.set_room(pair.0, pair.1, false);
        }
    }

    /// Workers give packets by unknown SAs to the thread again where there is room again.
    pub(super) fn tell_room(&mut self, tables: &Tables) {
        for (local, remote) in self.early.have_room_again() {
            tables.set_room(local, remote, true);
        }
    }

    /// A packet that nobody on the link takes.
    pub(super) fn unreachable(&mut self, held: Held, tables: &Tables, now: u64) {
        self.drop(Reason::NoNeighbour);
        if let Bound::Station(origin) = held.bound {
            self.tell(&held.packet, Error::HostUnreachable, origin, tables, now);
        }
    }
}

/// Where a packet leaves.
pub(super) enum Out {
    Tunnel(u32),
    /// By that port, to that station.
    Station(u16, IpAddr),
}

/// The way of an IP packet to `dst`. What was to go into a tunnel takes that tunnel, whatever the route says.
pub(super) fn way(packet: &[u8], dst: IpAddr, origin: Origin, tables: &Tables) -> Option<Out> {
    let flow = flow::hash(packet);
    let tunnel = match origin {
        Origin::Into(tunnel) => Some(tunnel),
        Origin::Port(_) | Origin::Tunnel(_) => {
            if let Some((port, address)) = tables.station(dst, flow) {
                return Some(Out::Station(port, address));
            }
            tables.tunnel_to(dst, flow)
        }
    };
    // Ethernet frames are neither cut nor held.
    let carries_ip = |tunnel: &u32| tables.tunnel(*tunnel).is_some_and(|it| it.gre.payload == Payload::Ip);
    tunnel.filter(carries_ip).map(Out::Tunnel)
}

/// Is there nothing that a packet which waits for station `key` has to wait for, by these tables?
fn is_ready(key: (u16, IpAddr), held: &Held, tables: &Tables) -> bool {
    match held.bound {
        Bound::Station(_) => tables.link_address(key.0, key.1).is_some(),
        Bound::Tunnel(number, ends) => {
            !is_still(tables, number, ends)
                || tables.tunnel(number).is_some_and(|tunnel| tunnel.way_out().is_ok())
        }
    }
}
