//! The bpf(2) system call: maps, programs, and the link that holds a program to an interface.
//!
//! `libc` has none of its structures, so they stand here; each is a leading part of the kernel's `union bpf_attr`
//! (`<linux/bpf.h>`), which takes the rest as zeros. A program is attached for as long as the [`Link`] is open, whatever ends
//! the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::assembler::Instruction;

/// `BPF_*` commands.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

/// How often a program is given to the verifier, which gives up (`EAGAIN`) where the system wants something of the thread meanwhile.
const ATTEMPTS: u32 = 5;

/// `BPF_PROG_TYPE_XDP`
const PROGRAM_XDP: u32 = 6;
/// `BPF_XDP`, the attach type.
const ATTACH_XDP: u32 = 37;
/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;

/// `XDP_FLAGS_SKB_MODE` (`<linux/if_link.h>`): behind the driver, where a packet is a socket buffer already.
pub(super) const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: in the driver.
pub(super) const NATIVE: u32 = 1 << 2;

/// `BPF_MAP_TYPE_*`
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Kind {
    Hash = 1,
    /// Where a full map forgets what was used least recently.
    RecentlyUsed = 9,
    LongestPrefix = 11,
    Sockets = 17,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `attributes` is a leading part of the kernel's `bpf_attr` for this command, and the addresses in it are valid for what the
/// command reads and writes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    let attributes: *mut T = attributes;
    // SAFETY: the structure is valid for its length; the caller vouches for what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// # Safety
/// As for [`bpf`], for a command that makes a descriptor.
unsafe fn bpf_open<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes)? };
    // SAFETY: just made (close-on-exec, as all of bpf's), and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name, cut to what the kernel takes, with a zero behind.
fn short_name(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    out
}

/// A map from keys of `K` bytes to numbers.
pub(super) struct Map<const K: usize> {
    fd: OwnedFd,
}

impl<const K: usize> Map<K> {
    pub(super) fn new(kind: Kind, entries: u32, name: &str) -> io::Result<Map<K>> {
        let flags = if matches!(kind, Kind::Sockets | Kind::RecentlyUsed) { 0 } else { NO_PREALLOC };
        let mut attributes = MapCreate {
            kind: kind as u32,
            key_size: K as u32,
            value_size: 4,
            entries,
            flags,
            inner: 0,
            node: 0,
            name: short_name(name),
        };
        // SAFETY: no addresses in it.
        Ok(Map { fd: unsafe { bpf_open(MAP_CREATE, &mut attributes)? } })
    }

    /// For [`super::assembler::Assembler::load_map`].
    pub(super) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Sets the value of a key, at once for whoever is looking it up.
    pub(super) fn set(&self, key: [u8; K], value: u32) -> io::Result<()> {
        let mut attributes = self.element(&key, &raw const value as u64);
        // SAFETY: key and value have the sizes that the map was made with, and outlive the call.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes)? };
        Ok(())
    }

    /// Removes a key. One that is not there is no error.
    pub(super) fn remove(&self, key: [u8; K]) -> io::Result<()> {
        let mut attributes = self.element(&key, 0);
        // SAFETY: as above; no value is read.
        match unsafe { bpf(MAP_DELETE_ELEM, &mut attributes) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn element(&self, key: &[u8; K], value: u64) -> MapElement {
        MapElement { map: self.fd.as_raw_fd() as u32, padding: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}

impl Map<4> {
    /// Puts a socket at a queue's place in a map of sockets.
    pub(super) fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.set(queue.to_ne_bytes(), socket.as_raw_fd() as u32)
    }
}

/// A loaded XDP program.
pub(super) struct Program {
    fd: OwnedFd,
}

/// Why a program was not loaded: the system's reason, and the verifier's log.
pub(super) struct Refused {
    pub(super) source: io::Error,
    pub(super) log: String,
}

impl Program {
    /// Loads a program; the verifier writes its log only when it has refused it, in a second run.
    pub(super) fn load(code: &[Instruction], name: &str) -> Result<Program, Refused> {
        Self::try_load(code, name, &mut []).or_else(|source| {
            let mut log = vec![0; 1 << 16];
            let again = Self::try_load(code, name, &mut log);
            let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
            let log = String::from_utf8_lossy(text).trim_end().to_owned();
            again.map_err(|_| Refused { source, log })
        })
    }

    fn try_load(code: &[Instruction], name: &str, log: &mut [u8]) -> io::Result<Program> {
        let mut attributes = ProgramLoad {
            kind: PROGRAM_XDP,
            count: code.len() as u32,
            instructions: code.as_ptr() as u64,
            license: c"BSD-2-Clause".as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kernel_version: 0,
            flags: 0,
            name: short_name(name),
            interface: 0,
            attach_type: ATTACH_XDP,
        };
        let mut attempts = 1..ATTEMPTS;
        loop {
            // SAFETY: instructions, licence and log are valid for the lengths given, and outlive the call.
            match unsafe { bpf_open(PROG_LOAD, &mut attributes) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts.next().is_some() => {}
                loaded => return Ok(Program { fd: loaded? }),
            }
        }
    }

    /// Attaches the program to an interface, in mode [`NATIVE`] or [`GENERIC`], as long as the link lives.
    pub(super) fn attach(&self, interface: u32, mode: u32) -> io::Result<Link> {
        let mut attributes = LinkCreate {
            program: self.fd.as_raw_fd() as u32,
            interface,
            attach_type: ATTACH_XDP,
            flags: mode,
        };
        // SAFETY: no addresses in it.
        Ok(Link { _fd: unsafe { bpf_open(LINK_CREATE, &mut attributes)? } })
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A program's hold on an interface, let go when this is dropped or the process ends, however it ends.
pub(super) struct Link {
    _fd: OwnedFd,
}
