//! `BGPPeer`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// A router that nodes tell by BGP which addresses to send to them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    shortname = "flpeer",
    category = "fairlead",
    status = "BgpPeerStatus",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(
        name = "Interface",
        type_ = "string",
        json_path = ".spec.interface",
        priority = 1
    ),
    printcolumn(name = "ASN", type_ = "string", json_path = ".spec.remoteASN"),
    printcolumn(name = "My ASN", type_ = "integer", json_path = ".spec.myASN", priority = 1),
    printcolumn(name = "Sessions", type_ = "string", json_path = ".status.sessions"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.address) != has(self.interface)")
        .message("exactly one of address and interface is needed"),
    validation = Rule::new("!has(self.sourceAddress) || has(self.address)")
        .message("sourceAddress needs address: over an interface both sides use their link-local addresses"),
    validation = Rule::new(schema::SAME_FAMILY)
        .message("sourceAddress and address must be of the same family"),
    validation = Rule::new(schema::KEEPALIVE_BELOW_HOLD)
        .message("keepaliveTime must be shorter than holdTime (90s if not set)"),
    validation = Rule::new("!has(self.ttlSecurity) || !has(self.ebgpMultihop)")
        .message("ttlSecurity and ebgpMultihop exclude each other"),
    validation = Rule::new("!has(self.ebgpMultihop) || !has(self.interface)")
        .message("ebgpMultihop needs address: what is found over an interface is one hop away"),
    validation = Rule::new(
        "!has(self.ebgpMultihop) || (self.remoteASN != 'internal' && self.remoteASN != self.myASN)"
    )
        .message("ebgpMultihop is for eBGP: remoteASN must differ from myASN"),
    validation = Rule::new(
        "!has(self.bfd) || (!has(self.ebgpMultihop) && (!has(self.ttlSecurity) || self.ttlSecurity == 1))"
    )
        .message("bfd is for peers that are one hop away (RFC 5881): neither ebgpMultihop nor ttlSecurity of more than 1")
)]
pub struct BGPPeerSpec {
    /// The autonomous system number of the nodes in this session.
    #[serde(rename = "myASN")]
    #[schemars(schema_with = "crate::schema::asn")]
    pub my_asn: i64,
    /// That of the router: a number, `internal` for the same as `myASN`, or `external` for any other.
    #[serde(rename = "remoteASN")]
    #[schemars(schema_with = "crate::schema::remote_asn")]
    pub remote_asn: RemoteAsn,
    /// The router's address, IPv4 or IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::peer_address")]
    pub address: Option<String>,
    /// Instead of `address`: the interface at whose other end the router is. It is found by its IPv6 link-local address
    /// (unnumbered BGP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::interface")]
    pub interface: Option<String>,
    /// The router's TCP port. 179 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::port")]
    pub port: Option<i64>,
    /// The node's address in the session, where every node that has it may use the same one. What the node's routes
    /// choose if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::source_address")]
    pub source_address: Option<String>,
    /// A session without a message for this long is over: 3s to 65535s, in whole seconds. The smaller of what the two
    /// sides say is used. 90s if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::hold_time")]
    pub hold_time: Option<String>,
    /// Time between two messages that keep a session alive, in whole seconds and shorter than `holdTime`. A third of
    /// `holdTime` if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::keepalive_time")]
    pub keepalive_time: Option<String>,
    /// Time between two attempts to connect: 2s to 1h, in whole seconds. 5s if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::connect_retry_time")]
    pub connect_retry_time: Option<String>,
    /// The router of another AS is several hops away: the TTL of packets to it, 2 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::ebgp_multihop")]
    pub ebgp_multihop: Option<i64>,
    /// The router is at most so many hops away, 1 to 254, and packets from further away are dropped (RFC 5082). The
    /// router must send with a TTL of 255, as it does when it is told the same of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::ttl_security")]
    pub ttl_security: Option<i64>,
    /// Name of a Secret of type `kubernetes.io/basic-auth`, in the namespace of the installation, whose entry `password`
    /// is that of the session (TCP MD5, RFC 2385). The installation must be allowed to read it (value
    /// `speaker.bgp.passwordSecrets` of the chart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::secret_name")]
    pub password_secret: Option<String>,
    /// Notices the loss of the router within a fraction of a second (RFC 5880). The router needs it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,
    /// Asks the router to keep the node's routes while the session is gone (RFC 4724).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<PeerGracefulRestart>,
    /// The VRF device of the node that the session is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::interface")]
    pub vrf: Option<String>,
    /// The families of routes that are exchanged: `IPv4`, `IPv6`. Empty: both, whatever the family of the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::families")]
    pub families: Vec<String>,
    /// The nodes that have the session: those that match any of the selectors. Empty: all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::few_selectors")]
    pub node_selectors: Vec<LabelSelector>,
    /// No node has the session.
    #[serde(default)]
    pub disabled: bool,
}

/// A number or a word.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum RemoteAsn {
    /// This one.
    Number(i64),
    /// `internal` or `external`.
    Word(String),
}

/// Times of BFD.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// The router shall send no faster than this: 10ms to 60s. 300ms if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::bfd_interval")]
    pub receive_interval: Option<String>,
    /// The node sends no faster than this: 10ms to 60s. 300ms if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::bfd_interval")]
    pub transmit_interval: Option<String>,
    /// The other side is lost when so many packets in a row are missing: 2 to 255. 3 if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::bfd_multiplier")]
    pub detect_multiplier: Option<i64>,
}

/// Times of graceful restart.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PeerGracefulRestart {
    /// How long the router keeps the routes without a session: 1s to 4095s, in whole seconds. 120s if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::restart_time")]
    pub restart_time: Option<String>,
    /// How much longer it keeps them as its last choice (RFC 9494): 1s to 16777215s, in whole seconds. Not at all if not
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::long_lived_time")]
    pub long_lived_time: Option<String>,
}

/// What the controller reports about a peer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerStatus {
    /// Nodes whose session is established.
    #[serde(default)]
    pub sessions_established: i64,
    /// Nodes that have the session, established or not.
    #[serde(default)]
    pub sessions_total: i64,
    /// The two numbers in one short text: `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sessions: String,
    /// `Accepted` says whether the peer is in use, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,
}
