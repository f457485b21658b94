//! Every case of Kubernetes' rules for one packet to a Service address, with real packets: all Services of the table are
//! on node1 at once, and their clients ask side by side.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fairlead_core::model::Protocol::{self, Tcp, Udp};
use support::cases::{Case, Expected, Place, Ranges, SOURCES, Seen, cases, cluster, own};
use support::programmed::with;
use support::topology::{PATIENCE, Topology, line, outcome};

/// How long a client waits that should hear nothing: longer than one retransmission.
const QUIET: Duration = Duration::from_millis(1500);
/// How often a client asks at the most until it has seen every endpoint: of three, one is missed once in a million.
const TRIES: usize = 36;
/// Clients at the same time in each namespace.
const CLIENTS: usize = 16;

/// One new flow: `pod address` from the endpoint, or what happened instead.
fn ask(case: &Case, patience: Duration) -> String {
    let to = case.to();
    let answer = match case.protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&to, patience).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            line(&mut stream)
        }),
        Protocol::Udp => {
            let any = if case.six { "[::]:0" } else { "0.0.0.0:0" };
            UdpSocket::bind(any).and_then(|socket| {
                socket.connect(to)?;
                socket.set_read_timeout(Some(patience))?;
                let mut buffer = [0; 128];
                socket.send(b"?")?;
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
            })
        }
        Protocol::Sctp => panic!("not with real packets"),
    };
    answer.unwrap_or_else(|error| outcome(&error))
}

/// What is wrong, if anything is.
fn fault(case: &Case) -> Option<String> {
    let expected = case.expected();
    // The kernel tells a process of its own node at once that its datagram was not sent, whether refused or dropped.
    let untold = case.from == "node1" && case.protocol == Udp;
    let (answers, right) = match &expected {
        Expected::Forwarded(pods) => chosen(case, pods),
        Expected::Refused => {
            let answer = ask(case, PATIENCE);
            let right = answer == if untold { "forbidden" } else { "refused" };
            (BTreeSet::from([answer]), right)
        }
        Expected::Dropped => {
            let answer = ask(case, QUIET);
            let right = answer == if untold { "forbidden" } else { "silence" };
            (BTreeSet::from([answer]), right)
        }
    };
    (!right).then(|| {
        format!(
            "{case:?} to {}: expected {expected:?}, got {answers:?}",
            case.to()
        )
    })
}

/// Asks until every endpoint was seen, or with affinity three times. The answers, and whether they are right.
fn chosen(case: &Case, pods: &[(&str, Seen)]) -> (BTreeSet<String>, bool) {
    let mut answers = BTreeSet::new();
    let mut named = BTreeSet::new();
    let (tries, enough) = if case.of.affinity {
        (3, 2)
    } else {
        (TRIES, pods.len())
    };
    for _ in 0..tries {
        let answer = ask(case, PATIENCE);
        let right = answer.split_once(' ').is_some_and(|(pod, address)| {
            named.insert(pod.to_owned());
            let address: IpAddr = address.parse().unwrap();
            let expected = |seen| match seen {
                Seen::Sender => address == case.source(),
                Seen::ThisNode => own().contains(&address),
            };
            pods.iter().any(|(name, seen)| *name == pod && expected(*seen))
        });
        answers.insert(answer);
        if !right {
            return (answers, false);
        }
        if named.len() >= enough {
            break;
        }
    }
    let right = if case.of.affinity {
        named.len() == 1
    } else {
        named.len() == pods.len()
    };
    (answers, right)
}

/// Runs the cases, the clients of each namespace side by side.
#[track_caller]
fn run(topology: &Topology, what: &str, cases: &[Case]) {
    let begin = Instant::now();
    let queues = SOURCES.map(|from| {
        let of: Vec<Case> = cases.iter().copied().filter(|case| case.from == from).collect();
        (from, Mutex::new(of))
    });
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (from, queue) in &queues {
            for _ in 0..CLIENTS {
                let faults = &faults;
                scope.spawn(move || {
                    topology.within(from, || {
                        loop {
                            let Some(case) = queue.lock().unwrap().pop() else {
                                return;
                            };
                            let found = fault(&case); // without the lock, or clients would wait for each other
                            faults.lock().unwrap().extend(found);
                        }
                    });
                });
            }
        }
    });
    let faults = faults.into_inner().unwrap();
    println!("{what}: {} cases in {:?}", cases.len(), begin.elapsed());
    let few: Vec<&String> = faults.iter().take(10).collect();
    assert!(
        faults.is_empty(),
        "{what}: {} of {} are wrong: {few:#?}",
        faults.len(),
        cases.len()
    );
}

/// What kube-proxy would do with the same addresses and one that is not ours: send all to pod2.
const STAND_IN: &str = "table inet kube-proxy {
    chain services {
        meta l4proto { tcp, udp } ip daddr 192.0.2.0/24 th dport 80 dnat ip to 10.0.2.2:8080
        meta l4proto { tcp, udp } ip daddr 172.30.0.11 th dport 30000-30999 dnat ip to 10.0.2.2:8080
        meta l4proto { tcp, udp } ip6 daddr 2001:db8::/64 th dport 80 dnat ip6 to [fd00:2::2]:8080
        meta l4proto { tcp, udp } ip6 daddr fd00:30::11 th dport 30000-30999 dnat ip6 to [fd00:2::2]:8080
    }
    chain nat-prerouting {
        type nat hook prerouting priority -100; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
}";

#[test]
fn every_case_of_the_table() {
    let topology = with(&cluster());
    topology.all_around();
    let cases = cases(&[Tcp, Udp]);
    assert!(cases.len() >= 300, "{}", cases.len());
    run(&topology, "alone", &cases);

    topology.nft(&["-f", "-"], STAND_IN).unwrap();
    for (to, seen) in [
        ("192.0.2.250:80", "198.51.100.2"),
        ("[2001:db8::ffff]:80", "fd00:c::2"),
    ] {
        assert_eq!(
            topology.ask("client", to),
            format!("pod2 {seen}"),
            "the stand-in works"
        );
    }
    let beside: Vec<Case> = cases
        .into_iter()
        .filter(|case| matches!(case.place, Place::Vip | Place::NodePort))
        .filter(|case| case.of.ranges == Ranges::None)
        .collect();
    run(&topology, "beside kube-proxy", &beside);
}
