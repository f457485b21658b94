//! The thread that gossips. It has a thread of its own, with a real-time priority where that is allowed, since a speaker
//! that answers late is taken for dead.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_core::model::NodeName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use super::detector;
use super::node::{Node, View};
use super::seal::{Key as GossipKey, NoRandomness, SealError, Sessions, system_random};
use super::wire::Key;
use crate::metrics::{GossipLabels, Metrics, ResultLabels};

/// The largest datagram that is read.
const DATAGRAM: usize = 2048;
/// Datagrams taken in before anything else is looked at.
const BATCH: usize = 512;
/// Room for bursts of records in the kernel.
const BUFFER: usize = 1 << 20;

/// How this speaker gossips.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub me: NodeName,
    /// UDP port, the same on all nodes.
    pub port: u16,
    /// Start number of this process, larger than that of any before it on this node.
    pub start: i64,
    /// Highest version of the protocol that is spoken.
    pub protocol: u8,
    /// Times of failure detection.
    pub detector: detector::Settings,
}

/// Addresses of the nodes of the cluster, this one included.
pub type Peers = BTreeMap<NodeName, IpAddr>;
/// What this speaker's record says.
pub type Contents = BTreeMap<Key, Vec<u8>>;

/// What the thread follows.
#[derive(Debug)]
pub struct Inputs {
    /// The nodes.
    pub peers: watch::Receiver<Peers>,
    /// This node's record.
    pub contents: watch::Receiver<Contents>,
    /// The keys, newest first. Without one nothing is sent and nothing understood.
    pub keys: watch::Receiver<Vec<GossipKey>>,
}

/// Why the gossip cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The socket could not be made.
    #[error("cannot listen on UDP port {port} for the gossip between speakers")]
    Bind {
        /// The port.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread could not be made.
    #[error("cannot start the gossip thread")]
    Thread(#[source] io::Error),
    /// No random numbers.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The running thread. It ends when this is dropped.
pub struct Gossip {
    leave: watch::Sender<bool>,
    left: oneshot::Receiver<()>,
}

impl Gossip {
    /// Starts the thread. `view` gets what the gossip says, whenever that changes.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(
        settings: Settings,
        inputs: Inputs,
        view: watch::Sender<View>,
        metrics: Metrics,
    ) -> Result<Self, GossipError> {
        let socket = bind(settings.port).map_err(|source| GossipError::Bind {
            port: settings.port,
            source,
        })?;
        let sessions = Sessions::new(&settings.me, settings.protocol, system_random())?;
        let (leave, leaving) = watch::channel(false);
        let (gone, left) = oneshot::channel();
        let run = move || {
            prioritise();
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    warn!(%error, "cannot gossip");
                    return;
                }
            };
            runtime.block_on(async move {
                match UdpSocket::from_std(socket.into()) {
                    Ok(socket) => {
                        Task::new(settings, sessions, socket, metrics)
                            .run(inputs, leaving, view)
                            .await;
                    }
                    Err(error) => warn!(%error, "cannot gossip"),
                }
            });
            let _ = gone.send(());
        };
        std::thread::Builder::new()
            .name("gossip".into())
            .spawn(run)
            .map_err(GossipError::Thread)?;
        Ok(Self { leave, left })
    }

    /// Says farewell to all, and ends.
    pub async fn leave(self) {
        self.leave.send_replace(true);
        let _ = self.left.await;
    }
}

struct Task {
    sessions: Sessions,
    node: Node,
    socket: UdpSocket,
    /// The socket is of both families.
    both: bool,
    port: u16,
    peers: Peers,
    began: Instant,
    metrics: Metrics,
    version: u64,
    told: detector::Counts,
    malformed: u64,
}

impl Task {
    fn new(settings: Settings, sessions: Sessions, socket: UdpSocket, metrics: Metrics) -> Self {
        let seed = settings.start.cast_unsigned() ^ super::wire::name_hash(&settings.me);
        Self {
            sessions,
            node: Node::new(
                settings.me,
                settings.start,
                settings.detector,
                seed,
                Duration::ZERO,
            ),
            both: socket.local_addr().is_ok_and(|local| local.is_ipv6()),
            socket,
            port: settings.port,
            peers: Peers::new(),
            began: Instant::now(),
            metrics,
            version: 0,
            told: detector::Counts::default(),
            malformed: 0,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn run(mut self, inputs: Inputs, mut leaving: watch::Receiver<bool>, view: watch::Sender<View>) {
        let Inputs {
            mut peers,
            mut contents,
            mut keys,
        } = inputs;
        peers.mark_changed();
        contents.mark_changed();
        keys.mark_changed();
        let mut buffer = [0; DATAGRAM];
        loop {
            // What has arrived comes before what is due: an answer that waits in the socket is an answer in time.
            self.receive(&mut buffer);
            if keys.has_changed().unwrap_or(false) {
                let keys = keys.borrow_and_update().clone();
                self.sessions.set_keys(keys, self.now());
            }
            if peers.has_changed().unwrap_or(false) {
                self.peers = peers.borrow_and_update().clone();
                // No node at all means that nobody has said yet which there are.
                if !self.peers.is_empty() {
                    self.sessions.set_peers(self.peers.keys());
                    self.node.set_peers(self.peers.keys().cloned().collect());
                }
            }
            if contents.has_changed().unwrap_or(false) {
                let contents = contents.borrow_and_update().clone();
                self.node.publish(contents);
            }
            self.node.tick(self.now());
            if *leaving.borrow() {
                self.node.leave();
                self.send();
                return;
            }
            self.send();
            self.tell(&view);
            let next = self.began + self.node.next();
            tokio::select! {
                biased;
                readable = self.socket.readable() => if let Err(error) = readable { debug!(%error, "gossip socket") },
                changed = leaving.changed() => if changed.is_err() { return },
                // Whoever wanted gossip may end without a farewell.
                changed = contents.changed() => if changed.is_ok() { contents.mark_changed() } else { return },
                changed = peers.changed() => if changed.is_ok() { peers.mark_changed() } else { return },
                Ok(()) = keys.changed() => keys.mark_changed(),
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let (length, from) = match self.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // An ICMP error about something sent earlier: the peer's speaker is not there.
                    debug!(%error, "gossip socket");
                    continue;
                }
            };
            self.count("received", length);
            let now = self.now();
            let opened = self.sessions.open(&buffer[..length], now);
            if let Some(reason) = opened.refused {
                let reason = GossipLabels {
                    reason: reason.as_str(),
                };
                self.metrics.gossip_refused.get_or_create(&reason).inc();
            }
            if let Some(peer) = &opened.from {
                for message in &opened.messages {
                    self.node.receive(peer, message, now);
                }
            }
            if let Some(reply) = opened.reply {
                self.datagram(&reply, from);
            }
            if opened.verified || opened.answers {
                // What was said to it before was lost on it.
                self.node.hurry(now);
            }
        }
    }

    /// Seals and sends all that is to be said.
    fn send(&mut self) {
        let mut messages: BTreeMap<NodeName, Vec<Vec<u8>>> = BTreeMap::new();
        for (to, message) in self.node.take_output() {
            messages.entry(to).or_default().push(message);
        }
        let now = self.now();
        for (to, messages) in messages {
            let Some(address) = self.peers.get(&to) else {
                continue;
            };
            let address = SocketAddr::new(*address, self.port);
            let texts: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            match self.sessions.seal(&to, &texts, now) {
                Ok(datagrams) => datagrams
                    .iter()
                    .for_each(|datagram| self.datagram(datagram, address)),
                Err(SealError::NoKey) => {}
                Err(error) => debug!(%to, %error, "cannot gossip"),
            }
        }
    }

    fn datagram(&self, bytes: &[u8], to: SocketAddr) {
        // Never waits: what the interface has no room for is lost, as on the wire.
        match self.socket.try_send_to(bytes, self.mapped(to)) {
            Ok(_) => self.count("sent", bytes.len()),
            Err(error) => {
                debug!(%to, %error, "cannot send");
                self.count("failed", bytes.len());
            }
        }
    }

    /// For a socket of both families, an IPv4 address as it wants it.
    fn mapped(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(v4) if self.both => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            _ => to,
        }
    }

    fn count(&self, result: &'static str, bytes: usize) {
        self.metrics
            .gossip_datagrams
            .get_or_create(&ResultLabels { result })
            .inc();
        self.metrics
            .gossip_bytes
            .get_or_create(&ResultLabels { result })
            .inc_by(bytes as u64);
    }

    fn tell(&mut self, view: &watch::Sender<View>) {
        let counts = self.node.counts();
        self.metrics
            .gossip_suspicions
            .inc_by(counts.suspicions - self.told.suspicions);
        self.metrics
            .gossip_deaths
            .inc_by(counts.deaths - self.told.deaths);
        self.told = counts;
        let malformed = self.node.malformed();
        let label = GossipLabels { reason: "message" };
        self.metrics
            .gossip_refused
            .get_or_create(&label)
            .inc_by(malformed - self.malformed);
        self.malformed = malformed;
        self.metrics
            .gossip_lateness
            .set(self.node.lateness().as_secs_f64());
        let version = self.node.version();
        if version != self.version {
            self.version = version;
            view.send_replace(self.node.view());
        }
    }
}

/// A socket of both families, or of IPv4 alone where there is no IPv6.
fn bind(port: u16) -> io::Result<Socket> {
    let both = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    };
    let four = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    };
    let socket = match both() {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => four()?,
        other => other?,
    };
    socket.set_nonblocking(true)?;
    // As much as the system allows; a smaller buffer costs repetitions in bursts and nothing else.
    let _ = socket.set_recv_buffer_size(BUFFER);
    Ok(socket)
}

/// Real-time priority, the lowest there is: enough to come before everything that has none.
#[allow(unsafe_code, reason = "the standard library has no scheduling policies")]
fn prioritise() {
    // SAFETY: the parameter is a valid sched_param, which lives through the call; 0 is the calling thread.
    let result = unsafe {
        let parameter = libc::sched_param { sched_priority: 1 };
        libc::sched_setscheduler(
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameter,
        )
    };
    if result == 0 {
        info!("the gossip thread has real-time priority");
    } else {
        let error = io::Error::last_os_error();
        info!(%error, "the gossip thread has no real-time priority: on a starved machine this node may be taken for dead");
    }
}
