//! Pools and advertisements.

use super::*;

#[test]
fn a_pool_that_vanished_drops_no_live_address_and_says_so() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.view("n1", &[("192.0.2.0", 1)], &[]);
    cluster.settle();
    cluster.index.pools.delete("blue");
    cluster.objects.remove(&Object::Pool("blue".into()));
    let gone = "192.0.2.0 is in no AddressPool any more, so it is not announced";
    assert_eq!(cluster.settle(), [format!("Warning NotOwned: {gone}")]);
    cluster.view("n1", &[], &[]);
    cluster.settle();
    // Told once: the condition follows without a second event.
    assert!(cluster.after(5000).settle().is_empty());
    assert_eq!(cluster.address("a"), Some("192.0.2.0"));
    assert_eq!(
        cluster.condition("a", "Assigned"),
        format!("True NotOwned: 192.0.2.0 from pool blue; {gone}")
    );
    assert_eq!(
        cluster.condition("a", "Announced"),
        format!("False NotOwned: {gone}")
    );
    // The pool comes back, and so does everything else.
    cluster.pool("blue", "192.0.2.0/30");
    cluster.view("n1", &[("192.0.2.0", 2)], &[]);
    assert_eq!(cluster.settle(), ["Normal Announced: announced by node n1"]);
    assert_eq!(
        cluster.condition("a", "Assigned"),
        "True Assigned: 192.0.2.0 from pool blue"
    );
}

#[test]
fn rejected_configuration_is_told_on_the_object() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.pool("green", "192.0.2.0/24");
    cluster.put(
        Object::Advertisement("adv".into()),
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "L2Advertisement",
            "metadata": {"name": "adv", "uid": "adv", "generation": 1}, "spec": {"addressPools": ["blue", "red"]},
        }),
    );
    let mut events = cluster.settle();
    events.sort();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].starts_with("Warning OverlappingPool"), "{events:?}");
    assert!(events[1].starts_with("Warning UnknownPool"), "{events:?}");
    let status = &cluster.objects[&Object::Pool("green".into())]["status"];
    assert_eq!(
        (&status["conditions"][0]["status"], &status["cidrs"]),
        (&json!("False"), &json!(null))
    );
    assert!(cluster.settle().is_empty());
}

#[test]
fn an_advertisement_that_cannot_be_read_is_told_so_until_it_is_corrected() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    let put = |cluster: &mut Cluster, spec: Value| {
        let advertisement = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "L2Advertisement",
            "metadata": {"name": "adv", "uid": "adv", "generation": 1}, "spec": spec,
        });
        cluster.put(Object::Advertisement("adv".into()), advertisement);
        cluster.settle()
    };
    let condition = |cluster: &Cluster| {
        let status = &cluster.objects[&Object::Advertisement("adv".into())]["status"];
        ["status", "reason"].map(|field| status["conditions"][0][field].clone())
    };
    // What the schema of an older installation may have let through.
    for spec in [
        json!({"interfaces": ["eth0", "eth[0-9]"]}),
        json!({"preemptAfter": "soon"}),
        json!({"preferredNodeSelectors": [{"weight": 0, "preference": {}}]}),
    ] {
        let events = put(&mut cluster, spec);
        assert!(events[0].starts_with("Warning InvalidField: spec."), "{events:?}");
        assert_eq!(condition(&cluster), ["False", "InvalidField"]);
    }
    put(
        &mut cluster,
        json!({"interfaces": ["eth*", "!eth1"], "preemptAfter": "Never"}),
    );
    assert_eq!(condition(&cluster), ["True", "Accepted"]);
}

fn pool_status(cluster: &Cluster) -> Value {
    cluster.objects[&Object::Pool("blue".into())]["status"].clone()
}

fn edit_pool(cluster: &mut Cluster, change: &Value) {
    let mut pool = cluster.objects[&Object::Pool("blue".into())].clone();
    merge(&mut pool, change);
    cluster.put(Object::Pool("blue".into()), pool);
}

#[test]
fn a_pool_gets_its_finalizer_before_anything_else() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.pool("green", "198.51.100.0/30");
    let step = cluster.steps(1);
    assert_eq!(step.writes[0].object, Object::Pool("green".into()));
    assert_eq!(
        step.writes[0].change.patch["metadata"]["finalizers"],
        json!(["fairlead.dev/addresses-in-use"])
    );
    assert_eq!(step.writes[0].change.part, crate::change::Part::Main);
}

#[test]
fn a_pool_that_shrinks_retains_what_is_in_use_in_the_patch_that_publishes_the_rest() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    for name in ["a", "b"] {
        cluster.service(name, 0, json!({}));
    }
    cluster.settle();
    assert_eq!(pool_status(&cluster)["cidrs"], json!(["192.0.2.0/30"]));
    edit_pool(
        &mut cluster,
        &json!({"spec": {"addresses": ["192.0.2.1-192.0.2.3"]}}),
    );
    let step = cluster.steps(1);
    let status = &step.writes[0].change.patch["status"];
    assert_eq!(status["cidrs"], json!(["192.0.2.1/32", "192.0.2.2/31"]));
    assert_eq!(status["retained"], json!(["192.0.2.0"]));
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("default/a"), "{message}");
    cluster.send(&step.writes[0].clone());
    cluster.show(&Object::Pool("blue".into()));
    let events = cluster.settle();
    let kept = "192.0.2.0 is no longer in AddressPool blue; the Service keeps it";
    assert_eq!(events, [format!("Warning Retained: {kept}")]);
    assert_eq!(
        cluster.condition("a", "Assigned"),
        format!("True Retained: 192.0.2.0 from pool blue; {kept}")
    );
    // A new Service cannot get it, and when it is given up it is gone.
    cluster.service("c", 1, json!({}));
    cluster.settle();
    assert_eq!(cluster.address("c"), Some("192.0.2.2"));
    cluster.delete("a");
    cluster.after(500).settle();
    assert_eq!(
        pool_status(&cluster)["retained"],
        json!(null).as_array().map_or(json!([]), |_| json!([]))
    );
    assert_eq!(pool_status(&cluster)["conditions"][0]["reason"], "Accepted");
}

#[test]
fn a_pool_that_is_deleted_stays_until_its_last_address_is_given_up() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    edit_pool(
        &mut cluster,
        &json!({"metadata": {"deletionTimestamp": "2026-02-01T00:00:00Z"}}),
    );
    cluster.settle();
    let status = pool_status(&cluster);
    assert_eq!(status["conditions"][0]["reason"], "InUse");
    assert_eq!(status["conditions"][0]["status"], "False");
    assert_eq!(status["retained"], json!(["192.0.2.0"]));
    cluster.service("b", 0, json!({}));
    cluster.settle();
    assert!(cluster.condition("b", "Assigned").starts_with("False NoPool"));
    assert_eq!(cluster.address("a"), Some("192.0.2.0"));
    cluster.delete("a");
    cluster.after(500).settle();
    assert_eq!(
        cluster.objects[&Object::Pool("blue".into())]["metadata"]["finalizers"],
        json!([])
    );
}

#[test]
fn a_pool_that_wants_it_has_its_services_renumbered() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    edit_pool(
        &mut cluster,
        &json!({"spec": {"addresses": ["192.0.2.2/31"], "onRemove": "Reassign"}}),
    );
    let events = cluster.settle();
    // Until the Service has moved, the address is in use.
    assert!(events[0].starts_with("Warning InUse"), "{events:?}");
    assert_eq!(
        events[1..],
        ["Normal Reassigned: assigned 192.0.2.2 from pool blue (was 192.0.2.0)"]
    );
    cluster.after(500).settle();
    assert_eq!(pool_status(&cluster)["conditions"][0]["reason"], "Accepted");
}

#[test]
fn what_belongs_to_the_cluster_is_never_given() {
    let mut cluster = Cluster::new("192.0.2.0/29");
    let node = json!({
        "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["192.0.2.2/31"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.0"}]},
    });
    let node: core_v1::Node = typed(&node);
    cluster
        .index
        .nodes
        .apply("n1", fairlead_api::convert::node(&node));
    cluster
        .index
        .service_cidrs
        .apply("kubernetes", Some(vec!["192.0.2.4/31".parse().unwrap()]));
    for (name, address) in [("a", "192.0.2.1"), ("b", "192.0.2.6")] {
        cluster.after(100).service(name, 0, json!({}));
        cluster.settle();
        assert_eq!(cluster.address(name), Some(address));
    }
    cluster.service("c", 0, json!({"spec": {"loadBalancerIP": "192.0.2.3"}}));
    cluster.settle();
    assert_eq!(
        cluster.condition("c", "Assigned"),
        "False AddressReserved: 192.0.2.3 is in the pod network 192.0.2.2/31 of node n1"
    );
}

#[test]
fn pools_are_published_for_admission_policies() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.put(
        Object::State,
        json!({"metadata": {"name": "state"}, "data": {"leaving": "false"}}),
    );
    cluster.settle();
    assert_eq!(
        cluster.objects[&Object::State]["data"]["poolCIDRs"],
        "192.0.2.0/30"
    );
}
