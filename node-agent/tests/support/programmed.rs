//! The topology with a cluster's table in node1's kernel.

use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::render;

use super::objects::{Cluster, MARK};
use super::topology::Topology;

/// A topology with servers in all pods and the table for a cluster on node1.
pub fn with(cluster: &Cluster) -> Topology {
    let mut topology = Topology::new();
    for pod in ["pod1a", "pod1b", "pod2"] {
        topology.serve(pod);
    }
    program(&topology, cluster);
    topology
}

/// Replaces the table on node1.
#[track_caller]
pub fn program(topology: &Topology, cluster: &Cluster) {
    let text = render::replace(&build(&cluster.plan(), MARK));
    topology.nft(&["-f", "-"], &text).unwrap();
}
