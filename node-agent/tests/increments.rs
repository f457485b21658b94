//! Whatever happens to the objects: the kernel's table after differences is the table made from scratch.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::time::Instant;

use fairlead_core::endpoints::Here;
use fairlead_core::model::Slice;
use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::engine::Engine;
use fairlead_node_agent::metrics::Metrics;
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::driver::{Driver, Tables};
use fairlead_node_agent::nft::ruleset::Ruleset;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::objects::{Cluster, MARK, service};
use support::programmed::on_node1;
use support::topology::Topology;

/// One state of a small world: what is drawn for each of four Services, and the node's pod range.
type State = (Vec<Option<Drawn>>, bool);

#[derive(Clone, Debug)]
struct Drawn {
    local: bool,
    sticky: bool,
    ranges: bool,
    /// One bit a port.
    ports: u8,
    /// One bit an endpoint.
    endpoints: u8,
    /// VIPs may be handed from one Service to another.
    vip: u8,
}

fn state() -> impl Strategy<Value = State> {
    let drawn = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0u8..8,
        any::<u8>(),
        0u8..5,
    )
        .prop_map(|(local, sticky, ranges, ports, endpoints, vip)| Drawn {
            local,
            sticky,
            ranges,
            ports,
            endpoints,
            vip,
        });
    (prop::collection::vec(prop::option::of(drawn), 4), any::<bool>())
}

fn cluster((services, wide): &State) -> Cluster {
    const PORTS: [&str; 3] = ["80/tcp", "80/udp", "9/sctp"];
    const ENDPOINTS: [&str; 8] = [
        "10.0.1.2@node1",
        "10.0.1.3@node1",
        "10.0.2.2@node2",
        "10.0.2.3@node2!",
        "fd00:1::2@node1",
        "fd00:1::3@node1!",
        "fd00:2::2@node2",
        "172.30.0.11@node1",
    ];
    fn chosen(all: &[&'static str], bits: u8) -> Vec<&'static str> {
        (0..all.len())
            .filter(|bit| bits >> bit & 1 == 1)
            .map(|bit| all[bit])
            .collect()
    }
    let mut cluster = Cluster::new();
    if *wide {
        cluster.node.pod_cidrs = vec!["10.0.0.0/23".parse().unwrap()];
    }
    for (index, drawn) in services.iter().enumerate() {
        let Some(drawn) = drawn else { continue };
        let policy = if drawn.local { Local } else { Anywhere };
        let vips = [
            format!("192.0.2.{}", drawn.vip),
            format!("2001:db8::{}", drawn.vip + 1),
        ];
        let ports: Vec<String> = chosen(&PORTS, drawn.ports)
            .iter()
            .map(|port| format!("{port}@{}", 30000 + index))
            .collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let mut service = service(
            &format!("s{index}"),
            policy,
            &vips.each_ref().map(|v| v.as_str()),
            &ports,
        );
        service.affinity = drawn.sticky.then_some(10_800);
        if drawn.ranges {
            service.source_ranges = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        }
        cluster = cluster.with(service, &chosen(&ENDPOINTS, drawn.endpoints));
    }
    cluster
}

/// What the kernel holds.
fn held(topology: &Topology, known: &Ruleset) -> Ruleset {
    on_node1(topology, async || {
        Tables::open().unwrap().read(known).await.unwrap()
    })
    .unwrap()
}

#[test]
fn differences_lead_to_the_table_made_from_scratch() {
    let topology = Topology::new();
    let mut runner = TestRunner::new(Config {
        cases: 25,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&prop::collection::vec((state(), any::<u8>()), 2..8), |history| {
            let mut engine = on_node1(&topology, async || {
                let metrics = Metrics::register(&mut Registry::default());
                Engine::new(Tables::open().unwrap(), MARK, metrics)
            });
            for (state, endpoints) in &history {
                let mut cluster = cluster(state);
                engine.offer(cluster.plan(), Instant::now());
                on_node1(&topology, async || engine.apply().await.unwrap());
                let wanted = build(&cluster.plan(), MARK);
                prop_assert_eq!(&held(&topology, &wanted), &wanted, "whole plans");
                // Then endpoints alone change, of every other Service.
                change(&mut cluster, *endpoints);
                for service in cluster.services.iter().step_by(2) {
                    let slices: Vec<&Slice> = cluster
                        .slices
                        .iter()
                        .filter(|s| s.service == service.key)
                        .collect();
                    let here = Here {
                        node: &cluster.node.name,
                        zone: None,
                    };
                    engine.refresh(service, &slices, here, Instant::now());
                }
                on_node1(&topology, async || engine.apply().await.unwrap());
                let wanted = build(&cluster.plan(), MARK);
                prop_assert_eq!(&held(&topology, &wanted), &wanted, "endpoints alone");
            }
            Ok(())
        })
        .unwrap();
}

/// Takes endpoints away from every other Service, or makes them ready or not.
fn change(cluster: &mut Cluster, bits: u8) {
    let chosen: Vec<_> = cluster
        .services
        .iter()
        .step_by(2)
        .map(|s| s.key.clone())
        .collect();
    for slice in cluster.slices.iter_mut().filter(|s| chosen.contains(&s.service)) {
        for (index, endpoint) in slice.endpoints.iter_mut().enumerate() {
            endpoint.ready ^= bits >> (index % 4) & 1 == 1;
        }
        if bits & 0x10 != 0 {
            slice.endpoints.pop();
        }
    }
}
