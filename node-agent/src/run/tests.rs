use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use fairlead_core::config::RawPool;
use fairlead_core::model::{AssignedRecord, Service};
use prometheus_client::registry::Registry;

use super::*;
use crate::metrics::Metrics;
use crate::nft::change::{Changes, Held};
use crate::nft::driver::DriverError;
use crate::nft::netlink::affinity::Lost;
use crate::nft::ruleset::Ruleset;
use crate::surroundings::Surroundings;

/// A kernel in memory that remembers what was done to it.
#[derive(Clone, Default)]
struct Kernel {
    log: Arc<Mutex<Vec<&'static str>>>,
    table: Arc<Mutex<Option<Ruleset>>>,
    /// Longer than a speaker puts up with.
    slow: bool,
}

impl Kernel {
    fn log(&self, what: &'static str) -> Result<(), DriverError> {
        self.log.lock().unwrap().push(what);
        Ok(())
    }

    fn seen(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }
}

impl Driver for Kernel {
    async fn read(&mut self, _: &Ruleset) -> Result<Option<Ruleset>, DriverError> {
        Ok(self.table.lock().unwrap().clone())
    }

    async fn replace(&mut self, desired: Arc<Ruleset>) -> Result<(), DriverError> {
        *self.table.lock().unwrap() = Some(Ruleset::clone(&desired));
        self.log("replace")
    }

    async fn update(&mut self, changes: Arc<Changes>) -> Result<(), DriverError> {
        if self.slow {
            sleep(Duration::from_secs(30)).await;
        }
        let mut table = self.table.lock().unwrap();
        let mut held = Held::new(table.take().unwrap_or_default());
        held.apply(Changes::clone(&changes));
        *table = Some(held.ruleset().clone());
        self.log("update")
    }

    async fn forget(&mut self, _: Lost) -> Result<(), DriverError> {
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        self.log("remove")
    }
}

struct World {
    kernel: Kernel,
    index: Shared<Index>,
    leaving: watch::Sender<bool>,
    speaker: watch::Sender<Option<SpeakerReport>>,
    report: watch::Receiver<AgentReport>,
}

/// The loop in paused time, with nothing listed yet.
fn world() -> World {
    world_of(Kernel::default())
}

fn world_of(kernel: Kernel) -> World {
    let (leaving, leaving_in) = watch::channel(false);
    let (speaker, speaker_in) = watch::channel(None);
    let (report_out, report) = watch::channel(AgentReport::default());
    let index = Shared::new(Index::default());
    let engine = Engine::new(
        kernel.clone(),
        0x0020_0000,
        Metrics::register(&mut Registry::default()),
    );
    let wiring = Wiring {
        me: NodeName::from("n1"),
        class: ClassPolicy {
            serve_classless: true,
            metallb: false,
        },
        leaving: leaving_in,
        foreign: watch::Sender::new(0).subscribe(),
        speaker: speaker_in,
        report: report_out,
        endpoints: watch::Sender::default(),
        programmed: None,
    };
    tokio::spawn(run(engine, index.clone(), wiring));
    World {
        kernel,
        index,
        leaving,
        speaker,
        report,
    }
}

impl World {
    fn list_all(&self) {
        self.index.with(|index| {
            index.services.reset(BTreeMap::new());
            index.slices.table.reset(BTreeMap::new());
            index.nodes.reset(BTreeMap::new());
            index.pools.reset(BTreeMap::new());
            index.surroundings = Some(Surroundings::default());
        });
        self.index.touch();
    }

    /// How long until the agent says that it is clean.
    async fn clean_after(&mut self) -> Duration {
        let begin = Instant::now();
        self.report.wait_for(|report| report.clean).await.unwrap();
        begin.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_programmed_before_everything_is_listed() {
    let mut world = world();
    sleep(Duration::from_secs(60)).await;
    assert!(world.kernel.seen().is_empty());
    world.list_all();
    let begin = Instant::now();
    world.report.wait_for(|report| report.plan == 1).await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(world.kernel.seen(), ["replace"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_ages_while_the_kernel_is_slow() {
    let mut world = world_of(Kernel {
        slow: true,
        ..Kernel::default()
    });
    let vip: IpAddr = "192.0.2.1".parse().unwrap();
    world.index.with(|index| {
        let pool = RawPool {
            name: "p".into(),
            addresses: vec!["192.0.2.0/24".into()],
            ..RawPool::default()
        };
        index.pools.reset(BTreeMap::from([("p".to_owned(), pool)]));
        let service = service(vip);
        index
            .services
            .reset(BTreeMap::from([("default/a".to_owned(), service)]));
        index.slices.table.reset(BTreeMap::new());
        index.nodes.reset(BTreeMap::new());
        index.surroundings = Some(Surroundings::default());
    });
    world.index.touch();
    world.report.wait_for(|report| report.plan == 1).await.unwrap();
    world.index.with(|index| {
        let mut changed = service(vip);
        changed.ports.iter_mut().for_each(|port| port.port += 1);
        index.services.apply("default/a", Some(changed))
    });
    world.index.touch();
    let age = |report: &AgentReport| report.addresses.get(&vip).and_then(|a| a.unapplied_ms);
    let begin = Instant::now();
    let stale = |report: &AgentReport| age(report).is_some_and(|age| age > 10_000);
    world.report.wait_for(stale).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(13), "{:?}", begin.elapsed());
    world
        .report
        .wait_for(|report| report.plan == 2 && age(report).is_none())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_address_is_served_until_the_speaker_has_withdrawn_it() {
    for withdraws in [true, false] {
        let mut world = world();
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        world.index.with(|index| {
            let pool = RawPool {
                name: "p".into(),
                addresses: vec!["192.0.2.0/24".into()],
                ..RawPool::default()
            };
            index.pools.reset(BTreeMap::from([("p".to_owned(), pool)]));
            let services = BTreeMap::from([("default/a".to_owned(), service(vip))]);
            index.services.reset(services);
            index.slices.table.reset(BTreeMap::new());
            index.nodes.reset(BTreeMap::new());
            index.surroundings = Some(Surroundings::default());
        });
        let announcing = |announcing: &[IpAddr]| SpeakerReport {
            announcing: announcing.iter().copied().collect(),
            ..SpeakerReport::default()
        };
        world.speaker.send_replace(Some(announcing(&[vip])));
        world.index.touch();
        let serves = |report: &AgentReport| report.addresses.contains_key(&vip);
        world.report.wait_for(serves).await.unwrap();
        world.index.with(|index| index.services.delete("default/a"));
        world.index.touch();
        sleep(Duration::from_secs(4)).await;
        assert!(serves(&world.report.borrow()), "still announced");
        if withdraws {
            world.speaker.send_replace(Some(announcing(&[])));
        }
        let begin = Instant::now();
        world.report.wait_for(|report| !serves(report)).await.unwrap();
        let limit = if withdraws { 100 } else { 2_000 };
        assert!(
            begin.elapsed() < Duration::from_millis(limit),
            "{:?}",
            begin.elapsed()
        );
    }
}

fn service(vip: IpAddr) -> Service {
    Service {
        ingress: vec![vip],
        assigned: Some(AssignedRecord {
            addresses: vec![(vip, "p".into())],
            since: 1,
        }),
        ..fairlead_core::testing::service("a")
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_waits_for_the_speaker_to_withdraw() {
    let mut world = world();
    world.list_all();
    world.speaker.send_replace(Some(SpeakerReport::default()));
    world.leaving.send_replace(true);
    sleep(Duration::from_secs(3)).await;
    assert!(
        !world.kernel.seen().contains(&"remove"),
        "the speaker still announces"
    );
    world.speaker.send_replace(Some(SpeakerReport {
        withdrawn: true,
        ..SpeakerReport::default()
    }));
    assert!(world.clean_after().await < Duration::from_secs(1));
    assert_eq!(world.kernel.seen().last(), Some(&"remove"));
    // It stays idle: nothing is programmed any more, whatever changes.
    world.list_all();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.kernel.seen().last(), Some(&"remove"));
}

#[tokio::test(start_paused = true)]
async fn leaving_without_a_speaker_takes_ten_seconds_and_with_a_deaf_one_twenty() {
    let mut alone = world();
    alone.leaving.send_replace(true);
    let took = alone.clean_after().await.as_secs();
    assert!((9..=11).contains(&took), "{took} s");
    let mut deaf = world();
    deaf.speaker.send_replace(Some(SpeakerReport::default()));
    deaf.leaving.send_replace(true);
    let took = deaf.clean_after().await.as_secs();
    assert!((19..=21).contains(&took), "{took} s");
}
