//! Making faults and mending them.

use std::time::Duration;

use serde_json::{Value, json};

use super::Addresses;
use super::fault::Fault;
use crate::error::{LabError, Result};
use crate::failover::{Programs, Scene};
use crate::product::api::condition;
use crate::product::{install, manifests, wait_for};
use crate::topology::Place;

/// A killed program that kubelet has not started again in this time gets a new pod: kubelet waits longer each time.
const PATIENCE: Duration = Duration::from_secs(5);
/// For everything else that must come back.
const BACK: Duration = Duration::from_secs(120);
const AGENT: &str = "^/usr/bin/fairlead-node-agent";
/// The port of the speakers' gossip.
const GOSSIP: u16 = 7673;

/// The Service that comes and goes.
pub(super) fn service(namespace: &str, name: &str, policy: &str, app: &str, addresses: &Addresses) -> Value {
    let mut service = manifests::service(namespace, name, policy);
    service["spec"]["selector"] = json!({"app": app});
    service["metadata"]["annotations"] = json!({"fairlead.dev/load-balancer-ips": addresses.text()});
    if addresses.0.len() > 1 {
        service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    }
    service
}

/// Makes a fault. `gone` is the Service that comes and goes.
pub(super) fn make(scene: &Scene<'_>, fault: &Fault, gone: &Value) -> Result<()> {
    let lab = scene.lab;
    match fault {
        Fault::Cordon(n) => scene.cluster.cordon(&Place::Node(*n).name(), true),
        Fault::Cut(n) => lab.cut(Place::Node(*n)),
        Fault::PowerOff(n) => lab.power_off(Place::Node(*n)),
        Fault::KillSpeaker(n) => kill(scene, *n, Programs::of(scene.who).process),
        Fault::KillAgent(n) => kill(scene, *n, AGENT),
        Fault::Unready(app, n) => scene.set_ready(app, &Place::Node(*n).name(), false),
        Fault::ApiSilent => lab.pause_api_server(),
        Fault::ServiceGone => scene.cluster.delete(&crate::product::api::path_of(gone)?),
        Fault::GossipBlocked(a, b) => block(scene, *a, *b),
    }
}

/// Mends it, and waits until what was broken works.
pub(super) fn mend(scene: &Scene<'_>, fault: &Fault, gone: &Value) -> Result<()> {
    let lab = scene.lab;
    match fault {
        Fault::Cordon(n) => scene.cluster.cordon(&Place::Node(*n).name(), false),
        Fault::Cut(n) => lab.plug(Place::Node(*n)),
        Fault::PowerOff(n) => {
            scene.power(Place::Node(*n))?;
            for app in &scene.apps {
                scene.wait_serving(app, &Place::Node(*n).name())?;
            }
            wait_programs(scene, *n)
        }
        Fault::KillSpeaker(n) => wait_back(scene, *n, "speaker", Programs::of(scene.who).process),
        Fault::KillAgent(n) => wait_back(scene, *n, "node-agent", AGENT),
        Fault::Unready(app, n) => scene.set_ready(app, &Place::Node(*n).name(), true),
        Fault::ApiSilent => {
            lab.resume_api_server()?;
            wait_for("the API server to answer", BACK, || {
                scene
                    .cluster
                    .get("/api/v1/namespaces/default")
                    .map(drop)
                    .map_err(|e| e.to_string())
            })
        }
        Fault::ServiceGone => {
            // One of the same name may still be on its way out.
            wait_for("the Service to be made anew", BACK, || {
                scene
                    .cluster
                    .create(gone, false)
                    .map(drop)
                    .map_err(|e| e.to_string())
            })?;
            let name = gone["metadata"]["name"].as_str().unwrap_or_default();
            scene.wait_address(name).map(drop)
        }
        Fault::GossipBlocked(a, _) => scene
            .exec(Place::Node(*a), &["nft", "delete", "table", "inet", "e2e"])
            .map(drop),
    }
}

fn kill(scene: &Scene<'_>, node: u8, pattern: &str) -> Result<()> {
    let place = Place::Node(node);
    let pids = scene
        .processes(&place.name(), pattern)
        .map_err(LabError::Refused)?;
    for pid in pids {
        scene.exec(place, &["kill", "-9", &pid])?;
    }
    Ok(())
}

fn wait_back(scene: &Scene<'_>, node: u8, component: &str, pattern: &str) -> Result<()> {
    let name = Place::Node(node).name();
    let runs = || match scene.processes(&name, pattern)?.is_empty() {
        true => Err("it does not run".to_owned()),
        false => Ok(()),
    };
    if wait_for(&format!("{component} on {name}"), PATIENCE, runs).is_err() {
        let pod = install::pod_of(scene.cluster, component, &name)?;
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = scene.who.namespace();
        scene
            .cluster
            .delete(&format!("/api/v1/namespaces/{namespace}/pods/{pod}"))?;
    }
    wait_programs(scene, node)
}

/// Waits until a node's speaker and agent run and are ready, whatever is wrong with other nodes.
fn wait_programs(scene: &Scene<'_>, node: u8) -> Result<()> {
    let name = Place::Node(node).name();
    for (component, pattern) in [
        ("speaker", Programs::of(scene.who).process),
        ("node-agent", AGENT),
    ] {
        wait_for(&format!("{component} on {name} to be ready"), BACK, || {
            let pod = install::pod_of(scene.cluster, component, &name).map_err(|e| e.to_string())?;
            let ready = condition(&pod, "Ready").is_some_and(|(status, _, _)| status == "True");
            // What the API says may be of the time before it ended.
            if ready && !scene.processes(&name, pattern)?.is_empty() {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        })?;
    }
    Ok(())
}

/// Nothing of the gossip goes to the other, and nothing comes from it.
fn block(scene: &Scene<'_>, node: u8, other: u8) -> Result<()> {
    let address = Place::Node(other)
        .uplink()
        .map(|i| i.v4.to_string())
        .unwrap_or_default();
    let rules = format!(
        "table inet e2e {{ \
           chain input {{ type filter hook input priority -200; ip saddr {address} meta l4proto {{ tcp, udp }} th dport {GOSSIP} drop; }}; \
           chain output {{ type filter hook output priority -200; ip daddr {address} meta l4proto {{ tcp, udp }} th dport {GOSSIP} drop; }}; }}"
    );
    scene.exec(Place::Node(node), &["nft", &rules]).map(drop)
}
