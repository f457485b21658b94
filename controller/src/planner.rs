//! Index → ledger → the writes that are due. Synchronous and without a clock: the time comes in, and the time at which
//! to be called again goes out.
//!
//! What changed in the index is taken over change by change. A write is made up only when it can be sent, from the
//! newest state of its object, and nothing is made up from a state that the ledger has not seen.

mod objects;
mod todo;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_api::conditions::ANNOUNCED;
use fairlead_core::ipam::{Decision, External, Ledger, Outcome, PoolState};
use fairlead_core::model::ServiceKey;
use fairlead_core::ownership::{ClassPolicy, resolve};
use fairlead_core::range::IpRange;
use fairlead_core::reason::{Reason, Refusal};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::announced::{Announcement, Reports};
use crate::change::{Change, Notice};
use crate::external::main_change;
use crate::index::{Index, ServiceEntry};
use crate::quiet::Quiet;
use crate::rules::{Basis, basis};
use crate::sessions::Sessions;
use crate::status::service_change;
use crate::tally::{State, Tally};
use crate::view::NodeView;
use crate::writes::{Ended, Object, Writes, named};
use objects::version;
use todo::Todo;

/// The counts of pools are written at most so often: they are for people.
const COUNTING: Duration = Duration::from_millis(500);
/// What all nodes report, and what rules are made of, is put together at most so often.
const GATHERING: Duration = Duration::from_millis(25);
/// Nodes that announce an address by BGP are named anew at most so often: that is a write for each Service.
const RENAMING: Duration = Duration::from_secs(10);
/// A write of external IPs that the API server denied is tried again after so long.
const DENIED: Duration = Duration::from_secs(60);

/// How the controller behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which Services are ours.
    pub class: ClassPolicy,
    /// Services with an address of ours carry the finalizer that cloud providers use.
    pub finalizer: bool,
}

/// Keeps the ledger current and says what is to be written. Everything in it can be made anew from the index.
#[derive(Debug)]
pub struct Planner {
    policy: Policy,
    basis: Option<Basis>,
    /// What the basis is made from has changed.
    basis_due: bool,
    /// The networks of nodes that the basis was made from.
    networks: HashMap<String, Vec<(IpRange, String)>>,
    ledger: Ledger,
    reports: Reports,
    quiet: Quiet,
    writes: Writes,
    todo: Todo,
    tally: Tally,
    /// Writes of external IPs that were denied: for which wish, why, and until when it is not tried again.
    denied: HashMap<ServiceKey, (External, String, Instant)>,
    /// When the counts of pools are due.
    count_at: Option<Instant>,
    counted: Option<Instant>,
    /// Nodes, reports or the parts of rules changed and are to be put together, no sooner than this.
    gather_at: Option<Instant>,
    gathered: Option<Instant>,
    /// Events that go with no write, each with its object's UID.
    notices: Vec<(Object, String, Notice)>,
    sessions: Sessions,
    /// When nodes that announce by BGP were named anew the last time.
    renamed: Option<Instant>,
}

/// A write that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is written.
    pub object: Object,
    /// UID of the object, for events.
    pub uid: String,
    /// The version that it is made from.
    pub base: String,
    /// Patch and events.
    pub change: Change,
}

/// What a check of everything found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Addresses that stand in more than one Service that may not share them.
    pub duplicates: usize,
    /// Decisions that a ledger made anew from the same objects decides otherwise; it has taken the old one's place.
    pub repaired: usize,
    /// The check was not made, since writes are under way.
    pub skipped: bool,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(policy: Policy) -> Self {
        let empty = basis(&Index::default(), policy.class);
        Self {
            policy,
            basis: None,
            basis_due: false,
            networks: HashMap::new(),
            ledger: Ledger::new(empty.rules),
            reports: Reports::default(),
            quiet: Quiet::default(),
            writes: Writes::default(),
            todo: Todo::default(),
            tally: Tally::default(),
            denied: HashMap::new(),
            count_at: None,
            counted: None,
            gather_at: None,
            gathered: None,
            notices: Vec::new(),
            sessions: Sessions::default(),
            renamed: None,
        }
    }

    /// Takes over what changed in the index. Answers whether there is anything to plan from: not before every kind has
    /// been listed.
    pub fn update(&mut self, index: &mut Index, now: Instant) -> bool {
        if !index.listed() {
            return false;
        }
        let first = self.basis.is_none();
        let pools = index.pools.changes();
        let advertisements = index.advertisements.changes();
        let peers = index.peers.changes();
        let bgp_advertisements = index.bgp_advertisements.changes();
        let others = [
            index.nodes.changes(),
            index.namespaces.changes(),
            index.service_cidrs.changes(),
        ];
        let views = index.views.changes();
        let state = !index.state.changes().is_empty();
        let own = [&pools, &advertisements, &peers, &bgp_advertisements]
            .iter()
            .any(|changed| !changed.is_empty());
        // Reports come all the time; the networks that they tell of hardly ever change.
        let network = |key: &String| index.views.get(key).map(|view| &view.network) != self.networks.get(key);
        let rules =
            first || own || others.iter().any(|changed| !changed.is_empty()) || views.iter().any(network);
        self.basis_due |= rules;
        if rules || !views.is_empty() {
            let earliest = self.gathered.map_or(now, |last| last + GATHERING);
            // Pools are few and their changes matter at once.
            self.gather_at = Some(if own || first { now } else { earliest });
        }
        if self.gather_at.is_some_and(|at| at <= now) {
            self.gather(index, now);
        }
        self.todo.extend(pools.into_iter().map(Object::Pool));
        self.todo
            .extend(advertisements.into_iter().map(Object::Advertisement));
        self.todo.extend(peers.into_iter().map(Object::Peer));
        self.todo
            .extend(bgp_advertisements.into_iter().map(Object::BgpAdvertisement));
        self.todo
            .extend(self.sessions.changed(now).into_iter().map(Object::Peer));
        self.session_notices(index, now);
        if state || first {
            self.todo.push(Object::State);
        }
        let changed = if first {
            let all = index.services.iter().map(|(key, _)| key.to_owned()).collect();
            index.services.changes();
            all
        } else {
            index.services.changes()
        };
        for key in changed {
            match index.services.get(&key) {
                Some(entry) => {
                    self.feed(entry);
                    self.todo.push(Object::Service(entry.service.key.clone()));
                }
                None => self.forget(&key, now),
            }
        }
        self.writes.settle(|object| version(index, object));
        for key in self.quiet.due(now) {
            self.todo.push(Object::Service(key));
        }
        self.todo.release(|object| {
            !version(index, object).is_some_and(|version| self.writes.blocked(object, version, now))
        });
        self.settle(now);
        if self.count_at.is_some_and(|at| at <= now) {
            (self.count_at, self.counted) = (None, Some(now));
            let names = index.pools.iter().map(|(name, _)| Object::Pool(name.to_owned()));
            self.todo.extend(names);
        }
        true
    }

    /// The next write that is due, as under way from now on. Call [`Planner::update`] with the same index before.
    pub fn next(&mut self, index: &Index, now: Instant, wall: Timestamp) -> Option<Write> {
        let wall = Time(wall);
        while let Some(object) = self.todo.pop() {
            let Some(version) = version(index, &object) else {
                continue;
            };
            if self.writes.blocked(&object, version, now) {
                self.todo.block(object);
                continue;
            }
            let base = version.to_owned();
            let (uid, change) = match &object {
                Object::Service(key) => {
                    let Some(entry) = index.services.get(&key.to_string()) else {
                        continue;
                    };
                    (entry.meta.uid.clone(), self.service(entry, now, &wall))
                }
                other => self.other(index, other, &wall),
            };
            let Some(change) = change else { continue };
            self.writes.begin(object.clone(), &base, change.after.clone());
            if let Object::Service(key) = &object {
                self.refeed(index, key);
                self.settle(now);
            }
            return Some(Write {
                object,
                uid,
                base,
                change,
            });
        }
        None
    }

    /// A write has ended. Answers whether it has to be planned again although no watch may say so.
    pub fn end(&mut self, index: &Index, write: &Write, ended: &Ended, now: Instant) {
        self.writes.end(&write.object, ended, now);
        self.todo.block(write.object.clone());
        if let Object::Service(key) = &write.object {
            match ended {
                Ended::Refused(why) if write.change.patch["spec"].get("externalIPs").is_some() => {
                    let decision = self.ledger.decision(key);
                    if let Some(external) = decision.and_then(|decision| decision.external.clone()) {
                        self.denied
                            .insert(key.clone(), (external, why.clone(), now + DENIED));
                        self.writes.forgive(&write.object, now);
                    }
                }
                _ => {}
            }
            self.refeed(index, key);
            self.settle(now);
        }
    }

    /// Writes under way.
    pub fn under_way(&self) -> usize {
        self.writes.under_way()
    }

    /// When to be called again even if nothing changes.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        [
            self.quiet.wake(),
            self.writes.wake(now),
            self.count_at,
            self.gather_at,
            self.sessions.wake(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Events that go with no write.
    pub fn notices(&mut self) -> Vec<(Object, String, Notice)> {
        std::mem::take(&mut self.notices)
    }

    /// Services by state.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The states of all pools.
    pub fn pools(&self) -> BTreeMap<String, PoolState> {
        let pools = self.ledger.rules().config.pools.keys();
        pools.map(|name| (name.clone(), self.ledger.pool(name))).collect()
    }

    /// Checks everything: a ledger made anew must decide the same, and no address may stand in two Services. Repairs
    /// the ledger if it does not.
    pub fn audit(&mut self, index: &Index) -> Audit {
        let services = || index.services.values().map(|entry| entry.service.as_ref());
        let ownership = resolve(services(), &self.ledger.rules().config, self.policy.class);
        let double = |(_, _, refusal): &&(_, _, Refusal)| refusal.reason == Reason::DoubleAssignment;
        let mut audit = Audit {
            duplicates: ownership.refused.iter().filter(double).count(),
            ..Audit::default()
        };
        if !self.todo.is_empty() || !self.writes.is_empty() {
            audit.skipped = true;
            return audit;
        }
        let mut cold = Ledger::new(self.ledger.rules().clone());
        for entry in index.services.values() {
            cold.set(Arc::clone(&entry.service), Vec::new());
        }
        cold.settle();
        let differ: Vec<ServiceKey> = index
            .services
            .values()
            .map(|entry| &entry.service.key)
            .filter(|key| cold.decision(key) != self.ledger.decision(key))
            .cloned()
            .collect();
        audit.repaired = differ.len();
        self.ledger = cold;
        self.todo.extend(differ.into_iter().map(Object::Service));
        audit
    }

    /// Puts together what is due of rules and reports.
    fn gather(&mut self, index: &Index, now: Instant) {
        (self.gather_at, self.gathered) = (None, Some(now));
        if std::mem::take(&mut self.basis_due) {
            self.gather_basis(index);
        }
        let views: Vec<&NodeView> = index
            .views
            .values()
            .filter(|view| index.nodes.get(view.node.as_str()).is_some())
            .collect();
        self.sessions.observe(views.iter().copied());
        let mut reports = Reports::new(views);
        match self
            .renamed
            .map(|last| last + RENAMING)
            .filter(|next| *next > now)
        {
            Some(next) if reports.keep_naming(&self.reports) => self.gather_at = Some(next),
            _ => {}
        }
        if reports.names_differ(&self.reports) {
            self.renamed = Some(now);
        }
        for address in reports.differing(&self.reports) {
            let claimants = self.ledger.claimants(address).cloned();
            self.todo.extend(claimants.map(Object::Service));
        }
        self.reports = reports;
    }

    /// What became of sessions, as events of the peers that there are.
    fn session_notices(&mut self, index: &Index, now: Instant) {
        for (peer, notice) in self.sessions.notices(now) {
            if let Some(entry) = index.peers.get(&peer) {
                let uid = entry.meta.uid.clone();
                self.notices.push((Object::Peer(peer), uid, notice));
            }
        }
    }

    fn gather_basis(&mut self, index: &Index) {
        let networks = index.views.iter();
        self.networks = networks
            .map(|(name, view)| (name.to_owned(), view.network.clone()))
            .collect();
        let basis = basis(index, self.policy.class);
        if self.basis.as_ref() != Some(&basis) {
            if self.basis.as_ref().map(|known| &known.rules) != Some(&basis.rules) {
                self.ledger.change_rules(basis.rules.clone());
            }
            let pools = index.pools.iter().map(|(name, _)| Object::Pool(name.to_owned()));
            self.todo.extend(pools);
            let advertisements = index.advertisements.iter();
            self.todo
                .extend(advertisements.map(|(name, _)| Object::Advertisement(name.to_owned())));
            let peers = index.peers.iter().map(|(name, _)| Object::Peer(name.to_owned()));
            self.todo.extend(peers);
            let advertisements = index.bgp_advertisements.iter();
            self.todo
                .extend(advertisements.map(|(name, _)| Object::BgpAdvertisement(name.to_owned())));
            self.todo.push(Object::State);
            self.basis = Some(basis);
        }
    }

    /// Gives the ledger a Service as it is, or as it will be once a write under way has happened.
    fn feed(&mut self, entry: &ServiceEntry) {
        let (service, version) = (&entry.service, &entry.meta.resource_version);
        let mut held = self.writes.possible(&service.key, version);
        match self.writes.assumed(&service.key, version) {
            None => self.ledger.set(Arc::clone(service), held),
            Some(assumed) => {
                // All of it: a write may take only a record away, and leave the address where the user wrote it.
                held.extend(named(service));
                self.ledger.set(Arc::clone(assumed), held);
            }
        }
    }

    fn refeed(&mut self, index: &Index, key: &ServiceKey) {
        if let Some(entry) = index.services.get(&key.to_string()) {
            self.feed(entry);
        }
    }

    fn forget(&mut self, key: &str, now: Instant) {
        let Some(key) = ServiceKey::parse(key) else {
            return;
        };
        self.ledger.remove(&key);
        self.quiet.forget(&key);
        self.tally.set(&key, None);
        self.denied.remove(&key);
        self.count_soon(self.counted.map_or(now, |last| last + COUNTING));
    }

    fn settle(&mut self, now: Instant) {
        let changed = self.ledger.settle();
        if !changed.is_empty() {
            let earliest = self.counted.map_or(now, |last| last + COUNTING);
            self.count_soon(earliest.max(now));
        }
        for key in changed {
            let ingress = self
                .ledger
                .decision(&key)
                .and_then(|decision| decision.ingress.as_ref());
            // Who lost its address to an older Service is served by nobody, and must not wait behind the others.
            let urgent = matches!(ingress, Some(Outcome::Assigned { lost: Some(_), .. }));
            let object = Object::Service(key);
            if urgent {
                self.todo.urge(object);
            } else {
                self.todo.push(object);
            }
        }
    }

    fn count_soon(&mut self, at: Instant) {
        self.count_at.get_or_insert(at);
    }

    /// What has to change in a Service.
    fn service(&mut self, entry: &ServiceEntry, now: Instant, wall: &Time) -> Option<Change> {
        let key = &entry.service.key;
        let mut decision = self.ledger.decision(key).cloned().unwrap_or_default();
        let denied = self.denied.get(key);
        let denied = denied
            .filter(|(external, _, until)| decision.external.as_ref() == Some(external) && now < *until);
        match denied {
            Some((_, why, _)) => deny(entry, &mut decision, why),
            None => {
                self.denied.remove(key);
                let change = main_change(entry, &decision, self.policy.finalizer, wall);
                if change.is_some() {
                    return change;
                }
            }
        }
        let announcement = self.announcement(entry, &decision, now);
        service_change(entry, &decision, announcement.as_ref(), wall)
    }

    /// What `Announced` is to say of a Service; `None` leaves the condition as it is.
    fn announcement(
        &mut self,
        entry: &ServiceEntry,
        decision: &Decision,
        now: Instant,
    ) -> Option<Announcement> {
        let key = &entry.service.key;
        let (mut addresses, mut note) = (Vec::new(), None);
        if let Some(Outcome::Assigned {
            addresses: given,
            note: remark,
            ..
        }) = &decision.ingress
        {
            addresses.extend(given.iter().map(|(address, _)| *address));
            note = remark.as_ref();
        }
        if let Some(external) = &decision.external {
            addresses.extend(external.addresses.iter().map(|external| external.address));
        }
        if addresses.is_empty() {
            self.quiet.forget(key);
            let state = match &decision.ingress {
                Some(Outcome::LeftAlone(_)) => Some(State::LeftAlone),
                Some(_) => Some(State::Refused),
                None => decision.external.as_ref().map(|_| State::Refused),
            };
            self.tally.set(key, state);
            return None;
        }
        // What was written about another address says nothing about this one.
        let standing = |address: &IpAddr| {
            entry.service.ingress.contains(address) || entry.service.external_ips.contains(address)
        };
        let same = addresses.iter().all(standing);
        let observed = match (self.reports.of(addresses), note) {
            // An address whose pool is gone is not announced for that reason, whatever else is said.
            (Announcement::Nobody(_), Some(note)) if note.reason == Reason::NotOwned => {
                Announcement::Nobody(note.clone())
            }
            (observed, _) => observed,
        };
        self.tally.set(
            key,
            Some(match observed {
                Announcement::By(..) => State::Announced,
                Announcement::Nobody(_) => State::HeldBack,
            }),
        );
        let written = entry.condition(ANNOUNCED).filter(|_| same);
        let judgement = self.quiet.judge(key, written, &observed, now);
        // The note has been told as an event of its own when it was written.
        if let (true, Announcement::Nobody(refusal)) = (judgement.warn, &observed)
            && note != Some(refusal)
        {
            let notice = Notice::warning("Announce", refusal);
            let object = Object::Service(key.clone());
            self.notices.push((object, entry.meta.uid.clone(), notice));
        }
        judgement.tell.then_some(observed)
    }
}

/// The API server denied writing the external IPs: what stands there already stays, and the reason is told.
fn deny(entry: &ServiceEntry, decision: &mut Decision, why: &str) {
    if let Some(external) = &mut decision.external {
        let recorded = |address: IpAddr| {
            entry.service.recorded_external(address).is_some()
                && entry.service.external_ips.contains(&address)
        };
        external.addresses.retain(|external| recorded(external.address));
        let message = format!("the API server denied writing spec.externalIPs: {why}");
        external.note = Some(Refusal::new(Reason::ExternalIPsDenied, message));
    }
}

#[cfg(test)]
mod tests;
