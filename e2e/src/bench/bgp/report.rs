//! What a run has found, as JSON and as a table.

use std::fmt::{self, Display};
use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::bench::figures::Spread;
use crate::bgp::{Outcome, Row};

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub setting: Setting,
    /// In the order in which they ran.
    pub rows: Vec<Trials>,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Nodes of the lab.
    pub nodes: u8,
    /// Cores, shared by all.
    pub cores: usize,
    /// Linux.
    pub kernel: String,
    /// Load average over the last minute, before the first trial.
    pub load: String,
}

/// All trials of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Trials {
    /// Its name.
    pub row: &'static str,
    /// What happens.
    pub title: &'static str,
    /// What is wanted.
    pub goal: String,
    /// Those that could be made.
    pub outcomes: Vec<Outcome>,
    /// Why the others could not.
    pub errors: Vec<String>,
}

impl Setting {
    /// With what can be read of this machine.
    pub fn of_this_machine(nodes: u8) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            nodes,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            cores,
            kernel,
            load,
        } = self;
        write!(f, "{nodes} nodes; {cores} cores, Linux {kernel}, load {load}")
    }
}

impl Trials {
    /// No trial yet.
    pub fn new(row: Row) -> Self {
        Self {
            row: row.name(),
            title: row.title(),
            goal: row.goal().to_string(),
            outcomes: vec![],
            errors: vec![],
        }
    }

    /// Those in which all was well until the fault.
    fn counted(&self) -> impl Iterator<Item = &Outcome> + Clone {
        self.outcomes.iter().filter(|outcome| !outcome.disturbed)
    }

    fn spread(&self, of: impl Fn(&Outcome) -> Option<u64>) -> String {
        let values = self.counted().filter_map(of).map(Duration::from_millis);
        Spread::of(values.collect()).map_or("-".to_owned(), |s| {
            format!("{} / {} / {}", s.p50_ms, s.p99_ms, s.max_ms)
        })
    }

    /// Goal, outage, failed requests, cut ones, time until withdrawn, trials.
    fn cells(&self) -> [String; 6] {
        let failed = self.counted().map(|outcome| outcome.seen.failed);
        let (sum, most) = (failed.clone().sum::<u64>(), failed.max().unwrap_or_default());
        let requests: u64 = self.counted().map(|outcome| outcome.seen.requests).sum();
        let rehashed: u64 = self.counted().map(|outcome| outcome.seen.rehashed).sum();
        let mut trials = self.counted().count().to_string();
        let disturbed = self.outcomes.iter().filter(|outcome| outcome.disturbed).count();
        for (count, what) in [
            (disturbed, "disturbed before"),
            (self.errors.len(), "not measured"),
        ] {
            if count > 0 {
                trials += &format!(", {count} {what}");
            }
        }
        [
            self.goal.clone(),
            self.spread(|outcome| Some(outcome.seen.outage_ms)),
            format!("{sum} of {requests} ({most})"),
            rehashed.to_string(),
            self.spread(|outcome| outcome.withdrawn_ms),
            trials,
        ]
    }
}

impl Report {
    /// What keeps the figures from being whole.
    pub fn problems(&self) -> Vec<String> {
        let of = |row: &Trials| {
            let errors = row.errors.iter();
            errors
                .map(|error| format!("{}: {error}", row.title))
                .collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of).collect()
    }
}

const HEAD: [&str; 7] = [
    "fault",
    "goal",
    "connections failed for, p50 / p99 / max ms",
    "failed, all (most in one trial)",
    "cut by a change of next hops",
    "no route after, p50 / p99 / max ms",
    "trials",
];

impl Display for Report {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.setting)?;
        writeln!(f, "| {} |", HEAD.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(HEAD.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} | {} |", row.title, row.cells().join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::load::Seen;

    fn outcome(outage_ms: u64, failed: u64, disturbed: bool) -> Outcome {
        Outcome {
            node: "node1".into(),
            seen: Seen {
                requests: 400,
                failed,
                outage_ms,
                ..Seen::default()
            },
            withdrawn_ms: Some(outage_ms + 10),
            disturbed,
        }
    }

    #[test]
    fn the_table_counts_what_was_measured() {
        let mut trials = Trials::new(Row::PowerOff);
        trials.outcomes = vec![
            outcome(300, 20, false),
            outcome(340, 24, false),
            outcome(9000, 99, true),
        ];
        trials.errors = vec!["no session".into()];
        let report = Report {
            setting: Setting {
                nodes: 3,
                cores: 2,
                kernel: "6".into(),
                load: "1.0".into(),
            },
            rows: vec![trials],
        };
        let text = report.to_string();
        assert_eq!(
            text.lines().last(),
            Some(
                "| node powered off, BFD 100 ms × 3 | outage, p99 ≤ 500 ms | 300 / 340 / 340 | 44 of 800 (24) | 0 \
                 | 310 / 350 / 350 | 2, 1 disturbed before, 1 not measured |"
            )
        );
        assert_eq!(
            report.problems(),
            ["node powered off, BFD 100 ms × 3: no session"]
        );
    }
}
