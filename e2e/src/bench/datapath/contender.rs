//! Who is measured, how each is started alone in a network namespace, and how one knows that it is done.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use super::cost::{Cpu, MemoryWatch, cpu};
use super::generation::Generations;
use super::objects::POD_ADDRESSES;
use super::stage::{CONTENDERS, Stage, get};
use crate::bench::idle::exposition::Exposition;
use crate::bench::usage;
use crate::certs::file;
use crate::error::{Doing, LabError, Result};
use crate::machine::{Machine, ServiceSpec};
use crate::process::ProcessId;
use crate::product::install::tree;
use crate::topology::Place;

/// How long a start, and any other wait, may take.
pub const LIMIT: Duration = Duration::from_secs(900);
/// Where kube-proxy tells its metrics.
const KUBE_PROXY_PORT: u16 = 10249;
/// And the node agent.
const AGENT_PORT: u16 = 7672;

/// A data path to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Contender {
    /// kube-proxy in nftables mode.
    KubeProxy,
    /// kube-proxy in iptables mode.
    Iptables,
    /// The node agent of this tree.
    Fairlead,
}

impl Contender {
    /// Its name, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::KubeProxy => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
            Self::Fairlead => "Fairlead",
        }
    }

    /// Its node.
    pub fn place(self) -> Place {
        let [kube_proxy, fairlead, iptables] = CONTENDERS;
        match self {
            Self::KubeProxy => kube_proxy,
            Self::Iptables => iptables,
            Self::Fairlead => fairlead,
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::KubeProxy | Self::Iptables => "kube-proxy",
            Self::Fairlead => "node-agent",
        }
    }

    fn spec(self, stage: &Stage) -> Result<ServiceSpec> {
        let (paths, node) = (stage.lab.paths(), self.place().name());
        let mode = match self {
            Self::KubeProxy => "nftables",
            Self::Iptables => "iptables",
            Self::Fairlead => {
                let program = program()?.display().to_string();
                let admin = file(paths, "admin.kubeconfig").display().to_string();
                let mut spec = ServiceSpec::new(self.service(), [program]);
                spec.env = [("KUBECONFIG".to_owned(), admin), ("NODE_NAME".to_owned(), node)].into();
                return Ok(spec);
            }
        };
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "clientConnection": {"kubeconfig": file(paths, "kube-proxy.kubeconfig")},
            "hostnameOverride": node,
            "clusterCIDR": POD_ADDRESSES,
            // These sysctls are the host's own; inside a network namespace they cannot be written.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let path = paths.machine(self.place()).join("bench-kube-proxy.json");
        std::fs::write(&path, config.to_string()).doing(format!("write {}", path.display()))?;
        let program = stage.components.bin("kube-proxy").display().to_string();
        Ok(ServiceSpec::new(
            self.service(),
            [program, format!("--config={}", path.display())],
        ))
    }

    /// Starts it on this machine.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, stage: &Stage, machine: Machine) -> Result<Running> {
        let generations = Generations::watch(&machine)?;
        let spec = self.spec(stage)?;
        let begun = Instant::now();
        machine.start_service(spec)?;
        let process = usage::of_services(&stage.lab, self.place(), &[self.service()])?;
        let process = process
            .first()
            .copied()
            .ok_or_else(|| LabError::Refused(format!("{} does not run", self.title())))?;
        Ok(Running {
            contender: self,
            log: stage.lab.paths().log(self.place(), self.service()),
            machine,
            process,
            begun,
            memory: MemoryWatch::start(process),
            generations,
        })
    }
}

/// The node agent that was built last.
fn program() -> Result<PathBuf> {
    let given = std::env::var_os("FAIRLEAD_NODE_AGENT").map(PathBuf::from);
    let path = given.unwrap_or_else(|| tree().join("target/release/fairlead-node-agent"));
    if path.is_file() {
        Ok(path)
    } else {
        let why = format!(
            "no {}: cargo build --release -p fairlead-node-agent",
            path.display()
        );
        Err(LabError::Refused(why))
    }
}

/// A contender at work.
pub struct Running {
    /// Who.
    pub contender: Contender,
    /// On which machine.
    pub machine: Machine,
    process: ProcessId,
    log: PathBuf,
    begun: Instant,
    /// Its memory.
    pub memory: MemoryWatch,
    /// The changes that it makes.
    pub generations: Generations,
}

impl Running {
    /// CPU time so far.
    pub fn cpu(&self) -> Cpu {
        cpu(self.process)
    }

    /// Waits until everything has been programmed once; the time from the start of the process until the kernel had it.
    ///
    /// # Errors
    /// When it ends, or time is up.
    pub fn programmed(&self) -> Result<Duration> {
        let pause = match self.contender {
            Contender::Fairlead => Duration::from_millis(5),
            _ => Duration::from_millis(100),
        };
        let mut seen = String::new();
        while self.begun.elapsed() < LIMIT {
            match self.says_programmed() {
                Ok(true) => {
                    let last = self.generations.since(self.begun).last().copied();
                    // An agent that finds everything as it should be changes nothing.
                    return Ok(last.map_or_else(|| self.begun.elapsed(), |last| last - self.begun));
                }
                Ok(false) => "it is not done".clone_into(&mut seen),
                Err(error) => seen = error.to_string(),
            }
            if !self.process.is_alive() {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(LabError::Refused(format!(
                    "{} ended: {end:?}",
                    self.contender.title()
                )));
            }
            std::thread::sleep(pause);
        }
        Err(LabError::Timeout {
            what: format!("{} to be done", self.contender.title()),
            after: LIMIT,
            seen,
        })
    }

    fn says_programmed(&self) -> Result<bool> {
        Ok(match self.contender {
            Contender::Fairlead => get(&self.machine, AGENT_PORT, "/readyz")?.0,
            Contender::KubeProxy | Contender::Iptables => self.full_syncs()?.0 > 0.0,
        })
    }

    fn metrics(&self) -> Result<Exposition> {
        let port = match self.contender {
            Contender::Fairlead => AGENT_PORT,
            Contender::KubeProxy | Contender::Iptables => KUBE_PROXY_PORT,
        };
        Ok(Exposition::new(get(&self.machine, port, "/metrics")?.1))
    }

    /// How many full syncs for IPv4 it says that it has made, and their time in seconds. The node agent makes one for both
    /// families, at its start.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn full_syncs(&self) -> Result<(f64, f64)> {
        let metrics = self.metrics()?;
        let (name, labels): (_, &[&str]) = match self.contender {
            Contender::Fairlead => ("fairlead_agent_sync_duration_seconds", &[]),
            Contender::KubeProxy | Contender::Iptables => (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                &["ip_family=\"IPv4\""],
            ),
        };
        let sum = |suffix: &str| metrics.sum(&format!("{name}_{suffix}"), labels);
        Ok((sum("count").unwrap_or_default(), sum("sum").unwrap_or_default()))
    }

    /// Waits until it has nothing more to do: for a second no change, and hardly any CPU time. An agent that looks at its
    /// rules all the time is idle as well, if nothing changes for longer than it needs to write.
    ///
    /// # Errors
    /// When time is up.
    pub fn settle(&self) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(250);
        const QUIET: u32 = 4;
        const STILL: Duration = Duration::from_secs(10);
        let (begun, mut quiet, mut before) = (Instant::now(), 0, self.cpu());
        while begun.elapsed() < LIMIT {
            std::thread::sleep(LOOK);
            let now = self.cpu();
            let still = self
                .generations
                .last()
                .map_or(begun, |last| last.max(begun))
                .elapsed();
            let busy = now.since(before).total() > 0.1 * LOOK.as_secs_f64();
            quiet = if still < LOOK || busy { 0 } else { quiet + 1 };
            before = now;
            if quiet >= QUIET || (self.contender == Contender::Fairlead && still > STILL) {
                return Ok(());
            }
        }
        Err(LabError::Timeout {
            what: format!("{} to be idle", self.contender.title()),
            after: LIMIT,
            seen: "it works".to_owned(),
        })
    }

    /// CPU time that it takes while nothing changes, in percent of one core.
    ///
    /// # Errors
    /// As [`Running::settle`].
    pub fn idle_percent(&self, time: Duration) -> Result<f64> {
        self.settle()?;
        let (begun, before) = (Instant::now(), self.cpu());
        std::thread::sleep(time);
        Ok(self.cpu().since(before).total() / begun.elapsed().as_secs_f64() * 100.0)
    }

    /// Ends the process. Its rules stay in the kernel, and the machine with them.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(self) -> Result<Machine> {
        let limit = Duration::from_secs(60);
        self.machine
            .end_service(self.contender.service(), Signal::SIGTERM, limit)?;
        self.machine.forget_service(self.contender.service())?;
        Ok(self.machine)
    }
}
