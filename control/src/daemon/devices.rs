//! The ports as devices: opened, shared out among workers, looked after and given back.
//!
//! [`open`]:
//! 1. opens netmap ports, in one memory of the kernel's;
//! 2. counts queues and workers: where nothing is said of their number, there are as many as the port with the fewest has;
//! 3. makes one region for all other rings and buffers, so that frames are swapped between any two ports in it;
//! 4. opens these ports in the configuration's order, the tunnels' host interfaces, and the wires to the exception thread;
//! 5. deals the queues out: what a port has beyond one for each worker is received by the workers in turn; a worker for which it
//!    has none sends by another's, over a wire ([`Share`]); worker 0 has the host's rings, of which a netmap port has one pair;
//! 6. gives each worker its part in the fan-out, so that what one queue receives is worked on by all.

use std::sync::Arc;

use culvert_engine::exception::{early, waiting};
use culvert_engine::fan_out::{FAN_OUT_BUFFERS, FanOut, fan_out};
use culvert_engine::ring::netmap::{NetmapControl, NetmapFacts, NetmapOptions, NetmapPort};
#[cfg(target_os = "linux")]
use culvert_engine::ring::offload::OffloadGuard;
use culvert_engine::ring::offload::Offloads;
#[cfg(target_os = "linux")]
use culvert_engine::ring::xdp::{self, Take, Umem, XdpOptions, XdpPort};
use culvert_engine::ring::{
    HEADROOM, Health, Port, RINGS_PER_QUEUE, Region, RxQueue, SPARE_PER_QUEUE, TapOptions, TapPort, TunSet,
    long_wire, mesh, wire,
};
use culvert_engine::tables::Published;
use culvert_engine::worker::{QueuePair, Worker};

use super::log;
use crate::Failure;
use crate::config::{Config, Device, Port as PortConfig, Problem};

/// Slots in each ring of a port: some milliseconds of packets at the rates that a kernel's own stack hands over, so that a
/// worker that has just been woken finds them all.
const SLOTS: u32 = 1024;
/// Frames on their way between a worker and the exception thread, in each direction.
const EXCEPTIONS: u32 = 1024;
// What waits may go on at once.
const _: () = assert!(early::TOTAL + waiting::TOTAL < EXCEPTIONS as usize);
/// Sizes of buffers that AF_XDP takes, in bytes.
const BUFFERS: [u32; 2] = [2048, 4096];
/// Bytes of a buffer that are no IP packet, at most: what AF_XDP leaves free in front (`XDP_PACKET_HEADROOM`), or our own
/// headroom with what ESP adds behind a packet (RFC 4303 section 2: 15 + 2 + 16 bytes); and an Ethernet header with a VLAN tag.
const AROUND: u32 = 256 + 18;

const _: () = assert!(HEADROOM + 33 + 18 <= AROUND);

/// Offloads that an AF_XDP port does without: segments joined before the program sees them fit no buffer, and VLAN tags taken
/// off would be missing in the frames.
#[cfg(target_os = "linux")]
const WITHOUT_XDP: &str = "gro,lro,rxvlan";
/// How long an interface is up, so that threads that sleep in the kernel for it come back: longer than a nap of theirs.
#[cfg(target_os = "freebsd")]
const AWAKE: std::time::Duration = std::time::Duration::from_millis(250);

/// Rings that each pair of queues takes but those of wires.
const RINGS: usize = 2;

/// All ports, open.
pub(super) struct Devices {
    /// What manages each port, in the configuration's order.
    pub(super) ports: Vec<OpenPort>,
    /// The tunnels' host interfaces.
    pub(super) tunnels: TunSet,
    /// For each worker, its share.
    pub(super) shares: Vec<Share>,
}

/// Wires of one worker by which queues are borrowed: the ports that it borrows, from whom, and what it sends for others.
#[derive(Default)]
struct Borrowing {
    from: Vec<(usize, usize)>,
    to: Vec<(usize, RxQueue)>,
}

/// What one worker has of the devices.
pub(super) struct Share {
    ports: Vec<QueuePair>,
    /// The host's sides of ports, in the order of their numbers: worker 0's.
    hosts: Vec<QueuePair>,
    more: Vec<(usize, RxQueue)>,
    /// Ports whose pair is a wire to another worker: port and worker.
    borrowed: Vec<(usize, usize)>,
    /// The far ends of such wires: port, and what comes from there.
    borrowers: Vec<(usize, RxQueue)>,
    fan_out: FanOut,
    interfaces: QueuePair,
    exceptions: QueuePair,
    /// To the other workers, in the order of their numbers.
    peers: Vec<QueuePair>,
    /// The far end of the worker's wire to the exception thread.
    pub(super) far: QueuePair,
}

impl Share {
    /// The worker, and the far end of its wire to the exception thread.
    pub(super) fn into_worker(self, number: usize, tables: &Published) -> (Worker, QueuePair) {
        let Share {
            mut ports,
            hosts,
            more,
            borrowed,
            borrowers,
            fan_out,
            interfaces,
            exceptions,
            peers,
            far,
        } = self;
        ports.extend(hosts);
        let worker = Worker::new(number, tables, ports, None)
            .with_interfaces(interfaces)
            .with_exceptions(exceptions)
            .with_peers(peers)
            .with_fan_out(fan_out);
        let worker = more.into_iter().fold(worker, |worker, (port, rx)| worker.with_queue(port, rx));
        let worker =
            borrowed.into_iter().fold(worker, |worker, (port, lender)| worker.with_borrowed(port, lender));
        (borrowers.into_iter().fold(worker, |worker, (port, rx)| worker.with_borrower(port, rx)), far)
    }
}

/// An open port, without its ring pairs.
pub(super) struct OpenPort {
    /// Receive queues.
    pub(super) queues: usize,
    held: Held,
}

/// What holds a port's device.
enum Held {
    #[cfg(target_os = "linux")]
    Xdp {
        port: Box<XdpPort>,
        /// Goes after the port.
        offloads: Option<OffloadGuard>,
    },
    Netmap(Box<Netmap>),
    Tap(TapPort),
}

/// What is kept of a netmap port: its rings are the workers'.
struct Netmap {
    name: String,
    facts: NetmapFacts,
    control: NetmapControl,
    /// It was found to have gone, or to be another one.
    departed: bool,
    /// As far as its interface tells.
    health: Health,
}

impl Netmap {
    fn health(&self) -> Health {
        // Asking the system takes too long for those who ask for each tunnel.
        if self.departed || self.control.hold.is_lost() { Health::Departed } else { self.health }
    }

    fn mode(&self) -> String {
        let NetmapFacts { mode, driver, pairs, receive_slots, transmit_slots, max_offset, .. } = &self.facts;
        let mode = mode.name();
        let driver = driver.as_ref().map_or(String::new(), |driver| format!(" {driver}"));
        let offsets = max_offset.map_or("none".to_owned(), |most| most.to_string());
        format!("netmap, {mode}{driver}, {pairs} x {receive_slots}/{transmit_slots} slots, offsets {offsets}")
    }
}

impl OpenPort {
    /// The name of the host's link that the device is.
    pub(super) fn link(&self) -> &str {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, .. } => port.interface(),
            Held::Netmap(port) => &port.name,
            Held::Tap(port) => port.name(),
        }
    }

    /// How it works, for people.
    pub(super) fn mode(&self) -> String {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, .. } => format!("xdp, {}", port.mode()),
            Held::Netmap(port) => port.mode(),
            Held::Tap(_) => "tap, copy".to_owned(),
        }
    }

    /// Is the device there?
    pub(super) fn health(&self) -> Health {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, .. } => port.health(),
            Held::Netmap(port) => port.health(),
            Held::Tap(port) => port.health(),
        }
    }

    /// Frames that the device could not give us, and that it did not take, as far as it says.
    pub(super) fn lost(&self) -> (u64, u64) {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, .. } => port.statistics().map_or((0, 0), |counted| {
                (counted.rx_dropped, counted.tx_invalid.saturating_add(counted.tx_unsendable))
            }),
            // A full ring makes the NIC drop, which counts that itself.
            Held::Netmap(_) => (0, 0),
            Held::Tap(port) => (
                port.devices().map(|device| device.receive_dropped.get()).sum(),
                port.devices().map(|device| device.transmit_dropped.get()).sum(),
            ),
        }
    }

    /// Buffers that the kernel has to receive into and to send from; `None` where the device takes none from us. When all is at
    /// rest, it has the same number as at the start to receive into, and none to send from: any other was lost.
    pub(super) fn lent(&self) -> Option<(u64, u64)> {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, .. } => {
                port.statistics().ok().map(|counted| (counted.rx_lent, counted.tx_lent))
            }
            Held::Netmap(_) | Held::Tap(_) => None,
        }
    }

    /// Has the device gone, and can it be taken hold of again? `up`: is its link there, and switched on?
    pub(super) fn is_back(&mut self, up: Option<bool>) -> bool {
        let there = match &mut self.held {
            // One that was made is made again, and any is switched on.
            Held::Tap(port) => port.is_ours() || up.is_some(),
            #[cfg(target_os = "linux")]
            Held::Xdp { .. } => up == Some(true),
            Held::Netmap(port) => {
                port.departed = port.control.has_departed();
                up == Some(true)
            }
        };
        there && self.health() == Health::Departed
    }

    /// Takes hold of a device that has gone and is back. True where it did.
    ///
    /// # Errors
    /// What is in the way.
    pub(super) fn reattach(&mut self) -> Result<bool, String> {
        match &mut self.held {
            #[cfg(target_os = "linux")]
            Held::Xdp { port, offloads } if port.health() == Health::Departed => {
                port.reattach().map_err(|error| error.to_string())?;
                // The guard knows it by its name: were it dropped later, it would switch on what the next one has switched off.
                drop(offloads.take());
                let guard = OffloadGuard::clear_some(port.interface(), without_xdp());
                *offloads = Some(guard.map_err(|error| error.to_string())?);
                Ok(true)
            }
            #[cfg(target_os = "linux")]
            Held::Xdp { .. } => Ok(false),
            Held::Netmap(port) if port.departed => {
                port.facts = port.control.retake().map_err(|error| error.to_string())?;
                port.departed = false;
                Ok(true)
            }
            Held::Netmap(_) => Ok(false),
            Held::Tap(port) if port.health() == Health::Departed => {
                port.reattach().map(|()| true).map_err(|error| error.to_string())
            }
            Held::Tap(_) => Ok(false),
        }
    }

    /// What of its frames the engine takes, where that can be said.
    #[cfg(target_os = "linux")]
    pub(super) fn steering(&mut self) -> Option<&mut xdp::Steering> {
        match &mut self.held {
            Held::Xdp { port, .. } => port.steering(),
            Held::Netmap(_) | Held::Tap(_) => None,
        }
    }

    /// Takes in whether the device's link is there, and switched on. While it is off, no thread may touch a netmap port's rings:
    /// it would sleep in the kernel until the link is on again. True where threads may do so already.
    pub(super) fn follow(&mut self, up: Option<bool>) -> bool {
        let Held::Netmap(port) = &mut self.held else { return false };
        let before = std::mem::replace(
            &mut port.health,
            match up {
                Some(true) => Health::Attached,
                Some(false) => Health::Down,
                None => Health::Departed,
            },
        );
        match up {
            Some(true) => port.control.hold.release(),
            Some(false) => port.control.hold.hold(),
            None => {}
        }
        port.health == Health::Down && before != Health::Down
    }

    /// Frees threads that sleep in the kernel since the port's link was switched off, after [`OpenPort::follow`] has seen to it
    /// that they do so no more: the link is on for a moment.
    ///
    /// # Errors
    /// The system does not switch it.
    #[cfg(target_os = "freebsd")]
    pub(super) fn wake_sleepers(&self) -> std::io::Result<()> {
        crate::interface::switch(self.link(), true)?;
        std::thread::sleep(AWAKE);
        crate::interface::switch(self.link(), false)
    }
}

/// Is the port's device one that has the host's own link and addresses behind it, and whose neighbours the host resolves?
pub(super) fn is_of_host(config: &Config, port: &PortConfig) -> bool {
    matches!(port.device, Device::Xdp(_)) || has_host_rings(config, port)
}

/// Has the port's device rings of the host's beside its own?
pub(super) fn has_host_rings(config: &Config, port: &PortConfig) -> bool {
    matches!(port.device, Device::Netmap(_)) && config.engine.host_port
}

/// The interface whose offloads the port switches off, and which; `None` for all that there are.
pub(super) fn cleared_offloads(port: &PortConfig) -> Option<(&str, Option<Offloads>)> {
    match &port.device {
        Device::Netmap(interface) => Some((interface, None)),
        #[cfg(target_os = "linux")]
        Device::Xdp(interface) => Some((interface, Some(without_xdp()))),
        _ => None,
    }
}

#[cfg(target_os = "linux")]
fn without_xdp() -> Offloads {
    WITHOUT_XDP.parse().unwrap_or_default()
}

/// The name of the host's link that the port's device is; empty where it is none.
pub(super) fn link_name(port: &PortConfig) -> &str {
    match &port.device {
        Device::Xdp(name) | Device::Netmap(name) | Device::Tap(name) => name,
        Device::Pcap | Device::Memory => "",
    }
}

/// What the daemon cannot open, each with what to do about it.
pub(super) fn refuse(config: &Config) -> Vec<Problem> {
    let refusal = |port: &PortConfig| {
        let (why, remedy) = match &port.device {
            Device::Pcap => ("capture files are no network", "name an interface, or use `culvert replay`"),
            Device::Memory => ("nothing stands behind rings in memory", "name an interface"),
            Device::Xdp(_) if cfg!(not(target_os = "linux")) => {
                ("only Linux has AF_XDP", "use \"netmap:IF\" or \"tap:NAME\"")
            }
            Device::Xdp(_) | Device::Tap(_) | Device::Netmap(_) => return None,
        };
        Some(Problem {
            what: format!("port {:?}, device", port.name),
            why: why.to_owned(),
            remedy: remedy.to_owned(),
            at: Some(port.at.clone()),
        })
    };
    config.ports.iter().filter_map(refusal).collect()
}

/// Opens everything. `longest` is the largest MTU of any port's device that is there already, in bytes.
///
/// # Errors
/// A port that cannot be opened (code 1), and why; nothing is left open then.
pub(super) fn open(config: &Config, cores: usize, longest: u32) -> Result<Devices, Failure> {
    let netmap = open_netmap(config)?;
    let queues = config.ports.iter().zip(&netmap).map(|(port, netmap)| match netmap {
        Some(netmap) => Ok(Some(netmap.nic.queues.len())),
        None => count_queues(port),
    });
    let queues = queues.collect::<Result<Vec<_>, _>>()?;
    let workers = count_workers(usize::from(config.engine.workers), cores, &queues);
    let queues: Vec<usize> = queues.into_iter().map(|queues| queues.unwrap_or(workers)).collect();

    // One from each worker to the exception thread, one between any two workers, and one for each queue that a worker borrows.
    let borrowed: usize = queues.iter().map(|queues| workers.saturating_sub(*queues)).sum();
    let wires = workers + workers * (workers - 1) / 2 + borrowed;
    let own = queues.iter().zip(&netmap).filter(|(_, netmap)| netmap.is_none());
    let own = own.map(|(queues, _)| queues).sum::<usize>();
    let rings = (own + workers) * RINGS + wires * RINGS_PER_QUEUE;
    let buffers = |count: usize, each: u32| u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(each);
    let spare = buffers(wires - workers, SPARE_PER_QUEUE);
    let spare = spare.saturating_add(buffers(workers, 2 * EXCEPTIONS + FAN_OUT_BUFFERS));
    let region = Region::new(rings, SLOTS, buffer_size(config, longest)?, spare, false)
        .map_err(|error| Failure::failed(format!("memory: {error}")))?;
    let mut opener = Opener {
        region,
        #[cfg(target_os = "linux")]
        umem: None,
    };
    let mut ports = Vec::with_capacity(queues.len());
    let mut dealt: Vec<Vec<QueuePair>> = (0..workers).map(|_| Vec::new()).collect();
    let mut more: Vec<Vec<(usize, RxQueue)>> = (0..workers).map(|_| Vec::new()).collect();
    let mut borrowing: Vec<Borrowing> = (0..workers).map(|_| Borrowing::default()).collect();
    let mut hosts: Vec<QueuePair> = Vec::new();
    let failed =
        |what: &'static str| move |error: &dyn std::fmt::Display| Failure::failed(format!("{what}: {error}"));
    for (number, ((port, queues), netmap)) in config.ports.iter().zip(queues).zip(netmap).enumerate() {
        let (opened, held) = match netmap {
            Some(NetmapPort { nic, host, facts, control, .. }) => {
                // A second pair, which only special drivers have, is the host's for nothing.
                hosts.extend(host.and_then(|host| host.queues.into_iter().next()));
                let name = link_name(port).to_owned();
                let (departed, health) = (false, Health::Attached);
                (nic, Held::Netmap(Box::new(Netmap { name, facts, control, departed, health })))
            }
            None => opener.open_port(config, port, queues)?,
        };
        let queues = opened.queues.len();
        ports.push(OpenPort { queues, held });
        for (nth, pair) in opened.queues.into_iter().enumerate() {
            if let Some(dealt) = dealt.get_mut(nth) {
                dealt.push(pair);
            } else if let Some(more) = more.get_mut(nth % workers) {
                more.push((number, pair.0));
            }
        }
        for (nth, dealt) in dealt.iter_mut().enumerate().skip(queues) {
            let (near, far) = wire(&opener.region, 1, true).map_err(|error| failed("memory")(&error))?;
            dealt.extend(near.queues);
            let lender = nth.checked_rem(queues).unwrap_or(0);
            let comes = far.queues.into_iter().map(|(rx, _)| (number, rx));
            if let Some(borrower) = borrowing.get_mut(nth) {
                borrower.from.push((number, lender));
            }
            if let Some(lender) = borrowing.get_mut(lender) {
                lender.to.extend(comes);
            }
        }
    }
    let (interfaces, tunnels) =
        Port::tun(&opener.region, workers).map_err(|error| failed("tunnels' interfaces")(&error))?;
    let (near, far) =
        long_wire(&opener.region, workers, true, EXCEPTIONS).map_err(|error| failed("memory")(&error))?;
    let peers = mesh(&opener.region, workers).map_err(|error| failed("memory")(&error))?;
    let parts = fan_out(&opener.region, workers).map_err(|error| failed("memory")(&error))?;
    let ends = near.queues.into_iter().zip(far.queues).zip(peers.into_iter().zip(parts));
    let shares = dealt.into_iter().zip(more.into_iter().zip(borrowing)).zip(interfaces.queues).zip(ends);
    let shares =
        shares.map(|(((ports, (more, borrowing)), interfaces), ((exceptions, far), (peers, fan_out)))| {
            Share {
                ports,
                hosts: std::mem::take(&mut hosts),
                more,
                borrowed: borrowing.from,
                borrowers: borrowing.to,
                fan_out,
                interfaces,
                exceptions,
                peers,
                far,
            }
        });
    Ok(Devices { ports, tunnels, shares: shares.collect() })
}

/// Step 1: for each port, the netmap port that it is.
fn open_netmap(config: &Config) -> Result<Vec<Option<NetmapPort>>, Failure> {
    let mut memory = None;
    let mut open = |port: &PortConfig| {
        let Device::Netmap(name) = &port.device else { return Ok(None) };
        let opened = NetmapPort::open(name, &netmap_options(config, port), memory.as_ref())
            .map_err(|error| about(port, &error))?;
        memory.get_or_insert(opened.memory());
        if !opened.facts.stuck.is_empty() {
            log::port(&port.name)
                .warn(format_args!("the driver of {name} does not switch {} off", opened.facts.stuck));
        }
        Ok(Some(opened))
    };
    config.ports.iter().map(&mut open).collect()
}

/// How a netmap port is to be opened.
pub(crate) fn netmap_options(config: &Config, port: &PortConfig) -> NetmapOptions {
    NetmapOptions {
        host: config.engine.host_port,
        unsafe_emulation: port.unsafe_emulation,
        ..NetmapOptions::default()
    }
}

/// The receive queues that a device has; `None` where it has as many as it is asked for.
fn count_queues(port: &PortConfig) -> Result<Option<usize>, Failure> {
    match &port.device {
        #[cfg(target_os = "linux")]
        Device::Xdp(interface) => xdp::queues(interface).map(Some).map_err(|error| about(port, &error)),
        // FreeBSD's have one.
        _ if cfg!(target_os = "freebsd") => Ok(Some(1)),
        _ => Ok(None),
    }
}

fn about(port: &PortConfig, why: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("port {:?}: {why}", port.name))
}

/// The number of workers: as many as `wanted`, and one at least; 0: as many as the port with the fewest queues has, but one for
/// each core at most.
fn count_workers(wanted: usize, cores: usize, queues: &[Option<usize>]) -> usize {
    let wanted = match wanted {
        // Devices that have any number of queues are given one.
        0 => queues.iter().flatten().min().map_or(1, |fewest| (*fewest).min(cores)),
        wanted => wanted,
    };
    wanted.max(1)
}

/// The smallest buffers that the longest packet of any port fits.
fn buffer_size(config: &Config, longest: u32) -> Result<u32, Failure> {
    let configured = config.ports.iter().map(|port| u32::from(port.mtu())).max().unwrap_or(0);
    let longest = configured.max(longest);
    BUFFERS.into_iter().find(|size| longest.saturating_add(AROUND) <= *size).ok_or_else(|| {
        let most = BUFFERS.last().map_or(0, |size| size.saturating_sub(AROUND));
        Failure::usage(format!("ports: a packet of {longest} bytes fits no buffer: lower the MTU to {most}"))
    })
}

/// Opens ports one after the other.
struct Opener {
    region: Arc<Region>,
    #[cfg(target_os = "linux")]
    umem: Option<Arc<Umem>>,
}

impl Opener {
    #[cfg_attr(
        not(target_os = "linux"),
        allow(unused_variables, reason = "what is bridged matters to AF_XDP")
    )]
    fn open_port(
        &mut self,
        config: &Config,
        port: &PortConfig,
        queues: usize,
    ) -> Result<(Port, Held), Failure> {
        match &port.device {
            #[cfg(target_os = "linux")]
            Device::Xdp(interface) => {
                let bridged = config.tunnels.iter().any(|tunnel| tunnel.bridge.as_ref() == Some(&port.name));
                let take = if bridged { Take::Everything } else { Take::Steered };
                self.open_xdp(port, interface, take)
            }
            Device::Tap(name) => {
                let options = TapOptions { mtu: port.mtu.map(u32::from) };
                let (opened, held) =
                    Port::tap(&self.region, name, queues, options).map_err(|error| about(port, &error))?;
                Ok((opened, Held::Tap(held)))
            }
            _ => Err(about(port, &"no such device can be opened on this system")),
        }
    }

    #[cfg(target_os = "linux")]
    fn open_xdp(&mut self, port: &PortConfig, interface: &str, take: Take) -> Result<(Port, Held), Failure> {
        let refused = |error: xdp::XdpError| about(port, &error);
        let umem = match &self.umem {
            Some(umem) => Arc::clone(umem),
            None => Arc::clone(self.umem.insert(Umem::new(&self.region).map_err(refused)?)),
        };
        let (opened, held) =
            XdpPort::open(&umem, interface, XdpOptions { queues: None, take }).map_err(refused)?;
        let guard =
            OffloadGuard::clear_some(interface, without_xdp()).map_err(|error| about(port, &error))?;
        if held.strips_tags().unwrap_or(false) {
            log::port(&port.name).warn(format_args!(
                "{interface} takes VLAN tags off: tagged packets would count as untagged ones; say `ethtool -K \
                 {interface} rxvlan off` where there are any"
            ));
        }
        Ok((opened, Held::Xdp { port: Box::new(held), offloads: Some(guard) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_as_many_as_said_or_as_queues() {
        for (wanted, cores, queues, workers) in [
            (0, 4, vec![Some(2), Some(8)], 2),
            (0, 1, vec![Some(2), Some(8)], 1),
            (0, 4, vec![None, None], 1),
            (0, 4, vec![None, Some(3)], 3),
            (8, 4, vec![Some(2), None], 8),
            (2, 1, vec![Some(1), Some(1)], 2),
            (3, 1, vec![None], 3),
            (2, 4, vec![], 2),
            (0, 0, vec![Some(2)], 1),
        ] {
            assert_eq!(count_workers(wanted, cores, &queues), workers, "{wanted} {cores} {queues:?}");
        }
    }
}
