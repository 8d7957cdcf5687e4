//! What the senders of packets are told that cannot go on, and packets that do not fit.

use std::net::IpAddr;

use culvert_engine::drops::Reason;
use culvert_engine::esp::Mode;
use culvert_engine::gre::Options;
use culvert_engine::tables::{Gateway, Stack};

use crate::lab::{LAN, LINK, MTU, PLAIN, WAN, end, frame, ip, lan_v4, lan_v6, mac, station};
use crate::packets::{Icmp, df, ends, hop, icmp, reassembled, ttl, udp_packet, unwrapped};
use crate::router::{Net, Router, SECOND, Wrap, own_inner_v4, own_inner_v6};

/// A packet from behind router 1 to behind router 2, and the address of ours that the sender knows.
fn v4(len: usize) -> (Vec<u8>, IpAddr) {
    (udp_packet(lan_v4(1, 2).into(), lan_v4(2, 2).into(), len, 1), lan_v4(1, 1).into())
}

/// As [`v4`].
fn v6(len: usize) -> (Vec<u8>, IpAddr) {
    (udp_packet(lan_v6(1, 2).into(), lan_v6(2, 2).into(), len, 1), lan_v6(1, 1).into())
}

/// The one ICMP packet that left by the LAN, in a frame to the station there.
fn told(router: &mut Router) -> Icmp {
    let [error] = &router.sent(LAN)[..] else { panic!("one error is wanted; drops: {:?}", router.drops()) };
    assert_eq!(error[..12], [station(1, LAN).0, mac(1, LAN).0].concat());
    Icmp::read(&error[LINK..])
}

/// The one ICMP packet that left by the WAN in plain GRE.
fn told_inside(router: &mut Router) -> Icmp {
    let [outer] = &router.sent(WAN)[..] else { panic!("one error is wanted; drops: {:?}", router.drops()) };
    Icmp::read(&unwrapped(outer, end(1, false), end(2, false)))
}

/// A packet in plain GRE from the other router.
fn from_tunnel(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let gre = [&[0, 0, ethertype[0], ethertype[1]], packet].concat();
    frame(1, WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre))
}

/// RFC 1812 section 5.3.1: if the TTL is reduced to zero, the packet must be discarded, and a time exceeded sent, if its
/// destination is not multicast. RFC 4443 section 3.3 likewise. The source is where the packet came in (RFC 1812 section 4.3.2.4
/// would take the address of the interface that the error leaves by: from a LAN that is the same).
#[test]
fn at_the_last_hop_the_sender_is_told() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    for ((packet, own), head) in [v4(100), v6(100)].into_iter().zip([[11, 0], [3, 0]]) {
        for left in [1, 0] {
            let packet = ttl(packet.clone(), left);
            router.packet(LAN, &packet);
            let error = told(&mut router);
            assert_eq!((error.src, error.dst, error.head, error.rest), (own, ends(&packet).0, head, 0));
            assert!(error.is_about(&packet));
        }
    }
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::TtlExceeded, 4)]));

    // traceroute from behind the tunnel sees the tunnel's inner address, and gets it back by the tunnel.
    let inside = [
        (lan_v4(2, 2).into(), lan_v4(1, 2).into(), own_inner_v4(1), [11, 0]),
        (lan_v6(2, 2).into(), lan_v6(1, 2).into(), own_inner_v6(1), [3, 0]),
    ];
    for (src, dst, own, head) in inside {
        let packet = ttl(udp_packet(src, dst, 80, 1), 1);
        router.receive(WAN, &from_tunnel(&packet));
        let error = told_inside(&mut router);
        assert_eq!((error.src, error.dst, error.head), (own, src, head));
        assert!(error.is_about(&packet));
    }
    assert_eq!((router.sent(LAN), router.drops()), (vec![], vec![(Reason::TtlExceeded, 6)]));
}

/// RFC 1812 section 4.3.2.7 and RFC 4443 section 2.4 e: no errors about errors, to groups, or about what went to groups.
#[test]
fn about_some_packets_nobody_is_told() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let (src, dst) = (lan_v4(1, 2).into(), lan_v4(2, 2).into());
    let error = icmp(src, dst, [3, 1], [0; 4], &udp_packet(dst, src, 60, 1));
    let from_all = udp_packet([255, 255, 255, 255].into(), dst, 60, 1);
    // From an address of ours, which somebody has forged.
    let from_us = udp_packet(lan_v4(1, 1).into(), dst, 60, 1);
    for packet in [error, from_all, from_us] {
        router.packet(LAN, &ttl(packet, 1));
    }
    assert_eq!((router.sent(LAN), router.sent(WAN), router.host.frames()), (vec![], vec![], vec![]));
    assert_eq!(router.drops(), [(Reason::TtlExceeded, 3)]);
}

/// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f: the rate of errors must be limited; the packets are counted all the same.
#[test]
fn errors_are_few() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    for (packet, _) in [v4(100), v6(100)] {
        let packet = ttl(packet, 1);
        for _ in 0..50 {
            router.packet(LAN, &packet);
        }
        assert_eq!(router.sent(LAN).len(), 10, "the burst");
        router.wait(SECOND);
        for _ in 0..50 {
            router.packet(LAN, &packet);
        }
        assert_eq!(router.sent(LAN).len(), 10, "ten a second");
    }
    assert_eq!(router.drops(), [(Reason::TtlExceeded, 200)]);
}

/// RFC 1812 section 5.2.7.1: no route at all is network unreachable (code 0); RFC 4443 section 3.1: no route (code 0). So is
/// a route that leads nowhere.
#[test]
fn without_a_route_the_destination_is_unreachable() {
    let nowhere = |net: Net| net.route("10.2.0.0/16", Gateway::Discard).route("fd02::/16", Gateway::Discard);
    for mut router in [Router::new(Net::new(1)), Router::new(nowhere(Net::new(1)))] {
        for ((packet, own), head) in [v4(100), v6(100)].into_iter().zip([[3, 0], [1, 0]]) {
            router.packet(LAN, &packet);
            let error = told(&mut router);
            assert_eq!((error.src, error.dst, error.head, error.rest), (own, ends(&packet).0, head, 0));
            assert!(error.is_about(&packet));
        }
        assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::NoRoute, 2)]));
    }
}

/// A source that no route leads back to is told nothing, and its packet counts once.
#[test]
fn who_cannot_be_reached_is_not_told() {
    let mut router = Router::new(Net::new(1));
    router.packet(LAN, &udp_packet([203, 0, 113, 1].into(), lan_v4(2, 2).into(), 100, 1));
    assert_eq!((router.sent(LAN), router.drops()), (vec![], vec![(Reason::NoRoute, 1)]));
}

/// Tunnels, and what fits into each: 1500 less the headers of RFC 791 (20), 8200 (40), 2784 and 2890 (4, 8 with a key), 4303
/// (8, 8 of IV, 2 of trailer, 16 of ICV, in units of 4) and 3948 (8).
fn tunnels() -> [(Wrap, usize); 6] {
    let keyed = Options { key: Some(9), ..PLAIN };
    [
        (Wrap::new(1, false), 1476),
        (Wrap { gre: keyed, ..Wrap::new(1, false) }, 1472),
        (Wrap::new(1, true), 1456),
        (Wrap::new(1, false).protected(1, Mode::Transport, false), 1500 - 20 - 16 - 16 - 2 - 4),
        (Wrap::new(1, false).protected(1, Mode::Tunnel, false), 1500 - 20 - 16 - 16 - 2 - 20 - 4),
        (Wrap::new(1, false).protected(1, Mode::Transport, true), 1500 - 20 - 8 - 16 - 16 - 2 - 4),
    ]
}

/// RFC 1191 section 4: the next-hop MTU is in the low-order 16 bits of what was unused, and tells the largest packet that
/// could be forwarded. RFC 4443 section 3.2: packet too big, with the MTU. It is the tunnel's, to the byte.
#[test]
fn too_big_with_df_is_told_with_the_tunnels_mtu() {
    for (tunnel, mtu) in tunnels() {
        let mut router = Router::new(Net::new(1).with(tunnel));
        for (n, head) in [[3, 4], [2, 0]].into_iter().enumerate() {
            let sized = |len: usize| {
                let (packet, own) = if n == 0 { v4(len) } else { v6(len) };
                (if n == 0 { df(packet) } else { packet }, own)
            };
            let (packet, own) = sized(mtu + 1);
            router.packet(LAN, &packet);
            let error = told(&mut router);
            assert_eq!((error.src, error.dst, error.head), (own, ends(&packet).0, head), "MTU {mtu}");
            assert_eq!(error.rest, mtu as u32);
            assert!(error.is_about(&hop(&packet)));
            assert_eq!(router.sent(WAN), Vec::<Vec<u8>>::new());
            // What was told is true.
            router.packet(LAN, &sized(mtu).0);
            let [outer] = &router.sent(WAN)[..] else { panic!("what just fits goes through") };
            assert!(outer.len() <= LINK + MTU && outer.len() > LINK + MTU - 4);
        }
        assert_eq!(router.drops(), [(Reason::TooBig, 2)]);
    }
}

/// RFC 791 section 3.2, RFC 1812 section 4.2.2.7: what may be fragmented is, before it goes in (RFC 4459 section 3.1); each fragment
/// fits, and together they are the packet. Where the tunnel is set so, "don't fragment" changes nothing.
#[test]
fn too_big_without_df_goes_in_fragments() {
    for (forced, set_df) in [(false, false), (true, false), (true, true)] {
        let tunnel = Wrap { fragment: forced, ..Wrap::new(1, false) };
        let mut router = Router::new(Net::new(1).with(tunnel));
        let (plain, _) = v4(1500);
        let packet = if set_df { df(plain.clone()) } else { plain.clone() };
        router.packet(LAN, &packet);
        let outer = router.sent(WAN);
        let inner: Vec<_> = outer.iter().map(|o| unwrapped(o, end(1, false), end(2, false))).collect();
        assert_eq!(inner.len(), 2);
        assert!(outer.iter().all(|outer| outer.len() <= LINK + MTU));
        let mut whole = reassembled(&inner);
        // With DF the identification meant nothing, and is a new one.
        whole[4..6].copy_from_slice(&plain[4..6]);
        crate::lab::fix_checksum(&mut whole);
        assert_eq!((whole, router.drops()), (hop(&plain), vec![]), "forced {forced}, DF {set_df}");
    }
    // IPv6 packets are never fragmented on the way (RFC 8200 section 5), whatever the setting.
    let mut router = Router::new(Net::new(1).with(Wrap { fragment: true, ..Wrap::new(1, false) }));
    router.packet(LAN, &v6(1500).0);
    assert_eq!((told(&mut router).head, router.sent(WAN)), ([2, 0], vec![]));
}

/// The same through two routers with ESP between them: the far LAN puts the fragments together.
#[test]
fn fragments_pass_a_protected_tunnel() {
    for mode in [Mode::Transport, Mode::Tunnel] {
        let net = |number| Net::new(number).with(Wrap::new(number, false).protected(number, mode, false));
        let (mut near, mut far) = (Router::new(net(1)), Router::new(net(2)));
        let (packet, _) = v4(1500);
        near.packet(LAN, &packet);
        near.sent(WAN).iter().for_each(|outer| far.receive(WAN, outer));
        let fragments: Vec<_> = far.sent(LAN).iter().map(|frame| frame[LINK..].to_vec()).collect();
        assert_eq!(fragments.len(), 2);
        assert_eq!(reassembled(&fragments), hop(&hop(&packet)));
    }
}

/// Out of a tunnel, a link may be too small as well: the far sender is told that link's MTU, or the packet is fragmented
/// towards the station.
#[test]
fn a_small_link_behind_a_tunnel() {
    let mut net = Net::new(1).with(Wrap::new(1, false));
    net.ports[LAN].mtu = 1280;
    let mut router = Router::new(net);
    let packet = udp_packet(lan_v4(2, 2).into(), lan_v4(1, 2).into(), 1400, 3);
    router.receive(WAN, &from_tunnel(&df(packet.clone())));
    let error = told_inside(&mut router);
    assert_eq!((error.src, error.head, error.rest), (own_inner_v4(1), [3, 4], 1280));
    assert_eq!((router.sent(LAN), router.drops()), (vec![], vec![(Reason::TooBig, 1)]));

    router.receive(WAN, &from_tunnel(&packet));
    let frames = router.sent(LAN);
    assert!(frames.iter().all(|frame| {
        frame.len() <= LINK + 1280 && frame[..12] == [station(1, LAN).0, mac(1, LAN).0].concat()
    }));
    let fragments: Vec<_> = frames.iter().map(|frame| frame[LINK..].to_vec()).collect();
    assert_eq!(reassembled(&fragments), hop(&packet));
    assert_eq!(router.drops(), [(Reason::TooBig, 1)]);
}

/// What the host sends by a tunnel's interface goes into that tunnel as it is, and errors come back by that interface: from
/// where the packet was going to, since a host discards what comes from an address of its own.
#[test]
fn the_hosts_packets_get_their_errors_back_by_their_interface() {
    for stack in [Stack::Own, Stack::Shared] {
        let second = Wrap {
            local: end(1, true),
            remote: end(2, true),
            inner: vec![([172, 28, 0, 1].into(), 24)],
            routes: Vec::new(),
            ..Wrap::new(1, true)
        };
        let mut router = Router::new(Net::new(1).stacks(stack).with(Wrap::new(1, false)).with(second));
        let to_v4 = df(udp_packet(own_inner_v4(1), lan_v4(2, 2).into(), 1476, 1));
        router.interfaces.send_tagged(0, &to_v4);
        router.run();
        let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
        assert_eq!(unwrapped(outer, end(1, false), end(2, false)), to_v4);

        // By the second tunnel's interface, whatever the engine's route says.
        let too_big = df(udp_packet(own_inner_v4(1), lan_v4(2, 2).into(), 1476, 1));
        router.interfaces.send_tagged(1, &too_big);
        router.interfaces.send_tagged(0, &udp_packet(own_inner_v6(1), lan_v6(2, 2).into(), 1477, 1));
        router.run();
        let mut back = Vec::new();
        router.interfaces.receive_tagged(|tag, packet| back.push((tag, Icmp::read(packet))));
        let [(1, v4), (0, v6)] = &back[..] else { panic!("two errors are wanted: {back:?}") };
        assert_eq!((v4.src, v4.dst), (lan_v4(2, 2).into(), own_inner_v4(1)));
        assert_eq!((v4.head, v4.rest, v4.is_about(&too_big)), ([3, 4], 1456, true));
        assert_eq!((v6.src, v6.dst), (lan_v6(2, 2).into(), own_inner_v6(1)));
        assert_eq!((v6.head, v6.rest), ([2, 0], 1476));
        assert_eq!((router.sent(WAN), router.sent(LAN), router.host.frames()), (vec![], vec![], vec![]));
        assert_eq!(router.drops(), [(Reason::TooBig, 2)]);

        // Multicast of routing daemons passes, and what they leave to be cut is cut.
        let hello = ip(own_inner_v4(1), [224, 0, 0, 5].into(), 89, 0xc0, 1, &[1; 44]);
        let long = udp_packet(own_inner_v4(1), lan_v4(2, 2).into(), 1500, 1);
        router.interfaces.send_tagged(0, &hello);
        router.interfaces.send_tagged(0, &long);
        router.run();
        let outer = router.sent(WAN);
        let inner: Vec<_> = outer.iter().map(|o| unwrapped(o, end(1, false), end(2, false))).collect();
        assert_eq!(inner[0], hello);
        assert_eq!(reassembled(&inner[1..]), long);
    }
}

/// What came out of a tunnel for the host comes to the host by that tunnel's interface, as it is.
#[test]
fn what_a_tunnel_brings_for_the_host_comes_by_its_interface() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let packet = udp_packet(lan_v4(2, 2).into(), own_inner_v4(1), 100, 1);
    let hello = ip(own_inner_v4(2), [224, 0, 0, 5].into(), 89, 0xc0, 1, &[1; 44]);
    router.receive(WAN, &from_tunnel(&packet));
    router.receive(WAN, &from_tunnel(&hello));
    let mut got = Vec::new();
    router.interfaces.receive_tagged(|tag, packet| got.push((tag, packet.to_vec())));
    assert_eq!((got, router.drops()), (vec![(0, packet), (0, hello)], vec![]));
}

/// An address that is good on its link alone is no source for errors (RFC 4291 section 2.5.6), though it is the first there.
#[test]
fn errors_come_from_addresses_that_can_be_reached() {
    let mut net = Net::new(1);
    net.ports[LAN].addresses.insert(0, ("fe80::1".parse().expect("an address"), 64));
    let mut router = Router::new(net);
    router.packet(LAN, &v6(100).0);
    assert_eq!(told(&mut router).src, IpAddr::from(lan_v6(1, 1)));
}
