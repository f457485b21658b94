//! Services, endpoints and nodes in few words, and the plan made of them.

use std::net::IpAddr;

use fairlead_core::config::{RawPool, Written, compile};
use fairlead_core::forward::{Forwarding, Local, Snapshot, plan};
use fairlead_core::model::{
    AssignedRecord, ExternalAddress, ExternalRecord, Family, Node, NodeName, Protocol, Service, ServiceKey,
    ServicePort, ServiceType, Slice, SliceEndpoint, SlicePort, TrafficPolicy, Wishes,
};
use fairlead_core::ownership::ClassPolicy;

/// Our bit of the conntrack mark in tests.
pub const MARK: u32 = 0x0020_0000;

/// Everything that a plan is made from.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub services: Vec<Service>,
    pub slices: Vec<Slice>,
    pub node: Node,
    /// What is particular to the node; `None` for what the Node object says.
    pub local: Option<Local>,
}

impl Cluster {
    /// Node `node1` with its pods in 10.0.1.0/24.
    pub fn new() -> Self {
        let address: IpAddr = "172.30.0.11".parse().unwrap();
        let node = Node {
            name: NodeName::from("node1"),
            uid: "node1".into(),
            labels: Default::default(),
            internal_ips: vec![address, "fd00:30::11".parse().unwrap()],
            addresses: vec![address],
            pod_cidrs: vec!["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            cordoned: false,
            deleting: false,
            excluded: false,
            autoscaler_taint: false,
            network_unavailable: false,
        };
        Self {
            services: vec![],
            slices: vec![],
            node,
            local: None,
        }
    }

    /// Adds a Service with its endpoints, written `address@node` or `address@node!` for one that is not ready.
    pub fn with(mut self, service: Service, endpoints: &[&str]) -> Self {
        self.slices.extend(slices(&service, endpoints));
        self.services.push(service);
        self
    }

    pub fn plan(&self) -> Forwarding {
        let pool = RawPool {
            name: "p".into(),
            addresses: vec!["192.0.2.0/24".into(), "2001:db8::/64".into()],
            ..RawPool::default()
        };
        let services: Vec<&Service> = self.services.iter().collect();
        let slices: Vec<&Slice> = self.slices.iter().collect();
        let snapshot = Snapshot {
            services: &services,
            slices: &slices,
            config: &compile(&Written::new(&[pool], &[])).config,
            class: ClassPolicy {
                serve_classless: true,
                metallb: false,
            },
            node: Some(&self.node),
            local: &self.local.clone().unwrap_or_else(|| Local::of(Some(&self.node))),
        };
        plan(&snapshot, &self.node.name)
    }
}

/// A Service `default/<name>` at the VIPs with the ports, written `80/tcp` or `80/tcp@30080` with a node port.
pub fn service(name: &str, policy: TrafficPolicy, vips: &[&str], ports: &[&str]) -> Service {
    let addresses: Vec<(IpAddr, String)> = vips
        .iter()
        .map(|vip| (vip.parse().unwrap(), "p".to_owned()))
        .collect();
    Service {
        key: ServiceKey::new("default", name),
        uid: name.into(),
        families: vec![Family::V4, Family::V6],
        ports: ports.iter().map(|text| port(text)).collect(),
        policy,
        ingress: addresses.iter().map(|(address, _)| *address).collect(),
        assigned: Some(AssignedRecord { addresses, since: 1 }),
        ..fairlead_core::testing::service(name)
    }
}

/// The same Service, which now asks to share its address.
pub fn sharing(service: Service) -> Service {
    Service {
        wishes: Wishes {
            sharing_key: Some("key".into()),
            ..Wishes::default()
        },
        ..service
    }
}

/// A Service of type ClusterIP with external IPs, of which the controller has recorded the first.
pub fn external(name: &str, policy: TrafficPolicy, addresses: &[&str], ports: &[&str]) -> Service {
    let external_ips: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Service {
        kind: ServiceType::ClusterIp,
        ingress: vec![],
        assigned: None,
        external: Some(ExternalRecord {
            addresses: vec![ExternalAddress {
                address: external_ips[0],
                pool: "p".into(),
                adopted: false,
            }],
            since: 1,
        }),
        external_ips,
        ..service(name, policy, &[], ports)
    }
}

fn port(text: &str) -> ServicePort {
    let (port, node_port) = text
        .split_once('@')
        .map_or((text, None), |(port, node)| (port, Some(node.parse().unwrap())));
    let (number, protocol) = port.split_once('/').unwrap();
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => panic!("unknown protocol {other}"),
    };
    ServicePort {
        name: text.to_owned(),
        protocol,
        port: number.parse().unwrap(),
        node_port,
    }
}

/// One slice for each family; every port of the Service is answered at 8080.
pub fn slices(service: &Service, endpoints: &[&str]) -> Vec<Slice> {
    let endpoints: Vec<SliceEndpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
    let of = |family| Slice {
        service: service.key.clone(),
        family,
        ports: service
            .ports
            .iter()
            .map(|port| SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: 8080,
            })
            .collect(),
        endpoints: endpoints
            .iter()
            .filter(|e| Family::of(e.address) == family)
            .cloned()
            .collect(),
    };
    vec![of(Family::V4), of(Family::V6)]
}

fn endpoint(text: &str) -> SliceEndpoint {
    let (address, node) = text.split_once('@').unwrap();
    let ready = !node.ends_with('!');
    SliceEndpoint {
        address: address.parse().unwrap(),
        node: Some(NodeName::from(node.trim_end_matches('!'))),
        ready,
        serving: ready,
        terminating: false,
        hints: None,
    }
}
