//! Counters. Each worker has its own and is their only writer, so counting is a load and a store, without a lock or an
//! atomic read-modify-write; readers add all workers' up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

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

/// The tunnel counters of all workers, a cache line each.
pub type TunnelCounterSet = Arc<[CachePadded<TunnelCounters>]>;

/// Counters of one tunnel for `workers` workers.
pub fn tunnel_counters(workers: usize) -> TunnelCounterSet {
    (0..workers).map(|_| CachePadded::default()).collect()
}

/// What one worker counts beside tunnels.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    drops: [Counter; Reason::COUNT],
}

impl WorkerCounters {
    /// Counters for `ports` ports, the host's included.
    pub fn new(ports: usize) -> WorkerCounters {
        WorkerCounters {
            ports: (0..ports).map(|_| PortCounters::default()).collect(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }

    /// The counters of port number `index`.
    #[inline]
    pub fn port(&self, index: usize) -> Option<&PortCounters> {
        self.ports.get(index)
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
