//! Many addresses of one node: how long until a router knows all of them, and one more; and what they cost.
//!
//! The Services have endpoints that are written with them, so that no controller of Kubernetes has to; the node agent is
//! the service proxy. All else is as in any installation.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Value, json};

use super::report::Setting;
use crate::bench::figures::Spread;
use crate::bench::load::Connections;
use crate::bench::usage::{self, Memory};
use crate::bgp::fib::FibWatch;
use crate::bgp::manifests::{advertisement, peer};
use crate::bgp::stage;
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::product::install::{self, pod_of};
use crate::product::{Cluster, manifests, wait_for};
use crate::progress::Progress;
use crate::routers::{FRR_ASN, Frr, Nodes};
use crate::state::KubeProxy;
use crate::topology::Place;
use crate::up::UpOptions;

/// The addresses that are given.
const ADDRESSES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16);
/// Name of everything that is made.
const NAME: &str = "scale";
/// Connections that create the Services.
const CONNECTIONS: usize = 8;
/// Where the API server is: nothing serves ClusterIPs in this lab, so programs are told.
const API_SERVER: [&str; 2] = ["--set=apiServer.host=172.30.0.2", "--set=apiServer.port=6443"];
/// How long an installation may take.
const READY: Duration = Duration::from_secs(180);
/// How long all addresses may take to be given, programmed and announced the first time.
const FIRST: Duration = Duration::from_secs(600);
/// And later.
const AGAIN: Duration = Duration::from_secs(120);
/// Address of the endpoint: one of the node's pod network that no pod has. Nobody connects.
const ENDPOINT: &str = "10.244.1.250";

/// UPDATE messages to the router: the type of a message stands behind its marker and length (RFC 4271 §4.1).
const UPDATES: &str = "tcp dst port 179 and tcp[((tcp[12] & 0xf0) >> 2) + 18] == 2";
/// Between two changes of one endpoint.
const BETWEEN: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab, which is brought up if need be and stays up.
    pub lab: String,
    /// Number of Services.
    pub services: usize,
    /// How often all of them are announced anew.
    pub trials: usize,
    /// How many changes of one are made.
    pub changes: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub setting: Setting,
    /// Number of Services.
    pub services: usize,
    /// From the last address asked for to the first time that the router knew all of them.
    pub first_seconds: f64,
    /// From the advertisement's creation to the last route in the router's own table, each trial. It is asked all the
    /// time, which takes it some milliseconds each time.
    pub announced_ms: Vec<u64>,
    /// To the last route in its kernel.
    pub in_kernel_ms: Vec<u64>,
    /// From the advertisement's removal to the last route gone, each trial.
    pub withdrawn_ms: Vec<u64>,
    /// From the API server's answer to the loss of one endpoint.
    pub one_withdrawn: Change,
    /// To its return.
    pub one_announced: Change,
    /// Memory of each program of the speaker's pod, with all addresses announced.
    pub memory: Vec<(String, Memory)>,
}

/// How long it took after a change of one endpoint.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Change {
    /// Until the router was sent an UPDATE.
    pub sent: Option<Spread>,
    /// Until its kernel had the change.
    pub in_kernel: Option<Spread>,
}

/// The times of one kind of change.
#[derive(Default)]
struct Times {
    sent: Vec<Duration>,
    in_kernel: Vec<Duration>,
}

impl Times {
    fn spread(self) -> Change {
        Change {
            sent: Spread::of(self.sent),
            in_kernel: Spread::of(self.in_kernel),
        }
    }
}

/// Runs the whole benchmark.
///
/// # Errors
/// When something cannot be measured.
pub fn run(options: &Options, progress: &Progress) -> Result<Report> {
    let lab = Lab::up(
        &UpOptions {
            nodes: Some(1),
            kube_proxy: Some(KubeProxy::None),
            ..UpOptions::new(&options.lab)
        },
        progress,
    )?;
    let bench = Bench {
        options,
        cluster: Cluster::connect(&lab)?,
        frr: Frr::start(&lab, &Nodes::default())?,
        lab,
    };
    progress.step("installing Fairlead", || bench.install())?;
    let services = options.services;
    progress.step(&format!("creating {services} Services"), || bench.create())?;
    let mut report = Report {
        setting: Setting::of_this_machine(1),
        services,
        first_seconds: 0.0,
        announced_ms: vec![],
        in_kernel_ms: vec![],
        withdrawn_ms: vec![],
        one_withdrawn: Change::default(),
        one_announced: Change::default(),
        memory: vec![],
    };
    let began = Instant::now();
    progress.step("waiting until the router knows all of them", || {
        bench.announce(FIRST)
    })?;
    report.first_seconds = began.elapsed().as_secs_f64();
    for n in 1..=options.trials {
        let (withdrawn, (announced, in_kernel)) = progress
            .step(&format!("announcing all anew, {n}"), || {
                Ok::<_, LabError>((bench.withdraw()?, bench.announce(AGAIN)?))
            })?;
        progress.note(&format!(
            "withdrawn after {} ms, announced after {} ms, in the kernel after {} ms",
            millis(withdrawn),
            millis(announced),
            millis(in_kernel)
        ));
        report.withdrawn_ms.push(millis(withdrawn));
        report.announced_ms.push(millis(announced));
        report.in_kernel_ms.push(millis(in_kernel));
    }
    progress.step("waiting until all is written that was to be told", || {
        bench.quiet()
    })?;
    let (gone, back) = progress.step("changing one", || bench.change())?;
    report.one_withdrawn = gone.spread();
    report.one_announced = back.spread();
    report.memory = bench.memory()?;
    Ok(report)
}

struct Bench<'a> {
    options: &'a Options,
    lab: Lab,
    cluster: Cluster,
    frr: Frr,
}

impl Bench<'_> {
    fn install(&self) -> Result<()> {
        let mut values = vec!["--set=kubeProxy=absent", "--set=speaker.bgp.enabled=true"];
        values.extend(API_SERVER);
        install::install_with(&self.lab, &values)?;
        install::wait_ready(&self.cluster, READY)?;
        let router = Place::Router
            .uplink()
            .map(|i| i.v4.to_string())
            .unwrap_or_default();
        for object in [
            manifests::namespace(NAME),
            manifests::pool(NAME, &[&ADDRESSES.to_string()]),
            peer(NAME, &router, FRR_ASN, json!({})),
        ] {
            self.cluster.apply(&object)?;
        }
        wait_for("the session to be established", READY, || {
            let sessions = stage::sessions(&self.cluster, NAME).map_err(|e| e.to_string())?;
            if sessions.values().any(|session| session["state"] == "Established") {
                Ok(())
            } else {
                Err(format!("{sessions:?}"))
            }
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
            // Applied, so that another run on the same lab finds them.
            let parameters = PatchParams::apply(NAME).force();
            let apply = |client: Client, index: usize| {
                let parameters = &parameters;
                async move {
                    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAME);
                    let services: Api<Service> = Api::namespaced(client, NAME);
                    let name = name(index);
                    slices
                        .patch(&name, parameters, &Patch::Apply(&slice(&name)))
                        .await?;
                    let answer = services
                        .patch(&name, parameters, &Patch::Apply(&service(&name)))
                        .await;
                    Ok(answer.map(drop)?)
                }
            };
            connections.each(self.options.services, apply).await.map(drop)
        })
    }

    /// Routes of the pool that the router's kernel has now.
    fn known(&self) -> Result<usize> {
        let output = self.lab.exec(
            Place::Router,
            ["ip", "-4", "-o", "route", "show", "root", &ADDRESSES.to_string()],
        )?;
        Ok(output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count())
    }

    /// Routes that the router has taken from the node, as it says.
    fn taken(&self) -> Result<usize> {
        let summary = self.frr.show("bgp ipv4 unicast summary")?;
        let peers = summary["peers"].as_object().into_iter().flatten();
        let counts = peers.filter_map(|(_, peer)| peer["pfxRcd"].as_u64());
        Ok(counts.sum::<u64>().try_into().unwrap_or(usize::MAX))
    }

    /// Makes the advertisement; answers with how long it took until the router had all, and its kernel.
    fn announce(&self, limit: Duration) -> Result<(Duration, Duration)> {
        let began = Instant::now();
        self.cluster.apply(&advertisement(NAME, NAME, json!({})))?;
        let all = self.options.services;
        let taken = wait_for("the router to have taken all routes", limit, || {
            match self.taken().map_err(|e| e.to_string())? {
                some if some < all => Err(format!("{some} of {all}")),
                _ => Ok(began.elapsed()),
            }
        })?;
        wait_for("the router's kernel to have all routes", AGAIN, || {
            match self.known().map_err(|e| e.to_string())? {
                some if some < all => Err(format!("{some} of {all}")),
                _ => Ok((taken, began.elapsed())),
            }
        })
    }

    /// Removes it; answers with how long it took until the router had none.
    fn withdraw(&self) -> Result<Duration> {
        let began = Instant::now();
        let path = format!("/apis/fairlead.dev/v1alpha1/bgpadvertisements/{NAME}");
        self.cluster.delete(&path)?;
        wait_for("the router to have no route", AGAIN, || {
            match self.known().map_err(|e| e.to_string())? {
                0 => Ok(began.elapsed()),
                left => Err(format!("{left} left")),
            }
        })
    }

    /// Waits until hardly anything is written any more: after so many announcements the controller tells of them for a while,
    /// which keeps the API server busy.
    fn quiet(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAME}/services?limit=1");
        let revision = || -> std::result::Result<u64, String> {
            let list = self.cluster.get(&path).map_err(|e| e.to_string())?;
            let text = list.unwrap_or_default()["metadata"]["resourceVersion"].clone();
            let text = text.as_str().unwrap_or_default().to_owned();
            text.parse().map_err(|_| format!("no revision: {text}"))
        };
        wait_for("the API server to have rest", FIRST, || {
            let before = revision()?;
            std::thread::sleep(Duration::from_secs(3));
            match revision()? - before {
                few if few <= 30 => Ok(()),
                many => Err(format!("{many} writes in 3 s")),
            }
        })
    }

    /// Takes the endpoint of one Service away and gives it back, many times; how long each took.
    fn change(&self) -> Result<(Times, Times)> {
        let (mut gone, mut back) = (Times::default(), Times::default());
        for index in 0..self.options.changes {
            let name = name(index % self.options.services);
            let service = self
                .cluster
                .get(&format!("/api/v1/namespaces/{NAME}/services/{name}"))?
                .unwrap_or_default();
            let text = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
            let address: IpAddr = text
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| LabError::Refused(format!("{name} has no address")))?;
            let to = IpNet::from(address);
            let watch = FibWatch::start(&self.lab, Place::Router)?;
            let updates = self.lab.capture(Place::Router, UPDATES)?;
            for (ready, times) in [(false, &mut gone), (true, &mut back)] {
                let asked = epoch(jiff::Timestamp::now());
                self.set_ready(&name, ready)?;
                let (answered, clock) = (Instant::now(), epoch(jiff::Timestamp::now()));
                let in_kernel = watch.wait(to, answered, AGAIN, |hops| hops.is_empty() != ready)?;
                times.in_kernel.push(in_kernel);
                let sent = wait_for("the UPDATE to be captured", Duration::from_secs(5), || {
                    let lines = updates.lines().map_err(|e| e.to_string())?;
                    let seen = lines.iter().filter_map(|line| captured(line));
                    let first = seen.filter(|seen| *seen >= asked).min();
                    first.ok_or_else(|| format!("{lines:?}"))
                })?;
                times.sent.push(sent.saturating_sub(clock));
                std::thread::sleep(BETWEEN);
            }
        }
        Ok((gone, back))
    }

    fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAME}/endpointslices/{name}");
        let patch = json!({"endpoints": slice_of(name, ready)["endpoints"]});
        self.cluster.patch(&path, &patch).map(drop)
    }

    /// Memory of each program in the speaker's pod.
    fn memory(&self) -> Result<Vec<(String, Memory)>> {
        let mut found = vec![];
        for node in self.lab.nodes() {
            let pod = pod_of(&self.cluster, "speaker", &node.name())?;
            for container in pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let id = container["containerID"].as_str().unwrap_or_default();
                for process in usage::of_container(id)? {
                    let path = format!("/proc/{}/comm", process.pid);
                    let name = std::fs::read_to_string(&path).doing(path)?;
                    found.push((name.trim().to_owned(), usage::memory(process)?));
                }
            }
        }
        Ok(found)
    }
}

fn epoch(time: jiff::Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(time.as_nanosecond()).unwrap_or_default())
}

/// When a packet was captured, since the epoch.
fn captured(line: &str) -> Option<Duration> {
    let seconds = line.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn name(index: usize) -> String {
    format!("s{index}")
}

/// Without node ports, of which there are fewer than Services, and without a selector.
fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAME},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

fn slice(name: &str) -> Value {
    slice_of(name, true)
}

fn slice_of(name: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAME, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [ENDPOINT], "nodeName": "node1",
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
        }],
    })
}

impl Display for Report {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |values: &[u64]| values.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let spread = |spread: &Option<Spread>| {
            spread.map_or("-".to_owned(), |s| {
                format!("{} / {} / {}", s.p50_ms, s.p99_ms, s.max_ms)
            })
        };
        writeln!(f, "{}\n", self.setting)?;
        writeln!(f, "| {} addresses of one node, one FRR | |", self.services)?;
        writeln!(f, "|---|---|")?;
        writeln!(
            f,
            "| first announcement, all given, programmed and announced | {:.1} s |",
            self.first_seconds
        )?;
        writeln!(
            f,
            "| advertisement made to last route in the router's table, each trial | {} ms |",
            all(&self.announced_ms)
        )?;
        writeln!(
            f,
            "| to last route in its kernel, each trial | {} ms |",
            all(&self.in_kernel_ms)
        )?;
        writeln!(
            f,
            "| advertisement removed to last route gone, each trial | {} ms |",
            all(&self.withdrawn_ms)
        )?;
        for (what, change) in [("gone", &self.one_withdrawn), ("back", &self.one_announced)] {
            let (sent, in_kernel) = (spread(&change.sent), spread(&change.in_kernel));
            writeln!(
                f,
                "| endpoint {what} to UPDATE at the router, p50 / p99 / max | {sent} ms |"
            )?;
            writeln!(f, "| … to the route {what} in its kernel | {in_kernel} ms |")?;
        }
        for (name, memory) in &self.memory {
            writeln!(
                f,
                "| memory of {name}, resident (peak) | {:.0} MiB ({:.0} MiB) |",
                memory.rss_mib, memory.peak_mib
            )?;
        }
        Ok(())
    }
}
