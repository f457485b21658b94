//! What our table holds, as a value that can be compared: fixed base chains, chains per Service port, elements of sets
//! and maps.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use fairlead_core::forward::{BackendKey, Destination};
use fairlead_core::model::{Family, Protocol};
use ipnet::IpNet;

/// Digit by which names tell the families apart.
pub fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Both families, in the order of the table.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Kind of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each flow.
    Nat,
}

/// Where a base chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its kind.
    pub kind: ChainType,
    /// Name of the netfilter hook.
    pub hook: &'static str,
    /// Lower runs earlier; destination NAT is at −100, source NAT at 100.
    pub priority: i32,
}

/// A chain of our table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// Refusals for packets from outside and from pods.
    FilterPrerouting,
    /// Refusals for packets of the node itself.
    FilterOutput,
    /// Guard: no packet leaves the node still addressed to a VIP.
    FilterForward,
    /// The same guard for packets of the node itself, after destination NAT.
    FilterSent,
    /// Endpoint choice for packets from outside and from pods.
    NatPrerouting,
    /// Endpoint choice for packets of the node itself.
    NatOutput,
    /// Masquerading.
    NatPostrouting,
    /// The destination is served.
    Served,
    /// The destination is served for pods of this node and the node itself only.
    Inside,
    /// The destination is refused.
    Refuse,
    /// To a VIP, but to none of its ports.
    Unserved,
    /// Source ranges of a Service port, then one of the three above.
    Ranges(BackendKey),
    /// Policy Cluster: any endpoint, masqueraded.
    Cluster(BackendKey),
    /// Policy Local: by the source.
    Local(BackendKey),
    /// Policy Local, for sources inside the cluster: any endpoint.
    Pick(BackendKey),
}

impl Chain {
    /// The chains that are always there.
    pub const FIXED: [Self; 11] = [
        Self::FilterPrerouting,
        Self::FilterOutput,
        Self::FilterForward,
        Self::FilterSent,
        Self::NatPrerouting,
        Self::NatOutput,
        Self::NatPostrouting,
        Self::Served,
        Self::Inside,
        Self::Refuse,
        Self::Unserved,
    ];

    /// The Service port that the chain is for; `None` for a fixed chain.
    pub fn key(&self) -> Option<&BackendKey> {
        match self {
            Self::Ranges(key) | Self::Cluster(key) | Self::Local(key) | Self::Pick(key) => Some(key),
            _ => None,
        }
    }

    /// How the chain is hooked in; `None` for one that is only gone to.
    ///
    /// Filters stand before the address is translated at −100 (the guards after it), whatever the priority of the NAT
    /// chains is: that number decides only whose NAT chain is asked first, ours or kube-proxy's at −100.
    pub fn base(&self) -> Option<Base> {
        let base = |kind, hook, priority| Some(Base { kind, hook, priority });
        match self {
            Self::FilterPrerouting => base(ChainType::Filter, "prerouting", -110),
            Self::FilterOutput => base(ChainType::Filter, "output", -110),
            Self::FilterForward => base(ChainType::Filter, "forward", -110),
            Self::FilterSent => base(ChainType::Filter, "output", -95),
            Self::NatPrerouting => base(ChainType::Nat, "prerouting", -105),
            Self::NatOutput => base(ChainType::Nat, "output", -105),
            Self::NatPostrouting => base(ChainType::Nat, "postrouting", 95),
            _ => None,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |f: &mut fmt::Formatter<'_>, what: &str, key: &BackendKey| {
            write!(
                f,
                "{what}{}/{}/{}/{}/{}",
                digit(key.family),
                Safe(&key.service.namespace),
                Safe(&key.service.name),
                key.protocol.as_str(),
                key.port
            )
        };
        match self {
            Self::FilterPrerouting => f.write_str("filter-prerouting"),
            Self::FilterOutput => f.write_str("filter-output"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterSent => f.write_str("filter-sent"),
            Self::NatPrerouting => f.write_str("nat-prerouting"),
            Self::NatOutput => f.write_str("nat-output"),
            Self::NatPostrouting => f.write_str("nat-postrouting"),
            Self::Served => f.write_str("served"),
            Self::Inside => f.write_str("inside"),
            Self::Refuse => f.write_str("refuse"),
            Self::Unserved => f.write_str("unserved"),
            Self::Ranges(key) => of(f, "ranges", key),
            Self::Cluster(key) => of(f, "cluster", key),
            Self::Local(key) => of(f, "local", key),
            Self::Pick(key) => of(f, "pick", key),
        }
    }
}

/// Names come from the API server, which allows only DNS labels; nothing else may ever reach rule text.
struct Safe<'a>(&'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let allowed = c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            write!(f, "{}", if allowed { c } else { '_' })?;
        }
        Ok(())
    }
}

/// A fixed set or map of our table: only its elements change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The VIPs.
    Vips(Family),
    /// Sources that are pods of this node.
    Pods(Family),
    /// `address . address` of each endpoint that may reach itself through a VIP without a masquerade otherwise.
    Hairpin(Family),
    /// Destination → what the filter does: served, inside, refuse, ranges.
    Filter(Family),
    /// Destination → chain with the endpoint choice.
    Nat(Family),
    /// VIP → the node address that answers pings to it.
    Echo(Family),
}

impl Set {
    /// All sets and maps, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        FAMILIES.into_iter().flat_map(|family| {
            [
                Self::Vips(family),
                Self::Pods(family),
                Self::Hairpin(family),
                Self::Filter(family),
                Self::Nat(family),
                Self::Echo(family),
            ]
        })
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, family) = match self {
            Self::Vips(family) => ("vips", family),
            Self::Pods(family) => ("pods", family),
            Self::Hairpin(family) => ("hairpin", family),
            Self::Filter(family) => ("filter", family),
            Self::Nat(family) => ("nat", family),
            Self::Echo(family) => ("echo", family),
        };
        write!(f, "{name}{}", digit(*family))
    }
}

/// Key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An address.
    Address(IpAddr),
    /// A range of addresses.
    Range(IpNet),
    /// Source and destination.
    Pair(IpAddr, IpAddr),
    /// Address, protocol and port.
    Destination(Destination),
}

/// What an element of a map says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is an element of a set.
    Member,
    /// Go to the chain.
    Goto(Chain),
    /// An address.
    Address(IpAddr),
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet belongs to a known flow, or is an error message about one.
    KnownFlow,
    /// Connection tracking was told to leave it alone: a packet on its way to the owner before us.
    Untracked,
    /// Connection tracking cannot make sense of it.
    Invalid,
    /// TCP in the middle of a flow that is not known. Connection tracking would otherwise adopt it (`tcp_loose`) and
    /// endpoint choice would give it to an endpoint that never saw the flow.
    MidFlow,
    /// The transport protocol.
    Protocol(Protocol),
    /// An echo request of the family.
    Echo(Family),
    /// IPv6 neighbour discovery, which to a VIP is the speaker's to answer.
    NeighbourDiscovery,
    /// The source address is in the set.
    SourceIn(Set),
    /// The source address is in none of the ranges, which have one family and are not empty.
    SourceOutside(Vec<IpNet>),
    /// The source is an address of this node.
    SourceLocal,
    /// The destination address is in the set.
    DestinationIn(Set),
    /// Destination translated, and source and new destination are a pair in the set.
    Hairpin(Set),
    /// The flow carries our mark.
    Marked(u32),
}

/// What a rule does; the last action of a rule may be a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave this base chain.
    Accept,
    /// Drop silently.
    Drop,
    /// Answer with a TCP reset from the packet's destination.
    Reset,
    /// Answer with ICMP port unreachable.
    Unreachable,
    /// Go on in another chain.
    Goto(Chain),
    /// Go on where the map says for address, protocol and port; on no element, with the next rule.
    Lookup(Set),
    /// Translate the destination address to what the map says for it.
    DnatBy(Set),
    /// Translate the destination to one of the endpoints.
    Dnat(Choice),
    /// Put our mark on the flow, leaving other bits alone.
    Mark(u32),
    /// Translate the source to an address of this node, on a random port.
    Masquerade,
}

/// Endpoint choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Family of the endpoints.
    pub family: Family,
    /// Protocol of the Service port.
    pub protocol: Protocol,
    /// By the hash of the client's address rather than at random.
    pub by_client: bool,
    /// The chain, after which the map of its endpoints is named.
    pub chain: Chain,
    /// How many endpoints there are; at least one.
    pub count: usize,
}

/// A rule: all conditions, then the actions in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// Actions.
    pub actions: Vec<Action>,
}

impl Rule {
    /// A rule from its parts.
    pub fn new(matches: impl Into<Vec<Match>>, actions: impl Into<Vec<Action>>) -> Self {
        Self {
            matches: matches.into(),
            actions: actions.into(),
        }
    }
}

/// The whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Every chain with its rules.
    pub chains: BTreeMap<Chain, Vec<Rule>>,
    /// The endpoints that a chain chooses from, in a map with the name of the chain, numbered from 0. (One map for all
    /// chains would be walked through by the kernel for every rule that refers to it, and maps without a name are
    /// numbered by trying; either costs time that grows with the square of the number of Services.)
    pub lists: BTreeMap<Chain, Vec<SocketAddr>>,
    /// Every element of the fixed sets and maps.
    pub elements: BTreeMap<(Set, Key), Value>,
}
