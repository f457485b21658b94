//! `spec.health` of a pool: how its addresses are probed.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// From the start of one probe to the start of the next.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// For one whole probe.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
/// Probes in a row.
const THRESHOLDS: RangeInclusive<u32> = 1..=100;

/// `spec.health` as written by the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawHealth {
    /// `interval`.
    pub interval: Option<String>,
    /// `timeout`.
    pub timeout: Option<String>,
    /// `failureThreshold`.
    pub failure: Option<u32>,
    /// `successThreshold`.
    pub success: Option<u32>,
}

/// How the addresses of a pool are probed; what is `None` is as the speaker's flags say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// From the start of one probe to the start of the next: 100 ms to 60 s.
    pub interval: Option<Duration>,
    /// For one whole probe: 50 ms to 60 s, and not longer than `interval` where both are given.
    pub timeout: Option<Duration>,
    /// So many failures in a row withdraw: 1 to 100.
    pub failure: Option<u32>,
    /// So many successes in a row admit again: 1 to 100.
    pub success: Option<u32>,
}

/// Checks it.
///
/// # Errors
/// A sentence that names the field, from `spec.health` on.
pub(super) fn check(raw: &RawHealth) -> Result<Health, String> {
    let time = |field: &str, text: &Option<String>, bounds| {
        let parsed = text.as_ref().map(|text| duration::parse_within(text, bounds));
        parsed
            .transpose()
            .map_err(|error| format!("spec.health.{field}: {error}"))
    };
    let threshold = |field: &str, count: Option<u32>| match count {
        Some(count) if !THRESHOLDS.contains(&count) => Err(format!(
            "spec.health.{field}: {count} is not between {} and {}",
            THRESHOLDS.start(),
            THRESHOLDS.end()
        )),
        count => Ok(count),
    };
    let health = Health {
        interval: time("interval", &raw.interval, &INTERVALS)?,
        timeout: time("timeout", &raw.timeout, &TIMEOUTS)?,
        failure: threshold("failureThreshold", raw.failure)?,
        success: threshold("successThreshold", raw.success)?,
    };
    match (health.interval, health.timeout) {
        (Some(interval), Some(timeout)) if timeout > interval => Err(format!(
            "spec.health.timeout: {timeout:?} is longer than the interval, {interval:?}"
        )),
        _ => Ok(health),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(interval: &str, timeout: &str, failure: u32, success: u32) -> RawHealth {
        RawHealth {
            interval: Some(interval.into()),
            timeout: Some(timeout.into()),
            failure: Some(failure),
            success: Some(success),
        }
    }

    #[test]
    fn every_field_is_optional_and_has_bounds() {
        assert_eq!(check(&RawHealth::default()), Ok(Health::default()));
        let health = check(&raw("500ms", "500ms", 1, 100)).unwrap();
        assert_eq!(health.interval, Some(Duration::from_millis(500)));
        assert_eq!((health.failure, health.success), (Some(1), Some(100)));
        for (raw, expected) in [
            (raw("99ms", "50ms", 1, 1), "spec.health.interval: \"99ms\""),
            (raw("61s", "50ms", 1, 1), "spec.health.interval: \"61s\""),
            (raw("soon", "50ms", 1, 1), "spec.health.interval: \"soon\""),
            (raw("1s", "49ms", 1, 1), "spec.health.timeout: \"49ms\""),
            (raw("1s", "1001ms", 1, 1), "spec.health.timeout: 1.001s is longer"),
            (raw("1s", "1s", 0, 1), "spec.health.failureThreshold: 0"),
            (raw("1s", "1s", 1, 101), "spec.health.successThreshold: 101"),
        ] {
            let error = check(&raw).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
