//! The link between the node agent and the speaker of one node: a Unix socket on which both ends tell what they know.
//!
//! Each side sends its whole report, one JSON object a line, at every change and once a second, so that a report is
//! always current and silence means absence. The first line of each side names the version of the protocol. Only
//! processes of the server's own user or of root may connect (`SO_PEERCRED`).

mod client;
mod frame;
mod health;
mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use client::connect;
pub use health::{HEALTH_SOCKET, LocalEndpoints, serve_health};
pub use server::serve;

/// Where the socket is on every node.
pub const SOCKET: &str = "/run/fairlead/agent.sock";
/// Version of the protocol that this program speaks. A newer peer must still send what this version has.
pub const VERSION: u32 = 1;
/// How often a report is repeated without a change.
pub const REPEAT: Duration = Duration::from_secs(1);
/// Silence after which a peer counts as gone.
pub const SILENCE: Duration = Duration::from_secs(5);

/// What the node agent tells: what is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Number of the plan that is in the kernel; it starts at 1 with every agent.
    pub plan: u64,
    /// The installation is being removed and no rule is left.
    pub clean: bool,
    /// The addresses that are programmed.
    pub addresses: BTreeMap<IpAddr, AddressReport>,
    /// Which sources count as pods of this node, in words; empty from an agent that does not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_sources: String,
}

/// One programmed address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReport {
    /// Number of the plan by which it is programmed.
    pub plan: u64,
    /// Age in milliseconds of the oldest change that is not yet in the kernel; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unapplied_ms: Option<u64>,
}

/// What the speaker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerReport {
    /// The installation is being removed and this speaker announces nothing any more.
    pub withdrawn: bool,
    /// The addresses that this node announces.
    pub announcing: BTreeSet<IpAddr>,
    /// Other nodes that own an address, as far as this speaker knows: address → a node's own address of that family.
    /// `None` from a speaker that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<BTreeMap<IpAddr, IpAddr>>,
    /// Addresses of the nodes that died while they owned something: what was open there is lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dead: BTreeSet<IpAddr>,
    /// MAC addresses of the other speakers, as `02:00:5e:00:53:01`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fellows: BTreeSet<String>,
}

/// What the speaker knows of the node agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentView {
    /// The last report, of whatever age.
    pub last: Option<AgentReport>,
    /// Is the agent connected and talking?
    pub connected: bool,
    /// When the last report came.
    pub last_seen: Option<Instant>,
}

/// Why the link failed.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The socket could not be made.
    #[error("cannot listen on {path}")]
    Bind {
        /// Its path.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("connection lost")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer was silent for too long.
    #[error("the peer was silent for {SILENCE:?}")]
    Silent,
    /// A line was not what it should be.
    #[error("cannot read what the peer sent")]
    Malformed(#[from] serde_json::Error),
    /// A line was longer than any report can be.
    #[error("the peer sent a line of more than {0} bytes")]
    TooLong(usize),
    /// The peer speaks no version that we know.
    #[error("the peer speaks version {0} of the protocol, older than {VERSION}")]
    Version(u32),
    /// The peer is another user.
    #[error("a process of user {0} connected; only root and our own user may")]
    Peer(u32),
}
