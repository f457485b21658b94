//! When a target is probed next.

use std::time::Duration;

/// Spreads the probes of a node over time. Pauses are shortened, never lengthened.
///
/// The first probe of a target is at once. Up to the second it is a part of the interval that is another for each
/// target, so that those which began together are spread evenly from then on; after that, up to a tenth less than the
/// interval keeps them from falling into step again. Reproducible: the golden ratio, and SplitMix64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// In (0, 1].
    phase: f64,
    started: bool,
    state: u64,
}

impl Pace {
    /// For the target with this running number.
    pub(super) fn new(number: u64) -> Self {
        // Multiples of the golden ratio, modulo 1, are as evenly spread as can be, however many there are.
        let turned = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            phase: 1.0 - fraction(turned),
            started: false,
            state: turned,
        }
    }

    /// From the start of the last probe to the start of the next.
    pub(super) fn pause(&mut self, interval: Duration) -> Duration {
        if !self.started {
            self.started = true;
            return interval.mul_f64(self.phase);
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        interval - interval.mul_f64(0.1 * fraction(mixed))
    }
}

/// In [0, 1).
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    #[test]
    fn jitter_only_shortens_and_by_a_tenth_at_the_most() {
        let mut pace = Pace::new(7);
        assert!(pace.pause(INTERVAL) <= INTERVAL);
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let next = pace.pause(INTERVAL);
            assert!(next <= INTERVAL && next >= Duration::from_millis(450), "{next:?}");
            seen.insert(next.as_millis());
        }
        assert!(seen.len() > 40, "spread over the whole range: {seen:?}");
    }

    #[test]
    fn targets_that_begin_together_are_spread_evenly() {
        for count in [10, 100, 1000] {
            let mut slots = [0; 10];
            for number in 0..count {
                let pause = Pace::new(number).pause(INTERVAL);
                assert!(pause > Duration::ZERO && pause <= INTERVAL, "{pause:?}");
                slots[(pause.as_nanos() * 10 / (INTERVAL.as_nanos() + 1)) as usize] += 1;
            }
            let even = count / 10;
            assert!(
                slots.iter().all(|slot: &u64| slot.abs_diff(even) <= even / 4 + 1),
                "{slots:?}"
            );
        }
    }
}
