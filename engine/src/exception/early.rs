//! Packets that come before the news of what they are for:
//! - by an SA of which the far end has its half and sends, while what its key exchange told us is still on its way to the tables. They
//!   wait until tables know the SPI;
//! - to, or from, the near end of tunnels that routers share: hosts, switches and the far end hear of a new master from CARP, and their
//!   packets may be at that router before its tables say so. They wait until tables do.
//!
//! Nobody has vouched for such a packet, and its source may be forged. So the room is bounded: [`PACKETS`] for two ends between which
//! there are tunnels, [`TOTAL`] for all, each for [`PATIENCE`]. Where all of it is taken, those who have most give way, so that who
//! fills it in the name of some ends takes it from these.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::esp::Spi;
use crate::wire::{Ipv4, Ipv6, Udp, protocol, udp};

/// Packets that wait between two ends: all that come in [`PATIENCE`] where there are some hundreds a second.
pub const PACKETS: usize = 192;
/// Packets that wait in all. The wire to a worker has to have room for them at once: those that follow would overtake the rest.
pub const TOTAL: usize = 384;
/// How long a packet waits, in nanoseconds: a daemon with thousands of tunnels takes some 100 ms to tell of a new SA, and several times
/// that on a machine that has too much to do.
pub const PATIENCE: u64 = 1_000_000_000;

/// Two ends of tunnels, the near one first.
pub type Pair = (IpAddr, IpAddr);

/// What waits, in order of arrival between each two ends.
#[derive(Debug)]
pub struct Early<T> {
    queues: BTreeMap<Pair, VecDeque<Waits<T>>>,
    /// When it was last asked who has the near end.
    asked: BTreeMap<Pair, u64>,
    count: usize,
    /// Ends that there was no room for.
    full: BTreeSet<Pair>,
}

#[derive(Debug)]
struct Waits<T> {
    until: u64,
    news: News,
    packet: T,
}

/// What a packet waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Tables that know this SA.
    Sa(Spi),
    /// Tables by which the near end is not another router's any more.
    Master,
}

impl<T> Default for Early<T> {
    fn default() -> Self {
        Early { queues: BTreeMap::new(), asked: BTreeMap::new(), count: 0, full: BTreeSet::new() }
    }
}

impl<T> Early<T> {
    /// Lets a packet wait, if there is room. Returns one that has to go in its place, or itself, and what it was to wait for.
    pub fn push(&mut self, now: u64, pair: Pair, news: News, packet: T) -> Option<(News, T)> {
        if !self.takes(pair) {
            return Some((news, packet));
        }
        let lost = if self.count < TOTAL { None } else { self.give_way() };
        self.queues.entry(pair).or_default().push_back(Waits {
            until: now.saturating_add(PATIENCE),
            news,
            packet,
        });
        self.count += 1;
        lost
    }

    /// Is it time to ask who has the near end? It is once a second while packets wait (RFC 1122 section 2.3.2.1).
    pub fn asks(&mut self, now: u64, pair: Pair) -> bool {
        let due = self.asked.get(&pair).is_none_or(|asked| now.saturating_sub(*asked) >= PATIENCE);
        let asks = due && self.queues.contains_key(&pair);
        if asks {
            self.asked.insert(pair, now);
        }
        asks
    }

    /// Do packets between these ends find room? Who was told that they do not hears of it when they do, by [`Self::have_room_again`].
    pub fn takes(&mut self, pair: Pair) -> bool {
        let room = self.has_room(pair, self.most());
        if !room {
            self.full.insert(pair);
        }
        room
    }

    /// Is there room for one more packet between these ends? `most`: see [`Self::most`].
    fn has_room(&self, pair: Pair, most: usize) -> bool {
        let len = self.queues.get(&pair).map_or(0, VecDeque::len);
        len < PACKETS && len.saturating_add(1) < most
    }

    /// Those between whom fewer packets wait than this, less one, find room.
    fn most(&self) -> usize {
        if self.count < TOTAL { usize::MAX } else { self.longest().map_or(0, |(_, len)| len) }
    }

    /// The ends between which most packets wait, and how many.
    fn longest(&self) -> Option<(Pair, usize)> {
        self.queues.iter().map(|(pair, queue)| (*pair, queue.len())).max_by_key(|(_, len)| *len)
    }

    /// The newest packet of those who have most.
    fn give_way(&mut self) -> Option<(News, T)> {
        let queue = self.longest().and_then(|(pair, _)| self.queues.get_mut(&pair));
        let lost = queue.and_then(VecDeque::pop_back)?;
        self.count -= 1;
        Some((lost.news, lost.packet))
    }

    /// The packets of which the news has come, as `known` says; the others go on waiting.
    pub fn release(&mut self, known: impl Fn(Pair, News, &T) -> bool) -> Vec<T> {
        let mut released = Vec::new();
        for (pair, queue) in &mut self.queues {
            let known = |waits: &Waits<T>| known(*pair, waits.news, &waits.packet);
            let (go, stay) = std::mem::take(queue).into_iter().partition(known);
            *queue = stay;
            let go: VecDeque<_> = go;
            released.extend(go.into_iter().map(|waits| waits.packet));
        }
        self.tidy();
        released
    }

    /// The packets that have waited too long, and for what.
    pub fn expire(&mut self, now: u64) -> Vec<(News, T)> {
        let mut lost = Vec::new();
        for queue in self.queues.values_mut() {
            while let Some(waits) = queue.pop_front_if(|waits| waits.until <= now) {
                lost.push((waits.news, waits.packet));
            }
        }
        if !lost.is_empty() {
            self.tidy();
        }
        lost
    }

    fn tidy(&mut self) {
        self.queues.retain(|_, queue| !queue.is_empty());
        self.asked.retain(|pair, _| self.queues.contains_key(pair));
        self.count = self.queues.values().map(VecDeque::len).sum();
    }

    /// Ends that there was no room for and there is now, each told once.
    pub fn have_room_again(&mut self) -> Vec<Pair> {
        let most = self.most();
        let again: Vec<Pair> = self.full.iter().copied().filter(|pair| self.has_room(*pair, most)).collect();
        for pair in &again {
            self.full.remove(pair);
        }
        again
    }

    /// When [`Self::expire`] next has something to do.
    pub fn next_due(&self) -> Option<u64> {
        self.queues.values().filter_map(|queue| queue.front().map(|waits| waits.until)).min()
    }
}

/// The ends of an ESP packet, in UDP or not, as its receiver sees them, and its SPI. `None`: it is none.
pub(super) fn sealed(packet: &[u8]) -> Option<(Pair, Spi)> {
    let (pair, protocol, payload): (Pair, _, _) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4::parse(packet).ok()?;
            ((ip.dst().into(), ip.src().into()), ip.protocol(), ip.payload())
        }
        _ => {
            let ip = Ipv6::parse(packet).ok()?;
            let upper = ip.upper().ok()?;
            ((ip.dst().into(), ip.src().into()), upper.protocol, packet.get(upper.offset..)?)
        }
    };
    let esp = match protocol {
        protocol::ESP => payload,
        protocol::UDP => Udp::parse(payload).ok().and_then(|_| payload.get(udp::HEADER_LEN..))?,
        _ => return None,
    };
    Some((pair, u32::from_be_bytes(*esp.first_chunk()?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair(n: u8) -> Pair {
        (IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, n]))
    }

    fn known<T>(spi: Spi) -> impl Fn(Pair, News, &T) -> bool {
        move |_, news, _| news == News::Sa(spi)
    }

    #[test]
    fn packets_leave_in_order_once() {
        let mut early = Early::default();
        for (now, (spi, packet)) in (0..).zip([(1, 'a'), (2, 'b'), (1, 'c')]) {
            assert_eq!(early.push(now, pair(1), News::Sa(spi), packet), None);
        }
        assert_eq!(early.release(known(3)), []);
        assert_eq!(early.release(known(1)), ['a', 'c']);
        assert_eq!(early.release(known(1)), []);
        assert_eq!(early.next_due(), Some(1 + PATIENCE));
        assert_eq!(early.expire(PATIENCE), []);
        assert_eq!(early.expire(1 + PATIENCE), [(News::Sa(2), 'b')]);
        assert_eq!(early.next_due(), None);
    }

    /// Who fills it in the name of some ends takes nothing from others.
    #[test]
    fn those_who_have_most_give_way() {
        let mut early = Early::default();
        let flooded = TOTAL / PACKETS;
        for n in 0..flooded {
            for _ in 0..PACKETS {
                assert_eq!(early.push(0, pair(n as u8), News::Sa(n as u32), n), None);
            }
            let news = News::Sa(n as u32);
            assert_eq!(early.push(0, pair(n as u8), news, n), Some((news, n)), "no more than its part");
        }
        let share = TOTAL / (flooded + 1);
        for _ in 0..share {
            let lost = early.push(0, pair(99), News::Sa(99), 99);
            assert!(lost.is_some_and(|(news, n)| n < flooded && news == News::Sa(n as u32)));
        }
        assert_eq!(early.push(0, pair(99), News::Sa(99), 99), Some((News::Sa(99), 99)));
        assert_eq!(early.release(known(99)).len(), share);
        assert!(early.queues.values().map(VecDeque::len).sum::<usize>() <= TOTAL);
    }

    #[test]
    fn ends_hear_once_that_there_is_room() {
        let mut early = Early::default();
        for n in 0..=PACKETS {
            early.push(n as u64, pair(1), News::Sa(1), n);
        }
        assert_eq!(early.have_room_again(), []);
        assert_eq!(early.expire(PATIENCE).len(), 1);
        assert_eq!(early.have_room_again(), [pair(1)]);
        assert_eq!(early.have_room_again(), []);
    }

    /// As long as packets come, so that some wait all the time.
    #[test]
    fn who_has_the_near_end_is_asked_once_a_second() {
        let mut early = Early::default();
        assert!(!early.asks(0, pair(1)), "nothing waits");
        let step = PATIENCE / 10;
        let asked = (0..50).filter(|n| {
            early.expire(n * step);
            early.push(n * step, pair(1), News::Master, *n);
            early.asks(n * step, pair(1))
        });
        assert_eq!(asked.collect::<Vec<_>>(), (0..50).step_by(10).collect::<Vec<_>>());
        assert_eq!(early.release(|of, news, _| (of, news) == (pair(1), News::Master)).len(), 10);
        early.push(50 * step, pair(1), News::Master, 50);
        assert!(early.asks(50 * step, pair(1)), "others wait");
    }
}
