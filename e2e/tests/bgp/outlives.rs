//! What routes outlive, and what they must not.

use std::time::{Duration, Instant};

use fairlead_e2e::Lab;
use fairlead_e2e::bgp::fib::FibWatch;
use fairlead_e2e::bgp::manifests as bgp;
use fairlead_e2e::bgp::{Peering, stage};
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::routers::Router;
use fairlead_e2e::topology::Place;
use ipnet::IpNet;
use serde_json::json;

use super::fixture::{Fixture, HEARTBEAT, NAME, NODES, SESSION, SOON, node, v4};

/// GRACEFUL_SHUTDOWN (RFC 8326).
const SHUTDOWN: &str = "65535:0";
const SPEAKER: &str = "fairlead-speaker";

/// The one pid of a program on a node; `pgrep` knows the first 15 characters of a name.
fn pid(f: &Fixture, place: Place, program: &str) -> String {
    let name: String = program.chars().take(15).collect();
    let pids = f.pids(place, &name);
    assert_eq!(pids.len(), 1, "{program} on {}: {pids:?}", place.name());
    pids[0].clone()
}

/// Waits until another process of a program runs.
fn wait_another(f: &Fixture, place: Place, program: &str, before: &str) {
    let name: String = program.chars().take(15).collect();
    wait_for(&format!("{program} to run again"), SESSION, || {
        let now = f.pids(place, &name);
        match now.as_slice() {
            [pid] if pid != before => Ok(()),
            _ => Err(format!("{now:?}")),
        }
    })
    .unwrap();
}

/// The API server is silent; it goes on, also after a failed test.
struct Silent<'a>(&'a Lab);

impl<'a> Silent<'a> {
    fn new(lab: &'a Lab) -> Self {
        lab.pause_api_server().unwrap();
        Self(lab)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resume_api_server() {
            eprintln!("cleaning up: {error}");
        }
    }
}

#[test]
fn a_cordoned_node_is_less_preferred_and_then_withdraws_unless_it_is_the_only_one() {
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    f.cluster.cordon("node1", true).unwrap();
    // The router chooses anew only some time after it has taken the path.
    let path = f.wait_path(frr, web, "node1", |path| {
        path.communities.iter().any(|c| c == SHUTDOWN) && !path.used
    });
    assert!(path.as_path.len() > 1, "{path:?}");
    f.leads_to(frr, web, &["node2", "node3"]);
    frr.wait_paths(web, SOON, |paths| {
        paths.iter().all(|path| path.leads_to() != Some(node("node1")))
    })
    .unwrap();
    f.load(Place::Client, web.addr());
    f.cluster.cordon("node1", false).unwrap();
    f.leads_to(frr, web, &NODES);
    // The only one that could: it is told of as less preferred, and stays.
    let pool = f.pool("sole", &["198.51.100.80/28"]);
    f.apply(&bgp::advertisement(
        &pool,
        &pool,
        json!({"nodeSelectors": bgp::nodes(&["node2"])}),
    ));
    let sole = IpNet::from(f.service("sole", &pool, "Cluster", json!({})));
    f.leads_to(frr, sole, &["node2"]);
    let seen = f.load_during(Place::Client, sole.addr(), || {
        f.cluster.cordon("node2", true).unwrap();
        f.wait_path(frr, sole, "node2", |path| {
            path.communities.iter().any(|c| c == SHUTDOWN)
        });
        // Longer than the time to drain.
        holds_for("the sole candidate stays", Duration::from_secs(8), || {
            let places = frr.leads_to(sole).map_err(|e| e.to_string())?;
            if places == [node("node2")] {
                Ok(())
            } else {
                Err(format!("{places:?}"))
            }
        })
        .unwrap();
        f.cluster.cordon("node2", false).unwrap();
        f.wait_path(frr, sole, "node2", |path| path.communities.is_empty());
    });
    println!("the sole candidate was cordoned: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
}

/// A daemon that nobody directs any more ends its announcements by itself.
#[test]
fn a_speaker_that_hangs_leaves_no_route_behind() {
    let f = Fixture::new();
    let (web, frr, place) = (f.web(), &f.stage.frr, node("node3"));
    let daemon = pid(&f, place, "gobgpd");
    let watch = FibWatch::start(f.lab, Place::Router).unwrap();
    let speaker = pid(&f, place, SPEAKER);
    let began = Instant::now();
    f.run(place, &["kill", "-STOP", &speaker]);
    let own = v4(place);
    let gone = watch.wait(web, began, HEARTBEAT + SOON, |hops| {
        !hops.is_empty() && !hops.contains(&own)
    });
    // Whatever comes of it, the speaker goes on: it may have been ended meanwhile.
    let _ = f.lab.exec(place, ["kill", "-CONT", &speaker]);
    let gone = gone.unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    println!(
        "a speaker hung: no route after {:.1} s, heartbeat timeout {} s",
        gone.as_secs_f64(),
        HEARTBEAT.as_secs()
    );
    assert!(gone <= HEARTBEAT + Duration::from_secs(4), "{gone:?}");
    assert!(gone >= HEARTBEAT - Duration::from_secs(2), "too early: {gone:?}");
    f.leads_to(frr, web, &NODES);
    assert_ne!(pid(&f, place, "gobgpd"), daemon, "a fresh daemon");
    f.stage.settle(Peering::Bfd).unwrap();
    f.load(Place::Client, web.addr());
}

#[test]
fn a_killed_speaker_comes_back_before_anyone_notices() {
    let f = Fixture::new();
    let (web, place) = (f.web(), node("node2"));
    let (speaker, daemon) = (pid(&f, place, SPEAKER), pid(&f, place, "gobgpd"));
    let seen = f.load_during(Place::Client, web.addr(), || {
        f.run(place, &["kill", "-9", &speaker]);
        wait_another(&f, place, SPEAKER, &speaker);
        // Longer than a daemon waits for it.
        std::thread::sleep(HEARTBEAT + Duration::from_secs(2));
    });
    println!("a speaker was killed: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
    assert_eq!(pid(&f, place, "gobgpd"), daemon, "the daemon went on");
    f.leads_to(&f.stage.frr, web, &NODES);
}

/// Without the API server routes stay, a node that dies is found, and a speaker and a daemon that restart go on.
#[test]
fn the_api_server_is_not_needed() {
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    let silent = Silent::new(f.lab);
    let place = node("node1");
    let speaker = pid(&f, place, SPEAKER);
    let seen = f.load_during(Place::Client, web.addr(), || {
        f.run(place, &["kill", "-9", &speaker]);
        wait_another(&f, place, SPEAKER, &speaker);
        std::thread::sleep(HEARTBEAT + Duration::from_secs(2));
    });
    println!("a speaker was killed without the API server: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
    f.leads_to(frr, web, &NODES);
    // The daemon is told all anew by a speaker that has nothing but its memory.
    let daemon = pid(&f, place, "gobgpd");
    let watch = FibWatch::start(f.lab, Place::Router).unwrap();
    let (killed, own) = (Instant::now(), v4(place));
    f.run(place, &["kill", "-9", &daemon]);
    // Not for long: it has to be seen by one who remembers.
    watch
        .wait(web, killed, SOON, |hops| !hops.is_empty() && !hops.contains(&own))
        .unwrap();
    wait_another(&f, place, "gobgpd", &daemon);
    f.leads_to(frr, web, &NODES);
    f.wait_neighbor(frr, own, |neighbor| neighbor.bfd.as_deref() == Some("Up"));
    std::thread::sleep(stage::STEADY);
    let dead = node("node2");
    let began = Instant::now();
    f.lab.power_off(dead).unwrap();
    let own = v4(dead);
    let gone = watch
        .wait(web, began, SOON, |hops| !hops.is_empty() && !hops.contains(&own))
        .unwrap();
    println!(
        "a node died without the API server: no route after {} ms",
        gone.as_millis()
    );
    assert!(gone < Duration::from_secs(2), "{gone:?}");
    f.load(Place::Client, web.addr());
    drop(silent);
}

#[test]
fn a_router_that_restarts_learns_all_anew() {
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    frr.kill().unwrap();
    f.wait_event(NAME, "SessionDown", "node");
    frr.restart().unwrap();
    let began = Instant::now();
    f.leads_to(frr, web, &NODES);
    println!(
        "all routes {:.1} s after a router was back",
        began.elapsed().as_secs_f64()
    );
    f.wait_event(NAME, "SessionUp", "node");
    f.stage.settle(Peering::Bfd).unwrap();
    f.load(Place::Client, web.addr());
}

/// A hundred times the router resets all sessions that there are, as fast as they come back and faster.
#[test]
fn a_storm_of_flaps_leaves_all_as_it_was() {
    const FLAPS: usize = 100;
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    let speakers: Vec<String> = f
        .lab
        .nodes()
        .iter()
        .map(|place| pid(&f, *place, SPEAKER))
        .collect();
    let daemons: Vec<String> = f
        .lab
        .nodes()
        .iter()
        .map(|place| pid(&f, *place, "gobgpd"))
        .collect();
    let told = || {
        let events = f.cluster.events("default", "BGPPeer", NAME).unwrap();
        events
            .iter()
            .filter(|event| event.starts_with("SessionDown: "))
            .count()
    };
    let before = told();
    let began = Instant::now();
    for _ in 0..FLAPS {
        frr.command("clear bgp *").unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    let storm = began.elapsed();
    let began = Instant::now();
    f.leads_to(frr, web, &NODES);
    println!(
        "{FLAPS} resets of all sessions in {:.0} s; all routes {:.1} s after the last",
        storm.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    f.stage.settle(Peering::Bfd).unwrap();
    f.load(Place::Client, web.addr());
    let again: Vec<String> = f
        .lab
        .nodes()
        .iter()
        .map(|place| pid(&f, *place, SPEAKER))
        .collect();
    assert_eq!(again, speakers, "no speaker ended");
    let again: Vec<String> = f
        .lab
        .nodes()
        .iter()
        .map(|place| pid(&f, *place, "gobgpd"))
        .collect();
    assert_eq!(again, daemons, "no daemon ended");
    // Told of, and not a hundred times by each node.
    let more = told() - before;
    assert!((1..=60).contains(&more), "{more} events");
    let text = f.metrics(node("node1"));
    let counted = text.lines().any(|line| {
        line.starts_with("fairlead_speaker_bgp_session_transitions_total")
            && line.contains(NAME)
            && !line.ends_with(" 0")
    });
    assert!(counted, "{text}");
}
