//! One speaker: what the engine does around gossip and plan, without watches, probes and sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::announce::{Candidacy, Candidate, Hold, Input, Record, has_rival, plan};
use fairlead_core::model::NodeName;

use crate::membership::node::Node;
use crate::membership::node::net::ms;
use crate::membership::wire::{Key, encode_candidacy};

/// So long a speaker that has just started waits to be told what others know.
const GOSSIP: Duration = ms(4000);
/// So long addresses are handed over.
pub const HANDOVER: Duration = ms(5000);
/// Between a change and its arrival in the snapshot.
const GATHER: Duration = ms(200);

/// A node of the cluster, and its speaker if that runs.
#[derive(Clone, Debug, Default)]
pub struct Speaker {
    pub eligible: BTreeSet<IpAddr>,
    pub cordoned: bool,
    pub weight: i32,
    pub preempt_after: Option<Duration>,
    pub process: Option<Process>,
    /// The claims in the snapshot, which a process leaves to the next one.
    pub snapshot: BTreeMap<IpAddr, Candidacy>,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub began: Duration,
    /// Since when it is asked to end.
    pub departing: Option<Duration>,
    /// Has it planned once? Before that it announces nothing.
    pub acted: bool,
    held: BTreeMap<IpAddr, Hold>,
    offered: BTreeMap<IpAddr, Duration>,
    eligible_since: BTreeMap<IpAddr, Duration>,
    claims: BTreeMap<IpAddr, Candidacy>,
    /// When the snapshot is written next.
    writes: Option<Duration>,
    /// The version of the gossip's view at the last round.
    pub seen: Option<u64>,
    /// When to decide next.
    pub due: Option<Duration>,
}

fn contents(candidacies: &BTreeMap<IpAddr, Candidacy>) -> BTreeMap<Key, Vec<u8>> {
    candidacies
        .iter()
        .map(|(address, candidacy)| (Key::address(*address), encode_candidacy(candidacy)))
        .collect()
}

fn claimed(candidacies: &BTreeMap<IpAddr, Candidacy>) -> BTreeMap<IpAddr, Candidacy> {
    let claims = candidacies
        .iter()
        .filter(|(_, candidacy)| candidacy.claim.is_some());
    claims
        .map(|(address, candidacy)| (*address, *candidacy))
        .collect()
}

impl Speaker {
    /// A new process, which publishes what the one before it had claimed.
    pub fn start(&mut self, node: &mut Node, now: Duration) {
        node.publish(contents(&self.snapshot));
        let before = Record {
            candidacies: self.snapshot.clone(),
            ..Record::default()
        };
        self.process = Some(Process {
            began: now,
            departing: None,
            acted: false,
            held: Hold::continued(&before),
            offered: BTreeMap::new(),
            eligible_since: BTreeMap::new(),
            claims: self.snapshot.clone(),
            writes: None,
            seen: None,
            due: Some(now),
        });
    }

    /// What it answers for on the wire.
    pub fn announces(&self, address: IpAddr) -> bool {
        let process = self.process.as_ref().filter(|process| process.acted);
        process.is_some_and(|process| process.held.contains_key(&address))
    }

    /// Does it pass every filter for the address, and has it started for good?
    pub fn able(&self, address: IpAddr) -> bool {
        self.process.as_ref().is_some_and(|process| process.acted) && self.eligible.contains(&address)
    }

    pub fn departing(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.departing.is_some())
    }

    fn candidates(&self) -> BTreeMap<IpAddr, Candidate> {
        let candidate = Candidate {
            cordoned: self.cordoned,
            weight: self.weight,
            preempt_after: self.preempt_after,
            ..Candidate::default()
        };
        self.eligible
            .iter()
            .map(|address| (*address, candidate.clone()))
            .collect()
    }

    /// Decides once and acts on it. Answers whether the process has ended with that.
    pub fn round(&mut self, me: &NodeName, node: &mut Node, now: Duration) -> bool {
        let candidates = self.candidates();
        let Some(process) = &mut self.process else {
            return false;
        };
        let view = node.view();
        process.seen = Some(node.version());
        process.due = None;
        if !process.acted {
            if process.departing.is_some() {
                node.leave();
                self.process = None;
                return true;
            }
            if !view.informed && now < process.began + GOSSIP {
                process.due = Some(process.began + GOSSIP);
                return false;
            }
            process.acted = true;
        }
        if process.writes.is_some_and(|at| at <= now) {
            process.writes = None;
            self.snapshot.clone_from(&process.claims);
        }
        let plan = plan(&Input {
            me,
            candidates: &candidates,
            published: &view.records,
            live: &view.live,
            held: &process.held,
            offered: &process.offered,
            eligible_since: &process.eligible_since,
            departing: process.departing.is_some(),
            now: now - process.began,
        });
        let contested = |address: &IpAddr| has_rival(*address, me, &view.records, &view.live);
        let ends = process
            .departing
            .is_some_and(|since| now >= since + HANDOVER || !plan.held.keys().any(contested));
        if ends {
            // As it is left behind: where nobody else offers itself the claim stays.
            let mut left = claimed(&plan.candidacies);
            left.retain(|address, _| !contested(address));
            for candidacy in left.values_mut() {
                candidacy.cordoned = self.cordoned;
                candidacy.weight = self.weight;
            }
            node.publish(contents(&left));
            node.leave();
            self.snapshot = left;
            self.process = None;
            return true;
        }
        process.claims = claimed(&plan.candidacies);
        if process.claims != self.snapshot && process.writes.is_none() {
            process.writes = Some(now + GATHER);
        }
        node.publish(contents(&plan.candidacies));
        let wake = plan.wake.map(|wake| process.began + wake);
        assert!(wake.is_none_or(|wake| wake > now), "wakes at {wake:?} at {now:?}");
        let handed_over = process.departing.map(|since| since + HANDOVER);
        process.due = [wake, process.writes, handed_over].into_iter().flatten().min();
        process.held = plan.held;
        process.offered = plan.offered;
        process.eligible_since = plan.eligible_since;
        false
    }
}
