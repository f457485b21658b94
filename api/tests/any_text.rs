//! The controller's records as users may have spoilt them: nothing panics, and what is read reads back.

use fairlead_api::annotations::{parse_external, render_external};
use fairlead_api::conditions::{ASSIGNED, parse_assigned};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,60}",
        "((192\\.0\\.2\\.[0-9]|2001:db8::[0-9]|x) from pool [a-z, ]{0,6}( \\(adopted\\))?(, |; since |; )){0,3}(2026-01-01T00:00:0[0-9]Z)?",
    ]
}

proptest! {
    #[test]
    fn an_external_record_reads_back(text in text()) {
        if let Some(record) = parse_external(&text) {
            prop_assert_eq!(parse_external(&render_external(&record)), Some(record));
        }
    }

    #[test]
    fn an_assigned_record_names_what_it_lists(text in text()) {
        let condition = Condition {
            type_: ASSIGNED.to_owned(),
            status: "True".to_owned(),
            reason: "Assigned".to_owned(),
            message: text,
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        if let Some(record) = parse_assigned(&condition) {
            prop_assert!(!record.addresses.is_empty());
            prop_assert!(record.addresses.iter().all(|(address, _)| record.names(*address)));
        }
    }
}
