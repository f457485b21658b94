//! Index → plan → the writes that are due. Synchronous and without a clock: the time comes in, and the time at which
//! to be called again goes out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_api::conditions::ANNOUNCED;
use fairlead_core::config::{Compiled, ConfigObject, RawAdvertisement, RawPool, compile};
use fairlead_core::ipam::{self, Outcome, PoolCount, Snapshot};
use fairlead_core::model::{Node, Service, ServiceKey};
use fairlead_core::ownership::ClassPolicy;
use fairlead_core::reason::{Reason, Refusal};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::announced::{Announcement, Reports};
use crate::index::{Index, ServiceEntry};
use crate::quiet::Quiet;
use crate::status::{Change, Notice, Wanted, advertisement_change, pool_change, service_change};
use crate::writes::{Object, Writes, named};

/// Makes plans, and remembers only what keeps it from being hasty.
#[derive(Debug)]
pub struct Planner {
    class: ClassPolicy,
    quiet: Quiet,
    /// Writes under way.
    pub writes: Writes,
}

/// A write that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is written.
    pub object: Object,
    /// UID of the object, for events.
    pub uid: String,
    /// The version that it is made from.
    pub base: String,
    /// Patch and events.
    pub change: Change,
}

/// What a plan asks for.
#[derive(Debug, Default)]
pub struct Step {
    /// The differences, configuration objects last: Services matter more.
    pub writes: Vec<Write>,
    /// Events that go with no write, each with its Service's UID.
    pub notices: Vec<(ServiceKey, String, Notice)>,
    /// When to plan again even if nothing changes.
    pub wake: Option<Instant>,
    /// Figures for the metrics.
    pub tally: Tally,
}

/// What is reported as metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Services with an address that is announced.
    pub announced: i64,
    /// Services with an address that is announced by nobody.
    pub held_back: i64,
    /// Services without an address.
    pub refused: i64,
    /// Services that another implementation serves.
    pub left_alone: i64,
    /// Counts by pool.
    pub pools: BTreeMap<String, PoolCount>,
}

impl Planner {
    /// A planner with nothing under way.
    pub fn new(class: ClassPolicy) -> Self {
        Self {
            class,
            quiet: Quiet::default(),
            writes: Writes::default(),
        }
    }

    /// Plans anew; `None` until every kind has been listed.
    pub fn step(&mut self, index: &Index, now: Instant, wall: Timestamp) -> Option<Step> {
        if !index.listed() {
            return None;
        }
        self.writes.settle(|object| version(index, object));
        let compiled = configuration(index);
        let plan = self.assign(index, &compiled);
        let nodes = index
            .views
            .values()
            .filter(|view| index.nodes.get(view.node.as_str()).is_some());
        let reports = Reports::new(nodes);

        let (mut step, wall) = (Step::default(), Time(wall));
        for entry in index.services.values() {
            let key = &entry.service.key;
            let outcome = plan.services.get(key);
            step.tally.count(outcome);
            let announcement = match outcome {
                Some(Outcome::Assigned { addresses, note }) => {
                    let observed = observe(
                        &reports,
                        addresses.iter().map(|(address, _)| *address),
                        note.as_ref(),
                    );
                    match observed {
                        Announcement::By(_) => step.tally.announced += 1,
                        Announcement::Nobody(_) => step.tally.held_back += 1,
                    }
                    // What was written about another address says nothing about this one.
                    let same = addresses
                        .iter()
                        .all(|(address, _)| entry.service.ingress.contains(address));
                    let written = entry.condition(ANNOUNCED).filter(|_| same);
                    let judgement = self.quiet.judge(key, written, &observed, now);
                    // The note has been told as an event of its own when it was written.
                    if let (true, Announcement::Nobody(refusal)) = (judgement.warn, &observed)
                        && note.as_ref() != Some(refusal)
                    {
                        let notice = Notice::warning("Announce", refusal);
                        step.notices.push((key.clone(), entry.meta.uid.clone(), notice));
                    }
                    judgement.tell.then_some(observed)
                }
                _ => {
                    self.quiet.forget(key);
                    None
                }
            };
            let wanted = outcome.map(|outcome| Wanted {
                outcome,
                announcement: announcement.as_ref(),
            });
            let object = Object::Service(key.clone());
            if !self.writes.blocked(&object, &entry.meta.resource_version, now)
                && let Some(change) = service_change(entry, wanted.as_ref(), &wall)
            {
                step.push(object, &entry.meta.uid, &entry.meta.resource_version, change);
            }
        }
        self.quiet.retain(|key| plan.services.contains_key(key));
        self.configuration_writes(index, &compiled, &plan.pools, now, &wall, &mut step);
        step.tally.pools = plan.pools;
        step.wake = [self.quiet.wake(now), self.writes.wake(now)]
            .into_iter()
            .flatten()
            .min();
        Some(step)
    }

    fn assign(&self, index: &Index, compiled: &Compiled) -> ipam::Plan {
        let mut held: Vec<(IpAddr, &ServiceKey)> = Vec::new();
        let services = index.services.values().map(|ServiceEntry { service, meta, .. }| {
            match self.writes.assumed(&service.key, &meta.resource_version) {
                None => service,
                Some(assumed) => {
                    held.extend(named(service).map(|address| (address, &service.key)));
                    assumed
                }
            }
        });
        let services: Vec<&Service> = services.collect();
        let nodes: Vec<&Node> = index.nodes.values().collect();
        ipam::plan(&Snapshot {
            services,
            config: &compiled.config,
            class: self.class,
            nodes,
            held,
        })
    }

    fn configuration_writes(
        &self,
        index: &Index,
        compiled: &Compiled,
        counts: &BTreeMap<String, PoolCount>,
        now: Instant,
        wall: &Time,
        step: &mut Step,
    ) {
        for entry in index.pools.values() {
            let name = &entry.raw.name;
            let object = Object::Pool(name.clone());
            if let Some(verdict) = compiled.verdicts.get(&ConfigObject::Pool(name.clone()))
                && !self.writes.blocked(&object, &entry.meta.resource_version, now)
                && let Some(change) = pool_change(
                    entry,
                    verdict,
                    counts.get(name).copied().unwrap_or_default(),
                    wall,
                )
            {
                step.push(object, &entry.meta.uid, &entry.meta.resource_version, change);
            }
        }
        for entry in index.advertisements.values() {
            let name = &entry.raw.name;
            let object = Object::Advertisement(name.clone());
            if let Some(verdict) = compiled.verdicts.get(&ConfigObject::Advertisement(name.clone()))
                && !self.writes.blocked(&object, &entry.meta.resource_version, now)
                && let Some(change) = advertisement_change(entry, verdict, wall)
            {
                step.push(object, &entry.meta.uid, &entry.meta.resource_version, change);
            }
        }
    }
}

impl Step {
    fn push(&mut self, object: Object, uid: &str, base: &str, change: Change) {
        self.writes.push(Write {
            object,
            uid: uid.to_owned(),
            base: base.to_owned(),
            change,
        });
    }
}

impl Tally {
    fn count(&mut self, outcome: Option<&Outcome>) {
        match outcome {
            // Assigned ones are counted by whether they are announced.
            Some(Outcome::Assigned { .. }) | None => {}
            Some(Outcome::Refused(_)) => self.refused += 1,
            Some(Outcome::LeftAlone(_)) => self.left_alone += 1,
        }
    }
}

/// What the speakers say; an address whose pool is gone is not announced for that reason, whatever else they say.
fn observe(
    reports: &Reports<'_>,
    addresses: impl Iterator<Item = IpAddr>,
    note: Option<&Refusal>,
) -> Announcement {
    match (reports.of(addresses), note) {
        (Announcement::Nobody(_), Some(note)) if note.reason == Reason::NotOwned => {
            Announcement::Nobody(note.clone())
        }
        (observed, _) => observed,
    }
}

fn configuration(index: &Index) -> Compiled {
    let pools: Vec<RawPool> = index.pools.values().map(|entry| entry.raw.clone()).collect();
    let advertisements: Vec<RawAdvertisement> = index
        .advertisements
        .values()
        .map(|entry| entry.raw.clone())
        .collect();
    compile(&pools, &advertisements)
}

fn version<'a>(index: &'a Index, object: &Object) -> Option<&'a str> {
    let meta = match object {
        Object::Service(key) => &index.services.get(&key.to_string())?.meta,
        Object::Pool(name) => &index.pools.get(name)?.meta,
        Object::Advertisement(name) => &index.advertisements.get(name)?.meta,
    };
    Some(&meta.resource_version)
}

#[cfg(test)]
mod tests;
