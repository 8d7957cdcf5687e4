//! A worker: one thread's share of the ports, run to completion a batch at a time.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::counters::WorkerCounters;
use crate::drops::Reason;
use crate::path::{Batch, Packet, Stages, inbound, outbound, receive, transmit};
use crate::ring::{RxQueue, TxQueue};
use crate::tables::{Published, Tables};

/// One worker with the ring pairs that it serves.
pub struct Worker {
    number: usize,
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    receive: Vec<RxQueue>,
    transmit: Vec<TxQueue>,
    host: Option<usize>,
    counters: Arc<WorkerCounters>,
}

impl Worker {
    /// Worker `number` (counted from 0) with one ring pair of each port, in the order of the tables' ports. `host` is the
    /// ring pair towards the host stack; without one, what is the host's is dropped.
    pub fn new(
        number: usize,
        tables: &Published,
        ports: Vec<(RxQueue, TxQueue)>,
        host: Option<(RxQueue, TxQueue)>,
    ) -> Worker {
        let host_number = host.is_some().then_some(ports.len());
        let (receive, transmit): (Vec<_>, Vec<_>) = ports.into_iter().chain(host).unzip();
        let counters = Arc::new(WorkerCounters::new(receive.len()));
        Worker {
            number,
            tables: Cache::new(Arc::clone(tables)),
            receive,
            transmit,
            host: host_number,
            counters,
        }
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// The receive queue of port `port`.
    pub fn receive_queue(&mut self, port: usize) -> Option<&mut RxQueue> {
        self.receive.get_mut(port)
    }

    /// The transmit queue of port `port`; the host's follows the last port's.
    pub fn transmit_queue(&mut self, port: usize) -> Option<&mut TxQueue> {
        self.transmit.get_mut(port)
    }

    /// Takes one batch from port `port` all the way. Returns the number of frames.
    #[inline]
    pub fn turn(&mut self, port: usize) -> usize {
        let Worker { number, tables, receive, transmit, host, counters } = self;
        let Some(queue) = receive.get_mut(port) else { return 0 };
        queue.sync();
        let tables: &Tables = tables.load();
        let Some(entry) = tables.ports.get(port) else { return 0 };

        let mut broken = 0;
        let mut batch: Batch<'_> = Batch::new();
        let slots = queue.ring.take(&mut broken, |frame| batch.push(Packet::new(frame)));
        if broken > 0 {
            counters.count_drop(Reason::SlotBroken, broken);
        }
        let received = batch.len();
        if received > 0 {
            if tables.is_spread() {
                receive::look_ahead(&batch, tables);
            }
            let mut stages = Stages::default();
            for packet in &mut batch {
                receive::receive(packet, entry, tables);
                stages.note(packet.next);
            }
            if stages.inbound {
                inbound::open(&mut batch, &mut stages, tables, *number);
            }
            if stages.outbound {
                outbound::encapsulate(&mut batch, tables, *number);
            }
            transmit::transmit(&mut batch, transmit, entry, *host, tables, counters);
            if let Some(counters) = counters.port(port) {
                counters.rx.add(received as u64);
            }
        }
        drop(batch);
        queue.ring.release(slots);
        for queue in transmit.iter_mut() {
            queue.sync();
        }
        received
    }
}
