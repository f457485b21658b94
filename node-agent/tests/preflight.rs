//! What a node has that keeps packets from pods, read from a real kernel.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use fairlead_node_agent::preflight::list_chains;
use support::topology::Namespace;

#[test]
fn chains_that_drop_what_is_forwarded_are_found() {
    let namespace = Namespace::new("preflight");
    assert_eq!(namespace.within(|| list_chains().unwrap()), []);
    for command in [
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        "add chain ip filter INPUT { type filter hook input priority 0 ; policy accept ; }",
        "add chain ip filter own",
        "add table inet fw",
        "add chain inet fw guard { type filter hook forward priority 10 ; policy accept ; }",
        "add table bridge b",
        "add chain bridge b forward { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        namespace.exec(&[&["nft"], command.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
    let mut found: Vec<_> = namespace
        .within(|| list_chains().unwrap())
        .into_iter()
        .map(|chain| (chain.family, chain.table, chain.name, chain.forwards, chain.drops))
        .collect();
    found.sort();
    let own = |text: &str| text.to_owned();
    assert_eq!(
        found,
        [
            ("inet", own("fw"), own("guard"), true, false),
            ("ip", own("filter"), own("FORWARD"), true, true),
            ("ip", own("filter"), own("INPUT"), false, false),
        ]
    );
}
