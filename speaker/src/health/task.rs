//! The task of one target: probe, judge, tell, wait.

use std::mem::discriminant;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::announce::{ProbeTarget, Verdict};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use super::Verdicts;
use super::lateness::Lateness;
use super::pace::Pace;
use super::probe::Prober;
use super::question::Question;
use super::threshold::Judge;
use super::timing::Timing;
use crate::metrics::{Metrics, ProbeLabels};

/// How long a probe counts as beginning. Nearly every answer is there by then.
const BEGINNING: Duration = Duration::from_millis(10);

/// What the task of a target has.
pub(super) struct Task {
    pub(super) target: ProbeTarget,
    pub(super) question: Question,
    /// Running number among the targets of this node.
    pub(super) number: u64,
    /// Closed when the target is not to be probed any more.
    pub(super) timing: watch::Receiver<Timing>,
    pub(super) verdicts: watch::Sender<Verdicts>,
    /// For probes that begin.
    pub(super) slots: Arc<Semaphore>,
    pub(super) lateness: Arc<Lateness>,
    pub(super) metrics: Metrics,
}

/// Probes until the target goes away.
pub(super) async fn run(mut task: Task) {
    let url = task.question.to_string();
    let kind = task.question.kind();
    let mut prober = Prober::new(task.question.clone());
    let mut timing = *task.timing.borrow_and_update();
    let mut judge = Judge::new(timing.thresholds);
    let mut pace = Pace::new(task.number);
    let mut before = Verdict::Pending;
    loop {
        let Ok(slot) = task.slots.acquire().await else {
            return;
        };
        let started = Instant::now();
        let outcome = {
            let mut probing = pin!(prober.probe(timing.timeout, &task.lateness));
            let early = timeout(BEGINNING, &mut probing).await;
            drop(slot);
            match early {
                Ok(outcome) => outcome,
                Err(_) => probing.await,
            }
        };
        let result = if outcome.is_ok() { "success" } else { "failure" };
        task.metrics
            .probes
            .get_or_create(&ProbeLabels { kind, result })
            .inc();
        task.metrics
            .probe_seconds
            .observe(started.elapsed().as_secs_f64());
        debug!(%url, ?outcome, "probed");
        if !prober.agent_is_away() {
            judge.observe(outcome);
        }
        if *judge.verdict() != before {
            tell(&url, judge.verdict(), &before);
            before = judge.verdict().clone();
            task.verdicts.send_if_modified(|all| {
                let wanted = task.timing.has_changed().is_ok();
                if wanted {
                    all.insert(task.target.clone(), before.clone());
                }
                wanted
            });
        }
        let mut next = started + pace.pause(timing.interval);
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                changed = task.timing.changed() => match changed {
                    Ok(()) => {
                        timing = *task.timing.borrow_and_update();
                        judge.set(timing.thresholds);
                        next = next.min(started + timing.interval);
                    }
                    Err(_) => return,
                },
            }
        }
    }
}

/// Logs a new verdict. That a failing target fails in another way is not worth a line.
fn tell(url: &str, verdict: &Verdict, before: &Verdict) {
    match verdict {
        Verdict::Fail(detail) if discriminant(verdict) != discriminant(before) => {
            info!(%url, detail, "probe fails");
        }
        Verdict::Pass => info!(%url, "probe passes"),
        _ => {}
    }
}
