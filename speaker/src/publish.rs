//! Writing this node's NodeState: at once when it changed, and as a heartbeat.
//!
//! One task owns the object. Status is replaced as a whole, with the resourceVersion as precondition, so that a
//! process which should have ended already cannot overwrite its successor unseen.

use std::time::Duration;

use fairlead_api::{NodeState, NodeStateSpec, NodeStateStatus};
use fairlead_core::announce::HEARTBEAT;
use fairlead_core::model::NodeName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::metrics::{Metrics, ResultLabels};
use crate::status::urgent;

/// Changes that follow a write within this time travel together.
const COALESCE: Duration = Duration::from_millis(20);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts while the API server cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The status; incarnation and sequence are filled in here.
    pub status: NodeStateStatus,
    /// UID of the Node object, which will own the NodeState.
    pub node_uid: Option<String>,
    /// The installation is being removed: a NodeState that was deleted stays so.
    pub leaving: bool,
    /// Nothing will follow: end after writing it.
    pub last: bool,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    #[error("there is no Node object to own the NodeState")]
    NoNode,
}

/// Reads what an earlier process of this node published, waiting for the API server as long as it takes.
pub async fn read_back(api: &Api<NodeState>, me: &NodeName) -> Option<NodeStateStatus> {
    let mut complained = false;
    loop {
        let error = match timeout(PATIENCE, api.get_opt(me.as_str())).await {
            Ok(Ok(state)) => return state.and_then(|state| state.status),
            Ok(Err(error)) => WriteError::Api(error),
            Err(_) => WriteError::Timeout,
        };
        if !complained {
            warn!(%error, "cannot read this node's NodeState; trying on");
            complained = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The writer of one NodeState.
pub struct Publisher {
    api: Api<NodeState>,
    me: NodeName,
    incarnation: i64,
    sequence: i64,
    resource_version: Option<String>,
    metrics: Metrics,
}

impl Publisher {
    /// Nothing has been written yet.
    pub fn new(api: Api<NodeState>, me: NodeName, incarnation: i64, metrics: Metrics) -> Self {
        Self {
            api,
            me,
            incarnation,
            sequence: 0,
            resource_version: None,
            metrics,
        }
    }

    /// Writes until the last status is written. `heartbeat` gets the sequence of every write that is due because time
    /// has passed (see [`fairlead_core::announce::Liveness`]).
    pub async fn run(mut self, mut desired: watch::Receiver<Option<Desired>>, heartbeat: watch::Sender<i64>) {
        let mut written: Option<NodeStateStatus> = None;
        let mut next_heartbeat = Instant::now();
        let mut failing = false;
        loop {
            let current = desired.borrow_and_update().clone();
            let Some(current) = current else {
                if desired.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let beat = Instant::now() >= next_heartbeat;
            let news = written.as_ref().is_none_or(|old| urgent(old, &current.status));
            if !beat && !news && !current.last {
                tokio::select! {
                    changed = desired.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep_until(next_heartbeat) => {}
                }
                continue;
            }
            self.sequence += 1;
            if beat {
                heartbeat.send_replace(self.sequence);
            }
            let outcome = self.write(&current).await;
            let result = if outcome.is_ok() { "success" } else { "failure" };
            self.metrics
                .node_state_writes
                .get_or_create(&ResultLabels { result })
                .inc();
            match outcome {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!("the NodeState can be written again");
                    }
                    debug!(sequence = self.sequence, beat, "NodeState written");
                    written = Some(current.status);
                    if current.last {
                        return;
                    }
                    if beat {
                        next_heartbeat = Instant::now() + HEARTBEAT;
                    }
                    tokio::time::sleep(COALESCE).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "cannot write the NodeState; trying on");
                    }
                    debug!(%error, "cannot write the NodeState");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// One write, creating the object or reading its version first where that is needed.
    async fn write(&mut self, desired: &Desired) -> Result<(), WriteError> {
        // The object may have been deleted, or changed by somebody else: both are found out by trying.
        for _ in 0..3 {
            let version = match self.resource_version.take() {
                Some(version) => version,
                None => match self.version(desired).await? {
                    Some(version) => version,
                    None => return Ok(()),
                },
            };
            let mut status = desired.status.clone();
            status.candidacy.incarnation = self.incarnation;
            status.candidacy.sequence = self.sequence;
            let state = NodeState {
                metadata: ObjectMeta {
                    name: Some(self.me.to_string()),
                    resource_version: Some(version),
                    ..ObjectMeta::default()
                },
                spec: NodeStateSpec {},
                status: Some(status),
            };
            let parameters = PostParams::default();
            let request = self.api.replace_status(self.me.as_str(), &parameters, &state);
            match timeout(PATIENCE, request).await {
                Ok(Ok(state)) => {
                    self.resource_version = state.metadata.resource_version;
                    return Ok(());
                }
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
                    debug!(reason = status.reason, "reading the NodeState anew");
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(WriteError::Timeout),
            }
        }
        Err(WriteError::Timeout)
    }

    /// The version of the object, which is created if it does not exist; `None` if it is to stay away.
    async fn version(&self, desired: &Desired) -> Result<Option<String>, WriteError> {
        let name = self.me.as_str();
        let found = timeout(PATIENCE, self.api.get_opt(name))
            .await
            .map_err(|_| WriteError::Timeout)??;
        let state = match found {
            Some(state) => state,
            None if desired.leaving => return Ok(None),
            None => {
                let owner = OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.to_owned(),
                    uid: desired.node_uid.clone().ok_or(WriteError::NoNode)?,
                    ..OwnerReference::default()
                };
                let state = NodeState {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        owner_references: Some(vec![owner]),
                        ..ObjectMeta::default()
                    },
                    spec: NodeStateSpec {},
                    status: None,
                };
                timeout(PATIENCE, self.api.create(&PostParams::default(), &state))
                    .await
                    .map_err(|_| WriteError::Timeout)??
            }
        };
        Ok(Some(state.metadata.resource_version.unwrap_or_default()))
    }
}
