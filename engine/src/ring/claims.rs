//! How threads share a circle of blocks: one fills them, any thread claims one to work on, and they are emptied in the order of
//! filling, by whoever filled them or by another.
//!
//! 1. The block with the count `filled` is the filling end's, if it was emptied and is finished. Raising `filled` releases what
//!    was put there.
//! 2. Whoever raises `claimed` past a block has it, alone: a compare-and-swap, so each block goes to one thread.
//! 3. That thread says when it is finished with the block, which releases what it did, and in the same word how that went.
//! 4. The emptying end has the block with the count `emptied` once it is finished, and raises `emptied`, which hands it back.
//!
//! A block whose claimer does not finish can be passed over: `emptied` is raised without a look at the block. It cannot be filled
//! again until it is finished after all; so whatever a thread does, nobody else touches a block that it has.

use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;

use crate::sync::AtomicU64;

/// Blocks in the circle.
pub(super) const BLOCKS: usize = if cfg!(culvert_loom) { 2 } else { 32 };

/// How much is in a block that somebody works on, or is to work on; 0, and above these bits what was said of it, once that is finished.
/// One word, since each cache line that goes from one core to another costs both some 100 ns.
fn in_work(state: u64) -> u32 {
    state as u32
}

/// What was said of a block that is finished.
fn said(state: u64) -> u32 {
    (state >> u32::BITS) as u32
}

/// The counts, from 0 on: 64 bits do not wrap around.
#[derive(Debug)]
pub(super) struct Claims {
    /// Blocks ever filled. Stored by the filling end.
    filled: CachePadded<AtomicU64>,
    /// Blocks ever claimed.
    claimed: CachePadded<AtomicU64>,
    /// Blocks ever emptied. Stored by the emptying end.
    emptied: CachePadded<AtomicU64>,
    state: [CachePadded<AtomicU64>; BLOCKS],
}

/// The place in the circle of the block with that count.
fn place(count: u64) -> usize {
    count as usize % BLOCKS
}

impl Claims {
    /// All blocks empty.
    pub(super) fn new() -> Claims {
        Claims {
            filled: CachePadded::new(AtomicU64::new(0)),
            claimed: CachePadded::new(AtomicU64::new(0)),
            emptied: CachePadded::new(AtomicU64::new(0)),
            state: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))),
        }
    }

    fn state(&self, count: u64) -> &AtomicU64 {
        &self.state[place(count)]
    }

    /// The block that the filling end may fill now, if it may.
    #[inline]
    pub(super) fn to_fill(&self) -> Option<usize> {
        let filled = self.filled.load(Ordering::Relaxed);
        let room = filled - self.emptied.load(Ordering::Acquire) < BLOCKS as u64;
        (room && in_work(self.state(filled).load(Ordering::Acquire)) == 0).then(|| place(filled))
    }

    /// The filling end has filled the block that [`Claims::to_fill`] gave, with as many things as `count` says: not 0.
    #[inline]
    pub(super) fn fill(&self, count: u32) {
        let filled = self.filled.load(Ordering::Relaxed);
        self.state(filled).store(u64::from(count), Ordering::Relaxed);
        self.filled.store(filled + 1, Ordering::Release);
    }

    /// The oldest block that nobody has claimed: it is the caller's until [`Claims::finish`].
    #[inline]
    pub(super) fn claim(&self) -> Option<usize> {
        let mut claimed = self.claimed.load(Ordering::Relaxed);
        loop {
            if claimed >= self.filled.load(Ordering::Acquire) {
                return None;
            }
            let next =
                self.claimed.compare_exchange(claimed, claimed + 1, Ordering::Relaxed, Ordering::Relaxed);
            match next {
                Ok(_) => return Some(place(claimed)),
                Err(further) => claimed = further,
            }
        }
    }

    /// Whoever claimed block `place` is finished with it, and says `said` of it.
    #[inline]
    pub(super) fn finish(&self, place: usize, said: u32) {
        if let Some(state) = self.state.get(place) {
            state.store(u64::from(said) << u32::BITS, Ordering::Release);
        }
    }

    /// The oldest block, if it is finished, and what was said of it: the emptying end's until [`Claims::empty`].
    #[inline]
    pub(super) fn to_empty(&self) -> Option<(usize, u32)> {
        let emptied = self.emptied.load(Ordering::Relaxed);
        if emptied >= self.filled.load(Ordering::Acquire) {
            return None;
        }
        let state = self.state(emptied).load(Ordering::Acquire);
        (in_work(state) == 0).then(|| (place(emptied), said(state)))
    }

    /// The emptying end is done with the oldest block, or passes it over. It must be claimed: nobody could have it any more.
    #[inline]
    pub(super) fn empty(&self) {
        let emptied = self.emptied.load(Ordering::Relaxed);
        self.emptied.store(emptied + 1, Ordering::Release);
    }

    /// Has somebody the oldest block who is not finished with it? How much is in it, for the emptying end.
    pub(super) fn in_work(&self) -> Option<u32> {
        let emptied = self.emptied.load(Ordering::Relaxed);
        let claimed = emptied < self.claimed.load(Ordering::Relaxed);
        let count = in_work(self.state(emptied).load(Ordering::Acquire));
        (claimed && count != 0).then_some(count)
    }

    /// Blocks that wait to be claimed.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        let claimed = self.claimed.load(Ordering::Relaxed);
        self.filled.load(Ordering::Relaxed).saturating_sub(claimed) as usize
    }

    /// Blocks that were filled and have not been emptied.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let emptied = self.emptied.load(Ordering::Relaxed);
        self.filled.load(Ordering::Relaxed).saturating_sub(emptied) as usize
    }
}

#[cfg(all(test, culvert_loom))]
mod every_order {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    struct Circle {
        claims: Claims,
        blocks: [UnsafeCell<u32>; BLOCKS],
    }

    // SAFETY: what is tried here; loom reports any two accesses to a block that are not ordered.
    unsafe impl Sync for Circle {}
    // SAFETY: integers inside.
    unsafe impl Send for Circle {}

    impl Circle {
        fn new() -> Arc<Circle> {
            Arc::new(Circle { claims: Claims::new(), blocks: std::array::from_fn(|_| UnsafeCell::new(0)) })
        }

        fn fill(&self, number: u32) -> bool {
            let Some(place) = self.claims.to_fill() else { return false };
            // SAFETY: loom's cell checks that nobody else has it.
            self.blocks[place].with_mut(|block| unsafe { *block = number });
            self.claims.fill(1);
            true
        }

        /// Works on a block, if one waits.
        fn work(&self) {
            if let Some(place) = self.claims.claim() {
                self.work_on(place);
            }
        }

        fn work_on(&self, place: usize) {
            // SAFETY: as above.
            self.blocks[place].with_mut(|block| unsafe { *block *= 10 });
            self.claims.finish(place, 7);
        }

        fn empty(&self) -> Option<u32> {
            let (place, said) = self.claims.to_empty()?;
            assert_eq!(said, 7);
            // SAFETY: as above.
            let number = self.blocks[place].with_mut(|block| unsafe { *block });
            self.claims.empty();
            Some(number)
        }
    }

    /// Three blocks go through a circle of two; the thread that fills and empties works too, and another helps. Each is worked on
    /// once, they come out in order, and no block is touched by two threads at once, in whatever order they run.
    #[test]
    fn blocks_are_worked_on_once_and_come_out_in_order() {
        loom::model(|| {
            let circle = Circle::new();
            let helping = Arc::clone(&circle);
            let helper = thread::spawn(move || (0..2).for_each(|_| helping.work()));
            let (mut filled, mut seen) = (0, Vec::new());
            while seen.len() < 3 {
                if filled < 3 && circle.fill(filled + 1) {
                    filled += 1;
                }
                circle.work();
                match circle.empty() {
                    Some(number) => seen.push(number),
                    None => thread::yield_now(),
                }
            }
            helper.join().expect("no panic");
            assert_eq!(seen, [10, 20, 30]);
            assert_eq!(circle.claims.len(), 0);
        });
    }

    /// A block that its claimer has not finished is passed over. Those behind it come out, it is not filled again as long as it is
    /// in work, and afterwards it is.
    #[test]
    fn a_block_passed_over_is_left_alone() {
        loom::model(|| {
            let circle = Circle::new();
            assert!(circle.fill(1));
            let helping = Arc::clone(&circle);
            let claimed = circle.claims.claim().expect("a block");
            let helper = thread::spawn(move || helping.work_on(claimed));
            let passed = circle.claims.in_work().is_some();
            if passed {
                circle.claims.empty();
            }
            assert!(circle.fill(2));
            // The first block's place again.
            let again = circle.fill(3);
            circle.work();
            circle.work();
            helper.join().expect("no panic");
            let mut seen = Vec::new();
            while let Some(number) = circle.empty() {
                seen.push(number);
            }
            let wanted = [Some(10).filter(|_| !passed), Some(20), Some(30).filter(|_| again)];
            assert_eq!(seen, wanted.into_iter().flatten().collect::<Vec<_>>());
            assert!(circle.claims.to_fill().is_some());
        });
    }
}
