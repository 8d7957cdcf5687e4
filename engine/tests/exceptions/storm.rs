//! Whatever frames arrive on any ring, with any tag: nothing panics, nothing goes round for ever, nothing is lost from the
//! books, and every buffer stays in exactly one slot.

use std::sync::Arc;

use culvert_engine::drops::Reason;
use culvert_engine::esp::Mode;
use culvert_engine::exception::thread::{Exceptions, Order};
use culvert_engine::gre::{Options, Payload};
use culvert_engine::ring;
use culvert_engine::tables::{Gateway, Stack};
use culvert_engine::tag::{Cause, Exception, Injected};
use culvert_engine::wire::ethernet::MacAddr;
use culvert_engine::worker::Worker;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::lab::{
    Far, LAN, LINK, PLAIN, WAN, end, fix_checksum, frame, inner, ip, lan_v4, lan_v6, link, mac, station,
};
use crate::packets::{arp, df, fragments_v4, fragments_v6, icmp, nd, ttl, udp_packet};
use crate::router::{Net, Router, SECOND, START, Wrap, is_discovery, own_inner_v4, region, wire};

/// Everything at once: ports with and without a host stack, tunnels of most kinds, routes of all.
fn net() -> Net {
    let mut net = Net::new(1)
        .with(Wrap { clamp_mss: true, ..Wrap::new(1, false) })
        .with(Wrap {
            routes: Vec::new(),
            negotiated: true,
            ..Wrap::new(1, true).protected(1, Mode::Transport, false)
        })
        .with(Wrap {
            routes: Vec::new(),
            gre: Options { key: Some(3), checksum: true, ..PLAIN },
            remote: [192, 0, 2, 99].into(),
            ..Wrap::new(1, false)
        })
        .with(Wrap {
            routes: Vec::new(),
            gre: Options { payload: Payload::Ethernet, ..PLAIN },
            remote: [192, 0, 2, 98].into(),
            bridge: Some(2),
            ..Wrap::new(1, false)
        })
        .route("203.0.113.0/24", Gateway::Port { port: WAN, via: Some([192, 0, 2, 254].into()) })
        .route("198.51.100.0/24", Gateway::Host)
        .route("198.51.101.0/24", Gateway::Discard)
        .route(
            "198.51.102.0/24",
            Gateway::Group(vec![(Gateway::Tunnel(0), 1), (Gateway::Tunnel(1), 2), (Gateway::Tunnel(2), 1)]),
        );
    let bridged = net.ports[LAN].clone();
    let host_of = Some(WAN);
    net.ports.push(culvert_engine::tables::PortSpec { addresses: Vec::new(), ..bridged });
    let host = net.ports[WAN].clone();
    net.ports.push(culvert_engine::tables::PortSpec { addresses: Vec::new(), host_of, ..host });
    net.ports[WAN].stack = Stack::Port(3);
    net.ports[LAN].mtu = 1400;
    net
}

/// Frames, and bare IP packets, that mean something to some part.
fn samples() -> Vec<Vec<u8>> {
    let (near, far) = (lan_v4(1, 2).into(), lan_v4(2, 2).into());
    let (near6, far6) = (lan_v6(1, 2).into(), lan_v6(2, 2).into());
    let (us, them) = (end(1, false), end(2, false));
    let mut packets = vec![
        inner(false, 100, 0, 1),
        inner(true, 100, 0, 1),
        inner(false, 1490, 0, 1),
        df(inner(false, 1490, 0, 1)),
        inner(true, 1490, 0, 1),
        ttl(inner(false, 60, 0, 1), 1),
        udp_packet(near, [203, 0, 113, 7].into(), 200, 1),
        udp_packet(near, [192, 0, 2, 77].into(), 200, 1),
        udp_packet(near, [198, 51, 100, 7].into(), 200, 1),
        udp_packet(near, [198, 51, 101, 7].into(), 200, 1),
        udp_packet(near, [198, 51, 102, 7].into(), 1480, 1),
        udp_packet(own_inner_v4(1), far, 1500, 1),
        udp_packet(own_inner_v4(1), them, 100, 1),
        icmp(near, lan_v4(1, 1).into(), [8, 0], [0; 4], b"?"),
        icmp(near6, lan_v6(1, 1).into(), [128, 0], [0; 4], b"?"),
        udp_packet(far6, near6, 90, 1),
    ];
    let gre = |protocol: [u8; 2], packet: &[u8]| [&[0, 0, protocol[0], protocol[1]], packet].concat();
    let asked = ip(us, them, 47, 0, 255, &[0; 12]);
    let wrapped = |packet: &[u8]| ip(them, us, 47, 0, 64, &gre([8, 0], packet));
    packets.extend([
        wrapped(&udp_packet(far, near, 1400, 1)),
        wrapped(&ttl(udp_packet(far, near, 100, 1), 1)),
        wrapped(&udp_packet(far, [10, 9, 9, 9].into(), 100, 1)),
        wrapped(&udp_packet(far, own_inner_v4(1), 100, 1)),
        wrapped(&asked),
        ip(them, us, 47, 0, 64, &gre([0, 0], &[1; 8])),
        ip(them, us, 50, 0, 64, &[7; 60]),
        ip(end(2, true), end(1, true), 50, 0, 64, &[7; 60]),
        icmp([198, 51, 100, 1].into(), us, [3, 4], [0, 0, 4, 0], &wrapped(&[0; 40])[..44]),
    ]);
    let quoted = ip(us, them, 47, 0, 64, &gre([8, 0], &[0; 1300]));
    packets.push(icmp([198, 51, 100, 1].into(), us, [3, 4], [0, 0, 4, 0], &quoted[..48]));
    packets.extend(fragments_v4(&wrapped(&udp_packet(far, near, 900, 1)), 7, &[400]));
    packets.extend(fragments_v6(&ip(end(2, true), end(1, true), 47, 0, 64, &[0; 900]), 7, &[400]));
    let mut frames: Vec<Vec<u8>> = packets.iter().map(|packet| frame(1, WAN, packet)).collect();
    frames.extend(packets.iter().map(|packet| frame(1, LAN, packet)));
    frames.extend(packets);
    let (we, they) = (mac(1, LAN).0, station(1, LAN).0);
    frames.push(arp([0xff; 6], they, 1, ([10, 1, 0, 2], [0; 6], [10, 1, 0, 1])));
    frames.push(arp(we, they, 2, ([10, 1, 0, 7], we, [10, 1, 0, 1])));
    frames.push(nd((we, they), (lan_v6(1, 2), lan_v6(1, 1)), 135, 0, lan_v6(1, 1)));
    frames.push(nd((we, they), (lan_v6(1, 7), lan_v6(1, 1)), 136, 0x60, lan_v6(1, 7)));
    frames
}

#[derive(Debug, Clone)]
struct Arrival {
    ring: usize,
    tag: u32,
    frame: Vec<u8>,
}

fn arrivals(count: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let tags = prop_oneof![
        4 => (0u32..11, 0u32..5, 0u32..4).prop_map(|(kind, number, of)| kind << 24 | of << 22 | number),
        1 => any::<u32>(),
        2 => 0u32..5,
    ];
    let sets = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let frames = (prop::sample::select(samples()), sets, 0usize..120, any::<[bool; 4]>()).prop_map(
        |(mut frame, sets, at, [spoil, headers_only, repair, resize])| {
            if spoil {
                for (place, value) in sets {
                    let place = place.index(if headers_only { frame.len().min(60) } else { frame.len() });
                    frame[place] = value;
                }
            }
            if resize && spoil {
                frame.resize(at, 0x55);
            }
            if repair {
                let start = if frame.len() > LINK && frame[12..14] == [8, 0] { LINK } else { 0 };
                if frame.get(start).is_some_and(|first| first >> 4 == 4) {
                    fix_checksum(&mut frame[start..]);
                }
            }
            frame
        },
    );
    let noise = vec(any::<u8>(), 0..1900);
    let frames = prop_oneof![9 => frames, 1 => noise];
    let arrival = (0usize..7, tags, frames).prop_map(|(ring, tag, frame)| Arrival { ring, tag, frame });
    vec(arrival, 1..count)
}

/// A worker with the far ends of all its rings in the test's hands: four ports, the host, the interfaces, the exceptions.
fn worker() -> (Worker, Vec<Far>) {
    let region = region(7);
    let mut fars = Vec::new();
    let mut near = |offsets| {
        let (queues, far) = wire(&region, offsets);
        fars.push(far);
        queues
    };
    let ports = (0..4).map(|port| near(port != 3)).collect();
    let tables = net().tables().publish();
    let worker = Worker::new(0, &tables, ports, Some(near(false)));
    let worker = worker.with_interfaces(near(true)).with_exceptions(near(true));
    (worker, fars)
}

const TO_THREAD: usize = 6;

fn causes_loss(tag: u32) -> bool {
    Exception::decode(tag).expect("a tag of this kind").cause.is_loss()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// The worker: each frame left by one ring, or is counted under a reason; those that go to the exception thread though
    /// they are lost, both.
    #[test]
    fn a_worker_accounts_for_every_frame(arrivals in arrivals(SLOTS_AT_ONCE)) {
        let (mut worker, mut fars) = worker();
        for Arrival { ring, tag, frame } in &arrivals {
            fars[*ring].send_tagged(*tag, frame);
        }
        while worker.round() > 0 {}
        let mut left = 0;
        for (ring, far) in fars.iter_mut().enumerate() {
            far.receive_tagged(|tag, _| left += usize::from(ring != TO_THREAD || !causes_loss(tag)));
        }
        let counted: u64 = Reason::ALL.iter().map(|reason| worker.counters().dropped(*reason)).sum();
        prop_assert_eq!(left as u64 + counted, arrivals.len() as u64);
    }

    /// The thread: each frame, left alone for a while, becomes something that is injected, or is counted; but for what was
    /// counted where it was dropped, and what was for the thread itself: discovery, keepalives, errors about our packets.
    #[test]
    fn the_thread_accounts_for_every_frame(arrivals in arrivals(30)) {
        let net = net();
        let region = region(1);
        let (near, far) = ring::wire(&region, 1, true).expect("rings for a wire");
        let mut far = Far::new(far);
        let tables = net.tables().publish();
        let (setups, for_thread) = crossbeam::channel::unbounded();
        let (for_us, events) = crossbeam::channel::unbounded();
        let wires = near.queues.into_iter().map(|wire| (wire, Arc::default())).collect();
        let mut thread = Exceptions::new(&tables, wires, for_thread, for_us, 7);
        setups.send(Order::Setup(net.setup())).expect("a thread that listens");
        let counted = |thread: &Exceptions| -> u64 {
            Reason::ALL.iter().map(|reason| thread.counters().dropped(*reason)).sum()
        };
        let mut now = START;
        for Arrival { tag, frame, .. } in &arrivals {
            thread.turn(now);
            far.frames();
            let before = counted(&thread);
            far.send_tagged(*tag, frame);
            let mut made = 0;
            for _ in 0..100 {
                thread.turn(now);
                far.receive_tagged(|tag, frame| {
                    let asks = matches!(Injected::decode(tag), Some(Injected::Send(_))) && is_discovery(frame);
                    made += u64::from(!asks);
                });
                now += SECOND;
            }
            let counted = counted(&thread) - before;
            match Exception::decode(*tag).map(|exception| exception.cause) {
                None => prop_assert_eq!((counted, made), (1, 0)),
                Some(Cause::TtlExceeded | Cause::NoRoute) => prop_assert!(counted == 0 && made <= 1),
                Some(Cause::TooBig | Cause::NoNeighbour | Cause::Fragment) => {
                    prop_assert!(counted + made >= 1 && counted <= 1, "{} {}: {} {}", tag, frame.len(), counted, made);
                }
                Some(Cause::UnknownSpi | Cause::Backup | Cause::Datagram) => prop_assert_eq!(counted + made, 1),
                Some(Cause::Local) => {
                    prop_assert_eq!(counted + made, u64::from(!is_discovery(frame) || counted == 1));
                }
                Some(Cause::IcmpError | Cause::Keepalive | Cause::Returned) => prop_assert!(counted + made <= 1),
            }
            // Nothing but the tunnels' stations, which are asked for again and again, is left.
            events.try_iter().for_each(drop);
        }
    }

    /// Both together: all comes to rest, also in the minutes after; and then what goes in comes out as it was, in as many
    /// frames as there are slots, so that no two slots share a buffer.
    #[test]
    fn after_any_storm_every_buffer_is_in_one_slot(
        storms in vec((arrivals(SLOTS_AT_ONCE), 0u64..90), 1..4),
    ) {
        let mut router = Router::new(net());
        for (arrivals, seconds) in storms {
            for Arrival { ring, tag, frame } in &arrivals {
                match ring {
                    0..4 => router.ports[*ring].send(frame),
                    4 => router.host.send(frame),
                    _ => router.interfaces.send_tagged(*tag, frame),
                }
            }
            router.run();
            router.wait(seconds * SECOND);
            router.follow();
            router.forget();
        }
        router.wait(120 * SECOND);
        router.forget();
        for round in 0..4 {
            intact(&mut router, round)?;
        }
    }
}

/// Frames that a test puts on a wire before it lets the router turn.
const SLOTS_AT_ONCE: usize = 100;

/// Frames all different, on all wires before any is worked through, each way through the router.
fn intact(router: &mut Router, round: u8) -> Result<(), TestCaseError> {
    let number = |n: u8| [&[round, n][..], &[n ^ 0x5a; 300]].concat();
    let outside = MacAddr([2, 0, 0, 5, 5, 5]);
    let (mut to_host, mut to_wan, mut to_lan, mut to_interfaces, mut echoed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..60 {
        // From the WAN to its host ring, and back.
        let group = link(MacAddr([1, 0, 0x5e, 0, 0, n]), station(1, WAN), &number(n));
        router.ports[WAN].send(&group);
        to_host.push(group);
        let back = link(outside, mac(1, WAN), &number(n));
        router.ports[3].send(&back);
        to_wan.push(back);
        // Out of the tunnel to the LAN, and to the host.
        let to = |dst| {
            let packet = ip(lan_v4(2, 2).into(), dst, 17, 0, 9, &number(n));
            let outer = ip(end(2, false), end(1, false), 47, 0, 64, &[&[0, 0, 8, 0], &packet[..]].concat());
            (frame(1, WAN, &outer), packet)
        };
        if n % 2 == 0 {
            let (outer, packet) = to(lan_v4(1, 2).into());
            router.ports[WAN].send(&outer);
            to_lan.push(link(station(1, LAN), mac(1, LAN), &ttl(packet, 8)));
        } else {
            let (outer, packet) = to(own_inner_v4(1));
            router.ports[WAN].send(&outer);
            to_interfaces.push(packet);
        }
        // By the exception thread: an echo.
        if n % 2 == 0 {
            let body = number(n);
            let (asker, own) = (lan_v4(1, 2).into(), lan_v4(1, 1).into());
            router.ports[LAN].send(&frame(1, LAN, &icmp(asker, own, [8, 0], [0; 4], &body)));
            echoed.push(body);
        }
    }
    router.run();
    let mut got = Vec::new();
    router.ports[3].receive(|frame| got.push(frame.to_vec()));
    prop_assert_eq!(got, to_host);
    let sent: Vec<_> = router.sent(WAN).into_iter().filter(|frame| frame[..6] == outside.0).collect();
    prop_assert_eq!(sent, to_wan);
    prop_assert_eq!(router.interfaces.frames(), to_interfaces);
    let (echoes, delivered): (Vec<_>, Vec<_>) =
        router.sent(LAN).into_iter().partition(|frame| frame[LINK + 9] == 1);
    prop_assert_eq!(delivered, to_lan);
    let bodies: Vec<_> = echoes.iter().map(|frame| frame[LINK + 28..].to_vec()).collect();
    prop_assert_eq!(bodies, echoed);
    Ok(())
}
