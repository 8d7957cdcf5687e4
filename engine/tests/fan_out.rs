//! One SA on several cores: whatever comes in, several workers make of it what one makes, byte for byte and in the same order.
//!
//! 1. Bursts are made up: good packets, lost ones, neighbours swapped, copies near and far, forged, cut and random ones.
//! 2. A router with one worker takes them: what it sends and drops is what is wanted.
//! 3. A router with several, each on a thread, takes the same bursts by one queue of one worker.

mod lab;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use culvert_engine::counters::Copying;
use culvert_engine::drops::Reason;
use culvert_engine::esp::{Mode, Suite};
use culvert_engine::gre::{Options, Payload};
use lab::several::{Several, drops};
use lab::{LAN, LINK, PLAIN, Plan, Side, WAN, fix_checksum, frame, inner};

/// Frames of a burst, at most: they fit a ring.
const BURST: usize = 500;
const BURSTS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(20);

/// A small xorshift generator: what it gives need not be random, only various, and the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }

    /// True once in `of` times.
    fn once_in(&mut self, of: usize) -> bool {
        self.next().is_multiple_of(of)
    }
}

/// Lets bursts in by port `from` of worker `arrival`. For each, what came out of the other port, once as many frames as
/// `wanted` says have; and the number of packets that workers did for others, in all.
fn run(
    router: &mut Several,
    bursts: &[Vec<Vec<u8>>],
    wanted: &[Vec<Vec<u8>>],
    (from, arrival): (usize, usize),
) -> (Vec<Vec<Vec<u8>>>, u64) {
    let (open, stop, helped) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let still = Barrier::new(router.workers.len() + 1);
    let before: u64 = router.received();
    let far = &mut router.far;
    let out = thread::scope(|scope| {
        for worker in &mut router.workers {
            let (open, stop, helped, still) = (&open, &stop, &helped, &still);
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    still.wait();
                    while open.load(Ordering::Acquire) {
                        helped.fetch_add(worker.round() as u64, Ordering::Relaxed);
                        thread::yield_now();
                    }
                    still.wait();
                }
            });
        }
        let mut out = Vec::new();
        for (number, (burst, wanted)) in bursts.iter().zip(wanted).enumerate() {
            burst.iter().for_each(|frame| far[arrival][from].send(frame));
            open.store(true, Ordering::Release);
            still.wait();
            let end = Instant::now() + DEADLINE;
            let mut got = Vec::new();
            // Some rounds more: there might be one too many.
            let mut more = 20;
            while more > 0 && Instant::now() < end {
                // What waits for room on the wire.
                far[arrival][from].flush();
                far.iter_mut().for_each(|far| got.extend(far[1 - from].frames()));
                more -= u32::from(got.len() >= wanted.len());
                thread::sleep(Duration::from_micros(200));
            }
            out.push(got);
            stop.store(number + 1 == bursts.len(), Ordering::Release);
            open.store(false, Ordering::Release);
            still.wait();
        }
        out
    });
    // What rounds return is what was received and what was done for others.
    let handed = router.received() - before;
    (out, helped.into_inner().saturating_sub(handed))
}

/// Inner packets for router 1's LAN, burst by burst.
fn outbound_bursts(side: &Side, noise: &mut Noise) -> Vec<Vec<Vec<u8>>> {
    let packet = |noise: &mut Noise| {
        let v6 = noise.once_in(3);
        let len = 40 + noise.next() % (side.tunnel_mtu - 39);
        frame(1, LAN, &inner(v6, len, 2, noise.next() as u8))
    };
    (0..BURSTS).map(|_| (0..BURST).map(|_| packet(noise)).collect()).collect()
}

/// Frames for router 2's WAN, made of what router 1 sends.
fn inbound_bursts(plan: &Plan, noise: &mut Noise) -> Vec<Vec<Vec<u8>>> {
    let mut a = Side::new(plan, 1);
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let bursts = (0..BURSTS).map(|_| {
        let mut burst: Vec<Vec<u8>> = Vec::new();
        while burst.len() < BURST {
            let len = 40 + noise.next() % (a.tunnel_mtu - 39);
            a.lan.send(&frame(1, LAN, &inner(noise.once_in(3), len, 2, noise.next() as u8)));
            a.run();
            let packet = a.wan.frames().remove(0);
            sent.push(packet.clone());
            if noise.once_in(20) {
                continue; // lost
            }
            burst.push(packet.clone());
            if noise.once_in(6) && burst.len() > 1 {
                let back = 1 + noise.next() % burst.len().min(40);
                let (one, other) = (burst.len() - back, burst.len() - 1);
                burst.swap(one, other);
            }
            if noise.once_in(8) {
                let back = 1 + noise.next() % sent.len().min(200);
                burst.push(sent[sent.len() - back].clone());
            }
            if noise.once_in(8) {
                // Forged, and before the genuine one as often as behind it.
                let mut spoilt = packet.clone();
                let at = 34 + noise.next() % (spoilt.len() - 34);
                spoilt[at] ^= 1 << (noise.next() % 8);
                let place = burst.len() - noise.next() % 2;
                burst.insert(place, spoilt);
            }
            if noise.once_in(20) {
                burst.push(packet[..noise.next() % packet.len()].to_vec());
            }
        }
        burst.truncate(BURST);
        burst
    });
    bursts.collect()
}

const CHECKED: Options = Options { key: Some(7), checksum: true, sequence: true, payload: Payload::Ip };

fn plans() -> Vec<Plan> {
    let plan = Plan::new(Some(Suite::Aes128Gcm16));
    vec![
        plan,
        Plan { mode: Mode::Tunnel, esn: false, gre: CHECKED, ..Plan::new(Some(Suite::ChaCha20Poly1305)) },
        // The numbers pass 2^32 in the middle of the first burst; datagrams need a checksum.
        Plan { udp: true, v6: true, first: (1 << 32) - 200, ..plan },
        Plan { offsets: (false, false), gre: PLAIN, ..Plan::new(Some(Suite::Aes256Gcm16)) },
    ]
}

/// Tries `test` with workers and the one of them that receives. Some worker must have helped, if only this machine had time for it.
fn with_workers(test: impl Fn(usize, usize) -> u64) {
    for workers in [2, 3] {
        let end = Instant::now() + DEADLINE;
        let mut helped = 0;
        loop {
            helped += (0..workers).map(|arrival| test(workers, arrival)).sum::<u64>();
            if helped > 0 || Instant::now() > end {
                break;
            }
        }
        assert!(helped > 0, "nobody helped, {workers} workers");
    }
}

/// Had the system stopped a worker for so long that it was not waited for? Such a run says nothing.
fn is_late(router: &Several) -> bool {
    router.drops().iter().any(|(reason, _)| *reason == Reason::HandoverLate)
}

/// On the way out: numbers leave in their order, and every byte is what one worker makes.
#[test]
fn several_workers_seal_as_one() {
    for plan in plans() {
        let mut alone = Side::new(&plan, 1);
        let bursts = outbound_bursts(&alone, &mut Noise(0x9e37_79b9_7f4a_7c15));
        let wanted: Vec<Vec<Vec<u8>>> = bursts
            .iter()
            .map(|burst| {
                let mut sent = Vec::new();
                for packet in burst {
                    alone.lan.send(packet);
                    alone.run();
                    sent.extend(alone.wan.frames());
                }
                sent
            })
            .collect();
        assert_eq!(wanted.iter().map(Vec::len).sum::<usize>(), BURSTS * BURST);
        with_workers(|workers, arrival| {
            let mut router = Several::new(&plan, 1, workers);
            let (out, helped) = run(&mut router, &bursts, &wanted, (LAN, arrival));
            if is_late(&router) {
                return 0;
            }
            assert_eq!(router.drops(), []);
            assert!(out == wanted, "{workers} workers, {arrival} receives, {plan:?}");
            // Nothing is copied but what has no room for headers, once.
            let without_room = if plan.offsets.0 { 0 } else { (BURSTS * BURST) as u64 };
            for kind in Copying::ALL {
                let copied: u64 = router.counters.iter().map(|counters| counters.copied(kind).0).sum();
                let wanted = if kind == Copying::Headroom { without_room } else { 0 };
                assert_eq!(copied, wanted, "{}, {plan:?}", kind.name());
            }
            helped
        });
    }
}

/// On the way in: whatever is lost, repeated, swapped, forged or cut, the same packets come out, in the same order, the window
/// ends where it must, and all frames are accounted for.
#[test]
fn several_workers_open_as_one() {
    for plan in plans() {
        let bursts = inbound_bursts(&plan, &mut Noise(0x0123_4567_89ab_cdef));
        let mut alone = Side::new(&plan, 2);
        let wanted: Vec<Vec<Vec<u8>>> = bursts
            .iter()
            .map(|burst| {
                let mut sent = Vec::new();
                for packet in burst {
                    alone.wan.send(packet);
                    alone.run();
                    sent.extend(alone.lan.frames());
                }
                sent
            })
            .collect();
        let highest = alone.inbound.as_ref().expect("an SA").window().highest();
        let wanted_drops = drops(|reason| alone.dropped(reason));
        assert!(wanted_drops.iter().any(|(reason, count)| *reason == Reason::EspAuth && *count > 100));
        with_workers(|workers, arrival| {
            let mut router = Several::new(&plan, 2, workers);
            let (out, helped) = run(&mut router, &bursts, &wanted, (WAN, arrival));
            if is_late(&router) {
                return 0;
            }
            let what = format!("{workers} workers, {arrival} receives, {plan:?}");
            assert_eq!(router.drops(), wanted_drops, "{what}");
            assert!(out == wanted, "{what}");
            assert_eq!(router.inbound.window().highest(), highest, "{what}");
            let [received, sent, host, dropped] = router.account();
            assert_eq!(received, sent + host + dropped, "{what}");
            if plan.offsets == (true, true) {
                // The host's rings have no headroom.
                let copied =
                    |kind| router.counters.iter().map(move |counters| counters.copied(kind).0).sum::<u64>();
                assert_eq!(Copying::ALL.map(copied), [host, 0, 0, 0, 0, 0], "{what}");
            }
            helped
        });
    }
}

/// A datagram may end before the packet that carries it: what is behind it is nobody's. Whoever hands such a packet over leaves it
/// whole.
#[test]
fn what_follows_a_datagram_is_handed_over_with_it() {
    let plan = Plan { udp: true, ..Plan::new(Some(Suite::Aes128Gcm16)) };
    let (mut a, mut alone) = (Side::new(&plan, 1), Side::new(&plan, 2));
    a.lan.send(&frame(1, LAN, &inner(false, 100, 0, 1)));
    a.run();
    let mut packet = a.wan.frames().remove(0);
    packet.extend([7; 12]);
    let length = (packet.len() - LINK) as u16;
    packet[LINK + 2..LINK + 4].copy_from_slice(&length.to_be_bytes());
    fix_checksum(&mut packet[LINK..]);
    alone.wan.send(&packet);
    alone.run();
    let wanted = alone.lan.frames();
    assert_eq!(wanted.len(), 1);
    for arrival in 0..2 {
        let mut router = Several::new(&plan, 2, 2);
        router.far[arrival][WAN].send(&packet);
        for _ in 0..2 {
            router.workers.iter_mut().for_each(|worker| _ = worker.round());
        }
        let got: Vec<_> = router.far.iter_mut().flat_map(|far| far[LAN].frames()).collect();
        assert_eq!((got, router.drops()), (wanted.clone(), vec![]), "{arrival} receives");
    }
}

/// A worker for which a port has no queue sends by another's: in order, as much as there is room for, and what finds none is
/// counted once.
#[test]
fn a_borrowed_queue_sends_all_that_it_takes() {
    const COUNT: usize = 400;
    let plan = Plan::new(Some(Suite::Aes128Gcm16));
    let mut alone = Side::new(&plan, 1);
    let packets = outbound_bursts(&alone, &mut Noise(7)).concat();
    let wanted: Vec<Vec<u8>> = packets
        .iter()
        .take(COUNT)
        .flat_map(|packet| {
            alone.lan.send(packet);
            alone.run();
            alone.wan.frames()
        })
        .collect();
    let mut router = Several::with_borrowed_wan(&plan, 1);
    for packet in packets.iter().take(COUNT) {
        router.far[1][LAN].send(packet);
    }
    let mut got = Vec::new();
    for _ in 0..40 {
        router.far[1][LAN].flush();
        assert!(router.workers[1].round() == 0 || router.workers[1].waits_for_peer(0));
        router.workers[0].round();
        got.extend(router.far[0][WAN].frames());
    }
    assert!(got == wanted && got.len() == COUNT);
    assert_eq!((router.account(), router.drops()), ([COUNT as u64, COUNT as u64, 0, 0], vec![]));

    // Nobody takes what is sent: rings fill up, one behind the other.
    let mut sent = 0;
    for packet in packets.iter().cycle().take(6000) {
        router.far[1][LAN].send(packet);
        router.workers.iter_mut().rev().for_each(|worker| _ = worker.round());
        sent += 1;
    }
    for _ in 0..400 {
        router.workers.iter_mut().rev().for_each(|worker| _ = worker.round());
        got.extend(router.far[0][WAN].frames());
    }
    let [received, transmitted, _, dropped] = router.account();
    assert_eq!(received, (COUNT + sent) as u64);
    assert_eq!(received, transmitted + dropped);
    assert_eq!(got.len() as u64, transmitted);
    assert!(dropped > 1000 && router.drops() == [(Reason::TxFull, dropped)]);
}
