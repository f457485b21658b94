//! The speaker's neighbour discovery on a real wire, against the kernel's and ndisc6's. Needs root, iproute2, ndisc6 and
//! iputils-ping.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use fairlead_core::model::Family;
use fairlead_speaker::l2::ndp::{Frame, Message, probe, solicited_node, unsolicited};
use fairlead_speaker::links::{Link, Links};
use netns::speaker::{Speaker, mac, send, wanted};
use netns::{MACS, PEER_MACS, Wire, eventually};

const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3457);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ADVERTISED: Message = Message::Advertisement {
    router: false,
    solicited: false,
    overrides: true,
};
const ANSWERED: Message = Message::Advertisement {
    router: false,
    solicited: true,
    overrides: true,
};

/// All solicitations and advertisements about the address that the peer's `eth0` gets within this time, in frames that
/// are sent to it.
fn listen(wire: &Wire, target: Ipv6Addr, time: Duration) -> impl FnOnce() -> Vec<(Duration, Frame)> {
    let listening = netns::speaker::listen(wire, "eth0", Family::V6, time);
    let parse = |(time, frame): (Duration, Vec<u8>)| (time, Frame::parse(&frame).unwrap());
    move || {
        let frames = listening.join().unwrap().into_iter().map(parse);
        frames.filter(|(_, frame)| frame.target == target).collect()
    }
}

/// The MAC address that `ndisc6` finds for the address on the peer's interface.
fn ndisc(wire: &Wire, device: &str, address: Ipv6Addr) -> Option<String> {
    let output = wire.peer(&format!("ndisc6 -q -1 -r 1 -w 500 {address} {device}"));
    let text = String::from_utf8_lossy(&output.stdout).trim().to_lowercase();
    output.status.success().then_some(text)
}

fn until_answered(wire: &Wire) {
    eventually("the address is answered", || {
        let output = wire.peer(&format!("ndisc6 -1 -r 1 -w 500 {VIP} eth0"));
        if output.status.success() {
            Ok(())
        } else {
            Err(output)
        }
    });
}

#[test]
fn exactly_the_announced_address_is_answered_and_withdrawal_is_silence() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    assert_eq!(ndisc(&wire, "eth0", VIP), None, "before it is announced");
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    assert_eq!(ndisc(&wire, "eth0", VIP).as_deref(), Some(MACS[0]));
    assert_eq!(ndisc(&wire, "eth0", OTHER), None);
    // ndisc6 would take an announcement on any interface for an answer.
    let elsewhere = netns::speaker::listen(&wire, "eth1", Family::V6, Duration::from_secs(1));
    ndisc(&wire, "eth1", VIP);
    let about = |(_, frame): &(Duration, Vec<u8>)| Frame::parse(frame).unwrap().target == VIP;
    assert!(!elsewhere.join().unwrap().iter().any(about), "another interface");
    assert!(speaker.requests("ipv6", "answered") >= 2);

    // The kernel asks by multicast, and the entry it makes it then checks by unicast.
    wire.peer(&format!("ping -c 1 -W 1 {VIP}"));
    let neighbour = || wire.peer_ip(&format!("-6 neigh show {VIP} dev eth0"));
    eventually("the kernel knows the MAC address", || {
        let seen = neighbour();
        if seen.contains(MACS[0]) && seen.contains("REACHABLE") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let frames = listen(&wire, VIP, Duration::from_secs(4));
    let before = speaker.requests("ipv6", "answered");
    wire.peer_ip(&format!("-6 neigh change {VIP} dev eth0 nud probe"));
    eventually("the kernel's unicast question is answered", || {
        let seen = neighbour();
        if seen.contains("REACHABLE") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    assert!(speaker.requests("ipv6", "answered") > before);
    let answer = Frame {
        destination: mac(PEER_MACS[0]),
        source: mac(MACS[0]),
        from: VIP,
        to: "fe80::ff:fe00:200".parse().unwrap(),
        message: ANSWERED,
        target: VIP,
        link: Some(mac(MACS[0])),
    };
    let answers: Vec<Frame> = frames()
        .into_iter()
        .map(|(_, frame)| frame)
        .filter(|frame| frame.message == ANSWERED)
        .collect();
    assert_eq!(answers, [answer]);

    speaker.apply(BTreeMap::new());
    let frames = listen(&wire, VIP, Duration::from_millis(2500));
    assert_eq!(ndisc(&wire, "eth0", VIP), None, "after the withdrawal");
    assert_eq!(frames(), [], "nothing unasked either");
}

#[test]
fn advertisements_correct_the_neighbour_table_and_come_as_a_burst() {
    let wire = Wire::new();
    let neighbour = || wire.peer_ip(&format!("-6 neigh show {VIP} dev eth0"));
    wire.peer_ip(&format!(
        "-6 neigh replace {VIP} lladdr 02:00:00:00:09:09 dev eth0 nud stale"
    ));
    assert!(neighbour().contains("02:00:00:00:09:09"));
    let frames = listen(&wire, VIP, Duration::from_millis(2800));
    let elsewhere = netns::speaker::listen(&wire, "eth1", Family::V6, Duration::from_millis(2800));
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    eventually("the kernel has learnt the new MAC address", || {
        let seen = neighbour();
        if seen.contains(MACS[0]) { Ok(()) } else { Err(seen) }
    });
    let frames = frames();
    assert_eq!(frames.len(), 5, "{frames:?}");
    let length = frames[4].0 - frames[0].0;
    assert!(
        length >= Duration::from_millis(1900) && length < Duration::from_millis(2700),
        "{frames:?}"
    );
    let expected = Frame {
        destination: mac("33:33:00:00:00:01"),
        source: mac(MACS[0]),
        from: VIP,
        to: ALL_NODES,
        message: ADVERTISED,
        target: VIP,
        link: Some(mac(MACS[0])),
    };
    assert!(frames.iter().all(|(_, frame)| *frame == expected), "{frames:?}");
    let about = |frame: &Vec<u8>| Frame::parse(frame).unwrap().target == VIP;
    let elsewhere = elsewhere.join().unwrap();
    assert!(!elsewhere.iter().any(|(_, frame)| about(frame)), "{elsewhere:?}");

    // The same claim again: nothing new. A new claim: another burst.
    let frames = listen(&wire, VIP, Duration::from_millis(500));
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    assert_eq!(frames(), []);
    let frames = listen(&wire, VIP, Duration::from_millis(900));
    speaker.apply(wanted(&wire, 0, &[(VIP, 2)]));
    assert_eq!(frames().len(), 3);
}

#[test]
fn a_kernel_that_gives_itself_the_address_finds_it_taken() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    std::thread::sleep(Duration::from_millis(2100)); // the burst would do it too
    wire.peer_sysctl("net.ipv6.conf.eth0.accept_dad=1");
    let frames = listen(&wire, VIP, Duration::from_secs(2));
    wire.peer_ip(&format!("addr add {VIP}/64 dev eth0"));
    wire.peer_ip(&format!("addr add {OTHER}/64 dev eth0"));
    let state = |address: Ipv6Addr| wire.peer_ip(&format!("-6 -o addr show dev eth0 to {address}/128"));
    eventually("duplicate address detection fails", || {
        let seen = state(VIP);
        if seen.contains("dadfailed") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    eventually("and passes for another address", || {
        let seen = state(OTHER);
        if seen.contains("tentative") {
            Err(seen)
        } else {
            Ok(())
        }
    });
    let answers = frames();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let answer = answers[0].1;
    assert_eq!((answer.to, answer.message), (ALL_NODES, ADVERTISED));
    assert!(
        speaker.sightings.borrow().conflicts.is_empty(),
        "who only asks is no conflict"
    );
}

#[test]
fn the_solicited_node_group_is_joined_while_the_address_is_announced() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    let member = |group: Ipv6Addr, expected: bool| {
        eventually("membership", || {
            let seen = wire.speaker_ip("-6 maddr show dev eth0");
            if seen.contains(&format!(" {group}")) == expected {
                Ok(())
            } else {
                Err(seen)
            }
        });
    };
    // Two that share a group, and many more than the kernel grants to one socket.
    let twin = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x9912, 0x3456);
    let group = solicited_node(VIP);
    assert_eq!(solicited_node(twin), group);
    let mut all: Vec<(Ipv6Addr, i64)> = vec![(VIP, 1), (twin, 1)];
    let many = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n);
    all.extend((0..5000).map(|n| (many(n), 1)));
    speaker.apply(wanted(&wire, 0, &all));
    member(group, true);
    member(solicited_node(many(4999)), true);
    speaker.apply(wanted(&wire, 0, &[(twin, 1)]));
    member(solicited_node(many(4999)), false);
    member(group, true);
    // Down and up again: still a member.
    wire.speaker_ip("link set eth0 down");
    wire.speaker_ip("link set eth0 up");
    member(group, true);
    speaker.apply(BTreeMap::new());
    member(group, false);
}

#[test]
fn a_stranger_who_uses_the_address_is_reported_and_answered_once_in_a_while() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    std::thread::sleep(Duration::from_millis(2100)); // the burst would hide the defence
    let frames = listen(&wire, VIP, Duration::from_millis(1500));
    // The kernel announces an address that it is given.
    wire.peer_sysctl("net.ipv6.conf.eth0.ndisc_notify=1");
    wire.peer_ip(&format!("addr add {VIP}/128 dev eth0 nodad"));
    send(&wire, vec![unsolicited(mac(PEER_MACS[0]), VIP).bytes(); 2]);
    let conflict = eventually("the conflict is reported", || {
        let seen = speaker.sightings.borrow().clone();
        match seen.conflicts.get(&IpAddr::from(VIP)) {
            Some(conflict) if conflict.count >= 2 => Ok(conflict.clone()),
            _ => Err(seen),
        }
    });
    assert_eq!(
        (conflict.by, conflict.interface.as_str()),
        (mac(PEER_MACS[0]), "eth0")
    );
    assert_eq!(speaker.conflicts("ipv6", "defended"), 1);
    assert!(speaker.conflicts("ipv6", "reported") >= 1);
    let frames = frames();
    assert_eq!(frames.len(), 1, "one defence: {frames:?}");
    assert_eq!(frames[0].1.message, ADVERTISED);
}

#[test]
fn a_question_finds_who_has_the_address() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    wire.peer_ip(&format!("addr add {VIP}/128 dev eth0 nodad"));
    let frames = listen(&wire, VIP, Duration::from_secs(1));
    let on = BTreeSet::from(["eth0".to_owned()]);
    let addresses: BTreeMap<IpAddr, BTreeSet<String>> = [VIP, OTHER]
        .map(|address| (IpAddr::from(address), on.clone()))
        .into();
    let link = Link {
        index: wire.index("eth0"),
        mac: mac(MACS[0]),
        up: true,
        master: None,
        subnets: vec![],
        gateways: vec![],
    };
    let links = Links::from([("eth0".to_owned(), link)]);
    speaker.tell(move |announcer| announcer.ask(&addresses, &links, &BTreeSet::new()));
    eventually("the holder answers", || {
        let seen = speaker.sightings.borrow().clone();
        match seen.conflicts.get(&IpAddr::from(VIP)) {
            Some(conflict) if conflict.by == mac(PEER_MACS[0]) => Ok(()),
            _ => Err(seen),
        }
    });
    let questions: Vec<Frame> = frames().into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(questions, [probe(mac(MACS[0]), VIP)]);
    assert_eq!(speaker.sightings.borrow().conflicts.len(), 1);
    assert_eq!(ndisc(&wire, "eth0", OTHER), None, "nothing is announced");
}

#[test]
fn an_interface_that_flaps_or_is_made_anew_is_served_again() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    wire.speaker_ip("link set eth0 down");
    wire.speaker_ip("link set eth0 up");
    until_answered(&wire);
    wire.remake_first_cable();
    assert_eq!(ndisc(&wire, "eth0", VIP), None, "the old socket is of no use");
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
}
