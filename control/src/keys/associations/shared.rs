//! SAs that two routers have: what each tells the other of them, and what becomes of what it is told.
//!
//! Each tells all that it has when a session begins, and what changes. The one that sends tells the edges of its windows while they
//! move, and asks for numbers in good time. The *silent* one takes in what it is told, and takes away what the other one takes
//! away; one that sends decides for itself what ends: SAs of the partner's strongSwan are orphans to it, and go when a pair of its
//! own strongSwan has taken over.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{About, Associations, Engine, Receiver, Sender, Traffic, inbound};
use crate::config::Direction;
use crate::keys::outbound::Outbound;
use crate::keys::sa::{Ends, Id, Origin, Sa};
use crate::sync::marks::{Numbers, Outlet};

/// An SA as one router tells the other of it.
#[derive(Debug, Clone)]
pub struct Told {
    /// The SA. Its direction is given; its reqid and window mean nothing.
    pub sa: Sa,
    /// For how long it has been there.
    pub age: Duration,
    /// How far it is.
    pub state: State,
}

/// How far an SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It sends; the numbers from there on are given to whom it is told.
    Out(Option<u64>),
    /// It receives; the highest number received.
    In(u64),
}

/// What one router tells the other of a tunnel's SAs.
#[derive(Debug, Clone)]
pub enum News {
    /// There is this one.
    Sa(Box<Told>),
    /// Its packets come from or go to another place.
    Moved(Id, Ends),
    /// It is no more.
    Removed(Id),
    /// The highest number received by it.
    Edge(Id, u64),
    /// So many numbers are asked for.
    Ask(Id, u64),
}

/// How many numbers a router keeps in hand.
#[derive(Debug)]
pub(super) struct Block {
    /// The next number, when it was last looked.
    seen: (u64, Instant),
    /// Numbers a second.
    rate: f64,
    asked: Option<Instant>,
}

/// Numbers for this time are kept in hand: longer than strongSwan takes for another SA, where the partner does not answer.
const IN_HAND: f64 = 20.0; // seconds
/// But so many at least.
const FEWEST: u64 = 1 << 16;
/// And so many at most: the numbers without ESN are 2^32, and what is in hand when the other one takes over is lost.
const MOST: (u64, u64) = (1 << 24, 1 << 32);
/// How often the rate is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Asked for by one that has none, and sends nothing yet: as many as there are to spare.
const SOME: u64 = 0;
/// How long an answer is waited for before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Block {
    pub(super) fn new(next: u64, now: Instant) -> Block {
        Block { seen: (next, now), rate: 0.0, asked: None }
    }

    pub(super) fn look(&mut self, next: u64, now: Instant) {
        let (before, at) = self.seen;
        let time = now.saturating_duration_since(at);
        if time >= LOOK {
            let rate = next.saturating_sub(before) as f64 / time.as_secs_f64();
            // Falls slowly: after a pause it goes on as before.
            self.rate = rate.max(self.rate * 0.98);
            self.seen = (next, now);
        }
    }

    /// Has nobody looked for a while?
    pub(super) fn is_unseen(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen.1) >= 2 * LOOK
    }

    /// It goes on with `next`: what lies before was not sent here, or not lately.
    fn jump(&mut self, next: u64) {
        self.seen.0 = next;
    }

    /// At this rate, are `remaining` numbers used up in that time?
    pub(super) fn ends_within(&self, time: Duration, remaining: u64) -> bool {
        self.rate * time.as_secs_f64() > remaining as f64
    }

    fn size(&self, esn: bool) -> u64 {
        let most = if esn { MOST.1 } else { MOST.0 };
        // Saturates, as it should.
        ((self.rate * IN_HAND) as u64).clamp(FEWEST, most)
    }
}

impl Sender {
    fn block(&self) -> u64 {
        self.block.size(self.about.sa.esn)
    }

    /// Do its numbers end soon, because the partner gives none?
    pub(super) fn is_starving(&self) -> bool {
        self.numbers.wants(self.block() / 4).is_some()
    }
}

impl Associations {
    /// The partner is another one, or has forgotten all: a session has begun or ended.
    pub fn forget_partner(&mut self) {
        self.news.clear();
        self.all().for_each(|about| (about.shared, about.known) = (false, false));
        self.senders.iter_mut().for_each(|sender| sender.block.asked = None);
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut About> {
        let receivers = self.receivers.iter_mut().map(|receiver| &mut receiver.about);
        receivers.chain(self.senders.iter_mut().map(|sender| &mut sender.about))
    }

    /// Notes for the partner that an SA of which it has been told is gone.
    pub(super) fn gone(&mut self, about: &About) {
        if about.known {
            self.news.push(News::Removed(about.id));
        }
    }

    /// What the partner has to hear now.
    pub fn tell(&mut self, now: Instant, mut say: impl FnMut(News)) {
        self.news.drain(..).for_each(&mut say);
        for sender in &mut self.senders {
            sender.block.look(sender.numbers.outlet().next(), now);
            let block = sender.block();
            if !sender.about.shared {
                // Given up before it is said.
                let from = sender.numbers.share(2 * block);
                say(News::Sa(Box::new(sender.about.told(State::Out(from), now))));
                (sender.about.shared, sender.about.known) = (true, true);
            }
            let lately = sender.block.asked.is_some_and(|asked| now < asked + ASK_AGAIN);
            // One that is silent and has forgotten what it was given asks for some to go on with.
            let wants = match self.silent {
                true => sender.numbers.is_empty().then_some(SOME),
                false => sender.numbers.wants(block),
            };
            if !lately && let Some(count) = wants {
                sender.block.asked = Some(now);
                say(News::Ask(sender.about.id, count));
            }
        }
        for receiver in self.receivers.iter_mut().filter(|receiver| !receiver.about.found) {
            let edge = receiver.inbound.window().highest().max(receiver.partner_edge);
            if !receiver.about.shared {
                say(News::Sa(Box::new(receiver.about.told(State::In(edge), now))));
                (receiver.about.shared, receiver.about.known) = (true, true);
            } else if edge > receiver.told_edge && !self.silent {
                say(News::Edge(receiver.about.id, edge));
            }
            receiver.told_edge = edge;
        }
    }

    /// The partner tells of an SA. Returns whether something else is to be installed.
    ///
    /// # Errors
    /// The engine does not take it, in words.
    pub fn adopt(&mut self, told: Told, traffic: Traffic, now: Instant) -> Result<bool, String> {
        let Told { sa, age, state } = told;
        let direction = sa.direction.ok_or("it has no direction")?;
        if let Some(about) = self.find(sa.id)
            && about.sa.key.expose() == sa.key.expose()
        {
            (about.confirmed, about.known, about.found) = (true, true, false);
            let moved = std::mem::replace(&mut about.ends, sa.ends) != sa.ends;
            match state {
                State::Out(from) => self.hold(sa.id, from),
                State::In(edge) => self.edge(sa.id, edge),
            }
            return Ok(moved);
        }
        // Also where it has its key at another address: one key has one SA, with one count of numbers.
        let is_it =
            |about: &About| about.sa.direction == sa.direction && about.sa.key.expose() == sa.key.expose();
        self.end(|about| about.id == sa.id || is_it(about), now);
        let before = self.recall(&sa);
        let added = now.checked_sub(age).unwrap_or(now);
        let mut about = About { orphan: !self.silent, shared: true, known: true, ..About::new(sa, added) };
        match (direction, state) {
            (Direction::In, State::In(edge)) => {
                let inbound = match before {
                    Some(Engine::In(inbound)) => inbound,
                    _ => inbound(&about.sa, edge, &self.moved)?,
                };
                let mut receiver = Receiver::new(about, inbound, traffic.received);
                receiver.partner_edge = edge;
                receiver.told_edge = edge;
                let place = self.receivers.partition_point(|other| other.about.added <= added);
                self.receivers.insert(place, receiver);
            }
            (Direction::Out, State::Out(from)) => {
                let mut numbers = match before {
                    Some(Engine::Out(numbers)) => numbers,
                    _ => Numbers::none(Outbound::none(&about.sa, self.router)?),
                };
                from.into_iter().for_each(|from| numbers.hold(from));
                // What is ours of it, the partner has to hear.
                about.shared = !numbers.is_unlimited();
                let place = self.senders.partition_point(|other| other.about.added <= added);
                self.senders.insert(place, Sender::new(about, numbers, traffic.sent));
            }
            _ => return Err("it has the numbers of another direction".to_owned()),
        }
        Ok(true)
    }

    fn sender_of(&mut self, id: Id) -> Option<&mut Sender> {
        self.senders.iter_mut().find(|sender| sender.about.id == id)
    }

    fn hold(&mut self, id: Id, from: Option<u64>) {
        if let (Some(sender), Some(from)) = (self.sender_of(id), from) {
            sender.numbers.hold(from);
        }
    }

    /// The partner has received up to `edge` by that SA.
    pub fn edge(&mut self, id: Id, edge: u64) {
        if let Some(receiver) = self.receivers.iter_mut().find(|receiver| receiver.about.id == id) {
            receiver.partner_edge = receiver.partner_edge.max(edge);
        }
    }

    /// The partner asks for numbers. `None`: there are none for it.
    pub fn give(&mut self, id: Id, count: u64) -> Option<RangeInclusive<u64>> {
        let numbers = &mut self.sender_of(id)?.numbers;
        if count == SOME { numbers.spare() } else { numbers.give(count) }
    }

    /// The partner gives numbers. Returns whether something else is to be installed.
    pub fn take(&mut self, id: Id, numbers: RangeInclusive<u64>) -> bool {
        let Some(sender) = self.sender_of(id) else { return false };
        sender.block.asked = None;
        let before = (Arc::clone(sender.engine()), sender.engine().remaining() == 0);
        sender.numbers.take(numbers);
        if !Arc::ptr_eq(&before.0, sender.engine()) {
            sender.block.jump(sender.numbers.outlet().next());
        }
        // Without a number to send with, it was not installed.
        before.1 || !Arc::ptr_eq(&before.0, sender.engine())
    }

    /// The partner says that the SA is no more. Returns whether something else is to be installed.
    pub fn partner_removed(&mut self, id: Id, now: Instant) -> bool {
        // It need not be told so.
        self.find(id).into_iter().for_each(|about| (about.shared, about.known) = (false, false));
        self.silent && self.end(|about| about.id == id, now)
    }

    /// The partner says that its packets come from or go to other places. Returns whether something else is to be installed.
    pub fn partner_moved(&mut self, id: Id, ends: Ends) -> bool {
        let Some(about) = self.find(id) else { return false };
        about.ends = ends;
        about.id.at = ends.destination;
        true
    }

    /// The partner has told of all that it has: what it has not told of is not there any more. Returns whether there was any.
    pub fn partner_has_told(&mut self, now: Instant) -> bool {
        self.silent && self.end(|about| about.sa.origin == Origin::Partner && !about.confirmed, now)
    }

    /// Does the other router send?
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// This router is silent from now on. Its SAs are the partner's to take away; what its own strongSwan does to them, which lets
    /// go of them now, means nothing.
    pub fn hand_over(&mut self) {
        if std::mem::replace(&mut self.silent, true) {
            return;
        }
        let known = self.all().filter(|about| !about.found);
        known.for_each(|about| (about.sa.origin, about.orphan) = (Origin::Partner, false));
    }

    /// This router sends and receives from now on, with all that is its. Returns whether something else is to be installed.
    pub fn take_over(&mut self) -> bool {
        let mut changed = std::mem::replace(&mut self.silent, false);
        for sender in &mut self.senders {
            sender.about.orphan |= sender.about.sa.origin == Origin::Partner;
            if sender.numbers.claim() {
                sender.block.jump(sender.numbers.outlet().next());
                // And is to be shared anew.
                (sender.about.shared, changed) = (false, true);
            }
        }
        for receiver in &mut self.receivers {
            receiver.about.orphan |= receiver.about.sa.origin == Origin::Partner;
            if receiver.partner_edge > receiver.inbound.window().highest()
                && let Ok(beyond) = inbound(&receiver.about.sa, receiver.partner_edge, &self.moved)
            {
                (receiver.inbound, changed) = (beyond, true);
            }
        }
        changed
    }
}

impl About {
    fn told(&self, state: State, now: Instant) -> Told {
        let mut sa = self.sa.clone();
        (sa.id, sa.ends) = (self.id, self.ends);
        Told { sa, age: now.saturating_duration_since(self.added), state }
    }
}

#[cfg(test)]
mod tests;
