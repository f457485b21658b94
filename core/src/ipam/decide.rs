//! The decision for one Service: its load balancer addresses.

use std::net::IpAddr;

use super::Outcome;
use super::claims::{Id, served_by_another};
use super::hold::Have;
use super::ledger::Ledger;
use super::wish::{Wish, wish};
use crate::config::{OnRemove, Pool};
use crate::model::{Family, FamilyPolicy, Service};
use crate::ownership::{Place, sharing_key};
use crate::reason::{Reason, Refusal};

type Given = (IpAddr, String);

impl Ledger {
    /// Decides for one Service, from the claims of all; `None` if the Service is none of ours. Answers also whether the
    /// decision could be a better one if an address became free.
    pub(super) fn judge_ingress(&self, id: Id, service: &Service) -> (Option<Outcome>, bool) {
        if !self.rules.class.serves(service) {
            return (None, false);
        }
        if served_by_another(&self.rules, service) {
            let message = "the status carries an ingress that the controller did not assign; set \
                 spec.loadBalancerClass: fairlead.dev/fairlead for an address of Fairlead";
            let refusal = Refusal::new(Reason::ServedByAnother, message);
            return (Some(Outcome::LeftAlone(refusal)), false);
        }
        let (mut have, lost) = self.have(id, service, Place::Ingress);
        if service.deleting {
            let addresses = firm(&have);
            let outcome = (!addresses.is_empty()).then_some(Outcome::Assigned {
                addresses,
                note: None,
                lost: None,
            });
            return (outcome, false);
        }
        have.retain(|have| service.families.contains(&Family::of(have.address)));
        let mut waits = false;
        let choice = self.choose(id, service, &have, &mut waits);
        let outcome = match (choice, firm(&have), lost) {
            (Ok((addresses, note)), _, lost) => Outcome::Assigned {
                addresses,
                note,
                lost,
            },
            (Err(refusal), kept, lost) if !kept.is_empty() => Outcome::Assigned {
                addresses: kept,
                note: Some(refusal),
                lost,
            },
            (Err(refusal), _, Some(lost)) => {
                let message = format!("{}; {}", lost.message, refusal.message);
                Outcome::Refused(Refusal::new(lost.reason, message))
            }
            (Err(refusal), _, None) => Outcome::Refused(refusal),
        };
        (Some(outcome), waits)
    }

    /// The addresses that the Service should have, with what is wrong all the same. `waits` becomes true if it would be
    /// another answer if an address became free.
    fn choose(
        &self,
        id: Id,
        service: &Service,
        have: &[Have],
        waits: &mut bool,
    ) -> Result<(Vec<Given>, Option<Refusal>), Refusal> {
        let wish = wish(service, self.rules.class.metallb)?;
        let (mut chosen, mut note, mut missing) = (Vec::new(), None, None);
        let mut requested: Vec<Given> = Vec::new();
        for &address in &wish.addresses {
            let (pool, remark) = self
                .request(id, service, address, &wish, have)
                .inspect_err(|refusal| *waits |= is_for_now(refusal))?;
            requested.push((address, pool));
            note = note.or(remark);
        }
        let near = match (requested.first(), have.first()) {
            (Some((_, pool)), _) => Some(pool.clone()),
            (None, Some(have)) => Some(have.pool.clone()),
            (None, None) => self.common_pool(service, &wish),
        };
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
            let first = chosen.first().map(|(_, pool): &Given| pool.as_str());
            match self.any(id, service, family, &wish, have, first.or(near.as_deref())) {
                Ok((given, remark)) => {
                    chosen.push(given);
                    *waits |= remark.as_ref().is_some_and(is_for_now);
                    note = note.or(remark);
                }
                Err(refusal) => {
                    *waits |= is_for_now(&refusal);
                    // A cause that does not go away by itself is the one to tell.
                    let replace = |(_, known): &(Family, Refusal)| is_for_now(known) && !is_for_now(&refusal);
                    if missing.as_ref().is_none_or(replace) {
                        missing = Some((family, refusal));
                    }
                }
            }
        }
        let Some((family, why)) = missing else {
            if chosen.is_empty() {
                let message = "the Service has no IP family (spec.ipFamilies)";
                return Err(Refusal::new(Reason::NoAddressOfFamily, message));
            }
            return Ok((chosen, note));
        };
        let had = have.iter().any(|have| have.firm);
        if chosen.is_empty() || (service.family_policy == FamilyPolicy::RequireDualStack && !had) {
            return Err(why);
        }
        let message = format!("no {family} address: {}", why.message);
        Ok((chosen, Some(Refusal::new(Reason::FamilyMissing, message))))
    }

    /// May the Service have the address that it asks for? Answers with its pool, and with what is wrong all the same.
    fn request(
        &self,
        id: Id,
        service: &Service,
        address: IpAddr,
        wish: &Wish,
        have: &[Have],
    ) -> Result<(String, Option<Refusal>), Refusal> {
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
            Some(own) if !self.is_to_move(own) => own.pool.clone(),
            _ => self.spec_pool(address)?.name.clone(),
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
        if let Some(own) = own {
            return Ok((pool, self.remark(own, service)));
        }
        if let Some(pool) = self.rules.config.pools.get(&pool)
            && !self.rules.allows(pool, service)
        {
            return Err(not_allowed(&pool.name, service));
        }
        self.claimable(address, id, service)?;
        Ok((pool, None))
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
        let stays = |have: &&&Have| have.firm && wished(have) && !self.is_to_move(have);
        if let Some(good) = own.iter().find(stays) {
            return Ok(((good.address, good.pool.clone()), self.remark(good, service)));
        }
        let found = self.candidates(service, wish).and_then(|pools| {
            let from = |have: &&&Have| !have.firm && pools.iter().any(|pool| pool.name == have.pool);
            match own.iter().find(from) {
                Some(planned) => Ok((planned.address, planned.pool.clone())),
                None => self.find(id, service, family, &pools, near),
            }
        });
        match (found, own.iter().find(|have| have.firm)) {
            (Ok(given), _) => Ok((given, None)),
            (Err(why), Some(kept)) => Ok(((kept.address, kept.pool.clone()), Some(why))),
            (Err(why), None) => Err(why),
        }
    }

    /// The address has left a pool that wants its Services renumbered.
    pub(super) fn is_to_move(&self, have: &Have) -> bool {
        let pool = self.rules.config.pools.get(&have.pool);
        !have.in_spec && pool.is_some_and(|pool| pool.on_remove == OnRemove::Reassign)
    }

    /// What is to be said of an address that the Service keeps.
    pub(super) fn remark(&self, have: &Have, service: &Service) -> Option<Refusal> {
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
        self.named_pools(&wish.pools, |pool| {
            if self.rules.allows(pool, service) {
                Ok(())
            } else {
                Err(not_allowed(&pool.name, service))
            }
        })
    }

    /// The pools of these names that are in use and that `allows` lets pass, in this order; if there are none, what is
    /// wrong with the first.
    pub(super) fn named_pools(
        &self,
        names: &[String],
        allows: impl Fn(&Pool) -> Result<(), Refusal>,
    ) -> Result<Vec<&Pool>, Refusal> {
        let mut refused = None;
        let mut pools = Vec::new();
        for name in names {
            let pool = self.rules.config.pools.get(name);
            let verdict = match pool.filter(|pool| !pool.ranges.is_empty()) {
                Some(pool) => allows(pool).map(|()| pool),
                None => {
                    let message = format!("no usable AddressPool is named {name}");
                    Err(Refusal::new(Reason::UnknownPool, message))
                }
            };
            match verdict {
                Ok(pool) => pools.push(pool),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        match refused {
            Some(refusal) if pools.is_empty() => Err(refusal),
            _ => Ok(pools),
        }
    }

    /// A pool that can serve both families at once, when both are needed.
    fn common_pool(&self, service: &Service, wish: &Wish) -> Option<String> {
        if service.families.len() < 2 {
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
                // What it claims itself was judged already, or is its address in another place.
                let claims = self.space.claims(address);
                if claims.iter().all(|claim| claim.id != id)
                    && let Ok(pool) = self.spec_pool(address)
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
}

/// Could the cause go away with another Service's address? All else changes with the Service itself, or with the rules.
pub(super) fn is_for_now(refusal: &Refusal) -> bool {
    use Reason::{AddressInUse, DoubleAssignment, PoolExhausted, SharingConflict};
    matches!(
        refusal.reason,
        PoolExhausted | AddressInUse | SharingConflict | DoubleAssignment
    )
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
