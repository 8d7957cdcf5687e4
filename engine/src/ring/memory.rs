//! The memory wire: two ports joined back to back, each a set of ring pairs, as netmap's pipes are.
//!
//! Each direction of a pair is a *link*, a circle of slots like a ring's, every one of which holds a buffer. Sending swaps
//! the frame's buffer with the link's spare one; receiving swaps it with the receive slot's. The two ends may belong to
//! different threads: each owns its ring, and the link has one writer and one reader.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;
use netmap_sys::{NS_MOREFRAG, netmap_slot};

use super::port::{Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::{Region, RegionError};
use super::rx::RxRing;
use super::tx::TxRing;

/// Slots in flight between two rings. A power of two, so that counts wrap around by masking; two batches.
const LINK_SLOTS: u32 = 128;

struct Link {
    slots: Box<[UnsafeCell<netmap_slot>]>,
    /// Slots ever filled, modulo 2^32; stored by the sending end.
    written: CachePadded<AtomicU32>,
    /// Slots ever emptied, modulo 2^32; stored by the receiving end.
    read: CachePadded<AtomicU32>,
}

// SAFETY: a slot is touched by the sender alone while written - read leaves it free, and by the receiver alone once
// `written` (release) has been seen (acquire) beyond it; `read` hands it back in the same way.
unsafe impl Sync for Link {}
// SAFETY: plain integers inside.
unsafe impl Send for Link {}

impl Link {
    fn new(region: &Region) -> Result<Arc<Link>, RegionError> {
        let slots = region
            .claim_buffers(LINK_SLOTS)?
            .map(|buf_idx| UnsafeCell::new(netmap_slot { buf_idx, len: 0, flags: 0, ptr: 0 }))
            .collect();
        Ok(Arc::new(Link { slots, written: CachePadded::default(), read: CachePadded::default() }))
    }

    /// Exchanges what the slot at `count` holds.
    ///
    /// # Safety
    /// The caller is the end that owns this slot now (see `Sync` above).
    #[inline]
    unsafe fn exchange(&self, count: u32, slot: netmap_slot) -> netmap_slot {
        let index = (count % LINK_SLOTS) as usize;
        match self.slots.get(index) {
            // SAFETY: exclusive by the caller's promise.
            Some(cell) => unsafe { cell.get().replace(slot) },
            None => slot,
        }
    }
}

/// The sending end of a link, behind a transmit ring.
pub(super) struct WireTx {
    link: Arc<Link>,
    written: u32,
    read: u32,
    /// The first slot of the ring that has not gone out yet.
    at: u32,
}

impl WireTx {
    #[inline]
    pub(super) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head();
        while self.at != head {
            if self.written.wrapping_sub(self.read) == LINK_SLOTS {
                self.read = self.link.read.load(Ordering::Acquire);
                if self.written.wrapping_sub(self.read) == LINK_SLOTS {
                    break;
                }
            }
            let mut slot = ring.slot(self.at);
            slot.flags &= NS_MOREFRAG;
            // SAFETY: fewer than LINK_SLOTS are in flight, so this one is the sender's.
            let spare = unsafe { self.link.exchange(self.written, slot) };
            slot.buf_idx = spare.buf_idx;
            ring.write_slot(self.at, slot);
            self.written = self.written.wrapping_add(1);
            self.at = ring.next(self.at);
        }
        self.link.written.store(self.written, Ordering::Release);
        ring.set_tail(ring.previous(self.at));
    }
}

/// The receiving end of a link, behind a receive ring.
pub(super) struct WireRx {
    link: Arc<Link>,
    written: u32,
    read: u32,
    /// Where the next received slot goes; what `tail` says to the program.
    at: u32,
}

impl WireRx {
    #[inline]
    pub(super) fn sync(&mut self, ring: &RawRing) {
        // The slot before `head` stays empty, so that a full ring differs from an empty one.
        let end = ring.previous(ring.head());
        while self.at != end {
            if self.written == self.read {
                self.written = self.link.written.load(Ordering::Acquire);
                if self.written == self.read {
                    break;
                }
            }
            let mine = ring.slot(self.at);
            // SAFETY: `written` was seen beyond this slot, so it is the receiver's.
            let received = unsafe { self.link.exchange(self.read, mine) };
            ring.write_slot(self.at, received);
            self.read = self.read.wrapping_add(1);
            self.at = ring.next(self.at);
        }
        self.link.read.store(self.read, Ordering::Release);
        ring.set_tail(self.at);
    }

    /// Is something on its way that has not reached the ring?
    pub(super) fn pending(&self) -> bool {
        self.link.written.load(Ordering::Acquire) != self.read
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
    let mut left = Port { queues: Vec::with_capacity(queues) };
    let mut right = Port { queues: Vec::with_capacity(queues) };
    for _ in 0..queues {
        let there = direction(region, offsets)?;
        let back = direction(region, offsets)?;
        left.queues.push((back.1, there.0));
        right.queues.push((there.1, back.0));
    }
    Ok((left, right))
}

fn direction(region: &Arc<Region>, offsets: bool) -> Result<(TxQueue, RxQueue), RegionError> {
    let link = Link::new(region)?;
    let tx = TxRing::new(region.claim_ring(true, offsets)?);
    let rx = RxRing::new(region.claim_ring(false, offsets)?);
    let sender = WireTx { link: Arc::clone(&link), written: 0, read: 0, at: 0 };
    let receiver = WireRx { link, written: 0, read: 0, at: 0 };
    Ok((TxQueue { ring: tx, sink: Sink::Wire(sender) }, RxQueue { ring: rx, source: Source::Wire(receiver) }))
}

/// Buffer indices that a link holds, for the tests that count buffers.
#[cfg(test)]
pub(super) fn link_buffers(sender: &WireTx) -> Vec<u32> {
    // SAFETY: tests call this while neither end is in `sync`.
    sender.link.slots.iter().map(|slot| unsafe { (*slot.get()).buf_idx }).collect()
}
