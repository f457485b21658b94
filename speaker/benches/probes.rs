//! What probing costs a node: CPU time and memory of the prober alone, for targets that answer.
//!
//! Half of the targets are health-check node ports of Services with policy Local, half are service proxies. They are
//! answered by another process, whose CPU time does not count. Everything else is what a speaker does: the same type,
//! the same multi-threaded runtime, metrics included.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up panics")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fairlead_core::announce::{ProbeTarget, Verdict};
use fairlead_core::model::ServiceKey;
use fairlead_runtime::raise_file_limit;
use fairlead_speaker::health::{Health, ProxyHealth, Settings, Timing};
use fairlead_speaker::metrics::{Metrics, ProbeLabels};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// First argument of the process that answers.
const SERVE: &str = "serve";
/// Of `utime` and `stime` in /proc.
const TICKS_PER_SECOND: f64 = 100.0;
const WARM_UP: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    raise_file_limit().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let targets: usize = value("--targets").unwrap_or(1000);
    match arguments.first().map(String::as_str) {
        Some(SERVE) => serve(targets / 2).await,
        _ => measure(targets, value("--seconds").unwrap_or(20)).await,
    }
}

/// Ends the answering process with the bench.
struct Answers(Child);

impl Drop for Answers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(count: usize, seconds: usize) {
    let own = own_address();
    let (_answers, ports) = start(count);
    let (proxy, local) = ports.split_first().unwrap();
    let services = local
        .iter()
        .enumerate()
        .map(|(number, port)| ProbeTarget::Service {
            service: ServiceKey::new("default", format!("service-{number}")),
            address: own,
            port: *port,
        });
    let proxies = (0..count - local.len()).map(|number| ProbeTarget::Proxy {
        address: Ipv4Addr::from(0x7f01_0000 + u32::try_from(number).unwrap()).into(),
    });
    let timing = Timing::default();
    let targets: BTreeMap<ProbeTarget, Timing> =
        services.chain(proxies).map(|target| (target, timing)).collect();
    let metrics = Metrics::new(&mut Registry::default());
    let settings = Settings {
        timing,
        proxy: ProxyHealth::Port(*proxy),
        agent: "/nowhere".into(),
    };
    let mut health = Health::new(settings, metrics.clone());
    let empty = memory();
    let begin = Instant::now();
    health.apply(&targets);
    let mut verdicts = health.verdicts();
    let all = |known: &BTreeMap<ProbeTarget, Verdict>| {
        known.len() == count && known.values().all(|verdict| *verdict == Verdict::Pass)
    };
    tokio::time::timeout(PATIENCE, verdicts.wait_for(all))
        .await
        .expect("all targets pass in time")
        .unwrap();
    let admitted = begin.elapsed();
    tokio::time::sleep(WARM_UP).await;

    let probes = || {
        let of = |kind, result| metrics.probes.get_or_create(&ProbeLabels { kind, result }).get();
        let sum = |result| of("service", result) + of("proxy", result);
        (sum("success"), sum("failure"))
    };
    let (begin, cpu_before, before) = (Instant::now(), cpu(), probes());
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let (took, cpu, after) = (begin.elapsed().as_secs_f64(), cpu() - cpu_before, probes());
    let good = after.0 - before.0;
    println!("targets                    {count}");
    println!("until all are admitted     {} ms", admitted.as_millis());
    println!("probes a second            {:.0}", good as f64 / took);
    println!("failures                   {}", after.1);
    println!("CPU, of one core           {:.1} %", 100.0 * cpu / took);
    println!("CPU for a probe            {:.0} µs", 1e6 * cpu / good as f64);
    println!("resident without targets   {:.1} MiB", empty / 1024.0);
    println!("resident with them         {:.1} MiB", memory() / 1024.0);
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // Nothing is sent.
    match socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)) {
        Ok(()) => socket.local_addr().unwrap().ip(),
        Err(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

fn start(targets: usize) -> (Answers, Vec<u16>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([SERVE, "--targets", &targets.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ports = line.split_whitespace().map(|port| port.parse().unwrap());
    (Answers(child), ports.collect())
}

/// Answers for a service proxy and for so many Services, each on a port of its own.
async fn serve(services: usize) {
    let mut ports = Vec::new();
    for number in 0..=services {
        let body = match number.checked_sub(1) {
            None => {
                r#"{"lastUpdated":"2026-01-01","currentTime":"2026-01-01","nodeEligible":true}"#.to_owned()
            }
            Some(service) => format!(
                r#"{{"service":{{"namespace":"default","name":"service-{service}"}},"localEndpoints":1,"serviceProxyHealthy":true}}"#
            ),
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
            .await
            .unwrap();
        ports.push(listener.local_addr().unwrap().port().to_string());
        tokio::spawn(respond(listener, answer));
    }
    println!("{}", ports.join(" "));
    std::future::pending::<()>().await;
}

async fn respond(listener: TcpListener, answer: String) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = [0; 1024];
            while matches!(stream.read(&mut request).await, Ok(length) if length > 0) {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// CPU time of this process in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times = fields.split(' ').skip(11).take(2);
    times.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}

/// Resident memory of this process in KiB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
