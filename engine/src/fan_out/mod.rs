//! Fan-out: one tunnel on several cores. What costs most, the cipher, is done by whichever worker has time; everything else,
//! numbers, windows, counters, the order of packets, stays with the worker that received them.
//!
//! A peer with one SA sends all its packets between two addresses, so a network card puts them into one receive queue, and one
//! worker gets them all. So does a port that has but one queue. That worker, the *owner*:
//!
//! 1. does what it always does, up to the cipher: on the way in the window has not seen the number, on the way out headers,
//!    sequence number and padding are in place;
//! 2. puts such packets aside, in the order in which they came, into a queue of blocks of up to [`BLOCK`]: a few dozen consecutive
//!    packets, so a block of consecutive sequence numbers. Any worker, the owner too, claims the oldest block that waits and
//!    seals or opens its packets where they lie ([`crate::ring::in_order`]);
//! 3. takes the blocks back in the order in which they went in. Only now does a window or a GRE sequence number move on, in the
//!    packets' order, exactly as with one worker: a replay, a forged packet or a second copy is found here, and changes nothing.
//!    Packets go on from here: to a station, to the host, into another tunnel (through the queue once more, as long as there
//!    is anything in it).
//!
//! **When.** While packets come so slowly that one worker keeps up, it does all by itself, and nobody is woken. Packets are put
//! aside from the moment on that a receive queue gives a whole batch (it is backlogged) and another worker has found no backlog
//! of its own in its last round; and until the queue has run empty, since what follows must not overtake. Whether that is faster
//! than to work alone depends on the machine and on the packets; so both are tried from time to time, and the faster is kept
//! ([`gauge`]). No setting is needed: workers that are all busy keep to themselves. Packets that need no cipher are never put aside: handing one over costs what
//! its whole way does (20 of 31 ns).
//!
//! **Why not by flow.** Spreading by a hash of inner flows, the other way, gives one heavy flow to one core, lets workers that
//! share an SA send its numbers out of order, and cannot be had on the way in. Here one flow is spread as well as many, numbers
//! leave in their order, and both directions are one mechanism. Flows are still spread by receive queue, where a port has one
//! for each worker.
//!
//! **What may go wrong.**
//! - The queue is full: the packet is dropped and counted (`handover-full`). Nobody waits.
//! - A worker claims nothing, asleep or busy: the owner does the blocks itself; it leaves no more than [`LEFT`] for each willing
//!   one, and none once nothing new comes in.
//! - A worker is stopped in the middle of a block, by the system or for good: the block keeps back those behind it for
//!   [`PATIENCE`]; then it is passed over, its packets counted (`handover-late`). Until the worker is done with it after all,
//!   the queue ends there, and packets go the common way.
//! - Somebody traces or captures: nothing is put aside until he is done, since the whole way of a packet is to be seen.
//! - Tables are published meanwhile: a block keeps the snapshot that its packets were looked up in, on all its way. As with a
//!   batch, what is in flight is finished as it was begun, and none is lost for a change of SAs.
//! - Extended sequence numbers: the high half is inferred from the window as it stands when the packet is put aside. That differs
//!   from what one worker would infer only if the packets in the queue move the window past numbers on whose far side, 2^32
//!   later, the packet lies; such a packet is not authentic with the half that was taken, and dropped.
//!
//! An SA's window still belongs to one worker. Packets of it that another receives are handed over to that one first, as they are
//! without fan-out, so the order is that of their arrival there.

mod gauge;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;

use self::gauge::Gauge;

use crate::counters::{Copies, WorkerCounters};
use crate::drops::Reason;
use crate::esp::open::{self, Candidate};
use crate::esp::{ICV_LEN, cipher};
use crate::path::inbound::{CIPHERTEXT_AT, Here};
use crate::path::{Batch, Next, Packet, Stages, inbound, nested, outbound};
use crate::ring::{
    BATCH, BLOCK, Claimed, Entrance, Exit, Frame, Helper, IN_ORDER_BUFFERS, InOrder, Region, RegionError,
    in_order,
};
use crate::tables::Tables;
use crate::trace::watch::Shut;
use crate::tunnel::Tunnel;
use crate::wire::Esp;
use crate::wire::ethernet::MacAddr;
use crate::worker::open_carried;

/// Buffers that [`fan_out`] claims for each worker.
pub const FAN_OUT_BUFFERS: u32 = IN_ORDER_BUFFERS;

/// Blocks that an owner leaves waiting for each worker that is willing: one in work and one behind it, so that a helper never runs
/// dry, and no packet waits for long.
const LEFT: usize = 2;
/// How long a block may keep back others. With any cipher it takes less than 100 µs; a worker that the system has stopped comes
/// back after some milliseconds, after 50 where Linux throttles real-time threads.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that are asked for ahead of the cipher, at least, since they come from another core's caches: what it takes about 200 ns for.
const AHEAD: usize = 1024;

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy)]
struct Task {
    /// [`Next::ToOpen`] or [`Next::ToSeal`].
    next: Next,
    /// The sequence number, whole.
    sequence: u64,
}

impl Default for Task {
    fn default() -> Task {
        Task { next: Next::Aside, sequence: 0 }
    }
}

/// What the owner wants to know of a packet when it is back.
#[derive(Debug, Clone, Copy, Default)]
struct Note {
    origin: u32,
    source: MacAddr,
    tos: u8,
}

type Snapshot = Arc<Tables>;
type Queue = InOrder<Snapshot, Task, Note>;
type In = Entrance<Snapshot, Task, Note>;
type Out = Exit<Snapshot, Task, Note>;
type Hand = Helper<Snapshot, Task, Note>;
/// For each worker: has it time for others?
type Willing = Arc<[CachePadded<AtomicBool>]>;

/// One worker's part in the fan-out: the queue of what it put aside, and what it helps itself and the others with.
pub struct FanOut {
    entrance: In,
    exit: Out,
    own: Hand,
    /// The others' queues, with the number of each.
    others: Vec<(usize, Hand)>,
    willing: Willing,
    /// The worker's number.
    worker: usize,
    gauge: Gauge,
    /// Has a receive queue given a whole batch since [`FanOut::note_load`]?
    backlogged: bool,
    /// Since when the oldest block keeps others back.
    held_up: Option<Instant>,
}

/// The parts of `workers` workers, in the order of their numbers, with [`FAN_OUT_BUFFERS`] buffers of `region` for each.
///
/// # Errors
/// [`RegionError::Exhausted`] when the region has too few left.
pub fn fan_out(region: &Arc<Region>, workers: usize) -> Result<Vec<FanOut>, RegionError> {
    // Nobody is willing before he has said so.
    let willing: Willing = (0..workers).map(|_| CachePadded::new(AtomicBool::new(false))).collect();
    let mut parts = Vec::with_capacity(workers);
    let mut helpers: Vec<Vec<(usize, Hand)>> = (0..workers).map(|_| Vec::new()).collect();
    for owner in 0..workers {
        let queue: Queue = in_order(region, workers)?;
        parts.push((queue.entrance, queue.exit));
        for (worker, helper) in queue.helpers.into_iter().enumerate() {
            if let Some(helpers) = helpers.get_mut(worker) {
                helpers.push((owner, helper));
            }
        }
    }
    let parts = parts.into_iter().zip(helpers).enumerate().map(|(worker, ((entrance, exit), mut others))| {
        let (_, own) = others.swap_remove(worker);
        let willing = Arc::clone(&willing);
        let (gauge, backlogged, held_up) = (Gauge::new(), false, None);
        FanOut { entrance, exit, own, others, willing, worker, gauge, backlogged, held_up }
    });
    Ok(parts.collect())
}

impl FanOut {
    /// Is what of a batch that was received needs the cipher to be put aside? `watched`: not if that is the first.
    #[inline]
    pub(crate) fn takes(&mut self, packets: &Batch<'_>, watched: bool) -> bool {
        let several = !self.others.is_empty();
        let begins = several && packets.len() == BATCH && self.begins(packets) && !watched;
        begins || !self.exit.is_empty()
    }

    /// Is it worth while to begin with a whole batch?
    #[inline(never)]
    fn begins(&mut self, packets: &Batch<'_>) -> bool {
        let count = |of: fn(Next) -> bool| packets.iter().filter(|packet| of(packet.next)).count();
        // Whoever only hands over has time left.
        self.backlogged |= count(|next| matches!(next, Next::HandOver(_))) < BATCH / 2;
        let costly = count(|next| matches!(next, Next::Open(_) | Next::Tunnel(_)));
        if costly == 0 || self.count_willing() == 0 || !self.entrance.has_room() {
            self.gauge.interrupt();
            return false;
        }
        self.gauge.next(BATCH, self.exit.len() * BLOCK, Instant::now())
    }

    /// What is copied on its way into the queue, and moved for headroom when it has come out: the owner's.
    pub(crate) fn copies(&self) -> [Arc<Copies>; 2] {
        self.entrance.copies()
    }

    fn count_willing(&self) -> usize {
        let others = self.others.iter().filter_map(|(number, _)| self.willing.get(*number));
        others.filter(|willing| willing.load(Ordering::Relaxed)).count()
    }

    /// Steps 1 and 2 for a batch.
    #[inline(never)]
    pub(crate) fn process(
        &mut self,
        packets: &mut Batch<'_>,
        mut stages: Stages,
        tables: &Snapshot,
        here: Here<Shut>,
    ) {
        if stages.inbound() {
            inbound::look_up(packets, tables);
            inbound::open(packets, &mut stages, tables, here);
            open_carried(packets, &mut stages, tables, here);
        }
        if stages.outbound() {
            outbound::encapsulate(packets, tables, here.worker, true, Shut);
        }
        put_aside(&mut self.entrance, packets, tables);
    }

    /// Tells the others whether the worker had a backlog since it was asked last. True where it had none.
    #[inline]
    pub(crate) fn note_load(&mut self) -> bool {
        let willing = !std::mem::take(&mut self.backlogged);
        if willing {
            self.gauge.interrupt();
        }
        if let Some(told) = self.willing.get(self.worker)
            && told.load(Ordering::Relaxed) != willing
        {
            told.store(willing, Ordering::Relaxed);
        }
        willing
    }

    /// Is it for the owner to do a block itself? `idle`: nothing new has come in.
    #[inline]
    pub(crate) fn has_work(&self, idle: bool) -> bool {
        let waiting = self.exit.waiting();
        waiting > 0 && (idle || !self.gauge.shares() || waiting > LEFT * self.count_willing())
    }

    /// Does the oldest block that waits. False where none does.
    #[inline]
    pub(crate) fn work(&mut self) -> bool {
        self.own.claim().is_some_and(|block| work(block, self.worker) > 0)
    }

    /// Does one block of each other worker's that has one waiting. Returns the number of packets.
    #[inline]
    pub(crate) fn help(&mut self) -> usize {
        let helped =
            |(owner, helper): &mut (usize, Hand)| helper.claim().map_or(0, |block| work(block, *owner));
        self.others.iter_mut().map(helped).sum()
    }

    /// Step 3 for the oldest block, if it is finished: its packets are given to `send`, with the tables that they were looked up
    /// in. False where there is none.
    #[inline]
    pub(crate) fn deliver(&mut self, here: Here<Shut>, send: impl FnOnce(&mut Batch<'_>, &Tables)) -> bool {
        let FanOut { entrance, exit, .. } = self;
        let is_last = exit.len() <= 1;
        let mut batch: Batch<'_> = Batch::new();
        let taken = exit.take(|frame, task, note, well| batch.push(returned(frame, task, note, well)));
        let Some(tables) = taken else { return false };
        let mut stages = Stages::default();
        for packet in &mut batch {
            if let Next::ToSeal(index) = packet.next {
                packet.next = sent(tables.tunnel(index));
                nested::unlink(packet);
                stages.note(packet.next);
            }
        }
        inbound::finish(&mut batch, &mut stages, tables, here);
        open_carried(&mut batch, &mut stages, tables, here);
        if stages.outbound() {
            outbound::encapsulate(&mut batch, tables, here.worker, !is_last, Shut);
            if !is_last {
                put_aside(entrance, &mut batch, tables);
            }
        }
        send(&mut batch, tables);
        drop(batch);
        exit.release();
        true
    }

    /// Passes the oldest block over if it has kept others back for too long.
    pub(crate) fn watch(&mut self, counters: &WorkerCounters) {
        if !self.exit.is_held_up() {
            self.held_up = None;
        } else if self.held_up.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            counters.count_drop(Reason::HandoverLate, u64::from(self.exit.pass_over()));
            self.held_up = None;
        }
    }

    /// Is anything put aside that has not come back?
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        !self.exit.is_empty()
    }

    /// Blocks that wait to be claimed.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.exit.waiting()
    }
}

#[inline(never)]
fn put_aside(entrance: &mut In, packets: &mut Batch<'_>, tables: &Snapshot) {
    for packet in packets.iter_mut() {
        if !matches!(packet.next, Next::ToOpen(_) | Next::ToSeal(_)) {
            continue;
        }
        let task = Task { next: packet.next, sequence: packet.sequence };
        let note = Note { origin: packet.origin, source: packet.source, tos: packet.tos };
        packet.next = match entrance.push(&mut packet.frame, task, note, tables) {
            Ok(()) => Next::Aside,
            Err(_) => Next::Drop(Reason::HandoverFull),
        };
    }
    entrance.publish();
}

/// A packet that is back: opened, or [`Next::ToSeal`] where that has been done, or to be dropped.
#[inline]
fn returned(frame: Frame<'_>, task: Task, note: Note, well: bool) -> Packet<'_> {
    let mut packet = Packet::new(frame);
    (packet.origin, packet.source, packet.tos) = (note.origin, note.source, note.tos);
    packet.sequence = task.sequence;
    packet.next = match task.next {
        Next::ToOpen(index) if well => {
            packet.frame.pull(CIPHERTEXT_AT);
            packet.frame.prefetch_ends();
            packet.frame.cut(ICV_LEN);
            Next::Opened(index)
        }
        Next::ToOpen(_) => Next::Drop(Reason::EspAuth),
        next if well => next,
        _ => Next::Drop(Reason::NoSa),
    };
    packet
}

/// Where a packet goes that has been sealed: out of a port, or into the tunnel that its own lies in.
#[inline]
fn sent(tunnel: Option<&Tunnel>) -> Next {
    let Some(tunnel) = tunnel else { return Next::Drop(Reason::NoRoute) };
    match tunnel.way_out {
        Ok(port) => tunnel.carrier.map_or(Next::Send(u32::from(port)), Next::Tunnel),
        Err(reason) => Next::Drop(reason),
    }
}

/// Seals and opens the packets of a block of worker `owner`'s. Returns how many there were.
fn work(mut block: Claimed<'_, Snapshot, Task, Note>, owner: usize) -> usize {
    let mut packets: ArrayVec<(Frame<'_>, &Task), BLOCK> = ArrayVec::new();
    let Some(tables) = block.lend(|frame, task| packets.push((frame, task))) else { return 0 };
    let (count, mut well) = (packets.len(), 0);
    let mut rest = packets.as_mut_slice();
    // Packets from here on that were asked for, and their bytes.
    let (mut asked, mut coming) = (0, 0);
    for nth in 0.. {
        while coming < AHEAD
            && let Some((next, _)) = rest.get(asked)
        {
            next.prefetch_all();
            coming += next.len();
            asked += 1;
        }
        let Some(((frame, task), following)) = rest.split_first_mut() else { break };
        asked -= 1;
        coming -= frame.len();
        well |= u32::from(work_on(frame, task, tables, owner)) << nth;
        rest = following;
    }
    drop(packets);
    block.went_well(well);
    count
}

/// Seals or opens one packet. False where that fails: what the frame holds is worthless then.
#[inline]
fn work_on(frame: &mut Frame<'_>, task: &Task, tables: &Tables, owner: usize) -> bool {
    match task.next {
        Next::ToOpen(index) => open_one(frame, task.sequence, index, tables),
        Next::ToSeal(index) => seal_one(frame, task.sequence, index, tables, owner),
        _ => None,
    }
    .is_some()
}

fn open_one(frame: &mut Frame<'_>, sequence: u64, index: u32, tables: &Tables) -> Option<()> {
    let inbound = tables.inbound(index)?;
    let iv = *Esp::parse(frame.bytes()).ok()?.iv();
    frame.pull(CIPHERTEXT_AT);
    let mut job = open::job(frame.bytes_mut(), 0, &inbound.sa, &Candidate { sequence, iv });
    cipher::open(std::slice::from_mut(&mut job));
    job.authentic.then_some(())
}

fn seal_one(frame: &mut Frame<'_>, sequence: u64, index: u32, tables: &Tables, owner: usize) -> Option<()> {
    let tunnel = tables.tunnel(index)?;
    let mut job = outbound::job(frame, tunnel, tunnel.outbound_of(owner)?, sequence)?;
    cipher::seal(std::slice::from_mut(&mut job));
    if tunnel.is_summed() { outbound::sum_datagram(frame.bytes_mut()) } else { Some(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Copying;
    use crate::ring::{RINGS_PER_QUEUE, SPARE_PER_QUEUE, wire};
    use crate::tables::TablesSpec;

    /// A worker that is stopped in the middle of a block keeps the others back for a while, and not for ever; what it had is
    /// counted, and its place is used again when it has come back.
    #[test]
    fn a_worker_that_does_not_come_back_is_not_waited_for() {
        let spare = SPARE_PER_QUEUE + 2 * FAN_OUT_BUFFERS;
        let region = Region::new(RINGS_PER_QUEUE, 64, 2048, spare, false).expect("a region");
        let (mut near, mut far) = wire(&region, 1, true).expect("a wire");
        let mut parts = fan_out(&region, 2).expect("buffers");
        let [owner, other] = parts.as_mut_slice() else { panic!("two parts") };
        let tables: Snapshot = Arc::new(Tables::build(TablesSpec::default()).expect("tables"));
        let counters = WorkerCounters::new([]);
        let here = Here { worker: 0, exceptions: false, eye: Shut };

        let ((_, tx), (rx, _)) = (&mut near.queues[0], &mut far.queues[0]);
        let mut put_in = |owner: &mut FanOut, count: usize| {
            (0..count).for_each(|_| tx.ring.push_bytes(&[0; 60]).expect("room"));
            tx.sync();
            rx.sync();
            let slots = rx.ring.take(&mut 0, |mut frame| {
                let task = Task { next: Next::ToOpen(0), sequence: 1 };
                owner.entrance.push(&mut frame, task, Note::default(), &tables).expect("room");
            });
            rx.ring.release(slots);
            owner.entrance.publish();
        };
        put_in(owner, 3);
        put_in(owner, 2);
        let (_, helper) = &mut other.others[0];
        let held = helper.claim().expect("a block");
        assert!(owner.has_work(true) && owner.work() && !owner.work());
        let deliver = |owner: &mut FanOut| {
            let mut seen = Vec::new();
            owner.deliver(here, |batch, _| seen.extend(batch.iter().map(|packet| packet.next)));
            seen
        };
        owner.watch(&counters);
        assert_eq!((deliver(owner), owner.is_waiting()), (vec![], true));
        std::thread::sleep(PATIENCE / 2);
        owner.watch(&counters);
        assert_eq!(counters.dropped(Reason::HandoverLate), 0);
        std::thread::sleep(PATIENCE);
        owner.watch(&counters);
        assert_eq!(counters.dropped(Reason::HandoverLate), 3);
        // No tables know the SA.
        assert_eq!((deliver(owner), owner.is_waiting()), (vec![Next::Drop(Reason::EspAuth); 2], false));
        // All places but that of the lost block, and then that one too.
        for _ in 2..FAN_OUT_BUFFERS as usize / BLOCK {
            put_in(owner, 1);
            assert!(owner.work());
            assert_eq!(deliver(owner).len(), 1);
        }
        assert!(!owner.entrance.has_room());
        drop(held);
        for _ in 0..2 * FAN_OUT_BUFFERS as usize / BLOCK {
            put_in(owner, 1);
            assert!(owner.work());
            assert_eq!(deliver(owner).len(), 1);
        }
    }

    /// From a ring without buffers in common frames are copied into the queue; both that and what moves there later is counted.
    #[test]
    fn copies_are_counted() {
        let own = Region::new(0, 64, 2048, 2 * FAN_OUT_BUFFERS, false).expect("a region");
        let parts = fan_out(&own, 2).expect("buffers");
        let Some(mut owner) = parts.into_iter().next() else { panic!("two parts") };
        let region = Region::new(RINGS_PER_QUEUE, 64, 2048, SPARE_PER_QUEUE, false).expect("a region");
        let (mut near, mut far) = wire(&region, 1, true).expect("a wire");
        let ((_, tx), (rx, _)) = (&mut near.queues[0], &mut far.queues[0]);
        let tables: Snapshot = Arc::new(Tables::build(TablesSpec::default()).expect("tables"));
        let counters = WorkerCounters::new([]);
        counters.count_fan_out(owner.copies());
        tx.ring.push_bytes(&[7; 60]).expect("room");
        tx.sync();
        rx.sync();
        let task = Task { next: Next::ToSeal(0), sequence: 1 };
        rx.ring.take(&mut 0, |mut frame| {
            owner.entrance.push(&mut frame, task, Note::default(), &tables).expect("room");
        });
        owner.entrance.publish();
        assert_eq!((counters.copied(Copying::FanOut), counters.copied(Copying::Headroom)), ((1, 60), (0, 0)));
        assert!(owner.work());
        owner.exit.take(|mut frame, _, _, _| {
            let wanted = frame.headroom() + 1;
            frame.make_headroom(wanted).expect("a buffer that is long enough");
        });
        assert_eq!(
            (counters.copied(Copying::FanOut), counters.copied(Copying::Headroom)),
            ((1, 60), (1, 60))
        );
    }

    /// Only whole batches of packets that cost something begin, and only with somebody who has time.
    #[test]
    fn a_worker_shares_what_is_worth_it_with_those_who_have_time() {
        let region = Region::new(RINGS_PER_QUEUE, 256, 2048, SPARE_PER_QUEUE + 2 * FAN_OUT_BUFFERS, false);
        let region = region.expect("a region");
        let (mut near, mut far) = wire(&region, 1, true).expect("a wire");
        let mut parts = fan_out(&region, 2).expect("buffers");
        let [owner, other] = parts.as_mut_slice() else { panic!("two parts") };
        let ((_, tx), (rx, _)) = (&mut near.queues[0], &mut far.queues[0]);
        let mut asks = |owner: &mut FanOut, count: usize, length: usize, next: Next| {
            (0..count).for_each(|_| tx.ring.push_bytes(&vec![0; length]).expect("room"));
            tx.sync();
            rx.sync();
            let mut batch = Batch::new();
            let slots = rx.ring.take(&mut 0, |frame| batch.push(Packet { next, ..Packet::new(frame) }));
            let takes = owner.takes(&batch, false);
            drop(batch);
            rx.ring.release(slots);
            takes
        };
        let open = Next::Open(0);
        assert!(!asks(owner, BATCH, 1400, open), "nobody has said that he has time");
        assert!(other.note_load());
        assert!(asks(owner, BATCH, 1400, open) && asks(owner, BATCH, 60, Next::Tunnel(0)));
        assert!(!asks(owner, BATCH - 1, 1400, open), "the queue is not backlogged");
        assert!(!asks(owner, BATCH, 1400, Next::Gre(0)), "no cipher");
        assert!(!owner.note_load(), "the owner has a backlog");
        assert!(owner.note_load());
        assert!(!asks(owner, BATCH, 1400, Next::HandOver(1)) && owner.note_load(), "handing over is no load");
        asks(other, BATCH, 1400, open);
        assert!(!other.note_load() && !asks(owner, BATCH, 1400, open), "the other has a backlog of its own");
    }
}
