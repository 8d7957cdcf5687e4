//! Rings, links and frames against a model that knows only queues. Steps of the main test:
//! 1. two memory wires are laid end to end, with frames forwarded in the middle, in both directions;
//! 2. random steps are taken: send, forward with changes, receive, sync, in any order and with any ring full;
//! 3. after each step every buffer is in exactly one slot, and what arrived is what the model says, in its order.

mod in_order;
#[cfg(target_os = "linux")]
mod netns;
pub(super) mod ports;
#[cfg(target_os = "linux")]
mod tap;
#[cfg(target_os = "linux")]
mod tun;

use std::collections::VecDeque;
use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;

use super::capture::{CaptureRx, CaptureTx};
use super::memory::link_buffers;
use super::port::Sink;
use super::raw::RawRing;
use super::{HEADROOM, Port, RINGS_PER_QUEUE, Refused, Region, RxQueue, SPARE_PER_QUEUE, TxQueue, wire};
use crate::capture::{Reader, Writer};

const BUFFER: u32 = 512;
/// The longest frame that any of the rings takes in one slot.
const LONGEST: usize = (BUFFER - HEADROOM) as usize;

/// What happens to a frame in the middle.
#[derive(Debug, Clone, Copy)]
enum Change {
    Keep,
    Drop,
    /// Bytes put in front.
    Push(u8),
    /// Bytes taken off the front, as far as there are any.
    Pull(u8),
    /// Bytes left.
    Cut(u8),
    /// Bytes taken off the end, as far as there are any.
    Shorten(u8),
    /// The bytes from the first number to the second left, where there are so many.
    Inside(u8, u8),
    /// A link header put in front, where there is room.
    Header,
}

#[derive(Debug, Clone)]
enum Step {
    Send { way: usize, count: usize, len: usize },
    Forward { way: usize, changes: Vec<Change> },
    Receive { way: usize },
    SyncSender { way: usize },
    SyncMiddle { way: usize },
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => Just(Change::Keep),
        1 => Just(Change::Drop),
        2 => (0..=100u8).prop_map(Change::Push),
        2 => any::<u8>().prop_map(Change::Pull),
        1 => any::<u8>().prop_map(Change::Cut),
        1 => any::<u8>().prop_map(Change::Shorten),
        1 => any::<(u8, u8)>().prop_map(|(start, end)| Change::Inside(start, end)),
        1 => Just(Change::Header),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let way = 0..2usize;
    prop_oneof![
        3 => (way.clone(), 1..40usize, 0..=LONGEST - 100)
            .prop_map(|(way, count, len)| Step::Send { way, count, len }),
        3 => (way.clone(), vec(changes(), 1..8)).prop_map(|(way, changes)| Step::Forward { way, changes }),
        2 => way.clone().prop_map(|way| Step::Receive { way }),
        1 => way.clone().prop_map(|way| Step::SyncSender { way }),
        1 => way.prop_map(|way| Step::SyncMiddle { way }),
    ]
}

/// What the wires are made like.
#[derive(Debug, Clone, Copy)]
struct Shape {
    slots: u32,
    offsets: [bool; 2],
    one_region: bool,
}

pub(super) type Pair = (RxQueue, TxQueue);
/// Frames with their tags.
type Queue = VecDeque<(u32, Vec<u8>)>;

/// `ends[0] ── middle[0] · middle[1] ── ends[1]`; way 0 goes to the right.
struct Chain {
    shape: Shape,
    regions: Vec<Arc<Region>>,
    ends: [Pair; 2],
    middle: [Pair; 2],
    /// For each way: frames sent and not forwarded, forwarded and not received.
    model: [[Queue; 2]; 2],
    /// For each way, bytes that forwarding had to copy.
    copied: [u64; 2],
    sent: u32,
}

pub(super) fn only(mut port: Port) -> Pair {
    port.queues.pop().expect("one queue")
}

impl Chain {
    fn new(shape: Shape) -> Chain {
        let wires = if shape.one_region { 2 } else { 1 };
        let region = || {
            let spare = wires as u32 * SPARE_PER_QUEUE;
            Region::new(wires * RINGS_PER_QUEUE, shape.slots, BUFFER, spare, false).expect("a region")
        };
        let first = region();
        let second = if shape.one_region { Arc::clone(&first) } else { region() };
        let (left, before) = wire(&first, 1, shape.offsets[0]).expect("rings");
        let (right, after) = wire(&second, 1, shape.offsets[1]).expect("rings");
        let regions = if shape.one_region { vec![first] } else { vec![first, second] };
        Chain {
            shape,
            regions,
            ends: [only(left), only(right)],
            middle: [only(before), only(after)],
            model: Default::default(),
            copied: [0; 2],
            sent: 0,
        }
    }

    /// Every buffer but the two reserved ones is in one slot, of a ring or a link, and no slot holds another.
    fn every_buffer_once(&self) -> Result<(), TestCaseError> {
        for region in &self.regions {
            let mut found = Vec::new();
            let pairs = self.ends.iter().chain(&self.middle);
            for (rx, tx) in pairs.filter(|(rx, _)| Arc::ptr_eq(rx.ring.raw.region(), region)) {
                let slots =
                    |raw: &RawRing| (0..self.shape.slots).map(|at| raw.slot(at).buf_idx).collect::<Vec<_>>();
                found.extend(slots(&rx.ring.raw));
                found.extend(slots(&tx.ring.raw));
                let Sink::Wire(sender) = &tx.sink else { unreachable!("a wire") };
                found.extend(link_buffers(sender));
            }
            found.sort_unstable();
            prop_assert_eq!(found, (2..region.buffers()).collect::<Vec<_>>());
        }
        Ok(())
    }

    fn send(&mut self, way: usize, count: usize, len: usize) -> Result<(), TestCaseError> {
        let (_, tx) = &mut self.ends[way];
        for _ in 0..count {
            self.sent += 1;
            let seed = self.sent;
            let frame: Vec<u8> =
                (0..len as u32).map(|n| (n.wrapping_mul(17) ^ seed ^ seed >> 8) as u8).collect();
            let space = tx.ring.space();
            let result = tx.ring.push_with(seed, |buffer| {
                buffer.get_mut(..len).ok_or(Refused::TooLong)?.copy_from_slice(&frame);
                Ok(len)
            });
            prop_assert_eq!(result, if space == 0 { Err(Refused::Full) } else { Ok(()) });
            if result.is_ok() {
                self.model[way][0].push_back((seed, frame));
            }
        }
        Ok(())
    }

    fn forward(&mut self, way: usize, changes: &[Change]) -> Result<(), TestCaseError> {
        let [before, after] = &mut self.middle;
        let (rx, tx) = if way == 0 { (&mut before.0, &mut after.1) } else { (&mut after.0, &mut before.1) };
        let swaps_at = |start| self.shape.one_region && (start == 0 || self.shape.offsets[1 - way]);
        let (mut frames, mut broken) = (Vec::new(), 0);
        let slots = rx.ring.take(&mut broken, |frame| frames.push(frame));
        prop_assert_eq!((slots as usize, broken), (frames.len(), 0));
        for (mut frame, change) in frames.into_iter().zip(changes.iter().cycle()) {
            let (tag, mut model) =
                self.model[way][0].pop_front().ok_or_else(|| TestCaseError::fail("one too many"))?;
            prop_assert_eq!((frame.tag(), frame.bytes()), (tag, model.as_slice()));
            match *change {
                Change::Keep => {}
                Change::Drop => continue,
                Change::Push(count) => {
                    let count = usize::from(count);
                    prop_assert!(frame.make_headroom(count).is_some() && frame.push(count));
                    frame.bytes_mut()[..count].fill(0xee);
                    model.splice(..0, vec![0xee; count]);
                }
                Change::Pull(count) => {
                    let pulled = frame.pull(count.into());
                    prop_assert_eq!(pulled, usize::from(count) <= model.len());
                    if pulled {
                        model.drain(..usize::from(count));
                    }
                }
                Change::Cut(len) => {
                    frame.truncate(len.into());
                    model.truncate(len.into());
                }
                Change::Shorten(count) => {
                    prop_assert_eq!(&*frame.cut(count.into()), model.as_slice());
                    model.truncate(model.len().saturating_sub(count.into()));
                }
                Change::Inside(start, end) => {
                    let (start, end) = (usize::from(start), usize::from(end));
                    let inside = start <= end && end <= model.len();
                    prop_assert_eq!(frame.keep(start, end), inside);
                    if inside {
                        model = model[start..end].to_vec();
                    }
                }
                Change::Header => {
                    let headroom = frame.headroom();
                    let room = frame.push_array::<14>();
                    prop_assert_eq!(room.is_some(), headroom >= 14);
                    if let Some(room) = room {
                        *room = [0xdd; 14];
                        model.splice(..0, [0xdd; 14]);
                    }
                }
            }
            let (swapped, len, space) = (swaps_at(frame.headroom()), frame.len() as u64, tx.ring.space());
            let result = tx.ring.push(&mut frame);
            prop_assert_eq!(result, if space == 0 { Err(Refused::Full) } else { Ok(()) });
            if result.is_ok() {
                self.model[way][1].push_back((tag, model));
                self.copied[way] += if swapped { 0 } else { len };
            }
        }
        prop_assert_eq!(tx.ring.copied_bytes(), self.copied[way]);
        rx.ring.release(slots);
        Ok(())
    }

    fn receive(&mut self, way: usize) -> Result<(), TestCaseError> {
        let (rx, _) = &mut self.ends[1 - way];
        rx.sync();
        let (mut arrived, mut broken) = (Vec::new(), 0);
        let slots = rx.ring.take(&mut broken, |frame| arrived.push((frame.tag(), frame.bytes().to_vec())));
        prop_assert_eq!(broken, 0);
        for frame in arrived {
            prop_assert_eq!(Some(frame), self.model[way][1].pop_front());
        }
        rx.ring.release(slots);
        Ok(())
    }

    fn take_step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Send { way, count, len } => self.send(*way, *count, *len)?,
            Step::Forward { way, changes } => self.forward(*way, changes)?,
            Step::Receive { way } => self.receive(*way)?,
            Step::SyncSender { way } => self.ends[*way].1.sync(),
            Step::SyncMiddle { way } => {
                self.middle[*way].0.sync();
                self.middle[1 - *way].1.sync();
            }
        }
        self.every_buffer_once()
    }

    /// Lets everything under way arrive. None may be missing then.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        let mut rounds = 0;
        while self.model.iter().flatten().any(|frames| !frames.is_empty()) && rounds < 1000 {
            rounds += 1;
            for way in [0, 1] {
                self.ends[way].1.sync();
                self.middle[way].0.sync();
                // Only where there is room, so that none is refused.
                if self.middle[way].0.ring.available() <= self.middle[1 - way].1.ring.space() {
                    self.forward(way, &[Change::Keep])?;
                }
                self.middle[1 - way].1.sync();
                self.receive(way)?;
            }
        }
        self.every_buffer_once()?;
        let left: Vec<usize> = self.model.iter().flatten().map(VecDeque::len).collect();
        prop_assert_eq!(left, vec![0; 4]);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_arrive_in_order_and_buffers_stay(
        slots in 2u32..80,
        offsets in any::<[bool; 2]>(),
        one_region in prop::bool::weighted(0.7),
        steps in vec(steps(), 1..60),
    ) {
        let mut chain = Chain::new(Shape { slots, offsets, one_region });
        chain.every_buffer_once()?;
        for step in &steps {
            chain.take_step(step)?;
        }
        chain.drain()?;
    }
}

/// A file that two hold: the writer, and the test that reads it afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn capture_of(frames: &[Vec<u8>]) -> Box<dyn Read + Send> {
    let mut bytes = Vec::new();
    let mut file = Writer::pcap(&mut bytes).expect("a header");
    for (frame, time_ns) in frames.iter().zip(1..) {
        file.write(time_ns, frame).expect("a record");
    }
    file.flush().expect("memory");
    drop(file);
    Box::new(Cursor::new(bytes))
}

/// Passes on all frames that are there, where all have room.
pub(super) fn pass_on(rx: &mut RxQueue, tx: &mut TxQueue) -> Result<(), TestCaseError> {
    rx.sync();
    tx.sync();
    if rx.ring.available() <= tx.ring.space() {
        let mut broken = 0;
        let mut refused = 0;
        let slots =
            rx.ring.take(&mut broken, |mut frame| refused += u32::from(tx.ring.push(&mut frame).is_err()));
        prop_assert_eq!((broken, refused), (0, 0));
        rx.ring.release(slots);
    }
    tx.sync();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// From one capture over a wire into another, frames of any length up to what a ring holds, `NS_MOREFRAG` and all.
    #[test]
    fn frames_longer_than_a_buffer_stay_whole(
        slots in 5u32..40,
        offsets in any::<bool>(),
        one_region in any::<bool>(),
        lens in vec(0..4 * LONGEST, 1..60),
    ) {
        let frames: Vec<Vec<u8>> =
            lens.iter().map(|len| (0..*len).map(|n| (n * 7 / 3 + len) as u8).collect()).collect();
        let region = || Region::new(4 + RINGS_PER_QUEUE, slots, BUFFER, SPARE_PER_QUEUE, true).expect("a region");
        let first = region();
        let second = if one_region { Arc::clone(&first) } else { region() };
        let file = Shared::default();
        let source = CaptureRx::new(capture_of(&frames)).expect("a capture");
        let writer = Writer::pcap(Box::new(file.clone()) as Box<dyn Write + Send>).expect("a header");
        let (mut from, _) = only(Port::capture(&first, source, CaptureTx::discard()).expect("rings"));
        let (left, right) = wire(&first, 1, offsets).expect("rings");
        let ((_, mut left), (mut right, _)) = (only(left), only(right));
        let (_, mut to) =
            only(Port::capture(&second, CaptureRx::nothing(), CaptureTx::new(writer)).expect("rings"));
        let held = |from: &RxQueue, left: &TxQueue, right: &RxQueue, to: &TxQueue| {
            let rings = [&from.ring.raw, &left.ring.raw, &right.ring.raw, &to.ring.raw];
            let slot = |raw: &RawRing, at| (Arc::as_ptr(raw.region()) as usize, raw.slot(at).buf_idx);
            let mut held: Vec<_> =
                rings.into_iter().flat_map(|raw| (0..slots).map(move |at| slot(raw, at))).collect();
            let Sink::Wire(sender) = &left.sink else { unreachable!("a wire") };
            held.extend(link_buffers(sender).into_iter().map(|index| (Arc::as_ptr(&first) as usize, index)));
            held.sort_unstable();
            held
        };
        let before = held(&from, &left, &right, &to);
        for _ in 0..20 * frames.len() {
            pass_on(&mut from, &mut left)?;
            pass_on(&mut right, &mut to)?;
        }
        prop_assert_eq!(held(&from, &left, &right, &to), before, "buffers lost or doubled");
        prop_assert!(!from.pending());
        to.capture_mut().expect("a capture").finish().expect("memory");
        let written = file.0.lock().expect("not poisoned").clone();
        let mut reader = Reader::open(written.as_slice()).expect("a capture");
        for frame in &frames {
            let record = reader.next().expect("sound").expect("one more");
            prop_assert_eq!(record.data, frame.as_slice());
        }
        prop_assert!(reader.next().expect("sound").is_none());
    }
}
