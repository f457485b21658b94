//! The free addresses of one pool in one family, as disjoint intervals.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::is_buggy;
use crate::range::{IpRange, bits, next, previous};

/// Free addresses. Memory grows with the gaps between used addresses, never with the number of addresses; every
/// operation is O(log n) in the gaps.
///
/// With `avoid_buggy`, IPv4 addresses that end in .0 or .255 are neither counted nor handed out.
#[derive(Clone, Debug)]
pub(super) struct FreeSet {
    /// First and last address of each interval; neighbours never touch.
    intervals: BTreeMap<IpAddr, IpAddr>,
    avoid_buggy: bool,
    count: u128,
}

impl FreeSet {
    pub(super) fn new(avoid_buggy: bool) -> Self {
        Self {
            intervals: BTreeMap::new(),
            avoid_buggy,
            count: 0,
        }
    }

    /// Adds a range none of whose addresses is in the set.
    pub(super) fn add(&mut self, range: IpRange) {
        let (mut first, mut last) = (range.first(), range.last());
        if let Some((&before, &end)) = self.intervals.range(..first).next_back()
            && next(end) == Some(first)
        {
            self.intervals.remove(&before);
            first = before;
        }
        if let Some(after) = next(last)
            && let Some(end) = self.intervals.remove(&after)
        {
            last = end;
        }
        self.intervals.insert(first, last);
        self.count = self.count.saturating_add(self.size(range));
    }

    /// Takes one address out; answers whether it was free.
    pub(super) fn remove(&mut self, address: IpAddr) -> bool {
        let Some((&first, &last)) = self.intervals.range(..=address).next_back() else {
            return false;
        };
        if last < address {
            return false;
        }
        self.intervals.remove(&first);
        if let Some(before) = previous(address).filter(|before| *before >= first) {
            self.intervals.insert(first, before);
        }
        if let Some(after) = next(address).filter(|after| *after <= last) {
            self.intervals.insert(after, last);
        }
        self.count = self.count.saturating_sub(self.size(address.into()));
        true
    }

    /// The lowest address that can be handed out.
    pub(super) fn lowest(&self) -> Option<IpAddr> {
        if self.count == 0 {
            return None;
        }
        // At most two addresses that are to be avoided follow each other.
        self.intervals.iter().find_map(|(&first, &last)| {
            let mut address = Some(first);
            while let Some(candidate) = address.filter(|candidate| *candidate <= last) {
                if !self.avoids(candidate) {
                    return Some(candidate);
                }
                address = next(candidate);
            }
            None
        })
    }

    /// How many addresses can be handed out.
    pub(super) fn count(&self) -> u128 {
        self.count
    }

    fn avoids(&self, address: IpAddr) -> bool {
        self.avoid_buggy && is_buggy(address)
    }

    fn size(&self, range: IpRange) -> u128 {
        let size = (bits(range.last()) - bits(range.first())).saturating_add(1);
        if self.avoid_buggy {
            size - buggy(range)
        } else {
            size
        }
    }
}

/// How many addresses of a range end in .0 or .255.
fn buggy(range: IpRange) -> u128 {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else {
        return 0;
    };
    // Numbers below `n` whose last octet is 0 or 255.
    let below = |n: u64| n.div_ceil(256) + n / 256;
    u128::from(below(u64::from(last.to_bits()) + 1) - below(u64::from(first.to_bits())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn range(text: &str) -> IpRange {
        IpRange::parse(text).unwrap()
    }

    #[test]
    fn huge_ranges_cost_nothing() {
        for (text, count) in [
            ("10.0.0.0/8", 1 << 24),
            ("2001:db8::/64", 1 << 64),
            ("::/0", u128::MAX),
        ] {
            let mut free = FreeSet::new(false);
            free.add(range(text));
            assert_eq!((free.count(), free.intervals.len()), (count, 1), "{text}");
            let lowest = free.lowest().unwrap();
            assert!(free.remove(lowest) && !free.remove(lowest));
            free.add(lowest.into());
            assert_eq!((free.lowest(), free.intervals.len()), (Some(lowest), 1), "{text}");
        }
    }

    #[test]
    fn avoided_addresses_are_not_counted() {
        let mut free = FreeSet::new(true);
        free.add(range("192.0.2.0/23"));
        assert_eq!(free.count(), 508);
        assert_eq!(free.lowest(), Some("192.0.2.1".parse().unwrap()));
        let mut none = FreeSet::new(true);
        none.add(range("192.0.2.255-192.0.3.0"));
        assert_eq!((none.count(), none.lowest()), (0, None));
    }

    proptest! {
        /// The set does what a set of single addresses does.
        #[test]
        fn as_a_plain_set(avoid: bool, steps in prop::collection::vec((any::<bool>(), 240u32..290), 0..200)) {
            let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 + n));
            let mut free = FreeSet::new(avoid);
            let mut plain: BTreeSet<IpAddr> = BTreeSet::new();
            for (add, n) in steps {
                if add {
                    if plain.insert(address(n)) {
                        free.add(address(n).into());
                    }
                } else {
                    prop_assert_eq!(free.remove(address(n)), plain.remove(&address(n)));
                }
                let usable: Vec<IpAddr> = plain.iter().copied().filter(|a| !(avoid && is_buggy(*a))).collect();
                prop_assert_eq!(free.count(), usable.len() as u128);
                prop_assert_eq!(free.lowest(), usable.first().copied());
            }
        }
    }
}
