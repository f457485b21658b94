//! Whose address is it? The one predicate that all programs use.
//!
//! An address is served for a Service only if the Service's class is ours, the address lies in one of our pools, and
//! the controller's own `Assigned` record names it. Whatever else a status says stays silent, with a reason. Should
//! two Services hold one address, all programs pick the same winner: the older `Assigned` record, then the UID.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Config;
use crate::model::{Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy};
use crate::reason::{Reason, Refusal};

/// The class that is always ours.
pub const CLASS: &str = "fairlead.dev/fairlead";

/// Which Services of type LoadBalancer are ours, by `spec.loadBalancerClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPolicy {
    /// Do we also serve Services without a class?
    pub serve_classless: bool,
    /// Do we honour the annotations of MetalLB?
    pub metallb: bool,
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

/// Where in a Service an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In `status.loadBalancer.ingress`.
    Ingress,
    /// In `spec.externalIPs`.
    External,
}

/// May this address of `status.loadBalancer.ingress` be served for this Service? Answers with the name of its pool.
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
    if !service.records(address) {
        let message = format!("{address} stands in the status but was not assigned by the controller");
        return Err(Refusal::new(Reason::NotOwned, message));
    }
    Ok(&pool.name)
}

/// May this address of `spec.externalIPs` be served for this Service? `None` if it lies in no pool of ours and so does
/// not concern us.
///
/// # Errors
/// The reason why not, with a sentence for people.
pub fn owned_external<'a>(
    service: &Service,
    address: IpAddr,
    config: &'a Config,
) -> Option<Result<&'a str, Refusal>> {
    let pool = config.pool_of(address)?;
    let recorded = service.recorded_external(address).is_some();
    Some(if recorded && takes_external_ips(service) {
        Ok(&pool.name)
    } else {
        let message = format!(
            "{address} stands in spec.externalIPs and is in AddressPool {}, but the controller did not allow it",
            pool.name
        );
        Err(Refusal::new(Reason::NotOwned, message))
    })
}

/// Can the Service have external IPs at all?
pub fn takes_external_ips(service: &Service) -> bool {
    service.kind != ServiceType::ExternalName && !service.headless
}

/// May the two Services have one address together? Both must ask for it with the same key and have no port and
/// protocol in common. Under policy Local the node that announces the address must suit both, so they must have the
/// same backends: the same selector in the same namespace.
///
/// # Errors
/// What is in the way, for people.
pub fn may_share(a: &Service, b: &Service, metallb: bool) -> Result<(), String> {
    let (Some(key), Some(other)) = (sharing_key(a, metallb), sharing_key(b, metallb)) else {
        return Err("both must ask to share, with the same key".to_owned());
    };
    if key != other {
        return Err("the sharing keys differ".to_owned());
    }
    let same_port = a.ports.iter().find(|port| {
        let clashes = |other: &ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
        b.ports.iter().any(clashes)
    });
    if let Some(port) = same_port {
        return Err(format!("both use port {}/{}", port.port, port.protocol.as_str()));
    }
    let local = a.policy == TrafficPolicy::Local || b.policy == TrafficPolicy::Local;
    let same_backends =
        !a.selector.is_empty() && (&a.key.namespace, &a.selector) == (&b.key.namespace, &b.selector);
    if local && !same_backends {
        return Err("under externalTrafficPolicy Local the backends must be the same".to_owned());
    }
    Ok(())
}

/// The key by which the Service asks to share its address.
pub fn sharing_key(service: &Service, metallb: bool) -> Option<&str> {
    let theirs = service.metallb.sharing_key.as_deref().filter(|_| metallb);
    service
        .wishes
        .sharing_key
        .as_deref()
        .or(theirs)
        .map(str::trim)
        .filter(|key| !key.is_empty())
}

/// Who owns which address.
#[derive(Debug, Default)]
pub struct Ownership<'a> {
    /// Each address that may be served, with its Services and its pool.
    pub owners: BTreeMap<IpAddr, Owner<'a>>,
    /// Addresses that stand in Services of ours and are not served, with the reason.
    pub refused: Vec<(ServiceKey, IpAddr, Refusal)>,
}

/// The owners of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The name of the pool that the address belongs to.
    pub pool: &'a str,
    /// The Services, the senior one first; several if they share the address, never none.
    pub services: Vec<(&'a Service, Place)>,
}

impl<'a> Owner<'a> {
    /// The senior Service.
    pub fn first(&self) -> &'a Service {
        self.services[0].0
    }
}

/// Resolves all addresses of all Services.
pub fn resolve<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    config: &'a Config,
    class: ClassPolicy,
) -> Ownership<'a> {
    let mut ownership = Ownership::default();
    let mut claims: BTreeMap<IpAddr, Owner<'a>> = BTreeMap::new();
    for service in services {
        let mut claim = |address, place, verdict: Result<&'a str, Refusal>| match verdict {
            Err(refusal) => ownership.refused.push((service.key.clone(), address, refusal)),
            Ok(pool) => {
                let owner = claims.entry(address).or_insert(Owner {
                    pool,
                    services: Vec::new(),
                });
                // One Service may name an address twice; its first place counts.
                if owner.services.iter().all(|(other, _)| other.key != service.key) {
                    owner.services.push((service, place));
                }
            }
        };
        if class.serves(service) {
            for &address in &service.ingress {
                claim(address, Place::Ingress, owned(service, address, config, class));
            }
        }
        for &address in &service.external_ips {
            if let Some(verdict) = owned_external(service, address, config) {
                claim(address, Place::External, verdict);
            }
        }
    }
    for (&address, owner) in claims.iter_mut().filter(|(_, owner)| owner.services.len() > 1) {
        owner
            .services
            .sort_by_key(|(service, place)| seniority(service, *place));
        let mut accepted: Vec<(&Service, Place)> = Vec::new();
        for (service, place) in std::mem::take(&mut owner.services) {
            let clash = accepted.iter().find_map(|(senior, _)| {
                let why = may_share(senior, service, class.metallb).err()?;
                Some((&senior.key, why))
            });
            match clash {
                None => accepted.push((service, place)),
                Some((senior, why)) => {
                    let refusal = double_assignment(address, senior, &why);
                    ownership.refused.push((service.key.clone(), address, refusal));
                }
            }
        }
        owner.services = accepted;
    }
    ownership.owners = claims;
    ownership
}

/// The younger of two Services that hold one address without being allowed to share it.
pub fn double_assignment(address: IpAddr, senior: &ServiceKey, why: &str) -> Refusal {
    let message = format!("{address} belongs to {senior}, which had it first, and cannot be shared: {why}");
    Refusal::new(Reason::DoubleAssignment, message)
}

/// The smaller one had its address first.
pub fn seniority(service: &Service, place: Place) -> (i64, &str) {
    let since = match place {
        Place::Ingress => service.assigned.as_ref().map(|record| record.since),
        Place::External => service.external.as_ref().map(|record| record.since),
    };
    (since.unwrap_or(i64::MAX), &service.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Written, compile};
    use crate::model::{AssignedRecord, ExternalAddress, ExternalRecord, Wishes};
    use crate::testing::{pool, service};

    fn config() -> Config {
        compile(&Written::new(&[pool("p", &["192.0.2.0/24"])], &[])).config
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
        metallb: false,
    };

    #[test]
    fn class_rules() {
        let with = |class: Option<&str>| Service {
            class: class.map(Into::into),
            ..service("a")
        };
        let only_ours = ClassPolicy {
            serve_classless: false,
            metallb: false,
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
            assert_eq!(ownership.owners[&ip("192.0.2.1")].first().key, old.key);
            assert_eq!(ownership.refused.len(), 1);
            assert_eq!(ownership.refused[0].0, new.key);
            assert_eq!(ownership.refused[0].2.reason, Reason::DoubleAssignment);
        }
    }

    fn sharing(name: &str, port: u16, since: i64) -> Service {
        let mut service = Service {
            wishes: Wishes {
                sharing_key: Some("k".into()),
                ..Wishes::default()
            },
            ..holding(name, "192.0.2.1", since)
        };
        service.ports[0].port = port;
        service
    }

    #[test]
    fn services_share_by_key_unless_ports_or_local_backends_clash() {
        let base = sharing("a", 80, 1);
        let why = |other: &Service| may_share(&base, other, false).err();
        assert_eq!(why(&sharing("b", 443, 2)), None);
        assert!(why(&sharing("b", 80, 2)).unwrap().contains("80/tcp"));
        let mut keyless = sharing("b", 443, 2);
        keyless.wishes.sharing_key = None;
        assert!(why(&keyless).unwrap().contains("key"));
        keyless.metallb.sharing_key = Some("k".into());
        assert!(why(&keyless).is_some());
        assert_eq!(may_share(&base, &keyless, true), Ok(()));
        let mut local = Service {
            policy: TrafficPolicy::Local,
            ..sharing("b", 443, 2)
        };
        assert!(why(&local).unwrap().contains("backends"));
        local.selector = base.selector.clone();
        assert_eq!(why(&local), None);
        local.key.namespace = "other".into();
        assert!(why(&local).is_some());
    }

    #[test]
    fn a_shared_address_has_all_owners_that_agree_with_the_seniors() {
        let config = config();
        let (a, b, c) = (sharing("a", 80, 1), sharing("b", 443, 2), sharing("c", 80, 3));
        let ownership = resolve([&c, &b, &a], &config, DEFAULT);
        let names: Vec<&str> = ownership.owners[&ip("192.0.2.1")]
            .services
            .iter()
            .map(|(service, _)| service.key.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(ownership.refused[0].0.name, "c");
    }

    #[test]
    fn external_ips_need_the_record_and_concern_us_only_inside_pools() {
        let config = config();
        let external = |record: Option<&str>| Service {
            kind: ServiceType::ClusterIp,
            external_ips: vec![ip("192.0.2.9"), ip("8.8.8.8")],
            external: record.map(|address| ExternalRecord {
                addresses: vec![ExternalAddress {
                    address: ip(address),
                    pool: "p".into(),
                    adopted: true,
                }],
                since: 1,
            }),
            ..service("e")
        };
        let allowed = external(Some("192.0.2.9"));
        let ownership = resolve([&allowed], &config, DEFAULT);
        assert_eq!(ownership.owners.keys().collect::<Vec<_>>(), [&ip("192.0.2.9")]);
        assert!(ownership.refused.is_empty());
        let foreign = external(None);
        let ownership = resolve([&foreign], &config, DEFAULT);
        assert!(ownership.owners.is_empty());
        assert_eq!(ownership.refused[0].2.reason, Reason::NotOwned);
        let headless = Service {
            headless: true,
            ..external(Some("192.0.2.9"))
        };
        assert!(resolve([&headless], &config, DEFAULT).owners.is_empty());
    }
}
