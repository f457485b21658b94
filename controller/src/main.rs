//! Gives external addresses to Services of type LoadBalancer, and keeps the conditions of all objects of Fairlead.

mod announced;
mod change;
mod election;
mod events;
mod external;
mod gossip_key;
mod index;
mod leave;
mod metrics;
mod planner;
mod pools;
mod quiet;
mod rules;
mod send;
mod sessions;
mod status;
mod tally;
mod terms;
mod view;
mod writer;
mod writes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fairlead_api::{AddressPool, BGPAdvertisement, BGPPeer, L2Advertisement, NodeState, convert};
use fairlead_runtime::gossip_key::GossipKeyArgs;
use fairlead_runtime::watch::{Guarded, Relist, Shared, config, follow, follow_and_relist};
use fairlead_runtime::{CommonArgs, Readiness, class_policy, client, init, serve_http, shutdown};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::Api;
use kube::runtime::watcher;
use prometheus_client::registry::Registry;

use crate::election::ElectionArguments;
use crate::events::Events;
use crate::gossip_key::Keeper;
use crate::index::{
    AdvertisementEntry, BgpAdvertisementEntry, Index, PeerEntry, PoolEntry, ServiceEntry, StateEntry,
    namespace_labels, service_cidrs,
};
use crate::metrics::Metrics;
use crate::planner::{Planner, Policy};
use crate::send::Sender;
use crate::view::NodeView;
use crate::writer::Writer;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7670);

/// The controller of Fairlead: gives external addresses to Services of type LoadBalancer.
///
/// Run two: one is elected and works, the other stands by. It changes nothing before it has read everything, keeps what
/// was assigned across restarts, and says in conditions and events of the Service why one has no address or is announced
/// by no node.
#[derive(Debug, Parser)]
#[command(name = "fairlead-controller", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    gossip: GossipKeyArgs,
    #[command(flatten)]
    election: ElectionArguments,
    /// Name of this pod, for events and as the leader
    #[arg(
        long,
        env = "POD_NAME",
        default_value = "fairlead-controller",
        value_name = "NAME"
    )]
    pod_name: String,
    /// Whether Services with an address of ours carry a finalizer: `cloud` is the one that cloud providers use
    #[arg(
        long,
        env = "FAIRLEAD_SERVICE_FINALIZER",
        value_enum,
        default_value = "none",
        value_name = "none|cloud"
    )]
    service_finalizer: ServiceFinalizer,
}

/// Which finalizer Services carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServiceFinalizer {
    /// None.
    None,
    /// service.kubernetes.io/load-balancer-cleanup
    Cloud,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepares the removal of the installation: every node withdraws its addresses and removes its rules, then the
    /// statuses of Services are cleaned. Meant for the chart's pre-delete hook
    Leave(LeaveArguments),
}

#[derive(Debug, Args)]
struct LeaveArguments {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    gossip: GossipKeyArgs,
    /// How long to wait for the nodes, such as 60s or 2m; after it the removal goes on without those that are silent
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Leave(leave)) => {
            init(&leave.common);
            leave::leave(client().await?, &leave.common, &leave.gossip, leave.timeout).await
        }
        None => control(arguments).await,
    }
}

async fn control(arguments: Arguments) -> anyhow::Result<()> {
    let common = &arguments.common;
    init(common);
    let mut asked = tokio::spawn(shutdown());
    let readiness = Readiness::new();
    let unready = readiness.guard("the first list of all kinds");
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let (leadership, mut election) = election::start(
        &arguments.election,
        &common.namespace,
        &arguments.pod_name,
        &mut registry,
    )
    .await?;
    let server = serve_http(common.listen.unwrap_or(DEFAULT_LISTEN), readiness, registry).await?;

    let client = client().await?;
    let index = Shared::new(Index::default());
    let services = Relist::new();
    watch(&client, &index, common, services.clone());
    tokio::spawn(terms::ready_when_listed(index.clone(), unready));
    let (instance, figures) = (arguments.pod_name, Arc::clone(&metrics));
    let events = Events::start(client.clone(), instance, figures, leadership.clone());
    let keeper = Keeper {
        client: client.clone(),
        namespace: common.namespace.clone(),
        name: arguments.gossip.gossip_secret.clone(),
        index: index.clone(),
        events: events.clone(),
        leadership: leadership.clone(),
    };
    tokio::spawn(keeper.keep());
    let writer = Writer {
        events,
        sender: Sender::new(client, &common.namespace, &common.state_configmap),
        index,
        metrics,
        leadership,
        relist: services,
    };
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let policy = Policy {
        class: class_policy(common),
        finalizer: arguments.service_finalizer == ServiceFinalizer::Cloud,
    };
    let planner = move || Planner::new(policy);
    let mut writing = tokio::spawn(terms::run(writer, planner, stopping));
    tokio::select! {
        ended = &mut writing => {
            ended?;
            asked.await??;
        }
        ended = &mut asked => {
            ended??;
            stop.send_replace(true);
            // Another may lead when nothing of ours is under way any more.
            writing.await?;
        }
        () = election::broken(election.as_mut()) => bail!("the election ended by a fault"),
    }
    if let Some(election) = election {
        election.release().await;
    }
    server.abort();
    Ok(())
}

/// Starts one watch a kind.
fn watch(client: &kube::Client, index: &Shared<Index>, common: &CommonArgs, relist: Relist) {
    let services: Api<Guarded<Service>> = Api::all(client.clone());
    tokio::spawn(follow_and_relist(
        services,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.services,
        ServiceEntry::new,
        relist,
    ));
    let pools: Api<Guarded<AddressPool>> = Api::all(client.clone());
    tokio::spawn(follow(
        pools,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.pools,
        PoolEntry::new,
    ));
    let advertisements: Api<Guarded<L2Advertisement>> = Api::all(client.clone());
    tokio::spawn(follow(
        advertisements,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.advertisements,
        AdvertisementEntry::new,
    ));
    let peers: Api<Guarded<BGPPeer>> = Api::all(client.clone());
    tokio::spawn(follow(
        peers,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.peers,
        PeerEntry::new,
    ));
    let advertisements: Api<Guarded<BGPAdvertisement>> = Api::all(client.clone());
    tokio::spawn(follow(
        advertisements,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.bgp_advertisements,
        BgpAdvertisementEntry::new,
    ));
    let nodes: Api<Guarded<Node>> = Api::all(client.clone());
    tokio::spawn(follow(
        nodes,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.nodes,
        convert::node,
    ));
    let namespaces: Api<Guarded<Namespace>> = Api::all(client.clone());
    tokio::spawn(follow(
        namespaces,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.namespaces,
        namespace_labels,
    ));
    let ranges: Api<Guarded<ServiceCIDR>> = Api::all(client.clone());
    tokio::spawn(follow(
        ranges,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.service_cidrs,
        service_cidrs,
    ));
    let states: Api<Guarded<NodeState>> = Api::all(client.clone());
    tokio::spawn(follow(
        states,
        config(),
        index.clone(),
        |i: &mut Index| &mut i.views,
        NodeView::new,
    ));
    let state: Api<Guarded<ConfigMap>> = Api::namespaced(client.clone(), &common.namespace);
    let only = watcher::Config {
        field_selector: Some(format!("metadata.name={}", common.state_configmap)),
        ..config()
    };
    tokio::spawn(follow(
        state,
        only,
        index.clone(),
        |i: &mut Index| &mut i.state,
        StateEntry::new,
    ));
}

/// A whole number of seconds or minutes.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        _ => return Err("write it as 60s or 2m".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| "write it as 60s or 2m".to_owned())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let arguments = Arguments::parse_from(["x", "leave", "--namespace", "n", "--timeout", "2m"]);
        let Some(Command::Leave(leave)) = arguments.command else {
            panic!("not leave: {arguments:?}")
        };
        assert_eq!(
            (leave.common.namespace.as_str(), leave.timeout.as_secs()),
            ("n", 120)
        );
        assert!(Arguments::parse_from(["x"]).election.leader_elect);
        let arguments = Arguments::parse_from(["x", "--serve-classless", "false", "--lease-duration", "8s"]);
        assert_eq!(arguments.election.lease_duration.as_secs(), 8);
        assert!(arguments.command.is_none() && !arguments.common.serve_classless);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        for text in ["", "60", "s", "-1s", "1h", "1ä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
