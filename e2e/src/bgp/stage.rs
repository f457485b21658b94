//! What a trial is about: a Service with an endpoint on every node, announced by all nodes to the lab's router, which
//! spreads connections over them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::manifests;
use super::row::{PROBE_INTERVAL_MS, PROBE_THRESHOLD, Peering};
use crate::bench::Contender;
use crate::error::Result;
use crate::failover::Scene;
use crate::lab::Lab;
use crate::product::{Cluster, wait_for};
use crate::routers::{FRR_ASN, Frr, Nodes, Router};
use crate::topology::Place;

/// A session with BFD that has been up for so long stays up.
pub const STEADY: Duration = Duration::from_secs(6);
/// How long sessions and routes may take to be as they should.
const SETTLED: Duration = Duration::from_secs(90);

/// A Service that all nodes announce.
pub struct Stage<'a> {
    /// The nodes, the web servers and the Service.
    pub scene: Scene<'a>,
    /// Name of the namespace, the pool, the advertisement and the peer.
    pub name: String,
    /// The router.
    pub frr: Frr,
}

impl<'a> Stage<'a> {
    /// Starts the router, and makes the Service with an address of `pool` and what announces it. Fairlead is installed
    /// with BGP, and the namespace exists.
    ///
    /// # Errors
    /// What the API server refuses, or what does not come up.
    pub fn set_up(lab: &'a Lab, cluster: &'a Cluster, name: &str, pool: &str) -> Result<Self> {
        let nodes = Nodes {
            bfd: true,
            ..Nodes::default()
        };
        let frr = Frr::start(lab, &nodes)?;
        let mut addresses = crate::product::manifests::pool(name, &[pool]);
        addresses["spec"]["health"] = json!({
            "interval": format!("{PROBE_INTERVAL_MS}ms"), "failureThreshold": PROBE_THRESHOLD,
        });
        cluster.apply(&addresses)?;
        cluster.apply(&manifests::advertisement(name, name, json!({"peers": [name]})))?;
        Ok(Self {
            scene: Scene::set_up(lab, cluster, Contender::Fairlead, name, "IPv4")?,
            name: name.to_owned(),
            frr,
        })
    }

    /// Guards the sessions so from now on. The router has the same in its own configuration, where it needs it.
    ///
    /// # Errors
    /// What the API server refuses.
    pub fn peer(&self, peering: Peering) -> Result<()> {
        let router = Place::Router
            .uplink()
            .map(|i| i.v4.to_string())
            .unwrap_or_default();
        let peer = manifests::peer(&self.name, &router, FRR_ASN, peering.spec());
        self.scene.cluster.apply(&peer).map(drop)
    }

    /// Where clients connect.
    pub fn target(&self) -> SocketAddr {
        self.scene.target()
    }

    /// The route to the Service.
    pub fn route(&self) -> IpNet {
        IpNet::from(self.scene.vip)
    }

    /// Undoes every fault and waits until all is as before one: sessions are established (with BFD up on both sides, if
    /// they are guarded by it), and the router sends to every node.
    ///
    /// # Errors
    /// With what is not so in time.
    pub fn settle(&self, peering: Peering) -> Result<()> {
        self.scene.restore()?;
        self.peer(peering)?;
        self.wait_sessions(&self.name, peering == Peering::Bfd)?;
        if peering == Peering::Bfd {
            // The router has its own view, by which it finds a node dead.
            for node in self.scene.lab.nodes().into_iter().filter_map(node_address) {
                self.frr.wait_neighbor(node, SETTLED, |neighbor| {
                    let bfd = neighbor.as_ref().and_then(|neighbor| neighbor.bfd.as_deref());
                    bfd == Some("Up")
                })?;
            }
        }
        self.frr
            .wait_leads_to(self.route(), &self.scene.lab.nodes(), SETTLED)
    }

    /// Waits until every node has a session with a peer that BFD guards and does not end any more.
    ///
    /// # Errors
    /// With what is not so in time.
    pub fn wait_steady(&self, peer: &str) -> Result<()> {
        self.wait_sessions(peer, true)
    }

    fn wait_sessions(&self, peer: &str, guarded: bool) -> Result<()> {
        wait_for(
            &format!("every session with {peer} to be established"),
            SETTLED,
            || {
                let sessions = sessions(self.scene.cluster, peer).map_err(|e| e.to_string())?;
                let right = |session: &Value| {
                    let steady = session["bfd"] == "Up" && is_old(session);
                    session["state"] == "Established" && (!guarded || steady)
                };
                let all = self.scene.lab.nodes().len();
                if sessions.values().filter(|session| right(session)).count() == all {
                    Ok(())
                } else {
                    Err(format!("{sessions:?}"))
                }
            },
        )
    }

    /// Takes away what announces, and the namespace.
    ///
    /// # Errors
    /// What cannot be undone.
    pub fn remove(self) -> Result<()> {
        self.scene.restore()?;
        let own = "/apis/fairlead.dev/v1alpha1";
        let name = &self.name;
        self.scene
            .cluster
            .delete_and_wait(&format!("/api/v1/namespaces/{name}"), SETTLED)?;
        for kind in ["bgpadvertisements", "bgppeers", "addresspools"] {
            self.scene
                .cluster
                .delete_and_wait(&format!("{own}/{kind}/{name}"), SETTLED)?;
        }
        Ok(())
    }
}

/// Whether a session has been up for so long that BFD, which begins after it, does not end it any more.
fn is_old(session: &Value) -> bool {
    let since = session["since"].as_str().and_then(|text| text.parse().ok());
    let age = since.map(|since: Timestamp| Timestamp::now().duration_since(since).unsigned_abs());
    age.is_some_and(|age| age >= STEADY)
}

/// The address from which a node announces, IPv4.
pub fn node_address(node: Place) -> Option<IpAddr> {
    node.uplink().map(|interface| IpAddr::V4(interface.v4))
}

/// The sessions with a peer as the nodes tell them, by the name of the node.
///
/// # Errors
/// When the API server does not answer.
pub fn sessions(cluster: &Cluster, peer: &str) -> Result<BTreeMap<String, Value>> {
    let states = cluster.list("/apis/fairlead.dev/v1alpha1/nodestates")?;
    let session = |state: &Value| {
        let all = state["status"]["bgp"]["sessions"].as_array()?;
        let own = all.iter().find(|session| session["peer"] == peer)?;
        Some((state["metadata"]["name"].as_str()?.to_owned(), own.clone()))
    };
    Ok(states.iter().filter_map(session).collect())
}
