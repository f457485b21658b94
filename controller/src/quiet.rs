//! Keeps hand-overs quiet. Between the old owner's report that it has stopped and the new owner's that it has begun
//! there is a moment in which nobody announces; only one that lasts is worth a condition and an event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairlead_core::model::ServiceKey;
use fairlead_core::reason::Reason;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::announced::Announcement;

/// A Service that was announced and that nobody announces for longer than this is worth telling.
/// Speakers report every two seconds at the most.
pub const LASTING: Duration = Duration::from_secs(5);
/// A Service that was never announced may take so long, for its pods have to start and probes to pass, before it is
/// worth a warning.
pub const STARTING: Duration = Duration::from_secs(10);

/// Since when Services with an address have been announced by nobody.
#[derive(Debug, Default)]
pub struct Quiet {
    silent: BTreeMap<ServiceKey, Silence>,
    /// When which of them becomes worth telling.
    due: BTreeSet<(Instant, ServiceKey)>,
}

#[derive(Debug)]
struct Silence {
    lasts_at: Instant,
    /// The reason that the user has been warned of.
    warned: Option<Reason>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The condition may say what was observed; otherwise it stays as it is for the time being.
    pub tell: bool,
    /// Warn of the reason, now.
    pub warn: bool,
}

impl Quiet {
    /// Judges what was observed of a Service that has an address; `written` is the condition `Announced` that it carries.
    pub fn judge(
        &mut self,
        key: &ServiceKey,
        written: Option<&Condition>,
        observed: &Announcement,
        now: Instant,
    ) -> Judgement {
        let Announcement::Nobody(refusal) = observed else {
            self.forget(key);
            return Judgement {
                tell: true,
                warn: false,
            };
        };
        let announced = written.is_some_and(|condition| condition.status == "True");
        let silence = self.silent.entry(key.clone()).or_insert_with(|| Silence {
            lasts_at: now + if announced { LASTING } else { STARTING },
            // After a restart: what the condition says, the user has been told.
            warned: written
                .filter(|condition| condition.status == "False")
                .and_then(|condition| {
                    let known = Reason::ALL
                        .iter()
                        .find(|reason| reason.as_str() == condition.reason);
                    known.copied()
                }),
        });
        let lasting = now >= silence.lasts_at;
        if !lasting {
            self.due.insert((silence.lasts_at, key.clone()));
        }
        let warn = lasting && silence.warned != Some(refusal.reason);
        if warn {
            silence.warned = Some(refusal.reason);
        }
        Judgement {
            tell: lasting || !announced,
            warn,
        }
    }

    /// Forgets a Service that is announced, or has no address any more.
    pub fn forget(&mut self, key: &ServiceKey) {
        if let Some(silence) = self.silent.remove(key) {
            self.due.remove(&(silence.lasts_at, key.clone()));
        }
    }

    /// The Services that have become worth telling, each of them once.
    pub fn due(&mut self, now: Instant) -> Vec<ServiceKey> {
        let mut due = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.due.pop_first().map(|(_, key)| key));
        }
        due
    }

    /// When something becomes worth telling that is not yet.
    pub fn wake(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announced::{Announcers, Several};
    use fairlead_api::conditions::{ANNOUNCED, condition};
    use fairlead_core::model::NodeName;
    use fairlead_core::reason::Refusal;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn nobody(reason: Reason) -> Announcement {
        Announcement::Nobody(Refusal::new(reason, "because"))
    }

    fn somebody() -> Announcement {
        let by = Announcers {
            owner: Some(NodeName::from("n")),
            bgp: Several::default(),
        };
        Announcement::By(vec![("192.0.2.1".parse().unwrap(), by)], vec![])
    }

    fn written(status: bool, reason: Reason) -> Condition {
        let now = Time(Timestamp::UNIX_EPOCH);
        condition(ANNOUNCED, status, &Refusal::new(reason, ""), None, now)
    }

    const WAIT: Judgement = Judgement {
        tell: false,
        warn: false,
    };
    const TELL: Judgement = Judgement {
        tell: true,
        warn: false,
    };
    const WARN: Judgement = Judgement {
        tell: true,
        warn: true,
    };

    #[test]
    fn a_hand_over_makes_no_noise_and_a_lasting_silence_warns_once_a_reason() {
        let (mut quiet, key, start) = (Quiet::default(), ServiceKey::new("a", "b"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let announced = written(true, Reason::Announced);
        let mut judge = |observed: &Announcement, ms| {
            quiet.due(at(ms));
            let judgement = quiet.judge(&key, Some(&announced), observed, at(ms));
            (judgement, quiet.wake())
        };
        assert_eq!(judge(&somebody(), 0), (TELL, None));
        assert_eq!(judge(&nobody(Reason::NotElected), 10), (WAIT, Some(at(5010))));
        assert_eq!(judge(&somebody(), 4900), (TELL, None));
        assert_eq!(
            judge(&nobody(Reason::ProbeFailed), 5000),
            (WAIT, Some(at(10_000)))
        );
        assert_eq!(judge(&nobody(Reason::NoEndpoint), 9999), (WAIT, Some(at(10_000))));
        assert_eq!(judge(&nobody(Reason::NoEndpoint), 10_000), (WARN, None));
        assert_eq!(judge(&nobody(Reason::NoEndpoint), 11_000), (TELL, None));
        assert_eq!(judge(&nobody(Reason::ProbeFailed), 12_000), (WARN, None));
        assert_eq!(judge(&somebody(), 13_000), (TELL, None));
    }

    #[test]
    fn a_new_service_is_told_at_once_and_warned_of_later() {
        let (mut quiet, key, start) = (Quiet::default(), ServiceKey::new("a", "b"), Instant::now());
        assert_eq!(quiet.judge(&key, None, &nobody(Reason::NoSpeaker), start), TELL);
        let refused = written(false, Reason::NotAssigned);
        assert_eq!(quiet.wake(), Some(start + STARTING));
        let later = start + STARTING;
        assert_eq!(quiet.due(later), vec![key.clone()]);
        assert_eq!(
            quiet.judge(&key, Some(&refused), &nobody(Reason::ProbePending), later),
            WARN
        );
    }

    #[test]
    fn a_restart_repeats_no_warning() {
        let (mut quiet, key, start) = (Quiet::default(), ServiceKey::new("a", "b"), Instant::now());
        let told = written(false, Reason::ProbeFailed);
        assert_eq!(
            quiet.judge(&key, Some(&told), &nobody(Reason::ProbeFailed), start),
            TELL
        );
        assert_eq!(
            quiet.judge(&key, Some(&told), &nobody(Reason::ProbeFailed), start + STARTING),
            TELL
        );
    }
}
