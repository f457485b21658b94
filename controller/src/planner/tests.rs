//! Index → plan → patch, against objects as JSON. `Cluster` does to them what the API server does with a merge patch.

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_core::ownership::CLASS;
use k8s_openapi::api::core::v1 as core_v1;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::index::{AdvertisementEntry, PoolEntry};
use crate::quiet::LASTING;
use crate::view::NodeView;
use crate::writes::Ended;

const OURS: ClassPolicy = ClassPolicy {
    serve_classless: true,
    metallb: false,
};

struct Cluster {
    objects: BTreeMap<Object, Value>,
    version: u64,
    index: Index,
    planner: Planner,
    start: Instant,
    now: Instant,
}

fn typed<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"))
}

impl Cluster {
    /// One pool `blue` with one advertisement, and two nodes.
    fn new(addresses: &str) -> Self {
        let now = Instant::now();
        let mut cluster = Self {
            objects: BTreeMap::new(),
            version: 0,
            index: Index::default(),
            planner: Planner::new(OURS),
            start: now,
            now,
        };
        cluster.index.services.reset(BTreeMap::new());
        cluster.index.pools.reset(BTreeMap::new());
        cluster.index.advertisements.reset(BTreeMap::new());
        cluster.index.nodes.reset(BTreeMap::new());
        cluster.index.views.reset(BTreeMap::new());
        cluster.index.leaving.reset(BTreeMap::new());
        cluster.pool("blue", addresses);
        cluster.node("n1");
        cluster.node("n2");
        cluster
    }

    fn put(&mut self, object: Object, mut value: Value) {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(object.clone(), value);
        self.show(&object);
    }

    /// The watch shows the object as it is now.
    fn show(&mut self, object: &Object) {
        let (value, key) = (&self.objects[object], object.name());
        match object {
            Object::Service(_) => self.index.services.apply(&key, ServiceEntry::new(&typed(value))),
            Object::Pool(_) => self.index.pools.apply(&key, PoolEntry::new(&typed(value))),
            Object::Advertisement(_) => self
                .index
                .advertisements
                .apply(&key, AdvertisementEntry::new(&typed(value))),
        };
    }

    fn pool(&mut self, name: &str, addresses: &str) {
        let created = format!("2026-01-01T00:00:{:02}Z", self.version % 60);
        self.put(
            Object::Pool(name.into()),
            json!({
                "apiVersion": "fairlead.dev/v1alpha1", "kind": "AddressPool",
                "metadata": {"name": name, "uid": name, "creationTimestamp": created},
                "spec": {"addresses": [addresses]},
            }),
        );
    }

    fn node(&mut self, name: &str) {
        let node: core_v1::Node = typed(&json!({"metadata": {"name": name, "uid": name}}));
        self.index.nodes.apply(name, fairlead_api::convert::node(&node));
    }

    /// A LoadBalancer Service `default/<name>`, created so many seconds after the first.
    fn service(&mut self, name: &str, age: u8, more: Value) {
        let mut value = json!({
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 3,
                "creationTimestamp": format!("2026-01-02T00:00:{age:02}Z"),
            },
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]},
            "status": {"loadBalancer": {}},
        });
        merge(&mut value, &more);
        self.put(object(name), value);
    }

    fn delete(&mut self, name: &str) {
        self.objects.remove(&object(name));
        self.index.services.delete(&format!("default/{name}"));
    }

    /// A node reports what it announces, and what it holds back.
    fn view(&mut self, node: &str, announced: &[(&str, i64)], held_back: &[(&str, Reason)]) {
        let ip = |text: &str| text.parse().unwrap();
        let view = NodeView {
            node: node.into(),
            announced: announced.iter().map(|(text, claim)| (ip(text), *claim)).collect(),
            held_back: held_back
                .iter()
                .map(|(text, why)| (ip(text), (*why, "because".to_owned())))
                .collect(),
        };
        self.index.views.apply(node, Some(view));
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    fn step(&mut self) -> Step {
        let passed = i64::try_from((self.now - self.start).as_millis()).unwrap();
        let wall = Timestamp::from_millisecond(1_800_000_000_000 + passed).unwrap();
        self.planner
            .step(&self.index, self.now, wall)
            .expect("all kinds are listed")
    }

    /// Does a write as the API server does: refuses it unless the version is the present one.
    fn send(&mut self, write: &Write) -> Ended {
        self.planner
            .writes
            .begin(write.object.clone(), &write.base, write.change.after.clone());
        let value = self.objects.get_mut(&write.object).expect("the object exists");
        let ended =
            if write.change.patch["metadata"]["resourceVersion"] == value["metadata"]["resourceVersion"] {
                merge(value, &write.change.patch);
                self.version += 1;
                value["metadata"]["resourceVersion"] = json!(self.version.to_string());
                Ended::Accepted(self.version.to_string())
            } else {
                Ended::Stale
            };
        self.planner.writes.end(&write.object, &ended, self.now);
        ended
    }

    /// Plans and writes until nothing is left to write; answers with all events, in order, as `Reason: note`.
    fn settle(&mut self) -> Vec<String> {
        let mut events = vec![];
        for _ in 0..10 {
            let step = self.step();
            let alone = step.notices.iter().map(|(_, _, notice)| shown(notice));
            events.extend(alone);
            if step.writes.is_empty() {
                return events;
            }
            for write in &step.writes {
                assert!(matches!(self.send(write), Ended::Accepted(_)), "{write:#?}");
                events.extend(write.change.notices.iter().map(shown));
                self.show(&write.object);
            }
        }
        panic!("does not settle: {:#?}", self.step().writes);
    }

    fn status(&self, name: &str) -> &Value {
        &self.objects[&object(name)]["status"]
    }

    fn address(&self, name: &str) -> Option<&str> {
        self.status(name)["loadBalancer"]["ingress"][0]["ip"].as_str()
    }

    /// `True Reason: message` of a condition.
    fn condition(&self, name: &str, type_: &str) -> String {
        let conditions = self.status(name)["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == format!("fairlead.dev/{type_}"));
        found.map_or("-".to_owned(), |c| {
            let text = |field: &str| c[field].as_str().unwrap_or("?").to_owned();
            format!("{} {}: {}", text("status"), text("reason"), text("message"))
        })
    }
}

fn object(name: &str) -> Object {
    Object::Service(ServiceKey::new("default", name))
}

fn shown(notice: &Notice) -> String {
    let kind = if notice.warning { "Warning" } else { "Normal" };
    format!("{kind} {}: {}", notice.reason, notice.note)
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|map| map.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn record(address: &str) -> Value {
    json!([
        {
            "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned",
            "message": format!("{address} from pool blue"), "lastTransitionTime": "2026-01-03T00:00:00Z",
        },
        {
            "type": "example.com/Other", "status": "True", "reason": "Fine", "message": "",
            "lastTransitionTime": "2026-01-03T00:00:00Z",
        },
    ])
}

fn held(address: &str) -> Value {
    json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}, "conditions": record(address)}})
}

#[test]
fn nothing_is_planned_before_every_kind_is_listed() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.index.views = fairlead_runtime::Table::new("NodeState");
    assert!(
        cluster
            .planner
            .step(&cluster.index, cluster.now, Timestamp::now())
            .is_none()
    );
    cluster.index.views.reset(BTreeMap::new());
    assert!(!cluster.step().writes.is_empty());
}

#[test]
fn a_new_service_gets_address_record_and_conditions_in_one_patch() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    let step = cluster.step();
    let write = &step.writes[0];
    assert_eq!(
        write.change.patch,
        json!({
            "metadata": {"resourceVersion": "2"},
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
    assert_eq!(
        cluster.settle(),
        ["Normal Assigned: assigned 192.0.2.0 from pool blue"]
    );
    let pool = &cluster.objects[&Object::Pool("blue".into())]["status"];
    assert_eq!((&pool["assigned"], &pool["available"]), (&json!(1), &json!(3)));
    assert_eq!(pool["conditions"][0]["reason"], "Accepted");
}

#[test]
fn a_restart_changes_nothing() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 1, json!({}));
    cluster.service("b", 0, json!({}));
    cluster.view("n1", &[("192.0.2.0", 1), ("192.0.2.1", 1)], &[]);
    cluster.settle();
    cluster.planner = Planner::new(OURS);
    let step = cluster.after(60_000).step();
    assert_eq!(step.writes, []);
    assert!(step.notices.is_empty());
}

#[test]
fn announcements_follow_the_speakers_and_hand_overs_are_quiet() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    cluster.view("n1", &[("192.0.2.0", 1)], &[]);
    assert_eq!(cluster.settle(), ["Normal Announced: announced by node n1"]);
    assert_eq!(
        cluster.condition("a", "Announced"),
        "True Announced: announced by node n1"
    );

    cluster.view("n1", &[], &[("192.0.2.0", Reason::NotElected)]);
    assert!(cluster.after(100).settle().is_empty());
    assert_eq!(
        cluster.condition("a", "Announced"),
        "True Announced: announced by node n1"
    );
    cluster.view("n2", &[("192.0.2.0", 2)], &[]);
    assert_eq!(
        cluster.after(100).settle(),
        ["Normal OwnerChanged: announced by node n2 (was node n1)"]
    );

    cluster.view("n1", &[], &[("192.0.2.0", Reason::NoLocalEndpoint)]);
    cluster.view("n2", &[], &[("192.0.2.0", Reason::ProbeFailed)]);
    let step = cluster.after(10).step();
    assert_eq!(step.wake, Some(cluster.now + LASTING));
    assert!(step.writes.is_empty());
    let why = "192.0.2.0 is announced by no node: held back on n2 (because)";
    assert_eq!(
        cluster.after(2000).settle(),
        [format!("Warning ProbeFailed: {why}")]
    );
    assert_eq!(
        cluster.condition("a", "Announced"),
        format!("False ProbeFailed: {why}")
    );
    assert!(cluster.after(60_000).settle().is_empty());
    cluster.view("n1", &[("192.0.2.0", 3)], &[]);
    assert_eq!(cluster.settle(), ["Normal Announced: announced by node n1"]);
}

#[test]
fn a_node_that_is_gone_announces_nothing() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.view("n1", &[("192.0.2.0", 1)], &[]);
    cluster.settle();
    cluster.index.nodes.delete("n1");
    assert!(cluster.settle().is_empty());
    let events = cluster.after(2000).settle();
    assert!(
        events.len() == 1 && events[0].starts_with("Warning NoSpeaker"),
        "{events:?}"
    );
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
        ["Normal Assigned: assigned 192.0.2.3 from pool blue"]
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
    let why = "spec.loadBalancerIP 198.51.100.1: it is in no AddressPool";
    assert_eq!(cluster.settle(), [format!("Warning AddressNotInPool: {why}")]);
    assert_eq!(
        cluster.condition("a", "Assigned"),
        format!("True AddressNotInPool: 192.0.2.2 from pool blue; {why}")
    );
    assert_eq!(cluster.address("a"), Some("192.0.2.2"));
    // The record is read back past the remark: nothing moves after a restart.
    cluster.planner = Planner::new(OURS);
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
fn a_write_that_no_watch_has_shown_yet_counts() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("young", 9, json!({}));
    let write = cluster.step().writes.remove(0);
    cluster.send(&write);
    // An older Service appears; by order of age alone it would get the address that was just written.
    cluster.service("old", 0, json!({}));
    let step = cluster.step();
    assert!(step.writes.iter().all(|write| write.object != object("young")));
    let old = step
        .writes
        .iter()
        .find(|write| write.object == object("old"))
        .unwrap()
        .clone();
    assert_eq!(
        old.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"],
        "192.0.2.1"
    );
    cluster.send(&old);
    cluster.show(&object("young"));
    cluster.show(&object("old"));
    cluster.settle();
    assert_eq!(
        (cluster.address("young"), cluster.address("old")),
        (Some("192.0.2.0"), Some("192.0.2.1"))
    );
}

#[test]
fn a_write_without_an_answer_holds_its_address_and_a_refused_one_does_not() {
    for (ended, given) in [(Ended::Unknown, "192.0.2.1"), (Ended::Refused, "192.0.2.0")] {
        let mut cluster = Cluster::new("192.0.2.0/31");
        cluster.service("young", 9, json!({}));
        let write = cluster.step().writes.remove(0);
        cluster
            .planner
            .writes
            .begin(write.object.clone(), &write.base, write.change.after.clone());
        cluster.planner.writes.end(&write.object, &ended, cluster.now);
        cluster.service("old", 0, json!({}));
        let step = cluster.step();
        let old = step
            .writes
            .iter()
            .find(|write| write.object == object("old"))
            .unwrap();
        let ip = &old.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"];
        assert_eq!(ip, given, "{ended:?}");
        assert!(step.wake.is_some(), "the write is tried again");
    }
}

#[test]
fn a_given_up_address_is_free_only_when_the_watch_shows_it() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("a", 0, held("192.0.2.0"));
    cluster.settle();
    let mut wished = cluster.objects[&object("a")].clone();
    wished["spec"]["loadBalancerIP"] = json!("192.0.2.1");
    cluster.put(object("a"), wished);
    let write = cluster.step().writes.remove(0);
    cluster.send(&write);
    cluster.service("waiting", 1, json!({}));
    let waiting = |step: &Step| {
        let write = step
            .writes
            .iter()
            .find(|write| write.object == object("waiting"))?;
        write.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(waiting(&cluster.step()), None);
    cluster.show(&object("a"));
    assert_eq!(waiting(&cluster.step()).as_deref(), Some("192.0.2.0"));
}

#[test]
fn a_stale_write_is_planned_again_from_the_newer_state() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("a", 0, json!({}));
    let write = cluster.step().writes.remove(0);
    // Somebody else was faster, and the watch has not shown it yet.
    cluster.version += 1;
    let version = json!(cluster.version.to_string());
    cluster.objects.get_mut(&object("a")).unwrap()["metadata"]["resourceVersion"] = version;
    assert_eq!(cluster.send(&write), Ended::Stale);
    assert!(
        cluster
            .step()
            .writes
            .iter()
            .all(|write| write.object != object("a"))
    );
    cluster.show(&object("a"));
    cluster.settle();
    assert_eq!(cluster.address("a"), Some("192.0.2.0"));
}

#[test]
fn a_deleted_pool_drops_no_live_address_and_says_so() {
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
    assert!(cluster.after(2000).settle().is_empty());
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
    cluster.settle();
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
    cluster.planner = Planner::new(ClassPolicy {
        serve_classless: false,
        metallb: false,
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
    let mut bare = cluster.objects[&object("a")].clone();
    bare["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.2"}]);
    cluster.put(object("a"), bare);
    assert_eq!(cluster.step().writes, []);
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
        (&status["conditions"][0]["status"], &status["available"]),
        (&json!("False"), &json!(0))
    );
    assert!(cluster.settle().is_empty());
}

#[test]
fn services_appear_while_writes_lag_and_no_address_is_given_twice() {
    let mut cluster = Cluster::new("192.0.2.0-192.0.2.63");
    let mut unseen: Vec<Object> = vec![];
    for round in 0u8..50 {
        // Later ones are older, so that order alone would take addresses away from those before them.
        cluster.service(&format!("s{round:03}"), 59 - round, json!({}));
        let step = cluster.step();
        for write in step.writes.iter().take(2) {
            cluster.send(write);
            unseen.push(write.object.clone());
        }
        if round % 3 == 0 && !unseen.is_empty() {
            let object = unseen.remove(0);
            cluster.show(&object);
        }
        let mut seen = std::collections::BTreeSet::new();
        for (object, value) in cluster
            .objects
            .iter()
            .filter(|(object, _)| matches!(object, Object::Service(_)))
        {
            if let Some(ip) = value["status"]["loadBalancer"]["ingress"][0]["ip"].as_str() {
                assert!(
                    seen.insert(ip.to_owned()),
                    "{ip} was given twice, last to {object:?}"
                );
            }
        }
    }
    unseen.iter().for_each(|object| cluster.show(object));
    cluster.settle();
    let given = cluster
        .objects
        .values()
        .filter(|value| value["status"]["loadBalancer"]["ingress"].is_array())
        .count();
    assert_eq!(given, 50);
}
