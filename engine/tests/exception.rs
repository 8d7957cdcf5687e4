//! The protocols of the exception thread against packets that Scapy made (exception/scapy.py says how), and against the
//! packet path: its outer packets cut, reassembled and delivered; its outer packets quoted in ICMP errors, and believed.

mod lab;

use std::net::IpAddr;
use std::time::Duration;

use culvert_engine::drops::Reason;
use culvert_engine::esp::{Mode, Suite};
use culvert_engine::exception::fragment::{Ids, fragment};
use culvert_engine::exception::icmp::{Error, error_for};
use culvert_engine::exception::pmtu::{self, Ignored, Told};
use culvert_engine::exception::reassembly::{Limits, Reassembly};
use culvert_engine::exception::{echo, icmp};
use culvert_engine::gre::Options;
use culvert_engine::mss;
use lab::{LAN, LINK, PLAIN, Plan, Side, WAN, delivered, end, frame, inner, ip};

/// The packet of that name.
fn scapy(name: &str) -> Vec<u8> {
    let mut lines = include_str!("exception/scapy.txt").lines().filter_map(|line| line.split_once(' '));
    let (_, hex) = lines.find(|(found, _)| *found == name).expect("a packet of that name");
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect()
}

#[test]
fn errors_are_those_of_scapy() {
    let ours: [IpAddr; 2] =
        ["192.0.2.1".parse().expect("an address"), "2001:db8::1".parse().expect("an address")];
    for (family, ours, mtu) in [(4, ours[0], 600), (6, ours[1], 1300)] {
        let sent = scapy(&format!("sent{family}"));
        for (name, what) in [
            ("time-exceeded", Error::TimeExceeded),
            ("no-route", Error::NoRoute),
            ("host-unreachable", Error::HostUnreachable),
            ("prohibited", Error::Prohibited),
            ("too-big", Error::TooBig { mtu }),
        ] {
            let expected = scapy(&format!("{name}{family}"));
            assert_eq!(icmp::error_for(&sent, what, ours), Some(expected), "{name}{family}");
        }
    }
}

#[test]
fn replies_are_those_of_scapy() {
    for family in [4, 6] {
        let reply = echo::reply(&scapy(&format!("request{family}")));
        assert_eq!(reply, Some(scapy(&format!("reply{family}"))));
    }
}

#[test]
fn fragments_are_those_of_scapy() {
    let pieces: Vec<_> = (0..3).map(|n| scapy(&format!("piece4-{n}"))).collect();
    assert_eq!(fragment(&scapy("whole4"), 68, &mut Ids::new(0)), Ok(pieces));
}

#[test]
fn scapys_fragments_are_reassembled() {
    for family in [4, 6] {
        let mut state = Reassembly::new(Limits::default());
        let mut out = None;
        for n in [2, 0, 1] {
            assert_eq!(out, None);
            out = state.push(&scapy(&format!("piece{family}-{n}")), Duration::ZERO);
        }
        assert_eq!(out, Some(scapy(&format!("whole{family}"))));
    }
}

#[test]
fn sizes_are_clamped_as_if_scapy_had_sent_less() {
    for family in [4, 6] {
        let mut packet = scapy(&format!("syn{family}"));
        assert!(mss::clamp(&mut packet, 1400));
        assert_eq!(packet, scapy(&format!("clamped{family}")));
    }
}

/// Tunnels of every kind.
fn plans() -> Vec<Plan> {
    let suite = Some(Suite::Aes128Gcm16);
    let gre = Options { key: Some(42), checksum: true, sequence: true, ..PLAIN };
    let mut plans = Vec::new();
    for v6 in [false, true] {
        let base = Plan { v6, ..Plan::new(suite) };
        plans.push(Plan { v6, ..Plan::new(None) });
        plans.push(Plan { v6, gre, ..Plan::new(None) });
        plans.push(base);
        plans.push(Plan { mode: Mode::Tunnel, esn: false, gre, ..base });
        plans.push(Plan { udp: true, first: u64::from(u32::MAX), ..base });
    }
    plans
}

/// The outer packet in which router 1 sends an inner one of that length.
fn outer(side: &mut Side, len: usize) -> Vec<u8> {
    side.lan.send(&frame(1, LAN, &inner(false, len, 0, 7)));
    side.run();
    let frames = side.wan.frames();
    frames.first().and_then(|frame| frame.get(LINK..)).expect("one frame").to_vec()
}

/// An outer packet as fragments of at most 576 bytes, as routers or the far end would cut it.
fn cut(packet: &[u8]) -> Vec<Vec<u8>> {
    if packet[0] >> 4 == 4 {
        return fragment(packet, 576, &mut Ids::new(99)).expect("room for fragments");
    }
    let (header, payload) = packet.split_at(40);
    let count = payload.chunks(528).count();
    let piece = |(n, piece): (usize, &[u8])| {
        let mut out = header.to_vec();
        out[4..6].copy_from_slice(&(piece.len() as u16 + 8).to_be_bytes());
        out[6] = 44;
        let word = (n * 528) as u16 | u16::from(n + 1 < count);
        out.extend([header[6], 0]);
        out.extend(word.to_be_bytes());
        out.extend([0, 0, 0, 9]);
        out.extend(piece);
        out
    };
    payload.chunks(528).enumerate().map(piece).collect()
}

/// Fragments alone are drops; put together, they are the packet that the tunnel takes.
#[test]
fn outer_packets_in_fragments_arrive() {
    for plan in plans() {
        let (mut first, mut second) = (Side::new(&plan, 1), Side::new(&plan, 2));
        let outer = outer(&mut first, 1300);
        let mut pieces = cut(&outer);
        assert!(pieces.len() > 1);
        pieces.reverse();
        let mut state = Reassembly::new(Limits::default());
        let mut whole = None;
        for piece in &pieces {
            second.wan.send(&frame(2, WAN, piece));
            assert_eq!(whole, None, "{plan:?}");
            whole = state.push(piece, Duration::ZERO);
        }
        second.run();
        assert_eq!((second.lan.frames().len(), state.held()), (0, 0), "{plan:?}");
        let whole = whole.expect("all of it was there");
        second.wan.send(&frame(2, WAN, &whole));
        second.run();
        assert_eq!(second.lan.frames(), [delivered(inner(false, 1300, 0, 7))], "{plan:?}");
    }
}

/// What a router says about an outer packet is believed of the tunnel that sent it, and of no other.
#[test]
fn errors_about_outer_packets_are_believed() {
    for plan in plans() {
        let mut side = Side::new(&plan, 1);
        let router: IpAddr =
            if plan.v6 { "2001:db8::77".parse() } else { "192.0.2.77".parse() }.expect("an address");
        let outer = outer(&mut side, 1350);
        let error = error_for(&outer, Error::TooBig { mtu: 1300 }, router).expect("an error about it");
        let sends = side
            .tables
            .load()
            .tunnels()
            .first()
            .and_then(|tunnel| tunnel.sends().next())
            .expect("it can send");
        assert_eq!(pmtu::judge(&error, [(0, sends.clone())]), Ok((0, Told::Mtu(1300))), "{plan:?}");
        let unreachable = error_for(&outer, Error::HostUnreachable, router).expect("an error about it");
        let code = if plan.v6 { 3 } else { 1 };
        assert_eq!(
            pmtu::judge(&unreachable, [(0, sends.clone())]),
            Ok((0, Told::Unreachable(code))),
            "{plan:?}"
        );

        // What router 2 sends is no packet of router 1, and what is not yet sent is none.
        let other = Side::new(&plan, 2);
        let others = other
            .tables
            .load()
            .tunnels()
            .first()
            .and_then(|tunnel| tunnel.sends().next())
            .expect("it can send");
        assert_eq!(pmtu::judge(&error, [(0, others)]), Err(Ignored::NoTunnel), "{plan:?}");
        let fresh = Side::new(&plan, 1);
        let fresh = fresh
            .tables
            .load()
            .tunnels()
            .first()
            .and_then(|tunnel| tunnel.sends().next())
            .expect("it can send");
        let expected = if plan.suite.is_some() { Err(Ignored::Unproven) } else { Ok((0, Told::Mtu(1300))) };
        assert_eq!(pmtu::judge(&error, [(0, fresh)]), expected, "{plan:?}");
    }
}

/// The path itself never reassembles: a fragment is a drop there, whatever it is of.
#[test]
fn fragments_are_counted_by_the_path() {
    let mut side = Side::new(&Plan::new(None), 2);
    let whole = ip(end(1, false), end(2, false), 47, 0, 64, &[0; 600]);
    for piece in fragment(&whole, 300, &mut Ids::new(1)).expect("room for fragments") {
        side.wan.send(&frame(2, WAN, &piece));
    }
    side.run();
    assert_eq!(side.drops(), [(Reason::Fragment, 3)]);
}
