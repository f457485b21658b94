//! Which addresses are claimed, by whom, and which of the pools' addresses nobody claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::Usage;
use super::claims::{Claim, Id};
use super::free::FreeSet;
use super::rules::Rules;
use crate::config::Pool;
use crate::model::Family;
use crate::range::IpRange;

/// Counts stop here: more is the same to people, and fits a signed 64-bit number.
const MOST: u128 = i64::MAX as u128;

/// All claims, and the free addresses of each pool and family.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    claims: BTreeMap<IpAddr, Vec<Claim>>,
    free: HashMap<String, Parts>,
    /// Addresses claimed by Services that ask to share, by key.
    shared: HashMap<String, BTreeMap<IpAddr, u32>>,
    /// Claimed addresses that are not in the spec of the pool that they belong to, by pool.
    outside: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// One pool, by family.
type Parts = BTreeMap<Family, Part>;

#[derive(Clone, Debug)]
struct Part {
    free: FreeSet,
    /// Free addresses when nothing is claimed.
    total: u128,
}

impl Space {
    /// Nothing is claimed.
    pub(super) fn new(rules: &Rules) -> Self {
        let mut space = Self::default();
        for pool in rules.pools() {
            for range in &pool.ranges {
                let part = space
                    .free
                    .entry(pool.name.clone())
                    .or_default()
                    .entry(range.family())
                    .or_insert_with(|| Part {
                        free: FreeSet::new(pool.avoid_buggy),
                        total: 0,
                    });
                for gap in rules.never().gaps(*range) {
                    part.free.add(gap);
                }
                part.total = part.free.count();
            }
        }
        space
    }

    /// Everybody's claims on an address.
    pub(super) fn claims(&self, address: IpAddr) -> &[Claim] {
        self.claims.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Everybody else with a claim on an address.
    pub(super) fn others(&self, address: IpAddr, id: Id) -> impl Iterator<Item = Id> {
        let others = self.claims(address).iter().map(|claim| claim.id);
        others.filter(move |other| *other != id)
    }

    /// Sets the claim of a Service on an address; it has at most one on each. Answers whether that took the last free
    /// address of a pool and family.
    pub(super) fn set(&mut self, rules: &Rules, address: IpAddr, claim: Claim) -> bool {
        let claims = self.claims.entry(address).or_default();
        if let Some(known) = claims.iter_mut().find(|known| known.id == claim.id) {
            *known = claim;
            return false;
        }
        let mut last = false;
        if claims.is_empty()
            && let Some(pool) = rules.config.pool_of(address)
        {
            if !pool.contains(address) {
                let outside = self.outside.entry(pool.name.clone()).or_default();
                outside.insert(address);
            } else if let Some(part) = part_of(&mut self.free, pool, address) {
                last = part.free.remove(address) && part.free.count() == 0;
            }
        }
        claims.push(claim);
        last
    }

    /// Takes the claim of a Service away; answers whether nobody claims the address any more.
    pub(super) fn remove(&mut self, rules: &Rules, address: IpAddr, id: Id) -> bool {
        let Some(claims) = self.claims.get_mut(&address) else {
            return false;
        };
        claims.retain(|claim| claim.id != id);
        if !claims.is_empty() {
            return false;
        }
        self.claims.remove(&address);
        if let Some(pool) = rules.config.pool_of(address) {
            if !pool.contains(address) {
                if let Some(outside) = self.outside.get_mut(&pool.name) {
                    outside.remove(&address);
                }
            } else if rules.never().get(address).is_none()
                && let Some(part) = part_of(&mut self.free, pool, address)
            {
                part.free.add(IpRange::from(address));
            }
        }
        true
    }

    /// A Service that asks to share by this key claims the address.
    pub(super) fn share(&mut self, key: &str, address: IpAddr) {
        let group = match self.shared.get_mut(key) {
            Some(group) => group,
            None => self.shared.entry(key.to_owned()).or_default(),
        };
        *group.entry(address).or_default() += 1;
    }

    /// It claims it no longer.
    pub(super) fn unshare(&mut self, key: &str, address: IpAddr) {
        let Some(group) = self.shared.get_mut(key) else {
            return;
        };
        if let Some(count) = group.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                group.remove(&address);
            }
        }
        if group.is_empty() {
            self.shared.remove(key);
        }
    }

    /// The lowest address of a pool that nobody claims.
    pub(super) fn lowest(&self, pool: &Pool, family: Family) -> Option<IpAddr> {
        self.free.get(&pool.name)?.get(&family)?.free.lowest()
    }

    /// Does the pool have addresses of the family at all?
    pub(super) fn has(&self, pool: &Pool, family: Family) -> bool {
        let parts = self.free.get(&pool.name);
        parts.is_some_and(|parts| parts.contains_key(&family))
    }

    /// Addresses that Services with this sharing key claim, in ascending order.
    pub(super) fn shared(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.shared
            .get(key)
            .into_iter()
            .flat_map(|group| group.keys().copied())
    }

    /// How full a pool is, if it has addresses of the family or some are assigned.
    pub(super) fn usage(&self, pool: &str, family: Family, assigned: u64) -> Option<Usage> {
        let part = self.free.get(pool).and_then(|parts| parts.get(&family));
        let number = |count: u128| u64::try_from(count.min(MOST)).unwrap_or(i64::MAX as u64);
        (part.is_some() || assigned > 0).then(|| Usage {
            total: part.map_or(0, |part| number(part.total)),
            assigned,
            available: part.map_or(0, |part| number(part.free.count())),
        })
    }

    /// Claimed addresses that belong to a pool without being in its spec, each with the claims on it.
    pub(super) fn outside(&self, pool: &str) -> impl Iterator<Item = (IpAddr, &[Claim])> {
        let addresses = self.outside.get(pool).into_iter().flatten();
        addresses.map(|address| (*address, self.claims(*address)))
    }

    /// All addresses that anybody claims, for checks.
    #[cfg(test)]
    pub(super) fn claimed(&self) -> BTreeSet<IpAddr> {
        self.claims.keys().copied().collect()
    }
}

/// The part of a pool that has addresses of this one's family.
fn part_of<'a>(free: &'a mut HashMap<String, Parts>, pool: &Pool, address: IpAddr) -> Option<&'a mut Part> {
    free.get_mut(&pool.name)?.get_mut(&Family::of(address))
}
