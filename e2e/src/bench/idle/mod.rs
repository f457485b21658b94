//! What idle speakers cost: many Services are announced, nothing changes, and CPU time, memory and messages of every
//! speaker are measured.

pub(super) mod exposition;
pub mod report;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use self::exposition::Exposition;
use self::report::{Rates, Report, Setting, Speaker};
use super::load::Connections;
use super::usage;
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::process::ProcessId;
use crate::product::install::{install_with, pod_of, wait_ready};
use crate::product::{Cluster, manifests, wait_for};
use crate::progress::Progress;
use crate::topology::Place;
use crate::up::UpOptions;

/// The addresses that are given: not of the nodes' subnet, which has too few.
const ADDRESSES: &str = "198.18.0.0/21";
/// Most Services that have room in it, and that a cluster has node ports for.
pub const MOST: u16 = 1800;
/// How often a target is probed at least.
const PROBE_INTERVAL: &str = "500ms";
/// Name of the pool, the advertisement and the namespace.
const NAME: &str = "bench";
/// Label of the web servers.
const WEB: &str = "web";
/// Connections that create the Services.
const CONNECTIONS: usize = 8;
/// How long an installation may take.
const READY: Duration = Duration::from_secs(180);
/// How long until all addresses are announced, from the last creation; on a busy machine service proxies take their time.
const ANNOUNCED: Duration = Duration::from_secs(600);
/// All is quiet when no NodeState was written for so long, which is longer than speakers wait between two writes.
const QUIET: Duration = Duration::from_secs(35);
/// How long that is waited for.
const SETTLED: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab, which is brought up if need be and stays up.
    pub lab: String,
    /// Number of Services, at most [`MOST`].
    pub services: usize,
    /// How many of a hundred have policy Local.
    pub local_percent: usize,
    /// How long to measure.
    pub time: Duration,
}

impl Options {
    /// 1000 Services, half of them with policy Local, for a minute.
    pub fn new(lab: &str) -> Self {
        Self {
            lab: lab.to_owned(),
            services: 1000,
            local_percent: 50,
            time: Duration::from_secs(60),
        }
    }

    /// Has the Service with this number policy Local? They are spread evenly.
    fn is_local(&self, index: usize) -> bool {
        (index + 1) * self.local_percent / 100 > index * self.local_percent / 100
    }

    fn local(&self) -> usize {
        (0..self.services).filter(|index| self.is_local(*index)).count()
    }
}

/// Runs the whole benchmark.
///
/// # Errors
/// When something cannot be measured, or a speaker was restarted meanwhile.
pub fn run(options: &Options, progress: &Progress) -> Result<Report> {
    let lab = Lab::up(
        &UpOptions {
            nodes: Some(3),
            ..UpOptions::new(&options.lab)
        },
        progress,
    )?;
    let bench = Bench {
        options,
        cluster: Cluster::connect(&lab)?,
        lab,
    };
    progress.step("installing Fairlead", || bench.install())?;
    let services = options.services;
    progress.step(&format!("creating {services} Services"), || bench.create())?;
    progress.step("waiting until all are announced", || bench.wait_announced())?;
    progress.step("waiting until nothing changes any more", || bench.wait_quiet())?;
    let seconds = options.time.as_secs();
    progress.step(&format!("measuring for {seconds} s"), || bench.measure())
}

struct Bench<'a> {
    options: &'a Options,
    lab: Lab,
    cluster: Cluster,
}

/// A speaker, looked at once.
struct Look {
    process: ProcessId,
    at: Instant,
    cpu: f64,
    threads: BTreeMap<String, f64>,
    metrics: Exposition,
}

impl Bench<'_> {
    fn install(&self) -> Result<()> {
        install_with(&self.lab, &[])?;
        wait_ready(&self.cluster, READY)?;
        let mut pool = manifests::pool(NAME, &[ADDRESSES]);
        pool["spec"]["health"] = json!({"interval": PROBE_INTERVAL});
        let mut advertisement = manifests::advertisement(NAME, NAME);
        // Named, because no interface has a subnet that the addresses are in.
        advertisement["spec"]["interfaces"] = json!(["eth0"]);
        for object in [pool, advertisement, manifests::namespace(NAME)] {
            self.cluster.apply(&object)?;
        }
        for node in self.lab.nodes() {
            self.cluster.apply(&manifests::web_pod(NAME, WEB, &node.name()))?;
        }
        wait_for("the web servers to be ready", READY, || {
            for node in self.lab.nodes() {
                let path = format!("/api/v1/namespaces/{NAME}/pods/{WEB}-{}", node.name());
                let pod = self
                    .cluster
                    .get(&path)
                    .map_err(|e| e.to_string())?
                    .unwrap_or_default();
                let conditions = pod["status"]["conditions"].as_array();
                let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
                if !conditions.into_iter().flatten().any(ready) {
                    return Err(pod["status"].to_string());
                }
            }
            Ok(())
        })
    }

    fn create(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .doing("start a runtime")?;
        runtime.block_on(async {
            let connections = Connections::open(&self.lab, CONNECTIONS).await?;
            // Applied, so that another run on the same lab may have another mix.
            let parameters = PatchParams::apply(NAME).force();
            let apply = |client, index| {
                let parameters = &parameters;
                async move {
                    let api: Api<Service> = Api::namespaced(client, NAME);
                    let service = service(index, self.options.is_local(index));
                    let name = service["metadata"]["name"].as_str().unwrap_or_default();
                    let answer = api.patch(name, parameters, &Patch::Apply(&service)).await;
                    Ok(answer.map(drop)?)
                }
            };
            connections.each(self.options.services, apply).await.map(drop)
        })
    }

    fn node_states(&self) -> Result<Vec<Value>> {
        self.cluster.list("/apis/fairlead.dev/v1alpha1/nodestates")
    }

    fn wait_announced(&self) -> Result<()> {
        wait_for("all addresses to be announced", ANNOUNCED, || {
            let states = self.node_states().map_err(|e| e.to_string())?;
            let counts: Vec<i64> = states
                .iter()
                .map(|state| state["status"]["announcedCount"].as_i64().unwrap_or_default())
                .collect();
            let all = usize::try_from(counts.iter().sum::<i64>()) == Ok(self.options.services);
            if all { Ok(()) } else { Err(format!("{counts:?}")) }
        })
    }

    fn wait_quiet(&self) -> Result<()> {
        let mut known = (Vec::new(), Instant::now());
        wait_for("the NodeStates to change no more", SETTLED, || {
            let states = self.node_states().map_err(|e| e.to_string())?;
            let versions: Vec<String> = states
                .iter()
                .map(|state| state["metadata"]["resourceVersion"].to_string())
                .collect();
            if versions != known.0 {
                known = (versions, Instant::now());
            }
            let quiet = known.1.elapsed();
            if quiet < QUIET {
                // Asking is work as well.
                std::thread::sleep(Duration::from_secs(1));
                return Err(format!("the last change was {} s ago", quiet.as_secs()));
            }
            Ok(())
        })
    }

    fn measure(&self) -> Result<Report> {
        let nodes = self.lab.nodes();
        let setting = Setting::of_this_machine(self.options, nodes.len(), self.options.local());
        let looks = || -> Result<Vec<Look>> { nodes.iter().map(|node| self.look(*node)).collect() };
        let (machine, before) = (usage::machine_cpu_seconds(), looks()?);
        std::thread::sleep(self.options.time);
        let (after, busy) = (looks()?, usage::machine_cpu_seconds() - machine);
        let speakers: Result<Vec<Speaker>> = nodes
            .iter()
            .zip(before.iter().zip(&after))
            .map(|(node, (before, after))| speaker(*node, before, after))
            .collect();
        self.wait_announced()?;
        Ok(Report {
            machine_busy_percent: 100.0 * busy / self.options.time.as_secs_f64() / setting.cores as f64,
            setting,
            speakers: speakers?,
        })
    }

    fn look(&self, node: Place) -> Result<Look> {
        let pod = pod_of(&self.cluster, "speaker", &node.name())?;
        let container = &pod["status"]["containerStatuses"][0];
        if container["restartCount"] != 0 {
            let why = format!("the speaker of {} was restarted: {container}", node.name());
            return Err(LabError::Refused(why));
        }
        let processes = usage::of_container(container["containerID"].as_str().unwrap_or_default())?;
        let [process] = processes[..] else {
            return Err(LabError::Refused(format!("not one process: {processes:?}")));
        };
        let url = "http://127.0.0.1:7671/metrics";
        let answer = self.lab.exec(node, ["curl", "-sSf", "-m", "10", url])?;
        Ok(Look {
            process,
            at: Instant::now(),
            cpu: usage::cpu_seconds(&processes)?,
            threads: usage::thread_seconds(process)?,
            metrics: Exposition::new(String::from_utf8_lossy(&answer.stdout)),
        })
    }
}

/// What happened to a speaker between two looks.
fn speaker(node: Place, before: &Look, after: &Look) -> Result<Speaker> {
    if before.process != after.process {
        let why = format!("the speaker of {} was restarted", node.name());
        return Err(LabError::Refused(why));
    }
    let seconds = (after.at - before.at).as_secs_f64();
    let percent = |cpu: f64| 100.0 * cpu / seconds;
    let threads = after.threads.iter().map(|(name, cpu)| {
        let before = before.threads.get(name).copied().unwrap_or_default();
        (name.clone(), percent(cpu - before))
    });
    Ok(Speaker {
        node: node.name(),
        announced: after
            .metrics
            .sum("fairlead_speaker_announced_addresses", &[])
            .unwrap_or_default(),
        cpu_percent: percent(after.cpu - before.cpu),
        threads_percent: threads.collect(),
        memory: usage::memory(after.process)?,
        rates: Rates::between(&before.metrics, &after.metrics, seconds),
    })
}

/// A Service as a user may write it, of the web servers.
fn service(index: usize, local: bool) -> Value {
    let policy = if local { "Local" } else { "Cluster" };
    let mut service = manifests::service(NAME, &format!("s{index}"), policy);
    service["spec"]["selector"] = json!({"app": WEB});
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_of_policies() {
        for (percent, services, local) in [
            (50, 1000, 500),
            (0, 1000, 0),
            (100, 7, 7),
            (10, 30, 3),
            (50, 3, 1),
        ] {
            let options = Options {
                services,
                local_percent: percent,
                ..Options::new("x")
            };
            assert_eq!(options.local(), local, "{percent} % of {services}");
        }
        assert_eq!(service(7, true)["spec"]["externalTrafficPolicy"], "Local");
        assert_eq!(service(7, true)["spec"]["selector"]["app"], WEB);
    }
}
