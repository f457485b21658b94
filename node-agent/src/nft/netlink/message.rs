//! Netlink messages of netfilter: the header of netlink (RFC 3549), then that of nfnetlink, then attributes.

use super::attr::{Attributes, Malformed, aligned};

/// Length of both headers.
pub(crate) const HEADERS: usize = NLMSG + 4;
/// Length of the header of netlink.
pub(crate) const NLMSG: usize = 16;

/// Kinds of messages: linux/netfilter/nf_tables.h, nfnetlink.h, netlink.h.
pub(crate) mod kind {
    /// An error, or with number 0 an acknowledgement.
    pub const ERROR: u16 = 2;
    /// The end of a dump.
    pub const DONE: u16 = 3;
    /// The kernel had to throw messages away.
    pub const OVERRUN: u16 = 4;
    pub const BATCH_BEGIN: u16 = 16;
    pub const BATCH_END: u16 = 17;
    /// nf_tables among the subsystems of nfnetlink.
    pub const NFTABLES: u16 = 10 << 8;
    pub const NEW_TABLE: u16 = NFTABLES;
    pub const GET_TABLE: u16 = NFTABLES | 1;
    pub const DEL_TABLE: u16 = NFTABLES | 2;
    pub const NEW_CHAIN: u16 = NFTABLES | 3;
    pub const GET_CHAIN: u16 = NFTABLES | 4;
    pub const DEL_CHAIN: u16 = NFTABLES | 5;
    pub const NEW_RULE: u16 = NFTABLES | 6;
    pub const GET_RULE: u16 = NFTABLES | 7;
    pub const DEL_RULE: u16 = NFTABLES | 8;
    pub const NEW_SET: u16 = NFTABLES | 9;
    pub const GET_SET: u16 = NFTABLES | 10;
    pub const DEL_SET: u16 = NFTABLES | 11;
    pub const NEW_ELEMENTS: u16 = NFTABLES | 12;
    pub const GET_ELEMENTS: u16 = NFTABLES | 13;
    pub const DEL_ELEMENTS: u16 = NFTABLES | 14;
    pub const NEW_GENERATION: u16 = NFTABLES | 15;
    pub const GET_GENERATION: u16 = NFTABLES | 16;
}

/// Flags of messages: linux/netlink.h.
pub(crate) mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    /// The table changed while it was dumped.
    pub const INTERRUPTED: u16 = 0x10;
    pub const DUMP: u16 = 0x300;
    /// Not when it is there already.
    pub const EXCLUSIVE: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    /// Of an error: the message that failed is not repeated.
    pub const CAPPED: u16 = 0x100;
    /// Of an error: attributes with details follow.
    pub const DETAILS: u16 = 0x200;
}

/// Family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl TableFamily {
    /// Its number (linux/netfilter.h).
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    /// As nft writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// Begins a message at the end of the buffer; [`end`] takes what this returns.
pub(crate) fn begin(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
) -> usize {
    let begun = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[family, 0]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    begun
}

/// Fills in the length of a message.
pub(crate) fn end(buffer: &mut [u8], begun: usize) {
    // A batch is far shorter than 4 GiB, or the socket would not take it.
    let length = u32::try_from(buffer.len() - begun).unwrap_or(u32::MAX);
    buffer[begun..begun + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A message as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// Number of the request that it answers.
    pub sequence: u32,
    /// Socket that caused it.
    pub port: u32,
    /// Everything after the header of netlink.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Family of the table that it is about.
    ///
    /// # Errors
    /// When it is too short.
    pub fn family(&self) -> Result<u8, Malformed> {
        self.payload.first().copied().ok_or(Malformed)
    }

    /// Its attributes.
    ///
    /// # Errors
    /// When it is too short.
    pub fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        self.payload
            .get(HEADERS - NLMSG..)
            .map(Attributes::new)
            .ok_or(Malformed)
    }
}

/// Reads the messages of a datagram; after the first that is malformed it ends.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in these bytes.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = |bytes: &'a [u8]| {
            let word = |at: usize| {
                let four = bytes.get(at..at + 4)?;
                four.try_into().ok().map(u32::from_ne_bytes)
            };
            let half = |at: usize| {
                let two = bytes.get(at..at + 2)?;
                two.try_into().ok().map(u16::from_ne_bytes)
            };
            let length = usize::try_from(word(0)?).ok()?;
            let message = Message {
                kind: half(4)?,
                flags: half(6)?,
                sequence: word(8)?,
                port: word(12)?,
                payload: bytes.get(NLMSG..length)?,
            };
            Some((message, bytes.get(aligned(length)..).unwrap_or_default()))
        };
        match read(self.rest) {
            Some((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_messages_of_a_datagram_are_read() {
        let mut buffer = Vec::new();
        for sequence in 0..3 {
            let begun = begin(&mut buffer, kind::GET_TABLE, flag::DUMP, sequence, 1, 10);
            buffer.extend_from_slice(&[8, 0, 1, 0, b'a', 0, 0, 0]);
            end(&mut buffer, begun);
        }
        let read: Vec<_> = Messages::new(&buffer).map(Result::unwrap).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((read[2].sequence, read[2].kind), (2, kind::GET_TABLE));
        assert_eq!(read[1].family(), Ok(1));
        assert_eq!(read[1].attributes().unwrap().need(1).unwrap().text(), Ok("a"));
        assert!(Messages::new(&buffer[..buffer.len() - 1]).any(|message| message.is_err()));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages::new(&bytes).flatten() {
                let _ = (message.family(), message.attributes().map(Iterator::count));
            }
        }
    }
}
