//! What was seen of every Service of a run, and when: the creation from the answer to the request, the address from a
//! watch. The two come by different ways, in any order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// All Services of a run. Times count from the start of the run.
#[derive(Debug, Default)]
pub struct Timeline {
    services: HashMap<String, Seen>,
    holders: HashMap<IpAddr, BTreeSet<String>>,
    shared: BTreeMap<IpAddr, BTreeSet<String>>,
    assigned: usize,
}

#[derive(Debug, Default)]
struct Seen {
    created: Option<Duration>,
    assigned: Option<Duration>,
    address: Option<IpAddr>,
    version: String,
    updates: usize,
}

impl Timeline {
    /// The API server has answered the creation.
    pub fn created(&mut self, name: &str, at: Duration) {
        self.services.entry(name.to_owned()).or_default().created = Some(at);
    }

    /// The watch has shown a Service in this version, with this address.
    pub fn seen(&mut self, name: &str, version: &str, address: Option<IpAddr>, at: Duration) {
        let seen = self.services.entry(name.to_owned()).or_default();
        // A watch that had to list again shows what is known already.
        if seen.version == version {
            return;
        }
        if !seen.version.is_empty() {
            seen.updates += 1;
        }
        version.clone_into(&mut seen.version);
        if address.is_some() && seen.assigned.is_none() {
            seen.assigned = Some(at);
            self.assigned += 1;
        }
        if seen.address == address {
            return;
        }
        if let Some(holders) = seen.address.and_then(|old| self.holders.get_mut(&old)) {
            holders.remove(name);
        }
        seen.address = address;
        if let Some(address) = address {
            let holders = self.holders.entry(address).or_default();
            holders.insert(name.to_owned());
            if holders.len() > 1 {
                self.shared
                    .entry(address)
                    .or_default()
                    .extend(holders.iter().cloned());
            }
        }
    }

    /// Services that have had an address.
    pub fn assigned(&self) -> usize {
        self.assigned
    }

    /// Changes of Services after their creation, whatever they changed.
    pub fn updates(&self) -> usize {
        self.services.values().map(|seen| seen.updates).sum()
    }

    /// When the last creation was answered.
    pub fn last_created(&self) -> Option<Duration> {
        self.services.values().filter_map(|seen| seen.created).max()
    }

    /// When the last Service got its address.
    pub fn last_assigned(&self) -> Option<Duration> {
        self.services.values().filter_map(|seen| seen.assigned).max()
    }

    /// From the answer to the creation to the first address, of every Service that has had both. Where the watch was
    /// faster than the answer, no time has passed.
    pub fn waits(&self) -> Vec<Duration> {
        self.services
            .values()
            .filter_map(|seen| Some(seen.assigned?.saturating_sub(seen.created?)))
            .collect()
    }

    /// Addresses that two Services had at one time, with all that had them.
    pub fn duplicates(&self) -> &BTreeMap<IpAddr, BTreeSet<String>> {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([198, 18, 0, last]))
    }

    #[test]
    fn creation_and_address_are_matched_in_any_order() {
        let mut timeline = Timeline::default();
        timeline.created("a", S(1));
        timeline.seen("a", "1", None, S(2));
        timeline.seen("a", "2", ip(1), S(5));
        timeline.seen("b", "3", ip(2), S(6));
        timeline.created("b", S(7));
        timeline.created("c", S(8));
        let mut waits = timeline.waits();
        waits.sort();
        assert_eq!(waits, [S(0), S(4)]);
        assert_eq!(timeline.assigned(), 2);
        assert_eq!(
            (timeline.last_created(), timeline.last_assigned()),
            (Some(S(8)), Some(S(6)))
        );
        assert!(timeline.duplicates().is_empty());
    }

    #[test]
    fn the_first_address_counts_and_every_change_is_an_update() {
        let mut timeline = Timeline::default();
        timeline.created("a", S(0));
        timeline.seen("a", "1", None, S(1));
        timeline.seen("a", "2", ip(1), S(2));
        timeline.seen("a", "2", ip(1), S(3));
        timeline.seen("a", "4", ip(1), S(4));
        timeline.seen("a", "5", None, S(5));
        timeline.seen("a", "6", ip(1), S(6));
        assert_eq!((timeline.assigned(), timeline.waits()), (1, vec![S(2)]));
        assert_eq!(timeline.updates(), 4);
    }

    #[test]
    fn an_address_of_two_at_a_time_is_a_duplicate_even_if_repaired() {
        let mut timeline = Timeline::default();
        timeline.seen("a", "1", ip(1), S(1));
        timeline.seen("b", "2", ip(1), S(2));
        timeline.seen("b", "3", ip(2), S(3));
        let names: Vec<_> = timeline.duplicates().values().flatten().collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn an_address_that_was_given_back_may_be_given_again() {
        let mut timeline = Timeline::default();
        timeline.seen("a", "1", ip(1), S(1));
        timeline.seen("a", "2", ip(2), S(2));
        timeline.seen("b", "3", ip(1), S(3));
        assert!(timeline.duplicates().is_empty());
    }
}
