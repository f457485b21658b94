//! Connections that are open for long, while their address moves, while programs are replaced, and when a node dies.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_e2e::announcers::Witness;
use fairlead_e2e::client::{ClientOptions, FailureKind, Report};
use fairlead_e2e::product::install::{NAMESPACE, run, wait_ready};
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use fairlead_e2e::{Progress, RunningClient};
use serde_json::json;

use super::addressing::{v4, v6};
use super::fixture::{Fixture, POD_START, SOON};

const BOTH: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::10f"];
/// Long connections of each family.
const FLOWS: usize = 1000;
/// Between two requests on one of them.
const RHYTHM: Duration = Duration::from_secs(2);
const ROLLED_OUT: Duration = Duration::from_secs(180);
/// The outside client's addresses.
const CLIENT: [&str; 2] = ["172.31.0.2", "fd00:31::2"];

/// A Service of both families and policy Local, with a web server on each node, and its two addresses.
fn serve(f: &Fixture) -> [IpAddr; 2] {
    let mut service = manifests::service(&f.name, "web", "Local");
    service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    f.cluster.apply(&service).unwrap();
    let nodes: Vec<String> = f.lab.nodes().iter().map(|place| place.name()).collect();
    for node in &nodes {
        f.cluster
            .apply(&manifests::web_pod(&f.name, "web", node))
            .unwrap();
    }
    for node in &nodes {
        f.wait_pod_ready(&format!("web-{node}"));
    }
    let addresses = [v4(100), v6(0x100)];
    f.wait_ingress("web", &addresses);
    addresses.map(|address| address.parse().unwrap())
}

/// A client that holds connections to an address, and opens new ones.
fn hold(f: &Fixture, address: IpAddr) -> RunningClient {
    let options = ClientOptions {
        interval: Duration::from_millis(50),
        hold: FLOWS,
        hold_interval: RHYTHM,
        ..ClientOptions::new(SocketAddr::new(address, 80))
    };
    f.lab.start_client(Place::Client, &options).unwrap()
}

/// Waits until the client has its connections.
fn wait_open(f: &Fixture, addresses: &[IpAddr]) {
    for address in addresses {
        super::bulk::wait_open(f, *address, FLOWS);
    }
    // Until each has been asked on.
    std::thread::sleep(RHYTHM);
}

/// Nothing broke, and pods saw the client's own address on each connection.
fn assert_lived(what: &str, reports: &[Report]) {
    for report in reports {
        println!("{what}: {report}");
    }
    for (report, client) in reports.iter().zip(CLIENT) {
        let held = report.held.as_ref().unwrap();
        let client: IpAddr = client.parse().unwrap();
        assert!(
            held.broken.is_empty(),
            "{} broke, the first: {:?}",
            held.broken.len(),
            &held.broken[..held.broken.len().min(5)]
        );
        assert_eq!(
            held.clients.get(&client),
            Some(&(FLOWS as u64)),
            "{:?}",
            held.clients
        );
        assert_eq!(report.failed, 0, "{report}");
    }
}

fn settled(f: &Fixture, witness: &Witness, address: IpAddr, accept: impl Fn(&str) -> bool) -> String {
    witness
        .wait_settled(address, Duration::from_secs(1), SOON, accept)
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()))
}

#[test]
fn a_thousand_connections_survive_a_cordon_and_an_agent_that_starts_again_meanwhile() {
    let f = Fixture::new("live-cordon", &BOTH);
    let addresses = serve(&f);
    let witness = Witness::start(&f.lab, &addresses, Duration::from_millis(50)).unwrap();
    let before = addresses.map(|address| settled(&f, &witness, address, |_| true));
    let clients = addresses.map(|address| hold(&f, address));
    wait_open(&f, &addresses);
    for node in &before {
        f.cluster.cordon(node, true).unwrap();
    }
    let after =
        addresses.map(|address| settled(&f, &witness, address, |who| !before.iter().any(|b| b == who)));
    println!("cordon: {before:?} handed over to {after:?}");
    std::thread::sleep(RHYTHM);
    // What a new agent knows of the owner before, it can only know from the one before it.
    for node in &after {
        kill_agent(&f, node.parse().unwrap());
    }
    std::thread::sleep(2 * RHYTHM);
    let reports = clients.map(|client| client.stop().unwrap());
    assert_lived("cordon, then a new agent", &reports);
}

/// Kills a node's agent and waits until it runs again; answers how long that took.
pub fn kill_agent(f: &Fixture, place: Place) -> Duration {
    let agents = || {
        let argv = ["pgrep", "-f", "^/usr/bin/fairlead-node-agent"];
        let pids = f.lab.exec(place, argv).unwrap();
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = wait_for("an agent", POD_START, || {
        agents().first().cloned().ok_or_else(|| "none".to_owned())
    })
    .unwrap();
    f.run(place, &["kill", "-9", &before]);
    let began = Instant::now();
    wait_for("the agent to run again", Duration::from_secs(60), || {
        let now = agents();
        let again = now.iter().any(|pid| *pid != before);
        again.then_some(()).ok_or_else(|| format!("{now:?}"))
    })
    .unwrap();
    began.elapsed()
}

#[test]
fn a_thousand_connections_survive_a_rolling_upgrade() {
    let f = Fixture::new("live-upgrade", &BOTH);
    let addresses = serve(&f);
    let witness = Witness::start(&f.lab, &addresses, Duration::from_millis(50)).unwrap();
    let before = addresses.map(|address| settled(&f, &witness, address, |_| true));
    let clients = addresses.map(|address| hold(&f, address));
    wait_open(&f, &addresses);
    let began = Instant::now();
    let sets = ["daemonset/fairlead-node-agent", "daemonset/fairlead-speaker"];
    for set in sets {
        run(&mut f
            .lab
            .kubectl(["rollout", "restart", set, "-n", NAMESPACE])
            .unwrap())
        .unwrap();
    }
    for set in sets {
        let status = ["rollout", "status", set, "-n", NAMESPACE, "--timeout=180s"];
        run(&mut f.lab.kubectl(status).unwrap()).unwrap();
    }
    wait_ready(&f.cluster, ROLLED_OUT).unwrap();
    println!("all replaced after {:.1} s", began.elapsed().as_secs_f64());
    std::thread::sleep(2 * RHYTHM);
    let after = addresses.map(|address| settled(&f, &witness, address, |_| true));
    let moves = witness.history();
    for (address, (before, after)) in addresses.iter().zip(before.iter().zip(&after)) {
        println!(
            "{address}: {before} to {after}, announced by {:?}",
            moves.ever(*address)
        );
    }
    let reports = clients.map(|client| client.stop().unwrap());
    assert_lived("rolling upgrade", &reports);
}

#[test]
fn connections_of_a_node_that_died_are_reset_at_once() {
    let f = Fixture::new("live-crash", &BOTH);
    let addresses = serve(&f);
    let witness = Witness::start(&f.lab, &addresses, Duration::from_millis(20)).unwrap();
    let owners = addresses.map(|address| settled(&f, &witness, address, |_| true));
    let clients = addresses.map(|address| hold(&f, address));
    wait_open(&f, &addresses);
    let place: Place = owners[0].parse().unwrap();
    // Servers that are killed close their connections first; those of a node that crashes do not.
    f.lab.cut(place).unwrap();
    let off = witness.clock();
    f.lab.power_off(place).unwrap();
    let next = addresses.map(|address| settled(&f, &witness, address, |who| who != owners[0]));
    println!(
        "{place:?} died, {next:?} took over, {:.1} s after it at the latest",
        (witness.clock() - off).as_secs_f64()
    );
    // Each connection is asked on within its rhythm; TCP sends again what was lost while nobody had the address.
    std::thread::sleep(3 * RHYTHM);
    let reports = clients.map(|client| client.stop().unwrap());
    f.lab.power_on(place, &Progress::stderr()).unwrap();
    wait_ready(&f.cluster, ROLLED_OUT).unwrap();
    for ((report, owner), client) in reports.iter().zip(&owners).zip(CLIENT) {
        println!("crash, {client}: {report}");
        let held = report.held.as_ref().unwrap();
        let reset = held.broken.iter().filter(|b| b.failure == FailureKind::Reset);
        let reset = reset.collect::<Vec<_>>();
        if let (Some(first), Some(last)) = (reset.first(), reset.last()) {
            println!(
                "{} reset, from {} ms to {} ms after the start",
                reset.len(),
                first.t_ms,
                last.t_ms
            );
        }
        let others: Vec<_> = held
            .broken
            .iter()
            .filter(|b| b.failure != FailureKind::Reset)
            .collect();
        println!(
            "not reset: {}, {:?}",
            others.len(),
            others.iter().take(3).collect::<Vec<_>>()
        );
        if *owner == owners[0] {
            // What TCP sends again comes ever more seldom: a few may not have come to it since the address moved.
            assert_eq!(held.broken.len(), FLOWS);
            assert!(reset.len() >= FLOWS * 95 / 100, "{:?}", held.broken.first());
        } else {
            assert!(held.broken.is_empty(), "{:?}", held.broken.first());
        }
    }
}

#[test]
fn an_agent_that_is_killed_again_and_again_fails_no_connection() {
    let f = Fixture::new("live-agent", &BOTH);
    let addresses = serve(&f);
    let witness = Witness::start(&f.lab, &addresses, Duration::from_millis(50)).unwrap();
    let owner = settled(&f, &witness, addresses[0], |_| true);
    let options = ClientOptions {
        interval: Duration::from_millis(5),
        ..ClientOptions::new(SocketAddr::new(addresses[0], 80))
    };
    let client = f.lab.start_client(Place::Client, &options).unwrap();
    for _ in 0..5 {
        kill_agent(&f, owner.parse().unwrap());
        // kubelet waits longer before each restart of one pod, so the next is that of another one.
        super::failover::delete_pod(&f, "node-agent", &owner);
    }
    let report = client.stop().unwrap();
    println!("killed and replaced five times each: {report}");
    assert_eq!(report.failed, 0, "{report}");
    assert_eq!(settled(&f, &witness, addresses[0], |_| true), owner);
}
