//! The kernel, as far as netmap ports need it: a few calls behind two traits, so that tests can play the kernel's part.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use netmap_sys::{NETMAP_DEVICE_NAME, NIOCCTRL, NIOCRXSYNC, NIOCTXSYNC, nmreq_header};

use super::interface::{InterfaceFacts, interface_facts};
use crate::ring::offload::{OffloadError, OffloadGuard};

/// Which rings of a descriptor to synchronise, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// `NIOCTXSYNC`: sends what is new, and takes back what has been sent.
    Transmit,
    /// `poll` for writing, without waiting: sends what is new, and then takes back what has been sent. Nothing where there is
    /// nothing new.
    Push,
    /// `NIOCRXSYNC`.
    Receive,
}

/// The kernel that ports are opened in.
pub(super) trait Kernel {
    /// Opens the netmap device, close-on-exec: a forked child would keep the port in netmap mode.
    fn open(&self) -> io::Result<Arc<dyn Descriptor>>;

    /// What the kernel knows of an interface; `None` where there is none of that name.
    fn interface(&self, name: &str) -> io::Result<Option<InterfaceFacts>>;

    /// A number among netmap's own settings (FreeBSD: `dev.netmap.NAME`).
    fn setting(&self, name: &str) -> Option<i64>;

    /// Clears the offloads of an interface until the guard is dropped.
    fn clear_offloads(&self, interface: &str) -> Result<OffloadGuard, OffloadError>;
}

/// One opening of the netmap device.
pub(super) trait Descriptor: Send + Sync {
    /// `NIOCCTRL`.
    ///
    /// # Safety
    /// `nr_body` and `nr_options` are addresses of what the request type says, writable for as long as the call lasts.
    unsafe fn control(&self, header: &mut nmreq_header) -> io::Result<()>;

    /// Exchanges slots with the kernel.
    fn sync(&self, exchange: Exchange) -> io::Result<()>;

    /// Maps the memory of the registered port, shared. Whoever called unmaps it.
    fn map(&self, bytes: usize) -> io::Result<NonNull<u8>>;

    /// What to wait on.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Is the interface `name` still there, with the index it had?
    fn is_attached(&self, name: &str, index: u32) -> bool;
}

/// The kernel that this program runs on.
pub(super) struct System;

impl Kernel for System {
    fn open(&self) -> io::Result<Arc<dyn Descriptor>> {
        let path = Path::new(NETMAP_DEVICE_NAME.to_str().map_err(io::Error::other)?);
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?;
        Ok(Arc::new(Device(file)))
    }

    fn interface(&self, name: &str) -> io::Result<Option<InterfaceFacts>> {
        interface_facts(name)
    }

    #[cfg(target_os = "freebsd")]
    fn setting(&self, name: &str) -> Option<i64> {
        let name = std::ffi::CString::new(format!("dev.netmap.{name}")).ok()?;
        let mut value: libc::c_int = 0;
        let mut len = size_of_val(&value);
        // SAFETY: the name is a C string; the kernel writes at most `len` bytes to `value`, which is as long as that.
        let result = unsafe {
            libc::sysctlbyname(name.as_ptr(), (&raw mut value).cast(), &mut len, std::ptr::null(), 0)
        };
        (result == 0 && len == size_of_val(&value)).then_some(i64::from(value))
    }

    #[cfg(target_os = "linux")]
    fn setting(&self, name: &str) -> Option<i64> {
        let path = Path::new("/sys/module/netmap/parameters").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn clear_offloads(&self, interface: &str) -> Result<OffloadGuard, OffloadError> {
        OffloadGuard::clear(interface)
    }
}

struct Device(File);

impl Device {
    fn push(&self) -> io::Result<()> {
        let mut wanted = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one entry, as said; without waiting.
        checked(unsafe { libc::poll(&mut wanted, 1, 0) })?;
        if wanted.revents & libc::POLLERR == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }
}

/// The result of a system call that says -1 for an error.
fn checked(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Descriptor for Device {
    unsafe fn control(&self, header: &mut nmreq_header) -> io::Result<()> {
        // SAFETY: the request takes a header, and the caller vouches for what it points to.
        checked(unsafe { libc::ioctl(self.0.as_raw_fd(), NIOCCTRL, header as *mut nmreq_header) })
    }

    #[inline]
    fn sync(&self, exchange: Exchange) -> io::Result<()> {
        let request = match exchange {
            Exchange::Transmit => NIOCTXSYNC,
            Exchange::Receive => NIOCRXSYNC,
            Exchange::Push => return self.push(),
        };
        // SAFETY: these requests take no argument.
        checked(unsafe { libc::ioctl(self.0.as_raw_fd(), request) })
    }

    fn map(&self, bytes: usize) -> io::Result<NonNull<u8>> {
        map_shared(self.0.as_fd(), bytes)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn is_attached(&self, name: &str, index: u32) -> bool {
        let Ok(name) = std::ffi::CString::new(name) else { return false };
        // SAFETY: a C string; the call only reads it.
        (unsafe { libc::if_nametoindex(name.as_ptr()) }) == index
    }
}

/// Maps `bytes` bytes of a descriptor's memory, shared, for reading and writing.
pub(super) fn map_shared(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh mapping; nothing of ours is replaced.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}
