//! The two ends of a queue: slots of our rings on one side, the rings of an AF_XDP socket on the other.
//!
//! A buffer is in a slot, or lent to the kernel; a slot whose buffer is lent is empty (`buf_idx` 0) until the kernel gives
//! one back, which need not be the same. [`Lent`] knows which buffers are out, so that nothing the kernel says can lose or
//! double one.
//!
//! Receiving: 1. received descriptors go into the empty slots, in order; 2. the buffers of released slots are lent through
//! the fill ring. Sending: 1. completed buffers go into the empty slots; 2. queued slots become descriptors; 3. the kernel is
//! told, and what it completed at once goes back.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netmap_sys::{NS_MOREFRAG, netmap_slot};

use super::socket::{Consumer, Producer, Socket};
use crate::ring::Health;
use crate::ring::raw::RawRing;
use crate::ring::renewal::Renewal;

/// A slot whose buffer is with the kernel.
const EMPTY: netmap_slot = netmap_slot { buf_idx: 0, len: 0, flags: 0, ptr: 0 };
/// Shorter frames are not Ethernet, and drivers need not take them.
const ETHERNET_HEADER: u16 = 14;
/// In copy mode one call sends some 32 packets, or one when the device refuses each. A ring that has not emptied after this
/// many is left for the next sync.
const MOST_CALLS: u32 = 64;

/// The buffers of a region that one end of a queue has lent to the kernel.
pub(super) struct Lent {
    bits: Box<[u64]>,
    buffers: u32,
    buffer_size: u32,
}

impl Lent {
    fn new(ring: &RawRing) -> Lent {
        let (buffers, buffer_size) = (ring.region().buffers(), ring.region().buffer_size());
        Lent { bits: vec![0; buffers.div_ceil(64) as usize].into(), buffers, buffer_size }
    }

    /// The word and bit of a buffer.
    #[inline]
    fn bit(&mut self, buffer: u32) -> Option<(&mut u64, u64)> {
        if buffer >= self.buffers {
            return None;
        }
        Some((self.bits.get_mut(buffer as usize / 64)?, 1 << (buffer % 64)))
    }

    /// Notes a buffer as lent, and gives its address in the UMEM.
    #[inline]
    fn lend(&mut self, buffer: u32) -> Option<u64> {
        let (word, bit) = self.bit(buffer)?;
        *word |= bit;
        Some(u64::from(buffer) * u64::from(self.buffer_size))
    }

    /// The buffer that an address of the kernel's lies in, now ours again, and where in it. `None` if it was not lent.
    #[inline]
    fn take_back(&mut self, address: u64) -> Option<(u32, u32)> {
        let size = u64::from(self.buffer_size);
        let (buffer, offset) = (u32::try_from(address / size).ok()?, (address % size) as u32);
        let (word, bit) = self.bit(buffer)?;
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        Some((buffer, offset))
    }

    /// Any buffer that is lent, now ours again.
    fn recover(&mut self) -> Option<u32> {
        let (number, word) = (0..).zip(&mut self.bits).find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        Some(number * 64 + bit)
    }

    #[cfg(test)]
    pub(super) fn buffers(&self) -> Vec<u32> {
        let is_lent = |buffer: &u32| self.bits[*buffer as usize / 64] >> (*buffer % 64) & 1 == 1;
        (0..self.buffers).filter(is_lent).collect()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Says how many buffers the kernel has. Nobody reads it often, so it is written only where it changes.
#[inline]
fn note(lent: &AtomicU64, now: u32) {
    if lent.load(Ordering::Relaxed) != u64::from(now) {
        lent.store(u64::from(now), Ordering::Relaxed);
    }
}

/// The receiving half of a socket.
pub(super) struct RxRings {
    pub(super) socket: Arc<Socket>,
    /// Buffers lent to the kernel to receive into.
    pub(super) fill: Producer<u64>,
    /// Received frames.
    pub(super) rx: Consumer<libc::xdp_desc>,
}

/// The sending half of a socket.
pub(super) struct TxRings {
    pub(super) socket: Arc<Socket>,
    /// Frames to be sent.
    pub(super) tx: Producer<libc::xdp_desc>,
    /// Buffers whose frames have been sent.
    pub(super) completion: Consumer<u64>,
}

/// The receiving end of a queue, behind a receive ring. Slots from `at` up to `lent_to` are empty.
pub(in crate::ring) struct XdpRx {
    rings: RxRings,
    pub(super) renewal: Arc<Renewal<RxRings>>,
    pub(super) lent: Lent,
    /// Where the next received frame goes; what `tail` says to the program.
    at: u32,
    /// The first slot whose buffer has not been lent.
    lent_to: u32,
}

impl XdpRx {
    pub(super) fn new(rings: RxRings, ring: &RawRing) -> XdpRx {
        XdpRx { rings, renewal: Renewal::new(), lent: Lent::new(ring), at: 0, lent_to: 0 }
    }

    #[inline]
    pub(in crate::ring) fn sync(&mut self, ring: &RawRing) {
        if self.renewal.is_ready() {
            self.renew(ring);
        }
        self.receive(ring);
        self.lend(ring);
        note(&self.rings.socket.receiving, ring.distance(self.at, self.lent_to));
        if self.rings.fill.needs_wakeup() && self.rings.fill.waiting() > 0 {
            // Why it fails is for `health` to say.
            let _ = self.rings.socket.wake_receiver();
        }
    }

    /// Changes over to a new socket. The interface of the old one has gone, and the kernel uses none of its buffers: they
    /// return to the empty slots.
    #[cold]
    fn renew(&mut self, ring: &RawRing) {
        let Some(rings) = self.renewal.take() else { return };
        self.rings = rings;
        let mut slot = self.at;
        while slot != self.lent_to {
            let Some(buf_idx) = self.lent.recover() else { break };
            ring.write_slot(slot, netmap_slot { buf_idx, ..EMPTY });
            slot = ring.next(slot);
        }
        self.lent_to = self.at;
    }

    #[inline]
    fn receive(&mut self, ring: &RawRing) {
        while self.at != self.lent_to {
            let Some(descriptor) = self.rings.rx.get() else { break };
            let Some((buf_idx, offset)) = self.lent.take_back(descriptor.addr) else {
                count(&self.rings.socket.broken);
                continue;
            };
            let room = self.lent.buffer_size - offset;
            let mut slot = netmap_slot { buf_idx, len: 0, flags: 0, ptr: u64::from(offset) };
            match u16::try_from(descriptor.len) {
                Ok(len) if u32::from(len) <= room => slot.len = len,
                _ => count(&self.rings.socket.broken),
            }
            ring.write_slot(self.at, slot);
            self.at = ring.next(self.at);
        }
        self.rings.rx.publish();
        ring.set_tail(self.at);
    }

    #[inline]
    fn lend(&mut self, ring: &RawRing) {
        // The slot before `head` keeps its buffer, so that a full ring differs from an empty one.
        let end = ring.previous(ring.head());
        while self.lent_to != end {
            let Some(address) = self.lent.lend(ring.slot(self.lent_to).buf_idx) else { break };
            // The ring has more entries than there are slots, so there is always room.
            if !self.rings.fill.put(address) {
                self.lent.take_back(address);
                break;
            }
            ring.write_slot(self.lent_to, EMPTY);
            self.lent_to = ring.next(self.lent_to);
        }
        self.rings.fill.publish();
    }

    pub(in crate::ring) fn pending(&self) -> bool {
        self.rings.rx.pending()
    }

    pub(in crate::ring) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.rings.socket.as_fd()
    }

    pub(in crate::ring) fn health(&self) -> Health {
        self.rings.socket.health()
    }
}

/// The sending end of a queue, behind a transmit ring. Slots from `done` up to `at` are empty, but for those whose frame
/// could not be sent.
pub(in crate::ring) struct XdpTx {
    rings: TxRings,
    pub(super) renewal: Arc<Renewal<TxRings>>,
    pub(super) lent: Lent,
    /// The first slot that has not become a descriptor.
    at: u32,
    /// The first slot that is not free again.
    done: u32,
    /// Is the slot at `at` the continuation of a frame that is being dropped?
    dropping: bool,
}

impl XdpTx {
    pub(super) fn new(rings: TxRings, ring: &RawRing) -> XdpTx {
        XdpTx { rings, renewal: Renewal::new(), lent: Lent::new(ring), at: 0, done: 0, dropping: false }
    }

    #[inline]
    pub(in crate::ring) fn sync(&mut self, ring: &RawRing) {
        if self.renewal.is_ready() {
            self.renew(ring);
        }
        self.complete(ring);
        self.send(ring);
        if self.wake() {
            self.complete(ring);
        }
        note(&self.rings.socket.sending, ring.distance(self.done, self.at));
        ring.set_tail(ring.previous(self.done));
    }

    /// Changes over to a new socket, as at the receiving end. What was not sent is lost.
    #[cold]
    fn renew(&mut self, ring: &RawRing) {
        let Some(rings) = self.renewal.take() else { return };
        self.rings = rings;
        while self.done != self.at {
            if ring.slot(self.done).buf_idx == EMPTY.buf_idx {
                let Some(buf_idx) = self.lent.recover() else { break };
                ring.write_slot(self.done, netmap_slot { buf_idx, ..EMPTY });
            }
            self.done = ring.next(self.done);
        }
    }

    #[inline]
    fn complete(&mut self, ring: &RawRing) {
        while self.done != self.at {
            if ring.slot(self.done).buf_idx == EMPTY.buf_idx {
                let Some(address) = self.rings.completion.get() else { break };
                let Some((buf_idx, _)) = self.lent.take_back(address) else {
                    count(&self.rings.socket.broken);
                    continue;
                };
                ring.write_slot(self.done, netmap_slot { buf_idx, ..EMPTY });
            }
            self.done = ring.next(self.done);
        }
        self.rings.completion.publish();
    }

    #[inline]
    fn send(&mut self, ring: &RawRing) {
        let head = ring.head();
        while self.at != head {
            let slot = ring.slot(self.at);
            let more = slot.flags & NS_MOREFRAG != 0;
            let offset = ring.offset(&slot);
            // The kernel skips a descriptor that it dislikes, and never gives its buffer back.
            let sound = slot.len >= ETHERNET_HEADER && offset + u32::from(slot.len) <= self.lent.buffer_size;
            if sound && !more && !self.dropping {
                let Some(base) = self.lent.lend(slot.buf_idx) else { break };
                let addr = base + u64::from(offset);
                // The ring has more entries than there are slots, so there is always room.
                if !self.rings.tx.put(libc::xdp_desc { addr, len: u32::from(slot.len), options: 0 }) {
                    self.lent.take_back(base);
                    break;
                }
                ring.write_slot(self.at, EMPTY);
            } else if !more {
                count(&self.rings.socket.unsendable);
            }
            self.dropping = more;
            self.at = ring.next(self.at);
        }
        self.rings.tx.publish();
    }

    /// Is anything on its way that the kernel has not taken?
    pub(in crate::ring) fn pending(&self) -> bool {
        self.rings.tx.waiting() > 0
    }

    /// Tells the kernel that there is something to send, where it wants to be told, until it stops taking. False when
    /// there was no need.
    #[inline]
    fn wake(&mut self) -> bool {
        let mut waiting = self.rings.tx.waiting();
        if waiting == 0 || !self.rings.tx.needs_wakeup() {
            return false;
        }
        for _ in 0..MOST_CALLS {
            self.rings.socket.wake_sender();
            let left = self.rings.tx.waiting();
            if left == 0 || left == waiting {
                break;
            }
            waiting = left;
        }
        true
    }
}
