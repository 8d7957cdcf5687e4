//! Which of two routers may send with which sequence numbers of an SA that both have.
//!
//! Numbers are owned. A router sends with a number only if it owns it, and gives up what it owns *before* it says so to the other
//! one. So no number is used twice, whatever becomes of roles, clocks, processes and the link: what is lost on the way is nobody's.
//! An IV follows from the number and the router, and so is not used twice either.
//!
//! - The router whose strongSwan negotiated the SA owns all numbers, and is *using* them.
//! - To share the SA, it limits itself to a mark, and then says: all above is yours ([`Numbers::share`]). The partner *holds*
//!   that ([`Numbers::hold`]) and sends with none of it as long as it is not master.
//! - The sender asks for more in good time ([`Numbers::wants`]). A partner that only holds gives the first of what it holds
//!   ([`Numbers::give`]), and the sender goes on with it ([`Numbers::take`]).
//! - A partner that has lost its memory while the other one sends holds nothing and has nothing in hand. It is given a part of
//!   what the sender has in hand ([`Numbers::spare`]), so that it has something to go on with.
//! - A router that becomes master goes on with what it holds ([`Numbers::claim`]), and is using it from then on: it gives none
//!   of it away but by sharing anew, from beyond what it has used.
//! - A sender that gets no answer goes on to its mark, and asks its strongSwan for another SA meanwhile.
//!
//! A router that has lost its memory owns nothing, until it is given something.

use std::ops::RangeInclusive;

/// What sends with numbers.
pub trait Outlet {
    /// Sends with no number above `last` from now on. Returns the highest that may have been sent, or may be yet; `last` at least.
    fn limit(&mut self, last: u64) -> u64;
    /// May send with those that follow its limit as well, up to and with `last`.
    fn extend(&mut self, last: u64);
    /// Sends with these numbers from now on. What has not heard of that yet may go on with those that it had before, which stay
    /// this router's and are in no account any more.
    fn move_to(&mut self, numbers: RangeInclusive<u64>);
    /// The number that is sent with next.
    fn next(&self) -> u64;
    /// The highest number that it may send with now.
    fn last(&self) -> u64;
    /// The highest number that there is.
    fn end(&self) -> u64;
}

/// Whose the numbers beyond those that may be sent now are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rest {
    /// Ours: there is no limit but the end.
    Using,
    /// Ours from that number on, and not in use.
    Held(u64),
    /// The partner's, or nobody's.
    Away,
}

/// The numbers of one SA that this router owns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Numbers<O> {
    outlet: O,
    rest: Rest,
}

impl<O: Outlet> Numbers<O> {
    /// All of them: of an SA that has just been negotiated here. `outlet` has no limit.
    pub fn all(outlet: O) -> Numbers<O> {
        Numbers { outlet, rest: Rest::Using }
    }

    /// None of them: of an SA that has been heard of. `outlet` may send nothing.
    pub fn none(outlet: O) -> Numbers<O> {
        Numbers { outlet, rest: Rest::Away }
    }

    /// What sends.
    pub fn outlet(&self) -> &O {
        &self.outlet
    }

    /// Gives the partner all numbers but for the next `block`. Returns from where on they are the partner's. `None`: they are not
    /// ours to give, or not enough are left to be worth it.
    pub fn share(&mut self, block: u64) -> Option<u64> {
        let mark = self.outlet.next().saturating_sub(1).saturating_add(block);
        if self.rest != Rest::Using || mark >= self.outlet.end() {
            return None;
        }
        self.rest = Rest::Away;
        Some(self.outlet.limit(mark) + 1)
    }

    /// The partner has given us all numbers from `from` on. What it cannot have had is not believed: neither what we own, nor what
    /// we may have sent with.
    pub fn hold(&mut self, from: u64) {
        let from = from.max(self.outlet.last().saturating_add(1)).max(self.outlet.next());
        self.rest = match self.rest {
            Rest::Using => Rest::Using,
            Rest::Held(before) => Rest::Held(before.max(from)),
            Rest::Away => Rest::Held(from),
        };
    }

    /// Gives the partner up to `count` numbers; none of those that we are using.
    pub fn give(&mut self, count: u64) -> Option<RangeInclusive<u64>> {
        let Rest::Held(from) = self.rest else { return None };
        let last = from.saturating_add(count.saturating_sub(1)).min(self.outlet.end());
        if count == 0 || from > last {
            return None;
        }
        self.rest = Rest::Held(last + 1);
        Some(from..=last)
    }

    /// Gives the partner the last quarter of what may be sent now, where there is a limit: the rest lasts for a while.
    pub fn spare(&mut self) -> Option<RangeInclusive<u64>> {
        let in_hand = self.in_hand();
        if self.rest != Rest::Away || in_hand < 2 {
            return None;
        }
        let last = self.outlet.last();
        let from = self.outlet.limit(last - in_hand.div_ceil(4)) + 1;
        (from <= last).then_some(from..=last)
    }

    fn in_hand(&self) -> u64 {
        (self.outlet.last() + 1).saturating_sub(self.outlet.next())
    }

    /// The partner has given us these numbers.
    pub fn take(&mut self, numbers: RangeInclusive<u64>) {
        let last = self.outlet.last();
        if self.rest == Rest::Using || numbers.is_empty() || *numbers.start() <= last {
            // Nothing that we could use, or nothing that was the partner's.
        } else if *numbers.start() == last + 1 {
            self.outlet.extend(*numbers.end());
        } else {
            self.outlet.move_to(numbers);
        }
    }

    /// Goes on with what is held. Returns whether there was anything.
    pub fn claim(&mut self) -> bool {
        let Rest::Held(from) = self.rest else { return false };
        self.rest = Rest::Using;
        self.outlet.move_to(from..=self.outlet.end());
        true
    }

    /// How many numbers are to be asked for, so that about `block` are in hand; `None` where enough are.
    pub fn wants(&self, block: u64) -> Option<u64> {
        let short =
            self.rest == Rest::Away && self.outlet.last() < self.outlet.end() && self.in_hand() < block;
        short.then_some(block)
    }

    /// Are there none, neither in hand nor held?
    pub fn is_empty(&self) -> bool {
        self.rest == Rest::Away && self.in_hand() == 0
    }

    /// Is there nothing to be asked for, and nothing to be had from the partner? Then only the end of the SA ends it.
    pub fn is_unlimited(&self) -> bool {
        self.rest == Rest::Using
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    /// Where the numbers end in the walk through all orders.
    const END: u64 = 4;

    /// An outlet, with the threads that have not heard that it has moved: the ranges that they go on with.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Counter {
        next: u64,
        last: u64,
        end: u64,
        late: Vec<(u64, u64)>,
    }

    impl Counter {
        fn new(next: u64, last: u64, end: u64) -> Counter {
            Counter { next, last, end, late: Vec::new() }
        }
    }

    impl Outlet for Counter {
        fn limit(&mut self, last: u64) -> u64 {
            self.last = self.last.min(last);
            last.max(self.next - 1)
        }

        fn extend(&mut self, last: u64) {
            self.last = self.last.max(last);
        }

        fn move_to(&mut self, numbers: RangeInclusive<u64>) {
            if self.next <= self.last {
                self.late.push((self.next, self.last));
            }
            (self.next, self.last) = numbers.into_inner();
        }

        fn next(&self) -> u64 {
            self.next
        }

        fn last(&self) -> u64 {
            self.last
        }

        fn end(&self) -> u64 {
            self.end
        }
    }

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Message {
        Sa(Option<u64>),
        Ask(u64),
        Give(RangeInclusive<u64>),
    }

    /// Two routers, and what is on its way from each. A router without the SA has crashed, or never heard of it.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct World {
        routers: [Option<Numbers<Counter>>; 2],
        link: Option<[VecDeque<Message>; 2]>,
        /// The numbers that were sent, and which routers have sent.
        used: [bool; END as usize + 1],
        senders: [bool; 2],
        crashes: u8,
    }

    /// Messages on the way at most.
    const WAY: usize = 2;

    impl World {
        fn new() -> World {
            let all = Numbers::all(Counter::new(1, END, END));
            let (used, senders) = ([false; END as usize + 1], [false; 2]);
            World { routers: [Some(all), None], link: None, used, senders, crashes: 0 }
        }

        /// Everything that can happen next. Roles are not in here: each router may do all that it does in any role at any time, as
        /// if it had been frozen, or told wrongly.
        fn next(&self) -> Vec<World> {
            let mut worlds = Vec::new();
            for router in [0, 1] {
                worlds.extend(self.sends(router));
                worlds.extend(self.shares(router));
                worlds.extend(self.asks(router));
                worlds.extend(self.hears(router));
                worlds.extend(self.claims(router));
                worlds.extend(self.crashes(router));
            }
            worlds.push(World { link: None, ..self.clone() });
            worlds.push(self.begins());
            worlds
        }

        /// With the next number, or with one that a thread that is late still has.
        fn sends(&self, router: usize) -> Vec<World> {
            let late = self.routers[router].as_ref().map_or(0, |numbers| numbers.outlet.late.len());
            let ranges = std::iter::once(None).chain((0..late).map(Some));
            ranges.filter_map(|range| self.sends_from(router, range)).collect()
        }

        fn sends_from(&self, router: usize, range: Option<usize>) -> Option<World> {
            let mut world = self.clone();
            let counter = &mut world.routers[router].as_mut()?.outlet;
            let (next, last) = match range {
                None => (&mut counter.next, counter.last),
                Some(range) => counter.late.get_mut(range).map(|(next, last)| (next, *last))?,
            };
            let number = *next;
            if number > last {
                return None;
            }
            *next += 1;
            let before = std::mem::replace(&mut world.used[number as usize], true);
            assert!(!before, "number {number} is used twice, the second time by router {router} in {self:?}");
            world.senders[router] = true;
            Some(world)
        }

        fn say(&mut self, from: usize, message: Message) -> Option<()> {
            let way = &mut self.link.as_mut()?[from];
            (way.len() < WAY).then(|| way.push_back(message))
        }

        fn shares(&self, router: usize) -> Option<World> {
            let mut world = self.clone();
            let from = world.routers[router].as_mut()?.share(2);
            world.say(router, Message::Sa(from))?;
            Some(world)
        }

        fn asks(&self, router: usize) -> Vec<World> {
            let Some(numbers) = &self.routers[router] else { return Vec::new() };
            let counts = [numbers.wants(2), numbers.is_empty().then_some(0)];
            let asks = |count| {
                let mut world = self.clone();
                world.say(router, Message::Ask(count)).map(|()| world)
            };
            counts.into_iter().flatten().filter_map(asks).collect()
        }

        fn hears(&self, router: usize) -> Option<World> {
            let mut world = self.clone();
            let message = world.link.as_mut()?[1 - router].pop_front()?;
            match message {
                Message::Sa(from) => {
                    let none = || Numbers::none(Counter::new(1, 0, END));
                    let numbers = world.routers[router].get_or_insert_with(none);
                    from.into_iter().for_each(|from| numbers.hold(from));
                }
                Message::Ask(count) => {
                    let given = world.routers[router].as_mut().and_then(|numbers| match count {
                        0 => numbers.spare(),
                        count => numbers.give(count),
                    });
                    if let Some(numbers) = given {
                        // Given up already: lost where it cannot be said.
                        let _ = world.say(router, Message::Give(numbers));
                    }
                }
                Message::Give(numbers) => {
                    world.routers[router].iter_mut().for_each(|it| it.take(numbers.clone()))
                }
            }
            Some(world)
        }

        fn claims(&self, router: usize) -> Option<World> {
            let mut world = self.clone();
            world.routers[router].as_mut()?.claim().then_some(world)
        }

        /// It forgets all. What it had said may still arrive, or be lost with the session ([`World::next`]).
        fn crashes(&self, router: usize) -> Option<World> {
            let mut world = self.clone();
            world.routers[router].take()?;
            world.crashes += 1;
            (world.crashes <= 2).then_some(world)
        }

        /// A new session; what was on the way is lost.
        fn begins(&self) -> World {
            World { link: Some([VecDeque::new(), VecDeque::new()]), ..self.clone() }
        }
    }

    /// Every order of sending, sharing, asking, hearing, claiming, cuts of the link, crashes and returns: no number is used twice.
    #[test]
    fn no_number_is_used_twice_in_any_order() {
        let mut seen = HashSet::from([World::new()]);
        let mut open = VecDeque::from([World::new()]);
        let mut both = 0;
        while let Some(world) = open.pop_front() {
            for next in world.next() {
                if seen.insert(next.clone()) {
                    both += usize::from(next.senders == [true; 2]);
                    open.push_back(next);
                }
            }
        }
        assert!(both > 10_000, "{both} of {}", seen.len());
    }

    /// What two routers do in the ordinary course of things.
    #[test]
    fn a_block_is_asked_for_and_given_until_the_other_one_takes_over() {
        let mut a = Numbers::all(Counter::new(1, 7, 7));
        let mut b = Numbers::none(Counter::new(1, 0, 7));
        assert_eq!((a.wants(2), a.is_unlimited()), (None, true));
        b.hold(a.share(2).expect("it is using them"));
        assert_eq!((a.share(2), a.outlet().last(), a.wants(2), a.wants(3)), (None, 2, None, Some(3)));
        let given = b.give(3).expect("they are held");
        assert_eq!(given, 3..=5);
        a.take(given);
        assert_eq!((a.outlet().next, a.outlet().last), (1, 5), "they follow what it had");
        assert!(b.claim() && !b.claim());
        assert_eq!((b.outlet().next, b.outlet().last, b.give(1)), (6, 7, None));
        // Those that follow are lost, and it goes on behind the gap.
        let mut a = Numbers::none(Counter::new(1, 2, 7));
        a.take(5..=6);
        assert_eq!((a.outlet().next, a.outlet().last), (5, 6));
        a.take(1..=2);
        assert_eq!((a.outlet().next, a.outlet().last), (5, 6), "the partner's word is not enough for that");
    }

    /// Near the end of an SA nothing is shared: there will be another one.
    #[test]
    fn what_is_left_has_to_be_worth_it() {
        let mut numbers = Numbers::all(Counter::new(5, 7, 7));
        assert_eq!((numbers.share(3), numbers.is_unlimited()), (None, true));
        assert_eq!((numbers.share(2), numbers.is_unlimited()), (Some(7), false));
    }
}
