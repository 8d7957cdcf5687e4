//! Packets that come to a router of a pair before its tables say that it is master.

use std::net::IpAddr;

use culvert_engine::drops::Reason;
use culvert_engine::esp::Mode;
use culvert_engine::exception::early::{PACKETS, PATIENCE};
use culvert_engine::exception::thread::Event;
use culvert_engine::tables::{NeighbourSpec, Stack};
use culvert_engine::wire::ethernet::MacAddr;

use crate::lab::{LAN, LINK, WAN, delivered, end, frame, inner, ip, mac};
use crate::packets::hop;
use crate::router::{Net, Router, Wrap};

/// CARP's address for group 1.
const SHARED_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 1];

/// How the tunnel's packets are wrapped: `None` is GRE alone, the flag is UDP around it.
type Kind = (Option<Mode>, bool);
const KINDS: [Kind; 5] = [
    (Some(Mode::Transport), false),
    (Some(Mode::Tunnel), false),
    (Some(Mode::Transport), true),
    (None, false),
    (None, true),
];

fn tunnel(number: u8, v6: bool, (mode, udp): Kind) -> Wrap {
    match mode {
        Some(mode) => Wrap::new(number, v6).protected(number, mode, udp),
        None => Wrap { gre_in_udp: udp, ..Wrap::new(number, v6) },
    }
}

/// Router 2 as backup. `keeps`: the near end stays among its addresses, as FreeBSD has it; otherwise it comes with the mastership.
fn backup(v6: bool, kind: Kind, keeps: bool) -> Router {
    let mut net = Net::new(2).stacks(Stack::Shared).with(Wrap { backup: true, ..tunnel(2, v6, kind) });
    if !keeps {
        net.ports[WAN].addresses = vec![(own(false), 24), (own(true), 64)];
    }
    let mut router = Router::new(net);
    router.forget();
    router
}

/// Router 2's own address on the WAN.
fn own(v6: bool) -> IpAddr {
    end(12, v6)
}

/// It has become master.
fn become_master(router: &mut Router) {
    router.net.tunnels[0].backup = false;
    for v6 in [false, true] {
        router.net.ports[WAN].addresses.push((end(2, v6), if v6 { 64 } else { 24 }));
    }
    router.store();
}

/// The frames that router 1 makes of packets with these numbers, as router 2 receives them; `shared`: to CARP's address.
fn sent(v6: bool, kind: Kind, shared: bool, numbers: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    let mut sender = Router::new(Net::new(1).stacks(Stack::Shared).with(tunnel(1, v6, kind)));
    sender.forget();
    numbers.clone().for_each(|n| sender.packet(LAN, &inner(false, 100, 0, n)));
    let sent = sender.sent(WAN);
    assert_eq!((sent.len(), sender.drops()), (numbers.len(), vec![]));
    let received = |sent: &Vec<u8>| {
        let mut frame = frame(2, WAN, &sent[LINK..]);
        if shared {
            frame[..6].copy_from_slice(&SHARED_MAC);
        }
        frame
    };
    sent.iter().map(received).collect()
}

/// Hosts, switches and the far end go by what CARP announces, the tables by what the daemon has heard of it: what comes in between goes on in
/// the order in which it came, and before what comes later.
#[test]
fn what_comes_before_the_news_waits_for_it() {
    for v6 in [false, true] {
        for kind in KINDS {
            for (keeps, shared) in [(false, false), (false, true), (true, false), (true, true)] {
                let frames = sent(v6, kind, shared, 0..5);
                let mut router = backup(v6, kind, keeps);
                frames[..3].iter().for_each(|frame| router.receive(WAN, frame));
                router.wait(PATIENCE - 1);
                router.ports[WAN].send(&frames[3]);
                router.worker.round();
                assert_eq!((router.sent(LAN).len(), router.sent(WAN).len()), (0, 0));
                assert_eq!(router.host.frames().len(), 0);
                become_master(&mut router);
                router.ports[WAN].send(&frames[4]);
                assert_eq!(router.worker.round(), 0, "nothing is taken in");
                router.exceptions.turn(router.now);
                router.run();
                let wanted: Vec<_> = (0..5).map(|n| delivered(inner(false, 100, 0, n))).collect();
                assert_eq!(router.sent(LAN), wanted, "{v6} {kind:?} {keeps} {shared}");
                assert_eq!(router.drops(), []);
            }
        }
    }
}

/// The LAN's hosts may be told before the WAN's.
#[test]
fn what_is_to_go_into_the_tunnel_waits_as_well() {
    for v6 in [false, true] {
        for kind in KINDS {
            let out = |n| inner_back(n);
            let mut router = backup(v6, kind, false);
            (0..3).for_each(|n| router.packet(LAN, &out(n)));
            router.wait(PATIENCE - 1);
            assert_eq!((router.sent(WAN).len(), router.drops()), (0, vec![]));
            become_master(&mut router);
            router.ports[LAN].send(&frame(2, LAN, &out(3)));
            router.run();
            let sent = router.sent(WAN);
            assert_eq!((sent.len(), router.drops()), (4, vec![]), "{v6} {kind:?}");
            let mut far = Router::new(Net::new(1).stacks(Stack::Shared).with(tunnel(1, v6, kind)));
            far.forget();
            sent.iter().for_each(|sent| far.receive(WAN, &frame(1, WAN, &sent[LINK..])));
            let wanted: Vec<_> = (0..4).map(|n| hop(&hop(&out(n)))).collect();
            let arrived: Vec<_> = far.sent(LAN).iter().map(|frame| frame[LINK..].to_vec()).collect();
            assert_eq!(arrived, wanted);
        }
    }
}

/// Whatever has its tunnel's number by then: a packet goes into no other.
#[test]
fn what_is_to_go_into_a_tunnel_goes_into_no_other() {
    let kind = (Some(Mode::Transport), false);
    let mut router = backup(false, kind, false);
    router.packet(LAN, &inner_back(1));
    let other = Wrap { remote: [192, 0, 2, 77].into(), routes: Vec::new(), ..Wrap::new(2, false) };
    become_master(&mut router);
    router.net.tunnels.insert(0, Wrap { inner: Vec::new(), ..other });
    router.publish();
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::Backup, 1)]));
}

/// A packet from behind router 2 to behind router 1.
fn inner_back(seed: u8) -> Vec<u8> {
    let there = inner(false, 100, 0, seed);
    let turned = [&there[..12], &there[16..20], &there[12..16], &there[20..]].concat();
    assert_eq!(turned.len(), there.len());
    turned
}

/// A backup is a router: what comes to it for the master goes on to that one, as soon as it is found.
#[test]
fn the_master_is_looked_for() {
    for v6 in [false, true] {
        for kind in KINDS {
            let frames = sent(v6, kind, false, 0..3);
            let mut router = backup(v6, kind, false);
            frames[..2].iter().for_each(|frame| router.receive(WAN, frame));
            let asked = Event::Resolve { port: WAN as u16, address: end(2, v6) };
            assert_eq!(router.events(), [asked], "once");
            let there = mac(9, WAN);
            router.net.neighbours.push(NeighbourSpec { port: WAN, address: end(2, v6), mac: there });
            router.publish();
            router.receive(WAN, &frames[2]);
            let sent = router.sent(WAN);
            let wanted: Vec<_> = frames.iter().map(|frame| hop(&frame[LINK..])).collect();
            assert_eq!(sent.iter().map(|frame| frame[LINK..].to_vec()).collect::<Vec<_>>(), wanted);
            assert!(sent.iter().all(|frame| frame[..6] == there.0));
            assert_eq!((router.drops(), router.events()), (vec![], vec![]));
        }
    }
}

/// What is sent to all routers of the group is nobody's to forward.
#[test]
fn frames_to_the_shared_address_are_not_forwarded() {
    let kind = (Some(Mode::Transport), false);
    let mut router = backup(false, kind, false);
    let (address, mac) = (end(2, false), mac(9, WAN));
    router.net.neighbours.push(NeighbourSpec { port: WAN, address, mac });
    router.publish();
    sent(false, kind, true, 0..2).iter().for_each(|frame| router.receive(WAN, frame));
    router.wait(PATIENCE);
    assert_eq!((router.sent(WAN), router.drops()), (vec![], vec![(Reason::Backup, 2)]));
    assert_eq!(router.events(), []);
}

/// They do not wait for ever, nor do more of them than there is room for, whichever way they go; and IKE never does.
#[test]
fn a_router_that_stays_backup_drops_them() {
    let kind = (Some(Mode::Transport), true);
    let frames = sent(false, kind, false, 0..1);
    for keeps in [false, true] {
        let mut router = backup(false, kind, keeps);
        for _ in 0..PACKETS {
            router.receive(WAN, &frames[0]);
            router.packet(LAN, &inner_back(1));
        }
        assert_eq!(router.drops(), [(Reason::Backup, PACKETS as u64)], "{keeps}");
        let worker = router.worker.counters().dropped(Reason::Backup);
        assert!(worker >= PACKETS as u64 - 1, "the thread is not troubled with them: {worker}");
        router.wait(PATIENCE);
        assert_eq!(router.drops(), [(Reason::Backup, 2 * PACKETS as u64)]);
        router.packet(LAN, &inner_back(1));
        assert_eq!(router.drops(), [(Reason::Backup, 2 * PACKETS as u64)], "there is room again");
        let mut ike = frames[0].clone();
        ike[LINK + 28..LINK + 32].fill(0);
        router.events();
        router.receive(WAN, &ike);
        let ports = (router.host.frames().len(), router.events().len());
        assert_eq!(ports, if keeps { (1, 0) } else { (0, 1) }, "the host's, or any station's");
    }
}

/// Of an address that its master has on the link, all is taken as of its own: nothing is left to the host but what is the host's.
#[test]
fn what_is_sent_to_a_master_s_address_is_as_to_its_own() {
    let mac = |group| MacAddr([0, 0, 0x5e, 0, 1, group]);
    let to = |group, frame: &[u8]| [&mac(group).0[..], &frame[6..]].concat();
    let out = |group, n| to(group, &frame(2, LAN, &inner_back(n)));
    let inward = sent(false, KINDS[0], false, 0..3);
    let mut net = Net::new(2).stacks(Stack::Shared).with(tunnel(2, false, KINDS[0]));
    (net.ports[LAN].shared, net.ports[WAN].shared) = (vec![mac(7), mac(8)], vec![mac(9)]);
    let mut router = Router::new(net);
    router.forget();
    (7..10).zip(1..).for_each(|(group, n)| router.receive(LAN, &out(group, n)));
    assert_eq!((router.sent(WAN).len(), router.host.frames()), (2, vec![out(9, 3)]), "another's, it may be");
    router.receive(WAN, &to(9, &inward[0]));
    let ike =
        to(9, &frame(2, WAN, &ip(end(1, false), end(2, false), 17, 0, 64, &[1, 0xf4, 1, 0xf4, 0, 8, 0, 0])));
    router.receive(WAN, &ike);
    assert_eq!((router.sent(LAN).len(), router.host.frames()), (1, vec![ike]));
    let arp = to(7, &[&[0; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 6], &[0; 28]].concat());
    router.receive(LAN, &arp);
    assert_eq!((router.host.frames(), router.drops()), (vec![arp], vec![]));
}

/// A LAN's hosts send to the address that the routers share. Where the kernel takes its own before the port does (AF_XDP), there is no host
/// that it could be left to: it goes into the tunnel.
#[test]
fn what_a_host_sends_to_the_shared_address_goes_into_the_tunnel() {
    let to_shared = |n| [&SHARED_MAC[..], &frame(1, LAN, &inner(false, 100, 0, n))[6..]].concat();
    for (stack, carried) in [(Stack::Kernel, 1), (Stack::Shared, 0)] {
        let mut router = Router::new(Net::new(1).stacks(stack).with(tunnel(1, false, KINDS[0])));
        router.forget();
        router.receive(LAN, &to_shared(1));
        assert_eq!((router.sent(WAN).len(), router.host.frames().len()), (carried, 1 - carried));
        assert_eq!(router.drops(), []);
    }
}
