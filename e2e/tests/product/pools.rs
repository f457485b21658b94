//! What a pool gives, to whom, and what becomes of what it gave when it changes or goes.

use std::net::Ipv4Addr;
use std::time::Duration;

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::manifests;
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, ANNOUNCED, POOL, families, pool_path, v4};
use super::fixture::{Fixture, SOON};

#[test]
fn usage_is_counted_by_family_and_shown_to_people() {
    let addresses = [
        "172.30.0.100/30",
        "172.30.0.110-172.30.0.111",
        "172.30.0.113",
        "fd00:30::100-fd00:30::107",
    ];
    let f = Fixture::new("usage", &addresses);
    f.make("a", json!({}));
    f.make("b", json!({}));
    let both = json!({"spec": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": families("46")}});
    f.make("c", both);
    let pool = f.wait_pool(&f.name, "usage of both families", |pool| {
        let status = &pool["status"];
        status["ipv4"] == json!({"total": 7, "assigned": 3, "available": 4, "usage": "3/7"})
            && status["ipv6"] == json!({"total": 8, "assigned": 1, "available": 7, "usage": "1/8"})
    });
    assert_eq!(condition(&pool, "Accepted").unwrap().0, "True");
    let cidrs = [
        "172.30.0.100/30",
        "172.30.0.110/31",
        "172.30.0.113/32",
        "fd00:30::100/125",
    ];
    assert_eq!(pool["status"]["cidrs"], json!(cidrs));
    let shown = f.kubectl(&["get", "addresspools", &f.name, "-o", "wide"]);
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let list = serde_json::to_string(&addresses).unwrap();
    assert_eq!(
        rows[0],
        ["NAME", "ADDRESSES", "AUTO", "IPV4", "IPV6", "ACCEPTED", "AGE"]
    );
    assert_eq!(
        rows[1][..6],
        [f.name.as_str(), &list, "true", "3/7", "1/8", "Accepted"]
    );
    f.cluster.delete(&f.service_path("c")).unwrap();
    f.wait_pool(&f.name, "one less of each", |pool| {
        pool["status"]["ipv4"]["usage"] == "2/7" && pool["status"]["ipv6"]["usage"] == "0/8"
    });
}

#[test]
fn some_addresses_are_never_given_away() {
    let f = Fixture::new("never", &["172.30.0.100-172.30.0.103"]);
    let total = |pool: &str, counts: [i64; 2]| {
        f.wait_pool(pool, &format!("a total of {counts:?}"), |pool| {
            let status = &pool["status"];
            [&status["ipv4"], &status["ipv6"]].map(|usage| usage["total"].as_i64().unwrap_or(0)) == counts
        });
    };
    // Reserved in the pool.
    f.set_pool(
        "",
        &["172.30.0.100-172.30.0.103"],
        json!({"reserved": ["172.30.0.100", "172.30.0.102/31"]}),
    );
    total(&f.name, [1, 0]);
    f.make("free", json!({}));
    f.wait_ingress("free", &[v4(101)]);
    f.make("more", json!({}));
    f.wait_refused("more", "PoolExhausted");
    f.make_with("reserved", &[(ADDRESSES, &v4(102))]);
    let message = f.wait_refused("reserved", "AddressReserved");
    assert!(
        message.contains(&format!("reserved by AddressPool {}", f.name)),
        "{message}"
    );

    // Not given without being asked for; .0 and .255 avoided.
    let spec = json!({"autoAssign": false, "avoidBuggyIPs": true});
    let named = f.set_pool("-named", &["10.99.1.254-10.99.2.1"], spec);
    total(&named, [2, 0]);
    f.make_with("first", &[(POOL, &named)]);
    f.wait_ingress("first", &["10.99.1.254"]);
    f.make_with("second", &[(POOL, &named)]);
    f.wait_ingress("second", &["10.99.2.1"]);
    f.make_with("buggy", &[(ADDRESSES, "10.99.2.0")]);
    let message = f.wait_refused("buggy", "AddressReserved");
    assert!(message.contains("ends in .0 or .255"), "{message}");

    // What the cluster itself and its networks use.
    let own = [
        ("172.30.0.13", "an address of node node3"),
        ("172.30.0.1", "gateway"),
        (
            "172.30.0.0",
            "the network address of the nodes' subnet 172.30.0.0/24",
        ),
        (
            "172.30.0.255",
            "the broadcast address of the nodes' subnet 172.30.0.0/24",
        ),
        ("10.244.2.0/24", "in the pod network 10.244.2.0/24 of node node2"),
        ("10.96.0.0/28", "in the cluster IP range 10.96.0.0/16"),
        ("fd00:30::13", "an address of node node3"),
        (
            "fd00:30::",
            "the subnet-router anycast address of the nodes' subnet fd00:30::/64",
        ),
        ("fd00:10:244:1::/64", "in the pod network"),
        ("fd00:10:96::/120", "in the cluster IP range fd00:10:96::/112"),
    ];
    let cluster = f.set_pool(
        "-cluster",
        &own.map(|(addresses, _)| addresses),
        json!({"autoAssign": false}),
    );
    total(&cluster, [0, 0]);
    for (n, (addresses, what)) in own.iter().enumerate() {
        let (address, _) = addresses.split_once('/').unwrap_or((addresses, ""));
        let name = format!("own{n}");
        let digit = if address.contains(':') { "6" } else { "4" };
        f.make(
            &name,
            json!({
                "metadata": {"annotations": {ADDRESSES: address}},
                "spec": {"ipFamilies": families(digit), "ipFamilyPolicy": "SingleStack"},
            }),
        );
        let message = f.wait_refused(&name, "AddressReserved");
        assert!(message.contains(what), "{address}: {message}");
    }
    f.make_with("any", &[(POOL, &cluster)]);
    f.wait_refused("any", "PoolExhausted");
    f.keeps(&[
        ("any", &[]),
        ("more", &[]),
        ("reserved", &[]),
        ("free", &[v4(101)]),
    ]);
}

#[test]
fn pools_are_for_whom_they_say_in_their_order() {
    let f = Fixture::new("whom", &["172.30.0.100-172.30.0.109"]);
    let blue = f.namespace("-blue", &json!({"team": "blue"}));
    let first = json!({"allocation": {"priority": 10, "serviceSelector": {"matchLabels": {"tier": "gold"}}}});
    let gold = f.set_pool("-gold", &["172.30.0.110-172.30.0.111"], first);
    let team = json!({"allocation": {"namespaceSelector": {"matchLabels": {"team": "blue"}}}});
    let team = f.set_pool("-team", &["172.30.0.120-172.30.0.121"], team);
    let only = json!({"allocation": {"priority": 5, "namespaces": [blue]}});
    f.set_pool("-only", &["172.30.0.130"], only);
    for pool in [&gold, &team] {
        f.wait_accepted(pool, "True", "Accepted");
    }

    f.make("plain", json!({}));
    f.wait_ingress("plain", &[v4(100)]);
    let labels = json!({"metadata": {"labels": {"tier": "gold"}}});
    f.make("gold", labels.clone());
    f.wait_ingress("gold", &[v4(110)]);
    // In the other namespace: the lowest number first, and at the same number a pool for some before one for all.
    let there = |name: &str| format!("{blue}/{name}");
    f.make(&there("a"), json!({}));
    f.wait_ingress(&there("a"), &[v4(130)]);
    f.make(&there("b"), json!({}));
    f.wait_ingress(&there("b"), &[v4(120)]);
    f.make(&there("c"), labels);
    f.wait_ingress(&there("c"), &[v4(111)]);

    // Nor by name.
    f.make_with("stranger", &[(POOL, &team)]);
    f.wait_refused("stranger", "PoolNotAllowed");
    f.make_with("then", &[(ADDRESSES, &v4(121))]);
    f.wait_refused("then", "PoolNotAllowed");
    // Who no longer matches keeps what it has, and is told.
    f.edit("gold", &json!({"metadata": {"labels": {"tier": null}}}));
    f.wait_kept("gold", "PoolNotAllowed");
    // A namespace that comes to match gets in at once.
    let namespace = format!("/api/v1/namespaces/{}", f.name);
    let label = json!({"metadata": {"labels": {"team": "blue"}}});
    f.cluster.patch(&namespace, &label).unwrap();
    f.wait_ingress("stranger", &[v4(121)]);
    f.keeps(&[("gold", &[v4(110)]), ("plain", &[v4(100)])]);
}

#[test]
fn a_pool_that_shrinks_or_goes_takes_nothing_from_those_who_use_it() {
    let f = Fixture::new("shrink", &["172.30.0.100-172.30.0.103"]);
    // Of every pool, whatever its name.
    let mut all = manifests::advertisement(&f.name, &f.name);
    all["spec"] = json!({"addressPools": []});
    f.cluster.apply(&all).unwrap();
    let vip = f.web("web", "Cluster", &["node1"]);
    assert_eq!(vip.to_string(), v4(100));
    let announcer = f.wait_announcer(vip, |_| true);
    f.curl(Place::Client, &format!("{vip}:80"));
    let mut client = ClientOptions::new(format!("{vip}:80").parse().unwrap());
    // A busy machine may be late; it refuses nothing for that.
    client.timeout = Duration::from_secs(3);
    let client = f.lab.start_client(Place::Client, &client).unwrap();
    let holder = format!("{}/web", f.name);

    // It shrinks.
    f.set_pool("", &["172.30.0.102-172.30.0.103"], json!({}));
    let message = f.wait_accepted(&f.name, "True", "InUse");
    assert!(message.contains(&holder), "{message}");
    let pool = f.wait_pool(&f.name, "figures", |pool| {
        pool["status"]["ipv4"]["usage"] == "1/2"
    });
    assert_eq!(Fixture::retained(&pool), [v4(100)]);
    assert_eq!(pool["status"]["ipv4"]["available"], 2);
    let message = f.wait_kept("web", "Retained");
    assert!(message.contains(&v4(100)), "{message}");
    f.make_with("greedy", &[(ADDRESSES, &v4(100))]);
    f.wait_refused("greedy", "AddressNotInPool");
    f.make("next", json!({}));
    f.wait_ingress("next", &[v4(102)]);
    assert_eq!(f.announcers(vip), vec![announcer.clone()]);

    // It grows again.
    f.set_pool("", &["172.30.0.100-172.30.0.103"], json!({}));
    f.wait_accepted(&f.name, "True", "Accepted");
    f.wait_kept("web", "Assigned");
    f.wait_refused("greedy", "AddressInUse");

    // It is deleted: it stays, gives nothing, and its addresses work on.
    f.cluster.delete(&pool_path(&f.name)).unwrap();
    let message = f.wait_accepted(&f.name, "False", "InUse");
    assert!(
        message.contains("being deleted") && message.contains(&holder),
        "{message}"
    );
    let pool = f.wait_pool(&f.name, "what it retains", |pool| {
        Fixture::retained(pool).len() == 2
    });
    assert_eq!(Fixture::retained(&pool), [v4(100), v4(102)]);
    assert!(pool["metadata"]["deletionTimestamp"].is_string());
    f.make("late", json!({}));
    f.wait_refused("late", "NoPool");
    f.wait_kept("web", "Retained");
    assert_eq!(f.announcers(vip), vec![announcer.clone()]);

    // Its range under another name: whatever is in use moves over.
    let again = format!("{}-again", f.name);
    f.set_pool("-again", &["172.30.0.100-172.30.0.103"], json!({}));
    f.wait_accepted(&again, "True", "Accepted");
    f.wait_pool(&f.name, "gone", Value::is_null);
    f.wait_pool(&again, "figures", |pool| pool["status"]["ipv4"]["usage"] == "3/4");
    let message = f.wait_kept("web", "Assigned");
    assert_eq!(message, format!("{vip} from pool {again}"));
    f.wait_ingress("late", &[v4(101)]);
    f.keeps(&[("web", &[v4(100)]), ("next", &[v4(102)]), ("late", &[v4(101)])]);
    assert_eq!(f.announcers(vip), [announcer]);
    let report = client.stop().unwrap();
    println!("while its pool shrank, grew, was deleted and made anew: {report}");
    assert!(
        report.requests > 50 && report.failed == 0,
        "{report}\n{}",
        f.explain()
    );

    // Deleted for good: the pool ends with the last Service.
    f.cluster.delete(&pool_path(&again)).unwrap();
    f.wait_accepted(&again, "False", "InUse");
    for service in ["web", "next"] {
        f.cluster.delete_and_wait(&f.service_path(service), SOON).unwrap();
    }
    f.wait_pool(&again, "the last one", |pool| {
        Fixture::retained(pool) == [v4(101)]
    });
    f.wait_silent(vip);
    f.cluster.delete(&f.service_path("late")).unwrap();
    f.wait_pool(&again, "gone", Value::is_null);
}

#[test]
fn a_pool_that_wants_it_gives_others_for_the_addresses_that_leave() {
    let f = Fixture::new("reassign", &["172.30.0.100-172.30.0.101"]);
    let old = f.web("web", "Cluster", &["node2"]);
    f.wait_announcer(old, |_| true);
    // As long as there is none, it keeps what it has.
    f.make("other", json!({}));
    f.wait_ingress("other", &[v4(101)]);
    f.set_pool("", &["172.30.0.101"], json!({"onRemove": "Reassign"}));
    f.wait_kept("web", "PoolExhausted");
    f.wait_announcer(old, |_| true);
    f.set_pool(
        "",
        &["172.30.0.101-172.30.0.102"],
        json!({"onRemove": "Reassign"}),
    );
    f.wait_ingress("web", &[v4(102)]);
    let told = f.wait_event("web", "Reassigned");
    assert!(
        told.contains(&v4(102)) && told.contains(&format!("was {}", v4(100))),
        "{told}"
    );
    let new: Ipv4Addr = v4(102).parse().unwrap();
    f.wait_silent(old);
    f.wait_announcer(new, |_| true);
    f.wait_condition("web", ANNOUNCED, "True", "Announced");
    assert_eq!(f.curl(Place::Client, &format!("{new}:80")).backend, "web-node2");
    f.wait_pool(&f.name, "nothing to be retained", |pool| {
        pool["status"]["ipv4"]["usage"] == "2/2" && Fixture::retained(pool).is_empty()
    });
}
