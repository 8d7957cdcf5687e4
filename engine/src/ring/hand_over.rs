//! How two threads share a circle of slots: one fills, the other empties, and each knows by two counts which slots are its own.
//!
//! 1. The filling end has the slots from `written` on, as many as there are but those that were not emptied yet.
//! 2. It fills some, and raises `written`, which releases what it did to them.
//! 3. The emptying end has the slots from `read` up to the `written` that it has seen; seeing it acquires what was done to them.
//! 4. It empties some, and raises `read`, which hands them back in the same way.

use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;

use crate::sync::AtomicU32;

/// The counts, each stored by one end, modulo 2^32.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Slots ever filled.
    written: CachePadded<AtomicU32>,
    /// Slots ever emptied.
    read: CachePadded<AtomicU32>,
}

/// The filling end's view.
#[derive(Debug, Default)]
pub(super) struct Filling {
    written: u32,
    /// As far as the other end knows.
    published: u32,
    read: u32,
}

impl Filling {
    /// The count of the next slot to fill.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.written
    }

    /// Slots that may be filled, of a circle of `size`: what is known, or what is new where nothing is known.
    #[inline]
    pub(super) fn room(&mut self, counts: &Counts, size: u32) -> u32 {
        let room = size - self.written.wrapping_sub(self.read);
        if room != 0 {
            return room;
        }
        self.read = counts.read.load(Ordering::Acquire);
        size - self.written.wrapping_sub(self.read)
    }

    /// `count` more slots are filled; the other end learns of it by [`Filling::publish`].
    #[inline]
    pub(super) fn advance(&mut self, count: u32) {
        self.written = self.written.wrapping_add(count);
    }

    /// Hands the filled slots over. Nothing is stored where nothing is new: the other end, which looks there all the time, would
    /// wait for the line.
    #[inline]
    pub(super) fn publish(&mut self, counts: &Counts) {
        if self.published != self.written {
            self.published = self.written;
            counts.written.store(self.written, Ordering::Release);
        }
    }

    /// Has the other end not emptied all that was filled?
    pub(super) fn is_unread(&self, counts: &Counts) -> bool {
        counts.read.load(Ordering::Acquire) != self.written
    }
}

/// The emptying end's view.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    written: u32,
    read: u32,
    /// As far as the other end knows.
    published: u32,
}

impl Emptying {
    /// The count of the next slot to empty.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.read
    }

    /// Filled slots: what is known, or what is new where nothing is known.
    #[inline]
    pub(super) fn waiting(&mut self, counts: &Counts) -> u32 {
        if self.written == self.read {
            self.written = counts.written.load(Ordering::Acquire);
        }
        self.written.wrapping_sub(self.read)
    }

    /// `count` more slots are empty; the other end learns of it by [`Emptying::publish`].
    #[inline]
    pub(super) fn advance(&mut self, count: u32) {
        self.read = self.read.wrapping_add(count);
    }

    /// Hands the emptied slots back, if any.
    #[inline]
    pub(super) fn publish(&mut self, counts: &Counts) {
        if self.published != self.read {
            self.published = self.read;
            counts.read.store(self.read, Ordering::Release);
        }
    }

    /// Is anything filled that has not been emptied?
    pub(super) fn is_pending(&self, counts: &Counts) -> bool {
        counts.written.load(Ordering::Acquire) != self.read
    }
}

#[cfg(all(test, culvert_loom))]
mod every_order {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const SIZE: u32 = 2;
    const NUMBERS: u32 = 3;

    struct Circle {
        counts: Counts,
        slots: [UnsafeCell<u32>; SIZE as usize],
    }

    // SAFETY: what is tried here; loom reports any two accesses to a slot that are not ordered.
    unsafe impl Sync for Circle {}
    // SAFETY: integers inside.
    unsafe impl Send for Circle {}

    /// Numbers go through a circle of two slots, one or two at a time: each arrives once, in order, and no slot is touched by both
    /// ends at once, in whatever order the threads run and their stores are seen.
    #[test]
    fn numbers_arrive_once_and_in_order() {
        loom::model(|| {
            let circle = Arc::new(Circle {
                counts: Counts::default(),
                slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            let filling_end = Arc::clone(&circle);
            let filler = thread::spawn(move || {
                let circle = filling_end;
                let mut filling = Filling::default();
                let mut number = 0;
                while number < NUMBERS {
                    let room = filling.room(&circle.counts, SIZE).min(NUMBERS - number);
                    for nth in 0..room {
                        let at = (filling.next().wrapping_add(nth) % SIZE) as usize;
                        number += 1;
                        // SAFETY: loom's cell checks that nobody else has it.
                        circle.slots[at].with_mut(|slot| unsafe { *slot = number });
                    }
                    filling.advance(room);
                    filling.publish(&circle.counts);
                    if room == 0 {
                        thread::yield_now();
                    }
                }
            });
            let mut emptying = Emptying::default();
            let mut expected = 1;
            while expected <= NUMBERS {
                let waiting = emptying.waiting(&circle.counts);
                for nth in 0..waiting {
                    let at = (emptying.next().wrapping_add(nth) % SIZE) as usize;
                    // SAFETY: as above.
                    let number = circle.slots[at].with_mut(|slot| unsafe { std::mem::take(&mut *slot) });
                    assert_eq!(number, expected);
                    expected += 1;
                }
                emptying.advance(waiting);
                emptying.publish(&circle.counts);
                if waiting == 0 {
                    thread::yield_now();
                }
            }
            filler.join().expect("no panic");
            assert!(!emptying.is_pending(&circle.counts));
        });
    }
}
