//! Layer 2: answers ARP for announced addresses, and announces them unasked.
//!
//! One task for each interface owns that interface's socket. The table of addresses is read afresh for every request,
//! so that a withdrawal is in force the moment [`Announcer::apply`] returns.

pub mod arp;
mod interface;
mod mac;
mod schedule;
mod socket;

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use arp::Table;
pub use mac::Mac;
pub use schedule::Schedule;
pub use socket::ArpSocket;

use crate::metrics::Metrics;

/// An interface of this node and what to announce on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its number.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// The addresses.
    pub table: Table,
}

struct Running {
    index: u32,
    mac: Mac,
    table: watch::Sender<Table>,
    task: AbortHandle,
}

/// Everything that is announced. Dropping it ends all answers.
pub struct Announcer {
    running: BTreeMap<String, Running>,
    metrics: Metrics,
}

impl Announcer {
    /// Announces nothing yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            running: BTreeMap::new(),
            metrics,
        }
    }

    /// Announces exactly this from now on, by interface name.
    pub fn apply(&mut self, wanted: &BTreeMap<String, Wanted>) {
        self.running.retain(|name, running| {
            // An interface that was made anew, or got another MAC, needs another socket and a new burst.
            let stays = wanted
                .get(name)
                .is_some_and(|wanted| (wanted.index, wanted.mac) == (running.index, running.mac));
            if !stays {
                running.stop();
            }
            stays
        });
        for (name, wanted) in wanted {
            match self.running.get(name) {
                Some(running) => {
                    running.table.send_if_modified(|table| {
                        let changed = *table != wanted.table;
                        if changed {
                            table.clone_from(&wanted.table);
                        }
                        changed
                    });
                }
                None => {
                    let (table, receiver) = watch::channel(wanted.table.clone());
                    let task = tokio::spawn(interface::run(
                        name.clone(),
                        wanted.index,
                        wanted.mac,
                        receiver,
                        self.metrics.clone(),
                    ));
                    let running = Running {
                        index: wanted.index,
                        mac: wanted.mac,
                        table,
                        task: task.abort_handle(),
                    };
                    self.running.insert(name.clone(), running);
                }
            }
        }
    }
}

impl Running {
    /// Aborting takes effect only when the task next waits; the empty table, at once.
    fn stop(&self) {
        self.table.send_replace(Table::default());
        self.task.abort();
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop();
        }
    }
}
