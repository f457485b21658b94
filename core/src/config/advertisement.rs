//! One advertisement: what was written, what of it is obeyed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use super::interfaces::Interfaces;
use crate::reason::{Reason, Refusal};
use crate::selector::Selector;

/// What one preference may weigh.
const WEIGHTS: RangeInclusive<i32> = 1..=100;
/// After what time a preferred node may take an address over from another, unless the advertisement says.
const PREEMPT_AFTER: Duration = Duration::from_secs(5 * 60);
/// What it may say.
const PREEMPT_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
/// Instead of a duration: no node takes an address over because it is preferred.
const NEVER: &str = "Never";

/// A selector that weighs something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// 1 to 100.
    pub weight: i32,
    /// The nodes that are preferred.
    pub nodes: Selector,
}

/// What to do when another machine uses an address of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConflictPolicy {
    /// Go on, and claim it again.
    #[default]
    Defend,
    /// Stop announcing it.
    Yield,
}

/// An `L2Advertisement` as written by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAdvertisement {
    /// Name of the object.
    pub name: String,
    /// `spec.addressPools`; empty means all pools.
    pub pools: Vec<String>,
    /// `spec.nodeSelectors`, or what is wrong with them; empty means all nodes.
    pub nodes: Result<Vec<Selector>, String>,
    /// `spec.preferredNodeSelectors`, or what is wrong with them.
    pub preferred: Result<Vec<Preference>, String>,
    /// `spec.serviceSelectors`, or what is wrong with them; empty means all Services.
    pub services: Result<Vec<Selector>, String>,
    /// `spec.interfaces`; empty means the interfaces that carry a subnet with the address.
    pub interfaces: Vec<String>,
    /// `spec.preemptAfter`: a duration or `Never`.
    pub preempt_after: Option<String>,
    /// `spec.conflictPolicy`.
    pub conflict: ConflictPolicy,
}

impl Default for RawAdvertisement {
    /// What an advertisement without any field is.
    fn default() -> Self {
        Self {
            name: String::new(),
            pools: Vec::new(),
            nodes: Ok(Vec::new()),
            preferred: Ok(Vec::new()),
            services: Ok(Vec::new()),
            interfaces: Vec::new(),
            preempt_after: None,
            conflict: ConflictPolicy::Defend,
        }
    }
}

/// A checked advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Name of the object.
    pub name: String,
    /// The pools it is for; empty means all pools.
    pub pools: Vec<String>,
    /// The nodes it is for; empty means all nodes.
    pub nodes: Vec<Selector>,
    /// The nodes it prefers.
    pub preferred: Vec<Preference>,
    /// The Services it is for, by their labels; empty means all.
    pub services: Vec<Selector>,
    /// The interfaces to announce on.
    pub interfaces: Interfaces,
    /// After what time without a break as a candidate a preferred node takes an address over; `None` is never.
    pub preempt_after: Option<Duration>,
    /// What to do when another machine uses the address.
    pub conflict: ConflictPolicy,
}

impl Advertisement {
    /// Is it for addresses of this pool?
    pub fn selects_pool(&self, pool: &str) -> bool {
        self.pools.is_empty() || self.pools.iter().any(|name| name == pool)
    }

    /// How much it prefers a node with these labels: the sum of what matches, 0 if nothing does.
    pub fn weight(&self, labels: &BTreeMap<String, String>) -> i32 {
        self.preferred
            .iter()
            .filter(|preference| preference.nodes.matches(labels))
            .fold(0, |sum, preference| sum.saturating_add(preference.weight))
    }
}

/// Checks what can be checked without the pools.
pub(super) fn check(raw: &RawAdvertisement) -> Result<Advertisement, Refusal> {
    let selectors =
        |field: &str, error: &String| Refusal::new(Reason::InvalidSelector, format!("spec.{field}: {error}"));
    let field = |message: String| Refusal::new(Reason::InvalidField, message);
    let preferred = raw
        .preferred
        .clone()
        .map_err(|error| selectors("preferredNodeSelectors", &error))?;
    for (index, preference) in preferred.iter().enumerate() {
        if !WEIGHTS.contains(&preference.weight) {
            let weight = preference.weight;
            return Err(field(format!(
                "spec.preferredNodeSelectors[{index}].weight: {weight} is not between {} and {}",
                WEIGHTS.start(),
                WEIGHTS.end()
            )));
        }
    }
    let preempt_after = match raw.preempt_after.as_deref() {
        None => Some(PREEMPT_AFTER),
        Some(NEVER) => None,
        Some(text) => Some(
            duration::parse_within(text, &PREEMPT_BOUNDS)
                .map_err(|error| field(format!("spec.preemptAfter: {error}")))?,
        ),
    };
    Ok(Advertisement {
        name: raw.name.clone(),
        pools: raw.pools.clone(),
        nodes: raw
            .nodes
            .clone()
            .map_err(|error| selectors("nodeSelectors", &error))?,
        preferred,
        services: raw
            .services
            .clone()
            .map_err(|error| selectors("serviceSelectors", &error))?,
        interfaces: Interfaces::parse(&raw.interfaces)
            .map_err(|error| field(format!("spec.interfaces{error}")))?,
        preempt_after,
        conflict: raw.conflict,
    })
}
