//! Nodes that come back with what they knew, or claimed, in a former life.

use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;
use crate::membership::node::net::{Net, ms, name};

fn settled(size: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(size, 1, seed);
    cluster.run(ms(1500));
    cluster.settle();
    cluster
}

fn owner(cluster: &Cluster) -> usize {
    cluster.owners.of(cluster.addresses[0])[0]
}

/// The second process may be killed before it has acted, or has just begun to.
#[test]
fn two_restarts_in_a_row() {
    for seed in 0..20 {
        let mut cluster = settled([3, 8][seed as usize % 2], seed);
        let (n, since) = (owner(&cluster), cluster.owners.log.len());
        for _ in 0..2 {
            cluster.apply(&Event::Kill(n));
            let wait = ms(cluster.net.rng.random_range(0..200));
            cluster.run(wait);
            cluster.apply(&Event::Start(n));
            let wait = ms(cluster.net.rng.random_range(0..600));
            cluster.run(wait);
        }
        cluster.settle();
        let moves = cluster.owners.moves(cluster.addresses[0], since);
        if moves > 3 {
            cluster.fail(&format!("{moves} moves for two restarts"));
        }
    }
}

/// A clock that was set back while the machine was off: the new process has a smaller number than the one before.
#[test]
fn a_clock_set_back() {
    for seed in 0..10 {
        let mut cluster = settled(3, seed);
        let n = owner(&cluster);
        let killed = seed % 2 == 0;
        cluster.apply(&if killed {
            Event::Kill(n)
        } else {
            Event::PowerOff(n)
        });
        let wait = ms(cluster.net.rng.random_range(0..3000));
        cluster.run(wait);
        cluster.apply(&Event::StartEarlier(n));
        cluster.settle();
        // It is heard again: what is asked of it, it does.
        for other in (0..3).filter(|other| *other != n) {
            cluster.apply(&Event::Cordon(other, true));
        }
        cluster.settle();
        if owner(&cluster) != n {
            cluster.fail("what the node says is not heard");
        }
    }
}

/// What a preferred node said before it died gives it no right to come back before its time, whether it has its snapshot
/// still or not.
#[test]
fn an_old_right_to_take_over() {
    for seed in 0..12 {
        let mut cluster = settled(3, seed);
        let preferred = cluster.any();
        cluster.apply(&Event::Prefer(preferred, 5, Some(700)));
        cluster.settle();
        assert_eq!(owner(&cluster), preferred);
        cluster.apply(&if seed % 2 == 0 {
            Event::Kill(preferred)
        } else {
            Event::PowerOff(preferred)
        });
        cluster.run(ms(1500));
        let since = cluster.owners.log.len();
        cluster.apply(&Event::Start(preferred));
        cluster.run(ms(650));
        if cluster.owners.log.len() != since {
            cluster.fail("it takes over before its time");
        }
        cluster.settle();
        let moves = cluster.owners.moves(cluster.addresses[0], since);
        if owner(&cluster) != preferred || moves != 1 || cluster.owners.gap(cluster.addresses[0], 1, since) {
            cluster.fail(&format!("{moves} moves when it returns"));
        }
    }
}

/// Cut off from all for a while, with loss, and back with a claim that is outdated.
#[test]
fn cut_off_and_back() {
    for seed in 0..10 {
        let mut cluster = settled(3, seed);
        let n = owner(&cluster);
        cluster.apply(&Event::Network(100, 5));
        for other in (0..3).filter(|other| *other != n) {
            cluster.apply(&Event::Cut(n, other));
        }
        let wait = ms(cluster.net.rng.random_range(500..4000));
        cluster.run(wait);
        cluster.apply(&Event::Heal);
        cluster.run(ms(3000));
        cluster.settle();
    }
}

/// What a node that joins costs when every other claims as many addresses.
#[test]
fn the_cost_of_a_join() {
    let addresses = super::setting("FAIRLEAD_SIM_ADDRESSES", 200) as u32;
    let size = 50;
    let mut net = Net::joined(size, 1);
    for n in 1..size {
        net.publish(n, addresses, 1);
    }
    net.run(ms(3000));
    assert!((1..size).all(|n| net.all_know(n, addresses as usize, 1)));
    (net.datagrams, net.bytes) = (0, 0);
    net.run(ms(1000));
    let idle = (net.datagrams, net.bytes);
    net.stop(0);
    net.start(0, 2);
    (net.datagrams, net.bytes) = (0, 0);
    let end = net.now + ms(60_000);
    let began = net.now;
    let time = net.until(end, |net| {
        let view = net.nodes[0].as_ref().map(|node| node.view());
        view.is_some_and(|view| {
            let all = |n| {
                view.records
                    .get(&name(n))
                    .is_some_and(|record| record.candidacies.len() == addresses as usize)
            };
            view.informed && (1..size).all(all)
        })
    });
    let seconds = (net.now - began).as_secs_f64();
    println!(
        "{size} nodes with {addresses} addresses each: a newcomer knows all after {time:?}; {} kB in {} messages, of which \
         {:.0} kB in {:.0} messages are what all send anyway",
        net.bytes / 1000,
        net.datagrams,
        idle.1 as f64 * seconds / 1000.0,
        idle.0 as f64 * seconds,
    );
    assert!(time.is_some());
}
