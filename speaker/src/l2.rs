//! Layer 2: answers ARP and neighbour discovery for announced addresses, and announces them unasked.
//!
//! One task for each family on an interface owns a socket of its own. The table of addresses is read afresh for every
//! request, so that a withdrawal is in force the moment [`Announcer::apply`] returns.

pub mod arp;
mod filter;
mod groups;
mod interface;
mod mac;
pub mod ndp;
mod quarrel;
mod schedule;
mod sightings;
mod socket;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

pub use fairlead_core::config::ConflictPolicy;
use fairlead_core::model::Family;
use fairlead_runtime::watch::replace;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use mac::Mac;
pub use schedule::{Job, Schedule};
pub use sightings::{Conflict, Sightings};
pub use socket::WireSocket;
pub use table::{Claimant, Entry, Judged, Request, Scope, Table};

use self::interface::Place;
use self::sightings::Board;
use crate::links::Links;
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
    scope: watch::Sender<Scope>,
    tasks: BTreeMap<Family, AbortHandle>,
}

/// Everything that is announced. Dropping it ends all answers.
pub struct Announcer {
    wanted: BTreeMap<String, Wanted>,
    asked: BTreeMap<String, (u32, Scope)>,
    running: BTreeMap<String, Running>,
    board: Board,
    metrics: Metrics,
}

impl Announcer {
    /// Announces nothing yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            running: BTreeMap::new(),
            board: Board::new(),
            metrics,
        }
    }

    /// Announces exactly this from now on, by interface name.
    pub fn apply(&mut self, wanted: &BTreeMap<String, Wanted>) {
        if self.wanted != *wanted {
            self.wanted.clone_from(wanted);
            self.reconcile();
        }
    }

    /// Asks once for each of these addresses, on these interfaces, whether anybody has it (RFC 5227 §1.1, RFC 4862
    /// §5.4), and watches for whoever uses it, as long as it stays among them. These MAC addresses are speakers'.
    pub fn ask(
        &mut self,
        addresses: &BTreeMap<IpAddr, BTreeSet<String>>,
        links: &Links,
        speakers: &BTreeSet<Mac>,
    ) {
        let mut asked: BTreeMap<String, (u32, Scope)> = BTreeMap::new();
        for (address, names) in addresses {
            for (name, link) in names.iter().filter_map(|name| Some((name, links.get(name)?))) {
                let (_, scope) = asked.entry(name.clone()).or_insert_with(|| {
                    let mut scope = Scope::new(link.mac);
                    scope.table.speakers.clone_from(speakers);
                    (link.index, scope)
                });
                scope.asked.insert(*address);
            }
        }
        if self.asked != asked {
            self.asked = asked;
            self.reconcile();
        }
    }

    /// Who else uses addresses that are announced or asked about.
    pub fn sightings(&self) -> watch::Receiver<Sightings> {
        self.board.subscribe()
    }

    /// What every interface is to go by.
    fn scopes(&self) -> BTreeMap<String, (u32, Scope)> {
        let mut scopes = self.asked.clone();
        for (name, wanted) in &self.wanted {
            let asked = scopes.remove(name).map(|(_, scope)| scope.asked);
            let scope = Scope {
                table: wanted.table.clone(),
                asked: asked.unwrap_or_default(),
                ..Scope::new(wanted.mac)
            };
            scopes.insert(name.clone(), (wanted.index, scope));
        }
        let own: BTreeSet<Mac> = scopes.values().map(|(_, scope)| scope.mac).collect();
        for (_, scope) in scopes.values_mut() {
            scope.own.clone_from(&own);
        }
        scopes
    }

    fn reconcile(&mut self) {
        self.board.forget(Instant::now());
        let scopes = self.scopes();
        self.running.retain(|name, running| {
            // An interface that was made anew, or got another MAC, needs another socket and a new burst.
            let stays = scopes
                .get(name)
                .is_some_and(|(index, scope)| (*index, scope.mac) == (running.index, running.mac));
            if !stays {
                running.stop();
            }
            stays
        });
        for (name, (index, scope)) in scopes {
            let running = self.running.entry(name.clone()).or_insert_with(|| Running {
                index,
                mac: scope.mac,
                scope: watch::Sender::new(Scope::new(scope.mac)),
                tasks: BTreeMap::new(),
            });
            replace(&running.scope, scope);
            running.serve(&name, &self.board, &self.metrics);
        }
    }
}

impl Running {
    /// Has a task for each family that there are addresses of.
    fn serve(&mut self, name: &str, board: &Board, metrics: &Metrics) {
        let families: BTreeSet<Family> = {
            let scope = self.scope.borrow();
            let addresses = scope.table.addresses.keys().chain(&scope.asked);
            addresses.map(|address| Family::of(*address)).collect()
        };
        self.tasks.retain(|family, task| {
            let stays = families.contains(family);
            if !stays {
                task.abort();
            }
            stays
        });
        for family in families {
            self.tasks.entry(family).or_insert_with(|| {
                let place = Place {
                    name: name.to_owned(),
                    index: self.index,
                    family,
                };
                let task = interface::run(place, self.scope.subscribe(), board.clone(), metrics.clone());
                tokio::spawn(task).abort_handle()
            });
        }
    }

    /// Aborting takes effect only when a task next waits; the empty table, at once.
    fn stop(&self) {
        self.scope.send_replace(Scope::new(self.mac));
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop();
        }
    }
}
