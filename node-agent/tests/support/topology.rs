//! A small network of namespaces, and clients and servers in it.
//!
//! ```text
//! client 198.51.100.2,3 ── node1 172.30.0.11 ── node2 172.30.0.12 (node1's default gateway)
//!                           ├ pod1a 10.0.1.2          └ pod2 10.0.2.2
//!                           └ pod1b 10.0.1.3
//! ```
//! The client's default gateway is node1, as if a router sent it everything for the VIPs.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub const NODE1: &str = "172.30.0.11";
pub const CLIENT: &str = "198.51.100.2";
/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence must last to count as silence: two SYN retransmissions.
pub const SILENCE: Duration = Duration::from_millis(3500);

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub struct Topology {
    prefix: String,
    servers: Vec<Server>,
}

struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Topology {
    pub fn new() -> Self {
        let prefix = format!(
            "fl{}-{}-",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        let topology = Self {
            prefix,
            servers: Vec::new(),
        };
        for name in ["client", "node1", "node2", "pod1a", "pod1b", "pod2"] {
            let name = topology.ns(name);
            run(&["ip", "netns", "add", &name]);
            run(&["ip", "-n", &name, "link", "set", "lo", "up"]);
        }
        topology.cable("client", "node1", "c0", "eth0");
        topology.cable("node2", "node1", "n0", "eth0");
        topology.address("client", "eth0", "198.51.100.2/24");
        topology.address("client", "eth0", "198.51.100.3/24");
        topology.address("node1", "c0", "198.51.100.1/24");
        topology.address("node1", "n0", "172.30.0.11/24");
        topology.address("node2", "eth0", "172.30.0.12/24");
        topology.route("client", &["default", "via", "198.51.100.1"]);
        topology.pod("node1", "pod1a", "10.0.1.1", "10.0.1.2");
        topology.pod("node1", "pod1b", "10.0.1.1", "10.0.1.3");
        topology.pod("node2", "pod2", "10.0.2.1", "10.0.2.2");
        topology.route("node1", &["default", "via", "172.30.0.12"]);
        topology.route("node1", &["10.0.2.0/24", "via", "172.30.0.12"]);
        topology.route("node2", &["10.0.1.0/24", "via", "172.30.0.11"]);
        topology.route("node2", &["198.51.100.0/24", "via", "172.30.0.11"]);
        for node in ["node1", "node2"] {
            topology.within(node, || {
                for (setting, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0")] {
                    std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
                }
            });
        }
        topology
    }

    pub fn ns(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A veth pair; both ends are made inside their namespaces.
    fn cable(&self, far: &str, near: &str, near_device: &str, far_device: &str) {
        let (far, near) = (self.ns(far), self.ns(near));
        run(&[
            "ip",
            "-n",
            &near,
            "link",
            "add",
            near_device,
            "type",
            "veth",
            "peer",
            "name",
            far_device,
            "netns",
            &far,
        ]);
        run(&["ip", "-n", &near, "link", "set", near_device, "up"]);
        run(&["ip", "-n", &far, "link", "set", far_device, "up"]);
    }

    fn address(&self, name: &str, device: &str, address: &str) {
        run(&[
            "ip",
            "-n",
            &self.ns(name),
            "address",
            "add",
            address,
            "dev",
            device,
        ]);
    }

    fn route(&self, name: &str, route: &[&str]) {
        let name = self.ns(name);
        run(&[&["ip", "-n", &name, "route", "add"], route].concat());
    }

    /// A pod as the CNI plugin `ptp` makes it.
    fn pod(&self, node: &str, pod: &str, gateway: &str, address: &str) {
        self.cable(pod, node, pod, "eth0");
        self.address(node, pod, &format!("{gateway}/32"));
        self.route(node, &[&format!("{address}/32"), "dev", pod]);
        self.address(pod, "eth0", &format!("{address}/32"));
        self.route(pod, &[gateway, "dev", "eth0", "scope", "link"]);
        self.route(pod, &["default", "via", gateway]);
    }

    /// Gives the client, node1 and its pod1a IPv6 addresses, and routes as they have for IPv4.
    pub fn dual_stack(&self) {
        let ip6 = |name: &str, arguments: &[&str]| {
            run(&[&["ip", "-6", "-n", &self.ns(name)], arguments].concat());
        };
        // Duplicate address detection would keep the addresses back for a second.
        for (name, address, device) in [
            ("client", "fd00:c::2/64", "eth0"),
            ("node1", "fd00:c::1/64", "c0"),
            ("node1", "fd00:30::11/64", "n0"),
            ("node1", "fd00:1::1/128", "pod1a"),
            ("pod1a", "fd00:1::2/128", "eth0"),
        ] {
            ip6(name, &["address", "add", address, "dev", device, "nodad"]);
        }
        ip6("client", &["route", "add", "default", "via", "fd00:c::1"]);
        ip6("node1", &["route", "add", "default", "via", "fd00:30::12"]);
        ip6("node1", &["route", "add", "fd00:1::2/128", "dev", "pod1a"]);
        ip6("pod1a", &["route", "add", "fd00:1::1", "dev", "eth0"]);
        ip6("pod1a", &["route", "add", "default", "via", "fd00:1::1"]);
        self.within("node1", || {
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
    }

    /// Gives everybody IPv6 addresses, and node2 and its pod routes to all VIPs. node1 refuses as often as it is asked.
    pub fn all_around(&self) {
        self.dual_stack();
        let ip6 = |name: &str, arguments: &[&str]| {
            run(&[&["ip", "-6", "-n", &self.ns(name)], arguments].concat());
        };
        for (name, address, device) in [
            ("node1", "fd00:1::1/128", "pod1b"),
            ("pod1b", "fd00:1::3/128", "eth0"),
            ("node2", "fd00:30::12/64", "eth0"),
            ("node2", "fd00:2::1/128", "pod2"),
            ("pod2", "fd00:2::2/128", "eth0"),
        ] {
            ip6(name, &["address", "add", address, "dev", device, "nodad"]);
        }
        for (name, route) in [
            ("node1", &["fd00:1::3/128", "dev", "pod1b"][..]),
            ("node1", &["fd00:2::/64", "via", "fd00:30::12"]),
            ("pod1b", &["fd00:1::1", "dev", "eth0"]),
            ("pod1b", &["default", "via", "fd00:1::1"]),
            ("node2", &["fd00:2::2/128", "dev", "pod2"]),
            ("pod2", &["fd00:2::1", "dev", "eth0"]),
            ("pod2", &["default", "via", "fd00:2::1"]),
        ] {
            ip6(name, &[&["route", "add"], route].concat());
        }
        for destination in ["fd00:1::/64", "fd00:c::/64", "2001:db8::/64"] {
            ip6("node2", &["route", "add", destination, "via", "fd00:30::11"]);
        }
        self.route("node2", &["192.0.2.0/24", "via", NODE1]);
        self.within("node2", || {
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        // Types of messages whose number is limited: all but "unreachable".
        self.within("node1", || {
            for (path, types) in [("ipv4/icmp_ratemask", "0"), ("ipv6/icmp/ratemask", "3-127")] {
                std::fs::write(format!("/proc/sys/net/{path}"), types).unwrap();
            }
        });
    }

    /// Runs `f` on a thread of its own inside a namespace.
    pub fn within<R: Send>(&self, name: &str, f: impl FnOnce() -> R + Send) -> R {
        within(&format!("/run/netns/{}", self.ns(name)), f)
    }

    /// Runs a program inside a namespace.
    pub fn exec(&self, name: &str, arguments: &[&str]) -> Output {
        self.within(name, || {
            Command::new(arguments[0])
                .args(&arguments[1..])
                .stdin(Stdio::null())
                .output()
                .unwrap()
        })
    }

    /// Feeds text to nft on node1; what nft printed, or its complaint.
    pub fn nft(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        self.within("node1", || {
            let mut child = Command::new("nft")
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                Ok(String::from_utf8(output.stdout).unwrap())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        })
    }

    /// A TCP server on 8080 that greets with its name and the client's address and echoes what follows, and a UDP
    /// server on 8080 that answers each datagram with the same greeting.
    pub fn serve(&mut self, pod: &str) {
        let stop = Arc::new(AtomicBool::new(false));
        let path = format!("/run/netns/{}", self.ns(pod));
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (stop, name) = (Arc::clone(&stop), pod.to_owned());
            move || {
                enter(&path);
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)); // IPv4 too
                let (tcp, udp) = (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
                tcp.set_nonblocking(true).unwrap();
                udp.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                ready.send(()).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    while let Ok((stream, peer)) = tcp.accept() {
                        let greeting = format!("{name} {}\n", peer.ip().to_canonical());
                        std::thread::spawn(move || echo(stream, &greeting));
                    }
                    if let Ok((_, peer)) = udp.recv_from(&mut [0; 64]) {
                        let _ =
                            udp.send_to(format!("{name} {}\n", peer.ip().to_canonical()).as_bytes(), peer);
                    }
                }
            }
        });
        wait.recv_timeout(PATIENCE).unwrap();
        self.servers.push(Server {
            stop,
            thread: Some(thread),
        });
    }

    /// Opens a TCP connection from a namespace and reads the greeting: `pod address`, or `refused`, `silence`.
    pub fn ask(&self, from: &str, to: &str) -> String {
        match self.connect(from, to) {
            Ok((_, greeting)) => greeting,
            Err(outcome) => outcome,
        }
    }

    /// The same, keeping the connection.
    pub fn connect(&self, from: &str, to: &str) -> Result<(TcpStream, String), String> {
        let to: SocketAddr = to.parse().unwrap();
        self.within(from, || {
            let mut stream = TcpStream::connect_timeout(&to, SILENCE).map_err(|error| outcome(&error))?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let greeting = line(&mut stream).map_err(|error| outcome(&error))?;
            Ok((stream, greeting))
        })
    }

    /// Like [`Self::ask`] from one of the client's two addresses.
    pub fn ask_from(&self, source: &str, to: &str) -> String {
        // Rust's TcpStream cannot bind; the BSD netcat can.
        let (address, port) = to.split_once(':').unwrap();
        let output = self.exec("client", &["nc", "-w", "3", "-s", source, address, port]);
        match String::from_utf8(output.stdout).unwrap().lines().next() {
            Some(greeting) => greeting.to_owned(),
            None => "silence".to_owned(),
        }
    }

    /// Sends a datagram and waits for the answer: as with [`Self::ask`].
    pub fn ask_udp(&self, from: &str, to: &str) -> String {
        self.within(from, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            let mut buffer = [0; 128];
            match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
                Ok(length) => String::from_utf8_lossy(&buffer[..length]).trim().to_owned(),
                Err(error) => outcome(&error),
            }
        })
    }

    /// Does one ping get its answer?
    pub fn ping(&self, from: &str, to: &str) -> bool {
        self.exec(from, &["ping", "-c", "1", "-W", "2", to])
            .status
            .success()
    }

    /// Starts to watch the packets of a namespace.
    pub fn sniff(&self, name: &str) -> Sniffer {
        let path = format!("/run/netns/{}", self.ns(name));
        Sniffer::start(&path)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for server in &self.servers {
            server.stop.store(true, Ordering::Relaxed);
        }
        for server in &mut self.servers {
            if let Some(thread) = server.thread.take() {
                let _ = thread.join();
            }
        }
        for name in ["client", "node1", "node2", "pod1a", "pod1b", "pod2"] {
            let _ = Command::new("ip")
                .args(["netns", "delete", &self.ns(name)])
                .output();
        }
    }
}

/// A network namespace by itself.
pub struct Namespace(String);

impl Namespace {
    pub fn new(name: &str) -> Self {
        let name = format!("f{}{name}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        run(&["ip", "-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }

    /// Runs `f` on a thread of its own inside.
    pub fn within<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        within(&format!("/run/netns/{}", self.0), f)
    }

    /// Runs a program inside.
    pub fn exec(&self, arguments: &[&str]) {
        run(&[&["ip", "netns", "exec", &self.0], arguments].concat());
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        run(&[&["ip", "-n", &self.0], arguments].concat());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    /// A TCP reset.
    pub reset: bool,
}

/// Collects the IPv4 packets of a namespace, in both directions.
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    packets: Arc<Mutex<Vec<Packet>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    fn start(path: &str) -> Self {
        let (stop, packets) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (path, stop, packets) = (path.to_owned(), Arc::clone(&stop), Arc::clone(&packets));
            move || {
                enter(&path);
                let socket = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::empty(),
                    SockProtocol::EthAll,
                )
                .unwrap();
                setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20)).unwrap();
                ready.send(()).unwrap();
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = recv(
                        socket.as_raw_fd(),
                        &mut buffer,
                        nix::sys::socket::MsgFlags::empty(),
                    ) else {
                        continue;
                    };
                    packets.lock().unwrap().extend(parse(&buffer[..length]));
                }
            }
        });
        wait.recv_timeout(PATIENCE).unwrap();
        Self {
            stop,
            packets,
            thread: Some(thread),
        }
    }

    /// Waits until a packet that fits has been seen; panics with all that was seen.
    #[track_caller]
    pub fn expect(&self, what: &str, fits: impl Fn(&Packet) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen();
            if seen.iter().any(&fits) {
                return;
            }
            assert!(Instant::now() < end, "no packet that is {what} among {seen:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn seen(&self) -> Vec<Packet> {
        self.packets.lock().unwrap().clone()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn parse(frame: &[u8]) -> Option<Packet> {
    let packet = frame.get(14..)?;
    if frame[12..14] != [0x08, 0x00] || packet.len() < 20 {
        return None;
    }
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let transport = packet.get(usize::from(packet[0] & 15) * 4..)?;
    let tcp = packet[9] == 6;
    Some(Packet {
        source: address(12),
        destination: address(16),
        protocol: packet[9],
        source_port: transport.get(..2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]])),
        reset: tcp && transport.get(13).is_some_and(|flags| flags & 4 != 0),
    })
}

/// Reads a line.
pub fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while byte[0] != b'\n' {
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The outcome of a failed attempt in one word.
pub fn outcome(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused".into(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "silence".into(),
        std::io::ErrorKind::ConnectionReset => "reset".into(),
        std::io::ErrorKind::PermissionDenied => "forbidden".into(),
        _ => error.to_string(),
    }
}

fn echo(mut stream: TcpStream, greeting: &str) {
    let mut buffer = [0; 1024];
    let _ = stream.set_nonblocking(false);
    let _ = stream.write_all(greeting.as_bytes());
    // A client that has gone without a word must not keep the thread for ever.
    let _ = stream.set_read_timeout(Some(PATIENCE * 3));
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

fn within<R: Send>(path: &str, f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(path);
                f()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter(path: &str) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
}

#[track_caller]
fn run(arguments: &[&str]) {
    let output = Command::new(arguments[0]).args(&arguments[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
