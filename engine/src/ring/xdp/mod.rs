//! AF_XDP ports (Linux): the buffers of a region are the sockets' memory, so frames are swapped between such ports and all
//! others of the region, and an XDP program takes from the interface what is the engine's and leaves the rest to the host.
//!
//! 1. [`Umem::new`] takes a region's buffers for all AF_XDP ports.
//! 2. [`XdpPort::open`] makes a socket for each receive queue, loads the program and attaches it by a link, which the kernel
//!    cuts when the process ends, however it ends.
//! 3. The workers take the ring pairs; who opened the port keeps the [`XdpPort`], and tells the [`Steering`] what is ours.
//! 4. [`XdpPort::reattach`] finds an interface again that had gone; dropping the [`XdpPort`] gives it back.

mod assembler;
mod bpf;
mod error;
mod interface;
mod program;
mod queue;
mod socket;
mod steering;
#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::port::{Health, Port, RxQueue, Sink, Source, TxQueue};
use super::renewal::Renewal;
use super::rx::RxRing;
use super::tx::TxRing;
use bpf::{Kind, Link, Map, Program};
pub use error::XdpError;
use interface::Interface;
pub use program::Encapsulation;
use queue::{RxRings, TxRings};
pub(super) use queue::{XdpRx, XdpTx};
use socket::Socket;
pub use socket::Umem;
pub use steering::Steering;

/// Bytes that the kernel leaves free in front of a received frame (`XDP_PACKET_HEADROOM`); more than [`super::HEADROOM`].
const PACKET_HEADROOM: u32 = 256;
/// Bytes around an IP packet in a frame: an Ethernet header with one VLAN tag.
const FRAME_OVERHEAD: u32 = 18;

/// Rings of its region that a port takes for each queue.
pub const RINGS_PER_QUEUE: usize = 2;

/// How long a queue may be held by another socket before that is somebody else's.
const STILL_HELD: Duration = Duration::from_secs(2);

/// How many ring pairs a port of that interface has: one for each of its receive queues.
///
/// # Errors
/// There is no such interface, or it is not Ethernet's.
pub fn queues(interface: &str) -> Result<usize, XdpError> {
    Interface::find(interface).map(|found| found.queues as usize)
}

/// What of an interface's frames the engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Take {
    /// What the port's [`Steering`] says.
    #[default]
    Steered,
    /// Every frame, to whatever station: the interface is set promiscuous, and the host has nothing of it. For bridged ports.
    Everything,
}

/// How a port is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct XdpOptions {
    /// Ring pairs; `None`: as many as the interface has receive queues. Another number is refused, since what came in on a
    /// queue without a ring pair would be the host's, whatever it is.
    pub queues: Option<u32>,
    /// What the engine takes.
    pub take: Take,
}

/// Where the XDP program runs.
enum Hook {
    /// In the driver.
    Native,
    /// Behind the driver, where that refuses it: slower.
    Generic(io::Error),
}

/// What the sockets of a port, and the kernel, count beside packets. All since the port was opened, or last
/// [reattached](XdpPort::reattach).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpStatistics {
    /// Frames that were ours and found no buffer or no place in the receive ring, or were too long for a buffer.
    pub rx_dropped: u64,
    /// Of those, frames for which the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the driver found no buffer to receive into.
    pub rx_no_buffer: u64,
    /// Descriptors that the kernel would not send. Each costs a buffer; there should be none.
    pub tx_invalid: u64,
    /// Frames that were not sent as they take several slots, or are shorter than an Ethernet header.
    pub tx_unsendable: u64,
    /// Entries in rings that made no sense and were not followed. There should be none.
    pub broken: u64,
    /// Buffers that the kernel has to receive into: when all is at rest, one less than there are slots in receive rings.
    pub rx_lent: u64,
    /// Buffers that the kernel has to send from: when all is at rest, none.
    pub tx_lent: u64,
}

/// An interface held by AF_XDP sockets and an XDP program. Dropping it detaches the program: from then on all frames are
/// the host's again. Do so before the ring pairs are dropped, or nobody takes out what is still redirected.
pub struct XdpPort {
    attached: Attached,
    steering: Option<Steering>,
    renewals: Vec<Renewals>,
    umem: Arc<Umem>,
}

/// Where both ends of a queue look for a new socket.
type Renewals = (Arc<Renewal<RxRings>>, Arc<Renewal<TxRings>>);

/// What holds an interface. The link comes first, so that it is dropped first.
struct Attached {
    _link: Link,
    _promiscuous: Option<OwnedFd>,
    places: Map<4>,
    sockets: Vec<Arc<Socket>>,
    interface: Interface,
    hook: Hook,
}

impl Attached {
    /// Binds the sockets and attaches the program, which redirects nothing before [`Attached::redirect`].
    fn new(
        umem: &Umem,
        interface: Interface,
        steering: Option<&Steering>,
    ) -> Result<(Attached, Vec<(RxRings, TxRings)>), XdpError> {
        let entries = umem.region().slots().next_power_of_two();
        let (mut sockets, mut rings) = (Vec::new(), Vec::new());
        for queue in 0..interface.queues {
            let (socket, both) = patiently(|| umem.open(interface.index, queue, entries))
                .map_err(|source| error::of_socket(source, &interface.name, queue))?;
            sockets.push(socket);
            rings.push(both);
        }
        let places = Map::new(Kind::Sockets, interface.queues, "culvert_sockets")
            .map_err(|source| XdpError::system("making a map of sockets", source))?;
        let program = load(&places, steering)?;
        let (link, hook) = attach(&program, &interface)?;
        let promiscuous = match steering {
            Some(_) => None,
            None => Some(
                interface::promiscuous(interface.index)
                    .map_err(|source| XdpError::system("setting the interface promiscuous", source))?,
            ),
        };
        Ok((Attached { _link: link, _promiscuous: promiscuous, places, sockets, interface, hook }, rings))
    }

    /// From here on, what is ours goes to the sockets.
    fn redirect(&self) -> Result<(), XdpError> {
        for (queue, socket) in (0..).zip(&self.sockets) {
            self.places
                .set_socket(queue, socket.as_fd())
                .map_err(|source| XdpError::system("directing packets to the sockets", source))?;
        }
        Ok(())
    }
}

impl XdpPort {
    /// Opens an interface: ring pairs from the UMEM's region ([`RINGS_PER_QUEUE`] for each queue), and what is kept to manage
    /// them. The interface need not be up. Zero-copy and the driver's own XDP hook are used where there are any.
    ///
    /// # Errors
    /// What is in the way, and what to do about it; nothing is left behind then but rings that had been taken from the region
    /// when it ran out of them.
    pub fn open(umem: &Arc<Umem>, interface: &str, options: XdpOptions) -> Result<(Port, XdpPort), XdpError> {
        let found = Interface::find(interface)?;
        check_size(&found, umem, options.queues)?;
        let steering = match options.take {
            Take::Steered => Some(Steering::new()?),
            Take::Everything => None,
        };
        let (attached, rings) = Attached::new(umem, found, steering.as_ref())?;

        let mut port = Port { queues: Vec::with_capacity(rings.len()) };
        let mut renewals = Vec::with_capacity(rings.len());
        for (receiving, sending) in rings {
            let rx = umem.region().claim_ring(false, true)?;
            let tx = umem.region().claim_ring(true, true)?;
            let (source, sink) = (XdpRx::new(receiving, &rx), XdpTx::new(sending, &tx));
            renewals.push((Arc::clone(&source.renewal), Arc::clone(&sink.renewal)));
            let mut rx = RxQueue { ring: RxRing::new(rx), source: Source::Xdp(Box::new(source)) };
            // Lends the buffers to receive into, before anything is redirected.
            rx.sync();
            port.queues.push((rx, TxQueue { ring: TxRing::new(tx), sink: Sink::Xdp(Box::new(sink)) }));
        }
        attached.redirect()?;
        Ok((port, XdpPort { attached, steering, renewals, umem: Arc::clone(umem) }))
    }

    /// Takes hold of an interface that had departed and is there again under its name, with the same ring pairs, wherever they
    /// are: they change over at their next sync, and what they had not sent is lost. What is ours stays as it was set. Does
    /// nothing unless [`XdpPort::health`] is [`Health::Departed`].
    ///
    /// # Errors
    /// As for [`XdpPort::open`]; nothing is changed then, and it can be tried again.
    pub fn reattach(&mut self) -> Result<(), XdpError> {
        if self.health() != Health::Departed {
            return Ok(());
        }
        let found = Interface::find(&self.attached.interface.name)?;
        check_size(&found, &self.umem, Some(self.attached.interface.queues))?;
        let (attached, rings) = Attached::new(&self.umem, found, self.steering.as_ref())?;
        attached.redirect()?;
        for ((receiving, sending), (rx, tx)) in rings.into_iter().zip(&self.renewals) {
            rx.offer(receiving);
            tx.offer(sending);
        }
        self.attached = attached;
        Ok(())
    }

    /// The interface's name when it was opened.
    pub fn interface(&self) -> &str {
        &self.attached.interface.name
    }

    /// The interface's number, which stays when it is renamed.
    pub fn index(&self) -> u32 {
        self.attached.interface.index
    }

    /// The interface's address when it was opened.
    pub fn mac(&self) -> [u8; 6] {
        self.attached.interface.mac
    }

    /// The interface's MTU when it was opened, bytes of IP.
    pub fn mtu(&self) -> u32 {
        self.attached.interface.mtu
    }

    /// Does the device take VLAN tags off received frames, as most do unless told otherwise? The program then takes tagged
    /// frames for untagged ones: on a port with VLANs, say `ethtool -K INTERFACE rxvlan off`.
    ///
    /// # Errors
    /// [`XdpError::System`] when the system does not say.
    pub fn strips_tags(&self) -> Result<bool, XdpError> {
        interface::strips_tags(&self.attached.interface.name)
            .map_err(|source| XdpError::system("asking for the interface's offloads", source))
    }

    /// Do all queues receive into our buffers, and send from them, without a copy by the kernel?
    pub fn is_zero_copy(&self) -> bool {
        self.attached.sockets.iter().all(|socket| socket.is_zero_copy())
    }

    /// How the port works, for people: `native, zero-copy`, or `generic (native: Operation not supported), copy`.
    pub fn mode(&self) -> String {
        let copies = if self.is_zero_copy() { "zero-copy" } else { "copy" };
        match &self.attached.hook {
            Hook::Native => format!("native, {copies}"),
            Hook::Generic(refusal) => format!("generic (native: {refusal}), {copies}"),
        }
    }

    /// What the program takes for the engine; `None` where it takes everything.
    pub fn steering(&mut self) -> Option<&mut Steering> {
        self.steering.as_mut()
    }

    /// Is the interface still there, and up? Costs a system call for each queue.
    pub fn health(&self) -> Health {
        self.attached.sockets.iter().map(|socket| socket.health()).max().unwrap_or(Health::Departed)
    }

    /// What has been counted, added up over all queues.
    ///
    /// # Errors
    /// [`XdpError::System`] when the kernel does not say.
    pub fn statistics(&self) -> Result<XdpStatistics, XdpError> {
        let mut sum = XdpStatistics::default();
        for socket in &self.attached.sockets {
            let kernel = socket
                .statistics()
                .map_err(|source| XdpError::system("reading a socket's counters", source))?;
            sum.rx_dropped += kernel.rx_dropped + kernel.rx_ring_full;
            sum.rx_ring_full += kernel.rx_ring_full;
            sum.rx_no_buffer += kernel.rx_fill_ring_empty_descs;
            sum.tx_invalid += kernel.tx_invalid_descs;
            sum.tx_unsendable += socket.unsendable.load(Ordering::Relaxed);
            sum.broken += socket.broken.load(Ordering::Relaxed);
            sum.rx_lent += socket.receiving.load(Ordering::Relaxed);
            sum.tx_lent += socket.sending.load(Ordering::Relaxed);
        }
        Ok(sum)
    }
}

/// The kernel gives a queue up some time after the process that held it has ended, so that one that was killed and is started again at
/// once finds its own queues held.
fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + STILL_HELD;
    loop {
        match open() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(STILL_HELD / 100);
            }
            opened => return opened,
        }
    }
}

/// Do frames fit the buffers, and ring pairs the queues?
fn check_size(found: &Interface, umem: &Umem, queues: Option<u32>) -> Result<(), XdpError> {
    let most = umem.region().buffer_size() - PACKET_HEADROOM - FRAME_OVERHEAD;
    if found.mtu > most {
        return Err(XdpError::Mtu { interface: found.name.clone(), mtu: found.mtu, most });
    }
    match queues {
        Some(wanted) if wanted != found.queues => {
            Err(XdpError::Queues { interface: found.name.clone(), has: found.queues, wanted })
        }
        _ => Ok(()),
    }
}

fn load(sockets: &Map<4>, steering: Option<&Steering>) -> Result<Program, XdpError> {
    let code = match steering {
        Some(steering) => program::steering(sockets, steering.maps()),
        None => program::everything(sockets),
    };
    let code = code.ok_or_else(|| XdpError::Program {
        source: io::ErrorKind::InvalidInput.into(),
        log: "a jump leads nowhere".to_owned(),
    })?;
    Program::load(&code, "culvert").map_err(|refused| match refused.source.raw_os_error() {
        Some(libc::EPERM) => XdpError::Permission { what: "loading an XDP program" },
        _ => XdpError::Program { source: refused.source, log: refused.log },
    })
}

/// Attaches in the driver where it can, and behind it where it cannot.
fn attach(program: &Program, found: &Interface) -> Result<(Link, Hook), XdpError> {
    let native = match program.attach(found.index, bpf::NATIVE) {
        Ok(link) => return Ok((link, Hook::Native)),
        Err(error) => error,
    };
    let held = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST));
    if !held(&native)
        && let Ok(link) = program.attach(found.index, bpf::GENERIC)
    {
        return Ok((link, Hook::Generic(native)));
    }
    Err(match native.raw_os_error() {
        _ if held(&native) => XdpError::ProgramAttached { interface: found.name.clone() },
        Some(libc::ENODEV) => XdpError::NoInterface { interface: found.name.clone() },
        _ => XdpError::system("attaching an XDP program", native),
    })
}
