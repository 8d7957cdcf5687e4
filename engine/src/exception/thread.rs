//! The exception thread: takes what workers give away, and makes what has to be made.
//!
//! 1. What the control plane says of ports and tunnels ([`Setup`]) is taken over; addresses are announced where it wants that.
//! 2. Each worker's ring is emptied; every frame is dealt with by its [`Cause`].
//! 3. Timers run: neighbours asked, keepalives sent, what waited too long dropped.
//! 4. What was made goes to a worker, each frame with a tag that says what is to be done with it: what waited, to the one that
//!    had given it away, so that its flow stays in order (see [`super::settled`]); all else to the first.
//!
//! It may allocate, within the bounds of its parts, and it never blocks. What does not fit into the ring is dropped and
//! counted as `tx-full`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use crossbeam::channel::{Receiver, Sender};

use super::datagrams::{Datagrams, Owner, Sorted};
use super::early::{self, Early};
use super::echo;
use super::fragment::{Ids, fragment};
use super::icmp::{Error, error_for};
use super::keepalive::{self, Keepalives};
use super::limit::{RateLimit, Rates};
use super::neighbour::{self, Lost, Neighbours, Received, Station};
use super::pmtu::{self, PathMtu, Told};
use super::reassembly::{self, Reassembly};
use super::settled::{Settled, Ticket};
use super::waiting::Waiting;
use crate::counters::WorkerCounters;
use crate::drops::Reason;
use crate::flow;
use crate::gre::Payload;
use crate::ring::{RxQueue, TxQueue};
use crate::tables::{Published, Tables, To};
use crate::tag::{Cause, Exception, Injected, Origin};
use crate::wire::ethernet::{self, Ethernet, EthernetHeader, MacAddr};
use crate::wire::{Gre, Ipv4, Ipv6, ipv4, nd, protocol};
use crate::worker::QueuePair;

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// How everything is now.
    Setup(Setup),
    /// All stations on a port's link are to hear whose an address is.
    Announce(Announcement),
}

/// An address that is said to be at a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The port's number.
    pub port: u16,
    /// The station.
    pub mac: MacAddr,
    /// The address.
    pub address: IpAddr,
}

/// What the thread is told, whole, after each change of the tables.
#[derive(Debug, Default)]
pub struct Setup {
    /// By port number.
    pub ports: Vec<PortSetup>,
    /// By tunnel number.
    pub tunnels: Vec<TunnelSetup>,
}

/// A port.
#[derive(Debug, Clone)]
pub struct PortSetup {
    /// Its address on the link.
    pub mac: MacAddr,
    /// Our addresses on it, each with the length of its subnet's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The host resolves neighbours on its link, and is asked by [`Event::Resolve`]. Otherwise ARP and ND are ours.
    pub host_resolves: bool,
}

/// A tunnel.
#[derive(Debug, Clone, Default)]
pub struct TunnelSetup {
    /// Our addresses inside.
    pub inner: Vec<IpAddr>,
    /// Keepalives, where it sends any.
    pub keepalive: Option<keepalive::Settings>,
    /// Fragment IPv4 packets that are too long even where they say not to.
    pub fragment: bool,
}

/// What the thread tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A neighbour for the tables, or one less.
    Neighbour(neighbour::Change),
    /// The host is to resolve that station.
    Resolve {
        /// The port's number.
        port: u16,
        /// The station.
        address: IpAddr,
    },
    /// The longest packet that reaches a tunnel's far end, in bytes, is now that.
    PathMtu {
        /// The tunnel's number.
        tunnel: u32,
        /// In bytes.
        mtu: usize,
    },
    /// What keepalives have shown of a tunnel.
    Liveness {
        /// The tunnel's number.
        tunnel: u32,
        /// What.
        liveness: keepalive::Liveness,
    },
}

/// A packet that waits for a station.
struct Held {
    bound: Bound,
    packet: Vec<u8>,
    /// Whose it is.
    ticket: Ticket,
}

/// Where such a packet is to go.
#[derive(Clone, Copy)]
enum Bound {
    /// To the station itself, or to those behind it; and where it came in.
    Station(Origin),
    /// Into a tunnel whose outer packets go there: the one between these ends, whatever has its number later.
    Tunnel(u32, keepalive::Ends),
}

/// A frame for a worker.
struct Made {
    injected: Injected,
    bytes: Vec<u8>,
    /// The worker that waits for it; without one it is the first's.
    ticket: Option<Ticket>,
}

/// How many errors about outer packets are looked at in a second: with many tunnels, each takes its time.
const JUDGED_PER_SECOND: u32 = 200;
/// How often all neighbours count as used, in nanoseconds: workers do not tell which they use.
const USED_EVERY: u64 = 300_000_000_000;
/// What reassembly drops fragments for.
const REASSEMBLY: [Reason; 5] = [
    Reason::FragmentLimit,
    Reason::FragmentOverlap,
    Reason::FragmentDuplicate,
    Reason::IpMalformed,
    Reason::Ecn,
];

/// The state of the thread. See the module page.
pub struct Exceptions {
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    wires: Vec<Wire>,
    orders: Receiver<Order>,
    events: Sender<Event>,
    parts: Parts,
}

impl Made {
    /// One that nobody waits for.
    fn first(injected: Injected, bytes: Vec<u8>) -> Made {
        Made { injected, bytes, ticket: None }
    }
}

/// The wire from and to a worker.
struct Wire {
    from: RxQueue,
    to: TxQueue,
    settled: Arc<Settled>,
    /// Slots of `from` whose frames have been taken.
    taken: u32,
}

/// All but the rings, so that a frame can be borrowed from them while this changes.
struct Parts {
    setup: Setup,
    events: Vec<Event>,
    made: Vec<Made>,
    neighbours: Neighbours<Held>,
    neighbours_out: neighbour::Output<Held>,
    waiting: Waiting<Held>,
    early: Early<Made>,
    keepalives: Keepalives,
    keepalives_out: keepalive::Output,
    errors: RateLimit,
    judged: (u64, u32),
    datagrams: Datagrams,
    reassembly: Reassembly,
    reassembly_dropped: [u64; REASSEMBLY.len()],
    ids: Ids,
    /// By tunnel number; the ends show when that is another tunnel's.
    path_mtus: HashMap<u32, (keepalive::Ends, PathMtu)>,
    used_at: u64,
    /// The number of the tables that packets were released for.
    seen: u64,
    random: u64,
    counters: Arc<WorkerCounters>,
}

impl Exceptions {
    /// A thread's state. `wires` are, for each worker, the far end of the wire given to
    /// [`crate::worker::Worker::with_exceptions`], and [`crate::worker::Worker::settled`]. `secret` is random.
    pub fn new(
        tables: &Published,
        wires: Vec<(QueuePair, Arc<Settled>)>,
        orders: Receiver<Order>,
        events: Sender<Event>,
        secret: u64,
    ) -> Exceptions {
        let parts = Parts {
            setup: Setup::default(),
            events: Vec::new(),
            made: Vec::new(),
            neighbours: Neighbours::new(neighbour::Limits::default()),
            neighbours_out: neighbour::Output::default(),
            waiting: Waiting::default(),
            early: Early::default(),
            keepalives: Keepalives::new(),
            keepalives_out: keepalive::Output::default(),
            errors: RateLimit::new(Rates::default(), secret),
            judged: (0, 0),
            datagrams: Datagrams::default(),
            reassembly: Reassembly::new(reassembly::Limits::default()),
            reassembly_dropped: [0; REASSEMBLY.len()],
            ids: Ids::new(secret as u16),
            path_mtus: HashMap::new(),
            used_at: 0,
            seen: 0,
            random: secret | 1,
            counters: Arc::new(WorkerCounters::new([])),
        };
        let wire = |((from, to), settled)| Wire { from, to, settled, taken: 0 };
        let wires = wires.into_iter().map(wire).collect();
        Exceptions { tables: Cache::new(Arc::clone(tables)), wires, orders, events, parts }
    }

    /// What it counts: drops, to be added to the workers'.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.parts.counters
    }

    /// The neighbours that it has resolved, or tries to.
    pub fn neighbours(&self) -> impl Iterator<Item = neighbour::Neighbour> {
        self.parts.neighbours.iter()
    }

    /// Has worker `worker` not taken all that was made for it?
    pub fn waits_for(&self, worker: usize) -> bool {
        self.wires.get(worker).is_some_and(|wire| wire.to.is_unread())
    }

    /// When [`Exceptions::turn`] has something to do next, if no frame comes before: in nanoseconds of its clock.
    pub fn next_due(&self) -> Option<u64> {
        let parts = &self.parts;
        let reassembly = parts.reassembly.deadline().map(nanoseconds);
        let datagrams = parts.datagrams.deadline().map(nanoseconds);
        let learned = parts.path_mtus.values().filter_map(|(_, path)| path.deadline());
        let path_mtus = learned.min().map(nanoseconds);
        [
            parts.neighbours.next_due(),
            parts.keepalives.next_due(),
            parts.waiting.next_due(),
            parts.early.next_due(),
            reassembly,
            datagrams,
            path_mtus,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does all there is to do at `now`, in nanoseconds since any fixed moment. Returns the number of frames that it dealt
    /// with or made.
    pub fn turn(&mut self, now: u64) -> usize {
        let Exceptions { tables, wires, orders, events, parts } = self;
        let tables: &Tables = tables.load();
        let mut last = None;
        for order in orders.try_iter() {
            match order {
                Order::Setup(setup) => last = Some(setup),
                Order::Announce(announcement) => parts.announce(announcement),
            }
        }
        if let Some(setup) = last {
            parts.take_over(setup, tables, now);
        }
        parts.release(tables);
        let mut count = 0;
        for (worker, Wire { from, settled, taken, .. }) in wires.iter_mut().enumerate() {
            from.sync();
            let mut broken = 0;
            *taken = from.ring.take(&mut broken, |mut frame| {
                count += 1;
                match Exception::decode(frame.tag()) {
                    Some(exception) => {
                        parts.handle(exception, frame.bytes_mut(), (worker, settled), tables, now);
                    }
                    None => parts.drop(Reason::SlotBroken),
                }
            });
            parts.counters.count_drop(Reason::SlotBroken, broken);
        }
        parts.timers(tables, now);
        count += parts.made.len();
        wires.iter_mut().for_each(|wire| wire.to.sync());
        let mut owed = Vec::new();
        for Made { injected, bytes, ticket } in parts.made.drain(..) {
            let worker = ticket.as_ref().map_or(0, |ticket| ticket.worker);
            let Some(Wire { to, .. }) = wires.get_mut(worker) else { continue };
            let pushed = to.ring.push_with(injected.encode(), |buffer| {
                buffer.get_mut(..bytes.len()).ok_or(crate::ring::Refused::TooLong)?.copy_from_slice(&bytes);
                Ok(bytes.len())
            });
            match pushed {
                Ok(()) => {}
                Err(crate::ring::Refused::Full) => parts.counters.count_drop(Reason::TxFull, 1),
                Err(crate::ring::Refused::TooLong) => parts.counters.count_drop(Reason::TooBig, 1),
            }
            owed.extend(ticket);
        }
        for Wire { from, to, settled, taken } in wires.iter_mut() {
            settled.tell(
                tables.number(),
                || to.sync(),
                || {
                    from.ring.release(*taken);
                    from.sync();
                },
            );
        }
        drop(owed);
        for event in parts.events.drain(..) {
            // Nobody listens any more: the process is about to end.
            events.send(event).unwrap_or_default();
        }
        count
    }
}

const fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

impl Parts {
    /// Step 1.
    fn take_over(&mut self, setup: Setup, tables: &Tables, now: u64) {
        self.setup = setup;
        let stations = self
            .setup
            .ports
            .iter()
            .map(|port| (!port.host_resolves).then(|| Station::new(port.mac, port.addresses.clone())))
            .collect();
        self.neighbours.set_ports(now, stations, &mut self.neighbours_out);
        self.neighbours.set_kept(now, &tables.wanted_neighbours(), &mut self.neighbours_out);
        let random = &mut self.random;
        let carriers = (0..).zip(tables.tunnels()).filter(|(_, tunnel)| tunnel.has_keepalives());
        let tunnels = carriers.map(|(number, tunnel): (u32, _)| {
            let settings = self.setup.tunnels.get(number as usize).and_then(|setup| setup.keepalive);
            (number, tunnel.ends(), settings)
        });
        self.keepalives.set_tunnels(now, tunnels, || next_random(random));
        self.path_mtus.retain(|number, (ends, _)| is_still(tables, *number, *ends));
        for (number, (_, path)) in &mut self.path_mtus {
            if let Some(tunnel) = tables.tunnel(*number)
                && let Some(link) = tables.link_mtu(tunnel.remote)
                && path.set_link(link)
            {
                self.events.push(Event::PathMtu { tunnel: *number, mtu: path.get() });
            }
        }
        self.drain(tables, now);
    }

    /// Packets that have a way by tables that are new to the thread.
    fn release(&mut self, tables: &Tables) {
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

    /// Step 2.
    fn handle(
        &mut self,
        exception: Exception,
        frame: &mut [u8],
        worker: (usize, &Arc<Settled>),
        tables: &Tables,
        now: u64,
    ) {
        let Exception { cause, origin } = exception;
        match cause {
            // Counted where they were dropped.
            Cause::TtlExceeded => self.tell(frame, Error::TimeExceeded, origin, tables, now),
            Cause::NoRoute => self.tell(frame, Error::NoRoute, origin, tables, now),
            Cause::TooBig => self.too_big(frame, origin, tables, now),
            Cause::NoNeighbour => {
                let ticket = Ticket::new(worker.0, worker.1);
                self.no_neighbour(frame, origin, ticket, tables, now);
            }
            Cause::Fragment => self.fragment(frame, origin, Owner::Tunnel, now),
            Cause::Datagram => self.fragment(frame, origin, Owner::Host, now),
            Cause::Local => self.local(frame, origin, tables, now),
            Cause::IcmpError => self.icmp_error(frame, origin, tables, now),
            Cause::UnknownSpi => self.early(frame, origin, Ticket::new(worker.0, worker.1), tables, now),
            Cause::Keepalive => {
                let known = match origin {
                    Origin::Tunnel(tunnel) => {
                        self.keepalives.came_out(now, tunnel, frame, &mut self.keepalives_out)
                    }
                    Origin::Port(_) | Origin::Into(_) => false,
                };
                if !known {
                    self.drop(Reason::Nested);
                }
            }
            Cause::Returned => {
                let known = match (origin, Gre::parse(frame)) {
                    (Origin::Tunnel(tunnel), Ok(gre)) => {
                        self.keepalives.came_back(now, tunnel, gre.payload(), &mut self.keepalives_out)
                    }
                    _ => false,
                };
                if !known {
                    self.drop(Reason::GreUnknown);
                }
            }
        }
        self.drain(tables, now);
    }

    /// Step 3.
    fn timers(&mut self, tables: &Tables, now: u64) {
        if now.saturating_sub(self.used_at) >= USED_EVERY {
            self.used_at = now;
            let all: Vec<_> = self.neighbours.iter().map(|entry| (entry.port, entry.address)).collect();
            for (port, address) in all {
                self.neighbours.used(now, port, address, &mut self.neighbours_out);
            }
        }
        self.neighbours.tick(now, &mut self.neighbours_out);
        let random = &mut self.random;
        self.keepalives.tick(now, || next_random(random), &mut self.keepalives_out);
        self.reassembly.expire(Duration::from_nanos(now));
        self.count_reassembly();
        let mut unclaimed = Vec::new();
        self.datagrams.expire(Duration::from_nanos(now), &mut unclaimed);
        self.deliver(unclaimed, now);
        let expired = self.waiting.expire(now);
        for held in expired {
            self.unreachable(held, tables, now);
        }
        for early in self.early.expire(now) {
            drop(early);
            self.drop(Reason::EspUnknownSpi);
        }
        self.tell_room(tables);
        for (number, (_, path)) in &mut self.path_mtus {
            if path.expire(Duration::from_nanos(now)) {
                self.events.push(Event::PathMtu { tunnel: *number, mtu: path.get() });
            }
        }
        self.drain(tables, now);
        let lost: Vec<_> = self.neighbours_out.lost.drain(..).collect();
        for (why, held) in lost {
            match why {
                Lost::Unreachable => self.unreachable(held, tables, now),
                Lost::Overflow | Lost::NoWay => self.drop(why.reason()),
            }
        }
    }

    /// What the state machines ask for becomes frames and events.
    fn drain(&mut self, tables: &Tables, now: u64) {
        for (port, frame) in self.neighbours_out.frames.drain(..) {
            self.made.push(Made::first(Injected::Send(u32::from(port)), frame));
        }
        self.events.extend(self.neighbours_out.changes.drain(..).map(Event::Neighbour));
        let released: Vec<_> = self.neighbours_out.released.drain(..).collect();
        for (port, mac, held) in released {
            match held.bound {
                Bound::Station(_) => self.send(port, mac, &held.packet, Some(held.ticket)),
                Bound::Tunnel(number, _) => self.enter(number, held, tables, now),
            }
        }
        for (tunnel, packet) in self.keepalives_out.probes.drain(..) {
            self.made.push(Made::first(Injected::IntoTunnel(tunnel), packet));
        }
        for (tunnel, payload) in self.keepalives_out.answers.drain(..) {
            self.made.push(Made::first(Injected::Answer(tunnel), payload));
        }
        let changes = self.keepalives_out.changes.drain(..);
        self.events.extend(changes.map(|(tunnel, liveness)| Event::Liveness { tunnel, liveness }));
    }

    /// A packet for a tunnel whose next station is known. The tunnel's headers have its address only once the tables do.
    fn enter(&mut self, number: u32, held: Held, tables: &Tables, now: u64) {
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

    fn drop(&self, reason: Reason) {
        self.counters.count_drop(reason, 1);
    }

    /// An IP packet to a station on a link; `ticket`: one that has waited.
    fn send(&mut self, port: u16, dst: MacAddr, packet: &[u8], ticket: Option<Ticket>) {
        let Some(setup) = self.setup.ports.get(usize::from(port)) else {
            return self.drop(Reason::NoNeighbour);
        };
        let ethertype = match packet.first().map(|first| first >> 4) {
            Some(4) => ethernet::IPV4,
            _ => ethernet::IPV6,
        };
        let mut frame = vec![0; ethernet::HEADER_LEN];
        if let Some(header) = frame.first_chunk_mut() {
            EthernetHeader { dst, src: setup.mac, ethertype }.emit(header);
        }
        frame.extend_from_slice(packet);
        self.made.push(Made { injected: Injected::Send(u32::from(port)), bytes: frame, ticket });
    }

    /// Tells the port's link.
    fn announce(&mut self, Announcement { port, mac, address }: Announcement) {
        // The length of its subnet means nothing here.
        let frame = Station::new(mac, vec![(address, 0)]).announce(address);
        self.made.push(Made::first(Injected::Send(u32::from(port)), frame));
    }

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
    fn tell(&mut self, packet: &[u8], what: Error, origin: Origin, tables: &Tables, now: u64) {
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
    fn too_big(&mut self, packet: &[u8], origin: Origin, tables: &Tables, now: u64) {
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

    /// A packet whose next station is not known: it waits while that is asked for.
    fn no_neighbour(&mut self, packet: &[u8], origin: Origin, ticket: Ticket, tables: &Tables, now: u64) {
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
    fn early(&mut self, frame: &[u8], origin: Origin, ticket: Ticket, tables: &Tables, now: u64) {
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
    fn tell_room(&mut self, tables: &Tables) {
        for (local, remote) in self.early.have_room_again() {
            tables.set_room(local, remote, true);
        }
    }

    /// A packet that nobody on the link takes.
    fn unreachable(&mut self, held: Held, tables: &Tables, now: u64) {
        self.drop(Reason::NoNeighbour);
        if let Bound::Station(origin) = held.bound {
            self.tell(&held.packet, Error::HostUnreachable, origin, tables, now);
        }
    }

    /// A fragment of a packet to one of our addresses: the host's, unless it is a tunnel's. Of UDP, `owner` is known of the first
    /// one alone.
    fn fragment(&mut self, frame: &[u8], origin: Origin, owner: Owner, now: u64) {
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
    fn deliver(&mut self, sorted: Vec<Sorted>, now: u64) {
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
    fn count_reassembly(&mut self) {
        for (reason, before) in REASSEMBLY.into_iter().zip(&mut self.reassembly_dropped) {
            let dropped = self.reassembly.dropped(reason);
            self.counters.count_drop(reason, dropped.saturating_sub(*before));
            *before = dropped;
        }
    }

    /// A frame to us, or to all, on a port that no host stack stands behind.
    fn local(&mut self, frame: &[u8], origin: Origin, tables: &Tables, now: u64) {
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

    /// An ICMP error to a tunnel's end. About a packet of ours, it tells of that tunnel's path; otherwise it is the host's.
    fn icmp_error(&mut self, frame: &[u8], origin: Origin, tables: &Tables, now: u64) {
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

/// Where a packet leaves.
enum Out {
    Tunnel(u32),
    /// By that port, to that station.
    Station(u16, IpAddr),
}

/// The way of an IP packet to `dst`. What was to go into a tunnel takes that tunnel, whatever the route says.
fn way(packet: &[u8], dst: IpAddr, origin: Origin, tables: &Tables) -> Option<Out> {
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

/// Is that IP packet UDP, or a fragment of it?
fn is_udp(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ipv4::parse(packet).is_ok_and(|ip| ip.protocol() == protocol::UDP),
        _ => {
            Ipv6::parse(packet).is_ok_and(|ip| ip.upper().is_ok_and(|upper| upper.protocol == protocol::UDP))
        }
    }
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

/// Is tunnel `number` still the one between these ends?
fn is_still(tables: &Tables, number: u32, ends: keepalive::Ends) -> bool {
    tables.tunnel(number).is_some_and(|tunnel| tunnel.ends() == ends)
}

/// Is that address good on its own link alone?
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Source and destination of an IP packet.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
            let [.., a, b, c, d, e, f, g, h] = *header;
            Some(([a, b, c, d].into(), [e, f, g, h].into()))
        }
        6 => Ipv6::parse(packet).ok().map(|ip| (ip.src().into(), ip.dst().into())),
        _ => None,
    }
}

/// A xorshift generator, seeded with a secret: good enough for nonces that only those on the path could guess.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
