//! ICMP errors: those that senders are told, and those that others tell of our packets.

use std::net::IpAddr;
use std::time::Duration;

use super::super::fragment::fragment;
use super::super::icmp::{Error, error_for};
use super::super::pmtu::{self, PathMtu, Told};
use super::held::{Out, way};
use super::{Event, Made, Parts, PortSetup, ends, is_link_local};
use crate::drops::Reason;
use crate::tables::{Tables, To};
use crate::tag::{Injected, Origin};
use crate::wire::Ipv4;
use crate::wire::ethernet::Ethernet;

/// How many errors about outer packets are looked at in a second: with many tunnels, each takes its time.
const JUDGED_PER_SECOND: u32 = 200;

impl Parts {
    /// An address of ours to send errors from: of where the packet came in, else any.
    fn own_address(&self, origin: Origin, v4: bool) -> Option<IpAddr> {
        let fits = |address: &IpAddr| address.is_ipv4() == v4 && !is_link_local(*address);
        let of_port = |port: &PortSetup| port.addresses.iter().map(|(address, _)| *address).find(fits);
        let ports = || self.setup.ports.iter().find_map(of_port);
        match origin {
            Origin::Port(port) => self.setup.ports.get(port as usize).and_then(of_port),
            Origin::Tunnel(tunnel) | Origin::Into(tunnel) => {
                let setup = self.setup.tunnels.get(tunnel as usize)?;
                setup.inner.iter().copied().find(fits)
            }
        }
        .or_else(ports)
        .or_else(|| self.setup.tunnels.iter().flat_map(|tunnel| &tunnel.inner).copied().find(fits))
    }

    /// Tells the sender of a packet what became of it, as often as that is allowed.
    pub(super) fn tell(&mut self, packet: &[u8], what: Error, origin: Origin, tables: &Tables, now: u64) {
        let Some((src, dst)) = ends(packet) else { return };
        let hosts = tables.route(src).is_none_or(|hop| matches!(hop.to, To::Host | To::HostForwards));
        let own = self.own_address(origin, dst.is_ipv4());
        let (injected, from) = match origin {
            // What the host sent goes back by the tunnel's interface, from where it was going to: a host takes no packet
            // from an address of its own.
            Origin::Into(tunnel) if hosts => {
                (Injected::FromTunnel(tunnel), Some(dst).filter(|dst| !dst.is_multicast()).or(own))
            }
            // A packet of ours, or of somebody that no route leads to.
            Origin::Port(_) | Origin::Tunnel(_) if hosts => return,
            Origin::Port(_) | Origin::Tunnel(_) | Origin::Into(_) => (Injected::Route, own),
        };
        let Some(from) = from else { return };
        let Some(error) = error_for(packet, what, from) else { return };
        if !self.errors.allow(src, Duration::from_nanos(now)) {
            return;
        }
        self.made.push(Made::first(injected, error));
    }

    /// A packet that does not fit its way: in fragments, or its sender is told.
    pub(super) fn too_big(&mut self, packet: &[u8], origin: Origin, tables: &Tables, now: u64) {
        let Some((_, dst)) = ends(packet) else { return self.drop(Reason::TooBig) };
        let (mtu, tunnel) = match way(packet, dst, origin, tables) {
            Some(Out::Tunnel(number)) => (tables.tunnel(number).map(|tunnel| tunnel.mtu()), Some(number)),
            Some(Out::Station(port, _)) => (tables.port_mtu(port), None),
            None => (None, None),
        };
        let Some(mtu) = mtu else { return self.drop(Reason::TooBig) };
        let forced = tunnel
            .and_then(|number| self.setup.tunnels.get(number as usize))
            .is_some_and(|setup| setup.fragment);
        let whole = Ipv4::parse(packet).is_ok_and(|ip| !ip.dont_fragment() || forced);
        if whole && let Ok(pieces) = fragment(packet, mtu, &mut self.ids) {
            let injected = tunnel.map_or(Injected::Route, Injected::IntoTunnel);
            pieces.into_iter().for_each(|piece| self.made.push(Made::first(injected, piece)));
            return;
        }
        self.drop(Reason::TooBig);
        self.tell(packet, Error::TooBig { mtu }, origin, tables, now);
    }

    /// An ICMP error to a tunnel's end. About a packet of ours, it tells of that tunnel's path; otherwise it is the host's.
    pub(super) fn icmp_error(&mut self, frame: &[u8], origin: Origin, tables: &Tables, now: u64) {
        let (Origin::Port(port), Ok(link)) = (origin, Ethernet::parse(frame)) else {
            return self.drop(Reason::NoHost);
        };
        let second = now / 1_000_000_000;
        if self.judged.0 != second {
            self.judged = (second, 0);
        }
        self.judged.1 += 1;
        let Some((_, local)) = ends(link.payload()) else { return self.drop(Reason::IpMalformed) };
        let sends = (0..)
            .zip(tables.tunnels())
            .filter(|(_, tunnel)| tunnel.local == local)
            .flat_map(|(number, tunnel)| tunnel.sends().map(move |sends| (number, sends)));
        let judged = (self.judged.1 <= JUDGED_PER_SECOND).then(|| pmtu::judge(link.payload(), sends));
        match judged {
            Some(Ok((number, Told::Mtu(mtu)))) => {
                let tunnel = tables.tunnel(number);
                // Without a link there is no path that it could be about.
                let Some((tunnel, link)) =
                    tunnel.and_then(|tunnel| Some((tunnel, tables.link_mtu(tunnel.remote)?)))
                else {
                    return;
                };
                let entry = self.path_mtus.entry(number);
                let (_, path) = entry.or_insert_with(|| (tunnel.ends(), PathMtu::new(link)));
                if path.learn(mtu, Duration::from_nanos(now)) {
                    self.events.push(Event::PathMtu { tunnel: number, mtu: path.get() });
                }
            }
            // The far end may be back in a moment; keepalives and IKE say when it is not.
            Some(Ok((_, Told::Unreachable(_)))) => {}
            Some(Err(_)) => self.made.push(Made::first(Injected::Host(port), frame.to_vec())),
            None => self.drop(Reason::NoHost),
        }
    }
}
