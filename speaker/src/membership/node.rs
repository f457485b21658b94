//! One speaker's part in the gossip: failure detector and records together. Without clocks and sockets, so that whole
//! clusters run in a test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::announce::Record;
use fairlead_core::model::NodeName;

use super::detector::{Counts, Detector, Settings};
use super::identity::Identity;
use super::replica::Replica;
use super::wire::{Delta, Key, Known, Message, Meta, name_hash};

/// Between two comparisons with some other node.
const COMPARE: Duration = Duration::from_millis(200);
/// The same until this node knows as much as another.
const COMPARE_FIRST: Duration = Duration::from_millis(50);
/// All that is known is told to one node at most so often.
const TELL: Duration = Duration::from_millis(50);
/// An answer that takes longer is not waited for.
const ANSWER: Duration = Duration::from_millis(50);
/// The record of a node that is neither alive nor in the cluster is kept for this long.
const KEEP: Duration = Duration::from_secs(60);
/// Start numbers are in microseconds, so this is a second.
const STRIDES: u64 = 1_000_000;
/// Without having heard from any other node, a new speaker counts as informed after this time.
const LONE: Duration = Duration::from_secs(3);

/// One speaker.
pub struct Node {
    me: NodeName,
    detector: Detector,
    replica: Replica,
    contents: BTreeMap<Key, Vec<u8>>,
    /// Has anybody said which nodes there are?
    acquainted: bool,
    told: BTreeMap<NodeName, Duration>,
    /// When somebody was last asked for the record with this name's hash.
    asked: BTreeMap<u64, Duration>,
    /// Since when a node whose record is kept is neither alive nor in the cluster.
    strangers: BTreeMap<NodeName, Duration>,
    compare: Duration,
    compared: usize,
    /// How far this process goes beyond a number that is taken. Different for each, or two of them that found the same
    /// one taken would go on under one number, and what the first had said would be taken for what the second says.
    stride: i64,
    started: Duration,
    /// Has this node once known as much as another that is alive?
    informed: bool,
    out: Vec<(NodeName, Message)>,
    malformed: u64,
    /// Changes of the cluster's nodes and of `informed`.
    changes: u64,
}

/// What the gossip says at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Start number under which this speaker's own record goes.
    pub incarnation: i64,
    /// Who is alive, this node included.
    pub live: BTreeSet<NodeName>,
    /// The records of all speakers, dead ones included, as this node knows them.
    pub records: BTreeMap<NodeName, Arc<Record>>,
    /// What the speakers say of themselves.
    pub metas: BTreeMap<NodeName, Meta>,
    /// Nodes of the cluster, this one excluded, that are not alive.
    pub missing: BTreeSet<NodeName>,
    /// This node has compared its knowledge with another, or there is no other.
    pub informed: bool,
}

impl Node {
    /// A speaker that starts now. `start` is larger than that of any process of this node before it; if it is not, that is
    /// found out and mended.
    pub fn new(me: NodeName, start: i64, settings: Settings, seed: u64, now: Duration) -> Self {
        let identity = Identity {
            node: me.clone(),
            start,
            bump: 0,
        };
        Self {
            detector: Detector::new(identity, settings, seed, now),
            replica: Replica::new(me.clone(), start),
            me,
            contents: BTreeMap::new(),
            acquainted: false,
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            strangers: BTreeMap::new(),
            compare: now,
            compared: seed as usize,
            stride: (seed % STRIDES).cast_signed(),
            started: now,
            informed: false,
            out: Vec::new(),
            malformed: 0,
            changes: 0,
        }
    }

    /// The nodes of the cluster.
    pub fn set_peers(&mut self, mut peers: BTreeSet<NodeName>) {
        peers.remove(&self.me);
        self.changes += u64::from(peers != *self.detector.peers());
        self.detector.set_peers(peers);
        self.acquainted = true;
    }

    /// This node's record, from now on.
    pub fn publish(&mut self, contents: BTreeMap<Key, Vec<u8>>) {
        let pieces = self.replica.publish(&contents);
        self.contents = contents;
        self.tell_all(&pieces);
    }

    /// Takes in a message. Who sent it is certain.
    pub fn receive(&mut self, from: &NodeName, message: &[u8], now: Duration) {
        let message = match Message::decode(message) {
            Ok(Some(message)) => message,
            Ok(None) => return, // of a newer protocol
            Err(_) => {
                self.malformed += 1;
                return;
            }
        };
        let alive = self.detector.live().count();
        match message {
            Message::Swim(bytes) => self.detector.receive(from, &bytes, now),
            Message::Delta(delta) => self.take(from, delta, now),
            Message::Digest(theirs) => {
                if theirs == self.replica.digest() {
                    self.inform();
                } else {
                    self.tell(from, now);
                }
            }
            Message::Vector(theirs) => {
                let lacking = self.replica.lacking(&theirs);
                let same = lacking.is_empty() && self.replica.vector().eq(theirs.iter().copied());
                if same {
                    self.inform();
                    self.out
                        .push((from.clone(), Message::Digest(self.replica.digest())));
                } else {
                    // What the other lacks it finds out by the same means.
                    self.tell(from, now);
                }
                for known in lacking {
                    self.ask(from, known, now);
                }
            }
            Message::Pull(known) => {
                let pieces = self.replica.answer(known).into_iter();
                self.out
                    .extend(pieces.map(|delta| (from.clone(), Message::Delta(delta))));
            }
            // An earlier process of this node had a later number: its clock was ahead.
            Message::Obituary(dead, _)
                if dead.node == self.me && dead.start > self.detector.identity().start =>
            {
                self.restart(dead.start, now);
            }
            Message::Obituary(dead, incarnation) => self.detector.obituary(dead, incarnation, now),
            Message::Accusation {
                accused,
                incarnation,
                by,
            } => self.detector.accused(accused, incarnation, by, now),
        }
        if self.detector.live().count() > alive {
            // Somebody is new here: what each knows is compared at once.
            self.compare = now;
        }
    }

    fn inform(&mut self) {
        self.changes += u64::from(!self.informed);
        self.informed = true;
    }

    fn take(&mut self, from: &NodeName, delta: Delta, now: Duration) {
        let origin = name_hash(&delta.origin);
        let taken = self.replica.take(delta);
        if taken.news {
            self.asked.remove(&origin);
        }
        if let Some(known) = taken.ask {
            self.ask(from, known, now);
        }
        if let Some(start) = taken.superseded {
            self.restart(start, now);
        }
    }

    /// Goes on under a start number above this one, and above its own.
    fn restart(&mut self, above: i64, now: Duration) {
        let start = above.max(self.detector.identity().start);
        let start = start.saturating_add(1 + self.stride);
        self.replica.restart(start);
        self.detector.restart(start, now);
        let pieces = self.replica.publish(&self.contents);
        self.tell_all(&pieces);
    }

    /// Asks for a part of a record, unless somebody was just asked for it.
    fn ask(&mut self, whom: &NodeName, known: Known, now: Duration) {
        let waiting = self
            .asked
            .get(&known.origin)
            .is_some_and(|asked| now < *asked + ANSWER);
        if !waiting {
            self.asked.insert(known.origin, now);
            self.out.push((whom.clone(), Message::Pull(known)));
        }
    }

    fn tell_all(&mut self, pieces: &[Delta]) {
        let live: Vec<NodeName> = self.detector.live().cloned().collect();
        for node in live {
            self.out.extend(
                pieces
                    .iter()
                    .map(|delta| (node.clone(), Message::Delta(delta.clone()))),
            );
        }
    }

    /// Tells somebody all that is known, unless that was just done.
    fn tell(&mut self, to: &NodeName, now: Duration) {
        let due = self.told.get(to).is_none_or(|told| now >= *told + TELL);
        if due {
            self.told.insert(to.clone(), now);
            let parts = self.replica.vectors().into_iter();
            self.out
                .extend(parts.map(|part| (to.clone(), Message::Vector(part))));
        }
    }

    /// A session with somebody has begun: what was sent there before was not understood, so it is said again at once.
    pub fn hurry(&mut self, now: Duration) {
        self.detector.hurry(now);
    }

    /// When to call [`Self::tick`] next.
    pub fn next(&self) -> Duration {
        self.detector.next().min(self.compare)
    }

    /// Does what is due. All that has arrived must have been taken in before.
    pub fn tick(&mut self, now: Duration) {
        self.detector.tick(now);
        if self.compare <= now {
            self.compare = now + if self.informed { COMPARE } else { COMPARE_FIRST };
            let live: Vec<&NodeName> = self.detector.live().collect();
            if !live.is_empty() {
                self.compared = self.compared.wrapping_add(1);
                let to = live[self.compared % live.len()].clone();
                if self.informed {
                    self.out.push((to, Message::Digest(self.replica.digest())));
                } else {
                    self.tell(&to, now);
                }
            }
            self.forget(now);
        }
        if (self.acquainted && self.detector.peers().is_empty()) || now >= self.started + LONE {
            self.inform();
        }
    }

    fn forget(&mut self, now: Duration) {
        let live: BTreeSet<&NodeName> = self.detector.live().collect();
        let strange = |node: &&NodeName| {
            **node != self.me && !live.contains(*node) && !self.detector.peers().contains(*node)
        };
        let strangers: BTreeSet<NodeName> = self
            .replica
            .records()
            .map(|(node, _)| node)
            .filter(strange)
            .cloned()
            .collect();
        self.strangers.retain(|node, _| strangers.contains(node));
        for node in strangers {
            let since = *self.strangers.entry(node.clone()).or_insert(now);
            if now >= since + KEEP {
                self.replica.forget(&node);
            }
        }
        self.told.retain(|node, _| live.contains(node));
    }

    /// Says farewell to everybody: they need not find out that this speaker is gone.
    pub fn leave(&mut self) {
        self.detector.leave();
    }

    /// What is to be sent, and to whom.
    pub fn take_output(&mut self) -> Vec<(NodeName, Vec<u8>)> {
        let mut all = std::mem::take(&mut self.out);
        all.extend(self.detector.take_output());
        all.into_iter()
            .map(|(to, message)| (to, message.encode()))
            .collect()
    }

    /// Rises whenever [`Self::view`] says something else.
    pub fn version(&self) -> u64 {
        self.detector.version + self.replica.version() + self.changes
    }

    /// What the gossip says now.
    pub fn view(&self) -> View {
        let mut live: BTreeSet<NodeName> = self.detector.live().cloned().collect();
        let missing = self.detector.peers().difference(&live).cloned().collect();
        live.insert(self.me.clone());
        View {
            incarnation: self.replica.incarnation(),
            live,
            records: self
                .replica
                .records()
                .map(|(node, record)| (node.clone(), Arc::clone(record)))
                .collect(),
            metas: self
                .replica
                .records()
                .filter_map(|(node, _)| Some((node.clone(), self.replica.meta(node)?.clone())))
                .collect(),
            missing,
            informed: self.informed,
        }
    }

    /// What the failure detector has done so far.
    pub fn counts(&self) -> Counts {
        self.detector.counts
    }

    /// Messages that could not be read although their sender was authenticated.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// How late this node was of late.
    pub fn lateness(&self) -> Duration {
        self.detector.lateness()
    }
}

#[cfg(test)]
pub(crate) mod net;
#[cfg(test)]
mod tests;
