//! What speakers tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::NodeName;

/// Weight of a speaker that is shutting down: it comes after every other candidate, cordoned ones included.
pub const LAST_RESORT: i32 = i32::MIN;

/// The record by which the speaker of one node offers itself for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Start time of the speaker in microseconds of Unix time; larger is newer.
    pub incarnation: i64,
    /// How far its history has come: rises by one with every change of one incarnation.
    pub sequence: i64,
    /// The addresses for which the node passed every filter of layer 2.
    pub candidacies: BTreeMap<IpAddr, Candidacy>,
    /// The addresses that the node announces by BGP and goes on announcing: it is not cordoned, its speaker does not
    /// end, and it has a session to announce them on.
    pub routed: BTreeSet<IpAddr>,
    /// The addresses that the node announced by BGP a moment ago, or announces as a less preferred one: what was open
    /// through it is still known there.
    pub parted: BTreeSet<IpAddr>,
}

/// One address of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    /// The node is cordoned, or its speaker is shutting down.
    pub cordoned: bool,
    /// Preference for this node; higher comes first.
    pub weight: i32,
    /// The node may take the address over from one that it is preferred to.
    pub preempts: bool,
    /// Present while the node announces the address: the epoch of its claim.
    pub claim: Option<i64>,
}

/// The records of all nodes, as this node sees them.
pub type Records = BTreeMap<NodeName, Arc<Record>>;
