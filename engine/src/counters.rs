//! Counters. Each worker has its own and is their only writer, so counting is a load and a store, without a lock or an
//! atomic read-modify-write; readers add all workers' up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// What a transmit ring counts of frames whose bytes it had to copy, because their buffers could not be swapped: none where all
/// ports share their buffers and give headroom.
#[derive(Debug, Default)]
pub struct Copies {
    /// Frames.
    pub frames: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

/// What a worker counts for each tunnel. Bytes are those of inner packets.
#[derive(Debug, Default)]
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
    copies: Box<[Arc<Copies>]>,
    drops: [Counter; Reason::COUNT],
}

impl WorkerCounters {
    /// Counters for ports, the host's included, given by what their transmit rings count.
    pub fn new(copies: impl IntoIterator<Item = Arc<Copies>>) -> WorkerCounters {
        let copies: Box<[_]> = copies.into_iter().collect();
        WorkerCounters {
            ports: copies.iter().map(|_| PortCounters::default()).collect(),
            copies,
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
