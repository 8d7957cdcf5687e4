//! Options that refine a request: their common head ([`nmreq_option`]), by which they form a chain from
//! [`nmreq_header::nr_options`](crate::nmreq_header::nr_options), and the two that a port is opened with, room in front
//! of frames ([`nmreq_opt_offsets`]) and memory of the application's own ([`nmreq_opt_extmem`]).

use bytemuck::{Pod, Zeroable};

use crate::request::nmreq_pools_info;

constants! {
    /// Option: use memory of the application ([`nmreq_opt_extmem`]).
    pub const NETMAP_REQ_OPT_EXTMEM: u32 = 1;
    /// Option: eventfds that wake the kernel's sync loop and the application.
    pub const NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS: u32 = 2;
    /// Option: exchange `head`, `cur` and `tail` outside the rings.
    pub const NETMAP_REQ_OPT_CSB: u32 = 3;
    /// Option: how the kernel's sync loop is run.
    pub const NETMAP_REQ_OPT_SYNC_KLOOP_MODE: u32 = 4;
    /// Option: frames begin at an offset inside their buffers ([`nmreq_opt_offsets`]).
    pub const NETMAP_REQ_OPT_OFFSETS: u32 = 5;
}

/// What every option begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_option {
    /// Address of the next option, or 0.
    pub nro_next: u64,
    /// `NETMAP_REQ_OPT_*`.
    pub nro_reqtype: u32,
    /// Out: 0 if the kernel did as asked, else an `errno` value: `EOPNOTSUPP` where the port cannot.
    pub nro_status: u32,
    /// Bytes of an option of variable size; 0 for the others.
    pub nro_size: u64,
}

/// Option [`NETMAP_REQ_OPT_OFFSETS`]: frames begin at an offset inside their buffers, which leaves room for headers.
///
/// Each slot then carries its own offset in [`netmap_slot::ptr`](crate::netmap_slot::ptr), under
/// [`netmap_ring::offset_mask`](crate::netmap_ring::offset_mask).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_opt_offsets {
    /// The common head.
    pub nro_opt: nmreq_option,
    /// The largest offset that the application will use, in bytes; the kernel cuts larger ones down to it. Out: the
    /// largest it allows, which may be more.
    pub nro_max_offset: u64,
    /// The offset that every slot begins with, in bytes.
    pub nro_initial_offset: u64,
    /// Low bits of `ptr` that the offset takes; 0: all. Out: the bits taken, which may be more.
    pub nro_offset_bits: u32,
    /// Bytes that the start of each transmitted frame will be aligned to.
    pub nro_tx_align: u32,
    /// Zero.
    pub nro_min_gap: u64,
}

/// Option [`NETMAP_REQ_OPT_EXTMEM`]: put rings and buffers into memory of the application.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_opt_extmem {
    /// The common head.
    pub nro_opt: nmreq_option,
    /// Address of the memory.
    pub nro_usrptr: u64,
    /// In: its size and how to divide it. Out: how it was divided.
    pub nro_info: nmreq_pools_info,
}
