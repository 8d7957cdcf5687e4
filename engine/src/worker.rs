//! A worker: one thread's share of the ports, run to completion a batch at a time.
//!
//! 0. Where tables are new, nothing that follows may overtake what the exception thread has (see [`crate::exception::settled`]): what
//!    it gives back comes first.
//! 1. A receive queue is synchronised and up to a batch of frames lent out.
//! 2. Each frame is classified as its queue wants it: as received by a port, here or by another worker, from the host into a
//!    tunnel, as a frame that the exception thread made.
//! 3. The batch goes through the stages of `path`.
//! 4. Slots are given back, transmit queues synchronised.
//! 5. After all queues, what was put aside is done and sent on, and what others have put aside is done for them (see
//!    [`crate::fan_out`]).

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::counters::{Copying, WorkerCounters};
use crate::drops::Reason;
use crate::exception::settled::{self, Settled};
use crate::fan_out::FanOut;
use crate::path::inbound::Here;
use crate::path::transmit::Exits;
use crate::path::{Batch, Packet, Stages, inbound, inject, nested, outbound, receive, transmit};
use crate::ring::{RxQueue, RxRing, TxQueue};
use crate::tables::{PortEntry, Published, Tables};
use crate::tag::Origin;
use crate::trace::watch::{Eye, Open, Shut, Watch};
use crate::trace::{Source, Taps};
use crate::wire::ethernet::MacAddr;

/// How often a worker looks whether others are done with what they have of it, when somebody wants to trace: for some 100 µs.
const LOOKS: u32 = 10_000;

/// What stands behind a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The port of that number.
    Port(usize),
    /// The tunnels' host interfaces.
    Interfaces,
    /// The exception thread.
    Exceptions,
    /// Another worker.
    Peer,
    /// Another worker, which has no queue of the port of that number and sends by this one's.
    Borrower(usize),
}

/// A receive and a transmit queue that belong together.
pub type QueuePair = (RxQueue, TxQueue);

/// One worker with the ring pairs that it serves.
pub struct Worker {
    number: usize,
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    receive: Vec<(RxQueue, Role)>,
    /// The ports' queues in the order of their numbers, then those that `exits` tells.
    transmit: Vec<TxQueue>,
    exits: Exits,
    /// What the exception thread tells of packets that it was given.
    settled: Arc<Settled>,
    /// The number of the tables that packets are taken in with.
    settled_with: u64,
    /// Since when newer ones are there, and none is.
    unsettled: Option<Instant>,
    /// Receive queues that are not the worker's first of their port: their number here, and among those of the port.
    further: Vec<(usize, usize)>,
    /// Ports whose transmit queue leads to another worker, which has one: port and worker.
    borrowed: Vec<(usize, usize)>,
    fan_out: Option<FanOut>,
    counters: Arc<WorkerCounters>,
    taps: Arc<Taps>,
    watch: RefCell<Watch>,
}

impl Worker {
    /// Worker `number` (counted from 0) with one ring pair of each port, in the order of the tables' ports. `host` is the
    /// ring pair towards the host stack, for ports that have none of their own.
    pub fn new(number: usize, tables: &Published, ports: Vec<QueuePair>, host: Option<QueuePair>) -> Worker {
        let count = ports.len();
        let (mut receive, mut transmit) = (Vec::with_capacity(count + 3), Vec::with_capacity(count + 3));
        for (port, (rx, tx)) in ports.into_iter().chain(host).enumerate() {
            receive.push((rx, Role::Port(port)));
            transmit.push(tx);
        }
        let host = (transmit.len() > count).then_some(count);
        let exits = Exits { host, worker: number, ..Exits::default() };
        let counters =
            Arc::new(WorkerCounters::new(transmit.iter().map(|queue| Arc::clone(queue.ring.copies()))));
        for (rx, _) in &mut receive {
            rx.ring.count_copies_in(counters.copying(Copying::Headroom));
        }
        let taps = Taps::new(0);
        let watch = RefCell::new(Watch::new(&taps, number));
        Worker {
            number,
            tables: Cache::new(Arc::clone(tables)),
            receive,
            transmit,
            exits,
            settled: Arc::default(),
            settled_with: 0,
            unsettled: None,
            further: Vec::new(),
            borrowed: Vec::new(),
            fan_out: None,
            counters,
            taps,
            watch,
        }
    }

    /// The same worker, which those see who open taps there.
    pub fn with_taps(mut self, taps: &Arc<Taps>) -> Worker {
        self.taps = Arc::clone(taps);
        self.watch = RefCell::new(Watch::new(taps, self.number));
        self
    }

    /// One more pair of queues; what is copied on its way into the transmit queue is of that kind.
    fn add(&mut self, (mut rx, mut tx): QueuePair, role: Role, kind: Copying) {
        rx.ring.count_copies_in(self.counters.copying(Copying::Headroom));
        tx.ring.count_copies_in(self.counters.copying(kind));
        self.receive.push((rx, role));
        self.transmit.push(tx);
    }

    /// The same worker, which also serves the tunnels' host interfaces.
    pub fn with_interfaces(mut self, pair: QueuePair) -> Worker {
        self.exits.interfaces = Some(self.transmit.len());
        self.add(pair, Role::Interfaces, Copying::Interfaces);
        self
    }

    /// The same worker, with a way to the exception thread and back.
    pub fn with_exceptions(mut self, pair: QueuePair) -> Worker {
        self.exits.exceptions = Some(self.transmit.len());
        self.add(pair, Role::Exceptions, Copying::Exceptions);
        self
    }

    /// The same worker, with a ring pair to each other one, in the order of their numbers: what belongs to another is handed
    /// over to it. Together they are as many as the tables are told.
    pub fn with_peers(mut self, peers: Vec<QueuePair>) -> Worker {
        self.exits.peers = Some(self.transmit.len());
        for pair in peers {
            self.add(pair, Role::Peer, Copying::HandOver);
        }
        self
    }

    /// The same worker, whose queues of port `port` are a wire to worker `lender`: the port has fewer queues than there are
    /// workers. See [`Worker::with_borrower`] for the far end.
    pub fn with_borrowed(mut self, port: usize, lender: usize) -> Worker {
        self.borrowed.push((port, lender));
        self
    }

    /// The same worker, which sends by port `port` what comes from `rx`: complete frames of a worker that has no queue of the port.
    pub fn with_borrower(mut self, port: usize, mut rx: RxQueue) -> Worker {
        rx.ring.count_copies_in(self.counters.copying(Copying::Headroom));
        self.receive.push((rx, Role::Borrower(port)));
        self
    }

    /// The same worker, which shares the cipher's work with the others that have a part in the same fan-out.
    pub fn with_fan_out(mut self, part: FanOut) -> Worker {
        self.counters.count_fan_out(part.copies());
        self.fan_out = Some(part);
        self
    }

    /// The same worker, which also receives on another queue of port `port`. It sends by the one that it has of that port.
    pub fn with_queue(mut self, port: usize, mut rx: RxQueue) -> Worker {
        rx.ring.count_copies_in(self.counters.copying(Copying::Headroom));
        let before = self.receive.iter().filter(|(_, role)| *role == Role::Port(port)).count();
        self.further.push((self.receive.len(), before));
        self.receive.push((rx, Role::Port(port)));
        self
    }

    /// What the exception thread has to tell this worker.
    pub fn settled(&self) -> &Arc<Settled> {
        &self.settled
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// The receive queue of number `queue`: the ports' come first, in their order.
    pub fn receive_queue(&mut self, queue: usize) -> Option<&mut RxQueue> {
        self.receive.get_mut(queue).map(|(queue, _)| queue)
    }

    /// The transmit queue of port `port`; the host's follows the last port's.
    pub fn transmit_queue(&mut self, port: usize) -> Option<&mut TxQueue> {
        self.transmit.get_mut(port)
    }

    /// What a thread can wait on until there is something to do; queues that have nothing to wait on have to be looked at.
    pub fn wait_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.receive.iter().filter_map(|(queue, _)| queue.wait_fd())
    }

    /// Has the exception thread not taken all that it was given, or not seen new tables?
    #[inline]
    pub fn waits_for_exceptions(&self) -> bool {
        self.unsettled.is_some() || self.is_unread_by_exceptions()
    }

    fn is_unread_by_exceptions(&self) -> bool {
        self.exits.exceptions.and_then(|queue| self.transmit.get(queue)).is_some_and(TxQueue::is_unread)
    }

    /// Has the other worker with the wire number `peer` (its own number, or one less beyond this worker's) not taken all that it
    /// was handed, or is there something that it could help with?
    #[inline]
    pub fn waits_for_peer(&self, peer: usize) -> bool {
        let unread = |queue: usize| self.transmit.get(queue).is_some_and(TxQueue::is_unread);
        let worker = peer + usize::from(peer >= self.number);
        self.exits.peers.is_some_and(|first| unread(first + peer))
            || self.borrowed.iter().any(|(port, lender)| *lender == worker && unread(*port))
            || self.fan_out.as_ref().is_some_and(|fan_out| fan_out.waiting() > peer)
    }

    /// Is something with other threads that this one has to send on, or to send before all else? It comes back within
    /// microseconds, and wakes nobody.
    #[inline]
    pub fn waits_for_help(&self) -> bool {
        self.unsettled.is_some() || self.fan_out.as_ref().is_some_and(FanOut::is_waiting)
    }

    /// Does it take nothing in until the exception thread has seen new tables?
    pub fn is_settling(&self) -> bool {
        self.unsettled.is_some()
    }

    /// Is anything queued for sending that has not gone? Another round sends it, so a thread should not sleep for long then.
    pub fn is_sending(&self) -> bool {
        self.transmit.iter().any(TxQueue::pending)
    }

    /// Takes one batch from every receive queue, then does its part of what was put aside. Returns the number of frames that it
    /// received, and those that it sealed or opened for others.
    #[inline]
    pub fn round(&mut self) -> usize {
        let tables = self.tables.load().number();
        let before = if tables == self.settled_with { 0 } else { self.settle(tables) };
        if self.unsettled.is_some() {
            return before;
        }
        let turns = (0..self.receive.len()).map(|queue| self.take_in(queue, Some(tables)));
        let received = before + turns.sum::<usize>();
        // Others were published meanwhile, and come first: the rest is the next round's, which is soon.
        if self.tables.load().number() != tables {
            self.unsettled = Some(Instant::now());
        }
        if received == 0 {
            // What waits for room goes as soon as there is some.
            self.transmit.iter_mut().for_each(TxQueue::sync);
        }
        if self.fan_out.is_some() { received + self.share(received == 0) } else { received }
    }

    /// Step 0, with the tables of that number. Returns the number of frames that were sent before all others.
    #[cold]
    #[inline(never)]
    fn settle(&mut self, tables: u64) -> usize {
        let queue = self.receive.iter().position(|(_, role)| *role == Role::Exceptions);
        // What others seal or open was looked up in older tables, and is not to be overtaken on its way to the thread.
        let mut count = if self.fan_out.is_some() { self.share(true) } else { 0 };
        let aside = self.fan_out.as_ref().is_some_and(FanOut::is_waiting);
        let settled = !aside && self.settled.is_settled(tables, || self.is_unread_by_exceptions());
        // Looked at after that was asked.
        if let Some(queue) = queue {
            while let more @ 1.. = self.turn(queue) {
                count += more;
            }
        }
        if settled || self.unsettled.get_or_insert_with(Instant::now).elapsed() > settled::LONGEST {
            (self.settled_with, self.unsettled) = (tables, None);
        }
        count
    }

    /// Step 5. Returns the number of packets that were sealed or opened for others. `idle`: nothing new has come in.
    #[inline(never)]
    fn share(&mut self, idle: bool) -> usize {
        let Worker { number, transmit, exits, fan_out, counters, taps, .. } = self;
        let Some(fan_out) = fan_out else { return 0 };
        let here = Here { worker: *number, exceptions: exits.exceptions.is_some(), eye: Shut };
        let mut deliver = |fan_out: &mut FanOut| {
            while fan_out.deliver(here, |batch, tables| {
                transmit::transmit(batch, transmit, exits, MacAddr::default(), tables, counters);
            }) {
                for queue in transmit.iter_mut() {
                    queue.sync();
                }
            }
        };
        if fan_out.is_waiting() {
            deliver(fan_out);
            // Who traces sees nothing until the queue is empty.
            let (live, mut worked) = (taps.is_live(), false);
            while fan_out.has_work(live || idle && !worked) && fan_out.work() {
                worked = true;
                deliver(fan_out);
            }
            let mut patience = if live { LOOKS } else { 0 };
            while patience > 0 && fan_out.is_waiting() {
                std::hint::spin_loop();
                deliver(fan_out);
                patience -= 1;
            }
            fan_out.watch(counters);
        }
        if fan_out.note_load() { fan_out.help() } else { 0 }
    }

    /// Takes one batch from receive queue `queue` all the way. Returns the number of frames.
    #[inline]
    pub fn turn(&mut self, queue: usize) -> usize {
        self.take_in(queue, None)
    }

    /// The same, or nothing where the tables have another number than `settled`, if that is given.
    #[inline]
    fn take_in(&mut self, queue: usize, settled: Option<u64>) -> usize {
        let Worker {
            number, tables, receive, transmit, exits, further, fan_out, counters, taps, watch, ..
        } = self;
        let nth = queue;
        let Some((queue, role)) = receive.get_mut(queue) else { return 0 };
        queue.sync();
        if let Role::Borrower(port) = *role {
            let lent = transmit.get_mut(port).map_or(0, |to| lend(queue, to, counters));
            if lent > 0 {
                transmit.iter_mut().for_each(TxQueue::sync);
            }
            return lent;
        }
        let snapshot = tables.load();
        let tables: &Tables = snapshot;
        if settled.is_some_and(|settled| settled != tables.number()) {
            return 0;
        }

        let mut broken = 0;
        let mut batch: Batch<'_> = Batch::new();
        let slots = take(&mut queue.ring, &mut batch, &mut broken);
        if broken > 0 {
            counters.count_drop(Reason::SlotBroken, broken);
        }
        let received = batch.len();
        if received > 0 {
            let received_by = match role {
                Role::Port(port) => tables.ports.get(*port).map(|port| port.mac),
                Role::Interfaces | Role::Exceptions | Role::Peer | Role::Borrower(_) => None,
            };
            let mut way_out = WayOut {
                queues: transmit,
                exits,
                received_by: received_by.unwrap_or_default(),
                tables,
                counters,
            };
            let live = taps.is_live();
            // The ways of packets are watched here alone, once nothing is elsewhere that they could overtake.
            if live && !fan_out.as_ref().is_some_and(FanOut::is_waiting) {
                let of_port =
                    further.iter().find(|(queue, _)| *queue == nth).map_or(0, |(_, of_port)| *of_port);
                watched(&mut batch, (*role, of_port), *number, &mut way_out, watch);
            } else {
                let stages = classify(&mut batch, *role, tables, counters, *number);
                let here = Here { worker: *number, exceptions: exits.exceptions.is_some(), eye: Shut };
                if let Some(fan_out) = fan_out
                    && fan_out.takes(&batch, live)
                {
                    fan_out.process(&mut batch, stages, snapshot, here);
                } else {
                    process(&mut batch, stages, tables, here);
                }
                let WayOut { queues, exits, received_by, tables, counters } = way_out;
                transmit::transmit(&mut batch, queues, exits, received_by, tables, counters);
            }
        }
        drop(batch);
        queue.ring.release(slots);
        if received > 0 {
            transmit.iter_mut().for_each(TxQueue::sync);
        }
        received
    }
}

/// Step 1: frames into a batch that is empty. Returns the number of their slots.
#[inline(never)]
fn take<'a>(ring: &'a mut RxRing, batch: &mut Batch<'a>, broken: &mut u64) -> u32 {
    ring.take(broken, |frame| batch.push(Packet::new(frame)))
}

/// Sends a borrower's frames, as many as there is room for. The others wait: the borrower has counted them all as sent, and
/// drops what finds no room on the wire.
#[inline(never)]
fn lend(from: &mut RxQueue, to: &mut TxQueue, counters: &WorkerCounters) -> usize {
    let (mut broken, mut frames, mut slots, mut full) = (0, 0, 0, false);
    let all = from.ring.take(&mut broken, |mut frame| {
        let taken = frame.slots();
        full |= taken > to.ring.space();
        if !full {
            if to.ring.push(&mut frame).is_err() {
                counters.count_drop(Reason::TooBig, 1);
            }
            frames += 1;
            slots += taken;
        }
    });
    if broken > 0 {
        counters.count_drop(Reason::SlotBroken, broken);
        slots = all;
    }
    from.ring.release(slots);
    frames
}

/// What packets leave by.
struct WayOut<'a> {
    queues: &'a mut [TxQueue],
    exits: &'a Exits,
    /// The address of the port that the batch came by, if it did.
    received_by: MacAddr,
    tables: &'a Tables,
    counters: &'a WorkerCounters,
}

/// Steps 2 and 3 while somebody looks on.
#[cold]
#[inline(never)]
fn watched(
    batch: &mut Batch<'_>,
    (role, queue): (Role, usize),
    worker: usize,
    way_out: &mut WayOut<'_>,
    watch: &mut RefCell<Watch>,
) {
    let WayOut { queues, exits, received_by, tables, counters } = way_out;
    let from = match role {
        Role::Port(port) => Source::Port { port: port as u32, queue: queue as u32 },
        Role::Interfaces => Source::Interface(0),
        Role::Exceptions => Source::Exceptions,
        Role::Peer | Role::Borrower(_) => Source::Worker(None),
    };
    watch.get_mut().begin(batch, from);
    let mut stages = classify(batch, role, tables, counters, worker);
    watch.get_mut().classified(batch, tables);
    let here = Here { worker, exceptions: exits.exceptions.is_some(), eye: Open::new(watch, batch) };
    open(batch, &mut stages, tables, here);
    watch.get_mut().opened(batch, tables);
    let eye = Open::new(watch, batch);
    if stages.outbound() {
        outbound::encapsulate(batch, tables, worker, false, eye);
    }
    let watch = watch.get_mut();
    watch.sealed(batch, tables);
    for (place, packet) in batch.iter_mut().enumerate() {
        transmit::complete(packet, tables);
        watch.leaves(place, packet);
        let sent = transmit::transmit_one(packet, queues, exits, *received_by, tables, counters);
        watch.left(place, packet, sent);
    }
    watch.end(batch.len());
}

/// Step 2. A function of its own, as the other steps of a batch are, so that each has the registers to itself.
#[inline(never)]
fn classify(
    batch: &mut Batch<'_>,
    role: Role,
    tables: &Tables,
    counters: &WorkerCounters,
    worker: usize,
) -> Stages {
    let mut stages = Stages::default();
    match role {
        Role::Port(port) => {
            let Some(entry) = tables.ports.get(port) else { return stages };
            if tables.is_spread() {
                receive::look_ahead(batch, tables);
            }
            let origin = Origin::Port(port as u32).encode();
            receive_all(batch, entry, origin, tables, worker, &mut stages);
            if let Some(counters) = counters.port(port) {
                counters.rx.add(batch.len() as u64);
            }
        }
        Role::Interfaces => {
            for packet in batch.iter_mut() {
                inject::from_host(packet, tables);
                stages.note(packet.next);
            }
        }
        Role::Exceptions | Role::Peer | Role::Borrower(_) => {
            if role == Role::Exceptions {
                batch.iter().for_each(|packet| counters.copying(Copying::Exceptions).add(packet.frame.len()));
            }
            for packet in batch.iter_mut() {
                inject::injected(packet, tables, worker);
                stages.note(packet.next);
            }
        }
    }
    stages
}

/// The same of what came by a port, apart from the rarer roles for the same reason.
#[inline(never)]
fn receive_all(
    batch: &mut Batch<'_>,
    entry: &PortEntry,
    origin: u32,
    tables: &Tables,
    worker: usize,
    stages: &mut Stages,
) {
    for packet in batch.iter_mut() {
        packet.origin = origin;
        receive::receive(packet, entry, tables, worker, stages);
    }
}

/// Out of tunnels, and of those that lie in them.
#[inline]
fn open<E: Eye>(batch: &mut Batch<'_>, stages: &mut Stages, tables: &Tables, here: Here<E>) {
    if stages.inbound() {
        inbound::open(batch, stages, tables, here);
    }
    open_carried(batch, stages, tables, here);
}

/// Out of tunnels that lie in those that packets came out of.
#[inline]
pub(crate) fn open_carried<E: Eye>(
    batch: &mut Batch<'_>,
    stages: &mut Stages,
    tables: &Tables,
    here: Here<E>,
) {
    for _ in 1..tables.depth() {
        let mut more = Stages::default();
        nested::receive(batch, &mut more, tables, here.worker);
        if more.inbound() {
            inbound::open(batch, &mut more, tables, here);
        }
        stages.join_outbound(more);
    }
}

/// Step 3.
#[inline]
fn process(batch: &mut Batch<'_>, mut stages: Stages, tables: &Tables, here: Here<Shut>) {
    open(batch, &mut stages, tables, here);
    if stages.outbound() {
        outbound::encapsulate(batch, tables, here.worker, false, Shut);
    }
}
