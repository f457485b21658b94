//! Much data, large datagrams, narrow paths, many connections and a flood. The servers are sockets of this process in the
//! network of a pod, so that each byte is checked by whoever sent it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::json;

use super::fixture::{Fixture, SOON};

const BOTH: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::10f"];
/// The port of the servers of this process, in the Service and in the pod.
const OWN: u16 = 9000;
const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: usize = 1 << 20;

/// A Service of both families for a pod on `node`, with the ports of this process beside the web server's; answers with
/// its addresses and the pod's.
fn serve(f: &Fixture, name: &str, policy: &str, node: &str) -> ([IpAddr; 2], Vec<IpAddr>) {
    let mut service = manifests::service(&f.name, name, policy);
    service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    service["spec"]["ports"] = json!([
        {"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "tcp", "port": OWN, "protocol": "TCP"},
        {"name": "udp", "port": OWN, "protocol": "UDP"},
    ]);
    f.cluster.apply(&service).unwrap();
    f.cluster.apply(&manifests::web_pod(&f.name, name, node)).unwrap();
    f.wait_pod_ready(&format!("{name}-{node}"));
    let addresses = wait_for("both addresses", SOON, || {
        let ingress = f.ingress(name);
        <[String; 2]>::try_from(ingress).map_err(|seen| format!("{seen:?}"))
    })
    .unwrap();
    let mut vips = addresses.map(|address| address.parse::<IpAddr>().unwrap());
    vips.sort();
    for vip in vips {
        f.curl(Place::Client, &SocketAddr::new(vip, 80).to_string());
    }
    let path = format!("/api/v1/namespaces/{}/pods/{name}-{node}", f.name);
    let pod = f.cluster.get(&path).unwrap().unwrap();
    let ips = pod["status"]["podIPs"].as_array().unwrap().iter();
    (
        vips,
        ips.map(|ip| ip["ip"].as_str().unwrap().parse().unwrap())
            .collect(),
    )
}

fn listen(f: &Fixture, node: &str, pod: &[IpAddr]) -> TcpListener {
    let bind = || TcpListener::bind(("::", OWN)).unwrap();
    f.lab.inside_pod(node.parse().unwrap(), pod[0], bind).unwrap()
}

fn connect(f: &Fixture, vip: IpAddr) -> TcpStream {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(vip, OWN), LIMIT).unwrap();
    let stream = f.lab.inside(Place::Client, connect).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// A block that is like no other: its number, and noise.
fn block(number: u64, noise: &mut [u8]) {
    noise[..8].copy_from_slice(&number.to_be_bytes());
}

fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..BLOCK).map(next).collect()
}

/// Sends so many blocks and ends.
fn send(mut stream: &TcpStream, blocks: u64) {
    let mut data = noise();
    for number in 0..blocks {
        block(number, &mut data);
        stream.write_all(&data).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Receives so many blocks and the end; every byte must be right.
fn receive(mut stream: &TcpStream, blocks: u64) {
    let (mut expected, mut data) = (noise(), vec![0; BLOCK]);
    for number in 0..blocks {
        stream.read_exact(&mut data).unwrap();
        block(number, &mut expected);
        assert!(data == expected, "block {number} is not what was sent");
    }
    assert_eq!(stream.read(&mut data).unwrap(), 0, "nothing more comes");
}

#[test]
fn a_gibibyte_through_nat_arrives_intact() {
    let f = Fixture::new("bulk", &BOTH);
    for (policy, node) in [("Cluster", "node1"), ("Local", "node2")] {
        let name = policy.to_lowercase();
        let (vips, pod) = serve(&f, &name, policy, node);
        let listener = listen(&f, node, &pod);
        // Both ways: 512 MiB each in each of two families, or 1 GiB one way in one.
        for (vip, up, down) in [(vips[0], 1024, 64), (vips[1], 64, 1024)] {
            let began = Instant::now();
            let client = connect(&f, vip);
            let (server, peer) = listener.accept().unwrap();
            server.set_read_timeout(Some(LIMIT)).unwrap();
            server.set_write_timeout(Some(LIMIT)).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| send(&client, up));
                scope.spawn(|| send(&server, down));
                scope.spawn(|| receive(&server, up));
                scope.spawn(|| receive(&client, down));
            });
            println!(
                "{policy}, {vip}, seen as {}: {up} MiB up, {down} MiB down, all intact, in {:.1} s",
                peer.ip().to_canonical(),
                began.elapsed().as_secs_f64()
            );
        }
    }
}

#[test]
fn datagrams_larger_than_a_packet_arrive_intact() {
    let f = Fixture::new("fragments", &BOTH);
    for (policy, node) in [("Cluster", "node1"), ("Local", "node2")] {
        let name = policy.to_lowercase();
        let (vips, pod) = serve(&f, &name, policy, node);
        for (vip, pod) in vips.into_iter().zip(pods_by_family(&pod)) {
            // Bound to the pod's own address, so that answers come from it.
            let bind = || UdpSocket::bind((pod, OWN)).unwrap();
            let server = f.lab.inside_pod(node.parse().unwrap(), pod, bind).unwrap();
            let any: IpAddr = if vip.is_ipv4() {
                [0; 4].into()
            } else {
                [0u16; 8].into()
            };
            let client = f
                .lab
                .inside(Place::Client, || UdpSocket::bind((any, 0)).unwrap())
                .unwrap();
            client.connect((vip, OWN)).unwrap();
            for socket in [&server, &client] {
                socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            }
            let data = noise();
            let mut buffer = vec![0; 1 << 16];
            for length in [1, 1400, 1473, 8000, 65_000] {
                client.send(&data[..length]).unwrap();
                let (got, from) = server.recv_from(&mut buffer).unwrap();
                assert!(buffer[..got] == data[..length], "{vip}: {length} bytes there");
                server.send_to(&buffer[..got], from).unwrap();
                let got = client.recv(&mut buffer).unwrap();
                assert!(buffer[..got] == data[..length], "{vip}: {length} bytes back");
            }
            println!("{policy}, {vip}: datagrams of up to 65000 bytes there and back, intact");
        }
    }
}

/// The IPv4 and the IPv6 address of a pod.
fn pods_by_family(pod: &[IpAddr]) -> [IpAddr; 2] {
    let mut sorted = pod.to_vec();
    sorted.sort();
    [sorted[0], sorted[1]]
}

/// The MTU of an interface, until this is dropped.
struct Narrow<'a>(&'a Fixture, Place, String);

impl<'a> Narrow<'a> {
    fn new(f: &'a Fixture, place: Place, interface: &str, mtu: u16) -> Self {
        let narrow = Self(f, place, interface.to_owned());
        narrow.set(mtu);
        narrow
    }

    fn set(&self, mtu: u16) {
        let argv = ["ip", "link", "set", &self.2, "mtu", &mtu.to_string()];
        self.0.run(self.1, &argv);
    }
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        self.set(1500);
    }
}

#[test]
fn a_narrow_path_is_found_out_in_both_directions() {
    let f = Fixture::new("mtu", &BOTH);
    // With Cluster the pod may be on another node than the one that announces, with Local it is on that one.
    for (policy, node) in [("Cluster", "node1"), ("Local", "node2")] {
        let name = policy.to_lowercase();
        let (vips, pod) = serve(&f, &name, policy, node);
        let listener = listen(&f, node, &pod);
        for (vip, pod) in vips.into_iter().zip(pods_by_family(&pod)) {
            let place: Place = node.parse().unwrap();
            // Both ends offer segments for 1500 bytes, and only the way between them is narrow: what was found out before is
            // forgotten.
            for family in ["-4", "-6"] {
                f.run(Place::Client, &["ip", family, "route", "flush", "cache"]);
            }
            let client = connect(&f, vip);
            let (server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(LIMIT)).unwrap();
            server.set_write_timeout(Some(LIMIT)).unwrap();
            let too_big = f.lab.capture(Place::Client, "icmp or icmp6").unwrap();
            let began = Instant::now();
            let outside = Narrow::new(&f, Place::Router, "eth1", 1300);
            thread::scope(|scope| {
                scope.spawn(|| send(&server, 8));
                receive(&client, 8);
            });
            let down = began.elapsed();
            drop(outside);
            // The pod's own link, as the node sees it.
            let family = if pod.is_ipv4() { "-4" } else { "-6" };
            let route = f.run(place, &["ip", family, "route", "get", &pod.to_string()]);
            let link = route
                .split(" dev ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let inside = Narrow::new(&f, place, link.unwrap(), 1300);
            let began = Instant::now();
            thread::scope(|scope| {
                scope.spawn(|| send(&client, 8));
                receive(&server, 8);
            });
            let up = began.elapsed();
            drop(inside);
            let mut told = too_big.stop().unwrap();
            told.retain(|line| line.contains("need to frag") || line.contains("too big"));
            println!(
                "{policy}, {vip}: 8 MiB down a narrow path in {} ms, up in {} ms; the client was told {} times: {:?}",
                down.as_millis(),
                up.as_millis(),
                told.len(),
                told.first()
            );
            assert!(
                !told.is_empty(),
                "the client is told that its packets are too big"
            );
            assert!(
                down.max(up) < Duration::from_secs(10),
                "by an answer, not by a time-out"
            );
        }
    }
}

#[test]
fn a_path_through_an_address_can_be_traced() {
    let f = Fixture::new("trace", &BOTH);
    let (vips, _) = serve(&f, "web", "Local", "node2");
    for vip in vips {
        let capture = f.lab.capture(Place::Client, "icmp or icmp6").unwrap();
        let any: IpAddr = if vip.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        // By datagrams to a port that nobody serves, as traceroute does, and by connections to one that is served.
        for hops in 1..=3 {
            let probe = || {
                let socket = UdpSocket::bind((any, 0)).unwrap();
                hop_limit(&socket, vip, hops);
                let _ = socket.send_to(b"trace", (vip, 33_433 + u16::try_from(hops).unwrap()));
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address(SocketAddr::new(vip, 80)),
                    socket2::Type::STREAM,
                    None,
                )
                .unwrap();
                hop_limit(&socket, vip, hops);
                // Long enough for those that are to arrive, and not too long for those that cannot.
                let limit = Duration::from_millis(if hops >= 3 { 3000 } else { 500 });
                socket
                    .connect_timeout(&SocketAddr::new(vip, 80).into(), limit)
                    .is_ok()
            };
            let open = f.lab.inside(Place::Client, probe).unwrap();
            println!("{vip}: with {hops} hops, connected: {open}");
            assert_eq!(open, hops >= 3, "router, node, pod");
        }
        let seen = capture.stop().unwrap();
        let node = Place::Node(2).uplink().unwrap();
        let (router, node) = if vip.is_ipv4() {
            ("172.31.0.1".to_owned(), node.v4.to_string())
        } else {
            ("fd00:31::1".to_owned(), node.v6.to_string())
        };
        for line in &seen {
            println!("  {line}");
        }
        let exceeded = |from: &str| {
            let from = format!(" {from} > ");
            seen.iter()
                .any(|line| line.contains(&from) && line.contains("time exceeded"))
        };
        assert!(exceeded(&router), "the first hop is the router");
        assert!(
            exceeded(&node) || exceeded(&vip.to_string()),
            "the second hop is the node that announces"
        );
        let reached = |line: &String| line.contains("unreachable") && line.contains(&vip.to_string());
        assert!(
            seen.iter().any(reached),
            "that nobody is at a port is said as well"
        );
    }
}

fn hop_limit<S: std::os::fd::AsFd>(socket: &S, address: IpAddr, hops: u32) {
    let socket = socket2::SockRef::from(socket);
    if address.is_ipv4() {
        socket.set_ttl_v4(hops).unwrap();
    } else {
        socket.set_unicast_hops_v6(hops).unwrap();
    }
}

#[test]
fn ten_thousand_connections_at_once() {
    const MANY: usize = 10_000;
    let f = Fixture::new("many", &BOTH);
    let (vips, _) = serve(&f, "web", "Local", "node1");
    let options = ClientOptions {
        hold: MANY,
        // A thousand requests a second on all of them.
        hold_interval: Duration::from_secs(10),
        interval: Duration::from_millis(100),
        ..ClientOptions::new(SocketAddr::new(vips[0], 80))
    };
    let began = Instant::now();
    let client = f.lab.start_client(Place::Client, &options).unwrap();
    wait_open(&f, vips[0], MANY);
    let open = began.elapsed();
    // Each is asked at least once, which pod it is; the second round leaves time for the last answers of the first.
    thread::sleep(options.hold_interval * 2);
    let report = client.stop().unwrap();
    println!("all open after {:.1} s: {report}", open.as_secs_f64());
    let held = report.held.as_ref().unwrap();
    assert!(held.broken.is_empty(), "{:?}", held.broken.first());
    // New ones had to wait for their turn while these were opened all at once.
    assert_eq!(held.backends["web-node1"], MANY as u64);
}

/// Waits until the client has so many connections to an address.
pub fn wait_open(f: &Fixture, address: IpAddr, many: usize) {
    let target = format!("[{address}]");
    wait_for(&format!("{many} connections to {address}"), LIMIT, || {
        let argv = ["ss", "-Htn", "state", "established", "dst", &target];
        let open = f.run(Place::Client, &argv).lines().count();
        (open >= many).then_some(()).ok_or_else(|| format!("{open}"))
    })
    .unwrap();
}

#[test]
fn a_flood_on_one_address_does_not_starve_another() {
    // Long enough to fill the table of flows (262144 by default) at 40 000 a second.
    const FLOOD: Duration = Duration::from_secs(8);
    let f = Fixture::new("flood", &BOTH);
    let (victim, _) = serve(&f, "victim", "Local", "node1");
    let (other, _) = serve(&f, "other", "Local", "node1");
    // What the flood leaves behind is to be gone soon, and not before it is over.
    for state in ["syn_sent", "syn_recv"] {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
        f.run(Place::Node(1), &["sh", "-c", &format!("echo 15 > {path}")]);
    }
    let client = f
        .lab
        .start_client(Place::Client, &ClientOptions::new(SocketAddr::new(other[0], 80)))
        .unwrap();
    let (sent, pace) = f
        .lab
        .inside(Place::LanClient, || flood(victim[0], 80, FLOOD))
        .unwrap();
    let tracked = f.run(
        Place::Node(1),
        &["cat", "/proc/sys/net/netfilter/nf_conntrack_count"],
    );
    let report = client.stop().unwrap();
    for (state, seconds) in [("syn_sent", 120), ("syn_recv", 60)] {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
        f.run(Place::Node(1), &["sh", "-c", &format!("echo {seconds} > {path}")]);
    }
    println!(
        "{sent} SYNs from as many addresses, {pace:.0} a second, {} flows tracked; the other address meanwhile: {report}",
        tracked.trim()
    );
    // While the table is full, the kernel now and then finds no flow to give up for a new one, and drops its first packet.
    assert!(report.failed * 100 <= report.good, "{report}");
}

/// Sends SYNs from ever other addresses for a while; answers how many, and how many a second.
fn flood(to: IpAddr, port: u16, span: Duration) -> (u64, f64) {
    let IpAddr::V4(to) = to else { panic!("IPv4") };
    let protocol = Some(socket2::Protocol::from(libc::IPPROTO_RAW));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol).unwrap();
    let target = SocketAddr::from((to, 0)).into();
    let (began, mut sent) = (Instant::now(), 0u64);
    while began.elapsed() < span {
        for _ in 0..64 {
            // From 198.18.0.0/15: the router has no way back there.
            let from = (0xc612_0000u32 | (sent as u32 & 0x1_ffff)).to_be_bytes();
            let source_port = 1024 + (sent >> 17) as u16 % 60_000;
            let packet = syn(from, to.octets(), source_port, port);
            match socket.send_to(&packet, &target) {
                Ok(_) => sent += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    (sent, sent as f64 / began.elapsed().as_secs_f64())
}

fn syn(from: [u8; 4], to: [u8; 4], source: u16, port: u16) -> [u8; 40] {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet[20..22].copy_from_slice(&source.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&0xffffu16.to_be_bytes());
    // The kernel fills in the checksum of the IP header, and not this one: over addresses, protocol, length and header.
    let words = packet[12..]
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let mut sum = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}
