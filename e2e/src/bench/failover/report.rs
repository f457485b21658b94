//! What a run has found, as JSON and as a table.

use std::fmt::{self, Display};
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::Options;
use crate::bench::Contender;
use crate::bench::figures::Spread;
use crate::components::MetalLb;
use crate::failover::{Options as TrialOptions, Outcome, Row};

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for, and where.
    pub setting: Setting,
    /// In the order in which they ran.
    pub contenders: Vec<Column>,
}

/// What was asked for, and the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Nodes of the lab.
    pub nodes: u8,
    /// How long what lasted.
    pub trial: TrialOptions,
    /// Cores, shared by all.
    pub cores: usize,
    /// Linux.
    pub kernel: String,
    /// Load average over the last minute, before the first trial.
    pub load: String,
}

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub struct Column {
    /// Who.
    pub name: String,
    /// What was measured of it.
    pub rows: Vec<Trials>,
}

/// All trials of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Trials {
    /// Its name.
    pub row: &'static str,
    /// What happens.
    pub title: &'static str,
    /// Those that could be made.
    pub outcomes: Vec<Outcome>,
    /// Why the others could not.
    pub errors: Vec<String>,
}

impl Setting {
    /// With what can be read of this machine.
    pub fn of_this_machine(options: &Options) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            nodes: options.nodes,
            trial: options.trial,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

impl Column {
    /// Nothing measured yet.
    pub fn new(who: Contender) -> Self {
        let name = match who {
            Contender::Fairlead => who.title().to_owned(),
            Contender::MetalLb => format!("{} {}", who.title(), MetalLb::VERSION),
        };
        Self { name, rows: vec![] }
    }
}

impl Trials {
    /// No trial yet.
    pub fn new(row: Row) -> Self {
        Self {
            row: row.name(),
            title: row.title(),
            outcomes: vec![],
            errors: vec![],
        }
    }

    fn spread(&self, of: impl Fn(&Outcome) -> Option<u64>) -> String {
        let values = self.outcomes.iter().filter_map(of);
        let spread = Spread::of(values.map(Duration::from_millis).collect());
        spread.map_or("-".to_owned(), |s| {
            format!("{} / {} / {}", s.p50_ms, s.p99_ms, s.max_ms)
        })
    }

    /// Gap, failed requests, time to move, moves, time with two owners, trials.
    fn cells(&self) -> [String; 6] {
        let failed = self.outcomes.iter().map(|o| o.failed);
        let (sum, most) = (failed.clone().sum::<u64>(), failed.max().unwrap_or_default());
        let moves: usize = self.outcomes.iter().map(|o| o.moves).sum();
        let doubled = self.outcomes.iter().map(|o| o.doubled_ms).max();
        let made = self.outcomes.len();
        let trials = match self.errors.len() {
            0 => made.to_string(),
            lost => format!("{made}, {lost} not measured"),
        };
        [
            self.spread(|o| Some(o.gap_ms)),
            format!("{sum} ({most})"),
            self.spread(|o| o.moved_ms),
            moves.to_string(),
            doubled.map_or("-".to_owned(), |ms| ms.to_string()),
            trials,
        ]
    }
}

impl Report {
    /// What keeps the figures from being whole.
    pub fn problems(&self) -> Vec<String> {
        let rows = self
            .contenders
            .iter()
            .flat_map(|c| c.rows.iter().map(move |row| (c, row)));
        rows.flat_map(|(column, row)| {
            row.errors
                .iter()
                .map(move |error| format!("{}, {}: {error}", column.name, row.title))
        })
        .collect()
    }
}

const HEAD: [&str; 6] = [
    "gap, p50 / p99 / max ms",
    "failed requests, all (most in one)",
    "moved after, p50 / p99 / max ms",
    "moves",
    "two owners, max ms",
    "trials",
];

impl Display for Report {
    /// A table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            nodes,
            cores,
            kernel,
            load,
            trial,
            ..
        } = &self.setting;
        writeln!(
            f,
            "{nodes} nodes; {cores} cores, Linux {kernel}, load {load}; API silent for {} s, busy for {} s\n",
            trial.api_down.as_secs(),
            trial.busy.as_secs()
        )?;
        writeln!(f, "| fault | who | {} |", HEAD.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(HEAD.len() + 2))?;
        // Side by side: by row first.
        for row in Row::ALL {
            for column in &self.contenders {
                if let Some(trials) = column.rows.iter().find(|trials| trials.row == row.name()) {
                    let (what, who) = (row.title(), &column.name);
                    writeln!(f, "| {what} | {who} | {} |", trials.cells().join(" | "))?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Outcome {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gap {} ms, {} of {} failed",
            self.gap_ms, self.failed, self.requests
        )?;
        for (kind, count) in &self.failures {
            write!(f, ", {kind} {count}")?;
        }
        match self.moved_ms {
            Some(ms) => write!(f, "; moved after {ms} ms")?,
            None => write!(f, "; not moved")?,
        }
        write!(f, ", {} moves, two owners for {} ms", self.moves, self.doubled_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(gap_ms: u64, failed: u64) -> Outcome {
        Outcome {
            owner: "node1".into(),
            gap_ms,
            requests: 100,
            failed,
            failures: Default::default(),
            moved_ms: Some(gap_ms - 20),
            moves: 1,
            doubled_ms: 40,
        }
    }

    #[test]
    fn the_table_has_both_side_by_side() {
        let mut trials = Trials::new(Row::PowerOff);
        trials.outcomes = vec![outcome(620, 30), outcome(580, 28)];
        let mut slow = Trials::new(Row::PowerOff);
        slow.outcomes = vec![outcome(5200, 250)];
        slow.errors = vec!["no baseline".into()];
        let report = Report {
            setting: Setting {
                nodes: 3,
                trial: TrialOptions {
                    api_down: Duration::from_secs(60),
                    busy: Duration::from_secs(600),
                },
                cores: 2,
                kernel: "6".into(),
                load: "1.0".into(),
            },
            contenders: vec![
                Column {
                    name: "A".into(),
                    rows: vec![trials],
                },
                Column {
                    name: "B".into(),
                    rows: vec![slow],
                },
            ],
        };
        let text = report.to_string();
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("| owner powered off"))
            .collect();
        assert_eq!(
            rows,
            [
                "| owner powered off | A | 580 / 620 / 620 | 58 (30) | 560 / 600 / 600 | 2 | 40 | 2 |",
                "| owner powered off | B | 5200 / 5200 / 5200 | 250 (250) | 5180 / 5180 / 5180 | 1 | 40 | 1, 1 not measured |",
            ]
        );
        assert_eq!(report.problems(), ["B, owner powered off: no baseline"]);
    }
}
