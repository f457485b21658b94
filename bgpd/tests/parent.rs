//! The parent with a real `gobgpd` and a real router: what that sees when the speaker, the daemon or all of them end.

#![allow(clippy::unwrap_used, reason = "a test")]

mod stage;

use std::time::{Duration, Instant};

use fairlead_bgpd::word::End;
use fairlead_bgpd::{API_SOCKET, PARENT_SOCKET, heartbeat};
use stage::{Stage, Wishes};

const GRACEFUL: Wishes = Wishes {
    graceful: true,
    everything: false,
};

/// What BIRD logs of a NOTIFICATION.
const NOTIFICATION: &str = "Received: ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_speaker_the_daemon_withdraws_and_with_the_next_it_is_back() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&["--heartbeat-timeout=2s"]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    // Much longer than the timeout: a speaker that is alive keeps its routes.
    let alive = Instant::now() + Duration::from_secs(4);
    while Instant::now() < alive {
        assert!(stage.routed(), "{}", stage.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let daemon = stage.daemon_pid();
    drop(speaker);
    task.await.unwrap();
    let gone = stage.wait("the route goes with the speaker", |stage| !stage.routed());
    println!(
        "route gone {} ms after the speaker, timeout 2000 ms",
        gone.as_millis()
    );
    assert!(gone < Duration::from_secs(3), "{gone:?}");
    stage.wait("the router is told why", |stage| {
        let log = stage.router_log();
        log.contains("Administrative shutdown") && log.contains("the speaker of this node is gone")
    });
    stage.wait("the daemon is gone", |stage| stage.daemon_pid().is_none());
    let status = heartbeat::status(&stage.sockets().join(PARENT_SOCKET))
        .await
        .unwrap();
    assert!(status.starts_with("not ok: daemon is down"), "{status}");

    let (_speaker, _task) = stage.speaker();
    stage.announce().await;
    assert_ne!(stage.daemon_pid(), daemon);
    let status = heartbeat::status(&stage.sockets().join(PARENT_SOCKET))
        .await
        .unwrap();
    assert!(
        status.starts_with("ok: daemon runs; speaker is there"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_routes_go_with_the_speaker_too() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&["--heartbeat-timeout=2s"]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    stage.announce_many().await;
    drop(speaker);
    task.await.unwrap();
    let gone = stage.wait("all routes go with the speaker", |stage| stage.routes() == 0);
    println!(
        "10 001 routes gone {} ms after the speaker, timeout 2000 ms",
        gone.as_millis()
    );
    assert!(gone < Duration::from_secs(4), "{gone:?}\n{}", stage.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_is_back_within_a_second() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&[]);
    let (_speaker, _task) = stage.speaker();
    stage.announce().await;
    let first = stage.daemon_pid().unwrap();
    let killed = Instant::now();
    let status = std::process::Command::new("kill")
        .args(["-9", &first.to_string()])
        .status();
    assert!(status.unwrap().success());
    stage.wait("another daemon", |stage| {
        stage.daemon_pid().is_some_and(|pid| pid != first)
    });
    let global = stage.daemon().await.global().await.unwrap();
    let back = killed.elapsed();
    println!("the next daemon answers after {} ms", back.as_millis());
    assert!(back < Duration::from_secs(1), "{back:?}\n{}", stage.logs());
    assert_eq!(global, None, "it knows nothing of the former");
    assert!(stage.routed(), "graceful restart\n{}", stage.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_has_seized_up_is_replaced() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&["--answer-timeout=2s"]);
    let (_speaker, _task) = stage.speaker();
    stage.announce().await;
    let first = stage.daemon_pid().unwrap();
    let stop = std::process::Command::new("kill")
        .args(["-STOP", &first.to_string()])
        .status();
    assert!(stop.unwrap().success());
    let replaced = stage.wait("another daemon", |stage| {
        stage.daemon_pid().is_some_and(|pid| pid != first)
    });
    println!("replaced after {} ms, timeout 2000 ms", replaced.as_millis());
    assert_eq!(stage.daemon().await.global().await.unwrap(), None);
    // One that answers is left alone for longer than the timeout.
    let second = stage.daemon_pid();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.daemon_pid(), second, "{}", stage.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_and_keeps_its_routes_sends_no_notification() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&[]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    stage.signal_parent("TERM");
    speaker.send(Some(End::Keep)).unwrap();
    task.await.unwrap();
    assert!(stage.parent_ends(), "{}", stage.logs());
    stage.wait("the router notices the end of the session", |stage| {
        !stage.birdc("show protocols node").contains("Established")
    });
    assert!(stage.routed(), "{}", stage.logs());
    let log = stage.router_log();
    assert!(!log.contains(NOTIFICATION), "{log}");

    // The next pod continues where this one has ended.
    stage.start_parent(&[]);
    let (_speaker, _task) = stage.speaker();
    stage.announce().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_and_withdraws_says_so_even_with_graceful_restart() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&[]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    stage.signal_parent("TERM");
    // The parent waits for the speaker, which is still at work.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(stage.routed(), "{}", stage.logs());
    speaker.send(Some(End::Withdraw)).unwrap();
    task.await.unwrap();
    let gone = stage.wait("the route goes", |stage| !stage.routed());
    println!("route gone {} ms after the last word", gone.as_millis());
    assert!(stage.parent_ends(), "{}", stage.logs());
    let log = stage.router_log();
    assert!(
        log.contains(NOTIFICATION) && log.contains("has withdrawn its routes"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_graceful_restart_there_is_a_farewell_in_any_case() {
    let mut stage = Stage::new(Wishes::default());
    stage.start_parent(&[]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    speaker.send(Some(End::Keep)).unwrap();
    task.await.unwrap();
    // Only the speaker restarts: the session goes on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(stage.routed(), "{}", stage.logs());
    stage.signal_parent("TERM");
    assert!(stage.parent_ends(), "{}", stage.logs());
    stage.wait("the route goes", |stage| !stage.routed());
    stage.wait("a farewell", |stage| stage.router_log().contains(NOTIFICATION));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_without_a_speaker_withdraws_at_once() {
    let mut stage = Stage::new(GRACEFUL);
    stage.start_parent(&[]);
    let (speaker, task) = stage.speaker();
    stage.announce().await;
    drop(speaker);
    task.await.unwrap();
    stage.signal_parent("TERM");
    assert!(stage.parent_ends(), "{}", stage.logs());
    stage.wait("the route goes", |stage| !stage.routed());
}

/// The parent, and so the daemon, runs without a single capability in all of these tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_ttl_security_bfd_and_binding_need_no_capability() {
    let mut stage = Stage::new(Wishes {
        graceful: false,
        everything: true,
    });
    stage.start_parent(&[]);
    let (_speaker, _task) = stage.speaker();
    stage.announce().await;
    let pid = stage.daemon_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let effective = status.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert!(effective.ends_with("\t0000000000000000"), "{effective}");
    stage.wait("BFD is up", |stage| {
        let shown = stage.birdc("show bfd sessions");
        shown
            .lines()
            .any(|line| line.starts_with("192.0.2.1") && line.contains("Up"))
    });
    // Nothing but the Unix socket, and BFD's port.
    let path = format!("/proc/{pid}/net/tcp");
    let listening = std::fs::read_to_string(path).unwrap();
    let listening: Vec<&str> = listening.lines().filter(|line| line.contains(" 0A ")).collect();
    assert!(listening.is_empty(), "{listening:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_parents_the_second_waits_for_the_end_of_the_first() {
    let mut first = Stage::new(Wishes::default());
    first.start_parent(&[]);
    let (_speaker, _task) = first.speaker();
    first.announce().await;
    let lock = first.sockets().join("lock");
    let held = std::fs::File::open(&lock).unwrap();
    assert!(held.try_lock().is_err(), "the first holds it");
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_fairlead-bgpd"))
        .arg("--directory")
        .arg(first.sockets())
        .args(["--gobgpd", "/bin/true"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // It takes neither the first one's sockets nor its place.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(first.daemon().await.global().await.unwrap().is_some());
    assert!(first.sockets().join(API_SOCKET).exists());
    let status = heartbeat::status(&first.sockets().join(PARENT_SOCKET))
        .await
        .unwrap();
    assert!(
        status.starts_with("ok: daemon runs; speaker is there"),
        "{status}"
    );
    first.signal_parent("KILL");
    assert!(!first.parent_ends());
    // Then it has the socket, and no daemon, which ends at once.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match heartbeat::status(&first.sockets().join(PARENT_SOCKET)).await {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = second.kill();
    let _ = second.wait();
}
