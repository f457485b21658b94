//! One event on a settled cluster: what moves, and whether anybody announces meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rand::RngExt;

use super::cluster::Cluster;
use super::event::Event;
use super::setting;
use crate::membership::node::net::ms;

/// What an event may do to one address.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    /// How often somebody begins to announce it.
    most: usize,
    /// May there be a moment without an announcer?
    gap: bool,
}

/// Nothing changes hands.
const STAYS: Allowed = Allowed { most: 0, gap: false };
/// Who is better begins before the one that was ends.
const HANDED_OVER: Allowed = Allowed { most: 1, gap: false };
/// Somebody else takes what has lost its owner, or nobody can.
const FAILS_OVER: Allowed = Allowed { most: 1, gap: true };
/// A speaker that comes back at once: it goes on itself, or somebody else has begun, or both in turn, but never more.
const RESTARTS: Allowed = Allowed { most: 2, gap: true };

fn event(cluster: &mut Cluster) -> Event {
    let (n, other) = (cluster.any(), cluster.any());
    let address = cluster.addresses[cluster.net.rng.random_range(0..cluster.addresses.len())];
    // Half of all events hit an owner.
    let owner = cluster.owners.of(address).first().copied();
    let n = owner.filter(|_| cluster.net.rng.random_bool(0.5)).unwrap_or(n);
    match cluster.net.rng.random_range(0..16) {
        0..3 => Event::Eligible(n, address, !cluster.speakers[n].eligible.contains(&address)),
        3..6 => Event::Cordon(n, !cluster.speakers[n].cordoned),
        6..8 => {
            let after = cluster.net.rng.random_range(0..800);
            let yes = cluster.net.rng.random_bool(0.7);
            Event::Prefer(n, cluster.net.rng.random_range(0..4), yes.then_some(after))
        }
        8..10 => Event::Depart(n),
        10 => Event::Kill(n),
        11 => Event::PowerOff(n),
        _ => {
            let down: Vec<usize> = (0..cluster.speakers.len())
                .filter(|n| !cluster.runs(*n))
                .collect();
            match down.get(other % down.len().max(1)) {
                Some(n) => Event::Start(*n),
                None => Event::Depart(n),
            }
        }
    }
}

/// What an event that has just been applied may do, by address, if `before` owned it.
fn allowed(cluster: &Cluster, event: &Event, address: IpAddr, before: Option<usize>) -> Allowed {
    let Some(owner) = before else { return FAILS_OVER };
    let fails = match event {
        Event::Kill(n) | Event::PowerOff(n) => *n == owner,
        Event::Eligible(n, of, false) => *n == owner && *of == address,
        // With nobody to hand it over to, it ends.
        Event::Depart(n) => *n == owner && cluster.able(address).len() == 1,
        _ => false,
    };
    if fails {
        FAILS_OVER
    } else if cluster.outranked(address, owner) || matches!(event, Event::Start(_)) {
        HANDED_OVER
    } else {
        STAYS
    }
}

/// Does a node that starts go on with a claim that is not below that of the present owner? The owner took the address
/// without having heard of it, since it was started itself when nobody who knew was alive.
fn claims_more(cluster: &Cluster, n: usize, address: IpAddr) -> bool {
    let claim = |n: usize| cluster.speakers[n].snapshot.get(&address)?.claim;
    let owner = cluster.owners.of(address).first().copied();
    claim(n).is_some() && claim(n) >= owner.and_then(claim)
}

fn owners(cluster: &Cluster) -> BTreeMap<IpAddr, Option<usize>> {
    let one = |address: &IpAddr| (*address, cluster.owners.of(*address).first().copied());
    cluster.addresses.iter().map(one).collect()
}

/// Compares with what is allowed, from an entry of the log on.
fn check(
    cluster: &Cluster,
    since: usize,
    before: &BTreeMap<IpAddr, Option<usize>>,
    allowed: &BTreeMap<IpAddr, Allowed>,
) {
    for (address, allowed) in allowed {
        let moves = cluster.owners.moves(*address, since);
        let announcers = usize::from(before[address].is_some());
        if moves > allowed.most {
            cluster.fail(&format!(
                "{address} moves {moves} times, {allowed:?} from {:?}",
                before[address]
            ));
        }
        if !allowed.gap && cluster.owners.gap(*address, announcers, since) {
            cluster.fail(&format!(
                "{address} is without an announcer in between, from {:?}",
                before[address]
            ));
        }
    }
}

fn one_by_one(size: usize, runs: u64, events: u64) {
    let (first, steps) = (
        setting("FAIRLEAD_SIM_SEED", 1),
        setting("FAIRLEAD_SIM_STEPS", runs * events),
    );
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for seed in first..first + steps.div_ceil(events) {
        let mut cluster = Cluster::new(size, 1 + (seed % 3) as u8, seed);
        cluster.run(ms(1500));
        cluster.settle();
        for _ in 0..events {
            let event = event(&mut cluster);
            let (before, since) = (owners(&cluster), cluster.owners.log.len());
            cluster.apply(&event);
            let addresses = cluster.addresses.clone();
            let returns: Vec<IpAddr> = match event {
                Event::Start(n) => addresses
                    .iter()
                    .copied()
                    .filter(|address| claims_more(&cluster, n, *address))
                    .collect(),
                _ => vec![],
            };
            let mut may: BTreeMap<IpAddr, Allowed> = addresses
                .iter()
                .map(|address| (*address, allowed(&cluster, &event, *address, before[address])))
                .collect();
            if let Event::Start(n) = event {
                // What it is preferred for shows when it runs. Till then, and otherwise, nothing moves.
                cluster.run(ms(1200));
                for address in &addresses {
                    let rises = before[address].is_some_and(|owner| {
                        let own = &cluster.speakers[n];
                        let than = &cluster.speakers[owner];
                        own.weight > than.weight && own.preempt_after.is_some()
                            || than.cordoned && !own.cordoned
                    });
                    if returns.contains(address) {
                        may.insert(*address, RESTARTS);
                    } else if before[address].is_some() && !rises {
                        may.insert(*address, STAYS);
                    }
                }
            }
            cluster.settle();
            check(&cluster, since, &before, &may);
            for allowed in may.values() {
                *kinds.entry(format!("{allowed:?}")).or_default() += 1;
            }
        }
    }
    println!("{size} nodes, {steps} events: {kinds:?}");
}

#[test]
fn one_event_moves_an_address_at_most_once_and_never_needlessly() {
    one_by_one(3, 10, 20);
    one_by_one(8, 3, 20);
}

#[test]
fn one_event_among_fifty() {
    one_by_one(50, 1, 5);
}

/// SIGKILL and a new process after up to 300 ms, for an owner and for others.
#[test]
fn a_restart_is_over_in_a_second() {
    for seed in 0..30 {
        let mut cluster = Cluster::new(if seed % 3 == 0 { 8 } else { 3 }, 3, seed);
        cluster.run(ms(1500));
        cluster.settle();
        let (before, since) = (owners(&cluster), cluster.owners.log.len());
        let n = cluster.any();
        cluster.apply(&Event::Kill(n));
        let down = ms(cluster.net.rng.random_range(0..300));
        cluster.run(down);
        cluster.apply(&Event::Start(n));
        cluster.settle();
        let may = before
            .iter()
            .map(|(address, owner)| (*address, if *owner == Some(n) { RESTARTS } else { STAYS }));
        check(&cluster, since, &before, &may.collect());
    }
}

/// Each part has its own owner; when they meet again one of them stays, and nobody begins anew.
#[test]
fn a_partition_ends_with_one_of_the_owners() {
    for seed in 0..12 {
        let size = [3, 3, 8][seed as usize % 3];
        let mut cluster = Cluster::new(size, 3, seed);
        cluster.run(ms(1500));
        cluster.settle();
        let at = cluster.net.rng.random_range(1..size);
        let time = ms(cluster.net.rng.random_range(100..5000));
        cluster.apply(&Event::Part(at));
        cluster.run(time);
        let since = cluster.owners.log.len();
        let announcers: Vec<usize> = cluster
            .addresses
            .iter()
            .map(|address| cluster.owners.of(*address).len())
            .collect();
        cluster.apply(&Event::Heal);
        cluster.run(ms(2000));
        for (address, announcers) in cluster.addresses.iter().zip(announcers) {
            let (moves, gap) = (
                cluster.owners.moves(*address, since),
                cluster.owners.gap(*address, announcers, since),
            );
            // Healed before both had found out, the other part may still take it over once.
            let most = usize::from(time < ms(1000));
            if moves > most || gap || cluster.owners.of(*address).len() != 1 {
                cluster.fail(&format!(
                    "{address}: {moves} moves after a partition of {time:?}, gap {gap}"
                ));
            }
        }
        cluster.settle();
    }
}

/// The last one goes on although cordoned; without the others even if they come and go.
#[test]
fn a_sole_cordoned_candidate_stays() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(3, 2, seed);
        cluster.run(ms(1500));
        cluster.settle();
        let addresses = cluster.addresses.clone();
        let last = cluster.any();
        for n in (0..3).filter(|n| *n != last) {
            for address in &addresses {
                cluster.apply(&Event::Eligible(n, *address, false));
            }
        }
        cluster.settle();
        let since = cluster.owners.log.len();
        cluster.apply(&Event::Cordon(last, true));
        cluster.settle();
        let other = (last + 1) % 3;
        for event in [
            Event::Depart(other),
            Event::Start(other),
            Event::Kill(other),
            Event::Start(other),
        ] {
            cluster.apply(&event);
            cluster.settle();
        }
        if cluster.owners.log.len() != since {
            cluster.fail("the only candidate does not go on");
        }
    }
}

/// A rolling upgrade: every speaker in turn ends and is started again after a while. Nobody is without an announcer.
#[test]
fn an_upgrade_has_no_gap() {
    for (size, seed) in [(3, 1), (3, 2), (8, 3)] {
        let mut cluster = Cluster::new(size, 3, seed);
        cluster.run(ms(1500));
        cluster.settle();
        let since = cluster.owners.log.len();
        for n in 0..size {
            cluster.apply(&Event::Depart(n));
            let wait = ms(cluster.net.rng.random_range(300..3000));
            cluster.run(wait);
            cluster.apply(&Event::Start(n));
            let wait = ms(cluster.net.rng.random_range(600..3000));
            cluster.run(wait);
        }
        for address in cluster.addresses.clone() {
            let moves = cluster.owners.moves(address, since);
            if cluster.owners.gap(address, 1, since) || moves > size {
                cluster.fail(&format!("{address}: a gap, or {moves} moves"));
            }
        }
    }
}
