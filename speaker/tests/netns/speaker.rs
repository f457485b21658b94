//! An `Announcer` at work in the speaker's namespace, and what the peer hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairlead_core::model::Family;
use fairlead_speaker::l2::{Announcer, ConflictPolicy, Entry, Mac, Sightings, Table, Wanted, WireSocket};
use fairlead_speaker::metrics::{Metrics, WireLabels};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc as tokio_mpsc, watch};

use super::{MACS, Wire};

type Command = Box<dyn FnOnce(&mut Announcer) + Send>;

/// The announcer.
pub struct Speaker {
    commands: Option<tokio_mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    pub metrics: Metrics,
    pub sightings: watch::Receiver<Sightings>,
}

impl Speaker {
    pub fn start(wire: &Wire) -> Self {
        let metrics = Metrics::new(&mut Registry::default());
        let (commands, mut receiver) = tokio_mpsc::unbounded_channel::<Command>();
        let mut announcer = Announcer::new(metrics.clone());
        let sightings = announcer.sightings();
        let thread = wire.on_speaker(async move || {
            while let Some(command) = receiver.recv().await {
                command(&mut announcer);
            }
        });
        Self {
            commands: Some(commands),
            thread: Some(thread),
            metrics,
            sightings,
        }
    }

    /// Returns when it is done.
    pub fn tell(&self, command: impl FnOnce(&mut Announcer) + Send + 'static) {
        let (done, told) = mpsc::channel();
        let commands = self.commands.as_ref().expect("running");
        let command: Command = Box::new(move |announcer| {
            command(announcer);
            let _ = done.send(());
        });
        assert!(commands.send(command).is_ok(), "the speaker's thread has ended");
        told.recv().expect("the speaker's thread answers");
    }

    /// Announces exactly this.
    pub fn apply(&self, wanted: BTreeMap<String, Wanted>) {
        self.tell(move |announcer| announcer.apply(&wanted));
    }

    /// How many requests were dealt with in this way.
    pub fn requests(&self, family: &'static str, result: &'static str) -> u64 {
        let labels = WireLabels { family, result };
        self.metrics.l2_requests.get_or_create(&labels).get()
    }

    /// How many frames were sent unasked.
    pub fn sent(&self, family: &'static str) -> u64 {
        self.unasked(family, "sent")
    }

    /// How many could not be sent.
    pub fn unsent(&self, family: &'static str) -> u64 {
        self.unasked(family, "failed")
    }

    fn unasked(&self, family: &'static str, result: &'static str) -> u64 {
        let labels = WireLabels { family, result };
        self.metrics.l2_announcements.get_or_create(&labels).get()
    }

    /// How many frames showed a conflict that was dealt with in this way.
    pub fn conflicts(&self, family: &'static str, result: &'static str) -> u64 {
        let labels = WireLabels { family, result };
        self.metrics.l2_conflicts.get_or_create(&labels).get()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Announces these addresses, with their claims, on the interface of this name and MAC address.
pub fn on_interface<A: Copy + Into<IpAddr>>(
    wire: &Wire,
    name: &str,
    mac: &str,
    addresses: &[(A, i64)],
) -> BTreeMap<String, Wanted> {
    let entry = |claim| Entry {
        claim,
        yielding: false,
        policy: ConflictPolicy::Defend,
    };
    let wanted = Wanted {
        index: wire.index(name),
        mac: mac.parse().expect("a MAC address"),
        table: Table {
            addresses: addresses
                .iter()
                .map(|(address, claim)| ((*address).into(), entry(*claim)))
                .collect(),
            speakers: BTreeSet::new(),
        },
    };
    BTreeMap::from([(name.to_owned(), wanted)])
}

/// Announces these addresses, with their claims, on a cable.
pub fn wanted<A: Copy + Into<IpAddr>>(
    wire: &Wire,
    cable: usize,
    addresses: &[(A, i64)],
) -> BTreeMap<String, Wanted> {
    on_interface(wire, &format!("eth{cable}"), MACS[cable], addresses)
}

/// All frames of this family that the peer's interface gets within this time.
pub fn listen(
    wire: &Wire,
    device: &str,
    family: Family,
    time: Duration,
) -> JoinHandle<Vec<(Duration, Vec<u8>)>> {
    let index = wire.peer_index(device);
    let (ready, listening) = mpsc::channel();
    let thread = wire.on_peer(async move || {
        let socket = WireSocket::open(index, family).expect("a socket");
        ready.send(()).expect("somebody waits");
        let start = Instant::now();
        let mut frames = vec![];
        let mut buffer = [0; 2000];
        while let Ok(length) =
            tokio::time::timeout_at((start + time).into(), socket.receive(&mut buffer)).await
        {
            frames.push((start.elapsed(), buffer[..length.expect("a frame")].to_vec()));
        }
        frames
    });
    listening.recv().expect("the peer listens");
    thread
}

/// Sends frames out of the peer's `eth0`.
pub fn send(wire: &Wire, frames: Vec<Vec<u8>>) {
    let index = wire.peer_index("eth0");
    let sending = wire.on_peer(async move || {
        let socket = WireSocket::open(index, Family::V4).expect("a socket");
        for frame in frames {
            socket.send(&frame).expect("sent");
        }
    });
    sending.join().expect("sent");
}

/// A MAC address.
pub fn mac(text: &str) -> Mac {
    text.parse().expect("a MAC address")
}
