//! The benchmark of controllers: many Services of type LoadBalancer created at once, and how long until each has its
//! address.
//!
//! The lab has one node and no kube-proxy, and no contender runs anything but its controller: neither would speakers
//! and data paths of 10 000 Services be measured, nor should they take the CPU from what is.

use std::time::Duration;

use tokio::runtime::Runtime;

use super::contender::{Contender, Running};
use super::figures::{Spread, rate};
use super::load::{Connections, Load};
use super::observe::Observer;
use super::report::{ApiServer, CpuSeconds, Outcome, Report, Setting, Settled, Throughput};
use super::usage;
use crate::components::MetalLb;
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::process::ProcessId;
use crate::product::Cluster;
use crate::progress::Progress;
use crate::state::KubeProxy;
use crate::topology::Place;
use crate::up::UpOptions;

/// How long one Service may take to get an address before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(60);
/// Nothing changes for so long: the contender has ended its work.
const QUIET: Duration = Duration::from_secs(10);
/// How long after the last address we wait for that.
const SETTLE: Duration = Duration::from_secs(180);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab, which is brought up if need be and stays up.
    pub lab: String,
    /// Number of Services.
    pub services: usize,
    /// Connections that create them.
    pub connections: usize,
    /// Numbers of connections with which the API server's own speed of status writes is measured; none skips it.
    pub writers: Vec<usize>,
    /// From the first creation, how long a contender is waited for.
    pub limit: Duration,
    /// Who is measured, in this order.
    pub contenders: Vec<Contender>,
}

/// Runs the whole benchmark.
///
/// # Errors
/// When something cannot be measured. What a contender did wrong is in the report instead.
pub fn run(options: &Options, progress: &Progress) -> Result<Report> {
    let metallb = MetalLb::ensure(progress)?;
    let lab = Lab::up(
        &UpOptions {
            nodes: Some(1),
            kube_proxy: Some(KubeProxy::None),
            ..UpOptions::new(&options.lab)
        },
        progress,
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing("start a runtime")?;
    let bench = Bench {
        options,
        progress,
        cluster: Cluster::connect(&lab)?,
        connections: runtime.block_on(Connections::open(&lab, options.connections))?,
        server: usage::of_services(&lab, Place::ControlPlane, &["etcd", "kube-apiserver"])?,
        own: vec![own_process()?],
        lab,
        metallb,
        runtime,
    };
    let api_server = bench.api_server()?;
    let outcomes: Result<Vec<Outcome>> = options
        .contenders
        .iter()
        .map(|contender| bench.contender(*contender))
        .collect();
    Ok(Report {
        setting: Setting::of_this_machine(options.services, options.connections, options.limit.as_secs()),
        api_server,
        contenders: outcomes?,
    })
}

struct Bench<'a> {
    options: &'a Options,
    progress: &'a Progress,
    lab: Lab,
    cluster: Cluster,
    metallb: MetalLb,
    runtime: Runtime,
    connections: Connections,
    /// etcd and the API server.
    server: Vec<ProcessId>,
    own: Vec<ProcessId>,
}

impl Bench<'_> {
    /// The bound: what the API server does by itself with the same objects, while nobody serves them.
    fn api_server(&self) -> Result<ApiServer> {
        let load = Load {
            run: "alone",
            services: self.options.services,
        };
        let title = "measuring the API server alone";
        let figures = self.progress.step(title, || {
            self.runtime.block_on(async {
                load.prepare(&self.connections).await?;
                let observer = Observer::start(self.lab.kube().await?, &load).await?;
                let begun = observer.clock();
                let services = load.create(&self.connections, |_| ()).await?;
                let took = observer.clock() - begun;
                let creations = Throughput::new(self.options.connections, services.len(), took);
                let (mut services, mut status_writes) = (services, Vec::new());
                for (round, &connections) in (1..).zip(&self.options.writers) {
                    let over = Connections::open(&self.lab, connections).await?;
                    let begun = observer.clock();
                    services = load.write_statuses(&over, &services, round).await?;
                    let took = observer.clock() - begun;
                    status_writes.push(Throughput::new(connections, services.len(), took));
                }
                Ok::<_, LabError>(ApiServer {
                    creations,
                    status_writes,
                })
            })
        })?;
        self.remove(&load)?;
        Ok(figures)
    }

    fn remove(&self, load: &Load) -> Result<()> {
        self.progress.step("removing the Services", || {
            self.runtime.block_on(load.remove(&self.connections))
        })
    }

    /// Installs one, measures it, and leaves nothing of it.
    fn contender(&self, who: Contender) -> Result<Outcome> {
        let title = who.title();
        self.progress.step(&format!("installing {title}"), || {
            who.install(&self.lab, &self.cluster, &self.metallb)
        })?;
        self.progress
            .step(&format!("one Service for {title}, before the clock runs"), || {
                self.warm_up(who)
            })?;
        let load = Load {
            run: who.name(),
            services: self.options.services,
        };
        let what = format!("measuring {title} with {} Services", load.services);
        let outcome = self.progress.step(&what, || self.measure(who, &load))?;
        // Stopped before its Services go, so that it has no part in the next contender's time.
        self.progress
            .step(&format!("stopping {title}"), || who.stop(&self.cluster))?;
        self.remove(&load)?;
        self.progress.step(&format!("removing {title}"), || {
            who.remove(&self.lab, &self.cluster, &self.metallb)
        })?;
        Ok(outcome)
    }

    /// Shows that it gives addresses at all.
    fn warm_up(&self, who: Contender) -> Result<()> {
        let load = Load {
            run: "warm-up",
            services: 1,
        };
        self.runtime.block_on(async {
            load.prepare(&self.connections).await?;
            let mut observer = Observer::start(self.lab.kube().await?, &load).await?;
            load.create(&self.connections, |_| ()).await?;
            let end = observer.clock() + WARM_UP;
            if !observer.wait_assigned(1, end).await {
                return Err(LabError::Timeout {
                    what: format!("the first address of {}", who.title()),
                    after: WARM_UP,
                    seen: "none".to_owned(),
                });
            }
            load.remove(&self.connections).await
        })
    }

    fn measure(&self, who: Contender, load: &Load) -> Result<Outcome> {
        let running = who.running(&self.cluster)?;
        let began = self.cpu(&running)?;
        let outcome = self.runtime.block_on(async {
            load.prepare(&self.connections).await?;
            let mut observer = Observer::start(self.lab.kube().await?, load).await?;
            let start = observer.clock();
            let created = |service: &_| {
                let at = observer.clock();
                observer.timeline().created(&super::load::key(service), at);
            };
            load.create(&self.connections, created).await?;
            let end = start + self.options.limit;
            let complete = observer.wait_assigned(load.services, end).await;
            let cpu = self.cpu(&running)?.since(began);
            let stopped = observer.clock();
            let assigned = observer.timeline().assigned();
            let (updates, settled) = if complete {
                let last = observer.wait_quiet(QUIET, stopped + SETTLE).await;
                let cpu = self.cpu(&running)?.since(began).contender;
                let settled = Settled {
                    quiet_after_seconds: last.map(|at| at.saturating_sub(start).as_secs_f64()),
                    cpu_seconds: cpu,
                };
                (observer.timeline().updates(), Some(settled))
            } else {
                (observer.timeline().updates(), None)
            };

            let timeline = observer.timeline();
            let since_start = |at: Option<Duration>| at.map(|at| at.saturating_sub(start));
            let last_created = since_start(timeline.last_created()).unwrap_or_default();
            let last_assigned = since_start(timeline.last_assigned()).unwrap_or_default();
            // One that did not finish has taken all the time it was given.
            let took = if complete { last_assigned } else { stopped - start };
            Ok::<_, LabError>(Outcome {
                name: who.title(),
                what: who.describe(),
                replicas: running.replicas,
                services: load.services,
                assigned,
                creation_seconds: last_created.as_secs_f64(),
                creations_per_second: rate(load.services, last_created),
                seconds: took.as_secs_f64(),
                after_last_creation_seconds: complete
                    .then(|| last_assigned.saturating_sub(last_created).as_secs_f64()),
                addresses_per_second: rate(assigned, took),
                wait: Spread::of(timeline.waits()),
                cpu,
                peak_rss_mib: usage::peak_rss_mib(&running.processes)?,
                changes_per_service: updates as f64 / load.services.max(1) as f64,
                settled,
                watch_interruptions: observer.interruptions(),
                duplicates: timeline.duplicates(),
            })
        })?;
        // A process that was replaced meanwhile would have been noticed by its lost CPU time; this tells why.
        let now = who.running(&self.cluster)?;
        if now != running {
            let why = format!("the controller of {} was restarted", who.title());
            return Err(LabError::Refused(why));
        }
        Ok(outcome)
    }

    fn cpu(&self, running: &Running) -> Result<CpuSeconds> {
        let contender = usage::cpu_seconds(&running.processes)?;
        let api_server = usage::cpu_seconds(&self.server)?;
        let bench = usage::cpu_seconds(&self.own)?;
        Ok(CpuSeconds {
            contender,
            api_server,
            bench,
            others: usage::machine_cpu_seconds() - contender - api_server - bench,
        })
    }
}

fn own_process() -> Result<ProcessId> {
    i32::try_from(std::process::id())
        .ok()
        .and_then(ProcessId::of)
        .ok_or_else(|| LabError::Refused("this process is not in /proc".to_owned()))
}
