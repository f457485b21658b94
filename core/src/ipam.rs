//! Which Service gets which address.
//!
//! [`plan`] is memoryless: what a Service has is read back from its status and from the `Assigned` record, and is kept
//! as long as it is validly owned. Addresses are handed out one by one, Services in order of creation, pools in order
//! of name, the lowest free address first. An address counts as free only when nothing observed names it any more, so
//! that what one Service gives up is given to another only after the first one's status says so.

mod space;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Config;
use crate::model::{Family, Node, Service, ServiceKey};
use crate::ownership::{ClassPolicy, resolve};
use crate::reason::{Reason, Refusal};
use space::{Holder, Space};

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// All Services of the cluster, of whatever type and class, in any order.
    pub services: Vec<&'a Service>,
    /// The checked configuration.
    pub config: &'a Config,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// All nodes; none of their addresses is ever given to a Service.
    pub nodes: Vec<&'a Node>,
    /// Addresses that are not free although no status in `services` names them: a write that takes them away from
    /// their Service has been sent and not yet been seen to have happened.
    pub held: Vec<(IpAddr, &'a ServiceKey)>,
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The outcome for each Service of ours. A Service that is not here is not ours, or is being deleted without ever
    /// having had an address: if its status still carries anything of ours, that is to be taken back.
    pub services: BTreeMap<ServiceKey, Outcome>,
    /// Counts of each accepted pool.
    pub pools: BTreeMap<String, PoolCount>,
}

/// The outcome for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has these addresses.
    Assigned {
        /// Each address with the pool that it is from, in the order of the Service's families.
        addresses: Vec<(IpAddr, String)>,
        /// Something is wrong all the same: its wish for another address cannot be met, or its pool is gone.
        note: Option<Refusal>,
    },
    /// It has no address.
    Refused(Refusal),
    /// It carries an ingress of another implementation, which must not be touched.
    LeftAlone(Refusal),
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Addresses assigned to Services.
    pub assigned: u64,
    /// Addresses that can still be assigned, saturating at 2^63−1.
    pub available: u64,
}

/// The families that are assigned. IPv6 addresses of pools are not given to Services yet.
const ASSIGNED_FAMILY: Family = Family::V4;

/// Decides for all Services at once. Its cost is O(n log n) in Services and addresses in use, whatever the size of
/// the pools.
pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let mut services = snapshot.services.clone();
    services.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    let mut planner = Planner::new(snapshot, &services);
    let mut plan = Plan::default();
    for service in services.into_iter().filter(|s| snapshot.class.serves(s)) {
        if let Some(outcome) = planner.decide(service) {
            if let Outcome::Assigned { addresses, .. } = &outcome {
                for (address, pool) in addresses {
                    if snapshot
                        .config
                        .pools
                        .get(pool)
                        .is_some_and(|p| p.contains(*address))
                    {
                        plan.pools.entry(pool.clone()).or_default().assigned += 1;
                    }
                }
            }
            plan.services.insert(service.key.clone(), outcome);
        }
    }
    for pool in snapshot.config.pools.values() {
        plan.pools.entry(pool.name.clone()).or_default().available =
            planner.space.available(pool, ASSIGNED_FAMILY);
    }
    plan
}

/// What a Service has before the plan, as far as it may keep it.
#[derive(Clone, Debug)]
struct Present {
    address: IpAddr,
    pool: String,
    note: Option<Refusal>,
}

struct Planner<'a> {
    config: &'a Config,
    present: BTreeMap<&'a ServiceKey, Present>,
    /// Services that lost an address to an older Service.
    lost: BTreeMap<ServiceKey, Refusal>,
    space: Space<'a>,
}

impl<'a> Planner<'a> {
    fn new(snapshot: &Snapshot<'a>, services: &[&'a Service]) -> Self {
        let config = snapshot.config;
        let mut planner = Self {
            config,
            present: BTreeMap::new(),
            lost: BTreeMap::new(),
            space: Space::new(config, ASSIGNED_FAMILY),
        };
        let (theirs, ours): (Vec<&Service>, Vec<&Service>) = services
            .iter()
            .copied()
            .partition(|service| !snapshot.class.serves(service) || served_by_another(service, config));

        let ownership = resolve(services.iter().copied(), config, snapshot.class);
        for (&address, owner) in &ownership.owners {
            planner.keep(owner.first(), address, owner.pool);
        }
        for node in &snapshot.nodes {
            for &address in &node.addresses {
                if let Some(Holder::Service(key)) = planner.space.mark(address, Holder::Node(&node.name)) {
                    let message = format!("{address} is also an address of node {}", node.name);
                    if let Some(present) = planner.present.get_mut(key) {
                        present.note = Some(Refusal::new(Reason::AddressReserved, message));
                    }
                }
            }
        }
        for &service in &ours {
            planner.keep_without_pool(service);
        }
        // An address in any status is not free, whoever put it there; those that we will not correct come first.
        for service in theirs.iter().chain(&ours) {
            for address in &service.ingress {
                planner.space.mark(*address, Holder::Service(&service.key));
            }
        }
        for (address, key) in &snapshot.held {
            planner.space.mark(*address, Holder::Service(key));
        }
        // A recorded address that somebody removed from the status is put back, the older record first.
        let mut by_record: Vec<&Service> = ours.into_iter().filter(|s| s.assigned.is_some()).collect();
        by_record.sort_by_key(|s| (s.assigned.as_ref().map(|record| record.since), &s.uid));
        for service in by_record {
            planner.reclaim(service);
        }
        for service in services {
            for (address, _) in service.assigned.iter().flat_map(|record| &record.addresses) {
                planner.space.mark(*address, Holder::Service(&service.key));
            }
        }
        for (key, _, refusal) in ownership.refused {
            if refusal.reason == Reason::DoubleAssignment {
                planner.lost.insert(key, refusal);
            }
        }
        planner
    }

    /// Keeps an owned address, unless the Service has one of that family already.
    fn keep(&mut self, service: &'a Service, address: IpAddr, pool: &str) {
        self.space.mark(address, Holder::Service(&service.key));
        if Family::of(address) == ASSIGNED_FAMILY && service.families.contains(&ASSIGNED_FAMILY) {
            self.present.entry(&service.key).or_insert_with(|| Present {
                address,
                pool: pool.to_owned(),
                note: None,
            });
        }
    }

    /// Keeps a recorded address of the status whose pool was deleted, shrunk or refused: a live address is never
    /// dropped because of a change of pools.
    fn keep_without_pool(&mut self, service: &'a Service) {
        let Some(record) = &service.assigned else { return };
        for (address, pool) in &record.addresses {
            if service.ingress.contains(address) && self.config.pool_of(*address).is_none() {
                let had_one = self.present.contains_key(&service.key);
                self.keep(service, *address, pool);
                if let (false, Some(present)) = (had_one, self.present.get_mut(&service.key)) {
                    let message = format!("{address} is in no AddressPool any more, so it is not announced");
                    present.note = Some(Refusal::new(Reason::NotOwned, message));
                }
            }
        }
    }

    fn reclaim(&mut self, service: &'a Service) {
        let Some(record) = &service.assigned else { return };
        for (address, _) in &record.addresses {
            if let Some(pool) = self.config.pool_of(*address)
                && self.space.holder(*address).is_none()
            {
                self.keep(service, *address, &pool.name);
            }
        }
    }

    fn decide(&mut self, service: &'a Service) -> Option<Outcome> {
        if served_by_another(service, self.config) {
            let message = "the status carries an ingress that the controller did not assign; set \
                 spec.loadBalancerClass: fairlead.dev/fairlead for an address of Fairlead";
            return Some(Outcome::LeftAlone(Refusal::new(Reason::ServedByAnother, message)));
        }
        let present = self.present.remove(&service.key);
        if service.deleting {
            return present.map(|present| assigned(present, None));
        }
        if !service.families.contains(&ASSIGNED_FAMILY) {
            let message = "spec.ipFamilies asks for IPv6 only, and IPv6 addresses are not assigned yet";
            return Some(Outcome::Refused(Refusal::new(Reason::NoAddressOfFamily, message)));
        }
        let Some(text) = &service.requested else {
            return Some(match present.map_or_else(|| self.allocate(service), Ok) {
                Ok(given) => assigned(given, None),
                Err(refusal) => Outcome::Refused(refusal),
            });
        };
        Some(match (self.request(service, text, present.as_ref()), present) {
            (Ok(given), _) => assigned(given, None),
            (Err(refusal), Some(present)) => assigned(present, Some(refusal)),
            (Err(refusal), None) => Outcome::Refused(refusal),
        })
    }

    /// The address that the user asks for in `spec.loadBalancerIP`, and no other.
    fn request(
        &mut self,
        service: &'a Service,
        text: &str,
        present: Option<&Present>,
    ) -> Result<Present, Refusal> {
        let refuse =
            |reason, why: String| Err(Refusal::new(reason, format!("spec.loadBalancerIP {text}: {why}")));
        let Ok(address) = text.trim().parse::<IpAddr>() else {
            return refuse(Reason::InvalidRequest, "not an IP address".to_owned());
        };
        if Family::of(address) != ASSIGNED_FAMILY {
            return refuse(
                Reason::InvalidRequest,
                "IPv6 addresses are not assigned yet".to_owned(),
            );
        }
        if let Some(present) = present.filter(|present| present.address == address) {
            return Ok(present.clone());
        }
        match self.space.holder(address) {
            Some(Holder::Node(node)) => {
                return refuse(
                    Reason::AddressReserved,
                    format!("it is an address of node {node}"),
                );
            }
            Some(Holder::Service(key)) if *key != service.key => {
                return refuse(Reason::AddressInUse, format!("it belongs to Service {key}"));
            }
            // Its own status names it, by hand or left over from before: nobody else has it.
            Some(Holder::Service(_)) | None => {}
        }
        let Some(pool) = self.config.pool_of(address) else {
            return refuse(Reason::AddressNotInPool, "it is in no AddressPool".to_owned());
        };
        self.space.mark(address, Holder::Service(&service.key));
        Ok(Present {
            address,
            pool: pool.name.clone(),
            note: None,
        })
    }

    /// The lowest free address of the first pool that has one.
    fn allocate(&mut self, service: &'a Service) -> Result<Present, Refusal> {
        if let Some((address, pool)) = self.space.take(&service.key) {
            return Ok(Present {
                address,
                pool: pool.to_owned(),
                note: None,
            });
        }
        let full = if self.config.pools.is_empty() {
            Refusal::new(Reason::NoPool, "there is no usable AddressPool")
        } else if self.space.pools().next().is_none() {
            let message = format!("no AddressPool has {ASSIGNED_FAMILY} addresses");
            Refusal::new(Reason::NoAddressOfFamily, message)
        } else {
            let pools: Vec<&str> = self.space.pools().take(5).collect();
            let message = format!(
                "every {ASSIGNED_FAMILY} address of the AddressPools is in use ({})",
                pools.join(", ")
            );
            Refusal::new(Reason::PoolExhausted, message)
        };
        Err(match self.lost.remove(&service.key) {
            Some(lost) => Refusal::new(
                Reason::DoubleAssignment,
                format!("{}; {}", lost.message, full.message),
            ),
            None => full,
        })
    }
}

fn assigned(present: Present, wish: Option<Refusal>) -> Outcome {
    Outcome::Assigned {
        addresses: vec![(present.address, present.pool)],
        note: wish.or(present.note),
    }
}

/// A class-less Service whose status carries entries that are not from our pools, and none that the controller recorded:
/// another implementation serves it. An unrecorded address of our own pools was put there by hand, and is put right; so
/// is everything with our class.
fn served_by_another(service: &Service, config: &Config) -> bool {
    let recorded = |address: &IpAddr| {
        service
            .assigned
            .as_ref()
            .is_some_and(|record| record.names(*address))
    };
    let foreign = |address: &IpAddr| config.pool_of(*address).is_none();
    service.class.is_none()
        && (service.foreign_ingress || service.ingress.iter().any(foreign))
        && !service.ingress.iter().any(recorded)
}
