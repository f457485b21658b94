//! What is watched, and the plan made from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use fairlead_api::convert;
use fairlead_core::config::{RawPool, compile};
use fairlead_core::forward::{Forwarding, Snapshot, plan};
use fairlead_core::model::{Node, NodeName, Service, Slice};
use fairlead_core::ownership::ClassPolicy;
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use fairlead_runtime::{Table, follow_services};
use k8s_openapi::api::core::v1 as core_v1;
use kube::{Api, Client};
use tokio::task::JoinSet;

/// The objects that the node agent follows.
#[derive(Debug)]
pub struct Index {
    /// All Services.
    pub services: Table<Service>,
    /// All EndpointSlices.
    pub slices: Table<Slice>,
    /// All Nodes: this one for what is served here, the others for their addresses.
    pub nodes: Table<Node>,
    /// All AddressPools.
    pub pools: Table<RawPool>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::new("Service"),
            slices: Table::new("EndpointSlice"),
            nodes: Table::new("Node"),
            pools: Table::new("AddressPool"),
        }
    }
}

impl Index {
    /// The plan for node `me`; `None` until every kind has been listed once, so that a restart never takes away what
    /// it has merely not heard of yet.
    pub fn plan(&self, me: &NodeName, class: ClassPolicy) -> Option<Forwarding> {
        let listed =
            self.services.listed() && self.slices.listed() && self.nodes.listed() && self.pools.listed();
        if !listed {
            return None;
        }
        let pools: Vec<RawPool> = self.pools.values().cloned().collect();
        let config = compile(&pools, &[]).config;
        let services: Vec<&Service> = self.services.values().collect();
        let slices: Vec<&Slice> = self.slices.values().collect();
        let snapshot = Snapshot {
            services: &services,
            slices: &slices,
            config: &config,
            class,
            node: self.nodes.get(me.as_str()),
        };
        Some(plan(&snapshot, me))
    }

    /// The first IPv4 InternalIP of each node; `None` until the Nodes have been listed once.
    pub fn node_addresses(&self) -> Option<BTreeMap<NodeName, Ipv4Addr>> {
        let address = |node: &Node| {
            node.internal_ips.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            })
        };
        let nodes = self.nodes.values();
        self.nodes.listed().then(|| {
            nodes
                .filter_map(|node| Some((node.name.clone(), address(node)?)))
                .collect()
        })
    }
}

/// Starts one watch for each kind.
pub fn follow_all(client: &Client, shared: &Shared<Index>, tasks: &mut JoinSet<()>) {
    follow_services(
        client,
        shared,
        tasks,
        |index| &mut index.services,
        |index| &mut index.slices,
        |index| &mut index.pools,
    );
    tasks.spawn(follow(
        Api::<Guarded<core_v1::Node>>::all(client.clone()),
        config(),
        shared.clone(),
        |index| &mut index.nodes,
        convert::node,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planned_before_every_kind_has_been_listed() {
        let me = NodeName::from("n1");
        let class = ClassPolicy {
            serve_classless: true,
            metallb: false,
        };
        let mut index = Index::default();
        assert_eq!(index.plan(&me, class), None);
        index.services.reset(BTreeMap::new());
        index.slices.reset(BTreeMap::new());
        index.nodes.reset(BTreeMap::new());
        assert_eq!(index.plan(&me, class), None);
        index.pools.reset(BTreeMap::new());
        assert_eq!(index.plan(&me, class), Some(Forwarding::default()));
    }

    #[test]
    fn nodes_are_known_by_their_first_ipv4_address() {
        let mut index = Index::default();
        assert_eq!(index.node_addresses(), None, "not listed yet");
        let mut dual = fairlead_core::testing::node("a", "2001:db8::1");
        for address in ["192.0.2.2", "192.0.2.3"] {
            dual.internal_ips.push(address.parse().unwrap());
        }
        let six = fairlead_core::testing::node("b", "2001:db8::2");
        index
            .nodes
            .reset([dual, six].map(|node| (node.name.to_string(), node)).into());
        let expected = BTreeMap::from([(NodeName::from("a"), Ipv4Addr::new(192, 0, 2, 2))]);
        assert_eq!(index.node_addresses(), Some(expected));
    }
}
