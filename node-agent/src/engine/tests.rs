use std::sync::{Arc, Mutex};

use fairlead_core::model::{Family, ServiceKey};
use prometheus_client::registry::Registry;

use super::*;

/// A kernel in memory that can be told to refuse.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    table: Option<Ruleset>,
    refuse_update: bool,
    refuse_replace: bool,
    calls: Vec<&'static str>,
}

impl Kernel {
    fn set(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.0.lock().unwrap());
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

fn refused() -> DriverError {
    DriverError::Ended
}

impl Driver for Kernel {
    async fn read(&mut self, _: &Ruleset) -> Result<Option<Ruleset>, DriverError> {
        Ok(self.0.lock().unwrap().table.clone())
    }

    async fn replace(&mut self, desired: Arc<Ruleset>) -> Result<(), DriverError> {
        let mut state = self.0.lock().unwrap();
        state.calls.push("replace");
        if state.refuse_replace {
            return Err(refused());
        }
        state.table = Some(Ruleset::clone(&desired));
        Ok(())
    }

    async fn update(&mut self, changes: Arc<Changes>) -> Result<(), DriverError> {
        let mut state = self.0.lock().unwrap();
        state.calls.push("update");
        if state.refuse_update {
            return Err(refused());
        }
        let mut held = Held::new(state.table.take().ok_or_else(refused)?);
        held.apply(Changes::clone(&changes));
        state.table = Some(held.ruleset().clone());
        Ok(())
    }

    async fn forget(&mut self, _: Lost) -> Result<(), DriverError> {
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        self.0.lock().unwrap().table = None;
        Ok(())
    }
}

fn engine() -> (Engine<Kernel>, Kernel) {
    let kernel = Kernel::default();
    let metrics = Metrics::register(&mut Registry::default());
    (Engine::new(kernel.clone(), 0x0020_0000, metrics), kernel)
}

fn plan(vips: &[&str]) -> Forwarding {
    Forwarding {
        addresses: vips
            .iter()
            .map(|vip| (vip.parse().unwrap(), [ServiceKey::new("default", *vip)].into()))
            .collect(),
        ..Forwarding::default()
    }
}

fn ages(engine: &Engine<Kernel>, now: Instant) -> Vec<Option<u64>> {
    let report = engine.report(now);
    report.addresses.values().map(|a| a.unapplied_ms).collect()
}

#[tokio::test]
async fn first_the_whole_table_then_differences_each_with_a_number() {
    let (mut engine, kernel) = engine();
    let now = Instant::now();
    assert_eq!(engine.report(now), AgentReport::default());
    for (vips, number, calls) in [
        (&["192.0.2.1"][..], 1, vec!["replace"]),
        (&["192.0.2.1", "192.0.2.2"], 2, vec!["update"]),
        (&[], 3, vec!["update"]),
    ] {
        assert!(engine.offer(plan(vips), now));
        assert_eq!(engine.apply().await, Ok(()));
        assert_eq!(kernel.calls(), calls);
        let report = engine.report(now);
        assert_eq!((report.plan, report.addresses.len()), (number, vips.len()));
    }
    assert!(!engine.offer(plan(&[]), now), "the same plan is no change");
    assert_eq!(engine.apply().await, Ok(()));
    assert_eq!(kernel.calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_difference_that_fails_is_followed_by_the_whole_table() {
    let (mut engine, kernel) = engine();
    let now = Instant::now();
    engine.offer(plan(&["192.0.2.1"]), now);
    engine.apply().await.unwrap();
    kernel.set(|k| k.refuse_update = true);
    engine.offer(plan(&["192.0.2.2"]), now);
    engine.apply().await.unwrap();
    assert_eq!(
        kernel.calls(),
        ["replace", "update", "update", "replace"],
        "what is known, what was read, and everything"
    );
    assert_eq!(engine.report(now).plan, 2);
}

#[tokio::test]
async fn what_cannot_be_applied_ages_and_is_tried_again_with_growing_pauses() {
    let (mut engine, kernel) = engine();
    let begin = Instant::now();
    engine.offer(plan(&["192.0.2.1", "192.0.2.2"]), begin);
    engine.apply().await.unwrap();
    kernel.set(|k| (k.refuse_update, k.refuse_replace) = (true, true));
    let other = plan(&["192.0.2.1", "192.0.2.3"]);
    engine.offer(other.clone(), begin);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.push(engine.apply().await.unwrap_err().as_millis());
        // A newer plan does not make the oldest change younger.
        engine.offer(other.clone(), begin + Duration::from_secs(1));
    }
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    let later = begin + Duration::from_secs(3);
    // The table itself is to be replaced, so every address of it is concerned.
    assert_eq!(ages(&engine, later), [Some(3000), Some(3000)]);
    kernel.set(|k| (k.refuse_update, k.refuse_replace) = (false, false));
    engine.apply().await.unwrap();
    assert_eq!(ages(&engine, later), [None, None]);
}

#[tokio::test]
async fn only_the_address_that_changes_has_an_age() {
    let (mut engine, kernel) = engine();
    let begin = Instant::now();
    engine.offer(plan(&["192.0.2.1", "192.0.2.2"]), begin);
    engine.apply().await.unwrap();
    engine.offer(plan(&["192.0.2.1"]), begin);
    engine.prepare();
    let later = begin + Duration::from_millis(20);
    assert_eq!(ages(&engine, later), [None, Some(20)]);
    // Going back to what is applied leaves nothing to write.
    kernel.calls();
    engine.offer(plan(&["192.0.2.1", "192.0.2.2"]), later);
    engine.prepare();
    assert_eq!(ages(&engine, later), [None, None]);
    engine.apply().await.unwrap();
    assert_eq!(kernel.calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_foreign_change_is_repaired() {
    let (mut engine, kernel) = engine();
    let now = Instant::now();
    engine.offer(plan(&["192.0.2.1"]), now);
    engine.apply().await.unwrap();
    engine.check(now).await;
    assert!(!engine.is_pending());
    kernel.set(|k| k.table = None);
    engine.check(now).await;
    assert!(engine.is_pending());
    engine.prepare();
    assert_eq!(
        ages(&engine, now),
        [Some(0)],
        "what is not in the kernel is not reported as applied"
    );
    engine.apply().await.unwrap();
    assert_eq!(kernel.calls(), ["replace", "replace"]);
    assert_eq!(engine.report(now).plan, 2);
}

#[tokio::test]
async fn removal_is_reported_as_clean() {
    let (mut engine, kernel) = engine();
    let now = Instant::now();
    engine.offer(plan(&["192.0.2.1"]), now);
    engine.apply().await.unwrap();
    engine.remove().await.unwrap();
    assert!(kernel.0.lock().unwrap().table.is_none());
    let report = engine.report(now);
    assert!(report.clean && report.addresses.is_empty(), "{report:?}");
}

#[tokio::test]
async fn answers_for_services_are_those_of_the_plan_in_the_kernel() {
    let (mut engine, kernel) = engine();
    let now = Instant::now();
    let key = (ServiceKey::new("default", "web"), Family::V4);
    let with = |ready, vip| Forwarding {
        local_ready: [(key.clone(), ready)].into(),
        ..plan(&[vip])
    };
    let count = |engine: &Engine<Kernel>| engine.local_endpoints().map(|all| all.get(&key).copied());
    assert_eq!(count(&engine), None, "what a predecessor left is not known");
    engine.offer(with(1, "192.0.2.1"), now);
    assert_eq!(count(&engine), None);
    assert_eq!(engine.apply().await, Ok(()));
    assert_eq!(count(&engine), Some(Some(1)));
    kernel.set(|state| (state.refuse_update, state.refuse_replace) = (true, true));
    assert!(engine.offer(with(0, "192.0.2.2"), now));
    assert!(engine.apply().await.is_err());
    assert_eq!(count(&engine), Some(Some(1)), "not in the kernel yet");
    kernel.set(|state| (state.refuse_update, state.refuse_replace) = (false, false));
    assert_eq!(engine.apply().await, Ok(()));
    assert_eq!(count(&engine), Some(Some(0)));
    assert!(
        engine.offer(with(2, "192.0.2.2"), now),
        "a change, although none for packets"
    );
    assert_eq!(engine.apply().await, Ok(()));
    assert_eq!(count(&engine), Some(Some(2)));
    engine.remove().await.unwrap();
    assert_eq!(count(&engine), Some(None), "nothing is served any more");
}
