//! The speaker: decides which external addresses this node announces, and announces them by ARP, only while the
//! node's data path is programmed and its own probe passes.
//!
//! ```text
//! watches ─► index ─┐
//! netlink ─► links ─┤                      ┌─► l2       (answers, gratuitous ARP)
//! agent socket ─────┼─► engine ─► decide ──┼─► health   (what to probe)
//! probe verdicts ───┤                      ├─► publish  (NodeState: record and report)
//! clock ────────────┘                      └─► agent socket
//! ```
//!
//! [`engine`] owns all tasks; [`decide`] is pure and rests on `fairlead_core::announce`.

pub mod bgp;
pub mod datapath;
pub mod decide;
pub mod disputes;
pub mod engine;
pub mod health;
pub mod index;
pub mod ipvs;
pub mod l2;
pub mod links;
pub mod membership;
pub mod metrics;
pub mod passwords;
pub mod publish;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod status;
