//! A router with several workers and one SA in each direction, all far ends of its wires in the test's hands.

use std::sync::Arc;

use culvert_engine::counters::{TunnelCounterBank, WorkerCounters};
use culvert_engine::drops::Reason;
use culvert_engine::esp::InboundSa;
use culvert_engine::fan_out::{FAN_OUT_BUFFERS, fan_out};
use culvert_engine::ring::{self, Port, RINGS_PER_QUEUE, Region, SPARE_PER_QUEUE};
use culvert_engine::tables::{Tables, TablesSpec};
use culvert_engine::worker::Worker;

use super::{Far, HOST, LAN, Plan, WAN};

/// Slots in each ring.
pub(crate) const SLOTS: u32 = 1024;

/// The router.
pub(crate) struct Several {
    /// For each worker the far ends of its LAN and WAN wires.
    pub(crate) far: Vec<[Far; 2]>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) inbound: Arc<InboundSa>,
}

impl Several {
    /// Router `number`, with one SA in each direction.
    pub(crate) fn new(plan: &Plan, number: u8, workers: usize) -> Several {
        let wires = 3 * workers + workers * (workers - 1) / 2;
        let spare = wires as u32 * SPARE_PER_QUEUE + workers as u32 * FAN_OUT_BUFFERS;
        let region = Region::new(wires * RINGS_PER_QUEUE, SLOTS, 2048, spare, false).expect("a region");
        let wire =
            |offsets| -> (Port, Port) { ring::wire(&region, workers, offsets).expect("rings for a port") };
        let (lan, lan_far) = wire(plan.offsets.0);
        let (wan, wan_far) = wire(plan.offsets.1);
        let (host, _) = wire(false);
        let peers = ring::mesh(&region, workers).expect("rings between workers");
        let parts = fan_out(&region, workers).expect("buffers for the fan-out");
        let sas = plan.sas(number).expect("a plan with ESP");
        let mut spec = super::spec(plan, number, Some(plan.protection(&sas)));
        for tunnel in &mut spec.tunnels {
            tunnel.counters = TunnelCounterBank::new(workers).take();
        }
        let tables = Tables::build(TablesSpec { workers, ..spec }).expect("tables").publish();
        let queues = lan.queues.into_iter().zip(wan.queues).zip(host.queues);
        let workers: Vec<Worker> = queues
            .zip(peers.into_iter().zip(parts))
            .enumerate()
            .map(|(number, (((lan, wan), host), (peers, part)))| {
                Worker::new(number, &tables, vec![lan, wan], Some(host)).with_peers(peers).with_fan_out(part)
            })
            .collect();
        let far = |port: Port| port.queues.into_iter().map(|pair| Far::new(Port { queues: vec![pair] }));
        Several {
            far: far(lan_far).zip(far(wan_far)).map(|(lan, wan)| [lan, wan]).collect(),
            counters: workers.iter().map(|worker| Arc::clone(worker.counters())).collect(),
            workers,
            inbound: sas.1,
        }
    }

    /// Router `number` with two workers, of which the second has no queue of the WAN, and sends by the first's.
    pub(crate) fn with_borrowed_wan(plan: &Plan, number: u8) -> Several {
        let mut router = Several::new(plan, number, 2);
        let region = Region::new(RINGS_PER_QUEUE, 2, 2048, SPARE_PER_QUEUE, false).expect("a region");
        let (_, nothing) = ring::wire(&region, 1, true).expect("rings for a wire");
        let Far(comes, _) = std::mem::replace(&mut router.far[1][WAN], Far::new(nothing));
        let (second, first) = (router.workers.pop(), router.workers.pop());
        router.workers.extend(first.map(|worker| worker.with_borrower(WAN, comes)));
        router.workers.extend(second.map(|worker| worker.with_borrowed(WAN, 0)));
        router
    }

    /// Frames that ports have received.
    pub(crate) fn received(&self) -> u64 {
        let port = |number: usize| self.counters.iter().filter_map(move |counters| counters.port(number));
        port(LAN).chain(port(WAN)).map(|port| port.rx.get()).sum()
    }

    /// Drops of all workers, with their reasons.
    pub(crate) fn drops(&self) -> Vec<(Reason, u64)> {
        let dropped = |reason| self.counters.iter().map(|counters| counters.dropped(reason)).sum();
        drops(dropped)
    }

    /// Frames received, sent, passed to the host and dropped.
    pub(crate) fn account(&self) -> [u64; 4] {
        let port = |number: usize| self.counters.iter().filter_map(move |counters| counters.port(number));
        let sent = port(LAN).chain(port(WAN)).map(|port| port.tx.get()).sum();
        let drops = self.drops().iter().map(|(_, count)| count).sum();
        [self.received(), sent, port(HOST).map(|port| port.tx.get()).sum(), drops]
    }
}

/// Where several things are wrong with a packet (a replay of a forged one, an old one whose GRE number is old too), one worker may
/// find another of them first than several: those count together.
pub(crate) fn drops(dropped: impl Fn(Reason) -> u64) -> Vec<(Reason, u64)> {
    let count = |reason| match reason {
        Reason::EspAuth => {
            [Reason::EspAuth, Reason::EspReplay, Reason::GreSequence].map(&dropped).iter().sum()
        }
        Reason::EspReplay | Reason::GreSequence => 0,
        reason => dropped(reason),
    };
    Reason::ALL.iter().map(|reason| (*reason, count(*reason))).filter(|(_, count)| *count > 0).collect()
}
