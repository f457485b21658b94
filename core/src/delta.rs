//! Desired against observed: the only diff code in the tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What has to be done to turn the observed map into the desired one, each part in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<'a, K, V> {
    /// In desired only.
    pub add: Vec<(&'a K, &'a V)>,
    /// In both with different values: key, observed, desired.
    pub change: Vec<(&'a K, &'a V, &'a V)>,
    /// In observed only.
    pub remove: Vec<(&'a K, &'a V)>,
}

impl<'a, K, V> Delta<'a, K, V> {
    /// The keys of all that is different, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &'a K> {
        let one_sided = self.add.iter().chain(&self.remove).map(|(key, _)| *key);
        one_sided.chain(self.change.iter().map(|(key, _, _)| *key))
    }

    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.change.is_empty() && self.remove.is_empty()
    }
}

/// Compares two maps.
pub fn delta<'a, K: Ord, V: PartialEq>(
    observed: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> Delta<'a, K, V> {
    let mut result = Delta {
        add: Vec::new(),
        change: Vec::new(),
        remove: Vec::new(),
    };
    // Both in key order: large maps are walked once, and nothing is looked up.
    let (mut observed, mut desired) = (observed.iter().peekable(), desired.iter().peekable());
    loop {
        let order = match (observed.peek(), desired.peek()) {
            (None, None) => return result,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = if order.is_le() { observed.next() } else { None };
        let new = if order.is_ge() { desired.next() } else { None };
        match (old, new) {
            (Some((key, old)), Some((_, new))) if old != new => result.change.push((key, old, new)),
            (Some(_), Some(_)) => {}
            (Some(old), None) => result.remove.push(old),
            (None, new) => result.add.extend(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn applying_the_delta_gives_the_desired_map(
            observed in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20),
            desired in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20),
        ) {
            let changes = delta(&observed, &desired);
            let mut map = observed.clone();
            for (key, _) in &changes.remove { prop_assert!(map.remove(key).is_some()); }
            for (key, value) in &changes.add { prop_assert!(map.insert(**key, **value).is_none()); }
            for (key, old, new) in &changes.change {
                prop_assert_ne!(old, new);
                prop_assert_eq!(map.insert(**key, **new), Some(**old));
            }
            prop_assert_eq!(changes.is_empty(), observed == desired);
            let different = (0..20).filter(|key| observed.get(key) != desired.get(key));
            let keys: std::collections::BTreeSet<u8> = changes.keys().copied().collect();
            prop_assert_eq!(keys, different.collect());
            prop_assert_eq!(map, desired);
        }
    }
}
