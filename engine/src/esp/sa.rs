//! Security associations: the one that sends, and those that receive.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::cipher::{Aad, Key};
use super::iv::IvRange;
use super::replay::ReplayWindow;
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
#[derive(Debug)]
#[repr(C, align(64))] // numbers in one cache line, the key in those that follow
pub struct OutboundSa {
    spi: Spi,
    esn: bool,
    iv: IvRange,
    /// The number of the first packet; its IV is the first of the range.
    first: u64,
    /// The highest number that may be sent.
    last: u64,
    next: AtomicU64,
    key: Key,
}

impl OutboundSa {
    /// An SA whose first packet carries sequence number `first` (1 for a new one, RFC 4303 section 3.3.3) and which may send
    /// until the numbers end (at 2^32 - 1 without ESN, just before 2^64 with it) or the IVs do.
    pub fn new(spi: Spi, key: Key, esn: bool, iv: IvRange, first: u64) -> OutboundSa {
        let numbers_end = if esn { u64::MAX - NEVER_USED } else { u64::from(u32::MAX) };
        let last = numbers_end.min(first.saturating_add(iv.count() - 1));
        OutboundSa { spi, key, esn, iv, first, last, next: AtomicU64::new(first) }
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

    /// Packets that can still be sent. Few left: time for a rekey. None: [`OutboundSa::take`] refuses.
    pub fn remaining(&self) -> u64 {
        (self.last + 1).saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Packets sent, or at least numbered.
    pub fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.last + 1) - self.first.min(self.last + 1)
    }

    /// The sequence numbers given out so far.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.next.load(Ordering::Relaxed).min(self.last + 1)
    }

    /// Takes up to `count` sequence numbers, fewer at the end of the SA's life. Workers that share the SA take disjoint ones.
    ///
    /// # Errors
    /// [`Exhausted`] when none is left.
    #[inline]
    pub fn take(&self, count: u64) -> Result<Lease, Exhausted> {
        // Looked at first, so that the counter stops near the end however often it is asked, and cannot wrap.
        if self.next.load(Ordering::Relaxed) > self.last {
            return Err(Exhausted);
        }
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let left = (self.last + 1).saturating_sub(first);
        if left == 0 {
            return Err(Exhausted);
        }
        Ok(Lease { first, count: count.min(left) })
    }

    /// The IV that belongs to a sequence number this SA gave out, in wire order.
    #[inline]
    pub fn iv(&self, sequence: u64) -> [u8; 8] {
        self.iv.nth(sequence.wrapping_sub(self.first))
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
}

impl InboundSa {
    /// An SA with an empty window.
    pub fn new(spi: Spi, key: Key, esn: bool, window: ReplayWindow) -> InboundSa {
        InboundSa { spi, key, esn, window, udp_port: None }
    }

    /// The same SA, its packets in UDP to our port `port`, host byte order (RFC 3948). They may come through a NAT then, so
    /// from any address; and plain ESP is taken as well (RFC 7296 section 2.23).
    pub fn in_udp(self, port: u16) -> InboundSa {
        InboundSa { udp_port: Some(port), ..self }
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
}
