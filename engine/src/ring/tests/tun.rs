//! The tunnels' host interfaces, with the host's kernel at the far end. These tests make network namespaces, which takes root.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{
    Port, RINGS_PER_QUEUE, Region, RxQueue, SPARE_PER_QUEUE, TunError, TunSet, TxQueue, wire,
};
use super::netns::{PacketSocket, in_namespace, in_namespace_with_ipv6, index_of, ip, ip_each, shown};
use super::ports::{buffers_of_pair, whole};
use super::{BUFFER, Pair, only};

/// Three of the buffers here and a bit.
const MTU: u32 = 1400;
/// IP protocol 253 is for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;
/// IPv4, and a number for the tunnel and one for the packet.
const SHORTEST: usize = 28;

/// The port, the set, and the host's side.
struct Tuns {
    pair: Pair,
    set: TunSet,
    host: PacketSocket,
}

fn name(tunnel: u32) -> String {
    format!("tun-{tunnel}")
}

impl Tuns {
    fn in_rings_of(slots: u32) -> Tuns {
        let region = Region::new(2, slots, BUFFER, 0, false).expect("a region");
        let (port, set) = Port::tun(&region, 1).expect("a port");
        Tuns { pair: only(port), set, host: PacketSocket::new() }
    }

    fn with(tunnels: u32) -> Tuns {
        let mut tuns = Tuns::in_rings_of(64);
        (0..tunnels).for_each(|tunnel| tuns.add(tunnel));
        tuns
    }

    fn add(&mut self, tunnel: u32) {
        self.set.add(tunnel, &name(tunnel), MTU).expect("an interface: this test needs root");
    }

    fn send(&mut self, tag: u32, packet: &[u8]) {
        send(&mut self.pair.1, tag, packet);
    }

    fn dropped(&self) -> u64 {
        self.pair.0.device().expect("it has").transmit_dropped.get()
    }
}

fn interface(tunnel: u32) -> u32 {
    index_of(&name(tunnel)).expect("an interface")
}

/// Packet `number` of tunnel `tunnel`, of a length that depends on both.
fn packet(tunnel: u32, number: u32, longest: usize) -> Vec<u8> {
    let len = SHORTEST + (number as usize * 31 + tunnel as usize * 7) % (longest - SHORTEST + 1);
    let mut packet = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 64, EXPERIMENT, 0, 0];
    packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend(tunnel.to_be_bytes().into_iter().chain(number.to_be_bytes()));
    packet.extend((SHORTEST..len).map(|at| (at as u32 * 7 + number * 3 + tunnel) as u8));
    packet
}

fn is_ours(packet: &[u8]) -> bool {
    packet.get(9) == Some(&EXPERIMENT)
}

fn number_at(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"))
}

fn send(tx: &mut TxQueue, tag: u32, packet: &[u8]) {
    let pushed = tx.ring.push_with(tag, |buffer| {
        buffer[..packet.len()].copy_from_slice(packet);
        Ok(packet.len())
    });
    assert_eq!(pushed, Ok(()));
    tx.sync();
}

/// What has been received, with its tags.
fn take(rx: &mut RxQueue) -> Vec<(u32, Vec<u8>)> {
    rx.sync();
    let (mut frames, mut broken) = (Vec::new(), 0);
    let slots = rx.ring.take(&mut broken, |frame| frames.push((frame.tag(), whole(&frame))));
    assert_eq!(broken, 0);
    rx.ring.release(slots);
    frames.retain(|(_, packet)| is_ours(packet));
    frames
}

fn is_readable(rx: &RxQueue) -> bool {
    let fd = rx.wait_fd().expect("it can be waited for").as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives during the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

/// Packets both ways through each of `tunnels` interfaces, `rounds` times.
fn both_ways(tunnels: u32, rounds: u32) {
    let mut tuns = Tuns::with(tunnels);
    let mut before = buffers_of_pair(&tuns.pair);
    let interfaces: Vec<u32> = (0..tunnels).map(interface).collect();
    for round in 0..rounds {
        let mut numbers: Vec<u32> = (0..tunnels).collect();
        for some in numbers.chunks(16) {
            for tunnel in some {
                let packet = packet(*tunnel, round, MTU as usize);
                tuns.host.send(interfaces[*tunnel as usize], &packet).expect("room");
            }
            let mut arrived = Vec::new();
            for _ in 0..20 {
                arrived.extend(take(&mut tuns.pair.0));
            }
            arrived.sort_unstable();
            let sent = some.iter().map(|tunnel| (*tunnel, packet(*tunnel, round, MTU as usize)));
            assert_eq!(arrived, sent.collect::<Vec<_>>());
        }
        numbers.reverse();
        for tunnel in numbers {
            let packet = packet(tunnel, round, 300);
            tuns.send(tunnel, &packet);
            let came = std::iter::from_fn(|| tuns.host.receive()).find(|(_, packet)| is_ours(packet));
            assert_eq!(came, Some((interfaces[tunnel as usize], packet)));
        }
    }
    assert_eq!(tuns.dropped(), 0);
    let mut after = buffers_of_pair(&tuns.pair);
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(before, after);
    // As a daemon ends: all together, as one by one takes the system milliseconds each.
    ip_each((0..tunnels).map(|tunnel| format!("link set dev {} group 7", name(tunnel))));
    ip("link del group 7");
    while is_readable(&tuns.pair.0) {
        tuns.pair.0.sync();
    }
    assert_eq!(tuns.set.lost(), (0..tunnels).collect::<Vec<_>>());
}

#[test]
fn packets_of_three_tunnels() {
    in_namespace(|| both_ways(3, 500));
}

#[test]
fn packets_of_a_thousand_tunnels() {
    in_namespace(|| both_ways(1000, 3));
}

#[test]
fn packets_for_nobody_are_counted() {
    in_namespace(|| {
        let mut tuns = Tuns::with(2);
        tuns.set.remove(&[1]).expect("removed");
        for (tag, dropped) in [(1, 1), (2, 2), (u32::MAX, 3), (0, 3)] {
            tuns.send(tag, &packet(0, 1, 300));
            assert_eq!(tuns.dropped(), dropped, "tag {tag}");
        }
        // No IP version of ours: the host does not take it.
        tuns.send(0, &[0xff; 40]);
        assert_eq!(tuns.dropped(), 4);
    });
}

#[test]
fn a_busy_tunnel_keeps_no_other_waiting() {
    in_namespace(|| {
        let mut tuns = Tuns::with(5);
        let small = |tunnel, number| packet(tunnel, number, 40);
        for number in 0..400 {
            tuns.host.send(interface(0), &small(0, number)).expect("room");
        }
        for tunnel in 1..5 {
            tuns.host.send(interface(tunnel), &small(tunnel, 0)).expect("room");
        }
        let seen: Vec<u32> = take(&mut tuns.pair.0).into_iter().map(|(tunnel, _)| tunnel).collect();
        assert!(seen.len() <= 20 && (1..5).all(|tunnel| seen.contains(&tunnel)), "{seen:?}");
    });
}

#[test]
fn a_small_ring_serves_all_in_turn() {
    in_namespace(|| {
        // Room for two packets at a time, of up to four slots.
        let mut tuns = Tuns::in_rings_of(6);
        (0..5).for_each(|tunnel| tuns.add(tunnel));
        for number in 0..20 {
            (0..5).for_each(|tunnel| {
                tuns.host.send(interface(tunnel), &packet(tunnel, number, 40)).expect("room")
            });
        }
        let mut counts = [0; 5];
        for _ in 0..10 {
            take(&mut tuns.pair.0).into_iter().for_each(|(tunnel, _)| counts[tunnel as usize] += 1);
        }
        assert_eq!(counts, [4; 5]);
    });
}

#[test]
fn an_interface_outlives_changes_of_its_tunnel() {
    in_namespace(|| {
        let mut tuns = Tuns::with(2);
        ip("address add 198.51.100.1 peer 198.51.100.2 dev tun-0");
        let before = interface(0);
        tuns.set.add(0, "tun-0", 1300).expect("the same");
        assert_eq!(interface(0), before);
        assert!(shown("tun-0").contains("mtu 1300"));
        tuns.set.renumber(&[(0, 1), (1, 0)]).expect("both exist");
        assert!(ip("address show dev tun-0").contains("198.51.100.1 peer 198.51.100.2"));
        tuns.host.send(before, &packet(0, 1, 300)).expect("room");
        assert_eq!(take(&mut tuns.pair.0), [(1, packet(0, 1, 300))]);
        tuns.set.renumber(&[(1, 70_000)]).expect("free");
        tuns.send(70_000, &packet(5, 5, 300));
        let came = std::iter::from_fn(|| tuns.host.receive()).find(|(_, packet)| is_ours(packet));
        assert_eq!(came, Some((before, packet(5, 5, 300))));
        tuns.send(1, &packet(5, 5, 300));
        assert_eq!(tuns.dropped(), 1, "nobody has this number now");
    });
}

#[test]
fn what_cannot_be_is_said_and_changes_nothing() {
    in_namespace(|| {
        let mut tuns = Tuns::with(2);
        let taken = |result: Result<(), TunError>| result.expect_err("refused").to_string();
        assert_eq!(
            taken(tuns.set.add(0, "other", MTU)),
            "interface other for tunnel 0: tunnel 0 has tun-0: remove that first"
        );
        assert_eq!(
            taken(tuns.set.add(7, "tun-1", MTU)),
            "interface tun-1 for tunnel 7: tunnel 1 has tun-1: remove that first"
        );
        assert!(taken(tuns.set.add(7, "lo", MTU)).contains("another kind"));
        assert!(matches!(tuns.set.add(1 << 20, "far", MTU), Err(TunError::TooMany(_))));
        for wrong in [&[(9, 10)][..], &[(0, 1)], &[(0, 5), (1, 5)], &[(0, 5), (0, 6)], &[(0, 1 << 20)]] {
            assert!(matches!(tuns.set.renumber(wrong), Err(TunError::Number(_))), "{wrong:?}");
        }
        assert_eq!(index_of("other").or(index_of("far")), None);
        for tunnel in 0..2 {
            tuns.host.send(interface(tunnel), &packet(tunnel, 1, 300)).expect("room");
            assert_eq!(take(&mut tuns.pair.0), [(tunnel, packet(tunnel, 1, 300))]);
        }
    });
}

#[test]
fn a_deleted_interface_is_noticed_and_made_anew() {
    in_namespace(|| {
        let mut tuns = Tuns::with(2);
        assert_eq!(tuns.set.lost(), []);
        ip("link del tun-0");
        assert!(is_readable(&tuns.pair.0), "the worker is woken");
        take(&mut tuns.pair.0);
        assert!(!is_readable(&tuns.pair.0), "once");
        assert_eq!(tuns.set.lost(), [0]);
        tuns.send(0, &packet(0, 1, 300));
        assert_eq!(tuns.dropped(), 1);
        tuns.add(0);
        assert_eq!(tuns.set.lost(), []);
        for tunnel in 0..2 {
            tuns.host.send(interface(tunnel), &packet(tunnel, 1, 300)).expect("room");
            assert!(is_readable(&tuns.pair.0));
            assert_eq!(take(&mut tuns.pair.0), [(tunnel, packet(tunnel, 1, 300))]);
        }
        tuns.set.remove(&[1]).expect("removed");
        assert_eq!(index_of("tun-1"), None);
        drop(tuns.set);
        assert_eq!(index_of("tun-0"), None, "they go with the set");
        tuns.pair.0.sync();
        send(&mut tuns.pair.1, 0, &packet(0, 1, 300));
    });
}

#[test]
fn an_existing_interface_stays_and_a_new_one_goes() {
    in_namespace(|| {
        ip("tuntap add dev tun-0 mode tun");
        let mut tuns = Tuns::with(2);
        assert_eq!(tuns.set.made(), ["tun-1"]);
        tuns.set.remove(&[0, 1]).expect("removed");
        assert!(index_of("tun-0").is_some() && index_of("tun-1").is_none());
        tuns.add(0);
        tuns.host.send(interface(0), &packet(0, 1, 300)).expect("room");
        assert_eq!(take(&mut tuns.pair.0), [(0, packet(0, 1, 300))]);
    });
}

#[test]
fn a_place_is_used_again_when_all_workers_know() {
    in_namespace(|| {
        let mut tuns = Tuns::with(1);
        tuns.set.remove(&[0]).expect("removed");
        tuns.add(1);
        assert_eq!(tuns.set.places, 2, "a worker may still read the first for tunnel 0");
        tuns.pair.0.sync();
        tuns.add(2);
        assert_eq!(tuns.set.places, 3, "or write to it");
        tuns.pair.1.sync();
        tuns.add(3);
        assert_eq!(tuns.set.places, 3);
        for tunnel in 1..4 {
            tuns.host.send(interface(tunnel), &packet(tunnel, 1, 300)).expect("room");
            assert_eq!(take(&mut tuns.pair.0), [(tunnel, packet(tunnel, 1, 300))]);
        }
    });
}

#[test]
fn each_queue_serves_some_and_sends_to_all() {
    in_namespace(|| {
        let region = Region::new(4, 64, BUFFER, 0, false).expect("a region");
        let (port, mut set) = Port::tun(&region, 2).expect("a port");
        let host = PacketSocket::new();
        let mut queues = port.queues;
        for tunnel in 0..4 {
            set.add(tunnel, &name(tunnel), MTU).expect("an interface");
            host.send(interface(tunnel), &packet(tunnel, 1, 300)).expect("room");
        }
        let mut tunnels = queues.iter_mut().map(|(rx, _)| {
            let mut tags: Vec<u32> = take(rx).into_iter().map(|(tag, _)| tag).collect();
            tags.sort_unstable();
            tags
        });
        assert_eq!((tunnels.next(), tunnels.next()), (Some(vec![0, 2]), Some(vec![1, 3])));
        for tunnel in 0..4 {
            for (_, tx) in &mut queues {
                send(tx, tunnel, &packet(tunnel, 2, 300));
                let came = std::iter::from_fn(|| host.receive()).find(|(_, packet)| is_ours(packet));
                assert_eq!(came, Some((interface(tunnel), packet(tunnel, 2, 300))));
            }
        }
    });
}

/// Stops the worker, also when the test fails: it would be waited for.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A worker that sends each packet back into the tunnel that it came from, until told to stop.
fn reflect_until((rx, tx): &mut Pair, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        rx.sync();
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |mut frame| {
            // Full while the other side is slow, and dropped then.
            let _ = tx.ring.push(&mut frame);
        });
        rx.ring.release(slots);
        tx.sync();
        std::thread::yield_now();
    }
}

/// Interfaces come, go and change numbers while packets of all go round: none gets into another's, and those that stay lose
/// nothing.
#[test]
fn interfaces_come_and_go_under_traffic() {
    const STAY: u32 = 4;
    in_namespace(|| {
        let Tuns { mut pair, mut set, host } = Tuns::with(STAY);
        let mut before = buffers_of_pair(&pair);
        let stop = AtomicBool::new(false);
        let mut next = [0; STAY as usize];
        // Indices are never used again.
        let mut owners: HashMap<u32, u32> = (0..STAY).map(|tunnel| (interface(tunnel), tunnel)).collect();
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| reflect_until(&mut pair, &stop));
            for round in 0..40 {
                // By name: `tun-0` to `tun-3` stay, and their numbers go round.
                let passing = [0, 1, 2].map(|nth| STAY + (round + nth) % 5);
                for tunnel in &passing {
                    set.add(*tunnel + 100, &name(*tunnel), MTU).expect("an interface");
                    owners.insert(interface(*tunnel), *tunnel);
                }
                for (tunnel, number) in (0..STAY).zip(&next) {
                    host.send(interface(tunnel), &packet(tunnel, *number, 300)).expect("room");
                }
                for tunnel in &passing {
                    host.send(interface(*tunnel), &packet(*tunnel, round, 300)).expect("room");
                }
                let mut waiting = STAY;
                for _ in 0..100_000 {
                    let Some((from, came)) = host.receive().filter(|(_, packet)| is_ours(packet)) else {
                        std::thread::yield_now();
                        continue;
                    };
                    let (tunnel, number) = (number_at(&came, 20), number_at(&came, 24));
                    assert_eq!(came, packet(tunnel, number, 300));
                    assert_eq!(owners.get(&from), Some(&tunnel), "on interface {from}");
                    if let Some(next) = next.get_mut(tunnel as usize) {
                        assert_eq!(number, *next);
                        *next += 1;
                        waiting -= 1;
                    }
                    if waiting == 0 {
                        break;
                    }
                }
                assert_eq!(waiting, 0, "lost in round {round}");
                for tunnel in &passing {
                    // With packets under way.
                    host.send(interface(*tunnel), &packet(*tunnel, round, 300)).expect("room");
                }
                set.remove(&passing.map(|tunnel| tunnel + 100)).expect("removed");
                assert!(passing.iter().all(|tunnel| index_of(&name(*tunnel)).is_none()), "at once");
                set.renumber(
                    &(0..STAY).map(|n| ((n + round) % STAY, (n + round + 1) % STAY)).collect::<Vec<_>>(),
                )
                .expect("a rotation");
            }
        });
        let mut after = buffers_of_pair(&pair);
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after);
    });
}

/// Turns an echo request into its reply, in place (RFC 792, RFC 4443 section 4). False for anything else.
fn answer_echo(packet: &mut [u8]) -> bool {
    let (addresses, len, icmp, request, reply) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet[9] == 1 => (12, 4, 20, 8, 0),
        Some(6) if packet[6] == 58 => (8, 16, 40, 128, 129),
        _ => return false,
    };
    if packet[icmp] != request {
        return false;
    }
    let (source, destination) = packet[addresses..addresses + 2 * len].split_at_mut(len);
    source.swap_with_slice(destination);
    packet[icmp] = reply;
    // The checksum's change, in one's complement (RFC 1624): the type is the high byte of its word.
    let sum = u16::from_be_bytes([packet[icmp + 2], packet[icmp + 3]]);
    let change = u32::from(!sum) + u32::from(!(u16::from(request) << 8)) + u32::from(u16::from(reply) << 8);
    let folded = (change & 0xffff) + (change >> 16);
    let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
    true
}

fn answer_until((rx, tx): &mut Pair, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        rx.sync();
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |mut frame| {
            if answer_echo(frame.bytes_mut()) {
                let _ = tx.ring.push(&mut frame);
            }
        });
        rx.ring.release(slots);
        tx.sync();
        std::thread::yield_now();
    }
}

#[test]
fn the_host_pings_through_a_tunnel() {
    in_namespace_with_ipv6(|| {
        let Tuns { mut pair, set: _set, host: _host } = Tuns::with(3);
        ip("address add 198.51.100.1 peer 198.51.100.2 dev tun-1");
        ip("address add 2001:db8::1 peer 2001:db8::2 dev tun-2 nodad");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| answer_until(&mut pair, &stop));
            // 1200 bytes: several buffers.
            let pings = [
                ("198.51.100.2", "56"),
                ("198.51.100.2", "1200"),
                ("2001:db8::2", "56"),
                ("2001:db8::2", "1200"),
            ];
            for (address, size) in pings {
                let ping = ["-n", "-q", "-c", "3", "-i", "0.1", "-W", "2", "-s", size, address];
                let output = Command::new("ping").args(ping).output().expect("ping");
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("3 received"), "{text}");
            }
        });
    });
}

/// From a tunnel's interface over a memory wire and back into the host: the buffers of all rings change places.
#[test]
fn packets_keep_their_tag_over_a_wire() {
    in_namespace(|| {
        let region = Region::new(2 + RINGS_PER_QUEUE, 64, BUFFER, SPARE_PER_QUEUE, false).expect("a region");
        let (port, mut set) = Port::tun(&region, 1).expect("a port");
        let (left, right) = wire(&region, 1, true).expect("rings");
        let ((mut rx, mut tx), (_, mut left), (mut right, _)) = (only(port), only(left), only(right));
        let host = PacketSocket::new();
        let copied = |tx: &TxQueue| tx.ring.copied_bytes();
        (0..2).for_each(|tunnel| set.add(tunnel, &name(tunnel), MTU).expect("an interface"));
        let pass = |rx: &mut RxQueue, tx: &mut TxQueue, exchange: bool| {
            rx.sync();
            let mut broken = 0;
            let slots = rx.ring.take(&mut broken, |mut frame| {
                let tag = frame.tag();
                frame.set_tag(if exchange { 1 - tag } else { tag });
                assert_eq!(tx.ring.push(&mut frame), Ok(()));
            });
            rx.ring.release(slots);
            tx.sync();
        };
        for number in 0..500 {
            let tunnel = number % 2;
            let packet = packet(tunnel, number, MTU as usize);
            host.send(interface(tunnel), &packet).expect("room");
            pass(&mut rx, &mut left, false);
            pass(&mut right, &mut tx, true);
            let came = std::iter::from_fn(|| host.receive()).find(|(_, packet)| is_ours(packet));
            assert_eq!(came, Some((interface(1 - tunnel), packet)), "into the other tunnel");
        }
        assert_eq!((copied(&left), copied(&tx)), (0, 0));
        assert_eq!(rx.device().map(|device| device.transmit_dropped.get()), Some(0));
        assert!(Arc::ptr_eq(rx.ring.raw.region(), &region));
    });
}
