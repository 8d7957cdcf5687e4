//! Counters. Each worker has its own and is their only writer, so counting is a load and a store, without a lock or an
//! atomic read-modify-write; readers add all workers' up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::drops::Reason;

/// One number that one worker counts and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. For the owning worker alone: two writers would lose counts.
    #[inline(always)]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker counts for each port.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames received.
    pub rx: Counter,
    /// Frames sent.
    pub tx: Counter,
}

/// Frames whose bytes had to be copied, because their buffers could not be swapped, or had no room for headers: none where all
/// ports share their buffers and give headroom.
#[derive(Debug, Default)]
pub struct Copies {
    /// Frames.
    pub frames: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

impl Copies {
    /// Counts one frame of so many bytes.
    #[inline]
    pub(crate) fn add(&self, bytes: usize) {
        self.frames.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// Where a worker has to copy the bytes of frames. What a system does behind a port (it reads from a TAP and writes to it, and
/// AF_XDP without zero copy) is the port's, and not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// Into a port's transmit ring, which has no buffers in common with the one that the frame came by, or does not let it start
    /// so far into its buffer.
    Transmit,
    /// Further back in the same buffer: the port that the frame came by left too little room in front for headers.
    Headroom,
    /// To where any worker may seal or open it ([`crate::fan_out`]), from a ring without buffers in common.
    FanOut,
    /// To a tunnel's host interface, from a ring without buffers in common.
    Interfaces,
    /// To the exception thread, from a ring without buffers in common; and whatever comes from there, since that thread copies what
    /// it takes, and what it makes of it.
    Exceptions,
    /// To another worker, from a ring without buffers in common.
    HandOver,
}

impl Copying {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Copying; 6] = [
        Copying::Transmit,
        Copying::Headroom,
        Copying::FanOut,
        Copying::Interfaces,
        Copying::Exceptions,
        Copying::HandOver,
    ];

    /// The kind as the outside sees it.
    pub fn name(self) -> &'static str {
        match self {
            Copying::Transmit => "transmit",
            Copying::Headroom => "headroom",
            Copying::FanOut => "fan-out",
            Copying::Interfaces => "interfaces",
            Copying::Exceptions => "exceptions",
            Copying::HandOver => "hand-over",
        }
    }
}

/// What a worker counts for each tunnel, in one cache line. Bytes are those of inner packets.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct TunnelCounters {
    /// Packets that came out of the tunnel.
    pub in_packets: Counter,
    /// Bytes that came out of the tunnel.
    pub in_bytes: Counter,
    /// Packets that went into the tunnel.
    pub out_packets: Counter,
    /// Bytes that went into the tunnel.
    pub out_bytes: Counter,
}

/// Tunnels whose counters lie together.
const BLOCK: usize = 64;
/// Counters in a worker's part of a block: two more than there are tunnels, so that no cache line is two workers'.
const STRIDE: usize = BLOCK + 2;

/// The counters of one tunnel, a set for each worker. Clones are the same counters.
#[derive(Debug, Clone)]
pub struct TunnelCounterSet {
    /// Worker after worker, each [`STRIDE`] long.
    block: Arc<[TunnelCounters]>,
    /// The tunnel's place in each worker's part.
    place: usize,
}

impl TunnelCounterSet {
    /// What worker number `worker` counts; `None` for a worker that there was not to be.
    #[inline]
    pub fn get(&self, worker: usize) -> Option<&TunnelCounters> {
        self.block.get(worker * STRIDE + self.place)
    }

    /// The counters of all workers.
    pub fn workers(&self) -> impl Iterator<Item = &TunnelCounters> {
        self.block.iter().skip(self.place).step_by(STRIDE)
    }
}

/// Hands out tunnels' counters, so that those of many tunnels lie close together: a worker that serves thousands of tunnels
/// finds them in half the cache lines and a tenth of the pages that scattered ones would take.
#[derive(Debug)]
pub struct TunnelCounterBank {
    workers: usize,
    block: Arc<[TunnelCounters]>,
    taken: usize,
}

impl TunnelCounterBank {
    /// A bank for `workers` workers.
    pub fn new(workers: usize) -> TunnelCounterBank {
        TunnelCounterBank { workers, block: Arc::new([]), taken: BLOCK }
    }

    /// Counters for one more tunnel, all zero.
    pub fn take(&mut self) -> TunnelCounterSet {
        if self.taken == BLOCK {
            self.block = (0..self.workers * STRIDE).map(|_| TunnelCounters::default()).collect();
            self.taken = 0;
        }
        self.taken += 1;
        TunnelCounterSet { block: Arc::clone(&self.block), place: self.taken - 1 }
    }
}

/// What one worker counts beside tunnels.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    /// What the ports' transmit rings count.
    copies: Box<[Arc<Copies>]>,
    /// By kind, but for those.
    others: [Arc<Copies>; Copying::ALL.len()],
    /// What the fan-out's ring counts: copied into it, and moved in it for headroom.
    fan_out: OnceLock<[Arc<Copies>; 2]>,
    drops: [Counter; Reason::COUNT],
}

impl WorkerCounters {
    /// Counters for ports, the host's included, given by what their transmit rings count.
    pub fn new(copies: impl IntoIterator<Item = Arc<Copies>>) -> WorkerCounters {
        let copies: Box<[_]> = copies.into_iter().collect();
        WorkerCounters {
            ports: copies.iter().map(|_| PortCounters::default()).collect(),
            copies,
            others: std::array::from_fn(|_| Arc::default()),
            fan_out: OnceLock::new(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }

    /// The counters of port number `index`.
    #[inline]
    pub fn port(&self, index: usize) -> Option<&PortCounters> {
        self.ports.get(index)
    }

    /// Frames that were copied on their way out of port number `index`.
    pub fn copies(&self, index: usize) -> Option<&Copies> {
        self.copies.get(index).map(|copies| &**copies)
    }

    /// Where rings count frames that are copied for that reason.
    pub(crate) fn copying(&self, kind: Copying) -> &Arc<Copies> {
        let [first, ..] = &self.others;
        self.others.get(kind as usize).unwrap_or(first)
    }

    /// What is copied into the ring of a fan-out, and moved in it for headroom, is counted there.
    pub(crate) fn count_fan_out(&self, copies: [Arc<Copies>; 2]) {
        // A worker has a part in one fan-out.
        let _ = self.fan_out.set(copies);
    }

    /// Frames of which the worker copied bytes for that reason, and these bytes.
    pub fn copied(&self, kind: Copying) -> (u64, u64) {
        let ports = self.copies.iter().filter(|_| kind == Copying::Transmit);
        let fan_out = self.fan_out.get().and_then(|[into, within]| match kind {
            Copying::FanOut => Some(into),
            Copying::Headroom => Some(within),
            _ => None,
        });
        ports.chain(fan_out).chain([self.copying(kind)]).fold((0, 0), |(frames, bytes), copies| {
            (frames + copies.frames.get(), bytes + copies.bytes.get())
        })
    }

    /// Counts a drop.
    #[inline]
    pub fn count_drop(&self, reason: Reason, count: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(count);
        }
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_and_worker_has_counters_of_its_own() {
        let mut bank = TunnelCounterBank::new(3);
        let sets: Vec<_> = (0..2 * BLOCK + 1).map(|_| bank.take()).collect();
        for (tunnel, set) in (1..).zip(&sets) {
            for worker in 0..3 {
                set.get(worker).unwrap().in_packets.add(tunnel * 10 + worker as u64);
            }
            assert!(set.get(3).is_none());
        }
        for (tunnel, set) in (1..).zip(&sets) {
            let counts: Vec<u64> = set.workers().map(|counters| counters.in_packets.get()).collect();
            assert_eq!(counts, [tunnel * 10, tunnel * 10 + 1, tunnel * 10 + 2]);
        }
    }
}
