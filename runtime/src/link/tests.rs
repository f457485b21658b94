use std::time::Duration;

use fairlead_core::model::{Family, ServiceKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn socket(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("fairlead-link-{name}-{}.sock", std::process::id()))
}

fn report(plan: u64) -> AgentReport {
    let address = AddressReport {
        plan,
        unapplied_ms: None,
    };
    AgentReport {
        plan,
        clean: false,
        addresses: BTreeMap::from([("192.0.2.1".parse().unwrap(), address)]),
        pod_sources: "podCIDRs 10.0.1.0/24".into(),
    }
}

#[tokio::test]
async fn reports_travel_both_ways_and_the_end_is_noticed() {
    let path = socket("both");
    let (agent_out, agent_report) = tokio::sync::watch::channel(report(1));
    let (speaker_in, mut speaker_view) = tokio::sync::watch::channel(None);
    let server = tokio::spawn({
        let path = path.clone();
        async move { serve(&path, agent_report, speaker_in).await }
    });
    let (speaker_out, speaker_report) = tokio::sync::watch::channel(SpeakerReport::default());
    let (agent_in, mut agent_view) = tokio::sync::watch::channel(AgentView::default());
    let client = tokio::spawn({
        let path = path.clone();
        async move { connect(&path, speaker_report, agent_in).await }
    });
    let plan_is = |plan| move |view: &AgentView| view.connected && view.last == Some(report(plan));
    timeout(PATIENCE, agent_view.wait_for(plan_is(1)))
        .await
        .expect("first report")
        .unwrap();
    agent_out.send_replace(report(2));
    timeout(PATIENCE, agent_view.wait_for(plan_is(2)))
        .await
        .expect("changed report")
        .unwrap();
    let ours = SpeakerReport {
        withdrawn: true,
        announcing: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        owners: Some([("192.0.2.9".parse().unwrap(), "192.0.2.1".parse().unwrap())].into()),
        fellows: BTreeSet::from(["02:00:5e:00:53:01".to_owned()]),
        dead: BTreeSet::from(["192.0.2.7".parse().unwrap()]),
    };
    speaker_out.send_replace(ours.clone());
    timeout(
        PATIENCE,
        speaker_view.wait_for(|view| *view == Some(ours.clone())),
    )
    .await
    .expect("speaker")
    .unwrap();

    server.abort();
    timeout(PATIENCE, agent_view.wait_for(|view| !view.connected))
        .await
        .expect("loss is noticed")
        .unwrap();
    assert_eq!(
        agent_view.borrow().last,
        Some(report(2)),
        "the last report is kept"
    );

    // A restarted agent replaces the socket file, and the speaker finds it by itself.
    let (_agent_out, agent_report) = tokio::sync::watch::channel(report(1));
    let (speaker_in, mut speaker_view) = tokio::sync::watch::channel(None);
    let server = tokio::spawn({
        let path = path.clone();
        async move { serve(&path, agent_report, speaker_in).await }
    });
    timeout(PATIENCE, agent_view.wait_for(plan_is(1)))
        .await
        .expect("reconnected")
        .unwrap();
    client.abort();
    timeout(PATIENCE, speaker_view.wait_for(Option::is_some))
        .await
        .expect("speaker again")
        .unwrap();
    timeout(PATIENCE, speaker_view.wait_for(Option::is_none))
        .await
        .expect("speaker's end")
        .unwrap();
    server.abort();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn garbage_and_older_versions_end_the_connection_but_not_the_server() {
    let path = socket("garbage");
    let (_agent_out, agent_report) = tokio::sync::watch::channel(report(1));
    let (speaker_in, speaker_view) = tokio::sync::watch::channel(None);
    let server = tokio::spawn({
        let path = path.clone();
        async move { serve(&path, agent_report, speaker_in).await }
    });
    let mut waited = 0;
    while !path.exists() {
        waited += 1;
        assert!(waited < 1000, "the socket never appeared");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for line in [
        "nonsense\n",
        "{\"version\":0}\n",
        "{\"version\":1}\n[]\n",
        "{\"version\":1}\n{\"withdrawn\":",
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .expect("the server hangs up")
            .unwrap();
        assert!(
            rest.starts_with(b"{\"version\":1}\n"),
            "{line:?}: {}",
            String::from_utf8_lossy(&rest)
        );
    }
    assert_eq!(*speaker_view.borrow(), None);
    assert!(!server.is_finished());
    server.abort();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn the_agent_answers_for_single_services_as_a_health_check_node_port_does() {
    let path = socket("health");
    let key = |name, family| (ServiceKey::new("default", name), family);
    let (counts, endpoints) = tokio::sync::watch::channel(None);
    let server = tokio::spawn({
        let path = path.clone();
        async move { serve_health(&path, endpoints).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!path.exists(), "nothing is known yet");
    counts.send_replace(Some(LocalEndpoints::from([
        (key("web", Family::V4), 2),
        (key("web", Family::V6), 0),
    ])));
    let ask = async |url: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let request = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .expect("an answer")
            .unwrap();
        answer
    };
    let answer = ask("/healthz/default/web/ipv4").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(
        answer.contains("x-load-balancing-endpoint-weight: 2\r\n"),
        "{answer}"
    );
    let body =
        r#"{"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#;
    assert!(answer.ends_with(body), "{answer}");
    for (url, status) in [
        ("/healthz/default/web/ipv6", 503),
        ("/healthz/default/db/ipv4", 503),
        ("/healthz/default/web/ipv5", 404),
        ("/healthz", 404),
    ] {
        let answer = ask(url).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{url}: {answer}"
        );
    }
    counts.send_replace(Some(LocalEndpoints::new()));
    let answer = ask("/healthz/default/web/ipv4").await;
    assert!(answer.contains(r#""localEndpoints":0"#), "{answer}");
    server.abort();
    std::fs::remove_file(&path).unwrap();
}
