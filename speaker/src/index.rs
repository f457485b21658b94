//! What the speaker watches.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_api::{BGPAdvertisement, BGPPeer, L2Advertisement, convert};
use fairlead_core::config::{RawAdvertisement, RawBgpAdvertisement, RawPeer, RawPool};
use fairlead_core::model::{Node, NodeName, Service, ServiceKey};
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use fairlead_runtime::{Slices, Table, follow_services};
use k8s_openapi::api::core::v1 as core_v1;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::membership::task::Peers;

/// One table for each kind.
#[derive(Clone)]
pub struct Index {
    /// All Services.
    pub services: Table<Service>,
    /// All EndpointSlices.
    pub slices: Slices,
    /// All Nodes: this one, and those whose speakers gossip.
    pub nodes: Table<Node>,
    /// All AddressPools.
    pub pools: Table<RawPool>,
    /// All L2Advertisements.
    pub advertisements: Table<RawAdvertisement>,
    /// All BGPPeers.
    pub bgp_peers: Table<RawPeer>,
    /// All BGPAdvertisements.
    pub bgp_advertisements: Table<RawBgpAdvertisement>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::tracked("Service"),
            slices: Slices::default(),
            nodes: Table::new("Node"),
            pools: Table::new("AddressPool"),
            advertisements: Table::new("L2Advertisement"),
            bgp_peers: Table::new("BGPPeer"),
            bgp_advertisements: Table::new("BGPAdvertisement"),
        }
    }
}

impl Index {
    /// Have all kinds been listed?
    pub fn listed(&self) -> bool {
        self.services.listed()
            && self.slices.table.listed()
            && self.nodes.listed()
            && self.pools.listed()
            && self.advertisements.listed()
            && self.bgp_peers.listed()
            && self.bgp_advertisements.listed()
    }

    /// The Services that changed since the last call, themselves or in their EndpointSlices.
    pub fn changed_services(&mut self) -> BTreeSet<ServiceKey> {
        let mut changed = self.slices.changes();
        changed.extend(
            self.services
                .changes()
                .iter()
                .filter_map(|key| ServiceKey::parse(key)),
        );
        changed
    }

    /// The address of each node at which its speaker is reached: its first InternalIP.
    pub fn peers(&self) -> Peers {
        self.nodes
            .values()
            .filter_map(|node| Some((node.name.clone(), *node.internal_ips.first()?)))
            .collect()
    }

    /// The addresses of a node.
    pub fn addresses(&self, node: &NodeName) -> &[IpAddr] {
        self.nodes
            .get(node.as_str())
            .map_or(&[], |node| &node.internal_ips)
    }
}

/// Starts one watch for each kind.
pub fn follow_all(client: &Client, shared: &Shared<Index>, tasks: &mut JoinSet<()>) {
    follow_services(
        client,
        shared,
        tasks,
        |index| &mut index.services,
        |index| &mut index.slices.table,
        |index| &mut index.pools,
    );
    tasks.spawn(follow(
        Api::<Guarded<core_v1::Node>>::all(client.clone()),
        config(),
        shared.clone(),
        |index: &mut Index| &mut index.nodes,
        convert::node,
    ));
    tasks.spawn(follow(
        Api::<Guarded<L2Advertisement>>::all(client.clone()),
        config(),
        shared.clone(),
        |index: &mut Index| &mut index.advertisements,
        convert::advertisement,
    ));
    tasks.spawn(follow(
        Api::<Guarded<BGPPeer>>::all(client.clone()),
        config(),
        shared.clone(),
        |index: &mut Index| &mut index.bgp_peers,
        convert::peer,
    ));
    tasks.spawn(follow(
        Api::<Guarded<BGPAdvertisement>>::all(client.clone()),
        config(),
        shared.clone(),
        |index: &mut Index| &mut index.bgp_advertisements,
        convert::bgp_advertisement,
    ));
}
