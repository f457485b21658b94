//! `fairlead-node-agent`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use fairlead_core::forward::node_ports::NodePortAddresses;
use fairlead_core::forward::pods::PodSources;
use fairlead_core::model::NodeName;
use fairlead_node_agent::engine::Engine;
use fairlead_node_agent::handover;
use fairlead_node_agent::healthz;
use fairlead_node_agent::index::{Index, follow_all};
use fairlead_node_agent::metrics::Metrics;
use fairlead_node_agent::nft::TABLE;
use fairlead_node_agent::nft::driver::{Driver, Tables};
use fairlead_node_agent::nft::netlink::watch::{Heard, Watch};
use fairlead_node_agent::preflight;
use fairlead_node_agent::run::{Wiring, run};
use fairlead_node_agent::surroundings::{self, Wishes};
use fairlead_node_agent::trace_command::{self, TraceArgs};
use fairlead_runtime::link::{self, AgentReport};
use fairlead_runtime::watch::Shared;
use fairlead_runtime::{CommonArgs, Readiness, class_policy, client, follow_leaving, serve_http, shutdown};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

/// Port of /healthz, /readyz and /metrics.
const PORT: u16 = 7672;
/// Bits of kube-proxy (masquerade, drop). Ours must be another.
const TAKEN: u32 = 0x4000 | 0x8000;

/// Programs the kernel of this node: VIP:port and node:nodePort to the right endpoints.
#[derive(Parser, Debug)]
#[command(version, about, max_term_width = 120, subcommand_negates_reqs = true)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,

    /// Name of this node's Node object
    #[arg(
        long,
        env = "NODE_NAME",
        required_unless_present = "cleanup",
        value_name = "NAME"
    )]
    node_name: Option<String>,

    /// Bit of the conntrack mark for flows whose source is masqueraded; not 0x4000 and not 0x8000, which are kube-proxy's
    #[arg(long, env = "FAIRLEAD_MARK", default_value = "0x00200000", value_parser = parse_mark, value_name = "BIT")]
    mark: u32,

    /// With `absent`, health-check node ports and the port of kube-proxy's /healthz are served here
    #[arg(
        long,
        env = "FAIRLEAD_KUBE_PROXY",
        value_enum,
        default_value = "present",
        value_name = "STATE"
    )]
    kube_proxy: KubeProxy,

    /// Port of /healthz and /livez without kube-proxy
    #[arg(long, default_value_t = healthz::PORT, value_name = "PORT")]
    healthz_bind_port: u16,

    /// Which sources are pods of this node: by podCIDRs and by interface (`auto`), by podCIDRs alone (`cidrs`), or by
    /// how the names of their interfaces begin (`interfacePrefixes=cali,lxc`)
    #[arg(
        long,
        env = "FAIRLEAD_POD_SOURCES",
        default_value = "auto",
        value_name = "SOURCES"
    )]
    pod_sources: PodSources,

    /// Where node ports are served: ranges, separated by commas, of the node's addresses; `primary`, for the first
    /// InternalIP of each family; or, left empty, all InternalIPs
    #[arg(
        long,
        env = "FAIRLEAD_NODE_PORT_ADDRESSES",
        default_value = "",
        hide_default_value = true,
        value_name = "RANGES"
    )]
    node_port_addresses: NodePortAddresses,

    /// Unix socket for the speaker of this node; another one, health.sock, is made beside it
    #[arg(long, env = "FAIRLEAD_AGENT_SOCKET", default_value = link::SOCKET, value_name = "PATH")]
    socket: PathBuf,

    /// Remove our tables (inet fairlead, ip fairlead, ip6 fairlead) from this node's kernel, and end
    #[arg(long)]
    cleanup: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What else the program does.
#[derive(Subcommand, Debug)]
enum Command {
    /// Explain what this node does with the first packet of a flow; exit code 0 if it is forwarded, 1 if not
    Trace(TraceArgs),
}

/// Does kube-proxy run on this node?
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum KubeProxy {
    /// It, or a service proxy that serves the same ports.
    Present,
    /// Nothing does.
    Absent,
}

fn parse_mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())?;
    if mark.count_ones() != 1 {
        return Err("exactly one bit must be set".to_owned());
    }
    if mark & TAKEN != 0 {
        return Err("0x4000 and 0x8000 belong to kube-proxy".to_owned());
    }
    Ok(mark)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Trace(packet)) = &args.command {
        std::process::exit(trace_command::run(packet));
    }
    fairlead_runtime::init(&args.common);
    let mut tables = Tables::open().context("not allowed to change nftables, or the kernel has none")?;
    if args.cleanup {
        tables.remove().await.context("cannot remove the table")?;
        info!("no rule of ours is left");
        return Ok(());
    }
    let node_name = args.node_name.clone().context("--node-name is needed")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = node_name,
        "node agent"
    );
    preflight::require(&tables).await?;
    tokio::select! {
        ended = work(&args, tables, node_name) => ended,
        asked = shutdown() => {
            asked.context("cannot wait for signals")?;
            info!("the rules stay in the kernel");
            Ok(())
        }
    }
}

async fn work(args: &Args, tables: Tables, node_name: String) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::new();
    let programmed = readiness.guard("the first plan in the kernel");
    let listen = args
        .common
        .listen
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
    serve_http(listen, readiness, registry).await?;

    let client = client().await?;
    let index = Shared::new(Index::new(Wishes {
        pods: args.pod_sources.clone(),
        node_ports: args.node_port_addresses.clone(),
    }));
    let mut tasks = JoinSet::new();
    follow_all(&client, &index, &mut tasks);
    let leaving = follow_leaving(
        client.clone(),
        &args.common.namespace,
        &args.common.state_configmap,
    );

    let (report, reports) = watch::channel(AgentReport::default());
    let (endpoints, local_endpoints) = watch::channel(None);
    let (speaker_in, speaker) = watch::channel(None);
    let me = NodeName(node_name);
    let sources = healthz::Sources {
        me: me.clone(),
        index: index.clone(),
        endpoints: local_endpoints.clone(),
        reports: reports.clone(),
    };
    let (watched, myself, told) = (index.clone(), me.clone(), metrics.clone());
    tasks.spawn(async move { preflight::follow(&watched, &myself, &told).await });
    let (watched, myself) = (index.clone(), me.clone());
    tasks.spawn(async move { surroundings::follow(&watched, &myself).await });
    let healthz = in_kube_proxys_stead(args, sources, metrics.clone());
    let (changed, foreign) = watch::channel(0);
    let handover = handover::run(speaker.clone(), &tables, foreign.clone(), leaving.clone());
    let wiring = Wiring {
        me,
        class: class_policy(&args.common),
        leaving,
        foreign,
        speaker,
        report,
        endpoints,
        programmed: Some(programmed),
    };
    let engine = Engine::new(tables.clone(), args.mark, metrics.clone());
    let sweeps = engine.sweeps();
    let health_socket = args.socket.with_file_name(link::HEALTH_SOCKET);
    tokio::select! {
        // The hand-over ends when the installation leaves; its table is removed together with the other one.
        ((), ()) = async { tokio::join!(run(engine, index.clone(), wiring), handover) } => Ok(()),
        ended = hear(reports.clone(), tables.port(), &changed) => ended,
        () = sweeps.run(&metrics) => anyhow::bail!("nothing sweeps connection tracking any more"),
        ended = tasks.join_next() => anyhow::bail!("a watch that runs for ever has ended: {ended:?}"),
        ended = link::serve(&args.socket, reports, speaker_in) => {
            error!("the link to the speaker ended");
            ended.context("cannot serve the speaker")
        }
        ended = link::serve_health(&health_socket, local_endpoints) => {
            ended.context("cannot answer for single Services")
        }
        () = healthz => anyhow::bail!("nothing answers in kube-proxy's stead any more"),
    }
}

/// Serves kube-proxy's ports where there is none; does nothing for ever where there is one.
async fn in_kube_proxys_stead(args: &Args, sources: healthz::Sources, metrics: Metrics) {
    if args.kube_proxy == KubeProxy::Present {
        return std::future::pending().await;
    }
    // Each health-check node port takes a listener, and each question a connection.
    if let Err(error) = fairlead_runtime::raise_file_limit() {
        warn!(%error, "cannot raise the limit of open files");
    }
    healthz::run(sources, args.healthz_bind_port, &metrics).await;
}

/// Tells when somebody else changes tables with our name. It begins when the first plan is in the kernel: while anybody
/// listens, the kernel tells of every single element.
async fn hear(
    mut reports: watch::Receiver<AgentReport>,
    own: u32,
    changed: &watch::Sender<u64>,
) -> anyhow::Result<()> {
    reports.wait_for(|report| report.plan > 0).await?;
    let mut watch = Watch::open(TABLE, &[own])?;
    changed.send_modify(|count| *count += 1); // what nobody heard
    loop {
        if let Heard::Changed { process, pid, .. } = watch.next().await? {
            warn!(process, pid, "somebody else changes our tables");
        }
        changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn marks() {
        assert_eq!(parse_mark("0x00200000"), Ok(0x0020_0000));
        assert_eq!(parse_mark("1"), Ok(1));
        for wrong in ["0x4000", "0x8000", "0", "3", "x", "0x100000000"] {
            assert!(parse_mark(wrong).is_err(), "{wrong}");
        }
    }
}
