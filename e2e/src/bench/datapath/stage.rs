//! Where it happens: an API server, a node for each contender, one without any rules, one that stands for all pods, and
//! a client.
//!
//! ```text
//!   client ──┬── node1: no rules ────────┐
//!            ├── node2: kube-proxy ──────┼── node4: all pods
//!            ├── node3: Fairlead ────────┤
//!            └── node5: kube-proxy, ipt ─┘
//! ```
//! All are on one segment. The client chooses the node by its route to the external addresses.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

use super::objects::{POD_ADDRESSES, POOL};
use crate::bench::load::Connections;
use crate::certs::file;
use crate::components::Components;
use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::machine::Machine;
use crate::net::{inside, ip_batch, run};
use crate::product::install::tree;
use crate::product::{Cluster, manifests, wait_for};
use crate::progress::Progress;
use crate::state::KubeProxy;
use crate::topology::Place;
use crate::up::{UpOptions, bare_node, up_bare};

/// A node that forwards and has no rules.
pub const PLAIN: Place = Place::Node(1);
/// Where all pods are.
pub const PODS: Place = Place::Node(4);
/// Nodes of contenders.
pub const CONTENDERS: [Place; 3] = [Place::Node(2), Place::Node(3), Place::Node(5)];
/// Connections that create and change objects.
const CONNECTIONS: usize = 8;
/// The client's place.
pub const CLIENT: Place = Place::LanClient;

/// The API server as the benchmark itself uses it: from inside the control plane's network, without a forwarder between.
pub struct Api {
    control_plane: Machine,
    runtime: Runtime,
    /// Connections for many requests at once.
    pub connections: Connections,
}

impl Api {
    /// Opens so many connections.
    ///
    /// # Errors
    /// When there is no way to the API server.
    pub fn open(lab: &Lab, connections: usize) -> Result<Self> {
        let control_plane = lab.machine(Place::ControlPlane)?;
        // Our client sends a request's head and body apart, and the body only when the head was acknowledged. Without
        // this, that takes 40 ms.
        let own = address(Place::ControlPlane);
        let route = format!(
            "route replace table local local {own} dev eth0 proto kernel scope host src {own} quickack 1\n"
        );
        ip_batch(&control_plane, &route)?;
        let namespace = format!("/proc/{}/ns/net", control_plane.id().pid);
        let runtime = inside(&control_plane, || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(move || {
                    // A thread that stays outside cannot reach the API server, which is told by the first request.
                    let entered =
                        fs::File::open(&namespace).map(|file| setns(file, CloneFlags::CLONE_NEWNET));
                    drop(entered);
                })
                .build()
                .doing("start a runtime")
        })??;
        let config = file(lab.paths(), "admin.kubeconfig");
        let connections = inside(&control_plane, || {
            runtime.block_on(Connections::by(&config, connections))
        })??;
        Ok(Self {
            control_plane,
            runtime,
            connections,
        })
    }

    /// Runs requests to their end.
    ///
    /// # Errors
    /// The future's own.
    pub fn block_on<T: Send>(&self, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        inside(&self.control_plane, || self.runtime.block_on(future))?
    }
}

/// The machines with a running API server.
pub struct Stage {
    /// The lab that they are.
    pub lab: Lab,
    /// Programs of Kubernetes.
    pub components: Components,
    /// Its API.
    pub api: Api,
    cluster: Cluster,
    /// The machine that stands for all pods.
    pub pods: Machine,
    /// The client's machine.
    pub client: Machine,
}

impl Stage {
    /// Brings everything up.
    ///
    /// # Errors
    /// What does not come up.
    pub fn up(name: &str, progress: &Progress) -> Result<Self> {
        let options = UpOptions {
            nodes: Some(5),
            kube_proxy: Some(KubeProxy::None),
            ..UpOptions::new(name)
        };
        let lab = up_bare(&options, progress)?;
        let stage = Self {
            components: Components::ensure(progress)?,
            api: Api::open(&lab, CONNECTIONS)?,
            cluster: Cluster::connect(&lab)?,
            pods: lab.machine(PODS)?,
            client: lab.machine(CLIENT)?,
            lab,
        };
        stage.objects()?;
        settings(
            &stage.client,
            &[
                ("ipv4/ip_local_port_range", "1024 65535"),
                ("ipv4/conf/all/accept_redirects", "0"),
            ],
        )?;
        ip_batch(
            &stage.pods,
            &format!("route replace local {POD_ADDRESSES} dev lo\n"),
        )?;
        prepare_node(&stage.lab.machine(PLAIN)?)?;
        // What comes back from pods without address translation takes the same way as what went there.
        let route = format!("route replace {}/32 via {}\n", address(CLIENT), address(PLAIN));
        ip_batch(&stage.pods, &route)?;
        settings(
            &stage.pods,
            &[
                ("ipv4/conf/all/accept_redirects", "0"),
                ("ipv4/conf/eth0/accept_redirects", "0"),
            ],
        )?;
        Ok(stage)
    }

    /// Our kinds, and the pool.
    fn objects(&self) -> Result<()> {
        let mut apply = Command::new(self.components.bin("kubectl"));
        apply
            .arg("--kubeconfig")
            .arg(self.lab.kubeconfig())
            .args(["apply", "--server-side", "-f"])
            .arg(tree().join("charts/fairlead/templates/crds"));
        run(apply, "kubectl apply of our kinds")?;
        wait_for("the pool to be taken", Duration::from_secs(30), || {
            let pool = self.cluster.apply(&manifests::pool("bench", &[POOL]));
            pool.map(drop).map_err(|error| error.to_string())
        })
    }

    /// A contender's node with nothing on it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn fresh(&self, place: Place) -> Result<Machine> {
        let machine = bare_node(&self.lab, place)?;
        prepare_node(&machine)?;
        Ok(machine)
    }

    /// Sends the client's packets for external addresses, and for pods, by way of `place`.
    ///
    /// # Errors
    /// When the route is refused.
    pub fn route(&self, place: Place) -> Result<()> {
        let via = address(place);
        let batch = format!("route replace {POOL} via {via}\nroute replace {POD_ADDRESSES} via {via}\n");
        ip_batch(&self.client, &batch)
    }
}

fn prepare_node(machine: &Machine) -> Result<()> {
    let route = format!("route replace {POD_ADDRESSES} via {}\n", address(PODS));
    ip_batch(machine, &route)?;
    // All are on one segment: without this, every packet would tell the sender of a shorter way.
    settings(
        machine,
        &[
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
        ],
    )
}

fn settings(machine: &Machine, all: &[(&str, &str)]) -> Result<()> {
    inside(machine, || {
        all.iter().try_for_each(|(name, value)| {
            fs::write(format!("/proc/sys/net/{name}"), value).doing(format!("set net/{name}"))
        })
    })?
}

/// A place's address.
pub fn address(place: Place) -> Ipv4Addr {
    place
        .uplink()
        .map_or(Ipv4Addr::LOCALHOST, |interface| interface.v4)
}

/// What a program of a machine answers to `GET http://127.0.0.1:port/path`: whether with status 200, and the body.
///
/// # Errors
/// When nobody listens.
pub fn get(machine: &Machine, port: u16, path: &str) -> Result<(bool, String)> {
    let answer = inside(machine, || {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    })?
    .doing(format!("ask port {port} of {}", machine.place().name()))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| LabError::Refused(format!("port {port} answered {answer:?}")))?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.contains(" 200"), body.to_owned()))
}
