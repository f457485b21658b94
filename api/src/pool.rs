//! `AddressPool`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
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
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(name = "Assigned", type_ = "integer", json_path = ".status.assigned"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.available"),
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
    #[x_kube(
        validation = Rule::new("self.size() > 0").message("at least one address is needed"),
        validation = Rule::new(
            "self.all(a, isCIDR(a) || isIP(a) || (a.split('-').size() == 2 && a.split('-').all(p, isIP(p.trim()))))"
        )
        .message("each entry must be a CIDR (192.0.2.0/24), a range (192.0.2.10-192.0.2.20) or an IP address")
    )]
    #[schemars(length(max = 256), inner(length(min = 1, max = 100)))]
    pub addresses: Vec<String>,
}

/// What the controller reports about a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// Number of addresses that are assigned to Services.
    #[serde(default)]
    pub assigned: i64,
    /// Number of addresses that can still be assigned; 9223372036854775807 stands for that many or more.
    #[serde(default)]
    pub available: i64,
    /// `Accepted` says whether the pool is in use, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,
}
