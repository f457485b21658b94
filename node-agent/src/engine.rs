//! Brings plans into the kernel: numbers them, writes differences, falls back to replacing the table, and knows what is
//! applied and what is not. It does not wait and does not read a clock; `run` does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairlead_core::forward::Forwarding;
use fairlead_runtime::link::{AddressReport, AgentReport, LocalEndpoints};
use tracing::{error, info, warn};

use crate::metrics::{Cause, Metrics, Way};
use crate::nft::build::build;
use crate::nft::driver::{Driver, DriverError};
use crate::nft::ruleset::Ruleset;

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after a failure: shorter than the 10 s after which a speaker withdraws.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the kernel holds.
#[derive(Debug)]
struct Applied {
    number: u64,
    plan: Forwarding,
    ruleset: Ruleset,
}

/// A plan that is not in the kernel yet.
#[derive(Debug)]
struct Pending {
    plan: Forwarding,
    since: Instant,
}

/// The engine.
#[derive(Debug)]
pub struct Engine<D> {
    driver: D,
    mark: u32,
    metrics: Metrics,
    number: u64,
    applied: Option<Applied>,
    pending: Option<Pending>,
    /// Set when the table cannot be trusted to hold what was applied.
    distrust: Option<Cause>,
    failures: u32,
    clean: bool,
}

impl<D: Driver> Engine<D> {
    /// An engine that has applied nothing; its first act will be to replace whatever table there is. `mark` is our bit
    /// of the conntrack mark.
    pub fn new(driver: D, mark: u32, metrics: Metrics) -> Self {
        Self {
            driver,
            mark,
            metrics,
            number: 0,
            applied: None,
            pending: None,
            distrust: Some(Cause::Start),
            failures: 0,
            clean: false,
        }
    }

    /// Takes a plan that was made of a change seen at `since`. Answers whether there is something to apply.
    pub fn offer(&mut self, plan: Forwarding, since: Instant) -> bool {
        if self.distrust.is_none() && self.applied.as_ref().is_some_and(|applied| applied.plan == plan) {
            self.pending = None;
            return false;
        }
        let since = self.pending.as_ref().map_or(since, |pending| pending.since);
        self.pending = Some(Pending { plan, since });
        true
    }

    /// Is there something to apply?
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Tries to apply what is pending. On failure it stays pending, and the answer is how long to wait before the next
    /// try.
    ///
    /// # Errors
    /// The pause.
    pub async fn apply(&mut self) -> Result<(), Duration> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let plan = &pending.plan;
        for (service, address, refusal) in &plan.refused {
            warn!(%service, %address, reason = %refusal.reason, "{}", refusal.message);
        }
        let ruleset = build(plan, self.mark);
        match self.write(&ruleset).await {
            Ok((way, took)) => {
                self.number += 1;
                self.failures = 0;
                let (vips, chains, elements) =
                    (plan.addresses.len(), ruleset.chains.len(), ruleset.elements.len());
                self.metrics.applied(way, took, self.number);
                self.metrics.holds(vips, chains, elements);
                info!(plan = self.number, sync = ?way, ?took, vips, chains, elements, "programmed");
                self.applied = Some(Applied {
                    number: self.number,
                    plan: pending.plan,
                    ruleset,
                });
                Ok(())
            }
            Err(_) => {
                self.pending = Some(pending);
                let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(10));
                self.failures += 1;
                Err(pause.min(LONGEST_PAUSE))
            }
        }
    }

    /// By difference if the table can be trusted and that works, else by replacing the table.
    async fn write(&mut self, ruleset: &Ruleset) -> Result<(Way, Duration), DriverError> {
        if let (None, Some(applied)) = (self.distrust, &self.applied) {
            let begin = Instant::now();
            match self.driver.update(&applied.ruleset, ruleset).await {
                Ok(()) => return Ok((Way::Partial, begin.elapsed())),
                Err(error) => {
                    warn!(%error, "cannot write the difference; replacing the whole table");
                    self.metrics.failed(Way::Partial);
                    self.distrust = Some(Cause::Failure);
                }
            }
        }
        let cause = self.distrust.unwrap_or(Cause::Start);
        let begin = Instant::now();
        match self.driver.replace(ruleset).await {
            Ok(()) => {
                self.metrics.replaced(cause);
                self.distrust = None;
                Ok((Way::Full, begin.elapsed()))
            }
            Err(error) => {
                self.metrics.failed(Way::Full);
                if self.failures == 0 {
                    error!(%error, "cannot program the kernel; trying again");
                }
                self.distrust = Some(Cause::Failure);
                Err(error)
            }
        }
    }

    /// Looks whether the table is still there and ours. If not, what was applied becomes pending again.
    pub async fn check(&mut self, now: Instant) {
        let Some(applied) = &self.applied else { return };
        if self.distrust.is_some() {
            return; // it will be replaced anyway
        }
        match self.driver.intact(&applied.ruleset).await {
            Ok(true) => {}
            Ok(false) => {
                warn!(
                    "table inet {} was changed by somebody else; replacing it",
                    crate::nft::TABLE
                );
                self.distrust = Some(Cause::Foreign);
                let plan = applied.plan.clone();
                self.pending.get_or_insert(Pending { plan, since: now });
            }
            Err(error) => warn!(%error, "cannot look at the table"),
        }
    }

    /// Removes the table, for good.
    ///
    /// # Errors
    /// What the driver said; the table may still be there.
    pub async fn remove(&mut self) -> Result<(), DriverError> {
        self.driver.remove().await?;
        self.applied = None;
        self.pending = None;
        self.clean = true;
        self.metrics.holds(0, 0, 0);
        Ok(())
    }

    /// Ready endpoints on this node of the Services that the kernel serves; `None` until the first plan is in it.
    pub fn local_endpoints(&self) -> Option<LocalEndpoints> {
        match &self.applied {
            Some(applied) => Some(applied.plan.local_ready.clone()),
            None => self.clean.then(LocalEndpoints::new),
        }
    }

    /// What the speaker is told.
    pub fn report(&self, now: Instant) -> AgentReport {
        let age = self
            .pending
            .as_ref()
            .map(|pending| now.saturating_duration_since(pending.since));
        self.metrics.unapplied(age.unwrap_or_default());
        let Some(applied) = &self.applied else {
            return AgentReport {
                plan: 0,
                clean: self.clean,
                addresses: BTreeMap::new(),
            };
        };
        let unapplied = |vip| {
            let pending = self.pending.as_ref()?;
            // After a foreign change nothing of the table is certain.
            let differs = self.distrust.is_some() || !applied.plan.same_for(&pending.plan, vip);
            differs.then(|| age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
        };
        AgentReport {
            plan: applied.number,
            clean: false,
            addresses: applied
                .plan
                .addresses
                .keys()
                .map(|&vip| {
                    let report = AddressReport {
                        plan: applied.number,
                        unapplied_ms: unapplied(vip),
                    };
                    (vip, report)
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
