//! The memory wire: two ports joined back to back, each a set of ring pairs, as netmap's pipes are.
//!
//! Each direction of a pair is a *link*, a circle of slots like a ring's, every one of which holds a buffer. Sending swaps
//! the frame's buffer with the link's spare one; receiving swaps it with the receive slot's. The two ends may belong to
//! different threads: each owns its ring, and the link has one writer and one reader.

use std::cell::UnsafeCell;
use std::sync::Arc;

use netmap_sys::{NS_MOREFRAG, netmap_slot};

use super::hand_over::{Counts, Emptying, Filling};
use super::port::{Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::{Region, RegionError};
use super::rx::RxRing;
use super::tx::TxRing;

/// Slots in flight between two rings: two batches.
const LINK_SLOTS: u32 = 128;

struct Link {
    /// As many as a power of two, so that counts go on where they wrap around.
    slots: Box<[UnsafeCell<netmap_slot>]>,
    counts: Counts,
}

// SAFETY: a slot is touched by one end alone, the one that the counts give it to (see `hand_over`).
unsafe impl Sync for Link {}
// SAFETY: plain integers inside.
unsafe impl Send for Link {}

impl Link {
    fn new(region: &Region, slots: u32) -> Result<Arc<Link>, RegionError> {
        let slots = region
            .claim_buffers(slots.next_power_of_two())?
            .map(|buf_idx| UnsafeCell::new(netmap_slot { buf_idx, len: 0, flags: 0, ptr: 0 }))
            .collect();
        Ok(Arc::new(Link { slots, counts: Counts::default() }))
    }

    /// Slots of the link.
    #[inline]
    fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slots from count `from` on, `count` of them or as many as there are before the link's end.
    ///
    /// # Safety
    /// The caller is the end that owns these slots now (see `Sync` above), and lets the reference go before it hands them
    /// over.
    #[inline]
    #[allow(clippy::mut_from_ref)] // exclusive by ownership of the slots, not of this handle
    unsafe fn segment(&self, from: u32, count: u32) -> &mut [netmap_slot] {
        let from = (from & (self.len() - 1)) as usize;
        let cells = self.slots.get(from..).unwrap_or_default();
        let count = cells.len().min(count as usize);
        // SAFETY: inside the slots; an UnsafeCell has its contents' layout and lets them be changed through a shared
        // reference; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), count) }
    }
}

/// The sending end of a link, behind a transmit ring.
pub(super) struct WireTx {
    link: Arc<Link>,
    filling: Filling,
    /// The first slot of the ring that has not gone out yet.
    at: u32,
}

impl WireTx {
    #[inline]
    pub(super) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head();
        while self.at != head {
            let room = self.filling.room(&self.link.counts, self.link.len());
            // SAFETY: slots before head have been given to this end of the ring.
            let sending = unsafe { ring.segment(self.at, ring.distance(self.at, head).min(room)) };
            // SAFETY: fewer than the link has are in flight, so these are the sender's.
            let free = unsafe { self.link.segment(self.filling.next(), sending.len() as u32) };
            if free.is_empty() {
                break;
            }
            for (slot, free) in sending.iter_mut().zip(free.iter_mut()) {
                let spare = free.buf_idx;
                *free = netmap_slot { flags: slot.flags & NS_MOREFRAG, ..*slot };
                slot.buf_idx = spare;
            }
            let moved = free.len() as u32;
            self.filling.advance(moved);
            self.at = ring.ahead(self.at, moved);
        }
        self.filling.publish(&self.link.counts);
        ring.set_tail(ring.previous(self.at));
    }
}

impl WireTx {
    /// Has the receiving end not taken all that was sent?
    pub(super) fn is_unread(&self) -> bool {
        self.filling.is_unread(&self.link.counts)
    }
}

/// The receiving end of a link, behind a receive ring.
pub(super) struct WireRx {
    link: Arc<Link>,
    emptying: Emptying,
    /// Where the next received slot goes; what `tail` says to the program.
    at: u32,
}

impl WireRx {
    #[inline]
    pub(super) fn sync(&mut self, ring: &RawRing) {
        // The slot before `head` stays empty, so that a full ring differs from an empty one.
        let end = ring.previous(ring.head());
        while self.at != end {
            let waiting = self.emptying.waiting(&self.link.counts);
            // SAFETY: slots from tail up to the one before head have been given to this end of the ring.
            let empty = unsafe { ring.segment(self.at, ring.distance(self.at, end).min(waiting)) };
            // SAFETY: these wait, so they are the receiver's.
            let full = unsafe { self.link.segment(self.emptying.next(), empty.len() as u32) };
            if full.is_empty() {
                break;
            }
            for (slot, full) in empty.iter_mut().zip(full.iter_mut()) {
                std::mem::swap(slot, full);
            }
            let moved = full.len() as u32;
            self.emptying.advance(moved);
            self.at = ring.ahead(self.at, moved);
        }
        self.emptying.publish(&self.link.counts);
        ring.set_tail(self.at);
    }

    /// Is something on its way that has not reached the ring?
    pub(super) fn pending(&self) -> bool {
        self.emptying.is_pending(&self.link.counts)
    }
}

/// Rings that [`wire`] claims from its region for each pair of queues.
pub const RINGS_PER_QUEUE: usize = 4;
/// Buffers beside those in rings that [`wire`] claims for each pair of queues.
pub const SPARE_PER_QUEUE: u32 = 2 * LINK_SLOTS;

/// Joins two new ports of `queues` ring pairs each back to back. Without `offsets`, frames have no headroom, as on a
/// netmap port in emulated mode.
///
/// # Errors
/// [`RegionError::Exhausted`] when the region was not made for so many rings and buffers.
pub fn wire(region: &Arc<Region>, queues: usize, offsets: bool) -> Result<(Port, Port), RegionError> {
    long_wire(region, queues, offsets, LINK_SLOTS)
}

/// As [`wire`], with room for `slots` frames (raised to a power of two) on their way in each direction of each pair: it claims twice as
/// many buffers beside those in rings.
///
/// # Errors
/// As [`wire`].
pub fn long_wire(
    region: &Arc<Region>,
    queues: usize,
    offsets: bool,
    slots: u32,
) -> Result<(Port, Port), RegionError> {
    let mut left = Port { queues: Vec::with_capacity(queues) };
    let mut right = Port { queues: Vec::with_capacity(queues) };
    for _ in 0..queues {
        let there = direction(region, offsets, slots)?;
        let back = direction(region, offsets, slots)?;
        left.queues.push((back.1, there.0));
        right.queues.push((there.1, back.0));
    }
    Ok((left, right))
}

/// Joins any two of `ends` by a wire with one ring pair and offsets: for each end its ring pairs to the others, in the order of
/// their numbers. It takes `ends * (ends - 1) / 2` wires.
///
/// # Errors
/// As [`wire`].
pub fn mesh(region: &Arc<Region>, ends: usize) -> Result<Vec<Vec<(RxQueue, TxQueue)>>, RegionError> {
    let mut joined: Vec<Vec<(RxQueue, TxQueue)>> = (0..ends).map(|_| Vec::new()).collect();
    for one in 0..ends {
        for other in one + 1..ends {
            let (near, far) = wire(region, 1, true)?;
            for (end, port) in [(one, near), (other, far)] {
                if let Some(joined) = joined.get_mut(end) {
                    joined.extend(port.queues);
                }
            }
        }
    }
    Ok(joined)
}

fn direction(region: &Arc<Region>, offsets: bool, slots: u32) -> Result<(TxQueue, RxQueue), RegionError> {
    let link = Link::new(region, slots)?;
    let tx = TxRing::new(region.claim_ring(true, offsets)?);
    let rx = RxRing::new(region.claim_ring(false, offsets)?);
    let sender = WireTx { link: Arc::clone(&link), filling: Filling::default(), at: 0 };
    let receiver = WireRx { link, emptying: Emptying::default(), at: 0 };
    Ok((TxQueue { ring: tx, sink: Sink::Wire(sender) }, RxQueue { ring: rx, source: Source::Wire(receiver) }))
}

/// Buffer indices that a link holds, for the tests that count buffers.
#[cfg(test)]
pub(super) fn link_buffers(sender: &WireTx) -> Vec<u32> {
    // SAFETY: tests call this while neither end is in `sync`.
    sender.link.slots.iter().map(|slot| unsafe { (*slot.get()).buf_idx }).collect()
}
