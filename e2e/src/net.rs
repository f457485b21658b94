//! The lab's network: a bridge in the switch, and a veth pair for each cable, made directly into the two namespaces.
//!
//! Nothing of it ever exists in the host's network namespace.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use crate::{
    error::{Doing, LabError, Result},
    machine::Machine,
    process::ProcessId,
    state::{Paths, write_whole},
    topology::{BRIDGE, Interface, Place, Segment, pod_cidrs},
};

/// A cable: from a port of the switch or a router to an interface of another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cable {
    /// Who has the port.
    pub(crate) hub: Place,
    /// The port's name.
    pub(crate) port: String,
    /// Whose interface the other end is.
    pub(crate) place: Place,
    interface: Interface,
}

/// The cable by which `place` reaches the others, `None` for the switch.
pub(crate) fn cable_of(place: Place) -> Option<Cable> {
    let interface = place.uplink()?;
    let (hub, port) = match place {
        Place::Client => (Place::Router, "eth1".to_owned()),
        Place::Client2 => (Place::Router2, "eth1".to_owned()),
        _ => (Place::Switch, place.name()),
    };
    Some(Cable {
        hub,
        port,
        place,
        interface,
    })
}

/// Which cables lie between which machines (their inits, so that a restarted machine has none).
#[derive(Debug, Default)]
pub(crate) struct Cables {
    laid: BTreeMap<String, [ProcessId; 2]>,
}

impl Cables {
    /// The record of a lab; empty when there is none.
    pub(crate) fn read(paths: &Paths) -> Self {
        let laid = fs::read(paths.cables())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            laid: laid.unwrap_or_default(),
        }
    }

    /// Lays all cables that are missing between `machines`.
    pub(crate) fn lay(paths: &Paths, machines: &BTreeMap<Place, Machine>) -> Result<()> {
        let mut record = Self::read(paths);
        let nodes: Vec<u8> = machines
            .keys()
            .filter_map(|p| if let Place::Node(n) = p { Some(*n) } else { None })
            .collect();
        if let Some(switch) = machines.get(&Place::Switch) {
            let bridge = format!(
                "link set lo up\nlink add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
            );
            if !has_link(switch, BRIDGE)? {
                ip_batch(switch, &bridge)?;
            }
        }
        let mut todo = vec![];
        for cable in machines.keys().filter_map(|place| cable_of(*place)) {
            let (Some(hub), Some(far)) = (machines.get(&cable.hub), machines.get(&cable.place)) else {
                continue;
            };
            let ends = [hub.id(), far.id()];
            if record.laid.get(&cable.place.name()) != Some(&ends) {
                todo.push((cable, hub, far));
            }
        }
        std::thread::scope(|scope| {
            let jobs: Vec<_> = todo
                .iter()
                .map(|(cable, hub, far)| scope.spawn(|| cable.lay(hub, far, &nodes)))
                .collect();
            jobs.into_iter().try_for_each(crate::parallel::join)
        })?;
        for (cable, hub, far) in todo {
            record.laid.insert(cable.place.name(), [hub.id(), far.id()]);
        }
        write_whole(
            &paths.cables(),
            &serde_json::to_vec(&record.laid).doing("cables.json")?,
        )
    }

    /// Plugs in every cable that was cut.
    pub(crate) fn plug_all(machines: &BTreeMap<Place, Machine>) -> Result<()> {
        for cable in cut_cables(machines)?.into_iter().filter_map(cable_of) {
            if let Some(hub) = machines.get(&cable.hub) {
                ip_batch(hub, &format!("link set {} up\n", cable.port))?;
            }
        }
        Ok(())
    }
}

impl Cable {
    fn lay(&self, hub: &Machine, far: &Machine, nodes: &[u8]) -> Result<()> {
        // A cable left by an attempt that was interrupted; most times there is none.
        let _ = in_network(hub, ["ip", "link", "del", &self.port])
            .stderr(Stdio::null())
            .status();
        let end = &self.interface;
        // A router's port has an address of its own; the switch's are ports of the bridge.
        let port = self.hub.interfaces().into_iter().find(|i| i.name == self.port);
        let own_mac = port.as_ref().map(|i| format!("address {} ", i.mac));
        let mut at_hub = format!(
            "link add dev {} {}type veth peer name {} address {} netns {}\n",
            self.port,
            own_mac.unwrap_or_default(),
            end.name,
            end.mac,
            far.id().pid
        );
        at_hub += &match port {
            Some(interface) => addresses(&interface),
            None => format!("link set {} master {BRIDGE} up\n", self.port),
        };
        ip_batch(hub, &at_hub)?;
        let mut at_far = String::from("link set lo up\n") + &addresses(end) + &routes(self.place, nodes);
        if self.place != Place::Router {
            let (v4, v6) = end.segment.gateway();
            at_far += &format!("route replace default via {v4}\nroute replace ::/0 via {v6}\n");
        }
        ip_batch(far, &at_far)
    }
}

fn addresses(interface: &Interface) -> String {
    let Interface { name, v4, v6, .. } = interface;
    format!("addr replace {v4}/24 dev {name}\naddr replace {v6}/64 dev {name} nodad\nlink set {name} up\n")
}

/// Routes for those on the node segment: to the client behind the second router, and to the pods of all (other) nodes.
fn routes(place: Place, nodes: &[u8]) -> String {
    let mut batch = String::new();
    let on_node_segment = place.uplink().is_some_and(|i| i.segment == Segment::Nodes);
    if let Some(via) = Place::Router2.uplink()
        && on_node_segment
        && place != Place::Router2
    {
        let (v4, v6) = Segment::Outside2.subnets();
        batch += &format!(
            "route replace {v4} via {}\nroute replace {v6} via {}\n",
            via.v4, via.v6
        );
    }
    if !matches!(place, Place::ControlPlane | Place::Node(_)) && !place.is_router() {
        return batch;
    }
    for n in nodes.iter().filter(|n| Place::Node(**n) != place) {
        let Some(via) = Place::Node(*n).uplink() else {
            continue;
        };
        let (v4, v6) = pod_cidrs(*n);
        batch += &format!(
            "route replace {v4} via {}\nroute replace {v6} via {}\n",
            via.v4, via.v6
        );
    }
    batch
}

/// A command in a machine's network namespace alone: the pids that `ip` is told are the host's.
pub(crate) fn in_network<'a>(machine: &Machine, argv: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &machine.id().pid.to_string(), "-n", "--"])
        .args(argv);
    command
}

/// Runs `ip -batch` inside a machine.
pub(crate) fn ip_batch(machine: &Machine, batch: &str) -> Result<()> {
    let what = || format!("ip -batch in {}", machine.place().name());
    let mut child = in_network(machine, ["ip", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(what())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).doing(what())?;
    }
    let output = child.wait_with_output().doing(what())?;
    if output.status.success() {
        return Ok(());
    }
    let detail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Command {
        command: what(),
        detail,
    })
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
}

fn links(machine: &Machine) -> Result<Vec<Link>> {
    let what = format!("ip link in {}", machine.place().name());
    let output = in_network(machine, ["ip", "-j", "link"])
        .stderr(Stdio::inherit())
        .output()
        .doing(&what)?;
    serde_json::from_slice(&output.stdout).doing(what)
}

fn has_link(machine: &Machine, name: &str) -> Result<bool> {
    Ok(links(machine)?.iter().any(|link| link.ifname == name))
}

/// The places whose cable is cut at the switch or a router.
pub(crate) fn cut_cables(machines: &BTreeMap<Place, Machine>) -> Result<Vec<Place>> {
    let mut cut = vec![];
    for hub in [Place::Switch, Place::Router, Place::Router2] {
        let Some(machine) = machines.get(&hub) else {
            continue;
        };
        let down: Vec<String> = links(machine)?
            .into_iter()
            .filter(|l| !l.flags.iter().any(|flag| flag == "UP"))
            .map(|l| l.ifname)
            .collect();
        let cables = machines.keys().filter_map(|place| cable_of(*place));
        cut.extend(
            cables
                .filter(|c| c.hub == hub && down.contains(&c.port))
                .map(|c| c.place),
        );
    }
    Ok(cut)
}

/// Takes a cable away whose far end is being powered off. It may be gone already.
pub(crate) fn remove_cable(hub: &Machine, cable: &Cable) {
    let _ = in_network(hub, ["ip", "link", "del", &cable.port])
        .stderr(Stdio::null())
        .status();
}

/// Runs a command to its end and returns its standard output; `what` names it in errors.
pub(crate) fn run(mut command: Command, what: &str) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().doing(what)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // birdc says on standard output what is wrong.
    let said = [&output.stderr[..], &output.stdout].concat();
    let detail = format!("{}: {}", output.status, String::from_utf8_lossy(&said).trim());
    Err(LabError::Command {
        command: what.to_owned(),
        detail,
    })
}

/// Runs `job` on a thread that is in a machine's network namespace (and otherwise on the host).
///
/// # Errors
/// When the namespace cannot be entered.
pub(crate) fn inside<T: Send>(machine: &Machine, job: impl FnOnce() -> T + Send) -> Result<T> {
    inside_of(format!("/proc/{}/ns/net", machine.id().pid).as_ref(), job)
}

/// The same in a network namespace by its path.
///
/// # Errors
/// As [`inside`].
pub(crate) fn inside_of<T: Send>(path: &Path, job: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        crate::parallel::join(scope.spawn(|| {
            let namespace = fs::File::open(path).doing(format!("open {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).doing(format!("enter {}", path.display()))?;
            Ok(job())
        }))
    })
}

/// Waits until `path` on a port of the machine answers HTTP 200.
pub(crate) fn wait_http_ok(machine: &Machine, port: u16, path: &str, limit: Duration) -> Result<()> {
    // The machine's own address: kube-proxy may listen on that alone.
    let address = machine.place().uplink().map_or(Ipv4Addr::LOCALHOST, |i| i.v4);
    let begun = Instant::now();
    inside(machine, || {
        loop {
            let seen = match http_status(SocketAddrV4::new(address, port), path) {
                Ok(status) if status.contains(" 200 ") => return Ok(()),
                Ok(status) => status,
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > limit {
                let what = format!("http://{address}:{port}{path} of {}", machine.place().name());
                return Err(LabError::Timeout {
                    what,
                    after: limit,
                    seen,
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    })?
}

fn http_status(to: SocketAddrV4, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
