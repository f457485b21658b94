//! What the kernel refused, in words.

use std::fmt;
use std::io;

use nix::errno::Errno;

use super::attr::{Attributes, Malformed};
use super::batch::{VALUE, elements};
use super::message::{HEADERS, NLMSG, flag, kind};

/// Why the kernel could not be told, or asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The socket could not be opened or used.
    #[error("cannot {doing} the netlink socket of netfilter: {source}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody changed tables between reading them and this transaction; nothing of it was done.
    #[error("the tables of nftables changed meanwhile")]
    Changed,
    /// Messages of the kernel were lost; whether the transaction was done is not known.
    #[error("the kernel had more to say than the socket could hold")]
    Overrun,
    /// The transaction was refused; nothing of it was done.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The kernel did not answer.
    #[error("the kernel did not answer a netlink message of netfilter")]
    Silent,
    /// The kernel's answer could not be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl KernelError {
    /// Is the kernel likely to hold something else than was thought, so that it has to be read before the next try?
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Changed | Self::Overrun => true,
            Self::Refused(refusal) => matches!(
                Errno::from_raw(refusal.errno),
                Errno::ENOENT | Errno::EEXIST | Errno::EBUSY
            ),
            _ => false,
        }
    }
}

/// A message of a transaction that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the error.
    pub errno: i32,
    /// What the kernel says about it, if anything.
    pub said: Option<String>,
    /// What was to be done.
    pub task: Task,
    /// How many other messages of the same transaction were refused.
    pub others: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel refused to {}: ", self.task)?;
        match &self.said {
            Some(said) => write!(f, "{said} ({})", Errno::from_raw(self.errno).desc())?,
            None => f.write_str(Errno::from_raw(self.errno).desc())?,
        }
        match self.others {
            0 => Ok(()),
            1 => f.write_str(", and one other message"),
            others => write!(f, ", and {others} other messages"),
        }
    }
}

/// What a message was to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// The kind of the message.
    kind: u16,
    /// The table.
    pub table: String,
    /// The chain or set, if it is about one.
    pub name: String,
    /// The key of the element, if it is about one.
    pub key: Option<Vec<u8>>,
    /// The same as we would write it.
    pub words: Option<String>,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, name, .. } = self;
        match self.kind {
            kind::NEW_TABLE => write!(f, "add table {table}"),
            kind::DEL_TABLE => write!(f, "delete table {table}"),
            kind::NEW_CHAIN => write!(f, "add chain {name} of table {table}"),
            kind::DEL_CHAIN => write!(f, "delete chain {name} of table {table}"),
            kind::NEW_RULE => write!(f, "add a rule to chain {name} of table {table}"),
            kind::DEL_RULE => write!(f, "delete the rules of chain {name} of table {table}"),
            kind::NEW_SET => write!(f, "add set {name} of table {table}"),
            kind::DEL_SET => write!(f, "delete set {name} of table {table}"),
            kind::NEW_ELEMENTS | kind::DEL_ELEMENTS => {
                let (act, of) = if self.kind == kind::NEW_ELEMENTS {
                    ("add", "to")
                } else {
                    ("delete", "of")
                };
                if let Some(words) = &self.words {
                    return write!(f, "{act} element {words} {of} set {name} of table {table}");
                }
                match &self.key {
                    None => write!(f, "{act} elements {of} set {name} of table {table}"),
                    Some(key) => {
                        write!(f, "{act} element ")?;
                        for byte in key {
                            write!(f, "{byte:02x}")?;
                        }
                        write!(f, " {of} set {name} of table {table}")
                    }
                }
            }
            kind::BATCH_BEGIN | kind::BATCH_END => f.write_str("carry out a transaction"),
            _ => f.write_str("answer"),
        }
    }
}

/// An error or an acknowledgement as it comes in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0 for an acknowledgement.
    pub errno: i32,
    /// Sequence number of the message that it answers.
    pub sequence: u32,
    /// What the kernel says.
    pub said: Option<String>,
    /// Where in the message that it answers the trouble is.
    pub offset: Option<usize>,
}

impl Answer {
    /// Reads the payload of a message of kind error.
    pub fn read(payload: &[u8], flags: u16) -> Result<Self, Malformed> {
        let word = |at: usize| {
            let four = payload.get(at..at + 4).ok_or(Malformed)?;
            four.try_into().map_err(|_| Malformed)
        };
        let errno = i32::from_ne_bytes(word(0)?);
        let length = u32::from_ne_bytes(word(4)?);
        let mut answer = Self {
            errno: errno.saturating_neg(),
            sequence: u32::from_ne_bytes(word(12)?),
            said: None,
            offset: None,
        };
        if flags & flag::DETAILS == 0 {
            return Ok(answer);
        }
        // Only with CAPPED, or as an acknowledgement, the message is not repeated behind its header.
        let repeated = if flags & flag::CAPPED != 0 {
            NLMSG
        } else {
            super::attr::aligned(usize::try_from(length).map_err(|_| Malformed)?)
        };
        let details = payload.get(4..).and_then(|rest| rest.get(repeated..));
        for detail in Attributes::new(details.unwrap_or_default()) {
            let detail = detail?;
            match detail.kind {
                1 => answer.said = Some(detail.text()?.to_owned()),
                // In the order of the host, unlike all else.
                2 => {
                    let offset = detail.value.try_into().map(u32::from_ne_bytes);
                    answer.offset = offset.ok().and_then(|offset| usize::try_from(offset).ok());
                }
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// What a message that we sent was to do; `offset` is where in it the trouble is.
pub(crate) fn task(sent: &[u8], offset: Option<usize>) -> Task {
    let mut task = Task {
        kind: sent
            .get(4..6)
            .map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]])),
        ..Task::default()
    };
    let name_kind = match task.kind {
        kind::NEW_TABLE | kind::DEL_TABLE => None,
        kind::NEW_CHAIN | kind::DEL_CHAIN => Some(3),
        _ => Some(2),
    };
    let attributes = sent.get(HEADERS..).unwrap_or_default();
    for attribute in Attributes::new(attributes).flatten() {
        if attribute.kind == 1 {
            task.table = attribute.text().unwrap_or_default().to_owned();
        } else if Some(attribute.kind) == name_kind {
            task.name = attribute.text().unwrap_or_default().to_owned();
        }
    }
    if matches!(task.kind, kind::NEW_ELEMENTS | kind::DEL_ELEMENTS)
        && let Some(offset) = offset
    {
        task.key = key_at(sent, offset);
    }
    task
}

/// The key of the element at or around an offset of a message.
fn key_at(sent: &[u8], offset: usize) -> Option<Vec<u8>> {
    let list = Attributes::new(sent.get(HEADERS..)?)
        .find(elements::LIST)
        .ok()??;
    let mut at = list.value.as_ptr() as usize - sent.as_ptr() as usize;
    for element in list.nested().flatten() {
        let end = at + super::attr::aligned(element.value.len() + 4);
        if (at..end).contains(&offset) {
            let key = element.nested().find(elements::KEY).ok()??;
            return key.nested().find(VALUE).ok()?.map(|key| key.value.to_vec());
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nft::netlink::batch::Batch;
    use crate::nft::netlink::message::TableFamily;
    use crate::nft::netlink::object::{Element, Table};

    #[test]
    fn a_refusal_names_the_element() {
        let table = Table {
            family: TableFamily::Inet,
            name: "fairlead",
        };
        let element = |last| Element {
            key: vec![192, 0, 2, last],
            ..Element::default()
        };
        let mut batch = Batch::new(None);
        batch.add_elements(table, "vips4", [element(1), element(2), element(3)]);
        let sent = batch.sent(1).unwrap();
        let key = sent.windows(4).position(|bytes| bytes == [192, 0, 2, 2]).unwrap();
        let refusal = Refusal {
            errno: libc::EEXIST,
            said: None,
            task: task(sent, Some(key - 8)),
            others: 1,
        };
        assert_eq!(
            refusal.to_string(),
            "the kernel refused to add element c0000202 to set vips4 of table fairlead: File exists, \
             and one other message"
        );
        assert!(KernelError::Refused(Box::new(refusal)).is_stale());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..120), flags: u16, offset in prop::option::of(0usize..200),
        ) {
            let _ = Answer::read(&bytes, flags);
            let _ = task(&bytes, offset).to_string();
        }
    }
}
