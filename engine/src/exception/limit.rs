//! How often ICMP errors may be sent (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8): a token bucket for each destination prefix,
//! and one for all together.
//!
//! 1. The destination's prefix picks a bucket of a fixed table; prefixes that meet in one share it, which can only mean
//!    fewer errors, never more, and no prefix can push another out to get a fresh bucket.
//! 2. Both that bucket and the common one must have a token; only then each gives one.

use std::net::IpAddr;
use std::time::Duration;

use crate::hash::FastHash;

/// Buckets for prefixes: 8 KiB.
const BUCKETS: usize = 1024;

/// A token bucket's size and speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that a full bucket holds; at least 1 counts.
    pub burst: u32,
    /// The time after which another token comes in.
    pub interval: Duration,
}

/// The rates of a [`RateLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// For each destination prefix: an IPv4 address, or an IPv6 /64, which is one subnet's (RFC 4291 §2.5.4).
    pub prefix: Rate,
    /// For all destinations together.
    pub all: Rate,
}

impl Default for Rates {
    /// Ten a second for each prefix, in bursts of ten: what RFC 4443 §2.4 f names for a small device. A thousand a second
    /// in all, in bursts of 200: with 576 bytes each some 5 Mbit/s.
    fn default() -> Rates {
        Rates {
            prefix: Rate { burst: 10, interval: Duration::from_millis(100) },
            all: Rate { burst: 200, interval: Duration::from_millis(1) },
        }
    }
}

/// A bucket, kept as the time at which it will be full again: as many intervals ahead as tokens are missing.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// The bucket after one token more is taken; `None` when it is empty.
    fn take(self, rate: Rate, now: Duration) -> Option<Bucket> {
        let missing = self.full_at.saturating_sub(now);
        let most = rate.interval.saturating_mul(rate.burst.saturating_sub(1));
        (missing <= most)
            .then(|| Bucket { full_at: now.saturating_add(missing).saturating_add(rate.interval) })
    }
}

/// The state. Equal calls give equal answers.
#[derive(Debug)]
pub struct RateLimit {
    rates: Rates,
    secret: u64,
    prefixes: Box<[Bucket; BUCKETS]>,
    all: Bucket,
}

impl RateLimit {
    /// All buckets full. `secret`, a random number, keeps others from choosing addresses that share a bucket with a
    /// victim's.
    #[must_use]
    pub fn new(rates: Rates, secret: u64) -> RateLimit {
        RateLimit { rates, secret, prefixes: Box::new([Bucket::default(); BUCKETS]), all: Bucket::default() }
    }

    /// Whether an error may be sent to that address now; if so, it is counted as sent.
    pub fn allow(&mut self, to: IpAddr, now: Duration) -> bool {
        let index = self.index(to);
        let Some(bucket) = self.prefixes.get_mut(index) else { return false };
        let taken = (bucket.take(self.rates.prefix, now), self.all.take(self.rates.all, now));
        let (Some(prefix), Some(all)) = taken else { return false };
        (*bucket, self.all) = (prefix, all);
        true
    }

    /// The bucket of an address's prefix.
    fn index(&self, to: IpAddr) -> usize {
        let prefix = match to {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // The upper bits are the mixed ones.
        let hash = (u128::from(prefix) << 64 | u128::from(self.secret)).fast_hash();
        (hash >> (u64::BITS - BUCKETS.trailing_zeros())) as usize
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    /// RFC 4443 section 2.4 f: N = 10 a second, bursts of B = 10.
    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = RateLimit::new(Rates::default(), 1);
        let mut count = |from: u64, to: u64| (from..to).filter(|&t| limit.allow(v4(7), ms(t))).count();
        assert_eq!(count(0, 1), 1);
        assert_eq!(count(1, 50), 9, "the rest of the burst");
        assert_eq!(count(50, 10_050), 100, "ten a second");
        assert_eq!(count(60_000, 60_020), 10, "a full bucket holds no more");
    }

    #[test]
    fn prefixes_are_apart_and_all_are_bounded() {
        let all = Rate { burst: 50, interval: ms(1000) };
        let mut limit = RateLimit::new(Rates { all, ..Rates::default() }, 2);
        assert_eq!((0..20).filter(|_| limit.allow(v4(7), ms(0))).count(), 10);
        assert!(limit.allow(v4(8), ms(0)), "another address");
        let sent = (100..2000).filter(|&n| limit.allow(v4(n), ms(0))).count();
        assert_eq!(sent, 39, "the rest of the 50");
        assert!(!limit.allow(v4(5000), ms(999)) && limit.allow(v4(5000), ms(1000)));
    }

    #[test]
    fn what_is_refused_takes_no_token() {
        let one = Rate { burst: 1, interval: ms(1000) };
        let mut limit = RateLimit::new(Rates { prefix: one, all: Rate { burst: 2, interval: ms(1000) } }, 3);
        assert!(limit.allow(v4(1), ms(0)));
        assert!((0..100).all(|_| !limit.allow(v4(1), ms(0))));
        assert!(limit.allow(v4(2), ms(0)), "the common bucket still has one");
    }

    #[test]
    fn an_ipv6_subnet_is_one_destination() {
        let mut limit = RateLimit::new(Rates::default(), 4);
        let sent = (0..100_u128)
            .filter(|n| limit.allow(IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()), ms(0)))
            .count();
        assert_eq!(sent, 10);
        assert!(limit.allow(IpAddr::V6((0x2001_0db8_0000_0001_u128 << 64).into()), ms(0)));
    }

    #[test]
    fn addresses_spread_over_the_buckets() {
        let limit = RateLimit::new(Rates::default(), 5);
        let mut used: Vec<_> = (0x0a00_0000..0x0a00_0400).map(|n| limit.index(v4(n))).collect();
        assert!(used.iter().all(|&index| index < BUCKETS));
        used.sort_unstable();
        used.dedup();
        // 1 - 1/e of them, were they thrown at random.
        assert!(used.len() > 500, "{}", used.len());
    }

    #[test]
    fn a_clock_that_jumps_is_survived() {
        let mut limit = RateLimit::new(Rates::default(), 6);
        assert!(limit.allow(v4(1), Duration::MAX));
        let _ = limit.allow(v4(1), Duration::ZERO);
        assert!(limit.allow(v4(2), Duration::MAX));
    }

    proptest! {
        /// In no stretch of time does more pass than a burst and the rate.
        #[test]
        fn never_more_than_burst_and_rate(
            steps in proptest::collection::vec(0..40_u64, 1..300), burst in 1..20_u32, interval in 1..50_u64,
        ) {
            let rate = Rate { burst, interval: ms(interval) };
            let mut limit = RateLimit::new(Rates { prefix: rate, all: rate }, 7);
            let mut now = 0;
            let mut sent = Vec::new();
            for step in steps {
                now += step;
                if limit.allow(v4(9), ms(now)) {
                    sent.push(now);
                }
            }
            for (n, from) in sent.iter().enumerate() {
                for (m, to) in sent.iter().enumerate().skip(n) {
                    prop_assert!((m - n + 1) as u64 <= u64::from(burst) + (to - from) / interval);
                }
            }
        }
    }
}
