//! Probing: one task for each target, started and stopped with it.

mod answer;
mod dial;
mod lateness;
mod pace;
mod probe;
mod question;
mod task;
mod threshold;
mod timing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fairlead_core::announce::{ProbeTarget, Verdict};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

pub use lateness::Lateness;
pub use probe::Prober;
pub use question::{HealthUrl, Place, ProxyHealth, Question};
pub use threshold::{Judge, Thresholds};
pub use timing::Timing;

use self::task::{Task, run};
use crate::metrics::Metrics;

/// Probes that begin at one time. A probe counts for its first moments only: one that hangs costs nothing but the
/// connection that its target has anyway, and must not keep others waiting.
const STARTING: usize = 64;

/// How probing is done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How a target is probed, unless its pool says otherwise.
    pub timing: Timing,
    /// How the service proxy is probed.
    pub proxy: ProxyHealth,
    /// The Unix socket on which the node agent answers for single Services.
    pub agent: PathBuf,
}

/// What probing says of each target that has been answered.
pub type Verdicts = BTreeMap<ProbeTarget, Verdict>;

/// All probes of this node. Dropping it ends them.
pub struct Health {
    settings: Settings,
    running: BTreeMap<ProbeTarget, Running>,
    /// Targets that were ever begun with.
    begun: u64,
    verdicts: watch::Sender<Verdicts>,
    slots: Arc<Semaphore>,
    lateness: Arc<Lateness>,
    measuring: AbortHandle,
    metrics: Metrics,
}

struct Running {
    task: AbortHandle,
    /// Closed with the target.
    timing: watch::Sender<Timing>,
}

impl Health {
    /// Probes nothing yet.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        let lateness = Arc::new(Lateness::default());
        let measured = Arc::clone(&lateness);
        Self {
            settings,
            running: BTreeMap::new(),
            begun: 0,
            verdicts: watch::Sender::new(Verdicts::new()),
            slots: Arc::new(Semaphore::new(STARTING)),
            lateness,
            measuring: tokio::spawn(async move { measured.measure().await }).abort_handle(),
            metrics,
        }
    }

    /// The verdicts; receivers are notified when one changes.
    pub fn verdicts(&self) -> watch::Receiver<Verdicts> {
        self.verdicts.subscribe()
    }

    /// Probes exactly these targets from now on, each with its timing. A target that went away is forgotten; one whose
    /// timing changed keeps its verdict.
    pub fn apply(&mut self, targets: &BTreeMap<ProbeTarget, Timing>) {
        let gone: Vec<ProbeTarget> = self
            .running
            .keys()
            .filter(|target| !targets.contains_key(*target))
            .cloned()
            .collect();
        for target in gone {
            if let Some(Running { task, timing }) = self.running.remove(&target) {
                task.abort();
                drop(timing); // before the verdict, which its task does not give any more from here on
            }
            self.verdicts.send_if_modified(|verdicts| {
                verdicts.remove(&target);
                false // whoever stopped probing it does not ask for it either
            });
        }
        for (target, timing) in targets {
            match self.running.get(target) {
                Some(running) => {
                    running.timing.send_if_modified(|known| {
                        let changed = known != timing;
                        *known = *timing;
                        changed
                    });
                }
                None => self.begin(target, *timing),
            }
        }
    }

    fn begin(&mut self, target: &ProbeTarget, timing: Timing) {
        let (sender, receiver) = watch::channel(timing);
        let task = Task {
            question: Question::of(target, &self.settings.proxy, &self.settings.agent),
            target: target.clone(),
            number: self.begun,
            timing: receiver,
            verdicts: self.verdicts.clone(),
            slots: Arc::clone(&self.slots),
            lateness: Arc::clone(&self.lateness),
            metrics: self.metrics.clone(),
        };
        self.begun += 1;
        let running = Running {
            task: tokio::spawn(run(task)).abort_handle(),
            timing: sender,
        };
        self.running.insert(target.clone(), running);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.measuring.abort();
        for running in self.running.values() {
            running.task.abort();
        }
    }
}
