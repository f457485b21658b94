//! EndpointSlices of one Service joined into endpoints, and which of them are usable.
//!
//! The rules are kube-proxy's (KEP-1669, KEP-1672): ready endpoints first; only if there is none at all, those that are
//! terminating but still serving; never one that does not serve. The cluster-wide and the local list are computed
//! independently of each other. Hints of zones and nodes (KEP-2433, KEP-3015, KEP-4444) narrow the cluster-wide list.
//!
//! Whether the Node of an endpoint exists is not asked here: who writes the slices sees to that.

mod address;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use address::{AddressFault, address_fault};

use crate::model::{Family, Hints, NodeName, Protocol, ServicePort, Slice, SliceEndpoint};

/// One place where a Service port is answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of the pod.
    pub address: IpAddr,
    /// Port of the pod.
    pub port: u16,
    /// The node it runs on; absent means local to no node.
    pub node: Option<NodeName>,
    /// Gets new connections.
    pub ready: bool,
    /// Terminating and still able to answer.
    pub serving_terminating: bool,
    /// For whom it is meant, if that is said.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    fn new(source: &SliceEndpoint, port: u16) -> Self {
        Self {
            address: source.address,
            port,
            node: source.node.clone(),
            ready: source.ready,
            serving_terminating: source.serving && source.terminating,
            hints: source.hints.clone(),
        }
    }

    /// Of two copies the higher one counts.
    fn rank(&self) -> (bool, bool) {
        (self.ready, self.serving_terminating)
    }

    /// As the rank; of two equals the one with hints, so that the order of slices does not matter.
    fn better_than(&self, other: &Self) -> bool {
        (self.rank(), &self.hints) > (other.rank(), &other.hints)
    }

    fn hint_nodes(&self) -> &[NodeName] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    fn hint_zones(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }
}

/// The node from which endpoints are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// Its zone, if its label names one.
    pub zone: Option<&'a str>,
}

/// All endpoints of one Service and family, by port name and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Sorted by address, port and node. An endpoint stands here more than once only if slices disagree about its node.
    by_port: BTreeMap<(String, Protocol), Vec<Endpoint>>,
    ready_by_node: BTreeMap<NodeName, BTreeSet<IpAddr>>,
}

/// The copies of one endpoint, by node.
type Copies = BTreeMap<Option<NodeName>, Endpoint>;

impl Endpoints {
    /// Joins the slices of one Service, keeping one family. A slice of the other family, an address that no endpoint
    /// can have and a port 0 are passed over. Of several copies of an endpoint (it is moving between slices) the ready
    /// one counts, and it is on the node that any of them names; should they name several, it is local on each.
    pub fn join<'a>(slices: impl IntoIterator<Item = &'a Slice>, family: Family) -> Self {
        let mut unique: BTreeMap<(String, Protocol), BTreeMap<(IpAddr, u16), Copies>> = BTreeMap::new();
        let mut ready_by_node: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
        for slice in slices.into_iter().filter(|slice| slice.family == family) {
            let sound = |e: &&SliceEndpoint| address_fault(e.address, family).is_none();
            for source in slice.endpoints.iter().filter(sound) {
                if let (true, Some(node)) = (source.ready, &source.node) {
                    ready_by_node
                        .entry(node.clone())
                        .or_default()
                        .insert(source.address);
                }
                for port in slice.ports.iter().filter(|port| port.port != 0) {
                    let endpoint = Endpoint::new(source, port.port);
                    let group = unique.entry((port.name.clone(), port.protocol)).or_default();
                    let copies = group.entry((endpoint.address, endpoint.port)).or_default();
                    match copies.get(&endpoint.node) {
                        Some(known) if !endpoint.better_than(known) => {}
                        _ => {
                            copies.insert(endpoint.node.clone(), endpoint);
                        }
                    }
                }
            }
        }
        let by_port = unique
            .into_iter()
            .map(|(port, group)| (port, group.into_values().flat_map(merged).collect()))
            .collect();
        Self {
            by_port,
            ready_by_node,
        }
    }

    /// Where new connections to a port may go, anywhere in the cluster, for whoever comes by the node `here`; sorted
    /// by address, each address and port once.
    ///
    /// Hints hold all or nothing: those of nodes if every ready endpoint has some and one of them names this node;
    /// else those of zones likewise; else none. They never hold for endpoints that are terminating.
    pub fn cluster(&self, port: &ServicePort, here: Here<'_>) -> Vec<&Endpoint> {
        let mut list = usable(self.of(port).iter());
        let for_node = |e: &Endpoint| e.hint_nodes().contains(here.node);
        let for_zone = |e: &Endpoint| {
            let zone = here.zone.unwrap_or_default();
            e.hint_zones().iter().any(|hint| hint == zone)
        };
        // Either all of them are ready or none is.
        if list.first().is_some_and(|endpoint| endpoint.ready) {
            if list.iter().all(|e| !e.hint_nodes().is_empty()) && list.iter().any(|e| for_node(e)) {
                list.retain(|e| for_node(e));
            } else if here.zone.is_some()
                && list.iter().all(|e| !e.hint_zones().is_empty())
                && list.iter().any(|e| for_zone(e))
            {
                list.retain(|e| for_zone(e));
            }
        }
        list.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
        list
    }

    /// Where new connections to a port may go on one node; sorted by address. No hint matters here.
    pub fn local(&self, port: &ServicePort, node: &NodeName) -> Vec<&Endpoint> {
        usable(
            self.of(port)
                .iter()
                .filter(|endpoint| endpoint.node.as_ref() == Some(node)),
        )
    }

    /// Where connections to a port that are open already may stay: whatever still serves, terminating or not.
    pub fn serving(&self, port: &ServicePort) -> Vec<&Endpoint> {
        let serving = |endpoint: &&Endpoint| endpoint.ready || endpoint.serving_terminating;
        self.of(port).iter().filter(serving).collect()
    }

    /// Is there an endpoint anywhere that is ready, or terminating and serving, on any port?
    pub fn any_usable(&self) -> bool {
        self.by_port
            .values()
            .flatten()
            .any(|endpoint| endpoint.ready || endpoint.serving_terminating)
    }

    /// Number of distinct ready addresses on a node: what the health-check node port counts. Endpoints that are
    /// terminating do not count, even while they still get traffic: the probe fails early on purpose (KEP-1669).
    pub fn ready_on(&self, node: &NodeName) -> usize {
        self.ready_by_node.get(node).map_or(0, BTreeSet::len)
    }

    fn of(&self, port: &ServicePort) -> &[Endpoint] {
        // A map keyed by borrowed parts would need a wrapper type; Services have few ports.
        self.by_port
            .iter()
            .find(|((name, protocol), _)| *name == port.name && *protocol == port.protocol)
            .map_or(&[], |(_, endpoints)| endpoints.as_slice())
    }
}

fn usable<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<&'a Endpoint> {
    let ready: Vec<&Endpoint> = endpoints.clone().filter(|endpoint| endpoint.ready).collect();
    if ready.is_empty() {
        endpoints
            .filter(|endpoint| endpoint.serving_terminating)
            .collect()
    } else {
        ready
    }
}

/// The copies of one endpoint, less those that do not know its node while another does.
fn merged(mut copies: Copies) -> impl Iterator<Item = Endpoint> {
    if copies.len() > 1
        && let Some(nowhere) = copies.remove(&None)
    {
        for copy in copies.values_mut().filter(|copy| copy.rank() < nowhere.rank()) {
            let node = copy.node.take();
            *copy = Endpoint {
                node,
                ..nowhere.clone()
            };
        }
    }
    copies.into_values()
}
