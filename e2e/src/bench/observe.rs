//! The watch that notes when each Service got its address.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::load::{LABEL, Load, assigned, key};
use super::timeline::Timeline;
use crate::error::{LabError, Result};

/// How long the first list may take.
const LISTED: Duration = Duration::from_secs(30);

/// What the watch has come to.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    listed: bool,
    assigned: usize,
    changed: Duration,
    interruptions: usize,
}

/// A running watch of the Services of one load.
pub struct Observer {
    zero: Instant,
    timeline: Arc<Mutex<Timeline>>,
    now: watch::Receiver<Now>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Starts to watch, and waits until the watch stands.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(client: Client, load: &Load) -> Result<Self> {
        Self::of(client, &format!("{LABEL}={}", load.run)).await
    }

    /// The same for the Services that a label selector selects.
    ///
    /// # Errors
    /// When the watch does not stand in time.
    pub async fn of(client: Client, selector: &str) -> Result<Self> {
        let (sender, mut now) = watch::channel(Now::default());
        let timeline = Arc::new(Mutex::new(Timeline::default()));
        let zero = Instant::now();
        let config = watcher::Config::default().labels(selector);
        let task = tokio::spawn(follow(client, config, Arc::clone(&timeline), zero, sender));
        let listed = tokio::time::timeout(LISTED, now.wait_for(|now| now.listed)).await;
        if !matches!(listed, Ok(Ok(_))) {
            return Err(LabError::Timeout {
                what: "a watch of Services".to_owned(),
                after: LISTED,
                seen: "no list".to_owned(),
            });
        }
        drop(listed);
        Ok(Self {
            zero,
            timeline,
            now,
            task,
        })
    }

    /// Time since the watch was started; the clock of the timeline.
    pub fn clock(&self) -> Duration {
        self.zero.elapsed()
    }

    /// What was seen so far.
    pub fn timeline(&self) -> MutexGuard<'_, Timeline> {
        lock(&self.timeline)
    }

    /// Waits until so many Services have an address, or until the clock shows `end`; did they all get one?
    pub async fn wait_assigned(&mut self, count: usize, end: Duration) -> bool {
        let left = end.saturating_sub(self.clock());
        let all = self.now.wait_for(|now| now.assigned >= count);
        matches!(tokio::time::timeout(left, all).await, Ok(Ok(_)))
    }

    /// Waits until nothing has changed for `quiet`, or until the clock shows `end`; when was the last change, if it
    /// became quiet?
    pub async fn wait_quiet(&mut self, quiet: Duration, end: Duration) -> Option<Duration> {
        loop {
            let last = self.now.borrow_and_update().changed;
            if self.clock() >= end {
                return None;
            }
            match (last + quiet).checked_sub(self.clock()) {
                None => return Some(last),
                Some(left) => {
                    // Another change starts the wait anew.
                    let _ = tokio::time::timeout(left, self.now.changed()).await;
                }
            }
        }
    }

    /// How often the watch was interrupted; times seen after that may be late.
    pub fn interruptions(&self) -> usize {
        self.now.borrow().interruptions
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    client: Client,
    config: watcher::Config,
    timeline: Arc<Mutex<Timeline>>,
    zero: Instant,
    now: watch::Sender<Now>,
) {
    let api: Api<Service> = Api::all(client);
    let mut events = watcher::watcher(api, config).default_backoff().boxed();
    let mut list = Vec::new();
    while let Some(event) = events.next().await {
        let at = zero.elapsed();
        match event {
            Ok(Event::Apply(service)) => {
                let (name, version, address) = entry(&service);
                lock(&timeline).seen(&name, &version, address, at);
            }
            Ok(Event::Delete(service)) => lock(&timeline).gone(&key(&service), at),
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(service)) => list.push(entry(&service)),
            Ok(Event::InitDone) => {
                lock(&timeline).listed(&list, at);
                now.send_modify(|now| now.listed = true);
            }
            Err(_) => {
                now.send_modify(|now| now.interruptions += 1);
                continue;
            }
        }
        let assigned = lock(&timeline).assigned();
        now.send_modify(|now| (now.assigned, now.changed) = (assigned, at));
    }
}

/// Name, version and address of a Service.
fn entry(service: &Service) -> (String, String, Option<IpAddr>) {
    let version = service.metadata.resource_version.clone();
    (key(service), version.unwrap_or_default(), assigned(service))
}

fn lock(timeline: &Mutex<Timeline>) -> MutexGuard<'_, Timeline> {
    // A panic while the lock was held leaves plain maps behind.
    timeline.lock().unwrap_or_else(PoisonError::into_inner)
}
