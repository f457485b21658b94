//! A thousand Services.

use std::time::{Duration, Instant};

use fairlead_e2e::bgp::manifests as bgp;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::routers::{Family, Router};
use fairlead_e2e::topology::Place;
use ipnet::IpNet;
use serde_json::json;

use super::fixture::{Fixture, NAME, NODES};

const SERVICES: usize = 1000;
/// Users at work at once.
const USERS: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// Does `job` for all of them, by several users at once.
fn each(job: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for user in 0..USERS {
            let job = &job;
            scope.spawn(move || (user..SERVICES).step_by(USERS).for_each(job));
        }
    });
}

fn wait_count(f: &Fixture, wanted: u64) {
    wait_for(&format!("{wanted} routes"), LIMIT, || {
        match f.stage.frr.count(Family::V4).map_err(|e| e.to_string())? {
            count if count == wanted => Ok(()),
            other => Err(format!("{other}")),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// The endpoints are written with the Services, so that what is waited for is ours and not that of a controller of
/// Kubernetes, which is slow by design.
#[test]
fn a_thousand_services_are_announced_and_withdrawn() {
    let f = Fixture::new();
    let pool = f.pool("many", &["198.18.0.0/22"]);
    f.apply(&bgp::advertisement(&pool, &pool, json!({})));
    let pod = f
        .cluster
        .get(&format!("/api/v1/namespaces/{NAME}/pods/web-node1"))
        .unwrap()
        .unwrap();
    let began = Instant::now();
    each(|n| {
        let name = format!("many{n}");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": NAME, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": [pod["status"]["podIP"]], "nodeName": "node1", "conditions": {"ready": true},
            }],
        });
        f.cluster.create(&slice, false).unwrap();
        let mut service = manifests::service(NAME, &name, "Cluster");
        service["metadata"]["annotations"] = json!({"fairlead.dev/address-pool": pool});
        bgp::merge(
            &mut service["spec"],
            json!({"selector": null, "allocateLoadBalancerNodePorts": false}),
        );
        f.cluster.create(&service, false).unwrap();
    });
    let created = began.elapsed();
    wait_count(&f, SERVICES as u64 + 1);
    println!(
        "{SERVICES} Services created in {:.1} s, all of them in the router's table {:.1} s later",
        created.as_secs_f64(),
        (began.elapsed() - created).as_secs_f64()
    );
    for n in [0, SERVICES / 2, SERVICES - 1] {
        let vip = f.stage.scene.wait_address(&format!("many{n}")).unwrap();
        f.leads_to(&f.stage.frr, IpNet::from(vip), &NODES);
        f.curl(Place::Client, vip);
    }
    let began = Instant::now();
    f.cluster
        .delete(&format!("/apis/fairlead.dev/v1alpha1/bgpadvertisements/{pool}"))
        .unwrap();
    wait_count(&f, 1);
    println!("withdrawn after {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    f.apply(&bgp::advertisement(&pool, &pool, json!({})));
    wait_count(&f, SERVICES as u64 + 1);
    println!("announced again after {:.1} s", began.elapsed().as_secs_f64());
    f.load(Place::Client, f.web().addr());
    each(|n| f.cluster.delete(&f.service_path(&format!("many{n}"))).unwrap());
    wait_count(&f, 1);
}
