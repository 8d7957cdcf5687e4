//! An AF_XDP socket: four rings shared with the kernel, and the buffers of a region as the memory behind them (the UMEM).
//!
//! 1. [`Umem::open`] makes a socket for one queue of one interface: it joins the UMEM of a socket that is open already,
//!    or registers the region's buffers, and binds, with zero-copy where the driver can.
//! 2. [`Producer`] and [`Consumer`] are the two kinds of rings; each side publishes one counter.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::XdpError;
use super::queue::{RxRings, TxRings};
use crate::ring::Health;
use crate::ring::region::Region;

/// Packets that one `sendto` may send in copy mode, since Linux 6.17 (`<linux/if_xdp.h>`); 32 without it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A region's buffers as AF_XDP sees them: buffer `n` is chunk `n`. One for all ports that take rings from the region.
pub struct Umem {
    region: Arc<Region>,
    sockets: Mutex<Vec<Weak<Socket>>>,
}

/// Whose UMEM a new socket uses.
enum Memory<'a> {
    /// That of another socket, with its mode.
    Shared(&'a Socket),
    /// Its own, of the same buffers.
    Own(&'a Region),
}

impl Umem {
    /// The buffers of `region`, for AF_XDP sockets.
    ///
    /// # Errors
    /// [`XdpError::BufferSize`] unless the buffers have 2048 or 4096 bytes, the only sizes that every kernel takes.
    pub fn new(region: &Arc<Region>) -> Result<Arc<Umem>, XdpError> {
        let size = region.buffer_size();
        if !matches!(size, 2048 | 4096) {
            return Err(XdpError::BufferSize { size });
        }
        raise_locked_memory_limit();
        Ok(Arc::new(Umem { region: Arc::clone(region), sockets: Mutex::new(Vec::new()) }))
    }

    /// The region.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// A socket bound to queue `queue` of interface `index`, each of its rings with room for `entries` (a power of two).
    ///
    /// All sockets that share a UMEM share its mode, so one that can do better, or worse, than those already open
    /// registers the buffers once more.
    pub(super) fn open(
        &self,
        index: u32,
        queue: u32,
        entries: u32,
    ) -> io::Result<(Arc<Socket>, (RxRings, TxRings))> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|socket| socket.strong_count() > 0);
        let mut last = None;
        for zero_copy in [true, false] {
            let open: Vec<_> = sockets.iter().filter_map(Weak::upgrade).collect();
            let other = open
                .iter()
                .find(|socket| socket.zero_copy == zero_copy && socket.health() != Health::Departed);
            let shared = other.map(|socket| Memory::Shared(socket));
            for memory in shared.into_iter().chain([Memory::Own(&self.region)]) {
                match Socket::open(&memory, zero_copy, index, queue, entries) {
                    Ok((socket, rings)) => {
                        sockets.push(Arc::downgrade(&socket));
                        return Ok((socket, rings));
                    }
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::Unsupported)))
    }
}

/// UMEMs are charged as locked memory, whose limit is low by default. Without the right to raise it, registration fails
/// where it does not suffice, and says so.
fn raise_locked_memory_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain call with a valid structure.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

/// An AF_XDP socket, bound to one queue.
pub(super) struct Socket {
    fd: OwnedFd,
    zero_copy: bool,
    /// Frames that no descriptor can describe: in several slots, too short for Ethernet.
    pub(super) unsendable: AtomicU64,
    /// Entries of the kernel that made no sense and were not followed.
    pub(super) broken: AtomicU64,
    /// Buffers that the kernel has, to receive into and to send from, as of the last sync.
    pub(super) receiving: AtomicU64,
    pub(super) sending: AtomicU64,
}

impl Socket {
    fn open(
        memory: &Memory<'_>,
        zero_copy: bool,
        index: u32,
        queue: u32,
        entries: u32,
    ) -> io::Result<(Arc<Socket>, (RxRings, TxRings))> {
        // SAFETY: a plain call.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if let Memory::Own(region) = memory {
            register(&fd, region)?;
        }
        let (fill, rx, tx, completion) = rings(&fd, entries)?;
        let mode = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        let (flags, shared) = match memory {
            Memory::Shared(other) => (libc::XDP_SHARED_UMEM, other.fd.as_raw_fd() as u32),
            Memory::Own(_) => (mode | libc::XDP_USE_NEED_WAKEUP, 0),
        };
        bind(
            &fd,
            &libc::sockaddr_xdp {
                sxdp_family: libc::AF_XDP as u16,
                sxdp_flags: flags,
                sxdp_ifindex: index,
                sxdp_queue_id: queue,
                sxdp_shared_umem_fd: shared,
            },
        )?;
        // Both only help in copy mode, and are not there on older kernels: a batch goes out with one call, and as many
        // packets may be on their way as the ring has slots.
        let _ = set_option(&fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &(crate::ring::BATCH as u32));
        let bytes = i32::try_from(u64::from(entries) * 4096).unwrap_or(i32::MAX / 2);
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes);

        let options: libc::xdp_options = get_option(&fd, libc::XDP_OPTIONS)?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let socket = Arc::new(Socket {
            fd,
            zero_copy,
            unsendable: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            sending: AtomicU64::new(0),
        });
        let receiving = RxRings { socket: Arc::clone(&socket), fill, rx };
        let sending = TxRings { socket: Arc::clone(&socket), tx, completion };
        Ok((socket, (receiving, sending)))
    }

    /// Does the driver put frames into our buffers itself?
    pub(super) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Is the interface there and set up? A receive call that asks for nothing says so, and also makes the driver look at
    /// its fill ring.
    pub(super) fn health(&self) -> Health {
        match self.wake_receiver() {
            Ok(()) => Health::Attached,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETDOWN) => Health::Down,
                Some(libc::ENXIO | libc::ENODEV | libc::EBADF) => Health::Departed,
                _ => Health::Attached,
            },
        }
    }

    /// Makes the driver look at the fill ring.
    pub(super) fn wake_receiver(&self) -> io::Result<()> {
        // SAFETY: no address and no room for data, so nothing is written.
        let status = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes the driver (in copy mode, the kernel on our time) look at the transmit ring. Its errors all mean that it did
    /// not get to the end, which the ring tells better.
    pub(super) fn wake_sender(&self) {
        // SAFETY: no address and no data.
        unsafe {
            libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0);
        }
    }

    /// What the kernel counts.
    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        get_option(&self.fd, libc::XDP_STATISTICS)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn register(fd: &OwnedFd, region: &Region) -> io::Result<()> {
    let (start, bytes) = region.buffer_memory();
    let size = region.buffer_size();
    let umem = libc::xdp_umem_reg {
        addr: start.as_ptr() as u64,
        len: bytes as u64,
        chunk_size: size,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
}

fn bind(fd: &OwnedFd, address: &libc::sockaddr_xdp) -> io::Result<()> {
    // SAFETY: the address is a whole sockaddr_xdp.
    let status = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const *address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `T` is a plain C structure or integer.
fn set_option<T: Copy>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads no more than the length given.
    let status = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A value that any bytes make.
trait Plain: Copy {}
impl Plain for libc::xdp_options {}
impl Plain for libc::xdp_mmap_offsets {}
impl Plain for libc::xdp_statistics {}

fn get_option<T: Plain>(fd: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    // SAFETY: all implementors are structures of integers, for which zeros are valid.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length given.
    let status = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, (&raw mut value).cast(), &mut length)
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Sizes and maps a socket's rings: fill, receive, transmit, completion.
#[allow(clippy::type_complexity)] // four rings, taken apart at once
fn rings(
    fd: &OwnedFd,
    entries: u32,
) -> io::Result<(Producer<u64>, Consumer<libc::xdp_desc>, Producer<libc::xdp_desc>, Consumer<u64>)> {
    let kinds =
        [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
    for kind in kinds {
        set_option(fd, libc::SOL_XDP, kind, &entries)?;
    }
    let at: libc::xdp_mmap_offsets = get_option(fd, libc::XDP_MMAP_OFFSETS)?;
    let fill = Shared::map(fd, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, &at.fr, entries)?;
    let completion = Shared::map(fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, &at.cr, entries)?;
    let rx = Shared::map(fd, libc::XDP_PGOFF_RX_RING, &at.rx, entries)?;
    let tx = Shared::map(fd, libc::XDP_PGOFF_TX_RING, &at.tx, entries)?;
    Ok((Producer::new(fill), Consumer::new(rx), Producer::new(tx), Consumer::new(completion)))
}

/// A ring as mapped memory: two counters, flags, and a circle of entries.
struct Shared<T> {
    mapping: NonNull<c_void>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Entries, a power of two.
    count: u32,
}

// SAFETY: the mapping is this value's own, and is reached through atomics or through the one end that owns an entry.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    fn map(
        fd: &OwnedFd,
        offset: libc::off_t,
        at: &libc::xdp_ring_offset,
        count: u32,
    ) -> io::Result<Shared<T>> {
        let bytes = at.desc as usize + count as usize * size_of::<T>();
        // SAFETY: a fresh mapping; nothing of ours is replaced.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel gives these offsets for this mapping; entries are aligned in it.
        unsafe {
            Ok(Shared {
                producer: mapping.byte_add(at.producer as usize).cast(),
                consumer: mapping.byte_add(at.consumer as usize).cast(),
                flags: mapping.byte_add(at.flags as usize).cast(),
                entries: mapping.byte_add(at.desc as usize).cast(),
                mapping,
                bytes,
                count,
            })
        }
    }
}

impl<T> Shared<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, which lives as long as self.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    fn entry(&self, number: u32) -> NonNull<T> {
        // SAFETY: masked by a power of two, so inside the entries.
        unsafe { self.entries.add((number & (self.count - 1)) as usize) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length; no reference into it outlives self.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.bytes) };
    }
}

/// A ring that we write and the kernel reads.
pub(super) struct Producer<T> {
    shared: Shared<T>,
    /// Entries ever written, modulo 2^32, and of those the ones that the kernel has been shown.
    own: u32,
    shown: u32,
    /// Entries that the kernel had read when we last looked.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    fn new(shared: Shared<T>) -> Producer<T> {
        Producer { shared, own: 0, shown: 0, seen: 0 }
    }

    /// Writes an entry, for the kernel to see after [`Producer::publish`]. False when the ring is full.
    #[inline]
    pub(super) fn put(&mut self, entry: T) -> bool {
        if self.own.wrapping_sub(self.seen) >= self.shared.count {
            self.seen = self.shared.consumer().load(Ordering::Acquire);
            // More than a ring's worth is not possible; should the kernel say so, it reads as full.
            if self.own.wrapping_sub(self.seen) >= self.shared.count {
                return false;
            }
        }
        // SAFETY: the kernel has read what was here, and does not look again before `publish`.
        unsafe { self.shared.entry(self.own).write(entry) };
        self.own = self.own.wrapping_add(1);
        true
    }

    /// Shows what has been written to the kernel.
    #[inline]
    pub(super) fn publish(&mut self) {
        // Not without need: the kernel's core has this line.
        if self.shown != self.own {
            self.shown = self.own;
            self.shared.producer().store(self.own, Ordering::Release);
        }
    }

    /// Entries that the kernel has not read.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        self.own.wrapping_sub(self.shared.consumer().load(Ordering::Acquire))
    }

    /// Has the kernel to be told that there is something to read?
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel writes and we read.
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    /// Entries ever read, modulo 2^32, and of those the ones that the kernel has been given back.
    own: u32,
    shown: u32,
    /// Entries that the kernel had written when we last looked.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    fn new(shared: Shared<T>) -> Consumer<T> {
        Consumer { shared, own: 0, shown: 0, seen: 0 }
    }

    /// The next entry.
    #[inline]
    pub(super) fn get(&mut self) -> Option<T> {
        if self.own == self.seen {
            self.seen = self.shared.producer().load(Ordering::Acquire);
            let ahead = self.seen.wrapping_sub(self.own);
            // More than a ring's worth is not possible; should the kernel say so, there is nothing.
            if ahead == 0 || ahead > self.shared.count {
                self.seen = self.own;
                return None;
            }
        }
        // SAFETY: the kernel wrote it before it moved its counter, and leaves it alone until `publish`.
        let entry = unsafe { self.shared.entry(self.own).read() };
        self.own = self.own.wrapping_add(1);
        Some(entry)
    }

    /// Gives what has been read back to the kernel.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.shown != self.own {
            self.shown = self.own;
            self.shared.consumer().store(self.own, Ordering::Release);
        }
    }

    /// Is there an entry that has not been read?
    #[inline]
    pub(super) fn pending(&self) -> bool {
        self.shared.producer().load(Ordering::Acquire) != self.own
    }
}
