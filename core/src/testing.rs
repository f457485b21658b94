//! Small constructors for tests, of this crate and of those that depend on it (feature `testing`).

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up panics")]

use std::collections::BTreeMap;

use crate::config::RawPool;
use crate::model::{
    Family, FamilyPolicy, Node, NodeName, Protocol, Service, ServiceKey, ServicePort, ServiceType,
    TrafficPolicy, Wishes,
};

/// A pool with nothing but addresses.
pub fn pool(name: &str, addresses: &[&str]) -> RawPool {
    RawPool {
        name: name.to_owned(),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        ..RawPool::default()
    }
}

/// A LoadBalancer Service `default/<name>` with port 80/TCP, policy Cluster, and no address.
pub fn service(name: &str) -> Service {
    Service {
        key: ServiceKey::new("default", name),
        uid: format!("uid-{name}"),
        created: 0,
        deleting: false,
        kind: ServiceType::LoadBalancer,
        class: None,
        labels: BTreeMap::new(),
        selector: [("app".to_owned(), name.to_owned())].into(),
        headless: false,
        families: vec![Family::V4],
        family_policy: FamilyPolicy::SingleStack,
        requested: None,
        wishes: Wishes::default(),
        metallb: Wishes::default(),
        external_wish: None,
        external_ips: vec![],
        external: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        }],
        policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        affinity: None,
        source_ranges: vec![],
        unread_ranges: vec![],
        ingress: vec![],
        foreign_ingress: false,
        assigned: None,
    }
}

/// A healthy node without labels.
pub fn node(name: &str, address: &str) -> Node {
    let address = address.parse().unwrap();
    Node {
        name: NodeName::from(name),
        uid: format!("uid-{name}"),
        labels: Default::default(),
        internal_ips: vec![address],
        addresses: vec![address],
        pod_cidrs: vec![],
        cordoned: false,
        deleting: false,
        excluded: false,
        autoscaler_taint: false,
        network_unavailable: false,
    }
}
