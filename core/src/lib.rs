//! The pure decisions of Fairlead: no Kubernetes client, no async runtime, no clock, no I/O.
//!
//! Every program builds a snapshot out of what it watches and calls a `plan` function of this crate;
//! what comes back is data: what should be, and for everything that should not be, a [`reason::Reason`].

pub mod announce;
pub mod config;
pub mod delta;
pub mod endpoints;
pub mod forward;
pub mod hash;
pub mod ipam;
pub mod model;
pub mod ownership;
pub mod range;
pub mod reason;
pub mod selector;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
