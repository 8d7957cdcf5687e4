//! How the ends of a queue, which some worker has, get something new behind them where a device had departed and is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where something new is left for one end of a queue.
pub(super) struct Renewal<T> {
    ready: AtomicBool,
    place: Mutex<Option<T>>,
}

impl<T> Renewal<T> {
    pub(super) fn new() -> Arc<Renewal<T>> {
        Arc::new(Renewal { ready: AtomicBool::new(false), place: Mutex::new(None) })
    }

    pub(super) fn offer(&self, new: T) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
        self.ready.store(true, Ordering::Release);
    }

    /// Is anything there that has not been taken?
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Takes what has been left. Never waits: should somebody be leaving something, it is there at the next sync.
    pub(super) fn take(&self) -> Option<T> {
        let mut place = self.place.try_lock().ok()?;
        self.ready.store(false, Ordering::Relaxed);
        place.take()
    }
}
