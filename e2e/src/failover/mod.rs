//! Faults that an address has to outlive, each tried in the same way: a quiet lab, a client outside and a witness on the
//! wire, the fault, and what they saw. The benchmark tries each many times, the tests once.

mod busy;
mod restore;
mod row;
mod scene;
mod trial;

pub use busy::Busy;
pub(crate) use restore::Programs;
pub use row::Row;
pub use scene::Scene;
pub use trial::{Options, Outcome, trial};
