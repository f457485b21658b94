//! The connection to the API server.

use std::time::Duration;

use anyhow::Context;
use kube::{Client, Config};

/// A client from the pod's service account, or from a kubeconfig outside a cluster.
///
/// A connection that has gone silent is given up within 45 s: longer than a watch is quiet (30 s, see
/// [`crate::watch::config`]), and short enough to find another API server behind the same address.
///
/// # Errors
/// When there is neither a service account nor a kubeconfig, or it cannot be read.
pub async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no service account of a pod and no kubeconfig")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(45));
    Client::try_from(config).context("building the Kubernetes client")
}
