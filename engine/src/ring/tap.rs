//! A TAP behind rings: the host's end of an Ethernet link whose other station is this program. Both systems have them, and
//! a bridge, a virtual machine or the host itself can stand at the far end.
//!
//! 1. `sync` of the receive side reads frames straight into the free slots' buffers, until none is left or a batch is full;
//! 2. `sync` of the transmit side writes each frame straight from its slots;
//! 3. [`TapPort::reattach`] finds an interface again that had gone, or makes it again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::BATCH;
use super::descriptor::{Received, Sent, receive, send, slots_for, slots_of};
use super::device::Device;
use super::interface::{self, InterfaceError, Kind, Lease, Opened};
use super::port::{Health, Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::{Region, RegionError};
use super::renewal::Renewal;
use super::rx::RxRing;
use super::tx::TxRing;

/// The MTU that a fresh TAP has, in bytes of IP.
const MTU: u32 = 1500;
/// Bytes around an IP packet at most: Ethernet header and two VLAN tags.
const AROUND: usize = 14 + 2 * 4;

/// Why a TAP port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The memory for its rings.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// What a TAP port may be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct TapOptions {
    /// The interface's MTU in bytes of IP; `None` leaves it.
    pub mtu: Option<u32>,
}

/// What is kept of a TAP port: its queues are the workers'.
pub struct TapPort {
    name: String,
    options: TapOptions,
    lease: Arc<Lease>,
    queues: Vec<Ends>,
}

/// Where both ends of a queue look for a new descriptor, and what they tell.
struct Ends {
    device: Arc<Device>,
    rx: Arc<Renewal<Arc<Tap>>>,
    tx: Arc<Renewal<Arc<Tap>>>,
}

/// What a pair of queues shares. The descriptor is closed first: where the lease has to end the interface, it waits for that.
struct Tap {
    descriptor: OwnedFd,
    _lease: Arc<Lease>,
}

impl Port {
    /// A port that is a station on the Ethernet link behind the host's TAP interface `name`, which is taken over where it
    /// exists and otherwise lives as long as the port. It is brought up. Claims two rings of the region for each queue.
    ///
    /// # Errors
    /// [`InterfaceError`] when the interface cannot be had, [`RegionError::Exhausted`] without rings.
    pub fn tap(
        region: &Arc<Region>,
        name: &str,
        queues: usize,
        options: TapOptions,
    ) -> Result<(Port, TapPort), TapError> {
        let opened = open(name, queues, options)?;
        let longest = options.mtu.unwrap_or(MTU).max(MTU) as usize + AROUND;
        let mut port = Port { queues: Vec::with_capacity(queues) };
        let mut held =
            TapPort { name: opened.name, options, lease: Arc::new(opened.lease), queues: Vec::new() };
        for descriptor in opened.descriptors {
            let tap = Arc::new(Tap { descriptor, _lease: Arc::clone(&held.lease) });
            let (pair, ends) = pair(region, tap, longest)?;
            port.queues.push(pair);
            held.queues.push(ends);
        }
        interface::bring_up(&held.name)?;
        Ok((port, held))
    }
}

fn open(name: &str, queues: usize, options: TapOptions) -> Result<Opened, InterfaceError> {
    let opened = interface::open(Kind::Tap, name, queues)?;
    if let Some(mtu) = options.mtu {
        interface::set_mtu(&opened.name, mtu)?;
    }
    Ok(opened)
}

impl TapPort {
    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does the interface live as long as the port? Another one stays, and goes, as somebody else likes.
    pub fn is_ours(&self) -> bool {
        self.lease.is_ours()
    }

    /// Is the interface there?
    pub fn health(&self) -> Health {
        let gone = |ends: &Ends| ends.device.is_gone() && !ends.rx.is_ready() && !ends.tx.is_ready();
        if self.queues.iter().any(gone) { Health::Departed } else { Health::Attached }
    }

    /// What each queue counts.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.queues.iter().map(|ends| &ends.device)
    }

    /// Takes hold of an interface that had departed and is there again, or makes it again, with the same ring pairs, wherever they
    /// are: they change over at their next sync. Does nothing unless [`TapPort::health`] is [`Health::Departed`].
    ///
    /// # Errors
    /// As for [`Port::tap`]; nothing is changed then, and it can be tried again.
    pub fn reattach(&mut self) -> Result<(), TapError> {
        if self.health() != Health::Departed {
            return Ok(());
        }
        // Whoever drops the old one's last descriptor must not take the new one for it.
        self.lease.give_up();
        let opened = open(&self.name, self.queues.len(), self.options)?;
        interface::bring_up(&self.name)?;
        self.lease = Arc::new(opened.lease);
        for (descriptor, ends) in opened.descriptors.into_iter().zip(&self.queues) {
            let tap = Arc::new(Tap { descriptor, _lease: Arc::clone(&self.lease) });
            ends.rx.offer(Arc::clone(&tap));
            ends.tx.offer(tap);
        }
        Ok(())
    }
}

fn pair(
    region: &Arc<Region>,
    tap: Arc<Tap>,
    longest: usize,
) -> Result<((RxQueue, TxQueue), Ends), RegionError> {
    let rx = RxRing::new(region.claim_ring(false, true)?);
    let tx = TxRing::new(region.claim_ring(true, true)?);
    let ends = Ends { device: Arc::default(), rx: Renewal::new(), tx: Renewal::new() };
    let slots = slots_for(&rx.raw, longest);
    let (device, renewal) = (Arc::clone(&ends.device), Arc::clone(&ends.rx));
    let source = TapRx { tap: Arc::clone(&tap), device, renewal, slots, at: 0 };
    let (device, renewal) = (Arc::clone(&ends.device), Arc::clone(&ends.tx));
    let sink = TapTx { tap, device, renewal, at: 0 };
    let rx = RxQueue { ring: rx, source: Source::Tap(source) };
    Ok(((rx, TxQueue { ring: tx, sink: Sink::Tap(sink) }), ends))
}

/// Changes over to a new descriptor, where one is there.
#[inline]
fn renew(tap: &mut Arc<Tap>, renewal: &Renewal<Arc<Tap>>, device: &Device) {
    if renewal.is_ready()
        && let Some(new) = renewal.take()
    {
        *tap = new;
        device.set_back();
    }
}

/// What the host sends through a TAP.
pub(super) struct TapRx {
    tap: Arc<Tap>,
    device: Arc<Device>,
    renewal: Arc<Renewal<Arc<Tap>>>,
    /// Slots offered to the next frame.
    slots: u32,
    /// Where the next received slot goes.
    at: u32,
}

impl TapRx {
    pub(super) fn sync(&mut self, ring: &RawRing) {
        renew(&mut self.tap, &self.renewal, &self.device);
        if self.device.is_gone() {
            return;
        }
        let end = ring.previous(ring.head());
        for _ in 0..BATCH {
            if ring.distance(self.at, end) < self.slots {
                break;
            }
            match receive(self.tap.descriptor.as_fd(), Kind::Tap, ring, self.at, self.slots, 0) {
                Received::Frame(slots) => self.at = ring.ahead(self.at, slots),
                Received::Nothing => break,
                Received::Broken => {
                    self.device.receive_dropped.add(1);
                    // Somebody has raised the interface's MTU: the next one will fit.
                    self.slots = (2 * self.slots).min(ring.most_free());
                }
                Received::Gone => {
                    self.device.set_gone();
                    break;
                }
            }
        }
        ring.set_tail(self.at);
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Readable when there is a frame. A descriptor whose interface is gone would be, always, so it is not shown.
    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.device.is_gone()).then(|| self.tap.descriptor.as_fd())
    }
}

/// What is sent to the host through a TAP.
pub(super) struct TapTx {
    tap: Arc<Tap>,
    device: Arc<Device>,
    renewal: Arc<Renewal<Arc<Tap>>>,
    /// The first slot that has not gone out yet.
    at: u32,
}

impl TapTx {
    /// Sends all that is queued; what the interface does not take at once is dropped, as on a wire without flow control.
    pub(super) fn sync(&mut self, ring: &RawRing) {
        renew(&mut self.tap, &self.renewal, &self.device);
        let head = ring.head();
        while self.at != head {
            let slots = slots_of(ring, self.at, head);
            let sent = if self.device.is_gone() {
                Sent::Gone
            } else {
                send(self.tap.descriptor.as_fd(), Kind::Tap, ring, self.at, slots)
            };
            match sent {
                Sent::Whole => {}
                Sent::Refused => self.device.transmit_dropped.add(1),
                Sent::Gone => {
                    self.device.transmit_dropped.add(1);
                    self.device.set_gone();
                }
            }
            self.at = ring.ahead(self.at, slots);
        }
        ring.set_tail(ring.previous(self.at));
    }
}
