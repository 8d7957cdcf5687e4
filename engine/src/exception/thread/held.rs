//! Packets that wait: for a station that is asked for, for tables that know it, or for an SA of which the news is on its way.

use std::net::IpAddr;

use super::super::early::{self, News};
use super::super::icmp::Error;
use super::super::keepalive;
use super::super::settled::Ticket;
use super::{Event, Made, Parts, ends, is_still};
use crate::drops::Reason;
use crate::flow;
use crate::gre::Payload;
use crate::tables::{NextHop, Pair, Tables, To};
use crate::tag::{Injected, Origin};
use crate::wire::{Ethernet, ethernet};

/// A packet that waits for a station.
pub(super) struct Held {
    pub(super) bound: Bound,
    pub(super) packet: Vec<u8>,
    /// Whose it is.
    pub(super) ticket: Ticket,
}

/// A packet that came before the news of what it is for.
pub(super) struct Ahead {
    made: Made,
    /// Of one for a tunnel: between which ends that is, whatever has its number later.
    tunnel: Option<(u32, keepalive::Ends)>,
    /// Of one that came by a port, in a frame to that port's own address: the other router may be found and be sent it, as any station.
    forwarded: bool,
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
        for Ahead { made, tunnel, .. } in
            self.early.release(|pair, news, ahead| is_told(pair, news, ahead, tables))
        {
            match tunnel {
                Some((number, ends)) if !is_still(tables, number, ends) => self.drop(Reason::Backup),
                _ => self.made.push(made),
            }
        }
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
    pub(super) fn unknown_spi(
        &mut self,
        frame: &[u8],
        origin: Origin,
        ticket: Ticket,
        tables: &Tables,
        now: u64,
    ) {
        let Some((injected, packet)) = arrived(frame, origin) else {
            return self.drop(Reason::EspUnknownSpi);
        };
        let Some((pair, spi)) = early::sealed(packet) else { return self.drop(Reason::EspMalformed) };
        let made = Made { injected, bytes: frame.to_vec(), ticket: Some(ticket) };
        self.early(pair, News::Sa(spi), Ahead { made, tunnel: None, forwarded: false }, tables, now);
    }

    /// A packet to or from a near end that another router had by the worker's tables: it waits for tables by which it has not. On a link
    /// where nobody is known to have that address it is asked for meanwhile, as for any packet that is forwarded.
    pub(super) fn backup(&mut self, frame: &[u8], origin: Origin, ticket: Ticket, tables: &Tables, now: u64) {
        let (injected, pair, tunnel) = match (origin, arrived(frame, origin)) {
            (Origin::Into(number), _) => match tables.tunnel(number) {
                Some(tunnel) => {
                    let ends = tunnel.ends();
                    (Injected::IntoTunnel(number), (ends.local, ends.remote), Some((number, ends)))
                }
                None => return self.drop(Reason::Backup),
            },
            (_, Some((injected, packet))) => match ends(packet) {
                Some((src, dst)) => (injected, (dst, src), None),
                None => return self.drop(Reason::IpMalformed),
            },
            (_, None) => return self.drop(Reason::Backup),
        };
        let link = Ethernet::parse(frame).ok().filter(|_| matches!(origin, Origin::Port(_)));
        let forwarded = link.is_some_and(|link| !link.dst().is_virtual_router());
        let made = Made { injected, bytes: frame.to_vec(), ticket: Some(ticket) };
        self.early(pair, News::Master, Ahead { made, tunnel, forwarded }, tables, now);
        if forwarded
            && let Some((port, address)) = tables.station(pair.0, 0)
            && self.setup.ports.get(usize::from(port)).is_some_and(|port| port.host_resolves)
            && self.early.asks(now, pair)
        {
            self.events.push(Event::Resolve { port, address });
        }
    }

    /// It goes on at once if its news have come meanwhile.
    fn early(&mut self, pair: early::Pair, news: News, ahead: Ahead, tables: &Tables, now: u64) {
        if is_told(pair, news, &ahead, tables) {
            return self.made.push(ahead.made);
        }
        if let Some((news, _)) = self.early.push(now, pair, news, ahead) {
            self.drop(too_early(news));
        }
        if !self.early.takes(pair) {
            tables.set_room(pair.0, pair.1, false);
        }
    }

    /// Packets whose news have not come go, and there may be room for others.
    pub(super) fn expire(&mut self, tables: &Tables, now: u64) {
        for (news, _) in self.early.expire(now) {
            self.drop(too_early(news));
        }
        self.tell_room(tables);
    }

    /// Workers give packets by unknown SAs to the thread again where there is room again.
    fn tell_room(&mut self, tables: &Tables) {
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

/// How a worker takes what a worker received once more, and the IP packet in it; `None` of one that was on its way into a tunnel.
fn arrived(frame: &[u8], origin: Origin) -> Option<(Injected, &[u8])> {
    match origin {
        Origin::Port(port) => {
            Some((Injected::Receive(port), frame.get(ethernet::HEADER_LEN..).unwrap_or_default()))
        }
        Origin::Tunnel(carrier) => Some((Injected::Carried(carrier), frame)),
        Origin::Into(_) => None,
    }
}

/// Has the news come that a packet waits for, by these tables?
fn is_told((local, remote): early::Pair, news: News, ahead: &Ahead, tables: &Tables) -> bool {
    match news {
        News::Sa(spi) => tables.inbound_by_spi(spi).is_some(),
        News::Master => {
            let found = || matches!(tables.route(local), Some(NextHop { to: To::Station { .. }, .. }));
            !tables.pair(local, remote).is_some_and(Pair::is_silent) || ahead.forwarded && found()
        }
    }
}

/// What a packet was whose news did not come.
const fn too_early(news: News) -> Reason {
    match news {
        News::Sa(_) => Reason::EspUnknownSpi,
        News::Master => Reason::Backup,
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
