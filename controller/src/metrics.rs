//! Figures of the controller.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::planner::Tally;
use crate::writes::{Ended, Object};

type Label = [(&'static str, String); 1];
type TwoLabels = [(&'static str, String); 2];

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    services: Family<Label, Gauge>,
    assigned: Family<Label, Gauge>,
    available: Family<Label, Gauge>,
    plans: Histogram,
    writes: Family<TwoLabels, Counter>,
    events_lost: Counter<u64, AtomicU64>,
    pools: Mutex<BTreeSet<String>>,
}

impl Metrics {
    /// Registers all figures under `fairlead_controller_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            services: Family::default(),
            assigned: Family::default(),
            available: Family::default(),
            plans: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
            ]),
            writes: Family::default(),
            events_lost: Counter::default(),
            pools: Mutex::default(),
        };
        let registry = registry.sub_registry_with_prefix("fairlead_controller");
        registry.register(
            "services",
            "Services of ours by state: announced, held_back (has an address that nobody announces), refused \
             (has no address), served_by_another",
            metrics.services.clone(),
        );
        registry.register(
            "pool_addresses_assigned",
            "Addresses of an AddressPool that are assigned to Services",
            metrics.assigned.clone(),
        );
        registry.register(
            "pool_addresses_available",
            "Addresses of an AddressPool that can still be assigned",
            metrics.available.clone(),
        );
        registry.register_with_unit(
            "plan_duration",
            "Time from the index to the list of writes",
            Unit::Seconds,
            metrics.plans.clone(),
        );
        registry.register(
            "writes",
            "Writes of a status by kind and result: accepted, stale (the object had changed or was gone), refused, \
             unknown (no answer)",
            metrics.writes.clone(),
        );
        registry.register(
            "events_lost",
            "Events that could not be published",
            metrics.events_lost.clone(),
        );
        metrics
    }

    /// A plan was made.
    pub fn planned(&self, tally: &Tally, took: Duration) {
        self.plans.observe(took.as_secs_f64());
        for (state, count) in [
            ("announced", tally.announced),
            ("held_back", tally.held_back),
            ("refused", tally.refused),
            ("served_by_another", tally.left_alone),
        ] {
            self.services
                .get_or_create(&[("state", state.to_owned())])
                .set(count);
        }
        let clamp = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (pool, count) in &tally.pools {
            let label = [("pool", pool.clone())];
            self.assigned.get_or_create(&label).set(clamp(count.assigned));
            self.available.get_or_create(&label).set(clamp(count.available));
        }
        let mut known = self
            .pools
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        known.retain(|pool| {
            let kept = tally.pools.contains_key(pool);
            if !kept {
                let label = [("pool", pool.clone())];
                self.assigned.remove(&label);
                self.available.remove(&label);
            }
            kept
        });
        known.extend(tally.pools.keys().cloned());
    }

    /// A write has ended.
    pub fn wrote(&self, object: &Object, ended: &Ended) {
        let result = match ended {
            Ended::Accepted(_) => "accepted",
            Ended::Stale => "stale",
            Ended::Refused => "refused",
            Ended::Unknown => "unknown",
        };
        let labels = [("kind", object.kind().to_owned()), ("result", result.to_owned())];
        self.writes.get_or_create(&labels).inc();
    }

    /// An event could not be published.
    pub fn event_lost(&self) {
        self.events_lost.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::ipam::PoolCount;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn figures_of_a_vanished_pool_are_gone() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let count = PoolCount {
            assigned: 3,
            available: i64::MAX as u64,
        };
        let tally = Tally {
            announced: 3,
            pools: [("blue".to_owned(), count)].into(),
            ..Tally::default()
        };
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        metrics.planned(&tally, Duration::from_millis(2));
        metrics.wrote(&Object::Pool("blue".into()), &Ended::Stale);
        for line in [
            "fairlead_controller_services{state=\"announced\"} 3",
            "fairlead_controller_pool_addresses_assigned{pool=\"blue\"} 3",
            "fairlead_controller_pool_addresses_available{pool=\"blue\"} 9223372036854775807",
            "fairlead_controller_plan_duration_seconds_count 1",
            "fairlead_controller_writes_total{kind=\"AddressPool\",result=\"stale\"} 1",
        ] {
            assert!(text().contains(line), "{line} is not in\n{}", text());
        }
        metrics.planned(&Tally::default(), Duration::from_millis(2));
        assert!(!text().contains("blue\"} 3"), "{}", text());
    }
}
