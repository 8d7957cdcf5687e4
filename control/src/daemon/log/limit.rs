//! How often the same thing is said.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::LogLevel as Level;

/// Lines of one place that are written in [`PERIOD`].
pub(in crate::daemon) const BURST: u64 = 20;
/// Counted from the first of them.
pub(in crate::daemon) const PERIOD: Duration = Duration::from_secs(10);

/// A place of the program: file and line.
type Place = (&'static str, u32);

/// What has been said where, lately.
#[derive(Default)]
pub(super) struct Limits(HashMap<Place, Said>);

struct Said {
    since: Instant,
    lines: u64,
    /// The last line that was left out, with its level.
    last: Option<(Level, String)>,
}

/// Whether a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Say,
    LeaveOut,
}

impl Limits {
    /// May `place` say something more? `what` it would say is kept where not.
    pub(super) fn ask(
        &mut self,
        place: Place,
        level: Level,
        now: Instant,
        what: impl FnOnce() -> String,
    ) -> Verdict {
        let said = self.0.entry(place).or_insert(Said { since: now, lines: 0, last: None });
        // Those that were left out are told first, by `look_after`.
        if now >= said.since + PERIOD && said.last.is_none() {
            *said = Said { since: now, lines: 0, last: None };
        }
        said.lines += 1;
        if said.lines <= BURST {
            return Verdict::Say;
        }
        said.last = Some((level, what()));
        Verdict::LeaveOut
    }

    /// For each place whose period is over: how many lines were left out, and the last of them with its level.
    pub(super) fn look_after(&mut self, now: Instant) -> Vec<(Level, u64, String)> {
        let mut left_out = Vec::new();
        self.0.retain(|_, said| {
            let over = now >= said.since + PERIOD;
            if over && let Some((level, last)) = said.last.take() {
                left_out.push((level, said.lines - BURST, last));
            }
            !over
        });
        left_out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Place = ("here", 1);

    fn say(limits: &mut Limits, place: Place, now: Instant) -> Verdict {
        limits.ask(place, Level::Warn, now, || "a line".to_owned())
    }

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let verdicts: Vec<Verdict> = (0..BURST + 7).map(|_| say(&mut limits, HERE, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Say).count() as u64, BURST);
        assert_eq!(say(&mut limits, ("here", 2), now), Verdict::Say);
        assert!(limits.look_after(now + PERIOD / 2).is_empty());
        assert_eq!(limits.look_after(now + PERIOD), [(Level::Warn, 7, "a line".to_owned())]);
        assert!(limits.look_after(now + PERIOD).is_empty() && limits.0.is_empty());
        assert_eq!(say(&mut limits, HERE, now + PERIOD), Verdict::Say);
    }

    proptest! {
        /// Whenever lines come, each is written or told to be left out.
        #[test]
        fn no_line_is_unaccounted_for(steps in proptest::collection::vec((0..400_u64, 1..60_u64), 1..60)) {
            let (mut limits, mut now) = (Limits::default(), Instant::now());
            let (mut asked, mut told) = (0, 0);
            for (wait, lines) in steps {
                now += PERIOD * u32::try_from(wait).unwrap() / 100;
                told += limits.look_after(now).iter().map(|(_, count, _)| count).sum::<u64>();
                asked += lines;
                let said = (0..lines).filter(|_| say(&mut limits, HERE, now) == Verdict::Say).count() as u64;
                prop_assert!(said <= BURST);
                told += said;
            }
            told += limits.look_after(now + PERIOD).iter().map(|(_, count, _)| count).sum::<u64>();
            prop_assert_eq!(asked, told);
        }
    }
}
