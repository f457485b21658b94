//! Gossip between speakers.

pub mod detector;
pub mod identity;
pub mod node;
pub mod replica;
pub mod wire;
