//! A `NodeState` reduced to what the status of Services is made from. What changes all the time on a
//! node, such as the number of its data path's plan, is not part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_api::node_state::{AnnouncedAddress, ESTABLISHED};
use fairlead_api::{NodeState, NodeStateStatus};
use fairlead_core::model::NodeName;
use fairlead_core::range::IpRange;
use fairlead_core::reason::Reason;
use ipnet::IpNet;

/// More addresses than this no node announces by BGP, whatever ranges it tells.
const ROUTED_MOST: usize = 100_000;

/// What one node says of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// The node.
    pub node: NodeName,
    /// The addresses it announces on interfaces, with the epoch of its claim: of two nodes the higher one is the owner.
    pub announced: BTreeMap<IpAddr, i64>,
    /// The addresses it announces by BGP, as other nodes may at the same time.
    pub bgp: BTreeSet<IpAddr>,
    /// The addresses that it does not announce, with the reason and its sentence.
    pub held_back: BTreeMap<IpAddr, (Reason, String)>,
    /// Addresses that a machine which is no speaker uses: its MAC address, and the interface on which it was seen.
    pub conflicts: BTreeMap<IpAddr, (String, String)>,
    /// Addresses of its networks that no Service may get, with what they are.
    pub network: Vec<(IpRange, String)>,
    /// Its BGP sessions, by the name of the peer.
    pub sessions: BTreeMap<String, SessionView>,
}

/// What a node says of a BGP session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Routes go through it.
    pub established: bool,
    /// Why it is not established, or why it was lost the last time.
    pub last_error: String,
}

impl NodeView {
    /// From the object. A reason that this version does not know is passed over.
    pub fn new(object: &NodeState) -> Option<Self> {
        let node = NodeName(object.metadata.name.clone()?);
        let status = object.status.clone().unwrap_or_default();
        // A node that says neither is of a version without BGP.
        let on_interfaces =
            |announced: &&AnnouncedAddress| !announced.interfaces.is_empty() || !announced.bgp;
        let announced = status.announced.iter().filter(on_interfaces);
        let announced = announced
            .map(|announced| (announced.address, announced.claim))
            .collect();
        let listed = status.announced.iter().filter(|announced| announced.bgp);
        let listed = listed.map(|announced| announced.address);
        let ranges = status
            .announced_by_bgp
            .iter()
            .filter_map(|text| IpRange::parse(text).ok());
        let bgp = listed
            .chain(ranges.flat_map(|range| range.addresses()).take(ROUTED_MOST))
            .collect();
        let sessions = status.bgp.iter().flat_map(|bgp| &bgp.sessions);
        let sessions = sessions.map(|session| {
            let view = SessionView {
                established: session.state == ESTABLISHED,
                last_error: session.last_error.clone(),
            };
            (session.peer.clone(), view)
        });
        let sessions = sessions.collect();
        let mut held_back: BTreeMap<IpAddr, (Reason, String)> = BTreeMap::new();
        for group in &status.held_back {
            let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == group.reason) else {
                continue;
            };
            for held in &group.addresses {
                let entry = (*reason, held.message.clone());
                let known = held_back.entry(held.address).or_insert_with(|| entry.clone());
                if known.0 < *reason {
                    *known = entry;
                }
            }
        }
        let conflicts = status.conflicts.iter();
        let conflicts = conflicts.map(|conflict| {
            (
                conflict.address,
                (conflict.mac.clone(), conflict.interface.clone()),
            )
        });
        Some(Self {
            conflicts: conflicts.collect(),
            network: network(&status),
            node,
            announced,
            bgp,
            held_back,
            sessions,
        })
    }
}

/// The addresses of subnets and of gateways that no host of them may have.
fn network(status: &NodeStateStatus) -> Vec<(IpRange, String)> {
    let mut network: Vec<(IpRange, String)> = Vec::new();
    for gateway in &status.gateways {
        network.push((IpRange::from(*gateway), "a gateway of the nodes".to_owned()));
    }
    for net in &status.subnets {
        let of = |what: &str| format!("the {what} address of the nodes' subnet {}", net.trunc());
        // Links between two hosts use all of their addresses.
        if net.prefix_len() + 1 >= net.max_prefix_len() {
            continue;
        }
        match net {
            IpNet::V4(_) => {
                network.push((IpRange::from(net.network()), of("network")));
                network.push((IpRange::from(net.broadcast()), of("broadcast")));
            }
            IpNet::V6(_) => network.push((IpRange::from(net.network()), of("subnet-router anycast"))),
        }
    }
    network
}

#[cfg(test)]
impl NodeView {
    /// A node that says nothing.
    pub fn empty(node: NodeName) -> Self {
        Self {
            node,
            announced: BTreeMap::new(),
            bgp: BTreeSet::new(),
            held_back: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            network: vec![],
            sessions: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gateways_and_the_ends_of_subnets_are_given_to_nobody() {
        let object: NodeState = serde_json::from_value(json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": "n1"}, "spec": {},
            "status": {
                "subnets": ["192.0.2.0/24", "198.51.100.6/31", "203.0.113.9/32", "2001:db8::/64", "2001:db8:1::2/127"],
                "gateways": ["192.0.2.1", "2001:db8::1"],
            },
        }))
        .unwrap();
        let network = NodeView::new(&object).unwrap().network;
        let told: Vec<(String, &str)> = network
            .iter()
            .map(|(range, what)| (range.first().to_string(), what.as_str()))
            .collect();
        let expected = [
            ("192.0.2.1", "a gateway of the nodes"),
            ("2001:db8::1", "a gateway of the nodes"),
            (
                "192.0.2.0",
                "the network address of the nodes' subnet 192.0.2.0/24",
            ),
            (
                "192.0.2.255",
                "the broadcast address of the nodes' subnet 192.0.2.0/24",
            ),
            (
                "2001:db8::",
                "the subnet-router anycast address of the nodes' subnet 2001:db8::/64",
            ),
        ];
        assert_eq!(told, expected.map(|(address, what)| (address.to_owned(), what)));
        assert!(network.iter().all(|(range, _)| range.first() == range.last()));
    }

    fn state(plan: i64, claim: i64) -> NodeState {
        serde_json::from_value(json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": "n1"}, "spec": {},
            "status": {
                "dataPath": {"plan": plan},
                "announced": [{
                    "address": "192.0.2.1", "services": ["default/a"], "interfaces": ["eth0"], "claim": claim,
                    "since": "2026-01-01T00:00:00Z",
                }],
                "heldBack": [
                    {"reason": "NotElected", "count": 1, "addresses": [{
                        "address": "192.0.2.2", "service": "default/b", "message": "node n2 announces it",
                        "since": "2026-01-01T00:00:00Z",
                    }]},
                    {"reason": "FromTheFuture", "count": 1, "addresses": [{
                        "address": "192.0.2.3", "service": "default/c", "message": "?",
                        "since": "2026-01-01T00:00:00Z",
                    }]},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_new_plan_is_no_change_and_a_claim_is() {
        let view = |plan, claim| NodeView::new(&state(plan, claim)).unwrap();
        assert_eq!(view(1, 3), view(2, 3));
        assert_ne!(view(1, 3), view(1, 4));
    }

    #[test]
    fn keeps_announcements_and_known_reasons() {
        let view = NodeView::new(&state(1, 3)).unwrap();
        assert_eq!(
            view.announced,
            BTreeMap::from([("192.0.2.1".parse().unwrap(), 3)])
        );
        assert_eq!(
            view.held_back,
            BTreeMap::from([(
                "192.0.2.2".parse().unwrap(),
                (Reason::NotElected, "node n2 announces it".to_owned())
            )])
        );
    }

    #[test]
    fn what_is_announced_by_bgp_has_no_owner() {
        let object: NodeState = serde_json::from_value(json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": "n1"}, "spec": {},
            "status": {
                "announced": [
                    {"address": "192.0.2.1", "bgp": true, "since": "2026-01-01T00:00:00Z"},
                    {"address": "192.0.2.2", "bgp": true, "interfaces": ["eth0"], "claim": 4,
                     "since": "2026-01-01T00:00:00Z"},
                ],
                "announcedByBgp": ["192.0.2.1-192.0.2.3", "2001:db8::1", "unreadable"],
                "bgp": {"daemon": "running", "routes": 2, "sessions": [
                    {"peer": "tor", "remote": "192.0.2.254", "state": "Established", "since": "2026-01-01T00:00:00Z"},
                    {"peer": "spine", "remote": "192.0.2.253", "state": "Active", "since": "2026-01-01T00:00:00Z",
                     "lastError": "connection refused"},
                ]},
            },
        }))
        .unwrap();
        let view = NodeView::new(&object).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(view.announced, BTreeMap::from([(ip("192.0.2.2"), 4)]));
        let routed = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"].map(ip);
        assert_eq!(view.bgp, BTreeSet::from(routed));
        let session = |established, error: &str| SessionView {
            established,
            last_error: error.into(),
        };
        let expected = [
            ("spine".to_owned(), session(false, "connection refused")),
            ("tor".to_owned(), session(true, "")),
        ];
        assert_eq!(view.sessions, BTreeMap::from(expected));
    }
}
