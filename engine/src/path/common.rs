//! The way in of the packets that nearly all are, in as few instructions as they take: GRE or ESP between two addresses of IPv4
//! without options, and out of it an IPv4 packet to a station on a link. Two steps of [`super::receive`] and [`super::inbound`],
//! which have a verdict on every packet. What is asked here is what they ask, in an order that is quick to answer; where there
//! is more to a packet, nothing is changed, and it is theirs.

use std::net::Ipv4Addr;

use super::inbound::Here;
use super::{Next, Packet, Stages};
use crate::drops::Reason;
use crate::gre::Checked;
use crate::mss;
use crate::tables::{Address, Inbound, NextHop, PortEntry, Tables, To};
use crate::tag::Origin;
use crate::trace::watch::Eye;
use crate::wire::{Ecn, Ipv4, esp, ethernet, gre, ipv4, protocol};

/// Bytes of the headers that are looked at: Ethernet, IPv4, and GRE with a key, or SPI and number of ESP.
const FRONT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + 8;
/// Where GRE or ESP starts.
const PAYLOAD_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// A frame received on `port` that a tunnel's far end has sent, or that goes into a tunnel. The frame is left with the ESP packet,
/// with what was in the GRE packet, or with the packet for the tunnel. False for other frames.
#[inline(always)]
pub(crate) fn receive(
    packet: &mut Packet<'_>,
    port: &PortEntry,
    tables: &Tables,
    worker: u32,
    stages: &mut Stages,
) -> bool {
    read(packet, port, tables, worker, stages).is_some()
}

#[inline(always)]
fn read(
    packet: &mut Packet<'_>,
    port: &PortEntry,
    tables: &Tables,
    worker: u32,
    stages: &mut Stages,
) -> Option<()> {
    let bytes = packet.frame.bytes();
    let front: &[u8; FRONT] = bytes.first_chunk()?;
    let (link, outer) = front.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let payload: &[u8; 8] = outer.last_chunk()?;
    if !port.is_to_us(*link.first_chunk()?)
        || *link.last_chunk::<2>()? != ethernet::IPV4.to_be_bytes()
        || packet.frame.slots() != 1
    {
        return None;
    }
    let ip = Ipv4::parse_plain(bytes.get(ethernet::HEADER_LEN..)?)?;
    let (src, dst, tos) = (ip.src(), ip.dst(), ip.tos());
    let end = PAYLOAD_AT + ip.payload().len();
    if ip.is_fragment() || end < FRONT {
        return None;
    }
    let source = *link.get(6..)?.first_chunk::<6>()?;
    match ip.protocol() {
        protocol::GRE => {
            let gre::Plain { protocol, key, header_len } = gre::Plain::parse(payload)?;
            let entry = Ipv4Addr::tunnels(tables).get(&Ipv4Addr::key(dst, src, key))?;
            if !entry.plain || protocol != ethernet::IPV4 && protocol != ethernet::IPV6 {
                return None;
            }
            packet.protocol = protocol;
            packet.frame.keep(PAYLOAD_AT + header_len, end);
            packet.next = Next::Inner(entry.tunnel);
            stages.note(Next::Inner(entry.tunnel));
        }
        protocol::ESP => {
            let (index, inbound) = tables.inbound_by_spi(u32::from_be_bytes(*payload.first_chunk::<4>()?))?;
            if !Ipv4Addr::between(&inbound.ends, src, dst) || inbound.owner() != worker {
                return None;
            }
            inbound.sa.prefetch();
            packet.frame.keep(PAYLOAD_AT, end);
            packet.next = Next::Open(index);
            stages.note(Next::Open(index));
        }
        _ => {
            let hop = tables.next_hop(tables.fib().lookup_v4(dst)?)?;
            let NextHop { to: To::Tunnel(index), underlay: false, .. } = *hop else { return None };
            if ip.ttl() <= 1 || is_link_local(src) {
                return None;
            }
            tables.prefetch_outbound(index);
            packet.protocol = ethernet::IPV4;
            ipv4::decrement_ttl(packet.frame.bytes_mut().get_mut(ethernet::HEADER_LEN..)?);
            packet.frame.keep(ethernet::HEADER_LEN, end);
            packet.next = Next::Tunnel(index);
            stages.note(Next::Tunnel(index));
        }
    }
    packet.tos = tos;
    packet.source.0 = source;
    Some(())
}

/// Is it an address that is never forwarded (RFC 3927 section 7)?
#[inline(always)]
fn is_link_local(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // One after the other: the first is nearly always another one.
    a == 169 && b == 254
}

/// A packet that came unprotected out of tunnel `index`; the frame is what was in it.
#[inline(always)]
pub(crate) fn inner<E: Eye>(
    packet: &mut Packet<'_>,
    index: u32,
    tables: &Tables,
    here: Here<E>,
) -> Option<Next> {
    if packet.protocol != ethernet::IPV4 {
        return None;
    }
    let way = look(packet.frame.bytes(), packet.tos, tables)?;
    Some(deliver(packet, 0, way, index, tables, here))
}

/// An authentic packet of `inbound`; the frame is its plaintext.
#[inline(always)]
pub(crate) fn decapsulate<E: Eye>(
    packet: &mut Packet<'_>,
    inbound: &Inbound,
    tables: &Tables,
    here: Here<E>,
) -> Option<Next> {
    const PLAIN: [u8; 4] = [0, 0, ethernet::IPV4.to_be_bytes()[0], ethernet::IPV4.to_be_bytes()[1]];
    let (payload, next_header) = esp::split_trailer(packet.frame.bytes()).ok()?;
    if !inbound.plain || next_header != protocol::GRE {
        return None;
    }
    let header_len = match inbound.key {
        None if *payload.first_chunk()? == PLAIN => PLAIN.len(),
        None => return None,
        Some(_) => {
            let gre = gre::Plain::parse(payload.first_chunk()?)?;
            if (gre.protocol, gre.key) != (ethernet::IPV4, inbound.key) {
                return None;
            }
            gre.header_len
        }
    };
    let way = look(payload.get(header_len..)?, packet.tos, tables)?;
    // Of step 5 this alone can still refuse the packet.
    if inbound.sa.window().accept(packet.sequence).is_err() {
        return Some(Next::Drop(Reason::EspReplay));
    }
    Some(deliver(packet, header_len, way, inbound.tunnel, tables, here))
}

/// Where a packet goes, and its length in bytes.
struct Way {
    hop: u32,
    len: usize,
}

/// Is the packet, with `tos` in the outer header, whole, with a mark of the outer header to be carried over to it in no case, no
/// segment size to be looked at, and for a station on a link that it fits?
#[inline(always)]
fn look(bytes: &[u8], tos: u8, tables: &Tables) -> Option<Way> {
    let ip = Ipv4::parse_plain(bytes)?;
    let len = ipv4::HEADER_LEN + ip.payload().len();
    let hop = tables.fib().lookup_v4(ip.dst())?;
    let as_it_is = len <= usize::from(tables.link(hop)?.longest)
        && ip.ttl() > 1
        && !is_link_local(ip.src())
        && Ecn::of(tos) == Ecn::NotEct
        && (ip.protocol() != protocol::TCP || !mss::may_be_syn(bytes));
    as_it_is.then_some(Way { hop, len })
}

/// Sends the packet that lies `at` bytes into the frame, out of tunnel `index`, on its way.
#[inline(always)]
fn deliver<E: Eye>(
    packet: &mut Packet<'_>,
    at: usize,
    Way { hop, len }: Way,
    index: u32,
    tables: &Tables,
    here: Here<E>,
) -> Next {
    packet.frame.keep(at, at + len);
    if let Some(counters) = tables.counters(index, here.worker) {
        counters.in_packets.add(1);
        counters.in_bytes.add(len as u64);
    }
    here.eye.came_out(packet, index, Checked { header_len: at, protocol: ethernet::IPV4, sequence: None });
    packet.origin = Origin::Tunnel(index).encode();
    ipv4::decrement_ttl(packet.frame.bytes_mut());
    Next::Station(hop)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::expect_used, clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::IpAddr;
    use std::sync::{Arc, OnceLock};

    use proptest::prelude::*;

    use super::super::{Batch, inbound, receive as whole};
    use super::*;
    use crate::counters::TunnelCounterBank;
    use crate::esp::replay::ReplayWindow;
    use crate::esp::{InboundSa, Key, Mode, Suite};
    use crate::gre::{Options, Payload};
    use crate::ring::{RINGS_PER_QUEUE, Region, SPARE_PER_QUEUE, wire};
    use crate::tables::{Gateway, NeighbourSpec, PortSpec, RouteSpec, Stack, TablesSpec, TunnelSpec};
    use crate::trace::watch::Shut;
    use crate::tunnel::Protection;
    use crate::wire::{EthernetHeader, Ipv4Header, MacAddr, checksum};

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const KEYED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
    const SEALED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
    const SPI: u32 = 0x1234;

    fn tunnel(remote: Ipv4Addr, key: Option<u32>, protection: Option<Protection>) -> TunnelSpec {
        TunnelSpec {
            local: NEAR.into(),
            remote: remote.into(),
            inner: Vec::new(),
            routes: vec![format!("10.{}.0.0/16", remote.octets()[3]).parse().expect("a prefix")],
            gre: Options { key, checksum: false, sequence: false, payload: Payload::Ip },
            ttl: 64,
            mtu: None,
            path_mtu: None,
            clamp_mss: true,
            protection,
            gre_in_udp: false,
            bridge: None,
            depth: 1,
            backup: false,
            counters: TunnelCounterBank::new(1).take(),
            sequences: Arc::default(),
        }
    }

    fn tables() -> Tables {
        let key = Key::new(Suite::Aes128Gcm16, &[7; 20]).expect("a key");
        let sa = InboundSa::new(SPI, key, false, ReplayWindow::new(64, false).expect("a window"));
        let sealed = Protection {
            mode: Mode::Transport,
            pad: 16,
            udp: None,
            outbound: vec![],
            inbound: vec![Arc::new(sa)],
            negotiated: false,
        };
        Tables::build(TablesSpec {
            workers: 1,
            ports: vec![PortSpec {
                mac: OURS,
                any_mac: false,
                shared: Vec::new(),
                mtu: 200,
                addresses: vec![(NEAR.into(), 24)],
                stack: Stack::Shared,
                host_of: None,
            }],
            tunnels: vec![
                tunnel(FAR, None, None),
                tunnel(KEYED, Some(42), None),
                tunnel(SEALED, None, Some(sealed)),
            ],
            routes: vec![RouteSpec {
                prefix: "10.9.0.0/16".parse().expect("a prefix"),
                gateway: Gateway::Port { port: 0, via: Some(FAR.into()) },
            }],
            neighbours: [FAR, KEYED, SEALED]
                .map(|address| NeighbourSpec { port: 0, address: IpAddr::from(address), mac: THEIRS })
                .into(),
        })
        .expect("tables")
    }

    /// A packet of `len` bytes behind its header.
    fn packet((src, dst): (Ipv4Addr, Ipv4Addr), protocol: u8, behind: &[u8]) -> Vec<u8> {
        let total_len = (ipv4::HEADER_LEN + behind.len()) as u16;
        let mut header = [0; ipv4::HEADER_LEN];
        Ipv4Header { tos: 0, total_len, id: 7, dont_fragment: true, ttl: 9, protocol, src, dst }
            .emit(&mut header);
        [&header, behind].concat()
    }

    /// A frame of one of the kinds that the common way is for.
    fn frame(kind: usize) -> Vec<u8> {
        let host = Ipv4Addr::new(10, 9, 0, 1);
        let inner = packet((Ipv4Addr::new(10, 2, 0, 1), host), protocol::UDP, &[0x55; 30]);
        let outer = match kind {
            0 => packet((FAR, NEAR), protocol::GRE, &[&[0, 0, 8, 0], &inner[..]].concat()),
            1 => packet((KEYED, NEAR), protocol::GRE, &[&[0x20, 0, 8, 0, 0, 0, 0, 42], &inner[..]].concat()),
            2 => packet(
                (SEALED, NEAR),
                protocol::ESP,
                &[&SPI.to_be_bytes(), &[0, 0, 0, 1], &[0; 44][..]].concat(),
            ),
            3 => packet((host, Ipv4Addr::new(10, 2, 0, 1)), protocol::TCP, &[0; 40]),
            _ => packet((host, Ipv4Addr::new(10, 4, 0, 1)), protocol::UDP, &[0; 40]),
        };
        let mut link = [0; ethernet::HEADER_LEN];
        EthernetHeader { dst: OURS, src: THEIRS, ethertype: ethernet::IPV4 }.emit(&mut link);
        [&link, &outer[..]].concat()
    }

    /// Makes the checksum of the header that lies `at` bytes into the frame right.
    fn seal(frame: &mut [u8], at: usize) {
        if let Some(header) = frame.get_mut(at..at + ipv4::HEADER_LEN) {
            [header[10], header[11]] = [0, 0];
            let sum = checksum::checksum(header);
            [header[10], header[11]] = sum.to_be_bytes();
        }
    }

    /// What of a packet the stages that follow look at.
    fn outcome(packet: &Packet<'_>) -> (Next, u8, MacAddr, u32, usize, Vec<u8>) {
        let Packet { frame, next, tos, source, origin, .. } = packet;
        (*next, *tos, *source, *origin, frame.headroom(), frame.bytes().to_vec())
    }

    /// Runs one frame both ways. Was the common way taken to the end?
    fn both_ways(tables: &Tables, bytes: &[u8]) -> Result<bool, TestCaseError> {
        let region = Region::new(RINGS_PER_QUEUE, 16, 2048, SPARE_PER_QUEUE, false).expect("a region");
        let (mut near, mut far) = wire(&region, 1, true).expect("a wire");
        let ((_, tx), (rx, _)) = (&mut near.queues[0], &mut far.queues[0]);
        (0..2).for_each(|_| tx.ring.push_bytes(bytes).expect("room"));
        tx.sync();
        rx.sync();
        let mut batch = Batch::new();
        rx.ring.take(&mut 0, |frame| batch.push(Packet::new(frame)));
        let [common, general] = batch.as_mut_slice() else { panic!("two packets") };

        let here = Here { worker: 0, exceptions: true, eye: Shut };
        let mut stages = Stages::default();
        if !receive(common, &tables.ports[0], tables, 0, &mut stages) {
            return Ok(false);
        }
        general.next = whole::classify(general, &tables.ports[0], tables, 0).unwrap_or_else(Next::Drop);
        prop_assert_eq!(outcome(common), outcome(general));
        let mut noted = Stages::default();
        noted.note(general.next);
        prop_assert_eq!(stages.bits, noted.bits);
        let Next::Inner(index) = general.next else { return Ok(true) };
        prop_assert_eq!(common.protocol, general.protocol);
        let Some(next) = inner(common, index, tables, here) else { return Ok(false) };
        common.next = next;
        let checked = Checked { header_len: 0, protocol: general.protocol, sequence: None };
        general.next =
            inbound::deliver(general, index, checked, tables, here, None).unwrap_or_else(Next::Drop);
        // Who sends it looks at no mark any more.
        general.tos = common.tos;
        prop_assert_eq!(outcome(common), outcome(general));
        Ok(true)
    }

    #[test]
    fn the_common_packets_go_the_common_way() {
        let tables = tables();
        for kind in 0..5 {
            assert_eq!(
                both_ways(&tables, &frame(kind)).map_err(|error| error.to_string()),
                Ok(true),
                "{kind}"
            );
        }
        // Others' packets, and those that are no longer what they were.
        let mut others = frame(0);
        others[5] ^= 1;
        assert_eq!(both_ways(&tables, &others).map_err(|error| error.to_string()), Ok(false));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is changed in a packet: where the common way has a verdict, it is that of the way that all packets can go, and
        /// leaves the same frame.
        #[test]
        fn both_ways_agree(
            kind in 0..5usize,
            changes in prop::collection::vec((0..100usize, prop_oneof![any::<u8>(), Just(0x06), Just(0xa9), Just(1)]), 0..3),
            cut in prop_oneof![4 => Just(0usize), 1 => 0..60usize],
            sealed in any::<(bool, bool)>(),
        ) {
            let mut bytes = frame(kind);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if sealed.1 {
                seal(&mut bytes, PAYLOAD_AT + if kind == 1 { 8 } else { 4 });
            }
            if sealed.0 {
                seal(&mut bytes, ethernet::HEADER_LEN);
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            static TABLES: OnceLock<Tables> = OnceLock::new();
            both_ways(TABLES.get_or_init(tables), &bytes)?;
        }
    }
}
