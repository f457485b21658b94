//! The whole table by our own netlink: it is what nft makes of the text of the same ruleset, and it is read again as it
//! was written.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_core::forward::Destination;
use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_core::model::{Family, Protocol};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::change::Changes;
use fairlead_node_agent::nft::netlink::batch::Batch;
use fairlead_node_agent::nft::netlink::driver::{self, Found, Kernel, Reading};
use fairlead_node_agent::nft::netlink::socket::NetlinkSocket;
use fairlead_node_agent::nft::netlink::watch::Watch;
use fairlead_node_agent::nft::render;
use fairlead_node_agent::nft::ruleset::{Action, Chain, Choice, Key, Kind, Match, Rule, Ruleset, Set, Value};
use support::kernel::{in_namespace, nft, same};
use support::objects::{Cluster, MARK, service};

/// Every kind of destination there is, in both families.
fn everything() -> Ruleset {
    let mut restricted = service(
        "restricted",
        Local,
        &["192.0.2.3", "2001:db8::3"],
        &["443/tcp@30443"],
    );
    restricted.source_ranges = ["198.51.100.0/24", "10.64.0.0/11", "0.0.0.0/0", "192.0.2.77/32"]
        .into_iter()
        .chain(["2001:db8:1::/48", "2001:db8:2::/49", "::/0", "2001:db8::9/128"])
        .map(|range| range.parse().unwrap())
        .collect();
    let mut sticky = service(
        "sticky",
        Anywhere,
        &["192.0.2.4", "2001:db8::4"],
        &["53/udp@30053", "53/tcp@30053"],
    );
    sticky.affinity = Some(10_800);
    let cluster = Cluster::new()
        .with(
            service("any", Anywhere, &["192.0.2.1", "2001:db8::1"], &["80/tcp@30080"]),
            &["10.0.1.2@node1", "10.0.2.2@node2", "fd00:1::2@node1"],
        )
        .with(
            service("here", Local, &["192.0.2.2"], &["80/tcp@30081", "9/sctp"]),
            &["10.0.1.2@node1", "10.0.1.3@node1", "10.0.2.2@node2"],
        )
        .with(
            restricted,
            &["10.0.2.2@node2", "fd00:2::2@node2", "fd00:2::3@node2"],
        )
        .with(sticky, &["10.0.1.2@node1", "10.0.2.2@node2", "fd00:2::2@node2"])
        .with(
            service("none", Local, &["192.0.2.5"], &["80/tcp"]),
            &["10.0.1.9@node1!"],
        );
    let mut ruleset = build(&cluster.plan(), MARK);
    for name in ["eth0", "bond0.100"] {
        let key = (Set::Uplinks, Key::Interface(name.into()));
        ruleset.elements.insert(key, Value::Member);
    }
    for range in ["10.0.2.0/24", "10.1.0.0/16", "10.9.8.7/32"] {
        let key = (Set::Pods(Family::V4), Key::Range(range.parse().unwrap()));
        ruleset.elements.insert(key, Value::Member);
    }
    // Only where packets come in: what leaves has no way back that could be asked for.
    let behind = Rule::new(
        [Match::FromOther(Set::Uplinks)],
        [Action::Lookup(Set::Inside(Family::V4))],
    );
    let called = Rule::new(
        [Match::FromInterface("cali".into())],
        [Action::Lookup(Set::Inside(Family::V6))],
    );
    let prerouting = ruleset.chains.get_mut(&Chain::NatPrerouting).unwrap();
    prerouting.splice(0..0, [behind, called]);
    ruleset
}

/// nft up to 1.0.6 at least counts its registers wrongly and aborts on what remembers clients by IPv6; the kernel takes
/// it.
fn without_remembering_six(mut ruleset: Ruleset) -> Ruleset {
    let six = |chain: &Chain| matches!(chain, Chain::Affine(Family::V6, _));
    ruleset.chains.retain(|chain, _| !six(chain));
    ruleset
        .elements
        .retain(|_, value| !matches!(value, Value::Goto(chain) if six(chain)));
    ruleset
}

#[track_caller]
fn found(kernel: &mut Kernel) -> Found {
    match kernel.read().unwrap() {
        Reading::Table(found) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_table_is_that_of_nft() {
    for ruleset in [
        build(&Cluster::new().plan(), MARK),
        without_remembering_six(everything()),
    ] {
        let text = render::replace(&ruleset);
        same(&text, |socket| {
            let mut batch = Batch::new(None);
            driver::replace(&mut batch, &ruleset);
            socket.commit(&mut batch).unwrap();
        });
    }
}

#[test]
fn what_is_written_is_read() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        assert!(matches!(kernel.read().unwrap(), Reading::Absent));
        let (empty, full) = (build(&Cluster::new().plan(), MARK), everything());
        kernel.replace(&full).unwrap();
        assert_eq!(found(&mut kernel).ruleset(&full), full);
        for (from, to) in [(&full, &empty), (&empty, &full)] {
            let generation = kernel.apply(&Changes::between(from, to)).unwrap();
            let found = found(&mut kernel);
            assert_eq!(found.generation, generation);
            assert_eq!(&found.ruleset(to), to);
        }
        kernel.replace(&full).unwrap();
        assert_eq!(found(&mut kernel).ruleset(&full), full);
        kernel.remove().unwrap();
        kernel.remove().unwrap();
        assert!(matches!(kernel.read().unwrap(), Reading::Absent));
    });
}

#[test]
fn what_others_did_is_seen_and_repaired() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let wanted = everything();
        kernel.replace(&wanted).unwrap();
        for change in [
            "add rule inet fairlead served accept",
            "flush chain inet fairlead refuse",
            "delete element inet fairlead vips4 { 192.0.2.1 }",
            "add element inet fairlead filter4 { 192.0.2.9 . tcp . 80 : goto served }",
            "delete element inet fairlead pods4 { 10.1.0.0/16 }",
            "add chain inet fairlead cluster4-77",
        ] {
            nft(&["-f", "-"], change);
            let differs = found(&mut kernel).ruleset(&wanted);
            let changes = Changes::between(&differs, &wanted);
            assert!(!changes.is_empty(), "{change}");
            kernel.apply(&changes).unwrap();
            assert_eq!(found(&mut kernel).ruleset(&wanted), wanted, "{change}");
        }
        for change in [
            "add chain inet fairlead other",
            "add set inet fairlead other { type ipv4_addr; }",
            "add element inet fairlead filter4 { 192.0.2.9 . tcp . 81 : accept }",
            "add element inet fairlead filter4 { 192.0.2.9 . icmp . 81 : goto served }",
            "add element inet fairlead pods4 { 10.3.0.1-10.3.0.5 }",
            "delete table inet fairlead; add table inet fairlead",
            "add table inet fairlead { flags dormant; }",
        ] {
            nft(&["-f", "-"], change);
            let reading = kernel.read().unwrap();
            assert!(matches!(reading, Reading::Garbage(_)), "{change}: {reading:?}");
            kernel.replace(&wanted).unwrap();
            assert_eq!(found(&mut kernel).ruleset(&wanted), wanted, "{change}");
        }
    });
}

#[test]
fn a_difference_from_something_else_is_refused_whole() {
    in_namespace(|| {
        let mut kernel = Kernel::open().unwrap();
        let (empty, full) = (build(&Cluster::new().plan(), MARK), everything());
        kernel.replace(&full).unwrap();
        let key = (Set::Vips(Family::V4), Key::Address("192.0.2.1".parse().unwrap()));
        let again = Changes {
            add: vec![(key, Value::Member)],
            ..Changes::default()
        };
        let refused = kernel.apply(&again).unwrap_err();
        assert!(refused.is_stale());
        let expected =
            "the kernel refused to add element 192.0.2.1 to set vips4 of table fairlead: File exists";
        assert_eq!(refused.to_string(), expected);
        let refused = kernel.apply(&Changes::between(&empty, &full)).unwrap_err();
        assert!(refused.is_stale(), "{refused}");
        assert_eq!(found(&mut kernel).ruleset(&full), full);
    });
}

#[test]
fn clients_are_remembered_by_their_ipv6_addresses_too() {
    in_namespace(|| {
        Kernel::open().unwrap().replace(&everything()).unwrap();
        let chain = nft(&["list", "chain", "inet", "fairlead", "affine6-10800"], "");
        let rule = "update @affinity6 { ip6 saddr . ct original ip6 daddr . meta l4proto . ct original proto-dst \
                    timeout 3h : ct reply ip6 saddr . ct reply proto-src }";
        assert!(chain.contains(rule), "{chain}");
    });
}

/// What the kernel needs for 10 000 Services with 10 endpoints each. Run it by name, with `--nocapture`.
#[test]
#[ignore = "measures"]
fn how_long_a_large_table_takes() {
    const SERVICES: u32 = 10_000;
    const ENDPOINTS: u32 = 10;
    let mut ruleset = everything();
    let choice = Choice {
        kind: Kind::Cluster,
        family: Family::V4,
        sticky: false,
        count: ENDPOINTS,
    };
    assert!(ruleset.chains.contains_key(&Chain::Choose(choice)));
    let vip = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a80_0000 + n));
    let served = |n| Destination {
        address: vip(n),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let endpoint = |n: u32, i: u32| {
        let address = Ipv4Addr::from_bits(0x0a40_0000 + n * ENDPOINTS + i);
        Value::Endpoint(SocketAddr::new(address.into(), 8080))
    };
    let four = Family::V4;
    for n in 0..SERVICES {
        let goto = |chain| Value::Goto(chain);
        let key = || Key::Destination(served(n));
        let mut put = |set, key, value| ruleset.elements.insert((set, key), value);
        put(Set::Vips(four), Key::Address(vip(n)), Value::Member);
        put(Set::Echo(four), Key::Address(vip(n)), Value::Address(vip(0)));
        put(Set::Filter(four), key(), goto(Chain::Served));
        put(Set::Nat(four), key(), goto(Chain::Choose(choice)));
        for i in 0..ENDPOINTS {
            put(Set::Endpoints(four), Key::Numbered(served(n), i), endpoint(n, i));
        }
    }
    in_namespace(|| {
        let timed = |what: &str, begin: Instant| println!("{what}: {:?}", begin.elapsed());
        let mut socket = NetlinkSocket::open().unwrap();
        let begin = Instant::now();
        let mut batch = Batch::new(None);
        driver::replace(&mut batch, &ruleset);
        timed("encoded", begin);
        println!("{} bytes", batch.len());
        let begin = Instant::now();
        socket.commit(&mut batch).unwrap();
        timed("committed from empty", begin);
        let mut kernel = Kernel::open().unwrap();
        let begin = Instant::now();
        kernel.replace(&ruleset).unwrap();
        timed("encoded and replaced", begin);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let _watch = Watch::open("fairlead", &[kernel.port()]).unwrap();
        let begin = Instant::now();
        kernel.replace(&ruleset).unwrap();
        timed("encoded and replaced, while changes are watched", begin);
        let begin = Instant::now();
        let found = found(&mut kernel);
        timed("read", begin);
        assert!(found.ruleset(&ruleset) == ruleset);
        let change = |delete: Vec<(Key, Value)>, add: Vec<(Key, Value)>, set| Changes {
            delete: delete
                .into_iter()
                .map(|(key, value)| ((set, key), value))
                .collect(),
            add: add.into_iter().map(|(key, value)| ((set, key), value)).collect(),
            ..Changes::default()
        };
        let mut took: Vec<Duration> = (0..200)
            .map(|n| {
                let element = |i| vec![(Key::Numbered(served(n), 3), endpoint(n, i))];
                let change = change(element(3), element(SERVICES), Set::Endpoints(four));
                let begin = Instant::now();
                kernel.apply(&change).unwrap();
                begin.elapsed()
            })
            .collect();
        took.sort();
        println!(
            "another endpoint: median {:?}, longest {:?}",
            took[100], took[199]
        );
        let mut took: Vec<Duration> = (0..50)
            .map(|n| {
                let element = vec![(Key::Destination(served(n)), Value::Goto(Chain::Choose(choice)))];
                let change = change(element.clone(), element, Set::Nat(four));
                let begin = Instant::now();
                kernel.apply(&change).unwrap();
                begin.elapsed()
            })
            .collect();
        took.sort();
        println!("another verdict: median {:?}, longest {:?}", took[25], took[49]);
        let chain = Chain::Choose(choice);
        let rewrite = Changes {
            rewrite_chains: vec![(chain.clone(), ruleset.chains[&chain].clone())],
            ..Changes::default()
        };
        let begin = Instant::now();
        kernel.apply(&rewrite).unwrap();
        timed("a chain with two lookups rewritten", begin);
        let begin = Instant::now();
        kernel.remove().unwrap();
        timed("removed", begin);
    });
}
