//! New TCP connections from the client through a node to the pods: how many a second, and how long each takes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::objects::TARGET_PORT;
use crate::error::{Doing, LabError, Result};
use crate::machine::Machine;
use crate::net::inside;
use crate::random::Random;

/// A connection that takes longer has failed. The first repetition of a SYN comes after a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a number of connections was like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Established.
    pub made: usize,
    /// Refused, reset or not established in time.
    pub failed: usize,
    /// Why those failed.
    pub failures: BTreeMap<String, usize>,
    /// Established per second.
    pub per_second: f64,
    /// From the first packet to the answer: half of them took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// None took longer.
    pub max_us: f64,
}

/// All pods: answers every connection to any of their addresses by that address.
pub struct Pods {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pods {
    /// Begins to answer.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub fn start(machine: &Machine) -> Result<Self> {
        let listener = inside(machine, || {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.set_reuse_address(true)?;
            let any: SocketAddr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, TARGET_PORT).into();
            listener.bind(&any.into())?;
            listener.listen(4096)?;
            // So that the threads look up from waiting.
            listener.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok::<_, std::io::Error>(Arc::new(listener))
        })?
        .doing("listen as all pods")?;
        let stop = Arc::<AtomicBool>::default();
        let serve = |_| {
            let (listener, stop) = (listener.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((mut stream, _)) = listener.accept()
                        && let Ok(own) = stream.local_addr()
                        && let Some(own) = own.as_socket_ipv4()
                    {
                        // The client may be gone already.
                        let _ = stream.write_all(&own.ip().octets());
                    }
                }
            })
        };
        Ok(Self {
            threads: (0..2).map(serve).collect(),
            stop,
        })
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connects once, and asks which pod it was.
///
/// # Errors
/// When the connection fails.
pub fn who_answers(
    client: &Machine,
    to: SocketAddrV4,
    times: usize,
) -> Result<Vec<std::io::Result<Ipv4Addr>>> {
    inside(client, || {
        let once = || {
            let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut octets = [0; 4];
            stream.read_exact(&mut octets)?;
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Ok(Ipv4Addr::from(octets))
        };
        (0..times).map(|_| once()).collect()
    })
}

/// How long each connection took, and why the others failed.
type Seen = (Vec<Duration>, BTreeMap<String, usize>);

/// Connections that are being made.
pub struct Generator {
    stop: Arc<AtomicBool>,
    begun: Instant,
    threads: Vec<JoinHandle<Result<Seen>>>,
}

impl Generator {
    /// So many threads, each with one connection after the other and a pause between them, to targets chosen at random.
    pub fn start(client: &Machine, targets: Arc<[SocketAddrV4]>, threads: usize, pause: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let path = format!("/proc/{}/ns/net", client.id().pid);
        let run = |number: usize| {
            let (stop, targets, path) = (stop.clone(), targets.clone(), path.clone());
            std::thread::spawn(move || {
                let namespace = std::fs::File::open(&path).doing(format!("open {path}"))?;
                setns(namespace, CloneFlags::CLONE_NEWNET).doing(format!("enter {path}"))?;
                let mut random = Random::from_seed(number as u64);
                let (mut took, mut failures) = (Vec::new(), BTreeMap::new());
                while !stop.load(Ordering::Relaxed) {
                    let target = targets[random.below(targets.len())];
                    match connect(target) {
                        Ok(time) => took.push(time),
                        Err(error) => *failures.entry(error.kind().to_string()).or_default() += 1,
                    }
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                    }
                }
                Ok((took, failures))
            })
        };
        Self {
            threads: (0..threads).map(run).collect(),
            stop,
            begun: Instant::now(),
        }
    }

    /// Ends them; what they were like.
    ///
    /// # Errors
    /// When the client's machine was gone.
    pub fn stop(self) -> Result<Connections> {
        self.stop.store(true, Ordering::Relaxed);
        let time = self.begun.elapsed();
        let (mut all, mut failures) = (Vec::new(), BTreeMap::<String, usize>::new());
        for thread in self.threads {
            let died = |_| LabError::Refused("a thread of the client died".to_owned());
            let (took, wrong) = thread.join().map_err(died)??;
            all.extend(took);
            for (why, count) in wrong {
                *failures.entry(why).or_default() += count;
            }
        }
        all.sort_unstable();
        let micros = |percent: usize| {
            let rank = (all.len() * percent).div_ceil(100).max(1) - 1;
            all.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Ok(Connections {
            made: all.len(),
            failed: failures.values().sum(),
            failures,
            per_second: all.len() as f64 / time.as_secs_f64(),
            p50_us: micros(50),
            p99_us: micros(99),
            max_us: micros(100),
        })
    }
}

/// Connects and resets at once, so that no side remembers the connection.
fn connect(to: SocketAddrV4) -> std::io::Result<Duration> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let begun = Instant::now();
    socket.connect_timeout(&SocketAddr::from(to).into(), PATIENCE)?;
    Ok(begun.elapsed())
}
