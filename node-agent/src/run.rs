//! The loop: gathers changes, has them applied, repairs, reports, and leaves in order.
//!
//! One task owns the engine. Everything it waits for is cancel-safe; what is begun on the kernel is finished first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::forward::Forwarding;
use fairlead_core::model::NodeName;
use fairlead_core::ownership::ClassPolicy;
use fairlead_runtime::Guard;
use fairlead_runtime::link::{AgentReport, LocalEndpoints, SpeakerReport};
use fairlead_runtime::watch::{Shared, replace};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::engine::Engine;
use crate::index::{Index, News};
use crate::nft::driver::Driver;

/// A rollout comes as a burst of events; waiting this long after the first makes one transaction of them.
const GATHER: Duration = Duration::from_millis(2);
/// How often the table is read although nobody is known to have changed it.
const CHECK: Duration = Duration::from_secs(300);
/// An address that no Service has any more is served for so long at the most while the speaker still announces it.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at a table that somebody else keeps changing.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the age of an unapplied change is told.
const TELL: Duration = Duration::from_secs(1);
/// When the installation leaves: no speaker for this long means that none announces.
const NO_SPEAKER: Duration = Duration::from_secs(10);
/// When the installation leaves: the table goes after this long, withdrawn or not.
const LEAVE_WITHIN: Duration = Duration::from_secs(20);

/// Longest pause between attempts to remove the table.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the loop is connected to.
#[derive(Debug)]
pub struct Wiring {
    /// This node.
    pub me: NodeName,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// Is the installation being removed?
    pub leaving: watch::Receiver<bool>,
    /// Changes when somebody else changed tables with our name.
    pub foreign: watch::Receiver<u64>,
    /// What the speaker last said; `None` when none is connected.
    pub speaker: watch::Receiver<Option<SpeakerReport>>,
    /// What the speaker is told.
    pub report: watch::Sender<AgentReport>,
    /// What is answered for single Services; `None` while nothing is in the kernel.
    pub endpoints: watch::Sender<Option<LocalEndpoints>>,
    /// Dropped when the first plan is in the kernel.
    pub programmed: Option<Guard>,
}

/// Runs until it is dropped, at a point where it waits. The table stays: an upgrade must lose nothing.
pub async fn run<D: Driver>(mut engine: Engine<D>, index: Shared<Index>, mut wiring: Wiring) {
    let mut changes = index.changes();
    changes.mark_changed(); // what was listed before we subscribed
    let mut leaving = wiring.leaving.clone();
    let mut speaker = wiring.speaker.clone();
    let mut withdrawn = Leaving::default();
    let mut checks = ticks(CHECK);
    let mut tells = ticks(TELL);
    let mut retry = Instant::now();
    let (mut rest, mut spent, mut deferred) = (Instant::now(), Duration::ZERO, false);
    loop {
        tokio::select! {
            biased;
            _ = left(&mut leaving) => break,
            _ = changes.changed() => {
                let seen = std::time::Instant::now();
                sleep(GATHER).await;
                let begin = Instant::now();
                changes.mark_unchanged();
                let whole = begin >= rest;
                let (open, stale) = index.with(|index| {
                    let open = take(index, &mut engine, &wiring, &mut withdrawn, whole, seen);
                    (open, index.is_stale())
                });
                if open {
                    retry = Instant::now();
                }
                deferred = stale && !whole;
                if whole {
                    spent = begin.elapsed();
                }
            }
            _ = speaker.changed(), if withdrawn.until().is_some() => index.touch(),
            () = until(withdrawn.until()) => index.touch(),
            () = sleep_until(rest), if deferred => {
                deferred = false;
                index.touch();
            }
            () = sleep_until(retry), if engine.is_pending() => {
                let begin = Instant::now();
                match apply(&mut engine, &wiring.report).await {
                    Ok(()) => wiring.programmed = None,
                    Err(pause) => retry = Instant::now() + pause,
                }
                // At the most half of the time is spent on whole plans, however fast changes come. Endpoints do not
                // wait for that.
                if !spent.is_zero() {
                    rest = Instant::now() + spent + begin.elapsed();
                    spent = Duration::ZERO;
                }
            }
            Ok(()) = wiring.foreign.changed() => {
                sleep(SETTLE).await;
                wiring.foreign.mark_unchanged();
                engine.check(std::time::Instant::now()).await;
                retry = Instant::now();
            }
            _ = checks.tick() => engine.check(std::time::Instant::now()).await,
            _ = tells.tick() => {}
        }
        tell(&engine, &wiring);
    }
    leave(&mut engine, &mut wiring).await;
    std::future::pending::<()>().await;
}

/// Addresses that no Service has any more and that the speaker still announces, with the time from which on they are not
/// served all the same.
#[derive(Debug, Default)]
struct Leaving(BTreeMap<IpAddr, Instant>);

impl Leaving {
    /// Keeps in the plan what is still announced: first it is withdrawn, then unprogrammed.
    fn keep(&mut self, plan: &mut Forwarding, before: Option<&Forwarding>, speaker: Option<&SpeakerReport>) {
        let now = Instant::now();
        let announced = |vip: &IpAddr| speaker.is_some_and(|speaker| speaker.announcing.contains(vip));
        let before = before.into_iter();
        let gone = before.flat_map(|before| before.addresses.keys().map(move |vip| (before, *vip)));
        let mut kept = BTreeMap::new();
        for (before, vip) in gone.filter(|(_, vip)| announced(vip)) {
            if plan.addresses.contains_key(&vip) {
                continue;
            }
            let until = self.0.get(&vip).copied().unwrap_or(now + WITHDRAW_WITHIN);
            if now < until {
                plan.keep(before, vip);
                kept.insert(vip, until);
            }
        }
        self.0 = kept;
    }

    /// When to look again.
    fn until(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

/// Gives the engine what is new. Answers whether there is something to apply.
fn take<D: Driver>(
    index: &mut Index,
    engine: &mut Engine<D>,
    wiring: &Wiring,
    leaving: &mut Leaving,
    whole: bool,
    seen: std::time::Instant,
) -> bool {
    let news = match index.news(&wiring.me, whole) {
        // The speaker may have withdrawn what waits for it.
        News::Nothing | News::Services(_) if leaving.until().is_some() => News::Everything,
        news => news,
    };
    match news {
        News::Nothing => false,
        News::Everything => index.plan(&wiring.me, wiring.class).is_some_and(|mut plan| {
            leaving.keep(&mut plan, engine.plan(), wiring.speaker.borrow().as_ref());
            engine.offer(plan, seen)
        }),
        News::Services(keys) => {
            let known = keys.iter().filter_map(|key| index.service(key));
            known.fold(false, |open, (service, slices)| {
                engine.refresh(service, &slices, index.here(&wiring.me), seen) | open
            })
        }
    }
}

/// Applies what is pending. Meanwhile the speaker goes on being told how old it is, however long the kernel takes.
async fn apply<D: Driver>(
    engine: &mut Engine<D>,
    report: &watch::Sender<AgentReport>,
) -> Result<(), Duration> {
    if engine.is_trusting() {
        engine.prepare(); // so that the report knows whom it concerns
    }
    let (begin, before) = (Instant::now(), engine.report(std::time::Instant::now()));
    let mut ticks = ticks(TELL);
    let mut applying = std::pin::pin!(engine.apply());
    loop {
        tokio::select! {
            biased;
            done = &mut applying => return done,
            _ = ticks.tick() => {
                report.send_replace(older(before.clone(), begin.elapsed()));
            }
        }
    }
}

/// The same report after some time without progress.
fn older(mut report: AgentReport, by: Duration) -> AgentReport {
    let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    for age in report
        .addresses
        .values_mut()
        .filter_map(|a| a.unapplied_ms.as_mut())
    {
        *age = age.saturating_add(by);
    }
    report
}

/// The installation is being removed: withdraw, then unprogram. The speaker withdraws; we wait for it, not for ever.
async fn leave<D: Driver>(engine: &mut Engine<D>, wiring: &mut Wiring) {
    let end = Instant::now() + LEAVE_WITHIN;
    info!("waiting for the speaker to withdraw");
    loop {
        let known = wiring.speaker.borrow_and_update().clone();
        let until = match known {
            Some(SpeakerReport { withdrawn: true, .. }) => break,
            Some(_) => end,
            None => end.min(Instant::now() + NO_SPEAKER),
        };
        if timeout_at(until, wiring.speaker.changed()).await.is_err() {
            warn!("no speaker of this node said that it has withdrawn; removing the rules all the same");
            break;
        }
    }
    let mut pause = Duration::from_millis(200);
    while let Err(error) = engine.remove().await {
        warn!(%error, "cannot remove the table; trying again");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    info!("no rule of ours is left");
    tell(engine, wiring);
    wiring.programmed = None;
}

fn tell<D: Driver>(engine: &Engine<D>, wiring: &Wiring) {
    replace(&wiring.report, engine.report(std::time::Instant::now()));
    replace(&wiring.endpoints, engine.local_endpoints());
}

/// Completes when the installation is being removed; never if nobody can say so any more.
async fn left(leaving: &mut watch::Receiver<bool>) {
    if leaving.wait_for(|leaving| *leaving).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests;
