//! What the BGP daemon of this node is to do.
//!
//! Every node that passed the filters announces. [`plan`] makes routes of addresses and advertisements: which prefixes go
//! to which peers, with what attributes. It is memoryless but for the time since when a node that drains knows of others.

mod attributes;
mod plan;
mod planner;
#[cfg(test)]
mod tests;

pub use attributes::{DRAIN_PREPEND, GRACEFUL_SHUTDOWN};
pub use plan::{Announced, Input, Plan, plan};
pub use planner::Planner;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::Peer;

/// All sessions and routes that this node wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The sessions, by the name of the BGPPeer.
    pub sessions: BTreeMap<String, Peer>,
    /// The routes, and what they say to whom. A peer that has no session is passed over. Many routes say the same, and then
    /// share it.
    pub routes: BTreeMap<IpNet, Arc<Treatment>>,
}

/// What a route says, by the name of the peer.
pub type Treatment = BTreeMap<String, Attributes>;

/// What a route says to one peer. The next hop is this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// LOCAL_PREF, to iBGP peers alone.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// How often our ASN is prepended beyond once.
    pub prepend: u8,
    /// Communities (RFC 1997): the 32 bits.
    pub communities: BTreeSet<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: BTreeSet<[u32; 3]>,
}
