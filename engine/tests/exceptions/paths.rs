//! Ways of packets: several at once, to the host, to nowhere; what passes a port's host rings; segment sizes.

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_engine::counters::Copying;
use culvert_engine::drops::Reason;
use culvert_engine::esp::Mode;
use culvert_engine::ring;
use culvert_engine::tables::{Gateway, PortSpec, Stack};
use culvert_engine::wire::ethernet::MacAddr;
use culvert_engine::worker::Worker;

use crate::lab::{
    LAN, LINK, WAN, delivered, end, fix_checksum, frame, inner, ip, lan_v4, lan_v6, link, mac, station,
};
use crate::packets::{arp, ends, fragments_v4, hop, icmp, sealed, udp, udp_packet, unwrapped};
use crate::router::{Net, Router, Wrap, own_inner_v4, prefix, region, wire};

const GATEWAYS: [(u8, MacAddr); 2] =
    [(253, MacAddr([2, 0, 0, 7, 0, 253])), (254, MacAddr([2, 0, 0, 7, 0, 254]))];

fn via(last: u8) -> Gateway {
    Gateway::Port { port: WAN, via: Some([192, 0, 2, last].into()) }
}

fn known(mut net: Net) -> Net {
    for (last, mac) in GATEWAYS {
        net = net.knows(WAN, [192, 0, 2, last].into(), mac);
    }
    net
}

/// RFC 2992: each flow takes one way and keeps to it, so its packets stay in order; ways get flows by their weights.
#[test]
fn flows_are_spread_by_weight_and_stay_in_order() {
    let group = || Gateway::Group(vec![(via(253), 1), (via(254), 3)]);
    let net = known(Net::new(1)).route("198.51.0.0/16", group()).route("2001:db8:51::/48", group());
    let mut router = Router::new(net);
    for v6 in [false, true] {
        let mut ways: HashMap<Vec<u8>, Vec<(MacAddr, u8)>> = HashMap::new();
        for round in 0..4 {
            for flow in 0..400_u16 {
                let (src, dst): (IpAddr, IpAddr) = match v6 {
                    false => (lan_v4(1, 2).into(), [198, 51, (flow >> 4) as u8, 7].into()),
                    true => {
                        let low = flow >> 4;
                        (lan_v6(1, 2).into(), [0x2001, 0xdb8, 0x51, 0, 0, 0, low, 7].into())
                    }
                };
                let packet = ip(src, dst, 17, 0, 64, &udp(1000 + flow, &[round; 30]));
                router.packet(LAN, &packet);
                let [frame] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
                let mac = MacAddr(frame[..6].try_into().expect("six bytes"));
                let (addresses, ports) = if v6 { (8..40, 40..44) } else { (12..20, 20..24) };
                let flow = [&frame[LINK..][addresses], &frame[LINK..][ports]].concat();
                ways.entry(flow).or_default().push((mac, *frame.last().expect("a byte")));
            }
        }
        assert_eq!(ways.len(), 400);
        for taken in ways.values() {
            assert!(taken.iter().all(|(mac, _)| *mac == taken[0].0), "one way for each flow");
            assert_eq!(taken.iter().map(|(_, round)| *round).collect::<Vec<_>>(), [0, 1, 2, 3], "in order");
        }
        let second = ways.values().filter(|taken| taken[0].0 == GATEWAYS[1].1).count();
        // 300 are wanted; the standard deviation of 400 throws at 3/4 is 8.7.
        assert!((260..=340).contains(&second), "{second} of 400 flows by the way of weight 3");
    }
    assert_eq!(router.drops(), []);
}

/// Fragments of a packet go one way, though only the first shows its ports: routers and hosts reassemble neither.
#[test]
fn fragments_of_a_flow_go_one_way() {
    let group = Gateway::Group((0..2).map(|n| (via(253 + n), 1)).collect());
    let mut router = Router::new(known(Net::new(1)).route("198.51.0.0/16", group));
    for n in 0..32 {
        let whole = udp_packet(lan_v4(1, 2).into(), [198, 51, 0, n].into(), 600, n);
        fragments_v4(&whole, 7, &[200, 200]).iter().for_each(|piece| router.packet(LAN, piece));
        let ways: Vec<_> = router.sent(WAN).iter().map(|frame| frame[..6].to_vec()).collect();
        assert_eq!((ways.len(), ways.iter().all(|way| *way == ways[0])), (3, true));
    }
}

/// A group may lead into tunnels; and where one way's router is not known, its flows wait for it and the others do not.
#[test]
fn a_group_of_tunnels_and_of_routers_not_yet_known() {
    let second = Wrap { routes: Vec::new(), ..Wrap::new(1, true) };
    let first = Wrap { routes: Vec::new(), ..Wrap::new(1, false) };
    let group = Gateway::Group(vec![(Gateway::Tunnel(0), 1), (Gateway::Tunnel(1), 1), (via(254), 1)]);
    let net = Net::new(1).with(first).with(second).route("198.51.0.0/16", group);
    let mut router = Router::new(net);
    let packets: Vec<_> =
        (0..60).map(|n| udp_packet(lan_v4(1, 2).into(), [198, 51, 0, n].into(), 100, n)).collect();
    packets.iter().for_each(|packet| router.packet(LAN, packet));
    let sent = router.sent(WAN);
    let (v4, v6): (Vec<_>, Vec<_>) = sent.iter().partition(|frame| frame[LINK] >> 4 == 4);
    let mut out: Vec<Vec<u8>> =
        v4.iter().map(|outer| unwrapped(outer, end(1, false), end(2, false))).collect();
    out.extend(v6.iter().map(|outer| unwrapped(outer, end(1, true), end(2, true))));
    assert!(v4.len() > 8 && v6.len() > 8 && out.len() < 55, "{} and {}", v4.len(), v6.len());
    let (we, gateway) = (mac(1, WAN).0, GATEWAYS[1].1);
    router.receive(WAN, &arp(we, gateway.0, 2, ([192, 0, 2, 254], we, [192, 0, 2, 1])));
    let late = router.sent(WAN);
    assert!(late.iter().all(|frame| frame[..6] == gateway.0));
    out.extend(late.iter().map(|frame| frame[LINK..].to_vec()));
    // Sixteen packets wait for a station at most.
    let waited = late.len() as u64;
    assert_eq!(router.dropped(Reason::NoNeighbour), 60 - out.len() as u64);
    assert!(waited == 16 || router.dropped(Reason::NoNeighbour) == 0);
    assert!(packets.iter().filter(|packet| out.contains(&hop(packet))).count() == out.len());
}

/// What the host is to forward it gets as it came, whatever is in it: ESP, GRE and NAT-T between others are not ours.
#[test]
fn the_host_forwards_what_is_routed_to_it() {
    let net = Net::new(1).stacks(Stack::Shared).with(Wrap::new(1, false).protected(1, Mode::Transport, true));
    let net = net.route("203.0.113.0/24", Gateway::Host).route("2001:db8:113::/48", Gateway::Host);
    let mut router = Router::new(net);
    let (src, dst): (IpAddr, IpAddr) = (lan_v4(1, 2).into(), [203, 0, 113, 9].into());
    let (src6, dst6): (IpAddr, IpAddr) =
        (lan_v6(1, 2).into(), "2001:db8:113::9".parse().expect("an address"));
    let nat_t = sealed(src, dst, 17, [&[0x11, 0x94, 0x11, 0x94, 0, 48, 0, 0][..], &[7; 40]].concat(), 6);
    let packets = [
        udp_packet(src, dst, 100, 1),
        ip(src, dst, 50, 0, 64, &[7; 60]),
        ip(src, dst, 47, 0, 64, &[0, 0, 8, 0, 1, 2, 3, 4]),
        ip(src, dst, 17, 0, 64, &nat_t),
        ip(src, dst, 6, 0, 1, &[3; 40]),
        icmp(src, dst, [3, 4], [0; 4], &[1; 28]),
        ip(src6, dst6, 50, 0, 64, &[7; 60]),
        udp_packet(src6, dst6, 100, 1),
    ];
    packets.iter().for_each(|packet| router.packet(LAN, packet));
    let wanted: Vec<_> = packets.iter().map(|packet| frame(1, LAN, packet)).collect();
    assert_eq!((router.host.frames(), router.drops()), (wanted, vec![]));
    assert_eq!((router.sent(LAN), router.sent(WAN)), (vec![], vec![]));

    // Out of a tunnel, by the tunnel's interface.
    let mut router =
        Router::new(Net::new(1).with(Wrap::new(1, false)).route("203.0.113.0/24", Gateway::Host));
    let inner = udp_packet(lan_v4(2, 2).into(), dst, 100, 1);
    let gre = [&[0, 0, 8, 0][..], &inner].concat();
    router.packet(WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre));
    assert_eq!((router.interfaces.frames(), router.drops()), (vec![inner], vec![]));
}

/// A neighbour that the host names with a port (by an old entry, or by its own tunnel) is on the link only if the route says so:
/// otherwise packets go by the router.
#[test]
fn a_neighbour_behind_a_router_is_not_on_the_link() {
    let far = IpAddr::from([198, 51, 100, 9]);
    let wrong = MacAddr([2, 0, 0, 8, 8, 8]);
    let packet = udp_packet(lan_v4(1, 2).into(), far, 100, 1);
    let mut router =
        Router::new(known(Net::new(1)).route("198.51.100.0/24", via(254)).knows(WAN, far, wrong));
    router.packet(LAN, &packet);
    assert_eq!(router.sent(WAN), [link(GATEWAYS[1].1, mac(1, WAN), &hop(&packet))]);
    // Nor is the router's address taken for the destination's while the router is not known.
    let mut router = Router::new(Net::new(1).route("198.51.100.0/24", via(254)).knows(WAN, far, wrong));
    router.packet(LAN, &packet);
    assert_eq!(router.sent(WAN), Vec::<Vec<u8>>::new());
    // A route without a router says that its destinations are on the link, outside any subnet of ours too.
    let on_link = Gateway::Port { port: WAN, via: None };
    let mut router = Router::new(Net::new(1).route("198.51.100.0/24", on_link).knows(WAN, far, wrong));
    router.packet(LAN, &packet);
    assert_eq!(router.sent(WAN), [link(wrong, mac(1, WAN), &hop(&packet))]);
}

const HOST_LAN: usize = 2;
const HOST_WAN: usize = 3;

/// Each port with its own host rings, as netmap has them.
fn with_host_rings(mut net: Net) -> Net {
    for port in [LAN, WAN] {
        net.ports[port].stack = Stack::Port(port + 2);
        let host = PortSpec {
            addresses: Vec::new(),
            host_of: Some(port),
            stack: Stack::Shared,
            ..net.ports[port].clone()
        };
        net.ports.push(host);
    }
    net
}

/// Issue 3: what is not ours passes both ways unchanged, per port.
#[test]
fn host_rings_pass_both_ways_unchanged() {
    let tunnel = Wrap::new(1, false).protected(1, Mode::Transport, false);
    let mut router = Router::new(with_host_rings(Net::new(1).with(tunnel)));
    for (nic, host) in [(LAN, HOST_LAN), (WAN, HOST_WAN)] {
        let (own, other): (IpAddr, IpAddr) = match nic {
            LAN => (lan_v4(1, 1).into(), lan_v4(1, 2).into()),
            _ => (end(1, false), end(2, false)),
        };
        let ike = [&[0x11, 0x94, 0x11, 0x94, 0, 28, 0, 0][..], &[0; 4], &[5; 16]].concat();
        let bodies = |src: IpAddr, dst: IpAddr| {
            [
                ip(src, dst, 6, 0, 64, &[1; 40]),
                ip(src, dst, 17, 0, 64, &ike),
                ip(src, dst, 17, 0, 64, &udp(500, &[9; 40])),
                icmp(src, dst, [8, 0], [0; 4], b"?"),
                // Checksums may be left to the card.
                [&ip(src, dst, 6, 0, 64, &[1; 40])[..10], &[0, 0], &ip(src, dst, 6, 0, 64, &[1; 40])[12..]]
                    .concat(),
            ]
        };
        let (here, there) = (mac(1, nic), station(1, nic));
        let mut towards: Vec<_> = bodies(other, own)[..4].iter().map(|p| link(here, there, p)).collect();
        let mut from: Vec<_> = bodies(own, other).iter().map(|p| link(there, here, p)).collect();
        // ARP, a VLAN, a group, a frame of no protocol at all.
        for (frames, dst, src) in [(&mut towards, here.0, there.0), (&mut from, there.0, here.0)] {
            frames.push(arp([0xff; 6], src, 1, ([1, 2, 3, 4], [0; 6], [5, 6, 7, 8])));
            let tagged = [&dst[..], &src, &[0x81, 0, 0, 7, 8, 0], &bodies(other, own)[0]].concat();
            frames.push(tagged);
            frames.push([&[1, 0, 0x5e, 0, 0, 5][..], &src, &[8, 0], &bodies(other, own)[0]].concat());
            frames.push([&dst[..], &src, &[0x88, 0xcc, 1, 2, 3]].concat());
        }
        towards.iter().for_each(|frame| router.ports[nic].send(frame));
        from.iter().for_each(|frame| router.ports[host].send(frame));
        router.run();
        let mut got = Vec::new();
        router.ports[host].receive(|frame| got.push(frame.to_vec()));
        assert_eq!(got, towards);
        got.clear();
        router.ports[nic].receive(|frame| got.push(frame.to_vec()));
        assert_eq!(got, from);
    }
    assert_eq!(router.drops(), []);
}

/// Goals: between ports with headroom that share their buffers not a byte of payload is copied, into a tunnel and out of it; what a
/// ring without headroom takes is copied, and counted.
#[test]
fn copies_are_counted_where_buffers_cannot_be_swapped() {
    for wrap in [
        |number| Wrap::new(number, false),
        |number| Wrap::new(number, false).protected(number, Mode::Transport, true),
    ] {
        let [mut first, mut second] =
            [1, 2].map(|number| Router::new(Net::new(number).stacks(Stack::Shared).with(wrap(number))));
        let copied = |router: &Router, port| {
            let copies = router.worker.counters().copies(port).expect("a port");
            (copies.frames.get(), copies.bytes.get())
        };
        for _ in 0..100 {
            first.packet(LAN, &inner(false, 1300, 0, 5));
            for outer in first.sent(WAN) {
                second.receive(WAN, &outer);
            }
            assert_eq!(second.sent(LAN), [delivered(inner(false, 1300, 0, 5))]);
        }
        for port in [LAN, WAN] {
            assert_eq!((copied(&first, port), copied(&second, port)), ((0, 0), (0, 0)));
        }
        for kind in Copying::ALL {
            let all = [&first, &second].map(|router| router.worker.counters().copied(kind));
            assert_eq!(all, [(0, 0); 2], "{}", kind.name());
        }
        // The host's ring has no headroom, as netmap's.
        let ping = icmp(end(1, false), end(2, false), [8, 0], [0; 4], b"?");
        second.packet(WAN, &ping);
        assert_eq!(copied(&second, HOST_LAN), (1, (LINK + ping.len()) as u64));
    }
}

/// Each copy counts once, under what made it necessary.
#[test]
fn each_kind_of_copy_is_counted() {
    let mut router = Router::copying(Net::new(1).stacks(Stack::Shared).with(Wrap::new(1, false)));
    let copied = |router: &Router| Copying::ALL.map(|kind| router.worker.counters().copied(kind));
    let mut wanted = [(0, 0); Copying::ALL.len()];
    assert_eq!(copied(&router), wanted);
    let mut add = |kind: Copying, frames: u64, bytes: usize| {
        wanted[kind as usize].0 += frames;
        wanted[kind as usize].1 += bytes as u64;
        wanted
    };

    // Into the tunnel: the packet moves back in its buffer.
    let packet = inner(false, 900, 0, 5);
    router.packet(LAN, &packet);
    let outer = router.sent(WAN).remove(0);
    assert_eq!(copied(&router), add(Copying::Headroom, 1, packet.len()));

    // Out of the other router's: it starts further into its buffer than the LAN's rings allow.
    let mut second = Router::copying(Net::new(2).stacks(Stack::Shared).with(Wrap::new(2, false)));
    second.receive(WAN, &outer);
    let arrived = second.sent(LAN).remove(0);
    assert_eq!(second.worker.counters().copied(Copying::Transmit), (1, arrived.len() as u64));
    assert_eq!(second.worker.counters().copied(Copying::Headroom), (0, 0));

    // For the host, by the tunnel's interface.
    let ours = icmp(lan_v4(2, 2).into(), own_inner_v4(1), [8, 0], [0; 4], b"?");
    let gre = [&[0, 0, 8, 0][..], &ours].concat();
    router.packet(WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre));
    assert_eq!(router.interfaces.frames(), std::slice::from_ref(&ours));
    assert_eq!(copied(&router), add(Copying::Interfaces, 1, ours.len()));

    // To the exception thread, and its answer back: the frame, and an error of ICMP.
    let dying = ip(lan_v4(1, 2).into(), lan_v4(2, 2).into(), 17, 0, 1, &[0; 100]);
    router.packet(LAN, &dying);
    let answer = router.sent(LAN).remove(0);
    let (frames, bytes) = router.worker.counters().copied(Copying::Exceptions);
    assert_eq!(frames, 2);
    assert!(bytes as usize > dying.len() + answer.len() - 2 * LINK, "{bytes}");
}

/// netmap's host rings are one pair: another worker's frames for the host go through worker 0's hands.
#[test]
fn another_worker_hands_over_what_is_the_hosts() {
    let net = with_host_rings(Net::new(1));
    let tables = net.tables().publish();
    let (region, between_them) = (region(6), region(1));
    // Buffers of their own: what is handed over is copied, and counted by whoever hands it over.
    let (between, across) = ring::wire(&between_them, 1, true).expect("rings for a wire");
    let mut workers = Vec::new();
    let mut hosts = Vec::new();
    let mut links = Vec::new();
    for (number, end) in [between, across].into_iter().enumerate() {
        let (mut queues, ports): (Vec<_>, Vec<_>) =
            [LAN, WAN].map(|_| wire(&region, true)).into_iter().unzip();
        if number == 0 {
            let (host_queues, ends): (Vec<_>, Vec<_>) =
                [LAN, WAN].map(|_| wire(&region, false)).into_iter().unzip();
            queues.extend(host_queues);
            hosts = ends;
        }
        workers.push(Worker::new(number, &tables, queues, None).with_peers(end.queues));
        links.push(ports);
    }
    for port in [LAN, WAN] {
        let frame = arp([0xff; 6], station(1, port).0, 1, ([1, 2, 3, 4], [0; 6], [5, 6, 7, 8]));
        links[1][port].send(&frame);
        assert_eq!(workers[1].round(), 1);
        assert_eq!(workers[0].round(), 1);
        assert_eq!(hosts[port].frames(), std::slice::from_ref(&frame));
        // What the host answers leaves by worker 0's ring.
        hosts[port].send(&frame);
        assert_eq!(workers[0].round(), 1);
        assert_eq!(links[0][port].frames(), [frame]);
    }
    let copied = |worker: &Worker| worker.counters().copied(Copying::HandOver).0;
    assert_eq!((copied(&workers[0]), copied(&workers[1])), (0, 2));
}

/// Facts of strongSwan: the host's kernel holds the same SAs, and may have a GRE interface of its own. Between a protected
/// tunnel's ends it sends neither cleartext GRE nor ESP, whatever its packets look like otherwise. Nor IKE, where another router
/// has the near end: what the strongSwan of here lets go of is not gone.
#[test]
fn the_host_does_not_send_beside_a_protected_tunnel() {
    for v6 in [false, true] {
        for (udp_encap, backup) in [(false, false), (true, false), (true, true)] {
            let protected = Wrap { backup, ..Wrap::new(1, v6).protected(1, Mode::Transport, udp_encap) };
            // Another, not protected, to somebody else.
            let open_end: IpAddr =
                if v6 { "2001:db8::77".parse().expect("an address") } else { [192, 0, 2, 77].into() };
            let open = Wrap { remote: open_end, routes: vec![prefix("10.77.0.0/16")], ..Wrap::new(1, v6) };
            let mut router = Router::new(with_host_rings(Net::new(1).with(protected).with(open)));
            let (own, far) = (end(1, v6), end(2, v6));
            let send = |router: &mut Router, packet: &[u8]| {
                let before = router.drops().iter().map(|(_, n)| n).sum::<u64>();
                router.receive(HOST_WAN, &link(station(1, WAN), mac(1, WAN), packet));
                let sent = router.sent(WAN);
                let dropped = router.drops().iter().map(|(_, n)| n).sum::<u64>() - before;
                assert_eq!(sent.len() as u64 + dropped, 1);
                assert!(sent.iter().all(|frame| frame[LINK..] == *packet));
                dropped == 1
            };
            let esp_in_udp = |first: u8| {
                let payload = [&[first, 0, 0, 1][..], &[6; 40]].concat();
                let len = (8 + payload.len()) as u16;
                [&[0x11, 0x94, 0x11, 0x94][..], &len.to_be_bytes(), &[0, 0], &payload].concat()
            };
            let gre =
                [&[0, 0, 8, 0][..], &udp_packet(lan_v4(1, 2).into(), lan_v4(2, 2).into(), 60, 1)].concat();
            assert!(send(&mut router, &ip(own, far, 47, 0, 64, &gre)), "cleartext GRE");
            assert!(send(&mut router, &ip(own, far, 50, 0, 64, &[5; 60])), "ESP");
            assert!(send(&mut router, &ip(own, far, 17, 0, 64, &esp_in_udp(9))), "ESP in UDP");
            let mut ike = esp_in_udp(0);
            ike[11] = 0;
            assert_eq!(send(&mut router, &ip(own, far, 17, 0, 64, &ike)), backup, "IKE behind a NAT");
            ike[..4].copy_from_slice(&[1, 0xf4, 1, 0xf4]);
            assert_eq!(send(&mut router, &ip(own, far, 17, 0, 64, &ike)), backup, "IKE");
            assert!(!send(&mut router, &ip(own, open_end, 17, 0, 64, &ike)), "IKE with others");
            let keepalive = [0x11, 0x94, 0x11, 0x94, 0, 9, 0, 0, 0xff];
            assert_eq!(send(&mut router, &ip(own, far, 17, 0, 64, &keepalive)), backup, "a NAT keepalive");
            assert!(!send(&mut router, &ip(own, open_end, 47, 0, 64, &gre)), "GRE of a tunnel not protected");
            assert!(!send(&mut router, &ip(own, open_end, 50, 0, 64, &[5; 60])), "ESP to others");
            let mut wanted = vec![(Reason::CleartextForProtected, 1), (Reason::EspFromHost, 2)];
            if !v6 {
                // The card would have filled in the checksum; a fragment shows its protocol too.
                let mut offloaded = ip(own, far, 50, 0, 64, &[5; 60]);
                offloaded[10..12].fill(0);
                assert!(send(&mut router, &offloaded), "ESP without a checksum");
                for piece in fragments_v4(&ip(own, far, 47, 0, 64, &gre), 7, &[16, 16]) {
                    assert!(send(&mut router, &piece), "cleartext GRE in fragments");
                }
                wanted = vec![(Reason::CleartextForProtected, 4), (Reason::EspFromHost, 3)];
            }
            if backup {
                wanted.push((Reason::Backup, 3));
            }
            assert_eq!(router.drops().into_iter().collect::<HashMap<_, _>>(), wanted.into_iter().collect());
        }
    }
}

/// A TCP SYN, or SYN and ACK, whose options are an MSS behind two that say nothing.
fn syn(src: IpAddr, dst: IpAddr, flags: u8, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let segment = [
        &[0x30, 0x39, 0, 80][..],
        &[0, 0, 0, 1, 0, 0, 0, 0],
        &[0x70, flags, 0xff, 0xff, 0, 0, 0, 0],
        &[1, 1, 2, 4, high, low, 1, 0],
    ]
    .concat();
    ip(src, dst, 6, 0, 64, &sealed(src, dst, 6, segment, 16))
}

/// RFC 9293 section 3.7.1: the MSS is the MTU less the fixed headers of IP and TCP (40, or 60 over IPv6). Both ends of a
/// connection through the tunnel are told what fits it, on the way in and on the way out, and never more than they said.
#[test]
fn segment_sizes_are_clamped_both_ways() {
    const SYN: u8 = 2;
    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;
    for clamp_mss in [true, false] {
        let mut router = Router::new(Net::new(1).with(Wrap { clamp_mss, ..Wrap::new(1, false) }));
        let pairs: [(IpAddr, IpAddr, u16); 2] = [
            (lan_v4(1, 2).into(), lan_v4(2, 2).into(), 1476 - 40),
            (lan_v6(1, 2).into(), lan_v6(2, 2).into(), 1476 - 60),
        ];
        for (near, far, fits) in pairs {
            for (flags, said, wanted) in [
                (SYN, 1460, fits),
                (SYN_ACK, 65_535, fits),
                (SYN, fits, fits),
                (SYN, 536, 536),
                (ACK, 1460, 1460),
            ] {
                let wanted = if clamp_mss { wanted } else { said };
                router.packet(LAN, &syn(near, far, flags, said));
                let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
                let inner = unwrapped(outer, end(1, false), end(2, false));
                assert_eq!(inner, hop(&syn(near, far, flags, wanted)), "out, said {said}");

                let packet = syn(far, near, flags, said);
                let ethertype = if near.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
                let gre = [&[0, 0, ethertype[0], ethertype[1]], &packet[..]].concat();
                router.packet(WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre));
                let [frame] = &router.sent(LAN)[..] else { panic!("one packet is wanted") };
                assert_eq!(frame[LINK..], hop(&syn(far, near, flags, wanted)), "in, said {said}");
            }
        }
        // The host's own connections likewise.
        let (near, far) = (own_inner_v4(1), lan_v4(2, 2).into());
        router.interfaces.send_tagged(0, &syn(near, far, SYN, 1460));
        router.run();
        let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
        let wanted = if clamp_mss { 1436 } else { 1460 };
        assert_eq!(unwrapped(outer, end(1, false), end(2, false)), syn(near, far, SYN, wanted));
        assert_eq!(router.drops(), []);
    }
}

/// A packet to an end of the tunnel never enters it, from wherever (design: nesting is refused packet by packet too).
#[test]
fn packets_to_a_tunnels_end_do_not_enter_it() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let mut packet = udp_packet(own_inner_v4(1), end(2, false), 100, 1);
    fix_checksum(&mut packet);
    router.interfaces.send_tagged(0, &packet);
    router.run();
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::Nested, 1)]));
    // From the LAN it is forwarded beside the tunnel, as anything to the WAN.
    let packet = udp_packet(lan_v4(1, 2).into(), end(2, false), 100, 1);
    router.packet(LAN, &packet);
    let [frame] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
    assert_eq!(ends(&frame[LINK..]), ends(&packet));
    assert_eq!(frame[LINK..], hop(&packet));
}
