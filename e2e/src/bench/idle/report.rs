//! What a run has found, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;

use serde::Serialize;

use super::Options;
use super::exposition::Exposition;
use crate::bench::usage::Memory;

/// Most of a core that an idle speaker should use, in percent.
const CPU_GOAL: f64 = 1.0;
/// Most memory that it should have, in MiB.
const MEMORY_GOAL: f64 = 25.0;

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for, and where.
    pub setting: Setting,
    /// Every speaker.
    pub speakers: Vec<Speaker>,
    /// Share of all cores that the whole machine was busy meanwhile, in percent.
    pub machine_busy_percent: f64,
}

/// What was asked for, and the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Nodes of the lab, each with a speaker.
    pub nodes: usize,
    /// Services, each with one IPv4 address.
    pub services: usize,
    /// How many of them have policy Local; the others have policy Cluster.
    pub local: usize,
    /// How often a target is probed at least, as the speakers are told; their default if nothing is here.
    pub probe_interval: String,
    /// How long was measured.
    pub seconds: f64,
    /// Cores, shared by all.
    pub cores: usize,
    /// Linux.
    pub kernel: String,
    /// Load average over the last minute, when measuring began.
    pub load: String,
}

/// One speaker.
#[derive(Clone, Debug, Serialize)]
pub struct Speaker {
    /// Its node.
    pub node: String,
    /// Addresses that it announced at the end.
    pub announced: f64,
    /// CPU time, of one core, user and system, in percent.
    pub cpu_percent: f64,
    /// The same by the names of its threads.
    pub threads_percent: BTreeMap<String, f64>,
    /// Memory at the end.
    pub memory: Memory,
    /// What it counted; absent if it does not count such a thing.
    pub rates: Rates,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Datagrams of the gossip that were sent.
    pub datagrams_sent: Option<f64>,
    /// And received.
    pub datagrams_received: Option<f64>,
    /// Their bytes, without headers of UDP and IP.
    pub bytes_sent: Option<f64>,
    /// Of those received.
    pub bytes_received: Option<f64>,
    /// Health probes.
    pub probes: Option<f64>,
    /// Decisions about all addresses.
    pub decisions: Option<f64>,
    /// Frames that nobody asked for.
    pub announcements: Option<f64>,
    /// Writes of the NodeState.
    pub writes: Option<f64>,
}

impl Setting {
    /// With what can be read of this machine.
    pub fn of_this_machine(options: &Options, nodes: usize, local: usize) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            nodes,
            services: options.services,
            local,
            probe_interval: super::PROBE_INTERVAL.to_owned(),
            seconds: options.time.as_secs_f64(),
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

impl Rates {
    /// Between two looks at the same process.
    pub fn between(before: &Exposition, after: &Exposition, seconds: f64) -> Self {
        let rate = |name: &str, labels: &[&str]| {
            let name = format!("fairlead_speaker_{name}_total");
            let after = after.sum(&name, labels)?;
            // A counter with labels appears when it first counts.
            let before = before.sum(&name, labels).unwrap_or_default();
            Some((after - before) / seconds)
        };
        let (sent, received) = (["result=\"sent\""], ["result=\"received\""]);
        Self {
            datagrams_sent: rate("gossip_datagrams", &sent),
            datagrams_received: rate("gossip_datagrams", &received),
            bytes_sent: rate("gossip_bytes", &sent),
            bytes_received: rate("gossip_bytes", &received),
            probes: rate("probes", &[]),
            decisions: rate("decisions", &[]),
            announcements: rate("l2_announcements", &[]),
            writes: rate("node_state_writes", &[]),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = &self.setting;
        let columns: Vec<&str> = self.speakers.iter().map(|s| s.node.as_str()).collect();
        writeln!(
            f,
            "{} nodes, {} Services, {} of them with policy Local, each probed every {} on every node; {:.0} s\n\
             {} cores, Linux {}, load {}, all cores together {:.0} % busy\n",
            setting.nodes,
            setting.services,
            setting.local,
            setting.probe_interval,
            setting.seconds,
            setting.cores,
            setting.kernel,
            setting.load,
            self.machine_busy_percent,
        )?;
        writeln!(f, "| speaker of | {} | goal |", columns.join(" | "))?;
        writeln!(f, "|---|{}---|", "---|".repeat(columns.len()))?;
        let row = |f: &mut fmt::Formatter<'_>, title: &str, goal: &str, cell: &dyn Fn(&Speaker) -> String| {
            let cells: Vec<String> = self.speakers.iter().map(cell).collect();
            writeln!(f, "| {title} | {} | {goal} |", cells.join(" | "))
        };
        row(f, "addresses announced", "", &|s| format!("{:.0}", s.announced))?;
        row(f, "CPU, % of a core", &format!("≤ {CPU_GOAL}"), &|s| {
            format!("{:.2}", s.cpu_percent)
        })?;
        let threads: std::collections::BTreeSet<&String> = self
            .speakers
            .iter()
            .flat_map(|speaker| speaker.threads_percent.keys())
            .collect();
        for thread in threads {
            row(f, &format!("… of it, `{thread}`"), "", &|s| {
                s.threads_percent
                    .get(thread)
                    .map_or("-".to_owned(), |percent| format!("{percent:.2}"))
            })?;
        }
        row(
            f,
            "resident memory, MiB",
            &format!("≤ {MEMORY_GOAL:.0}"),
            &|s| format!("{:.1}", s.memory.rss_mib),
        )?;
        row(f, "… of it, program and libraries", "", &|s| {
            format!("{:.1}", s.memory.rss_mib - s.memory.own_mib)
        })?;
        row(f, "… at the most", "", &|s| format!("{:.1}", s.memory.peak_mib))?;
        let pair =
            |sent: Option<f64>, received: Option<f64>| format!("{} / {}", figure(sent), figure(received));
        row(f, "gossip datagrams/s, sent / received", "", &|s| {
            pair(s.rates.datagrams_sent, s.rates.datagrams_received)
        })?;
        row(f, "gossip bytes/s, sent / received", "", &|s| {
            pair(s.rates.bytes_sent, s.rates.bytes_received)
        })?;
        row(f, "probes/s", "", &|s| figure(s.rates.probes))?;
        row(f, "frames/s that nobody asked for", "", &|s| {
            figure(s.rates.announcements)
        })?;
        row(f, "decisions/s", "", &|s| figure(s.rates.decisions))?;
        row(f, "NodeState writes", "", &|s| {
            s.rates
                .writes
                .map_or("-".to_owned(), |rate| format!("{:.0}", rate * setting.seconds))
        })
    }
}

/// With as many digits as say something.
fn figure(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate >= 100.0 => format!("{rate:.0}"),
        Some(rate) if rate >= 1.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_between_two_looks() {
        let sent = |n: u32| format!("fairlead_speaker_gossip_datagrams_total{{result=\"sent\"}} {n}\n");
        let before = Exposition::new(sent(100));
        let after = Exposition::new(
            sent(700) + "fairlead_speaker_probes_total{kind=\"proxy\",result=\"success\"} 30\n",
        );
        let rates = Rates::between(&before, &after, 60.0);
        assert_eq!(rates.datagrams_sent, Some(10.0));
        assert_eq!(rates.probes, Some(0.5));
        assert_eq!((rates.datagrams_received, rates.decisions), (None, None));
    }

    #[test]
    fn the_table() {
        let options = Options {
            services: 4,
            ..Options::new("x")
        };
        let memory = Memory {
            rss_mib: 20.0,
            peak_mib: 30.0,
            own_mib: 12.5,
        };
        let speaker = |node: &str, thread: &str| Speaker {
            node: node.to_owned(),
            announced: 2.0,
            cpu_percent: 0.5,
            threads_percent: BTreeMap::from([(thread.to_owned(), 0.5)]),
            memory,
            rates: Rates {
                probes: Some(1050.4),
                decisions: Some(0.0),
                writes: Some(2.0 / 60.0),
                ..Rates::default()
            },
        };
        let report = Report {
            setting: Setting::of_this_machine(&options, 2, 2),
            speakers: vec![speaker("node1", "gossip"), speaker("node2", "main")],
            machine_busy_percent: 40.0,
        };
        let text = report.to_string();
        for line in [
            "| speaker of | node1 | node2 | goal |",
            "| CPU, % of a core | 0.50 | 0.50 | ≤ 1 |",
            "| … of it, `gossip` | 0.50 | - |  |",
            "| resident memory, MiB | 20.0 | 20.0 | ≤ 25 |",
            "| … of it, program and libraries | 7.5 | 7.5 |  |",
            "| probes/s | 1050 | 1050 |  |",
            "| decisions/s | 0.00 | 0.00 |  |",
            "| NodeState writes | 2 | 2 |  |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
