//! AF_XDP ports on pairs of virtual interfaces, against packet sockets. They need root, and fail without it.

mod lab;
mod packets;
pub(in crate::ring) mod rig;

use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use lab::*;
use packets::{Case, LOCAL_V4, LOCAL_V6};

use super::{Encapsulation, RINGS_PER_QUEUE, Umem, XdpOptions, XdpPort};
use crate::ring::{HEADROOM, Health, Refused, Region, RxQueue};

const SLOTS: u32 = 128;

fn umem(queues: usize) -> Arc<Umem> {
    let region = Region::new(queues * RINGS_PER_QUEUE, SLOTS, 2048, 0, false).expect("a region");
    Umem::new(&region).expect("a UMEM")
}

fn open(umem: &Arc<Umem>, interface: &str, options: XdpOptions) -> Opened {
    Opened::new(
        XdpPort::open(umem, interface, options).unwrap_or_else(|error| panic!("{interface}: {error}")),
    )
}

/// How it came to its frames is said, and whether the interface takes tags out of them is seen. (What it does with them, all
/// ports do: `ring/tests/ports.rs`.)
#[test]
fn it_says_how_it_runs() {
    enter_namespace();
    veth("v0", "v1", 1);
    let port = open(&umem(1), "v0", EVERYTHING);
    assert_eq!(port.control.health(), Health::Attached);
    assert_eq!(port.control.mode(), "native, copy");
    assert!(port.control.strips_tags().expect("offloads"));
    run("ethtool -K v0 rxvlan off");
    assert!(!port.control.strips_tags().expect("offloads"));
}

/// A frame received by one port goes out by the other in the same buffer, with headers put in front, both ways.
#[test]
fn frames_are_swapped_between_two_ports() {
    enter_namespace();
    veth("v0", "v1", 1);
    veth("w0", "w1", 1);
    let umem = umem(2);
    let (mut left, mut right) = (open(&umem, "v0", EVERYTHING), open(&umem, "w0", EVERYTHING));
    let (before, behind) = (Wire::new("v1"), Wire::new("w1"));
    let header = [2, 9, 9, 9, 9, 9, 2, 8, 8, 8, 8, 8, 0x88, 0xb6];

    for burst in 0..100 {
        let frames: Vec<_> = (0..100).map(|n| frame(burst * 100 + n, 14)).collect();
        let ways = if burst % 2 == 0 {
            (&before, &mut left, &mut right, &behind)
        } else {
            (&behind, &mut right, &mut left, &before)
        };
        let (sender, from, to, receiver) = ways;
        frames.iter().for_each(|frame| sender.send(frame));
        let mut forwarded = 0;
        wait_for(|| {
            from.rx.sync();
            let mut broken = 0;
            let slots = from.rx.ring.take(&mut broken, |mut frame| {
                assert!(frame.headroom() >= HEADROOM as usize);
                assert!(frame.pull(14) && frame.push(100) && frame.pull(100 - 14));
                frame.bytes_mut()[..14].copy_from_slice(&header);
                to.tx.ring.push(&mut frame).expect("room");
                forwarded += 1;
            });
            assert_eq!(broken, 0);
            from.rx.ring.release(slots);
            to.tx.sync();
            // Lends the released buffers out again.
            from.rx.sync();
            (forwarded == frames.len()).then_some(())
        })
        .unwrap_or_else(|| panic!("{forwarded} of burst {burst} forwarded: {:?}", from.control.statistics()));
        for frame in &frames {
            let mut expected = frame.clone();
            expected[..14].copy_from_slice(&header);
            assert_eq!(receiver.receive(), Some(expected), "burst {burst}");
        }
    }
    for port in [&mut left, &mut right] {
        port.tx.sync();
        assert_eq!(port.tx.ring.copied_bytes(), 0);
        port.no_trouble();
    }
    every_buffer_once(umem.region(), [(&left.rx, &left.tx), (&right.rx, &right.tx)]);
}

/// Each queue is a ring pair of its own.
#[test]
fn several_queues_share_the_work() {
    enter_namespace();
    veth("v0", "v1", 2);
    let umem = umem(2);
    let (mut port, control) = XdpPort::open(&umem, "v0", EVERYTHING).expect("a port");
    assert_eq!(port.queues.len(), 2);
    let wire = Wire::new("v1");

    let (mut sent, mut got, mut each) = (Vec::new(), Vec::new(), [0; 2]);
    for round in 0..50 {
        let frames: Vec<_> = (0..40).map(|n| packets::flow(round * 40 + n)).collect();
        frames.iter().for_each(|frame| wire.send(frame));
        sent.extend(frames);
        wait_for(|| {
            for ((rx, _), count) in port.queues.iter_mut().zip(&mut each) {
                let frames = take(rx);
                *count += frames.len();
                got.extend(frames);
            }
            (got.len() >= sent.len()).then_some(())
        });
    }
    assert!(each.iter().all(|count| *count > 100), "{each:?}");
    sent.sort();
    got.sort();
    assert_eq!(got, sent);

    for (number, (_, tx)) in (0..).zip(&mut port.queues) {
        let frame = frame(number, 60);
        tx.ring.push_bytes(&frame).expect("room");
        tx.sync();
        assert_eq!(wire.receive(), Some(frame), "queue {number}");
        tx.sync();
    }
    let seen = control.statistics().expect("counters");
    assert_eq!((seen.rx_dropped, seen.broken), (0, 0));
    every_buffer_once(umem.region(), port.queues.iter().map(|(rx, tx)| (rx, tx)));
}

/// What has no descriptor is counted, keeps its buffer, and holds nothing up; a full ring stays full until it is sent.
#[test]
fn unsendable_frames_are_counted_and_cost_no_buffer() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", EVERYTHING);
    let wire = Wire::new("v1");
    for round in 0..10 {
        let frames: Vec<_> = (0..SLOTS - 1).map(|n| frame(round * 1000 + n, 60)).collect();
        for (nth, frame) in frames.iter().enumerate() {
            let bytes = if nth % 3 == 0 { &frame[..nth % 14] } else { frame };
            port.tx.ring.push_bytes(bytes).expect("room");
        }
        assert_eq!(port.tx.ring.push_bytes(&frames[0]), Err(Refused::Full));
        port.tx.sync();
        for (nth, frame) in frames.iter().enumerate().filter(|(nth, _)| nth % 3 != 0) {
            assert_eq!(wire.receive().as_ref(), Some(frame), "round {round}, frame {nth}");
        }
        port.tx.sync();
        assert_eq!(port.tx.ring.space(), SLOTS - 1);
    }
    assert_eq!(
        port.control.statistics().expect("counters").tx_unsendable,
        10 * u64::from(SLOTS - 1).div_ceil(3)
    );
    port.no_trouble();
    every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
}

/// Where the driver has no hook, the program runs behind it.
#[test]
fn an_interface_without_a_hook_is_used_as_well() {
    enter_namespace();
    veth("v0", "v1", 1);
    run("ip link add link v0 name m0 address 02:00:00:00:00:01 type macvlan mode bridge");
    run("ip link set m0 up");
    let umem = umem(1);
    let mut port = open(&umem, "m0", EVERYTHING);
    assert!(port.control.mode().starts_with("generic (native: Operation not supported"));
    assert!(port.control.mode().ends_with("), copy"));
    assert_eq!(port.control.mac(), [2, 0, 0, 0, 0, 1]);
    let wire = Wire::new("v1");
    for n in 0..2000 {
        wire.send(&frame(n, 60));
        assert_eq!(port.receive(1), [frame(n, 60)]);
        // Not to its own address, which would never leave.
        let mut answer = frame(n, 60);
        answer[5] = 2;
        port.tx.ring.push_bytes(&answer).expect("room");
        port.tx.sync();
        assert_eq!(wire.receive(), Some(answer));
        port.tx.sync();
    }
    port.no_trouble();
    every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
}

/// More than the rings hold is dropped and counted by the kernel, and what comes later is received as before.
#[test]
fn an_overrun_is_counted_and_passes() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", EVERYTHING);
    let wire = Wire::new("v1");
    for n in 0..3 * SLOTS {
        wire.send(&frame(n, 60));
    }
    wait_for(|| {
        let dropped = port.control.statistics().expect("counters").rx_dropped;
        (dropped == u64::from(2 * SLOTS + 1)).then_some(())
    })
    .expect("what is over");
    let kept = port.receive(SLOTS as usize - 1);
    assert_eq!(kept, (0..SLOTS - 1).map(|n| frame(n, 60)).collect::<Vec<_>>());
    wire.send(&frame(7, 60));
    assert_eq!(port.receive(1), [frame(7, 60)]);
    every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
}

/// Sends each packet, numbered in its source address, and looks where it turns up.
fn verdicts(wire: &Wire, port: &mut Opened, host: &Wire, cases: &[Case]) {
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let mut frame = case.frame.clone();
        frame[10..12].copy_from_slice(&(number as u16).to_be_bytes());
        wire.send(&frame);
        let seen = wait_for(|| {
            let ours = port.take().pop().map(|frame| (frame, true));
            ours.or_else(|| host.poll().map(|frame| (frame, false)))
        });
        let Some((seen, ours)) = seen else { panic!("{}: lost", case.name) };
        if frame[12..14] == [0x81, 0x00] {
            // Packet sockets show the tag elsewhere.
            frame.drain(12..16);
        }
        assert_eq!(seen, frame, "{}", case.name);
        if ours != case.ours {
            wrong.push(format!("{}: {}", case.name, if ours { "ours" } else { "the kernel's" }));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((port.take().len(), host.poll()), (0, None), "something came twice");
}

#[test]
fn the_program_takes_what_is_ours_and_no_more() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", XdpOptions::default());
    let (wire, host) = (Wire::new("v1"), Wire::new("v0"));

    // Nothing has been said yet: all is the kernel's.
    let unset: Vec<_> = packets::local().into_iter().map(|case| Case { ours: false, ..case }).collect();
    verdicts(&wire, &mut port, &host, &unset);

    let steering = port.control.steering().expect("a steered port");
    steering.set_local(&[LOCAL_V4.into(), LOCAL_V6.into()]).expect("addresses");
    verdicts(&wire, &mut port, &host, &packets::local());

    let steering = port.control.steering().expect("a steered port");
    let prefix = |text: &str, length, ours| (text.parse().expect("an address"), length, ours);
    let prefixes = [
        prefix("10.255.255.255", 8, true),
        prefix("10.1.0.0", 16, false),
        prefix("10.1.2.0", 24, true),
        prefix("2001:db8:a::", 48, true),
        prefix("2001:db8:a:b::", 64, false),
        prefix("2001:db8:a:b::7", 128, true),
    ];
    steering.set_prefixes(&prefixes).expect("prefixes");
    let by_prefix = packets::forwarded(
        &["10.0.0.1", "10.1.2.255", "10.2.0.0", "2001:db8:a::1", "2001:db8:a:b::7"],
        &["11.0.0.1", "10.1.1.1", "10.1.3.0", "192.0.2.1", "2001:db8:a:b::8", "2001:db8:b::"],
    );
    verdicts(&wire, &mut port, &host, &by_prefix);
    // An address of ours is not forwarded to, whatever prefix holds it.
    verdicts(&wire, &mut port, &host, &packets::local());

    let steering = port.control.steering().expect("a steered port");
    steering.set_prefixes(&[prefix("0.0.0.0", 0, true), prefix("::", 0, true)]).expect("prefixes");
    let everywhere = packets::forwarded(
        &["11.0.0.1", "10.1.1.1", "198.51.100.9", "2001:db8:b::", "fc00::1"],
        &["192.0.2.1", "127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", "::1", "ff02::5", "fe80::1"],
    );
    verdicts(&wire, &mut port, &host, &everywhere);
    let steering = port.control.steering().expect("a steered port");
    steering.set_ports(&[(5000, Encapsulation::Esp)]).expect("ports");
    verdicts(&wire, &mut port, &host, &packets::other_ports());

    let steering = port.control.steering().expect("a steered port");
    let error = steering.set_prefixes(&[prefix("10.0.0.0", 33, true)]).expect_err("no prefix");
    assert_eq!(error.to_string(), "10.0.0.0/33 is no prefix");
    steering.set_local(&[]).expect("no addresses");
    steering.set_prefixes(&[]).expect("no prefixes");
    verdicts(&wire, &mut port, &host, &unset);
    port.no_trouble();
    every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
}

/// Prefixes come and go under traffic whose destination is ours before and after: not one packet is the kernel's meanwhile.
#[test]
fn what_stays_ours_is_ours_during_a_change() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", XdpOptions::default());
    let (wire, host) = (Wire::new("v1"), Wire::new("v0"));
    let whole: Vec<_> = [("10.0.0.0", 8), ("10.1.2.3", 32)].map(prefix_of).into();
    let halves: Vec<_> = [("10.0.0.0", 9), ("10.128.0.0", 9), ("10.1.0.0", 16)].map(prefix_of).into();
    port.control.steering().expect("a steered port").set_prefixes(&whole).expect("prefixes");

    let frame = packets::forwarded(&["10.1.2.3"], &[]).remove(0).frame;
    let (stop, mut received, mut changes) = (AtomicBool::new(false), 0u64, 0);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                wire.send(&frame);
                sent += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
            sent
        });
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let wanted = if changes % 2 == 0 { &halves } else { &whole };
            port.control.steering().expect("a steered port").set_prefixes(wanted).expect("prefixes");
            changes += 1;
            received += port.take().len() as u64;
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("the sender")
    });
    assert!(sent > 1000 && changes > 100, "{sent} packets, {changes} changes");
    // On a busy machine the ring may overrun; what it had no room for was ours all the same.
    let dropped = |port: &Opened| port.control.statistics().expect("counters").rx_dropped;
    let all = wait_for(|| {
        received += port.take().len() as u64;
        (received + dropped(&port) >= sent).then_some(received + dropped(&port))
    });
    assert_eq!((all, host.poll()), (Some(sent), None));
}

fn prefix_of((text, length): (&str, u8)) -> (IpAddr, u8, bool) {
    (text.parse().expect("an address"), length, true)
}

/// The host keeps its network while a port is open on its interface: another host resolves its address and pings it.
#[test]
fn the_host_answers_while_the_port_is_open() {
    enter_namespace();
    veth("v0", "v1", 1);
    run("ip address add 192.0.2.1/24 dev v0");
    let umem = umem(1);
    let mut port = open(&umem, "v0", XdpOptions::default());
    let steering = port.control.steering().expect("a steered port");
    steering.set_local(&[LOCAL_V4.into()]).expect("an address");
    steering.set_prefixes(&[prefix_of(("0.0.0.0", 0))]).expect("a prefix");

    let (here, there) = mpsc::channel();
    let (moved, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            enter_namespace();
            // SAFETY: a plain call.
            here.send(unsafe { libc::gettid() }).expect("the test waits");
            wait.recv().expect("the interface");
            run("ip address add 192.0.2.2/24 dev v1");
            run("ip link set v1 up");
            run("ping -c 3 -i 0.2 -W 2 192.0.2.1");
        });
        run(&format!("ip link set v1 netns {}", there.recv().expect("a namespace")));
        moved.send(()).expect("the thread waits");
        other.join().expect("answers");
    });
    assert_eq!(port.take().len(), 0);
}

const HOLDER: &str = "CULVERT_TEST_HOLDS";

/// Killed while it holds the interface, under load, a process gives it back: the host has its frames again.
#[test]
fn a_killed_process_gives_the_interface_back() {
    if let Ok(interface) = std::env::var(HOLDER) {
        return hold(&interface);
    }
    enter_namespace();
    veth("v0", "v1", 1);
    let (wire, host) = (Wire::new("v1"), Wire::new("v0"));
    let name = "ring::xdp::tests::a_killed_process_gives_the_interface_back";
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(HOLDER, "v0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let held = lines.map_while(Result::ok).any(|line| line.contains("holds"));
    let load = |n| wire.send(&frame(n, 60));
    (0..1000).for_each(load);
    let seen = host.poll();
    child.kill().expect("ours to kill");
    let status = child.wait().expect("its end");
    assert!(held && seen.is_none(), "the child did not hold the interface: {status}");

    let back = wait_for(|| {
        load(1);
        host.poll()
    });
    assert_eq!(back, Some(frame(1, 60)));
    // What the kernel clears away in its own time is the queue.
    let umem = umem(1);
    wait_for(|| XdpPort::open(&umem, "v0", EVERYTHING).ok()).expect("the interface can be opened again");
}

/// The other process's part: takes all frames until it is killed, or for as long as a test may last.
fn hold(interface: &str) {
    let umem = umem(1);
    let mut port = open(&umem, interface, EVERYTHING);
    println!("holds {interface}");
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        port.take();
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Dropping what manages a port gives the interface back at once.
#[test]
fn a_dropped_port_gives_the_interface_back() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let Opened { mut rx, tx, control } = open(&umem, "v0", EVERYTHING);
    let (wire, host) = (Wire::new("v1"), Wire::new("v0"));
    wire.send(&frame(1, 60));
    let got = wait_for(|| take(&mut rx).pop());
    assert_eq!((got, host.poll()), (Some(frame(1, 60)), None));
    drop(control);
    wire.send(&frame(2, 60));
    assert_eq!((host.receive(), take(&mut rx).len()), (Some(frame(2, 60)), 0));
    every_buffer_once(umem.region(), [(&rx, &tx)]);
}

#[test]
fn an_interface_may_go_down_and_leave() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", EVERYTHING);
    let wire = Wire::new("v1");
    run("ip link set v0 down");
    assert_eq!((port.control.health(), port.rx.health()), (Health::Down, Health::Down));
    port.tx.ring.push_bytes(&frame(1, 60)).expect("room");
    port.tx.sync();
    assert!(port.tx.pending());
    run("ip link set v0 up");
    assert_eq!(port.control.health(), Health::Attached);
    // What waited is sent, and what is sent now arrives.
    let sent = wait_for(|| {
        port.tx.sync();
        wire.poll()
    });
    assert_eq!(sent, Some(frame(1, 60)));
    assert!(!port.tx.pending());
    let received = wait_for(|| {
        wire.send(&frame(2, 60));
        port.take().pop()
    });
    assert_eq!(received, Some(frame(2, 60)));

    run("ip link delete v0");
    assert_eq!((port.control.health(), port.rx.health()), (Health::Departed, Health::Departed));
    for n in 0..4 * SLOTS {
        let full = port.tx.ring.push_bytes(&frame(n, 60));
        assert_eq!(full.is_err(), n >= SLOTS - 1);
        port.tx.sync();
        assert_eq!(port.take().len(), 0);
    }
    assert!(!readable(&port.rx, Duration::from_millis(50)), "who waits is not woken for nothing");
    every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
}

/// Waits as an idle worker does.
fn readable(rx: &RxQueue, time: Duration) -> bool {
    let fd = rx.wait_fd().expect("a socket").as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one whole pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, time.as_millis() as libc::c_int) };
    assert!(ready >= 0);
    ready > 0
}

#[test]
fn a_thread_can_wait_for_frames() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", EVERYTHING);
    let wire = Wire::new("v1");
    for n in 0..100 {
        assert!(!readable(&port.rx, Duration::ZERO) && !port.rx.pending());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(1));
                wire.send(&frame(n, 60));
            });
            assert!(readable(&port.rx, Duration::from_secs(2)));
        });
        assert!(port.rx.pending());
        assert_eq!(port.take(), [frame(n, 60)]);
    }
}

/// An interface that goes and comes back is taken up with the same ring pairs, and the same is ours.
#[test]
fn an_interface_that_comes_back_is_found_again() {
    enter_namespace();
    veth("v0", "v1", 1);
    let umem = umem(1);
    let mut port = open(&umem, "v0", XdpOptions::default());
    let steering = port.control.steering().expect("a steered port");
    steering.set_prefixes(&[prefix_of(("10.0.0.0", 8))]).expect("a prefix");
    let cases = packets::forwarded(&["10.1.2.3"], &["11.1.2.3"]);
    for round in 0..5 {
        let (wire, host) = (Wire::new("v1"), Wire::new("v0"));
        port.control.reattach().expect("nothing to do");
        for _ in 0..SLOTS {
            verdicts(&wire, &mut port, &host, &cases);
        }
        for n in 0..2 * SLOTS {
            port.tx.ring.push_bytes(&frame(n, 60)).expect("room");
            port.tx.sync();
            assert_eq!(wire.receive(), Some(frame(n, 60)));
            port.tx.sync();
        }
        // Gone with frames that nobody has taken, and others that nobody will send.
        wire.send(&cases[0].frame);
        run("ip link delete v0");
        for n in 0..round * 20 {
            port.tx.ring.push_bytes(&frame(n, 60)).expect("room");
        }
        port.tx.sync();
        let error = port.control.reattach().expect_err("not there");
        assert_eq!(error.to_string(), "there is no interface v0");
        veth("v0", "v1", 1);
        port.control.reattach().expect("the interface");
        assert_eq!(port.control.health(), Health::Attached);
        port.rx.sync();
        port.tx.sync();
        assert_eq!(port.tx.ring.space(), SLOTS - 1, "round {round}");
        every_buffer_once(umem.region(), [(&port.rx, &port.tx)]);
    }
}

fn refusal(umem: &Arc<Umem>, interface: &str, options: XdpOptions) -> String {
    match XdpPort::open(umem, interface, options) {
        Ok(_) => panic!("{interface} was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn refusals_say_what_is_in_the_way() {
    enter_namespace();
    veth("v0", "v1", 2);
    let umem = umem(2);
    let all = XdpOptions::default();
    assert_eq!(refusal(&umem, "v7", all), "there is no interface v7");
    assert_eq!(
        refusal(&umem, "a-name-that-is-too-long", all),
        "there is no interface a-name-that-is-too-long"
    );
    assert_eq!(refusal(&umem, "lo", all), "lo is not an Ethernet interface");
    let one = XdpOptions { queues: Some(1), ..all };
    assert!(refusal(&umem, "v0", one).starts_with("v0 receives on 2 queues, not 1: open all of them"));
    run("ip link set v0 mtu 1800");
    assert!(
        refusal(&umem, "v0", all).starts_with("the MTU of v0 is 1800, and the buffers have room for 1774")
    );
    run("ip link set v0 mtu 1500");

    let held = XdpPort::open(&umem, "v0", all).expect("a port");
    assert!(refusal(&umem, "v0", all).starts_with("queue 0 of v0 is in use"));
    drop(held);
    let map = super::Map::new(super::Kind::Sockets, 1, "t").expect("a map");
    let program = super::load(&map, None).expect("a program");
    let found = super::Interface::find("v1").expect("v1");
    let link = program.attach(found.index, super::bpf::GENERIC).expect("a link");
    assert!(refusal(&umem, "v1", all).starts_with("another XDP program is attached to v1"));
    drop(link);

    let region = Region::new(2, 64, 512, 0, false).expect("a region");
    let error = Umem::new(&region).err().expect("refused");
    assert_eq!(error.to_string(), "AF_XDP takes buffers of 2048 or 4096 bytes, not of 512");

    let mut bad = super::assembler::Assembler::default();
    bad.exit();
    let refused = super::Program::load(&bad.finish().expect("code"), "t").err().expect("R0 was never set");
    assert!(refused.log.contains("R0 !read_ok"), "{}", refused.log);

    // This thread, not the process, gives up its rights.
    // SAFETY: a plain call.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
    for (options, what) in
        [(all, "making the steering program's maps"), (EVERYTHING, "opening an AF_XDP socket")]
    {
        let error = refusal(&umem, "v0", options);
        assert!(error.starts_with(&format!("not permitted while {what}: run as root")), "{error}");
    }
}

/// A queue that the kernel has not given up yet is asked for again; what is wrong otherwise is told at once.
#[test]
fn a_queue_that_is_still_held_is_waited_for() {
    let answers = |first: Vec<libc::c_int>| {
        let mut first = first.into_iter();
        let mut asked = 0;
        let last = super::patiently(|| {
            asked += 1;
            first.next().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        });
        (asked, last.map_err(|error| error.raw_os_error()))
    };
    assert_eq!(answers(vec![libc::EBUSY, libc::EBUSY]), (3, Ok(())));
    assert_eq!(answers(vec![libc::EBUSY, libc::ENODEV]), (2, Err(Some(libc::ENODEV))));
}
