//! All probes of a node together, against servers on loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_core::announce::{ProbeTarget, Verdict};
use fairlead_core::model::{Family, ServiceKey};
use fairlead_runtime::link::{LocalEndpoints, serve_health};
use fairlead_runtime::raise_file_limit;
use fairlead_speaker::health::{Health, ProxyHealth, Settings, Timing, Verdicts};
use fairlead_speaker::metrics::{Metrics, ProbeLabels};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// What a test waits for at the most.
const PATIENCE: Duration = Duration::from_secs(20);

fn health() -> Health {
    health_with("/nowhere".into()).0
}

fn health_with(agent: PathBuf) -> (Health, Metrics) {
    let settings = Settings {
        timing: Timing::default(),
        proxy: ProxyHealth::Port(10256),
        agent,
    };
    let metrics = Metrics::new(&mut Registry::default());
    (Health::new(settings, metrics.clone()), metrics)
}

fn target(name: impl Into<String>, port: u16) -> ProbeTarget {
    ProbeTarget::Service {
        service: ServiceKey::new("default", name),
        address: "127.0.0.1".parse().unwrap(),
        port,
    }
}

/// A server that answers 200 while `good`, else 503, or takes requests and never answers.
struct Server {
    port: u16,
    good: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

async fn serve(answers: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        port: listener.local_addr().unwrap().port(),
        good: Arc::new(AtomicBool::new(true)),
        requests: Arc::default(),
    };
    let (good, requests) = (Arc::clone(&server.good), Arc::clone(&server.requests));
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                continue;
            };
            let (good, requests) = (Arc::clone(&good), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut request = [0; 1024];
                while matches!(stream.read(&mut request).await, Ok(length) if length > 0) {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let status = if good.load(Ordering::SeqCst) { 200 } else { 503 };
                    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    if answers && stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    server
}

async fn until(what: &str, verdicts: &mut watch::Receiver<Verdicts>, holds: impl FnMut(&Verdicts) -> bool) {
    let last = verdicts.clone();
    if timeout(PATIENCE, verdicts.wait_for(holds)).await.is_err() {
        panic!("{what}: {:?}", last.borrow());
    }
}

#[tokio::test]
async fn a_thousand_targets_that_hang_do_not_keep_others_waiting() {
    raise_file_limit().unwrap();
    let (hanging, healthy) = (serve(false).await, serve(true).await);
    let mut health = health();
    let mut verdicts = health.verdicts();
    let mut targets: BTreeMap<ProbeTarget, Timing> = (0..1000)
        .map(|number| (target(format!("hang{number}"), hanging.port), Timing::default()))
        .collect();
    health.apply(&targets);
    until("all hang", &mut verdicts, |all| all.len() == 1000).await;
    let ours: Vec<ProbeTarget> = (0..10)
        .map(|number| target(format!("good{number}"), healthy.port))
        .collect();
    targets.extend(ours.iter().map(|target| (target.clone(), Timing::default())));
    let begin = Instant::now();
    health.apply(&targets);
    until("healthy ones pass", &mut verdicts, |all| {
        ours.iter().all(|target| all.get(target) == Some(&Verdict::Pass))
    })
    .await;
    // Far more than it takes; with 64 probes at a time, hanging ones included, it would be six seconds.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let (before, begin) = (healthy.requests.load(Ordering::SeqCst), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = healthy.requests.load(Ordering::SeqCst) - before;
    let expected = 10.0 * begin.elapsed().as_secs_f64() / 0.5;
    assert!(
        asked as f64 > 0.8 * expected,
        "{asked} of {expected} probes in time"
    );
    let all = verdicts.borrow();
    assert!(
        ours.iter().all(|target| all.get(target) == Some(&Verdict::Pass)),
        "{all:?}"
    );
}

/// The rules of an agent that restarts stay in the kernel.
#[tokio::test]
async fn while_the_node_agent_is_away_its_last_answer_holds() {
    let path = std::env::temp_dir().join(format!("fairlead-health-{}.sock", std::process::id()));
    let service = ServiceKey::new("default", "web");
    let answering = |count| {
        let endpoints = LocalEndpoints::from([((service.clone(), Family::V4), count)]);
        let (sender, receiver) = watch::channel(Some(endpoints));
        let path = path.clone();
        tokio::spawn(async move {
            let _open = sender;
            serve_health(&path, receiver).await
        })
    };
    let (mut health, metrics) = health_with(path.clone());
    let mut verdicts = health.verdicts();
    let target = ProbeTarget::Agent {
        service: service.clone(),
        family: Family::V4,
    };
    let timing = Timing {
        interval: Duration::from_millis(100),
        ..Timing::default()
    };
    let agent = answering(1);
    health.apply(&BTreeMap::from([(target.clone(), timing)]));
    let passes = |all: &Verdicts| all.get(&target) == Some(&Verdict::Pass);
    until("it passes", &mut verdicts, passes).await;
    agent.abort();
    let (kind, result) = ("agent", "failure");
    let failures = || metrics.probes.get_or_create(&ProbeLabels { kind, result }).get();
    let (before, deadline) = (failures(), Instant::now() + PATIENCE);
    while failures() < before + 5 {
        assert!(Instant::now() < deadline, "{} probes failed", failures() - before);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(passes(&verdicts.borrow()), "{:?}", verdicts.borrow());
    let agent = answering(0);
    let fails = Verdict::Fail("HTTP 503: no local endpoints".into());
    until("it fails", &mut verdicts, |all| all.get(&target) == Some(&fails)).await;
    agent.abort();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn other_timing_takes_effect_and_keeps_the_verdict() {
    let server = serve(true).await;
    let web = target("web", server.port);
    let slow = Timing {
        interval: Duration::from_secs(3600),
        ..Timing::default()
    };
    let mut health = health();
    let mut verdicts = health.verdicts();
    health.apply(&BTreeMap::from([(web.clone(), slow)]));
    let is = |verdict: Verdict| {
        let web = web.clone();
        move |all: &Verdicts| all.get(&web) == Some(&verdict)
    };
    until("it passes", &mut verdicts, is(Verdict::Pass)).await;
    server.good.store(false, Ordering::SeqCst);
    let fast = Timing {
        interval: Duration::from_millis(100),
        ..slow
    };
    health.apply(&BTreeMap::from([(web.clone(), fast)]));
    assert_eq!(verdicts.borrow().get(&web), Some(&Verdict::Pass), "kept");
    let failed = Verdict::Fail("HTTP 503".into());
    until("two failures", &mut verdicts, is(failed)).await;
    let asked = server.requests.load(Ordering::SeqCst);
    assert_eq!(
        asked, 3,
        "one good answer, and as many bad ones as the threshold says"
    );
    // A target that went away is forgotten, and is new when it comes back.
    health.apply(&BTreeMap::new());
    assert_eq!(*verdicts.borrow(), Verdicts::new());
    server.good.store(true, Ordering::SeqCst);
    health.apply(&BTreeMap::from([(web.clone(), slow)]));
    until("it passes at the first answer", &mut verdicts, is(Verdict::Pass)).await;
    assert_eq!(server.requests.load(Ordering::SeqCst), asked + 1);
}
