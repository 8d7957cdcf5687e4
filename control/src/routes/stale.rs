//! What a source has to read again, and when. Hosts do not tell everything (a route that falls with its link or its
//! address may go in silence, and just after the message about the link), so a change of a link or an address has the routes
//! read at once, and once more when things have settled.

use std::time::{Duration, Instant};

/// How long after a change of a link or an address the host may still be at work on what follows from it.
const SETTLE: Duration = Duration::from_millis(250);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What has to be read again.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    /// Routes, and what they are made of.
    pub(crate) routes: bool,
    /// Everything: messages were lost.
    pub(crate) everything: bool,
    due: Option<Instant>,
}

impl Stale {
    /// Routes are to be read, now and when things have settled.
    pub(crate) fn unsettled(&mut self, now: Instant) {
        self.routes = true;
        self.due = now.checked_add(SETTLE);
    }

    /// Reading failed; it is tried again later.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.due = now.checked_add(RETRY);
    }

    /// Where the time has come, routes are to be read.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.routes = true;
        }
    }

    /// When it will have come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Everything has been read.
    pub(crate) fn clear(&mut self) {
        self.everything = false;
        self.routes = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_at_once_and_when_things_have_settled() {
        let mut stale = Stale::default();
        let start = Instant::now();
        stale.unsettled(start);
        assert!(stale.routes);
        stale.clear();
        stale.tick(start);
        assert!(!stale.routes, "not yet");
        stale.unsettled(start + SETTLE / 2);
        stale.clear();
        stale.tick(start + SETTLE);
        assert!(!stale.routes, "a second change puts it off");
        stale.tick(start + SETTLE * 2);
        assert!(stale.routes && stale.deadline().is_none());
    }
}
