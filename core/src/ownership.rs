//! Whose address is it? The one predicate that all programs use.
//!
//! An address is served for a Service only if the Service's class is ours, the address lies in one of our pools, and
//! the controller's own `Assigned` record names it. Whatever else a status says stays silent, with a reason. Should
//! two Services hold one address, all programs pick the same winner: the older `Assigned` record, then the UID.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Config;
use crate::model::{Service, ServiceKey, ServiceType};
use crate::reason::{Reason, Refusal};

/// The class that is always ours.
pub const CLASS: &str = "fairlead.dev/fairlead";

/// Which Services of type LoadBalancer are ours, by `spec.loadBalancerClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPolicy {
    /// Do we also serve Services without a class?
    pub serve_classless: bool,
}

impl ClassPolicy {
    /// Is the Service ours to serve: type LoadBalancer, and the class is ours or absent while we are the default?
    pub fn serves(self, service: &Service) -> bool {
        service.kind == ServiceType::LoadBalancer
            && match service.class.as_deref() {
                Some(class) => class == CLASS,
                None => self.serve_classless,
            }
    }
}

/// May this address be served for this Service? Answers with the name of its pool.
///
/// # Errors
/// The reason why not, with a sentence for people.
pub fn owned<'a>(
    service: &Service,
    address: IpAddr,
    config: &'a Config,
    class: ClassPolicy,
) -> Result<&'a str, Refusal> {
    if !class.serves(service) {
        return Err(Refusal::new(
            Reason::ServedByAnother,
            "the Service is not of our class",
        ));
    }
    let Some(pool) = config.pool_of(address) else {
        return Err(Refusal::new(
            Reason::NotOwned,
            format!("{address} is in no AddressPool"),
        ));
    };
    if !service
        .assigned
        .as_ref()
        .is_some_and(|record| record.names(address))
    {
        let message = format!("{address} stands in the status but was not assigned by the controller");
        return Err(Refusal::new(Reason::NotOwned, message));
    }
    Ok(&pool.name)
}

/// Who owns which address.
#[derive(Debug, Default)]
pub struct Ownership<'a> {
    /// Each address that may be served, with its Service and its pool.
    pub owners: BTreeMap<IpAddr, Owner<'a>>,
    /// Addresses that stand in a status of a Service of ours and are not served, with the reason.
    pub refused: Vec<(ServiceKey, IpAddr, Refusal)>,
}

/// The owner of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The name of the pool that the address lies in.
    pub pool: &'a str,
}

/// Resolves all addresses of all Services.
pub fn resolve<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    config: &'a Config,
    class: ClassPolicy,
) -> Ownership<'a> {
    let mut ownership = Ownership::default();
    for service in services {
        if !class.serves(service) {
            continue;
        }
        for &address in &service.ingress {
            match owned(service, address, config, class) {
                Err(refusal) => ownership.refused.push((service.key.clone(), address, refusal)),
                Ok(pool) => {
                    let challenger = Owner { service, pool };
                    let Some(&holder) = ownership.owners.get(&address) else {
                        ownership.owners.insert(address, challenger);
                        continue;
                    };
                    if holder.service.key == service.key {
                        continue; // one status that names an address twice
                    }
                    let (winner, loser) = if seniority(service) < seniority(holder.service) {
                        (challenger, holder)
                    } else {
                        (holder, challenger)
                    };
                    ownership.owners.insert(address, winner);
                    let message = format!("{address} belongs to {}, which had it first", winner.service.key);
                    let refusal = Refusal::new(Reason::DoubleAssignment, message);
                    ownership
                        .refused
                        .push((loser.service.key.clone(), address, refusal));
                }
            }
        }
    }
    ownership
}

/// Smaller is senior: the age of the record, then the UID.
fn seniority(service: &Service) -> (i64, &str) {
    (
        service.assigned.as_ref().map_or(i64::MAX, |record| record.since),
        &service.uid,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawPool, compile};
    use crate::model::AssignedRecord;
    use crate::testing::service;

    fn config() -> Config {
        compile(
            &[RawPool {
                name: "p".into(),
                created: 0,
                addresses: vec!["192.0.2.0/24".into()],
            }],
            &[],
        )
        .config
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn holding(name: &str, address: &str, since: i64) -> Service {
        Service {
            ingress: vec![ip(address)],
            assigned: Some(AssignedRecord {
                addresses: vec![(ip(address), "p".into())],
                since,
            }),
            ..service(name)
        }
    }

    const DEFAULT: ClassPolicy = ClassPolicy {
        serve_classless: true,
    };

    #[test]
    fn class_rules() {
        let with = |class: Option<&str>| Service {
            class: class.map(Into::into),
            ..service("a")
        };
        let only_ours = ClassPolicy {
            serve_classless: false,
        };
        assert!(DEFAULT.serves(&with(None)) && !only_ours.serves(&with(None)));
        assert!(DEFAULT.serves(&with(Some(CLASS))) && only_ours.serves(&with(Some(CLASS))));
        assert!(!DEFAULT.serves(&with(Some("other.example/lb"))));
        assert!(!DEFAULT.serves(&Service {
            kind: ServiceType::NodePort,
            ..service("a")
        }));
    }

    #[test]
    fn an_address_needs_pool_and_record() {
        let config = config();
        let reason = |service: &Service, address: &str| {
            owned(service, ip(address), &config, DEFAULT).map_err(|refusal| refusal.reason)
        };
        assert_eq!(reason(&holding("a", "192.0.2.1", 1), "192.0.2.1"), Ok("p"));
        assert_eq!(
            reason(&holding("a", "8.8.8.8", 1), "8.8.8.8"),
            Err(Reason::NotOwned)
        );
        let hand_edited = Service {
            ingress: vec![ip("192.0.2.2")],
            ..holding("a", "192.0.2.1", 1)
        };
        assert_eq!(reason(&hand_edited, "192.0.2.2"), Err(Reason::NotOwned));
        let other = Service {
            class: Some("other.example/lb".into()),
            ..holding("a", "192.0.2.1", 1)
        };
        assert_eq!(reason(&other, "192.0.2.1"), Err(Reason::ServedByAnother));
    }

    #[test]
    fn the_older_record_wins_in_either_order() {
        let config = config();
        let (old, new) = (holding("old", "192.0.2.1", 5), holding("new", "192.0.2.1", 6));
        for services in [[&old, &new], [&new, &old]] {
            let ownership = resolve(services, &config, DEFAULT);
            assert_eq!(ownership.owners[&ip("192.0.2.1")].service.key, old.key);
            assert_eq!(ownership.refused.len(), 1);
            assert_eq!(ownership.refused[0].0, new.key);
            assert_eq!(ownership.refused[0].2.reason, Reason::DoubleAssignment);
        }
    }
}
