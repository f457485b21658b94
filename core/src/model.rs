//! The vocabulary: Kubernetes objects reduced to what decisions are made from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service inside its namespace.
    pub name: String,
}

impl ServiceKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// What its [`Display`](fmt::Display) says, read back.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self::new(namespace, name))
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name of a Node object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All that Services have.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its number in IP headers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of this number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// Lower-case name, as nftables writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reachable inside the cluster only.
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on an external address.
    LoadBalancer,
    /// A DNS alias; no proxying.
    ExternalName,
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster; the client address is masqueraded.
    Cluster,
    /// Endpoints of the receiving node only; the client address is kept.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty for a single unnamed port. EndpointSlice ports are matched by it.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// The port on the ClusterIP and on external addresses.
    pub port: u16,
    /// The port on every node; absent when none was allocated.
    pub node_port: Option<u16>,
}

/// The controller's own record of an assignment: the condition `fairlead.dev/Assigned` when it is `True`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedRecord {
    /// Addresses with the pool each came from, in the order of `ingress`.
    pub addresses: Vec<(IpAddr, String)>,
    /// When the condition became true, in seconds of Unix time (the condition's `lastTransitionTime`).
    pub since: i64,
}

impl AssignedRecord {
    /// Does the record name this address?
    pub fn names(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(assigned, _)| *assigned == address)
    }
}

/// What the user asks of the controller in annotations of the Service; the texts are the user's, unparsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Addresses, comma-separated.
    pub addresses: Option<String>,
    /// Names of pools, comma-separated, in order of preference.
    pub pools: Option<String>,
    /// Services with the same key may share an address.
    pub sharing_key: Option<String>,
}

impl Wishes {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_none() && self.pools.is_none() && self.sharing_key.is_none()
    }
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One family.
    #[default]
    SingleStack,
    /// Two families if the cluster has them; one address is better than none.
    PreferDualStack,
    /// Two families, both or none.
    RequireDualStack,
}

/// One of the addresses in `spec.externalIPs` that the controller answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAddress {
    /// The address.
    pub address: IpAddr,
    /// The pool that it is from.
    pub pool: String,
    /// Written by the user and taken over by the controller, which therefore never takes it out of the spec.
    pub adopted: bool,
}

/// The controller's own record of external IPs: an annotation that nobody else may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRecord {
    /// The addresses, in the order of `spec.externalIPs`.
    pub addresses: Vec<ExternalAddress>,
    /// When the record got its present addresses, in seconds of Unix time.
    pub since: i64,
}

/// How long `sessionAffinity: ClientIP` may remember a client, in seconds.
pub const AFFINITY_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;
/// How long it does if the Service does not say, in seconds.
pub const AFFINITY_DEFAULT: u32 = 10_800;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// UID, the tie-break between two Services that hold one address.
    pub uid: String,
    /// Creation time in seconds of Unix time; who came first is served first.
    pub created: i64,
    /// Being deleted (`deletionTimestamp` is set).
    pub deleting: bool,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// Labels, for the selectors of pools.
    pub labels: BTreeMap<String, String>,
    /// `spec.selector`; Services with the same one in the same namespace have the same backends.
    pub selector: BTreeMap<String, String>,
    /// `spec.clusterIP: None`: nothing is forwarded for it.
    pub headless: bool,
    /// `spec.ipFamilies`, in order.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// `spec.loadBalancerIP`, unparsed: it is the user's text.
    pub requested: Option<String>,
    /// What our annotations ask for.
    pub wishes: Wishes,
    /// What MetalLB's annotations ask for.
    pub metallb: Wishes,
    /// Annotation `fairlead.dev/external-ips`, unparsed: pools or addresses.
    pub external_wish: Option<String>,
    /// `spec.externalIPs`, those that can be read.
    pub external_ips: Vec<IpAddr>,
    /// What the controller recorded of them.
    pub external: Option<ExternalRecord>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, present under `Local` on type LoadBalancer only.
    pub health_check_node_port: Option<u16>,
    /// `spec.sessionAffinity: ClientIP`: for how many seconds after its last new flow a client is remembered, within
    /// [`AFFINITY_SECONDS`]. `None` without affinity.
    pub affinity: Option<u32>,
    /// Who may use the load balancer: `spec.loadBalancerSourceRanges`, or the annotation if the field is empty. A
    /// family of which no range is listed is open to everybody. A text that cannot be read must open nothing: a
    /// family that has no other range then has one that nobody is in.
    pub source_ranges: Vec<IpNet>,
    /// The texts among the source ranges that cannot be read.
    pub unread_ranges: Vec<String>,
    /// Addresses in `status.loadBalancer.ingress` whose mode is VIP (or unset).
    pub ingress: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` has entries that are not an address in VIP mode (a hostname, mode Proxy).
    pub foreign_ingress: bool,
    /// What the controller recorded as assigned.
    pub assigned: Option<AssignedRecord>,
}

impl Service {
    /// Does the record of load balancer addresses name this one?
    pub fn records(&self, address: IpAddr) -> bool {
        let record = self.assigned.as_ref();
        record.is_some_and(|record| record.names(address))
    }

    /// What the record of external IPs says of an address.
    pub fn recorded_external(&self, address: IpAddr) -> Option<&ExternalAddress> {
        let mut recorded = self.external.iter().flat_map(|record| &record.addresses);
        recorded.find(|external| external.address == address)
    }
}

/// For which nodes and zones an endpoint is meant: what `trafficDistribution` and topology-aware routing come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// `hints.forNodes`.
    pub nodes: Vec<NodeName>,
    /// `hints.forZones`.
    pub zones: Vec<String>,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// Name, matched with the Service port's.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the endpoint. Entries with no port or port 0 are not kept.
    pub port: u16,
}

/// One endpoint of an EndpointSlice, its conditions with their defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses[0]`, the only one with meaning.
    pub address: IpAddr,
    /// The node it runs on; absent means local to no node.
    pub node: Option<NodeName>,
    /// `conditions.ready` (nil means true).
    pub ready: bool,
    /// `conditions.serving` (nil means true).
    pub serving: bool,
    /// `conditions.terminating` (nil means false).
    pub terminating: bool,
    /// `hints`; absent when there are none.
    pub hints: Option<Arc<Hints>>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ServiceKey,
    /// Its address type.
    pub family: Family,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// UID of the Node object.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// All its addresses, of whatever type; none is ever given to a Service.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Cordoned (`spec.unschedulable`).
    pub cordoned: bool,
    /// `deletionTimestamp` is set.
    pub deleting: bool,
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers` true or not a boolean (KEP-3458).
    pub excluded: bool,
    /// Taint `ToBeDeletedByClusterAutoscaler`.
    pub autoscaler_taint: bool,
    /// Condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
}

/// Label of a Node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl Node {
    /// The zone that it is in, if it says so.
    pub fn zone(&self) -> Option<&str> {
        let zone = self.labels.get(ZONE_LABEL)?;
        Some(zone.as_str()).filter(|zone| !zone.is_empty())
    }
}
