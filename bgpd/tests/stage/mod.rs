//! Two network namespaces joined by a cable: the parent and its `gobgpd` in one, BIRD as the router in the other. Names are
//! unique to the process and the test, and everything goes when the value is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead_bgpd::word::End;
use fairlead_bgpd::{API_SOCKET, PARENT_SOCKET, heartbeat};
use fairlead_gobgp::{Daemon, api};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What BIRD says of the session.
const BIRD: &str = r#"
router id 192.0.2.2;
log "@DIR@/bird.log" all;
protocol device {}
protocol bfd { interface "*" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
protocol bgp node {
    local 192.0.2.2 as 64513;
    neighbor 192.0.2.1 as 64500;
    passive on;
    @MORE@
    ipv4 { import all; export none; };
    ipv6 { import all; export none; };
}
"#;

/// The address that is announced.
pub const VIP: &str = "203.0.113.7";

/// What is asked of a session.
#[derive(Clone, Copy, Default)]
pub struct Wishes {
    /// Graceful restart.
    pub graceful: bool,
    /// A password, TTL security, BFD, and a session that is bound to its interface.
    pub everything: bool,
}

/// The two namespaces, the parent and the router.
pub struct Stage {
    number: usize,
    directory: TempDir,
    wishes: Wishes,
    parent: Option<Child>,
    bird: Option<Child>,
}

impl Stage {
    /// With a running router, and no parent yet.
    pub fn new(wishes: Wishes) -> Self {
        let stage = Self {
            number: COUNT.fetch_add(1, Ordering::SeqCst),
            directory: tempfile::tempdir().unwrap(),
            wishes,
            parent: None,
            bird: None,
        };
        let (node, router) = (stage.namespace("node"), stage.namespace("router"));
        for namespace in [&node, &router] {
            run("ip", &format!("netns add {namespace}"));
            run("ip", &format!("-n {namespace} link set lo up"));
        }
        run(
            "ip",
            &format!("link add eth0 netns {node} type veth peer eth0 netns {router}"),
        );
        for (namespace, last) in [(&node, 1), (&router, 2)] {
            run(
                "ip",
                &format!("-n {namespace} addr add 192.0.2.{last}/24 dev eth0"),
            );
            run("ip", &format!("-n {namespace} link set eth0 up"));
        }
        stage.with_bird()
    }

    fn with_bird(mut self) -> Self {
        let mut more = String::new();
        if self.wishes.everything {
            more.push_str("password \"sesame\"; ttl security on; bfd on; interface \"eth0\"; ");
        }
        more.push_str(if self.wishes.graceful {
            "graceful restart aware;"
        } else {
            "graceful restart off;"
        });
        let text = BIRD.replace("@DIR@", &self.path("").display().to_string());
        std::fs::write(self.path("bird.conf"), text.replace("@MORE@", &more)).unwrap();
        let bird = Command::new("ip")
            .args(["netns", "exec", &self.namespace("router"), "bird", "-f"])
            .arg("-c")
            .arg(self.path("bird.conf"))
            .arg("-s")
            .arg(self.path("bird.ctl"))
            .spawn();
        self.bird = Some(bird.expect("BIRD starts (Debian package bird2)"));
        self.wait("BIRD answers", |stage| {
            stage.birdc("show status").contains("Daemon is up")
        });
        self
    }

    fn namespace(&self, side: &str) -> String {
        format!("flbgpd-{}-{}-{side}", std::process::id(), self.number)
    }

    /// A file of this stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the sockets are.
    pub fn sockets(&self) -> PathBuf {
        self.path("run")
    }

    /// Starts the parent, without a single capability.
    pub fn start_parent(&mut self, arguments: &[&str]) {
        let log = std::fs::File::create(self.path("parent.log")).unwrap();
        let parent = Command::new("ip")
            .args(["netns", "exec", &self.namespace("node"), "setpriv"])
            .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
            .arg(env!("CARGO_BIN_EXE_fairlead-bgpd"))
            .arg("--directory")
            .arg(self.sockets())
            .arg("--gobgpd")
            .arg(gobgpd())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.parent = Some(parent.unwrap());
    }

    /// Sends the parent a signal.
    pub fn signal_parent(&self, signal: &str) {
        let pid = self.parent.as_ref().map(Child::id).unwrap();
        run("kill", &format!("-{signal} {pid}"));
    }

    /// Waits for the end of the parent, and says whether it succeeded.
    pub fn parent_ends(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(status) = self.parent.as_mut().unwrap().try_wait().unwrap() {
                self.parent = None;
                return status.success();
            }
            assert!(
                Instant::now() < deadline,
                "the parent does not end\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> Option<u32> {
        let parent = self.parent.as_ref()?.id();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().next()?.parse().ok()
    }

    /// A speaker that says it is alive, until it says how it ends or its sender is dropped.
    pub fn speaker(&self) -> (watch::Sender<Option<End>>, JoinHandle<()>) {
        let (end, ends) = watch::channel(None);
        let task = tokio::spawn(heartbeat::follow(self.sockets().join(PARENT_SOCKET), ends));
        (end, task)
    }

    /// The daemon's API.
    pub async fn daemon(&self) -> Daemon {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Daemon::connect(&self.sockets().join(API_SOCKET)).await {
                Ok(daemon) => return daemon,
                Err(error) => assert!(Instant::now() < deadline, "{error}\n{}", self.logs()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has the daemon announce [`VIP`] to the router, and waits until that has it.
    pub async fn announce(&self) {
        let mut daemon = self.daemon().await;
        let global = api::Global {
            asn: 64500,
            router_id: "192.0.2.1".into(),
            listen_port: -1,
            ..api::Global::default()
        };
        daemon.start(global).await.unwrap();
        daemon.add_peer(self.peer()).await.unwrap();
        daemon.add_path(path(VIP)).await.unwrap();
        self.wait("the router has the route", Stage::routed);
    }

    /// Announces 10 000 addresses more, and waits until the router has them.
    pub async fn announce_many(&self) {
        let addresses = (0..10_000u32).map(|n| format!("198.18.{}.{}", n / 250, n % 250));
        let paths = addresses.map(|address| path(&address)).collect();
        self.daemon().await.add_paths(paths).await.unwrap();
        self.wait("the router has all routes", |stage| stage.routes() == 10_001);
    }

    /// How many routes the router has.
    pub fn routes(&self) -> usize {
        let text = self.birdc("show route count");
        let of = |line: &str| {
            line.split_once(" of ")?
                .1
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        };
        let tables = text.lines().filter(|line| line.contains("in table"));
        tables.filter_map(of).sum()
    }

    fn peer(&self) -> api::Peer {
        let Wishes { graceful, everything } = self.wishes;
        let afi_safis = [api::family::Afi::Ip, api::family::Afi::Ip6].map(|afi| api::AfiSafi {
            config: Some(api::AfiSafiConfig {
                family: Some(family(afi)),
                enabled: true,
            }),
            mp_graceful_restart: Some(api::MpGracefulRestart {
                config: Some(api::MpGracefulRestartConfig { enabled: graceful }),
            }),
            ..api::AfiSafi::default()
        });
        api::Peer {
            conf: Some(api::PeerConf {
                neighbor_address: "192.0.2.2".into(),
                peer_asn: 64513,
                auth_password: if everything {
                    "sesame".into()
                } else {
                    String::new()
                },
                ..api::PeerConf::default()
            }),
            timers: Some(api::Timers {
                config: Some(api::TimersConfig {
                    connect_retry: 1,
                    hold_time: 90,
                    keepalive_interval: 30,
                    idle_hold_time_after_reset: 1,
                    ..api::TimersConfig::default()
                }),
                ..api::Timers::default()
            }),
            transport: Some(api::Transport {
                local_address: "192.0.2.1".into(),
                bind_interface: if everything { "eth0".into() } else { String::new() },
                ..api::Transport::default()
            }),
            ttl_security: everything.then_some(api::TtlSecurity {
                enabled: true,
                ttl_min: 255,
            }),
            bfd: everything.then_some(api::BfdPeerConfig {
                enabled: true,
                port: 3784,
                desired_minimum_tx_interval: 100_000,
                required_minimum_receive: 100_000,
                detection_multiplier: 3,
            }),
            graceful_restart: graceful.then_some(api::GracefulRestart {
                enabled: true,
                restart_time: 60,
                ..api::GracefulRestart::default()
            }),
            afi_safis: afi_safis.into(),
            ..api::Peer::default()
        }
    }

    /// What `birdc` answers.
    pub fn birdc(&self, command: &str) -> String {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.path("bird.ctl"))
            .args(command.split(' '))
            .output()
            .expect("birdc runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has the router the route?
    pub fn routed(&self) -> bool {
        self.birdc(&format!("show route for {VIP}")).contains("192.0.2.1")
    }

    /// What the router has logged.
    pub fn router_log(&self) -> String {
        std::fs::read_to_string(self.path("bird.log")).unwrap_or_default()
    }

    /// What all have logged, for a failure's message.
    pub fn logs(&self) -> String {
        let parent = std::fs::read_to_string(self.path("parent.log")).unwrap_or_default();
        let shown = self.birdc("show protocols all node");
        format!("parent:\n{parent}\nrouter:\n{}\n{shown}", self.router_log())
    }

    /// Waits for a condition, and says how long that took.
    pub fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !condition(self) {
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{what}: not within 15 s\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [&mut self.parent, &mut self.bird].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for side in ["node", "router"] {
            let namespace = self.namespace(side);
            let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        }
    }
}

fn family(afi: api::family::Afi) -> api::Family {
    api::Family {
        afi: afi as i32,
        safi: api::family::Safi::Unicast as i32,
    }
}

fn path(address: &str) -> api::Path {
    let attribute = |attr| api::Attribute { attr: Some(attr) };
    api::Path {
        family: Some(family(api::family::Afi::Ip)),
        nlri: Some(api::Nlri {
            nlri: Some(api::nlri::Nlri::Prefix(api::IpAddressPrefix {
                prefix_len: 32,
                prefix: address.into(),
            })),
        }),
        pattrs: vec![
            attribute(api::attribute::Attr::Origin(api::OriginAttribute { origin: 0 })),
            attribute(api::attribute::Attr::NextHop(api::NextHopAttribute {
                next_hop: "192.0.2.1".into(),
            })),
        ],
        ..api::Path::default()
    }
}

fn gobgpd() -> PathBuf {
    if let Some(path) = std::env::var_os("FAIRLEAD_GOBGPD") {
        return path.into();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gobgpd/gobgpd");
    if built.is_file() {
        return built;
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .map(|directory| directory.join("gobgpd"))
        .find(|path| path.is_file())
        .expect("no gobgpd in FAIRLEAD_GOBGPD, target/gobgpd or the PATH: run `make gobgpd`")
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
}
