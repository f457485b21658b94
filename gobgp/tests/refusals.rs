//! What is said of a daemon that is not there, too old, or goes away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::Duration;

use fairlead_gobgp::{Daemon, Error};
use http::{HeaderMap, Response};
use tokio::net::UnixListener;

/// A server that answers every call with this status of gRPC, and closes the connection after so many calls.
fn serve(path: &Path, status: &'static str, calls: usize) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        for _ in 0..calls {
            let Some(Ok((_, mut respond))) = connection.accept().await else {
                return;
            };
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            if status == "0" {
                // An empty message.
                stream.send_data(vec![0; 5].into(), false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", "because".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        // What was answered is still to be written; one more call is not answered.
        let _ = connection.accept().await;
    });
}

#[tokio::test]
async fn nobody_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let error = Daemon::connect(&path).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("api.sock"), "{error}");
    assert!(error.lost());
}

#[tokio::test]
async fn an_older_daemon_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    serve(&path, "12", 1);
    let error = Daemon::connect(&path).await.unwrap_err();
    assert!(matches!(error, Error::TooOld), "{error:?}");
    assert!(error.to_string().contains("older than GoBGP 4"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_from_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    serve(&path, "0", 1);
    let mut daemon = Daemon::connect(&path).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(10), daemon.global())
        .await
        .unwrap()
        .unwrap_err();
    assert!(gone.lost(), "{gone:?}");

    let path = dir.path().join("other.sock");
    serve(&path, "2", 1);
    let error = Daemon::connect(&path).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { call: "GetBgp", .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("because"), "{error}");
    assert!(!error.lost());
}
