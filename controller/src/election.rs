//! Arguments of the election, and taking part in it.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use fairlead_runtime::client;
use fairlead_runtime::lease::{Election, Leadership, LeaseName, Metrics, Settings, identity};
use prometheus_client::registry::Registry;

use crate::duration;

/// Without election, an action has this long to end.
const UNHURRIED: Duration = Duration::from_secs(10);
/// At the start, how long to wait for the first answer of the API server.
const FIRST: Duration = Duration::from_secs(2);

/// Arguments of the election.
#[derive(Clone, Debug, Args)]
pub struct ElectionArguments {
    /// Whether several controllers may run, of which one is elected by a Lease; false only where never two run at once
    #[arg(
        long,
        env = "FAIRLEAD_LEADER_ELECT",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    pub leader_elect: bool,
    /// Name of the Lease, in the namespace that Fairlead is installed in
    #[arg(
        long,
        env = "FAIRLEAD_LEASE_NAME",
        default_value = "fairlead-controller",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// How long the others wait for a leader that is silent before one of them leads
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "TIME")]
    pub lease_duration: Duration,
    /// How long a leader goes on without a confirmed renewal; less than the lease duration
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub renew_deadline: Duration,
    /// Time between two renewals; the renew deadline is more than 1.2 of it
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub retry_period: Duration,
}

/// Takes part in the election, if there is to be one.
///
/// # Errors
/// When the times do not go together, or there is no way to the API server.
pub async fn start(
    arguments: &ElectionArguments,
    namespace: &str,
    pod: &str,
    registry: &mut Registry,
) -> anyhow::Result<(Leadership, Option<Election>)> {
    let metrics = Metrics::new(registry.sub_registry_with_prefix("fairlead_controller"));
    if !arguments.leader_elect {
        metrics.lead();
        return Ok((Leadership::always(UNHURRIED), None));
    }
    let settings = Settings::new(
        arguments.lease_duration,
        arguments.renew_deadline,
        arguments.retry_period,
    )
    .context("--lease-duration, --renew-deadline and --retry-period")?;
    let lease = LeaseName {
        namespace: namespace.to_owned(),
        name: arguments.lease_name.clone(),
    };
    let election = Election::start(client().await?, &lease, identity(pod), settings, metrics);
    // If we lead at once, the first list of all is recent enough for our term.
    let _ = tokio::time::timeout(FIRST, election.decided()).await;
    Ok((election.leadership(), Some(election)))
}

/// Completes only if the election has come to an end by a fault of its own.
pub async fn broken(election: Option<&mut Election>) {
    match election {
        Some(election) => election.broken().await,
        None => std::future::pending().await,
    }
}
