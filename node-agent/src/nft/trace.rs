//! What one packet gets from a table, without a kernel: the rules that it meets, and what becomes of it.
//!
//! The walk follows netfilter: base chains in the order of hooks and priorities, NAT chains for the first packet of a
//! flow and no further than the first that translates. What other tables do is not known here.

mod walk;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairlead_core::forward::Destination;
use fairlead_core::model::{Family, Protocol};

use super::ruleset::{Chain, Ruleset};

/// What the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A transport protocol with ports.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// Where to.
        port: u16,
        /// Of TCP: a SYN and nothing else, as the first packet of a flow is.
        opens: bool,
    },
    /// An echo request.
    Echo,
    /// Anything else.
    Other,
}

impl Payload {
    /// The first packet of a flow to a port.
    pub fn first(protocol: Protocol, port: u16) -> Self {
        Self::Ports {
            protocol,
            port,
            opens: true,
        }
    }
}

/// What connection tracking knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// It begins a flow.
    #[default]
    New,
    /// It belongs to a known flow.
    Known,
    /// It fits no flow and begins none.
    Invalid,
    /// Connection tracking was told to leave it alone.
    Untracked,
}

/// Where the packet meets the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It came in by an interface: from a client, another node or a pod.
    Arrived(Arc<str>),
    /// A process of the node sent it.
    Node,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload,
    /// Where it meets the node.
    pub origin: Origin,
    /// What connection tracking knows of it.
    pub flow: Flow,
}

impl Packet {
    /// Address, protocol and port that it is sent to, if it has a port.
    pub fn target(&self) -> Option<Destination> {
        match self.payload {
            Payload::Ports { protocol, port, .. } => Some(Destination {
                address: self.destination,
                protocol,
                port,
            }),
            Payload::Echo | Payload::Other => None,
        }
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.destination)
    }
}

/// What the table does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The node's own addresses.
    pub own: Vec<IpAddr>,
    /// Which endpoint is remembered for the client, with ClientIP affinity.
    pub remembered: Option<SocketAddr>,
}

/// A rule that the packet met, or the end of a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain.
    pub chain: Chain,
    /// The rule as nft writes it.
    pub rule: String,
    /// The element that a lookup found.
    pub found: Option<String>,
    /// What follows.
    pub then: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            chain,
            rule,
            found,
            then,
        } = self;
        write!(f, "{chain}: {rule}")?;
        if let Some(found) = found {
            write!(f, "  [{found}]")?;
        }
        if then.is_empty() {
            Ok(())
        } else {
            write!(f, "  → {then}")
        }
    }
}

/// An endpoint that the packet may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// It sees an address of the node instead of the client's.
    pub masqueraded: bool,
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To one of these; never empty.
    Forward(Vec<Delivery>),
    /// It follows the flow that it belongs to.
    AsItsFlow,
    /// Answered with a TCP reset.
    Reset,
    /// Answered with ICMP port unreachable.
    Unreachable,
    /// Dropped silently.
    Dropped,
    /// An echo request that the node answers as the VIP.
    AnsweredAsEcho,
    /// Nothing of ours is about it.
    NotOurs,
}

impl Outcome {
    /// Does it reach somebody?
    pub fn arrives(&self) -> bool {
        matches!(self, Self::Forward(_) | Self::AsItsFlow | Self::AnsweredAsEcho)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Forward(deliveries) = self else {
            return f.write_str(match self {
                Self::Forward(_) | Self::AsItsFlow => "It goes on as the flow that it belongs to.",
                Self::Reset => "It is refused: the sender gets a TCP reset from the destination.",
                Self::Unreachable => "It is refused: the sender gets ICMP port unreachable.",
                Self::Dropped => "It is dropped: the sender hears nothing.",
                Self::AnsweredAsEcho => "The node answers the echo request as the VIP.",
                Self::NotOurs => "It is none of ours: no rule of the table is about it.",
            });
        };
        let list = |masqueraded| {
            let of = deliveries.iter().filter(|d| d.masqueraded == masqueraded);
            of.map(|d| d.endpoint.to_string()).collect::<Vec<_>>()
        };
        let mut parts = Vec::new();
        for (masqueraded, source) in [(true, "an address of this node"), (false, "the sender's address")] {
            let endpoints = list(masqueraded);
            match endpoints.as_slice() {
                [] => {}
                [one] => parts.push(format!("to {one}, which sees {source}")),
                many => parts.push(format!("to one of {}, which sees {source}", many.join(", "))),
            }
        }
        write!(f, "It is forwarded {}.", parts.join(", or "))
    }
}

/// The walk of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The rules that it met, in order. Where endpoints differ in what comes after the choice, one of each kind is
    /// followed.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// Follows a packet through the table.
pub fn trace(ruleset: &Ruleset, packet: &Packet, facts: &Facts) -> Trace {
    walk::walk(ruleset, packet, facts)
}
