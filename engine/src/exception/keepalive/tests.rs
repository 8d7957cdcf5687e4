//! Known packets (made with Scapy 2.8.0), the rules one by one, and two routers on a line that loses, delays, repeats and
//! forges, held against what was really sent.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::wire::{Gre, Ipv4, ipv4};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const NONCE: u64 = 0x0102_0304_0506_0708;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn ends(local: &str, remote: &str) -> Ends {
    Ends { local: local.parse().unwrap(), remote: remote.parse().unwrap(), key: None, checksum: false }
}

fn v4() -> Ends {
    ends("192.0.2.1", "192.0.2.2")
}

fn v6() -> Ends {
    ends("2001:db8::a", "2001:db8::b")
}

/// The same tunnel from the other end.
fn turned(ends: Ends) -> Ends {
    Ends { local: ends.remote, remote: ends.local, ..ends }
}

fn settings(period: u64, retries: u8) -> Option<Settings> {
    Some(Settings { period, retries })
}

/// As vendors send it from 192.0.2.2, without a payload.
const VENDOR: &str = "4500001800070000ff2f37acc0000201c000020200000000";
const VENDOR_KEY_42: &str = "4500001c00070000ff2f37a8c0000201c0000202200000000000002a";

#[test]
fn known_probes() {
    assert_eq!(
        v4().probe(NONCE).unwrap(),
        hex("45c0002000004000ff2ff6eac0000202c0000201000000000102030405060708")
    );
    assert_eq!(
        Ends { key: Some(42), checksum: true, ..v4() }.probe(NONCE).unwrap(),
        hex("45c0002800004000ff2ff6e2c0000202c0000201a00000004fc100000000002a0102030405060708")
    );
    assert_eq!(
        v6().probe(NONCE).unwrap(),
        hex(
            "6c000000000c2fff20010db800000000000000000000000b20010db800000000000000000000000a000000000102030405060708"
        )
    );
    assert_eq!(ends("192.0.2.1", "2001:db8::b").probe(NONCE), None);
}

#[test]
fn vendors_keepalives_are_answered() {
    let keyed = Ends { key: Some(42), ..v4() };
    for (ends, packet) in [(v4(), VENDOR), (keyed, VENDOR_KEY_42)] {
        assert!(ends.may_ask(&hex(packet)));
        assert_eq!(ends.asked(&hex(packet)), Some(&[][..]));
    }
    assert_eq!(v4().asked(&hex(VENDOR_KEY_42)), None);
    assert_eq!(keyed.asked(&hex(VENDOR)), None);
}

#[test]
fn our_own_are_answered_by_the_other_end() {
    for ends in [v4(), v6(), Ends { key: Some(7), checksum: true, ..v4() }, Ends { checksum: true, ..v6() }] {
        let packet = ends.probe(NONCE).unwrap();
        let other = turned(ends);
        assert!(other.may_ask(&packet));
        assert_eq!(other.asked(&packet), Some(&NONCE.to_be_bytes()[..]));
        // Never by ourselves: that would go round.
        assert!(!ends.may_ask(&packet) && ends.asked(&packet).is_none());
    }
}

/// The exception is for the far end's keepalive and nothing that resembles it.
#[test]
fn what_is_not_quite_a_keepalive_is_refused() {
    let change = |at: usize, byte: u8| {
        let mut packet = hex(VENDOR);
        packet[at] = byte;
        packet[10..12].fill(0);
        let check = crate::wire::checksum::checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&check);
        packet
    };
    let mut wrong_sum = hex(VENDOR);
    wrong_sum[10] ^= 1;
    let long = |payload: usize| {
        let mut packet = hex(VENDOR);
        packet.resize(24 + payload, 0);
        [packet[2], packet[3]] = ((24 + payload) as u16).to_be_bytes();
        packet[10..12].fill(0);
        let check = crate::wire::checksum::checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&check);
        packet
    };
    let mut options = change(0, 0x46);
    options[3] = 28;
    for (why, packet) in [
        ("other source", change(15, 9)),
        ("other destination", change(19, 9)),
        ("other protocol", change(9, 4)),
        ("more fragments", change(6, 0x20)),
        ("later fragment", change(7, 1)),
        ("time to live 1", change(8, 1)),
        ("header checksum", wrong_sum),
        ("protocol type of IPv4", change(22, 8)),
        ("GRE version 1", change(21, 1)),
        ("routing flag", change(20, 0x40)),
        ("a checksum that is not there", change(20, 0x80)),
        ("options", options),
        ("too long", long(MAX_PAYLOAD + 1)),
    ] {
        assert_eq!(v4().asked(&packet), None, "{why}");
    }
    assert_eq!(v4().asked(&change(8, 2)), Some(&[][..]));
    assert_eq!(v4().asked(&long(MAX_PAYLOAD)).map(<[u8]>::len), Some(MAX_PAYLOAD));
    for len in 0..24 {
        assert_eq!(v4().asked(&hex(VENDOR)[..len]), None, "{len} bytes");
    }
    // With a tunnel in IPv6, IPv4 ends mean nothing.
    assert!(!v6().may_ask(&hex(VENDOR)) && v6().asked(&hex(VENDOR)).is_none());
}

/// Numbers that are all different.
fn counting() -> impl FnMut() -> u64 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

fn watching(retries: u8) -> Keepalives {
    let mut keepalives = Keepalives::new();
    keepalives.set_tunnels(0, [(7, v4(), settings(SECOND, retries)), (8, v6(), None)], || 0);
    keepalives
}

/// The nonce of the only probe.
fn nonce(out: &Output) -> [u8; NONCE_LEN] {
    let [(7, packet)] = &out.probes[..] else { panic!("{:?}", out.probes) };
    *packet.last_chunk().unwrap()
}

#[test]
fn down_after_the_retries_and_up_with_the_first_that_comes_back() {
    let (mut keepalives, mut random) = (watching(3), counting());
    let mut tick = |keepalives: &mut Keepalives, now| {
        let mut out = Output::default();
        keepalives.tick(now, &mut random, &mut out);
        out
    };
    assert_eq!(keepalives.liveness(8), None);
    for number in 0..3 {
        assert_eq!(keepalives.next_due(), Some(number * SECOND));
        let out = tick(&mut keepalives, number * SECOND);
        assert_eq!((out.probes.len(), out.changes.len()), (1, 0));
        assert!(keepalives.liveness(7).unwrap().is_up());
    }
    let out = tick(&mut keepalives, 3 * SECOND);
    let down = Liveness::Down { since: 3 * SECOND, last_heard: None, unanswered: 3 };
    assert_eq!(out.changes, [(7, down)]);
    let mut last = [0; NONCE_LEN];
    for number in 4..20 {
        let out = tick(&mut keepalives, number * SECOND);
        assert!(out.changes.is_empty(), "down once");
        last = nonce(&out);
    }
    let mut out = Output::default();
    assert!(keepalives.came_back(20 * SECOND - 1, 7, &last, &mut out));
    assert_eq!(out.changes, [(7, Liveness::Up { since: 20 * SECOND - 1 })]);
    // Once only.
    assert!(!keepalives.came_back(20 * SECOND - 1, 7, &last, &mut out));
    for number in 20..23 {
        assert!(tick(&mut keepalives, number * SECOND).changes.is_empty());
    }
    let down = Liveness::Down { since: 23 * SECOND, last_heard: Some(20 * SECOND - 1), unanswered: 3 };
    assert_eq!(tick(&mut keepalives, 23 * SECOND).changes, [(7, down)]);
    let counters = keepalives.counters(7).unwrap();
    assert_eq!((counters.sent, counters.heard, counters.foreign), (24, 1, 1));
}

#[test]
fn what_is_not_awaited_proves_nothing() {
    let mut keepalives = watching(2);
    let mut out = Output::default();
    keepalives.tick(0, || NONCE, &mut out);
    for payload in [&[][..], &[0; 8], &NONCE.to_be_bytes()[..7], &[1; 9]] {
        assert!(!keepalives.came_back(1, 7, payload, &mut out));
    }
    assert!(!keepalives.came_back(1, 8, &NONCE.to_be_bytes(), &mut out), "it does not ask");
    assert!(!keepalives.came_back(1, 9, &NONCE.to_be_bytes(), &mut out), "there is no such tunnel");
    assert_eq!((out.changes.len(), keepalives.counters(7).unwrap().foreign), (0, 4));
    // Too late: two more have been sent.
    keepalives.tick(SECOND, || 1, &mut out);
    keepalives.tick(2 * SECOND, || 2, &mut out);
    assert!(!keepalives.came_back(2 * SECOND, 7, &NONCE.to_be_bytes(), &mut out));
}

#[test]
fn a_thread_that_was_late_sends_no_burst() {
    let mut keepalives = watching(3);
    let mut out = Output::default();
    keepalives.tick(1000 * SECOND, counting(), &mut out);
    assert_eq!(out.probes.len(), 1);
    assert_eq!(keepalives.next_due(), Some(1001 * SECOND));
}

#[test]
fn tunnels_that_stay_keep_their_state() {
    let (mut keepalives, mut random) = (watching(1), counting());
    let mut out = Output::default();
    keepalives.tick(0, &mut random, &mut out);
    keepalives.tick(SECOND, &mut random, &mut out);
    let down = keepalives.liveness(7).unwrap();
    assert!(!down.is_up());
    keepalives.set_tunnels(SECOND, [(7, v4(), settings(SECOND, 1)), (9, v6(), settings(SECOND, 1))], || 0);
    assert_eq!((keepalives.liveness(7), keepalives.liveness(9)), (Some(down), Some(Liveness::Unknown)));
    // Other settings, other ends, gone: from the start, or not at all.
    keepalives.set_tunnels(SECOND, [(7, v4(), settings(SECOND, 2))], || 0);
    assert_eq!((keepalives.liveness(7), keepalives.liveness(9)), (Some(Liveness::Unknown), None));
    assert_eq!(keepalives.counters(7).unwrap().sent, 2);
    keepalives.set_tunnels(SECOND, [(7, v6(), settings(SECOND, 2))], || 0);
    assert_eq!(keepalives.counters(7).unwrap().sent, 0);
    keepalives.set_tunnels(SECOND, [], || 0);
    assert_eq!((keepalives.next_due(), keepalives.counters(7)), (None, None));
}

#[test]
fn new_tunnels_start_at_different_times() {
    let mut keepalives = Keepalives::new();
    let tunnels = (0..1000).map(|number| (number, v4(), settings(10 * SECOND, 3)));
    keepalives.set_tunnels(0, tunnels, {
        let mut random = counting();
        move || random().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    for second in 0..10 {
        let mut out = Output::default();
        keepalives.tick((second + 1) * SECOND - 1, counting(), &mut out);
        assert!((50..200).contains(&out.probes.len()), "{} in second {second}", out.probes.len());
    }
}

#[test]
fn answers_are_bounded_and_go_to_the_tunnel_that_asked() {
    let mut keepalives = watching(1);
    let mut out = Output::default();
    for number in 0..100 {
        assert!(keepalives.came_out(5 * SECOND + number, 7, &hex(VENDOR), &mut out));
    }
    assert_eq!(out.answers, vec![(7, Vec::new()); ANSWERS_PER_SECOND as usize]);
    assert_eq!(keepalives.counters(7).unwrap().excess, 100 - ANSWERS_PER_SECOND);
    // A tunnel that does not ask answers as well.
    let mut out = Output::default();
    assert!(keepalives.came_out(SECOND, 8, &turned(v6()).probe(NONCE).unwrap(), &mut out));
    assert_eq!(out.answers, [(8, NONCE.to_be_bytes().to_vec())]);
    assert!(!keepalives.came_out(SECOND, 8, &hex(VENDOR), &mut out));
    assert!(!keepalives.came_out(SECOND, 9, &hex(VENDOR), &mut out));
}

/// What a peer does that knows nothing of keepalives: takes off its headers and forwards.
fn forward(mut packet: Vec<u8>) -> Vec<u8> {
    ipv4::decrement_ttl(&mut packet).unwrap();
    packet
}

/// A packet on the line: when it arrives, and what; towards the right or the left.
#[derive(Debug)]
struct Flight {
    at: u64,
    right: bool,
    carried: Carried,
}

#[derive(Debug)]
enum Carried {
    Probe(Vec<u8>),
    Answer(Vec<u8>),
}

/// What the line does to a packet.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Delayed(u64),
    Twice(u64, u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = 0..1500 * SECOND / 1000;
    prop_oneof![
        2 => Just(Fate::Lost),
        5 => (0..SECOND / 10).prop_map(Fate::Delayed),
        1 => delay.clone().prop_map(Fate::Delayed),
        1 => (delay.clone(), delay).prop_map(|(one, other)| Fate::Twice(one, other)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Two routers, one or both asking, the right one perhaps a vendor's that only forwards. A tunnel goes down exactly when
    /// as many keepalives as there are retries were sent since the last that came back, and up only by one that did.
    #[test]
    fn two_routers_on_a_bad_line(
        fates in prop::collection::vec(fate(), 1..200), retries in 1..4_u8, right_asks in any::<bool>(),
        vendor in any::<bool>(), seconds in 1..60_u64,
    ) {
        let mut routers = [Keepalives::new(), Keepalives::new()];
        routers[0].set_tunnels(0, [(0, v4(), settings(SECOND, retries))], || 0);
        let right = settings(SECOND, retries).filter(|_| right_asks && !vendor);
        routers[1].set_tunnels(0, [(0, turned(v4()), right)], || 0);
        let mut random = counting();
        let mut fates = fates.into_iter().cycle();
        let mut line: Vec<Flight> = Vec::new();
        // Of the left router: probes sent since the last that came back, in order, and what is believed of it.
        let (mut since, mut up): (Vec<Vec<u8>>, bool) = (Vec::new(), true);
        let (mut now, mut last_sent) = (0, None::<u64>);
        while now < seconds * SECOND {
            let flight = line.iter().map(|flight| flight.at).min();
            let due = routers.iter().filter_map(Keepalives::next_due).min();
            let Some(next) = flight.into_iter().chain(due).min() else { break };
            now = now.max(next);
            let mut arrived: Vec<Flight> = line.extract_if(.., |flight| flight.at <= now).collect();
            arrived.sort_by_key(|flight| flight.at);
            let mut left: Vec<(bool, Carried)> = Vec::new();
            for flight in arrived {
                let mut out = Output::default();
                let router = &mut routers[usize::from(flight.right)];
                match flight.carried {
                    Carried::Probe(packet) if flight.right && vendor => {
                        let back = forward(packet);
                        let gre = Gre::parse(Ipv4::parse(&back).unwrap().payload()).unwrap();
                        out.answers.push((0, gre.payload().to_vec()));
                    }
                    Carried::Probe(packet) => {
                        prop_assert!(router.came_out(now, 0, &packet, &mut out));
                    }
                    Carried::Answer(payload) => {
                        let known = router.came_back(now, 0, &payload, &mut out);
                        if !flight.right {
                            let place = since.iter().rev().take(usize::from(retries)).position(|sent| *sent == payload);
                            prop_assert_eq!(known, place.is_some());
                            if let Some(place) = place {
                                prop_assert_eq!(!out.changes.is_empty(), !up || routers[0].counters(0).unwrap().heard == 1);
                                up = true;
                                since = since.split_off(since.len() - place);
                            }
                        }
                    }
                }
                left.extend(out.answers.into_iter().map(|(_, payload)| (!flight.right, Carried::Answer(payload))));
            }
            for (number, router) in routers.iter_mut().enumerate() {
                let mut out = Output::default();
                router.tick(now, &mut random, &mut out);
                prop_assert!(out.probes.len() <= 1);
                if number == 0 {
                    let down = !out.probes.is_empty() && up && since.len() >= usize::from(retries);
                    prop_assert_eq!(out.changes.len(), usize::from(down));
                    up &= !down;
                    if let Some((_, packet)) = out.probes.first() {
                        prop_assert!(last_sent.is_none_or(|last| now >= last + SECOND));
                        last_sent = Some(now);
                        since.push(packet[24..].to_vec());
                    }
                }
                left.extend(out.probes.into_iter().map(|(_, packet)| (number == 0, Carried::Probe(packet))));
            }
            prop_assert_eq!(routers[0].liveness(0).unwrap().is_up(), up);
            for (right, carried) in left {
                let (first, second) = match fates.next().unwrap() {
                    Fate::Lost => (None, None),
                    Fate::Delayed(delay) => (Some(delay), None),
                    Fate::Twice(one, other) => (Some(one), Some(other)),
                };
                for delay in first.into_iter().chain(second) {
                    let carried = match &carried {
                        Carried::Probe(packet) => Carried::Probe(packet.clone()),
                        Carried::Answer(payload) => Carried::Answer(payload.clone()),
                    };
                    line.push(Flight { at: now + delay + 1, right, carried });
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_taken(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80), v6_ends in any::<bool>(), plausible in any::<bool>(),
    ) {
        let ends = if v6_ends { v6() } else { v4() };
        if plausible {
            let probe = turned(ends).probe(NONCE).unwrap();
            for (byte, right) in bytes.iter_mut().zip(probe).skip(1) {
                *byte = if *byte & 0xf == 0 { *byte } else { right };
            }
        }
        let asked = ends.asked(&bytes).is_some();
        // What the packet path asks never keeps out what would be answered.
        prop_assert!(!asked || ends.may_ask(&bytes));
    }
}
