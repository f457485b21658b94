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
    overlaps: Vec<Overlap>,
    moves: Vec<Move>,
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

impl Seen {
    /// A Service that is deleted has no version any more.
    fn exists(&self) -> bool {
        !self.version.is_empty()
    }
}

/// An address that several Services had at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The address.
    pub address: IpAddr,
    /// All that had it meanwhile.
    pub services: BTreeSet<String>,
    /// When the second one got it.
    pub began: Duration,
    /// When only one had it again; `None` while there are several.
    pub ended: Option<Duration>,
}

/// A Service that lost its address, or got another one, and goes on to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The Service.
    pub service: String,
    /// The address that it had.
    pub from: IpAddr,
    /// The one that it has instead.
    pub to: Option<IpAddr>,
    /// When.
    pub at: Duration,
}

impl Timeline {
    /// The API server has answered the creation.
    pub fn created(&mut self, name: &str, at: Duration) {
        self.services.entry(name.to_owned()).or_default().created = Some(at);
    }

    /// The watch has shown a Service in this version, with this address.
    pub fn seen(&mut self, name: &str, version: &str, address: Option<IpAddr>, at: Duration) {
        if self.changed(name, version, address, at) {
            self.let_go(name, at);
            self.take(name, address, at);
        }
    }

    /// The watch has shown that a Service is no more.
    pub fn gone(&mut self, name: &str, at: Duration) {
        self.let_go(name, at);
        if let Some(seen) = self.services.get_mut(name) {
            seen.version.clear();
        }
    }

    /// The watch has listed all Services anew, each with its version and address. What happened before was one step as
    /// far as can be seen.
    pub fn listed(&mut self, all: &[(String, String, Option<IpAddr>)], at: Duration) {
        let names: BTreeSet<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        let existed = self.services.iter().filter(|(_, seen)| seen.exists());
        let gone: Vec<String> = existed
            .map(|(name, _)| name.clone())
            .filter(|name| !names.contains(name.as_str()))
            .collect();
        for name in gone {
            self.gone(&name, at);
        }
        let moved: Vec<_> = all
            .iter()
            .filter(|(name, version, address)| self.changed(name, version, *address, at))
            .collect();
        for (name, ..) in &moved {
            self.let_go(name, at);
        }
        for (name, _, address) in moved {
            self.take(name, *address, at);
        }
    }

    /// Takes down a version; has the Service another address than before?
    fn changed(&mut self, name: &str, version: &str, address: Option<IpAddr>, at: Duration) -> bool {
        let seen = self.services.entry(name.to_owned()).or_default();
        // A watch that had to list again shows what is known already.
        if seen.version == version {
            return false;
        }
        if seen.exists() {
            seen.updates += 1;
        }
        version.clone_into(&mut seen.version);
        if address.is_some() && seen.assigned.is_none() {
            seen.assigned = Some(at);
            self.assigned += 1;
        }
        if seen.address == address {
            return false;
        }
        if let Some(from) = seen.address {
            self.moves.push(Move {
                service: name.to_owned(),
                from,
                to: address,
                at,
            });
        }
        true
    }

    fn let_go(&mut self, name: &str, at: Duration) {
        let Some(old) = self.services.get_mut(name).and_then(|seen| seen.address.take()) else {
            return;
        };
        let Some(holders) = self.holders.get_mut(&old) else {
            return;
        };
        holders.remove(name);
        if holders.len() == 1
            && let Some(overlap) = self.open(old)
        {
            overlap.ended = Some(at);
        }
    }

    fn take(&mut self, name: &str, address: Option<IpAddr>, at: Duration) {
        let (Some(address), Some(seen)) = (address, self.services.get_mut(name)) else {
            return;
        };
        seen.address = Some(address);
        let holders = self.holders.entry(address).or_default();
        holders.insert(name.to_owned());
        if holders.len() < 2 {
            return;
        }
        let services = holders.clone();
        match self.open(address) {
            Some(overlap) => overlap.services.extend(services),
            None => self.overlaps.push(Overlap {
                address,
                services,
                began: at,
                ended: None,
            }),
        }
    }

    /// The overlap of an address that has not ended.
    fn open(&mut self, address: IpAddr) -> Option<&mut Overlap> {
        let mut open = self.overlaps.iter_mut();
        open.find(|overlap| overlap.address == address && overlap.ended.is_none())
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
    pub fn duplicates(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut all: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for overlap in &self.overlaps {
            all.entry(overlap.address)
                .or_default()
                .extend(overlap.services.iter().cloned());
        }
        all
    }

    /// The same one by one, in the order in which they began.
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Every loss and change of an address.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The Services that exist, each with its address.
    pub fn existing(&self) -> BTreeMap<&str, Option<IpAddr>> {
        let existing = self.services.iter().filter(|(_, seen)| seen.exists());
        existing
            .map(|(name, seen)| (name.as_str(), seen.address))
            .collect()
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
        let duplicates = timeline.duplicates();
        let names: Vec<_> = duplicates.values().flatten().collect();
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

    #[test]
    fn an_overlap_lasts_until_one_is_left() {
        let mut timeline = Timeline::default();
        timeline.seen("a", "1", ip(1), S(1));
        timeline.seen("b", "2", ip(1), S(2));
        timeline.seen("c", "3", ip(1), S(3));
        timeline.seen("b", "4", ip(2), S(4));
        assert_eq!(timeline.overlaps()[0].ended, None);
        timeline.gone("a", S(5));
        timeline.seen("d", "6", ip(1), S(6));
        timeline.seen("d", "7", None, S(9));
        let spans: Vec<_> = timeline.overlaps().iter().map(|o| (o.began, o.ended)).collect();
        assert_eq!(spans, [(S(2), Some(S(5))), (S(6), Some(S(9)))]);
        assert_eq!(timeline.overlaps()[0].services.len(), 3);
        let moves: Vec<_> = timeline
            .moves()
            .iter()
            .map(|m| (m.service.as_str(), m.to))
            .collect();
        assert_eq!(
            moves,
            [("b", ip(2)), ("d", None)],
            "the end of a Service is no move"
        );
        assert_eq!(
            timeline.existing(),
            [("b", ip(2)), ("c", ip(1)), ("d", None)].into()
        );
    }

    #[test]
    fn a_new_list_is_one_step() {
        let mut timeline = Timeline::default();
        timeline.seen("a", "1", ip(1), S(1));
        timeline.seen("b", "2", ip(2), S(1));
        timeline.seen("c", "3", ip(3), S(1));
        let entry = |name: &str, version: &str, address| (name.to_owned(), version.to_owned(), address);
        // What a had went to b, and what c had to a new one, in whatever order.
        let all = [
            entry("b", "8", ip(1)),
            entry("a", "7", ip(4)),
            entry("d", "9", ip(3)),
        ];
        timeline.listed(&all, S(5));
        assert!(timeline.overlaps().is_empty());
        assert_eq!(
            timeline.existing(),
            [("a", ip(4)), ("b", ip(1)), ("d", ip(3))].into()
        );
        assert_eq!((timeline.moves().len(), timeline.assigned()), (2, 4));
    }
}
