//! What the election promises, in virtual time.

use proptest::prelude::*;

use super::simulation::{Fault, Ms, World};

/// Lease duration, by the slowest clock of the simulation, and one retry with its jitter and the way there.
const DEATH: Ms = 15_000 * 10 / 9 + 2_700;

fn settled(contenders: usize, seed: u64) -> (World, usize) {
    let mut world = World::new(contenders, seed);
    world.run_until(10_000);
    let leaders = world.leaders();
    assert_eq!(leaders.len(), 1, "{:#?}", world.log);
    (world, leaders[0])
}

/// Runs until another than `old` leads; answers with how long it took.
fn successor(world: &mut World, old: usize, limit: Ms) -> (usize, Ms) {
    let began = world.now;
    while world.now < began + limit {
        let next = world.now + 1;
        world.run_until(next);
        if let [one] = world.leaders()[..]
            && one != old
        {
            return (one, world.now - began);
        }
    }
    panic!("nobody after {limit} ms: {:#?}", world.log);
}

#[test]
fn one_of_three_leads_and_goes_on() {
    for seed in 0..50 {
        let (mut world, leader) = settled(3, seed);
        assert!(world.terms[0].0 < 200, "at once: {:?}", world.terms);
        let before = world.requests;
        world.run_until(310_000);
        assert_eq!(
            (world.terms.len(), world.leaders()),
            (1, vec![leader]),
            "{:?}",
            world.terms
        );
        // A leader writes every 2 s, the others read every 2 s at the most.
        let rate = (world.requests - before) as f64 / 300.0;
        assert!(rate < 1.8, "{rate} requests a second");
        let (_, record) = world.lease.clone().unwrap();
        assert_eq!((record.transitions, record.seconds), (0, 15));
        assert!(record.renewed > record.acquired);
    }
}

#[test]
fn a_released_lease_is_taken_at_once() {
    for seed in 0..200 {
        let (mut world, old) = settled(2 + seed as usize % 2, seed);
        world.fault(world.now, Fault::Release(old, 60_000));
        let (_, took) = successor(&mut world, old, 300);
        assert!(took < 300, "{took} ms");
        assert_eq!(world.lease.as_ref().unwrap().1.transitions, 1);
        // Without the watch the next look finds it.
        let (mut world, old) = settled(2, seed);
        world.watch = false;
        world.fault(world.now, Fault::Release(old, 60_000));
        successor(&mut world, old, 2_800);
    }
}

#[test]
fn a_dead_a_cut_off_and_a_frozen_leader_are_replaced_and_lead_no_more() {
    for seed in 0..300 {
        let (mut world, old) = settled(2 + seed as usize % 2, seed);
        let fault = match seed % 3 {
            0 => Fault::Kill(old, 100_000),
            1 => Fault::Cut(old, 40_000),
            _ => Fault::Freeze(old, 40_000),
        };
        world.fault(world.now, fault);
        let (new, took) = successor(&mut world, old, DEATH);
        // Not before the lease duration, by the fastest clock, since the last renewal of 2.3 s ago at the most.
        assert!(took >= 15_000 * 10 / 11 - 2_300, "{took} ms");
        world.run_until(100_000);
        assert_eq!(
            (world.clash.clone(), world.leaders()),
            (None, vec![new]),
            "{fault:?}: {:#?}",
            world.log
        );
    }
}

#[test]
fn a_restarted_leader_waits_for_its_former_self() {
    for seed in 0..50 {
        let (mut world, only) = settled(1, seed);
        world.fault(world.now, Fault::Kill(only, 100));
        world.run_until(world.now + 10_000);
        assert!(world.leaders().is_empty(), "the former self might live");
        world.run_until(world.now + DEATH);
        assert_eq!(world.leaders(), [only]);
    }
}

#[test]
fn a_deleted_lease_stays_with_its_leader() {
    for seed in 0..100 {
        let (mut world, leader) = settled(3, seed);
        world.watch = seed % 2 == 0;
        world.fault(world.now, Fault::Delete);
        world.run_until(60_000);
        assert_eq!(
            (world.terms.len(), world.leaders()),
            (1, vec![leader]),
            "{:#?}",
            world.log
        );
        assert!(world.lease.is_some());
        // The leader is gone too: the others wait for as long as it might have led.
        world.fault(world.now, Fault::Kill(leader, 100_000));
        world.fault(world.now, Fault::Delete);
        successor(&mut world, leader, DEATH + 2_700);
        assert_eq!(world.clash, None);
    }
}

#[test]
fn nonsense_in_the_lease_is_outlived() {
    for (n, seconds) in [i32::MIN, -1, 0, 1, 7, 301, i32::MAX].into_iter().enumerate() {
        let (mut world, _) = settled(3, n as u64);
        world.fault(world.now, Fault::Garbage(seconds));
        world.run_until(world.now + DEATH);
        assert_eq!(world.leaders().len(), 1, "{seconds}: {:#?}", world.log);
        let (_, record) = world.lease.clone().unwrap();
        assert!(
            record.transitions >= 0 && record.holder.starts_with('p'),
            "{record:?}"
        );
    }
}

#[test]
fn a_short_outage_of_the_api_server_deposes_nobody_and_a_long_one_does() {
    for seed in 0..50 {
        let (mut world, leader) = settled(2, seed);
        for who in 0..2 {
            world.fault(world.now, Fault::Cut(who, 3_000));
        }
        world.run_until(world.now + 20_000);
        assert_eq!(
            (world.terms.len(), world.leaders()),
            (1, vec![leader]),
            "{:#?}",
            world.log
        );
        for who in 0..2 {
            world.fault(world.now, Fault::Cut(who, 40_000));
        }
        world.run_until(world.now + 12_000);
        assert!(world.leaders().is_empty());
        world.run_until(world.now + 28_000 + DEATH);
        assert_eq!(
            (world.clash.clone(), world.leaders().len()),
            (None, 1),
            "{:#?}",
            world.log
        );
    }
}

fn harmless() -> impl Strategy<Value = Fault> {
    let (who, span) = (0..3usize, 10..30_000 as Ms);
    prop_oneof![
        (who.clone(), span.clone()).prop_map(|(who, span)| Fault::Freeze(who, span)),
        (who.clone(), span.clone()).prop_map(|(who, span)| Fault::Cut(who, span)),
        span.clone().prop_map(Fault::Storm),
    ]
}

fn restarts() -> impl Strategy<Value = Fault> {
    let (who, span) = (0..3usize, 10..30_000 as Ms);
    prop_oneof![
        (who.clone(), span.clone()).prop_map(|(who, span)| Fault::Kill(who, span)),
        (who, span).prop_map(|(who, span)| Fault::Release(who, span)),
    ]
}

/// Faults between 10 s and 100 s, then calm; in the end one leads.
fn run(seed: u64, contenders: usize, faults: Vec<(Ms, Fault)>) -> World {
    let mut world = World::new(contenders, seed);
    for (at, fault) in faults {
        let there = match fault {
            Fault::Freeze(who, _) | Fault::Cut(who, _) | Fault::Kill(who, _) | Fault::Release(who, _) => {
                who < contenders
            }
            _ => true,
        };
        if there {
            world.fault(at, fault);
        }
    }
    world.run_until(220_000);
    assert_eq!(world.leaders().len(), 1, "one leads in the end: {:#?}", world.log);
    world
}

fn faults(kind: impl Strategy<Value = Fault>) -> impl Strategy<Value = Vec<(Ms, Fault)>> {
    prop::collection::vec((10_000..100_000 as Ms, kind), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn never_two(
        seed: u64, contenders in 2..=3usize,
        faults in faults(prop_oneof![harmless(), restarts()]),
    ) {
        let world = run(seed, contenders, faults);
        prop_assert!(world.clash.is_none(), "{:?}: {:#?}", world.clash, world.log);
    }

    /// Contenders that have seen the leader once do not take a deleted Lease for a released one. (Who was cut off from
    /// one deletion to the next has no way to know that there was a leader in between.)
    #[test]
    fn never_two_although_the_lease_is_deleted(
        seed: u64, contenders in 2..=3usize, deleted in 10_000..100_000 as Ms, mut faults in faults(harmless()),
    ) {
        faults.push((deleted, Fault::Delete));
        let world = run(seed, contenders, faults);
        prop_assert!(world.clash.is_none(), "{:?}: {:#?}", world.clash, world.log);
    }

    /// Whatever is done to it, the election recovers.
    #[test]
    fn in_the_end_one(
        seed: u64, contenders in 2..=3usize,
        faults in faults(prop_oneof![
            harmless(), restarts(), Just(Fault::Delete), any::<i32>().prop_map(Fault::Garbage),
        ]),
    ) {
        run(seed, contenders, faults);
    }
}
