//! Who is a pod of the node, where the Node object does not say it: real packets, by real interfaces.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairlead_core::forward::Local;
use fairlead_core::forward::pods::PodSources;
use fairlead_core::model::NodeName;
use fairlead_core::model::TrafficPolicy::Local as LocalOnly;
use fairlead_node_agent::index::{Index, News};
use fairlead_node_agent::surroundings::{Surroundings, Wishes, follow};
use fairlead_runtime::watch::Shared;
use support::objects::{Cluster, service};
use support::programmed::{on_node1, program};
use support::topology::{NODE1, PATIENCE, Topology};

const VIP: &str = "192.0.2.10:80";
const NODE_PORT: &str = "172.30.0.11:30080";

/// A Service of policy Local that only another node has an endpoint of; a Node object that says nothing of pods, and
/// names the address at which the client comes.
fn cluster() -> Cluster {
    let ports = ["80/tcp@30080"];
    let mut cluster = Cluster::new().with(
        service("a", LocalOnly, &["192.0.2.10"], &ports),
        &["10.0.2.2@node2"],
    );
    cluster.node.pod_cidrs.clear();
    cluster.node.addresses.push("198.51.100.1".parse().unwrap());
    cluster
}

/// What node1 finds in its kernel.
fn local(topology: &Topology, cluster: &Cluster, sources: &str) -> Local {
    let wishes = Wishes {
        pods: sources.parse::<PodSources>().unwrap(),
        ..Wishes::default()
    };
    let seen = on_node1(topology, async || Surroundings::read().await.unwrap());
    seen.local(&wishes, Some(&cluster.node))
}

#[test]
fn a_pod_is_told_by_its_interface() {
    let mut topology = Topology::new();
    topology.serve("pod2");
    let mut cluster = cluster();
    for (sources, words) in [
        ("auto", "interfaces other than c0, lo, n0"),
        ("interfacePrefixes=cali,pod", "interfaces cali*, pod*"),
    ] {
        let found = local(&topology, &cluster, sources);
        assert_eq!(found.pods.to_string(), words);
        cluster.local = Some(found);
        program(&topology, &cluster);
        for to in [VIP, NODE_PORT] {
            // A pod keeps its address and reaches every endpoint; so does the node, with its own address.
            assert_eq!(topology.ask("pod1a", to), "pod2 10.0.1.2", "{sources} {to}");
            assert_eq!(
                topology.ask("node1", to),
                format!("pod2 {NODE1}"),
                "{sources} {to}"
            );
            for outside in ["client", "node2"] {
                // The pod's own node has no table, and sends all for the VIP to us.
                if (outside, to) == ("node2", VIP) {
                    continue;
                }
                assert_eq!(topology.ask(outside, to), "silence", "{sources} {outside} {to}");
            }
        }
    }
    cluster.local = Some(local(&topology, &cluster, "cidrs"));
    program(&topology, &cluster);
    assert_eq!(topology.ask("pod1a", VIP), "silence", "nothing tells it");
    assert_eq!(topology.ask("node1", VIP), format!("pod2 {NODE1}"));
}

#[test]
fn a_pod_with_an_endpoint_beside_it_is_told_too() {
    let mut topology = Topology::new();
    for pod in ["pod1b", "pod2"] {
        topology.serve(pod);
    }
    let mut cluster = cluster();
    cluster.slices.clear();
    let service = cluster.services.remove(0);
    let mut cluster = cluster.with(service, &["10.0.1.3@node1", "10.0.2.2@node2"]);
    for sources in ["auto", "interfacePrefixes=pod1"] {
        cluster.local = Some(local(&topology, &cluster, sources));
        program(&topology, &cluster);
        let ask = |from: &str| {
            let mut answers = BTreeMap::<String, u32>::new();
            for _ in 0..32 {
                *answers.entry(topology.ask(from, VIP)).or_default() += 1;
            }
            answers.into_keys().collect::<Vec<_>>().join("; ")
        };
        assert_eq!(ask("client"), "pod1b 198.51.100.2", "{sources}");
        assert_eq!(ask("pod1a"), "pod1b 10.0.1.2; pod2 10.0.1.2", "{sources}");
    }
}

/// Waits until the index says so.
async fn until(index: &Shared<Index>, what: &str, holds: impl Fn(&Index) -> bool) {
    let begin = Instant::now();
    while !index.with(|index| holds(index)) {
        let seen = index.with(|index| index.surroundings.clone());
        assert!(begin.elapsed() < PATIENCE, "not {what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn interfaces_are_followed_and_those_of_pods_make_no_plan() {
    let topology = Topology::new();
    let cluster = cluster();
    let me = NodeName::from("node1");
    on_node1(&topology, async || {
        let index = Shared::new(Index::new(Wishes {
            node_ports: "172.30.0.0/16,10.77.0.0/16".parse().unwrap(),
            ..Wishes::default()
        }));
        index.with(|index| {
            let node = (me.to_string(), cluster.node.clone());
            index.services.reset(BTreeMap::new());
            index.slices.table.reset(BTreeMap::new());
            index.pools.reset(BTreeMap::new());
            index.nodes.reset(BTreeMap::from([node]));
            assert_eq!(
                index.news(&me, true),
                News::Nothing,
                "nothing is known of the node yet"
            );
        });
        let following = tokio::spawn({
            let (index, me) = (index.clone(), me.clone());
            async move { follow(&index, &me).await }
        });
        until(&index, "listed", |index| index.surroundings.is_some()).await;
        assert_eq!(index.with(|index| index.news(&me, true)), News::Everything);

        let ip = |arguments: &str| {
            let arguments: Vec<&str> = std::iter::once("ip").chain(arguments.split(' ')).collect();
            let output = topology.exec("node1", &arguments);
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        let has = |name: &'static str| {
            move |index: &Index| {
                let links = index.surroundings.iter().flat_map(|seen| &seen.links);
                links.map(|link| &link.name).any(|known| known == name)
            }
        };
        let woken = index.changes();
        ip("link add cali1 type veth peer name cali1p");
        ip("link set cali1 up");
        until(&index, "aware of cali1", has("cali1")).await;
        assert_eq!(index.with(|index| index.news(&me, true)), News::Nothing);
        assert!(!woken.has_changed().unwrap(), "nobody is woken for a pod's link");

        // A bridge leads to pods, until a default route leads by it.
        ip("link add br1 type bridge");
        ip("link set br1 up");
        until(&index, "aware of br1", has("br1")).await;
        assert_eq!(index.with(|index| index.news(&me, true)), News::Nothing);
        ip("route add default dev br1 metric 500");
        until(&index, "aware of the route", |index| {
            let words = "interfaces other than br1, c0, lo, n0";
            index.local(&NodeName::from("node1")).pods.to_string() == words
        })
        .await;
        assert!(woken.has_changed().unwrap());
        assert_eq!(index.with(|index| index.news(&me, true)), News::Everything);

        // What kube-proxy keeps for IPVS serves no node ports, what else there is does.
        ip("link add kube-ipvs0 type bridge");
        ip("address add 10.77.0.2/32 dev kube-ipvs0");
        ip("address add 10.77.0.1/32 dev br1");
        let served = |index: &Index| {
            let addresses = index.local(&NodeName::from("node1")).node_ports;
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            texts.join(" ") == "10.77.0.1 172.30.0.11 fd00:30::11"
        };
        until(&index, "serving at br1", served).await;
        assert_eq!(index.with(|index| index.news(&me, true)), News::Everything);
        following.abort();
    });
}
