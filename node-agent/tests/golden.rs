//! The text that nft gets, against files under `golden/`. `UPDATE_GOLDEN=1 cargo test` writes them anew; the tests in
//! namespaces feed every one of them to a real nft.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::render::replace;
use fairlead_node_agent::nft::ruleset::Ruleset;
use support::objects::{Cluster, MARK, service};

fn ruleset(cluster: &Cluster) -> Ruleset {
    build(&cluster.plan(), MARK)
}

#[track_caller]
fn check(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}.nft", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{path} differs (UPDATE_GOLDEN=1 writes it anew):\n{text}"
    );
}

/// Every kind of destination there is, in both families.
fn everything() -> Cluster {
    let mut restricted = service(
        "restricted",
        Local,
        &["192.0.2.3", "2001:db8::3"],
        &["443/tcp@30443"],
    );
    restricted.source_ranges = vec![
        "198.51.100.0/24".parse().unwrap(),
        "2001:db8:1::/48".parse().unwrap(),
    ];
    let mut sticky = service(
        "sticky",
        Anywhere,
        &["192.0.2.4"],
        &["53/udp@30053", "53/tcp@30053"],
    );
    sticky.affinity = Some(10_800);
    Cluster::new()
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
        )
}

#[test]
fn an_empty_table() {
    check("empty", &replace(&ruleset(&Cluster::new())));
}

#[test]
fn a_table_with_everything() {
    check("everything", &replace(&ruleset(&everything())));
}
