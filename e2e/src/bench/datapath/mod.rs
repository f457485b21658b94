//! The benchmark of data paths: the node agent and kube-proxy with the same Services, one after the other, each alone in
//! a network namespace of its own.
//!
//! There is an API server and nothing else of a cluster: what the controllers would write, the benchmark writes. At each
//! number of Services every contender is started once from nothing, measured, and stopped; its rules stay. Then, while
//! no contender runs, connections are made through the rules of each in turn.

pub mod changes;
pub mod contender;
pub mod cost;
mod generation;
pub mod objects;
pub mod report;
mod stage;
pub mod traffic;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use changes::Changes;
pub use contender::Contender;
use contender::Running;
use objects::{Objects, POD_ADDRESSES, PORT, TARGET_PORT, is_local, vip};
use report::{AtSize, Outcome, Report, Restart, Setting, Through};
use stage::{PLAIN, Stage};
use traffic::{Generator, Pods, who_answers};

use crate::error::{LabError, Result};
use crate::machine::Machine;
use crate::progress::Progress;
use crate::topology::Place;

/// So many Services are tried with packets when a contender says that it is done.
const TRIED: usize = 100;
/// Threads that make connections, when as many as possible are wanted.
const CLIENTS: usize = 4;

/// How long a contender's CPU time is looked at while nothing changes.
const IDLE: Duration = Duration::from_secs(15);
/// Between two connections while a contender is restarted: at full speed the table of connections would be full before
/// it is done.
const PACE: Duration = Duration::from_micros(500);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab. One of this name is taken down first; the new one stays up.
    pub lab: String,
    /// Number of Services at which everything is measured.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints: usize,
    /// Changes of one endpoint.
    pub trials: usize,
    /// Changes in a second.
    pub burst: usize,
    /// Numbers of Services at which connections are made.
    pub sizes: Vec<usize>,
    /// How often each way is measured at each size.
    pub rounds: usize,
    /// How long each time.
    pub time: Duration,
    /// Who is measured, in this order.
    pub contenders: Vec<Contender>,
}

/// Runs the whole benchmark; `keep` is given what there is after each part.
///
/// # Errors
/// When something cannot be measured.
pub fn run(options: &Options, progress: &Progress, mut keep: impl FnMut(&Report)) -> Result<Report> {
    // Objects of an earlier run would be served as well.
    crate::down(&options.lab, progress)?;
    let stage = Stage::up(&options.lab, progress)?;
    let bench = Bench {
        options,
        progress,
        objects: Objects {
            endpoints: options.endpoints,
        },
        stage,
    };
    let _pods = Pods::start(&bench.stage.pods)?;
    let mut report = Report {
        setting: Setting::of_this_machine(options),
        outcomes: options.contenders.iter().map(|who| Outcome::new(*who)).collect(),
        sizes: vec![],
    };
    let api = &bench.stage.api;
    api.block_on(bench.objects.prepare(&api.connections))?;
    let mut sizes = options.sizes.clone();
    sizes.push(options.services);
    sizes.sort_unstable();
    sizes.dedup();
    let mut there = 0;
    for size in sizes {
        let what = format!("creating {} Services", size - there);
        progress.step(&what, || {
            api.block_on(bench.objects.create(&api.connections, there, size))
        })?;
        there = size;
        let mut at_size = AtSize::new(size);
        let mut ways = vec![("no address translation", bench.stage.lab.machine(PLAIN)?)];
        for (number, who) in options.contenders.iter().enumerate() {
            let outcome = &mut report.outcomes[number];
            let machine = bench.contender(*who, size, outcome, &mut at_size)?;
            ways.push((who.title(), machine));
            keep(&report);
        }
        if options.sizes.contains(&size) {
            bench.traffic(&ways, size, &mut at_size)?;
        }
        report.sizes.push(at_size);
        keep(&report);
    }
    Ok(report)
}

struct Bench<'a> {
    options: &'a Options,
    progress: &'a Progress,
    stage: Stage,
    objects: Objects,
}

impl Bench<'_> {
    /// Everything that a contender is measured by itself for. It is stopped then; its rules stay.
    fn contender(
        &self,
        who: Contender,
        size: usize,
        outcome: &mut Outcome,
        at: &mut AtSize,
    ) -> Result<Machine> {
        let title = who.title();
        let machine = self.stage.fresh(who.place())?;
        let what = format!("{title}: {size} Services from nothing");
        let running = self.progress.step(&what, || {
            let running = who.start(&self.stage, machine)?;
            let took = running.programmed()?;
            let cpu = running.cpu();
            at.syncs.push(report::Sync {
                who,
                programmed_s: took.as_secs_f64(),
                sync_s: running.full_syncs()?.1,
                cpu,
            });
            Ok::<_, LabError>(running)
        })?;
        self.progress.note(&format!("{:?}", at.syncs.last()));
        self.stage.route(who.place())?;
        self.try_some(who, size)?;
        running.settle()?;
        if size != self.options.services {
            outcome.idle_memory.push((size, running.memory.memory()));
            return running.stop();
        }
        outcome.after_sync = Some(running.memory.memory());
        outcome.idle_cpu_percent = Some(running.idle_percent(IDLE)?);
        let changes = Changes {
            stage: &self.stage,
            objects: self.objects,
            services: size,
        };
        let before = running.cpu();
        outcome.trials = self.progress.step(
            &format!("{title}: {} single changes", self.options.trials),
            || {
                (0..self.options.trials)
                    .map(|_| changes.trial(&running))
                    .collect::<Result<_>>()
            },
        )?;
        running.settle()?;
        outcome.trials_cpu = running.cpu().since(before);
        self.progress.note(&format!("{:?}", outcome.trials));
        let what = format!("{title}: {} changes in a second", self.options.burst);
        outcome.burst = Some(
            self.progress
                .step(&what, || changes.burst(&running, self.options.burst))?,
        );
        self.progress.note(&format!("{:?}", outcome.burst));
        outcome.memory = Some(running.memory.memory());
        let what = format!("{title}: restart under load");
        let (running, restart) = self.progress.step(&what, || self.restart(running, size))?;
        self.progress.note(&format!("{restart:?}"));
        outcome.restart = Some(restart);
        running.stop()
    }

    /// Do packets find what was programmed?
    fn try_some(&self, who: Contender, size: usize) -> Result<()> {
        let step = (size / TRIED).max(1);
        for index in (0..size).rev().step_by(step).filter(|index| !is_local(*index)) {
            let to = SocketAddrV4::new(vip(index), PORT);
            for answer in who_answers(&self.stage.client, to, 1)? {
                answer.map_err(|error| LabError::Refused(format!("{to} by {}: {error}", who.title())))?;
            }
        }
        Ok(())
    }

    /// Stops the process and starts it again, while connections are made.
    fn restart(&self, running: Running, size: usize) -> Result<(Running, Restart)> {
        running.settle()?;
        let who = running.contender;
        let generator = Generator::start(&self.stage.client, targets(size), 1, PACE);
        std::thread::sleep(Duration::from_secs(1));
        let machine = running.stop()?;
        let stopped = Instant::now();
        let running = who.start(&self.stage, machine)?;
        running.programmed()?;
        let adopted = stopped.elapsed();
        running.settle()?;
        let cpu = running.cpu();
        Ok((
            running,
            Restart {
                adopted_s: adopted.as_secs_f64(),
                cpu,
                connections: generator.stop()?,
            },
        ))
    }

    /// Connections by each way in turn, so that what else the machine does meets all.
    fn traffic(&self, ways: &[(&'static str, Machine)], size: usize, at: &mut AtSize) -> Result<()> {
        let all = targets(size);
        let direct: Arc<[SocketAddrV4]> = pods(size * self.options.endpoints);
        let mut through: Vec<Through> = ways.iter().map(|(title, _)| Through::new(title)).collect();
        self.progress
            .step(&format!("connections at {size} Services"), || {
                for _ in 0..self.options.rounds {
                    for ((_, machine), through) in ways.iter().zip(&mut through) {
                        let place: Place = machine.place();
                        self.stage.route(place)?;
                        let targets = if place == PLAIN { &direct } else { &all };
                        for (threads, results) in [(1, &mut through.single), (CLIENTS, &mut through.many)] {
                            let generator = Generator::start(
                                &self.stage.client,
                                targets.clone(),
                                threads,
                                Duration::ZERO,
                            );
                            std::thread::sleep(self.options.time);
                            results.push(generator.stop()?);
                        }
                    }
                }
                Ok::<_, LabError>(())
            })?;
        at.through = through;
        Ok(())
    }
}

/// The Services to connect to: those with policy Cluster, whose answers come back through the same node.
fn targets(size: usize) -> Arc<[SocketAddrV4]> {
    let indices = (0..size).filter(|index| !is_local(*index));
    indices.map(|index| SocketAddrV4::new(vip(index), PORT)).collect()
}

/// As many pods, to connect to directly.
fn pods(count: usize) -> Arc<[SocketAddrV4]> {
    let net: Option<ipnet::Ipv4Net> = POD_ADDRESSES.parse().ok();
    let hosts = net.into_iter().flat_map(|net| net.hosts());
    hosts
        .take(count)
        .map(|pod| SocketAddrV4::new(pod, TARGET_PORT))
        .collect()
}
