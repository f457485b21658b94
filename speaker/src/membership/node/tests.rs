//! Whole clusters in virtual time, on a network that loses and delays.

use rand::RngExt;

use super::net::{Net, ms, name};
use super::*;

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

/// Two processes of one node, both started with a clock set back, find the same number taken, each by another node.
#[test]
fn two_processes_that_find_one_number_taken() {
    let mut net = Net::joined(3, 1);
    for (life, addresses) in [(1, 10), (2, 5)] {
        net.stop(0);
        net.cut = Box::new(move |a, b| (a == life) != (b == life));
        net.run(ms(2000));
        net.start(0, life as i64 - 100);
        net.publish(0, addresses, life as i64);
        net.run(ms(2000));
    }
    net.cut = Box::new(|_, _| false);
    let end = net.now + ms(2000);
    let time = net.until(end, |net| net.agreed() && net.all_know(0, 5, 2));
    assert!(time.is_some(), "{:?}", net.views());
}

/// That a later process has been there is heard before anything of its record.
#[test]
fn a_clock_that_was_set_back_after_a_life_that_left_no_record() {
    let mut net = Net::joined(3, 1);
    net.stop(0);
    net.run(ms(2000));
    net.start(0, 1_000_000);
    let end = net.now + ms(2000);
    let heard = |net: &Net| {
        net.views()
            .iter()
            .any(|(n, view)| *n != 0 && view.live.contains(&name(0)))
    };
    assert!(net.until(end, heard).is_some());
    net.stop(0);
    net.lose(0);
    net.run(ms(2000));
    let left = |(_, view): (usize, View)| view.records[&name(0)].incarnation;
    assert!(
        net.views()
            .into_iter()
            .map(left)
            .all(|incarnation| incarnation == 1)
    );
    net.start(0, 5);
    net.publish(0, 10, 1);
    let end = net.now + ms(2000);
    let time = net.until(end, |net| net.agreed() && net.all_know(0, 10, 1));
    assert!(time.is_some(), "{:?}", net.views());
}

/// A node that is dead stays so when it is heard that it has died once more, under a number that nobody here knew.
#[test]
fn the_dead_do_not_come_back_by_dying_again() {
    let mut net = Net::joined(3, 1);
    net.stop(0);
    net.run(ms(2000));
    let later = Identity {
        node: name(0),
        start: 1,
        bump: 7,
    };
    let now = net.now;
    for node in net.nodes.iter_mut().flatten() {
        node.detector.obituary(later.clone(), 0, now);
    }
    assert!(net.agreed(), "{:?}", net.views());
}

/// A node that goes on under a new number finds out that the last other one is dead, though it never hears of it again.
#[test]
fn a_new_number_and_then_silence() {
    let mut net = Net::joined(2, 1);
    let now = net.now;
    net.stop(1);
    if let Some(node) = &mut net.nodes[0] {
        node.detector.restart(7, now);
    }
    let end = net.now + ms(1000);
    assert!(net.until(end, Net::agreed).is_some(), "{:?}", net.views());
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

/// Two nodes that have found each other dead do not hear each other when they hear a third again. By then nobody speaks of
/// the death of the one that the third never missed.
#[test]
fn a_partition_heals_by_a_detour() {
    for seed in 0..10 {
        let mut net = Net::joined(4, seed);
        net.cut = Box::new(|a, b| (a == 0 || a == 3) != (b == 0 || b == 3));
        net.run(ms(5000));
        net.stop(3);
        net.run(ms(1000));
        net.cut = Box::new(|a, b| a.min(b) == 0 && a.max(b) == 1);
        let end = net.now + ms(1500);
        let time = net.until(end, Net::agreed);
        assert!(time.is_some(), "seed {seed}: {:?}", net.views());
        let end = net.now + ms(5000);
        let broken = net.until(end, |net| !net.agreed());
        assert_eq!(broken, None, "seed {seed}: taken for dead again after {broken:?}");
    }
}

#[test]
fn a_farewell_is_heard_at_once() {
    let mut net = Net::joined(8, 3);
    if let Some(node) = &mut net.nodes[0] {
        node.leave();
    }
    net.flush(0);
    net.stop(0);
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
