//! The messages that speakers exchange, as bytes.
//!
//! Numbers are LEB128 varints, texts and opaque parts have their length before them. A message may grow at its end, and so
//! may the value of a record's entry: what a reader does not know there it passes over. A kind of message that it does
//! not know it ignores as a whole. So a newer speaker may say more without an older one misunderstanding it.

use std::net::IpAddr;

use fairlead_core::announce::Candidacy;
use fairlead_core::hash::{FNV_OFFSET, fnv1a};
use fairlead_core::model::NodeName;

use super::identity::Identity;
use crate::l2::Mac;

/// More entries than this in one message are not believed.
const MOST: u64 = 4096;

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Writes the primitives.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A number.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number that may be negative, zigzag.
    pub fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Reads the primitives, and never beyond the end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A single byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A number that may be negative.
    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if length > self.0.len() {
            return Err(Malformed);
        }
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    fn count(&mut self) -> Result<u64, Malformed> {
        self.number()
            .and_then(|count| if count > MOST { Err(Malformed) } else { Ok(count) })
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }
}

/// What an entry of a record is about. Kept as bytes, so that what a newer speaker tells is passed on unread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Box<[u8]>);

impl Key {
    /// What does not belong to one address: see [`Meta`].
    pub fn meta() -> Self {
        Self([0].into())
    }

    /// A candidacy.
    pub fn address(address: IpAddr) -> Self {
        let mut bytes = Vec::with_capacity(17);
        match address {
            IpAddr::V4(v4) => {
                bytes.push(4);
                bytes.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes.push(6);
                bytes.extend(v6.octets());
            }
        }
        Self(bytes.into())
    }

    /// The address, if it is about one.
    pub fn to_address(&self) -> Option<IpAddr> {
        address_of(&self.0)
    }

    /// An address that is offered by BGP. A speaker which knows only layer 2 does not take it for a candidacy.
    pub fn route(address: IpAddr) -> Self {
        let mut bytes = vec![1];
        bytes.extend(Self::address(address).0);
        Self(bytes.into())
    }

    /// The address, if it is about one that is offered by BGP.
    pub fn to_route(&self) -> Option<IpAddr> {
        let (kind, rest) = self.0.split_first()?;
        (*kind == 1).then(|| address_of(rest))?
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(rest).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(rest).ok()?)),
        _ => None,
    }
}

/// Value of the entry of an address that is offered by BGP.
pub const ROUTED: &[u8] = &[1];
/// Value of the entry of an address that was announced by BGP a moment ago, or is as a less preferred one.
pub const PARTED: &[u8] = &[2];

/// What a speaker tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The MAC addresses it announces from.
    pub macs: Vec<Mac>,
}

impl Meta {
    /// As the value of an entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.macs.len() as u64);
        self.macs.iter().for_each(|mac| out.0.extend(mac.0));
        out.0
    }

    /// Reads the value of an entry.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let count = reader.count()?;
        let mac = |_| {
            Ok(Mac([
                reader.byte()?,
                reader.byte()?,
                reader.byte()?,
                reader.byte()?,
                reader.byte()?,
                reader.byte()?,
            ]))
        };
        Ok(Self {
            macs: (0..count).map(mac).collect::<Result<_, Malformed>>()?,
        })
    }
}

const CORDONED: u8 = 1;
const PREEMPTS: u8 = 2;
const CLAIMED: u8 = 4;

/// A candidacy as the value of an entry.
pub fn encode_candidacy(candidacy: &Candidacy) -> Vec<u8> {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let mut out = Writer::default();
    out.0.push(
        flag(candidacy.cordoned, CORDONED)
            | flag(candidacy.preempts, PREEMPTS)
            | flag(candidacy.claim.is_some(), CLAIMED),
    );
    out.signed(candidacy.weight.into());
    out.signed(candidacy.claim.unwrap_or_default());
    out.0
}

/// Reads the value of an entry.
///
/// # Errors
/// When it is no candidacy.
pub fn decode_candidacy(bytes: &[u8]) -> Result<Candidacy, Malformed> {
    let mut reader = Reader(bytes);
    let flags = reader.byte()?;
    let weight = i32::try_from(reader.signed()?).map_err(|_| Malformed)?;
    let claim = reader.signed()?;
    Ok(Candidacy {
        cordoned: flags & CORDONED != 0,
        preempts: flags & PREEMPTS != 0,
        weight,
        claim: (flags & CLAIMED != 0).then_some(claim),
    })
}

/// One change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in its record's history.
    pub sequence: u64,
    /// What it is about.
    pub key: Key,
    /// What it says now; `None` where it says nothing any more.
    pub value: Option<Box<[u8]>>,
}

/// A piece of one speaker's record: all that has changed between two points of its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Whose record.
    pub origin: NodeName,
    /// Of which start of that speaker.
    pub incarnation: i64,
    /// Removals up to here are forgotten: who knows less must read from the beginning.
    pub floor: u64,
    /// How far the sender knows the history.
    pub head: u64,
    /// The piece begins after this point …
    pub after: u64,
    /// … and goes up to here.
    pub upto: u64,
    /// The last of the pieces that were sent together.
    pub last: bool,
    /// In order of their numbers.
    pub entries: Vec<Entry>,
}

/// How much of one record somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Hash of the speaker's node name ([`name_hash`]).
    pub origin: u64,
    /// Of which start.
    pub incarnation: i64,
    /// Up to where.
    pub head: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Of the failure detector.
    Swim(Vec<u8>),
    /// A piece of a record.
    Delta(Delta),
    /// A hash over all that the sender knows of all records.
    Digest(u64),
    /// All that the sender knows, or a part of it.
    Vector(Vec<Known>),
    /// Asks for what follows a point of a history.
    Pull(Known),
    /// The sender has found this speaker dead, or is leaving itself.
    Obituary(Identity, u16),
    /// `by` hears nothing of this speaker. Told to itself, or to somebody who may reach it.
    Accusation {
        /// Who is suspected.
        accused: Identity,
        /// In which incarnation.
        incarnation: u16,
        /// By whom.
        by: NodeName,
    },
}

impl Message {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Swim(bytes) => {
                out.0.push(1);
                out.0.extend_from_slice(bytes);
            }
            Self::Delta(delta) => {
                out.0.push(2);
                delta.encode(&mut out);
            }
            Self::Digest(hash) => {
                out.0.push(3);
                out.0.extend(hash.to_be_bytes());
            }
            Self::Vector(known) => {
                out.0.push(4);
                out.number(known.len() as u64);
                known.iter().for_each(|known| known.encode(&mut out));
            }
            Self::Pull(known) => {
                out.0.push(5);
                known.encode(&mut out);
            }
            Self::Obituary(identity, incarnation) => {
                out.0.push(6);
                identity.encode(&mut out);
                out.number((*incarnation).into());
            }
            Self::Accusation {
                accused,
                incarnation,
                by,
            } => {
                out.0.push(7);
                accused.encode(&mut out);
                out.number((*incarnation).into());
                out.bytes(by.as_str().as_bytes());
            }
        }
        out.0
    }

    /// Reads a message; `Ok(None)` if it is of a kind that is not known here.
    ///
    /// # Errors
    /// When it is of a known kind and malformed.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader(bytes);
        Ok(Some(match reader.byte()? {
            1 => Self::Swim(reader.0.to_vec()),
            2 => Self::Delta(Delta::decode(&mut reader)?),
            3 => Self::Digest(u64::from_be_bytes(*reader.0.first_chunk().ok_or(Malformed)?)),
            4 => {
                let count = reader.count()?;
                Self::Vector(
                    (0..count)
                        .map(|_| Known::decode(&mut reader))
                        .collect::<Result<_, _>>()?,
                )
            }
            5 => Self::Pull(Known::decode(&mut reader)?),
            6 => Self::Obituary(Identity::decode(&mut reader)?, incarnation(&mut reader)?),
            7 => Self::Accusation {
                accused: Identity::decode(&mut reader)?,
                incarnation: incarnation(&mut reader)?,
                by: NodeName(reader.text()?),
            },
            _ => return Ok(None),
        }))
    }
}

fn incarnation(reader: &mut Reader) -> Result<u16, Malformed> {
    reader.number()?.try_into().map_err(|_| Malformed)
}

impl Known {
    fn encode(&self, out: &mut Writer) {
        out.0.extend(self.origin.to_be_bytes());
        out.signed(self.incarnation);
        out.number(self.head);
    }

    fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        let (origin, rest) = reader.0.split_first_chunk().ok_or(Malformed)?;
        reader.0 = rest;
        Ok(Self {
            origin: u64::from_be_bytes(*origin),
            incarnation: reader.signed()?,
            head: reader.number()?,
        })
    }
}

impl Delta {
    fn encode(&self, out: &mut Writer) {
        out.bytes(self.origin.as_str().as_bytes());
        out.signed(self.incarnation);
        for number in [
            self.floor,
            self.head,
            self.after,
            self.upto,
            self.last.into(),
            self.entries.len() as u64,
        ] {
            out.number(number);
        }
        let mut before = self.after;
        for entry in &self.entries {
            out.number(entry.sequence - before);
            before = entry.sequence;
            out.bytes(&entry.key.0);
            // No value has the length 0.
            out.bytes(entry.value.as_deref().unwrap_or_default());
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        let origin = NodeName(reader.text()?);
        let incarnation = reader.signed()?;
        let (floor, head, after, upto) = (
            reader.number()?,
            reader.number()?,
            reader.number()?,
            reader.number()?,
        );
        let last = reader.number()? != 0;
        let mut before = after;
        let entries = (0..reader.count()?)
            .map(|_| {
                let sequence = before.checked_add(reader.number()?).ok_or(Malformed)?;
                let ordered = sequence > before && sequence <= upto;
                before = sequence;
                let key = Key(reader.bytes()?.into());
                let value = Some(reader.bytes()?)
                    .filter(|value| !value.is_empty())
                    .map(Into::into);
                if ordered {
                    Ok(Entry { sequence, key, value })
                } else {
                    Err(Malformed)
                }
            })
            .collect::<Result<_, _>>()?;
        let delta = Self {
            origin,
            incarnation,
            floor,
            head,
            after,
            upto,
            last,
            entries,
        };
        if delta.after <= delta.upto && delta.upto <= delta.head {
            Ok(delta)
        } else {
            Err(Malformed)
        }
    }
}

/// Stands for a node name where the name would be long: FNV-1a of 64 bits.
pub fn name_hash(name: &NodeName) -> u64 {
    fnv1a(FNV_OFFSET, name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            node: "node1".into(),
            start: 1_700_000_000_000_000,
            bump: 3,
        }
    }

    fn delta() -> Delta {
        let entry = |sequence, value: Option<&[u8]>| Entry {
            sequence,
            key: Key::address(IpAddr::from([192, 0, 2, sequence as u8])),
            value: value.map(Into::into),
        };
        Delta {
            origin: "node1".into(),
            incarnation: -5,
            floor: 1,
            head: 900,
            after: 3,
            upto: 800,
            last: true,
            entries: vec![entry(4, Some(&[1, 2, 3])), entry(700, None)],
        }
    }

    fn all() -> Vec<Message> {
        let known = Known {
            origin: 7,
            incarnation: i64::MAX,
            head: u64::MAX,
        };
        vec![
            Message::Swim(vec![1, 2, 3]),
            Message::Delta(delta()),
            Message::Digest(u64::MAX - 1),
            Message::Vector(vec![known; 3]),
            Message::Pull(known),
            Message::Obituary(identity(), u16::MAX),
            Message::Accusation {
                accused: identity(),
                incarnation: 2,
                by: "node2".into(),
            },
        ]
    }

    #[test]
    fn messages_survive_the_round_trip_and_longer_ones_are_read_as_far_as_they_are_known() {
        for message in all() {
            let mut bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(Some(message.clone())));
            if !matches!(message, Message::Swim(_)) {
                bytes.extend([9; 7]);
                assert_eq!(Message::decode(&bytes), Ok(Some(message)));
            }
        }
        assert_eq!(Message::decode(&[200, 1, 2]), Ok(None), "a kind of the future");
        assert_eq!(Message::decode(&[]), Err(Malformed));
    }

    #[test]
    fn values_of_a_newer_speaker_are_read_as_far_as_they_are_known() {
        let candidacy = Candidacy {
            cordoned: true,
            preempts: true,
            weight: i32::MIN,
            claim: Some(-7),
        };
        let mut bytes = encode_candidacy(&candidacy);
        bytes.extend([1, 2, 3]);
        assert_eq!(decode_candidacy(&bytes), Ok(candidacy));
        let meta = Meta {
            macs: vec![Mac([1, 2, 3, 4, 5, 6]), Mac::BROADCAST],
        };
        let mut bytes = meta.encode();
        bytes.push(1);
        assert_eq!(Meta::decode(&bytes), Ok(meta));
    }

    #[test]
    fn an_offer_by_bgp_is_no_candidacy() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = text.parse().unwrap();
            let (route, candidacy) = (Key::route(address), Key::address(address));
            assert_eq!((route.to_route(), route.to_address()), (Some(address), None));
            assert_eq!(
                (candidacy.to_route(), candidacy.to_address()),
                (None, Some(address))
            );
        }
        for none in [&[][..], &[0], &[1], &[1, 4], &[1, 4, 0, 0, 0], &[1, 9, 1]] {
            assert_eq!(Key(none.into()).to_route(), None, "{none:?}");
        }
    }

    #[test]
    fn pieces_out_of_order_are_refused() {
        let mut disordered = delta();
        disordered.entries[0].sequence = 3;
        let bytes = Message::Delta(disordered).encode();
        assert_eq!(Message::decode(&bytes), Err(Malformed));
        let beyond = Delta { upto: 901, ..delta() };
        assert_eq!(Message::decode(&Message::Delta(beyond).encode()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_never_a_disaster(kind in 0u8..10, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut all = vec![kind];
            all.extend(bytes);
            if let Ok(Some(message)) = Message::decode(&all) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(Some(message)));
            }
        }

        #[test]
        fn numbers(value in any::<u64>(), signed in any::<i64>()) {
            let mut out = Writer::default();
            out.number(value);
            out.signed(signed);
            let mut reader = Reader(&out.0);
            prop_assert_eq!((reader.number(), reader.signed(), reader.0.len()), (Ok(value), Ok(signed), 0));
        }
    }
}
