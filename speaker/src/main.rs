//! The program `fairlead-speaker`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fairlead_core::model::NodeName;
use fairlead_runtime::gossip_key::GossipKeyArgs;
use fairlead_runtime::link::{HEALTH_SOCKET, SOCKET};
use fairlead_runtime::{
    CommonArgs, Readiness, class_policy, client, follow_leaving, init, raise_file_limit, serve_http, shutdown,
};
use fairlead_speaker::engine::{self, BgpSettings, Settings};
use fairlead_speaker::health::{self, HealthUrl, ProxyHealth, Thresholds, Timing};
use fairlead_speaker::l2::WireSocket;
use fairlead_speaker::membership::detector;
use fairlead_speaker::membership::seal::{NEWEST, OLDEST};
use fairlead_speaker::metrics::Metrics;
use fairlead_speaker::snapshot;
use prometheus_client::registry::Registry;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7671);

/// The speaker of Fairlead: announces external addresses from this node.
///
/// One runs on every node, in the node's network. It announces an address while the node agent has programmed it and the
/// node's own health probe passes: by BGP from every such node, by ARP or NDP from the one that is elected among them.
#[derive(Debug, Parser)]
#[command(name = "fairlead-speaker", version)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    gossip: GossipKeyArgs,
    /// Name of the Node object of this node
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: String,
    /// Socket of the node agent
    #[arg(long, default_value = SOCKET, value_name = "PATH")]
    agent_socket: PathBuf,
    /// From one probe of a target to the next, such as 500ms; like the next four, for pools that do not say otherwise
    #[arg(long, default_value = "500ms", value_parser = duration, value_name = "TIME")]
    probe_interval: Duration,
    /// How long a probe may take
    #[arg(long, default_value = "400ms", value_parser = duration, value_name = "TIME")]
    probe_timeout: Duration,
    /// Failed probes in a row that withdraw an address
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    probe_failure_threshold: u32,
    /// Good probes in a row that admit a target at first
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    probe_success_threshold: u32,
    /// Good probes in a row that admit a target again after it failed
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    probe_readmission_threshold: u32,
    /// Port of the node's InternalIP on which the service proxy answers /healthz
    #[arg(long, default_value_t = 10256, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    proxy_health_port: u16,
    /// URL of the service proxy's health, for proxies that do not answer on the InternalIP
    #[arg(long, conflicts_with = "proxy_health_port", value_name = "URL")]
    proxy_health_url: Option<HealthUrl>,
    /// UDP port on which speakers gossip with each other, the same on all nodes
    #[arg(long, default_value_t = 7673, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    gossip_port: u16,
    /// Highest version of the gossip's protocol to speak, for the time of an upgrade; older ones are understood anyway
    #[arg(long, default_value_t = NEWEST, value_parser = clap::value_parser!(u8).range(i64::from(OLDEST)..=i64::from(NEWEST)), value_name = "VERSION")]
    gossip_protocol: u8,
    /// Between two probes of other speakers
    #[arg(long, default_value = "80ms", value_parser = duration, value_name = "TIME")]
    gossip_period: Duration,
    /// How long a speaker that answers no probe is suspected before it counts as dead
    #[arg(long, default_value = "240ms", value_parser = duration, value_name = "TIME")]
    gossip_suspicion: Duration,
    /// File in which a restarted speaker finds what the one before it knew
    #[arg(long, default_value = snapshot::FILE, value_name = "PATH")]
    snapshot: PathBuf,
    /// How long addresses are handed over to other nodes when the speaker is asked to end
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    handover_timeout: Duration,
    /// Speak BGP: directory with the sockets of the BGP daemon and its parent
    #[arg(long, value_name = "PATH")]
    bgp_socket: Option<PathBuf>,
    /// How long the routes of a node that is cordoned, or whose speaker ends, go out as less preferred ones before they are
    /// withdrawn
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    bgp_drain_time: Duration,
    /// Secret of the release's namespace with a password of BGP sessions; once for each
    #[arg(long, value_name = "NAME")]
    bgp_password_secret: Vec<String>,
}

impl Arguments {
    fn settings(&self) -> Settings {
        let proxy = match &self.proxy_health_url {
            Some(url) => ProxyHealth::Url(url.clone()),
            None => ProxyHealth::Port(self.proxy_health_port),
        };
        Settings {
            me: NodeName(self.node_name.clone()),
            class: class_policy(&self.common),
            agent_socket: self.agent_socket.clone(),
            health: health::Settings {
                timing: Timing {
                    interval: self.probe_interval,
                    timeout: self.probe_timeout,
                    thresholds: Thresholds {
                        failure: self.probe_failure_threshold,
                        admission: self.probe_success_threshold,
                        readmission: self.probe_readmission_threshold,
                    },
                },
                proxy,
                agent: self.agent_socket.with_file_name(HEALTH_SOCKET),
            },
            handover_timeout: self.handover_timeout,
            namespace: self.common.namespace.clone(),
            gossip_secret: self.gossip.gossip_secret.clone(),
            gossip_port: self.gossip_port,
            gossip_protocol: self.gossip_protocol,
            detector: detector::Settings {
                period: self.gossip_period,
                patience: self.gossip_period * 3 / 8,
                suspicion: self.gossip_suspicion,
            },
            snapshot: self.snapshot.clone(),
            bgp: self.bgp_socket.clone().map(|directory| BgpSettings {
                directory,
                drain_time: self.bgp_drain_time,
                secrets: self.bgp_password_secret.iter().cloned().collect(),
            }),
        }
    }
}

// Two threads, however many cores there are: one goes on answering on the wire while the other decides. More would cost
// memory, and wake each other.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    init(&arguments.common);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = arguments.node_name,
        "speaker starts"
    );
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files; probing needs one for each Service");
    }
    // Found out now, in one sentence, instead of at the first address.
    WireSocket::permitted().context("no raw sockets: the speaker needs the capability NET_RAW")?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::new();
    // The server is up first, so that its absence never hides what is awaited.
    let waiting = readiness.guard("API server");
    let listen = arguments.common.listen.unwrap_or(DEFAULT_LISTEN);
    let server = serve_http(listen, readiness.clone(), registry).await?;
    let client = client().await?;
    drop(waiting);
    let leaving = follow_leaving(
        client.clone(),
        &arguments.common.namespace,
        &arguments.common.state_configmap,
    );
    let asked_to_end = shutdown_or_never();
    engine::run(
        client,
        arguments.settings(),
        leaving,
        &readiness,
        metrics,
        asked_to_end,
    )
    .await?;
    server.abort();
    tracing::info!("speaker ends");
    Ok(())
}

async fn shutdown_or_never() {
    if let Err(error) = shutdown().await {
        tracing::error!(%error, "cannot listen for signals");
        std::future::pending::<()>().await;
    }
}

/// A time such as `500ms` or `5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Duration::from_millis(1)),
        (None, Some(number)) => (number, Duration::from_secs(1)),
        (None, None) => return Err("expected a number followed by ms or s".into()),
    };
    match number.parse::<u32>() {
        Ok(0) => Err("must be more than zero".into()),
        Ok(number) => unit.checked_mul(number).ok_or_else(|| "too long".into()),
        Err(error) => Err(format!("{number:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments() {
        Arguments::command().debug_assert();
        let parse = |extra: &[&str]| {
            Arguments::try_parse_from(["fairlead-speaker", "--node-name=n1"].iter().chain(extra))
        };
        let settings = parse(&[]).unwrap().settings();
        assert_eq!(settings.health.proxy, ProxyHealth::Port(10256));
        assert_eq!(settings.handover_timeout, Duration::from_secs(5));
        // What a withdrawal may take at the most: every failing probe at its latest, the last one hanging.
        let health = settings.health.timing;
        assert_eq!(health, Timing::default());
        assert_eq!(settings.health.agent, PathBuf::from("/run/fairlead/health.sock"));
        assert!(health.interval * health.thresholds.failure + health.timeout <= Duration::from_millis(1500));
        let url = "--proxy-health-url=http://127.0.0.1:9879/healthz";
        assert!(matches!(
            parse(&[url]).unwrap().settings().health.proxy,
            ProxyHealth::Url(_)
        ));
        for bad in [
            "--proxy-health-url=https://x",
            "--probe-interval=0s",
            "--probe-interval=5",
            "--probe-failure-threshold=0",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        for bad in ["", "5", "s", "-1s", "0s", "1m", "5000000000s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
