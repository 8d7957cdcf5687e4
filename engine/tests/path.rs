//! The packet path as a whole, through workers on memory wires. Steps of most tests:
//! 1. two routers with some tunnel between them are built, and frames given to them;
//! 2. what comes out is compared with what must, byte by byte;
//! 3. the books are balanced: every frame received was sent, passed to the host, or dropped for a counted reason.

mod lab;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_engine::drops::Reason;
use culvert_engine::esp::{Mode, Suite};
use culvert_engine::gre::{Options, Payload};
use culvert_engine::tables::Tables;
use lab::{
    LAN, LINK, PLAIN, Plan, SLOTS, Side, WAN, delivered, end, fix_checksum, forge, frame, inner, ip, trailer,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn suites() -> impl Strategy<Value = Option<Suite>> {
    prop_oneof![1 => Just(None), 3 => prop::sample::select(&Suite::ALL[..]).prop_map(Some)]
}

fn gre_options() -> impl Strategy<Value = Options> {
    let key = prop::option::of(any::<u32>());
    (key, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(key, checksum, sequence, frames)| Options {
            key,
            checksum,
            sequence,
            payload: if frames { Payload::Ethernet } else { Payload::Ip },
        },
    )
}

fn plans() -> impl Strategy<Value = Plan> {
    (suites(), any::<[bool; 7]>(), gre_options()).prop_map(|(suite, flags, gre)| {
        let [tunnel_mode, esn, udp, v6, long_pad, lan, wan] = flags;
        Plan {
            mode: if tunnel_mode { Mode::Tunnel } else { Mode::Transport },
            esn,
            udp,
            v6,
            pad: if long_pad { 16 } else { 4 },
            gre,
            offsets: (lan, wan),
            ..Plan::new(suite)
        }
    })
}

/// Sends `packets` (IP, or frames where those are carried) from router 1's LAN through both routers, all at once.
fn through(plan: &Plan, packets: &[Vec<u8>]) -> (Side, Side, Vec<Vec<u8>>) {
    let (mut a, mut b) = (Side::new(plan, 1), Side::new(plan, 2));
    for packet in packets {
        a.lan.send(&frame(1, LAN, packet));
    }
    a.run();
    for outer in a.wan.frames() {
        b.wan.send(&outer);
    }
    b.run();
    let out = b.lan.frames();
    (a, b, out)
}

fn balanced(side: &mut Side) -> Result<(), TestCaseError> {
    let [rx, tx, host, drops] = side.account();
    prop_assert_eq!(rx, tx + host + drops, "drops: {:?}", side.drops());
    let arrived = side.lan.frames().len() + side.wan.frames().len();
    prop_assert_eq!((tx, host), (arrived as u64, side.host.frames().len() as u64));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// open(seal(x)) = x, for every suite, mode, family, encapsulation, GRE option, kind of port and size, to the byte that
    /// just fits; and one byte more does not go in.
    #[test]
    fn what_goes_in_comes_out(
        plan in plans(),
        v6 in any::<bool>(),
        sizes in vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..20),
    ) {
        let frames = plan.gre.payload == Payload::Ethernet;
        let mtu = Side::new(&plan, 1).tunnel_mtu;
        let header = if frames { LINK } else { 0 };
        let longest = mtu - header;
        let shortest = if v6 { 40 } else { 20 };
        let mut packets: Vec<Vec<u8>> = sizes
            .iter()
            .map(|(size, tos, seed)| inner(v6, shortest + size.index(longest - shortest + 1), *tos, *seed))
            .collect();
        packets.push(inner(v6, longest, 0, 1));
        packets.push(inner(v6, longest + 1, 0, 2));
        let (a, b, out) = through(&plan, &packets);
        packets.pop();
        let wanted: Vec<Vec<u8>> = packets
            .into_iter()
            .map(|packet| if frames { frame(1, LAN, &packet) } else { delivered(packet) })
            .collect();
        prop_assert_eq!(a.drops(), vec![(Reason::TooBig, 1)]);
        prop_assert_eq!(b.drops(), vec![]);
        prop_assert_eq!(out, wanted);
    }

    /// What leaves for the other router shows nothing of the packet where it is protected, and stays within the link's MTU.
    #[test]
    fn what_is_protected_cannot_be_read(mut plan in plans(), v6 in any::<bool>(), len in 80usize..1300) {
        plan.suite = plan.suite.or(Some(Suite::Aes128Gcm16));
        let mut a = Side::new(&plan, 1);
        let packet = inner(v6, len, 0, 0x77);
        a.lan.send(&frame(1, LAN, &packet));
        a.run();
        let outer = a.wan.frames().pop().expect("one packet");
        prop_assert!(outer.len() <= LINK + lab::MTU);
        let secret = &packet[40..56];
        prop_assert!(!outer.windows(secret.len()).any(|window| window == secret));
    }
}

/// How a frame is spoilt.
#[derive(Debug, Clone)]
enum Spoil {
    Flip(prop::sample::Index),
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
}

fn spoils() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Spoil::Flip),
        4 => (any::<prop::sample::Index>(), prop::sample::select(vec![0, 1, 4, 6, 17, 47, 50, 59, 0x45, 0x60, 0x7f, 0x80, 0xff]))
            .prop_map(|(at, value)| Spoil::Set(at, value)),
        2 => any::<prop::sample::Index>().prop_map(Spoil::Cut),
        1 => vec(any::<u8>(), 1..40).prop_map(Spoil::Append),
    ]
}

fn spoil(frame: &mut Vec<u8>, how: &Spoil, within: usize) {
    match how {
        _ if frame.is_empty() => {}
        Spoil::Flip(bit) => {
            let bit = bit.index(frame.len().min(within) * 8);
            frame[bit / 8] ^= 0x80 >> (bit % 8);
        }
        Spoil::Set(at, value) => {
            let at = at.index(frame.len().min(within));
            frame[at] = *value;
        }
        Spoil::Cut(len) => frame.truncate(len.index(frame.len())),
        Spoil::Append(more) => frame.extend(more),
    }
}

/// A plain GRE header and an IPv4 packet for router 2's LAN.
fn gre_packet() -> Vec<u8> {
    [&[0, 0, 8, 0][..], &inner(false, 60, 0, 9)].concat()
}

#[derive(Debug, Clone)]
struct Hostile {
    /// Which good frame it starts as.
    kind: usize,
    spoils: Vec<Spoil>,
    headers_only: bool,
    repair: bool,
    noise: Vec<u8>,
}

fn hostiles() -> impl Strategy<Value = Hostile> {
    (0usize..11, vec(spoils(), 0..4), any::<bool>(), any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(
        |(kind, spoils, headers_only, repair, noise)| Hostile { kind, spoils, headers_only, repair, noise },
    )
}

/// Good frames for router 2, and some that are not, each with the port that it comes in by.
fn starting_point(plan: &Plan, outer: &[Vec<u8>], hostile: &Hostile, sequence: u64) -> (usize, Vec<u8>) {
    let back = |v6: bool| {
        let (src, dst) = match v6 {
            false => (lab::lan_v4(2, 2).into(), lab::lan_v4(1, 2).into()),
            true => (lab::lan_v6(2, 2).into(), lab::lan_v6(1, 2).into()),
        };
        frame(2, LAN, &ip(src, dst, 17, 1, 3, &hostile.noise))
    };
    let forged = |plaintext: Vec<u8>| match plan.suite {
        Some(_) => forge(plan, sequence, &plaintext),
        None => frame(2, WAN, &ip(end(1, plan.v6), end(2, plan.v6), 47, 0, 64, &plaintext)),
    };
    match hostile.kind {
        0 => (LAN, back(false)),
        1 => (LAN, back(true)),
        2..=4 => (WAN, outer[hostile.noise.len() % outer.len()].clone()),
        5 => (WAN, forged(hostile.noise.clone())),
        6 => {
            let mut gre = gre_packet();
            hostile.spoils.iter().for_each(|how| spoil(&mut gre, how, 40));
            (WAN, forged(trailer(&gre, 47)))
        }
        7 => (WAN, frame(2, WAN, &ip(end(1, plan.v6), end(2, plan.v6), 17, 0, 64, &hostile.noise))),
        8 => (WAN, frame(2, WAN, &ip(end(1, plan.v6), end(2, plan.v6), 1, 0, 64, &hostile.noise))),
        9 => (WAN, hostile.noise.clone()),
        _ => (LAN, frame(2, LAN, &hostile.noise)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes make the router panic, and none go missing from its books.
    #[test]
    fn every_frame_is_accounted_for(plan in plans(), hostiles in vec(hostiles(), 1..SLOTS as usize / 2)) {
        let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        for n in 0..8 {
            a.lan.send(&frame(1, LAN, &inner(n % 2 == 1, 64 + usize::from(n) * 100, n, n)));
        }
        a.run();
        let outer = a.wan.frames();
        prop_assert_eq!(outer.len(), 8);
        for (hostile, sequence) in hostiles.iter().zip(100..) {
            let (port, mut bytes) = starting_point(&plan, &outer, hostile, sequence);
            let within = if hostile.headers_only { 96 } else { usize::MAX };
            hostile.spoils.iter().for_each(|how| spoil(&mut bytes, how, within));
            if hostile.repair && bytes.len() > LINK {
                fix_checksum(&mut bytes[LINK..]);
            }
            bytes.truncate(1900);
            if port == LAN { b.lan.send(&bytes) } else { b.wan.send(&bytes) }
        }
        b.run();
        prop_assert_eq!(b.account()[0], hostiles.len() as u64);
        balanced(&mut b)?;
    }

    /// A spoilt copy that is not delivered leaves no trace: the genuine packet passes after it. One that is delivered (it
    /// differed where nothing protects it) makes the genuine one a replay.
    #[test]
    fn a_dropped_packet_changes_no_state(
        mut plan in plans(),
        how in vec(spoils(), 1..3),
        headers_only in any::<bool>(),
        repair in any::<bool>(),
        together in any::<bool>(),
    ) {
        plan.suite = plan.suite.or(Some(Suite::ChaCha20Poly1305));
        plan.gre.payload = Payload::Ip;
        let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        let packet = inner(false, 200, 0, 3);
        a.lan.send(&frame(1, LAN, &packet));
        a.run();
        let genuine = a.wan.frames().pop().expect("one packet");
        let mut copy = genuine.clone();
        how.iter().for_each(|how| spoil(&mut copy, how, if headers_only { 60 } else { usize::MAX }));
        if repair && copy.len() > LINK {
            fix_checksum(&mut copy[LINK..]);
        }
        copy.truncate(1900);
        prop_assert_eq!(b_window(&b), 0);
        b.wan.send(&copy);
        if !together {
            b.run();
            let delivered = b.lan.frames().len();
            // Its own number may be one: 0 is never sent (RFC 4303 section 2.2).
            let replays = b.dropped(Reason::EspReplay);
            prop_assert_eq!(b_window(&b), delivered as u64);
            b.wan.send(&genuine);
            b.run();
            let after = b.lan.frames();
            prop_assert_eq!(delivered + after.len(), 1, "drops: {:?}", b.drops());
            prop_assert_eq!(b.dropped(Reason::EspReplay) - replays, delivered as u64);
        } else {
            // In one batch it must come to the same.
            b.wan.send(&genuine);
            b.run();
            let out = b.lan.frames();
            prop_assert_eq!(out.len(), 1, "drops: {:?}", b.drops());
        }
        prop_assert_eq!(b_window(&b), 1);
    }
}

fn b_window(b: &Side) -> u64 {
    b.inbound.as_ref().map_or(0, |sa| sa.window().highest())
}

/// Authentic packets that are dropped for what is in them leave the window where it was: their number is still free.
#[test]
fn an_authentic_packet_with_bad_contents_changes_no_state() {
    let mut wrong_version = gre_packet();
    wrong_version[1] = 1;
    let mut unknown_payload = gre_packet();
    unknown_payload[2..4].copy_from_slice(&[0x88, 0x47]);
    let mut broken_ip = gre_packet();
    broken_ip[4 + 10] ^= 0xff;
    let keyed = [&[0x20, 0, 8, 0, 0, 0, 0, 7][..], &inner(false, 60, 0, 9)].concat();
    let nested =
        [&[0, 0, 8, 0][..], &ip(lab::lan_v4(1, 2).into(), end(2, false), 17, 0, 9, &[0; 16])].concat();
    let mut bad_padding = trailer(&gre_packet()[..61], 47);
    let at = bad_padding.len() - 3;
    bad_padding[at] ^= 0xff;
    let cases = [
        (trailer(&wrong_version, 47), Reason::GreMalformed),
        (trailer(&unknown_payload, 47), Reason::GreUnknown),
        (trailer(&broken_ip, 47), Reason::IpMalformed),
        (trailer(&keyed, 47), Reason::GreKey),
        (trailer(&nested, 47), Reason::Nested),
        (trailer(&gre_packet(), 6), Reason::EspMalformed),
        (trailer(&inner(false, 60, 0, 1), 4), Reason::EspMalformed),
        (bad_padding, Reason::EspMalformed),
    ];
    for suite in Suite::ALL {
        for esn in [false, true] {
            let plan = Plan { esn, ..Plan::new(Some(suite)) };
            let mut b = Side::new(&plan, 2);
            for (plaintext, reason) in &cases {
                let before = b.dropped(*reason);
                b.wan.send(&forge(&plan, 7, plaintext));
                b.run();
                assert_eq!(b.dropped(*reason), before + 1, "{reason:?}; drops: {:?}", b.drops());
                assert_eq!((b_window(&b), b.lan.frames().len()), (0, 0), "after {reason:?}");
            }
            b.wan.send(&forge(&plan, 7, &trailer(&gre_packet(), 47)));
            b.run();
            assert_eq!((b_window(&b), b.lan.frames().len()), (7, 1));
            // A dummy (RFC 4303 section 2.6) is genuine: it goes nowhere, but its number is spent.
            b.wan.send(&forge(&plan, 9, &trailer(&[0; 40], 59)));
            b.run();
            assert_eq!((b_window(&b), b.dropped(Reason::EspDummy), b.lan.frames().len()), (9, 1, 0));
        }
    }
}

/// The frame with a packet in UDP, were it from another address (its last byte is `last`) and port.
fn from_elsewhere(plan: &Plan, mut frame: Vec<u8>, last: u8, port: u16) -> Vec<u8> {
    let (source, len) = if plan.v6 { (LINK + 8..LINK + 24, 40) } else { (LINK + 12..LINK + 16, 20) };
    frame[source.end - 1] = last;
    frame[LINK + len..LINK + len + 2].copy_from_slice(&port.to_be_bytes());
    if !plan.v6 {
        lab::fix_checksum(&mut frame[LINK..]);
    }
    frame
}

/// A NAT on the way gives the far end another port, then another address: the SA knows where its newest packet came from. No other
/// tells: not one that was forged, sent again, overtaken, or is wrong inside.
#[test]
fn the_newest_genuine_packet_tells_where_the_far_end_is() {
    for (v6, esn, offsets) in [
        (false, true, (true, true)),
        (false, false, (true, false)),
        (true, true, (true, true)),
        (true, true, (true, false)),
    ] {
        let plan = Plan { udp: true, v6, esn, offsets, ..Plan::new(Some(Suite::Aes128Gcm16)) };
        let mut b = Side::new(&plan, 2);
        let sa = Arc::clone(b.inbound.as_ref().expect("an SA"));
        let genuine = |sequence| forge(&plan, sequence, &trailer(&gre_packet(), 47));
        let moved = |sequence, last, port| from_elsewhere(&plan, genuine(sequence), last, port);
        let mut send = |frames: &[Vec<u8>]| {
            frames.iter().for_each(|frame| b.wan.send(frame));
            b.run();
            (b.lan.frames(), b.drops())
        };
        let seen = |last: u8, port: u16| {
            let address = match end(1, v6) {
                IpAddr::V4(address) => {
                    IpAddr::from((address.to_bits() & !0xff | u32::from(last)).to_be_bytes())
                }
                IpAddr::V6(address) => {
                    IpAddr::from((address.to_bits() & !0xff | u128::from(last)).to_be_bytes())
                }
            };
            SocketAddr::new(address, port)
        };
        let now = || sa.source().map(|(_, source)| source);
        assert_eq!(now(), None);
        let usual = send(&[genuine(10), genuine(11)]);
        assert_eq!((usual.0.len(), usual.1.len()), (2, 0));
        let (first, source) = sa.source().expect("where it came from");
        assert_eq!(source, SocketAddr::new(end(1, v6), 4500));
        // As any other, and in its place among them.
        assert_eq!(send(&[genuine(12), moved(13, 77, 20_001), moved(14, 77, 20_001), genuine(9)]).0.len(), 4);
        let (second, source) = sa.source().expect("where it came from");
        assert_eq!((source, second != first), (seen(77, 20_001), true));
        // Again, forged, overtaken, and wrong inside.
        let mut forged = moved(15, 88, 1);
        *forged.last_mut().expect("bytes") ^= 1;
        let wrong = from_elsewhere(&plan, forge(&plan, 15, &trailer(&gre_packet(), 6)), 88, 1);
        let (frames, drops) = send(&[moved(13, 88, 1), forged, moved(8, 88, 1), wrong]);
        assert_eq!(frames, [usual.0[0].as_slice()]);
        let wanted = [Reason::EspReplay, Reason::EspAuth, Reason::EspMalformed].map(|reason| (reason, 1));
        assert!(drops.len() == 3 && wanted.iter().all(|drop| drops.contains(drop)), "{drops:?}");
        assert_eq!(sa.source(), Some((second, seen(77, 20_001))));
        // The same address, another port; and back.
        assert_eq!(send(&[moved(16, 77, 4500)]).0, [usual.0[0].as_slice()]);
        assert_eq!(now(), Some(seen(77, 4500)));
        assert_eq!(send(&[genuine(17)]).0.len(), 1);
        assert_eq!(
            sa.source().map(|(version, source)| (version > second, source.port())),
            Some((true, 4500))
        );
        assert_eq!(sa.window().highest(), 17);
    }
}

/// An SA ends with its last number, in the middle of a batch or not, and nothing leaves after it.
#[test]
fn an_sa_ends_exactly_where_its_numbers_do() {
    const LEFT: u64 = 100;
    // With ESN, 2^32 numbers short of 2^64: the counter may be moved beyond the end, but never around it.
    for (esn, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX - (1 << 32))] {
        for burst in [1, 7, 60, 100] {
            let plan = Plan { esn, first: last - LEFT + 1, ..Plan::new(Some(Suite::Aes256Gcm16)) };
            let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
            assert_eq!(a.outbound.as_ref().map(|sa| sa.remaining()), Some(LEFT));
            let (mut sent, mut arrived, mut ivs) = (0, 0, Vec::new());
            while sent < LEFT + 50 {
                for _ in 0..burst {
                    a.lan.send(&frame(1, LAN, &inner(false, 90, 0, sent as u8)));
                    sent += 1;
                }
                a.run();
                for outer in a.wan.frames() {
                    let number = plan.first + ivs.len() as u64;
                    assert_eq!(outer[LINK + 24..LINK + 28], (number as u32).to_be_bytes(), "in order");
                    ivs.push(outer[LINK + 28..LINK + 36].to_vec());
                    b.wan.send(&outer);
                }
                b.run();
                arrived += b.lan.frames().len() as u64;
            }
            assert_eq!((arrived, a.drops()), (LEFT, vec![(Reason::SaExhausted, sent - LEFT)]), "esn {esn}");
            assert_eq!((b.drops(), b_window(&b)), (vec![], last));
            assert_eq!(a.outbound.as_ref().map(|sa| sa.remaining()), Some(0));
            ivs.sort_unstable();
            ivs.dedup();
            assert_eq!(ivs.len() as u64, LEFT, "an IV was used twice");
        }
    }
}

/// What is not the engine's reaches the host byte for byte.
#[test]
fn the_host_gets_its_frames_unchanged() {
    for offsets in [(true, true), (false, false)] {
        let plan = Plan { offsets, ..Plan::new(Some(Suite::Aes128Gcm16)) };
        let mut b = Side::new(&plan, 2);
        let ike = [&[0x11, 0x94, 0x11, 0x94, 0, 20, 0, 0][..], &[0, 0, 0, 0], &[7; 8]].concat();
        let mut arp = frame(2, WAN, &[1; 28]);
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut broadcast = frame(2, LAN, &[2; 46]);
        broadcast[..6].fill(0xff);
        let frames = [
            frame(2, WAN, &ip(end(1, false), end(2, false), 17, 0, 64, &ike)),
            frame(2, WAN, &ip(end(1, true), end(2, true), 6, 0, 64, &[3; 100])),
            arp,
        ];
        frames.iter().for_each(|frame| b.wan.send(frame));
        b.lan.send(&broadcast);
        b.run();
        let mut wanted = vec![broadcast];
        wanted.extend(frames);
        assert_eq!(b.host.frames(), wanted);
        assert_eq!((b.account(), b.drops()), ([4, 0, 4, 0], vec![]));
    }
}

/// Cleartext for a protected tunnel is refused, and without an SA nothing leaves in clear.
#[test]
fn nothing_passes_in_clear_where_it_should_be_protected() {
    let mut b = Side::new(&Plan::new(Some(Suite::Aes128Gcm16)), 2);
    b.wan.send(&frame(2, WAN, &ip(end(1, false), end(2, false), 47, 0, 64, &gre_packet())));
    b.run();
    assert_eq!((b.drops(), b.lan.frames().len()), (vec![(Reason::CleartextForProtected, 1)], 0));
    let mut open = Side::new(&Plan { gre: PLAIN, ..Plan::new(None) }, 2);
    open.wan.send(&frame(2, WAN, &ip(end(1, false), end(2, false), 47, 0, 64, &gre_packet())));
    open.run();
    assert_eq!((open.drops(), open.lan.frames().len()), (vec![], 1), "the same packet, tunnel not protected");
}

/// While another router holds its near end, a tunnel sends nothing, and what comes for it changes nothing.
#[test]
fn a_tunnel_whose_near_end_is_another_router_s_is_silent() {
    for suite in [None, Some(Suite::Aes128Gcm16)] {
        let plan = Plan { gre: PLAIN, ..Plan::new(suite) };
        let mut b = Side::new(&plan, 2);
        let sas = b.outbound.clone().zip(b.inbound.clone());
        let publish = |b: &Side, backup| {
            let protection = sas.as_ref().map(|sas| plan.protection(sas));
            let mut spec = lab::spec(&plan, 2, protection);
            spec.tunnels[0].backup = backup;
            b.tables.store(std::sync::Arc::new(Tables::build(spec).expect("tables")));
        };
        let packet = match suite {
            Some(_) => forge(&plan, 7, &trailer(&gre_packet(), 47)),
            None => frame(2, WAN, &ip(end(1, false), end(2, false), 47, 0, 64, &gre_packet())),
        };
        let out = ip(lab::lan_v4(2, 2).into(), lab::lan_v4(1, 2).into(), 59, 0, 64, &[7; 60]);
        publish(&b, true);
        b.wan.send(&packet);
        b.lan.send(&frame(2, LAN, &out));
        b.run();
        assert_eq!(b.drops(), [(Reason::Backup, 2)]);
        assert_eq!((b.wan.frames().len(), b.lan.frames().len(), b_window(&b)), (0, 0, 0));
        assert_eq!(b.outbound.as_ref().map_or(0, |sa| sa.used()), 0, "no number was spent");
        publish(&b, false);
        b.wan.send(&packet);
        b.lan.send(&frame(2, LAN, &out));
        b.run();
        assert_eq!((b.wan.frames().len(), b.lan.frames().len()), (1, 1), "{:?}", b.drops());
    }
}

/// A bridged tunnel is a wire: broadcast, multicast, tagged and stretched-out frames pass it both ways as they are.
#[test]
fn a_bridged_tunnel_passes_every_frame_both_ways() {
    let gre = Options { key: Some(7), payload: Payload::Ethernet, ..PLAIN };
    let aes = Some(Suite::Aes128Gcm16);
    for (suite, udp, v6) in [(None, false, false), (None, true, true), (aes, false, true), (aes, true, false)]
    {
        for offsets in [(true, true), (false, false)] {
            let plan = Plan { gre, udp, v6, offsets, ..Plan::new(suite) };
            let mut sides = [Side::new(&plan, 1), Side::new(&plan, 2)];
            for (from, to) in [(0, 1), (1, 0)] {
                let number = from as u8 + 1;
                let whole = frame(number, LAN, &inner(false, 100, 0, 1));
                let with =
                    |destination: [u8; 6], rest: &[u8]| [&destination[..], &whole[6..12], rest].concat();
                let frames = [
                    with([0xff; 6], &[&[8, 6][..], &[5; 46]].concat()),
                    with([0xff; 6], &[&[0x81, 0, 0, 7, 8, 6][..], &[6; 46]].concat()),
                    with([1, 0, 0x5e, 0, 0, 5], &whole[12..]),
                    with([1, 0x80, 0xc2, 0, 0, 0], &[0, 38, 0x42, 0x42, 3]),
                    with(
                        [2, 0, 0, 0, 0, 0x99],
                        &[&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2][..], &whole[12..]].concat(),
                    ),
                    whole.clone(),
                ];
                frames.iter().for_each(|frame| sides[from].lan.send(frame));
                sides[from].run();
                sides[from].wan.frames().iter().for_each(|outer| sides[to].wan.send(outer));
                sides[to].run();
                assert_eq!(sides[to].lan.frames(), frames, "{plan:?}");
                assert_eq!((sides[from].host.frames().len(), sides[to].host.frames().len()), (0, 0));
            }
            assert!(sides.iter().all(|side| side.drops().is_empty()));
        }
    }
}
