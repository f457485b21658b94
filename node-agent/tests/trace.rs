//! The table as a value gives every packet what Kubernetes' rules say.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::net::{IpAddr, SocketAddr};

use fairlead_core::forward::pods::{PodLinks, Pods};
use fairlead_core::model::Protocol::{self, Sctp, Tcp, Udp};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::ruleset::{Key, Ruleset, Set};
use fairlead_node_agent::nft::trace::{Facts, Flow, Origin, Outcome, Packet, Payload, Trace, trace};
use support::cases::{Case, Expected, Place, Seen, address_of, cases, cluster, own};
use support::objects::MARK;

/// The ways to tell pods of this node, which must all come to the same.
fn tables() -> Vec<(&'static str, Ruleset)> {
    let plan = cluster().plan();
    let by = |links| {
        let mut plan = plan.clone();
        plan.pods = Pods {
            ranges: vec![],
            links,
        };
        build(&plan, MARK)
    };
    let uplinks = ["lo", "c0", "n0"].map(str::to_owned).into();
    vec![
        ("ranges", build(&plan, MARK)),
        ("uplinks", by(PodLinks::AllBut(uplinks))),
        ("prefixes", by(PodLinks::Prefixes(vec!["pod".into()]))),
    ]
}

/// The interface of node1 behind which something is.
fn behind(name: &str) -> Option<&str> {
    match name {
        "client" => Some("c0"),
        "node2" | "pod2" => Some("n0"),
        "node1" => None,
        pod => Some(pod),
    }
}

fn follow(table: &Ruleset, case: &Case) -> Trace {
    let packet = Packet {
        source: case.source(),
        destination: case.to().ip(),
        payload: Payload::first(case.protocol, case.to().port()),
        origin: behind(case.from).map_or(Origin::Node, |name| Origin::Arrived(name.into())),
        flow: Flow::New,
    };
    let facts = Facts {
        own: own(),
        remembered: None,
    };
    trace(table, &packet, &facts)
}

/// The outcome in the words of the rules.
fn in_words(case: &Case, outcome: &Outcome) -> Option<Expected> {
    Some(match outcome {
        Outcome::Forward(deliveries) => {
            let named = |endpoint: SocketAddr| {
                let pods = ["pod1a", "pod1b", "pod2"];
                let name = pods
                    .into_iter()
                    .find(|name| address_of(name, case.six) == endpoint.ip())?;
                (endpoint.port() == 8080).then_some(name)
            };
            let seen = |masqueraded| match (masqueraded, case.from) {
                (true, _) | (_, "node1") => Seen::ThisNode,
                _ => Seen::Sender,
            };
            let all = deliveries
                .iter()
                .map(|d| Some((named(d.endpoint)?, seen(d.masqueraded))));
            Expected::Forwarded(all.collect::<Option<_>>()?)
        }
        Outcome::Reset if case.protocol == Tcp => Expected::Refused,
        Outcome::Unreachable if case.protocol != Tcp => Expected::Refused,
        Outcome::Dropped => Expected::Dropped,
        _ => return None,
    })
}

fn difference(table: &Ruleset, case: &Case) -> Option<String> {
    let trace = follow(table, case);
    let expected = case.expected();
    (in_words(case, &trace.outcome).as_ref() != Some(&expected)).then(|| {
        let steps: Vec<String> = trace.steps.iter().map(ToString::to_string).collect();
        let (found, steps) = (&trace.outcome, steps.join("\n"));
        format!("{case:?}\nexpected {expected:?}\nfound {found:?}\n{steps}\n")
    })
}

#[test]
fn every_case_of_the_table() {
    let cases = cases(&[Tcp, Udp, Sctp]);
    assert!(cases.len() >= 7_000, "{}", cases.len());
    for (name, table) in tables() {
        let wrong: Vec<String> = cases.iter().filter_map(|case| difference(&table, case)).collect();
        let first = wrong.first().cloned().unwrap_or_default();
        assert!(
            wrong.is_empty(),
            "pods told by {name}: {} of {} differ\n{first}",
            wrong.len(),
            cases.len()
        );
    }
}

/// A comparison that always agrees would be worth nothing: each of these faults must be seen.
#[test]
fn a_table_with_a_fault_is_noticed() {
    let cases = cases(&[Tcp, Udp]);
    let (_, good) = tables().remove(0);
    let is_wrong = |table: &Ruleset| cases.iter().any(|case| difference(table, case).is_some());
    for set in [
        Set::Vips,
        Set::Pods,
        Set::Hairpin,
        Set::Filter,
        Set::Nat,
        Set::Inside,
        Set::Endpoints,
        Set::Locals,
    ] {
        for family in fairlead_node_agent::nft::ruleset::FAMILIES {
            let mut bad = good.clone();
            bad.elements.retain(|(of, _), _| *of != set(family));
            assert!(is_wrong(&bad), "{} is empty", set(family));
        }
    }
    for chain in good.chains.keys().filter(|chain| chain.base().is_some()) {
        let mut bad = good.clone();
        bad.chains.insert(chain.clone(), vec![]);
        // The guards behind the first line, and what remembers for affinity, are not asked by first packets.
        let quiet = [
            "filter-forward",
            "filter-sent",
            "remember-postrouting",
            "remember-input",
        ];
        assert_eq!(
            is_wrong(&bad),
            !quiet.contains(&&*chain.to_string()),
            "{chain} is empty"
        );
    }
}

fn first_vip() -> IpAddr {
    "192.0.2.10".parse().unwrap()
}

fn from_client(payload: Payload, flow: Flow) -> Packet {
    Packet {
        source: address_of("client", false),
        destination: first_vip(),
        payload,
        origin: Origin::Arrived("c0".into()),
        flow,
    }
}

#[test]
fn packets_that_begin_no_flow() {
    let (_, table) = tables().remove(0);
    let facts = Facts {
        own: own(),
        remembered: None,
    };
    let outcome = |packet: &Packet| trace(&table, packet, &facts).outcome;
    let middle = Payload::Ports {
        protocol: Protocol::Tcp,
        port: 80,
        opens: false,
    };
    // The first Service has no endpoint; the one with the next layout has.
    let served = |packet: Packet| Packet {
        destination: "192.0.2.16".parse().unwrap(),
        ..packet
    };
    assert_eq!(outcome(&served(from_client(middle, Flow::New))), Outcome::Reset);
    assert_eq!(
        outcome(&served(from_client(middle, Flow::Known))),
        Outcome::AsItsFlow
    );
    assert_eq!(
        outcome(&served(from_client(middle, Flow::Invalid))),
        Outcome::Dropped
    );
    assert_eq!(
        outcome(&from_client(Payload::Echo, Flow::New)),
        Outcome::AnsweredAsEcho
    );
    assert_eq!(
        outcome(&from_client(Payload::Other, Flow::New)),
        Outcome::Unreachable
    );
    let elsewhere = Packet {
        destination: "203.0.113.1".parse().unwrap(),
        ..from_client(middle, Flow::New)
    };
    assert_eq!(outcome(&elsewhere), Outcome::NotOurs);
    // A node port of nobody is left to the node.
    let node = Packet {
        destination: address_of("node1", false),
        ..from_client(Payload::first(Tcp, 22), Flow::New)
    };
    assert_eq!(outcome(&node), Outcome::NotOurs);
}

#[test]
fn a_client_that_is_remembered_gets_its_endpoint() {
    let (_, table) = tables().remove(0);
    let case = cases(&[Tcp])
        .into_iter()
        .find(|case| {
            case.of.affinity && case.place == Place::Vip && matches!(case.expected(), Expected::Forwarded(_))
        })
        .unwrap();
    let endpoint: SocketAddr = "10.0.2.2:8080".parse().unwrap();
    let facts = Facts {
        own: own(),
        remembered: Some(endpoint),
    };
    let packet = Packet {
        destination: case.to().ip(),
        ..from_client(Payload::first(Tcp, 80), Flow::New)
    };
    let trace = trace(&table, &packet, &facts);
    let Outcome::Forward(deliveries) = &trace.outcome else {
        panic!("{trace:?}");
    };
    assert_eq!(
        deliveries.iter().map(|d| d.endpoint).collect::<Vec<_>>(),
        [endpoint]
    );
    let key = (
        Set::Endpoints(fairlead_core::model::Family::V4),
        Key::Numbered(packet.target().unwrap(), 0),
    );
    assert!(
        table.elements.contains_key(&key),
        "there is one to choose otherwise"
    );
}

#[test]
fn the_walk_in_words() {
    let (_, table) = tables().remove(0);
    let case = cases(&[Tcp])
        .into_iter()
        .find(|case| matches!(case.expected(), Expected::Forwarded(pods) if pods.len() == 3))
        .unwrap();
    let trace = follow(&table, &case);
    let steps: Vec<String> = trace.steps.iter().map(ToString::to_string).collect();
    let vip = case.to().ip();
    let expected = format!(
        "filter-prerouting: ip daddr . meta l4proto . th dport vmap @filter4  [{vip} . tcp . 80 : goto served]  → served
served: accept
nat-prerouting: ip daddr . meta l4proto . th dport vmap @nat4  [{vip} . tcp . 80 : goto cluster4-3]  → cluster4-3
cluster4-3: ct mark set ct mark | 0x00200000
cluster4-3: dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints4  \
         [10.0.1.2:8080, 10.0.1.3:8080, 10.0.2.2:8080]
nat-postrouting: ct mark & 0x00200000 == 0x00200000 masquerade fully-random"
    );
    assert_eq!(steps.join("\n"), expected);
    assert_eq!(
        trace.outcome.to_string(),
        "It is forwarded to one of 10.0.1.2:8080, 10.0.1.3:8080, 10.0.2.2:8080, which sees an address of this node."
    );
}
