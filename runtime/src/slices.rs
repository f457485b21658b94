//! Which EndpointSlices belong to which Service, kept at what the watch says.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_core::model::{ServiceKey, Slice};

use crate::table::Table;

/// The slices of every Service.
#[derive(Clone, Debug)]
pub struct Slices {
    /// All of them; tracked.
    pub table: Table<Slice>,
    /// The Service of each slice.
    of_slices: BTreeMap<String, ServiceKey>,
    /// The slices of each Service.
    of_services: BTreeMap<ServiceKey, BTreeSet<String>>,
}

impl Default for Slices {
    fn default() -> Self {
        Self {
            table: Table::tracked("EndpointSlice"),
            of_slices: BTreeMap::new(),
            of_services: BTreeMap::new(),
        }
    }
}

impl Slices {
    /// The Services with a slice that was added, modified or deleted since the last call. Only what has been told here is
    /// known to [`Slices::of`].
    pub fn changes(&mut self) -> BTreeSet<ServiceKey> {
        let mut services = BTreeSet::new();
        for key in self.table.changes() {
            let now = self.table.get(&key).map(|slice| slice.service.clone());
            let before = match &now {
                Some(service) => self.of_slices.insert(key.clone(), service.clone()),
                None => self.of_slices.remove(&key),
            };
            if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
                if let Some(slices) = self.of_services.get_mut(&before) {
                    slices.remove(&key);
                    if slices.is_empty() {
                        self.of_services.remove(&before);
                    }
                }
                services.insert(before);
            }
            if let Some(now) = now {
                self.of_services.entry(now.clone()).or_default().insert(key);
                services.insert(now);
            }
        }
        services
    }

    /// The slices of a Service.
    pub fn of(&self, service: &ServiceKey) -> Vec<&Slice> {
        let slices = self.of_services.get(service).into_iter().flatten();
        slices.filter_map(|key| self.table.get(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use fairlead_core::model::Family;

    use super::*;

    fn slice(service: &str) -> Option<Slice> {
        Some(Slice {
            service: ServiceKey::new("default", service),
            family: Family::V4,
            ports: vec![],
            endpoints: vec![],
        })
    }

    #[test]
    fn a_slice_is_told_of_for_the_service_that_has_it_and_the_one_that_had_it() {
        let mut slices = Slices::default();
        let told = |slices: &mut Slices| {
            let names = slices.changes().into_iter().map(|key| key.name);
            names.collect::<Vec<_>>().join(" ")
        };
        let count = |slices: &Slices, name| slices.of(&ServiceKey::new("default", name)).len();
        slices.table.apply("default/1", slice("a"));
        slices.table.apply("default/2", slice("a"));
        assert_eq!(told(&mut slices), "a");
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (2, 0));
        slices.table.apply("default/2", slice("b"));
        assert_eq!(told(&mut slices), "a b");
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (1, 1));
        slices.table.delete("default/1");
        assert_eq!(told(&mut slices), "a");
        assert_eq!((count(&slices, "a"), count(&slices, "b")), (0, 1));
        assert_eq!(told(&mut slices), "");
    }
}
