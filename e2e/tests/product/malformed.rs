//! Objects that are wrong in every way that people find: each is refused with a message, or told what is wrong with it,
//! and nobody else notices.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairlead_e2e::product::api::{condition, path_of};
use fairlead_e2e::product::{manifests, wait_for};
use serde_json::{Value, json};

use super::churn::{Random, Witness, address, delete_all, key, service};
use super::fixture::{Fixture, SOON};

/// What is wrong is told in this time,
const TOLD: Duration = Duration::from_secs(10);
/// and a Service with which all is well has its address in this time.
const SERVED: Duration = Duration::from_secs(5);
/// Between two of them, so that on a busy machine it is not a queue that is measured.
const PAUSE: Duration = Duration::from_millis(60);
/// After so many wrong objects comes a good Service.
const EVERY: usize = 5;
/// Services that are there before.
const BEFORE: usize = 10;
/// Services whose statuses are edited by hand, of our class,
const EDITED: usize = 10;
/// and without a class: what is not from our pools is taken for somebody else's there.
const CLASSLESS: usize = 3;
const FAIRLEAD: &str = "/apis/fairlead.dev/v1alpha1";

/// What must come of a wrong object.
#[derive(Clone, Debug)]
enum Expect {
    /// The API server refuses it, with this in its message.
    Refused(&'static str),
    /// The condition that is meant for it has one of these reasons.
    Told(&'static [&'static str]),
    /// One of the two. A policy learns of a pool a moment after the pool was made, and while somebody has edited its
    /// published addresses away it knows nothing of it.
    RefusedOrTold(&'static str, &'static [&'static str]),
    /// A Service has this address again, and says so.
    Address(IpAddr),
    /// A pool says again that it is accepted and publishes these CIDRs only.
    Publishes(&'static str),
    /// It is accepted again.
    Accepted,
    /// There is nobody who could tell.
    Nothing,
}

impl Expect {
    /// Is it so? If not, what is seen.
    fn check(&self, object: &Value) -> Result<(), String> {
        let kind = if object["spec"]["ports"].is_array() {
            "fairlead.dev/Assigned"
        } else {
            "Accepted"
        };
        let (status, reason, message) = condition(object, kind).unwrap_or_default();
        let met = match self {
            Self::Refused(_) | Self::Nothing => true,
            Self::Told(reasons) | Self::RefusedOrTold(_, reasons) => {
                reasons.contains(&reason.as_str()) && !message.is_empty()
            }
            Self::Address(is) => {
                let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
                status == "True"
                    && ingress.is_some_and(|list| list.len() == 1)
                    && address(object) == Some(*is)
                    && message.starts_with(&format!("{is} from pool "))
            }
            Self::Publishes(cidr) => {
                status == "True"
                    && object["status"]["cidrs"] == json!([cidr])
                    && object["status"]["retained"].as_array().is_none_or(Vec::is_empty)
            }
            Self::Accepted => status == "True",
        };
        if met {
            Ok(())
        } else {
            Err(format!("expected {self:?}: {}", object["status"]))
        }
    }
}

/// One wrong object, or one wrong edit.
#[derive(Clone, Debug)]
struct Row {
    what: String,
    /// The object's path.
    path: String,
    /// A merge patch of its status, or the whole object.
    body: Result<Value, Value>,
    expect: Expect,
}

/// The table.
struct Rows<'a> {
    f: &'a Fixture,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn create(&mut self, what: &str, manifest: Value, expect: Expect) {
        self.rows.push(Row {
            what: what.to_owned(),
            path: path_of(&manifest).unwrap(),
            body: Err(manifest),
            expect,
        });
    }

    fn edit(&mut self, path: &str, status: &Value, expect: Expect) {
        self.rows.push(Row {
            what: format!("status {status}"),
            path: path.to_owned(),
            body: Ok(json!({ "status": status })),
            expect,
        });
    }

    /// A Service that is not the witness's.
    fn service(&mut self, what: &str, change: impl FnOnce(&mut Value), expect: Expect) {
        let mut manifest = service(self.f, &format!("bad{}", self.rows.len()));
        manifest["metadata"].as_object_mut().unwrap().remove("labels");
        change(&mut manifest);
        self.create(what, manifest, expect);
    }

    fn annotated(&mut self, annotation: &str, text: &str, expect: Expect) {
        let what = format!("{annotation}: {}", text.chars().take(60).collect::<String>());
        let annotation = format!("fairlead.dev/{annotation}");
        self.service(
            &what,
            |s| s["metadata"]["annotations"] = json!({annotation: text}),
            expect,
        );
    }

    fn requested(&mut self, text: &str, expect: Expect) {
        let what = format!("loadBalancerIP {text:?}");
        self.service(&what, |s| s["spec"]["loadBalancerIP"] = json!(text), expect);
    }

    fn pool(&mut self, spec: Value, expect: Expect) {
        let name = format!("{}-bad{}", self.f.name, self.rows.len());
        let what = format!("pool {spec}");
        let mut manifest = manifests::pool(&name, &[]);
        manifest["spec"] = spec;
        self.create(&what, manifest, expect);
    }

    fn advertisement(&mut self, spec: Value, expect: Expect) {
        let name = format!("{}-bad{}", self.f.name, self.rows.len());
        let what = format!("advertisement {spec}");
        let mut manifest = manifests::advertisement(&name, "");
        manifest["spec"] = spec;
        self.create(&what, manifest, expect);
    }
}

fn services(rows: &mut Rows<'_>, taken: &[IpAddr]) {
    use Expect::{Refused, Told};
    const NOT_IN_POOL: Expect = Told(&["AddressNotInPool"]);
    const INVALID: Expect = Told(&["InvalidRequest"]);
    let name = rows.f.name.clone();
    for text in [
        "",
        ",",
        "nonsense",
        "198.18.0",
        "198.18.0.300",
        "198.18.0.0/24",
        "198.18.0.7-198.18.0.9",
        "198.18.0.7;198.18.0.8",
        "::ffff:198.18.0.7",
        "fe80::1%eth0",
        "198.18.0.07",
        "198.18.0.7,blue",
    ] {
        rows.annotated("load-balancer-ips", text, Refused("is not an IP address"));
    }
    rows.annotated(
        "load-balancer-ips",
        "198.18.0.7,198.18.0.7",
        Refused("names an address twice"),
    );
    rows.annotated(
        "load-balancer-ips",
        &["198.18.0.7"; 33].join(","),
        Refused("more than 32"),
    );
    for n in 1..=12 {
        rows.annotated("load-balancer-ips", &format!("203.0.113.{n}"), NOT_IN_POOL);
        rows.requested(&format!("192.0.2.{}", 20 * n), NOT_IN_POOL);
    }
    for n in 1..=4 {
        rows.annotated(
            "load-balancer-ips",
            &format!("198.18.0.{},203.0.113.{n}", 200 + n),
            NOT_IN_POOL,
        );
        rows.annotated("load-balancer-ips", &format!("2001:db8::{n}"), INVALID);
        rows.requested(&format!("2001:db8::{n}"), INVALID);
    }
    for text in [
        "nonsense",
        "300.0.0.1",
        "198.18.0",
        "198.18.0.7/24",
        "198.18.0.7-198.18.0.9",
        "198.18.0.7,198.18.0.8",
        "0x7f000001",
        "198.18.0.07",
        "fe80::1%eth0",
    ] {
        rows.requested(text, INVALID);
    }
    rows.requested("::ffff:198.18.0.7", Told(&["InvalidRequest", "AddressNotInPool"]));
    for text in [
        "0.0.0.0",
        "255.255.255.255",
        "127.0.0.1",
        "224.0.0.1",
        "169.254.1.1",
        "10.96.0.1",
    ] {
        rows.requested(text, NOT_IN_POOL);
    }
    for n in 0..12 {
        rows.annotated(
            "address-pool",
            &format!("no-such-pool-{n}"),
            Told(&["UnknownPool"]),
        );
    }
    for text in ["", "Blue", "a b", "-a", "a-", "a,,b", "a_b", "a/b"] {
        rows.annotated("address-pool", text, Refused("is not the name of an AddressPool"));
    }
    for n in 1..=6 {
        let pools = format!("{name}-reserved");
        let change = move |s: &mut Value| {
            let address = format!("198.18.0.{}", 200 + n);
            s["metadata"]["annotations"] =
                json!({"fairlead.dev/address-pool": pools, "fairlead.dev/load-balancer-ips": address});
        };
        rows.service(
            "an address of another pool than the one asked for",
            change,
            NOT_IN_POOL,
        );
        rows.requested(&format!("198.18.2.{n}"), Told(&["AddressReserved"]));
        rows.annotated(
            "address-pool",
            &format!("{name}-private"),
            Told(&["PoolNotAllowed"]),
        );
        rows.requested(&format!("198.18.3.{n}"), Told(&["PoolNotAllowed"]));
    }
    for (n, address) in taken.iter().enumerate().take(8) {
        // The first of them asks to share; the others do not.
        let expect = if n == 0 {
            Told(&["SharingConflict", "AddressInUse"])
        } else {
            Told(&["AddressInUse"])
        };
        rows.requested(&address.to_string(), expect);
    }
    for other in ["shared", "shared", "another", "yet another"] {
        let address = taken[0].to_string();
        let annotations =
            json!({"fairlead.dev/allow-shared-ip": other, "fairlead.dev/load-balancer-ips": address});
        let change = |s: &mut Value| s["metadata"]["annotations"] = annotations;
        rows.service(&format!("sharing by {other}"), change, Told(&["SharingConflict"]));
    }
    for text in ["", "   ", &"x".repeat(254)] {
        rows.annotated(
            "allow-shared-ip",
            text,
            Refused("a text of 1 to 253 characters is needed"),
        );
    }
    for n in 1..=4 {
        let change = |s: &mut Value| s["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        rows.service(
            "both families where there is one",
            change,
            Told(&["FamilyMissing", "NoAddressOfFamily"]),
        );
        let change = |s: &mut Value| {
            s["spec"]["loadBalancerIP"] = json!(format!("198.18.0.{n}"));
            s["metadata"]["annotations"] = json!({"fairlead.dev/load-balancer-ips": "198.18.0.222"});
        };
        rows.service(
            "two requests that differ",
            change,
            Refused("is not among the addresses"),
        );
        rows.annotated(
            "external-ips",
            &format!("no-such-pool-{n}"),
            Told(&["UnknownPool"]),
        );
        rows.annotated(
            "external-ips",
            &name,
            Told(&["ExternalIPNotAllowed", "PoolNotAllowed"]),
        );
        let text = format!(
            "198.18.0.{} from pool {name}; since 2020-01-01T00:00:00Z",
            220 + n
        );
        rows.annotated("external-ips-assigned", &text, Refused("external-ips-assigned"));
        let change = |s: &mut Value| s["spec"]["externalIPs"] = json!([format!("198.18.0.{}", 220 + n)]);
        let expect = Expect::RefusedOrTold("external-ips-in-pools", &["ExternalIPNotAllowed"]);
        rows.service("an external IP of a pool that denies", change, expect);
    }
}

fn pools(rows: &mut Rows<'_>) {
    use Expect::{Refused, Told};
    let with = |entry: &str| json!({"addresses": ["198.51.100.0/28", entry]});
    for (entry, piece) in [
        ("", "at least 1 chars"),
        ("example.com", "is neither a CIDR"),
        ("192.0.2.0/33", "is neither a CIDR"),
        ("192.0.2", "is neither a CIDR"),
        ("192.0.2.1-", "is neither a CIDR"),
        ("-192.0.2.1", "is neither a CIDR"),
        ("192.0.2.1-192.0.2.2-192.0.2.3", "is neither a CIDR"),
        ("192.0.2.1,192.0.2.2", "is neither a CIDR"),
        ("192.0.2.0/24-192.0.3.0/24", "is neither a CIDR"),
        ("fe80::1%eth0", "is neither a CIDR"),
        ("::ffff:192.0.2.1", "IPv4-mapped"),
        ("::ffff:192.0.2.0/120", "IPv4-mapped"),
        ("192.0.2.1/24", "has bits set"),
        ("2001:db8::1/64", "has bits set"),
        ("192.0.2.9-192.0.2.1", "ends before it begins"),
        ("2001:db8::9-2001:db8::1", "ends before it begins"),
        ("192.0.2.1-2001:db8::1", "mixes IPv4 and IPv6"),
        ("0.0.0.0/0", "is too large"),
        ("::/0", "is too large"),
        ("127.0.0.0/8", "is no use"),
        ("169.254.1.0/24", "is no use"),
        ("224.0.0.1-224.0.0.9", "is no use"),
        ("fe80::/64", "is no use"),
        ("ff02::1", "is no use"),
    ] {
        rows.pool(with(entry), Refused(piece));
    }
    for entry in [
        "198.18.0.0/24",
        "198.18.0.0/25",
        "198.18.0.128/25",
        "198.18.0.0/16",
        "198.18.0.7",
        "198.18.0.255/32",
        "198.17.255.0-198.18.0.0",
        "198.18.0.255-198.18.1.9",
        "198.18.2.0/28",
        "198.18.2.15-198.18.2.16",
        "198.18.3.0/30",
        "198.18.0.1-198.18.0.254",
    ] {
        rows.pool(json!({"addresses": [entry]}), Told(&["OverlappingPool"]));
    }
    for entry in [
        "198.51.100.0/28",
        "198.51.100.7",
        "198.51.100.0/24",
        "198.51.100.15-198.51.100.20",
    ] {
        rows.pool(with(entry), Told(&["InvalidAddress"]));
    }
    for addresses in [
        json!(null),
        json!(5),
        json!("198.51.100.0/24"),
        json!({}),
        json!([]),
        json!([7]),
        json!([null]),
    ] {
        rows.pool(json!({ "addresses": addresses }), Refused("addresses"));
    }
    for requirement in [
        json!({"key": "zone", "operator": "In"}),
        json!({"key": "zone", "operator": "In", "values": []}),
        json!({"key": "zone", "operator": "Exists", "values": ["a"]}),
        json!({"key": "zone", "operator": "Equals", "values": ["a"]}),
        json!({"key": "a b", "operator": "Exists"}),
        json!({"key": "zone", "operator": "In", "values": ["a b"]}),
        json!({"operator": "Exists"}),
        json!({"key": "", "operator": "Exists"}),
    ] {
        let selector = json!({"matchExpressions": [requirement]});
        let spec = json!({"addresses": ["198.51.100.0/28"], "allocation": {"namespaceSelector": selector}});
        rows.pool(spec, Refused("namespaceSelector"));
        rows.advertisement(json!({"nodeSelectors": [selector]}), Refused("nodeSelectors"));
        rows.advertisement(
            json!({"serviceSelectors": [selector]}),
            Refused("serviceSelectors"),
        );
        let preference = json!({"weight": 5, "preference": selector});
        rows.advertisement(
            json!({"preferredNodeSelectors": [preference]}),
            Refused("preferredNodeSelectors"),
        );
    }
    for n in 0..12 {
        rows.advertisement(
            json!({"addressPools": [format!("no-such-pool-{n}")]}),
            Told(&["UnknownPool"]),
        );
    }
    for spec in [
        json!({"addressPools": ["Blue"]}),
        json!({"addressPools": [""]}),
        json!({"addressPools": "blue"}),
        json!({"interfaces": ["a/b"]}),
        json!({"interfaces": ["sixteen-letters-"]}),
        json!({"interfaces": ["!"]}),
        json!({"interfaces": ["!!eth0"]}),
        json!({"interfaces": ["eth[0-9]"]}),
        json!({"interfaces": vec!["!eth*"; 65]}),
        json!({"preemptAfter": ""}),
        json!({"preemptAfter": "5"}),
        json!({"preemptAfter": "never"}),
        json!({"preemptAfter": "-1s"}),
        json!({"preemptAfter": "25h"}),
        json!({"preemptAfter": 300}),
        json!({"conflictPolicy": "Ignore"}),
        json!({"preferredNodeSelectors": [{"weight": 0, "preference": {}}]}),
        json!({"preferredNodeSelectors": [{"weight": 101, "preference": {}}]}),
        json!({"preferredNodeSelectors": [{"weight": 5}]}),
        json!({"preferredNodeSelectors": vec![json!({"weight": 1, "preference": {}}); 17]}),
        json!({"serviceSelectors": vec![json!({}); 17]}),
    ] {
        rows.advertisement(spec, Refused("spec."));
    }
    for (health, piece) in [
        (json!({"interval": "soon"}), "is not a duration"),
        (json!({"interval": "0s"}), "is not between"),
        (json!({"interval": "61s"}), "is not between"),
        (json!({"interval": 500}), "must be of type string"),
        (json!({"timeout": "1ms"}), "is not between"),
        (json!({"timeout": "1.5s"}), "is not a duration"),
        (json!({"interval": "1s", "timeout": "2s"}), "longer than interval"),
        (json!({"failureThreshold": 0}), "greater than or equal to 1"),
        (json!({"failureThreshold": 101}), "less than or equal to 100"),
        (json!({"successThreshold": 0}), "greater than or equal to 1"),
    ] {
        let spec = json!({"addresses": ["198.51.100.0/28"], "health": health});
        rows.pool(spec, Refused(piece));
    }
}

/// What people do to statuses, and to the reports of nodes that are not there.
fn edits(rows: &mut Rows<'_>, taken: IpAddr) {
    let f = rows.f;
    let record = |message: String, since: &str| {
        json!({"type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned", "observedGeneration": 1,
            "message": message, "lastTransitionTime": since})
    };
    let ingress = |list: Value| json!({"loadBalancer": {"ingress": list}});
    let edits: [Value; EDITED] = [
        ingress(json!([{"ip": "8.8.8.8"}])),
        ingress(json!([{"ip": "198.18.0.250"}])),
        ingress(json!([{"ip": taken.to_string()}])),
        ingress(json!([{"hostname": "example.com"}])),
        ingress(json!([{"ip": "8.8.8.8"}, {"ip": "2001:db8::1"}])),
        ingress(Value::Null),
        json!({ "conditions": null }),
        json!({"conditions": [record("nonsense".into(), "2020-01-01T00:00:00Z")]}),
        json!({"conditions": [record("8.8.8.8 from pool nowhere".into(), "2020-01-01T00:00:00Z")]}),
        json!({"loadBalancer": {"ingress": [{"ip": taken.to_string()}]},
            "conditions": [record(format!("{taken} from pool {}", f.name), "2099-01-01T00:00:00Z")]}),
    ];
    let foreign: [Value; CLASSLESS] = [
        ingress(json!([{"ip": "8.8.4.4"}])),
        ingress(json!([{"hostname": "example.org"}])),
        ingress(json!([{"ip": "8.8.4.4"}, {"ip": "2001:db8::2"}])),
    ];
    for (n, status) in foreign.iter().enumerate() {
        let path = format!("{}/status", f.service_path(&format!("classless{n}")));
        rows.edit(&path, status, Expect::Told(&["ServedByAnother"]));
    }
    for (n, status) in edits.iter().enumerate() {
        let name = format!("edited{n}");
        // Who took its address away for good is given one again, maybe another; this is about who did not.
        let expect = match status["conditions"] {
            Value::Null if n != 6 => Expect::Address(address(&f.service(&name)).unwrap()),
            _ => Expect::Told(&["Assigned"]),
        };
        rows.edit(&format!("{}/status", f.service_path(&name)), status, expect);
    }
    let pool = format!("{FAIRLEAD}/addresspools/{}/status", f.name);
    for status in [
        json!({"cidrs": ["100.64.0.0/10"]}),
        json!({"cidrs": ["nonsense"], "retained": ["nonsense"]}),
        json!({"retained": ["203.0.113.0-203.0.113.255"]}),
        json!({ "cidrs": null, "conditions": null }),
        json!({"ipv4": {"total": -1, "assigned": -1, "available": -1, "usage": ""}}),
    ] {
        rows.edit(&pool, &status, Expect::Publishes("198.18.0.0/24"));
    }
    let advertisement = format!("{FAIRLEAD}/l2advertisements/{}/status", f.name);
    rows.edit(&advertisement, &json!({ "conditions": null }), Expect::Accepted);
    rows.edit(&advertisement, &json!({ "conditions": [] }), Expect::Accepted);
    for n in 0..4 {
        let state = json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState",
            "metadata": {"name": format!("{}-ghost{n}", f.name)}, "spec": {},
            "status": {"subnets": ["198.18.0.0/15", "nonsense"], "gateways": ["198.18.0.9", "nonsense"]},
        });
        rows.create("the report of a node that is not there", state, Expect::Nothing);
    }
}

/// An object that was accepted, since when, and how long it took until it was as expected.
struct Pending {
    row: Row,
    since: Instant,
    took: Option<Duration>,
    seen: String,
}

/// Looks at everything that is pending.
fn look(f: &Fixture, pending: &Mutex<Vec<Pending>>) {
    let lists = [
        format!("/api/v1/namespaces/{}/services", f.name),
        format!("{FAIRLEAD}/addresspools"),
        format!("{FAIRLEAD}/l2advertisements"),
    ];
    for list in lists {
        // What is pending now is in the list, or newer than it.
        let asked = Instant::now();
        let items = f.cluster.list(&list).unwrap();
        for pending in pending.lock().unwrap().iter_mut() {
            let path = pending.row.path.trim_end_matches("/status");
            let Some(name) = path.strip_prefix(&format!("{list}/")) else {
                continue;
            };
            if pending.took.is_some() || pending.since > asked {
                continue;
            }
            let item = items.iter().find(|item| item["metadata"]["name"] == name);
            match pending.row.expect.check(item.unwrap_or(&Value::Null)) {
                Ok(()) => pending.took = Some(pending.since.elapsed()),
                Err(seen) => pending.seen = seen,
            }
        }
    }
}

/// Deletes what no fixture knows of.
struct Cleanup<'a>(&'a Fixture);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        delete_all(self.0);
        let prefix = format!("{}-", self.0.name);
        for kind in ["addresspools", "l2advertisements", "nodestates"] {
            let list = format!("{FAIRLEAD}/{kind}");
            for item in self.0.cluster.list(&list).unwrap_or_default() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                if name.starts_with(&prefix)
                    && let Err(error) = self.0.cluster.delete(&format!("{list}/{name}"))
                {
                    eprintln!("cleaning up: {error}");
                }
            }
        }
    }
}

#[test]
fn wrong_objects_are_refused_or_told_why_and_disturb_nobody() {
    let f = Fixture::new("malformed", &["198.18.0.0/24"]);
    let _cleanup = Cleanup(&f);
    let mut random = Random::new("malformed objects");
    let pool = |suffix: &str, cidr: &str, field: &str, value: Value| {
        let mut pool = manifests::pool(&format!("{}-{suffix}", f.name), &[cidr]);
        pool["spec"]["autoAssign"] = json!(false);
        pool["spec"][field] = value;
        f.cluster.apply(&pool).unwrap();
    };
    pool("reserved", "198.18.2.0/28", "reserved", json!(["198.18.2.0/28"]));
    pool(
        "private",
        "198.18.3.0/28",
        "allocation",
        json!({"namespaces": ["nobody"]}),
    );
    let witness = Witness::new(&f);
    let mut good = BTreeSet::new();
    for n in 0..BEFORE {
        let mut before = service(&f, &format!("before{n}"));
        if n == 0 {
            before["metadata"]["annotations"] = json!({"fairlead.dev/allow-shared-ip": "shared"});
        }
        f.cluster.apply(&before).unwrap();
        good.insert(key(&f, &format!("before{n}")));
    }
    let edited = (0..EDITED).map(|n| (format!("edited{n}"), json!("fairlead.dev/fairlead")));
    let classless = (0..CLASSLESS).map(|n| (format!("classless{n}"), Value::Null));
    for (name, class) in edited.chain(classless) {
        let mut edited = service(&f, &name);
        edited["metadata"].as_object_mut().unwrap().remove("labels");
        if !class.is_null() {
            edited["spec"]["loadBalancerClass"] = class;
        }
        f.cluster.apply(&edited).unwrap();
        f.wait_address(&name);
    }
    witness.wait_all(&f, &good, SOON);
    let taken: Vec<IpAddr> = (0..BEFORE)
        .map(|n| address(&f.service(&format!("before{n}"))).unwrap())
        .collect();

    let mut rows = Rows { f: &f, rows: vec![] };
    services(&mut rows, &taken);
    pools(&mut rows);
    edits(&mut rows, taken[1]);
    let mut rows = rows.rows;
    // In any order: none of them may depend on what others left.
    for last in (1..rows.len()).rev() {
        rows.swap(last, random.below(last + 1));
    }
    let count = rows.len();
    assert!(count >= 200, "{count} rows");

    let (pending, done) = (Mutex::new(Vec::<Pending>::new()), AtomicBool::new(false));
    let (mut wrong, mut refused, mut slowest_creation) = (vec![], 0, Duration::ZERO);
    std::thread::scope(|scope| {
        /// Ends the looking, also when the test fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                look(&f, &pending);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let _stop = Stop(&done);
        for (number, row) in rows.into_iter().enumerate() {
            std::thread::sleep(PAUSE);
            if number % EVERY == 0 {
                let name = format!("good{number}");
                let asked = Instant::now();
                f.cluster.create(&service(&f, &name), false).unwrap();
                slowest_creation = slowest_creation.max(asked.elapsed());
                witness.timeline().created(&key(&f, &name), witness.clock());
                good.insert(key(&f, &name));
            }
            let answer = match &row.body {
                Err(manifest) => f.cluster.create(manifest, false),
                Ok(patch) => f.cluster.patch(&row.path, patch),
            };
            match (&answer, &row.expect) {
                (Err(error), Expect::Refused(piece) | Expect::RefusedOrTold(piece, _))
                    if error.to_string().contains(piece) =>
                {
                    refused += 1;
                }
                (Err(error), _) => wrong.push(format!("{}: expected {:?}: {error}", row.what, row.expect)),
                (Ok(_), Expect::Refused(_)) => wrong.push(format!("{}: accepted", row.what)),
                (Ok(_), Expect::Nothing) => {}
                (Ok(_), _) => pending.lock().unwrap().push(Pending {
                    row,
                    since: Instant::now(),
                    took: None,
                    seen: "never seen".into(),
                }),
            }
        }
        let all_told = wait_for("every wrong object to be told why", TOLD, || {
            let pending = pending.lock().unwrap();
            match pending.iter().filter(|pending| pending.took.is_none()).count() {
                0 => Ok(()),
                left => Err(format!("{left} are not")),
            }
        });
        if let Err(error) = all_told {
            wrong.push(error.to_string());
        }
    });
    let pending = pending.into_inner().unwrap();
    for pending in &pending {
        if pending.took.is_none_or(|took| took > TOLD) {
            wrong.push(format!(
                "{}: {:?}: {}",
                pending.row.what, pending.took, pending.seen
            ));
        }
    }
    let slowest = pending
        .iter()
        .filter_map(|pending| pending.took)
        .max()
        .unwrap_or_default();
    let mut served = witness.timeline().waits();
    served.sort();
    let (half, served) = (served[served.len() / 2], served[served.len() - 1]);
    println!(
        "{count} wrong objects and edits: {refused} refused, {} told why after {} ms at the most; {} good Services \
         in between had addresses after {} ms, the slowest after {} ms (their creations \
         took {} ms at the most)",
        pending.len(),
        slowest.as_millis(),
        good.len() - BEFORE,
        half.as_millis(),
        served.as_millis(),
        slowest_creation.as_millis()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    witness.wait_all(&f, &good, SOON);
    witness.assert_undisturbed(&BTreeSet::new());
    assert!(served <= SERVED, "{served:?}");
}
