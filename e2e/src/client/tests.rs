//! The client against a small server on loopback.

use std::future::pending;
use std::sync::Arc;

use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: ClientArgs,
}

fn parse(args: &[String]) -> ClientOptions {
    Command::try_parse_from(std::iter::once("client".to_owned()).chain(args.to_vec()))
        .unwrap()
        .args
        .options
}

fn options(target: SocketAddr, duration: u64) -> ClientOptions {
    ClientOptions {
        duration: Some(Duration::from_millis(duration)),
        ..ClientOptions::new(target)
    }
}

/// Answers like agnhost, but only while `open`; closes a connection that is idle or asked on when `cut` is true.
struct Server {
    address: SocketAddr,
    open: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Server {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            open: watch::channel(true).0,
            cut: watch::channel(false).0,
        };
        let (open, cut) = (server.open.subscribe(), server.cut.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (open, mut cut) = (open.clone(), cut.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = answer(stream, peer, open) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        server
    }
}

async fn answer(mut stream: TcpStream, peer: SocketAddr, mut open: watch::Receiver<bool>) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    let mut path = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap().to_owned();
        }
        if line.is_empty() {
            open.wait_for(|open| *open).await.unwrap();
            let body = match path.as_str() {
                "/hostname" => "web-a".to_owned(),
                "/clientip" => peer.to_string(),
                _ => path.strip_prefix("/echo?msg=").unwrap().to_owned(),
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn options_survive_the_command_line() {
    let target = "[fd00:30::100]:80".parse().unwrap();
    let plain = ClientOptions::new(target);
    assert_eq!(parse(&[target.to_string()]), plain);
    let all = ClientOptions {
        interval: Duration::from_micros(2500),
        timeout: Duration::from_millis(300),
        duration: Some(Duration::from_secs(90)),
        hold: 3,
        hold_interval: Duration::from_millis(70),
        hold_timeout: Duration::from_secs(40),
        answers: true,
        ..plain.clone()
    };
    for options in [plain, all] {
        assert_eq!(parse(&options.to_args()), options);
    }
}

#[test]
fn durations() {
    assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
    assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    for text in ["", "20", "0s", "-1s", "soon"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn good_answers_at_an_even_pace() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = Server::start(address).await;
        let report = measure(&options(server.address, 1000), pending()).await;
        assert_eq!(
            (report.requests, report.good, report.failed),
            (50, 50, 0),
            "{report}"
        );
        assert_eq!(report.backends["web-a"], 50);
        assert_eq!(report.clients[&server.address.ip()], 50);
        assert!(report.answers.is_none() && report.held.is_none());
    }
}

#[tokio::test]
async fn a_pause_of_the_server_is_a_gap_and_delays_no_request() {
    let server = Server::start("127.0.0.1:0").await;
    let pause = Duration::from_millis(400);
    let options = ClientOptions {
        timeout: Duration::from_millis(100),
        answers: true,
        ..options(server.address, 1000)
    };
    let open = server.open.clone();
    let pausing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        open.send_replace(false);
        tokio::time::sleep(pause).await;
        open.send_replace(true);
    });
    let report = measure(&options, pending()).await;
    pausing.await.unwrap();
    assert_eq!(report.requests, 50, "{report}");
    assert_eq!(
        report.failures.keys().collect::<Vec<_>>(),
        [&FailureKind::Timeout],
        "{report}"
    );
    // Those that were started in the last 100 ms of the pause are answered after it.
    assert!((10..=18).contains(&report.failed), "{report}");
    assert!(
        report.longest_gap.ms >= 400 && report.longest_gap.ms < 600,
        "{report}"
    );
    assert!(
        (250..=400).contains(&report.longest_gap.began_ms),
        "{:?}",
        report.longest_gap
    );
    // The pace is kept while earlier requests hang.
    let answers = report.answers.unwrap();
    let widest = answers.windows(2).map(|pair| pair[1].t_ms - pair[0].t_ms).max();
    assert!(widest < Some(100), "{widest:?}");
}

#[tokio::test]
async fn stopping_ends_it_and_nobody_listening_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let options = ClientOptions {
        hold: 1,
        ..ClientOptions::new(target)
    };
    let stop = tokio::time::sleep(Duration::from_millis(200));
    let report = tokio::time::timeout(Duration::from_secs(2), measure(&options, stop))
        .await
        .unwrap();
    assert_eq!(report.good, 0);
    assert!(report.requests > 5, "{report}");
    assert_eq!(report.failures[&FailureKind::Refused], report.requests);
    assert_eq!(
        report.longest_gap,
        Gap {
            ms: report.duration_ms,
            began_ms: 0
        }
    );
    assert_eq!(report.held.unwrap().broken[0].failure, FailureKind::Refused);
}

#[tokio::test]
async fn held_connections_that_break_are_told_from_those_that_stall() {
    let server = Arc::new(Server::start("127.0.0.1:0").await);
    let options = ClientOptions {
        hold: 3,
        ..options(server.address, 1200)
    };
    let stalling = Arc::clone(&server);
    let stall = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stalling.open.send_replace(false);
        tokio::time::sleep(Duration::from_millis(300)).await;
        stalling.open.send_replace(true);
    });
    let held = measure(&options, pending()).await.held.unwrap();
    stall.await.unwrap();
    assert_eq!(
        (held.connections, held.broken.len(), held.backends["web-a"]),
        (3, 0, 3),
        "{held:?}"
    );
    assert!(held.longest_stall_ms >= 200, "{held:?}");
    assert!(held.good >= 3 * 6, "{held:?}");

    let cutting = Arc::clone(&server);
    let cut = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cutting.cut.send_replace(true);
    });
    let held = measure(&options, pending()).await.held.unwrap();
    cut.await.unwrap();
    assert_eq!(held.broken.len(), 3, "{held:?}");
    for broken in &held.broken {
        assert!(
            matches!(broken.failure, FailureKind::Closed | FailureKind::Reset),
            "{held:?}"
        );
        assert!((500..800).contains(&broken.t_ms), "{held:?}");
        assert_eq!(broken.backend.as_deref(), Some("web-a"));
    }
}

#[tokio::test]
async fn a_held_connection_without_an_answer_at_the_end_is_broken() {
    let server = Server::start("127.0.0.1:0").await;
    server.open.send_replace(false);
    let options = ClientOptions {
        hold: 1,
        timeout: Duration::from_millis(100),
        ..options(server.address, 300)
    };
    let held = measure(&options, pending()).await.held.unwrap();
    assert_eq!(
        held.broken
            .iter()
            .map(|broken| broken.failure)
            .collect::<Vec<_>>(),
        [FailureKind::Timeout]
    );
}

#[tokio::test]
async fn what_is_not_the_test_server_is_no_good_answer() {
    for answer in [
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na b",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        });
        let report = measure(&options(target, 100), pending()).await;
        assert_eq!(
            report.failures.get(&FailureKind::Http),
            Some(&report.requests),
            "{answer:?}: {report}"
        );
    }
}
