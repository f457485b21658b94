//! A transaction: messages that the kernel takes all, or none.

use super::attr::Write;
use super::expr::{Anonymous, Expr};
use super::message::{self, TableFamily, flag, kind};
use super::object::{BaseChain, Data, DataSpec, Element, SetSpec, Table, VERDICT_TYPE, length, type_number};
use super::udata;

/// Attributes of elements, and of an element.
pub(crate) mod elements {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const LIST: u16 = 3;
    pub const SET_ID: u16 = 4;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    /// In the flags: the end of a range.
    pub const END: u32 = 1;
}

/// Flags of sets.
pub(crate) mod set_flag {
    pub const ANONYMOUS: u32 = 1;
    pub const CONSTANT: u32 = 2;
    pub const INTERVAL: u32 = 4;
    pub const MAP: u32 = 8;
    pub const TIMEOUT: u32 = 16;
    pub const DYNAMIC: u32 = 32;
}

/// Attribute of bytes as data.
pub(crate) const VALUE: u16 = 1;
/// A list of elements has a length of 16 bits; no element of ours is longer than what is left.
const LIST_LIMIT: usize = 60_000;

/// Messages on the way to the kernel.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins; its index is its sequence number.
    starts: Vec<usize>,
    /// How many sets were added: within the transaction the kernel tells them apart by number.
    sets: u32,
    closed: bool,
}

impl Batch {
    /// An empty transaction. With a generation, the kernel refuses it if anybody has changed any table since.
    pub fn new(generation: Option<u32>) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            starts: Vec::new(),
            sets: 0,
            closed: false,
        };
        batch.message(kind::BATCH_BEGIN, 0, 0, u16::from(NFTABLES), |w| {
            if let Some(generation) = generation {
                w.number(1, generation);
            }
        });
        batch
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.starts.len() < 2
    }

    /// Length in bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What goes to the kernel.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Asks for an acknowledgement of the last message and closes the transaction, once.
    pub(crate) fn finish(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(last) = self.starts.last().copied() {
            let flags = u16::from_ne_bytes([self.bytes[last + 6], self.bytes[last + 7]]) | flag::ACK;
            self.bytes[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        }
        self.message(kind::BATCH_END, 0, 0, u16::from(NFTABLES), |_| {});
    }

    /// The message with this sequence number.
    pub(crate) fn sent(&self, sequence: u32) -> Option<&[u8]> {
        let index = usize::try_from(sequence).ok()?;
        let begin = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).copied().unwrap_or(self.bytes.len());
        self.bytes.get(begin..end)
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        inside: impl FnOnce(&mut Vec<u8>),
    ) {
        let sequence = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        let begun = message::begin(&mut self.bytes, kind, flags, sequence, family, resource);
        self.starts.push(begun);
        inside(&mut self.bytes);
        message::end(&mut self.bytes, begun);
    }

    fn about(&mut self, kind: u16, flags: u16, family: TableFamily, inside: impl FnOnce(&mut Vec<u8>)) {
        self.message(kind, flags, family.number(), 0, inside);
    }

    /// Adds a table; it may be there already.
    pub fn add_table(&mut self, table: Table) {
        self.about(kind::NEW_TABLE, flag::CREATE, table.family, |w| {
            w.text(1, table.name);
            w.number(2, 0);
        });
    }

    /// Deletes a table with everything in it.
    pub fn delete_table(&mut self, table: Table) {
        self.about(kind::DEL_TABLE, 0, table.family, |w| w.text(1, table.name));
    }

    /// Adds a chain; it may be there already, if it is the same.
    pub fn add_chain(&mut self, table: Table, name: &str, base: Option<BaseChain>) {
        self.about(kind::NEW_CHAIN, flag::CREATE, table.family, |w| {
            w.text(1, table.name);
            w.text(3, name);
            if let Some(base) = base {
                w.text(7, base.kind.as_str());
                // Policy: accept.
                w.number(5, 1);
                w.nest(4, |w| {
                    w.number(1, base.hook as u32);
                    w.number(2, base.priority.cast_unsigned());
                });
            }
        });
    }

    /// Deletes a chain, which must have no rules and be gone to from nowhere.
    pub fn delete_chain(&mut self, table: Table, name: &str) {
        self.about(kind::DEL_CHAIN, 0, table.family, |w| {
            w.text(1, table.name);
            w.text(3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table, name: &str) {
        self.about(kind::DEL_RULE, 0, table.family, |w| {
            w.text(1, table.name);
            w.text(2, name);
        });
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, table: Table, chain: &str, expressions: &[Expr], comment: Option<&str>) {
        let expressions: Vec<Expr> = expressions
            .iter()
            .map(|expression| self.with_set(table, expression))
            .collect();
        self.about(kind::NEW_RULE, flag::CREATE | flag::APPEND, table.family, |w| {
            w.text(1, table.name);
            w.text(2, chain);
            w.nest(4, |w| {
                for expression in expressions {
                    expression.write(w);
                }
            });
            if let Some(comment) = comment {
                w.bytes(7, &udata::comment(comment));
            }
        });
    }

    /// Adds the set without a name that an expression needs.
    fn with_set(&mut self, table: Table, expression: &Expr) -> Expr {
        let Expr::OneOf(register, set) = expression else {
            return expression.clone();
        };
        let spec = SetSpec::set(Anonymous::NAME, [set.field]);
        let id = self.put_set(table, &spec, Some(set.values.len() as u32));
        let element = |value: &Vec<u8>| Element {
            key: value.clone(),
            ..Element::default()
        };
        let values = set.values.iter().map(element);
        self.elements(
            kind::NEW_ELEMENTS,
            flag::CREATE,
            table,
            (&spec.name, Some(id)),
            values,
        );
        Expr::OneOf(
            *register,
            Box::new(Anonymous {
                id,
                ..(**set).clone()
            }),
        )
    }

    /// Adds a set or map; it may be there already, if it is the same.
    pub fn add_set(&mut self, table: Table, spec: &SetSpec) {
        self.put_set(table, spec, None);
    }

    /// `anonymous`: it belongs to a rule, and holds so many values.
    fn put_set(&mut self, table: Table, spec: &SetSpec, anonymous: Option<u32>) -> u32 {
        self.sets += 1;
        let id = self.sets;
        self.about(kind::NEW_SET, flag::CREATE, table.family, |w| {
            w.text(1, table.name);
            w.text(2, &spec.name);
            let mut flags = 0;
            if anonymous.is_some() {
                flags |= set_flag::ANONYMOUS | set_flag::CONSTANT;
            }
            if spec.interval {
                flags |= set_flag::INTERVAL;
            }
            if spec.data.is_some() {
                flags |= set_flag::MAP;
            }
            if spec.dynamic.is_some() {
                flags |= set_flag::TIMEOUT | set_flag::DYNAMIC;
            }
            w.number(3, flags);
            w.number(4, type_number(&spec.key));
            w.number(5, length(&spec.key));
            match &spec.data {
                None => {}
                Some(DataSpec::Verdict) => {
                    w.number(6, VERDICT_TYPE);
                    w.number(7, 0);
                }
                Some(DataSpec::Fields(fields)) => {
                    w.number(6, type_number(fields));
                    w.number(7, length(fields));
                }
            }
            w.number(10, id);
            if let Some(size) = spec.dynamic.or(anonymous) {
                w.nest(9, |w| w.number(1, size));
            }
            w.bytes(13, &udata::set(spec));
        });
        id
    }

    /// Deletes a set or map, which no rule may use.
    pub fn delete_set(&mut self, table: Table, name: &str) {
        self.about(kind::DEL_SET, 0, table.family, |w| {
            w.text(1, table.name);
            w.text(2, name);
        });
    }

    /// Deletes all elements of a set or map.
    pub fn flush_set(&mut self, table: Table, name: &str) {
        self.about(kind::DEL_ELEMENTS, 0, table.family, |w| {
            w.text(elements::TABLE, table.name);
            w.text(elements::SET, name);
        });
    }

    /// Adds elements; the kernel refuses those that are there already.
    pub fn add_elements(&mut self, table: Table, set: &str, elements: impl IntoIterator<Item = Element>) {
        let flags = flag::CREATE | flag::EXCLUSIVE;
        self.elements(kind::NEW_ELEMENTS, flags, table, (set, None), elements);
    }

    /// Deletes elements; the kernel refuses those that are not there.
    pub fn delete_elements(&mut self, table: Table, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(kind::DEL_ELEMENTS, 0, table, (set, None), elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table,
        (set, id): (&str, Option<u32>),
        elements: impl IntoIterator<Item = Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.about(kind, flags, table.family, |w| {
                w.text(elements::TABLE, table.name);
                w.text(elements::SET, set);
                if let Some(id) = id {
                    w.number(elements::SET_ID, id);
                }
                w.nest(elements::LIST, |w| {
                    let begun = w.len();
                    while w.len() - begun < LIST_LIMIT {
                        let Some(element) = elements.next() else { break };
                        write_element(w, &element);
                    }
                });
            });
        }
    }
}

/// nf_tables among the subsystems of nfnetlink.
const NFTABLES: u8 = 10;

fn write_element(w: &mut Vec<u8>, element: &Element) {
    w.nest(1, |w| {
        if element.end {
            w.number(elements::FLAGS, elements::END);
        }
        w.nest(elements::KEY, |w| w.bytes(VALUE, &element.key));
        match &element.data {
            None => {}
            Some(Data::Bytes(bytes)) => w.nest(elements::DATA, |w| w.bytes(VALUE, bytes)),
            Some(Data::Verdict(verdict)) => verdict.write(w, elements::DATA),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::netlink::attr::Attributes;
    use crate::nft::netlink::message::{Message, Messages};

    const TABLE: Table = Table {
        family: TableFamily::Inet,
        name: "fairlead",
    };

    #[test]
    fn long_lists_of_elements_are_cut() {
        let mut batch = Batch::new(Some(7));
        let element = |n: u32| Element {
            key: n.to_be_bytes().to_vec(),
            ..Element::default()
        };
        batch.add_elements(TABLE, "s", (0..10_000).map(element));
        batch.finish();
        let bytes = batch.bytes().to_vec();
        let messages: Vec<Message<'_>> = Messages::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(messages[0].kind, kind::BATCH_BEGIN);
        assert_eq!(messages[0].attributes().unwrap().need(1).unwrap().number(), Ok(7));
        assert_eq!(messages.last().unwrap().kind, kind::BATCH_END);
        let lists = &messages[1..messages.len() - 1];
        assert_eq!(lists.len(), 3);
        let acknowledged: Vec<bool> = lists.iter().map(|m| m.flags & flag::ACK != 0).collect();
        assert_eq!(acknowledged, [false, false, true]);
        let mut keys = Vec::new();
        for message in lists {
            let list = message.attributes().unwrap().need(elements::LIST).unwrap();
            assert!(list.value.len() < 65_000);
            for element in list.nested() {
                let key = element.unwrap().nested().need(elements::KEY).unwrap();
                keys.push(Attributes::new(key.value).need(VALUE).unwrap().number().unwrap());
            }
        }
        assert_eq!(keys, (0..10_000).collect::<Vec<_>>());
    }
}
