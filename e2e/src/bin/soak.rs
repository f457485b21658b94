//! Random faults for a long time, while a witness on the wire looks for what must never be.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use fairlead_e2e::product::{Cluster, install, manifests};
use fairlead_e2e::random::Random;
use fairlead_e2e::soak::{Options, run};
use fairlead_e2e::{Lab, Progress, UpOptions};

/// The addresses of the Services.
const POOL: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::109"];
const NAME: &str = "soak";
const READY: Duration = Duration::from_secs(180);

/// Cuts cables, takes power, kills programs, silences the API server, and looks on the wire whether an address ever has
/// two owners, or none while there could be one. FAIRLEAD_SEED repeats the random numbers of an earlier run
#[derive(Parser)]
struct Args {
    /// Name of the lab to bring up; it stays up afterwards
    #[arg(long, default_value = "soak")]
    name: String,
    /// Nodes of the lab
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    nodes: u8,
    /// How long
    #[arg(long, default_value_t = 3600, env = "SOAK_SECONDS", value_name = "SECONDS")]
    seconds: u64,
    /// Services have no IPv6 address
    #[arg(long)]
    ipv4_only: bool,
    /// How long two nodes may answer for one address, in milliseconds
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    doubled: u64,
    /// How long nobody may answer while somebody could, in milliseconds
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    silent: u64,
}

fn main() -> ExitCode {
    match soak(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was seen that must not be.
fn soak(args: &Args) -> Result<bool> {
    let progress = Progress::stderr();
    let options = UpOptions {
        nodes: Some(args.nodes),
        ..UpOptions::new(&args.name)
    };
    let lab = Lab::up(&options, &progress)?;
    let cluster = Cluster::connect(&lab)?;
    progress.step("installing Fairlead", || prepare(&lab, &cluster))?;
    let options = Options {
        length: Duration::from_secs(args.seconds),
        ipv6: !args.ipv4_only,
        doubled: Duration::from_millis(args.doubled),
        silent: Duration::from_millis(args.silent),
    };
    let report = run(
        &lab,
        &cluster,
        NAME,
        &options,
        &mut Random::new("soak"),
        &progress,
    )?;
    let (steps, violations) = (report.steps.len(), report.violations.len());
    println!("{steps} steps in {} s, {violations} violations", args.seconds);
    for violation in &report.violations {
        println!("{violation}");
    }
    Ok(violations == 0)
}

fn prepare(lab: &Lab, cluster: &Cluster) -> fairlead_e2e::Result<()> {
    install::install(lab)?;
    install::wait_ready(cluster, READY)?;
    for object in [
        manifests::pool(NAME, &POOL),
        manifests::advertisement(NAME, NAME),
        manifests::namespace(NAME),
    ] {
        cluster.apply(&object)?;
    }
    Ok(())
}
