//! A soak: random faults for a long time, and a witness on the wire that looks for what must never be.
//!
//! * Two nodes answer for one address for longer than a hand-over takes.
//! * Nobody answers for an address, for longer than finding a dead node takes, while a node could have: one that had
//!   been well for a while, with a ready server where one is needed.
//! * Somebody answers for the address of a Service that was deleted.

mod act;
mod fault;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::announcers::{Span, Witness};
use crate::bench::Contender;
use crate::error::Result;
use crate::failover::Scene;
use crate::lab::Lab;
use crate::product::Cluster;
use crate::progress::Progress;
use crate::random::Random;
use fault::Fault;
use ledger::{Ledger, Part};

/// Labels of the web servers: of those that stay ready, and of those that do not.
const STEADY: &str = "steady";
const LOCAL: [&str; 2] = ["local0", "local1"];
/// The Service that comes and goes.
const GUEST: &str = "guest";
/// Time between two questions for one address.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long after its mending a part counts as well.
const CONVALESCENCE: Duration = Duration::from_secs(15);
/// Most faults at work at one time.
const TOGETHER: usize = 3;
/// So many steps are told with what must not be.
const BEFORE: usize = 15;
/// So many faults are thrown for one that fits.
const THROWS: usize = 5;
/// Until everything is settled in the beginning and in the end.
const SETTLED: Duration = Duration::from_secs(120);
/// What settled means.
const QUIET: Duration = Duration::from_secs(2);

const TWO: &str = "more than one answers";
const NONE: &str = "nobody answers";
const DELETED: &str = "answered without a Service";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long faults are made.
    pub length: Duration,
    /// Whether Services have an IPv6 address as well.
    pub ipv6: bool,
    /// How long two may answer for one address.
    pub doubled: Duration,
    /// How long nobody may answer while somebody could.
    pub silent: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was done, with times.
    pub steps: Vec<String>,
    /// What must never be.
    pub violations: Vec<String>,
}

/// The addresses of one Service.
#[derive(Clone, Debug)]
struct Addresses(Vec<IpAddr>);

impl Addresses {
    /// The ones with this number, in the range of tests.
    fn number(n: u8, ipv6: bool) -> Self {
        let v4 = IpAddr::from(Ipv4Addr::new(172, 30, 0, 100 + n));
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x100 + u16::from(n)));
        let all = std::iter::once(v4).chain(ipv6.then_some(v6));
        Self(all.collect())
    }

    fn text(&self) -> String {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        all.join(",")
    }
}

/// A Service of the soak.
struct Watched {
    name: &'static str,
    /// The label of the servers of which one must be on the node that announces.
    server: Option<&'static str>,
    addresses: Addresses,
    manifest: Value,
}

/// Makes faults in a lab in which Fairlead is installed and has a pool and an advertisement with the addresses of tests,
/// in a namespace that exists.
///
/// # Errors
/// When a fault cannot be made or mended; what must never be is in the report.
pub fn run(
    lab: &Lab,
    cluster: &Cluster,
    namespace: &str,
    options: &Options,
    random: &mut Random,
    progress: &Progress,
) -> Result<Report> {
    let apps = [STEADY, LOCAL[0], LOCAL[1]];
    let scene = progress.step("starting web servers", || {
        Scene::without_service(lab, cluster, Contender::Fairlead, namespace, &apps)
    })?;
    let watched = services(namespace, options.ipv6);
    for service in &watched {
        cluster.apply(&service.manifest)?;
        scene.wait_address(service.name)?;
    }
    let addresses: Vec<IpAddr> = watched.iter().flat_map(|s| s.addresses.0.clone()).collect();
    let witness = Witness::start(lab, &addresses, ASK_EVERY)?;
    let mut soak = Soak {
        scene: &scene,
        options,
        witness: &witness,
        watched: &watched,
        ledger: Ledger::default(),
        active: vec![],
        report: Report::default(),
        judged: Duration::ZERO,
        told: BTreeMap::new(),
        progress,
    };
    soak.settle()?;
    let result = soak.shake(random);
    // Also after an error: what was seen until then counts.
    let mended = soak.mend_all();
    soak.judge();
    let report = soak.report;
    result.and(mended).map(|()| report)
}

fn services(namespace: &str, ipv6: bool) -> Vec<Watched> {
    let all = [
        ("local0", "Local", LOCAL[0]),
        ("local1", "Local", LOCAL[1]),
        ("cluster0", "Cluster", STEADY),
        ("cluster1", "Cluster", STEADY),
        (GUEST, "Cluster", STEADY),
    ];
    (0..)
        .zip(all)
        .map(|(n, (name, policy, app))| {
            let addresses = Addresses::number(n, ipv6);
            Watched {
                name,
                server: (policy == "Local").then_some(app),
                manifest: act::service(namespace, name, policy, app, &addresses),
                addresses,
            }
        })
        .collect()
}

struct Soak<'a> {
    scene: &'a Scene<'a>,
    options: &'a Options,
    witness: &'a Witness,
    watched: &'a [Watched],
    ledger: Ledger,
    active: Vec<Fault>,
    report: Report,
    /// Until when the history was judged.
    judged: Duration,
    /// Until when each kind of violation of an address was told.
    told: BTreeMap<(IpAddr, &'static str), Duration>,
    progress: &'a Progress,
}

impl Soak<'_> {
    /// Waits until each address has one owner.
    fn settle(&mut self) -> Result<()> {
        for service in self.watched {
            for address in &service.addresses.0 {
                self.witness.wait_settled(*address, QUIET, SETTLED, |_| true)?;
            }
        }
        self.judged = self.witness.clock();
        Ok(())
    }

    /// Faults and their mending, in random order, until time is up.
    fn shake(&mut self, random: &mut Random) -> Result<()> {
        let nodes = self.scene.lab.shape().nodes;
        let end = self.witness.clock() + self.options.length;
        while self.witness.clock() < end {
            let more = self.active.len() < TOGETHER && random.below(2) == 0;
            let fitting = (0..THROWS)
                .map(|_| Fault::any(random, nodes, &LOCAL))
                .find(|fault| fault.fits(&self.active, nodes));
            if let Some(fault) = fitting.filter(|_| more) {
                self.make(fault)?;
            } else if let Some(fault) = self.to_mend(random) {
                self.mend(&fault)?;
            }
            let pause = Duration::from_millis(500 + random.below(3500) as u64);
            sleep(pause);
            self.judge();
        }
        Ok(())
    }

    /// One that can be mended now.
    fn to_mend(&self, random: &mut Random) -> Option<Fault> {
        let silent = self.active.contains(&Fault::ApiSilent);
        let possible: Vec<&Fault> = self
            .active
            .iter()
            .filter(|fault| !(silent && fault.mended_by_api()))
            .collect();
        let n = random.below(possible.len());
        possible.get(n).map(|fault| (*fault).clone())
    }

    fn make(&mut self, fault: Fault) -> Result<()> {
        let at = self.witness.clock();
        self.note(at, &fault.to_string());
        for part in self.parts(&fault) {
            self.ledger.ill(part, at);
        }
        act::make(self.scene, &fault, self.guest())?;
        if fault == Fault::ServiceGone {
            self.ledger.deleted(GUEST, self.witness.clock());
        }
        self.active.push(fault);
        Ok(())
    }

    fn mend(&mut self, fault: &Fault) -> Result<()> {
        self.note(self.witness.clock(), &format!("mending: {fault}"));
        if fault == &Fault::ServiceGone {
            self.ledger.created(GUEST, self.witness.clock());
        }
        act::mend(self.scene, fault, self.guest())?;
        let at = self.witness.clock();
        self.note(at, &format!("mended: {fault}"));
        self.active.retain(|other| other != fault);
        for part in self.parts(fault) {
            // A node that comes back may need the API server to be of use again.
            if self.active.contains(&Fault::ApiSilent) {
                continue;
            }
            self.ledger.well(part, at + CONVALESCENCE);
        }
        if fault == &Fault::ApiSilent {
            self.all_well_but_active(at + CONVALESCENCE);
        }
        Ok(())
    }

    /// What came back while the API server was silent counts from now on.
    fn all_well_but_active(&mut self, at: Duration) {
        let ill: BTreeSet<Part> = self.active.iter().flat_map(|fault| self.parts(fault)).collect();
        for n in 1..=self.scene.lab.shape().nodes {
            if !ill.contains(&Part::Node(n)) {
                self.ledger.recover(Part::Node(n), at);
            }
        }
    }

    /// The API server first, since most others need it.
    fn mend_all(&mut self) -> Result<()> {
        let (silent, others): (Vec<Fault>, Vec<Fault>) = self
            .active
            .clone()
            .into_iter()
            .partition(|fault| *fault == Fault::ApiSilent);
        for fault in silent.iter().chain(&others) {
            self.mend(fault)?;
        }
        self.scene.restore()?;
        for service in self.watched {
            for address in &service.addresses.0 {
                self.witness.wait_settled(*address, QUIET, SETTLED, |_| true)?;
            }
        }
        Ok(())
    }

    /// What is not well while a fault lasts.
    fn parts(&self, fault: &Fault) -> Vec<Part> {
        match fault {
            Fault::Unready(app, n) => vec![Part::Server(app.clone(), *n)],
            Fault::ServiceGone => vec![Part::Service(GUEST.to_owned())],
            other => other.hinders().map(Part::Node).into_iter().collect(),
        }
    }

    fn guest(&self) -> &Value {
        let guest = self.watched.iter().find(|service| service.name == GUEST);
        guest.map_or(&Value::Null, |guest| &guest.manifest)
    }

    fn note(&mut self, at: Duration, what: &str) {
        let line = format!("{:8.2} s  {what}", at.as_secs_f64());
        self.progress.note(&line);
        self.report.steps.push(line);
    }

    /// Looks at what the witness saw since the last time, and a little before: a span may have been going on.
    fn judge(&mut self) {
        let from = self.judged.saturating_sub(Duration::from_secs(30));
        self.judged = self.witness.clock();
        let nodes = self.scene.lab.shape().nodes;
        let mut found: Vec<(&'static str, String, IpAddr, Span)> = vec![];
        {
            let history = self.witness.history();
            for service in self.watched {
                for address in &service.addresses.0 {
                    for span in history.doubled(*address, from) {
                        if span.length() > self.options.doubled {
                            found.push((TWO, String::new(), *address, span));
                        }
                    }
                    for span in history.silent(*address, from) {
                        if span.length() <= self.options.silent {
                            continue;
                        }
                        let (from, to) = (span.from, span.to);
                        let could = self
                            .ledger
                            .candidate(service.name, service.server, nodes, from, to);
                        if let Some(node) = could {
                            found.push((NONE, format!(", though node{node} could"), *address, span));
                        }
                    }
                    for span in history.answered(*address, from) {
                        if self.ledger.gone(service.name, &span, self.options.silent) {
                            found.push((DELETED, String::new(), *address, span));
                        }
                    }
                }
            }
        }
        let mut new = vec![];
        for (kind, more, address, span) in found {
            // One that was told may have grown since, and the look back cuts off its beginning.
            let told = self.told.entry((address, kind)).or_default();
            if *told < span.from {
                new.push(format!("{address}: {kind}{more}, {span}"));
            }
            *told = (*told).max(span.to);
        }
        if !new.is_empty() {
            self.tell(&new.join("\n  "));
        }
    }

    /// Notes what must not be, with what was done before it.
    fn tell(&mut self, what: &str) {
        let mut text = format!("{what}\n  before it:");
        let first = self.report.steps.len().saturating_sub(BEFORE);
        for step in &self.report.steps[first..] {
            let _ = write!(text, "\n    {step}");
        }
        self.progress.note(&format!("VIOLATION {text}"));
        self.report.violations.push(text);
    }
}
