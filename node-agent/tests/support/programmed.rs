//! The topology with a cluster's table in node1's kernel.

use std::time::Instant;

use fairlead_node_agent::engine::Engine;
use fairlead_node_agent::metrics::Metrics;
use fairlead_node_agent::nft::driver::Tables;
use prometheus_client::registry::Registry;

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

/// Does on node1 what a node agent does that has just started.
#[track_caller]
pub fn program(topology: &Topology, cluster: &Cluster) {
    on_node1(topology, async || {
        let metrics = Metrics::register(&mut Registry::default());
        let mut engine = Engine::new(Tables::open().unwrap(), MARK, metrics);
        engine.offer(cluster.plan(), Instant::now());
        engine.apply().await.unwrap();
    });
}

/// Runs something on node1, with a runtime.
pub fn on_node1<R: Send>(topology: &Topology, f: impl AsyncFnOnce() -> R + Send) -> R {
    topology.within("node1", || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(f())
    })
}
