//! A worker's eye on a batch, while a tap is open.
//!
//! 1. [`Watch::begin`]: each frame as it came; captures of its port.
//! 2. [`Watch::classified`]: what the first stage made of it, and the routes that it asked; captures of its tunnel's outer packets.
//! 3. The two stages of tunnels tell by [`Eye`] what comes out and goes in: captures of inner packets.
//! 4. [`Watch::opened`] and [`Watch::sealed`]: what these stages made of it.
//! 5. [`Watch::leaves`] and [`Watch::left`], around its transmission: captures of its port and tunnel.
//! 6. [`Watch::end`]: whoever traces gets the ways that his program takes.
//!
//! All that is written to was allocated before: a page for each packet of a batch here, records by those who read them.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use arrayvec::ArrayVec;

use super::headers::Headers;
use super::program::Facts;
use super::step::{EspSeen, GreSeen, STEPS, Source, Step};
use super::tap::{Captured, Direction, Kind, Lane, List, Tap, Taps, Target};
use crate::drops::Reason;
use crate::gre::Checked;
use crate::path::{Batch, Next, Packet, receive};
use crate::ring::BATCH;
use crate::tables::{NextHop, Tables, To};
use crate::tag::{Injected, Origin};
use crate::tunnel::Tunnel;
use crate::wire::ethernet::{self, Ethernet, MacAddr};
use crate::wire::{Esp, Gre};

/// Inner packets of one batch that are on their way into captured tunnels, at most: of each packet one, in two captures.
const PENDING: usize = 2 * BATCH;

/// What the stages of tunnels tell while they are watched. [`Shut`], it costs nothing: they are compiled once for each.
pub(crate) trait Eye: Copy {
    /// The frame is a packet that was accepted out of that tunnel.
    fn came_out(self, packet: &Packet<'_>, tunnel: u32, gre: Checked);
    /// The frame is a packet that is about to go into that tunnel.
    fn goes_in(self, packet: &Packet<'_>, tunnel: u32);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shut;

impl Eye for Shut {
    #[inline(always)]
    fn came_out(self, _: &Packet<'_>, _: u32, _: Checked) {}
    #[inline(always)]
    fn goes_in(self, _: &Packet<'_>, _: u32) {}
}

/// Somebody looks at the batch that starts at `first`.
#[derive(Clone, Copy)]
pub(crate) struct Open<'a> {
    watch: &'a RefCell<Watch>,
    first: usize,
}

impl<'a> Open<'a> {
    pub(crate) fn new(watch: &'a RefCell<Watch>, batch: &Batch<'_>) -> Open<'a> {
        Open { watch, first: batch.as_ptr().addr() }
    }

    /// The packet's place in the batch, where it lies.
    fn place(self, packet: &Packet<'_>) -> usize {
        (std::ptr::from_ref(packet).addr() - self.first) / size_of::<Packet<'_>>()
    }
}

impl Eye for Open<'_> {
    #[inline(never)]
    fn came_out(self, packet: &Packet<'_>, tunnel: u32, gre: Checked) {
        if let Ok(mut watch) = self.watch.try_borrow_mut() {
            watch.came_out(self.place(packet), packet, tunnel, gre);
        }
    }

    #[inline(never)]
    fn goes_in(self, packet: &Packet<'_>, tunnel: u32) {
        if let Ok(mut watch) = self.watch.try_borrow_mut() {
            watch.goes_in(self.place(packet), packet, tunnel);
        }
    }
}

/// What is noted of one packet.
#[derive(Debug, Default)]
struct Page {
    steps: ArrayVec<Step, STEPS>,
    forms: ArrayVec<Headers, 4>,
    tunnels: ArrayVec<u32, 4>,
    ports: ArrayVec<u16, 2>,
    dropped: Option<Reason>,
    /// Where the frame started in its buffer when it came, and its length.
    came: (usize, usize),
    /// What it needed next after the stage before.
    next: Option<Next>,
    /// The tunnel that it went into, of several the outermost.
    inside: Option<u32>,
}

impl Page {
    fn step(&mut self, step: Step) {
        let _ = self.steps.try_push(step);
    }

    fn form(&mut self, headers: Headers) -> Headers {
        let _ = self.forms.try_push(headers);
        headers
    }

    fn tunnel(&mut self, tunnel: u32) {
        if !self.tunnels.contains(&tunnel) {
            let _ = self.tunnels.try_push(tunnel);
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts { forms: &self.forms, tunnels: &self.tunnels, ports: &self.ports, dropped: self.dropped }
    }
}

/// An inner packet in a record that is handed over once the packet has gone.
struct Pending {
    tap: Arc<Tap>,
    place: usize,
    record: Box<Captured>,
}

/// See the module page.
pub(crate) struct Watch {
    worker: usize,
    taps: Cache<Arc<ArcSwap<List>>, Arc<List>>,
    pages: Box<[Page]>,
    pending: Box<ArrayVec<Pending, PENDING>>,
    /// Those of the packet that is being sent.
    leaving: ArrayVec<Pending, { super::TAPS }>,
    now: u64,
    /// Does anybody trace?
    traced: bool,
}

impl Watch {
    /// The eye of worker `worker`.
    pub(crate) fn new(taps: &Taps, worker: usize) -> Watch {
        Watch {
            worker,
            taps: Cache::new(Arc::clone(taps.list())),
            pages: (0..BATCH).map(|_| Page::default()).collect(),
            pending: Box::default(),
            leaving: ArrayVec::new(),
            now: 0,
            traced: false,
        }
    }

    /// Step 1. `from` says where the batch came from; of what the exception thread and other workers gave, each frame's tag says
    /// more.
    pub(crate) fn begin(&mut self, batch: &Batch<'_>, from: Source) {
        let taps: &List = self.taps.load();
        self.traced = taps.iter().any(|tap| matches!(tap.kind, Kind::Trace(_)) && !tap.is_done());
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.now = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        for (page, packet) in self.pages.iter_mut().zip(batch) {
            *page = Page { came: (packet.frame.headroom(), packet.frame.len()), ..Page::default() };
            let bytes = packet.frame.bytes();
            let from = match from {
                Source::Interface(_) => Source::Interface(packet.frame.tag()),
                Source::Worker(_) => Source::Worker(match Injected::decode(packet.frame.tag()) {
                    Some(Injected::Receive(port) | Injected::Host(port)) => Some(port),
                    _ => None,
                }),
                from => from,
            };
            let is_frame = match from {
                Source::Port { .. } | Source::Worker(_) => true,
                Source::Interface(_) => false,
                Source::Exceptions => matches!(
                    Injected::decode(packet.frame.tag()),
                    Some(Injected::Send(_) | Injected::Receive(_) | Injected::Host(_))
                ),
            };
            let headers = if is_frame {
                Headers::of_frame(bytes, packet.frame.whole_len())
            } else {
                Headers::of_packet(bytes)
            };
            page.form(headers);
            if let Source::Port { port, .. } | Source::Worker(Some(port)) = from {
                let _ = page.ports.try_push(port as u16);
            }
            if self.traced {
                let stations =
                    Ethernet::parse(bytes).ok().filter(|_| is_frame).map(|frame| (frame.src(), frame.dst()));
                page.step(Step::Received { from, stations, headers });
            }
            if let Source::Port { port, .. } = from {
                let of_port = |target| target == Target::Port(port);
                let shown =
                    Shown { time: self.now, direction: Direction::In, port: Some(port), bytes, headers };
                capture(taps, self.worker, of_port, &shown, page);
            }
        }
    }

    /// Step 2.
    pub(crate) fn classified(&mut self, batch: &Batch<'_>, tables: &Tables) {
        let taps: &List = self.taps.load();
        for (page, packet) in self.pages.iter_mut().zip(batch) {
            page.next = Some(packet.next);
            let tunnel = match packet.next {
                Next::Open(index) | Next::Elsewhere(index) => {
                    tables.inbound(index).map(|inbound| inbound.tunnel)
                }
                Next::Gre(tunnel) | Next::Inner(tunnel) => Some(tunnel),
                _ => None,
            };
            let Some(tunnel) = tunnel else {
                if self.traced {
                    route(page, packet, tables);
                }
                continue;
            };
            page.tunnel(tunnel);
            let (start, len) = page.came;
            // Nothing of it has been changed: it is opened in the next stage.
            let frame = packet.frame.buffer().get(start..start + len).unwrap_or_default();
            let port = page.ports.first().map(|port| u32::from(*port));
            let headers = Headers::of_frame(frame, len);
            let shown = Shown { time: self.now, direction: Direction::In, port, bytes: frame, headers };
            capture(taps, self.worker, |target| target == Target::Outer(tunnel), &shown, page);
            if !self.traced {
                continue;
            }
            page.step(Step::Belongs { tunnel });
            match packet.next {
                Next::Open(_) | Next::Elsewhere(_) => {
                    if let Ok(esp) = Esp::parse(esp_of(packet)) {
                        page.step(Step::Open(EspSeen {
                            spi: esp.spi(),
                            sequence: u64::from(esp.sequence()),
                        }));
                    }
                }
                Next::Gre(_) => note_gre(page, packet.frame.bytes()),
                Next::Inner(_) => {
                    // Its header is gone already, and was the tunnel's to the last bit.
                    let end = packet.frame.headroom();
                    let header_len = tables.tunnel(tunnel).map_or(0, |tunnel| tunnel.layout().gre);
                    note_gre(
                        page,
                        packet.frame.buffer().get(end.saturating_sub(header_len)..end).unwrap_or_default(),
                    );
                }
                _ => {}
            }
        }
    }

    /// Step 3, on the way in.
    fn came_out(&mut self, place: usize, packet: &Packet<'_>, tunnel: u32, gre: Checked) {
        let Some(page) = self.pages.get_mut(place) else { return };
        let bytes = packet.frame.bytes();
        let headers = page.form(inner_headers(gre.protocol, bytes));
        if self.traced {
            if let Some(Step::Open(esp)) = page.steps.last_mut() {
                esp.sequence = packet.sequence;
                // Its header has just been taken off.
                let end = packet.frame.headroom();
                let header = packet.frame.buffer().get(end.saturating_sub(gre.header_len)..end);
                note_gre(page, header.unwrap_or_default());
            }
            page.step(Step::CameOut { tunnel, headers });
        }
        let shown = Shown { time: self.now, direction: Direction::In, port: None, bytes, headers };
        capture(self.taps.load(), self.worker, |target| target == Target::Inner(tunnel), &shown, page);
    }

    /// Step 4, behind the stage that opens.
    pub(crate) fn opened(&mut self, batch: &Batch<'_>, tables: &Tables) {
        if !self.traced {
            return;
        }
        for (page, packet) in self.pages.iter_mut().zip(batch) {
            let Some(before @ (Next::Open(_) | Next::Elsewhere(_) | Next::Gre(_) | Next::Inner(_))) =
                page.next
            else {
                continue;
            };
            page.next = Some(packet.next);
            let accepted = matches!(page.steps.last(), Some(Step::CameOut { .. }));
            if let (false, Next::Drop(reason)) = (accepted, packet.next) {
                refused(page, packet, reason, before);
            } else {
                route(page, packet, tables);
            }
        }
    }

    /// Step 3, on the way out.
    fn goes_in(&mut self, place: usize, packet: &Packet<'_>, tunnel: u32) {
        let Some(page) = self.pages.get_mut(place) else { return };
        let bytes = packet.frame.bytes();
        let headers = inner_headers(packet.protocol, bytes);
        page.form(headers);
        page.inside = Some(tunnel);
        page.tunnel(tunnel);
        if self.traced {
            page.step(Step::WentIn { tunnel, headers });
        }
        let shown = Shown { time: self.now, direction: Direction::Out, port: None, bytes, headers };
        for tap in self.taps.load().iter() {
            if let Some(record) =
                copy(tap, self.worker, |target| target == Target::Inner(tunnel), &shown, page)
            {
                let pending = Pending { tap: Arc::clone(tap), place, record };
                if let Err(full) = self.pending.try_push(pending) {
                    let Pending { tap, record, .. } = full.element();
                    with_lane(&tap, self.worker, |lane| lane.lose(record));
                }
            }
        }
    }

    /// Step 4, behind the stage that seals.
    pub(crate) fn sealed(&mut self, batch: &Batch<'_>, tables: &Tables) {
        for Pending { tap, place, record } in self.pending.drain(..) {
            let gone = batch.get(place).is_some_and(|packet| matches!(packet.next, Next::Send(_)));
            settle(&tap, self.worker, record, gone);
        }
        for (page, packet) in self.pages.iter_mut().zip(batch) {
            if let Some(Next::Tunnel(tunnel)) = page.next {
                page.tunnel(tunnel);
            }
            let outermost = page.inside.and_then(|tunnel| tables.tunnel(tunnel));
            let (true, Next::Send(_), Some(tunnel)) = (self.traced, packet.next, outermost) else { continue };
            outer(page, packet.frame.bytes(), tunnel, self.worker);
        }
    }

    /// Step 5, before the packet goes; it is a whole frame where its next is [`Next::Send`].
    pub(crate) fn leaves(&mut self, place: usize, packet: &Packet<'_>) {
        let (Some(page), Next::Send(port)) = (self.pages.get_mut(place), packet.next) else { return };
        let bytes = packet.frame.bytes();
        let headers = page.form(Headers::of_frame(bytes, packet.frame.whole_len()));
        let _ = page.ports.try_push(port as u16);
        let inside = page.inside;
        let wanted = |target| {
            target == Target::Port(port) || inside.is_some_and(|tunnel| target == Target::Outer(tunnel))
        };
        let shown = Shown { time: self.now, direction: Direction::Out, port: Some(port), bytes, headers };
        for tap in self.taps.load().iter() {
            if let Some(record) = copy(tap, self.worker, wanted, &shown, page) {
                let _ = self.leaving.try_push(Pending { tap: Arc::clone(tap), place, record });
            }
        }
        if self.traced {
            let to = bytes.first_chunk().map_or(MacAddr::default(), |to| MacAddr(*to));
            page.step(Step::Sent { port, to, len: headers.len });
        }
    }

    /// Step 5, when the packet has gone, or not.
    pub(crate) fn left(&mut self, place: usize, packet: &Packet<'_>, sent: Result<(), Reason>) {
        for Pending { tap, record, .. } in self.leaving.drain(..) {
            settle(&tap, self.worker, record, sent.is_ok());
        }
        let Some(page) = self.pages.get_mut(place) else { return };
        if let Next::Drop(reason) = packet.next {
            page.dropped = Some(reason);
        }
        if let Err(reason) = sent {
            page.dropped = Some(reason);
        }
        if !self.traced {
            return;
        }
        match (packet.next, sent) {
            (Next::Drop(reason), _) => {
                // What is told to the exception thread is gone from here.
                if packet.frame.is_empty()
                    && let Some(cause) = crate::tag::Cause::of(reason)
                {
                    page.step(Step::Exception(cause));
                }
                if sent.is_err() {
                    page.step(Step::Dropped(reason));
                }
            }
            (_, Err(reason)) => {
                if matches!(page.steps.last(), Some(Step::Sent { .. })) {
                    page.steps.pop();
                }
                page.step(Step::Dropped(reason));
            }
            (Next::HandOver(worker), Ok(())) => page.step(Step::HandedOver(worker)),
            (Next::Host, Ok(())) => page.step(Step::Host),
            (Next::HostInner(tunnel), Ok(())) => page.step(Step::HostInner(tunnel)),
            (Next::Exception(cause), Ok(())) => page.step(Step::Exception(cause)),
            _ => {}
        }
    }

    /// Step 6.
    pub(crate) fn end(&mut self, packets: usize) {
        if !self.traced {
            return;
        }
        for tap in self.taps.load().iter() {
            let Kind::Trace(lanes) = &tap.kind else { continue };
            let Some(lane) = lanes.get(self.worker) else { continue };
            for page in self.pages.iter().take(packets) {
                if tap.is_done() {
                    break;
                }
                if !tap.program.takes(&page.facts()) {
                    continue;
                }
                let Some(mut way) = lane.take() else { continue };
                if tap.claim() {
                    (way.time_ns, way.worker) = (self.now, self.worker);
                    way.steps.clone_from(&page.steps);
                    lane.put(way);
                } else {
                    lane.give_back(way);
                }
            }
        }
    }
}

/// A packet as a capture is shown it.
struct Shown<'a> {
    time: u64,
    direction: Direction,
    port: Option<u32>,
    bytes: &'a [u8],
    headers: Headers,
}

/// A copy for a capture that wants the packet.
fn copy(
    tap: &Tap,
    worker: usize,
    wanted: impl Fn(Target) -> bool,
    shown: &Shown<'_>,
    page: &Page,
) -> Option<Box<Captured>> {
    let Kind::Capture(target, lanes) = &tap.kind else { return None };
    if !wanted(*target) || tap.is_done() {
        return None;
    }
    // A test is about the packet as it is captured; of a tunnel and ports, about what is known so far.
    let facts = Facts { forms: std::slice::from_ref(&shown.headers), ..page.facts() };
    if !tap.program.takes(&facts) {
        return None;
    }
    let mut record = lanes.get(worker)?.take()?;
    record.time_ns = shown.time;
    record.direction = shown.direction;
    record.port = shown.port;
    record.original_len = shown.headers.len;
    record.keep(shown.bytes);
    Some(record)
}

/// A copy for each capture that wants the packet, which has gone that far whatever becomes of it.
fn capture(taps: &List, worker: usize, wanted: impl Fn(Target) -> bool, shown: &Shown<'_>, page: &Page) {
    for tap in taps {
        if let Some(record) = copy(tap, worker, &wanted, shown, page) {
            settle(tap, worker, record, true);
        }
    }
}

/// Hands a copy over, if the packet has gone.
fn settle(tap: &Tap, worker: usize, record: Box<Captured>, gone: bool) {
    with_lane(
        tap,
        worker,
        |lane| if gone && tap.claim() { lane.put(record) } else { lane.give_back(record) },
    );
}

fn with_lane(tap: &Tap, worker: usize, act: impl FnOnce(&Lane<Captured>)) {
    if let Kind::Capture(_, lanes) = &tap.kind
        && let Some(lane) = lanes.get(worker)
    {
        act(lane);
    }
}

fn inner_headers(protocol: u16, bytes: &[u8]) -> Headers {
    if protocol == ethernet::TEB { Headers::of_frame(bytes, bytes.len()) } else { Headers::of_packet(bytes) }
}

/// The ESP packet in one that is to be opened.
fn esp_of<'p>(packet: &'p Packet<'_>) -> &'p [u8] {
    let bytes = packet.frame.bytes();
    match packet.next {
        Next::Elsewhere(_) => {
            receive::esp_in_udp(bytes).and_then(|(_, esp)| bytes.get(esp)).unwrap_or_default()
        }
        _ => bytes,
    }
}

fn note_gre(page: &mut Page, packet: &[u8]) {
    if let Ok(gre) = Gre::parse(packet) {
        page.step(Step::Gre(GreSeen {
            protocol: gre.protocol(),
            key: gre.key(),
            sequence: gre.sequence(),
            checksum: gre.checksum().is_some(),
        }));
    }
}

/// How far a packet came that was not accepted out of a tunnel.
fn refused(page: &mut Page, packet: &Packet<'_>, reason: Reason, before: Next) {
    if let (Next::Open(_) | Next::Elsewhere(_), Some(Step::Open(esp))) = (before, page.steps.last_mut()) {
        if packet.sequence != 0 {
            esp.sequence = packet.sequence;
        }
        if matches!(reason, Reason::GreKey | Reason::GreChecksum | Reason::GreSequence | Reason::GreUnknown) {
            note_gre(page, packet.frame.bytes());
        }
    }
    if matches!(reason, Reason::Nested | Reason::Ecn) {
        let headers = page.form(Headers::of_packet(packet.frame.bytes()));
        page.step(Step::Held { headers });
    }
}

/// Asks the routes once more what the stage has asked them.
fn route(page: &mut Page, packet: &Packet<'_>, tables: &Tables) {
    let routed = matches!(
        packet.next,
        Next::Station(_)
            | Next::Tunnel(_)
            | Next::Host
            | Next::HostInner(_)
            | Next::Drop(
                Reason::NoRoute
                    | Reason::NoNeighbour
                    | Reason::TooBig
                    | Reason::TtlExceeded
                    | Reason::Nested
                    | Reason::LinkLocal
            )
    );
    // What goes into a given tunnel is not routed, and a bridged frame neither.
    let given = matches!(Origin::decode(packet.origin), Origin::Into(_));
    let Some(Headers { ethertype: ethernet::IPV4 | ethernet::IPV6, ends: Some((_, to)), .. }) =
        page.forms.last()
    else {
        return;
    };
    if !routed || given {
        return;
    }
    let found = tables.find(*to);
    page.step(Step::Routed(found));
    let (Some(found), Next::Station(hop)) = (found, packet.next) else {
        if let (Some(To::Group(_)), Next::Tunnel(tunnel)) = (found.map(|found| found.next.to), packet.next) {
            page.step(Step::Spread(NextHop { to: To::Tunnel(tunnel), underlay: false, inside: false }));
        }
        return;
    };
    if matches!(found.next.to, To::Group(_))
        && let Some(next) = tables.next_hop(hop)
    {
        page.step(Step::Spread(*next));
    }
}

/// What stands in front of an inner packet now.
fn outer(page: &mut Page, frame: &[u8], tunnel: &Tunnel, worker: usize) {
    let layout = tunnel.layout();
    let inside = frame.get(ethernet::HEADER_LEN + layout.ip + layout.udp..).unwrap_or_default();
    if tunnel.mode.is_some() {
        // What is inside is sealed: its GRE header is the tunnel's.
        page.step(Step::Gre(GreSeen {
            protocol: page.forms.last().map_or(0, |form| form.ethertype),
            key: tunnel.gre.key,
            sequence: None,
            checksum: tunnel.gre.checksum,
        }));
        if let Ok(esp) = Esp::parse(inside) {
            // The highest number given out yet that ends so.
            let low = u64::from(esp.sequence());
            let last = tunnel.outbound_of(worker).map_or(low, |sa| sa.highest());
            let behind = (last & u64::from(u32::MAX)).wrapping_sub(low) & u64::from(u32::MAX);
            let sequence = last.saturating_sub(behind);
            page.step(Step::Seal(EspSeen { spi: esp.spi(), sequence }));
        }
    } else {
        note_gre(page, inside);
    }
    page.step(Step::Outer { headers: Headers::of_frame(frame, frame.len()) });
}
