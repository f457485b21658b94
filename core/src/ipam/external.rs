//! The decision for one Service: its external IPs.
//!
//! What the user wrote into `spec.externalIPs` inside a pool is adopted if the pool allows it to the namespace and nobody
//! else has the address; otherwise it is reported, and served by nobody. What the annotation asks for is given from
//! pools that allow it, and taken away again when it is no longer asked for or no longer allowed.

use std::net::IpAddr;

use super::External;
use super::claims::{Id, Kind};
use super::decide::not_allowed;
use super::ledger::Ledger;
use super::wish::{ExternalWish, external_wish};
use crate::config::Pool;
use crate::model::{ExternalAddress, Family, Service};
use crate::ownership::{Place, takes_external_ips};
use crate::reason::{Reason, Refusal};

impl Ledger {
    pub(super) fn judge_external(&self, id: Id, service: &Service) -> Option<External> {
        let record = service.external.as_ref();
        let written = |address: IpAddr| {
            let recorded = record.into_iter().flat_map(|record| &record.addresses);
            recorded
                .filter(|recorded| !recorded.adopted)
                .any(|recorded| recorded.address == address)
        };
        let by_hand: Vec<IpAddr> = service
            .external_ips
            .iter()
            .copied()
            .filter(|address| !written(*address) && self.rules.config.pool_of(*address).is_some())
            .filter(|address| !service.ingress.contains(address))
            .collect();
        if by_hand.is_empty() && record.is_none() && service.external_wish.is_none() || service.deleting {
            return None;
        }
        let mut external = External::default();
        if !takes_external_ips(service) {
            let message = "a Service without a cluster IP has no external IPs";
            external.note = Some(Refusal::new(Reason::InvalidRequest, message));
            return Some(external);
        }
        for address in by_hand {
            match self.adopt(id, service, address) {
                Ok(pool) => external.push(address, pool, true),
                Err(refusal) => external.remark(refusal),
            }
        }
        let wish = service.external_wish.as_deref().map(external_wish);
        match wish.transpose() {
            Ok(None) => {}
            Ok(Some(ExternalWish::Addresses(addresses))) => {
                for address in addresses {
                    if external.names(address) {
                        continue;
                    }
                    match self.grant(id, service, address) {
                        Ok(pool) => external.push(address, pool, false),
                        Err(refusal) => external.remark(refusal),
                    }
                }
            }
            Ok(Some(ExternalWish::Pools(names))) => {
                for &family in &service.families {
                    match self.any_external(id, service, family, &names) {
                        Ok((address, pool)) => external.push(address, pool, false),
                        Err(refusal) => external.remark(refusal),
                    }
                }
            }
            Err(refusal) => {
                // An unreadable wish takes nothing away.
                let (have, _) = self.have(id, service, Place::External);
                for own in have.into_iter().filter(|own| written(own.address)) {
                    external.push(own.address, own.pool, false);
                }
                external.remark(refusal);
            }
        }
        Some(external)
    }

    /// May an address that the user wrote be served? Answers with its pool.
    fn adopt(&self, id: Id, service: &Service, address: IpAddr) -> Result<String, Refusal> {
        let Some(pool) = self.rules.config.pool_of(address) else {
            return self.spec_pool(address).map(|pool| pool.name.clone());
        };
        self.may_have_external(pool, service)?;
        let kept = self.is_kept(id, address);
        if kept {
            let (have, lost) = self.have(id, service, Place::External);
            return match have.into_iter().find(|have| have.address == address) {
                Some(have) => Ok(have.pool),
                None => Err(lost.unwrap_or_else(|| in_use(address))),
            };
        }
        if !pool.contains(address) {
            let message = format!("{address} left AddressPool {}", pool.name);
            return Err(Refusal::new(Reason::AddressNotInPool, message));
        }
        self.claimable(address, id, service)?;
        Ok(pool.name.clone())
    }

    /// May the Service have an address that the annotation names? Answers with its pool.
    fn grant(&self, id: Id, service: &Service, address: IpAddr) -> Result<String, Refusal> {
        let (have, _) = self.have(id, service, Place::External);
        if let Some(own) = have.into_iter().find(|have| have.address == address) {
            if let Some(pool) = self.rules.config.pools.get(&own.pool) {
                self.may_have_external(pool, service)?;
            }
            return Ok(own.pool);
        }
        let family = Family::of(address);
        if !service.families.contains(&family) {
            let message = format!("requested {address}: the Service has no {family} (spec.ipFamilies)");
            return Err(Refusal::new(Reason::InvalidRequest, message));
        }
        let pool = self.spec_pool(address)?;
        self.may_have_external(pool, service)?;
        self.claimable(address, id, service)?;
        Ok(pool.name.clone())
    }

    /// An address of the first of these pools that has one: the one that the Service has, else a new one.
    fn any_external(
        &self,
        id: Id,
        service: &Service,
        family: Family,
        names: &[String],
    ) -> Result<(IpAddr, String), Refusal> {
        let mut refused = None;
        let mut pools: Vec<&Pool> = Vec::new();
        for name in names {
            let pool = self.rules.config.pools.get(name);
            let verdict = match pool {
                Some(pool) => self.may_have_external(pool, service).map(|()| pool),
                None => Err(Refusal::new(
                    Reason::UnknownPool,
                    format!("no usable AddressPool is named {name}"),
                )),
            };
            match verdict {
                Ok(pool) => pools.push(pool),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        let by_hand = |address: &IpAddr| {
            let recorded = service.external.iter().flat_map(|record| &record.addresses);
            let mut recorded = recorded.filter(|recorded| recorded.adopted);
            recorded.any(|recorded| recorded.address == *address)
        };
        let (have, _) = self.have(id, service, Place::External);
        let own = have
            .into_iter()
            .filter(|have| Family::of(have.address) == family && !by_hand(&have.address))
            .find(|have| pools.iter().any(|pool| pool.name == have.pool));
        if let Some(own) = own {
            return Ok((own.address, own.pool));
        }
        match refused {
            Some(refusal) if pools.is_empty() => Err(refusal),
            _ => self.find(id, service, family, &pools, None),
        }
    }

    fn may_have_external(&self, pool: &Pool, service: &Service) -> Result<(), Refusal> {
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

    fn is_kept(&self, id: Id, address: IpAddr) -> bool {
        let claims = self.space.claims(address).iter();
        claims
            .filter(|claim| claim.id == id)
            .any(|claim| claim.kind == Kind::Kept)
    }
}

impl External {
    fn push(&mut self, address: IpAddr, pool: String, adopted: bool) {
        self.addresses.push(ExternalAddress {
            address,
            pool,
            adopted,
        });
    }

    /// The first thing that is wrong is told; the others follow when it is mended.
    fn remark(&mut self, refusal: Refusal) {
        self.note.get_or_insert(refusal);
    }

    fn names(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|known| known.address == address)
    }
}

fn in_use(address: IpAddr) -> Refusal {
    Refusal::new(
        Reason::AddressInUse,
        format!("{address} belongs to another Service"),
    )
}
