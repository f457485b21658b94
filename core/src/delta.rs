//! Desired against observed: the only diff code in the tree.

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

impl<K, V> Delta<'_, K, V> {
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
    for (key, value) in desired {
        match observed.get(key) {
            None => result.add.push((key, value)),
            Some(old) if old != value => result.change.push((key, old, value)),
            Some(_) => {}
        }
    }
    result
        .remove
        .extend(observed.iter().filter(|(key, _)| !desired.contains_key(key)));
    result
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
            prop_assert_eq!(map, desired);
        }
    }
}
