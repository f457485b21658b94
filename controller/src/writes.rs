//! Which writes are under way, have not been seen yet, or must wait after a failure.
//!
//! A write that was sent may have happened although no watch has shown it yet. Until then its outcome is assumed, and
//! what it takes away stays held; so a plan made meanwhile cannot give one address to two Services.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::model::{Service, ServiceKey};

/// An object that the controller writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A Service.
    Service(ServiceKey),
    /// An `AddressPool`.
    Pool(String),
    /// An `L2Advertisement`.
    Advertisement(String),
    /// A `BGPPeer`.
    Peer(String),
    /// A `BGPAdvertisement`.
    BgpAdvertisement(String),
    /// The state ConfigMap.
    State,
}

impl Object {
    /// The kind, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::Pool(_) => "AddressPool",
            Self::Advertisement(_) => "L2Advertisement",
            Self::Peer(_) => "BGPPeer",
            Self::BgpAdvertisement(_) => "BGPAdvertisement",
            Self::State => "ConfigMap",
        }
    }

    /// Namespace and name, or name.
    pub fn name(&self) -> String {
        match self {
            Self::Service(key) => key.to_string(),
            Self::Pool(name)
            | Self::Advertisement(name)
            | Self::Peer(name)
            | Self::BgpAdvertisement(name) => name.clone(),
            Self::State => "state".to_owned(),
        }
    }
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Accepted; the object has this version now.
    Accepted(String),
    /// The object had changed or was gone: a newer state is on its way here.
    Stale,
    /// Refused for good, with the reason: it has not happened.
    Refused(String),
    /// No answer: it may or may not have happened.
    Unknown,
}

/// An accepted write shows up within milliseconds. If it has not after so long, no event will come.
const UNSEEN: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// All writes that matter still.
#[derive(Debug, Default)]
pub struct Writes {
    pending: HashMap<Object, Pending>,
    under_way: usize,
}

#[derive(Debug)]
struct Pending {
    /// The version that the write was made from.
    base: String,
    state: State,
    failures: u32,
    /// What a Service is assumed to look like.
    after: Option<Arc<Service>>,
    /// What earlier writes from the same version would have made of it: each of them may still happen, though only one.
    earlier: Vec<Arc<Service>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Sent, no answer yet.
    UnderWay,
    /// Answered; wait for the watch, but not for ever.
    Unseen(Instant),
    /// Failed; wait before the next attempt.
    Paused(Instant),
}

impl Writes {
    /// Must a write to this object wait?
    pub fn blocked(&self, object: &Object, version: &str, now: Instant) -> bool {
        self.pending
            .get(object)
            .is_some_and(|pending| match pending.state {
                State::UnderWay => true,
                State::Unseen(until) => pending.base == version && now < until,
                State::Paused(until) => now < until,
            })
    }

    /// A write is being sent.
    pub fn begin(&mut self, object: Object, base: &str, after: Option<Arc<Service>>) {
        let known = self.pending.get(&object);
        let failures = known.map_or(0, |pending| pending.failures);
        let earlier = known
            .filter(|pending| pending.base == base)
            .map_or_else(Vec::new, |pending| {
                pending.earlier.iter().chain(&pending.after).cloned().collect()
            });
        let pending = Pending {
            base: base.to_owned(),
            state: State::UnderWay,
            failures,
            after,
            earlier,
        };
        let before = self.pending.insert(object, pending);
        if before.is_none_or(|before| before.state != State::UnderWay) {
            self.under_way += 1;
        }
    }

    /// The next write to an object need not wait although the last one failed.
    pub fn forgive(&mut self, object: &Object, now: Instant) {
        if let Some(pending) = self.pending.get_mut(object) {
            pending.state = State::Paused(now);
        }
    }

    /// Does no write matter any more?
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// A write has ended.
    pub fn end(&mut self, object: &Object, ended: &Ended, now: Instant) {
        let Some(pending) = self.pending.get_mut(object) else {
            return;
        };
        if pending.state == State::UnderWay {
            self.under_way -= 1;
        }
        let failed = match ended {
            // Nothing changed: it would be written again at once, for ever.
            Ended::Accepted(version) => *version == pending.base,
            Ended::Stale => false,
            Ended::Refused(_) | Ended::Unknown => true,
        };
        if matches!(ended, Ended::Refused(_)) {
            pending.after = None;
        }
        if failed {
            let pause = FIRST_PAUSE
                .saturating_mul(1 << pending.failures.min(10))
                .min(LONGEST_PAUSE);
            pending.failures += 1;
            pending.state = State::Paused(now + pause);
        } else {
            pending.failures = 0;
            pending.state = State::Unseen(now + UNSEEN);
        }
    }

    /// What the Service is assumed to look like, if its version is still the one that a write was made from.
    pub fn assumed(&self, key: &ServiceKey, version: &str) -> Option<&Arc<Service>> {
        let pending = self.pending.get(&Object::Service(key.clone()))?;
        pending.after.as_ref().filter(|_| pending.base == version)
    }

    /// Addresses that the Service may come to name by an earlier write from this version, whose outcome is unknown.
    pub fn possible(&self, key: &ServiceKey, version: &str) -> Vec<IpAddr> {
        let pending = self.pending.get(&Object::Service(key.clone()));
        let pending = pending.filter(|pending| pending.base == version);
        let earlier = pending.into_iter().flat_map(|pending| &pending.earlier);
        earlier.flat_map(|service| named(service)).collect()
    }

    /// Forgets writes that a watch has shown to be settled. `version` tells the version of an object, if it exists.
    pub fn settle<'a>(&mut self, version: impl Fn(&Object) -> Option<&'a str>) {
        self.pending.retain(|object, pending| {
            let version = version(object);
            match pending.state {
                State::UnderWay => true,
                State::Unseen(_) => version == Some(pending.base.as_str()),
                State::Paused(_) => version.is_some(),
            }
        });
    }

    /// Number of writes that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// When the next pause or wait ends.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let due = self.pending.values().filter_map(|pending| match pending.state {
            State::UnderWay => None,
            State::Unseen(until) | State::Paused(until) => Some(until),
        });
        due.filter(|until| *until > now).min()
    }
}

/// All addresses that a Service names, in its status, its spec or its records.
pub fn named(service: &Service) -> impl Iterator<Item = IpAddr> {
    let recorded = service.assigned.iter().flat_map(|record| &record.addresses);
    let external = service.external.iter().flat_map(|record| &record.addresses);
    service
        .ingress
        .iter()
        .copied()
        .chain(recorded.map(|(address, _)| *address))
        .chain(service.external_ips.iter().copied())
        .chain(external.map(|external| external.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object::Pool("p".into())
    }

    #[test]
    fn an_accepted_write_blocks_until_it_is_seen() {
        let (mut writes, now) = (Writes::default(), Instant::now());
        assert!(!writes.blocked(&object(), "1", now));
        writes.begin(object(), "1", None);
        assert!(writes.blocked(&object(), "1", now) && writes.blocked(&object(), "2", now));
        assert_eq!(writes.under_way(), 1);
        writes.end(&object(), &Ended::Accepted("2".into()), now);
        assert!(writes.blocked(&object(), "1", now) && !writes.blocked(&object(), "2", now));
        assert_eq!((writes.under_way(), writes.wake(now)), (0, Some(now + UNSEEN)));
        assert!(
            !writes.blocked(&object(), "1", now + UNSEEN),
            "a lost event must not block for ever"
        );
        writes.settle(|_| Some("2"));
        assert_eq!(writes.wake(now), None);
    }

    #[test]
    fn failures_pause_longer_and_longer_and_a_success_ends_that() {
        let (mut writes, mut now) = (Writes::default(), Instant::now());
        let mut pauses = vec![];
        for _ in 0..9 {
            writes.begin(object(), "1", None);
            writes.end(&object(), &Ended::Unknown, now);
            assert!(writes.blocked(&object(), "1", now) && writes.blocked(&object(), "2", now));
            let until = writes.wake(now).unwrap();
            pauses.push((until - now).as_millis());
            now = until;
            assert!(!writes.blocked(&object(), "1", now));
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        writes.begin(object(), "1", None);
        writes.end(&object(), &Ended::Accepted("2".into()), now);
        writes.begin(object(), "2", None);
        writes.end(&object(), &Ended::Refused(String::new()), now);
        assert_eq!(writes.wake(now), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn a_write_that_changed_nothing_counts_as_a_failure() {
        let (mut writes, now) = (Writes::default(), Instant::now());
        writes.begin(object(), "1", None);
        writes.end(&object(), &Ended::Accepted("1".into()), now);
        assert_eq!(writes.wake(now), Some(now + FIRST_PAUSE));
    }
}
