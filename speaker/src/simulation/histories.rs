//! Many events one upon another.

use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;
use super::setting;
use crate::membership::node::net::ms;

fn event(cluster: &mut Cluster) -> Event {
    let (n, other) = (cluster.any(), cluster.any());
    let size = cluster.speakers.len();
    let address = cluster.addresses[cluster.net.rng.random_range(0..cluster.addresses.len())];
    let yes = cluster.net.rng.random_bool(0.6);
    match cluster.net.rng.random_range(0..26) {
        0..4 => Event::Eligible(n, address, yes),
        4..7 => Event::Cordon(n, !yes),
        7..9 => {
            let after = cluster.net.rng.random_range(0..800);
            Event::Prefer(n, cluster.net.rng.random_range(0..4), yes.then_some(after))
        }
        9..11 => Event::Depart(n),
        11..13 => Event::Kill(n),
        13 => Event::PowerOff(n),
        14..19 => {
            let down = (0..size).filter(|n| !cluster.runs(*n)).collect::<Vec<_>>();
            let n = down.get(other % down.len().max(1)).copied().unwrap_or(n);
            if yes {
                Event::Start(n)
            } else {
                Event::StartEarlier(n)
            }
        }
        19 if n != other => Event::Cut(n, other),
        20 => Event::Part(n),
        19 | 21 | 22 => Event::Heal,
        23 => Event::Network(
            cluster.net.rng.random_range(0..=200),
            cluster.net.rng.random_range(1..=20),
        ),
        24 => Event::Network(0, 1),
        _ => Event::Slow(
            n,
            if yes {
                0
            } else {
                cluster.net.rng.random_range(5..=40)
            },
        ),
    }
}

fn histories(size: usize, runs: u64, events: u64) {
    let (first, steps) = (
        setting("FAIRLEAD_SIM_SEED", 1),
        setting("FAIRLEAD_SIM_STEPS", runs * events),
    );
    let (mut longest, mut moves) = ([ms(0); 4], 0);
    for seed in first..first + steps.div_ceil(events) {
        let addresses = 1 + (seed % 3) as u8;
        let mut cluster = Cluster::new(size, addresses, seed);
        cluster.run(ms(2500));
        for _ in 0..events {
            let event = event(&mut cluster);
            cluster.apply(&event);
            let wait = cluster.net.rng.random_range(0..1500);
            cluster.run(ms(if wait > 1200 { 3000 } else { wait }));
        }
        cluster.settle();
        let owners = &cluster.owners;
        for (longest, of) in longest.iter_mut().zip(owners.longest) {
            *longest = (*longest).max(of);
        }
        moves += owners.log.iter().filter(|entry| entry.3).count();
    }
    let [none, many, agreed, starting] = longest;
    println!(
        "{size} nodes, {steps} events, {moves} moves; at most nobody for {none:?}, two for {many:?}, two though all know \
         for {agreed:?}, a start took {starting:?}"
    );
}

#[test]
fn three_nodes() {
    histories(3, 30, 40);
}

#[test]
fn eight_nodes() {
    histories(8, 8, 40);
}

#[test]
fn fifty_nodes() {
    histories(50, 1, 20);
}
