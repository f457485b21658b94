//! What addresses are given by, put together from all kinds but Services.

use fairlead_core::config::{
    Compiled, RawAdvertisement, RawBgpAdvertisement, RawPeer, RawPool, Written, compile,
};
use fairlead_core::ipam::Rules;
use fairlead_core::ownership::ClassPolicy;
use fairlead_core::range::IpRange;

use crate::index::Index;

/// The checked configuration, and the rules made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// Verdicts on pools, advertisements and peers.
    pub compiled: Compiled,
    /// What the ledger decides by.
    pub rules: Rules,
}

/// Puts it together.
pub fn basis(index: &Index, class: ClassPolicy) -> Basis {
    let pools: Vec<RawPool> = index.pools.values().map(|entry| entry.raw.clone()).collect();
    let advertisements: Vec<RawAdvertisement> = index
        .advertisements
        .values()
        .map(|entry| entry.raw.clone())
        .collect();
    let peers: Vec<RawPeer> = index.peers.values().map(|entry| entry.raw.clone()).collect();
    let bgp_advertisements: Vec<RawBgpAdvertisement> = index
        .bgp_advertisements
        .values()
        .map(|entry| entry.raw.clone())
        .collect();
    let compiled = compile(&Written {
        pools: &pools,
        advertisements: &advertisements,
        peers: &peers,
        bgp_advertisements: &bgp_advertisements,
    });
    let namespaces = index
        .namespaces
        .iter()
        .map(|(name, labels)| (name.to_owned(), labels.clone()));
    let rules = Rules::new(compiled.config.clone(), class)
        .with_namespaces(namespaces.collect())
        .with_never(never(index));
    Basis { compiled, rules }
}

/// Addresses of the cluster itself and of its networks, which no Service may get.
fn never(index: &Index) -> Vec<(IpRange, String)> {
    let mut never = Vec::new();
    for node in index.nodes.values() {
        for address in &node.addresses {
            never.push((
                IpRange::from(*address),
                format!("an address of node {}", node.name),
            ));
        }
    }
    for view in index.views.values() {
        never.extend(view.network.iter().cloned());
    }
    for node in index.nodes.values() {
        for net in &node.pod_cidrs {
            never.push((
                IpRange::from(*net),
                format!("in the pod network {net} of node {}", node.name),
            ));
        }
    }
    for (name, nets) in index.service_cidrs.iter() {
        for net in nets {
            never.push((
                IpRange::from(*net),
                format!("in the cluster IP range {net} (ServiceCIDR {name})"),
            ));
        }
    }
    never
}
