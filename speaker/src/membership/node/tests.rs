//! Whole clusters in virtual time, on a network that loses and delays.

use std::collections::BinaryHeap;
use std::net::IpAddr;

use fairlead_core::announce::Candidacy;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::wire::encode_candidacy;
use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn name(n: usize) -> NodeName {
    NodeName(format!("node{n}"))
}

/// Latest first is what a heap gives; we want the earliest.
type Flight = (std::cmp::Reverse<(Duration, u64)>, usize, usize, Vec<u8>);

struct Net {
    nodes: Vec<Option<Node>>,
    now: Duration,
    flights: BinaryHeap<Flight>,
    numbered: u64,
    rng: SmallRng,
    /// Of a thousand datagrams so many are lost.
    loss: u32,
    /// Which pairs do not hear each other.
    cut: Box<dyn Fn(usize, usize) -> bool>,
    /// How long a node takes to notice anything at all.
    slow: BTreeMap<usize, Duration>,
    datagrams: u64,
    bytes: u64,
    sent_by: BTreeMap<usize, u64>,
}

impl Net {
    fn new(size: usize, seed: u64) -> Self {
        let mut net = Self {
            nodes: (0..size).map(|_| None).collect(),
            now: ms(1000),
            flights: BinaryHeap::new(),
            numbered: 0,
            rng: SmallRng::seed_from_u64(seed),
            loss: 0,
            cut: Box::new(|_, _| false),
            slow: BTreeMap::new(),
            datagrams: 0,
            bytes: 0,
            sent_by: BTreeMap::new(),
        };
        for n in 0..size {
            net.start(n, 1);
        }
        net
    }

    fn start(&mut self, n: usize, incarnation: i64) {
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

    fn flush(&mut self, n: usize) {
        let Some(node) = &mut self.nodes[n] else { return };
        for (to, bytes) in node.take_output() {
            let to: usize = to.as_str().trim_start_matches("node").parse().unwrap();
            self.datagrams += 1;
            self.bytes += bytes.len() as u64;
            *self.sent_by.entry(n).or_default() += 1;
            let lost = self.rng.random_range(0..1000) < self.loss || (self.cut)(n, to);
            if !lost {
                self.numbered += 1;
                let late = self.slow.get(&to).copied().unwrap_or_default();
                let at = self.now + Duration::from_micros(self.rng.random_range(50..1500)) + late;
                self.flights
                    .push((std::cmp::Reverse((at, self.numbered)), n, to, bytes));
            }
        }
    }

    /// Lets this much time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.until(end, |_| false);
    }

    /// Lets time pass until something holds; answers how long it took, or `None` at the end.
    fn until(&mut self, end: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
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
            let flight = self.flights.peek().map(|flight| flight.0.0.0);
            let slow = &self.slow;
            let timer = self.nodes.iter().enumerate().filter_map(|(n, node)| {
                let late = slow.get(&n).copied().unwrap_or_default();
                Some((node.as_ref()?.next() + late, n))
            });
            let timer = timer.min();
            let next = [flight, timer.map(|(at, _)| at)]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(end);
            if next > end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            if flight.is_some_and(|at| at <= self.now) {
                let Some((_, from, to, bytes)) = self.flights.pop() else {
                    continue;
                };
                if let Some(node) = &mut self.nodes[to] {
                    node.receive(&name(from), &bytes, self.now);
                }
                self.flush(to);
            } else if let Some((_, n)) = timer {
                let now = self.now;
                if let Some(node) = &mut self.nodes[n] {
                    node.tick(now);
                }
                self.flush(n);
            }
        }
    }

    fn views(&self) -> Vec<(usize, View)> {
        let view = |(n, node): (usize, &Option<Node>)| Some((n, node.as_ref()?.view()));
        self.nodes.iter().enumerate().filter_map(view).collect()
    }

    fn up(&self) -> BTreeSet<NodeName> {
        (0..self.nodes.len())
            .filter(|n| self.nodes[*n].is_some())
            .map(name)
            .collect()
    }

    /// Do all that run take all that run, and nobody else, for alive?
    fn agreed(&self) -> bool {
        let up = self.up();
        self.views().into_iter().all(|(_, view)| view.live == up)
    }

    fn joined(size: usize, seed: u64) -> Self {
        let mut net = Self::new(size, seed);
        let end = net.now + ms(10_000);
        let time = net.until(end, Self::agreed);
        assert!(time.is_some(), "{size} nodes do not find each other");
        net.run(ms(2000));
        net
    }

    fn publish(&mut self, n: usize, addresses: u32, claim: i64) {
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

    fn all_know(&self, of: usize, addresses: usize, claim: i64) -> bool {
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

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort();
    (
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
    )
}

#[test]
fn nodes_find_each_other() {
    for size in [2, 3, 8, 50] {
        let mut net = Net::new(size, 7);
        let end = net.now + ms(5000);
        let time = net.until(end, Net::agreed);
        println!("{size} nodes joined after {time:?}");
        assert!(time.is_some_and(|time| time <= ms(1500)), "{size}: {time:?}");
        let end = net.now + ms(1000);
        let informed = net.until(end, |net| net.views().iter().all(|(_, view)| view.informed));
        let count = net.views().iter().filter(|(_, view)| view.informed).count();
        let known: Vec<usize> = net.views().iter().map(|(_, view)| view.records.len()).collect();
        println!("{size} nodes: {count} informed after {informed:?}, records known {known:?}");
        assert_eq!(count, size);
    }
}

#[test]
fn the_dead_are_found_in_time() {
    for (size, trials) in [(3, 100), (8, 50), (50, 4)] {
        let mut times = vec![];
        for seed in 0..trials {
            let mut net = Net::joined(size, seed);
            let wait = ms(net.rng.random_range(0..500));
            net.run(wait);
            net.nodes[0] = None;
            let end = net.now + ms(5000);
            times.push(net.until(end, Net::agreed).unwrap());
        }
        let (median, p99, most) = quantiles(times);
        println!("{size} nodes: dead known to all after {median:?} (median), {p99:?} (p99), {most:?} (max)");
        assert!(p99 <= ms(800), "{size}: {p99:?}");
    }
}

#[test]
fn nobody_is_taken_for_dead_on_a_bad_network_or_a_slow_machine() {
    for seed in 0..4 {
        let mut net = Net::joined(8, seed);
        net.loss = 50;
        // Two nodes do not hear each other at all, one is slow in everything.
        net.cut = Box::new(|a, b| a.min(b) == 1 && a.max(b) == 2);
        net.slow.insert(3, ms(100));
        let end = net.now + ms(60_000);
        let broken = net.until(end, |net| !net.agreed());
        assert_eq!(
            broken, None,
            "somebody was taken for dead after {broken:?} (seed {seed})"
        );
    }
}

#[test]
fn a_restart_is_found_at_once() {
    for seed in 0..20 {
        let mut net = Net::joined(5, seed);
        net.publish(0, 10, 1);
        net.run(ms(100));
        net.start(0, 2);
        net.publish(0, 20, 2);
        let end = net.now + ms(2000);
        let time = net.until(end, |net| net.agreed() && net.all_know(0, 20, 2));
        assert!(time.is_some_and(|time| time <= ms(1500)), "seed {seed}: {time:?}");
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_silence_a_speaker() {
    let mut net = Net::joined(3, 1);
    net.start(0, 1_000_000);
    net.publish(0, 10, 1);
    let end = net.now + ms(2000);
    assert!(
        net.until(end, |net| net.agreed() && net.all_know(0, 10, 1))
            .is_some()
    );
    net.start(0, 5);
    net.publish(0, 10, 2);
    let end = net.now + ms(3000);
    let time = net.until(end, |net| net.agreed() && net.all_know(0, 10, 2));
    assert!(time.is_some(), "{:?}", net.views());
}

#[test]
fn a_partition_heals() {
    for (size, seed) in (0..10)
        .map(|seed| (3, seed))
        .chain((0..5).map(|seed| (8, seed)))
        .chain([(50, 1)])
    {
        let mut net = Net::joined(size, seed);
        let half = size / 2;
        net.cut = Box::new(move |a, b| (a < half) != (b < half));
        let end = net.now + ms(5000);
        let parted = net.until(end, |net| {
            net.views().iter().all(|(n, view)| {
                view.live
                    == (0..size)
                        .filter(|other| (*other < half) == (*n < half))
                        .map(name)
                        .collect()
            })
        });
        assert!(parted.is_some(), "{size} nodes do not part");
        net.run(ms(20_000));
        net.cut = Box::new(|_, _| false);
        let end = net.now + ms(5000);
        let time = net.until(end, Net::agreed);
        println!("{size} nodes, seed {seed}: parted after {parted:?}, whole after {time:?}");
        assert!(
            time.is_some_and(|time| time <= ms(1000)),
            "{size} nodes: {time:?}"
        );
    }
}

#[test]
fn a_farewell_is_heard_at_once() {
    let mut net = Net::joined(8, 3);
    if let Some(node) = &mut net.nodes[0] {
        node.leave();
    }
    net.flush(0);
    net.nodes[0] = None;
    let end = net.now + ms(1000);
    let time = net.until(end, Net::agreed);
    assert!(time.is_some_and(|time| time <= ms(10)), "{time:?}");
}

#[test]
fn what_was_missed_is_repaired() {
    let mut times = vec![];
    for seed in 0..40 {
        let mut net = Net::joined(5, seed);
        net.publish(0, 10, 1);
        net.run(ms(1000));
        // The change itself reaches nobody or some.
        net.loss = 700;
        net.publish(0, 12, 2);
        net.flush(0);
        net.loss = 100;
        let end = net.now + ms(3000);
        times.push(net.until(end, |net| net.all_know(0, 12, 2)).unwrap());
    }
    let (median, p99, most) = quantiles(times);
    println!("a missed change is repaired after {median:?} (median), {p99:?} (p99), {most:?} (max)");
    assert!(most <= ms(1000), "{most:?}");
}

#[test]
fn the_traffic_of_one_node_does_not_grow_with_the_cluster() {
    let mut figures = vec![];
    for size in [10, 100] {
        let mut net = Net::joined(size, 1);
        net.run(ms(10_000));
        (net.datagrams, net.bytes) = (0, 0);
        net.run(ms(10_000));
        let per = |total: u64| total as f64 / size as f64 / 10.0;
        println!(
            "{size} nodes, nothing happens: {:.0} messages/s and {:.0} bytes/s sent by each",
            per(net.datagrams),
            per(net.bytes)
        );
        figures.push((per(net.datagrams), per(net.bytes)));
    }
    assert!(figures[1].0 < figures[0].0 * 1.3, "{figures:?}");
    assert!(figures[1].1 < figures[0].1 * 1.5, "{figures:?}");
}

#[test]
fn a_newcomer_learns_everything() {
    let (size, addresses) = (10, 2_000);
    let mut net = Net::joined(size, 1);
    for n in 1..size {
        net.publish(n, addresses, 1);
    }
    net.run(ms(3000));
    assert!((1..size).all(|n| net.all_know(n, addresses as usize, 1)));
    (net.datagrams, net.bytes) = (0, 0);
    net.start(0, 2);
    let end = net.now + ms(20_000);
    let time = net.until(end, |net| {
        let Some(node) = &net.nodes[0] else { return false };
        node.view().informed && (1..size).all(|n| net.all_know(n, addresses as usize, 1))
    });
    println!(
        "{size} nodes with {addresses} addresses each: a newcomer knows all after {time:?}, {} kB in {} messages",
        net.bytes / 1000,
        net.datagrams
    );
    assert!(time.is_some());
}
