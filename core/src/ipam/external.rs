//! The decision for one Service: its external IPs.
//!
//! What the user wrote into `spec.externalIPs` inside a pool is adopted if the pool allows it to the namespace and nobody
//! else has the address; otherwise it is reported, and served by nobody. What the annotation asks for is given from
//! pools that allow it, and taken away again when it is no longer asked for or no longer allowed. A pool that was set
//! aside or is being deleted says nothing of what it allows, so it takes nothing away.

use std::net::IpAddr;

use super::External;
use super::claims::{Id, Kind};
use super::decide::{is_for_now, not_allowed};
use super::hold::Have;
use super::ledger::Ledger;
use super::wish::{ExternalWish, external_wish};
use crate::config::Pool;
use crate::model::{ExternalAddress, Family, Service};
use crate::ownership::{Place, takes_external_ips};
use crate::reason::{Reason, Refusal};

/// An address that may be had, with its pool, and with what is wrong all the same.
type Granted = (IpAddr, String, Option<Refusal>);

impl Ledger {
    /// Decides for one Service; `None` if it has no external IPs that concern us. Answers also whether the decision could
    /// be a better one if an address became free.
    pub(super) fn judge_external(&self, id: Id, service: &Service) -> (Option<External>, bool) {
        if service.external_ips.is_empty() && service.external.is_none() && service.external_wish.is_none() {
            return (None, false);
        }
        let claims = self.entry(id).map_or(&[][..], |entry| entry.claims.as_slice());
        let is_ingress = |address: IpAddr| {
            claims.iter().any(|(claimed, claim)| {
                *claimed == address
                    && claim.place == Place::Ingress
                    && matches!(claim.kind, Kind::Kept | Kind::Recorded)
            })
        };
        let by_hand: Vec<IpAddr> = service
            .external_ips
            .iter()
            .copied()
            .filter(|address| match service.recorded_external(*address) {
                Some(recorded) => recorded.adopted,
                None => self.rules.config.pool_of(*address).is_some(),
            })
            .filter(|address| !is_ingress(*address))
            .collect();
        if by_hand.is_empty() && service.external.is_none() && service.external_wish.is_none() {
            return (None, false);
        }
        let mut draft = Draft::default();
        if service.deleting {
            let standing = service.external_ips.iter();
            let kept = standing.filter_map(|address| service.recorded_external(*address).cloned());
            draft.external.addresses = kept.collect();
            return (service.external.is_some().then_some(draft.external), false);
        }
        if !takes_external_ips(service) {
            let message = "a Service without a cluster IP has no external IPs";
            draft.remark(Refusal::new(Reason::InvalidRequest, message));
            return (Some(draft.external), false);
        }
        let (have, lost) = self.have(id, service, Place::External);
        for address in by_hand {
            draft.push(self.adopt(id, service, address, &have, lost.as_ref()), true);
        }
        // What the controller gave, or is about to give.
        let given: Vec<&Have> = have
            .iter()
            .filter(|have| {
                service
                    .recorded_external(have.address)
                    .is_none_or(|recorded| !recorded.adopted)
            })
            .filter(|have| !draft.names(have.address))
            .collect();
        match service.external_wish.as_deref().map(external_wish).transpose() {
            Ok(None) => {}
            Ok(Some(ExternalWish::Addresses(addresses))) => {
                for address in addresses {
                    if !draft.names(address) {
                        draft.push(self.grant(id, service, address, &given), false);
                    }
                }
            }
            Ok(Some(ExternalWish::Pools(names))) => {
                for &family in &service.families {
                    draft.push(self.any_external(id, service, family, &names, &given), false);
                }
            }
            Err(refusal) => {
                // An unreadable wish takes nothing away.
                draft.remark(refusal);
                for own in given.into_iter().filter(|own| own.firm) {
                    draft.push(self.keep_external(own, service), false);
                }
            }
        }
        (Some(draft.external), draft.waits)
    }

    /// May an address that the user wrote be served?
    fn adopt(
        &self,
        id: Id,
        service: &Service,
        address: IpAddr,
        have: &[Have],
        lost: Option<&Refusal>,
    ) -> Result<Granted, Refusal> {
        if let Some(own) = have.iter().find(|have| have.address == address) {
            return self.keep_external(own, service);
        }
        match lost {
            Some(lost) if service.recorded_external(address).is_some() => Err(lost.clone()),
            _ => self.newly(id, service, address, true),
        }
    }

    /// May the Service have an address that the annotation names?
    fn grant(&self, id: Id, service: &Service, address: IpAddr, given: &[&Have]) -> Result<Granted, Refusal> {
        match given.iter().find(|have| have.address == address) {
            Some(own) => self.keep_external(own, service),
            None => self.newly(id, service, address, false),
        }
    }

    fn newly(&self, id: Id, service: &Service, address: IpAddr, adopting: bool) -> Result<Granted, Refusal> {
        let pool = self.spec_pool(address)?;
        self.may_have_external(address, pool, service)?;
        self.claimable_beside(address, id, service, |claim, other| {
            // Another Service in which somebody wrote it by hand too: who is judged first has it.
            let by_hand = claim.kind == Kind::Standing && claim.place == Place::External;
            adopting && by_hand && other.external_ips.contains(&address)
        })?;
        Ok((address, pool.name.clone(), None))
    }

    /// An address of the first of these pools that has one: the one that the Service has, else a new one.
    fn any_external(
        &self,
        id: Id,
        service: &Service,
        family: Family,
        names: &[String],
        given: &[&Have],
    ) -> Result<Granted, Refusal> {
        let own: Vec<&&Have> = given
            .iter()
            .filter(|have| Family::of(have.address) == family)
            .collect();
        for have in own.iter().filter(|have| names.contains(&have.pool)) {
            if let Ok(granted) = self.keep_external(have, service)
                && !self.is_to_move(have)
            {
                return Ok(granted);
            }
        }
        self.find_external(id, service, family, names).or_else(|why| {
            // Better the address that it has than none.
            let mut kept = own.iter().filter(|have| have.firm);
            let kept = kept.find_map(|have| self.keep_external(have, service).ok());
            let (address, pool, _) = kept.ok_or_else(|| why.clone())?;
            Ok((address, pool, Some(why)))
        })
    }

    fn find_external(
        &self,
        id: Id,
        service: &Service,
        family: Family,
        names: &[String],
    ) -> Result<Granted, Refusal> {
        let pools = self.named_pools(names, |pool| self.allows_external(pool, service))?;
        let (address, pool) = self.find(id, service, family, &pools, None)?;
        Ok((address, pool, None))
    }

    /// May the Service keep an external IP?
    fn keep_external(&self, have: &Have, service: &Service) -> Result<Granted, Refusal> {
        let pool = self.rules.config.pools.get(&have.pool);
        if let Some(pool) = pool.filter(|pool| !pool.ranges.is_empty()) {
            self.may_have_external(have.address, pool, service)?;
        }
        Ok((have.address, have.pool.clone(), self.remark(have, service)))
    }

    fn may_have_external(&self, address: IpAddr, pool: &Pool, service: &Service) -> Result<(), Refusal> {
        let family = Family::of(address);
        if !service.families.contains(&family) {
            let message = format!("external IP {address}: the Service has no {family} (spec.ipFamilies)");
            return Err(Refusal::new(Reason::InvalidRequest, message));
        }
        self.allows_external(pool, service)
    }

    fn allows_external(&self, pool: &Pool, service: &Service) -> Result<(), Refusal> {
        let namespace = &service.key.namespace;
        if !self.rules.allows_external(pool, namespace) {
            let message = format!(
                "AddressPool {} does not allow external IPs to namespace {namespace}",
                pool.name
            );
            return Err(Refusal::new(Reason::ExternalIPNotAllowed, message));
        }
        if !self.rules.allows(pool, service) {
            return Err(not_allowed(&pool.name, service));
        }
        Ok(())
    }
}

/// A decision in the making.
#[derive(Default)]
struct Draft {
    external: External,
    waits: bool,
}

impl Draft {
    fn push(&mut self, granted: Result<Granted, Refusal>, adopted: bool) {
        let remark = match granted {
            Ok((address, pool, remark)) => {
                self.external.addresses.push(ExternalAddress {
                    address,
                    pool,
                    adopted,
                });
                remark
            }
            Err(refusal) => Some(refusal),
        };
        if let Some(remark) = remark {
            self.remark(remark);
        }
    }

    /// The first thing that is wrong is told; the others follow when it is mended.
    fn remark(&mut self, refusal: Refusal) {
        self.waits |= is_for_now(&refusal);
        self.external.note.get_or_insert(refusal);
    }

    fn names(&self, address: IpAddr) -> bool {
        let mut addresses = self.external.addresses.iter();
        addresses.any(|known| known.address == address)
    }
}
