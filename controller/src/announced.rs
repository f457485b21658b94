//! Is an address announced, by which node, and if not, why not: all speakers' reports put together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use fairlead_core::model::NodeName;
use fairlead_core::reason::{Reason, Refusal};

use crate::view::NodeView;

/// At most so many nodes are named in a message.
const NAMED: usize = 5;

/// What the speakers say of the addresses of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Every address is announced: each with its nodes; and what there is to say of other machines that use them too.
    By(Vec<(IpAddr, Announcers)>, Vec<String>),
    /// At least one address is announced by nobody.
    Nobody(Refusal),
}

/// Who announces an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcers {
    /// The one node that does on its interfaces.
    pub owner: Option<NodeName>,
    /// All nodes that do by BGP.
    pub bgp: Several,
}

/// Nodes, of which the first few are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Several {
    named: Vec<NodeName>,
    count: usize,
}

impl Several {
    fn push(&mut self, node: &NodeName) {
        if self.named.len() < NAMED {
            self.named.push(node.clone());
        }
        self.count += 1;
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> FromIterator<&'a NodeName> for Several {
    fn from_iter<I: IntoIterator<Item = &'a NodeName>>(nodes: I) -> Self {
        let mut several = Self::default();
        for node in nodes {
            several.push(node);
        }
        several
    }
}

/// `node n1`, or `nodes n1, n2, n3, n4, n5 and 3 more`.
impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.count == 1 { "node" } else { "nodes" };
        let names: Vec<&str> = self.named.iter().map(NodeName::as_str).collect();
        write!(f, "{noun} {}{}", names.join(", "), more(self.count))
    }
}

impl Announcement {
    /// The reason and sentence of the condition.
    pub fn verdict(&self) -> Refusal {
        match self {
            Self::Nobody(refusal) => refusal.clone(),
            Self::By(announcers, conflicts) => {
                let all = announcers.len();
                let owners = announcers
                    .iter()
                    .filter_map(|(address, by)| Some((address, format!("node {}", by.owner.as_ref()?))));
                let bgp = announcers
                    .iter()
                    .filter(|(_, by)| !by.bgp.is_empty())
                    .map(|(address, by)| (address, by.bgp.to_string()));
                let message = match (each(owners, all), each(bgp, all)) {
                    (Some(owners), None) => format!("{ANNOUNCED_BY}{owners}"),
                    (Some(owners), Some(bgp)) => format!("{ANNOUNCED_BY}{owners}{BESIDES}over BGP by {bgp}"),
                    (None, bgp) => format!("{ANNOUNCED_OVER_BGP}{}", bgp.unwrap_or_default()),
                };
                let conflicts: String = conflicts
                    .iter()
                    .map(|conflict| format!("{BESIDES}{conflict}"))
                    .collect();
                Refusal::new(Reason::Announced, format!("{message}{conflicts}"))
            }
        }
    }
}

/// `node n1 (192.0.2.1), node n2 (192.0.2.2)`, or `node n1` if that is so of all addresses; nothing if nobody does.
fn each<'a>(who: impl Iterator<Item = (&'a IpAddr, String)>, all: usize) -> Option<String> {
    let who: Vec<(&IpAddr, String)> = who.collect();
    let (_, first) = who.first()?;
    if who.len() == all && who.iter().all(|(_, other)| other == first) {
        return Some(first.clone());
    }
    let texts: Vec<String> = who
        .iter()
        .map(|(address, who)| format!("{who} ({address})"))
        .collect();
    Some(texts.join(", "))
}

fn more(count: usize) -> String {
    match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// How the message of a true `Announced` condition begins; who announces on interfaces follows.
pub const ANNOUNCED_BY: &str = "announced by ";

/// Likewise, where nobody announces on interfaces: who does by BGP follows.
pub const ANNOUNCED_OVER_BGP: &str = "announced over BGP by ";

/// In the message of a true `Announced` condition, before each thing that is not as it should be.
pub const BESIDES: &str = "; ";

/// All reports, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    addresses: BTreeMap<IpAddr, Report>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    /// The highest claim, and who made it.
    owner: Option<(i64, NodeName)>,
    /// Who announces it by BGP.
    bgp: Several,
    /// The reason nearest to announcing, who gives it, and the sentence of the first of them.
    held_back: Option<(Reason, Vec<NodeName>, String)>,
    /// A sentence about a machine that is no speaker and uses the address.
    conflict: Option<String>,
}

impl Reports {
    /// Collects the views of nodes that exist, in order of their names.
    pub fn new<'a>(views: impl IntoIterator<Item = &'a NodeView>) -> Self {
        let mut reports = Self::default();
        for view in views {
            for (&address, &claim) in &view.announced {
                let report = reports.addresses.entry(address).or_default();
                if report.owner.as_ref().is_none_or(|(highest, _)| claim > *highest) {
                    report.owner = Some((claim, view.node.clone()));
                }
            }
            for &address in &view.bgp {
                let report = reports.addresses.entry(address).or_default();
                report.bgp.push(&view.node);
            }
            for (&address, (mac, interface)) in &view.conflicts {
                let report = reports.addresses.entry(address).or_default();
                report.conflict.get_or_insert_with(|| {
                    format!(
                        "the machine {mac} uses {address} as well, seen on {interface} of node {}",
                        view.node
                    )
                });
            }
            for (&address, (reason, message)) in &view.held_back {
                let report = reports.addresses.entry(address).or_default();
                match &mut report.held_back {
                    Some((nearest, nodes, _)) if nearest == reason => nodes.push(view.node.clone()),
                    Some((nearest, _, _)) if *nearest > *reason => {}
                    held_back => *held_back = Some((*reason, vec![view.node.clone()], message.clone())),
                }
            }
        }
        reports
    }

    /// What they say of the addresses of a Service, of which there is at least one.
    pub fn of(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Announcement {
        let (mut announcers, mut conflicts) = (Vec::new(), Vec::new());
        for address in addresses {
            let report = self.addresses.get(&address);
            let Some(report) = report.filter(|report| report.is_announced()) else {
                return Announcement::Nobody(why_not(address, report));
            };
            let by = Announcers {
                owner: report.owner.as_ref().map(|(_, node)| node.clone()),
                bgp: report.bgp.clone(),
            };
            announcers.push((address, by));
            conflicts.extend(report.conflict.clone());
        }
        Announcement::By(announcers, conflicts)
    }

    /// Goes on naming the nodes that earlier reports name of the addresses which are still announced by BGP. A node that
    /// comes or goes would otherwise change the condition of every Service, again and again. Answers whether there was
    /// anything to go on with.
    pub fn keep_naming(&mut self, earlier: &Self) -> bool {
        let mut kept = false;
        for (address, report) in &mut self.addresses {
            let Some(before) = earlier.addresses.get(address) else {
                continue;
            };
            if !report.bgp.is_empty() && !before.bgp.is_empty() && report.bgp != before.bgp {
                report.bgp.clone_from(&before.bgp);
                kept = true;
            }
        }
        kept
    }

    /// Are there addresses that these reports and the others both say to be announced by BGP, but by different nodes?
    pub fn names_differ(&self, others: &Self) -> bool {
        self.addresses.iter().any(|(address, report)| {
            let other = others.addresses.get(address).map(|other| &other.bgp);
            !report.bgp.is_empty() && other.is_some_and(|bgp| !bgp.is_empty() && *bgp != report.bgp)
        })
    }

    /// The addresses of which these reports and the others say different things.
    pub fn differing(&self, others: &Self) -> BTreeSet<IpAddr> {
        let (mine, theirs) = (&self.addresses, &others.addresses);
        let changed = mine
            .iter()
            .filter(|(address, report)| theirs.get(*address) != Some(*report));
        let gone = theirs.keys().filter(|address| !mine.contains_key(*address));
        changed
            .map(|(address, _)| *address)
            .chain(gone.copied())
            .collect()
    }
}

impl Report {
    fn is_announced(&self) -> bool {
        self.owner.is_some() || !self.bgp.is_empty()
    }
}

fn why_not(address: IpAddr, report: Option<&Report>) -> Refusal {
    let Some((reason, nodes, message)) = report.and_then(|report| report.held_back.as_ref()) else {
        let message = format!("{address} is announced by no node: no speaker reports about it");
        return Refusal::new(Reason::NoSpeaker, message);
    };
    let named: Vec<&str> = nodes.iter().take(NAMED).map(|node| node.as_str()).collect();
    let message = format!(
        "{address} is announced by no node: held back on {}{} ({message})",
        named.join(", "),
        more(nodes.len())
    );
    Refusal::new(*reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn view(node: &str, announced: &[(u8, i64)], held_back: &[(u8, Reason)]) -> NodeView {
        NodeView {
            announced: announced
                .iter()
                .map(|(last, claim)| (ip(*last), *claim))
                .collect(),
            held_back: held_back
                .iter()
                .map(|(last, reason)| (ip(*last), (*reason, format!("{reason} says {node}"))))
                .collect(),
            ..NodeView::empty(NodeName::from(node))
        }
    }

    fn verdict(views: &[NodeView], addresses: &[u8]) -> (Reason, String) {
        let Refusal { reason, message } = Reports::new(views)
            .of(addresses.iter().map(|last| ip(*last)))
            .verdict();
        (reason, message)
    }

    #[test]
    fn every_address_must_be_announced() {
        let views = [view("n1", &[(1, 1)], &[]), view("n2", &[(2, 1)], &[])];
        let announced = |addresses: &[u8]| verdict(&views, addresses);
        assert_eq!(
            announced(&[1]),
            (Reason::Announced, "announced by node n1".into())
        );
        assert_eq!(
            announced(&[1, 2]),
            (
                Reason::Announced,
                "announced by node n1 (192.0.2.1), node n2 (192.0.2.2)".into()
            )
        );
        let (reason, message) = announced(&[1, 3]);
        assert_eq!(reason, Reason::NoSpeaker);
        assert!(message.contains("192.0.2.3"), "{message}");
    }

    #[test]
    fn the_higher_claim_is_the_owner_in_either_order() {
        let (low, high) = (view("n1", &[(1, 4)], &[]), view("n2", &[(1, 5)], &[]));
        for views in [[low.clone(), high.clone()], [high, low]] {
            assert_eq!(verdict(&views, &[1]).1, "announced by node n2");
        }
    }

    #[test]
    fn the_reason_nearest_to_announcing_is_told_with_at_most_five_nodes() {
        let mut views = vec![
            view("a", &[], &[(1, Reason::NodeNotSelected)]),
            view("b", &[], &[(1, Reason::NoLocalEndpoint)]),
        ];
        views.extend((1..=7).map(|n| view(&format!("n{n}"), &[], &[(1, Reason::ProbeFailed)])));
        views.push(view("z", &[], &[(1, Reason::NodeExcluded)]));
        let (reason, message) = verdict(&views, &[1]);
        assert_eq!(reason, Reason::ProbeFailed);
        assert_eq!(
            message,
            "192.0.2.1 is announced by no node: held back on n1, n2, n3, n4, n5 and 2 more (ProbeFailed says n1)"
        );
    }

    fn over_bgp(node: &str, announced: &[u8]) -> NodeView {
        NodeView {
            bgp: announced.iter().map(|last| ip(*last)).collect(),
            ..NodeView::empty(NodeName::from(node))
        }
    }

    #[test]
    fn over_bgp_all_nodes_announce_and_at_most_five_are_named() {
        let mut views = vec![over_bgp("n1", &[1, 2, 3])];
        let said = |views: &[NodeView], addresses: &[u8]| verdict(views, addresses).1;
        assert_eq!(said(&views, &[1]), "announced over BGP by node n1");
        views.push(over_bgp("n2", &[1, 2]));
        assert_eq!(said(&views, &[1, 2]), "announced over BGP by nodes n1, n2");
        assert_eq!(
            said(&views, &[1, 3]),
            "announced over BGP by nodes n1, n2 (192.0.2.1), node n1 (192.0.2.3)"
        );
        views.extend((3..=7).map(|n| over_bgp(&format!("n{n}"), &[1])));
        assert_eq!(
            said(&views, &[1]),
            "announced over BGP by nodes n1, n2, n3, n4, n5 and 2 more"
        );
        views.push(view("n8", &[(1, 4)], &[]));
        assert_eq!(
            said(&views, &[1]),
            "announced by node n8; over BGP by nodes n1, n2, n3, n4, n5 and 2 more"
        );
        views[7].announced.insert(ip(9), 1);
        assert_eq!(
            said(&views, &[9, 3]),
            "announced by node n8 (192.0.2.9); over BGP by node n1 (192.0.2.3)"
        );
        let held_back = [view("n1", &[], &[(1, Reason::NoSpeaker)]), over_bgp("n2", &[1])];
        assert_eq!(verdict(&held_back, &[1]).0, Reason::Announced);
    }

    #[test]
    fn nodes_are_named_as_before_while_any_announces() {
        let before = Reports::new(&[over_bgp("n1", &[1, 2]), over_bgp("n2", &[1])]);
        let views = [over_bgp("n1", &[]), over_bgp("n2", &[1, 3])];
        let mut now = Reports::new(&views);
        assert!(now.keep_naming(&before));
        let said = |last: u8| now.of([ip(last)]).verdict().message;
        assert_eq!(said(1), "announced over BGP by nodes n1, n2");
        assert!(said(2).contains("announced by no node"), "{}", said(2));
        assert_eq!(said(3), "announced over BGP by node n2");
        assert!(!Reports::new(&views).keep_naming(&Reports::new(&views)));
    }

    #[test]
    fn a_stranger_that_uses_the_address_too_is_told_with_the_owner() {
        let mut owner = view("n1", &[(1, 1)], &[]);
        owner.conflicts = BTreeMap::from([(ip(1), ("02:00:00:00:00:09".to_owned(), "eth0".to_owned()))]);
        let (reason, message) = verdict(&[owner], &[1]);
        assert_eq!(reason, Reason::Announced);
        assert_eq!(
            message,
            "announced by node n1; the machine 02:00:00:00:00:09 uses 192.0.2.1 as well, seen on eth0 of node n1"
        );
    }
}
