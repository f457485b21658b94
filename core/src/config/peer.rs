//! One BGP peer: what was written, what of it is obeyed.

pub(super) mod check;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Family;
use crate::selector::Selector;

/// A `BGPPeer` as written by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPeer {
    /// Name of the object.
    pub name: String,
    /// When it was created, in seconds of Unix time.
    pub created: i64,
    /// `spec.myASN`.
    pub my_asn: i64,
    /// `spec.remoteASN`: a number, `internal` or `external`.
    pub remote_asn: String,
    /// `spec.address`.
    pub address: Option<String>,
    /// `spec.interface`.
    pub interface: Option<String>,
    /// `spec.port`.
    pub port: Option<i64>,
    /// `spec.sourceAddress`.
    pub source_address: Option<String>,
    /// `spec.holdTime`.
    pub hold_time: Option<String>,
    /// `spec.keepaliveTime`.
    pub keepalive_time: Option<String>,
    /// `spec.connectRetryTime`.
    pub connect_retry_time: Option<String>,
    /// `spec.ebgpMultihop`: the TTL.
    pub ebgp_multihop: Option<i64>,
    /// `spec.ttlSecurity`: how many hops away the peer may be.
    pub ttl_security: Option<i64>,
    /// `spec.passwordSecret`: name of a Secret of type `kubernetes.io/basic-auth` in the release namespace.
    pub password_secret: Option<String>,
    /// `spec.bfd`.
    pub bfd: Option<RawBfd>,
    /// `spec.gracefulRestart`.
    pub graceful_restart: Option<RawGracefulRestart>,
    /// `spec.vrf`.
    pub vrf: Option<String>,
    /// `spec.families`: `IPv4`, `IPv6`; empty means both.
    pub families: Vec<String>,
    /// `spec.nodeSelectors`, or what is wrong with them; empty means all nodes.
    pub nodes: Result<Vec<Selector>, String>,
    /// `spec.disabled`.
    pub disabled: bool,
}

impl Default for RawPeer {
    /// What a peer without any field is; one without ASNs and address is refused.
    fn default() -> Self {
        Self {
            name: String::new(),
            created: 0,
            my_asn: 0,
            remote_asn: String::new(),
            address: None,
            interface: None,
            port: None,
            source_address: None,
            hold_time: None,
            keepalive_time: None,
            connect_retry_time: None,
            ebgp_multihop: None,
            ttl_security: None,
            password_secret: None,
            bfd: None,
            graceful_restart: None,
            vrf: None,
            families: Vec::new(),
            nodes: Ok(Vec::new()),
            disabled: false,
        }
    }
}

/// `spec.bfd` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBfd {
    /// `receiveInterval`.
    pub receive_interval: Option<String>,
    /// `transmitInterval`.
    pub transmit_interval: Option<String>,
    /// `detectMultiplier`.
    pub detect_multiplier: Option<i64>,
}

/// `spec.gracefulRestart` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawGracefulRestart {
    /// `restartTime`.
    pub restart_time: Option<String>,
    /// `longLivedTime`.
    pub long_lived_time: Option<String>,
}

/// A checked peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name of the object.
    pub name: String,
    /// Our ASN in this session.
    pub my_asn: u32,
    /// Theirs.
    pub remote_asn: RemoteAsn,
    /// Where it is.
    pub endpoint: PeerEndpoint,
    /// TCP port.
    pub port: u16,
    /// Our address in the session.
    pub source_address: Option<IpAddr>,
    /// Without a message for this long the session is over (RFC 4271 §4.2).
    pub hold_time: Duration,
    /// Between two KEEPALIVE messages.
    pub keepalive_time: Duration,
    /// Between two attempts to connect.
    pub connect_retry_time: Duration,
    /// TTL of an eBGP session over several hops.
    pub ebgp_multihop: Option<u8>,
    /// Packets from further than so many hops are dropped (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Secret with the password for RFC 2385.
    pub password_secret: Option<String>,
    /// RFC 5880, single hop (RFC 5881).
    pub bfd: Option<Bfd>,
    /// RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
    /// The VRF device that the session is in.
    pub vrf: Option<String>,
    /// The families of routes that are exchanged; never empty.
    pub families: Vec<Family>,
    /// The nodes that have the session; empty means all.
    pub nodes: Vec<Selector>,
    /// No node has it.
    pub disabled: bool,
}

/// The ASN of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteAsn {
    /// This one.
    Number(u32),
    /// As ours: iBGP.
    Internal,
    /// Any other: eBGP.
    External,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerEndpoint {
    /// At this address.
    Address(IpAddr),
    /// At the other end of this interface, found by its link-local address (unnumbered).
    Interface(String),
}

/// Times of BFD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bfd {
    /// Fastest that we receive.
    pub receive_interval: Duration,
    /// Fastest that we send.
    pub transmit_interval: Duration,
    /// How many may be lost.
    pub detect_multiplier: u8,
}

/// Times of graceful restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestart {
    /// How long the peer keeps our routes without a session.
    pub restart_time: Duration,
    /// How much longer, as less preferred ones (RFC 9494).
    pub long_lived_time: Option<Duration>,
}
