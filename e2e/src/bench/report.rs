//! What a run has found, as JSON and as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::figures::{Spread, rate};

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for, and where.
    pub setting: Setting,
    /// The bound for all contenders.
    pub api_server: ApiServer,
    /// In the order in which they ran.
    pub contenders: Vec<Outcome>,
}

/// What was asked for, and the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Number of Services.
    pub services: usize,
    /// Connections that created them.
    pub connections: usize,
    /// From the first creation, how long a contender was waited for.
    pub limit_seconds: u64,
    /// Cores, shared by all.
    pub cores: usize,
    /// Linux.
    pub kernel: String,
    /// How the contenders ran.
    pub method: &'static str,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Throughput {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Requests answered.
    pub requests: usize,
    /// In this time.
    pub seconds: f64,
    /// So many per second.
    pub per_second: f64,
}

/// What the API server does by itself.
#[derive(Clone, Debug, Serialize)]
pub struct ApiServer {
    /// Creations of the Services.
    pub creations: Throughput,
    /// Writes of an address and a condition into their status.
    pub status_writes: Vec<Throughput>,
}

/// CPU time, user and system.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuSeconds {
    /// Of the controller that is measured, all replicas.
    pub contender: f64,
    /// Of the API server and etcd.
    pub api_server: f64,
    /// Of the benchmark, which creates and watches.
    pub bench: f64,
    /// Of everything else on this machine. Much of it makes the figures worthless.
    pub others: f64,
}

/// The end of a contender's work, where it gave out all addresses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settled {
    /// The last change of any Service; absent if changes did not end.
    pub quiet_after_seconds: Option<f64>,
    /// CPU time of the controller until it was known to be the last, 10 s later.
    pub cpu_seconds: f64,
}

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Who.
    pub name: &'static str,
    /// Version and installation.
    pub what: String,
    /// Pods of the controller.
    pub replicas: usize,
    /// Services created.
    pub services: usize,
    /// Services that got an address.
    pub assigned: usize,
    /// From the first creation to the last.
    pub creation_seconds: f64,
    /// Creations while the controller was at work.
    pub creations_per_second: f64,
    /// From the first creation to the last address, or to the limit.
    pub seconds: f64,
    /// From the last creation to the last address; absent if not all got one.
    pub after_last_creation_seconds: Option<f64>,
    /// Over the whole time.
    pub addresses_per_second: f64,
    /// From the answer to a creation to the address in the status, of those that got one.
    pub wait: Option<Spread>,
    /// Over the same time.
    pub cpu: CpuSeconds,
    /// Largest resident set of the controller, summed over replicas.
    pub peak_rss_mib: f64,
    /// Changes of a Service after its creation, until changes ended or the limit.
    pub changes_per_service: f64,
    /// Absent if not all got an address.
    pub settled: Option<Settled>,
    /// Times the watch broke off; what it saw next may have been late.
    pub watch_interruptions: usize,
    /// Addresses that two Services had at one time.
    pub duplicates: BTreeMap<IpAddr, BTreeSet<String>>,
}

const METHOD: &str = "one after the other on one cluster, each installed alone and removed before the next; one node; \
                      no kube-proxy, no speakers and no data path on either side; Services without node ports and \
                      without selectors, so that no other controller works on them";

impl Setting {
    /// With what can be read of this machine.
    pub fn of_this_machine(services: usize, connections: usize, limit_seconds: u64) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            services,
            connections,
            limit_seconds,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            method: METHOD,
        }
    }
}

impl Throughput {
    /// So many requests in this time.
    pub fn new(connections: usize, requests: usize, took: Duration) -> Self {
        Self {
            connections,
            requests,
            seconds: took.as_secs_f64(),
            per_second: rate(requests, took),
        }
    }
}

impl CpuSeconds {
    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            contender: self.contender - before.contender,
            api_server: self.api_server - before.api_server,
            bench: self.bench - before.bench,
            others: self.others - before.others,
        }
    }
}

impl Report {
    /// What must not be; not that anything was slow.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for outcome in &self.contenders {
            for (address, holders) in &outcome.duplicates {
                let holders: Vec<&str> = holders.iter().map(String::as_str).collect();
                let (name, holders) = (outcome.name, holders.join(", "));
                problems.push(format!("{name} gave {address} twice: {holders}"));
            }
        }
        problems
    }

    /// Rows of the table: what, and one cell for each contender.
    fn rows(&self) -> Vec<(&'static str, Vec<String>)> {
        type Cell = fn(&Outcome) -> String;
        let rows: [(&str, Cell); 16] = [
            ("Services with an address", |o| {
                format!("{} of {}", o.assigned, o.services)
            }),
            ("creations, first to last", |o| {
                format!("{:.1} s ({:.0}/s)", o.creation_seconds, o.creations_per_second)
            }),
            ("last creation to last address", |o| {
                let time = o.after_last_creation_seconds;
                time.map_or("not all got one".to_owned(), |s| format!("{s:.1} s"))
            }),
            ("addresses per second, from the first creation", |o| {
                format!("{:.0} (over {:.1} s)", o.addresses_per_second, o.seconds)
            }),
            ("creation to address, p50", |o| wait(o, |w| w.p50_ms)),
            ("creation to address, p99", |o| wait(o, |w| w.p99_ms)),
            ("creation to address, max", |o| wait(o, |w| w.max_ms)),
            ("CPU of the controller", |o| format!("{:.1} s", o.cpu.contender)),
            ("CPU of API server and etcd", |o| {
                format!("{:.1} s", o.cpu.api_server)
            }),
            ("CPU of this benchmark", |o| format!("{:.1} s", o.cpu.bench)),
            ("CPU of everything else here", |o| {
                format!("{:.1} s", o.cpu.others)
            }),
            ("peak memory of the controller", |o| {
                format!("{:.0} MiB ({} pods)", o.peak_rss_mib, o.replicas)
            }),
            ("changes of each Service", |o| {
                format!("{:.2}", o.changes_per_service)
            }),
            ("first creation to last change", |o| match o.settled {
                None => "-".to_owned(),
                Some(settled) => settled
                    .quiet_after_seconds
                    .map_or("no end seen".to_owned(), |s| format!("{s:.1} s")),
            }),
            ("CPU of the controller, until 10 s later", |o| {
                o.settled
                    .map_or("-".to_owned(), |s| format!("{:.1} s", s.cpu_seconds))
            }),
            ("addresses given twice", |o| o.duplicates.len().to_string()),
        ];
        rows.into_iter()
            .map(|(what, cell)| (what, self.contenders.iter().map(cell).collect()))
            .collect()
    }
}

fn wait(outcome: &Outcome, which: fn(&Spread) -> u64) -> String {
    let Some(spread) = &outcome.wait else {
        return "-".to_owned();
    };
    let ms = which(spread);
    if ms < 10_000 {
        format!("{ms} ms")
    } else {
        format!("{:.1} s", ms as f64 / 1000.0)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = &self.setting;
        writeln!(
            f,
            "{} Services of type LoadBalancer by {} connections; limit {} s; {} cores, Linux {}",
            setting.services, setting.connections, setting.limit_seconds, setting.cores, setting.kernel
        )?;
        writeln!(f, "Method: {}.", setting.method)?;
        for outcome in &self.contenders {
            writeln!(f, "{}: {}.", outcome.name, outcome.what)?;
        }
        writeln!(f, "\nThe API server alone, the same objects:")?;
        let one = |f: &mut fmt::Formatter<'_>, what: &str, speed: &Throughput| {
            let Throughput {
                per_second,
                connections,
                ..
            } = speed;
            writeln!(
                f,
                "  {per_second:>6.0} {what} per second over {connections} connections"
            )
        };
        one(f, "creations", &self.api_server.creations)?;
        for speed in &self.api_server.status_writes {
            one(f, "status writes", speed)?;
        }
        if self.contenders.is_empty() {
            return Ok(());
        }
        let names = self
            .contenders
            .iter()
            .map(|outcome| outcome.name.to_owned())
            .collect();
        let rows = std::iter::once(("", names)).chain(self.rows());
        writeln!(f)?;
        for (what, cells) in rows {
            write!(f, "  {what:<46}")?;
            for cell in cells {
                write!(f, "  {cell:>22}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(duplicates: &[(IpAddr, &[&str])]) -> Report {
        let outcome = Outcome {
            name: "A",
            what: "A 1".into(),
            replicas: 1,
            services: 4,
            assigned: 3,
            creation_seconds: 2.0,
            creations_per_second: 2.0,
            seconds: 10.0,
            after_last_creation_seconds: None,
            addresses_per_second: 0.3,
            wait: Spread::of(vec![Duration::from_millis(1500), Duration::from_secs(12)]),
            cpu: CpuSeconds {
                contender: 1.0,
                api_server: 2.0,
                bench: 3.0,
                others: 4.0,
            },
            peak_rss_mib: 20.0,
            changes_per_service: 1.5,
            settled: None,
            watch_interruptions: 0,
            duplicates: duplicates
                .iter()
                .map(|(address, names)| (*address, names.iter().map(|&name| name.into()).collect()))
                .collect(),
        };
        Report {
            setting: Setting::of_this_machine(4, 2, 10),
            api_server: ApiServer {
                creations: Throughput::new(2, 4, Duration::from_secs(2)),
                status_writes: vec![Throughput::new(8, 4, Duration::from_secs(1))],
            },
            contenders: vec![outcome],
        }
    }

    #[test]
    fn being_slow_is_no_problem_and_a_duplicate_is() {
        assert!(report(&[]).problems().is_empty());
        let address = IpAddr::from([198, 18, 0, 1]);
        let problems = report(&[(address, &["n/a", "n/b"])]).problems();
        assert_eq!(problems, ["A gave 198.18.0.1 twice: n/a, n/b"]);
    }

    #[test]
    fn the_text_says_what_was_reached() {
        let text = report(&[]).to_string();
        for part in [
            "3 of 4",
            "not all got one",
            "1500 ms",
            "12.0 s",
            "4 status writes per second",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn cpu_of_a_span() {
        let at = |seconds| CpuSeconds {
            contender: seconds,
            api_server: seconds,
            bench: seconds,
            others: seconds,
        };
        assert_eq!(at(5.0).since(at(2.0)).others, 3.0);
    }
}
