//! Connections that are open while an address moves.
//!
//! The new owner does not know them, but the old one does: its connection tracking still leads them to their endpoint.
//! So what arrives in the middle of an unknown flow is passed on, still addressed to the VIP, to the node that owned the
//! address before. Every speaker knows the present owner of every address and tells its node agent, so the rule is in
//! the kernel long before it becomes the owner itself; when the old owner has given its claim up, the rule stays for
//! [`DRAIN`].
//!
//! The rule lives in a small table of its own, `ip fairlead`: the statement that sends a packet to another next hop
//! does not exist in `inet` tables. What a fellow node passed on to us is never passed on again, so nothing circles: if we
//! do not know the flow either, it is reset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairlead_runtime::link::SpeakerReport;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::nft::TABLE;
use crate::nft::driver::Nft;

/// How long flows that were open when an address moved are passed on to the owner before.
pub const DRAIN: Duration = Duration::from_secs(60);
/// How often the table is looked at.
const CHECK: Duration = Duration::from_secs(5);

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

/// Plans from what the speaker of this node says, carrying on what `before` has for addresses that nobody else claims any
/// more. While no speaker says anything, what was said last goes on.
pub fn plan(report: Option<&SpeakerReport>, before: &Plan, now: Duration) -> Plan {
    let Some(owners) = report.and_then(|report| report.owners.as_ref()) else {
        return before.clone();
    };
    let four = |(vip, node): (&IpAddr, &IpAddr)| match (vip, node) {
        (IpAddr::V4(vip), IpAddr::V4(node)) => Some((
            *vip,
            Target {
                node: *node,
                left: None,
            },
        )),
        _ => None,
    };
    let mut targets: BTreeMap<Ipv4Addr, Target> = owners.iter().filter_map(four).collect();
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
    Plan {
        targets,
        fellows: report.map(|report| report.fellows.clone()).unwrap_or_default(),
    }
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
pub async fn run(
    mut speaker: watch::Receiver<Option<SpeakerReport>>,
    nft: &Nft,
    mut leaving: watch::Receiver<bool>,
) {
    tokio::select! {
        () = keep(&mut speaker, nft) => {}
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
}

async fn keep(speaker: &mut watch::Receiver<Option<SpeakerReport>>, nft: &Nft) {
    let began = Instant::now();
    let (mut plan_now, mut applied) = (Plan::default(), None);
    let mut check = tokio::time::interval(CHECK);
    loop {
        let next = plan(speaker.borrow_and_update().as_ref(), &plan_now, began.elapsed());
        if applied.is_none() || next != plan_now {
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
            changed = speaker.changed() => if changed.is_err() { std::future::pending().await },
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

    fn said(owners: &[(&str, &str)]) -> SpeakerReport {
        let parsed = |(vip, node): &(&str, &str)| (vip.parse().unwrap(), node.parse().unwrap());
        SpeakerReport {
            owners: Some(owners.iter().map(parsed).collect()),
            fellows: BTreeSet::from(["02::1".to_owned()]),
            ..SpeakerReport::default()
        }
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
        let owned = said(&[("192.0.2.100", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]);
        let first = plan(Some(&owned), &Plan::default(), at(0));
        assert_eq!(shown(&first), ["192.0.2.100 192.0.2.2 false"]);
        assert_eq!(first.fellows, BTreeSet::from(["02::1".to_owned()]));
        // The speaker restarts: what it said goes on.
        let silent = plan(None, &first, at(10));
        assert_eq!(silent, first);
        let untold = SpeakerReport::default();
        assert_eq!(plan(Some(&untold), &first, at(10)), first);
        // The address moves here, and the other node gives it up.
        let mine = said(&[]);
        let third = plan(Some(&mine), &silent, at(11));
        assert_eq!(shown(&third), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(third.expires(), Some(at(71)));
        let fourth = plan(Some(&mine), &third, at(70));
        assert_eq!(shown(&fourth), ["192.0.2.100 192.0.2.2 true"]);
        assert_eq!(shown(&plan(Some(&mine), &fourth, at(71))), [""; 0]);
    }
}
