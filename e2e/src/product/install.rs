//! Installing Fairlead with Helm, and removing it, as a user does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::api::Cluster;
use super::wait::wait_for;
use crate::error::{LabError, Result};
use crate::lab::Lab;

/// Name of the release.
pub const RELEASE: &str = "fairlead";
/// Namespace of the release.
pub const NAMESPACE: &str = "fairlead-system";

/// The top of the source tree.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Runs a command to its end.
///
/// # Errors
/// With the end of what it printed, when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|source| LabError::Io {
        what: shown.clone(),
        source,
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let detail = format!(
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Err(LabError::Command {
        command: shown,
        detail,
    })
}

/// Loads the image of this tree (`make images`) into all nodes and installs the chart, or upgrades to it.
///
/// # Errors
/// When the image is not built, or Helm fails.
pub fn install(lab: &Lab) -> Result<()> {
    install_with(lab, &[])
}

/// The same with more arguments for Helm, such as `--set=…`. With BGP among them, the daemon's image is loaded as well.
///
/// # Errors
/// As [`install`].
pub fn install_with(lab: &Lab, more: &[&str]) -> Result<()> {
    load(lab, "fairlead.tar")?;
    if more.iter().any(|argument| argument.contains(BGP)) {
        load_bgp(lab)?;
    }
    install_chart(lab, more)
}

/// The value that switches BGP on.
pub const BGP: &str = "speaker.bgp.enabled=true";

/// Loads the image of the BGP daemon into all nodes, for an installation with [`BGP`].
///
/// # Errors
/// When the image is not built.
pub fn load_bgp(lab: &Lab) -> Result<()> {
    load(lab, "fairlead-gobgp.tar")
}

fn load(lab: &Lab, archive: &str) -> Result<()> {
    let image = tree().join("target/images").join(archive);
    if !image.is_file() {
        return Err(LabError::Refused(format!(
            "{} is missing: run `make images`",
            image.display()
        )));
    }
    lab.load_image(&image)
}

/// Installs the chart, or upgrades to it, whether or not the nodes have the image, with more arguments for Helm.
///
/// # Errors
/// When Helm fails.
pub fn install_chart(lab: &Lab, more: &[&str]) -> Result<()> {
    let chart = tree().join("charts/fairlead");
    let arguments = [
        "upgrade",
        "--install",
        RELEASE,
        &chart.to_string_lossy(),
        "-n",
        NAMESPACE,
        "--create-namespace",
        // Without it, an upgrade that names no values keeps those of the last one.
        "--reset-values",
    ];
    run(&mut lab.helm(arguments.iter().chain(more))?).map(drop)
}

/// Waits until all controllers, speakers and node agents are ready, and a controller leads.
///
/// # Errors
/// With what is not ready yet.
pub fn wait_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    wait_for("Fairlead to be ready", limit, || {
        let apps = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
        let get = |path: String| cluster.get(&path).map_err(|error| error.to_string());
        let controller = get(format!("{apps}/deployments/{RELEASE}-controller"))?.unwrap_or_default();
        let (status, wanted) = (&controller["status"], &controller["spec"]["replicas"]);
        // Pods of an older generation count as replicas for as long as they end.
        if ["replicas", "updatedReplicas", "readyReplicas"]
            .iter()
            .any(|count| &status[count] != wanted)
            || status["observedGeneration"] != controller["metadata"]["generation"]
        {
            return Err(format!("controller: {status}"));
        }
        leader_pod(cluster).map_err(|error| error.to_string())?;
        for name in ["speaker", "node-agent"] {
            let set = get(format!("{apps}/daemonsets/{RELEASE}-{name}"))?.unwrap_or_default();
            let status = &set["status"];
            let wanted = &status["desiredNumberScheduled"];
            let current = status["observedGeneration"] == set["metadata"]["generation"];
            if wanted.as_i64().unwrap_or(0) == 0
                || &status["numberReady"] != wanted
                || &status["updatedNumberScheduled"] != wanted
                || !current
            {
                return Err(format!("{name}: {status}"));
            }
        }
        Ok(())
    })
}

/// Who leads, as the Lease says: a pod's name and some random digits, or nothing.
///
/// # Errors
/// When the API server does not answer.
pub fn leader(cluster: &Cluster) -> Result<String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{RELEASE}-controller");
    let lease = cluster.get(&path)?.unwrap_or_default();
    Ok(lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// The pod of the controller that leads.
///
/// # Errors
/// When nobody does, or the pod is gone.
pub fn leader_pod(cluster: &Cluster) -> Result<Value> {
    let holder = leader(cluster)?;
    let name = holder.rsplit_once('_').map_or("", |(pod, _)| pod);
    if !name.is_empty()
        && let Some(pod) = cluster.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"))?
    {
        return Ok(pod);
    }
    Err(LabError::Refused(format!("no pod for the leader {holder:?}")))
}

/// The pods of a component (`speaker`, `node-agent`, `controller`) that are not ending.
///
/// # Errors
/// As [`Cluster::list`].
pub fn pods_of(cluster: &Cluster, component: &str) -> Result<Vec<Value>> {
    let selector = format!("labelSelector=app.kubernetes.io/component={component}");
    let pods = cluster.list(&format!("/api/v1/namespaces/{NAMESPACE}/pods?{selector}"))?;
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    Ok(pods.into_iter().filter(stays).collect())
}

/// The pod of a component that runs once on each node (`speaker`, `node-agent`).
///
/// # Errors
/// When there is not exactly one that is not ending.
pub fn pod_of(cluster: &Cluster, component: &str, node: &str) -> Result<Value> {
    let mut found = pods_of(cluster, component)?;
    found.retain(|pod| pod["spec"]["nodeName"] == node);
    match (found.pop(), found.len()) {
        (Some(pod), 0) => Ok(pod),
        (_, others) => Err(LabError::Refused(format!(
            "{others} or no pods of {component} on {node}"
        ))),
    }
}

/// Uninstalls the release, which waits for its own clean-up.
///
/// # Errors
/// When Helm fails.
pub fn uninstall(lab: &Lab) -> Result<String> {
    run(&mut lab.helm(["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "3m"])?)
}
