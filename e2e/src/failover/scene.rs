//! What a trial is about: one Service with a web server on every node, and the programs that announce its address.

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

/// Name of the Service and of its pods' label.
pub(super) const WEB: &str = "web";
/// What makes a pod ready, and is set by us alone: a server that is not ready goes on answering.
pub(super) const GATE: &str = "e2e.fairlead.dev/serves";
/// How long one and the same must have announced the address before a fault.
const QUIET: Duration = Duration::from_secs(2);
/// How long that is waited for. MetalLB's members may need minutes to find one another again.
const SETTLED: Duration = Duration::from_secs(240);
/// Time between two questions on the wire.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(20);

/// The Service under test.
pub struct Scene<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// Its API server.
    pub cluster: &'a Cluster,
    /// Whose speakers announce.
    pub who: Contender,
    /// Namespace of the Service.
    pub namespace: String,
    /// Its address.
    pub vip: IpAddr,
}

impl<'a> Scene<'a> {
    /// Makes the Service, with traffic policy Local, and a web server on every node, in a namespace that exists; waits
    /// until all is ready and it has its address.
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
        let mut service = manifests::service(namespace, WEB, "Local");
        service["spec"]["ipFamilies"] = json!([family]);
        cluster.apply(&service)?;
        let path = format!("/api/v1/namespaces/{namespace}/services/{WEB}");
        let mut scene = Self {
            lab,
            cluster,
            who,
            namespace: namespace.to_owned(),
            vip: IpAddr::from([0, 0, 0, 0]),
        };
        scene.restore()?;
        scene.vip = wait_for("the Service to have an address", POD_START, || {
            let service = cluster.get(&path).map_err(|e| e.to_string())?.unwrap_or_default();
            let address = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
            address
                .and_then(|address| address.parse().ok())
                .ok_or_else(|| service["status"].to_string())
        })?;
        Ok(scene)
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
        self.witness()?.wait_settled(self.vip, QUIET, SETTLED, right)
    }

    /// The pods of the Service, by the node they are on.
    pub(super) fn pod(&self, node: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, pod_name(node))
    }

    /// Runs a command in a place and answers with what it printed.
    pub(super) fn exec(&self, place: Place, argv: &[&str]) -> Result<String> {
        let output = self.lab.exec(place, argv)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

pub(super) fn pod_name(node: &str) -> String {
    format!("{WEB}-{node}")
}

/// A web server on a node that is ready when we say so. Deleted, it goes on answering for 3 s.
pub(super) fn web_pod(namespace: &str, node: &str) -> Value {
    let mut pod = manifests::web_pod(namespace, WEB, node);
    pod["spec"]["readinessGates"] = json!([{"conditionType": GATE}]);
    // A probe that is late on a busy machine would take an endpoint away, which is another fault than the one tried.
    if let Some(container) = pod["spec"]["containers"][0].as_object_mut() {
        container.remove("readinessProbe");
    }
    pod
}
