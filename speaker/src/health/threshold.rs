//! From single answers to a verdict that does not flap.

use fairlead_core::announce::Verdict;

/// How many answers in a row change the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row that withdraw.
    pub failure: u32,
    /// Successes in a row that admit at first.
    pub admission: u32,
    /// Successes in a row that admit after a failure.
    pub readmission: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failure: 2,
            admission: 1,
            readmission: 2,
        }
    }
}

/// The verdict on one target and what could change it.
#[derive(Clone, Debug)]
pub struct Judge {
    thresholds: Thresholds,
    verdict: Verdict,
    /// Answers in a row against the verdict.
    against: u32,
}

impl Judge {
    /// Nothing has been probed yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            verdict: Verdict::Pending,
            against: 0,
        }
    }

    /// Takes in the outcome of one probe. A target that never passed fails with its first failure: there is nothing to
    /// be gained by waiting, and the reason is wanted.
    pub fn observe(&mut self, outcome: Result<(), String>) -> &Verdict {
        let needed = match (&self.verdict, &outcome) {
            (Verdict::Pass, Ok(())) => {
                self.against = 0;
                return &self.verdict;
            }
            (Verdict::Fail(_), Err(detail)) => {
                self.against = 0;
                self.verdict = Verdict::Fail(detail.clone());
                return &self.verdict;
            }
            (Verdict::Pending, Ok(())) => self.thresholds.admission,
            (Verdict::Pending, Err(_)) => 1,
            (Verdict::Pass, Err(_)) => self.thresholds.failure,
            (Verdict::Fail(_), Ok(())) => self.thresholds.readmission,
        };
        self.against += 1;
        if self.against >= needed {
            self.against = 0;
            self.verdict = match outcome {
                Ok(()) => Verdict::Pass,
                Err(detail) => Verdict::Fail(detail),
            };
        }
        &self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is a success, `-` a failure; what follows is the verdict after each: `P`ass, `F`ail, `.` pending.
    fn run(thresholds: Thresholds, answers: &str) -> String {
        let mut judge = Judge::new(thresholds);
        let letter = |verdict: &Verdict| match verdict {
            Verdict::Pending => '.',
            Verdict::Pass => 'P',
            Verdict::Fail(_) => 'F',
        };
        answers
            .chars()
            .map(|answer| letter(judge.observe(if answer == '+' { Ok(()) } else { Err("no".into()) })))
            .collect()
    }

    #[test]
    fn one_success_admits_two_failures_withdraw_two_successes_readmit() {
        let default = Thresholds::default();
        assert_eq!(run(default, "+++"), "PPP");
        assert_eq!(run(default, "+-+-+"), "PPPPP");
        assert_eq!(run(default, "+--"), "PPF");
        assert_eq!(run(default, "+--+-+-++"), "PPFFFFFFP");
        assert_eq!(run(default, "-++"), "FFP");
        let strict = Thresholds {
            failure: 3,
            admission: 2,
            readmission: 3,
        };
        assert_eq!(run(strict, "++---+++"), ".PPPFFFP");
    }

    #[test]
    fn the_sentence_is_that_of_the_last_failure() {
        let mut judge = Judge::new(Thresholds::default());
        judge.observe(Err("refused".into()));
        assert_eq!(
            judge.observe(Err("HTTP 503".into())),
            &Verdict::Fail("HTTP 503".into())
        );
        assert_eq!(judge.observe(Ok(())), &Verdict::Fail("HTTP 503".into()));
    }
}
