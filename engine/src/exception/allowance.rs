//! How often something may happen: so many times in each second, the second starting with the first of them.

/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// What is still allowed in this second.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    per_second: u64,
    left: u64,
    since: u64,
}

impl Allowance {
    pub(crate) fn new(per_second: u64) -> Allowance {
        Allowance { per_second, left: per_second, since: 0 }
    }

    /// May it happen once more at `now`, in nanoseconds?
    pub(crate) fn take(&mut self, now: u64) -> bool {
        if now >= self.since.saturating_add(SECOND) {
            (self.left, self.since) = (self.per_second, now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_second() {
        let mut allowance = Allowance::new(3);
        let taken = |allowance: &mut Allowance, now| (0..10).filter(|_| allowance.take(now)).count();
        assert_eq!(taken(&mut allowance, 0), 3);
        assert_eq!(taken(&mut allowance, SECOND - 1), 0);
        assert_eq!(taken(&mut allowance, SECOND), 3);
        assert_eq!(taken(&mut allowance, 100 * SECOND), 3);
    }
}
