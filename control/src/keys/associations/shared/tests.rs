use std::collections::HashSet;

use super::super::tests::HERE;
use super::super::{DRAIN, PATIENCE, Want};
use super::*;
use culvert_engine::esp::{OutboundSa, Router};

/// One whose far end is sure to have its half.
fn sa(direction: Direction, spi: u32) -> Sa {
    super::super::tests::sa(direction, spi, true)
}

/// Two routers with one address; news go from one to the other as long as there is a session.
struct Pair {
    sides: [Associations; 2],
    now: Instant,
    up: bool,
    /// Numbers sent, by SPI: none twice.
    sent: HashSet<(u32, u64)>,
}

impl Pair {
    /// The first is master, with a pair of SAs: 0x101 receives and 0x201 sends.
    fn new() -> Pair {
        let sides = [Router::First, Router::Second].map(Associations::new);
        let mut pair = Pair { sides, now: Instant::now(), up: false, sent: HashSet::new() };
        pair.sides[1].hand_over();
        pair.negotiate(0, 1);
        pair
    }

    fn negotiate(&mut self, side: usize, number: u32) {
        for sa in [sa(Direction::In, 0x100 + number), sa(Direction::Out, 0x200 + number)] {
            self.sides[side]
                .add(sa, true, Traffic::default(), self.now)
                .expect("an SA that the engine takes");
        }
    }

    /// A session begins.
    fn connect(&mut self) -> &mut Pair {
        self.sides.iter_mut().for_each(Associations::forget_partner);
        self.up = true;
        self.talk()
    }

    fn cut(&mut self) {
        self.up = false;
        self.sides.iter_mut().for_each(Associations::forget_partner);
    }

    /// All that there is to say is said and heard.
    fn talk(&mut self) -> &mut Pair {
        while self.up {
            let mut any = false;
            for from in [0, 1] {
                let mut news = Vec::new();
                self.sides[from].tell(self.now, |told| news.push(told));
                any |= !news.is_empty();
                news.into_iter().for_each(|news| self.hear(1 - from, news));
            }
            if !any {
                break;
            }
        }
        self
    }

    fn hear(&mut self, side: usize, news: News) {
        let [a, b] = &mut self.sides;
        let (here, there) = if side == 0 { (a, b) } else { (b, a) };
        match news {
            News::Sa(told) => {
                let sa = Sa { window: 64, origin: Origin::Partner, ..told.sa };
                here.adopt(Told { sa, ..*told }, Traffic::default(), self.now).expect("taken");
            }
            News::Moved(id, ends) => drop(here.partner_moved(id, ends)),
            News::Removed(id) => drop(here.partner_removed(id, self.now)),
            News::Edge(id, edge) => here.edge(id, edge),
            News::Ask(id, count) => {
                if let Some(numbers) = here.give(id, count) {
                    there.take(id, numbers);
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) -> &mut Pair {
        self.now += time;
        for side in &mut self.sides {
            side.tick(self.now);
        }
        self.talk()
    }

    /// The second takes over, or the first takes back; the other one notices, or not.
    fn master(&mut self, side: usize, noticed: bool) {
        self.sides[side].take_over();
        if noticed {
            self.sides[1 - side].hand_over();
        }
        self.talk();
    }

    fn outbound(&self, side: usize) -> Arc<OutboundSa> {
        self.sides[side].installed().outbound.expect("it sends")
    }

    /// Sends so many packets, or as many as it may. Returns the first and the last number.
    fn send(&mut self, side: usize, count: u64) -> Option<(u64, u64)> {
        let sa = self.sides[side].installed().outbound?;
        let lease = sa.take(count).ok()?;
        let last = lease.first + lease.count - 1;
        for number in [lease.first, last] {
            assert!(self.sent.insert((sa.spi(), number)) || number == lease.first, "{number} is sent twice");
        }
        Some((lease.first, last))
    }

    fn spis(&self, side: usize) -> (u32, Vec<u32>) {
        let installed = self.sides[side].installed();
        let inbound = installed.inbound.iter().map(|inbound| inbound.spi()).collect();
        (installed.outbound.map_or(0, |outbound| outbound.spi()), inbound)
    }
}

#[test]
fn the_other_one_sends_at_once_beyond_all_that_was_sent() {
    let mut pair = Pair::new();
    assert_eq!(pair.send(0, 1000), Some((1, 1000)));
    pair.connect();
    assert_eq!(pair.spis(1), (0, vec![0x101]), "it has both, and none to send with");
    assert_eq!(pair.send(0, 100), Some((1001, 1100)));
    let limit = pair.outbound(0).last();
    pair.master(1, false);
    assert_eq!(pair.send(1, 1), Some((limit + 1, limit + 1)));
    // The old master does not know: it goes on to its mark, and no further.
    pair.send(0, 1 << 20).expect("what was its");
    assert_eq!(pair.sides[0].installed().outbound.map(|sa| sa.last()), None, "{limit}");
    // It takes back what it was given meanwhile.
    pair.talk();
    pair.master(0, true);
    let (first, _) = pair.send(0, 1).expect("its again");
    assert!(first > limit + 1, "{first} after {limit}");
}

/// Sent as fast as it may, with a word to the partner now and then: never without numbers.
#[test]
fn more_is_asked_for_in_good_time() {
    let mut pair = Pair::new();
    pair.connect();
    for round in 0..200 {
        let before = pair.outbound(0);
        let count = FEWEST / 3;
        let (first, last) = pair.send(0, count).expect("numbers");
        assert_eq!((last - first + 1, first), (count, 1 + round * count), "none is left out");
        pair.pass(Duration::from_millis(100));
        assert!(Arc::ptr_eq(&before, &pair.outbound(0)), "the same SA goes on");
    }
    // What is in hand is what some seconds take.
    let rate = FEWEST as f64 / 3.0 * 10.0;
    let in_hand = pair.outbound(0).remaining() as f64 / rate;
    assert!((IN_HAND..3.0 * IN_HAND).contains(&in_hand), "{in_hand} s");
}

/// No answers: another SA is asked for before the last number, and none beyond the mark is sent.
#[test]
fn without_a_partner_there_is_an_end() {
    let mut pair = Pair::new();
    pair.connect().cut();
    let mut wanted_at = None;
    for _ in 0..32 {
        let Some((_, last)) = pair.send(0, FEWEST / 8) else { break };
        pair.pass(Duration::from_millis(1));
        if pair.sides[0].want(Traffic::default(), pair.now) == Some(Want::Rekey) {
            wanted_at.get_or_insert(last);
        }
    }
    let wanted_at = wanted_at.expect("another SA is wanted");
    assert!(wanted_at < 2 * FEWEST && pair.outbound_is_gone(0), "{wanted_at}");
    // The next one has no limit: the partner knows nothing of it.
    pair.negotiate(0, 2);
    assert_eq!((pair.spis(0).0, pair.outbound(0).remaining()), (0x202, pair.outbound(0).until_end()));
}

impl Pair {
    fn outbound_is_gone(&self, side: usize) -> bool {
        self.sides[side].installed().outbound.is_none()
    }
}

#[test]
fn nothing_that_the_old_master_accepted_is_accepted_again() {
    let mut pair = Pair::new();
    pair.connect();
    let accept =
        |pair: &Pair, side: usize, number| pair.sides[side].installed().inbound[0].window().accept(number);
    for number in [1, 2, 5, 900] {
        accept(&pair, 0, number).expect("new");
    }
    pair.talk();
    pair.master(1, true);
    for number in [1, 2, 3, 5, 899, 900] {
        assert!(accept(&pair, 1, number).is_err(), "{number}");
    }
    accept(&pair, 1, 901).expect("new");
    pair.talk();
    pair.master(0, true);
    assert!(accept(&pair, 0, 901).is_err());
    accept(&pair, 0, 902).expect("new");
}

/// The partner's SAs carry the traffic until a pair of one's own has been in use for a while; then they go, on both sides.
#[test]
fn a_fresh_pair_takes_over() {
    let mut pair = Pair::new();
    pair.connect();
    pair.master(1, true);
    assert_eq!(pair.sides[1].want(Traffic::default(), pair.now), Some(Want::Rekey));
    pair.pass(Duration::from_secs(1));
    pair.negotiate(1, 2);
    pair.talk();
    assert_eq!((pair.spis(1), pair.spis(0).1), ((0x202, vec![0x101, 0x102]), vec![0x101, 0x102]));
    pair.pass(PATIENCE + DRAIN);
    assert_eq!((pair.spis(1), pair.spis(0).1), ((0x202, vec![0x102]), vec![0x102]));
    // And back.
    pair.master(0, true);
    assert_eq!(pair.spis(0), (0x202, vec![0x102]));
}

/// The strongSwan of a router that is not master any more lets go of its SAs. The other one goes on with them.
#[test]
fn what_the_old_masters_strongswan_lets_go_stays() {
    let mut pair = Pair::new();
    pair.connect();
    pair.master(1, true);
    for sa in [sa(Direction::In, 0x101), sa(Direction::Out, 0x201)] {
        assert!(!pair.sides[0].remove(sa.id, pair.now));
    }
    pair.talk();
    assert_eq!((pair.spis(1), pair.spis(0).1), ((0x201, vec![0x101]), vec![0x101]));
    // What the master's takes away goes on both.
    pair.master(0, true);
    pair.negotiate(0, 3);
    pair.talk();
    assert!(pair.sides[0].remove(sa(Direction::In, 0x103).id, pair.now));
    pair.talk();
    assert_eq!(pair.spis(1).1, vec![0x101]);
}

/// A daemon that was killed and started at once, its strongSwan beside it untouched: it has the numbers that the partner held.
#[test]
fn a_master_without_memory_is_given_numbers() {
    let mut pair = Pair::new();
    pair.send(0, 10);
    pair.connect();
    pair.send(0, 10);
    pair.cut();
    pair.sides[0] = Associations::new(Router::First);
    for found in [sa(Direction::In, 0x101), sa(Direction::Out, 0x201)] {
        pair.sides[0].add(found, false, Traffic::default(), pair.now).expect("taken");
    }
    assert!(pair.outbound_is_gone(0));
    pair.connect().pass(Duration::from_millis(1));
    let (first, _) = pair.send(0, 5).expect("numbers");
    assert!(first > 20, "{first}");
    assert_eq!(
        pair.sides[0].want(Traffic::default(), pair.now),
        Some(Want::Rekey),
        "and wants an SA of its own"
    );
}

/// A backup's daemon that was started again has forgotten what it held, and nobody has that any more. It is given some of what the
/// master has in hand, and takes over beyond what that sends meanwhile.
#[test]
fn a_backup_without_memory_is_given_numbers() {
    let mut pair = Pair::new();
    pair.connect();
    pair.sides[1].hand_over();
    pair.send(0, 10);
    pair.cut();
    pair.sides[1] = Associations::new(Router::Second);
    pair.sides[1].hand_over();
    pair.connect().pass(Duration::from_millis(1));
    assert!(pair.outbound(1).remaining() > FEWEST / 4 && pair.outbound(0).remaining() > FEWEST);
    let (_, last) = pair.send(0, 10).expect("the master has kept some");
    pair.master(1, true);
    let (first, _) = pair.send(1, 10).expect("it goes on");
    assert!(first > last + FEWEST, "{first} is beyond {last} and what the master may send yet");
}

/// So was one that was master when it was killed, and the other one has long gone on with an SA of its own: what the killed one's
/// strongSwan has still is nobody's but its own, and goes when that lets go of it.
#[test]
fn what_a_former_masters_strongswan_has_still_is_its_own() {
    for told_first in [true, false] {
        let mut pair = Pair::new();
        pair.connect().cut();
        pair.master(1, false);
        pair.negotiate(1, 2);
        pair.pass(PATIENCE + DRAIN);
        pair.sides[0] = Associations::new(Router::First);
        // Its strongSwan is heard before the partner, or after.
        for step in [told_first, !told_first] {
            if step {
                pair.connect();
            } else {
                for found in [sa(Direction::In, 0x101), sa(Direction::Out, 0x201)] {
                    pair.sides[0].add(found, false, Traffic::default(), pair.now).expect("taken");
                }
            }
        }
        pair.sides[0].hand_over();
        pair.talk();
        assert_eq!((pair.spis(1), pair.spis(0).1), ((0x202, vec![0x102]), vec![0x102, 0x101]));
        assert_eq!(pair.sides[1].want(Traffic::default(), pair.now), None, "no rekey for that");
        assert!(pair.sides[0].remove(sa(Direction::In, 0x101).id, pair.now));
        pair.talk();
        assert_eq!((pair.spis(1).1, pair.spis(0).1), (vec![0x102], vec![0x102]));
    }
}

/// A session that begins with other SAs than the last one ended with: what the master has is what there is.
#[test]
fn the_master_says_what_there_is() {
    let mut pair = Pair::new();
    pair.connect().cut();
    for gone in [sa(Direction::In, 0x101), sa(Direction::Out, 0x201)] {
        assert!(pair.sides[0].remove(gone.id, pair.now));
    }
    pair.negotiate(0, 2);
    pair.sides[1].begin(Origin::Partner);
    pair.connect();
    assert!(pair.sides[1].partner_has_told(pair.now));
    assert_eq!(pair.spis(1).1, vec![0x102]);
}

#[test]
fn a_far_end_that_moves_is_followed_by_both() {
    let mut pair = Pair::new();
    pair.connect();
    let before = sa(Direction::Out, 0x201);
    let ends = Ends::new(HERE.parse().expect("one"), "198.51.100.7:1025".parse().expect("one"), true);
    assert!(pair.sides[0].moved(before.id, ends));
    pair.talk();
    pair.master(1, true);
    assert_eq!(pair.sides[1].installed().ends, Some(ends));
}

/// The same, where it is not the source of the SA that moves it.
#[test]
fn a_far_end_that_a_nat_moves_is_followed_by_both() {
    let mut pair = Pair::new();
    let (here, there) = (HERE.parse().expect("one"), "192.0.2.2:4500".parse().expect("one"));
    for (direction, ends) in [(Direction::In, (there, here)), (Direction::Out, (here, there))] {
        let spi = if direction == Direction::In { 0x101 } else { 0x201 };
        assert!(pair.sides[0].moved(sa(direction, spi).id, Ends::new(ends.0, ends.1, true)));
    }
    pair.connect();
    let moved = "198.51.100.7:20001".parse().expect("one");
    assert_eq!(pair.sides[0].follow(sa(Direction::In, 0x101).id, moved).len(), 1);
    pair.talk();
    pair.master(1, true);
    assert_eq!(pair.sides[1].installed().ends, Some(Ends::new(here, moved, true)));
}

/// The load comes when nobody can be asked for numbers any more: another SA is wanted in time, and sends before the old one has
/// nothing left, or as soon as that is so.
#[test]
fn a_load_that_comes_after_a_cut_gets_another_sa_in_time() {
    let late = |direction, spi| super::super::tests::sa(direction, spi, false);
    for gives_notice in [true, false] {
        let mut pair = Pair::new();
        pair.connect().cut();
        let in_hand = pair.outbound(0).remaining();
        let step = in_hand / 6;
        let look = |pair: &mut Pair| {
            pair.now += Duration::from_millis(250);
            let ticked = pair.sides[0].tick(pair.now);
            pair.sides[0].limit(Traffic::default(), pair.now) | ticked
        };
        look(&mut pair);
        pair.send(0, step).expect("there are six");
        look(&mut pair);
        let wanted = pair.sides[0].want(Traffic::default(), pair.now);
        assert_eq!(wanted, Some(Want::Rekey), "at this rate it lasts for 1.5 s");
        for sa in [late(Direction::In, 0x102), late(Direction::Out, 0x202)] {
            pair.sides[0].add(sa, true, Traffic::default(), pair.now).expect("taken");
        }
        assert_eq!(pair.spis(0).0, 0x201, "the far end may not have its half yet");
        if gives_notice {
            for _ in 0..4 {
                pair.send(0, step).expect("a part");
                look(&mut pair);
            }
            assert!(pair.outbound(0).spi() == 0x202 && pair.sides[0].sending().count() == 1);
        } else {
            // All at once.
            pair.send(0, in_hand).expect("what is left");
            assert!(look(&mut pair), "something else is to be installed");
            assert!(!look(&mut pair), "and is, after that");
            assert_eq!(pair.spis(0).0, 0x202);
        }
    }
}

/// A partner that has lost its mind gives away what this router has sent with, under the same address and under another: no number is
/// sent twice, whatever it says.
#[test]
fn what_was_sent_is_nobody_s_to_give() {
    for elsewhere in [false, true] {
        let mut pair = Pair::new();
        pair.connect();
        pair.send(0, 5000).expect("its own numbers");
        let mut again = sa(Direction::Out, 0x201);
        if elsewhere {
            again.id.at = "198.51.100.9:0".parse::<std::net::SocketAddr>().expect("an address").ip();
        }
        let told = Told { sa: again, age: Duration::ZERO, state: State::Out(Some(1)) };
        pair.sides[0].adopt(told, Traffic::default(), pair.now).expect("taken");
        pair.sides[0].take_over();
        for _ in 0..3 {
            let next = pair.send(0, 1);
            assert!(next.is_none_or(|(first, _)| first > 5000), "{next:?}");
        }
    }
}

/// Numbers that are skipped at a takeover are not counted as sent: what is kept in hand does not grow with each, until all are used up.
#[test]
fn takeovers_in_a_row_cost_the_same_each() {
    let mut pair = Pair::new();
    pair.connect();
    let mut before = 0;
    for turn in 1..=50 {
        pair.master(turn % 2, true);
        let (first, _) = pair.send(turn % 2, 5).expect("it sends");
        assert!(first - before <= 3 * FEWEST, "turn {turn}: from {before} to {first}");
        before = first;
        for _ in 0..3 {
            pair.now += LOOK;
            pair.sides.iter_mut().for_each(|side| {
                side.limit(Traffic::default(), pair.now);
            });
            pair.talk();
        }
    }
}

/// One that was frozen while the other one took over, and takes itself for the master still: it goes on with what the other one has
/// negotiated, by which the far end sends, until it has something younger.
#[test]
fn what_the_other_one_has_negotiated_meanwhile_is_gone_on_with() {
    let mut pair = Pair::new();
    pair.pass(PATIENCE + DRAIN).connect().cut();
    pair.master(1, false);
    pair.negotiate(1, 2);
    pair.pass(Duration::from_secs(1)).connect();
    pair.master(0, true);
    pair.pass(PATIENCE);
    assert_eq!((pair.spis(0), pair.spis(1).1), ((0x202, vec![0x101, 0x102]), vec![0x101, 0x102]));
    assert_eq!(pair.sides[0].want(Traffic::default(), pair.now), Some(Want::Rekey));
    pair.negotiate(0, 3);
    pair.pass(PATIENCE + DRAIN);
    assert_eq!((pair.spis(0), pair.spis(1).1), ((0x203, vec![0x101, 0x103]), vec![0x101, 0x103]));
    assert!(!pair.sides[1].has(sa(Direction::Out, 0x202).id));
}

/// An SA that goes before it was shared anew: the partner hears of that as well.
#[test]
fn what_goes_at_once_goes_on_both() {
    let mut pair = Pair::new();
    pair.connect();
    pair.sides[0].hand_over();
    pair.negotiate(1, 2);
    pair.now += PATIENCE + DRAIN;
    pair.sides[1].take_over();
    assert!(pair.sides[1].tick(pair.now));
    pair.talk();
    for side in &pair.sides {
        assert!(!side.has(sa(Direction::Out, 0x201).id) && !side.has(sa(Direction::In, 0x101).id));
    }
}

/// A worker that still has the SA of before goes on with the numbers that this router had for it, until it has the other one.
#[test]
fn nothing_is_lost_while_an_sa_goes_on_elsewhere() {
    let mut outbound = Outbound::all(&sa(Direction::Out, 0x201), Router::First).expect("an SA");
    let before = Arc::clone(outbound.engine());
    outbound.limit(10);
    outbound.move_to(100..=200);
    assert_eq!((before.numbers().end, before.remaining()), (1, 10));
    assert_eq!((outbound.next(), outbound.last()), (100, 200));
}
