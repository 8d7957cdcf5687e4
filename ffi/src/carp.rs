//! How FreeBSD's kernel is asked for the state of a virtual host of CARP (carp(4), `<netinet/ip_carp.h>`).
//!
//! The structure and the number are compiled on every system, so that they can be compared with the C header; only FreeBSD's
//! kernel speaks them.

#[cfg(target_os = "freebsd")]
extern crate std;

use bytemuck::{Pod, Zeroable};

use crate::interface::ifreq;
use crate::layout::Ioctl;

constants! {
    /// The length of a key: a SHA-1 hash.
    pub const CARP_KEY_LEN: usize = 20;
}

/// What [`SIOCGVH`] tells of a virtual host: an [`ifreq`] with the interface's name points to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct carpreq {
    /// Room for so many of these structures.
    pub carpr_count: i32,
    /// The virtual host's number; 0: all of the interface's.
    pub carpr_vhid: i32,
    /// 0 INIT, 1 BACKUP, 2 MASTER.
    pub carpr_state: i32,
    /// How far advertisements are put off, in 1/256 s.
    pub carpr_advskew: i32,
    /// Seconds between advertisements.
    pub carpr_advbase: i32,
    /// For those who may see it.
    pub carpr_key: [u8; CARP_KEY_LEN],
}

/// Tells of virtual hosts ([`carpreq`]).
pub const SIOCGVH: crate::IoctlRequest = GET_VHID.of_target();

const GET_VHID: Ioctl = Ioctl::both_ways::<ifreq>("SIOCGVH", 246);

pub(crate) const FREEBSD_IOCTLS: &[Ioctl] = &[GET_VHID];

/// `net.inet.carp.demotion`: what all on this host have added to the skew of what CARP advertises.
///
/// # Errors
/// What the kernel says; `ENOENT`: it has no CARP.
#[cfg(target_os = "freebsd")]
pub fn carp_demotion() -> std::io::Result<i32> {
    let (mut value, mut length) = (0_i32, size_of::<i32>());
    // SAFETY: the name ends with a NUL, and the kernel writes no more than `length` bytes to `value`, which outlives the call.
    let outcome = unsafe {
        libc::sysctlbyname(DEMOTION.as_ptr(), (&raw mut value).cast(), &raw mut length, core::ptr::null(), 0)
    };
    if outcome == 0 { Ok(value) } else { Err(std::io::Error::last_os_error()) }
}

/// Adds `by` to `net.inet.carp.demotion`: what is written there is added to what is there (carp(4)).
///
/// # Errors
/// What the kernel says; `EPERM` for want of privileges.
#[cfg(target_os = "freebsd")]
pub fn carp_demote(by: i32) -> std::io::Result<()> {
    // SAFETY: the name ends with a NUL, and the kernel reads the 4 bytes of `by`, which outlives the call.
    let outcome = unsafe {
        libc::sysctlbyname(
            DEMOTION.as_ptr(),
            core::ptr::null_mut(),
            core::ptr::null_mut(),
            (&raw const by).cast(),
            size_of::<i32>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(target_os = "freebsd")]
const DEMOTION: &core::ffi::CStr = c"net.inet.carp.demotion";

/// What the kernel knows of virtual host `vhid` of the interface that `name` names, with its NUL.
///
/// # Errors
/// `ENXIO` where there is no such interface, `ENOENT` where it has no such virtual host; what else the kernel says.
#[cfg(target_os = "freebsd")]
pub fn carp_host(socket: std::os::fd::BorrowedFd<'_>, name: &[u8; 16], vhid: u8) -> std::io::Result<carpreq> {
    use std::os::fd::AsRawFd;

    let mut told = carpreq { carpr_count: 1, carpr_vhid: i32::from(vhid), ..carpreq::default() };
    // SAFETY: all bytes 0 are a value of this plain structure of C.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(name.iter().take(15)) {
        *to = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut told).cast();
    // SAFETY: the kernel reads and writes one `carpreq` where `ifru_data` points, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGVH, &raw mut request) } {
        0 => Ok(told),
        _ => Err(std::io::Error::last_os_error()),
    }
}
