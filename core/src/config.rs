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
mod number;
mod peer;
mod peers;
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
    /// A `BGPPeer`.
    Peer(String),
    /// A `BGPAdvertisement`.
    BgpAdvertisement(String),
}

/// All configuration objects as written by users. A program leaves out what it does not look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    /// `AddressPool`s.
    pub pools: &'a [RawPool],
    /// `L2Advertisement`s.
    pub advertisements: &'a [RawAdvertisement],
    /// `BGPPeer`s.
    pub peers: &'a [RawPeer],
    /// `BGPAdvertisement`s.
    pub bgp_advertisements: &'a [RawBgpAdvertisement],
}

impl<'a> Written<'a> {
    /// Pools and layer 2 advertisements alone.
    pub fn new(pools: &'a [RawPool], advertisements: &'a [RawAdvertisement]) -> Self {
        Self {
            pools,
            advertisements,
            ..Self::default()
        }
    }
}

/// The outcome of [`compile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What is obeyed.
    pub config: Config,
    /// One verdict for every object: `Accepted`, or why it was set aside. An advertisement that names an unknown pool or
    /// peer is obeyed for the others and reported with `UnknownPool` or `UnknownPeer`; a peer with
    /// `GracefulRestartIneffective` or `PeerDisabled` is obeyed.
    pub verdicts: BTreeMap<ConfigObject, Refusal>,
}

/// Checks all configuration objects together.
pub fn compile(written: &Written) -> Compiled {
    let mut compiled = Compiled::default();
    let config = &mut compiled.config;
    let mut by_age: Vec<&RawPool> = written.pools.iter().collect();
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
    for raw in written.advertisements {
        let verdict = check_advertisement(raw, config);
        compiled
            .verdicts
            .insert(ConfigObject::Advertisement(raw.name.clone()), verdict);
    }
    for (name, verdict) in peers::check(written.peers, config) {
        compiled.verdicts.insert(ConfigObject::Peer(name), verdict);
    }
    for raw in written.bgp_advertisements {
        let verdict = check_bgp_advertisement(raw, config);
        compiled
            .verdicts
            .insert(ConfigObject::BgpAdvertisement(raw.name.clone()), verdict);
    }
    compiled
}

fn check_advertisement(raw: &RawAdvertisement, config: &mut Config) -> Refusal {
    let advertisement = match advertisement::check(raw) {
        Ok(advertisement) => advertisement,
        Err(refusal) => return refusal,
    };
    config.advertisements.insert(raw.name.clone(), advertisement);
    named(unknown_pools(&raw.pools, config), None)
}

fn check_bgp_advertisement(raw: &RawBgpAdvertisement, config: &mut Config) -> Refusal {
    let advertisement = match bgp_advertisement::check::check(raw) {
        Ok(advertisement) => advertisement,
        Err(refusal) => return refusal,
    };
    config.bgp_advertisements.insert(raw.name.clone(), advertisement);
    let unknown = raw.peers.iter().filter(|name| !config.peers.contains_key(*name));
    let peers = unknown_of("BGPPeer", unknown).map(|message| Refusal::new(Reason::UnknownPeer, message));
    named(unknown_pools(&raw.pools, config), peers)
}

fn unknown_pools(names: &[String], config: &Config) -> Option<Refusal> {
    let unknown = names.iter().filter(|name| !config.pools.contains_key(*name));
    unknown_of("AddressPool", unknown).map(|message| Refusal::new(Reason::UnknownPool, message))
}

fn unknown_of<'a>(kind: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    (!names.is_empty()).then(|| format!("no usable {kind} is named {}", names.join(", ")))
}

/// The verdict on an advertisement that is obeyed, with what it names in vain.
fn named(pools: Option<Refusal>, peers: Option<Refusal>) -> Refusal {
    match (pools, peers) {
        (Some(pools), Some(peers)) => {
            Refusal::new(pools.reason, format!("{}; {}", pools.message, peers.message))
        }
        (pools, peers) => pools
            .or(peers)
            .unwrap_or_else(|| Refusal::new(Reason::Accepted, "in use")),
    }
}
