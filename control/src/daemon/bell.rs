//! What wakes a thread that waits in poll(2), from another thread.
//!
//! A sleeper that looks for work in memory says first that it is about to sleep ([`Bell::lie_down`]), then looks once more, and
//! only then waits; who has made work for it rings if it said so ([`Bell::wake`]). Whichever comes first, the work is seen.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// A bell for one sleeper.
pub(crate) struct Bell {
    rope: UnixStream,
    clapper: UnixStream,
    asleep: AtomicBool,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn new() -> io::Result<Bell> {
        let (rope, clapper) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        clapper.set_nonblocking(true)?;
        Ok(Bell { rope, clapper, asleep: AtomicBool::new(false) })
    }

    /// Wakes the sleeper, or keeps it from falling asleep the next time it means to.
    pub(crate) fn ring(&self) {
        // A bell that takes no more has been rung.
        let _ = (&self.rope).write(&[1]);
    }

    /// Rings if the sleeper is asleep, or about to be.
    pub(crate) fn wake(&self) {
        self.wake_if(|| true);
    }

    /// Rings if the sleeper is asleep, or about to be, and there is something for it.
    pub(crate) fn wake_if(&self, something: impl FnOnce() -> bool) {
        // What was made for the sleeper comes before the question whether it sleeps.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && something() && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    /// From here on, [`Bell::wake`] rings.
    pub(crate) fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // It comes before the last look for work.
        fence(Ordering::SeqCst);
    }

    /// The sleeper is up: the bell is silent again.
    pub(crate) fn get_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let mut rung = [0; 64];
        while matches!((&self.clapper).read(&mut rung), Ok(length) if length == rung.len()) {}
    }
}

/// Readable when the bell has been rung.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.clapper.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_rung(bell: &Bell) -> bool {
        let mut waited = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        poll(&mut waited, PollTimeout::ZERO).expect("poll") == 1
    }

    #[test]
    fn only_a_sleeper_is_woken() {
        let bell = Bell::new().expect("a bell");
        bell.wake();
        assert!(!is_rung(&bell));
        bell.lie_down();
        bell.wake();
        assert!(is_rung(&bell));
        bell.get_up();
        assert!(!is_rung(&bell));
        bell.wake();
        assert!(!is_rung(&bell));
    }

    #[test]
    fn a_bell_takes_any_number_of_strokes() {
        let bell = Bell::new().expect("a bell");
        for _ in 0..1_000_000 {
            bell.ring();
        }
        assert!(is_rung(&bell));
        bell.get_up();
        assert!(!is_rung(&bell));
    }

    #[test]
    fn a_sleeper_wakes() {
        let bell = Arc::new(Bell::new().expect("a bell"));
        bell.lie_down();
        let other = Arc::clone(&bell);
        let waker = thread::spawn(move || other.wake());
        let mut waited = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waited, PollTimeout::from(5_000_u16)), Ok(1));
        waker.join().expect("the waker");
    }
}
