//! The daemon at work: what is known of it, and how a step is done there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairlead_core::model::Family;
use fairlead_gobgp::{Daemon, Error, Events, api};
use tracing::{debug, info};

use super::plan::{Held, Step};
use super::policy::{self, IMPORT, POLICY};
use super::route::{self, Path};
use super::session::family_of;
use super::{Settings, observe};

/// A session that the daemon hears of first within so long from its start says that it restarts (RFC 4724 §4.1), so
/// that the router keeps what it has until it has heard all anew. Longer than it takes to find routers on interfaces.
const RESTART: Duration = Duration::from_secs(120);

/// The ASN of the daemon as a whole. Every session names its own; it is the last of those for private use (RFC 6996),
/// so that it needs never be changed.
const GLOBAL_ASN: u32 = 4_294_967_294;

/// A daemon at work.
pub(super) struct Link {
    pub daemon: Daemon,
    pub held: Held,
    /// When it was started, if it was by us: the routers may still have the routes of the one before.
    started: Option<Instant>,
    /// The sessions that it was told of since.
    told: BTreeSet<String>,
}

impl Link {
    /// Reaches the daemon, starts it if nobody has, and takes stock of what it has.
    pub async fn begin(settings: &Settings) -> Result<(Self, Events), Error> {
        let mut daemon = Daemon::connect(&settings.socket).await?;
        let global = api::Global {
            asn: GLOBAL_ASN,
            router_id: settings.router_id.to_string(),
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

    /// Does a step. It does not note that it is done.
    pub async fn make(&mut self, step: &Step) -> Result<(), Error> {
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
                // That begins with the session.
                peer.bfd = None;
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
            if peer.bfd.is_some_and(|bfd| bfd.enabled) {
                held.guarded.insert(key.to_owned());
            }
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
