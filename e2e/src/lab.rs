//! A running lab, and what one can do to it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::sys::signal::Signal;

use crate::{
    cluster,
    components::Components,
    control_plane::API_SERVER,
    error::{Doing, LabError, Result},
    machine::{self, Machine, ServiceState},
    net::{self, cable_of},
    node, parallel,
    progress::Progress,
    state::{KubeProxy, Paths, Shape, no_such_lab},
    topology::Place,
    up,
};

/// A lab that was brought up.
#[derive(Debug, Clone)]
pub struct Lab {
    pub(crate) paths: Paths,
    pub(crate) shape: Shape,
}

impl Lab {
    /// Brings a lab up, or what is missing of it. See [`crate::UpOptions`].
    ///
    /// # Errors
    /// A host that cannot run a lab, a component that cannot be built or does not come up; the text says which.
    pub fn up(options: &up::UpOptions, progress: &Progress) -> Result<Self> {
        up::up(options, progress)
    }

    /// Opens a lab that was brought up before.
    ///
    /// # Errors
    /// [`LabError::Refused`] when there is no such lab.
    pub fn open(name: &str) -> Result<Self> {
        let paths = Paths::new(name)?;
        let shape = paths.read_shape()?.ok_or_else(|| no_such_lab(name))?;
        Ok(Self { paths, shape })
    }

    /// Ends the lab and leaves nothing of it behind.
    ///
    /// # Errors
    /// As [`crate::down`].
    pub fn down(self, progress: &Progress) -> Result<()> {
        crate::down(self.name(), progress)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.paths.name()
    }

    /// Where its files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What it was made as.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its nodes, `node1` first.
    pub fn nodes(&self) -> Vec<Place> {
        (1..=self.shape.nodes).map(Place::Node).collect()
    }

    /// All its places.
    pub fn places(&self) -> Vec<Place> {
        Place::all(self.shape.nodes)
    }

    /// The running machine of a place.
    ///
    /// # Errors
    /// [`LabError::Refused`] when it is powered off, or not part of this lab.
    pub fn machine(&self, place: Place) -> Result<Machine> {
        if !self.places().contains(&place) {
            let why = format!(
                "{} is not in lab {} of {} nodes",
                place.name(),
                self.name(),
                self.shape.nodes
            );
            return Err(LabError::Refused(why));
        }
        Machine::find(&self.paths, place).ok_or_else(|| {
            let repair = format!("lab power-on {} --name {}", place.name(), self.name());
            LabError::Refused(format!("{} does not run; start it with: {repair}", place.name()))
        })
    }

    /// The machines that run.
    pub fn machines(&self) -> BTreeMap<Place, Machine> {
        self.places()
            .into_iter()
            .filter_map(|p| Some((p, Machine::find(&self.paths, p)?)))
            .collect()
    }

    /// Kubeconfig of the administrator; it reaches the API server through the host's loopback.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// A client of the lab's API server, with all rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn kube(&self) -> Result<kube::Client> {
        cluster::client(&self.kubeconfig()).await
    }

    /// `kubectl` on the host, for this cluster.
    ///
    /// # Errors
    /// When it is not built and cannot be.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Command> {
        self.client_program("kubectl", arguments)
    }

    /// `helm` on the host, for this cluster.
    ///
    /// # Errors
    /// When it is not built and cannot be.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Command> {
        self.client_program("helm", arguments)
    }

    fn client_program<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        let mut command = Command::new(Components::ensure(&Progress::stderr())?.bin(name));
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments);
        Ok(command)
    }

    /// A command that runs `argv` inside a place, in all of its namespaces.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        place: Place,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<Command> {
        Ok(self.machine(place)?.command(argv))
    }

    /// Runs `argv` inside a place to its end.
    ///
    /// # Errors
    /// When the place does not run or the program cannot be started; not when the program fails.
    pub fn exec<S: AsRef<OsStr>>(&self, place: Place, argv: impl IntoIterator<Item = S>) -> Result<Output> {
        let argv: Vec<OsString> = argv.into_iter().map(|s| s.as_ref().to_owned()).collect();
        let what = format!(
            "exec in {}: {}",
            place.name(),
            argv.join(OsStr::new(" ")).to_string_lossy()
        );
        self.command(place, argv)?
            .stdin(std::process::Stdio::null())
            .output()
            .doing(what)
    }

    /// Imports a docker archive on all running nodes at once.
    ///
    /// # Errors
    /// When the file cannot be read, or containerd refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let machines = self.machines();
        let nodes: Vec<_> = machines
            .values()
            .filter(|m| matches!(m.place(), Place::Node(_)))
            .collect();
        parallel::each(&nodes, |machine| node::import_image(machine, archive)).map(drop)
    }

    /// Pulls the cable of a place, at the switch (an outside client's at its router).
    ///
    /// # Errors
    /// When it has none, or is powered off.
    pub fn cut(&self, place: Place) -> Result<()> {
        self.set_cable(place, "down")
    }

    /// Plugs the cable of a place in again.
    ///
    /// # Errors
    /// As [`Lab::cut`].
    pub fn plug(&self, place: Place) -> Result<()> {
        self.set_cable(place, "up")
    }

    fn set_cable(&self, place: Place, state: &str) -> Result<()> {
        self.machine(place)?;
        let cable =
            cable_of(place).ok_or_else(|| LabError::Refused(format!("{} has no cable", place.name())))?;
        net::ip_batch(
            &self.machine(cable.hub)?,
            &format!("link set {} {state}\n", cable.port),
        )
    }

    /// Takes the power from a place: every process of it ends at once, and its cable with it.
    ///
    /// # Errors
    /// When a process cannot be ended. A place that is off already is no error.
    pub fn power_off(&self, place: Place) -> Result<()> {
        let _lock = self.paths.lock()?;
        if !self.places().contains(&place) {
            return Err(LabError::Refused(format!("{} is not in this lab", place.name())));
        }
        machine::end(&self.paths, place)?;
        // The kernel takes a dead machine's interfaces apart a moment later; the port must be gone when we return.
        if let Some(cable) = cable_of(place)
            && let Some(hub) = Machine::find(&self.paths, cable.hub)
        {
            net::remove_cable(&hub, &cable);
        }
        Ok(())
    }

    /// Powers a place on and waits until it works again; a node, until it is Ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn power_on(&self, place: Place, progress: &Progress) -> Result<()> {
        let _lock = self.paths.lock()?;
        up::start_place(self, place, progress)
    }

    /// Lets another kube-proxy, or none, program Services on all nodes from now on, until the next switch or the next
    /// power-on: the shape of the lab stays as it is.
    ///
    /// # Errors
    /// When a node does not run, or its kube-proxy does not do as it is told.
    pub fn switch_kube_proxy(&self, mode: KubeProxy) -> Result<()> {
        parallel::each(&self.nodes(), |place| {
            node::switch_kube_proxy(self, &self.machine(*place)?, mode)
        })
        .map(drop)
    }

    /// Stops the API server where it stands: connections stay, answers do not come.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause_api_server(&self) -> Result<()> {
        self.signal(Place::ControlPlane, API_SERVER, Signal::SIGSTOP)
    }

    /// Lets the API server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume_api_server(&self) -> Result<()> {
        self.signal(Place::ControlPlane, API_SERVER, Signal::SIGCONT)
    }

    /// The services of a place.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn services(&self, place: Place) -> Result<Vec<ServiceState>> {
        self.machine(place)?.services()
    }

    /// Sends a signal to a service, such as kube-proxy of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, place: Place, service: &str, signal: Signal) -> Result<()> {
        self.machine(place)?.signal(service, signal)
    }

    /// Starts a service again that ended, as it was started before.
    ///
    /// # Errors
    /// When the place does not run, or never had such a service.
    pub fn restart_service(&self, place: Place, service: &str) -> Result<()> {
        self.machine(place)?.restart_service(service)
    }

    /// Path of a service's log. `who` is `PLACE/SERVICE`, such as `node1/kubelet`.
    ///
    /// # Errors
    /// When there is no such log; the text names those that are there.
    pub fn log_path(&self, who: &str) -> Result<PathBuf> {
        let (place, service) = who.split_once('/').unwrap_or((who, ""));
        let path = self.paths.log(place.parse()?, service);
        if !service.is_empty() && path.is_file() {
            return Ok(path);
        }
        let there = self.log_names(place.parse()?).join(", ");
        Err(LabError::Refused(format!("no log {who:?}; {place} has: {there}")))
    }

    /// The names of the services of a place that wrote a log.
    pub fn log_names(&self, place: Place) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.paths.machine(place).join("logs")) else {
            return vec![];
        };
        let mut names: Vec<String> = entries
            .filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// A service's log so far. `who` as in [`Lab::log_path`].
    ///
    /// # Errors
    /// When there is no such log.
    pub fn logs(&self, who: &str) -> Result<String> {
        let path = self.log_path(who)?;
        let text = fs::read(&path).doing(format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
