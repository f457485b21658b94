//! Reading tables: the generation, chains, rules, sets and elements.

use super::attr::{Attribute, Malformed, Write};
use super::batch::{VALUE, elements};
use super::error::KernelError;
use super::expr::Verdict;
use super::message::{Message, kind};
use super::object::{BaseChain, Data, DataSpec, Element, SetSpec, Table, VERDICT_TYPE, length, type_number};
use super::socket::NetlinkSocket;
use super::{batch::set_flag, udata};

/// How often something is read again that changed meanwhile.
const TRIES: usize = 20;

/// A chain as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFound {
    /// Its name.
    pub name: String,
    /// Of a base chain: name of its kind, number of the hook, priority, and whether it accepts by default.
    pub base: Option<BaseFound>,
}

impl ChainFound {
    /// Is it hooked in like this, and does it accept by default?
    pub fn is(&self, wanted: Option<BaseChain>) -> bool {
        match (wanted, &self.base) {
            (None, None) => true,
            (Some(wanted), Some(found)) => {
                found.accepts
                    && found.kind == wanted.kind.as_str()
                    && found.hook == wanted.hook as u32
                    && found.priority == wanted.priority
            }
            _ => false,
        }
    }
}

/// How a base chain is hooked in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseFound {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Number of the hook.
    pub hook: u32,
    /// Lower runs earlier.
    pub priority: i32,
    /// It accepts what no rule decides.
    pub accepts: bool,
}

/// A rule as the kernel has it, as far as it matters to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFound {
    /// The chain it is in.
    pub chain: String,
    /// Its number.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
}

/// A set or map as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetFound {
    /// Its name.
    pub name: String,
    /// Its flags.
    flags: u32,
    /// Types and lengths of its keys and data.
    key: (u32, u32),
    data: Option<(u32, u32)>,
    /// How many elements it may hold.
    size: Option<u32>,
    /// What nft notes about it.
    notes: Vec<u8>,
}

impl SetFound {
    /// How a set of ours is to be found.
    pub fn expected(spec: &SetSpec) -> Self {
        let mut flags = 0;
        for (set, flag) in [
            (spec.interval, set_flag::INTERVAL),
            (spec.data.is_some(), set_flag::MAP),
            (spec.dynamic.is_some(), set_flag::TIMEOUT | set_flag::DYNAMIC),
        ] {
            if set {
                flags |= flag;
            }
        }
        Self {
            name: spec.name.clone(),
            flags,
            key: (type_number(&spec.key), length(&spec.key)),
            data: spec.data.as_ref().map(|data| match data {
                DataSpec::Verdict => (VERDICT_TYPE, 0),
                DataSpec::Fields(fields) => (type_number(fields), length(fields)),
            }),
            size: spec.dynamic,
            notes: udata::set(spec),
        }
    }

    /// It belongs to a rule, has no name of its own and goes with the rule.
    pub fn is_anonymous(&self) -> bool {
        self.flags & set_flag::ANONYMOUS != 0
    }
}

impl NetlinkSocket {
    /// The generation of all tables: another one after each change by anybody.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let mut found = None;
        self.ask(
            kind::GET_GENERATION,
            false,
            0,
            |_| {},
            |message| {
                found = Some(message.attributes()?.need(1)?.number()?);
                Ok(())
            },
        )?;
        found.ok_or(KernelError::Silent)
    }

    /// The flags of a table; `None` if there is no such table.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn table_flags(&mut self, table: Table) -> Result<Option<u32>, KernelError> {
        let request = |w: &mut Vec<u8>| w.text(1, table.name);
        let mut flags = None;
        let asked = self.ask(
            kind::GET_TABLE,
            false,
            table.family.number(),
            request,
            |message| {
                flags = Some(message.attributes()?.need(2)?.number()?);
                Ok(())
            },
        );
        match asked {
            Ok(_) => Ok(flags),
            Err(error) => absent(error).map(|()| None),
        }
    }

    /// The chains of a table.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn chains(&mut self, table: Table) -> Result<Vec<ChainFound>, KernelError> {
        self.list(kind::GET_CHAIN, table, None, read_chain)
    }

    /// The rules of a table, those of a chain in their order.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn rules(&mut self, table: Table) -> Result<Vec<RuleFound>, KernelError> {
        self.list(kind::GET_RULE, table, None, read_rule)
    }

    /// The sets and maps of a table.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn sets(&mut self, table: Table) -> Result<Vec<SetFound>, KernelError> {
        self.list(kind::GET_SET, table, None, read_set)
    }

    /// The elements of a set or map.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>, KernelError> {
        self.list(kind::GET_ELEMENTS, table, Some(set), read_elements)
    }

    fn list<T>(
        &mut self,
        request: u16,
        table: Table,
        set: Option<&str>,
        read: fn(&Message<'_>, &mut Vec<T>) -> Result<(), Malformed>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..TRIES {
            let mut found = Vec::new();
            let whole = self.ask(
                request,
                true,
                table.family.number(),
                |w| {
                    w.text(1, table.name);
                    if let Some(set) = set {
                        w.text(2, set);
                    }
                },
                |message| {
                    // Not every kernel lists one table only.
                    if message.attributes()?.need(1)?.text()? == table.name {
                        read(&message, &mut found)?;
                    }
                    Ok(())
                },
            );
            match whole {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(error) => {
                    absent(error)?;
                    return Ok(Vec::new());
                }
            }
        }
        Err(KernelError::Changed)
    }
}

/// That there is no such thing is an answer.
fn absent(error: KernelError) -> Result<(), KernelError> {
    match error {
        KernelError::Refused(refusal) if refusal.errno == libc::ENOENT => Ok(()),
        other => Err(other),
    }
}

/// Reads a message about a chain.
///
/// # Errors
/// When it is malformed.
pub fn read_chain(message: &Message<'_>, found: &mut Vec<ChainFound>) -> Result<(), Malformed> {
    let attributes = message.attributes()?;
    let name = attributes.need(3)?.text()?.to_owned();
    let base = match attributes.find(4)? {
        None => None,
        Some(hook) => Some(BaseFound {
            kind: attributes.need(7)?.text()?.to_owned(),
            hook: hook.nested().need(1)?.number()?,
            priority: hook.nested().need(2)?.number()?.cast_signed(),
            accepts: attributes.need(5)?.number()? == 1,
        }),
    };
    found.push(ChainFound { name, base });
    Ok(())
}

/// Reads a message about a rule.
///
/// # Errors
/// When it is malformed.
pub fn read_rule(message: &Message<'_>, found: &mut Vec<RuleFound>) -> Result<(), Malformed> {
    let attributes = message.attributes()?;
    let notes = attributes.find(7)?.map(|notes| notes.value);
    found.push(RuleFound {
        chain: attributes.need(2)?.text()?.to_owned(),
        handle: attributes.need(3)?.long()?,
        comment: notes.and_then(udata::read_comment).map(str::to_owned),
    });
    Ok(())
}

/// Reads a message about a set.
///
/// # Errors
/// When it is malformed.
pub fn read_set(message: &Message<'_>, found: &mut Vec<SetFound>) -> Result<(), Malformed> {
    let mut set = SetFound::default();
    let mut data = (None, 0);
    for attribute in message.attributes()? {
        let attribute = attribute?;
        match attribute.kind {
            2 => attribute.text()?.clone_into(&mut set.name),
            3 => set.flags = attribute.number()?,
            4 => set.key.0 = attribute.number()?,
            5 => set.key.1 = attribute.number()?,
            6 => data.0 = Some(attribute.number()?),
            7 => data.1 = attribute.number()?,
            9 => {
                set.size = attribute
                    .nested()
                    .find(1)?
                    .map(|size| size.number())
                    .transpose()?;
            }
            13 => attribute.value.clone_into(&mut set.notes),
            _ => {}
        }
    }
    // Of a verdict the kernel tells its own length.
    set.data = data
        .0
        .map(|kind| (kind, if kind == VERDICT_TYPE { 0 } else { data.1 }));
    found.push(set);
    Ok(())
}

/// Reads a message about elements.
///
/// # Errors
/// When it is malformed.
pub fn read_elements(message: &Message<'_>, found: &mut Vec<Element>) -> Result<(), Malformed> {
    let Some(list) = message.attributes()?.find(elements::LIST)? else {
        return Ok(());
    };
    for element in list.nested() {
        found.push(read_element(element?)?);
    }
    Ok(())
}

fn read_element(attribute: Attribute<'_>) -> Result<Element, Malformed> {
    let mut element = Element::default();
    for attribute in attribute.nested() {
        let attribute = attribute?;
        match attribute.kind {
            elements::KEY => attribute.nested().need(VALUE)?.value.clone_into(&mut element.key),
            elements::DATA => element.data = Some(read_data(attribute)?),
            elements::FLAGS => element.end = attribute.number()? & elements::END != 0,
            _ => {}
        }
    }
    Ok(element)
}

fn read_data(attribute: Attribute<'_>) -> Result<Data, Malformed> {
    if let Some(bytes) = attribute.nested().find(VALUE)? {
        return Ok(Data::Bytes(bytes.value.to_owned()));
    }
    let verdict = attribute.nested().need(2)?.nested();
    let chain = || verdict.need(2).and_then(|chain| chain.text().map(str::to_owned));
    Ok(Data::Verdict(match verdict.need(1)?.number()?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        _ => return Err(Malformed),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nft::netlink::batch::Batch;
    use crate::nft::netlink::message::{Messages, TableFamily};

    const TABLE: Table = Table {
        family: TableFamily::Inet,
        name: "fairlead",
    };

    fn element() -> impl Strategy<Value = Element> {
        let chain = "[a-z0-9/-]{1,30}";
        let data = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..24).prop_map(Data::Bytes),
            prop_oneof![
                Just(Verdict::Accept),
                Just(Verdict::Drop),
                chain.prop_map(Verdict::Goto),
                chain.prop_map(Verdict::Jump),
            ]
            .prop_map(Data::Verdict),
        ];
        (
            prop::collection::vec(any::<u8>(), 1..40),
            any::<bool>(),
            prop::option::of(data),
        )
            .prop_map(|(key, end, data)| Element { key, end, data })
    }

    proptest! {
        #[test]
        fn elements_are_read_as_they_were_written(written in prop::collection::vec(element(), 0..50)) {
            let mut batch = Batch::new(None);
            batch.add_elements(TABLE, "s", written.iter().cloned());
            let mut read = Vec::new();
            for message in Messages::new(batch.bytes()).map(Result::unwrap) {
                if message.kind == kind::NEW_ELEMENTS {
                    read_elements(&message, &mut read).unwrap();
                }
            }
            prop_assert_eq!(read, written);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            every(&payload);
        }

        /// A well-formed message with a byte wrong gets further.
        #[test]
        fn a_wrong_byte_is_no_panic(written in prop::collection::vec(element(), 1..5), at: prop::sample::Index, value: u8) {
            let mut batch = Batch::new(None);
            batch.add_elements(TABLE, "s", written);
            let mut payload = batch.sent(1).unwrap()[16..].to_vec();
            let at = at.index(payload.len());
            payload[at] = value;
            every(&payload);
        }
    }

    fn every(payload: &[u8]) {
        let message = Message {
            kind: 0,
            flags: 0,
            sequence: 0,
            port: 0,
            payload,
        };
        let _ = read_chain(&message, &mut Vec::new());
        let _ = read_rule(&message, &mut Vec::new());
        let _ = read_set(&message, &mut Vec::new());
        let _ = read_elements(&message, &mut Vec::new());
    }
}
