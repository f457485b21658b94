//! Probes against servers that behave in every wrong way, over loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_core::announce::ProbeTarget;
use fairlead_core::model::{Family, ServiceKey};
use fairlead_runtime::link::{LocalEndpoints, serve_health};
use fairlead_speaker::health::{Lateness, Place, Prober, ProxyHealth, Question};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_millis(400);
/// What a test waits for at the most.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server does with a connection once the request has been read.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Say(&'static str),
    Hang,
    HangInBody,
    EndlessBody,
    /// A byte of the body now and then, for ever.
    Drip,
    /// A header field without end.
    HugeHead,
    /// A line that is HTTP's and then nothing.
    HangInHead,
    /// The answer, and then the end of the connection.
    SayAndClose(&'static str),
    /// The answer, and unasked another.
    SayTwice(&'static str),
    Close,
    Reset,
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(behaviour: Behaviour) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&connections), Arc::clone(&requests));
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counters.0.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(stream, behaviour, Arc::clone(&counters.1)));
        }
    });
    Server {
        address,
        connections,
        requests,
        task,
    }
}

async fn converse(mut stream: TcpStream, behaviour: Behaviour, requests: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 4096];
    while let Ok(length) = stream.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        requests.fetch_add(1, Ordering::SeqCst);
        match behaviour {
            Behaviour::Say(answer) => {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Behaviour::Hang => std::future::pending::<()>().await,
            Behaviour::HangInBody => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12")
                    .await;
                std::future::pending::<()>().await;
            }
            Behaviour::EndlessBody => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                return;
            }
            Behaviour::Drip => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                    .await;
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            Behaviour::HugeHead => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
                while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
                return;
            }
            Behaviour::HangInHead => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await;
                std::future::pending::<()>().await;
            }
            Behaviour::SayAndClose(answer) => {
                let _ = stream.write_all(answer.as_bytes()).await;
                return;
            }
            Behaviour::SayTwice(answer) => {
                let _ = stream.write_all(answer.repeat(2).as_bytes()).await;
            }
            Behaviour::Close => return,
            Behaviour::Reset => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
        }
    }
}

fn question(address: SocketAddr) -> Question {
    Question {
        place: Place::Node(address),
        path: "/healthz".into(),
        service: Some(ServiceKey::new("default", "web")),
    }
}

async fn probe_once(address: SocketAddr) -> Result<(), String> {
    let started = Instant::now();
    let mut prober = Prober::new(question(address));
    let lateness = Lateness::default();
    let outcome = timeout(PATIENCE, prober.probe(TIMEOUT, &lateness))
        .await
        .expect("a probe ends by itself");
    assert!(
        started.elapsed() < TIMEOUT + Duration::from_secs(2),
        "took {:?}",
        started.elapsed()
    );
    outcome
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 69\r\n\r\n{\"service\":{\"namespace\":\"default\",\"name\":\"web\"},\"localEndpoints\": 1 }";

#[tokio::test]
async fn every_wrong_answer_is_a_failure_with_a_sentence_of_its_own() {
    let cases: &[(Behaviour, Result<(), &str>)] = &[
        (Behaviour::Say(GOOD), Ok(())),
        (
            Behaviour::Say(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 20\r\n\r\n{\"localEndpoints\":0}",
            ),
            Err("HTTP 503: no local endpoints"),
        ),
        (
            Behaviour::Say("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"localEndpoints\":0}"),
            Err("HTTP 200: but no local endpoints"),
        ),
        (
            Behaviour::Say(
                "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            ),
            Err("HTTP 301: a redirect is no answer"),
        ),
        (
            Behaviour::Say("SSH-2.0-OpenSSH_9.2\r\n"),
            Err("the answer is not HTTP"),
        ),
        (Behaviour::Hang, Err("no answer within 400 ms")),
        (
            Behaviour::HangInHead,
            Err("the answer was not complete within 400 ms"),
        ),
        (
            Behaviour::HangInBody,
            Err("the answer was not complete within 400 ms"),
        ),
        (Behaviour::Drip, Err("the answer was not complete within 400 ms")),
        (
            Behaviour::HugeHead,
            Err("the head of the answer is longer than 8192 bytes"),
        ),
        (
            Behaviour::SayAndClose("HTTP/1.1 200 OK\r\nContent-Length: 69\r\n\r\n{"),
            Err("HTTP 200: connection closed before the answer was complete"),
        ),
        (Behaviour::SayAndClose(GOOD), Ok(())),
        (
            Behaviour::Say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
            Err("HTTP 200: the answer is longer than 16384 bytes"),
        ),
        (
            Behaviour::Say("\u{1}\u{2}\u{3}garbage"),
            Err("the answer is not HTTP"),
        ),
        (
            Behaviour::EndlessBody,
            Err("HTTP 200: the answer is longer than 16384 bytes"),
        ),
        (Behaviour::Close, Err("connection closed without an answer")),
        (Behaviour::Reset, Err("connection reset")),
    ];
    for (behaviour, expected) in cases {
        let server = serve(*behaviour).await;
        let outcome = probe_once(server.address).await;
        assert_eq!(
            outcome.as_ref().copied().map_err(String::as_str),
            *expected,
            "{behaviour:?}"
        );
        assert_eq!(
            server.connections.load(Ordering::SeqCst),
            1,
            "{behaviour:?}: nothing is tried twice"
        );
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(probe_once(address).await, Err("connection refused".into()));
}

/// Probes so often with one prober, all of which must end alike.
async fn probe_often(server: &Server, times: usize, expected: Result<(), &str>) {
    let mut prober = Prober::new(question(server.address));
    let lateness = Lateness::default();
    for number in 1..=times {
        let outcome = prober.probe(Duration::from_secs(5), &lateness).await;
        assert_eq!(
            outcome.as_ref().copied().map_err(String::as_str),
            expected,
            "probe {number}"
        );
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), times);
}

#[tokio::test]
async fn connections_are_kept_and_dialled_anew_every_tenth_time() {
    let server = serve(Behaviour::Say(GOOD)).await;
    probe_often(&server, 30, Ok(())).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn after_a_failure_the_connection_is_dialled_anew() {
    let bad = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let server = serve(Behaviour::Say(bad)).await;
    probe_often(&server, 3, Err("HTTP 503")).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_connection_that_ended_between_two_probes_is_no_failure() {
    let server = serve(Behaviour::SayAndClose(GOOD)).await;
    probe_often(&server, 5, Ok(())).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_never_taken_for_one() {
    let server = serve(Behaviour::SayTwice(GOOD)).await;
    probe_often(&server, 5, Ok(())).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn an_address_of_another_machine_is_not_asked() {
    // TEST-NET-1: no machine has it, and this one neither.
    let outcome = probe_once("192.0.2.1:80".parse().unwrap()).await;
    assert_eq!(outcome, Err("192.0.2.1 is not an address of this node".into()));
}

#[tokio::test]
async fn the_node_agent_answers_for_single_services() {
    let path = std::env::temp_dir().join(format!("fairlead-probe-{}.sock", std::process::id()));
    let service = ServiceKey::new("default", "web");
    let target = ProbeTarget::Agent {
        service: service.clone(),
        family: Family::V4,
    };
    let (lateness, proxy) = (Lateness::default(), ProxyHealth::Port(10256));
    let mut prober = Prober::new(Question::of(&target, &proxy, &path));
    let nobody = prober.probe(TIMEOUT, &lateness).await;
    assert_eq!(nobody, Err("node agent: nobody listens".into()));
    assert!(prober.agent_is_away());
    let (counts, endpoints) = watch::channel(Some(LocalEndpoints::new()));
    let server = tokio::spawn({
        let path = path.clone();
        async move { serve_health(&path, endpoints).await }
    });
    let deadline = Instant::now() + PATIENCE;
    let none = Err("HTTP 503: no local endpoints".to_owned());
    loop {
        let outcome = prober.probe(TIMEOUT, &lateness).await;
        if outcome == none {
            break;
        }
        assert!(Instant::now() < deadline, "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!prober.agent_is_away());
    counts.send_replace(Some([((service.clone(), Family::V4), 1)].into()));
    for _ in 0..20 {
        assert_eq!(prober.probe(TIMEOUT, &lateness).await, Ok(()));
    }
    counts.send_replace(Some([((service, Family::V6), 1)].into()));
    assert_eq!(prober.probe(TIMEOUT, &lateness).await, none);
    server.abort();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn an_answer_that_came_while_this_process_stood_still_counts() {
    // In a thread and a runtime of its own, so that it goes on meanwhile; slower than the timeout.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        std::io::Write::write_all(&mut stream, GOOD.as_bytes()).unwrap();
        let _ = std::io::Read::read(&mut stream, &mut request);
    });
    let address = told.recv().unwrap();
    let (mut prober, lateness) = (Prober::new(question(address)), Lateness::default());
    let freeze = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::thread::sleep(Duration::from_millis(500)); // the whole of this test's runtime
    };
    let (outcome, ()) = tokio::join!(prober.probe(Duration::from_millis(100), &lateness), freeze);
    assert_eq!(outcome, Ok(()));
}
