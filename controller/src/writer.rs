//! The loop that plans and writes. It takes over what changed, makes up a write only when there is room to send it, and
//! checks everything from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_runtime::lease::Leadership;
use fairlead_runtime::watch::{Relist, Shared};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::events::Events;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::planner::{Planner, Write};
use crate::send::{Done, Sender, reference};
use crate::terms::stopped;
use crate::writes::Ended;

/// Writes under way at once.
const AT_ONCE: usize = 16;
/// A write without an answer for so long has an unknown outcome. Less, if another could lead by then.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Figures are brought up to date so often at the most.
const SHOW: Duration = Duration::from_millis(250);
/// Everything is checked so often.
const AUDIT: Duration = Duration::from_secs(30);
/// Every so many checks all Services are listed anew, in case a watch has missed something.
const RELIST: u32 = 20;

/// Everything the loop needs.
pub struct Writer {
    /// For the writes.
    pub sender: Sender,
    /// What the watches fill.
    pub index: Shared<Index>,
    /// Where events go.
    pub events: Events,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// May we write?
    pub leadership: Leadership,
    /// Has the Services listed anew.
    pub relist: Relist,
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

impl Writer {
    /// Plans and writes while the term of this number lasts, until asked to `stop` or the installation is being removed.
    ///
    /// Cancel safety: dropping the future abandons the writes under way; each of them has happened or has not, and the
    /// next term reads which.
    pub async fn lead(&self, mut planner: Planner, term: u64, stop: &mut watch::Receiver<bool>) -> End {
        let mut leadership = self.leadership.clone();
        let mut changes = self.index.changes();
        changes.mark_changed();
        let mut under_way: JoinSet<Done> = JoinSet::new();
        // Plan when this is reached; `None` means when something happens.
        let mut due = None;
        let (mut shown, mut audit_at, mut audits) = (None, Instant::now() + AUDIT, 0u32);
        let limit = TIMEOUT.min(leadership.slack());
        let end = loop {
            tokio::select! {
                () = leadership.lost(term) => return End::Deposed,
                () = stopped(stop) => break End::Stopped,
                changed = changes.changed() => if changed.is_err() { break End::Stopped },
                Some(done) = under_way.join_next() => match done {
                    Ok((write, ended)) => self.ended(&mut planner, write, &ended),
                    Err(error) => warn!(%error, "a write was lost"),
                },
                () = sleep_until(due) => {}
                () = sleep_until(Some(audit_at)) => {
                    audit_at = Instant::now() + AUDIT;
                    audits += 1;
                    self.audit(&mut planner, audits);
                }
            }
            let began = Instant::now();
            let Some(writes) = self.plan(&mut planner, began) else {
                break End::Leaving;
            };
            self.metrics.planned(began.elapsed());
            for write in writes {
                // The clock is asked before each: we may have stood still since it was planned.
                if !leadership.holds(term, Instant::now()) {
                    return End::Deposed;
                }
                under_way.spawn(self.sender.clone().send(write, limit));
            }
            for (object, uid, notice) in planner.notices() {
                let (kind, name, reason) = (object.kind(), object.name(), notice.reason);
                info!(kind, name, %reason, "{}", notice.note);
                self.events.publish(reference(&object, &uid), notice);
            }
            let now = Instant::now();
            due = planner.wake(now);
            match shown
                .map(|shown: Instant| shown + SHOW)
                .filter(|next| *next > now)
            {
                Some(next) => due = Some(due.map_or(next, |due| due.min(next))),
                None => {
                    shown = Some(now);
                    self.metrics.show(planner.tally(), &planner.pools());
                }
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

    /// The writes that can be sent now; `None` when the installation is being removed.
    fn plan(&self, planner: &mut Planner, now: Instant) -> Option<Vec<Write>> {
        self.index.with(|index| {
            if index.is_leaving() {
                return None;
            }
            let mut writes = Vec::new();
            if planner.update(index, now) {
                while planner.under_way() < AT_ONCE
                    && let Some(write) = planner.next(index, now, Timestamp::now())
                {
                    writes.push(write);
                }
            }
            Some(writes)
        })
    }

    /// Books the end of a write.
    fn ended(&self, planner: &mut Planner, write: Write, ended: &Ended) {
        self.index
            .with(|index| planner.end(index, &write, ended, Instant::now()));
        self.metrics.wrote(&write.object, ended);
        let (kind, name) = (write.object.kind(), write.object.name());
        match ended {
            Ended::Accepted(version) => {
                if *version == write.base {
                    warn!(kind, name, patch = %write.change.patch, "a write changed nothing");
                }
                let reference = reference(&write.object, &write.uid);
                for notice in write.change.notices {
                    let reason = notice.reason;
                    info!(kind, name, %reason, "{}", notice.note);
                    self.events.publish(reference.clone(), notice);
                }
            }
            Ended::Stale => debug!(
                kind,
                name, "the object has changed; planning from its newer state"
            ),
            Ended::Refused(error) => warn!(kind, name, error, "a write was refused"),
            Ended::Unknown => {}
        }
    }

    fn audit(&self, planner: &mut Planner, number: u32) {
        let audit = self.index.with(|index| planner.audit(index));
        self.metrics.audited(&audit);
        if audit.duplicates > 0 {
            warn!(
                audit.duplicates,
                "Services carry addresses that older Services have; they get others"
            );
        }
        if audit.repaired > 0 {
            warn!(
                audit.repaired,
                "decisions in memory were wrong and have been made anew"
            );
        }
        if number.is_multiple_of(RELIST) {
            let relist = self.relist.clone();
            tokio::spawn(async move { relist.since(Instant::now()).await });
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
