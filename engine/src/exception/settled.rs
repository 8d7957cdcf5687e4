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

/// How long a worker takes nothing in, at most: the thread needs some 100 µs, and longer where the system lets it wait. What comes
/// meanwhile waits in the port's ring; what is on its way to the thread, or is kept by it, would be overtaken.
pub(crate) const LONGEST: Duration = Duration::from_millis(200);

/// What the thread tells one worker.
#[derive(Debug, Default)]
pub struct Settled {
    /// Packets of the worker that the thread keeps.
    waiting: AtomicU64,
    /// The tables that the thread has seen, by their number.
    tables: AtomicU64,
}

impl Settled {
    /// Has the worker got back all that has a way by the tables of that number, once it has read the wire? `is_unread`: has the
    /// thread not taken all that it was given?
    pub(crate) fn is_settled(&self, tables: u64, is_unread: impl FnOnce() -> bool) -> bool {
        // In this order: a packet that is taken is counted.
        !is_unread()
            && (self.waiting.load(Ordering::Acquire) == 0 || self.tables.load(Ordering::Acquire) >= tables)
    }

    /// The end of a turn of the thread with the tables of that number: `send` puts on the wire to the worker what has a way by
    /// them, `give_back` shows that what was on the wire to the thread is taken. Tickets of what was sent go after that.
    pub(super) fn tell(&self, tables: u64, send: impl FnOnce(), give_back: impl FnOnce()) {
        // In this order: whoever sees that its packets are taken, or what tables the thread has seen, sees what became of them.
        send();
        self.tables.store(tables, Ordering::Release);
        give_back();
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

#[cfg(all(test, culvert_loom))]
mod every_order {
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    use super::*;

    /// A wire: packets ever put on it, and taken off.
    #[derive(Default)]
    struct Wire {
        written: AtomicU32,
        read: AtomicU32,
    }

    /// What a worker and the thread see. The first tables know no station, the second ones, which come meanwhile, do.
    #[derive(Default)]
    struct Meeting {
        tables: AtomicU64,
        there: Wire,
        back: Wire,
    }

    impl Meeting {
        /// The thread takes turns, as `Exceptions::turn` does, until it has sent `count` packets back.
        fn keep_and_send(&self, settled: &Arc<Settled>, count: u32) {
            let (mut taken, mut sent, mut kept) = (0, 0, Vec::new());
            while sent < count {
                let tables = self.tables.load(Ordering::Acquire);
                while taken < self.there.written.load(Ordering::Acquire) {
                    kept.push(Ticket::new(0, settled));
                    taken += 1;
                }
                let owed = if tables == 2 { std::mem::take(&mut kept) } else { Vec::new() };
                sent += owed.len() as u32;
                let send = || self.back.written.store(sent, Ordering::Release);
                settled.tell(tables, send, || self.there.read.store(taken, Ordering::Release));
                drop(owed);
                thread::yield_now();
            }
        }

        /// The worker, which gave `given` packets away and has the second tables: once it may go on, all of them must be back.
        fn wait(&self, settled: &Settled, given: u32) {
            loop {
                let may_go_on = settled.is_settled(2, || self.there.read.load(Ordering::Acquire) != given);
                // Looked at after that was asked.
                let back = self.back.written.load(Ordering::Acquire);
                if may_go_on {
                    assert_eq!(back, given, "a packet would be overtaken");
                    return;
                }
                thread::yield_now();
            }
        }
    }

    /// Whatever the order, a worker that goes on with new tables has got back what waited for them.
    #[test]
    fn nothing_is_overtaken_by_new_tables() {
        loom::model(|| {
            let meeting = loom::sync::Arc::new(Meeting::default());
            let settled = Arc::new(Settled::default());
            meeting.there.written.store(1, Ordering::Release);
            let others = loom::sync::Arc::clone(&meeting);
            let thread = thread::spawn({
                let settled = Arc::clone(&settled);
                move || others.keep_and_send(&settled, 1)
            });
            meeting.tables.store(2, Ordering::Release);
            meeting.wait(&settled, 1);
            thread.join().expect("no panic");
        });
    }
}
