//! Records on their way to one client: a queue of bounded length between whoever makes them and the client's thread.
//!
//! Who makes records never waits. A client that is too slow for them loses some, and is told how many at the place where they
//! would stand.

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde_json::Value;

use super::taps::TapStream;
use crate::api::Line;

/// A queue for `capacity` records.
pub(super) fn channel(capacity: usize) -> (Subscriber, Records) {
    let (queue, queued) = bounded(capacity.max(2));
    (Subscriber { queue, lost: 0 }, Records::Queue(queued))
}

/// The end that records are put into. Without it, the stream ends.
#[derive(Debug)]
pub(super) struct Subscriber {
    queue: Sender<Line>,
    /// Records lost since the last that was not.
    lost: u64,
}

/// The client has left: it needs no more records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Subscriber {
    /// Gives the client a record, or counts it as lost.
    ///
    /// # Errors
    /// The client has left.
    pub(super) fn offer(&mut self, record: Value) -> Result<(), Gone> {
        if self.lost > 0 && self.put(Line::Lost(self.lost))? {
            self.lost = 0;
        }
        if self.lost > 0 || !self.put(Line::Record(record))? {
            self.lost += 1;
        }
        Ok(())
    }

    /// The stream ends, for this reason.
    pub(super) fn end(mut self, why: &str) {
        if self.lost > 0 && self.put(Line::Lost(self.lost)) == Ok(true) {
            self.lost = 0;
        }
        let _ = self.put(Line::End(why.to_owned()));
    }

    /// False: there is no room.
    fn put(&mut self, line: Line) -> Result<bool, Gone> {
        match self.queue.try_send(line) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(Gone),
        }
    }
}

/// The client's end. Dropped, the client has left.
#[derive(Debug)]
pub(super) enum Records {
    /// Of a queue.
    Queue(Receiver<Line>),
    /// Of a tap, fetched by the client's thread itself.
    Taps(Box<TapStream>),
}

impl Records {
    /// The next line, if one comes within `wait`; an end at the end.
    pub(super) fn next(&mut self, wait: Duration) -> Option<Line> {
        let queue = match self {
            Records::Queue(queue) => queue,
            Records::Taps(taps) => return taps.next(wait),
        };
        match queue.recv_timeout(wait) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Line::End("the daemon has no more".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn what_is_lost_is_told_where_it_would_stand() {
        let (mut subscriber, mut records) = channel(2);
        for number in 0..5 {
            assert_eq!(subscriber.offer(json!(number)), Ok(()));
        }
        assert_eq!(records.next(NOW), Some(Line::Record(json!(0))));
        assert_eq!(records.next(NOW), Some(Line::Record(json!(1))));
        assert_eq!(records.next(NOW), None);
        assert_eq!(subscriber.offer(json!(5)), Ok(()));
        assert_eq!(records.next(NOW), Some(Line::Lost(3)));
        assert_eq!(records.next(NOW), Some(Line::Record(json!(5))));
        subscriber.end("enough");
        assert_eq!(records.next(NOW), Some(Line::End("enough".to_owned())));
        assert!(matches!(records.next(NOW), Some(Line::End(_))));
    }

    #[test]
    fn a_client_that_has_left_wants_no_more() {
        let (mut subscriber, records) = channel(2);
        drop(records);
        assert_eq!(subscriber.offer(json!(0)), Err(Gone));
    }

    proptest! {
        /// However client and daemon take turns, each record is had or counted as lost, in order.
        #[test]
        fn nothing_vanishes(turns in proptest::collection::vec(any::<bool>(), 0..200), capacity in 2_usize..6) {
            let (mut subscriber, mut records) = channel(capacity);
            let (mut offered, mut next) = (0_u64, 0_u64);
            let see = |line, next: &mut u64| match line {
                Some(Line::Record(number)) => { assert_eq!(number, json!(*next)); *next += 1; }
                Some(Line::Lost(count)) => *next += count,
                Some(Line::End(_)) | None => {}
            };
            for give in turns {
                if give {
                    prop_assert_eq!(subscriber.offer(json!(offered)), Ok(()));
                    offered += 1;
                } else {
                    see(records.next(NOW), &mut next);
                }
            }
            // With room again, all is told.
            while let Some(line) = records.next(NOW) {
                see(Some(line), &mut next);
            }
            prop_assert_eq!(subscriber.offer(json!(offered)), Ok(()));
            subscriber.end("enough");
            // The end comes for ever then.
            loop {
                let line = records.next(NOW);
                let ended = matches!(line, Some(Line::End(_)) | None);
                see(line, &mut next);
                if ended {
                    break;
                }
            }
            prop_assert_eq!(next, offered + 1);
        }
    }
}
