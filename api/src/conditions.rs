//! Conditions: our types on Services and on objects of ours, the record inside `Assigned`, and writing only changes.

use std::net::IpAddr;

use fairlead_core::model::AssignedRecord;
use fairlead_core::reason::Refusal;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// On a Service: an address is assigned. While it is true it is also the controller's record of the assignment.
pub const ASSIGNED: &str = "fairlead.dev/Assigned";
/// On a Service: every address is announced by a node.
pub const ANNOUNCED: &str = "fairlead.dev/Announced";
/// On objects of ours: the object is in use.
pub const ACCEPTED: &str = "Accepted";

/// The message of a true `Assigned` condition. Programs read it back with [`parse_assigned`], so its form is fixed:
/// `192.0.2.7 from pool blue, 2001:db8::7 from pool blue`.
pub fn render_assigned(addresses: &[(IpAddr, String)]) -> String {
    addresses
        .iter()
        .map(|(address, pool)| format!("{address} from pool {pool}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Parts the record from a remark for people, in the message of a true `Assigned` condition.
pub const REMARK: &str = "; ";

/// Reads the record out of a condition; `None` unless it is `Assigned`, true, and of the fixed form. A remark after
/// [`REMARK`] (why a wish for another address is not met, for instance) is no part of the record.
pub fn parse_assigned(condition: &Condition) -> Option<AssignedRecord> {
    if condition.type_ != ASSIGNED || condition.status != "True" {
        return None;
    }
    let record = condition
        .message
        .split_once(REMARK)
        .map_or(condition.message.as_str(), |(record, _)| record);
    let addresses = record
        .split(", ")
        .map(|part| {
            let (address, pool) = part.split_once(" from pool ")?;
            Some((address.parse().ok()?, pool.to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(AssignedRecord {
        addresses,
        since: condition.last_transition_time.0.as_second(),
    })
}

/// A condition out of a reason and its sentence.
pub fn condition(
    type_: &str,
    status: bool,
    refusal: &Refusal,
    generation: Option<i64>,
    now: Time,
) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: refusal.reason.as_str().to_owned(),
        message: refusal.message.clone(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// Puts a condition into a list, keeping `lastTransitionTime` while the status does not change. Conditions of others
/// are left alone. Answers whether anything but a time changed.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    match conditions
        .iter_mut()
        .find(|condition| condition.type_ == new.type_)
    {
        None => {
            conditions.push(new);
            true
        }
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            let changed = (&old.status, &old.reason, &old.message, old.observed_generation)
                != (&new.status, &new.reason, &new.message, new.observed_generation);
            if changed {
                *old = new;
            }
            changed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_core::reason::Reason;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn assigned(message: &str, second: i64) -> Condition {
        condition(
            ASSIGNED,
            true,
            &Refusal::new(Reason::Assigned, message),
            Some(1),
            at(second),
        )
    }

    #[test]
    fn the_record_survives_the_round_trip() {
        let addresses = vec![
            ("192.0.2.7".parse().unwrap(), "blue".to_owned()),
            ("2001:db8::7".parse().unwrap(), "blue".to_owned()),
        ];
        let record = parse_assigned(&assigned(&render_assigned(&addresses), 42)).unwrap();
        assert_eq!(
            record,
            AssignedRecord {
                addresses: addresses.clone(),
                since: 42
            }
        );
        let remark = format!(
            "{}; spec.loadBalancerIP 192.0.2.9: it belongs to a, b",
            render_assigned(&addresses)
        );
        assert_eq!(
            parse_assigned(&assigned(&remark, 42)).unwrap().addresses,
            addresses
        );
    }

    #[test]
    fn anything_else_is_no_record() {
        assert_eq!(parse_assigned(&assigned("hello", 1)), None);
        assert_eq!(parse_assigned(&assigned("", 1)), None);
        assert_eq!(
            parse_assigned(&assigned("192.0.2.7 from pool a, x from pool b", 1)),
            None
        );
        let no = Condition {
            status: "False".into(),
            ..assigned("192.0.2.7 from pool a", 1)
        };
        assert_eq!(parse_assigned(&no), None);
        let other = Condition {
            type_: ANNOUNCED.into(),
            ..assigned("192.0.2.7 from pool a", 1)
        };
        assert_eq!(parse_assigned(&other), None);
    }

    #[test]
    fn set_keeps_the_transition_time_and_tells_changes() {
        let mut conditions = vec![];
        assert!(set(&mut conditions, assigned("192.0.2.7 from pool a", 1)));
        assert!(!set(&mut conditions, assigned("192.0.2.7 from pool a", 2)));
        assert!(set(&mut conditions, assigned("192.0.2.8 from pool a", 3)));
        assert_eq!(conditions[0].last_transition_time, at(1));
        let refused = Refusal::new(Reason::PoolExhausted, "all in use");
        assert!(set(
            &mut conditions,
            condition(ASSIGNED, false, &refused, Some(1), at(4))
        ));
        assert_eq!(
            (conditions.len(), &conditions[0].last_transition_time),
            (1, &at(4))
        );
    }
}
