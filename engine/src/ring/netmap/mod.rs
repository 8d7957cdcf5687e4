//! Kernel netmap ports: the rings of a network interface, of its host stack, of a VALE switch or of a pipe, taken over from
//! the kernel through `/dev/netmap`.
//!
//! 1. [`NetmapPort::open`] reads the name, and asks whether the kernel has netmap and the interface exists and is fit for it;
//! 2. clears the interface's offloads, which a [guard](crate::ring::offload::OffloadGuard) restores when the last queue goes;
//! 3. registers the NIC's rings, each pair through a descriptor of its own, so that a sync or a wait is about this pair alone;
//!    with room in front of frames where the driver can give it;
//! 4. registers the host's rings apart, without that room, which FreeBSD's host rings ignore;
//! 5. maps the memory, checks every ring's header, and makes queues of them.
//!
//! [`NetmapControl::retake`] finds an interface again that had gone.
//!
//! All is given back by closing and unmapping, which the kernel does whatever way the program ends; offloads excepted, see
//! there.
//!
//! Each port has a mapping of its own: a mapping keeps the port whose descriptor it was made with in netmap mode until it is
//! unmapped. Regions with the same memory id share buffers all the same.

mod error;
mod interface;
mod kernel;
mod layout;
mod name;
mod queue;
mod register;
mod retake;
#[cfg(test)]
mod scripted;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use netmap_sys::{NR_REG_ALL_NIC, NR_REG_ONE_NIC, NR_REG_SW};

pub use error::NetmapError;
pub use name::PortKind;
pub use queue::NetmapHold;
pub(super) use queue::{NetmapRx, NetmapTx};
pub use retake::NetmapControl;

use self::interface::InterfaceFacts;
use self::kernel::{Descriptor, Kernel, System};
use self::layout::{Buffers, Found, Memory, Which};
use self::name::PortName;
use self::queue::Line;
use self::register::{Registration, Rings, describe, register};
use super::offload::{OffloadGuard, Offloads};
use super::port::{Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::Region;
use super::rx::RxRing;
use super::tx::TxRing;

/// Drivers of interfaces that have no netmap of their own anywhere, and on which emulation stalls or panics (FreeBSD before
/// 15.0: transmit on epair stops after one or two thousand packets; lagg and vlan panic some kernels).
const UNSAFE_TO_EMULATE: [&str; 8] =
    ["lagg", "vlan", "epair", "bridge", "bonding", "team", "802.1Q VLAN Support", "macvlan"];

/// Value of `dev.netmap.admode` that has every interface emulated.
const ADMODE_GENERIC: i64 = 2;

/// How a port is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetmapOptions {
    /// Open the interface's host rings too. Without them the host has no network on that interface.
    pub host: bool,
    /// Allow emulation on interfaces where it is known to stall or to panic kernels.
    pub unsafe_emulation: bool,
    /// Buffers wanted beside those in the rings, for queues between threads. The kernel may give fewer.
    pub extra_buffers: u32,
}

/// netmap's memory that a port is in, to be handed to the ports opened after it, so that frames move between them without
/// being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetmapMemory {
    id: u16,
}

impl NetmapMemory {
    /// The kernel's number of it.
    pub fn id(self) -> u16 {
        self.id
    }
}

/// Who moves the frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetmapMode {
    /// The interface's driver.
    Native,
    /// The kernel's general code on top of the driver: every frame is copied.
    Emulated,
    /// There is no interface: a VALE port or a pipe.
    Virtual,
}

impl NetmapMode {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            NetmapMode::Native => "native",
            NetmapMode::Emulated => "emulated",
            NetmapMode::Virtual => "virtual",
        }
    }
}

/// What the kernel has given for a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetmapFacts {
    /// The kind of port.
    pub kind: PortKind,
    /// Who moves the frames.
    pub mode: NetmapMode,
    /// The interface's driver, where the system names one.
    pub driver: Option<String>,
    /// The interface's MAC address.
    pub mac: Option<[u8; 6]>,
    /// Pairs of NIC rings.
    pub pairs: u32,
    /// Slots in each receive ring.
    pub receive_slots: u32,
    /// Slots in each transmit ring.
    pub transmit_slots: u32,
    /// The furthest from the start of its buffer that a frame may begin, in bytes; `None` where frames have no room in front,
    /// so that encapsulation copies.
    pub max_offset: Option<u32>,
    /// The kernel's number of the memory.
    pub memory_id: u16,
    /// Bytes in each buffer.
    pub buffer_size: u32,
    /// Extra buffers granted.
    pub extra_buffers: u32,
    /// Offloads that the interface's driver would not switch off.
    pub stuck: Offloads,
}

/// What the kernel says of an interface that is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetmapOffer {
    /// Who would move the frames; `None` where only opening it shows that.
    pub mode: Option<NetmapMode>,
    /// The interface's driver, where the system names one.
    pub driver: Option<String>,
    /// NIC rings: receive, transmit.
    pub rings: (u32, u32),
    /// Slots in each: receive, transmit.
    pub slots: (u32, u32),
}

impl NetmapOffer {
    /// Can frames have room in front, so that encapsulation copies nothing? `None` where only opening the port shows that.
    pub fn offsets(&self) -> Option<bool> {
        (self.mode == Some(NetmapMode::Emulated)).then_some(false)
    }
}

/// Asks what the kernel would give for the interface `name`, without opening it and without a change.
///
/// # Errors
/// What opening it would fail with, as far as that can be known before.
pub fn offer(name: &str, options: &NetmapOptions) -> Result<NetmapOffer, NetmapError> {
    offer_in(&System, name, options)
}

fn offer_in(kernel: &dyn Kernel, name: &str, options: &NetmapOptions) -> Result<NetmapOffer, NetmapError> {
    let plan = Plan::make(kernel, name, options)?;
    let descriptor = plan.open_device()?;
    let told = describe(&*descriptor, Some(&plan.name))
        .map_err(|error| NetmapError::of_request(plan.name.as_str(), error))?;
    let forced = kernel.setting("admode") == Some(ADMODE_GENERIC);
    let native = plan.interface.as_ref().and_then(|interface| interface.native);
    let mode = match native {
        _ if plan.interface.is_none() => Some(NetmapMode::Virtual),
        _ if forced => Some(NetmapMode::Emulated),
        Some(true) => Some(NetmapMode::Native),
        Some(false) => Some(NetmapMode::Emulated),
        None => None,
    };
    Ok(NetmapOffer {
        mode,
        driver: plan.interface.as_ref().and_then(|interface| interface.driver.clone()),
        rings: (told.nr_rx_rings.into(), told.nr_tx_rings.into()),
        slots: (told.nr_rx_slots, told.nr_tx_slots),
    })
}

/// A port of kernel netmap, open.
pub struct NetmapPort {
    /// The NIC's rings (or the VALE port's, or the pipe's).
    pub nic: Port,
    /// The host's rings: received frames come from the host, sent ones go to it.
    pub host: Option<Port>,
    /// What the kernel has given.
    pub facts: NetmapFacts,
    /// To be kept by whoever does not have the queues.
    pub control: NetmapControl,
    region: Arc<Region>,
}

impl NetmapPort {
    /// Opens the port `name`, which is what stands behind `netmap:` in a configuration, in the memory of ports opened before
    /// where there are any.
    ///
    /// # Errors
    /// [`NetmapError`] says what to do about each; nothing stays changed.
    pub fn open(
        name: &str,
        options: &NetmapOptions,
        memory: Option<&NetmapMemory>,
    ) -> Result<NetmapPort, NetmapError> {
        open_in(&System, name, options, memory)
    }

    /// The memory that the port is in.
    pub fn memory(&self) -> NetmapMemory {
        NetmapMemory { id: self.facts.memory_id }
    }

    /// The region of the port's buffers, for queues between threads. Who keeps it keeps the port open: it is the mapping.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

/// What is known before anything is registered.
struct Plan<'a> {
    kernel: &'a dyn Kernel,
    name: PortName,
    interface: Option<InterfaceFacts>,
    pairs: u32,
    options: &'a NetmapOptions,
    hold: NetmapHold,
}

fn open_in(
    kernel: &dyn Kernel,
    name: &str,
    options: &NetmapOptions,
    memory: Option<&NetmapMemory>,
) -> Result<NetmapPort, NetmapError> {
    let plan = Plan::make(kernel, name, options)?;
    let guard = plan.interface.is_some().then(|| kernel.clear_offloads(plan.name.as_str())).transpose()?;
    let stuck = guard.as_ref().map(OffloadGuard::stuck).unwrap_or_default();
    let guard = Arc::new(guard);
    let keeper: Arc<dyn Send + Sync> = guard.clone();
    let first = plan.bind_nic(0, memory.map_or(0, |memory| memory.id))?;
    let facts = plan.facts(&first, stuck)?;
    let mut bound = vec![first];
    for pair in 1..plan.pairs {
        bound.push(plan.bind_nic(pair, facts.memory_id)?);
    }
    let host =
        (options.host && plan.interface.is_some()).then(|| plan.bind_host(facts.memory_id)).transpose()?;

    let memory = plan.map(&bound)?;
    let rings = bound.iter().map(|bound| plan.find(&memory, bound)).collect::<Result<Vec<_>, _>>()?;
    let host_rings = host.as_ref().map(|host| plan.find(&memory, host)).transpose()?;
    let buffers = plan.common_buffers(rings.iter().chain(&host_rings))?;
    let extra = bound.first().map(|first| memory.take_extra(&first.registration.reply, buffers));
    let extra = extra.unwrap_or_default();
    let facts = NetmapFacts {
        receive_slots: rings.iter().flatten().map(|(_, rx)| rx.slots).max().unwrap_or(0),
        transmit_slots: rings.iter().flatten().map(|(tx, _)| tx.slots).max().unwrap_or(0),
        buffer_size: buffers.size,
        extra_buffers: extra.len() as u32,
        ..facts
    };
    let region = memory.into_region(buffers, extra);

    let behind = if facts.mode == NetmapMode::Emulated { Behind::Emulation } else { Behind::Driver };
    let queues = |(bound, rings): (&Bound, Vec<_>)| plan.queues(&region, bound, rings, &keeper, behind);
    let nic = Port { queues: bound.iter().zip(rings).flat_map(queues).collect() };
    let host = host.zip(host_rings).map(|(bound, rings)| Port {
        queues: plan.queues(&region, &bound, rings, &keeper, Behind::Host).collect(),
    });
    let control = NetmapControl {
        name: name.to_owned(),
        options: *options,
        memory: NetmapMemory { id: facts.memory_id },
        index: plan.interface.as_ref().map(|interface| interface.index),
        hold: plan.hold,
        guard: Arc::downgrade(&guard),
        ends: retake::ends([&nic].into_iter().chain(&host)),
    };
    Ok(NetmapPort { nic, host, facts, control, region })
}

/// A descriptor that has been bound to rings.
struct Bound {
    descriptor: Arc<dyn Descriptor>,
    registration: Registration,
    /// Transmit and receive rings.
    rings: Vec<(Which, Which)>,
}

/// What takes the frames of a transmit ring. Neither emulation nor the host put a frame in several slots together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Driver,
    Emulation,
    Host,
}

/// Rings of one descriptor that have been found and checked: transmit, receive.
type Pairs = Vec<(Found, Found)>;

impl<'a> Plan<'a> {
    fn make(kernel: &'a dyn Kernel, name: &str, options: &'a NetmapOptions) -> Result<Plan<'a>, NetmapError> {
        let name = PortName::parse(name)?;
        let mut plan = Plan { kernel, interface: None, pairs: 1, options, hold: NetmapHold::default(), name };
        let descriptor = plan.open_device()?;
        describe(&*descriptor, None).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOTTY | libc::ENXIO) => NetmapError::Version,
            _ => plan.failed("asking for netmap's version", error),
        })?;
        if plan.name.kind == PortKind::Interface {
            plan.interface = Some(plan.find_interface()?);
            plan.pairs = plan.count_pairs(&*descriptor)?;
        }
        Ok(plan)
    }

    fn open_device(&self) -> Result<Arc<dyn Descriptor>, NetmapError> {
        self.kernel.open().map_err(|error| NetmapError::of_open(self.name.as_str(), error))
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> NetmapError {
        NetmapError::System { name: self.name.as_str().to_owned(), doing, source }
    }

    fn find_interface(&self) -> Result<InterfaceFacts, NetmapError> {
        let name = || self.name.as_str().to_owned();
        let found = self
            .kernel
            .interface(self.name.as_str())
            .map_err(|error| self.failed("looking for the interface", error))?
            .ok_or_else(|| NetmapError::NoInterface { name: name() })?;
        if found.loopback {
            return Err(NetmapError::Loopback { name: name() });
        }
        if let Some(driver) = &found.driver
            && UNSAFE_TO_EMULATE.contains(&driver.as_str())
            && found.native != Some(true)
            && !self.options.unsafe_emulation
        {
            return Err(NetmapError::Unsafe { name: name(), driver: driver.clone() });
        }
        Ok(found)
    }

    /// Every receive ring has to be served, and a worker has a transmit ring for each.
    fn count_pairs(&self, descriptor: &dyn Descriptor) -> Result<u32, NetmapError> {
        let told = describe(descriptor, Some(&self.name))
            .map_err(|error| NetmapError::of_request(self.name.as_str(), error))?;
        let (receive, transmit) = (u32::from(told.nr_rx_rings), u32::from(told.nr_tx_rings));
        if receive == 0 || transmit < receive {
            let name = self.name.as_str().to_owned();
            return Err(NetmapError::Unpaired { name, receive, transmit });
        }
        Ok(receive)
    }

    /// Binds a new descriptor to a pair of NIC rings, or to all where there is but one pair.
    fn bind_nic(&self, pair: u32, memory_id: u16) -> Result<Bound, NetmapError> {
        let mode = if self.pairs == 1 { NR_REG_ALL_NIC } else { NR_REG_ONE_NIC };
        let rings = Rings { mode, ring: pair as u16 };
        let extra = if pair == 0 { self.options.extra_buffers } else { 0 };
        let (descriptor, registration) = self.bind(rings, memory_id, extra, true)?;
        Ok(Bound { descriptor, registration, rings: vec![(Which::Transmit(pair), Which::Receive(pair))] })
    }

    /// Binds a new descriptor to the host's rings. There is one pair of them, but for special drivers.
    fn bind_host(&self, memory_id: u16) -> Result<Bound, NetmapError> {
        let (descriptor, registration) =
            self.bind(Rings { mode: NR_REG_SW, ring: 0 }, memory_id, 0, false)?;
        let reply = &registration.reply;
        let pairs = u32::from(reply.nr_host_tx_rings.min(reply.nr_host_rx_rings)).max(1);
        let rings = (0..pairs).map(|pair| (Which::HostTransmit(pair), Which::HostReceive(pair))).collect();
        Ok(Bound { descriptor, registration, rings })
    }

    fn bind(
        &self,
        rings: Rings,
        memory_id: u16,
        extra_buffers: u32,
        offsets: bool,
    ) -> Result<(Arc<dyn Descriptor>, Registration), NetmapError> {
        let descriptor = self.open_device()?;
        let registration = register(&*descriptor, &self.name, rings, memory_id, extra_buffers, offsets)
            .map_err(|error| NetmapError::of_request(self.name.as_str(), error))?;
        Ok((descriptor, registration))
    }

    /// What the first registration says of the port.
    fn facts(&self, first: &Bound, stuck: Offloads) -> Result<NetmapFacts, NetmapError> {
        let Registration { reply, max_offset } = first.registration;
        let received = u32::from(reply.nr_rx_rings);
        if self.interface.is_some() && received != self.pairs {
            return Err(self.wrong("the number of its rings has changed while it was opened"));
        }
        let mode = match &self.interface {
            None => NetmapMode::Virtual,
            Some(interface) if self.is_emulated(interface, &first.registration) => NetmapMode::Emulated,
            Some(_) => NetmapMode::Native,
        };
        Ok(NetmapFacts {
            kind: self.name.kind,
            mode,
            driver: self.interface.as_ref().and_then(|interface| interface.driver.clone()),
            mac: self.interface.as_ref().and_then(|interface| interface.mac),
            pairs: self.pairs,
            receive_slots: 0,
            transmit_slots: 0,
            max_offset,
            memory_id: reply.nr_mem_id,
            buffer_size: 0,
            extra_buffers: 0,
            stuck,
        })
    }

    /// FreeBSD says which drivers have netmap in them. Elsewhere it is inferred: emulation gives no offsets, and rings of its
    /// own shape, `generic_rings` (1) of `generic_ringsize` (1024) slots.
    fn is_emulated(&self, interface: &InterfaceFacts, registration: &Registration) -> bool {
        let reply = &registration.reply;
        let setting = |name, otherwise| self.kernel.setting(name).unwrap_or(otherwise);
        let shape = || {
            [reply.nr_tx_rings, reply.nr_rx_rings].map(i64::from) == [setting("generic_rings", 1); 2]
                && [reply.nr_tx_slots, reply.nr_rx_slots].map(i64::from)
                    == [setting("generic_ringsize", 1024); 2]
        };
        let forced = || setting("admode", 0) == ADMODE_GENERIC;
        registration.max_offset.is_none()
            && (forced() || interface.native.map_or_else(shape, |native| !native))
    }

    fn wrong(&self, what: &'static str) -> NetmapError {
        NetmapError::Layout { name: self.name.as_str().to_owned(), what }
    }

    /// Maps the memory of the first descriptor; the others' rings are in it too.
    fn map(&self, bound: &[Bound]) -> Result<Memory, NetmapError> {
        let first = bound.first().ok_or_else(|| self.wrong("the port has no rings"))?;
        let bytes = usize::try_from(first.registration.reply.nr_memsize)
            .ok()
            .filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok())
            .ok_or_else(|| self.wrong("the size of its memory is out of range"))?;
        let base = first.descriptor.map(bytes).map_err(|error| self.failed("mapping its memory", error))?;
        // SAFETY: just mapped, with this length, by a call that leaves it to us.
        Ok(unsafe { Memory::new(base, bytes, first.registration.reply.nr_mem_id) })
    }

    fn find(&self, memory: &Memory, bound: &Bound) -> Result<Pairs, NetmapError> {
        let Registration { reply, max_offset } = &bound.registration;
        if reply.nr_mem_id != memory.id() {
            return Err(self.wrong("its rings are in different memory regions"));
        }
        let find = |which| memory.ring(reply.nr_offset, which, max_offset.is_some());
        let pair = |(tx, rx): &(Which, Which)| Ok((find(*tx)?, find(*rx)?));
        bound.rings.iter().map(pair).collect::<Result<_, _>>().map_err(|what| self.wrong(what))
    }

    fn common_buffers<'b>(&self, rings: impl Iterator<Item = &'b Pairs>) -> Result<Buffers, NetmapError> {
        let mut all = rings.flatten().flat_map(|(tx, rx)| [tx.buffers, rx.buffers]);
        let first = all.next().ok_or_else(|| self.wrong("the port has no rings"))?;
        if all.all(|other| other == first) {
            Ok(first)
        } else {
            Err(self.wrong("its rings have different buffers"))
        }
    }

    /// Queues of the rings found.
    fn queues(
        &self,
        region: &Arc<Region>,
        bound: &Bound,
        rings: Pairs,
        keeper: &Arc<dyn Send + Sync>,
        behind: Behind,
    ) -> impl Iterator<Item = (RxQueue, TxQueue)> + use<> {
        let interface = self.interface.as_ref().map(|it| (Arc::from(self.name.as_str()), it.index));
        let max_offset = bound.registration.max_offset.unwrap_or(0);
        let (region, descriptor, keeper) = (region.clone(), bound.descriptor.clone(), keeper.clone());
        let hold = self.hold.clone();
        rings.into_iter().map(move |(tx, rx)| {
            let line = Line::new(descriptor.clone(), interface.clone(), hold.clone(), keeper.clone());
            // SAFETY: `Memory::ring` has checked both headers against the mapping that the region is, and each ring is
            // found once: descriptors are bound exclusively, to different rings.
            let (tx, rx) = unsafe {
                let tx = RawRing::new(region.clone(), tx.header, max_offset);
                (tx, RawRing::new(region.clone(), rx.header, max_offset))
            };
            let source = Source::Netmap(Box::new(NetmapRx::new(line.clone(), &rx)));
            let mut sink = NetmapTx::new(line, &tx, behind == Behind::Emulation);
            let usable = sink.usable_slots(&tx);
            let mut tx = TxRing::new(tx);
            tx.limit(usable);
            let sink = Sink::Netmap(Box::new(sink));
            if behind != Behind::Driver {
                tx.single_slots_only();
            }
            (RxQueue { ring: RxRing::new(rx), source }, TxQueue { ring: tx, sink })
        })
    }
}
