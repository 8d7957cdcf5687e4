//! Conversations with the Linux kernel over netlink (RFC 3549): what routes ([`crate::routes`]), keys ([`crate::keys`]) and interfaces
//! ([`crate::interface`]) have in common.

pub(crate) mod message;
mod requests;

use std::io;

use netlink_sys::Socket;
use zeroize::Zeroize;

pub(crate) use self::requests::Requests;

/// Room for a datagram, in bytes. The kernel fills up to 32 KiB of a list; what is longer is noticed, and the room grows.
pub(crate) const DATAGRAM: usize = 64 << 10;

/// Receives a datagram if one is there. False: it was longer than the room for it, which is larger now. There may be keys in it: the
/// room that is given up is wiped.
pub(crate) fn receive(socket: &Socket, datagram: &mut Vec<u8>) -> io::Result<bool> {
    datagram.clear();
    let room = datagram.capacity();
    let length = socket.recv(datagram, libc::MSG_DONTWAIT | libc::MSG_TRUNC)?;
    if length > room {
        // All that was allocated, and not just what is in use.
        datagram.zeroize();
        datagram.reserve(length);
        return Ok(false);
    }
    Ok(true)
}
