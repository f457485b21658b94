//! The node agent of Fairlead: programs the kernel of one node so that a packet for VIP:port, or for node:nodePort,
//! reaches the right endpoint, and tells the speaker beside it which addresses are programmed.
//!
//! ```text
//! watches → index → core::forward::plan → nft::build → nft::driver → report to the speaker
//!                                          └───────── engine ────────┘
//! ```

pub mod conntrack;
pub mod engine;
pub mod handover;
pub mod healthz;
pub mod index;
pub mod metrics;
pub mod nft;
pub mod preflight;
pub mod run;
pub mod surroundings;
pub mod trace_command;
