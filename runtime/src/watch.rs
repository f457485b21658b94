//! Watch events → index. One task per kind turns a watch into `apply`, `delete` and `reset` of a [`Table`].
//!
//! Tasks: the caller spawns one [`follow`] per kind and owns its handle. Cancel safety: dropping the future ends the
//! watch and leaves the table as it was.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::table::Table;

/// An object that decodes to itself, or to what is wrong with it: `Api::<Guarded<Service>>::all(client)`.
pub use kube::core::DeserializeGuard as Guarded;

/// An index shared between the watches that fill it and the planner that reads it.
pub struct Shared<I> {
    index: Arc<Mutex<I>>,
    version: watch::Sender<u64>,
}

impl<I> Clone for Shared<I> {
    fn clone(&self) -> Self {
        Self {
            index: Arc::clone(&self.index),
            version: self.version.clone(),
        }
    }
}

impl<I> Shared<I> {
    /// Shares an index.
    pub fn new(index: I) -> Self {
        Self {
            index: Arc::new(Mutex::new(index)),
            version: watch::Sender::new(0),
        }
    }

    /// Runs `f` on the index, under its lock. Keep it short: watches wait meanwhile.
    pub fn with<R>(&self, f: impl FnOnce(&mut I) -> R) -> R {
        // A panic while the lock was held leaves plain maps behind, each of them whole.
        f(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A receiver that is notified of every change; however many happen, the reader sees one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Tells readers that something outside the tables changed.
    pub fn touch(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

/// Watch settings that all programs share: a silently dead connection is noticed after 35 s at the most.
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(30)
}

/// Follows one kind for ever, with back-off. An object that cannot be decoded is logged and treated as absent; it
/// never stalls the watch.
pub async fn follow<K, T, I>(
    api: Api<Guarded<K>>,
    config: watcher::Config,
    shared: Shared<I>,
    table: fn(&mut I) -> &mut Table<T>,
    convert: fn(&K) -> Option<T>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default + Clone + Eq + std::hash::Hash,
    T: PartialEq,
{
    let kind = shared.with(|index| table(index).kind());
    let mut buffer: BTreeMap<String, T> = BTreeMap::new();
    let decode = |object: &Guarded<K>| match &object.0 {
        Ok(object) => convert(object),
        Err(error) => {
            warn!(kind, object = error.metadata.name, %error, "cannot decode the object; treating it as absent");
            None
        }
    };
    let mut failing = false;
    let mut events = watcher::watcher(api, config).backoff(Retry::default()).boxed();
    while let Some(event) = events.next().await {
        let changed = match event {
            Err(error) => {
                // The first failure is news, the following ones are the same news.
                if failing {
                    debug!(kind, %error, "watch failed again");
                } else {
                    warn!(kind, %error, "watch failed; going on with what is known");
                }
                failing = true;
                continue;
            }
            Ok(Event::Init) => {
                buffer.clear();
                false
            }
            Ok(Event::InitApply(object)) => {
                if let Some(converted) = decode(&object) {
                    buffer.insert(key(&object), converted);
                }
                false
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut buffer);
                let count = listed.len();
                let (changed, first) = shared.with(|index| {
                    let table = table(index);
                    let first = !table.listed();
                    (table.reset(listed), first)
                });
                if first {
                    info!(kind, count, "listed");
                }
                changed
            }
            Ok(Event::Apply(object)) => {
                let converted = decode(&object);
                shared.with(|index| table(index).apply(&key(&object), converted))
            }
            Ok(Event::Delete(object)) => shared.with(|index| table(index).delete(&key(&object))),
        };
        if failing {
            info!(kind, "watch works again");
            failing = false;
        }
        if changed {
            shared.touch();
        }
    }
}

fn key<K: Resource>(object: &K) -> String {
    let name = object.name_any();
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

/// 200 ms, doubling up to 5 s: after an outage of the API server, events are wanted soon.
#[derive(Default)]
struct Retry {
    failures: u32,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(Duration::from_secs(5));
        self.failures += 1;
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_doubles_up_to_five_seconds_and_starts_again() {
        let mut retry = Retry::default();
        let waits: Vec<u128> = retry.by_ref().take(7).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        retry.reset();
        assert_eq!(retry.next(), Some(Duration::from_millis(200)));
    }

    #[tokio::test]
    async fn many_changes_are_one_notification() {
        let shared = Shared::new(Table::<u8>::new("Thing"));
        let mut changes = shared.changes();
        for _ in 0..3 {
            shared.touch();
        }
        changes.changed().await.unwrap();
        assert!(!changes.has_changed().unwrap());
    }
}
