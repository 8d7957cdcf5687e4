//! The way from a mapped memory region to a frame: port, ring, slot, buffer, offset. Each function is one step, does
//! what the C macro of its name does, and checks nothing; the caller vouches for what the kernel wrote and for his own
//! indices.
//!
//! The pointers that go in must be allowed to reach the whole mapping (derived from the pointer to it, not from a
//! reference to one structure), and so may those that come out.

use crate::ring::{netmap_if, netmap_ring, netmap_slot};

/// The port at `offset` bytes ([`nmreq_register::nr_offset`](crate::nmreq_register::nr_offset)) in the mapping.
///
/// # Safety
/// A port registered through the mapped descriptor must be at `offset`, within the mapping that begins at `mem`.
#[inline]
pub unsafe fn netmap_if(mem: *mut u8, offset: u64) -> *mut netmap_if {
    // SAFETY: the caller says that the offset is within the mapping.
    unsafe { mem.add(offset as usize).cast() }
}

/// Transmit ring `index`: those of the NIC come first, then from
/// [`ni_tx_rings`](field@netmap_if::ni_tx_rings) on those towards the host stack.
///
/// # Safety
/// `nifp` must point to a port in a live mapping, and `index` be below its `ni_tx_rings + ni_host_tx_rings`.
#[inline]
pub unsafe fn netmap_txring(nifp: *mut netmap_if, index: u32) -> *mut netmap_ring {
    // SAFETY: the caller's promise is the one asked for: transmit rings stand first in the list.
    unsafe { listed_ring(nifp, index as usize) }
}

/// Receive ring `index`: those of the NIC come first, then from
/// [`ni_rx_rings`](field@netmap_if::ni_rx_rings) on those from the host stack.
///
/// # Safety
/// `nifp` must point to a port in a live mapping, and `index` be below its `ni_rx_rings + ni_host_rx_rings`.
#[inline]
pub unsafe fn netmap_rxring(nifp: *mut netmap_if, index: u32) -> *mut netmap_ring {
    // SAFETY: the port is alive. In the list, receive rings follow all transmit rings, the host's too.
    unsafe {
        let transmit_rings = (*nifp).ni_tx_rings as usize + (*nifp).ni_host_tx_rings as usize;
        listed_ring(nifp, transmit_rings + index as usize)
    }
}

/// The ring at `position` in the list that follows the port.
///
/// # Safety
/// `nifp` must point to a port in a live mapping, and `position` be below the number of all its rings.
#[inline]
unsafe fn listed_ring(nifp: *mut netmap_if, position: usize) -> *mut netmap_ring {
    // SAFETY: the list has an entry for every ring of the port, and each leads to a ring within the same mapping.
    unsafe {
        let offset = (&raw const (*nifp).ring_ofs).cast::<isize>().add(position).read();
        nifp.byte_offset(offset).cast()
    }
}

/// The first of the ring's `num_slots` slots.
///
/// # Safety
/// `ring` must point to a ring in a live mapping.
#[inline]
pub unsafe fn netmap_ring_slots(ring: *mut netmap_ring) -> *mut netmap_slot {
    // SAFETY: the slots follow the ring's head in the same mapping.
    unsafe { (&raw mut (*ring).slot).cast() }
}

/// The start of buffer `index` of the region that the ring belongs to; `nr_buf_size` bytes.
///
/// # Safety
/// `ring` must point to a ring in a live mapping, and `index` be that of a buffer in its region.
#[inline]
pub unsafe fn netmap_buf(ring: *mut netmap_ring, index: u32) -> *mut u8 {
    // SAFETY: buffer 0 is `buf_ofs` bytes from the ring, and the caller says that the buffer is in the mapping too.
    unsafe {
        let buffers = ring.byte_offset((*ring).buf_ofs as isize).cast::<u8>();
        buffers.add(index as usize * (*ring).nr_buf_size as usize)
    }
}

/// The bytes between the start of the slot's buffer and its frame; 0 on rings without offsets.
///
/// # Safety
/// `ring` must point to a ring in a live mapping, and `slot` to a slot that is the caller's to read.
#[inline]
pub unsafe fn netmap_roffset(ring: *const netmap_ring, slot: *const netmap_slot) -> u64 {
    // SAFETY: both are readable.
    unsafe { (*slot).ptr & (*ring).offset_mask }
}

/// Sets the bytes between the start of the slot's buffer and its frame. Bits of `offset` that the ring has no room
/// for are lost, all of them on rings without offsets; the other bits of the slot's `ptr` stay.
///
/// # Safety
/// `ring` must point to a ring in a live mapping, and `slot` to a slot that is the caller's to write.
#[inline]
pub unsafe fn netmap_woffset(ring: *const netmap_ring, slot: *mut netmap_slot, offset: u64) {
    // SAFETY: the ring is readable and the slot writable.
    unsafe {
        let mask = (*ring).offset_mask;
        (*slot).ptr = (*slot).ptr & !mask | offset & mask;
    }
}

/// The start of the slot's frame: its buffer, plus its offset.
///
/// # Safety
/// `ring` must point to a ring in a live mapping, `slot` to a slot that is the caller's to read, whose buffer is in the
/// ring's region and whose offset does not lead out of the mapping.
#[inline]
pub unsafe fn netmap_buf_offset(ring: *mut netmap_ring, slot: *const netmap_slot) -> *mut u8 {
    // SAFETY: the caller's promises are those of the two functions, and the sum is within the mapping.
    unsafe { netmap_buf(ring, (*slot).buf_idx).add(netmap_roffset(ring, slot) as usize) }
}

/// The slot after slot `index`: the first one again after the last. C calls it `nm_ring_next`.
///
/// # Safety
/// `ring` must point to a ring in a live mapping.
#[inline]
pub unsafe fn netmap_ring_next(ring: *const netmap_ring, index: u32) -> u32 {
    // SAFETY: the ring is readable.
    let last = index.wrapping_add(1) == unsafe { (*ring).num_slots };
    if last { 0 } else { index.wrapping_add(1) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec;

    use bytemuck::Zeroable;

    use super::*;

    /// A region with one port of two NIC and one host ring each way. Neither the port nor the rings stand in the order
    /// of their numbers, so that only the list of offsets leads to them.
    struct Region(Box<[Unit]>);

    #[repr(C, align(128))]
    #[derive(Clone, Zeroable)]
    struct Unit([u8; 128]);

    const UNIT: usize = size_of::<Unit>();
    const SLOTS: u32 = 8;
    const PORT_AT: usize = 20 * UNIT;
    /// By position in the list: NIC transmit, host transmit, NIC receive, host receive.
    const RINGS_AT: [usize; 6] = [3 * UNIT, 0, 23 * UNIT, 6 * UNIT, 26 * UNIT, 9 * UNIT];
    const BUFFERS_AT: usize = 12 * UNIT;
    const BUFFER_SIZE: usize = 2 * UNIT;

    impl Region {
        fn new() -> Self {
            let mut region = Self(vec![Unit::zeroed(); 29].into_boxed_slice());
            // SAFETY: the port with its six offsets and the rings with their slots fit at their places, aligned.
            unsafe {
                let port = region.port();
                (*port).ni_tx_rings = 2;
                (*port).ni_host_tx_rings = 1;
                (*port).ni_rx_rings = 2;
                (*port).ni_host_rx_rings = 1;
                for (position, at) in RINGS_AT.into_iter().enumerate() {
                    let offset = at as isize - PORT_AT as isize;
                    (&raw mut (*port).ring_ofs).cast::<isize>().add(position).write(offset);
                    let ring = region.start().add(at).cast::<netmap_ring>();
                    (*ring).buf_ofs = BUFFERS_AT as i64 - at as i64;
                    (*ring).num_slots = SLOTS;
                    (*ring).nr_buf_size = BUFFER_SIZE as u32;
                }
            }
            region
        }

        fn start(&mut self) -> *mut u8 {
            self.0.as_mut_ptr().cast()
        }

        fn port(&mut self) -> *mut netmap_if {
            // SAFETY: the region is larger than the offset.
            unsafe { netmap_if(self.start(), PORT_AT as u64) }
        }

        fn ring(&mut self) -> *mut netmap_ring {
            // SAFETY: the port has two transmit rings.
            unsafe { netmap_txring(self.port(), 0) }
        }

        fn offset_of<T>(&mut self, pointer: *mut T) -> usize {
            pointer.addr() - self.start().addr()
        }
    }

    #[test]
    fn transmit_rings_are_the_nics_then_the_hosts() {
        let mut region = Region::new();
        for index in 0..3 {
            // SAFETY: the port has three transmit rings.
            let ring = unsafe { netmap_txring(region.port(), index) };
            assert_eq!(region.offset_of(ring), RINGS_AT[index as usize]);
        }
    }

    #[test]
    fn receive_rings_stand_after_the_transmit_rings_of_the_host() {
        let mut region = Region::new();
        for index in 0..3 {
            // SAFETY: the port has three receive rings.
            let ring = unsafe { netmap_rxring(region.port(), index) };
            assert_eq!(region.offset_of(ring), RINGS_AT[3 + index as usize]);
        }
    }

    #[test]
    fn slots_follow_the_ring() {
        let mut region = Region::new();
        let ring = region.ring();
        // SAFETY: the ring is alive.
        let slots = unsafe { netmap_ring_slots(ring) };
        assert_eq!(region.offset_of(slots), RINGS_AT[0] + 256);
    }

    #[test]
    fn every_ring_finds_the_same_buffers_before_and_behind_it() {
        let mut region = Region::new();
        for position in 0..3 {
            // SAFETY: the port has three rings each way, and the region has buffers 0 to 3.
            let (by_transmit, by_receive) = unsafe {
                let port = region.port();
                (netmap_buf(netmap_txring(port, position), 3), netmap_buf(netmap_rxring(port, position), 3))
            };
            assert_eq!(region.offset_of(by_transmit), BUFFERS_AT + 3 * BUFFER_SIZE);
            assert_eq!(by_transmit, by_receive);
        }
    }

    #[test]
    fn frames_begin_at_the_offset_under_the_mask() {
        let mut region = Region::new();
        let ring = region.ring();
        // SAFETY: the ring is alive, and the frame is within buffer 2.
        let frame = unsafe {
            let slot = netmap_ring_slots(ring);
            (*ring).offset_mask = 0xffff;
            (*slot).buf_idx = 2;
            (*slot).ptr = 0xabcd_0000_0000_0080;
            assert_eq!(netmap_roffset(ring, slot), 0x80);
            netmap_buf_offset(ring, slot)
        };
        assert_eq!(region.offset_of(frame), BUFFERS_AT + 2 * BUFFER_SIZE + 0x80);
    }

    #[test]
    fn writing_an_offset_leaves_the_rest_of_the_pointer_alone() {
        let mut region = Region::new();
        let ring = region.ring();
        // SAFETY: the ring is alive.
        let pointer = unsafe {
            let slot = netmap_ring_slots(ring);
            (*ring).offset_mask = 0xffff;
            (*slot).ptr = 0xabcd_0000_0000_0080;
            netmap_woffset(ring, slot, 0x7_0068);
            (*slot).ptr
        };
        assert_eq!(pointer, 0xabcd_0000_0000_0068);
    }

    #[test]
    fn rings_without_offsets_ignore_the_pointer() {
        let mut region = Region::new();
        let ring = region.ring();
        // SAFETY: the ring is alive, and the region has buffer 1.
        unsafe {
            let slot = netmap_ring_slots(ring);
            *slot = netmap_slot { buf_idx: 1, len: 60, flags: 0, ptr: 0x1234 };
            netmap_woffset(ring, slot, 64);
            assert_eq!((*slot).ptr, 0x1234);
            assert_eq!(netmap_buf_offset(ring, slot), netmap_buf(ring, 1));
        }
    }

    #[test]
    fn the_slot_after_the_last_is_the_first() {
        let mut region = Region::new();
        let ring = region.ring();
        // SAFETY: the ring is alive.
        unsafe {
            assert_eq!(netmap_ring_next(ring, 0), 1);
            assert_eq!(netmap_ring_next(ring, SLOTS - 2), SLOTS - 1);
            assert_eq!(netmap_ring_next(ring, SLOTS - 1), 0);
        }
    }
}
