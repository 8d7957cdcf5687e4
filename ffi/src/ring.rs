//! What lies in the memory that a port shares with the kernel: the port ([`netmap_if`]), its rings
//! ([`netmap_ring`]) and their slots ([`netmap_slot`]), with the flags of slots and rings. The functions that lead from
//! one to the next are in `pointer.rs`.

use bytemuck::{Pod, Zeroable};

constants! {
    /// Bytes that [`netmap_ring::sem`], and with it the ring, is aligned to.
    pub const NM_CACHE_ALIGN: usize = 128;
    /// Bytes of [`netmap_if::ni_name`], the final zero included (`<net/if.h>`).
    pub const IFNAMSIZ: usize = 16;

    /// Slot flag: `buf_idx` is another one than at the last sync. Must be set with every change of `buf_idx`, or a
    /// driver goes on using the address of the buffer that was there before.
    pub const NS_BUF_CHANGED: u16 = 0x0001;
    /// Slot flag, transmit: report when this slot has been sent, instead of some time later.
    pub const NS_REPORT: u16 = 0x0002;
    /// Slot flag, receive rings with [`NR_FORWARD`]: when released, pass the frame on to the opposite side (NIC to
    /// host, host to NIC).
    pub const NS_FORWARD: u16 = 0x0004;
    /// Slot flag, VALE: do not learn the source address from this frame.
    pub const NS_NO_LEARN: u16 = 0x0008;
    /// Slot flag, VALE transmit: the frame is at the user address in `ptr`.
    pub const NS_INDIRECT: u16 = 0x0010;
    /// Slot flag: the frame goes on in the next slot. `len` is the length of this part.
    pub const NS_MOREFRAG: u16 = 0x0020;
    /// Slot flag, monitor ports: the frame was seen in a transmit ring.
    pub const NS_TXMON: u16 = 0x0040;
    /// Bits to the right of the VALE destination port in the slot flags.
    pub const NS_PORT_SHIFT: u16 = 8;
    /// The bits of the slot flags that hold a VALE destination port (transmit) or a number of fragments (receive).
    pub const NS_PORT_MASK: u16 = 0xff << NS_PORT_SHIFT;
    /// Most slots that one frame may take.
    pub const NETMAP_MAX_FRAGS: usize = 64;

    /// Ring flag: write the time of each sync to [`netmap_ring::ts`].
    pub const NR_TIMESTAMP: u32 = 0x0002;
    /// Ring flag: heed [`NS_FORWARD`] in this ring's slots.
    pub const NR_FORWARD: u32 = 0x0004;

    /// Bit of [`netmap_if::ni_flags`]: the port has a memory region of its own.
    pub const NI_PRIV_MEM: u32 = 0x1;
}

/// One place in a ring: a buffer, and how much of it is a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct netmap_slot {
    /// Number of the buffer in the memory region. 0 and 1 are the kernel's own.
    pub buf_idx: u32,
    /// Bytes of the frame, or of this part of it.
    pub len: u16,
    /// `NS_*`.
    pub flags: u16,
    /// Under [`netmap_ring::offset_mask`], the bytes between the start of the buffer and the frame; with
    /// [`NS_INDIRECT`], an address.
    pub ptr: u64,
}

/// Seconds and microseconds, as C's `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct timeval {
    /// Seconds since 1970.
    pub tv_sec: i64,
    /// Microseconds.
    pub tv_usec: i64,
}

const _: () = assert!(size_of::<timeval>() == size_of::<libc::timeval>());

/// Room in the ring that the kernel leaves to the application, with the alignment that gives the ring its own.
#[repr(C, align(128))]
#[derive(Zeroable)]
pub struct netmap_ring_sem(pub [u8; 128]);

/// The head of a ring; `num_slots` slots follow it.
///
/// Slots from `head` up to `tail`, not included, belong to the application, the rest to the kernel. The kernel
/// moves `tail` and writes `ts` within a sync only. A value of this type outside the shared memory has lost
/// its slots: it cannot be copied, and is used through pointers.
#[repr(C)]
#[derive(Zeroable)]
pub struct netmap_ring {
    /// Bytes from this ring to buffer 0 of the region. Read only.
    pub buf_ofs: i64,
    /// Slots in the ring. Read only.
    pub num_slots: u32,
    /// Bytes in each buffer. Read only.
    pub nr_buf_size: u32,
    /// Number of the ring among its kind. Read only.
    pub ringid: u16,
    /// Kernels write 1 for transmit and 0 for receive rings; the comment in `<net/netmap.h>` says the opposite. Read only.
    pub dir: u16,
    /// First slot of the application: the slots before it are handed over at the next sync.
    pub head: u32,
    /// The slot that `poll` waits for the kernel to pass, from `head` on.
    pub cur: u32,
    /// First slot of the kernel. Written by the kernel.
    pub tail: u32,
    /// [`NR_TIMESTAMP`], [`NR_FORWARD`].
    pub flags: u32,
    /// C's alignment of `ts`; not used.
    pub pad0: u32,
    /// Time of the last sync, with [`NR_TIMESTAMP`]. Written by the kernel.
    pub ts: timeval,
    /// The bits of [`netmap_slot::ptr`] that hold an offset; 0 where the port was opened without
    /// [`nmreq_opt_offsets`](crate::nmreq_opt_offsets). Read only.
    pub offset_mask: u64,
    /// Bytes that the start of a frame must be aligned to. Read only.
    pub buf_align: u64,
    /// C's alignment of `sem`; not used.
    pub pad1: [u64; 7],
    /// For the application; the kernel does not touch it.
    pub sem: netmap_ring_sem,
    /// Where the slots begin; see [`netmap_ring_slots`](crate::netmap_ring_slots).
    pub slot: [netmap_slot; 0],
}

/// A port in shared memory; the places of its rings follow it. Everything but `ni_bufs_head` is read only.
///
/// A value of this type outside the shared memory has lost its rings: it cannot be copied, and is used through pointers.
#[repr(C)]
#[derive(Zeroable)]
pub struct netmap_if {
    /// Name of the interface, ended by a zero.
    pub ni_name: [u8; IFNAMSIZ],
    /// API version of the kernel; not used.
    pub ni_version: u32,
    /// [`NI_PRIV_MEM`].
    pub ni_flags: u32,
    /// Transmit rings of the NIC.
    pub ni_tx_rings: u32,
    /// Receive rings of the NIC.
    pub ni_rx_rings: u32,
    /// First of the extra buffers, 0 if none: each holds the number of the next in its first four bytes. On close, the
    /// kernel takes back the chain that stands here.
    pub ni_bufs_head: u32,
    /// Rings towards the host stack.
    pub ni_host_tx_rings: u32,
    /// Rings from the host stack.
    pub ni_host_rx_rings: u32,
    /// Not used.
    pub ni_spare1: [u32; 3],
    /// Where the list of rings begins, each as bytes from this structure: NIC transmit, host transmit, NIC receive, host
    /// receive. See [`netmap_txring`](crate::netmap_txring) and [`netmap_rxring`](crate::netmap_rxring).
    pub ring_ofs: [isize; 0],
}
