//! The three times of an election.

use std::time::Duration;

/// The longest lease duration. A Lease that claims to hold longer was not written by us and is not believed.
pub const LONGEST: Duration = Duration::from_secs(300);

/// How long a Lease holds, and how often it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

/// Times that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The API stores whole seconds.
    #[error("the lease duration must be a whole number of seconds from 1 to {}", LONGEST.as_secs())]
    LeaseDuration,
    /// The leader must have stopped before another one begins.
    #[error("the lease duration must be longer than the renew deadline")]
    RenewDeadline,
    /// There must be time for a second attempt.
    #[error("the renew deadline must be longer than 1.2 retry periods, and these longer than nothing")]
    RetryPeriod,
}

impl Settings {
    /// `lease`: how long others wait for a leader that is silent. `renew`: how long a leader acts without a confirmed
    /// renewal. `retry`: time between renewals, and between looks at another's Lease.
    ///
    /// # Errors
    /// Unless lease > renew > 1.2 × retry > 0, and the lease is of whole seconds, at most 300.
    pub fn new(lease: Duration, renew: Duration, retry: Duration) -> Result<Self, SettingsError> {
        if lease.subsec_nanos() != 0 || lease.is_zero() || lease > LONGEST {
            return Err(SettingsError::LeaseDuration);
        }
        if lease <= renew {
            return Err(SettingsError::RenewDeadline);
        }
        if retry.is_zero() || renew <= retry.mul_f64(1.2) {
            return Err(SettingsError::RetryPeriod);
        }
        Ok(Self { lease, renew, retry })
    }

    /// How long others wait for a leader that is silent.
    pub fn lease_duration(&self) -> Duration {
        self.lease
    }

    /// How long a leader acts without a confirmed renewal.
    pub fn renew_deadline(&self) -> Duration {
        self.renew
    }

    /// Time between renewals.
    pub fn retry_period(&self) -> Duration {
        self.retry
    }

    /// Time between the end of a silent leader's right to act and the first moment at which another may lead. What it
    /// began in time must have ended by then.
    pub fn slack(&self) -> Duration {
        self.lease - self.renew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_that_go_together() {
        let settings = |lease, renew, retry| {
            let ms = Duration::from_millis;
            Settings::new(ms(lease), ms(renew), ms(retry))
        };
        let good = settings(15_000, 10_000, 2_000).unwrap();
        assert_eq!(good.slack(), Duration::from_secs(5));
        assert!(settings(300_000, 2_401, 2_000).is_ok());
        for lease in [0, 1_500, 301_000] {
            assert_eq!(
                settings(lease, 1, 1),
                Err(SettingsError::LeaseDuration),
                "{lease}"
            );
        }
        assert_eq!(settings(10_000, 10_000, 2_000), Err(SettingsError::RenewDeadline));
        assert_eq!(settings(15_000, 2_400, 2_000), Err(SettingsError::RetryPeriod));
        assert_eq!(settings(15_000, 10_000, 0), Err(SettingsError::RetryPeriod));
    }
}
