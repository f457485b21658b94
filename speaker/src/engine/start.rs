//! When a speaker that has just started may act for the first time.
//!
//! It goes on with the claims of the process before it, so acting on half the knowledge would give addresses away
//! without need: the node agent should have reported and the first probes should be answered. Neither is waited for
//! long, since meanwhile nobody answers for those addresses.

use std::time::{Duration, Instant};

/// For the node agent's first report.
const AGENT: Duration = Duration::from_secs(3);
/// For the first round of probes, counted from when it could begin.
const PROBES: Duration = Duration::from_secs(2);

/// What has been awaited so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    agent_deadline: Instant,
    probes_deadline: Option<Instant>,
    over: bool,
}

impl Start {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            agent_deadline: now + AGENT,
            probes_deadline: None,
            over: false,
        }
    }

    /// Has the speaker acted already?
    pub(super) fn over(&self) -> bool {
        self.over
    }

    /// Until when to wait still; `None` from the moment when the speaker may act.
    pub(super) fn wait(&mut self, agent_answered: bool, probed: bool, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        if !agent_answered && now < self.agent_deadline {
            return Some(self.agent_deadline);
        }
        let deadline = *self.probes_deadline.get_or_insert(now + PROBES);
        if !probed && now < deadline {
            return Some(deadline);
        }
        self.over = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_awaited_and_neither_for_ever() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut start = Start::new(begin);
        assert_eq!(start.wait(false, true, at(0)), Some(at(3000)));
        assert_eq!(start.wait(true, false, at(100)), Some(at(2100)));
        assert_eq!(start.wait(true, false, at(200)), Some(at(2100)));
        assert!(!start.over());
        assert_eq!(start.wait(true, true, at(300)), None);
        // Once over it stays over, also while a later target is not answered yet.
        assert!(start.over() && start.wait(false, false, at(400)).is_none());

        let mut silent = Start::new(begin);
        assert_eq!(silent.wait(false, false, at(3000)), Some(at(5000)));
        assert_eq!(silent.wait(false, false, at(5000)), None);
    }
}
