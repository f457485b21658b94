//! Speakers, the network between them, and what happens to them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;

use super::event::Event;
use super::owners::{BOUND, Owners, ROUGH};
use super::speaker::Speaker;
use crate::membership::node::net::{Net, ms, name};

/// The simulated cluster.
pub struct Cluster {
    pub net: Net,
    pub speakers: Vec<Speaker>,
    pub addresses: Vec<IpAddr>,
    pub owners: Owners,
    seed: u64,
    history: Vec<(Duration, Event)>,
    cuts: BTreeSet<(usize, usize)>,
    parted: Option<usize>,
    clock: i64,
}

impl Cluster {
    /// All nodes start at the same moment, and are candidates for everything.
    pub fn new(size: usize, addresses: u8, seed: u64) -> Self {
        let addresses: Vec<IpAddr> = (1..=addresses)
            .map(|last| IpAddr::from([192, 0, 2, last]))
            .collect();
        let mut cluster = Self {
            net: Net::empty(size, seed),
            speakers: (0..size)
                .map(|_| Speaker {
                    eligible: addresses.iter().copied().collect(),
                    ..Speaker::default()
                })
                .collect(),
            addresses,
            owners: Owners::default(),
            seed,
            history: vec![],
            cuts: BTreeSet::new(),
            parted: None,
            clock: 1_000_000,
        };
        for n in 0..size {
            cluster.start(n, 0);
        }
        cluster.look(true);
        cluster
    }

    pub fn runs(&self, n: usize) -> bool {
        self.speakers[n].process.is_some()
    }

    fn start(&mut self, n: usize, earlier: i64) {
        if self.runs(n) {
            return;
        }
        self.clock += 10;
        self.net.start(n, self.clock - earlier);
        if let Some(node) = &mut self.net.nodes[n] {
            self.speakers[n].start(node, self.net.now);
        }
        self.net.flush(n);
    }

    fn stop(&mut self, n: usize) {
        self.net.stop(n);
        self.speakers[n].process = None;
    }

    /// Lets something happen now.
    pub fn apply(&mut self, event: &Event) {
        self.history.push((self.net.now, event.clone()));
        let now = self.net.now;
        let mut told = None;
        match *event {
            Event::Eligible(n, address, yes) => {
                let eligible = &mut self.speakers[n].eligible;
                if yes {
                    eligible.insert(address);
                } else {
                    eligible.remove(&address);
                }
                told = Some(n);
            }
            Event::Cordon(n, yes) => {
                self.speakers[n].cordoned = yes;
                told = Some(n);
            }
            Event::Prefer(n, weight, after) => {
                self.speakers[n].weight = weight;
                self.speakers[n].preempt_after = after.map(ms);
                told = Some(n);
            }
            Event::Depart(n) => {
                if let Some(process) = &mut self.speakers[n].process {
                    process.departing.get_or_insert(now);
                }
                told = Some(n);
            }
            Event::Kill(n) => self.stop(n),
            Event::PowerOff(n) => {
                self.stop(n);
                self.speakers[n].snapshot.clear();
            }
            Event::Start(n) => self.start(n, 0),
            Event::StartEarlier(n) => self.start(n, 500_000),
            Event::Cut(a, b) => {
                self.cuts.insert((a.min(b), a.max(b)));
            }
            Event::Part(at) => self.parted = Some(at),
            Event::Heal => {
                self.cuts.clear();
                self.parted = None;
            }
            Event::Network(loss, delay) => {
                self.net.loss = loss;
                self.net.delay = 50..(delay * 1000).max(1500);
            }
            Event::Slow(n, 0) => {
                self.net.slow.remove(&n);
            }
            Event::Slow(n, late) => {
                self.net.slow.insert(n, ms(late));
            }
        }
        let (cuts, parted) = (self.cuts.clone(), self.parted);
        self.net.cut = Box::new(move |a, b| separated(&cuts, parted, a, b));
        if let Some(n) = told {
            self.hurry(n, Some(now));
        }
        self.look(true);
    }

    /// A node has something to decide.
    fn hurry(&mut self, n: usize, at: Option<Duration>) {
        let lag = self.net.slow.get(&n).copied().unwrap_or_default();
        if let Some(process) = &mut self.speakers[n].process {
            process.due = [process.due, at.map(|at| at + lag)].into_iter().flatten().min();
        }
    }

    fn look(&mut self, event: bool) {
        let mut owners = std::mem::take(&mut self.owners);
        owners.look(self, event);
        self.owners = owners;
    }

    /// Is the gossip's view not the one that was decided on last?
    fn news(&self, n: usize) -> bool {
        let (process, node) = (self.speakers[n].process.as_ref(), self.net.nodes[n].as_ref());
        process
            .zip(node)
            .is_some_and(|(process, node)| process.seen != Some(node.version()))
    }

    fn round(&mut self, n: usize) {
        let Some(node) = &mut self.net.nodes[n] else {
            return;
        };
        let ended = self.speakers[n].round(&name(n), node, self.net.now);
        self.net.flush(n);
        if ended {
            self.stop(n);
        } else if self.news(n) {
            self.hurry(n, Some(self.net.now));
        }
        self.look(ended);
    }

    /// Lets this much time pass, and looks at every moment of it.
    pub fn run(&mut self, time: Duration) {
        let end = self.net.now + time;
        loop {
            let due = |(n, speaker): (usize, &Speaker)| Some((speaker.process.as_ref()?.due?, n));
            let due = self.speakers.iter().enumerate().filter_map(due).min();
            let until = due.map_or(end, |(at, _)| at.min(end));
            match self.net.step(until) {
                Some(n) if self.news(n) => self.hurry(n, Some(self.net.now)),
                Some(_) => {}
                None => match due {
                    Some((at, n)) if at <= self.net.now => self.round(n),
                    _ => return,
                },
            }
            if let Some(wrong) = self.owners.wrong(self) {
                self.fail(&wrong);
            }
        }
    }

    /// How long nobody or more than one may announce an address after an event.
    pub fn bound(&self) -> Duration {
        let good = self.net.loss == 0
            && self.net.delay.end <= 1500
            && self.net.slow.is_empty()
            && self.cuts.is_empty();
        if good { BOUND } else { ROUGH }
    }

    /// The running nodes that hear each other, directly or over others.
    pub fn parts(&self) -> Vec<Vec<usize>> {
        let mut left: BTreeSet<usize> = (0..self.speakers.len()).filter(|n| self.runs(*n)).collect();
        let mut parts = vec![];
        while let Some(first) = left.pop_first() {
            let (mut part, mut next) = (vec![first], 0);
            while let Some(a) = part.get(next).copied() {
                next += 1;
                let hears = |b: &usize| !separated(&self.cuts, self.parted, a, *b);
                let heard: Vec<usize> = left.iter().copied().filter(hears).collect();
                left.retain(|b| !heard.contains(b));
                part.extend(heard);
            }
            part.sort_unstable();
            parts.push(part);
        }
        parts
    }

    /// Mends network and machines, and waits until nothing has changed for a while.
    pub fn settle(&mut self) {
        let slow: Vec<usize> = self.net.slow.keys().copied().collect();
        self.apply(&Event::Heal);
        self.apply(&Event::Network(0, 1));
        slow.into_iter().for_each(|n| self.apply(&Event::Slow(n, 0)));
        self.run(ms(1500));
        for _ in 0..20 {
            let last = self.owners.log.last().map_or(Duration::ZERO, |entry| entry.0);
            if self.net.now >= last + ms(1500) {
                self.check_settled();
                return;
            }
            self.run(last + ms(1500) - self.net.now);
        }
        self.fail("does not settle");
    }

    /// Candidates for an address.
    pub fn able(&self, address: IpAddr) -> Vec<usize> {
        (0..self.speakers.len())
            .filter(|n| self.speakers[*n].able(address))
            .collect()
    }

    /// Is there a candidate that takes over from this owner, now or in its time?
    pub fn outranked(&self, address: IpAddr, owner: usize) -> bool {
        let own = &self.speakers[owner];
        self.able(address).into_iter().filter(|n| *n != owner).any(|n| {
            let other = &self.speakers[n];
            let cordoned = |speaker: &Speaker| speaker.cordoned || speaker.departing();
            let (mine, its) = (cordoned(own), cordoned(other));
            let heavier = other.weight > own.weight && other.preempt_after.is_some() && other.weight > 0;
            !other.departing() && (own.departing() || mine && !its || mine == its && heavier)
        })
    }

    fn check_settled(&self) {
        for address in self.addresses.iter().copied() {
            let (able, owners) = (self.able(address), self.owners.of(address));
            let most = usize::from(!able.is_empty());
            if owners.len() != most || owners.iter().any(|n| self.outranked(address, *n)) {
                self.fail(&format!(
                    "{address} is with {owners:?}, the candidates are {able:?}"
                ));
            }
        }
    }

    /// Somebody, or somebody who runs or does not.
    pub fn any(&mut self) -> usize {
        self.net.rng.random_range(0..self.speakers.len())
    }

    pub fn fail(&self, what: &str) -> ! {
        let mut history = String::new();
        for (at, event) in self.history.iter().rev().take(60).rev() {
            let _ = writeln!(history, "  {at:?} {event:?}");
        }
        let mut nodes = String::new();
        for (n, speaker) in self.speakers.iter().enumerate().take(12) {
            let view = self.net.nodes[n].as_ref().map(|node| node.view());
            let live = view.as_ref().map(|view| view.live.len());
            let own = view.and_then(|view| view.records.get(&name(n)).map(|own| own.candidacies.clone()));
            let _ = writeln!(nodes, "  node{n}: {live:?} alive, says {own:?}\n    {speaker:?}");
        }
        let (size, seed, now) = (self.speakers.len(), self.seed, self.net.now);
        panic!(
            "{what}\nat {now:?}, {size} nodes, seed {seed}\nhistory:\n{history}owners:\n{}nodes:\n{nodes}",
            self.owners.story()
        );
    }
}

fn separated(cuts: &BTreeSet<(usize, usize)>, parted: Option<usize>, a: usize, b: usize) -> bool {
    cuts.contains(&(a.min(b), a.max(b))) || parted.is_some_and(|at| (a < at) != (b < at))
}
