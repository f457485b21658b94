//! Watches, against an API server that can be told what to do.

use k8s_openapi::api::coordination::v1::Lease;

use super::*;
use crate::fake_api::FakeApi;

#[test]
fn retry_doubles_up_to_five_seconds_and_starts_again_after_a_calm_while() {
    let (mut retry, now) = (Retry::default(), Instant::now());
    let mut waits = vec![];
    for _ in 0..7 {
        // Each attempt begins well and then fails.
        retry.succeeded(now);
        waits.push(retry.failed(now).as_millis());
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
    retry.succeeded(now + CALM);
    assert_eq!(retry.failed(now + CALM), Duration::from_millis(200));
}

#[tokio::test]
async fn many_changes_are_one_notification() {
    let shared = Shared::new(Table::<u8>::new("Thing"));
    let mut changes = shared.changes();
    for _ in 0..3 {
        shared.touch();
    }
    changes.changed().await.unwrap();
    assert!(!changes.has_changed().unwrap());
}

/// Follows all Leases of a namespace: names and holders.
fn follow_leases(api: &FakeApi, relist: &Relist) -> Shared<Table<String>> {
    let shared = Shared::new(Table::new("Lease"));
    let api: Api<Guarded<Lease>> = Api::namespaced(api.client(), "ns");
    tokio::spawn(follow_and_relist(
        api,
        config(),
        shared.clone(),
        |table| table,
        |lease| lease.spec.as_ref()?.holder_identity.clone(),
        relist.clone(),
    ));
    shared
}

fn holder(shared: &Shared<Table<String>>) -> Option<String> {
    shared.with(|table| table.get("ns/a").cloned())
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn lists_again_only_when_the_last_list_is_too_old() {
    let api = FakeApi::start().await;
    let (before, relist) = (Instant::now(), Relist::new());
    api.put("a", "first");
    let shared = follow_leases(&api, &relist);
    tokio::time::timeout(SOON, relist.since(before)).await.unwrap();
    assert_eq!((holder(&shared).as_deref(), api.lists()), (Some("first"), 1));
    // The watch of this API server shows nothing.
    api.put("a", "second");
    let time = Instant::now();
    tokio::time::timeout(SOON, relist.since(time)).await.unwrap();
    assert_eq!((holder(&shared).as_deref(), api.lists()), (Some("second"), 2));
    for old in [time, before] {
        tokio::time::timeout(SOON, relist.since(old)).await.unwrap();
    }
    assert_eq!(api.lists(), 2);
}

#[tokio::test]
async fn a_list_that_began_before_does_not_count_and_the_table_is_of_use_meanwhile() {
    let api = FakeApi::start().await;
    let relist = Relist::new();
    api.put("a", "first");
    let shared = follow_leases(&api, &relist);
    tokio::time::timeout(SOON, relist.since(Instant::now()))
        .await
        .unwrap();
    // The list is made, and its answer does not come.
    let listed = api.lists();
    let held = api.hold().await;
    let (first, again) = (Instant::now(), relist.clone());
    let first = tokio::spawn(async move { again.since(first).await });
    api.wait_lists(listed + 1).await;
    api.put("a", "second");
    let (second, again) = (Instant::now(), relist.clone());
    let second = tokio::spawn(async move {
        again.since(second).await;
    });
    api.wait_lists(listed + 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(holder(&shared).as_deref(), Some("first"));
    drop(held);
    tokio::time::timeout(SOON, second).await.unwrap().unwrap();
    tokio::time::timeout(SOON, first).await.unwrap().unwrap();
    assert_eq!(holder(&shared).as_deref(), Some("second"));
}

#[tokio::test]
async fn when_a_list_began_counts_and_not_when_it_was_done() {
    let api = FakeApi::start().await;
    let relist = Relist::new();
    let held = api.hold().await;
    let shared = follow_leases(&api, &relist);
    api.wait_lists(1).await;
    api.put("a", "first");
    let meanwhile = Instant::now();
    drop(held);
    crate::fake_api::wait_until("the list", || shared.with(|table| table.listed())).await;
    assert_eq!(holder(&shared), None);
    tokio::time::timeout(SOON, relist.since(meanwhile)).await.unwrap();
    assert_eq!(holder(&shared).as_deref(), Some("first"));
}

#[tokio::test]
async fn a_list_that_fails_is_made_again() {
    let api = FakeApi::start().await;
    let relist = Relist::new();
    api.put("a", "first");
    let shared = follow_leases(&api, &relist);
    api.fail(2);
    let began = Instant::now();
    tokio::time::timeout(SOON, relist.since(began)).await.unwrap();
    assert_eq!(holder(&shared).as_deref(), Some("first"));
    // With pauses that grow, although each attempt begins with an event.
    assert!(began.elapsed() >= Duration::from_millis(200 + 400));
}
