//! The API server for tests: objects as JSON, synchronous.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::{Value, json};

use super::wait::wait_for;
use crate::error::{LabError, Result};
use crate::lab::Lab;

/// Plural and scope of the kinds that tests use: kind, plural, namespaced.
const KINDS: &[(&str, &str, bool)] = &[
    ("AddressPool", "addresspools", false),
    ("BGPAdvertisement", "bgpadvertisements", false),
    ("BGPPeer", "bgppeers", false),
    ("ConfigMap", "configmaps", true),
    ("DaemonSet", "daemonsets", true),
    ("Deployment", "deployments", true),
    ("L2Advertisement", "l2advertisements", false),
    ("Namespace", "namespaces", false),
    ("Node", "nodes", false),
    ("NodeState", "nodestates", false),
    ("Pod", "pods", true),
    ("RoleBinding", "rolebindings", true),
    ("Secret", "secrets", true),
    ("Service", "services", true),
];

/// The API server of a lab, with all rights or as somebody else.
#[derive(Clone)]
pub struct Cluster {
    runtime: Arc<tokio::runtime::Runtime>,
    client: Client,
    user: Option<String>,
}

impl Cluster {
    /// Connects to a lab's API server.
    ///
    /// # Errors
    /// When the lab's kubeconfig cannot be used.
    pub fn connect(lab: &Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| LabError::Io {
                what: "start a runtime".into(),
                source,
            })?;
        let client = runtime.block_on(lab.kube())?;
        Ok(Self {
            runtime: Arc::new(runtime),
            client,
            user: None,
        })
    }

    /// The same API server as another user, with no more than that user's rights.
    pub fn impersonate(&self, user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..self.clone()
        }
    }

    fn request(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Option<Value>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("accept", "application/json");
        if let Some(user) = &self.user {
            request = request.header("impersonate-user", user);
        }
        let request = request
            .body(body)
            .map_err(|error| LabError::Refused(format!("{method} {path}: {error}")))?;
        match self.runtime.block_on(self.client.request::<Value>(request)) {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(LabError::Kube(Box::new(error))),
        }
    }

    /// One object, or a list when the path names a collection; `None` when there is no such thing.
    ///
    /// # Errors
    /// Any answer of the API server but 200 and 404.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        self.request("GET", path, "application/json", vec![])
    }

    /// The items of a collection.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.get(path)?.unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates an object, or only tells whether it could be created.
    ///
    /// # Errors
    /// What the API server refuses, with its text.
    pub fn create(&self, manifest: &Value, dry_run: bool) -> Result<Value> {
        let path = path_of(manifest)?;
        let collection = path
            .rsplit_once('/')
            .map_or(path.as_str(), |(collection, _)| collection);
        let dry_run = if dry_run { "?dryRun=All" } else { "" };
        let body = manifest.to_string().into_bytes();
        let answer = self.request(
            "POST",
            &format!("{collection}{dry_run}"),
            "application/json",
            body,
        )?;
        answer.ok_or_else(|| LabError::Refused(format!("{collection}: not found")))
    }

    /// Creates or changes an object (server-side apply).
    ///
    /// # Errors
    /// What the API server refuses, with its text.
    pub fn apply(&self, manifest: &Value) -> Result<Value> {
        let path = format!("{}?fieldManager=e2e&force=true", path_of(manifest)?);
        let body = manifest.to_string().into_bytes();
        let answer = self.request("PATCH", &path, "application/apply-patch+yaml", body)?;
        answer.ok_or_else(|| LabError::Refused(format!("{path}: there is no such kind")))
    }

    /// Sets a condition of a pod, such as one that it names as a readiness gate.
    ///
    /// # Errors
    /// What the API server refuses, with its text.
    pub fn set_pod_condition(&self, namespace: &str, pod: &str, type_: &str, status: bool) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/status");
        let status = if status { "True" } else { "False" };
        // Conditions are merged by their type; a plain merge patch would replace all of them.
        let patch = json!({"status": {"conditions": [{"type": type_, "status": status}]}});
        let kind = "application/strategic-merge-patch+json";
        let answer = self.request("PATCH", &path, kind, patch.to_string().into_bytes())?;
        answer
            .map(drop)
            .ok_or_else(|| LabError::Refused(format!("{path}: not found")))
    }

    /// Merge patch of an object or of one of its subresources.
    ///
    /// # Errors
    /// What the API server refuses, with its text.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = patch.to_string().into_bytes();
        let answer = self.request("PATCH", path, "application/merge-patch+json", body)?;
        answer.ok_or_else(|| LabError::Refused(format!("{path}: not found")))
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// What the API server refuses, with its text.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.request("DELETE", path, "application/json", vec![]).map(drop)
    }

    /// Deletes an object and waits until it is gone.
    ///
    /// # Errors
    /// As [`Cluster::delete`], and when it stays.
    pub fn delete_and_wait(&self, path: &str, limit: Duration) -> Result<()> {
        self.delete(path)?;
        wait_for(&format!("{path} to be gone"), limit, || match self.get(path) {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(object["metadata"].to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Cordons or uncordons a node.
    ///
    /// # Errors
    /// As [`Cluster::patch`].
    pub fn cordon(&self, node: &str, cordoned: bool) -> Result<()> {
        let patch = json!({"spec": {"unschedulable": cordoned}});
        self.patch(&format!("/api/v1/nodes/{node}"), &patch).map(drop)
    }

    /// The events about an object, oldest first, as `Reason: message`.
    ///
    /// # Errors
    /// As [`Cluster::list`].
    pub fn events(&self, namespace: &str, kind: &str, name: &str) -> Result<Vec<String>> {
        let events = self.list(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"))?;
        let mut about: Vec<(String, String)> = events
            .iter()
            .filter(|e| e["regarding"]["kind"] == kind && e["regarding"]["name"] == name)
            .map(|e| {
                let time = e["eventTime"].as_str().unwrap_or_default().to_owned();
                let text = |key: &str| e[key].as_str().unwrap_or_default().to_owned();
                (time, format!("{}: {}", text("reason"), text("note")))
            })
            .collect();
        about.sort();
        Ok(about.into_iter().map(|(_, event)| event).collect())
    }
}

/// The path of an object in the API.
///
/// # Errors
/// When the kind is not one that tests use.
pub fn path_of(manifest: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&manifest["apiVersion"]), text(&manifest["kind"]));
    let Some((_, plural, namespaced)) = KINDS.iter().find(|(known, _, _)| *known == kind) else {
        return Err(LabError::Refused(format!("the tests do not know kind {kind:?}")));
    };
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let name = text(&manifest["metadata"]["name"]);
    Ok(if *namespaced {
        format!(
            "{root}/namespaces/{}/{plural}/{name}",
            text(&manifest["metadata"]["namespace"])
        )
    } else {
        format!("{root}/{plural}/{name}")
    })
}

/// The condition of a type: its status, reason and message.
pub fn condition(object: &Value, type_: &str) -> Option<(String, String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}
