//! One fault, once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;

use super::fib::FibWatch;
use super::load::{Load, Seen};
use super::row::Row;
use super::stage::{Stage, node_address};
use crate::error::{LabError, Result};
use crate::failover::Programs;
use crate::product::{install, wait_for};
use crate::topology::Place;

/// Clients of a trial. Together they open a connection every 5 ms.
const CLIENTS: u32 = 4;
/// Time before the fault in which the clients must find everything good.
const CALM: Duration = Duration::from_secs(1);
/// Time after it, in which what it brings about is still seen.
const AFTER: Duration = Duration::from_secs(2);
/// How long the router's change of mind is waited for.
const CHANGED: Duration = Duration::from_secs(30);
/// How long a program may take to be back.
const RESTARTED: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The node that it was done to.
    pub node: String,
    /// What the clients saw.
    pub seen: Seen,
    /// From the fault until the router sent nothing to the node any more; absent if it went on.
    pub withdrawn_ms: Option<u64>,
    /// Connections of the clients that failed before the fault: the trial is worth nothing then.
    pub disturbed: bool,
}

/// Tries a fault once on a node, in a lab in which all is well. It leaves the fault as it is: [`Stage::settle`].
///
/// # Errors
/// When the fault cannot be made or nothing can be measured; not when connections fail.
pub fn trial(stage: &Stage<'_>, row: Row, node: Place) -> Result<Outcome> {
    stage.settle(row.peering())?;
    let lab = stage.scene.lab;
    let watch = FibWatch::start(lab, Place::Router)?;
    let load = Load::start(lab, Place::Client, stage.target(), CLIENTS)?;
    sleep(CALM);
    let trial = Trial {
        stage,
        node,
        watch: &watch,
    };
    let fault = Instant::now();
    let fault_ms = jiff::Timestamp::now().as_millisecond();
    trial.make(row, fault)?;
    sleep(AFTER);
    let (seen, first_failed) = load.stop_and_tell(&watch.times(stage.route()))?;
    let without = trial.withdrawn(fault);
    Ok(Outcome {
        node: node.name(),
        seen,
        withdrawn_ms: without.map(|at| millis(at.saturating_duration_since(fault))),
        // A connection that was being opened when the fault was made is part of it.
        disturbed: first_failed.is_some_and(|at| at < fault_ms - 1000),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

struct Trial<'a> {
    stage: &'a Stage<'a>,
    node: Place,
    watch: &'a FibWatch,
}

impl Trial<'_> {
    /// Makes the fault and waits for what it brings about.
    fn make(&self, row: Row, fault: Instant) -> Result<()> {
        let (lab, cluster, name) = (self.stage.scene.lab, self.stage.scene.cluster, self.node.name());
        match row {
            Row::PowerOff | Row::PowerOffHold => {
                // The cable first: a kernel that ends processes closes their connections, which a node without power does not.
                lab.cut(self.node)?;
                lab.power_off(self.node)?;
                self.wait_withdrawn(fault);
            }
            Row::Cordon => {
                cluster.cordon(&name, true)?;
                self.wait_withdrawn(fault);
            }
            Row::Drain => {
                let arguments = [
                    "drain",
                    &name,
                    "--force",
                    "--ignore-daemonsets",
                    "--delete-emptydir-data",
                    "--timeout=120s",
                ];
                install::run(&mut lab.kubectl(arguments)?)?;
                self.wait_withdrawn(fault);
            }
            Row::SpeakerUpgrade | Row::DaemonUpgrade => self.replace_speakers()?,
            Row::DaemonKilled => self.kill("gobgpd")?,
            Row::ProbeFails => {
                lab.pause_api_server()?;
                lab.signal(self.node, "kube-proxy", Signal::SIGKILL)?;
                self.wait_withdrawn(fault);
            }
            Row::EndpointDeleted => {
                let pod = format!("/api/v1/namespaces/{}/pods/web-{name}", self.stage.name);
                cluster.delete_and_wait(&pod, RESTARTED)?;
                self.wait_withdrawn(fault);
            }
        }
        Ok(())
    }

    /// When the router first sent to others alone.
    fn withdrawn(&self, since: Instant) -> Option<Instant> {
        let own = node_address(self.node)?;
        self.watch.first(self.stage.route(), since, |hops| {
            !hops.is_empty() && !hops.contains(&own)
        })
    }

    /// Waits for that. If it does not come, the outcome tells.
    fn wait_withdrawn(&self, since: Instant) {
        let began = Instant::now();
        while self.withdrawn(since).is_none() && began.elapsed() < CHANGED {
            sleep(Duration::from_millis(10));
        }
    }

    fn replace_speakers(&self) -> Result<()> {
        let programs = Programs::of(self.stage.scene.who);
        let (set, namespace) = (format!("daemonset/{}", programs.speakers), install::NAMESPACE);
        for arguments in [
            &["rollout", "restart", &set, "-n", namespace][..],
            &["rollout", "status", &set, "-n", namespace, "--timeout=180s"],
        ] {
            install::run(&mut self.stage.scene.lab.kubectl(arguments)?)?;
        }
        self.stage.scene.wait_programs()
    }

    /// Kills a program of the node by its name, and waits until another one of it runs, and has a session again.
    fn kill(&self, program: &str) -> Result<()> {
        let pids = || -> Result<Vec<String>> {
            let text = self.stage.scene.exec(self.node, &["pgrep", "-x", program])?;
            Ok(text.split_whitespace().map(str::to_owned).collect())
        };
        let before = pids()?;
        if before.is_empty() {
            let why = format!("no {program} runs on {}", self.node.name());
            return Err(LabError::Refused(why));
        }
        for pid in &before {
            self.stage.scene.exec(self.node, &["kill", "-9", pid])?;
        }
        wait_for(&format!("{program} to run again"), RESTARTED, || {
            let now = pids().map_err(|e| e.to_string())?;
            if now.is_empty() || now.iter().any(|pid| before.contains(pid)) {
                Err(format!("{now:?}"))
            } else {
                Ok(())
            }
        })?;
        // The router takes what is stale away when the new daemon has told it all: that is seen as well.
        sleep(Duration::from_secs(8));
        Ok(())
    }
}

impl std::fmt::Display for Outcome {
    /// One line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.seen)?;
        match self.withdrawn_ms {
            Some(ms) => write!(f, "; withdrawn after {ms} ms"),
            None => write!(f, "; not withdrawn"),
        }
    }
}
