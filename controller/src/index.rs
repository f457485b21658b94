//! What the controller knows of the cluster: one table a kind, filled by watches, read by the planner.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_api::bgp_peer::BgpPeerStatus;
use fairlead_api::conditions;
use fairlead_api::pool::AddressPoolStatus;
use fairlead_api::{AddressPool, BGPAdvertisement, BGPPeer, L2Advertisement, convert};
use fairlead_core::config::{RawAdvertisement, RawBgpAdvertisement, RawPeer, RawPool};
use fairlead_core::model::{Node, Service};
use fairlead_runtime::Table;
use fairlead_runtime::leaving::is_leaving;
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use crate::view::NodeView;

/// Key of the state ConfigMap under which the addresses of all pools are published, for admission policies.
pub const POOL_CIDRS: &str = "poolCIDRs";

/// What every write needs to know of its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Precondition of writes.
    pub resource_version: String,
    /// UID, for events.
    pub uid: String,
    /// `metadata.generation`, where the kind has one.
    pub generation: Option<i64>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
}

impl From<&ObjectMeta> for Meta {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation,
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }
}

/// A Service, and of it what the controller writes.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// What decisions are made from.
    pub service: Arc<Service>,
    /// Metadata.
    pub meta: Meta,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<core_v1::LoadBalancerIngress>,
    /// `status.conditions`, of whatever type.
    pub conditions: Vec<Condition>,
    /// `spec.externalIPs`, as written.
    pub external_ips: Vec<String>,
    /// The annotation that records external IPs, as written.
    pub external_record: Option<String>,
}

impl ServiceEntry {
    /// From the object.
    pub fn new(object: &core_v1::Service) -> Option<Self> {
        let status = object.status.clone().unwrap_or_default();
        let annotations = object.metadata.annotations.as_ref();
        Some(Self {
            service: Arc::new(convert::service(object)?),
            meta: Meta::from(&object.metadata),
            ingress: status.load_balancer.and_then(|lb| lb.ingress).unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
            external_ips: object
                .spec
                .as_ref()
                .and_then(|spec| spec.external_ips.clone())
                .unwrap_or_default(),
            external_record: annotations
                .and_then(|all| all.get(fairlead_api::annotations::EXTERNAL_RECORD))
                .cloned(),
        })
    }

    /// One of its conditions.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Does the status carry anything that only the controller writes?
    pub fn carries_ours(&self) -> bool {
        [conditions::ASSIGNED, conditions::ANNOUNCED]
            .iter()
            .any(|type_| self.condition(type_).is_some())
    }
}

/// An `AddressPool` with its status.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolEntry {
    /// What the user wrote.
    pub raw: RawPool,
    /// Metadata.
    pub meta: Meta,
    /// What was reported last.
    pub status: AddressPoolStatus,
}

impl PoolEntry {
    /// From the object.
    pub fn new(object: &AddressPool) -> Option<Self> {
        Some(Self {
            raw: convert::pool(object)?,
            meta: Meta::from(&object.metadata),
            status: object.status.clone().unwrap_or_default(),
        })
    }
}

/// An `L2Advertisement` with its status.
#[derive(Clone, Debug, PartialEq)]
pub struct AdvertisementEntry {
    /// What the user wrote.
    pub raw: RawAdvertisement,
    /// Metadata.
    pub meta: Meta,
    /// What was reported last.
    pub conditions: Vec<Condition>,
}

impl AdvertisementEntry {
    /// From the object.
    pub fn new(object: &L2Advertisement) -> Option<Self> {
        Some(Self {
            raw: convert::advertisement(object)?,
            meta: Meta::from(&object.metadata),
            conditions: object.status.clone().unwrap_or_default().conditions,
        })
    }
}

/// A `BGPPeer` with its status.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerEntry {
    /// What the user wrote.
    pub raw: RawPeer,
    /// Metadata.
    pub meta: Meta,
    /// What was reported last.
    pub status: BgpPeerStatus,
}

impl PeerEntry {
    /// From the object.
    pub fn new(object: &BGPPeer) -> Option<Self> {
        Some(Self {
            raw: convert::peer(object)?,
            meta: Meta::from(&object.metadata),
            status: object.status.clone().unwrap_or_default(),
        })
    }
}

/// A `BGPAdvertisement` with its status.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpAdvertisementEntry {
    /// What the user wrote.
    pub raw: RawBgpAdvertisement,
    /// Metadata.
    pub meta: Meta,
    /// What was reported last.
    pub conditions: Vec<Condition>,
}

impl BgpAdvertisementEntry {
    /// From the object.
    pub fn new(object: &BGPAdvertisement) -> Option<Self> {
        Some(Self {
            raw: convert::bgp_advertisement(object)?,
            meta: Meta::from(&object.metadata),
            conditions: object.status.clone().unwrap_or_default().conditions,
        })
    }
}

/// The state ConfigMap.
#[derive(Clone, Debug, PartialEq)]
pub struct StateEntry {
    /// Metadata.
    pub meta: Meta,
    /// The installation is being removed.
    pub leaving: bool,
    /// The published addresses of all pools.
    pub pool_cidrs: Option<String>,
}

impl StateEntry {
    /// From the object.
    pub fn new(object: &core_v1::ConfigMap) -> Option<Self> {
        let data = object.data.as_ref();
        Some(Self {
            meta: Meta::from(&object.metadata),
            leaving: is_leaving(object),
            pool_cidrs: data.and_then(|data| data.get(POOL_CIDRS)).cloned(),
        })
    }
}

/// The ranges of a `ServiceCIDR`.
pub fn service_cidrs(object: &ServiceCIDR) -> Option<Vec<IpNet>> {
    let texts = object.spec.as_ref()?.cidrs.iter().flatten();
    Some(texts.filter_map(|text| text.parse().ok()).collect())
}

/// The labels of a Namespace.
pub fn namespace_labels(object: &core_v1::Namespace) -> Option<BTreeMap<String, String>> {
    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    // The API server sets it, but not on namespaces older than itself.
    labels
        .entry("kubernetes.io/metadata.name".to_owned())
        .or_insert_with(|| object.metadata.name.clone().unwrap_or_default());
    Some(labels)
}

/// All tables.
#[derive(Debug)]
pub struct Index {
    /// Services of all namespaces, types and classes.
    pub services: Table<ServiceEntry>,
    /// Address pools.
    pub pools: Table<PoolEntry>,
    /// Layer 2 advertisements.
    pub advertisements: Table<AdvertisementEntry>,
    /// BGP peers.
    pub peers: Table<PeerEntry>,
    /// BGP advertisements.
    pub bgp_advertisements: Table<BgpAdvertisementEntry>,
    /// Nodes.
    pub nodes: Table<Node>,
    /// Labels of namespaces.
    pub namespaces: Table<BTreeMap<String, String>>,
    /// Ranges of cluster IPs.
    pub service_cidrs: Table<Vec<IpNet>>,
    /// What the speakers report.
    pub views: Table<NodeView>,
    /// The state ConfigMap alone.
    pub state: Table<StateEntry>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::tracked("Service"),
            pools: Table::tracked("AddressPool"),
            advertisements: Table::tracked("L2Advertisement"),
            peers: Table::tracked("BGPPeer"),
            bgp_advertisements: Table::tracked("BGPAdvertisement"),
            nodes: Table::tracked("Node"),
            namespaces: Table::tracked("Namespace"),
            service_cidrs: Table::tracked("ServiceCIDR"),
            views: Table::tracked("NodeState"),
            state: Table::tracked("ConfigMap"),
        }
    }
}

impl Index {
    /// Has every kind been listed once? Planning earlier would take what is not known for what is not there.
    pub fn listed(&self) -> bool {
        self.services.listed()
            && self.pools.listed()
            && self.advertisements.listed()
            && self.peers.listed()
            && self.bgp_advertisements.listed()
            && self.nodes.listed()
            && self.namespaces.listed()
            && self.service_cidrs.listed()
            && self.views.listed()
            && self.state.listed()
    }

    /// Nobody wants to know what has changed so far.
    pub fn forget_changes(&mut self) {
        // Named one by one, so that none is left out when there is another one.
        let Self {
            services,
            pools,
            advertisements,
            peers,
            bgp_advertisements,
            nodes,
            namespaces,
            service_cidrs,
            views,
            state,
        } = self;
        services.changes();
        pools.changes();
        advertisements.changes();
        peers.changes();
        bgp_advertisements.changes();
        nodes.changes();
        namespaces.changes();
        service_cidrs.changes();
        views.changes();
        state.changes();
    }

    /// Is the installation being removed?
    pub fn is_leaving(&self) -> bool {
        self.state.values().any(|state| state.leaving)
    }
}
