//! The task of one interface: socket, responder and schedule together.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::arp::{self, Action, FRAME, Table};
use super::mac::Mac;
use super::schedule::Schedule;
use super::socket::ArpSocket;
use crate::metrics::{Metrics, ResultLabels};

/// Between two attempts to open the socket.
const RETRY: Duration = Duration::from_millis(200);
/// At most one log line about one address in this time.
const CONFLICT_LOG: Duration = Duration::from_secs(30);

/// Answers and announces for ever. Aborting it is safe at any time.
pub(super) async fn run(
    name: String,
    index: u32,
    mac: Mac,
    mut table: watch::Receiver<Table>,
    metrics: Metrics,
) {
    let mut complained = false;
    loop {
        let ended = match ArpSocket::open(index) {
            Ok(socket) => {
                debug!(interface = name, %mac, "ARP socket open");
                complained = false;
                let mut task = Task {
                    name: &name,
                    mac,
                    socket,
                    started: Instant::now(),
                    schedule: Schedule::default(),
                    conflicts: BTreeMap::new(),
                    metrics: &metrics,
                };
                task.serve(&mut table).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) if !complained => {
                error!(interface = name, %error, "cannot use the interface for ARP; trying on");
                complained = true;
            }
            Err(error) => debug!(interface = name, %error, "cannot use the interface for ARP"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Task<'a> {
    name: &'a str,
    mac: Mac,
    socket: ArpSocket,
    started: Instant,
    schedule: Schedule,
    /// When a conflict on an address was last logged, and how many since.
    conflicts: BTreeMap<Ipv4Addr, (Instant, u64)>,
    metrics: &'a Metrics,
}

impl Task<'_> {
    /// Until nobody wants it any more (`Ok`) or the socket fails.
    async fn serve(&mut self, table: &mut watch::Receiver<Table>) -> io::Result<()> {
        let mut buffer = [0; FRAME];
        table.mark_changed();
        loop {
            let next = self.schedule.next().map(|next| self.started + next);
            tokio::select! {
                changed = table.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = self.started.elapsed();
                    let table = table.borrow_and_update();
                    let owned = table.addresses.iter().filter(|(_, entry)| !entry.yielding);
                    self.schedule.sync(owned.map(|(address, entry)| (*address, entry.claim)), now);
                }
                received = self.socket.receive(&mut buffer) => {
                    let length = received?;
                    let action = arp::judge(&buffer[..length], self.mac, &table.borrow());
                    self.act(action);
                }
                () = sleep_until(next) => self.announce()?,
            }
        }
    }

    fn act(&mut self, action: Action) {
        let result = match action {
            Action::Nothing => return,
            Action::Ignore => "ignored",
            Action::Answer(answer) => match self.socket.send(&answer.bytes()) {
                Ok(()) => "answered",
                Err(error) => {
                    debug!(interface = self.name, %error, "cannot answer");
                    "failed"
                }
            },
            Action::Conflict { address, by } => {
                self.conflict(address, by);
                return;
            }
        };
        self.metrics
            .arp_requests
            .get_or_create(&ResultLabels { result })
            .inc();
    }

    fn announce(&mut self) -> io::Result<()> {
        for address in self.schedule.due(self.started.elapsed()) {
            for frame in arp::gratuitous(self.mac, address) {
                let outcome = self.socket.send(&frame.bytes());
                let result = if outcome.is_ok() { "sent" } else { "failed" };
                self.metrics
                    .arp_sent
                    .get_or_create(&ResultLabels { result })
                    .inc();
                match outcome {
                    // The queue of the interface is full: the next round will do.
                    Err(error)
                        if error.raw_os_error() == Some(libc::ENOBUFS)
                            || error.kind() == io::ErrorKind::WouldBlock => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn conflict(&mut self, address: Ipv4Addr, by: Mac) {
        self.metrics.conflicts.inc();
        let now = Instant::now();
        let (logged, count) = self.conflicts.entry(address).or_insert((now - CONFLICT_LOG, 0));
        *count += 1;
        if now.duration_since(*logged) >= CONFLICT_LOG {
            warn!(
                interface = self.name, %address, %by, frames = *count,
                "another machine uses an address that this node announces"
            );
            (*logged, *count) = (now, 0);
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
