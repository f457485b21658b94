//! Connection tracking: flows that the rules cannot move any more are forgotten, and the table is watched.
//!
//! Talks to the kernel by netlink (ctnetlink); everything that does so blocks, and runs in threads of its own.

pub mod flow;
pub mod gauge;
pub mod queue;
pub mod served;
pub mod socket;
pub mod sweep;
pub mod wire;

pub use gauge::Fill;
pub use queue::Queue;
pub use served::{Memory, Served};
pub use sweep::{Stats, SweepError, sweep};
