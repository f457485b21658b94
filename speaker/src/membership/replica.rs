//! The records of all speakers, copied to every node.
//!
//! A record is a history of numbered changes, written by its own speaker alone. Its speaker sends each change to
//! everybody at once. Whoever has missed one finds out by comparing a hash over everything with any other node, and is
//! given what it lacks by that node, whosever record it is. Traffic is so in proportion to what changes.
//!
//! What an entry says is kept as bytes: a node passes on what it does not understand itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_core::announce::Record;
use fairlead_core::model::NodeName;

use super::wire::{Delta, Entry, Key, Known, Meta, PARTED, ROUTED, decode_candidacy, name_hash};

/// Payload of one piece, so that it fits in a datagram with all that goes around it.
const PIECE: usize = 1150;
/// Pieces that are sent at once. What is beyond is asked for when these have arrived.
const BURST: usize = 16;
/// Removals that are remembered, besides as many as there are entries.
const REMOVALS: usize = 1024;
/// Records in one message that compares them.
const COMPARED: usize = 60;

/// What an entry says, with the number of the change since when; `None` if it was removed.
type Numbered = (u64, Option<Box<[u8]>>);

/// What one node knows of one record.
#[derive(Clone, Debug, Default)]
struct Copy {
    incarnation: i64,
    head: u64,
    floor: u64,
    entries: BTreeMap<Key, Numbered>,
    order: BTreeMap<u64, Key>,
    record: Arc<Record>,
    meta: Meta,
}

impl Copy {
    fn new(incarnation: i64) -> Self {
        let record = Record {
            incarnation,
            ..Record::default()
        };
        Self {
            incarnation,
            record: Arc::new(record),
            ..Self::default()
        }
    }

    fn put(&mut self, sequence: u64, key: Key, value: Option<Box<[u8]>>) {
        self.read(&key, value.as_deref());
        self.order.insert(sequence, key.clone());
        if let Some((old, _)) = self.entries.insert(key, (sequence, value)) {
            self.order.remove(&old);
        }
    }

    fn remove(&mut self, sequence: u64) {
        if let Some(key) = self.order.remove(&sequence) {
            self.read(&key, None);
            self.entries.remove(&key);
        }
    }

    /// Brings what is understood of an entry in line with it.
    fn read(&mut self, key: &Key, value: Option<&[u8]>) {
        if *key == Key::meta() {
            self.meta = value
                .and_then(|value| Meta::decode(value).ok())
                .unwrap_or_default();
        } else if let Some(address) = key.to_address() {
            let record = Arc::make_mut(&mut self.record);
            match value.and_then(|value| decode_candidacy(value).ok()) {
                Some(candidacy) => record.candidacies.insert(address, candidacy),
                None => record.candidacies.remove(&address),
            };
        } else if let Some(address) = key.to_route() {
            let record = Arc::make_mut(&mut self.record);
            record.routed.remove(&address);
            record.parted.remove(&address);
            // A newer speaker may say more after the first byte.
            let kind = value.and_then(|value| value.get(..1));
            match kind {
                Some(ROUTED) => drop(record.routed.insert(address)),
                Some(PARTED) => drop(record.parted.insert(address)),
                _ => {}
            }
        }
    }

    fn reached(&mut self, head: u64) {
        self.head = head;
        Arc::make_mut(&mut self.record).sequence = head.cast_signed();
    }
}

/// All that this node knows.
#[derive(Clone, Debug)]
pub struct Replica {
    me: NodeName,
    copies: BTreeMap<NodeName, Copy>,
    /// Node names by their hash.
    names: BTreeMap<u64, NodeName>,
    /// Rises with every change.
    version: u64,
}

impl Replica {
    /// Knows nothing but that this speaker exists.
    pub fn new(me: NodeName, incarnation: i64) -> Self {
        let mut replica = Self {
            me,
            copies: BTreeMap::new(),
            names: BTreeMap::new(),
            version: 0,
        };
        replica.begin(incarnation);
        replica
    }

    fn begin(&mut self, incarnation: i64) {
        self.version += 1;
        self.names.insert(name_hash(&self.me), self.me.clone());
        self.copies.insert(self.me.clone(), Copy::new(incarnation));
    }

    /// Starts this node's own history anew. What it said has to be published again.
    pub fn restart(&mut self, incarnation: i64) {
        self.begin(incarnation);
    }

    /// Rises with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Start of this node's own history.
    pub fn incarnation(&self) -> i64 {
        self.copies[&self.me].incarnation
    }

    /// The records, with what they say of candidacies.
    pub fn records(&self) -> impl Iterator<Item = (&NodeName, &Arc<Record>)> {
        self.copies.iter().map(|(node, copy)| (node, &copy.record))
    }

    /// What a speaker says of itself.
    pub fn meta(&self, node: &NodeName) -> Option<&Meta> {
        self.copies.get(node).map(|copy| &copy.meta)
    }

    /// Forgets the record of another node.
    pub fn forget(&mut self, node: &NodeName) {
        if *node != self.me {
            self.version += 1;
            self.copies.remove(node);
            self.names.remove(&name_hash(node));
        }
    }

    /// Makes this node's record say this and nothing else, and returns what has to be told to all.
    pub fn publish(&mut self, wanted: &BTreeMap<Key, Vec<u8>>) -> Vec<Delta> {
        let me = self.me.clone();
        let Some(own) = self.copies.get_mut(&me) else {
            return Vec::new();
        };
        let before = own.head;
        let gone: Vec<Key> = own
            .entries
            .iter()
            .filter(|(key, (_, value))| value.is_some() && !wanted.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        let changed = wanted.iter().filter(|(key, value)| {
            own.entries.get(*key).and_then(|(_, known)| known.as_deref()) != Some(value.as_slice())
        });
        let changed: Vec<(Key, Option<Box<[u8]>>)> = changed
            .map(|(key, value)| (key.clone(), Some(value.as_slice().into())))
            .chain(gone.into_iter().map(|key| (key, None)))
            .collect();
        let mut head = own.head;
        for (key, value) in changed {
            head += 1;
            own.put(head, key, value);
        }
        if head == before {
            return Vec::new();
        }
        own.reached(head);
        self.version += 1;
        own.forget_removals();
        self.pieces(&me, before, usize::MAX)
    }

    /// Takes in a piece. Returns what to ask the sender for, if something is missing or more is to come.
    pub fn take(&mut self, delta: Delta) -> Taken {
        let origin = name_hash(&delta.origin);
        if delta.origin == self.me {
            let mine = self.incarnation();
            let outdated = delta.incarnation > mine;
            return Taken {
                superseded: outdated.then_some(delta.incarnation),
                ..Taken::default()
            };
        }
        let copy = self
            .copies
            .entry(delta.origin.clone())
            .or_insert_with(|| Copy::new(delta.incarnation));
        self.names.insert(origin, delta.origin);
        if delta.incarnation < copy.incarnation {
            return Taken::default();
        }
        if delta.incarnation > copy.incarnation {
            *copy = Copy::new(delta.incarnation);
        }
        if delta.floor > copy.floor {
            copy.floor = delta.floor;
            if copy.head < delta.floor {
                // Removals were forgotten that this node may never have heard of. Reading all of it anew shows them.
                copy.head = 0;
            }
        }
        let ask = |after| {
            Some(Known {
                origin,
                incarnation: delta.incarnation,
                head: after,
            })
        };
        let mut taken = Taken::default();
        if delta.after > copy.head {
            taken.ask = ask(copy.head);
            return taken;
        }
        if delta.upto <= copy.head {
            return taken;
        }
        let stale: Vec<u64> = copy
            .order
            .range(delta.after + 1..=delta.upto)
            .map(|(sequence, _)| *sequence)
            .filter(|sequence| !delta.entries.iter().any(|entry| entry.sequence == *sequence))
            .collect();
        for sequence in stale {
            copy.remove(sequence);
        }
        for entry in delta.entries {
            let newer = copy
                .entries
                .get(&entry.key)
                .is_none_or(|(known, _)| *known < entry.sequence);
            if newer {
                copy.put(entry.sequence, entry.key, entry.value);
            }
        }
        copy.reached(delta.upto);
        taken.news = true;
        self.version += 1;
        if delta.last && copy.head < delta.head {
            taken.ask = ask(copy.head);
        }
        taken
    }

    /// What to send to somebody who knows this much of a record.
    pub fn answer(&self, known: Known) -> Vec<Delta> {
        let Some(name) = self.names.get(&known.origin) else {
            return Vec::new();
        };
        let Some(copy) = self.copies.get(name) else {
            return Vec::new();
        };
        let after = if known.incarnation == copy.incarnation {
            known.head
        } else {
            0
        };
        if known.incarnation > copy.incarnation || after > copy.head {
            return Vec::new();
        }
        self.pieces(name, after, BURST)
    }

    /// A hash over how much is known of every record.
    pub fn digest(&self) -> u64 {
        let mix = |hash: u64, value: u64| {
            let hash = (hash ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^ (hash >> 33)
        };
        self.vector().fold(0x9e37_79b9_7f4a_7c15, |hash, known| {
            mix(
                mix(mix(hash, known.origin), known.incarnation.cast_unsigned()),
                known.head,
            )
        })
    }

    /// How much is known of every record.
    pub fn vector(&self) -> impl Iterator<Item = Known> {
        self.copies.iter().map(|(node, copy)| Known {
            origin: name_hash(node),
            incarnation: copy.incarnation,
            head: copy.head,
        })
    }

    /// The same in parts that fit in a message each.
    pub fn vectors(&self) -> Vec<Vec<Known>> {
        let all: Vec<Known> = self.vector().collect();
        all.chunks(COMPARED).map(<[Known]>::to_vec).collect()
    }

    /// What somebody else knows and this node does not, each with the point from which it is lacking.
    pub fn lacking(&self, theirs: &[Known]) -> Vec<Known> {
        let lacking = |their: &Known| {
            let mine = self
                .names
                .get(&their.origin)
                .and_then(|name| self.copies.get(name));
            let (incarnation, head) = mine.map_or((i64::MIN, 0), |copy| (copy.incarnation, copy.head));
            let head_there = if incarnation == their.incarnation { head } else { 0 };
            ((incarnation, head) < (their.incarnation, their.head)).then_some(Known {
                head: head_there,
                ..*their
            })
        };
        theirs.iter().filter_map(lacking).collect()
    }

    /// The history of a record after a point, in pieces, at most so many.
    fn pieces(&self, origin: &NodeName, after: u64, most: usize) -> Vec<Delta> {
        let Some(copy) = self.copies.get(origin) else {
            return Vec::new();
        };
        let piece = |after| Delta {
            origin: origin.clone(),
            incarnation: copy.incarnation,
            floor: copy.floor,
            head: copy.head,
            after,
            upto: after,
            last: false,
            entries: Vec::new(),
        };
        let (mut pieces, mut current, mut size) = (Vec::new(), piece(after), 0);
        for (sequence, key) in copy.order.range(after.saturating_add(1)..) {
            let value = copy.entries.get(key).and_then(|(_, value)| value.clone());
            let length = key.0.len() + value.as_deref().map_or(0, <[u8]>::len) + 8;
            if size + length > PIECE && !current.entries.is_empty() {
                let next = piece(current.upto);
                pieces.push(std::mem::replace(&mut current, next));
                size = 0;
                if pieces.len() >= most {
                    break;
                }
            }
            size += length;
            current.upto = *sequence;
            current.entries.push(Entry {
                sequence: *sequence,
                key: key.clone(),
                value,
            });
        }
        if pieces.len() < most {
            // The end of the history may be removals that are forgotten by now.
            current.upto = copy.head;
            pieces.push(current);
        }
        if let Some(last) = pieces.last_mut() {
            last.last = true;
        }
        pieces
    }
}

impl Copy {
    /// Only the writer forgets removals: the floor tells all others.
    fn forget_removals(&mut self) {
        let removals: Vec<u64> = self
            .order
            .iter()
            .filter(|(_, key)| self.entries.get(*key).is_some_and(|(_, value)| value.is_none()))
            .map(|(sequence, _)| *sequence)
            .collect();
        let kept = REMOVALS.max(self.entries.len() / 2);
        if removals.len() <= kept {
            return;
        }
        // Half of them at once, so that this is not done again with the next removal.
        for sequence in &removals[..removals.len() - kept / 2] {
            self.remove(*sequence);
            self.floor = self.floor.max(*sequence);
        }
    }
}

/// What came of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Something new is known.
    pub news: bool,
    /// To be asked of the sender.
    pub ask: Option<Known>,
    /// Somebody knows a later start of this very node: this one must get a later number still.
    pub superseded: Option<i64>,
}

#[cfg(test)]
mod tests;
