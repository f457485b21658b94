//! What a route says to each peer: the advertisements for it taken together.

use std::collections::BTreeMap;

use super::{Attributes, Treatment};
use crate::config::{BgpAdvertisement, Peer, RemoteAsn};
use crate::model::Family;
use crate::selector::any_matches;

/// GRACEFUL_SHUTDOWN, 65535:0 (RFC 8326).
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// How often a node that drains prepends our ASN beyond what is wanted anyway.
pub const DRAIN_PREPEND: u8 = 3;

/// Routes of one kind: of the same advertisements and family.
#[derive(Clone, Debug, Default)]
pub(super) struct United {
    /// Peers that none of the advertisements is for, or that do not carry the family, are not in it.
    pub(super) treatment: Treatment,
    /// What advertisements contradict each other in, as a sentence.
    pub(super) conflict: Option<String>,
}

/// Unites advertisements, given in the order of their names. Communities add up; of values that may be there but once,
/// the first that is said counts.
pub(super) fn unite(
    advertisements: &[&BgpAdvertisement],
    sessions: &BTreeMap<String, Peer>,
    family: Family,
    labels: &BTreeMap<String, String>,
    drains: bool,
) -> United {
    let mut united = United::default();
    for (name, peer) in sessions {
        let wants = |a: &&&BgpAdvertisement| a.peers.is_empty() || a.peers.contains(name);
        let own: Vec<&BgpAdvertisement> = advertisements.iter().filter(wants).copied().collect();
        if own.is_empty() || !peer.families.contains(&family) {
            continue;
        }
        let (mut attributes, conflict) = attributes(&own, peer, labels);
        if drains {
            less_preferred(&mut attributes, internal(peer));
        }
        united.treatment.insert(name.clone(), attributes);
        united.conflict = united.conflict.or(conflict);
    }
    united
}

/// Is the session one of iBGP?
fn internal(peer: &Peer) -> bool {
    match peer.remote_asn {
        RemoteAsn::Internal => true,
        RemoteAsn::Number(asn) => asn == peer.my_asn,
        RemoteAsn::External => false,
    }
}

fn attributes(
    advertisements: &[&BgpAdvertisement],
    peer: &Peer,
    labels: &BTreeMap<String, String>,
) -> (Attributes, Option<String>) {
    let internal = internal(peer);
    let prepend = |a: &BgpAdvertisement| {
        let wanted = if any_matches(&a.preferred, labels) {
            0
        } else {
            a.prepend
        };
        // One that never prepends has no say.
        (a.prepend > 0).then_some(u32::from(wanted))
    };
    let mut conflict = None;
    let mut one = |field: &str, values: Vec<(&str, Option<u32>)>| {
        let mut said = values
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let (first, value) = said.next()?;
        if let Some((other, _)) = said.find(|(_, theirs)| *theirs != value) {
            let peer = &peer.name;
            let text = format!(
                "BGPAdvertisements {first} and {other} differ in {field} for BGPPeer {peer}; that of {first} is used"
            );
            conflict.get_or_insert(text);
        }
        Some(value)
    };
    let values = |value: &dyn Fn(&BgpAdvertisement) -> Option<u32>| {
        let named = advertisements.iter().map(|a| (a.name.as_str(), value(a)));
        named.collect::<Vec<_>>()
    };
    // LOCAL_PREF does not leave an AS (RFC 4271 section 5.1.5), and a neighbour inside ours would take a path with our own
    // ASN in it for a loop.
    let (local_pref, prepend) = if internal {
        (one("localPref", values(&|a| a.local_pref)), None)
    } else {
        (None, one("asPathPrepend", values(&prepend)))
    };
    let attributes = Attributes {
        local_pref,
        med: one("med", values(&|a| a.med)),
        prepend: prepend.and_then(|times| u8::try_from(times).ok()).unwrap_or(0),
        communities: advertisements
            .iter()
            .flat_map(|a| a.communities.iter().copied())
            .collect(),
        large_communities: advertisements
            .iter()
            .flat_map(|a| a.large_communities.iter().copied())
            .collect(),
    };
    (attributes, conflict)
}

/// Says that other ways are better, for a peer that heeds GRACEFUL_SHUTDOWN and for one that does not.
fn less_preferred(attributes: &mut Attributes, internal: bool) {
    attributes.communities.insert(GRACEFUL_SHUTDOWN);
    if internal {
        attributes.local_pref = Some(0);
    } else {
        attributes.prepend = attributes.prepend.saturating_add(DRAIN_PREPEND);
    }
}
