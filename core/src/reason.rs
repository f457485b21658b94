//! Every refusal and withdrawal reason, once.
//!
//! A reason is one word that a person can look up: it stands in conditions, events, `NodeState` and metrics, and
//! `docs/reasons.md` explains each. The order of the variants has a meaning for announcements: the later a reason
//! stands, the nearer the node was to announcing, so the largest reason of all nodes is the one worth telling.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Why something is, or is not, assigned, accepted or announced.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The word itself, as it stands in conditions and events.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    // --- objects of ours -------------------------------------------------------------------------------------
    /// The object is valid and in use.
    Accepted,
    /// An address or range of the pool cannot be read.
    InvalidAddress,
    /// The pool overlaps an older pool.
    OverlappingPool,
    /// An older BGP peer is at the same address or interface, on the same nodes.
    DuplicatePeer,
    /// The BGP peer is in use, and graceful restart is in vain, for BFD ends it.
    GracefulRestartIneffective,
    /// The BGP peer is set not to be used.
    PeerDisabled,
    /// An advertisement names a BGP peer that does not exist or was refused.
    UnknownPeer,
    /// A selector cannot be read.
    InvalidSelector,
    /// The Secret of the gossip key has no usable key, or an entry that is none.
    InvalidGossipKey,
    /// Another field cannot be read, or has a value that it may not have.
    InvalidField,
    /// The pool was deleted or lost ranges, and Services still have addresses of it.
    InUse,
    /// An advertisement or a Service names a pool that does not exist or was refused.
    UnknownPool,
    /// Two BGPAdvertisements say different things of one route to one peer.
    ConflictingAttributes,

    // --- assignment ------------------------------------------------------------------------------------------
    /// An address is assigned.
    Assigned,
    /// There is no usable pool.
    NoPool,
    /// No pool has an address of the Service's family.
    NoAddressOfFamily,
    /// Every address of the pools is in use.
    PoolExhausted,
    /// The requested address cannot be read or has the wrong family.
    InvalidRequest,
    /// The requested address is in no pool.
    AddressNotInPool,
    /// The requested address belongs to another Service.
    AddressInUse,
    /// The requested address can never be assigned: a node's own, of a pod or Service network, a gateway, reserved in
    /// the pool, …
    AddressReserved,
    /// The pool is not for this namespace or this Service.
    PoolNotAllowed,
    /// Services that ask to share an address may not: ports clash, keys differ, or backends under policy Local do.
    SharingConflict,
    /// The address was given to an older Service as well; this Service gets another one.
    DoubleAssignment,
    /// The address is no longer in the pool; the Service keeps it.
    Retained,
    /// An external IP lies in a pool that does not allow it to this namespace.
    ExternalIPNotAllowed,
    /// The API server denied writing `spec.externalIPs`.
    ExternalIPsDenied,
    /// A family that the Service prefers to have too has no address.
    FamilyMissing,
    /// Another implementation serves this Service.
    ServedByAnother,

    // --- announcement, in the order of the filters: later is nearer to announcing ------------------------------
    /// No speaker has reported about this address yet.
    NoSpeaker,
    /// The status names an address that the controller did not assign to this Service.
    NotOwned,
    /// The Service has no address.
    NotAssigned,
    /// No advertisement selects the pool of this address.
    NoAdvertisement,
    /// The installation is being removed, or the speaker is shutting down.
    Leaving,
    /// No advertisement selects this node.
    NodeNotSelected,
    /// The node has none of the advertisement's interfaces, or they are down.
    NoInterface,
    /// The address is on no subnet of the node's interfaces.
    AddressNotOnLink,
    /// The node is labelled `node.kubernetes.io/exclude-from-external-load-balancers`.
    NodeExcluded,
    /// The Node object is being deleted, or the cluster autoscaler is about to.
    NodeLeaving,
    /// The node's network is not ready (condition `NetworkUnavailable`).
    NetworkUnavailable,
    /// `externalTrafficPolicy: Cluster`, and no endpoint is usable anywhere.
    NoEndpoint,
    /// `externalTrafficPolicy: Local`, and the node has no ready endpoint.
    NoLocalEndpoint,
    /// The node agent has not programmed this address, or cannot be reached.
    DataPathNotProgrammed,
    /// The node agent has been gone, or a change has been unapplied, for too long.
    DataPathStale,
    /// The first probes have not been answered yet.
    ProbePending,
    /// The node's health probe fails.
    ProbeFailed,
    /// kube-proxy in IPVS mode makes every node answer ARP for the address.
    StrictARPNeeded,
    /// Another machine, which is no speaker, uses the address.
    AddressConflict,
    /// The speaker runs without BGP.
    BgpNotEnabled,
    /// This node has no session to announce the address on.
    NoSession,
    /// The node is cordoned, or its speaker is shutting down, and other nodes announce the address by BGP.
    Draining,
    /// The node could announce the address, but another one was elected.
    NotElected,
    /// The address is announced.
    Announced,

    // --- events only -----------------------------------------------------------------------------------------
    /// Another node announces the address now.
    OwnerChanged,
    /// The Service got other addresses than it had.
    Reassigned,
    /// The Service's addresses were taken back.
    Released,
    /// The BGP session of a node is established.
    SessionUp,
    /// The BGP session of a node was lost.
    SessionDown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason with the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// The word.
    pub reason: Reason,
    /// One sentence that names the objects concerned and, where there is one, the remedy.
    pub message: String,
}

impl Refusal {
    /// A refusal from its two parts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
        let page = std::fs::read_to_string(path).unwrap();
        let missing: Vec<&Reason> = Reason::ALL
            .iter()
            .filter(|reason| !page.contains(&format!("`{reason}`")))
            .collect();
        assert!(missing.is_empty(), "docs/reasons.md says nothing of {missing:?}");
    }
}
