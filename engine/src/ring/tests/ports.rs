//! What every port does, whatever stands behind it: frames come out of it and go into it whole and in order, thousands of
//! them around its rings, and afterwards every buffer is where it may be. A backend joins with one line of `port_suite!` and
//! a [`Rig`].

use super::super::port::Sink;
use super::super::raw::RawRing;
use super::super::{Frame, RINGS_PER_QUEUE, Refused, Region, RxQueue, SPARE_PER_QUEUE, TxQueue, wire};
use super::{BUFFER, LONGEST, Pair, link_buffers, only};

/// Frames in each direction: many times around any ring.
const FRAMES: u32 = 5000;
/// Frames under way at a time: what sockets and devices hold without losing any.
const WINDOW: u32 = 24;
/// Turns without any progress after which something is lost.
const PATIENCE: u32 = 20_000;
/// Ethernet, and a number.
const SHORTEST: usize = 18;
/// "Local experimental" (IEEE 802): no host answers it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A port with somebody at its far end.
pub(in crate::ring) trait Rig {
    /// The port's queues.
    fn pair(&mut self) -> &mut Pair;
    /// Puts a frame in at the far end. False when it does not go at the moment.
    fn inject(&mut self, frame: &[u8]) -> bool;
    /// Takes a frame that came out at the far end.
    fn collect(&mut self) -> Option<Vec<u8>>;
    /// The longest frame that is received and forwarded; the longest sent from one slot is that of a buffer.
    fn longest(&self) -> usize;
    /// The index in every slot, of the port and of what is between it and the far end.
    fn buffers(&mut self) -> Vec<u32>;
}

/// Frame number `number`, of a length that depends on it.
pub(super) fn frame(number: u32, longest: usize) -> Vec<u8> {
    let len = SHORTEST + number as usize * 31 % (longest - SHORTEST + 1);
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(EXPERIMENT);
    frame.extend(number.to_be_bytes());
    frame.extend((SHORTEST..len).map(|at| (at as u32).wrapping_mul(7).wrapping_add(number * 3) as u8));
    frame
}

/// Is it one of these tests', and not something that a host says by itself?
pub(super) fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&EXPERIMENT)
}

/// All the bytes of a frame, those in further slots too.
pub(in crate::ring) fn whole(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.bytes().to_vec();
    for nth in 1..frame.slots() {
        let slot = frame.ring.slot(frame.ring.ahead(frame.slot, nth));
        let start = frame.ring.offset(&slot) as usize;
        // SAFETY: the slots of a frame that was lent out are ours until they are released.
        bytes.extend_from_slice(unsafe {
            &frame.ring.buffer(slot.buf_idx)[start..start + usize::from(slot.len)]
        });
    }
    bytes
}

/// Takes what has been received, in copies.
pub(in crate::ring) fn take(rx: &mut RxQueue) -> Vec<Vec<u8>> {
    rx.sync();
    let (mut frames, mut broken) = (Vec::new(), 0);
    let slots = rx.ring.take(&mut broken, |frame| frames.push(whole(&frame)));
    assert_eq!(broken, 0);
    rx.ring.release(slots);
    frames
}

/// Sends what has been received back where it came from.
pub(super) fn reflect((rx, tx): &mut Pair) {
    rx.sync();
    tx.sync();
    if rx.ring.available() <= tx.ring.space() {
        let mut broken = 0;
        let slots = rx.ring.take(&mut broken, |mut frame| assert_eq!(tx.ring.push(&mut frame), Ok(())));
        assert_eq!(broken, 0);
        rx.ring.release(slots);
    }
    tx.sync();
}

/// The buffers of a ring's slots.
pub(super) fn buffers_of(ring: &RawRing) -> impl Iterator<Item = u32> {
    (0..=ring.most_free()).map(|at| ring.slot(at).buf_idx)
}

/// The buffers of both rings of a pair.
pub(super) fn buffers_of_pair((rx, tx): &Pair) -> Vec<u32> {
    buffers_of(&rx.ring.raw).chain(buffers_of(&tx.ring.raw)).collect()
}

fn sorted(mut buffers: Vec<u32>) -> Vec<u32> {
    buffers.sort_unstable();
    assert!(buffers.windows(2).all(|two| two[0] != two[1]), "a buffer in two slots");
    buffers
}

/// Moves `FRAMES` frames, `put` at one end and `get` at the other, and compares each.
fn carry<R: Rig>(
    rig: &mut R,
    longest: usize,
    mut put: impl FnMut(&mut R, &[u8]) -> bool,
    mut get: impl FnMut(&mut R) -> Vec<Vec<u8>>,
) {
    let before = sorted(rig.buffers());
    let (mut sent, mut arrived, mut idle) = (0, 0, 0);
    while arrived < FRAMES {
        while sent < FRAMES && sent - arrived < WINDOW && put(rig, &frame(sent, longest)) {
            sent += 1;
        }
        idle += 1;
        for came in get(rig).into_iter().filter(|came| is_ours(came)) {
            assert_eq!(came, frame(arrived, longest), "frame {arrived}");
            arrived += 1;
            idle = 0;
        }
        assert!(idle < PATIENCE, "{arrived} of {sent} frames arrived");
    }
    assert!(get(rig).iter().all(|came| !is_ours(came)), "one frame too many");
    assert_eq!(sorted(rig.buffers()), before, "buffers lost or doubled");
}

fn collect_all(rig: &mut impl Rig) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| rig.collect()).collect()
}

pub(super) fn sends(rig: &mut impl Rig) {
    let longest = rig.longest().min(LONGEST);
    carry(
        rig,
        longest,
        |rig, frame| rig.pair().1.ring.push_bytes(frame).is_ok(),
        |rig| {
            rig.pair().1.sync();
            collect_all(rig)
        },
    );
}

pub(super) fn receives(rig: &mut impl Rig) {
    let longest = rig.longest();
    carry(rig, longest, Rig::inject, |rig| take(&mut rig.pair().0));
}

pub(super) fn forwards_without_copies(rig: &mut impl Rig) {
    let longest = rig.longest();
    carry(rig, longest, Rig::inject, |rig| {
        reflect(rig.pair());
        collect_all(rig)
    });
    assert_eq!((rig.pair().0.ring.copies().frames.get(), rig.pair().1.ring.copied_bytes()), (0, 0));
}

pub(super) fn refuses_when_full(rig: &mut impl Rig) {
    let tx = &mut rig.pair().1.ring;
    let space = tx.space();
    for number in 0..space {
        assert_eq!(tx.push_bytes(&frame(number, 100)), Ok(()));
    }
    assert_eq!(tx.push_bytes(&frame(0, 100)), Err(Refused::Full));
    let mut arrived = 0;
    for _ in 0..PATIENCE {
        rig.pair().1.sync();
        arrived += collect_all(rig).iter().filter(|came| is_ours(came)).count() as u32;
        if arrived == space {
            return;
        }
    }
    panic!("{arrived} of {space} frames arrived");
}

/// The tests for one backend: its name, what each test runs in (a function that takes a closure), and what makes its rig.
macro_rules! port_suite {
    ($backend:ident, $place:path, $rig:expr) => {
        mod $backend {
            port_suite!(@test sends, $place, $rig);
            port_suite!(@test receives, $place, $rig);
            port_suite!(@test forwards_without_copies, $place, $rig);
            port_suite!(@test refuses_when_full, $place, $rig);
        }
    };
    (@test $name:ident, $place:path, $rig:expr) => {
        #[test]
        fn $name() {
            $place(|| super::$name(&mut $rig));
        }
    };
}

port_suite!(memory, super::here, super::Wire::new());
port_suite!(netmap, super::here, crate::ring::netmap::tests::Played::new());
#[cfg(target_os = "linux")]
port_suite!(tap, super::super::netns::in_namespace, super::super::tap::Tap::new());
#[cfg(target_os = "linux")]
port_suite!(xdp, super::super::netns::in_namespace, crate::ring::xdp::tests::rig::Veth::new());

/// For rigs that need no place of their own.
fn here(test: impl FnOnce()) {
    test();
}

/// A memory wire.
struct Wire {
    near: Pair,
    far: Pair,
    waiting: Vec<Vec<u8>>,
}

impl Wire {
    fn new() -> Wire {
        let region = Region::new(RINGS_PER_QUEUE, 64, BUFFER, SPARE_PER_QUEUE, false).expect("a region");
        let (near, far) = wire(&region, 1, true).expect("rings");
        Wire { near: only(near), far: only(far), waiting: Vec::new() }
    }
}

impl Rig for Wire {
    fn pair(&mut self) -> &mut Pair {
        &mut self.near
    }

    fn inject(&mut self, frame: &[u8]) -> bool {
        let pushed = self.far.1.ring.push_bytes(frame).is_ok();
        self.far.1.sync();
        pushed
    }

    fn collect(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            self.waiting = take(&mut self.far.0);
            self.waiting.reverse();
        }
        self.waiting.pop()
    }

    fn longest(&self) -> usize {
        LONGEST
    }

    fn buffers(&mut self) -> Vec<u32> {
        let link = |tx: &TxQueue| match &tx.sink {
            Sink::Wire(sender) => link_buffers(sender),
            _ => unreachable!("a wire"),
        };
        let pairs = [&self.near, &self.far];
        pairs.into_iter().flat_map(|pair| [buffers_of_pair(pair), link(&pair.1)].concat()).collect()
    }
}
