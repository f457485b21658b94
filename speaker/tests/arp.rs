//! The speaker's ARP on a real wire, against the kernel's and arping's. Needs root, iproute2 and iputils-arping.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairlead_speaker::l2::arp::{Entry, FRAME, Frame, Operation};
use fairlead_speaker::l2::{Announcer, ArpSocket, Mac, Table, Wanted};
use fairlead_speaker::links::{self, Link, Links};
use fairlead_speaker::metrics::Metrics;
use netns::{MACS, Wire, eventually};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc as tokio_mpsc, watch};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);

type Command = (BTreeMap<String, Wanted>, mpsc::Sender<()>);

/// An `Announcer` at work in the speaker's namespace.
struct Speaker {
    commands: Option<tokio_mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    metrics: Metrics,
}

impl Speaker {
    fn start(wire: &Wire) -> Self {
        let metrics = Metrics::new(&mut Registry::default());
        let (commands, mut receiver) = tokio_mpsc::unbounded_channel::<Command>();
        let mut announcer = Announcer::new(metrics.clone());
        let thread = wire.on_speaker(async move || {
            while let Some((wanted, done)) = receiver.recv().await {
                announcer.apply(&wanted);
                let _ = done.send(());
            }
        });
        Self {
            commands: Some(commands),
            thread: Some(thread),
            metrics,
        }
    }

    /// Returns when the announcer has been told.
    fn apply(&self, wanted: BTreeMap<String, Wanted>) {
        let (done, told) = mpsc::channel();
        let commands = self.commands.as_ref().expect("running");
        assert!(
            commands.send((wanted, done)).is_ok(),
            "the speaker's thread has ended"
        );
        told.recv().expect("the speaker's thread answers");
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn wanted(wire: &Wire, cable: usize, addresses: &[(Ipv4Addr, i64)]) -> BTreeMap<String, Wanted> {
    let name = format!("eth{cable}");
    let entry = |claim| Entry {
        claim,
        yielding: false,
    };
    let wanted = Wanted {
        index: wire.index(&name),
        mac: MACS[cable].parse().unwrap(),
        table: Table {
            addresses: addresses
                .iter()
                .map(|(address, claim)| (*address, entry(*claim)))
                .collect(),
            speakers: BTreeSet::new(),
        },
    };
    BTreeMap::from([(name, wanted)])
}

/// All ARP frames that the peer's `eth0` gets within this time.
fn listen(wire: &Wire, time: Duration) -> JoinHandle<Vec<(Duration, Frame)>> {
    let index = wire.peer_index("eth0");
    let (ready, listening) = mpsc::channel();
    let thread = wire.on_peer(async move || {
        let socket = ArpSocket::open(index).unwrap();
        ready.send(()).unwrap();
        let start = Instant::now();
        let mut frames = vec![];
        let mut buffer = [0; FRAME];
        while let Ok(length) =
            tokio::time::timeout_at((start + time).into(), socket.receive(&mut buffer)).await
        {
            frames.push((start.elapsed(), Frame::parse(&buffer[..length.unwrap()]).unwrap()));
        }
        frames
    });
    listening.recv().unwrap();
    thread
}

/// Waits until the speaker's socket is there, which `apply` does not.
fn until_answered(wire: &Wire) {
    eventually("the address is answered", || {
        let (count, macs) = wire.arping(&format!("-c 1 -w 1 -I eth0 {VIP}"));
        if count > 0 { Ok(()) } else { Err(macs) }
    });
}

#[test]
fn exactly_the_announced_address_is_answered_and_withdrawal_is_silence() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    let unanswered = |address: Ipv4Addr| wire.arping(&format!("-c 1 -w 1 -I eth0 {address}")).0;
    assert_eq!(unanswered(VIP), 0, "before it is announced");
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    let ours = vec![MACS[0].to_owned()];
    assert_eq!(
        wire.arping(&format!("-b -c 2 -w 3 -I eth0 {VIP}")),
        (2, ours.clone()),
        "broadcast"
    );
    // After its first answer arping asks the answering machine alone.
    assert_eq!(
        wire.arping(&format!("-c 3 -w 4 -I eth0 {VIP}")),
        (3, ours),
        "unicast"
    );
    assert_eq!(unanswered(OTHER), 0, "another address");
    assert!(
        speaker
            .metrics
            .arp_requests
            .get_or_create(&result("answered"))
            .get()
            >= 6
    );
    assert!(
        speaker
            .metrics
            .arp_requests
            .get_or_create(&result("ignored"))
            .get()
            >= 1
    );

    speaker.apply(BTreeMap::new());
    let frames = listen(&wire, Duration::from_millis(2500));
    assert_eq!(unanswered(VIP), 0, "after the withdrawal");
    assert_eq!(
        frames.join().unwrap(),
        [],
        "nothing unasked either, the rest of the burst included"
    );
}

fn result(result: &'static str) -> fairlead_speaker::metrics::ResultLabels {
    fairlead_speaker::metrics::ResultLabels { result }
}

#[test]
fn somebody_who_probes_for_the_address_is_told_that_it_is_in_use() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    // arping -D sends probes (sender 0.0.0.0) and succeeds if nobody answers.
    let free = |address: Ipv4Addr| {
        wire.peer(&format!("arping -D -c 2 -w 2 -I eth0 {address}"))
            .status
            .success()
    };
    assert!(!free(VIP));
    assert!(free(OTHER));
}

#[test]
fn the_answer_is_given_on_the_announcing_interface_only() {
    let wire = Wire::new();
    // Both cables are asked for the same address; only cable 0 announces it.
    let speaker = Speaker::start(&wire);
    let mut both = wanted(&wire, 0, &[(VIP, 1)]);
    both.extend(wanted(&wire, 1, &[(Ipv4Addr::new(198, 51, 100, 100), 1)]));
    speaker.apply(both);
    until_answered(&wire);
    let (count, macs) = wire.arping("-c 2 -w 2 -I eth1 198.51.100.100");
    assert_eq!((count, macs), (2, vec![MACS[1].to_owned()]));
    assert_eq!(wire.arping(&format!("-c 1 -w 1 -I eth1 {VIP}")).0, 0);
    assert_eq!(wire.arping("-c 1 -w 1 -I eth0 198.51.100.100").0, 0);
}

#[test]
fn gratuitous_arp_corrects_the_neighbour_table_and_comes_as_a_burst_in_both_forms() {
    let wire = Wire::new();
    let neighbour = || wire.peer_ip(&format!("neigh show {VIP} dev eth0"));
    wire.peer_ip(&format!(
        "neigh replace {VIP} lladdr 02:00:00:00:09:09 dev eth0 nud stale"
    ));
    assert!(neighbour().contains("02:00:00:00:09:09"));
    let frames = listen(&wire, Duration::from_millis(2800));
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    eventually("the kernel has learnt the new MAC address", || {
        let seen = neighbour();
        if seen.contains(MACS[0]) { Ok(()) } else { Err(seen) }
    });
    let frames = frames.join().unwrap();
    let mac: Mac = MACS[0].parse().unwrap();
    for operation in [Operation::Request, Operation::Reply] {
        let times: Vec<Duration> = frames
            .iter()
            .filter(|(_, frame)| frame.operation == operation)
            .map(|(time, _)| *time)
            .collect();
        assert_eq!(times.len(), 5, "{operation:?}: {frames:?}");
        let length = times[4] - times[0];
        assert!(
            length >= Duration::from_millis(1900) && length < Duration::from_millis(2700),
            "{times:?}"
        );
    }
    for (_, frame) in &frames {
        assert_eq!((frame.sender, frame.target, frame.sender_mac), (VIP, VIP, mac));
    }

    // The same claim again: nothing new. A new claim: another burst.
    let frames = listen(&wire, Duration::from_millis(500));
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    assert_eq!(frames.join().unwrap(), []);
    let frames = listen(&wire, Duration::from_millis(900));
    speaker.apply(wanted(&wire, 0, &[(VIP, 2)]));
    assert_eq!(frames.join().unwrap().len(), 6);
}

#[test]
fn a_stranger_who_uses_the_address_is_counted() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    assert_eq!(speaker.metrics.conflicts.get(), 0);
    wire.peer_ip(&format!("addr add {VIP}/32 dev eth0"));
    wire.peer(&format!("arping -U -c 1 -w 1 -I eth0 {VIP}"));
    eventually("the conflict is counted", || {
        match speaker.metrics.conflicts.get() {
            0 => Err("no conflict"),
            _ => Ok(()),
        }
    });
}

#[test]
fn an_interface_that_was_made_anew_is_served_again() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    // The socket fails while the interface is down, and is opened again.
    wire.speaker_ip("link set eth0 down");
    wire.speaker_ip("link set eth0 up");
    until_answered(&wire);
    wire.remake_first_cable();
    assert_eq!(
        wire.arping(&format!("-c 1 -w 1 -I eth0 {VIP}")).0,
        0,
        "the old socket is of no use"
    );
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
}

#[test]
fn links_are_followed() {
    let wire = Wire::new();
    let (sender, receiver) = watch::channel(None);
    let following = wire.on_speaker(async move || {
        tokio::select! {
            () = links::follow(sender.clone()) => {}
            () = sender.closed() => {}
        }
    });
    let link = |name: &str| -> Option<Link> {
        receiver
            .borrow()
            .as_ref()
            .and_then(|links: &Links| links.get(name).cloned())
    };
    let wait = |what: &str, check: &dyn Fn(Option<&Link>) -> bool| {
        eventually(what, || {
            let seen = link("eth0");
            if check(seen.as_ref()) { Ok(()) } else { Err(seen) }
        });
    };
    wait("listed", &|link| link.is_some_and(|link| link.up));
    let first = link("eth0").unwrap();
    assert_eq!(
        (first.mac, first.index),
        (MACS[0].parse().unwrap(), wire.index("eth0"))
    );
    assert_eq!(first.subnets[0], "192.0.2.0/24".parse().unwrap(), "{first:?}");
    assert!(!receiver.borrow().as_ref().unwrap().contains_key("lo"));

    // The cable is pulled at the other end: no carrier, though the interface is up.
    wire.peer_ip("link set eth0 down");
    wait("no carrier", &|link| link.is_some_and(|link| !link.up));
    wire.peer_ip("link set eth0 up");
    wait("carrier", &|link| link.is_some_and(|link| link.up));
    wire.speaker_ip("addr add 203.0.113.1/25 dev eth0");
    let net = "203.0.113.0/25".parse().unwrap();
    wait("new address", &|link| {
        link.is_some_and(|link| link.subnets.contains(&net))
    });
    wire.speaker_ip("addr del 203.0.113.1/25 dev eth0");
    wait("address gone", &|link| {
        link.is_some_and(|link| !link.subnets.contains(&net))
    });
    let has_gateways = |link: Option<&Link>, expected: &[&str]| {
        link.is_some_and(|link| {
            link.gateways
                .iter()
                .map(ToString::to_string)
                .eq(expected.iter().copied())
        })
    };
    wire.speaker_ip("route add 10.1.0.0/16 via 192.0.2.7");
    wait("a gateway", &|link| has_gateways(link, &["192.0.2.7"]));
    wire.speaker_ip("route add default via 192.0.2.254");
    wire.speaker_ip("-6 addr add 2001:db8::1/64 dev eth0 nodad");
    wire.speaker_ip("-6 route add default via 2001:db8::fe");
    wait("default routes before others", &|link| {
        has_gateways(link, &["192.0.2.254", "2001:db8::fe", "192.0.2.7"])
    });
    wire.speaker_ip("route del default");
    wire.speaker_ip("route replace 10.1.0.0/16 nexthop via 192.0.2.8 nexthop via 192.0.2.9");
    wait("gateways of one route", &|link| {
        has_gateways(link, &["2001:db8::fe", "192.0.2.8", "192.0.2.9"])
    });
    wire.speaker_ip("link set eth0 address 02:00:00:00:01:77");
    wait("new MAC", &|link| {
        link.is_some_and(|link| link.mac == "02:00:00:00:01:77".parse().unwrap())
    });
    wire.speaker_ip("link del eth0");
    wait("gone", &|link| link.is_none());
    wire.remake_first_cable();
    wait("late", &|link| {
        link.is_some_and(|link| link.up && !link.subnets.is_empty())
    });
    drop(receiver);
    following.join().unwrap();
}
