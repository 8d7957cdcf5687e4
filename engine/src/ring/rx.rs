//! A receive ring: lends frames out, and gives their slots back a batch at a time.

use std::sync::Arc;

use netmap_sys::{NETMAP_MAX_FRAGS, NS_MOREFRAG, netmap_slot};

use super::frame::Frame;
use super::raw::RawRing;
use super::{BATCH, TAG_SHIFT};
use crate::counters::Copies;

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

    /// Finds its place again after a kernel may have re-initialised the ring.
    #[inline]
    pub(super) fn refresh(&mut self) {
        self.head = self.raw.resume(self.head);
    }

    /// From here on, frames that are moved in their buffers for headroom are counted there.
    pub(crate) fn count_copies_in(&mut self, copies: &Arc<Copies>) {
        self.raw.count_copies_in(copies);
    }

    /// Frames that were moved in their buffers for headroom ([`Frame::make_headroom`]).
    pub fn copies(&self) -> &Arc<Copies> {
        self.raw.copies()
    }

    /// Slots with received bytes in them.
    #[inline]
    pub fn available(&self) -> u32 {
        self.raw.distance(self.head, self.raw.tail())
    }

    /// Lends out up to [`BATCH`] received frames, oldest first, each to `lend`, and returns the number of slots they take, to
    /// be given to [`RxRing::release`] once all the frames are sent or dropped. A frame whose last slots have not arrived yet
    /// stays. What breaks the ring's rules (a buffer index or length out of range, a frame in more slots than any may
    /// have) is passed over and counted in `broken`.
    #[inline]
    pub fn take<'a>(&'a mut self, broken: &mut u64, mut lend: impl FnMut(Frame<'a>)) -> u32 {
        let tail = self.raw.tail();
        let mut at = self.head;
        let mut taken = 0;
        let mut lent = 0;
        while at != tail && lent < BATCH {
            let slot = self.raw.slot(at);
            let mut slots = 1;
            let mut sound = self.is_sound(&slot);
            let mut next = self.raw.next(at);
            if slot.flags & NS_MOREFRAG != 0 {
                let Some(all) = self.slots_of(at, tail) else { break };
                slots = all;
                sound = sound && self.rest_is_sound(at, slots);
                next = self.raw.ahead(at, slots);
            }
            if sound {
                let start = self.raw.offset(&slot);
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
            at = next;
            taken += slots;
        }
        taken
    }

    /// Does the slot name a buffer, and bytes inside it?
    #[inline]
    fn is_sound(&self, slot: &netmap_slot) -> bool {
        let end = self.raw.offset(slot) + u32::from(slot.len);
        self.raw.is_buffer(slot.buf_idx) && end <= self.raw.buffer_size()
    }

    /// As [`RxRing::is_sound`], for the slots after the first of a frame; and does the frame end with the last of them?
    #[cold]
    fn rest_is_sound(&self, at: u32, slots: u32) -> bool {
        (1..slots).all(|nth| {
            let slot = self.raw.slot(self.raw.ahead(at, nth));
            self.is_sound(&slot) && (slot.flags & NS_MOREFRAG == 0) == (nth + 1 == slots)
        })
    }

    /// Slots of the frame that starts at `at`, not the last of it, if all of them are here. One that goes on for longer than a
    /// frame may, or that fills the ring without an end, is cut there: nothing could ever complete it.
    #[cold]
    fn slots_of(&self, at: u32, tail: u32) -> Option<u32> {
        let here = self.raw.distance(at, tail);
        let most = (self.raw.count() - 1).min(NETMAP_MAX_FRAGS as u32);
        let ends = |nth: &u32| self.raw.slot(self.raw.ahead(at, *nth)).flags & NS_MOREFRAG == 0;
        (1..here.min(most)).find(ends).map(|nth| nth + 1).or((here >= most).then_some(most))
    }

    /// Gives the first `slots` slots back, as one move of the cursor. What their buffers hold may be overwritten.
    #[inline]
    pub fn release(&mut self, slots: u32) {
        self.head = self.raw.ahead(self.head, slots.min(self.available()));
        self.raw.set_head(self.head);
    }
}
