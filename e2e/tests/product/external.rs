//! External IPs: asked for by annotation, or written by hand; what is not allowed is answered for by nobody.

use std::net::Ipv4Addr;
use std::time::Duration;

use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, ANNOUNCED, merge, v4};
use super::fixture::{Fixture, SOON};

const EXTERNAL: &str = "fairlead.dev/external-ips";
const RECORD: &str = "fairlead.dev/external-ips-assigned";
const ADDRESSES_OF_POOL: [&str; 1] = ["172.30.0.100-172.30.0.105"];

/// The fixture with external IPs allowed from its pool.
fn allowed(name: &str) -> Fixture {
    let f = Fixture::new(name, &ADDRESSES_OF_POOL);
    allow(&f, true);
    f
}

fn allow(f: &Fixture, yes: bool) {
    let rule = if yes {
        json!({"policy": "Allow", "namespaces": [f.name]})
    } else {
        json!({"policy": "Deny"})
    };
    f.set_pool("", &ADDRESSES_OF_POOL, json!({"externalIPs": rule}));
}

/// A ClusterIP Service on port 80 for the pods of `web`, with what is merged into it.
fn internal(f: &Fixture, name: &str, patch: Value) {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": f.name, "name": name},
        "spec": {
            "type": "ClusterIP", "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    merge(&mut service, patch);
    // What a pool allows reaches the policies of the API server in its time.
    wait_for(&format!("{name} to be accepted"), SOON, || {
        f.cluster.apply(&service).map_err(|e| e.to_string())
    })
    .unwrap();
}

fn by_hand(addresses: &[&str]) -> Value {
    json!({"spec": {"externalIPs": addresses}})
}

fn address(last: u8) -> Ipv4Addr {
    v4(last).parse().unwrap()
}

/// Waits until a Service has these external IPs and a record that begins so, or none.
fn wait_external(f: &Fixture, service: &str, addresses: &[&str], record: Option<&str>) {
    wait_for(
        &format!("{service} to have {addresses:?}, {record:?}"),
        SOON,
        || {
            let service = f.service(service);
            let list = service["spec"]["externalIPs"].as_array();
            let list: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
            let written = service["metadata"]["annotations"][RECORD].as_str();
            let written = written.map(|text| text.split_once("; since ").map_or(text, |(record, _)| record));
            if list == addresses && written == record {
                Ok(())
            } else {
                Err(format!("{list:?}, {written:?}, {}", service["status"]))
            }
        },
    )
    .unwrap();
}

#[test]
fn external_ips_are_given_by_address_or_pool_and_taken_back() {
    let f = allowed("external-asked");
    internal(
        &f,
        "web",
        json!({"metadata": {"annotations": {EXTERNAL: "172.30.0.103"}}}),
    );
    f.cluster
        .apply(&manifests::web_pod(&f.name, "web", "node2"))
        .unwrap();
    let of = |addresses: &[u8]| {
        let all: Vec<String> = addresses
            .iter()
            .map(|last| format!("{} from pool {}", v4(*last), f.name))
            .collect();
        all.join(", ")
    };
    wait_external(&f, "web", &["172.30.0.103"], Some(&of(&[103])));
    assert_eq!(
        f.wait_kept("web", "Assigned"),
        format!("external IPs {}", of(&[103]))
    );
    f.wait_event("web", "Assigned");
    f.wait_pod_ready("web-node2");
    f.wait_announcer(address(103), |_| true);
    f.wait_condition("web", ANNOUNCED, "True", "Announced");
    assert_eq!(f.curl(Place::Client, "172.30.0.103:80").backend, "web-node2");
    f.wait_pool(&f.name, "figures", |pool| {
        pool["status"]["ipv4"]["usage"] == "1/6"
    });
    // Beside what the user wrote, which is no concern of ours.
    f.edit("web", &by_hand(&["198.51.100.7", "172.30.0.103"]));
    f.annotate("web", EXTERNAL, Some("172.30.0.103, 172.30.0.104"));
    wait_external(
        &f,
        "web",
        &["198.51.100.7", "172.30.0.103", "172.30.0.104"],
        Some(&of(&[103, 104])),
    );
    f.wait_announcer(address(104), |_| true);
    // By the name of a pool: what it has from there already is enough.
    f.annotate("web", EXTERNAL, Some(&f.name));
    wait_external(&f, "web", &["198.51.100.7", "172.30.0.103"], Some(&of(&[103])));
    f.wait_silent(address(104));
    // Nobody else gets it.
    f.make_with("greedy", &[(ADDRESSES, "172.30.0.103")]);
    let message = f.wait_refused("greedy", "AddressInUse");
    assert!(message.contains(&format!("{}/web", f.name)), "{message}");
    // A pool that allows it no longer takes it back.
    allow(&f, false);
    wait_external(&f, "web", &["198.51.100.7"], None);
    f.wait_refused("web", "ExternalIPNotAllowed");
    f.wait_silent(address(103));
    f.wait_ingress("greedy", &["172.30.0.103"]);
    allow(&f, true);
    wait_external(&f, "web", &["198.51.100.7", "172.30.0.100"], Some(&of(&[100])));
    f.wait_announcer(address(100), |_| true);
    assert_eq!(f.curl(Place::Client, "172.30.0.100:80").backend, "web-node2");
    // No longer asked for.
    f.annotate("web", EXTERNAL, None);
    wait_external(&f, "web", &["198.51.100.7"], None);
    f.wait_told("web", "Released", "172.30.0.100");
    f.wait_silent(address(100));
    f.curl_fails(Place::LanClient, "172.30.0.100:80");
    let left: Vec<Value> = f.service("web")["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(left.is_empty(), "nothing of ours is left: {left:?}");
}

#[test]
fn external_ips_written_by_hand_are_adopted_or_silent_and_always_left_standing() {
    // Written before there is a pool that has them.
    let f = Fixture::new("external-hand", &["172.30.0.120"]);
    internal(&f, "early", by_hand(&["172.30.0.101"]));
    f.cluster
        .apply(&manifests::web_pod(&f.name, "web", "node1"))
        .unwrap();
    f.set_pool("", &ADDRESSES_OF_POOL, json!({}));
    f.wait_condition("early", "fairlead.dev/Assigned", "False", "ExternalIPNotAllowed");
    f.wait_event("early", "ExternalIPNotAllowed");
    f.wait_pod_ready("web-node1");
    let early = address(101);
    let silent = |address: Ipv4Addr| {
        holds_for(&format!("{address} is silent"), Duration::from_secs(2), || {
            let all = f.announcers(address);
            all.is_empty().then_some(()).ok_or_else(|| format!("{all:?}"))
        })
        .unwrap();
    };
    silent(early);
    // Once it is allowed it is adopted, announced and counted.
    allow(&f, true);
    let adopted = format!("172.30.0.101 from pool {} (adopted)", f.name);
    wait_external(&f, "early", &["172.30.0.101"], Some(&adopted));
    f.wait_announcer(early, |_| true);
    assert_eq!(f.curl(Place::Client, "172.30.0.101:80").backend, "web-node1");
    f.wait_pool(&f.name, "figures", |pool| {
        pool["status"]["ipv4"]["usage"] == "1/6"
    });

    // Taken by a load balancer, or by an older Service: reported, announced for the one that has it only.
    f.make_with("owner", &[(ADDRESSES, "172.30.0.100")]);
    f.wait_ingress("owner", &["172.30.0.100"]);
    let ports = json!([{"port": 81, "targetPort": 8080, "protocol": "TCP"}]);
    let stolen = json!({"spec": {"externalIPs": ["172.30.0.100"], "ports": ports}});
    internal(&f, "thief", stolen);
    internal(&f, "second", by_hand(&["172.30.0.101", "172.30.0.102"]));
    let thief = f.wait_refused("thief", "AddressInUse");
    assert!(thief.contains(&format!("{}/owner", f.name)), "{thief}");
    let second = format!("172.30.0.102 from pool {} (adopted)", f.name);
    wait_external(&f, "second", &["172.30.0.101", "172.30.0.102"], Some(&second));
    let message = f.wait_kept("second", "AddressInUse");
    assert!(message.contains(&format!("{}/early", f.name)), "{message}");
    // The owner has no pods, the thief has: nobody answers for the owner's address.
    silent(address(100));
    wait_external(&f, "thief", &["172.30.0.100"], None);
    // Nor on the thief's port, once it is announced for the owner.
    f.edit("owner", &json!({"spec": {"selector": {"app": "web"}}}));
    f.wait_announcer(address(100), |_| true);
    assert_eq!(f.curl(Place::Client, "172.30.0.100:80").backend, "web-node1");
    f.curl_fails(Place::Client, "172.30.0.100:81");
    f.curl_fails(Place::LanClient, "172.30.0.100:81");

    // What is denied again falls silent, and still stands there.
    allow(&f, false);
    wait_external(&f, "early", &["172.30.0.101"], None);
    wait_external(&f, "second", &["172.30.0.101", "172.30.0.102"], None);
    f.wait_silent(early);
    f.wait_condition("second", "fairlead.dev/Assigned", "False", "ExternalIPNotAllowed");
    f.wait_ingress("owner", &["172.30.0.100"]);
    // What the user takes out is given back.
    allow(&f, true);
    wait_external(&f, "second", &["172.30.0.101", "172.30.0.102"], Some(&second));
    f.edit("second", &by_hand(&["172.30.0.101"]));
    wait_external(&f, "second", &["172.30.0.101"], None);
    f.make_with("next", &[(ADDRESSES, "172.30.0.102")]);
    f.wait_ingress("next", &["172.30.0.102"]);
    // The owner goes, and the address is adopted where it was written.
    f.cluster.delete(&f.service_path("owner")).unwrap();
    let adopted = format!("172.30.0.100 from pool {} (adopted)", f.name);
    wait_external(&f, "thief", &["172.30.0.100"], Some(&adopted));
    f.wait_announcer(address(100), |_| true);
    assert_eq!(f.curl(Place::Client, "172.30.0.100:81").backend, "web-node1");
}
