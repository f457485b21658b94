//! The layout of datagrams. All numbers are big-endian.
//!
//! Inside, once opened:
//!
//! ```text
//! | sender 16 | its newest key 4 | highest version it reads 1 | flags 1 | challenge 16? | answer 16? | messages | zeros |
//! ```
//!
//! A message is its length in two bytes and its bytes; length 0 ends them. Every datagram but a refusal is filled up to
//! [`MIN_DATAGRAM`] bytes, so that a handshake in reply is never longer than what it replies to.

use std::fmt;

use fairlead_core::model::NodeName;
use ring::digest;

use super::keys::KeyId;

/// The oldest version of the protocol that is read: exactly one message a datagram.
pub const OLDEST: u8 = 1;
/// The newest version: several messages a datagram.
pub const NEWEST: u8 = 2;

/// Bytes of the header.
pub const HEADER: usize = 34;
/// Bytes that a whole datagram may have: fits into any network that carries Ethernet frames, tunnels included.
pub const MAX_DATAGRAM: usize = 1400;
/// Bytes that a whole datagram has at least, refusals of a key apart: those of a handshake.
pub const MIN_DATAGRAM: usize = HEADER + FIXED + 2 * TOKEN + TAG;
/// Bytes that a message may have: one fits into a datagram together with a challenge.
pub const MAX_MESSAGE: usize = MAX_DATAGRAM - HEADER - FIXED - TOKEN - LENGTH - TAG;

/// Bytes of the authentication tag.
pub const TAG: usize = 16;
/// Bytes before the tokens.
const FIXED: usize = 22;
/// Bytes of a token.
const TOKEN: usize = 16;
/// Bytes of a message's length.
pub const LENGTH: usize = 2;
/// Bytes for messages when a challenge goes with them.
pub const ROOM: usize = LENGTH + MAX_MESSAGE;

const HAS_CHALLENGE: u8 = 1;
const HAS_ANSWER: u8 = 2;

/// Random number of a process of a speaker.
pub type Epoch = [u8; 16];
/// What a challenged peer has to return.
pub type Token = [u8; TOKEN];

/// Stands for a node's name: the beginning of a hash of it, so that all are of one length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// That of a name.
    pub fn of(name: &NodeName) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"fairlead gossip node");
        hash.update(name.as_str().as_bytes());
        let hash = hash.finish();
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_ref()[..16]);
        Self(id)
    }

    /// Its beginning, which stands in the header.
    pub fn short(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What kind of datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Carries messages.
    Data,
    /// Carries a challenge, an answer, or both.
    Handshake,
    /// Carries nothing and is not authenticated: the key of the datagram with this epoch and counter is not known here.
    NoSuchKey,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It is none.
    Malformed,
    /// A version that is not read here.
    Version,
}

/// The part of a datagram that everybody can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the protocol.
    pub version: u8,
    /// What it carries.
    pub kind: Kind,
    /// The beginning of the destination's id.
    pub destination: [u8; 4],
    /// The key it is sealed under.
    pub key: KeyId,
    /// Epoch of the sender; of the receiver in a refusal.
    pub epoch: Epoch,
    /// Number of the datagram in its epoch.
    pub counter: u64,
}

impl Header {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.version;
        bytes[1] = match self.kind {
            Kind::Data => 1,
            Kind::Handshake => 2,
            Kind::NoSuchKey => 3,
        };
        bytes[2..6].copy_from_slice(&self.destination);
        bytes[6..10].copy_from_slice(&self.key.0);
        bytes[10..26].copy_from_slice(&self.epoch);
        bytes[26..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The header of a datagram.
    ///
    /// # Errors
    /// When the datagram cannot be one, or is of a version that is not read.
    pub fn parse(datagram: &[u8]) -> Result<Self, HeaderError> {
        let &version = datagram.first().ok_or(HeaderError::Malformed)?;
        if !(OLDEST..=NEWEST).contains(&version) {
            return Err(HeaderError::Version);
        }
        let bytes: &[u8; HEADER] = datagram.first_chunk().ok_or(HeaderError::Malformed)?;
        let (kind, lengths) = match bytes[1] {
            1 => (Kind::Data, MIN_DATAGRAM..=MAX_DATAGRAM),
            2 => (Kind::Handshake, MIN_DATAGRAM..=MAX_DATAGRAM),
            3 => (Kind::NoSuchKey, HEADER..=HEADER),
            _ => return Err(HeaderError::Malformed),
        };
        if !lengths.contains(&datagram.len()) {
            return Err(HeaderError::Malformed);
        }
        Ok(Self {
            version,
            kind,
            destination: part(bytes, 2),
            key: KeyId(part(bytes, 6)),
            epoch: part(bytes, 10),
            counter: u64::from_be_bytes(part(bytes, 26)),
        })
    }
}

/// What is inside, once it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Who sealed it.
    pub sender: NodeId,
    /// The newest key that the sender knows.
    pub newest_key: KeyId,
    /// The newest version that the sender reads.
    pub highest: u8,
    /// To be returned as answer.
    pub challenge: Option<Token>,
    /// A challenge returned.
    pub answer: Option<Token>,
    /// Messages, none of them empty.
    pub messages: Vec<Vec<u8>>,
}

impl Body {
    /// The bytes, filled up to the least length. Messages that are empty are left out; the caller sees to the most.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_DATAGRAM - HEADER);
        bytes.extend(self.sender.0);
        bytes.extend(self.newest_key.0);
        bytes.push(self.highest);
        let flag = |token: &Option<Token>, bit| if token.is_some() { bit } else { 0 };
        bytes.push(flag(&self.challenge, HAS_CHALLENGE) | flag(&self.answer, HAS_ANSWER));
        bytes.extend(self.challenge.iter().chain(&self.answer).flatten());
        for message in self.messages.iter().filter(|message| !message.is_empty()) {
            bytes.extend((message.len() as u16).to_be_bytes());
            bytes.extend(message);
        }
        bytes.resize(bytes.len().max(MIN_DATAGRAM - HEADER - TAG), 0);
        bytes
    }

    /// Reads the bytes; `None` if they are no body of this version.
    pub fn parse(version: u8, bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED>()?;
        let flags = fixed[21];
        if flags & !(HAS_CHALLENGE | HAS_ANSWER) != 0 {
            return None;
        }
        let mut token = |bit| {
            if flags & bit == 0 {
                return Some(None);
            }
            let (token, after) = rest.split_first_chunk::<TOKEN>()?;
            rest = after;
            Some(Some(*token))
        };
        let (challenge, answer) = (token(HAS_CHALLENGE)?, token(HAS_ANSWER)?);
        let messages = messages(rest)?;
        if version < 2 && messages.len() > 1 {
            return None;
        }
        Some(Self {
            sender: NodeId(part(fixed, 0)),
            newest_key: KeyId(part(fixed, 16)),
            highest: fixed[20],
            challenge,
            answer,
            messages,
        })
    }
}

fn messages(mut rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH>() {
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            break;
        }
        let (message, after) = after.split_at_checked(length)?;
        messages.push(message.to_vec());
        rest = after;
    }
    rest.iter().all(|byte| *byte == 0).then_some(messages)
}

/// `N` bytes from `at` on, which the caller knows to be there.
fn part<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn bodies() -> impl Strategy<Value = Body> {
        let message = prop::collection::vec(any::<u8>(), 1..200);
        (
            any::<[u8; 16]>(),
            any::<[u8; 4]>(),
            any::<u8>(),
            option::of(any::<Token>()),
            option::of(any::<Token>()),
            prop::collection::vec(message, 0..5),
        )
            .prop_map(|(sender, key, highest, challenge, answer, messages)| Body {
                sender: NodeId(sender),
                newest_key: KeyId(key),
                highest,
                challenge,
                answer,
                messages,
            })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = Header::parse(&bytes);
            for version in 0..4 {
                if let Some(body) = Body::parse(version, &bytes) {
                    prop_assert_eq!(Body::parse(version, &body.encode()), Some(body));
                }
            }
        }

        #[test]
        fn bodies_read_back(body in bodies()) {
            let bytes = body.encode();
            prop_assert!(bytes.len() + HEADER + TAG >= MIN_DATAGRAM);
            prop_assert_eq!(Body::parse(2, &bytes), Some(body.clone()));
            let one = (body.messages.len() <= 1).then_some(body);
            prop_assert_eq!(Body::parse(1, &bytes), one);
            // Cut anywhere, it is refused or has lost whole messages or zeros.
            for length in 0..bytes.len() {
                let _ = Body::parse(2, &bytes[..length]);
            }
        }

        #[test]
        fn headers_read_back(
            version in OLDEST..=NEWEST, destination: [u8; 4], key: [u8; 4], epoch: Epoch, counter: u64,
        ) {
            for (kind, length) in [(Kind::Data, 1400), (Kind::Handshake, MIN_DATAGRAM), (Kind::NoSuchKey, HEADER)] {
                let header = Header { version, kind, destination, key: KeyId(key), epoch, counter };
                let mut bytes = header.encode().to_vec();
                bytes.resize(length, 7);
                prop_assert_eq!(Header::parse(&bytes), Ok(header));
            }
        }
    }

    #[test]
    fn a_message_of_the_greatest_length_fits() {
        let body = Body {
            sender: NodeId([1; 16]),
            newest_key: KeyId([2; 4]),
            highest: 2,
            challenge: Some([3; 16]),
            answer: None,
            messages: vec![vec![4; MAX_MESSAGE]],
        };
        assert_eq!(HEADER + body.encode().len() + TAG, MAX_DATAGRAM);
    }
}
