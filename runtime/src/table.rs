//! One kind of object in an index: plain, synchronous, and aware of what really changed.

use std::collections::BTreeMap;

/// The objects of one kind by key (`namespace/name`, or `name` for cluster-scoped kinds), already converted.
///
/// Every method answers whether anything changed, so that an event which makes no difference (a heartbeat in a field
/// that nobody reads) causes no new plan.
#[derive(Clone, Debug)]
pub struct Table<T> {
    kind: &'static str,
    objects: BTreeMap<String, T>,
    listed: bool,
}

impl<T: PartialEq> Table<T> {
    /// An empty table that has not been listed. `kind` is for logs and metrics.
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            objects: BTreeMap::new(),
            listed: false,
        }
    }

    /// An object was added or modified; `None` stands for one that is to be treated as absent.
    pub fn apply(&mut self, key: &str, object: Option<T>) -> bool {
        let Some(object) = object else {
            return self.delete(key);
        };
        match self.objects.get_mut(key) {
            Some(known) if *known == object => false,
            Some(known) => {
                *known = object;
                true
            }
            None => {
                self.objects.insert(key.to_owned(), object);
                true
            }
        }
    }

    /// An object was deleted.
    pub fn delete(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    /// All objects were listed anew: what is not among them is gone.
    pub fn reset(&mut self, objects: BTreeMap<String, T>) -> bool {
        let changed = !self.listed || self.objects != objects;
        self.objects = objects;
        self.listed = true;
        changed
    }

    /// Has the kind been listed completely at least once? Nothing is planned before.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// The kind, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.objects.get(key)
    }

    /// All objects in key order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// All keys and objects in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.objects.iter().map(|(key, object)| (key.as_str(), object))
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Is there no object?
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_count_as_changes() {
        let mut table = Table::new("Thing");
        assert!(!table.listed());
        assert!(table.apply("a", Some(1)));
        assert!(!table.apply("a", Some(1)));
        assert!(table.apply("a", Some(2)));
        assert!(table.apply("a", None));
        assert!(!table.apply("a", None) && !table.delete("a"));
        // The first list is news even when it is empty: planning may begin.
        assert!(table.reset(BTreeMap::new()));
        assert!(table.listed() && table.is_empty());
        assert!(!table.reset(BTreeMap::new()));
        assert!(table.reset(BTreeMap::from([("b".to_owned(), 1)])));
        assert!(!table.reset(BTreeMap::from([("b".to_owned(), 1)])));
        assert!(table.reset(BTreeMap::from([("c".to_owned(), 1)])));
        assert_eq!(table.iter().collect::<Vec<_>>(), [("c", &1)]);
    }
}
