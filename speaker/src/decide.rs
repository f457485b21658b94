//! One decision: everything that is known → what to announce, probe, publish and tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::announce::{
    self as eligibility, BgpCandidate, Candidate, Evaluation, Evaluations, Evaluator, Hold, Input, Plan,
    ProbeTarget, Routed, Standing, Verdict, bgp, has_rival, plan, programmed,
};
use fairlead_core::config::{ConflictPolicy, Written, compile};
use fairlead_core::model::{Family, NodeName, ServiceKey};
use fairlead_core::ownership::{ClassPolicy, resolve};
use fairlead_core::reason::{Reason, Refusal};
use ipnet::IpNet;

use crate::datapath::Memory;
use crate::disputes;
use crate::health::{Timing, Verdicts};
use crate::index::Index;
use crate::l2::{Conflict, Entry, Mac, Table, Wanted};
use crate::links::{Links, interfaces};
use crate::membership::node::View;
use crate::snapshot::{BgpConfig, Claim, Route, Snapshot};

/// The families that can be announced.
const FAMILIES: &[Family] = &[Family::V4, Family::V6];

/// What a decision is made from, besides the index.
pub struct Inputs<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// The interfaces of this node.
    pub links: &'a Links,
    /// What the node agent said.
    pub data_path: &'a Memory,
    /// What probing said.
    pub verdicts: &'a Verdicts,
    /// What the gossip says.
    pub gossip: &'a View,
    /// What the wire says, beside the gossip.
    pub disputes: &'a disputes::Known<'a>,
    /// What is announced now.
    pub held: &'a BTreeMap<IpAddr, Hold>,
    /// Since when candidacies of this node have been out.
    pub offered: &'a BTreeMap<IpAddr, Duration>,
    /// Since when this node has been a candidate without a break.
    pub eligible_since: &'a BTreeMap<IpAddr, Duration>,
    /// What BGP needs besides.
    pub routing: Routing<'a>,
    /// The installation is being removed.
    pub leaving: bool,
    /// This speaker is shutting down.
    pub departing: bool,
    /// Now.
    pub now: Instant,
    /// Time since this speaker started.
    pub uptime: Duration,
}

/// What a decision about routes is made from.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// Does the speaker run with BGP?
    pub enabled: bool,
    /// The peers with which a session is established.
    pub established: &'a BTreeSet<String>,
    /// [`bgp::Plan::draining`] of the last decision.
    pub draining: &'a BTreeMap<IpAddr, Duration>,
    /// How long routes go out as less preferred ones before they are withdrawn.
    pub drain_time: Duration,
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// What the filters said of each owned address.
    pub evaluations: Evaluations,
    /// Addresses in statuses that are not owned.
    pub refused: Vec<(ServiceKey, IpAddr, Refusal)>,
    /// This node's part at layer 2 for each address that it is a candidate for.
    pub plan: Plan,
    /// Sessions and routes.
    pub bgp: bgp::Plan,
    /// What these were made from.
    pub bgp_config: BgpConfig,
    /// The interfaces that candidacies of this node are for.
    pub interfaces: BTreeSet<String>,
    /// The MAC addresses of all speakers.
    pub speakers: BTreeSet<Mac>,
    /// Addresses of ours that a machine which is no speaker uses.
    pub conflicts: BTreeMap<IpAddr, Conflict>,
    /// Announced addresses for which another live node offers itself as well.
    pub contested: BTreeSet<IpAddr>,
    /// Is this node cordoned?
    pub cordoned: bool,
    /// UID of this node's Node object.
    pub node_uid: Option<String>,
}

/// What is remembered of the decision before. It spares work: among many addresses only those are looked at that something
/// has changed for. It must have seen every change of the index.
#[derive(Debug, Default)]
pub struct Remembered {
    evaluator: Evaluator,
    planner: bgp::Planner,
}

/// Decides. The same index and inputs give the same decision, whatever is remembered.
pub fn decide(index: &mut Index, remembered: &mut Remembered, inputs: &Inputs) -> Decision {
    let changed = index.changed_services();
    let index = &*index;
    let pools: Vec<_> = index.pools.values().cloned().collect();
    let advertisements: Vec<_> = index.advertisements.values().cloned().collect();
    let peers: Vec<_> = index.bgp_peers.values().cloned().collect();
    let bgp_advertisements: Vec<_> = index.bgp_advertisements.values().cloned().collect();
    let config = compile(&Written {
        pools: &pools,
        advertisements: &advertisements,
        peers: &peers,
        bgp_advertisements: &bgp_advertisements,
    })
    .config;
    let ownership = resolve(index.services.values(), &config, inputs.class);
    let node = index.nodes.get(inputs.me.as_str());
    let view = eligibility::View {
        me: inputs.me,
        node,
        config: &config,
        ownership: &ownership,
        slices: &|service| index.slices.of(service),
        interfaces: &interfaces(inputs.links),
        families: FAMILIES,
        leaving: inputs.leaving,
        data_path: &inputs
            .data_path
            .verdicts(ownership.owners.keys().copied(), inputs.now),
        verdicts: inputs.verdicts,
    };
    let evaluations = remembered.evaluator.evaluate(&view, &changed);
    let refused = ownership.refused;
    let bgp_config = BgpConfig {
        labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
        peers: config.peers,
        advertisements: config.bgp_advertisements,
    };
    Decision {
        cordoned: node.is_some_and(|node| node.cordoned),
        node_uid: node.map(|node| node.uid.clone()),
        refused,
        ..elected(evaluations, bgp_config, &mut remembered.planner, inputs)
    }
}

/// Decides without having heard of the API server: what the process before this one announced is gone on with, as far as
/// the data path and the probes allow, and nothing else is begun.
pub fn go_on(snapshot: &Snapshot, remembered: &mut Remembered, inputs: &Inputs) -> Decision {
    let held = snapshot
        .claims
        .iter()
        .filter(|claim| inputs.held.contains_key(&claim.address));
    let mut evaluations: Evaluations = held
        .map(|claim| (claim.address, continued(claim, inputs).into()))
        .collect();
    for route in &snapshot.bgp.routes {
        let routed = rerouted(route, snapshot.bgp.cordoned, inputs);
        let evaluation = evaluations.entry(route.address).or_insert_with(|| {
            let unlinked = Evaluation {
                services: route.services.clone(),
                outcome: refuse(Reason::NoAdvertisement, "it was not announced at layer 2"),
                bgp: None,
                probes: route.probes.clone(),
                health: route.health,
            };
            unlinked.into()
        });
        Arc::make_mut(evaluation).bgp = Some(routed);
    }
    let cordoned = snapshot.bgp.cordoned || snapshot.claims.iter().any(|claim| claim.cordoned);
    Decision {
        cordoned,
        ..elected(
            evaluations,
            snapshot.bgp.config.clone(),
            &mut remembered.planner,
            inputs,
        )
    }
}

fn continued(claim: &Claim, inputs: &Inputs) -> Evaluation {
    let interfaces = claim
        .interfaces
        .iter()
        .filter(|name| inputs.links.get(*name).is_some_and(|link| link.up));
    let candidate = Candidate {
        interfaces: interfaces.cloned().collect(),
        cordoned: claim.cordoned,
        weight: claim.weight,
        preempt_after: None,
        ..Candidate::default()
    };
    let outcome = if candidate.interfaces.is_empty() {
        refuse(Reason::NoInterface, "no interface that it was announced on is up")
    } else {
        still_fit(claim.address, &claim.probes, inputs).map(|()| candidate)
    };
    Evaluation {
        services: claim.services.clone(),
        outcome,
        bgp: None,
        probes: claim.probes.clone(),
        health: claim.health,
    }
}

fn rerouted(route: &Route, cordoned: bool, inputs: &Inputs) -> Routed {
    let outcome = if route.announced {
        still_fit(route.address, &route.probes, inputs).map(|()| BgpCandidate { cordoned })
    } else {
        refuse(
            Reason::ProbePending,
            "it was not announced when the API server was last heard",
        )
    };
    Routed {
        advertisements: route.advertisements.clone(),
        outcome,
    }
}

/// Of an address that was announced: is it in the kernel, and do its probes pass?
fn still_fit(address: IpAddr, probes: &BTreeSet<ProbeTarget>, inputs: &Inputs) -> Result<(), Refusal> {
    let data_path = inputs.data_path.verdicts([address], inputs.now);
    programmed(data_path.get(&address))?;
    let failed = probes.iter().find_map(|probe| match inputs.verdicts.get(probe) {
        Some(Verdict::Pass) => None,
        Some(Verdict::Fail(message)) => Some(message.as_str()),
        Some(Verdict::Pending) | None => Some("the first probe is not answered yet"),
    });
    failed.map_or(Ok(()), |message| refuse(Reason::ProbeFailed, message))
}

fn refuse<T>(reason: Reason, message: &str) -> Result<T, Refusal> {
    Err(Refusal::new(reason, message))
}

/// What follows from the evaluations once the other speakers' records and the wire are looked at.
fn elected(
    mut evaluations: Evaluations,
    bgp_config: BgpConfig,
    planner: &mut bgp::Planner,
    inputs: &Inputs,
) -> Decision {
    let disputes = inputs.disputes;
    for (address, evaluation) in &mut evaluations {
        let policy = evaluation.outcome.as_ref().map(|candidate| candidate.conflict);
        if let Some(refusal) = policy.ok().and_then(|policy| disputes.refusal(*address, policy)) {
            Arc::make_mut(evaluation).outcome = Err(refusal);
        }
    }
    let candidates = evaluations
        .iter()
        .filter_map(|(address, evaluation)| Some((*address, evaluation.outcome.as_ref().ok()?.clone())))
        .collect();
    let plan = plan(&Input {
        me: inputs.me,
        candidates: &candidates,
        published: &inputs.gossip.records,
        live: &inputs.gossip.live,
        held: inputs.held,
        offered: inputs.offered,
        eligible_since: inputs.eligible_since,
        departing: inputs.departing,
        now: inputs.uptime,
    });
    let bgp = planner.plan(&bgp::Input {
        me: inputs.me,
        labels: &bgp_config.labels,
        enabled: inputs.routing.enabled,
        peers: &bgp_config.peers,
        advertisements: &bgp_config.advertisements,
        evaluations: &evaluations,
        published: &inputs.gossip.records,
        live: &inputs.gossip.live,
        established: inputs.routing.established,
        draining: inputs.routing.draining,
        departing: inputs.departing,
        drain_time: inputs.routing.drain_time,
        now: inputs.uptime,
    });
    let rival =
        |address: &IpAddr| has_rival(*address, inputs.me, &inputs.gossip.records, &inputs.gossip.live);
    let mut speakers: BTreeSet<Mac> = inputs
        .gossip
        .metas
        .values()
        .flat_map(|meta| meta.macs.iter().copied())
        .collect();
    speakers.extend(inputs.links.values().map(|link| link.mac));
    Decision {
        contested: plan.held.keys().copied().filter(rival).collect(),
        plan,
        bgp,
        bgp_config,
        interfaces: candidates
            .into_values()
            .flat_map(|candidate| candidate.interfaces)
            .collect(),
        speakers,
        conflicts: evaluations
            .keys()
            .filter_map(|address| Some((*address, disputes.conflict(*address)?.clone())))
            .collect(),
        evaluations,
        ..Decision::default()
    }
}

impl Decision {
    /// What is announced at layer 2: address, Services, interfaces.
    pub fn announced(&self) -> impl Iterator<Item = (IpAddr, &[ServiceKey], &BTreeSet<String>)> {
        self.plan.held.keys().filter_map(|address| {
            let evaluation = self.evaluations.get(address)?;
            let candidate = evaluation.outcome.as_ref().ok()?;
            Some((*address, evaluation.services.as_slice(), &candidate.interfaces))
        })
    }

    /// What is announced by BGP on an established session: address, Services, and how.
    pub fn routed(&self) -> impl Iterator<Item = (IpAddr, &[ServiceKey], &bgp::Announced)> {
        self.bgp.announced.iter().filter_map(|(address, announced)| {
            let evaluation = self.evaluations.get(address)?;
            Some((*address, evaluation.services.as_slice(), announced))
        })
    }

    /// What is not announced, and why: address, Services, reason. What is announced in one way is not told of for not
    /// being announced in the other.
    pub fn held_back(&self) -> Vec<(IpAddr, &[ServiceKey], Refusal)> {
        let filtered = self.evaluations.iter().filter_map(|(address, evaluation)| {
            let refusals = [
                self.at_layer2(*address, evaluation)?,
                self.by_bgp(*address, evaluation)?,
            ];
            // Of two the one that was nearer to announcing; but that another node is elected is no fault.
            let rank = |refusal: &Refusal| (refusal.reason != Reason::NotElected, refusal.reason);
            let refusal = refusals.into_iter().flatten().max_by_key(rank)?;
            Some((*address, evaluation.services.as_slice(), refusal))
        });
        let refused = self
            .refused
            .iter()
            .map(|(service, address, refusal)| (*address, from_ref(service), refusal.clone()));
        filtered.chain(refused).collect()
    }

    /// `None` if the address is announced at layer 2; else why not, if it is meant to be.
    fn at_layer2(&self, address: IpAddr, evaluation: &Evaluation) -> Option<Option<Refusal>> {
        if evaluation.outcome.is_err() {
            return Some(evaluation.layer2_refusal().cloned());
        }
        match self.plan.standings.get(&address) {
            Some(Standing::Standby(owner)) => Some(Some(not_elected(owner.as_ref()))),
            _ => None,
        }
    }

    /// `None` if the address is announced by BGP; else why not, if it is meant to be.
    fn by_bgp(&self, address: IpAddr, evaluation: &Evaluation) -> Option<Option<Refusal>> {
        if self.bgp.announced.contains_key(&address) {
            return None;
        }
        let planned = self.bgp.refusals.get(&address);
        Some(evaluation.bgp_refusal().or(planned).cloned())
    }

    /// What to probe, and how: as the pools say, else as `flags` do.
    pub fn targets(&self, flags: Timing) -> BTreeMap<ProbeTarget, Timing> {
        let mut targets: BTreeMap<ProbeTarget, Timing> = BTreeMap::new();
        for evaluation in self.evaluations.values() {
            let timing = flags.with(evaluation.health);
            for target in &evaluation.probes {
                // Of most addresses it is known already, and then it need not be copied.
                match targets.get_mut(target) {
                    Some(known) => *known = timing.strictest(*known),
                    None => drop(targets.insert(target.clone(), timing)),
                }
            }
        }
        targets
    }

    /// What to announce, interface by interface.
    pub fn wanted(&self, links: &Links) -> BTreeMap<String, Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for (address, _, interfaces) in self.announced() {
            let Some(standing) = self.plan.standings.get(&address) else {
                continue;
            };
            let Some(claim) = standing.claim() else { continue };
            let candidate = self
                .evaluations
                .get(&address)
                .and_then(|evaluation| evaluation.outcome.as_ref().ok());
            let conflict = candidate.map_or_else(ConflictPolicy::default, |candidate| candidate.conflict);
            let entry = Entry {
                claim,
                yielding: matches!(standing, Standing::Yielding { .. }),
                policy: conflict,
            };
            for (name, link) in interfaces
                .iter()
                .filter_map(|name| Some((name, links.get(name)?)))
            {
                let interface = wanted.entry(name.clone()).or_insert_with(|| Wanted {
                    index: link.index,
                    mac: link.mac,
                    table: Table {
                        addresses: BTreeMap::new(),
                        speakers: self.speakers.clone(),
                    },
                });
                interface.table.addresses.insert(address, entry);
            }
        }
        wanted
    }

    /// Addresses that are about to be announced for the first time, with their interfaces: the wire is asked before.
    pub fn questions(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let fresh = self
            .plan
            .standings
            .iter()
            .filter(|(_, standing)| **standing == Standing::Standby(None));
        fresh
            .filter_map(|(address, _)| {
                let candidate = self.evaluations.get(address)?.outcome.as_ref().ok()?;
                Some((*address, candidate.interfaces.clone()))
            })
            .collect()
    }

    /// The decision that a speaker leaves behind when it ends: it offers itself only where nobody else does, and there
    /// its claim stays, so that the next process goes on with it at once. Of the routes those stay wanted that nobody else
    /// offers; the process says in its status, and to others, that it announces nothing any more.
    pub fn parting(mut self) -> Self {
        let contested = std::mem::take(&mut self.contested);
        let stays = |address: &IpAddr, held: &BTreeMap<IpAddr, Hold>| {
            held.contains_key(address) && !contested.contains(address)
        };
        let held = std::mem::take(&mut self.plan.held);
        self.plan.candidacies.retain(|address, _| stays(address, &held));
        for (address, candidacy) in &mut self.plan.candidacies {
            let evaluation = self.evaluations.get(address);
            let candidate = evaluation.and_then(|evaluation| evaluation.outcome.as_ref().ok());
            candidacy.cordoned = self.cordoned;
            candidacy.weight = candidate.map_or(0, |candidate| candidate.weight);
        }
        for evaluation in self.evaluations.values_mut().filter(|e| e.outcome.is_ok()) {
            Arc::make_mut(evaluation).outcome = Err(Refusal::new(
                Reason::Leaving,
                "the speaker of this node has ended",
            ));
        }
        self.part_with_routes();
        self
    }

    fn part_with_routes(&mut self) {
        let bgp = &mut self.bgp;
        let announced = std::mem::take(&mut bgp.announced);
        let prefixes = |yielding: bool| -> BTreeSet<IpNet> {
            let addresses = announced
                .iter()
                .filter(|(address, _)| bgp.yielding.contains(*address) == yielding);
            addresses
                .flat_map(|(_, announced)| announced.prefixes.iter().copied())
                .collect()
        };
        let (taken_over, needed) = (prefixes(true), prefixes(false));
        bgp.wanted
            .routes
            .retain(|prefix, _| !taken_over.contains(prefix) || needed.contains(prefix));
        bgp.yielding.clear();
        bgp.offers.clear();
        for (address, evaluation) in &self.evaluations {
            if evaluation
                .bgp
                .as_ref()
                .is_some_and(|routed| routed.outcome.is_ok())
            {
                let ended = Refusal::new(Reason::Leaving, "the speaker of this node has ended");
                bgp.refusals.insert(*address, ended);
            }
        }
    }

    /// Are there routes that should outlive this process, since nobody else announces what they are for? Asked of
    /// [`Decision::parting`].
    pub fn leaves_routes(&self) -> bool {
        !self.bgp.wanted.routes.is_empty()
    }
}

fn not_elected(owner: Option<&NodeName>) -> Refusal {
    let message = match owner {
        Some(owner) => format!("node {owner} is elected"),
        None => "this node's candidacy is new; those of other nodes are awaited".to_owned(),
    };
    Refusal::new(Reason::NotElected, message)
}

#[cfg(test)]
mod tests;
