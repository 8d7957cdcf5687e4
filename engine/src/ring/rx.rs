//! A receive ring: lends frames out, and gives their slots back a batch at a time.

use netmap_sys::{NS_BUF_CHANGED, NS_MOREFRAG};

use super::frame::Frame;
use super::raw::RawRing;
use super::{BATCH, TAG_SHIFT};

/// The program's side of a receive ring.
pub struct RxRing {
    pub(super) raw: RawRing,
    /// Slots before this one have been released. The ring's own `head` follows in [`RxRing::release`].
    head: u32,
}

impl RxRing {
    pub(super) fn new(raw: RawRing) -> RxRing {
        RxRing { head: raw.head(), raw }
    }

    /// Slots with received bytes in them.
    #[inline]
    pub fn available(&self) -> u32 {
        self.raw.distance(self.head, self.raw.tail())
    }

    /// Lends out up to [`BATCH`] received frames, oldest first, each to `lend`, and returns the number of slots they take, to
    /// be given to [`RxRing::release`] once all the frames are sent or dropped. A frame whose last slots have not arrived yet
    /// stays. A slot that breaks the ring's rules (a buffer index or length out of range) is passed over and counted in
    /// `broken`.
    #[inline]
    pub fn take<'a>(&'a mut self, broken: &mut u64, mut lend: impl FnMut(Frame<'a>)) -> u32 {
        let tail = self.raw.tail();
        let mut at = self.head;
        let mut taken = 0;
        let mut lent = 0;
        while at != tail && lent < BATCH {
            let slot = self.raw.slot(at);
            let Some(slots) = self.slots_of(at, slot.flags, tail) else { break };
            let start = self.raw.offset(&slot);
            let sound = self.raw.is_buffer(slot.buf_idx)
                && start + u32::from(slot.len) <= self.raw.region().buffer_size();
            if sound {
                // SAFETY: the slot lies between head and tail, so it and its buffer are ours; every buffer index is in one
                // slot only; the frame borrows the ring, so the slot cannot be released while the frame lives.
                let buffer = unsafe { self.raw.buffer(slot.buf_idx) };
                let (len, tag) = (u32::from(slot.len), (slot.ptr >> TAG_SHIFT) as u32);
                let frame = Frame { ring: &self.raw, slot: at, slots, buffer, start, len, tag };
                frame.prefetch();
                lend(frame);
                lent += 1;
            } else {
                *broken += 1;
            }
            at = self.raw.ahead(at, slots);
            taken += slots;
        }
        taken
    }

    /// Slots of the frame that starts at `at`, if all of them are here.
    #[inline]
    fn slots_of(&self, at: u32, flags: u16, tail: u32) -> Option<u32> {
        if flags & NS_MOREFRAG == 0 {
            return Some(1);
        }
        let here = self.raw.distance(at, tail);
        (1..here).find(|n| self.raw.slot(self.raw.ahead(at, *n)).flags & NS_MOREFRAG == 0).map(|n| n + 1)
    }

    /// Gives the first `slots` slots back, as one move of the cursor. What their buffers hold may be overwritten.
    #[inline]
    pub fn release(&mut self, slots: u32) {
        self.head = self.raw.ahead(self.head, slots.min(self.available()));
        self.raw.set_head(self.head);
    }

    /// Swaps the buffer at `slot` for another one, as a part of sending a frame.
    #[inline]
    pub(super) fn replace(raw: &RawRing, slot: u32, buffer: u32) {
        let mut changed = raw.slot(slot);
        changed.buf_idx = buffer;
        changed.flags = NS_BUF_CHANGED;
        raw.write_slot(slot, changed);
    }
}
