//! Packets that no port received: the host's, from the tunnels' interfaces, and the exception thread's. Their rings' tags say
//! what they are.

use super::receive;
use super::{Next, Packet, Stages, forward, nested};
use crate::drops::Reason;
use crate::exception::keepalive;
use crate::tables::{NextHop, Tables, To};
use crate::tag::{Injected, Origin};
use crate::wire::{Ipv4, Ipv6, ethernet};

/// Runs the first stage for an IP packet that the host sent into a tunnel by its interface; the tag is the tunnel's number.
pub(crate) fn from_host(packet: &mut Packet<'_>, tables: &Tables) {
    let tunnel = packet.frame.tag();
    packet.origin = Origin::Into(tunnel).encode();
    packet.next = into_tunnel(packet, tunnel, tables).unwrap_or_else(Next::Drop);
}

/// The host has lowered the TTL where it forwards; what it sends to the far end of a tunnel must not enter one. A host that
/// is led into a tunnel on its way to the far end goes on speaking with it from the near end, by the way that the tunnel's own
/// packets take: IKE, and whoever is about to repair the route. Nothing else ever leaves past the tunnel.
fn into_tunnel(packet: &mut Packet<'_>, tunnel: u32, tables: &Tables) -> Result<Next, Reason> {
    let Some((hop, next @ NextHop { underlay: true, .. })) = route(packet, tables)? else {
        return Ok(Next::Tunnel(tunnel));
    };
    match next.to {
        To::Station { port, .. } | To::Unresolved { port } if nested::is_between_ends(packet, tables) => {
            packet.origin = Origin::Port(u32::from(port)).encode();
            forward::ours(packet, hop, next, tables)
        }
        _ => nested::may_enter(packet.frame.bytes(), next, tables).map(|()| Next::Tunnel(tunnel)),
    }
}

/// Reads an IP packet for a tunnel or a link: what the later stages want to know of it, and its next hop.
fn route<'t>(packet: &mut Packet<'_>, tables: &'t Tables) -> Result<Option<(u32, &'t NextHop)>, Reason> {
    let bytes = packet.frame.bytes();
    let (hop, len) = match bytes.first().ok_or(Reason::IpMalformed)? >> 4 {
        4 => {
            let ip = Ipv4::parse(bytes).map_err(|_| Reason::IpMalformed)?;
            (packet.protocol, packet.tos) = (ethernet::IPV4, ip.tos());
            (tables.fib().lookup_v4(ip.dst()), usize::from(ip.total_len()))
        }
        _ => {
            let ip = Ipv6::parse(bytes).map_err(|_| Reason::IpMalformed)?;
            (packet.protocol, packet.tos) = (ethernet::IPV6, ip.traffic_class());
            let len = crate::wire::ipv6::HEADER_LEN + usize::from(ip.payload_len());
            (tables.fib().lookup_v6(ip.dst()), len)
        }
    };
    packet.frame.truncate(len);
    Ok(hop.and_then(|hop| Some((hop, tables.next_hop(hop)?))))
}

/// Runs the first stage for a frame from the exception thread, or from another worker.
pub(crate) fn injected(packet: &mut Packet<'_>, tables: &Tables, worker: usize) {
    packet.next = match Injected::decode(packet.frame.tag()) {
        Some(injected) => place(packet, injected, tables, worker).unwrap_or_else(Next::Drop),
        None => Next::Drop(Reason::SlotBroken),
    };
}

fn place(
    packet: &mut Packet<'_>,
    injected: Injected,
    tables: &Tables,
    worker: usize,
) -> Result<Next, Reason> {
    match injected {
        Injected::Route => match route(packet, tables)? {
            Some((hop, next)) => forward::ours(packet, hop, next, tables),
            None => Err(Reason::NoRoute),
        },
        Injected::IntoTunnel(tunnel) => {
            packet.origin = Origin::Into(tunnel).encode();
            // A keepalive has its own near end inside.
            if let Some((_, next @ NextHop { underlay: true, .. })) = route(packet, tables)?
                && next.to != To::Host
            {
                nested::may_enter(packet.frame.bytes(), next, tables)?;
            }
            Ok(Next::Tunnel(tunnel))
        }
        Injected::Answer(tunnel) => {
            packet.origin = Origin::Into(tunnel).encode();
            (packet.protocol, packet.tos) = (keepalive::PROTOCOL, 0);
            Ok(Next::Tunnel(tunnel))
        }
        Injected::FromTunnel(tunnel) => {
            packet.origin = Origin::Tunnel(tunnel).encode();
            Ok(Next::HostInner(tunnel))
        }
        // Behind the ports' queues stand those of rings that carry other things.
        Injected::Send(port) if (port as usize) < tables.ports.len() => Ok(Next::Send(port)),
        Injected::Send(_) => Err(Reason::NoRoute),
        Injected::Carried(tunnel) => {
            packet.origin = Origin::Tunnel(tunnel).encode();
            Ok(Next::Carried(tunnel))
        }
        Injected::Receive(port) => {
            packet.origin = Origin::Port(port).encode();
            let entry = tables.ports.get(port as usize).ok_or(Reason::NoRoute)?;
            // The verdict is taken note of with those on all others.
            receive::receive(packet, entry, tables, worker, &mut Stages::default());
            Ok(packet.next)
        }
        Injected::Host(port) => {
            packet.origin = Origin::Port(port).encode();
            Ok(Next::Host)
        }
    }
}
