//! `L2Advertisement`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says that addresses of some pools are announced by ARP and neighbour discovery, by which nodes, and on which interfaces.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    shortname = "fll2",
    category = "fairlead",
    status = "L2AdvertisementStatus",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.addressPools"),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".spec.interfaces"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Names of the AddressPools whose addresses are announced. Empty: all pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::pool_names")]
    pub address_pools: Vec<String>,
    /// The nodes that may announce: those that match any of the selectors. Empty: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::selectors")]
    pub node_selectors: Vec<LabelSelector>,
    /// Which of these nodes come first. The weights of all entries that match a node are added up, and of the nodes that
    /// can announce an address one with the largest sum does. A node that becomes able to only later takes an address
    /// over from a lighter one as `preemptAfter` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::preferences")]
    pub preferred_node_selectors: Vec<NodePreference>,
    /// The Services whose addresses are announced, by their labels: those that match any of the selectors. Of an address
    /// that several Services share one is enough. Empty: all Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::few_selectors")]
    pub service_selectors: Vec<LabelSelector>,
    /// The interfaces to announce on: names (eth0), patterns with `*` and `?` (eth*, bond?.10), and with `!` in front those
    /// to leave out (!eth1, !veth*). Names and patterns choose whether the interface has a subnet with the address or not;
    /// without any of them it is the interfaces that have one, less those left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::interfaces")]
    pub interfaces: Vec<String>,
    /// How long a node must have been able to announce an address, without a break, before it takes it over from a node
    /// that is preferred less: 0s to 24h, or `Never`. 5m if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::preempt_after")]
    pub preempt_after: Option<String>,
    /// What to do when another machine uses an address that is announced: `Defend` goes on and claims it again, `Yield`
    /// stops announcing it.
    #[serde(default)]
    pub conflict_policy: ConflictPolicy,
}

/// Nodes that come before others.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct NodePreference {
    /// 1 to 100.
    pub weight: i32,
    /// Which nodes.
    pub preference: LabelSelector,
}

/// What to do when another machine uses an address that is announced.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Go on, and claim it again.
    #[default]
    Defend,
    /// Stop announcing it.
    Yield,
}

/// What the controller reports about an advertisement.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementStatus {
    /// `Accepted` says whether the advertisement is in use, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,
}
