//! The one loop: whenever anything changes, decide anew and bring everything in line with the decision.
//!
//! Tasks: watches, link follower, agent link, probes, sockets, publisher and the gossip thread all belong to [`run`] and
//! end with it. Between them are only `watch` channels, so the newest value wins and nothing queues up.

mod outlets;
mod routing;
mod start;
mod transitions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use fairlead_api::NodeState;
use fairlead_core::announce::Hold;
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

use self::outlets::{Outlets, Report, Surroundings};
pub use self::routing::BgpSettings;
use self::routing::Router;
use self::start::{Progress, Start};
use crate::bgp::Observed;
use crate::bgp::report;
use crate::datapath::Memory;
use crate::decide::{Decision, Inputs, Remembered, Routing, decide, go_on};
use crate::disputes;
use crate::health::{self, Health};
use crate::index::{Index, follow_all};
use crate::ipvs;
use crate::l2::{Announcer, Sightings};
use crate::links::{self, Links};
use crate::membership::detector;
use crate::membership::keys::follow_keys;
use crate::membership::node::View;
use crate::membership::task::{self, Gossip};
use crate::membership::wire::Meta;
use crate::metrics::Metrics;
use crate::passwords::{Passwords, follow_passwords};
use crate::publish::Publisher;
use crate::snapshot::{self, Snapshot};
use crate::status::Since;

/// For the last write of the NodeState when the speaker ends.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Beyond the drain time of routes, for the others to offer them and for the daemon.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// After a change people are told of it, and the file for the next process is made: later than those who act on it, and
/// once for all changes meanwhile, since with many addresses both take their time.
const REPORT_AFTER: Duration = Duration::from_millis(100);
/// Between two answers to one speaker that announces what this node announces and that the gossip does not reach.
const INSIST: Duration = Duration::from_secs(10);

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
    /// UDP port of the gossip, the same on all nodes.
    pub gossip_port: u16,
    /// Highest version of the gossip's protocol that is spoken.
    pub gossip_protocol: u8,
    /// Times of failure detection.
    pub detector: detector::Settings,
    /// Where a restarted speaker finds what the one before knew.
    pub snapshot: PathBuf,
    /// How BGP is spoken, if at all.
    pub bgp: Option<BgpSettings>,
}

/// Runs until `shutdown` completes and all addresses are handed over.
///
/// # Errors
/// When the gossip cannot begin, or a task that must not end has ended.
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
    let before = Snapshot::load(&settings.snapshot, Timestamp::now());
    // Also after a clock that was set back, a later process has the larger number.
    let incarnation = Timestamp::now().as_microsecond().max(before.incarnation + 1);

    let mut tasks = JoinSet::new();
    let shared = Shared::new(Index::default());
    let mut changes = shared.changes();
    follow_all(&client, &shared, &mut tasks);
    let (links_sender, mut links) = watch::channel(None);
    tasks.spawn(links::follow(links_sender));
    let (ipvs_sender, mut ipvs) = watch::channel(BTreeSet::new());
    tasks.spawn(ipvs::follow(ipvs_sender));
    let (agent_sender, mut agent) = watch::channel(AgentView::default());
    let (report, report_receiver) = watch::channel(SpeakerReport::default());
    let socket = settings.agent_socket.clone();
    tasks.spawn(async move { connect(&socket, report_receiver, agent_sender).await });
    let (key_sender, keys) = watch::channel(before.gossip_keys());
    tasks.spawn(follow_keys(
        client.clone(),
        settings.namespace.clone(),
        settings.gossip_secret.clone(),
        key_sender,
    ));
    let (password_sender, mut passwords) = watch::channel(before.passwords());
    let secrets = settings.bgp.as_ref().map(|bgp| bgp.secrets.clone());
    if let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) {
        let (client, namespace) = (client.clone(), settings.namespace.clone());
        tasks.spawn(async move { follow_passwords(client, &namespace, &secrets, &password_sender).await });
    }
    let router = Router::new(
        settings.bgp.clone(),
        settings.me.clone(),
        before.bgp.identity.clone(),
    );
    let (snapshots, to_keep) = watch::channel(None);
    let keeping = tokio::spawn(snapshot::keep(settings.snapshot.clone(), to_keep));
    let (desired, desired_receiver) = watch::channel(None);
    let publisher = Publisher::new(
        Api::<NodeState>::all(client),
        settings.me.clone(),
        metrics.clone(),
    );
    let mut publishing = tokio::spawn(publisher.run(desired_receiver));

    let mut rotated = keys.clone();
    let (view_sender, mut view) = watch::channel(View::default());
    let (peers, peers_receiver) = watch::channel(before.nodes());
    let (contents, contents_receiver) = watch::channel(before.contents());
    let gossip = Gossip::start(
        task::Settings {
            me: settings.me.clone(),
            port: settings.gossip_port,
            start: incarnation,
            protocol: settings.gossip_protocol,
            detector: settings.detector,
        },
        task::Inputs {
            peers: peers_receiver,
            contents: contents_receiver,
            keys: keys.clone(),
        },
        view_sender,
        metrics.clone(),
    )?;
    let health = Health::new(settings.health.clone(), metrics.clone());
    let mut verdicts = health.verdicts();
    let announcer = Announcer::new(metrics.clone());
    let mut sightings = announcer.sightings();

    let started = Instant::now();
    let mut speaker = Speaker {
        offered: BTreeMap::new(),
        eligible_since: BTreeMap::new(),
        router,
        begun: Timestamp::now(),
        draining: BTreeMap::new(),
        held: before.held(),
        data_path: Memory::default(),
        start: Start::new(started),
        guard: Some(guard),
        announcer,
        health,
        outlets: Outlets {
            report,
            desired,
            peers,
            contents,
            snapshots,
            keys,
            passwords: passwords.clone(),
            incarnation,
            since: Since::continued(&before.status),
            port: settings.gossip_port,
            started,
            met: BTreeSet::new(),
        },
        former: before.metas(),
        before,
        departing: None,
        last: None,
        report: None,
        remembered: Remembered::default(),
        lost: BTreeMap::new(),
        insisted: BTreeMap::new(),
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
                gossip: speaker.with_former(view.borrow_and_update().clone()),
                sightings: sightings.borrow_and_update().clone(),
                ipvs: ipvs.borrow_and_update().clone(),
                leaving: *leaving.borrow_and_update(),
                passwords: passwords.borrow_and_update().clone(),
                bgp: speaker.router.observe(&speaker.metrics),
            };
            speaker.data_path.observe(&agent.borrow_and_update());
            speaker.round(&shared, &known)
        };
        let wake = match next {
            Next::Wait(wake) => wake,
            Next::End => break,
        };
        loop {
            let due = speaker.report_due();
            tokio::select! {
                _ = changes.changed() => {}
                _ = verdicts.changed() => {}
                _ = links.changed() => {}
                _ = ipvs.changed() => {}
                () = speaker.data_path.news(&mut agent) => {}
                _ = sightings.changed() => {}
                () = speaker.router.news() => {}
                Ok(()) = passwords.changed() => {}
                Ok(()) = rotated.changed() => {}
                changed = view.changed() => if changed.is_err() { anyhow::bail!("the gossip has ended") },
                changed = leaving.changed() => if changed.is_err() { anyhow::bail!("nobody follows the installation's state any more") },
                () = sleep_until(wake) => {}
                () = sleep_until(due) => {
                    speaker.report();
                    continue;
                }
                () = &mut shutdown, if speaker.departing.is_none() => speaker.depart(),
                ended = tasks.join_next() => anyhow::bail!("a task that runs for ever has ended: {ended:?}"),
                ended = &mut publishing => anyhow::bail!("the publisher has ended: {ended:?}"),
            }
            break;
        }
    }
    // Whoever takes over has done so; the others need not find out that this speaker is gone.
    gossip.leave().await;
    let keep = speaker.last.as_ref().is_some_and(Decision::leaves_routes);
    // Dropped with the speaker, sockets fall silent; what is left behind has been handed to the publisher.
    speaker.into_router().end(keep).await;
    if tokio::time::timeout(LAST_WRITE, &mut publishing).await.is_err() {
        warn!("could not write the last NodeState");
        publishing.abort();
    }
    let _ = keeping.await;
    Ok(())
}

/// What a round reads besides the index.
struct Known<'a> {
    links: watch::Ref<'a, Option<Links>>,
    gossip: View,
    sightings: Sightings,
    ipvs: BTreeSet<IpAddr>,
    leaving: bool,
    passwords: Passwords,
    bgp: Observed,
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
    router: Router,
    begun: Timestamp,
    draining: BTreeMap<IpAddr, Duration>,
    data_path: Memory,
    start: Start,
    guard: Option<fairlead_runtime::Guard>,
    announcer: Announcer,
    health: Health,
    outlets: Outlets,
    /// What the process before this one left.
    before: Snapshot,
    /// What speakers said of themselves to the process before this one.
    former: BTreeMap<NodeName, Meta>,
    /// When the speaker was asked to end.
    departing: Option<Instant>,
    last: Option<Decision>,
    /// What was not yet told to people.
    report: Option<Report>,
    remembered: Remembered,
    /// Since when the gossip does not reach the speakers that it does not reach.
    lost: BTreeMap<NodeName, Instant>,
    /// When a speaker that the gossip does not reach was last answered on the wire.
    insisted: BTreeMap<IpAddr, Instant>,
    started: Instant,
    metrics: Metrics,
}

impl Speaker {
    /// What the gossip says, with the MAC addresses of speakers that were heard before this one started and not since.
    fn with_former(&self, mut view: View) -> View {
        for (node, meta) in &self.former {
            view.metas.entry(node.clone()).or_insert_with(|| meta.clone());
        }
        view
    }

    fn into_router(self) -> Router {
        self.router
    }

    /// How long the hand-over may take when the speaker is asked to end.
    fn departure_limit(&self) -> Duration {
        let routes = self.router.drain_time() + DRAIN_MARGIN;
        match self.router.enabled() {
            true => self.settings.handover_timeout.max(routes),
            false => self.settings.handover_timeout,
        }
    }

    fn depart(&mut self) {
        self.departing = Some(Instant::now());
        info!(addresses = self.held.len(), "handing over all addresses");
    }

    /// Decides once and acts on it.
    fn round(&mut self, shared: &Shared<Index>, known: &Known) -> Next {
        let now = Instant::now();
        if self.departing.is_some() && !self.start.over() {
            // Nothing was announced yet; the snapshot of the process before stays for the next one.
            return Next::End;
        }
        let Some(links) = known.links.as_ref() else {
            return Next::Wait(None);
        };
        self.metrics.decisions.inc();
        self.metrics.live_speakers.set(known.gossip.live.len() as i64);
        let lost = known
            .gossip
            .metas
            .keys()
            .filter(|node| !known.gossip.live.contains(*node));
        self.lost = lost
            .map(|node| (node.clone(), self.lost.get(node).copied().unwrap_or(now)))
            .collect();
        self.insist(known, now);
        let mut remembered = std::mem::take(&mut self.remembered);
        let disputes = self.disputes(known, now);
        let verdicts = self.health.verdicts().borrow().clone();
        let inputs = Inputs {
            me: &self.settings.me,
            class: self.settings.class,
            links,
            data_path: &self.data_path,
            verdicts: &verdicts,
            gossip: &known.gossip,
            disputes: &disputes,
            held: &self.held,
            offered: &self.offered,
            eligible_since: &self.eligible_since,
            routing: Routing {
                enabled: self.router.enabled(),
                established: &routing::established(&known.bgp),
                draining: &self.draining,
                drain_time: self.router.drain_time(),
            },
            leaving: known.leaving,
            departing: self.departing.is_some(),
            now,
            uptime: now - self.started,
        };
        let (listed, decision, wake) = shared.with(|index| {
            let listed = index.listed();
            if listed {
                self.outlets.tell_peers(index);
            }
            let decision = if listed {
                decide(index, &mut remembered, &inputs)
            } else {
                go_on(&self.before, &mut remembered, &inputs)
            };
            (listed, decision, disputes.wake())
        });
        self.remembered = remembered;
        let targets = decision.targets(self.settings.health.timing);
        self.health.apply(&targets);
        let progress = Progress {
            listed,
            informed: known.gossip.informed,
            agent: self.data_path.answered(),
            probed: targets.keys().all(|target| verdicts.contains_key(target)),
        };
        if let Some(wait) = self.start.wait(&progress, now) {
            return Next::Wait(Some(wait));
        }
        self.act(decision, shared, links, known, listed, wake)
    }

    fn disputes<'a>(&'a self, known: &'a Known, now: Instant) -> disputes::Known<'a> {
        disputes::Known {
            me: &self.settings.me,
            sightings: &known.sightings,
            gossip: &known.gossip,
            lost: &self.lost,
            ipvs: &known.ipvs,
            held: &self.held,
            now,
        }
    }

    /// A speaker that the gossip does not reach announces what this node announces, and this node is the one that keeps it:
    /// a higher claim announces it once more.
    fn insist(&mut self, known: &Known, now: Instant) {
        let disputes = self.disputes(known, now);
        let wins = |address: &IpAddr| {
            disputes
                .unreachable_fellow(*address)
                .is_some_and(|(_, wins)| wins)
        };
        let contested: Vec<IpAddr> = self.held.keys().copied().filter(wins).collect();
        self.insisted.retain(|address, _| contested.contains(address));
        for address in contested {
            let seen = known
                .sightings
                .fellows
                .get(&address)
                .map_or(now, |(_, last)| *last);
            let due = self
                .insisted
                .get(&address)
                .is_none_or(|last| seen > *last && now >= *last + INSIST);
            if let Some(hold) = self.held.get_mut(&address).filter(|_| due) {
                hold.claim = hold.claim.saturating_add(1);
                self.insisted.insert(address, now);
            }
        }
    }

    fn act(
        &mut self,
        decision: Decision,
        shared: &Shared<Index>,
        links: &Links,
        known: &Known,
        listed: bool,
        wake: Option<Instant>,
    ) -> Next {
        let now = Instant::now();
        // Withdrawals are in force before anybody is told of them.
        self.announcer.apply(&decision.wanted(links));
        self.announcer
            .ask(&decision.questions(), links, &decision.speakers);
        self.tell_changes(&decision);
        let before = self.last.as_ref().map(|last| &last.bgp);
        routing::log_changes(before.unwrap_or(&Default::default()), &decision);
        self.held.clone_from(&decision.plan.held);
        self.offered.clone_from(&decision.plan.offered);
        self.eligible_since.clone_from(&decision.plan.eligible_since);
        self.draining.clone_from(&decision.bgp.draining);
        let limit = self.departure_limit();
        let ends = self.departing.is_some_and(|since| {
            let late = now >= since + limit;
            if late && !decision.contested.is_empty() {
                warn!(addresses = ?decision.contested, "not taken over in time; ending nevertheless");
            }
            late || (decision.contested.is_empty() && decision.bgp.yielding.is_empty())
        });
        let wakes = [
            decision.plan.wake.map(|wake| self.started + wake),
            decision.bgp.wake.map(|wake| self.started + wake),
            self.data_path
                .expires()
                .filter(|end| *end >= now)
                .map(|end| end + Duration::from_millis(1)),
            self.departing.map(|since| since + limit),
            self.router.wake(now),
            self.outlets.wake(now),
            wake,
        ];
        if ends {
            // What is left behind does not say any more where an address was announced: the report before it does.
            self.report();
        }
        let decision = if ends { decision.parting() } else { decision };
        let own = shared.with(|index| index.addresses(&self.settings.me).to_vec());
        self.router.tell(&decision, &own, &known.passwords, now);
        let withdrawn = shared.with(|index| {
            self.outlets.tell(&outlets::News {
                me: &self.settings.me,
                index,
                listed,
                decision: &decision,
                links,
                gossip: &known.gossip,
                held: &self.held,
                routed: self.router.announcing(now),
                parted: self.router.parted(),
                leaving: known.leaving,
            })
        });
        // At the beginning and at the end somebody waits for it.
        let urgent = self.last.is_none() || known.leaving || self.departing.is_some();
        let due = match &self.report {
            _ if urgent => now,
            Some(report) => report.due,
            None => now + REPORT_AFTER,
        };
        self.report = Some(Report {
            due,
            listed,
            links: links.clone(),
            gossip: known.gossip.clone(),
            bgp: self
                .router
                .enabled()
                .then(|| report::state(&known.bgp, &decision.bgp, self.begun)),
            leaving: known.leaving,
            withdrawn,
            last: ends,
        });
        self.last = Some(decision);
        if due <= now {
            self.report();
        }
        drop(self.guard.take());
        if ends {
            self.announcer.apply(&BTreeMap::new());
            return Next::End;
        }
        Next::Wait(wakes.into_iter().flatten().min())
    }

    fn report_due(&self) -> Option<Instant> {
        self.report.as_ref().map(|report| report.due)
    }

    /// Makes the report that is due.
    fn report(&mut self) {
        let (Some(report), Some(decision)) = (self.report.take(), &self.last) else {
            return;
        };
        let surroundings = Surroundings {
            data_path: &self.data_path,
            identity: self.router.identity(),
            metrics: &self.metrics,
        };
        self.outlets.report(&report, decision, &surroundings);
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
