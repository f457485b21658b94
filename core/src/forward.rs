//! What a packet to an address of ours gets on this node: the endpoints of each Service port, the policy, and the kind
//! of refusal where there is nothing to forward to.
//!
//! Every node serves every owned address, whichever node announces it: pods and processes of a node reach a VIP without
//! leaving the node first. The outcome for one packet is [`Backend::outcome`]; its rules are those of kube-proxy.

pub mod node_ports;
pub mod pods;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use self::node_ports::NodePortAddresses;
use self::pods::{PodSources, Pods};
use crate::config::Config;
use crate::endpoints::{Endpoint, Endpoints, Here};
use crate::model::{
    Family, Node, NodeName, Protocol, Service, ServiceKey, ServicePort, Slice, TrafficPolicy,
};
use crate::ownership::{ClassPolicy, Place, resolve};
use crate::reason::{Reason, Refusal};

/// Everything the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// All Services.
    pub services: &'a [&'a Service],
    /// All EndpointSlices.
    pub slices: &'a [&'a Slice],
    /// The checked configuration; only its pools matter here.
    pub config: &'a Config,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// The Node object of this node. Without it there are no node ports and no pods to tell from outsiders, but VIPs
    /// are served all the same.
    pub node: Option<&'a Node>,
    /// What the node itself says about its addresses and interfaces.
    pub local: &'a Local,
}

/// What is particular to the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// What tells a pod of this node.
    pub pods: Pods,
    /// The addresses that serve node ports.
    pub node_ports: Vec<IpAddr>,
}

impl Local {
    /// What follows from the Node object alone.
    pub fn of(node: Option<&Node>) -> Self {
        Self {
            pods: pods::pods(&PodSources::Cidrs, node, &[], &[]),
            node_ports: node
                .map(|node| NodePortAddresses::Internal.of(node, &[]))
                .unwrap_or_default(),
        }
    }
}

/// One port of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The Service.
    pub service: ServiceKey,
    /// The family of its addresses and endpoints.
    pub family: Family,
    /// Protocol.
    pub protocol: Protocol,
    /// `spec.ports[].port`, which with the protocol is unique in a Service.
    pub port: u16,
}

/// Where new flows to a Service port go from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `spec.externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// Flows of one client address go to one endpoint until none has begun for so many seconds.
    pub affinity: Option<u32>,
    /// Usable endpoints anywhere, sorted.
    pub cluster: Vec<SocketAddr>,
    /// Usable endpoints on this node, sorted. Not a subset of `cluster`: see [`crate::endpoints`].
    pub local: Vec<SocketAddr>,
    /// UDP only: endpoints beyond these that still serve. They get no new flows, and keep those they have; there is no
    /// other sign of when a flow ends.
    pub lasting: Vec<SocketAddr>,
}

/// Where a packet comes from, as far as the policy cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Anything but the two below: clients outside the cluster, other nodes.
    Outside,
    /// A pod of this node.
    Pod,
    /// The node itself.
    Node,
}

/// What happens to the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// No endpoint anywhere: a TCP reset, or ICMP port unreachable.
    Reject,
    /// Policy Local without an endpoint on this node: another node is the right one, so the client hears nothing.
    Drop,
    /// To one of the endpoints.
    Forward {
        /// Never empty.
        endpoints: &'a [SocketAddr],
        /// The source becomes an address of this node, so that answers come back through it.
        masquerade: bool,
    },
}

impl Backend {
    /// One without endpoints.
    pub fn new(policy: TrafficPolicy) -> Self {
        Self {
            policy,
            affinity: None,
            cluster: Vec::new(),
            local: Vec::new(),
            lasting: Vec::new(),
        }
    }

    /// The decision for one packet that passed the source ranges.
    pub fn outcome(&self, source: Source) -> Outcome<'_> {
        let forward = |endpoints, masquerade| Outcome::Forward {
            endpoints,
            masquerade,
        };
        match (self.policy, source) {
            // A local endpoint implies one anywhere, except that Local falls back to terminating ones by itself.
            (TrafficPolicy::Local, Source::Outside) if !self.local.is_empty() => forward(&self.local, false),
            _ if self.cluster.is_empty() => Outcome::Reject,
            (TrafficPolicy::Cluster, _) => forward(&self.cluster, true),
            (TrafficPolicy::Local, Source::Outside) => Outcome::Drop,
            // Traffic from inside the cluster always has Cluster semantics.
            (TrafficPolicy::Local, Source::Pod) => forward(&self.cluster, false),
            (TrafficPolicy::Local, Source::Node) => forward(&self.cluster, true),
        }
    }
}

/// What a packet is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// A VIP, or an address of this node.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port: the Service port on a VIP, the node port on a node address.
    pub port: u16,
}

/// What serves a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Key into [`Forwarding::backends`].
    pub backend: BackendKey,
    /// Sources that may use this destination, of its family, aggregated; empty means all. They guard the addresses of
    /// a load balancer only: external IPs and node ports have none.
    pub source_ranges: Vec<IpNet>,
}

/// The whole plan for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The addresses that are served, external IPs included, each with the Services that share it.
    pub addresses: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Every served destination: VIP ports, and node ports on this node's InternalIPs.
    pub destinations: BTreeMap<Destination, Target>,
    /// The Service ports behind the destinations.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// What tells a pod of this node.
    pub pods: Pods,
    /// The destinations of each served Service, in the order of the table above. An address that another Service has
    /// at the same protocol and port is not among them.
    pub services: BTreeMap<ServiceKey, Vec<Destination>>,
    /// The addresses of this node that serve node ports.
    pub node_ports: Vec<IpAddr>,
    /// This node's InternalIPs, in order; the first one of a family answers pings to VIPs.
    pub node_addresses: Vec<IpAddr>,
    /// Ready endpoints on this node of each served Service of policy Local. A terminating one is none, although it may
    /// still be served: the node is to get no new clients (KEP-1669).
    pub local_ready: BTreeMap<(ServiceKey, Family), usize>,
    /// Owned addresses that cannot be served on this node, with the reason.
    pub refused: Vec<(ServiceKey, IpAddr, Refusal)>,
}

impl Forwarding {
    /// Do both plans treat packets to this VIP alike?
    pub fn same_for(&self, other: &Self, vip: IpAddr) -> bool {
        self.addresses.get(&vip) == other.addresses.get(&vip)
            && self.pods == other.pods
            && self.of(vip).eq(other.of(vip))
    }

    /// The ports of one Service, in both families.
    pub fn backends_of(&self, service: &ServiceKey) -> impl Iterator<Item = &Backend> {
        let at = |family, protocol, port| BackendKey {
            service: service.clone(),
            family,
            protocol,
            port,
        };
        self.backends
            .range(at(Family::V4, Protocol::Tcp, 0)..=at(Family::V6, Protocol::Sctp, u16::MAX))
            .map(|(_, backend)| backend)
    }

    /// Plans one Service anew whose endpoints changed, and nothing else of it. Answers whether that makes a difference.
    pub fn refresh(&mut self, service: &Service, slices: &[&Slice], here: Here<'_>) -> bool {
        let mut changed = false;
        for family in [Family::V4, Family::V6] {
            let endpoints = Endpoints::join(slices.iter().copied(), family);
            if let Some(known) = self.local_ready.get_mut(&(service.key.clone(), family)) {
                let ready = endpoints.ready_on(here.node);
                changed |= std::mem::replace(known, ready) != ready;
            }
            for port in &service.ports {
                let key = BackendKey {
                    service: service.key.clone(),
                    family,
                    protocol: port.protocol,
                    port: port.port,
                };
                if let Some(known) = self.backends.get_mut(&key) {
                    let backend = backend(service, port, &endpoints, here);
                    changed |= *known != backend;
                    *known = backend;
                }
            }
        }
        changed
    }

    /// Goes on serving an address as `before` does, where nothing else is served: it is still announced.
    pub fn keep(&mut self, before: &Self, vip: IpAddr) {
        let Some(services) = before.addresses.get(&vip) else {
            return;
        };
        self.addresses.entry(vip).or_insert_with(|| services.clone());
        for (destination, target, backend) in before.of(vip) {
            let (Some(backend), Entry::Vacant(place)) = (backend, self.destinations.entry(*destination))
            else {
                continue;
            };
            place.insert(target.clone());
            let service = &target.backend.service;
            self.services
                .entry(service.clone())
                .or_default()
                .push(*destination);
            let known = self.backends.entry(target.backend.clone());
            known.or_insert_with(|| backend.clone());
        }
    }

    fn of(&self, vip: IpAddr) -> impl Iterator<Item = (&Destination, &Target, Option<&Backend>)> {
        let at = |protocol, port| Destination {
            address: vip,
            protocol,
            port,
        };
        self.destinations
            .range(at(Protocol::Tcp, 0)..=at(Protocol::Sctp, u16::MAX))
            .map(|(destination, target)| (destination, target, self.backends.get(&target.backend)))
    }
}

/// Plans the forwarding of the node `me`.
pub fn plan(snapshot: &Snapshot<'_>, me: &NodeName) -> Forwarding {
    let mut plan = Forwarding {
        pods: snapshot.local.pods.clone(),
        node_ports: snapshot.local.node_ports.clone(),
        node_addresses: snapshot.node.map(|n| n.internal_ips.clone()).unwrap_or_default(),
        ..Forwarding::default()
    };
    let here = Here {
        node: me,
        zone: snapshot.node.and_then(Node::zone),
    };
    let ownership = resolve(snapshot.services.iter().copied(), snapshot.config, snapshot.class);
    let mut served: BTreeMap<&ServiceKey, (&Service, Vec<Vip>)> = BTreeMap::new();
    for (&address, owner) in &ownership.owners {
        if snapshot
            .node
            .is_some_and(|node| node.addresses.contains(&address))
        {
            // Serving it would refuse every other port of the node, the kubelet's and SSH's among them.
            let message = format!("{address} is an address of node {me}");
            let refusal = Refusal::new(Reason::AddressReserved, message);
            let refused = owner.services.iter();
            plan.refused
                .extend(refused.map(|(service, _)| (service.key.clone(), address, refusal.clone())));
            continue;
        }
        for &(service, place) in &owner.services {
            plan.addresses
                .entry(address)
                .or_default()
                .insert(service.key.clone());
            let (_, vips) = served
                .entry(&service.key)
                .or_insert_with(|| (service, Vec::new()));
            vips.push((address, place));
        }
    }
    let mut slices: BTreeMap<&ServiceKey, Vec<&Slice>> = BTreeMap::new();
    for slice in snapshot.slices.iter().filter(|s| served.contains_key(&s.service)) {
        slices.entry(&slice.service).or_default().push(slice);
    }
    for (key, (service, vips)) in served {
        let slices = slices.get(key).map_or(&[][..], Vec::as_slice);
        for family in [Family::V4, Family::V6] {
            let of_family = |(address, _): &Vip| Family::of(*address) == family;
            let vips: Vec<Vip> = vips.iter().copied().filter(of_family).collect();
            if !vips.is_empty() {
                let endpoints = Endpoints::join(slices.iter().copied(), family);
                plan_service(&mut plan, service, family, &vips, &endpoints, here);
            }
        }
    }
    plan
}

/// An address that one Service is served at, and where in the Service it stands.
type Vip = (IpAddr, Place);

fn plan_service(
    plan: &mut Forwarding,
    service: &Service,
    family: Family,
    vips: &[Vip],
    endpoints: &Endpoints,
    here: Here<'_>,
) {
    if service.policy == TrafficPolicy::Local {
        let ready = endpoints.ready_on(here.node);
        plan.local_ready.insert((service.key.clone(), family), ready);
    }
    let ranges = source_ranges(&service.source_ranges, family);
    // The source ranges of a Service are for its load balancer only, never for external IPs and node ports.
    let ranges_at = |place| match place {
        Place::Ingress => ranges.clone(),
        Place::External => vec![],
    };
    let node_addresses: Vec<IpAddr> = plan
        .node_ports
        .iter()
        .copied()
        .filter(|a| Family::of(*a) == family)
        .collect();
    for port in &service.ports {
        let key = BackendKey {
            service: service.key.clone(),
            family,
            protocol: port.protocol,
            port: port.port,
        };
        if plan.backends.contains_key(&key) {
            continue; // the API allows no second port of the same number and protocol
        }
        plan.backends
            .insert(key.clone(), backend(service, port, endpoints, here));
        let on_vips = vips
            .iter()
            .map(|(vip, place)| (*vip, port.port, ranges_at(*place)));
        let on_node = node_addresses
            .iter()
            .filter_map(|address| Some((*address, port.node_port?, vec![])));
        for (address, number, source_ranges) in on_vips.chain(on_node) {
            let destination = Destination {
                address,
                protocol: port.protocol,
                port: number,
            };
            let target = Target {
                backend: key.clone(),
                source_ranges,
            };
            if let Entry::Vacant(place) = plan.destinations.entry(destination) {
                place.insert(target);
                let known = plan.services.entry(service.key.clone()).or_default();
                known.push(destination);
            }
        }
    }
}

fn backend(service: &Service, port: &ServicePort, endpoints: &Endpoints, here: Here<'_>) -> Backend {
    let addresses = |list: Vec<&Endpoint>| -> Vec<SocketAddr> {
        let unique: BTreeSet<SocketAddr> = list
            .into_iter()
            .map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port))
            .collect();
        unique.into_iter().collect()
    };
    let mut backend = Backend {
        policy: service.policy,
        affinity: service.affinity,
        cluster: addresses(endpoints.cluster(port, here)),
        local: match service.policy {
            TrafficPolicy::Cluster => Vec::new(),
            TrafficPolicy::Local => addresses(endpoints.local(port, here.node)),
        },
        lasting: Vec::new(),
    };
    if port.protocol == Protocol::Udp {
        backend.lasting = addresses(endpoints.serving(port));
        let chosen = [&backend.cluster, &backend.local]; // sorted
        backend
            .lasting
            .retain(|endpoint| chosen.iter().all(|list| list.binary_search(endpoint).is_err()));
    }
    backend
}

/// The ranges of one family; a family of which none is listed is open, as with kube-proxy.
fn source_ranges(all: &[IpNet], family: Family) -> Vec<IpNet> {
    let ours: Vec<IpNet> = all
        .iter()
        .filter(|range| Family::of(range.addr()) == family)
        .map(IpNet::trunc)
        .collect();
    if ours.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    IpNet::aggregate(&ours)
}

#[cfg(test)]
mod tests;
