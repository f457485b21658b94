//! Index → plan → patch, against objects as JSON. `Cluster` does to them what the API server does with a merge patch.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core_v1;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::index::{AdvertisementEntry, BgpAdvertisementEntry, PeerEntry, PoolEntry, StateEntry};
use crate::view::NodeView;
use crate::writes::Ended;

mod announcing;
mod bgp;
mod configuration;
mod external;
mod lagging;
mod lifecycle;

pub(super) const OURS: Policy = Policy {
    class: ClassPolicy {
        serve_classless: true,
        metallb: false,
    },
    finalizer: false,
};

/// What the planner asks for at one time.
struct Step {
    writes: Vec<Write>,
    notices: Vec<Notice>,
    wake: Option<Instant>,
}

impl Step {
    /// The write of a Service.
    fn of(&self, name: &str) -> Option<&Write> {
        self.writes.iter().find(|write| write.object == object(name))
    }
}

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
    /// The planner starts anew, as after a restart or at the beginning of a term.
    fn restart(&mut self, policy: Policy) {
        self.planner = Planner::new(policy);
    }

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
        cluster.index = listed();
        cluster.pool("blue", addresses);
        cluster.node("n1");
        cluster.node("n2");
        cluster.settle();
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
            Object::Peer(_) => self.index.peers.apply(&key, PeerEntry::new(&typed(value))),
            Object::BgpAdvertisement(_) => self
                .index
                .bgp_advertisements
                .apply(&key, BgpAdvertisementEntry::new(&typed(value))),
            Object::State => self.index.state.apply(&key, StateEntry::new(&typed(value))),
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
            announced: announced.iter().map(|(text, claim)| (ip(text), *claim)).collect(),
            held_back: held_back
                .iter()
                .map(|(text, why)| (ip(text), (*why, "because".to_owned())))
                .collect(),
            ..NodeView::empty(node.into())
        };
        self.index.views.apply(node, Some(view));
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    /// Takes over what changed; the next writes, so many at the most, are under way from then on.
    fn steps(&mut self, most: usize) -> Step {
        let passed = i64::try_from((self.now - self.start).as_millis()).unwrap();
        let wall = Timestamp::from_millisecond(1_800_000_000_000 + passed).unwrap();
        assert!(
            self.planner.update(&mut self.index, self.now),
            "all kinds are listed"
        );
        let mut writes = vec![];
        while writes.len() < most
            && let Some(write) = self.planner.next(&self.index, self.now, wall)
        {
            writes.push(write);
        }
        Step {
            writes,
            notices: self
                .planner
                .notices()
                .into_iter()
                .map(|(_, _, notice)| notice)
                .collect(),
            wake: self.planner.wake(self.now),
        }
    }

    fn step(&mut self) -> Step {
        self.steps(usize::MAX)
    }

    fn end(&mut self, write: &Write, ended: &Ended) {
        self.planner.end(&self.index, write, ended, self.now);
    }

    /// Does a write as the API server does: refuses it unless the version is the present one.
    fn send(&mut self, write: &Write) -> Ended {
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
        self.end(write, &ended);
        ended
    }

    /// Plans and writes until nothing is left to write; answers with all events, in order, as `Reason: note`.
    fn settle(&mut self) -> Vec<String> {
        let mut events = vec![];
        for _ in 0..20 {
            let step = self.step();
            events.extend(step.notices.iter().map(shown));
            // What is put together at most so often may be due in a moment.
            let soon = self.now + GATHERING;
            match step.wake {
                Some(wake) if step.writes.is_empty() && wake <= soon => self.now = soon,
                _ if step.writes.is_empty() => return events,
                _ => {}
            }
            for write in &step.writes {
                assert!(matches!(self.send(write), Ended::Accepted(_)), "{write:#?}");
                events.extend(write.change.notices.iter().map(shown));
                self.show(&write.object);
            }
        }
        panic!("does not settle: {:#?}", self.step().writes)
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

/// An index in which every kind has been listed.
fn listed() -> Index {
    let mut index = Index::default();
    index.services.reset(BTreeMap::new());
    index.pools.reset(BTreeMap::new());
    index.advertisements.reset(BTreeMap::new());
    index.peers.reset(BTreeMap::new());
    index.bgp_advertisements.reset(BTreeMap::new());
    index.nodes.reset(BTreeMap::new());
    index.namespaces.reset(BTreeMap::new());
    index.service_cidrs.reset(BTreeMap::new());
    index.views.reset(BTreeMap::new());
    index.state.reset(BTreeMap::new());
    index
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
