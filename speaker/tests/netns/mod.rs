//! Two network namespaces joined by two cables: the speaker's code runs in one, the kernel's and `arping`'s in the
//! other. Names are unique to the process and the test, and everything goes when the value is dropped.
#![allow(dead_code, reason = "each of the tests' crates uses a part")]

pub mod speaker;

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// MAC addresses of the speaker's two interfaces, `eth0` and `eth1`.
pub const MACS: [&str; 2] = ["02:00:00:00:01:00", "02:00:00:00:01:01"];

/// MAC addresses of the peer's two interfaces.
pub const PEER_MACS: [&str; 2] = ["02:00:00:00:02:00", "02:00:00:00:02:01"];

/// The two namespaces. Interfaces are called `eth0` and `eth1` in both; cable 0 is 192.0.2.0/24 and 2001:db8::/64 (.1
/// and .2), cable 1 is 198.51.100.0/24 and 2001:db8:1::/64. The kernels trust that their own IPv6 addresses are unique.
pub struct Wire {
    speaker: String,
    peer: String,
}

impl Wire {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = |side: &str| format!("flspk-{}-{number}-{side}", std::process::id());
        let wire = Self {
            speaker: name("a"),
            peer: name("b"),
        };
        run("ip", &["netns", "add", &wire.speaker]);
        run("ip", &["netns", "add", &wire.peer]);
        for namespace in [&wire.speaker, &wire.peer] {
            sysctl(namespace, "net.ipv6.conf.default.accept_dad=0");
        }
        wire.cable(0);
        wire.cable(1);
        wire
    }

    fn cable(&self, cable: usize) {
        let device = format!("eth{cable}");
        let net = ["192.0.2", "198.51.100"][cable];
        let mac = MACS[cable];
        run(
            "ip",
            &[
                "link",
                "add",
                &device,
                "netns",
                &self.speaker,
                "address",
                mac,
                "type",
                "veth",
                "peer",
                &device,
                "netns",
                &self.peer,
                "address",
                PEER_MACS[cable],
            ],
        );
        let net6 = ["2001:db8:", "2001:db8:1:"][cable];
        for (namespace, last) in [(&self.speaker, 1), (&self.peer, 2)] {
            ip(namespace, &format!("addr add {net}.{last}/24 dev {device}"));
            ip(namespace, &format!("addr add {net6}:{last}/64 dev {device}"));
            ip(namespace, &format!("link set {device} up"));
        }
    }

    /// Takes the first cable away, if it is there, and makes it anew: same names and addresses, other interfaces.
    pub fn remake_first_cable(&self) {
        let _ = Command::new("ip")
            .args(["-n", &self.speaker, "link", "del", "eth0"])
            .output();
        self.cable(0);
    }

    /// Runs `ip` in the speaker's namespace.
    pub fn speaker_ip(&self, arguments: &str) -> String {
        ip(&self.speaker, arguments)
    }

    /// Runs `tc` in the speaker's namespace.
    pub fn speaker_tc(&self, arguments: &str) {
        let mut all = vec!["-n", self.speaker.as_str()];
        all.extend(arguments.split(' '));
        run("tc", &all);
    }

    /// Runs `ip` in the peer's namespace.
    pub fn peer_ip(&self, arguments: &str) -> String {
        ip(&self.peer, arguments)
    }

    /// Sets a kernel parameter in the speaker's namespace.
    pub fn speaker_sysctl(&self, setting: &str) {
        sysctl(&self.speaker, setting);
    }

    /// Sets a kernel parameter in the peer's namespace.
    pub fn peer_sysctl(&self, setting: &str) {
        sysctl(&self.peer, setting);
    }

    /// A program that is to run in the speaker's namespace.
    pub fn speaker_program(&self, program: &str) -> Command {
        within(&self.speaker, program)
    }

    /// A program that is to run in the peer's namespace.
    pub fn peer_program(&self, program: &str) -> Command {
        within(&self.peer, program)
    }

    /// Runs a command in the peer's namespace.
    pub fn peer(&self, command: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.peer])
            .args(command.split(' '))
            .output()
            .expect("ip runs")
    }

    /// Number of answers to an `arping` by the peer with these arguments, and the MAC addresses they came from.
    pub fn arping(&self, arguments: &str) -> (usize, Vec<String>) {
        let output = self.peer(&format!("arping {arguments}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut macs: Vec<String> = text
            .lines()
            .filter_map(|line| {
                Some(
                    line.split_once(" reply from ")?
                        .1
                        .split_once('[')?
                        .1
                        .split_once(']')?
                        .0
                        .to_lowercase(),
                )
            })
            .collect();
        let count = macs.len();
        macs.dedup();
        (count, macs)
    }

    /// Number of the speaker's interface.
    pub fn index(&self, device: &str) -> u32 {
        number_of(&self.speaker, device)
    }

    /// Number of the peer's interface.
    pub fn peer_index(&self, device: &str) -> u32 {
        number_of(&self.peer, device)
    }

    /// Runs a future to its end on a thread of its own in the speaker's namespace, spawned tasks and their sockets
    /// included.
    pub fn on_speaker<T: Send + 'static>(
        &self,
        future: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        on(&self.speaker, future)
    }

    /// The same in the peer's namespace.
    pub fn on_peer<T: Send + 'static>(
        &self,
        future: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        on(&self.peer, future)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.speaker, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

fn within(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

fn on<T: Send + 'static>(namespace: &str, future: impl AsyncFnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let path = format!("/run/netns/{namespace}");
    std::thread::spawn(move || {
        let file = File::open(path).expect("the namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("setns");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(future())
    })
}

fn number_of(namespace: &str, device: &str) -> u32 {
    let text = ip(namespace, &format!("-o link show {device}"));
    text.split(':')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn sysctl(namespace: &str, setting: &str) {
    run("ip", &["netns", "exec", namespace, "sysctl", "-q", "-w", setting]);
}

fn ip(namespace: &str, arguments: &str) -> String {
    let mut all = vec!["-n", namespace];
    all.extend(arguments.split(' '));
    run("ip", &all)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program runs");
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `look` finds something, and prints what it saw last if it does not in time.
pub fn eventually<T, S: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: last seen {seen:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
