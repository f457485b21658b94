//! MetalLB in the lab: its own manifest, but for what a benchmark leaves out.

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
/// The names of the Deployment, of its container, and of the program.
const CONTROLLER: &str = "controller";
/// The same of the DaemonSet.
pub const SPEAKER: &str = "speaker";

/// How much of MetalLB to install. Webhooks are off in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The controller, told where the API server is: for a cluster without kube-proxy.
    Controller,
    /// The controller and the speakers.
    All,
}

/// Loads the images into all nodes and applies the manifest, then a pool with these addresses and an advertisement.
///
/// # Errors
/// When an image cannot be made, the manifest is not as expected, or kubectl fails.
pub fn install(lab: &Lab, metallb: &MetalLb, addresses: &str, parts: Parts) -> Result<()> {
    let scratch = tempfile::tempdir().doing("make a directory")?;
    load_image(lab, CONTROLLER, &metallb.controller, scratch.path())?;
    if parts == Parts::All {
        load_image(lab, SPEAKER, &metallb.speaker, scratch.path())?;
    }
    let objects = objects(&read(metallb)?, parts)?;
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

/// Makes an image of one program, named as the manifest asks for it, so that nothing is pulled.
fn load_image(lab: &Lab, program: &str, path: &Path, scratch: &Path) -> Result<()> {
    let archive = scratch.join(format!("{program}.tar"));
    let (inside, name) = (
        format!("/{program}"),
        format!("quay.io/metallb/{program}:{}", MetalLb::VERSION),
    );
    let mut image = ImageBuilder::new();
    image
        .copy(&inside, path, 0o755)
        .entrypoint(&[inside.as_str()], &[]);
    image.write(&[&name], &archive)?;
    lab.load_image(&archive)
}

/// Deletes everything of the manifest, with its pools.
///
/// # Errors
/// When kubectl fails.
pub fn remove(lab: &Lab, metallb: &MetalLb) -> Result<()> {
    let scratch = tempfile::tempdir().doing("make a directory")?;
    let arguments = ["delete", "--ignore-not-found", "--timeout=120s", "-f"];
    kubectl(
        lab,
        &arguments,
        &objects(&read(metallb)?, Parts::All)?,
        scratch.path(),
    )
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

/// The objects of the manifest without webhooks, the controller told so; with the controller alone, without speakers
/// and with the API server's address.
fn objects(manifest: &str, parts: Parts) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifest)
        .map_err(|error| LabError::Refused(format!("MetalLB's manifest: {error}")))?;
    let stays = |object: &Value| match object["kind"].as_str() {
        Some("ValidatingWebhookConfiguration") => false,
        Some("DaemonSet") => parts == Parts::All,
        _ => true,
    };
    let mut objects: Vec<Value> = all.into_iter().filter(stays).collect();
    add(&mut objects, "args", vec![json!("--webhook-mode=disabled")])?;
    match parts {
        Parts::Controller => {
            let (host, port) = API_SERVER;
            let told = vec![
                json!({"name": "KUBERNETES_SERVICE_HOST", "value": host}),
                json!({"name": "KUBERNETES_SERVICE_PORT", "value": port.to_string()}),
            ];
            add(&mut objects, "env", told)?;
        }
        // The controller would make it. A kubelet that starts a speaker before tries again only minutes later.
        Parts::All => objects.push(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": NAMESPACE, "name": "memberlist"},
            "stringData": {"secretkey": "a benchmark has no secrets to keep, but needs a key for its gossip"},
        })),
    }
    Ok(objects)
}

/// Adds to a list of the controller's container.
fn add(objects: &mut [Value], list: &str, more: Vec<Value>) -> Result<()> {
    controller(objects)
        .and_then(|container| container[list].as_array_mut())
        .ok_or_else(|| LabError::Refused(format!("MetalLB's manifest: no {list} of the controller")))?
        .extend(more);
    Ok(())
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
        let mut found = objects(MANIFEST, Parts::Controller).unwrap();
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
    fn the_whole_has_speakers_and_their_key() {
        let mut found = objects(MANIFEST, Parts::All).unwrap();
        let kinds: Vec<&str> = found
            .iter()
            .map(|object| object["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["Namespace", "Deployment", "DaemonSet", "Secret"]);
        assert_eq!(
            controller(&mut found).unwrap()["env"].as_array().unwrap().len(),
            1
        );
    }

    #[test]
    fn another_manifest_is_refused() {
        let error = objects("kind: Deployment\nmetadata: {name: other}\n", Parts::All).unwrap_err();
        assert!(error.to_string().contains("no args"), "{error}");
    }
}
