//! What a port's device tells of itself, for those who report: the queues write it, anybody reads it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::port::Health;
use crate::counters::Counter;

/// The state of what stands behind a pair of queues. Ask [`RxQueue::device`](super::RxQueue::device) for it before a worker
/// has the queue.
#[derive(Debug, Default)]
pub struct Device {
    gone: AtomicBool,
    /// Frames that came and could not be received whole.
    pub receive_dropped: Counter,
    /// Frames that the device did not take.
    pub transmit_dropped: Counter,
}

impl Device {
    /// Has the device been taken away? Nothing is received or sent any more then, until it is taken hold of again.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> Health {
        if self.is_gone() { Health::Departed } else { Health::Attached }
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_back(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }
}
