//! A router with an exception thread, both turned by the test, in a time that only the test moves:
//! 1. a [`Net`] says what it has; tables and the thread's [`Setup`] are made from it, at first and whenever it changes;
//! 2. frames are put on its wires, the worker and the thread take turns until both rest;
//! 3. what left is sorted: neighbour discovery apart from all else.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};
use culvert_engine::counters::{TunnelCounterBank, TunnelCounterSet, WorkerCounters};
use culvert_engine::drops::Reason;
use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, IvRange, Mode, OutboundSa, Router as Which, Suite};
use culvert_engine::exception::keepalive;
use culvert_engine::exception::neighbour::Change;
use culvert_engine::exception::thread::{
    Announcement, Event, Exceptions, Order, PortSetup, Setup, TunnelSetup,
};
use culvert_engine::fib::Prefix;
use culvert_engine::gre::{Options, Payload, Sequences};
use culvert_engine::ring::{self, RINGS_PER_QUEUE, Region, SPARE_PER_QUEUE};
use culvert_engine::tables::{
    Gateway, NeighbourSpec, PortSpec, Published, RouteSpec, Stack, Tables, TablesSpec, TunnelSpec,
};
use culvert_engine::tunnel::{Protection, UdpEncap};
use culvert_engine::wire::ethernet::MacAddr;
use culvert_engine::worker::{QueuePair, Worker};

use crate::lab::{Far, LAN, LINK, MTU, PLAIN, Plan, SLOTS, WAN, end, lan_v4, lan_v6, mac, spi, station};

/// A second, in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// When a router is made.
pub(crate) const START: u64 = 1000 * SECOND;

/// A tunnel of a [`Net`]. Clones share its numbers and SAs, as one table after the other does.
#[derive(Clone)]
pub(crate) struct Wrap {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) inner: Vec<(IpAddr, u8)>,
    pub(crate) routes: Vec<Prefix>,
    pub(crate) gre: Options,
    pub(crate) path_mtu: Option<u16>,
    pub(crate) gre_in_udp: bool,
    pub(crate) bridge: Option<usize>,
    pub(crate) clamp_mss: bool,
    pub(crate) keepalive: Option<keepalive::Settings>,
    pub(crate) fragment: bool,
    pub(crate) mode: Mode,
    pub(crate) udp: bool,
    pub(crate) backup: bool,
    pub(crate) sas: Option<(Arc<OutboundSa>, Arc<InboundSa>)>,
    pub(crate) negotiated: bool,
    /// The tables do not know the inbound SA yet.
    pub(crate) late: bool,
    pub(crate) counters: TunnelCounterSet,
    pub(crate) sequences: Arc<Sequences>,
}

impl Wrap {
    /// From router `number` to the other one, with all that is behind that.
    pub(crate) fn new(number: u8, v6: bool) -> Wrap {
        let peer = 3 - number;
        Wrap {
            local: end(number, v6),
            remote: end(peer, v6),
            inner: vec![(own_inner_v4(number), 24), (own_inner_v6(number), 64)],
            routes: vec![prefix(&format!("10.{peer}.0.0/16")), prefix(&format!("fd0{peer}::/16"))],
            gre: PLAIN,
            path_mtu: None,
            gre_in_udp: false,
            bridge: None,
            clamp_mss: false,
            keepalive: None,
            fragment: false,
            mode: Mode::Transport,
            backup: false,
            udp: false,
            sas: None,
            negotiated: false,
            late: false,
            counters: TunnelCounterBank::new(1).take(),
            sequences: Arc::default(),
        }
    }

    /// The same, with ESP of that mode between the routers.
    pub(crate) fn protected(mut self, number: u8, mode: Mode, udp: bool) -> Wrap {
        let (plan, peer) = (Plan { udp, ..Plan::new(Some(Suite::Aes128Gcm16)) }, 3 - number);
        let run = if number == 1 { Which::First } else { Which::Second };
        let iv = IvRange::of_run(run, 0).expect("a run's number");
        let window = ReplayWindow::new(64, plan.esn).expect("a window");
        let outbound = OutboundSa::new(spi(number), plan.key(number), plan.esn, iv, plan.first);
        let inbound = InboundSa::new(spi(peer), plan.key(peer), plan.esn, window);
        let inbound = if udp { inbound.in_udp(4500) } else { inbound };
        self.sas = Some((Arc::new(outbound), Arc::new(inbound)));
        (self.mode, self.udp) = (mode, udp);
        self
    }

    fn spec(&self) -> TunnelSpec {
        let protection = self.sas.as_ref().map(|(outbound, inbound)| Protection {
            mode: self.mode,
            pad: 4,
            udp: self.udp.then_some(UdpEncap { source: 4500, destination: 4500 }),
            outbound: vec![Arc::clone(outbound)],
            inbound: if self.late { Vec::new() } else { vec![Arc::clone(inbound)] },
            negotiated: self.negotiated,
        });
        TunnelSpec {
            local: self.local,
            remote: self.remote,
            inner: if self.gre.payload == Payload::Ip { self.inner.clone() } else { Vec::new() },
            routes: self.routes.clone(),
            gre: self.gre,
            ttl: 64,
            mtu: None,
            path_mtu: self.path_mtu,
            protection,
            gre_in_udp: self.gre_in_udp,
            bridge: self.bridge,
            depth: 1,
            clamp_mss: self.clamp_mss,
            backup: self.backup,
            counters: self.counters.clone(),
            sequences: Arc::clone(&self.sequences),
        }
    }
}

/// Router `number`'s address inside its tunnel.
pub(crate) fn own_inner_v4(number: u8) -> IpAddr {
    IpAddr::from([172, 27, 0, number])
}

/// As [`own_inner_v4`].
pub(crate) fn own_inner_v6(number: u8) -> IpAddr {
    IpAddr::from([0xfd27, 0, 0, 0, 0, 0, 0, u16::from(number)])
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// What a router has.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) number: u8,
    /// LAN, WAN, and what a test adds.
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) tunnels: Vec<Wrap>,
    pub(crate) routes: Vec<RouteSpec>,
    pub(crate) neighbours: Vec<NeighbourSpec>,
}

impl Net {
    /// Router `number` of the two in [`crate::lab`]. No host is behind its ports; the stations of both links are known.
    pub(crate) fn new(number: u8) -> Net {
        let port = |port, addresses| PortSpec {
            mac: mac(number, port),
            any_mac: false,
            shared: Vec::new(),
            mtu: MTU as u16,
            addresses,
            stack: Stack::Own,
            host_of: None,
        };
        let near = vec![(lan_v4(number, 1).into(), 16), (lan_v6(number, 1).into(), 16)];
        let far = vec![(end(number, false), 24), (end(number, true), 64)];
        let peer = 3 - number;
        let known = [
            (LAN, lan_v4(number, 2).into()),
            (LAN, lan_v6(number, 2).into()),
            (WAN, end(peer, false)),
            (WAN, end(peer, true)),
        ];
        let neighbours =
            known.map(|(port, address)| NeighbourSpec { port, address, mac: station(number, port) });
        Net {
            number,
            ports: vec![port(LAN, near), port(WAN, far)],
            tunnels: Vec::new(),
            routes: Vec::new(),
            neighbours: neighbours.to_vec(),
        }
    }

    pub(crate) fn with(mut self, tunnel: Wrap) -> Net {
        self.tunnels.push(tunnel);
        self
    }

    /// With another host stack behind LAN and WAN.
    pub(crate) fn stacks(mut self, stack: Stack) -> Net {
        self.ports.iter_mut().for_each(|port| port.stack = stack);
        self
    }

    pub(crate) fn route(mut self, to: &str, gateway: Gateway) -> Net {
        self.routes.push(RouteSpec { prefix: prefix(to), gateway });
        self
    }

    /// Nobody is known to the tables yet, but the stations behind the LAN.
    pub(crate) fn alone(mut self) -> Net {
        self.neighbours.retain(|known| known.port == LAN);
        self
    }

    /// A station more.
    pub(crate) fn knows(mut self, port: usize, address: IpAddr, mac: MacAddr) -> Net {
        self.neighbours.push(NeighbourSpec { port, address, mac });
        self
    }

    pub(crate) fn tables(&self) -> Tables {
        let spec = TablesSpec {
            workers: 1,
            ports: self.ports.clone(),
            tunnels: self.tunnels.iter().map(Wrap::spec).collect(),
            routes: self.routes.clone(),
            neighbours: self.neighbours.clone(),
        };
        Tables::build(spec).expect("tables without contradictions")
    }

    pub(crate) fn setup(&self) -> Setup {
        let port = |port: &PortSpec| PortSetup {
            mac: port.mac,
            addresses: port.addresses.clone(),
            host_resolves: port.stack != Stack::Own,
        };
        let tunnel = |tunnel: &Wrap| TunnelSetup {
            inner: tunnel.inner.iter().map(|(address, _)| *address).collect(),
            keepalive: tunnel.keepalive,
            fragment: tunnel.fragment,
        };
        Setup {
            ports: self.ports.iter().map(port).collect(),
            tunnels: self.tunnels.iter().map(tunnel).collect(),
        }
    }
}

/// A wire in the region: our end, and the far one.
pub(crate) fn wire(region: &Arc<Region>, offsets: bool) -> (QueuePair, Far) {
    let (mut near, far) = ring::wire(region, 1, offsets).expect("rings for a wire");
    (near.queues.pop().expect("a wire has a queue"), Far::new(far))
}

/// Room for that many wires.
pub(crate) fn region(wires: usize) -> Arc<Region> {
    let spare = wires as u32 * SPARE_PER_QUEUE;
    Region::new(wires * RINGS_PER_QUEUE, SLOTS, 2048, spare, false).expect("a region")
}

/// What left by a wire and has not been looked at.
#[derive(Default)]
struct Left {
    discovery: VecDeque<Vec<u8>>,
    others: VecDeque<Vec<u8>>,
}

/// A router, and the far ends of its wires.
pub(crate) struct Router {
    pub(crate) net: Net,
    pub(crate) now: u64,
    pub(crate) exceptions: Exceptions,
    pub(crate) ports: Vec<Far>,
    pub(crate) host: Far,
    /// The tunnels' host interfaces.
    pub(crate) interfaces: Far,
    pub(crate) worker: Worker,
    tables: Published,
    setups: Sender<Order>,
    events: Receiver<Event>,
    counters: [Arc<WorkerCounters>; 2],
    left: Vec<Left>,
}

impl Router {
    /// It starts at [`START`], and has said all that it says then.
    pub(crate) fn new(net: Net) -> Router {
        let region = region(net.ports.len() + 3);
        let ports = net.ports.iter().map(|_| wire(&region, true)).collect();
        Router::of(net, ports, &region)
    }

    /// Ports without headroom, whose buffers are not those of anything else.
    pub(crate) fn copying(net: Net) -> Router {
        let own = region(net.ports.len());
        let ports = net.ports.iter().map(|_| wire(&own, false)).collect();
        Router::of(net, ports, &region(3))
    }

    fn of(net: Net, ports: Vec<(QueuePair, Far)>, region: &Arc<Region>) -> Router {
        let (queues, ports): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let (host_queues, host) = wire(region, false);
        let (interface_queues, interfaces) = wire(region, true);
        let (near, far) = ring::wire(region, 1, true).expect("rings for a wire");
        let tables = net.tables().publish();
        let [near, far] = [near, far].map(|mut port| port.queues.pop().expect("a wire has a queue"));
        let worker = Worker::new(0, &tables, queues, Some(host_queues))
            .with_interfaces(interface_queues)
            .with_exceptions(near);
        let ((setups, for_thread), (for_us, events)) = (unbounded(), unbounded());
        let exceptions = Exceptions::new(
            &tables,
            vec![(far, Arc::clone(worker.settled()))],
            for_thread,
            for_us,
            0x5eed_1e55,
        );
        let counters = [Arc::clone(worker.counters()), Arc::clone(exceptions.counters())];
        let left = net.ports.iter().map(|_| Left::default()).collect();
        let mut router = Router {
            net,
            now: START,
            exceptions,
            ports,
            host,
            interfaces,
            worker,
            tables,
            setups,
            events,
            counters,
            left,
        };
        router.publish();
        router.forget();
        router
    }

    /// Worker and thread take turns until both have nothing to do, which must come.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            if self.worker.round() + self.exceptions.turn(self.now) == 0 {
                return;
            }
        }
        panic!("frames go round and round");
    }

    /// Time passes, in steps as the thread asks for.
    pub(crate) fn wait(&mut self, nanoseconds: u64) {
        let until = self.now + nanoseconds;
        while let Some(due) = self.exceptions.next_due().filter(|due| *due <= until) {
            self.now = due.max(self.now + 1);
            self.run();
            // The wires have an end.
            (0..self.ports.len()).for_each(|port| {
                self.sort(port);
            });
        }
        self.now = until;
        self.run();
    }

    /// Tables and setup are made anew from what the router has now.
    pub(crate) fn publish(&mut self) {
        self.store();
        self.run();
    }

    /// The same, and nobody has looked yet.
    pub(crate) fn store(&mut self) {
        self.tables.store(Arc::new(self.net.tables()));
        self.setups.send(Order::Setup(self.net.setup())).expect("a thread that listens");
    }

    /// The thread is told to announce an address.
    pub(crate) fn announce(&mut self, announcement: Announcement) {
        self.setups.send(Order::Announce(announcement)).expect("a thread that listens");
        self.run();
    }

    /// What the thread told.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// As the control plane does: neighbours that the thread tells of come into the tables. Returns what it told.
    pub(crate) fn follow(&mut self) -> Vec<Event> {
        let events = self.events();
        for event in &events {
            if let Event::Neighbour(change) = *event {
                let (Change::Added(port, address, _)
                | Change::Changed(port, address, _)
                | Change::Removed(port, address)) = change;
                let port = usize::from(port);
                self.net.neighbours.retain(|known| (known.port, known.address) != (port, address));
                if let Change::Added(_, _, mac) | Change::Changed(_, _, mac) = change {
                    self.net.neighbours.push(NeighbourSpec { port, address, mac });
                }
            }
        }
        self.publish();
        events
    }

    /// A frame comes in by a port, and is worked through.
    pub(crate) fn receive(&mut self, port: usize, frame: &[u8]) {
        self.ports[port].send(frame);
        self.run();
    }

    /// An IP packet from the station on that port.
    pub(crate) fn packet(&mut self, port: usize, packet: &[u8]) {
        self.receive(port, &crate::lab::frame(self.net.number, port, packet));
    }

    fn sort(&mut self, port: usize) -> &mut Left {
        let left = &mut self.left[port];
        self.ports[port].receive(|frame| {
            let of = if is_discovery(frame) { &mut left.discovery } else { &mut left.others };
            of.push_back(frame.to_vec());
        });
        left
    }

    /// What left by a port, but for neighbour discovery.
    pub(crate) fn sent(&mut self, port: usize) -> Vec<Vec<u8>> {
        self.sort(port).others.drain(..).collect()
    }

    /// ARP and ND that left by a port.
    pub(crate) fn discovery(&mut self, port: usize) -> Vec<Vec<u8>> {
        self.sort(port).discovery.drain(..).collect()
    }

    /// What left until now is of no interest, nor what was told.
    pub(crate) fn forget(&mut self) {
        for port in 0..self.ports.len() {
            self.sent(port);
            self.discovery(port);
        }
        self.host.frames();
        self.interfaces.frames();
        self.events();
    }

    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        self.counters.iter().map(|counters| counters.dropped(reason)).sum()
    }

    /// All drops, with their reasons.
    pub(crate) fn drops(&self) -> Vec<(Reason, u64)> {
        Reason::ALL.iter().map(|reason| (*reason, self.dropped(*reason))).filter(|(_, n)| *n > 0).collect()
    }
}

/// Is that ARP, or a neighbour solicitation or advertisement?
pub(crate) fn is_discovery(frame: &[u8]) -> bool {
    let at = |at: usize| frame.get(at).copied();
    match frame.get(12..14) {
        Some([8, 6]) => true,
        Some([0x86, 0xdd]) => at(LINK + 6) == Some(58) && matches!(at(LINK + 40), Some(135 | 136)),
        _ => false,
    }
}
