//! Addresses and pools that Services ask for: given as asked, or refused with a reason, and never replaced.

use std::time::Duration;

use fairlead_e2e::product::manifests;
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, POOL, SHARED, families, merge, v4, v6};
use super::fixture::Fixture;

const BOTH: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::10f"];

#[test]
fn what_is_asked_for_is_given() {
    let f = Fixture::new("asked", &BOTH);
    let other = f.set_pool(
        "-other",
        &["172.30.0.120-172.30.0.121"],
        json!({"autoAssign": false}),
    );
    // Several addresses at once, all of which answer.
    f.make_with("web", &[(ADDRESSES, "172.30.0.105, 172.30.0.103")]);
    f.cluster
        .apply(&manifests::web_pod(&f.name, "web", "node1"))
        .unwrap();
    f.wait_ingress("web", &[v4(105), v4(103)]);
    f.make("field", json!({"spec": {"loadBalancerIP": v4(107)}}));
    f.wait_ingress("field", &[v4(107)]);
    // Of both families, in the order of the families; and one of a family that it does not name.
    let dual = |policy: &str, digits: &str, addresses: &str| {
        json!({
            "metadata": {"annotations": {ADDRESSES: addresses}},
            "spec": {"ipFamilyPolicy": policy, "ipFamilies": families(digits)},
        })
    };
    f.make(
        "dual",
        dual("RequireDualStack", "64", "172.30.0.108,fd00:30::108"),
    );
    f.wait_ingress("dual", &[v6(0x108), v4(108)]);
    f.make("half", dual("PreferDualStack", "46", "fd00:30::109"));
    f.wait_ingress("half", &[v4(100), v6(0x109)]);
    // A pool by name, and the first of several that has one.
    f.make_with("named", &[(POOL, &other)]);
    f.wait_ingress("named", &[v4(120)]);
    f.make_with("both", &[(POOL, &other), (ADDRESSES, &v4(121))]);
    f.wait_ingress("both", &[v4(121)]);
    f.make_with("full", &[(POOL, &other)]);
    f.wait_refused("full", "PoolExhausted");
    f.make_with("next", &[(POOL, &format!("{other}, {}", f.name))]);
    f.wait_ingress("next", &[v4(101)]);
    f.wait_pod_ready("web-node1");
    for address in [103, 105].map(v4) {
        f.wait_announcer(address.parse().unwrap(), |_| true);
        let answer = f.curl(Place::Client, &format!("{address}:80"));
        assert_eq!(answer.backend, "web-node1", "{address}");
    }
}

/// Annotations, a patch, the reason and a piece of the message.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a Value, &'a str, &'a str);

#[test]
fn what_cannot_be_given_is_refused_and_never_replaced() {
    let f = Fixture::new("refused", &BOTH);
    f.set_pool("", &BOTH, json!({"reserved": ["172.30.0.109"]}));
    let team = f.set_pool(
        "-team",
        &["172.30.0.120"],
        json!({"allocation": {"namespaces": ["nobody"]}}),
    );
    f.make_with("owner", &[(ADDRESSES, &v4(100))]);
    f.wait_ingress("owner", &[v4(100)]);
    f.wait_accepted(&team, "True", "Accepted");
    let dual = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": families("46")});
    let none = json!({});
    let owner = format!("{}/owner", f.name);
    // Annotations, spec, reason, what the message says.
    let table: &[Row<'_>] = &[
        (&[(ADDRESSES, "172.30.0.100")], &none, "AddressInUse", &owner),
        (
            &[(ADDRESSES, "172.30.0.99")],
            &none,
            "AddressNotInPool",
            "in no AddressPool",
        ),
        (
            &[(ADDRESSES, "fd00:30::100")],
            &none,
            "InvalidRequest",
            "has no IPv6",
        ),
        (
            &[(ADDRESSES, "172.30.0.109")],
            &none,
            "AddressReserved",
            "reserved by AddressPool",
        ),
        (&[(ADDRESSES, "172.30.0.120")], &none, "PoolNotAllowed", &team),
        (&[(POOL, &team)], &none, "PoolNotAllowed", &team),
        (&[(POOL, "nowhere")], &none, "UnknownPool", "nowhere"),
        (
            &[(ADDRESSES, "172.30.0.101"), (POOL, &team)],
            &none,
            "AddressNotInPool",
            &team,
        ),
        // One of several is enough.
        (
            &[(ADDRESSES, "172.30.0.101,172.30.0.100")],
            &none,
            "AddressInUse",
            "172.30.0.100",
        ),
        (
            &[(ADDRESSES, "172.30.0.101,fd00:30:1::1")],
            &dual,
            "AddressNotInPool",
            "fd00:30:1::1",
        ),
        (
            &[],
            &json!({"loadBalancerIP": "172.30.0.100"}),
            "AddressInUse",
            &owner,
        ),
        (
            &[],
            &json!({"loadBalancerIP": "nonsense"}),
            "InvalidRequest",
            "nonsense",
        ),
    ];
    let names: Vec<String> = (0..table.len()).map(|n| format!("row{n}")).collect();
    for (name, (annotations, spec, _, _)) in names.iter().zip(table) {
        let annotations: Value = annotations.iter().copied().collect();
        f.make(
            name,
            json!({"metadata": {"annotations": annotations}, "spec": spec}),
        );
    }
    for (name, (annotations, spec, reason, piece)) in names.iter().zip(table) {
        let message = f.wait_refused(name, reason);
        assert!(message.contains(piece), "{annotations:?} {spec}: {message}");
    }
    let nothing: Vec<(&str, &[String])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    f.keeps(&nothing);
    f.keeps(&[("owner", &[v4(100)])]);
    // What cannot be read does not get past the API server.
    for (annotation, text) in [
        (ADDRESSES, "nonsense"),
        (ADDRESSES, ""),
        (POOL, "a,,b"),
        (SHARED, " "),
    ] {
        let mut service = manifests::service(&f.name, "unreadable", "Cluster");
        merge(
            &mut service["metadata"],
            json!({"annotations": {annotation: text}}),
        );
        let said = f.cluster.apply(&service).expect_err(text).to_string();
        assert!(said.contains(annotation), "{said}");
    }
    // Who waits for an address gets it as soon as it is free: the oldest of those who asked for it.
    f.cluster.delete(&f.service_path("owner")).unwrap();
    f.wait_ingress("row0", &[v4(100)]);
    f.wait_condition("row10", "fairlead.dev/Assigned", "False", "AddressInUse");
}

#[test]
fn a_changed_wish_is_met_or_the_old_address_kept() {
    let f = Fixture::new("wishes", &["172.30.0.100-172.30.0.103"]);
    f.make_with("other", &[(ADDRESSES, &v4(103))]);
    f.wait_ingress("other", &[v4(103)]);
    f.make("web", json!({}));
    f.wait_ingress("web", &[v4(100)]);
    f.annotate("web", ADDRESSES, Some(&v4(102)));
    f.wait_ingress("web", &[v4(102)]);
    f.wait_told("web", "Reassigned", "was 172.30.0.100");
    for (wish, reason) in [(v4(103), "AddressInUse"), (v4(99), "AddressNotInPool")] {
        f.annotate("web", ADDRESSES, Some(&wish));
        let message = f.wait_kept("web", reason);
        assert!(
            message.starts_with(&format!("{} from pool ", v4(102))) && message.contains(&wish),
            "{message}"
        );
        f.wait_event("web", reason);
    }
    f.annotate("web", ADDRESSES, None);
    f.wait_kept("web", "Assigned");
    f.annotate("web", POOL, Some("nowhere"));
    f.wait_kept("web", "UnknownPool");
    let better = f.set_pool("-better", &["172.30.0.120"], json!({"autoAssign": false}));
    f.annotate("web", POOL, Some(&better));
    f.wait_ingress("web", &[v4(120)]);
    f.annotate("web", POOL, None);
    f.keeps(&[("web", &[v4(120)]), ("other", &[v4(103)])]);
    // A wish that could not be met is met when it can be.
    f.annotate("web", ADDRESSES, Some(&v4(103)));
    f.wait_kept("web", "AddressInUse");
    f.cluster.delete(&f.service_path("other")).unwrap();
    f.wait_ingress("web", &[v4(103)]);
    f.wait_kept("web", "Assigned");
}

#[test]
fn services_share_an_address_only_as_they_may() {
    let f = Fixture::new("joining", &["172.30.0.100-172.30.0.109"]);
    let make = |name: &str, key: &str, port: u16, address: Option<&str>, spec: Value| {
        let asked = address.map(|address| (ADDRESSES, address));
        let annotations: Value = [(SHARED, key)].into_iter().chain(asked).collect();
        let ports = json!([{"port": port, "targetPort": 8080, "protocol": "TCP"}]);
        let mut patch = json!({"metadata": {"annotations": annotations}, "spec": {"ports": ports}});
        merge(&mut patch["spec"], spec);
        f.make(name, patch);
    };
    let first = v4(100);
    make("a", "k", 80, None, json!({}));
    f.wait_ingress("a", &[v4(100)]);
    // Which of two records is the older is told by whole seconds, and in the same second by UID.
    std::thread::sleep(Duration::from_millis(1100));
    make("b", "k", 81, None, json!({}));
    f.wait_ingress("b", &[v4(100)]);
    // Who names no address gets another one where the port is taken.
    make("c", "k", 80, None, json!({}));
    f.wait_ingress("c", &[v4(101)]);
    let local = json!({"externalTrafficPolicy": "Local"});
    for (name, key, port, spec, reason, piece) in [
        ("port", "k", 80, json!({}), "SharingConflict", "port 80/tcp"),
        ("key", "other", 82, json!({}), "SharingConflict", "keys differ"),
        ("local", "k", 82, local.clone(), "SharingConflict", "backends"),
    ] {
        make(name, key, port, Some(&first), spec);
        let message = f.wait_refused(name, reason);
        assert!(message.contains(piece), "{name}: {message}");
    }
    f.make_with("alone", &[(ADDRESSES, &first)]);
    f.wait_refused("alone", "AddressInUse");
    // Under Local, with the same backends.
    make("d", "l", 80, None, local.clone());
    f.wait_ingress("d", &[v4(102)]);
    make(
        "e",
        "l",
        81,
        None,
        json!({"externalTrafficPolicy": "Local", "selector": {"app": "d"}}),
    );
    f.wait_ingress("e", &[v4(102)]);
    f.wait_pool(&f.name, "addresses are counted, not Services", |pool| {
        pool["status"]["ipv4"]["usage"] == "3/10"
    });
    // Ports that come to clash: the older one keeps the address.
    f.edit(
        "b",
        &json!({"spec": {"ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}}),
    );
    f.wait_ingress("b", &[v4(103)]);
    f.wait_event("b", "DoubleAssignment");
    f.keeps(&[("a", &[v4(100)]), ("b", &[v4(103)]), ("e", &[v4(102)])]);
}
