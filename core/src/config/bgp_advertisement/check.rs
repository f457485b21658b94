//! Checks of one BGP advertisement.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{BgpAdvertisement, RawBgpAdvertisement};
use crate::config::community::{self, Community};
use crate::config::number::within as number;
use crate::reason::{Reason, Refusal};
use crate::selector::Selector;

const ANY: RangeInclusive<i64> = 0..=u32::MAX as i64;
/// Longer paths are what some routers take for a mistake.
const PREPENDS: RangeInclusive<i64> = 0..=10;

/// Checks what can be checked without pools and peers.
pub(in crate::config) fn check(raw: &RawBgpAdvertisement) -> Result<BgpAdvertisement, Refusal> {
    let selectors = |field: &str, list: &Result<Vec<Selector>, String>| {
        list.clone()
            .map_err(|error| Refusal::new(Reason::InvalidSelector, format!("spec.{field}: {error}")))
    };
    let checked = BgpAdvertisement {
        nodes: selectors("nodeSelectors", &raw.nodes)?,
        preferred: selectors("preferredNodes", &raw.preferred)?,
        services: selectors("serviceSelectors", &raw.services)?,
        ..read(raw).map_err(|error| Refusal::new(Reason::InvalidField, format!("spec.{error}")))?
    };
    if checked.preferred.is_empty() == (checked.prepend == 0) {
        return Ok(checked);
    }
    let message = if checked.preferred.is_empty() {
        "spec.asPathPrepend: it is for nodes that are less preferred than those of spec.preferredNodes, which is empty"
    } else {
        "spec.preferredNodes: the other nodes must differ, and spec.asPathPrepend says nothing"
    };
    Err(Refusal::new(Reason::InvalidField, message))
}

/// All fields but the selectors. Errors begin with the name of the field.
fn read(raw: &RawBgpAdvertisement) -> Result<BgpAdvertisement, String> {
    let (mut communities, mut large_communities) = (BTreeSet::new(), BTreeSet::new());
    for (index, text) in raw.communities.iter().enumerate() {
        match community::parse(text).map_err(|error| format!("communities[{index}]: {error}"))? {
            Community::Plain(bits) => communities.insert(bits),
            Community::Large(parts) => large_communities.insert(parts),
        };
    }
    Ok(BgpAdvertisement {
        name: raw.name.clone(),
        pools: raw.pools.clone(),
        nodes: Vec::new(),
        preferred: Vec::new(),
        services: Vec::new(),
        peers: raw.peers.clone(),
        aggregation_v4: number("aggregationLength", raw.aggregation_v4, 1..=32)?.unwrap_or(32),
        aggregation_v6: number("aggregationLengthV6", raw.aggregation_v6, 1..=128)?.unwrap_or(128),
        local_pref: number("localPref", raw.local_pref, ANY)?,
        med: number("med", raw.med, ANY)?,
        prepend: number("asPathPrepend", raw.prepend, PREPENDS)?.unwrap_or(0),
        communities,
        large_communities,
    })
}
