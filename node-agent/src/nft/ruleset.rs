//! What our table holds, as a value that can be compared.
//!
//! Nearly all chains are fixed. What belongs to a Service is elements of a few maps that all share: a map for each
//! Service would cost the kernel, which walks through the names of all maps, time that grows with the square of their
//! number.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
    /// Remembers which endpoint a client got, of flows that leave this node.
    RememberPostrouting,
    /// The same of flows to endpoints with the node's own address.
    RememberInput,
    /// Source ranges of a Service port, then one of the three verdicts.
    Ranges(Arc<BackendKey>),
    /// Endpoint choice.
    Choose(Choice),
    /// Remembers the choice for so many seconds.
    Affine(Family, u32),
}

impl Chain {
    /// The chains that are always there.
    pub const FIXED: [Self; 13] = [
        Self::FilterPrerouting,
        Self::FilterOutput,
        Self::FilterForward,
        Self::FilterSent,
        Self::NatPrerouting,
        Self::NatOutput,
        Self::RememberPostrouting,
        Self::RememberInput,
        Self::NatPostrouting,
        Self::Served,
        Self::Inside,
        Self::Refuse,
        Self::Unserved,
    ];

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
            Self::RememberPostrouting => base(ChainType::Nat, "postrouting", 94),
            Self::RememberInput => base(ChainType::Nat, "input", 94),
            Self::NatPostrouting => base(ChainType::Nat, "postrouting", 95),
            _ => None,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FilterPrerouting => f.write_str("filter-prerouting"),
            Self::FilterOutput => f.write_str("filter-output"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterSent => f.write_str("filter-sent"),
            Self::NatPrerouting => f.write_str("nat-prerouting"),
            Self::NatOutput => f.write_str("nat-output"),
            Self::RememberPostrouting => f.write_str("remember-postrouting"),
            Self::RememberInput => f.write_str("remember-input"),
            Self::NatPostrouting => f.write_str("nat-postrouting"),
            Self::Served => f.write_str("served"),
            Self::Inside => f.write_str("inside"),
            Self::Refuse => f.write_str("refuse"),
            Self::Unserved => f.write_str("unserved"),
            Self::Ranges(key) => write!(
                f,
                "ranges{}/{}/{}/{}/{}",
                digit(key.family),
                Safe(&key.service.namespace),
                Safe(&key.service.name),
                key.protocol.as_str(),
                key.port
            ),
            Self::Choose(choice) => choice.fmt(f),
            Self::Affine(family, seconds) => write!(f, "affine{}-{seconds}", digit(*family)),
        }
    }
}

/// How an endpoint is chosen, and what becomes of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any endpoint, masqueraded.
    Cluster,
    /// Any endpoint, the source kept.
    Pick,
    /// Any endpoint on this node, the source kept.
    Local,
}

/// A chain that chooses one of so many endpoints, whichever Service they are of: the number is part of a rule, the
/// endpoints are elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// From which endpoints.
    pub kind: Kind,
    /// Family of the endpoints.
    pub family: Family,
    /// A client that is remembered gets the endpoint that it had.
    pub sticky: bool,
    /// How many endpoints there are; at least one.
    pub count: u32,
}

impl Choice {
    /// Where the endpoints are.
    pub fn endpoints(&self) -> Set {
        match self.kind {
            Kind::Cluster | Kind::Pick => Set::Endpoints(self.family),
            Kind::Local => Set::Locals(self.family),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Cluster => "cluster",
            Kind::Pick => "pick",
            Kind::Local => "local",
        };
        write!(f, "{kind}{}-{}", digit(self.family), self.count)?;
        f.write_str(if self.sticky { "-sticky" } else { "" })
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

/// A set or map of our table: only its elements change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// The VIPs.
    Vips(Family),
    /// Sources that are pods of this node.
    Pods(Family),
    /// Interfaces that lead away from this node; what comes from elsewhere is a pod.
    Uplinks,
    /// `address . address` of each endpoint that may reach itself through a VIP without a masquerade otherwise.
    Hairpin(Family),
    /// Destination → what the filter does: served, inside, refuse, ranges.
    Filter(Family),
    /// Destination → the chain with the endpoint choice.
    Nat(Family),
    /// Destination of policy Local → the chain with the endpoint choice for pods of this node and the node itself.
    Inside(Family),
    /// Destination and number → endpoint: all usable ones, numbered from 0.
    Endpoints(Family),
    /// Destination and number → endpoint: the usable ones on this node, numbered from 0.
    Locals(Family),
    /// VIP → the node address that answers pings.
    Echo(Family),
    /// Destination → the chain that remembers the choice.
    Sticky(Family),
    /// Client and destination → the endpoint it got. The kernel fills it, and each element has its time.
    Affinity(Family),
}

impl Set {
    /// All sets and maps, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_families = FAMILIES.into_iter().flat_map(|family| {
            [
                Self::Vips(family),
                Self::Pods(family),
                Self::Hairpin(family),
                Self::Filter(family),
                Self::Nat(family),
                Self::Inside(family),
                Self::Endpoints(family),
                Self::Locals(family),
                Self::Echo(family),
                Self::Sticky(family),
                Self::Affinity(family),
            ]
        });
        of_families.chain([Self::Uplinks])
    }

    /// The family of its addresses; none if it holds none.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Uplinks => None,
            Self::Vips(family)
            | Self::Pods(family)
            | Self::Hairpin(family)
            | Self::Filter(family)
            | Self::Nat(family)
            | Self::Inside(family)
            | Self::Endpoints(family)
            | Self::Locals(family)
            | Self::Echo(family)
            | Self::Sticky(family)
            | Self::Affinity(family) => Some(family),
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Vips(_) => "vips",
            Self::Pods(_) => "pods",
            Self::Uplinks => "uplinks",
            Self::Hairpin(_) => "hairpin",
            Self::Filter(_) => "filter",
            Self::Nat(_) => "nat",
            Self::Inside(_) => "inside",
            Self::Endpoints(_) => "endpoints",
            Self::Locals(_) => "locals",
            Self::Echo(_) => "echo",
            Self::Sticky(_) => "sticky",
            Self::Affinity(_) => "affinity",
        };
        f.write_str(name)?;
        self.family()
            .map_or(Ok(()), |family| write!(f, "{}", digit(family)))
    }
}

/// Key of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An address.
    Address(IpAddr),
    /// A range of addresses.
    Range(IpNet),
    /// Name of an interface.
    Interface(Arc<str>),
    /// Source and destination.
    Pair(IpAddr, IpAddr),
    /// Address, protocol and port.
    Destination(Destination),
    /// The same, and the number of an endpoint.
    Numbered(Destination, u32),
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
    /// An address and a port.
    Endpoint(SocketAddr),
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
    /// The source address is in the range.
    SourceWithin(IpNet),
    /// The source is an address of this node.
    SourceLocal,
    /// It came in by none of the interfaces in the set.
    FromOther(Set),
    /// It came in by an interface whose name begins so.
    FromInterface(Arc<str>),
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
    /// The same for what the flow was addressed to before it was translated. Needs a match for the protocol.
    LookupOriginal(Set),
    /// Translate the destination address to what the map says for it.
    DnatBy(Set),
    /// Translate the destination to what the map says for client and destination; on no element, the next rule.
    DnatRemembered(Set),
    /// Translate the destination to what the map says for it and a random number below the count; on no element, the
    /// next rule.
    Dnat(Set, u32),
    /// Put into the map for so many seconds, or for so many more, which endpoint the client got. Needs a match for the
    /// protocol.
    Remember(Set, u32),
    /// Put our mark on the flow, leaving other bits alone.
    Mark(u32),
    /// Translate the source to an address of this node, on a random port.
    Masquerade,
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

/// Every element of the sets and maps that we fill.
pub type Elements = BTreeMap<(Set, Key), Value>;

/// The whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Every chain with its rules.
    pub chains: BTreeMap<Chain, Vec<Rule>>,
    /// Every element.
    pub elements: Elements,
}
