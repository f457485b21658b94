//! The expressions that our rules are made of, and how they are encoded. A rule is a list of them; each loads registers,
//! compares them, or acts. Names, numbers and the order of attributes are those that nft writes.

use super::attr::Write;
use super::message::TableFamily;
use super::object::Field;

/// Name and data of an expression in a list.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// Bytes, or a verdict, as data.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// The register that a verdict goes to.
const VERDICT_REGISTER: u32 = 0;

/// One of the sixteen words of 32 bits that a rule computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(pub u8);

impl Register {
    /// The first word.
    pub const FIRST: Self = Self(0);

    /// The word after `bytes` more.
    #[must_use]
    pub const fn after(self, bytes: u32) -> Self {
        Self(self.0 + bytes.div_ceil(4) as u8)
    }

    /// Its number: every fourth word has one of the old numbers of registers of 128 bits, as nft and the kernel write it.
    const fn number(self) -> u32 {
        let word = self.0 as u32;
        if word.is_multiple_of(4) {
            1 + word / 4
        } else {
            8 + word
        }
    }
}

/// Where the packet goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves this base chain.
    Accept,
    /// It is gone.
    Drop,
    /// It goes to another chain and comes back.
    Jump(String),
    /// It goes to another chain for good.
    Goto(String),
}

impl Verdict {
    /// Codes are signed: linux/netfilter.h and nf_tables.h.
    const fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
        }
    }

    /// Writes it as data of kind `kind`.
    pub(crate) fn write(&self, buffer: &mut Vec<u8>, kind: u16) {
        buffer.nest(kind, |w| {
            w.nest(VERDICT, |w| {
                w.number(1, self.code().cast_unsigned());
                if let Self::Jump(chain) | Self::Goto(chain) = self {
                    w.text(2, chain);
                }
            });
        });
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// What `meta` tells about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// IPv4 or IPv6.
    Family,
    /// The transport protocol.
    Protocol,
    /// The kind of the interface that it came in by.
    InputType,
    /// The name of the interface that it came in by; empty for what this node sends.
    InputName,
}

/// What connection tracking tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// New, established and so on.
    State,
    /// Whether addresses are translated, and more.
    Status,
    /// The mark of the flow.
    Mark,
    /// Source address (IPv4).
    Source4(Direction),
    /// Destination address (IPv4).
    Destination4(Direction),
    /// Source address (IPv6).
    Source6(Direction),
    /// Destination address (IPv6).
    Destination6(Direction),
    /// Source port.
    SourcePort(Direction),
    /// Destination port.
    DestinationPort(Direction),
}

impl Ct {
    const fn number(self) -> (u32, Option<Direction>) {
        match self {
            Self::State => (0, None),
            Self::Status => (2, None),
            Self::Mark => (3, None),
            Self::SourcePort(direction) => (11, Some(direction)),
            Self::DestinationPort(direction) => (12, Some(direction)),
            Self::Source4(direction) => (19, Some(direction)),
            Self::Destination4(direction) => (20, Some(direction)),
            Self::Source6(direction) => (21, Some(direction)),
            Self::Destination6(direction) => (22, Some(direction)),
        }
    }
}

/// The two sides of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As its first packet was.
    Original = 0,
    /// As the answer is.
    Reply = 1,
}

/// A header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Ethernet.
    Link = 0,
    /// IPv4 or IPv6.
    Network = 1,
    /// TCP, UDP, ICMP and so on.
    Transport = 2,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// ICMP or ICMPv6 port unreachable, by the family of the packet.
    PortUnreachable,
}

/// A set that belongs to one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    /// What its values are.
    pub field: Field,
    /// The values.
    pub values: Vec<Vec<u8>>,
    /// Its number in the transaction; a batch fills it in.
    pub id: u32,
}

impl Anonymous {
    /// The kernel puts a number for the last two letters.
    pub const NAME: &str = "__set%d";
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a property of the packet.
    Meta(Meta, Register),
    /// Loads bytes of a header: from an offset, so many.
    Payload(Header, u32, u32, Register),
    /// Loads a property of the flow.
    Ct(Ct, Register),
    /// Sets the mark of the flow.
    SetMark(Register),
    /// What kind the source address is of, to the routing table.
    SourceType(Register),
    /// A random number below this.
    Random(u32, Register),
    /// `register = (register & mask) ^ xor`.
    Bitwise {
        /// The register.
        register: Register,
        /// Bits to keep.
        mask: Vec<u8>,
        /// Bits to turn.
        xor: Vec<u8>,
    },
    /// Goes on with the next expression only if so, else with the next rule.
    Cmp(Compare, Register, Vec<u8>),
    /// Goes on only if what is in the register is in the set.
    InSet(Register, String),
    /// Goes on only if what is in the register is not in the set.
    NotInSet(Register, String),
    /// Goes on only if what is in the register is one of these values, which become a set without a name.
    OneOf(Register, Box<Anonymous>),
    /// Goes on only if there is an element, and loads its data.
    Map(Register, String, Register),
    /// What the element says; the next rule if there is none.
    VerdictMap(Register, String),
    /// A verdict.
    Verdict(Verdict),
    /// Translates the destination: family, address, port.
    Dnat(TableFamily, Register, Option<Register>),
    /// Translates the source to an address of the node on a random port.
    Masquerade,
    /// Refuses the packet.
    Reject(Refusal),
    /// Adds an element to a dynamic map, or renews it.
    Update {
        /// The map.
        set: String,
        /// Where its key is.
        key: Register,
        /// Where its data is.
        data: Register,
        /// How long it stays, in milliseconds.
        timeout: u64,
    },
    /// Sends a copy to another next hop (in tables of one family only).
    Duplicate(Register),
}

impl Expr {
    /// A comparison with equal.
    pub fn equal(register: Register, value: impl Into<Vec<u8>>) -> Self {
        Self::Cmp(Compare::Equal, register, value.into())
    }

    /// A comparison with not equal.
    pub fn differs(register: Register, value: impl Into<Vec<u8>>) -> Self {
        Self::Cmp(Compare::NotEqual, register, value.into())
    }

    /// Keeps the bits of a mask.
    pub fn masked(register: Register, mask: impl Into<Vec<u8>>) -> Self {
        let mask = mask.into();
        Self::Bitwise {
            register,
            xor: vec![0; mask.len()],
            mask,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Payload(..) => "payload",
            Self::Ct(..) | Self::SetMark(_) => "ct",
            Self::SourceType(_) => "fib",
            Self::Random(..) => "numgen",
            Self::Bitwise { .. } => "bitwise",
            Self::Cmp(..) => "cmp",
            Self::InSet(..) | Self::NotInSet(..) | Self::OneOf(..) | Self::Map(..) | Self::VerdictMap(..) => {
                "lookup"
            }
            Self::Verdict(_) => "immediate",
            Self::Dnat(..) => "nat",
            Self::Masquerade => "masq",
            Self::Reject(_) => "reject",
            Self::Update { .. } => "dynset",
            Self::Duplicate(_) => "dup",
        }
    }

    /// Writes it as an element of a list of expressions.
    pub(crate) fn write(&self, buffer: &mut Vec<u8>) {
        buffer.nest(LIST_ELEMENT, |w| {
            w.text(NAME, self.name());
            w.nest(DATA, |w| self.write_data(w));
        });
    }

    fn write_data(&self, w: &mut Vec<u8>) {
        match self {
            Self::Meta(key, to) => {
                w.number(
                    2,
                    match key {
                        Meta::Family => 15,
                        Meta::Protocol => 16,
                        Meta::InputType => 8,
                        Meta::InputName => 6,
                    },
                );
                w.number(1, to.number());
            }
            Self::Payload(header, offset, length, to) => {
                w.number(1, to.number());
                w.number(2, *header as u32);
                w.number(3, *offset);
                w.number(4, *length);
            }
            Self::Ct(key, to) => {
                let (number, direction) = key.number();
                w.number(2, number);
                w.number(1, to.number());
                if let Some(direction) = direction {
                    w.byte(3, direction as u8);
                }
            }
            Self::SetMark(from) => {
                w.number(2, Ct::Mark.number().0);
                w.number(4, from.number());
            }
            Self::SourceType(to) => fib(w, ADDRESS_TYPE, *to),
            Self::Random(below, to) => {
                const RANDOM: u32 = 1;
                w.number(1, to.number());
                w.number(2, *below);
                w.number(3, RANDOM);
                w.number(4, 0);
            }
            Self::Bitwise { register, mask, xor } => {
                w.number(1, register.number());
                w.number(2, register.number());
                w.number(6, 0);
                w.number(3, mask.len() as u32);
                w.nest(4, |w| w.bytes(VALUE, mask));
                w.nest(5, |w| w.bytes(VALUE, xor));
            }
            Self::Cmp(compare, register, value) => {
                w.number(1, register.number());
                w.number(2, *compare as u32);
                w.nest(3, |w| w.bytes(VALUE, value));
            }
            Self::InSet(key, set) => lookup(w, *key, set, None),
            Self::NotInSet(key, set) => {
                const INVERTED: u32 = 1;
                lookup(w, *key, set, None);
                w.number(5, INVERTED);
            }
            Self::OneOf(key, set) => {
                lookup(w, *key, Anonymous::NAME, None);
                w.number(4, set.id);
            }
            Self::Map(key, set, to) => lookup(w, *key, set, Some(to.number())),
            Self::VerdictMap(key, set) => lookup(w, *key, set, Some(VERDICT_REGISTER)),
            Self::Verdict(verdict) => {
                w.number(1, VERDICT_REGISTER);
                verdict.write(w, 2);
            }
            Self::Dnat(family, address, port) => {
                const DESTINATION: u32 = 1;
                w.number(1, DESTINATION);
                // The family of addresses has the number of the family of tables.
                w.number(2, u32::from(family.number()));
                w.number(3, address.number());
                if let Some(port) = port {
                    w.number(5, port.number());
                }
            }
            Self::Masquerade => {
                const FULLY_RANDOM: u32 = 0x10;
                w.number(1, FULLY_RANDOM);
            }
            Self::Reject(refusal) => {
                let (kind, code) = match refusal {
                    Refusal::Reset => (1, 0),
                    Refusal::PortUnreachable => (2, 1),
                };
                w.number(1, kind);
                w.byte(2, code);
            }
            Self::Update {
                set,
                key,
                data,
                timeout,
            } => {
                const UPDATE: u32 = 1;
                w.number(4, key.number());
                w.number(5, data.number());
                w.number(3, UPDATE);
                w.long(6, *timeout);
                w.text(1, set);
            }
            Self::Duplicate(address) => w.number(1, address.number()),
        }
    }
}

/// What is asked of the routing table.
const ADDRESS_TYPE: u32 = 3;

fn fib(w: &mut Vec<u8>, result: u32, to: Register) {
    const SOURCE: u32 = 1;
    w.number(3, SOURCE);
    w.number(2, result);
    w.number(1, to.number());
}

fn lookup(w: &mut Vec<u8>, key: Register, set: &str, to: Option<u32>) {
    w.number(2, key.number());
    if let Some(to) = to {
        w.number(3, to);
    }
    w.text(1, set);
}
