//! The election: a ranking of published records.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::record::{Candidacy, LAST_RESORT, Records};
use crate::hash::{FNV_OFFSET, fnv1a};
use crate::model::NodeName;

/// The owner of an address: the first of all live candidates in the order *not cordoned, heavier, newer claim, heavier,
/// larger rendezvous hash, smaller name*, where at first only the weight of those counts who have claimed the address or
/// may take it over. The claim makes the present owner stay, except from preferred nodes that have been candidates for
/// long enough. A claim that another's followed (see `successor`) counts for nothing. `None` if no live node offers
/// itself.
pub fn elect<'a>(address: IpAddr, records: &'a Records, live: &BTreeSet<NodeName>) -> Option<&'a NodeName> {
    let all = candidates(address, records, live);
    let (node, own) = *all
        .iter()
        .min_by_key(|(node, candidacy)| rank(address, node, candidacy))?;
    let followed =
        |node, own: &Candidacy| own.claim.is_some() && follower(address, node, own, &all).is_some();
    // Who loses a claim falls back. So if the first of all keeps its own it stays the first, whatever becomes of others.
    if !followed(node, own) {
        return Some(node);
    }
    let counting = all.iter().map(|(node, own)| {
        let claim = own.claim.filter(|_| !followed(node, own));
        (*node, Candidacy { claim, ..**own })
    });
    counting
        .min_by_key(|(node, candidacy)| rank(address, node, candidacy))
        .map(|(node, _)| node)
}

/// Who has taken the address over from a node whose candidacy this is: the first of all live candidates that have a newer
/// claim and would be elected before that node if it had none. By this the time of an owner that returns with the claim
/// or the rights of its former life is over, whatever its weight.
pub(super) fn successor<'a>(
    address: IpAddr,
    of: &NodeName,
    own: Candidacy,
    records: &'a Records,
    live: &BTreeSet<NodeName>,
) -> Option<&'a NodeName> {
    follower(address, of, &own, &candidates(address, records, live))
}

fn follower<'a>(
    address: IpAddr,
    of: &NodeName,
    own: &Candidacy,
    all: &[(&'a NodeName, &Candidacy)],
) -> Option<&'a NodeName> {
    let unclaimed = Candidacy { claim: None, ..*own };
    all.iter()
        .filter(|(node, candidacy)| *node != of && candidacy.claim > own.claim)
        .filter(|(node, candidacy)| rank(address, node, candidacy) < rank(address, of, &unclaimed))
        .min_by_key(|(node, candidacy)| rank(address, node, candidacy))
        .map(|(node, _)| *node)
}

fn candidates<'a>(
    address: IpAddr,
    records: &'a Records,
    live: &BTreeSet<NodeName>,
) -> Vec<(&'a NodeName, &'a Candidacy)> {
    records
        .iter()
        .filter(|(node, _)| live.contains(*node))
        .filter_map(|(node, record)| Some((node, record.candidacies.get(&address)?)))
        .collect()
}

/// Smaller comes first. The order is total, so the order of the records has no influence.
fn rank<'a>(address: IpAddr, node: &'a NodeName, candidacy: &Candidacy) -> impl Ord + use<'a> {
    let Candidacy { weight, claim, .. } = *candidacy;
    // A candidate that has no say in the first place comes after all that have, but before those who leave.
    let counts = candidacy.preempts || claim.is_some() || weight == LAST_RESORT;
    let effective = if counts { weight } else { LAST_RESORT + 1 };
    (
        candidacy.cordoned,
        Reverse(effective),
        Reverse(claim),
        Reverse(weight),
        Reverse(rendezvous_hash(node, address)),
        node,
    )
}

/// The highest claim on an address in any record, those of the dead included: a claim above it outlives their return.
pub fn highest_claim<'a>(
    address: IpAddr,
    records: impl IntoIterator<Item = &'a Arc<super::record::Record>>,
) -> Option<i64> {
    records
        .into_iter()
        .filter_map(|record| record.candidacies.get(&address)?.claim)
        .max()
}

/// The weight of a node for an address in rendezvous (highest random weight) hashing.
///
/// FNV-1a of 64 bits over the node name's UTF-8 bytes, one zero byte, and the address' 4 or 16 bytes in network order;
/// then the 64-bit finaliser of MurmurHash3, since FNV alone mixes the last bytes too little. The function is part of
/// the protocol between speakers: it never changes without a new record version.
pub fn rendezvous_hash(node: &NodeName, address: IpAddr) -> u64 {
    let mut hash = fnv1a(FNV_OFFSET, node.as_str().as_bytes());
    hash = fnv1a(hash, &[0]);
    hash = match address {
        IpAddr::V4(v4) => fnv1a(hash, &v4.octets()),
        IpAddr::V6(v6) => fnv1a(hash, &v6.octets()),
    };
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn vip() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn records(entries: &[(&str, Candidacy)]) -> Records {
        entries
            .iter()
            .map(|(node, candidacy)| {
                let record = Record {
                    candidacies: BTreeMap::from([(vip(), *candidacy)]),
                    ..Record::default()
                };
                (NodeName::from(*node), record.into())
            })
            .collect()
    }

    fn winner(entries: &[(&str, Candidacy)]) -> Option<String> {
        let records = records(entries);
        let live = records.keys().cloned().collect();
        elect(vip(), &records, &live).map(|node| node.0.clone())
    }

    const PLAIN: Candidacy = Candidacy {
        cordoned: false,
        weight: 0,
        preempts: false,
        claim: None,
    };

    fn claims(epoch: i64) -> Candidacy {
        Candidacy {
            claim: Some(epoch),
            ..PLAIN
        }
    }

    fn cordoned(candidacy: Candidacy) -> Candidacy {
        Candidacy {
            cordoned: true,
            ..candidacy
        }
    }

    /// Computed by an independent implementation; a change here is a change of protocol.
    #[test]
    fn golden_vectors_of_the_rendezvous_hash() {
        let table: &[(&str, &str, u64)] = &[
            ("node1", "192.0.2.1", 0x7014_b825_b6db_2bea),
            ("node2", "192.0.2.1", 0x7081_e523_916b_6ac0),
            ("node1", "192.0.2.2", 0x5b63_141a_5467_6554),
            ("", "0.0.0.0", 0xf98b_d1e9_16d5_e6c4),
            ("rack-7.example.net", "255.255.255.255", 0x3dd6_d30f_491f_8e29),
            ("node1", "2001:db8::1", 0xcdfb_81c5_9906_0a6c),
            ("knöten", "::", 0x747d_9617_7f49_46a9),
        ];
        for (node, address, expected) in table {
            let hash = rendezvous_hash(&NodeName::from(*node), address.parse().unwrap());
            assert_eq!(hash, *expected, "{node} {address}: {hash:#018x}");
        }
    }

    fn heavy(candidacy: Candidacy) -> Candidacy {
        Candidacy {
            weight: 10,
            ..candidacy
        }
    }

    fn preempting(candidacy: Candidacy) -> Candidacy {
        Candidacy {
            preempts: true,
            ..candidacy
        }
    }

    fn leaving(candidacy: Candidacy) -> Candidacy {
        Candidacy {
            cordoned: true,
            weight: LAST_RESORT,
            ..candidacy
        }
    }

    #[test]
    fn each_criterion_comes_before_the_next() {
        // Each pair: the first must win under both names, so that hash and name cannot decide.
        let table = [
            (PLAIN, cordoned(preempting(heavy(claims(9))))),
            (heavy(PLAIN), PLAIN),
            // Weight alone takes nothing from an owner, but from a heavier owner nothing is taken either.
            (claims(9), heavy(PLAIN)),
            (preempting(heavy(PLAIN)), claims(9)),
            (heavy(claims(9)), preempting(PLAIN)),
            (heavy(claims(1)), preempting(heavy(PLAIN))),
            // Two owners: the newer one stays, unless the other may take over at any time.
            (claims(2), heavy(claims(1))),
            (preempting(heavy(claims(1))), claims(2)),
            (heavy(claims(2)), claims(1)),
            // Whoever may take over was there for longer than who may not.
            (preempting(heavy(PLAIN)), heavy(heavy(PLAIN))),
            (preempting(PLAIN), heavy(PLAIN)),
            (claims(2), claims(1)),
            (claims(1), PLAIN),
            (cordoned(claims(1)), cordoned(PLAIN)),
            (cordoned(PLAIN), leaving(claims(9))),
            (cordoned(PLAIN), leaving(preempting(PLAIN))),
            (leaving(claims(1)), leaving(PLAIN)),
        ];
        for (better, worse) in table {
            assert_eq!(
                winner(&[("a", better), ("b", worse)]).as_deref(),
                Some("a"),
                "{better:?} {worse:?}"
            );
            assert_eq!(
                winner(&[("b", better), ("a", worse)]).as_deref(),
                Some("b"),
                "{better:?} {worse:?}"
            );
        }
    }

    #[test]
    fn an_old_claim_ends_where_a_newer_one_would_stand() {
        let ended = |own: Candidacy, other: Candidacy| {
            let all = records(&[("me", own), ("b", other)]);
            let live = all.keys().cloned().collect();
            successor(vip(), &"me".into(), own, &all, &live).is_some()
        };
        assert!(ended(heavy(claims(1)), claims(2)));
        assert!(ended(claims(1), claims(2)));
        assert!(!ended(heavy(claims(2)), claims(1)) && !ended(heavy(claims(2)), claims(2)));
        assert!(!ended(heavy(claims(2)), PLAIN));
        // What this node may take over at any time it need not give back.
        assert!(!ended(preempting(heavy(claims(1))), claims(2)));
        assert!(ended(preempting(claims(1)), heavy(claims(2))));
        // Nor is a claim worth anything whose owner must hand over.
        assert!(!ended(claims(1), cordoned(claims(2))));
        assert!(ended(cordoned(claims(1)), cordoned(claims(2))));
        // Nor the dead.
        let all = records(&[("me", heavy(claims(1))), ("b", claims(2))]);
        let me = NodeName::from("me");
        let live = BTreeSet::from([me.clone()]);
        assert_eq!(successor(vip(), &me, heavy(claims(1)), &all, &live), None);
    }

    #[test]
    fn the_dead_and_the_silent_are_passed_over() {
        let mut all = records(&[("a", claims(1)), ("b", PLAIN)]);
        let live = BTreeSet::from([NodeName::from("b"), NodeName::from("c")]);
        all.insert("c".into(), Record::default().into());
        assert_eq!(elect(vip(), &all, &live), Some(&NodeName::from("b")));
        assert_eq!(elect(vip(), &all, &BTreeSet::new()), None);
        assert_eq!(highest_claim(vip(), all.values()), Some(1));
    }

    #[test]
    fn fresh_addresses_spread_over_the_nodes() {
        let nodes: Vec<NodeName> = (1..=5).map(|n| NodeName(format!("node{n}"))).collect();
        let mut owned = BTreeMap::new();
        for last in 0..250u8 {
            let address = IpAddr::from([192, 0, 2, last]);
            let all: Records = nodes
                .iter()
                .map(|node| {
                    let record = Record {
                        candidacies: BTreeMap::from([(address, PLAIN)]),
                        ..Record::default()
                    };
                    (node.clone(), record.into())
                })
                .collect();
            let live = nodes.iter().cloned().collect();
            *owned
                .entry(elect(address, &all, &live).unwrap().clone())
                .or_insert(0) += 1;
        }
        // 50 each on average; three standard deviations are 19.
        assert!(
            owned.len() == 5 && owned.values().all(|n| (31..=69).contains(n)),
            "{owned:?}"
        );
    }

    /// The same by the definition.
    fn slowly(records: &Records, live: &BTreeSet<NodeName>) -> Option<NodeName> {
        let address = vip();
        let candidates: Vec<(&NodeName, Candidacy)> = records
            .iter()
            .filter(|(node, _)| live.contains(*node))
            .map(|(node, record)| (node, record.candidacies[&vip()]))
            .collect();
        let without = |candidacy: &Candidacy| Candidacy {
            claim: None,
            ..*candidacy
        };
        let counting = candidates.iter().map(|(node, candidacy)| {
            let unclaimed = without(candidacy);
            let follows = |(other, its): &(&NodeName, Candidacy)| {
                its.claim > candidacy.claim && rank(address, other, its) < rank(address, node, &unclaimed)
            };
            let void = candidates.iter().any(follows);
            (*node, if void { unclaimed } else { *candidacy })
        });
        let mut ranked: Vec<_> = counting.collect();
        ranked.sort_by(|(a, x), (b, y)| rank(address, a, x).cmp(&rank(address, b, y)));
        ranked.first().map(|(node, _)| (*node).clone())
    }

    fn weight() -> impl Strategy<Value = i32> {
        prop_oneof![6 => -1i32..3, 1 => Just(LAST_RESORT)]
    }

    proptest! {
        #[test]
        fn the_order_of_the_records_has_no_influence_and_the_winner_is_undominated(
            entries in proptest::collection::btree_map("[a-e]{1,3}", (any::<bool>(), weight(), any::<bool>(), proptest::option::of(0i64..4)), 1..8),
            dead in proptest::collection::btree_set("[a-e]{1,3}", 0..3),
        ) {
            let entries: Vec<(String, Candidacy)> = entries.into_iter()
                .map(|(node, (cordoned, weight, preempts, claim))| (node, Candidacy { cordoned, weight, preempts, claim })).collect();
            let all: Records = entries.iter().map(|(node, candidacy)| {
                (NodeName(node.clone()), Record { candidacies: BTreeMap::from([(vip(), *candidacy)]), ..Record::default() }.into())
            }).collect();
            let live: BTreeSet<NodeName> = all.keys().filter(|node| !dead.contains(&node.0)).cloned().collect();
            let owner = elect(vip(), &all, &live);
            prop_assert_eq!(owner.is_some(), !live.is_empty());
            prop_assert_eq!(owner.cloned(), slowly(&all, &live));
            // Removing a loser that claims nothing changes nothing: what each speaker answers does not hang on whether it
            // has heard of all that merely wait.
            for loser in live.iter().filter(|node| Some(*node) != owner && all[*node].candidacies[&vip()].claim.is_none()) {
                let mut fewer = all.clone();
                fewer.remove(loser);
                prop_assert_eq!(elect(vip(), &fewer, &live), owner);
            }
            if let Some(owner) = owner {
                let best = all[owner].candidacies[&vip()];
                for node in &live {
                    let other = all[node].candidacies[&vip()];
                    prop_assert!(best.cordoned <= other.cordoned);
                    // Who may take over is never behind a lighter one.
                    let preempts = other.preempts && other.cordoned == best.cordoned;
                    prop_assert!(!preempts || best.weight >= other.weight, "{:?} {:?}", best, other);
                    let equal = preempts && best.preempts && other.weight == best.weight;
                    prop_assert!(!equal || best.claim >= other.claim, "{:?} {:?}", best, other);
                }
            }
        }
    }
}
