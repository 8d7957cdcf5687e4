//! tap(4) and tun(4) on FreeBSD: each interface has a device of its name. Opening `/dev/tap` or `/dev/tun` makes a new one,
//! which is then renamed, and which outlives its descriptor unless somebody destroys it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use netmap_sys::IoctlRequest;

use super::super::BATCH;
use super::{InterfaceError, Kind, Opened, configure, ioctl, request};

/// `_IOW` of `<sys/ioccom.h>`: the argument is copied in.
const IN: IoctlRequest = 0x8000_0000;
/// `_IOR`: the argument is copied out.
const OUT: IoctlRequest = 0x4000_0000;

/// The number of a request: direction, size of the argument, group, number in the group (`<sys/ioccom.h>`).
const fn number<Argument>(direction: IoctlRequest, group: u8, number: u8) -> IoctlRequest {
    direction
        | (size_of::<Argument>() as IoctlRequest) << 16
        | (group as IoctlRequest) << 8
        | number as IoctlRequest
}

// `<sys/sockio.h>`.
pub(super) const SIOCSIFFLAGS: IoctlRequest = number::<libc::ifreq>(IN, b'i', 16);
pub(super) const SIOCGIFFLAGS: IoctlRequest = number::<libc::ifreq>(IN | OUT, b'i', 17);
pub(super) const SIOCSIFMTU: IoctlRequest = number::<libc::ifreq>(IN, b'i', 52);
const SIOCSIFNAME: IoctlRequest = number::<libc::ifreq>(IN, b'i', 40);
const SIOCIFDESTROY: IoctlRequest = number::<libc::ifreq>(IN, b'i', 121);
// `<net/if_tun.h>`, the same for taps (`<net/if_tap.h>`).
const TUNGIFNAME: IoctlRequest = number::<libc::ifreq>(OUT, b't', 93);
const TUNSIFHEAD: IoctlRequest = number::<libc::c_int>(IN, b't', 96);
/// Destroy the interface when its descriptor is closed: since FreeBSD 15.
const TUNSTRANSIENT: IoctlRequest = number::<libc::c_int>(IN, b't', 98);

// As a C compiler gives them.
const _: () = {
    assert!(SIOCSIFFLAGS == 0x8020_6910 && SIOCGIFFLAGS == 0xc020_6911 && SIOCSIFMTU == 0x8020_6934);
    assert!(SIOCSIFNAME == 0x8020_6928 && SIOCIFDESTROY == 0x8020_6979);
    assert!(TUNGIFNAME == 0x4020_745d && TUNSIFHEAD == 0x8004_7460 && TUNSTRANSIENT == 0x8004_7462);
};

/// The address family in front of each packet (`TUNSIFHEAD`), in network byte order. Without it a tun takes IPv4 only.
pub(in super::super) const TUN_PREFIX: usize = 4;

/// Destroys the interface at its end, if we made it. Must outlive the descriptor: the kernel waits for that to be closed.
pub(in super::super) struct Lease {
    ours: Option<String>,
    given_up: AtomicBool,
}

impl Lease {
    fn new(ours: Option<String>) -> Lease {
        Lease { ours, given_up: AtomicBool::new(false) }
    }

    /// Does the interface go away with us?
    pub(in super::super) fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// The interface is gone already: another of its name is let be.
    pub(in super::super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(name) = &self.ours
            && !self.given_up.load(Ordering::Relaxed)
            && let Ok(socket) = UnixDatagram::unbound()
        {
            // Nobody to tell; a transient interface is gone already.
            let _ = ioctl(&socket, SIOCIFDESTROY, &mut request(name));
        }
    }
}

/// Does this error of reading or writing say that the interface has been destroyed?
pub(in super::super) fn is_gone(error: i32) -> bool {
    matches!(error, libc::ENXIO | libc::EBADF | libc::ENODEV)
}

pub(super) fn set_flag_up(request: &mut libc::ifreq) {
    // SAFETY: the kernel has just written the flags: the low half first, then the high one.
    let mut flags = unsafe { request.ifr_ifru.ifru_flags };
    if let Some(low) = flags.first_mut() {
        *low |= libc::IFF_UP as libc::c_short;
    }
    request.ifr_ifru.ifru_flags = flags;
}

pub(super) fn open(kind: Kind, name: &str, queues: usize) -> Result<Opened, InterfaceError> {
    if queues > 1 {
        return Err(InterfaceError::Queues { name: name.to_owned(), queues });
    }
    let opened = if exists(name) { take_over(name)? } else { make(kind, name)? };
    if kind == Kind::Tun {
        set_flag(opened.descriptors.first(), TUNSIFHEAD).map_err(|source| InterfaceError::Set {
            name: opened.name.clone(),
            what: "its header",
            source,
        })?;
    }
    Ok(opened)
}

fn exists(name: &str) -> bool {
    let mut text = [0 as libc::c_char; libc::IFNAMSIZ];
    super::set_name(&mut text, name);
    // SAFETY: a string ended by a zero.
    unsafe { libc::if_nametoindex(text.as_ptr()) != 0 }
}

/// The interface of that name: the system keeps a device of the same name, also of one that was renamed.
fn take_over(name: &str) -> Result<Opened, InterfaceError> {
    let attach = |source| InterfaceError::Attach { name: name.to_owned(), source };
    let device = device(name).map_err(attach)?;
    let name = interface_of(&device).map_err(attach)?;
    Ok(Opened { name, descriptors: vec![device], lease: Lease::new(None) })
}

/// A new interface of that name.
fn make(kind: Kind, name: &str) -> Result<Opened, InterfaceError> {
    let clone = match kind {
        Kind::Tap => "tap",
        Kind::Tun => "tun",
    };
    let made = device(clone).and_then(|device| Ok((interface_of(&device)?, device)));
    let (first, device) =
        made.map_err(|source| InterfaceError::Device { device: format!("/dev/{clone}"), source })?;
    // From here on an error closes the descriptor and then ends the lease.
    let lease = Lease::new(Some(first.clone()));
    let mut opened = Opened { name: first, descriptors: vec![device], lease };
    // Not on FreeBSD 14, where the lease does it, unless the program is killed.
    let _ = set_flag(opened.descriptors.first(), TUNSTRANSIENT);
    if opened.name != name {
        rename(&opened.name, name)?;
        opened.lease.ours = Some(name.to_owned());
        opened.name = name.to_owned();
    }
    Ok(opened)
}

fn device(name: &str) -> io::Result<OwnedFd> {
    let path = format!("/dev/{name}");
    Ok(OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?.into())
}

/// The name of the interface behind a device. Fails on devices that are no tap or tun, whatever their name.
fn interface_of(device: &OwnedFd) -> io::Result<String> {
    let mut request = request("");
    ioctl(device, TUNGIFNAME, &mut request)?;
    Ok(name_of(&request.ifr_name))
}

/// A name as C gives it.
fn name_of(from: &[libc::c_char]) -> String {
    let bytes: Vec<u8> = from.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn rename(from: &str, to: &str) -> Result<(), InterfaceError> {
    let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
    super::set_name(&mut name, to);
    let mut request = request(from);
    request.ifr_ifru.ifru_data = name.as_mut_ptr();
    // The name is read during the call.
    configure(from, "its name", SIOCSIFNAME, &mut request)
}

/// Switches on what a request with an integer argument stands for.
fn set_flag(device: Option<&OwnedFd>, number: IoctlRequest) -> io::Result<()> {
    let device = device.ok_or(io::ErrorKind::NotFound)?;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the number takes a pointer to an `int`, which lives during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), number, &raw const on) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for any of many descriptors, each with a key (kqueue). Descriptors come and go while another thread waits.
pub(in super::super) struct Poller(OwnedFd);

/// What a look at a [`Poller`] found.
pub(in super::super) struct Ready {
    events: Box<[libc::kevent; BATCH]>,
    count: usize,
}

// SAFETY: the pointers inside are keys, and lead nowhere.
unsafe impl Send for Ready {}

/// A change of, or room for, an event.
fn event(descriptor: usize, flags: u16, key: u32) -> libc::kevent {
    // SAFETY: integers and a pointer: zeros are a valid value.
    let mut event = unsafe { std::mem::zeroed::<libc::kevent>() };
    event.ident = descriptor;
    event.filter = libc::EVFILT_READ;
    event.flags = flags;
    event.udata = std::ptr::without_provenance_mut(key as usize);
    event
}

impl Ready {
    pub(in super::super) fn new() -> Ready {
        Ready { events: Box::new([event(0, 0, 0); BATCH]), count: 0 }
    }

    /// How many are ready.
    pub(in super::super) fn len(&self) -> usize {
        self.count
    }

    /// The key of the `nth`.
    pub(in super::super) fn key(&self, nth: usize) -> Option<u32> {
        self.events.get(nth).map(|event| event.udata.addr() as u32)
    }
}

impl Poller {
    pub(in super::super) fn new() -> io::Result<Poller> {
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::kqueue() };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else has.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a call without pointers.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(Poller(descriptor))
    }

    pub(in super::super) fn add(&self, descriptor: &OwnedFd, key: u32) -> io::Result<()> {
        self.change(event(descriptor.as_raw_fd() as usize, libc::EV_ADD, key))
    }

    pub(in super::super) fn remove(&self, descriptor: &OwnedFd) -> io::Result<()> {
        self.change(event(descriptor.as_raw_fd() as usize, libc::EV_DELETE, 0))
    }

    fn change(&self, change: libc::kevent) -> io::Result<()> {
        let (fd, nothing) = (self.0.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: one change, which lives during the call; no events are asked for.
        let result = unsafe { libc::kevent(fd, &raw const change, 1, nothing, 0, std::ptr::null()) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Which descriptors are readable now. Where there are more than `ready` holds, the others come first the next time: the
    /// system puts those that it has told at the end of its list.
    pub(in super::super) fn look(&self, ready: &mut Ready) {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let (to, room) = (ready.events.as_mut_ptr(), ready.events.len() as libc::c_int);
        // SAFETY: room for as many events as are asked for.
        let count =
            unsafe { libc::kevent(self.0.as_raw_fd(), std::ptr::null(), 0, to, room, &raw const at_once) };
        ready.count = usize::try_from(count).unwrap_or(0);
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
