//! Measures what idle speakers cost: CPU time, memory and messages, with many Services announced.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use fairlead_e2e::Progress;
use fairlead_e2e::bench::idle::{MOST, Options, run};
use fairlead_e2e::product::install::tree;

/// Announces many Services from three nodes, and measures what the speakers cost while nothing changes
#[derive(Parser)]
struct Args {
    /// Name of the lab to bring up; it stays up afterwards
    #[arg(long, default_value = "bench")]
    name: String,
    /// Number of Services
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST)))]
    services: u16,
    /// How many of a hundred Services have externalTrafficPolicy Local; each of these is probed by itself
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    local: u8,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-speaker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let options = Options {
        services: args.services.into(),
        local_percent: args.local.into(),
        time: Duration::from_secs(args.seconds.into()),
        ..Options::new(&args.name)
    };
    let report = run(&options, &Progress::stderr())?;
    let path = tree().join("target/bench/speaker.json");
    fs::create_dir_all(path.parent().unwrap_or(&path)).context("making target/bench")?;
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    println!("{report}");
    Ok(())
}
