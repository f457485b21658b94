//! The NodeState that tells people and the controller what this node does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_api::NodeStateStatus;
use fairlead_api::node_state::{
    AddressConflict, AnnouncedAddress, DataPathState, GossipState, HeldBack, HeldBackAddress, LISTED_MOST,
    NETWORK_MOST, NodeInterface, ROUTED_MOST,
};
use fairlead_core::model::ServiceKey;
use fairlead_core::range::IpRange;
use fairlead_core::reason::Reason;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::datapath::Memory;
use crate::decide::Decision;
use crate::links::{self, Links};

/// Hold-backs that are listed, all reasons together; the counts are always complete.
pub const LISTED: usize = 200;

/// Since when each thing that stands in the status holds: an address, its Services, and the reason.
#[derive(Clone, Debug, Default)]
pub struct Since(BTreeMap<(IpAddr, Vec<String>, String), Timestamp>);

impl Since {
    /// Continues what an earlier process of this node wrote.
    pub fn continued(status: &NodeStateStatus) -> Self {
        let announced = status.announced.iter().map(|entry| {
            let key = (
                entry.address,
                entry.services.clone(),
                Reason::Announced.to_string(),
            );
            (key, entry.since.0)
        });
        let held = status.held_back.iter().flat_map(|group| {
            group.addresses.iter().map(|entry| {
                let key = (entry.address, entry.services.clone(), group.reason.clone());
                (key, entry.since.0)
            })
        });
        Self(announced.chain(held).collect())
    }
}

/// Writes the status for a decision.
pub fn render(
    decision: &Decision,
    links: &Links,
    data_path: &Memory,
    gossip: &GossipState,
    withdrawn: bool,
    since: &mut Since,
    clock: (Instant, Timestamp),
) -> NodeStateStatus {
    let mut kept = BTreeMap::new();
    let mut stamp = |address: IpAddr, services: &[String], word: &str| {
        let key = (address, services.to_vec(), word.to_owned());
        let at = since.0.get(&key).copied().unwrap_or(clock.1);
        kept.insert(key, at);
        Time(at)
    };
    let mut announced: BTreeMap<IpAddr, AnnouncedAddress> = BTreeMap::new();
    let mut entry = |address: IpAddr, services: &[ServiceKey]| {
        let services = names(services);
        AnnouncedAddress {
            address,
            interfaces: Vec::new(),
            claim: 0,
            bgp: false,
            draining: false,
            since: stamp(address, &services, Reason::Announced.as_str()),
            services,
        }
    };
    for (address, services, interfaces) in decision.announced() {
        let linked = AnnouncedAddress {
            interfaces: interfaces.iter().cloned().collect(),
            claim: decision.plan.held.get(&address).map_or(0, |hold| hold.claim),
            ..entry(address, services)
        };
        announced.insert(address, linked);
    }
    for (address, services, routed) in decision.routed() {
        let known = announced
            .entry(address)
            .or_insert_with(|| entry(address, services));
        known.bgp = true;
        known.draining = routed.draining;
    }
    let announced_count = announced.len() as i64;
    let routed = announced.values().filter(|entry| entry.bgp);
    let announced_by_bgp = IpRange::gather(routed.map(|entry| entry.address));
    let mut room = ROUTED_MOST;
    announced.retain(|_, entry| {
        let linked = !entry.interfaces.is_empty();
        let listed = linked || room > 0;
        room -= usize::from(listed && !linked);
        listed
    });
    let mut groups: BTreeMap<Reason, Vec<HeldBackAddress>> = BTreeMap::new();
    for (address, services, refusal) in decision.held_back() {
        let services = names(services);
        groups.entry(refusal.reason).or_default().push(HeldBackAddress {
            address,
            since: stamp(address, &services, refusal.reason.as_str()),
            services,
            message: refusal.message,
        });
    }
    let conflicts: Vec<AddressConflict> = decision
        .conflicts
        .iter()
        .take(LISTED_MOST)
        .map(|(address, conflict)| {
            let services = decision
                .evaluations
                .get(address)
                .map(|evaluation| names(&evaluation.services));
            let services = services.unwrap_or_default();
            AddressConflict {
                address: *address,
                since: stamp(*address, &services, Reason::AddressConflict.as_str()),
                services,
                mac: conflict.by.to_string(),
                interface: conflict.interface.clone(),
            }
        })
        .collect();
    since.0 = kept;
    let held_back_count: usize = groups.values().map(Vec::len).sum();
    let mut room = LISTED;
    // Reasons in the order of the enum: `NotElected`, which is no fault, comes last and gets what room is left.
    let held_back = groups
        .into_iter()
        .map(|(reason, mut addresses)| {
            let count = addresses.len() as i64;
            addresses.truncate(room);
            room -= addresses.len();
            HeldBack {
                reason: reason.to_string(),
                count,
                addresses,
            }
        })
        .collect();
    NodeStateStatus {
        bgp: None,
        announced_count,
        announced: announced.into_values().collect(),
        announced_by_bgp: announced_by_bgp.iter().map(ToString::to_string).collect(),
        held_back_count: held_back_count as i64,
        held_back,
        data_path: DataPathState {
            connected: data_path.connected(clock.0),
            plan: data_path.plan().cast_signed(),
            programmed: data_path.programmed() as i64,
            clean: data_path.clean(),
            pod_sources: data_path.pod_sources().to_owned(),
        },
        interfaces: links
            .iter()
            .filter(|(name, _)| decision.interfaces.contains(*name))
            .map(|(name, link)| NodeInterface {
                name: name.clone(),
                mac: link.mac.to_string(),
            })
            .collect(),
        subnets: links::on_link_subnets(links)
            .into_iter()
            .take(NETWORK_MOST)
            .collect(),
        gateways: links::gateways(links).into_iter().take(NETWORK_MOST).collect(),
        conflicts,
        gossip: gossip.clone(),
        withdrawn,
    }
}

/// Services as they stand in the status and in logs.
pub fn names(services: &[ServiceKey]) -> Vec<String> {
    services.iter().map(ToString::to_string).collect()
}

/// Does anybody wait to read the new status? A sentence that reads differently, or the number of a plan, has time.
pub fn notable(old: &NodeStateStatus, new: &NodeStateStatus) -> bool {
    let essence = |status: &NodeStateStatus| {
        let mut status = status.clone();
        status.data_path.plan = 0;
        status.data_path.programmed = 0;
        for group in &mut status.held_back {
            for entry in &mut group.addresses {
                entry.message.clear();
            }
        }
        status
    };
    essence(old) != essence(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use fairlead_core::announce::{Candidate, Evaluation, Hold, bgp};
    use fairlead_core::reason::Refusal;

    /// This many addresses are held back, the even ones because another node is elected.
    fn held_back(count: u8, message: &str) -> Decision {
        let mut decision = Decision::default();
        for last in 0..count {
            let reason = if last % 2 == 0 {
                Reason::NotElected
            } else {
                Reason::ProbeFailed
            };
            let evaluation = Evaluation {
                services: vec![ServiceKey::new("default", format!("s{last}"))],
                outcome: Err(Refusal::new(reason, message)),
                bgp: None,
                probes: BTreeSet::new(),
                health: Default::default(),
            };
            decision
                .evaluations
                .insert(IpAddr::from([192, 0, 2, last]), evaluation.into());
        }
        decision
    }

    fn rendered(decision: &Decision, since: &mut Since, second: i64) -> NodeStateStatus {
        let clock = (Instant::now(), Timestamp::from_second(second).unwrap());
        render(
            decision,
            &Links::new(),
            &Memory::default(),
            &GossipState::default(),
            false,
            since,
            clock,
        )
    }

    #[test]
    fn lists_are_bounded_counts_are_not_and_faults_come_first() {
        let status = rendered(&held_back(250, "x"), &mut Since::default(), 1);
        assert_eq!(status.held_back_count, 250);
        let groups: Vec<(&str, i64, usize)> = status
            .held_back
            .iter()
            .map(|g| (g.reason.as_str(), g.count, g.addresses.len()))
            .collect();
        assert_eq!(groups, [("ProbeFailed", 125, 125), ("NotElected", 125, 75)]);
    }

    #[test]
    fn since_is_kept_while_the_reason_is_and_across_restarts() {
        let mut since = Since::default();
        rendered(&held_back(2, "x"), &mut since, 10);
        let later = rendered(&held_back(2, "y"), &mut since, 20);
        let times = |status: &NodeStateStatus| -> Vec<i64> {
            status
                .held_back
                .iter()
                .map(|group| group.addresses[0].since.0.as_second())
                .collect()
        };
        assert_eq!(times(&later), [10, 10]);
        let mut continued = Since::continued(&later);
        assert_eq!(times(&rendered(&held_back(2, "z"), &mut continued, 30)), [10, 10]);
        // Gone and back is a new time.
        rendered(&held_back(0, "z"), &mut continued, 40);
        assert_eq!(times(&rendered(&held_back(2, "z"), &mut continued, 50)), [50, 50]);
    }

    #[test]
    fn an_address_stands_once_however_it_is_announced() {
        let mut decision = held_back(3, "x");
        for (last, linked, routed) in [(0, true, true), (1, false, true), (2, true, false)] {
            let address = IpAddr::from([192, 0, 2, last]);
            if linked {
                let evaluation = decision.evaluations.get_mut(&address).unwrap();
                std::sync::Arc::make_mut(evaluation).outcome = Ok(Candidate {
                    interfaces: ["eth0".to_owned()].into(),
                    ..Candidate::default()
                });
                let hold = Hold {
                    claim: 7,
                    losing: None,
                };
                decision.plan.held.insert(address, hold);
            }
            if routed {
                let announced = bgp::Announced {
                    draining: linked,
                    ..bgp::Announced::default()
                };
                decision.bgp.announced.insert(address, announced);
            }
        }
        let status = rendered(&decision, &mut Since::default(), 1);
        let told: Vec<(usize, i64, bool, bool)> = status
            .announced
            .iter()
            .map(|entry| (entry.interfaces.len(), entry.claim, entry.bgp, entry.draining))
            .collect();
        let expected = [(1, 7, true, true), (0, 0, true, false), (1, 7, false, false)];
        assert_eq!(told, expected);
        assert_eq!((status.announced_count, status.held_back_count), (3, 0));
    }

    #[test]
    fn what_is_announced_by_bgp_alone_is_listed_within_bounds_and_told_as_a_whole() {
        let mut decision = held_back(0, "x");
        for number in 0..2000u16 {
            let address = IpAddr::from([10, 0, (number >> 8) as u8, (number & 255) as u8]);
            let evaluation = Evaluation {
                services: vec![ServiceKey::new("default", "s")],
                outcome: Err(Refusal::new(Reason::NoAdvertisement, "x")),
                bgp: None,
                probes: BTreeSet::new(),
                health: Default::default(),
            };
            decision.evaluations.insert(address, evaluation.into());
            decision.bgp.announced.insert(address, bgp::Announced::default());
        }
        let status = rendered(&decision, &mut Since::default(), 1);
        assert_eq!(
            (status.announced_count, status.announced.len()),
            (2000, ROUTED_MOST)
        );
        assert_eq!(status.announced_by_bgp, ["10.0.0.0-10.0.7.207"]);
    }

    #[test]
    fn the_network_is_told_within_bounds() {
        let links = |count: u8| {
            let address = |n: u8| IpAddr::from([10, 0, n, 1]);
            let link = links::Link {
                index: 1,
                mac: "02:00:00:00:00:01".parse().unwrap(),
                up: true,
                master: None,
                subnets: (0..count)
                    .map(|n| format!("10.0.{n}.0/24").parse().unwrap())
                    .collect(),
                gateways: (0..count).rev().map(address).collect(),
            };
            Links::from([("eth0".to_owned(), link)])
        };
        let of = |count| {
            let clock = (Instant::now(), Timestamp::UNIX_EPOCH);
            let since = &mut Since::default();
            render(
                &Decision::default(),
                &links(count),
                &Memory::default(),
                &GossipState::default(),
                false,
                since,
                clock,
            )
        };
        let full = of(100);
        assert_eq!(
            (full.subnets.len(), full.gateways.len()),
            (NETWORK_MOST, NETWORK_MOST)
        );
        assert_eq!(
            full.gateways[0].to_string(),
            "10.0.99.1",
            "the order of the routes is kept"
        );
    }

    #[test]
    fn another_sentence_or_another_plan_is_not_notable() {
        let status = |count, message| rendered(&held_back(count, message), &mut Since::default(), 1);
        let old = status(2, "HTTP 503");
        assert!(!notable(&old, &status(2, "connection refused")));
        assert!(notable(&old, &status(3, "HTTP 503")));
        let mut planned = old.clone();
        planned.data_path.plan = 7;
        assert!(!notable(&old, &planned));
        let withdrawn = NodeStateStatus {
            withdrawn: true,
            ..old.clone()
        };
        assert!(notable(&old, &withdrawn));
    }
}
