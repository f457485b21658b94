//! The one loop: whenever anything changes, decide anew and bring everything in line with the decision.
//!
//! Tasks: watches, link follower, agent link, probes, ARP sockets and publisher all belong to [`run`] and end with it.
//! Between them are only `watch` channels, so the newest value wins and nothing queues up.

mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use fairlead_api::{NodeState, convert};
use fairlead_core::announce::{Hold, Liveness};
use fairlead_core::model::NodeName;
use fairlead_core::ownership::ClassPolicy;
use fairlead_runtime::Readiness;
use fairlead_runtime::link::{AgentView, SpeakerReport, connect};
use fairlead_runtime::watch::Shared;
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::start::Start;
use crate::datapath::Memory;
use crate::decide::{Decision, Inputs, decide};
use crate::health::{self, Health};
use crate::index::{Index, follow_all};
use crate::l2::Announcer;
use crate::links::{self, Links};
use crate::metrics::{Metrics, TransitionLabels};
use crate::publish::{Desired, Publisher, read_back};
use crate::status::{Since, names, render};

/// For the last write of the NodeState when the speaker ends.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// How this speaker runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub me: NodeName,
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// The node agent's socket.
    pub agent_socket: PathBuf,
    /// How nodes are probed.
    pub health: health::Settings,
    /// How long addresses are handed over when the speaker is asked to end.
    pub handover_timeout: Duration,
    /// Namespace that Fairlead is installed in.
    pub namespace: String,
    /// Secret in it with the key that speakers share.
    pub gossip_secret: String,
}

/// Runs until `shutdown` completes and all addresses are handed over.
///
/// # Errors
/// When a task that must not end has ended.
pub async fn run(
    client: Client,
    settings: Settings,
    mut leaving: watch::Receiver<bool>,
    readiness: &Readiness,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let guard = readiness.guard("first plan");
    let mut shutdown = pin!(shutdown);
    let states: Api<NodeState> = Api::all(client.clone());
    let before = tokio::select! {
        before = read_back(&states, &settings.me) => before.unwrap_or_default(),
        () = &mut shutdown => return Ok(()),
    };
    // Also after a clock that was set back, a later process has the larger number.
    let incarnation = Timestamp::now()
        .as_microsecond()
        .max(before.candidacy.incarnation + 1);

    let mut tasks = JoinSet::new();
    let shared = Shared::new(Index::default());
    let mut changes = shared.changes();
    follow_all(&client, &settings.me, &shared, &mut tasks);
    let (links_sender, mut links) = watch::channel(None);
    tasks.spawn(links::follow(links_sender));
    let (agent_sender, mut agent) = watch::channel(AgentView::default());
    let (report, report_receiver) = watch::channel(SpeakerReport::default());
    let socket = settings.agent_socket.clone();
    tasks.spawn(async move { connect(&socket, report_receiver, agent_sender).await });
    let (heartbeat_sender, mut heartbeat) = watch::channel(0);
    let (desired, desired_receiver) = watch::channel(None);
    let publisher = Publisher::new(states, settings.me.clone(), incarnation, metrics.clone());
    let mut publishing = tokio::spawn(publisher.run(desired_receiver, heartbeat_sender));
    let health = Health::new(settings.health.clone(), metrics.clone());
    let mut verdicts = health.verdicts();

    let started = Instant::now();
    let mut speaker = Speaker {
        offered: BTreeMap::new(),
        eligible_since: BTreeMap::new(),
        held: Hold::continued(&convert::record(&before.candidacy)),
        since: Since::continued(&before),
        liveness: Liveness::new(settings.me.clone(), incarnation),
        data_path: Memory::default(),
        start: Start::new(started),
        guard: Some(guard),
        announcer: Announcer::new(metrics.clone()),
        health,
        report,
        desired,
        departing: None,
        last: None,
        started,
        metrics,
        settings,
    };
    loop {
        // Marked as seen before they are read, so that what changes meanwhile is looked at in the next round.
        changes.borrow_and_update();
        verdicts.borrow_and_update();
        let next = {
            let known = Known {
                links: links.borrow_and_update(),
                heartbeat: *heartbeat.borrow_and_update(),
                leaving: *leaving.borrow_and_update(),
            };
            speaker.data_path.observe(&agent.borrow_and_update());
            speaker.round(&shared, &known)
        };
        let wake = match next {
            Next::Wait(wake) => wake,
            Next::End => break,
        };
        tokio::select! {
            _ = changes.changed() => {}
            _ = verdicts.changed() => {}
            _ = links.changed() => {}
            _ = agent.changed() => {}
            _ = heartbeat.changed() => {}
            changed = leaving.changed() => if changed.is_err() { anyhow::bail!("nobody follows the installation's state any more") },
            () = sleep_until(wake) => {}
            () = &mut shutdown, if speaker.departing.is_none() => speaker.depart(),
            ended = tasks.join_next() => anyhow::bail!("a task that runs for ever has ended: {ended:?}"),
            ended = &mut publishing => anyhow::bail!("the publisher has ended: {ended:?}"),
        }
    }
    // Dropped with the speaker, sockets fall silent; what is left behind has been handed to the publisher.
    drop(speaker);
    if tokio::time::timeout(LAST_WRITE, &mut publishing).await.is_err() {
        warn!("could not write the last NodeState; others will miss this node's heartbeats instead");
        publishing.abort();
    }
    Ok(())
}

/// What a round reads besides the index.
struct Known<'a> {
    links: watch::Ref<'a, Option<Links>>,
    heartbeat: i64,
    leaving: bool,
}

enum Next {
    Wait(Option<Instant>),
    End,
}

struct Speaker {
    settings: Settings,
    held: BTreeMap<IpAddr, Hold>,
    offered: BTreeMap<IpAddr, Duration>,
    eligible_since: BTreeMap<IpAddr, Duration>,
    since: Since,
    liveness: Liveness,
    data_path: Memory,
    start: Start,
    guard: Option<fairlead_runtime::Guard>,
    announcer: Announcer,
    health: Health,
    report: watch::Sender<SpeakerReport>,
    desired: watch::Sender<Option<Desired>>,
    /// When the speaker was asked to end.
    departing: Option<Instant>,
    last: Option<Decision>,
    started: Instant,
    metrics: Metrics,
}

impl Speaker {
    fn depart(&mut self) {
        self.departing = Some(Instant::now());
        info!(addresses = self.held.len(), "handing over all addresses");
    }

    /// Decides once and acts on it.
    fn round(&mut self, shared: &Shared<Index>, known: &Known) -> Next {
        let now = Instant::now();
        if self.departing.is_some() && !self.start.over() {
            // Nothing was announced yet; the record of the process before stays for the next one.
            return Next::End;
        }
        let Some(links) = known.links.as_ref() else {
            return Next::Wait(None);
        };
        let verdicts = self.health.verdicts().borrow().clone();
        let Some(decision) = shared.with(|index| {
            if !index.listed() {
                return None;
            }
            let live = self.liveness.observe(&index.records(), known.heartbeat);
            self.metrics.live_speakers.set(live.len() as i64);
            let inputs = Inputs {
                me: &self.settings.me,
                class: self.settings.class,
                links,
                data_path: &self.data_path,
                verdicts: &verdicts,
                live: &live,
                held: &self.held,
                offered: &self.offered,
                eligible_since: &self.eligible_since,
                leaving: known.leaving,
                departing: self.departing.is_some(),
                now,
                uptime: now - self.started,
            };
            Some(decide(index, &inputs))
        }) else {
            return Next::Wait(None);
        };
        let targets = decision.targets(self.settings.health.timing);
        self.health.apply(&targets);
        let probed = targets.keys().all(|target| verdicts.contains_key(target));
        if let Some(wait) = self.start.wait(self.data_path.answered(), probed, now) {
            return Next::Wait(Some(wait));
        }
        self.act(decision, links, known.leaving, now)
    }

    fn act(&mut self, decision: Decision, links: &Links, leaving: bool, now: Instant) -> Next {
        // Withdrawals are in force before anybody is told of them.
        self.announcer.apply(&decision.wanted(links));
        self.tell_changes(&decision);
        self.held.clone_from(&decision.plan.held);
        self.offered.clone_from(&decision.plan.offered);
        self.eligible_since.clone_from(&decision.plan.eligible_since);
        let announcing: BTreeSet<IpAddr> = self.held.keys().copied().collect();
        let withdrawn = leaving && announcing.is_empty();
        let ends = match self.departing {
            Some(since) => {
                let late = now >= since + self.settings.handover_timeout;
                if late && !decision.contested.is_empty() {
                    warn!(addresses = ?decision.contested, "not taken over in time; ending nevertheless");
                }
                late || decision.contested.is_empty()
            }
            None => false,
        };
        let wake = [
            decision.plan.wake.map(|wake| self.started + wake),
            self.data_path
                .expires()
                .filter(|end| *end >= now)
                .map(|end| end + Duration::from_millis(1)),
            self.departing.map(|since| since + self.settings.handover_timeout),
        ];
        let decision = if ends { decision.parting() } else { decision };
        let status = render(
            &decision,
            links,
            &self.data_path,
            withdrawn,
            &mut self.since,
            (now, Timestamp::now()),
        );
        self.metrics.announced.set(status.announced_count);
        self.metrics.held_back.set(status.held_back_count);
        self.report.send_if_modified(|report| {
            let new = SpeakerReport {
                withdrawn,
                announcing,
            };
            let changed = *report != new;
            *report = new;
            changed
        });
        self.desired.send_replace(Some(Desired {
            status,
            node_uid: decision.node_uid.clone(),
            leaving,
            last: ends,
        }));
        self.last = Some(decision);
        drop(self.guard.take());
        if ends {
            self.announcer.apply(&BTreeMap::new());
            return Next::End;
        }
        Next::Wait(wake.into_iter().flatten().min())
    }

    /// Logs and counts what begins and ends to be announced.
    fn tell_changes(&self, decision: &Decision) {
        let was: BTreeMap<IpAddr, i64> = match &self.last {
            Some(_) => self
                .held
                .iter()
                .map(|(address, hold)| (*address, hold.claim))
                .collect(),
            None => BTreeMap::new(), // what was announced before this process began is announced anew
        };
        for (address, services, interfaces) in decision.announced() {
            let claim = decision.plan.held[&address].claim;
            let services = names(services).join(", ");
            match was.get(&address) {
                None => {
                    info!(%address, services, ?interfaces, claim, "announcing");
                    self.count("announced");
                }
                Some(old) if *old != claim => {
                    info!(%address, services, claim, "announcing under a new claim");
                }
                Some(_) => {}
            }
        }
        let gone: BTreeSet<IpAddr> = was
            .into_keys()
            .filter(|address| !decision.plan.held.contains_key(address))
            .collect();
        if gone.is_empty() {
            return;
        }
        let reasons: BTreeMap<IpAddr, String> = decision
            .held_back()
            .into_iter()
            .map(|(address, _, refusal)| (address, format!("{}: {}", refusal.reason, refusal.message)))
            .collect();
        for address in gone {
            let reason = reasons
                .get(&address)
                .map_or("no Service has it any more", String::as_str);
            info!(%address, reason, "withdrawn");
            self.count("withdrawn");
        }
    }

    fn count(&self, to: &'static str) {
        self.metrics
            .transitions
            .get_or_create(&TransitionLabels { to })
            .inc();
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
