//! Taps: who wants to see what, and how it gets there.
//!
//! 1. A tap is opened with all that it will ever need: for each worker a *lane*, a bounded set of records.
//! 2. Workers find it in the list that is published ([`Taps`]), fill free records and put them into the lane: they are the only ones
//!    that do so, and never wait. Where no record is free, they count.
//! 3. The reader empties the lanes and gives the records back.
//! 4. A tap that is closed leaves the list first, and goes once no worker holds the list that it was in: what was allocated by the
//!    reader is freed by the reader.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::program::Program;
use super::step::Way;
use crate::counters::Counter;

/// Taps at a time.
pub const TAPS: usize = 8;
/// Bytes that the records of a capture may take, of all workers together.
const MEMORY: usize = 16 << 20;
/// Packets that wait to be read, of a trace, for each worker.
const WAYS: usize = 1024;
/// Records of a capture's lane, at least and at most.
const RECORDS: (usize, usize) = (64, 8192);
/// The longest part of a frame that is kept, in bytes.
pub const SNAP_MAX: usize = 65_535;
/// How long closing waits for workers. One that sleeps looks at the list ten times a second.
const PATIENCE: Duration = Duration::from_millis(250);

/// What a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Frames of the port of that number, as they are on its link.
    Port(u32),
    /// Outer packets of the tunnel of that number, with their link headers.
    Outer(u32),
    /// Inner packets of the tunnel of that number; frames, where it carries such.
    Inner(u32),
}

/// The way that a captured packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To us.
    In,
    /// From us.
    Out,
}

/// A captured packet.
#[derive(Debug)]
pub struct Captured {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub time_ns: u64,
    /// Which way it went.
    pub direction: Direction,
    /// The port that it came or went by, where it did.
    pub port: Option<u32>,
    /// Its length in bytes.
    pub original_len: u32,
    /// Of which are kept here.
    kept: usize,
    bytes: Box<[u8]>,
}

impl Captured {
    fn new(snap: usize) -> Captured {
        // Not zeros, which the system would give only when they are written to first: by the worker.
        let bytes = vec![0xff; snap].into();
        Captured { time_ns: 0, direction: Direction::In, port: None, original_len: 0, kept: 0, bytes }
    }

    /// The bytes that were kept, its first.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.kept).unwrap_or_default()
    }

    pub(super) fn keep(&mut self, frame: &[u8]) {
        self.kept = 0;
        let kept = frame.len().min(self.bytes.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..kept), frame.get(..kept)) {
            to.copy_from_slice(from);
            self.kept = kept;
        }
    }
}

/// What one worker fills and the reader empties.
#[derive(Debug)]
pub(super) struct Lane<R> {
    free: ArrayQueue<Box<R>>,
    full: ArrayQueue<Box<R>>,
    lost: Counter,
}

impl<R> Lane<R> {
    fn new(records: usize, make: impl Fn() -> R) -> CachePadded<Lane<R>> {
        let lane =
            Lane { free: ArrayQueue::new(records), full: ArrayQueue::new(records), lost: Counter::default() };
        // Each queue has room for all of them, so that none is ever refused.
        for _ in 0..records {
            let _ = lane.free.push(Box::new(make()));
        }
        CachePadded::new(lane)
    }

    /// A free record; without one, a packet is lost.
    pub(super) fn take(&self) -> Option<Box<R>> {
        let record = self.free.pop();
        if record.is_none() {
            self.lost.add(1);
        }
        record
    }

    /// Hands a record to the reader.
    pub(super) fn put(&self, record: Box<R>) {
        let _ = self.full.push(record);
    }

    /// Gives a record back whose packet is lost.
    pub(super) fn lose(&self, record: Box<R>) {
        self.lost.add(1);
        self.give_back(record);
    }

    /// Gives a record back that nobody is to see.
    pub(super) fn give_back(&self, record: Box<R>) {
        let _ = self.free.push(record);
    }
}

/// A tap's lanes, one for each worker.
type Lanes<R> = Box<[CachePadded<Lane<R>>]>;

/// What a tap takes, and its lanes.
#[derive(Debug)]
pub(super) enum Kind {
    /// Ways of packets.
    Trace(Lanes<Way>),
    /// Packets.
    Capture(Target, Lanes<Captured>),
}

impl Kind {
    fn ways(&self) -> Option<&Lanes<Way>> {
        match self {
            Kind::Trace(lanes) => Some(lanes),
            Kind::Capture(..) => None,
        }
    }

    fn packets(&self) -> Option<&Lanes<Captured>> {
        match self {
            Kind::Capture(_, lanes) => Some(lanes),
            Kind::Trace(_) => None,
        }
    }
}

/// Somebody who wants to see.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) kind: Kind,
    pub(super) program: Program,
    /// Records that it still wants.
    left: AtomicU64,
}

impl Tap {
    /// Is one more record wanted? Then there is one less.
    pub(super) fn claim(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Does it want no more?
    pub(super) fn is_done(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// A list of taps, replaced whole.
pub(super) type List = Vec<Arc<Tap>>;

/// All taps of an engine's workers.
#[derive(Debug)]
pub struct Taps {
    workers: usize,
    /// Is there any? All that a worker looks at while there is none.
    live: CachePadded<AtomicBool>,
    list: Arc<ArcSwap<List>>,
    /// Lists that have been replaced and that a worker may still hold: it must not be the one that frees them. Locked by whoever
    /// changes the list.
    retired: Mutex<Vec<Arc<List>>>,
}

/// Too many taps are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{TAPS} traces and captures run already; end one of them")]
pub struct TooMany;

impl Taps {
    /// For `workers` workers, none open.
    pub fn new(workers: usize) -> Arc<Taps> {
        Arc::new(Taps {
            workers,
            live: CachePadded::new(AtomicBool::new(false)),
            list: Arc::default(),
            retired: Mutex::default(),
        })
    }

    /// Is any open?
    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    pub(super) fn list(&self) -> &Arc<ArcSwap<List>> {
        &self.list
    }

    /// The ways of the next packets that `program` takes, `count` of them at most.
    ///
    /// # Errors
    /// There are too many taps.
    pub fn trace(self: &Arc<Taps>, program: Program, count: u64) -> Result<TraceReader, TooMany> {
        let lanes = (0..self.workers).map(|_| Lane::new(WAYS, Way::default)).collect();
        self.open(Tap { kind: Kind::Trace(lanes), program, left: AtomicU64::new(count) }).map(TraceReader)
    }

    /// The next packets of `target` that `program` takes, `count` of them at most, and of each the first `snap` bytes.
    ///
    /// # Errors
    /// There are too many taps.
    pub fn capture(
        self: &Arc<Taps>,
        target: Target,
        program: Program,
        count: u64,
        snap: usize,
    ) -> Result<CaptureReader, TooMany> {
        let snap = snap.clamp(1, SNAP_MAX);
        let each = snap + size_of::<Captured>();
        let records = (MEMORY / self.workers.max(1) / each).clamp(RECORDS.0, RECORDS.1);
        let lanes = (0..self.workers).map(|_| Lane::new(records, || Captured::new(snap))).collect();
        self.open(Tap { kind: Kind::Capture(target, lanes), program, left: AtomicU64::new(count) })
            .map(CaptureReader)
    }

    fn open(self: &Arc<Taps>, tap: Tap) -> Result<Open, TooMany> {
        let tap = Arc::new(tap);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.list.load_full();
        if before.len() >= TAPS {
            return Err(TooMany);
        }
        self.replace(&mut retired, before.iter().chain([&tap]).map(Arc::clone).collect());
        self.live.store(true, Ordering::Relaxed);
        Ok(Open { taps: Arc::clone(self), tap, told: 0 })
    }

    fn replace(&self, retired: &mut Vec<Arc<List>>, list: List) {
        retired.push(self.list.swap(Arc::new(list)));
    }

    /// Step 4.
    fn close(&self, tap: &Arc<Tap>) {
        let lock = || self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |list: &List| list.iter().filter(|one| !Arc::ptr_eq(one, tap)).map(Arc::clone).collect();
        {
            let mut retired = lock();
            let list = others(&self.list.load());
            self.replace(&mut retired, list);
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let mut retired = lock();
            retired.retain(|list| Arc::strong_count(list) > 1);
            if Arc::strong_count(tap) == 1 || Instant::now() >= end {
                if self.list.load().is_empty() {
                    self.live.store(false, Ordering::Relaxed);
                }
                return;
            }
            drop(retired);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A tap that is open.
#[derive(Debug)]
struct Open {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    /// Losses that were told.
    told: u64,
}

impl Open {
    /// Takes what the lanes hold, in the order of `time`.
    fn read<R>(
        &mut self,
        lanes: fn(&Kind) -> Option<&Lanes<R>>,
        time: fn(&R) -> u64,
        mut each: impl FnMut(&R),
    ) -> u64 {
        let Some(lanes) = lanes(&self.tap.kind) else { return 0 };
        let mut records: Vec<(usize, Box<R>)> = Vec::new();
        for (number, lane) in lanes.iter().enumerate() {
            // Those that are there now: more may come while they are dealt with.
            records
                .extend((0..lane.full.len()).map_while(|_| lane.full.pop()).map(|record| (number, record)));
        }
        records.sort_by_key(|(_, record)| time(record));
        for (number, record) in records {
            each(&record);
            if let Some(lane) = lanes.get(number) {
                lane.give_back(record);
            }
        }
        let lost: u64 = lanes.iter().map(|lane| lane.lost.get()).sum();
        lost - std::mem::replace(&mut self.told, lost)
    }

    fn is_done(&self) -> bool {
        self.tap.is_done()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.taps.close(&self.tap);
    }
}

/// The reader of a trace. Dropped, the trace ends.
#[derive(Debug)]
pub struct TraceReader(Open);

impl TraceReader {
    /// Gives each way that has come since the last time, and returns how many were lost.
    pub fn read(&mut self, each: impl FnMut(&Way)) -> u64 {
        self.0.read(Kind::ways, |way| way.time_ns, each)
    }

    /// Have all come that were asked for? What was filled last may still be unread.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}

/// The reader of a capture. Dropped, the capture ends.
#[derive(Debug)]
pub struct CaptureReader(Open);

impl CaptureReader {
    /// Gives each packet that has come since the last time, and returns how many were lost.
    pub fn read(&mut self, each: impl FnMut(&Captured)) -> u64 {
        self.0.read(Kind::packets, |packet| packet.time_ns, each)
    }

    /// Have all come that were asked for? What was filled last may still be unread.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }
}
