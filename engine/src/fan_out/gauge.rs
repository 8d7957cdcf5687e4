//! Whether sharing pays, found by trying. What another core does with a packet has to come from that core's caches and go back:
//! that costs 20 ns a packet where the cores have a cache in common, and 200 where they lie far apart, which no worker can know.
//!
//! As long as a worker is backlogged, it shares for [`TRIED`] packets, then works alone for as many, and goes on for [`KEPT`] as
//! was faster. Both are measured between two whole batches that follow each other, so nothing of it is waiting for packets.

use std::time::{Duration, Instant};

/// Packets of a trial: some 200 µs.
const TRIED: i64 = 1024;
/// Packets until the next trial.
const KEPT: i64 = 65_536;

/// How a worker deals with its backlog.
#[derive(Debug)]
pub(super) struct Gauge {
    shares: bool,
    /// Is this a trial?
    tries: bool,
    /// Packets until something else is done.
    left: i64,
    /// When the last whole batch came, and how many packets were put aside then.
    last: Option<(Instant, i64)>,
    /// What the trial has shown: time, and packets that were done in it.
    spent: Duration,
    done: i64,
    /// Nanoseconds a packet, sharing.
    sharing: f64,
}

impl Gauge {
    /// Sharing is tried first.
    pub(super) fn new() -> Gauge {
        Gauge {
            shares: true,
            tries: true,
            left: TRIED,
            last: None,
            spent: Duration::ZERO,
            done: 0,
            sharing: f64::INFINITY,
        }
    }

    /// Is it to be shared now?
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// A whole batch of `count` packets came at `now`, while `aside` others were put aside. Returns whether to share it.
    pub(super) fn next(&mut self, count: usize, aside: usize, now: Instant) -> bool {
        let (count, aside) = (count as i64, aside as i64);
        if !self.tries {
            self.left -= count;
            if self.left <= 0 {
                self.begin(true, true);
            }
        } else if let Some((then, before)) = self.last.replace((now, aside)) {
            // Work alone begins once nothing is aside any more.
            if self.shares || before == 0 {
                self.spent += now.saturating_duration_since(then);
                self.done += count + before - aside;
                self.left -= count;
            }
            if self.left <= 0 && self.done > 0 {
                let cost = self.spent.as_nanos() as f64 / self.done as f64;
                if self.shares {
                    self.sharing = cost;
                    self.begin(false, true);
                } else {
                    self.begin(self.sharing < cost, false);
                }
            }
        }
        self.shares
    }

    /// What follows does not follow a whole batch.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }

    fn begin(&mut self, shares: bool, tries: bool) {
        let left = if tries { TRIED } else { KEPT };
        *self =
            Gauge { shares, tries, left, last: None, spent: Duration::ZERO, done: 0, sharing: self.sharing };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `packets` come in batches of 64 that take `alone` or `sharing` nanoseconds a packet. How many were shared.
    fn run(gauge: &mut Gauge, packets: u64, alone: u64, sharing: u64) -> u64 {
        let (mut now, mut shares, mut shared) = (Instant::now(), gauge.shares(), 0);
        for _ in 0..packets / 64 {
            now += Duration::from_nanos(64 * if shares { sharing } else { alone });
            shares = gauge.next(64, if shares { 128 } else { 0 }, now);
            shared += u64::from(shares) * 64;
        }
        shared
    }

    #[test]
    fn what_is_faster_is_kept_and_tried_again() {
        let mut gauge = Gauge::new();
        let packets = 1_000_000;
        let shared = run(&mut gauge, packets, 200, 120);
        assert!(shared > packets * 96 / 100, "{shared}: sharing is faster");
        let shared = run(&mut gauge, packets, 200, 240);
        assert!(shared < packets * 9 / 100, "{shared}: it is slower now");
        let shared = run(&mut gauge, packets, 200, 120);
        assert!(shared > packets * 90 / 100, "{shared}: and again faster");
    }

    /// What is still put aside has not been done.
    #[test]
    fn putting_aside_alone_is_no_work() {
        let mut gauge = Gauge::new();
        let mut now = Instant::now();
        let mut aside = 0;
        // Ten times faster than alone, but nothing comes back but every eighth.
        while gauge.shares() {
            now += Duration::from_nanos(64 * 20);
            aside += 56;
            gauge.next(64, aside, now);
        }
        let shared = run(&mut gauge, 32_000, 100, 100);
        assert_eq!(shared, 0, "160 ns a packet that was done");
    }

    /// Pauses are nobody's fault.
    #[test]
    fn a_pause_does_not_count() {
        let mut gauge = Gauge::new();
        let mut now = Instant::now();
        for _ in 0..8 {
            run(&mut gauge, 320, 200, 120);
            gauge.interrupt();
            now += Duration::from_secs(1);
            gauge.next(64, 0, now);
            gauge.interrupt();
        }
        let shared = run(&mut gauge, 40_000, 200, 120);
        assert!(shared > 36_000, "{shared}");
    }
}
