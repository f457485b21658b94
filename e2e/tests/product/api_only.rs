//! For tests of what the API server refuses: the chart's objects are there; its pods need not run.

use std::sync::Once;
use std::time::Duration;

use fairlead_e2e::product::install::{NAMESPACE, RELEASE};
use fairlead_e2e::product::{Cluster, install, manifests, wait_for};
use fairlead_e2e::{Lab, LabError};
use serde_json::{Value, json};

/// Until policies are in force.
const IN_FORCE: Duration = Duration::from_secs(20);

pub struct ApiOnly {
    pub lab: Lab,
    pub cluster: Cluster,
    /// The test's namespace.
    pub name: String,
}

impl ApiOnly {
    pub fn new(name: &str) -> Self {
        static INSTALL: Once = Once::new();
        let lab = std::env::var("FAIRLEAD_LAB")
            .map_err(|_| LabError::Refused("FAIRLEAD_LAB names no lab".into()))
            .and_then(|lab| Lab::open(&lab))
            .unwrap();
        let cluster = Cluster::connect(&lab).unwrap();
        INSTALL.call_once(|| install::install_chart(&lab, &[]).unwrap());
        let name = format!("e2e-{name}");
        cluster.apply(&manifests::namespace(&name)).unwrap();
        let test = Self { lab, cluster, name };
        let mut unreadable = test.service("probe");
        unreadable["metadata"]["annotations"] = json!({"fairlead.dev/load-balancer-ips": "x"});
        test.wait_refused("the policies to be in force", &unreadable, "is not an IP address");
        test
    }

    /// A ClusterIP Service in the test's namespace.
    pub fn service(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": self.name, "name": name},
            "spec": {"ports": [{"port": 80}]},
        })
    }

    pub fn service_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/services/{name}", self.name)
    }

    /// Policies, and the objects they look at, reach the API server's own caches in their time.
    pub fn wait_refused(&self, what: &str, manifest: &Value, piece: &str) {
        wait_for(what, IN_FORCE, || match self.cluster.create(manifest, true) {
            Err(error) if error.to_string().contains(piece) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    }

    /// Waits until an object can be created.
    pub fn wait_accepted(&self, what: &str, manifest: &Value) {
        wait_for(what, IN_FORCE, || match self.cluster.create(manifest, true) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .unwrap();
    }
}

impl Drop for ApiOnly {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.delete(&format!("/api/v1/namespaces/{}", self.name)) {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// A table of objects, each with a piece of the message by which it is refused, or none if it is accepted. Every row is
/// tried before the test fails.
#[derive(Default)]
pub struct Table {
    wrong: Vec<String>,
    rows: [usize; 2],
}

impl Table {
    /// Notes one answer.
    pub fn row(&mut self, what: &str, answer: &Result<Value, LabError>, refusal: Option<&str>) {
        self.rows[usize::from(refusal.is_some())] += 1;
        match (answer, refusal) {
            (Ok(_), None) => {}
            (Ok(_), Some(piece)) => self.wrong.push(format!("{what}: accepted, expected {piece:?}")),
            (Err(error), None) => self.wrong.push(format!("{what}: refused: {error}")),
            (Err(error), Some(piece)) => {
                let text = error.to_string();
                if !text.contains(piece) {
                    self.wrong.push(format!("{what}: expected {piece:?} in: {text}"));
                }
            }
        }
    }

    /// Fails if any row was not as expected, or if the table says nothing about one of the two answers.
    pub fn finish(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        let [accepted, refused] = self.rows;
        println!("{accepted} rows accepted, {refused} refused");
        assert!(
            accepted > 0 && refused > 0,
            "{accepted} rows accepted, {refused} refused"
        );
    }
}

/// Somebody with all rights in the test's namespace, those to the status included.
pub fn with_all_rights(test: &ApiOnly, who: &str) -> Cluster {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"namespace": test.name, "name": who},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": who}],
    });
    test.cluster.apply(&binding).unwrap();
    let user = test.cluster.impersonate(who);
    // Rights, too, reach the API server's own caches in their time.
    let object = test.service("allowed");
    wait_for(&format!("the rights of {who}"), IN_FORCE, || {
        match user.create(&object, true) {
            Err(error) if error.to_string().contains("is forbidden: User") => Err(error.to_string()),
            _ => Ok(()),
        }
    })
    .unwrap();
    user
}

/// Somebody with all rights in the test's namespace.
pub fn user(test: &ApiOnly) -> Cluster {
    with_all_rights(test, "e2e-user")
}

/// The controller's service account.
pub fn controller(test: &ApiOnly) -> Cluster {
    test.cluster
        .impersonate(&format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-controller"))
}
