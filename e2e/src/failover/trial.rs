//! One fault, once.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;

use super::busy::Busy;
use super::restore::Programs;
use super::row::Row;
use super::scene::{Scene, WEB};
use crate::announcers::Witness;
use crate::client::{ClientOptions, FailureKind};
use crate::error::{LabError, Result};
use crate::product::{install, wait_for};
use crate::topology::Place;

/// Time before the fault in which the client must find everything good.
const CALM: Duration = Duration::from_secs(1);
/// Time after it, in which what it brings about is still seen.
const AFTER: Duration = Duration::from_secs(2);
/// How long a dead node's successor is waited for.
const SUCCESSOR: Duration = Duration::from_secs(60);
/// How long a move is waited for that may never come.
const MAYBE: Duration = Duration::from_secs(5);
/// How long a fault lasts that ends by itself.
const LASTS: Duration = Duration::from_secs(5);
/// For a program to be started again, for pods to be replaced.
const RESTARTED: Duration = Duration::from_secs(180);
/// The port of the speakers' gossip.
const GOSSIP: u16 = 7673;

/// How long what lasts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Options {
    /// How long the API server is silent before the owner dies.
    #[serde(rename = "api_down_seconds", serialize_with = "seconds")]
    pub api_down: Duration,
    /// How long the cores are busy.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Who announced the address before.
    pub owner: String,
    /// The longest time between two good answers that the client got.
    pub gap_ms: u64,
    /// New connections of the client.
    pub requests: u64,
    /// Those without a good answer.
    pub failed: u64,
    /// How.
    pub failures: BTreeMap<FailureKind, u64>,
    /// From the fault to the first claim of another node on the wire; absent if there was none.
    pub moved_ms: Option<u64>,
    /// How often the address went from one node to another.
    pub moves: usize,
    /// The longest time in which two nodes answered for it; where something is healed, the time from then until only one
    /// did.
    pub doubled_ms: u64,
}

/// When things were done, on the witness' clock.
struct Times {
    fault: Duration,
    healed: Option<Duration>,
}

/// Tries a fault once, in a lab in which all is well. It leaves the fault as it is: [`Scene::restore`].
///
/// # Errors
/// When the fault cannot be made or nothing can be measured; not when the address does badly.
pub fn trial(scene: &Scene<'_>, row: Row, options: &Options, home: Option<&str>) -> Result<Outcome> {
    let mut owner = scene.settle(home)?;
    if row == Row::SpeakerKilled {
        owner = scene.fresh_speaker(owner, home)?;
    }
    let witness = scene.witness()?;
    let client = scene
        .lab
        .start_client(Place::Client, &ClientOptions::new(scene.target()))?;
    sleep(CALM);
    let trial = Trial {
        scene,
        options,
        place: owner.parse()?,
        witness: &witness,
        owner: &owner,
    };
    let times = trial.make(row)?;
    sleep(AFTER);
    let report = client.stop()?;
    let history = witness.history();
    let moved = history.first_other(scene.vip, &owner, times.fault);
    let doubled = history.doubled(scene.vip, times.healed.unwrap_or(times.fault));
    let doubled = match times.healed {
        Some(healed) => doubled.last().map(|span| span.to - healed),
        None => doubled.iter().map(|span| span.length()).max(),
    };
    Ok(Outcome {
        gap_ms: report.longest_gap.ms,
        requests: report.requests,
        failed: report.failed,
        failures: report.failures,
        moved_ms: moved.map(|at| millis(at.saturating_sub(times.fault))),
        moves: history.moves(scene.vip, times.fault).len(),
        doubled_ms: millis(doubled.unwrap_or_default()),
        owner: owner.clone(),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

struct Trial<'a> {
    scene: &'a Scene<'a>,
    options: &'a Options,
    witness: &'a Witness,
    owner: &'a str,
    place: Place,
}

impl Trial<'_> {
    /// Makes the fault and waits for what it brings about.
    fn make(&self, row: Row) -> Result<Times> {
        let lab = self.scene.lab;
        if row == Row::ApiDownPowerOff {
            lab.pause_api_server()?;
            sleep(self.options.api_down);
        }
        if row == Row::ProbeFails {
            lab.pause_api_server()?;
        }
        let fault = self.witness.clock();
        let mut healed = None;
        match row {
            Row::PowerOff | Row::ApiDownPowerOff => {
                lab.power_off(self.place)?;
                self.wait_successor(fault, SUCCESSOR);
            }
            Row::CableCut => {
                lab.cut(self.place)?;
                self.wait_successor(fault, SUCCESSOR);
            }
            Row::Cordon => {
                self.scene.cluster.cordon(self.owner, true)?;
                self.wait_successor(fault, MAYBE);
            }
            Row::Drain => self.drain(fault)?,
            Row::EndpointUnready => {
                self.scene.set_ready(WEB, self.owner, false)?;
                self.wait_successor(fault, SUCCESSOR);
            }
            Row::EndpointDeleted => {
                let path = self.scene.pod(WEB, self.owner);
                self.scene.cluster.delete_and_wait(&path, RESTARTED)?;
                self.wait_successor(fault, SUCCESSOR);
            }
            Row::ProbeFails => {
                lab.signal(self.place, "kube-proxy", Signal::SIGKILL)?;
                self.wait_successor(fault, SUCCESSOR);
            }
            Row::SplitHealed => healed = Some(self.split(fault)?),
            Row::GossipBlocked => {
                self.block_gossip()?;
                sleep(LASTS);
                self.scene
                    .exec(self.place, &["nft", "delete", "table", "inet", "e2e"])?;
                self.wait_one()?;
            }
            Row::SpeakerKilled => self.kill_speaker()?,
            Row::SpeakerUpgrade => self.replace(Some(Programs::of(self.scene.who).speakers))?,
            Row::AgentUpgrade => self.replace(Programs::of(self.scene.who).agents)?,
            Row::Busy => {
                let busy = Busy::start(8)?;
                sleep(self.options.busy);
                drop(busy);
            }
        }
        Ok(Times { fault, healed })
    }

    /// Waits for another node's claim. One that does not come is told by the outcome.
    fn wait_successor(&self, fault: Duration, limit: Duration) {
        let _ = self.witness.wait_other(self.scene.vip, self.owner, fault, limit);
    }

    /// Waits until one node alone answers.
    fn wait_one(&self) -> Result<()> {
        let second = Duration::from_secs(1);
        self.witness
            .wait_settled(self.scene.vip, second, RESTARTED, |_| true)
            .map(drop)
    }

    /// As an administrator does it, with what kubectl asks for where pods have no controller.
    fn drain(&self, fault: Duration) -> Result<()> {
        let arguments = [
            "drain",
            self.owner,
            "--force",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=120s",
        ];
        install::run(&mut self.scene.lab.kubectl(arguments)?)?;
        self.wait_successor(fault, SUCCESSOR);
        Ok(())
    }

    /// The owner, and every second of the other nodes, on a switch of their own; answers when it was healed.
    fn split(&self, fault: Duration) -> Result<Duration> {
        let lab = self.scene.lab;
        let others = lab.nodes().into_iter().filter(|place| *place != self.place);
        let side: Vec<Place> = std::iter::once(self.place)
            .chain(others.skip(1).step_by(2))
            .collect();
        lab.split(&side)?;
        self.wait_successor(fault, SUCCESSOR);
        sleep(LASTS);
        let healed = self.witness.clock();
        lab.join()?;
        sleep(LASTS);
        self.wait_one()?;
        Ok(healed)
    }

    fn block_gossip(&self) -> Result<()> {
        let rules = format!(
            "table inet e2e {{ \
               chain input {{ type filter hook input priority -200; meta l4proto {{ tcp, udp }} th dport {GOSSIP} drop; }}; \
               chain output {{ type filter hook output priority -200; meta l4proto {{ tcp, udp }} th dport {GOSSIP} drop; }}; }}"
        );
        let output = self.scene.lab.exec(self.place, ["nft", &rules])?;
        if output.status.success() {
            return Ok(());
        }
        let detail = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(LabError::Command {
            command: "nft".to_owned(),
            detail,
        })
    }

    /// A crash. kubelet starts it again at once, the first time.
    fn kill_speaker(&self) -> Result<()> {
        let pattern = Programs::of(self.scene.who).process;
        let before = self
            .scene
            .processes(self.owner, pattern)
            .map_err(LabError::Refused)?;
        for pid in &before {
            self.scene.exec(self.place, &["kill", "-9", pid])?;
        }
        wait_for("the speaker to run again", RESTARTED, || {
            let now = self.scene.processes(self.owner, pattern)?;
            if now.is_empty() || now.iter().any(|pid| before.contains(pid)) {
                Err(format!("{now:?}"))
            } else {
                Ok(())
            }
        })?;
        // Others may find it dead only now, and then alive.
        sleep(2 * LASTS);
        Ok(())
    }

    fn replace(&self, set: Option<String>) -> Result<()> {
        let Some(set) = set else {
            return Err(LabError::Refused(format!(
                "{} has no such programs",
                self.scene.who.title()
            )));
        };
        let (name, namespace) = (format!("daemonset/{set}"), self.scene.who.namespace());
        for arguments in [
            &["rollout", "restart", &name, "-n", namespace][..],
            &["rollout", "status", &name, "-n", namespace, "--timeout=180s"],
        ] {
            install::run(&mut self.scene.lab.kubectl(arguments)?)?;
        }
        self.scene.wait_programs()
    }
}

impl Scene<'_> {
    /// Waits until the address is announced by a speaker that has never been restarted: kubelet waits longer before each
    /// restart of one pod, and what is tried is the first.
    fn fresh_speaker(&self, mut owner: String, home: Option<&str>) -> Result<String> {
        let programs = Programs::of(self.who);
        let pods = format!("/api/v1/namespaces/{}/pods", self.who.namespace());
        // Each round leaves one more of them fresh.
        for _ in 0..=self.lab.nodes().len() {
            let all = self
                .cluster
                .list(&format!("{pods}?labelSelector={}", programs.selector))?;
            let pod = all
                .iter()
                .find(|pod| pod["spec"]["nodeName"] == owner.as_str())
                .ok_or_else(|| LabError::Refused(format!("no speaker on {owner}")))?;
            if pod["status"]["containerStatuses"][0]["restartCount"] == 0 {
                return Ok(owner);
            }
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            self.cluster
                .delete_and_wait(&format!("{pods}/{name}"), RESTARTED)?;
            self.wait_programs()?;
            owner = self.settle(home)?;
        }
        Err(LabError::Refused(
            "no speaker without a restart announces the address".to_owned(),
        ))
    }
}
