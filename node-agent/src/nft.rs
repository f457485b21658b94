//! The kernel's half: one table `inet fairlead`, from the plan to netfilter.
//!
//! `build` turns a plan into a [`ruleset::Ruleset`], a plain value; `render` writes it, or the difference between two
//! of them, as nft text; `driver` hands that to the kernel. Only `render` and `driver` know how nftables is spoken to.

pub mod build;
pub mod change;
pub mod driver;
pub mod netlink;
pub mod render;
pub mod ruleset;
pub mod trace;

/// Name of our table, in family `inet`.
pub const TABLE: &str = "fairlead";
