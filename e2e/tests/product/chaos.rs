//! The controller under faults, while Services come and go: nothing is lost, nothing is given twice.
//!
//! A watch sees every version of every Service, so that not even a moment's double assignment goes unseen. With
//! FAIRLEAD_E2E_LONG set, faults are longer and more; FAIRLEAD_SEED repeats the random numbers of an earlier run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_e2e::bench::timeline::Overlap;
use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::install::{NAMESPACE, leader, leader_pod, run, wait_ready};
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;
use nix::sys::signal::Signal;
use serde_json::json;

use super::churn::{ROLLED_OUT, Random, Values, Witness, address, churn, delete_all, key, long, ms, service};
use super::fixture::{Fixture, SOON};
use super::leader::process_of;

/// Addresses that no lab has on a link: these tests send no traffic.
const ADDRESSES: &str = "198.18.0.0/22";
const API_SERVER: &str = "kube-apiserver";
/// For the API server to start, its clients to come back (they wait up to 30 s between two tries), and a controller to
/// be elected.
const RECOVERY: Duration = Duration::from_secs(90);
/// For what is left when users stop.
const SETTLED: Duration = Duration::from_secs(30);
/// A double assignment is repaired in this time.
const REPAIR: Duration = Duration::from_secs(5);

/// An API server that does not run, until this is dropped.
struct Down<'a>(&'a Fixture);

impl<'a> Down<'a> {
    fn new(f: &'a Fixture) -> Self {
        let guard = Self(f);
        f.lab
            .signal(Place::ControlPlane, API_SERVER, Signal::SIGKILL)
            .unwrap();
        wait_for("the API server to be dead", SOON, || {
            let services = f.lab.services(Place::ControlPlane).map_err(|e| e.to_string())?;
            let running = services.iter().any(|s| s.name == API_SERVER && s.is_running());
            if running { Err("it runs".into()) } else { Ok(()) }
        })
        .unwrap();
        guard
    }
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.lab.restart_service(Place::ControlPlane, API_SERVER) {
            eprintln!("the API server does not start again: {error}");
        }
    }
}

#[test]
fn an_api_server_that_dies_amid_creations_loses_and_doubles_nothing() {
    const SERVICES: usize = 500;
    const BEFORE: usize = 200;
    let outage = Duration::from_secs(if long() { 30 } else { 10 });
    let f = Fixture::new("outage", &[ADDRESSES]);
    let witness = Witness::new(&f);
    let (next, created) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let back = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SERVICES {
                        return;
                    }
                    // A creation without an answer may have happened; to apply it again is right in both cases.
                    let manifest = service(&f, &format!("s{number}"));
                    let apply = || f.cluster.apply(&manifest).map_err(|e| e.to_string());
                    wait_for("a Service to be created", outage + RECOVERY, apply).unwrap();
                    created.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for("the first Services", SOON, || {
            let created = created.load(Ordering::Relaxed);
            if created >= BEFORE {
                Ok(())
            } else {
                Err(format!("{created} created"))
            }
        })
        .unwrap();
        let down = Down::new(&f);
        let assigned = witness.timeline().assigned();
        println!(
            "API server killed for {} s: {} Services created, {assigned} of them assigned as far as is seen",
            outage.as_secs(),
            created.load(Ordering::Relaxed)
        );
        std::thread::sleep(outage);
        drop(down);
        Instant::now()
    });
    println!("started again: all {SERVICES} created after {}", ms(back));
    let names: BTreeSet<String> = (0..SERVICES).map(|n| key(&f, &format!("s{n}"))).collect();
    // The witness's own watch waits up to 30 s before it tries again, so a list is asked first.
    let list = format!("/api/v1/namespaces/{}/services", f.name);
    wait_for("all Services to have addresses", RECOVERY, || {
        let services = f.cluster.list(&list).map_err(|e| e.to_string())?;
        let assigned = services
            .iter()
            .filter(|service| address(service).is_some())
            .count();
        if assigned == SERVICES {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(250));
        Err(format!("{assigned} of {} have one", services.len()))
    })
    .unwrap();
    println!("all have addresses after {}", ms(back));
    witness.wait_all(&f, &names, RECOVERY);
    println!("the watch has seen all of it after {}", ms(back));
    witness.assert_undisturbed(&BTreeSet::new());
    wait_ready(&f.cluster, ROLLED_OUT).unwrap();
    delete_all(&f);
}

/// Kills the controller that leads, and has its pod replaced at once: kubelet would wait longer and longer before it
/// starts it again. Answers with the identity that it led with.
fn kill_leader(f: &Fixture) -> String {
    let limit = Duration::from_secs(30);
    wait_for("a leader to kill", limit, || {
        let identity = leader(&f.cluster).map_err(|e| e.to_string())?;
        let pod = leader_pod(&f.cluster).map_err(|e| e.to_string())?;
        let (place, pid) = process_of(f, &pod);
        if pid.is_empty() || pid.contains(char::is_whitespace) {
            return Err(format!("processes of {identity}: {pid:?}"));
        }
        f.run(place, &["kill", "-9", &pid]);
        let name = pod["metadata"]["name"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0");
        f.cluster.delete(&path).map_err(|e| e.to_string())?;
        Ok(identity)
    })
    .unwrap()
}

#[test]
fn leaders_that_are_killed_at_random_lose_and_double_nothing() {
    let kills = if long() { 20 } else { 8 };
    let f = Fixture::new("kills", &[ADDRESSES]);
    let mut random = Random::new("leaders killed at random");
    // The shortest that the chart allows: most of the test is waiting for a dead leader's time to be over.
    let election = "controller.leaderElection";
    let _values = Values::set(
        &f,
        &[
            &format!("--set={election}.leaseDurationSeconds=3"),
            &format!("--set={election}.renewDeadlineSeconds=2"),
            &format!("--set={election}.retryPeriodSeconds=1"),
        ],
    );
    wait_ready(&f.cluster, ROLLED_OUT).unwrap();
    let witness = Witness::new(&f);
    let (churned, longest) = churn(&f, &mut random, |random| {
        let mut longest = Duration::ZERO;
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
            let before = witness.timeline().assigned();
            let killed = kill_leader(&f);
            let began = Instant::now();
            wait_for("another to lead and to assign", SETTLED, || {
                let now = leader(&f.cluster).map_err(|e| e.to_string())?;
                let more = witness.timeline().assigned() - before;
                if now.is_empty() || now == killed || more == 0 {
                    return Err(format!(
                        "leader {now:?} after {killed}, {more} more Services assigned"
                    ));
                }
                Ok(())
            })
            .unwrap();
            longest = longest.max(began.elapsed());
        }
        longest
    });
    println!(
        "{kills} leaders killed; another worked after {} ms at the most",
        longest.as_millis()
    );
    witness.wait_all(&f, &churned.exist, SETTLED);
    witness.assert_undisturbed(&churned.retyped);
    delete_all(&f);
}

#[test]
fn two_that_lead_at_once_repair_every_double_assignment() {
    let span = Duration::from_secs(if long() { 60 } else { 15 });
    const FORGED: usize = 8;
    let f = Fixture::new("two", &[ADDRESSES]);
    let mut random = Random::new("two leaders");
    let witness = Witness::new(&f);
    // These have records of an age that can be told from later ones.
    let mut names: BTreeSet<String> = BTreeSet::new();
    for number in 0..FORGED {
        let name = format!("old{number}");
        f.cluster.apply(&service(&f, &name)).unwrap();
        names.insert(key(&f, &name));
    }
    witness.wait_all(&f, &names, SOON);
    let _values = Values::set(&f, &["--set=controller.extraArgs={--leader-elect=false}"]);
    // Nobody holds the Lease any more, so that only the roll-out can be waited for.
    let deployment = [
        "rollout",
        "status",
        "-n",
        NAMESPACE,
        "deployment/fairlead-controller",
        "--timeout=120s",
    ];
    run(&mut f.lab.kubectl(deployment).unwrap()).unwrap();
    let began = witness.clock();
    let (churned, ()) = churn(&f, &mut random, |_| {
        let end = Instant::now() + span;
        for number in 0..FORGED {
            forge(&f, &witness, number);
            std::thread::sleep(end.saturating_duration_since(Instant::now()) / (FORGED - number) as u32);
        }
    });
    names.extend(churned.exist);
    names.extend((0..FORGED).map(|number| key(&f, &format!("new{number}"))));
    witness.wait_all(&f, &names, SETTLED);
    let overlaps = witness.overlaps();
    // The pair of each double assignment that was made by hand, by its number.
    let by_hand_number = |overlap: &Overlap| {
        let is = |number: &usize| {
            ["old", "new"]
                .iter()
                .all(|kind| overlap.services.contains(&key(&f, &format!("{kind}{number}"))))
        };
        (0..FORGED).find(is)
    };
    let (by_hand, by_two): (Vec<_>, Vec<_>) = overlaps
        .iter()
        .partition(|overlap| by_hand_number(overlap).is_some());
    let longest = |list: &[&Overlap]| {
        let spans = list
            .iter()
            .map(|overlap| overlap.ended.unwrap_or(witness.clock()) - overlap.began);
        spans.max().unwrap_or_default()
    };
    println!(
        "two leaders for {} s: {} double assignments of their own, repaired after {} ms at the most; {} made by hand, \
         after {} ms at the most",
        (witness.clock() - began).as_secs(),
        by_two.len(),
        longest(&by_two).as_millis(),
        by_hand.len(),
        longest(&by_hand).as_millis(),
    );
    assert_eq!(
        by_hand.len(),
        FORGED,
        "the witness sees what is made by hand: {by_hand:?}"
    );
    for overlap in &overlaps {
        let ended = overlap.ended.unwrap_or(Duration::MAX);
        assert!(ended.saturating_sub(overlap.began) < REPAIR, "{overlap:?}");
    }
    // The older record wins, whoever had the address first.
    let moves = witness.moves();
    for overlap in by_hand {
        let number = by_hand_number(overlap).unwrap();
        let loser = key(
            &f,
            &format!("{}{number}", if forged_is_older(number) { "old" } else { "new" }),
        );
        let gave_way = moves.iter().any(|moved| {
            moved.service == loser && moved.from == overlap.address && Some(moved.at) == overlap.ended
        });
        assert!(gave_way, "{loser} had to give way in {overlap:?}: {moves:?}");
    }
    // Who shared an address had to move, and nobody else.
    let had_to: BTreeSet<String> = overlaps.iter().flat_map(|o| o.services.iter().cloned()).collect();
    let mut moves = moves;
    moves.retain(|moved| !had_to.contains(&moved.service) && !churned.retyped.contains(&moved.service));
    assert!(moves.is_empty(), "{moves:?}");
    delete_all(&f);
}

fn forged_is_older(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// Gives `new<number>` the address of `old<number>`, with a record that is older or younger than that one's.
fn forge(f: &Fixture, witness: &Witness, number: usize) {
    let (old, new) = (format!("old{number}"), format!("new{number}"));
    f.cluster.apply(&service(f, &new)).unwrap();
    let own = wait_for(&format!("{new} to have an address"), SOON, || {
        let timeline = witness.timeline();
        let existing = timeline.existing();
        existing
            .get(key(f, &new).as_str())
            .copied()
            .flatten()
            .ok_or_else(|| "none".to_owned())
    })
    .unwrap();
    let taken = address(&f.service(&old)).unwrap();
    assert_ne!(own, taken);
    let since = if forged_is_older(number) {
        "2020-01-01T00:00:00Z"
    } else {
        "2099-01-01T00:00:00Z"
    };
    let status = json!({"status": {
        "loadBalancer": {"ingress": [{"ip": taken, "ipMode": "VIP"}]},
        "conditions": [{
            "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned", "observedGeneration": 1,
            "message": format!("{taken} from pool {}", f.name), "lastTransitionTime": since,
        }],
    }});
    f.cluster
        .patch(&format!("{}/status", f.service_path(&new)), &status)
        .unwrap();
    // Repaired before the next one, or the overlaps could not be told apart.
    wait_for(
        &format!("{old} and {new} to have addresses of their own"),
        SOON,
        || {
            let (old, new) = (f.service(&old), f.service(&new));
            match (address(&old), address(&new)) {
                (Some(a), Some(b)) if a != b => Ok(()),
                _ => Err(format!(
                    "{:?} and {:?}",
                    condition(&old, "fairlead.dev/Assigned"),
                    condition(&new, "fairlead.dev/Assigned")
                )),
            }
        },
    )
    .unwrap();
}
