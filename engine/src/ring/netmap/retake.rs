//! An interface that departed and is there again (a USB card pulled and put in, a driver loaded anew): it is opened as the first time,
//! and its queues take the place of those that workers have, each at its next sync.

use std::sync::{Arc, Weak};

use super::kernel::Kernel;
use super::{NetmapError, NetmapFacts, NetmapHold, NetmapMemory, NetmapOptions, NetmapPort, System, open_in};
use crate::ring::offload::OffloadGuard;
use crate::ring::port::{Port, RxQueue, Sink, Source, TxQueue};
use crate::ring::renewal::Renewal;

/// Where both directions of a pair of queues look for others.
pub(super) struct Ends {
    rx: Arc<Renewal<RxQueue>>,
    tx: Arc<Renewal<TxQueue>>,
}

/// What is kept of an open port: its queues are the workers'.
pub struct NetmapControl {
    pub(super) name: String,
    pub(super) options: NetmapOptions,
    pub(super) memory: NetmapMemory,
    /// The interface's number when it was opened; `None` where there is none.
    pub(super) index: Option<u32>,
    /// Keeps all the port's queues away from the kernel, wherever they are.
    pub hold: NetmapHold,
    /// The queues'.
    pub(super) guard: Weak<Option<OffloadGuard>>,
    /// The NIC's, then the host's.
    pub(super) ends: Vec<Ends>,
}

/// Where the queues of these ports look for others.
pub(super) fn ends<'p>(ports: impl IntoIterator<Item = &'p Port>) -> Vec<Ends> {
    let pairs = ports.into_iter().flat_map(|port| &port.queues);
    let ends = pairs.filter_map(|(rx, tx)| match (&rx.source, &tx.sink) {
        (Source::Netmap(source), Sink::Netmap(sink)) => {
            Some(Ends { rx: Arc::clone(&source.renewal), tx: Arc::clone(&sink.renewal) })
        }
        _ => None,
    });
    ends.collect()
}

impl NetmapControl {
    /// Has the port become unusable, or is another interface there under its name?
    pub fn has_departed(&self) -> bool {
        self.has_departed_in(&System)
    }

    pub(super) fn has_departed_in(&self, kernel: &dyn Kernel) -> bool {
        let now = || kernel.interface(&self.name).ok().flatten().map(|interface| interface.index);
        self.hold.is_lost() || self.index.is_some_and(|index| now().is_some_and(|now| now != index))
    }

    /// Takes hold of a port that has departed and is there again under its name, in the memory that it was in where that is
    /// still there. Its queues change over at their next sync, wherever they are; what they had not sent is lost.
    ///
    /// # Errors
    /// As for [`NetmapPort::open`]; nothing is changed then, and it can be tried again. So it is where the interface has another
    /// number of rings than before.
    pub fn retake(&mut self) -> Result<NetmapFacts, NetmapError> {
        self.retake_in(&System)
    }

    pub(super) fn retake_in(&mut self, kernel: &dyn Kernel) -> Result<NetmapFacts, NetmapError> {
        // It knows the interface by its name: dropped later, it would switch on what the next one has switched off.
        self.guard.upgrade().iter().flat_map(|guard| &**guard).for_each(OffloadGuard::give_up);
        let open = |memory| open_in(kernel, &self.name, &self.options, memory);
        let opened = open(Some(&self.memory)).or_else(|error| match error {
            NetmapError::Refused { .. } => open(None),
            error => Err(error),
        })?;
        let NetmapPort { nic, host, facts, control, .. } = opened;
        if control.ends.len() != self.ends.len() {
            let name = self.name.clone();
            return Err(NetmapError::Layout { name, what: "it has another number of rings than it had" });
        }
        let pairs = nic.queues.into_iter().chain(host.into_iter().flat_map(|host| host.queues));
        for ((mut rx, mut tx), ends) in pairs.zip(&self.ends) {
            if let (Source::Netmap(source), Sink::Netmap(sink)) = (&mut rx.source, &mut tx.sink) {
                (source.renewal, sink.renewal) = (Arc::clone(&ends.rx), Arc::clone(&ends.tx));
            }
            ends.rx.offer(rx);
            ends.tx.offer(tx);
        }
        let ends = std::mem::take(&mut self.ends);
        *self = NetmapControl { ends, ..control };
        Ok(facts)
    }
}
