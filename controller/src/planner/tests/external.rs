//! External IPs, the finalizer of Services, and the audit.

use super::*;

/// A ClusterIP Service that asks for external IPs.
fn asking(wish: &str) -> Value {
    json!({
        "metadata": {"annotations": {"fairlead.dev/external-ips": wish}},
        "spec": {"type": "ClusterIP"},
    })
}

fn allow(cluster: &mut Cluster) {
    let mut pool = cluster.objects[&Object::Pool("blue".into())].clone();
    merge(&mut pool, &json!({"spec": {"externalIPs": {"policy": "Allow"}}}));
    cluster.put(Object::Pool("blue".into()), pool);
}

const RECORD: &str = "fairlead.dev/external-ips-assigned";

#[test]
fn a_wish_is_written_with_its_record_and_taken_away_with_it() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    allow(&mut cluster);
    cluster.service("a", 0, asking("blue"));
    assert_eq!(cluster.settle(), ["Normal Assigned: external IPs 192.0.2.0"]);
    let object_of = |cluster: &Cluster| cluster.objects[&object("a")].clone();
    assert_eq!(object_of(&cluster)["spec"]["externalIPs"], json!(["192.0.2.0"]));
    let record = object_of(&cluster)["metadata"]["annotations"][RECORD].clone();
    assert_eq!(record, "192.0.2.0 from pool blue; since 2027-01-15T08:00:00Z");
    assert_eq!(
        cluster.condition("a", "Assigned"),
        "True Assigned: external IPs 192.0.2.0 from pool blue"
    );
    assert!(cluster.condition("a", "Announced").starts_with("False NoSpeaker"));
    // Its address is nobody else's.
    cluster.service("b", 1, json!({}));
    cluster.settle();
    assert_eq!(cluster.address("b"), Some("192.0.2.1"));

    let mut unasked = object_of(&cluster);
    merge(
        &mut unasked,
        &json!({"metadata": {"annotations": {"fairlead.dev/external-ips": null}}}),
    );
    unasked["spec"]["externalIPs"] = json!(["192.0.2.0", "203.0.113.9"]);
    cluster.put(object("a"), unasked);
    assert_eq!(
        cluster.settle(),
        ["Normal Released: no longer external IPs: 192.0.2.0"]
    );
    assert_eq!(object_of(&cluster)["spec"]["externalIPs"], json!(["203.0.113.9"]));
    assert_eq!(
        object_of(&cluster)["metadata"]["annotations"][RECORD],
        json!(null)
    );
    assert_eq!(cluster.condition("a", "Assigned"), "-");
}

#[test]
fn what_is_written_by_hand_is_adopted_where_it_is_allowed_and_reported_where_it_is_not() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    let by_hand = json!({"spec": {"type": "ClusterIP", "externalIPs": ["192.0.2.3", "203.0.113.9"]}});
    cluster.service("a", 0, by_hand);
    let why = "AddressPool blue does not allow external IPs to namespace default";
    assert_eq!(cluster.settle(), [format!("Warning ExternalIPNotAllowed: {why}")]);
    assert_eq!(
        cluster.condition("a", "Assigned"),
        format!("False ExternalIPNotAllowed: {why}")
    );
    allow(&mut cluster);
    assert_eq!(cluster.settle(), ["Normal Assigned: external IPs 192.0.2.3"]);
    let record = &cluster.objects[&object("a")]["metadata"]["annotations"][RECORD];
    assert!(record.as_str().unwrap().contains("(adopted)"), "{record}");
    assert_eq!(
        cluster.objects[&object("a")]["spec"]["externalIPs"],
        json!(["192.0.2.3", "203.0.113.9"])
    );
}

#[test]
fn a_denied_write_becomes_a_reason_and_is_tried_again_later() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    allow(&mut cluster);
    cluster.settle();
    cluster.service("a", 0, asking("blue"));
    let write = cluster.step().of("a").unwrap().clone();
    cluster.end(&write, &Ended::Refused("denied by policy".into()));
    let events = cluster.settle();
    assert_eq!(
        events,
        ["Warning ExternalIPsDenied: the API server denied writing spec.externalIPs: denied by policy"]
    );
    assert!(
        cluster
            .condition("a", "Assigned")
            .starts_with("False ExternalIPsDenied")
    );
    assert!(cluster.after(1000).settle().is_empty());
}

#[test]
fn the_finalizer_comes_before_the_address_and_goes_with_the_service() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.restart(Policy {
        finalizer: true,
        ..OURS
    });
    cluster.settle();
    cluster.service("a", 0, json!({}));
    let finalizers = |cluster: &Cluster| cluster.objects[&object("a")]["metadata"]["finalizers"].clone();
    let write = cluster.step().of("a").unwrap().clone();
    assert_eq!(
        write.change.patch["metadata"]["finalizers"],
        json!(["service.kubernetes.io/load-balancer-cleanup"])
    );
    cluster.send(&write);
    cluster.show(&object("a"));
    cluster.settle();
    assert_eq!(cluster.address("a"), Some("192.0.2.0"));
    let mut deleted = cluster.objects[&object("a")].clone();
    merge(
        &mut deleted,
        &json!({"metadata": {"deletionTimestamp": "2026-02-01T00:00:00Z"}}),
    );
    cluster.put(object("a"), deleted);
    cluster.settle();
    assert_eq!(finalizers(&cluster), json!([]));
}

#[test]
fn a_finalizer_that_is_no_longer_wanted_holds_no_deletion_up() {
    let with = |mut object: Value, metadata: Value| {
        merge(&mut object, &json!({"metadata": metadata}));
        object
    };
    let with_finalizer = |service: Value| {
        let finalizers = ["service.kubernetes.io/load-balancer-cleanup"];
        with(service, json!({"finalizers": finalizers}))
    };
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("ours", 0, with_finalizer(held("192.0.2.1")));
    let theirs = json!({"spec": {"loadBalancerClass": "other.example/lb"}});
    cluster.service("theirs", 0, with_finalizer(theirs));
    cluster.settle();
    let finalizers = |cluster: &Cluster, name: &str| {
        let list = cluster.objects[&object(name)]["metadata"]["finalizers"].as_array();
        list.map_or(0, Vec::len)
    };
    assert_eq!(
        (finalizers(&cluster, "ours"), finalizers(&cluster, "theirs")),
        (1, 1)
    );
    for name in ["ours", "theirs"] {
        let deleted = cluster.objects[&object(name)].clone();
        let deletion = json!({"deletionTimestamp": "2026-02-01T00:00:00Z"});
        cluster.put(object(name), with(deleted, deletion));
    }
    cluster.settle();
    assert_eq!(
        (finalizers(&cluster, "ours"), finalizers(&cluster, "theirs")),
        (0, 1)
    );
}

#[test]
fn the_audit_finds_nothing_at_rest_and_counts_duplicates() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    cluster.after(1000).settle();
    let audit = cluster.planner.audit(&cluster.index);
    assert_eq!(audit, Audit::default());
    cluster.service("b", 1, held("192.0.2.0"));
    assert_eq!(cluster.planner.audit(&cluster.index).duplicates, 1);
    let events = cluster.settle();
    assert!(
        events
            .iter()
            .any(|event| event.starts_with("Warning DoubleAssignment")),
        "{events:?}"
    );
    // The record of `b` is older than that of `a`.
    assert_eq!(
        (cluster.address("a"), cluster.address("b")),
        (Some("192.0.2.1"), Some("192.0.2.0"))
    );
    assert_eq!(cluster.planner.audit(&cluster.index).duplicates, 0);
}
