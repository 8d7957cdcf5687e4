//! Stations on links: found, answered, waited for.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;
use culvert_engine::drops::Reason;
use culvert_engine::exception::neighbour::Change;
use culvert_engine::exception::thread::{Announcement, Event, Exceptions, Order};
use culvert_engine::exception::waiting::PATIENCE;
use culvert_engine::gre::{Options, Payload};
use culvert_engine::tables::{Gateway, Stack};
use culvert_engine::tag::{Cause, Exception, Origin};
use culvert_engine::wire::ethernet::MacAddr;

use crate::lab::{LAN, LINK, PLAIN, WAN, end, frame, ip, lan_v4, lan_v6, link, mac, station};
use crate::packets::{Icmp, arp, ends, hop, icmp, nd, udp_packet, unwrapped};
use crate::router::{Net, Router, SECOND, START, Wrap, own_inner_v4, region, wire};

const ALL: [u8; 6] = [0xff; 6];
const NEW: MacAddr = MacAddr([2, 0, 0, 9, 9, 9]);

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("an IPv6 address is wanted"),
    }
}

/// RFC 4291 section 2.7.1, RFC 2464 section 7: the group that an address is asked for in, and its link address.
fn solicited(address: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, [0x33, 0x33, 0xff, a, b, c])
}

/// RFC 826: "Am I the target protocol address? Swap hardware and protocol fields, set the opcode to reply, send it on the
/// same hardware."
#[test]
fn arp_is_answered_for_the_ports_addresses() {
    let mut router = Router::new(Net::new(1));
    let (we, asker) = (mac(1, LAN).0, station(1, LAN).0);
    router.receive(LAN, &arp(ALL, asker, 1, ([10, 1, 0, 2], [0; 6], [10, 1, 0, 1])));
    assert_eq!(router.discovery(LAN), [arp(asker, we, 2, ([10, 1, 0, 1], asker, [10, 1, 0, 2]))]);
    // Not for others' addresses, nor for those of other ports.
    for target in [[10, 1, 0, 7], [192, 0, 2, 1]] {
        router.receive(LAN, &arp(ALL, asker, 1, ([10, 1, 0, 2], [0; 6], target)));
    }
    assert_eq!((router.discovery(LAN), router.sent(WAN), router.drops()), (vec![], vec![], vec![]));
    // RFC 826 knows nothing of a sender that is a group.
    router.receive(LAN, &arp(ALL, [3; 6], 1, ([10, 1, 0, 2], [0; 6], [10, 1, 0, 1])));
    assert_eq!(router.drops(), [(Reason::ArpMalformed, 1)]);
}

/// RFC 4861 section 7.2.4: a solicitation is answered by an advertisement to the asker, solicited, override, router.
#[test]
fn nd_is_answered_for_the_ports_addresses() {
    let mut router = Router::new(Net::new(1));
    let (we, asker) = (mac(1, LAN).0, station(1, LAN).0);
    let (ours, theirs) = (lan_v6(1, 1), lan_v6(1, 2));
    let (group, group_mac) = solicited(ours);
    router.receive(LAN, &nd((group_mac, asker), (theirs, group), 135, 0, ours));
    let [answer] = &router.discovery(LAN)[..] else { panic!("one answer is wanted") };
    let flags = answer[LINK + 44];
    assert_eq!(flags & 0x60, 0x60, "solicited, override");
    assert_eq!(*answer, nd((asker, we), (ours, theirs), 136, flags, ours));
    let (group, group_mac) = solicited(lan_v6(1, 7));
    router.receive(LAN, &nd((group_mac, asker), (theirs, group), 135, 0, lan_v6(1, 7)));
    assert_eq!((router.discovery(LAN), router.drops()), (vec![], vec![]));
    // Section 7.1.1: a hop limit of 255, or it came from beyond the link.
    let mut far = nd((group_mac, asker), (theirs, group), 135, 0, ours);
    far[LINK + 7] = 254;
    router.receive(LAN, &far);
    assert_eq!((router.discovery(LAN), router.drops()), (vec![], vec![(Reason::NdMalformed, 1)]));
}

/// An address that a pair of routers shares is said to be at a station, whatever the port's own addresses are: RFC 5227 section 2.3, and
/// RFC 4861 section 7.2.6: from the address itself, to all nodes, override, not solicited.
#[test]
fn addresses_are_announced_when_that_is_wanted() {
    let mut router = Router::new(Net::new(1).stacks(Stack::Shared));
    let at = MacAddr([0, 0, 0x5e, 0, 1, 7]);
    let announce = |router: &mut Router, address: IpAddr| {
        router.announce(Announcement { port: WAN as u16, mac: at, address });
        router.discovery(WAN)
    };
    let shared = [192, 0, 2, 200];
    assert_eq!(announce(&mut router, shared.into()), [arp(ALL, at.0, 1, (shared, [0; 6], shared))]);
    let shared: Ipv6Addr = "2001:db8::200".parse().unwrap();
    let [told] = &announce(&mut router, shared.into())[..] else { panic!("one advertisement is wanted") };
    let flags = told[LINK + 44];
    assert_eq!(flags & 0x60, 0x20, "override alone");
    let all = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(*told, nd((all.1, at.0), (shared, all.0), 136, flags, shared));
    assert_eq!((router.discovery(LAN), router.drops()), (vec![], vec![]));
}

/// RFC 1122 section 3.2.2.6: every host must implement an ICMP echo server. RFC 4443 section 4.2: every node must.
#[test]
fn echo_requests_to_our_addresses_are_answered() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let data = b"how are you?";
    let ours = [(lan_v4(1, 1).into(), lan_v4(1, 2).into()), (lan_v6(1, 1).into(), lan_v6(1, 2).into())];
    // Also the addresses of other ports, and of tunnels.
    let far = [(end(1, false), lan_v4(1, 2).into()), (own_inner_v4(1), lan_v4(1, 2).into())];
    for (own, asker) in ours.into_iter().chain(far) {
        let IpAddr::V4(_) = own else {
            router.packet(LAN, &icmp(asker, own, [128, 0], [1, 2, 3, 4], data));
            let [reply] = &router.sent(LAN)[..] else { panic!("one reply is wanted") };
            assert_eq!(reply[..LINK], link(station(1, LAN), mac(1, LAN), &[0x60])[..LINK]);
            let reply = Icmp::read(&reply[LINK..]);
            assert_eq!((reply.src, reply.dst, reply.head), (own, asker, [129, 0]));
            assert_eq!((reply.rest, &reply.body[..]), (0x0102_0304, &data[..]));
            continue;
        };
        router.packet(LAN, &icmp(asker, own, [8, 0], [1, 2, 3, 4], data));
        let [reply] = &router.sent(LAN)[..] else { panic!("one reply is wanted to {own}") };
        let reply = Icmp::read(&reply[LINK..]);
        assert_eq!((reply.src, reply.dst, reply.head), (own, asker, [0, 0]));
        assert_eq!((reply.rest, &reply.body[..]), (0x0102_0304, &data[..]));
    }
    assert_eq!(router.drops(), []);
}

/// RFC 4291 section 2.8: a node answers for its link-local address; no route leads there, so the answer goes back by its link.
#[test]
fn echo_requests_between_link_local_addresses_are_answered() {
    let mut router = Router::new(Net::new(1));
    let ours: IpAddr = "fe80::ff:fe00:100".parse().expect("made from 02:00:00:00:01:00");
    let theirs: IpAddr = "fe80::7".parse().expect("an address");
    for (own, asker) in [(ours, theirs), (lan_v6(1, 1).into(), theirs)] {
        router.packet(LAN, &icmp(asker, own, [128, 0], [0; 4], b"?"));
        let [reply] = &router.sent(LAN)[..] else { panic!("one reply is wanted") };
        assert_eq!(reply[..12], [station(1, LAN).0, mac(1, LAN).0].concat());
        assert_eq!(ends(&reply[LINK..]), (own, asker));
    }
}

/// RFC 1122 section 3.2.2.6: an echo request to a broadcast address may be discarded; and what is not ours is not answered.
#[test]
fn echo_requests_to_others_are_not_answered() {
    let mut router = Router::new(Net::new(1));
    let asker = lan_v4(1, 2).into();
    for address in ["10.1.255.255", "255.255.255.255", "169.254.7.7", "224.0.0.1", "127.0.0.1", "0.0.0.0"] {
        router.packet(LAN, &icmp(asker, address.parse().expect("an address"), [8, 0], [0; 4], b"?"));
    }
    let asker: IpAddr = lan_v6(1, 2).into();
    for address in ["fe80::1234", "ff02::1", "::1"] {
        router.packet(LAN, &icmp(asker, address.parse().expect("an address"), [128, 0], [0; 4], b"?"));
    }
    let request = icmp(lan_v4(1, 2).into(), lan_v4(1, 1).into(), [8, 0], [0; 4], b"?");
    router.receive(LAN, &link(MacAddr(ALL), station(1, LAN), &request));
    let whole = frame(1, LAN, &request);
    router.receive(LAN, &[&whole[..12], &[0x81, 0, 0, 7], &whole[12..]].concat());
    assert_eq!((router.sent(LAN), router.sent(WAN)), (vec![], vec![]));
    assert_eq!(router.drops(), [(Reason::NoHost, 11)]);
}

/// RFC 1812 section 3.3.2: a packet to a station that is not known yet is not to be discarded for that; RFC 1122 section
/// 2.3.2.2: at least the latest is kept, and sent when the address is resolved.
#[test]
fn packets_wait_for_a_station_and_leave_as_they_were() {
    let mut router = Router::new(Net::new(1));
    let (we, they) = (mac(1, WAN).0, NEW.0);
    let target = IpAddr::from([192, 0, 2, 77]);
    let packets: Vec<Vec<u8>> =
        (0..3).map(|n| udp_packet(lan_v4(1, 2).into(), target, 100 + usize::from(n), n)).collect();
    packets.iter().for_each(|packet| router.packet(LAN, packet));
    assert_eq!(router.discovery(WAN), [arp(ALL, we, 1, ([192, 0, 2, 1], [0; 6], [192, 0, 2, 77]))]);
    assert_eq!((router.sent(WAN), router.events()), (vec![], vec![]));

    router.receive(WAN, &arp(we, they, 2, ([192, 0, 2, 77], we, [192, 0, 2, 1])));
    let wanted: Vec<_> = packets.iter().map(|packet| link(NEW, mac(1, WAN), &hop(packet))).collect();
    assert_eq!(router.sent(WAN), wanted);
    assert_eq!(router.follow(), [Event::Neighbour(Change::Added(WAN as u16, target, NEW))]);

    // From now on the worker knows.
    let direct = udp_packet(lan_v4(1, 2).into(), target, 60, 9);
    router.ports[LAN].send(&frame(1, LAN, &direct));
    router.worker.round();
    assert_eq!(router.sent(WAN), [link(NEW, mac(1, WAN), &hop(&direct))]);
    assert_eq!(router.drops(), []);
}

/// The same by RFC 4861 section 7.2.2.
#[test]
fn packets_wait_for_an_ipv6_station() {
    let mut router = Router::new(Net::new(1));
    let (we, they) = (mac(1, WAN).0, NEW.0);
    let (own, target) = (v6(end(1, true)), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77));
    let packet = udp_packet(lan_v6(1, 2).into(), target.into(), 200, 1);
    router.packet(LAN, &packet);
    let (group, group_mac) = solicited(target);
    assert_eq!(router.discovery(WAN), [nd((group_mac, we), (own, group), 135, 0, target)]);
    router.receive(WAN, &nd((we, they), (target, own), 136, 0x60, target));
    assert_eq!(router.sent(WAN), [link(NEW, mac(1, WAN), &hop(&packet))]);
    assert_eq!(router.events(), [Event::Neighbour(Change::Added(WAN as u16, target.into(), NEW))]);
    assert_eq!(router.drops(), []);
}

/// RFC 1812 section 5.3.1 and RFC 4861 section 7.2.2: asked three times, a second apart; then the packets are lost, and
/// their senders told that the host is not reached, from the address that they know us by.
#[test]
fn a_station_that_does_not_answer_is_unreachable() {
    let mut router = Router::new(Net::new(1));
    // Our own addresses have been announced twice then.
    router.wait(2 * SECOND);
    router.forget();
    let packets = [
        udp_packet(lan_v4(1, 2).into(), [192, 0, 2, 77].into(), 100, 1),
        udp_packet(lan_v6(1, 2).into(), "2001:db8::77".parse().expect("an address"), 100, 2),
    ];
    packets.iter().for_each(|packet| router.packet(LAN, packet));
    router.wait(3 * SECOND - 1);
    assert_eq!((router.discovery(WAN).len(), router.sent(LAN)), (6, vec![]));
    router.wait(SECOND);
    let told: Vec<_> = router.sent(LAN).iter().map(|frame| Icmp::read(&frame[LINK..])).collect();
    assert_eq!(told.len(), 2);
    for (error, (own, head)) in
        told.iter().zip([(IpAddr::from(lan_v4(1, 1)), [3, 1]), (lan_v6(1, 1).into(), [1, 3])])
    {
        let about = packets.iter().find(|packet| packet[0] >> 4 == error.body[0] >> 4).expect("a packet");
        assert_eq!((error.src, error.dst, error.head, error.rest), (own, ends(about).0, head, 0));
        assert!(error.is_about(&hop(about)));
    }
    assert_eq!((router.drops(), router.sent(WAN)), (vec![(Reason::NoNeighbour, 2)], vec![]));
}

/// Issue 3: on a port with a host stack the host resolves. It is asked once; what it finds releases the packets.
#[test]
fn on_a_port_of_a_host_the_host_is_asked() {
    let mut router = Router::new(Net::new(1).stacks(Stack::Shared));
    let target = IpAddr::from([192, 0, 2, 77]);
    let packets: Vec<_> = (0..2).map(|n| udp_packet(lan_v4(1, 2).into(), target, 100, n)).collect();
    packets.iter().for_each(|packet| router.packet(LAN, packet));
    assert_eq!(router.events(), [Event::Resolve { port: WAN as u16, address: target }]);
    assert_eq!((router.sent(WAN), router.discovery(WAN)), (vec![], vec![]));
    router.net = router.net.clone().knows(WAN, target, NEW);
    router.publish();
    let wanted: Vec<_> = packets.iter().map(|packet| link(NEW, mac(1, WAN), &hop(packet))).collect();
    assert_eq!((router.sent(WAN), router.drops()), (wanted, vec![]));

    // Where the host finds nobody either, it is as if nobody had answered.
    let nobody = udp_packet(lan_v4(1, 2).into(), [192, 0, 2, 78].into(), 100, 3);
    router.packet(LAN, &nobody);
    router.wait(PATIENCE);
    let [error] = &router.sent(LAN)[..] else { panic!("one error is wanted") };
    let error = Icmp::read(&error[LINK..]);
    assert_eq!((error.head, error.is_about(&hop(&nobody))), ([3, 1], true));
    assert_eq!(router.drops(), [(Reason::NoNeighbour, 1)]);
    // The next packet asks again.
    router.forget();
    router.packet(LAN, &nobody);
    assert_eq!(router.events(), [Event::Resolve { port: WAN as u16, address: [192, 0, 2, 78].into() }]);
}

/// A worker may look a packet up in tables that are replaced before the thread sees the packet: nothing new would release it.
#[test]
fn a_packet_that_comes_to_the_thread_after_its_tables_does_not_wait() {
    for stack in [Stack::Shared, Stack::Own] {
        let target = IpAddr::from([192, 0, 2, 77]);
        let to_station = udp_packet(lan_v4(1, 2).into(), target, 100, 1);
        let into_tunnel = udp_packet(lan_v4(1, 2).into(), lan_v4(2, 2).into(), 300, 2);
        let mut router = Router::new(Net::new(1).alone().stacks(stack).with(Wrap::new(1, false)));
        router.forget();
        for packet in [&to_station, &into_tunnel] {
            router.ports[LAN].send(&frame(1, LAN, packet));
        }
        router.worker.round();
        router.net = router.net.clone().knows(WAN, target, NEW).knows(WAN, end(2, false), NEW);
        router.publish();
        let [plain, outer] = &router.sent(WAN)[..] else { panic!("two packets are wanted") };
        assert_eq!(*plain, link(NEW, mac(1, WAN), &hop(&to_station)));
        assert_eq!(unwrapped(outer, end(1, false), end(2, false)), hop(&into_tunnel));
        assert_eq!(router.drops(), []);
    }
}

/// Issue 3: order inside a flow. Packets that waited leave before those that come when the tables know the station, also where
/// the worker sees the tables first; and so do those that are on their way to the thread.
#[test]
fn packets_that_waited_are_not_overtaken() {
    let target = IpAddr::from([192, 0, 2, 77]);
    for behind in [lan_v4(2, 2).into(), target] {
        let packets: Vec<Vec<u8>> =
            (0..4).map(|n| udp_packet(lan_v4(1, 2).into(), behind, 100 + usize::from(n), n)).collect();
        let mut router = Router::new(Net::new(1).alone().stacks(Stack::Shared).with(Wrap::new(1, false)));
        let sizes = |router: &mut Router| router.sent(WAN).iter().map(Vec::len).collect::<Vec<_>>();
        packets[..2].iter().for_each(|packet| router.packet(LAN, packet));
        router.ports[LAN].send(&frame(1, LAN, &packets[2]));
        router.worker.round();
        router.net = router.net.clone().knows(WAN, target, NEW).knows(WAN, end(2, false), NEW);
        router.store();
        router.ports[LAN].send(&frame(1, LAN, &packets[3]));
        assert_eq!(router.worker.round(), 0, "nothing is taken in");
        assert!(router.worker.is_settling() && router.worker.waits_for_exceptions());
        assert_eq!(sizes(&mut router), [0; 0]);
        router.exceptions.turn(router.now);
        router.run();
        let sent = sizes(&mut router);
        assert!(sent.len() == 4 && sent.is_sorted(), "{sent:?}");
        assert!(!router.worker.is_settling());
        assert_eq!(router.drops(), []);
    }
}

/// The same where the thread has not even read what it was given, as the system has let it wait for longer than it needs.
#[test]
fn packets_that_nobody_has_read_are_not_overtaken() {
    let target = IpAddr::from([192, 0, 2, 77]);
    let packet = |n: u8| udp_packet(lan_v4(1, 2).into(), target, 100 + usize::from(n), n);
    let mut router = Router::new(Net::new(1).alone().stacks(Stack::Shared));
    router.ports[LAN].send(&frame(1, LAN, &packet(0)));
    router.worker.round();
    router.net = router.net.clone().knows(WAN, target, NEW);
    router.store();
    router.ports[LAN].send(&frame(1, LAN, &packet(1)));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(40) {
        assert_eq!(router.worker.round(), 0, "nothing is taken in");
    }
    router.exceptions.turn(router.now);
    router.run();
    let sent: Vec<usize> = router.sent(WAN).iter().map(Vec::len).collect();
    assert!(sent.len() == 2 && sent.is_sorted(), "{sent:?}");
    assert_eq!(router.drops(), []);
}

/// Packets that go on waiting hold up no others, and neither does a thread that is not there, for long.
#[test]
fn what_cannot_be_waited_for_holds_up_nobody() {
    let mut router = Router::new(Net::new(1).stacks(Stack::Shared));
    let (nobody, somebody) = (IpAddr::from([192, 0, 2, 77]), IpAddr::from([192, 0, 2, 78]));
    let packet = |target| udp_packet(lan_v4(1, 2).into(), target, 100, 1);
    router.packet(LAN, &packet(nobody));
    router.net = router.net.clone().knows(WAN, somebody, NEW);
    router.store();
    router.exceptions.turn(router.now);
    router.ports[LAN].send(&frame(1, LAN, &packet(somebody)));
    assert_eq!(router.worker.round(), 1);
    assert_eq!(router.sent(WAN).len(), 1);
    // From here on the thread does nothing.
    router.store();
    router.ports[LAN].send(&frame(1, LAN, &packet(somebody)));
    while router.worker.round() == 0 {}
    assert_eq!((router.sent(WAN).len(), router.drops()), (1, vec![]));
}

/// What waited goes back to the worker that gave it away, which the rest of its flow goes through.
#[test]
fn a_packet_that_waited_goes_back_to_its_worker() {
    let region = region(2);
    let (near, mut fars): (Vec<_>, Vec<_>) = (0..2).map(|_| wire(&region, true)).unzip();
    let net = Net::new(1).stacks(Stack::Shared);
    let tables = net.tables().publish();
    let ((setups, for_thread), (for_us, _events)) = (unbounded(), unbounded());
    let wires = near.into_iter().map(|wire| (wire, Arc::default())).collect();
    let mut thread = Exceptions::new(&tables, wires, for_thread, for_us, 7);
    setups.send(Order::Setup(net.setup())).expect("a thread that listens");
    let target = IpAddr::from([192, 0, 2, 77]);
    let waits = Exception { cause: Cause::NoNeighbour, origin: Origin::Port(LAN as u32) }.encode();
    fars[1].send_tagged(waits, &udp_packet(lan_v4(1, 2).into(), target, 100, 1));
    thread.turn(START);
    tables.store(Arc::new(net.knows(WAN, target, NEW).tables()));
    thread.turn(START);
    assert!(thread.waits_for(1) && !thread.waits_for(0));
    assert_eq!(fars.iter_mut().map(|far| far.frames().len()).collect::<Vec<_>>(), [0, 1]);
}

/// A packet for a tunnel waits for the station that the tunnel's outer packets go to, and leaves in the tunnel.
#[test]
fn packets_for_a_tunnel_wait_for_its_next_station() {
    let packet = udp_packet(lan_v4(1, 2).into(), lan_v4(2, 2).into(), 300, 1);
    let (we, router_mac) = (mac(1, WAN).0, NEW.0);
    let gateway = || Gateway::Port { port: WAN, via: Some([192, 0, 2, 254].into()) };
    for (far, via) in [(end(2, false), [192, 0, 2, 2]), ([198, 51, 100, 2].into(), [192, 0, 2, 254])] {
        let tunnel = Wrap { remote: far, ..Wrap::new(1, false) };
        let mut router = Router::new(Net::new(1).alone().with(tunnel).route("198.51.100.0/24", gateway()));
        router.packet(LAN, &packet);
        assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![]));
        // What tunnels want was asked for when the thread started.
        router.wait(SECOND);
        assert_eq!(router.discovery(WAN)[0], arp(ALL, we, 1, ([192, 0, 2, 1], [0; 6], via)));
        router.receive(WAN, &arp(we, router_mac, 2, (via, we, [192, 0, 2, 1])));
        assert_eq!(router.sent(WAN), Vec::<Vec<u8>>::new(), "not before the tables know");
        router.follow();
        let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
        assert_eq!(outer[..6], router_mac);
        assert_eq!(unwrapped(outer, end(1, false), far), hop(&packet));
        assert_eq!(router.drops(), []);
    }
    // The same where the host resolves.
    let mut router = Router::new(Net::new(1).alone().stacks(Stack::Shared).with(Wrap::new(1, false)));
    router.packet(LAN, &packet);
    assert_eq!(router.events(), [Event::Resolve { port: WAN as u16, address: end(2, false) }]);
    router.net = router.net.clone().knows(WAN, end(2, false), NEW);
    router.publish();
    let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
    assert_eq!(unwrapped(outer, end(1, false), end(2, false)), hop(&packet));
    assert_eq!(router.drops(), []);
}

/// Design, rule 3: plaintext never leaves. What the host sends into a tunnel is not routed past it, wherever the engine's own
/// route leads, while the tunnel's next station is not known.
#[test]
fn what_waits_for_a_tunnel_takes_no_other_way() {
    let everywhere = Gateway::Port { port: WAN, via: Some([192, 0, 2, 254].into()) };
    let net = Net::new(1).alone().with(Wrap::new(1, false)).route("0.0.0.0/0", everywhere);
    let mut router = Router::new(net.clone());
    let packet = udp_packet(own_inner_v4(1), [203, 0, 113, 9].into(), 200, 1);
    router.interfaces.send_tagged(0, &packet);
    router.run();
    for station in [[192, 0, 2, 254], [192, 0, 2, 2]] {
        let we = mac(1, WAN).0;
        router.receive(WAN, &arp(we, NEW.0, 2, (station, we, [192, 0, 2, 1])));
        router.follow();
    }
    let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted") };
    assert_eq!(unwrapped(outer, end(1, false), end(2, false)), packet, "not forwarded, so the TTL stays");

    // Nor does it go into another tunnel that has got the number meanwhile.
    let mut router = Router::new(net);
    router.interfaces.send_tagged(0, &packet);
    router.run();
    router.net.tunnels[0].gre.key = Some(7);
    router.net = router.net.clone().knows(WAN, end(2, false), NEW);
    router.publish();
    assert_eq!(router.sent(WAN), Vec::<Vec<u8>>::new());
    router.wait(PATIENCE);
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::NoNeighbour, 1)]));
}

/// Frames of a bridged tunnel are no IP packets, even where their first byte looks like one's.
#[test]
fn bridged_frames_do_not_wait() {
    let gre = Options { payload: Payload::Ethernet, ..PLAIN };
    let bridge = Wrap { gre, bridge: Some(LAN), routes: Vec::new(), ..Wrap::new(1, false) };
    let everywhere = Gateway::Port { port: WAN, via: Some([192, 0, 2, 254].into()) };
    let mut router = Router::new(Net::new(1).alone().with(bridge).route("0.0.0.0/0", everywhere));
    for first in [0x44, 0x60] {
        // Ethernet bytes 16 to 19 would be a destination of 1.244.18.52.
        let packet = ip(lan_v4(1, 9).into(), lan_v4(1, 8).into(), 17, 0, 64, &[7; 480]);
        router.receive(LAN, &link(MacAddr([first, 0, 0, 1, 2, 3]), NEW, &packet));
    }
    let we = mac(1, WAN).0;
    router.receive(WAN, &arp(we, NEW.0, 2, ([192, 0, 2, 254], we, [192, 0, 2, 1])));
    router.follow();
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::NoNeighbour, 2)]));
}
