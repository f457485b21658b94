//! The daemon in the speaker's namespace with the speaker's code that drives it, and real routers in the peer's.
#![allow(dead_code, reason = "each of the tests' crates uses a part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::announce::bgp::{Attributes, Wanted};
use fairlead_core::config::{Peer, PeerEndpoint, RemoteAsn};
use fairlead_speaker::bgp::{self, Input, Observed, OwnAddresses, Session, Settings, State};
use tempfile::TempDir;
use tokio::sync::watch;

use super::netns::Wire;

/// What a test waits for at the most.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something, and prints what it saw last if it does not in time.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: last seen {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(mut command: Command, log: &Path) -> Running {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .expect("a log");
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a log"))
        .stderr(file);
    Running(command.spawn().expect("the program starts"))
}

fn gobgpd() -> String {
    if let Ok(path) = std::env::var("FAIRLEAD_GOBGPD") {
        return path;
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gobgpd/gobgpd");
    if built.exists() {
        return built.to_string_lossy().into_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("gobgpd"))
        .find(|file| file.exists());
    let found = found.expect("no gobgpd: build it with `make gobgpd`, or say where it is in FAIRLEAD_GOBGPD");
    found.to_string_lossy().into_owned()
}

/// The BGP daemon of the node.
pub struct Gobgpd {
    running: Option<Running>,
    dir: TempDir,
}

impl Gobgpd {
    pub fn start(wire: &Wire) -> Self {
        let mut daemon = Self {
            running: None,
            dir: tempfile::tempdir().expect("a directory"),
        };
        daemon.again(wire);
        daemon
    }

    /// Starts it after it was killed.
    pub fn again(&mut self, wire: &Wire) {
        // It does not take a socket's place that a daemon before it has left.
        let _ = std::fs::remove_file(self.socket());
        let mut command = wire.speaker_program(&gobgpd());
        command.args([
            "--api-hosts",
            &format!("unix://{}", self.socket().display()),
            "--pprof-disable",
        ]);
        self.running = Some(spawn(command, &self.dir.path().join("log")));
    }

    /// As by SIGKILL: `ip netns exec` has become the daemon.
    pub fn kill(&mut self) {
        self.running = None;
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }
}

/// The speaker's BGP task, in a thread in the speaker's namespace.
pub struct Engine {
    pub input: Option<watch::Sender<Option<Input>>>,
    pub observed: watch::Receiver<Observed>,
    wanted: Input,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    pub fn start(wire: &Wire, daemon: &Gobgpd) -> Self {
        let (input, receiver) = watch::channel(None);
        let settings = Settings {
            socket: daemon.socket(),
            router_id: Ipv4Addr::new(192, 0, 2, 1),
        };
        let (started, starting) = std::sync::mpsc::channel();
        let mut ends = receiver.clone();
        let thread = wire.on_speaker(async move || {
            started
                .send(bgp::start(settings, receiver))
                .expect("the test waits");
            while ends.changed().await.is_ok() {}
        });
        let addresses = OwnAddresses {
            v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            v6: Some("2001:db8::1".parse().expect("an address")),
        };
        Self {
            input: Some(input),
            observed: starting.recv().expect("it starts"),
            wanted: Input {
                addresses,
                ..Input::default()
            },
            thread: Some(thread),
        }
    }

    /// Changes what is wanted.
    pub fn change(&mut self, change: impl FnOnce(&mut Input, &mut Wanted)) {
        let mut wanted = Wanted::clone(&self.wanted.wanted);
        change(&mut self.wanted, &mut wanted);
        self.wanted.wanted = Arc::new(wanted);
        let input = self.input.as_ref().expect("running");
        input.send(Some(self.wanted.clone())).expect("the task runs");
    }

    pub fn session(&self, name: &str) -> Session {
        self.observed
            .borrow()
            .sessions
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    pub fn wait(&self, what: &str, see: impl Fn(&Observed) -> bool) {
        eventually(what, || {
            let observed = self.observed.borrow();
            if see(&observed) {
                Ok(())
            } else {
                Err(format!("{observed:#?}"))
            }
        });
    }

    pub fn established(&self, names: &[&str]) {
        self.wait("sessions are up", |observed| {
            let up = |name: &&str| {
                observed
                    .sessions
                    .get(*name)
                    .is_some_and(|seen| seen.state == State::Established)
            };
            names.iter().all(up)
        });
    }

    /// How often the session came up.
    pub fn times_up(&self, name: &str) -> u64 {
        self.session(name)
            .transitions
            .get(&State::Established)
            .copied()
            .unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Some(Err(panic)) = self.thread.take().map(std::thread::JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A peer at this address with everything at its default.
pub fn peer(name: &str, my_asn: u32, remote_asn: RemoteAsn, address: &str) -> Peer {
    let endpoint = match address.parse::<IpAddr>() {
        Ok(address) => PeerEndpoint::Address(address),
        Err(_) => PeerEndpoint::Interface(address.to_owned()),
    };
    Peer {
        my_asn,
        remote_asn,
        connect_retry_time: Duration::from_secs(2),
        ..fairlead_core::testing::bgp_peer(name, endpoint)
    }
}

/// Adds a session.
pub fn add(wanted: &mut Wanted, peer: Peer) {
    wanted.sessions.insert(peer.name.clone(), peer);
}

/// Adds or changes a route: which peers get it, with what.
pub fn route(wanted: &mut Wanted, prefix: &str, treatment: &[(&str, &Attributes)]) {
    let treatment: BTreeMap<String, Attributes> = treatment
        .iter()
        .map(|(name, attributes)| ((*name).to_owned(), (*attributes).clone()))
        .collect();
    wanted
        .routes
        .insert(prefix.parse().expect("a prefix"), treatment.into());
}

/// FRR's zebra and bgpd.
pub struct Frr {
    running: Vec<Running>,
    dir: TempDir,
    wire_peer: Box<dyn Fn(&str) -> Command>,
}

impl Frr {
    /// Starts it with what stands below `router bgp` and what stands beside it.
    pub fn start(wire: &Wire, asn: u32, bgp: &str, interfaces: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(
            at("zebra.conf"),
            format!("log file {}\n{interfaces}\n", at("zebra.log")),
        )
        .expect("written");
        let config = format!(
            "frr defaults traditional\nlog file {}\nrouter bgp {asn}\n bgp router-id 192.0.2.2\n \
             no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n bgp graceful-restart restart-time 60\n{bgp}\n",
            at("bgpd.log")
        );
        std::fs::write(at("bgpd.conf"), config).expect("written");
        let mut running = vec![];
        for program in ["zebra", "bgpd", "bfdd"] {
            let _ = std::fs::write(at("bfdd.conf"), "");
            let mut command = wire.peer_program(&format!("/usr/lib/frr/{program}"));
            command.args([
                "-u",
                "root",
                "-g",
                "frrvty",
                "-f",
                &at(&format!("{program}.conf")),
            ]);
            command.args(["-i", &at(&format!("{program}.pid")), "-z", &at("zserv.api")]);
            command.args(["--vty_socket", &dir.path().to_string_lossy()]);
            if program == "bfdd" {
                command.args(["--bfdctl", &at("bfdd.sock")]);
            }
            running.push(spawn(command, &dir.path().join(format!("{program}.out"))));
            eventually("FRR's daemon listens", || {
                if dir.path().join(format!("{program}.vty")).exists() {
                    Ok(())
                } else {
                    Err(std::fs::read_to_string(at(&format!("{program}.out"))).unwrap_or_default())
                }
            });
        }
        let peer = wire.peer_program("vtysh");
        let arguments: Vec<_> = peer.get_args().map(std::ffi::OsStr::to_owned).collect();
        let socket = dir.path().to_owned();
        let wire_peer = Box::new(move |command: &str| {
            let mut vtysh = Command::new("ip");
            vtysh
                .args(&arguments)
                .arg("--vty_socket")
                .arg(&socket)
                .args(["-c", command]);
            vtysh
        });
        Self {
            running,
            dir,
            wire_peer,
        }
    }

    /// What it answers.
    pub fn ask(&self, command: &str) -> String {
        let output = (self.wire_peer)(command).output().expect("vtysh runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Changes its configuration.
    pub fn configure(&self, asn: u32, line: &str) {
        let mut command = (self.wire_peer)("configure terminal");
        command.args(["-c", &format!("router bgp {asn}"), "-c", line]);
        let output = command.output().expect("vtysh runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// What it says of a route, or null.
    pub fn route(&self, prefix: &str) -> serde_json::Value {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let text = self.ask(&format!("show bgp {family} unicast {prefix} json"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        value["paths"][0].clone()
    }

    /// How many prefixes it has.
    pub fn count(&self, family: &str) -> usize {
        let text = self.ask(&format!("show bgp {family} unicast json"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        value["routes"].as_object().map_or(0, serde_json::Map::len)
    }

    /// Waits for a route, and returns it.
    pub fn expect(&self, prefix: &str) -> serde_json::Value {
        eventually(prefix, || match self.route(prefix) {
            serde_json::Value::Null => Err(self.ask("show bgp summary")),
            route => Ok(route),
        })
    }

    /// Waits until it has the route no more.
    pub fn expect_gone(&self, prefix: &str) {
        eventually(&format!("{prefix} is gone"), || match self.route(prefix) {
            serde_json::Value::Null => Ok(()),
            route => Err(route.to_string()),
        });
    }
}

/// BIRD.
pub struct Bird {
    running: Running,
    dir: TempDir,
}

impl Bird {
    /// Starts it with these protocols.
    pub fn start(wire: &Wire, protocols: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let config = format!(
            "router id 198.51.100.2;\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n{protocols}\n"
        );
        std::fs::write(at("bird.conf"), config).expect("written");
        let mut command = wire.peer_program("bird");
        command.args([
            "-f",
            "-c",
            &at("bird.conf"),
            "-s",
            &at("bird.ctl"),
            "-P",
            &at("bird.pid"),
        ]);
        let running = spawn(command, &dir.path().join("log"));
        let bird = Self { running, dir };
        eventually("BIRD is up", || {
            let text = bird.ask("show status");
            if text.contains("Daemon is up") {
                Ok(())
            } else {
                Err(std::fs::read_to_string(bird.dir.path().join("log")).unwrap_or_default() + &text)
            }
        });
        bird
    }

    /// What it answers.
    pub fn ask(&self, command: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.dir.path().join("bird.ctl"))
            .args(command.split(' '))
            .output()
            .expect("birdc runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until what it says of a route has all this in it.
    pub fn expect(&self, prefix: &str, words: &[&str]) -> String {
        eventually(prefix, || {
            let text = self.ask(&format!("show route {prefix} all"));
            if words.iter().all(|word| text.contains(word)) {
                Ok(text)
            } else {
                Err(text)
            }
        })
    }

    /// Waits until it has the route no more.
    pub fn expect_gone(&self, prefix: &str) {
        eventually(&format!("{prefix} is gone"), || {
            let text = self.ask(&format!("show route {prefix} all"));
            if text.contains("BGP.") { Err(text) } else { Ok(()) }
        });
    }
}

/// An address that is announced.
pub const VIP: &str = "203.0.113.1/32";
/// Another.
pub const VIP6: &str = "2001:db8:ffff::1/128";

/// Both families of a neighbour in FRR's configuration.
pub fn activate(neighbour: &str) -> String {
    let family = |name: &str| {
        format!(" address-family {name} unicast\n  neighbor {neighbour} activate\n exit-address-family\n")
    };
    family("ipv4") + &family("ipv6")
}

/// Nothing but the route.
pub fn plain() -> Attributes {
    Attributes::default()
}
