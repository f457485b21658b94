//! What the lab itself puts into the cluster, and what it waits for, through the Kubernetes API.

use std::{
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        core::v1::{Node, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    error::{LabError, Result},
    topology::{Place, pod_cidrs},
};

const POLL: Duration = Duration::from_millis(75);
/// How long one request may take while we wait for something.
const REQUEST: Duration = Duration::from_secs(5);
const FIELD_MANAGER: &str = "fairlead-lab";

/// A client from a kubeconfig file. Must be called inside a tokio runtime.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let refuse =
        |error: &dyn std::fmt::Display| LabError::Refused(format!("{}: {error}", kubeconfig.display()));
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| refuse(&e))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| refuse(&e))?;
    Ok(Client::try_from(config)?)
}

/// Runs a future to its end on a thread of its own, so that callers may or may not be inside a runtime.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        crate::parallel::join(scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime
                .map_err(|source| LabError::Io {
                    what: "start a runtime".into(),
                    source,
                })?
                .block_on(future)
        }))
    })
}

/// Polls until `probe` says `Ok`; what it says otherwise is told when time is up.
pub(crate) async fn until<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        let seen = match tokio::time::timeout(REQUEST, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => seen,
            Err(_) => "no answer".to_owned(),
        };
        if begun.elapsed() > limit {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                after: limit,
                seen,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One look at the API server's readiness.
pub(crate) async fn api_ready(client: &Client) -> Result<(), String> {
    let request = http_get("/readyz").map_err(|e| e.to_string())?;
    match client.request_text(request).await {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, http::Error> {
    http::Request::get(path).body(vec![])
}

/// Makes the Node objects, unless they are there.
///
/// That the pod addresses are fixed from the beginning lets each node's network be configured before its kubelet runs.
pub(crate) async fn create_nodes(client: &Client, nodes: u8) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    for n in 1..=nodes {
        let name = Place::Node(n).name();
        let (v4, v6) = pod_cidrs(n);
        let mut addresses = vec![json!({"type": "Hostname", "address": name})];
        if let Some(interface) = Place::Node(n).uplink() {
            addresses.push(json!({"type": "InternalIP", "address": interface.v4}));
            addresses.push(json!({"type": "InternalIP", "address": interface.v6}));
        }
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": v4.to_string(), "podCIDRs": [v4.to_string(), v6.to_string()]},
            "status": {"addresses": addresses},
        }))
        .map_err(|source| LabError::Json {
            what: "Node".into(),
            source,
        })?;
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// What CoreDNS may read, and the Service under which upstream tests look for it.
pub(crate) async fn apply_dns(client: &Client) -> Result<()> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
    });
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": ["172.30.0.2"], "conditions": {"ready": true}}],
    });
    let system = "kube-system";
    Api::<ClusterRole>::all(client.clone())
        .patch("system:coredns", &params, &Patch::Apply(role))
        .await?;
    Api::<ClusterRoleBinding>::all(client.clone())
        .patch("system:coredns", &params, &Patch::Apply(binding))
        .await?;
    Api::<Service>::namespaced(client.clone(), system)
        .patch("kube-dns", &params, &Patch::Apply(service))
        .await?;
    Api::<EndpointSlice>::namespaced(client.clone(), system)
        .patch("kube-dns", &params, &Patch::Apply(slice))
        .await?;
    Ok(())
}

/// Waits until pods can be made in the default namespace.
pub(crate) async fn wait_default_account(client: &Client, limit: Duration) -> Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until("the default service account", limit, || async {
        api.get("default")
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await
}

/// How a node stands: `Ready`, `NotReady: …` or `not heard of`.
pub(crate) fn node_condition(node: &Node) -> (bool, String, Option<Timestamp>) {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let Some(ready) = conditions.into_iter().find(|c| c.type_ == "Ready") else {
        return (false, "not heard of".into(), None);
    };
    let heard = ready.last_heartbeat_time.as_ref().map(|t| t.0);
    if ready.status == "True" {
        (true, "Ready".into(), heard)
    } else {
        (
            false,
            format!(
                "NotReady: {}",
                ready.message.as_deref().unwrap_or("no reason given")
            ),
            heard,
        )
    }
}

/// All nodes with their [`node_condition`].
pub(crate) async fn nodes(client: &Client) -> Result<Vec<(String, bool, String)>> {
    let list = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    Ok(list
        .iter()
        .map(|node| {
            let (ready, text, _) = node_condition(node);
            (node.name_any(), ready, text)
        })
        .collect())
}

/// A node that is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    pub(crate) name: String,
    /// Boot ID of its machine: what the API server still holds of an earlier boot does not count.
    pub(crate) boot_id: String,
    /// Nor does what was written before this time.
    pub(crate) since: Option<Timestamp>,
}

impl Awaited {
    /// `Ok` when it is Ready, else what is missing.
    fn check(&self, node: Option<&Node>) -> Result<(), String> {
        let Some(node) = node else {
            return Err(format!("{}: no such node", self.name));
        };
        let (ready, text, heard) = node_condition(node);
        let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
        // Heartbeats are written in whole seconds.
        let heard_since = heard.map(Timestamp::as_second) >= self.since.map(Timestamp::as_second);
        if !heard_since || info.is_none_or(|i| i.boot_id != self.boot_id) {
            Err(format!("{}: not heard of since its start", self.name))
        } else if ready {
            Ok(())
        } else {
            Err(format!("{}: {text}", self.name))
        }
    }
}

/// Waits until all of `nodes` are Ready.
pub(crate) async fn wait_nodes(client: &Client, nodes: &[Awaited], limit: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    until("all nodes to be Ready", limit, || async {
        let list = api
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let missing: Vec<String> = nodes
            .iter()
            .filter_map(|node| node.check(list.iter().find(|n| n.name_any() == node.name)).err())
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing.join("; "))
        }
    })
    .await
}
