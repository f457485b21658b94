//! A controller as the programs build one: a ledger fed by watches that lag, and writes that may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::world::{Event, Versioned, World, address};
use crate::config::{RawPool, Written, compile};
use crate::ipam::{Decision, Ledger, Outcome, Rules};
use crate::model::{AssignedRecord, ExternalRecord, Service, ServiceKey};
use crate::range::IpRange;

/// What a write makes of an object.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "most are Services")]
pub(super) enum After {
    Service(Service),
    Pool(RawPool),
    /// The finalizer goes, and the pool with it.
    PoolGone(String),
}

/// A write on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) controller: usize,
    pub(super) start: u32,
    pub(super) number: u64,
    /// The version that it was made from, and its precondition.
    pub(super) base: u64,
    pub(super) after: After,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Conflict,
    /// It may have been carried out, or may yet be.
    Unknown,
}

#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    base: u64,
    after: Service,
    answer: Option<Answer>,
}

#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) start: u32,
    /// How much of each history it has seen.
    seen: [usize; 2],
    services: BTreeMap<ServiceKey, Versioned<Service>>,
    pools: BTreeMap<String, Versioned<RawPool>>,
    node: bool,
    pub(super) ledger: Ledger,
    sent: BTreeMap<ServiceKey, Vec<Sent>>,
    /// Versions of which nothing more can be written.
    stale: BTreeMap<String, u64>,
    number: u64,
}

impl Controller {
    /// A new process, after its first lists.
    pub(super) fn start(world: &World, start: u32) -> Self {
        let mut controller = Self {
            start,
            seen: [world.histories[0].len(), world.histories[1].len()],
            services: world.services.clone(),
            pools: world.pools.clone(),
            node: world.node,
            ledger: Ledger::new(rules(&world.pools, world.node)),
            sent: BTreeMap::new(),
            stale: BTreeMap::new(),
            number: 0,
        };
        for key in world.services.keys() {
            controller.refresh(key);
        }
        controller
    }

    /// Sees up to so many events of one history; answers whether there were any.
    pub(super) fn watch(&mut self, world: &World, history: usize, most: usize) -> bool {
        let from = self.seen[history];
        let to = world.histories[history].len().min(from.saturating_add(most));
        for event in &world.histories[history][from..to] {
            match event.clone() {
                Event::Service(key, Some(object)) => {
                    if let Some(sent) = self.sent.get_mut(&key) {
                        sent.retain(|sent| sent.base >= object.0);
                    }
                    self.services.insert(key.clone(), object);
                    self.refresh(&key);
                }
                Event::Service(key, None) => {
                    self.sent.remove(&key);
                    self.services.remove(&key);
                    self.ledger.remove(&key);
                }
                Event::Pool(name, Some(object)) => {
                    self.pools.insert(name, object);
                }
                Event::Pool(name, None) => {
                    self.pools.remove(&name);
                }
                Event::Node(has) => self.node = has,
            }
        }
        if history == 1 && to > from {
            self.ledger.change_rules(rules(&self.pools, self.node));
        }
        self.seen[history] = to;
        to > from
    }

    /// Tells the ledger of a Service as it will be, with what is still seen or may yet come.
    fn refresh(&mut self, key: &ServiceKey) {
        if let Some((service, held)) = self.assumed(key) {
            self.ledger.set(Arc::new(service), held);
        }
    }

    fn assumed(&self, key: &ServiceKey) -> Option<(Service, Vec<IpAddr>)> {
        let (_, observed) = self.services.get(key)?;
        let sent = self.sent.get(key).map_or(&[][..], Vec::as_slice);
        let service = sent.last().map_or(observed, |sent| &sent.after);
        let mut held = BTreeSet::new();
        if let Some((_, before)) = sent.split_last() {
            held.extend(named(observed));
            held.extend(before.iter().flat_map(|sent| named(&sent.after)));
        }
        Some((service.clone(), held.into_iter().collect()))
    }

    /// All Services as the ledger knows them.
    pub(super) fn view(&self) -> Vec<(Service, Vec<IpAddr>)> {
        self.services.keys().filter_map(|key| self.assumed(key)).collect()
    }

    /// The writes that are due now.
    pub(super) fn act(&mut self, me: usize, now: i64) -> Vec<Request> {
        let mut requests = Vec::new();
        let keys: Vec<ServiceKey> = self.services.keys().cloned().collect();
        for key in keys {
            let (version, observed) = &self.services[&key];
            let sent = self.sent.entry(key.clone()).or_default();
            let waits = sent.iter().any(|sent| sent.answer != Some(Answer::Unknown));
            if waits || self.stale.get(&key.to_string()) == Some(version) {
                continue;
            }
            let Some(decision) = self.ledger.decision(&key) else {
                continue;
            };
            let Some(after) = write(observed, decision, now) else {
                continue;
            };
            self.number += 1;
            sent.push(Sent {
                number: self.number,
                base: *version,
                after: after.clone(),
                answer: None,
            });
            requests.push(self.request(me, *version, After::Service(after)));
            self.refresh(&key);
        }
        for (name, (version, pool)) in &self.pools {
            if self.stale.get(name) == Some(version) {
                continue;
            }
            let state = self.ledger.pool(name);
            let config = &self.ledger.rules().config;
            let ranges = config
                .pools
                .get(name)
                .map_or(&[][..], |pool| pool.ranges.as_slice());
            let after = if pool.deleting && state.retained.is_empty() {
                After::PoolGone(name.clone())
            } else {
                let published = ranges.iter().flat_map(IpRange::cidrs);
                let after = RawPool {
                    published: published.map(|net| net.to_string()).collect(),
                    retained: state.retained.iter().map(ToString::to_string).collect(),
                    ..pool.clone()
                };
                if after == *pool {
                    continue;
                }
                After::Pool(after)
            };
            requests.push(self.request(me, *version, after));
        }
        for request in &requests {
            if let After::Pool(RawPool { name, .. }) | After::PoolGone(name) = &request.after {
                self.stale.insert(name.clone(), request.base);
            }
        }
        requests
    }

    fn request(&self, controller: usize, base: u64, after: After) -> Request {
        Request {
            controller,
            start: self.start,
            number: self.number,
            base,
            after,
        }
    }

    pub(super) fn answered(&mut self, request: &Request, answer: Answer) {
        let service = match &request.after {
            After::Service(service) => service,
            After::Pool(RawPool { name, .. }) | After::PoolGone(name) => {
                if answer == Answer::Unknown && self.stale.get(name) == Some(&request.base) {
                    self.stale.remove(name);
                }
                return;
            }
        };
        let key = &service.key;
        let Some(sent) = self.sent.get_mut(key) else {
            return;
        };
        let Some(index) = sent.iter().position(|sent| sent.number == request.number) else {
            return;
        };
        if answer == Answer::Conflict {
            // Not this one, but perhaps an earlier one with an unknown outcome; the newer version will tell.
            sent.remove(index);
            self.stale.insert(key.to_string(), request.base);
            self.refresh(key);
        } else {
            sent[index].answer = Some(answer);
        }
    }
}

fn rules(pools: &BTreeMap<String, Versioned<RawPool>>, node: bool) -> Rules {
    let raw: Vec<RawPool> = pools.values().map(|(_, pool)| pool.clone()).collect();
    let never = node.then(|| (IpRange::from(address(2)), "an address of node n".to_owned()));
    Rules::new(compile(&Written::new(&raw, &[])).config, super::super::DEFAULT).with_never(never)
}

/// Every address that a Service names.
pub(super) fn named(service: &Service) -> BTreeSet<IpAddr> {
    let assigned = service.assigned.iter().flat_map(|record| &record.addresses);
    let external = service.external.iter().flat_map(|record| &record.addresses);
    let standing = service.ingress.iter().chain(&service.external_ips).copied();
    standing
        .chain(assigned.map(|(address, _)| *address))
        .chain(external.map(|external| external.address))
        .collect()
}

/// What the Service should become by the next write: first its status, then its spec; `None` if it is as it should be.
fn write(observed: &Service, decision: &Decision, now: i64) -> Option<Service> {
    let after = written_status(observed, decision, now);
    if after != *observed {
        return Some(after);
    }
    let after = written_spec(observed, decision, now);
    (after != *observed).then_some(after)
}

fn written_status(observed: &Service, decision: &Decision, now: i64) -> Service {
    let mut after = observed.clone();
    match &decision.ingress {
        Some(Outcome::Assigned { addresses, .. }) => {
            after.foreign_ingress = false;
            after.ingress = addresses.iter().map(|(address, _)| *address).collect();
            let same = |record: &&AssignedRecord| {
                let set = |list: &[(IpAddr, String)]| {
                    list.iter().map(|(address, _)| *address).collect::<BTreeSet<_>>()
                };
                set(&record.addresses) == set(addresses)
            };
            let since = observed
                .assigned
                .as_ref()
                .filter(same)
                .map_or(now, |record| record.since);
            let addresses = addresses.clone();
            after.assigned = Some(AssignedRecord { addresses, since });
        }
        Some(Outcome::Refused(_)) => {
            after.foreign_ingress = false;
            after.ingress.clear();
            after.assigned = None;
        }
        Some(Outcome::LeftAlone(_)) => after.assigned = None,
        None => {
            if let Some(record) = after.assigned.take() {
                after.ingress.retain(|address| !record.names(*address));
            }
        }
    }
    after
}

fn written_spec(observed: &Service, decision: &Decision, now: i64) -> Service {
    let mut after = observed.clone();
    let addresses = decision
        .external
        .as_ref()
        .map_or(&[][..], |external| external.addresses.as_slice());
    for recorded in observed.external.iter().flat_map(|record| &record.addresses) {
        let stays = addresses
            .iter()
            .any(|external| external.address == recorded.address);
        if !recorded.adopted && !stays {
            after.external_ips.retain(|address| *address != recorded.address);
        }
    }
    for external in addresses.iter().filter(|external| !external.adopted) {
        if !after.external_ips.contains(&external.address) {
            after.external_ips.push(external.address);
        }
    }
    let same = |record: &&ExternalRecord| {
        let before = record.addresses.iter().map(|external| external.address);
        before.collect::<BTreeSet<_>>() == addresses.iter().map(|external| external.address).collect()
    };
    let since = observed
        .external
        .as_ref()
        .filter(same)
        .map_or(now, |record| record.since);
    after.external = (!addresses.is_empty()).then(|| ExternalRecord {
        addresses: addresses.to_vec(),
        since,
    });
    after
}
