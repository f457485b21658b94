//! Netlink attributes: a length, a kind and bytes, aligned to four, one inside another (libnl and RFC 3549 call them
//! TLVs). Numbers of nf_tables are big-endian, unlike the headers around them.

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Bits of the kind that are not flags.
const KIND: u16 = 0x3fff;
/// Length and kind.
const HEADER: usize = 4;

/// Rounds up to the alignment of messages and attributes.
pub(crate) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes attributes at the end of a buffer.
pub(crate) trait Write {
    /// An attribute of raw bytes.
    fn bytes(&mut self, kind: u16, value: &[u8]);
    /// A byte.
    fn byte(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }
    /// A number of 32 bits, big-endian.
    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }
    /// A number of 64 bits, big-endian.
    fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }
    /// A text with its final NUL.
    fn text(&mut self, kind: u16, value: &str);
    /// Begins an attribute that holds others; [`Write::end`] takes what this returns.
    fn begin(&mut self, kind: u16) -> usize;
    /// Ends it.
    fn end(&mut self, begun: usize);
    /// An attribute that holds others.
    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self))
    where
        Self: Sized,
    {
        let begun = self.begin(kind);
        inside(self);
        self.end(begun);
    }
}

impl Write for Vec<u8> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let begun = self.begin(kind);
        self.extend_from_slice(value);
        finish(self, begun, 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let begun = self.begin(kind);
        self.extend_from_slice(value.as_bytes());
        self.push(0);
        finish(self, begun, 0);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let begun = self.len();
        self.extend_from_slice(&[0, 0]);
        self.extend_from_slice(&kind.to_ne_bytes());
        begun
    }

    fn end(&mut self, begun: usize) {
        finish(self, begun, NESTED);
    }
}

/// Fills in the length and the flag, and pads.
fn finish(buffer: &mut Vec<u8>, begun: usize, flag: u16) {
    // The callers never write more than fits: element lists are cut in time, all else is short.
    let length = u16::try_from(buffer.len() - begun).unwrap_or(u16::MAX);
    buffer[begun..begun + 2].copy_from_slice(&length.to_ne_bytes());
    let kind = u16::from_ne_bytes([buffer[begun + 2], buffer[begun + 3]]) | flag;
    buffer[begun + 2..begun + HEADER].copy_from_slice(&kind.to_ne_bytes());
    buffer.resize(aligned(buffer.len()), 0);
}

/// What was read is not what the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a netlink message is cut short or has lengths that cannot be")]
pub struct Malformed;

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is, without the flags.
    pub kind: u16,
    /// What is in it.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A number of 32 bits.
    ///
    /// # Errors
    /// When it has another length.
    pub fn number(&self) -> Result<u32, Malformed> {
        self.value
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| Malformed)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// When it has another length.
    pub fn long(&self) -> Result<u64, Malformed> {
        self.value
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| Malformed)
    }

    /// A text up to its NUL.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Malformed> {
        let end = self
            .value
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).map_err(|_| Malformed)
    }

    /// The attributes in it.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes { rest: self.value }
    }
}

/// Reads attributes one after another; after the first that is malformed it ends.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of a kind.
    ///
    /// # Errors
    /// When what stands before it is malformed.
    pub fn find(self, kind: u16) -> Result<Option<Attribute<'a>>, Malformed> {
        for attribute in self {
            let attribute = attribute?;
            if attribute.kind == kind {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    /// The first attribute of a kind, which has to be there.
    ///
    /// # Errors
    /// When it is not, or what stands before it is malformed.
    pub fn need(self, kind: u16) -> Result<Attribute<'a>, Malformed> {
        self.find(kind)?.ok_or(Malformed)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = |bytes: &'a [u8]| {
            let (header, _) = bytes.split_first_chunk::<HEADER>()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
            let value = bytes.get(HEADER..length)?;
            // The last one may come without its padding.
            let rest = bytes.get(aligned(length)..).unwrap_or_default();
            Some((Attribute { kind, value }, rest))
        };
        match read(self.rest) {
            Some((attribute, rest)) => {
                self.rest = rest;
                Some(Ok(attribute))
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
    fn lengths_and_padding_are_those_of_netlink() {
        let mut buffer = Vec::new();
        buffer.nest(4, |w| {
            w.text(1, "ct");
            w.number(2, 7);
        });
        assert_eq!(
            buffer,
            [
                20, 0, 4, 0x80, 7, 0, 1, 0, b'c', b't', 0, 0, 8, 0, 2, 0, 0, 0, 0, 7
            ]
        );
        let outer = Attributes::new(&buffer).need(4).unwrap();
        assert_eq!(outer.nested().need(1).unwrap().text(), Ok("ct"));
        assert_eq!(outer.nested().need(2).unwrap().number(), Ok(7));
        assert_eq!(outer.nested().need(3), Err(Malformed));
    }

    /// Reads everything as deep as it goes.
    fn walk(bytes: &[u8], depth: usize) {
        for attribute in Attributes::new(bytes).flatten() {
            let _ = (attribute.text(), attribute.number(), attribute.long());
            if depth > 0 {
                walk(attribute.value, depth - 1);
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            walk(&bytes, 3);
        }

        #[test]
        fn what_is_written_is_read(list in prop::collection::vec((0u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut buffer = Vec::new();
            buffer.nest(5, |w| {
                for (kind, value) in &list {
                    w.bytes(*kind, value);
                }
            });
            let read: Vec<(u16, Vec<u8>)> = Attributes::new(&buffer).need(5).unwrap().nested()
                .map(|a| a.map(|a| (a.kind, a.value.to_vec())).unwrap())
                .collect();
            prop_assert_eq!(read, list);
        }
    }
}
