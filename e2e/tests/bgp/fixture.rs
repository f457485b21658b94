//! What every test starts from: the lab, Fairlead installed with BGP, a router, three nodes that announce a Service to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Once};
use std::time::Duration;

use fairlead_e2e::bgp::fib::FibWatch;
use fairlead_e2e::bgp::load::{Load, Seen};
use fairlead_e2e::bgp::{Peering, Stage, manifests as bgp, stage};
use fairlead_e2e::product::wire::{self, Answer};
use fairlead_e2e::product::{Cluster, install, manifests, wait_for};
use fairlead_e2e::routers::{BIRD_ASN, Bird, Neighbor, Nodes, Path, Router};
use fairlead_e2e::topology::Place;
use fairlead_e2e::{Lab, LabError};
use ipnet::IpNet;
use serde_json::{Value, json};

/// Long enough for anything that should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// For sessions, which are tried again only every few seconds.
pub const SESSION: Duration = Duration::from_secs(40);
/// How long a daemon goes on without a word of the speaker, in this installation.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Name of the namespace with the web servers, which all tests share, and of what each test begins with: a pool, an
/// advertisement, a peer. Whatever else a test makes has a name that begins so.
pub const NAME: &str = "e2e-bgp";
/// Addresses of the pool that each test begins with.
pub const POOL: &str = "198.51.100.0/28";
/// Secrets that speakers may read here.
pub const SECRETS: [&str; 2] = ["e2e-bgp-password", "e2e-bgp-other"];

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    std::env::var("FAIRLEAD_LAB")
        .map_err(|_| LabError::Refused("FAIRLEAD_LAB names no lab: use `make e2e`, or `lab up` first".into()))
        .and_then(|lab| Lab::open(&lab))
        .unwrap()
});
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::connect(&LAB).unwrap());

pub struct Fixture {
    pub lab: &'static Lab,
    pub cluster: &'static Cluster,
    pub stage: Stage<'static>,
    /// Whether a test has uninstalled what all others need.
    pub uninstalled: AtomicBool,
}

/// The values of this installation, for Helm.
pub fn values() -> Vec<String> {
    vec![
        "--set=speaker.bgp.enabled=true".to_owned(),
        format!(
            "--set=speaker.bgp.heartbeatTimeoutSeconds={}",
            HEARTBEAT.as_secs()
        ),
        format!("--set=speaker.bgp.passwordSecrets={{{}}}", SECRETS.join(",")),
    ]
}

/// Installs Fairlead, once in a program.
fn installed() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let values = values();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        install::install_with(&LAB, &values).unwrap();
        install::wait_ready(&CLUSTER, Duration::from_secs(180)).unwrap();
        // What an earlier run that was ended early has left.
        clean();
        CLUSTER.apply(&manifests::namespace(NAME)).unwrap();
    });
}

impl Fixture {
    /// Everything is set up: the Service `web` with policy Local and an endpoint on every node has an IPv4 address, and all
    /// nodes announce it to FRR over sessions with BFD.
    pub fn new() -> Self {
        let f = Self::without_peers();
        f.stage
            .settle(Peering::Bfd)
            .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        f
    }

    /// The same without a `BGPPeer`.
    pub fn without_peers() -> Self {
        installed();
        let stage = Stage::set_up(&LAB, &CLUSTER, NAME, POOL).unwrap();
        Self {
            lab: &LAB,
            cluster: &CLUSTER,
            stage,
            uninstalled: AtomicBool::new(false),
        }
    }

    /// The route to the Service that every test begins with.
    pub fn web(&self) -> IpNet {
        self.stage.route()
    }

    pub fn apply(&self, manifest: &Value) {
        if let Err(error) = self.cluster.apply(manifest) {
            panic!("{error}: {manifest}");
        }
    }

    /// The name of an object of the test.
    pub fn name(&self, suffix: &str) -> String {
        format!("{NAME}-{suffix}")
    }

    /// A `BGPPeer` of the test at an address. Answers with its name.
    pub fn peer(&self, suffix: &str, address: IpAddr, asn: u32, spec: Value) -> String {
        let name = self.name(suffix);
        self.apply(&bgp::peer(&name, &address.to_string(), asn, spec));
        name
    }

    /// BIRD on the second router, and a peer for it, which the advertisement of the Service is for as well.
    pub fn bird(&self) -> Bird {
        let nodes = Nodes {
            bfd: true,
            ..Nodes::default()
        };
        let bird = Bird::start(self.lab, &nodes).unwrap();
        let name = self.peer("bird", v4(Place::Router2), BIRD_ASN, json!({"bfd": bgp::bfd()}));
        self.apply(&bgp::advertisement(NAME, NAME, json!({"peers": [NAME, name]})));
        self.stage.wait_steady(&name).unwrap();
        bird
    }

    /// A pool of its own, which gives addresses only to who asks for it.
    pub fn pool(&self, suffix: &str, addresses: &[&str]) -> String {
        let name = self.name(suffix);
        let mut pool = manifests::pool(&name, addresses);
        pool["spec"]["autoAssign"] = json!(false);
        self.apply(&pool);
        name
    }

    /// A Service for the web servers with an address of a pool of the test; `spec` is added to it.
    pub fn service(&self, name: &str, pool: &str, policy: &str, spec: Value) -> IpAddr {
        let mut service = manifests::service(NAME, name, policy);
        service["metadata"]["annotations"] = json!({"fairlead.dev/address-pool": pool});
        service["spec"]["selector"] = json!({"app": "web"});
        bgp::merge(&mut service["spec"], spec);
        self.apply(&service);
        self.stage.scene.wait_address(name).unwrap()
    }

    /// The path of a Service of the test.
    pub fn service_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{NAME}/services/{name}")
    }

    /// Waits until so many nodes say that their session with a peer is established.
    pub fn wait_sessions(&self, peer: &str, nodes: usize) -> BTreeMap<String, Value> {
        wait_for(
            &format!("{nodes} sessions with {peer} to be established"),
            SESSION,
            || {
                let sessions = self.sessions(peer)?;
                let up = sessions.values().filter(|s| s["state"] == "Established").count();
                if up == nodes {
                    Ok(sessions)
                } else {
                    Err(format!("{sessions:?}"))
                }
            },
        )
        .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// The sessions with a peer as the nodes tell them.
    pub fn sessions(&self, peer: &str) -> Result<BTreeMap<String, Value>, String> {
        stage::sessions(self.cluster, peer).map_err(|e| e.to_string())
    }

    /// Waits until a router sends packets for a network to exactly these nodes.
    pub fn leads_to(&self, router: &impl Router, to: IpNet, nodes: &[&str]) {
        let places: Vec<Place> = nodes.iter().map(|name| node(name)).collect();
        router
            .wait_leads_to(to, &places, SESSION)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()));
    }

    /// Waits until a router's path by way of a node is right.
    pub fn wait_path(
        &self,
        router: &impl Router,
        to: IpNet,
        by: &str,
        right: impl Fn(&Path) -> bool,
    ) -> Path {
        let own = |paths: &[Path]| paths.iter().find(|p| p.leads_to() == Some(node(by))).cloned();
        router
            .wait_paths(to, SESSION, |paths| own(paths).is_some_and(|path| right(&path)))
            .map(|paths| own(&paths).unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// Waits until what a router says of its session with a node is right.
    pub fn wait_neighbor(
        &self,
        router: &impl Router,
        address: IpAddr,
        right: impl Fn(&Neighbor) -> bool,
    ) -> Neighbor {
        router
            .wait_neighbor(address, SESSION, |neighbor| neighbor.as_ref().is_some_and(&right))
            .map(Option::unwrap_or_default)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// Clients at a place that open connections to an address for a while; none may fail. Answers with what they saw.
    pub fn load(&self, from: Place, to: IpAddr) -> Seen {
        let seen = self.load_during(from, to, || std::thread::sleep(Duration::from_millis(1500)));
        assert_eq!(seen.failed, 0, "{} to {to}: {seen}", from.name());
        seen
    }

    /// Clients that are at it while something is done.
    pub fn load_during(&self, from: Place, to: IpAddr, job: impl FnOnce()) -> Seen {
        let router = match from {
            Place::Client2 => Place::Router2,
            _ => Place::Router,
        };
        let watch = FibWatch::start(self.lab, router).unwrap();
        let load = Load::start(self.lab, from, SocketAddr::new(to, 80), 4).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        job();
        std::thread::sleep(Duration::from_millis(500));
        load.stop_and_tell(&watch.times(IpNet::from(to))).unwrap().0
    }

    /// curls an address, trying again until it answers.
    pub fn curl(&self, from: Place, to: IpAddr) -> Answer {
        let target = SocketAddr::new(to, 80).to_string();
        wait_for(&format!("{target} to answer {}", from.name()), SOON, || {
            wire::curl(self.lab, from, &target, Duration::from_secs(2)).map_err(|e| e.to_string())?
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// Runs a command in a place; it must succeed.
    pub fn run(&self, place: Place, argv: &[&str]) -> String {
        let output = self.lab.exec(place, argv).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{argv:?} in {}: {said}", place.name());
        text(&output.stdout)
    }

    /// The pids of the programs on a node that have this name.
    pub fn pids(&self, place: Place, program: &str) -> Vec<String> {
        let output = self.lab.exec(place, ["pgrep", "-x", program]).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until an event about a peer has a word and a text; answers with it.
    pub fn wait_event(&self, peer: &str, reason: &str, piece: &str) -> String {
        let right = |event: &&String| event.starts_with(&format!("{reason}: ")) && event.contains(piece);
        wait_for(&format!("an event {reason} about {peer}"), SOON, || {
            let events = self
                .cluster
                .events("default", "BGPPeer", peer)
                .map_err(|e| e.to_string())?;
            events
                .iter()
                .rev()
                .find(right)
                .cloned()
                .ok_or_else(|| format!("{events:?}"))
        })
        .unwrap()
    }

    /// What a speaker of a node says under /metrics.
    pub fn metrics(&self, place: Place) -> String {
        self.run(
            place,
            &["curl", "-sSf", "-m", "10", "http://127.0.0.1:7671/metrics"],
        )
    }

    /// What Fairlead and the router say, for the message of a failed test.
    pub fn explain(&self) -> String {
        let show = |path: &str| match self.cluster.list(path) {
            Ok(items) => items
                .iter()
                .map(|item| {
                    let name = &item["metadata"]["name"];
                    let mut status = item["status"].clone();
                    // Long, and never what a test of BGP is about.
                    if let Some(status) = status.as_object_mut() {
                        status.remove("networks");
                    }
                    format!("  {name}: {status}\n")
                })
                .collect::<String>(),
            Err(error) => format!("  {error}\n"),
        };
        let own = "/apis/fairlead.dev/v1alpha1";
        let said = |line: &str| self.stage.frr.command(line).unwrap_or_else(|e| e.to_string());
        format!(
            "services:\n{}peers:\n{}advertisements:\n{}node states:\n{}FRR:\n{}{}",
            show(&format!("/api/v1/namespaces/{NAME}/services")),
            show(&format!("{own}/bgppeers")),
            show(&format!("{own}/bgpadvertisements")),
            show(&format!("{own}/nodestates")),
            said("show bgp summary"),
            said("show bgp ipv4 unicast"),
        )
    }
}

impl Drop for Fixture {
    /// Leaves nothing but the web servers, also after a failed test.
    fn drop(&mut self) {
        if !self.uninstalled.load(Ordering::Relaxed)
            && let Err(error) = self.stage.scene.restore()
        {
            eprintln!("cleaning up: {error}");
        }
        clean();
    }
}

/// Removes what tests have made, but for the namespace and the web servers.
fn clean() {
    let own = "/apis/fairlead.dev/v1alpha1";
    let found = |path: &str, prefix: &str| {
        let items = CLUSTER.list(path).unwrap_or_default();
        let names = items.into_iter().filter_map(|item| {
            let name = item["metadata"]["name"].as_str()?;
            name.starts_with(prefix).then(|| format!("{path}/{name}"))
        });
        names.collect::<Vec<_>>()
    };
    let mut paths = found(&format!("/api/v1/namespaces/{NAME}/services"), "");
    for kind in [
        "bgpadvertisements",
        "l2advertisements",
        "bgppeers",
        "addresspools",
    ] {
        paths.extend(found(&format!("{own}/{kind}"), NAME));
    }
    paths.extend(found(
        &format!("/api/v1/namespaces/{}/secrets", install::NAMESPACE),
        NAME,
    ));
    // All at once, then one by one until they are gone.
    for path in &paths {
        let _ = CLUSTER.delete(path);
    }
    for path in paths {
        if let Err(error) = CLUSTER.delete_and_wait(&path, SOON) {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// A node by its name.
pub fn node(name: &str) -> Place {
    name.parse().unwrap()
}

pub fn v4(place: Place) -> IpAddr {
    IpAddr::V4(place.uplink().unwrap().v4)
}

pub fn v6(place: Place) -> IpAddr {
    IpAddr::V6(place.uplink().unwrap().v6)
}

/// All three.
pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
