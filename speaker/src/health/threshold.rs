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
    /// Has it ever passed?
    passed: bool,
    /// Whether the last answers were good, and how many in a row they are.
    streak: (bool, u32),
}

impl Judge {
    /// Nothing has been probed yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            verdict: Verdict::Pending,
            passed: false,
            streak: (false, 0),
        }
    }

    /// The verdict at present.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Other thresholds from the next outcome on. The verdict stays.
    pub fn set(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Takes in the outcome of one probe.
    pub fn observe(&mut self, outcome: Result<(), String>) -> &Verdict {
        let good = outcome.is_ok();
        self.streak = match self.streak {
            (same, count) if same == good => (good, count.saturating_add(1)),
            _ => (good, 1),
        };
        let needed = match (&self.verdict, good) {
            (Verdict::Pass, true) => return &self.verdict,
            (Verdict::Fail(_), false) => 0, // for the newer sentence
            // A new target fails for a moment as a rule: the service proxy learns of endpoints when we do.
            (Verdict::Pending | Verdict::Pass, false) => self.thresholds.failure,
            (Verdict::Pending | Verdict::Fail(_), true) if self.passed => self.thresholds.readmission,
            (Verdict::Pending | Verdict::Fail(_), true) => self.thresholds.admission,
        };
        if self.streak.1 >= needed {
            self.passed |= good;
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
        assert_eq!(run(default, "-+"), ".P");
        assert_eq!(
            run(default, "--+"),
            ".FP",
            "what never passed is admitted, not admitted again"
        );
        let strict = Thresholds {
            failure: 3,
            admission: 2,
            readmission: 3,
        };
        assert_eq!(run(strict, "++---+++"), ".PPPFFFP");
        assert_eq!(run(strict, "---++"), "..FFP");
        assert_eq!(run(strict, "-+-+-++"), "......P");
    }

    #[test]
    fn other_thresholds_keep_the_verdict_and_the_row() {
        let mut judge = Judge::new(Thresholds::default());
        judge.observe(Ok(()));
        judge.observe(Err("no".into()));
        judge.set(Thresholds {
            failure: 3,
            ..Thresholds::default()
        });
        assert_eq!(judge.observe(Err("no".into())), &Verdict::Pass);
        assert_eq!(judge.observe(Err("no".into())), &Verdict::Fail("no".into()));
        judge.observe(Ok(()));
        judge.set(Thresholds {
            readmission: 1,
            ..Thresholds::default()
        });
        assert_eq!(judge.observe(Ok(())), &Verdict::Pass);
    }

    #[test]
    fn the_sentence_is_that_of_the_last_failure() {
        let mut judge = Judge::new(Thresholds::default());
        judge.observe(Err("refused".into()));
        judge.observe(Err("refused".into()));
        assert_eq!(
            judge.observe(Err("HTTP 503".into())),
            &Verdict::Fail("HTTP 503".into())
        );
        judge.observe(Ok(()));
        judge.observe(Err("refused".into()));
        judge.observe(Err("timeout".into()));
        assert_eq!(judge.observe(Ok(())), &Verdict::Fail("timeout".into()));
    }
}
