//! What stands in a Lease, written as client-go writes it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::settings::LONGEST;

/// The part of a Lease that an election reads and writes. Anything may stand there: people can edit it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when nobody does.
    pub holder: String,
    /// How long it holds, in seconds, from when a reader saw it change.
    pub seconds: i32,
    /// When the holder took it, by the holder's clock. For people.
    pub acquired: Option<Timestamp>,
    /// When the holder last renewed it, by the holder's clock. For people; but it makes each renewal a change.
    pub renewed: Option<Timestamp>,
    /// How often the holder changed.
    pub transitions: i32,
}

impl Record {
    /// How long it holds; `ours` when what stands there is nonsense.
    pub fn duration(&self, ours: Duration) -> Duration {
        u64::try_from(self.seconds)
            .ok()
            .map(Duration::from_secs)
            .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
            .unwrap_or(ours)
    }

    /// Nobody holds it.
    pub fn is_free(&self) -> bool {
        self.holder.is_empty()
    }

    /// Reads the spec of a Lease.
    pub fn read(spec: Option<&LeaseSpec>) -> Self {
        let Some(spec) = spec else {
            return Self::default();
        };
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            seconds: spec.lease_duration_seconds.unwrap_or_default(),
            acquired: spec.acquire_time.as_ref().map(|time| time.0),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or_default(),
        }
    }

    /// Writes it into the spec of a Lease; fields that an election does not use stay.
    pub fn write(&self, spec: &mut LeaseSpec) {
        spec.holder_identity = Some(self.holder.clone()).filter(|holder| !holder.is_empty());
        spec.lease_duration_seconds = Some(self.seconds);
        spec.acquire_time = self.acquired.map(MicroTime);
        spec.renew_time = self.renewed.map(MicroTime);
        spec.lease_transitions = Some(self.transitions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_other_fields_stay() {
        let record = Record {
            holder: "pod_1".into(),
            seconds: 15,
            acquired: Some(Timestamp::from_second(1).unwrap()),
            renewed: Some(Timestamp::from_second(2).unwrap()),
            transitions: 3,
        };
        let mut spec = LeaseSpec {
            strategy: Some("OldestEmulationVersion".into()),
            ..LeaseSpec::default()
        };
        record.write(&mut spec);
        assert_eq!(Record::read(Some(&spec)), record);
        assert!(spec.strategy.is_some());
        let free = Record {
            holder: String::new(),
            ..record
        };
        free.write(&mut spec);
        assert_eq!(spec.holder_identity, None);
        assert!(Record::read(Some(&spec)).is_free() && Record::read(None).is_free());
    }

    #[test]
    fn a_duration_that_is_nonsense_is_not_believed() {
        let ours = Duration::from_secs(15);
        for (seconds, expected) in [(8, 8), (300, 300), (301, 15), (0, 15), (-1, 15), (i32::MAX, 15)] {
            let record = Record {
                seconds,
                ..Record::default()
            };
            assert_eq!(record.duration(ours).as_secs(), expected, "{seconds}");
        }
    }
}
