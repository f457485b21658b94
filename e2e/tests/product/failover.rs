//! What a client notices when an address moves, and when programs restart.

use std::net::SocketAddr;
use std::time::Duration;

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::install::{NAMESPACE, pod_of, pods_of, wait_ready};
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;

use super::fixture::{Fixture, SOON};

/// Time before and after a fault in which the client must find everything good.
const CALM: Duration = Duration::from_secs(2);

fn client_options(vip: std::net::Ipv4Addr) -> ClientOptions {
    ClientOptions::new(SocketAddr::from((vip, 80)))
}

#[test]
fn cordon_moves_the_address_without_a_failed_connection_and_uncordon_does_not_move_it_back() {
    let f = Fixture::new("cordon", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2", "node3"]);
    let before = f.wait_announcer(vip, |_| true);
    // Besides the new connections, ten that stay open and are used all the time.
    let options = ClientOptions {
        hold: 10,
        ..client_options(vip)
    };
    let client = f.lab.start_client(Place::Client, &options).unwrap();
    std::thread::sleep(CALM);
    f.cluster.cordon(&before, true).unwrap();
    let after = f.wait_announcer(vip, |name| name != before);
    f.cluster.cordon(&before, false).unwrap();
    holds_for("the address stays", Duration::from_secs(3), || {
        let now = f.announcers(vip);
        if now == [after.clone()] {
            Ok(())
        } else {
            Err(format!("{now:?} answer"))
        }
    })
    .unwrap();
    let report = client.stop().unwrap();
    println!("cordon: {report}");
    assert_eq!(report.failed, 0, "{report}");
    let held = report.held.as_ref().unwrap();
    assert!(
        held.connections == 10 && held.broken.is_empty(),
        "open connections survive the move: {report}"
    );
    assert!(report.good > 100, "{report}");
    f.wait_event("web", "OwnerChanged");
}

#[test]
fn a_cordoned_sole_candidate_goes_on_announcing() {
    let f = Fixture::new("sole", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node2"]);
    f.wait_announcer(vip, |name| name == "node2");
    let client = f.lab.start_client(Place::Client, &client_options(vip)).unwrap();
    f.cluster.cordon("node2", true).unwrap();
    holds_for("node2 announces", Duration::from_secs(3), || {
        let now = f.announcers(vip);
        if now == ["node2"] {
            Ok(())
        } else {
            Err(format!("{now:?} answer"))
        }
    })
    .unwrap();
    let report = client.stop().unwrap();
    assert_eq!(report.failed, 0, "{report}");
}

#[test]
fn a_restarted_speaker_leaves_no_gap() {
    let f = Fixture::new("speaker", &["172.30.0.100-172.30.0.101"]);
    // kubelet waits longer before each restart of one pod; what is tested here is the first.
    for place in f.lab.nodes() {
        let pod = pod_of(&f.cluster, "speaker", &place.name()).unwrap();
        if pod["status"]["containerStatuses"][0]["restartCount"] != 0 {
            delete_pod(&f, "speaker", &place.name());
        }
    }
    let vip = f.web("web", "Local", &["node1", "node2"]);
    let owner = f.wait_announcer(vip, |_| true);
    let client = f.lab.start_client(Place::Client, &client_options(vip)).unwrap();
    std::thread::sleep(CALM);
    // A crash: the process is killed, and kubelet starts it again.
    let place = owner.parse().unwrap();
    let pids = f.run(place, &["pgrep", "-f", "^/usr/bin/fairlead-speaker"]);
    let pid = pids.split_whitespace().next().expect("a speaker runs").to_owned();
    f.run(place, &["kill", "-9", &pid]);
    wait_for("the speaker to run again", SOON, || {
        let argv = ["pgrep", "-f", "^/usr/bin/fairlead-speaker"];
        let pids = f.lab.exec(place, argv).map_err(|e| e.to_string())?;
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        if pids.trim().is_empty() || pids.split_whitespace().any(|other| other == pid) {
            Err(pids)
        } else {
            Ok(())
        }
    })
    .unwrap();
    // The same node if its speaker was back before the others had found it dead, another one otherwise.
    let owner = f.wait_announcer(vip, |_| true);
    std::thread::sleep(CALM);
    // An orderly end, as in an upgrade: the address moves first.
    delete_pod(&f, "speaker", &owner);
    f.wait_announcer(vip, |name| name != owner);
    std::thread::sleep(CALM);
    let report = client.stop().unwrap();
    println!("speaker killed, then replaced: {report}");
    assert!(report.longest_gap.ms < 1000, "{report}");
}

#[test]
fn a_restarted_node_agent_loses_nothing() {
    let f = Fixture::new("agent", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    let before = f.wait_announcer(vip, |_| true);
    let client = f.lab.start_client(Place::Client, &client_options(vip)).unwrap();
    std::thread::sleep(CALM);
    delete_pod(&f, "node-agent", &before);
    std::thread::sleep(CALM);
    assert_eq!(
        f.wait_announcer(vip, |_| true),
        before,
        "the address did not move"
    );
    let report = client.stop().unwrap();
    println!("node agent restarted: {report}");
    assert_eq!(report.failed, 0, "{report}");
}

#[test]
fn a_flushed_ruleset_is_restored() {
    let f = Fixture::new("flush", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1"]);
    f.wait_announcer(vip, |_| true);
    f.curl(Place::Client, &format!("{vip}:80"));
    f.run(Place::Node(1), &["nft", "delete", "table", "inet", "fairlead"]);
    wait_for("our table to be back", SOON, || {
        if f.rules(Place::Node(1)).contains(&vip.to_string()) {
            Ok(())
        } else {
            Err("no rules".into())
        }
    })
    .unwrap();
    f.curl(Place::Client, &format!("{vip}:80"));
}

/// Deletes a pod of Fairlead and waits until its successor is ready.
pub fn delete_pod(f: &Fixture, component: &str, on: &str) {
    let old = pod_of(&f.cluster, component, on).unwrap();
    let name = old["metadata"]["name"].as_str().unwrap();
    f.cluster
        .delete(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"))
        .unwrap();
    wait_for(&format!("a new {component}"), Duration::from_secs(60), || {
        let new = pod_of(&f.cluster, component, on).map_err(|e| e.to_string())?;
        if new["metadata"]["uid"] == old["metadata"]["uid"] {
            return Err("the old one is still there".into());
        }
        match fairlead_e2e::product::api::condition(&new, "Ready") {
            Some((status, _, _)) if status == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

#[test]
fn restarted_controllers_change_nothing() {
    let f = Fixture::new("controller", &["172.30.0.100-172.30.0.109"]);
    let names: Vec<String> = (0..5).map(|n| format!("web{n}")).collect();
    for name in &names {
        f.cluster
            .apply(&fairlead_e2e::product::manifests::service(
                &f.name, name, "Cluster",
            ))
            .unwrap();
    }
    let before: Vec<_> = names.iter().map(|name| f.wait_address(name)).collect();
    // With one taken out of the middle, a controller that counts from the beginning would give others new ones.
    f.cluster.delete_and_wait(&f.service_path("web2"), SOON).unwrap();
    // All of them, so that nobody remembers anything.
    for pod in pods_of(&f.cluster, "controller").unwrap() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}");
        f.cluster.delete(&path).unwrap();
    }
    wait_ready(&f.cluster, Duration::from_secs(60)).unwrap();
    f.cluster
        .apply(&fairlead_e2e::product::manifests::service(
            &f.name, "late", "Cluster",
        ))
        .unwrap();
    assert_eq!(
        f.wait_address("late"),
        before[2],
        "the freed address is the lowest free one"
    );
    let after: Vec<_> = names.iter().map(|name| f.address(name)).collect();
    for (n, address) in after.into_iter().enumerate().filter(|(n, _)| *n != 2) {
        assert_eq!(address, Some(before[n]), "{}", names[n]);
    }
}
