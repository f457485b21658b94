//! The node's BGP sessions and routes: what is [wanted](Input) is brought to the BGP daemon beside the speaker, by
//! difference, and what comes of it is [told](Observed).
//!
//! ```text
//! Input ─► session (one peer as the daemon's)  ┐
//!          policy  (what a route says to whom) ├─► plan (difference to what it has) ─► task ─► daemon
//!          route   (one path)                  ┘                         Observed ◄── observe ◄──┘
//! ```
//!
//! All but the task are pure. A route of the daemon's table carries a *class*, by a large community that no router ever
//! sees: which peers get it, and with what attributes. Statements of the export policy say for each class and group of
//! peers what the route says to them; everything else is rejected, in both directions. So a new route among routes of
//! its kind is one call, and sessions are not touched by what becomes of routes.

mod guard;
mod link;
mod neighbour;
mod observe;
mod plan;
mod policy;
pub mod report;
mod route;
mod session;
mod task;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::announce::bgp::Wanted;
use fairlead_core::model::Family;
use jiff::Timestamp;

pub use task::start;

/// Where the daemon is, and who it is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Unix socket of its API.
    pub socket: PathBuf,
    /// Its BGP identifier (RFC 4271 §4.2); not 0.0.0.0.
    pub router_id: Ipv4Addr,
}

/// What is wanted of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The sessions and routes.
    pub wanted: Arc<Wanted>,
    /// The passwords by the name of their Secret, or why there is none, as a sentence.
    pub passwords: BTreeMap<String, Result<Password, String>>,
    /// This node's addresses.
    pub addresses: OwnAddresses,
}

/// This node's addresses, for routes of one family over sessions of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its global IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// A password (RFC 2385). It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps it.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

/// What the daemon has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The daemon itself.
    pub daemon: DaemonState,
    /// The sessions that are wanted, by the name of the BGPPeer.
    pub sessions: BTreeMap<String, Session>,
    /// How many routes are in its table.
    pub routes: usize,
    /// All that was wanted when this was told is with the daemon, except for sessions with a [`Refusal`].
    pub settled: bool,
    /// How often something was changed at the daemon, since the speaker's start.
    pub applied: u64,
    /// How long the last change took.
    pub apply_time: Duration,
}

/// What becomes of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DaemonState {
    /// Nothing was wanted of it yet.
    #[default]
    Unasked,
    /// It does what it is told.
    Up,
    /// It is not there; the sentence says what was tried.
    Down(String),
    /// It does not speak the version of the API that is spoken here; the sentence says so.
    TooOld(String),
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// State of its state machine.
    pub state: State,
    /// Since when, if it was seen to change.
    pub since: Option<Timestamp>,
    /// How often each state was entered, since the speaker's start.
    pub transitions: BTreeMap<State, u64>,
    /// Why it ended last, or what is not as it should be with it, in plain words.
    pub error: Option<String>,
    /// What the attempts to make it come to, while it is not up.
    pub attempts: Option<String>,
    /// Why it is not made.
    pub refusal: Option<Refusal>,
    /// Where the peer is: as given, or as found on the interface.
    pub peer: Option<IpAddr>,
    /// The peer's ASN, as it said it.
    pub remote_asn: Option<u32>,
    /// The families that both sides speak.
    pub families: Vec<Family>,
    /// How many routes were sent, by family.
    pub advertised: BTreeMap<Family, u64>,
    /// The peer's path is watched by BFD, and it is up or not.
    pub bfd: Option<bool>,
}

/// A state of the state machine (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It does nothing.
    #[default]
    Idle,
    /// It waits for the TCP connection.
    Connect,
    /// It tries to connect again soon.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// Both OPENs are exchanged.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// Its name in RFC 4271.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// Why a session is not made, while others are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The Secret with its password is missing.
    #[error("{0}")]
    PasswordMissing(String),
    /// Another session of this node has the same address: the one of the BGPPeer that is named.
    #[error("the BGPPeer {0} has the same address, and a node has one session with an address")]
    DuplicatePeer(String),
    /// The node has no such VRF device.
    #[error("this node has no VRF device called {0}")]
    NoVrf(String),
    /// The node has no such interface.
    #[error("this node has no interface called {0}")]
    NoInterface(String),
    /// Nobody was found at the other end of the interface.
    #[error("no router has shown itself on the interface {0} by its link-local address")]
    NoNeighbour(String),
    /// The daemon does not know what is needed for it.
    #[error("{0}")]
    DaemonTooOld(String),
    /// It cannot be done; the sentence says why.
    #[error("{0}")]
    Unsupported(String),
}

impl Refusal {
    /// The reason in one word, as in conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PasswordMissing(_) => "PasswordMissing",
            Self::DuplicatePeer(_) => "DuplicatePeer",
            Self::NoVrf(_) => "NoVRF",
            Self::NoInterface(_) => "NoInterface",
            Self::NoNeighbour(_) => "NoNeighbour",
            Self::DaemonTooOld(_) => "DaemonTooOld",
            Self::Unsupported(_) => "Unsupported",
        }
    }
}
