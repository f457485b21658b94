//! The chart, against a real API server.

use fairlead_e2e::product::install::{NAMESPACE, RELEASE, run, tree};

use super::fixture::Fixture;

#[test]
fn every_rendered_object_passes_the_api_servers_schemas() {
    let f = Fixture::new("chart", &["172.30.0.100-172.30.0.101"]);
    let chart = tree().join("charts/fairlead");
    let arguments = [
        "template",
        RELEASE,
        &chart.to_string_lossy(),
        "-n",
        NAMESPACE,
        "--kube-version",
        "1.33.0",
    ];
    let rendered = run(&mut f.lab.helm(arguments).unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rendered).unwrap();
    let path = file.path().to_string_lossy().into_owned();
    // Unknown fields are errors under strict validation.
    let arguments = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--server-side",
        "--force-conflicts",
        "-f",
        &path,
    ];
    let said = run(&mut f.lab.kubectl(arguments).unwrap()).unwrap();
    for object in [
        "deployment.apps/fairlead-controller",
        "daemonset.apps/fairlead-speaker",
        "job.batch/fairlead-uninstall",
    ] {
        assert!(said.contains(object), "{object} is missing in:\n{said}");
    }
}

#[test]
fn pods_have_only_the_rights_they_need() {
    let f = Fixture::new("rights", &["172.30.0.100-172.30.0.101"]);
    for (component, capabilities) in [
        ("speaker", &["NET_RAW", "SYS_NICE"][..]),
        ("node-agent", &["NET_ADMIN"]),
    ] {
        let pods = f
            .cluster
            .list(&format!(
                "/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/component={component}"
            ))
            .unwrap();
        assert_eq!(pods.len(), f.lab.nodes().len());
        for pod in pods {
            let context = &pod["spec"]["containers"][0]["securityContext"];
            assert_eq!(context["capabilities"]["drop"][0], "ALL");
            assert_eq!(context["capabilities"]["add"], serde_json::json!(capabilities));
            assert_eq!(context["privileged"], serde_json::Value::Null);
        }
    }
    for account in ["controller", "speaker", "node-agent"] {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-{account}");
        for (verb, what) in [
            ("get", "secrets"),
            ("update", "services"),
            ("create", "pods"),
            ("patch", "nodes"),
        ] {
            let output = f
                .lab
                .kubectl(["auth", "can-i", verb, what, "-A", &who])
                .unwrap()
                .output()
                .unwrap();
            assert_eq!(
                String::from_utf8_lossy(&output.stdout).trim(),
                "no",
                "{account} may {verb} {what}"
            );
        }
    }
}
