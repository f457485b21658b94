//! The little of netlink that asking for connection tracking entries takes: messages, attributes, and a reader that
//! takes whatever comes.
//!
//! Numbers inside attributes of netfilter are in network order; headers are in the order of the machine.

/// Length of the header of a message and of the header that every netfilter message has after it.
const HEADERS: usize = 20;
/// Flag of a message that is to be answered even if it succeeds.
const ACKNOWLEDGE: u16 = 4;
/// Bit of an attribute's type that says that it has attributes inside.
const NESTED: u16 = 0x8000;
/// Mask of an attribute's type proper; the two bits above it are flags.
const TYPE: u16 = 0x3fff;

/// Messages that are to be sent together.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    begin: usize,
}

impl Writer {
    /// Begins a message: `kind` is subsystem and message, `family` an address family (`AF_INET`, …).
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8) {
        self.begin = self.bytes.len();
        self.bytes.extend(0u32.to_ne_bytes()); // the length, filled in at the end
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes()); // the kernel knows who we are
        self.bytes.extend([family, 0, 0, 0]);
    }

    /// Ends the message.
    pub fn end(&mut self) {
        self.fill_length(self.begin);
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute with attributes inside, which `fill` adds.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let begin = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - begin).unwrap_or(u16::MAX);
        self.bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds attributes as they were read.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend(attributes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Asks for an answer to the last message even if it succeeds; its number.
    pub fn ask_for_acknowledgement(&mut self) -> u32 {
        let begin = self.begin;
        if let Some(flags) = self
            .bytes
            .get_mut(begin + 6..begin + 8)
            .and_then(|bytes| bytes.first_chunk_mut())
        {
            *flags = (u16::from_ne_bytes(*flags) | ACKNOWLEDGE).to_ne_bytes();
        }
        let number = self
            .bytes
            .get(begin + 8..begin + 12)
            .and_then(|bytes| bytes.first_chunk());
        number.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    /// All messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.begin = 0;
    }

    fn fill_length(&mut self, begin: usize) {
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Subsystem and message, or one of netlink's own.
    pub kind: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the first header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Netlink's own kinds: an error or acknowledgement, and the end of a list.
    pub const ERROR: u16 = 2;
    /// The end of a list.
    pub const DONE: u16 = 3;

    /// The error number in a message of kind [`Self::ERROR`] or [`Self::DONE`]; 0 if all is well.
    pub fn errno(&self) -> i32 {
        let number = self.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        number.unwrap_or(0).saturating_neg()
    }

    /// The address family of a netfilter message.
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// The attributes of a netfilter message.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(HEADERS - 16..).unwrap_or(&[]))
    }
}

/// The messages in what was received at once; what comes after a broken one is passed over.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let message = self.0.get(..length)?;
        let read = |at: usize| message.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        let kind = message.get(4..6).and_then(|bytes| bytes.first_chunk())?;
        let found = Message {
            kind: u16::from_ne_bytes(*kind),
            sequence: u32::from_ne_bytes(*read(8)?),
            payload: message.get(16..)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(found)
    }
}

/// Attributes: type and value. What comes after a broken one is passed over.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first of this type.
    pub fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..4)?.first_chunk()?);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & TYPE, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut writer = Writer::default();
        for sequence in [7, 8] {
            writer.message(0x0102, 1, sequence, 2);
            writer.attribute(5, &[1, 2, 3, 4, 5]);
            writer.nested(6, |writer| writer.attribute(1, &[9]));
            writer.end();
        }
        assert_eq!(writer.ask_for_acknowledgement(), 8);
        let messages: Vec<Message> = Messages(writer.bytes()).collect();
        assert_eq!(messages.len(), 2);
        for (message, sequence) in messages.iter().zip([7, 8]) {
            assert_eq!(
                (message.kind, message.sequence, message.family()),
                (0x0102, sequence, 2)
            );
            assert_eq!(message.attributes().find(5), Some(&[1, 2, 3, 4, 5][..]));
            let inside = message.attributes().find(6).unwrap();
            assert_eq!(Attributes(inside).find(1), Some(&[9][..]));
            assert_eq!(message.attributes().find(7), None);
        }
    }

    #[test]
    fn an_error_carries_its_number() {
        let message = Message {
            kind: Message::ERROR,
            sequence: 1,
            payload: &(-2i32).to_ne_bytes(),
        };
        assert_eq!(message.errno(), 2);
    }

    proptest! {
        #[test]
        fn garbage_is_no_danger(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                let _ = (message.errno(), message.family());
                for (_, value) in message.attributes() {
                    prop_assert!(Attributes(value).count() <= value.len());
                }
            }
        }
    }
}
