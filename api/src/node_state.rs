//! `NodeState`: what one node announces, holds back and has programmed. Written by the speaker of that node alone.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// State of Fairlead on the node of the same name. There is nothing to configure.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "NodeState",
    plural = "nodestates",
    shortname = "flnode",
    category = "fairlead",
    status = "NodeStateStatus",
    printcolumn(name = "Announced", type_ = "integer", json_path = ".status.announcedCount"),
    printcolumn(name = "Held back", type_ = "integer", json_path = ".status.heldBackCount"),
    printcolumn(name = "Plan", type_ = "integer", json_path = ".status.dataPath.plan"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeStateSpec {}

/// What the speaker of the node reports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateStatus {
    /// The record that the election ranks.
    #[serde(default)]
    pub candidacy: CandidacyRecord,
    /// Number of addresses this node announces.
    #[serde(default)]
    pub announced_count: i64,
    /// The addresses this node announces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<AnnouncedAddress>,
    /// Number of addresses this node does not announce although it knows them.
    #[serde(default)]
    pub held_back_count: i64,
    /// Addresses held back, at most 200 of them, grouped by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_back: Vec<HeldBack>,
    /// What the node agent reports of its data path.
    #[serde(default)]
    pub data_path: DataPathState,
    /// The interfaces that this node can announce on. Their MAC addresses tell speakers who move an address from
    /// strangers who use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NodeInterface>,
    /// Subnets of the node's Ethernet interfaces, at most 64. Their network, broadcast and subnet-router
    /// addresses are given to no Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 64), inner(length(max = 50)))]
    pub subnets: Vec<IpNet>,
    /// Next hops of the node's routes over these interfaces, at most 64, those of default routes first.
    /// They are given to no Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 64), inner(length(max = 50)))]
    pub gateways: Vec<IpAddr>,
    /// The installation is being removed and this speaker has stopped announcing for good.
    #[serde(default)]
    pub withdrawn: bool,
}

/// Subnets, and gateways, that are listed at the most.
pub const NETWORK_MOST: usize = 64;

/// The versioned record by which a speaker offers itself for addresses. Every speaker ranks the same records and so
/// comes to the same owner for each address.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CandidacyRecord {
    /// Version of the record's form; 1.
    #[serde(default)]
    pub version: i32,
    /// Start time of the speaker in microseconds of Unix time: larger is newer.
    #[serde(default)]
    pub incarnation: i64,
    /// Rises by one with every publication; a record that stops rising while others go on belongs to a dead speaker.
    #[serde(default)]
    pub sequence: i64,
    /// The addresses for which the node is eligible: every filter passed, probes included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidacies: Vec<Candidacy>,
}

impl CandidacyRecord {
    /// The version that this program writes.
    pub const VERSION: i32 = 1;
}

/// One address of a candidacy record.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Candidacy {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The node is cordoned or leaving: it comes after all that are not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// Preference of the advertisement for this node; higher comes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight: i32,
    /// The node has been a candidate for long enough to take the address over from a node that is preferred less.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preempts: bool,
    /// Present when the node announces the address: its claim epoch. Of two claims the higher one wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<i64>,
}

/// An address that the node announces.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedAddress {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The Services that have it, each as `namespace/name`; several if they share it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The interfaces it is announced on.
    pub interfaces: Vec<String>,
    /// Since when.
    pub since: Time,
}

/// Addresses that are held back for one reason.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// The reason, one word (see the list of reasons in the documentation).
    pub reason: String,
    /// Number of addresses, including those that are not listed.
    pub count: i64,
    /// The addresses.
    pub addresses: Vec<HeldBackAddress>,
}

/// An address that is held back.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeldBackAddress {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The Services that have it, each as `namespace/name`; several if they share it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// One sentence.
    pub message: String,
    /// Since when the reason holds.
    pub since: Time,
}

/// An interface of the node that announcements can leave by.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeInterface {
    /// Its name.
    pub name: String,
    /// Its MAC address, as `02:00:5e:00:53:01`.
    pub mac: String,
}

/// The data path of the node, as the node agent told the speaker.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DataPathState {
    /// The agent has reported within the last 30 s.
    #[serde(default)]
    pub connected: bool,
    /// Number of the plan that is in the kernel; rises with every change.
    #[serde(default)]
    pub plan: i64,
    /// Number of addresses that are programmed.
    #[serde(default)]
    pub programmed: i64,
    /// The installation is being removed and no rule of ours is left on this node.
    #[serde(default)]
    pub clean: bool,
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}
