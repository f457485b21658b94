//! What a table is made of, in the terms of the kernel: chains, sets and their elements.

use super::expr::Verdict;

/// Name and family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: super::message::TableFamily,
    /// Its name.
    pub name: &'static str,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each flow.
    Nat,
}

impl ChainKind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where a base chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Whatever comes in.
    Prerouting = 0,
    /// What is for this node.
    Input = 1,
    /// What is routed on.
    Forward = 2,
    /// What this node sends.
    Output = 3,
    /// Whatever goes out.
    Postrouting = 4,
}

impl Hook {
    /// The hook with this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "prerouting" => Self::Prerouting,
            "input" => Self::Input,
            "forward" => Self::Forward,
            "output" => Self::Output,
            "postrouting" => Self::Postrouting,
            _ => return None,
        })
    }
}

/// A chain that packets enter by themselves. Its policy is always to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it is hooked in.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// Type of a field of keys or data, with the number that nft gives it. To the kernel only its length matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A number in the order of the host, as of a random choice.
    Integer,
    /// The name of an interface.
    Name,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A MAC address.
    Ether,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// Kind of an ICMPv6 message.
    IcmpKind,
}

impl Type {
    /// Its number in nft (`enum datatypes`).
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Integer => 4,
            Self::Name => 41,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ether => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::IcmpKind => 29,
        }
    }

    /// Its length in bytes.
    pub const fn length(self) -> u32 {
        match self {
            Self::Integer | Self::Ipv4 => 4,
            Self::Ipv6 | Self::Name => 16,
            Self::Ether => 6,
            Self::Protocol | Self::IcmpKind => 1,
            Self::Port => 2,
        }
    }
}

/// What the elements of a map hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSpec {
    /// A verdict.
    Verdict,
    /// Fields.
    Fields(Vec<Field>),
}

/// A field of a key or of data: its type, and where it is said to come from, which is how nft writes a type that has no
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub kind: Type,
    /// An expression of its type; given for all fields of a set, or for none.
    pub origin: Option<Origin>,
}

impl From<(Type, Origin)> for Field {
    fn from((kind, origin): (Type, Origin)) -> Self {
        Self {
            kind,
            origin: Some(origin),
        }
    }
}

impl Field {
    /// A field of a named type.
    pub const fn of(kind: Type) -> Self {
        Self { kind, origin: None }
    }
}

/// An expression that nft names to say what type a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `ip saddr`
    Source4,
    /// `ip daddr`
    Destination4,
    /// `ip6 saddr`
    Source6,
    /// `ip6 daddr`
    Destination6,
    /// `meta l4proto`
    Protocol,
    /// `th dport`
    Port,
    /// `numgen inc mod 2`
    Number,
    /// `icmpv6 type`
    IcmpKind,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// Its name.
    pub name: String,
    /// The fields of its keys.
    pub key: Vec<Field>,
    /// What its elements hold; nothing for a set.
    pub data: Option<DataSpec>,
    /// Its elements are ranges.
    pub interval: bool,
    /// Rules add to it, elements time out, and it holds at most so many.
    pub dynamic: Option<u32>,
}

impl SetSpec {
    /// A set with these fields as key.
    pub fn set(name: impl Into<String>, key: impl Into<Vec<Field>>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
            data: None,
            interval: false,
            dynamic: None,
        }
    }

    /// A map from these fields to that.
    pub fn map(name: impl Into<String>, key: impl Into<Vec<Field>>, data: DataSpec) -> Self {
        Self {
            data: Some(data),
            ..Self::set(name, key)
        }
    }
}

/// What an element of a map holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Bytes, every field padded to four.
    Bytes(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its key, every field padded to four if there is more than one.
    pub key: Vec<u8>,
    /// It only says where a range ends: at the address before.
    pub end: bool,
    /// What it holds; nothing in a set.
    pub data: Option<Data>,
}

/// Length of fields together: one has its own length, several are padded to four each.
pub(crate) fn length(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.kind.length(),
        several => several.iter().map(|f| f.kind.length().next_multiple_of(4)).sum(),
    }
}

/// Number of the type of fields together: six bits for each.
pub(crate) fn type_number(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| (number << 6) | field.kind.number())
}

/// Data of type verdict (linux/netfilter/nf_tables.h).
pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;
