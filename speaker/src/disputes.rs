//! Addresses that somebody else uses on the wire: what follows from that for this node.
//!
//! | who | this node | then |
//! |---|---|---|
//! | a stranger | announces the address, policy `Defend` | goes on, and tells |
//! | a stranger | announces it, policy `Yield` | stops, and tries again a minute after it was last seen |
//! | a stranger | is about to announce it, and nobody has claimed it yet | does not; asks again after a minute |
//! | every kernel, by kube-proxy's IPVS mode | would announce it | does not |
//! | another speaker that the gossip reaches | announces it | goes on: the election settles it |
//! | another speaker that the gossip does not reach | announces it | the larger rendezvous hash stays, the other stops |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fairlead_core::announce::{Hold, highest_claim, rendezvous_hash};
use fairlead_core::config::ConflictPolicy;
use fairlead_core::model::NodeName;
use fairlead_core::reason::{Reason, Refusal};

use crate::ipvs;
use crate::l2::{Conflict, Mac, Sightings};
use crate::membership::node::View;

/// A stranger that was not seen for so long is gone.
pub const STRANGER: Duration = Duration::from_secs(60);
/// The same of a fellow: speakers announce what they have at least every 30 s.
pub const FELLOW: Duration = Duration::from_secs(45);
/// What a fellow sends when it comes back arrives before the gossip reaches it; so long it is waited for.
pub const GREETING: Duration = Duration::from_millis(300);
/// What is seen of a fellow so soon after it was lost may have been sent before.
pub const LAST_WORDS: Duration = Duration::from_millis(50);

/// What there is to know.
pub struct Known<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// What was seen on the wire.
    pub sightings: &'a Sightings,
    /// What the gossip says.
    pub gossip: &'a View,
    /// Since when the gossip does not reach the speakers that it does not reach.
    pub lost: &'a BTreeMap<NodeName, Instant>,
    /// Addresses that this node's kernel answers for by itself, and those of other nodes (see [`crate::ipvs`]).
    pub ipvs: &'a BTreeSet<IpAddr>,
    /// What this node announces.
    pub held: &'a BTreeMap<IpAddr, Hold>,
    /// Now.
    pub now: Instant,
}

impl Known<'_> {
    /// Why this node must not announce an address for which it has passed everything else, if it must not.
    pub fn refusal(&self, address: IpAddr, policy: ConflictPolicy) -> Option<Refusal> {
        if self.ipvs.contains(&address) {
            return Some(ipvs::refusal(address));
        }
        if let Some(conflict) = self.conflict(address) {
            let records = self
                .gossip
                .records
                .iter()
                .filter(|(node, _)| self.gossip.live.contains(*node));
            let claimed = highest_claim(address, records.map(|(_, record)| record)).is_some();
            let held = self.held.contains_key(&address);
            if policy == ConflictPolicy::Yield || !(held || claimed) {
                let message = format!(
                    "the machine {} on {} uses the address",
                    conflict.by, conflict.interface
                );
                return Some(Refusal::new(Reason::AddressConflict, message));
            }
        }
        let (node, wins) = self.unreachable_fellow(address)?;
        let message = format!("node {node}, which the gossip does not reach, is seen announcing it");
        (!wins).then(|| Refusal::new(Reason::NotElected, message))
    }

    /// Another speaker that announces the address and that the gossip does not reach; and does this node win?
    pub fn unreachable_fellow(&self, address: IpAddr) -> Option<(&NodeName, bool)> {
        let (mac, last) = self.sightings.fellows.get(&address)?;
        let node = self.owner_of(*mac)?;
        let timely = self.now >= *last + GREETING && self.now < *last + FELLOW;
        // What was seen while the gossip still reached it, or before, says nothing about now.
        let since = self
            .lost
            .get(node)
            .is_some_and(|lost| *last >= *lost + LAST_WORDS);
        if !timely || !since || self.gossip.live.contains(node) || node == self.me {
            return None;
        }
        let rank = |node: &NodeName| (rendezvous_hash(node, address), std::cmp::Reverse(node.clone()));
        Some((node, rank(self.me) > rank(node)))
    }

    fn owner_of(&self, mac: Mac) -> Option<&NodeName> {
        self.gossip
            .metas
            .iter()
            .find(|(_, meta)| meta.macs.contains(&mac))
            .map(|(node, _)| node)
    }

    /// A stranger that uses the address at present.
    pub fn conflict(&self, address: IpAddr) -> Option<&Conflict> {
        let known = self.sightings.conflicts.get(&address);
        known.filter(|conflict| self.now < conflict.last + STRANGER)
    }

    /// When the next of all this ends by itself.
    pub fn wake(&self) -> Option<Instant> {
        let strangers = self
            .sightings
            .conflicts
            .values()
            .map(|conflict| conflict.last + STRANGER);
        let seen = self.sightings.fellows.values();
        let fellows = seen.flat_map(|(_, last)| [*last + GREETING, *last + FELLOW]);
        strangers.chain(fellows).filter(|end| *end > self.now).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairlead_core::announce::{Candidacy, Record};

    use super::*;
    use crate::membership::wire::Meta;

    const STRANGE: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn vip() -> IpAddr {
        IpAddr::from([192, 0, 2, 100])
    }

    fn view(other_lives: bool, claim: Option<i64>) -> View {
        let candidacy = Candidacy {
            claim,
            ..Candidacy::default()
        };
        let record = Record {
            candidacies: BTreeMap::from([(vip(), candidacy)]),
            ..Record::default()
        };
        let mut live = BTreeSet::from([NodeName::from("me")]);
        if other_lives {
            live.insert("other".into());
        }
        View {
            live,
            records: BTreeMap::from([("other".into(), Arc::new(record))]),
            metas: BTreeMap::from([("other".into(), Meta { macs: vec![OTHER] })]),
            ..View::default()
        }
    }

    fn reason(
        sightings: &Sightings,
        gossip: &View,
        held: bool,
        policy: ConflictPolicy,
        now: Instant,
    ) -> Option<Reason> {
        let me = NodeName::from("me");
        let held = held
            .then_some((
                vip(),
                Hold {
                    claim: 1,
                    losing: None,
                },
            ))
            .into_iter()
            .collect();
        let known = Known {
            me: &me,
            sightings,
            gossip,
            lost: &BTreeMap::new(),
            ipvs: &BTreeSet::new(),
            held: &held,
            now,
        };
        known.refusal(vip(), policy).map(|refusal| refusal.reason)
    }

    #[test]
    fn strangers() {
        let start = Instant::now();
        let conflict = Conflict {
            by: STRANGE,
            interface: "eth0".into(),
            count: 1,
            last: start,
        };
        let seen = Sightings {
            conflicts: BTreeMap::from([(vip(), conflict)]),
            ..Sightings::default()
        };
        let (unclaimed, claimed) = (view(true, None), view(true, Some(1)));
        let table = [
            (true, &unclaimed, ConflictPolicy::Defend, None),
            (
                true,
                &unclaimed,
                ConflictPolicy::Yield,
                Some(Reason::AddressConflict),
            ),
            (
                false,
                &unclaimed,
                ConflictPolicy::Defend,
                Some(Reason::AddressConflict),
            ),
            // Somebody has it: taking over never waits for the wire.
            (false, &claimed, ConflictPolicy::Defend, None),
            (
                false,
                &claimed,
                ConflictPolicy::Yield,
                Some(Reason::AddressConflict),
            ),
        ];
        for (held, gossip, policy, expected) in table {
            assert_eq!(
                reason(&seen, gossip, held, policy, start),
                expected,
                "{held} {policy:?}"
            );
            assert_eq!(
                reason(&seen, gossip, held, policy, start + STRANGER),
                None,
                "it is gone"
            );
        }
    }

    #[test]
    fn of_two_speakers_that_do_not_hear_each_other_exactly_one_stops() {
        let lost = Instant::now();
        let start = lost + LAST_WORDS;
        let soon = start + GREETING;
        let seen = |mac| Sightings {
            fellows: BTreeMap::from([(vip(), (mac, start))]),
            ..Sightings::default()
        };
        let (mine, other) = (NodeName::from("me"), NodeName::from("other"));
        let parted = view(false, Some(1));
        let verdict =
            |me: &NodeName, gossip: &View, sightings: &Sightings, lost: &[(&NodeName, Instant)], now| {
                let held = BTreeMap::from([(
                    vip(),
                    Hold {
                        claim: 1,
                        losing: None,
                    },
                )]);
                let lost = lost
                    .iter()
                    .map(|(node, since)| ((*node).clone(), *since))
                    .collect();
                let known = Known {
                    me,
                    sightings,
                    gossip,
                    lost: &lost,
                    ipvs: &BTreeSet::new(),
                    held: &held,
                    now,
                };
                let refused = known.refusal(vip(), ConflictPolicy::Defend).is_some();
                (refused, known.unreachable_fellow(vip()).map(|(_, wins)| wins))
            };
        let here = verdict(&mine, &parted, &seen(OTHER), &[(&other, lost)], soon);
        let mut there = parted.clone();
        there.metas = BTreeMap::from([(mine.clone(), Meta { macs: vec![STRANGE] })]);
        there.live = BTreeSet::from([other.clone()]);
        let there = verdict(&other, &there, &seen(STRANGE), &[(&mine, lost)], soon);
        assert_ne!(here, there);
        assert_eq!(here, (here.0, Some(!here.0)));
        assert_eq!(there, (there.0, Some(!there.0)));

        let nothing = (false, None);
        let judged =
            |gossip: &View, lost: Instant, now| verdict(&mine, gossip, &seen(OTHER), &[(&other, lost)], now);
        // With gossip the election settles it, and the gossip is given time to get there.
        assert_eq!(judged(&view(true, Some(1)), lost, soon), nothing);
        assert_eq!(judged(&parted, lost, start), nothing);
        // What was seen long ago does not count, nor what was seen of one that died only afterwards.
        assert_eq!(judged(&parted, lost, start + FELLOW), nothing);
        assert_eq!(judged(&parted, start, soon), nothing);
        assert_eq!(judged(&parted, soon, soon), nothing);
    }
}
