//! A received frame, held in place: the bytes between headroom and tailroom of one buffer.
//!
//! Headers are pushed and pulled by moving the start, trailers by moving the end. Bytes move only in
//! [`Frame::make_headroom`], for ports that cannot give headroom.

use netmap_sys::NS_MOREFRAG;

use super::raw::RawRing;

/// Bytes of a header template: whole 64-byte blocks.
pub const TEMPLATE_LEN: usize = 192;

/// A frame that has been received and not yet sent or dropped. Dropping the value drops the packet: its buffer stays in
/// the receive slot, to be filled again.
pub struct Frame<'a> {
    pub(super) ring: &'a RawRing,
    /// The receive slot that owns the buffer, and how many slots the whole frame takes.
    pub(super) slot: u32,
    pub(super) slots: u32,
    /// The whole buffer. `start + len <= buffer.len()` always.
    pub(super) buffer: &'a mut [u8],
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) tag: u32,
}

impl<'a> Frame<'a> {
    /// The frame's bytes; of a frame in several slots, those in the first.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = self.start as usize;
        // SAFETY: start + len <= buffer.len(), kept by every method that changes them. (Added as wide as a slice's length is, so
        // that the compiler sees that the length is `len`.)
        unsafe { self.buffer.get_unchecked(start..start + self.len as usize) }
    }

    /// As [`Frame::bytes`], to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.start as usize;
        // SAFETY: as in `bytes`.
        unsafe { self.buffer.get_unchecked_mut(start..start + self.len as usize) }
    }

    /// Cuts the last `count` bytes off, or all that there are, and returns the bytes of the frame as it was.
    #[inline(always)] // on the path of every packet
    pub fn cut(&mut self, count: usize) -> &mut [u8] {
        let (start, len) = (self.start as usize, self.len as usize);
        self.len = len.saturating_sub(count) as u32;
        // SAFETY: as in `bytes`, for the length that the frame had.
        unsafe { self.buffer.get_unchecked_mut(start..start + len) }
    }

    /// Bytes in the frame; of a frame in several slots, those in the first.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Is there nothing in it?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in all slots of the frame.
    pub fn whole_len(&self) -> usize {
        let rest = (1..self.slots).map(|nth| self.ring.slot(self.ring.ahead(self.slot, nth)).len);
        self.len() + rest.map(usize::from).sum::<usize>()
    }

    /// The whole buffer that the frame lies in: what was in front of it before it was pulled is there until something is pushed.
    pub fn buffer(&self) -> &[u8] {
        self.buffer
    }

    /// Slots that the frame takes: 1, or more for one longer than a buffer (`NS_MOREFRAG`).
    #[inline]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// What the sender of the frame said of it beside its bytes: rings between parts of one program carry it, and what it
    /// means is theirs to agree on. 0 on frames from outside.
    #[inline]
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// Sets what [`Frame::tag`] gives to the next receiver.
    #[inline]
    pub fn set_tag(&mut self, tag: u32) {
        self.tag = tag;
    }

    /// Free bytes in front of the frame.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Free bytes behind the frame.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - (self.start + self.len) as usize
    }

    /// Do frames of the port this one came from start behind headroom (netmap's offsets)?
    #[inline]
    pub fn from_offset_port(&self) -> bool {
        self.ring.offset_mask() != 0
    }

    /// Grows the frame by `count` bytes in front, whose contents are what happened to be there. False, and nothing
    /// changed, when there is too little headroom.
    #[inline]
    pub fn push(&mut self, count: usize) -> bool {
        if count > self.start as usize {
            return false;
        }
        self.start -= count as u32;
        self.len += count as u32;
        true
    }

    /// Grows the frame by `N` bytes in front, and returns them to be written. `None`, and nothing changed, when there is too little
    /// headroom.
    #[inline(always)] // on the path of every packet
    pub fn push_array<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let start = (self.start as usize).checked_sub(N)?;
        self.start = start as u32;
        self.len += N as u32;
        // SAFETY: the frame started `N` bytes further on, and ended within the buffer.
        let front = unsafe { self.buffer.get_unchecked_mut(start..start + N) };
        front.first_chunk_mut()
    }

    /// Puts the last `count` bytes of `template` in front of the frame. Whole 64-byte blocks are written where the
    /// headroom has room for them, as a fixed-size copy costs a fraction of one whose length is known only at run time;
    /// what lies further in front is not part of the frame. False, and nothing changed, without the headroom.
    #[inline]
    pub fn push_template(&mut self, template: &[u8; TEMPLATE_LEN], count: usize) -> bool {
        let start = self.start as usize;
        if count > start || count > template.len() {
            return false;
        }
        let Some(headroom) = self.buffer.get_mut(..start) else { return false };
        if count <= 64
            && let (Some(to), Some(from)) = (headroom.last_chunk_mut::<64>(), template.last_chunk::<64>())
        {
            *to = *from;
        } else if count <= 128
            && let (Some(to), Some(from)) = (headroom.last_chunk_mut::<128>(), template.last_chunk::<128>())
        {
            *to = *from;
        } else if let (Some(to), Some(from)) =
            (headroom.get_mut(start - count..), template.get(template.len() - count..))
        {
            to.copy_from_slice(from);
        }
        self.push(count)
    }

    /// Takes `count` bytes off the front. False, and nothing changed, when the frame is shorter.
    #[inline]
    pub fn pull(&mut self, count: usize) -> bool {
        if count > self.len as usize {
            return false;
        }
        self.start += count as u32;
        self.len -= count as u32;
        true
    }

    /// Leaves the bytes from `start` to `end` of the frame. False, and nothing changed, when it is shorter.
    #[inline(always)] // on the path of every packet
    pub fn keep(&mut self, start: usize, end: usize) -> bool {
        if start > end || end > self.len as usize {
            return false;
        }
        self.start += start as u32;
        self.len = (end - start) as u32;
        true
    }

    /// Cuts the frame to its first `len` bytes; longer than it is: unchanged.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Grows the frame by `count` bytes behind, whose contents are what happened to be there. False, and nothing changed,
    /// when the buffer ends before.
    #[inline]
    pub fn extend(&mut self, count: usize) -> bool {
        if count > self.tailroom() {
            return false;
        }
        self.len += count as u32;
        true
    }

    /// Moves the frame back in its buffer until there are `wanted` bytes in front: the one copy that a port without
    /// headroom costs, which the ring counts. `None`, and nothing changed, when the buffer is too small.
    #[inline]
    pub fn make_headroom(&mut self, wanted: usize) -> Option<()> {
        if wanted <= self.start as usize {
            return Some(());
        }
        self.move_back(wanted)
    }

    #[cold]
    fn move_back(&mut self, wanted: usize) -> Option<()> {
        let (start, len) = (self.start as usize, self.len as usize);
        if wanted.checked_add(len)? > self.buffer.len() {
            return None;
        }
        self.buffer.copy_within(start..start + len, wanted);
        self.start = wanted as u32;
        self.ring.copies().add(len);
        Some(())
    }

    /// Asks the processor for the lines that hold the start of the frame and the headroom that headers will be pushed
    /// into.
    #[inline]
    pub fn prefetch(&self) {
        super::prefetch::prefetch_at(self.buffer, (self.start as usize).saturating_sub(64));
        super::prefetch::prefetch_at(self.buffer, self.start as usize);
        super::prefetch::prefetch_at(self.buffer, self.start as usize + 64);
    }

    /// The frame has been sent: its buffer is another's now, so nothing is left of it here. Sent once more, it is nothing.
    #[inline]
    pub(super) fn spend(&mut self) {
        self.buffer = &mut [];
        (self.start, self.len, self.slots) = (0, 0, 0);
    }

    /// As [`Frame::prefetch`], for the first bytes, to be written, and the last, of a frame that another core has written.
    #[inline]
    pub fn prefetch_ends(&self) {
        super::prefetch::prefetch_to_write_at(self.buffer, self.start as usize);
        super::prefetch::prefetch_at(self.buffer, (self.start + self.len) as usize);
    }

    /// As [`Frame::prefetch`], for all bytes, to be written, of a frame that another core has written.
    #[inline]
    pub fn prefetch_all(&self) {
        let first = self.start & !63;
        super::prefetch::prefetch_to_write(
            self.buffer.as_ptr().wrapping_add(first as usize),
            (self.start + self.len - first) as usize,
        );
    }

    /// Does another slot follow the `nth` of this frame?
    #[inline]
    pub(super) fn more_after(&self, nth: u32) -> u16 {
        if nth + 1 < self.slots { NS_MOREFRAG } else { 0 }
    }
}
