//! Which addresses are in use, and the lowest that are not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Config, Pool};
use crate::model::{Family, NodeName, ServiceKey};
use crate::range::{IpRange, bits, next};

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    /// A Service.
    Service(&'a ServiceKey),
    /// A node.
    Node(&'a NodeName),
}

/// All addresses in use, and for each pool the place up to which nothing is free. Memory grows with the addresses in
/// use, never with the size of the pools. Addresses are only ever added, so the places only move forward, and each
/// address in use is passed once.
#[derive(Debug)]
pub(super) struct Space<'a> {
    used: BTreeMap<IpAddr, Holder<'a>>,
    pools: Vec<Cursor<'a>>,
}

#[derive(Debug)]
struct Cursor<'a> {
    pool: &'a str,
    /// Ranges of one family in ascending order, those that are used up removed; the last element is the lowest one.
    ranges: Vec<IpRange>,
    /// No address of the lowest range below this one is free.
    place: Option<IpAddr>,
}

impl<'a> Space<'a> {
    /// Nothing is in use. Only addresses of one family are handed out.
    pub(super) fn new(config: &'a Config, family: Family) -> Self {
        let pools = config.pools.values().filter_map(|pool| {
            let mut ranges: Vec<IpRange> = pool
                .ranges
                .iter()
                .filter(|r| r.family() == family)
                .copied()
                .collect();
            ranges.sort();
            ranges.reverse();
            let place = ranges.last()?.first();
            Some(Cursor {
                pool: &pool.name,
                ranges,
                place: Some(place),
            })
        });
        Self {
            used: BTreeMap::new(),
            pools: pools.collect(),
        }
    }

    /// Marks an address as used unless it is already; answers who had it before.
    pub(super) fn mark(&mut self, address: IpAddr, holder: Holder<'a>) -> Option<Holder<'a>> {
        let before = self.holder(address);
        self.used.entry(address).or_insert(holder);
        before
    }

    /// Who has the address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<Holder<'a>> {
        self.used.get(&address).copied()
    }

    /// Names of the pools that have addresses of the family, used up or not, in order.
    pub(super) fn pools(&self) -> impl Iterator<Item = &'a str> {
        self.pools.iter().map(|cursor| cursor.pool)
    }

    /// Takes the lowest free address of the first pool that has one.
    pub(super) fn take(&mut self, service: &'a ServiceKey) -> Option<(IpAddr, &'a str)> {
        for cursor in &mut self.pools {
            if let Some(address) = cursor.advance(&self.used) {
                self.used.insert(address, Holder::Service(service));
                return Some((address, cursor.pool));
            }
        }
        None
    }

    /// How many addresses of a family a pool has that are not in use, saturating at 2^63−1.
    pub(super) fn available(&self, pool: &Pool, family: Family) -> u64 {
        let free = pool
            .ranges
            .iter()
            .filter(|range| range.family() == family)
            .map(|range| {
                let used = self.used.range(range.first()..=range.last()).count() as u128;
                (bits(range.last()) - bits(range.first()))
                    .saturating_add(1)
                    .saturating_sub(used)
            });
        let total = free.fold(0u128, u128::saturating_add);
        u64::try_from(total).unwrap_or(u64::MAX).min(i64::MAX as u64)
    }
}

impl Cursor<'_> {
    /// The lowest free address.
    fn advance(&mut self, used: &BTreeMap<IpAddr, Holder<'_>>) -> Option<IpAddr> {
        while let Some(range) = self.ranges.last() {
            while let Some(place) = self.place.filter(|place| *place <= range.last()) {
                if !used.contains_key(&place) {
                    return Some(place);
                }
                self.place = next(place);
            }
            self.ranges.pop();
            self.place = self.ranges.last().map(IpRange::first);
        }
        None
    }
}
