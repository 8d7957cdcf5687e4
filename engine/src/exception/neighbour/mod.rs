//! The link addresses of neighbours, by ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861), on ports behind which no
//! host resolves for us; and the answers to those who ask for ours.
//!
//! 1. A packet whose next hop is not known waits in a short queue, while all stations are asked, three times a second apart.
//! 2. The answer releases the packets and puts the neighbour into the tables ([`Change`]).
//! 3. While a neighbour is in use it is asked again before its time is up: it alone three times, then all stations three
//!    times. Only when nobody answers does it leave the tables.
//! 4. Whoever did not answer is not asked for a while ([`HOLD`]); packets to it are lost at once.
//! 5. What a station says unasked is believed about entries that are there already, and makes no new ones.
//!
//! Bounds: [`Limits`] on entries and on waiting bytes, the least recently used giving way; one request a second for an entry;
//! [`STRANGERS_PER_SECOND`] requests for addresses that nothing is known of (RFC 6583 section 6.1).
//!
//! Not handled: duplicate address detection of our own addresses before use (they are announced, and conflicts counted), the
//! multicast listener reports of RFC 4862 section 5.4.2, redirects, anycast and proxies.

mod heard;
mod station;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use super::allowance::Allowance;
use crate::drops::Reason;
use crate::wire::ethernet::MacAddr;

use heard::{Claim, Question};
pub use station::Station;

/// A second, in the unit of all times here.
const SECOND: u64 = 1_000_000_000;
/// Between two requests for an address (RFC 4861 section 10, `RETRANS_TIMER`; RFC 1122 section 2.3.2.1 wants no more ARP).
pub const RETRY: u64 = SECOND;
/// Requests to all stations before an address counts as dead (RFC 4861 section 10, `MAX_MULTICAST_SOLICIT`).
pub const ASK_ALL: u8 = 3;
/// Requests to the neighbour alone before all stations are asked (RFC 4861 section 10, `MAX_UNICAST_SOLICIT`).
pub const ASK_ONE: u8 = 3;
/// A neighbour in use is asked this long after it last answered, so that six requests still fit into the 30 seconds of RFC
/// 4861 section 10, `REACHABLE_TIME`.
pub const REFRESH: u64 = 22 * SECOND + SECOND / 2;
/// How long a dead address is not asked for.
pub const HOLD: u64 = 5 * SECOND;
/// How long a neighbour that nobody uses stays in the tables.
pub const IDLE: u64 = 600 * SECOND;
/// A link address that was just learned is not replaced for so long by what a station says unasked: the stations are asked.
const SETTLE: u64 = SECOND;
/// Requests in a second for addresses that nothing is known of, all ports together.
pub const STRANGERS_PER_SECOND: u64 = 500;
/// How often a conflict is answered by an announcement (RFC 5227 section 2.4, `DEFEND_INTERVAL`).
const DEFEND: u64 = 10 * SECOND;
/// Announcements of a new address, and the time between them (RFC 5227 section 2.3, `ANNOUNCE_NUM`, `ANNOUNCE_INTERVAL`).
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_AGAIN: u64 = 2 * SECOND;

/// Bounds of a [`Neighbours`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Neighbours that are always kept resolved.
    pub kept: usize,
    /// Other neighbours that are resolved.
    pub resolved: usize,
    /// Other addresses that are being asked for, or did not answer.
    pub unresolved: usize,
    /// Packets that wait for one neighbour.
    pub queue: usize,
    /// Bytes of all waiting packets.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { kept: 16_384, resolved: 4096, unresolved: 1024, queue: 16, bytes: 1 << 20 }
    }
}

/// Why a packet was not released. Each is the drop reason `no-neighbour`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The next hop does not answer: an ICMP error may go to the sender.
    Unreachable,
    /// A later packet took its place.
    Overflow,
    /// The port is gone, or there is no address on it to ask from, or the next hop is none that a station can have.
    NoWay,
}

impl Lost {
    /// What the packet is counted under.
    #[must_use]
    pub const fn reason(self) -> Reason {
        Reason::NoNeighbour
    }
}

/// A change of what the tables should have as neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    Added(u16, IpAddr, MacAddr),
    /// It has another link address now.
    Changed(u16, IpAddr, MacAddr),
    /// It is gone.
    Removed(u16, IpAddr),
}

/// What is to be done, in order. Whoever embeds a [`Neighbours`] empties it after each call.
#[derive(Debug)]
pub struct Output<T> {
    /// Complete Ethernet frames, and the port that each leaves by.
    pub frames: Vec<(u16, Vec<u8>)>,
    /// Packets whose next hop is known now: to that station on that port.
    pub released: Vec<(u16, MacAddr, T)>,
    /// Packets that were lost.
    pub lost: Vec<(Lost, T)>,
    /// Changes for the tables.
    pub changes: Vec<Change>,
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Output { frames: Vec::new(), released: Vec::new(), lost: Vec::new(), changes: Vec::new() }
    }
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u64,
    /// Questions for our addresses answered.
    pub answers: u64,
    /// Claims to addresses that nobody asked for, ignored.
    pub unasked: u64,
    /// Link addresses that changed.
    pub moved: u64,
    /// Addresses that did not answer.
    pub failed: u64,
    /// Entries that gave way to others.
    pub evicted: u64,
    /// Others that claim an address of ours.
    pub conflicts: u64,
    /// Messages that are malformed.
    pub malformed: u64,
}

/// How far an address is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All stations are being asked; so many times already.
    Incomplete(u8),
    /// It answered not long ago.
    Reachable,
    /// It is believed to be there, and nobody has used it for a while.
    Stale,
    /// It is in use and being asked again; so many times already.
    Probing(u8),
    /// It did not answer, and is not asked for a while.
    Failed,
}

impl State {
    /// Is the link address known?
    #[must_use]
    pub const fn is_resolved(self) -> bool {
        matches!(self, State::Reachable | State::Stale | State::Probing(_))
    }
}

/// An entry, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The port.
    pub port: u16,
    /// Its IP address.
    pub address: IpAddr,
    /// Its link address, where it is known.
    pub mac: Option<MacAddr>,
    /// How far it is resolved.
    pub state: State,
    /// Packets that wait for it.
    pub waiting: usize,
}

/// What was made of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is neither ARP nor ND, or not this station's business.
    NotMine,
    /// It was dealt with.
    Done,
    /// It is to be dropped and counted.
    Malformed(Reason),
}

type Key = (u16, IpAddr);

/// An address on a port.
struct Entry<T> {
    state: State,
    /// Meaningful where the state is resolved.
    mac: MacAddr,
    kept: bool,
    /// When a packet last wanted it.
    touched: u64,
    /// When it last answered.
    confirmed: u64,
    /// When it was last asked for.
    asked: Option<u64>,
    /// When its link address was last learned.
    learned: u64,
    /// When [`Neighbours::tick`] has to look at it.
    due: u64,
    queue: VecDeque<(usize, T)>,
}

impl<T> Entry<T> {
    fn new(now: u64, kept: bool) -> Entry<T> {
        Entry {
            state: State::Incomplete(0),
            mac: MacAddr::default(),
            kept,
            touched: now,
            confirmed: 0,
            asked: None,
            learned: 0,
            due: now,
            queue: VecDeque::new(),
        }
    }

    /// Does somebody want it since it last answered?
    fn in_use(&self) -> bool {
        self.kept || self.touched > self.confirmed
    }

    /// It is asked again, `sent` times done already, as soon as it may be.
    fn probe(&mut self, now: u64, sent: u8) {
        self.state = State::Probing(sent);
        self.due = self.asked.map_or(now, |asked| asked.saturating_add(RETRY)).max(now);
    }

    fn confirm(&mut self, now: u64) {
        self.state = State::Reachable;
        self.confirmed = now;
        self.due = now.saturating_add(REFRESH);
    }
}

/// An address of ours that is being announced.
struct Announcement {
    port: u16,
    address: IpAddr,
    left: u8,
    due: u64,
}

/// The neighbours of all ports that no host resolves for. `T` is what waits: a packet, and whatever else is to be known when
/// it is released.
pub struct Neighbours<T> {
    limits: Limits,
    ports: Vec<Option<Station>>,
    entries: HashMap<Key, Entry<T>>,
    /// Every entry by its due time.
    timers: BTreeSet<(u64, Key)>,
    /// Entries that are not kept, by the time they were last used: resolved ones, and the others.
    resolved: BTreeSet<(u64, Key)>,
    unresolved: BTreeSet<(u64, Key)>,
    bytes: usize,
    strangers: Allowance,
    announcements: Vec<Announcement>,
    /// When each address of ours was last defended.
    defended: HashMap<Key, u64>,
    counters: Counters,
}

impl<T> Neighbours<T> {
    /// None yet, on no ports.
    #[must_use]
    pub fn new(limits: Limits) -> Neighbours<T> {
        Neighbours {
            limits,
            ports: Vec::new(),
            entries: HashMap::new(),
            timers: BTreeSet::new(),
            resolved: BTreeSet::new(),
            unresolved: BTreeSet::new(),
            bytes: 0,
            strangers: Allowance::new(STRANGERS_PER_SECOND),
            announcements: Vec::new(),
            defended: HashMap::new(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Neighbour> {
        self.entries.iter().map(|((port, address), entry)| Neighbour {
            port: *port,
            address: *address,
            mac: entry.state.is_resolved().then_some(entry.mac),
            state: entry.state,
            waiting: entry.queue.len(),
        })
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// The ports by their numbers; `None` for those that a host resolves for, or that have no link of their own. New
    /// addresses are announced; entries of ports that are gone, or whose address is ours now, are removed, and what waits for
    /// them is lost.
    pub fn set_ports(&mut self, now: u64, ports: Vec<Option<Station>>, out: &mut Output<T>) {
        let before = std::mem::replace(&mut self.ports, ports);
        let gone: Vec<Key> =
            self.entries.keys().filter(|(port, address)| !self.may_ask(*port, *address)).copied().collect();
        for key in gone {
            self.remove(key, Lost::NoWay, out);
        }
        let ports = std::mem::take(&mut self.ports);
        self.announcements.retain(|announcement| owns(&ports, announcement.port, announcement.address));
        self.defended.retain(|(port, address), _| owns(&ports, *port, *address));
        for (number, station) in (0_u16..).zip(&ports) {
            let Some(station) = station else { continue };
            let old = before.get(usize::from(number)).and_then(Option::as_ref);
            let known = |address| old.is_some_and(|old| old.mac() == station.mac() && old.owns(address));
            for address in station.addresses().filter(|address| !known(*address)) {
                self.announcements.retain(|other| (other.port, other.address) != (number, address));
                self.announcements.push(Announcement {
                    port: number,
                    address,
                    left: ANNOUNCEMENTS,
                    due: now,
                });
            }
        }
        self.ports = ports;
        self.tick(now, out);
    }

    /// The neighbours that routes and tunnels lead to: they are resolved before a packet comes, and always asked again in
    /// time. Those on other ports than [`Self::set_ports`] gave are left out, those beyond [`Limits::kept`] treated as any other.
    pub fn set_kept(&mut self, now: u64, kept: &[(u16, IpAddr)], out: &mut Output<T>) {
        let wanted: BTreeSet<Key> = kept
            .iter()
            .filter(|(port, address)| self.may_ask(*port, *address))
            .take(self.limits.kept)
            .copied()
            .collect();
        let dismissed: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.kept && !wanted.contains(*key))
            .map(|(key, _)| *key)
            .collect();
        for key in dismissed {
            let Some(mut entry) = self.take(key) else { continue };
            entry.kept = false;
            entry.touched = now;
            self.put(key, entry);
        }
        for key in wanted {
            let mut entry = self.take(key).unwrap_or_else(|| Entry::new(now, true));
            entry.kept = true;
            if entry.state == State::Stale {
                entry.probe(now, 0);
            }
            self.run(now, key, entry, out);
        }
        self.trim(out);
    }

    /// A packet of `len` bytes for `next_hop`, which the tables do not know. It is released, now or later, or lost.
    pub fn wait(
        &mut self,
        now: u64,
        port: u16,
        next_hop: IpAddr,
        len: usize,
        packet: T,
        out: &mut Output<T>,
    ) {
        let key = (port, next_hop);
        if !self.may_ask(port, next_hop) {
            out.lost.push((Lost::NoWay, packet));
            return;
        }
        let mut entry = self.take(key).unwrap_or_else(|| Entry::new(now, false));
        entry.touched = now;
        match entry.state {
            State::Incomplete(_) => self.enqueue(&mut entry, len, packet, out),
            State::Failed => out.lost.push((Lost::Unreachable, packet)),
            State::Stale => {
                entry.probe(now, 0);
                out.released.push((port, entry.mac, packet));
            }
            State::Reachable | State::Probing(_) => out.released.push((port, entry.mac, packet)),
        }
        self.run(now, key, entry, out);
        self.trim(out);
    }

    /// Packets went to that neighbour. Whoever cannot tell which are in use says so for all of them, now and then.
    pub fn used(&mut self, now: u64, port: u16, address: IpAddr, out: &mut Output<T>) {
        let Some(mut entry) = self.take((port, address)) else { return };
        entry.touched = now;
        if entry.state == State::Stale {
            entry.probe(now, 0);
        }
        self.run(now, (port, address), entry, out);
    }

    /// A frame that was received on a port.
    pub fn received(&mut self, now: u64, port: u16, frame: &[u8], out: &mut Output<T>) -> Received {
        let heard = match self.station(port).and_then(|station| heard::read(frame, station)) {
            None => return Received::NotMine,
            Some(Err(reason)) => {
                self.counters.malformed += 1;
                return Received::Malformed(reason);
            }
            Some(Ok(heard)) => heard,
        };
        if let Some(claim) = heard.claim {
            if owns(&self.ports, port, claim.address) {
                self.defend(now, port, claim.address, out);
                return Received::Done;
            }
            self.believe(now, port, claim, out);
            self.trim(out);
        }
        if let Some(question) = heard.question {
            self.answer(port, question, out);
        }
        Received::Done
    }

    /// When [`Self::tick`] has something to do next; a time that is past means now.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let entry = self.timers.first().map(|(due, _)| *due);
        let announcement = self.announcements.iter().map(|announcement| announcement.due).min();
        entry.into_iter().chain(announcement).min()
    }

    /// Does what is due: requests, their repetition, and what follows when nobody answers.
    pub fn tick(&mut self, now: u64, out: &mut Output<T>) {
        while let Some((due, key)) = self.timers.first().copied()
            && due <= now
        {
            let Some(entry) = self.take(key) else { break };
            self.run(now, key, entry, out);
        }
        let mut announcements = std::mem::take(&mut self.announcements);
        for announcement in announcements.iter_mut().filter(|announcement| announcement.due <= now) {
            if let Some(station) = self.station(announcement.port) {
                out.frames.push((announcement.port, station.announce(announcement.address)));
            }
            announcement.left = announcement.left.saturating_sub(1);
            announcement.due = now.saturating_add(ANNOUNCE_AGAIN);
        }
        announcements.retain(|announcement| announcement.left > 0);
        self.announcements = announcements;
        self.trim(out);
    }

    fn station(&self, port: u16) -> Option<&Station> {
        self.ports.get(usize::from(port))?.as_ref()
    }

    /// Is there a station that can ask for that address, and can a neighbour have it?
    fn may_ask(&self, port: u16, address: IpAddr) -> bool {
        let group = match address {
            IpAddr::V4(address) => {
                address.is_broadcast() || address.is_multicast() || address.is_unspecified()
            }
            IpAddr::V6(address) => address.is_multicast() || address.is_unspecified(),
        };
        !group
            && self.station(port).is_some_and(|station| {
                !station.owns(address) && station.addresses().any(|own| own.is_ipv4() == address.is_ipv4())
            })
    }

    /// Takes an entry out, with everything that refers to it.
    fn take(&mut self, key: Key) -> Option<Entry<T>> {
        let entry = self.entries.remove(&key)?;
        self.timers.remove(&(entry.due, key));
        self.resolved.remove(&(entry.touched, key));
        self.unresolved.remove(&(entry.touched, key));
        self.bytes -= entry.queue.iter().map(|(len, _)| len).sum::<usize>();
        Some(entry)
    }

    /// Puts an entry in.
    fn put(&mut self, key: Key, entry: Entry<T>) {
        self.timers.insert((entry.due, key));
        match (entry.kept, entry.state.is_resolved()) {
            (true, _) => {}
            (false, true) => {
                self.resolved.insert((entry.touched, key));
            }
            (false, false) => {
                self.unresolved.insert((entry.touched, key));
            }
        }
        self.bytes += entry.queue.iter().map(|(len, _)| len).sum::<usize>();
        self.entries.insert(key, entry);
    }

    /// Adds a packet to a queue, whose entry is taken out; older ones give way, of this queue first.
    fn enqueue(&mut self, entry: &mut Entry<T>, len: usize, packet: T, out: &mut Output<T>) {
        let mut own: usize = entry.queue.iter().map(|(len, _)| len).sum();
        let limits = self.limits;
        let full = |own: usize, others: usize| own.saturating_add(others).saturating_add(len) > limits.bytes;
        while !entry.queue.is_empty() && (entry.queue.len() >= limits.queue || full(own, self.bytes)) {
            if let Some((len, oldest)) = entry.queue.pop_front() {
                own -= len;
                out.lost.push((Lost::Overflow, oldest));
            }
        }
        while full(own, self.bytes) {
            let Some((_, key)) = self.unresolved.first().copied() else { break };
            self.counters.evicted += 1;
            self.remove(key, Lost::Overflow, out);
        }
        if limits.queue == 0 || full(own, self.bytes) {
            out.lost.push((Lost::Overflow, packet));
        } else {
            entry.queue.push_back((len, packet));
        }
    }

    /// Lets the least recently used entries go until there are no more than may be.
    fn trim(&mut self, out: &mut Output<T>) {
        while self.unresolved.len() > self.limits.unresolved
            && let Some((_, key)) = self.unresolved.first().copied()
        {
            self.counters.evicted += 1;
            self.remove(key, Lost::Overflow, out);
        }
        while self.resolved.len() > self.limits.resolved
            && let Some((_, key)) = self.resolved.first().copied()
        {
            self.counters.evicted += 1;
            self.remove(key, Lost::Overflow, out);
        }
    }

    /// Lets an entry go.
    fn remove(&mut self, key: Key, why: Lost, out: &mut Output<T>) {
        let Some(entry) = self.take(key) else { return };
        if entry.state.is_resolved() {
            out.changes.push(Change::Removed(key.0, key.1));
        }
        out.lost.extend(entry.queue.into_iter().map(|(_, packet)| (why, packet)));
    }

    /// Does what is due for an entry that is taken out, and puts it in again where it is still wanted.
    fn run(&mut self, now: u64, key: Key, mut entry: Entry<T>, out: &mut Output<T>) {
        while entry.due <= now {
            match entry.state {
                State::Incomplete(sent) if sent < ASK_ALL => {
                    // Known neighbours and kept ones are few; strangers may be as many as there are addresses.
                    let known = entry.kept || sent > 0;
                    if !known && !self.strangers.take(now) {
                        entry.due = now.saturating_add(RETRY);
                    } else {
                        entry.state = State::Incomplete(sent + 1);
                        self.ask(now, key, &mut entry, None, out);
                    }
                }
                State::Probing(sent) if sent < ASK_ONE + ASK_ALL => {
                    let to = (sent < ASK_ONE).then_some(entry.mac);
                    entry.state = State::Probing(sent + 1);
                    self.ask(now, key, &mut entry, to, out);
                }
                State::Incomplete(_) => self.fail(now, &mut entry, out),
                State::Probing(_) => {
                    out.changes.push(Change::Removed(key.0, key.1));
                    self.fail(now, &mut entry, out);
                }
                State::Reachable if entry.in_use() => entry.probe(now, 0),
                State::Reachable => {
                    entry.state = State::Stale;
                    entry.due = entry.touched.max(entry.confirmed).saturating_add(IDLE);
                }
                State::Stale if entry.kept => entry.probe(now, 0),
                State::Stale => {
                    out.changes.push(Change::Removed(key.0, key.1));
                    return;
                }
                State::Failed if entry.kept => entry.state = State::Incomplete(0),
                State::Failed => return,
            }
        }
        self.put(key, entry);
    }

    /// Sends a request; there is a station, or its entries would be gone.
    fn ask(&mut self, now: u64, key: Key, entry: &mut Entry<T>, to: Option<MacAddr>, out: &mut Output<T>) {
        entry.asked = Some(now);
        entry.due = now.saturating_add(RETRY);
        if let Some(frame) = self.station(key.0).and_then(|station| station.ask(key.1, to)) {
            self.counters.requests += 1;
            out.frames.push((key.0, frame));
        }
    }

    /// Nobody answered.
    fn fail(&mut self, now: u64, entry: &mut Entry<T>, out: &mut Output<T>) {
        self.counters.failed += 1;
        entry.state = State::Failed;
        entry.due = now.saturating_add(HOLD);
        out.lost.extend(entry.queue.drain(..).map(|(_, packet)| (Lost::Unreachable, packet)));
    }

    /// RFC 826 "Packet Reception" for entries that are there; RFC 4861 section 7.2.5.
    fn believe(&mut self, now: u64, port: u16, claim: Claim, out: &mut Output<T>) {
        let key = (port, claim.address);
        let Some(mut entry) = self.take(key) else {
            self.counters.unasked += 1;
            return;
        };
        if !entry.state.is_resolved() {
            if let Some(mac) = claim.mac {
                entry.mac = mac;
                entry.learned = now;
                out.changes.push(Change::Added(port, claim.address, mac));
                out.released.extend(entry.queue.drain(..).map(|(_, packet)| (port, mac, packet)));
                if claim.answer { entry.confirm(now) } else { entry.probe(now, 0) }
            }
            return self.run(now, key, entry, out);
        }
        match claim.mac.filter(|mac| *mac != entry.mac) {
            None if claim.answer => entry.confirm(now),
            None => {}
            // Two stations, or one that moved twice: what they say unasked is not worth a change, so all of them are asked.
            Some(_) if !claim.overrides || now < entry.learned.saturating_add(SETTLE) => match entry.state {
                State::Probing(sent) if sent >= ASK_ONE => {}
                _ => entry.probe(now, ASK_ONE),
            },
            Some(mac) => {
                entry.mac = mac;
                entry.learned = now;
                self.counters.moved += 1;
                out.changes.push(Change::Changed(port, claim.address, mac));
                if claim.answer { entry.confirm(now) } else { entry.probe(now, 0) }
            }
        }
        self.run(now, key, entry, out);
    }

    /// Answers for our own addresses, and for no others.
    fn answer(&mut self, port: u16, question: Question, out: &mut Output<T>) {
        let Some(station) = self.station(port).filter(|station| station.owns(question.target)) else {
            return;
        };
        if let Some(frame) = station.answer(question.target, question.asker, question.mac) {
            self.counters.answers += 1;
            out.frames.push((port, frame));
        }
    }

    /// Somebody claims an address of ours (RFC 5227 section 2.4): we keep it, and say so now and then.
    fn defend(&mut self, now: u64, port: u16, address: IpAddr, out: &mut Output<T>) {
        self.counters.conflicts += 1;
        let last = self.defended.get(&(port, address));
        if last.is_some_and(|last| now < last.saturating_add(DEFEND)) {
            return;
        }
        self.defended.insert((port, address), now);
        if let Some(station) = self.station(port) {
            out.frames.push((port, station.announce(address)));
        }
    }
}

fn owns(ports: &[Option<Station>], port: u16, address: IpAddr) -> bool {
    ports.get(usize::from(port)).and_then(Option::as_ref).is_some_and(|station| station.owns(address))
}
