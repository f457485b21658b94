//! What becomes of a Service's addresses when its type or class changes, and when somebody else writes its status.

use std::time::{Duration, Instant};

use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, ANNOUNCED, ASSIGNED, v4};
use super::fixture::{Fixture, SOON};

/// Waits until a Service carries nothing of ours.
fn wait_bare(f: &Fixture, service: &str) {
    wait_for(&format!("{service} to carry nothing of ours"), SOON, || {
        let status = f.service(service)["status"].clone();
        let none = |value: &Value| value.is_null() || *value == json!([]);
        let bare = status["loadBalancer"] == json!({}) && none(&status["conditions"]);
        bare.then_some(()).ok_or_else(|| status.to_string())
    })
    .unwrap();
}

#[test]
fn addresses_come_and_go_with_the_type_of_the_service() {
    let f = Fixture::new("type", &["172.30.0.100-172.30.0.101"]);
    // Traffic needs no node ports.
    f.make("web", json!({"spec": {"allocateLoadBalancerNodePorts": false}}));
    f.cluster
        .apply(&manifests::web_pod(&f.name, "web", "node2"))
        .unwrap();
    f.wait_pod_ready("web-node2");
    let vip = f.wait_address("web");
    let answers = || {
        f.wait_announcer(vip, |_| true);
        assert_eq!(f.curl(Place::Client, &format!("{vip}:80")).backend, "web-node2");
        assert_eq!(f.service("web")["spec"]["ports"][0]["nodePort"], Value::Null);
    };
    answers();
    f.edit("web", &json!({"spec": {"type": "ClusterIP"}}));
    wait_bare(&f, "web");
    f.wait_silent(vip);
    f.wait_pool(&f.name, "the address given back", |pool| {
        pool["status"]["ipv4"]["usage"] == "0/2"
    });
    let back = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}});
    f.edit("web", &back);
    f.wait_ingress("web", &[vip.to_string()]);
    answers();
    // By way of another type it can come to another class; then it is none of ours.
    f.edit("web", &json!({"spec": {"type": "ClusterIP"}}));
    wait_bare(&f, "web");
    let theirs = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/other"}});
    f.edit("web", &theirs);
    f.make_with("heir", &[(ADDRESSES, &vip.to_string())]);
    f.wait_ingress("heir", &[vip.to_string()]);
    wait_bare(&f, "web");
    // What the other implementation writes stays, an address of our pool included; nobody else gets that.
    let ingress = json!([{"ip": v4(101), "ipMode": "VIP"}]);
    f.edit_status("web", &json!({"loadBalancer": {"ingress": ingress}}));
    f.make("next", json!({}));
    f.wait_refused("next", "PoolExhausted");
    f.keeps(&[("web", &[v4(101)]), ("next", &[])]);
    f.wait_silent(v4(101).parse().unwrap());
}

#[test]
fn the_ingress_of_another_implementation_is_left_alone() {
    let f = Fixture::new("foreign", &["172.30.0.100-172.30.0.101"]);
    f.set_pool("", &["172.30.0.100-172.30.0.101"], json!({"autoAssign": false}));
    f.make("web", json!({}));
    f.wait_refused("web", "NoPool");
    let theirs = json!([{"hostname": "lb.example.com"}]);
    f.edit_status("web", &json!({"loadBalancer": {"ingress": theirs}}));
    f.wait_condition("web", ASSIGNED, "False", "ServedByAnother");
    f.set_pool("", &["172.30.0.100-172.30.0.101"], json!({"autoAssign": true}));
    f.make("ours", json!({}));
    f.wait_ingress("ours", &[v4(100)]);
    let stands = || {
        let ingress = f.service("web")["status"]["loadBalancer"]["ingress"].clone();
        (ingress == theirs)
            .then_some(())
            .ok_or_else(|| ingress.to_string())
    };
    holds_for("it stands", Duration::from_secs(2), stands).unwrap();
    f.wait_condition("web", ASSIGNED, "False", "ServedByAnother");
    // One that was ours goes over to the other implementation when that writes to it, and its address is free.
    f.edit_status("ours", &json!({"loadBalancer": {"ingress": theirs}}));
    f.wait_condition("ours", ASSIGNED, "False", "ServedByAnother");
    f.wait_event("ours", "ServedByAnother");
    f.make_with("heir", &[(ADDRESSES, &v4(100))]);
    f.wait_ingress("heir", &[v4(100)]);
    // When the other one has gone, it is served.
    f.edit_status("web", &json!({"loadBalancer": {"ingress": null}}));
    f.wait_ingress("web", &[v4(101)]);
}

#[test]
fn what_is_changed_by_hand_is_put_right_and_nothing_else_is_written() {
    let f = Fixture::new("by-hand", &["172.30.0.100-172.30.0.103"]);
    // With our class: without one, an ingress from elsewhere would be taken for that of another implementation.
    f.make(
        "web",
        json!({"spec": {"loadBalancerClass": "fairlead.dev/fairlead"}}),
    );
    f.cluster
        .apply(&manifests::web_pod(&f.name, "web", "node1"))
        .unwrap();
    f.wait_pod_ready("web-node1");
    let vip = f.wait_address("web");
    f.make_with("waiting", &[(ADDRESSES, &vip.to_string())]);
    f.wait_refused("waiting", "AddressInUse");
    f.wait_announcer(vip, |_| true);
    let mine = [vip.to_string()];
    let ingress = |address: &str| json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}});
    for (what, status) in [
        ("another address of the pool", ingress(&v4(103))),
        ("an address from elsewhere", ingress("198.51.100.1")),
        (
            "a name",
            json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}),
        ),
        ("none", json!({"loadBalancer": {"ingress": null}})),
        (
            "another mode",
            json!({"loadBalancer": {"ingress": [{"ip": vip.to_string(), "ipMode": "Proxy"}]}}),
        ),
    ] {
        println!("by hand: {what}");
        f.edit_status("web", &status);
        f.wait_ingress("web", &mine);
        wait_for("the mode", SOON, || {
            let entry = f.service("web")["status"]["loadBalancer"]["ingress"][0].clone();
            (entry == json!({"ip": vip.to_string(), "ipMode": "VIP"}))
                .then_some(())
                .ok_or_else(|| entry.to_string())
        })
        .unwrap();
    }
    // The record removed: it comes back for the same address, although somebody waits for that.
    f.edit_status("web", &json!({"conditions": []}));
    f.wait_kept("web", "Assigned");
    f.keeps(&[("web", &mine), ("waiting", &[])]);
    f.wait_condition("web", ANNOUNCED, "True", "Announced");
    f.wait_announcer(vip, |_| true);
    assert_eq!(f.curl(Place::Client, &format!("{vip}:80")).backend, "web-node1");

    // Then everything is as it should be, and nothing is written again.
    let versions = || {
        let paths = [
            f.service_path("web"),
            f.service_path("waiting"),
            super::addressing::pool_path(&f.name),
        ];
        paths.map(|path| {
            f.cluster.get(&path).unwrap().unwrap_or_default()["metadata"]["resourceVersion"].to_string()
        })
    };
    wait_for("nothing to be written for 5 s", SOON, || {
        let before = versions();
        holds_for("no write", Duration::from_secs(5), || {
            let now = versions();
            (now == before)
                .then_some(())
                .ok_or_else(|| format!("{before:?} became {now:?}"))
        })
        .map_err(|error| error.to_string())
    })
    .unwrap();

    // People are told.
    let told = f.kubectl(&["describe", "service", "web", "-n", &f.name]);
    println!("{told}");
    let ingress = format!("LoadBalancer Ingress:     {vip} (VIP)");
    let assigned = format!("fairlead.dev/controller  assigned {vip} from pool {}", f.name);
    for piece in [
        &ingress,
        &assigned,
        "Normal",
        "fairlead.dev/controller  announced by node node",
    ] {
        assert!(told.contains(piece), "{piece} is missing in:\n{told}");
    }
    let told = f.kubectl(&["describe", "service", "waiting", "-n", &f.name]);
    assert!(
        told.contains("Warning") && told.contains("AddressInUse"),
        "{told}"
    );
}

#[test]
fn of_two_records_of_one_address_the_older_wins() {
    let f = Fixture::new("restored", &["172.30.0.100-172.30.0.109"]);
    let shared = f.web("a", "Cluster", &["node1"]);
    f.make("b", json!({}));
    f.wait_ingress("b", &[v4(101)]);
    f.wait_announcer(shared, |_| true);
    // As a restored etcd would have it: `b` carries the address of `a`, with a record of this time.
    let restore = |since: &str| {
        let began = Instant::now();
        f.edit_status(
            "b",
            &json!({
                "loadBalancer": {"ingress": [{"ip": shared.to_string(), "ipMode": "VIP"}]},
                "conditions": [{
                    "type": ASSIGNED, "status": "True", "reason": "Assigned", "lastTransitionTime": since,
                    "message": format!("{shared} from pool {}", f.name),
                }],
            }),
        );
        began
    };
    let moved = |loser: &str, began: Instant| {
        let new = wait_for(
            &format!("{loser} to have another address"),
            Duration::from_secs(5),
            || {
                let ingress = f.ingress(loser);
                match ingress.as_slice() {
                    [one] if *one != shared.to_string() => Ok(one.clone()),
                    _ => Err(f.service(loser)["status"].to_string()),
                }
            },
        )
        .unwrap();
        println!(
            "of two holders, {loser} has {new} after {} ms",
            began.elapsed().as_millis()
        );
        let told = f.wait_event(loser, "DoubleAssignment");
        assert!(told.contains(&shared.to_string()), "{told}");
        f.wait_event(loser, "Reassigned");
        new
    };
    let began = restore("2099-01-01T00:00:00Z");
    assert_eq!(moved("b", began), v4(101));
    f.keeps(&[("a", &[shared.to_string()]), ("b", &[v4(101)])]);
    f.wait_announcer(shared, |_| true);
    assert_eq!(f.curl(Place::Client, &format!("{shared}:80")).backend, "a-node1");
    let began = restore("2001-01-01T00:00:00Z");
    let new = moved("a", began);
    f.keeps(&[("a", std::slice::from_ref(&new)), ("b", &[shared.to_string()])]);
    f.wait_announcer(new.parse().unwrap(), |_| true);
    assert_eq!(f.curl(Place::Client, &format!("{new}:80")).backend, "a-node1");
    // `b` has no pods.
    f.wait_silent(shared);
}
