//! Watch events → index. One task per kind turns a watch into `apply`, `delete` and `reset` of a [`Table`].
//!
//! Tasks: the caller spawns one [`follow`] per kind and owns its handle. Cancel safety: dropping the future ends the
//! watch and leaves the table as it was.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::said::Said;
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

/// Follows one kind for ever, with back-off. An object that cannot be decoded is logged, once, and treated as absent;
/// it never stalls the watch.
pub async fn follow<K, T, I>(
    api: Api<Guarded<K>>,
    config: watcher::Config,
    shared: Shared<I>,
    table: fn(&mut I) -> &mut Table<T>,
    convert: impl FnMut(&K) -> Option<T>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default + Clone + Eq + std::hash::Hash,
    T: PartialEq,
{
    follow_and_relist(api, config, shared, table, convert, Relist::new()).await;
}

/// As [`follow`], and lists all objects anew when it is asked to. The table is of use meanwhile, as it was.
///
/// `config` must ask for lists of the most recent state, as it does by default.
pub async fn follow_and_relist<K, T, I>(
    api: Api<Guarded<K>>,
    config: watcher::Config,
    shared: Shared<I>,
    table: fn(&mut I) -> &mut Table<T>,
    mut convert: impl FnMut(&K) -> Option<T>,
    relist: Relist,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default + Clone + Eq + std::hash::Hash,
    T: PartialEq,
{
    let kind = shared.with(|index| table(index).kind());
    let mut buffer: BTreeMap<String, T> = BTreeMap::new();
    let mut said = Said::default();
    let mut decode = |object: &Guarded<K>| match &object.0 {
        Ok(object) => convert(object),
        Err(error) => {
            if said.first(&key(object), ()) {
                warn!(kind, object = key(object), %error, "cannot decode the object; treating it as absent");
            }
            None
        }
    };
    let mut failing = false;
    let start = || {
        watcher::watcher(api.clone(), config.clone())
            .backoff(Retry::default())
            .boxed()
    };
    let mut wanted = relist.wanted.subscribe();
    // The list that is under way, or the last one, began no earlier than this.
    let mut began = Instant::now();
    let mut events = start();
    loop {
        let event = tokio::select! {
            biased;
            Ok(()) = wanted.changed() => {
                if wanted.borrow_and_update().is_some_and(|wanted| began < wanted) {
                    debug!(kind, "listing anew, as asked");
                    began = Instant::now();
                    events = start();
                }
                continue;
            }
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        let beginning = matches!(event, Ok(Event::Init));
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
                // Comes before the request is sent.
                began = Instant::now();
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
                relist.listed.send_replace(Some(began));
                changed
            }
            Ok(Event::Apply(object)) => {
                let converted = decode(&object);
                shared.with(|index| table(index).apply(&key(&object), converted))
            }
            Ok(Event::Delete(object)) => shared.with(|index| table(index).delete(&key(&object))),
        };
        if failing && !beginning {
            info!(kind, "watch works again");
            failing = false;
        }
        if changed {
            shared.touch();
        }
    }
}

/// Asks a [`follow_and_relist`] for a list that is recent enough.
#[derive(Clone, Debug)]
pub struct Relist {
    wanted: watch::Sender<Option<Instant>>,
    /// When the list began that the table stems from; events have come on top.
    listed: watch::Sender<Option<Instant>>,
}

impl Default for Relist {
    fn default() -> Self {
        Self::new()
    }
}

impl Relist {
    /// A handle that no watch heeds yet.
    pub fn new() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            listed: watch::Sender::new(None),
        }
    }

    /// Waits until the table stems from a list that began at `time` or later, and asks for one if need be: from then on
    /// it holds everything that the API server had accepted before `time`. If the API server does not answer, this waits.
    ///
    /// Cancel safety: cancel safe; the list that was asked for is made all the same.
    pub async fn since(&self, time: Instant) {
        let mut listed = self.listed.subscribe();
        let recent = |listed: &Option<Instant>| listed.is_some_and(|began| began >= time);
        if recent(&listed.borrow_and_update()) {
            return;
        }
        self.wanted.send_if_modified(|wanted| {
            let later = wanted.is_none_or(|wanted| wanted < time);
            if later {
                *wanted = Some(time);
            }
            later
        });
        // This handle holds a sender, so the channel does not close.
        let _ = listed.wait_for(recent).await;
    }
}

fn key<K: Resource>(object: &K) -> String {
    let name = object.name_any();
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

/// 200 ms, doubling up to 5 s: after an outage of the API server, events are wanted soon. It begins anew when the last
/// failure was a while ago, and not at any success: each attempt to list begins with an event, also one that then fails.
#[derive(Default)]
pub(crate) struct Retry {
    failures: u32,
    last: Option<Instant>,
}

/// Longer than the longest wait.
const CALM: Duration = Duration::from_secs(10);

impl Retry {
    fn failed(&mut self, now: Instant) -> Duration {
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(Duration::from_secs(5));
        self.failures += 1;
        self.last = Some(now);
        wait
    }

    fn succeeded(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now >= last + CALM) {
            *self = Self::default();
        }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.failed(Instant::now()))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.succeeded(Instant::now());
    }
}

/// Gives a channel this value, and wakes its receivers only if it is another one.
pub fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|known| {
        let changed = *known != value;
        *known = value;
        changed
    });
}

#[cfg(test)]
mod tests;
