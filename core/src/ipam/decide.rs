//! The decision for one Service: its load balancer addresses.

use std::net::IpAddr;

use super::Outcome;
use super::claims::{Claim, Id, Kind, served_by_another};
use super::ledger::Ledger;
use super::wish::{Wish, wish};
use crate::config::{OnRemove, Pool};
use crate::model::{Family, FamilyPolicy, Service};
use crate::ownership::{Place, double_assignment, may_share, seniority, sharing_key};
use crate::reason::{Reason, Refusal};

/// An address that a Service validly claims.
#[derive(Clone, Debug)]
pub(super) struct Have {
    pub(super) address: IpAddr,
    pub(super) pool: String,
    /// It is written, not just planned.
    firm: bool,
    /// It is in the spec of its pool.
    in_spec: bool,
}

type Given = (IpAddr, String);

impl Ledger {
    /// Decides for one Service, from the claims of all; `None` if the Service is none of ours.
    pub(super) fn judge_ingress(&self, id: Id, service: &Service) -> Option<Outcome> {
        if !self.rules.class.serves(service) {
            return None;
        }
        if served_by_another(&self.rules, service) {
            let message = "the status carries an ingress that the controller did not assign; set \
                 spec.loadBalancerClass: fairlead.dev/fairlead for an address of Fairlead";
            return Some(Outcome::LeftAlone(Refusal::new(Reason::ServedByAnother, message)));
        }
        let (mut have, lost) = self.have(id, service, Place::Ingress);
        have.retain(|have| service.families.contains(&Family::of(have.address)));
        if service.deleting {
            let addresses = firm(&have);
            return (!addresses.is_empty()).then_some(Outcome::Assigned {
                addresses,
                note: None,
                lost: None,
            });
        }
        let refused = |refusal: Refusal| match (firm(&have), &lost) {
            (addresses, _) if !addresses.is_empty() => Outcome::Assigned {
                addresses,
                note: Some(refusal),
                lost: None,
            },
            (_, Some(lost)) => Outcome::Refused(Refusal::new(
                Reason::DoubleAssignment,
                format!("{}; {}", lost.message, refusal.message),
            )),
            _ => Outcome::Refused(refusal),
        };
        Some(match self.choose(id, service, &have) {
            Ok((addresses, note)) => Outcome::Assigned {
                lost: lost.filter(|_| {
                    addresses
                        .iter()
                        .all(|(a, _)| have.iter().all(|h| h.address != *a))
                }),
                addresses,
                note,
            },
            Err(refusal) => refused(refusal),
        })
    }

    /// The addresses that the Service should have, with what is wrong all the same.
    fn choose(
        &self,
        id: Id,
        service: &Service,
        have: &[Have],
    ) -> Result<(Vec<Given>, Option<Refusal>), Refusal> {
        let wish = wish(service, self.rules.class.metallb)?;
        let mut requested: Vec<Given> = Vec::new();
        for &address in &wish.addresses {
            let pool = self.request(id, service, address, &wish, have)?;
            requested.push((address, pool));
        }
        let (mut chosen, mut note, mut missing) = (Vec::new(), None, None);
        let pair = self.common_pool(service, &wish, have, &requested);
        for &family in &service.families {
            let of_family: Vec<Given> = requested
                .iter()
                .filter(|(address, _)| Family::of(*address) == family)
                .cloned()
                .collect();
            if !of_family.is_empty() {
                chosen.extend(of_family);
                continue;
            }
            let near = chosen
                .first()
                .map(|(_, pool): &Given| pool.clone())
                .or(pair.clone());
            match self.any(id, service, family, &wish, have, near.as_deref()) {
                Ok((given, remark)) => {
                    chosen.push(given);
                    note = note.or(remark);
                }
                Err(refusal) => missing = missing.or(Some((family, refusal))),
            }
        }
        let Some((family, why)) = missing else {
            return Ok((chosen, note));
        };
        let had = have.iter().any(|have| have.firm);
        if chosen.is_empty() || (service.family_policy == FamilyPolicy::RequireDualStack && !had) {
            return Err(why);
        }
        let message = format!("no {family} address: {}", why.message);
        Ok((chosen, Some(Refusal::new(Reason::FamilyMissing, message))))
    }

    /// May the Service have the address that it asks for? Answers with its pool.
    fn request(
        &self,
        id: Id,
        service: &Service,
        address: IpAddr,
        wish: &Wish,
        have: &[Have],
    ) -> Result<String, Refusal> {
        let refuse = |reason, why: String| Err(Refusal::new(reason, format!("requested {address}: {why}")));
        let family = Family::of(address);
        if !service.families.contains(&family) {
            return refuse(
                Reason::InvalidRequest,
                format!("the Service has no {family} (spec.ipFamilies)"),
            );
        }
        let own = have.iter().find(|have| have.address == address);
        let pool = match own {
            Some(own) => own.pool.clone(),
            None => self.spec_pool(address)?.name.clone(),
        };
        if !wish.pools.is_empty() && !wish.pools.contains(&pool) {
            return refuse(
                Reason::AddressNotInPool,
                format!(
                    "it is in AddressPool {pool}, and the Service asks for {}",
                    wish.pools.join(" or ")
                ),
            );
        }
        if own.is_none() {
            if let Some(pool) = self.rules.config.pools.get(&pool)
                && !self.rules.allows(pool, service)
            {
                return Err(not_allowed(&pool.name, service));
            }
            self.claimable(address, id, service)?;
        }
        Ok(pool)
    }

    /// The pool whose spec has a requested address.
    pub(super) fn spec_pool(&self, address: IpAddr) -> Result<&Pool, Refusal> {
        let pool = self.rules.config.pool_of(address);
        pool.filter(|pool| pool.contains(address)).ok_or_else(|| {
            let why = match pool {
                Some(pool) => format!("it left AddressPool {}", pool.name),
                None => "it is in no AddressPool".to_owned(),
            };
            Refusal::new(Reason::AddressNotInPool, format!("requested {address}: {why}"))
        })
    }

    /// An address of the family: the one that the Service has, else a new one.
    fn any(
        &self,
        id: Id,
        service: &Service,
        family: Family,
        wish: &Wish,
        have: &[Have],
        near: Option<&str>,
    ) -> Result<(Given, Option<Refusal>), Refusal> {
        let own: Vec<&Have> = have
            .iter()
            .filter(|have| Family::of(have.address) == family)
            .collect();
        let wished = |have: &Have| wish.pools.is_empty() || wish.pools.contains(&have.pool);
        if let Some(good) = own.iter().find(|have| wished(have) && !self.is_to_move(have)) {
            return Ok(((good.address, good.pool.clone()), self.remark(good, service)));
        }
        let found = self
            .candidates(service, wish)
            .and_then(|pools| self.find(id, service, family, &pools, near));
        match (found, own.iter().find(|have| have.firm)) {
            (Ok(given), _) => Ok((given, None)),
            (Err(why), Some(kept)) => Ok(((kept.address, kept.pool.clone()), Some(why))),
            (Err(why), None) => Err(why),
        }
    }

    /// The address has left a pool that wants its Services renumbered.
    fn is_to_move(&self, have: &Have) -> bool {
        let pool = self.rules.config.pools.get(&have.pool);
        !have.in_spec && pool.is_some_and(|pool| pool.on_remove == OnRemove::Reassign)
    }

    /// What is to be said of an address that the Service keeps.
    fn remark(&self, have: &Have, service: &Service) -> Option<Refusal> {
        let (address, name) = (have.address, &have.pool);
        let Some(pool) = self.rules.config.pools.get(name).filter(|_| self.belongs(have)) else {
            let message = format!("{address} is in no AddressPool any more, so it is not announced");
            return Some(Refusal::new(Reason::NotOwned, message));
        };
        if !have.in_spec {
            let message = format!("{address} is no longer in AddressPool {name}; the Service keeps it");
            return Some(Refusal::new(Reason::Retained, message));
        }
        if let Err(refusal) = self.rules.assignable(address, pool) {
            return Some(refusal);
        }
        (!self.rules.allows(pool, service)).then(|| {
            let message = format!("AddressPool {name} is no longer for this Service, which keeps {address}");
            Refusal::new(Reason::PoolNotAllowed, message)
        })
    }

    fn belongs(&self, have: &Have) -> bool {
        self.rules.config.pool_of(have.address).is_some()
    }

    /// The pools from which the Service may newly get an address, in order.
    fn candidates(&self, service: &Service, wish: &Wish) -> Result<Vec<&Pool>, Refusal> {
        if wish.pools.is_empty() {
            let pools: Vec<&Pool> = self
                .rules
                .pools()
                .filter(|pool| pool.auto_assign && self.rules.allows(pool, service))
                .collect();
            if !pools.is_empty() {
                return Ok(pools);
            }
            let message = if self.rules.pools().next().is_none() {
                "there is no usable AddressPool".to_owned()
            } else {
                "no AddressPool that gives addresses by itself is for this Service".to_owned()
            };
            return Err(Refusal::new(Reason::NoPool, message));
        }
        let mut refused = None;
        let mut pools = Vec::new();
        for name in &wish.pools {
            match self
                .rules
                .config
                .pools
                .get(name)
                .filter(|pool| !pool.ranges.is_empty())
            {
                Some(pool) if self.rules.allows(pool, service) => pools.push(pool),
                Some(pool) => refused = refused.or(Some(not_allowed(&pool.name, service))),
                None => {
                    let message = format!("no usable AddressPool is named {name}");
                    refused = refused.or(Some(Refusal::new(Reason::UnknownPool, message)));
                }
            }
        }
        match refused {
            Some(refusal) if pools.is_empty() => Err(refusal),
            _ => Ok(pools),
        }
    }

    /// A pool that can serve both families at once, when both are needed.
    fn common_pool(
        &self,
        service: &Service,
        wish: &Wish,
        have: &[Have],
        requested: &[Given],
    ) -> Option<String> {
        let covered = |family: Family| {
            requested
                .iter()
                .any(|(address, _)| Family::of(*address) == family)
                || have.iter().any(|have| Family::of(have.address) == family)
        };
        if service.families.len() < 2 || service.families.iter().any(|family| covered(*family)) {
            return None;
        }
        let has_both = |pool: &&Pool| {
            let mut families = service.families.iter();
            families.all(|family| self.space.lowest(pool, *family).is_some())
        };
        let pools = self.candidates(service, wish).ok()?;
        pools.into_iter().find(has_both).map(|pool| pool.name.clone())
    }

    /// A new address of one of the pools: one that it may share, else the lowest free one. The pool `near` comes first
    /// if it is among them.
    pub(super) fn find(
        &self,
        id: Id,
        service: &Service,
        family: Family,
        pools: &[&Pool],
        near: Option<&str>,
    ) -> Result<Given, Refusal> {
        if let Some(key) = sharing_key(service, self.rules.class.metallb) {
            for address in self.space.shared(key).filter(|a| Family::of(*a) == family) {
                if let Ok(pool) = self.spec_pool(address)
                    && pools.iter().any(|candidate| candidate.name == pool.name)
                    && self.claimable(address, id, service).is_ok()
                {
                    return Ok((address, pool.name.clone()));
                }
            }
        }
        let near = pools.iter().find(|pool| near == Some(pool.name.as_str()));
        for pool in near.into_iter().chain(pools) {
            if let Some(address) = self.space.lowest(pool, family) {
                return Ok((address, pool.name.clone()));
            }
        }
        let with_family: Vec<&str> = pools
            .iter()
            .filter(|pool| self.space.has(pool, family))
            .map(|pool| pool.name.as_str())
            .take(5)
            .collect();
        Err(if with_family.is_empty() {
            let message = format!("no AddressPool that is for this Service has {family} addresses");
            Refusal::new(Reason::NoAddressOfFamily, message)
        } else {
            let message = format!(
                "every {family} address of the AddressPools is in use ({})",
                with_family.join(", ")
            );
            Refusal::new(Reason::PoolExhausted, message)
        })
    }

    /// May the Service newly have this address, as far as others are concerned?
    pub(super) fn claimable(&self, address: IpAddr, id: Id, service: &Service) -> Result<(), Refusal> {
        if let Some(pool) = self.rules.config.pool_of(address) {
            self.rules.assignable(address, pool)?;
        }
        let shares = |service: &Service| sharing_key(service, self.rules.class.metallb).is_some();
        for claim in self.space.claims(address).iter().filter(|claim| claim.id != id) {
            let Some(other) = self.entry(claim.id).map(|entry| &entry.service) else {
                continue;
            };
            if matches!(claim.kind, Kind::Standing | Kind::Held) {
                let message = format!("{address} is in use: it stands in Service {}", other.key);
                return Err(Refusal::new(Reason::AddressInUse, message));
            }
            if let Err(why) = may_share(other, service, self.rules.class.metallb) {
                let (reason, why) = if shares(service) && shares(other) {
                    (Reason::SharingConflict, format!(" and cannot be shared: {why}"))
                } else {
                    (Reason::AddressInUse, String::new())
                };
                return Err(Refusal::new(
                    reason,
                    format!("{address} belongs to Service {}{why}", other.key),
                ));
            }
        }
        Ok(())
    }

    /// What a Service validly claims in one place, in the order written, and what it lost to an older Service.
    pub(super) fn have(&self, id: Id, service: &Service, place: Place) -> (Vec<Have>, Option<Refusal>) {
        let (mut have, mut lost) = (Vec::new(), None);
        let Some(entry) = self.entry(id) else {
            return (have, lost);
        };
        for (address, claim) in entry.claims.iter().filter(|(_, claim)| claim.place == place) {
            let (address, pool) = (*address, self.rules.config.pool_of(*address));
            let in_spec = pool.is_some_and(|pool| pool.contains(address));
            let valid = match claim.kind {
                Kind::Standing | Kind::Held => continue,
                Kind::Kept => self.granted(address, claim),
                // Nobody is served by it, so it is given like a new one.
                Kind::Recorded | Kind::Planned if !in_spec => continue,
                Kind::Recorded => self
                    .claimable_by_record(address, claim, service)
                    .and_then(|()| self.granted(address, claim)),
                Kind::Planned => {
                    let allowed = pool.is_some_and(|pool| self.rules.allows(pool, service));
                    if !allowed || self.claimable(address, id, service).is_err() {
                        continue;
                    }
                    Ok(())
                }
            };
            match valid {
                Err(refusal) => lost = Some(refusal),
                Ok(()) => have.push(Have {
                    address,
                    pool: pool.map_or_else(|| recorded_pool(service, address), |pool| pool.name.clone()),
                    firm: claim.kind != Kind::Planned,
                    in_spec,
                }),
            }
        }
        (have, lost)
    }

    /// A recorded address that somebody took out of the status may be put back unless it stands elsewhere now.
    fn claimable_by_record(&self, address: IpAddr, claim: &Claim, service: &Service) -> Result<(), Refusal> {
        if let Some(pool) = self.rules.config.pool_of(address) {
            self.rules.assignable(address, pool)?;
        }
        let standing = self
            .space
            .claims(address)
            .iter()
            .find(|other| other.id != claim.id && matches!(other.kind, Kind::Standing | Kind::Held));
        match standing.and_then(|other| self.entry(other.id)) {
            None => Ok(()),
            Some(other) => Err(double_assignment(
                address,
                &other.service.key,
                &format!("{} was taken out of the status of {}", address, service.key),
            )),
        }
    }

    /// Is the Service one of those that have the address, the senior ones first?
    fn granted(&self, address: IpAddr, claim: &Claim) -> Result<(), Refusal> {
        let rivals = self.space.claims(address);
        if rivals.len() == 1 {
            return Ok(());
        }
        let mut firm: Vec<(&Claim, &Service)> = rivals
            .iter()
            .filter(|rival| matches!(rival.kind, Kind::Kept | Kind::Recorded))
            .filter_map(|rival| Some((rival, self.entry(rival.id)?.service.as_ref())))
            .collect();
        firm.sort_by_key(|(rival, service)| (rival.kind, seniority(service, rival.place)));
        let mut accepted: Vec<&Service> = Vec::new();
        for (rival, service) in firm {
            let clash = accepted.iter().find_map(|senior| {
                let why = may_share(senior, service, self.rules.class.metallb).err()?;
                Some(double_assignment(address, &senior.key, &why))
            });
            match (rival.id == claim.id, clash) {
                (true, Some(refusal)) => return Err(refusal),
                (true, None) => return Ok(()),
                (false, Some(_)) => {}
                (false, None) => accepted.push(service),
            }
        }
        Ok(())
    }
}

/// The pool that a record says an address is from.
fn recorded_pool(service: &Service, address: IpAddr) -> String {
    let ingress = service.assigned.iter().flat_map(|record| &record.addresses);
    let external = service.external.iter().flat_map(|record| &record.addresses);
    ingress
        .map(|(recorded, pool)| (recorded, pool))
        .chain(external.map(|external| (&external.address, &external.pool)))
        .find(|(recorded, _)| **recorded == address)
        .map_or_else(String::new, |(_, pool)| pool.clone())
}

fn firm(have: &[Have]) -> Vec<Given> {
    have.iter()
        .filter(|have| have.firm)
        .map(|have| (have.address, have.pool.clone()))
        .collect()
}

pub(super) fn not_allowed(pool: &str, service: &Service) -> Refusal {
    let message = format!("AddressPool {pool} is not for Service {}", service.key);
    Refusal::new(Reason::PoolNotAllowed, message)
}
