//! Membership: which other speakers are alive, and what they offer, learnt from them directly.
//!
//! ```text
//! UDP ─► seal ─► node ─┬─ detector   who is alive (SWIM)
//!  ▲       (who sent   └─ replica    the records of all speakers
//!  └─────── it is sure)
//! ```
//!
//! [`task`] owns the socket and the thread; everything else has neither sockets nor clocks.

pub mod detector;
pub mod identity;
pub mod keys;
pub mod node;
pub mod replica;
pub mod seal;
pub mod task;
pub mod wire;
