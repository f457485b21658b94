//! Sweeping a real connection tracking table.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairlead_core::forward::{Backend, Destination};
use fairlead_core::model::{Family, Protocol, TrafficPolicy};
use fairlead_node_agent::conntrack::flow::{Filter, Flow, SEEN_REPLY, attribute, family_number, list};
use fairlead_node_agent::conntrack::socket::Socket;
use fairlead_node_agent::conntrack::wire::{Message, Writer};
use fairlead_node_agent::conntrack::{Fill, Served, sweep};
use support::topology::{Namespace, Topology, line};

const VIP: &str = "192.0.2.10";
const PATIENCE: Duration = Duration::from_secs(10);

/// Connection tracking: an entry is made (`IPCTNL_MSG_CT_NEW`).
const NEW: u16 = 1 << 8;
/// Bit of the status that every entry in the table has.
const CONFIRMED: u32 = 8;
/// Request, acknowledge, create, and fail if it exists.
const CREATE: u16 = 1 | 4 | 0x400 | 0x200;

/// Makes entries: protocol, client, destination, where answers come from, and whether one has been seen.
fn insert(entries: impl IntoIterator<Item = (Protocol, SocketAddr, SocketAddr, SocketAddr, bool)>) {
    let mut socket = Socket::open().unwrap();
    let mut writer = Writer::default();
    let mut waiting = 0;
    let send = |socket: &mut Socket, writer: &mut Writer, waiting: &mut usize| {
        if *waiting > 0 {
            socket.send(writer.bytes()).unwrap();
            let last = writer.ask_for_acknowledgement();
            assert_eq!(socket.acknowledged(last).unwrap(), []);
            (*waiting, _) = (0, writer.clear());
        }
    };
    for (protocol, client, destination, answers, answered) in entries {
        let number = socket.number();
        let family = Family::of(client.ip());
        writer.message(NEW, CREATE, number, family_number(family));
        for (kind, from, to) in [
            (attribute::ORIGINAL, client, destination),
            (attribute::REPLY, answers, client),
        ] {
            writer.nested(kind, |writer| {
                writer.nested(attribute::ADDRESSES, |writer| {
                    for (kind, address) in [(1, from.ip()), (2, to.ip())] {
                        match address {
                            IpAddr::V4(v4) => writer.attribute(kind, &v4.octets()),
                            IpAddr::V6(v6) => writer.attribute(kind + 2, &v6.octets()),
                        }
                    }
                });
                writer.nested(attribute::PORTS, |writer| {
                    writer.attribute(1, &[protocol.number()]);
                    writer.attribute(2, &from.port().to_be_bytes());
                    writer.attribute(3, &to.port().to_be_bytes());
                });
            });
        }
        let status = CONFIRMED | if answered { SEEN_REPLY } else { 0 };
        writer.attribute(attribute::STATUS, &status.to_be_bytes());
        writer.attribute(attribute::TIMEOUT, &600u32.to_be_bytes());
        if protocol == Protocol::Tcp {
            // CTA_PROTOINFO > TCP > state: SYN_SENT or ESTABLISHED
            let state = if answered { 3 } else { 1 };
            writer.nested(4, |writer| {
                writer.nested(1, |writer| writer.attribute(1, &[state]));
            });
        }
        writer.end();
        waiting += 1;
        if waiting == 64 {
            send(&mut socket, &mut writer, &mut waiting);
        }
    }
    send(&mut socket, &mut writer, &mut waiting);
}

/// What the kernel has of a protocol.
fn entries(protocol: Protocol) -> Vec<Flow> {
    let mut socket = Socket::open().unwrap();
    let mut writer = Writer::default();
    let number = socket.number();
    let filter = Filter {
        family: Family::V4,
        protocol,
        address: None,
        unanswered: false,
    };
    list(&mut writer, number, &filter);
    socket.send(writer.bytes()).unwrap();
    let mut found = Vec::new();
    socket
        .list(number, |message: &Message| found.extend(Flow::read(message)))
        .unwrap();
    found
}

/// Entries of both families, one stale and one not.
#[test]
fn both_families() {
    Namespace::new("sweep6").within(|| {
        for (client, vip, here, gone) in [
            ("198.51.100.7:4000", "192.0.2.1:53", "10.0.1.2:53", "10.0.1.3:53"),
            (
                "[2001:db8:1::7]:4000",
                "[2001:db8::1]:53",
                "[fd00:1::2]:53",
                "[fd00:1::3]:53",
            ),
        ] {
            let second = SocketAddr::new(at(client).ip(), 4001);
            insert([
                (Protocol::Udp, at(client), at(vip), at(here), true),
                (Protocol::Udp, second, at(vip), at(gone), true),
            ]);
            let wanted = served(&[(Protocol::Udp, vip)], &[here]);
            let stats = sweep(&wanted).unwrap();
            assert_eq!((stats.listed, stats.deleted), (2, 1), "{vip}");
            assert_eq!(sweep(&wanted).unwrap().listed, 1, "{vip}");
        }
    });
}

/// Rules like ours, in three lines: where the VIP's flows go.
fn to(topology: &Topology, pod: &str) {
    let text = format!(
        "table ip t\ndelete table ip t\ntable ip t {{ chain c {{ type nat hook prerouting priority -105\n\
         ip daddr {VIP} meta l4proto {{ tcp, udp }} th dport 53 dnat to {pod}:8080; }};}}"
    );
    topology.nft(&["-f", "-"], &text).unwrap();
}

/// With real packets: flows whose endpoint has gone, and such as began before the VIP was known.
#[test]
fn flows_find_a_new_endpoint_and_early_ones_their_first() {
    let mut topology = Topology::new();
    topology.serve("pod1a");
    topology.serve("pod1b");
    let (here, there) = ("10.0.1.2", "10.0.1.3");
    let vip = format!("{VIP}:53");
    let pass = |pod: &str| {
        let endpoint = format!("{pod}:8080");
        let wanted = served(&[(Protocol::Udp, &vip), (Protocol::Tcp, &vip)], &[&endpoint]);
        topology.within("node1", || sweep(&wanted).unwrap())
    };
    // Connections are tracked, and nothing leads anywhere yet. The gateway loses what it gets.
    let blackhole = ["ip", "route", "add", "blackhole", VIP];
    assert!(topology.exec("node2", &blackhole).status.success());
    topology
        .nft(
            &["-f", "-"],
            "table ip watch { chain c { type filter hook prerouting priority 0; ct state new accept; };}",
        )
        .unwrap();
    let early_tcp = topology.within("client", || {
        let (sender, receiver) = std::sync::mpsc::channel();
        let to = at(&vip);
        // The thread stays in the namespace.
        std::thread::spawn(move || {
            let mut outcome = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.to_string());
            let greeting = outcome.as_mut().map(line);
            let _ = sender.send(format!("{greeting:?}"));
        });
        receiver
    });
    let socket = topology.within("client", || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(&*vip).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send(b"early").unwrap();
        socket
    });
    let ask = || {
        let mut answer = [0; 64];
        match socket.send(b"?").and_then(|_| socket.recv(&mut answer)) {
            Ok(length) => String::from_utf8_lossy(&answer[..length]).trim().to_owned(),
            Err(error) => error.kind().to_string(),
        }
    };
    let end = Instant::now() + PATIENCE;
    let known = |protocol| topology.within("node1", || entries(protocol).len());
    while known(Protocol::Tcp) == 0 || known(Protocol::Udp) == 0 {
        assert!(Instant::now() < end, "the early packets are not tracked");
        std::thread::sleep(Duration::from_millis(10));
    }
    to(&topology, here);
    assert_ne!(
        ask(),
        "pod1a 198.51.100.2",
        "translation comes with the first packet only"
    );
    let stats = pass(here);
    assert_eq!(stats.deleted, 2, "{stats:?}");
    assert_eq!(ask(), "pod1a 198.51.100.2");
    let greeting = early_tcp.recv_timeout(PATIENCE).unwrap();
    assert!(
        greeting.contains("pod1a"),
        "the first packet is sent again: {greeting}"
    );
    // The endpoint goes.
    to(&topology, there);
    assert_eq!(ask(), "pod1a 198.51.100.2", "the flow stays where it is");
    let stats = pass(there);
    assert_eq!(stats.deleted, 1, "{stats:?}");
    assert_eq!(ask(), "pod1b 198.51.100.2");
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 40_000))
}

fn served(destinations: &[(Protocol, &str)], endpoints: &[&str]) -> Served {
    let mut served = Served::default();
    let mut backend = Backend::new(TrafficPolicy::Cluster);
    backend.cluster = endpoints.iter().map(|text| text.parse().unwrap()).collect();
    for (protocol, text) in destinations {
        let destination = Destination {
            address: at(text).ip(),
            protocol: *protocol,
            port: at(text).port(),
        };
        served.insert(destination, Some(&backend));
    }
    served
}

#[test]
fn stale_entries_go_and_all_others_stay() {
    Namespace::new("sweep").within(|| {
        let (vip, other) = (at("192.0.2.1:53"), at("192.0.2.2:53"));
        let (here, gone) = (at("10.0.1.2:53"), at("10.0.1.3:53"));
        insert([
            (Protocol::Udp, client(1), vip, here, true),
            (Protocol::Udp, client(2), vip, gone, true),
            (Protocol::Udp, client(3), vip, vip, false),
            (Protocol::Udp, client(4), other, gone, true),
            (Protocol::Tcp, client(5), vip, vip, false),
            (Protocol::Tcp, client(6), vip, gone, true),
            (Protocol::Tcp, client(7), vip, vip, true),
            (Protocol::Tcp, client(8), other, other, false),
        ]);
        let wanted = served(
            &[(Protocol::Udp, "192.0.2.1:53"), (Protocol::Tcp, "192.0.2.1:53")],
            &["10.0.1.2:53"],
        );
        let stats = sweep(&wanted).unwrap();
        println!("{stats:?}");
        assert_eq!((stats.deleted, stats.gone), (3, 0));
        // The kernel listed what the filters say: three of UDP, one of TCP.
        assert_eq!(stats.listed, 4, "{stats:?}");
        let left = |protocol| {
            let mut left: Vec<String> = entries(protocol)
                .iter()
                .map(|flow| format!("{} {} {}", flow.destination, flow.answers, flow.answered))
                .collect();
            left.sort();
            left
        };
        assert_eq!(
            left(Protocol::Udp),
            ["192.0.2.1:53 10.0.1.2:53 true", "192.0.2.2:53 10.0.1.3:53 true"]
        );
        assert_eq!(
            left(Protocol::Tcp),
            [
                "192.0.2.1:53 10.0.1.3:53 true",
                "192.0.2.1:53 192.0.2.1:53 true",
                "192.0.2.2:53 192.0.2.2:53 false",
            ]
        );
        assert_eq!(sweep(&wanted).unwrap().deleted, 0);
    });
}

#[test]
fn a_hundred_thousand_entries_hold_nothing_up() {
    const ALL: u32 = 100_000;
    Namespace::new("sweep100k").within(|| {
        let begin = Instant::now();
        let (vip, here, gone) = (at("192.0.2.1:53"), at("10.0.1.2:53"), at("10.0.1.3:53"));
        insert((0..ALL).map(|number| {
            let answers = if number % 2 == 0 { here } else { gone };
            (Protocol::Udp, client(number), vip, answers, true)
        }));
        let fill = Fill::read().unwrap();
        println!("{fill:?}, made in {:?}", begin.elapsed());
        assert!(fill.count >= u64::from(ALL), "{fill:?}");

        // What else the program does meanwhile: a loop that wants to run every millisecond.
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let pace = std::thread::spawn(move || {
            runtime.block_on(async {
                let (mut worst, mut last) = (Duration::ZERO, Instant::now());
                while !stopped.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    worst = worst.max(last.elapsed());
                    last = Instant::now();
                }
                worst
            })
        });
        let elsewhere = served(&[(Protocol::Udp, "192.0.2.9:53")], &[]);
        let nothing = sweep(&elsewhere).unwrap();
        println!("nothing of it served, one address: {nothing:?}");
        assert_eq!((nothing.listed, nothing.deleted), (0, 0));
        let all = served(
            &[(Protocol::Udp, "192.0.2.1:53"), (Protocol::Udp, "192.0.2.9:53")],
            &["10.0.1.2:53"],
        );
        let half = sweep(&all).unwrap();
        println!("half of it stale: {half:?}");
        assert_eq!(half.deleted, (ALL / 2) as usize);
        let none = sweep(&all).unwrap();
        println!("nothing stale: {none:?}");
        assert_eq!((none.listed, none.deleted), ((ALL / 2) as usize, 0));
        stop.store(true, Ordering::Relaxed);
        println!(
            "the loop beside it was late by {:?} at the most",
            pace.join().unwrap()
        );
    });
}
