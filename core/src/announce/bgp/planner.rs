//! A plan that is made anew only where something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Treatment;
use super::plan::{Input, Plan, plan};
use crate::announce::eligibility::{Evaluation, Evaluations};
use crate::config::{BgpAdvertisement, Peer};
use crate::delta::delta;

/// Plans as [`plan`] does, for one node, and remembers the last plan. While no addresses are aggregated and nothing drains,
/// they have nothing to do with one another, and only those are planned anew whose evaluation is not the same as before.
#[derive(Debug, Default)]
pub struct Planner {
    before: Option<Before>,
}

/// What the last plan was made from, and the plan.
#[derive(Debug)]
struct Before {
    enabled: bool,
    labels: BTreeMap<String, String>,
    peers: BTreeMap<String, Peer>,
    advertisements: BTreeMap<String, BgpAdvertisement>,
    established: BTreeSet<String>,
    evaluations: Evaluations,
    plan: Plan,
    /// What routes have in common.
    treatments: Vec<Arc<Treatment>>,
    reached: Vec<Arc<BTreeSet<String>>>,
}

impl Planner {
    /// Decides for every assigned address.
    pub fn plan(&mut self, input: &Input) -> Plan {
        let before = self.before.take().filter(|before| before.concerns(input));
        if independent(input) {
            self.before = before.unwrap_or_else(|| Before::nothing(input)).renewed(input);
        }
        match &self.before {
            Some(before) => before.plan.clone(),
            None => plan(input),
        }
    }
}

/// Does what is planned for an address depend on it alone, unless it drains? If it does, it matters what other nodes offer.
fn independent(input: &Input) -> bool {
    let host = |advertisement: &BgpAdvertisement| {
        advertisement.aggregation_v4 == 32 && advertisement.aggregation_v6 == 128
    };
    !input.departing && input.draining.is_empty() && input.advertisements.values().all(host)
}

fn drains(evaluation: &Evaluation) -> bool {
    let routed = evaluation.bgp.as_ref();
    routed.is_some_and(|routed| routed.outcome.as_ref().is_ok_and(|candidate| candidate.cordoned))
}

/// Replaces a value by an equal one that is known already: there are few different ones.
fn share<T: PartialEq>(known: &mut Vec<Arc<T>>, value: &mut Arc<T>) {
    match known.iter().find(|known| ***known == **value) {
        Some(known) => value.clone_from(known),
        None => known.push(Arc::clone(value)),
    }
}

impl Before {
    /// No address has been planned for.
    fn nothing(input: &Input) -> Self {
        Self {
            enabled: input.enabled,
            labels: input.labels.clone(),
            peers: input.peers.clone(),
            advertisements: input.advertisements.clone(),
            established: input.established.clone(),
            evaluations: Evaluations::new(),
            plan: Plan::default(),
            treatments: vec![],
            reached: vec![],
        }
    }

    /// Is all that concerns every address as it was?
    fn concerns(&self, input: &Input) -> bool {
        self.enabled == input.enabled
            && self.labels == *input.labels
            && self.peers == *input.peers
            && self.advertisements == *input.advertisements
            && self.established == *input.established
    }

    /// `None` if something drains now.
    fn renewed(mut self, input: &Input) -> Option<Self> {
        let changed: Vec<IpAddr> = delta(&self.evaluations, input.evaluations)
            .keys()
            .copied()
            .collect();
        let present = changed
            .iter()
            .filter_map(|address| Some((*address, input.evaluations.get(address)?.clone())));
        let evaluations: Evaluations = present.collect();
        if evaluations.values().any(|one| drains(one)) {
            return None;
        }
        let mut part = plan(&Input {
            evaluations: &evaluations,
            ..*input
        });
        for treatment in part.wanted.routes.values_mut() {
            share(&mut self.treatments, treatment);
        }
        for announced in part.announced.values_mut() {
            share(&mut self.reached, &mut announced.peers);
        }
        for address in &changed {
            self.evaluations.remove(address);
            self.plan.wanted.routes.remove(&IpNet::from(*address));
            self.plan.announced.remove(address);
            self.plan.refusals.remove(address);
            self.plan.conflicts.remove(address);
            self.plan.offers.remove(address);
        }
        self.evaluations.extend(evaluations);
        self.plan.wanted.sessions = part.wanted.sessions;
        self.plan.wanted.routes.extend(part.wanted.routes);
        self.plan.announced.extend(part.announced);
        self.plan.refusals.extend(part.refusals);
        self.plan.conflicts.extend(part.conflicts);
        self.plan.offers.extend(part.offers);
        Some(self)
    }
}
