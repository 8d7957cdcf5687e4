//! The three system calls with which FreeBSD's routing tables and SAs are read and followed: a socket is opened, its receive
//! buffer and error reports are set, and a sysctl is read. What the bytes mean is said by `route` and `pfkey`.

extern crate std;

use core::ffi::{c_int, c_uint, c_void};
use core::ops::RangeInclusive;
use core::ptr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::pfkey::{PF_KEY, PF_KEY_V2};
use crate::route::PF_ROUTE;

/// A routing socket that never blocks, is closed in programs that this one starts, has as much room as there may be
/// ([`make_room`]), and reports that it was too little as `ENOBUFS` (`SO_RERROR`; without it, FreeBSD drops messages in silence).
///
/// # Errors
/// What the kernel says.
pub fn open_route_socket() -> io::Result<OwnedFd> {
    open_socket(PF_ROUTE, libc::AF_UNSPEC)
}

/// A PF_KEY socket, in all else like one of [`open_route_socket`]. The user has to be root.
///
/// # Errors
/// What the kernel says.
pub fn open_key_socket() -> io::Result<OwnedFd> {
    open_socket(PF_KEY, PF_KEY_V2.into())
}

fn open_socket(family: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are handed over.
    let descriptor = unsafe { libc::socket(family, flags, protocol) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    make_room(&socket);
    set_option(&socket, SO_RERROR, 1)?;
    Ok(socket)
}

/// Gives the socket as much room for messages that wait as the kernel allows (`kern.ipc.maxsockbuf`), but at most 256 MiB.
pub fn make_room(socket: &impl AsRawFd) {
    let mut room = 0;
    // More than is allowed is refused, and leaves what there was. Nothing is set aside before messages wait.
    for bit in ROOM_BITS.rev().map(|place| 1 << place) {
        if set_option(socket, libc::SO_RCVBUF, room | bit).is_ok() {
            room |= bit;
        }
    }
}

/// The bits that may be set in the number of bytes of room that is asked for.
const ROOM_BITS: RangeInclusive<u32> = 12..=27;

/// `<sys/socket.h>`: the socket reports receive errors.
const SO_RERROR: c_int = 0x0002_0000;

fn set_option(socket: &impl AsRawFd, option: c_int, value: c_int) -> io::Result<()> {
    let size = size_of::<c_int>() as libc::socklen_t;
    let value = ptr::from_ref(&value).cast::<c_void>();
    // SAFETY: `value` points to `size` bytes that live until the call is over.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads the sysctl `name` into `buffer`, and says how many bytes there are of it. With an empty buffer nothing is
/// copied, and the answer is an estimate of the bytes needed.
///
/// # Errors
/// `ENOMEM` where the buffer is too small; what else the kernel says.
pub fn read_sysctl(name: &[c_int], buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = buffer.len();
    let target = if buffer.is_empty() { ptr::null_mut() } else { buffer.as_mut_ptr().cast::<c_void>() };
    // SAFETY: `name` and `target` point to as many elements as is said with each; the kernel writes at most `length`
    // bytes to `target` (none where it is null), and there is no new value.
    let result =
        unsafe { libc::sysctl(name.as_ptr(), name.len() as c_uint, target, &raw mut length, ptr::null(), 0) };
    if result == 0 { Ok(length) } else { Err(io::Error::last_os_error()) }
}
