//! Brings plans into the kernel: numbers them, writes differences, and knows what is applied and what is not. It does not
//! wait and does not read a clock; `run` does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::endpoints::Here;
use fairlead_core::forward::pods::Pods;
use fairlead_core::forward::{Destination, Forwarding};
use fairlead_core::model::{Service, ServiceKey, Slice};
use fairlead_runtime::link::{AddressReport, AgentReport, LocalEndpoints};
use tracing::{debug, error, info, warn};

use crate::conntrack::{Memory, Queue};
use crate::metrics::{Cause, Metrics, Way};
use crate::nft::build::build;
use crate::nft::change::{Changes, Held};
use crate::nft::driver::{Driver, DriverError};
use crate::nft::netlink::affinity::Lost;
use crate::nft::ruleset::{Chain, Key, Ruleset, Set};

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause after a failure: shorter than the 10 s after which a speaker withdraws.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A table with more elements leaves much free memory behind when it was made out.
const LARGE: usize = 20_000;

/// What of the plan may not be in the kernel.
#[derive(Debug)]
enum Open {
    /// Anything.
    Everything,
    /// The endpoints of these Services.
    Services(BTreeSet<ServiceKey>),
}

/// A change that is not in the kernel yet.
#[derive(Debug)]
struct Pending {
    open: Open,
    since: Instant,
    /// What is to be written for it, once that has been made out.
    prepared: Option<(Way, Write)>,
    /// The VIPs that it concerned when that was last made out.
    touched: BTreeSet<IpAddr>,
}

/// What the kernel serves, for the reports.
#[derive(Debug, Default)]
struct Applied {
    number: u64,
    addresses: BTreeSet<IpAddr>,
    local_ready: LocalEndpoints,
    pods: Pods,
}

/// What has to be written.
#[derive(Debug)]
enum Write {
    /// A difference, and the whole table after it where that is at hand.
    Changes(Changes, Option<Ruleset>),
    /// The whole table.
    Replace(Ruleset),
}

/// The engine.
#[derive(Debug)]
pub struct Engine<D> {
    driver: D,
    mark: u32,
    metrics: Metrics,
    plan: Option<Forwarding>,
    pending: Option<Pending>,
    /// The table as the kernel holds it, as far as it is known.
    held: Option<Held>,
    applied: Option<Applied>,
    number: u64,
    /// Set when the table has to be read before it is changed.
    distrust: Option<Cause>,
    failures: u32,
    clean: bool,
    /// What connection tracking may hold that stands in the way of what is served.
    swept: Memory,
    sweeps: Arc<Queue>,
}

impl<D: Driver> Engine<D> {
    /// An engine that has applied nothing; its first act will be to read what table there is. `mark` is our bit of the
    /// conntrack mark.
    pub fn new(driver: D, mark: u32, metrics: Metrics) -> Self {
        Self {
            driver,
            mark,
            metrics,
            plan: None,
            pending: None,
            held: None,
            applied: None,
            number: 0,
            distrust: Some(Cause::Start),
            failures: 0,
            clean: false,
            swept: Memory::default(),
            sweeps: Arc::default(),
        }
    }

    /// What is to be swept from connection tracking, plan by plan.
    pub fn sweeps(&self) -> Arc<Queue> {
        Arc::clone(&self.sweeps)
    }

    /// Takes a plan that was made of a change seen at `since`. Answers whether there is something to apply.
    pub fn offer(&mut self, plan: Forwarding, since: Instant) -> bool {
        if self.distrust.is_none() && self.pending.is_none() && self.plan.as_ref() == Some(&plan) {
            return false;
        }
        for (service, address, refusal) in &plan.refused {
            let known = self
                .plan
                .as_ref()
                .is_some_and(|known| known.refused == plan.refused);
            if !known {
                warn!(%service, %address, reason = %refusal.reason, "{}", refusal.message);
            }
        }
        self.plan = Some(plan);
        self.open(Open::Everything, since);
        true
    }

    /// The plan that was offered last.
    pub fn plan(&self) -> Option<&Forwarding> {
        self.plan.as_ref()
    }

    /// Takes the endpoints of one Service, nothing else of which changed since the last whole plan. Answers whether
    /// there is something to apply.
    pub fn refresh(&mut self, service: &Service, slices: &[&Slice], here: Here<'_>, since: Instant) -> bool {
        let Some(plan) = &mut self.plan else { return false };
        let changed = plan.refresh(service, slices, here);
        if changed {
            self.open(Open::Services(BTreeSet::from([service.key.clone()])), since);
        }
        changed
    }

    fn open(&mut self, open: Open, since: Instant) {
        let pending = self.pending.get_or_insert_with(|| Pending {
            open: Open::Services(BTreeSet::new()),
            since,
            prepared: None,
            touched: BTreeSet::new(),
        });
        pending.prepared = None;
        match (&mut pending.open, open) {
            (Open::Services(known), Open::Services(more)) => known.extend(more),
            (Open::Everything, Open::Services(_)) => {}
            (known, Open::Everything) => *known = Open::Everything,
        }
    }

    /// Is there something to apply?
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Is the table known, so that it need not be read before it is changed?
    pub fn is_trusting(&self) -> bool {
        self.distrust.is_none()
    }

    /// Tries to apply what is pending. On failure it stays pending, and the answer is how long to wait before the next
    /// try.
    ///
    /// # Errors
    /// The pause.
    pub async fn apply(&mut self) -> Result<(), Duration> {
        if self.pending.is_none() {
            return Ok(());
        }
        let begin = Instant::now();
        let done = self.try_apply().await;
        match done {
            Ok(way) => {
                let took = begin.elapsed();
                self.number += 1;
                self.failures = 0;
                if let (Some(pending), Some(plan)) = (self.pending.take(), &self.plan) {
                    self.sweeps.add(match &pending.open {
                        Open::Everything => self.swept.whole(plan),
                        Open::Services(services) => self.swept.services(plan, services),
                    });
                }
                self.metrics.applied(way, took, self.number);
                self.remember(way, took);
                if way == Way::Full
                    && self
                        .held
                        .as_ref()
                        .is_some_and(|held| held.ruleset().elements.len() > LARGE)
                {
                    fairlead_runtime::memory::trim();
                }
                Ok(())
            }
            Err(error) => {
                if self.failures == 0 {
                    error!(%error, "cannot program the kernel; trying again");
                }
                let pause = FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(10));
                self.failures += 1;
                Err(pause.min(LONGEST_PAUSE))
            }
        }
    }

    /// Notes what the kernel serves now.
    fn remember(&mut self, way: Way, took: Duration) {
        let (Some(plan), Some(held)) = (&self.plan, &self.held) else {
            return;
        };
        let applied = self.applied.get_or_insert_default();
        applied.number = self.number;
        if way == Way::Full {
            applied.addresses = plan.addresses.keys().copied().collect();
            let table = held.ruleset();
            let (vips, chains, elements) =
                (applied.addresses.len(), table.chains.len(), table.elements.len());
            self.metrics.holds(vips, chains, elements);
            info!(plan = self.number, ?took, vips, chains, elements, "programmed");
        } else {
            debug!(plan = self.number, ?took, "endpoints programmed");
        }
        applied.local_ready.clone_from(&plan.local_ready);
        if applied.pods != plan.pods {
            info!(sources = %plan.pods, "what counts as a pod of this node");
            applied.pods.clone_from(&plan.pods);
        }
    }

    /// By difference if the table is known. If that fails, by the difference from what is read; if that fails too, the
    /// whole table is replaced.
    async fn try_apply(&mut self) -> Result<Way, DriverError> {
        if self.distrust.is_none() {
            match self.write().await {
                Ok(way) => return Ok(way),
                Err(error) => self.doubt(&error),
            }
        }
        let cause = self.distrust.unwrap_or(Cause::Failure);
        self.read().await?;
        let mut done = self.write().await;
        if let (Err(error), true) = (&done, self.held.is_some()) {
            self.doubt(error);
            self.held = None;
            self.open(Open::Everything, Instant::now());
            done = self.write().await;
        }
        if done.is_ok() {
            self.metrics.replaced(cause);
            self.distrust = None;
        } else {
            self.metrics.failed(Way::Full);
        }
        done
    }

    /// Reads the table, takes over what is there, and makes out what differs.
    async fn read(&mut self) -> Result<(), DriverError> {
        let empty = Forwarding::default();
        let whole = build(self.plan.as_ref().unwrap_or(&empty), self.mark);
        let found = self.driver.read(&whole).await?;
        let write = match &found {
            Some(found) => Write::Changes(Changes::between(found, &whole), Some(whole)),
            None => Write::Replace(whole),
        };
        self.held = found.map(Held::new);
        self.open(Open::Everything, Instant::now());
        self.put(Way::Full, write);
        Ok(())
    }

    fn doubt(&mut self, error: &DriverError) {
        warn!(%error, "cannot write the difference; reading the table");
        self.metrics.failed(Way::Partial);
        self.distrust.get_or_insert(Cause::Failure);
    }

    async fn write(&mut self) -> Result<Way, DriverError> {
        self.prepare();
        let prepared = self.pending.as_mut().and_then(|pending| pending.prepared.take());
        let Some((way, write)) = prepared else {
            return Ok(Way::Partial);
        };
        match write {
            Write::Changes(changes, whole) => {
                let lost = self.remembered_by(changes.lost());
                let changes = Arc::new(changes);
                if !changes.is_empty() {
                    self.driver.update(Arc::clone(&changes)).await?;
                }
                match (whole, &mut self.held) {
                    (Some(whole), _) => self.held = Some(Held::new(whole)),
                    (None, Some(held)) => held.apply(Arc::unwrap_or_clone(changes)),
                    (None, None) => {}
                }
                if !lost.is_empty()
                    && let Err(error) = self.driver.forget(lost).await
                {
                    warn!(%error, "clients may be sent to endpoints that are gone until they are forgotten");
                }
            }
            Write::Replace(whole) => {
                let whole = Arc::new(whole);
                self.driver.replace(Arc::clone(&whole)).await?;
                self.held = Some(Held::new(Arc::unwrap_or_clone(whole)));
            }
        }
        Ok(way)
    }

    /// Of these endpoints, those whose clients are remembered.
    fn remembered_by(&self, mut lost: Lost) -> Lost {
        let sticky = |destination: &Destination| {
            let plan = self.plan.as_ref()?;
            plan.backends
                .get(&plan.destinations.get(destination)?.backend)?
                .affinity
        };
        lost.retain(|(destination, _)| sticky(destination).is_some());
        lost
    }

    /// Makes out what has to be written for what is pending, and which VIPs that concerns.
    pub fn prepare(&mut self) {
        let Some(pending) = &self.pending else { return };
        if pending.prepared.is_some() {
            return;
        }
        let empty = Forwarding::default();
        let plan = self.plan.as_ref().unwrap_or(&empty);
        let (way, write) = match (&self.held, &pending.open) {
            (Some(held), Open::Services(services)) => {
                let changes = held.changes(plan, services, self.mark);
                (Way::Partial, Write::Changes(changes, None))
            }
            (Some(held), Open::Everything) => {
                let whole = build(plan, self.mark);
                let changes = Changes::between(held.ruleset(), &whole);
                (Way::Full, Write::Changes(changes, Some(whole)))
            }
            (None, _) => (Way::Full, Write::Replace(build(plan, self.mark))),
        };
        self.put(way, write);
    }

    fn put(&mut self, way: Way, write: Write) {
        let (Some(pending), Some(plan)) = (&mut self.pending, &self.plan) else {
            return;
        };
        pending.touched = match &write {
            Write::Changes(changes, _) => touched(changes, plan),
            Write::Replace(_) => {
                let served = self.applied.iter().flat_map(|applied| &applied.addresses);
                plan.addresses.keys().chain(served).copied().collect()
            }
        };
        pending.prepared = Some((way, write));
    }

    /// Looks whether the table is still what was applied. If not, the difference becomes pending.
    pub async fn check(&mut self, now: Instant) {
        let Some(held) = &self.held else { return };
        if self.distrust.is_some() {
            return; // it will be read anyway
        }
        match self.driver.read(held.ruleset()).await {
            Ok(Some(found)) if found == *held.ruleset() => {}
            Ok(found) => {
                warn!(
                    "table inet {} was changed by somebody else; repairing it",
                    crate::nft::TABLE
                );
                self.held = found.map(Held::new);
                self.metrics.replaced(Cause::Foreign);
                self.open(Open::Everything, now);
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
        self.held = None;
        self.pending = None;
        self.clean = true;
        self.metrics.holds(0, 0, 0);
        Ok(())
    }

    /// Ready endpoints on this node of the Services that the kernel serves; `None` until the first plan is in it.
    pub fn local_endpoints(&self) -> Option<LocalEndpoints> {
        match &self.applied {
            Some(applied) => Some(applied.local_ready.clone()),
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
                ..AgentReport::default()
            };
        };
        let unapplied = |vip: &IpAddr| {
            let pending = self.pending.as_ref()?;
            let age = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            pending.touched.contains(vip).then_some(age)
        };
        let report = |vip: &IpAddr| AddressReport {
            plan: applied.number,
            unapplied_ms: unapplied(vip),
        };
        AgentReport {
            plan: applied.number,
            clean: false,
            addresses: applied.addresses.iter().map(|vip| (*vip, report(vip))).collect(),
            pod_sources: applied.pods.to_string(),
        }
    }
}

/// The VIPs whose packets changes concern.
fn touched(changes: &Changes, plan: &Forwarding) -> BTreeSet<IpAddr> {
    let mut touched = BTreeSet::new();
    for ((set, key), _) in changes.delete.iter().chain(&changes.add) {
        match (set, key) {
            (Set::Pods(_) | Set::Uplinks, _) => return plan.addresses.keys().copied().collect(),
            (_, Key::Destination(destination) | Key::Numbered(destination, _)) => {
                touched.insert(destination.address);
            }
            (_, Key::Address(address)) => {
                touched.insert(*address);
            }
            _ => {}
        }
    }
    let chains = changes.add_chains.iter().chain(&changes.rewrite_chains);
    for chain in chains.map(|(chain, _)| chain).chain(&changes.delete_chains) {
        match chain {
            Chain::Ranges(key) => {
                let at = plan.services.get(&key.service).into_iter().flatten();
                touched.extend(at.map(|destination| destination.address));
            }
            Chain::Choose(_) | Chain::Affine(..) => {} // its elements say whom it concerns
            _ => return plan.addresses.keys().copied().collect(),
        }
    }
    touched
}

#[cfg(test)]
mod tests;
