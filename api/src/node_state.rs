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
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.gossip.alive"),
    printcolumn(
        name = "Problem",
        type_ = "string",
        json_path = ".status.gossip.problem",
        priority = 1
    ),
    printcolumn(name = "Plan", type_ = "integer", json_path = ".status.dataPath.plan"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeStateSpec {}

/// What the speaker of the node reports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateStatus {
    /// Number of addresses this node announces.
    #[serde(default)]
    pub announced_count: i64,
    /// The addresses this node announces: all that it announces on its interfaces, and of those that it announces by BGP
    /// alone the first 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<AnnouncedAddress>,
    /// All addresses this node announces by BGP, gathered into ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(max = 100)))]
    pub announced_by_bgp: Vec<String>,
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
    /// Addresses of this installation that a machine which is no speaker was seen to use, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<AddressConflict>,
    /// What this node knows of the speakers of other nodes, without the API server.
    #[serde(default)]
    pub gossip: GossipState,
    /// The sessions of this node with BGP peers; absent if BGP is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpState>,
    /// The installation is being removed and this speaker has stopped announcing for good.
    #[serde(default)]
    pub withdrawn: bool,
}

/// Addresses announced by BGP alone that are listed one by one at the most. Every node may announce all there are, and an
/// object can only be so large.
pub const ROUTED_MOST: usize = 500;

/// Conflicts, and unreachable nodes, that are listed at the most.
pub const LISTED_MOST: usize = 50;

/// Another machine uses an address.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AddressConflict {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// The Services that have it, each as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The other machine's MAC address.
    pub mac: String,
    /// The interface on which it was seen.
    pub interface: String,
    /// Since when.
    pub since: Time,
}

/// What a node knows of the speakers of other nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GossipState {
    /// Speakers of other nodes that this one hears.
    #[serde(default)]
    pub alive: i64,
    /// Nodes whose speakers it does not hear, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
    /// What is wrong, as a reason and a sentence; empty if nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// Sessions that are listed at the most.
pub const SESSIONS_MOST: usize = 64;

/// The BGP of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BgpState {
    /// The BGP daemon of the node, in words: `running` with its version, or what is awaited.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub daemon: String,
    /// What is wrong, as a reason and a sentence; empty if nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The sessions that this node has or should have, at most 64, in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub sessions: Vec<BgpSession>,
    /// Number of networks that this node announces.
    #[serde(default)]
    pub routes: i64,
}

/// State of a session through which routes go.
pub const ESTABLISHED: &str = "Established";

/// A session of a node with a BGP peer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BgpSession {
    /// Name of the BGPPeer.
    pub peer: String,
    /// The router's address, or the interface while no address is known.
    pub remote: String,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established` (RFC 4271 §8.2.2).
    pub state: String,
    /// Since when.
    pub since: Time,
    /// Why the session is not established, or why it was lost the last time, in words; empty if it never was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// Number of networks that the router was told of.
    #[serde(default)]
    pub prefixes: i64,
    /// The families of routes that both sides agreed on: `IPv4`, `IPv6`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub families: Vec<String>,
    /// State of BFD: `Up`, `Down`, `Init` or `AdminDown`; empty without BFD.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bfd: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Subnets, and gateways, that are listed at the most.
pub const NETWORK_MOST: usize = 64;

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
    /// The interfaces it is announced on by ARP or neighbour discovery; none if it is announced by BGP alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Epoch of the node's claim: if several nodes say that they announce the address on interfaces, it is the one with
    /// the highest.
    #[serde(default)]
    pub claim: i64,
    /// It is announced by BGP, to at least one peer with an established session. Several nodes may do so at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bgp: bool,
    /// It is announced by BGP as less preferred, and withdrawn soon if other nodes announce it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
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
    /// Which sources count as pods of this node, in words. Under externalTrafficPolicy Local they reach every endpoint,
    /// others only those on this node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_sources: String,
}
