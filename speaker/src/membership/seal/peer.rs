//! What is known of one peer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fairlead_core::model::NodeName;

use super::cipher::Subkey;
use super::keys::{Key, KeyId, KeyRing};
use super::limit::Limit;
use super::window::Window;
use super::wire::{Body, Epoch, Header, OLDEST};

/// Replies to one peer: so many at once, then one in so long.
const REPLIES: (u32, Duration) = (10, Duration::from_millis(100));
/// How long a key that the peer seems not to know is not used for it.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// So many datagrams are remembered for refusals that name them.
const REMEMBERED: usize = 16;

/// A verified epoch of a peer.
#[derive(Debug)]
pub struct Session {
    /// The epoch.
    pub epoch: Epoch,
    /// What has been received in it.
    pub window: Window,
    /// Its keys, as they were needed.
    pub subkeys: BTreeMap<KeyId, Subkey>,
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// Its node.
    pub name: NodeName,
    /// Its verified epoch.
    pub session: Option<Session>,
    /// It may have another epoch by now: it is challenged with the next datagram.
    pub unsure: bool,
    /// Changes with every use, so that a token is good for one.
    pub generation: u64,
    /// The highest version that it reads.
    pub highest: u8,
    /// Limits replies to the verified epoch.
    pub replies: Limit,
    /// Limits replies to other epochs, which anyone can cause who has recorded a datagram.
    pub strangers: Limit,
    /// The newest key that it knows, by its own word.
    announced: Option<KeyId>,
    /// The key of the last datagram from it.
    used: Option<KeyId>,
    refused: Vec<(KeyId, Duration)>,
    sent: VecDeque<(u64, KeyId)>,
}

impl Peer {
    /// A peer of which nothing is known.
    pub fn new(name: NodeName, generation: u64) -> Self {
        Self {
            name,
            session: None,
            unsure: true,
            generation,
            highest: OLDEST,
            replies: Limit::new(REPLIES.0, REPLIES.1),
            strangers: Limit::new(REPLIES.0, REPLIES.1),
            announced: None,
            used: None,
            refused: Vec::new(),
            sent: VecDeque::new(),
        }
    }

    /// Takes over what a fresh datagram says of its sender.
    pub fn heard(&mut self, header: &Header, body: &Body) {
        self.announced = Some(body.newest_key);
        self.used = Some(header.key);
        self.highest = body.highest.max(OLDEST);
        self.refused.clear();
    }

    /// A datagram went out to it.
    pub fn sent(&mut self, counter: u64, key: KeyId) {
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((counter, key));
    }

    /// Somebody says that it does not know the key of this datagram; answers whether there was such a datagram.
    pub fn refuses(&mut self, counter: u64, key: KeyId, now: Duration) -> bool {
        let known = self.sent.contains(&(counter, key));
        if known {
            self.refused
                .retain(|(refused, until)| *refused != key && now < *until);
            self.refused.push((key, now + REFUSED_FOR));
        }
        known
    }

    /// The key to use for it: the newest that it is known to have, as long as it does not refuse it. Not simply our
    /// newest: the peer may not have heard of that yet.
    pub fn key(&self, ring: &KeyRing, now: Duration) -> Option<KeyId> {
        let refused = |id: &KeyId| {
            self.refused
                .iter()
                .any(|(refused, until)| refused == id && now < *until)
        };
        let known = self.announced.into_iter().chain(self.used);
        known
            .filter(|id| ring.get(*id, now).is_some())
            .chain(ring.accepted(now).map(Key::id))
            .find(|id| !refused(id))
            .or_else(|| ring.newest().map(Key::id))
    }
}
