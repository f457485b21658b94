//! `helm uninstall` with Services present. A test program of its own, since nothing is installed afterwards.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, with what it saw"
)]

use std::time::Duration;

use fairlead_e2e::product::install::{self, NAMESPACE};
use fairlead_e2e::product::{Cluster, manifests, wait_for, wire};
use fairlead_e2e::{Lab, topology::Place};

const NAME: &str = "e2e-uninstall";
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn uninstalled_with_services_present_it_leaves_nothing() {
    let lab =
        Lab::open(&std::env::var("FAIRLEAD_LAB").expect("FAIRLEAD_LAB names a lab: use `make e2e`")).unwrap();
    let cluster = Cluster::connect(&lab).unwrap();
    install::install(&lab).unwrap();
    install::wait_ready(&cluster, Duration::from_secs(120)).unwrap();
    for manifest in [
        manifests::namespace(NAME),
        manifests::pool(NAME, &["172.30.0.100-172.30.0.101"]),
        manifests::advertisement(NAME, NAME),
        manifests::service(NAME, "web", "Local"),
        manifests::web_pod(NAME, "web", "node1"),
    ] {
        cluster.apply(&manifest).unwrap();
    }
    let service = format!("/api/v1/namespaces/{NAME}/services/web");
    let vip = wait_for("an address", LIMIT, || {
        let service = cluster
            .get(&service)
            .map_err(|e| e.to_string())?
            .unwrap_or_default();
        let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .and_then(|ip| ip.parse().ok());
        ip.ok_or_else(|| service["status"].to_string())
    })
    .unwrap();
    wait_for("an answer", LIMIT, || {
        wire::curl(&lab, Place::Client, &format!("{vip}:80"), Duration::from_secs(2))
            .map_err(|e| e.to_string())?
    })
    .unwrap();
    let tables = |place| {
        let output = lab.exec(place, ["nft", "list", "tables"]).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    wait_for("every node to have its rules", LIMIT, || {
        let without = |place: &Place| !tables(*place).contains("inet fairlead");
        let missing: Vec<Place> = lab.nodes().into_iter().filter(without).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not {missing:?}"))
        }
    })
    .unwrap();

    let began = std::time::Instant::now();
    install::uninstall(&lab).unwrap();
    println!("helm uninstall took {:.1} s", began.elapsed().as_secs_f64());

    assert_eq!(
        wire::announcers(&lab, vip).unwrap(),
        [""; 0],
        "nobody announces the address any more"
    );
    for place in lab.nodes() {
        assert!(
            !tables(place).contains("fairlead"),
            "{}: {}",
            place.name(),
            tables(place)
        );
    }
    let service = cluster.get(&service).unwrap().expect("the user's Service stays");
    assert_eq!(
        service["status"]["loadBalancer"],
        serde_json::json!({}),
        "no address is left in its status"
    );
    assert!(
        cluster
            .list("/apis/fairlead.dev/v1alpha1/nodestates")
            .unwrap()
            .is_empty()
    );
    let secret = format!(
        "/api/v1/namespaces/{NAMESPACE}/secrets/{}-gossip",
        install::RELEASE
    );
    assert_eq!(cluster.get(&secret).unwrap(), None, "the gossip key");
    let pools = cluster.list("/apis/fairlead.dev/v1alpha1/addresspools").unwrap();
    assert!(
        pools.iter().any(|pool| pool["metadata"]["name"] == NAME),
        "the configuration stays"
    );
    // Nothing holds the users' namespaces, nor ours, nor the pool.
    for path in [
        format!("/api/v1/namespaces/{NAME}"),
        format!("/api/v1/namespaces/{NAMESPACE}"),
        format!("/apis/fairlead.dev/v1alpha1/addresspools/{NAME}"),
        format!("/apis/fairlead.dev/v1alpha1/l2advertisements/{NAME}"),
    ] {
        cluster.delete_and_wait(&path, LIMIT).unwrap();
    }
}
