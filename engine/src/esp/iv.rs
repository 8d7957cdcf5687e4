//! Where IVs come from, so that no (key, nonce) pair is ever used twice (RFC 4106 section 3.1 leaves the choice to us).
//!
//! An IV is 64 bits: a *domain* on top, a counter below. Two sources that may hold the same key never share a domain.
//!
//! | bits | meaning |
//! |---|---|
//! | 63 | 1: the engine. FreeBSD's kernel counts from 0, so its IVs have 0 here |
//! | 62 | which router of a pair |
//! | 61 | 0: a numbered run, 1: a run that can keep no record |
//! | 60..40 | the run's number, which whoever keeps the record raises at each start (numbered runs) |
//! | 39..0 | the counter of a numbered run |
//!
//! A run that keeps no record (reading capture files with fixed keys) starts its counter at a random place in the 61 bits.

/// Which router of a pair, so that both may send with the same SA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Router {
    /// The one, or the first of the pair.
    #[default]
    First,
    /// The second of the pair.
    Second,
}

const ENGINE: u64 = 1 << 63;
const SECOND: u64 = 1 << 62;
const UNRECORDED: u64 = 1 << 61;
const COUNTER_BITS: u32 = 40;
const COUNTERS: u64 = 1 << COUNTER_BITS;
/// Runs that can be numbered while one key lives.
pub const RUNS: u32 = 1 << 21;

/// IVs that one SA may use and nobody else will. It cannot be cloned: who has it may send.
#[derive(Debug, PartialEq, Eq)]
pub struct IvRange {
    first: u64,
    count: u64,
}

impl IvRange {
    /// The IVs of run number `run` on `router`, or `None` when the number is not below [`RUNS`]. The caller sees to it that
    /// no two runs with the same key have the same number.
    pub fn of_run(router: Router, run: u32) -> Option<IvRange> {
        (run < RUNS).then(|| IvRange {
            first: ENGINE | router_bit(router) | u64::from(run) << COUNTER_BITS,
            count: COUNTERS,
        })
    }

    /// IVs for a run that keeps no record, from 64 random bits. Two such runs with one key overlap with a chance of (packets
    /// of both) / 2^61.
    pub fn unrecorded(router: Router, random: u64) -> IvRange {
        let start = random & (UNRECORDED - 1);
        let first = start.min(UNRECORDED - COUNTERS);
        IvRange { first: ENGINE | router_bit(router) | UNRECORDED | first, count: COUNTERS }
    }

    /// Packets that can be sent with it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Have they IVs in common?
    pub fn overlaps(&self, other: &IvRange) -> bool {
        self.first < other.first.saturating_add(other.count)
            && other.first < self.first.saturating_add(self.count)
    }

    /// The `nth` IV, counted from 0 and below [`IvRange::count`], in wire order.
    #[inline]
    pub fn nth(&self, nth: u64) -> [u8; 8] {
        self.first.wrapping_add(nth).to_be_bytes()
    }
}

fn router_bit(router: Router) -> u64 {
    match router {
        Router::First => 0,
        Router::Second => SECOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(range: &IvRange) -> (u64, u64) {
        (u64::from_be_bytes(range.nth(0)), u64::from_be_bytes(range.nth(range.count() - 1)))
    }

    #[test]
    fn domains_are_disjoint() {
        let mut ranges = Vec::new();
        for router in [Router::First, Router::Second] {
            for run in [0, 1, 2, RUNS - 1] {
                ranges.push(ends(&IvRange::of_run(router, run).expect("a number below RUNS")));
            }
        }
        ranges.push(ends(&IvRange::unrecorded(Router::First, 0)));
        ranges.push(ends(&IvRange::unrecorded(Router::First, u64::MAX)));
        ranges.push(ends(&IvRange::unrecorded(Router::Second, 7)));
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 < pair[1].0, "{:x?} overlap", pair);
        }
        assert!(ranges.iter().all(|(first, last)| first >> 63 == 1 && last >> 63 == 1), "the kernel's half");
    }

    #[test]
    fn run_numbers_end() {
        assert_eq!(IvRange::of_run(Router::First, RUNS), None);
    }
}
