//! Frames that several threads work on, and that come out in the order they went in.
//!
//! Frames go in at the [`Entrance`], by blocks of up to [`BLOCK`], each with a task, which helpers read, and a note, which they do
//! not; a block has a context that is all its frames'. Any [`Helper`] claims the oldest block that waits, works on its frames where
//! they lie, and says of each whether that went well. They leave by the [`Exit`], block by block in the order of the entrance.
//! Nobody waits for anybody: what is not finished is not there yet.
//!
//! A frame is in a slot of a ring of the program's own from entrance to exit, so no buffer can be lost or doubled: going in and
//! leaving swap buffers. A helper changes the frame's bytes and a word of the block, and nothing else: a cache line that two cores
//! write in turn costs each of them some 50 to 100 ns.

use std::cell::UnsafeCell;
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use netmap_sys::netmap_slot;

use super::claims::{BLOCKS, Claims};
use super::frame::Frame;
use super::prefetch::prefetch_to_write;
use super::raw::RawRing;
use super::region::{Region, RegionError};
use super::tx::{pointer, swap};
use super::{HEADROOM, Refused, TAG_SHIFT};
use crate::counters::Copies;

/// Frames in a block, at most. Claiming a block costs some 100 ns of waiting for another core's memory: a few for each packet.
pub const BLOCK: usize = 32;
/// Buffers that a queue claims from its region.
pub const IN_ORDER_BUFFERS: u32 = (BLOCK * BLOCKS) as u32;

/// Parts that are written by different threads, or read by them, in cache lines of their own.
struct Block<C, T, N> {
    content: CachePadded<Content<C, T>>,
    notes: CachePadded<[N; BLOCK]>,
}

struct Content<C, T> {
    frames: u32,
    context: Option<C>,
    tasks: [T; BLOCK],
}

const _: () = assert!(BLOCK <= u32::BITS as usize);

struct Shared<C, T, N> {
    claims: Claims,
    /// The slots from [`BLOCK`] times its place on are a block's.
    ring: RawRing,
    /// Frames that were copied on their way in. (The ring counts what is moved in its buffers.)
    copies: Arc<Copies>,
    blocks: [UnsafeCell<Block<C, T, N>>; BLOCKS],
}

// SAFETY: a block, its slots and their buffers are touched by the one thread that the claims give it to; what is in it goes from
// thread to thread with it. The ring's other parts never change.
unsafe impl<C: Send + Sync, T: Send + Sync, N: Send> Sync for Shared<C, T, N> {}
// SAFETY: as above.
unsafe impl<C: Send + Sync, T: Send + Sync, N: Send> Send for Shared<C, T, N> {}

/// Where frames go in.
pub struct Entrance<C, T, N> {
    shared: Arc<Shared<C, T, N>>,
    /// The block that is being filled: it has a frame at least.
    open: Option<usize>,
}

/// Where frames come out.
pub struct Exit<C, T, N> {
    shared: Arc<Shared<C, T, N>>,
}

/// What one thread works on blocks with.
pub struct Helper<C, T, N> {
    shared: Arc<Shared<C, T, N>>,
}

/// A new queue, of blocks with a context `C`, and of frames with a task `T` and a note `N` each.
pub struct InOrder<C, T, N> {
    /// Where frames go in.
    pub entrance: Entrance<C, T, N>,
    /// Where they come out.
    pub exit: Exit<C, T, N>,
    /// Those who work on them.
    pub helpers: Vec<Helper<C, T, N>>,
}

/// A queue with buffers of `region`, and so many helpers.
///
/// # Errors
/// [`RegionError::Exhausted`] when the region has fewer than [`IN_ORDER_BUFFERS`] buffers left.
pub fn in_order<C, T: Copy + Default, N: Copy + Default>(
    region: &Arc<Region>,
    helpers: usize,
) -> Result<InOrder<C, T, N>, RegionError> {
    let buffers: Vec<u32> = region.claim_buffers(IN_ORDER_BUFFERS)?.collect();
    let ring = RawRing::apart(region, buffers.into_iter()).ok_or(RegionError::Exhausted("ring"))?;
    let block = || Block {
        content: CachePadded::new(Content { frames: 0, context: None, tasks: [T::default(); BLOCK] }),
        notes: CachePadded::new([N::default(); BLOCK]),
    };
    let blocks = std::array::from_fn(|_| UnsafeCell::new(block()));
    let shared = Arc::new(Shared { claims: Claims::new(), ring, copies: Arc::default(), blocks });
    let helpers = (0..helpers).map(|_| Helper { shared: Arc::clone(&shared) }).collect();
    let entrance = Entrance { shared: Arc::clone(&shared), open: None };
    Ok(InOrder { entrance, exit: Exit { shared }, helpers })
}

impl<C, T, N> Shared<C, T, N> {
    /// The block at `place`.
    ///
    /// # Safety
    /// The claims have given it to the caller, who lets the reference go before he hands it on, and takes no second one.
    #[inline]
    #[allow(clippy::mut_from_ref)] // exclusive by the claims, not by this handle
    unsafe fn block(&self, place: usize) -> &mut Block<C, T, N> {
        // SAFETY: exclusive by the caller's promise.
        unsafe { &mut *self.blocks[place].get() }
    }

    /// Asks for the lines that go into the block at `place`. Helpers have read them: asked for one by one, each would be waited for
    /// (20 ns a packet).
    #[inline]
    fn prefetch(&self, place: usize) {
        // Nothing is read or written, whoever has it: but references could not be had.
        let (block, slots) = (self.blocks[place].get(), self.ring.slots_at((place * BLOCK) as u32));
        prefetch_to_write(block.cast::<u8>(), size_of::<Content<C, T>>());
        prefetch_to_write(slots.cast::<u8>(), BLOCK * size_of::<netmap_slot>());
    }

    /// The frame in slot `nth` of the block at `place`.
    ///
    /// # Safety
    /// As for [`Shared::block`], of the slot and its buffer.
    #[inline]
    unsafe fn frame(&self, place: usize, nth: usize) -> Frame<'_> {
        let index = (place * BLOCK + nth) as u32;
        let slot = self.ring.slot(index);
        // SAFETY: the slot is the caller's, so its buffer is.
        let buffer = unsafe { self.ring.buffer(slot.buf_idx) };
        let (start, len) = (self.ring.offset(&slot), u32::from(slot.len));
        let tag = (slot.ptr >> TAG_SHIFT) as u32;
        Frame { ring: &self.ring, slot: index, slots: 1, buffer, start, len, tag }
    }
}

impl<C: Clone, T, N> Entrance<C, T, N> {
    /// Frames that were copied on their way in, and those that were moved in their buffers for headroom when they had come out.
    pub fn copies(&self) -> [Arc<Copies>; 2] {
        [&self.shared.copies, self.shared.ring.copies()].map(Arc::clone)
    }

    /// Is there a block to put a frame into?
    #[inline]
    pub fn has_room(&self) -> bool {
        self.open.is_some() || self.shared.claims.to_fill().is_some()
    }

    /// Takes a frame in one slot: its buffer is swapped with one of the queue's, or copied where they share none. The frame is
    /// empty then. Until the next [`Entrance::publish`] all frames have the same context: that of the first of a block counts.
    ///
    /// # Errors
    /// [`Refused::Full`], and [`Refused::TooLong`] for a frame that fits no buffer or is in several slots.
    #[inline]
    pub fn push(&mut self, frame: &mut Frame<'_>, task: T, note: N, context: &C) -> Result<(), Refused> {
        if frame.slots != 1 {
            return Err(Refused::TooLong);
        }
        let place = match self.open {
            Some(place) => place,
            None => self.shared.claims.to_fill().ok_or(Refused::Full)?,
        };
        // SAFETY: the block that may be filled is ours until `fill`.
        let Block { content, notes, .. } = unsafe { self.shared.block(place) };
        if self.open.is_none() {
            content.frames = 0;
            self.shared.prefetch((place + 1) % BLOCKS);
        }
        let nth = content.frames as usize;
        let to = (place * BLOCK + nth) as u32;
        if self.shared.ring.shares_buffers_with(frame.ring) {
            swap(&self.shared.ring, to, frame);
        } else {
            copy(&self.shared.ring, to, frame)?;
            self.shared.copies.add(frame.len());
        }
        frame.spend();
        if nth == 0 {
            content.context = Some(context.clone());
            self.open = Some(place);
        }
        if let (Some(its_task), Some(its_note)) = (content.tasks.get_mut(nth), notes.get_mut(nth)) {
            (*its_task, *its_note) = (task, note);
        }
        content.frames += 1;
        if content.frames as usize == BLOCK {
            self.publish();
        }
        Ok(())
    }

    /// Hands over what has been put in.
    #[inline]
    pub fn publish(&mut self) {
        if let Some(place) = self.open.take() {
            // SAFETY: as in `push`; not empty, or it would not be open.
            let frames = unsafe { self.shared.block(place) }.content.frames;
            self.shared.claims.fill(frames);
        }
    }
}

/// As [`swap`], for rings without buffers in common.
#[cold]
fn copy(ring: &RawRing, to: u32, frame: &Frame<'_>) -> Result<(), Refused> {
    let mut slot = ring.slot(to);
    // SAFETY: the slot is the caller's, so its buffer is.
    let buffer = unsafe { ring.buffer(slot.buf_idx) };
    // With the headroom that it had, as far as there is room for it: what was put in front may be taken off again.
    let start = frame.start.max(HEADROOM).min(ring.region().buffer_size().saturating_sub(frame.len));
    let room = buffer.get_mut(start as usize..).and_then(|room| room.get_mut(..frame.len as usize));
    room.ok_or(Refused::TooLong)?.copy_from_slice(frame.bytes());
    (slot.len, slot.ptr) = (frame.len as u16, pointer(frame.tag, start));
    ring.write_slot(to, slot);
    Ok(())
}

impl<C, T: Copy, N: Copy> Exit<C, T, N> {
    /// Lends the frames of the oldest block out, each with its task, its note, and whether that went well, if the block is
    /// finished: `None` otherwise, else its context.
    #[inline]
    pub fn take<'a>(&'a mut self, mut lend: impl FnMut(Frame<'a>, T, N, bool)) -> Option<&'a C> {
        let (place, well) = self.shared.claims.to_empty()?;
        // SAFETY: a finished block is the exit's until `release`, which needs the exit for itself.
        let Block { content, notes } = unsafe { self.shared.block(place) };
        for (nth, (task, note)) in
            content.tasks.iter().zip(notes.iter()).enumerate().take(content.frames as usize)
        {
            // SAFETY: as above, each slot once.
            let frame = unsafe { self.shared.frame(place, nth) };
            lend(frame, *task, *note, well >> nth & 1 == 1);
        }
        content.context.as_ref()
    }

    /// Gives the oldest block back, if it is finished.
    #[inline]
    pub fn release(&mut self) {
        if let Some((place, _)) = self.shared.claims.to_empty() {
            // SAFETY: as in `take`, whose frames are gone.
            unsafe { self.shared.block(place) }.content.context = None;
            self.shared.claims.empty();
        }
    }

    /// Does the oldest block keep all others back, because whoever has it is not finished with it?
    #[inline]
    pub fn is_held_up(&self) -> bool {
        self.shared.claims.in_work().is_some()
    }

    /// Passes the oldest block over, if it is held up: its frames are lost, and as many as returned. Its buffers are used again
    /// once it is finished.
    pub fn pass_over(&mut self) -> u32 {
        let held_up = self.shared.claims.in_work();
        if held_up.is_some() {
            self.shared.claims.empty();
        }
        held_up.unwrap_or(0)
    }

    /// Blocks that wait for a helper.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.shared.claims.waiting()
    }

    /// Blocks that have gone in and not come out.
    #[inline]
    pub fn len(&self) -> usize {
        self.shared.claims.len()
    }

    /// Has everything come out that went in?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C, T, N> Helper<C, T, N> {
    /// The oldest block that nobody has claimed.
    #[inline]
    pub fn claim(&mut self) -> Option<Claimed<'_, C, T, N>> {
        let place = self.shared.claims.claim()?;
        Some(Claimed { shared: &self.shared, place, well: 0 })
    }
}

/// A block to work on; dropping it says that it is finished.
pub struct Claimed<'a, C, T, N> {
    shared: &'a Shared<C, T, N>,
    place: usize,
    /// A bit for each frame, the first one's lowest: did it go well?
    well: u32,
}

impl<C, T, N> Claimed<'_, C, T, N> {
    /// Lends the frames out, each with its task. Their bytes are to be changed; where they start and end is not noted. Returns the
    /// context.
    #[inline]
    pub fn lend<'a>(&'a mut self, mut lend: impl FnMut(Frame<'a>, &'a T)) -> Option<&'a C> {
        // SAFETY: a claimed block is ours until `finish`, when `self` is gone.
        let Block { content, .. } = unsafe { self.shared.block(self.place) };
        for (nth, task) in content.tasks.iter().enumerate().take(content.frames as usize) {
            // SAFETY: as above, each slot once.
            lend(unsafe { self.shared.frame(self.place, nth) }, task);
        }
        content.context.as_ref()
    }

    /// Says which frames it went well with: a bit for each, the first one's lowest. None, if that is never said.
    #[inline]
    pub fn went_well(&mut self, frames: u32) {
        self.well = frames;
    }
}

impl<C, T, N> Drop for Claimed<'_, C, T, N> {
    #[inline]
    fn drop(&mut self) {
        self.shared.claims.finish(self.place, self.well);
    }
}

/// Buffer indices that a queue holds, for the tests that count buffers.
#[cfg(test)]
pub(super) fn queue_buffers<C, T, N>(exit: &Exit<C, T, N>) -> Vec<u32> {
    (0..IN_ORDER_BUFFERS).map(|at| exit.shared.ring.slot(at).buf_idx).collect()
}
