//! Every fault of the benchmark, once, with a bound that a busy machine can keep: the benchmark tells how good it is, and
//! these tests that it is not broken.

use fairlead_e2e::bgp::{Outcome, Row, trial};

use super::fixture::{Fixture, node};

fn fault(row: Row, on: &str) -> Outcome {
    let f = Fixture::without_peers();
    let outcome = trial(&f.stage, row, node(on)).unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    println!("{}: {outcome}", row.title());
    assert!(!outcome.disturbed, "something failed before the fault: {outcome}");
    outcome
}

fn assert_outage(outcome: &Outcome, most_ms: u64) {
    assert!(outcome.seen.failed > 0, "the fault was one: {outcome}");
    assert!(
        outcome.seen.outage_ms <= most_ms,
        "more than {most_ms} ms: {outcome}"
    );
}

fn assert_none_failed(outcome: &Outcome) {
    assert_eq!(outcome.seen.failed, 0, "{outcome}");
}

fn assert_withdrawn(outcome: &Outcome, most_ms: u64) {
    let withdrawn = outcome.withdrawn_ms.unwrap_or(u64::MAX);
    assert!(withdrawn <= most_ms, "not within {most_ms} ms: {outcome}");
}

#[test]
fn a_dead_node_is_found_by_bfd() {
    assert_outage(&fault(Row::PowerOff, "node2"), 2000);
}

#[test]
fn a_dead_node_is_found_by_the_hold_time() {
    assert_outage(&fault(Row::PowerOffHold, "node3"), 5000);
}

#[test]
fn a_cordoned_node_fails_no_connection() {
    let outcome = fault(Row::Cordon, "node1");
    assert_none_failed(&outcome);
    assert_withdrawn(&outcome, 5000);
}

#[test]
fn a_drained_node_fails_no_connection() {
    let outcome = fault(Row::Drain, "node2");
    assert_none_failed(&outcome);
    assert_withdrawn(&outcome, 10_000);
}

#[test]
fn replaced_speakers_fail_no_connection() {
    assert_none_failed(&fault(Row::SpeakerUpgrade, "node1"));
}

#[test]
fn replaced_daemons_fail_no_connection() {
    assert_none_failed(&fault(Row::DaemonUpgrade, "node1"));
}

#[test]
fn a_killed_daemon_fails_no_connection_under_graceful_restart() {
    let outcome = fault(Row::DaemonKilled, "node3");
    assert_none_failed(&outcome);
    assert_eq!(outcome.withdrawn_ms, None, "the router kept the route: {outcome}");
}

#[test]
fn a_dead_service_proxy_withdraws_though_the_api_server_is_silent() {
    let outcome = fault(Row::ProbeFails, "node1");
    assert_withdrawn(&outcome, 4000);
}

#[test]
fn the_last_local_endpoint_ends_without_a_failed_connection() {
    let outcome = fault(Row::EndpointDeleted, "node3");
    assert_none_failed(&outcome);
    assert_withdrawn(&outcome, 5000);
}
