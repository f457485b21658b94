//! The task of one family on one interface: socket, responder and schedule together.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use fairlead_core::model::Family;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::groups::Groups;
use super::mac::Mac;
use super::quarrel::Quarrels;
use super::schedule::{Job, Schedule};
use super::sightings::Board;
use super::socket::WireSocket;
use super::table::{Claimant, Judged, Request, Scope};
use super::{arp, ndp};
use crate::metrics::{Metrics, WireLabels};

/// Between two attempts to open the socket.
const RETRY: Duration = Duration::from_millis(200);

/// Which task this is.
pub(super) struct Place {
    pub name: String,
    pub index: u32,
    pub family: Family,
}

/// Answers and announces for ever. Aborting it is safe at any time.
pub(super) async fn run(place: Place, mut scope: watch::Receiver<Scope>, board: Board, metrics: Metrics) {
    let (interface, family) = (&place.name, place.family);
    let mut complained = false;
    loop {
        let ended = match WireSocket::open(place.index, family) {
            Ok(socket) => {
                debug!(interface, %family, "socket open");
                complained = false;
                let mut task = Task {
                    place: &place,
                    socket,
                    started: Instant::now(),
                    schedule: Schedule::default(),
                    groups: Groups::new(place.index),
                    quarrels: Quarrels::default(),
                    board: &board,
                    metrics: &metrics,
                };
                task.serve(&mut scope).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) if !complained => {
                error!(interface, %family, %error, "cannot announce on the interface; trying on");
                complained = true;
            }
            Err(error) => debug!(interface, %family, %error, "cannot announce on the interface"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Task<'a> {
    place: &'a Place,
    socket: WireSocket,
    started: Instant,
    schedule: Schedule,
    groups: Groups,
    quarrels: Quarrels,
    board: &'a Board,
    metrics: &'a Metrics,
}

impl Task<'_> {
    /// Until nobody wants it any more (`Ok`) or the socket fails.
    async fn serve(&mut self, scope: &mut watch::Receiver<Scope>) -> io::Result<()> {
        let mut buffer = [0; ndp::LARGEST];
        scope.mark_changed();
        loop {
            let next = self.schedule.next().map(|next| self.started + next);
            // While a frame is dealt with the scope is borrowed, so that a withdrawal waits for it and nothing follows.
            tokio::select! {
                changed = scope.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.update(&scope.borrow_and_update());
                }
                received = self.socket.receive(&mut buffer) => {
                    let length = received?;
                    self.received(&buffer[..length], &scope.borrow());
                }
                () = sleep_until(next) => self.announce(&scope.borrow())?,
            }
        }
    }

    fn update(&mut self, scope: &Scope) {
        let family = self.place.family;
        let ours = |address: &IpAddr| Family::of(*address) == family;
        let addresses = || scope.table.addresses.iter().filter(|(address, _)| ours(address));
        let owned = addresses().filter(|(_, entry)| !entry.yielding);
        let announced = owned.map(|(address, entry)| (Job::Announce(*address), entry.claim));
        let asked = scope.asked.iter().copied().filter(ours);
        let jobs = asked.map(|address| (Job::Ask(address), 0)).chain(announced);
        self.schedule.sync(jobs, self.started.elapsed());
        let groups: BTreeSet<Ipv6Addr> = addresses()
            .filter_map(|(address, _)| match address {
                IpAddr::V6(address) => Some(ndp::solicited_node(*address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        self.groups.sync(&groups);
        self.quarrels.retain(|address| scope.watches(address));
    }

    fn received(&mut self, bytes: &[u8], scope: &Scope) {
        let judged: Judged<Vec<u8>> = match self.place.family {
            Family::V4 => arp::judge(bytes, scope).map(|answer| answer.bytes().to_vec()),
            Family::V6 => ndp::judge(bytes, scope).map(|answer| answer.bytes()),
        };
        if let Some((address, by)) = judged.claim {
            self.claimed(address, by, scope);
        }
        let result = match judged.request {
            Request::None => return,
            Request::Ignored => "ignored",
            Request::Answer(answer) => match self.socket.send(&answer) {
                Ok(()) => "answered",
                Err(error) => {
                    debug!(interface = self.place.name, %error, "cannot answer");
                    "failed"
                }
            },
        };
        self.metrics.l2_requests.get_or_create(&self.labels(result)).inc();
    }

    /// Sends what is due.
    fn announce(&mut self, scope: &Scope) -> io::Result<()> {
        let now = self.started.elapsed();
        for job in self.schedule.due(now) {
            let wanted = match job {
                Job::Ask(address) => scope.asked.contains(&address),
                // The schedule may not have heard yet what the table says.
                Job::Announce(address) => scope
                    .table
                    .addresses
                    .get(&address)
                    .is_some_and(|entry| !entry.yielding),
            };
            if wanted && !self.send(&unasked(job, scope))? {
                self.schedule.failed(job, now);
            }
        }
        Ok(())
    }

    /// Sends frames that nobody asked for; false if the interface had no room for one.
    fn send(&self, frames: &[Vec<u8>]) -> io::Result<bool> {
        let mut all = true;
        for frame in frames {
            let outcome = self.socket.send(frame);
            let result = if outcome.is_ok() { "sent" } else { "failed" };
            self.metrics
                .l2_announcements
                .get_or_create(&self.labels(result))
                .inc();
            match outcome {
                Ok(()) => {}
                Err(error) if no_room(&error) => all = false,
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Somebody else says that an address of interest is his.
    fn claimed(&mut self, address: IpAddr, by: Mac, scope: &Scope) {
        match scope.claimant(address, by) {
            Claimant::Nobody => {}
            Claimant::Fellow => self.board.fellow(address, by, Instant::now().into()),
            Claimant::Stranger => self.conflict(address, by, scope),
        }
    }

    fn conflict(&mut self, address: IpAddr, by: Mac, scope: &Scope) {
        let interface = &self.place.name;
        let now = Instant::now();
        self.board.conflict(address, by, interface, now.into());
        let policy = scope.table.addresses.get(&address).map(|entry| entry.policy);
        let response = self.quarrels.conflict(address, policy, now - self.started);
        let defended =
            response.defend && matches!(self.send(&unasked(Job::Announce(address), scope)), Ok(true));
        let result = if defended { "defended" } else { "reported" };
        self.metrics
            .l2_conflicts
            .get_or_create(&self.labels(result))
            .inc();
        if let Some(frames) = response.log {
            warn!(
                interface, %address, %by, frames, announced = policy.is_some(), defended,
                "another machine uses an address that is to be announced here"
            );
        }
    }

    fn labels(&self, result: &'static str) -> WireLabels {
        let family = match self.place.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        WireLabels { family, result }
    }
}

/// The frames of a job.
fn unasked(job: Job, scope: &Scope) -> Vec<Vec<u8>> {
    match job {
        Job::Ask(IpAddr::V4(address)) => vec![arp::probe(scope.mac, address).bytes().to_vec()],
        Job::Ask(IpAddr::V6(address)) => vec![ndp::probe(scope.mac, address).bytes()],
        Job::Announce(IpAddr::V4(address)) => arp::gratuitous(scope.mac, address)
            .map(|frame| frame.bytes().to_vec())
            .into(),
        Job::Announce(IpAddr::V6(address)) => vec![ndp::unsolicited(scope.mac, address).bytes()],
    }
}

/// The queue of the interface is full, or the socket's share of it.
fn no_room(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS) || error.kind() == io::ErrorKind::WouldBlock
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
