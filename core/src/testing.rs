//! Small constructors for tests, of this crate and of those that depend on it (feature `testing`).

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{BgpAdvertisement, Peer, PeerEndpoint, RawPool, RemoteAsn};
use crate::model::{
    Family, FamilyPolicy, Node, NodeName, Protocol, Service, ServiceKey, ServicePort, ServiceType, Slice,
    SliceEndpoint, SlicePort, TrafficPolicy, Wishes,
};

/// A pool with nothing but addresses.
pub fn pool(name: &str, addresses: &[&str]) -> RawPool {
    RawPool {
        name: name.to_owned(),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        ..RawPool::default()
    }
}

/// An eBGP peer for both families and all nodes, with nothing special about it.
pub fn bgp_peer(name: &str, endpoint: PeerEndpoint) -> Peer {
    Peer {
        name: name.to_owned(),
        my_asn: 64512,
        remote_asn: RemoteAsn::External,
        endpoint,
        port: 179,
        source_address: None,
        hold_time: Duration::from_secs(9),
        keepalive_time: Duration::from_secs(3),
        connect_retry_time: Duration::from_secs(5),
        ebgp_multihop: None,
        ttl_security: None,
        password_secret: None,
        bfd: None,
        graceful_restart: None,
        vrf: None,
        families: vec![Family::V4, Family::V6],
        nodes: Vec::new(),
        disabled: false,
    }
}

/// A BGP advertisement of everything to all peers, with no attributes.
pub fn bgp_advertisement(name: &str) -> BgpAdvertisement {
    BgpAdvertisement {
        name: name.to_owned(),
        pools: Vec::new(),
        nodes: Vec::new(),
        preferred: Vec::new(),
        services: Vec::new(),
        peers: Vec::new(),
        aggregation_v4: 32,
        aggregation_v6: 128,
        local_pref: None,
        med: None,
        prepend: 0,
        communities: BTreeSet::new(),
        large_communities: BTreeSet::new(),
    }
}

/// An EndpointSlice of the Service `default/<service>` with one endpoint, 10.0.0.1:8080/TCP. It is on this node, if any is
/// named, and ready (`r`), serving (`s`), terminating (`t`) as the flags say.
pub fn slice(service: &str, node: Option<&str>, flags: &str) -> Slice {
    Slice {
        service: ServiceKey::new("default", service),
        family: Family::V4,
        ports: vec![SlicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: vec![SliceEndpoint {
            address: "10.0.0.1".parse().unwrap(),
            node: node.map(NodeName::from),
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
            hints: None,
        }],
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
