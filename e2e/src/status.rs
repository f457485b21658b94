//! How a lab stands.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    cluster, error::Result, lab::Lab, machine::ServiceState, net::cut_cables, state::Shape, topology::Place,
};

/// How long the API server may take to answer before it counts as silent.
const API_LIMIT: Duration = Duration::from_secs(2);

/// How a lab stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it was made as.
    pub shape: Shape,
    /// Its machines.
    pub machines: Vec<MachineStatus>,
    /// `ready`, or what the API server answered instead.
    pub api: String,
    /// The cluster's nodes, when the API server answers.
    pub nodes: Vec<NodeStatus>,
}

/// How one machine stands.
#[derive(Debug, Clone, Serialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// Pid of its init on the host; absent when it is powered off.
    pub pid: Option<i32>,
    /// IPv4 and IPv6 address and MAC of its uplink.
    pub addresses: Vec<String>,
    /// Whether its cable is cut.
    pub cut: bool,
    /// Its services.
    pub services: Vec<ServiceState>,
}

/// What the cluster says of a node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// `Ready`, or why it is not.
    pub text: String,
}

impl Status {
    /// Whether every machine and service runs, every cable is in, and every node is Ready.
    pub fn is_healthy(&self) -> bool {
        self.api == "ready"
            && self.nodes.len() >= usize::from(self.shape.nodes)
            && self.nodes.iter().all(|n| n.ready)
            && self
                .machines
                .iter()
                .all(|m| m.pid.is_some() && !m.cut && m.services.iter().all(ServiceState::is_running))
    }
}

impl Lab {
    /// Looks at everything.
    ///
    /// # Errors
    /// When a machine cannot be asked. A silent API server is no error.
    pub fn status(&self) -> Result<Status> {
        let machines = self.machines();
        let cut = cut_cables(&machines)?;
        let describe = |place: Place| -> Result<MachineStatus> {
            let machine = machines.get(&place);
            Ok(MachineStatus {
                name: place.name(),
                pid: machine.map(|m| m.id().pid),
                addresses: place
                    .uplink()
                    .map(|i| vec![i.v4.to_string(), i.v6.to_string(), i.mac])
                    .unwrap_or_default(),
                cut: cut.contains(&place),
                services: machine.map(|m| m.services()).transpose()?.unwrap_or_default(),
            })
        };
        let machines = self.places().into_iter().map(describe).collect::<Result<_>>()?;
        let (api, nodes) = self.ask_cluster()?;
        Ok(Status {
            name: self.name().to_owned(),
            shape: self.shape().clone(),
            machines,
            api,
            nodes,
        })
    }

    fn ask_cluster(&self) -> Result<(String, Vec<NodeStatus>)> {
        cluster::block_on(async {
            let asked = async {
                let client = self.kube().await?;
                let api = cluster::api_ready(&client)
                    .await
                    .map_or_else(|seen| seen, |()| "ready".into());
                let nodes = cluster::nodes(&client).await.unwrap_or_default();
                Ok((
                    api,
                    nodes
                        .into_iter()
                        .map(|(name, ready, text)| NodeStatus { name, ready, text })
                        .collect(),
                ))
            };
            tokio::time::timeout(API_LIMIT, asked)
                .await
                .unwrap_or_else(|_| Ok(("no answer".into(), vec![])))
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kube_proxy = self.shape.kube_proxy.name();
        writeln!(
            f,
            "lab {}: {} nodes, kube-proxy {kube_proxy}, API server {}",
            self.name, self.shape.nodes, self.api
        )?;
        for machine in &self.machines {
            let power = machine
                .pid
                .map_or_else(|| "off".into(), |pid| format!("pid {pid}"));
            let node = self
                .nodes
                .iter()
                .find(|n| n.name == machine.name)
                .map_or("", |n| &n.text);
            let cable = if machine.cut { "CUT" } else { "" };
            let [v4, v6, mac] = [0, 1, 2].map(|i| machine.addresses.get(i).map_or("", String::as_str));
            let line = format!(
                "{:<14}{power:<12}{v4:<14}{v6:<13}{mac:<19}{cable:<4}{node}",
                machine.name
            );
            writeln!(f, "{}", line.trim_end())?;
            for service in machine.services.iter().filter(|s| !s.is_running()) {
                writeln!(
                    f,
                    "              {} ended: {}",
                    service.name,
                    service.ended.as_deref().unwrap_or("")
                )?;
            }
        }
        Ok(())
    }
}
