//! State that clients watch: the same as `show` gives, in records, at the pace that each client asks for.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Daemon;
use super::status::What;
use super::stream::{Records, Subscriber, channel};
use crate::Failure;

/// Paces that can be asked for, in milliseconds.
const PACES: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Records that wait for a client. What is old is of no use to somebody who watches.
const WAITING: usize = 4;

/// Those who watch.
#[derive(Default)]
pub(super) struct Watches(Vec<Watch>);

struct Watch {
    what: Vec<What>,
    every: Duration,
    next: Instant,
    subscriber: Subscriber,
}

impl Watches {
    /// When the next record is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|watch| watch.next).min()
    }

    /// Nobody will be told anything more, and why.
    pub(super) fn end(self, why: &str) {
        self.0.into_iter().for_each(|watch| watch.subscriber.end(why));
    }
}

impl Daemon {
    /// Begins a watch, the first record of which comes at once.
    ///
    /// # Errors
    /// There is nothing to watch, or the pace cannot be had.
    pub(super) fn watch(&mut self, mut what: Vec<What>, every: u64) -> Result<Records, Failure> {
        if !PACES.contains(&every) {
            return Err(Failure::usage(format!(
                "watch: every {every} ms cannot be had; give {} to {}",
                PACES.start(),
                PACES.end()
            )));
        }
        what.sort_unstable();
        what.dedup();
        if what.is_empty() {
            return Err(Failure::usage("watch: nothing to watch; name what `show` knows".to_owned()));
        }
        let (subscriber, records) = channel(WAITING);
        let every = Duration::from_millis(every);
        self.watches.0.push(Watch { what, every, next: Instant::now(), subscriber });
        Ok(records)
    }

    /// Gives those their record for whom it is time, and forgets those who have left.
    pub(super) fn feed_watches(&mut self, now: Instant) {
        if self.watches.due().is_none_or(|due| now < due) {
            return;
        }
        let mut watches = std::mem::take(&mut self.watches);
        watches.0.retain_mut(|watch| {
            if now < watch.next {
                return true;
            }
            // What was missed is not made up for.
            watch.next += watch.every;
            if watch.next <= now {
                watch.next = now + watch.every;
            }
            watch.subscriber.offer(self.record(&watch.what)).is_ok()
        });
        self.watches = watches;
    }

    fn record(&self, what: &[What]) -> Value {
        let mut record = Map::from_iter([("uptime".to_owned(), json!(self.started.elapsed().as_secs_f64()))]);
        for shown in what.iter().filter_map(|what| self.show(*what).ok()) {
            if let Value::Object(shown) = shown {
                record.extend(shown);
            }
        }
        Value::Object(record)
    }
}
