//! MetalLB in the lab: its own manifest, but for what the benchmark leaves out.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::contender::API_SERVER;
use crate::components::MetalLb;
use crate::error::{Doing, LabError, Result};
use crate::images::ImageBuilder;
use crate::lab::Lab;
use crate::product::install::run;

/// The namespace that its manifest uses.
pub const NAMESPACE: &str = "metallb-system";
/// The names of the Deployment and of its container.
const CONTROLLER: &str = "controller";

/// Loads the controller's image into all nodes and applies the manifest, then a pool with these addresses and an
/// advertisement.
///
/// # Errors
/// When the image cannot be made, the manifest is not as expected, or kubectl fails.
pub fn install(lab: &Lab, metallb: &MetalLb, addresses: &str) -> Result<()> {
    let scratch = tempfile::tempdir().doing("make a directory")?;
    let archive = scratch.path().join("metallb.tar");
    // The name that the manifest asks for, so that nothing is pulled.
    let name = format!("quay.io/metallb/controller:{}", MetalLb::VERSION);
    let mut image = ImageBuilder::new();
    image
        .copy("/controller", &metallb.controller, 0o755)
        .entrypoint(&["/controller"], &[]);
    image.write(&[&name], &archive)?;
    lab.load_image(&archive)?;

    let objects = objects(&read(metallb)?)?;
    kubectl(lab, &["apply", "--server-side", "-f"], &objects, scratch.path())?;
    let established = [
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=60s",
    ];
    run(&mut lab.kubectl(established)?)?;
    let configuration = [
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"namespace": NAMESPACE, "name": "bench"}, "spec": {"addresses": [addresses]},
        }),
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"namespace": NAMESPACE, "name": "bench"}, "spec": {"ipAddressPools": ["bench"]},
        }),
    ];
    kubectl(
        lab,
        &["apply", "--server-side", "-f"],
        &configuration,
        scratch.path(),
    )
}

/// Deletes everything of the manifest, with its pools.
///
/// # Errors
/// When kubectl fails.
pub fn remove(lab: &Lab, metallb: &MetalLb) -> Result<()> {
    let scratch = tempfile::tempdir().doing("make a directory")?;
    let arguments = ["delete", "--ignore-not-found", "--timeout=120s", "-f"];
    kubectl(lab, &arguments, &objects(&read(metallb)?)?, scratch.path())
}

fn kubectl(lab: &Lab, arguments: &[&str], objects: &[Value], scratch: &Path) -> Result<()> {
    let path = scratch.join("objects.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    fs::write(&path, list.to_string()).doing(format!("write {}", path.display()))?;
    let file = path.to_string_lossy();
    run(&mut lab.kubectl(arguments.iter().copied().chain([&*file]))?).map(drop)
}

fn read(metallb: &MetalLb) -> Result<String> {
    let path = &metallb.manifest;
    fs::read_to_string(path).doing(format!("read {}", path.display()))
}

/// The objects of the manifest without speakers and webhooks, the controller told so and where the API server is.
fn objects(manifest: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifest)
        .map_err(|error| LabError::Refused(format!("MetalLB's manifest: {error}")))?;
    let left_out = ["DaemonSet", "ValidatingWebhookConfiguration"];
    let mut objects: Vec<Value> = all
        .into_iter()
        .filter(|object| left_out.iter().all(|kind| object["kind"] != *kind))
        .collect();
    let (host, port) = API_SERVER;
    let added = [
        ("args", vec![json!("--webhook-mode=disabled")]),
        (
            "env",
            vec![
                json!({"name": "KUBERNETES_SERVICE_HOST", "value": host}),
                json!({"name": "KUBERNETES_SERVICE_PORT", "value": port.to_string()}),
            ],
        ),
    ];
    for (list, more) in added {
        controller(&mut objects)
            .and_then(|container| container[list].as_array_mut())
            .ok_or_else(|| LabError::Refused(format!("MetalLB's manifest: no {list} of the controller")))?
            .extend(more);
    }
    Ok(objects)
}

/// The container of the controller.
fn controller(objects: &mut [Value]) -> Option<&mut Value> {
    let deployment = objects
        .iter_mut()
        .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == CONTROLLER)?;
    let containers = deployment.pointer_mut("/spec/template/spec/containers")?;
    containers
        .as_array_mut()?
        .iter_mut()
        .find(|c| c["name"] == CONTROLLER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
kind: Namespace
metadata: {name: metallb-system}
---
kind: Deployment
metadata: {name: controller}
spec:
  template:
    spec:
      containers:
      - {name: controller, args: [--port=7472], env: [{name: A, value: b}]}
---
kind: DaemonSet
metadata: {name: speaker}
---
kind: ValidatingWebhookConfiguration
metadata: {name: metallb-webhook-configuration}
";

    #[test]
    fn speakers_and_webhooks_are_left_out_and_the_controller_is_told() {
        let mut found = objects(MANIFEST).unwrap();
        let kinds: Vec<&str> = found
            .iter()
            .map(|object| object["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["Namespace", "Deployment"]);
        let container = controller(&mut found).unwrap();
        assert_eq!(
            container["args"],
            json!(["--port=7472", "--webhook-mode=disabled"])
        );
        assert_eq!(container["env"][0], json!({"name": "A", "value": "b"}));
        assert_eq!(
            container["env"][1],
            json!({"name": "KUBERNETES_SERVICE_HOST", "value": "172.30.0.2"})
        );
    }

    #[test]
    fn another_manifest_is_refused() {
        let error = objects("kind: Deployment\nmetadata: {name: other}\n").unwrap_err();
        assert!(error.to_string().contains("no args"), "{error}");
    }
}
