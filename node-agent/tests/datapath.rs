//! Real packets through the real kernel, in namespaces.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use fairlead_node_agent::engine::Engine;
use fairlead_node_agent::metrics::Metrics;
use fairlead_node_agent::nft::build::build;
use fairlead_node_agent::nft::driver::{Driver, Tables};
use prometheus_client::registry::Registry;
use support::objects::{Cluster, MARK, service};
use support::programmed::{on_node1, program, with};
use support::topology::{CLIENT, NODE1, Packet, SILENCE, Topology, line, outcome};

const VIP: &str = "192.0.2.10";
const HERE: &str = "10.0.1.2@node1";
const HERE_TOO: &str = "10.0.1.3@node1";
const THERE: &str = "10.0.2.2@node2";

fn at_vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// The client must have got a reset that names the VIP and the port, not an ICMP error from somewhere.
fn is_reset_from(port: u16) -> impl Fn(&Packet) -> bool {
    move |packet| {
        packet.reset
            && packet.source.to_string() == VIP
            && packet.source_port == port
            && packet.destination.to_string() == CLIENT
    }
}

#[test]
fn local_keeps_the_client_address_and_uses_local_endpoints_only() {
    let ports = ["80/tcp@30080", "53/udp"];
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &ports), &[HERE, HERE_TOO, THERE]));
    let mut pods = std::collections::BTreeSet::new();
    for _ in 0..24 {
        let answer = topology.ask("client", &at_vip(80));
        let (pod, seen) = answer.split_once(' ').unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(seen, CLIENT);
        pods.insert(pod.to_owned());
    }
    assert_eq!(pods.into_iter().collect::<Vec<_>>(), ["pod1a", "pod1b"]);
    let answer = topology.ask_udp("client", &at_vip(53));
    assert!(
        ["pod1a", "pod1b"]
            .map(|pod| format!("{pod} {CLIENT}"))
            .contains(&answer),
        "{answer}"
    );
}

#[test]
fn local_without_a_local_endpoint_is_silent_outside_and_works_inside() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp@30080"]), &[THERE]));
    let sniffer = topology.sniff("client");
    assert_eq!(topology.ask("client", &at_vip(80)), "silence");
    assert_eq!(topology.ask("client", &format!("{NODE1}:30080")), "silence");
    let answers: Vec<Packet> = sniffer
        .seen()
        .into_iter()
        .filter(|packet| packet.destination.to_string() == CLIENT)
        .collect();
    assert!(answers.is_empty(), "neither reset nor ICMP: {answers:?}");
    // A pod keeps its address; the node's own processes are masqueraded.
    assert_eq!(topology.ask("pod1a", &at_vip(80)), "pod2 10.0.1.2");
    assert_eq!(topology.ask("node1", &at_vip(80)), format!("pod2 {NODE1}"));
    assert_eq!(
        topology.ask("node1", &format!("{NODE1}:30080")),
        format!("pod2 {NODE1}")
    );
}

#[test]
fn cluster_masquerades_everyone() {
    let topology =
        with(&Cluster::new().with(service("a", Anywhere, &[VIP], &["80/tcp", "53/udp"]), &[THERE]));
    let expected = format!("pod2 {NODE1}");
    for from in ["client", "node1", "pod1a"] {
        assert_eq!(topology.ask(from, &at_vip(80)), expected, "from {from}");
        assert_eq!(topology.ask_udp(from, &at_vip(53)), expected, "from {from}");
    }
}

#[test]
fn without_any_endpoint_connections_are_refused_by_the_vip_at_once() {
    for policy in [Anywhere, Local] {
        let ports = ["80/tcp@30080", "53/udp"];
        let topology = with(&Cluster::new().with(service("a", policy, &[VIP], &ports), &["10.0.1.2@node1!"]));
        let sniffer = topology.sniff("client");
        let begin = Instant::now();
        for from in ["client", "node1", "pod1a"] {
            assert_eq!(
                topology.ask(from, &at_vip(80)),
                "refused",
                "{policy:?} from {from}"
            );
        }
        assert_eq!(topology.ask("client", &format!("{NODE1}:30080")), "refused");
        // ICMP port unreachable shows as "refused" on a connected UDP socket.
        assert_eq!(topology.ask_udp("client", &at_vip(53)), "refused");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        sniffer.expect("a reset from the VIP", is_reset_from(80));
    }
}

#[test]
fn what_is_not_served_on_a_vip_is_refused_and_never_leaves_for_the_gateway() {
    let topology = with(&Cluster::new().with(service("a", Anywhere, &[VIP], &["80/tcp"]), &[HERE]));
    let (client, gateway) = (topology.sniff("client"), topology.sniff("node2"));
    for from in ["client", "node1", "pod1a"] {
        assert_eq!(topology.ask(from, &at_vip(81)), "refused", "from {from}");
        // The kernel tells a process of its own node at once, in its own words.
        let expected = if from == "node1" { "forbidden" } else { "refused" };
        assert_eq!(topology.ask_udp(from, &at_vip(80)), expected, "from {from}");
    }
    client.expect("a reset from the VIP", is_reset_from(81));
    // A protocol without ports: GRE, 47, with nothing in it.
    topology.within("client", || {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Raw,
            nix::sys::socket::SockFlag::empty(),
            nix::sys::socket::SockProtocol::Raw,
        )
        .unwrap();
        let packet = [
            0x45, 0, 0, 24, 0, 0, 0, 0, 64, 47, 0, 0, 198, 51, 100, 2, 192, 0, 2, 10, 0, 0, 0, 0,
        ];
        let to = nix::sys::socket::SockaddrIn::new(192, 0, 2, 10, 0);
        nix::sys::socket::sendto(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &packet,
            &to,
            nix::sys::socket::MsgFlags::empty(),
        )
        .unwrap();
    });
    client.expect("the GRE packet", |p| p.protocol == 47);
    // Everything above was answered or sent by now; what was routed on would have been seen beside it.
    assert_eq!(
        topology.ask("client", &at_vip(80)).split(' ').next(),
        Some("pod1a")
    );
    let leaked: Vec<Packet> = gateway
        .seen()
        .into_iter()
        .filter(|packet| packet.destination.to_string() == VIP)
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn a_flow_that_is_older_than_its_vip_is_refused_and_not_routed_on() {
    let mut topology = Topology::new();
    topology.serve("pod1a");
    program(&topology, &Cluster::new()); // connections are tracked, and the VIP is not known yet
    let open = |from: &str| {
        topology.within(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(at_vip(53)).unwrap();
            socket.send(b"early").unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket
        })
    };
    let gateway = topology.sniff("node2");
    let sockets = [("client", open("client")), ("node1", open("node1"))];
    for source in [CLIENT, NODE1] {
        gateway.expect("the early datagram", |packet| {
            packet.source.to_string() == source && packet.destination.to_string() == VIP
        });
    }
    drop(gateway);
    program(
        &topology,
        &Cluster::new().with(service("a", Local, &[VIP], &["53/udp"]), &[HERE]),
    );
    let gateway = topology.sniff("node2");
    for (from, socket) in sockets {
        let answer = socket.send(b"late").and_then(|_| socket.recv(&mut [0; 64]));
        let expected = if from == "node1" { "forbidden" } else { "refused" };
        assert_eq!(outcome(&answer.unwrap_err()), expected, "from {from}");
        assert!(
            topology.ask_udp(from, &at_vip(53)).starts_with("pod1a "),
            "a new flow from {from}"
        );
    }
    let leaked: Vec<Packet> = gateway
        .seen()
        .into_iter()
        .filter(|packet| packet.destination.to_string() == VIP)
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn a_packet_in_the_middle_of_an_unknown_flow_is_reset_by_the_vip() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE, HERE_TOO]));
    let (mut stream, greeting) = topology.connect("client", &at_vip(80)).unwrap();
    assert!(greeting.ends_with(CLIENT), "{greeting}");
    stream.write_all(b"one\n").unwrap();
    assert_eq!(line(&mut stream).unwrap(), "one");
    let (client, pods) = (
        topology.sniff("client"),
        [topology.sniff("pod1a"), topology.sniff("pod1b")],
    );
    // What a client sees whose node died: the new one has never heard of the flow.
    let forgotten = topology.exec("node1", &["conntrack", "-D", "-p", "tcp", "-d", VIP]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    // A delayed acknowledgement may have been reset already.
    let error = stream
        .write_all(b"two\n")
        .and_then(|()| line(&mut stream))
        .unwrap_err();
    assert_eq!(outcome(&error), "reset");
    client.expect("a reset from the VIP", is_reset_from(80));
    for pod in pods {
        let resets: Vec<Packet> = pod.seen().into_iter().filter(|packet| packet.reset).collect();
        assert!(
            resets.is_empty(),
            "an endpoint heard of a flow it does not know: {resets:?}"
        );
    }
    // New flows are none the worse.
    assert!(topology.ask("client", &at_vip(80)).ends_with(CLIENT));
}

#[test]
fn a_vip_answers_pings_as_itself() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[THERE]));
    let (client, gateway) = (topology.sniff("client"), topology.sniff("node2"));
    for from in ["client", "node1", "pod1a"] {
        assert!(topology.ping(from, VIP), "from {from}");
    }
    client.expect("an echo reply from the VIP", |packet| {
        packet.protocol == 1 && packet.source.to_string() == VIP
    });
    assert!(
        !gateway
            .seen()
            .iter()
            .any(|packet| packet.destination.to_string() == VIP)
    );
    assert!(
        !topology.ping("client", "192.0.2.99"),
        "an address that is not ours"
    );
}

#[test]
fn node_ports_follow_the_policy() {
    let topology = with(
        &Cluster::new()
            .with(
                service("a", Anywhere, &[VIP], &["80/tcp@30080", "53/udp@30053"]),
                &[THERE],
            )
            .with(
                service("b", Local, &["192.0.2.11"], &["80/tcp@30081"]),
                &[HERE, THERE],
            ),
    );
    let at = |port: u16| format!("{NODE1}:{port}");
    assert_eq!(topology.ask("client", &at(30080)), format!("pod2 {NODE1}"));
    assert_eq!(topology.ask("node1", &at(30080)), format!("pod2 {NODE1}"));
    assert_eq!(topology.ask_udp("client", &at(30053)), format!("pod2 {NODE1}"));
    assert_eq!(topology.ask("client", &at(30081)), format!("pod1a {CLIENT}"));
    // Ports of the node that are not ours are left to the node.
    assert_eq!(topology.ask("client", &at(30099)), "refused");
    assert!(topology.ping("client", NODE1));
}

#[test]
fn source_ranges_hold_for_the_vip_and_not_for_node_ports() {
    let mut restricted = service("a", Local, &[VIP], &["80/tcp@30080"]);
    restricted.source_ranges = vec!["198.51.100.2/32".parse().unwrap(), "10.0.1.3/32".parse().unwrap()];
    let topology = with(&Cluster::new().with(restricted, &[HERE]));
    assert_eq!(topology.ask_from(CLIENT, &at_vip(80)), format!("pod1a {CLIENT}"));
    assert_eq!(topology.ask_from("198.51.100.3", &at_vip(80)), "silence");
    assert_eq!(topology.ask("pod1b", &at_vip(80)), "pod1a 10.0.1.3");
    assert_eq!(
        topology.ask("pod1a", &at_vip(80)),
        "silence",
        "pods are not exempt"
    );
    assert_eq!(topology.ask("node1", &at_vip(80)), "silence", "nor is the node");
    assert_eq!(
        topology.ask_from("198.51.100.3", &format!("{NODE1}:30080")),
        "pod1a 198.51.100.3"
    );
}

#[test]
fn an_endpoint_reaches_itself_through_the_vip() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE]));
    // Masqueraded, or the answer would never come back through the node.
    assert_eq!(topology.ask("pod1a", &at_vip(80)), "pod1a 10.0.1.1");
    assert_eq!(topology.ask("pod1b", &at_vip(80)), "pod1a 10.0.1.3");
}

#[test]
fn affinity_keeps_a_client_at_one_endpoint() {
    let mut sticky = service("a", Anywhere, &[VIP], &["80/tcp"]);
    sticky.affinity = Some(10_800);
    let topology = with(&Cluster::new().with(sticky, &[HERE, HERE_TOO, THERE]));
    let pod = |from: &str| {
        topology
            .ask(from, &at_vip(80))
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    for from in ["client", "pod1a", "pod1b", "node1"] {
        let first = pod(from);
        assert!(first.starts_with("pod"), "{first}");
        for _ in 0..15 {
            assert_eq!(pod(from), first, "from {from}");
        }
    }
}

#[test]
fn affinity_ends_with_its_time_and_with_the_endpoint() {
    let cluster = |seconds, endpoints: &[&str]| {
        let mut sticky = service("a", Anywhere, &[VIP], &["80/tcp"]);
        sticky.affinity = Some(seconds);
        Cluster::new().with(sticky, endpoints)
    };
    let all = [HERE, HERE_TOO, THERE];
    let topology = with(&cluster(10_800, &all));
    let pod = || topology.ask("client", &at_vip(80));
    let first = pod();
    // The endpoint that it got goes; the client must not be sent there any more, nor be remembered with it.
    let of = |answer: &str| match answer.split(' ').next() {
        Some("pod1a") => HERE,
        Some("pod1b") => HERE_TOO,
        _ => THERE,
    };
    let left: Vec<&str> = all
        .into_iter()
        .filter(|endpoint| *endpoint != of(&first))
        .collect();
    program(&topology, &cluster(10_800, &left));
    let second = pod();
    assert!(left.contains(&of(&second)), "{first}, then {second}");
    program(&topology, &cluster(10_800, &all));
    for _ in 0..15 {
        assert_eq!(pod(), second);
    }
    // Each connection begins the time anew, and after it the client gets any endpoint again.
    program(&topology, &cluster(1, &all));
    let begin = Instant::now();
    let mut answers = vec![pod()];
    while answers.iter().all(|answer| *answer == answers[0]) {
        assert!(begin.elapsed() < Duration::from_secs(40), "always {answers:?}");
        std::thread::sleep(Duration::from_millis(1300));
        answers.push(pod());
    }
}

#[test]
fn our_choice_comes_before_kube_proxys() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp@30080"]), &[HERE]));
    // A stand-in for kube-proxy: it would send the same addresses, and one that is not ours, to pod2.
    let other = "table ip kube-proxy {
        chain nat-prerouting {
            type nat hook prerouting priority -100; policy accept;
            tcp dport { 80, 30080 } dnat to 10.0.2.2:8080
        }
        chain nat-output {
            type nat hook output priority -100; policy accept;
            ip daddr { 192.0.2.10, 192.0.2.77 } tcp dport 80 dnat to 10.0.2.2:8080
        }
    }";
    topology.nft(&["-f", "-"], other).unwrap();
    let before = topology.nft(&["list", "table", "ip", "kube-proxy"], "").unwrap();
    assert_eq!(
        topology.ask("client", "192.0.2.77:80"),
        format!("pod2 {CLIENT}"),
        "the stand-in works"
    );
    assert_eq!(topology.ask("client", &at_vip(80)), format!("pod1a {CLIENT}"));
    assert_eq!(
        topology.ask("client", &format!("{NODE1}:30080")),
        format!("pod1a {CLIENT}")
    );
    assert!(topology.ask("node1", &at_vip(80)).starts_with("pod1a "));
    on_node1(&topology, async || {
        Tables::open().unwrap().remove().await.unwrap();
    });
    assert_eq!(
        topology.ask("client", &at_vip(80)),
        format!("pod2 {CLIENT}"),
        "kube-proxy's turn again"
    );
    assert_eq!(
        topology.nft(&["list", "table", "ip", "kube-proxy"], "").unwrap(),
        before
    );
}

/// The chains and sets of a listing. The kernel keeps them in the order they came.
fn blocks(listing: &str) -> Vec<String> {
    let all = listing.trim_end().trim_end_matches('}').split("\n\n");
    let mut blocks: Vec<String> = all
        .map(|block| {
            block
                .trim_start_matches("table inet fairlead {")
                .trim()
                .to_owned()
        })
        .collect();
    blocks.sort_unstable();
    blocks
}

#[test]
fn a_flushed_table_comes_back_and_cleanup_leaves_nothing() {
    let cluster = Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE]);
    let topology = with(&cluster);
    on_node1(&topology, async || {
        let metrics = Metrics::register(&mut Registry::default());
        let mut engine = Engine::new(Tables::open().unwrap(), MARK, metrics);
        engine.offer(cluster.plan(), Instant::now());
        engine.apply().await.unwrap();
        let listed = || blocks(&topology.nft(&["list", "ruleset"], "").unwrap());
        let held = listed();
        assert!(
            held.iter().any(|block| block.contains("goto local4-1")),
            "{held:?}"
        );
        engine.check(Instant::now()).await;
        assert!(!engine.is_pending(), "an untouched table is intact");
        for damage in [
            "flush ruleset",
            "flush table inet fairlead",
            "flush chain inet fairlead served",
            "add chain inet fairlead intruder",
            "add rule inet fairlead refuse accept",
            "delete element inet fairlead nat4 { 192.0.2.10 . tcp . 80 }",
            "add element inet fairlead vips4 { 192.0.2.99 }",
            "add set inet fairlead strange { type ipv4_addr; }",
        ] {
            topology.nft(&["-f", "-"], &format!("{damage}\n")).unwrap();
            engine.check(Instant::now()).await;
            assert!(engine.is_pending(), "{damage} goes unnoticed");
            engine.apply().await.unwrap();
            assert_eq!(listed(), held, "after {damage}");
        }
        // Another table of another owner is none of our business.
        topology.nft(&["-f", "-"], "add table inet other\n").unwrap();
        engine.check(Instant::now()).await;
        assert!(!engine.is_pending());
        engine.remove().await.unwrap();
        assert!(engine.report(Instant::now()).clean);
    });
    assert_eq!(
        topology.nft(&["list", "ruleset"], "").unwrap().trim(),
        "table inet other {\n}"
    );
    on_node1(&topology, async || {
        Tables::open()
            .unwrap()
            .remove()
            .await
            .expect("again, with no table");
    });
}

#[test]
fn the_cleanup_flag_of_the_program() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE]));
    for _ in 0..2 {
        let output = topology.exec("node1", &[env!("CARGO_BIN_EXE_fairlead-node-agent"), "--cleanup"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(topology.nft(&["list", "ruleset"], "").unwrap(), "");
    }
}

/// What a client is answered that asks the VIP all the time while something happens.
fn asked_meanwhile(topology: &Topology, happens: impl FnOnce()) -> Vec<String> {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                answers.push(topology.ask("client", &at_vip(80)));
            }
            answers
        });
        happens();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        asking.join().unwrap()
    })
}

#[test]
fn restarts_and_changes_lose_no_connection_and_no_packet() {
    let cluster = Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE, HERE_TOO]);
    let topology = with(&cluster);
    let (mut stream, _) = topology.connect("client", &at_vip(80)).unwrap();
    let fewer = Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE]);
    let mut restarts = 0;
    let answers = asked_meanwhile(&topology, || {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3) {
            // What a restarted agent does first; the number of endpoints has changed meanwhile.
            program(&topology, if restarts % 2 == 0 { &fewer } else { &cluster });
            restarts += 1;
        }
    });
    let tries = answers.len();
    println!("{tries} connections over {restarts} restarts");
    let failed: Vec<&String> = answers
        .iter()
        .filter(|answer| !answer.ends_with(CLIENT))
        .collect();
    assert!(failed.is_empty(), "{} of {tries}: {failed:?}", failed.len());
    assert!(tries > 25 && restarts > 10);
    // Everything anew, as after a table that cannot be read. The kernel lets a packet that is between two rules at that
    // moment see the rules of before and the elements of after, so that one among many may be refused.
    let mut replacements = 0;
    let answers = asked_meanwhile(&topology, || {
        on_node1(&topology, async || {
            let begin = Instant::now();
            let mut tables = Tables::open().unwrap();
            let whole = Arc::new(build(&cluster.plan(), MARK));
            while begin.elapsed() < Duration::from_secs(3) {
                tables.replace(Arc::clone(&whole)).await.unwrap();
                replacements += 1;
            }
        });
    });
    let tries = answers.len();
    let failed: Vec<&String> = answers
        .iter()
        .filter(|answer| !answer.ends_with(CLIENT))
        .collect();
    println!(
        "{} of {tries} connections refused over {replacements} replacements",
        failed.len()
    );
    assert!(
        failed.len() * 50 <= tries,
        "{} of {tries}: {failed:?}",
        failed.len()
    );
    assert!(tries > 25 && replacements > 10);
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(line(&mut stream).unwrap(), "still here");
    // An endpoint that leaves the plan keeps the flows it has.
    let gone = Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[THERE]);
    program(&topology, &gone);
    stream.write_all(b"and still\n").unwrap();
    assert_eq!(line(&mut stream).unwrap(), "and still");
}

#[test]
fn errors_about_a_flow_reach_the_endpoint() {
    let topology = with(&Cluster::new().with(service("a", Local, &[VIP], &["80/tcp"]), &[HERE]));
    let (mut stream, _) = topology.connect("client", &at_vip(80)).unwrap();
    let pod = topology.sniff("pod1a");
    // The link to the client becomes narrow: the node must tell the endpoint, in the name of a flow it translates.
    topology.exec("client", &["ip", "link", "set", "eth0", "mtu", "1280"]);
    topology.exec("node1", &["ip", "link", "set", "c0", "mtu", "1280"]);
    let block = vec![b'x'; 200_000];
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&block).unwrap());
        let mut received = vec![0; 200_000];
        stream.read_exact(&mut received).unwrap();
        assert!(received.iter().all(|byte| *byte == b'x'));
    });
    pod.expect("ICMP, fragmentation needed", |packet| packet.protocol == 1);
}

#[test]
fn every_golden_file_is_what_nft_reads_and_prints() {
    let topology = Topology::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for name in ["empty", "everything"] {
        let text = std::fs::read_to_string(golden.join(format!("{name}.nft"))).unwrap();
        topology.nft(&["-c", "-f", "-"], &text).unwrap();
        topology.nft(&["-f", "-"], &text).unwrap();
        let listed = topology.nft(&["list", "ruleset"], "").unwrap();
        topology
            .nft(&["-f", "-"], &format!("flush ruleset\n{listed}"))
            .unwrap();
        assert_eq!(topology.nft(&["list", "ruleset"], "").unwrap(), listed, "{name}");
    }
}
