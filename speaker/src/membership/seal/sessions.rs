//! Sealing and opening, and who is verified.

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_core::model::NodeName;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::cipher::{Subkey, associated};
use super::keys::{Key, KeyId, KeyRing};
use super::limit::Limit;
use super::peer::{Peer, Session};
use super::window::Window;
use super::wire::{
    Body, Epoch, HEADER, Header, HeaderError, Kind, LENGTH, MAX_MESSAGE, NEWEST, NodeId, OLDEST, ROOM, TAG,
    Token,
};

/// A token is good for one to two of these.
const TOKEN_LIFE: Duration = Duration::from_secs(10);
/// Refusals of keys: so many at once, then one in so long.
const KEY_REFUSALS: (u32, Duration) = (20, Duration::from_millis(20));
/// After so many datagrams a new epoch begins, long before counters end.
const EPOCH_LENGTH: u64 = 1 << 48;

/// Fills bytes at random.
pub type Random = Box<dyn FnMut(&mut [u8]) -> Result<(), NoRandomness> + Send>;

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// The system's own random numbers.
pub fn system_random() -> Random {
    let system = SystemRandom::new();
    Box::new(move |bytes| system.fill(bytes).map_err(|_| NoRandomness))
}

/// Why a datagram was not taken. A few `NoSuchKey` belong to a rotation, a few `Unverified` to every start, a few
/// `Replayed` to a network that repeats or reorders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// It is no datagram of ours, or one that contradicts itself.
    Malformed,
    /// It is of a version that is not read here.
    Version,
    /// It is sealed under a key that is not accepted.
    NoSuchKey,
    /// It was not sealed by anybody who has the key, or was changed on its way.
    Forged,
    /// Its counter was seen before, or is too old to tell.
    Replayed,
    /// It is for another node.
    NotForUs,
    /// Its sender is no peer.
    UnknownNode,
    /// Its sender's epoch is not verified. A challenge goes out as reply.
    Unverified,
}

impl Refused {
    /// All of them.
    pub const ALL: [Refused; 8] = [
        Refused::Malformed,
        Refused::Version,
        Refused::NoSuchKey,
        Refused::Forged,
        Refused::Replayed,
        Refused::NotForUs,
        Refused::UnknownNode,
        Refused::Unverified,
    ];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::Malformed => "malformed",
            Refused::Version => "version",
            Refused::NoSuchKey => "no_such_key",
            Refused::Forged => "forged",
            Refused::Replayed => "replayed",
            Refused::NotForUs => "not_for_us",
            Refused::UnknownNode => "unknown_node",
            Refused::Unverified => "unverified",
        }
    }
}

/// What came of a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The peer that sent it just now; `None` of whatever is refused.
    pub from: Option<NodeName>,
    /// Its messages, in their order.
    pub messages: Vec<Vec<u8>>,
    /// To be sent to where the datagram came from. Never longer than the datagram.
    pub reply: Option<Vec<u8>>,
    /// Why it was not taken.
    pub refused: Option<Refused>,
    /// This datagram has verified the peer: it has started, or is heard for the first time.
    pub verified: bool,
    /// The peer takes what it gets once it has the reply, and may have dropped what was sent before.
    pub answers: bool,
}

impl Opened {
    fn refused(refused: Refused) -> Self {
        Self {
            refused: Some(refused),
            ..Self::default()
        }
    }
}

/// Why nothing can be sent to a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The node is not among the peers.
    #[error("{0} is no peer")]
    UnknownPeer(NodeName),
    /// There is no key yet.
    #[error("there is no key yet")]
    NoKey,
    /// A message does not fit into a datagram.
    #[error("a message of {0} bytes is too long; {MAX_MESSAGE} are the most")]
    TooLong(usize),
    /// A new epoch is due.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The sessions of this speaker with all others.
pub struct Sessions {
    me: NodeId,
    ring: KeyRing,
    newest: u8,
    random: Random,
    epoch: Epoch,
    counter: u64,
    pub(super) epoch_length: u64,
    /// The keys of our own epoch, as they were needed.
    subkeys: BTreeMap<KeyId, Subkey>,
    tokens: hmac::Key,
    generation: u64,
    peers: BTreeMap<NodeId, Peer>,
    /// Whose the verified epochs are.
    epochs: BTreeMap<Epoch, NodeId>,
    key_refusals: Limit,
}

impl Sessions {
    /// Without keys and peers. `newest` is the highest version that is spoken, between [`OLDEST`] and [`NEWEST`].
    ///
    /// # Errors
    /// When `random` fails.
    pub fn new(me: &NodeName, newest: u8, mut random: Random) -> Result<Self, NoRandomness> {
        let (mut epoch, mut secret) = (Epoch::default(), [0; 32]);
        random(&mut epoch)?;
        random(&mut secret)?;
        Ok(Self {
            me: NodeId::of(me),
            ring: KeyRing::default(),
            newest: newest.clamp(OLDEST, NEWEST),
            random,
            epoch,
            counter: 0,
            epoch_length: EPOCH_LENGTH,
            subkeys: BTreeMap::new(),
            tokens: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            generation: 0,
            peers: BTreeMap::new(),
            epochs: BTreeMap::new(),
            key_refusals: Limit::new(KEY_REFUSALS.0, KEY_REFUSALS.1),
        })
    }

    /// The keys of the Secret, newest first; see [`KeyRing::replace`].
    pub fn set_keys(&mut self, keys: Vec<Key>, now: Duration) {
        self.ring.replace(keys, now);
        let ring = &self.ring;
        let kept = |id: &KeyId| ring.get(*id, now).is_some();
        self.subkeys.retain(|id, _| kept(id));
        for session in self.peers.values_mut().filter_map(|peer| peer.session.as_mut()) {
            session.subkeys.retain(|id, _| kept(id));
        }
    }

    /// The nodes that may have sessions; this node itself may be among them. Those that are no more are forgotten.
    pub fn set_peers<'a>(&mut self, names: impl IntoIterator<Item = &'a NodeName>) {
        let mut before = std::mem::take(&mut self.peers);
        for name in names {
            let id = NodeId::of(name);
            if id == self.me {
                continue;
            }
            let peer = before.remove(&id).unwrap_or_else(|| {
                self.generation += 1;
                Peer::new(name.clone(), self.generation)
            });
            self.peers.insert(id, peer);
        }
        let peers = &self.peers;
        self.epochs.retain(|_, id| peers.contains_key(id));
    }

    /// The version that is spoken with a peer: the highest that both read, the oldest with one that is not known yet.
    pub fn version(&self, peer: &NodeName) -> u8 {
        let highest = self
            .peers
            .get(&NodeId::of(peer))
            .map_or(OLDEST, |peer| peer.highest);
        highest.min(self.newest)
    }

    /// Is the present epoch of this peer verified, as far as is known?
    pub fn is_verified(&self, peer: &NodeName) -> bool {
        let peer = self.peers.get(&NodeId::of(peer));
        peer.is_some_and(|peer| peer.session.is_some() && !peer.unsure)
    }

    /// Seals messages for a peer, as many in a datagram as fit and its version allows. Empty messages are left out.
    ///
    /// # Errors
    /// When nothing can be sent to this peer, or one of the messages is too long; then none is sealed.
    pub fn seal(
        &mut self,
        to: &NodeName,
        messages: &[&[u8]],
        now: Duration,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        if let Some(long) = messages.iter().find(|message| message.len() > MAX_MESSAGE) {
            return Err(SealError::TooLong(long.len()));
        }
        let id = NodeId::of(to);
        let peer = self
            .peers
            .get(&id)
            .ok_or_else(|| SealError::UnknownPeer(to.clone()))?;
        let mut challenge = peer.unsure.then(|| self.token(&id, peer.generation, now));
        let key = peer.key(&self.ring, now).ok_or(SealError::NoKey)?;
        let version = self.version(to);
        let mut datagrams = Vec::new();
        for messages in packed(messages, version) {
            let body = self.body(challenge.take(), None, messages);
            datagrams.push(self.emit(&id, (Kind::Data, version), key, &body, now)?);
        }
        Ok(datagrams)
    }

    /// A datagram without messages that begins the handshake with a peer; with one that is verified it changes nothing.
    ///
    /// # Errors
    /// When nothing can be sent to this peer.
    pub fn greet(&mut self, to: &NodeName, now: Duration) -> Result<Vec<u8>, SealError> {
        let id = NodeId::of(to);
        let peer = self
            .peers
            .get(&id)
            .ok_or_else(|| SealError::UnknownPeer(to.clone()))?;
        let key = peer.key(&self.ring, now).ok_or(SealError::NoKey)?;
        let challenge = self.token(&id, peer.generation, now);
        let body = self.body(Some(challenge), None, Vec::new());
        self.emit(&id, (Kind::Handshake, OLDEST), key, &body, now)
    }

    /// Opens a datagram.
    pub fn open(&mut self, datagram: &[u8], now: Duration) -> Opened {
        match self.authentic(datagram, now) {
            Ok(Some((header, body))) => self.take(&header, body, now),
            Ok(None) => Opened::default(),
            Err(Refused::NoSuchKey) => Opened {
                reply: self.no_such_key(datagram, now),
                ..Opened::refused(Refused::NoSuchKey)
            },
            Err(refused) => Opened::refused(refused),
        }
    }

    /// What one who has the key has sealed for us, now or at any time before; nothing if it is a mere refusal of a key.
    fn authentic(&mut self, datagram: &[u8], now: Duration) -> Result<Option<(Header, Body)>, Refused> {
        let header = Header::parse(datagram).map_err(|error| match error {
            HeaderError::Malformed => Refused::Malformed,
            HeaderError::Version => Refused::Version,
        })?;
        if header.version > self.newest {
            return Err(Refused::Version);
        }
        if header.kind == Kind::NoSuchKey {
            self.key_refused(&header, now);
            return Ok(None);
        }
        if header.destination != self.me.short() {
            return Err(Refused::NotForUs);
        }
        let key = self.ring.get(header.key, now).ok_or(Refused::NoSuchKey)?;
        let owner = self.epochs.get(&header.epoch).copied();
        let session = owner.and_then(|id| self.peers.get_mut(&id)?.session.as_mut());
        let unknown;
        let subkey = match session {
            Some(session) => {
                if !session.window.is_new(header.counter) {
                    return Err(Refused::Replayed);
                }
                session
                    .subkeys
                    .entry(header.key)
                    .or_insert_with(|| Subkey::derive(key, &header.epoch))
            }
            None => {
                unknown = Subkey::derive(key, &header.epoch);
                &unknown
            }
        };
        let mut text = datagram[HEADER..].to_vec();
        let text = subkey
            .open(header.counter, associated(&header.encode(), &self.me), &mut text)
            .ok_or(Refused::Forged)?;
        let body = Body::parse(header.version, text).ok_or(Refused::Malformed)?;
        if owner.is_some_and(|owner| owner != body.sender) {
            return Err(Refused::Forged);
        }
        if !self.peers.contains_key(&body.sender) {
            return Err(Refused::UnknownNode);
        }
        Ok(Some((header, body)))
    }

    /// Takes what is authentic, if it is fresh.
    fn take(&mut self, header: &Header, body: Body, now: Duration) -> Opened {
        let id = body.sender;
        let verified = self.verify(&id, header, body.answer, now);
        let Some(peer) = self.peers.get_mut(&id) else {
            return Opened::refused(Refused::UnknownNode);
        };
        let fresh = peer
            .session
            .as_mut()
            .filter(|session| session.epoch == header.epoch);
        let Some(session) = fresh else {
            // It may have started anew, or somebody repeats what it said long ago.
            peer.unsure = true;
            let allowed = peer.strangers.allows(now);
            // What it shows of its keys is good for this one reply.
            let known = self.ring.get(body.newest_key, now).map_or(header.key, Key::id);
            return Opened {
                reply: if allowed {
                    self.handshake(&id, known, true, body.challenge, now)
                } else {
                    None
                },
                answers: allowed && body.challenge.is_some(),
                ..Opened::refused(Refused::Unverified)
            };
        };
        if !session.window.note(header.counter) {
            return Opened::refused(Refused::Replayed);
        }
        peer.heard(header, &body);
        let from = Some(peer.name.clone());
        let asked = body.challenge.filter(|_| peer.replies.allows(now));
        let reply = asked.and_then(|challenge| {
            let key = self.peers.get(&id)?.key(&self.ring, now)?;
            self.handshake(&id, key, false, Some(challenge), now)
        });
        Opened {
            from,
            messages: body.messages,
            answers: reply.is_some(),
            reply,
            refused: None,
            verified,
        }
    }

    /// Verifies the epoch of a datagram by the answer in it; says whether it was not verified before.
    fn verify(&mut self, id: &NodeId, header: &Header, answer: Option<Token>, now: Duration) -> bool {
        let Some(answer) = answer else { return false };
        let Some(generation) = self.peers.get(id).map(|peer| peer.generation) else {
            return false;
        };
        let earlier = now.saturating_sub(TOKEN_LIFE);
        if ![now, earlier]
            .iter()
            .any(|time| self.token(id, generation, *time) == answer)
        {
            return false;
        }
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        self.generation += 1;
        peer.generation = self.generation;
        peer.unsure = false;
        if let Some(session) = &peer.session {
            if session.epoch == header.epoch {
                return false;
            }
            self.epochs.remove(&session.epoch);
        }
        self.epochs.insert(header.epoch, *id);
        peer.session = Some(Session {
            epoch: header.epoch,
            window: Window::starting_at(header.counter),
            subkeys: BTreeMap::new(),
        });
        true
    }

    /// Only somebody who has the key can return it, and only somebody who got it just now: it depends on a secret of this
    /// process, on the peer, on the time, and on how often the peer has been verified.
    fn token(&self, peer: &NodeId, generation: u64, now: Duration) -> Token {
        let time = now.as_secs() / TOKEN_LIFE.as_secs();
        let mut hash = hmac::Context::with_key(&self.tokens);
        hash.update(&peer.0);
        hash.update(&generation.to_be_bytes());
        hash.update(&time.to_be_bytes());
        let mut token = Token::default();
        token.copy_from_slice(&hash.sign().as_ref()[..16]);
        token
    }

    /// A datagram that challenges or answers, if it can be made.
    fn handshake(
        &mut self,
        to: &NodeId,
        key: KeyId,
        challenge: bool,
        answer: Option<Token>,
        now: Duration,
    ) -> Option<Vec<u8>> {
        let generation = self.peers.get(to)?.generation;
        let challenge = challenge.then(|| self.token(to, generation, now));
        let body = self.body(challenge, answer, Vec::new());
        self.emit(to, (Kind::Handshake, OLDEST), key, &body, now).ok()
    }

    fn body(&self, challenge: Option<Token>, answer: Option<Token>, messages: Vec<Vec<u8>>) -> Body {
        Body {
            sender: self.me,
            newest_key: self.ring.newest().map_or(KeyId([0; 4]), Key::id),
            highest: self.newest,
            challenge,
            answer,
            messages,
        }
    }

    fn emit(
        &mut self,
        to: &NodeId,
        (kind, version): (Kind, u8),
        key: KeyId,
        body: &Body,
        now: Duration,
    ) -> Result<Vec<u8>, SealError> {
        if self.counter >= self.epoch_length {
            (self.random)(&mut self.epoch)?;
            self.counter = 0;
            self.subkeys.clear();
        }
        let header = Header {
            version,
            kind,
            destination: to.short(),
            key,
            epoch: self.epoch,
            counter: self.counter,
        };
        let secret = self.ring.get(key, now).ok_or(SealError::NoKey)?;
        let subkey = self
            .subkeys
            .entry(key)
            .or_insert_with(|| Subkey::derive(secret, &header.epoch));
        self.counter += 1;
        let bytes = header.encode();
        let mut text = body.encode();
        subkey.seal(header.counter, associated(&bytes, to), &mut text);
        let mut datagram = Vec::with_capacity(HEADER + text.len() + TAG);
        datagram.extend(bytes);
        datagram.append(&mut text);
        if let Some(peer) = self.peers.get_mut(to) {
            peer.sent(header.counter, key);
        }
        Ok(datagram)
    }

    /// Tells the sender of a datagram that its key is not known here. It cannot be authenticated, having no key in common.
    fn no_such_key(&mut self, datagram: &[u8], now: Duration) -> Option<Vec<u8>> {
        let refused = Header::parse(datagram).ok()?;
        if self.ring.newest().is_none() || !self.key_refusals.allows(now) {
            return None;
        }
        let header = Header {
            version: OLDEST,
            kind: Kind::NoSuchKey,
            destination: [0; 4],
            ..refused
        };
        Some(header.encode().to_vec())
    }

    /// Who can name epoch, counter and key of a recent datagram has at least seen it. All that he can do is have us use
    /// another one of the accepted keys for that peer.
    fn key_refused(&mut self, header: &Header, now: Duration) {
        if header.epoch == self.epoch {
            let mut peers = self.peers.values_mut();
            peers.any(|peer| peer.refuses(header.counter, header.key, now));
        }
    }
}

/// Messages by datagram.
fn packed(messages: &[&[u8]], version: u8) -> Vec<Vec<Vec<u8>>> {
    let mut datagrams: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut room = 0;
    for message in messages.iter().filter(|message| !message.is_empty()) {
        let needed = LENGTH + message.len();
        match datagrams.last_mut() {
            Some(last) if version > 1 && needed <= room => last.push(message.to_vec()),
            _ => {
                datagrams.push(vec![message.to_vec()]);
                room = ROOM;
            }
        }
        room -= needed;
    }
    datagrams
}
