//! Probing: one task for each target, started and stopped with it.

mod probe;
mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::announce::{ProbeTarget, Verdict};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info};

pub use probe::{Prober, ProxyHealth, Question};
pub use threshold::{Judge, Thresholds};

use crate::metrics::{Metrics, ProbeLabels};

/// Probes under way at one time.
const CONCURRENCY: usize = 64;

/// How probing is done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the start of one probe to the start of the next. Jitter makes it up to a tenth shorter, never longer, so
    /// that the time to a withdrawal stays bounded.
    pub interval: Duration,
    /// For a whole probe: connect, ask, read.
    pub timeout: Duration,
    /// Answers in a row that change the verdict.
    pub thresholds: Thresholds,
    /// How the service proxy is probed.
    pub proxy: ProxyHealth,
}

/// What probing says of each target that has been answered.
pub type Verdicts = BTreeMap<ProbeTarget, Verdict>;

/// All probes of this node. Dropping it ends them.
pub struct Health {
    settings: Settings,
    running: BTreeMap<ProbeTarget, AbortHandle>,
    verdicts: watch::Sender<Verdicts>,
    slots: Arc<Semaphore>,
    metrics: Metrics,
}

impl Health {
    /// Probes nothing yet.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self {
            settings,
            running: BTreeMap::new(),
            verdicts: watch::Sender::new(Verdicts::new()),
            slots: Arc::new(Semaphore::new(CONCURRENCY)),
            metrics,
        }
    }

    /// The verdicts; receivers are notified when one changes.
    pub fn verdicts(&self) -> watch::Receiver<Verdicts> {
        self.verdicts.subscribe()
    }

    /// Probes exactly these targets from now on. A target that went away is forgotten.
    pub fn apply(&mut self, targets: &BTreeSet<ProbeTarget>) {
        let gone: Vec<ProbeTarget> = self
            .running
            .keys()
            .filter(|target| !targets.contains(*target))
            .cloned()
            .collect();
        for target in gone {
            if let Some(task) = self.running.remove(&target) {
                task.abort();
            }
            self.verdicts.send_if_modified(|verdicts| {
                verdicts.remove(&target);
                false // whoever stopped probing it does not ask for it either
            });
        }
        for target in targets {
            if !self.running.contains_key(target) {
                let task = tokio::spawn(run(
                    target.clone(),
                    self.settings.clone(),
                    self.verdicts.clone(),
                    Arc::clone(&self.slots),
                    self.metrics.clone(),
                ));
                self.running.insert(target.clone(), task.abort_handle());
            }
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}

async fn run(
    target: ProbeTarget,
    settings: Settings,
    verdicts: watch::Sender<Verdicts>,
    slots: Arc<Semaphore>,
    metrics: Metrics,
) {
    let question = Question::of(&target, &settings.proxy);
    let url = question.url.clone();
    let kind = if question.service.is_some() {
        "service"
    } else {
        "proxy"
    };
    let mut prober = Prober::new(question, settings.timeout);
    let mut judge = Judge::new(settings.thresholds);
    let mut jitter = Jitter::new(&url);
    let mut before = Verdict::Pending;
    loop {
        let started;
        let outcome = {
            let Ok(_slot) = slots.acquire().await else { return };
            started = Instant::now();
            prober.probe().await
        };
        let result = if outcome.is_ok() { "success" } else { "failure" };
        metrics.probes.get_or_create(&ProbeLabels { kind, result }).inc();
        metrics.probe_seconds.observe(started.elapsed().as_secs_f64());
        debug!(%url, ?outcome, "probed");
        let verdict = judge.observe(outcome).clone();
        if verdict != before {
            let flips = std::mem::discriminant(&verdict) != std::mem::discriminant(&before);
            match &verdict {
                Verdict::Fail(detail) if flips => info!(%url, detail, "probe fails"),
                Verdict::Pass => info!(%url, "probe passes"),
                _ => {}
            }
            before = verdict.clone();
            verdicts.send_modify(|all| {
                all.insert(target.clone(), verdict);
            });
        }
        tokio::time::sleep_until(started + jitter.shorten(settings.interval)).await;
    }
}

/// Spreads probes so that targets which started together do not stay together. Reproducible: SplitMix64 seeded by the
/// target's URL.
struct Jitter(u64);

impl Jitter {
    fn new(seed: &str) -> Self {
        Self(
            seed.bytes()
                .fold(1, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))),
        )
    }

    /// Between nine tenths and the whole of the interval.
    fn shorten(&mut self, interval: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        interval - interval.mul_f64(0.1 * (mixed >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_and_by_a_tenth_at_the_most() {
        let interval = Duration::from_millis(500);
        let mut jitter = Jitter::new("http://192.0.2.1:1/healthz");
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let next = jitter.shorten(interval);
            assert!(next <= interval && next >= Duration::from_millis(450), "{next:?}");
            seen.insert(next.as_millis());
        }
        assert!(seen.len() > 40, "spread over the whole range: {seen:?}");
    }
}
