//! Waiting for a condition, with a deadline, telling what was seen instead.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// Asks `probe` every 50 ms until it answers `Ok`; its `Err` is what was seen instead.
///
/// # Errors
/// [`LabError::Timeout`] with what was awaited and what was last seen.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(seen) if began.elapsed() >= limit => {
                return Err(LabError::Timeout {
                    what: what.to_owned(),
                    after: limit,
                    seen,
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Watches that a condition holds for a whole span of time; `probe` answers with what contradicts it.
///
/// # Errors
/// [`LabError::Refused`] with the contradiction, and when it was seen.
pub fn holds_for(
    what: &str,
    span: Duration,
    mut probe: impl FnMut() -> std::result::Result<(), String>,
) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < span {
        if let Err(seen) = probe() {
            let after = began.elapsed().as_secs_f64();
            return Err(LabError::Refused(format!("{what}: after {after:.1} s, {seen}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
