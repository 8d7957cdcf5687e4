//! Finding a port's rings in the memory that the kernel has laid out, and believing nothing of it: whatever a ring's
//! header says is compared with the size of the mapping before anything is read through it.
//!
//! 1. [`Memory::new`] holds a mapping and its length;
//! 2. [`Memory::ring`] finds a ring by the list behind the port's `netmap_if`, and checks its header;
//! 3. [`Memory::take_extra`] takes the buffers that the kernel has granted beside those in the rings;
//! 4. [`Memory::into_region`] makes the region of it.

use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::Arc;

use netmap_sys::{netmap_if, netmap_ring, netmap_slot, nmreq_register};

use crate::ring::OFFSET_MASK;
use crate::ring::region::{FIRST_BUFFER, Mapping, Region};

/// Most slots that a ring is believed to have; as many as `Region::new` gives.
const MOST_SLOTS: u32 = 65536;
/// Buffers are at least this long, and at most what a slot's 16-bit length can say.
const BUFFER_SIZES: std::ops::RangeInclusive<u32> = 64..=65535;

/// What is wrong with what the kernel has laid out.
type Wrong = &'static str;

/// Where a kernel's buffers lie in a mapping: the same for all its rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffers {
    /// Bytes from the mapping's start to buffer 0.
    at: usize,
    /// Bytes in each.
    pub(super) size: u32,
    count: u32,
}

/// A fresh mapping of netmap's memory, unmapped when it is dropped.
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    id: u16,
}

/// A ring that has been checked: header, slots and buffers lie inside the mapping.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: NonNull<netmap_ring>,
    pub(super) slots: u32,
    pub(super) buffers: Buffers,
}

/// Which of a port's rings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Transmit(u32),
    Receive(u32),
    HostTransmit(u32),
    HostReceive(u32),
}

impl Memory {
    /// Takes charge of a mapping of the memory that the kernel calls `id`.
    ///
    /// # Safety
    /// The mapping is live, shared, readable and writable for `bytes` bytes, and nobody else unmaps it.
    pub(super) unsafe fn new(base: NonNull<u8>, bytes: usize, id: u16) -> Memory {
        Memory { base, bytes, id }
    }

    /// The kernel's number of the memory.
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// A value in the memory.
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let end = at.checked_add(size_of::<T>())?;
        if end > self.bytes || !at.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: inside the mapping and aligned; the types read here are plain integers, valid with any bits. Volatile,
        // since the kernel may write meanwhile.
        Some(unsafe { self.base.add(at).cast::<T>().read_volatile() })
    }

    /// Where the ring lies: the list of rings begins behind the port.
    fn ring_at(&self, port_at: usize, which: Which) -> Option<usize> {
        let field = |offset| self.read::<u32>(port_at.checked_add(offset)?);
        let transmit = field(std::mem::offset_of!(netmap_if, ni_tx_rings))?;
        let host_transmit = field(std::mem::offset_of!(netmap_if, ni_host_tx_rings))?;
        let receive = field(std::mem::offset_of!(netmap_if, ni_rx_rings))?;
        let host_receive = field(std::mem::offset_of!(netmap_if, ni_host_rx_rings))?;
        let (before, index, count) = match which {
            Which::Transmit(index) => ([0, 0, 0], index, transmit),
            Which::HostTransmit(index) => ([transmit, 0, 0], index, host_transmit),
            Which::Receive(index) => ([transmit, host_transmit, 0], index, receive),
            Which::HostReceive(index) => ([transmit, host_transmit, receive], index, host_receive),
        };
        if index >= count {
            return None;
        }
        let position = before.iter().map(|n| *n as usize).sum::<usize>() + index as usize;
        let list = port_at.checked_add(std::mem::offset_of!(netmap_if, ring_ofs))?;
        let offset = self.read::<isize>(list.checked_add(position.checked_mul(size_of::<isize>())?)?)?;
        port_at.checked_add_signed(offset)
    }

    /// The ring, if all it says holds. `offsets` tells whether the registration was granted them.
    pub(super) fn ring(&self, port_at: u64, which: Which, offsets: bool) -> Result<Found, Wrong> {
        let port_at = usize::try_from(port_at).map_err(|_| "the port lies outside the memory")?;
        let at = self.ring_at(port_at, which).ok_or("a ring is missing from the port's list")?;
        let outside = "a ring lies outside the memory";
        let field = |offset| self.read::<u32>(at.checked_add(offset)?).ok_or(outside).ok();
        let number = |offset| field(offset).ok_or(outside);
        let slots = number(std::mem::offset_of!(netmap_ring, num_slots))?;
        let size = number(std::mem::offset_of!(netmap_ring, nr_buf_size))?;
        let head = number(std::mem::offset_of!(netmap_ring, head))?;
        let tail = number(std::mem::offset_of!(netmap_ring, tail))?;
        let mask = self.read::<u64>(at + std::mem::offset_of!(netmap_ring, offset_mask)).ok_or(outside)?;
        let buf_ofs = self.read::<i64>(at + std::mem::offset_of!(netmap_ring, buf_ofs)).ok_or(outside)?;

        let slot_bytes = slots as usize * size_of::<netmap_slot>();
        let end = at.checked_add(size_of::<netmap_ring>()).and_then(|end| end.checked_add(slot_bytes));
        if !(2..=MOST_SLOTS).contains(&slots) || end.is_none_or(|end| end > self.bytes) {
            return Err(outside);
        }
        if head >= slots || tail >= slots {
            return Err("a ring's cursors lie outside it");
        }
        // Without offsets the field is whatever an earlier user of the memory has left: the kernel does not clear it (FreeBSD).
        if offsets && mask != OFFSET_MASK {
            return Err("a ring's offsets are not those that were asked for");
        }
        if !BUFFER_SIZES.contains(&size) {
            return Err("the size of buffers is out of range");
        }
        let buffers_at = isize::try_from(buf_ofs)
            .ok()
            .and_then(|offset| at.checked_add_signed(offset))
            .filter(|start| *start <= self.bytes)
            .ok_or("the buffers lie outside the memory")?;
        let count = u32::try_from((self.bytes - buffers_at) / size as usize).unwrap_or(u32::MAX);
        if count <= FIRST_BUFFER {
            return Err("the buffers lie outside the memory");
        }
        // SAFETY: `at` is inside the mapping, which `read` and the comparison of `end` have seen to.
        let header = unsafe { self.base.add(at) }.cast();
        Ok(Found { header, slots, buffers: Buffers { at: buffers_at, size, count } })
    }

    /// The region that the mapping is, with `extra` buffers to be claimed.
    pub(super) fn into_region(self, buffers: Buffers, extra: Vec<u32>) -> Arc<Region> {
        let Memory { base, bytes, id } = self;
        std::mem::forget(self);
        // SAFETY: the mapping is live and ours alone to unmap, by the promise made in `new`, and is not unmapped by the
        // value forgotten; the buffers were found inside it.
        unsafe {
            Region::adopt(Mapping {
                base,
                bytes,
                buffers_at: buffers.at,
                buffer_size: buffers.size,
                buffers: buffers.count,
                memory_id: id,
                extra,
            })
        }
    }

    /// Takes the extra buffers off the kernel's chain, each of which holds the number of the next in its first bytes. The
    /// kernel is left an empty chain: what it finds there on close it would free, also when the buffer has since been swapped
    /// into a ring. It reclaims what is then missing when the last user of the memory goes.
    pub(super) fn take_extra(&self, reply: &nmreq_register, buffers: Buffers) -> Vec<u32> {
        let Some(head_at) = usize::try_from(reply.nr_offset)
            .ok()
            .and_then(|at| at.checked_add(std::mem::offset_of!(netmap_if, ni_bufs_head)))
        else {
            return Vec::new();
        };
        let mut extra = Vec::new();
        let mut seen = HashSet::new();
        let mut next = self.read::<u32>(head_at).unwrap_or(0);
        let granted = reply.nr_extra_bufs as usize;
        while (FIRST_BUFFER..buffers.count).contains(&next) && extra.len() < granted && seen.insert(next) {
            extra.push(next);
            next = self.read::<u32>(buffers.at + next as usize * buffers.size as usize).unwrap_or(0);
        }
        if !extra.is_empty() {
            // SAFETY: `read` has found the field inside the mapping and aligned; the kernel reads it only on close.
            unsafe { self.base.add(head_at).cast::<u32>().write_volatile(0) };
        }
        extra
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: ours alone to unmap, by the promise made in `new`; nothing that was found in it is used any more.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}
