//! Packets that wait until the tables know a neighbour which somebody else resolves: the host, on ports with a host stack,
//! or [`super::neighbour`], for what goes into a tunnel once the tunnel's next station is known.
//!
//! Bounded: 16 packets for each neighbour, 256 neighbours, [`PATIENCE`]; the oldest gives way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Packets that wait for one neighbour.
const PACKETS: usize = 16;
/// Neighbours that packets wait for.
const NEIGHBOURS: usize = 256;
/// How long a packet waits, in nanoseconds: as long as three requests take (RFC 4861 section 10).
pub const PATIENCE: u64 = 3_000_000_000;

/// A station: port number and address.
pub type Key = (u16, IpAddr);

/// What waits, in order of arrival for each neighbour.
#[derive(Debug)]
pub struct Waiting<T> {
    queues: BTreeMap<Key, VecDeque<(u64, T)>>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { queues: BTreeMap::new() }
    }
}

impl<T> Waiting<T> {
    /// Lets a packet wait. Returns one that it pushed out, itself perhaps, and whether it is the first for its neighbour.
    pub fn push(&mut self, now: u64, key: Key, packet: T) -> (Option<T>, bool) {
        let first = !self.queues.contains_key(&key);
        if first && self.queues.len() >= NEIGHBOURS {
            return (Some(packet), false);
        }
        let queue = self.queues.entry(key).or_default();
        let lost = if queue.len() >= PACKETS { queue.pop_front().map(|(_, packet)| packet) } else { None };
        queue.push_back((now.saturating_add(PATIENCE), packet));
        (lost, first)
    }

    /// The packets whose neighbours `known` knows.
    pub fn release(&mut self, mut known: impl FnMut(Key) -> bool) -> Vec<(Key, T)> {
        let keys: Vec<Key> = self.queues.keys().copied().filter(|key| known(*key)).collect();
        keys.into_iter()
            .filter_map(|key| Some((key, self.queues.remove(&key)?)))
            .flat_map(|(key, queue)| queue.into_iter().map(move |(_, packet)| (key, packet)))
            .collect()
    }

    /// The packets that have waited too long.
    pub fn expire(&mut self, now: u64) -> Vec<T> {
        let mut lost = Vec::new();
        self.queues.retain(|_, queue| {
            while let Some((_, packet)) = queue.pop_front_if(|(until, _)| *until <= now) {
                lost.push(packet);
            }
            !queue.is_empty()
        });
        lost
    }

    /// When [`Self::expire`] next has something to do.
    pub fn next_due(&self) -> Option<u64> {
        self.queues.values().filter_map(|queue| queue.front().map(|(until, _)| *until)).min()
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
        assert_eq!(waiting.release(|of| of == key(1)), [(key(1), 'a'), (key(1), 'b')]);
        assert_eq!(waiting.release(|of| of == key(1)), []);
        assert_eq!(waiting.next_due(), Some(2 + PATIENCE));
        assert_eq!(waiting.expire(1 + PATIENCE), []);
        assert_eq!(waiting.expire(2 + PATIENCE), ['c']);
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn bounds_hold() {
        let mut waiting = Waiting::default();
        for n in 0..PACKETS {
            assert_eq!(waiting.push(0, key(1), n).0, None);
        }
        assert_eq!(waiting.push(0, key(1), PACKETS).0, Some(0));
        for n in 1..NEIGHBOURS {
            assert_eq!(waiting.push(0, (1, IpAddr::from([10, 0, (n >> 8) as u8, n as u8])), n).0, None);
        }
        assert_eq!(waiting.push(0, key(3), 7), (Some(7), false));
    }
}
