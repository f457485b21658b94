//! The ports of kube-proxy, served in a network namespace of their own.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fairlead_core::model::{Family, NodeName, Service, TrafficPolicy};
use fairlead_node_agent::healthz::{PORT, Sources, run};
use fairlead_node_agent::index::Index;
use fairlead_node_agent::metrics::Metrics;
use fairlead_runtime::link::{AgentReport, LocalEndpoints};
use fairlead_runtime::watch::Shared;
use prometheus_client::registry::Registry;
use support::objects::{Cluster, service};
use support::topology::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);

/// The status of an answer and its body, or why there is none.
async fn ask(to: &str, path: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let Ok(mut stream) = TcpStream::connect(to).await else {
        return "refused".into();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).await.is_err()
        || stream.read_to_string(&mut answer).await.is_err()
    {
        return "broken".into();
    }
    answer
}

async fn expect(to: &str, path: &str, what: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ask(to, path).await;
        if answer.contains(what) {
            return;
        }
        assert!(Instant::now() < end, "{to}{path}: expected {what}, got {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn kube_proxys_ports_follow_the_services_and_the_node() {
    let namespace = Namespace::new("healthz");
    namespace.ip(&["address", "add", "172.30.0.11/32", "dev", "lo"]);
    namespace.ip(&["address", "add", "fd00:30::11/128", "dev", "lo", "nodad"]);
    namespace.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(follow());
    });
}

async fn follow() {
    let node = Cluster::new().node;
    let web = Service {
        health_check_node_port: Some(31000),
        ..service("web", TrafficPolicy::Local, &["192.0.2.10"], &["80/tcp"])
    };
    let index = Shared::new(Index::default());
    index.with(|index| {
        index
            .services
            .reset(BTreeMap::from([(web.key.to_string(), web.clone())]));
        index
            .nodes
            .reset(BTreeMap::from([(node.name.to_string(), node.clone())]));
    });
    let (plan, endpoints) = watch::channel(None);
    let (report, reports) = watch::channel(AgentReport::default());
    let sources = Sources {
        me: NodeName::from("node1"),
        index: index.clone(),
        endpoints,
        reports,
    };
    let metrics = Metrics::register(&mut Registry::default());
    let serving = tokio::spawn(async move { run(sources, PORT, &metrics).await });

    expect("172.30.0.11:10256", "/healthz", "HTTP/1.1 503").await;
    expect("172.30.0.11:10256", "/livez", "HTTP/1.1 200").await;
    assert_eq!(
        ask("172.30.0.11:31000", "/").await,
        "refused",
        "nothing is in the kernel"
    );

    let both = |count| {
        [Family::V4, Family::V6]
            .map(|family| ((web.key.clone(), family), count))
            .into_iter()
            .collect::<LocalEndpoints>()
    };
    plan.send_replace(Some(both(2)));
    for node in ["172.30.0.11", "[fd00:30::11]"] {
        expect(&format!("{node}:31000"), "/healthz", "\"localEndpoints\": 2,").await;
        expect(&format!("{node}:10256"), "/healthz", "\"nodeEligible\":true").await;
    }
    assert_eq!(
        ask("127.0.0.1:31000", "/").await,
        "refused",
        "on the InternalIPs only"
    );

    plan.send_replace(Some(both(0)));
    expect("172.30.0.11:31000", "/healthz", "HTTP/1.1 503").await;

    let leaving = fairlead_core::model::Node {
        deleting: true,
        ..node.clone()
    };
    plan.send_replace(Some(both(1)));
    index.with(|index| index.nodes.apply("node1", Some(leaving)));
    index.touch();
    expect("172.30.0.11:10256", "/healthz", "HTTP/1.1 503").await;
    expect("172.30.0.11:10256", "/livez", "HTTP/1.1 200").await;
    expect("172.30.0.11:31000", "/healthz", "HTTP/1.1 200").await;

    // A change that has waited for a minute.
    let address = fairlead_runtime::link::AddressReport {
        plan: 1,
        unapplied_ms: Some(60_000),
    };
    report.send_replace(AgentReport {
        plan: 1,
        addresses: BTreeMap::from([([192, 0, 2, 10].into(), address)]),
        ..AgentReport::default()
    });
    expect("172.30.0.11:10256", "/livez", "HTTP/1.1 503").await;
    expect("172.30.0.11:31000", "/healthz", "\"serviceProxyHealthy\": false").await;

    plan.send_replace(Some(LocalEndpoints::new()));
    expect("172.30.0.11:31000", "/healthz", "refused").await;
    serving.abort();
}
