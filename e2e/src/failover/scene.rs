//! What a trial is about: web servers on every node, a Service of one of them, and the programs that announce its
//! address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::restore::POD_START;
use crate::announcers::Witness;
use crate::bench::Contender;
use crate::error::Result;
use crate::lab::Lab;
use crate::product::{Cluster, manifests, wait_for};
use crate::topology::Place;

/// Name of the Service of a trial, and of its pods' label.
pub(super) const WEB: &str = "web";
/// What makes a pod ready, and is set by us alone: a server that is not ready goes on answering.
const GATE: &str = "e2e.fairlead.dev/serves";
/// How long one and the same must have announced the address before a fault.
const QUIET: Duration = Duration::from_secs(2);
/// How long that is waited for.
const SETTLED: Duration = Duration::from_secs(60);
/// The same where a certain node must have it: MetalLB's members may need minutes to find one another again.
const HOME: Duration = Duration::from_secs(240);
/// Time between two questions on the wire.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where and with whom.
pub struct Scene<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// Its API server.
    pub cluster: &'a Cluster,
    /// Whose speakers announce.
    pub who: Contender,
    /// Namespace of the Services.
    pub namespace: String,
    /// Labels `app` of web servers; of each there is one on every node.
    pub apps: Vec<String>,
    /// The address under test.
    pub vip: IpAddr,
}

impl<'a> Scene<'a> {
    /// Makes the web servers in a namespace that exists, and waits until all is ready. There is no Service yet.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn without_service(
        lab: &'a Lab,
        cluster: &'a Cluster,
        who: Contender,
        namespace: &str,
        apps: &[&str],
    ) -> Result<Self> {
        let scene = Self {
            lab,
            cluster,
            who,
            namespace: namespace.to_owned(),
            apps: apps.iter().map(|&app| app.to_owned()).collect(),
            vip: IpAddr::from([0, 0, 0, 0]),
        };
        scene.restore()?;
        Ok(scene)
    }

    /// The same with one web server on every node and its Service, with traffic policy Local and an address.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn set_up(
        lab: &'a Lab,
        cluster: &'a Cluster,
        who: Contender,
        namespace: &str,
        family: &str,
    ) -> Result<Self> {
        let mut scene = Self::without_service(lab, cluster, who, namespace, &[WEB])?;
        let mut service = manifests::service(namespace, WEB, "Local");
        service["spec"]["ipFamilies"] = json!([family]);
        cluster.apply(&service)?;
        scene.vip = scene.wait_address(WEB)?;
        Ok(scene)
    }

    /// Waits until a Service has an address, and answers with its first.
    ///
    /// # Errors
    /// When it has none in time.
    pub fn wait_address(&self, service: &str) -> Result<IpAddr> {
        let path = format!("/api/v1/namespaces/{}/services/{service}", self.namespace);
        wait_for(
            &format!("Service {service} to have an address"),
            POD_START,
            || {
                let service = self.cluster.get(&path).map_err(|e| e.to_string())?;
                let status = &service.unwrap_or_default()["status"];
                let address = status["loadBalancer"]["ingress"][0]["ip"].as_str();
                address
                    .and_then(|address| address.parse().ok())
                    .ok_or_else(|| status.to_string())
            },
        )
    }

    /// Where the client connects.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(self.vip, 80)
    }

    /// Asks on the wire who has the address.
    ///
    /// # Errors
    /// As [`Witness::start`].
    pub fn witness(&self) -> Result<Witness> {
        Witness::start(self.lab, &[self.vip], ASK_EVERY)
    }

    /// Waits until one node, `home` if it is given, has announced the address for a while; answers which.
    ///
    /// # Errors
    /// When it is not so in time.
    pub fn settle(&self, home: Option<&str>) -> Result<String> {
        let right = |who: &str| home.is_none_or(|home| home == who);
        let limit = if home.is_some() { HOME } else { SETTLED };
        self.witness()?.wait_settled(self.vip, QUIET, limit, right)
    }

    /// The path of a web server's pod.
    pub(super) fn pod(&self, app: &str, node: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{app}-{node}", self.namespace)
    }

    /// Makes a web server ready or unready; it answers in both cases.
    ///
    /// # Errors
    /// What the API server refuses.
    pub fn set_ready(&self, app: &str, node: &str, ready: bool) -> Result<()> {
        self.cluster
            .set_pod_condition(&self.namespace, &format!("{app}-{node}"), GATE, ready)
    }

    /// Runs a command in a place and answers with what it printed.
    pub(crate) fn exec(&self, place: Place, argv: &[&str]) -> Result<String> {
        let output = self.lab.exec(place, argv)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A web server on a node that is ready when we say so. Deleted, it goes on answering for 3 s.
pub(super) fn web_pod(namespace: &str, app: &str, node: &str) -> Value {
    let mut pod = manifests::web_pod(namespace, app, node);
    pod["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
    // A probe that is late on a busy machine would take an endpoint away, which is another fault than the one tried.
    if let Some(container) = pod["spec"]["containers"][0].as_object_mut() {
        container.remove("readinessProbe");
    }
    pod
}
