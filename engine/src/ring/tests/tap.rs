//! TAP ports, with the host's kernel at the far end. These tests make network namespaces, which takes root.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::super::{Health, Port, Region, TapError, TapOptions, TapPort};
use super::netns::{PacketSocket, in_namespace, index_of, ip, shown};
use super::ports::{Rig, buffers_of_pair, frame, is_ours, reflect, take};
use super::{BUFFER, Pair, only};

/// The longest frame of an Ethernet with an MTU of 1500: four buffers here.
const LONGEST: usize = 1514;

/// A TAP and the host's side of it.
pub(super) struct Tap {
    pair: Pair,
    host: PacketSocket,
    interface: u32,
}

fn region(queues: usize) -> Arc<Region> {
    Region::new(2 * queues, 64, BUFFER, 0, false).expect("a region")
}

fn open(name: &str, options: TapOptions) -> Result<Pair, TapError> {
    open_held(name, options).map(|(pair, _)| pair)
}

fn open_held(name: &str, options: TapOptions) -> Result<(Pair, TapPort), TapError> {
    let (port, held) = Port::tap(&region(1), name, 1, options)?;
    assert_eq!(held.name(), name);
    Ok((only(port), held))
}

impl Tap {
    pub(super) fn new() -> Tap {
        let host = PacketSocket::new();
        let pair = open("far", TapOptions::default()).expect("a tap: this test needs root");
        Tap { pair, host, interface: index_of("far").expect("an interface") }
    }
}

impl Rig for Tap {
    fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    fn inject(&mut self, frame: &[u8]) -> bool {
        self.host.send(self.interface, frame).is_ok()
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        self.host.receive().map(|(_, frame)| frame)
    }

    fn longest(&self) -> usize {
        LONGEST
    }

    fn buffers(&mut self) -> Vec<u32> {
        buffers_of_pair(&self.pair)
    }
}

/// Everything of ours that the port received in a few turns.
fn received(pair: &mut Pair) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for _ in 0..10 {
        frames.extend(take(&mut pair.0).into_iter().filter(|frame| is_ours(frame)));
    }
    frames
}

#[test]
fn an_interface_deleted_under_the_port() {
    in_namespace(|| {
        let mut tap = Tap::new();
        let mut before = tap.buffers();
        for number in 0..20 {
            assert!(tap.inject(&frame(number, LONGEST)));
            reflect(&mut tap.pair);
        }
        ip("link del far");
        for number in 0..200 {
            assert!(
                tap.pair.1.ring.push_bytes(&frame(number, 300)).is_ok(),
                "the ring is emptied all the same"
            );
            tap.pair.1.sync();
            assert_eq!(received(&mut tap.pair), Vec::<Vec<u8>>::new());
        }
        let device = tap.pair.0.device().expect("a tap has it");
        assert!(device.is_gone());
        assert_eq!(device.transmit_dropped.get(), 200);
        assert!(tap.pair.0.wait_fd().is_none(), "nothing to wait for");
        let mut after = tap.buffers();
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after);
    });
}

/// Made again by us where we had made it, and by somebody else where he had; twice.
#[test]
fn an_interface_that_is_back_is_held_again() {
    in_namespace(|| {
        for ours in [true, false] {
            let make = || (!ours).then(|| ip("tuntap add dev far mode tap"));
            make();
            let host = PacketSocket::new();
            let (mut pair, mut held) = open_held("far", TapOptions { mtu: Some(1400) }).expect("a tap");
            assert_eq!(held.is_ours(), ours);
            let mut before = buffers_of_pair(&pair);
            for number in 0..2 {
                ip("link del far");
                assert_eq!(received(&mut pair), Vec::<Vec<u8>>::new());
                assert_eq!(held.health(), Health::Departed);
                make();
                held.reattach().expect("the interface");
                assert_eq!(held.health(), Health::Attached, "before the queues have looked");
                held.reattach().expect("nothing to do");
                assert!(shown("far").contains(",UP") && shown("far").contains("mtu 1400"));
                pair.1.ring.push_bytes(&frame(number, 300)).expect("room");
                pair.1.sync();
                let came = std::iter::from_fn(|| host.receive()).map(|(_, came)| came);
                assert_eq!(came.filter(|came| is_ours(came)).collect::<Vec<_>>(), [frame(number, 300)]);
                host.send(index_of("far").expect("an interface"), &frame(7, 300)).expect("room");
                assert_eq!(received(&mut pair), [frame(7, 300)]);
                assert!(pair.0.wait_fd().is_some());
                assert_eq!(held.health(), Health::Attached);
            }
            let mut after = buffers_of_pair(&pair);
            before.sort_unstable();
            after.sort_unstable();
            assert_eq!(before, after);
            drop((pair, held));
            assert_eq!(index_of("far").is_none(), ours);
        }
    });
}

#[test]
fn an_interface_that_is_down_takes_nothing_and_comes_back() {
    in_namespace(|| {
        let mut tap = Tap::new();
        ip("link set far down");
        tap.pair.1.ring.push_bytes(&frame(1, 300)).expect("room");
        tap.pair.1.sync();
        let device = Arc::clone(tap.pair.0.device().expect("a tap has it"));
        assert_eq!((device.is_gone(), device.transmit_dropped.get()), (false, 1));
        ip("link set far up");
        tap.pair.1.ring.push_bytes(&frame(2, 300)).expect("room");
        tap.pair.1.sync();
        assert_eq!(std::iter::from_fn(|| tap.collect()).find(|came| is_ours(came)), Some(frame(2, 300)));
        assert_eq!(device.transmit_dropped.get(), 1);
        assert!(tap.inject(&frame(3, 300)));
        assert_eq!(received(&mut tap.pair), [frame(3, 300)]);
    });
}

#[test]
fn what_waits_wakes_the_reader() {
    in_namespace(|| {
        let mut tap = Tap::new();
        received(&mut tap.pair);
        let readable = |tap: &Tap| {
            let fd = tap.pair.0.wait_fd().expect("a tap can be waited for").as_raw_fd();
            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which lives during the call.
            unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
        };
        assert!(!readable(&tap));
        assert!(tap.inject(&frame(1, 300)));
        assert!(readable(&tap));
        assert_eq!(received(&mut tap.pair), [frame(1, 300)]);
        assert!(!readable(&tap));
    });
}

#[test]
fn a_raised_mtu_costs_a_frame_at_most() {
    in_namespace(|| {
        let mut tap = Tap::new();
        ip("link set far mtu 9000");
        let long = |number| frame(number, 9014);
        // By 31 bytes a number: these are near the longest.
        let numbers = [289, 288, 287, 286, 285];
        for number in numbers {
            assert!(tap.inject(&long(number)));
        }
        let arrived = received(&mut tap.pair);
        let dropped = tap.pair.0.device().expect("a tap has it").receive_dropped.get();
        assert_eq!(arrived.len() as u64 + dropped, numbers.len() as u64);
        assert!((1..=3).contains(&dropped), "room is doubled until they fit: {dropped}");
        assert_eq!(arrived, numbers.map(long)[dropped as usize..]);
        assert!(tap.inject(&long(289)));
        assert_eq!(received(&mut tap.pair), [long(289)]);
    });
}

#[test]
fn an_existing_interface_stays_and_a_new_one_goes() {
    in_namespace(|| {
        ip("tuntap add dev kept mode tap");
        let before = index_of("kept");
        let kept = open("kept", TapOptions { mtu: Some(1400) }).expect("a tap");
        let made = open("made", TapOptions::default()).expect("a tap");
        assert!(shown("made").contains(",UP") && shown("kept").contains(",UP"));
        assert!(shown("made").contains("mtu 1500") && shown("kept").contains("mtu 1400"));
        drop((kept, made));
        assert_eq!(index_of("kept"), before);
        assert_eq!(index_of("made"), None);
        open("kept", TapOptions::default()).expect("free again");
    });
}

#[test]
fn an_interface_made_for_many_queues_gives_one_of_them() {
    in_namespace(|| {
        ip("tuntap add dev many mode tap multi_queue");
        let mut one = open("many", TapOptions::default()).expect("a queue");
        let host = PacketSocket::new();
        host.send(index_of("many").expect("an interface"), &frame(1, 300)).expect("room");
        assert_eq!(received(&mut one), [frame(1, 300)]);
    });
}

#[test]
fn flows_spread_over_the_queues() {
    in_namespace(|| {
        let (port, _) = Port::tap(&region(2), "wide", 2, TapOptions::default()).expect("two queues");
        let host = PacketSocket::new();
        let interface = index_of("wide").expect("an interface");
        let mut queues = port.queues;
        let mut counts = [0, 0];
        for source in 0..200u16 {
            // Ethernet, IPv4 without a checksum (nobody looks), UDP.
            let mut flow = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00];
            flow.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
            flow.extend(source.to_be_bytes().into_iter().chain([0, 9, 0, 8, 0, 0]));
            host.send(interface, &flow).expect("room");
            for (pair, count) in queues.iter_mut().zip(&mut counts) {
                *count += take(&mut pair.0).iter().filter(|came| **came == flow).count();
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 200);
        assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    });
}

#[test]
fn what_is_wrong_is_said() {
    in_namespace(|| {
        let error = |name| open(name, TapOptions::default()).err().expect("refused").to_string();
        for name in ["", "a/b", "sixteen-letters-", "tap%d", ".."] {
            assert!(error(name).contains("is no name for an interface"), "{name}");
        }
        assert!(error("lo").contains("interface lo: ") && error("lo").contains("another kind"));
        let _held = open("held", TapOptions::default()).expect("a tap");
        assert!(error("held").contains("another program has it open"));
        let mtu = TapOptions { mtu: Some(1_000_000) };
        let message = open("short", mtu).err().expect("refused").to_string();
        assert!(message.starts_with("interface short: cannot set its MTU: "), "{message}");
        assert_eq!(index_of("short"), None, "nothing stays behind");
        let none = Region::new(1, 64, BUFFER, 0, false).expect("a region");
        assert!(matches!(Port::tap(&none, "none", 1, TapOptions::default()), Err(TapError::Region(_))));
        assert_eq!(index_of("none"), None, "nothing stays behind");
    });
}
