//! A network of its own for each test: its thread moves into a new network namespace, which ends with the thread and the
//! sockets made in it, whatever becomes of the test.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ring::port::{Sink, Source};
use crate::ring::xdp::{Take, XdpOptions, XdpPort};
use crate::ring::{Port, Region, RxQueue, TxQueue};

/// Puts the calling thread, and what it starts from now on, into a new network namespace.
pub(super) fn enter_namespace() {
    // SAFETY: a plain call; only this thread is moved.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "a network namespace (these tests need root): {}", io::Error::last_os_error());
    // An interface that comes up says so to IPv6 groups, which no test has asked for.
    let switch = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    std::fs::write(switch, "1").unwrap_or_else(|error| panic!("{switch}: {error}"));
}

pub(super) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a command"));
    let output = command.args(words).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two joined interfaces without addresses, up, whose checksums are not put off.
pub(super) fn veth(left: &str, right: &str, queues: u32) {
    let pair = format!("numrxqueues {queues} numtxqueues {queues}");
    run(&format!("ip link add {left} {pair} type veth peer name {right} {pair}"));
    for end in [left, right] {
        run(&format!("ethtool -K {end} tx off"));
        run(&format!("ip link set {end} up"));
    }
}

/// What the host has of an interface: a packet socket.
pub(super) struct Wire(OwnedFd);

impl Wire {
    pub(super) fn new(interface: &str) -> Wire {
        // SAFETY: plain calls with whole structures of the lengths given; the descriptor is ours.
        unsafe {
            let all = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let one: libc::c_int = 1;
            let room: libc::c_int = 64 << 20;
            let options = [
                (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, one),
                (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room),
            ];
            for (level, name, value) in options {
                let status = libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), 4);
                assert_eq!(status, 0, "option {name}: {}", io::Error::last_os_error());
            }
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            let name = std::ffi::CString::new(interface).expect("a name");
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            let status = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length);
            assert_eq!(status, 0, "{interface}: {}", io::Error::last_os_error());
            Wire(fd)
        }
    }

    pub(super) fn send(&self, frame: &[u8]) {
        // SAFETY: the frame is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "sending: {}", io::Error::last_os_error());
    }

    /// The next frame, if there is one already.
    pub(super) fn poll(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        // SAFETY: the buffer is valid for its length.
        let got = unsafe {
            libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        buffer.truncate(usize::try_from(got).ok()?);
        Some(buffer)
    }

    /// The next frame, waited for.
    pub(super) fn receive(&self) -> Option<Vec<u8>> {
        wait_for(|| self.poll())
    }
}

/// What `look` gives, within two seconds.
pub(super) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match look() {
            None if Instant::now() < end => std::thread::sleep(Duration::from_micros(100)),
            result => return result,
        }
    }
}

/// Distinct frames, all of Ethernet, of all lengths from `shortest` to 1514.
pub(super) fn frame(number: u32, shortest: usize) -> Vec<u8> {
    let len = shortest + (number as usize * 37) % (1515 - shortest);
    let mut bytes: Vec<u8> =
        (0..len as u32).map(|n| (n.wrapping_mul(31) ^ number ^ number >> 8) as u8).collect();
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    bytes
}

/// An opened port of one queue, with what manages it.
pub(super) struct Opened {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) control: XdpPort,
}

pub(super) const EVERYTHING: XdpOptions = XdpOptions { queues: None, take: Take::Everything };

impl Opened {
    pub(super) fn new((mut port, control): (Port, XdpPort)) -> Opened {
        let (rx, tx) = port.queues.pop().expect("a queue");
        assert!(port.queues.is_empty());
        Opened { rx, tx, control }
    }

    /// Takes all that has been received now, copied.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        take(&mut self.rx)
    }

    /// As [`Opened::take`], waiting for `count` frames.
    pub(super) fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        wait_for(|| {
            frames.extend(self.take());
            (frames.len() >= count).then_some(())
        });
        frames
    }

    /// Nothing has gone wrong that has a counter.
    pub(super) fn no_trouble(&self) {
        let seen = self.control.statistics().expect("counters");
        assert_eq!((seen.rx_dropped, seen.tx_invalid, seen.broken), (0, 0, 0), "{seen:?}");
    }
}

pub(super) fn take(rx: &mut RxQueue) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        rx.sync();
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |frame| frames.push(frame.bytes().to_vec()));
        assert_eq!(broken, 0);
        rx.ring.release(slots);
        if slots == 0 {
            return frames;
        }
    }
}

/// The buffers in the slots of a queue, and those that it has lent to the kernel.
pub(super) fn buffers_of(region: &Region, rx: &RxQueue, tx: &TxQueue) -> Vec<u32> {
    let (Source::Xdp(source), Sink::Xdp(sink)) = (&rx.source, &tx.sink) else { panic!("an AF_XDP queue") };
    let rings = [&rx.ring.raw, &tx.ring.raw].into_iter();
    let slots = rings.flat_map(|raw| (0..region.slots()).map(|at| raw.slot(at).buf_idx));
    slots.filter(|index| *index != 0).chain(source.lent.buffers()).chain(sink.lent.buffers()).collect()
}

/// Every buffer but the two reserved ones is in one slot or lent to the kernel once, and none is in two places.
pub(super) fn every_buffer_once<'a>(
    region: &Arc<Region>,
    queues: impl IntoIterator<Item = (&'a RxQueue, &'a TxQueue)>,
) {
    let mut found: Vec<_> = queues.into_iter().flat_map(|(rx, tx)| buffers_of(region, rx, tx)).collect();
    found.sort_unstable();
    assert_eq!(found, (2..region.buffers()).collect::<Vec<_>>());
}
