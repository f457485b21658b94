//! What can happen to a cluster.

use std::net::IpAddr;

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Eligible(usize, IpAddr, bool),
    Cordon(usize, bool),
    /// Its weight, and after how many milliseconds it may take over.
    Prefer(usize, i32, Option<u64>),
    /// SIGTERM.
    Depart(usize),
    /// SIGKILL.
    Kill(usize),
    /// The machine is gone, and with it the snapshot.
    PowerOff(usize),
    /// The speaker is started.
    Start(usize),
    /// The same on a machine whose clock was set back.
    StartEarlier(usize),
    /// These two do not hear each other.
    Cut(usize, usize),
    /// Those before this one do not hear the others.
    Part(usize),
    /// Everybody hears everybody.
    Heal,
    /// Of a thousand datagrams so many are lost, and they take up to so many milliseconds.
    Network(u32, u64),
    /// So many milliseconds the node is late in everything.
    Slow(usize, u64),
}
