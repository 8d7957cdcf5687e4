//! What comes from far ends and from the routers on the way: fragments, errors, keepalives.

use std::net::IpAddr;

use culvert_engine::drops::Reason;
use culvert_engine::esp::{Mode, Suite};
use culvert_engine::exception::keepalive::{self, Liveness};
use culvert_engine::exception::pmtu::LIFETIME;
use culvert_engine::exception::thread::Event;
use culvert_engine::gre::Options;
use culvert_engine::ring;
use culvert_engine::tables::Stack;
use culvert_engine::worker::Worker;

use crate::lab::{
    Far, LAN, LINK, PLAIN, Plan, WAN, delivered, end, forge, frame, inner, ip, lan_v4, lan_v6, trailer,
};
use crate::packets::{Icmp, df, fragments_v4, fragments_v6, icmp, udp, udp_packet, unwrapped};
use crate::router::{Net, Router, SECOND, START, Wrap, region, wire};

const KEYED: Options = Options { key: Some(0x0a0b_0c0d), ..PLAIN };

/// Tunnels of all kinds, as router `number` has them.
fn kinds(number: u8) -> Vec<Wrap> {
    vec![
        Wrap::new(number, false),
        Wrap::new(number, true),
        Wrap { gre: KEYED, ..Wrap::new(number, false) },
        Wrap { gre_in_udp: true, gre: KEYED, ..Wrap::new(number, false) },
        Wrap { gre_in_udp: true, ..Wrap::new(number, true) },
        Wrap::new(number, false).protected(number, Mode::Transport, false),
        Wrap::new(number, true).protected(number, Mode::Transport, false),
        Wrap::new(number, false).protected(number, Mode::Tunnel, false),
        Wrap::new(number, false).protected(number, Mode::Transport, true),
    ]
}

/// The outer IP packet that router 1 makes of a packet of `len` bytes.
fn outer(router: &mut Router, len: usize) -> Vec<u8> {
    router.packet(LAN, &inner(false, len, 0, 5));
    let [outer] = &router.sent(WAN)[..] else { panic!("one packet is wanted; drops: {:?}", router.drops()) };
    outer[LINK..].to_vec()
}

/// Three fragments of a packet, the last first.
fn cut(packet: &[u8], id: u16) -> Vec<Vec<u8>> {
    let mut pieces = match packet[0] >> 4 {
        4 => fragments_v4(packet, id, &[400, 400]),
        _ => fragments_v6(packet, id.into(), &[400, 400]),
    };
    pieces.rotate_left(2);
    pieces
}

/// RFC 791 section 3.2, RFC 8200 section 4.5: outer fragments are put together, in whatever order they come, and what they
/// carried is delivered as if it had come whole.
#[test]
fn outer_fragments_are_put_together() {
    for (near, far) in kinds(1).into_iter().zip(kinds(2)) {
        let mut first = Router::new(Net::new(1).with(near));
        let mut second = Router::new(Net::new(2).with(far));
        for id in 0..3 {
            let packet = outer(&mut first, 1300);
            for piece in cut(&packet, id) {
                assert_eq!(second.sent(LAN), Vec::<Vec<u8>>::new());
                second.packet(WAN, &piece);
            }
            assert_eq!(second.sent(LAN), [delivered(inner(false, 1300, 0, 5))]);
        }
        assert_eq!((second.drops(), second.exceptions.next_due() > Some(START)), (vec![], true));
    }
}

/// The bounds are counted: what is never complete, what overlaps (RFC 5722), what came twice, what no buffer holds, and what is
/// no fragment at all.
#[test]
fn what_becomes_of_fragments_is_counted() {
    let mut first = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let mut second = Router::new(Net::new(2).with(Wrap::new(2, false)));
    let packet = outer(&mut first, 1300);
    // Not complete within a minute (RFC 8200 section 4.5, RFC 1122 section 3.3.2).
    cut(&packet, 1)[..2].iter().for_each(|piece| second.packet(WAN, piece));
    second.wait(60 * SECOND - 1);
    assert_eq!(second.drops(), []);
    second.wait(1);
    assert_eq!(second.drops(), [(Reason::FragmentLimit, 2)]);
    // Twice the same, and then one that overlaps both.
    let pieces = cut(&packet, 2);
    [&pieces[0], &pieces[0]].into_iter().for_each(|piece| second.packet(WAN, piece));
    let overlapping = &fragments_v4(&packet, 2, &[400, 800])[1];
    second.packet(WAN, overlapping);
    let wanted = [(Reason::FragmentLimit, 2), (Reason::FragmentOverlap, 2), (Reason::FragmentDuplicate, 1)];
    assert_eq!(second.drops(), wanted);
    // A packet longer than any buffer of ours.
    let long = ip(end(1, false), end(2, false), 47, 0, 64, &[0; 4000]);
    fragments_v4(&long, 3, &[1400, 1400]).iter().for_each(|piece| second.packet(WAN, piece));
    assert_eq!(second.dropped(Reason::TooBig), 1);
    // The middle of a packet, not a multiple of eight bytes long (RFC 791 section 3.2).
    let odd = &fragments_v4(&packet, 4, &[401, 399])[0];
    second.packet(WAN, odd);
    assert_eq!(second.dropped(Reason::IpMalformed), 1);
    assert_eq!(second.sent(LAN), Vec::<Vec<u8>>::new());
}

/// A fragment of what tunnel mode protects is none that a port received: it is dropped where it is found, and whatever its bytes
/// look like as a frame is not received.
#[test]
fn fragments_inside_a_tunnels_protection_are_not_taken() {
    let mut router = Router::new(Net::new(2).with(Wrap::new(2, false).protected(2, Mode::Tunnel, false)));
    let whole = ip(end(1, false), end(2, false), 47, 0, 64, &[0; 120]);
    let plan = Plan { mode: Mode::Tunnel, ..Plan::new(Some(Suite::Aes128Gcm16)) };
    for (piece, sequence) in fragments_v4(&whole, 1, &[64]).iter().zip(1..) {
        router.receive(WAN, &forge(&plan, sequence, &trailer(piece, 4)));
        assert_eq!(router.drops(), [(Reason::Fragment, sequence)]);
    }
    router.wait(61 * SECOND);
    assert_eq!(router.drops(), [(Reason::Fragment, 2)]);
}

/// Fragments of anything else between the same stations are not ours to put together: the host gets each byte for byte, of a
/// datagram the first before those that came earlier, also where one of ours had the same identification, and where the first
/// never comes.
#[test]
fn fragments_of_others_are_the_hosts() {
    let mut router = Router::new(Net::new(2).stacks(Stack::Shared).with(Wrap::new(2, false)));
    let packet = ip(end(1, false), end(2, false), 17, 0, 64, &udp(500, &[7; 900]));
    let mut pieces = cut(&packet, 1);
    let ours = [&[0x11, 0x94, 0x11, 0x94, 3, 0x94, 0, 0][..], &[1; 908]].concat();
    router.packet(WAN, &fragments_v4(&ip(end(1, false), end(2, false), 17, 0, 64, &ours), 2, &[400, 400])[0]);
    // IKE in UDP 4500, with its marker (RFC 3948 section 2.2).
    let ike = [&[0x11, 0x94, 0x11, 0x94, 3, 0x94, 0, 0][..], &[0; 4], &[7; 904]].concat();
    pieces.extend(fragments_v4(&ip(end(1, false), end(2, false), 17, 0, 64, &ike), 2, &[400, 400]));
    pieces.iter().for_each(|piece| router.packet(WAN, piece));
    pieces.swap(0, 1);
    let wanted: Vec<_> = pieces.iter().map(|piece| frame(2, WAN, piece)).collect();
    assert_eq!((router.host.frames(), router.drops()), (wanted, vec![]));
    let late = &cut(&packet, 3)[..1];
    router.packet(WAN, &late[0]);
    assert_eq!(router.host.frames(), Vec::<Vec<u8>>::new());
    router.wait(2 * SECOND);
    assert_eq!((router.host.frames(), router.drops()), (vec![frame(2, WAN, &late[0])], vec![]));
}

/// An ICMP error from a router on the way to a tunnel's near end about `quoted`: the path takes no more than `mtu` bytes.
fn too_big(quoted: &[u8], mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    match quoted[0] >> 4 {
        4 => {
            let quote = &quoted[..quoted.len().min(20 + 8 + 16)];
            icmp([198, 51, 100, 1].into(), end(1, false), [3, 4], [0, 0, high, low], quote)
        }
        _ => {
            let from: IpAddr = "2001:db8:51::1".parse().expect("an address");
            icmp(from, end(1, true), [2, 0], [0, 0, high, low], &quoted[..quoted.len().min(1000)])
        }
    }
}

/// RFC 1191 section 3, RFC 8201 section 4: an error about a packet that we sent lowers the path MTU, for ten minutes; one
/// that quotes anything else is not believed (RFC 5927 section 4), and passed to the host as it is.
#[test]
fn errors_about_our_outer_packets_lower_the_path_mtu() {
    for tunnel in kinds(1) {
        let mut router = Router::new(Net::new(1).stacks(Stack::Shared).with(tunnel));
        let packet = outer(&mut router, 1420);
        assert!(packet.len() > 1440 - 20);
        router.packet(WAN, &too_big(&packet, 1300));
        assert_eq!(router.events(), [Event::PathMtu { tunnel: 0, mtu: 1300 }], "{:x?}", &packet[..64]);
        // Again: nothing new, but it holds for another while.
        router.wait(SECOND);
        router.packet(WAN, &too_big(&packet, 1300));
        assert_eq!((router.events(), router.host.frames()), (vec![], vec![]));
        router.wait(LIFETIME.as_nanos() as u64 - 1);
        assert_eq!(router.events(), []);
        router.wait(1);
        assert_eq!(router.events(), [Event::PathMtu { tunnel: 0, mtu: 1500 }]);

        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let mut forged = vec![too_big(&packet, packet.len() as u16), {
            // To somebody else.
            let mut quoted = packet.clone();
            quoted[header - 1] ^= 1;
            too_big(&quoted, 1300)
        }];
        // Another protocol, SPI, key or UDP port.
        let mut protocol = packet.clone();
        protocol[if header == 20 { 9 } else { 6 }] = 6;
        forged.push(too_big(&protocol, 1300));
        let mut inside = packet.clone();
        // The destination port of UDP; the SPI; the flags of GRE.
        inside[header + if packet[header - 11] == 17 || packet[6] == 17 { 3 } else { 0 }] ^= 0x80;
        forged.push(too_big(&inside, 1300));
        for error in forged {
            router.packet(WAN, &error);
            assert_eq!(router.host.frames(), [frame(1, WAN, &error)]);
        }
        assert_eq!((router.events(), router.drops()), (vec![], vec![]));
    }
}

/// Where no host stands behind the port, an error that is not believed is nobody's; and one about ESP must quote a number
/// sent not long ago.
#[test]
fn forged_errors_are_dropped_where_there_is_no_host() {
    let tunnel = Wrap::new(1, false).protected(1, Mode::Transport, false);
    let mut router = Router::new(Net::new(1).with(tunnel));
    let packet = outer(&mut router, 1420);
    let mut never_sent = packet.clone();
    never_sent[27] = 99;
    router.packet(WAN, &too_big(&never_sent, 1300));
    assert_eq!((router.events(), router.drops()), (vec![], vec![(Reason::NoHost, 1)]));
    router.packet(WAN, &too_big(&packet, 1300));
    assert_eq!(router.events(), [Event::PathMtu { tunnel: 0, mtu: 1300 }]);
    // Thousands of them do not keep the thread from its work: they are counted.
    for _ in 0..300 {
        router.packet(WAN, &too_big(&never_sent, 1300));
    }
    assert_eq!((router.events(), router.drops()), (vec![], vec![(Reason::NoHost, 301)]));
}

/// The tables take over what was learned, and senders are told; another tunnel that gets the number has learned nothing.
#[test]
fn what_was_learned_is_the_tunnels_alone() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let packet = outer(&mut router, 1420);
    router.packet(WAN, &too_big(&packet, 1300));
    assert_eq!(router.events(), [Event::PathMtu { tunnel: 0, mtu: 1300 }]);
    router.net.tunnels[0].path_mtu = Some(1300);
    router.publish();
    router.packet(LAN, &df(inner(false, 1277, 0, 5)));
    let [error] = &router.sent(LAN)[..] else { panic!("one error is wanted") };
    let error = Icmp::read(&error[LINK..]);
    assert_eq!((error.head, error.rest), ([3, 4], 1276));

    router.net.tunnels = vec![Wrap { gre: KEYED, ..Wrap::new(1, false) }];
    router.publish();
    router.wait(2 * LIFETIME.as_nanos() as u64);
    assert!(router.events().iter().all(|event| !matches!(event, Event::PathMtu { .. })));
    let packet = outer(&mut router, 1420);
    router.packet(WAN, &too_big(&packet, 1400));
    assert_eq!(router.events(), [Event::PathMtu { tunnel: 0, mtu: 1400 }]);
}

const EVERY: keepalive::Settings = keepalive::Settings { period: 10 * SECOND, retries: 3 };

/// What left one router reaches the other, until all is quiet.
fn exchange(routers: &mut [Router; 2]) -> usize {
    let mut count = 0;
    loop {
        let mut moved = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            for frame in routers[from].sent(WAN) {
                routers[to].receive(WAN, &frame);
                moved += 1;
            }
        }
        count += moved;
        if moved == 0 {
            return count;
        }
    }
}

/// Both routers' time passes, a second at a time.
fn live(routers: &mut [Router; 2], seconds: u64) -> usize {
    let mut count = 0;
    for _ in 0..seconds {
        routers.iter_mut().for_each(|router| router.wait(SECOND));
        count += exchange(routers);
    }
    count
}

fn liveness(router: &mut Router) -> Vec<Liveness> {
    let of = |event| match event {
        Event::Liveness { tunnel: 0, liveness } => Some(liveness),
        _ => None,
    };
    router.events().into_iter().filter_map(of).collect()
}

/// A keepalive that either end alone sends, or both: the far end answers, the tunnel is up; the far end is silent, the
/// tunnel is down when as many as there are retries were not answered; and it comes up again.
#[test]
fn keepalives_show_whether_the_far_end_is_there() {
    let every_option = Options { key: Some(7), checksum: true, sequence: true, ..PLAIN };
    let mut all = kinds(1).into_iter().zip(kinds(2)).filter(|(near, _)| !near.gre_in_udp).collect::<Vec<_>>();
    all.push((
        Wrap { gre: every_option, ..Wrap::new(1, false) },
        Wrap { gre: every_option, ..Wrap::new(2, false) },
    ));
    for (near, far) in all {
        for both in [false, true] {
            let near = Wrap { keepalive: Some(EVERY), ..near.clone() };
            let far = Wrap { keepalive: both.then_some(EVERY), ..far.clone() };
            let mut routers = [Net::new(1).with(near), Net::new(2).with(far)].map(Router::new);
            live(&mut routers, 10);
            let [Liveness::Up { since }] = liveness(&mut routers[0])[..] else { panic!("up is wanted") };
            assert!(since <= START + 10 * SECOND);
            assert_eq!(liveness(&mut routers[1]).len(), usize::from(both));
            live(&mut routers, 60);
            assert_eq!(liveness(&mut routers[0]), []);
            // The far end falls silent.
            for _ in 0..60 {
                routers[0].wait(SECOND);
                routers[0].sent(WAN);
            }
            let [Liveness::Down { since, unanswered: 3, last_heard: Some(heard) }] =
                liveness(&mut routers[0])[..]
            else {
                panic!("down is wanted")
            };
            // Answers come at whole seconds here.
            let silence = (since - heard).div_ceil(SECOND);
            assert_eq!(silence, 40, "three unanswered, and the next was due");
            live(&mut routers, 10);
            assert!(matches!(liveness(&mut routers[0])[..], [Liveness::Up { .. }]));
            assert!(routers.iter().all(|router| router.drops().is_empty()), "{:?}", routers[1].drops());
        }
    }
}

/// The keepalive is what vendors send: in the tunnel's own header a packet that the far end would send us, of GRE protocol 0.
/// What it carries comes back from whoever forwards it, without an answer made anew.
#[test]
fn a_far_end_that_only_forwards_keeps_the_tunnel_up() {
    let tunnel = Wrap { keepalive: Some(EVERY), ..Wrap::new(1, false) };
    let mut router = Router::new(Net::new(1).with(tunnel));
    router.wait(10 * SECOND);
    let [probe] = &router.sent(WAN)[..] else { panic!("one keepalive is wanted") };
    let asked = unwrapped(probe, end(1, false), end(2, false));
    let wanted = ip(end(2, false), end(1, false), 47, 0xc0, 255, &[&[0; 4], &asked[24..]].concat());
    assert_eq!((asked.len(), &asked[12..]), (20 + 4 + 8, &wanted[12..]));
    assert_eq!((asked[8], asked[9]), (255, 47));
    // As a router that has taken off the outer headers, and lowers the TTL.
    router.packet(WAN, &crate::packets::hop(&asked));
    assert!(matches!(liveness(&mut router)[..], [Liveness::Up { .. }]));
    // The same once more shows nothing, nor does one that was never sent.
    router.packet(WAN, &asked);
    let foreign = ip(end(2, false), end(1, false), 47, 0, 255, &[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    router.packet(WAN, &foreign);
    router.packet(WAN, &foreign[..24]);
    assert_eq!(liveness(&mut router), []);
    assert_eq!(router.drops(), [(Reason::IpMalformed, 1), (Reason::GreUnknown, 2)]);
}

/// A vendor's keepalive, without a payload, is answered by a GRE packet of protocol 0 and no payload; ten a second at most.
#[test]
fn the_far_ends_keepalives_are_answered() {
    let mut router = Router::new(Net::new(1).with(Wrap { gre: KEYED, ..Wrap::new(1, false) }));
    let key = [0x0a, 0x0b, 0x0c, 0x0d];
    let asked = ip(end(1, false), end(2, false), 47, 0, 255, &[&[0x20, 0, 0, 0][..], &key].concat());
    let gre = [&[0x20, 0, 8, 0][..], &key, &asked].concat();
    for n in 0..30 {
        router.packet(WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre));
        assert_eq!(router.sent(WAN).len(), usize::from(n < 10));
    }
    router.wait(SECOND);
    router.packet(WAN, &ip(end(2, false), end(1, false), 47, 0, 64, &gre));
    let [answer] = &router.sent(WAN)[..] else { panic!("one answer is wanted") };
    assert_eq!(answer[LINK + 20..], [&[0x20, 0, 0, 0][..], &key].concat());
    assert_eq!(
        (answer[LINK + 9], crate::packets::ends(&answer[LINK..])),
        (47, (end(1, false), end(2, false)))
    );
    assert_eq!(router.drops(), []);
}

/// Out of a tunnel, a packet to the tunnel's far end is nested, unless it is a keepalive in every point.
#[test]
fn nested_packets_that_are_no_keepalives_are_counted() {
    let mut router = Router::new(Net::new(1).with(Wrap::new(1, false)));
    let (us, them) = (end(1, false), end(2, false));
    let nested = [
        // Of another sender, of another protocol, of another key, of a payload that is something, too long.
        ip(lan_v4(1, 2).into(), them, 47, 0, 64, &[0; 4]),
        udp_packet(us, them, 60, 1),
        ip(us, them, 47, 0, 64, &[0x20, 0, 0, 0, 0, 0, 0, 1]),
        ip(us, them, 47, 0, 64, &[&[0, 0, 8, 0][..], &udp_packet(us, them, 40, 1)].concat()),
        ip(us, them, 47, 0, 64, &[0; 4 + 65]),
        // At its last hop; and to our own end, as a loop would bring it.
        ip(us, them, 47, 0, 1, &[0; 4]),
        ip(them, us, 47, 0, 64, &[0; 4]),
    ];
    for packet in &nested {
        let gre = [&[0, 0, 8, 0][..], packet].concat();
        router.packet(WAN, &ip(them, us, 47, 0, 64, &gre));
        assert_eq!((router.sent(WAN), router.sent(LAN)), (vec![], vec![]));
    }
    assert_eq!(router.drops(), [(Reason::Nested, nested.len() as u64)]);
}

/// Without an exception thread nobody knows a keepalive: what is nested is, and protocol 0 is no payload.
#[test]
fn without_an_exception_thread_keepalives_are_drops() {
    let region = region(3);
    let ((lan, _lan), (wan, far)) = (wire(&region, true), wire(&region, true));
    let (host, _) = ring::wire(&region, 1, false).expect("rings for a wire");
    let tables = Net::new(1).stacks(Stack::Shared).with(Wrap::new(1, false)).tables().publish();
    let mut worker = Worker::new(0, &tables, vec![lan, wan], host.queues.into_iter().next());
    let mut far: Far = far;
    let (us, them) = (end(1, false), end(2, false));
    let asked = ip(us, them, 47, 0, 255, &[0; 4]);
    let too_big = too_big(&ip(us, them, 47, 0, 64, &[0; 600]), 576);
    for (protocol, packet) in [(47, [&[0, 0, 8, 0][..], &asked].concat()), (47, vec![0; 12])] {
        far.send(&frame(1, WAN, &ip(them, us, protocol, 0, 64, &packet)));
    }
    far.send(&frame(1, WAN, &too_big));
    while worker.round() > 0 {}
    let drops = |reason| worker.counters().dropped(reason);
    assert_eq!((drops(Reason::Nested), drops(Reason::GreUnknown), drops(Reason::NoHost)), (1, 1, 0));
    assert_eq!(worker.counters().port(2).map(|host| host.tx.get()), Some(1), "the error is the host's");
}

/// IPv6 through all of it: what router 1's LAN sends comes out of router 2's, whatever the tunnel.
#[test]
fn every_kind_of_tunnel_carries_both_families() {
    for (near, far) in kinds(1).into_iter().zip(kinds(2)) {
        let mut routers = [Net::new(1).with(near), Net::new(2).with(far)].map(Router::new);
        for packet in [inner(false, 700, 0, 1), inner(true, 700, 0, 1)] {
            routers[0].packet(LAN, &packet);
            exchange(&mut routers);
            assert_eq!(routers[1].sent(LAN), [delivered(packet)]);
        }
        let back = udp_packet(lan_v6(2, 2).into(), lan_v6(1, 2).into(), 300, 1);
        routers[1].packet(LAN, &back);
        assert_eq!(exchange(&mut routers), 1);
        assert_eq!(routers[0].sent(LAN).len(), 1);
        assert!(routers.iter().all(|router| router.drops().is_empty()));
    }
}
