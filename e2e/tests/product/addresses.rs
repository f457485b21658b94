//! Which Service gets which address.

use std::collections::BTreeSet;
use std::time::Duration;

use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::{manifests, wait_for};
use serde_json::json;

use super::fixture::{Fixture, SOON};

#[test]
fn two_services_never_share_an_address() {
    let f = Fixture::new("unique", &["172.30.0.100-172.30.0.129"]);
    let names: Vec<String> = (0..20).map(|n| format!("web{n}")).collect();
    for name in &names {
        f.cluster
            .apply(&manifests::service(&f.name, name, "Cluster"))
            .unwrap();
    }
    let addresses: BTreeSet<_> = names.iter().map(|name| f.wait_address(name)).collect();
    assert_eq!(addresses.len(), names.len());
    // Services come first; the status of the pool follows.
    let pool = wait_for("the pool's figures", SOON, || {
        let pool = f
            .cluster
            .get(&format!("/apis/fairlead.dev/v1alpha1/addresspools/{}", f.name))
            .unwrap()
            .unwrap();
        let status = &pool["status"];
        if status["ipv4"]["assigned"] == 20 && status["ipv4"]["available"] == 10 {
            Ok(pool)
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
    assert_eq!(condition(&pool, "Accepted").unwrap().0, "True");
}

#[test]
fn an_exhausted_pool_says_so_and_serves_who_waits_as_soon_as_it_can() {
    let f = Fixture::new("exhausted", &["172.30.0.100-172.30.0.101"]);
    for name in ["a", "b"] {
        f.cluster
            .apply(&manifests::service(&f.name, name, "Cluster"))
            .unwrap();
        f.wait_address(name);
    }
    f.cluster
        .apply(&manifests::service(&f.name, "c", "Cluster"))
        .unwrap();
    f.wait_condition("c", "fairlead.dev/Assigned", "False", "PoolExhausted");
    f.wait_event("c", "PoolExhausted");
    assert_eq!(f.address("c"), None);
    let freed = f.address("a").unwrap();
    f.cluster.delete(&f.service_path("a")).unwrap();
    assert_eq!(f.wait_address("c"), freed);
    f.wait_event("c", "Assigned");
}

#[test]
fn the_status_is_of_the_right_form() {
    let f = Fixture::new(
        "form",
        &["172.30.0.100-172.30.0.101", "fd00:30::100-fd00:30::101"],
    );
    f.cluster
        .apply(&manifests::service(&f.name, "web", "Cluster"))
        .unwrap();
    let vip = f.wait_address("web");
    let ingress = f.service("web")["status"]["loadBalancer"]["ingress"].clone();
    assert_eq!(ingress, json!([{"ip": vip.to_string(), "ipMode": "VIP"}]));
    let message = f.wait_condition("web", "fairlead.dev/Assigned", "True", "Assigned");
    assert_eq!(message, format!("{vip} from pool {}", f.name));
}

#[test]
fn a_requested_address_is_given_or_refused_and_never_replaced() {
    let f = Fixture::new("request", &["172.30.0.100-172.30.0.103"]);
    let request = |name: &str, address: &str| {
        let mut service = manifests::service(&f.name, name, "Cluster");
        service["spec"]["loadBalancerIP"] = json!(address);
        f.cluster.apply(&service).unwrap();
    };
    request("a", "172.30.0.103");
    assert_eq!(f.wait_address("a").to_string(), "172.30.0.103");
    request("b", "172.30.0.103");
    let message = f.wait_condition("b", "fairlead.dev/Assigned", "False", "AddressInUse");
    assert!(message.contains(&format!("{}/a", f.name)), "{message}");
    request("c", "172.30.0.210");
    f.wait_condition("c", "fairlead.dev/Assigned", "False", "AddressNotInPool");
    request("d", "nonsense");
    f.wait_condition("d", "fairlead.dev/Assigned", "False", "InvalidRequest");
    assert_eq!(
        (f.address("b"), f.address("c"), f.address("d")),
        (None, None, None)
    );
}

#[test]
fn services_of_another_class_are_left_alone() {
    let f = Fixture::new("class", &["172.30.0.100-172.30.0.101"]);
    let with_class = |name: &str, class: &str| {
        let mut service = manifests::service(&f.name, name, "Cluster");
        service["spec"]["loadBalancerClass"] = json!(class);
        f.cluster.apply(&service).unwrap();
    };
    with_class("theirs", "example.com/other");
    with_class("ours", "fairlead.dev/fairlead");
    f.wait_address("ours");
    holds_for("the other class gets nothing", Duration::from_secs(2), || {
        let status = f.service("theirs")["status"].clone();
        if status["loadBalancer"] == json!({}) && status["conditions"].is_null() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
}

#[test]
fn pools_are_checked_by_the_api_server_and_overlaps_by_the_controller() {
    let f = Fixture::new("pools", &["172.30.0.100-172.30.0.103"]);
    for (good, addresses) in [
        (
            true,
            json!(["192.0.2.0/24", "192.0.3.1-192.0.3.9", "2001:db8::/64"]),
        ),
        (false, json!([])),
        (false, json!(["192.0.2.0/33"])),
        (false, json!(["192.0.2.1-"])),
        (false, json!(["example.com"])),
    ] {
        let manifest = json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "e2e-check"}, "spec": {"addresses": addresses}});
        let answer = f.cluster.apply(&manifest);
        f.cluster
            .delete("/apis/fairlead.dev/v1alpha1/addresspools/e2e-check")
            .unwrap();
        assert_eq!(answer.is_ok(), good, "{addresses}: {answer:?}");
    }
    // Of two made within one second the first by name counts as the older.
    let overlapping = manifests::pool("e2e-with-overlap", &["172.30.0.103-172.30.0.110"]);
    f.cluster.apply(&overlapping).unwrap();
    let path = "/apis/fairlead.dev/v1alpha1/addresspools/e2e-with-overlap";
    let seen = wait_for("the overlap to be reported", SOON, || {
        let pool = f.cluster.get(path).unwrap().unwrap_or_default();
        match condition(&pool, "Accepted") {
            Some((status, reason, message)) if status == "False" && reason == "OverlappingPool" => {
                Ok(message)
            }
            other => Err(format!("{other:?}")),
        }
    });
    f.cluster.delete(path).unwrap();
    let message = seen.unwrap();
    assert!(message.contains(&f.name), "names the other pool: {message}");
}
