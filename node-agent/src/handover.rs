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
use fairlead_core::model::NodeName;
use fairlead_runtime::Table;
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::index::Index;
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
    let candidacies = convert::record(&status.candidacy).candidacies.into_iter();
    Some(Claims {
        claims: candidacies
            .filter_map(|(address, candidacy)| Some((address, candidacy.claim?)))
            .collect(),
        macs: status
            .interfaces
            .into_iter()
            .map(|interface| interface.mac)
            .collect(),
    })
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

/// Plans for node `me` from the published records and the nodes' addresses, carrying on what `before` has for addresses
/// that nobody else claims any more.
pub fn plan(
    me: &NodeName,
    states: &Table<Claims>,
    nodes: &BTreeMap<NodeName, Ipv4Addr>,
    before: &Plan,
    now: Duration,
) -> Plan {
    let mut owners: BTreeMap<Ipv4Addr, (i64, Ipv4Addr)> = BTreeMap::new();
    let mut fellows = BTreeSet::new();
    for (name, state) in states.iter().filter(|(name, _)| *name != me.as_str()) {
        fellows.extend(state.macs.iter().cloned());
        let Some(&node) = nodes.get(&NodeName::from(name)) else {
            continue;
        };
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

/// Keeps the table until the installation leaves, or for ever. Nodes are read from the agent's index.
pub async fn run(
    client: &Client,
    index: &Shared<Index>,
    me: &NodeName,
    nft: &Nft,
    mut leaving: watch::Receiver<bool>,
) {
    let states = Shared::new(Table::new("NodeState"));
    let api: Api<Guarded<NodeState>> = Api::all(client.clone());
    tokio::select! {
        () = keep(&states, index, me, nft) => {}
        () = follow(api, config(), states.clone(), |table| table, claims) => {}
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
}

async fn keep(states: &Shared<Table<Claims>>, index: &Shared<Index>, me: &NodeName, nft: &Nft) {
    let began = Instant::now();
    let (mut claimed, mut known) = (states.changes(), index.changes());
    let (mut plan_now, mut applied) = (Plan::default(), None);
    let mut check = tokio::time::interval(CHECK);
    loop {
        let nodes = index.with(|index| index.node_addresses());
        let next = states.with(|states| {
            let nodes = nodes.filter(|_| states.listed())?;
            Some(plan(me, states, &nodes, &plan_now, began.elapsed()))
        });
        // The index changes much more often than the owners do.
        if let Some(next) = next.filter(|next| applied.is_none() || *next != plan_now) {
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
            _ = claimed.changed() => {}
            _ = known.changed() => {}
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

    fn table(states: &[(&str, Claims)]) -> Table<Claims> {
        let mut table = Table::new("NodeState");
        for (name, state) in states {
            table.apply(name, Some(state.clone()));
        }
        table
    }

    /// As node `me`; of the nodes that have records, `gone` has no Node object.
    fn planned(states: &Table<Claims>, before: &Plan, now: Duration) -> Plan {
        let nodes = [("me", 1), ("a", 2), ("b", 3)]
            .map(|(name, last)| (NodeName::from(name), Ipv4Addr::new(192, 0, 2, last)));
        plan(&NodeName::from("me"), states, &nodes.into(), before, now)
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.targets
            .iter()
            .map(|(vip, target)| format!("{vip} {} {}", target.node, target.left.is_some()))
            .collect()
    }

    #[test]
    fn the_owner_is_known_beforehand_and_remembered_for_the_drain() {
        let at = Duration::from_secs;
        let vip = "192.0.2.100";
        let owned = table(&[("a", state("02::1", &[(vip, 1)])), ("me", state("02::9", &[]))]);
        let first = planned(&owned, &Plan::default(), at(0));
        assert_eq!(shown(&first), ["192.0.2.100 192.0.2.2 false"]);
        assert_eq!(
            first.fellows,
            BTreeSet::from(["02::1".to_owned()]),
            "this node is not its own fellow"
        );
        // It moves here: first both claim it, then the old owner gives up.
        let both = table(&[
            ("a", state("02::1", &[(vip, 1)])),
            ("me", state("02::9", &[(vip, 2)])),
        ]);
        let second = planned(&both, &first, at(10));
        assert_eq!(shown(&second), ["192.0.2.100 192.0.2.2 false"]);
        let mine = table(&[("a", state("02::1", &[])), ("me", state("02::9", &[(vip, 2)]))]);
        let third = planned(&mine, &second, at(11));
        assert_eq!(shown(&third), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(third.expires(), Some(at(71)));
        let fourth = planned(&mine, &third, at(70));
        assert_eq!(shown(&fourth), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(shown(&planned(&mine, &fourth, at(71))), [""; 0]);
    }

    #[test]
    fn of_two_claims_the_newer_one_counts_and_a_node_without_address_none() {
        let vip = "192.0.2.100";
        let two = table(&[
            ("a", state("02::1", &[(vip, 2)])),
            ("b", state("02::2", &[(vip, 1)])),
            ("gone", state("02::3", &[(vip, 9)])),
        ]);
        let plan = planned(&two, &Plan::default(), Duration::ZERO);
        assert_eq!(shown(&plan), ["192.0.2.100 192.0.2.2 false"]);
    }

    #[test]
    fn only_claims_and_mac_addresses_are_read_of_a_record() {
        let state = |sequence: i64| {
            let object = serde_json::json!({
                "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": "a"}, "spec": {},
                "status": {
                    "candidacy": {"version": 1, "incarnation": 7, "sequence": sequence, "candidacies": [
                        {"address": "192.0.2.100", "claim": 3}, {"address": "192.0.2.101", "cordoned": true},
                    ]},
                    "interfaces": [{"name": "eth0", "mac": "02::1"}],
                },
            });
            claims(&serde_json::from_value(object).unwrap()).unwrap()
        };
        assert_eq!(state(1), self::state("02::1", &[("192.0.2.100", 3)]));
        assert_eq!(state(1), state(2), "a heartbeat is no news");
    }
}
