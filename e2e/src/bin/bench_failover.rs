//! Measures what an outside client notices when nodes, cables, programs and endpoints fail: with Fairlead, and with
//! MetalLB beside it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use fairlead_e2e::Progress;
use fairlead_e2e::bench::Contender;
use fairlead_e2e::bench::failover::report::Report;
use fairlead_e2e::bench::failover::{Options, run};
use fairlead_e2e::failover::{Options as TrialOptions, Row};
use fairlead_e2e::product::install::tree;

/// Makes every fault many times, and measures the longest gap that a client outside notices: with Fairlead, and with
/// MetalLB on the same cluster
#[derive(Parser)]
struct Args {
    /// Name of the lab to bring up; it stays up afterwards
    #[arg(long, default_value = "bench")]
    name: String,
    /// Nodes of the lab
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    nodes: u8,
    /// Trials of each row
    #[arg(long, default_value_t = 30, value_name = "N")]
    trials: usize,
    /// Trials of each row with MetalLB, which takes its time to be ready for the next [default: as many]
    #[arg(long, value_name = "N")]
    metallb_trials: Option<usize>,
    /// Only these rows, such as power-off,cordon [default: all]
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    rows: Vec<Row>,
    /// Measure only this one
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// How long the API server is silent before the owner loses its power, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    api_down: u64,
    /// How long all cores are busy, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    busy: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Fairlead,
    Metallb,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-failover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every trial could be made.
fn bench(args: &Args) -> Result<bool> {
    let options = Options {
        lab: args.name.clone(),
        nodes: args.nodes,
        trials: args.trials,
        metallb_trials: args.metallb_trials.unwrap_or(args.trials),
        rows: if args.rows.is_empty() {
            Row::ALL.to_vec()
        } else {
            args.rows.clone()
        },
        contenders: match args.only {
            None => vec![Contender::Fairlead, Contender::MetalLb],
            Some(Only::Fairlead) => vec![Contender::Fairlead],
            Some(Only::Metallb) => vec![Contender::MetalLb],
        },
        trial: TrialOptions {
            api_down: Duration::from_secs(args.api_down),
            busy: Duration::from_secs(args.busy),
        },
    };
    let path = tree().join("target/bench/failover.json");
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making target/bench")?;
    let report = run(&options, &Progress::stderr(), |report| {
        if let Err(error) = write(&path, report) {
            eprintln!("bench-failover: {error:#}");
        }
    })?;
    write(&path, &report)?;
    println!("{report}");
    let problems = report.problems();
    for problem in &problems {
        eprintln!("bench-failover: {problem}");
    }
    Ok(problems.is_empty())
}

fn write(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
