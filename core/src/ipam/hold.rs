//! What a Service validly claims, and what it may claim beside others.

use std::net::IpAddr;

use super::claims::{Claim, Id, Kind};
use super::ledger::Ledger;
use crate::model::Service;
use crate::ownership::{Place, double_assignment, may_share, seniority, sharing_key};
use crate::reason::{Reason, Refusal};

/// An address that a Service validly claims.
#[derive(Clone, Debug)]
pub(super) struct Have {
    pub(super) address: IpAddr,
    pub(super) pool: String,
    /// It is written, not just planned, and recorded.
    pub(super) firm: bool,
    /// It is in the spec of its pool.
    pub(super) in_spec: bool,
}

impl Ledger {
    /// May the Service newly have this address, as far as others are concerned?
    pub(super) fn claimable(&self, address: IpAddr, id: Id, service: &Service) -> Result<(), Refusal> {
        self.claimable_beside(address, id, service, |_, _| false)
    }

    /// The same, without the claims that are `harmless`.
    pub(super) fn claimable_beside(
        &self,
        address: IpAddr,
        id: Id,
        service: &Service,
        harmless: impl Fn(&Claim, &Service) -> bool,
    ) -> Result<(), Refusal> {
        if let Some(pool) = self.rules.config.pool_of(address) {
            self.rules.assignable(address, pool)?;
        }
        let metallb = self.rules.class.metallb;
        let others = self.space.claims(address).iter().filter(|claim| claim.id != id);
        let in_the_way = others.filter_map(|claim| {
            let other = &self.entry(claim.id)?.service;
            if harmless(claim, other) {
                return None;
            }
            let gone = matches!(claim.kind, Kind::Standing | Kind::Held);
            let why = if gone {
                None
            } else {
                Some(may_share(other, service, metallb).err()?)
            };
            Some((&other.key, other, why))
        });
        // The first by name, so that the message does not depend on who came first to our ears.
        let Some((key, other, why)) = in_the_way.min_by_key(|(key, ..)| *key) else {
            return Ok(());
        };
        let shares = |service: &Service| sharing_key(service, metallb).is_some();
        Err(match why {
            None => {
                let message = format!("{address} is in use: it stands in Service {key}");
                Refusal::new(Reason::AddressInUse, message)
            }
            Some(why) if shares(service) && shares(other) => {
                let message = format!("{address} belongs to Service {key} and cannot be shared: {why}");
                Refusal::new(Reason::SharingConflict, message)
            }
            Some(_) => Refusal::new(
                Reason::AddressInUse,
                format!("{address} belongs to Service {key}"),
            ),
        })
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
                Kind::Held => continue,
                Kind::Standing if place == Place::External => continue,
                Kind::Kept => self.granted(address, claim),
                // Nobody is served by it, so it is given like a new one.
                Kind::Recorded | Kind::Planned | Kind::Standing if !in_spec => continue,
                Kind::Recorded => self
                    .claimable_by_record(address, claim, service)
                    .and_then(|()| self.granted(address, claim)),
                // A record may be lost. What stands in the status is what clients know: the Service gets it, if it may.
                Kind::Planned | Kind::Standing => {
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
                    firm: !matches!(claim.kind, Kind::Planned | Kind::Standing),
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
        let others = self.space.claims(address).iter();
        let standing = others
            .filter(|other| other.id != claim.id && matches!(other.kind, Kind::Standing | Kind::Held))
            .filter_map(|other| self.entry(other.id).map(|entry| &entry.service.key));
        standing.min().map_or(Ok(()), |other| {
            let why = format!("it was taken out of {}", service.key);
            Err(double_assignment(address, other, &why))
        })
    }

    /// Is the Service one of those that have the address, the senior ones first?
    fn granted(&self, address: IpAddr, claim: &Claim) -> Result<(), Refusal> {
        let metallb = self.rules.class.metallb;
        let rivals = self.space.claims(address);
        let own = self.entry(claim.id).map(|entry| &entry.service);
        let clashes = rivals.iter().filter(|rival| rival.id != claim.id).any(|rival| {
            let other = self.entry(rival.id).map(|entry| &entry.service);
            own.zip(other)
                .is_some_and(|(own, other)| may_share(own, other, metallb).is_err())
        });
        if !clashes {
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
                let why = may_share(senior, service, metallb).err()?;
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
