//! The loop that plans and writes. It keeps the writes of the newest plan only, sends at most a few at once, and plans
//! again when the index changes, when a pause ends, or when a write came to nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_api::{AddressPool, L2Advertisement};
use fairlead_runtime::lease::Leadership;
use fairlead_runtime::watch::Shared;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::events::Events;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::planner::{Planner, Step, Write};
use crate::terms::stopped;
use crate::writes::{Ended, Object};

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// A write without an answer for so long has an unknown outcome. Less, if another could lead by then.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Under a storm of changes the planner rests four times as long as a plan takes, and at least so long.
const REST: Duration = Duration::from_millis(20);

/// Everything the loop needs.
pub struct Writer {
    /// For the writes.
    pub client: Client,
    /// What the watches fill.
    pub index: Shared<Index>,
    /// Where events go.
    pub events: Events,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// May we write?
    pub leadership: Leadership,
}

/// Why a term ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Another may lead now.
    Deposed,
    /// We were asked to stop. Every write has ended.
    Stopped,
    /// The installation is being removed. Every write has ended.
    Leaving,
}

type Done = (Write, Ended);

impl Writer {
    /// Plans and writes while the term of this number lasts, until asked to `stop` or the installation is being removed.
    ///
    /// Cancel safety: dropping the future abandons the writes under way; each of them has happened or has not, and the
    /// next term reads which.
    pub async fn lead(&self, mut planner: Planner, term: u64, stop: &mut watch::Receiver<bool>) -> End {
        let mut leadership = self.leadership.clone();
        let mut changes = self.index.changes();
        changes.mark_changed();
        let mut queue: VecDeque<Write> = VecDeque::new();
        let mut under_way: JoinSet<Done> = JoinSet::new();
        // Plan when this is reached; `None` means when something happens.
        let mut due = Some(Instant::now());
        let mut earliest = Instant::now();
        let limit = TIMEOUT.min(leadership.slack());
        let end = loop {
            let at = due.map(|due| due.max(earliest));
            tokio::select! {
                () = leadership.lost(term) => return End::Deposed,
                () = stopped(stop) => break End::Stopped,
                changed = changes.changed() => match changed {
                    Ok(()) => due = Some(earliest),
                    Err(_) => break End::Stopped,
                },
                Some(done) = under_way.join_next() => match done {
                    Ok((write, ended)) => {
                        if self.ended(&mut planner, write, &ended) {
                            due = Some(earliest);
                        }
                    }
                    Err(error) => warn!(%error, "a write was lost"),
                },
                () = sleep_until(at) => {
                    let began = Instant::now();
                    let Some(step) = self.plan(&mut planner, began) else {
                        if self.index.with(|index| index.is_leaving()) {
                            break End::Leaving;
                        }
                        due = None;
                        continue;
                    };
                    let took = began.elapsed();
                    self.metrics.planned(&step.tally, took);
                    earliest = Instant::now() + REST.max(took * 4);
                    due = step.wake;
                    for (key, uid, notice) in step.notices {
                        info!(kind = "Service", name = %key, reason = notice.reason, "{}", notice.note);
                        self.events.publish(reference(&Object::Service(key), &uid), notice);
                    }
                    queue = step.writes.into();
                }
            }
            while planner.writes.under_way() < AT_ONCE {
                let Some(write) = queue.pop_front() else { break };
                // The clock is asked before each: we may have stood still since it was planned.
                if !leadership.holds(term, Instant::now()) {
                    return End::Deposed;
                }
                planner
                    .writes
                    .begin(write.object.clone(), &write.base, write.change.after.clone());
                under_way.spawn(send(self.client.clone(), write, limit));
            }
        };
        // Each of them ends in time by itself.
        while let Some(done) = under_way.join_next().await {
            if let Ok((write, ended)) = done {
                self.ended(&mut planner, write, &ended);
            }
        }
        end
    }

    /// `None` when there is nothing to plan from yet, or no plan is to be made any more.
    fn plan(&self, planner: &mut Planner, now: Instant) -> Option<Step> {
        self.index.with(|index| {
            let leaving = index.is_leaving();
            (!leaving)
                .then(|| planner.step(index, now, Timestamp::now()))
                .flatten()
        })
    }

    /// Books the end of a write; answers whether to plan again soon although no watch may say so.
    fn ended(&self, planner: &mut Planner, write: Write, ended: &Ended) -> bool {
        planner.writes.end(&write.object, ended, Instant::now());
        self.metrics.wrote(&write.object, ended);
        let (kind, name) = (write.object.kind(), write.object.name());
        match ended {
            Ended::Accepted(version) => {
                if *version == write.base {
                    warn!(kind, name, patch = %write.change.patch, "a write changed nothing");
                }
                let reference = reference(&write.object, &write.uid);
                for notice in write.change.notices {
                    info!(kind, name, reason = notice.reason, "{}", notice.note);
                    self.events.publish(reference.clone(), notice);
                }
                *version == write.base
            }
            Ended::Stale => {
                debug!(
                    kind,
                    name, "the object has changed; planning from its newer state"
                );
                false
            }
            Ended::Refused | Ended::Unknown => true,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Sends one patch of a status, for so long at the most. That it may be sent twice does no harm: the second one meets
/// another version.
async fn send(client: Client, write: Write, limit: Duration) -> Done {
    let params = PatchParams::default();
    let patch = Patch::Merge(&write.change.patch);
    let answer = async {
        let object: kube::Result<DynamicObject> = match &write.object {
            Object::Service(key) => {
                let resource = ApiResource::erase::<Service>(&());
                let api: Api<DynamicObject> = Api::namespaced_with(client, &key.namespace, &resource);
                api.patch_status(&key.name, &params, &patch).await
            }
            Object::Pool(name) => {
                let resource = ApiResource::erase::<AddressPool>(&());
                let api: Api<DynamicObject> = Api::all_with(client, &resource);
                api.patch_status(name, &params, &patch).await
            }
            Object::Advertisement(name) => {
                let resource = ApiResource::erase::<L2Advertisement>(&());
                let api: Api<DynamicObject> = Api::all_with(client, &resource);
                api.patch_status(name, &params, &patch).await
            }
        };
        object
    };
    let ended = match tokio::time::timeout(limit, answer).await {
        Ok(Ok(object)) => Ended::Accepted(object.metadata.resource_version.unwrap_or_default()),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Ended::Stale,
        Ok(Err(error)) => {
            let (kind, name) = (write.object.kind(), write.object.name());
            warn!(kind, name, %error, "cannot write the status");
            // Only a client error says that nothing happened; a server error may come after the fact.
            match error {
                kube::Error::Api(status) if (400..500).contains(&status.code) => Ended::Refused,
                _ => Ended::Unknown,
            }
        }
        Err(_) => {
            let (kind, name) = (write.object.kind(), write.object.name());
            warn!(kind, name, "no answer to a write of the status");
            Ended::Unknown
        }
    };
    (write, ended)
}

fn reference(object: &Object, uid: &str) -> ObjectReference {
    let (version, namespace, name) = match object {
        Object::Service(key) => (Service::api_version(&()), Some(key.namespace.clone()), &key.name),
        Object::Pool(name) => (AddressPool::api_version(&()), None, name),
        Object::Advertisement(name) => (L2Advertisement::api_version(&()), None, name),
    };
    ObjectReference {
        api_version: Some(version.into_owned()),
        kind: Some(object.kind().to_owned()),
        namespace,
        name: Some(name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
