//! Traces and captures of two routers: each step told, each frame as it was, and nothing else changed by looking.

mod lab;

use std::net::IpAddr;

use culvert_engine::drops::Reason;
use culvert_engine::esp::{Mode, Suite};
use culvert_engine::gre::{Options, Payload};
use culvert_engine::tables::{RouteSource, To};
use culvert_engine::trace::{
    CaptureReader, Direction, Op, Program, Side as End, Source, Step, TAPS, Target, Test, TooMany, Way,
};
use lab::{LAN, PLAIN, Plan, Side, WAN, end, forge, frame, inner, ip, lan_v4, mac, spi, station, trailer};
use proptest::prelude::*;

const KEYED: Options = Options { key: Some(42), ..PLAIN };
const ALL: u64 = u64::MAX;

fn esp() -> Plan {
    Plan { gre: KEYED, ..Plan::new(Some(Suite::Aes128Gcm16)) }
}

/// The ways of what a router does with these frames of a port.
fn trace(side: &mut Side, port: usize, frames: &[Vec<u8>]) -> Vec<Way> {
    let mut reader = side.taps.trace(Program::default(), ALL).expect("room for a tap");
    let far = if port == LAN { &mut side.lan } else { &mut side.wan };
    frames.iter().for_each(|frame| far.send(frame));
    side.run();
    let mut ways = Vec::new();
    assert_eq!(reader.read(|way| ways.push(way.clone())), 0);
    ways
}

fn one(side: &mut Side, port: usize, frame: &[u8]) -> Vec<Step> {
    let ways = trace(side, port, &[frame.to_vec()]);
    assert_eq!(ways.len(), 1);
    ways[0].steps.to_vec()
}

/// What a step is, without its numbers.
fn name(step: &Step) -> &'static str {
    match step {
        Step::Received { .. } => "received",
        Step::Belongs { .. } => "belongs",
        Step::Routed(_) => "routed",
        Step::Spread(_) => "spread",
        Step::Open(_) => "open",
        Step::Gre(_) => "gre",
        Step::CameOut { .. } => "came out",
        Step::Held { .. } => "held",
        Step::WentIn { .. } => "went in",
        Step::Seal(_) => "seal",
        Step::Outer { .. } => "outer",
        Step::Sent { .. } => "sent",
        Step::HandedOver(_) => "handed over",
        Step::Host => "host",
        Step::HostInner(_) => "host inner",
        Step::Exception(_) => "exception",
        Step::Dropped(_) => "dropped",
    }
}

fn names(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(name).collect()
}

#[test]
fn each_stage_into_a_tunnel_is_told() {
    let mut a = Side::new(&esp(), 1);
    let steps = one(&mut a, LAN, &frame(1, LAN, &inner(false, 100, 2, 0)));
    assert_eq!(names(&steps), ["received", "routed", "went in", "gre", "seal", "outer", "sent"]);
    let Step::Received { from: Source::Port { port: 0, queue: 0 }, stations, headers } = steps[0] else {
        panic!("{:?}", steps[0])
    };
    assert_eq!(stations, Some((station(1, LAN), mac(1, LAN))));
    assert_eq!((headers.len, headers.ttl, headers.protocol), (114, 64, Some(59)));
    assert_eq!(headers.ends, Some((lan_v4(1, 2).into(), lan_v4(2, 2).into())));
    let Step::Routed(Some(found)) = steps[1] else { panic!("{:?}", steps[1]) };
    assert_eq!((found.prefix.to_string().as_str(), found.next.to), ("10.2.0.0/16", To::Tunnel(0)));
    assert_eq!(found.source, RouteSource::Given);
    let Step::WentIn { tunnel: 0, headers } = steps[2] else { panic!("{:?}", steps[2]) };
    assert_eq!((headers.len, headers.ttl), (100, 63));
    assert!(matches!(steps[3], Step::Gre(gre) if gre.key == Some(42) && gre.protocol == 0x0800));
    assert!(matches!(steps[4], Step::Seal(esp) if esp.spi == spi(1) && esp.sequence == 1));
    let Step::Outer { headers } = steps[5] else { panic!("{:?}", steps[5]) };
    assert_eq!((headers.ends, headers.protocol), (Some((end(1, false), end(2, false))), Some(50)));
    let sent = a.wan.frames();
    assert_eq!(steps[6], Step::Sent { port: 1, to: mac(2, WAN), len: sent[0].len() as u32 });
}

#[test]
fn each_stage_out_of_a_tunnel_is_told() {
    for plan in
        [esp(), Plan { mode: Mode::Tunnel, ..esp() }, Plan { offsets: (false, false), udp: true, ..esp() }]
    {
        let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        a.lan.send(&frame(1, LAN, &inner(false, 100, 2, 0)));
        a.run();
        let steps = one(&mut b, WAN, &a.wan.frames()[0]);
        assert_eq!(names(&steps), ["received", "belongs", "open", "gre", "came out", "routed", "sent"]);
        assert!(matches!(steps[2], Step::Open(esp) if esp.spi == spi(1) && esp.sequence == 1));
        assert!(matches!(steps[3], Step::Gre(gre) if gre.key == Some(42)), "{:?}", steps[3]);
        let Step::CameOut { tunnel: 0, headers } = steps[4] else { panic!("{:?}", steps[4]) };
        assert_eq!((headers.len, headers.ttl), (100, 63));
        let Step::Routed(Some(found)) = steps[5] else { panic!("{:?}", steps[5]) };
        assert_eq!(found.prefix.to_string(), "10.2.0.2/32");
        assert_eq!(found.source, RouteSource::Neighbour("10.2.0.0/16".parse().expect("a prefix")));
        assert_eq!(steps[6], Step::Sent { port: 0, to: station(2, LAN), len: 114 });
    }
}

/// Sequence numbers whose upper half no packet carries.
#[test]
fn whole_sequence_numbers_are_told() {
    let plan = Plan { first: (3 << 32) - 1, ..esp() };
    let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
    for number in [(3 << 32) - 1, 3 << 32, (3 << 32) + 1] {
        let sealed = one(&mut a, LAN, &frame(1, LAN, &inner(false, 100, 2, 0)));
        assert!(sealed.iter().any(|step| matches!(step, Step::Seal(esp) if esp.sequence == number)));
        let opened = one(&mut b, WAN, &a.wan.frames()[0]);
        assert!(opened.iter().any(|step| matches!(step, Step::Open(esp) if esp.sequence == number)));
    }
}

/// Each refused packet says what for, and how far it came.
#[test]
fn the_reason_of_a_drop_is_told() {
    let plan = esp();
    let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
    a.lan.send(&frame(1, LAN, &inner(false, 100, 2, 0)));
    a.run();
    let good = a.wan.frames().remove(0);
    let mut spoilt = good.clone();
    *spoilt.last_mut().expect("bytes") ^= 1;
    let gre =
        |key: u32, packet: &[u8]| trailer(&[&[0x20, 0, 8, 0][..], &key.to_be_bytes(), packet].concat(), 47);
    let outer = |payload: &[u8]| frame(2, WAN, &ip(end(1, false), end(2, false), 47, 0, 64, payload));
    let nested = ip(lan_v4(1, 2).into(), end(1, false), 59, 0, 64, &[0; 8]);
    let nowhere = ip(lan_v4(1, 2).into(), IpAddr::from([198, 51, 100, 7]), 59, 0, 64, &[0; 8]);
    let to_nobody = ip(lan_v4(1, 2).into(), lan_v4(2, 77).into(), 59, 0, 64, &[0; 8]);
    for (frame, reason, way) in [
        (spoilt, Reason::EspAuth, &["received", "belongs", "open", "dropped"][..]),
        (
            forge(&plan, 77, &gre(43, &inner(false, 60, 0, 0))),
            Reason::GreKey,
            &["received", "belongs", "open", "gre", "dropped"],
        ),
        (
            forge(&plan, 78, &gre(42, &nested)),
            Reason::Nested,
            &["received", "belongs", "open", "held", "dropped"],
        ),
        (
            forge(&plan, 79, &gre(42, &nowhere)),
            Reason::NoRoute,
            &["received", "belongs", "open", "gre", "came out", "routed", "dropped"],
        ),
        (
            forge(&plan, 80, &gre(42, &to_nobody)),
            Reason::NoNeighbour,
            &["received", "belongs", "open", "gre", "came out", "routed", "dropped"],
        ),
        (
            forge(&plan, 80, &gre(42, &to_nobody)),
            Reason::EspReplay,
            &["received", "belongs", "open", "dropped"],
        ),
        (
            outer(&[&[0x20, 0, 8, 0, 0, 0, 0, 42][..], &inner(false, 60, 0, 0)].concat()),
            Reason::CleartextForProtected,
            &["received", "belongs", "gre", "dropped"],
        ),
        (outer(&[0x20, 0, 8, 0, 0, 0, 0, 43, 0]), Reason::GreKey, &["received", "dropped"]),
        (frame(2, LAN, &nowhere), Reason::NotOurs, &["received", "dropped"]),
    ] {
        let steps = one(&mut b, WAN, &frame);
        assert_eq!(names(&steps), way, "{reason:?}");
        assert_eq!(steps.last(), Some(&Step::Dropped(reason)));
        assert!(b.dropped(reason) > 0);
    }
    // What was sealed for the wrong key shows it.
    let steps = one(&mut b, WAN, &forge(&plan, 90, &gre(43, &inner(false, 60, 0, 0))));
    assert!(matches!(steps[2], Step::Open(esp) if esp.sequence == 90));
    assert!(matches!(steps[3], Step::Gre(gre) if gre.key == Some(43)));
    let long = inner(false, a.tunnel_mtu + 1, 0, 0);
    let steps = one(&mut a, LAN, &frame(1, LAN, &long));
    assert_eq!(names(&steps), ["received", "routed", "dropped"]);
    assert_eq!(steps[2], Step::Dropped(Reason::TooBig));
}

/// What is sent to the address that routers share (CARP, VRRP) comes out of a tunnel like what is sent to the port's own; what is not for
/// an address of ours, the host's CARP judges.
#[test]
fn frames_to_a_virtual_router() {
    let plan = Plan::new(Some(Suite::Aes128Gcm16));
    let [mut a, mut b] = [Side::new(&plan, 1), Side::new(&plan, 2)];
    a.lan.send(&frame(1, LAN, &inner(false, 60, 0, 0)));
    a.run();
    let sent = a.wan.frames().remove(0);
    let shared = |group: u8, frame: &[u8]| [&[0, 0, 0x5e, 0, 1, group], &frame[6..]].concat();
    assert!(names(&one(&mut b, WAN, &shared(2, &sent))).contains(&"came out"));
    let through = frame(2, LAN, &inner(false, 60, 0, 0));
    assert_eq!(names(&one(&mut b, LAN, &shared(7, &through))), ["received", "routed", "host"]);
    let arp = shared(7, &[&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6], &[0; 28]].concat());
    assert_eq!(names(&one(&mut b, LAN, &arp)), ["received", "host"]);
    let mut other = shared(7, &through);
    other[4] = 3;
    assert_eq!(one(&mut b, LAN, &other).last(), Some(&Step::Dropped(Reason::NotOurs)));
}

#[test]
fn what_goes_to_the_host_is_told() {
    let mut a = Side::new(&Plan::new(None), 1);
    let steps =
        one(&mut a, LAN, &frame(1, LAN, &ip(lan_v4(1, 2).into(), lan_v4(1, 1).into(), 6, 0, 64, &[0; 20])));
    assert_eq!(names(&steps), ["received", "routed", "host"]);
    assert!(matches!(steps[1], Step::Routed(Some(found)) if found.source == RouteSource::Own));
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6], &[0; 28]].concat();
    assert_eq!(names(&one(&mut a, LAN, &arp)), ["received", "host"]);
}

/// What came out of it without ESP, with its GRE header.
#[test]
fn unprotected_tunnels_are_told() {
    for (gre, way) in [
        (KEYED, ["received", "belongs", "gre", "came out", "routed", "sent"]),
        (Options { sequence: true, ..KEYED }, ["received", "belongs", "gre", "came out", "routed", "sent"]),
    ] {
        let plan = Plan { gre, ..Plan::new(None) };
        let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        let steps = one(&mut a, LAN, &frame(1, LAN, &inner(true, 100, 2, 0)));
        assert_eq!(names(&steps), ["received", "routed", "went in", "gre", "outer", "sent"]);
        let steps = one(&mut b, WAN, &a.wan.frames()[0]);
        assert_eq!(names(&steps), way);
        let seen = Step::Gre(culvert_engine::trace::GreSeen {
            protocol: 0x86dd,
            key: Some(42),
            sequence: gre.sequence.then_some(0),
            checksum: false,
        });
        assert_eq!(steps[2], seen);
    }
}

fn capture(side: &Side, target: Target) -> CaptureReader {
    side.taps.capture(target, Program::default(), ALL, 2048).expect("room for a tap")
}

fn read(reader: &mut CaptureReader) -> Vec<(Direction, Option<u32>, Vec<u8>)> {
    let mut packets = Vec::new();
    let lost = reader.read(|packet| {
        assert_eq!(packet.original_len as usize, packet.bytes().len());
        packets.push((packet.direction, packet.port, packet.bytes().to_vec()));
    });
    assert_eq!(lost, 0);
    packets
}

/// A frame through both routers and an answer back, in the eyes of every capture.
#[test]
fn captures_hold_what_was_there() {
    let (lan, wan) = (LAN as u32, WAN as u32);
    for plan in [
        esp(),
        Plan { mode: Mode::Tunnel, offsets: (false, false), ..esp() },
        Plan { gre: KEYED, ..Plan::new(None) },
    ] {
        let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        let targets = [Target::Port(lan), Target::Port(wan), Target::Outer(0), Target::Inner(0)];
        let mut at_a = targets.map(|target| capture(&a, target));
        let mut at_b = targets.map(|target| capture(&b, target));
        let sent = frame(1, LAN, &inner(false, 100, 2, 0));
        a.lan.send(&sent);
        a.run();
        let outer = a.wan.frames().remove(0);
        b.wan.send(&outer);
        b.run();
        let arrived = b.lan.frames().remove(0);
        let mut inside = sent[14..].to_vec();
        inside[8] -= 1;
        lab::fix_checksum(&mut inside);
        use Direction::{In, Out};
        let [port_lan, port_wan, tunnel_outer, tunnel_inner] = at_a.each_mut().map(read);
        assert_eq!(port_lan, [(In, Some(lan), sent)]);
        assert_eq!(port_wan, [(Out, Some(wan), outer.clone())]);
        assert_eq!(tunnel_outer, [(Out, Some(wan), outer.clone())]);
        assert_eq!(tunnel_inner, [(Out, None, inside.clone())]);
        let [port_lan, port_wan, tunnel_outer, tunnel_inner] = at_b.each_mut().map(read);
        assert_eq!(port_lan, [(Out, Some(lan), arrived)]);
        assert_eq!(port_wan, [(In, Some(wan), outer.clone())]);
        assert_eq!(tunnel_outer, [(In, Some(wan), outer)]);
        assert_eq!(tunnel_inner, [(In, None, inside)]);
    }
}

#[test]
fn captures_of_bridged_frames_hold_frames() {
    let plan = Plan { gre: Options { payload: Payload::Ethernet, ..PLAIN }, ..esp() };
    let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
    let (mut at_a, mut at_b) = (capture(&a, Target::Inner(0)), capture(&b, Target::Inner(0)));
    let sent = [&[9; 12][..], &[0x88, 0xcc], &[7; 60]].concat();
    a.lan.send(&sent);
    a.run();
    b.wan.send(&a.wan.frames()[0]);
    b.run();
    assert_eq!(read(&mut at_a), [(Direction::Out, None, sent.clone())]);
    assert_eq!(read(&mut at_b), [(Direction::In, None, sent)]);
}

/// What did not go is not shown as gone; what came is, whatever became of it.
#[test]
fn captures_show_what_went() {
    let plan = esp();
    let (mut a, mut b) = (Side::new(&plan, 1), Side::new(&plan, 2));
    let mut inside = capture(&a, Target::Inner(0));
    let mut wan = capture(&a, Target::Port(WAN as u32));
    a.lan.send(&frame(1, LAN, &inner(false, a.tunnel_mtu + 1, 0, 0)));
    a.run();
    assert_eq!((read(&mut inside).len(), read(&mut wan).len()), (0, 0));
    assert_eq!(a.dropped(Reason::TooBig), 1);
    let mut outer = capture(&b, Target::Outer(0));
    let mut inside = capture(&b, Target::Inner(0));
    let forged = forge(&plan, 5, &trailer(&[0x20, 0, 8, 0, 0, 0, 0, 9], 47));
    b.wan.send(&forged);
    b.run();
    assert_eq!(read(&mut outer), [(Direction::In, Some(1), forged)]);
    assert_eq!(read(&mut inside).len(), 0);
}

#[test]
fn only_the_first_bytes_are_kept_where_no_more_are_wanted() {
    let mut a = Side::new(&esp(), 1);
    let mut reader = a.taps.capture(Target::Port(LAN as u32), Program::default(), ALL, 60).expect("room");
    let sent = frame(1, LAN, &inner(false, 200, 0, 0));
    a.lan.send(&sent);
    a.run();
    let mut seen = 0;
    reader.read(|packet| {
        seen += 1;
        assert_eq!((packet.bytes(), packet.original_len), (&sent[..60], 214));
    });
    assert_eq!(seen, 1);
}

#[test]
fn what_is_not_read_in_time_is_lost_and_counted() {
    let mut a = Side::new(&Plan::new(None), 1);
    let mut ways = a.taps.trace(Program::default(), ALL).expect("room");
    let mut frames = capture(&a, Target::Port(LAN as u32));
    let packet = frame(1, LAN, &inner(false, 60, 0, 0));
    let send = |a: &mut Side, count: usize| {
        for _ in 0..count / 100 {
            (0..100).for_each(|_| a.lan.send(&packet));
            a.run();
            assert_eq!(a.wan.frames().len(), 100, "forwarding goes on");
        }
    };
    send(&mut a, 10_000);
    let (mut kept, mut held) = (0, 0);
    let lost = ways.read(|_| kept += 1);
    assert_eq!(kept + lost, 10_000);
    assert!(kept >= 1000 && lost > 0, "{kept} kept");
    let lost = frames.read(|_| held += 1);
    assert_eq!(held + lost, 10_000);
    assert!(held >= 1000 && lost > 0, "{held} kept");
    send(&mut a, 100);
    let mut kept = 0;
    assert_eq!(ways.read(|_| kept += 1), 0);
    assert_eq!(kept, 100);
}

#[test]
fn a_tap_ends_when_it_has_what_it_wants() {
    let mut a = Side::new(&Plan::new(None), 1);
    let host = |address: IpAddr| {
        let net = Test::Net { side: End::Source, prefix: address.into() };
        Program::new(vec![Op::Test(net)]).expect("a program")
    };
    let mut wanted = a.taps.trace(host(lan_v4(1, 2).into()), 3).expect("room");
    let mut others = a.taps.trace(host(lan_v4(1, 3).into()), 3).expect("room");
    (0..10).for_each(|_| a.lan.send(&frame(1, LAN, &inner(false, 60, 0, 0))));
    a.run();
    let mut ways = 0;
    assert_eq!((wanted.read(|_| ways += 1), ways, wanted.is_done()), (0, 3, true));
    assert_eq!((others.read(|_| ways += 1), ways, others.is_done()), (0, 3, false));
}

#[test]
fn taps_are_bounded_and_make_room_for_others() {
    let mut a = Side::new(&Plan::new(None), 1);
    let open: Vec<_> = (0..TAPS).map(|_| a.taps.trace(Program::default(), ALL).expect("room")).collect();
    assert_eq!(a.taps.trace(Program::default(), ALL).err(), Some(TooMany));
    drop(open);
    let mut again = a.taps.trace(Program::default(), ALL).expect("room again");
    a.lan.send(&frame(1, LAN, &inner(false, 60, 0, 0)));
    a.run();
    let mut ways = 0;
    again.read(|_| ways += 1);
    assert_eq!(ways, 1);
}

fn plans() -> impl Strategy<Value = Plan> {
    prop_oneof![
        Just(esp()),
        Just(Plan { mode: Mode::Tunnel, offsets: (false, false), ..esp() }),
        Just(Plan { udp: true, v6: true, ..esp() }),
        Just(Plan { gre: Options { checksum: true, sequence: true, ..KEYED }, ..Plan::new(None) }),
        Just(Plan { gre: Options { payload: Payload::Ethernet, ..PLAIN }, ..Plan::new(None) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// A router that is watched sends what another sends that is not, and counts the same.
    #[test]
    fn looking_changes_nothing(
        plan in plans(),
        frames in proptest::collection::vec((any::<bool>(), 20..1500_usize, any::<u16>(), any::<u8>()), 1..40)
    ) {
        let (mut twin, mut seen, mut unseen) = (Side::new(&plan, 1), Side::new(&plan, 2), Side::new(&plan, 2));
        let _ways = seen.taps.trace(Program::default(), ALL).expect("room");
        let _captures = [Target::Port(0), Target::Port(1), Target::Outer(0), Target::Inner(0)].map(|target| capture(&seen, target));
        let mut sent = Vec::new();
        for (v6, len, place, bits) in frames {
            twin.lan.send(&frame(1, LAN, &inner(v6, len.max(40), 2, bits)));
            twin.run();
            twin.host.frames();
            for mut outer in twin.wan.frames() {
                sent.push(outer.clone());
                let at = usize::from(place) % outer.len();
                outer[at] ^= bits;
                sent.push(outer);
            }
        }
        let mut out = Vec::new();
        for side in [&mut seen, &mut unseen] {
            for chunk in sent.chunks(50) {
                chunk.iter().for_each(|frame| side.wan.send(frame));
                // And the way in, of a packet for the first router.
                let back = ip(lan_v4(2, 2).into(), lan_v4(1, 2).into(), 59, 0, 64, &chunk[0]);
                side.lan.send(&frame(2, LAN, &back));
                side.run();
                let sealed = plan.suite.is_some();
                let left: Vec<_> = side.wan.frames().into_iter().map(|frame| if sealed { frame[..40].to_vec() } else { frame }).collect();
                out.push((side.lan.frames(), left, side.host.frames()));
            }
        }
        let (seen_out, unseen_out) = out.split_at(out.len() / 2);
        prop_assert_eq!(seen_out, unseen_out);
        prop_assert_eq!(seen.drops(), unseen.drops());
        prop_assert_eq!(seen.account(), unseen.account());
        // Before the taps, which would wait for its worker to let go of them.
        drop(seen);
    }
}
