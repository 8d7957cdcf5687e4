//! A kernel with netmap in it, played by the tests: it lays out a real region in shared memory as netmap does, and moves
//! frames through the rings by netmap's rules, which stand in `<net/netmap.h>` and in the kernel's `nm_txsync_prologue`,
//! `nm_rxsync_prologue` and `netmap_reset`. Every opening maps the same memory at another address.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use netmap_sys::*;

use super::interface::InterfaceFacts;
use super::kernel::{Descriptor, Exchange, Kernel, map_shared};
use crate::ring::offload::{OffloadError, OffloadGuard};

/// Region numbers are told apart by them, so every scripted kernel has one of its own.
static NEXT_MEMORY: AtomicU16 = AtomicU16::new(1000);

pub(super) const RING_BYTES: usize = 262_144;
pub(super) const IF_BYTES: usize = 1024;

/// What the driver is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card {
    pub(super) receive_rings: u32,
    pub(super) transmit_rings: u32,
    pub(super) slots: u32,
    pub(super) buffer_size: u32,
    pub(super) offsets: bool,
}

impl Default for Card {
    fn default() -> Card {
        Card { receive_rings: 1, transmit_rings: 1, slots: 32, buffer_size: 2048, offsets: true }
    }
}

/// What the kernel keeps of a ring beside the shared header.
#[derive(Debug, Default, Clone)]
pub(super) struct KernelRing {
    pub(super) at: usize,
    pub(super) transmit: bool,
    head: u32,
    hwcur: u32,
    hwtail: u32,
    tail: u32,
    /// Its interface has gone.
    gone: bool,
    users: u32,
    exclusive: bool,
    offset_mask: u64,
    /// Frames that have come for a receive ring, or gone out of a transmit ring.
    pub(super) frames: VecDeque<Vec<u8>>,
    part: Vec<u8>,
    pub(super) syncs: u32,
}

pub(super) struct World {
    memory: OwnedFd,
    base: NonNull<u8>,
    pub(super) bytes: usize,
    pub(super) buffers_at: usize,
    pub(super) buffers: u32,
    cards: HashMap<String, (Card, usize)>,
    /// Four kinds for each card, in netmap's order: transmit, host transmit, receive, host receive.
    pub(super) rings: Vec<KernelRing>,
    next_buffer: u32,
    next_ring: usize,
    next_if: usize,
    pub(super) memory_id: u16,
    pub(super) open: u32,
    /// Errors that the next calls end with.
    pub(super) open_error: Option<i32>,
    pub(super) control_error: Option<i32>,
    pub(super) sync_error: Option<i32>,
    /// Transmit rings keep what they are given.
    pub(super) stalled: bool,
    /// Transmit stalls for good once it is asked to say when it is done, as emulation on epair.
    pub(super) fragile: bool,
    pub(super) attached: bool,
    pub(super) version: u16,
    pub(super) interface: InterfaceFacts,
    pub(super) settings: HashMap<&'static str, i64>,
    /// Called on a fresh registration, with the place of its `netmap_if`, before the program sees it.
    pub(super) tamper: Option<fn(&mut World, usize)>,
    pub(super) log: Vec<String>,
}

// SAFETY: the pointer is to the world's own mapping, reached under the mutex alone.
unsafe impl Send for World {}

/// The scripted kernel; clones are the same one.
#[derive(Clone)]
pub(super) struct Scripted(pub(super) Arc<Mutex<World>>);

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl World {
    pub(super) fn get<T: Copy>(&self, at: usize) -> T {
        assert!(at + size_of::<T>() <= self.bytes);
        // SAFETY: inside the mapping, as asserted; plain integers.
        unsafe { self.base.add(at).cast::<T>().read_unaligned() }
    }

    pub(super) fn set<T: Copy>(&mut self, at: usize, value: T) {
        assert!(at + size_of::<T>() <= self.bytes);
        // SAFETY: as in `get`.
        unsafe { self.base.add(at).cast::<T>().write_unaligned(value) }
    }

    pub(super) fn bytes(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.bytes);
        // SAFETY: inside the mapping, as asserted; tests run the program and the kernel by turns.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at).as_ptr(), len) }
    }

    pub(super) fn slot_at(&self, ring: usize, slot: u32) -> usize {
        self.rings[ring].at + 256 + 16 * slot as usize
    }

    fn card_of(&self, ring: usize) -> Card {
        let first = |(card, first): &(Card, usize)| (*first <= ring).then_some((*first, *card));
        self.cards.values().filter_map(first).max_by_key(|(first, _)| *first).expect("a card").1
    }

    fn slots(&self, ring: usize) -> u32 {
        self.card_of(ring).slots
    }

    fn add_card(&mut self, name: &str, card: Card) {
        let first = self.rings.len();
        let kinds = [(card.transmit_rings, true), (1, true), (card.receive_rings, false), (1, false)];
        for (count, transmit) in kinds {
            for number in 0..count {
                self.add_ring(&card, transmit, number);
            }
        }
        self.cards.insert(name.to_owned(), (card, first));
    }

    fn add_ring(&mut self, card: &Card, transmit: bool, number: u32) {
        let at = self.next_ring;
        self.next_ring += 256 + 16 * card.slots as usize;
        self.next_ring = self.next_ring.next_multiple_of(64);
        let tail = if transmit { card.slots - 1 } else { 0 };
        self.set(at, (self.buffers_at - at) as i64);
        self.set(at + 8, card.slots);
        self.set(at + 12, card.buffer_size);
        self.set(at + 16, number as u16);
        self.set(at + 18, u16::from(transmit));
        self.set(at + 28, tail);
        for slot in 0..card.slots {
            let index = self.fresh_buffer();
            self.set(
                at + 256 + 16 * slot as usize,
                netmap_slot { buf_idx: index, len: 0, flags: 0, ptr: 0x77 },
            );
        }
        self.rings.push(KernelRing { at, transmit, hwtail: tail, tail, ..KernelRing::default() });
    }

    /// An interface goes, and another of its name comes.
    pub(super) fn replace(&mut self, name: &str, card: Card) {
        self.rings.iter_mut().for_each(|ring| ring.gone = true);
        self.add_card(name, card);
        self.interface.index += 1;
    }

    /// Rings of a card: kind (in the order above), first ring, count.
    fn kinds(&self, name: &str) -> Option<[(usize, u32); 4]> {
        let (card, first) = self.cards.get(name)?;
        let (tx, rx) = (card.transmit_rings as usize, card.receive_rings as usize);
        let counts = [card.transmit_rings, 1, card.receive_rings, 1];
        let firsts = [*first, first + tx, first + tx + 1, first + tx + 1 + rx];
        Some([0, 1, 2, 3].map(|kind| (firsts[kind], counts[kind])))
    }

    fn control(&mut self, header: &mut nmreq_header) -> io::Result<Vec<usize>> {
        if let Some(code) = self.control_error.take() {
            return Err(error(code));
        }
        if header.nr_version != self.version {
            return Err(error(libc::EINVAL));
        }
        let end = header.nr_name.iter().position(|byte| *byte == 0).expect("a final zero");
        let name = String::from_utf8(header.nr_name[..end].to_vec()).expect("text");
        match header.nr_reqtype {
            NETMAP_REQ_PORT_INFO_GET => self.describe(&name, header.nr_body).map(|()| Vec::new()),
            NETMAP_REQ_REGISTER => self.register(&name, header),
            _ => Err(error(libc::EINVAL)),
        }
    }

    fn describe(&mut self, name: &str, body: u64) -> io::Result<()> {
        let info = std::ptr::with_exposed_provenance_mut::<nmreq_port_info_get>(body as usize);
        if !name.is_empty() {
            let (card, _) = self.cards.get(name).ok_or_else(|| error(libc::ENXIO))?;
            // SAFETY: the program says that this is a body of the request's type.
            unsafe {
                (*info).nr_rx_rings = card.receive_rings as u16;
                (*info).nr_tx_rings = card.transmit_rings as u16;
                (*info).nr_rx_slots = card.slots;
                (*info).nr_tx_slots = card.slots;
            }
        }
        Ok(())
    }

    fn register(&mut self, name: &str, header: &mut nmreq_header) -> io::Result<Vec<usize>> {
        // SAFETY: the program says that this is a body of the request's type.
        let request =
            unsafe { &mut *std::ptr::with_exposed_provenance_mut::<nmreq_register>(header.nr_body as usize) };
        let virtual_port = name.contains([':', '{', '}']);
        if virtual_port && !self.cards.contains_key(name) {
            self.add_card(name, Card { slots: 16, ..Card::default() });
        }
        let kinds = self.kinds(name).ok_or_else(|| error(libc::ENXIO))?;
        if request.nr_mem_id != 0 && request.nr_mem_id != self.memory_id {
            return Err(error(libc::EINVAL));
        }
        let all = |kind: usize| (kinds[kind].0..kinds[kind].0 + kinds[kind].1 as usize).collect::<Vec<_>>();
        let bound = match request.nr_mode {
            NR_REG_ALL_NIC => [all(0), all(2)].concat(),
            NR_REG_ONE_NIC => [0, 2].map(|kind| kinds[kind].0 + usize::from(request.nr_ringid)).to_vec(),
            NR_REG_SW => [all(1), all(3)].concat(),
            _ => return Err(error(libc::EINVAL)),
        };
        let exclusive = request.nr_flags & NR_EXCLUSIVE != 0;
        if bound.iter().any(|ring| self.rings[*ring].exclusive || (exclusive && self.rings[*ring].users > 0))
        {
            return Err(error(libc::EBUSY));
        }
        let offsets = header.nr_options != 0;
        if offsets {
            self.grant_offsets(name, header.nr_options, &bound)?;
        }
        self.log.push(format!("register {name} mode {} ring {}", request.nr_mode, request.nr_ringid));
        for ring in &bound {
            self.rings[*ring].users += 1;
            self.rings[*ring].exclusive = exclusive;
        }
        request.nr_offset = self.add_if(kinds) as u64;
        request.nr_memsize = self.bytes as u64;
        [request.nr_tx_rings, request.nr_rx_rings] = [kinds[0].1 as u16, kinds[2].1 as u16];
        [request.nr_tx_slots, request.nr_rx_slots] = [self.slots(kinds[0].0); 2];
        [request.nr_host_tx_rings, request.nr_host_rx_rings] = [1, 1];
        request.nr_mem_id = self.memory_id;
        let at = request.nr_offset as usize;
        let mut next = 0;
        for _ in 0..request.nr_extra_bufs {
            let index = self.fresh_buffer();
            self.set(self.buffers_at + index as usize * 2048, next);
            next = index;
        }
        self.set(at + 32, next);
        if let Some(tamper) = self.tamper {
            tamper(self, at);
        }
        Ok(bound)
    }

    /// A `netmap_if` with the list of all rings of a card.
    fn add_if(&mut self, kinds: [(usize, u32); 4]) -> usize {
        let at = self.next_if;
        self.next_if += 256;
        for (field, kind) in [(24, 0), (28, 2), (36, 1), (40, 3)] {
            self.set(at + field, kinds[kind].1);
        }
        let rings = kinds.iter().flat_map(|(first, count)| *first..first + *count as usize);
        for (position, ring) in rings.enumerate().collect::<Vec<_>>() {
            let offset = self.rings[ring].at as isize - at as isize;
            self.set(at + 56 + 8 * position, offset);
        }
        at
    }

    fn grant_offsets(&mut self, name: &str, option: u64, bound: &[usize]) -> io::Result<()> {
        // SAFETY: the program says that an option of the type in it is there.
        let option =
            unsafe { &mut *std::ptr::with_exposed_provenance_mut::<nmreq_opt_offsets>(option as usize) };
        assert_eq!(option.nro_opt.nro_reqtype, NETMAP_REQ_OPT_OFFSETS);
        if !self.cards[name].0.offsets {
            option.nro_opt.nro_status = libc::EOPNOTSUPP as u32;
            return Err(error(libc::EOPNOTSUPP));
        }
        for ring in bound {
            let mask = (1u64 << option.nro_offset_bits) - 1;
            self.rings[*ring].offset_mask = mask;
            self.set(self.rings[*ring].at + 56, mask);
            for slot in 0..self.slots(*ring) {
                let at = self.slot_at(*ring, slot);
                // Only the offset: the other bits are the program's.
                let ptr = self.get::<u64>(at + 8) & !mask | option.nro_initial_offset;
                self.set(at + 8, ptr);
            }
        }
        Ok(())
    }

    /// `netmap_ring_reinit`: cursors beyond the ring are set anew.
    fn reinit(&mut self, ring: usize) {
        let KernelRing { at, hwcur, hwtail, .. } = self.rings[ring];
        let lim = self.slots(ring) - 1;
        let (head, cur, tail): (u32, u32, u32) = (self.get(at + 20), self.get(at + 24), self.get(at + 28));
        (self.rings[ring].head, self.rings[ring].tail) = (head, tail);
        if head > lim || cur > lim || tail > lim {
            self.set(at + 20, hwcur);
            self.set(at + 24, hwcur);
            self.set(at + 28, hwtail);
            (self.rings[ring].head, self.rings[ring].tail) = (hwcur, hwtail);
        }
    }

    pub(super) fn sync(&mut self, ring: usize) {
        self.rings[ring].syncs += 1;
        let (at, slots) = (self.rings[ring].at, self.slots(ring));
        let head: u32 = self.get(at + 20);
        let ours = &self.rings[ring];
        let (from, to) = if ours.transmit { (ours.head, ours.tail) } else { (ours.hwcur, ours.hwtail) };
        if head >= slots || (head + slots - from) % slots > (to + slots - from) % slots {
            return self.reinit(ring);
        }
        self.rings[ring].head = head;
        if self.rings[ring].transmit {
            self.transmit(ring)
        } else {
            self.receive(ring)
        }
        let tail = self.rings[ring].hwtail;
        self.rings[ring].tail = tail;
        self.set(at + 28, tail);
    }

    /// Where a slot's frame starts: cut down to what was asked for at most.
    fn start(&self, ring: usize, slot: &netmap_slot) -> usize {
        (slot.ptr & self.rings[ring].offset_mask).min(256) as usize
    }

    fn transmit(&mut self, ring: usize) {
        let slots = self.slots(ring);
        if self.stalled {
            return;
        }
        while self.rings[ring].hwcur != self.rings[ring].head {
            let slot: netmap_slot = self.get(self.slot_at(ring, self.rings[ring].hwcur));
            let start = self.start(ring, &slot);
            assert!((2..self.buffers).contains(&slot.buf_idx), "a bad buffer was sent");
            assert!(start + usize::from(slot.len) <= 2048, "a slot that leaves its buffer was sent");
            let at = self.buffers_at + slot.buf_idx as usize * 2048 + start;
            let bytes = self.bytes(at, usize::from(slot.len)).to_vec();
            let ring = &mut self.rings[ring];
            ring.part.extend(bytes);
            if slot.flags & NS_MOREFRAG == 0 {
                let frame = std::mem::take(&mut ring.part);
                ring.frames.push_back(frame);
            }
            ring.hwcur = (ring.hwcur + 1) % slots;
        }
        self.rings[ring].hwtail = (self.rings[ring].head + slots - 1) % slots;
    }

    fn receive(&mut self, ring: usize) {
        let slots = self.slots(ring);
        let room = if self.rings[ring].offset_mask == 0 { 2048 } else { 1792 };
        let stop = (self.rings[ring].hwcur + slots - 1) % slots;
        while let Some(frame) = self.rings[ring].frames.front().cloned() {
            let parts = frame.chunks(room).count().max(1) as u32;
            let hwtail = self.rings[ring].hwtail;
            if (stop + slots - hwtail) % slots < parts {
                break;
            }
            self.rings[ring].frames.pop_front();
            for nth in 0..parts {
                let part = frame.chunks(room).nth(nth as usize).unwrap_or_default();
                let at = self.slot_at(ring, (hwtail + nth) % slots);
                let mut slot: netmap_slot = self.get(at);
                let start = self.start(ring, &slot);
                let to = self.buffers_at + slot.buf_idx as usize * 2048 + start;
                self.bytes(to, part.len()).copy_from_slice(part);
                slot.len = part.len() as u16;
                slot.flags = if nth + 1 < parts { NS_MOREFRAG } else { 0 };
                self.set(at, slot);
            }
            self.rings[ring].hwtail = (hwtail + parts) % slots;
        }
        self.rings[ring].hwcur = self.rings[ring].head;
    }

    /// `netmap_reset`: the driver has started anew. Frames on their way out count as sent; received ones that have not been
    /// taken stay.
    pub(super) fn reset(&mut self, ring: usize) {
        let slots = self.slots(ring);
        let ring = &mut self.rings[ring];
        ring.hwcur = ring.head;
        if ring.transmit {
            ring.hwtail = (ring.head + slots - 1) % slots;
        }
    }

    /// All slots become the kernel's, and the ring goes on `steps` further.
    pub(super) fn jump(&mut self, ring: usize, steps: u32) {
        let (at, slots) = (self.rings[ring].at, self.slots(ring));
        let to = (self.get::<u32>(at + 20) + steps) % slots;
        for field in [20, 24, 28] {
            self.set(at + field, to);
        }
        let ring = &mut self.rings[ring];
        [ring.head, ring.hwcur, ring.hwtail, ring.tail] = [to; 4];
    }

    /// Takes a ring that was scribbled over as it is, as far as this kernel's own assertions go.
    pub(super) fn mend(&mut self, ring: usize) {
        let (at, slots) = (self.rings[ring].at, self.slots(ring));
        for slot in 0..slots {
            let place = self.slot_at(ring, slot);
            let mut found: netmap_slot = self.get(place);
            if !(2..self.buffers).contains(&found.buf_idx) {
                found.buf_idx = self.fresh_buffer();
            }
            self.set(place, found);
        }
        let tail = self.rings[ring].hwtail;
        self.set(at + 28, tail);
    }

    /// A buffer that is in no slot.
    pub(super) fn fresh_buffer(&mut self) -> u32 {
        self.next_buffer += 1;
        assert!(self.next_buffer <= self.buffers);
        self.next_buffer - 1
    }

    /// The index in every slot of the ring.
    pub(super) fn held(&self, ring: usize) -> Vec<u32> {
        (0..self.slots(ring)).map(|slot| self.get(self.slot_at(ring, slot))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: the world's own mapping, made in `Scripted::new`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Places of a card's rings: transmit, receive (the first of each), host transmit, host receive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) tx: usize,
    pub(super) rx: usize,
    pub(super) host_tx: usize,
    pub(super) host_rx: usize,
}

impl Scripted {
    pub(super) fn new(cards: &[(&str, Card)]) -> Scripted {
        let buffers = 8192;
        let buffers_at = IF_BYTES * 16 + RING_BYTES;
        let bytes = buffers_at + buffers * 2048;
        // SAFETY: the name is a C string; the descriptor is new and ours.
        let memory =
            unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"netmap".as_ptr(), libc::MFD_CLOEXEC)) };
        // SAFETY: an open descriptor.
        assert_eq!(unsafe { libc::ftruncate(memory.as_raw_fd(), bytes as libc::off_t) }, 0);
        let base = map_shared(memory.as_fd(), bytes).expect("a mapping");
        let mut world = World {
            memory,
            base,
            bytes,
            buffers_at,
            buffers: buffers as u32,
            cards: HashMap::new(),
            rings: Vec::new(),
            next_buffer: 2,
            next_ring: IF_BYTES * 16,
            next_if: 64,
            memory_id: NEXT_MEMORY.fetch_add(1, Ordering::Relaxed),
            open: 0,
            open_error: None,
            control_error: None,
            sync_error: None,
            stalled: false,
            fragile: false,
            attached: true,
            version: NETMAP_API,
            interface: InterfaceFacts {
                index: 3,
                loopback: false,
                mac: Some([2, 0, 0, 0, 0, 1]),
                driver: Some("vmx".into()),
                native: None,
            },
            settings: HashMap::new(),
            tamper: None,
            log: Vec::new(),
        };
        for (name, card) in cards {
            world.add_card(name, *card);
        }
        Scripted(Arc::new(Mutex::new(world)))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn places(&self, name: &str) -> Places {
        let [tx, host_tx, rx, host_rx] = self.world().kinds(name).expect("a card").map(|(first, _)| first);
        Places { tx, rx, host_tx, host_rx }
    }

    /// A frame comes from outside.
    pub(super) fn arrive(&self, ring: usize, frame: &[u8]) {
        self.world().rings[ring].frames.push_back(frame.to_vec());
    }

    /// Frames that have gone out.
    pub(super) fn gone_out(&self, ring: usize) -> Vec<Vec<u8>> {
        self.world().rings[ring].frames.drain(..).collect()
    }
}

impl Kernel for Scripted {
    fn open(&self) -> io::Result<Arc<dyn Descriptor>> {
        let mut world = self.world();
        if let Some(code) = world.open_error {
            return Err(error(code));
        }
        world.open += 1;
        let memory = world.memory.try_clone()?;
        Ok(Arc::new(Opened { kernel: self.clone(), memory, bound: Mutex::default() }))
    }

    fn interface(&self, name: &str) -> io::Result<Option<InterfaceFacts>> {
        let world = self.world();
        Ok(world.cards.contains_key(name).then(|| world.interface.clone()))
    }

    fn setting(&self, name: &str) -> Option<i64> {
        self.world().settings.get(name).copied()
    }

    fn clear_offloads(&self, interface: &str) -> Result<OffloadGuard, OffloadError> {
        self.world().log.push(format!("clear {interface}"));
        let kernel = self.clone();
        Ok(OffloadGuard::played(move || {
            let mut world = kernel.world();
            let open = world.open;
            world.log.push(format!("restore with {open} open"));
        }))
    }
}

/// One opening of the scripted device.
struct Opened {
    kernel: Scripted,
    memory: OwnedFd,
    bound: Mutex<Vec<usize>>,
}

impl Descriptor for Opened {
    unsafe fn control(&self, header: &mut nmreq_header) -> io::Result<()> {
        let mut bound = self.bound.lock().expect("not poisoned");
        if !bound.is_empty() {
            return Err(error(libc::EBUSY));
        }
        *bound = self.kernel.world().control(header)?;
        Ok(())
    }

    fn sync(&self, exchange: Exchange) -> io::Result<()> {
        let bound = self.bound.lock().expect("not poisoned").clone();
        let mut world = self.kernel.world();
        let wanted =
            |world: &World, ring: usize| world.rings[ring].transmit == (exchange != Exchange::Receive);
        for ring in bound {
            if !wanted(&world, ring) {
                continue;
            }
            if world.rings[ring].gone {
                return Err(error(libc::ENXIO));
            }
            if let Some(code) = world.sync_error {
                world.rings[ring].syncs += 1;
                return Err(error(code));
            }
            let full = world.get::<u32>(world.rings[ring].at + 24) == world.rings[ring].tail;
            if world.rings[ring].transmit && world.fragile && (exchange == Exchange::Transmit || full) {
                world.stalled = true;
            }
            world.sync(ring);
        }
        Ok(())
    }

    fn map(&self, bytes: usize) -> io::Result<NonNull<u8>> {
        map_shared(self.memory.as_fd(), bytes)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn is_attached(&self, _name: &str, index: u32) -> bool {
        let world = self.kernel.world();
        world.attached && world.interface.index == index
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut world = self.kernel.world();
        world.open -= 1;
        for ring in self.bound.lock().expect("not poisoned").drain(..) {
            world.rings[ring].users -= 1;
            world.rings[ring].exclusive = false;
        }
    }
}
