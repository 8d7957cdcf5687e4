//! Every structure of this crate with the numbers that C gives it, and every constant: the one list behind two
//! comparisons. The compiler refuses to build where a Rust structure differs from the list, and the example
//! `layout-assertions` prints the list as C assertions, which a C compiler compares with the real headers.

use core::mem::offset_of;

use crate::{ioctl, option, request, ring};

/// A structure as C lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in C, after `struct`.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Bytes.
    pub align: usize,
    /// All fields but those that only spell out C's padding.
    pub fields: &'static [Field],
}

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in C.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

/// A constant: a macro or an enumerator in C.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Its name in C.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}

/// An ioctl number, which depends on the system.
#[derive(Clone, Copy, Debug)]
pub struct Ioctl {
    /// Its name in C.
    pub name: &'static str,
    /// Its value on FreeBSD.
    pub freebsd: u32,
    /// Its value on Linux, in the encoding of `<asm-generic/ioctl.h>`.
    pub linux: u32,
}

/// Every constant, by the module that defines it.
pub const CONSTANTS: &[&[Constant]] = &[ring::CONSTANTS, request::CONSTANTS, option::CONSTANTS];

/// Every ioctl number.
pub const IOCTLS: &[Ioctl] = ioctl::IOCTLS;

/// `struct NAME: SIZE, align ALIGN { FIELD: START..END, .. }`, then `padding { .. }` for fields that C does not name. Asserts the
/// numbers, and that no field is missing from the list.
macro_rules! structs {
    ($(struct $name:ident: $size:literal, align $align:literal {
        $($field:ident: $start:literal..$end:literal),+ $(,)?
    } $(padding { $($pad:ident: $pad_start:literal..$pad_end:literal),+ $(,)? })?)+) => {
        /// Every structure.
        pub const STRUCTS: &[Struct] = &[$(Struct {
            name: stringify!($name),
            size: $size,
            align: $align,
            fields: &[$(Field { name: stringify!($field), offset: $start, size: $end - $start }),+],
        }),+];

        $(const _: () = {
            use crate::$name;
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            structs!(@fields $name $($field: $start..$end),+ $(, $($pad: $pad_start..$pad_end),+)?);
        };)+
    };
    (@fields $name:ident $($field:ident: $start:literal..$end:literal),+) => {
        $(assert!(offset_of!($name, $field) == $start);
        assert!(size_of_field(|it: &$name| &it.$field) == $end - $start);)+
        let _: fn(&$name) = |$name { $($field: _),+ }| ();
    };
}

/// Bytes of the field that the accessor returns; the accessor is not called.
const fn size_of_field<S, F>(_accessor: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

structs! {
    struct netmap_slot: 16, align 8 {
        buf_idx: 0..4,
        len: 4..6,
        flags: 6..8,
        ptr: 8..16,
    }
    struct timeval: 16, align 8 {
        tv_sec: 0..8,
        tv_usec: 8..16,
    }
    struct netmap_ring: 256, align 128 {
        buf_ofs: 0..8,
        num_slots: 8..12,
        nr_buf_size: 12..16,
        ringid: 16..18,
        dir: 18..20,
        head: 20..24,
        cur: 24..28,
        tail: 28..32,
        flags: 32..36,
        ts: 40..56,
        offset_mask: 56..64,
        buf_align: 64..72,
        sem: 128..256,
        slot: 256..256,
    } padding {
        pad0: 36..40,
        pad1: 72..128,
    }
    struct netmap_if: 56, align 8 {
        ni_name: 0..16,
        ni_version: 16..20,
        ni_flags: 20..24,
        ni_tx_rings: 24..28,
        ni_rx_rings: 28..32,
        ni_bufs_head: 32..36,
        ni_host_tx_rings: 36..40,
        ni_host_rx_rings: 40..44,
        ni_spare1: 44..56,
        ring_ofs: 56..56,
    }
    struct nmreq_header: 88, align 8 {
        nr_version: 0..2,
        nr_reqtype: 2..4,
        nr_reserved: 4..8,
        nr_name: 8..72,
        nr_options: 72..80,
        nr_body: 80..88,
    }
    struct nmreq_register: 56, align 8 {
        nr_offset: 0..8,
        nr_memsize: 8..16,
        nr_tx_slots: 16..20,
        nr_rx_slots: 20..24,
        nr_tx_rings: 24..26,
        nr_rx_rings: 26..28,
        nr_host_tx_rings: 28..30,
        nr_host_rx_rings: 30..32,
        nr_mem_id: 32..34,
        nr_ringid: 34..36,
        nr_mode: 36..40,
        nr_extra_bufs: 40..44,
        nr_flags: 48..56,
    } padding {
        pad0: 44..48,
    }
    struct nmreq_port_info_get: 32, align 8 {
        nr_memsize: 0..8,
        nr_tx_slots: 8..12,
        nr_rx_slots: 12..16,
        nr_tx_rings: 16..18,
        nr_rx_rings: 18..20,
        nr_host_tx_rings: 20..22,
        nr_host_rx_rings: 22..24,
        nr_mem_id: 24..26,
        pad: 26..32,
    }
    struct nmreq_pools_info: 64, align 8 {
        nr_memsize: 0..8,
        nr_mem_id: 8..10,
        pad1: 10..16,
        nr_if_pool_offset: 16..24,
        nr_if_pool_objtotal: 24..28,
        nr_if_pool_objsize: 28..32,
        nr_ring_pool_offset: 32..40,
        nr_ring_pool_objtotal: 40..44,
        nr_ring_pool_objsize: 44..48,
        nr_buf_pool_offset: 48..56,
        nr_buf_pool_objtotal: 56..60,
        nr_buf_pool_objsize: 60..64,
    }
    struct nmreq_option: 24, align 8 {
        nro_next: 0..8,
        nro_reqtype: 8..12,
        nro_status: 12..16,
        nro_size: 16..24,
    }
    struct nmreq_opt_offsets: 56, align 8 {
        nro_opt: 0..24,
        nro_max_offset: 24..32,
        nro_initial_offset: 32..40,
        nro_offset_bits: 40..44,
        nro_tx_align: 44..48,
        nro_min_gap: 48..56,
    }
    struct nmreq_opt_extmem: 96, align 8 {
        nro_opt: 0..24,
        nro_usrptr: 24..32,
        nro_info: 32..96,
    }
}
