//! The one ring type: netmap(4) rings in a shared memory region, whatever stands behind them.
//!
//! A *region* holds buffers and rings in netmap's own layout. A *ring* is a circle of slots, each owning one buffer;
//! the slots from `head` up to `tail` belong to the program, the others to whatever stands behind the ring. A *frame*
//! is a received slot's buffer, held by exclusive borrow, with the headroom in front of it that encapsulation needs.
//! Sending a frame swaps its buffer with that of a transmit slot; payload bytes stay where they are.
//!
//! 1. [`RxQueue::sync`] gives consumed slots back and learns of new frames.
//! 2. [`RxRing::take`] lends up to a batch of frames out.
//! 3. [`TxRing::push`] swaps a frame's buffer into a transmit slot (or copies, where the two cannot share buffers).
//! 4. [`RxRing::release`] and [`TxQueue::sync`] move the cursors once for the whole batch.
//!
//! A buffer is in exactly one slot at any time: every hand-over is a swap, so none can be lost or doubled.
//!
//! This folder is the only one in the engine with `unsafe` code.
#![allow(unsafe_code)]

pub mod capture;
mod claims;
mod descriptor;
mod device;
mod frame;
mod hand_over;
mod in_order;
mod interface;
mod memory;
pub mod netmap;
pub mod offload;
mod pages;
mod port;
mod prefetch;
mod raw;
mod region;
mod renewal;
mod rx;
mod slab;
mod tap;
#[cfg(test)]
mod tests;
mod tun;
mod tx;
mod wipe;
#[cfg(target_os = "linux")]
pub mod xdp;

pub use device::Device;
pub use frame::{Frame, TEMPLATE_LEN};
pub use in_order::{BLOCK, Claimed, Entrance, Exit, Helper, IN_ORDER_BUFFERS, InOrder, in_order};
pub use interface::InterfaceError;
pub use memory::{RINGS_PER_QUEUE, SPARE_PER_QUEUE, long_wire, mesh, wire};
pub use pages::in_huge_pages;
pub use port::{Health, Port, RxQueue, TxQueue};
pub use prefetch::{prefetch, prefetch_many};
pub use region::{Region, RegionError};
pub use rx::RxRing;
pub use slab::HugePages;
pub use tap::{TapError, TapOptions, TapPort};
pub use tun::{TunError, TunSet};
pub use tx::{Refused, TxRing};
pub use wipe::Wiped;

/// Frames handled at a time (goals.md: the cost of a packet falls until about 64).
pub const BATCH: usize = 64;

/// Bytes in front of a received frame on ports that give headroom. The longest set of headers the engine pushes is
/// 14 Ethernet + 40 IPv6 + 8 UDP + 16 ESP and IV + 40 inner IPv6 + 16 GRE = 134, less the 14 of the Ethernet header
/// it removes first: 120.
pub const HEADROOM: u32 = 128;

/// The part of a slot's `ptr` that is an offset into the buffer, on rings opened with offsets (16 bits).
pub(crate) const OFFSET_MASK: u64 = 0xffff;

/// Where a frame's tag stands in its slot's `ptr`: netmap leaves the bits that are no offset to the program.
pub(crate) const TAG_SHIFT: u32 = 32;
