//! Who answers ARP, and who never does.

use std::time::Duration;

use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::topology::Place;
use serde_json::json;

use super::fixture::{Fixture, node};

#[test]
fn exactly_one_node_answers_arp() {
    let f = Fixture::new("one", &["172.30.0.100-172.30.0.109"]);
    let vip = f.web("web", "Cluster", &["node1", "node2", "node3"]);
    let announcer = f.wait_announcer(vip, |_| true);
    f.stays_with(&announcer, vip);
    let message = f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced");
    assert!(message.contains(&announcer), "{message}");
    // Unicast requests, by which neighbours refresh their entries, are answered as well.
    f.run(
        Place::LanClient,
        &["arping", "-c", "2", "-w", "3", "-I", "eth0", &vip.to_string()],
    );
}

#[test]
fn a_node_without_ready_endpoints_never_announces() {
    let f = Fixture::new("never", &["172.30.0.100-172.30.0.101"]);
    let frames = f
        .lab
        .capture(Place::Switch, "arp and ether src 02:fa:17:ea:30:0d")
        .unwrap();
    let vip = f.web("web", "Local", &["node1", "node2"]);
    for _ in 0..2 {
        let announcer = f.wait_announcer(vip, |name| name != "node3");
        // Push it around: node3 must not get it, even as the only one that is not cordoned.
        f.cluster.cordon(&announcer, true).unwrap();
        f.wait_announcer(vip, |name| name != announcer);
        f.cluster.cordon(&announcer, false).unwrap();
    }
    let said: Vec<String> = frames
        .stop()
        .unwrap()
        .into_iter()
        .filter(|l| l.contains(&vip.to_string()))
        .collect();
    let claims: Vec<&String> = said
        .iter()
        .filter(|l| l.contains(&format!("{vip} is-at")) || l.contains(&format!("tell {vip}")))
        .collect();
    assert!(claims.is_empty(), "node3 claimed {vip}: {claims:?}");
}

#[test]
fn nobody_announces_a_service_without_endpoints_and_it_says_so() {
    let f = Fixture::new("empty", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &[]);
    f.wait_condition("web", "fairlead.dev/Announced", "False", "NoLocalEndpoint");
    assert_eq!(f.announcers(vip), [""; 0]);
    f.wait_event("web", "NoLocalEndpoint");
    f.cluster
        .apply(&fairlead_e2e::product::manifests::web_pod(
            &f.name, "web", "node2",
        ))
        .unwrap();
    f.wait_announcer(vip, |name| name == "node2");
}

#[test]
fn a_hand_edited_status_is_never_answered_for() {
    let f = Fixture::new("edited", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Cluster", &["node1"]);
    f.wait_announcer(vip, |_| true);
    let frames = f.lab.capture(Place::Switch, "arp").unwrap();
    let edit = |ingress: serde_json::Value| {
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        f.cluster
            .patch(&format!("{}/status", f.service_path("web")), &status)
            .unwrap();
    };
    let is_silent = |foreign: &str| {
        let foreign = foreign.parse().unwrap();
        holds_for("silence", Duration::from_secs(2), || {
            match f.announcers(foreign).as_slice() {
                [] => Ok(()),
                other => Err(format!("{other:?} answered for {foreign}")),
            }
        })
        .unwrap();
    };
    // One inside the pool that was never assigned: the recorded one comes back.
    edit(json!([{"ip": "172.30.0.101", "ipMode": "VIP"}]));
    is_silent("172.30.0.101");
    f.wait_ingress("web", &[vip.to_string()]);
    // One of the same subnet, outside our pools: the Service counts as another's.
    edit(json!([{"ip": "172.30.0.77", "ipMode": "VIP"}]));
    is_silent("172.30.0.77");
    let claims: Vec<String> = frames
        .stop()
        .unwrap()
        .into_iter()
        .filter(|l| l.contains("172.30.0.77 is-at") || l.contains("172.30.0.101 is-at"))
        .collect();
    assert!(claims.is_empty(), "{claims:?}");
    edit(serde_json::Value::Null);
    assert_eq!(f.wait_address("web"), vip);
    f.wait_announcer(vip, |_| true);
}

#[test]
fn when_all_probes_fail_nobody_answers_and_the_service_says_why() {
    let f = Fixture::new("probes", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    f.wait_announcer(vip, |_| true);
    let port = f.service("web")["spec"]["healthCheckNodePort"].to_string();
    for name in ["node1", "node2"] {
        block(&f, name, &port);
    }
    f.wait_silent(vip);
    let message = f.wait_condition("web", "fairlead.dev/Announced", "False", "ProbeFailed");
    assert!(
        message.contains("node1") && message.contains("node2"),
        "{message}"
    );
    f.wait_event("web", "ProbeFailed");
    for name in ["node1", "node2"] {
        f.run(node(name), &["nft", "delete", "table", "inet", "e2e"]);
    }
    f.wait_announcer(vip, |_| true);
    f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced");
}

#[test]
fn a_failing_probe_moves_the_address_though_the_api_says_ready() {
    let f = Fixture::new("probe", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    let before = f.wait_announcer(vip, |_| true);
    let port = f.service("web")["spec"]["healthCheckNodePort"].to_string();
    block(&f, &before, &port);
    f.wait_announcer(vip, |name| name != before);
    let pod = f
        .cluster
        .get(&format!("/api/v1/namespaces/{}/pods/web-{before}", f.name))
        .unwrap()
        .unwrap();
    let ready = fairlead_e2e::product::api::condition(&pod, "Ready").unwrap();
    assert_eq!(ready.0, "True", "the API still says ready");
}

#[test]
fn a_dead_service_proxy_moves_a_cluster_service() {
    let f = Fixture::new("proxy", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Cluster", &["node1", "node2", "node3"]);
    let before = f.wait_announcer(vip, |_| true);
    block(&f, &before, "10256");
    f.wait_announcer(vip, |name| name != before);
    assert!(
        f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced")
            .len()
            > 1
    );
}

/// Makes a port of a node unreachable, as a broken or hanging server is.
fn block(f: &Fixture, name: &str, port: &str) {
    let rules = format!(
        "table inet e2e {{ chain input {{ type filter hook input priority -200; tcp dport {port} drop; }}; }}"
    );
    f.run(node(name), &["nft", &rules]);
}
