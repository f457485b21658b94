//! Measures the data path of a node: the node agent, and kube-proxy beside it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use fairlead_e2e::Progress;
use fairlead_e2e::bench::datapath::report::Report;
use fairlead_e2e::bench::datapath::{Contender, Options, run};
use fairlead_e2e::product::install::tree;

/// Gives many LoadBalancer Services to the node agent and to kube-proxy, each alone in a network namespace, and measures
/// how long they take, what they cost, and what connections through their rules are like
#[derive(Parser)]
struct Args {
    /// Name of the lab; one of this name is taken down first, and the new one stays up afterwards
    #[arg(long, default_value = "bench-datapath")]
    name: String,
    /// Number of Services at which everything is measured
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=30_000))]
    services: u16,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=100))]
    endpoints: u16,
    /// Changes of one endpoint
    #[arg(long, default_value_t = 30, value_name = "N")]
    trials: usize,
    /// Changes within a second
    #[arg(long, default_value_t = 1000, value_name = "N")]
    burst: usize,
    /// Numbers of Services at which connections are made
    #[arg(long, default_value = "1,1000,10000,30000", value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=30_000))]
    sizes: Vec<u16>,
    /// How often connections are made by each way
    #[arg(long, default_value_t = 12, value_name = "N")]
    rounds: usize,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 0.7, value_name = "SECONDS")]
    seconds: f64,
    /// Also measure kube-proxy in iptables mode
    #[arg(long)]
    iptables: bool,
    /// Measure only this one
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// A small and short run, which tells only whether everything works
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Fairlead,
    KubeProxy,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-datapath: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn bench(args: &Args) -> Result<bool> {
    let mut contenders = match args.only {
        None => vec![Contender::KubeProxy, Contender::Fairlead],
        Some(Only::KubeProxy) => vec![Contender::KubeProxy],
        Some(Only::Fairlead) => vec![Contender::Fairlead],
    };
    if args.iptables {
        contenders.push(Contender::Iptables);
    }
    let mut options = Options {
        lab: args.name.clone(),
        services: args.services.into(),
        endpoints: args.endpoints.into(),
        trials: args.trials,
        burst: args.burst,
        sizes: args.sizes.iter().map(|&size| size.into()).collect(),
        rounds: args.rounds,
        time: Duration::from_secs_f64(args.seconds),
        contenders,
    };
    if args.quick {
        options = Options {
            services: 100,
            trials: 3,
            burst: 50,
            sizes: vec![1, 100],
            rounds: 2,
            time: Duration::from_millis(500),
            ..options
        };
    }
    let path = tree().join("target/bench/datapath.json");
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making target/bench")?;
    let report = run(&options, &Progress::stderr(), |report| {
        if let Err(error) = write(&path, report) {
            eprintln!("bench-datapath: {error:#}");
        }
    })?;
    write(&path, &report)?;
    println!("{report}");
    let problems = report.problems();
    for problem in &problems {
        eprintln!("bench-datapath: {problem}");
    }
    Ok(problems.is_empty())
}

fn write(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
