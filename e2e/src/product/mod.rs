//! Fairlead in the lab: installing it as a user would, and looking at it from the wire.

pub mod api;
pub mod install;
pub mod manifests;
pub mod wait;
pub mod wire;

pub use api::Cluster;
pub use wait::wait_for;
