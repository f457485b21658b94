//! The controller's records, which users can see and some can edit: what can be read reads back from its own text.
#![no_main]

use fairlead_api::annotations::{parse_external, render_external};
use fairlead_api::conditions::{ASSIGNED, parse_assigned};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(record) = parse_external(text) {
        assert_eq!(parse_external(&render_external(&record)).as_ref(), Some(&record));
    }
    let condition = Condition {
        type_: ASSIGNED.to_owned(),
        status: "True".to_owned(),
        reason: "Assigned".to_owned(),
        message: text.to_owned(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    if let Some(record) = parse_assigned(&condition) {
        assert!(!record.addresses.is_empty());
        assert!(record.addresses.iter().all(|(address, _)| record.names(*address)));
    }
});
