//! What is watched, and the plan made from it.

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
    use std::collections::BTreeMap;

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
}
