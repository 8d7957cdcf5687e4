//! The two directions of a kernel ring: when to make the system call, and what its failure means.
//!
//! A sync costs a system call, so it is left out when it could change nothing that the caller can see. A failure never ends in
//! a spin: the ring rests for a while, and nobody is told to wait on a descriptor that would report nothing but the error.
//!
//! While an interface is administratively down, FreeBSD's drivers keep its rings locked, and a sync or a `poll` sleeps in the
//! kernel until it is up again, beyond the reach of signals, `SIGKILL` included (`nm_kr_tryget`; seen on FreeBSD 14). All ports
//! that the thread serves stand still with it. [`NetmapHold`] is the way out.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kernel::{Descriptor, Exchange};
use crate::ring::port::{Health, RxQueue, TxQueue};
use crate::ring::raw::RawRing;
use crate::ring::renewal::Renewal;

/// After this long without a sync, frames that have not left yet get another: a driver whose own queue was full takes the rest
/// only when asked.
const RESYNC: Duration = Duration::from_millis(1);
/// The same where transmit is emulated, and asking may itself be what stops it: a last resort.
const EMULATED_RESYNC: Duration = Duration::from_millis(20);
/// How long a ring rests after a failed sync.
const REST: Duration = Duration::from_millis(10);

/// Keeps the queues of a port, which may be with other threads by now, away from the kernel's rings.
///
/// A thread that is asleep in a sync because the interface was set down is freed like this: hold the port, set the
/// interface up, and then, if it is to stay down, down again. Release it when the interface is up for good.
#[derive(Debug, Clone, Default)]
pub struct NetmapHold(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: AtomicBool,
    lost: AtomicBool,
}

impl NetmapHold {
    /// From now on no queue of the port makes a system call; their health is [`Health::Down`].
    pub fn hold(&self) {
        self.0.held.store(true, Ordering::Relaxed);
    }

    /// The queues go on.
    pub fn release(&self) {
        self.0.held.store(false, Ordering::Relaxed);
    }

    /// Has a queue of the port become unusable for good? Its interface has gone, or the kernel's rings make no sense any more.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }

    fn is_held(&self) -> bool {
        self.0.held.load(Ordering::Relaxed)
    }
}

/// What stands behind both directions of a ring pair.
#[derive(Clone)]
pub(super) struct Line {
    descriptor: Arc<dyn Descriptor>,
    /// Name and index of the interface; `None` for VALE ports and pipes, which depart with their descriptor alone.
    interface: Option<(Arc<str>, u32)>,
    /// Set for good when one of the two directions can no more be used.
    lost: Arc<AtomicBool>,
    hold: NetmapHold,
    /// Goes last: the offloads come back when the last queue of the port has gone.
    _port: Arc<dyn Send + Sync>,
}

impl Line {
    pub(super) fn new(
        descriptor: Arc<dyn Descriptor>,
        interface: Option<(Arc<str>, u32)>,
        hold: NetmapHold,
        port: Arc<dyn Send + Sync>,
    ) -> Line {
        Line { descriptor, interface, lost: Arc::default(), hold, _port: port }
    }
}

/// How a ring fares.
enum State {
    Works,
    /// The kernel has stopped the ring, for a moment or for good. To be tried again at this time.
    Stopped(Instant),
}

struct Ring {
    line: Line,
    state: State,
}

impl Ring {
    /// Makes the call, unless the ring rests. Was it made, and did it succeed?
    fn sync(&mut self, exchange: Exchange) -> bool {
        if self.line.hold.is_held() {
            return false;
        }
        if let State::Stopped(until) = self.state
            && (Instant::now() < until || self.is_lost())
        {
            return false;
        }
        match self.line.descriptor.sync(exchange) {
            Ok(()) => {
                self.state = State::Works;
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    #[cold]
    fn failed(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {}
            Some(libc::ENXIO | libc::EBADF | libc::ENODEV) => self.give_up(),
            // EIO: the kernel has stopped the ring. EINVAL: it has found the cursors wrong and set them anew; whoever called
            // reads them back in any case.
            _ => self.state = State::Stopped(Instant::now() + REST),
        }
    }

    /// The descriptor or the ring's contents are no good any more.
    #[cold]
    fn give_up(&mut self) {
        self.line.lost.store(true, Ordering::Relaxed);
        self.line.hold.0.lost.store(true, Ordering::Relaxed);
        self.state = State::Stopped(Instant::now() + REST);
    }

    fn is_lost(&self) -> bool {
        self.line.lost.load(Ordering::Relaxed)
    }

    fn works(&self) -> bool {
        matches!(self.state, State::Works) && !self.line.hold.is_held()
    }

    fn health(&self) -> Health {
        match self.state {
            _ if self.is_lost() => Health::Departed,
            State::Works if self.line.hold.is_held() => Health::Down,
            State::Works => Health::Attached,
            State::Stopped(_) => match &self.line.interface {
                Some((name, index)) if self.line.descriptor.is_attached(name, *index) => Health::Down,
                _ => Health::Departed,
            },
        }
    }
}

/// Behind a receive ring.
pub(in crate::ring) struct NetmapRx {
    ring: Ring,
    pub(super) renewal: Arc<Renewal<RxQueue>>,
    /// `head` as of the last sync: slots before it have been given back.
    given: u32,
}

impl NetmapRx {
    pub(super) fn new(line: Line, ring: &RawRing) -> NetmapRx {
        NetmapRx { ring: Ring { line, state: State::Works }, renewal: Renewal::new(), given: ring.head() }
    }

    /// The queue that takes this one's place.
    #[inline]
    pub(in crate::ring) fn renewed(&self) -> Option<RxQueue> {
        if self.renewal.is_ready() { self.renewal.take() } else { None }
    }

    /// Gives released slots back and learns of new frames. Left out while there are still frames to take and the kernel has
    /// plenty of free slots; a caller who took nothing since the last time has no use for the frames that are there (one that
    /// is not complete yet), so for him it is made.
    #[inline]
    pub(in crate::ring) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head_or(self.given);
        let released = ring.distance(self.given, head);
        let waiting = ring.distance(head, ring.tail());
        if waiting > 0 && released > 0 && released < ring.count() / 2 {
            return;
        }
        if self.ring.sync(Exchange::Receive) {
            self.given = ring.head_or(head);
        }
    }

    /// What to wait on; nothing while the ring is stopped, when waiting would end at once.
    pub(in crate::ring) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.ring.works().then(|| self.ring.line.descriptor.wait_fd())
    }

    pub(in crate::ring) fn health(&self) -> Health {
        self.ring.health()
    }
}

/// Behind a transmit ring.
pub(in crate::ring) struct NetmapTx {
    ring: Ring,
    pub(super) renewal: Arc<Renewal<TxQueue>>,
    /// `head` as of the last sync: slots before it have been shown to the kernel.
    shown: u32,
    /// Slots before this one, from `head` on, are known to carry buffers.
    checked: u32,
    last: Instant,
    emulated: bool,
}

impl NetmapTx {
    pub(super) fn new(line: Line, ring: &RawRing, emulated: bool) -> NetmapTx {
        NetmapTx {
            ring: Ring { line, state: State::Works },
            renewal: Renewal::new(),
            shown: ring.head(),
            checked: ring.head(),
            last: Instant::now(),
            emulated,
        }
    }

    /// The queue that takes this one's place.
    #[inline]
    pub(in crate::ring) fn renewed(&self) -> Option<TxQueue> {
        if self.renewal.is_ready() { self.renewal.take() } else { None }
    }

    /// Sends what is queued and learns which slots are free again. Left out where nothing is queued, unless frames are on
    /// their way that the caller needs the slots of, or that have been for longer than they should.
    ///
    /// Emulation has two ways to take slots back: it sees that the driver has let go of a packet, or it has itself told by the
    /// packet's destructor. The second stops for good where the packet ends in another interface (epair; seen on FreeBSD
    /// 14), and is what `NIOCTXSYNC`, or a ring without a free slot, makes it choose. So there frames are pushed by `poll`, and
    /// a slot is kept free.
    #[inline]
    pub(in crate::ring) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head_or(self.shown);
        let space = ring.distance(head, ring.tail());
        let late = || space <= self.kept_free() || self.last.elapsed() >= RESYNC;
        if head == self.shown && (!Self::under_way(ring, space) || !late()) {
            return;
        }
        let how = if self.emulated && head != self.shown { Exchange::Push } else { Exchange::Transmit };
        if self.emulated && how == Exchange::Transmit && self.last.elapsed() < EMULATED_RESYNC {
            return;
        }
        if self.ring.sync(how) {
            self.last = Instant::now();
        }
        // Shown or not: what a stopped ring holds goes out with the next sync that succeeds.
        self.shown = ring.head_or(head);
    }

    #[inline]
    fn kept_free(&self) -> u32 {
        u32::from(self.emulated)
    }

    /// The kernel keeps one slot, so that a full ring differs from an empty one.
    #[inline]
    fn under_way(ring: &RawRing, space: u32) -> bool {
        space + 1 < ring.count()
    }

    /// How many of the free slots may be used. All that are not kept carry buffers, or something is badly wrong and the ring is
    /// of no more use.
    #[inline]
    pub(in crate::ring) fn usable_slots(&mut self, ring: &RawRing) -> u32 {
        let (head, tail) = (ring.head_or(0), ring.tail());
        let space = ring.distance(head, tail);
        let known = ring.distance(head, self.checked);
        // After a re-initialisation the slot checked last may lie outside the free ones: look at all again.
        let known = if known <= space { known } else { 0 };
        for nth in known..space {
            if !ring.is_buffer(ring.slot(ring.ahead(head, nth)).buf_idx) {
                self.ring.give_up();
                return nth;
            }
        }
        self.checked = tail;
        space.saturating_sub(self.kept_free())
    }
}
