//! Metrics of the node agent, all named `fairlead_agent_…`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How a plan got into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Way {
    /// A whole plan.
    Full,
    /// The endpoints of single Services.
    Partial,
}

/// Why the table was read, and what differed written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Cause {
    /// The agent has just started.
    Start,
    /// The last change failed.
    Failure,
    /// Somebody else changed or removed the table.
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabel {
    sync: Way,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: Cause,
}

/// Handles of all metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    plan: Gauge<i64>,
    addresses: Gauge<i64>,
    elements: Gauge<i64>,
    chains: Gauge<i64>,
    unapplied: Gauge<f64, AtomicU64>,
    duration: Family<WayLabel, Histogram>,
    failures: Family<WayLabel, Counter>,
    replaced: Family<CauseLabel, Counter>,
    warnings: Gauge<i64>,
    healthz_ports: Gauge<i64>,
    healthz_failing: Gauge<i64>,
    conntrack_entries: Gauge<i64>,
    conntrack_max: Gauge<i64>,
    swept: Counter,
    sweeps: Histogram,
    sweep_failures: Counter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            plan: Gauge::default(),
            addresses: Gauge::default(),
            elements: Gauge::default(),
            chains: Gauge::default(),
            unapplied: Gauge::default(),
            // 1 ms to 16 s.
            duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            failures: Family::default(),
            replaced: Family::default(),
            warnings: Gauge::default(),
            healthz_ports: Gauge::default(),
            healthz_failing: Gauge::default(),
            conntrack_entries: Gauge::default(),
            conntrack_max: Gauge::default(),
            swept: Counter::default(),
            // 1 ms to 16 s.
            sweeps: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            sweep_failures: Counter::default(),
        };
        let r = registry.sub_registry_with_prefix("fairlead_agent");
        r.register("plan", "Number of the plan in the kernel", metrics.plan.clone());
        r.register("addresses", "VIPs in the kernel", metrics.addresses.clone());
        r.register(
            "elements",
            "Elements of sets and maps in the kernel",
            metrics.elements.clone(),
        );
        r.register("chains", "Chains in the kernel", metrics.chains.clone());
        let help = "Age of the oldest change that is not in the kernel";
        r.register_with_unit("unapplied", help, Unit::Seconds, metrics.unapplied.clone());
        let help = "Time to bring a plan into the kernel";
        r.register_with_unit("sync_duration", help, Unit::Seconds, metrics.duration.clone());
        let help = "Plans that could not be brought into the kernel";
        r.register("sync_failures", help, metrics.failures.clone());
        let help = "Times the table was read and put right, by cause";
        r.register("table_replaced", help, metrics.replaced.clone());
        let help = "Settings of this node that keep traffic from flowing as it should; the log names them";
        r.register("preflight_warnings", help, metrics.warnings.clone());
        let help = "Ports open in kube-proxy's stead: health-check node ports, and the one of /healthz";
        r.register("healthz_ports", help, metrics.healthz_ports.clone());
        let help = "Ports that should be open in kube-proxy's stead and are not; the log names them";
        r.register("healthz_ports_failing", help, metrics.healthz_failing.clone());
        let help = "Entries of connection tracking";
        r.register("conntrack_entries", help, metrics.conntrack_entries.clone());
        let help = "Entries of connection tracking that the kernel has room for";
        r.register("conntrack_entries_max", help, metrics.conntrack_max.clone());
        let help = "Entries of connection tracking deleted because they led past what is served";
        r.register("conntrack_deleted", help, metrics.swept.clone());
        let help = "Time of a pass through the connection tracking table";
        r.register_with_unit("conntrack_sweep", help, Unit::Seconds, metrics.sweeps.clone());
        let help = "Passes through the connection tracking table that failed";
        r.register("conntrack_sweep_failures", help, metrics.sweep_failures.clone());
        metrics
    }

    /// A plan is in the kernel.
    pub fn applied(&self, way: Way, took: Duration, number: u64) {
        self.duration
            .get_or_create(&WayLabel { sync: way })
            .observe(took.as_secs_f64());
        self.plan.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// What the kernel holds now.
    pub fn holds(&self, addresses: usize, chains: usize, elements: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.addresses.set(count(addresses));
        self.chains.set(count(chains));
        self.elements.set(count(elements));
    }

    /// A plan could not be brought into the kernel.
    pub fn failed(&self, way: Way) {
        self.failures.get_or_create(&WayLabel { sync: way }).inc();
    }

    /// The table was read and put right.
    pub fn replaced(&self, cause: Cause) {
        self.replaced.get_or_create(&CauseLabel { cause }).inc();
    }

    /// Age of the oldest unapplied change; zero when there is none.
    pub fn unapplied(&self, age: Duration) {
        self.unapplied.set(age.as_secs_f64());
    }

    /// Number of warnings of the preflight.
    pub fn warnings(&self, count: usize) {
        self.warnings.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How full the connection tracking table is.
    pub fn conntrack(&self, entries: u64, max: u64) {
        self.conntrack_entries
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.conntrack_max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// So many ports are open in kube-proxy's stead, and so many could not be opened.
    pub fn healthz(&self, open: usize, failing: usize) {
        self.healthz_ports.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.healthz_failing
            .set(i64::try_from(failing).unwrap_or(i64::MAX));
    }

    /// A pass through the connection tracking table has deleted so many entries.
    pub fn swept(&self, deleted: usize, took: Duration) {
        self.swept.inc_by(deleted as u64);
        self.sweeps.observe(took.as_secs_f64());
    }

    /// A pass through the connection tracking table failed.
    pub fn sweep_failed(&self) {
        self.sweep_failures.inc();
    }
}
