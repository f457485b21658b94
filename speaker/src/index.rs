//! What the speaker watches.

use std::collections::BTreeSet;

use fairlead_api::{L2Advertisement, NodeState, convert};
use fairlead_core::announce::{Record, Records};
use fairlead_core::config::{RawAdvertisement, RawPool};
use fairlead_core::model::{Node, NodeName, Service, Slice};
use fairlead_runtime::watch::{Guarded, Shared, config, follow};
use fairlead_runtime::{Table, follow_services};
use k8s_openapi::api::core::v1 as core_v1;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::l2::Mac;

/// The NodeState of one node, as far as other speakers read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its candidacy record.
    pub record: Record,
    /// The MAC addresses it announces from.
    pub macs: BTreeSet<Mac>,
}

/// One table for each kind.
pub struct Index {
    /// All Services.
    pub services: Table<Service>,
    /// All EndpointSlices.
    pub slices: Table<Slice>,
    /// The Node of this speaker only.
    pub nodes: Table<Node>,
    /// All AddressPools.
    pub pools: Table<RawPool>,
    /// All L2Advertisements.
    pub advertisements: Table<RawAdvertisement>,
    /// The NodeStates of all speakers.
    pub states: Table<Peer>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Table::new("Service"),
            slices: Table::new("EndpointSlice"),
            nodes: Table::new("Node"),
            pools: Table::new("AddressPool"),
            advertisements: Table::new("L2Advertisement"),
            states: Table::new("NodeState"),
        }
    }
}

impl Index {
    /// Have all kinds been listed?
    pub fn listed(&self) -> bool {
        self.services.listed()
            && self.slices.listed()
            && self.nodes.listed()
            && self.pools.listed()
            && self.advertisements.listed()
            && self.states.listed()
    }

    /// The published records of all nodes.
    pub fn records(&self) -> Records {
        self.states
            .iter()
            .map(|(name, peer)| (NodeName::from(name), peer.record.clone()))
            .collect()
    }

    /// The MAC addresses of all speakers.
    pub fn macs(&self) -> BTreeSet<Mac> {
        self.states
            .values()
            .flat_map(|peer| peer.macs.iter().copied())
            .collect()
    }
}

/// A NodeState as the index keeps it.
pub fn peer(state: &NodeState) -> Peer {
    state.status.as_ref().map_or_else(Peer::default, |status| Peer {
        record: convert::record(&status.candidacy),
        macs: status
            .interfaces
            .iter()
            .filter_map(|interface| interface.mac.parse().ok())
            .collect(),
    })
}

/// Starts one watch for each kind.
pub fn follow_all(client: &Client, me: &NodeName, shared: &Shared<Index>, tasks: &mut JoinSet<()>) {
    let own = watcher::Config {
        field_selector: Some(format!("metadata.name={me}")),
        ..config()
    };
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
        own,
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
        Api::<Guarded<NodeState>>::all(client.clone()),
        config(),
        shared.clone(),
        |index: &mut Index| &mut index.states,
        |state| Some(peer(state)),
    ));
}
