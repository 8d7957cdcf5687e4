//! What the exception thread still has of a worker's packets, so that no later packet of a flow overtakes them when new tables
//! show a way that the old ones did not know.
//!
//! A packet whose next station is not known goes to the exception thread and waits there. Once the tables know the station,
//! packets that follow leave at once. So a worker that sees new tables takes nothing in until
//!
//! 1. the thread has read all that the worker gave it, and put what it made of that on the wire back;
//! 2. where packets of the worker wait, the thread has seen these tables and released those that have a way now.
//!
//! What was released is on the wire back by then, and the worker sends that first. With nothing given away, which is the rule,
//! nothing is waited for; and it never waits for longer than [`LONGEST`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sync::AtomicU64;

/// How long a worker takes nothing in, at most: the thread needs some 100 µs, and longer where the system lets it wait.
pub(crate) const LONGEST: Duration = Duration::from_millis(20);

/// What the thread tells one worker.
#[derive(Debug, Default)]
pub struct Settled {
    /// Packets of the worker that the thread keeps.
    waiting: AtomicU64,
    /// The tables that the thread has seen, by their number.
    tables: AtomicU64,
}

impl Settled {
    /// Has nothing that waits a way by the tables of that number? To be asked after it was seen that the wire to the thread is read.
    pub(crate) fn is_settled(&self, tables: u64) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 || self.tables.load(Ordering::Acquire) >= tables
    }

    /// What has a way by the tables of that number is on the wire to the worker.
    pub(super) fn tell(&self, tables: u64) {
        self.tables.store(tables, Ordering::Release);
    }
}

/// One packet that the thread keeps of a worker, and owes it.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The worker's number.
    pub(super) worker: usize,
    settled: Arc<Settled>,
}

impl Ticket {
    pub(super) fn new(worker: usize, settled: &Arc<Settled>) -> Ticket {
        settled.waiting.fetch_add(1, Ordering::Relaxed);
        Ticket { worker, settled: Arc::clone(settled) }
    }
}

/// The packet is lost, or on the wire to the worker.
impl Drop for Ticket {
    fn drop(&mut self) {
        self.settled.waiting.fetch_sub(1, Ordering::Release);
    }
}
