//! Benchmarks of BGP: every fault many times, and many addresses at once, with a real router (FRR) as the peer.

pub mod report;
pub mod scale;

use std::time::{Duration, Instant};

use crate::bgp::{Row, Stage, trial};
use crate::error::Result;
use crate::lab::Lab;
use crate::product::{Cluster, install, manifests};
use crate::progress::Progress;
use crate::up::UpOptions;
use report::{Report, Setting, Trials};

/// The addresses that are given: none of the nodes' segment.
const ADDRESSES: &str = "198.51.100.0/28";
/// Name of everything that is made.
const NAME: &str = "bench";
/// How long an installation may take.
const READY: Duration = Duration::from_secs(180);
/// A row ends when so many trials of it in a row could not be made.
const GIVE_UP: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab, which is brought up if need be and stays up.
    pub lab: String,
    /// Number of nodes of a new lab.
    pub nodes: u8,
    /// Trials of each row.
    pub trials: usize,
    /// Which rows.
    pub rows: Vec<Row>,
}

/// Tries every fault. `keep` gets what is known after each row, so that a run that is ended early leaves something.
///
/// # Errors
/// When the lab does not come up or Fairlead cannot be installed. A trial that fails is in the report instead.
pub fn run(options: &Options, progress: &Progress, mut keep: impl FnMut(&Report)) -> Result<Report> {
    let lab = Lab::up(
        &UpOptions {
            nodes: Some(options.nodes),
            ..UpOptions::new(&options.lab)
        },
        progress,
    )?;
    let cluster = Cluster::connect(&lab)?;
    let mut report = Report {
        setting: Setting::of_this_machine(options.nodes),
        rows: vec![],
    };
    let stage = progress.step("installing Fairlead", || {
        install::install_with(&lab, &["--set=speaker.bgp.enabled=true"])?;
        install::wait_ready(&cluster, READY)?;
        cluster.apply(&manifests::namespace(NAME))?;
        Stage::set_up(&lab, &cluster, NAME, ADDRESSES)
    })?;
    for row in &options.rows {
        report.rows.push(trials(&stage, *row, options.trials, progress));
        keep(&report);
    }
    progress.step("removing Fairlead", || {
        stage.remove()?;
        install::uninstall(&lab).map(drop)
    })?;
    Ok(report)
}

/// All trials of one row, on one node after the other. One that fails is told and noted, and the next is tried.
fn trials(stage: &Stage<'_>, row: Row, number: usize, progress: &Progress) -> Trials {
    let mut trials = Trials::new(row);
    let mut failed = 0;
    for (n, node) in (1..=number).zip(stage.scene.lab.nodes().into_iter().cycle()) {
        let began = Instant::now();
        let head = format!("{}, {n} of {number}", row.title());
        match trial(stage, row, node) {
            Ok(outcome) => {
                failed = 0;
                let took = began.elapsed().as_secs_f64();
                progress.note(&format!("{head}: {outcome} ({took:.0} s)"));
                trials.outcomes.push(outcome);
            }
            Err(error) => {
                failed += 1;
                progress.note(&format!("{head}: not measured: {error}"));
                trials.errors.push(error.to_string());
            }
        }
        if failed == GIVE_UP {
            break;
        }
    }
    trials
}
