//! Contenders, an API server and a bad network in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// Virtual milliseconds, by the one true clock that nobody can read.
pub type Ms = u64;

/// What may go wrong, to a process or to the Lease.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The process stands still for so long and does not know.
    Freeze(usize, Ms),
    /// The process dies; after so long another one takes its place.
    Kill(usize, Ms),
    /// The process ends in good order; after so long another one takes its place.
    Release(usize, Ms),
    /// The process cannot reach the API server for so long.
    Cut(usize, Ms),
    /// Requests and answers are late or lost for so long, for all.
    Storm(Ms),
    /// Somebody deletes the Lease.
    Delete,
    /// Somebody writes nonsense into it.
    Garbage(i32),
}

#[derive(Debug)]
enum Event {
    Step(usize, u64),
    Apply(usize, u64, Request),
    Deliver(usize, u64, Answer, Option<u64>),
    Hint(usize),
    Fault(Fault),
    Start(usize),
}

#[derive(Clone, Debug)]
enum Request {
    Read,
    Write(Record, Option<u64>),
}

struct Process {
    elector: Elector,
    alive: bool,
    releasing: bool,
    frozen: Ms,
    cut: Ms,
    /// How fast its clock runs.
    rate: f64,
    /// How wrong its wall clock is, in seconds.
    wall: i64,
    /// The version of the Lease that it knows.
    version: Option<u64>,
    /// The request under way.
    request: Option<u64>,
    /// Of several planned steps only the last counts.
    step: u64,
    hinted: bool,
}

pub struct World {
    pub now: Ms,
    base: Instant,
    random: Random,
    settings: Settings,
    queue: BinaryHeap<Reverse<(Ms, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    counter: u64,
    processes: Vec<Process>,
    storm: Ms,
    /// Without the watch contenders must poll.
    pub watch: bool,
    pub lease: Option<(u64, Record)>,
    pub log: Vec<String>,
    /// Requests that reached the API server.
    pub requests: u64,
    /// When who began to lead.
    pub terms: Vec<(Ms, usize)>,
    /// Two led at once.
    pub clash: Option<String>,
}

impl World {
    pub fn new(contenders: usize, seed: u64) -> Self {
        let second = Duration::from_secs(1);
        let settings = Settings::new(second * 15, second * 10, second * 2).unwrap();
        let mut world = Self {
            now: 0,
            base: Instant::now() + second * 1000,
            random: Random(seed),
            settings,
            queue: BinaryHeap::new(),
            events: Default::default(),
            counter: 0,
            processes: vec![],
            storm: 0,
            watch: true,
            lease: None,
            log: vec![],
            requests: 0,
            terms: vec![],
            clash: None,
        };
        for who in 0..contenders {
            let process = world.process(who);
            world.processes.push(process);
            let at = world.below(50);
            world.plan(at, Event::Start(who));
        }
        world
    }

    fn process(&mut self, who: usize) -> Process {
        self.counter += 1;
        let identity = format!("p{who}_{}", self.counter);
        // Within the ratio of 1.5 that the settings tolerate.
        let rate = 0.9 + 0.2 * self.random.fraction();
        let seed = self.below(u64::MAX);
        Process {
            elector: Elector::new(identity, self.settings, seed, self.base),
            alive: false,
            releasing: false,
            frozen: 0,
            cut: 0,
            rate,
            wall: self.below(7200) as i64 - 3600,
            version: None,
            request: None,
            step: 0,
            hinted: false,
        }
    }

    fn below(&mut self, most: u64) -> u64 {
        (self.random.fraction() * most as f64) as u64
    }

    fn plan(&mut self, at: Ms, event: Event) {
        self.counter += 1;
        self.events.insert(self.counter, event);
        self.queue.push(Reverse((at, self.counter)));
    }

    pub fn fault(&mut self, at: Ms, fault: Fault) {
        self.plan(at, Event::Fault(fault));
    }

    fn local(&self, who: usize) -> Instant {
        self.base + Duration::from_secs_f64(self.now as f64 * self.processes[who].rate / 1000.0)
    }

    fn wall(&self, who: usize) -> Timestamp {
        let seconds = 1_800_000_000 + self.processes[who].wall;
        Timestamp::from_millisecond(seconds * 1000 + self.now as i64).unwrap()
    }

    /// Who may act now, by its own clock; also if it is frozen, for it may go on at any moment.
    pub fn leaders(&self) -> Vec<usize> {
        let leads = |who: &usize| {
            let process = &self.processes[*who];
            let term = process.elector.term();
            process.alive && term.is_some_and(|term| self.local(*who) < term.until)
        };
        (0..self.processes.len()).filter(leads).collect()
    }

    pub fn run_until(&mut self, end: Ms) {
        while let Some(Reverse((at, _))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse((at, id))) = self.queue.pop() else {
                break;
            };
            self.now = at;
            let before = self.leaders();
            let event = self.events.remove(&id).unwrap();
            let shown = format!("{at} {event:?}");
            self.happen(event);
            self.log.push(shown);
            let after = self.leaders();
            for who in &after {
                if !before.contains(who) {
                    self.terms.push((at, *who));
                    self.log.push(format!("{at} {who} leads"));
                }
            }
            if after.len() > 1 && self.clash.is_none() {
                self.clash = Some(format!("at {at} ms {after:?} lead"));
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        // A frozen process finds what came in the meantime when it goes on.
        if let Event::Step(who, _) | Event::Deliver(who, ..) | Event::Hint(who) = &event {
            let thaw = self.processes[*who].frozen;
            if thaw > self.now {
                return self.plan(thaw, event);
            }
        }
        match event {
            Event::Start(who) => {
                let mut process = self.process(who);
                (process.alive, process.elector.due) = (true, self.base);
                // Its own clock begins where it begins.
                self.processes[who] = process;
                let now = self.local(who);
                self.processes[who].elector.due = now;
                self.step(who);
            }
            Event::Step(who, number) if self.processes[who].step == number => self.step(who),
            Event::Step(..) => {}
            Event::Apply(who, number, request) => self.apply(who, number, request),
            Event::Deliver(who, number, answer, version) => {
                if self.processes[who].request == Some(number) && self.processes[who].alive {
                    self.processes[who].request = None;
                    if matches!(answer, Answer::Found(_) | Answer::Written(_)) {
                        self.processes[who].version = version;
                    }
                    let now = self.local(who);
                    self.processes[who].elector.ended(answer, now);
                    self.step(who);
                }
            }
            Event::Hint(who) => {
                self.processes[who].hinted = true;
                if self.processes[who].request.is_none() && self.processes[who].alive {
                    self.step(who);
                }
            }
            Event::Fault(fault) => self.strike(fault),
        }
    }

    fn strike(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Freeze(who, span) => self.processes[who].frozen = now + span,
            Fault::Cut(who, span) => self.processes[who].cut = now + span,
            Fault::Storm(span) => self.storm = now + span,
            Fault::Kill(who, span) => {
                self.processes[who].alive = false;
                self.plan(now + span, Event::Start(who));
            }
            Fault::Release(who, span) => {
                if self.processes[who].alive {
                    self.processes[who].releasing = true;
                    if self.processes[who].request.is_none() {
                        self.step(who);
                    }
                }
                self.plan(now + 6000 + span, Event::Start(who));
            }
            Fault::Delete => self.change(None),
            Fault::Garbage(seconds) => {
                let record = Record {
                    holder: if seconds % 2 == 0 {
                        String::new()
                    } else {
                        "nonsense".into()
                    },
                    seconds,
                    transitions: seconds,
                    ..Record::default()
                };
                self.change(Some(record));
            }
        }
    }

    fn change(&mut self, record: Option<Record>) {
        self.counter += 1;
        self.lease = record.map(|record| (self.counter, record));
        for who in 0..self.processes.len() {
            if self.watch && self.processes[who].cut <= self.now {
                let lag = self.below(20);
                self.plan(self.now + lag, Event::Hint(who));
            }
        }
    }

    fn step(&mut self, who: usize) {
        let (now, wall) = (self.local(who), self.wall(who));
        let shown = match &self.lease {
            Some((_, record)) => record.holder.clone(),
            None => String::new(),
        };
        let process = &mut self.processes[who];
        if !process.alive || process.request.is_some() {
            return;
        }
        if std::mem::take(&mut process.hinted) {
            process.elector.hint(&shown, now);
        }
        if std::mem::take(&mut process.releasing) {
            process.elector.release(now);
        }
        let (rate, version, patience) = (process.rate, process.version, process.elector.patience(now));
        let request = match process.elector.next(now, wall) {
            Action::Done => {
                process.alive = false;
                return;
            }
            Action::Wait(until) => {
                process.step += 1;
                let number = process.step;
                let at = (until - self.base).as_secs_f64() * 1000.0 / rate;
                return self.plan((at.ceil() as Ms).max(self.now + 1), Event::Step(who, number));
            }
            Action::Read => Request::Read,
            Action::Write(record) => Request::Write(record, version),
        };
        self.counter += 1;
        let number = self.counter;
        self.processes[who].request = Some(number);
        if !self.lost(who) {
            let delay = self.delay();
            self.plan(self.now + delay, Event::Apply(who, number, request));
        }
        let timeout = (patience.as_secs_f64() * 1000.0 / rate).ceil() as Ms;
        self.plan(
            self.now + timeout,
            Event::Deliver(who, number, Answer::Failed, None),
        );
    }

    fn lost(&mut self, who: usize) -> bool {
        self.processes[who].cut > self.now || (self.storm > self.now && self.below(3) == 0)
    }

    fn delay(&mut self) -> Ms {
        match (self.storm > self.now, self.below(4)) {
            (true, 0) => self.below(20_000),
            (true, _) => self.below(2_000),
            (false, _) => 1 + self.below(10),
        }
    }

    fn apply(&mut self, who: usize, number: u64, request: Request) {
        self.requests += 1;
        let standing = self.lease.as_ref().map(|(version, _)| *version);
        let answer = match request {
            Request::Read => Answer::Found(self.lease.as_ref().map(|(_, record)| record.clone())),
            Request::Write(record, base) if base == standing => {
                self.change(Some(record.clone()));
                Answer::Written(record)
            }
            Request::Write(..) => Answer::Conflict,
        };
        let version = self.lease.as_ref().map(|(version, _)| *version);
        if !self.lost(who) {
            let delay = self.delay();
            self.plan(self.now + delay, Event::Deliver(who, number, answer, version));
        }
    }
}
