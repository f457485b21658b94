//! Benchmarks: a load in the lab, Fairlead and a peer beside it in one run, and figures of both.

pub mod bgp;
mod contender;
pub mod controller;
pub mod datapath;
pub mod failover;
mod figures;
pub mod idle;
mod load;
mod metallb;
pub mod observe;
pub mod report;
pub mod timeline;
mod usage;

pub use contender::Contender;
