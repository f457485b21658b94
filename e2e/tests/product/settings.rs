//! Address management under other settings of the chart.

use std::time::Duration;

use fairlead_e2e::product::{install, wait_for};
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, v4};
use super::fixture::{Fixture, SOON};

const ROLLOUT: Duration = Duration::from_secs(120);
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Other values of the chart, until this is dropped.
struct Settings<'a>(&'a Fixture);

impl<'a> Settings<'a> {
    fn new(f: &'a Fixture, values: &[&str]) -> Self {
        install::install_chart(&f.lab, values).unwrap();
        let settings = Self(f);
        install::wait_ready(&f.cluster, ROLLOUT).unwrap();
        settings
    }
}

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        let restored = install::install_chart(&self.0.lab, &[]);
        let ready = install::wait_ready(&self.0.cluster, ROLLOUT);
        if let Err(error) = restored.and(ready) {
            eprintln!("restoring the settings: {error}");
        }
    }
}

#[test]
fn annotations_of_metallb_and_the_finalizer_of_clouds_are_honoured_where_that_is_set() {
    let f = Fixture::new("settings", &["172.30.0.100-172.30.0.109"]);
    let theirs = |prefix: &str, name: &str| format!("{prefix}/{name}");
    let (new, old) = ("metallb.io", "metallb.universe.tf");
    // Not by default.
    f.make_with("before", &[(&theirs(new, "loadBalancerIPs"), &v4(109))]);
    f.wait_ingress("before", &[v4(100)]);
    let finalizers = |service: &str| f.service(service)["metadata"]["finalizers"].clone();
    assert_eq!(finalizers("before"), Value::Null);

    let settings = Settings::new(&f, &["--set", "compatibility.metallb=true,finalizer=cloud"]);
    f.wait_ingress("before", &[v4(109)]);
    f.make_with(
        "web",
        &[
            (&theirs(old, "loadBalancerIPs"), &v4(105)),
            (&theirs(old, "allow-shared-ip"), "k"),
        ],
    );
    f.wait_ingress("web", &[v4(105)]);
    let both = [
        (theirs(new, "loadBalancerIPs"), v4(105)),
        (theirs(new, "address-pool"), "nowhere".to_owned()),
    ];
    let mut annotations: Vec<(&str, &str)> = both.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    f.make_with("unknown", &annotations);
    f.wait_refused("unknown", "AddressNotInPool");
    // Ours win.
    annotations.truncate(1);
    let ours = v4(106);
    annotations.push((ADDRESSES, &ours));
    f.make_with("ours", &annotations);
    f.wait_ingress("ours", &[&ours]);
    // Theirs and ours name the same key.
    f.make(
        "join",
        json!({
            "metadata": {"annotations": {"fairlead.dev/allow-shared-ip": "k"}},
            "spec": {"ports": [{"port": 81, "targetPort": 8080, "protocol": "TCP"}]},
        }),
    );
    f.wait_ingress("join", &[v4(105)]);

    // Those that have an address carry the finalizer; it goes with the address, and lets a deletion end.
    let wait_finalizer = |service: &str, wanted: Value| {
        wait_for(&format!("{service} to have finalizers {wanted}"), SOON, || {
            let have = finalizers(service);
            (have == wanted).then_some(()).ok_or_else(|| have.to_string())
        })
        .unwrap();
    };
    for service in ["before", "web", "ours", "join"] {
        wait_finalizer(service, json!([FINALIZER]));
    }
    assert_eq!(finalizers("unknown"), Value::Null);
    f.edit("ours", &json!({"spec": {"type": "ClusterIP"}}));
    wait_finalizer("ours", Value::Null);
    f.cluster.delete_and_wait(&f.service_path("join"), SOON).unwrap();

    // Back to the defaults: what was given stays, and the finalizer holds nobody up.
    drop(settings);
    // Whoever asked by their annotations alone now asks for nothing.
    f.wait_ingress("unknown", &[v4(100)]);
    f.make_with("after", &[(&theirs(new, "loadBalancerIPs"), &v4(108))]);
    f.wait_ingress("after", &[v4(101)]);
    f.keeps(&[("before", &[v4(109)]), ("web", &[v4(105)]), ("after", &[v4(101)])]);
}
