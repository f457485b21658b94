//! A witness on the wire: asks by ARP and NDP, many times a second, who has certain addresses, and keeps all answers.
//!
//! It asks from the client on the nodes' own segment, by broadcast, so that every node may answer. What it claims it has
//! seen in packets, whatever our own objects say.

mod frames;
pub mod history;
mod socket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use history::{History, Move, Span};

use crate::error::{Doing, LabError, Result};
use crate::lab::Lab;
use crate::net;
use crate::product::wait_for;
use crate::topology::{Interface, Place};
use frames::Mac;
use socket::Wire;

/// From where it asks.
const FROM: Place = Place::LanClient;

/// Asks until it is dropped.
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    began: Instant,
    history: Mutex<History>,
    ends: AtomicBool,
    failed: Mutex<Option<String>>,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Asks for each of these addresses once in `interval`.
    ///
    /// # Errors
    /// When the place it asks from does not run, or the socket cannot be opened.
    pub fn start(lab: &Lab, addresses: &[IpAddr], interval: Duration) -> Result<Self> {
        let own = FROM
            .uplink()
            .ok_or_else(|| LabError::Refused(format!("{} has no interface", FROM.name())))?;
        let wire = net::inside(&lab.machine(FROM)?, || Wire::open(own.name))?
            .doing(format!("open a packet socket in {}", FROM.name()))?;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            history: Mutex::new(History::of(addresses)),
            ends: AtomicBool::new(false),
            failed: Mutex::new(None),
        });
        let asking = Asking {
            wire,
            own,
            names: names(lab),
            addresses: addresses.to_vec(),
            interval,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || asking.run())
            .doing("start a thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Everything seen so far.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.shared.history()
    }

    /// Now, as times in the history are told.
    pub fn clock(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Waits until exactly one, and always the same, has answered for an address during a whole `span`.
    ///
    /// # Errors
    /// When it is not so in time, with what was seen last; when packets could not be sent or read.
    pub fn wait_settled(
        &self,
        address: IpAddr,
        span: Duration,
        limit: Duration,
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let from = self.clock();
        wait_for(&format!("one node to announce {address}"), limit, || {
            self.check()?;
            let (now, history) = (self.clock(), self.history());
            match history.only(address, now.saturating_sub(span)) {
                Some(one) if now >= from + span && accept(&one) => Ok(one),
                _ => Err(format!("{:?}", history.answering(address))),
            }
        })
    }

    /// Waits until somebody who is not `than` has claimed an address since `from`; answers when that was.
    ///
    /// # Errors
    /// As [`Witness::wait_settled`].
    pub fn wait_other(
        &self,
        address: IpAddr,
        than: &str,
        from: Duration,
        limit: Duration,
    ) -> Result<Duration> {
        wait_for(&format!("another node to announce {address}"), limit, || {
            self.check()?;
            let history = self.history();
            history
                .first_other(address, than, from)
                .ok_or_else(|| format!("{:?}", history.answering(address)))
        })
    }

    /// Whether it still asks.
    fn check(&self) -> std::result::Result<(), String> {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell: what went wrong is in `failed`.
            let _ = thread.join();
        }
    }
}

/// The names of the lab's places by their MAC addresses.
fn names(lab: &Lab) -> BTreeMap<String, String> {
    lab.places()
        .into_iter()
        .flat_map(|place| place.interfaces().into_iter().map(move |i| (i.mac, place.name())))
        .collect()
}

struct Asking {
    wire: Wire,
    own: Interface,
    names: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
    interval: Duration,
    shared: Arc<Shared>,
}

impl Asking {
    fn run(&self) {
        if let Err(error) = self.ask() {
            let mut failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(format!("the witness cannot go on: {error}"));
        }
    }

    fn ask(&self) -> std::io::Result<()> {
        let mac: Mac = frames::mac(&self.own.mac)
            .ok_or_else(|| std::io::Error::other(format!("{} is no MAC address", self.own.mac)))?;
        let questions: Vec<Vec<u8>> = self
            .addresses
            .iter()
            .map(|address| frames::question(mac, self.own.v4, self.own.v6, *address))
            .collect();
        let mut next = Instant::now();
        while !self.shared.ends.load(Ordering::Relaxed) {
            self.shared.history().round(self.shared.began.elapsed());
            for question in &questions {
                self.wire.send(question)?;
            }
            next += self.interval;
            // A round that begins late is not made up for: answers would be counted in the wrong one.
            next = next.max(Instant::now());
            loop {
                let left = next.saturating_duration_since(Instant::now());
                // When time is up, what has arrived still belongs to this round, however late this thread is.
                let Some(frame) = self.wire.receive(left)? else {
                    if left.is_zero() {
                        break;
                    }
                    continue;
                };
                let at = self.shared.began.elapsed();
                if let Some((address, from)) = frames::claim(&frame)
                    && from != mac
                {
                    let from = frames::text(from);
                    let who = self.names.get(&from).unwrap_or(&from);
                    self.shared.history().answer(address, who, at);
                }
            }
        }
        Ok(())
    }
}
