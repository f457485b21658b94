//! BGP sessions, put together from what all nodes report: how many a peer has, and which were lost or came up.
//!
//! A router that goes down takes the sessions of all nodes with it, and one that flaps does so again and again. So of each
//! peer the first loss is told at once, and what follows is gathered and told together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairlead_core::model::NodeName;
use fairlead_core::reason::{Reason, Refusal};

use crate::announced::Several;
use crate::change::Notice;
use crate::view::{NodeView, SessionView};

/// Of one peer losses are told at most so often, and so are sessions that came up.
pub const GATHERED: Duration = Duration::from_secs(10);
/// The counts of one peer are written at most so often.
pub const COUNTED: Duration = Duration::from_secs(1);

/// The sessions of one node, by peer.
type OfNode = BTreeMap<String, SessionView>;

/// How many sessions a peer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that are established.
    pub established: i64,
    /// All of them.
    pub total: i64,
}

/// All sessions of all nodes.
#[derive(Debug, Default)]
pub struct Sessions {
    /// What the nodes reported last.
    nodes: BTreeMap<NodeName, OfNode>,
    /// They have reported before. What they say the first time is no news.
    begun: bool,
    tally: BTreeMap<String, Count>,
    news: BTreeMap<(String, Kind), News>,
    /// Peers whose counts changed, and when they were given out the last time.
    changed: BTreeSet<String>,
    given: BTreeMap<String, Instant>,
    /// The counts as given out.
    counts: BTreeMap<String, Count>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Down,
    Up,
}

/// What is to be told of one peer.
#[derive(Debug, Default)]
struct News {
    /// The nodes, with the error if there is one.
    nodes: BTreeMap<NodeName, String>,
    told: Option<Instant>,
}

impl News {
    fn due(&self, now: Instant) -> Instant {
        self.told.map_or(now, |told| told + GATHERED)
    }
}

impl Sessions {
    /// Takes over the views of all nodes that exist.
    pub fn observe<'a>(&mut self, views: impl IntoIterator<Item = &'a NodeView>) {
        let mut present = BTreeSet::new();
        for view in views {
            present.insert(&view.node);
            let known = self.nodes.get(&view.node);
            if known.map_or(view.sessions.is_empty(), |known| *known == view.sessions) {
                continue;
            }
            let was = self.nodes.insert(view.node.clone(), view.sessions.clone());
            self.compare(&view.node, &was.unwrap_or_default(), &view.sessions);
        }
        let gone = self.nodes.keys().filter(|node| !present.contains(node));
        for node in gone.cloned().collect::<Vec<_>>() {
            if let Some(was) = self.nodes.remove(&node) {
                self.compare(&node, &was, &OfNode::new());
            }
        }
        self.begun = true;
    }

    /// Counts what changed in the sessions of a node, and makes news of it. A session that the node no longer has was taken
    /// away on purpose.
    fn compare(&mut self, node: &NodeName, was: &OfNode, is: &OfNode) {
        let peers: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for peer in peers {
            let established = |of: &OfNode| of.get(peer).map(|session| session.established);
            let (before, after) = (established(was), established(is));
            if before == after {
                continue;
            }
            let count = self.tally.entry(peer.clone()).or_default();
            count.total += i64::from(after.is_some()) - i64::from(before.is_some());
            count.established += i64::from(after == Some(true)) - i64::from(before == Some(true));
            if count.total == 0 {
                self.tally.remove(peer);
            }
            self.changed.insert(peer.clone());
            if self.begun {
                let error = is.get(peer).map(|session| session.last_error.as_str());
                self.tell(peer, node, before == Some(true), error.zip(after));
            }
        }
    }

    /// A session was established or not, and is as it is now; with its error.
    fn tell(&mut self, peer: &str, node: &NodeName, was: bool, is: Option<(&str, bool)>) {
        let (kind, error) = match (was, is) {
            (true, Some((error, false))) => (Kind::Down, error),
            (false, Some((error, true))) => (Kind::Up, error),
            _ => return,
        };
        let news = self.news.entry((peer.to_owned(), kind)).or_default();
        news.nodes.insert(node.clone(), error.to_owned());
        // What came up and is gone again before it was told is not told.
        if kind == Kind::Down
            && let Some(up) = self.news.get_mut(&(peer.to_owned(), Kind::Up))
        {
            up.nodes.remove(node);
        }
    }

    /// How many sessions a peer has, as last given out.
    pub fn count(&self, peer: &str) -> Count {
        self.counts.get(peer).copied().unwrap_or_default()
    }

    /// Gives out the counts that are due to be written: the peers whose changed.
    pub fn changed(&mut self, now: Instant) -> Vec<String> {
        let ready = |peer: &String| self.given.get(peer).is_none_or(|at| *at + COUNTED <= now);
        let due: Vec<String> = self.changed.iter().filter(|peer| ready(peer)).cloned().collect();
        self.given.retain(|_, at| *at + COUNTED > now);
        for peer in &due {
            self.changed.remove(peer);
            self.given.insert(peer.clone(), now);
            match self.tally.get(peer) {
                Some(count) => self.counts.insert(peer.clone(), *count),
                None => self.counts.remove(peer),
            };
        }
        due
    }

    /// The events that are due, each with the name of its peer.
    pub fn notices(&mut self, now: Instant) -> Vec<(String, Notice)> {
        let mut notices = Vec::new();
        for ((peer, kind), news) in &mut self.news {
            if news.nodes.is_empty() || news.due(now) > now {
                continue;
            }
            news.told = Some(now);
            notices.push((peer.clone(), kind.notice(&std::mem::take(&mut news.nodes))));
        }
        self.news
            .retain(|_, news| !news.nodes.is_empty() || news.due(now) > now);
        notices
    }

    /// When to be asked again.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let news = self.news.values().filter(|news| !news.nodes.is_empty());
        let counts = self
            .changed
            .iter()
            .map(|peer| self.given.get(peer).map_or(now, |at| *at + COUNTED));
        news.map(|news| news.due(now)).chain(counts).min()
    }
}

impl Kind {
    fn notice(self, nodes: &BTreeMap<NodeName, String>) -> Notice {
        let (who, many) = (nodes.keys().collect::<Several>(), nodes.len() > 1);
        let subject = if many { "the sessions of" } else { "the session of" };
        match self {
            Self::Up => {
                let verb = if many { "are" } else { "is" };
                Notice::normal(
                    "Peer",
                    Reason::SessionUp,
                    format!("{subject} {who} {verb} established"),
                )
            }
            Self::Down => {
                let verb = if many { "were" } else { "was" };
                let error = nodes.iter().find(|(_, error)| !error.is_empty());
                let why = match error {
                    Some((node, error)) if many => format!(" (node {node}: {error})"),
                    Some((_, error)) => format!(": {error}"),
                    None => String::new(),
                };
                let refusal = Refusal::new(Reason::SessionDown, format!("{subject} {who} {verb} lost{why}"));
                Notice::warning("Peer", &refusal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(node: &str, sessions: &[(&str, bool)]) -> NodeView {
        let session = |established: bool| SessionView {
            established,
            last_error: if established {
                String::new()
            } else {
                format!("hold timer of {node} expired")
            },
        };
        let sessions = sessions
            .iter()
            .map(|(peer, up)| ((*peer).to_owned(), session(*up)));
        NodeView {
            sessions: sessions.collect(),
            ..NodeView::empty(NodeName::from(node))
        }
    }

    fn told(sessions: &mut Sessions, now: Instant) -> Vec<String> {
        let notices = sessions.notices(now).into_iter();
        notices
            .map(|(peer, notice)| format!("{peer} {}: {}", notice.reason, notice.note))
            .collect()
    }

    #[test]
    fn the_first_loss_is_told_at_once_and_the_rest_together() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let at = |second: u64| start + Duration::from_secs(second);
        let all = |up: bool| {
            (1..=8)
                .map(|n| view(&format!("n{n}"), &[("tor", up)]))
                .collect::<Vec<_>>()
        };
        sessions.observe(&all(true));
        assert_eq!(
            told(&mut sessions, at(0)),
            [""; 0],
            "what was so before is no news"
        );
        sessions.changed(at(0));
        assert_eq!(
            sessions.count("tor"),
            Count {
                established: 8,
                total: 8
            }
        );
        let mut views = all(true);
        views[0] = view("n1", &[("tor", false)]);
        sessions.observe(&views);
        assert_eq!(
            told(&mut sessions, at(1)),
            ["tor SessionDown: the session of node n1 was lost: hold timer of n1 expired"]
        );
        sessions.observe(&all(false));
        assert_eq!(told(&mut sessions, at(2)), [""; 0]);
        assert_eq!(sessions.notices(at(2)).len(), 0);
        assert_eq!(
            told(&mut sessions, at(11)),
            [
                "tor SessionDown: the sessions of nodes n2, n3, n4, n5, n6 and 2 more were lost (node n2: hold timer of \
              n2 expired)"
            ]
        );
        sessions.observe(&all(true));
        assert_eq!(
            told(&mut sessions, at(12)),
            ["tor SessionUp: the sessions of nodes n1, n2, n3, n4, n5 and 3 more are established"]
        );
        assert_eq!(
            sessions.wake(at(13)),
            Some(at(1)),
            "counts that nobody has asked for"
        );
    }

    #[test]
    fn a_flapping_router_makes_two_events_in_ten_seconds() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        sessions.observe(&[view("n1", &[("tor", true)])]);
        let mut events = 0;
        for step in 0..100u32 {
            let now = start + Duration::from_millis(200) * step;
            sessions.observe(&[view("n1", &[("tor", step % 2 == 1)])]);
            events += sessions.notices(now).len();
        }
        assert_eq!(events, 4);
    }

    #[test]
    fn what_is_gone_again_did_not_come_up() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let up = |up: [bool; 3]| [1, 2, 3].map(|n| view(&format!("n{n}"), &[("tor", up[n - 1])]));
        sessions.observe(&up([false, false, false]));
        sessions.observe(&up([true, false, false]));
        assert_eq!(told(&mut sessions, now).len(), 1);
        sessions.observe(&up([true, true, true]));
        sessions.observe(&up([true, true, false]));
        assert_eq!(
            told(&mut sessions, now),
            ["tor SessionDown: the session of node n3 was lost: hold timer of n3 expired"]
        );
        assert_eq!(
            told(&mut sessions, now + GATHERED),
            ["tor SessionUp: the session of node n2 is established"]
        );
    }

    #[test]
    fn a_session_that_is_taken_away_is_no_loss() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        sessions.observe(&[
            view("n1", &[("tor", true), ("spine", true)]),
            view("n2", &[("tor", true)]),
        ]);
        sessions.changed(now);
        sessions.observe(&[view("n1", &[("spine", true)])]);
        assert_eq!(told(&mut sessions, now), [""; 0]);
        assert_eq!(sessions.changed(now), [""; 0], "not twice within a second");
        assert_eq!(sessions.wake(now), Some(now + COUNTED));
        assert_eq!(sessions.changed(now + COUNTED), ["tor"]);
        assert_eq!(sessions.count("tor"), Count::default());
        assert_eq!(sessions.wake(now + COUNTED), None);
    }
}
