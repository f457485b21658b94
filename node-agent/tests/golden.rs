//! The text that nft gets, against files under `golden/`. `UPDATE_GOLDEN=1 cargo test` writes them anew; the tests in
//! namespaces feed every one of them to a real nft.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::change::Changes;
use fairlead_node_agent::nft::render::{change, replace};
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

#[test]
fn one_endpoint_more_touches_its_own_chains_only() {
    let before = everything();
    let mut after = before.clone();
    let more = service("here", Local, &["192.0.2.2"], &["80/tcp@30081"]);
    after
        .slices
        .extend(support::objects::slices(&more, &["10.0.1.4@node1"]));
    let (before, after) = (ruleset(&before), ruleset(&after));
    check("one-endpoint-more", &change(&Changes::between(&before, &after)));
}

#[test]
fn the_last_local_endpoint_goes() {
    let with = |endpoints: &[&str]| {
        Cluster::new().with(service("a", Local, &["192.0.2.1"], &["80/tcp@30080"]), endpoints)
    };
    let (before, after) = (
        with(&["10.0.1.2@node1", "10.0.2.2@node2"]),
        with(&["10.0.2.2@node2"]),
    );
    let (before, after) = (ruleset(&before), ruleset(&after));
    check(
        "last-local-endpoint-gone",
        &change(&Changes::between(&before, &after)),
    );
}

#[test]
fn a_service_comes_and_goes() {
    let (empty, full) = (Cluster::new(), everything());
    let (empty, full) = (ruleset(&empty), ruleset(&full));
    check(
        "from-empty-to-everything",
        &change(&Changes::between(&empty, &full)),
    );
    check(
        "from-everything-to-empty",
        &change(&Changes::between(&full, &empty)),
    );
}

#[test]
fn no_difference_is_no_text() {
    assert_eq!(
        change(&Changes::between(
            &ruleset(&everything()),
            &ruleset(&everything())
        )),
        ""
    );
}
