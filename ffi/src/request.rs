//! Requests to the kernel: the header that every request begins with ([`nmreq_header`]), and the bodies that open a port
//! ([`nmreq_register`]) or ask about one ([`nmreq_port_info_get`], [`nmreq_pools_info`]). They are handed over by
//! [`NIOCCTRL`](crate::NIOCCTRL); options that refine them are in `option.rs`.

use core::ffi::CStr;

use bytemuck::{Pod, Zeroable};

/// The device that ports are opened through (`<net/netmap_user.h>`).
pub const NETMAP_DEVICE_NAME: &CStr = c"/dev/netmap";

constants! {
    /// The API version that this crate speaks, for [`nmreq_header::nr_version`].
    pub const NETMAP_API: u16 = 14;
    /// Oldest API version that kernels of this API accept.
    pub const NETMAP_MIN_API: u16 = 14;
    /// Newest API version that kernels of this API accept.
    pub const NETMAP_MAX_API: u16 = 15;
    /// Bytes of [`nmreq_header::nr_name`], the final zero included.
    pub const NETMAP_REQ_IFNAMSIZ: usize = 64;
    /// Most bytes that a request may have, its options included.
    pub const NETMAP_REQ_MAXSIZE: usize = 4096;

    /// Request: open a port ([`nmreq_register`]).
    pub const NETMAP_REQ_REGISTER: u16 = 1;
    /// Request: describe a port without opening it ([`nmreq_port_info_get`]).
    pub const NETMAP_REQ_PORT_INFO_GET: u16 = 2;
    /// Request: attach a port to a VALE switch.
    pub const NETMAP_REQ_VALE_ATTACH: u16 = 3;
    /// Request: detach a port from a VALE switch.
    pub const NETMAP_REQ_VALE_DETACH: u16 = 4;
    /// Request: list the ports of a VALE switch.
    pub const NETMAP_REQ_VALE_LIST: u16 = 5;
    /// Request: set the length of the virtio-net header in front of each frame.
    pub const NETMAP_REQ_PORT_HDR_SET: u16 = 6;
    /// Request: ask for the length of the virtio-net header in front of each frame.
    pub const NETMAP_REQ_PORT_HDR_GET: u16 = 7;
    /// Request: create a persistent VALE port.
    pub const NETMAP_REQ_VALE_NEWIF: u16 = 8;
    /// Request: delete a persistent VALE port.
    pub const NETMAP_REQ_VALE_DELIF: u16 = 9;
    /// Request: let kernel threads poll a VALE port.
    pub const NETMAP_REQ_VALE_POLLING_ENABLE: u16 = 10;
    /// Request: stop the kernel threads that poll a VALE port.
    pub const NETMAP_REQ_VALE_POLLING_DISABLE: u16 = 11;
    /// Request: describe the pools of a memory region ([`nmreq_pools_info`]).
    pub const NETMAP_REQ_POOLS_INFO_GET: u16 = 12;
    /// Request: sync this port's rings in the kernel until told to stop.
    pub const NETMAP_REQ_SYNC_KLOOP_START: u16 = 13;
    /// Request: stop syncing this port's rings in the kernel.
    pub const NETMAP_REQ_SYNC_KLOOP_STOP: u16 = 14;
    /// Request: exchange `head`, `cur` and `tail` outside the rings.
    pub const NETMAP_REQ_CSB_ENABLE: u16 = 15;

    /// Value of [`nmreq_register::nr_mode`]: from before API 12; not to be used.
    pub const NR_REG_DEFAULT: u32 = 0;
    /// Value of [`nmreq_register::nr_mode`]: all rings of the NIC, none of the host.
    pub const NR_REG_ALL_NIC: u32 = 1;
    /// Value of [`nmreq_register::nr_mode`]: the host rings alone.
    pub const NR_REG_SW: u32 = 2;
    /// Value of [`nmreq_register::nr_mode`]: all rings of the NIC and of the host.
    pub const NR_REG_NIC_SW: u32 = 3;
    /// Value of [`nmreq_register::nr_mode`]: the NIC ring pair `nr_ringid`.
    pub const NR_REG_ONE_NIC: u32 = 4;
    /// Value of [`nmreq_register::nr_mode`]: a pipe's first end; `{` in the port's name says the same.
    pub const NR_REG_PIPE_MASTER: u32 = 5;
    /// Value of [`nmreq_register::nr_mode`]: a pipe's second end; `}` in the port's name says the same.
    pub const NR_REG_PIPE_SLAVE: u32 = 6;
    /// Value of [`nmreq_register::nr_mode`]: no ring, only the memory.
    pub const NR_REG_NULL: u32 = 7;
    /// Value of [`nmreq_register::nr_mode`]: the host ring pair `nr_ringid`.
    pub const NR_REG_ONE_SW: u32 = 8;

    /// Flag of [`nmreq_register::nr_flags`]: see what the port transmits, without taking it away.
    pub const NR_MONITOR_TX: u64 = 0x100;
    /// Flag of [`nmreq_register::nr_flags`]: see what the port receives, without taking it away.
    pub const NR_MONITOR_RX: u64 = 0x200;
    /// Flag of [`nmreq_register::nr_flags`]: a monitor that gets the port's buffers instead of copies.
    pub const NR_ZCOPY_MON: u64 = 0x400;
    /// Flag of [`nmreq_register::nr_flags`]: nobody else may have these rings open; `EBUSY` if somebody has.
    pub const NR_EXCLUSIVE: u64 = 0x800;
    /// Flag of [`nmreq_register::nr_flags`]: the receive rings alone.
    pub const NR_RX_RINGS_ONLY: u64 = 0x2000;
    /// Flag of [`nmreq_register::nr_flags`]: the transmit rings alone.
    pub const NR_TX_RINGS_ONLY: u64 = 0x4000;
    /// Flag of [`nmreq_register::nr_flags`]: the application expects virtio-net headers where the port has them.
    pub const NR_ACCEPT_VNET_HDR: u64 = 0x8000;
    /// Flag of [`nmreq_register::nr_flags`]: `poll` syncs the receive rings also when it was not asked about reading.
    pub const NR_DO_RX_POLL: u64 = 0x10000;
    /// Flag of [`nmreq_register::nr_flags`]: `poll` syncs the transmit rings only when it was asked about writing.
    pub const NR_NO_TX_POLL: u64 = 0x20000;
}

/// What every request begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_header {
    /// [`NETMAP_API`].
    pub nr_version: u16,
    /// `NETMAP_REQ_*`.
    pub nr_reqtype: u16,
    /// Zero.
    pub nr_reserved: u32,
    /// Name of the port, ended by a zero.
    pub nr_name: [u8; NETMAP_REQ_IFNAMSIZ],
    /// Address of the first [`nmreq_option`](crate::nmreq_option), or 0.
    pub nr_options: u64,
    /// Address of the body that belongs to `nr_reqtype`.
    pub nr_body: u64,
}

/// Body of [`NETMAP_REQ_REGISTER`]: which rings to open, and then where they are.
///
/// Numbers of slots and rings are a wish on the way in (0: as the port has them) and the truth on the way out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_register {
    /// Out: bytes from the start of the mapped memory to the port's [`netmap_if`](struct@crate::netmap_if).
    pub nr_offset: u64,
    /// Out: bytes of the memory region, to be mapped.
    pub nr_memsize: u64,
    /// Slots in each transmit ring.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring.
    pub nr_rx_slots: u32,
    /// Transmit rings of the NIC.
    pub nr_tx_rings: u16,
    /// Receive rings of the NIC.
    pub nr_rx_rings: u16,
    /// Rings towards the host stack.
    pub nr_host_tx_rings: u16,
    /// Rings from the host stack.
    pub nr_host_rx_rings: u16,
    /// The memory region: 0 lets the port choose. Ports exchange buffers only within one.
    pub nr_mem_id: u16,
    /// The ring, where `nr_mode` is about a single one.
    pub nr_ringid: u16,
    /// `NR_REG_*`.
    pub nr_mode: u32,
    /// Buffers wanted beside those in the rings; out: those granted, chained from
    /// [`netmap_if::ni_bufs_head`](crate::netmap_if::ni_bufs_head).
    pub nr_extra_bufs: u32,
    /// C's alignment of `nr_flags`; zero.
    pub pad0: u32,
    /// `NR_MONITOR_TX` to `NR_NO_TX_POLL`.
    pub nr_flags: u64,
}

/// Body of [`NETMAP_REQ_PORT_INFO_GET`], filled by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_port_info_get {
    /// Bytes of the memory region.
    pub nr_memsize: u64,
    /// Slots in each transmit ring.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring.
    pub nr_rx_slots: u32,
    /// Transmit rings of the NIC.
    pub nr_tx_rings: u16,
    /// Receive rings of the NIC.
    pub nr_rx_rings: u16,
    /// Rings towards the host stack.
    pub nr_host_tx_rings: u16,
    /// Rings from the host stack.
    pub nr_host_rx_rings: u16,
    /// In and out: the memory region.
    pub nr_mem_id: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// Body of [`NETMAP_REQ_POOLS_INFO_GET`]: the three pools of a memory region, filled by the kernel. Also part of
/// [`nmreq_opt_extmem`](crate::nmreq_opt_extmem), where they are a wish.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct nmreq_pools_info {
    /// Bytes of the memory region.
    pub nr_memsize: u64,
    /// In and out: the memory region.
    pub nr_mem_id: u16,
    /// Zero.
    pub pad1: [u16; 3],
    /// Bytes from the start of the region to the pool of ports.
    pub nr_if_pool_offset: u64,
    /// Objects in the pool of ports.
    pub nr_if_pool_objtotal: u32,
    /// Bytes of each.
    pub nr_if_pool_objsize: u32,
    /// Bytes from the start of the region to the pool of rings.
    pub nr_ring_pool_offset: u64,
    /// Objects in the pool of rings.
    pub nr_ring_pool_objtotal: u32,
    /// Bytes of each.
    pub nr_ring_pool_objsize: u32,
    /// Bytes from the start of the region to the pool of buffers.
    pub nr_buf_pool_offset: u64,
    /// Buffers in the pool.
    pub nr_buf_pool_objtotal: u32,
    /// Bytes of each.
    pub nr_buf_pool_objsize: u32,
}
