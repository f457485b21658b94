//! EndpointSlices of one Service joined into endpoints, and which of them are usable.
//!
//! The rules are kube-proxy's (KEP-1669, KEP-1672): ready endpoints first; only if there is none at all, those that are
//! terminating but still serving; never one that does not serve. The cluster-wide and the local list are computed
//! independently of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Family, NodeName, Protocol, ServicePort, Slice};

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
}

/// All endpoints of one Service and family, by port name and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    by_port: BTreeMap<(String, Protocol), Vec<Endpoint>>,
    ready_by_node: BTreeMap<NodeName, BTreeSet<IpAddr>>,
}

impl Endpoints {
    /// Joins the slices of one Service, keeping one family. A slice of the other family, an address of the wrong
    /// family inside a slice and a port 0 are passed over; of two copies of an endpoint (it is moving between
    /// slices) the ready one counts, then the one whose node is known.
    pub fn join<'a>(slices: impl IntoIterator<Item = &'a Slice>, family: Family) -> Self {
        let mut unique: BTreeMap<(String, Protocol), BTreeMap<(IpAddr, u16), Endpoint>> = BTreeMap::new();
        let mut ready_by_node: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
        for slice in slices.into_iter().filter(|slice| slice.family == family) {
            for source in slice.endpoints.iter().filter(|e| Family::of(e.address) == family) {
                if let (true, Some(node)) = (source.ready, &source.node) {
                    ready_by_node
                        .entry(node.clone())
                        .or_default()
                        .insert(source.address);
                }
                for port in slice.ports.iter().filter(|port| port.port != 0) {
                    let endpoint = Endpoint {
                        address: source.address,
                        port: port.port,
                        node: source.node.clone(),
                        ready: source.ready,
                        serving_terminating: source.serving && source.terminating,
                    };
                    let group = unique.entry((port.name.clone(), port.protocol)).or_default();
                    let rank = |e: &Endpoint| (e.ready, e.serving_terminating, e.node.is_some());
                    match group.get(&(endpoint.address, endpoint.port)) {
                        Some(known) if rank(known) >= rank(&endpoint) => {}
                        _ => {
                            group.insert((endpoint.address, endpoint.port), endpoint);
                        }
                    }
                }
            }
        }
        let by_port = unique
            .into_iter()
            .map(|(port, group)| (port, group.into_values().collect()))
            .collect();
        Self {
            by_port,
            ready_by_node,
        }
    }

    /// Where new connections to a port may go, anywhere in the cluster; sorted by address.
    pub fn cluster(&self, port: &ServicePort) -> Vec<&Endpoint> {
        usable(self.of(port).iter())
    }

    /// Where new connections to a port may go on one node; sorted by address.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ServiceKey, SliceEndpoint, SlicePort};

    fn endpoint(address: &str, node: Option<&str>, flags: &str) -> SliceEndpoint {
        SliceEndpoint {
            address: address.parse().unwrap(),
            node: node.map(NodeName::from),
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
        }
    }

    fn slice(port: u16, endpoints: Vec<SliceEndpoint>) -> Slice {
        Slice {
            service: ServiceKey::new("default", "a"),
            family: Family::V4,
            ports: vec![SlicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port,
            }],
            endpoints,
        }
    }

    fn http() -> ServicePort {
        ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }
    }

    fn shown(endpoints: &[&Endpoint]) -> Vec<String> {
        endpoints
            .iter()
            .map(|e| format!("{}:{}", e.address, e.port))
            .collect()
    }

    #[test]
    fn ready_first_then_serving_terminating_and_never_mixed() {
        let (n1, n2) = (NodeName::from("n1"), NodeName::from("n2"));
        let joined = Endpoints::join(
            &[slice(
                8080,
                vec![
                    endpoint("10.0.0.1", Some("n1"), "rs"),
                    endpoint("10.0.0.2", Some("n2"), "st"),
                    endpoint("10.0.0.3", Some("n2"), "t"),
                ],
            )],
            Family::V4,
        );
        assert_eq!(shown(&joined.cluster(&http())), ["10.0.0.1:8080"]);
        assert_eq!(shown(&joined.local(&http(), &n1)), ["10.0.0.1:8080"]);
        // Local falls back by itself although the cluster has a ready endpoint.
        assert_eq!(shown(&joined.local(&http(), &n2)), ["10.0.0.2:8080"]);
        assert_eq!((joined.ready_on(&n1), joined.ready_on(&n2)), (1, 0));
        assert!(joined.any_usable());
    }

    #[test]
    fn slices_with_different_target_ports_join() {
        let joined = Endpoints::join(
            &[
                slice(8080, vec![endpoint("10.0.0.1", Some("n1"), "rs")]),
                slice(9090, vec![endpoint("10.0.0.2", None, "rs")]),
                slice(0, vec![endpoint("10.0.0.9", None, "rs")]),
            ],
            Family::V4,
        );
        assert_eq!(
            shown(&joined.cluster(&http())),
            ["10.0.0.1:8080", "10.0.0.2:9090"]
        );
        assert!(joined.local(&http(), &NodeName::from("n2")).is_empty());
        let other = ServicePort {
            name: "https".into(),
            ..http()
        };
        assert!(joined.cluster(&other).is_empty());
    }

    #[test]
    fn a_duplicate_counts_once_and_its_ready_copy_wins() {
        for flip in [false, true] {
            let mut slices = vec![
                slice(80, vec![endpoint("10.0.0.1", Some("n1"), "st")]),
                slice(80, vec![endpoint("10.0.0.1", Some("n1"), "rs")]),
            ];
            if flip {
                slices.reverse();
            }
            let joined = Endpoints::join(&slices, Family::V4);
            assert_eq!(shown(&joined.cluster(&http())), ["10.0.0.1:80"]);
            assert_eq!(joined.ready_on(&NodeName::from("n1")), 1);
        }
    }

    #[test]
    fn the_wrong_family_is_passed_over() {
        let joined = Endpoints::join(
            &[slice(80, vec![endpoint("2001:db8::1", None, "rs")])],
            Family::V4,
        );
        assert!(!joined.any_usable());
        let empty = Endpoints::join(&[slice(80, vec![endpoint("10.0.0.1", None, "rs")])], Family::V6);
        assert_eq!(empty, Endpoints::default());
    }
}
