//! Keeps the daemon at what is wanted: connects, takes stock of what it has, and from then on makes the difference
//! whenever there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairlead_core::config::PeerEndpoint;
use fairlead_gobgp::{Daemon, Error, Events, api};
use jiff::{SignedDuration, Timestamp};
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::neighbour::Finder;
use super::observe::{self, Counters};
use super::plan::{self, Goal, Held, Step};
use super::policy::{self, IMPORT, POLICY};
use super::route::{self, Path};
use super::session::{self, Surroundings, Target, family_of};
use super::{DaemonState, Input, Observed, Refusal, Session, Settings, State};
use fairlead_core::model::Family;

/// Between two attempts to reach the daemon.
const RETRY: Duration = Duration::from_millis(200);
/// Between two looks at what tells no changes: counts of routes, BFD, interfaces.
const LOOK: Duration = Duration::from_secs(2);
/// Attempts to make a session are spoken of when it has not come up for so long.
const ATTEMPT: SignedDuration = SignedDuration::from_secs(4);
/// A session by interface that does not come up is looked for anew after so long.
const LOST: SignedDuration = SignedDuration::from_secs(15);

/// A session that the daemon hears of first within so long from its start says that it restarts (RFC 4724 §4.1), so
/// that the router keeps what it has until it has heard all anew. Longer than it takes to find routers on interfaces.
const RESTART: Duration = Duration::from_secs(120);

/// The ASN of the daemon as a whole. Every session names its own; it is the last of those for private use (RFC 6996),
/// so that it needs never be changed.
const GLOBAL_ASN: u32 = 4_294_967_294;

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

/// A daemon at work.
struct Link {
    daemon: Daemon,
    held: Held,
    /// When it was started, if it was by us: the routers may still have the routes of the one before.
    started: Option<Instant>,
    /// The sessions that it was told of since.
    told: BTreeSet<String>,
}

impl Task {
    async fn run(mut self) {
        if self.input.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            match self.work().await {
                End::Over => return,
                End::Failed(error) => self.down(&error),
            }
            tokio::time::sleep(RETRY).await;
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
        let (mut link, mut events) = match self.begin().await {
            Ok(begun) => begun,
            Err(error) => return End::Failed(error),
        };
        self.observed.daemon = DaemonState::Up;
        self.refusals.clear();
        self.counters.clear();
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

    async fn begin(&self) -> Result<(Link, Events), Error> {
        let mut daemon = Daemon::connect(&self.settings.socket).await?;
        let global = api::Global {
            asn: GLOBAL_ASN,
            router_id: self.settings.router_id.to_string(),
            // No listener: the port may be somebody else's, and routers are called, not answered.
            listen_port: -1,
            ..api::Global::default()
        };
        let fresh = match daemon.global().await? {
            Some(running) if running.asn == global.asn && running.router_id == global.router_id => false,
            Some(_) => {
                info!("the BGP daemon runs with another identifier and is started anew");
                daemon.stop(false).await?;
                daemon.start(global).await?;
                false
            }
            None => {
                daemon.start(global).await?;
                true
            }
        };
        let events = daemon.watch().await?;
        let held = take_stock(&mut daemon).await?;
        info!(
            fresh,
            sessions = held.peers.len(),
            routes = held.paths.len(),
            "the BGP daemon is at work"
        );
        let link = Link {
            daemon,
            held,
            started: fresh.then(Instant::now),
            told: BTreeSet::new(),
        };
        Ok((link, events))
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
        was_up != is_up
    }

    fn find(&self, seen: &api::Peer) -> Option<(String, Session)> {
        let address = observe::address(seen)?;
        let mut sessions = self.observed.sessions.iter();
        let (name, session) =
            sessions.find(|(_, session)| session.peer == Some(address) && session.refusal.is_none())?;
        Some((name.clone(), session.clone()))
    }

    /// Asks for what no event tells.
    async fn look(&mut self, link: &mut Link) -> Result<(), Error> {
        let now = Timestamp::now();
        for seen in link.daemon.peers(true).await? {
            let Some((name, mut session)) = self.find(&seen) else {
                continue;
            };
            let input = self.input.borrow();
            let wanted = input.as_ref().and_then(|input| input.wanted.sessions.get(&name));
            if let Some(wanted) = wanted {
                observe::detail(&mut session, wanted, &seen);
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

impl Link {
    async fn make(&mut self, step: &Step) -> Result<(), Error> {
        debug!(step = step.name(), "the BGP daemon is told");
        let daemon = &mut self.daemon;
        match step {
            Step::DeletePeer(key) => daemon.delete_peer(key).await,
            Step::AddSet(set) => daemon.set_defined_set(set.clone()).await,
            Step::AddStatements(statements) => {
                let policy = api::Policy {
                    name: POLICY.to_owned(),
                    statements: statements.clone(),
                };
                daemon.add_policy(policy).await
            }
            Step::Paths(paths) => {
                let encode = |(prefix, path): &(_, Option<Path>)| match path {
                    Some(path) => path.encode(*prefix),
                    None => route::withdrawal(*prefix),
                };
                daemon.add_paths(paths.iter().map(encode).collect()).await
            }
            Step::AddPeer(peer) => {
                let mut peer = (**peer).clone();
                let first = self
                    .told
                    .insert(observe::key(&peer).unwrap_or_default().to_owned());
                if let Some(restart) = &mut peer.graceful_restart {
                    restart.local_restarting = first && self.started.is_some_and(|at| at.elapsed() < RESTART);
                }
                daemon.add_peer(peer).await
            }
            Step::DeleteStatements(names) => delete_statements(daemon, names).await,
            Step::DeleteSet(kind, name) => {
                let kind = api::DefinedType::try_from(*kind).unwrap_or_default();
                daemon.delete_defined_set(kind, name).await
            }
        }
    }
}

/// The daemon forgets statements with the policy only when the policy goes too.
async fn delete_statements(daemon: &mut Daemon, names: &[String]) -> Result<(), Error> {
    let statement = |name: &String| api::Statement {
        name: name.clone(),
        ..api::Statement::default()
    };
    let policy = api::Policy {
        name: POLICY.to_owned(),
        statements: names.iter().map(statement).collect(),
    };
    daemon.delete_policy(policy, false).await?;
    for name in names {
        daemon.delete_statement(name).await?;
    }
    Ok(())
}

/// Makes sure that the daemon rejects what no statement accepts, and reads all that it has.
async fn take_stock(daemon: &mut Daemon) -> Result<Held, Error> {
    let mut held = Held::default();
    let policies = daemon.policies().await?;
    let mut used: BTreeSet<String> = BTreeSet::new();
    for policy in &policies {
        let names = policy.statements.iter().map(|statement| statement.name.clone());
        used.extend(names.clone());
        if policy.name == POLICY {
            held.statements.extend(names);
        }
    }
    // Left by a speaker that was ended between two calls.
    for statement in daemon
        .statements()
        .await?
        .iter()
        .filter(|statement| !used.contains(&statement.name))
    {
        daemon.delete_statement(&statement.name).await?;
    }
    for policy in [policy::import(), named(POLICY)] {
        if !policies.iter().any(|there| there.name == policy.name) {
            daemon.add_policy(policy).await?;
        }
    }
    assign(daemon, api::PolicyDirection::Import, IMPORT).await?;
    assign(daemon, api::PolicyDirection::Export, POLICY).await?;

    for kind in [api::DefinedType::Neighbor, api::DefinedType::LargeCommunity] {
        let sets = daemon.defined_sets(kind).await?;
        held.sets
            .extend(sets.into_iter().map(|set| (set.name, kind as i32)));
    }
    for family in [Family::V4, Family::V6] {
        let mut foreign = vec![];
        for path in daemon.paths(family_of(family)).await? {
            match (Path::decode(&path), route::prefix(&path)) {
                (Some((prefix, path)), _) => {
                    held.paths.insert(prefix, path);
                }
                (None, Some(prefix)) => foreign.push(route::withdrawal(prefix)),
                (None, None) => {}
            }
        }
        if !foreign.is_empty() {
            daemon.add_paths(foreign).await?;
        }
    }
    for peer in daemon.peers(false).await? {
        if let (Some(key), Some(conf)) = (observe::key(&peer), &peer.conf) {
            held.peers.insert(key.to_owned(), conf.description.clone());
        }
    }
    Ok(held)
}

/// A policy by its name alone.
fn named(name: &str) -> api::Policy {
    api::Policy {
        name: name.to_owned(),
        statements: vec![],
    }
}

async fn assign(daemon: &mut Daemon, direction: api::PolicyDirection, policy: &str) -> Result<(), Error> {
    let assignment = api::PolicyAssignment {
        name: "global".to_owned(),
        direction: direction as i32,
        policies: vec![named(policy)],
        default_action: api::RouteAction::Reject as i32,
    };
    daemon.assign(assignment).await
}
