//! One decision: everything that is known → what to announce, probe, publish and tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use fairlead_core::announce::{
    Evaluation, Hold, Input, Plan, ProbeTarget, Standing, View, evaluate, group_slices, has_rival, plan,
};
use fairlead_core::config::compile;
use fairlead_core::model::{Family, NodeName, ServiceKey};
use fairlead_core::ownership::{ClassPolicy, resolve};
use fairlead_core::reason::{Reason, Refusal};

use crate::datapath::Memory;
use crate::health::{Timing, Verdicts};
use crate::index::Index;
use crate::l2::{ConflictPolicy, Entry, Mac, Table, Wanted};
use crate::links::{Links, interfaces};

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
    /// The nodes that are alive.
    pub live: &'a BTreeSet<NodeName>,
    /// What is announced now.
    pub held: &'a BTreeMap<IpAddr, Hold>,
    /// Since when candidacies of this node have been out.
    pub offered: &'a BTreeMap<IpAddr, Duration>,
    /// Since when this node has been a candidate without a break.
    pub eligible_since: &'a BTreeMap<IpAddr, Duration>,
    /// The installation is being removed.
    pub leaving: bool,
    /// This speaker is shutting down.
    pub departing: bool,
    /// Now.
    pub now: Instant,
    /// Time since this speaker started.
    pub uptime: Duration,
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// What the filters said of each owned address.
    pub evaluations: BTreeMap<IpAddr, Evaluation>,
    /// Addresses in statuses that are not owned.
    pub refused: Vec<(ServiceKey, IpAddr, Refusal)>,
    /// This node's part for each address that it is a candidate for.
    pub plan: Plan,
    /// The interfaces that candidacies of this node are for.
    pub interfaces: BTreeSet<String>,
    /// The MAC addresses of all speakers.
    pub speakers: BTreeSet<Mac>,
    /// Announced addresses for which another live node offers itself as well.
    pub contested: BTreeSet<IpAddr>,
    /// Is this node cordoned?
    pub cordoned: bool,
    /// UID of this node's Node object.
    pub node_uid: Option<String>,
}

/// Decides. Pure: the same index and inputs give the same decision.
pub fn decide(index: &Index, inputs: &Inputs) -> Decision {
    let pools: Vec<_> = index.pools.values().cloned().collect();
    let advertisements: Vec<_> = index.advertisements.values().cloned().collect();
    let config = compile(&pools, &advertisements).config;
    let ownership = resolve(index.services.values(), &config, inputs.class);
    let node = index.nodes.get(inputs.me.as_str());
    let evaluations = evaluate(&View {
        me: inputs.me,
        node,
        config: &config,
        ownership: &ownership,
        slices: &group_slices(index.slices.values()),
        interfaces: &interfaces(inputs.links),
        families: FAMILIES,
        leaving: inputs.leaving,
        data_path: &inputs
            .data_path
            .verdicts(ownership.owners.keys().copied(), inputs.now),
        verdicts: inputs.verdicts,
    });
    let candidates = evaluations
        .iter()
        .filter_map(|(address, evaluation)| Some((*address, evaluation.outcome.as_ref().ok()?.clone())))
        .collect();
    let published = index.records();
    let plan = plan(&Input {
        me: inputs.me,
        candidates: &candidates,
        published: &published,
        live: inputs.live,
        held: inputs.held,
        offered: inputs.offered,
        eligible_since: inputs.eligible_since,
        departing: inputs.departing,
        now: inputs.uptime,
    });
    let rival = |address: &IpAddr| has_rival(*address, inputs.me, &published, inputs.live);
    let mut speakers = index.macs();
    speakers.extend(inputs.links.values().map(|link| link.mac));
    Decision {
        contested: plan.held.keys().copied().filter(rival).collect(),
        plan,
        interfaces: candidates
            .into_values()
            .flat_map(|candidate| candidate.interfaces)
            .collect(),
        speakers,
        cordoned: node.is_some_and(|node| node.cordoned),
        node_uid: node.map(|node| node.uid.clone()),
        refused: ownership.refused,
        evaluations,
    }
}

impl Decision {
    /// What is announced: address, Services, interfaces.
    pub fn announced(&self) -> impl Iterator<Item = (IpAddr, &[ServiceKey], &BTreeSet<String>)> {
        self.plan.held.keys().filter_map(|address| {
            let evaluation = self.evaluations.get(address)?;
            let candidate = evaluation.outcome.as_ref().ok()?;
            Some((*address, evaluation.services.as_slice(), &candidate.interfaces))
        })
    }

    /// What is not announced, and why: address, Services, reason.
    pub fn held_back(&self) -> Vec<(IpAddr, &[ServiceKey], Refusal)> {
        let filtered = self.evaluations.iter().filter_map(|(address, evaluation)| {
            let refusal = match &evaluation.outcome {
                Err(refusal) => refusal.clone(),
                Ok(_) => match self.plan.standings.get(address) {
                    Some(Standing::Standby(owner)) => not_elected(owner.as_ref()),
                    _ => return None,
                },
            };
            Some((*address, evaluation.services.as_slice(), refusal))
        });
        let refused = self
            .refused
            .iter()
            .map(|(service, address, refusal)| (*address, from_ref(service), refusal.clone()));
        filtered.chain(refused).collect()
    }

    /// What to probe, and how: as the pools say, else as `flags` do.
    pub fn targets(&self, flags: Timing) -> BTreeMap<ProbeTarget, Timing> {
        let mut targets = BTreeMap::new();
        for evaluation in self.evaluations.values() {
            let timing = flags.with(evaluation.health);
            for target in &evaluation.probes {
                targets
                    .entry(target.clone())
                    .and_modify(|known: &mut Timing| *known = known.strictest(timing))
                    .or_insert(timing);
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
            let entry = Entry {
                claim,
                yielding: matches!(standing, Standing::Yielding { .. }),
                policy: ConflictPolicy::default(),
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

    /// The decision that a speaker leaves behind when it ends: it offers itself only where nobody else does, and there
    /// its claim stays, so that the next process goes on with it at once.
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
            evaluation.outcome = Err(Refusal::new(
                Reason::Leaving,
                "the speaker of this node has ended",
            ));
        }
        self
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
