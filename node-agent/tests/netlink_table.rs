//! The whole table by our own netlink: it is what nft makes of the text of the same ruleset, and it is read again as it
//! was written.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_core::model::Family;
use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::change::Changes;
use fairlead_node_agent::nft::netlink::batch::Batch;
use fairlead_node_agent::nft::netlink::driver::{self, Found, Kernel, Reading};
use fairlead_node_agent::nft::render;
use fairlead_node_agent::nft::ruleset::{Action, Chain, Key, Match, Rule, Ruleset, Set, Value};
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
        &["192.0.2.4"],
        &["53/udp@30053", "53/tcp@30053"],
    );
    sticky.client_ip_affinity = true;
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
        .with(sticky, &["10.0.1.2@node1", "10.0.2.2@node2"])
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
        [Match::SourceBehindOther(Set::Uplinks)],
        [Action::Lookup(Set::Inside(Family::V4))],
    );
    ruleset
        .chains
        .get_mut(&Chain::NatPrerouting)
        .unwrap()
        .insert(0, behind);
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
        // A set of what the routing table answers has the type of that.
        let text = render::replace(&ruleset).replace("type ifname", "typeof fib saddr oifname");
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
            "add chain inet fairlead cluster4-tcp-77",
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
