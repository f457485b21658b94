//! Bringing a lab up: from nothing, or from whatever an earlier attempt or a crash has left.
//!
//! Each step looks at what is there and does what is missing, so the same code starts, repairs and does nothing.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    certs,
    cluster::{self, Awaited},
    components::Components,
    control_plane::{self, COREDNS_READY_PORT},
    error::{Doing, LabError, Result},
    forward,
    images::agnhost_image,
    lab::Lab,
    machine::{self, Machine, ServiceSpec},
    net::{Cables, wait_http_ok},
    node::{self, KUBE_PROXY_HEALTH_PORT},
    parallel,
    preflight::preflight,
    progress::Progress,
    state::{KubeProxy, Paths, Shape},
    topology::{MAX_NODES, Place},
};

/// Nodes of a lab when nobody says otherwise.
const DEFAULT_NODES: u8 = 3;
/// How long the cluster may take to come up before we give up.
const LIMIT: Duration = Duration::from_secs(180);

/// What to bring up. What is left open is as the lab was made, or the default of a new one.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// The lab's name.
    pub name: String,
    /// Number of nodes, 1 to [`MAX_NODES`]; 3 by default.
    pub nodes: Option<u8>,
    /// Who programs Services; kube-proxy in nftables mode by default.
    pub kube_proxy: Option<KubeProxy>,
    /// The `lab` program that the machines run. By default this process's own program if that is `lab`, else the
    /// `lab` that lies beside it or one directory above (as test programs lie in `target/debug/deps`).
    pub program: Option<PathBuf>,
}

impl UpOptions {
    /// The defaults, for a lab of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

pub(crate) fn up(options: &UpOptions, progress: &Progress) -> Result<Lab> {
    preflight(progress)?;
    check_in_sight(&Components::cache_to_use()?)?;
    let components = Components::ensure(progress)?;
    let paths = Paths::new(&options.name)?;
    let _lock = paths.lock()?;
    let shape = settle_shape(&paths, options)?;
    install_program(&paths, options.program.as_deref())?;
    raise_inotify_limit(progress)?;
    let lab = Lab { paths, shape };
    let run = Run {
        lab: &lab,
        components: &components,
        progress,
    };
    run.all()?;
    Ok(lab)
}

/// Brings up machines, cables, etcd and the API server with its Node objects, and nothing else: no kubelet, no
/// controllers, no DNS. For benchmarks, which start by themselves what is to be measured.
pub(crate) fn up_bare(options: &UpOptions, progress: &Progress) -> Result<Lab> {
    preflight(progress)?;
    check_in_sight(&Components::cache_to_use()?)?;
    let components = Components::ensure(progress)?;
    let paths = Paths::new(&options.name)?;
    let _lock = paths.lock()?;
    let shape = settle_shape(&paths, options)?;
    install_program(&paths, options.program.as_deref())?;
    certs::ensure(&paths, shape.nodes, shape.api_port)?;
    let lab = Lab { paths, shape };
    let run = Run {
        lab: &lab,
        components: &components,
        progress,
    };
    let machines = run.machines(&lab.places())?;
    Cables::lay(&lab.paths, &machines)?;
    run.api_server(run.need(&machines, Place::ControlPlane)?)?;
    Ok(lab)
}

/// A node with nothing on it, its network as after power-on: what ran on it before, and its rules, are gone.
pub(crate) fn bare_node(lab: &Lab, place: Place) -> Result<Machine> {
    machine::end(&lab.paths, place)?;
    let machine = Machine::start(&lab.paths, place)?;
    Cables::lay(&lab.paths, &lab.machines())?;
    Ok(machine)
}

/// Starts one machine and all its services, as far as they do not run, and waits until it works.
pub(crate) fn start_place(lab: &Lab, place: Place, progress: &Progress) -> Result<()> {
    if !lab.places().contains(&place) {
        return Err(LabError::Refused(format!("{} is not in this lab", place.name())));
    }
    let components = Components::ensure(progress)?;
    let run = Run {
        lab,
        components: &components,
        progress,
    };
    let machines = run.machines(&[place])?;
    Cables::lay(&lab.paths, &machines)?;
    let machine = run.need(&machines, place)?;
    match place {
        Place::Node(n) => {
            let since = Timestamp::now();
            run.containers(n, machine, &agnhost_image(&components)?)?;
            let started = run.start_services(machine, run.node_services(n))?;
            progress.step(&format!("waiting for {} to be Ready", place.name()), || {
                wait_nodes(lab, &[(machine, started.then_some(since))])
            })
        }
        Place::ControlPlane => run.control_plane(machine),
        _ => Ok(()),
    }
}

/// Machines run the built programs where they are, and have directories of their own in some places.
fn check_in_sight(cache: &Path) -> Result<()> {
    match ["/run", "/var/run", "/var/lib", "/var/log"]
        .iter()
        .find(|hidden| cache.starts_with(hidden))
    {
        Some(hidden) => Err(LabError::Refused(format!(
            "the built programs lie in {}, and machines do not see {hidden}; set FAIRLEAD_LAB_CACHE to another directory",
            cache.display()
        ))),
        None => Ok(()),
    }
}

fn settle_shape(paths: &Paths, options: &UpOptions) -> Result<Shape> {
    if let Some(shape) = paths.read_shape()? {
        let wants = |what: &str, has: &str| {
            let name = paths.name();
            LabError::Refused(format!(
                "lab {name} was made with {what} {has}; take it down first: lab down --name {name}"
            ))
        };
        return match (options.nodes, options.kube_proxy) {
            (Some(n), _) if n != shape.nodes => Err(wants("--nodes", &shape.nodes.to_string())),
            (_, Some(mode)) if mode != shape.kube_proxy => {
                Err(wants("--kube-proxy", shape.kube_proxy.name()))
            }
            _ => Ok(shape),
        };
    }
    let nodes = options.nodes.unwrap_or(DEFAULT_NODES);
    if !(1..=MAX_NODES).contains(&nodes) {
        return Err(LabError::Refused(format!(
            "a lab has 1 to {MAX_NODES} nodes, not {nodes}"
        )));
    }
    let shape = Shape {
        nodes,
        kube_proxy: options.kube_proxy.unwrap_or_default(),
        api_port: forward::free_port()?,
    };
    paths.write_shape(&shape)?;
    Ok(shape)
}

/// Gives the lab its own copy of the `lab` program. A lab keeps the one it was made with.
fn install_program(paths: &Paths, given: Option<&Path>) -> Result<()> {
    let target = paths.program();
    if target.exists() {
        return Ok(());
    }
    let source = match given {
        Some(path) => path.to_owned(),
        None => find_program()?,
    };
    let what = || format!("copy {} to {}", source.display(), target.display());
    let unfinished = target.with_extension("new");
    fs::copy(&source, &unfinished).doing(what())?;
    fs::rename(&unfinished, &target).doing(what())
}

fn find_program() -> Result<PathBuf> {
    let own = env::current_exe().doing("find this program")?;
    if own.file_name().is_some_and(|name| name == "lab") {
        // The link in /proc works also when the file was replaced by a newer build since.
        return Ok("/proc/self/exe".into());
    }
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("lab"))
        .find(|path| path.is_file())
        .ok_or_else(|| LabError::Refused(format!("no lab program near {}; build it first", own.display())))
}

/// Each kubelet and containerd needs some; hosts commonly allow 128 in all.
fn raise_inotify_limit(progress: &Progress) -> Result<()> {
    const WANTED: u32 = 8192;
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let now = fs::read_to_string(path).doing(format!("read {path}"))?;
    if now.trim().parse::<u32>().is_ok_and(|n| n < WANTED) {
        progress.note(&format!(
            "raising fs.inotify.max_user_instances from {} to {WANTED}",
            now.trim()
        ));
        fs::write(path, WANTED.to_string()).doing(format!("write {path}"))?;
    }
    Ok(())
}

struct Run<'a> {
    lab: &'a Lab,
    components: &'a Components,
    progress: &'a Progress,
}

impl Run<'_> {
    fn all(&self) -> Result<()> {
        let Lab { paths, shape } = self.lab;
        let image = agnhost_image(self.components)?;
        certs::ensure(paths, shape.nodes, shape.api_port)?;
        let machines = self.machines(&self.lab.places())?;
        Cables::lay(paths, &machines)?;
        Cables::plug_all(&machines)?;
        let since = Timestamp::now();
        let nodes: Vec<(u8, &Machine)> = machines
            .iter()
            .filter_map(|(place, machine)| {
                if let Place::Node(n) = place {
                    Some((*n, machine))
                } else {
                    None
                }
            })
            .collect();
        let control_plane = self.need(&machines, Place::ControlPlane)?;
        std::thread::scope(|scope| {
            let images: Vec<_> = nodes
                .iter()
                .map(|(n, m)| scope.spawn(|| self.containers(*n, m, &image)))
                .collect();
            self.control_plane(control_plane)?;
            let mut awaited = vec![];
            for (n, machine) in &nodes {
                node::wait_containerd(machine)?;
                let started = self.start_services(machine, self.node_services(*n))?;
                awaited.push((*machine, started.then_some(since)));
            }
            self.ready(control_plane, &awaited)?;
            images.into_iter().try_for_each(parallel::join)
        })
    }

    fn need<'m>(&self, machines: &'m BTreeMap<Place, Machine>, place: Place) -> Result<&'m Machine> {
        machines
            .get(&place)
            .ok_or_else(|| LabError::Refused(format!("{} does not run", place.name())))
    }

    /// Starts those of `wanted` that do not run, and returns all that run.
    fn machines(&self, wanted: &[Place]) -> Result<BTreeMap<Place, Machine>> {
        let paths = &self.lab.paths;
        let mut machines = self.lab.machines();
        let missing: Vec<Place> = wanted
            .iter()
            .copied()
            .filter(|p| !machines.contains_key(p))
            .collect();
        if missing.is_empty() {
            return Ok(machines);
        }
        let started = self
            .progress
            .step(&format!("starting {} machines", missing.len()), || {
                parallel::each(&missing, |place| {
                    if let Place::Node(n) = place {
                        // What is left of one that crashed holds on to its cgroups.
                        machine::end(paths, *place)?;
                        node::prepare(paths, &self.lab.shape, *n)?;
                    }
                    Machine::start(paths, *place)
                })
            })?;
        machines.extend(started.into_iter().map(|machine| (machine.place(), machine)));
        Ok(machines)
    }

    /// Starts those of `specs` that do not run; tells whether there was any.
    fn start_services(&self, machine: &Machine, specs: Vec<ServiceSpec>) -> Result<bool> {
        let there = machine.services()?;
        let missing: Vec<_> = specs
            .into_iter()
            .filter(|s| !there.iter().any(|t| t.name == s.name && t.is_running()))
            .collect();
        let any = !missing.is_empty();
        missing
            .into_iter()
            .try_for_each(|spec| machine.start_service(spec))?;
        Ok(any)
    }

    fn node_services(&self, n: u8) -> Vec<ServiceSpec> {
        node::second(&self.lab.paths, self.components, &self.lab.shape, n)
    }

    fn containers(&self, n: u8, machine: &Machine, image: &Path) -> Result<()> {
        self.start_services(machine, vec![node::first(&self.lab.paths, n)])?;
        node::wait_containerd(machine)?;
        node::import_image_once(&self.lab.paths, machine, image)
    }

    fn control_plane(&self, machine: &Machine) -> Result<()> {
        self.api_server(machine)?;
        self.start_services(machine, control_plane::second(&self.lab.paths, self.components)?)
            .map(drop)
    }

    /// etcd and the API server, and the objects that the lab itself puts there.
    fn api_server(&self, machine: &Machine) -> Result<()> {
        let Lab { paths, shape } = self.lab;
        let fresh = self.start_services(machine, control_plane::first(paths, self.components))?;
        forward::ensure(paths, machine, shape.api_port)?;
        // One that was paused goes on; to any other the signal means nothing.
        self.lab.resume_api_server()?;
        let wait = || {
            cluster::block_on(async {
                let client = self.lab.kube().await?;
                let died = || {
                    let services = machine.services().unwrap_or_default();
                    services
                        .into_iter()
                        .find(|s| !s.is_running())
                        .map(|s| (s.name, s.ended.unwrap_or_default()))
                };
                let ready = cluster::until("the API server to be ready", LIMIT, || async {
                    match died() {
                        // Waiting on is no use: told at once, as what was seen, by a value and not by an error.
                        Some((name, how)) => Ok(Err(LabError::Refused(format!(
                            "{name} ended ({how}); see: lab logs control-plane/{name}"
                        )))),
                        None => cluster::api_ready(&client).await.map(Ok),
                    }
                });
                ready.await??;
                cluster::create_nodes(&client, shape.nodes).await?;
                cluster::apply_dns(&client).await
            })
        };
        if fresh {
            self.progress.step("starting etcd and the API server", wait)
        } else {
            wait()
        }
    }

    fn ready(&self, control_plane: &Machine, nodes: &[(&Machine, Option<Timestamp>)]) -> Result<()> {
        let wait = || {
            wait_nodes(self.lab, nodes)?;
            cluster::block_on(async { cluster::wait_default_account(&self.lab.kube().await?, LIMIT).await })?;
            wait_http_ok(control_plane, COREDNS_READY_PORT, "/ready", LIMIT)
        };
        match nodes.iter().filter(|(_, restarted)| restarted.is_some()).count() {
            0 => wait(),
            n => self
                .progress
                .step(&format!("waiting for {n} nodes to be Ready"), wait),
        }
    }
}

/// Waits until nodes are Ready and their kube-proxies healthy. With each node, when its kubelet was started, if it was.
fn wait_nodes(lab: &Lab, nodes: &[(&Machine, Option<Timestamp>)]) -> Result<()> {
    let awaited: Vec<Awaited> = nodes
        .iter()
        .map(|(machine, since)| {
            Ok(Awaited {
                name: machine.place().name(),
                boot_id: machine.boot_id()?,
                since: *since,
            })
        })
        .collect::<Result<_>>()?;
    cluster::block_on(async { cluster::wait_nodes(&lab.kube().await?, &awaited, LIMIT).await })?;
    if lab.shape.kube_proxy == KubeProxy::None {
        return Ok(());
    }
    nodes
        .iter()
        .try_for_each(|(machine, _)| wait_http_ok(machine, KUBE_PROXY_HEALTH_PORT, "/healthz", LIMIT))
}
