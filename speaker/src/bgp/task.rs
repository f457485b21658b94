//! Keeps the daemon at what is wanted: connects, takes stock of what it has, and from then on makes the difference
//! whenever there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairlead_core::config::PeerEndpoint;
use fairlead_gobgp::{Error, api};
use jiff::{SignedDuration, Timestamp};
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::guard::Guard;
use super::link::Link;
use super::neighbour::Finder;
use super::observe::{self, Counters};
use super::plan::{self, Goal, Step};
use super::session::{self, Surroundings, Target};
use super::{DaemonState, Input, Observed, Refusal, Session, Settings, State};

/// Between two attempts to reach the daemon.
const RETRY: Duration = Duration::from_millis(200);
/// Between two attempts with a daemon that refuses what it is told.
const REFUSED: Duration = Duration::from_secs(3);
/// Between two looks at what tells no changes: counts of routes, BFD, interfaces.
const LOOK: Duration = Duration::from_secs(2);
/// A session that was ended because too much was sent is tried again after so long.
const PAUSE: SignedDuration = SignedDuration::from_secs(300);
/// Routes that were sent are counted when something has changed, and again after so long: it costs the daemon a walk
/// through all routes with all statements.
const COUNT: Duration = Duration::from_secs(60);
/// Attempts to make a session are spoken of when it has not come up for so long.
const ATTEMPT: SignedDuration = SignedDuration::from_secs(4);
/// A session by interface that does not come up is looked for anew after so long.
const LOST: SignedDuration = SignedDuration::from_secs(15);

/// Starts the task. It does nothing until there is an input: a speaker that starts beside a daemon with routes must not
/// take them away before it knows what is wanted. It ends with the sender of the input, and leaves the daemon as it is.
pub fn start(settings: Settings, input: watch::Receiver<Option<Input>>) -> watch::Receiver<Observed> {
    let (sender, observed) = watch::channel(Observed::default());
    let task = Task {
        settings,
        input,
        sender,
        observed: Observed::default(),
        finder: Finder::new(),
        refusals: BTreeMap::new(),
        counters: BTreeMap::new(),
        counted: None,
        names: BTreeMap::new(),
        guard: Guard {
            peers: BTreeMap::new(),
        },
        ended: BTreeSet::new(),
    };
    tokio::spawn(task.run());
    observed
}

struct Task {
    settings: Settings,
    input: watch::Receiver<Option<Input>>,
    sender: watch::Sender<Observed>,
    observed: Observed,
    finder: Finder,
    /// What the daemon said to sessions that it did not take, by their key, and what was asked.
    refusals: BTreeMap<String, (String, api::Peer)>,
    /// What was counted when a session was last up, by name.
    counters: BTreeMap<String, Counters>,
    /// When the routes that were sent were counted, if nothing has changed since.
    counted: Option<Instant>,
    /// Names of the sessions by what the daemon calls them.
    names: BTreeMap<String, String>,
    /// What BFD watches.
    guard: Guard,
    /// Sessions that have ended, and nobody has looked why.
    ended: BTreeSet<String>,
}

/// Why work with a daemon has ended.
enum End {
    /// Nobody wants anything any more.
    Over,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Task {
    async fn run(mut self) {
        if self.input.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let retry = match self.work().await {
                End::Over => return,
                End::Failed(error) => {
                    self.down(&error);
                    if error.lost() { RETRY } else { REFUSED }
                }
            };
            tokio::time::sleep(retry).await;
            if self.input.has_changed().is_err() {
                return;
            }
        }
    }

    fn down(&mut self, error: &Error) {
        let state = match error {
            Error::TooOld => DaemonState::TooOld(error.to_string()),
            _ => DaemonState::Down(error.to_string()),
        };
        if self.observed.daemon != state {
            warn!(%error, "the BGP daemon is not at work");
        }
        self.observed.daemon = state;
        self.observed.settled = false;
        self.observed.routes = 0;
        let now = Timestamp::now();
        for session in self.observed.sessions.values_mut() {
            if session.state != State::Idle {
                session.error = Some("the BGP daemon of this node has ended".to_owned());
            }
            observe::enter(session, State::Idle, now);
            session.families.clear();
            session.advertised.clear();
            session.bfd = None;
        }
        self.publish();
    }

    fn publish(&self) {
        self.sender.send_if_modified(|told| {
            let changed = *told != self.observed;
            if changed {
                told.clone_from(&self.observed);
            }
            changed
        });
    }

    /// Works with one daemon until it goes away.
    async fn work(&mut self) -> End {
        let (mut link, mut events) = match Link::begin(&self.settings).await {
            Ok(begun) => begun,
            Err(error) => return End::Failed(error),
        };
        self.observed.daemon = DaemonState::Up;
        self.refusals.clear();
        self.counters.clear();
        self.counted = None;
        self.ended.clear();
        let mut neighbours = self.finder.found();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut settle, mut detail) = (true, false);
        loop {
            if settle && let Err(error) = self.settle(&mut link).await {
                return End::Failed(error);
            }
            if detail && let Err(error) = self.look(&mut link).await {
                return End::Failed(error);
            }
            let session = |key: &str| self.observed.sessions.get(self.names.get(key)?).cloned();
            if let Err(error) = self.guard.keep(&mut link, session, Timestamp::now()).await {
                return End::Failed(error);
            }
            self.publish();
            (settle, detail) = tokio::select! {
                changed = self.input.changed() => {
                    if changed.is_err() {
                        return End::Over;
                    }
                    (true, false)
                }
                event = events.next() => match event {
                    Ok(seen) => (false, seen.is_some_and(|seen| self.event(&seen))),
                    Err(error) => return End::Failed(error),
                },
                _ = neighbours.changed() => (true, false),
                _ = look.tick() => {
                    self.forget_the_lost();
                    self.refusals.clear();
                    (true, true)
                }
            };
        }
    }

    /// Brings the daemon to what is wanted now.
    async fn settle(&mut self, link: &mut Link) -> Result<(), Error> {
        let Some(input) = self.input.borrow_and_update().clone() else {
            return Ok(());
        };
        let sessions = input.wanted.sessions.values();
        let interfaces: BTreeSet<String> = sessions
            .filter_map(|peer| match &peer.endpoint {
                PeerEndpoint::Interface(name) => Some(name.clone()),
                PeerEndpoint::Address(_) => None,
            })
            .collect();
        self.finder.look_at(interfaces);
        let neighbours = self.finder.found().borrow().clone();
        let holders = self
            .observed
            .sessions
            .iter()
            .filter(|(_, session)| session.peer.is_some());
        let holders = holders.map(|(name, _)| name.clone()).collect();
        let (targets, mut refused) = session::targets(&Surroundings {
            input: &input,
            holders: &holders,
            neighbours: &neighbours,
            has_interface: &|name| if_nametoindex(name).is_ok(),
        });
        let mut goal = plan::goal(&input, &targets);
        // What was not taken a moment ago is not offered again at once.
        goal.peers
            .retain(|key, peer| self.refusals.get(key).is_none_or(|(_, asked)| asked != peer));
        self.make(link, goal).await?;
        for (name, target) in &targets {
            if let Some((words, _)) = self.refusals.get(&target.key) {
                refused.insert(name.clone(), Refusal::Unsupported(words.clone()));
            }
        }
        self.tell(&input, &targets, refused, link);
        Ok(())
    }

    async fn make(&mut self, link: &mut Link, goal: Goal) -> Result<(), Error> {
        let steps = plan::steps(&link.held, &goal);
        if steps.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        for step in steps {
            match link.make(&step).await {
                Ok(()) => link.held.done(step),
                Err(error) if error.lost() => return Err(error),
                Err(error) => match step {
                    Step::AddPeer(peer) => {
                        let key = observe::key(&peer).unwrap_or_default().to_owned();
                        warn!(peer = key, %error, "a BGP session is not taken by the daemon");
                        self.refusals.insert(key, (error.to_string(), *peer));
                    }
                    // The rest must not wait for what the daemon does not know any more.
                    Step::DeletePeer(_) | Step::DeleteSet(..) => {
                        debug!(%error, ?step, "not there to be deleted");
                        link.held.done(step);
                    }
                    _ => return Err(error),
                },
            }
        }
        self.counted = None;
        self.observed.applied += 1;
        self.observed.apply_time = begun.elapsed();
        Ok(())
    }

    /// Sessions that are not wanted are not told of, and those that cannot be made are told of with the reason.
    fn tell(
        &mut self,
        input: &Input,
        targets: &BTreeMap<String, Target>,
        mut refused: BTreeMap<String, Refusal>,
        link: &Link,
    ) {
        let peers = targets.values();
        self.guard.peers = peers
            .map(|target| (target.key.clone(), target.peer.clone()))
            .collect();
        let taken = targets.iter().filter(|(name, _)| !refused.contains_key(*name));
        self.names = taken
            .map(|(name, target)| (target.key.clone(), name.clone()))
            .collect();
        let sessions = &mut self.observed.sessions;
        sessions.retain(|name, _| input.wanted.sessions.contains_key(name));
        for name in input.wanted.sessions.keys() {
            let session = sessions.entry(name.clone()).or_default();
            session.refusal = refused.remove(name);
            if session.refusal.is_some() {
                observe::enter(session, State::Idle, Timestamp::now());
                session.error = None;
                session.families.clear();
                session.advertised.clear();
            }
            session.peer = targets.get(name).map(|target| target.address);
        }
        self.observed.routes = link.held.paths.len();
        self.observed.settled = true;
    }

    /// A session has changed. Tells whether more is to be asked about it.
    fn event(&mut self, seen: &api::Peer) -> bool {
        let Some((name, session)) = self.find(seen) else {
            return false;
        };
        let input = self.input.borrow();
        let Some(wanted) = input.as_ref().and_then(|input| input.wanted.sessions.get(&name)) else {
            return false;
        };
        let mut session = session;
        let was_up = session.state == State::Established;
        observe::changed(&mut session, wanted, seen, Timestamp::now());
        let is_up = session.state == State::Established;
        drop(input);
        if was_up && !is_up {
            self.ended.insert(name.clone());
        }
        self.observed.sessions.insert(name, session);
        if was_up != is_up {
            self.counted = None;
        }
        was_up != is_up
    }

    fn find(&self, seen: &api::Peer) -> Option<(String, Session)> {
        let name = self.names.get(observe::key(seen)?)?;
        Some((name.clone(), self.observed.sessions.get(name)?.clone()))
    }

    /// Asks for what no event tells.
    async fn look(&mut self, link: &mut Link) -> Result<(), Error> {
        let now = Timestamp::now();
        let count = self.counted.is_none_or(|at| at.elapsed() >= COUNT);
        for seen in link.daemon.peers(count).await? {
            let Some((name, mut session)) = self.find(&seen) else {
                continue;
            };
            let key = observe::key(&seen).unwrap_or_default();
            if observe::excess(&seen).is_some()
                && session
                    .since
                    .is_some_and(|since| now.duration_since(since) >= PAUSE)
            {
                link.daemon.delete_peer(key).await?;
                link.held.peers.remove(key);
            }
            let input = self.input.borrow();
            let wanted = input.as_ref().and_then(|input| input.wanted.sessions.get(&name));
            if let Some(wanted) = wanted {
                observe::detail(&mut session, wanted, &seen, count);
                let counters = Counters::of(&seen);
                let before = self.counters.entry(name.clone()).or_default();
                let waits = session
                    .since
                    .is_some_and(|since| now.duration_since(since) >= ATTEMPT);
                if self.ended.remove(&name) && session.error.is_none() {
                    session.error = Some(observe::end(wanted, *before, counters));
                }
                if session.state == State::Established || counters.opens_sent < before.opens_sent {
                    *before = counters;
                } else if waits {
                    session.attempts = Some(observe::attempts(wanted, *before, counters));
                }
            }
            drop(input);
            self.observed.sessions.insert(name, session);
        }
        if count {
            self.counted = Some(Instant::now());
        }
        Ok(())
    }

    /// The router at the other end of an interface may be another one now.
    fn forget_the_lost(&mut self) {
        let input = self.input.borrow();
        let Some(input) = input.as_ref() else { return };
        let now = Timestamp::now();
        for (name, session) in &mut self.observed.sessions {
            let Some(peer) = input.wanted.sessions.get(name) else {
                continue;
            };
            let PeerEndpoint::Interface(interface) = &peer.endpoint else {
                continue;
            };
            let down = session.state != State::Established && session.refusal.is_none();
            let long = session
                .since
                .is_some_and(|since| now.duration_since(since) >= LOST);
            if down && long {
                self.finder.forget(interface);
                session.since = Some(now);
            }
        }
    }
}
