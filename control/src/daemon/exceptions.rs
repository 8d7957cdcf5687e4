//! The exception thread's own thread: it turns as long as there is something to do, then sleeps until a worker has given it
//! something, it was told of new tables, or one of its timers is due.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use culvert_engine::exception::thread::{Event, Exceptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bell::Bell;

/// How long it sleeps at most.
const NAP: Duration = Duration::from_millis(100);

/// What wakes the thread, and whom it wakes.
pub(super) struct Bells {
    /// Its own.
    pub(super) own: Arc<Bell>,
    /// The workers', which take what the thread makes, in the order of their numbers.
    pub(super) workers: Vec<Arc<Bell>>,
    /// The control thread's, which takes its events.
    pub(super) control: Arc<Bell>,
}

/// The exception thread, running.
pub(super) struct ExceptionThread {
    thread: JoinHandle<Exceptions>,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl ExceptionThread {
    /// Starts it. `events` is the channel that `exceptions` sends to; its clock counts from `start`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start(
        exceptions: Exceptions,
        events: Sender<Event>,
        bells: Bells,
        start: Instant,
    ) -> io::Result<ExceptionThread> {
        let stop = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&bells.own);
        let mut turner = Turner { exceptions, events, bells, start, stop: Arc::clone(&stop) };
        let run = move || {
            turner.run();
            turner.exceptions
        };
        let thread = thread::Builder::new().name("exceptions".to_owned()).spawn(run)?;
        Ok(ExceptionThread { thread, stop, bell })
    }

    /// Ends the thread, and gives back what it holds of rings; `None` where it had panicked.
    pub(super) fn stop(self) -> Option<Exceptions> {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        self.thread.join().ok()
    }
}

/// What the thread has.
struct Turner {
    exceptions: Exceptions,
    events: Sender<Event>,
    bells: Bells,
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl Turner {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.turn() > 0 {
                continue;
            }
            self.bells.own.lie_down();
            if self.turn() == 0 && !self.stop.load(Ordering::Relaxed) {
                self.wait();
            }
            self.bells.own.get_up();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn turn(&mut self) -> usize {
        let count = self.exceptions.turn(self.now());
        if !self.events.is_empty() {
            self.bells.control.wake();
        }
        if count > 0 {
            for (worker, bell) in self.bells.workers.iter().enumerate() {
                bell.wake_if(|| self.exceptions.waits_for(worker));
            }
        }
        count
    }

    fn wait(&self) {
        let due = self.exceptions.next_due().map(|due| Duration::from_nanos(due.saturating_sub(self.now())));
        // Rounded up, so as not to look in vain.
        let nap = due.map_or(NAP, |due| due.min(NAP)) + Duration::from_micros(999);
        let nap = PollTimeout::try_from(nap).unwrap_or(PollTimeout::ZERO);
        // Whatever it says: what there is to do is looked for.
        let _ = poll(&mut [PollFd::new(self.bells.own.as_fd(), PollFlags::POLLIN)], nap);
    }
}
