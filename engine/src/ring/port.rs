//! A port: ring pairs and what stands behind them. The packet path sees rings; only `sync` differs from port to port,
//! and it is called once a batch.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::capture::{CaptureRx, CaptureTx};
use super::device::Device;
use super::memory::{WireRx, WireTx};
use super::netmap::{NetmapRx, NetmapTx};
use super::region::{Region, RegionError};
use super::rx::RxRing;
use super::tap::{TapRx, TapTx};
use super::tun::{TunRx, TunTx};
use super::tx::TxRing;
#[cfg(target_os = "linux")]
use super::xdp::{XdpRx, XdpTx};

/// What is known of the device behind a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It sends and receives.
    Attached,
    /// It is there, but has been set down; it resumes by itself.
    Down,
    /// It is gone, and has to be taken hold of again where it comes back.
    Departed,
}

/// A set of ring pairs, each to be given to one worker.
pub struct Port {
    /// A receive queue and a transmit queue for each worker.
    pub queues: Vec<(RxQueue, TxQueue)>,
}

impl Port {
    /// A port whose received frames come from `source` and whose sent frames go to `sink`.
    ///
    /// # Errors
    /// [`RegionError::Exhausted`] when the region has fewer than two rings left.
    pub fn capture(region: &Arc<Region>, source: CaptureRx, sink: CaptureTx) -> Result<Port, RegionError> {
        let rx = RxRing::new(region.claim_ring(false, true)?);
        let tx = TxRing::new(region.claim_ring(true, true)?);
        let rx = RxQueue { ring: rx, source: Source::Capture(Box::new(source)) };
        let tx = TxQueue { ring: tx, sink: Sink::Capture(Box::new(sink)) };
        Ok(Port { queues: vec![(rx, tx)] })
    }
}

pub(super) enum Source {
    Wire(WireRx),
    Capture(Box<CaptureRx>),
    Netmap(Box<NetmapRx>),
    #[cfg(target_os = "linux")]
    Xdp(Box<XdpRx>),
    Tap(TapRx),
    Tun(Box<TunRx>),
}

pub(super) enum Sink {
    Wire(WireTx),
    Capture(Box<CaptureTx>),
    Netmap(Box<NetmapTx>),
    #[cfg(target_os = "linux")]
    Xdp(Box<XdpTx>),
    Tap(TapTx),
    Tun(Box<TunTx>),
}

/// A receive ring with its backend.
pub struct RxQueue {
    /// The ring.
    pub ring: RxRing,
    pub(super) source: Source,
}

impl RxQueue {
    /// Gives released slots back and learns of newly received frames.
    #[inline]
    pub fn sync(&mut self) {
        match &mut self.source {
            Source::Wire(wire) => wire.sync(&self.ring.raw),
            Source::Capture(capture) => capture.sync(&self.ring.raw),
            Source::Netmap(netmap) => {
                if let Some(mut new) = netmap.renewed() {
                    new.ring.count_copies_in(self.ring.copies());
                    *self = new;
                    return self.sync();
                }
                netmap.sync(&self.ring.raw);
                self.ring.refresh();
            }
            #[cfg(target_os = "linux")]
            Source::Xdp(xdp) => xdp.sync(&self.ring.raw),
            Source::Tap(tap) => tap.sync(&self.ring.raw),
            Source::Tun(tun) => tun.sync(&self.ring.raw),
        }
    }

    /// The capture file behind this queue, if that is what it is.
    pub fn capture_mut(&mut self) -> Option<&mut CaptureRx> {
        match &mut self.source {
            Source::Capture(capture) => Some(capture),
            _ => None,
        }
    }

    /// What a thread can wait on (readable) until more is received; `None` where it has to look.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Wire(_) | Source::Capture(_) => None,
            Source::Tap(tap) => tap.wait_fd(),
            Source::Tun(tun) => tun.wait_fd(),
            Source::Netmap(netmap) => netmap.wait_fd(),
            #[cfg(target_os = "linux")]
            Source::Xdp(xdp) => Some(xdp.wait_fd()),
        }
    }

    /// Is the device behind this queue still there? May cost a system call.
    pub fn health(&self) -> Health {
        match &self.source {
            Source::Wire(_) | Source::Capture(_) => Health::Attached,
            Source::Tap(tap) => tap.device().state(),
            Source::Tun(tun) => tun.device().state(),
            Source::Netmap(netmap) => netmap.health(),
            #[cfg(target_os = "linux")]
            Source::Xdp(xdp) => xdp.health(),
        }
    }

    /// What the interfaces behind this queue and its transmit queue could not take or give; for TAP and TUN.
    pub fn device(&self) -> Option<&Arc<Device>> {
        match &self.source {
            Source::Tap(tap) => Some(tap.device()),
            Source::Tun(tun) => Some(tun.device()),
            _ => None,
        }
    }

    /// Is anything received, or about to be, that [`RxRing::take`] has not lent out?
    pub fn pending(&self) -> bool {
        self.ring.available() > 0
            || match &self.source {
                Source::Wire(wire) => wire.pending(),
                Source::Capture(capture) => capture.peek().is_some(),
                // Only a sync could tell.
                Source::Netmap(_) => false,
                #[cfg(target_os = "linux")]
                Source::Xdp(xdp) => xdp.pending(),
                // What the system still holds shows by `wait_fd`.
                Source::Tap(_) | Source::Tun(_) => false,
            }
    }
}

/// A transmit ring with its backend.
pub struct TxQueue {
    /// The ring.
    pub ring: TxRing,
    pub(super) sink: Sink,
}

impl TxQueue {
    /// Sends what is queued and learns which slots are free again.
    #[inline]
    pub fn sync(&mut self) {
        if let Sink::Netmap(netmap) = &self.sink
            && let Some(mut new) = netmap.renewed()
        {
            // Whoever reads what was copied reads there.
            new.ring.count_copies_in(self.ring.copies());
            *self = new;
        }
        self.ring.commit();
        match &mut self.sink {
            Sink::Wire(wire) => wire.sync(&self.ring.raw),
            Sink::Capture(capture) => capture.sync(&self.ring.raw),
            Sink::Netmap(netmap) => netmap.sync(&self.ring.raw),
            #[cfg(target_os = "linux")]
            Sink::Xdp(xdp) => xdp.sync(&self.ring.raw),
            Sink::Tap(tap) => tap.sync(&self.ring.raw),
            Sink::Tun(tun) => tun.sync(&self.ring.raw),
        }
        self.ring.refresh();
        if let Sink::Netmap(netmap) = &mut self.sink {
            self.ring.limit(netmap.usable_slots(&self.ring.raw));
        }
    }

    /// Is anything queued that the other side has not taken? It goes with a later [`TxQueue::sync`], so a thread that is about
    /// to sleep should not for long.
    pub fn pending(&self) -> bool {
        let raw = &self.ring.raw;
        match &self.sink {
            Sink::Wire(_) | Sink::Capture(_) | Sink::Tap(_) | Sink::Tun(_) | Sink::Netmap(_) => {
                raw.next(raw.tail()) != raw.head()
            }
            #[cfg(target_os = "linux")]
            Sink::Xdp(xdp) => xdp.pending(),
        }
    }

    /// Is something on a wire that its far end has not taken? Whoever is there may have to be woken.
    #[inline]
    pub fn is_unread(&self) -> bool {
        matches!(&self.sink, Sink::Wire(wire) if wire.is_unread())
    }

    /// The capture file behind this queue, if that is what it is.
    pub fn capture_mut(&mut self) -> Option<&mut CaptureTx> {
        match &mut self.sink {
            Sink::Capture(capture) => Some(capture),
            _ => None,
        }
    }
}
