//! Frames of any content through a router with a tunnel of each kind (IPv4 and IPv6, plain and with ESP in both modes, in
//! UDP, with GRE's options, with Ethernet inside): nothing panics, every frame is accounted for, and the router goes on:
//! what its twin sends afterwards still arrives.
//!
//! The first octet picks the tunnel. What follows are steps, each an octet that says what, two for a length, and bytes:
//! 0. a frame from the WAN, 1. one from the LAN;
//! 2. the payload of an outer packet from the far end, behind its protocol number;
//! 3. octets (place, bits) that a genuine outer frame is changed in;
//! 4. an inner packet, or frame, that the twin sends through the tunnel;
//! 5. a plaintext that the far end seals by itself, behind a next header and an octet of padding.
#![no_main]

#[path = "../../../engine/tests/lab/mod.rs"]
mod lab;

use std::cell::RefCell;

use culvert_engine::esp::{Mode, Suite, cipher, seal};
use culvert_engine::gre::{Options, Payload};
use lab::{LAN, PLAIN, Plan, Side, WAN, delivered, end, frame, inner, ip};
use libfuzzer_sys::fuzz_target;

/// Steps in one input: fewer frames than a wire holds.
const STEPS: usize = 40;
/// The longest content of a step: with all headers, and the longest padding, it fits a buffer.
const LONGEST: usize = 1400;

const KEY: Options = Options { key: Some(42), ..PLAIN };
const CHECKED: Options = Options { checksum: true, ..KEY };
const ORDERED: Options = Options { sequence: true, ..CHECKED };
const BRIDGED: Options = Options { payload: Payload::Ethernet, ..PLAIN };

fn plans() -> Vec<Plan> {
    let plain = Plan::new(None);
    let esp = Plan::new(Some(Suite::Aes128Gcm16));
    let chacha = Plan::new(Some(Suite::ChaCha20Poly1305));
    vec![
        plain,
        Plan { gre: CHECKED, ..plain },
        Plan { gre: ORDERED, v6: true, ..plain },
        Plan { v6: true, ..plain },
        Plan { gre: BRIDGED, ..plain },
        esp,
        Plan { mode: Mode::Tunnel, gre: KEY, ..chacha },
        Plan { v6: true, gre: CHECKED, ..esp },
        Plan { v6: true, mode: Mode::Tunnel, esn: false, ..esp },
        Plan { udp: true, gre: KEY, ..esp },
        Plan { udp: true, v6: true, mode: Mode::Tunnel, ..esp },
        Plan { gre: BRIDGED, udp: true, ..chacha },
        Plan { gre: ORDERED, ..esp },
        Plan { offsets: (false, false), pad: 4, mode: Mode::Tunnel, v6: true, gre: CHECKED, ..esp },
    ]
}

/// A tunnel: the router under test is the second, its twin the first.
struct Pair {
    plan: Plan,
    twin: Side,
    router: Side,
}

thread_local! {
    static PAIRS: RefCell<Vec<Pair>> = RefCell::new(
        plans()
            .into_iter()
            .map(|plan| Pair { plan, twin: Side::new(&plan, 1), router: Side::new(&plan, 2) })
            .collect(),
    );
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, mut rest)) = bytes.split_first() else { return };
    PAIRS.with_borrow_mut(|pairs| {
        let count = pairs.len();
        let pair = &mut pairs[usize::from(*choice) % count];
        for _ in 0..STEPS {
            let Some(([what, high, low], tail)) = rest.split_first_chunk() else { break };
            let len = usize::from(u16::from_be_bytes([*high, *low])).min(LONGEST);
            let (content, tail) = tail.split_at(tail.len().min(len));
            rest = tail;
            pair.step(*what, content);
        }
        pair.run();
        for side in [&pair.twin, &pair.router] {
            let [rx, tx, host, drops] = side.account();
            assert_eq!(rx, tx + host + drops, "every frame is accounted for");
        }
        // GRE's numbers let in nothing older, so whoever can send one can shut the others out.
        if !pair.plan.gre.sequence {
            pair.still_works();
        }
    });
});

impl Pair {
    fn step(&mut self, what: u8, content: &[u8]) {
        match (what % 6, content) {
            (0, frame) => self.router.wan.send(frame),
            (1, frame) => self.router.lan.send(frame),
            (2, [protocol, payload @ ..]) => self.from_far_end(*protocol, payload),
            (3, changes) => {
                let mut frame = self.genuine();
                for change in changes.chunks_exact(2) {
                    let len = frame.len();
                    frame[usize::from(change[0]) % len] ^= change[1];
                }
                self.router.wan.send(&frame);
            }
            (4, packet) => {
                let sent = if self.is_bridged() { packet.to_vec() } else { frame(1, LAN, packet) };
                self.twin.lan.send(&sent);
                self.twin.run();
                self.twin.wan.receive(|frame| self.router.wan.send(frame));
            }
            (5, [next_header, pad, plaintext @ ..]) => self.sealed(*next_header, *pad, plaintext),
            _ => {}
        }
    }

    fn is_bridged(&self) -> bool {
        self.plan.gre.payload == Payload::Ethernet
    }

    /// Sends the router an outer packet from its far end.
    fn from_far_end(&mut self, protocol: u8, payload: &[u8]) {
        let packet = ip(end(1, self.plan.v6), end(2, self.plan.v6), protocol, 2, 64, payload);
        self.router.wan.send(&frame(2, WAN, &packet));
    }

    /// A frame as the twin sends it.
    fn genuine(&mut self) -> Vec<u8> {
        self.twin.lan.send(&frame(1, LAN, &inner(false, 60, 2, 0)));
        self.twin.run();
        self.twin.wan.frames().pop().expect("what is routed into the tunnel leaves")
    }

    /// Sends what only the far end can: an authentic packet with any plaintext.
    fn sealed(&mut self, next_header: u8, pad: u8, plaintext: &[u8]) {
        let Some(sa) = &self.twin.outbound else { return };
        let pad = pad & 0xfc | (plaintext.len() as u8).wrapping_add(2).wrapping_neg() & 3;
        let mut esp = vec![0; 16 + plaintext.len() + seal::tail_len(pad)];
        esp[16..16 + plaintext.len()].copy_from_slice(plaintext);
        let number = sa.take(1).expect("numbers are left").first;
        seal::prepare(&mut esp, sa, number, pad, next_header).expect("room for the trailer");
        cipher::seal(&mut [seal::job(&mut esp, sa, number).expect("a whole packet")]);
        if self.plan.udp {
            let length = (esp.len() as u16 + 8).to_be_bytes();
            let header = [0x11, 0x94, 0x11, 0x94, length[0], length[1], 0, 0];
            self.from_far_end(17, &[&header[..], &esp].concat());
        } else {
            self.from_far_end(50, &esp);
        }
    }

    /// Lets both work through what has come in; what the router sends reaches its twin.
    fn run(&mut self) {
        self.router.run();
        self.router.wan.receive(|frame| self.twin.wan.send(frame));
        self.twin.run();
        for far in [&mut self.twin.wan, &mut self.twin.lan, &mut self.twin.host] {
            far.receive(|_| ());
        }
        for far in [&mut self.router.lan, &mut self.router.host] {
            far.receive(|_| ());
        }
    }

    fn still_works(&mut self) {
        for seed in 0..3 {
            let packet = inner(seed % 2 == 1, 100, 2, seed);
            let sent = frame(1, LAN, &packet);
            self.twin.lan.send(&sent);
            self.twin.run();
            self.twin.wan.receive(|frame| self.router.wan.send(frame));
            self.router.run();
            let expected = if self.is_bridged() { sent } else { delivered(packet) };
            assert_eq!(self.router.lan.frames(), [expected], "the tunnel still works: {:?}", self.plan);
        }
    }
}
