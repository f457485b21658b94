//! How late this very process runs, so that a node short of CPU does not take its own delay for a target's fault.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often it is measured.
const TICK: Duration = Duration::from_millis(50);
/// Below this it is the grain of timers.
const TOLERATED: Duration = Duration::from_millis(10);
/// How long the worst that was seen counts.
const MEMORY: Duration = Duration::from_secs(3);
/// Lateness that doubles a timeout.
const DOUBLES: Duration = Duration::from_millis(50);
/// Most that is added to a timeout, in timeouts.
const MOST: f64 = 8.0;

/// How late timers of this process fired in the last seconds, at the worst.
///
/// A timeout is stretched by it: by one timeout for each 50 ms, and by eight at the most. What keeps this process from
/// running keeps the target from answering as well, as a rule; and an answer that came in time and was not looked at in
/// time is no failure.
#[derive(Debug, Default)]
pub struct Lateness {
    /// Times and lateness, newest last, each larger than those after it.
    worst: Mutex<VecDeque<(Instant, Duration)>>,
}

impl Lateness {
    /// Measures for ever.
    pub async fn measure(&self) {
        loop {
            let due = Instant::now() + TICK;
            sleep_until(due).await;
            let now = Instant::now();
            self.note(now, now - due);
        }
    }

    /// Something happened so late.
    pub fn note(&self, now: Instant, late: Duration) {
        if late < TOLERATED {
            return;
        }
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        while worst.back().is_some_and(|(_, other)| *other <= late) {
            worst.pop_back();
        }
        worst.push_back((now, late));
    }

    /// The worst of the last seconds; nothing below 10 ms.
    pub fn worst(&self, now: Instant) -> Duration {
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        while worst.front().is_some_and(|(seen, _)| *seen + MEMORY < now) {
            worst.pop_front();
        }
        worst.front().map_or(Duration::ZERO, |(_, late)| *late)
    }

    /// What a timeout is at present.
    pub fn stretch(&self, timeout: Duration, now: Instant) -> Duration {
        let timeouts = self.worst(now).as_secs_f64() / DOUBLES.as_secs_f64();
        timeout + timeout.mul_f64(timeouts.min(MOST))
    }

    /// A timeout that began at `started` and was to end at `deadline` has fired, and it is `now`. Until when to wait
    /// on, if lateness may explain that there is no answer yet: what the timeout would have been had we known, and
    /// as long as we were late, so that what lies ready can be read.
    pub fn grace(
        &self,
        started: Instant,
        deadline: Instant,
        timeout: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let late = now.saturating_duration_since(deadline);
        self.note(now, late);
        let known = started + self.stretch(timeout, now);
        let given_back = match late < TOLERATED {
            true => deadline,
            false => now + late.min(timeout),
        };
        let until = known.max(given_back);
        (until > now && until > deadline).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_timeout_is_stretched_by_the_worst_of_the_last_seconds() {
        let lateness = Lateness::default();
        let start = Instant::now();
        let at = |milliseconds| start + ms(milliseconds);
        let timeout = |milliseconds| lateness.stretch(ms(400), at(milliseconds));
        assert_eq!(timeout(0), ms(400));
        lateness.note(at(0), ms(9));
        assert_eq!(timeout(0), ms(400), "the grain of timers");
        lateness.note(at(100), ms(100));
        lateness.note(at(1100), ms(25));
        assert_eq!(timeout(1200), ms(1200));
        assert_eq!(timeout(3100), ms(1200));
        assert_eq!(timeout(3101), ms(600), "the worst is forgotten, the next counts");
        assert_eq!(timeout(4101), ms(400));
        lateness.note(at(5000), ms(60_000));
        assert_eq!(timeout(5000), ms(3600), "bounded");
    }

    #[test]
    fn what_lateness_may_explain_is_waited_for_once_more() {
        let start = Instant::now();
        let at = |milliseconds| start + ms(milliseconds);
        let punctual = Lateness::default();
        assert_eq!(punctual.grace(start, at(400), ms(400), at(401)), None);
        // Late by 20 ms: the timeout would have been 1.4 times as long.
        assert_eq!(
            Lateness::default().grace(start, at(400), ms(400), at(420)),
            Some(at(560))
        );
        // The process stood still for a minute: what lies ready is read now.
        let frozen = Lateness::default();
        assert_eq!(
            frozen.grace(start, at(400), ms(400), at(60_400)),
            Some(at(60_800))
        );
        // Lateness came to light meanwhile, though this timer was punctual.
        let busy = Lateness::default();
        busy.note(at(300), ms(50));
        assert_eq!(busy.grace(start, at(400), ms(400), at(400)), Some(at(800)));
        assert_eq!(busy.grace(start, at(800), ms(400), at(800)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_tick_is_noted() {
        let lateness = std::sync::Arc::new(Lateness::default());
        let task = tokio::spawn({
            let lateness = lateness.clone();
            async move { lateness.measure().await }
        });
        tokio::time::sleep(ms(500)).await;
        assert_eq!(lateness.worst(Instant::now()), Duration::ZERO);
        tokio::time::advance(ms(300)).await;
        tokio::time::sleep(ms(1)).await;
        let worst = lateness.worst(Instant::now());
        assert!(worst >= ms(250) && worst <= ms(300), "{worst:?}");
        task.abort();
    }
}
