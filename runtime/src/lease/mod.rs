//! Leader election by a `Lease`: at any time at most one of several processes may act.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | the three times, and which of them go together |
//! | `record` | what stands in a Lease |
//! | `elector` | who may take it, and when: pure, time comes in |
//! | `leadership` | what the rest of the program asks: may I act now? |
//! | `driver` | the requests to the API server |
//!
//! The rule that makes it safe: a leader's right to act ends `renew deadline` after it *sent* its last confirmed renewal;
//! nobody takes a Lease over before it has itself seen it unchanged for the `lease duration`, by its own monotonic clock;
//! and each write of the Lease needs the `resourceVersion` that it was made from. The times that stand in the Lease are
//! for people: clocks may be wrong. What remains is the rate of clocks: the contenders' may run faster than the
//! leader's by the ratio of lease duration and renew deadline, 1.5 by default.

mod driver;
mod elector;
mod leadership;
mod metrics;
mod record;
mod settings;

pub use driver::{Election, LeaseName, identity};
pub use leadership::{Leadership, Term};
pub use metrics::Metrics;
pub use settings::{Settings, SettingsError};
