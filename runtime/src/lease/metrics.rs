//! Figures of an election.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of an election.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) leader: Gauge,
    pub(super) transitions: Counter,
    pub(super) failures: Counter,
}

impl Metrics {
    /// Registers them in a registry that has the program's prefix.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "leader",
            "1 while this process leads, else 0",
            metrics.leader.clone(),
        );
        registry.register(
            "leader_transitions",
            "Times that this process began or ceased to lead",
            metrics.transitions.clone(),
        );
        registry.register(
            "lease_renew_failures",
            "Renewals of the Lease by the leader that were not confirmed",
            metrics.failures.clone(),
        );
        metrics
    }

    /// Without election: leads.
    pub fn lead(&self) {
        self.leader.set(1);
    }
}
