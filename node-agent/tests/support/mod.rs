//! What the tests share.

// Each test program uses another part of it.
#![allow(dead_code, reason = "each test program uses another part")]

pub mod cases;
#[cfg(feature = "netns")]
pub mod kernel;
pub mod objects;
#[cfg(feature = "netns")]
pub mod programmed;
#[cfg(feature = "netns")]
pub mod topology;
