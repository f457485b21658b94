//! Writing this node's NodeState: when it has changed, and not more often than people can read.
//!
//! One task owns the object. Status is replaced as a whole, with the resourceVersion as precondition, so that a
//! process which should have ended already cannot overwrite its successor unseen.

use std::time::Duration;

use fairlead_api::{NodeState, NodeStateSpec, NodeStateStatus};
use fairlead_core::model::NodeName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::metrics::{Metrics, ResultLabels};
use crate::status::notable;

/// Between two writes. Nobody waits for them: speakers hear of each other by gossip, and the end of a speaker, or of the
/// installation, is written at once.
const BETWEEN: Duration = Duration::from_secs(2);
/// The same if nothing has changed that anybody waits for.
const AT_LEISURE: Duration = Duration::from_secs(30);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts while the API server cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The status.
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

/// The writer of one NodeState.
pub struct Publisher {
    api: Api<NodeState>,
    me: NodeName,
    resource_version: Option<String>,
    metrics: Metrics,
}

impl Publisher {
    /// Nothing has been written yet.
    pub fn new(api: Api<NodeState>, me: NodeName, metrics: Metrics) -> Self {
        Self {
            api,
            me,
            resource_version: None,
            metrics,
        }
    }

    /// Writes until the last status is written.
    pub async fn run(mut self, mut desired: watch::Receiver<Option<Desired>>) {
        let mut written: Option<NodeStateStatus> = None;
        let mut last: Option<Instant> = None;
        let mut failing = false;
        loop {
            let current = desired.borrow_and_update().clone();
            let news = current
                .as_ref()
                .is_some_and(|current| written.as_ref() != Some(&current.status));
            let Some(current) = current.filter(|current| news || current.last) else {
                if desired.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let notable = written.as_ref().is_none_or(|old| notable(old, &current.status));
            let pause = if notable { BETWEEN } else { AT_LEISURE };
            let allowed = last
                .map(|last| last + pause)
                .filter(|_| !current.last && !current.leaving);
            if let Some(allowed) = allowed.filter(|allowed| Instant::now() < *allowed) {
                tokio::select! {
                    changed = desired.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep_until(allowed) => {}
                }
                continue;
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
                    debug!("NodeState written");
                    written = Some(current.status);
                    if current.last {
                        return;
                    }
                    last = Some(Instant::now());
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
            let state = NodeState {
                metadata: ObjectMeta {
                    name: Some(self.me.to_string()),
                    resource_version: Some(version),
                    ..ObjectMeta::default()
                },
                spec: NodeStateSpec {},
                status: Some(desired.status.clone()),
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
