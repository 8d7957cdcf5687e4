//! The memory that rings and buffers live in, laid out as the kernel lays it out, so that a ring of a kernel port and
//! one of ours are read by the same code: `[ring][ring]..[buffer 0][buffer 1][buffer 2]..`. It is either of our own making
//! or a mapping of the kernel's.
//!
//! Buffers 0 and 1 are reserved, as in netmap. Rings and buffers are handed out once, while ports are set up.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use netmap_sys::{netmap_ring, netmap_slot};

use super::raw::RawRing;
use super::{HEADROOM, OFFSET_MASK};

/// Rings start at multiples of this many bytes (netmap's `NM_CACHE_ALIGN`).
const RING_ALIGN: usize = 128;
/// Buffers start at a multiple of the largest page size in use, since AF_XDP takes whole pages.
const PAGE_ALIGN: usize = 65536;
/// Indices below this one are never in a slot (netmap reserves 0 and 1).
pub(super) const FIRST_BUFFER: u32 = 2;

/// Why a region could not be made or used up.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The sizes asked for are zero, not a multiple of 64 bytes, or overflow.
    #[error(
        "a region of {rings} rings of {slots} slots with {buffer_size}-byte buffers is not possible: \
         choose 2 to 65536 slots, and a buffer size from 512 to 65472 that is a multiple of 64"
    )]
    Shape {
        /// Rings asked for.
        rings: usize,
        /// Slots in each ring.
        slots: u32,
        /// Bytes in each buffer.
        buffer_size: u32,
    },
    /// The system gave no memory.
    #[error("no memory for a region of {bytes} bytes: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// More rings or buffers were claimed than the region was made for.
    #[error("the region has no {0} left")]
    Exhausted(&'static str),
}

/// What has not been handed out yet; touched while ports are set up, never by packets.
struct Unclaimed {
    next_ring: usize,
    /// Buffers that are in no ring: in a region of our own those from here on,
    next_buffer: u32,
    /// in a mapping those that the kernel has given beside the rings'.
    extra: Vec<u32>,
}

/// Where a kernel's memory is mapped, and how it is divided.
pub(super) struct Mapping {
    /// The first byte.
    pub(super) base: NonNull<u8>,
    /// Bytes mapped.
    pub(super) bytes: usize,
    /// Bytes from the first to buffer 0.
    pub(super) buffers_at: usize,
    /// Bytes in each buffer.
    pub(super) buffer_size: u32,
    /// Buffers, the two reserved ones included.
    pub(super) buffers: u32,
    /// The kernel's number of this memory, by which two mappings of it are known to be the same.
    pub(super) memory_id: u16,
    /// Indices of buffers that are in no ring and that nobody else has.
    pub(super) extra: Vec<u32>,
}

/// Distinguishes pools of buffers. Kernels number theirs with 16 bits; ours start above.
static NEXT_POOL: AtomicU64 = AtomicU64::new(1 << 16);

/// Shared memory of rings and equal-sized buffers. See the module page.
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    rings: usize,
    ring_stride: usize,
    slots: u32,
    buffers_at: usize,
    buffer_size: u32,
    buffers: u32,
    pool: u64,
    unclaimed: Mutex<Unclaimed>,
    stamps: Option<Box<[AtomicU64]>>,
}

// SAFETY: the region hands out each ring and each buffer once; whoever holds the slot with a buffer's index is the only
// one to touch that buffer. The region's own fields are immutable, behind a mutex, or atomic.
unsafe impl Send for Region {}
// SAFETY: as above; a shared reference gives no access to buffer or ring memory.
unsafe impl Sync for Region {}

impl Region {
    /// A region for `rings` rings of `slots` slots each, every slot with a buffer of `buffer_size` bytes, and `spare`
    /// buffers beside them. With `stamped`, each buffer carries a time stamp (see [`Region::stamp`]).
    ///
    /// # Errors
    /// [`RegionError::Shape`] for sizes that make no sense, [`RegionError::Memory`] when the system has no room.
    pub fn new(
        rings: usize,
        slots: u32,
        buffer_size: u32,
        spare: u32,
        stamped: bool,
    ) -> Result<Arc<Region>, RegionError> {
        let shape = || RegionError::Shape { rings, slots, buffer_size };
        let fits = (2..=65536).contains(&slots)
            && (512..=65472).contains(&buffer_size)
            && buffer_size.is_multiple_of(64)
            && rings <= 65536;
        if !fits {
            return Err(shape());
        }
        let ring_bytes = size_of::<netmap_ring>() + slots as usize * size_of::<netmap_slot>();
        let ring_stride = ring_bytes.next_multiple_of(RING_ALIGN);
        let buffers = u32::try_from(rings as u64 * u64::from(slots) + u64::from(spare))
            .ok()
            .and_then(|n| n.checked_add(FIRST_BUFFER))
            .ok_or_else(shape)?;
        let buffers_at = (rings * ring_stride).next_multiple_of(PAGE_ALIGN);
        let bytes = buffers_at + buffers as usize * buffer_size as usize;

        let base = map(bytes).map_err(|source| RegionError::Memory { bytes, source })?;
        let stamps = stamped.then(|| (0..buffers).map(|_| AtomicU64::new(0)).collect());
        Ok(Arc::new(Region {
            base,
            bytes,
            rings,
            ring_stride,
            slots,
            buffers_at,
            buffer_size,
            buffers,
            pool: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
            unclaimed: Mutex::new(Unclaimed { next_ring: 0, next_buffer: FIRST_BUFFER, extra: Vec::new() }),
            stamps,
        }))
    }

    /// A region that is a mapping of the kernel's memory. Its rings are the kernel's; of its buffers, those in `extra`
    /// can be claimed.
    ///
    /// # Safety
    /// The mapping is live, shared, readable and writable, holds `buffers` buffers of `buffer_size` bytes from `buffers_at`
    /// on, and nobody else unmaps it.
    pub(super) unsafe fn adopt(mapping: Mapping) -> Arc<Region> {
        Arc::new(Region {
            base: mapping.base,
            bytes: mapping.bytes,
            rings: 0,
            ring_stride: 0,
            slots: 0,
            buffers_at: mapping.buffers_at,
            buffer_size: mapping.buffer_size,
            buffers: mapping.buffers,
            pool: u64::from(mapping.memory_id),
            unclaimed: Mutex::new(Unclaimed {
                next_ring: 0,
                next_buffer: mapping.buffers,
                extra: mapping.extra,
            }),
            stamps: None,
        })
    }

    /// Which pool the buffers belong to: regions with the same number name the same buffers by the same indices, also
    /// where they are mapped at different addresses.
    #[inline]
    pub(super) fn pool(&self) -> u64 {
        self.pool
    }

    /// Bytes in each buffer.
    pub fn buffer_size(&self) -> u32 {
        self.buffer_size
    }

    /// Slots in each ring.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Buffers in the region, the two reserved ones included; every index in a slot is below this.
    pub fn buffers(&self) -> u32 {
        self.buffers
    }

    /// Where buffer 0 starts.
    pub(super) fn first_buffer(&self) -> NonNull<u8> {
        // SAFETY: the buffers lie inside the mapping.
        unsafe { self.base.add(self.buffers_at) }
    }

    /// Where buffer 0 starts, and the bytes of all buffers, for kernels that are told of the memory itself.
    #[cfg(target_os = "linux")]
    pub(super) fn buffer_memory(&self) -> (NonNull<u8>, usize) {
        (self.first_buffer(), self.bytes - self.buffers_at)
    }

    /// The time stamp of buffer `index`, nanoseconds since 1970: that of the frame it holds, set by whoever received it.
    /// `None` in a region without stamps.
    pub fn stamp(&self, index: u32) -> Option<u64> {
        self.stamps.as_deref()?.get(index as usize).map(|stamp| stamp.load(Ordering::Relaxed))
    }

    pub(super) fn set_stamp(&self, index: u32, time_ns: u64) {
        if let Some(stamp) = self.stamps.as_deref().and_then(|stamps| stamps.get(index as usize)) {
            stamp.store(time_ns, Ordering::Relaxed);
        }
    }

    /// Takes the next ring of the region, its slots filled with fresh buffers. With `offsets`, its frames start
    /// [`HEADROOM`] bytes into the buffer, as on a netmap port opened with the offsets option.
    pub(super) fn claim_ring(
        self: &Arc<Region>,
        transmit: bool,
        offsets: bool,
    ) -> Result<RawRing, RegionError> {
        let index = {
            let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
            if unclaimed.next_ring == self.rings {
                return Err(RegionError::Exhausted("ring"));
            }
            unclaimed.next_ring += 1;
            unclaimed.next_ring - 1
        };
        let at = index * self.ring_stride;
        let buf_ofs = (self.buffers_at - at) as i64;
        // SAFETY: `at` is the start of ring `index`, inside the mapping, aligned to 128 bytes, and was handed to nobody
        // else (the counter above only grows). The mapping is zeroed, which is a valid netmap_ring.
        let header = unsafe { self.base.add(at).cast::<netmap_ring>() };
        // SAFETY: we are the ring's only owner; all fields written are plain integers.
        unsafe {
            (&raw mut (*header.as_ptr()).buf_ofs).write(buf_ofs);
            (&raw mut (*header.as_ptr()).num_slots).write(self.slots);
            (&raw mut (*header.as_ptr()).nr_buf_size).write(self.buffer_size);
            (&raw mut (*header.as_ptr()).ringid).write(index as u16);
            (&raw mut (*header.as_ptr()).dir).write(u16::from(transmit));
            (&raw mut (*header.as_ptr()).offset_mask).write(if offsets { OFFSET_MASK } else { 0 });
        }
        let max_offset = if offsets { self.buffer_size } else { 0 };
        // SAFETY: the ring was just initialised, with as many slots as the region planned for it.
        let raw = unsafe { RawRing::new(Arc::clone(self), header, max_offset) };
        let fresh = self.claim_buffers(self.slots)?;
        for (slot, buffer) in (0..).zip(fresh) {
            raw.write_slot(
                slot,
                netmap_slot {
                    buf_idx: buffer,
                    len: 0,
                    flags: 0,
                    ptr: if offsets { u64::from(HEADROOM) } else { 0 },
                },
            );
        }
        // Nothing has been received yet; everything but one slot may be sent at once (netmap keeps one slot open so that
        // a full ring differs from an empty one).
        raw.set_tail(if transmit { self.slots - 1 } else { 0 });
        Ok(raw)
    }

    /// Takes `count` buffers that are in no ring.
    pub(super) fn claim_buffers(&self, count: u32) -> Result<impl Iterator<Item = u32> + use<>, RegionError> {
        let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        let none_left = || RegionError::Exhausted("buffer");
        let from_extra = unclaimed.extra.len().min(count as usize);
        let rest = count - from_extra as u32;
        let first = unclaimed.next_buffer;
        let end = first.checked_add(rest).filter(|end| *end <= self.buffers).ok_or_else(none_left)?;
        unclaimed.next_buffer = end;
        let kept = unclaimed.extra.len() - from_extra;
        Ok(unclaimed.extra.split_off(kept).into_iter().chain(first..end))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, or given to `adopt`, with this length; rings hold the region by `Arc`, so
        // none is left.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

/// Anonymous zeroed memory, in huge pages where the system offers them unasked.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping; nothing of ours is replaced.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // FreeBSD promotes to superpages by itself. Advice only: the mapping works the same when it is not taken.
    #[cfg(target_os = "linux")]
    // SAFETY: the range is the mapping just made.
    unsafe {
        libc::madvise(memory, bytes, libc::MADV_HUGEPAGE);
    }
    NonNull::new(memory.cast()).ok_or_else(io::Error::last_os_error)
}
