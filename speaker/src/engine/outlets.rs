//! Where a decision is told: to the other speakers, the node agent, the API server, and to the process after this one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fairlead_api::NodeStateStatus;
use fairlead_api::node_state::{BgpState, GossipState, LISTED_MOST};
use fairlead_core::announce::{Hold, Record};
use fairlead_core::model::{Family, NodeName};
use fairlead_runtime::link::SpeakerReport;
use fairlead_runtime::watch::replace;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::datapath::Memory;
use crate::decide::Decision;
use crate::index::Index;
use crate::l2::Mac;
use crate::links::Links;
use crate::membership::node::View;
use crate::membership::seal::Key as GossipKey;
use crate::membership::task::{Contents, Peers};
use crate::membership::wire::{Key, Meta, PARTED, ROUTED, encode_candidacy};
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::publish::Desired;
use crate::snapshot::{self, Claim, Snapshot};
use crate::status::{Since, render};

/// From when on it is said that no other speaker is heard: it may take others as long to start as this one.
const ISOLATED: Duration = Duration::from_secs(5);

/// All that is told.
pub(super) struct Outlets {
    pub report: watch::Sender<SpeakerReport>,
    pub desired: watch::Sender<Option<Desired>>,
    pub peers: watch::Sender<Peers>,
    pub contents: watch::Sender<Contents>,
    pub snapshots: watch::Sender<Option<Snapshot>>,
    pub keys: watch::Receiver<Vec<GossipKey>>,
    /// Passwords of BGP sessions.
    pub passwords: watch::Receiver<Passwords>,
    pub incarnation: i64,
    pub since: Since,
    pub port: u16,
    pub started: Instant,
    /// Speakers that this process has seen alive. Of others it cannot say that they died.
    pub met: BTreeSet<NodeName>,
}

/// What there is to tell.
pub(super) struct News<'a> {
    pub me: &'a NodeName,
    pub index: &'a Index,
    /// Has the API server told everything?
    pub listed: bool,
    pub decision: &'a Decision,
    pub links: &'a Links,
    pub gossip: &'a View,
    pub held: &'a BTreeMap<IpAddr, Hold>,
    /// The addresses that routers may send packets for.
    pub routed: BTreeSet<IpAddr>,
    /// Those that it announced by BGP a moment ago, or announces as less preferred ones.
    pub parted: BTreeSet<IpAddr>,
    pub leaving: bool,
}

/// What a report to people says besides the decision.
pub(super) struct Report {
    /// When it is due.
    pub due: Instant,
    /// Has the API server told everything?
    pub listed: bool,
    pub links: Links,
    pub gossip: View,
    /// State of the BGP sessions, if BGP is spoken.
    pub bgp: Option<BgpState>,
    pub leaving: bool,
    /// [`Outlets::tell`] said so.
    pub withdrawn: bool,
    /// Nothing will follow.
    pub last: bool,
}

/// What it says that is taken as it is when it is made.
pub(super) struct Surroundings<'a> {
    pub data_path: &'a Memory,
    /// Who this node is in its BGP sessions.
    pub identity: &'a snapshot::Identity,
    pub metrics: &'a Metrics,
}

impl Outlets {
    /// Whom to gossip with.
    pub(super) fn tell_peers(&self, index: &Index) {
        replace(&self.peers, index.peers());
    }

    /// When to tell again although nothing has changed.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        Some(self.started + ISOLATED).filter(|time| *time > now)
    }

    /// Tells those who act on it. Answers whether the installation is being removed and nothing is announced any more.
    pub(super) fn tell(&mut self, news: &News) -> bool {
        self.met.extend(news.gossip.live.iter().cloned());
        let held = news.held.keys();
        let announcing: BTreeSet<IpAddr> = held.chain(&news.routed).copied().collect();
        let withdrawn = news.leaving && announcing.is_empty();
        self.tell_speakers(news);
        self.tell_agent(news, announcing, withdrawn);
        withdrawn
    }

    /// Tells people, and the process after this one.
    pub(super) fn report(&mut self, report: &Report, decision: &Decision, surroundings: &Surroundings) {
        let Surroundings {
            data_path,
            identity,
            metrics,
        } = surroundings;
        let gossip = self.gossip_state(&report.gossip);
        let clock = (Instant::now(), Timestamp::now());
        let mut status = render(
            decision,
            &report.links,
            data_path,
            &gossip,
            report.withdrawn,
            &mut self.since,
            clock,
        );
        status.bgp.clone_from(&report.bgp);
        metrics.announced.set(status.announced_count);
        metrics.held_back.set(status.held_back_count);
        let claims = claims(decision, self.snapshots.borrow().as_ref());
        let bgp = snapshot::Bgp::of(decision, self.readable_passwords(), (*identity).clone());
        replace(
            &self.snapshots,
            Some(self.snapshot(&report.gossip, claims, bgp, &status)),
        );
        if report.listed {
            self.desired.send_replace(Some(Desired {
                status,
                node_uid: decision.node_uid.clone(),
                leaving: report.leaving,
                last: report.last,
            }));
        } else if report.last {
            // Without the API server nothing is written, and nobody waits for it.
            self.desired.send_if_modified(|known| match known {
                Some(desired) => {
                    desired.last = true;
                    true
                }
                None => false,
            });
        }
    }

    /// What the next process would go on with.
    fn snapshot(
        &self,
        gossip: &View,
        claims: Vec<Claim>,
        bgp: snapshot::Bgp,
        status: &NodeStateStatus,
    ) -> Snapshot {
        let macs = |meta: &Meta| meta.macs.iter().map(ToString::to_string).collect();
        let (keys, peers) = (self.keys.borrow(), self.peers.borrow());
        Snapshot {
            incarnation: self.incarnation.max(gossip.incarnation),
            keys: keys.iter().map(|key| snapshot::hex(key.bytes())).collect(),
            peers: peers
                .iter()
                .map(|(node, address)| (node.to_string(), *address))
                .collect(),
            macs: gossip
                .metas
                .iter()
                .map(|(node, meta)| (node.to_string(), macs(meta)))
                .collect(),
            claims,
            bgp,
            status: status.clone(),
            // When, and of which boot, is filled in when it is written.
            ..Snapshot::default()
        }
    }

    fn readable_passwords(&self) -> BTreeMap<String, String> {
        let passwords = self.passwords.borrow();
        let readable = passwords
            .iter()
            .filter_map(|(name, password)| Some((name, password.as_ref().ok()?)));
        readable
            .map(|(name, password)| (name.clone(), password.reveal().to_owned()))
            .collect()
    }

    fn tell_speakers(&self, news: &News) {
        let candidacies = news.decision.plan.candidacies.iter();
        let mut contents: Contents = candidacies
            .map(|(address, candidacy)| (Key::address(*address), encode_candidacy(candidacy)))
            .collect();
        let offers = news.decision.bgp.offers.iter();
        contents.extend(offers.map(|address| (Key::route(*address), ROUTED.to_vec())));
        let parted = news.parted.iter();
        contents.extend(parted.map(|address| (Key::route(*address), PARTED.to_vec())));
        // All interfaces, since a node may begin to announce on any of them before the others have heard of it.
        let macs: BTreeSet<Mac> = news.links.values().map(|link| link.mac).collect();
        contents.insert(
            Key::meta(),
            Meta {
                macs: macs.into_iter().collect(),
            }
            .encode(),
        );
        replace(&self.contents, contents);
    }

    fn tell_agent(&self, news: &News, announcing: BTreeSet<IpAddr>, withdrawn: bool) {
        let fellows = news
            .decision
            .speakers
            .iter()
            .filter(|mac| !news.links.values().any(|link| link.mac == **mac));
        let report = SpeakerReport {
            withdrawn,
            announcing,
            owners: news.listed.then(|| owners(news)),
            dead: self.dead(news),
            fellows: fellows.map(ToString::to_string).collect(),
        };
        replace(&self.report, report);
    }

    /// Addresses of the nodes that died while they announced something: a speaker that ends in good order gives it up
    /// first.
    fn dead(&self, news: &News) -> BTreeSet<IpAddr> {
        let claims = |record: &Record| {
            let claimed = record.candidacies.values().any(|one| one.claim.is_some());
            claimed || !record.routed.is_empty() || !record.parted.is_empty()
        };
        let gone = self.met.difference(&news.gossip.live);
        gone.filter(|node| {
            news.gossip
                .records
                .get(*node)
                .is_some_and(|record| claims(record))
        })
        .flat_map(|node| news.index.addresses(node).iter().copied())
        .collect()
    }

    fn gossip_state(&self, gossip: &View) -> GossipState {
        let missing: Vec<String> = gossip
            .missing
            .iter()
            .take(LISTED_MOST)
            .map(ToString::to_string)
            .collect();
        let alive = gossip.live.len().saturating_sub(1);
        let settled = self.started.elapsed() >= ISOLATED;
        let problem = if self.keys.borrow().is_empty() {
            "NoGossipKey: the Secret with the key that speakers share has not been read".to_owned()
        } else if alive == 0 && !missing.is_empty() && settled {
            let peers = self.peers.borrow();
            let (name, address) = gossip
                .missing
                .iter()
                .find_map(|node| Some((node.to_string(), peers.get(node)?.to_string())))
                .unwrap_or_default();
            let port = self.port;
            format!(
                "GossipIsolated: no other speaker answers on UDP port {port}, for example that of {name} at {address}"
            )
        } else {
            String::new()
        };
        GossipState {
            alive: alive as i64,
            unreachable: missing,
            problem,
        }
    }
}

/// Who else owns an address: of several that live the one with the highest claim. Of an address that nobody claims, a node
/// that has just ceased to announce it by BGP, or is about to: routers send elsewhere what is open there.
fn owners(news: &News) -> BTreeMap<IpAddr, IpAddr> {
    let mut best: BTreeMap<IpAddr, (i64, &NodeName)> = BTreeMap::new();
    let lives = |node: &NodeName| node != news.me && news.gossip.live.contains(node);
    for (node, record) in news.gossip.records.iter().filter(|(node, _)| lives(node)) {
        for (address, candidacy) in &record.candidacies {
            if let Some(claim) = candidacy.claim {
                let known = best.entry(*address).or_insert((claim, node));
                *known = (*known).max((claim, node));
            }
        }
    }
    for (node, record) in news.gossip.records.iter().filter(|(node, _)| lives(node)) {
        for address in &record.parted {
            best.entry(*address).or_insert((0, node));
        }
    }
    let of_family = |address: IpAddr, node: &NodeName| {
        news.index
            .addresses(node)
            .iter()
            .copied()
            .find(|own| Family::of(*own) == Family::of(address))
    };
    best.into_iter()
        .filter_map(|(address, (_, node))| Some((address, of_family(address, node)?)))
        .collect()
}

fn claims(decision: &Decision, before: Option<&Snapshot>) -> Vec<Claim> {
    let known = |address: &IpAddr| before?.claims.iter().find(|claim| claim.address == *address);
    let claim = |(address, candidacy): (&IpAddr, &fairlead_core::announce::Candidacy)| {
        let evaluation = decision.evaluations.get(address)?;
        let candidate = evaluation.outcome.as_ref().ok();
        Some(Claim {
            address: *address,
            claim: candidacy.claim?,
            cordoned: candidacy.cordoned,
            weight: candidacy.weight,
            preempts: candidacy.preempts,
            services: evaluation.services.clone(),
            // A speaker that ends announces nothing any more; the next one needs to know where it did.
            interfaces: match candidate {
                Some(candidate) => candidate.interfaces.iter().cloned().collect(),
                None => known(address)
                    .map(|claim| claim.interfaces.clone())
                    .unwrap_or_default(),
            },
            probes: evaluation.probes.clone(),
            health: evaluation.health,
        })
    };
    decision.plan.candidacies.iter().filter_map(claim).collect()
}
