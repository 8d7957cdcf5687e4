//! A TAP behind rings: the host's end of an Ethernet link whose other station is this program. Both systems have them, and
//! a bridge, a virtual machine or the host itself can stand at the far end.
//!
//! 1. `sync` of the receive side reads frames straight into the free slots' buffers, until none is left or a batch is full;
//! 2. `sync` of the transmit side writes each frame straight from its slots.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::BATCH;
use super::descriptor::{Received, Sent, receive, send, slots_for, slots_of};
use super::device::Device;
use super::interface::{self, InterfaceError, Kind, Lease};
use super::port::{Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::{Region, RegionError};
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

/// What a pair of queues shares. The descriptor is closed first: where the lease has to end the interface, it waits for that.
struct Tap {
    descriptor: OwnedFd,
    _lease: Arc<Lease>,
}

impl Port {
    /// A port that is a station on the Ethernet link behind the host's TAP interface `name`, which is taken over where it
    /// exists and otherwise lives as long as the port. It is brought up. Claims two rings of the region for each queue. The
    /// second value is the interface's name.
    ///
    /// # Errors
    /// [`InterfaceError`] when the interface cannot be had, [`RegionError::Exhausted`] without rings.
    pub fn tap(
        region: &Arc<Region>,
        name: &str,
        queues: usize,
        options: TapOptions,
    ) -> Result<(Port, String), TapError> {
        let opened = interface::open(Kind::Tap, name, queues)?;
        if let Some(mtu) = options.mtu {
            interface::set_mtu(&opened.name, mtu)?;
        }
        let longest = options.mtu.unwrap_or(MTU).max(MTU) as usize + AROUND;
        let lease = Arc::new(opened.lease);
        let mut port = Port { queues: Vec::with_capacity(queues) };
        for descriptor in opened.descriptors {
            let tap = Arc::new(Tap { descriptor, _lease: Arc::clone(&lease) });
            port.queues.push(pair(region, tap, longest)?);
        }
        interface::bring_up(&opened.name)?;
        Ok((port, opened.name))
    }
}

fn pair(region: &Arc<Region>, tap: Arc<Tap>, longest: usize) -> Result<(RxQueue, TxQueue), RegionError> {
    let rx = RxRing::new(region.claim_ring(false, true)?);
    let tx = TxRing::new(region.claim_ring(true, true)?);
    let device = Arc::new(Device::default());
    let slots = slots_for(&rx.raw, longest);
    let source = TapRx { tap: Arc::clone(&tap), device: Arc::clone(&device), slots, at: 0 };
    let sink = TapTx { tap, device, at: 0 };
    Ok((RxQueue { ring: rx, source: Source::Tap(source) }, TxQueue { ring: tx, sink: Sink::Tap(sink) }))
}

/// What the host sends through a TAP.
pub(super) struct TapRx {
    tap: Arc<Tap>,
    device: Arc<Device>,
    /// Slots offered to the next frame.
    slots: u32,
    /// Where the next received slot goes.
    at: u32,
}

impl TapRx {
    pub(super) fn sync(&mut self, ring: &RawRing) {
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
    /// The first slot that has not gone out yet.
    at: u32,
}

impl TapTx {
    /// Sends all that is queued; what the interface does not take at once is dropped, as on a wire without flow control.
    pub(super) fn sync(&mut self, ring: &RawRing) {
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
