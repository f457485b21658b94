//! Whatever happens to the objects: the kernel's table after differences is the table made from scratch.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::change::Changes;
use fairlead_node_agent::nft::render::{change, replace};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::objects::{Cluster, MARK, service};
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

/// Lines of a listing without regard to their order: the kernel keeps chains and elements in the order they came.
fn listing(topology: &Topology) -> Vec<String> {
    let text = topology.nft(&["list", "table", "inet", "fairlead"], "").unwrap();
    // An element list goes over several lines; brought into one and sorted it can be compared.
    let joined = text.replace(",\n", ",");
    let mut blocks: Vec<String> = joined
        .split("\n\n")
        .map(|block| {
            let lines = block.lines().map(|line| {
                let line = line.trim();
                match line
                    .strip_prefix("elements = {")
                    .and_then(|l| l.strip_suffix('}'))
                {
                    Some(list) => {
                        let mut elements: Vec<&str> = list.split(',').map(str::trim).collect();
                        elements.sort_unstable();
                        elements.join(", ")
                    }
                    None => line.to_owned(),
                }
            });
            let ended = lines.filter(|line| !line.is_empty() && !line.starts_with("table"));
            ended
                .collect::<Vec<_>>()
                .join("\n")
                .trim_end_matches("\n}")
                .to_owned()
        })
        .collect();
    blocks.sort_unstable();
    blocks
}

#[test]
fn differences_lead_to_the_table_made_from_scratch() {
    let (one, other) = (Topology::new(), Topology::new());
    let mut runner = TestRunner::new(Config {
        cases: 25,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&prop::collection::vec(state(), 2..8), |history| {
            let mut held = build(&Cluster::new().plan(), MARK);
            one.nft(&["-f", "-"], &replace(&held))
                .map_err(TestCaseError::fail)?;
            for state in &history {
                let wanted = build(&cluster(state).plan(), MARK);
                let text = change(&Changes::between(&held, &wanted));
                one.nft(&["-f", "-"], &text)
                    .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
                other
                    .nft(&["-f", "-"], &replace(&wanted))
                    .map_err(TestCaseError::fail)?;
                prop_assert_eq!(listing(&one), listing(&other));
                held = wanted;
            }
            Ok(())
        })
        .unwrap();
}
