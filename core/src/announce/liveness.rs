//! Who is alive, told without clocks.
//!
//! Every speaker publishes at least once per [`HEARTBEAT`]. A peer is dead when, since its record last changed in my
//! view, I have seen [`HEARTBEATS_TO_DEATH`] heartbeats of *my own* come back through the same channel. While the
//! channel (the API server) is away my heartbeats do not come back either, so an outage of it kills nobody, and clocks
//! of different nodes are never compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::record::Records;
use crate::model::NodeName;

/// How often a speaker publishes although nothing has changed.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How many of my own heartbeats come back before a silent peer counts as dead.
pub const HEARTBEATS_TO_DEATH: u64 = 3;

/// The memory that the rule needs.
#[derive(Clone, Debug)]
pub struct Liveness {
    me: NodeName,
    incarnation: i64,
    /// Own heartbeats seen coming back.
    echoes: u64,
    /// Sequence of the last heartbeat counted in `echoes`.
    counted: i64,
    peers: BTreeMap<NodeName, Peer>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    stamp: (i64, i64),
    /// Value of `echoes` when the stamp last changed.
    changed_at: u64,
}

impl Liveness {
    /// Nobody is known yet. `incarnation` is that of this speaker: what an earlier process of this node published is
    /// no heartbeat of ours.
    pub fn new(me: NodeName, incarnation: i64) -> Self {
        Self {
            me,
            incarnation,
            echoes: 0,
            counted: 0,
            peers: BTreeMap::new(),
        }
    }

    /// Takes in what is published now, and answers who is alive: this node always, others by the rule.
    ///
    /// `heartbeat` is the sequence of the last record published *as a heartbeat*. Records published because something
    /// changed do not count: they may follow each other much faster than peers are bound to publish.
    pub fn observe(&mut self, records: &Records, heartbeat: i64) -> BTreeSet<NodeName> {
        let echoed = records
            .get(&self.me)
            .filter(|record| record.incarnation == self.incarnation)
            .map_or(0, |record| record.sequence);
        if heartbeat > self.counted && echoed >= heartbeat {
            self.counted = heartbeat;
            self.echoes += 1;
        }
        self.peers.retain(|node, _| records.contains_key(node));
        for (node, record) in records.iter().filter(|(node, _)| **node != self.me) {
            let stamp = (record.incarnation, record.sequence);
            let seen = Peer {
                stamp,
                changed_at: self.echoes,
            };
            let peer = self.peers.entry(node.clone()).or_insert(seen);
            if peer.stamp != stamp {
                *peer = seen;
            }
        }
        let mut live: BTreeSet<NodeName> = self
            .peers
            .iter()
            .filter(|(_, peer)| self.echoes - peer.changed_at < HEARTBEATS_TO_DEATH)
            .map(|(node, _)| node.clone())
            .collect();
        live.insert(self.me.clone());
        live
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    fn stamp(incarnation: i64, sequence: i64) -> Record {
        Record {
            incarnation,
            sequence,
            ..Record::default()
        }
    }

    /// What arrives in each step (own sequence echoed, own last heartbeat, peer's stamp) and whether the peer is alive after it.
    type Step = ((i64, i64), (i64, i64), bool);

    fn run(steps: &[Step]) {
        let mut liveness = Liveness::new("me".into(), 7);
        for (number, ((echoed, heartbeat), (incarnation, sequence), alive)) in steps.iter().enumerate() {
            let records = Records::from([
                ("me".into(), stamp(7, *echoed)),
                ("peer".into(), stamp(*incarnation, *sequence)),
            ]);
            let live = liveness.observe(&records, *heartbeat);
            assert!(live.contains(&NodeName::from("me")));
            assert_eq!(live.contains(&NodeName::from("peer")), *alive, "step {number}");
        }
    }

    #[test]
    fn a_silent_peer_dies_with_my_third_heartbeat_and_returns_with_its_next_record() {
        run(&[
            ((1, 1), (1, 10), true),
            ((2, 2), (1, 10), true),
            ((3, 3), (1, 10), true),
            ((4, 4), (1, 10), false),
            ((5, 5), (1, 10), false),
            ((5, 5), (1, 11), true),
        ]);
    }

    #[test]
    fn a_restart_is_a_sign_of_life_although_its_sequence_starts_again() {
        run(&[
            ((1, 1), (1, 10), true),
            ((2, 2), (1, 10), true),
            ((3, 3), (2, 1), true),
            ((4, 4), (2, 1), true),
        ]);
    }

    #[test]
    fn while_my_own_heartbeats_do_not_come_back_nobody_dies() {
        run(&[
            ((1, 1), (1, 10), true),
            ((1, 2), (1, 10), true),
            ((1, 3), (1, 10), true),
            ((1, 9), (1, 10), true),
            // Back again: all that was missed counts as one.
            ((9, 9), (1, 10), true),
        ]);
    }

    #[test]
    fn records_published_between_heartbeats_are_not_counted() {
        run(&[
            ((1, 1), (1, 10), true),
            ((2, 1), (1, 10), true),
            ((3, 1), (1, 10), true),
            ((40, 1), (1, 10), true),
            ((41, 41), (1, 10), true),
            ((42, 42), (1, 10), true),
            ((43, 43), (1, 10), false),
        ]);
    }

    #[test]
    fn the_record_of_my_own_previous_process_is_no_heartbeat_and_a_deleted_record_is_nobody() {
        let mut liveness = Liveness::new("me".into(), 7);
        let old = Records::from([("me".into(), stamp(6, 900)), ("peer".into(), stamp(1, 1))]);
        for _ in 0..5 {
            assert_eq!(liveness.observe(&old, 1).len(), 2);
        }
        let gone = Records::from([("me".into(), stamp(7, 1))]);
        assert_eq!(liveness.observe(&gone, 1), BTreeSet::from(["me".into()]));
    }
}
