//! What happens to a packet that has reached a node.

use fairlead_e2e::topology::Place;

use super::fixture::{Fixture, SOON, node};
use fairlead_e2e::product::wait_for;

const OUTSIDE: &str = "172.31.0.2";
const ON_LINK: &str = "172.30.0.200";

#[test]
fn local_keeps_the_client_address() {
    let f = Fixture::new("local", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    let announcer = f.wait_announcer(vip, |_| true);
    let answer = f.curl(Place::Client, &format!("{vip}:80"));
    assert_eq!(answer.client, OUTSIDE);
    assert_eq!(
        answer.backend,
        format!("web-{announcer}"),
        "Local serves from the node that announces"
    );
    assert_eq!(f.curl(Place::LanClient, &format!("{vip}:80")).client, ON_LINK);
}

#[test]
fn cluster_reaches_endpoints_anywhere_and_masquerades() {
    let f = Fixture::new("cluster", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Cluster", &["node3"]);
    f.wait_announcer(vip, |_| true);
    let answer = f.curl(Place::Client, &format!("{vip}:80"));
    assert_eq!(answer.backend, "web-node3");
    assert_ne!(answer.client, OUTSIDE);
    // Both endpoints get their share, whoever announces.
    f.cluster
        .apply(&fairlead_e2e::product::manifests::web_pod(
            &f.name, "web", "node1",
        ))
        .unwrap();
    f.wait_pod_ready("web-node1");
    let mut seen = std::collections::BTreeSet::new();
    wait_for("both endpoints to answer", SOON, || {
        seen.insert(f.curl(Place::Client, &format!("{vip}:80")).backend);
        if seen.len() == 2 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .unwrap();
}

#[test]
fn node_ports_under_cluster_answer_on_every_node() {
    let f = Fixture::new("np-cluster", &["172.30.0.100-172.30.0.101"]);
    f.web("web", "Cluster", &["node2"]);
    let port = &f.service("web")["spec"]["ports"][0]["nodePort"];
    for place in f.lab.nodes() {
        let target = format!("{}:{port}", place.uplink().unwrap().v4);
        let answer = f.curl(Place::Client, &target);
        assert_eq!(answer.backend, "web-node2", "{target}");
        assert_ne!(answer.client, OUTSIDE, "{target}");
    }
}

#[test]
fn node_ports_under_local_answer_only_where_endpoints_are() {
    let f = Fixture::new("np-local", &["172.30.0.100-172.30.0.101"]);
    f.web("web", "Local", &["node2"]);
    let port = f.service("web")["spec"]["ports"][0]["nodePort"].clone();
    let answer = f.curl(
        Place::Client,
        &format!("{}:{port}", node("node2").uplink().unwrap().v4),
    );
    assert_eq!(
        (answer.backend.as_str(), answer.client.as_str()),
        ("web-node2", OUTSIDE)
    );
    for name in ["node1", "node3"] {
        // A node that has not heard of the endpoint yet refuses.
        let target = format!("{}:{port}", node(name).uplink().unwrap().v4);
        wait_for(&format!("what comes to {name} to be dropped"), SOON, || {
            let said = f.curl_fails(Place::Client, &target);
            said.contains("timed out").then_some(()).ok_or(said)
        })
        .unwrap();
    }
}

#[test]
fn pods_and_nodes_reach_a_local_service_from_anywhere() {
    let f = Fixture::new("inside", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node2"]);
    f.wait_announcer(vip, |name| name == "node2");
    // A node without an endpoint, and a pod on it.
    assert_eq!(f.curl(node("node1"), &format!("{vip}:80")).backend, "web-node2");
    f.cluster
        .apply(&fairlead_e2e::product::manifests::web_pod(
            &f.name, "other", "node1",
        ))
        .unwrap();
    f.wait_pod_ready("other-node1");
    let url = format!("http://{vip}/hostname");
    let argv = [
        "exec",
        "-n",
        &f.name,
        "other-node1",
        "--",
        "curl",
        "-sS",
        "-m",
        "3",
        &url,
    ];
    let output = fairlead_e2e::product::install::run(&mut f.lab.kubectl(argv).unwrap()).unwrap();
    assert_eq!(output.trim(), "web-node2");
}

#[test]
fn an_unserved_port_is_refused_and_a_service_without_endpoints_too() {
    let f = Fixture::new("refused", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Cluster", &["node1"]);
    f.wait_announcer(vip, |_| true);
    f.curl(Place::Client, &format!("{vip}:80"));
    let said = f.curl_fails(Place::Client, &format!("{vip}:81"));
    assert!(
        said.contains("refused") || said.contains("Couldn't connect"),
        "{said}"
    );
    // The VIP answers pings.
    f.run(Place::Client, &["ping", "-c", "1", "-W", "2", &vip.to_string()]);
}

#[test]
fn a_deleted_service_leaves_silence_and_no_rules() {
    let f = Fixture::new("deleted", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2"]);
    f.wait_announcer(vip, |_| true);
    let everywhere = || {
        f.lab
            .nodes()
            .into_iter()
            .filter(|place| f.rules(*place).contains(&vip.to_string()))
            .count()
    };
    wait_for(
        "every node to be ready to serve the address",
        SOON,
        || match everywhere() {
            all if all == f.lab.nodes().len() => Ok(()),
            some => Err(format!("{some} are")),
        },
    )
    .unwrap();
    f.cluster.delete(&f.service_path("web")).unwrap();
    f.wait_silent(vip);
    wait_for("the rules to be gone", SOON, || match everywhere() {
        0 => Ok(()),
        nodes => Err(format!("{nodes} node(s) still have rules for {vip}")),
    })
    .unwrap();
}
