//! The SAs of one tunnel, and which of them sends.
//!
//! - Every inbound SA receives for as long as its source has it: so a rekey loses nothing, whichever end switches first.
//! - One outbound SA sends. A new one takes over when the far end is sure to have its half: its source says so, or a packet
//!   came in by an inbound SA as young, or the old one is taken away or about to end, or [`PATIENCE`] has passed. Where two
//!   rekeys collide, the younger pair sends until it goes.
//! - While the far end's rekey is half done no other is wanted: the two would meet, and an end that is asked to replace an SA that
//!   it does not know yet has it thrown away (RFC 7296 section 2.25).
//! - Where charon has lost its way between two rekeys all the same, and a new pair is an exchange away, what it takes away stays for
//!   [`FAREWELL`]: the half that has come, as the far end sends by it; and the last outbound SA, until there is another, as the far
//!   end receives by it for as long, what is late. That it is so shows by its inbound SA, which stays: where a pair is to end, that one
//!   is taken away first, and the other goes with it at once.
//! - An SA that was there before we listened may have sent packets that we know nothing of. It receives, and never sends
//!   (no key and nonce twice); the tunnel wants a new one ([`Want::Rekey`]).
//! - A key that comes back (some kernels move an SA by taking it away and adding it again) goes on with the numbers and the
//!   window that it had.
//! - A charon that starts anew has forgotten its SAs, and the far end has not: such orphans live until the new pair has been
//!   in use for a while, or their time is over. So do those that another router has negotiated, where this one is master now.
//! - What the other router of a pair is told of them, and tells, is in [`shared`].

mod mapping;
pub mod shared;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use culvert_engine::esp::replay::ReplayWindow;
use culvert_engine::esp::{InboundSa, Key, OutboundSa, Router};
use culvert_engine::tunnel::UdpEncap;
use ring::digest::{SHA256, digest};

use self::shared::{Block, News};
use super::outbound::Outbound;
use super::sa::{Ends, Id, Origin, Sa};
use crate::config::Direction;
use crate::plan;
use crate::report::{self, SaReport, sa_report};
use crate::sync::marks::{Numbers, Outlet};

/// How long a new outbound SA waits for a sign that the far end has its half: a round trip, and the time of its own doing.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// One whose numbers end so soon is replaced without waiting for that sign: twice the time between two looks, and some.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long SAs that are taken away in the middle of a rekey go on.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the second half of what the far end has begun is waited for.
const HALF_DONE: Duration = Duration::from_secs(5);
/// How long orphans are kept beside a pair that works.
const DRAIN: Duration = Duration::from_secs(5);
/// Of the sequence numbers and IVs of an SA, the part that is left when it is time for a rekey: one in so many.
const RESERVE: u64 = 8;
/// How long a rekey that was asked for is waited for before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// How long the key of an SA without an end is remembered when the SA is gone.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// IKE's port behind a NAT, and ESP's in UDP (RFC 3948 section 2.1). Whatever an SA says at first, its packets may come there:
/// a NAT can appear on the way.
const NAT_T_PORT: u16 = 4500;

/// What a tunnel wants of whoever negotiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A new pair of SAs beside the one that is there.
    Rekey,
}

/// What all SAs have.
#[derive(Debug)]
struct About {
    id: Id,
    /// What its source calls it, where that is not how it is known here.
    called: Option<Id>,
    ends: Ends,
    sa: Sa,
    added: Instant,
    orphan: bool,
    /// Its source has taken it away, and until then it does its work all the same.
    leaves: Option<Instant>,
    /// Told of since the source began to tell anew.
    confirmed: bool,
    /// The partner has been told of it in this session, and of nothing since that it has to hear.
    shared: bool,
    /// The partner has it: it was told of it in this session, or has told of it.
    known: bool,
    /// The strongSwan of here had it before this process listened, and the partner has not told of it: nobody knows whether it lives.
    /// It is for receiving what may come, and no concern of the partner's.
    found: bool,
}

/// An SA that receives.
#[derive(Debug)]
struct Receiver {
    about: About,
    inbound: Arc<InboundSa>,
    /// The window's edge when it was last looked at, and since when it stands there.
    edge: (u64, Instant),
    /// What the tunnel had received when it was installed.
    bytes_before: u64,
    /// The number of [`InboundSa::source`] when it was last looked at.
    source: u64,
    /// The window's edge as the partner was told of it, and as the partner has told.
    told_edge: u64,
    partner_edge: u64,
}

/// An SA that sends.
#[derive(Debug)]
struct Sender {
    about: About,
    numbers: Numbers<Outbound>,
    ready: bool,
    /// What the tunnel had sent when it was installed.
    bytes_before: u64,
    /// It has protected as much as it may.
    spent: bool,
    /// It had no numbers left when it was last looked at.
    dry: bool,
    block: Block,
}

/// An SA that is gone, lest its key begin again with the first number.
#[derive(Debug)]
struct Retired {
    key: [u8; 32],
    engine: Engine,
    until: Instant,
}

/// What the engine had of an SA.
#[derive(Debug)]
enum Engine {
    In(Arc<InboundSa>),
    Out(Numbers<Outbound>),
    /// It may have sent before we listened.
    Unknown,
}

/// What the tables need of it.
#[derive(Debug, Clone, Default)]
pub struct Installed {
    /// All that receive.
    pub inbound: Vec<Arc<InboundSa>>,
    /// The one that sends; of several, the first.
    pub outbound: Option<Arc<OutboundSa>>,
    /// The others that send.
    pub more: Vec<Arc<OutboundSa>>,
    /// The UDP ports of its packets.
    pub udp: Option<UdpEncap>,
    /// Where its packets come from and go to.
    pub ends: Option<Ends>,
}

/// Bytes of inner packets that went through the tunnel so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Out of it.
    pub received: u64,
    /// Into it.
    pub sent: u64,
}

/// What has gone through an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Bytes of inner packets that went the SA's way through its tunnel since it was installed; while a rekey drains, those of
    /// the other SA as well.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Time since the last, as far as it was looked.
    pub idle: Option<Duration>,
}

/// The SAs of a tunnel.
#[derive(Debug, Default)]
pub struct Associations {
    /// Which of a pair this is.
    router: Router,
    receivers: Vec<Receiver>,
    senders: Vec<Sender>,
    retired: Vec<Retired>,
    /// How many send at once, less one.
    more: usize,
    asked: Option<Instant>,
    /// The last that sent has reached its end, and no other has come.
    ended: bool,
    /// Whoever negotiates may have SAs that we are not told of.
    untold: bool,
    /// Does the other router of the pair send?
    silent: bool,
    /// What the partner has to hear.
    news: Vec<News>,
    /// Set when packets of one have come from elsewhere.
    moved: Arc<AtomicBool>,
}

impl Associations {
    /// None yet, on that router of a pair.
    #[must_use]
    pub fn new(router: Router) -> Associations {
        Associations { router, ..Associations::default() }
    }

    /// The same, which set `moved` when packets have come from elsewhere.
    #[must_use]
    pub fn telling(self, moved: &Arc<AtomicBool>) -> Associations {
        Associations { moved: Arc::clone(moved), ..self }
    }

    /// From now on, that many send at once, if there are as many.
    pub fn spread(&mut self, sas: u8) {
        self.more = usize::from(sas).saturating_sub(1);
    }

    /// Takes in an SA; `fresh` where nobody can have used it.
    /// An SA that is there already stays as it is, with all that it has counted.
    ///
    /// # Errors
    /// The engine does not take it, in words.
    pub fn add(&mut self, sa: Sa, fresh: bool, traffic: Traffic, now: Instant) -> Result<(), String> {
        let silent = self.silent;
        // One that comes back goes on where it was, with what is told of it now.
        self.end(|about| about.leaves.is_some() && about.sa.key.expose() == sa.key.expose(), now);
        if let Some(about) = self.find(sa.id)
            && about.sa.key.expose() == sa.key.expose()
        {
            (about.confirmed, about.orphan) = (true, false);
            if !silent {
                // Its life is in this router's hands again.
                about.sa.origin = sa.origin;
            }
            return Ok(());
        }
        let direction =
            sa.direction.ok_or("its packets go neither to this tunnel's ends nor come from them")?;
        // An SPI that is given out anew: the old SA is one that we were not told the end of.
        self.end(|about| about.id == sa.id, now);
        let before = self.recall(&sa);
        match direction {
            Direction::In => {
                let inbound = match before {
                    Some(Engine::In(inbound)) => inbound,
                    _ => inbound(&sa, 0, &self.moved)?,
                };
                let about = About { found: !fresh, ..About::new(sa, now) };
                self.receivers.push(Receiver::new(about, inbound, traffic.received));
            }
            Direction::Out => {
                let numbers = match before {
                    Some(Engine::Out(numbers)) => numbers,
                    // This key is new and only this process sends with it.
                    None if fresh => Numbers::all(Outbound::all(&sa, self.router)?),
                    _ => {
                        self.retire(&sa, Engine::Unknown, now);
                        return Ok(());
                    }
                };
                self.senders.push(Sender::new(About::new(sa, now), numbers, traffic.sent));
                self.part(now);
                (self.ended, self.untold) = (false, false);
                // Of several that were asked for, the others come as well.
                self.asked = self.asked.filter(|_| self.more > 0);
            }
        }
        Ok(())
    }

    /// What the engine had of an SA that is gone, if it comes back.
    fn recall(&mut self, sa: &Sa) -> Option<Engine> {
        let fingerprint = fingerprint(sa);
        let place = self.retired.iter().position(|retired| retired.key == fingerprint)?;
        Some(self.retired.swap_remove(place).engine)
    }

    fn retire(&mut self, sa: &Sa, engine: Engine, now: Instant) {
        let until = now + sa.limits.life.unwrap_or(MEMORY);
        self.retired.push(Retired { key: fingerprint(sa), engine, until });
    }

    fn find(&mut self, id: Id) -> Option<&mut About> {
        let receivers = self.receivers.iter_mut().map(|receiver| &mut receiver.about);
        receivers.chain(self.senders.iter_mut().map(|sender| &mut sender.about)).find(|about| about.is(id))
    }

    /// Takes an SA away, unless it is the partner's to take away. Returns whether something else is to be installed.
    pub fn remove(&mut self, id: Id, now: Instant) -> bool {
        let sent = self.can_send();
        let is_half = self.half().is_some_and(|half| half.is(id));
        let Some(about) = self.find(id).filter(|about| about.sa.origin != Origin::Partner) else {
            return false;
        };
        let changed = if about.sa.direction == Some(Direction::Out) || is_half {
            about.leaves = Some(now + FAREWELL);
            self.part(now)
        } else {
            self.end(|about| about.is(id), now);
            self.part(now);
            true
        };
        if sent && self.sending().all(|sender| sender.about.leaves.is_some()) {
            // Whatever was asked for has come to nothing.
            self.asked = None;
        }
        changed
    }

    /// Those that leave go when their time is over; those that send, where another does, or none as old receives any more. Returns
    /// whether there were any.
    fn part(&mut self, now: Instant) -> bool {
        let replaced = self.usable().any(|sender| sender.about.leaves.is_none());
        let stay = self.receivers.iter().filter(|receiver| receiver.about.leaves.is_none());
        let youngest = stay.map(|receiver| receiver.about.added).max();
        let alone = |about: &About| youngest.is_none_or(|youngest| youngest + PATIENCE < about.added);
        let over = |about: &About| about.sa.direction == Some(Direction::Out) && (replaced || alone(about));
        self.end(|about| about.leaves.is_some_and(|until| now >= until || over(about)), now)
    }

    /// Has its source it still?
    #[must_use]
    pub fn has(&self, id: Id) -> bool {
        let receivers = self.receivers.iter().map(|receiver| &receiver.about);
        let mut all = receivers.chain(self.senders.iter().map(|sender| &sender.about));
        all.any(|about| about.is(id) && about.leaves.is_none())
    }

    /// Takes all of an origin away. Returns whether there were any.
    pub fn flush(&mut self, origin: Origin, now: Instant) -> bool {
        self.end(|about| about.sa.origin == origin, now)
    }

    /// Takes away all that are to end. Returns whether there were any.
    fn end(&mut self, ends: impl Fn(&About) -> bool, now: Instant) -> bool {
        let receivers: Vec<_> = self.receivers.extract_if(.., |receiver| ends(&receiver.about)).collect();
        let senders: Vec<_> = self.senders.extract_if(.., |sender| ends(&sender.about)).collect();
        let any = !receivers.is_empty() || !senders.is_empty();
        for receiver in receivers {
            self.gone(&receiver.about);
            self.retire(&receiver.about.sa, Engine::In(receiver.inbound), now);
        }
        for sender in senders {
            self.gone(&sender.about);
            self.retire(&sender.about.sa, Engine::Out(sender.numbers), now);
        }
        any
    }

    /// The SA's packets come from and go to other places. Returns whether it is one of these.
    ///
    /// Sequence numbers, IVs and window go on: it is the same key.
    pub fn moved(&mut self, id: Id, ends: Ends) -> bool {
        let Some(about) = self.find(id) else { return false };
        let before = about.id;
        about.ends = ends;
        (about.id.at, about.called) = (ends.destination, None);
        if about.shared {
            self.news.push(News::Moved(before, ends));
        }
        true
    }

    /// The source begins to tell anew of all SAs that it has.
    pub fn begin(&mut self, origin: Origin) {
        self.each(origin, |about| about.confirmed = false);
    }

    /// The source has told of all. What it has not told of is kept for a while, as an orphan.
    pub fn synchronised(&mut self, origin: Origin) {
        self.untold = false;
        self.each(origin, |about| about.orphan |= !about.confirmed);
    }

    /// The source cannot tell of all: there may be SAs that it does not tell of. A tunnel that has none here wants new ones, which
    /// it will tell of.
    pub fn cut(&mut self) {
        self.untold = true;
    }

    fn each(&mut self, origin: Origin, change: impl FnMut(&mut About)) {
        let receivers = self.receivers.iter_mut().map(|receiver| &mut receiver.about);
        let all = receivers.chain(self.senders.iter_mut().map(|sender| &mut sender.about));
        all.filter(|about| about.sa.origin == origin).for_each(change);
    }

    /// Looks at the time, and at what has come in. Returns whether something else is to be installed now.
    pub fn tick(&mut self, now: Instant) -> bool {
        let before = (self.receivers.len(), self.current());
        for receiver in &mut self.receivers {
            let edge = receiver.inbound.window().highest();
            if edge != receiver.edge.0 {
                receiver.edge = (edge, now);
            }
        }
        let youngest_heard = self
            .receivers
            .iter()
            .filter(|receiver| receiver.edge.0 > 0)
            .map(|receiver| receiver.about.added)
            .max();
        // There is no time for patience where what sends now is about to end.
        let urgent =
            self.sending().any(|sender| sender.block.ends_within(LAST_WORDS, sender.engine().remaining()));
        for sender in &mut self.senders {
            // The far end's inbound SA of a pair comes with its outbound one, which has just been heard of.
            let heard =
                youngest_heard.is_some_and(|heard| heard + Duration::from_millis(500) >= sender.about.added);
            sender.ready |= heard || urgent || now >= sender.about.added + PATIENCE;
        }
        let own = self.senders.iter().filter(|sender| !sender.about.orphan && sender.ready);
        // An orphan that is younger is what the far end sends by: the other router has negotiated it while this one was cut off, or
        // frozen, and took itself for the master all the time.
        let settled = own.map(|sender| sender.about.added).filter(|added| now >= *added + DRAIN).max();
        let over = |about: &About| {
            about.sa.limits.life.is_some_and(|life| now >= about.added + life)
                || about.orphan && settled.is_some_and(|settled| about.added <= settled)
        };
        self.part(now);
        let sent = !self.senders.is_empty();
        self.end(over, now);
        self.ended |= sent && self.senders.is_empty();
        self.retired.retain(|retired| now < retired.until);
        before != (self.receivers.len(), self.current())
    }

    fn usable(&self) -> impl Iterator<Item = &Sender> {
        self.senders.iter().filter(|sender| sender.engine().remaining() > 0 && !sender.spent)
    }

    /// The SAs that send, oldest first: the youngest that are ready, else the oldest.
    fn sending(&self) -> impl Iterator<Item = &Sender> {
        let ready = || self.usable().filter(|sender| sender.ready);
        let surplus = ready().count().saturating_sub(self.more + 1);
        let oldest = self.usable().take(usize::from(ready().next().is_none()));
        ready().skip(surplus).chain(oldest)
    }

    fn current(&self) -> Vec<Id> {
        self.sending().map(|sender| sender.about.id).collect()
    }

    /// What is to be installed.
    #[must_use]
    pub fn installed(&self) -> Installed {
        let mut sending = self.sending();
        let sender = sending.next();
        let ends = sender.map(|sender| sender.about.ends);
        Installed {
            more: sending.map(|sender| Arc::clone(sender.engine())).collect(),
            inbound: self.receivers.iter().map(|receiver| Arc::clone(&receiver.inbound)).collect(),
            outbound: sender.map(|sender| Arc::clone(sender.engine())),
            udp: ends.and_then(|ends| ends.udp).map(plan::udp),
            ends,
        }
    }

    /// Looks at how much the SAs have protected, and how fast. Returns whether something else is to be installed now.
    pub fn limit(&mut self, traffic: Traffic, now: Instant) -> bool {
        let mut changed = false;
        for sender in self.senders.iter_mut().filter(|sender| !sender.spent) {
            // With a link, who tells the partner has looked, and asked it for more.
            if sender.block.is_unseen(now) {
                sender.block.look(sender.numbers.outlet().next(), now);
            }
            // The partner may give it more; until then another one has to send.
            let dry = sender.engine().remaining() == 0;
            changed |= dry && !sender.dry;
            sender.dry = dry;
            let sent = traffic.sent.saturating_sub(sender.bytes_before);
            let most = sender.about.sa.limits.bytes;
            sender.spent = sender.engine().until_end() == 0 || most.is_some_and(|most| sent >= most);
            changed |= sender.spent;
        }
        changed
    }

    /// Is there none to send with because all have reached an end?
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        !self.can_send() && (self.ended || !self.senders.is_empty())
    }

    /// What the tunnel wants now. Each want is told once in a while.
    pub fn want(&mut self, traffic: Traffic, now: Instant) -> Option<Want> {
        let beyond = |limit: Option<u64>, count: u64| limit.is_some_and(|limit| count >= limit);
        let due = |about: &About, packets, bytes| {
            let limits = &about.sa.limits;
            about.orphan
                || limits.rekey.is_some_and(|rekey| now >= about.added + rekey)
                || beyond(limits.rekey_packets, packets)
                || beyond(limits.rekey_bytes, bytes)
        };
        // Of those that receive, others than the youngest are about to go; and so is that one if another is about to come.
        let sends_since = self.senders.last().map(|sender| sender.about.added);
        let stay = self.receivers.iter().rev().filter(|receiver| receiver.about.leaves.is_none());
        let mut youngest = stay.take(self.more + 1);
        let received = youngest.any(|Receiver { about, edge, bytes_before, .. }| {
            let half = sends_since.is_some_and(|since| about.added + Duration::from_millis(500) < since);
            (self.more > 0 || !half) && due(about, edge.0, traffic.received.saturating_sub(*bytes_before))
        });
        let sent = self.sending().any(|sender| {
            let Sender { about, bytes_before, .. } = sender;
            let (used, left) = (sender.engine().used(), sender.engine().until_end());
            sender.is_starving()
                || about.leaves.is_some()
                || left < used / (RESERVE - 1)
                || due(about, used, traffic.sent.saturating_sub(*bytes_before))
        });
        let due = if self.can_send() {
            received || sent
        } else {
            self.ended || self.untold || !self.receivers.is_empty()
        };
        let asked_lately = self.asked.is_some_and(|asked| now < asked + ASK_AGAIN);
        if !due || asked_lately || self.is_half_done(now) {
            return None;
        }
        self.asked = Some(now);
        Some(Want::Rekey)
    }

    /// Is the far end replacing the SAs, for no longer than that may take?
    #[must_use]
    pub fn is_half_done(&self, now: Instant) -> bool {
        self.half().is_some_and(|half| half.leaves.is_none() && now < half.added + HALF_DONE)
    }

    /// The new SA for receiving, where the far end replaces those that are there: the one for sending comes when it has deleted the old
    /// pair.
    fn half(&self) -> Option<&About> {
        let known = self.receivers.iter().rfind(|receiver| !receiver.about.found);
        let (sender, receiver) = (self.senders.last()?, known?);
        let half = sender.about.leaves.is_none() && receiver.about.added > sender.about.added;
        half.then_some(&receiver.about)
    }

    /// What was wanted could not be asked for: it is told again.
    pub fn unasked(&mut self) {
        self.asked = None;
    }

    /// Is there an SA to send with?
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.sending().next().is_some()
    }

    /// What has gone through that SA.
    #[must_use]
    pub fn used(&self, id: Id, traffic: Traffic, now: Instant) -> Option<Used> {
        let received = self.receivers.iter().find(|receiver| receiver.about.is(id)).map(|receiver| Used {
            bytes: traffic.received.saturating_sub(receiver.bytes_before),
            packets: receiver.edge.0,
            idle: (receiver.edge.0 > 0).then(|| now.saturating_duration_since(receiver.edge.1)),
        });
        let sent = || {
            let sender = self.senders.iter().find(|sender| sender.about.is(id))?;
            let bytes = traffic.sent.saturating_sub(sender.bytes_before);
            Some(Used { bytes, packets: sender.engine().used(), idle: None })
        };
        received.or_else(sent)
    }

    /// Where the SAs stand, and for how long they have been there: those that send first, the youngest last.
    pub fn report(&self, now: Instant) -> impl Iterator<Item = (SaReport, Duration)> {
        let told = move |direction, about: &About, numbers| {
            let Sa { id, suite, esn, origin, .. } = about.sa;
            let age = now.saturating_duration_since(about.added);
            (sa_report(direction, (id.spi, suite, esn), numbers, origin.name()), age)
        };
        let senders = self.senders.iter().map(move |sender| {
            let (used, remaining) = (sender.engine().used(), sender.engine().until_end());
            told(Direction::Out, &sender.about, report::Numbers::Out { used, remaining })
        });
        senders.chain(self.receivers.iter().map(move |receiver| {
            let highest = receiver.inbound.window().highest().max(receiver.partner_edge);
            told(Direction::In, &receiver.about, report::Numbers::In { highest })
        }))
    }
}

impl Receiver {
    fn new(about: About, inbound: Arc<InboundSa>, bytes_before: u64) -> Receiver {
        let edge = (inbound.window().highest(), about.added);
        Receiver { about, inbound, edge, bytes_before, source: 0, told_edge: 0, partner_edge: 0 }
    }
}

impl Sender {
    fn new(about: About, numbers: Numbers<Outbound>, bytes_before: u64) -> Sender {
        let (ready, block) = (about.sa.ready, Block::new(numbers.outlet().next(), about.added));
        let dry = numbers.outlet().engine().remaining() == 0;
        Sender { about, numbers, ready, bytes_before, spent: false, dry, block }
    }

    fn engine(&self) -> &Arc<OutboundSa> {
        self.numbers.outlet().engine()
    }
}

/// The engine's SA that receives by `sa`, where all up to and with `edge` has been received. It sets `moved` when its packets come from
/// elsewhere.
fn inbound(sa: &Sa, edge: u64, moved: &Arc<AtomicBool>) -> Result<Arc<InboundSa>, String> {
    let window = ReplayWindow::beyond(sa.window, sa.esn, edge).map_err(|error| error.to_string())?;
    let key = Key::new(plan::suite(sa.suite), sa.key.expose()).map_err(|error| error.to_string())?;
    let port = sa.ends.udp.map_or(NAT_T_PORT, |udp| udp.destination);
    Ok(Arc::new(InboundSa::new(sa.id.spi, key, sa.esn, window).in_udp(port).telling(moved)))
}

impl About {
    fn new(sa: Sa, now: Instant) -> About {
        About {
            id: sa.id,
            called: None,
            ends: sa.ends,
            sa,
            added: now,
            orphan: false,
            leaves: None,
            confirmed: true,
            shared: false,
            known: false,
            found: false,
        }
    }

    fn is(&self, id: Id) -> bool {
        self.id == id || self.called == Some(id)
    }
}

/// What tells one key from another, without being one.
fn fingerprint(sa: &Sa) -> [u8; 32] {
    digest(&SHA256, sa.key.expose()).as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
