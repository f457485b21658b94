//! Raw specs of all configuration objects → one checked [`Config`] plus the rejections, object by object.
//!
//! One bad object is set aside; everything else keeps working. The result depends on the objects alone, not on the
//! order in which they arrived: of two pools that overlap the older one stays (ties by name).

mod advertisement;
mod bgp_advertisement;
pub mod community;
pub mod duration;
mod health;
mod interfaces;
mod peer;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use advertisement::{Advertisement, ConflictPolicy, Preference, RawAdvertisement};
pub use bgp_advertisement::{BgpAdvertisement, RawBgpAdvertisement};
pub use community::{Community, WELL_KNOWN_COMMUNITIES};
pub use health::{Health, RawHealth};
pub use interfaces::Interfaces;
pub use peer::{Bfd, GracefulRestart, Peer, PeerEndpoint, RawBfd, RawGracefulRestart, RawPeer, RemoteAsn};
pub use pool::{Access, Allocation, OnRemove, Pool, RawPool, is_buggy};

use crate::range::RangeMap;
use crate::reason::{Reason, Refusal};

/// Everything the programs obey, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// All pools that addresses may belong to, by name: those in use, and those that were deleted or set aside and
    /// retain addresses.
    pub pools: BTreeMap<String, Pool>,
    /// Accepted advertisements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
    /// Accepted BGP peers by name.
    pub peers: BTreeMap<String, Peer>,
    /// Accepted BGP advertisements by name.
    pub bgp_advertisements: BTreeMap<String, BgpAdvertisement>,
    /// Which pool each address belongs to.
    owners: RangeMap<String>,
}

impl Config {
    /// The pool that an address belongs to: the one whose spec has it, else the oldest that retains it.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        let (_, name) = self.owners.get(address)?;
        self.pools.get(name)
    }

    /// The advertisements for a pool.
    pub fn advertisements_of<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a Advertisement> {
        self.advertisements
            .values()
            .filter(move |advertisement| advertisement.selects_pool(pool))
    }
}

/// A configuration object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigObject {
    /// An `AddressPool`.
    Pool(String),
    /// An `L2Advertisement`.
    Advertisement(String),
}

/// The outcome of [`compile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What is obeyed.
    pub config: Config,
    /// One verdict for every object: `Accepted`, or why it was set aside. An advertisement that names an unknown pool
    /// is obeyed for its other pools and reported with `UnknownPool`.
    pub verdicts: BTreeMap<ConfigObject, Refusal>,
}

/// Checks all configuration objects together.
pub fn compile(pools: &[RawPool], advertisements: &[RawAdvertisement]) -> Compiled {
    let mut compiled = Compiled::default();
    let config = &mut compiled.config;
    let mut by_age: Vec<&RawPool> = pools.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    for &raw in &by_age {
        let (pool, verdict) = pool::check(raw, &config.owners);
        for range in &pool.ranges {
            config.owners.insert(*range, &pool.name);
        }
        compiled
            .verdicts
            .insert(ConfigObject::Pool(raw.name.clone()), verdict);
        config.pools.insert(pool.name.clone(), pool);
    }
    // What is retained comes after everybody's spec: an address that moved to another pool belongs there.
    for raw in by_age {
        if let Some(pool) = config.pools.get(&raw.name) {
            for range in &pool.retained {
                config.owners.insert(*range, &pool.name);
            }
        }
    }
    config
        .pools
        .retain(|_, pool| !pool.ranges.is_empty() || !pool.retained.is_empty());
    for raw in advertisements {
        let verdict = check_advertisement(raw, config);
        compiled
            .verdicts
            .insert(ConfigObject::Advertisement(raw.name.clone()), verdict);
    }
    compiled
}

fn check_advertisement(raw: &RawAdvertisement, config: &mut Config) -> Refusal {
    let advertisement = match advertisement::check(raw) {
        Ok(advertisement) => advertisement,
        Err(refusal) => return refusal,
    };
    let unknown: Vec<&str> = raw
        .pools
        .iter()
        .filter(|name| !config.pools.contains_key(*name))
        .map(String::as_str)
        .collect();
    config.advertisements.insert(raw.name.clone(), advertisement);
    if unknown.is_empty() {
        Refusal::new(Reason::Accepted, "in use")
    } else {
        let message = format!("no usable AddressPool is named {}", unknown.join(", "));
        Refusal::new(Reason::UnknownPool, message)
    }
}
