//! Connections that are open while an address moves.
//!
//! The new owner does not know them, but the old one does: its connection tracking still leads them to their endpoint.
//! So what arrives in the middle of an unknown flow is passed on, still addressed to the VIP, to the node that owned the
//! address before. Every speaker knows the present owner of every address and tells its node agent, so the rule is in
//! the kernel long before it becomes the owner itself; when the old owner has given its claim up, the rule stays for
//! [`DRAIN`].
//!
//! The rule lives in small tables of their own, `ip fairlead` and `ip6 fairlead`: the statement that sends a packet to
//! another next hop does not exist in `inet` tables. What a fellow node passed on to us is never passed on again, so nothing circles: if we
//! do not know the flow either, it is reset.

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

/// To which node the unknown flows of an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// InternalIP of the node, of the family of the address.
    pub node: IpAddr,
    /// Since when it claims the address no more; absent while it does.
    pub left: Option<Duration>,
}

/// What should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each address, the other node that owns it, or owned it last.
    pub targets: BTreeMap<IpAddr, Target>,
    /// MAC addresses of the fellow nodes.
    pub fellows: BTreeSet<Mac>,
}

/// Plans from what the speaker of this node says, carrying on what `before` has for addresses that nobody else claims any
/// more. While no speaker says anything, what was said last goes on.
pub fn plan(report: Option<&SpeakerReport>, before: &Plan, now: Duration) -> Plan {
    let Some((report, owners)) = report.and_then(|report| Some((report, report.owners.as_ref()?))) else {
        return before.clone();
    };
    let owned = |(vip, node): (&IpAddr, &IpAddr)| {
        let target = Target {
            node: *node,
            left: None,
        };
        (Family::of(*vip) == Family::of(*node)).then_some((*vip, target))
    };
    let mut targets: BTreeMap<IpAddr, Target> = owners.iter().filter_map(owned).collect();
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
        fellows: report.fellows.iter().filter_map(|text| parse(text)).collect(),
    }
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
    /// When the first address is no longer to be passed on.
    fn expires(&self) -> Option<Duration> {
        self.targets
            .values()
            .filter_map(|target| target.left)
            .min()
            .map(|left| left + DRAIN)
    }

    /// The table of a family.
    pub fn table(&self, family: Family) -> Handover {
        let of_family =
            |(vip, target): (&IpAddr, &Target)| (Family::of(*vip) == family).then_some((*vip, target.node));
        Handover {
            owners: self.targets.iter().filter_map(of_family).collect(),
            fellows: self.fellows.clone(),
        }
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
    let mut current = Plan::default();
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

    fn said(owners: &[(&str, &str)]) -> SpeakerReport {
        let parsed = |(vip, node): &(&str, &str)| (vip.parse().unwrap(), node.parse().unwrap());
        SpeakerReport {
            owners: Some(owners.iter().map(parsed).collect()),
            fellows: BTreeSet::from(["02:00:00:00:00:01".to_owned(), "?".to_owned()]),
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
        assert_eq!(
            shown(&first),
            ["192.0.2.100 192.0.2.2 false", "2001:db8::1 2001:db8::2 false"]
        );
        assert_eq!(first.fellows, BTreeSet::from([[2, 0, 0, 0, 0, 1]]));
        assert_eq!(first.table(Family::V6).owners.len(), 1);
        assert_eq!(first.table(Family::V4).owners.len(), 1);
        // The speaker restarts: what it said goes on.
        let silent = plan(None, &first, at(10));
        assert_eq!(silent, first);
        let untold = SpeakerReport::default();
        assert_eq!(plan(Some(&untold), &first, at(10)), first);
        // The address moves here, and the other node gives it up.
        let mine = said(&[("2001:db8::1", "2001:db8::2")]);
        let third = plan(Some(&mine), &silent, at(11));
        assert_eq!(
            shown(&third),
            ["192.0.2.100 192.0.2.2 true", "2001:db8::1 2001:db8::2 false"]
        );
        assert_eq!(third.expires(), Some(at(71)));
        let fourth = plan(Some(&mine), &third, at(70));
        assert_eq!(
            shown(&fourth),
            ["192.0.2.100 192.0.2.2 true", "2001:db8::1 2001:db8::2 false"]
        );
        assert_eq!(
            shown(&plan(Some(&mine), &fourth, at(71))),
            ["2001:db8::1 2001:db8::2 false"]
        );
    }
}
