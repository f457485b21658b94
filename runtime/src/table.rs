//! One kind of object in an index: plain, synchronous, and aware of what really changed.

use std::collections::{BTreeMap, BTreeSet};

/// The objects of one kind by key (`namespace/name`, or `name` for cluster-scoped kinds), already converted.
///
/// Every method answers whether anything changed, so that an event which makes no difference (a heartbeat in a field
/// that nobody reads) causes no new plan.
#[derive(Clone, Debug)]
pub struct Table<T> {
    kind: &'static str,
    objects: BTreeMap<String, T>,
    listed: bool,
    /// Keys of objects that changed since they were last asked for; `None` if nobody asks.
    changed: Option<BTreeSet<String>>,
}

impl<T: PartialEq> Table<T> {
    /// An empty table that has not been listed. `kind` is for logs and metrics.
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            objects: BTreeMap::new(),
            listed: false,
            changed: None,
        }
    }

    /// The same, and the table remembers what changed until [`Table::changes`] is called.
    pub fn tracked(kind: &'static str) -> Self {
        Self {
            changed: Some(BTreeSet::new()),
            ..Self::new(kind)
        }
    }

    /// The keys of objects that were added, modified or deleted since the last call. Only of a tracked table.
    pub fn changes(&mut self) -> BTreeSet<String> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, key: &str) {
        if let Some(changed) = &mut self.changed {
            changed.insert(key.to_owned());
        }
    }

    /// An object was added or modified; `None` stands for one that is to be treated as absent.
    pub fn apply(&mut self, key: &str, object: Option<T>) -> bool {
        let Some(object) = object else {
            return self.delete(key);
        };
        match self.objects.get_mut(key) {
            Some(known) if *known == object => return false,
            Some(known) => *known = object,
            None => {
                self.objects.insert(key.to_owned(), object);
            }
        }
        self.note(key);
        true
    }

    /// An object was deleted.
    pub fn delete(&mut self, key: &str) -> bool {
        let deleted = self.objects.remove(key).is_some();
        if deleted {
            self.note(key);
        }
        deleted
    }

    /// All objects were listed anew: what is not among them is gone.
    pub fn reset(&mut self, objects: BTreeMap<String, T>) -> bool {
        let changed = !self.listed || self.objects != objects;
        if let (true, Some(noted)) = (changed, &mut self.changed) {
            let new = objects
                .iter()
                .filter(|(key, object)| self.objects.get(*key) != Some(object));
            noted.extend(new.map(|(key, _)| key.clone()));
            let gone = self.objects.keys().filter(|key| !objects.contains_key(*key));
            noted.extend(gone.cloned());
        }
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
    fn a_tracked_table_tells_what_changed_once() {
        let mut table = Table::tracked("Thing");
        table.reset(BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]));
        table.apply("c", Some(1));
        table.apply("c", Some(1));
        assert_eq!(table.changes(), ["a", "b", "c"].map(str::to_owned).into());
        table.reset(BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
        assert_eq!(table.changes(), ["b", "c"].map(str::to_owned).into());
        table.delete("a");
        table.delete("a");
        assert_eq!(table.changes(), ["a".to_owned()].into());
        assert!(table.changes().is_empty());
    }

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
