//! One BGP advertisement: what was written, what of it is obeyed.

pub(super) mod check;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// A `BGPAdvertisement` as written by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBgpAdvertisement {
    /// Name of the object.
    pub name: String,
    /// `spec.addressPools`; empty means all pools.
    pub pools: Vec<String>,
    /// `spec.nodeSelectors`, or what is wrong with them; empty means all nodes.
    pub nodes: Result<Vec<Selector>, String>,
    /// `spec.preferredNodes`, or what is wrong with them; empty means that no node is less preferred than others.
    pub preferred: Result<Vec<Selector>, String>,
    /// `spec.serviceSelectors`, or what is wrong with them; empty means all Services.
    pub services: Result<Vec<Selector>, String>,
    /// `spec.peers`: names of BGPPeers; empty means all.
    pub peers: Vec<String>,
    /// `spec.aggregationLength`.
    pub aggregation_v4: Option<i64>,
    /// `spec.aggregationLengthV6`.
    pub aggregation_v6: Option<i64>,
    /// `spec.localPref`.
    pub local_pref: Option<i64>,
    /// `spec.med`.
    pub med: Option<i64>,
    /// `spec.asPathPrepend`: how often nodes that are not preferred prepend our ASN.
    pub prepend: Option<i64>,
    /// `spec.communities`: `65000:1`, `large:65000:1:2` or the name of a well-known one.
    pub communities: Vec<String>,
}

impl Default for RawBgpAdvertisement {
    /// What an advertisement without any field is.
    fn default() -> Self {
        Self {
            name: String::new(),
            pools: Vec::new(),
            nodes: Ok(Vec::new()),
            preferred: Ok(Vec::new()),
            services: Ok(Vec::new()),
            peers: Vec::new(),
            aggregation_v4: None,
            aggregation_v6: None,
            local_pref: None,
            med: None,
            prepend: None,
            communities: Vec::new(),
        }
    }
}

/// A checked advertisement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpAdvertisement {
    /// Name of the object.
    pub name: String,
    /// The pools it is for; empty means all pools.
    pub pools: Vec<String>,
    /// The nodes it is for; empty means all nodes.
    pub nodes: Vec<Selector>,
    /// The nodes that do not prepend; empty means all.
    pub preferred: Vec<Selector>,
    /// The Services it is for, by their labels; empty means all.
    pub services: Vec<Selector>,
    /// The peers it is for; empty means all.
    pub peers: Vec<String>,
    /// Length of IPv4 aggregates; 32 aggregates nothing.
    pub aggregation_v4: u8,
    /// Length of IPv6 aggregates; 128 aggregates nothing.
    pub aggregation_v6: u8,
    /// LOCAL_PREF, for iBGP peers alone.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// How often nodes that are not preferred prepend our ASN.
    pub prepend: u8,
    /// Communities (RFC 1997): the 32 bits.
    pub communities: BTreeSet<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: BTreeSet<[u32; 3]>,
}
