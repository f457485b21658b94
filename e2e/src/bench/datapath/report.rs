//! What a run has found, as JSON and as tables.

use std::fmt::{self, Display};
use std::fs;
use std::process::Command;

use serde::Serialize;

use super::Options;
use super::changes::{Burst, Trial};
use super::contender::Contender;
use super::cost::{Cpu, Memory};
use super::traffic::Connections;

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for, and where.
    pub setting: Setting,
    /// At the one size at which everything is measured, each contender.
    pub outcomes: Vec<Outcome>,
    /// At each size, from few Services to many.
    pub sizes: Vec<AtSize>,
}

/// What was asked for, and the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Number of Services at which everything is measured.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints: usize,
    /// Cores, shared by all.
    pub cores: usize,
    /// Linux.
    pub kernel: String,
    /// The nft program, which kube-proxy runs.
    pub nft: String,
    /// Load average over the last minute, when measuring began.
    pub load: String,
}

/// A contender at the one size.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Who.
    pub who: Contender,
    /// Memory after the first sync.
    pub after_sync: Option<Memory>,
    /// CPU time while nothing changes, in percent of one core.
    pub idle_cpu_percent: Option<f64>,
    /// Single changes.
    pub trials: Vec<Trial>,
    /// CPU time of all of them.
    pub trials_cpu: Cpu,
    /// Many changes.
    pub burst: Option<Burst>,
    /// Memory after all changes.
    pub memory: Option<Memory>,
    /// A restart while connections were made.
    pub restart: Option<Restart>,
    /// Memory at other numbers of Services, after the first sync.
    pub idle_memory: Vec<(usize, Memory)>,
}

/// A restart while connections were made.
#[derive(Clone, Debug, Serialize)]
pub struct Restart {
    /// From the end of the old process until the new one said that all is in the kernel, in seconds.
    pub adopted_s: f64,
    /// CPU time of the new one until it was idle.
    pub cpu: Cpu,
    /// Meanwhile.
    pub connections: Connections,
}

/// At one number of Services.
#[derive(Clone, Debug, Serialize)]
pub struct AtSize {
    /// The number.
    pub services: usize,
    /// From nothing.
    pub syncs: Vec<Sync>,
    /// Connections by each way.
    pub through: Vec<Through>,
}

/// Everything programmed from nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sync {
    /// By whom.
    pub who: Contender,
    /// From the start of the process until the kernel had everything, in seconds.
    pub programmed_s: f64,
    /// What the contender itself says the sync took, in seconds.
    pub sync_s: f64,
    /// CPU time until then.
    pub cpu: Cpu,
}

/// Connections by one way, in several rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Through {
    /// The way.
    pub way: &'static str,
    /// One connection after the other.
    pub single: Vec<Connections>,
    /// Several clients at the same time.
    pub many: Vec<Connections>,
}

impl Setting {
    /// With what can be read of this machine.
    pub fn of_this_machine(options: &Options) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let nft = Command::new("nft")
            .arg("--version")
            .output()
            .map(|said| said.stdout);
        let nft = String::from_utf8_lossy(&nft.unwrap_or_default()).into_owned();
        let word = |text: &str, number| text.split_whitespace().nth(number).unwrap_or_default().to_owned();
        Self {
            services: options.services,
            endpoints: options.endpoints,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            nft: word(&nft, 1),
            load: word(&read("/proc/loadavg"), 0),
        }
    }
}

impl Outcome {
    /// Nothing measured yet.
    pub fn new(who: Contender) -> Self {
        Self {
            who,
            after_sync: None,
            idle_cpu_percent: None,
            trials: vec![],
            trials_cpu: Cpu::default(),
            burst: None,
            memory: None,
            restart: None,
            idle_memory: vec![],
        }
    }

    fn trials(&self, percent: usize, of: impl Fn(&Trial) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.trials.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get((all.len() * percent).div_ceil(100).checked_sub(1)?)
            .copied()
    }
}

impl AtSize {
    /// Nothing measured yet.
    pub fn new(services: usize) -> Self {
        Self {
            services,
            syncs: vec![],
            through: vec![],
        }
    }
}

impl Through {
    /// Nothing measured yet.
    pub fn new(way: &'static str) -> Self {
        Self {
            way,
            single: vec![],
            many: vec![],
        }
    }
}

impl Report {
    /// What should never be.
    pub fn problems(&self) -> Vec<String> {
        let failed = |what: String, connections: &Connections| {
            let Connections {
                made,
                failed,
                failures,
                ..
            } = connections;
            let all = made + failed;
            (*failed > 0).then(|| format!("{what}: {failed} of {all} connections failed: {failures:?}"))
        };
        let restarts = self.outcomes.iter().filter_map(|outcome| {
            let restart = outcome.restart.as_ref()?;
            failed(
                format!("restart of {}", outcome.who.title()),
                &restart.connections,
            )
        });
        let through = self.sizes.iter().flat_map(|size| {
            let ways = size.through.iter().flat_map(|through| {
                let rounds = through.single.iter().chain(&through.many);
                rounds.map(|connections| (through.way, connections))
            });
            ways.filter_map(|(way, round)| failed(format!("{} Services, {way}", size.services), round))
        });
        restarts.chain(through).collect()
    }

    /// A row: a figure of each contender, and how many times the first one's the others are below it.
    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        of: impl Fn(&Outcome) -> Option<f64>,
    ) -> fmt::Result {
        let all: Vec<Option<f64>> = self.outcomes.iter().map(of).collect();
        write!(f, "| {title} |")?;
        for value in &all {
            write!(f, " {} |", value.map_or("-".to_owned(), figure))?;
        }
        for value in all.iter().skip(1) {
            let ratio = all[0].zip(*value).filter(|(_, value)| *value > 0.0);
            let ratio = ratio.map_or("-".to_owned(), |(first, value)| figure(first / value));
            write!(f, " {ratio} |")?;
        }
        writeln!(f)
    }

    fn sync(&self, who: Contender) -> Option<&Sync> {
        let at = self
            .sizes
            .iter()
            .find(|at| at.services == self.setting.services)?;
        at.syncs.iter().find(|sync| sync.who == who)
    }
}

/// With three digits that mean something.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            services,
            endpoints,
            cores,
            kernel,
            nft,
            load,
        } = &self.setting;
        writeln!(
            f,
            "{services} Services, {endpoints} endpoints each; {cores} cores, Linux {kernel}, nft {nft}, load {load} at the beginning\n"
        )?;
        let titles: Vec<&str> = self.outcomes.iter().map(|outcome| outcome.who.title()).collect();
        let ratios = vec!["ratio"; titles.len().saturating_sub(1)];
        let columns = [titles.clone(), ratios].concat();
        writeln!(f, "| {services} Services | {} |", columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(columns.len()))?;
        self.row(f, "from the start until all is programmed, s", |o| {
            Some(self.sync(o.who)?.programmed_s)
        })?;
        self.row(f, "… of it the sync, as it says itself, s", |o| {
            Some(self.sync(o.who)?.sync_s)
        })?;
        self.row(f, "… CPU, own, s", |o| Some(self.sync(o.who)?.cpu.user))?;
        self.row(f, "… CPU, kernel, s", |o| Some(self.sync(o.who)?.cpu.system))?;
        self.row(f, "one change, from the write, p50, ms", |o| {
            o.trials(50, |t| t.from_write_ms)
        })?;
        self.row(f, "one change, from the write, p99, ms", |o| {
            o.trials(99, |t| t.from_write_ms)
        })?;
        self.row(f, "one change, from the watch event, p50, ms", |o| {
            o.trials(50, |t| t.from_event_ms)
        })?;
        self.row(f, "one change, from the watch event, p99, ms", |o| {
            o.trials(99, |t| t.from_event_ms)
        })?;
        self.row(f, "CPU for one change, s", |o| {
            Some(o.trials_cpu.total() / o.trials.len().max(1) as f64)
        })?;
        self.row(f, "many changes: writes", |o| Some(o.burst?.changes as f64))?;
        self.row(f, "… written within, s", |o| Some(o.burst?.seconds))?;
        self.row(f, "… from the last until all is in the kernel, ms", |o| {
            Some(o.burst?.last_ms)
        })?;
        self.row(f, "… transactions", |o| Some(o.burst?.transactions as f64))?;
        self.row(f, "… CPU, s", |o| Some(o.burst?.cpu.total()))?;
        self.row(f, "peak memory with children, MiB", |o| {
            Some(o.memory?.peak_with_children)
        })?;
        self.row(f, "peak memory of the process, MiB", |o| Some(o.memory?.peak))?;
        self.row(f, "memory after the first sync, MiB", |o| {
            Some(o.after_sync?.resident)
        })?;
        self.row(f, "CPU while nothing changes, % of a core", |o| {
            o.idle_cpu_percent
        })?;
        self.row(f, "restart until adopted, s", |o| {
            Some(o.restart.as_ref()?.adopted_s)
        })?;
        self.row(f, "… CPU, s", |o| Some(o.restart.as_ref()?.cpu.total()))?;
        self.row(f, "… connections failed", |o| {
            Some(o.restart.as_ref()?.connections.failed as f64)
        })?;
        self.row(f, "… longest connect, ms", |o| {
            Some(o.restart.as_ref()?.connections.max_us / 1e3)
        })?;
        writeln!(
            f,
            "\n| Services | way | all programmed after, s | sync, s | connections/s | p50 / p99 of one client, µs | more than no translation, µs |\n|---|---|---|---|---|---|---|"
        )?;
        self.sizes.iter().try_for_each(|size| size.fmt(f))
    }
}

impl Display for AtSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |rounds: &[Connections], value: fn(&Connections) -> f64| {
            median(rounds.iter().map(value).collect())
        };
        let show = |value: Option<f64>| value.map_or("-".to_owned(), figure);
        let plain = self
            .through
            .first()
            .and_then(|plain| of(&plain.single, |c| c.p50_us));
        for through in &self.through {
            let sync = self.syncs.iter().find(|sync| sync.who.title() == through.way);
            let (p50, p99) = (
                of(&through.single, |c| c.p50_us),
                of(&through.single, |c| c.p99_us),
            );
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} / {} | {} |",
                self.services,
                through.way,
                show(sync.map(|sync| sync.programmed_s)),
                show(sync.map(|sync| sync.sync_s)),
                show(of(&through.many, |c| c.per_second)),
                show(p50),
                show(p99),
                show(p50.zip(plain).map(|(own, plain)| own - plain)),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(
            [0.01234, 1.234, 12.34, 123.4, 1234.0].map(figure),
            ["0.012", "1.23", "12.3", "123", "1234"]
        );
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn failed_connections_are_problems() {
        let mut through = Through::new("x");
        through.many.push(Connections {
            made: 7,
            failed: 2,
            ..Connections::default()
        });
        let mut at = AtSize::new(3);
        at.through.push(through);
        let report = Report {
            setting: Setting {
                services: 3,
                endpoints: 4,
                cores: 2,
                kernel: "k".to_owned(),
                nft: "n".to_owned(),
                load: "1".to_owned(),
            },
            outcomes: vec![
                Outcome::new(Contender::KubeProxy),
                Outcome::new(Contender::Fairlead),
            ],
            sizes: vec![at],
        };
        assert_eq!(
            report.problems(),
            ["3 Services, x: 2 of 9 connections failed: {}"]
        );
        assert!(report.to_string().contains("| 3 | x | - | - |"));
    }
}
