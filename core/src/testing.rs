//! Small constructors for tests of this crate.

use crate::model::{
    Family, Node, NodeName, Protocol, Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy,
};

/// A LoadBalancer Service `default/<name>` with port 80/TCP, policy Cluster, and no address.
pub fn service(name: &str) -> Service {
    Service {
        key: ServiceKey::new("default", name),
        uid: format!("uid-{name}"),
        created: 0,
        deleting: false,
        kind: ServiceType::LoadBalancer,
        class: None,
        families: vec![Family::V4],
        requested: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        }],
        policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        client_ip_affinity: false,
        source_ranges: vec![],
        ingress: vec![],
        foreign_ingress: false,
        assigned: None,
    }
}

/// A healthy node without labels.
#[allow(dead_code, reason = "used by tests of several modules")]
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
