//! Figures of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use fairlead_core::ipam::PoolState;

use crate::planner::Audit;
use crate::tally::{State, Tally};
use crate::writes::{Ended, Object};

type Label = [(&'static str, String); 1];
type TwoLabels = [(&'static str, String); 2];

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    services: Family<Label, Gauge>,
    assigned: Family<TwoLabels, Gauge>,
    available: Family<TwoLabels, Gauge>,
    plans: Histogram,
    writes: Family<TwoLabels, Counter>,
    events_lost: Counter<u64, AtomicU64>,
    audits: Family<Label, Counter>,
    duplicates: Gauge,
    repaired: Counter<u64, AtomicU64>,
    pools: Mutex<BTreeSet<TwoLabels>>,
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
            audits: Family::default(),
            duplicates: Gauge::default(),
            repaired: Counter::default(),
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
        registry.register(
            "audits",
            "Checks that every address is given once and that the state in memory is what a fresh look at all objects \
             gives: done, or skipped because writes were under way",
            metrics.audits.clone(),
        );
        registry.register(
            "duplicate_addresses",
            "Services that carry an address which an older Service has and does not share, at the last check",
            metrics.duplicates.clone(),
        );
        registry.register(
            "audit_repairs",
            "Decisions that a check found to be wrong and put right",
            metrics.repaired.clone(),
        );
        metrics
    }

    /// What changed was taken over, and writes were made up, in so long.
    pub fn planned(&self, took: Duration) {
        self.plans.observe(took.as_secs_f64());
    }

    /// The present state of Services and pools.
    pub fn show(&self, tally: &Tally, pools: &BTreeMap<String, PoolState>) {
        for state in State::ALL {
            self.services
                .get_or_create(&[("state", state.as_str().to_owned())])
                .set(tally.count(state));
        }
        let clamp = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut shown: BTreeSet<[(&'static str, String); 2]> = BTreeSet::new();
        for (pool, state) in pools {
            for (family, usage) in [("ipv4", state.v4), ("ipv6", state.v6)] {
                let Some(usage) = usage else { continue };
                let label = [("pool", pool.clone()), ("family", family.to_owned())];
                self.assigned.get_or_create(&label).set(clamp(usage.assigned));
                self.available.get_or_create(&label).set(clamp(usage.available));
                shown.insert(label);
            }
        }
        let mut known = self
            .pools
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for label in known.difference(&shown) {
            self.assigned.remove(label);
            self.available.remove(label);
        }
        *known = shown;
    }

    /// A check of everything was made.
    pub fn audited(&self, audit: &Audit) {
        let result = if audit.skipped { "skipped" } else { "done" };
        self.audits.get_or_create(&[("result", result.to_owned())]).inc();
        self.duplicates
            .set(i64::try_from(audit.duplicates).unwrap_or(i64::MAX));
        self.repaired.inc_by(audit.repaired as u64);
    }

    /// This process leads no longer: what a plan would say is another's to tell.
    pub fn deposed(&self) {
        self.services.clear();
        self.assigned.clear();
        self.available.clear();
        self.duplicates.set(0);
        let mut known = self
            .pools
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        known.clear();
    }

    /// A write has ended.
    pub fn wrote(&self, object: &Object, ended: &Ended) {
        let result = match ended {
            Ended::Accepted(_) => "accepted",
            Ended::Stale => "stale",
            Ended::Refused(_) => "refused",
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
    use fairlead_core::ipam::Usage;
    use fairlead_core::model::ServiceKey;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn figures_of_a_vanished_pool_are_gone() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let usage = Usage {
            total: i64::MAX as u64,
            assigned: 3,
            available: i64::MAX as u64,
        };
        let mut tally = Tally::default();
        tally.set(&ServiceKey::new("n", "a"), Some(State::Announced));
        let state = PoolState {
            v4: Some(usage),
            ..PoolState::default()
        };
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        metrics.planned(Duration::from_millis(2));
        metrics.show(&tally, &[("blue".to_owned(), state.clone())].into());
        metrics.wrote(&Object::Pool("blue".into()), &Ended::Stale);
        for line in [
            "fairlead_controller_services{state=\"announced\"} 1",
            "fairlead_controller_pool_addresses_assigned{pool=\"blue\",family=\"ipv4\"} 3",
            "fairlead_controller_pool_addresses_available{pool=\"blue\",family=\"ipv4\"} 9223372036854775807",
            "fairlead_controller_plan_duration_seconds_count 1",
            "fairlead_controller_writes_total{kind=\"AddressPool\",result=\"stale\"} 1",
        ] {
            assert!(text().contains(line), "{line} is not in\n{}", text());
        }
        metrics.show(&Tally::default(), &BTreeMap::new());
        assert!(!text().contains("pool=\"blue\",family"), "{}", text());
        metrics.show(&tally, &[("blue".to_owned(), state)].into());
        metrics.deposed();
        assert!(
            !text().contains("services{") && !text().contains("pool=\"blue\",family"),
            "{}",
            text()
        );
    }
}
