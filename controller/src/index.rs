//! What the controller knows of the cluster: one table a kind, filled by watches, read by the planner.

use fairlead_api::conditions;
use fairlead_api::pool::AddressPoolStatus;
use fairlead_api::{AddressPool, L2Advertisement, convert};
use fairlead_core::config::{RawAdvertisement, RawPool};
use fairlead_core::model::{Node, Service};
use fairlead_runtime::Table;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use crate::view::NodeView;

/// What every write needs to know of its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Precondition of writes.
    pub resource_version: String,
    /// UID, for events.
    pub uid: String,
    /// `metadata.generation`, where the kind has one.
    pub generation: Option<i64>,
}

impl From<&ObjectMeta> for Meta {
    fn from(meta: &ObjectMeta) -> Self {
        Self {
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation,
        }
    }
}

/// A Service, and of its status what the controller writes.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// What decisions are made from.
    pub service: Service,
    /// Metadata.
    pub meta: Meta,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<core_v1::LoadBalancerIngress>,
    /// `status.conditions`, of whatever type.
    pub conditions: Vec<Condition>,
}

impl ServiceEntry {
    /// From the object.
    pub fn new(object: &core_v1::Service) -> Option<Self> {
        let status = object.status.clone().unwrap_or_default();
        Some(Self {
            service: convert::service(object)?,
            meta: Meta::from(&object.metadata),
            ingress: status.load_balancer.and_then(|lb| lb.ingress).unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
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

/// All tables.
#[derive(Debug)]
pub struct Index {
    /// Services of all namespaces, types and classes.
    pub services: Table<ServiceEntry>,
    /// Address pools.
    pub pools: Table<PoolEntry>,
    /// Layer 2 advertisements.
    pub advertisements: Table<AdvertisementEntry>,
    /// Nodes.
    pub nodes: Table<Node>,
    /// What the speakers report.
    pub views: Table<NodeView>,
    /// The state ConfigMap alone: is the installation being removed?
    pub leaving: Table<bool>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::new("Service"),
            pools: Table::new("AddressPool"),
            advertisements: Table::new("L2Advertisement"),
            nodes: Table::new("Node"),
            views: Table::new("NodeState"),
            leaving: Table::new("ConfigMap"),
        }
    }
}

impl Index {
    /// Has every kind been listed once? Planning earlier would take what is not known for what is not there.
    pub fn listed(&self) -> bool {
        self.services.listed()
            && self.pools.listed()
            && self.advertisements.listed()
            && self.nodes.listed()
            && self.views.listed()
            && self.leaving.listed()
    }

    /// Is the installation being removed?
    pub fn is_leaving(&self) -> bool {
        self.leaving.values().any(|leaving| *leaving)
    }
}
