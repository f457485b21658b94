//! The requests, against an API server that can be told what to do. (Its watches show nothing: contenders must poll.)

use prometheus_client::registry::Registry;

use super::*;
use crate::fake_api::{FakeApi, wait_until};

const LEASE: &str = "election";

/// Takes part with short times: a lease of 2 s, a renew deadline of 800 ms, retries every 100 ms.
async fn contend(api: &FakeApi, pod: &str) -> Election {
    let ms = Duration::from_millis;
    let settings = Settings::new(ms(2000), ms(800), ms(100)).unwrap();
    let lease = LeaseName {
        namespace: "ns".into(),
        name: LEASE.into(),
    };
    let metrics = Metrics::new(&mut Registry::default());
    let election = Election::start(api.client(), &lease, identity(pod), settings, metrics);
    election.decided().await;
    election
}

fn leads(election: &Election) -> bool {
    election.leadership.is_leading(Instant::now())
}

fn holder(api: &FakeApi) -> String {
    let lease = api.get(LEASE).unwrap_or_default();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    holder.split('_').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_first_leads_and_a_release_lets_the_second_lead() {
    let api = FakeApi::start().await;
    let first = contend(&api, "first").await;
    assert!(leads(&first), "it leads as soon as that is decided");
    let second = contend(&api, "second").await;
    assert!(!leads(&second));
    let spec = |key: &str| api.get(LEASE).unwrap()["spec"][key].clone();
    let acquired = spec("acquireTime");
    wait_until("a renewal", || spec("renewTime") != acquired).await;
    assert_eq!((holder(&api).as_str(), spec("acquireTime")), ("first", acquired));
    assert_eq!(
        (spec("leaseDurationSeconds"), spec("leaseTransitions")),
        (2.into(), 0.into())
    );

    let old = first.leadership();
    first.release().await;
    assert!(!old.is_leading(Instant::now()));
    wait_until("the second to lead", || leads(&second)).await;
    assert_eq!(
        (holder(&api).as_str(), spec("leaseTransitions")),
        ("second", 1.into())
    );
    // Nobody leads after the last one; the Lease says so.
    second.release().await;
    assert_eq!(
        (holder(&api).as_str(), spec("leaseDurationSeconds")),
        ("", 1.into())
    );
    contend(&api, "third").await;
    assert_eq!(holder(&api), "third", "a free Lease is taken at once");
}

#[tokio::test]
async fn without_answers_a_leader_leads_no_more_and_then_again() {
    let api = FakeApi::start().await;
    let election = contend(&api, "pod").await;
    let mut leadership = election.leadership();
    let term = leadership.begun().await;
    let began = Instant::now();
    let held = api.hold().await;
    tokio::time::timeout(Duration::from_secs(5), leadership.lost(term.number))
        .await
        .unwrap();
    // Writes may have been done in the meantime, but were not confirmed.
    assert!(
        began.elapsed() <= Duration::from_millis(1000),
        "{:?}",
        began.elapsed()
    );
    assert!(!leads(&election));
    drop(held);
    let again = tokio::time::timeout(Duration::from_secs(5), leadership.begun())
        .await
        .unwrap();
    assert_ne!(
        again.number, term.number,
        "a term of its own, since it was interrupted"
    );
}

#[tokio::test]
async fn a_lease_that_another_took_deposes_and_a_deleted_one_is_made_again() {
    let api = FakeApi::start().await;
    let election = contend(&api, "pod").await;
    api.delete(LEASE);
    wait_until("the Lease to be there again", || holder(&api) == "pod").await;
    assert!(leads(&election));
    api.put(LEASE, "somebody");
    wait_until("the leader to notice", || !leads(&election)).await;
    assert_eq!(holder(&api), "somebody");
    wait_until("the somebody to expire", || leads(&election)).await;
}
