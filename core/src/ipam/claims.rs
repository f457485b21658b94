//! What one Service claims, as it is observed: every address that stands in its status, its spec or its records.

use std::net::IpAddr;

use super::rules::Rules;
use crate::model::Service;
use crate::ownership::{Place, takes_external_ips};

/// Number of a Service in the ledger.
pub(super) type Id = u32;

/// How firmly an address is claimed: the earlier ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It stands in the Service and the controller's record names it.
    Kept,
    /// The record names it, but somebody took it out of the Service.
    Recorded,
    /// It was decided that the Service gets it; nothing is written yet.
    Planned,
    /// It stands in the Service without a record, or in a Service that is not ours, or is what is left of a record:
    /// nobody else may have it. The Service itself gets what stands in its status before any other, if it may have it
    /// newly.
    Standing,
    /// A write that takes it, or the record of it, away has been sent and not been seen to have happened.
    Held,
}

/// A claim of a Service on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: Id,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// Everything that a Service is observed to claim, each address once. `held` are addresses that it named before the
/// writes that are under way.
pub(super) fn observed(rules: &Rules, service: &Service, id: Id, held: &[IpAddr]) -> Vec<(IpAddr, Claim)> {
    let mut claims: Vec<(IpAddr, Claim)> = Vec::new();
    let mut claim = |address: IpAddr, kind, place| {
        match claims.iter_mut().find(|(known, _)| *known == address) {
            // An external IP that is also the Service's own load balancer address: the firmer claim counts.
            Some((_, known)) if kind < known.kind => *known = Claim { id, kind, place },
            Some(_) => {}
            None => claims.push((address, Claim { id, kind, place })),
        }
    };
    let ours = rules.class.serves(service) && !served_by_another(rules, service);
    for &address in &service.ingress {
        let kept = ours && service.records(address);
        claim(
            address,
            if kept { Kind::Kept } else { Kind::Standing },
            Place::Ingress,
        );
    }
    for (address, _) in service.assigned.iter().flat_map(|record| &record.addresses) {
        if !service.ingress.contains(address) {
            claim(
                *address,
                if ours { Kind::Recorded } else { Kind::Standing },
                Place::Ingress,
            );
        }
    }
    let external = takes_external_ips(service);
    for &address in &service.external_ips {
        let kept = external && service.recorded_external(address).is_some();
        claim(
            address,
            if kept { Kind::Kept } else { Kind::Standing },
            Place::External,
        );
    }
    for recorded in service.external.iter().flat_map(|record| &record.addresses) {
        if !service.external_ips.contains(&recorded.address) {
            // What the user wrote and has taken out again does not come back, but as long as the record names it the
            // user may write it once more and would own it at once.
            let comes_back = external && !recorded.adopted;
            let kind = if comes_back {
                Kind::Recorded
            } else {
                Kind::Standing
            };
            claim(recorded.address, kind, Place::External);
        }
    }
    for &address in held {
        let kind = Kind::Held;
        match claims.iter_mut().find(|(known, _)| *known == address) {
            None => claims.push((
                address,
                Claim {
                    id,
                    kind,
                    place: Place::Ingress,
                },
            )),
            // Perhaps a record is taken away, and the address stays where the user wrote it.
            Some((_, claim)) if claim.kind == Kind::Standing => claim.kind = kind,
            Some(_) => {}
        }
    }
    claims
}

/// A class-less Service whose status carries entries that are not from our pools, and none that the controller recorded:
/// another implementation serves it. An unrecorded address of our own pools lost its record or was put there by hand, and
/// is put right; so is everything with our class.
pub(super) fn served_by_another(rules: &Rules, service: &Service) -> bool {
    let foreign = |address: &IpAddr| rules.config.pool_of(*address).is_none();
    service.class.is_none()
        && (service.foreign_ingress || service.ingress.iter().any(foreign))
        && !service.ingress.iter().any(|address| service.records(*address))
}
