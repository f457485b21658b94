//! Nodes that die without a word. Near the end of the tests, since what runs on such a node is restarted.

use fairlead_e2e::failover::Row;

use super::faults::fault_of;

/// For detection, election and take-over, on a machine that is busy with other things.
const MOST_MS: u64 = 3000;

fn power_off(family: &str, row: Row) {
    let outcome = fault_of(family, row);
    assert!(outcome.gap_ms <= MOST_MS, "{outcome}");
    assert_eq!(outcome.moves, 1, "{outcome}");
    assert!(outcome.doubled_ms <= 1000, "{outcome}");
}

#[test]
fn a_dead_node_is_replaced() {
    power_off("IPv4", Row::PowerOff);
}

#[test]
fn a_dead_node_is_replaced_for_ipv6() {
    power_off("IPv6", Row::PowerOff);
}

#[test]
fn a_dead_node_is_replaced_without_the_api_server() {
    power_off("IPv4", Row::ApiDownPowerOff);
}
