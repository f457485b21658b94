//! A cluster of gossiping nodes in virtual time, on a network that loses, delays and reorders.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::ops::Range;

use fairlead_core::announce::Candidacy;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::wire::encode_candidacy;
use super::*;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn name(n: usize) -> NodeName {
    NodeName(format!("node{n}"))
}

/// When it arrives and which it is, from whom, to whom, what. Latest first is what a heap gives; we want the earliest.
type Flight = (Reverse<(Duration, u64)>, usize, usize, Vec<u8>);

pub(crate) struct Net {
    pub nodes: Vec<Option<Node>>,
    pub now: Duration,
    flights: BinaryHeap<Flight>,
    numbered: u64,
    pub rng: SmallRng,
    /// Of a thousand datagrams so many are lost.
    pub loss: u32,
    /// How long a datagram takes, in microseconds.
    pub delay: Range<u64>,
    /// Which pairs do not hear each other.
    pub cut: Box<dyn Fn(usize, usize) -> bool>,
    /// How long a node takes to notice anything at all.
    pub slow: BTreeMap<usize, Duration>,
    pub datagrams: u64,
    pub bytes: u64,
}

impl Net {
    /// Nodes that all start at the same moment.
    pub fn new(size: usize, seed: u64) -> Self {
        let mut net = Self::empty(size, seed);
        for n in 0..size {
            net.start(n, 1);
        }
        net
    }

    /// Nodes none of which runs.
    pub fn empty(size: usize, seed: u64) -> Self {
        Self {
            nodes: (0..size).map(|_| None).collect(),
            now: ms(1000),
            flights: BinaryHeap::new(),
            numbered: 0,
            rng: SmallRng::seed_from_u64(seed),
            loss: 0,
            delay: 50..1500,
            cut: Box::new(|_, _| false),
            slow: BTreeMap::new(),
            datagrams: 0,
            bytes: 0,
        }
    }

    pub fn start(&mut self, n: usize, incarnation: i64) {
        let mut node = Node::new(
            name(n),
            incarnation,
            Settings::default(),
            self.rng.random(),
            self.now,
        );
        node.set_peers((0..self.nodes.len()).map(name).collect());
        self.nodes[n] = Some(node);
    }

    /// Ends a node without a word. What is on its way to it nobody will read.
    pub fn stop(&mut self, n: usize) {
        self.nodes[n] = None;
        self.flights.retain(|(_, _, to, _)| *to != n);
    }

    /// Loses what is on its way from a node.
    pub fn lose(&mut self, n: usize) {
        self.flights.retain(|(_, from, _, _)| *from != n);
    }

    /// Sends what a node wants sent.
    pub fn flush(&mut self, n: usize) {
        let Some(node) = &mut self.nodes[n] else { return };
        for (to, bytes) in node.take_output() {
            let to: usize = to.as_str().trim_start_matches("node").parse().unwrap();
            self.datagrams += 1;
            self.bytes += bytes.len() as u64;
            let lost = self.rng.random_range(0..1000) < self.loss || (self.cut)(n, to);
            if !lost {
                self.numbered += 1;
                let late = self.slow.get(&to).copied().unwrap_or_default();
                let takes = self.rng.random_range(self.delay.clone());
                let at = self.now + Duration::from_micros(takes) + late;
                self.flights.push((Reverse((at, self.numbered)), n, to, bytes));
            }
        }
    }

    /// Lets time pass until something happens to a node, and answers to which; `None` if that is not before `end`.
    pub fn step(&mut self, end: Duration) -> Option<usize> {
        let flight = self.flights.peek().map(|(Reverse((at, _)), ..)| *at);
        let timer = self.nodes.iter().enumerate().filter_map(|(n, node)| {
            let late = self.slow.get(&n).copied().unwrap_or_default();
            Some((node.as_ref()?.next() + late, n))
        });
        let timer = timer.min();
        let next = [flight, timer.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = self.now.max(end);
            return None;
        };
        self.now = self.now.max(next);
        let n = if flight.is_some_and(|at| at <= self.now) {
            let (_, from, to, bytes) = self.flights.pop()?;
            if let Some(node) = &mut self.nodes[to] {
                node.receive(&name(from), &bytes, self.now);
            }
            to
        } else {
            let (_, n) = timer?;
            if let Some(node) = &mut self.nodes[n] {
                node.tick(self.now);
            }
            n
        };
        self.flush(n);
        Some(n)
    }

    /// Lets this much time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.until(end, |_| false);
    }

    /// Lets time pass until something holds; answers how long it took, or `None` at the end.
    pub fn until(&mut self, end: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        let mut seen = None;
        for n in 0..self.nodes.len() {
            self.flush(n);
        }
        loop {
            let version: u64 = self.nodes.iter().flatten().map(Node::version).sum();
            if seen != Some(version) {
                seen = Some(version);
                if holds(self) {
                    return Some(self.now - began);
                }
            }
            self.step(end)?;
        }
    }

    pub fn views(&self) -> Vec<(usize, View)> {
        let view = |(n, node): (usize, &Option<Node>)| Some((n, node.as_ref()?.view()));
        self.nodes.iter().enumerate().filter_map(view).collect()
    }

    pub fn up(&self) -> BTreeSet<NodeName> {
        (0..self.nodes.len())
            .filter(|n| self.nodes[*n].is_some())
            .map(name)
            .collect()
    }

    /// Do all that run take all that run, and nobody else, for alive?
    pub fn agreed(&self) -> bool {
        let up = self.up();
        self.views().into_iter().all(|(_, view)| view.live == up)
    }

    pub fn joined(size: usize, seed: u64) -> Self {
        let mut net = Self::new(size, seed);
        let end = net.now + ms(10_000);
        let time = net.until(end, Self::agreed);
        assert!(time.is_some(), "{size} nodes do not find each other");
        net.run(ms(2000));
        net
    }

    pub fn publish(&mut self, n: usize, addresses: u32, claim: i64) {
        let contents = (0..addresses).map(|address| {
            let candidacy = Candidacy {
                claim: Some(claim),
                ..Candidacy::default()
            };
            (
                Key::address(IpAddr::from(address.to_be_bytes())),
                encode_candidacy(&candidacy),
            )
        });
        let contents = contents.collect();
        if let Some(node) = &mut self.nodes[n] {
            node.publish(contents);
        }
    }

    pub fn all_know(&self, of: usize, addresses: usize, claim: i64) -> bool {
        self.views().into_iter().all(|(_, view)| {
            view.records.get(&name(of)).is_some_and(|record| {
                record.candidacies.len() == addresses
                    && record
                        .candidacies
                        .values()
                        .all(|candidacy| candidacy.claim == Some(claim))
            })
        })
    }
}
