//! Security associations: the one that sends, and those that receive.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cipher::{Aad, Key};
use super::iv::IvRange;
use super::replay::ReplayWindow;
use super::whence::{Source, Whence};
use crate::sync::AtomicU64;

/// A security parameter index, host byte order (RFC 4303 section 2.1).
pub type Spi = u32;

/// What ESP protects (RFC 4301 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The GRE packet itself: outer IP, ESP, GRE.
    Transport,
    /// A whole IP packet with GRE in it: outer IP, ESP, IP, GRE.
    Tunnel,
}

/// The SA has used up its sequence numbers or IVs and must be replaced (RFC 4303 section 3.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

/// Sequence numbers that were taken for a batch: `first`, `first + 1`, .. , `count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Numbers at the end of the 64 bits that are never given out. Workers that meet the end of the SA at once move its counter
/// beyond it by a batch each, and it must not wrap around to numbers that were used.
const NEVER_USED: u64 = 1 << 32;

/// An SA that sends. It cannot be cloned, and a sequence number that it gave out is never given out again: one counter
/// yields both sequence number and IV.
///
/// Of an SA that two routers have, each sends with numbers of its own. This one's end at a *limit* that moves: up, when more are
/// this router's ([`OutboundSa::extend`]); down, before others are promised to the other router ([`OutboundSa::limit`]).
#[derive(Debug)]
#[repr(C, align(64))] // numbers in one cache line, the key in those that follow
pub struct OutboundSa {
    spi: Spi,
    esn: bool,
    iv: IvRange,
    /// The number whose IV is the first of the range.
    origin: u64,
    /// The number of the first packet.
    first: u64,
    /// The highest number that there is.
    end: u64,
    /// The highest number that may be sent now.
    last: AtomicU64,
    next: AtomicU64,
    key: Key,
}

impl OutboundSa {
    /// An SA whose first packet carries sequence number `first` (1 for a new one, RFC 4303 section 3.3.3) and which may send
    /// until the numbers end (at 2^32 - 1 without ESN, just before 2^64 with it) or the IVs do.
    pub fn new(spi: Spi, key: Key, esn: bool, iv: IvRange, first: u64) -> OutboundSa {
        let numbers_end = if esn { u64::MAX - NEVER_USED } else { u64::from(u32::MAX) };
        let end = numbers_end.min(first.saturating_add(iv.count() - 1));
        let (last, next) = (AtomicU64::new(end), AtomicU64::new(first));
        OutboundSa { spi, key, esn, iv, origin: first, first, end, last, next }
    }

    /// The same SA, which sends with the numbers from `first` to `last` for now. Each number keeps its IV: two such SAs with
    /// disjoint numbers, in this process or one before it, have disjoint IVs.
    #[must_use]
    pub fn within(self, first: u64, last: u64) -> OutboundSa {
        let first = first.clamp(self.origin, self.end + 1);
        let last = AtomicU64::new(last.clamp(first - 1, self.end));
        OutboundSa { first, last, next: AtomicU64::new(first), ..self }
    }

    /// Sends with no number above `last` from now on. Returns the highest number that may have been sent by then, or be sent
    /// yet: `last`, unless some above it had been given out before. All above it are free to be given to somebody else.
    pub fn limit(&self, last: u64) -> u64 {
        self.last.fetch_min(last, Ordering::Relaxed);
        // A worker moves the counter first and looks at the limit afterwards. If it moved it before this, its numbers are seen
        // here; if after, it sees the limit, since it acquires what is released here.
        let next = self.next.fetch_add(0, Ordering::Release);
        last.max(next.saturating_sub(1)).min(self.end)
    }

    /// May send the numbers up to and with `last` as well, which nobody else sends.
    pub fn extend(&self, last: u64) {
        self.last.fetch_max(last.min(self.end), Ordering::Relaxed);
    }

    /// The highest number that may be sent now.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The highest number that there is: no limit is above it.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The same SA, good for that many packets at most.
    #[must_use]
    pub fn limited(self, packets: u64) -> OutboundSa {
        let end = self.end.min(self.origin.saturating_add(packets).saturating_sub(1));
        OutboundSa { end, last: AtomicU64::new(self.last().min(end)), ..self }
    }

    /// The SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The key, for the cipher.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Asks the processor for the SA's numbers; the cipher asks for the keys of its batch itself.
    #[inline]
    pub fn prefetch(&self) {
        crate::ring::prefetch(self);
    }

    /// The IVs that belong to it, used or not.
    pub fn ivs(&self) -> &IvRange {
        &self.iv
    }

    /// Packets that can still be sent, as it is limited now. None: [`OutboundSa::take`] refuses.
    pub fn remaining(&self) -> u64 {
        (self.last() + 1).saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Packets that could still be sent, were it not limited. Few left: time for a rekey.
    pub fn until_end(&self) -> u64 {
        (self.end + 1).saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Packets sent, or at least numbered.
    pub fn used(&self) -> u64 {
        let numbers = self.numbers();
        numbers.end - numbers.start
    }

    /// The sequence numbers given out so far.
    pub fn numbers(&self) -> Range<u64> {
        // A limit that was lowered may stand below the first number.
        self.first..self.next.load(Ordering::Relaxed).min(self.last() + 1).max(self.first)
    }

    /// The highest sequence number given out so far; the one before the first, if none was.
    pub fn highest(&self) -> u64 {
        self.numbers().end.saturating_sub(1)
    }

    /// Takes up to `count` sequence numbers, fewer at the end of the SA's life or at its limit. Workers that share the SA take
    /// disjoint ones.
    ///
    /// # Errors
    /// [`Exhausted`] when none is left.
    #[inline]
    pub fn take(&self, count: u64) -> Result<Lease, Exhausted> {
        // Looked at first, so that the counter stops near the end however often it is asked, and cannot wrap.
        if self.next.load(Ordering::Relaxed) > self.last.load(Ordering::Relaxed) {
            return Err(Exhausted);
        }
        // See `limit`.
        let first = self.next.fetch_add(count, Ordering::Acquire);
        let left = (self.last.load(Ordering::Relaxed) + 1).saturating_sub(first);
        if left == 0 {
            return Err(Exhausted);
        }
        Ok(Lease { first, count: count.min(left) })
    }

    /// The IV that belongs to a sequence number this SA gave out, in wire order.
    #[inline]
    pub fn iv(&self, sequence: u64) -> [u8; 8] {
        self.iv.nth(sequence.wrapping_sub(self.origin))
    }

    /// What is authenticated with the packet of that number.
    #[inline]
    pub fn aad(&self, sequence: u64) -> Aad {
        Aad::new(self.spi, sequence, self.esn)
    }
}

/// An SA that receives. Its window belongs to the one worker that opens its packets.
#[derive(Debug)]
#[repr(C, align(64))] // the window's edge in one cache line, the key in those that follow
pub struct InboundSa {
    spi: Spi,
    esn: bool,
    udp_port: Option<u16>,
    window: ReplayWindow,
    key: Key,
    whence: Whence,
    moved: Option<Arc<AtomicBool>>,
}

// What a packet in order changes is one line.
const _: () = assert!(std::mem::offset_of!(InboundSa, key) == 64);

impl InboundSa {
    /// An SA with an empty window.
    pub fn new(spi: Spi, key: Key, esn: bool, window: ReplayWindow) -> InboundSa {
        InboundSa { spi, key, esn, window, udp_port: None, whence: Whence::default(), moved: None }
    }

    /// The same SA, its packets in UDP to our port `port`, host byte order (RFC 3948). They may come through a NAT then, so
    /// from any address; and plain ESP is taken as well (RFC 7296 section 2.23).
    pub fn in_udp(self, port: u16) -> InboundSa {
        InboundSa { udp_port: Some(port), ..self }
    }

    /// The same SA, which sets `moved` whenever [`InboundSa::source`] has changed.
    pub fn telling(self, moved: &Arc<AtomicBool>) -> InboundSa {
        InboundSa { moved: Some(Arc::clone(moved)), ..self }
    }

    /// Where the newest packet that came in UDP was from, of those that were in order in every way; and a number that is another one
    /// each time that this has changed. `None` before the first.
    pub fn source(&self) -> Option<(u64, SocketAddr)> {
        self.whence.get()
    }

    /// Is a packet in UDP from where the newest was from?
    #[inline]
    pub(crate) fn is_from(&self, source: Source) -> bool {
        self.whence.is(source)
    }

    /// The newest packet was from there. For the worker that the window belongs to.
    pub fn came_from(&self, source: SocketAddr) {
        self.whence.set(Source::of(source));
        if let Some(moved) = &self.moved {
            moved.store(true, Ordering::Release);
        }
    }

    /// Our UDP port that its packets come to, host byte order, where they come in UDP.
    pub fn udp_port(&self) -> Option<u16> {
        self.udp_port
    }

    /// The SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The key, for the cipher.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Asks the processor for the SA's numbers; the cipher asks for the keys of its batch itself.
    #[inline]
    pub fn prefetch(&self) {
        crate::ring::prefetch(self);
    }

    /// The anti-replay window.
    #[inline]
    pub fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// What is authenticated with the packet of that (whole) sequence number.
    #[inline]
    pub fn aad(&self, sequence: u64) -> Aad {
        Aad::new(self.spi, sequence, self.esn)
    }
}

#[cfg(all(test, culvert_loom))]
mod every_order {
    use std::collections::HashSet;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::esp::{Router, Suite};

    /// Two workers share an SA with five numbers left and ask for more: each number is given out once at most, none beyond the
    /// last, and nobody is told of an end that has not come, in whatever order they run.
    #[test]
    fn numbers_are_given_out_once() {
        loom::model(|| {
            let key = Key::new(Suite::Aes128Gcm16, &[7; 20]).expect("a key");
            let iv = IvRange::of_run(Router::First, 0).expect("a run");
            let first = u64::from(u32::MAX) - 4;
            let sa = Arc::new(OutboundSa::new(1, key, false, iv, first));
            let ask = |sa: &OutboundSa| {
                let mut taken = Vec::new();
                while let Ok(Lease { first, count }) = sa.take(2) {
                    taken.extend(first..first + count);
                }
                taken
            };
            let other = Arc::clone(&sa);
            let worker = thread::spawn(move || ask(&other));
            let mut all = ask(&sa);
            all.extend(worker.join().expect("no panic"));
            assert_eq!(all.len(), 5);
            assert_eq!(all.into_iter().collect::<HashSet<_>>(), (first..first + 5).collect());
            assert_eq!(sa.remaining(), 0);
        });
    }

    /// Two workers take numbers while the SA is limited, and the limit is raised again: no number above the mark is given out
    /// before it is raised, and none twice.
    #[test]
    fn no_number_above_the_mark_is_given_out() {
        loom::model(|| {
            let key = Key::new(Suite::Aes128Gcm16, &[7; 20]).expect("a key");
            let iv = IvRange::of_run(Router::First, 0).expect("a run");
            let sa = Arc::new(OutboundSa::new(1, key, true, iv, 1));
            let workers = [0, 1].map(|_| {
                let sa = Arc::clone(&sa);
                thread::spawn(move || {
                    let mut taken = Vec::new();
                    for _ in 0..2 {
                        if let Ok(Lease { first, count }) = sa.take(2) {
                            taken.extend(first..first + count);
                        }
                    }
                    taken
                })
            });
            let mark = sa.limit(2);
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.join().expect("no panic"));
            }
            assert!(all.iter().all(|number| *number <= mark), "{all:?} with the mark {mark}");
            sa.extend(mark + 2);
            while let Ok(Lease { first, count }) = sa.take(2) {
                all.extend(first..first + count);
            }
            assert!(all.iter().all(|number| *number <= mark + 2));
            let count = all.len();
            assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), count);
        });
    }
}

#[cfg(all(test, not(culvert_loom)))]
mod tests {
    use super::*;
    use crate::esp::{Router, Suite};

    fn sa(router: Router, esn: bool) -> OutboundSa {
        let key = Key::new(Suite::Aes128Gcm16, &[7; 20]).expect("a key");
        OutboundSa::new(1, key, esn, IvRange::of_run(router, 0).expect("a run"), 1)
    }

    #[test]
    fn a_limit_is_lowered_and_raised() {
        let sa = sa(Router::First, false);
        assert_eq!(sa.take(10), Ok(Lease { first: 1, count: 10 }));
        assert_eq!((sa.limit(14), sa.remaining()), (14, 4));
        assert_eq!(sa.take(3), Ok(Lease { first: 11, count: 3 }));
        assert_eq!(sa.take(3), Ok(Lease { first: 14, count: 1 }));
        assert_eq!((sa.take(1), sa.remaining(), sa.used()), (Err(Exhausted), 0, 14));
        // The counter has moved beyond the limit: what lies between is nobody's.
        sa.extend(20);
        assert_eq!(sa.take(100), Ok(Lease { first: 17, count: 4 }));
        assert_eq!(sa.limit(18), 116, "numbers above it had been given out");
        sa.extend(u64::MAX);
        assert_eq!((sa.last(), sa.until_end()), (sa.end(), u64::from(u32::MAX) - 116));
        assert_eq!(sa.limit(u64::MAX), sa.end());
    }

    /// Both routers, and one after its restart: an IV tells the router and the number.
    #[test]
    fn a_number_has_one_iv_wherever_the_sa_begins() {
        for router in [Router::First, Router::Second] {
            let (whole, part) = (sa(router, true), sa(router, true).within(1000, 1001));
            assert_eq!(whole.iv(1001), part.iv(1001));
            assert_eq!((part.used(), part.numbers(), part.remaining()), (0, 1000..1000, 2));
            assert_eq!(part.take(9), Ok(Lease { first: 1000, count: 2 }));
            assert_eq!((part.take(1), part.used(), part.end()), (Err(Exhausted), 2, whole.end()));
        }
        assert_ne!(sa(Router::First, true).iv(7), sa(Router::Second, true).iv(7));
        let none = sa(Router::First, false).within(u64::MAX, u64::MAX);
        assert_eq!((none.remaining(), none.take(1), none.numbers().is_empty()), (0, Err(Exhausted), true));
    }
}
