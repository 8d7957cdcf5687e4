use zeroize::Zeroizing;

use super::*;
use crate::config::{Mode, Secret, Suite};
use crate::keys::sa::Limits;

pub(super) const HERE: &str = "192.0.2.1:4500";
pub(super) const THERE: &str = "192.0.2.2:4500";

pub(super) fn sa(direction: Direction, spi: u32, ready: bool) -> Sa {
    let (source, destination) = match direction {
        Direction::In => (THERE, HERE),
        Direction::Out => (HERE, THERE),
    };
    let ends = Ends::new(source.parse().expect("a socket"), destination.parse().expect("a socket"), false);
    Sa {
        id: Id { spi, at: ends.destination },
        origin: Origin::Plugin,
        direction: Some(direction),
        ends,
        reqid: 1,
        mode: Mode::Transport,
        suite: Suite::Aes128Gcm16,
        key: Secret::new(Zeroizing::new([[spi as u8; 16].as_slice(), &[7; 4]].concat())),
        window: 64,
        esn: true,
        ready,
        limits: Limits { life: Some(Duration::from_secs(3600)), ..Limits::default() },
    }
}

/// Associations, and a clock.
struct Bench {
    associations: Associations,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench { associations: Associations::default(), now: Instant::now() }
    }

    fn add(&mut self, sa: Sa) {
        self.associations.add(sa, true, Traffic::default(), self.now).expect("an SA that the engine takes");
    }

    /// Both SAs of a pair: 0x1NN receives, 0x2NN sends.
    fn pair(&mut self, number: u32, ready: bool) {
        self.add(sa(Direction::In, 0x100 + number, ready));
        self.add(sa(Direction::Out, 0x200 + number, ready));
    }

    fn remove(&mut self, direction: Direction, spi: u32) {
        assert!(self.associations.remove(sa(direction, spi, true).id, self.now), "{spi:#x} is there");
    }

    fn pass(&mut self, time: Duration) -> &mut Bench {
        self.now += time;
        self.associations.tick(self.now);
        self
    }

    /// A genuine packet comes in.
    fn receive(&self, spi: u32) {
        let installed = self.associations.installed();
        let inbound = installed.inbound.iter().find(|inbound| inbound.spi() == spi).expect("it is there");
        let window = inbound.window();
        window.accept(window.highest() + 1).expect("a new number");
    }

    fn sends(&self) -> u32 {
        self.associations.installed().outbound.map_or(0, |outbound| outbound.spi())
    }

    fn receives(&self) -> Vec<u32> {
        self.associations.installed().inbound.iter().map(|inbound| inbound.spi()).collect()
    }
}

#[test]
fn the_first_pair_sends_at_once() {
    let mut bench = Bench::new();
    bench.pair(1, false);
    assert_eq!((bench.sends(), bench.receives()), (0x201, vec![0x101]));
}

#[test]
fn whoever_is_told_to_switches_at_once() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    bench.pass(Duration::from_secs(60)).pair(2, true);
    assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x101, 0x102]), "both receive");
    bench.remove(Direction::Out, 0x201);
    bench.remove(Direction::In, 0x101);
    assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x102]));
}

#[test]
fn others_switch_when_the_far_end_has() {
    let mut bench = Bench::new();
    bench.pair(1, false);
    bench.pass(Duration::from_secs(60)).receive(0x101);
    bench.pass(Duration::from_secs(1)).pair(2, false);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.sends(), 0x201, "it may not be there yet");
    bench.receive(0x102);
    assert!(bench.associations.tick(bench.now), "something is to be installed");
    assert_eq!(bench.sends(), 0x202);
}

#[test]
fn others_switch_when_the_old_one_is_taken_away_or_it_takes_too_long() {
    let mut bench = Bench::new();
    bench.pair(1, false);
    bench.pass(Duration::from_secs(60)).pair(2, false);
    bench.remove(Direction::Out, 0x201);
    assert_eq!(bench.sends(), 0x202);
    bench.pass(Duration::from_secs(60)).pair(3, false);
    assert_eq!(bench.pass(PATIENCE / 2).sends(), 0x202);
    assert_eq!(bench.pass(PATIENCE / 2).sends(), 0x203);
}

/// RFC 7296 section 2.8.1: both rekey at once; one of the new pairs is deleted, and so is the old one.
#[test]
fn of_colliding_rekeys_the_pair_that_stays_sends() {
    for loser in [2, 3] {
        let mut bench = Bench::new();
        bench.pair(1, true);
        bench.pass(Duration::from_secs(60)).pair(2, true);
        bench.pair(3, true);
        assert_eq!((bench.sends(), bench.receives().len()), (0x203, 3));
        for number in [loser, 1] {
            bench.remove(Direction::Out, 0x200 + number);
            assert_ne!(bench.sends(), 0);
            bench.remove(Direction::In, 0x100 + number);
        }
        assert_eq!((bench.sends(), bench.receives()), (0x205 - loser, vec![0x105 - loser]));
    }
}

/// The far end has begun a rekey; ours, of the SA that has just come, would reach it before it knows that SA. It would say so, and our
/// charon would take the new pair away before the old one goes.
#[test]
fn none_is_wanted_while_the_far_ends_is_half_done() {
    let due = Limits { rekey: Some(Duration::from_secs(60)), ..Limits::default() };
    let want = |bench: &mut Bench| bench.associations.want(Traffic::default(), bench.now);
    for completed in [true, false] {
        let mut bench = Bench::new();
        for (direction, spi) in [(Direction::In, 0x101), (Direction::Out, 0x201)] {
            bench.add(Sa { limits: due, ..sa(direction, spi, true) });
        }
        bench.pass(Duration::from_secs(60)).add(sa(Direction::In, 0x102, true));
        assert!(bench.associations.is_half_done(bench.now));
        assert_eq!(want(&mut bench), None);
        if completed {
            bench.pass(Duration::from_secs(1)).add(sa(Direction::Out, 0x202, true));
            assert_eq!((want(&mut bench), bench.associations.is_half_done(bench.now)), (None, false));
            bench.pass(HALF_DONE);
            assert_eq!(want(&mut bench), None, "it is new");
        } else {
            bench.pass(HALF_DONE);
            assert_eq!(want(&mut bench), Some(Want::Rekey), "nothing comes of it");
        }
    }
}

/// What charon does where such a rekey has been asked for all the same: the new pair goes, then the old one for sending, and another
/// comes an exchange later.
#[test]
fn the_last_that_sends_goes_when_there_is_another() {
    let mut bench = Bench::new();
    let want = |bench: &mut Bench| bench.associations.want(Traffic::default(), bench.now);
    bench.pair(1, true);
    bench.pass(Duration::from_millis(500)).add(sa(Direction::In, 0x102, true));
    let half = sa(Direction::In, 0x102, true).id;
    assert!(!bench.associations.remove(half, bench.now) && !bench.associations.has(half));
    assert_eq!(bench.receives(), [0x101, 0x102], "the far end sends by it");
    assert_eq!(want(&mut bench), None);
    let old = sa(Direction::Out, 0x201, true).id;
    assert!(!bench.associations.remove(old, bench.now), "nothing changes");
    assert_eq!((bench.sends(), bench.associations.has(old)), (0x201, false));
    assert_eq!(want(&mut bench), Some(Want::Rekey), "it is all there is");
    assert_eq!(bench.pass(FAREWELL / 2).sends(), 0x201);
    bench.pair(3, false);
    assert_eq!(bench.receives(), [0x101, 0x102, 0x103]);
    assert_eq!(bench.sends(), 0x203, "as where the old one is taken away at last");
    // It has its time, and no more.
    assert!(!bench.associations.remove(sa(Direction::Out, 0x203, true).id, bench.now));
    assert_eq!(bench.pass(FAREWELL / 2).sends(), 0x203);
    assert_eq!(bench.receives(), [0x101, 0x103]);
    assert_eq!(bench.pass(FAREWELL / 2).sends(), 0);
    assert!(!bench.associations.is_used_up(), "that is not why");
}

/// A half that has come of a rekey by the far end, which then fails, is to be replaced, also if that was asked for lately.
#[test]
fn one_that_goes_has_another_asked_for() {
    let mut bench = Bench::new();
    let due = Limits { rekey: Some(Duration::from_secs(60)), ..Limits::default() };
    bench.add(sa(Direction::In, 0x101, true));
    bench.add(Sa { limits: due, ..sa(Direction::Out, 0x201, true) });
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
    bench.add(sa(Direction::In, 0x102, true));
    bench.remove(Direction::In, 0x101);
    bench.associations.remove(sa(Direction::Out, 0x201, true).id, bench.now);
    assert_eq!(bench.sends(), 0x201);
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
}

/// An SA that is to end loses its inbound one first: then nothing more is sent, whatever drains yet.
#[test]
fn a_pair_that_ends_sends_no_more() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    bench.pass(Duration::from_secs(60)).pair(2, true);
    bench.remove(Direction::Out, 0x201);
    bench.remove(Direction::In, 0x102);
    bench.remove(Direction::Out, 0x202);
    assert_eq!((bench.sends(), bench.receives()), (0, vec![0x101]));

    let mut bench = Bench::new();
    bench.pair(1, true);
    assert!(!bench.associations.remove(sa(Direction::Out, 0x201, true).id, bench.now));
    bench.remove(Direction::In, 0x101);
    assert_eq!(bench.sends(), 0, "or after it");
    bench.pair(2, true);
    bench.associations.remove(sa(Direction::Out, 0x202, true).id, bench.now);
    assert!(bench.associations.flush(Origin::Plugin, bench.now));
    assert_eq!(bench.sends(), 0);
}

/// Design, rule 1.
#[test]
fn one_that_leaves_and_comes_back_goes_on_with_its_numbers() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    let before = bench.associations.installed().outbound.expect("it sends");
    before.take(5).expect("numbers");
    bench.associations.remove(sa(Direction::Out, 0x201, true).id, bench.now);
    let there = "198.51.100.7:4500".parse().expect("a socket");
    let ends = Ends::new(HERE.parse().expect("a socket"), there, true);
    let moved = Id { spi: 0x201, at: there.ip() };
    bench.add(Sa { ends, id: moved, ..sa(Direction::Out, 0x201, true) });
    let after = bench.associations.installed();
    assert!(Arc::ptr_eq(&before, after.outbound.as_ref().expect("it sends")) && after.more.is_empty());
    assert_eq!(after.ends, Some(ends));
    bench.pass(FAREWELL);
    assert_eq!(bench.sends(), 0x201);
}

/// Design, rule 1: what was there before we listened is not sent with.
#[test]
fn what_was_found_receives_and_does_not_send() {
    let mut bench = Bench::new();
    for found in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
        bench.associations.add(found, false, Traffic::default(), bench.now).expect("taken");
    }
    assert_eq!((bench.sends(), bench.receives()), (0, vec![0x101]));
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), None, "asked for once");
    assert_eq!(
        bench.associations.want(Traffic::default(), bench.now + ASK_AGAIN),
        Some(Want::Rekey),
        "and again in a while"
    );
    bench.pair(2, true);
    assert_eq!((bench.sends(), bench.associations.want(Traffic::default(), bench.now)), (0x202, None));
}

/// A source that tells anew of what is there changes nothing: numbers go on where they were.
#[test]
fn what_is_told_again_is_the_same_sa() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    let before = bench.associations.installed();
    let outbound = before.outbound.expect("it sends");
    outbound.take(5).expect("numbers");
    bench.associations.begin(Origin::Plugin);
    for found in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
        bench.associations.add(found, false, Traffic::default(), bench.now).expect("taken");
    }
    bench.associations.synchronised(Origin::Plugin);
    let after = bench.associations.installed();
    assert!(Arc::ptr_eq(&outbound, after.outbound.as_ref().expect("it sends")));
    assert!(Arc::ptr_eq(&before.inbound[0], &after.inbound[0]));
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
    // The same SPI with another key is another SA.
    let other = Sa { key: Secret::new(Zeroizing::new(vec![9; 20])), ..sa(Direction::Out, 0x201, true) };
    bench.add(other);
    let after = bench.associations.installed().outbound.expect("it sends");
    assert!(!Arc::ptr_eq(&outbound, &after) && after.used() == 0);
}

/// As Linux moves an SA. Neither a number nor a packet is taken twice.
#[test]
fn a_key_that_comes_back_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    bench.receive(0x101);
    let before = bench.associations.installed();
    for direction in [Direction::In, Direction::Out] {
        bench.remove(direction, if direction == Direction::In { 0x101 } else { 0x201 });
    }
    assert_eq!((bench.sends(), bench.receives().len()), (0, 0));
    bench.pass(Duration::from_secs(1)).pair(1, true);
    let after = bench.associations.installed();
    assert!(Arc::ptr_eq(&before.inbound[0], &after.inbound[0]));
    assert!(Arc::ptr_eq(&before.outbound.expect("one"), &after.outbound.expect("one")));

    // One that was there before us stays one that does not send.
    bench
        .associations
        .add(sa(Direction::Out, 0x209, true), false, Traffic::default(), bench.now)
        .expect("taken");
    bench.add(sa(Direction::Out, 0x209, true));
    assert_eq!(bench.sends(), 0x201);
}

#[test]
fn orphans_stay_until_a_new_pair_works() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    bench.associations.begin(Origin::Plugin);
    bench.associations.synchronised(Origin::Plugin);
    assert_eq!((bench.sends(), bench.receives()), (0x201, vec![0x101]), "the far end has them still");
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
    bench.pass(Duration::from_secs(30)).pair(2, true);
    assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x101, 0x102]));
    bench.pass(DRAIN);
    assert_eq!((bench.sends(), bench.receives()), (0x202, vec![0x102]));
}

#[test]
fn an_sa_ends_with_its_time_and_wants_a_rekey_by_its_other_limits() {
    let mut bench = Bench::new();
    bench.add(sa(Direction::In, 0x101, true));
    let limits = Limits {
        life: Some(Duration::from_secs(100)),
        rekey_packets: Some(50),
        rekey_bytes: Some(10_000),
        ..Limits::default()
    };
    let sent = |sent| Traffic { sent, received: 7 };
    let bytes = 1_000_000;
    let limited = Sa { limits, ..sa(Direction::Out, 0x201, true) };
    bench.associations.add(limited, true, sent(bytes), bench.now).expect("taken");
    assert_eq!(bench.associations.want(sent(bytes + 9_999), bench.now), None);
    assert_eq!(bench.associations.want(sent(bytes + 10_000), bench.now), Some(Want::Rekey));
    bench.now += ASK_AGAIN;
    let outbound = bench.associations.installed().outbound.expect("it sends");
    outbound.take(49).expect("numbers");
    assert_eq!(bench.associations.want(sent(bytes), bench.now), None);
    outbound.take(1).expect("numbers");
    assert_eq!(bench.associations.want(sent(bytes), bench.now), Some(Want::Rekey));
    assert_eq!(bench.pass(Duration::from_secs(100)).sends(), 0);
}

/// The plugin's charon waits to be told that it is time. Who has told of a time is asked at that time, and again until there is a
/// new pair, also when the old one has ended.
#[test]
fn a_rekey_is_wanted_when_it_is_time() {
    for early in [Direction::In, Direction::Out] {
        let mut bench = Bench::new();
        for direction in [Direction::In, Direction::Out] {
            let rekey = Duration::from_secs(if direction == early { 80 } else { 90 });
            let limits =
                Limits { life: Some(Duration::from_secs(100)), rekey: Some(rekey), ..Limits::default() };
            bench.add(Sa {
                limits,
                ..sa(direction, if direction == Direction::In { 0x101 } else { 0x201 }, true)
            });
        }
        bench.pass(Duration::from_secs(79));
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
        bench.pass(Duration::from_secs(21));
        assert_eq!((bench.sends(), bench.receives().len()), (0, 0), "their time is over");
        assert!(bench.associations.is_used_up());
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
        bench.pair(2, true);
        assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
        assert!(!bench.associations.is_used_up());
    }
}

/// RFC 9611: each worker has one of its own. The youngest send; a rekey replaces one, whichever it is.
#[test]
fn several_send_at_once() {
    let mut bench = Bench::new();
    bench.associations.spread(2);
    let sends = |bench: &Bench| {
        let installed = bench.associations.installed();
        installed.outbound.iter().chain(&installed.more).map(|sa| sa.spi()).collect::<Vec<_>>()
    };
    bench.pair(1, true);
    assert_eq!(sends(&bench), [0x201]);
    bench.pair(2, true);
    assert_eq!(sends(&bench), [0x201, 0x202]);
    // The second is replaced; then, in no hurry, it goes.
    bench.pass(Duration::from_secs(60)).pair(3, true);
    assert_eq!(sends(&bench), [0x202, 0x203]);
    bench.remove(Direction::Out, 0x202);
    assert_eq!(sends(&bench), [0x201, 0x203]);
    assert!(bench.receives().len() == 3, "all receive");
    // One that is not sure to be there yet does not send beside one that is.
    bench.pair(4, false);
    assert_eq!(sends(&bench), [0x201, 0x203]);
    bench.associations.spread(1);
    assert_eq!(sends(&bench), [0x203]);
}

/// What comes in counts as well: the far end may have no such limit.
#[test]
fn what_has_been_received_wants_a_rekey() {
    let mut bench = Bench::new();
    let limits = Limits { rekey_bytes: Some(1000), rekey_packets: Some(2), ..Limits::default() };
    bench.add(Sa { limits, ..sa(Direction::In, 0x101, true) });
    bench.add(sa(Direction::Out, 0x201, true));
    let received = |received| Traffic { received, sent: 0 };
    assert_eq!(bench.associations.want(received(999), bench.now), None);
    assert_eq!(bench.associations.want(received(1000), bench.now), Some(Want::Rekey));
    assert_eq!(bench.associations.want(received(1000), bench.now), None);
    bench.associations.unasked();
    assert_eq!(bench.associations.want(received(1000), bench.now), Some(Want::Rekey));
    bench.pass(ASK_AGAIN).add(sa(Direction::Out, 0x202, true));
    assert_eq!(bench.associations.want(received(1000), bench.now), None, "half of a pair has come");
    bench.remove(Direction::Out, 0x202);
    bench.receive(0x101);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.associations.want(received(0), bench.now), None, "one packet");
}

/// RFC 4301 section 4.4.2.1: at its hard limit an SA is used no more.
#[test]
fn at_its_end_in_bytes_or_packets_it_sends_no_more() {
    let mut bench = Bench::new();
    let limits = Limits { bytes: Some(5000), packets: Some(10), ..Limits::default() };
    let limited = || Sa { limits, ..sa(Direction::Out, 0x201, true) };
    bench.add(limited());
    assert!(!bench.associations.limit(Traffic { sent: 4999, received: 0 }, bench.now));
    assert_eq!(bench.sends(), 0x201);
    assert!(bench.associations.limit(Traffic { sent: 5000, received: 0 }, bench.now));
    assert_eq!(bench.sends(), 0);
    assert!(bench.associations.is_used_up());

    let mut bench = Bench::new();
    bench.add(limited());
    let outbound = bench.associations.installed().outbound.expect("it sends");
    let lease = outbound.take(12).expect("numbers");
    assert_eq!((lease.first, lease.count), (1, 10));
    assert!(bench.associations.limit(Traffic::default(), bench.now), "it is to be seen");
    assert!(!bench.associations.limit(Traffic::default(), bench.now));
    assert_eq!(bench.sends(), 0);
    assert!(bench.associations.is_used_up());
}

#[test]
fn a_life_that_no_clock_holds_is_a_long_one() {
    let mut bench = Bench::new();
    let limits = Limits { life: Some(Limits::lasting(u64::MAX)), ..Limits::default() };
    bench.add(Sa { limits, ..sa(Direction::In, 0x101, true) });
    bench.add(Sa { limits, ..sa(Direction::Out, 0x201, true) });
    assert_eq!(bench.pass(Duration::from_secs(10_000_000)).sends(), 0x201);
}

/// RFC 4303 section 3.3.3: the numbers of an SA without ESN end; there is a new one long before.
#[test]
fn the_end_of_the_sequence_numbers_wants_a_rekey() {
    let mut bench = Bench::new();
    bench.add(Sa { esn: false, ..sa(Direction::Out, 0x201, true) });
    let outbound = bench.associations.installed().outbound.expect("it sends");
    outbound.take(u64::from(u32::MAX) / 2).expect("numbers");
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), None);
    outbound.take(u64::from(u32::MAX) / 2 - 1000).expect("numbers");
    assert_eq!(bench.associations.want(Traffic::default(), bench.now), Some(Want::Rekey));
    outbound.take(2000).expect("numbers");
    assert_eq!(bench.sends(), 0, "it is used up");
}

#[test]
fn a_far_end_that_moves_keeps_its_sa() {
    let mut bench = Bench::new();
    bench.pair(1, true);
    let before = bench.associations.installed().outbound.expect("it sends");
    let ends =
        Ends::new(HERE.parse().expect("a socket"), "198.51.100.7:1025".parse().expect("a socket"), true);
    assert!(bench.associations.moved(sa(Direction::Out, 0x201, true).id, ends));
    let after = bench.associations.installed();
    assert!(Arc::ptr_eq(&before, after.outbound.as_ref().expect("it sends")));
    assert_eq!(after.udp, Some(UdpEncap { source: 4500, destination: 1025 }));
    assert_eq!(after.ends, Some(ends));
    bench.remove(Direction::In, 0x101);
    let id = Id { spi: 0x201, at: ends.destination };
    assert!(bench.associations.remove(id, bench.now), "it is known by its new place");
}

/// A NAT gives the far end another mapping. That is told once, by the newest packets; all SAs with the far end where it was are moved,
/// and their source still finds them.
#[test]
fn a_far_end_that_a_nat_moves_is_found() {
    let mut bench = Bench::new();
    let socket = |text: &str| text.parse::<std::net::SocketAddr>().expect("a socket");
    let in_udp = |direction, spi| {
        let sa = sa(direction, spi, true);
        let at = |address| std::net::SocketAddr::new(address, 4500);
        Sa { ends: Ends::new(at(sa.ends.source), at(sa.ends.destination), true), ..sa }
    };
    for number in [1, 2] {
        bench.add(in_udp(Direction::In, 0x100 + number));
        bench.add(in_udp(Direction::Out, 0x200 + number));
    }
    // Nothing is known of the port of one that was not to come in UDP.
    bench.add(sa(Direction::In, 0x103, true));
    assert!(bench.associations.are_in_udp());
    let inbound = bench.associations.installed().inbound;
    let first = in_udp(Direction::In, 0x101).id;
    inbound[0].came_from(socket(THERE));
    inbound[2].came_from(socket("198.51.100.9:1"));
    assert_eq!(bench.associations.elsewhere(), None, "it is where it is known to be");
    let moved = socket("198.51.100.7:20001");
    inbound[0].came_from(moved);
    assert_eq!(bench.associations.elsewhere(), Some((first, Origin::Plugin, moved)));
    assert_eq!(bench.associations.elsewhere(), None, "told once");
    let renamed = bench.associations.follow(first, moved);
    let of = |spi| Id { spi, at: moved.ip() };
    assert_eq!(renamed, [of(0x201), of(0x202)]);
    let installed = bench.associations.installed();
    assert_eq!(installed.udp, Some(UdpEncap { source: 4500, destination: 20_001 }));
    assert_eq!(installed.ends.map(|ends| ends.destination), Some(moved.ip()));
    assert_eq!(bench.sends(), 0x202);
    // A packet that is as new by the other SA is no news; one from where it was is.
    inbound[1].came_from(moved);
    assert_eq!(bench.associations.elsewhere(), None);
    inbound[1].came_from(socket(THERE));
    assert!(bench.associations.elsewhere().is_some());
    // The source tells of all again, moves one itself, and takes both away.
    bench.add(in_udp(Direction::Out, 0x201));
    assert_eq!(bench.associations.installed().ends.map(|ends| ends.destination), Some(moved.ip()));
    let [old, new] = [0x201, 0x202].map(|spi| in_udp(Direction::Out, spi).id);
    assert_eq!(bench.associations.known_as(old), of(0x201));
    let ends = Ends::new(socket(HERE), socket("198.51.100.8:4500"), true);
    assert!(bench.associations.moved(new, ends));
    assert!(!bench.associations.has(new) && !bench.associations.has(of(0x202)));
    assert!(bench.associations.remove(Id { at: ends.destination, ..new }, bench.now));
    bench.associations.remove(old, bench.now);
    assert!(!bench.associations.has(old));
}

#[test]
fn what_went_through_is_known() {
    let mut bench = Bench::new();
    let (before, after) = (Traffic { received: 10, sent: 20 }, Traffic { received: 110, sent: 60 });
    for sa in [sa(Direction::In, 0x101, true), sa(Direction::Out, 0x201, true)] {
        bench.associations.add(sa, true, before, bench.now).expect("taken");
    }
    let inbound = sa(Direction::In, 0x101, true).id;
    bench.pass(Duration::from_secs(1));
    let unused = Used { bytes: 0, packets: 0, idle: None };
    assert_eq!(bench.associations.used(inbound, before, bench.now), Some(unused));
    bench.receive(0x101);
    bench.pass(Duration::from_secs(1)).pass(Duration::from_secs(9));
    let used = Used { bytes: 100, packets: 1, idle: Some(Duration::from_secs(9)) };
    assert_eq!(bench.associations.used(inbound, after, bench.now), Some(used));
    let outbound = sa(Direction::Out, 0x201, true).id;
    assert_eq!(bench.associations.used(outbound, after, bench.now), Some(Used { bytes: 40, ..unused }));
    assert_eq!(bench.associations.used(Id { spi: 1, ..inbound }, after, bench.now), None);
}

/// Where the kernel cannot tell of all SAs, a tunnel without any asks for new ones, and no other does.
#[test]
fn what_is_not_told_is_negotiated_anew() {
    let mut bench = Bench::new();
    let want = |bench: &mut Bench| bench.associations.want(Traffic::default(), bench.now);
    assert_eq!(want(&mut bench), None, "there is nothing yet");
    bench.associations.cut();
    assert_eq!(want(&mut bench), Some(Want::Rekey));
    assert_eq!(want(&mut bench), None, "once in a while");
    bench.pass(ASK_AGAIN).pair(1, true);
    assert_eq!(want(&mut bench), None);
    bench.associations.cut();
    assert_eq!(want(&mut bench), None, "it has a pair");
    bench.pass(ASK_AGAIN).pair(2, true);
    for number in 1..3 {
        bench.remove(Direction::In, 0x100 + number);
        bench.remove(Direction::Out, 0x200 + number);
    }
    assert_eq!(want(&mut bench), None, "charon took away what it had");
    let mut bench = Bench::new();
    bench.associations.cut();
    bench.associations.synchronised(Origin::PfKey);
    assert_eq!(want(&mut bench), None, "all has been told");
}
