//! Who could have announced what, and when: pure bookkeeping, and the judgement on what the witness saw.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::announcers::Span;

/// What must be well for an address to be announced by a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The node, with its cable, its power and its speaker.
    Node(u8),
    /// The web server with this label on it.
    Server(String, u8),
    /// The Service of this name.
    Service(String),
}

/// The times in which parts were well. A part of which nothing was ever told is well.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    parts: BTreeMap<Part, Vec<Change>>,
    /// From when to when Services did not exist.
    absences: BTreeMap<String, Vec<(Duration, Duration)>>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    at: Duration,
    well: bool,
}

impl Ledger {
    /// From now on it is not well.
    pub fn ill(&mut self, part: Part, at: Duration) {
        self.change(part, at, false);
    }

    /// It was mended. It counts as well from `at` on, which leaves it time to find its way back.
    pub fn well(&mut self, part: Part, at: Duration) {
        self.change(part, at, true);
    }

    /// As [`Ledger::well`], if it is ill.
    pub fn recover(&mut self, part: Part, at: Duration) {
        let ill = self
            .parts
            .get(&part)
            .and_then(|changes| changes.last())
            .is_some_and(|change| !change.well);
        if ill {
            self.well(part, at);
        }
    }

    fn change(&mut self, part: Part, at: Duration, well: bool) {
        let changes = self.parts.entry(part).or_default();
        // What was to be well later has become ill before.
        changes.retain(|change| change.at < at);
        changes.push(Change { at, well });
    }

    /// Whether it was well all the time from one moment to another.
    fn was(&self, part: &Part, from: Duration, to: Duration) -> bool {
        let Some(changes) = self.parts.get(part) else {
            return true;
        };
        let at_first = changes
            .iter()
            .rev()
            .find(|change| change.at <= from)
            .is_none_or(|change| change.well);
        let ill = |change: &Change| !change.well && change.at > from && change.at < to;
        at_first && !changes.iter().any(ill)
    }

    /// The node that could have announced an address all the time, if there was one. `server` is the label of the
    /// servers one of which must be on it.
    pub fn candidate(
        &self,
        service: &str,
        server: Option<&str>,
        nodes: u8,
        from: Duration,
        to: Duration,
    ) -> Option<u8> {
        let was = |part: Part| self.was(&part, from, to);
        if !was(Part::Service(service.to_owned())) {
            return None;
        }
        (1..=nodes)
            .find(|n| was(Part::Node(*n)) && server.is_none_or(|app| was(Part::Server(app.to_owned(), *n))))
    }

    /// A Service was deleted.
    pub fn deleted(&mut self, service: &str, at: Duration) {
        let absences = self.absences.entry(service.to_owned()).or_default();
        absences.push((at, Duration::MAX));
    }

    /// It is about to be made again.
    pub fn created(&mut self, service: &str, at: Duration) {
        let last = self.absences.get_mut(service).and_then(|all| all.last_mut());
        if let Some((_, to)) = last {
            *to = (*to).min(at);
        }
    }

    /// Whether a span in which somebody answers has a part in which the Service had not existed for `bound`.
    pub fn gone(&self, service: &str, span: &Span, bound: Duration) -> bool {
        let absences = self.absences.get(service).map_or(&[][..], Vec::as_slice);
        absences
            .iter()
            .any(|(from, to)| span.to > *from + bound && span.from < *to && *to > *from + bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_node_counts_only_if_it_was_well_all_the_time() {
        let mut ledger = Ledger::default();
        ledger.ill(Part::Node(1), s(10));
        ledger.well(Part::Node(1), s(30));
        ledger.ill(Part::Node(2), s(5));
        let candidate = |from, to| ledger.candidate("a", None, 2, s(from), s(to));
        assert_eq!(candidate(0, 10), Some(1));
        assert_eq!(candidate(8, 12), None);
        assert_eq!(candidate(12, 29), None);
        assert_eq!(candidate(30, 40), Some(1));
        assert_eq!(candidate(0, 4), Some(1));
    }

    #[test]
    fn an_illness_before_the_recovery_counts() {
        let mut ledger = Ledger::default();
        ledger.ill(Part::Node(1), s(10));
        ledger.well(Part::Node(1), s(30));
        ledger.ill(Part::Node(1), s(20));
        assert_eq!(ledger.candidate("a", None, 1, s(31), s(40)), None);
    }

    #[test]
    fn the_server_and_the_service_count_too() {
        let mut ledger = Ledger::default();
        ledger.ill(Part::Server("web".into(), 1), s(10));
        assert_eq!(
            ledger.candidate("a", Some("web"), 2, s(11), s(12)),
            Some(2),
            "the other node"
        );
        assert_eq!(ledger.candidate("a", None, 2, s(11), s(12)), Some(1));
        ledger.ill(Part::Service("a".into()), s(20));
        assert_eq!(ledger.candidate("a", None, 2, s(21), s(22)), None);
    }

    #[test]
    fn a_deleted_service_is_not_answered_for_until_it_is_made_again() {
        let mut ledger = Ledger::default();
        ledger.deleted("a", s(20));
        let span = |from, to| Span {
            from: s(from),
            to: s(to),
            who: ["node1".to_owned()].into(),
        };
        let gone = |ledger: &Ledger, from, to| ledger.gone("a", &span(from, to), s(3));
        assert!(!gone(&ledger, 15, 22));
        assert!(gone(&ledger, 15, 24));
        assert!(!ledger.gone("b", &span(15, 24), s(3)));
        ledger.created("a", s(30));
        assert!(!gone(&ledger, 31, 40));
        assert!(gone(&ledger, 29, 40));
        ledger.deleted("a", s(40));
        ledger.created("a", s(42));
        assert!(!gone(&ledger, 31, 60), "it was made again in time");
    }
}
