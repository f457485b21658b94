//! What is to be swept, gathered while a pass runs, and the task that runs them one after the other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::served::Served;
use super::sweep::{Stats, SweepError, sweep};
use crate::metrics::Metrics;

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is to be swept.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Served>,
    news: Notify,
}

impl Queue {
    /// Adds what was served newly, or lost an endpoint, with the plan that is in the kernel by now. Never waits.
    pub fn add(&self, served: Served) {
        if served.is_empty() {
            return;
        }
        self.waiting().merge(served);
        self.news.notify_one();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Served> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back into the queue, unless it has heard of the same destinations since.
    fn put_back(&self, mut failed: Served) {
        let mut waiting = self.waiting();
        failed.merge(std::mem::take(&mut waiting));
        *waiting = failed;
    }

    /// Sweeps for ever, in threads that may block.
    pub async fn run(&self, metrics: &Metrics) {
        let mut failures = 0u32;
        loop {
            self.news.notified().await;
            loop {
                let wanted = std::mem::take(&mut *self.waiting());
                if wanted.is_empty() {
                    break;
                }
                let (wanted, outcome) = in_thread(wanted).await;
                match outcome {
                    Ok(stats) => {
                        failures = 0;
                        report(&wanted, &stats);
                        metrics.swept(stats.deleted, stats.took);
                    }
                    Err(error) => {
                        if failures == 0 {
                            warn!(%error, "flows may stay with endpoints that are gone; trying again");
                        }
                        metrics.sweep_failed();
                        self.put_back(wanted);
                        let pause = FIRST_PAUSE * 2u32.saturating_pow(failures.min(10));
                        failures += 1;
                        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
                    }
                }
            }
        }
    }
}

async fn in_thread(wanted: Served) -> (Served, Result<Stats, SweepError>) {
    let work = tokio::task::spawn_blocking(move || {
        let outcome = sweep(&wanted);
        (wanted, outcome)
    });
    match work.await {
        Ok(done) => done,
        // Only a panic or the runtime's end; neither leaves anything to sweep.
        Err(_) => (Served::default(), Ok(Stats::default())),
    }
}

fn report(wanted: &Served, stats: &Stats) {
    let destinations = wanted.len();
    if stats.deleted > 0 {
        info!(
            deleted = stats.deleted,
            listed = stats.listed,
            destinations,
            took = ?stats.took,
            "flows that led nowhere are forgotten"
        );
    } else {
        debug!(listed = stats.listed, destinations, took = ?stats.took, "no flow leads nowhere");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use fairlead_core::forward::{Backend, Destination};
    use fairlead_core::model::{Protocol, TrafficPolicy};

    use super::*;
    use crate::conntrack::flow::Flow;

    fn served(endpoint: &str) -> Served {
        let mut served = Served::default();
        let destination = Destination {
            address: [192, 0, 2, 1].into(),
            protocol: Protocol::Udp,
            port: 53,
        };
        let mut backend = Backend::new(TrafficPolicy::Cluster);
        backend.cluster.push(endpoint.parse().unwrap());
        served.insert(destination, Some(&backend));
        served
    }

    #[test]
    fn the_newest_word_about_a_destination_counts() {
        let (old, new): (SocketAddr, SocketAddr) =
            ("10.0.1.2:53".parse().unwrap(), "10.0.1.3:53".parse().unwrap());
        let stale = |queue: &Queue, answers| {
            queue.waiting().is_stale(&Flow {
                protocol: Protocol::Udp,
                destination: "192.0.2.1:53".parse().unwrap(),
                answers,
                answered: true,
            })
        };
        let queue = Queue::default();
        queue.add(served("10.0.1.2:53"));
        queue.add(served("10.0.1.3:53"));
        assert!(stale(&queue, old) && !stale(&queue, new));
        // A pass that failed comes back after the plan has changed.
        queue.put_back(served("10.0.1.2:53"));
        assert!(stale(&queue, old) && !stale(&queue, new));
    }
}
