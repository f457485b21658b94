//! How often a target is probed, and what changes its verdict.

use std::time::Duration;

use fairlead_core::config::Health;

use super::threshold::Thresholds;

/// How one target is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one probe to the start of the next. Jitter makes it up to a tenth shorter, never longer, so
    /// that the time to a withdrawal stays bounded.
    pub interval: Duration,
    /// For a whole probe: connect, ask, read.
    pub timeout: Duration,
    /// Answers in a row that change the verdict.
    pub thresholds: Thresholds,
}

/// What the speaker's flags say if nothing is given.
impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(400),
            thresholds: Thresholds::default(),
        }
    }
}

impl Timing {
    /// This, with what a pool says instead.
    pub fn with(self, pool: Health) -> Self {
        Self {
            interval: pool.interval.unwrap_or(self.interval),
            timeout: pool.timeout.unwrap_or(self.timeout),
            thresholds: Thresholds {
                failure: pool.failure.unwrap_or(self.thresholds.failure),
                admission: self.thresholds.admission,
                readmission: pool.success.unwrap_or(self.thresholds.readmission),
            },
        }
    }

    /// The strictest of two, for a target that stands for addresses of several pools: withdraws as soon as the one or
    /// the other would, and admits when both would.
    pub fn strictest(self, other: Self) -> Self {
        let (ours, theirs) = (self.thresholds, other.thresholds);
        Self {
            interval: self.interval.min(other.interval),
            timeout: self.timeout.min(other.timeout),
            thresholds: Thresholds {
                failure: ours.failure.min(theirs.failure),
                admission: ours.admission.max(theirs.admission),
                readmission: ours.readmission.max(theirs.readmission),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(interval: u64, timeout: u64, failure: u32, readmission: u32) -> Timing {
        Timing {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            thresholds: Thresholds {
                failure,
                admission: 1,
                readmission,
            },
        }
    }

    #[test]
    fn pools_over_flags_and_the_strictest_of_pools() {
        let flags = timing(500, 400, 2, 2);
        assert_eq!(flags.with(Health::default()), flags);
        let slow = flags.with(Health {
            interval: Some(Duration::from_secs(5)),
            success: Some(4),
            ..Health::default()
        });
        assert_eq!(slow, timing(5000, 400, 2, 4));
        let sharp = flags.with(Health {
            timeout: Some(Duration::from_millis(50)),
            failure: Some(1),
            ..Health::default()
        });
        assert_eq!(sharp, timing(500, 50, 1, 2));
        assert_eq!(slow.strictest(sharp), timing(500, 50, 1, 4));
        assert_eq!(sharp.strictest(slow), slow.strictest(sharp));
    }
}
