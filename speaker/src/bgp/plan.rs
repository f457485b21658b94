//! The difference between what the daemon has and what is wanted, as steps in an order in which no route is ever sent
//! to somebody it is not for, or said other than wanted, or missing where it was and is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fairlead_gobgp::api;
use ipnet::IpNet;

use super::policy::{self, Policies};
use super::route::Path;
use super::session::Target;
use super::{Input, OwnAddresses};

/// What the daemon has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// The fingerprints of the sessions by their address.
    pub peers: BTreeMap<String, String>,
    /// The sessions that BFD watches, by their address.
    pub guarded: BTreeSet<String>,
    /// The sets by name, with their kind.
    pub sets: BTreeMap<String, i32>,
    /// Names of the statements of the policy.
    pub statements: BTreeSet<String>,
    /// The table.
    pub paths: HashMap<IpNet, Path>,
}

/// What it is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Goal {
    /// The sessions by their address.
    pub peers: BTreeMap<String, api::Peer>,
    pub policies: Policies,
    pub paths: HashMap<IpNet, Path>,
}

/// One call of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Ends the session with this address.
    DeletePeer(String),
    AddSet(api::DefinedSet),
    /// At the end of the policy.
    AddStatements(Vec<api::Statement>),
    /// Puts paths into the table, or takes them out.
    Paths(Vec<(IpNet, Option<Path>)>),
    AddPeer(Box<api::Peer>),
    /// Takes statements out of the policy, and forgets them.
    DeleteStatements(Vec<String>),
    /// Of this kind and name.
    DeleteSet(i32, String),
}

impl Step {
    /// In a word, for the log: what is in a step may be a password.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeletePeer(_) => "end a session",
            Self::AddSet(_) => "add a set",
            Self::AddStatements(_) => "add statements",
            Self::Paths(_) => "set paths",
            Self::AddPeer(_) => "add a session",
            Self::DeleteStatements(_) => "delete statements",
            Self::DeleteSet(..) => "delete a set",
        }
    }
}

/// What the daemon is to have for this input, with the sessions that can be made.
pub(super) fn goal(input: &Input, targets: &BTreeMap<String, Target>) -> Goal {
    let own: OwnAddresses = input.addresses;
    let (classes, routes) = policy::classes(&input.wanted, own);
    Goal {
        peers: targets
            .values()
            .map(|target| (target.key.clone(), target.peer.clone()))
            .collect(),
        policies: policy::policies(&classes, targets, own),
        paths: routes
            .into_iter()
            .map(|(prefix, class)| (prefix, Path::new(prefix, class, own)))
            .collect(),
    }
}

/// The steps from here to there.
///
/// A session that is not to be, or not as it is, ends first. Statements come before the routes that need them, and go
/// after the last route that did. New sessions are last: no statement of another time may speak to them, and after a
/// restart of the daemon a router that kept our routes (RFC 4724) drops those that it has not heard again when it is
/// told that these were all.
pub(super) fn steps(held: &Held, goal: &Goal) -> Vec<Step> {
    let mut steps = vec![];
    let same = |key: &String, fingerprint: &String| {
        goal.peers
            .get(key)
            .and_then(|peer| peer.conf.as_ref())
            .map(|conf| &conf.description)
            == Some(fingerprint)
    };
    let ended = held
        .peers
        .iter()
        .filter(|(key, fingerprint)| !same(key, fingerprint));
    steps.extend(ended.map(|(key, _)| Step::DeletePeer(key.clone())));

    let new_sets = goal
        .policies
        .sets
        .iter()
        .filter(|(name, _)| !held.sets.contains_key(*name));
    steps.extend(new_sets.map(|(_, set)| Step::AddSet(set.clone())));
    let statements = goal.policies.statements.iter();
    let new: Vec<_> = statements
        .filter(|(name, _)| !held.statements.contains(*name))
        .collect();
    if !new.is_empty() {
        steps.push(Step::AddStatements(
            new.into_iter().map(|(_, statement)| statement.clone()).collect(),
        ));
    }

    let made = goal
        .peers
        .iter()
        .filter(|(key, _)| !held.peers.get(*key).is_some_and(|print| same(key, print)));
    let made: Vec<&api::Peer> = made.map(|(_, peer)| peer).collect();
    let add = |peer: &api::Peer| Step::AddPeer(Box::new(peer.clone()));
    // The daemon takes more than a second to connect. If it has nothing at all, that is not to come on top of the time
    // that many routes take.
    let nothing = held.paths.is_empty() && held.statements.is_empty();
    let early = |peer: &&api::Peer| {
        nothing
            && !peer
                .graceful_restart
                .as_ref()
                .is_some_and(|restart| restart.enabled)
    };
    let (first, made): (Vec<_>, Vec<_>) = made.into_iter().partition(early);
    steps.extend(first.into_iter().map(add));

    let set = goal
        .paths
        .iter()
        .filter(|(prefix, path)| held.paths.get(*prefix) != Some(*path));
    let mut paths: Vec<_> = set.map(|(prefix, path)| (*prefix, Some(*path))).collect();
    let gone = held
        .paths
        .keys()
        .filter(|prefix| !goal.paths.contains_key(*prefix));
    paths.extend(gone.map(|prefix| (*prefix, None)));
    paths.sort_unstable_by_key(|(prefix, _)| *prefix);
    if !paths.is_empty() {
        steps.push(Step::Paths(paths));
    }

    let unused = held
        .statements
        .iter()
        .filter(|name| !goal.policies.statements.contains_key(*name));
    let unused: Vec<String> = unused.cloned().collect();
    if !unused.is_empty() {
        steps.push(Step::DeleteStatements(unused));
    }
    let unused = held
        .sets
        .iter()
        .filter(|(name, _)| !goal.policies.sets.contains_key(*name));
    steps.extend(unused.map(|(name, kind)| Step::DeleteSet(*kind, name.clone())));

    steps.extend(made.into_iter().map(add));
    steps
}

impl Held {
    /// A step has been done.
    pub fn done(&mut self, step: Step) {
        match step {
            Step::DeletePeer(key) => {
                self.peers.remove(&key);
                self.guarded.remove(&key);
            }
            Step::AddSet(set) => {
                self.sets.insert(set.name, set.defined_type);
            }
            Step::AddStatements(statements) => {
                self.statements
                    .extend(statements.into_iter().map(|statement| statement.name));
            }
            Step::Paths(paths) => {
                for (prefix, path) in paths {
                    match path {
                        Some(path) => self.paths.insert(prefix, path),
                        None => self.paths.remove(&prefix),
                    };
                }
            }
            Step::AddPeer(peer) => {
                if let Some(conf) = peer.conf {
                    self.guarded.remove(&conf.neighbor_address);
                    self.peers.insert(conf.neighbor_address, conf.description);
                }
            }
            Step::DeleteStatements(names) => {
                for name in names {
                    self.statements.remove(&name);
                }
            }
            Step::DeleteSet(_, name) => {
                self.sets.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
