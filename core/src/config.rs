//! Raw specs of all configuration objects → one checked [`Config`] plus the rejections, object by object.
//!
//! One bad object is set aside; everything else keeps working. The result depends on the objects alone, not on the
//! order in which they arrived: of two pools that overlap the older one stays (ties by name).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::range::IpRange;
use crate::reason::{Reason, Refusal};
use crate::selector::Selector;

/// An `AddressPool` as written by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPool {
    /// Name of the object.
    pub name: String,
    /// Creation time in seconds of Unix time.
    pub created: i64,
    /// `spec.addresses`.
    pub addresses: Vec<String>,
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
    /// `spec.interfaces`; empty means the interfaces that carry a subnet with the address.
    pub interfaces: Vec<String>,
}

/// A checked pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name of the object.
    pub name: String,
    /// Its ranges, in the order written.
    pub ranges: Vec<IpRange>,
}

impl Pool {
    /// Is the address in one of the ranges?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
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
    /// The interfaces to announce on; empty means those that carry a subnet with the address.
    pub interfaces: Vec<String>,
}

impl Advertisement {
    /// Is it for addresses of this pool?
    pub fn selects_pool(&self, pool: &str) -> bool {
        self.pools.is_empty() || self.pools.iter().any(|name| name == pool)
    }
}

/// Everything the programs obey, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Accepted pools by name. No two of them share an address.
    pub pools: BTreeMap<String, Pool>,
    /// Accepted advertisements by name.
    pub advertisements: BTreeMap<String, Advertisement>,
}

impl Config {
    /// The pool that an address lies in.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.values().find(|pool| pool.contains(address))
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
    let mut by_age: Vec<&RawPool> = pools.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    for raw in by_age {
        let verdict = match check_pool(raw, &compiled.config) {
            Ok(pool) => {
                let message = format!("{} range(s) in use", pool.ranges.len());
                compiled.config.pools.insert(pool.name.clone(), pool);
                Refusal::new(Reason::Accepted, message)
            }
            Err(refusal) => refusal,
        };
        compiled
            .verdicts
            .insert(ConfigObject::Pool(raw.name.clone()), verdict);
    }
    for raw in advertisements {
        let verdict = match &raw.nodes {
            Err(error) => Refusal::new(Reason::InvalidSelector, format!("spec.nodeSelectors: {error}")),
            Ok(nodes) => {
                let unknown: Vec<&str> = raw
                    .pools
                    .iter()
                    .filter(|name| !compiled.config.pools.contains_key(*name))
                    .map(String::as_str)
                    .collect();
                let advertisement = Advertisement {
                    name: raw.name.clone(),
                    pools: raw.pools.clone(),
                    nodes: nodes.clone(),
                    interfaces: raw.interfaces.clone(),
                };
                compiled
                    .config
                    .advertisements
                    .insert(raw.name.clone(), advertisement);
                if unknown.is_empty() {
                    Refusal::new(Reason::Accepted, "in use")
                } else {
                    let message = format!("no usable AddressPool is named {}", unknown.join(", "));
                    Refusal::new(Reason::UnknownPool, message)
                }
            }
        };
        compiled
            .verdicts
            .insert(ConfigObject::Advertisement(raw.name.clone()), verdict);
    }
    compiled
}

fn check_pool(raw: &RawPool, accepted: &Config) -> Result<Pool, Refusal> {
    if raw.addresses.is_empty() {
        return Err(Refusal::new(Reason::InvalidAddress, "spec.addresses is empty"));
    }
    let mut ranges: Vec<IpRange> = Vec::with_capacity(raw.addresses.len());
    for (index, text) in raw.addresses.iter().enumerate() {
        let range = IpRange::parse(text).map_err(|error| {
            Refusal::new(
                Reason::InvalidAddress,
                format!("spec.addresses[{index}]: {error}"),
            )
        })?;
        if let Some(other) = ranges.iter().find(|other| other.overlaps(&range)) {
            let message = format!("spec.addresses[{index}] ({range}) overlaps {other} of the same pool");
            return Err(Refusal::new(Reason::InvalidAddress, message));
        }
        for pool in accepted.pools.values() {
            if let Some(other) = pool.ranges.iter().find(|other| other.overlaps(&range)) {
                let message = format!(
                    "{range} overlaps {other} of AddressPool {}, which is older",
                    pool.name
                );
                return Err(Refusal::new(Reason::OverlappingPool, message));
            }
        }
        ranges.push(range);
    }
    Ok(Pool {
        name: raw.name.clone(),
        ranges,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, created: i64, addresses: &[&str]) -> RawPool {
        RawPool {
            name: name.into(),
            created,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    fn advertisement(name: &str, pools: &[&str]) -> RawAdvertisement {
        RawAdvertisement {
            name: name.into(),
            pools: pools.iter().map(|p| (*p).to_owned()).collect(),
            nodes: Ok(vec![]),
            interfaces: vec![],
        }
    }

    #[test]
    fn the_older_of_two_overlapping_pools_stays_whatever_the_order() {
        let old = pool("z-old", 1, &["192.0.2.0/24"]);
        let new = pool("a-new", 2, &["192.0.2.128/25"]);
        let bad = pool("bad", 0, &["192.0.2.0/99"]);
        for order in [[&old, &new, &bad], [&bad, &new, &old], [&new, &old, &bad]] {
            let raw: Vec<RawPool> = order.into_iter().cloned().collect();
            let compiled = compile(&raw, &[]);
            assert_eq!(compiled.config.pools.keys().collect::<Vec<_>>(), ["z-old"]);
            let verdict = |name: &str| compiled.verdicts[&ConfigObject::Pool(name.into())].clone();
            assert_eq!(verdict("z-old").reason, Reason::Accepted);
            assert_eq!(verdict("bad").reason, Reason::InvalidAddress);
            assert_eq!(verdict("a-new").reason, Reason::OverlappingPool);
            assert!(
                verdict("a-new").message.contains("z-old"),
                "{:?}",
                verdict("a-new")
            );
        }
    }

    #[test]
    fn an_advertisement_of_an_unknown_pool_is_reported_and_still_serves_its_others() {
        let compiled = compile(
            &[pool("a", 1, &["192.0.2.0/24"])],
            &[advertisement("x", &["a", "b"]), advertisement("y", &[])],
        );
        let verdict = &compiled.verdicts[&ConfigObject::Advertisement("x".into())];
        assert_eq!(verdict.reason, Reason::UnknownPool);
        assert!(verdict.message.ends_with(" b"), "{verdict:?}");
        assert_eq!(compiled.config.advertisements_of("a").count(), 2);
        assert_eq!(
            compiled
                .config
                .pool_of("192.0.2.9".parse().unwrap())
                .unwrap()
                .name,
            "a"
        );
    }

    #[test]
    fn an_unreadable_selector_sets_the_advertisement_aside() {
        let raw = RawAdvertisement {
            nodes: Err("operator \"Like\" is unknown".into()),
            ..advertisement("x", &[])
        };
        let compiled = compile(&[], &[raw]);
        assert!(compiled.config.advertisements.is_empty());
        assert_eq!(
            compiled.verdicts[&ConfigObject::Advertisement("x".into())].reason,
            Reason::InvalidSelector
        );
    }
}
