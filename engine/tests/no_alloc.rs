//! The packet path does not allocate, on any input. Steps:
//! 1. the system's allocator is wrapped in one that counts, thread by thread;
//! 2. two routers are warmed up: whatever is made once is made then;
//! 3. thousands of good, spoilt, repeated, cut and random frames go through, and each turn must have counted nothing.
#![allow(unsafe_code)] // an allocator can be written in no other way

mod lab;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use culvert_engine::drops::Reason;
use culvert_engine::esp::Suite;
use culvert_engine::gre::{Options, Payload};
use culvert_engine::trace::{Program, Target};
use lab::several::Several;
use lab::{LAN, PLAIN, Plan, Side, WAN, end, fix_checksum, frame, inner, ip};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's own, with the same arguments; counting touches a `Cell` alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread has allocated, given back or resized until now.
fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// As [`Side::run`]; the allocations made in its turns.
fn run(side: &mut Side) -> u64 {
    let before = allocations();
    side.run();
    allocations() - before
}

#[test]
fn the_count_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(allocations() - before, 2, "one allocation, given back");
}

/// A small xorshift generator: what it gives need not be random, only various, and the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }
}

const ROUNDS: usize = 150;
const PER_ROUND: usize = 20;

fn traffic(plan: &Plan) {
    between(plan, Side::new(plan, 1), Side::new(plan, 2));
}

fn between(plan: &Plan, mut a: Side, mut b: Side) {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut in_turns, mut frames, mut delivered) = (0, 0, 0);
    for round in 0..ROUNDS {
        for n in 0..PER_ROUND {
            let v6 = n % 2 == 1;
            a.lan.send(&frame(1, LAN, &inner(v6, 40 + noise.next() % (a.tunnel_mtu - 39), 2, n as u8)));
        }
        let mut counted = run(&mut a);
        let outer = a.wan.frames();
        assert_eq!(outer.len(), PER_ROUND);
        for packet in &outer {
            let mut spoilt = packet.clone();
            let at = noise.next() % spoilt.len();
            spoilt[at] ^= 1 << (noise.next() % 8);
            b.wan.send(&spoilt);
            b.wan.send(&packet[..noise.next() % packet.len()]);
            b.wan.send(packet);
            b.wan.send(packet);
        }
        counted += run(&mut b);
        let junk: Vec<u8> = (0..noise.next() % 400).map(|_| noise.next() as u8).collect();
        b.wan.send(&junk);
        b.wan.send(&frame(2, WAN, &junk));
        b.wan.send(&frame(2, WAN, &ip(end(1, plan.v6), end(2, plan.v6), 6, 0, 64, &junk)));
        b.lan.send(&frame(2, LAN, &junk));
        b.lan.send(&frame(2, LAN, &inner(false, 100, 0, 0)));
        counted += run(&mut b);
        delivered += b.lan.frames().len();
        b.host.frames();
        b.wan.frames();
        frames += PER_ROUND * 5 + 5;
        // The first round warms up.
        if round > 0 {
            in_turns += counted;
        }
    }
    assert_eq!(in_turns, 0, "allocations in the turns of {frames} frames, {plan:?}");
    assert!(frames >= 10_000);
    // All good packets arrived, or a copy of each that was spoilt where nothing protects it; the rest was dropped.
    assert!(delivered >= ROUNDS * PER_ROUND, "{delivered} delivered, {:?}", b.drops());
    let [rx, tx, host, drops] = b.account();
    assert_eq!(rx, tx + host + drops);
    assert!(host >= ROUNDS as u64, "{host} to the host");
    let wanted: &[Reason] = match plan.suite {
        Some(_) => &[Reason::EspAuth, Reason::EspReplay, Reason::IpMalformed],
        None if plan.udp && plan.v6 => &[Reason::GreSequence, Reason::UdpChecksum, Reason::IpMalformed],
        None => &[Reason::GreSequence, Reason::GreChecksum, Reason::IpMalformed],
    };
    for reason in wanted {
        assert!(b.dropped(*reason) > 0, "no {} among {:?}", reason.name(), b.drops());
    }
}

const CHECKED: Options = Options { key: Some(7), checksum: true, sequence: true, payload: Payload::Ip };

#[test]
fn plain_gre_does_not_allocate() {
    for offsets in [(true, true), (false, false)] {
        traffic(&Plan { gre: CHECKED, offsets, ..Plan::new(None) });
    }
}

#[test]
fn esp_does_not_allocate() {
    for suite in Suite::ALL {
        traffic(&Plan { gre: PLAIN, ..Plan::new(Some(suite)) });
    }
}

#[test]
fn gre_in_udp_does_not_allocate() {
    for v6 in [false, true] {
        traffic(&Plan { udp: true, v6, gre: CHECKED, ..Plan::new(None) });
    }
}

#[test]
fn esp_in_udp_without_offsets_does_not_allocate() {
    for v6 in [false, true] {
        traffic(&Plan { udp: true, v6, offsets: (false, false), ..Plan::new(Some(Suite::Aes128Gcm16)) });
    }
}

/// Traces and captures of every kind, read or not: when their records are used up, packets go on without them.
#[test]
fn taps_do_not_allocate() {
    for plan in [
        Plan { gre: CHECKED, ..Plan::new(None) },
        Plan { gre: CHECKED, ..Plan::new(Some(Suite::Aes128Gcm16)) },
        Plan { udp: true, offsets: (false, false), ..Plan::new(Some(Suite::Aes128Gcm16)) },
    ] {
        let (a, b) = (Side::new(&plan, 1), Side::new(&plan, 2));
        let ways = [&a, &b].map(|side| side.taps.trace(Program::default(), u64::MAX).expect("room"));
        let targets =
            [Target::Port(LAN as u32), Target::Port(WAN as u32), Target::Outer(0), Target::Inner(0)];
        let open = |side: &Side| {
            targets.map(|target| side.taps.capture(target, Program::default(), u64::MAX, 2048).expect("room"))
        };
        let mut captures = [open(&a), open(&b)];
        between(&plan, a, b);
        let lost: Vec<u64> = ways.into_iter().map(|mut ways| ways.read(|_| ())).collect();
        assert!(lost.iter().all(|lost| *lost > 0), "the lanes were full: {lost:?}");
        let mut frames = 0;
        for capture in captures.iter_mut().flatten() {
            capture.read(|_| frames += 1);
        }
        assert!(frames > 1000, "{frames} captured");
    }
}

/// Neither does putting packets aside for other workers, doing their work, taking them back, or a hand-over before that.
#[test]
fn fan_out_does_not_allocate() {
    let plan = Plan::new(Some(Suite::Aes128Gcm16));
    let (mut a, mut b) = (Several::new(&plan, 1, 2), Several::new(&plan, 2, 2));
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut in_rounds, mut delivered, mut aside) = (0, 0, 0);
    for round in 0..40 {
        let arrival = round % 2;
        for n in 0..120 {
            a.far[arrival][LAN].send(&frame(
                1,
                LAN,
                &inner(n % 2 == 1, 60 + noise.next() % 1300, 2, n as u8),
            ));
        }
        let (mut counted, sealed_aside) = rounds(&mut a, arrival, LAN);
        let outer: Vec<Vec<u8>> = a.far.iter_mut().flat_map(|far| far[WAN].frames()).collect();
        assert_eq!(outer.len(), 120);
        for packet in &outer {
            b.far[arrival][WAN].send(packet);
            if noise.next().is_multiple_of(5) {
                let mut spoilt = packet.clone();
                let at = noise.next() % spoilt.len();
                spoilt[at] ^= 1;
                b.far[arrival][WAN].send(&spoilt);
            }
        }
        let (more, opened_aside) = rounds(&mut b, arrival, WAN);
        counted += more;
        aside += u32::from(sealed_aside && opened_aside);
        delivered += b.far.iter_mut().map(|far| far[LAN].frames().len()).sum::<usize>();
        if round > 1 {
            in_rounds += counted;
        }
    }
    assert_eq!(in_rounds, 0);
    assert_eq!(delivered, 40 * 120);
    // Alone is tried too.
    assert!(aside > 10, "in {aside} rounds of 40 something was put aside both ways");
}

/// Runs the workers in turn, as threads would, until nothing is left to do. The allocations made meanwhile, and whether anything
/// was put aside.
fn rounds(router: &mut Several, arrival: usize, from: usize) -> (u64, bool) {
    let before = allocations();
    let (mut idle, mut aside) = (0, false);
    while idle < 4 {
        router.far[arrival][from].flush();
        let done: usize = router.workers.iter_mut().map(|worker| worker.round()).sum();
        let waits = router.workers.iter().any(|worker| worker.waits_for_help());
        aside |= waits;
        idle = if done > 0 || waits { 0 } else { idle + 1 };
    }
    (allocations() - before, aside)
}

/// The segment size of a SYN is lowered on the path, so this must not allocate either, whatever the bytes are.
#[test]
fn clamping_does_not_allocate() {
    let (src, dst) = (end(1, false), end(2, false));
    let segment =
        [&[4, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2][..], &[0; 6], &[2, 4, 0x05, 0xb4]].concat();
    let syn = ip(src, dst, 6, 0, 64, &segment);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut clamped, mut counted) = (0, 0);
    for round in 0..10_000 {
        let mut packet = syn.clone();
        if round % 2 == 1 {
            let at = noise.next() % packet.len();
            packet[at] ^= 1 << (noise.next() % 8);
            fix_checksum(&mut packet);
        }
        let before = allocations();
        clamped += u32::from(culvert_engine::mss::clamp(&mut packet, 1400));
        counted += allocations() - before;
    }
    assert_eq!(counted, 0);
    assert!((5000..10_000).contains(&clamped), "{clamped} clamped");
}
