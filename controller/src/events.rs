//! Events (`events.k8s.io/v1`), published by one task so that no write waits for them.
//!
//! An event of the same object, reason and text within six minutes raises the count of the first one. (The recorder
//! of the client library leaves the text out of that comparison and so would repeat an old owner's name.)

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_runtime::lease::Leadership;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use crate::change::Notice;
use crate::metrics::Metrics;

const CONTROLLER: &str = "fairlead.dev/controller";
const SERIES: SignedDuration = SignedDuration::from_mins(6);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Events in waiting; more than so many are dropped and counted.
const WAITING: usize = 16_384;
/// The API's limit of an event's text, in bytes.
const NOTE: usize = 1024;

/// Where events are handed in.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<(ObjectReference, Notice)>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Starts the task that publishes. `instance` is the name of this pod. Events that are still waiting when it leads no
    /// longer are dropped.
    pub fn start(
        client: kube::Client,
        instance: String,
        metrics: Arc<Metrics>,
        leadership: Leadership,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let metrics_too = Arc::clone(&metrics);
        tokio::spawn(publish_all(client, instance, receiver, metrics_too, leadership));
        Self { sender, metrics }
    }

    /// Hands in an event, without waiting.
    pub fn publish(&self, regarding: ObjectReference, notice: Notice) {
        if self.sender.try_send((regarding, notice)).is_err() {
            self.metrics.event_lost();
        }
    }
}

/// What makes two events the same.
type Key = (Option<String>, Notice);

/// The event that stands for a series of equal ones.
struct First {
    name: String,
    count: i32,
    last: Timestamp,
}

async fn publish_all(
    client: kube::Client,
    instance: String,
    mut receiver: mpsc::Receiver<(ObjectReference, Notice)>,
    metrics: Arc<Metrics>,
    leadership: Leadership,
) {
    let limit = TIMEOUT.min(leadership.slack());
    let mut series: HashMap<Key, First> = HashMap::new();
    while let Some((regarding, notice)) = receiver.recv().await {
        if !leadership.is_leading(Instant::now()) {
            metrics.event_lost();
            continue;
        }
        let now = Timestamp::now();
        series.retain(|_, first| now.duration_since(first.last) < SERIES);
        let namespace = regarding
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = (regarding.uid.clone(), notice.clone());
        let published = async {
            if let Some(first) = series.get_mut(&key) {
                (first.count, first.last) = (first.count + 1, now);
                let patch = json!({ "series": { "count": first.count, "lastObservedTime": MicroTime(now) } });
                api.patch(&first.name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await?;
            } else {
                let event = event(&regarding, &namespace, &notice, &instance, now);
                let name = event.metadata.name.clone().unwrap_or_default();
                api.create(&PostParams::default(), &event).await?;
                let (count, last) = (1, now);
                series.insert(key, First { name, count, last });
            }
            Ok::<(), kube::Error>(())
        };
        let problem = match tokio::time::timeout(limit, published).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        metrics.event_lost();
        let (kind, name, reason) = (&regarding.kind, &regarding.name, notice.reason.as_str());
        tracing::warn!(kind, name, reason, error = problem, "cannot publish an event");
    }
}

fn event(
    regarding: &ObjectReference,
    namespace: &str,
    notice: &Notice,
    instance: &str,
    now: Timestamp,
) -> Event {
    // A name may have 253 characters; the time makes it unique.
    let name: String = regarding
        .name
        .iter()
        .flat_map(|name| name.chars())
        .take(230)
        .collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some(notice.action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(truncated(&notice.note, NOTE).to_owned()),
        reason: Some(notice.reason.as_str().to_owned()),
        regarding: Some(regarding.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

fn truncated(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_complete_and_within_the_limits() {
        let regarding = ObjectReference {
            name: Some("x".repeat(253)),
            ..ObjectReference::default()
        };
        let notice = Notice {
            warning: true,
            reason: fairlead_core::reason::Reason::PoolExhausted,
            action: "Assign",
            note: "ä".repeat(600),
        };
        let event = event(&regarding, "default", &notice, "pod", Timestamp::now());
        assert!(event.metadata.name.unwrap().len() <= 253);
        let note = event.note.unwrap();
        assert!(note.len() <= NOTE && note.len() > NOTE - 4, "{}", note.len());
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.event_time.is_some() && event.action.is_some() && event.reporting_instance.is_some());
    }
}
