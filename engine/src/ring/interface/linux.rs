//! TAP and TUN on Linux: one device, `/dev/net/tun`, whose descriptors are attached to an interface by name. An interface
//! made in this way goes away with its last descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use netmap_sys::IoctlRequest;

use super::super::BATCH;
use super::{InterfaceError, Kind, Opened, ioctl, request};

pub(super) const SIOCSIFMTU: IoctlRequest = libc::SIOCSIFMTU as IoctlRequest;
pub(super) const SIOCGIFFLAGS: IoctlRequest = libc::SIOCGIFFLAGS as IoctlRequest;
pub(super) const SIOCSIFFLAGS: IoctlRequest = libc::SIOCSIFFLAGS as IoctlRequest;

/// Nothing stands in front of a packet (`IFF_NO_PI`).
pub(in super::super) const TUN_PREFIX: usize = 0;

const DEVICE: &str = "/dev/net/tun";

/// The interface ends with its descriptors, or was there before them and stays: nothing to do.
pub(in super::super) struct Lease {
    ours: bool,
}

impl Lease {
    /// Does the interface go away with us?
    pub(in super::super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// The interface is gone already.
    pub(in super::super) fn give_up(&self) {}
}

/// Does this error of reading or writing say that the interface has been deleted?
pub(in super::super) fn is_gone(error: i32) -> bool {
    matches!(error, libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO)
}

pub(super) fn set_flag_up(request: &mut libc::ifreq) {
    // SAFETY: the kernel has just written the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
}

pub(super) fn open(kind: Kind, name: &str, queues: usize) -> Result<Opened, InterfaceError> {
    let mut descriptors = Vec::with_capacity(queues);
    let mut lease = Lease { ours: false };
    for _ in 0..queues {
        let (descriptor, ours) = attach(kind, name, queues > 1)?;
        descriptors.push(descriptor);
        lease.ours = ours;
    }
    Ok(Opened { name: name.to_owned(), descriptors, lease })
}

/// A descriptor attached to the interface; and does that go away with it?
fn attach(kind: Kind, name: &str, many: bool) -> Result<(OwnedFd, bool), InterfaceError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
    let device = opened.map_err(|source| InterfaceError::Device { device: DEVICE.to_owned(), source })?;
    let attached = match set_interface(&device, kind, name, many) {
        // Somebody made the interface for several queues: it takes one of them as well.
        Err(error) if !many && error.raw_os_error() == Some(libc::EINVAL) => {
            set_interface(&device, kind, name, true)
        }
        result => result,
    };
    let mut request = request(name);
    attached
        .and_then(|()| ioctl(&device, libc::TUNGETIFF, &mut request))
        .map_err(|source| InterfaceError::Attach { name: name.to_owned(), source })?;
    // Checksums and segments are finished by the host: an interface that existed may remember another agreement.
    // SAFETY: the number takes a plain integer.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) } == -1 {
        let source = io::Error::last_os_error();
        return Err(InterfaceError::Set { name: name.to_owned(), what: "its offloads", source });
    }
    // SAFETY: the kernel has just written the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((device.into(), i32::from(flags) & libc::IFF_PERSIST == 0))
}

fn set_interface(device: &File, kind: Kind, name: &str, many: bool) -> io::Result<()> {
    let layer = match kind {
        Kind::Tap => libc::IFF_TAP,
        Kind::Tun => libc::IFF_TUN,
    };
    let queues = if many { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = (layer | libc::IFF_NO_PI | queues) as libc::c_short;
    ioctl(device, libc::TUNSETIFF, &mut request)
}

/// Waits for any of many descriptors, each with a key (epoll). Descriptors come and go while another thread waits.
pub(in super::super) struct Poller(OwnedFd);

/// What a look at a [`Poller`] found.
pub(in super::super) struct Ready {
    events: Box<[libc::epoll_event; BATCH]>,
    count: usize,
}

impl Ready {
    pub(in super::super) fn new() -> Ready {
        Ready { events: Box::new([libc::epoll_event { events: 0, u64: 0 }; BATCH]), count: 0 }
    }

    /// How many are ready.
    pub(in super::super) fn len(&self) -> usize {
        self.count
    }

    /// The key of the `nth`.
    pub(in super::super) fn key(&self, nth: usize) -> Option<u32> {
        self.events.get(nth).map(|event| event.u64 as u32)
    }
}

impl Poller {
    pub(in super::super) fn new() -> io::Result<Poller> {
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else has.
        Ok(Poller(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(in super::super) fn add(&self, descriptor: &OwnedFd, key: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: key.into() };
        self.control(libc::EPOLL_CTL_ADD, descriptor, &mut event)
    }

    pub(in super::super) fn remove(&self, descriptor: &OwnedFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, descriptor, &mut libc::epoll_event { events: 0, u64: 0 })
    }

    fn control(&self, what: i32, descriptor: &OwnedFd, event: &mut libc::epoll_event) -> io::Result<()> {
        // SAFETY: the event lives during the call.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, descriptor.as_raw_fd(), event) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Which descriptors are readable now. Where there are more than `ready` holds, the others come first the next time: the
    /// system puts those that it has told at the end of its list.
    pub(in super::super) fn look(&self, ready: &mut Ready) {
        let (to, room) = (ready.events.as_mut_ptr(), ready.events.len());
        // SAFETY: room for as many events as are asked for.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), to, room as libc::c_int, 0) };
        ready.count = usize::try_from(count).unwrap_or(0);
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
