//! The admission policies of the chart for annotations, asked of the API server itself: as a user who may do everything
//! in one namespace, and as the controller.

use std::time::Duration;

use fairlead_e2e::product::install::{NAMESPACE, RELEASE};
use fairlead_e2e::product::{Cluster, wait_for};
use serde_json::{Value, json};

use super::api_only::{ApiOnly, Table, controller, user, with_all_rights};

const RECORD: &str = "fairlead.dev/external-ips-assigned";

fn with_annotation(test: &ApiOnly, name: &str, annotation: &str, text: &str) -> Value {
    let mut service = test.service(name);
    service["metadata"]["annotations"] = json!({annotation: text});
    service
}

#[test]
fn the_record_of_external_ips_is_the_controllers() {
    let test = ApiOnly::new("record");
    let (user, controller) = (user(&test), controller(&test));
    let record = "192.0.2.9 from pool blue; since 2026-01-01T00:00:00Z";
    let note = |text: Value| json!({"metadata": {"annotations": {RECORD: text}}});
    let mut table = Table::default();
    let forged = with_annotation(&test, "forged", RECORD, record);
    table.row(
        "created with it",
        &user.create(&forged, true),
        Some("leave it out"),
    );
    table.row(
        "created by the administrator with it",
        &test.cluster.create(&forged, true),
        Some("leave it out"),
    );
    // The controller itself, which runs beside this test, takes away records that say nothing true. Of a Service that is
    // being deleted it leaves those that name what stands there.
    let mut web = test.service("web");
    web["metadata"]["finalizers"] = json!(["example.com/wait"]);
    web["spec"]["externalIPs"] = json!(["192.0.2.9"]);
    user.create(&web, false).unwrap();
    let path = test.service_path("web");
    user.delete(&path).unwrap();
    let status = format!("{path}/status");
    let plain = json!({"metadata": {"labels": {"touched": "yes"}}});
    table.row(
        "set",
        &user.patch(&path, &note(json!(record))),
        Some("leave it out"),
    );
    table.row(
        "set by the status",
        &user.patch(&status, &note(json!(record))),
        Some("leave it out"),
    );
    table.row(
        "set empty",
        &user.patch(&path, &note(json!(""))),
        Some("leave it out"),
    );
    table.row("an unrelated edit", &user.patch(&path, &plain), None);
    table.row(
        "set by the controller",
        &controller.patch(&path, &note(json!(record))),
        None,
    );
    let changed = note(json!("192.0.2.8 from pool blue; since 2026-01-01T00:00:00Z"));
    table.row("changed", &user.patch(&path, &changed), Some("leave it as it is"));
    table.row(
        "changed by the status",
        &user.patch(&status, &changed),
        Some("leave it as it is"),
    );
    table.row(
        "removed",
        &user.patch(&path, &note(Value::Null)),
        Some("leave it as it is"),
    );
    table.row(
        "removed by the status",
        &user.patch(&status, &note(Value::Null)),
        Some("leave it as it is"),
    );
    table.row("written as it is", &user.patch(&path, &note(json!(record))), None);
    let other = json!({"metadata": {"annotations": {"example.com/x": "y"}}});
    table.row("another annotation", &user.patch(&path, &other), None);
    for account in [
        format!("{RELEASE}-speaker"),
        format!("{RELEASE}-node-agent"),
        "default".to_owned(),
    ] {
        let account = format!("system:serviceaccount:{NAMESPACE}:{account}");
        let answer = with_all_rights(&test, &account).patch(&path, &changed);
        table.row(&account, &answer, Some("leave it as it is"));
    }
    table.row(
        "changed by the controller",
        &controller.patch(&path, &changed),
        None,
    );
    table.row(
        "removed by the controller",
        &controller.patch(&path, &note(Value::Null)),
        None,
    );
    table.row(
        "set again by the controller",
        &controller.patch(&path, &note(json!(record))),
        None,
    );
    let end = json!({"metadata": {"finalizers": null}});
    test.cluster.patch(&path, &end).unwrap();
    table.finish();
}

#[test]
fn annotations_must_be_readable() {
    const IPS: &str = "fairlead.dev/load-balancer-ips";
    const POOL: &str = "fairlead.dev/address-pool";
    const KEY: &str = "fairlead.dev/allow-shared-ip";
    const EXTERNAL: &str = "fairlead.dev/external-ips";
    let addresses = |count: usize| {
        (1..=count)
            .map(|n| format!("192.0.2.{n}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let names = |count: usize| {
        (1..=count)
            .map(|n| format!("pool{n}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let test = ApiOnly::new("requests");
    let user = user(&test);
    let mut table = Table::default();
    for (annotation, text, refusal) in [
        (IPS, "192.0.2.1", None),
        (IPS, "192.0.2.1, 2001:db8::1", None),
        (IPS, &addresses(32), None),
        (
            IPS,
            "",
            Some("fairlead.dev/load-balancer-ips: \"\" is not an IP address"),
        ),
        (IPS, "192.0.2.1,", Some("\"\" is not an IP address")),
        (
            IPS,
            "192.0.2.1 192.0.2.2",
            Some("\"192.0.2.1 192.0.2.2\" is not an IP address"),
        ),
        (
            IPS,
            "192.0.2.1,blue,192.0.2.0/24",
            Some("\"blue\", \"192.0.2.0/24\" is not an IP address"),
        ),
        (
            IPS,
            "::ffff:192.0.2.1",
            Some("\"::ffff:192.0.2.1\" is not an IP address"),
        ),
        (IPS, "2001:db8::1,2001:DB8:0::1", Some("names an address twice")),
        (IPS, &addresses(33), Some("more than 32 addresses")),
        (IPS, &"x".repeat(100_000), Some("more than 32 addresses")),
        (POOL, "blue", None),
        (POOL, "blue-1, green.example", None),
        (POOL, "blue,blue", None),
        (POOL, &names(32), None),
        (
            POOL,
            "",
            Some("fairlead.dev/address-pool: \"\" is not the name of an AddressPool"),
        ),
        (
            POOL,
            "blue,Green",
            Some("\"Green\" is not the name of an AddressPool"),
        ),
        (POOL, "a b", Some("\"a b\" is not the name of an AddressPool")),
        (POOL, &names(33), Some("more than 32 pools")),
        (KEY, "key", None),
        (KEY, &"x".repeat(253), None),
        (KEY, "", Some("a text of 1 to 253 characters is needed")),
        (KEY, "  ", Some("a text of 1 to 253 characters is needed")),
        (
            KEY,
            &"x".repeat(254),
            Some("a text of 1 to 253 characters is needed"),
        ),
        (EXTERNAL, "192.0.2.1,2001:db8::1", None),
        (EXTERNAL, "blue, green", None),
        (EXTERNAL, &addresses(32), None),
        (
            EXTERNAL,
            "",
            Some("\"\" is neither an IP address nor the name of an AddressPool"),
        ),
        (
            EXTERNAL,
            "blue,192.0.2.1",
            Some("mixes addresses and names of AddressPools"),
        ),
        (EXTERNAL, "192.0.2.1,192.0.2.1", Some("names an address twice")),
        (
            EXTERNAL,
            "Blue",
            Some("\"Blue\" is neither an IP address nor the name of an AddressPool"),
        ),
        (EXTERNAL, &names(33), Some("more than 32 entries")),
        ("fairlead.dev/of-a-later-version", "?", None),
    ] {
        let service = with_annotation(&test, "row", annotation, text);
        let what = format!("{annotation}: {}", text.chars().take(50).collect::<String>());
        table.row(&what, &user.create(&service, true), refusal);
    }
    for (requested, text, refusal) in [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1", "2001:db8::1, 192.0.2.1", None),
        ("2001:DB8::1", "2001:db8::1", None),
        ("", "192.0.2.1", None),
        (
            "192.0.2.2",
            "192.0.2.1",
            Some("spec.loadBalancerIP 192.0.2.2 is not among the addresses"),
        ),
        (
            "nonsense",
            "192.0.2.1",
            Some("spec.loadBalancerIP nonsense is not among the addresses"),
        ),
    ] {
        let mut service = with_annotation(&test, "row", IPS, text);
        service["spec"]["type"] = json!("LoadBalancer");
        service["spec"]["loadBalancerIP"] = json!(requested);
        table.row(
            &format!("{requested} and {text}"),
            &user.create(&service, true),
            refusal,
        );
    }
    table.finish();
}

#[test]
fn an_old_mistake_does_not_stop_other_edits() {
    let test = ApiOnly::new("mistakes");
    let user = user(&test);
    // As if it were from before the policy: by its name the policy is out of force for this one namespace.
    let binding =
        format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{RELEASE}-requests");
    let except = |names: &[&str]| {
        let selector = json!({"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names}]});
        json!({"spec": {"matchResources": {"namespaceSelector": selector}}})
    };
    let restored = Restored {
        cluster: &test.cluster,
        binding: &binding,
    };
    test.cluster.patch(&binding, &except(&[&test.name])).unwrap();
    let mut service = test.service("old");
    service["metadata"]["annotations"] = json!({
        "fairlead.dev/load-balancer-ips": "x", "fairlead.dev/address-pool": "A B",
        "fairlead.dev/allow-shared-ip": "", "fairlead.dev/external-ips": "a,192.0.2.1",
    });
    service["metadata"]["finalizers"] = json!(["example.com/hold"]);
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["loadBalancerClass"] = json!("example.com/none");
    service["spec"]["loadBalancerIP"] = json!("192.0.2.9");
    test.wait_accepted("the policy to be out of force", &service);
    user.create(&service, false).unwrap();
    drop(restored);
    let mut other = service.clone();
    other["metadata"]["name"] = json!("other");
    test.wait_refused(
        "the policy to be in force again",
        &other,
        "annotation fairlead.dev/",
    );

    let path = test.service_path("old");
    let annotate = |name: &str, text: Value| json!({"metadata": {"annotations": {name: text}}});
    let mut table = Table::default();
    for (patch, refusal) in [
        (json!({"metadata": {"labels": {"a": "b"}}}), None),
        (json!({"spec": {"ports": [{"port": 81}]}}), None),
        (annotate("example.com/x", json!("y")), None),
        (annotate("fairlead.dev/allow-shared-ip", json!("key")), None),
        (annotate("fairlead.dev/external-ips", Value::Null), None),
        (
            annotate("fairlead.dev/address-pool", json!("C D")),
            Some("\"C D\" is not the name of an AddressPool"),
        ),
        (
            annotate("fairlead.dev/load-balancer-ips", json!("y")),
            Some("\"y\" is not an IP address"),
        ),
        (
            json!({"spec": {"loadBalancerIP": "192.0.2.8"}}),
            Some("spec.loadBalancerIP 192.0.2.8 is not among"),
        ),
        (json!({"spec": {"loadBalancerIP": null}}), None),
    ] {
        let answer = user.patch(&format!("{path}?dryRun=All"), &patch);
        table.row(&patch.to_string(), &answer, refusal);
    }
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
    table.row("status", &user.patch(&format!("{path}/status"), &status), None);
    let released = json!({"metadata": {"finalizers": null}});
    user.delete(&path).unwrap();
    table.row(
        "the finalizer of a deleted one",
        &user.patch(&path, &released),
        None,
    );
    table.finish();
    wait_for("the Service to be gone", Duration::from_secs(10), || {
        match test.cluster.get(&path) {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

/// Puts the binding of the policy back to what it was.
struct Restored<'a> {
    cluster: &'a Cluster,
    binding: &'a str,
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let patch = json!({"spec": {"matchResources": {"namespaceSelector": {"matchExpressions": null}}}});
        if let Err(error) = self.cluster.patch(self.binding, &patch) {
            eprintln!("cleaning up: {error}");
        }
    }
}
