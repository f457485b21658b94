//! What one change costs the speaker among many addresses that it announces by BGP: deciding with and without what is
//! remembered of the decision before, and telling of it.
//!
//! `cargo bench -p fairlead-speaker --bench decide -- --addresses 10000`

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use fairlead_api::node_state::GossipState;
use fairlead_core::announce::{ProbeTarget, Verdict};
use fairlead_core::config::{RawBgpAdvertisement, RawPeer, RawPool};
use fairlead_core::model::{AssignedRecord, NodeName, Service};
use fairlead_core::ownership::ClassPolicy;
use fairlead_core::testing;
use fairlead_runtime::link::{AddressReport, AgentReport, AgentView};
use fairlead_speaker::datapath::Memory;
use fairlead_speaker::decide::{Inputs, Remembered, Routing, decide};
use fairlead_speaker::disputes;
use fairlead_speaker::health::Verdicts;
use fairlead_speaker::index::Index;
use fairlead_speaker::l2::Sightings;
use fairlead_speaker::links::Links;
use fairlead_speaker::membership::node::View;
use fairlead_speaker::snapshot::{Bgp, Identity};
use fairlead_speaker::status::{Since, render};
use jiff::Timestamp;

/// How often each part is done; the median counts.
const ROUNDS: usize = 31;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--addresses");
    let count = given.map_or(10_000, |at| arguments[at + 1].parse().unwrap());
    let mut index = index(count);
    let now = Instant::now();
    let mut data_path = Memory::default();
    let programmed = AddressReport {
        plan: 1,
        unapplied_ms: None,
    };
    data_path.observe(&AgentView {
        last: Some(AgentReport {
            plan: 1,
            addresses: (0..count).map(|n| (address(n), programmed.clone())).collect(),
            ..AgentReport::default()
        }),
        connected: true,
        last_seen: Some(now),
    });
    let me = NodeName::from("me");
    let gossip = View {
        live: [me.clone()].into(),
        ..View::default()
    };
    let inputs = Inputs {
        me: &me,
        class: ClassPolicy {
            serve_classless: true,
            metallb: false,
        },
        links: &Links::new(),
        data_path: &data_path,
        verdicts: &Verdicts::from([(ProbeTarget::Proxy { address: own() }, Verdict::Pass)]),
        gossip: &gossip,
        disputes: &disputes::Known {
            me: &me,
            sightings: &Sightings::default(),
            gossip: &gossip,
            lost: &BTreeMap::new(),
            ipvs: &BTreeSet::new(),
            held: &BTreeMap::new(),
            now,
        },
        held: &BTreeMap::new(),
        offered: &BTreeMap::new(),
        eligible_since: &BTreeMap::new(),
        routing: Routing {
            enabled: true,
            established: &["tor".to_owned()].into(),
            draining: &BTreeMap::new(),
            drain_time: Duration::from_secs(5),
        },
        leaving: false,
        departing: false,
        now,
        uptime: Duration::from_secs(5),
    };
    let mut ready = true;
    let mut remembered = Remembered::default();
    measure("decide, one endpoint changed", || {
        ready = !ready;
        index.slices.table.apply(
            "default/s7",
            Some(testing::slice("s7", Some("me"), if ready { "rs" } else { "" })),
        );
        decide(&mut index, &mut remembered, &inputs)
    });
    let decision = measure("decide, nothing remembered", || {
        decide(&mut index, &mut Remembered::default(), &inputs)
    });
    assert_eq!(decision.bgp.announced.len() + usize::from(!ready), count as usize);
    measure("render the status", || {
        let clock = (now, Timestamp::UNIX_EPOCH);
        let gossip = GossipState::default();
        render(
            &decision,
            inputs.links,
            &data_path,
            &gossip,
            false,
            &mut Since::default(),
            clock,
        )
    });
    measure("take the snapshot", || {
        Bgp::of(&decision, BTreeMap::new(), Identity::default())
    });
}

fn measure<T>(what: &str, mut part: impl FnMut() -> T) -> T {
    let mut last = part();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            last = part();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{what}: {:.1} ms", times[ROUNDS / 2].as_secs_f64() * 1000.0);
    last
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(
        Ipv4Addr::new(198, 18, 0, 0).to_bits() + number,
    ))
}

fn own() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11))
}

/// So many Services with an address and a ready endpoint on this node each, one pool, one peer.
fn index(count: u32) -> Index {
    let mut index = Index::default();
    for number in 0..count {
        let name = format!("s{number}");
        let service = Service {
            ingress: vec![address(number)],
            assigned: Some(AssignedRecord {
                addresses: vec![(address(number), "pool".into())],
                since: 1,
            }),
            ..testing::service(&name)
        };
        let key = format!("default/{name}");
        index.services.apply(&key, Some(service));
        index
            .slices
            .table
            .apply(&key, Some(testing::slice(&name, Some("me"), "rs")));
    }
    index.nodes.apply("me", Some(testing::node("me", "192.0.2.11")));
    let pool = RawPool {
        name: "pool".into(),
        addresses: vec!["198.18.0.0/15".into()],
        ..RawPool::default()
    };
    index.pools.apply("pool", Some(pool));
    let peer = RawPeer {
        name: "tor".into(),
        my_asn: 64500,
        remote_asn: "64512".into(),
        address: Some("192.0.2.1".into()),
        ..RawPeer::default()
    };
    index.bgp_peers.apply("tor", Some(peer));
    let advertisement = RawBgpAdvertisement {
        name: "bgp".into(),
        ..RawBgpAdvertisement::default()
    };
    index.bgp_advertisements.apply("bgp", Some(advertisement));
    index
}
