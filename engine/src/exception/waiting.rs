//! Packets that wait until the tables know a neighbour which somebody else resolves: the host, on ports with a host stack,
//! or [`super::neighbour`], for what goes into a tunnel once the tunnel's next station is known.
//!
//! Bounded: [`PACKETS`] for each neighbour and [`FEW`] where [`TOTAL`] wait in all, 256 neighbours, [`PATIENCE`]; the oldest gives
//! way. A router that becomes master knows hardly anybody, and has all their packets at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Packets that wait for one neighbour: all that come in 100 ms where there are some thousand a second.
const PACKETS: usize = 256;
/// The same where [`TOTAL`] or more wait.
const FEW: usize = 16;
/// Packets that wait in all, before there is less room for each. The wire to a worker has to have room for them at once, as in
/// [`super::early`].
pub const TOTAL: usize = 384;
/// Neighbours that packets wait for.
const NEIGHBOURS: usize = 256;
/// How long a packet waits, in nanoseconds: as long as three requests take (RFC 4861 section 10).
pub const PATIENCE: u64 = 3_000_000_000;

/// How often a neighbour is asked for while packets come for it, in nanoseconds (RFC 1122 section 2.3.2.1): whoever resolves it may
/// have given up meanwhile.
const ASK_AGAIN: u64 = 1_000_000_000;

/// A station: port number and address.
pub type Key = (u16, IpAddr);

/// What waits, in order of arrival for each neighbour.
#[derive(Debug)]
pub struct Waiting<T> {
    queues: BTreeMap<Key, Queue<T>>,
    count: usize,
}

/// What waits for one neighbour, each with the time until which it does.
#[derive(Debug)]
struct Queue<T> {
    packets: VecDeque<(u64, T)>,
    /// When the neighbour was last asked for.
    asked: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { queues: BTreeMap::new(), count: 0 }
    }
}

impl<T> Waiting<T> {
    /// Lets a packet wait. Returns one that it pushed out, itself perhaps, and whether its neighbour is to be asked for.
    pub fn push(&mut self, now: u64, key: Key, packet: T) -> (Option<T>, bool) {
        if !self.queues.contains_key(&key) && self.queues.len() >= NEIGHBOURS {
            return (Some(packet), false);
        }
        let queue = self.queues.entry(key).or_insert_with(|| Queue { packets: VecDeque::new(), asked: now });
        let ask = queue.packets.is_empty() || now.saturating_sub(queue.asked) >= ASK_AGAIN;
        if ask {
            queue.asked = now;
        }
        let most = if self.count < TOTAL { PACKETS } else { FEW };
        let full = queue.packets.len() >= most;
        let lost = if full { queue.packets.pop_front().map(|(_, packet)| packet) } else { None };
        queue.packets.push_back((now.saturating_add(PATIENCE), packet));
        self.count += usize::from(lost.is_none());
        (lost, ask)
    }

    /// The packets that are ready, as `ready` says; the others go on waiting.
    pub fn release(&mut self, ready: impl Fn(Key, &T) -> bool) -> Vec<(Key, T)> {
        let mut released = Vec::new();
        self.queues.retain(|key, queue| {
            let (go, stay) =
                std::mem::take(&mut queue.packets).into_iter().partition(|(_, packet)| ready(*key, packet));
            queue.packets = stay;
            let go: VecDeque<_> = go;
            released.extend(go.into_iter().map(|(_, packet)| (*key, packet)));
            !queue.packets.is_empty()
        });
        self.count -= released.len();
        released
    }

    /// The packets that have waited too long.
    pub fn expire(&mut self, now: u64) -> Vec<T> {
        let mut lost = Vec::new();
        self.queues.retain(|_, queue| {
            while let Some((_, packet)) = queue.packets.pop_front_if(|(until, _)| *until <= now) {
                lost.push(packet);
            }
            !queue.packets.is_empty()
        });
        self.count -= lost.len();
        lost
    }

    /// When [`Self::expire`] next has something to do.
    pub fn next_due(&self) -> Option<u64> {
        self.queues.values().filter_map(|queue| queue.packets.front().map(|(until, _)| *until)).min()
    }

    /// The neighbours that packets wait for.
    pub fn neighbours(&self) -> impl Iterator<Item = Key> {
        self.queues.keys().copied()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        (0, IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn packets_leave_in_order_once() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.push(0, key(1), 'a'), (None, true));
        assert_eq!(waiting.push(1, key(1), 'b'), (None, false));
        assert_eq!(waiting.push(2, key(2), 'c'), (None, true));
        assert_eq!(waiting.release(|of, _| of == key(1)), [(key(1), 'a'), (key(1), 'b')]);
        assert_eq!(waiting.release(|of, _| of == key(1)), []);
        assert_eq!(waiting.next_due(), Some(2 + PATIENCE));
        assert_eq!(waiting.expire(1 + PATIENCE), []);
        assert_eq!(waiting.expire(2 + PATIENCE), ['c']);
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn what_is_not_ready_goes_on_waiting_in_order() {
        let mut waiting = Waiting::default();
        for (now, packet) in (0..).zip("abcd".chars()) {
            waiting.push(now, key(1), packet);
        }
        assert_eq!(waiting.release(|_, packet| *packet == 'b'), [(key(1), 'b')]);
        assert_eq!(waiting.release(|_, _| true), [(key(1), 'a'), (key(1), 'c'), (key(1), 'd')]);
    }

    /// As long as packets come, so that the queue is never empty.
    #[test]
    fn a_neighbour_is_asked_for_again() {
        let mut waiting = Waiting::default();
        let step = ASK_AGAIN / 10;
        let asked = (0..100).filter(|n| {
            waiting.expire(n * step);
            waiting.push(n * step, key(1), *n).1
        });
        assert_eq!(asked.collect::<Vec<_>>(), (0..100).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn bounds_hold() {
        let mut waiting = Waiting::default();
        for n in 0..PACKETS {
            assert_eq!(waiting.push(0, key(1), n).0, None);
        }
        assert_eq!(waiting.push(0, key(1), PACKETS).0, Some(0));
        for n in PACKETS..TOTAL {
            assert_eq!(waiting.push(0, key(2), n).0, None);
        }
        assert_eq!(waiting.push(0, key(2), TOTAL).0, Some(PACKETS), "all of it is taken");
        for n in 0..FEW {
            assert_eq!(waiting.push(0, key(4), n).0, None, "and yet nobody is without any");
        }
        assert_eq!(waiting.push(0, key(4), FEW).0, Some(0));
        assert_eq!(waiting.release(|of, _| of == key(1)).len(), PACKETS);
        assert_eq!(waiting.push(0, key(2), 0).0, None, "there is room again");
        for n in 2..NEIGHBOURS {
            assert_eq!(waiting.push(0, (1, IpAddr::from([10, 0, (n >> 8) as u8, n as u8])), n).0, None);
        }
        assert_eq!(waiting.push(0, key(3), 7), (Some(7), false));
    }
}
