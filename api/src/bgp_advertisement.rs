//! `BGPAdvertisement`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Says that addresses of some pools are announced by BGP, by which nodes, to which peers, and with which attributes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "BGPAdvertisement",
    plural = "bgpadvertisements",
    shortname = "flbgp",
    category = "fairlead",
    status = "BgpAdvertisementStatus",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.addressPools"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.preferredNodes) && self.preferredNodes.size() > 0) == (has(self.asPathPrepend) && self.asPathPrepend > 0)"
    )
        .message("preferredNodes and asPathPrepend need each other: which nodes prepend, and how often")
)]
pub struct BGPAdvertisementSpec {
    /// Names of the AddressPools whose addresses are announced. Empty: all pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::pool_names")]
    pub address_pools: Vec<String>,
    /// The nodes that may announce: those that match any of the selectors. Empty: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::few_selectors")]
    pub node_selectors: Vec<LabelSelector>,
    /// The nodes whose routes routers shall prefer: those that match any of the selectors. All others prepend as often as
    /// `asPathPrepend` says. Empty: no node is less preferred than others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::few_selectors")]
    pub preferred_nodes: Vec<LabelSelector>,
    /// The Services whose addresses are announced, by their labels: those that match any of the selectors. Of an address
    /// that several Services share one is enough. Empty: all Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::few_selectors")]
    pub service_selectors: Vec<LabelSelector>,
    /// Names of the BGPPeers that are told. Empty: all peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::peer_names")]
    pub peers: Vec<String>,
    /// Length of the IPv4 networks that addresses are gathered into: 1 to 32. A node announces the network instead of its
    /// addresses while it may announce all of those that are assigned. 32 if not set: each address by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::aggregation_v4")]
    pub aggregation_length: Option<i64>,
    /// The same for IPv6: 1 to 128. 128 if not set.
    #[serde(
        default,
        rename = "aggregationLengthV6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "crate::schema::aggregation_v6")]
    pub aggregation_length_v6: Option<i64>,
    /// LOCAL_PREF, told to peers of the same AS alone: the router takes the route with the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::unsigned_32")]
    pub local_pref: Option<i64>,
    /// MULTI_EXIT_DISC: of routes from the same AS the router takes the one with the lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::unsigned_32")]
    pub med: Option<i64>,
    /// How often nodes that are not preferred put their ASN in front of the path once more: 0 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::prepend")]
    pub as_path_prepend: Option<i64>,
    /// Communities: `65000:1` (RFC 1997), `large:65000:1:2` (RFC 8092), or one of `graceful-shutdown`, `no-export`,
    /// `no-advertise`, `no-export-subconfed`, `local-as`, `no-peer`, `blackhole`, `accept-own`, `llgr-stale`, `no-llgr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::communities")]
    pub communities: Vec<String>,
}

/// What the controller reports about an advertisement.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BgpAdvertisementStatus {
    /// `Accepted` says whether the advertisement is in use, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,
}
