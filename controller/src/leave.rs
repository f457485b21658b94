//! `fairlead-controller leave`: prepares the removal of the installation.
//!
//! It marks the installation as leaving, waits until the nodes report that they announce nothing and that no rule of
//! ours is left, and then takes back what the controller wrote. What does not answer in time is named and does not
//! hold the removal up.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use fairlead_api::{AddressPool, NodeState};
use fairlead_core::ipam::{Decision, External};
use fairlead_runtime::CommonArgs;
use fairlead_runtime::gossip_key::GossipKeyArgs;
use fairlead_runtime::leaving::KEY;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::change::{Change, finalizers};
use crate::external::{CLOUD_FINALIZER, main_change};
use crate::gossip_key;
use crate::index::ServiceEntry;
use crate::pools::FINALIZER;
use crate::send::patch;
use crate::status::service_change;

const POLL: Duration = Duration::from_millis(500);
/// Nodes that are not Ready get only so long: most likely nothing runs there that could answer.
const NOT_READY: Duration = Duration::from_secs(5);
/// For the whole of the cleaning, after the nodes.
const CLEANING: Duration = Duration::from_secs(30);
/// For one look at the nodes.
const ANSWER: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 8;

/// Runs the command.
///
/// # Errors
/// When the installation cannot be marked as leaving. Whatever fails later is reported and does not hold the removal
/// up.
pub async fn leave(
    client: Client,
    common: &CommonArgs,
    gossip: &GossipKeyArgs,
    timeout: Duration,
) -> anyhow::Result<()> {
    mark(&client, &common.namespace, &common.state_configmap).await?;
    println!(
        "marked as leaving; waiting up to {}s for the nodes",
        timeout.as_secs()
    );
    match wait(&client, timeout).await {
        Some(silent) if silent.is_empty() => {
            println!("every node has withdrawn its addresses and removed its rules");
        }
        Some(silent) => {
            println!("going on with the removal although these nodes did not answer in time:");
            silent.iter().for_each(|node| println!("  {node}"));
            println!("rules of Fairlead may be left there: nft delete table inet fairlead removes them");
        }
        None => println!("going on with the removal although the state of the nodes could not be read"),
    }
    match tokio::time::timeout(CLEANING, clean(&client, &common.namespace, &gossip.gossip_secret)).await {
        Ok(Ok(())) => println!("statuses are clean; the removal can go on"),
        Ok(Err(error)) => println!("the removal goes on although not all is clean: {error:#}"),
        Err(_) => println!(
            "the removal goes on although the cleaning took longer than {}s",
            CLEANING.as_secs()
        ),
    }
    Ok(())
}

async fn mark(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = json!({ "data": { KEY: "true" } });
    let marked = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&data))
        .await;
    marked.with_context(|| {
        format!(
            "cannot mark the installation as leaving in ConfigMap {namespace}/{name}; \
             to remove it all the same, use helm uninstall --no-hooks"
        )
    })?;
    Ok(())
}

/// A node that has not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Awaited {
    node: String,
    ready: bool,
    /// It may still announce addresses.
    announces: bool,
    /// Rules of ours may be left.
    rules: bool,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.announces, self.rules) {
            (true, true) => "has not withdrawn its addresses nor removed its rules",
            (true, false) => "has not withdrawn its addresses",
            (false, _) => "has not removed its rules",
        };
        let ready = if self.ready {
            ""
        } else {
            " (the node is not Ready)"
        };
        write!(f, "{}: {what}{ready}", self.node)
    }
}

/// Answers with those that stayed silent; `None` if the state of the nodes could never be read.
async fn wait(client: &Client, timeout: Duration) -> Option<BTreeSet<Awaited>> {
    let start = Instant::now();
    let mut known: Option<BTreeSet<Awaited>> = None;
    loop {
        match tokio::time::timeout(ANSWER, awaited(client)).await {
            Ok(Ok(awaited)) => {
                if known.as_ref() != Some(&awaited) {
                    awaited.iter().for_each(|node| println!("  {node}"));
                    known = Some(awaited);
                }
            }
            Ok(Err(error)) => println!("cannot read the state of the nodes: {error}"),
            Err(_) => println!("cannot read the state of the nodes: no answer from the API server"),
        }
        let passed = start.elapsed();
        let worth_waiting = |awaited: &Awaited| awaited.ready || passed < NOT_READY;
        let done = known
            .as_ref()
            .is_some_and(|awaited| !awaited.iter().any(worth_waiting));
        if done || passed >= timeout {
            return known;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn awaited(client: &Client) -> kube::Result<BTreeSet<Awaited>> {
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let states = Api::<NodeState>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    Ok(who_is_awaited(&nodes.items, &states.items))
}

fn who_is_awaited(nodes: &[Node], states: &[NodeState]) -> BTreeSet<Awaited> {
    let answers = states.iter().filter_map(|state| {
        let node = nodes
            .iter()
            .find(|node| node.metadata.name == state.metadata.name)?;
        let status = state.status.clone().unwrap_or_default();
        Some(Awaited {
            node: node.name_any(),
            ready: is_ready(node),
            announces: !status.withdrawn,
            rules: !status.data_path.clean,
        })
    });
    answers.filter(|node| node.announces || node.rules).collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Takes back what the controller wrote. A controller that has not yet heard of the leaving may undo some of it, so it
/// goes on until nothing is left to do.
async fn clean(client: &Client, namespace: &str, secret: &str) -> anyhow::Result<()> {
    loop {
        let written = clean_services(client).await.context("Services")?;
        if written == 0 {
            break;
        }
        println!("took back the addresses of {written} Service(s)");
        tokio::time::sleep(POLL).await;
    }
    clean_pools(client).await.context("AddressPools")?;
    let api: Api<NodeState> = Api::all(client.clone());
    for state in api.list(&ListParams::default()).await.context("NodeStates")? {
        match api.delete(&state.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other.context("NodeStates")?),
        }
    }
    gossip_key::remove(client.clone(), namespace, secret, POLL)
        .await
        .context("the Secret of the gossip key")
}

/// One pass; answers how many Services there were to write.
async fn clean_services(client: &Client) -> anyhow::Result<usize> {
    let services = Api::<Service>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let now = Time(Timestamp::now());
    let due: Vec<_> = services
        .iter()
        .filter_map(ServiceEntry::new)
        .filter_map(|entry| Some((entry.service.key.clone(), taking_back(&entry, &now)?)))
        .collect();
    let count = due.len();
    let mut writes = futures::stream::iter(due)
        .map(|(key, change)| {
            let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
            async move { patch(&api, &key.name, &change).await }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(written) = writes.next().await {
        match written {
            // A Service that changed or went in the meantime: the next pass looks again.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
    Ok(count)
}

/// What the controller put into a Service, to be taken back: first external IPs and the finalizer, then the status.
fn taking_back(entry: &ServiceEntry, now: &Time) -> Option<Change> {
    let nothing = Decision {
        ingress: None,
        external: entry.external_record.is_some().then(External::default),
    };
    let finalizer = entry.meta.finalizers.iter().any(|name| name == CLOUD_FINALIZER);
    main_change(entry, &nothing, finalizer, now)
        .or_else(|| service_change(entry, &Decision::default(), None, now))
}

/// Pools stay, but nobody would be left to let a deleted one go.
async fn clean_pools(client: &Client) -> anyhow::Result<()> {
    let api: Api<AddressPool> = Api::all(client.clone());
    for pool in api.list(&ListParams::default()).await? {
        let Some(list) = finalizers(&(&pool.metadata).into(), FINALIZER, false) else {
            continue;
        };
        let patch = json!({ "metadata": { "finalizers": list } });
        let name = pool.name_any();
        match api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn state(name: &str, withdrawn: bool, clean: bool) -> NodeState {
        serde_json::from_value(json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": name}, "spec": {},
            "status": {"withdrawn": withdrawn, "dataPath": {"clean": clean}},
        }))
        .unwrap()
    }

    #[test]
    fn awaits_nodes_that_exist_until_both_programs_are_done() {
        let nodes = [
            node("a", "True"),
            node("b", "Unknown"),
            node("c", "True"),
            node("no-speaker", "True"),
        ];
        let states = [
            state("a", true, true),
            state("b", false, false),
            state("c", true, false),
            state("gone", false, false),
        ];
        let shown: Vec<String> = who_is_awaited(&nodes, &states)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "b: has not withdrawn its addresses nor removed its rules (the node is not Ready)",
                "c: has not removed its rules",
            ]
        );
    }
}
