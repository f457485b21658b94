//! Figures from single measurements.

use std::time::Duration;

use serde::Serialize;

/// How long something took, over many cases; milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Half of the cases took no longer.
    pub p50_ms: u64,
    /// 99 of 100 cases took no longer.
    pub p99_ms: u64,
    /// No case took longer.
    pub max_ms: u64,
}

impl Spread {
    /// Of these cases, in any order; `None` of no cases.
    pub fn of(mut cases: Vec<Duration>) -> Option<Self> {
        cases.sort_unstable();
        Some(Self {
            p50_ms: millis(percentile(&cases, 50)?),
            p99_ms: millis(percentile(&cases, 99)?),
            max_ms: millis(*cases.last()?),
        })
    }
}

/// The smallest of the sorted cases that at least `percent` of all do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// So many in this time, per second; zero if no time has passed.
pub fn rate(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_cases_that_happened() {
        let spread = |values| Spread::of(ms(values)).map(|s: Spread| (s.p50_ms, s.p99_ms, s.max_ms));
        assert_eq!(spread(vec![]), None);
        assert_eq!(spread(vec![7]), Some((7, 7, 7)));
        assert_eq!(spread(vec![9, 1]), Some((1, 9, 9)));
        assert_eq!(spread((1..=100).rev().collect()), Some((50, 99, 100)));
        assert_eq!(spread((1..=10_000).collect()), Some((5000, 9900, 10_000)));
    }

    #[test]
    fn rates() {
        assert_eq!(rate(10, Duration::from_secs(4)), 2.5);
        assert_eq!(rate(10, Duration::ZERO), 0.0);
    }
}
