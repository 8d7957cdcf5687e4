//! Known frames (made with Scapy 2.8.0), the rules of the RFCs one by one in virtual time, and any sequence of events held
//! against a model.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::wire::{Arp, Ethernet, Icmpv6, Ipv6, Nd, arp, ethernet, nd};
use proptest::prelude::*;
use std::collections::BTreeMap;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Padded as ARP is sent.
fn padded(text: &str) -> Vec<u8> {
    let mut bytes = hex(text);
    bytes.resize(60, 0);
    bytes
}

/// A is we: 192.0.2.1 and 2001:db8::a. B is the neighbour: 192.0.2.2 and 2001:db8::b.
const WHO_HAS_A: &str =
    "ffffffffffff02000000000b0806000108000604000102000000000bc0000202000000000000c0000201";
const A_IS_AT: &str = "02000000000b02000000000a0806000108000604000202000000000ac000020102000000000bc0000202";
const WHO_HAS_B: &str =
    "ffffffffffff02000000000a0806000108000604000102000000000ac0000201000000000000c0000202";
const B_IS_AT: &str = "02000000000a02000000000b0806000108000604000202000000000bc000020202000000000ac0000201";
const SOLICIT_B: &str = "3333ff00000b02000000000a86dd6000000000203aff20010db800000000000000000000000aff0200000000000000000001ff00000b87001c030000000020010db800000000000000000000000b010102000000000a";
const ADVERTISE_B: &str = "02000000000a02000000000b86dd6000000000203aff20010db800000000000000000000000b20010db800000000000000000000000a88000a4de000000020010db800000000000000000000000b020102000000000b";
const SOLICIT_A: &str = "3333ff00000a02000000000b86dd6000000000203aff20010db800000000000000000000000bff0200000000000000000001ff00000a87001c030000000020010db800000000000000000000000a010102000000000b";
const ADVERTISE_A: &str = "02000000000b02000000000a86dd6000000000203aff20010db800000000000000000000000a20010db800000000000000000000000b88000a4fe000000020010db800000000000000000000000a020102000000000a";
const TEST_A: &str = "3333ff00000a02000000000b86dd6000000000183aff00000000000000000000000000000000ff0200000000000000000001ff00000a87004cdb0000000020010db800000000000000000000000a";
const ANNOUNCE_A: &str = "33330000000102000000000a86dd6000000000203aff20010db800000000000000000000000aff0200000000000000000000000000018800790fa000000020010db800000000000000000000000a020102000000000a";

fn station() -> Station {
    Station::new(A, vec![(ip("192.0.2.1"), 24), (ip("2001:db8::a"), 64)])
}

/// A machine on port 0, and the time; what it says is taken out of `out` by each test.
struct Lab {
    machine: Neighbours<u64>,
    out: Output<u64>,
    now: u64,
}

impl Lab {
    fn new(limits: Limits) -> Lab {
        let mut lab = Lab { machine: Neighbours::new(limits), out: Output::default(), now: 5 * SECOND };
        lab.machine.set_ports(lab.now, vec![Some(station())], &mut lab.out);
        lab.pass(10 * SECOND); // announcements over
        lab.out = Output::default();
        lab
    }

    /// Lets time pass, doing what is due when it is.
    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(due) = self.machine.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.machine.tick(self.now, &mut self.out);
        }
        self.now = end;
    }

    fn wait(&mut self, to: &str, packet: u64) {
        self.machine.wait(self.now, 0, ip(to), 100, packet, &mut self.out);
    }

    fn hear(&mut self, frame: &[u8]) -> Received {
        self.machine.received(self.now, 0, frame, &mut self.out)
    }

    fn take(&mut self) -> Output<u64> {
        std::mem::take(&mut self.out)
    }

    fn state(&self, address: &str) -> Option<State> {
        self.machine
            .iter()
            .find(|neighbour| neighbour.address == ip(address))
            .map(|neighbour| neighbour.state)
    }
}

/// ARP from `mac`, which says that it has `sender`.
fn arp_frame(operation: u16, mac: MacAddr, sender: &str, dst: MacAddr, target: &str) -> Vec<u8> {
    let v4 = |text: &str| text.parse().unwrap();
    let mut frame = vec![0; 14 + arp::LEN];
    crate::wire::EthernetHeader { dst, src: mac, ethertype: ethernet::ARP }
        .emit(frame.first_chunk_mut().unwrap());
    crate::wire::ArpMessage {
        operation,
        sender_mac: mac,
        sender_ip: v4(sender),
        target_mac: MacAddr::default(),
        target_ip: v4(target),
    }
    .emit(frame.last_chunk_mut().unwrap());
    frame
}

/// ND from B about 2001:db8::b, changed by `change`, with a right checksum.
fn nd_frame(base: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = hex(base);
    change(&mut frame);
    let len = frame.len() - 54;
    [frame[18], frame[19]] = (len as u16).to_be_bytes();
    frame[56] = 0;
    frame[57] = 0;
    let (src, dst) = {
        let packet = Ipv6::parse(&frame[14..]).unwrap();
        (packet.src(), packet.dst())
    };
    let check = crate::wire::Sum::pseudo_v6(src, dst, 58, len as u32).with(&frame[54..]).finish();
    [frame[56], frame[57]] = check.to_be_bytes();
    frame
}

#[test]
fn known_frames_of_arp() {
    let mut lab = Lab::new(Limits::default());
    assert_eq!(lab.hear(&hex(WHO_HAS_A)), Received::Done);
    assert_eq!(lab.take().frames, [(0, padded(A_IS_AT))]);
    lab.wait("192.0.2.2", 1);
    assert_eq!(lab.take().frames, [(0, padded(WHO_HAS_B))]);
    assert_eq!(lab.hear(&hex(B_IS_AT)), Received::Done);
    let out = lab.take();
    assert_eq!((out.released, out.lost.len()), (vec![(0, B, 1)], 0));
    assert_eq!(out.changes, [Change::Added(0, ip("192.0.2.2"), B)]);
    assert_eq!(lab.state("192.0.2.2"), Some(State::Reachable));
}

#[test]
fn known_frames_of_nd() {
    let mut lab = Lab::new(Limits::default());
    assert_eq!(lab.hear(&hex(SOLICIT_A)), Received::Done);
    assert_eq!(lab.take().frames, [(0, hex(ADVERTISE_A))]);
    assert_eq!(lab.hear(&hex(TEST_A)), Received::Done);
    assert_eq!(lab.take().frames, [(0, hex(ANNOUNCE_A))]);
    lab.wait("2001:db8::b", 1);
    assert_eq!(lab.take().frames, [(0, hex(SOLICIT_B))]);
    assert_eq!(lab.hear(&hex(ADVERTISE_B)), Received::Done);
    let out = lab.take();
    assert_eq!((out.released, out.changes), (vec![(0, B, 1)], vec![Change::Added(0, ip("2001:db8::b"), B)]));
    assert_eq!(lab.state("2001:db8::b"), Some(State::Reachable));
}

/// RFC 5227 section 2.1.1: a probe, whose sender address is all zero, is answered, or the prober takes our address.
#[test]
fn an_arp_probe_for_our_address_is_answered() {
    let mut lab = Lab::new(Limits::default());
    lab.hear(&arp_frame(arp::REQUEST, B, "0.0.0.0", MacAddr::BROADCAST, "192.0.2.1"));
    let frames = lab.take().frames;
    let frame = Ethernet::parse(&frames[0].1).unwrap();
    let answer = Arp::parse(frame.payload()).unwrap();
    assert_eq!((frame.dst(), answer.operation(), answer.sender_mac()), (B, arp::REPLY, A));
    assert_eq!(
        (answer.sender_ip().to_string(), answer.target_ip().is_unspecified()),
        ("192.0.2.1".into(), true)
    );
}

#[test]
fn others_addresses_are_never_answered_for() {
    let mut lab = Lab::new(Limits::default());
    for frame in [
        arp_frame(arp::REQUEST, B, "192.0.2.2", MacAddr::BROADCAST, "192.0.2.3"),
        arp_frame(arp::REQUEST, B, "192.0.2.2", A, "192.0.2.2"),
        arp_frame(arp::REPLY, B, "192.0.2.2", A, "192.0.2.1"),
        arp_frame(3, B, "192.0.2.2", A, "192.0.2.1"),
        nd_frame(SOLICIT_A, |frame| frame[77] = 0x0c),
    ] {
        assert_eq!(lab.hear(&frame), Received::Done);
        assert!(lab.take().frames.is_empty(), "{frame:x?}");
    }
    // Nor on ports that have none of our addresses, or that a host resolves for.
    lab.machine.set_ports(lab.now, vec![None, Some(Station::new(C, vec![]))], &mut lab.out);
    for port in 0..3 {
        let mut out = Output::default();
        lab.machine.received(lab.now, port, &hex(WHO_HAS_A), &mut out);
        assert!(out.frames.is_empty());
    }
}

#[test]
fn frames_that_are_none_of_this_machines_business() {
    let mut lab = Lab::new(Limits::default());
    let mut tagged = hex(WHO_HAS_A);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut own = hex(WHO_HAS_A);
    own[11] = 0xa;
    let mut elsewhere = hex(WHO_HAS_A);
    elsewhere[..6].copy_from_slice(&C.0);
    let echo = nd_frame(SOLICIT_A, |frame| frame[54] = 128);
    for frame in [tagged, own, elsewhere, echo, vec![], hex(WHO_HAS_A)[..13].to_vec()] {
        assert_eq!(lab.hear(&frame), Received::NotMine, "{frame:x?}");
    }
    assert!(lab.take().frames.is_empty());
}

#[test]
fn malformed_arp_is_counted() {
    let mut lab = Lab::new(Limits::default());
    let whole = hex(WHO_HAS_A);
    for len in 14..42 {
        assert_eq!(lab.hear(&whole[..len]), Received::Malformed(Reason::ArpMalformed), "{len} bytes");
    }
    let changed = |at: usize, byte: u8| {
        let mut frame = hex(WHO_HAS_A);
        frame[at] = byte;
        frame
    };
    // Hardware, protocol, lengths; a group as the sender's link address; a group, or all stations, as its address.
    for (at, byte) in [(15, 6), (16, 9), (18, 8), (19, 16), (22, 3), (28, 224), (28, 239)] {
        assert_eq!(lab.hear(&changed(at, byte)), Received::Malformed(Reason::ArpMalformed), "byte {at}");
    }
    let zero = {
        let mut frame = hex(WHO_HAS_A);
        frame[22..28].fill(0);
        frame
    };
    assert_eq!(lab.hear(&zero), Received::Malformed(Reason::ArpMalformed));
    assert_eq!(lab.machine.counters().malformed, 28 + 7 + 1);
    assert!(lab.take().frames.is_empty());
}

/// RFC 4861 sections 7.1.1 and 7.1.2, rule by rule.
#[test]
fn invalid_nd_is_counted_and_changes_nothing() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("2001:db8::b", 1);
    lab.take();
    let mut wrong_sum = hex(ADVERTISE_B);
    wrong_sum[60] ^= 1;
    let frames = [
        ("hop limit", nd_frame(ADVERTISE_B, |frame| frame[21] = 254)),
        ("checksum", wrong_sum),
        ("code", nd_frame(ADVERTISE_B, |frame| frame[55] = 1)),
        ("length", nd_frame(ADVERTISE_B, |frame| frame.truncate(54 + 20))),
        ("multicast target", nd_frame(ADVERTISE_B, |frame| frame[62] = 0xff)),
        ("option of length 0", nd_frame(ADVERTISE_B, |frame| frame[79] = 0)),
        ("option beyond the end", nd_frame(ADVERTISE_B, |frame| frame[79] = 2)),
        ("option cut short", nd_frame(ADVERTISE_B, |frame| frame.truncate(54 + 25))),
        ("group as link address", nd_frame(ADVERTISE_B, |frame| frame[80] = 3)),
        ("solicited, to a group", nd_frame(ADVERTISE_B, |frame| frame[38] = 0xff)),
        ("solicitation: code", nd_frame(SOLICIT_A, |frame| frame[55] = 1)),
        ("solicitation: hop limit", nd_frame(SOLICIT_A, |frame| frame[21] = 64)),
        (
            "probe to us alone",
            nd_frame(TEST_A, |frame| frame[38..54].copy_from_slice(&hex("20010db800000000000000000000000a"))),
        ),
        ("probe with a link address", nd_frame(SOLICIT_A, |frame| frame[22..38].fill(0))),
    ];
    let count = frames.len() as u64;
    for (why, frame) in frames {
        assert_eq!(lab.hear(&frame), Received::Malformed(Reason::NdMalformed), "{why}");
        let out = lab.take();
        assert!(out.frames.is_empty() && out.changes.is_empty() && out.released.is_empty(), "{why}");
    }
    assert_eq!(lab.machine.counters().malformed, count);
    // Unknown options are skipped (RFC 4861 section 4.6).
    let extra = nd_frame(ADVERTISE_B, |frame| {
        frame.splice(78..78, [200, 1, 0, 0, 0, 0, 0, 0]);
    });
    assert_eq!(lab.hear(&extra), Received::Done);
    assert_eq!(lab.take().released, [(0, B, 1)]);
}

#[test]
fn three_requests_a_second_apart_then_the_packets_are_lost() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("192.0.2.2", 1);
    lab.wait("192.0.2.2", 2);
    assert_eq!(lab.take().frames.len(), 1);
    for _ in 0..2 {
        lab.pass(RETRY - 1);
        assert!(lab.take().frames.is_empty());
        lab.pass(1);
        assert_eq!(lab.take().frames, [(0, padded(WHO_HAS_B))]);
    }
    lab.pass(RETRY);
    let out = lab.take();
    assert_eq!((out.frames.len(), out.lost), (0, vec![(Lost::Unreachable, 1), (Lost::Unreachable, 2)]));
    // For a while nobody asks again.
    lab.pass(HOLD - 1);
    lab.wait("192.0.2.2", 3);
    let out = lab.take();
    assert_eq!((out.frames.len(), out.lost), (0, vec![(Lost::Unreachable, 3)]));
    lab.pass(1);
    assert_eq!(lab.machine.iter().count(), 0);
    lab.wait("192.0.2.2", 4);
    assert_eq!(lab.take().frames.len(), 1);
}

#[test]
fn a_dead_neighbour_that_speaks_is_believed_at_once() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("192.0.2.2", 1);
    lab.pass(4 * SECOND);
    assert_eq!(lab.state("192.0.2.2"), Some(State::Failed));
    lab.take();
    lab.hear(&hex(WHO_HAS_A));
    assert_eq!(lab.take().changes, [Change::Added(0, ip("192.0.2.2"), B)]);
    lab.wait("192.0.2.2", 2);
    assert_eq!(lab.take().released, [(0, B, 2)]);
}

/// In use: asked alone before its time is up. It answers, and stays.
#[test]
fn a_neighbour_in_use_is_refreshed_by_unicast() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("192.0.2.2", 1);
    lab.hear(&hex(B_IS_AT));
    lab.take();
    for _ in 0..200 {
        lab.pass(SECOND);
        lab.machine.used(lab.now, 0, ip("192.0.2.2"), &mut lab.out);
        for (_, frame) in lab.take().frames {
            assert_eq!(Ethernet::parse(&frame).unwrap().dst(), B);
            lab.hear(&hex(B_IS_AT));
        }
        assert!(lab.take().changes.is_empty());
    }
    assert_eq!(lab.machine.counters().requests, 1 + 200 / 23);
}

/// RFC 4861 section 7.3.3: a neighbour that is gone is noticed while it is in use: three probes, then all stations are asked.
#[test]
fn a_neighbour_that_is_gone_leaves_the_tables() {
    let mut lab = Lab::new(Limits::default());
    lab.machine.set_kept(lab.now, &[(0, ip("2001:db8::b"))], &mut lab.out);
    lab.hear(&hex(ADVERTISE_B));
    lab.take();
    lab.pass(REFRESH - 1);
    assert!(lab.take().frames.is_empty());
    let mut to = Vec::new();
    for _ in 0..7 {
        lab.pass(SECOND);
        let out = lab.take();
        to.extend(out.frames.iter().map(|(_, frame)| Ethernet::parse(frame).unwrap().dst()));
        if to.len() == 6 && out.frames.is_empty() {
            assert_eq!(out.changes, [Change::Removed(0, ip("2001:db8::b"))]);
        } else {
            assert!(out.changes.is_empty());
        }
    }
    let group = nd::group_mac("ff02::1:ff00:b".parse().unwrap());
    assert_eq!(to, [B, B, B, group, group, group]);
    // It is kept, so it is asked for again after a while, with no packet.
    lab.pass(HOLD);
    assert!(!lab.take().frames.is_empty());
    lab.hear(&hex(ADVERTISE_B));
    assert_eq!(lab.take().changes, [Change::Added(0, ip("2001:db8::b"), B)]);
}

#[test]
fn a_neighbour_that_nobody_uses_is_asked_no_more_and_goes_in_the_end() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("192.0.2.2", 1);
    lab.hear(&hex(B_IS_AT));
    lab.take();
    lab.pass(IDLE - 1);
    assert_eq!((lab.state("192.0.2.2"), lab.take().frames.len()), (Some(State::Stale), 0));
    lab.pass(1);
    assert_eq!(lab.take().changes, [Change::Removed(0, ip("192.0.2.2"))]);
    assert_eq!(lab.machine.next_due(), None);
}

#[test]
fn a_neighbour_used_again_is_asked_while_packets_flow() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("192.0.2.2", 1);
    lab.hear(&hex(B_IS_AT));
    lab.pass(60 * SECOND);
    lab.take();
    lab.wait("192.0.2.2", 2);
    let out = lab.take();
    assert_eq!((out.released, out.frames.len()), (vec![(0, B, 2)], 1));
    assert_eq!(Ethernet::parse(&out.frames[0].1).unwrap().dst(), B);
}

#[test]
fn a_moved_neighbour_is_followed() {
    let gratuitous = |mac| arp_frame(arp::REQUEST, mac, "192.0.2.2", MacAddr::BROADCAST, "192.0.2.2");
    let mut lab = Lab::new(Limits::default());
    // Nothing is known of it: its word makes no entry.
    lab.hear(&gratuitous(C));
    assert_eq!((lab.machine.iter().count(), lab.machine.counters().unasked), (0, 1));
    lab.wait("192.0.2.2", 1);
    lab.hear(&hex(B_IS_AT));
    lab.take();
    // Just learned: all stations are asked first, at most one request a second.
    lab.hear(&gratuitous(C));
    assert!(lab.take().changes.is_empty());
    lab.pass(RETRY);
    let out = lab.take();
    assert_eq!(Ethernet::parse(&out.frames[0].1).unwrap().dst(), MacAddr::BROADCAST);
    lab.hear(&gratuitous(C));
    let out = lab.take();
    assert_eq!(out.changes, [Change::Changed(0, ip("192.0.2.2"), C)]);
    // The new address is verified.
    lab.pass(RETRY);
    assert_eq!(Ethernet::parse(&lab.take().frames[0].1).unwrap().dst(), C);
    assert_eq!(lab.machine.counters().moved, 1);
}

/// RFC 4861 section 7.2.5 and appendix C: what an unsolicited advertisement does with and without the override flag.
#[test]
fn advertisements_unasked() {
    let with = |flags: u8, last: u8| {
        nd_frame(ADVERTISE_B, move |frame| {
            frame[58] = flags;
            frame[85] = last;
        })
    };
    let (overrides, solicited) = (0x20, 0x40);
    let mut lab = Lab::new(Limits::default());
    lab.wait("2001:db8::b", 1);
    lab.hear(&hex(ADVERTISE_B));
    lab.pass(2 * SECOND);
    lab.take();
    // Without it nothing changes, but it is asked again.
    lab.hear(&with(0, 0xc));
    let out = lab.take();
    assert_eq!((out.changes.len(), out.frames.len()), (0, 1));
    assert!(matches!(lab.state("2001:db8::b"), Some(State::Probing(_))));
    lab.hear(&with(solicited, 0xb));
    assert_eq!(lab.state("2001:db8::b"), Some(State::Reachable));
    lab.pass(2 * SECOND);
    lab.hear(&with(overrides, 0xc));
    assert_eq!(lab.take().changes, [Change::Changed(0, ip("2001:db8::b"), C)]);
    // An answer that gives no link address confirms the one known.
    lab.hear(&with(solicited, 0xc));
    lab.pass(REFRESH);
    assert_eq!(lab.state("2001:db8::b"), Some(State::Stale));
    lab.hear(&nd_frame(ADVERTISE_B, |frame| frame.truncate(78)));
    assert_eq!(lab.state("2001:db8::b"), Some(State::Reachable));
    // It cannot resolve anything.
    lab.wait("2001:db8::c", 2);
    lab.take();
    lab.hear(&nd_frame(ADVERTISE_B, |frame| {
        frame[77] = 0xc;
        frame.truncate(78);
    }));
    assert!(lab.take().released.is_empty());
}

#[test]
fn an_address_conflict_is_counted_and_defended_now_and_then() {
    let mut lab = Lab::new(Limits::default());
    let claim = arp_frame(arp::REPLY, C, "192.0.2.1", A, "192.0.2.1");
    for _ in 0..3 {
        lab.hear(&claim);
    }
    lab.hear(&nd_frame(ADVERTISE_B, |frame| frame[77] = 0xa));
    let frames = lab.take().frames;
    assert_eq!((frames.len(), lab.machine.counters().conflicts), (2, 4));
    assert_eq!(frames[1], (0, hex(ANNOUNCE_A)));
    lab.pass(DEFEND);
    lab.hear(&claim);
    assert_eq!(lab.take().frames.len(), 1);
}

#[test]
fn new_addresses_are_announced_twice() {
    let mut machine: Neighbours<u64> = Neighbours::new(Limits::default());
    let mut out = Output::default();
    machine.set_ports(0, vec![Some(station())], &mut out);
    // The IPv4 address, the IPv6 one and the link-local one made for it.
    assert_eq!(out.frames.len(), 3);
    assert!(out.frames.contains(&(0, hex(ANNOUNCE_A))));
    machine.set_ports(SECOND, vec![Some(station())], &mut out);
    assert_eq!(out.frames.len(), 3);
    machine.tick(2 * SECOND, &mut out);
    assert_eq!(out.frames.len(), 6);
    machine.tick(100 * SECOND, &mut out);
    assert_eq!((out.frames.len(), machine.next_due()), (6, None));
    // A new link address makes all of them new.
    let moved = Station::new(C, vec![(ip("192.0.2.1"), 24), (ip("2001:db8::a"), 64)]);
    machine.set_ports(101 * SECOND, vec![Some(moved)], &mut out);
    assert_eq!(out.frames.len(), 9);
}

#[test]
fn a_link_local_gateway_is_asked_for_from_a_link_local_address() {
    let mut lab = Lab::new(Limits::default());
    lab.wait("fe80::1", 1);
    let frames = lab.take().frames;
    let packet = Ipv6::parse(&frames[0].1[14..]).unwrap();
    assert_eq!(packet.src().to_string(), "fe80::ff:fe00:a");
    // A gateway in no subnet of ours is asked for all the same.
    lab.wait("203.0.113.1", 2);
    let frames = lab.take().frames;
    assert_eq!(Arp::parse(&frames[0].1[14..]).unwrap().sender_ip().to_string(), "192.0.2.1");
}

#[test]
fn addresses_that_no_neighbour_has() {
    let mut lab = Lab::new(Limits::default());
    for (number, address) in
        ["224.0.0.5", "255.255.255.255", "0.0.0.0", "ff02::5", "::", "192.0.2.1", "2001:db8::a"]
            .iter()
            .enumerate()
    {
        lab.wait(address, number as u64);
        let out = lab.take();
        assert_eq!((out.lost, out.frames.len()), (vec![(Lost::NoWay, number as u64)], 0), "{address}");
    }
    lab.machine.wait(lab.now, 7, ip("192.0.2.2"), 1, 9, &mut lab.out);
    assert_eq!(lab.take().lost, [(Lost::NoWay, 9)]);
}

#[test]
fn the_oldest_packet_of_a_queue_gives_way() {
    let mut lab = Lab::new(Limits { queue: 2, ..Limits::default() });
    for packet in 1..=3 {
        lab.wait("192.0.2.2", packet);
    }
    assert_eq!(lab.take().lost, [(Lost::Overflow, 1)]);
    lab.hear(&hex(B_IS_AT));
    assert_eq!(lab.take().released, [(0, B, 2), (0, B, 3)]);
}

/// A scan of a subnet: strangers are asked for at a bounded rate, and push out neither kept nor resolved neighbours.
#[test]
fn a_scan_pushes_nothing_out() {
    let limits = Limits { unresolved: 64, bytes: 3000, ..Limits::default() };
    let mut lab = Lab::new(limits);
    lab.wait("192.0.2.2", 1);
    lab.hear(&hex(B_IS_AT));
    lab.machine.set_kept(lab.now, &[(0, ip("192.0.2.254"))], &mut lab.out);
    lab.take();
    let mut requests = 0;
    for number in 0..20_000_u32 {
        lab.pass(SECOND / 10_000);
        lab.wait(&format!("10.{}.{}.{}", number >> 16, number >> 8 & 0xff, number & 0xff), u64::from(number));
        requests += lab.take().frames.len();
        assert!(lab.machine.iter().count() <= 64 + 2 && lab.machine.waiting_bytes() <= 3000);
    }
    assert!(requests as u64 <= 3 * STRANGERS_PER_SECOND + 10, "{requests} requests in two seconds");
    assert_eq!(lab.state("192.0.2.2"), Some(State::Reachable));
    assert!(lab.state("192.0.2.254").is_some());
}

/// Events of the model test; addresses and link addresses by number.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Jump(u64),
    Wait { port: u16, address: usize, len: usize },
    Used { port: u16, address: usize },
    Arp { port: u16, reply: bool, mac: u8, sender: usize, to_us: bool, target: usize },
    Nd { port: u16, advertise: bool, mac: u8, target: usize, flags: u8, option: bool },
    Kept(Vec<(u16, usize)>),
    Ports(u8),
    Bytes(u16, Vec<u8>),
}

const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "203.0.113.9",
    "2001:db8::a",
    "2001:db8::b",
    "2001:db8::c",
    "fe80::1",
];

fn event() -> impl Strategy<Value = Event> {
    let (port, address, mac) = (0..3_u16, 0..ADDRESSES.len(), 0xa..0xe_u8);
    prop_oneof![
        4 => (0..3_000_u64).prop_map(|ms| Event::Pass(ms * SECOND / 1000)),
        1 => (0..700_u64).prop_map(|s| Event::Jump(s * SECOND)),
        6 => (port.clone(), address.clone(), 0..600_usize)
            .prop_map(|(port, address, len)| Event::Wait { port, address, len }),
        2 => (port.clone(), address.clone()).prop_map(|(port, address)| Event::Used { port, address }),
        6 => (port.clone(), any::<bool>(), mac.clone(), address.clone(), any::<bool>(), address.clone()).prop_map(
            |(port, reply, mac, sender, to_us, target)| Event::Arp { port, reply, mac, sender, to_us, target }
        ),
        6 => (port.clone(), any::<bool>(), mac, address.clone(), any::<u8>(), any::<bool>()).prop_map(
            |(port, advertise, mac, target, flags, option)| Event::Nd { port, advertise, mac, target, flags, option }
        ),
        1 => prop::collection::vec((port.clone(), address), 0..5).prop_map(Event::Kept),
        1 => (0..4_u8).prop_map(Event::Ports),
        1 => (port, prop::collection::vec(any::<u8>(), 0..90)).prop_map(|(port, bytes)| Event::Bytes(port, bytes)),
    ]
}

/// What must hold after every event.
struct Model {
    lab: Lab,
    limits: Limits,
    ports: Vec<Option<Station>>,
    next: u64,
    waiting: BTreeSet<u64>,
    tables: BTreeMap<(u16, IpAddr), MacAddr>,
    asked: BTreeMap<(u16, IpAddr), u64>,
}

fn stations(which: u8) -> Vec<Option<Station>> {
    let second = Station::new(C, vec![(ip("203.0.113.1"), 24), (ip("2001:db8::c"), 64)]);
    [Some(station()), Some(second), None]
        .into_iter()
        .enumerate()
        .map(|(number, station)| station.filter(|_| which >> number & 1 == 0))
        .collect()
}

impl Model {
    fn apply(&mut self, event: Event) {
        let now = self.lab.now;
        let Lab { machine, out, .. } = &mut self.lab;
        match event {
            Event::Pass(time) => self.lab.pass_checked(time, &mut self.asked),
            Event::Jump(time) => {
                self.lab.now += time;
                self.lab.machine.tick(self.lab.now, &mut self.lab.out);
            }
            Event::Wait { port, address, len } => {
                self.next += 1;
                self.waiting.insert(self.next);
                machine.wait(now, port, ip(ADDRESSES[address]), len, self.next, out);
            }
            Event::Used { port, address } => machine.used(now, port, ip(ADDRESSES[address]), out),
            Event::Arp { port, reply, mac, sender, to_us, target } => {
                let v4 = |address: usize| ADDRESSES[address & 3];
                let dst = match (to_us, self.ports.get(usize::from(port)).cloned().flatten()) {
                    (true, Some(station)) => station.mac(),
                    _ => MacAddr::BROADCAST,
                };
                let operation = if reply { arp::REPLY } else { arp::REQUEST };
                let mac = MacAddr([2, 0, 0, 0, 0, mac]);
                machine.received(now, port, &arp_frame(operation, mac, v4(sender), dst, v4(target)), out);
            }
            Event::Nd { port, advertise, mac, target, flags, option } => {
                let frame = nd_frame(if advertise { ADVERTISE_B } else { SOLICIT_A }, |frame| {
                    frame[11] = mac;
                    frame[85] = mac;
                    frame[58] = flags;
                    if let IpAddr::V6(target) = ip(ADDRESSES[target]) {
                        frame[62..78].copy_from_slice(&target.octets());
                    }
                    if !option {
                        frame.truncate(78);
                    }
                });
                machine.received(now, port, &frame, out);
            }
            Event::Kept(kept) => {
                let kept: Vec<_> =
                    kept.iter().map(|(port, address)| (*port, ip(ADDRESSES[*address]))).collect();
                machine.set_kept(now, &kept, out);
            }
            Event::Ports(which) => {
                self.ports = stations(which);
                machine.set_ports(now, self.ports.clone(), out);
            }
            Event::Bytes(port, bytes) => {
                machine.received(now, port, &bytes, out);
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let out = self.lab.take();
        for (_, _, packet) in &out.released {
            assert!(self.waiting.remove(packet), "packet {packet} released twice");
        }
        for (_, packet) in &out.lost {
            assert!(self.waiting.remove(packet), "packet {packet} released or lost before");
        }
        for change in &out.changes {
            let consistent = match *change {
                Change::Added(port, address, mac) => self.tables.insert((port, address), mac).is_none(),
                Change::Changed(port, address, mac) => {
                    self.tables.insert((port, address), mac).is_some_and(|before| before != mac)
                }
                Change::Removed(port, address) => self.tables.remove(&(port, address)).is_some(),
            };
            assert!(consistent, "{change:?}");
        }
        for (port, frame) in &out.frames {
            note(
                frame,
                *port,
                self.lab.now,
                self.ports[usize::from(*port)].as_ref().unwrap(),
                &mut self.asked,
            );
        }
        let machine = &self.lab.machine;
        let resolved: BTreeMap<_, _> =
            machine.iter().filter_map(|entry| Some(((entry.port, entry.address), entry.mac?))).collect();
        assert_eq!(resolved, self.tables);
        assert_eq!(machine.iter().map(|entry| entry.waiting).sum::<usize>(), self.waiting.len());
        assert!(machine.iter().all(|entry| entry.waiting <= self.limits.queue));
        assert!(machine.waiting_bytes() <= self.limits.bytes);
        assert!(
            machine.resolved.len() <= self.limits.resolved
                && machine.unresolved.len() <= self.limits.unresolved
        );
        assert!(machine.entries.values().filter(|entry| entry.kept).count() <= self.limits.kept);
        assert_eq!(machine.timers.len(), machine.entries.len());
        assert!(machine.next_due().is_none_or(|due| due > self.lab.now));
    }
}

/// A frame that we send is of a station of ours, says only what is true, and asks for no address twice within a second.
fn note(frame: &[u8], port: u16, now: u64, station: &Station, asked: &mut BTreeMap<(u16, IpAddr), u64>) {
    let ethernet = Ethernet::parse(frame).unwrap();
    assert_eq!(ethernet.src(), station.mac());
    let target = if ethernet.ethertype() == ethernet::ARP {
        let message = Arp::parse(ethernet.payload()).unwrap();
        assert!(station.owns(message.sender_ip().into()) && message.sender_mac() == station.mac());
        (message.operation() == arp::REQUEST).then_some(IpAddr::from(message.target_ip()))
    } else {
        let packet = Ipv6::parse(ethernet.payload()).unwrap();
        let icmp = Icmpv6::parse(packet.payload()).unwrap();
        assert!(packet.hop_limit() == 255 && icmp.checksum_ok(packet.src(), packet.dst()));
        assert!(station.owns(packet.src().into()));
        let message = Nd::parse(&icmp, packet.src(), packet.dst()).unwrap();
        assert_eq!(message.link(), Some(station.mac()));
        if message.kind() == nd::ADVERTISEMENT {
            assert!(station.owns(message.target().into()));
        }
        (message.kind() == nd::SOLICITATION).then_some(IpAddr::from(message.target()))
    };
    if let Some(target) = target.filter(|target| !station.owns(*target))
        && let Some(before) = asked.insert((port, target), now)
    {
        assert!(now >= before + RETRY, "{target} asked for twice in {} ns", now - before);
    }
}

impl Lab {
    /// As `pass`, with every request held against the last one.
    fn pass_checked(&mut self, time: u64, asked: &mut BTreeMap<(u16, IpAddr), u64>) {
        let end = self.now + time;
        while let Some(due) = self.machine.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let mut out = Output::default();
            self.machine.tick(self.now, &mut out);
            for (port, frame) in &out.frames {
                let station = self.machine.station(*port).cloned().unwrap();
                note(frame, *port, self.now, &station, asked);
            }
            self.out.released.append(&mut out.released);
            self.out.lost.append(&mut out.lost);
            self.out.changes.append(&mut out.changes);
        }
        self.now = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Each packet is released once or lost once; the changes make the tables; bounds hold; an address is asked for at most
    /// once a second. With `small` limits entries are evicted all the time, and an evicted address may be asked for again.
    #[test]
    fn any_sequence_of_events(events in prop::collection::vec(event(), 1..200), small in any::<bool>()) {
        let limits = if small {
            Limits { kept: 1, resolved: 2, unresolved: 2, queue: 2, bytes: 900 }
        } else {
            Limits { kept: 4, resolved: 100, unresolved: 100, queue: 3, bytes: 100_000 }
        };
        let mut model = Model {
            lab: Lab::new(limits),
            limits,
            ports: vec![Some(station())],
            next: 0,
            waiting: BTreeSet::new(),
            tables: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        for event in events {
            let forgetful = small || matches!(event, Event::Ports(_));
            if forgetful {
                model.asked.clear();
            }
            model.apply(event);
            if forgetful {
                model.asked.clear();
            }
        }
    }
}
