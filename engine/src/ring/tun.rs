//! The tunnels' host interfaces: a TUN for each tunnel, all of them behind one port, so that a worker with ten thousand
//! tunnels has one ring pair for them. Frames are bare IP packets; a frame's tag is the number of its tunnel.
//!
//! 1. `sync` of the receive side asks the system which interfaces have packets, and reads from each of them in turn;
//! 2. `sync` of the transmit side writes each packet to the interface of the tunnel that its tag names.
//!
//! Interfaces come and go while workers run: the [`TunSet`] publishes a new table as a whole, and a worker looks at the table once
//! in each `sync`. Each interface has a *place*, which owns one descriptor for good; an interface that goes away is replaced
//! there by `/dev/null`, so a worker with an old table can reach nobody else's file. A place is used again only when all
//! workers have seen the table without the old interface, so no packet gets into another tunnel by that way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use crossbeam::utils::CachePadded;

use super::descriptor::{Received, Sent, receive, send, slots_for, slots_of};
use super::device::Device;
use super::interface::{self, InterfaceError, Kind, Lease, Poller, Ready};
use super::port::{Port, RxQueue, Sink, Source, TxQueue};
use super::raw::RawRing;
use super::region::{Region, RegionError};
use super::rx::RxRing;
use super::tx::TxRing;
use super::{BATCH, TAG_SHIFT};

/// Places made at a time.
const CHUNK: usize = 1024;
/// Chunks at most.
const CHUNKS: usize = 1024;
/// Places at most, and the bound of tunnels' numbers.
const MOST: usize = CHUNK * CHUNKS;
/// How long the set waits for workers to let go of an interface: many turns of a worker that is awake. One that sleeps uses none.
const PATIENCE: Duration = Duration::from_millis(10);
/// In a [`Table`]: nobody.
const NONE: u32 = u32::MAX;

/// Why a tunnel's interface could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The interface itself.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The memory for the port's rings.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Waiting for interfaces.
    #[error("cannot wait for the tunnels' interfaces: {0}")]
    Poll(io::Error),
    /// Putting an interface in its place, or taking it out.
    #[error("interface {name}: its descriptor: {source}")]
    Descriptor {
        /// The interface.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The tunnel has an interface of another name, or the name is another tunnel's.
    #[error("interface {name} for tunnel {tunnel}: tunnel {other} has {held}: remove that first")]
    Taken {
        /// The interface asked for.
        name: String,
        /// The tunnel it was asked for.
        tunnel: u32,
        /// The tunnel in the way: the same one where it has another interface.
        other: u32,
        /// The interface in the way.
        held: String,
    },
    /// A number to be given up that no tunnel with an interface has, or to be taken that is not free.
    #[error("tunnels cannot be renumbered: {0} is the number of none, of two, or out of range")]
    Number(u32),
    /// Beyond what the set is made for.
    #[error("tunnel {0}: at most {MOST} tunnels have interfaces")]
    TooMany(u32),
}

/// Where an interface stands.
#[derive(Default)]
struct Place {
    /// The interface, or `/dev/null`. Set once; what it stands for changes.
    descriptor: OnceLock<OwnedFd>,
    /// Somebody deleted the interface.
    lost: AtomicBool,
}

/// Which tunnel has which place, as a whole.
struct Table {
    version: u64,
    /// By tunnel.
    places: Box<[u32]>,
    /// By place.
    tunnels: Box<[u32]>,
}

/// What the set and all queues hold in common.
struct Shared {
    table: Arc<ArcSwap<Table>>,
    chunks: Box<[OnceLock<Box<[Place]>>]>,
    /// One for each pair of queues.
    pollers: Box<[Poller]>,
    /// For each queue, the version of the table that it used last, stored before it uses one.
    seen: Box<[CachePadded<AtomicU64>]>,
    /// The largest MTU that any interface was given.
    mtu: AtomicU32,
}

impl Shared {
    fn place(&self, place: u32) -> Option<&Place> {
        let (chunk, at) = (place as usize / CHUNK, place as usize % CHUNK);
        self.chunks.get(chunk)?.get()?.get(at)
    }

    fn poller(&self, place: u32) -> Option<&Poller> {
        self.pollers.get(place as usize % self.pollers.len().max(1))
    }
}

/// A queue's sight of the table.
struct View {
    shared: Arc<Shared>,
    table: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
    queue: usize,
}

impl View {
    fn new(shared: &Arc<Shared>, queue: usize) -> View {
        View { shared: Arc::clone(shared), table: Cache::new(Arc::clone(&shared.table)), queue }
    }

    /// The table as it is now. To be called once in each `sync`: an older one must not be used after that.
    #[inline]
    fn load(&mut self) -> (&Shared, &Table) {
        let table = self.table.load();
        if let Some(seen) = self.shared.seen.get(self.queue) {
            seen.store(table.version, Ordering::Release);
        }
        (&self.shared, table)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(seen) = self.shared.seen.get(self.queue) {
            seen.store(u64::MAX, Ordering::Release);
        }
    }
}

impl Port {
    /// The port of the tunnels' host interfaces, without any at first. Each interface's packets are received by one of the
    /// `queues` queues, and every queue sends to all of them. Claims two rings of the region for each queue. Raises the process's
    /// limit of open descriptors as far as it may.
    ///
    /// # Errors
    /// [`TunError::Region`] without rings, and what the system refuses.
    pub fn tun(region: &Arc<Region>, queues: usize) -> Result<(Port, TunSet), TunError> {
        interface::raise_descriptor_limit();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null =
            null.map_err(|source| InterfaceError::Device { device: "/dev/null".to_owned(), source })?;
        let pollers =
            (0..queues).map(|_| Poller::new()).collect::<io::Result<_>>().map_err(TunError::Poll)?;
        let empty = Table { version: 0, places: Box::default(), tunnels: Box::default() };
        let shared = Arc::new(Shared {
            table: Arc::new(ArcSwap::from_pointee(empty)),
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            pollers,
            seen: (0..2 * queues).map(|_| CachePadded::default()).collect(),
            mtu: AtomicU32::new(0),
        });
        let queues = (0..queues).map(|number| pair(region, &shared, number));
        let port = Port { queues: queues.collect::<Result<_, _>>()? };
        let set = TunSet {
            shared,
            null,
            version: 0,
            tunnels: BTreeMap::new(),
            names: BTreeMap::new(),
            places: 0,
            free: VecDeque::new(),
        };
        Ok((port, set))
    }
}

fn pair(
    region: &Arc<Region>,
    shared: &Arc<Shared>,
    number: usize,
) -> Result<(RxQueue, TxQueue), RegionError> {
    let rx = RxRing::new(region.claim_ring(false, true)?);
    let tx = TxRing::new(region.claim_ring(true, true)?);
    let device = Arc::new(Device::default());
    let source = TunRx {
        view: View::new(shared, 2 * number),
        device: Arc::clone(&device),
        ready: Ready::new(),
        number,
        first: 0,
        mtu: 0,
        slots: 1,
        at: 0,
    };
    let sink = TunTx { view: View::new(shared, 2 * number + 1), device, at: 0 };
    let rx = RxQueue { ring: rx, source: Source::Tun(Box::new(source)) };
    Ok((rx, TxQueue { ring: tx, sink: Sink::Tun(Box::new(sink)) }))
}

/// What the host sends into tunnels.
pub(super) struct TunRx {
    view: View,
    device: Arc<Device>,
    ready: Ready,
    /// Of the pair of queues.
    number: usize,
    /// Which of the ready interfaces is read first: the one that found no room the last time.
    first: usize,
    /// The largest MTU that `slots` has been told of.
    mtu: u32,
    /// Slots offered to the next packet.
    slots: u32,
    /// Where the next received slot goes.
    at: u32,
}

impl TunRx {
    pub(super) fn sync(&mut self, ring: &RawRing) {
        let TunRx { view, device, ready, number, first, mtu, slots, at } = self;
        let Some(poller) = view.shared.pollers.get(*number) else { return };
        poller.look(ready);
        // After the look: what was sent after a change of the table is not taken for what the table said before.
        let (shared, table) = view.load();
        let count = ready.len();
        let largest = shared.mtu.load(Ordering::Relaxed);
        if largest != *mtu {
            *mtu = largest;
            *slots = (*slots).max(slots_for(ring, largest as usize));
        }
        // Each gets the same share of a batch, and of the room, so that one busy tunnel does not keep the others waiting.
        let end = ring.previous(ring.head());
        let room = (ring.distance(*at, end) / *slots) as usize;
        let share = (room.min(BATCH) / count.max(1)).max(1);
        let start = *first;
        'interfaces: for nth in 0..count {
            let nth = (start + nth) % count;
            let Some(key) = ready.key(nth) else { continue };
            let tunnel = table.tunnels.get(key as usize).copied().unwrap_or(NONE);
            let Some(place) = shared.place(key).filter(|_| tunnel != NONE) else { continue };
            let Some(descriptor) = place.descriptor.get() else { continue };
            for _ in 0..share {
                if ring.distance(*at, end) < *slots {
                    *first = nth;
                    break 'interfaces;
                }
                match receive(descriptor.as_fd(), Kind::Tun, ring, *at, *slots, tunnel) {
                    Received::Frame(taken) => *at = ring.ahead(*at, taken),
                    Received::Nothing => break,
                    Received::Broken => {
                        device.receive_dropped.add(1);
                        // Somebody has raised the interface's MTU: the next one will fit.
                        *slots = (2 * *slots).min(ring.most_free());
                    }
                    Received::Gone => {
                        // It would be ready for ever. Refused where the set has been quicker.
                        let _ = shared.poller(key).map(|poller| poller.remove(descriptor));
                        place.lost.store(true, Ordering::Relaxed);
                        break;
                    }
                }
            }
        }
        ring.set_tail(*at);
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Readable when any of the interfaces is.
    pub(super) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.view.shared.pollers.get(self.number).map(AsFd::as_fd)
    }
}

/// What came out of tunnels for the host.
pub(super) struct TunTx {
    view: View,
    device: Arc<Device>,
    /// The first slot that has not gone out yet.
    at: u32,
}

impl TunTx {
    /// Sends all that is queued. A packet of a tunnel without an interface, or that its interface does not take at once, is
    /// dropped and counted.
    pub(super) fn sync(&mut self, ring: &RawRing) {
        let head = ring.head();
        let (shared, table) = self.view.load();
        while self.at != head {
            let slots = slots_of(ring, self.at, head);
            let tunnel = (ring.slot(self.at).ptr >> TAG_SHIFT) as usize;
            let place = table.places.get(tunnel).and_then(|place| shared.place(*place));
            let sent = match place.filter(|place| !place.lost.load(Ordering::Relaxed)) {
                Some(place) => send_to(place, ring, self.at, slots),
                None => Sent::Refused,
            };
            if sent != Sent::Whole {
                self.device.transmit_dropped.add(1);
            }
            self.at = ring.ahead(self.at, slots);
        }
        ring.set_tail(ring.previous(self.at));
    }
}

fn send_to(place: &Place, ring: &RawRing, at: u32, slots: u32) -> Sent {
    let Some(descriptor) = place.descriptor.get() else { return Sent::Refused };
    let sent = send(descriptor.as_fd(), Kind::Tun, ring, at, slots);
    if sent == Sent::Gone {
        place.lost.store(true, Ordering::Relaxed);
    }
    sent
}

/// An interface and its place.
struct Interface {
    place: u32,
    name: String,
    /// Ends the interface where closing its descriptor does not.
    lease: Lease,
}

/// The interfaces behind a port of [`Port::tun`], for the thread that follows the configuration. They go away with this
/// value. (Linux takes some 20 ms to remove one: who has thousands deletes those that [`TunSet::made`] names together
/// first, after which this costs next to nothing.)
pub struct TunSet {
    shared: Arc<Shared>,
    null: File,
    version: u64,
    /// By tunnel.
    tunnels: BTreeMap<u32, Interface>,
    /// Whose interface has this name.
    names: BTreeMap<String, u32>,
    /// Places made until now.
    pub(super) places: u32,
    /// Places without an interface, oldest first, each with the version of the first table without it.
    free: VecDeque<(u64, u32)>,
}

impl TunSet {
    /// Gives tunnel number `tunnel` the host interface `name`, up, with an MTU of `mtu` bytes of IP. Where the tunnel has it
    /// already, only its MTU is set: the interface, with what the host has configured on it, stays. One that somebody has
    /// deleted is made anew.
    ///
    /// # Errors
    /// [`TunError`]; the set is as it was then, but for the MTU.
    pub fn add(&mut self, tunnel: u32, name: &str, mtu: u32) -> Result<(), TunError> {
        if tunnel as usize >= MOST {
            return Err(TunError::TooMany(tunnel));
        }
        if self.has(tunnel, name)? {
            interface::set_mtu(name, mtu)?;
            self.shared.mtu.fetch_max(mtu, Ordering::Relaxed);
            return Ok(());
        }
        let opened = interface::open(Kind::Tun, name, 1)?;
        interface::set_mtu(&opened.name, mtu)?;
        interface::bring_up(&opened.name)?;
        self.shared.mtu.fetch_max(mtu, Ordering::Relaxed);
        let Some(descriptor) = opened.descriptors.into_iter().next() else {
            return Err(InterfaceError::Queues { name: opened.name, queues: 1 }.into());
        };
        let place = self.settle(tunnel, &opened.name, descriptor)?;
        self.names.insert(opened.name.clone(), tunnel);
        self.tunnels.insert(tunnel, Interface { place, name: opened.name, lease: opened.lease });
        self.publish(|places, tunnels| {
            set(places, tunnel, place);
            set(tunnels, place, tunnel);
        });
        // Only now, that the table knows whose packets these are.
        self.watch(place).or_else(|error| self.remove(&[tunnel]).and(Err(TunError::Poll(error))))
    }

    /// Takes these tunnels' interfaces away, with what the host has configured on them. Tunnels without one are passed over.
    ///
    /// Waits a few milliseconds for workers that are just using them: whoever lets go of an interface last has the work of
    /// removing it, and that is not to be a worker.
    ///
    /// # Errors
    /// [`TunError::Descriptor`] when the system does not let go of one; it is the tunnel's no more all the same.
    pub fn remove(&mut self, tunnels: &[u32]) -> Result<(), TunError> {
        let leaving: Vec<(u32, Interface)> =
            tunnels.iter().filter_map(|tunnel| Some((*tunnel, self.tunnels.remove(tunnel)?))).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        self.publish(|places, tunnels| {
            for (tunnel, interface) in &leaving {
                set(places, *tunnel, NONE);
                set(tunnels, interface.place, NONE);
            }
        });
        let mut result = Ok(());
        let mut held = Vec::with_capacity(leaving.len());
        for (_, interface) in leaving {
            self.names.remove(&interface.name);
            match self.clear(&interface) {
                Ok(last) => {
                    self.free.push_back((self.version, interface.place));
                    held.push((last, interface));
                }
                Err(source) => result = Err(TunError::Descriptor { name: interface.name, source }),
            }
        }
        let patience = Instant::now() + PATIENCE;
        while self.seen_by_all() < self.version && Instant::now() < patience {
            std::thread::sleep(PATIENCE / 20);
        }
        // Here the interfaces end: the descriptor of each first, then its lease.
        drop(held);
        result
    }

    /// Puts `/dev/null` in the interface's place. Returns what may be the last descriptor of the interface.
    fn clear(&self, interface: &Interface) -> io::Result<Option<OwnedFd>> {
        let descriptor = self.shared.place(interface.place).and_then(|place| place.descriptor.get());
        let Some(descriptor) = descriptor else { return Ok(None) };
        if let Some(poller) = self.shared.poller(interface.place) {
            // Refused where a worker has found the interface gone.
            let _ = poller.remove(descriptor);
        }
        // Without a number left for it, a worker may have to end the interface.
        let last = descriptor.try_clone().ok();
        interface::replace(descriptor, &self.null)?;
        Ok(last)
    }

    /// The oldest version of the table that a worker may still use. One that sleeps, or that does not look, counts too.
    fn seen_by_all(&self) -> u64 {
        self.shared.seen.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Gives tunnels other numbers, each from the first of a pair to the second, all at once; the interfaces stay as they are.
    /// What is under way in rings at the time keeps the old number: let a number that is given up rest before another tunnel
    /// takes it, or its packets come out of the wrong tunnel.
    ///
    /// # Errors
    /// [`TunError::Number`] for a tunnel that has no interface, and for two that would have one number; nothing has changed then.
    pub fn renumber(&mut self, changes: &[(u32, u32)]) -> Result<(), TunError> {
        let mut leaving = BTreeSet::new();
        for (from, _) in changes {
            if !self.tunnels.contains_key(from) || !leaving.insert(*from) {
                return Err(TunError::Number(*from));
            }
        }
        let mut coming = BTreeSet::new();
        for (_, to) in changes {
            let free = !self.tunnels.contains_key(to) || leaving.contains(to);
            if *to as usize >= MOST || !free || !coming.insert(*to) {
                return Err(TunError::Number(*to));
            }
        }
        let taken: Vec<_> =
            changes.iter().filter_map(|(from, to)| Some((*to, self.tunnels.remove(from)?))).collect();
        let moved: Vec<_> = taken.iter().map(|(to, interface)| (*to, interface.place)).collect();
        for (to, interface) in taken {
            self.names.insert(interface.name.clone(), to);
            self.tunnels.insert(to, interface);
        }
        self.publish(|places, tunnels| {
            leaving.iter().for_each(|from| set(places, *from, NONE));
            for (to, place) in moved {
                set(places, to, place);
                set(tunnels, place, to);
            }
        });
        Ok(())
    }

    /// Tunnels whose interface somebody has deleted. [`TunSet::add`] makes it anew.
    pub fn lost(&self) -> Vec<u32> {
        let lost = self.tunnels.iter().filter(|(_, interface)| self.is_lost(interface.place));
        lost.map(|(tunnel, _)| *tunnel).collect()
    }

    /// Names of the interfaces that go away with the set: not of those that were there before.
    pub fn made(&self) -> Vec<&str> {
        let made = self.tunnels.values().filter(|interface| interface.lease.is_ours());
        made.map(|interface| interface.name.as_str()).collect()
    }

    fn is_lost(&self, place: u32) -> bool {
        self.shared.place(place).is_some_and(|place| place.lost.load(Ordering::Relaxed))
    }

    /// Has the tunnel the interface `name`? One that has been deleted is put away first.
    fn has(&mut self, tunnel: u32, name: &str) -> Result<bool, TunError> {
        let taken = |other, held: &str| {
            let (name, held) = (name.to_owned(), held.to_owned());
            Err(TunError::Taken { name, tunnel, other, held })
        };
        match self.tunnels.get(&tunnel) {
            None => match self.names.get(name) {
                Some(other) => taken(*other, name),
                None => Ok(false),
            },
            Some(interface) if interface.name != name => taken(tunnel, &interface.name),
            Some(interface) if self.is_lost(interface.place) => self.remove(&[tunnel]).map(|()| false),
            Some(_) => Ok(true),
        }
    }

    /// Puts a descriptor in a place that no worker takes for another's any more.
    fn settle(&mut self, tunnel: u32, name: &str, descriptor: OwnedFd) -> Result<u32, TunError> {
        if let Some((version, place)) = self.free.front().copied()
            && version <= self.seen_by_all()
            && let Some(free) = self.shared.place(place)
            && let Some(held) = free.descriptor.get()
        {
            interface::replace(held, &descriptor)
                .map_err(|source| TunError::Descriptor { name: name.to_owned(), source })?;
            free.lost.store(false, Ordering::Relaxed);
            self.free.pop_front();
            return Ok(place);
        }
        let place = self.places;
        let chunk = self.shared.chunks.get(place as usize / CHUNK).ok_or(TunError::TooMany(tunnel))?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| Place::default()).collect());
        let fresh = self.shared.place(place).ok_or(TunError::TooMany(tunnel))?;
        // Empty until now: places are counted up.
        let _ = fresh.descriptor.set(descriptor);
        self.places += 1;
        Ok(place)
    }

    fn watch(&self, place: u32) -> io::Result<()> {
        let descriptor = self.shared.place(place).and_then(|place| place.descriptor.get());
        let (Some(descriptor), Some(poller)) = (descriptor, self.shared.poller(place)) else { return Ok(()) };
        poller.add(descriptor, place)
    }

    /// Shows the workers a table that differs from the last one: places by tunnel, and tunnels by place.
    fn publish(&mut self, edit: impl FnOnce(&mut Vec<u32>, &mut Vec<u32>)) {
        let last = self.shared.table.load();
        let (mut places, mut tunnels) = (last.places.to_vec(), last.tunnels.to_vec());
        edit(&mut places, &mut tunnels);
        self.version += 1;
        let (places, tunnels) = (places.into_boxed_slice(), tunnels.into_boxed_slice());
        self.shared.table.store(Arc::new(Table { version: self.version, places, tunnels }));
    }
}

/// Makes an entry, and those before it that are not there yet.
fn set(entries: &mut Vec<u32>, at: u32, value: u32) {
    let at = at as usize;
    if entries.len() <= at {
        entries.resize(at + 1, NONE);
    }
    if let Some(entry) = entries.get_mut(at) {
        *entry = value;
    }
}

impl Drop for TunSet {
    fn drop(&mut self) {
        let all: Vec<u32> = self.tunnels.keys().copied().collect();
        // What the system does not let go of goes with the queues.
        let _ = self.remove(&all);
    }
}
