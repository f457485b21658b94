//! Addresses that several Services share, and external IPs of Services that are no load balancers.

use std::net::Ipv4Addr;
use std::time::Duration;

use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::fixture::{Fixture, SOON, node};

const OUTSIDE: &str = "172.31.0.2";

/// Applies a Service with web servers `<service>-<node>` on the given nodes, and waits until these are ready.
fn serve(f: &Fixture, service: &Value, nodes: &[&str]) {
    let name = service["metadata"]["name"].as_str().unwrap();
    // What a pool allows reaches the API server's own caches in its time.
    wait_for("the Service to be accepted", SOON, || {
        f.cluster.apply(service).map_err(|error| error.to_string())
    })
    .unwrap();
    for node in nodes {
        f.cluster.apply(&manifests::web_pod(&f.name, name, node)).unwrap();
    }
    for node in nodes {
        f.wait_pod_ready(&format!("{name}-{node}"));
    }
}

/// A LoadBalancer Service on a port of its own that asks to share an address.
fn sharing(f: &Fixture, name: &str, policy: &str, port: u16, address: Option<Ipv4Addr>) -> Value {
    let mut service = manifests::service(&f.name, name, policy);
    service["spec"]["ports"][0]["port"] = json!(port);
    service["metadata"]["annotations"] = json!({"fairlead.dev/allow-shared-ip": "both"});
    if let Some(address) = address {
        service["metadata"]["annotations"]["fairlead.dev/load-balancer-ips"] = json!(address.to_string());
    }
    service
}

#[test]
fn two_services_share_an_address_and_one_node_announces_it() {
    let f = Fixture::new("sharing", &["172.30.0.100-172.30.0.103"]);
    serve(&f, &sharing(&f, "web", "Cluster", 80, None), &["node1"]);
    let vip = f.wait_address("web");
    let announcer = f.wait_announcer(vip, |_| true);
    serve(&f, &sharing(&f, "api", "Cluster", 81, Some(vip)), &["node2"]);
    assert_eq!(f.wait_address("api"), vip);
    for (port, backend) in [(80, "web-node1"), (81, "api-node2")] {
        for from in [Place::Client, Place::LanClient] {
            let answer = f.curl(from, &format!("{vip}:{port}"));
            assert_eq!(answer.backend, backend, "port {port}");
        }
    }
    let said = f.curl_fails(Place::Client, &format!("{vip}:82"));
    assert!(
        said.contains("refused") || said.contains("Couldn't connect"),
        "{said}"
    );
    f.stays_with(&announcer, vip);
    for service in ["web", "api"] {
        let message = f.wait_condition(service, "fairlead.dev/Announced", "True", "Announced");
        assert!(message.contains(&announcer), "{service}: {message}");
    }
    // One of them goes; the other keeps the address.
    f.cluster.delete_and_wait(&f.service_path("web"), SOON).unwrap();
    wait_for("port 80 to be refused", SOON, || {
        let answer = fairlead_e2e::product::wire::curl(
            &f.lab,
            Place::Client,
            &format!("{vip}:80"),
            Duration::from_secs(2),
        );
        match answer.map_err(|e| e.to_string())? {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{} answered", answer.backend)),
        }
    })
    .unwrap();
    assert_eq!(f.curl(Place::Client, &format!("{vip}:81")).backend, "api-node2");
    assert_eq!(f.announcers(vip), [announcer]);
    assert_eq!(f.wait_address("api"), vip);
}

#[test]
fn a_service_without_endpoints_does_not_take_the_shared_address_away() {
    let f = Fixture::new("sharing-empty", &["172.30.0.100-172.30.0.103"]);
    serve(&f, &sharing(&f, "web", "Cluster", 80, None), &["node1"]);
    let vip = f.wait_address("web");
    serve(&f, &sharing(&f, "api", "Cluster", 81, Some(vip)), &[]);
    assert_eq!(f.wait_address("api"), vip);
    f.wait_announcer(vip, |_| true);
    assert_eq!(f.curl(Place::Client, &format!("{vip}:80")).backend, "web-node1");
    let said = f.curl_fails(Place::Client, &format!("{vip}:81"));
    assert!(
        said.contains("refused") || said.contains("Couldn't connect"),
        "{said}"
    );
    // Without any endpoint nobody announces it; with one of either Service it is announced again.
    let pod = |name: &str| format!("/api/v1/namespaces/{}/pods/{name}", f.name);
    f.cluster.delete_and_wait(&pod("web-node1"), SOON).unwrap();
    f.wait_silent(vip);
    f.wait_condition("web", "fairlead.dev/Announced", "False", "NoEndpoint");
    f.cluster
        .apply(&manifests::web_pod(&f.name, "api", "node3"))
        .unwrap();
    f.wait_pod_ready("api-node3");
    f.wait_announcer(vip, |_| true);
    assert_eq!(f.curl(Place::Client, &format!("{vip}:81")).backend, "api-node3");
}

/// The fixture with external IPs allowed from its pool.
fn with_external_ips(name: &str) -> Fixture {
    let addresses = ["172.30.0.100-172.30.0.103"];
    let f = Fixture::new(name, &addresses);
    let mut pool = manifests::pool(&f.name, &addresses);
    pool["spec"]["externalIPs"] = json!({"policy": "Allow", "namespaces": [f.name]});
    f.cluster.apply(&pool).unwrap();
    f
}

/// A Service of type ClusterIP on port 80.
fn internal(f: &Fixture, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": f.name, "name": name},
        "spec": {
            "type": "ClusterIP", "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

#[test]
fn an_external_ip_of_a_cluster_ip_service_is_reached_from_outside() {
    let f = with_external_ips("external");
    let mut service = internal(&f, "web");
    service["metadata"]["annotations"] = json!({"fairlead.dev/external-ips": f.name});
    serve(&f, &service, &["node2"]);
    let address: Ipv4Addr = wait_for("an external IP", SOON, || {
        let service = f.service("web");
        let address = service["spec"]["externalIPs"][0].as_str();
        address
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| service.to_string())
    })
    .unwrap();
    f.wait_announcer(address, |_| true);
    let answer = f.curl(Place::Client, &format!("{address}:80"));
    assert_eq!(answer.backend, "web-node2");
    let said = f.curl_fails(Place::Client, &format!("{address}:81"));
    assert!(
        said.contains("refused") || said.contains("Couldn't connect"),
        "{said}"
    );
    f.cluster.delete_and_wait(&f.service_path("web"), SOON).unwrap();
    f.wait_silent(address);
}

#[test]
fn an_external_ip_under_local_is_announced_where_the_endpoint_is() {
    let f = with_external_ips("external-local");
    let address: Ipv4Addr = "172.30.0.102".parse().unwrap();
    let mut service = internal(&f, "web");
    service["spec"]["externalIPs"] = json!([address.to_string()]);
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    serve(&f, &service, &["node3"]);
    f.wait_announcer(address, |name| name == "node3");
    let answer = f.curl(Place::Client, &format!("{address}:80"));
    assert_eq!(
        (answer.backend.as_str(), answer.client.as_str()),
        ("web-node3", OUTSIDE)
    );
    // The node agents tell the speakers beside them, as health-check node ports would.
    for (name, count) in [("node1", 0), ("node3", 1)] {
        let url = format!("http://agent/healthz/{}/web/ipv4", f.name);
        let socket = "/run/fairlead/health.sock";
        let said = f.run(node(name), &["curl", "-s", "--unix-socket", socket, &url]);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{name}: {said}"));
        assert_eq!(said["localEndpoints"], json!(count), "{name}: {said}");
    }
}
