//! The raw ABI of netmap(4), API version 14, on 64-bit FreeBSD and Linux: structures, constants, request numbers, and
//! the pointer arithmetic that finds rings, slots and buffers in the shared memory. Names are those of
//! `<net/netmap.h>` and `<net/netmap_user.h>`; nothing here allocates, decides or keeps state.
//!
//! Beside it, the messages of FreeBSD's routing sockets and of the sysctls of the same kind (route(4)), by the names
//! of `<net/route.h>`, `<net/if.h>` and `<net/if_dl.h>`; and the requests by which an interface's offloads are read and
//! set, those of FreeBSD's `<net/if.h>` and of Linux's `<linux/ethtool.h>`; what Linux does with system calls that a filter refuses;
//! and the messages by which kernels tell of their SAs, FreeBSD's `<net/pfkeyv2.h>` and Linux's `<linux/xfrm.h>`; and how FreeBSD
//! tells the state of CARP's virtual hosts.
//!
//! How a port is opened with it:
//! 1. open [`NETMAP_DEVICE_NAME`];
//! 2. fill an [`nmreq_register`], point an [`nmreq_header`]'s `nr_body` at it and its `nr_options` at a chain of
//!    options ([`nmreq_opt_offsets`], [`nmreq_opt_extmem`]), and hand the header to `ioctl` with [`NIOCCTRL`];
//! 3. map `nr_memsize` bytes of the descriptor; [`netmap_if()`] finds the port at `nr_offset` in it;
//! 4. [`netmap_txring`], [`netmap_rxring`], [`netmap_ring_slots`] and [`netmap_buf_offset`] lead from there to the
//!    frames;
//! 5. [`NIOCTXSYNC`], [`NIOCRXSYNC`] or `poll` exchange slots with the kernel.
//!
//! All fields are in the byte order of the machine. Pointers inside requests are 64-bit integers.

#![no_std]
#![allow(unsafe_code)]
#![allow(non_camel_case_types)]

#[cfg(not(all(target_pointer_width = "64", any(target_os = "freebsd", target_os = "linux"))))]
compile_error!("netmap-sys knows the ABI of 64-bit FreeBSD and Linux only");

/// Defines the constants of a module and lists them in its `CONSTANTS`, so that none can be left out of the
/// comparison with the C headers.
macro_rules! constants {
    ($($(#[$attribute:meta])* pub const $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[$attribute])* pub const $name: $type = $value;)+

        pub(crate) const CONSTANTS: &[$crate::layout::Constant] =
            &[$($crate::layout::Constant { name: stringify!($name), value: $name as u64 }),+];
    };
}

mod carp;
mod interface;
mod ioctl;
#[cfg(target_os = "freebsd")]
mod kernel_socket;
pub mod layout;
mod option;
mod pfkey;
mod pointer;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod refused;
mod request;
mod ring;
mod route;
mod xfrm;

pub use carp::{CARP_KEY_LEN, SIOCGVH, carpreq};
#[cfg(target_os = "freebsd")]
pub use carp::{carp_demote, carp_demotion, carp_host};
pub use interface::freebsd::*;
pub use interface::linux::*;
pub use interface::{SIOCGIFCAP, SIOCSIFCAP, ethtool_drvinfo, ethtool_value, ifreq};
pub use ioctl::*;
#[cfg(target_os = "freebsd")]
pub use kernel_socket::{make_room, open_key_socket, open_route_socket, read_sysctl};
pub use option::*;
pub use pfkey::*;
pub use pointer::*;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use refused::{fail_refused_calls, refused_calls};
pub use request::*;
pub use ring::*;
pub use route::*;
pub use xfrm::*;
