//! Which addresses this node announces.
//!
//! Three steps:
//!
//! 1. [`Evaluator`] applies the hard filters to *this node only*: a [`Candidate`] or a refusal for each owned address.
//!    It remembers, so that one change costs little among many addresses.
//! 2. What passed is published as this node's [`Record`]; [`elect`] ranks the published records of all live nodes. It
//!    looks at nothing else, so every speaker that sees the same records names the same owner.
//! 3. [`plan`] compares the elected owner with what this node announces now: announce, hand over, or stay silent.
//!
//! By BGP every node that passed announces by itself; [`bgp`] says which routes go to whom. There the records of others
//! matter only to a node that is cordoned or ends: it withdraws what others announce.
//!
//! Who is alive, and how records travel, is not known here.

pub mod bgp;
mod election;
mod eligibility;
mod plan;
mod record;
#[cfg(test)]
mod simulation;

pub use election::{elect, highest_claim, rendezvous_hash};
pub use eligibility::{
    BgpCandidate, Candidate, DataPath, Evaluation, Evaluations, Evaluator, Interface, ProbeTarget, Routed,
    Verdict, View, programmed,
};
pub use plan::{Hold, Input, Losing, Plan, SETTLE, Standing, YIELD_LIMIT, has_rival, plan};
pub use record::{Candidacy, LAST_RESORT, Record, Records};
