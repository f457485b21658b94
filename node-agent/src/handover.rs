//! Connections that are open while an address moves.
//!
//! The new owner does not know them, but the old one does: its connection tracking still leads them to their endpoint.
//! So what arrives in the middle of an unknown flow is passed on, still addressed to the VIP, to the node that owned the
//! address before. Every speaker knows the present owner of every address and tells its node agent, so the rule is in
//! the kernel long before it becomes the owner itself; when the old owner has given its claim up, the rule stays for
//! [`DRAIN`].
//!
//! An address may move again before that. So each node remembers the owners of the last [`DRAIN`] in order: what a fellow
//! passed on to us and we do not know, either, we pass on to the owner before us. The first of them resets what it does
//! not know. All nodes see the same owners in the same order, so nothing circles; while they do not, the hop limit ends it.
//!
//! The rules live in small tables of their own, `ip fairlead` and `ip6 fairlead`: the statement that sends a packet to
//! another next hop does not exist in `inet` tables. A new agent learns from them what the one before it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::model::Family;
use fairlead_runtime::link::SpeakerReport;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::nft::driver::Tables;
use crate::nft::netlink::handover::{Handover, Mac};
use crate::nft::ruleset::FAMILIES;

/// How long flows that were open when an address moved are passed on to the owner before.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often the table is looked at.
const CHECK: Duration = Duration::from_secs(5);

/// Who owned an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This node.
    Myself,
    /// Another one, by its InternalIP of the family of the address.
    Node(IpAddr),
}

/// An owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which node.
    pub who: Who,
    /// Since when it claims the address no more; absent while it does.
    pub left: Option<Duration>,
}

/// What should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each address its owners, the latest first, each once.
    pub owners: BTreeMap<IpAddr, Vec<Owner>>,
    /// MAC addresses of the fellow nodes.
    pub fellows: BTreeSet<Mac>,
}

/// Plans from what the speaker of this node says, carrying on what `before` has of owners that claim their address no
/// more. While no speaker says anything, what was said last goes on.
pub fn plan(report: Option<&SpeakerReport>, before: &Plan, now: Duration) -> Plan {
    let mut plan = before.clone();
    if let Some((report, others)) = report.and_then(|report| Some((report, report.owners.as_ref()?))) {
        let claims = |vip: &IpAddr, who: Who| match who {
            Who::Myself => report.announcing.contains(vip),
            Who::Node(node) => others.get(vip) == Some(&node),
        };
        for (vip, owners) in &mut plan.owners {
            for owner in owners {
                owner.left = match claims(vip, owner.who) {
                    true => None,
                    false => Some(owner.left.unwrap_or(now)),
                };
            }
        }
        let same = |(vip, node): &(&IpAddr, &IpAddr)| Family::of(**vip) == Family::of(**node);
        let others = others
            .iter()
            .filter(same)
            .map(|(vip, node)| (*vip, Who::Node(*node)));
        let mine = report.announcing.iter().map(|vip| (*vip, Who::Myself));
        // Of two that have come since, one must be the later: this node knows best of itself.
        for (vip, who) in others.chain(mine) {
            let claimed = |plan: &Plan| {
                let owners = plan.owners.get(&vip).into_iter().flatten();
                owners.filter(|owner| owner.who == who).any(|owner| {
                    let earlier = before.owners.get(&vip).into_iter().flatten();
                    owner.left.is_none() && earlier.filter(|o| o.who == who).any(|o| o.left.is_none())
                })
            };
            if !claimed(&plan) {
                let owners = plan.owners.entry(vip).or_default();
                owners.retain(|owner| owner.who != who);
                owners.insert(0, Owner { who, left: None });
            }
        }
        // What was open there is lost, and to be reset at once.
        let lost = |who: Who| matches!(who, Who::Node(node) if report.dead.contains(&node));
        for owners in plan.owners.values_mut() {
            owners.retain(|owner| !lost(owner.who));
        }
        plan.fellows = report.fellows.iter().filter_map(|text| parse(text)).collect();
    }
    for owners in plan.owners.values_mut() {
        owners.retain(|owner| owner.left.is_none_or(|left| now < left + DRAIN));
    }
    plan.owners.retain(|_, owners| !owners.is_empty());
    plan
}

/// A MAC address like `02:00:00:00:00:01`.
fn parse(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

impl Plan {
    /// What an agent before this one had in the kernel. Of each owner it is not known since when it is one no more.
    pub fn adopted(tables: &[Handover], now: Duration) -> Self {
        let owner = |who| Owner { who, left: Some(now) };
        let mut plan = Self::default();
        for table in tables {
            for (vip, node) in &table.owners {
                let latest = owner(Who::Node(*node));
                let owners = match table.earlier.get(vip) {
                    // Without one before this node, nothing tells whether it was an owner.
                    None => vec![latest],
                    Some(earlier) if earlier == node => vec![owner(Who::Myself), latest],
                    Some(earlier) => vec![latest, owner(Who::Myself), owner(Who::Node(*earlier))],
                };
                plan.owners.insert(*vip, owners);
            }
            plan.fellows.extend(&table.fellows);
        }
        plan
    }

    /// When the first owner is to be forgotten.
    fn expires(&self) -> Option<Duration> {
        let owners = self.owners.values().flatten();
        owners
            .filter_map(|owner| owner.left)
            .min()
            .map(|left| left + DRAIN)
    }

    /// The table of a family.
    pub fn table(&self, family: Family) -> Handover {
        let mut table = Handover {
            fellows: self.fellows.clone(),
            ..Handover::default()
        };
        for (vip, owners) in self.owners.iter().filter(|(vip, _)| Family::of(**vip) == family) {
            let other = |owner: &Owner| match owner.who {
                Who::Myself => None,
                Who::Node(node) => Some(node),
            };
            if let Some(node) = owners.iter().find_map(other) {
                table.owners.insert(*vip, node);
            }
            let mut from_me = owners.iter().skip_while(|owner| owner.who != Who::Myself);
            if let Some(node) = from_me.nth(1).and_then(other) {
                table.earlier.insert(*vip, node);
            }
        }
        table
    }
}

/// Keeps the tables until the installation leaves, or for ever. `foreign` changes when somebody else changed tables.
pub async fn run(
    mut speaker: watch::Receiver<Option<SpeakerReport>>,
    tables: &Tables,
    foreign: watch::Receiver<u64>,
    mut leaving: watch::Receiver<bool>,
) {
    tokio::select! {
        () = keep(&mut speaker, tables, foreign) => {}
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
}

async fn keep(
    speaker: &mut watch::Receiver<Option<SpeakerReport>>,
    tables: &Tables,
    mut foreign: watch::Receiver<u64>,
) {
    let began = Instant::now();
    let mut current = adopt(tables, began.elapsed()).await;
    let mut held: [Option<Handover>; 2] = [None, None];
    let mut check = tokio::time::interval(CHECK);
    loop {
        current = plan(speaker.borrow_and_update().as_ref(), &current, began.elapsed());
        for (family, held) in FAMILIES.into_iter().zip(&mut held) {
            write(tables, family, held, current.table(family)).await;
        }
        let expires = current
            .expires()
            .map_or(began + Duration::from_secs(86_400), |end| began + end);
        let look = tokio::select! {
            changed = speaker.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                false
            }
            () = sleep_until(expires) => false,
            Ok(()) = foreign.changed() => true,
            _ = check.tick() => true,
        };
        for (family, held) in FAMILIES.into_iter().zip(&mut held) {
            if look && !tables.hands_over(family).await.unwrap_or(false) {
                *held = None;
            }
        }
    }
}

/// What the tables in the kernel tell of the owners of addresses.
async fn adopt(tables: &Tables, now: Duration) -> Plan {
    let mut found = Vec::new();
    for family in FAMILIES {
        match tables.read_hand_over(family).await {
            Ok(table) => found.extend(table),
            Err(error) => warn!(%error, "cannot read to whom open flows are passed on; beginning anew"),
        }
    }
    Plan::adopted(&found, now)
}

/// Brings one table from what it holds to what is wanted.
async fn write(tables: &Tables, family: Family, held: &mut Option<Handover>, wanted: Handover) {
    if held.as_ref() == Some(&wanted) {
        return;
    }
    match tables.hand_over(family, held.clone(), wanted.clone()).await {
        Ok(()) => {
            if held.is_none() {
                info!(
                    ?family,
                    "flows that are open while an address moves are passed on to its owner before"
                );
            }
            *held = Some(wanted);
        }
        Err(error) => {
            warn!(%error, "cannot pass on flows that are open while an address moves; trying again");
            *held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: [&str; 1] = ["192.0.2.100"];

    fn said(owners: &[(&str, &str)], announcing: &[&str]) -> SpeakerReport {
        let parsed = |(vip, node): &(&str, &str)| (vip.parse().unwrap(), node.parse().unwrap());
        SpeakerReport {
            owners: Some(owners.iter().map(parsed).collect()),
            announcing: announcing.iter().map(|vip| vip.parse().unwrap()).collect(),
            fellows: BTreeSet::from(["02:00:00:00:00:01".to_owned(), "?".to_owned()]),
            ..SpeakerReport::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Next hops of unknown flows from clients, and of those from fellows.
    fn shown(plan: &Plan) -> (Vec<String>, Vec<String>) {
        let text = |map: fn(&Handover) -> &BTreeMap<IpAddr, IpAddr>| {
            let tables = FAMILIES.map(|family| plan.table(family));
            let lines = tables.iter().flat_map(map);
            lines.map(|(vip, node)| format!("{vip} {node}")).collect()
        };
        (text(|table| &table.owners), text(|table| &table.earlier))
    }

    #[test]
    fn the_owner_is_known_beforehand_and_remembered_for_the_drain() {
        let owned = said(
            &[("192.0.2.100", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")],
            &[],
        );
        let first = plan(Some(&owned), &Plan::default(), at(0));
        let (both, none) = (["192.0.2.100 192.0.2.2", "2001:db8::1 2001:db8::2"], [""; 0]);
        assert_eq!(shown(&first), (both.map(String::from).to_vec(), vec![]));
        assert_eq!(first.fellows, BTreeSet::from([[2, 0, 0, 0, 0, 1]]));
        // The speaker restarts: what it said goes on.
        let silent = plan(None, &first, at(10));
        assert_eq!(silent, first);
        let untold = SpeakerReport::default();
        assert_eq!(plan(Some(&untold), &first, at(10)), first);
        // The address moves here, and the other node gives it up.
        let mine = said(&[("2001:db8::1", "2001:db8::2")], &MINE);
        let third = plan(Some(&mine), &silent, at(11));
        let earlier = vec!["192.0.2.100 192.0.2.2".to_owned()];
        assert_eq!(shown(&third), (both.map(String::from).to_vec(), earlier));
        assert_eq!(third.expires(), Some(at(71)));
        let fourth = plan(Some(&mine), &third, at(70));
        assert_eq!(shown(&fourth).0, both);
        assert_eq!(shown(&plan(Some(&mine), &fourth, at(71))).0, both[1..]);
        // It is forgotten also while no speaker says anything.
        assert_eq!(shown(&plan(None, &fourth, at(71))).1, none);
    }

    #[test]
    fn nothing_is_passed_on_to_a_node_that_died() {
        let (vip, node) = ("192.0.2.100", "192.0.2.2");
        let first = plan(Some(&said(&[(vip, node)], &[])), &Plan::default(), at(0));
        let mut report = said(&[], &MINE);
        report.dead.insert(node.parse().unwrap());
        let next = plan(Some(&report), &first, at(1));
        assert_eq!(shown(&next), (vec![], vec![]));
        assert_eq!(shown(&plan(None, &next, at(2))), (vec![], vec![]));
    }

    #[test]
    fn an_address_that_moves_twice_leads_back_to_its_first_owner() {
        let vip = "192.0.2.100";
        // As this node sees it: another one, this one, a third one.
        let first = plan(Some(&said(&[(vip, "192.0.2.2")], &[])), &Plan::default(), at(0));
        let both = plan(Some(&said(&[(vip, "192.0.2.2")], &MINE)), &first, at(1));
        let mine = plan(Some(&said(&[], &MINE)), &both, at(2));
        let over = plan(Some(&said(&[(vip, "192.0.2.3")], &MINE)), &mine, at(3));
        let third = plan(Some(&said(&[(vip, "192.0.2.3")], &[])), &over, at(4));
        let text = |vip: &str, node: &str| vec![format!("{vip} {node}")];
        assert_eq!(shown(&third), (text(vip, "192.0.2.3"), text(vip, "192.0.2.2")));
        // A new agent knows as much.
        let tables = FAMILIES.map(|family| third.table(family));
        let adopted = Plan::adopted(&tables, at(0));
        assert_eq!(shown(&adopted), shown(&third));
        let again = plan(Some(&said(&[(vip, "192.0.2.3")], &[])), &adopted, at(1));
        assert_eq!(shown(&again), shown(&third));
        // The address comes back to the first: it knows its flows, and ours of the time between are found from there.
        let back = plan(Some(&said(&[(vip, "192.0.2.2")], &[])), &again, at(5));
        assert_eq!(shown(&back), (text(vip, "192.0.2.2"), vec![]));
    }

    /// However an address moves, what nobody knows visits no node twice.
    #[test]
    fn nothing_circles() {
        let nodes = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
        let vip = "192.0.2.100";
        let mut plans = nodes.map(|_| Plan::default());
        let mut state = 7u64;
        for step in 0..500 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let owner = (state >> 33) as usize % nodes.len();
            for (n, known) in plans.iter_mut().enumerate() {
                let report = match n == owner {
                    true => said(&[], &MINE),
                    false => said(&[(vip, nodes[owner])], &[]),
                };
                *known = plan(Some(&report), known, at(step * 5));
            }
            let tables = plans.each_ref().map(|plan| plan.table(Family::V4));
            let address: IpAddr = vip.parse().unwrap();
            let mut visited = vec![nodes[owner].parse::<IpAddr>().unwrap()];
            let mut next = tables[owner].owners.get(&address);
            while let Some(node) = next {
                assert!(!visited.contains(node), "step {step}: {visited:?}, then {node}");
                visited.push(*node);
                let n = nodes.iter().position(|own| own.parse() == Ok(*node)).unwrap();
                next = tables[n].earlier.get(&address);
            }
        }
    }
}
