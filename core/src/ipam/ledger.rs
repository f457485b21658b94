//! The ledger: all Services with their claims and decisions, kept current change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::claims::{Claim, Id, Kind, observed};
use super::rules::Rules;
use super::space::Space;
use super::wish::{ExternalWish, external_wish, wish};
use super::{Decision, Outcome, PoolState};
use crate::model::{Family, Service, ServiceKey};
use crate::ownership::{Place, sharing_key};

/// So many Services are named as holders of a pool's addresses.
const HOLDERS: usize = 5;

/// Who should have what. [`Ledger::set`] and [`Ledger::remove`] take note of a change in O(log n);
/// [`Ledger::settle`] then decides for the Services that the changes can concern.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(super) rules: Rules,
    pub(super) space: Space,
    ids: HashMap<ServiceKey, Id>,
    entries: BTreeMap<Id, Entry>,
    next: Id,
    /// To be decided anew.
    dirty: HashSet<Id>,
    /// Services that would have something else if an address became free.
    waiting: HashSet<Id>,
    /// Who asks for which address.
    asking: HashMap<IpAddr, BTreeSet<Id>>,
    /// An address has become free, or a pool has run out, since waiting Services were decided.
    stirred: bool,
    /// What is decided, by pool.
    pools: BTreeMap<String, Given>,
}

/// A Service in the ledger.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) service: Arc<Service>,
    held: Vec<IpAddr>,
    /// Addresses that it asks for by name.
    asked: Vec<IpAddr>,
    /// Observed and planned claims.
    pub(super) claims: Vec<(IpAddr, Claim)>,
    decision: Decision,
}

/// The addresses given from one pool, each with the Services that have it.
#[derive(Clone, Debug, Default)]
struct Given {
    v4: u64,
    v6: u64,
    holders: BTreeMap<IpAddr, BTreeSet<Id>>,
}

impl Ledger {
    /// A ledger without Services.
    pub fn new(rules: Rules) -> Self {
        Self {
            space: Space::new(&rules),
            rules,
            ids: HashMap::new(),
            entries: BTreeMap::new(),
            next: 0,
            dirty: HashSet::new(),
            waiting: HashSet::new(),
            asking: HashMap::new(),
            stirred: false,
            pools: BTreeMap::new(),
        }
    }

    /// What it decides by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Decides by other rules from now on: every Service anew, from what is observed.
    pub fn change_rules(&mut self, rules: Rules) {
        let before = std::mem::replace(self, Self::new(rules));
        for entry in before.entries.into_values() {
            self.set(entry.service, entry.held);
            // Kept, so that `settle` tells which decisions changed.
            if let Some(new) = self.entries.get_mut(&self.next) {
                count(&mut self.pools, &self.rules, self.next, &entry.decision, true);
                new.decision = entry.decision;
            }
        }
    }

    /// A Service as it is observed, or as it will be once a write under way has happened. In the latter case `held` are
    /// all addresses that it is still seen to name, in whatever place or record, and those that earlier writes whose
    /// outcome is unknown may yet make it name; nobody else gets them before a watch shows what has become of it.
    pub fn set(&mut self, service: Arc<Service>, held: Vec<IpAddr>) {
        let id = match self.ids.get(&service.key) {
            Some(id) => *id,
            None => {
                self.next += 1;
                self.ids.insert(service.key.clone(), self.next);
                self.next
            }
        };
        let known = self.entries.get(&id);
        if known.is_some_and(|entry| entry.service == service && entry.held == held) {
            return;
        }
        let metallb = self.rules.class.metallb;
        let mut entry = Entry {
            asked: asked(&self.rules, &service),
            claims: observed(&self.rules, &service, id, &held),
            service,
            held,
            decision: Decision::default(),
        };
        let new_key = sharing_key(&entry.service, metallb);
        match self.entries.remove(&id) {
            None => self.reclaim(id, &[], &entry.claims, (None, new_key)),
            Some(before) => {
                // What was decided and is not written yet stays for the time being.
                let planned = before
                    .claims
                    .iter()
                    .filter(|(_, claim)| claim.kind == Kind::Planned);
                let planned = planned.map(|(address, claim)| (*address, claim.place));
                entry.claims = with_planned(entry.claims, id, planned);
                let old_key = sharing_key(&before.service, metallb);
                self.reclaim(id, &before.claims, &entry.claims, (old_key, new_key));
                forget(&mut self.asking, id, &before.asked);
                entry.decision = before.decision;
            }
        }
        for address in &entry.asked {
            self.asking.entry(*address).or_default().insert(id);
        }
        self.entries.insert(id, entry);
        self.dirty.insert(id);
    }

    /// A Service is gone.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Some(id) = self.ids.remove(key) else { return };
        if let Some(entry) = self.entries.remove(&id) {
            forget(&mut self.asking, id, &entry.asked);
            let key = sharing_key(&entry.service, self.rules.class.metallb);
            self.reclaim(id, &entry.claims, &[], (key, None));
            count(&mut self.pools, &self.rules, id, &entry.decision, false);
        }
        self.dirty.remove(&id);
        self.waiting.remove(&id);
    }

    /// Decides for all Services that changes can concern; answers with those whose decision is another one now.
    pub fn settle(&mut self) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        loop {
            if std::mem::take(&mut self.stirred) {
                self.dirty.extend(&self.waiting);
            }
            if self.dirty.is_empty() {
                return changed;
            }
            let mut batch: Vec<(Arc<Service>, Id)> = Vec::with_capacity(self.dirty.len());
            for id in std::mem::take(&mut self.dirty) {
                if let Some(entry) = self.entries.get(&id) {
                    batch.push((Arc::clone(&entry.service), id));
                }
            }
            batch.sort_unstable_by(|(a, _), (b, _)| (a.created, &a.key).cmp(&(b.created, &b.key)));
            for (service, id) in batch {
                // Whatever those before it in the batch did is seen now.
                self.dirty.remove(&id);
                if self.decide(id, &service) {
                    changed.insert(service.key.clone());
                }
            }
        }
    }

    /// What is decided for a Service.
    pub fn decision(&self, key: &ServiceKey) -> Option<&Decision> {
        Some(&self.entries.get(self.ids.get(key)?)?.decision)
    }

    /// All decisions, for checks.
    #[cfg(test)]
    pub(super) fn decisions(&self) -> impl Iterator<Item = (&ServiceKey, &Decision)> {
        let entries = self.entries.values();
        entries.map(|entry| (&entry.service.key, &entry.decision))
    }

    /// The Services that claim an address in any way.
    pub fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        let claims = self.space.claims(address).iter();
        claims.filter_map(|claim| Some(&self.entries.get(&claim.id)?.service.key))
    }

    /// The state of a pool.
    pub fn pool(&self, name: &str) -> PoolState {
        let (v4, v6) = self.pools.get(name).map_or((0, 0), |given| (given.v4, given.v6));
        let mut state = PoolState {
            v4: self.space.usage(name, Family::V4, v4),
            v6: self.space.usage(name, Family::V6, v6),
            ..PoolState::default()
        };
        let mut holders = BTreeSet::new();
        for (address, claims) in self.space.outside(name) {
            for claim in claims.iter().filter(|claim| claim.kind != Kind::Standing) {
                state.retained.insert(address);
                holders.extend(self.entries.get(&claim.id).map(|entry| &entry.service.key));
            }
        }
        state.holders = holders.into_iter().take(HOLDERS).cloned().collect();
        state
    }

    pub(super) fn entry(&self, id: Id) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Makes the claims of a Service other ones, and has everybody decided anew who claims one of the addresses too, or
    /// asks for it.
    fn reclaim(
        &mut self,
        id: Id,
        before: &[(IpAddr, Claim)],
        after: &[(IpAddr, Claim)],
        keys: (Option<&str>, Option<&str>),
    ) {
        for (address, _) in before {
            if let Some(key) = keys.0 {
                self.space.unshare(key, *address);
            }
            if after.iter().all(|(kept, _)| kept != address) {
                self.stirred |= self.space.remove(&self.rules, *address, id);
                self.touch(*address, id);
            }
        }
        for (address, claim) in after {
            if let Some(key) = keys.1 {
                self.space.share(key, *address);
            }
            self.stirred |= self.space.set(&self.rules, *address, *claim);
            self.touch(*address, id);
        }
        if let Some(key) = keys.1.filter(|_| !after.is_empty()) {
            // Who waits may perhaps share now.
            let waiting = self.waiting.iter().filter(|waiting| {
                let entry = self.entries.get(waiting);
                entry.is_some_and(|entry| sharing_key(&entry.service, self.rules.class.metallb) == Some(key))
            });
            self.dirty.extend(waiting.filter(|waiting| **waiting != id));
        }
    }

    /// A Service's claim on an address is another one: whom else does that concern?
    fn touch(&mut self, address: IpAddr, id: Id) {
        self.dirty.extend(self.space.others(address, id));
        if let Some(asking) = self.asking.get(&address) {
            self.dirty.extend(asking.iter().filter(|asking| **asking != id));
        }
    }

    /// Decides for one Service; answers whether the decision is another one.
    fn decide(&mut self, id: Id, service: &Service) -> bool {
        let (ingress, mut waits) = self.judge_ingress(id, service);
        let mut decision = Decision {
            ingress,
            external: None,
        };
        if service.external_wish.is_some() {
            // So that the same address is not found twice; what is planned as external IP stays so.
            let entry = self.entries.get(&id);
            decision.external = entry.and_then(|entry| entry.decision.external.clone());
            self.plan(id, service, &decision);
        }
        let (external, also) = self.judge_external(id, service);
        decision.external = external;
        waits |= also;
        self.plan(id, service, &decision);
        if waits {
            self.waiting.insert(id);
        } else {
            self.waiting.remove(&id);
        }
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        if entry.decision == decision {
            return false;
        }
        let before = std::mem::replace(&mut entry.decision, decision);
        count(&mut self.pools, &self.rules, id, &before, false);
        count(&mut self.pools, &self.rules, id, &entry.decision, true);
        true
    }

    /// Claims for a Service what is decided for it, beside what it is observed to claim.
    fn plan(&mut self, id: Id, service: &Service, decision: &Decision) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let stands = |address: IpAddr| {
            let mut claims = entry.claims.iter();
            claims.any(|(known, claim)| *known == address && claim.kind != Kind::Standing)
        };
        let planned = entry.claims.iter().any(|(_, claim)| claim.kind == Kind::Planned);
        if !planned && given(decision).all(|(address, _)| stands(address)) {
            return;
        }
        let observed = observed(&self.rules, service, id, &entry.held);
        let claims = with_planned(observed, id, given(decision));
        if claims == entry.claims {
            return;
        }
        let before = std::mem::replace(&mut entry.claims, claims.clone());
        let key = sharing_key(service, self.rules.class.metallb);
        self.reclaim(id, &before, &claims, (key, key));
    }

    /// The ledger as a whole, for checks that two are the same.
    #[cfg(test)]
    pub(super) fn claimed(&self) -> BTreeSet<IpAddr> {
        self.space.claimed()
    }
}

/// Adds a decision to the counts of the pools, or takes it out of them.
fn count(pools: &mut BTreeMap<String, Given>, rules: &Rules, id: Id, decision: &Decision, add: bool) {
    for (address, _) in given(decision) {
        // Whatever the record says: of an address in no pool, or in another one by now.
        let Some(pool) = rules.config.pool_of(address) else {
            continue;
        };
        let given = match pools.get_mut(&pool.name) {
            Some(given) => given,
            None => pools.entry(pool.name.clone()).or_default(),
        };
        let holders = given.holders.entry(address).or_default();
        let before = holders.len();
        if add {
            holders.insert(id);
        } else {
            holders.remove(&id);
        }
        let after = holders.len();
        let count = match Family::of(address) {
            Family::V4 => &mut given.v4,
            Family::V6 => &mut given.v6,
        };
        match (before, after) {
            (0, 1) => *count += 1,
            (1, 0) => *count -= 1,
            _ => {}
        }
        if after == 0 {
            given.holders.remove(&address);
        }
    }
}

/// The addresses that a Service asks for by name.
fn asked(rules: &Rules, service: &Service) -> Vec<IpAddr> {
    let mut asked = wish(service, rules.class.metallb).unwrap_or_default().addresses;
    if let Some(Ok(ExternalWish::Addresses(addresses))) = service.external_wish.as_deref().map(external_wish)
    {
        asked.extend(addresses);
    }
    asked.extend(&service.external_ips);
    asked
}

/// The Service asks for these addresses no longer.
fn forget<'a>(
    asking: &mut HashMap<IpAddr, BTreeSet<Id>>,
    id: Id,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) {
    for address in addresses {
        if let Some(ids) = asking.get_mut(address) {
            ids.remove(&id);
            if ids.is_empty() {
                asking.remove(address);
            }
        }
    }
}

/// Observed claims, and those on addresses that are planned.
fn with_planned(
    mut claims: Vec<(IpAddr, Claim)>,
    id: Id,
    planned: impl Iterator<Item = (IpAddr, Place)>,
) -> Vec<(IpAddr, Claim)> {
    for (address, place) in planned {
        let kind = Kind::Planned;
        match claims.iter_mut().find(|(known, _)| *known == address) {
            None => claims.push((address, Claim { id, kind, place })),
            // It stands there already, and only the record is missing.
            Some((_, claim)) if claim.kind == Kind::Standing => *claim = Claim { id, kind, place },
            Some(_) => {}
        }
    }
    claims
}

/// The addresses that a decision gives.
fn given(decision: &Decision) -> impl Iterator<Item = (IpAddr, Place)> {
    let ingress = match &decision.ingress {
        Some(Outcome::Assigned { addresses, .. }) => addresses.as_slice(),
        _ => &[],
    };
    let external = decision.external.iter().flat_map(|external| &external.addresses);
    ingress
        .iter()
        .map(|(address, _)| (*address, Place::Ingress))
        .chain(external.map(|external| (external.address, Place::External)))
}
