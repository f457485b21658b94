//! What two maps do not have in common.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The keys that only one of two maps has, or under which they have something that is not the `same`.
pub(crate) fn differing<'a, K: Ord, V>(
    a: &'a BTreeMap<K, V>,
    b: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> BTreeSet<&'a K> {
    let mut keys = BTreeSet::new();
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return keys,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((x, _)), Some((y, _))) => x.cmp(y),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        match (left, right) {
            (Some((_, x)), Some((_, y))) if same(x, y) => {}
            (one, other) => keys.extend(one.or(other).map(|(key, _)| key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_differ_where_a_value_is_new_another_or_gone() {
        let old = BTreeMap::from([("a", 1), ("changed", 1), ("gone", 1), ("same", 1)]);
        let new = BTreeMap::from([("changed", 2), ("new", 1), ("same", 1), ("z", 1)]);
        let same = |x: &i32, y: &i32| x == y;
        let keys = differing(&old, &new, same);
        assert_eq!(keys, ["a", "changed", "gone", "new", "z"].iter().collect());
        assert!(differing(&old, &old.clone(), same).is_empty());
        assert_eq!(differing(&BTreeMap::new(), &old, same).len(), 4);
        assert_eq!(differing(&old, &BTreeMap::new(), same).len(), 4);
    }
}
