//! Two routers for tests, each a real worker on memory wires, with all far ends of its wires in the test's hands: what goes
//! in and comes out can be looked at, kept, changed and sent again.
//!
//! ```text
//! lan ─┤ router ├─ wan       10.1.0.0/16, fd01::/16 behind the first router, 10.2.0.0/16, fd02::/16 behind the second
//!          └ host
//! ```
#![allow(dead_code)] // each test file uses a part of it

pub(crate) mod several;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use culvert_engine::counters::{TunnelCounterBank, WorkerCounters};
use culvert_engine::drops::Reason;
use culvert_engine::esp::cipher::{self, Aad, SealJob};
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{ICV_LEN, InboundSa, IvRange, Key, Mode, OutboundSa, Router, Suite};
use culvert_engine::fib::Prefix;
use culvert_engine::gre::{Options, Payload};
use culvert_engine::ring::{self, Port, RINGS_PER_QUEUE, Region, RxQueue, SPARE_PER_QUEUE, TxQueue};
use culvert_engine::tables::{
    Gateway, NeighbourSpec, PortSpec, Published, RouteSpec, Stack, Tables, TablesSpec, TunnelSpec,
};
use culvert_engine::trace::Taps;
use culvert_engine::tunnel::{Protection, UdpEncap};
use culvert_engine::wire::ethernet::MacAddr;
use culvert_engine::worker::Worker;

pub(crate) const LAN: usize = 0;
pub(crate) const WAN: usize = 1;
pub(crate) const HOST: usize = 2;
/// Bytes of an Ethernet header.
pub(crate) const LINK: usize = 14;
/// Slots in each ring. A test puts fewer frames than this on a wire before it lets the router turn.
pub(crate) const SLOTS: u32 = 128;
/// The longest IP packet on any port.
pub(crate) const MTU: usize = 1500;

/// What lies between the routers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) suite: Option<Suite>,
    pub(crate) mode: Mode,
    pub(crate) esn: bool,
    pub(crate) udp: bool,
    pub(crate) v6: bool,
    pub(crate) pad: u8,
    pub(crate) gre: Options,
    /// Have LAN and WAN ports offsets?
    pub(crate) offsets: (bool, bool),
    /// The sequence number that both SAs begin with.
    pub(crate) first: u64,
}

pub(crate) const PLAIN: Options =
    Options { key: None, checksum: false, sequence: false, payload: Payload::Ip };

impl Plan {
    pub(crate) const fn new(suite: Option<Suite>) -> Plan {
        Plan {
            suite,
            mode: Mode::Transport,
            esn: true,
            udp: false,
            v6: false,
            pad: 16,
            gre: PLAIN,
            offsets: (true, true),
            first: 1,
        }
    }

    /// Keying material of the direction that router `from` sends in.
    pub(crate) fn key(&self, from: u8) -> Key {
        let suite = self.suite.expect("a plan with ESP");
        let material: Vec<u8> =
            (0..suite.material_len() as u8).map(|n| n.wrapping_mul(7) ^ (from << 6)).collect();
        Key::new(suite, &material).expect("the suite's length")
    }
}

/// The SA that sends, and the one that receives.
pub(crate) type Sas = (Arc<OutboundSa>, Arc<InboundSa>);

impl Plan {
    /// The SAs of router `number`, where there are any.
    pub(crate) fn sas(&self, number: u8) -> Option<Sas> {
        self.suite?;
        let peer = 3 - number;
        let run = if number == 1 { Router::First } else { Router::Second };
        let iv = IvRange::of_run(run, 0).expect("a run's number");
        let outbound = OutboundSa::new(spi(number), self.key(number), self.esn, iv, self.first);
        let window = ReplayWindow::new(64, self.esn).expect("a window");
        if self.first > 1 {
            window.accept(self.first - 1).expect("the first of all");
        }
        let inbound = InboundSa::new(spi(peer), self.key(peer), self.esn, window);
        Some((Arc::new(outbound), Arc::new(if self.udp { inbound.in_udp(4500) } else { inbound })))
    }

    pub(crate) fn protection(&self, (outbound, inbound): &Sas) -> Protection {
        Protection {
            mode: self.mode,
            pad: self.pad,
            udp: self.udp.then_some(UdpEncap { source: 4500, destination: 4500 }),
            outbound: vec![Arc::clone(outbound)],
            inbound: vec![Arc::clone(inbound)],
            negotiated: false,
        }
    }
}

/// The SPI that router `from` sends with.
pub(crate) fn spi(from: u8) -> u32 {
    0x1000 + u32::from(from)
}

/// The far end of a wire.
pub(crate) struct Far(RxQueue, TxQueue);

impl Far {
    pub(crate) fn new(mut port: Port) -> Far {
        let (rx, tx) = port.queues.pop().expect("a wire has a queue");
        Far(rx, tx)
    }

    /// Puts one frame on the wire.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_tagged(0, frame);
    }

    /// Lets go what waits for room on the wire.
    pub(crate) fn flush(&mut self) {
        self.1.sync();
    }

    /// As [`Far::send`], on a ring whose frames have tags.
    pub(crate) fn send_tagged(&mut self, tag: u32, frame: &[u8]) {
        self.1.sync();
        let pushed = self.1.ring.push_with(tag, |buffer| {
            buffer.get_mut(..frame.len()).expect("room in the buffer").copy_from_slice(frame);
            Ok(frame.len())
        });
        pushed.expect("room for the frame");
        self.1.sync();
    }

    /// Takes all frames off the wire and returns how many.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        self.receive_tagged(|_, frame| each(frame))
    }

    /// As [`Far::receive`], each with its tag.
    pub(crate) fn receive_tagged(&mut self, mut each: impl FnMut(u32, &[u8])) -> usize {
        let (mut count, mut broken) = (0, 0);
        loop {
            self.0.sync();
            let slots = self.0.ring.take(&mut broken, |frame| {
                count += 1;
                each(frame.tag(), frame.bytes());
            });
            self.0.ring.release(slots);
            if slots == 0 {
                break;
            }
        }
        assert_eq!(broken, 0, "slots that break the ring's rules");
        count
    }

    /// As [`Far::receive`], the frames kept.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.receive(|frame| frames.push(frame.to_vec()));
        frames
    }
}

/// One router, number 1 or 2, and the far ends of its wires.
pub(crate) struct Side {
    pub(crate) worker: Worker,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) lan: Far,
    pub(crate) wan: Far,
    pub(crate) host: Far,
    pub(crate) outbound: Option<Arc<OutboundSa>>,
    pub(crate) inbound: Option<Arc<InboundSa>>,
    /// The longest packet that the tunnel takes.
    pub(crate) tunnel_mtu: usize,
    pub(crate) tables: Published,
    /// Where taps are opened.
    pub(crate) taps: Arc<Taps>,
}

pub(crate) fn mac(number: u8, port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, number, port as u8])
}

/// The station on a port, or the other router.
pub(crate) fn station(number: u8, port: usize) -> MacAddr {
    if port == WAN { mac(3 - number, WAN) } else { MacAddr([2, 0, 0, 1, number, port as u8]) }
}

/// Host `n` behind router `number`.
pub(crate) fn lan_v4(number: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, number, 0, n)
}

/// As [`lan_v4`].
pub(crate) fn lan_v6(number: u8, n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00 | u16::from(number), 0, 0, 0, 0, 0, 0, n)
}

/// The tunnel's end at router `number`.
pub(crate) fn end(number: u8, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(192, 0, 2, number).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

impl Side {
    pub(crate) fn new(plan: &Plan, number: u8) -> Side {
        let region =
            Region::new(3 * RINGS_PER_QUEUE, SLOTS, 2048, 3 * SPARE_PER_QUEUE, false).expect("a region");
        let (lan_port, lan) = ring::wire(&region, 1, plan.offsets.0).expect("rings for the LAN");
        let (wan_port, wan) = ring::wire(&region, 1, plan.offsets.1).expect("rings for the WAN");
        let (host_port, host) = ring::wire(&region, 1, false).expect("rings for the host");

        let sas = plan.sas(number);
        let protection = sas.as_ref().map(|sas| plan.protection(sas));
        let tables =
            Tables::build(spec(plan, number, protection)).expect("tables without contradictions").publish();
        let tunnel_mtu = tables.load().tunnels().first().expect("one tunnel").mtu();
        let ports = [lan_port, wan_port].into_iter().flat_map(|port| port.queues).collect();
        let taps = Taps::new(1);
        let worker = Worker::new(0, &tables, ports, host_port.queues.into_iter().next()).with_taps(&taps);
        let (outbound, inbound) = sas.unzip();
        Side {
            counters: Arc::clone(worker.counters()),
            worker,
            lan: Far::new(lan),
            wan: Far::new(wan),
            host: Far::new(host),
            outbound,
            inbound,
            tunnel_mtu,
            tables,
            taps,
        }
    }

    /// Works through all that has come in.
    pub(crate) fn run(&mut self) {
        for port in [LAN, WAN] {
            while self.worker.turn(port) > 0 {}
        }
    }

    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        self.counters.dropped(reason)
    }

    /// All drops, with their reasons.
    pub(crate) fn drops(&self) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|reason| (*reason, self.dropped(*reason))).filter(|(_, n)| *n > 0).collect()
    }

    /// Frames received, sent, passed to the host, dropped.
    pub(crate) fn account(&self) -> [u64; 4] {
        let port = |n| self.counters.port(n).map_or((0, 0), |port| (port.rx.get(), port.tx.get()));
        let drops = self.drops().iter().map(|(_, count)| count).sum();
        [port(LAN).0 + port(WAN).0, port(LAN).1 + port(WAN).1, port(HOST).1, drops]
    }
}

pub(crate) fn spec(plan: &Plan, number: u8, protection: Option<Protection>) -> TablesSpec {
    let peer = 3 - number;
    let prefix = |address: IpAddr, len| Prefix::new(address, len).expect("no host bits");
    let behind = |number| {
        [
            prefix(lan_v4(number, 0).into(), 16),
            prefix(Ipv6Addr::new(0xfd00 | u16::from(number), 0, 0, 0, 0, 0, 0, 0).into(), 16),
        ]
    };
    let neighbour = |port, address| NeighbourSpec { port, address, mac: station(number, port) };
    let local: [(IpAddr, u8); 2] = [(lan_v4(number, 1).into(), 16), (lan_v6(number, 1).into(), 16)];
    let ends = [(end(number, false), 24), (end(number, true), 64)];
    TablesSpec {
        workers: 1,
        ports: vec![
            PortSpec {
                mac: mac(number, LAN),
                any_mac: false,
                shared: Vec::new(),
                mtu: MTU as u16,
                addresses: local.to_vec(),
                stack: Stack::Shared,
                host_of: None,
            },
            PortSpec {
                mac: mac(number, WAN),
                any_mac: false,
                shared: Vec::new(),
                mtu: MTU as u16,
                addresses: ends.to_vec(),
                stack: Stack::Shared,
                host_of: None,
            },
        ],
        tunnels: vec![TunnelSpec {
            local: end(number, plan.v6),
            remote: end(peer, plan.v6),
            inner: Vec::new(),
            routes: behind(peer).to_vec(),
            gre: plan.gre,
            ttl: 64,
            mtu: None,
            path_mtu: None,
            clamp_mss: false,
            protection,
            gre_in_udp: plan.udp,
            bridge: (plan.gre.payload == Payload::Ethernet).then_some(LAN),
            depth: 1,
            backup: false,
            counters: TunnelCounterBank::new(1).take(),
            sequences: Arc::default(),
        }],
        routes: vec![RouteSpec {
            prefix: prefix(Ipv4Addr::new(203, 0, 113, 0).into(), 24),
            gateway: Gateway::Port { port: WAN, via: Some(end(peer, false)) },
        }],
        neighbours: vec![
            neighbour(LAN, lan_v4(number, 2).into()),
            neighbour(LAN, lan_v6(number, 2).into()),
            neighbour(WAN, end(peer, false)),
            neighbour(WAN, end(peer, true)),
        ],
    }
}

/// The one's complement checksum of RFC 1071 over whole words.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sets the checksum of the IPv4 header at the start of `packet`, as far as there is one.
pub(crate) fn fix_checksum(packet: &mut [u8]) {
    let len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) {
        header[10..12].fill(0);
        let sum = checksum(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
}

/// An IPv4 or IPv6 packet, built by the book.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: u8, tos: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + payload.len()) as u16;
            let mut packet = vec![0x45, tos];
            packet.extend(total.to_be_bytes());
            packet.extend([0x12, 0x34, 0, 0, ttl, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            fix_checksum(&mut packet);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60 | tos >> 4, tos << 4 | 5, 0x6d, 0x7e];
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, ttl]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet
        }
        _ => panic!("addresses of two families"),
    };
    packet.extend_from_slice(payload);
    packet
}

/// A frame from the station on `port` of router `number` to that router.
pub(crate) fn frame(number: u8, port: usize, packet: &[u8]) -> Vec<u8> {
    link(mac(number, port), station(number, port), packet)
}

/// An IP packet in a frame.
pub(crate) fn link(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
    [&dst.0[..], &src.0, &ethertype, packet].concat()
}

/// The frame that must come out of router 2's LAN for `packet`, which entered router 1: two hops further.
pub(crate) fn delivered(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[8] -= 2;
        fix_checksum(&mut packet);
    } else {
        packet[7] -= 2;
    }
    link(station(2, LAN), mac(2, LAN), &packet)
}

/// A packet of `len` bytes, at least 40 or with IPv4 20, from behind router 1 to behind router 2.
pub(crate) fn inner(v6: bool, len: usize, tos: u8, seed: u8) -> Vec<u8> {
    let (src, dst, header) = match v6 {
        false => (IpAddr::from(lan_v4(1, 2)), IpAddr::from(lan_v4(2, 2)), 20),
        true => (lan_v6(1, 2).into(), lan_v6(2, 2).into(), 40),
    };
    let payload: Vec<u8> = (0..len - header).map(|n| (n as u8).wrapping_mul(31) ^ seed).collect();
    // 59: no next header, so that IPv6 finds nothing to read behind its own.
    ip(src, dst, 59, tos, 64, &payload)
}

/// An ESP packet as only the holder of the key can make it: router 1's SA, any plaintext, whatever it says.
pub(crate) fn forge(plan: &Plan, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
    let iv = (sequence ^ 0x0123_4567).to_be_bytes();
    let mut data = [plaintext, &[0; ICV_LEN]].concat();
    let key = plan.key(1);
    cipher::seal(&mut [SealJob {
        key: &key,
        iv,
        aad: Aad::new(spi(1), sequence, plan.esn),
        data: &mut data,
    }]);
    let esp = [&spi(1).to_be_bytes()[..], &(sequence as u32).to_be_bytes(), &iv, &data].concat();
    let (src, dst) = (end(1, plan.v6), end(2, plan.v6));
    let outer = if plan.udp {
        let len = (8 + esp.len()) as u16;
        let udp = [&[0x11, 0x94, 0x11, 0x94][..], &len.to_be_bytes(), &[0, 0], &esp].concat();
        ip(src, dst, 17, 0, 64, &udp)
    } else {
        ip(src, dst, 50, 0, 64, &esp)
    };
    frame(2, WAN, &outer)
}

/// Padding to a multiple of 4, pad length, next header.
pub(crate) fn trailer(payload: &[u8], next_header: u8) -> Vec<u8> {
    let pad = (payload.len() + 2).next_multiple_of(4) - payload.len() - 2;
    [payload, &[1, 2, 3][..pad], &[pad as u8, next_header]].concat()
}
