//! `AddressPool`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses that the controller may give to Services.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    plural = "addresspools",
    shortname = "flpool",
    category = "fairlead",
    status = "AddressPoolStatus",
    validation = Rule::new("!isIP(self.metadata.name)")
        .message("a pool must not be named like an address: annotations of Services name either"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(
        name = "Auto",
        type_ = "boolean",
        json_path = ".spec.autoAssign",
        priority = 1
    ),
    printcolumn(name = "IPv4", type_ = "string", json_path = ".status.ipv4.usage"),
    printcolumn(name = "IPv6", type_ = "string", json_path = ".status.ipv6.usage"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// Addresses of the pool: CIDRs (192.0.2.0/24), ranges (192.0.2.10-192.0.2.20) or single addresses, IPv4 or IPv6.
    /// No two pools may share an address: of two that overlap the older one is used.
    #[x_kube(validation = Rule::new("self.size() > 0").message("at least one address is needed"))]
    #[schemars(schema_with = "crate::schema::addresses")]
    pub addresses: Vec<String>,
    /// Services that name neither a pool nor an address may get an address of this pool.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Never give away IPv4 addresses that end in .0 or .255, which some old network equipment takes for network and
    /// broadcast addresses.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Addresses that are never given away, written like `addresses`: those of routers and other machines in the range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::addresses")]
    pub reserved: Vec<String>,
    /// For whom the pool is, and its place among the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<PoolAllocation>,
    /// Whether Services may have addresses of this pool as external IPs. Denied to all by default.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    pub external_ips: Option<PoolExternalIps>,
    /// What becomes of addresses that Services have when they leave the pool, or the pool is deleted: `Keep` lets the
    /// Services keep them, `Reassign` gives the Services others as soon as there are any.
    #[serde(default)]
    pub on_remove: RemovePolicy,
    /// How the nodes are probed that could announce addresses of this pool. What is not set is as the speaker's flags
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<PoolHealth>,
}

/// How nodes are probed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(crate::schema::TIMEOUT_WITHIN_INTERVAL).message("timeout must not be longer than interval")
)]
pub struct PoolHealth {
    /// From the start of one probe to the start of the next: 100ms to 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::probe_interval")]
    pub interval: Option<String>,
    /// How long one probe may take: 50ms to 60s, and not longer than `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::probe_timeout")]
    pub timeout: Option<String>,
    /// So many failures in a row withdraw the node's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<u32>,
    /// So many successes in a row admit a node again that has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: Option<u32>,
}

fn yes() -> bool {
    true
}

fn default_priority() -> u32 {
    100
}

/// For whom a pool is, and its place among the others. A Service must satisfy both the namespace part and the Service
/// part; within the namespace part, being listed or matching the selector is enough.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolAllocation {
    /// Pools with a lower number are tried first; pools with the same number in order of their names.
    #[serde(default = "default_priority")]
    #[schemars(range(max = 1_000_000))]
    pub priority: u32,
    /// Only Services of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::namespaces")]
    pub namespaces: Vec<String>,
    /// Only Services of namespaces with such labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Only Services with such labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::selector")]
    pub service_selector: Option<LabelSelector>,
}

impl Default for PoolAllocation {
    fn default() -> Self {
        Self {
            priority: default_priority(),
            namespaces: Vec::new(),
            namespace_selector: None,
            service_selector: None,
        }
    }
}

/// Whether Services may have addresses of a pool as external IPs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.policy == 'Allow' || ((!has(self.namespaces) || self.namespaces.size() == 0) && !has(self.namespaceSelector))")
        .message("namespaces and namespaceSelector say to whom external IPs are allowed: they need policy Allow")
)]
pub struct PoolExternalIps {
    /// `Allow` or `Deny`.
    #[serde(default)]
    pub policy: ExternalIpPolicy,
    /// With `Allow`: only to these namespaces. Neither this nor `namespaceSelector` means all namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::namespaces")]
    pub namespaces: Vec<String>,
    /// With `Allow`: only to namespaces with such labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::selector")]
    pub namespace_selector: Option<LabelSelector>,
}

/// Allowed or denied.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalIpPolicy {
    /// Not allowed to anybody.
    #[default]
    Deny,
    /// Allowed to the namespaces named.
    Allow,
}

/// What becomes of addresses in use that leave a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemovePolicy {
    /// Services keep them.
    #[default]
    Keep,
    /// Services get others.
    Reassign,
}

/// What the controller reports about a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// How many IPv4 addresses are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<PoolUsage>,
    /// How many IPv6 addresses are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<PoolUsage>,
    /// The addresses of the spec as CIDRs, as far as they are in use as a pool. Admission policies and the programs on
    /// the nodes read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8192), inner(length(max = 50)))]
    pub cidrs: Vec<String>,
    /// Addresses that left the spec, or whose pool was deleted or set aside, while Services have them. They go on
    /// working and are not given to anybody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained: Vec<String>,
    /// `Accepted` says whether the pool is in use, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// How full a pool is, in one family.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    /// Addresses of the pool, without those that are never given away; 9223372036854775807 stands for that many or
    /// more.
    #[serde(default)]
    pub total: i64,
    /// Addresses that Services have, retained ones included.
    #[serde(default)]
    pub assigned: i64,
    /// Addresses that can still be given away; 9223372036854775807 stands for that many or more.
    #[serde(default)]
    pub available: i64,
    /// Assigned and total in one short text.
    #[serde(default)]
    pub usage: String,
}
