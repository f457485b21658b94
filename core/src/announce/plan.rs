//! The elected owner against what this node announces now.
//!
//! | elected | I announce | then |
//! |---|---|---|
//! | me | yes | go on; raise my claim if somebody else's is not below it |
//! | me | no | take over with a claim above every claim seen; if there is none, wait for [`SETTLE`] first |
//! | another | yes | go on until its record carries a claim not below mine, or [`YIELD_LIMIT`] is over |
//! | another | no | stay silent |
//! | nobody (my record is not out yet) | yes | go on |
//!
//! A node that is preferred takes an address over from another only once it has been a candidate for as long as the
//! advertisement demands, and says so in its record. After a restart it begins to wait anew.
//!
//! A node that is not eligible stops at once, whoever is elected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::election::{elect, highest_claim, successor};
use super::eligibility::Candidate;
use super::record::{Candidacy, LAST_RESORT, Record, Records};
use crate::model::NodeName;

/// How long the previous owner goes on answering while the elected one has not claimed the address.
pub const YIELD_LIMIT: Duration = Duration::from_secs(3);

/// How long a new candidate waits before it takes an address that nobody has claimed. A new Service makes all nodes
/// candidates at the same moment; without this each would claim the address until it sees the records of the others.
pub const SETTLE: Duration = Duration::from_millis(200);

/// What the plan is made of.
pub struct Input<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// The addresses for which this node passed every filter.
    pub candidates: &'a BTreeMap<IpAddr, Candidate>,
    /// All published records, this node's own included, as they came back.
    pub published: &'a Records,
    /// The nodes that are alive.
    pub live: &'a BTreeSet<NodeName>,
    /// What this node announces now: [`Plan::held`] of the last plan, or [`Hold::continued`] after a restart.
    pub held: &'a BTreeMap<IpAddr, Hold>,
    /// [`Plan::offered`] of the last plan.
    pub offered: &'a BTreeMap<IpAddr, Duration>,
    /// [`Plan::eligible_since`] of the last plan.
    pub eligible_since: &'a BTreeMap<IpAddr, Duration>,
    /// This speaker is shutting down: it offers itself only where nobody else does.
    pub departing: bool,
    /// Now, on any monotonic clock.
    pub now: Duration,
}

/// An address that this node announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Epoch of the claim.
    pub claim: i64,
    /// Present while another node is the elected owner.
    pub losing: Option<Losing>,
}

/// To whom an address goes, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losing {
    /// The elected owner.
    pub to: NodeName,
    /// When it was first seen as such.
    pub since: Duration,
}

impl Hold {
    /// The claims that stand in a record which an earlier process of this node published.
    pub fn continued(record: &Record) -> BTreeMap<IpAddr, Self> {
        let hold = |claim| Self { claim, losing: None };
        record
            .candidacies
            .iter()
            .filter_map(|(address, candidacy)| Some((*address, hold(candidacy.claim?))))
            .collect()
    }
}

/// This node's part for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Announce it under this claim.
    Owner {
        /// Epoch of the claim; a new value asks for a new burst of gratuitous ARP.
        claim: i64,
    },
    /// Announce it until the elected owner has claimed it.
    Yielding {
        /// Epoch of the claim.
        claim: i64,
        /// The elected owner.
        to: NodeName,
    },
    /// Do not announce it; the elected owner, if that is already sure.
    Standby(Option<NodeName>),
}

impl Standing {
    /// The claim under which the address is announced, if it is.
    pub fn claim(&self) -> Option<i64> {
        match self {
            Self::Owner { claim } | Self::Yielding { claim, .. } => Some(*claim),
            Self::Standby(_) => None,
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For every candidate address, this node's part.
    pub standings: BTreeMap<IpAddr, Standing>,
    /// What is announced from now on; goes into the next plan.
    pub held: BTreeMap<IpAddr, Hold>,
    /// Since when this node's candidacies have been out; goes into the next plan.
    pub offered: BTreeMap<IpAddr, Duration>,
    /// Since when this node has passed every filter without a break; goes into the next plan.
    pub eligible_since: BTreeMap<IpAddr, Duration>,
    /// What to publish.
    pub candidacies: BTreeMap<IpAddr, Candidacy>,
    /// When to plan again although nothing changes.
    pub wake: Option<Duration>,
}

impl Plan {
    fn wake_at(&mut self, at: Option<Duration>) {
        self.wake = [self.wake, at].into_iter().flatten().min();
    }
}

/// Decides for every candidate address. An address that is not in `input.candidates` is not announced.
pub fn plan(input: &Input) -> Plan {
    let mut plan = Plan::default();
    let record = input.published.get(input.me);
    for (&address, candidate) in input.candidates {
        let since = input.eligible_since.get(&address).copied().unwrap_or(input.now);
        plan.eligible_since.insert(address, since);
        // Who is not preferred has nothing to take over for.
        let preempts_at = candidate
            .preempt_after
            .filter(|_| candidate.weight > 0 && !input.departing);
        let preempts_at = preempts_at.map(|after| since.saturating_add(after));
        let preempts = preempts_at.is_some_and(|at| input.now >= at);
        plan.wake_at(preempts_at.filter(|_| !preempts));
        let out = record.is_some_and(|record| record.candidacies.contains_key(&address));
        let offered = out.then(|| input.offered.get(&address).copied().unwrap_or(input.now));
        let own = Candidacy {
            cordoned: candidate.cordoned || input.departing,
            weight: if input.departing {
                LAST_RESORT
            } else {
                candidate.weight
            },
            preempts,
            claim: None,
        };
        let (standing, hold) = stand(input, address, offered, own);
        if let Some(since) = offered {
            plan.offered.insert(address, since);
            if standing == Standing::Standby(None) {
                plan.wake_at(Some(since + SETTLE));
            }
        }
        let claim = standing.claim();
        plan.candidacies.insert(address, Candidacy { claim, ..own });
        plan.standings.insert(address, standing);
        if let Some(hold) = hold {
            let wake = hold.losing.as_ref().map(|losing| losing.since + YIELD_LIMIT);
            plan.wake_at(wake);
            plan.held.insert(address, hold);
        }
    }
    plan
}

fn stand(
    input: &Input,
    address: IpAddr,
    offered: Option<Duration>,
    own: Candidacy,
) -> (Standing, Option<Hold>) {
    let held = input.held.get(&address);
    let elected = elected(input, address, held, own);
    let owner = |claim| (Standing::Owner { claim }, Some(Hold { claim, losing: None }));
    match (elected, held) {
        (Some(node), Some(hold)) if node == input.me => {
            // Also a claim of the dead is outbid: its owner may come back and must find a higher one.
            let others = input.published.iter().filter(|(node, _)| *node != input.me);
            match highest_claim(address, others.map(|(_, record)| record)) {
                Some(rival) if rival >= hold.claim => owner(rival.saturating_add(1)),
                _ => owner(hold.claim),
            }
        }
        (Some(node), None) if node == input.me => {
            let settled = offered.is_some_and(|since| input.now >= since + SETTLE);
            match highest_claim(address, input.published.values()) {
                Some(claim) => owner(claim.saturating_add(1)),
                None if settled => owner(1),
                None => (Standing::Standby(None), None),
            }
        }
        (Some(node), Some(hold)) => {
            let claim = input.published[node].candidacies[&address].claim;
            let since = match &hold.losing {
                Some(losing) if losing.to == *node => losing.since,
                _ => input.now,
            };
            if claim.is_some_and(|claim| claim >= hold.claim) || input.now >= since + YIELD_LIMIT {
                return (Standing::Standby(Some(node.clone())), None);
            }
            let standing = Standing::Yielding {
                claim: hold.claim,
                to: node.clone(),
            };
            let losing = Losing {
                to: node.clone(),
                since,
            };
            let hold = Hold {
                claim: hold.claim,
                losing: Some(losing),
            };
            (standing, Some(hold))
        }
        (Some(node), None) => (Standing::Standby(Some(node.clone())), None),
        (None, Some(hold)) => owner(hold.claim),
        (None, None) => (Standing::Standby(None), None),
    }
}

/// The elected owner as the records say, unless that is this node for the sake of something that its record still says and
/// that does not hold any more: a right to take over from before a restart, say, or that it is not cordoned.
fn elected<'a>(
    input: &Input<'a>,
    address: IpAddr,
    held: Option<&Hold>,
    own: Candidacy,
) -> Option<&'a NodeName> {
    let elected = elect(address, input.published, input.live)?;
    if elected != input.me {
        return Some(elected);
    }
    let published = input.published[elected].candidacies[&address];
    let own = Candidacy {
        claim: published.claim,
        ..own
    };
    if own == published {
        return Some(elected);
    }
    let own = Candidacy {
        claim: held.map_or(own.claim, |hold| Some(hold.claim)),
        ..own
    };
    let successor = successor(address, input.me, own, input.published, input.live);
    Some(successor.unwrap_or(elected))
}

/// Does any live node other than this one offer itself for the address?
pub fn has_rival(address: IpAddr, me: &NodeName, published: &Records, live: &BTreeSet<NodeName>) -> bool {
    published
        .iter()
        .any(|(node, record)| node != me && live.contains(node) && record.candidacies.contains_key(&address))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn vip() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn candidacy(cordoned: bool, claim: Option<i64>) -> Candidacy {
        Candidacy {
            cordoned,
            claim,
            ..Candidacy::default()
        }
    }

    /// A plan of node `me` (eligible, holding `held`) at second `now`, with these records published and all alive.
    fn planned(held: Option<Hold>, published: &[(&str, Candidacy)], now: u64) -> (Standing, Plan) {
        let published: Records = published
            .iter()
            .map(|(node, candidacy)| {
                let record = Record {
                    candidacies: BTreeMap::from([(vip(), *candidacy)]),
                    ..Record::default()
                };
                (NodeName::from(*node), record.into())
            })
            .collect();
        let plan = plan(&Input {
            me: &"me".into(),
            candidates: &BTreeMap::from([(vip(), Candidate::default())]),
            live: &published.keys().cloned().collect(),
            published: &published,
            held: &held.map(|hold| (vip(), hold)).into_iter().collect(),
            offered: &BTreeMap::from([(vip(), Duration::ZERO)]),
            eligible_since: &BTreeMap::new(),
            departing: false,
            now: Duration::from_secs(now),
        });
        (plan.standings[&vip()].clone(), plan)
    }

    fn hold(claim: i64) -> Option<Hold> {
        Some(Hold { claim, losing: None })
    }

    fn losing(claim: i64, to: &str, since: u64) -> Option<Hold> {
        Some(Hold {
            claim,
            losing: Some(Losing {
                to: to.into(),
                since: Duration::from_secs(since),
            }),
        })
    }

    fn owner(claim: i64) -> Standing {
        Standing::Owner { claim }
    }

    #[test]
    fn the_table() {
        let plain = |claim| candidacy(false, claim);
        let cordoned = |claim| candidacy(true, claim);
        let yielding = |claim| Standing::Yielding {
            claim,
            to: "peer".into(),
        };
        let standby = || Standing::Standby(Some("peer".into()));
        let table = [
            (
                "take over an address nobody had",
                None,
                vec![("me", plain(None))],
                owner(1),
            ),
            (
                "take over above a cordoned owner's claim",
                None,
                vec![("me", plain(None)), ("peer", cordoned(Some(4)))],
                owner(5),
            ),
            (
                "above my own old claim too",
                None,
                vec![("me", plain(Some(4)))],
                owner(5),
            ),
            ("go on", hold(3), vec![("me", plain(Some(3)))], owner(3)),
            (
                "go on before my claim has come back",
                hold(3),
                vec![("me", plain(None)), ("peer", cordoned(Some(2)))],
                owner(3),
            ),
            (
                "outbid a claim not below mine",
                hold(3),
                vec![("me", plain(Some(3))), ("peer", cordoned(Some(3)))],
                owner(4),
            ),
            (
                "my record is not out yet",
                None,
                vec![("peer", plain(None))],
                standby(),
            ),
            ("nobody's record is out", None, vec![], Standing::Standby(None)),
            (
                "my record was deleted while I announce",
                hold(3),
                vec![],
                owner(3),
            ),
            (
                "hand over: wait for the claim",
                hold(3),
                vec![("me", cordoned(Some(3))), ("peer", plain(None))],
                yielding(3),
            ),
            (
                "a lower claim is not yet the hand-over",
                hold(3),
                vec![("me", cordoned(Some(3))), ("peer", plain(Some(2)))],
                yielding(3),
            ),
            (
                "hand over: done",
                hold(3),
                vec![("me", cordoned(Some(3))), ("peer", plain(Some(4)))],
                standby(),
            ),
            (
                "two claims: the higher wins",
                hold(3),
                vec![("me", plain(Some(3))), ("peer", plain(Some(5)))],
                standby(),
            ),
            (
                "the sole candidate stays though cordoned",
                hold(3),
                vec![("me", cordoned(Some(3)))],
                owner(3),
            ),
            (
                "uncordoned, the address does not come back",
                None,
                vec![("me", plain(None)), ("peer", plain(Some(4)))],
                standby(),
            ),
        ];
        for (name, held, published, expected) in table {
            let (standing, plan) = planned(held, &published, 10);
            assert_eq!(standing, expected, "{name}");
            assert_eq!(plan.candidacies[&vip()].claim, expected.claim(), "{name}");
            assert_eq!(
                plan.held.get(&vip()).map(|hold| hold.claim),
                expected.claim(),
                "{name}"
            );
        }
    }

    #[test]
    fn the_loser_stops_when_the_winner_has_not_claimed_in_time() {
        let published = [("me", candidacy(true, Some(3))), ("peer", candidacy(false, None))];
        let (_, first) = planned(hold(3), &published, 10);
        assert_eq!(first.wake, Some(Duration::from_secs(13)));
        assert_eq!(first.held[&vip()], losing(3, "peer", 10).unwrap());
        let (standing, plan) = planned(losing(3, "peer", 10), &published, 12);
        assert!(matches!(standing, Standing::Yielding { .. }));
        assert_eq!(plan.wake, Some(Duration::from_secs(13)));
        let (standing, plan) = planned(losing(3, "peer", 10), &published, 13);
        assert_eq!(standing, Standing::Standby(Some("peer".into())));
        assert!(plan.held.is_empty() && plan.wake.is_none());
        // Another winner: the time starts again.
        let (standing, _) = planned(losing(3, "other", 10), &published, 13);
        assert!(matches!(standing, Standing::Yielding { .. }));
        // I am elected again: nothing of it is left.
        let (_, plan) = planned(losing(3, "peer", 10), &[("me", candidacy(false, Some(3)))], 12);
        assert_eq!(plan.held[&vip()], hold(3).unwrap());
    }

    #[test]
    fn a_new_candidate_waits_before_it_takes_an_unclaimed_address() {
        let me = NodeName::from("me");
        let with_claim = |claim| {
            let record = Record {
                candidacies: BTreeMap::from([(vip(), candidacy(false, claim))]),
                ..Record::default()
            };
            Records::from([(me.clone(), record.into())])
        };
        let planned = |published: &Records, offered: &BTreeMap<IpAddr, Duration>, now: Duration| {
            plan(&Input {
                me: &me,
                candidates: &BTreeMap::from([(vip(), Candidate::default())]),
                published,
                live: &BTreeSet::from([me.clone()]),
                held: &BTreeMap::new(),
                offered,
                eligible_since: &BTreeMap::new(),
                departing: false,
                now,
            })
        };
        let start = Duration::from_secs(5);
        let unclaimed = with_claim(None);
        let first = planned(&unclaimed, &BTreeMap::new(), start);
        assert_eq!(first.standings[&vip()], Standing::Standby(None));
        assert_eq!((first.offered[&vip()], first.wake), (start, Some(start + SETTLE)));
        let early = planned(&unclaimed, &first.offered, start + SETTLE / 2);
        assert_eq!((&early.standings, early.wake), (&first.standings, first.wake));
        let later = planned(&unclaimed, &early.offered, start + SETTLE);
        assert_eq!((later.standings[&vip()].clone(), later.wake), (owner(1), None));
        // A claim that somebody has made, or had when it died, is taken over at once.
        let claimed = planned(&with_claim(Some(3)), &BTreeMap::new(), start);
        assert_eq!(claimed.standings[&vip()], owner(4));
        // Once the candidacy is withdrawn, the time starts again.
        assert!(
            planned(&Records::new(), &later.offered, start + SETTLE)
                .offered
                .is_empty()
        );
    }

    #[test]
    fn a_preferred_node_takes_over_when_it_has_been_a_candidate_for_long_enough() {
        let me = NodeName::from("me");
        let second = Duration::from_secs;
        let candidate = |weight, after| Candidate {
            weight,
            preempt_after: after,
            ..Candidate::default()
        };
        let owned = Candidacy {
            claim: Some(4),
            ..Candidacy::default()
        };
        let planned =
            |candidate: Candidate, own: Candidacy, eligible_since: &BTreeMap<_, _>, departing, now| {
                let record = |candidacy| {
                    let candidacies = BTreeMap::from([(vip(), candidacy)]);
                    Arc::new(Record {
                        candidacies,
                        ..Record::default()
                    })
                };
                let published = Records::from([(me.clone(), record(own)), ("peer".into(), record(owned))]);
                plan(&Input {
                    me: &me,
                    candidates: &BTreeMap::from([(vip(), candidate)]),
                    live: &published.keys().cloned().collect(),
                    published: &published,
                    held: &BTreeMap::new(),
                    offered: &BTreeMap::new(),
                    eligible_since,
                    departing,
                    now,
                })
            };
        let own = Candidacy {
            weight: 10,
            ..Candidacy::default()
        };
        let never = BTreeMap::new();
        let after = Some(second(60));
        let first = planned(candidate(10, after), own, &never, false, second(5));
        assert_eq!(first.eligible_since[&vip()], second(5));
        assert_eq!(
            (first.candidacies[&vip()].preempts, first.wake),
            (false, Some(second(65)))
        );
        let early = planned(
            candidate(10, after),
            own,
            &first.eligible_since,
            false,
            second(64),
        );
        assert_eq!(
            (early.candidacies[&vip()].preempts, early.wake),
            (false, Some(second(65)))
        );
        let due = planned(
            candidate(10, after),
            own,
            &early.eligible_since,
            false,
            second(65),
        );
        assert_eq!((due.candidacies[&vip()].preempts, due.wake), (true, None));
        assert!(
            matches!(due.standings[&vip()], Standing::Standby(Some(_))),
            "not out yet"
        );
        let own = due.candidacies[&vip()];
        let out = planned(candidate(10, after), own, &due.eligible_since, false, second(66));
        assert_eq!(out.standings[&vip()], owner(5));
        // What an earlier process published gives no right.
        let again = planned(candidate(10, after), own, &never, false, second(66));
        assert_eq!(again.standings[&vip()], Standing::Standby(Some("peer".into())));
        for (candidate, departing) in [
            (candidate(10, None), false),
            (candidate(0, after), false),
            (candidate(10, after), true),
        ] {
            let plan = planned(
                candidate,
                Candidacy::default(),
                &first.eligible_since,
                departing,
                second(1000),
            );
            assert_eq!((plan.candidacies[&vip()].preempts, plan.wake), (false, None));
        }
    }

    #[test]
    fn a_claim_that_another_followed_is_over() {
        let heavy = |claim| Candidacy {
            weight: 10,
            ..candidacy(false, Some(claim))
        };
        let published = [("me", heavy(3)), ("peer", candidacy(false, Some(4)))];
        let standby = Standing::Standby(Some("peer".into()));
        assert_eq!(planned(hold(3), &published, 10).0, standby);
        assert_eq!(
            planned(None, &published, 10).0,
            standby,
            "its own record has come back late"
        );
        // As seen by the other one, which therefore need not hand over meanwhile.
        let mirrored = [("me", candidacy(false, Some(4))), ("peer", heavy(3))];
        assert_eq!(planned(hold(4), &mirrored, 10).0, owner(4));
        let published = [("me", heavy(5)), ("peer", candidacy(false, Some(4)))];
        assert_eq!(planned(hold(5), &published, 10).0, owner(5));
        let published = [("me", heavy(3)), ("peer", candidacy(true, Some(4)))];
        assert_eq!(planned(hold(3), &published, 10).0, owner(5));
    }

    /// The record from before a restart still says what was true then. Whoever has taken over meanwhile keeps the address.
    #[test]
    fn a_node_that_was_cordoned_while_it_was_down_takes_nothing_back() {
        let published = [
            ("me", candidacy(false, Some(3))),
            ("peer", candidacy(true, Some(4))),
        ];
        let published: Records = published
            .iter()
            .map(|(node, candidacy)| {
                let record = Record {
                    candidacies: BTreeMap::from([(vip(), *candidacy)]),
                    ..Record::default()
                };
                (NodeName::from(*node), record.into())
            })
            .collect();
        let standing = |cordoned, departing, held: Option<Hold>| {
            let candidate = Candidate {
                cordoned,
                ..Candidate::default()
            };
            let plan = plan(&Input {
                me: &"me".into(),
                candidates: &BTreeMap::from([(vip(), candidate)]),
                live: &published.keys().cloned().collect(),
                published: &published,
                held: &held.map(|hold| (vip(), hold)).into_iter().collect(),
                offered: &BTreeMap::new(),
                eligible_since: &BTreeMap::new(),
                departing,
                now: Duration::ZERO,
            });
            plan.standings[&vip()].clone()
        };
        let standby = Standing::Standby(Some("peer".into()));
        assert_eq!(standing(true, false, hold(3)), standby);
        assert_eq!(standing(false, true, hold(3)), standby);
        assert_eq!(standing(true, false, None), standby);
        assert_eq!(standing(false, false, hold(3)), owner(5));
        // An owner that is cordoned goes on until the others have heard of it.
        assert_eq!(standing(true, false, hold(4)), owner(5));
    }

    #[test]
    fn what_is_not_eligible_is_not_announced() {
        let me = NodeName::from("me");
        let record = Record {
            candidacies: BTreeMap::from([(vip(), candidacy(false, Some(3)))]),
            ..Record::default()
        };
        let plan = plan(&Input {
            me: &me,
            candidates: &BTreeMap::new(),
            published: &Records::from([(me.clone(), record.clone().into())]),
            live: &BTreeSet::from([me.clone()]),
            held: &Hold::continued(&record),
            offered: &BTreeMap::new(),
            eligible_since: &BTreeMap::new(),
            departing: false,
            now: Duration::ZERO,
        });
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn a_departing_speaker_comes_after_everybody() {
        let me = NodeName::from("me");
        let claimed = Record {
            candidacies: BTreeMap::from([(vip(), candidacy(true, Some(3)))]),
            ..Record::default()
        };
        let departing = plan(&Input {
            me: &me,
            candidates: &BTreeMap::from([(vip(), Candidate::default())]),
            published: &Records::from([(me.clone(), claimed.clone().into())]),
            live: &BTreeSet::from([me.clone()]),
            held: &Hold::continued(&claimed),
            offered: &BTreeMap::new(),
            eligible_since: &BTreeMap::new(),
            departing: true,
            now: Duration::ZERO,
        });
        assert_eq!(departing.standings[&vip()], owner(3));
        let last = departing.candidacies[&vip()];
        assert_eq!((last.cordoned, last.weight), (true, LAST_RESORT));
        // Even a cordoned peer without a claim is elected before it.
        let mut published = Records::from([(
            me.clone(),
            Record {
                candidacies: departing.candidacies,
                ..Record::default()
            }
            .into(),
        )]);
        let live = BTreeSet::from([me.clone(), "peer".into()]);
        assert!(!has_rival(vip(), &me, &published, &live));
        let peer = Record {
            candidacies: BTreeMap::from([(vip(), candidacy(true, None))]),
            ..Record::default()
        };
        published.insert("peer".into(), peer.into());
        assert!(has_rival(vip(), &me, &published, &live));
        assert_eq!(elect(vip(), &published, &live), Some(&"peer".into()));
    }
}
