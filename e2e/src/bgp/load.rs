//! Several test clients at once: each new connection has another source port, so that a router that spreads connections
//! over nodes gives each node its share, and none of them can fail without being noticed within milliseconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::client::{ClientOptions, FailureKind, Report};
use crate::error::Result;
use crate::lab::Lab;
use crate::topology::Place;
use crate::traffic::RunningClient;

/// How far what several programs saw at one time may be apart by their clocks, in milliseconds.
const CLOCK_MS: i64 = 10;

/// Clients that run until they are stopped.
pub struct Load {
    clients: Vec<RunningClient>,
    every: Duration,
}

/// What all of them saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// New connections.
    pub requests: u64,
    /// Those without a good answer.
    pub failed: u64,
    /// Those that were open while the router changed its next hops, and then cut: it sent them to another node from then on.
    /// Not among the failed.
    pub rehashed: u64,
    /// How.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Good answers by the pod that gave them.
    pub backends: BTreeMap<String, u64>,
    /// From the start of the first failed connection to that of the last, and the time until the next one: how long some
    /// connections failed. Zero when none did.
    pub outage_ms: u64,
}

impl Load {
    /// Starts so many clients, each with a new connection every 20 ms, evenly spread.
    ///
    /// # Errors
    /// When the place does not run.
    pub fn start(lab: &Lab, place: Place, target: SocketAddr, clients: u32) -> Result<Self> {
        let options = ClientOptions {
            answers: true,
            ..ClientOptions::new(target)
        };
        let every = options.interval / clients.max(1);
        let mut started = Vec::new();
        for n in 0..clients {
            if n > 0 {
                std::thread::sleep(every);
            }
            started.push(lab.start_client(place, &options)?);
        }
        Ok(Self {
            clients: started,
            every,
        })
    }

    /// Ends them and adds up what they saw.
    ///
    /// # Errors
    /// When one died without a report.
    pub fn stop(self) -> Result<Seen> {
        self.stop_and_tell(&[]).map(|(seen, _)| seen)
    }

    /// The same, and when the first connection began that failed, in milliseconds of Unix time. `changes` are the times at
    /// which the router changed its next hops.
    ///
    /// # Errors
    /// As [`Load::stop`].
    pub fn stop_and_tell(self, changes: &[i64]) -> Result<(Seen, Option<i64>)> {
        let reports: Result<Vec<Report>> = self.clients.into_iter().map(RunningClient::stop).collect();
        Ok(Seen::of(&reports?, self.every, changes))
    }
}

impl Seen {
    /// And when the first connection began that failed.
    fn of(reports: &[Report], every: Duration, changes: &[i64]) -> (Self, Option<i64>) {
        let mut seen = Self::default();
        // Milliseconds of Unix time at which connections began that failed.
        let mut failed: Vec<i64> = Vec::new();
        for report in reports {
            seen.requests += report.requests;
            for (backend, count) in &report.backends {
                *seen.backends.entry(backend.clone()).or_default() += count;
            }
            let started = report.started_at.as_millisecond();
            for answer in report.answers.iter().flatten() {
                let Some(kind) = answer.failure else { continue };
                let began = started.saturating_add_unsigned(answer.t_ms);
                let ended = began.saturating_add_unsigned(answer.latency_us / 1000);
                let open = began - CLOCK_MS..=ended + CLOCK_MS;
                if kind == FailureKind::Cut && changes.iter().any(|at| open.contains(at)) {
                    seen.rehashed += 1;
                    continue;
                }
                seen.failed += 1;
                *seen.failures.entry(kind).or_default() += 1;
                failed.push(began);
            }
        }
        if let (Some(first), Some(last)) = (failed.iter().min(), failed.iter().max()) {
            let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
            seen.outage_ms = last.abs_diff(*first) + every;
        }
        (seen, failed.iter().min().copied())
    }

    /// The share of each pod in a hundred good answers.
    pub fn shares(&self) -> BTreeMap<String, f64> {
        let all: u64 = self.backends.values().sum();
        let share = |count: &u64| 100.0 * *count as f64 / all.max(1) as f64;
        self.backends
            .iter()
            .map(|(pod, count)| (pod.clone(), share(count)))
            .collect()
    }
}

impl std::fmt::Display for Seen {
    /// One line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} failed", self.failed, self.requests)?;
        for (kind, count) in &self.failures {
            write!(f, ", {kind} {count}")?;
        }
        if self.rehashed > 0 {
            write!(f, ", {} cut by a change of next hops", self.rehashed)?;
        }
        if self.failed > 0 {
            write!(f, ", within {} ms", self.outage_ms)?;
        }
        for (pod, share) in self.shares() {
            write!(f, "; {pod} {share:.0} %")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(started: i64, failed_at: &[u64]) -> Report {
        let answers: Vec<_> = failed_at
            .iter()
            .map(|t| serde_json::json!({"t_ms": t, "latency_us": 1, "failure": "timeout"}))
            .collect();
        serde_json::from_value(serde_json::json!({
            "target": "t", "started_at": jiff::Timestamp::from_millisecond(started).unwrap(), "duration_ms": 1000,
            "requests": 50, "good": 50 - failed_at.len(), "failed": failed_at.len(),
            "failures": {"timeout": failed_at.len()}, "longest_gap": {"ms": 0, "began_ms": 0},
            "backends": {"web-node1": 30, "web-node2": 10}, "clients": {}, "answers": answers,
        }))
        .unwrap()
    }

    #[test]
    fn an_outage_is_that_of_all_clients() {
        let (seen, first) = Seen::of(
            &[report(10_000, &[100, 300]), report(10_005, &[400])],
            Duration::from_millis(10),
            &[],
        );
        assert_eq!(first, Some(10_100));
        assert_eq!((seen.requests, seen.failed, seen.outage_ms), (100, 3, 315));
        assert_eq!(seen.shares()["web-node1"], 75.0);
        let (seen, first) = Seen::of(&[report(0, &[])], Duration::from_millis(10), &[]);
        assert_eq!((seen.outage_ms, first), (0, None));
        let mut cut = report(10_000, &[100, 500]);
        for answer in cut.answers.iter_mut().flatten() {
            answer.failure = Some(FailureKind::Cut);
        }
        let (seen, first) = Seen::of(&[cut], Duration::from_millis(10), &[10_105]);
        assert_eq!((seen.failed, seen.rehashed, first), (1, 1, Some(10_500)));
    }
}
