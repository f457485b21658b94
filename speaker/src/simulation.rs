//! Whole clusters of speakers in virtual time: the real gossip and the real plan together, on a network that loses, delays
//! and breaks, with machines that fail, and with somebody who cordons, labels and upgrades them.
//!
//! | module | what it has |
//! |---|---|
//! | [`speaker`] | one speaker: what the engine does around gossip and plan |
//! | [`event`] | what can happen |
//! | [`cluster`] | speakers and network, and what an event does to them |
//! | [`owners`] | who announces what, and what must never be |
//! | [`histories`] | many events one upon another |
//! | [`single`] | one event on a settled cluster |
//! | [`returns`] | nodes that come back with what they knew |
//!
//! Each test draws from a seed, which a failure prints together with the history. `FAIRLEAD_SIM_STEPS` sets how many
//! events each kind of test applies in all, `FAIRLEAD_SIM_SEED` where it begins.

mod cluster;
mod event;
mod histories;
mod owners;
mod returns;
mod single;
mod speaker;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
