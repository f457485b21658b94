//! From the first address of a Service to its last.

use fairlead_core::ownership::CLASS;

use super::*;

#[test]
fn a_source_range_that_cannot_be_read_is_named_beside_the_addresses() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service(
        "a",
        0,
        json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/88"]}}),
    );
    let step = cluster.step();
    let write = step.of("a").unwrap();
    let condition = &write.change.patch["status"]["conditions"][0];
    assert_eq!(condition["status"], "True");
    assert_eq!(condition["reason"], "InvalidField");
    assert_eq!(
        condition["message"],
        "192.0.2.0 from pool blue; of loadBalancerSourceRanges, \"10.0.0.0/88\" cannot be read and admits nobody"
    );
    assert!(write.change.notices.iter().any(|notice| notice.warning));
    cluster.settle();
    let annotation = json!({"metadata": {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8"}},
        "spec": {"loadBalancerSourceRanges": null}});
    assert!(cluster.step().of("a").is_none(), "it is said once");
    cluster.service("b", 1, annotation);
    let step = cluster.step();
    assert_eq!(
        step.of("b").unwrap().change.patch["status"]["conditions"][0]["reason"],
        "Assigned"
    );
}

#[test]
fn nothing_is_planned_before_every_kind_is_listed() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.index.views = fairlead_runtime::Table::tracked("NodeState");
    assert!(!cluster.planner.update(&mut cluster.index, cluster.now));
    cluster.index.views.reset(BTreeMap::new());
    assert!(!cluster.step().writes.is_empty());
}

#[test]
fn a_new_service_gets_address_record_and_conditions_in_one_patch() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    let version = cluster.objects[&object("a")]["metadata"]["resourceVersion"].clone();
    let step = cluster.step();
    let write = step.of("a").unwrap();
    assert_eq!(
        write.change.patch,
        json!({
            "metadata": {"resourceVersion": version},
            "status": {
                "loadBalancer": {"ingress": [{"ip": "192.0.2.0", "ipMode": "VIP"}]},
                "conditions": [
                    {
                        "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned",
                        "message": "192.0.2.0 from pool blue", "observedGeneration": 3,
                        "lastTransitionTime": "2027-01-15T08:00:00Z",
                    },
                    {
                        "type": "fairlead.dev/Announced", "status": "False", "reason": "NoSpeaker",
                        "message": "192.0.2.0 is announced by no node: no speaker reports about it",
                        "observedGeneration": 3, "lastTransitionTime": "2027-01-15T08:00:00Z",
                    },
                ],
            },
        })
    );
    assert_eq!(write.object, object("a"));
    let events: Vec<String> = write.change.notices.iter().map(shown).collect();
    assert_eq!(events, ["Normal Assigned: assigned 192.0.2.0 from pool blue"]);
    for write in &step.writes {
        assert!(matches!(cluster.send(write), Ended::Accepted(_)));
        cluster.show(&write.object);
    }
    cluster.after(500).settle();
    let pool = &cluster.objects[&Object::Pool("blue".into())]["status"];
    assert_eq!(
        pool["ipv4"],
        json!({"total": 4, "assigned": 1, "available": 3, "usage": "1/4"})
    );
    assert_eq!(pool["conditions"][0]["reason"], "Accepted");
}

#[test]
fn a_restart_changes_nothing() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 1, json!({}));
    cluster.service("b", 0, json!({}));
    cluster.view("n1", &[("192.0.2.0", 1), ("192.0.2.1", 1)], &[]);
    cluster.settle();
    cluster.after(1000).settle();
    cluster.restart(OURS);
    let step = cluster.after(60_000).step();
    assert_eq!(step.writes, []);
    assert!(step.notices.is_empty());
}

#[test]
fn conditions_of_others_are_carried_over() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, held("192.0.2.2"));
    cluster.settle();
    let types: Vec<&str> = cluster.status("a")["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "fairlead.dev/Assigned",
            "example.com/Other",
            "fairlead.dev/Announced"
        ]
    );
    assert_eq!(cluster.address("a"), Some("192.0.2.2"));
}

#[test]
fn the_age_of_the_record_changes_with_the_address_only() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, held("192.0.2.2"));
    cluster.settle();
    let since = |cluster: &Cluster| {
        cluster.status("a")["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find_map(|condition| {
                let ours = condition["type"] == "fairlead.dev/Assigned";
                ours.then(|| condition["lastTransitionTime"].as_str().unwrap().to_owned())
            })
    };
    assert_eq!(since(&cluster).as_deref(), Some("2026-01-03T00:00:00Z"));
    let mut wished = cluster.objects[&object("a")].clone();
    wished["spec"]["loadBalancerIP"] = json!("192.0.2.3");
    cluster.put(object("a"), wished);
    assert_eq!(
        cluster.settle(),
        ["Normal Reassigned: assigned 192.0.2.3 from pool blue (was 192.0.2.2)"]
    );
    assert_eq!(since(&cluster).as_deref(), Some("2027-01-15T08:00:00Z"));
    assert!(cluster.condition("a", "Announced").starts_with("False NoSpeaker"));
}

#[test]
fn a_wish_that_cannot_be_met_is_told_beside_the_record() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, held("192.0.2.2"));
    cluster.settle();
    let mut wished = cluster.objects[&object("a")].clone();
    wished["spec"]["loadBalancerIP"] = json!("198.51.100.1");
    cluster.put(object("a"), wished);
    let why = "requested 198.51.100.1: it is in no AddressPool";
    assert_eq!(cluster.settle(), [format!("Warning AddressNotInPool: {why}")]);
    assert_eq!(
        cluster.condition("a", "Assigned"),
        format!("True AddressNotInPool: 192.0.2.2 from pool blue; {why}")
    );
    assert_eq!(cluster.address("a"), Some("192.0.2.2"));
    // The record is read back past the remark: nothing moves after a restart.
    cluster.after(500).settle();
    cluster.restart(OURS);
    assert_eq!(cluster.step().writes, []);
}

#[test]
fn an_exhausted_pool_is_told_once_and_a_freed_address_is_given_away() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    for (name, age) in [("a", 0), ("b", 1), ("c", 2)] {
        cluster.service(name, age, json!({}));
    }
    let events = cluster.settle();
    let warnings: Vec<&String> = events
        .iter()
        .filter(|event| event.starts_with("Warning"))
        .collect();
    assert_eq!(
        warnings,
        ["Warning PoolExhausted: every IPv4 address of the AddressPools is in use (blue)"]
    );
    assert!(
        cluster
            .condition("c", "Assigned")
            .starts_with("False PoolExhausted")
    );
    assert_eq!(
        cluster.condition("c", "Announced"),
        "False NotAssigned: the Service has no address"
    );
    assert!(cluster.after(1000).settle().is_empty());
    cluster.delete("a");
    assert_eq!(
        cluster.settle(),
        ["Normal Assigned: assigned 192.0.2.0 from pool blue"]
    );
    assert_eq!(cluster.address("c"), Some("192.0.2.0"));
}

#[test]
fn the_ingress_of_another_implementation_is_not_touched() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    let foreign = json!({"status": {"loadBalancer": {"ingress": [{"ip": "8.8.8.8", "ipMode": "VIP"}]}}});
    cluster.service("a", 0, foreign.clone());
    let events = cluster.settle();
    assert!(
        events.len() == 1 && events[0].starts_with("Warning ServedByAnother"),
        "{events:?}"
    );
    assert_eq!(cluster.address("a"), Some("8.8.8.8"));
    assert_eq!(cluster.condition("a", "Announced"), "-");
    // With our class the status is ours, and is corrected.
    let mut ours = foreign;
    merge(&mut ours, &json!({"spec": {"loadBalancerClass": CLASS}}));
    cluster.service("b", 0, ours);
    cluster.settle();
    assert_eq!(cluster.address("b"), Some("192.0.2.0"));
}

#[test]
fn services_of_other_classes_are_never_written() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({"spec": {"loadBalancerClass": "other.example/lb"}}));
    cluster.service("b", 0, json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(cluster.step().writes, []);
}

#[test]
fn what_is_no_longer_ours_is_taken_back_and_nothing_else() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    // The API server clears the ingress when the type changes; our conditions are ours to remove.
    let mut left = held("192.0.2.1");
    merge(
        &mut left,
        &json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": null}}}),
    );
    cluster.service("changed-type", 0, left);
    let mut mixed = held("192.0.2.2");
    mixed["status"]["loadBalancer"]["ingress"] = json!([
        {"ip": "192.0.2.2", "ipMode": "VIP"}, {"hostname": "lb.example.com"}
    ]);
    cluster.service("class-less", 0, mixed);
    cluster.restart(Policy {
        class: ClassPolicy {
            serve_classless: false,
            metallb: false,
        },
        finalizer: false,
    });
    cluster.settle();
    for name in ["changed-type", "class-less"] {
        let conditions = cluster.status(name)["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1, "{name}");
        assert_eq!(conditions[0]["type"], "example.com/Other");
    }
    let ingress = &cluster.status("class-less")["loadBalancer"]["ingress"];
    assert_eq!(*ingress, json!([{"hostname": "lb.example.com"}]));
}

#[test]
fn a_status_that_means_the_same_is_not_written() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, held("192.0.2.2"));
    cluster.settle();
    cluster.after(1000).settle();
    let mut bare = cluster.objects[&object("a")].clone();
    bare["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.2"}]);
    cluster.put(object("a"), bare);
    assert_eq!(cluster.step().writes, []);
}
