//! Packets that come by an SA before the tables know it.

use std::net::IpAddr;

use culvert_engine::drops::Reason;
use culvert_engine::esp::Mode;
use culvert_engine::exception::early::{PACKETS, PATIENCE, TOTAL};
use culvert_engine::exception::thread::Event;
use culvert_engine::tables::Stack;

use crate::lab::{LAN, LINK, WAN, delivered, end, frame, inner, ip, lan_v4};
use crate::packets::udp_packet;
use crate::router::{Net, Router, Wrap};

/// The tunnel between the two routers as router `number` has it, its keys negotiated.
fn tunnel(number: u8, v6: bool, (mode, udp): (Mode, bool)) -> Wrap {
    Wrap { negotiated: true, ..Wrap::new(number, v6).protected(number, mode, udp) }
}

/// Router 2, which does not know yet what SA router 1 sends by.
fn unknowing(v6: bool, kind: (Mode, bool)) -> Router {
    let mut router =
        Router::new(Net::new(2).stacks(Stack::Shared).with(Wrap { late: true, ..tunnel(2, v6, kind) }));
    router.forget();
    router
}

/// The news of it comes.
fn learn(router: &mut Router) {
    router.net.tunnels.iter_mut().for_each(|tunnel| tunnel.late = false);
    router.store();
}

/// The frames that router 1 makes of packets with these numbers, as router 2 receives them.
fn sealed(v6: bool, kind: (Mode, bool), numbers: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    let mut sender = Router::new(Net::new(1).stacks(Stack::Shared).with(tunnel(1, v6, kind)));
    sender.forget();
    numbers.clone().for_each(|n| sender.packet(LAN, &inner(false, 100, 0, n)));
    let sent = sender.sent(WAN);
    assert_eq!((sent.len(), sender.drops()), (numbers.len(), vec![]));
    sent.iter().map(|sent| frame(2, WAN, &sent[LINK..])).collect()
}

/// ESP by an SA that nobody knows.
fn forged(spi: u32, from: IpAddr) -> Vec<u8> {
    frame(2, WAN, &ip(from, end(2, from.is_ipv6()), 50, 0, 64, &[&spi.to_be_bytes()[..], &[7; 60]].concat()))
}

/// RFC 7296 section 2.8: the responder may send by a new SA as soon as it has answered, and its packets may be here first. What comes before
/// the news goes on in the order in which it came, and before what comes later: those that wait, one that is on its way to the
/// thread, one that the worker sees with the new tables.
#[test]
fn packets_that_come_before_their_sa_wait_for_it() {
    for v6 in [false, true] {
        for kind in [(Mode::Transport, false), (Mode::Tunnel, false), (Mode::Transport, true)] {
            let frames = sealed(v6, kind, 0..5);
            let mut router = unknowing(v6, kind);
            frames[..3].iter().for_each(|frame| router.receive(WAN, frame));
            router.wait(PATIENCE - 1);
            router.ports[WAN].send(&frames[3]);
            router.worker.round();
            assert_eq!(router.sent(LAN).len(), 0);
            learn(&mut router);
            router.ports[WAN].send(&frames[4]);
            assert_eq!(router.worker.round(), 0, "nothing is taken in");
            router.exceptions.turn(router.now);
            router.run();
            let wanted: Vec<_> = (0..5).map(|n| delivered(inner(false, 100, 0, n))).collect();
            assert_eq!(router.sent(LAN), wanted, "{v6} {kind:?}");
            assert_eq!(router.drops(), []);
        }
    }
}

/// Of a SA that does not come they are dropped, and counted as what they are.
#[test]
fn they_do_not_wait_for_ever() {
    let kind = (Mode::Transport, false);
    let frames = sealed(false, kind, 0..3);
    let mut router = unknowing(false, kind);
    frames[..2].iter().for_each(|frame| router.receive(WAN, frame));
    assert_eq!(router.drops(), []);
    router.wait(PATIENCE);
    assert_eq!(router.drops(), [(Reason::EspUnknownSpi, 2)]);
    learn(&mut router);
    router.receive(WAN, &frames[2]);
    assert_eq!(router.sent(LAN), [delivered(inner(false, 100, 0, 2))]);
    assert_eq!(router.drops(), [(Reason::EspUnknownSpi, 2)]);
}

/// Fixed keys do not change, and strangers have none: their packets do not wait.
#[test]
fn others_are_dropped_at_once() {
    let kind = (Mode::Transport, false);
    let fixed = Wrap { negotiated: false, late: true, ..tunnel(2, false, kind) };
    let mut router = Router::new(Net::new(2).stacks(Stack::Shared).with(fixed));
    router.receive(WAN, &forged(1, end(1, false)));
    let mut negotiated = unknowing(false, kind);
    negotiated.receive(WAN, &forged(1, [192, 0, 2, 77].into()));
    for router in [router, negotiated] {
        assert_eq!(router.drops(), [(Reason::EspUnknownSpi, 1)]);
        assert_eq!(router.exceptions.next_due(), None);
    }
}

/// Who sends with SPIs that do not exist in the name of far ends takes no room from another far end.
#[test]
fn a_flood_hurts_no_other_tunnel() {
    let kind = (Mode::Transport, false);
    let frames = sealed(false, kind, 0..8);
    let mut router = unknowing(false, kind);
    let far = |n: u8| IpAddr::from([198, 51, 100, n]);
    let flooded = (TOTAL / PACKETS) as u8 + 1;
    router.net.tunnels.extend((0..flooded).map(|n| {
        let (routes, inner) = (Vec::new(), Vec::new());
        Wrap { remote: far(n), routes, inner, late: true, ..tunnel(2, false, kind) }
    }));
    router.publish();
    let mut sent = 0;
    let mut flood = |router: &mut Router, rounds: usize| {
        for _ in 0..rounds {
            for n in 0..flooded {
                sent += 1;
                router.ports[WAN].send(&forged(0x8000_0000 + sent, far(n)));
            }
            router.run();
        }
        u64::from(sent) - router.dropped(Reason::EspUnknownSpi)
    };
    assert_eq!(flood(&mut router, 2 * PACKETS), TOTAL as u64, "as many wait as may");
    frames[..7].iter().for_each(|frame| router.receive(WAN, frame));
    flood(&mut router, 4);
    router.net.tunnels.first_mut().expect("the first").late = false;
    router.publish();
    router.receive(WAN, &frames[7]);
    let wanted: Vec<_> = (0..8).map(|n| delivered(inner(false, 100, 0, n))).collect();
    assert_eq!(router.sent(LAN), wanted);
    flood(&mut router, 2 * PACKETS);
    // When it has ended, there is room again between the ends that it was for.
    router.wait(PATIENCE);
    let before = router.dropped(Reason::EspUnknownSpi);
    router.receive(WAN, &forged(1, far(0)));
    assert_eq!(router.dropped(Reason::EspUnknownSpi), before);
}

/// Nor from packets that are the exception thread's for other reasons, however long that takes to look at them.
#[test]
fn a_flood_hurts_no_other_exception() {
    let mut router = unknowing(false, (Mode::Transport, false));
    while router.dropped(Reason::EspUnknownSpi) == 0 {
        router.ports[WAN].send(&forged(1, end(1, false)));
        router.worker.round();
    }
    let target = IpAddr::from([192, 0, 2, 77]);
    router.packet(LAN, &udp_packet(lan_v4(2, 2).into(), target, 100, 1));
    assert_eq!(router.events(), [Event::Resolve { port: WAN as u16, address: target }]);
}
