//! Probes against servers that behave in every wrong way, over loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_core::model::ServiceKey;
use fairlead_speaker::health::{Prober, Question};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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
        url: format!("http://{address}/healthz"),
        service: Some(ServiceKey::new("default", "web")),
    }
}

async fn probe_once(address: SocketAddr) -> Result<(), String> {
    let started = Instant::now();
    let mut prober = Prober::new(question(address), TIMEOUT);
    let outcome = timeout(PATIENCE, prober.probe())
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
            Err("invalid HTTP version parsed"),
        ),
        (Behaviour::Hang, Err("no answer within 400 ms")),
        (Behaviour::HangInBody, Err("no answer within 400 ms")),
        (
            Behaviour::EndlessBody,
            Err("HTTP 200: the answer is longer than 16384 bytes"),
        ),
        (
            Behaviour::Close,
            Err("connection closed before message completed"),
        ),
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

#[tokio::test]
async fn connections_are_kept_and_dialled_anew_every_tenth_time() {
    let server = serve(Behaviour::Say(GOOD)).await;
    let mut prober = Prober::new(question(server.address), Duration::from_secs(5));
    for number in 1..=30 {
        assert_eq!(prober.probe().await, Ok(()), "probe {number}");
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 30);
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn after_a_failure_the_connection_is_dialled_anew() {
    let bad = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let server = serve(Behaviour::Say(bad)).await;
    let mut prober = Prober::new(question(server.address), Duration::from_secs(5));
    for _ in 0..3 {
        assert_eq!(prober.probe().await, Err("HTTP 503".into()));
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}
