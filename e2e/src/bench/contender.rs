//! Who is measured, and how each is installed, stopped and removed. One at a time: while one is there, the other is
//! not.

use std::time::Duration;

use serde_json::{Value, json};

use super::metallb;
use super::usage;
use crate::components::MetalLb;
use crate::error::{LabError, Result};
use crate::lab::Lab;
use crate::process::ProcessId;
use crate::product::api::path_of;
use crate::product::{Cluster, install, manifests, wait_for};

/// The addresses to be given: more than there are Services, and from the range that is meant for benchmarks.
const ADDRESSES: &str = "198.18.0.0/16";
/// Where the API server listens. Nothing serves ClusterIPs in this lab, so programs are told.
pub(super) const API_SERVER: (&str, u16) = ("172.30.0.2", 6443);
/// Matches no node.
const NOWHERE: &str = r#"{"fairlead.dev/bench":"nowhere"}"#;
/// How long an installation, a start or a stop may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A controller to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The controller of this tree.
    Fairlead,
    /// MetalLB's, of the pinned release.
    MetalLb,
}

/// The processes of a controller, and what tells whether they are still the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// All replicas.
    pub processes: Vec<ProcessId>,
    /// Number of pods.
    pub replicas: usize,
}

impl Contender {
    /// Its name, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Fairlead => "Fairlead",
            Self::MetalLb => "MetalLB",
        }
    }

    /// Its name, for objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fairlead => "fairlead",
            Self::MetalLb => "metallb",
        }
    }

    /// Version and what differs from an installation by a user.
    pub fn describe(self) -> String {
        match self {
            Self::Fairlead => format!(
                "Fairlead {}, chart of this tree; speakers and node agents on no node",
                env!("CARGO_PKG_VERSION")
            ),
            Self::MetalLb => format!(
                "MetalLB {}, its manifest metallb-native.yaml without speakers and without webhooks (--webhook-mode=disabled)",
                MetalLb::VERSION
            ),
        }
    }

    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Fairlead => install::NAMESPACE,
            Self::MetalLb => metallb::NAMESPACE,
        }
    }

    fn deployment(self) -> String {
        let name = match self {
            Self::Fairlead => format!("{}-controller", install::RELEASE),
            Self::MetalLb => "controller".to_owned(),
        };
        format!("/apis/apps/v1/namespaces/{}/deployments/{name}", self.namespace())
    }

    fn selector(self) -> &'static str {
        match self {
            Self::Fairlead => "app.kubernetes.io/component=controller",
            Self::MetalLb => "app=metallb,component=controller",
        }
    }

    /// Installs it with a pool of addresses and an advertisement of the pool at layer 2, and waits until it is ready.
    ///
    /// # Errors
    /// What Helm or the API server refuses, and what is not ready when time is up.
    pub fn install(self, lab: &Lab, cluster: &Cluster, metallb: &MetalLb) -> Result<()> {
        match self {
            Self::Fairlead => {
                let (host, port) = API_SERVER;
                install::install_with(
                    lab,
                    &[
                        &format!("--set=apiServer.host={host}"),
                        &format!("--set=apiServer.port={port}"),
                        &format!("--set-json=speaker.nodeSelector={NOWHERE}"),
                        &format!("--set-json=nodeAgent.nodeSelector={NOWHERE}"),
                    ],
                )?;
                self.wait_ready(cluster)?;
                for object in fairlead_objects() {
                    cluster.apply(&object)?;
                }
                Ok(())
            }
            Self::MetalLb => {
                metallb::install(lab, metallb, ADDRESSES, metallb::Parts::Controller)?;
                self.wait_ready(cluster)
            }
        }
    }

    fn wait_ready(self, cluster: &Cluster) -> Result<()> {
        let what = format!("the controller of {} to be ready", self.title());
        wait_for(&what, LIMIT, || {
            let deployment = cluster
                .get(&self.deployment())
                .map_err(|e| e.to_string())?
                .unwrap_or_default();
            let (wanted, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
            let current = status["observedGeneration"] == deployment["metadata"]["generation"];
            let all = ["replicas", "updatedReplicas", "readyReplicas"];
            if current && wanted.is_u64() && all.iter().all(|field| &status[*field] == wanted) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Its processes on this machine.
    ///
    /// # Errors
    /// When there is none, or one was started again: its figures would be of the last attempt only.
    pub fn running(self, cluster: &Cluster) -> Result<Running> {
        let pods = self.pods(cluster)?;
        let mut processes = Vec::new();
        for pod in &pods {
            for container in pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
            {
                if container["restartCount"] != 0 {
                    let why = format!("a container of {} was restarted: {container}", self.title());
                    return Err(LabError::Refused(why));
                }
                processes.extend(usage::of_container(
                    container["containerID"].as_str().unwrap_or_default(),
                )?);
            }
        }
        if processes.is_empty() {
            return Err(LabError::Refused(format!(
                "no controller of {} runs",
                self.title()
            )));
        }
        Ok(Running {
            processes,
            replicas: pods.len(),
        })
    }

    fn pods(self, cluster: &Cluster) -> Result<Vec<Value>> {
        let (namespace, selector) = (self.namespace(), self.selector());
        cluster.list(&format!(
            "/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
        ))
    }

    /// Ends its controller, so that it takes no part in what follows.
    ///
    /// # Errors
    /// As [`Contender::install`].
    pub fn stop(self, cluster: &Cluster) -> Result<()> {
        cluster.patch(&self.deployment(), &json!({"spec": {"replicas": 0}}))?;
        let what = format!("the controller of {} to end", self.title());
        wait_for(&what, LIMIT, || {
            match self.pods(cluster).map_err(|e| e.to_string())?.first() {
                None => Ok(()),
                Some(pod) => Err(pod["status"].to_string()),
            }
        })
    }

    /// Uninstalls it.
    ///
    /// # Errors
    /// What Helm or the API server refuses, and what is left when time is up.
    pub fn remove(self, lab: &Lab, cluster: &Cluster, metallb: &MetalLb) -> Result<()> {
        match self {
            Self::Fairlead => {
                install::uninstall(lab)?;
                for object in fairlead_objects() {
                    cluster.delete_and_wait(&path_of(&object)?, LIMIT)?;
                }
                Ok(())
            }
            Self::MetalLb => metallb::remove(lab, metallb),
        }
    }
}

fn fairlead_objects() -> [Value; 2] {
    [
        manifests::pool("bench", &[ADDRESSES]),
        manifests::advertisement("bench", "bench"),
    ]
}
