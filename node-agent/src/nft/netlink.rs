//! nf_tables by netlink, without the `nft` program: what nft(8) would send, sent by ourselves.
//!
//! `attr` and `message` are the grammar, `expr`, `object` and `udata` the words, `batch` puts a transaction together,
//! `socket` carries it out and asks, `error` says in words what the kernel refused, `dump` reads tables, `watch` tells
//! when somebody else changes ours. None of that knows what our
//! tables are for. `encode` and `decode` translate our ruleset, with the pieces in `program`; `driver` keeps the main
//! table with all that, `handover` has the small ones.

pub mod affinity;
pub mod attr;
pub mod batch;
pub mod decode;
pub mod driver;
pub mod dump;
pub mod encode;
pub mod error;
pub mod expr;
pub mod handover;
pub mod message;
pub mod object;
mod program;
pub mod rules;
pub mod socket;
mod udata;
pub mod watch;
