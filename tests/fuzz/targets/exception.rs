//! Packets of any content through the protocols beside the fast path. Nothing panics, and: errors are never about errors
//! and quote what they are about; only an MTU that a packet of ours was too long for is believed; fragments of a packet
//! are that packet again; every fragment that comes is held, dropped or returned, within the bounds; and clamping lowers
//! sizes and changes nothing else.
#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use culvert_engine::drops::Reason;
use culvert_engine::exception::echo;
use culvert_engine::exception::fragment::{Ids, fragment};
use culvert_engine::exception::icmp::{Error, error_for};
use culvert_engine::exception::limit::{RateLimit, Rates};
use culvert_engine::exception::pmtu::{Inside, PathMtu, Ports, Sends, Told, judge};
use culvert_engine::exception::reassembly::{Limits, Reassembly};
use culvert_engine::gre::{Options, Payload};
use culvert_engine::mss;
use culvert_engine::wire::{Ipv4, Ipv6, Tcp, checksum};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits =
    Limits { packets: 8, packets_per_source: 4, fragments: 6, bytes: 8000, timeout: Duration::from_secs(60) };

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    let mut state = Reassembly::new(LIMITS);
    let mut path = PathMtu::new(1500);
    let mut limit = RateLimit::new(Rates::default(), u64::from(*choice));
    let mut now = Duration::ZERO;
    // Packets are told apart by a time in seconds and a length of two octets in front of each.
    while let Some(([seconds, high, low], tail)) = rest.split_first_chunk() {
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        rest = tail;
        now += Duration::from_secs(u64::from(*seconds));
        let mut packet = packet.to_vec();
        if choice & 1 == 0 {
            fix_checksums(&mut packet);
        }
        reassembled(&mut state, &packet, now);
        let mtu = usize::from(*choice) * 8;
        errors(&packet, mtu, &mut limit, now);
        believed(&packet, &mut path, now);
        fragmented(&packet, mtu);
        clamped(&packet, mtu);
        if let Some(reply) = echo::reply(&packet) {
            assert!(reply.len() <= packet.len());
            assert_eq!(echo::reply(&reply), None, "no reply to a reply");
        }
    }
});

/// Puts the right checksums into an IPv4 header, and into an ICMP message behind it or behind an IPv6 header.
fn fix_checksums(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let header_len = if first >> 4 == 4 { usize::from(first & 15) * 4 } else { 40 };
    if header_len < 20 || packet.len() < header_len {
        return;
    }
    let (header, payload) = packet.split_at_mut(header_len);
    if header[0] >> 4 == 4 {
        header[10..12].fill(0);
        let check = checksum::checksum(header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
    let pseudo = match (header[0] >> 4, header.get(if header[0] >> 4 == 4 { 9 } else { 6 })) {
        (4, Some(1)) => vec![],
        (6, Some(58)) => [&header[8..40], &(payload.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat(),
        _ => return,
    };
    if payload.len() >= 8 {
        payload[2..4].fill(0);
        let check = checksum::checksum(&[&pseudo, &*payload].concat());
        payload[2..4].copy_from_slice(&check.to_be_bytes());
    }
}

fn reassembled(state: &mut Reassembly, packet: &[u8], now: Duration) {
    let drops = |state: &Reassembly| Reason::ALL.iter().map(|&reason| state.dropped(reason)).sum::<u64>();
    let before = state.held() as u64 + drops(state);
    match state.push(packet, now) {
        None => assert_eq!(state.held() as u64 + drops(state), before + 1, "every fragment is accounted for"),
        Some(whole) => {
            let after = state.held() as u64 + drops(state);
            assert!(after <= before);
            match whole[0] >> 4 {
                4 => assert!(!Ipv4::parse(&whole).unwrap().is_fragment()),
                _ => {
                    let ip = Ipv6::parse(&whole).unwrap();
                    assert_eq!(usize::from(ip.payload_len()) + 40, whole.len());
                }
            }
        }
    }
    assert!(state.bytes() <= LIMITS.bytes);
    assert!(state.held() <= LIMITS.packets * LIMITS.fragments);
    assert!(state.deadline().is_none_or(|deadline| deadline > now));
}

fn errors(packet: &[u8], mtu: usize, limit: &mut RateLimit, now: Duration) {
    let ours: [IpAddr; 2] = [[192, 0, 2, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()];
    for from in ours {
        for what in [
            Error::TimeExceeded,
            Error::NoRoute,
            Error::HostUnreachable,
            Error::Prohibited,
            Error::TooBig { mtu },
        ] {
            let Some(error) = error_for(packet, what, from) else { continue };
            let (header_len, to): (usize, IpAddr) = match from {
                IpAddr::V4(_) => (28, Ipv4::parse(&error).unwrap().dst().into()),
                IpAddr::V6(_) => (48, Ipv6::parse(&error).unwrap().dst().into()),
            };
            assert!(error.len() <= if from.is_ipv4() { 576 } else { 1280 });
            assert!(packet.starts_with(&error[header_len..]), "the packet is quoted");
            assert_eq!(error_for(&error, what, from), None, "no error about an error");
            limit.allow(to, now);
        }
    }
}

/// Tunnels of every kind between two addresses.
fn tunnels() -> impl Iterator<Item = (u32, Sends)> {
    let esp = Inside::Esp { spi: 0x1001, numbers: 1..1001 };
    let gre =
        |key, checksum, sequence| Inside::Gre(Options { key, checksum, sequence, payload: Payload::Ip });
    let udp = Some(Ports { source: Some(4500), destination: 4500 });
    let inside = [
        (None, esp.clone()),
        (udp, esp),
        (None, gre(Some(42), true, true)),
        (Some(Ports { source: None, destination: 4754 }), gre(None, false, false)),
    ];
    inside.into_iter().zip(0..).flat_map(|((udp, inside), n)| {
        let v4: (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let v6: (IpAddr, IpAddr) =
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into());
        [v4, v6].map(|(local, remote)| (n, Sends { local, remote, udp, inside: inside.clone() }))
    })
}

fn believed(packet: &[u8], path: &mut PathMtu, now: Duration) {
    path.expire(now);
    let Ok((_, told)) = judge(packet, tunnels()) else { return };
    let Told::Mtu(mtu) = told else { return };
    assert!((576..65_575).contains(&mtu));
    let before = path.get();
    assert_eq!(path.learn(mtu, now), mtu < before);
    assert_eq!(path.get(), before.min(mtu));
}

fn fragmented(packet: &[u8], mtu: usize) {
    let Ok(fragments) = fragment(packet, mtu, &mut Ids::new(7)) else { return };
    let whole = Ipv4::parse(packet).unwrap();
    if fragments.len() == 1 {
        return assert!(packet.starts_with(&fragments[0]));
    }
    let mut at = usize::from(whole.fragment_offset());
    for piece in &fragments {
        let ip = Ipv4::parse(piece).unwrap();
        assert!(piece.len() <= mtu && usize::from(ip.fragment_offset()) == at);
        at += ip.payload().len();
    }
    assert_eq!(at, usize::from(whole.fragment_offset()) + whole.payload().len());
    if whole.is_fragment() {
        return;
    }
    let mut state = Reassembly::new(Limits { fragments: 10_000, ..Limits::default() });
    let mut out = None;
    for piece in fragments.iter().rev() {
        assert_eq!(out, None);
        out = state.push(piece, Duration::ZERO);
    }
    let out = out.unwrap();
    let ip = Ipv4::parse(&out).unwrap();
    assert_eq!(
        (ip.payload(), ip.options(), ip.src(), ip.dst()),
        (whole.payload(), whole.options(), whole.src(), whole.dst())
    );
}

fn clamped(packet: &[u8], mtu: usize) {
    let mut after = packet.to_vec();
    if !mss::clamp(&mut after, mtu) {
        return assert_eq!(after, packet, "what is not clamped is not touched");
    }
    assert_ne!(after, packet);
    // Where the segment starts, and the segment; behind it may be link padding.
    let segment = |packet: &[u8]| match packet[0] >> 4 {
        4 => Ipv4::parse(packet).map(|ip| (ip.header_len(), ip.payload().to_vec())),
        _ => {
            Ipv6::parse(packet).and_then(|ip| ip.upper()).map(|upper| (upper.offset, upper.payload.to_vec()))
        }
    };
    let ((start, old), (_, new)) = (segment(packet).unwrap(), segment(&after).unwrap());
    assert_eq!(
        (&packet[..start], &packet[start + old.len()..]),
        (&after[..start], &after[start + new.len()..])
    );
    let (old_tcp, new_tcp) = (Tcp::parse(&old).unwrap(), Tcp::parse(&new).unwrap());
    assert!(new_tcp.is_syn() && new_tcp.mss() <= old_tcp.mss() && usize::from(new_tcp.mss().unwrap()) < mtu);
    assert_eq!((old_tcp.payload(), old[..16].to_vec()), (new_tcp.payload(), new[..16].to_vec()));
    // The sum of the segment stays, but for the two zeros of the one's complement.
    assert_eq!(checksum::checksum(&old) % 0xffff, checksum::checksum(&new) % 0xffff);
    assert!(!mss::clamp(&mut after, mtu), "once is enough");
}
