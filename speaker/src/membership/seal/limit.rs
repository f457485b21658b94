//! How often something may happen.

use std::time::Duration;

/// So many times at once, then once every so often.
#[derive(Clone, Debug)]
pub struct Limit {
    burst: u32,
    every: Duration,
    /// When all that was allowed so far is paid for.
    paid: Duration,
}

impl Limit {
    /// `burst` times at once, then once `every`.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            paid: Duration::ZERO,
        }
    }

    /// Is it allowed now? If so, it counts.
    pub fn allows(&mut self, now: Duration) -> bool {
        let paid = self.paid.max(now) + self.every;
        let allowed = paid - now <= self.every * self.burst;
        if allowed {
            self.paid = paid;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut limit = Limit::new(3, Duration::from_millis(100));
        let count = |limit: &mut Limit, from: u64, to: u64| {
            (from..to)
                .filter(|ms| limit.allows(Duration::from_millis(*ms)))
                .count()
        };
        assert_eq!(count(&mut limit, 1000, 1050), 3);
        assert_eq!(count(&mut limit, 1050, 2050), 10);
        assert_eq!(count(&mut limit, 9000, 9010), 3, "a pause earns a burst, no more");
    }
}
