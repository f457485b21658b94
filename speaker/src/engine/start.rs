//! When a speaker that has just started may act for the first time.
//!
//! It goes on with the claims of the process before it, so acting on half the knowledge would give addresses away
//! without need: the API server should have told everything, the gossip should know what others know, the node agent
//! should have reported, and the first probes should be answered. None of these is waited for long, since meanwhile
//! nobody answers for those addresses. Without the API server a speaker goes on with what the process before it
//! announced, and begins nothing.

use std::time::{Duration, Instant};

/// For the API server's lists.
const LISTS: Duration = Duration::from_millis(1500);
/// For the gossip, which itself gives up waiting for others before that.
const GOSSIP: Duration = Duration::from_secs(4);
/// For the node agent's first report.
const AGENT: Duration = Duration::from_secs(3);
/// For the first round of probes, counted from when it could begin.
const PROBES: Duration = Duration::from_secs(2);

/// What has been heard so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The API server has told everything.
    pub listed: bool,
    /// The gossip knows what others know.
    pub informed: bool,
    /// The node agent has reported.
    pub agent: bool,
    /// Every target was probed once.
    pub probed: bool,
}

/// What has been awaited so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    began: Instant,
    probes_deadline: Option<Instant>,
    over: bool,
}

impl Start {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            probes_deadline: None,
            over: false,
        }
    }

    /// Has the speaker acted already?
    pub(super) fn over(&self) -> bool {
        self.over
    }

    /// Until when to wait still; `None` from the moment when the speaker may act.
    pub(super) fn wait(&mut self, progress: &Progress, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        let awaited = [
            (progress.listed, LISTS),
            (progress.informed, GOSSIP),
            (progress.agent, AGENT),
        ];
        let deadlines = awaited
            .into_iter()
            .filter(|(done, _)| !done)
            .map(|(_, time)| self.began + time);
        if let Some(deadline) = deadlines.filter(|deadline| now < *deadline).min() {
            return Some(deadline);
        }
        let deadline = *self.probes_deadline.get_or_insert(now + PROBES);
        if !progress.probed && now < deadline {
            return Some(deadline);
        }
        self.over = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Progress = Progress {
        listed: true,
        informed: true,
        agent: true,
        probed: true,
    };

    #[test]
    fn all_are_awaited_and_none_for_ever() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut start = Start::new(begin);
        assert_eq!(
            start.wait(&Progress { agent: false, ..ALL }, at(0)),
            Some(at(3000))
        );
        assert_eq!(
            start.wait(
                &Progress {
                    informed: false,
                    ..ALL
                },
                at(50)
            ),
            Some(at(4000))
        );
        assert_eq!(
            start.wait(
                &Progress {
                    listed: false,
                    informed: false,
                    ..ALL
                },
                at(50)
            ),
            Some(at(1500))
        );
        assert_eq!(
            start.wait(&Progress { probed: false, ..ALL }, at(100)),
            Some(at(2100))
        );
        assert_eq!(
            start.wait(&Progress { probed: false, ..ALL }, at(200)),
            Some(at(2100))
        );
        assert!(!start.over());
        assert_eq!(start.wait(&ALL, at(300)), None);
        // Once over it stays over, also while a later target is not answered yet.
        assert!(start.over() && start.wait(&Progress::default(), at(400)).is_none());

        let mut silent = Start::new(begin);
        assert_eq!(silent.wait(&Progress::default(), at(1500)), Some(at(3000)));
        assert_eq!(silent.wait(&Progress::default(), at(3000)), Some(at(4000)));
        assert_eq!(silent.wait(&Progress::default(), at(4000)), Some(at(6000)));
        assert_eq!(silent.wait(&Progress::default(), at(6000)), None);
    }
}
