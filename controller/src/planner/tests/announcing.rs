//! What is said of announcements.

use super::*;
use crate::quiet::LASTING;

#[test]
fn announcements_follow_the_speakers_and_hand_overs_are_quiet() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.settle();
    cluster.view("n1", &[("192.0.2.0", 1)], &[]);
    assert_eq!(cluster.settle(), ["Normal Announced: announced by node n1"]);
    assert_eq!(
        cluster.condition("a", "Announced"),
        "True Announced: announced by node n1"
    );

    cluster.view("n1", &[], &[("192.0.2.0", Reason::NotElected)]);
    assert!(cluster.after(100).settle().is_empty());
    assert_eq!(
        cluster.condition("a", "Announced"),
        "True Announced: announced by node n1"
    );
    cluster.view("n2", &[("192.0.2.0", 2)], &[]);
    assert_eq!(
        cluster.after(100).settle(),
        ["Normal OwnerChanged: announced by node n2 (was node n1)"]
    );

    cluster.view("n1", &[], &[("192.0.2.0", Reason::NoLocalEndpoint)]);
    cluster.view("n2", &[], &[("192.0.2.0", Reason::ProbeFailed)]);
    let step = cluster.after(30).step();
    assert_eq!(step.wake, Some(cluster.now + LASTING));
    assert!(step.writes.is_empty());
    let why = "192.0.2.0 is announced by no node: held back on n2 (because)";
    assert_eq!(
        cluster.after(5000).settle(),
        [format!("Warning ProbeFailed: {why}")]
    );
    assert_eq!(
        cluster.condition("a", "Announced"),
        format!("False ProbeFailed: {why}")
    );
    assert!(cluster.after(60_000).settle().is_empty());
    cluster.view("n1", &[("192.0.2.0", 3)], &[]);
    assert_eq!(cluster.settle(), ["Normal Announced: announced by node n1"]);
}

#[test]
fn a_node_that_is_gone_announces_nothing() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    cluster.view("n1", &[("192.0.2.0", 1)], &[]);
    cluster.settle();
    cluster.index.nodes.delete("n1");
    assert!(cluster.settle().is_empty());
    let events = cluster.after(5000).settle();
    assert!(
        events.len() == 1 && events[0].starts_with("Warning NoSpeaker"),
        "{events:?}"
    );
}
