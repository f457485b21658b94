//! The benchmark of failover: every fault many times, for Fairlead and for MetalLB beside it, in one lab.
//!
//! One contender after the other, each installed alone. Before each trial the lab is brought back to where all is well.

pub mod report;

use std::time::Instant;

use super::Contender;
use super::metallb::{self, Parts};
use crate::components::MetalLb;
use crate::error::Result;
use crate::failover::{Options as TrialOptions, Row, Scene, trial};
use crate::lab::Lab;
use crate::product::api::path_of;
use crate::product::{Cluster, install, manifests};
use crate::progress::Progress;
use crate::up::UpOptions;
use report::{Column, Report, Setting, Trials};

/// The addresses that are given.
const ADDRESSES: &str = "172.30.0.100-172.30.0.109";
/// Name of the pool, the advertisement and the namespace.
const NAME: &str = "bench";
/// How long an installation may take.
const READY: std::time::Duration = std::time::Duration::from_secs(180);
/// A row ends when so many trials of it in a row could not be made.
const GIVE_UP: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab, which is brought up if need be and stays up.
    pub lab: String,
    /// Number of nodes of a new lab.
    pub nodes: u8,
    /// Trials of each row with Fairlead.
    pub trials: usize,
    /// And with MetalLB.
    pub metallb_trials: usize,
    /// Which rows.
    pub rows: Vec<Row>,
    /// Who is measured, in this order.
    pub contenders: Vec<Contender>,
    /// How long what lasts.
    pub trial: TrialOptions,
}

/// Runs the whole benchmark. `keep` gets what is known after each row, so that a run that is ended early leaves something.
///
/// # Errors
/// When the lab does not come up or a contender cannot be installed. A trial that fails is in the report instead.
pub fn run(options: &Options, progress: &Progress, mut keep: impl FnMut(&Report)) -> Result<Report> {
    let metallb = MetalLb::ensure(progress)?;
    let lab = Lab::up(
        &UpOptions {
            nodes: Some(options.nodes),
            ..UpOptions::new(&options.lab)
        },
        progress,
    )?;
    let cluster = Cluster::connect(&lab)?;
    let mut report = Report {
        setting: Setting::of_this_machine(options),
        contenders: vec![],
    };
    for who in &options.contenders {
        let bench = Bench {
            options,
            progress,
            lab: &lab,
            cluster: &cluster,
            metallb: &metallb,
            who: *who,
        };
        report.contenders.push(Column::new(*who));
        let column = report.contenders.len() - 1;
        bench.installed(|scene, home| {
            for row in options.rows.iter().filter(|row| row.is_for(*who)) {
                let trials = bench.row(scene, *row, home);
                report.contenders[column].rows.push(trials);
                keep(&report);
            }
        })?;
    }
    Ok(report)
}

struct Bench<'a> {
    options: &'a Options,
    progress: &'a Progress,
    lab: &'a Lab,
    cluster: &'a Cluster,
    metallb: &'a MetalLb,
    who: Contender,
}

impl Bench<'_> {
    /// Installs the contender and the Service, hands both to `work`, and leaves nothing of them.
    fn installed(&self, work: impl FnOnce(&Scene<'_>, Option<&str>)) -> Result<()> {
        let title = self.who.title();
        let namespace = manifests::namespace(NAME);
        let scene = self.progress.step(&format!("installing {title}"), || {
            self.install()?;
            self.cluster.apply(&namespace)?;
            Scene::set_up(self.lab, self.cluster, self.who, NAME, "IPv4")
        })?;
        let owner = self
            .progress
            .step("waiting for the address to be announced", || scene.settle(None))?;
        // With MetalLB an address goes back to where it was as soon as it can; a trial must not begin before.
        let home = (self.who == Contender::MetalLb).then_some(owner.as_str());
        work(&scene, home);
        self.progress.step(&format!("removing {title}"), || {
            scene.restore()?;
            self.cluster.delete_and_wait(&path_of(&namespace)?, READY)?;
            self.remove()
        })
    }

    fn install(&self) -> Result<()> {
        match self.who {
            Contender::Fairlead => {
                install::install(self.lab)?;
                install::wait_ready(self.cluster, READY)?;
                for object in objects() {
                    self.cluster.apply(&object)?;
                }
                Ok(())
            }
            Contender::MetalLb => metallb::install(self.lab, self.metallb, ADDRESSES, Parts::All),
        }
    }

    fn remove(&self) -> Result<()> {
        match self.who {
            Contender::Fairlead => {
                install::uninstall(self.lab)?;
                for object in objects() {
                    self.cluster.delete_and_wait(&path_of(&object)?, READY)?;
                }
                Ok(())
            }
            Contender::MetalLb => metallb::remove(self.lab, self.metallb),
        }
    }

    /// All trials of one row. One that fails is told and noted, and the next is tried.
    fn row(&self, scene: &Scene<'_>, row: Row, home: Option<&str>) -> Trials {
        let mut trials = Trials::new(row);
        let number = match self.who {
            _ if row.once() => 1,
            Contender::Fairlead => self.options.trials,
            Contender::MetalLb => self.options.metallb_trials,
        };
        let mut failed = 0;
        for n in 1..=number {
            let began = Instant::now();
            let result = scene
                .restore()
                .and_then(|()| trial(scene, row, &self.options.trial, home));
            let head = format!("{}, {}, {n} of {number}", self.who.title(), row.title());
            let took = began.elapsed().as_secs_f64();
            match result {
                Ok(outcome) => {
                    failed = 0;
                    self.progress.note(&format!("{head}: {outcome} ({took:.0} s)"));
                    trials.outcomes.push(outcome);
                }
                Err(error) => {
                    failed += 1;
                    self.progress.note(&format!("{head}: not measured: {error}"));
                    trials.errors.push(error.to_string());
                }
            }
            if failed == GIVE_UP {
                break;
            }
        }
        trials
    }
}

fn objects() -> [serde_json::Value; 2] {
    [
        manifests::pool(NAME, &[ADDRESSES]),
        manifests::advertisement(NAME, NAME),
    ]
}
