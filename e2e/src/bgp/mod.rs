//! BGP in the lab: faults that an address has to outlive which many nodes announce at once, each tried in the same way, and
//! what end-to-end tests and benchmarks share besides.

pub mod fib;
pub mod load;
pub mod manifests;
mod row;
pub mod stage;
mod trial;

pub use row::{Goal, PROBE_INTERVAL_MS, PROBE_THRESHOLD, Peering, Row};
pub use stage::Stage;
pub use trial::{Outcome, trial};
