//! Back to a lab in which all is well, from whatever a trial has left.

use std::time::Duration;

use serde_json::Value;

use super::scene::{Scene, web_pod};
use crate::bench::Contender;
use crate::error::{LabError, Result};
use crate::product::api::condition;
use crate::product::{install, wait_for};
use crate::progress::Progress;
use crate::topology::Place;

/// For pods that have to start.
pub(super) const POD_START: Duration = Duration::from_secs(90);
/// For all programs to be ready, after the API server or a node was away.
const READY: Duration = Duration::from_secs(180);
/// The table in which trials keep their rules.
const TABLE: [&str; 3] = ["table", "inet", "e2e"];
const KUBE_PROXY: &str = "kube-proxy";

/// The programs of a contender.
pub(crate) struct Programs {
    /// Namespace and name of the speakers' DaemonSet.
    pub speakers: String,
    /// Of the node agents', if it has any.
    pub agents: Option<String>,
    /// How a speaker's command line begins, as a regular expression.
    pub process: &'static str,
    /// Label selector of the speakers' pods.
    pub selector: &'static str,
}

impl Programs {
    pub fn of(who: Contender) -> Self {
        match who {
            Contender::Fairlead => Self {
                speakers: format!("{}-speaker", install::RELEASE),
                agents: Some(format!("{}-node-agent", install::RELEASE)),
                process: "^/usr/bin/fairlead-speaker",
                selector: "app.kubernetes.io/component=speaker",
            },
            Contender::MetalLb => Self {
                speakers: "speaker".to_owned(),
                agents: None,
                process: "^/speaker",
                selector: "app=metallb,component=speaker",
            },
        }
    }
}

impl Scene<'_> {
    /// Undoes every fault, and waits until nodes, pods and speakers are ready. Who announces is another matter:
    /// [`Scene::settle`].
    ///
    /// # Errors
    /// What cannot be undone, or is not ready in time.
    pub fn restore(&self) -> Result<()> {
        self.lab.resume_api_server()?;
        self.lab.join()?;
        for place in self.lab.nodes() {
            self.power(place)?;
        }
        for place in self.lab.nodes() {
            let name = place.name();
            wait_for(&format!("{name} to be uncordoned"), READY, || {
                self.cluster.cordon(&name, false).map_err(|e| e.to_string())
            })?;
            for app in &self.apps {
                self.serve(app, &name)?;
            }
        }
        for place in self.lab.nodes() {
            for app in &self.apps {
                self.wait_serving(app, &place.name())?;
            }
        }
        self.wait_programs()
    }

    /// Power, cable, no rules of a trial, and a service proxy.
    pub(crate) fn power(&self, place: Place) -> Result<()> {
        if self.lab.machine(place).is_err() {
            // An error to be told of only if the second attempt fails as well: the first may have met what was
            // half ended.
            if self.lab.power_on(place, &Progress::quiet()).is_err() {
                self.lab.power_on(place, &Progress::quiet())?;
            }
        }
        self.lab.plug(place)?;
        // There is a table only after a trial that made one.
        self.lab.exec(place, ["nft", "delete"].iter().chain(&TABLE))?;
        let dead = self
            .lab
            .services(place)?
            .iter()
            .any(|service| service.name == KUBE_PROXY && !service.is_running());
        if dead {
            self.lab.restart_service(place, KUBE_PROXY)?;
        }
        Ok(())
    }

    /// A web server on this node, ready as far as we say.
    fn serve(&self, app: &str, node: &str) -> Result<()> {
        let path = self.pod(app, node);
        wait_for(&format!("a pod of {app} on {node}"), POD_START, || {
            let pod = self.cluster.get(&path).map_err(|e| e.to_string())?;
            match pod {
                None => {
                    let manifest = web_pod(&self.namespace, app, node);
                    self.cluster.create(&manifest, false).map_err(|e| e.to_string())?;
                    Err("just created".to_owned())
                }
                Some(pod) if !pod["metadata"]["deletionTimestamp"].is_null() => {
                    Err("it is ending".to_owned())
                }
                Some(pod) if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) => {
                    self.cluster.delete(&path).map_err(|e| e.to_string())?;
                    Err(pod["status"].to_string())
                }
                Some(_) => self.set_ready(app, node, true).map_err(|e| e.to_string()),
            }
        })
    }

    pub(crate) fn wait_serving(&self, app: &str, node: &str) -> Result<()> {
        wait_for(&format!("{app} on {node} to be ready"), POD_START, || {
            let path = self.pod(app, node);
            let pod = self.cluster.get(&path).map_err(|e| e.to_string())?;
            let pod = pod.unwrap_or_default();
            let ready = condition(&pod, "Ready").is_some_and(|(status, _, _)| status == "True");
            // What the API says may be of the time before the power went.
            let runs = !self.processes(node, "agnhost netexec")?.is_empty();
            if ready && runs {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        })
    }

    /// The pids of the programs on a node whose command line matches.
    pub(crate) fn processes(&self, node: &str, pattern: &str) -> std::result::Result<Vec<String>, String> {
        let place: Place = node.parse().map_err(|e: LabError| e.to_string())?;
        let pids = self
            .exec(place, &["pgrep", "-f", pattern])
            .map_err(|e| e.to_string())?;
        Ok(pids.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until every speaker runs and is ready, and every node agent.
    pub(crate) fn wait_programs(&self) -> Result<()> {
        let programs = Programs::of(self.who);
        let sets = [Some(programs.speakers), programs.agents];
        let what = format!("the programs of {} to be ready", self.who.title());
        wait_for(&what, READY, || {
            for set in sets.iter().flatten() {
                let namespace = self.who.namespace();
                let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{set}");
                let set = self
                    .cluster
                    .get(&path)
                    .map_err(|e| e.to_string())?
                    .unwrap_or_default();
                if !all_ready(&set) {
                    return Err(set["status"].to_string());
                }
            }
            for place in self.lab.nodes() {
                if self.processes(&place.name(), programs.process)?.is_empty() {
                    return Err(format!("no speaker runs on {}", place.name()));
                }
            }
            Ok(())
        })
    }
}

/// Whether a DaemonSet has every pod that it wants, of its newest template and ready.
fn all_ready(set: &Value) -> bool {
    let status = &set["status"];
    let wanted = &status["desiredNumberScheduled"];
    wanted.as_i64().is_some_and(|n| n > 0)
        && &status["numberReady"] == wanted
        && &status["updatedNumberScheduled"] == wanted
        && status["observedGeneration"] == set["metadata"]["generation"]
}
