//! The admission policies of the chart for external IPs, asked of the API server itself: as a user who may do everything
//! in one namespace, and as the controller.

use std::time::Duration;

use fairlead_e2e::product::install::{NAMESPACE, RELEASE, run, tree};
use fairlead_e2e::product::{Cluster, manifests, wait_for};
use serde_json::{Value, json};

use super::api_only::{ApiOnly, Table, controller, user};

fn with_external_ips(test: &ApiOnly, name: &str, addresses: &[&str]) -> Value {
    let mut service = test.service(name);
    service["spec"]["externalIPs"] = json!(addresses);
    service
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// A pool that is there, with its addresses published, until the value is dropped.
struct Pool<'a> {
    cluster: &'a Cluster,
    path: String,
    manifest: Value,
}

impl<'a> Pool<'a> {
    /// Of one CIDR, that denies external IPs.
    fn new(test: &'a ApiOnly, name: &str, cidr: &str) -> Self {
        Self::with(test, name, &[cidr], &[cidr])
    }

    fn with(test: &'a ApiOnly, name: &str, addresses: &[&str], cidrs: &[&str]) -> Self {
        let pool = Self {
            cluster: &test.cluster,
            path: format!("/apis/fairlead.dev/v1alpha1/addresspools/{name}"),
            manifest: manifests::pool(name, addresses),
        };
        pool.set(&json!({}));
        // What the controller writes; where it runs, it comes to the same.
        let status = json!({"status": {"cidrs": cidrs}});
        let path = format!("{}/status", pool.path);
        test.cluster.patch(&path, &status).unwrap();
        pool
    }

    fn set(&self, external_ips: &Value) {
        let mut manifest = self.manifest.clone();
        manifest["spec"]["externalIPs"] = external_ips.clone();
        self.cluster.apply(&manifest).unwrap();
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // The finalizer is the controller's; it goes with the pool.
        if let Err(error) = self.cluster.delete_and_wait(&self.path, Duration::from_secs(20)) {
            eprintln!("cleaning up: {error}");
        }
    }
}

#[test]
fn external_ips_of_a_pool_go_to_the_namespaces_that_it_names() {
    let test = ApiOnly::new("external-ips");
    let user = user(&test);
    let label = |labels: &Value| {
        let path = format!("/api/v1/namespaces/{}", test.name);
        test.cluster
            .patch(&path, &json!({"metadata": {"labels": labels}}))
            .unwrap();
    };
    label(&json!({"team": "blue", "zone": "a"}));
    let me = test.name.as_str();
    let expressions =
        |list: Value| json!({"policy": "Allow", "namespaceSelector": {"matchExpressions": list}});
    let one = |operator: &str, key: &str| expressions(json!([{"key": key, "operator": operator}]));
    let values = |operator: &str, key: &str, values: &[&str]| {
        expressions(json!([{"key": key, "operator": operator, "values": values}]))
    };
    let labels = |labels: Value| json!({"policy": "Allow", "namespaceSelector": {"matchLabels": labels}});
    let refused = format!("is in AddressPool e2e-ext, which does not allow external IPs to namespace {me}");
    let refused = Some(refused.as_str());
    let inside = with_external_ips(&test, "inside", &["192.0.2.77"]);
    let pool = Pool::new(&test, "e2e-ext", "192.0.2.64/26");
    test.wait_refused("the pool to be known", &inside, "AddressPool e2e-ext");
    let rows: &[(Value, Option<&str>)] = &[
        (json!({"policy": "Allow"}), None),
        (json!({}), refused),
        (json!({"policy": "Deny"}), refused),
        (json!({"policy": "Allow", "namespaces": ["other", me]}), None),
        (json!({"policy": "Allow", "namespaces": ["other"]}), refused),
        (json!({"policy": "Allow", "namespaces": []}), None),
        (json!({"policy": "Allow", "namespaceSelector": {}}), None),
        (labels(json!({"team": "blue"})), None),
        (labels(json!({"team": "red"})), refused),
        (labels(json!({"team": "blue", "zone": "a"})), None),
        (labels(json!({"team": "blue", "zone": "b"})), refused),
        (labels(json!({"absent": ""})), refused),
        (values("In", "zone", &["a", "b"]), None),
        (values("In", "zone", &["b"]), refused),
        (values("In", "absent", &["a"]), refused),
        (values("NotIn", "zone", &["b"]), None),
        (values("NotIn", "absent", &["a"]), None),
        (values("NotIn", "zone", &["a"]), refused),
        (one("Exists", "zone"), None),
        (one("Exists", "absent"), refused),
        (one("DoesNotExist", "absent"), None),
        (one("DoesNotExist", "zone"), refused),
        (
            expressions(
                json!([{"key": "zone", "operator": "Exists"}, {"key": "team", "operator": "In", "values": ["red"]}]),
            ),
            refused,
        ),
        // Listed or selected: one of them is enough.
        (
            json!({"policy": "Allow", "namespaces": [me], "namespaceSelector": {"matchLabels": {"team": "red"}}}),
            None,
        ),
        (
            json!({"policy": "Allow", "namespaces": ["other"], "namespaceSelector": {"matchLabels": {"team": "blue"}}}),
            None,
        ),
        (
            json!({"policy": "Allow", "namespaces": ["other"], "namespaceSelector": {"matchLabels": {"team": "red"}}}),
            refused,
        ),
    ];
    let mut table = Table::default();
    for (rule, refusal) in rows {
        pool.set(rule);
        let answer = wait_for(
            "the answer that the rule asks for",
            Duration::from_secs(5),
            || {
                let answer = user.create(&inside, true);
                match (&answer, refusal) {
                    (Ok(_), None) | (Err(_), Some(_)) => Ok(answer),
                    _ => Err(format!("{answer:?}")),
                }
            },
        )
        .unwrap_or_else(|_| user.create(&inside, true));
        table.row(&rule.to_string(), &answer, *refusal);
    }
    table.finish();

    // Not in the pool, or not to be compared with it.
    pool.set(&json!({}));
    test.wait_refused("nobody to be allowed", &inside, "AddressPool e2e-ext");
    let mut table = Table::default();
    for (addresses, refusal) in [
        (&["192.0.2.63"][..], None),
        (&["192.0.2.128", "2001:db8::1"], None),
        (
            &["192.0.2.64"],
            Some("external IP 192.0.2.64 is in AddressPool e2e-ext"),
        ),
        (
            &["192.0.2.1", "192.0.2.127"],
            Some("one of the external IPs 192.0.2.1, 192.0.2.127 is in AddressPool e2e-ext"),
        ),
        (&["::ffff:192.0.2.77"], Some("IPv4-mapped")),
    ] {
        let service = with_external_ips(&test, "outside", addresses);
        table.row(&format!("{addresses:?}"), &user.create(&service, true), refusal);
    }
    table.finish();
    drop(pool);
}

#[test]
fn external_ips_that_stand_already_are_tolerated() {
    let test = ApiOnly::new("tolerated");
    let user = user(&test);
    user.create(
        &with_external_ips(&test, "old", &["192.0.2.77", "2001:db8::7"]),
        false,
    )
    .unwrap();
    let _pool = Pool::new(&test, "e2e-old", "192.0.2.64/26");
    let six = Pool::new(&test, "e2e-old6", "2001:db8::/64");
    for address in ["192.0.2.78", "2001:db8::8"] {
        let service = with_external_ips(&test, "new", &[address]);
        test.wait_refused("the pool to be known", &service, "does not allow external IPs");
    }
    let path = test.service_path("old");
    let mut table = Table::default();
    for (patch, refusal) in [
        (json!({"metadata": {"labels": {"touched": "yes"}}}), None),
        (json!({"spec": {"ports": [{"port": 81}]}}), None),
        // The same by value, in another order, with one that belongs to nobody.
        (
            json!({"spec": {"externalIPs": ["2001:DB8:0::7", "192.0.2.77", "198.51.100.1"]}}),
            None,
        ),
        (json!({"spec": {"externalIPs": ["2001:db8::7"]}}), None),
        (json!({"spec": {"externalIPs": null}}), None),
        (
            json!({"spec": {"externalIPs": ["192.0.2.77", "2001:db8::7", "192.0.2.78"]}}),
            Some("external IP 192.0.2.78 is in AddressPool e2e-old,"),
        ),
        (
            json!({"spec": {"externalIPs": ["192.0.2.77", "2001:db8::8"]}}),
            Some("external IP 2001:db8::8 is in AddressPool e2e-old6,"),
        ),
    ] {
        let answer = user.patch(&format!("{path}?dryRun=All"), &patch);
        table.row(&patch.to_string(), &answer, refusal);
    }
    // Nor does the status of such a Service concern the policy.
    let answer = test.cluster.patch(
        &format!("{path}/status?dryRun=All"),
        &json!({"status": {"conditions": [{"type": "example.com/x", "status": "True", "reason": "X", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    );
    table.row("status", &answer, None);
    // The controller is bound by the rules of pools like everybody.
    let added = json!({"spec": {"externalIPs": ["192.0.2.77", "2001:db8::7", "192.0.2.79"]}});
    let answer = controller(&test).patch(&format!("{path}?dryRun=All"), &added);
    table.row(
        "the controller",
        &answer,
        Some("external IP 192.0.2.79 is in AddressPool e2e-old,"),
    );
    table.finish();
    drop(six);
    // What was given up cannot be taken back.
    user.patch(&path, &json!({"spec": {"externalIPs": ["2001:db8::7"]}}))
        .unwrap();
    let answer = user.patch(&path, &json!({"spec": {"externalIPs": ["192.0.2.77"]}}));
    let text = answer.unwrap_err().to_string();
    assert!(
        text.contains("external IP 192.0.2.77 is in AddressPool e2e-old,"),
        "{text}"
    );
}

#[test]
fn a_pool_of_more_ranges_than_can_be_compared_says_so() {
    let test = ApiOnly::new("many-ranges");
    // Every such range takes 32 CIDRs: 16 that grow from its first address, and 16 that shrink towards its last.
    let ranges: Vec<String> = (0..256)
        .map(|n| format!("2001:db8:0:{n:x}::1-2001:db8:0:{n:x}::1:fffe"))
        .collect();
    let growing = (0..16).map(|bits| (1_u32 << bits, 128 - bits));
    let shrinking = (0..16).map(|bits| (0x1_ffff - ((1_u32 << (bits + 1)) - 1), 128 - bits));
    let parts: Vec<(u32, u32)> = growing.chain(shrinking).collect();
    let cidr = |n: usize, (start, prefix): (u32, u32)| {
        format!(
            "2001:db8:0:{n:x}::{:x}:{:x}/{prefix}",
            start >> 16,
            start & 0xffff
        )
    };
    let cidrs: Vec<String> = (0..256)
        .flat_map(|n| parts.iter().map(move |part| cidr(n, *part)))
        .collect();
    assert_eq!(cidrs.len(), 8192);
    let _pool = Pool::with(&test, "e2e-many", &texts(&ranges), &texts(&cidrs));
    let last = with_external_ips(&test, "last", &["2001:db8:0:ff::1:fffe"]);
    test.wait_refused("the pool to be known", &last, "is in AddressPool e2e-many");
    let of = |count: usize| {
        let addresses: Vec<String> = (0..count)
            .map(|n| format!("2001:db8:1:1:1:1:1:{:x}", 0x1000 + n))
            .collect();
        with_external_ips(&test, "many", &texts(&addresses))
    };
    let mut table = Table::default();
    table.row("8 addresses", &test.cluster.create(&of(8), true), None);
    table.row(
        "9 addresses",
        &test.cluster.create(&of(9), true),
        Some("too many external IPs at once to compare with the 8192 ranges of AddressPool e2e-many"),
    );
    table.finish();
}

#[test]
fn addresses_outside_all_pools_are_refused_where_that_is_wished() {
    let test = ApiOnly::new("outside");
    let user = user(&test);
    // Under a release name of its own, so that neither the policy nor its parameter is the installation's.
    let chart = tree().join("charts/fairlead");
    let chart = chart.to_string_lossy();
    let arguments = [
        "template",
        "e2e-outside",
        &chart,
        "-n",
        &test.name,
        "--kube-version",
        "1.33.0",
        "--set=admissionPolicies.externalIPsOutsidePools=Deny",
        "--show-only=templates/admission-external-ips.yaml",
    ];
    let rendered = run(&mut test.lab.helm(arguments).unwrap()).unwrap();
    let ours = rendered
        .split("\n---\n")
        .filter(|document| document.contains("name: e2e-outside-external-ips-outside-pools"))
        .collect::<Vec<_>>();
    assert_eq!(ours.len(), 2, "a policy and its binding:\n{rendered}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ours.join("\n---\n")).unwrap();
    let path = file.path().to_string_lossy().into_owned();
    // It is never taken away again, only kept to this namespace: once no policy has ConfigMaps as parameters any more,
    // the API server stops following them until it is restarted (docs/design/admission.md).
    run(&mut test.lab.kubectl(["apply", "--server-side", "-f", &path]).unwrap()).unwrap();
    let bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    let only_here = json!({"spec": {"matchResources": {"namespaceSelector": {
        "matchLabels": {"kubernetes.io/metadata.name": test.name}}}}});
    test.cluster
        .patch(
            &format!("{bindings}/e2e-outside-external-ips-outside-pools"),
            &only_here,
        )
        .unwrap();

    let state = |data: Value| {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": test.name, "name": "e2e-outside-state"}, "data": data,
        });
        test.cluster.apply(&map).unwrap();
    };
    let outside = with_external_ips(&test, "outside", &["192.0.2.1"]);
    user.create(&with_external_ips(&test, "old", &["192.0.2.1"]), false)
        .unwrap();
    state(json!({"leaving": "false", "poolCIDRs": "198.51.100.0/24,2001:db8::/64"}));
    test.wait_refused(
        "the policy to be in force",
        &outside,
        "external IP 192.0.2.1 is in no AddressPool",
    );
    let mut table = Table::default();
    for (addresses, refusal) in [
        (&["198.51.100.7"][..], None),
        (&["198.51.100.7", "2001:db8::5"], None),
        (&[], None),
        (
            &["198.51.100.7", "192.0.2.1"],
            Some("one of the external IPs 198.51.100.7, 192.0.2.1 is in no AddressPool"),
        ),
        (
            &["2001:db8:0:1::1"],
            Some("external IP 2001:db8:0:1::1 is in no AddressPool"),
        ),
        (&["::ffff:198.51.100.7"], Some("IPv4-mapped")),
    ] {
        let service = with_external_ips(&test, "new", addresses);
        table.row(&format!("{addresses:?}"), &user.create(&service, true), refusal);
    }
    let old = format!("{}?dryRun=All", test.service_path("old"));
    for (addresses, refusal) in [
        (json!(["192.0.2.1", "198.51.100.1"]), None),
        (
            json!(["192.0.2.1", "192.0.2.2"]),
            Some("external IP 192.0.2.2 is in no AddressPool"),
        ),
    ] {
        let answer = user.patch(&old, &json!({"spec": {"externalIPs": addresses}}));
        table.row(&addresses.to_string(), &answer, refusal);
    }
    table.finish();
    // No pool at all is known to be none; where nothing is known, nothing is refused.
    state(json!({"poolCIDRs": ""}));
    let inside = with_external_ips(&test, "inside", &["198.51.100.7"]);
    test.wait_refused("no pool", &inside, "is in no AddressPool");
    state(json!({"leaving": "false"}));
    test.wait_accepted("the absent key to refuse nothing", &outside);
    test.cluster
        .delete(&format!(
            "/api/v1/namespaces/{}/configmaps/e2e-outside-state",
            test.name
        ))
        .unwrap();
    test.wait_accepted("the absent ConfigMap to refuse nothing", &outside);
}

#[test]
fn every_policy_is_well_typed() {
    let test = ApiOnly::new("typed");
    for name in ["external-ips-in-pools", "external-ips-record", "requests"] {
        let path =
            format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{RELEASE}-{name}");
        let checked = wait_for(
            "the API server to check the types",
            Duration::from_secs(20),
            || {
                let policy = test
                    .cluster
                    .get(&path)
                    .map_err(|error| error.to_string())?
                    .unwrap_or_default();
                let current = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
                if current {
                    Ok(policy["status"]["typeChecking"].clone())
                } else {
                    Err(policy["status"].to_string())
                }
            },
        )
        .unwrap();
        assert_eq!(checked, json!({}), "{name}");
    }
}

#[test]
fn programs_have_the_rights_that_they_need_and_no_more() {
    let test = ApiOnly::new("rights-of-accounts");
    let state = format!("configmaps/{RELEASE}-state");
    let may = |account: &str, verb: &str, what: &str| {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-{account}");
        let scope: &[&str] = if what == state {
            &["-n", NAMESPACE]
        } else {
            &["-A"]
        };
        let what: Vec<&str> = what.split(' ').collect();
        let arguments = [&["auth", "can-i", verb, &who], what.as_slice(), scope].concat();
        let output = test.lab.kubectl(arguments).unwrap().output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let mut wrong = Vec::new();
    for (account, verb, what, expected) in [
        ("controller", "patch", "services", "yes"),
        ("controller", "patch", "services --subresource=status", "yes"),
        ("controller", "watch", "namespaces", "yes"),
        ("controller", "list", "servicecidrs.networking.k8s.io", "yes"),
        ("controller", "patch", "addresspools.fairlead.dev", "yes"),
        (
            "controller",
            "update",
            "addresspools.fairlead.dev --subresource=finalizers",
            "yes",
        ),
        ("controller", "patch", state.as_str(), "yes"),
        ("controller", "update", "services", "no"),
        ("controller", "delete", "services", "no"),
        ("controller", "patch", "namespaces", "no"),
        ("controller", "delete", "addresspools.fairlead.dev", "no"),
        ("controller", "patch", "configmaps", "no"),
        ("speaker", "patch", "services", "no"),
        ("speaker", "patch", "addresspools.fairlead.dev", "no"),
        ("node-agent", "patch", "services", "no"),
    ] {
        let said = may(account, verb, what);
        if said != expected {
            wrong.push(format!("{account} {verb} {what}: {said}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
