//! What comes to our own addresses where no host stack takes it: fragments of outer packets, and stations that ask for us.

use std::net::IpAddr;
use std::time::Duration;

use super::super::datagrams::{Owner, Sorted};
use super::super::echo;
use super::super::neighbour::Received;
use super::{Made, Parts, PortSetup, REASSEMBLY, ends, is_link_local};
use crate::drops::Reason;
use crate::tables::Tables;
use crate::tag::{Injected, Origin};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::{Ipv4, Ipv6, nd, protocol};

impl Parts {
    /// A fragment of a packet to one of our addresses: the host's, unless it is a tunnel's. Of UDP, `owner` is known of the first
    /// one alone.
    pub(super) fn fragment(&mut self, frame: &[u8], origin: Origin, owner: Owner, now: u64) {
        let (Origin::Port(port), Ok(link)) = (origin, Ethernet::parse(frame)) else {
            return self.drop(Reason::Fragment);
        };
        if owner == Owner::Tunnel && !is_udp(link.payload()) {
            return self.reassemble(frame, port, now);
        }
        let mut sorted = Vec::new();
        let now_at = Duration::from_nanos(now);
        self.datagrams.push((port, frame), link.payload(), owner, now_at, &mut sorted);
        self.deliver(sorted, now);
    }

    /// Fragments of datagrams go to their owners.
    pub(super) fn deliver(&mut self, sorted: Vec<Sorted>, now: u64) {
        for (owner, port, frame) in sorted {
            match owner {
                Owner::Tunnel => self.reassemble(&frame, port, now),
                Owner::Host => self.made.push(Made::first(Injected::Host(port), frame)),
            }
        }
    }

    /// A fragment of an outer packet. Whole, it is taken as if it had come so.
    fn reassemble(&mut self, frame: &[u8], port: u32, now: u64) {
        let Ok(link) = Ethernet::parse(frame) else { return self.drop(Reason::Fragment) };
        let whole = self.reassembly.push(link.payload(), Duration::from_nanos(now));
        if let Some(whole) = whole
            && let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN }>()
        {
            let mut bytes = header.to_vec();
            bytes.extend_from_slice(&whole);
            self.made.push(Made::first(Injected::Receive(port), bytes));
        }
        self.count_reassembly();
    }

    /// Takes over what reassembly dropped since the last time.
    pub(super) fn count_reassembly(&mut self) {
        for (reason, before) in REASSEMBLY.into_iter().zip(&mut self.reassembly_dropped) {
            let dropped = self.reassembly.dropped(reason);
            self.counters.count_drop(reason, dropped.saturating_sub(*before));
            *before = dropped;
        }
    }

    /// A frame to us, or to all, on a port that no host stack stands behind.
    pub(super) fn local(&mut self, frame: &[u8], origin: Origin, tables: &Tables, now: u64) {
        let Origin::Port(port) = origin else { return self.drop(Reason::NoHost) };
        match self.neighbours.received(now, port as u16, frame, &mut self.neighbours_out) {
            Received::Done => {}
            Received::Malformed(reason) => self.drop(reason),
            Received::NotMine => {
                let Ok(link) = Ethernet::parse(frame) else { return self.drop(Reason::EthernetMalformed) };
                self.echo(&link, port as u16, tables);
            }
        }
    }

    /// An echo request to an address of ours is answered, unless it came for all stations (RFC 1122 section 3.2.2.6).
    fn echo(&mut self, link: &Ethernet<'_>, port: u16, tables: &Tables) {
        let to_us = link.tags_len() == 0 && !link.dst().is_multicast();
        let ends = ends(link.payload()).filter(|(_, dst)| to_us && self.owns(port, *dst, tables));
        match ends.zip(echo::reply(link.payload())) {
            // Link-local addresses have no routes.
            Some(((src, dst), reply)) if is_link_local(src) || is_link_local(dst) => {
                self.send(port, link.src(), &reply, None);
            }
            Some((_, reply)) => self.made.push(Made::first(Injected::Route, reply)),
            None => self.drop(Reason::NoHost),
        }
    }

    /// Is that an address of ours, seen from port `port`?
    fn owns(&self, port: u16, address: IpAddr, tables: &Tables) -> bool {
        let setup = &self.setup;
        let on_port = |port: &PortSetup| port.addresses.iter().any(|(own, _)| *own == address);
        if is_link_local(address) {
            let port = setup.ports.get(usize::from(port));
            return port
                .is_some_and(|port| on_port(port) || address == IpAddr::from(nd::link_local(port.mac)));
        }
        setup.ports.iter().any(on_port)
            || setup.tunnels.iter().any(|tunnel| tunnel.inner.contains(&address))
            || tables.tunnels().iter().any(|tunnel| tunnel.local == address)
    }
}

/// Is that IP packet UDP, or a fragment of it?
fn is_udp(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ipv4::parse(packet).is_ok_and(|ip| ip.protocol() == protocol::UDP),
        _ => {
            Ipv6::parse(packet).is_ok_and(|ip| ip.upper().is_ok_and(|upper| upper.protocol == protocol::UDP))
        }
    }
}
