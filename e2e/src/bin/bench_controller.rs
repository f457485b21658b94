//! Measures how fast controllers give external addresses to many Services: Fairlead's, and MetalLB's beside it.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use fairlead_e2e::Progress;
use fairlead_e2e::bench::Contender;
use fairlead_e2e::bench::controller::{Options, run};
use fairlead_e2e::product::install::tree;

/// Creates many LoadBalancer Services at once, and measures how long each waits for its address: from Fairlead's
/// controller, and from MetalLB's on the same cluster
#[derive(Parser)]
struct Args {
    /// Name of the lab to bring up; it stays up afterwards
    #[arg(long, default_value = "bench")]
    name: String,
    /// Number of Services
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    services: usize,
    /// Connections that create them
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Connections with which the API server's own speed of status writes is measured, such as 8,16,32; 0 for none
    #[arg(long, default_value = "8", value_name = "N,…", value_delimiter = ',')]
    writers: Vec<u16>,
    /// How long a controller is waited for, from the first creation, in seconds
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    limit: u64,
    /// Measure only this one
    #[arg(long, value_enum)]
    only: Option<Only>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Fairlead,
    Metallb,
    /// Neither: the API server alone
    None,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn bench(args: &Args) -> Result<bool> {
    let options = Options {
        lab: args.name.clone(),
        services: args.services,
        connections: args.connections.into(),
        writers: args
            .writers
            .iter()
            .map(|&n| n.into())
            .filter(|&n| n > 0)
            .collect(),
        limit: Duration::from_secs(args.limit),
        contenders: match args.only {
            None => vec![Contender::Fairlead, Contender::MetalLb],
            Some(Only::Fairlead) => vec![Contender::Fairlead],
            Some(Only::Metallb) => vec![Contender::MetalLb],
            Some(Only::None) => vec![],
        },
    };
    let report = run(&options, &Progress::stderr())?;
    let path = tree().join("target/bench/controller.json");
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making target/bench")?;
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    println!("{report}");
    let problems = report.problems();
    for problem in &problems {
        eprintln!("bench-controller: {problem}");
    }
    Ok(problems.is_empty())
}
