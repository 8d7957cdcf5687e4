//! Frames through a descriptor that gives and takes one frame at a time: straight into receive slots' buffers, straight out
//! of transmit slots' buffers. A frame longer than a buffer lies in several slots (`NS_MOREFRAG`).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use netmap_sys::{NETMAP_MAX_FRAGS, NS_MOREFRAG, netmap_slot};

use super::interface::{Kind, is_gone};
use super::raw::RawRing;
use super::{HEADROOM, TAG_SHIFT};

/// The prefix and a frame of the most slots.
const MOST_PARTS: usize = 1 + NETMAP_MAX_FRAGS;
/// Bytes of the address family that some systems put in front of IP packets.
const FAMILY_LEN: usize = 4;

/// What an attempt to receive gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// A frame, in so many slots.
    Frame(u32),
    /// Nothing is there.
    Nothing,
    /// A frame that did not fit, or that was shorter than its prefix. It is lost.
    Broken,
    /// The interface has been deleted.
    Gone,
}

/// What an attempt to send gave. The frame is over with in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It went.
    Whole,
    /// The interface is down or full, or the frame is none for it.
    Refused,
    /// The interface has been deleted.
    Gone,
}

/// Bytes of a frame that one receive slot holds.
pub(super) fn room(ring: &RawRing) -> usize {
    (ring.region().buffer_size() - HEADROOM) as usize
}

/// Slots that are enough for frames of `len` bytes, and for seeing that one is longer; never more than a ring can offer.
pub(super) fn slots_for(ring: &RawRing, len: usize) -> u32 {
    let slots = len.saturating_add(1).div_ceil(room(ring)).min(NETMAP_MAX_FRAGS);
    (slots as u32).min(ring.most_free())
}

/// Receives one frame into the `slots` slots from `at` on, which are the backend's. A frame that fills them all may have been
/// cut by the system, so it counts as broken.
pub(super) fn receive(
    descriptor: BorrowedFd<'_>,
    kind: Kind,
    ring: &RawRing,
    at: u32,
    slots: u32,
    tag: u32,
) -> Received {
    let mut family = [0; FAMILY_LEN];
    let mut parts = Parts::new();
    parts.add(family.get_mut(..kind.prefix()).unwrap_or_default());
    let mut slot = at;
    for _ in 0..slots {
        // SAFETY: the caller's promise: the slot and its buffer are the backend's. The reference ends here; the pointer in
        // `parts` is used before anybody else can have the buffer.
        let buffer = unsafe { ring.buffer(ring.slot(slot).buf_idx) };
        parts.add(buffer.get_mut(HEADROOM as usize..).unwrap_or_default());
        slot = ring.next(slot);
    }
    match parts.read(descriptor) {
        // What stands in for an interface that was taken away has nothing to give.
        Ok(0) => Received::Nothing,
        Ok(len) if len >= parts.len() => Received::Broken,
        Ok(len) => len
            .checked_sub(kind.prefix())
            .map_or(Received::Broken, |len| Received::Frame(describe(ring, at, len, tag))),
        Err(error) => match error.raw_os_error() {
            Some(number) if is_gone(number) => Received::Gone,
            _ => Received::Nothing,
        },
    }
}

/// Says in the slots from `at` on that a frame of `len` bytes lies in them. Returns their number.
fn describe(ring: &RawRing, at: u32, len: usize, tag: u32) -> u32 {
    let (mut slot, mut rest, mut slots) = (at, len, 0);
    loop {
        let part = rest.min(room(ring));
        rest -= part;
        let flags = if rest > 0 { NS_MOREFRAG } else { 0 };
        let ptr = u64::from(tag) << TAG_SHIFT | u64::from(HEADROOM);
        ring.write_slot(slot, netmap_slot { buf_idx: ring.slot(slot).buf_idx, len: part as u16, flags, ptr });
        slots += 1;
        slot = ring.next(slot);
        if rest == 0 {
            return slots;
        }
    }
}

/// The slots of the frame that starts at `at`, which reaches to `head` at most.
pub(super) fn slots_of(ring: &RawRing, at: u32, head: u32) -> u32 {
    let mut slots = 1;
    let mut slot = at;
    while ring.slot(slot).flags & NS_MOREFRAG != 0 && ring.next(slot) != head {
        slot = ring.next(slot);
        slots += 1;
    }
    slots
}

/// Sends the frame in the `slots` slots from `at` on, which have been given to the backend.
pub(super) fn send(descriptor: BorrowedFd<'_>, kind: Kind, ring: &RawRing, at: u32, slots: u32) -> Sent {
    let mut parts = Parts::new();
    let mut family = [0; FAMILY_LEN];
    let mut slot = at;
    for nth in 0..slots {
        let part = ring.slot(slot);
        let start = ring.offset(&part) as usize;
        // SAFETY: slots before head have been given to the backend, so the buffer is ours; the reference ends here, and the
        // pointer in `parts` is used before the slot is given back.
        let buffer = unsafe { ring.buffer(part.buf_idx) };
        let Some(bytes) = buffer.get_mut(start..start + usize::from(part.len)) else { return Sent::Refused };
        if nth == 0 && kind.prefix() != 0 {
            write_family(&mut family, bytes);
            parts.add(&mut family);
        }
        if !parts.add(bytes) {
            return Sent::Refused;
        }
        slot = ring.next(slot);
    }
    match parts.write(descriptor) {
        Ok(_) => Sent::Whole,
        Err(error) => match error.raw_os_error() {
            Some(number) if is_gone(number) => Sent::Gone,
            _ => Sent::Refused,
        },
    }
}

/// The address family of an IP packet, by its version, in network byte order.
fn write_family(to: &mut [u8; FAMILY_LEN], packet: &[u8]) {
    let family =
        if packet.first().is_some_and(|byte| byte >> 4 == 6) { libc::AF_INET6 } else { libc::AF_INET };
    *to = (family as u32).to_be_bytes();
}

/// The places of one frame's bytes, in order.
struct Parts {
    /// The first `count` are there. The others are never looked at.
    parts: [MaybeUninit<libc::iovec>; MOST_PARTS],
    count: usize,
    len: usize,
}

impl Parts {
    #[inline]
    fn new() -> Parts {
        Parts { parts: [const { MaybeUninit::uninit() }; MOST_PARTS], count: 0, len: 0 }
    }

    /// Adds a place. False when there are too many.
    #[inline]
    fn add(&mut self, bytes: &mut [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(part) = self.parts.get_mut(self.count) else { return false };
        part.write(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        self.count += 1;
        self.len += bytes.len();
        true
    }

    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn read(&self, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let (fd, parts) = (descriptor.as_raw_fd(), self.parts.as_ptr().cast());
        // SAFETY: the first `count` parts are memory that `add` was given exclusively, and that is still the caller's.
        let read = unsafe { libc::readv(fd, parts, self.count as libc::c_int) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    #[inline]
    fn write(&self, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let (fd, parts) = (descriptor.as_raw_fd(), self.parts.as_ptr().cast());
        // SAFETY: as in `read`; only read from.
        let written = unsafe { libc::writev(fd, parts, self.count as libc::c_int) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}
