//! A transmit ring: takes frames by swapping buffers, or by copying where two rings cannot share them.

use std::sync::Arc;

use netmap_sys::{NS_BUF_CHANGED, netmap_slot};

use super::TAG_SHIFT;
use super::frame::Frame;
use super::raw::RawRing;
use crate::counters::Copies;

/// Why a transmit ring did not take a frame. The frame is dropped, its buffer stays in the receive ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too few free slots.
    Full,
    /// Copying was needed and the frame is longer than a buffer of this ring, or it is in several slots and the ring takes
    /// only frames in one.
    TooLong,
}

/// A slot's `ptr`: where the frame starts in its buffer, and its tag.
#[inline]
pub(super) fn pointer(tag: u32, start: u32) -> u64 {
    u64::from(tag) << TAG_SHIFT | u64::from(start)
}

/// Puts the buffer of a frame in one slot into slot `to` of `ring`, whose own buffer goes where the frame was. The rings share
/// their buffers, and the slot is the caller's.
#[inline(always)]
pub(super) fn swap(ring: &RawRing, to: u32, frame: &Frame<'_>) {
    let free = ring.slot(to).buf_idx;
    let buf_idx = frame.ring.replace_buffer(frame.slot, free);
    let ptr = pointer(frame.tag, frame.start);
    ring.write_slot(to, netmap_slot { buf_idx, len: frame.len as u16, flags: NS_BUF_CHANGED, ptr });
}

/// The program's side of a transmit ring.
pub struct TxRing {
    pub(super) raw: RawRing,
    /// Where the next frame goes. The ring's own `head` follows in [`TxRing::commit`].
    head: u32,
    /// Slots from `head` that are free, as of the last sync.
    space: u32,
    /// Most slots that a frame may take.
    most_slots: u32,
}

impl TxRing {
    pub(super) fn new(raw: RawRing) -> TxRing {
        let mut ring = TxRing { head: raw.head(), space: 0, most_slots: u32::MAX, raw };
        ring.refresh();
        ring
    }

    /// Refuses frames in several slots: what stands behind the ring would take each part for a frame.
    pub(super) fn single_slots_only(&mut self) {
        self.most_slots = 1;
    }

    /// Free slots.
    #[inline]
    pub fn space(&self) -> u32 {
        self.space
    }

    /// From here on, what is copied is counted there.
    #[cold]
    pub(crate) fn count_copies_in(&mut self, copies: &Arc<Copies>) {
        self.raw.count_copies_in(copies);
    }

    /// All slots, free or not.
    pub fn slots(&self) -> u32 {
        self.raw.count()
    }

    /// Frames that were copied because buffers could not be swapped.
    pub fn copies(&self) -> &Arc<Copies> {
        self.raw.copies()
    }

    /// The bytes of these frames.
    pub fn copied_bytes(&self) -> u64 {
        self.copies().bytes.get()
    }

    /// Reads how far the other side has come. A kernel that re-initialises a ring sets its cursor back to the slot that it has
    /// come to itself; the next [`TxRing::commit`] shows it ours again, so that nothing queued is lost.
    #[inline]
    pub(super) fn refresh(&mut self) {
        self.space = self.raw.distance(self.head, self.raw.tail());
    }

    /// Takes no more than `slots` slots until the next sync.
    pub(super) fn limit(&mut self, slots: u32) {
        self.space = self.space.min(slots);
    }

    /// Queues a frame: its buffer goes into the transmit slot and the slot's buffer into the receive ring. Where the two
    /// rings have no buffers in common, or the frame starts further into its buffer than this ring allows, the bytes are
    /// copied instead. The frame is empty then: by reference, since moving it through memory costs 3 to 8 ns.
    ///
    /// # Errors
    /// [`Refused::Full`] and [`Refused::TooLong`]; the packet is lost then, the buffer is not.
    #[inline(always)] // on the path of every packet
    pub fn push(&mut self, frame: &mut Frame<'_>) -> Result<(), Refused> {
        // Nearly all.
        if frame.slots == 1
            && self.space > 0
            && frame.start <= self.raw.max_offset()
            && self.raw.shares_buffers_with(frame.ring)
        {
            swap(&self.raw, self.head, frame);
            self.head = self.raw.next(self.head);
            self.space -= 1;
            frame.spend();
            return Ok(());
        }
        self.push_other(frame)
    }

    /// As [`TxRing::push`], for what takes several slots or is copied.
    #[cold]
    #[inline(never)]
    fn push_other(&mut self, frame: &mut Frame<'_>) -> Result<(), Refused> {
        if frame.slots > self.space {
            return Err(Refused::Full);
        }
        let starts_within = if frame.slots == 1 {
            frame.start <= self.raw.max_offset()
        } else {
            self.all_start_within(frame)?
        };
        if starts_within && self.raw.shares_buffers_with(frame.ring) {
            self.swap_in_all(frame);
        } else {
            self.copy_in(frame)?;
        }
        self.head = self.raw.ahead(self.head, frame.slots);
        self.space -= frame.slots;
        frame.spend();
        Ok(())
    }

    /// Do all parts of a frame in several slots start where this ring allows?
    #[cold]
    fn all_start_within(&self, frame: &Frame<'_>) -> Result<bool, Refused> {
        if frame.slots > self.most_slots {
            return Err(Refused::TooLong);
        }
        let offset = |nth| frame.ring.offset(&frame.ring.slot(frame.ring.ahead(frame.slot, nth)));
        let furthest = (1..frame.slots).map(offset).max().unwrap_or(0).max(frame.start);
        Ok(furthest <= self.raw.max_offset())
    }

    /// As [`swap`], for a frame in several slots.
    fn swap_in_all(&mut self, frame: &Frame<'_>) {
        let (mut to, mut from) = (self.head, frame.slot);
        for nth in 0..frame.slots {
            let (free, full) = (self.raw.slot(to), frame.ring.slot(from));
            // The first slot's frame may have been grown or cut; those that follow are as they were received.
            let (start, len) = if nth == 0 {
                (frame.start, frame.len)
            } else {
                (frame.ring.offset(&full), u32::from(full.len))
            };
            self.raw.write_slot(
                to,
                netmap_slot {
                    buf_idx: full.buf_idx,
                    len: len as u16,
                    flags: NS_BUF_CHANGED | frame.more_after(nth),
                    ptr: pointer(frame.tag, start),
                },
            );
            frame.ring.replace_buffer(from, free.buf_idx);
            (to, from) = (self.raw.next(to), frame.ring.next(from));
        }
    }

    fn copy_in(&mut self, frame: &Frame<'_>) -> Result<(), Refused> {
        let (mut to, mut from) = (self.head, frame.slot);
        for nth in 0..frame.slots {
            let (mut free, full) = (self.raw.slot(to), frame.ring.slot(from));
            let continuation;
            let bytes = if nth == 0 {
                frame.bytes()
            } else {
                let start = frame.ring.offset(&full) as usize;
                // SAFETY: continuation slots lie between head and tail of the ring the frame borrows, so their buffers
                // are ours; the reference ends with this turn of the loop.
                continuation = unsafe { frame.ring.buffer(full.buf_idx) };
                continuation.get(start..start + usize::from(full.len)).ok_or(Refused::TooLong)?
            };
            // Not where an earlier swap left it: every copied frame has the same room.
            let start = if self.raw.offset_mask() == 0 { 0 } else { super::HEADROOM };
            // SAFETY: the slot is between head and tail, so its buffer is ours; no other reference to it exists.
            let buffer = unsafe { self.raw.buffer(free.buf_idx) };
            buffer
                .get_mut(start as usize..start as usize + bytes.len())
                .ok_or(Refused::TooLong)?
                .copy_from_slice(bytes);
            free.ptr = pointer(frame.tag, start);
            free.len = bytes.len() as u16;
            free.flags = frame.more_after(nth);
            self.raw.write_slot(to, free);
            self.raw.copies().bytes.add(bytes.len() as u64);
            if let Some(stamp) = frame.ring.region().stamp(full.buf_idx) {
                self.raw.region().set_stamp(free.buf_idx, stamp);
            }
            (to, from) = (self.raw.next(to), frame.ring.next(from));
        }
        self.raw.copies().frames.add(1);
        Ok(())
    }

    /// Queues a frame given as bytes, for those who make packets rather than forward them.
    ///
    /// # Errors
    /// [`Refused::Full`] and [`Refused::TooLong`].
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.push_with(0, |buffer| {
            buffer.get_mut(..bytes.len()).ok_or(Refused::TooLong)?.copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }

    /// Queues a frame with a tag (see [`Frame::tag`]) that `write` puts into the free part of the next slot's buffer,
    /// returning its length.
    ///
    /// # Errors
    /// [`Refused::Full`], [`Refused::TooLong`] for a length beyond the buffer, and what `write` refuses.
    #[inline]
    pub fn push_with(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut [u8]) -> Result<usize, Refused>,
    ) -> Result<(), Refused> {
        if self.space == 0 {
            return Err(Refused::Full);
        }
        let mut slot = self.raw.slot(self.head);
        let start = if self.raw.offset_mask() == 0 { 0 } else { super::HEADROOM };
        // SAFETY: the slot is between head and tail, so its buffer is ours; the reference ends before the slot moves on.
        let buffer = unsafe { self.raw.buffer(slot.buf_idx) };
        let room = buffer.get_mut(start as usize..).ok_or(Refused::TooLong)?;
        let len = write(room)?;
        if len > room.len() {
            return Err(Refused::TooLong);
        }
        slot.ptr = pointer(tag, start);
        slot.len = len as u16;
        slot.flags = 0;
        self.raw.write_slot(self.head, slot);
        self.head = self.raw.next(self.head);
        self.space -= 1;
        Ok(())
    }

    /// Shows all queued frames to the other side, as one move of the cursor.
    #[inline]
    pub(super) fn commit(&mut self) {
        self.raw.set_head(self.head);
    }
}
