//! Is an address announced, by which node, and if not, why not: all speakers' reports put together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_core::model::NodeName;
use fairlead_core::reason::{Reason, Refusal};

use crate::view::NodeView;

/// At most so many nodes are named in a message.
const NAMED: usize = 5;

/// What the speakers say of the addresses of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Every address is announced: each with its node; and what there is to say of other machines that use them too.
    By(Vec<(IpAddr, NodeName)>, Vec<String>),
    /// At least one address is announced by nobody.
    Nobody(Refusal),
}

impl Announcement {
    /// The reason and sentence of the condition.
    pub fn verdict(&self) -> Refusal {
        match self {
            Self::Nobody(refusal) => refusal.clone(),
            Self::By(owners, conflicts) => {
                let mut nodes: Vec<&NodeName> = owners.iter().map(|(_, node)| node).collect();
                nodes.dedup();
                let who = if let [node] = nodes[..] {
                    format!("node {node}")
                } else {
                    let each = owners
                        .iter()
                        .map(|(address, node)| format!("node {node} ({address})"));
                    each.collect::<Vec<_>>().join(", ")
                };
                let conflicts: String = conflicts
                    .iter()
                    .map(|conflict| format!("{BESIDES}{conflict}"))
                    .collect();
                Refusal::new(Reason::Announced, format!("{ANNOUNCED_BY}{who}{conflicts}"))
            }
        }
    }
}

/// How the message of a true `Announced` condition begins; who announces follows.
pub const ANNOUNCED_BY: &str = "announced by ";

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
        let (mut owners, mut conflicts) = (Vec::new(), Vec::new());
        for address in addresses {
            let report = self.addresses.get(&address);
            match report.and_then(|report| report.owner.as_ref()) {
                Some((_, node)) => {
                    owners.push((address, node.clone()));
                    conflicts.extend(report.and_then(|report| report.conflict.clone()));
                }
                None => return Announcement::Nobody(why_not(address, report)),
            }
        }
        Announcement::By(owners, conflicts)
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

fn why_not(address: IpAddr, report: Option<&Report>) -> Refusal {
    let Some((reason, nodes, message)) = report.and_then(|report| report.held_back.as_ref()) else {
        let message = format!("{address} is announced by no node: no speaker reports about it");
        return Refusal::new(Reason::NoSpeaker, message);
    };
    let named: Vec<&str> = nodes.iter().take(NAMED).map(|node| node.as_str()).collect();
    let more = match nodes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "{address} is announced by no node: held back on {}{more} ({message})",
        named.join(", ")
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
            node: NodeName::from(node),
            announced: announced
                .iter()
                .map(|(last, claim)| (ip(*last), *claim))
                .collect(),
            held_back: held_back
                .iter()
                .map(|(last, reason)| (ip(*last), (*reason, format!("{reason} says {node}"))))
                .collect(),
            conflicts: BTreeMap::new(),
            network: vec![],
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
