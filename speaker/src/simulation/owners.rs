//! Who announces what, and what must never be.
//!
//! Bounds count from the last event, since each of them may begin everything anew:
//!
//! * Nobody announces though there is a candidate: the death of the owner is found (at most 0.8 s for 99 of 100), told to
//!   all and acted upon in the same millisecond; or somebody takes an address that nobody had, after 0.2 s. With loss or
//!   delay, or machines that are late, obituary and records come again by the next comparison, 0.2 s later, and suspicion
//!   is stretched.
//!   One node probes one other in each period, so those who are cut off together with few others find out later that
//!   many are missing.
//! * Two announce in one connected part: the records of both meet after as much.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::cluster::Cluster;
use crate::membership::node::net::{ms, name};

/// Longest time without an announcer or with two of them, on a good network and on a bad one.
pub const BOUND: Duration = ms(1000);
pub const ROUGH: Duration = ms(2500);
/// From one probe to the next.
const PERIOD: Duration = ms(80);
/// Two announcers after all in the part have the same view.
const AGREED: Duration = ms(1000);
/// A speaker that has started acts after this at the latest, unless it is alone.
const STARTS: Duration = ms(1000);
/// And if it is.
const STARTS_ALONE: Duration = ms(4100);

/// What is watched.
#[derive(Default)]
pub struct Owners {
    /// Who announces, and since when.
    announcing: BTreeMap<(IpAddr, usize), Duration>,
    /// Who began (true) and who ended.
    pub log: Vec<(Duration, IpAddr, usize, bool)>,
    /// By address and connected part: since when nobody announces it there though somebody could.
    none: BTreeMap<(IpAddr, usize), Duration>,
    /// Since when several do.
    many: BTreeMap<(IpAddr, usize), Duration>,
    /// The same while all have the same view.
    agreed: BTreeMap<(IpAddr, usize), Duration>,
    /// How many nodes each connected part has, by its first.
    sizes: BTreeMap<usize, usize>,
    /// Speakers that have not acted yet.
    starting: BTreeMap<usize, (Duration, Duration)>,
    /// The longest of each so far.
    pub longest: [Duration; 4],
}

impl Owners {
    /// Looks at what is now. After an event all times begin anew.
    pub fn look(&mut self, cluster: &Cluster, event: bool) {
        let now = cluster.net.now;
        self.keep(now);
        if event {
            self.none.clear();
            self.many.clear();
            self.agreed.clear();
            self.starting.clear();
        }
        let size = cluster.speakers.len();
        for address in cluster.addresses.iter().copied() {
            for n in 0..size {
                let announces = cluster.speakers[n].announces(address);
                let known = self.announcing.contains_key(&(address, n));
                if announces != known {
                    self.log.push((now, address, n, announces));
                    if announces {
                        self.announcing.insert((address, n), now);
                    } else {
                        self.announcing.remove(&(address, n));
                    }
                }
            }
        }
        let parts = cluster.parts();
        self.sizes = parts.iter().map(|part| (part[0], part.len())).collect();
        let mut starting = BTreeMap::new();
        for part in &parts {
            let alone = part.len() == 1;
            let waits = |n: &&usize| cluster.speakers[**n].process.as_ref().is_some_and(|p| !p.acted);
            for n in part.iter().filter(waits) {
                let since = self.starting.get(n).map_or(now, |(since, _)| *since);
                // If nobody else knows anything either, all of them wait.
                let all = part.iter().all(|n| waits(&n));
                let limit = if alone || all {
                    STARTS_ALONE
                } else {
                    STARTS.max(cluster.bound())
                };
                starting.insert(*n, (since, limit));
            }
            let waiting = part.iter().any(|n| waits(&n));
            for address in cluster.addresses.iter().copied() {
                let key = (address, part[0]);
                let announcers = part
                    .iter()
                    .filter(|n| cluster.speakers[**n].announces(address))
                    .count();
                let able = part.iter().any(|n| cluster.speakers[*n].able(address));
                mark(&mut self.none, key, announcers == 0 && able && !waiting, now);
                mark(&mut self.many, key, announcers > 1, now);
                mark(&mut self.agreed, key, announcers > 1 && agree(cluster, part), now);
            }
        }
        self.starting = starting;
    }

    fn keep(&mut self, now: Duration) {
        let times = [&self.none, &self.many, &self.agreed].map(|map| map.values().min().copied());
        let starting = self.starting.values().map(|(since, _)| *since).min();
        for (longest, since) in self.longest.iter_mut().zip(times.into_iter().chain([starting])) {
            *longest = (*longest).max(since.map_or(Duration::ZERO, |since| now - since));
        }
    }

    /// What is wrong at this moment.
    pub fn wrong(&self, cluster: &Cluster) -> Option<String> {
        let (now, bound) = (cluster.net.now, cluster.bound());
        if self.none.is_empty() && self.many.is_empty() && self.starting.is_empty() {
            return None;
        }
        let over = |map: &BTreeMap<(IpAddr, usize), Duration>, bound: Duration| {
            map.iter()
                .find(|(_, since)| now - **since > bound)
                .map(|((address, part), since)| {
                    format!("{address} in the part of node{part} since {since:?}")
                })
        };
        for ((address, part), since) in &self.none {
            let of = self.sizes.get(part).copied().unwrap_or(1);
            let lost = (cluster.speakers.len() - of) as u32;
            if now - *since > bound + PERIOD * lost / of as u32 {
                return Some(format!(
                    "nobody announces {address} in the part of node{part} since {since:?}"
                ));
            }
        }
        if let Some(what) = over(&self.many, bound) {
            return Some(format!("more than one announces {what}"));
        }
        if let Some(what) = over(&self.agreed, AGREED) {
            return Some(format!("more than one announces, and all know it: {what}"));
        }
        let late = self
            .starting
            .iter()
            .find(|(_, (since, limit))| now - *since > *limit);
        late.map(|(n, (since, _))| format!("node{n} does not start, since {since:?}"))
    }

    /// Who announces the address.
    pub fn of(&self, address: IpAddr) -> Vec<usize> {
        let own = self.announcing.keys().filter(|(of, _)| *of == address);
        own.map(|(_, n)| *n).collect()
    }

    /// How often somebody began to announce the address since this entry of the log.
    pub fn moves(&self, address: IpAddr, since: usize) -> usize {
        let begun = |entry: &&(Duration, IpAddr, usize, bool)| entry.1 == address && entry.3;
        self.log[since..].iter().filter(begun).count()
    }

    /// Was there a moment without an announcer since this entry of the log? Of those at one instant, who begins comes
    /// first.
    pub fn gap(&self, address: IpAddr, mut announcers: usize, since: usize) -> bool {
        let mut entries: Vec<_> = self.log[since..]
            .iter()
            .filter(|entry| entry.1 == address)
            .collect();
        entries.sort_by_key(|entry| (entry.0, !entry.3));
        for (_, _, _, begun) in entries {
            announcers = if *begun { announcers + 1 } else { announcers - 1 };
            if announcers == 0 {
                return true;
            }
        }
        false
    }

    pub fn story(&self) -> String {
        let mut text = String::new();
        for (at, address, n, begun) in self.log.iter().rev().take(60).rev() {
            let what = if *begun { "begins" } else { "ends" };
            let _ = writeln!(text, "  {at:?} node{n} {what} {address}");
        }
        for ((address, n), since) in &self.announcing {
            let _ = writeln!(text, "  now: node{n} announces {address} since {since:?}");
        }
        text
    }
}

fn mark(map: &mut BTreeMap<(IpAddr, usize), Duration>, key: (IpAddr, usize), holds: bool, now: Duration) {
    if holds {
        map.entry(key).or_insert(now);
    } else {
        map.remove(&key);
    }
}

/// Have all in this part the same view of who is alive and of what those say?
fn agree(cluster: &Cluster, part: &[usize]) -> bool {
    let members = part.iter().map(|n| name(*n)).collect();
    let mut views = part
        .iter()
        .filter_map(|n| Some(cluster.net.nodes[*n].as_ref()?.view()));
    let Some(first) = views.next() else { return false };
    first.live == members
        && views.all(|view| {
            let same = |node| view.records.get(node) == first.records.get(node);
            view.live == members && members.iter().all(same)
        })
}
