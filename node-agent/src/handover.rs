//! Connections that are open while an address moves.
//!
//! The new owner does not know them, but the old one does: its connection tracking still leads them to their endpoint.
//! So what arrives in the middle of an unknown flow is passed on, still addressed to the VIP, to the node that owned the
//! address before. Every node knows the present owner of every address from the published records, and has this rule in
//! the kernel long before it becomes the owner itself; when the old owner has given its claim up, the rule stays for
//! [`DRAIN`].
//!
//! The rule lives in a small table of its own, `ip fairlead`: the statement that sends a packet to another next hop
//! does not exist in `inet` tables. What a fellow node passed on to us is never passed on again, so nothing circles: if we
//! do not know the flow either, it is reset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairlead_api::{NodeState, convert};
use fairlead_core::model::{Family, Node, NodeName};
use fairlead_runtime::Table;
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::nft::TABLE;
use crate::nft::driver::Nft;

/// How long flows that were open when an address moved are passed on to the owner before.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often the table is looked at.
const CHECK: Duration = Duration::from_secs(5);

/// What a node's published record says here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Claim epochs of the addresses that the node announces.
    pub claims: BTreeMap<IpAddr, i64>,
    /// MAC addresses of its interfaces.
    pub macs: BTreeSet<String>,
}

/// Reads a NodeState; heartbeats make no difference to what is read.
pub fn claims(state: &NodeState) -> Option<Claims> {
    let status = state.status.clone().unwrap_or_default();
    let claimed = |c: &fairlead_api::node_state::Candidacy| Some((c.address, c.claim?));
    Some(Claims {
        claims: status.candidacy.candidacies.iter().filter_map(claimed).collect(),
        macs: status
            .interfaces
            .into_iter()
            .map(|interface| interface.mac)
            .collect(),
    })
}

/// What the rule is made from.
#[derive(Debug)]
pub struct Index {
    /// Published records by node.
    pub states: Table<Claims>,
    /// All nodes, for their addresses.
    pub nodes: Table<Node>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            states: Table::new("NodeState"),
            nodes: Table::new("Node"),
        }
    }
}

/// To which node the unknown flows of an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// InternalIP of the node.
    pub node: Ipv4Addr,
    /// Since when it claims the address no more; absent while it does.
    pub left: Option<Duration>,
}

/// What should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each address, the other node that owns it, or owned it last.
    pub targets: BTreeMap<Ipv4Addr, Target>,
    /// MAC addresses of the fellow nodes.
    pub fellows: BTreeSet<String>,
}

/// Plans for node `me`, carrying on what `before` has for addresses that nobody else claims any more.
pub fn plan(me: &NodeName, index: &Index, before: &Plan, now: Duration) -> Plan {
    let mut owners: BTreeMap<Ipv4Addr, (i64, Ipv4Addr)> = BTreeMap::new();
    let mut fellows = BTreeSet::new();
    for (name, state) in index.states.iter().filter(|(name, _)| *name != me.as_str()) {
        fellows.extend(state.macs.iter().cloned());
        let address = index.nodes.get(name).and_then(|node| {
            let own = node.internal_ips.iter().find(|ip| Family::of(**ip) == Family::V4);
            own.copied()
        });
        let Some(IpAddr::V4(node)) = address else { continue };
        for (vip, claim) in &state.claims {
            if let IpAddr::V4(vip) = vip {
                let owner = owners.entry(*vip).or_insert((*claim, node));
                *owner = (*owner).max((*claim, node));
            }
        }
    }
    let mut targets: BTreeMap<Ipv4Addr, Target> = owners
        .into_iter()
        .map(|(vip, (_, node))| (vip, Target { node, left: None }))
        .collect();
    for (vip, target) in &before.targets {
        let left = target.left.unwrap_or(now);
        if !targets.contains_key(vip) && now < left + DRAIN {
            targets.insert(
                *vip,
                Target {
                    node: target.node,
                    left: Some(left),
                },
            );
        }
    }
    Plan { targets, fellows }
}

impl Plan {
    /// When the first address is no longer to be passed on.
    fn expires(&self) -> Option<Duration> {
        self.targets
            .values()
            .filter_map(|target| target.left)
            .min()
            .map(|left| left + DRAIN)
    }

    /// The table as one transaction.
    pub fn render(&self) -> String {
        let list = |elements: Vec<String>| match elements.as_slice() {
            [] => String::new(),
            some => format!("\t\telements = {{ {} }}\n", some.join(", ")),
        };
        let owners = list(
            self.targets
                .iter()
                .map(|(vip, to)| format!("{vip} : {}", to.node))
                .collect(),
        );
        let fellows = list(self.fellows.iter().cloned().collect());
        // Connection tracking calls a lone FIN or RST invalid where it calls an ACK new.
        format!(
            "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\
             \tmap owners {{\n\t\ttype ipv4_addr : ipv4_addr\n{owners}\t}}\n\
             \tset fellows {{\n\t\ttype ether_addr\n{fellows}\t}}\n\
             \tchain prerouting {{\n\t\ttype filter hook prerouting priority -115; policy accept;\n\
             \t\tether saddr @fellows accept\n\
             \t\tct state {{ invalid, new }} tcp flags & (fin | syn | rst | ack) != syn \
             dup to ip daddr map @owners drop\n\t}}\n}}\n"
        )
    }
}

/// Keeps the table until the installation leaves, or for ever.
pub async fn run(client: &Client, me: &NodeName, nft: &Nft, mut leaving: watch::Receiver<bool>) {
    let shared = Shared::new(Index::default());
    let states: Api<Guarded<NodeState>> = Api::all(client.clone());
    let nodes: Api<Guarded<k8s_openapi::api::core::v1::Node>> = Api::all(client.clone());
    let follow_states = follow(states, config(), shared.clone(), |i| &mut i.states, claims);
    let follow_nodes = follow(nodes, config(), shared.clone(), |i| &mut i.nodes, convert::node);
    tokio::select! {
        () = keep(&shared, me, nft) => {}
        () = follow_states => {}
        () = follow_nodes => {}
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
}

async fn keep(shared: &Shared<Index>, me: &NodeName, nft: &Nft) {
    let began = Instant::now();
    let mut changes = shared.changes();
    let (mut plan_now, mut applied) = (Plan::default(), None);
    let mut check = tokio::time::interval(CHECK);
    loop {
        let next = shared.with(|index| {
            (index.states.listed() && index.nodes.listed())
                .then(|| plan(me, index, &plan_now, began.elapsed()))
        });
        if let Some(next) = next {
            let text = next.render();
            plan_now = next;
            if applied.as_ref() != Some(&text) {
                match nft.apply(&text).await {
                    Ok(()) => {
                        if applied.is_none() {
                            info!(
                                "flows that are open while an address moves are passed on to its owner before"
                            );
                        }
                        applied = Some(text);
                    }
                    Err(error) => {
                        warn!(%error, "cannot pass on flows that are open while an address moves; trying again");
                        applied = None;
                    }
                }
            }
        }
        let expires = plan_now
            .expires()
            .map_or(began + Duration::from_secs(86_400), |end| began + end);
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep_until(expires) => {}
            _ = check.tick() => {
                if !nft.has_table("ip").await {
                    applied = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str) -> Node {
        let object = serde_json::json!({
            "metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        convert::node(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn state(mac: &str, claims: &[(&str, i64)]) -> Claims {
        let claims = claims
            .iter()
            .map(|(vip, claim)| (vip.parse().unwrap(), *claim))
            .collect();
        Claims {
            claims,
            macs: BTreeSet::from([mac.to_owned()]),
        }
    }

    fn index(states: &[(&str, Claims)]) -> Index {
        let mut index = Index::default();
        index.nodes.apply("me", Some(node("me", "192.0.2.1")));
        index.nodes.apply("a", Some(node("a", "192.0.2.2")));
        index.nodes.apply("b", Some(node("b", "192.0.2.3")));
        for (name, state) in states {
            index.states.apply(name, Some(state.clone()));
        }
        index
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.targets
            .iter()
            .map(|(vip, target)| format!("{vip} {} {}", target.node, target.left.is_some()))
            .collect()
    }

    #[test]
    fn the_owner_is_known_beforehand_and_remembered_for_the_drain() {
        let (me, at) = (NodeName::from("me"), Duration::from_secs);
        let vip = "192.0.2.100";
        let owned = index(&[("a", state("02::1", &[(vip, 1)])), ("me", state("02::9", &[]))]);
        let first = plan(&me, &owned, &Plan::default(), at(0));
        assert_eq!(shown(&first), ["192.0.2.100 192.0.2.2 false"]);
        assert_eq!(
            first.fellows,
            BTreeSet::from(["02::1".to_owned()]),
            "this node is not its own fellow"
        );
        // It moves here: first both claim it, then the old owner gives up.
        let both = index(&[
            ("a", state("02::1", &[(vip, 1)])),
            ("me", state("02::9", &[(vip, 2)])),
        ]);
        let second = plan(&me, &both, &first, at(10));
        assert_eq!(shown(&second), ["192.0.2.100 192.0.2.2 false"]);
        let mine = index(&[("a", state("02::1", &[])), ("me", state("02::9", &[(vip, 2)]))]);
        let third = plan(&me, &mine, &second, at(11));
        assert_eq!(shown(&third), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(third.expires(), Some(at(71)));
        let fourth = plan(&me, &mine, &third, at(70));
        assert_eq!(shown(&fourth), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(shown(&plan(&me, &mine, &fourth, at(71))), [""; 0]);
    }

    #[test]
    fn of_two_claims_the_newer_one_counts_and_a_node_without_address_none() {
        let vip = "192.0.2.100";
        let two = index(&[
            ("a", state("02::1", &[(vip, 2)])),
            ("b", state("02::2", &[(vip, 1)])),
            ("gone", state("02::3", &[(vip, 9)])),
        ]);
        let plan = plan(&NodeName::from("me"), &two, &Plan::default(), Duration::ZERO);
        assert_eq!(shown(&plan), ["192.0.2.100 192.0.2.2 false"]);
    }
}
