//! Membership: which other speakers are alive, learnt from them directly.

pub mod keys;
pub mod seal;
