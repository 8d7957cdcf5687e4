//! Frames through a queue that several work on, against a model: in any order of steps, with blocks held and passed over, frames
//! come out in order with what was put in, each says whether it went well, and every buffer is in exactly one slot.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::only;
use crate::ring::in_order::queue_buffers;
use crate::ring::memory::link_buffers;
use crate::ring::port::Sink;
use crate::ring::raw::RawRing;
use crate::ring::{
    BLOCK, Claimed, IN_ORDER_BUFFERS, InOrder, RINGS_PER_QUEUE, Refused, Region, SPARE_PER_QUEUE, in_order,
    wire,
};

const SLOTS: u32 = 128;
const BUFFER: u32 = 512;
/// Blocks that a queue holds.
const BLOCKS: u64 = IN_ORDER_BUFFERS as u64 / BLOCK as u64;

#[derive(Debug, Clone)]
enum Step {
    /// So many frames go in.
    PutIn(u32),
    /// A helper claims the oldest block that waits, and holds it.
    Claim,
    /// One who holds a block is finished: he who has had it longest, or who got his last.
    Finish(bool),
    /// The oldest block comes out, if it is finished.
    TakeOut,
    /// The oldest block is passed over, if somebody holds it.
    PassOver,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..60u32).prop_map(Step::PutIn),
        6 => Just(Step::Claim),
        6 => any::<bool>().prop_map(Step::Finish),
        6 => Just(Step::TakeOut),
        1 => Just(Step::PassOver),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Held,
    Finished,
}

/// A block in the queue, the `count`th ever.
struct Block {
    count: u64,
    numbers: Vec<u32>,
    state: State,
}

/// What frame `number` holds: as it went in, or after somebody has worked on it.
fn bytes(number: u32, worked: bool) -> Vec<u8> {
    let change = if worked { 0x55 } else { 0 };
    (0..20 + number % 200).map(|at| number.wrapping_mul(7).wrapping_add(at) as u8 ^ change).collect()
}

/// Every third goes wrong.
fn goes_well(number: u32) -> bool {
    !number.is_multiple_of(3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out_in_order_and_buffers_stay(
        offsets in any::<[bool; 2]>(),
        steps in vec(steps(), 1..150),
    ) {
        let spare = 2 * SPARE_PER_QUEUE + IN_ORDER_BUFFERS;
        let region = Region::new(2 * RINGS_PER_QUEUE, SLOTS, BUFFER, spare, false).expect("a region");
        let (left, before) = wire(&region, 1, offsets[0]).expect("rings");
        let (after, right) = wire(&region, 1, offsets[1]).expect("rings");
        let [mut left, mut before, mut after, mut right] = [left, before, after, right].map(only);
        let InOrder { mut entrance, mut exit, mut helpers } =
            in_order::<u32, u32, u64>(&region, steps.len()).expect("buffers");
        // One who has held a block is not asked again.
        let mut helpers = helpers.iter_mut();
        let mut held: VecDeque<(u64, Claimed<'_, u32, u32, u64>)> = VecDeque::new();
        let mut queue: VecDeque<Block> = VecDeque::new();
        let (mut number, mut filled) = (0, 0);

        for step in &steps {
            match *step {
                Step::PutIn(count) => {
                    for number in number..number + count {
                        prop_assert_eq!(left.1.ring.push_bytes(&bytes(number, false)), Ok(()));
                    }
                    left.1.sync();
                    before.0.sync();
                    let (mut frames, mut broken) = (Vec::new(), 0);
                    let slots = before.0.ring.take(&mut broken, |frame| frames.push(frame));
                    prop_assert_eq!((frames.len() as u32, broken), (count, 0));
                    let context = number;
                    let mut open = Vec::new();
                    for mut frame in frames {
                        let oldest = queue.front().map_or(filled, |block| block.count);
                        let in_the_way = |(count, _): &(u64, _)| count % BLOCKS == filled % BLOCKS;
                        let free = !open.is_empty() || filled - oldest < BLOCKS && !held.iter().any(in_the_way);
                        let pushed = entrance.push(&mut frame, number, u64::from(number) << 20, &context);
                        prop_assert_eq!(pushed, if free { Ok(()) } else { Err(Refused::Full) });
                        if free {
                            open.push(number);
                        }
                        number += 1;
                        if open.len() == BLOCK {
                            let numbers = std::mem::take(&mut open);
                            queue.push_back(Block { count: filled, numbers, state: State::Waiting });
                            filled += 1;
                        }
                    }
                    entrance.publish();
                    if !open.is_empty() {
                        queue.push_back(Block { count: filled, numbers: open, state: State::Waiting });
                        filled += 1;
                    }
                    before.0.ring.release(slots);
                }
                Step::Claim => {
                    let Some(helper) = helpers.next() else { continue };
                    let claimed = helper.claim();
                    let next = queue.iter_mut().find(|block| block.state == State::Waiting);
                    prop_assert_eq!(claimed.is_some(), next.is_some());
                    if let (Some(claimed), Some(block)) = (claimed, next) {
                        block.state = State::Held;
                        held.push_back((block.count, claimed));
                    }
                }
                Step::Finish(first) => {
                    let one = if first { held.pop_front() } else { held.pop_back() };
                    let Some((count, mut claimed)) = one else { continue };
                    let (mut well, mut nth, mut numbers) = (0, 0, Vec::new());
                    claimed.lend(|mut frame, number| {
                        numbers.push(*number);
                        assert_eq!(frame.bytes(), bytes(*number, false));
                        frame.bytes_mut().iter_mut().for_each(|byte| *byte ^= 0x55);
                        well |= u32::from(goes_well(*number)) << nth;
                        nth += 1;
                    });
                    claimed.went_well(well);
                    drop(claimed);
                    // One that was passed over is nobody's any more.
                    if let Some(block) = queue.iter_mut().find(|block| block.count == count) {
                        prop_assert_eq!(&numbers, &block.numbers);
                        block.state = State::Finished;
                    }
                }
                Step::TakeOut => {
                    let mut out = Vec::new();
                    let context = exit.take(|mut frame, number, note, well| {
                        let room = after.1.ring.space() > 0;
                        let whole = frame.bytes() == bytes(number, true);
                        let pushed = after.1.ring.push(&mut frame);
                        out.push((number, note == u64::from(number) << 20, well, whole, pushed.is_ok() == room));
                    });
                    let finished = queue.front().is_some_and(|block| block.state == State::Finished);
                    prop_assert_eq!(context.is_some(), finished);
                    if finished {
                        let context = context.copied();
                        exit.release();
                        let block = queue.pop_front().expect("it is there");
                        prop_assert!(context <= block.numbers.first().copied());
                        let wanted = block.numbers.iter().map(|number| (*number, true, goes_well(*number), true, true));
                        prop_assert_eq!(out, wanted.collect::<Vec<_>>());
                    }
                    after.1.sync();
                    right.0.sync();
                    let slots = right.0.ring.take(&mut 0, drop);
                    right.0.ring.release(slots);
                }
                Step::PassOver => {
                    let held_up = queue.front().is_some_and(|block| block.state == State::Held);
                    prop_assert_eq!(exit.is_held_up(), held_up);
                    let lost = if held_up { queue.pop_front().map_or(0, |block| block.numbers.len()) } else { 0 };
                    prop_assert_eq!(exit.pass_over() as usize, lost);
                }
            }
            prop_assert_eq!(exit.waiting(), queue.iter().filter(|block| block.state == State::Waiting).count());
            prop_assert_eq!(exit.is_empty(), queue.is_empty());
            let mut found = queue_buffers(&exit);
            for (rx, tx) in [&left, &before, &after, &right] {
                let slots = |raw: &RawRing| (0..SLOTS).map(|at| raw.slot(at).buf_idx).collect::<Vec<_>>();
                found.extend(slots(&rx.ring.raw));
                found.extend(slots(&tx.ring.raw));
                let Sink::Wire(sender) = &tx.sink else { unreachable!("a wire") };
                found.extend(link_buffers(sender));
            }
            found.sort_unstable();
            prop_assert_eq!(found, (2..region.buffers()).collect::<Vec<_>>());
        }
    }
}
