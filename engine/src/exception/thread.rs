//! The exception thread: takes what workers give away, and makes what has to be made.
//!
//! 1. What the control plane says of ports and tunnels ([`Setup`]) is taken over; addresses are announced where it wants that.
//! 2. Each worker's ring is emptied; every frame is dealt with by its [`Cause`].
//! 3. Timers run: neighbours asked, keepalives sent, what waited too long dropped.
//! 4. What was made goes to a worker, each frame with a tag that says what is to be done with it: what waited, to the one that
//!    had given it away, so that its flow stays in order (see [`super::settled`]); all else to the first.
//!
//! Packets that wait stand in `held`, ICMP errors in `errors`, what comes to our own addresses in `to_us`; what the control plane
//! says and hears, in `orders`.
//!
//! It may allocate, within the bounds of its parts, and it never blocks. What does not fit into the ring is dropped and
//! counted as `tx-full`.

mod errors;
mod held;
mod orders;
mod to_us;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use crossbeam::channel::{Receiver, Sender};

use self::held::{Ahead, Bound, Held};
use super::datagrams::{Datagrams, Owner};
use super::early::Early;
use super::fragment::Ids;
use super::icmp::Error;
use super::keepalive::{self, Keepalives};
use super::limit::{RateLimit, Rates};
use super::neighbour::{self, Lost, Neighbours, Station};
use super::pmtu::PathMtu;
use super::reassembly::{self, Reassembly};
use super::settled::{Settled, Ticket};
use super::waiting::Waiting;
use crate::counters::WorkerCounters;
use crate::drops::Reason;
use crate::ring::{RxQueue, TxQueue};
use crate::tables::{Published, Tables};
use crate::tag::{Cause, Exception, Injected, Origin};
use crate::wire::ethernet::{self, EthernetHeader, MacAddr};
use crate::wire::{Gre, Ipv6, ipv4};
use crate::worker::QueuePair;

pub use self::orders::{Announcement, Event, Order, PortSetup, Setup, TunnelSetup};

/// A frame for a worker.
struct Made {
    injected: Injected,
    bytes: Vec<u8>,
    /// The worker that waits for it; without one it is the first's.
    ticket: Option<Ticket>,
}

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
    early: Early<Ahead>,
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
            Cause::UnknownSpi => {
                self.unknown_spi(frame, origin, Ticket::new(worker.0, worker.1), tables, now);
            }
            Cause::Backup => self.backup(frame, origin, Ticket::new(worker.0, worker.1), tables, now),
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
        self.expire(tables, now);
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
