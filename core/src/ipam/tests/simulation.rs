//! The whole of address management, simulated: an API server, users, and controllers that see late and write late.
//!
//! Any prefix of a script is followed by quiet, in which everything must come to rest.

mod controller;
mod oracle;
mod world;

use std::cell::Cell;
use std::fmt;

use controller::{After, Answer, Controller, Request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::{Deserialize, Serialize};
use world::{ADDRESSES, Edit, POOLS, PoolEdit, SERVICES, World};

/// One thing that happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Tick(u8),
    Create(u8),
    Delete(u8),
    Edit(u8, Edit),
    Pool(u8, PoolEdit),
    Node(bool),
    /// A controller sees so many events of Services, or of all the rest.
    Watch(u8, bool, u8),
    /// A controller decides, and sends what is due.
    Act(u8),
    /// What becomes of one of the writes that are on their way.
    Carry(u8, Fate),
    /// A controller starts anew. With one at a time: the next one takes over, when the writes of the one before are
    /// carried out or lost, each by a bit.
    Start(u8, u8),
    /// Everything comes to rest.
    Quiet,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Fate {
    Done,
    /// It is carried out, and the answer is lost.
    Silent,
    Lost,
    /// The sender gives up waiting, and the write is still on its way.
    Late,
}

/// A history that can be printed and read back: one step a line, as JSON.
#[derive(Clone)]
struct Script {
    leaders: usize,
    steps: Vec<Step>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.leaders)?;
        for step in &self.steps {
            writeln!(f, "{}", serde_json::to_string(step).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

impl Script {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let leaders = lines.next().expect("the number of leaders").parse().unwrap();
        let steps = lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        Self { leaders, steps }
    }

    fn run(&self) {
        let mut simulation = Simulation::new(self.leaders);
        for step in &self.steps {
            simulation.step(step);
        }
        simulation.quiet();
    }
}

struct Simulation {
    world: World,
    controllers: Vec<Controller>,
    starts: u32,
    requests: Vec<(Request, bool)>,
}

impl Simulation {
    fn new(leaders: usize) -> Self {
        let world = World::default();
        Self {
            controllers: vec![Controller::start(&world, 0); leaders],
            world,
            starts: 0,
            requests: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let me = |n: u8| usize::from(n) % self.controllers.len();
        match step {
            Step::Tick(seconds) => self.world.now += i64::from(*seconds),
            Step::Create(n) => self.world.create_service(*n),
            Step::Delete(n) => self.world.delete_service(&world::service_key(*n)),
            Step::Edit(n, edit) => self.world.edit_service(*n, edit),
            Step::Pool(n, edit) => self.world.edit_pool(*n, edit),
            Step::Node(has) => self.world.set_node(*has),
            Step::Watch(n, rest, most) => {
                let me = me(*n);
                self.controllers[me].watch(&self.world, usize::from(*rest), usize::from(*most));
            }
            Step::Act(n) => {
                let me = me(*n);
                self.act(me);
            }
            Step::Carry(n, fate) => {
                if !self.requests.is_empty() {
                    let index = usize::from(*n) % self.requests.len();
                    self.carry(index, *fate);
                }
            }
            Step::Start(n, fates) => {
                let me = me(*n);
                self.start(me, *fates);
            }
            Step::Quiet => self.quiet(),
        }
        if self.controllers.len() == 1 {
            oracle::no_address_twice(&self.world);
        }
    }

    fn act(&mut self, me: usize) -> bool {
        let controller = &mut self.controllers[me];
        controller.ledger.settle();
        oracle::decisions(controller);
        let requests = controller.act(me, self.world.now);
        let any = !requests.is_empty();
        self.requests
            .extend(requests.into_iter().map(|request| (request, true)));
        any
    }

    fn start(&mut self, me: usize, fates: u8) {
        if self.controllers.len() == 1 {
            let mut bit = 0;
            while let Some((request, _)) = self.requests.pop() {
                if fates >> (bit % 8) & 1 == 1 {
                    self.carry_out(&request);
                }
                bit += 1;
            }
        }
        self.starts += 1;
        self.controllers[me] = Controller::start(&self.world, self.starts);
    }

    fn carry(&mut self, index: usize, fate: Fate) {
        if matches!(fate, Fate::Late) {
            let (request, awaited) = &mut self.requests[index];
            if std::mem::take(awaited) {
                let request = request.clone();
                self.answer(&request, Answer::Unknown);
            }
            return;
        }
        let (request, awaited) = self.requests.remove(index);
        let done = !matches!(fate, Fate::Lost) && self.carry_out(&request);
        if awaited {
            let answer = match (fate, done) {
                (Fate::Done, true) => Answer::Accepted,
                (Fate::Done, false) => Answer::Conflict,
                _ => Answer::Unknown,
            };
            self.answer(&request, answer);
        }
    }

    fn answer(&mut self, request: &Request, answer: Answer) {
        let controller = &mut self.controllers[request.controller];
        if controller.start == request.start {
            controller.answered(request, answer);
        }
    }

    /// What the API server does; answers whether the precondition held.
    fn carry_out(&mut self, request: &Request) -> bool {
        let world = &mut self.world;
        let version = match &request.after {
            After::Service(service) => world.services.get(&service.key).map(|(version, _)| *version),
            After::Pool(pool) => world.pools.get(&pool.name).map(|(version, _)| *version),
            After::PoolGone(name) => world.pools.get(name).map(|(version, _)| *version),
        };
        if version != Some(request.base) {
            return false;
        }
        match request.after.clone() {
            After::Service(service) => world.put_service(service),
            After::Pool(pool) => world.put_pool(pool),
            After::PoolGone(name) => world.delete_pool(&name),
        }
        true
    }

    /// Nobody changes anything any more, and everything arrives.
    fn quiet(&mut self) {
        for round in 0.. {
            assert!(round < 60, "it does not come to rest: {:?}", self.requests);
            self.world.now += 1;
            let mut busy = false;
            for me in 0..self.controllers.len() {
                while !self.requests.is_empty() {
                    self.carry(0, Fate::Done);
                    busy = true;
                }
                for history in [0, 1] {
                    busy |= self.controllers[me].watch(&self.world, history, usize::MAX);
                }
                busy |= self.act(me);
            }
            if self.controllers.len() == 1 {
                oracle::no_address_twice(&self.world);
            }
            if !busy {
                break;
            }
        }
        oracle::no_double_assignment(&self.world);
        let config = oracle::config(&self.world);
        for controller in &self.controllers {
            oracle::settled(controller);
            assert_eq!(config, controller.ledger.rules().config);
        }
        for (_, pool) in self.world.pools.values() {
            assert!(
                !pool.deleting || !pool.retained.is_empty(),
                "{} is held by nobody",
                pool.name
            );
        }
        let world = &mut self.world;
        world.forged.clear();
        world.lately.clear();
        for (key, (_, service)) in &world.services {
            world.lately.insert(key.clone(), vec![service.clone()]);
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let n = 0..ADDRESSES;
    prop_oneof![
        3 => any::<bool>().prop_map(Edit::Balancer),
        2 => (0u8..3).prop_map(Edit::Class),
        3 => (0u8..4).prop_map(Edit::Families),
        2 => (0u8..3).prop_map(Edit::Policy),
        3 => (0u8..3).prop_map(Edit::Port),
        1 => any::<bool>().prop_map(Edit::Local),
        4 => (0u8..3).prop_map(Edit::Key),
        1 => any::<bool>().prop_map(Edit::Label),
        4 => (0..ADDRESSES + 4).prop_map(Edit::Request),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Addresses(a, b)),
        2 => (0u8..8).prop_map(Edit::Pools),
        4 => (0..ADDRESSES + 7).prop_map(Edit::External),
        4 => n.clone().prop_map(Edit::ByHand),
        1 => n.clone().prop_map(Edit::ForgeIngress),
        1 => Just(Edit::WipeIngress),
        1 => n.prop_map(Edit::ForgeRecord),
        1 => Just(Edit::WipeRecord),
        1 => any::<bool>().prop_map(Edit::Foreign),
        1 => Just(Edit::Deleting),
    ]
}

fn pool_edit() -> impl Strategy<Value = PoolEdit> {
    prop_oneof![
        6 => (0u8..8).prop_map(PoolEdit::Ranges),
        1 => any::<bool>().prop_map(PoolEdit::Auto),
        2 => any::<bool>().prop_map(PoolEdit::Reassign),
        3 => (0u8..4).prop_map(PoolEdit::External),
        1 => (0..ADDRESSES + 4).prop_map(PoolEdit::Reserve),
        1 => any::<bool>().prop_map(PoolEdit::AvoidBuggy),
        1 => (0u8..8).prop_map(PoolEdit::For),
        1 => Just(PoolEdit::Delete),
        1 => Just(PoolEdit::Erase),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Done), 1 => Just(Fate::Silent), 1 => Just(Fate::Lost), 1 => Just(Fate::Late)]
}

fn step() -> impl Strategy<Value = Step> {
    let me = 0u8..2;
    prop_oneof![
        2 => (0u8..5).prop_map(Step::Tick),
        8 => (0..SERVICES).prop_map(Step::Create),
        2 => (0..SERVICES).prop_map(Step::Delete),
        20 => (0..SERVICES, edit()).prop_map(|(n, edit)| Step::Edit(n, edit)),
        6 => (0..POOLS, pool_edit()).prop_map(|(n, edit)| Step::Pool(n, edit)),
        1 => any::<bool>().prop_map(Step::Node),
        25 => (me.clone(), any::<bool>(), 1u8..6).prop_map(|(n, rest, most)| Step::Watch(n, rest, most)),
        20 => me.clone().prop_map(Step::Act),
        25 => (0u8..8, fate()).prop_map(|(n, fate)| Step::Carry(n, fate)),
        1 => (me, any::<u8>()).prop_map(|(n, fates)| Step::Start(n, fates)),
        1 => Just(Step::Quiet),
    ]
}

fn script(leaders: usize, most: usize) -> impl Strategy<Value = Script> {
    proptest::collection::vec(step(), 0..most).prop_map(move |steps| Script { leaders, steps })
}

/// Runs so many random histories; answers with the number of their steps.
fn simulate(leaders: usize, cases: u32, most: usize) -> usize {
    let config = Config {
        cases,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = Cell::new(0);
    let result = TestRunner::new(config).run(&script(leaders, most), |script| {
        script.run();
        steps.set(steps.get() + script.steps.len());
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}\nTo replay: put the lines into a file and name it in FAIRLEAD_IPAM_REPLAY.");
    }
    steps.get()
}

#[test]
fn one_leader_at_a_time() {
    simulate(1, 40, 150);
}

#[test]
fn two_leaders_at_once() {
    simulate(2, 20, 150);
}

/// So many steps as `FAIRLEAD_IPAM_STEPS` says, a million by default; `make soak-ipam`.
#[test]
#[ignore = "takes minutes; run by `make soak-ipam`"]
fn soak() {
    let steps = std::env::var("FAIRLEAD_IPAM_STEPS").map_or(1_000_000, |text| text.parse().unwrap());
    let (mut done, mut rounds, start) = (0, 0, std::time::Instant::now());
    while done < steps {
        // Two histories with one leader at a time for each one with two.
        done += simulate(1, 20, 800) + simulate(2, 10, 800);
        rounds += 1;
    }
    println!(
        "{done} steps in {} histories, {:.0?}",
        rounds * 30,
        start.elapsed()
    );
}

/// Histories that once went wrong, or would if a controller held less than it must, and the one of `FAIRLEAD_IPAM_REPLAY`.
#[test]
fn histories_that_went_wrong_once() {
    for text in HISTORIES {
        Script::parse(text).run();
    }
    if let Some(path) = std::env::var_os("FAIRLEAD_IPAM_REPLAY") {
        Script::parse(&std::fs::read_to_string(path).unwrap()).run();
    }
}

const HISTORIES: &[&str] = &[
    include_str!("simulation/histories/a-late-write.txt"),
    include_str!("simulation/histories/a-reason-that-is-out-of-date.txt"),
    include_str!("simulation/histories/adopted-while-the-record-goes.txt"),
    include_str!("simulation/histories/counted-for-the-pool-of-the-record.txt"),
    include_str!("simulation/histories/one-family-waits-and-the-other-cannot.txt"),
    include_str!("simulation/histories/the-family-to-blame.txt"),
];

#[test]
fn a_script_reads_back() {
    let strategy = script(1, 50);
    TestRunner::default()
        .run(&strategy, |script| {
            let text = format!("{script:?}");
            prop_assert_eq!(format!("{:?}", Script::parse(&text)), text);
            Ok(())
        })
        .unwrap();
}
