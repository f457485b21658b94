//! Every fault of the failover benchmark, once, with a bound that a busy machine can keep: the benchmark tells how good it
//! is, and these tests that it is not broken. Those in which nodes lose their power are in `power`.

use std::time::Duration;

use fairlead_e2e::bench::Contender;
use fairlead_e2e::failover::{Options, Outcome, Row, Scene, trial};

use super::fixture::Fixture;

/// What the benchmark has a minute and more for.
pub const OPTIONS: Options = Options {
    api_down: Duration::from_secs(10),
    busy: Duration::from_secs(20),
};

/// A scene that is put in order again, also after a failed test.
pub struct Restored<'a>(pub Scene<'a>);

impl<'a> Restored<'a> {
    /// The Service and its web servers in the fixture's namespace; `family` is IPv4 or IPv6.
    pub fn new(f: &'a Fixture, family: &str) -> Self {
        let scene = Scene::set_up(&f.lab, &f.cluster, Contender::Fairlead, &f.name, family);
        Self(scene.unwrap_or_else(|error| panic!("{error}\n{}", f.explain())))
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.restore() {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// The pool of a family.
pub fn pool(family: &str) -> &'static str {
    match family {
        "IPv6" => "fd00:30::100-fd00:30::10f",
        _ => "172.30.0.100-172.30.0.109",
    }
}

/// Makes a fault once, in a family.
pub fn fault_of(family: &str, row: Row) -> Outcome {
    let f = Fixture::new(row.name(), &[pool(family)]);
    let scene = Restored::new(&f, family);
    let outcome =
        trial(&scene.0, row, &OPTIONS, None).unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    println!("{} ({family}): {outcome}", row.title());
    outcome
}

fn fault(row: Row) -> Outcome {
    fault_of("IPv4", row)
}

fn assert_gap(outcome: &Outcome, most_ms: u64) {
    assert!(outcome.gap_ms <= most_ms, "more than {most_ms} ms: {outcome}");
}

fn assert_none_failed(outcome: &Outcome) {
    assert_eq!(outcome.failed, 0, "{outcome}");
}

#[test]
fn a_cut_cable_is_found_and_made_up_for() {
    let outcome = fault(Row::CableCut);
    assert_gap(&outcome, 3000);
    assert_eq!(outcome.moves, 1, "{outcome}");
}

#[test]
fn a_cordoned_owner_hands_over_without_a_failed_connection() {
    let outcome = fault(Row::Cordon);
    assert_none_failed(&outcome);
    assert_eq!(outcome.moves, 1, "{outcome}");
    assert!(outcome.doubled_ms <= 1000, "{outcome}");
}

#[test]
fn a_drained_owner_hands_over_without_a_failed_connection() {
    let outcome = fault(Row::Drain);
    assert_none_failed(&outcome);
    assert_eq!(outcome.moves, 1, "{outcome}");
}

#[test]
fn the_last_local_endpoint_unready_moves_the_address() {
    let outcome = fault(Row::EndpointUnready);
    assert_gap(&outcome, 1000);
    assert_eq!(outcome.moves, 1, "{outcome}");
}

#[test]
fn the_last_local_endpoint_deleted_moves_the_address_without_a_failed_connection() {
    let outcome = fault(Row::EndpointDeleted);
    assert_none_failed(&outcome);
    assert_eq!(outcome.moves, 1, "{outcome}");
}

#[test]
fn a_dead_service_proxy_moves_the_address_though_the_api_server_is_silent() {
    let outcome = fault(Row::ProbeFails);
    assert_gap(&outcome, 1000);
    let moved = outcome.moved_ms.unwrap_or(u64::MAX);
    assert!(moved <= 3000, "{outcome}");
}

#[test]
fn a_switch_that_is_whole_again_has_one_owner() {
    let outcome = fault(Row::SplitHealed);
    assert!(outcome.doubled_ms <= 2000, "{outcome}");
    assert!(outcome.moved_ms.is_some(), "each side had an owner: {outcome}");
}

#[test]
fn speakers_without_gossip_do_not_both_announce() {
    let outcome = fault(Row::GossipBlocked);
    // They learn of each other from what each announces unasked, the last time of its burst after 2 s.
    assert!(outcome.doubled_ms <= 4000, "{outcome}");
    assert_gap(&outcome, 3000);
}

#[test]
fn a_killed_speaker_leaves_no_gap() {
    let outcome = fault(Row::SpeakerKilled);
    assert_gap(&outcome, 1000);
}

#[test]
fn replaced_speakers_fail_no_connection() {
    let outcome = fault(Row::SpeakerUpgrade);
    assert_none_failed(&outcome);
}

#[test]
fn replaced_node_agents_fail_no_connection() {
    let outcome = fault(Row::AgentUpgrade);
    assert_none_failed(&outcome);
    assert_eq!(outcome.moves, 0, "{outcome}");
}

#[test]
fn a_busy_machine_moves_nothing() {
    let outcome = fault(Row::Busy);
    assert_eq!(outcome.moves, 0, "{outcome}");
}
