//! The API server: objects with versions, their histories as watches show them, and what users do to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Access, Allocation, OnRemove, RawPool};
use crate::model::{AssignedRecord, Family, FamilyPolicy, Service, ServiceKey, ServiceType, TrafficPolicy};
use crate::ownership::CLASS;
use crate::testing;

/// So many Services, pools and addresses there are.
pub(super) const SERVICES: u8 = 7;
pub(super) const POOLS: u8 = 4;
pub(super) const ADDRESSES: u8 = 13;

/// An address by number: eight of IPv4, four of IPv6, and one that is in no pool.
pub(super) fn address(n: u8) -> IpAddr {
    match n % ADDRESSES {
        n @ 0..8 => IpAddr::from([192, 0, 2, n]),
        n @ 8..12 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n) - 8]),
        _ => IpAddr::from([198, 51, 100, 1]),
    }
}

fn ranges(n: u8) -> Vec<String> {
    let texts: &[&str] = match n % 8 {
        0 => &["192.0.2.0/30"],
        1 => &["192.0.2.4-192.0.2.6"],
        2 => &["192.0.2.0-192.0.2.1"],
        3 => &["2001:db8::/127"],
        4 => &["192.0.2.2-192.0.2.5", "2001:db8::/126"],
        5 => &["192.0.2.6", "2001:db8::2-2001:db8::3"],
        6 => &["192.0.2.0-192.0.2.6", "2001:db8::/126"],
        _ => &["junk"],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(super) fn pool_name(n: u8) -> String {
    format!("p{}", n % POOLS)
}

pub(super) fn service_key(n: u8) -> ServiceKey {
    let n = n % SERVICES;
    let namespace = if n % 3 == 2 { "other" } else { "default" };
    ServiceKey::new(namespace, format!("s{n}"))
}

/// What a user does to a Service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Edit {
    Balancer(bool),
    Class(u8),
    Families(u8),
    Policy(u8),
    Port(u8),
    Local(bool),
    Key(u8),
    Label(bool),
    Request(u8),
    Addresses(u8, u8),
    Pools(u8),
    External(u8),
    /// Writes an external IP, or takes it out.
    ByHand(u8),
    ForgeIngress(u8),
    WipeIngress,
    ForgeRecord(u8),
    WipeRecord,
    Foreign(bool),
    Deleting,
}

/// What a user does to a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PoolEdit {
    Ranges(u8),
    Auto(bool),
    Reassign(bool),
    External(u8),
    Reserve(u8),
    AvoidBuggy(bool),
    For(u8),
    Delete,
    /// Without waiting for the finalizer.
    Erase,
}

/// An object with its version.
pub(super) type Versioned<T> = (u64, T);

/// What a watch tells.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "most are Services")]
pub(super) enum Event {
    Service(ServiceKey, Option<Versioned<Service>>),
    Pool(String, Option<Versioned<RawPool>>),
    /// A node has, or no longer has, one of the addresses.
    Node(bool),
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) now: i64,
    version: u64,
    pub(super) services: BTreeMap<ServiceKey, Versioned<Service>>,
    pub(super) pools: BTreeMap<String, Versioned<RawPool>>,
    pub(super) node: bool,
    /// One history of Services, one of all the rest.
    pub(super) histories: [Vec<Event>; 2],
    /// Addresses in statuses whose record a user forged.
    pub(super) forged: Vec<(ServiceKey, IpAddr)>,
    /// All that a Service was since things were quiet: what a controller may yet take it for.
    pub(super) lately: BTreeMap<ServiceKey, Vec<Service>>,
}

impl World {
    pub(super) fn put_service(&mut self, service: Service) {
        self.version += 1;
        let key = service.key.clone();
        let lately = self.lately.entry(key.clone()).or_default();
        let shares = |s: &Service| {
            (
                s.wishes.sharing_key.clone(),
                s.ports.clone(),
                s.policy,
                s.selector.clone(),
            )
        };
        if lately.iter().all(|known| shares(known) != shares(&service)) {
            lately.push(service.clone());
        }
        self.forged.retain(|(forger, address)| {
            let names = |record: &AssignedRecord| record.names(*address);
            *forger != key || service.assigned.as_ref().is_some_and(names)
        });
        let object = (self.version, service);
        self.histories[0].push(Event::Service(key.clone(), Some(object.clone())));
        self.services.insert(key, object);
    }

    pub(super) fn delete_service(&mut self, key: &ServiceKey) {
        if self.services.remove(key).is_some() {
            self.histories[0].push(Event::Service(key.clone(), None));
            self.forged.retain(|(forger, _)| forger != key);
        }
    }

    pub(super) fn put_pool(&mut self, pool: RawPool) {
        self.version += 1;
        let (name, object) = (pool.name.clone(), (self.version, pool));
        self.histories[1].push(Event::Pool(name.clone(), Some(object.clone())));
        self.pools.insert(name, object);
    }

    pub(super) fn delete_pool(&mut self, name: &str) {
        if self.pools.remove(name).is_some() {
            self.histories[1].push(Event::Pool(name.to_owned(), None));
        }
    }

    pub(super) fn set_node(&mut self, has: bool) {
        self.node = has;
        self.histories[1].push(Event::Node(has));
    }

    pub(super) fn create_service(&mut self, n: u8) {
        let key = service_key(n);
        if self.services.contains_key(&key) {
            return;
        }
        let service = Service {
            uid: format!("{}-{}", n % 2, self.version),
            created: self.now,
            key,
            ..testing::service("x")
        };
        self.put_service(service);
    }

    pub(super) fn edit_service(&mut self, n: u8, edit: &Edit) {
        let Some((_, before)) = self.services.get(&service_key(n)) else {
            return;
        };
        let mut service = before.clone();
        edit_service(&mut service, edit, self.now);
        // The API server keeps no ingress, foreign or ours, and no class on other types.
        if service.kind != ServiceType::LoadBalancer {
            service.class = None;
            service.ingress.clear();
            service.foreign_ingress = false;
        }
        if service == *before {
            return;
        }
        let key = service.key.clone();
        self.put_service(service);
        if let Edit::ForgeRecord(n) = edit {
            self.forged.push((key, address(*n)));
        }
    }

    pub(super) fn edit_pool(&mut self, n: u8, edit: &PoolEdit) {
        let name = pool_name(n);
        if matches!(edit, PoolEdit::Erase) {
            return self.delete_pool(&name);
        }
        let Some((_, before)) = self.pools.get(&name) else {
            if let PoolEdit::Ranges(n) = edit {
                self.put_pool(RawPool {
                    name,
                    created: self.now,
                    addresses: ranges(*n),
                    ..RawPool::default()
                });
            }
            return;
        };
        let mut pool = before.clone();
        edit_pool(&mut pool, edit);
        if pool != *before {
            self.put_pool(pool);
        }
    }
}

fn edit_service(service: &mut Service, edit: &Edit, now: i64) {
    let some = |n: u8, texts: &[&str]| texts.get(usize::from(n)).map(|text| (*text).to_owned());
    match *edit {
        Edit::Balancer(yes) => {
            service.kind = if yes {
                ServiceType::LoadBalancer
            } else {
                ServiceType::ClusterIp
            };
        }
        Edit::Class(n) => service.class = some(n, &[CLASS, "other.example/lb"]),
        Edit::Families(n) => {
            service.families = match n % 4 {
                0 => vec![Family::V4],
                1 => vec![Family::V6],
                2 => vec![Family::V4, Family::V6],
                _ => vec![Family::V6, Family::V4],
            }
        }
        Edit::Policy(n) => {
            service.family_policy = match n % 3 {
                0 => FamilyPolicy::SingleStack,
                1 => FamilyPolicy::PreferDualStack,
                _ => FamilyPolicy::RequireDualStack,
            }
        }
        Edit::Port(n) => service.ports[0].port = 80 + u16::from(n % 3),
        Edit::Local(yes) => {
            service.policy = if yes {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            };
        }
        Edit::Key(n) => service.wishes.sharing_key = some(n, &["k", "l"]),
        Edit::Label(yes) => {
            service.labels = yes
                .then(|| ("tier".to_owned(), "gold".to_owned()))
                .into_iter()
                .collect();
        }
        Edit::Request(n) => {
            service.requested = match n {
                0..ADDRESSES => Some(address(n).to_string()),
                ADDRESSES => Some("nonsense".to_owned()),
                _ => None,
            }
        }
        Edit::Addresses(a, b) => {
            service.wishes.addresses = (a != b).then(|| format!("{},{}", address(a), address(b)));
        }
        Edit::Pools(n) => service.wishes.pools = some(n, &["p0", "p1,p2", "p3, p0", "p9", ","]),
        Edit::External(n) => {
            service.external_wish = match n {
                0..ADDRESSES => Some(address(n).to_string()),
                _ => some(n - ADDRESSES, &["p0", "p1,p2", "p3, p0", "p9", ","]),
            }
        }
        Edit::ByHand(n) => {
            let address = address(n);
            if service.external_ips.contains(&address) {
                service.external_ips.retain(|known| *known != address);
            } else {
                service.external_ips.push(address);
            }
        }
        Edit::ForgeIngress(n) => service.ingress = vec![address(n)],
        Edit::WipeIngress => service.ingress.clear(),
        Edit::ForgeRecord(n) => {
            service.assigned = Some(AssignedRecord {
                addresses: vec![(address(n), pool_name(n))],
                since: now - i64::from(n),
            });
        }
        Edit::WipeRecord => service.assigned = None,
        Edit::Foreign(yes) => service.foreign_ingress = yes,
        Edit::Deleting => service.deleting = true,
    }
}

fn edit_pool(pool: &mut RawPool, edit: &PoolEdit) {
    match *edit {
        PoolEdit::Ranges(n) => pool.addresses = ranges(n),
        PoolEdit::Auto(yes) => pool.auto_assign = yes,
        PoolEdit::Reassign(yes) => {
            pool.on_remove = if yes { OnRemove::Reassign } else { OnRemove::Keep };
        }
        PoolEdit::External(n) => {
            let only = Access {
                namespaces: vec!["other".to_owned()],
                selector: None,
            };
            pool.external_ips = match n % 4 {
                0 => Ok(None),
                1 => Ok(Some(only)),
                _ => Ok(Some(Access::default())),
            }
        }
        PoolEdit::Reserve(n) => {
            pool.reserved = (n < ADDRESSES)
                .then(|| address(n).to_string())
                .into_iter()
                .collect();
        }
        PoolEdit::AvoidBuggy(yes) => pool.avoid_buggy = yes,
        PoolEdit::For(n) => {
            let mut allocation = Allocation {
                priority: u32::from(n % 2),
                ..Allocation::default()
            };
            match n / 2 {
                0 | 1 => {}
                2 => allocation.access.namespaces = vec!["default".to_owned()],
                _ => allocation.access.namespaces = vec!["other".to_owned()],
            }
            pool.allocation = Ok(allocation);
        }
        PoolEdit::Delete => pool.deleting = true,
        PoolEdit::Erase => {}
    }
}
