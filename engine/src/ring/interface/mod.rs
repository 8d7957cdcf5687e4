//! Interfaces of the host that this program stands behind: a TAP carries Ethernet frames, a TUN bare IP packets. What the
//! host sends out of such an interface is read from a descriptor, a frame at a time, and what is written to it the host
//! receives.
//!
//! An existing interface of the name is taken over and stays when we go; otherwise one is made that goes away with us.
//! The systems differ in how one is opened, and in how many are waited for at once; that is all that `linux` and `freebsd`
//! hold.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use netmap_sys::IoctlRequest;

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "freebsd")]
use freebsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub(super) use system::{Lease, Poller, Ready, TUN_PREFIX, is_gone};

/// Why an interface could not be opened or set.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// A name that no interface can have.
    #[error("`{0}` is no name for an interface: choose 1 to 15 characters, without blanks, `/`, `:` and `%`")]
    Name(String),
    /// The device behind which the system makes such interfaces.
    #[error("cannot open {device}: {source}: it takes root, and the kernel's tun driver")]
    Device {
        /// Path of the device.
        device: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The interface could not be made or taken over.
    #[error("interface {name}: {source}{}", remedy(.source))]
    Attach {
        /// The interface.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A property could not be set.
    #[error("interface {name}: cannot set {what}: {source}")]
    Set {
        /// The interface.
        name: String,
        /// The property.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// This system gives such an interface one queue only.
    #[error(
        "interface {name}: {queues} queues asked for, this system has one for each: set one worker for it"
    )]
    Queues {
        /// The interface.
        name: String,
        /// Queues asked for.
        queues: usize,
    },
}

/// What to do about the usual reasons.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => ": another program has it open",
        Some(libc::EINVAL) => {
            ": an interface of this name is of another kind, or made for another number of queues (`multi_queue`)"
        }
        Some(libc::EPERM) => ": it takes root",
        _ => "",
    }
}

/// Which layer an interface's frames are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

impl Kind {
    /// Bytes in front of each frame on its way through the descriptor that are not part of it.
    pub(super) const fn prefix(self) -> usize {
        match self {
            Kind::Tap => 0,
            Kind::Tun => TUN_PREFIX,
        }
    }
}

/// An open interface: its name, a descriptor for each queue, and what ends it (to be dropped after the descriptors).
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) lease: Lease,
}

/// Opens the interface `name` with `queues` queues.
///
/// # Errors
/// [`InterfaceError`]; nothing is left behind then.
pub(super) fn open(kind: Kind, name: &str, queues: usize) -> Result<Opened, InterfaceError> {
    let named = (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
        && !matches!(name, "." | "..");
    if named { system::open(kind, name, queues) } else { Err(InterfaceError::Name(name.to_owned())) }
}

/// Sets the largest packet that the host may send through the interface, in bytes of IP.
pub(super) fn set_mtu(name: &str, mtu: u32) -> Result<(), InterfaceError> {
    let mut request = request(name);
    // An MTU beyond the field's range is beyond any interface's: the kernel says so.
    request.ifr_ifru.ifru_mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
    configure(name, "its MTU", system::SIOCSIFMTU, &mut request)
}

/// Brings the interface up.
pub(super) fn bring_up(name: &str) -> Result<(), InterfaceError> {
    let mut request = request(name);
    configure(name, "it up", system::SIOCGIFFLAGS, &mut request)?;
    system::set_flag_up(&mut request);
    configure(name, "it up", system::SIOCSIFFLAGS, &mut request)
}

/// A request about an interface.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: plain integers and a union of them: zeros are a valid value.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    set_name(&mut request.ifr_name, name);
    request
}

/// Writes a name where C wants it, ended by a zero.
fn set_name(to: &mut [libc::c_char; libc::IFNAMSIZ], name: &str) {
    for (to, from) in to.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1).chain([0])) {
        *to = from as libc::c_char;
    }
}

/// Any socket will do to speak to the kernel about interfaces.
fn configure(
    name: &str,
    what: &'static str,
    number: IoctlRequest,
    request: &mut libc::ifreq,
) -> Result<(), InterfaceError> {
    let socket = UnixDatagram::unbound();
    socket.and_then(|socket| ioctl(&socket, number, request)).map_err(|source| InterfaceError::Set {
        name: name.to_owned(),
        what,
        source,
    })
}

/// A request whose argument is an `ifreq`.
fn ioctl(descriptor: &impl AsRawFd, number: IoctlRequest, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the numbers used here take a pointer to an `ifreq`, which this is.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), number, std::ptr::from_mut(request)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process have as many descriptors as its administrator allows: each interface takes one.
pub(super) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a limit, which lives during the call.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            // Where it is refused, opening the first interface too many says so.
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Makes `descriptor` stand for what `other` stands for, in one step: its number is never free in between, so that whoever uses
/// it meets the one or the other.
pub(super) fn replace(descriptor: &OwnedFd, other: &impl AsRawFd) -> io::Result<()> {
    let (from, to) = (other.as_raw_fd(), descriptor.as_raw_fd());
    // SAFETY: both are open; the owner of `descriptor` still owns its number.
    let result = unsafe { libc::dup3(from, to, libc::O_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
