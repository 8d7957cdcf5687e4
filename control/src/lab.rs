//! Two routers in one process, joined by in-memory rings: what `demo` shows and `bench` measures.
//!
//! ```text
//! left station ── lan ─┤ router A ├── wan ── wan ──┤ router B ├─ lan ── right station
//! ```
//!
//! Every router is a real worker on real rings, with tables built as for any other. Between them lie as many tunnels as
//! asked for, each with keys of its own, fresh from the system's random numbers. Tunnel `n` leads from A's one address to
//! the `n`th of B's (a hub and its sites); 10.0.0.0/9 lies on the left and 10.128.0.0/9 on the right, a /24 for each tunnel.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ::ring::rand::{SecureRandom, SystemRandom};
use culvert_engine::counters::{Copying, TunnelCounterBank, WorkerCounters};
use culvert_engine::drops::Reason;
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, IvRange, Key, Mode, OutboundSa, Router, Suite};
use culvert_engine::fan_out::{FAN_OUT_BUFFERS, fan_out};
use culvert_engine::fib::Prefix;
use culvert_engine::gre::{Options, Payload};
use culvert_engine::ring::{self, Port, Region, RxQueue, TxQueue};
use culvert_engine::tables::{
    Gateway, NeighbourSpec, PortSpec, Published, RouteSpec, Stack, Tables, TablesSpec, TunnelSpec,
};
use culvert_engine::tunnel::Protection;
use culvert_engine::wire::ethernet::{self, MacAddr};
use culvert_engine::wire::{EthernetHeader, Ipv4Header, UdpHeader, ipv4, protocol, udp};
use culvert_engine::worker::{QueuePair, Worker};

/// The most tunnels that the lab's addresses can tell apart.
pub const MAX_TUNNELS: u32 = 1 << 15;
/// The number of a router's port towards its stations.
pub const LAN: usize = 0;
/// The number of a router's port towards the other router.
pub const WAN: usize = 1;

/// Slots in each ring: a batch in each of the places a frame can wait, and some.
const SLOTS: u32 = 256;
/// Slots in each ring where workers share what comes by one queue: room for [`BURST`] packets.
const LONG_SLOTS: u32 = 2 * BURST as u32;
/// Packets that are on their way at once then: enough for workers to be busy nearly all of the time until the last is through.
pub const BURST: usize = 8 * ring::BATCH;
/// The replay window of the lab's SAs, in packets.
const WINDOW: u32 = 1024;
/// Bytes that headers and Ethernet add to the longest inner packet, generously.
const HEADERS: usize = 256;

const LEFT_STATION: Side =
    Side { mac: MacAddr([2, 0, 0, 0, 1, 0x10]), address: Ipv4Addr::new(172, 16, 0, 2) };
const A_LAN: Side = Side { mac: MacAddr([2, 0, 0, 0, 1, 1]), address: Ipv4Addr::new(172, 16, 0, 1) };
const A_WAN: Side = Side { mac: MacAddr([2, 0, 0, 0, 2, 1]), address: Ipv4Addr::new(192, 0, 2, 1) };
const B_WAN: Side = Side { mac: MacAddr([2, 0, 0, 0, 2, 2]), address: Ipv4Addr::new(192, 0, 2, 2) };
const B_LAN: Side = Side { mac: MacAddr([2, 0, 0, 0, 3, 1]), address: Ipv4Addr::new(172, 17, 0, 1) };
const RIGHT_STATION: Side =
    Side { mac: MacAddr([2, 0, 0, 0, 3, 0x10]), address: Ipv4Addr::new(172, 17, 0, 2) };

/// One end of a link.
#[derive(Clone, Copy)]
struct Side {
    mac: MacAddr,
    address: Ipv4Addr,
}

/// Why the lab could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// No memory for the rings.
    #[error(transparent)]
    Region(#[from] ring::RegionError),
    /// A table that contradicts itself.
    #[error(transparent)]
    Tables(#[from] culvert_engine::tables::BuildError),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// More than the lab's addresses can tell apart.
    #[error("{0} tunnels are more than the {MAX_TUNNELS} that the lab can tell apart")]
    Tunnels(u32),
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// ESP with that suite, or plain GRE.
    pub suite: Option<Suite>,
    /// Tunnels between the routers.
    pub tunnels: u32,
    /// The longest inner packet, in bytes.
    pub longest: usize,
}

/// A router of the lab: a worker and what it is looked up in.
pub struct LabRouter {
    /// The worker; its ports are [`LAN`] and [`WAN`].
    pub worker: Worker,
    /// Its tables.
    pub tables: Published,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
}

/// The two routers and the stations' ends of the links.
pub struct Lab {
    /// The left router, the hub.
    pub a: LabRouter,
    /// The right router, the sites.
    pub b: LabRouter,
    /// The left station.
    pub left: Station,
    /// The right station.
    pub right: Station,
}

impl Lab {
    /// Builds the lab, with one worker in each router.
    ///
    /// # Errors
    /// No memory, no random numbers, or too many tunnels.
    pub fn new(plan: Plan) -> Result<Lab, LabError> {
        Lab::lanes(plan, 1)?.pop().ok_or(LabError::Tunnels(0))
    }

    /// Builds the lab with `workers` workers in each router, that share tunnels and tables: a lane for each, with stations of
    /// its own on queues of its own, to be driven by a thread of its own. Every tunnel has a pair of SAs for each worker, as
    /// two routers negotiate them that both can (RFC 9611).
    ///
    /// # Errors
    /// No memory, no random numbers, or too many tunnels.
    pub fn lanes(plan: Plan, workers: usize) -> Result<Vec<Lab>, LabError> {
        Lab::build(plan, workers, workers, SLOTS, 2 * ring::BATCH as u32)
    }

    /// Builds the lab with `workers` workers in each router, of which the first receives everything: every tunnel has one pair of
    /// SAs, as with most peers, so that a card puts all its packets into one queue. The others, of each router one, are to be
    /// driven by threads of their own.
    ///
    /// # Errors
    /// No memory, no random numbers, or too many tunnels.
    pub fn one_queue(plan: Plan, workers: usize) -> Result<(Lab, Vec<[Worker; 2]>), LabError> {
        let mut lanes = Lab::build(plan, workers, 1, LONG_SLOTS, BURST as u32)?.into_iter();
        let first = lanes.next().ok_or(LabError::Tunnels(0))?;
        Ok((first, lanes.map(|lane| [lane.a.worker, lane.b.worker]).collect()))
    }

    /// `slots` in each ring, and room for `flight` packets on each wire.
    fn build(plan: Plan, workers: usize, sas: usize, slots: u32, flight: u32) -> Result<Vec<Lab>, LabError> {
        if plan.tunnels > MAX_TUNNELS {
            return Err(LabError::Tunnels(plan.tunnels));
        }
        let lines = (plan.longest + HEADERS + ring::HEADROOM as usize).max(2048).div_ceil(64);
        // An odd number of cache lines: with a power of two, the headers of a batch would all fall into the same few sets of
        // the first-level cache and push each other out (1 to 2 ns a packet).
        let buffer_size = (lines | 1) * 64;
        // Three links in each lane, and in each router a wire between any two workers.
        let between = workers * (workers - 1);
        let wires = 3 * workers + between;
        let flights = 2 * 3 * workers as u32 * flight.next_power_of_two();
        let region = Region::new(
            wires * ring::RINGS_PER_QUEUE,
            slots,
            buffer_size as u32,
            flights + between as u32 * ring::SPARE_PER_QUEUE + 2 * workers as u32 * FAN_OUT_BUFFERS,
            false,
        )?;
        let wire = || ring::long_wire(&region, workers, true, flight);
        let ((left, a_lan), (a_wan, b_wan), (b_lan, right)) = (wire()?, wire()?, wire()?);

        let (to_right, to_left) = (keys(plan, sas)?, keys(plan, sas)?);
        let mtu = u16::try_from(plan.longest + HEADERS).unwrap_or(u16::MAX).max(1500);
        let a = router(plan, workers, sas, true, mtu, &to_right, &to_left)?;
        let b = router(plan, workers, sas, false, mtu, &to_left, &to_right)?;
        let routers =
            lab_routers(&region, a, a_lan, a_wan)?.into_iter().zip(lab_routers(&region, b, b_lan, b_wan)?);
        let stations = left.queues.into_iter().zip(right.queues);
        Ok(routers
            .zip(stations)
            .map(|((a, b), (left, right))| Lab {
                a,
                b,
                left: Station::new(left, LEFT_STATION, A_LAN.mac, plan, 128),
                right: Station::new(right, RIGHT_STATION, B_LAN.mac, plan, 0),
            })
            .collect())
    }
}

/// The workers of a router, from its tables and its ports.
fn lab_routers(
    region: &Arc<Region>,
    tables: Tables,
    lan: Port,
    wan: Port,
) -> Result<Vec<LabRouter>, LabError> {
    let tables = tables.publish();
    let peers = ring::mesh(region, lan.queues.len())?;
    let fan_out = fan_out(region, lan.queues.len())?;
    Ok(lan
        .queues
        .into_iter()
        .zip(wan.queues)
        .zip(peers.into_iter().zip(fan_out))
        .enumerate()
        .map(|(number, ((lan, wan), (peers, fan_out)))| {
            let worker =
                Worker::new(number, &tables, vec![lan, wan], None).with_peers(peers).with_fan_out(fan_out);
            let counters = Arc::clone(worker.counters());
            LabRouter { worker, tables: Arc::clone(&tables), counters }
        })
        .collect())
}

impl LabRouter {
    /// Frames whose bytes were copied on their way.
    pub fn copied(&self) -> u64 {
        Copying::ALL.iter().map(|kind| self.counters.copied(*kind).0).sum()
    }

    /// All packets dropped, with their reasons.
    pub fn drops(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().map(|reason| (*reason, self.counters.dropped(*reason))).filter(|(_, n)| *n > 0)
    }
}

/// Keying material of one direction, for each tunnel and in it for each SA.
fn keys(plan: Plan, sas: usize) -> Result<Vec<Vec<u8>>, LabError> {
    let Some(suite) = plan.suite else { return Ok(Vec::new()) };
    let random = SystemRandom::new();
    (0..plan.tunnels as usize * sas)
        .map(|_| {
            let mut material = vec![0; suite.material_len()];
            random.fill(&mut material).map_err(|_| LabError::Random)?;
            Ok(material)
        })
        .collect()
}

/// The outer address of the far end of tunnel `n`.
fn site(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 0, 0).to_bits() + n)
}

const HUB: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The network behind tunnel `n`, on the left (`half` 0) or on the right (128).
fn network(n: u32, half: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, half, 0, 0).to_bits() + (n << 8))
}

fn prefix(address: Ipv4Addr, len: u8) -> Option<Prefix> {
    Prefix::new(address.into(), len).ok()
}

/// The tables of router A (`hub`) or B. `send` and `receive` are the keys of the tunnels, in order.
fn router(
    plan: Plan,
    workers: usize,
    sas: usize,
    hub: bool,
    mtu: u16,
    send: &[Vec<u8>],
    receive: &[Vec<u8>],
) -> Result<Tables, LabError> {
    let (lan, wan, station, peer) = match hub {
        true => (A_LAN, A_WAN, LEFT_STATION, B_WAN),
        false => (B_LAN, B_WAN, RIGHT_STATION, A_WAN),
    };
    let port = |side: Side, len| PortSpec {
        mac: side.mac,
        any_mac: false,
        shared: Vec::new(),
        mtu,
        addresses: vec![(IpAddr::from(side.address), len)],
        stack: Stack::Shared,
        host_of: None,
    };
    let neighbour = |port, side: Side| NeighbourSpec { port, address: side.address.into(), mac: side.mac };
    let (near, far) = if hub { (0, 128) } else { (128, 0) };
    let route = |net, len, port, via: Side| {
        prefix(net, len).map(|prefix| RouteSpec {
            prefix,
            gateway: Gateway::Port { port, via: Some(via.address.into()) },
        })
    };
    let outer = if hub { (site(0), 16) } else { (Ipv4Addr::new(198, 18, 0, 0), 16) };
    let mut bank = TunnelCounterBank::new(workers);
    let tunnels = (0..plan.tunnels)
        .map(|n| {
            let (local, remote) = if hub { (HUB, site(n)) } else { (site(n), HUB) };
            let of_tunnel = n as usize * sas..(n as usize + 1) * sas;
            let keys = send.get(of_tunnel.clone()).zip(receive.get(of_tunnel));
            Ok(TunnelSpec {
                local: local.into(),
                remote: remote.into(),
                inner: Vec::new(),
                routes: prefix(network(n, far), 24).into_iter().collect(),
                gre: Options { key: None, checksum: false, sequence: false, payload: Payload::Ip },
                ttl: 64,
                mtu: None,
                path_mtu: None,
                clamp_mss: false,
                protection: match (plan.suite, keys) {
                    (Some(suite), Some((send, receive))) => {
                        Some(protection(n, workers as u32, hub, suite, send, receive)?)
                    }
                    _ => None,
                },
                gre_in_udp: false,
                bridge: None,
                depth: 1,
                backup: false,
                counters: bank.take(),
                sequences: Arc::default(),
            })
        })
        .collect::<Result<_, LabError>>()?;
    Ok(Tables::build(TablesSpec {
        workers,
        ports: vec![port(lan, 16), port(wan, 24)],
        tunnels,
        routes: [route(network(0, near), 9, LAN, station), route(outer.0, outer.1, WAN, peer)]
            .into_iter()
            .flatten()
            .collect(),
        neighbours: vec![neighbour(LAN, station), neighbour(WAN, peer)],
    })?)
}

/// ESP of tunnel `n`: a pair of SAs for each worker, or one for the first. An SPI is a multiple of the number of workers beside
/// the worker's own, so that the worker which seals and the one which opens have the same number.
fn protection(
    n: u32,
    workers: u32,
    hub: bool,
    suite: Suite,
    send: &[Vec<u8>],
    receive: &[Vec<u8>],
) -> Result<Protection, LabError> {
    // Keys made above, of the right length; windows of a size within bounds: nothing to refuse.
    let key = |material: &[u8]| Key::new(suite, material).map_err(|_| LabError::Random);
    let spi = |base: u32, worker: u32| base.next_multiple_of(workers) + n * workers + worker;
    let (out_base, in_base) = if hub { (0x1000, 0x10_0000) } else { (0x10_0000, 0x1000) };
    let router = if hub { Router::First } else { Router::Second };
    let (mut outbound, mut inbound) = (Vec::new(), Vec::new());
    for ((send, receive), worker) in send.iter().zip(receive).zip(0..) {
        // Fresh keys that die with this process: its only run.
        let iv = IvRange::of_run(router, 0).ok_or(LabError::Random)?;
        outbound.push(Arc::new(OutboundSa::new(spi(out_base, worker), key(send)?, true, iv, 1)));
        let window = ReplayWindow::new(WINDOW, true).map_err(|_| LabError::Random)?;
        inbound.push(Arc::new(InboundSa::new(spi(in_base, worker), key(receive)?, true, window)));
    }
    Ok(Protection { mode: Mode::Transport, pad: 16, udp: None, outbound, inbound, negotiated: false })
}

/// A frame length: the inner IP packet, in bytes.
pub type Length = usize;

/// The simple Internet mix: 64, 570 and 1400 bytes as 7:4:1.
const IMIX: [Length; 12] = [64, 570, 64, 64, 570, 64, 1400, 64, 570, 64, 570, 64];

/// The length of the `number`th packet of the mix, in bytes.
pub fn imix(number: u64) -> Length {
    IMIX.get((number % IMIX.len() as u64) as usize).copied().unwrap_or(SHORTEST)
}

/// Bytes in front of the contents of a station's packets: Ethernet, IPv4, UDP.
const CONTENTS_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
/// The shortest packet: the headers and a number.
pub const SHORTEST: Length = ipv4::HEADER_LEN + udp::HEADER_LEN + NUMBER_LEN;
/// Every packet begins with its number.
const NUMBER_LEN: usize = 8;
/// What packets are filled with: as many bytes as the longest has, from a different place for each number.
const PATTERN_LEN: usize = 64 * 1024;
/// Places in the pattern that packets start at.
const PHASES: u64 = 251;

/// A station: sends numbered packets through the tunnels in turn, and knows what must arrive.
pub struct Station {
    rx: RxQueue,
    tx: TxQueue,
    header: [u8; CONTENTS_AT],
    pattern: Arc<[u8]>,
    address: Ipv4Addr,
    tunnels: u32,
    far: u8,
    sent: u64,
    /// The number of the packet that must come next, as the other station counts.
    expected: u64,
    /// Packets that arrived whole and in their turn.
    pub good: u64,
    /// Packets that arrived changed.
    pub corrupt: u64,
    /// Packets that arrived after one that was sent later.
    pub reordered: u64,
    /// Bytes of IP packets that arrived whole.
    pub bytes: u64,
}

impl Station {
    fn new((rx, tx): QueuePair, side: Side, gateway: MacAddr, plan: Plan, far: u8) -> Station {
        let mut header = [0; CONTENTS_AT];
        if let Some((link, rest)) = header.split_first_chunk_mut()
            && let Some((_, rest)) = rest.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()
            && let Some(datagram) = rest.first_chunk_mut()
        {
            EthernetHeader { dst: gateway, src: side.mac, ethertype: ethernet::IPV4 }.emit(link);
            UdpHeader { source: 9, destination: 9, length: 0, checksum: 0 }.emit(datagram);
        }
        let pattern: Vec<u8> =
            (0..PATTERN_LEN as u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 23) as u8).collect();
        Station {
            rx,
            tx,
            header,
            pattern: pattern.into(),
            address: side.address,
            tunnels: plan.tunnels,
            far,
            sent: 0,
            expected: 0,
            good: 0,
            corrupt: 0,
            reordered: 0,
            bytes: 0,
        }
    }

    /// Packets sent until now.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends up to `count` packets, the `n`th ever sent of `length(n)` bytes, as far as the ring has room.
    pub fn send(&mut self, count: usize, length: impl Fn(u64) -> Length) -> usize {
        self.tx.sync();
        let mut done = 0;
        while done < count {
            let number = self.sent;
            let (header, pattern) = (&self.header, &self.pattern);
            let ends = (self.address, destination(number, self.tunnels, self.far));
            let length = length(number);
            let pushed = self.tx.ring.push_with(0, |buffer| {
                write(buffer, header, pattern, ends, number, length).ok_or(ring::Refused::TooLong)
            });
            if pushed.is_err() {
                break;
            }
            self.sent += 1;
            done += 1;
        }
        self.tx.sync();
        done
    }

    /// Sends one frame of any content. False when the ring is full or the frame longer than a buffer.
    pub fn send_bytes(&mut self, frame: &[u8]) -> bool {
        let pushed = self.tx.ring.push_bytes(frame).is_ok();
        self.tx.sync();
        pushed
    }

    /// Takes what has arrived and compares it with what was sent: every byte, and the order. Returns the number of packets.
    pub fn receive(&mut self, length: impl Fn(u64) -> Length) -> usize {
        self.rx.sync();
        let Station { rx, pattern, expected, good, corrupt, reordered, bytes, .. } = self;
        let mut count = 0;
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |frame| {
            count += 1;
            match read(frame.bytes(), pattern, &length) {
                Some((number, len)) => {
                    if number < *expected {
                        *reordered += 1;
                    } else {
                        *expected = number + 1;
                    }
                    *good += 1;
                    *bytes += len as u64;
                }
                None => *corrupt += 1,
            }
        });
        *corrupt += broken;
        rx.ring.release(slots);
        count
    }
}

/// The host that packet `number` is for: behind the tunnels in turn, in an order that no prefetcher guesses.
fn destination(number: u64, tunnels: u32, far: u8) -> Ipv4Addr {
    let tunnel = if tunnels == 1 { 0 } else { (number.wrapping_mul(7919) % u64::from(tunnels)) as u32 };
    Ipv4Addr::from_bits(network(tunnel, far).to_bits() + 1 + (number % 200) as u32)
}

/// Writes the frame of packet `number`; its length, or `None` without room.
fn write(
    buffer: &mut [u8],
    header: &[u8; CONTENTS_AT],
    pattern: &[u8],
    (src, dst): (Ipv4Addr, Ipv4Addr),
    number: u64,
    length: Length,
) -> Option<usize> {
    let frame_len = ethernet::HEADER_LEN + length;
    let frame = buffer.get_mut(..frame_len)?;
    let (head, contents) = frame.split_first_chunk_mut::<CONTENTS_AT>()?;
    *head = *header;
    let (_, ip) = head.split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let (ip, datagram) = ip.split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
    Ipv4Header {
        tos: 0,
        total_len: length as u16,
        id: number as u16,
        dont_fragment: true,
        ttl: 64,
        protocol: protocol::UDP,
        src,
        dst,
    }
    .emit(ip);
    let datagram_len = (length - ipv4::HEADER_LEN) as u16;
    datagram.get_mut(4..6)?.copy_from_slice(&datagram_len.to_be_bytes());
    let (tag, filling) = contents.split_first_chunk_mut::<NUMBER_LEN>()?;
    *tag = number.to_be_bytes();
    filling.copy_from_slice(phase(pattern, number, filling.len())?);
    Some(frame_len)
}

/// The number and length of a packet that arrived as it must after two routers; `None` for any other.
fn read(frame: &[u8], pattern: &[u8], length: impl Fn(u64) -> Length) -> Option<(u64, Length)> {
    let ip = culvert_engine::wire::Ipv4::parse(frame.get(ethernet::HEADER_LEN..)?).ok()?;
    let (tag, filling) = ip.payload().get(udp::HEADER_LEN..)?.split_first_chunk::<NUMBER_LEN>()?;
    let number = u64::from_be_bytes(*tag);
    let len = usize::from(ip.total_len());
    let right = ip.ttl() == 62
        && ip.id() == number as u16
        && len == length(number)
        && filling == phase(pattern, number, filling.len())?;
    right.then_some((number, len))
}

fn phase(pattern: &[u8], number: u64, len: usize) -> Option<&[u8]> {
    let start = (number % PHASES) as usize;
    pattern.get(start..start.checked_add(len)?)
}
