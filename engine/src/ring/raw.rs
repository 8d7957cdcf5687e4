//! A netmap ring as memory: the only place that reads and writes ring headers and slots.
//!
//! Everything above (receive and transmit rings, frames, backends) goes through these few functions, whose safety rests
//! on one fact: a ring has one owner on each side, and which side may touch a slot is told by `head` and `tail`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use netmap_sys::{NS_BUF_CHANGED, netmap_ring, netmap_slot};

use super::OFFSET_MASK;
use super::region::{FIRST_BUFFER, Region};
use crate::counters::Copies;

/// One ring in a region. Not `Clone`: a ring has one owner.
pub(super) struct RawRing {
    region: Arc<Region>,
    header: NonNull<netmap_ring>,
    slots: NonNull<netmap_slot>,
    buffers: NonNull<u8>,
    count: u32,
    buffer_size: u32,
    buffer_count: u32,
    offset_mask: u32,
    max_offset: u32,
    pool: u64,
    /// Frames whose bytes were copied into the ring's buffers, or, of a receive ring, moved in them.
    copies: Arc<Copies>,
    /// The ring's memory, where it does not lie in the region.
    _apart: Option<Apart>,
}

/// Memory of a ring that is nobody's but the program's.
struct Apart {
    memory: NonNull<u8>,
    layout: Layout,
}

impl Drop for Apart {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `RawRing::apart`; the ring, which alone pointed there, goes with it.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

// SAFETY: the ring's memory is reached through this value alone (one owner), and the region is Send and Sync.
unsafe impl Send for RawRing {}

impl RawRing {
    /// A ring whose frames start at most `max_offset` bytes into their buffers (0 where it takes no offsets).
    ///
    /// # Safety
    /// `header` is an initialised ring inside `region`'s memory, with all its slots inside too and `buf_ofs` and
    /// `nr_buf_size` those of the region. The slots carry distinct buffer indices or are about to be given them by the
    /// caller, and nobody else holds a `RawRing` of it. Where offsets are taken, its `offset_mask` is [`OFFSET_MASK`].
    pub(super) unsafe fn new(region: Arc<Region>, header: NonNull<netmap_ring>, max_offset: u32) -> RawRing {
        let ring = header.as_ptr();
        // SAFETY: the caller vouches for the header; these fields never change after initialisation.
        unsafe {
            RawRing {
                slots: NonNull::new_unchecked(netmap_sys::netmap_ring_slots(ring)),
                buffers: NonNull::new_unchecked(netmap_sys::netmap_buf(ring, 0)),
                count: (&raw const (*ring).num_slots).read(),
                buffer_size: region.buffer_size(),
                buffer_count: region.buffers(),
                offset_mask: if max_offset == 0 { 0 } else { OFFSET_MASK as u32 },
                max_offset,
                pool: region.pool(),
                copies: Arc::default(),
                header,
                region,
                _apart: None,
            }
        }
    }

    /// A ring with offsets whose slots lie apart, with buffers of `region` in them: for regions whose rings are the kernel's.
    /// `buffers` are their indices, one for each slot, which the caller has claimed. `None` without memory or buffers.
    pub(super) fn apart(
        region: &Arc<Region>,
        buffers: impl ExactSizeIterator<Item = u32>,
    ) -> Option<RawRing> {
        let count = u32::try_from(buffers.len()).ok().filter(|count| *count > 0)?;
        let slots = Layout::array::<netmap_slot>(buffers.len()).ok()?;
        let (layout, slots_at) = Layout::new::<netmap_ring>().extend(slots).ok()?;
        // SAFETY: the layout is not empty. Zeroes are a valid ring and valid slots.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        // SAFETY: the slots lie `slots_at` bytes into the memory just allocated.
        let slots = unsafe { memory.add(slots_at) }.cast::<netmap_slot>();
        for (nth, buf_idx) in buffers.enumerate() {
            let slot = netmap_slot { buf_idx, len: 0, flags: 0, ptr: u64::from(super::HEADROOM) };
            // SAFETY: one of the slots that the layout has room for.
            unsafe { slots.add(nth).write(slot) };
        }
        Some(RawRing {
            slots,
            buffers: region.first_buffer(),
            count,
            buffer_size: region.buffer_size(),
            buffer_count: region.buffers(),
            offset_mask: OFFSET_MASK as u32,
            max_offset: region.buffer_size(),
            pool: region.pool(),
            copies: Arc::default(),
            header: memory.cast(),
            region: Arc::clone(region),
            _apart: Some(Apart { memory, layout }),
        })
    }

    /// What is counted of copied frames.
    #[inline]
    pub(super) fn copies(&self) -> &Arc<Copies> {
        &self.copies
    }

    /// From here on, what is copied is counted there.
    pub(super) fn count_copies_in(&mut self, copies: &Arc<Copies>) {
        self.copies = Arc::clone(copies);
    }

    #[inline]
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The mask of `ptr` that is an offset; 0 on rings without offsets.
    #[inline]
    pub(super) fn offset_mask(&self) -> u32 {
        self.offset_mask
    }

    /// The most slots that one side may have: one stays open, so that a full ring differs from an empty one.
    #[inline]
    pub(super) fn most_free(&self) -> u32 {
        self.count - 1
    }

    /// The furthest from the start of its buffer that a frame in this ring may begin.
    #[inline]
    pub(super) fn max_offset(&self) -> u32 {
        self.max_offset
    }

    /// Do the two rings take buffers from the same pool, so that they can swap them?
    #[inline]
    pub(super) fn shares_buffers_with(&self, other: &RawRing) -> bool {
        self.pool == other.pool
    }

    /// Bytes in each buffer.
    #[inline]
    pub(super) fn buffer_size(&self) -> u32 {
        self.buffer_size
    }

    /// Slots in the ring.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The slot after `index`, around the end.
    #[inline]
    pub(super) fn next(&self, index: u32) -> u32 {
        if index + 1 >= self.count { 0 } else { index + 1 }
    }

    /// The slot before `index`, around the start.
    #[inline]
    pub(super) fn previous(&self, index: u32) -> u32 {
        if index == 0 { self.count - 1 } else { index - 1 }
    }

    /// The slot `steps` after `index` (`steps` at most the ring's length).
    #[inline]
    pub(super) fn ahead(&self, index: u32, steps: u32) -> u32 {
        let sum = index + steps;
        if sum >= self.count { sum - self.count } else { sum }
    }

    /// Slots from `from` up to, not including, `to`.
    #[inline]
    pub(super) fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { to + self.count - from }
    }

    #[inline]
    pub(super) fn head(&self) -> u32 {
        // SAFETY: the header is valid for as long as the region; volatile, since a kernel may stand behind other rings.
        unsafe { (&raw const (*self.header.as_ptr()).head).read_volatile() }
    }

    /// Moves `head` and `cur` together: all slots before are given back, and the owner wants to be woken by the next.
    #[inline]
    pub(super) fn set_head(&self, index: u32) {
        // SAFETY: as in `head`; the program's side owns these two fields.
        unsafe {
            (&raw mut (*self.header.as_ptr()).head).write_volatile(index);
            (&raw mut (*self.header.as_ptr()).cur).write_volatile(index);
        }
    }

    /// The first slot of the other side. A `tail` beyond the ring (nothing that any backend of ours writes) counts as
    /// `head`: no slot is the program's then.
    #[inline]
    pub(super) fn tail(&self) -> u32 {
        // SAFETY: as in `head`.
        let tail = unsafe { (&raw const (*self.header.as_ptr()).tail).read_volatile() };
        if tail < self.count { tail } else { self.head_or(0) }
    }

    /// Where the program is to go on that has come to `ours`. There, as long as it lies among the program's slots: what it
    /// has released or queued stays so when a kernel sets the ring's own cursor back (netmap's re-initialisation, to the
    /// slot that it has come to itself). Else where the ring's cursor is.
    #[inline]
    pub(super) fn resume(&self, ours: u32) -> u32 {
        let head = self.head_or(ours);
        if self.distance(head, ours) <= self.distance(head, self.tail()) { ours } else { head }
    }

    /// `head`, or `otherwise` where it lies beyond the ring.
    #[inline]
    pub(super) fn head_or(&self, otherwise: u32) -> u32 {
        let head = self.head();
        if head < self.count { head } else { otherwise }
    }

    /// For backends, which own `tail`.
    #[inline]
    pub(super) fn set_tail(&self, index: u32) {
        // SAFETY: as in `head`; called by the ring's backend, inside `sync`, as a kernel would.
        unsafe { (&raw mut (*self.header.as_ptr()).tail).write_volatile(index) }
    }

    /// The slot at `index`. Out of range gives slot 0, so that no index can reach beyond the ring.
    #[inline]
    fn slot_pointer(&self, index: u32) -> NonNull<netmap_slot> {
        let index = if index < self.count { index } else { 0 };
        // SAFETY: index < count, so the pointer stays inside the ring's slots.
        unsafe { self.slots.add(index as usize) }
    }

    /// The slots from `from` on, `count` of them or as many as there are before the ring's end, for backends.
    ///
    /// # Safety
    /// The caller is on the side that owns these slots now, and lets the reference go before it gives them away.
    #[inline]
    #[allow(clippy::mut_from_ref)] // exclusive by ownership of the slots, not of this handle
    pub(super) unsafe fn segment(&self, from: u32, count: u32) -> &mut [netmap_slot] {
        let from = from.min(self.count);
        let count = count.min(self.count - from);
        // SAFETY: from + count <= the ring's slots; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.slots.add(from as usize).as_ptr(), count as usize) }
    }

    /// Where the slot at `index` lies.
    #[inline]
    pub(super) fn slots_at(&self, index: u32) -> *const netmap_slot {
        self.slot_pointer(index).as_ptr()
    }

    #[inline]
    pub(super) fn slot(&self, index: u32) -> netmap_slot {
        // SAFETY: a valid, aligned slot; whoever calls is on the side that owns it (head/tail).
        unsafe { self.slot_pointer(index).read() }
    }

    #[inline]
    pub(super) fn write_slot(&self, index: u32, slot: netmap_slot) {
        // SAFETY: as in `slot`.
        unsafe { self.slot_pointer(index).write(slot) }
    }

    /// Puts another buffer into the slot at `index`. Returns the one that was there.
    #[inline]
    pub(super) fn replace_buffer(&self, index: u32, buffer: u32) -> u32 {
        let slot = self.slot_pointer(index).as_ptr();
        // SAFETY: as in `slot`.
        unsafe {
            (&raw mut (*slot).flags).write(NS_BUF_CHANGED);
            (&raw mut (*slot).buf_idx).replace(buffer)
        }
    }

    /// Where the frame of a received or prepared slot starts in its buffer.
    #[inline]
    pub(super) fn offset(&self, slot: &netmap_slot) -> u32 {
        slot.ptr as u32 & self.offset_mask
    }

    /// Is the index one that a slot may carry? (A kernel that handed us another is not followed.)
    #[inline]
    pub(super) fn is_buffer(&self, index: u32) -> bool {
        // As one comparison.
        index.wrapping_sub(FIRST_BUFFER) < self.buffer_count.saturating_sub(FIRST_BUFFER)
    }

    /// The whole buffer `index`, exclusively; nothing, where no slot may carry that index.
    ///
    /// # Safety
    /// The caller owns the slot that carries `index` (so nobody else touches the buffer), keeps no other reference to it,
    /// and lets the reference go before the slot is given away.
    #[inline]
    #[allow(clippy::mut_from_ref)] // exclusive by ownership of the slot, not of this handle
    pub(super) unsafe fn buffer<'a>(&self, index: u32) -> &'a mut [u8] {
        if !self.is_buffer(index) {
            return &mut [];
        }
        let at = index as usize * self.buffer_size as usize;
        // SAFETY: the index is in range, so the buffer lies inside the region; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.buffers.add(at).as_ptr(), self.buffer_size as usize) }
    }
}
