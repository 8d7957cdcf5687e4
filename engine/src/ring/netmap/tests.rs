//! Ports opened in a scripted kernel: what is asked for, what comes out of it, and what happens when the kernel refuses,
//! starts anew, stops, goes away or says things that make no sense.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netmap_sys::netmap_slot;
use proptest::collection::vec;
use proptest::prelude::*;

use super::name::PortName;
use super::scripted::{Card, Places, Scripted, World};
use super::{NetmapError, NetmapMemory, NetmapMode, NetmapOptions, NetmapPort, PortKind, offer_in, open_in};
use crate::ring::port::Health;
use crate::ring::tests::ports::{Rig, take, whole};
use crate::ring::tests::{Pair, only as sole, pass_on};
use crate::ring::{HEADROOM, Port, Refused, RxQueue, TxQueue};

const HOST: NetmapOptions = NetmapOptions { host: true, unsafe_emulation: false, extra_buffers: 0 };

fn open(kernel: &Scripted, name: &str) -> NetmapPort {
    open_in(kernel, name, &NetmapOptions::default(), None).expect("a port")
}

fn refused(kernel: &Scripted, name: &str) -> NetmapError {
    open_in(kernel, name, &HOST, None).err().expect("refused")
}

fn only(port: &mut Port) -> &mut (RxQueue, TxQueue) {
    assert_eq!(port.queues.len(), 1);
    &mut port.queues[0]
}

/// Passes on what has been received, as far as there is room.
fn forward(rx: &mut RxQueue, tx: &mut TxQueue) {
    pass_on(rx, tx).expect("sound rings");
}

/// A port on a network card that the test is the far end of.
pub(in crate::ring) struct Played {
    kernel: Scripted,
    at: Places,
    pair: Pair,
    waiting: VecDeque<Vec<u8>>,
}

impl Played {
    pub(in crate::ring) fn new() -> Played {
        let kernel = Scripted::new(&[("vmx0", Card::default())]);
        let (pair, at) = (sole(open(&kernel, "vmx0").nic), kernel.places("vmx0"));
        Played { kernel, at, pair, waiting: VecDeque::new() }
    }
}

impl Rig for Played {
    fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    fn inject(&mut self, frame: &[u8]) -> bool {
        self.kernel.arrive(self.at.rx, frame);
        true
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.waiting.extend(self.kernel.gone_out(self.at.tx));
        self.waiting.pop_front()
    }

    /// Two buffers.
    fn longest(&self) -> usize {
        4000
    }

    fn buffers(&mut self) -> Vec<u32> {
        let world = self.kernel.world();
        [world.held(self.at.tx), world.held(self.at.rx)].concat()
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(7) ^ number ^ number >> 8) as u8).collect()
}

#[test]
fn names_as_netmap_users_write_them() {
    for (text, kind) in [
        ("vmx0", PortKind::Interface),
        ("em0.5", PortKind::Interface),
        ("vale0:a", PortKind::Vale),
        ("valeswitch:em1", PortKind::Vale),
        ("pipe{0", PortKind::Pipe),
        ("pipe}0", PortKind::Pipe),
        ("em0{1x", PortKind::Pipe),
        ("vale0:a}1", PortKind::Pipe),
    ] {
        let name = PortName::parse(text).expect(text);
        assert_eq!((name.as_str(), name.kind), (text, kind));
        let field = name.to_field();
        assert_eq!((&field[..text.len()], field[text.len()]), (text.as_bytes(), 0));
    }
    for text in [
        "",
        "em0^",
        "em0*",
        "em0-1",
        "em0/x",
        "em0@2",
        "em 0",
        "vale0:",
        "vale:",
        "foo:bar",
        "pipe{",
        "pipe}",
        "{0",
        "pipe{0}1",
        "pipe{0/x",
        "sixteen-letters!",
        "abcdefghijklmnop",
        "em\u{e9}",
    ] {
        assert!(matches!(PortName::parse(text), Err(NetmapError::Name { .. })), "{text}");
    }
    assert!(PortName::parse(&format!("vale0:{}", "a".repeat(57))).is_ok());
    assert!(PortName::parse(&format!("vale0:{}", "a".repeat(58))).is_err());
}

#[test]
fn a_native_port_gives_headroom_and_sends_what_was_grown_in_place() {
    let kernel = Scripted::new(&[("vmx0", Card::default()), ("vmx1", Card::default())]);
    let mut wan = open(&kernel, "vmx0");
    let memory = wan.memory();
    let mut lan = open_in(&kernel, "vmx1", &NetmapOptions::default(), Some(&memory)).expect("a port");
    assert_eq!((wan.facts.kind, wan.facts.mode), (PortKind::Interface, NetmapMode::Native));
    assert_eq!((wan.facts.max_offset, wan.facts.buffer_size, wan.facts.pairs), (Some(256), 2048, 1));
    assert_eq!((wan.facts.receive_slots, wan.facts.transmit_slots), (32, 32));
    assert_eq!((wan.facts.mac, wan.facts.driver.as_deref()), (Some([2, 0, 0, 0, 0, 1]), Some("vmx")));
    assert!(wan.host.is_none());
    assert_eq!(memory.id(), lan.memory().id());
    assert!(!Arc::ptr_eq(wan.region(), lan.region()), "each port has its own mapping");

    let (from, to) = (kernel.places("vmx0"), kernel.places("vmx1"));
    for number in 0..200 {
        kernel.arrive(from.rx, &frame(number, 100));
        let (rx, _) = only(&mut wan.nic);
        let (_, tx) = only(&mut lan.nic);
        rx.sync();
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |mut received| {
            assert_eq!((received.headroom(), received.from_offset_port()), (HEADROOM as usize, true));
            assert_eq!(received.bytes(), frame(number, 100));
            assert!(received.push(24));
            received.bytes_mut()[..24].fill(0xee);
            assert_eq!(tx.ring.push(&mut received), Ok(()));
        });
        assert_eq!((slots, broken), (1, 0));
        rx.ring.release(slots);
        tx.sync();
        assert_eq!(kernel.gone_out(to.tx), [[vec![0xee; 24], frame(number, 100)].concat()]);
    }
    assert_eq!(only(&mut lan.nic).1.ring.copied_bytes(), 0);
}

#[test]
fn a_frame_too_far_into_its_buffer_is_copied() {
    let kernel = Scripted::new(&[("vmx0", Card::default())]);
    let mut port = open(&kernel, "vmx0");
    let at = kernel.places("vmx0");
    kernel.arrive(at.rx, &frame(1, 400));
    kernel.arrive(at.rx, &frame(2, 400));
    let (rx, tx) = only(&mut port.nic);
    rx.sync();
    let mut broken = 0;
    // The kernel cuts offsets beyond 256 down to that: 128 + 128 is the last that may be swapped.
    let mut pulls = [129, 128].into_iter();
    let slots = rx.ring.take(&mut broken, |mut received| {
        assert!(received.pull(pulls.next().expect("two frames")));
        assert_eq!(tx.ring.push(&mut received), Ok(()));
    });
    rx.ring.release(slots);
    tx.sync();
    assert_eq!(kernel.gone_out(at.tx), [frame(1, 400)[129..].to_vec(), frame(2, 400)[128..].to_vec()]);
    assert_eq!(tx.ring.copied_bytes(), 400 - 129);
}

#[test]
fn without_offsets_it_works_all_the_same_and_is_said() {
    let card = Card { offsets: false, slots: 1024, ..Card::default() };
    let kernel = Scripted::new(&[("ue0", card), ("re0", Card { slots: 256, ..card })]);
    let mut port = open(&kernel, "ue0");
    assert_eq!((port.facts.mode, port.facts.max_offset), (NetmapMode::Emulated, None));
    // A driver with netmap in it but without offsets has rings of its own shape.
    assert_eq!(open(&kernel, "re0").facts.mode, NetmapMode::Native);

    let at = kernel.places("ue0");
    kernel.arrive(at.rx, &frame(5, 1500));
    let (rx, tx) = only(&mut port.nic);
    rx.sync();
    let mut broken = 0;
    let slots = rx.ring.take(&mut broken, |mut received| {
        assert_eq!((received.headroom(), received.from_offset_port()), (0, false));
        assert_eq!(received.make_headroom(24), Some(()));
        assert!(received.push(24));
        received.bytes_mut()[..24].fill(0xee);
        assert_eq!(tx.ring.push(&mut received), Ok(()));
    });
    rx.ring.release(slots);
    tx.sync();
    assert_eq!(kernel.gone_out(at.tx), [[vec![0xee; 24], frame(5, 1500)].concat()]);

    // Emulation sends each part of a frame as a frame.
    kernel.arrive(at.rx, &frame(6, 3000));
    rx.sync();
    let slots = rx
        .ring
        .take(&mut broken, |mut received| assert_eq!(tx.ring.push(&mut received), Err(Refused::TooLong)));
    assert_eq!((slots, broken), (2, 0));
}

#[test]
fn what_the_system_says_of_a_driver_decides_where_it_says_something() {
    let card = Card { offsets: false, slots: 1024, ..Card::default() };
    let mode = |native, admode| {
        let kernel = Scripted::new(&[("em0", card)]);
        kernel.world().interface.native = native;
        kernel.world().settings.insert("admode", admode);
        open(&kernel, "em0").facts.mode
    };
    assert_eq!(mode(Some(true), 0), NetmapMode::Native);
    assert_eq!(mode(Some(false), 0), NetmapMode::Emulated);
    assert_eq!(mode(Some(true), 2), NetmapMode::Emulated);
    assert_eq!(mode(None, 0), NetmapMode::Emulated);
}

#[test]
fn host_rings_have_a_registration_of_their_own() {
    let kernel = Scripted::new(&[("vmx0", Card::default())]);
    let mut port = open_in(&kernel, "vmx0", &HOST, None).expect("a port");
    let at = kernel.places("vmx0");
    assert_eq!(
        kernel.world().log,
        ["clear vmx0", "register vmx0 mode 1 ring 0", "register vmx0 mode 2 ring 0"]
    );
    let mut host = port.host.take().expect("host rings");
    let (from_host, to_host) = only(&mut host);
    let (from_wire, to_wire) = only(&mut port.nic);
    for number in 0..100 {
        kernel.arrive(at.rx, &frame(number, 60 + number));
        kernel.arrive(at.host_rx, &frame(number, 900 + number));
        forward(from_wire, to_host);
        forward(from_host, to_wire);
        assert_eq!(kernel.gone_out(at.host_tx), [frame(number, 60 + number)]);
        assert_eq!(kernel.gone_out(at.tx), [frame(number, 900 + number)]);
    }
    // Towards the host, frames move to their buffers' starts; from there they need not.
    assert_eq!(to_host.ring.copied_bytes(), (0..100).map(|number| 60 + number).sum::<u64>());
    assert_eq!(to_wire.ring.copied_bytes(), 0);
    kernel.arrive(at.rx, &frame(1, 3000));
    from_wire.sync();
    let mut broken = 0;
    let slots = from_wire
        .ring
        .take(&mut broken, |mut jumbo| assert_eq!(to_host.ring.push(&mut jumbo), Err(Refused::TooLong)));
    assert_eq!((slots, broken), (2, 0));
}

#[test]
fn every_ring_pair_has_a_descriptor_of_its_own() {
    let card = Card { receive_rings: 3, transmit_rings: 4, ..Card::default() };
    let kernel = Scripted::new(&[("ix0", card)]);
    let mut port = open(&kernel, "ix0");
    let at = kernel.places("ix0");
    assert_eq!((port.nic.queues.len(), port.facts.pairs), (3, 3));
    for (number, (rx, tx)) in port.nic.queues.iter_mut().enumerate() {
        kernel.arrive(at.rx + number, &frame(number, 64));
        forward(rx, tx);
        assert_eq!(kernel.gone_out(at.tx + number), [frame(number, 64)]);
    }
    let world = kernel.world();
    let syncs: Vec<u32> = (0..3).map(|pair| world.rings[at.rx + pair].syncs).collect();
    assert_eq!(syncs, [1, 1, 1], "a sync is about its own ring");
    assert_eq!(world.log[1], "register ix0 mode 4 ring 0");
}

#[test]
fn vale_ports_and_pipes_open_without_an_interface() {
    let kernel = Scripted::new(&[]);
    for (name, kind) in [("vale0:a", PortKind::Vale), ("pipe{0", PortKind::Pipe), ("pipe}0", PortKind::Pipe)]
    {
        let mut port = open_in(&kernel, name, &HOST, None).expect(name);
        assert_eq!((port.facts.kind, port.facts.mode), (kind, NetmapMode::Virtual));
        assert!(port.host.is_none() && port.facts.mac.is_none());
        let at = kernel.places(name);
        kernel.arrive(at.rx, &frame(3, 70));
        assert_eq!(take(&mut only(&mut port.nic).0), [frame(3, 70)]);
    }
    assert!(!kernel.world().log.iter().any(|line| line.contains("clear")), "there is nothing to clear");
}

#[test]
fn errors_say_what_to_do() {
    let kernel = Scripted::new(&[
        ("vmx0", Card::default()),
        ("odd0", Card { receive_rings: 4, transmit_rings: 2, ..Card::default() }),
    ]);
    let open_error = |code| {
        kernel.world().open_error = Some(code);
        let error = refused(&kernel, "vmx0");
        kernel.world().open_error = None;
        error
    };
    assert!(matches!(open_error(libc::EACCES), NetmapError::NotPermitted));
    assert!(matches!(open_error(libc::ENOENT), NetmapError::NoNetmap));
    assert!(matches!(open_error(libc::EMFILE), NetmapError::System { .. }));

    assert!(matches!(refused(&kernel, "vmx7"), NetmapError::NoInterface { .. }));
    assert!(matches!(refused(&kernel, "odd0"), NetmapError::Unpaired { receive: 4, transmit: 2, .. }));
    kernel.world().version = 11;
    assert!(matches!(refused(&kernel, "vmx0"), NetmapError::Version));
    kernel.world().version = netmap_sys::NETMAP_API;

    let first = open(&kernel, "vmx0");
    assert!(matches!(refused(&kernel, "vmx0"), NetmapError::Busy { .. }));
    drop(first);
    drop(open(&kernel, "vmx0"));

    let gone = NetmapMemory { id: 7 };
    let error = open_in(&kernel, "vmx0", &HOST, Some(&gone)).err().expect("refused");
    assert!(matches!(error, NetmapError::Refused { .. }));
    assert_eq!(kernel.world().open, 0, "every failure closes what it opened");
    assert!(error.to_string().starts_with("netmap:vmx0: "), "{error}");
}

#[test]
fn each_failed_registration_has_a_name() {
    let of = |code| NetmapError::of_request("em0", io::Error::from_raw_os_error(code));
    assert!(matches!(of(libc::ENXIO), NetmapError::NoInterface { .. }));
    assert!(matches!(of(libc::EBUSY), NetmapError::Busy { .. }));
    assert!(matches!(of(libc::EOPNOTSUPP), NetmapError::NotSupported { .. }));
    assert!(matches!(of(libc::ENOMEM), NetmapError::NoMemory { .. }));
    assert!(matches!(of(libc::EINVAL), NetmapError::Refused { .. }));
    assert!(matches!(of(libc::EPERM), NetmapError::NotPermitted));
    assert!(matches!(of(libc::EIO), NetmapError::System { .. }));
}

#[test]
fn loopback_and_what_panics_kernels_are_refused() {
    let kernel = Scripted::new(&[("lo0", Card::default())]);
    kernel.world().interface.loopback = true;
    assert!(matches!(refused(&kernel, "lo0"), NetmapError::Loopback { .. }));
    for driver in ["lagg", "vlan", "epair", "bonding"] {
        let kernel = Scripted::new(&[("if0", Card { offsets: false, ..Card::default() })]);
        kernel.world().interface.driver = Some(driver.into());
        assert!(matches!(refused(&kernel, "if0"), NetmapError::Unsafe { .. }), "{driver}");
        assert!(kernel.world().log.is_empty(), "nothing was registered or changed");
        let allowed = NetmapOptions { unsafe_emulation: true, ..HOST };
        assert!(open_in(&kernel, "if0", &allowed, None).is_ok());
    }
}

#[test]
fn frames_longer_than_a_buffer_stay_whole() {
    let kernel = Scripted::new(&[("ix0", Card::default()), ("ix1", Card::default())]);
    let (mut left, mut right) = (open(&kernel, "ix0"), open(&kernel, "ix1"));
    let (from, to) = (kernel.places("ix0"), kernel.places("ix1"));
    for len in [1792, 1793, 5000, 9000, 40_000] {
        kernel.arrive(from.rx, &frame(len, len));
        forward(&mut only(&mut left.nic).0, &mut only(&mut right.nic).1);
        assert_eq!(kernel.gone_out(to.tx), [frame(len, len)]);
    }
    assert_eq!(only(&mut right.nic).1.ring.copied_bytes(), 0);
}

#[test]
fn a_frame_without_an_end_is_dropped() {
    let kernel = Scripted::new(&[("ix0", Card { slots: 128, ..Card::default() })]);
    let mut port = open(&kernel, "ix0");
    let at = kernel.places("ix0");
    for number in 0..100 {
        kernel.arrive(at.rx, &frame(number, 60));
    }
    let (rx, _) = only(&mut port.nic);
    rx.sync();
    {
        let mut world = kernel.world();
        for slot in 0..70 {
            let place = world.slot_at(at.rx, slot) + 6;
            world.set(place, netmap_sys::NS_MOREFRAG);
        }
    }
    // 64 slots are cut off; the next 7 form a frame.
    let (mut broken, mut lens) = (0, Vec::new());
    let slots = rx.ring.take(&mut broken, |frame| lens.push((frame.slots(), whole(&frame).len())));
    assert_eq!((slots, broken, lens[0], lens[1]), (100, 1, (7, 7 * 60), (1, 60)));
}

#[test]
fn a_sync_is_made_when_it_can_change_something() {
    let kernel = Scripted::new(&[("vmx0", Card::default())]);
    let mut port = open(&kernel, "vmx0");
    let at = kernel.places("vmx0");
    let syncs = |place: usize| kernel.world().rings[place].syncs;
    let (rx, tx) = only(&mut port.nic);

    for _ in 0..10 {
        tx.sync();
    }
    assert_eq!(syncs(at.tx), 0, "nothing to send, nothing on its way");
    tx.ring.push_bytes(&frame(1, 60)).expect("room");
    tx.sync();
    tx.sync();
    assert_eq!(syncs(at.tx), 1);

    for number in 0..20 {
        kernel.arrive(at.rx, &frame(number, 60));
    }
    rx.sync();
    assert_eq!(syncs(at.rx), 1);
    rx.sync();
    assert_eq!(syncs(at.rx), 2, "who took nothing waits for something else: the rest of a frame");
    let mut taken = 0;
    while taken < 20 {
        rx.ring.release(1);
        taken += 1;
        rx.sync();
    }
    // In the middle of the ring, and when it was empty.
    assert_eq!(syncs(at.rx), 4);
    rx.sync();
    assert_eq!(syncs(at.rx), 5, "an empty ring is always asked");
}

#[test]
fn frames_that_stay_are_pushed_again() {
    let kernel = Scripted::new(&[("epair0", Card::default())]);
    let mut port = open(&kernel, "epair0");
    let at = kernel.places("epair0");
    let (_, tx) = only(&mut port.nic);
    kernel.world().stalled = true;
    tx.ring.push_bytes(&frame(1, 60)).expect("room");
    tx.sync();
    assert!(kernel.gone_out(at.tx).is_empty());
    kernel.world().stalled = false;
    let started = Instant::now();
    while kernel.gone_out(at.tx).is_empty() {
        tx.sync();
        assert!(started.elapsed() < Duration::from_secs(5), "stalled for good");
    }
    assert_eq!(kernel.world().rings[at.tx].syncs, 2, "once for the frame, once after a while");

    // With the ring full, whoever has more to send does not wait.
    kernel.world().stalled = true;
    while tx.ring.push_bytes(&frame(2, 60)).is_ok() {}
    tx.sync();
    kernel.world().stalled = false;
    tx.sync();
    assert_eq!(tx.ring.space(), 31);
    assert_eq!(kernel.gone_out(at.tx).len(), 31);
}

#[test]
fn emulated_transmit_is_not_asked_what_stops_it() {
    let kernel = Scripted::new(&[("epair0", Card { offsets: false, slots: 1024, ..Card::default() })]);
    let mut port = open(&kernel, "epair0");
    assert_eq!(port.facts.mode, NetmapMode::Emulated);
    let at = kernel.places("epair0");
    kernel.world().fragile = true;
    let (_, tx) = only(&mut port.nic);
    let mut gone = 0;
    for round in 0..200 {
        // Also as many as ever go.
        let wanted = if round % 10 == 0 { 2000 } else { 64 };
        let sent = (0..wanted).take_while(|_| tx.ring.push_bytes(&frame(1, 60)).is_ok()).count();
        assert!(sent == 64 || sent == 1022, "{sent}");
        tx.sync();
        gone += sent;
    }
    assert_eq!(kernel.gone_out(at.tx).len(), gone);
}

#[test]
fn a_driver_that_starts_anew_loses_nothing_that_was_received() {
    let kernel = Scripted::new(&[("em0", Card::default())]);
    let mut port = open(&kernel, "em0");
    let at = kernel.places("em0");
    let (rx, tx) = only(&mut port.nic);
    let mut next = 0;
    let mut expected = 0;
    for round in 0..200 {
        for _ in 0..round % 13 {
            kernel.arrive(at.rx, &frame(next, 60 + next % 500));
            next += 1;
        }
        rx.sync();
        let mut world = kernel.world();
        world.reset(at.rx);
        world.reset(at.tx);
        drop(world);
        for received in take(rx) {
            assert_eq!(received, frame(expected, 60 + expected % 500));
            expected += 1;
        }
        tx.ring.push_bytes(&frame(round, 99)).expect("room");
        tx.sync();
        assert_eq!(kernel.gone_out(at.tx), [frame(round, 99)]);
        assert_eq!(tx.ring.space(), 31);
    }
    expected += take(rx).len();
    assert_eq!(expected, next);
}

#[test]
fn a_reinitialised_ring_goes_on_where_it_was() {
    let kernel = Scripted::new(&[("em0", Card::default())]);
    let mut port = open(&kernel, "em0");
    let at = kernel.places("em0");
    let (rx, tx) = only(&mut port.nic);
    let set = |ring: usize, field: usize| {
        let mut world = kernel.world();
        let place = world.rings[ring].at + field;
        world.set(place, u32::MAX);
    };
    for round in 0..100 {
        for number in 0..3 {
            kernel.arrive(at.rx, &frame(round * 3 + number, 60));
            tx.ring.push_bytes(&frame(round * 3 + number, 70)).expect("room");
        }
        rx.sync();
        let mut broken = 0;
        let mut numbers = round * 3..;
        let slots = rx.ring.take(&mut broken, |received| {
            assert_eq!(received.bytes(), frame(numbers.next().expect("no end"), 60));
        });
        assert_eq!((slots, broken), (3, 0));
        rx.ring.release(slots);
        // Somebody scribbles over a cursor before the kernel has seen what was released or queued. It finds that at the next
        // sync and goes back to where it was; we do not, or frames would come twice.
        let field = [20, 24, 28][round % 3];
        set(at.rx, field);
        if field == 28 {
            assert_eq!(rx.ring.available(), 0, "a cursor beyond the ring lends nothing out");
        }
        rx.sync();
        assert_eq!(rx.ring.available(), 0);
        set(at.tx, field);
        for _ in 0..3 {
            tx.sync();
        }
        let out = kernel.gone_out(at.tx);
        assert_eq!(out, [0, 1, 2].map(|number| frame(round * 3 + number, 70)));
    }
}

#[test]
fn a_receive_ring_that_jumps_is_followed() {
    let kernel = Scripted::new(&[("em0", Card::default())]);
    let mut port = open(&kernel, "em0");
    let at = kernel.places("em0");
    let (rx, _) = only(&mut port.nic);
    for number in 0..50 {
        kernel.world().jump(at.rx, 10);
        kernel.arrive(at.rx, &frame(number, 60));
        assert_eq!(take(rx), [frame(number, 60)]);
    }
}

#[test]
fn a_stopped_ring_is_left_in_peace_and_resumes() {
    let kernel = Scripted::new(&[("em0", Card::default())]);
    let mut port = open(&kernel, "em0");
    let at = kernel.places("em0");
    let (rx, tx) = only(&mut port.nic);
    assert!(rx.wait_fd().is_some());
    assert_eq!(rx.health(), Health::Attached);

    kernel.world().sync_error = Some(libc::EIO);
    let before = kernel.world().rings[at.rx].syncs;
    let started = Instant::now();
    for _ in 0..1000 {
        rx.sync();
    }
    let calls = kernel.world().rings[at.rx].syncs - before;
    let rests = started.elapsed().as_millis() as u32 / 10;
    assert!((1..=1 + rests).contains(&calls), "{calls} calls");
    assert_eq!(rx.health(), Health::Down);
    assert!(rx.wait_fd().is_none(), "poll would return at once");
    tx.ring.push_bytes(&frame(1, 60)).expect("room");
    tx.sync();

    kernel.world().sync_error = None;
    kernel.arrive(at.rx, &frame(2, 60));
    std::thread::sleep(Duration::from_millis(12));
    assert_eq!(take(rx), [frame(2, 60)]);
    assert_eq!(rx.health(), Health::Attached);
    tx.sync();
    assert_eq!(kernel.gone_out(at.tx), [frame(1, 60)], "what was queued goes out");
}

#[test]
fn a_port_that_is_held_makes_no_calls() {
    let kernel = Scripted::new(&[("em0", Card::default())]);
    let mut port = open_in(&kernel, "em0", &HOST, None).expect("a port");
    let at = kernel.places("em0");
    let hold = port.control.hold.clone();
    let (rx, tx) = only(&mut port.nic);
    let (host_rx, host_tx) = only(port.host.as_mut().expect("host rings"));
    hold.hold();
    kernel.arrive(at.rx, &frame(1, 60));
    for queue in [&mut *tx, &mut *host_tx] {
        queue.ring.push_bytes(&frame(2, 60)).expect("room");
        queue.sync();
    }
    assert!(take(rx).is_empty() && take(host_rx).is_empty());
    assert_eq!((rx.health(), host_rx.health()), (Health::Down, Health::Down));
    assert!(rx.wait_fd().is_none());
    assert!(kernel.world().rings.iter().all(|ring| ring.syncs == 0));

    hold.release();
    assert_eq!(take(rx), [frame(1, 60)]);
    assert_eq!(rx.health(), Health::Attached);
    std::thread::sleep(Duration::from_millis(2));
    for (queue, place) in [(tx, at.tx), (host_tx, at.host_tx)] {
        queue.sync();
        assert_eq!(kernel.gone_out(place), [frame(2, 60)], "what was queued meanwhile goes out");
    }
}

#[test]
fn a_departed_interface_is_told_and_harms_nothing() {
    for departure in ["other index", "gone", "no descriptor"] {
        let kernel = Scripted::new(&[("em0", Card::default())]);
        let mut port = open(&kernel, "em0");
        let (rx, tx) = only(&mut port.nic);
        {
            let mut world = kernel.world();
            world.sync_error = Some(if departure == "no descriptor" { libc::ENXIO } else { libc::EIO });
            match departure {
                "other index" => world.interface.index = 9,
                "gone" => world.attached = false,
                _ => {}
            }
        }
        rx.sync();
        assert_eq!(rx.health(), Health::Departed, "{departure}");
        for _ in 0..100 {
            rx.sync();
            let _ = tx.ring.push_bytes(&frame(1, 60));
            tx.sync();
        }
        assert_eq!(tx.ring.push_bytes(&frame(1, 60)), Err(Refused::Full), "dropped, and counted as such");
        assert!(take(rx).is_empty() && rx.wait_fd().is_none());
    }
}

/// Twice, with the host's rings; and what was copied is counted on.
#[test]
fn an_interface_that_is_back_is_held_again() {
    let kernel = Scripted::new(&[("ue0", Card::default())]);
    let mut port = open_in(&kernel, "ue0", &HOST, None).expect("a port");
    let mut host = port.host.take().expect("host rings");
    let control = &mut port.control;
    assert!(!control.has_departed_in(&kernel));
    let copies = Arc::clone(only(&mut host).1.ring.copies());
    for round in 1..=2 {
        kernel.world().replace("ue0", Card { slots: 64, ..Card::default() });
        assert!(control.has_departed_in(&kernel), "another is there, whatever the queues have seen");
        for (rx, tx) in [only(&mut port.nic), only(&mut host)] {
            rx.sync();
            assert_eq!(rx.health(), Health::Departed);
            tx.ring.push_bytes(&frame(1, 60)).expect("room");
            tx.sync();
        }
        let facts = control.retake_in(&kernel).expect("the interface");
        assert_eq!((facts.receive_slots, facts.memory_id), (64, port.facts.memory_id));
        assert!(!control.has_departed_in(&kernel) && !control.hold.is_lost());
        let at = kernel.places("ue0");
        for number in 0..100 {
            kernel.arrive(at.rx, &frame(number, 60 + number));
            kernel.arrive(at.host_rx, &frame(number, 300 + number));
            let (from_host, to_host) = only(&mut host);
            let (from_wire, to_wire) = only(&mut port.nic);
            forward(from_wire, to_host);
            forward(from_host, to_wire);
            assert_eq!(kernel.gone_out(at.host_tx), [frame(number, 60 + number)]);
            assert_eq!(kernel.gone_out(at.tx), [frame(number, 300 + number)]);
        }
        assert_eq!(only(&mut port.nic).0.health(), Health::Attached);
        assert_eq!(copies.frames.get(), 100 * round);
    }
    // Pulled out and not put in again; then another that has too many rings.
    kernel.world().replace("ue0", Card { receive_rings: 2, transmit_rings: 2, ..Card::default() });
    let error = control.retake_in(&kernel).expect_err("two pairs");
    assert!(error.to_string().contains("another number of rings"), "{error}");
    kernel.world().replace("ue0", Card::default());
    control.retake_in(&kernel).expect("the interface");
    take(&mut only(&mut port.nic).0);
    only(&mut port.nic).1.sync();
    take(&mut only(&mut host).0);
    only(&mut host).1.sync();
    let clears = |log: &[String]| log.iter().filter(|line| *line == "clear ue0").count();
    assert_eq!(clears(&kernel.world().log), 5);
    // Not with the interfaces that had gone: only what was refused, and later the last.
    let restored = || kernel.world().log.iter().filter(|line| line.starts_with("restore")).count();
    assert_eq!((restored(), kernel.world().open), (1, 2));
    drop((port, host));
    assert_eq!((restored(), kernel.world().open), (2, 0));
}

#[test]
fn extra_buffers_can_be_claimed_once() {
    let kernel = Scripted::new(&[("vmx0", Card::default())]);
    let options = NetmapOptions { extra_buffers: 10, ..NetmapOptions::default() };
    let port = open_in(&kernel, "vmx0", &options, None).expect("a port");
    assert_eq!(port.facts.extra_buffers, 10);
    let at = kernel.places("vmx0");
    let mut all: Vec<u32> = port.region().claim_buffers(6).expect("buffers").collect();
    all.extend(port.region().claim_buffers(4).expect("buffers"));
    assert!(port.region().claim_buffers(1).is_err());
    let world = kernel.world();
    assert_eq!(world.get::<u32>(64 + 32), 0, "the kernel keeps no chain that it would free");
    all.extend([world.held(at.tx), world.held(at.rx)].concat());
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a buffer in two places");
}

#[test]
fn a_chain_of_extra_buffers_that_makes_no_sense_is_cut() {
    let tampers: [fn(&mut World, usize); 3] = [
        |world, at| world.set(at + 32, u32::MAX),
        |world, at| world.set(at + 32, 1u32),
        // A circle.
        |world, at| {
            let first: u32 = world.get(at + 32);
            world.set(world.buffers_at + first as usize * 2048, first);
        },
    ];
    for (tamper, most) in tampers.into_iter().zip([0, 0, 1]) {
        let kernel = Scripted::new(&[("vmx0", Card::default())]);
        kernel.world().tamper = Some(tamper);
        let options = NetmapOptions { extra_buffers: 10, ..NetmapOptions::default() };
        let port = open_in(&kernel, "vmx0", &options, None).expect("a port");
        assert_eq!(port.facts.extra_buffers, most);
    }
}

#[test]
fn offloads_come_back_when_the_last_queue_has_closed() {
    let kernel = Scripted::new(&[("vmx0", Card { receive_rings: 2, transmit_rings: 2, ..Card::default() })]);
    let port = open_in(&kernel, "vmx0", &HOST, None).expect("a port");
    assert_eq!(kernel.world().open, 3);
    let NetmapPort { mut nic, host, .. } = port;
    drop(host);
    let (rx, tx) = nic.queues.pop().expect("a pair");
    drop(nic);
    drop(rx);
    assert_eq!(kernel.world().open, 1);
    assert!(!kernel.world().log.iter().any(|line| line.starts_with("restore")));
    drop(tx);
    assert_eq!(kernel.world().log.last().map(String::as_str), Some("restore with 0 open"));
    assert_eq!(kernel.world().open, 0);
}

/// What a kernel may say wrongly of a fresh port, and how much of it is noticed at once.
#[test]
fn a_layout_that_makes_no_sense_is_refused() {
    /// Sets a field of the first transmit ring's header.
    fn ring<T: Copy>(world: &mut World, at: usize, field: usize, value: T) {
        let offset: isize = world.get(at + 56);
        world.set(at.wrapping_add_signed(offset) + field, value);
    }
    let tampers: [fn(&mut World, usize); 14] = [
        |world, at| world.set(at + 24, 0u32),
        |world, at| world.set(at + 28, 0u32),
        |world, at| world.set(at + 56, isize::MAX),
        |world, at| world.set(at + 56, isize::MIN),
        |world, at| world.set(at + 56, 1isize),
        |world, at| {
            let end = (world.bytes - at) as isize;
            world.set(at + 56, end);
        },
        |world, at| ring(world, at, 0, i64::MIN),
        |world, at| ring(world, at, 0, i64::MAX),
        |world, at| ring(world, at, 8, u32::MAX),
        |world, at| ring(world, at, 8, 1u32),
        |world, at| ring(world, at, 12, 0u32),
        |world, at| ring(world, at, 20, 32u32),
        |world, at| ring(world, at, 28, 32u32),
        |world, at| ring(world, at, 56, u64::MAX),
    ];
    for (nth, tamper) in tampers.into_iter().enumerate() {
        let kernel = Scripted::new(&[("vmx0", Card::default())]);
        kernel.world().tamper = Some(tamper);
        let error = refused(&kernel, "vmx0");
        assert!(matches!(error, NetmapError::Layout { .. }), "{nth}: {error}");
        assert_eq!(kernel.world().open, 0, "{nth}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Anything at all in the port's list of rings and in the rings' headers: refused or opened, but nothing outside the
    /// mapping is touched (which would end this process).
    #[test]
    fn scribbles_before_the_start_do_no_harm(scribbles in vec((0..64usize, any::<u64>(), 0..4u8), 1..6)) {
        let kernel = Scripted::new(&[("vmx0", Card::default())]);
        let at = kernel.places("vmx0");
        {
            let mut world = kernel.world();
            for (word, value, kind) in &scribbles {
                let ring = [at.tx, at.rx, at.host_tx, at.host_rx][usize::from(*kind)];
                let place = world.rings[ring].at + word * 4;
                world.set(place, *value as u32);
            }
        }
        if let Ok(mut port) = open_in(&kernel, "vmx0", &HOST, None) {
            let (rx, tx) = only(&mut port.nic);
            rx.ring.available();
            let _ = tx.ring.push_bytes(&[0; 60]);
        }
    }

    /// A kernel that goes mad while the port is in use: cursors and slots change to anything. Frames are lost, buffers may be,
    /// but what is lent out always lies in a buffer, no slot that leaves its buffer is sent, and nothing panics.
    #[test]
    fn scribbles_under_way_do_no_harm(
        scribbles in vec((any::<u8>(), 0..160usize, any::<u32>(), any::<bool>()), 1..200),
        offsets in any::<bool>(),
    ) {
        let kernel = Scripted::new(&[("vmx0", Card { offsets, ..Card::default() })]);
        let mut port = open(&kernel, "vmx0");
        let at = kernel.places("vmx0");
        let (rx, tx) = only(&mut port.nic);
        for (kind, word, value, small) in scribbles {
            for number in 0..kind % 8 {
                kernel.arrive(at.rx, &frame(number.into(), 60 + usize::from(kind) * 8));
            }
            rx.sync();
            {
                let mut world = kernel.world();
                let ring = at.rx;
                // The cursors, or the slots that were received. An index that is in two slots is beyond what can be noticed,
                // so those that name a buffer name a fresh one.
                let slot = word.checked_sub(3).map(|word| word % 128);
                let value = match slot {
                    Some(word) if word % 4 == 0 && small => world.fresh_buffer(),
                    _ if small => value % 40,
                    _ => value,
                };
                let place = match slot {
                    None => world.rings[ring].at + 20 + word * 4,
                    Some(word) => world.slot_at(ring, 0) + word * 4,
                };
                world.set(place, value);
            }
            let mut broken = 0;
            let slots = rx.ring.take(&mut broken, |mut frame| {
                assert!(frame.headroom() + frame.len() + frame.tailroom() == 2048);
                let sum: u32 = frame.bytes().iter().map(|byte| u32::from(*byte)).sum();
                std::hint::black_box(sum);
                if frame.slots() == 1 {
                    let _ = tx.ring.push(&mut frame);
                }
            });
            rx.ring.release(slots);
            // The scripted kernel asserts that what goes out is sound; it repairs its own view of what it scribbled over.
            kernel.world().mend(at.rx);
            tx.sync();
        }
    }

    /// Two ports in one memory, frames forwarded both ways, syncs and resets at any time: every buffer stays in one slot,
    /// nothing is copied, and all that came goes out in order.
    #[test]
    fn every_buffer_stays_in_one_slot(
        slots in 4u32..40,
        steps in vec((0..5u8, 1..30usize, 0..1792usize), 1..80),
    ) {
        let card = Card { slots, ..Card::default() };
        let kernel = Scripted::new(&[("a", card), ("b", card)]);
        let (mut left, mut right) = (open(&kernel, "a"), open(&kernel, "b"));
        let (a, b) = (kernel.places("a"), kernel.places("b"));
        let before = all_buffers(&kernel, [a, b]);
        let (mut sent, mut arrived) = ([0usize; 2], [0usize; 2]);
        let mut check = |kernel: &Scripted| {
            for (way, place) in [b.tx, a.tx].into_iter().enumerate() {
                for frame_out in kernel.gone_out(place) {
                    assert_eq!(frame_out, frame(arrived[way], 1 + arrived[way] % 1700));
                    arrived[way] += 1;
                }
            }
            arrived
        };
        let (left, right) = (only(&mut left.nic), only(&mut right.nic));
        for (kind, count, _) in steps {
            match kind {
                0 | 1 => for _ in 0..count {
                    let way = usize::from(kind);
                    kernel.arrive([a.rx, b.rx][way], &frame(sent[way], 1 + sent[way] % 1700));
                    sent[way] += 1;
                },
                2 => forward(&mut left.0, &mut right.1),
                3 => forward(&mut right.0, &mut left.1),
                _ => {
                    let mut world = kernel.world();
                    for place in [a.rx, b.rx] {
                        world.reset(place);
                    }
                }
            }
            check(&kernel);
            prop_assert_eq!(&all_buffers(&kernel, [a, b]), &before);
        }
        for _ in 0..2000 {
            forward(&mut left.0, &mut right.1);
            forward(&mut right.0, &mut left.1);
        }
        prop_assert_eq!(check(&kernel), sent);
        prop_assert_eq!(&all_buffers(&kernel, [a, b]), &before);
        prop_assert_eq!(left.1.ring.copied_bytes() + right.1.ring.copied_bytes(), 0);
    }
}

fn all_buffers(kernel: &Scripted, ports: [Places; 2]) -> Vec<u32> {
    let world = kernel.world();
    let mut all: Vec<u32> =
        ports.iter().flat_map(|at| [world.held(at.tx), world.held(at.rx)].concat()).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_transmit_slot_without_a_buffer_ends_the_port() {
    let kernel = Scripted::new(&[("vmx0", Card::default())]);
    let mut port = open(&kernel, "vmx0");
    let at = kernel.places("vmx0");
    let (rx, tx) = only(&mut port.nic);
    tx.sync();
    tx.ring.push_bytes(&frame(1, 60)).expect("room");
    tx.sync();
    {
        let mut world = kernel.world();
        // The slot that was sent, and that the next sync makes free again.
        let place = world.slot_at(at.tx, 0);
        let slot: netmap_slot = world.get(place);
        world.set(place, netmap_slot { buf_idx: 0, ..slot });
    }
    for number in 0..30 {
        tx.ring.push_bytes(&frame(number, 60)).expect("room");
    }
    tx.sync();
    assert_eq!(tx.ring.space(), 1, "up to the slot without a buffer");
    tx.ring.push_bytes(&frame(2, 60)).expect("room");
    tx.sync();
    assert_eq!(tx.ring.push_bytes(&frame(2, 60)), Err(Refused::Full));
    assert_eq!(rx.health(), Health::Departed);
}

#[test]
fn an_offer_is_told_and_nothing_is_registered_or_changed() {
    let card = Card { receive_rings: 2, transmit_rings: 3, slots: 64, ..Card::default() };
    let kernel = Scripted::new(&[("em0", card)]);
    let offer = |native, admode| {
        kernel.world().interface.native = native;
        kernel.world().settings.insert("admode", admode);
        offer_in(&kernel, "em0", &HOST).expect("an offer")
    };
    let native = offer(Some(true), 0);
    assert_eq!((native.rings, native.slots), ((2, 3), (64, 64)));
    assert_eq!((native.mode, native.offsets()), (Some(NetmapMode::Native), None));
    assert_eq!(offer(Some(false), 0).offsets(), Some(false));
    assert_eq!(offer(Some(true), 2).mode, Some(NetmapMode::Emulated));
    assert_eq!((offer(None, 0).mode, offer(None, 0).offsets()), (None, None));
    assert!(matches!(offer_in(&kernel, "em1", &HOST), Err(NetmapError::NoInterface { .. })));
    assert!(kernel.world().log.is_empty());
}
