//! Measures what an outside client notices of faults where several nodes announce an address by BGP, and what many
//! addresses cost.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fairlead_e2e::Progress;
use fairlead_e2e::bench::bgp::{Options, run, scale};
use fairlead_e2e::bgp::Row;
use fairlead_e2e::product::install::tree;
use serde::Serialize;

/// Makes every fault many times on nodes that announce an address by BGP, and measures for how long connections from
/// outside fail
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
    /// Only these rows, such as power-off,cordon [default: all]
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    rows: Vec<Row>,
    /// Instead: announce so many addresses of one node, in a lab of its own with one node
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10000")]
    scale: Option<usize>,
    /// How often all of them are announced anew
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// How many changes of one address are made
    #[arg(long, default_value_t = 30, value_name = "N")]
    changes: usize,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-failover-bgp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn bench(args: &Args) -> Result<bool> {
    let progress = Progress::stderr();
    if let Some(services) = args.scale {
        let options = scale::Options {
            lab: args.name.clone(),
            services,
            trials: args.rounds,
            changes: args.changes,
        };
        let report = scale::run(&options, &progress)?;
        write("bgp-scale", &report)?;
        println!("{report}");
        return Ok(true);
    }
    let options = Options {
        lab: args.name.clone(),
        nodes: args.nodes,
        trials: args.trials,
        rows: if args.rows.is_empty() {
            Row::ALL.to_vec()
        } else {
            args.rows.clone()
        },
    };
    let report = run(&options, &progress, |report| {
        if let Err(error) = write("failover-bgp", report) {
            eprintln!("bench-failover-bgp: {error:#}");
        }
    })?;
    println!("{report}");
    let problems = report.problems();
    for problem in &problems {
        eprintln!("bench-failover-bgp: {problem}");
    }
    Ok(problems.is_empty())
}

/// Writes a report to `target/bench`.
fn write(name: &str, report: &impl Serialize) -> Result<()> {
    let path = tree().join(format!("target/bench/{name}.json"));
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making target/bench")?;
    let text = serde_json::to_string_pretty(report)?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
