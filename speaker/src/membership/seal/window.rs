//! Which counters of an epoch have been seen: a sliding window, as in RFC 6479.

/// So far behind the highest counter a datagram may come and still be taken.
pub const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// The counters seen.
#[derive(Clone, Debug)]
pub struct Window {
    /// One more than the highest counter seen.
    end: u64,
    /// Bit `counter % WINDOW` for each of the last [`WINDOW`] counters.
    bits: [u64; WORDS],
}

impl Window {
    /// Everything before this counter counts as seen: it may have been recorded at any time.
    pub fn starting_at(counter: u64) -> Self {
        Self {
            end: counter,
            bits: [u64::MAX; WORDS],
        }
    }

    /// Is this counter news?
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.end {
            return counter < u64::MAX;
        }
        self.end - counter <= WINDOW && !self.bit(counter)
    }

    /// Notes a counter; answers whether it is news.
    pub fn note(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.end {
            if counter - self.end >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                // Places of old counters become those of new ones.
                for passed in self.end..counter {
                    self.bits[word(passed)] &= !(1 << (passed % 64));
                }
            }
            self.end = counter + 1;
        }
        self.bits[word(counter)] |= 1 << (counter % 64);
        true
    }

    fn bit(&self, counter: u64) -> bool {
        self.bits[word(counter)] & (1 << (counter % 64)) != 0
    }
}

fn word(counter: u64) -> usize {
    (counter % WINDOW / 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set(
            start in prop_oneof![Just(0), 0u64..5000, Just(u64::MAX - 2_000_000)],
            steps in prop::collection::vec((0u64..3000, any::<bool>()), 1..400),
        ) {
            let mut window = Window::starting_at(start);
            let (mut seen, mut end) = (BTreeSet::new(), start);
            for (step, forward) in steps {
                let counter = if forward { end + step } else { end.saturating_sub(step) };
                let news = counter >= start && !seen.contains(&counter)
                    && (counter >= end || end - counter <= WINDOW);
                prop_assert_eq!(window.is_new(counter), news);
                prop_assert_eq!(window.note(counter), news);
                if news {
                    seen.insert(counter);
                    end = end.max(counter + 1);
                }
                prop_assert!(!window.is_new(counter));
            }
        }
    }

    #[test]
    fn the_last_counter_of_all_is_never_taken() {
        let mut window = Window::starting_at(0);
        assert!(!window.note(u64::MAX));
        assert!(window.note(u64::MAX - 1));
        assert!(!window.note(u64::MAX - 1) && window.note(u64::MAX - 2));
    }
}
