//! Who a speaker is for the failure detector, and how the detector's messages are written.

use bytes::{Buf, BufMut};
use fairlead_core::model::NodeName;
use foca::{Header, Member, Message, State};

use super::wire::{Malformed, Reader, Writer};

/// One life of the speaker of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its node.
    pub node: NodeName,
    /// Start of the process: larger is newer.
    pub start: i64,
    /// How often this process was taken for dead and came back.
    pub bump: u64,
}

impl Identity {
    /// For a first message to a node of which nothing is known yet.
    pub fn unknown(node: &NodeName) -> Self {
        Self {
            node: node.clone(),
            start: 0,
            bump: 0,
        }
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.bytes(self.node.as_str().as_bytes());
        out.signed(self.start);
        out.number(self.bump);
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Self, Malformed> {
        let node = std::str::from_utf8(reader.bytes()?).map_err(|_| Malformed)?;
        Ok(Self {
            node: NodeName::from(node),
            start: reader.signed()?,
            bump: reader.number()?,
        })
    }
}

impl foca::Identity for Identity {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            bump: self.bump + 1,
            ..self.clone()
        })
    }

    fn addr(&self) -> NodeName {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.start, self.bump) > (adversary.start, adversary.bump)
    }
}

/// Writes and reads the detector's messages. Their form is part of the protocol between speakers.
#[derive(Clone, Copy, Debug)]
pub struct Codec;

impl foca::Codec<Identity> for Codec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), Malformed> {
        let mut out = Writer::default();
        header.src.encode(&mut out);
        out.number(header.src_incarnation.into());
        header.dst.encode(&mut out);
        let (kind, who, number) = match &header.message {
            Message::Ping(number) => (1, None, Some(number)),
            Message::Ack(number) => (2, None, Some(number)),
            Message::PingReq { target, probe_number } => (3, Some(target), Some(probe_number)),
            Message::IndirectPing { origin, probe_number } => (4, Some(origin), Some(probe_number)),
            Message::IndirectAck { target, probe_number } => (5, Some(target), Some(probe_number)),
            Message::ForwardedAck { origin, probe_number } => (6, Some(origin), Some(probe_number)),
            Message::Announce => (7, None, None),
            Message::Feed => (8, None, None),
            Message::Gossip => (9, None, None),
            Message::Broadcast => (10, None, None),
            Message::TurnUndead => (11, None, None),
        };
        out.0.push(kind);
        if let Some(who) = who {
            who.encode(&mut out);
        }
        out.0.extend(number);
        put(&out, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Malformed> {
        let chunk = buf.chunk();
        let mut reader = Reader(chunk);
        let src = Identity::decode(&mut reader)?;
        let src_incarnation = reader.number()?.try_into().map_err(|_| Malformed)?;
        let dst = Identity::decode(&mut reader)?;
        let message = match reader.byte()? {
            1 => Message::Ping(reader.byte()?),
            2 => Message::Ack(reader.byte()?),
            3 => Message::PingReq {
                target: Identity::decode(&mut reader)?,
                probe_number: reader.byte()?,
            },
            4 => Message::IndirectPing {
                origin: Identity::decode(&mut reader)?,
                probe_number: reader.byte()?,
            },
            5 => Message::IndirectAck {
                target: Identity::decode(&mut reader)?,
                probe_number: reader.byte()?,
            },
            6 => Message::ForwardedAck {
                origin: Identity::decode(&mut reader)?,
                probe_number: reader.byte()?,
            },
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            _ => return Err(Malformed),
        };
        let read = chunk.len() - reader.0.len();
        buf.advance(read);
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), Malformed> {
        let mut out = Writer::default();
        member.id().encode(&mut out);
        out.number(member.incarnation().into());
        out.0.push(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put(&out, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Malformed> {
        let chunk = buf.chunk();
        let mut reader = Reader(chunk);
        let id = Identity::decode(&mut reader)?;
        let incarnation = reader.number()?.try_into().map_err(|_| Malformed)?;
        let state = match reader.byte()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        let read = chunk.len() - reader.0.len();
        buf.advance(read);
        Ok(Member::new(id, incarnation, state))
    }
}

/// All or nothing, as the detector wants it.
fn put(out: &Writer, mut buf: impl BufMut) -> Result<(), Malformed> {
    if buf.remaining_mut() < out.0.len() {
        return Err(Malformed);
    }
    buf.put_slice(&out.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;
    use proptest::prelude::*;

    fn identity(node: &str) -> Identity {
        Identity {
            node: node.into(),
            start: -3,
            bump: 300,
        }
    }

    #[test]
    fn every_message_survives_the_round_trip() {
        let who = || identity("third");
        let messages = [
            Message::Ping(1),
            Message::Ack(255),
            Message::PingReq {
                target: who(),
                probe_number: 1,
            },
            Message::IndirectPing {
                origin: who(),
                probe_number: 2,
            },
            Message::IndirectAck {
                target: who(),
                probe_number: 3,
            },
            Message::ForwardedAck {
                origin: who(),
                probe_number: 4,
            },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header {
                src: identity("a"),
                src_incarnation: 500,
                dst: identity("b"),
                message,
            };
            let mut bytes = vec![];
            Codec.encode_header(&header, &mut bytes).unwrap();
            bytes.push(42);
            let mut rest = bytes.as_slice();
            assert_eq!(Codec.decode_header(&mut rest), Ok(header));
            assert_eq!(rest, [42]);
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(identity("a"), u16::MAX, state);
            let mut bytes = vec![];
            Codec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(Codec.decode_member(&mut bytes.as_slice()), Ok(member.clone()));
            let short = bytes.len() - 1;
            let mut small = vec![0; short];
            assert!(Codec.encode_member(&member, small.as_mut_slice()).is_err());
            assert_eq!(small, vec![0; short], "nothing is written where there is no room");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_never_a_disaster(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Codec.decode_header(&mut bytes.as_slice());
            let _ = Codec.decode_member(&mut bytes.as_slice());
        }
    }
}
