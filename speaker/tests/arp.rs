//! The speaker's ARP on a real wire, against the kernel's and arping's. Needs root, iproute2 and iputils-arping.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairlead_core::model::Family;
use fairlead_speaker::l2::arp::{Frame, Operation, gratuitous, probe};
use fairlead_speaker::l2::{ConflictPolicy, Mac};
use fairlead_speaker::links::{self, Link, Links};
use netns::speaker::{Speaker, mac, on_interface, send, wanted};
use netns::{MACS, PEER_MACS, Wire, eventually};
use tokio::sync::watch;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);

/// All ARP frames that the peer's `eth0` gets within this time.
fn listen(wire: &Wire, time: Duration) -> impl FnOnce() -> Vec<(Duration, Frame)> {
    let listening = netns::speaker::listen(wire, "eth0", Family::V4, time);
    let parse = |(time, frame): (Duration, Vec<u8>)| (time, Frame::parse(&frame).unwrap());
    move || listening.join().unwrap().into_iter().map(parse).collect()
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
    assert!(speaker.requests("ipv4", "answered") >= 6);
    assert!(speaker.requests("ipv4", "ignored") >= 1);

    speaker.apply(BTreeMap::new());
    let frames = listen(&wire, Duration::from_millis(2500));
    assert_eq!(unanswered(VIP), 0, "after the withdrawal");
    assert_eq!(
        frames(),
        [],
        "nothing unasked either, the rest of the burst included"
    );
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
    let frames = frames();
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
    assert_eq!(frames(), []);
    let frames = listen(&wire, Duration::from_millis(900));
    speaker.apply(wanted(&wire, 0, &[(VIP, 2)]));
    assert_eq!(frames().len(), 6);
}

#[test]
fn a_stranger_who_uses_the_address_is_reported_and_answered_once_in_a_while() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    let announced = wanted(&wire, 0, &[(VIP, 1)]);
    speaker.apply(announced.clone());
    until_answered(&wire);
    let seen = || {
        speaker
            .sightings
            .borrow()
            .conflicts
            .get(&IpAddr::from(VIP))
            .cloned()
    };
    assert_eq!(seen(), None);
    // The burst would hide the defence.
    std::thread::sleep(Duration::from_millis(2100));
    let frames = listen(&wire, Duration::from_secs(3));
    wire.peer_ip(&format!("addr add {VIP}/32 dev eth0"));
    wire.peer(&format!("arping -U -c 2 -w 2 -I eth0 {VIP}"));
    let conflict = eventually("the conflict is reported", || match seen() {
        Some(conflict) if conflict.count >= 2 => Ok(conflict),
        other => Err(other),
    });
    assert_eq!(
        (conflict.by, conflict.interface.as_str()),
        (mac(PEER_MACS[0]), "eth0")
    );
    assert_eq!(speaker.conflicts("ipv4", "defended"), 1);
    assert!(speaker.conflicts("ipv4", "reported") >= 1);
    let sent: Vec<Operation> = frames().into_iter().map(|(_, frame)| frame.operation).collect();
    assert_eq!(
        sent,
        [Operation::Request, Operation::Reply],
        "one defence, both forms"
    );

    // With the policy to yield, nothing is sent.
    let speaker = Speaker::start(&wire);
    let mut yields = announced;
    let entries = yields.get_mut("eth0").unwrap().table.addresses.values_mut();
    entries.for_each(|entry| entry.policy = ConflictPolicy::Yield);
    speaker.apply(yields);
    eventually("the conflict is reported", || {
        send(
            &wire,
            vec![gratuitous(mac(PEER_MACS[0]), VIP)[0].bytes().to_vec()],
        );
        match speaker.conflicts("ipv4", "reported") {
            0 => Err("no conflict"),
            _ => Ok(()),
        }
    });
    assert_eq!(speaker.conflicts("ipv4", "defended"), 0);
}

#[test]
fn a_fellow_who_announces_the_address_is_told_apart() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    let fellow: Mac = mac("02:00:00:00:05:05");
    let mut announced = wanted(&wire, 0, &[(VIP, 1)]);
    announced.get_mut("eth0").unwrap().table.speakers = BTreeSet::from([fellow]);
    speaker.apply(announced);
    until_answered(&wire);
    send(&wire, vec![gratuitous(fellow, VIP)[0].bytes().to_vec()]);
    eventually("the fellow is seen", || {
        let seen = speaker.sightings.borrow().clone();
        match seen.fellows.get(&IpAddr::from(VIP)) {
            Some((by, _)) if *by == fellow => Ok(()),
            _ => Err(seen),
        }
    });
    assert!(speaker.sightings.borrow().conflicts.is_empty());
}

#[test]
fn a_question_finds_who_has_the_address() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    wire.peer_ip(&format!("addr add {VIP}/32 dev eth0"));
    let frames = listen(&wire, Duration::from_millis(1500));
    ask(&wire, &speaker, &[VIP, OTHER]);
    eventually("the holder answers", || {
        let seen = speaker.sightings.borrow().clone();
        match seen.conflicts.get(&IpAddr::from(VIP)) {
            Some(conflict) if conflict.by == mac(PEER_MACS[0]) => Ok(()),
            _ => Err(seen),
        }
    });
    // Asked again, it is still the same question.
    ask(&wire, &speaker, &[VIP, OTHER]);
    assert_eq!(
        wire.arping(&format!("-c 1 -w 1 -I eth0 {OTHER}")).0,
        0,
        "nothing is announced"
    );
    let questions: Vec<Frame> = frames().into_iter().map(|(_, frame)| frame).collect();
    let ours = mac(MACS[0]);
    assert_eq!(questions, [probe(ours, VIP), probe(ours, OTHER)]);
    let seen = speaker.sightings.borrow().clone();
    assert!(!seen.conflicts.contains_key(&IpAddr::from(OTHER)), "{seen:?}");
    assert_eq!(speaker.conflicts("ipv4", "defended"), 0);
}

fn ask(wire: &Wire, speaker: &Speaker, addresses: &[Ipv4Addr]) {
    let on = BTreeSet::from(["eth0".to_owned()]);
    let addresses: BTreeMap<IpAddr, BTreeSet<String>> = addresses
        .iter()
        .map(|address| (IpAddr::from(*address), on.clone()))
        .collect();
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
}

#[test]
fn a_thousand_addresses_are_taken_over_while_requests_are_answered() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    let mut all: Vec<(Ipv4Addr, i64)> = vec![(VIP, 1)];
    all.extend((0..1000_u32).map(|n| (Ipv4Addr::from(0x0a00_0000 + n), 1)));
    let frames = listen(&wire, Duration::from_secs(3));
    let before = speaker.sent("ipv4");
    let start = Instant::now();
    speaker.apply(wanted(&wire, 0, &all));
    // The last in the order of the announcements.
    let answered = wire.arping("-c 1 -w 2 -I eth0 10.0.3.231");
    assert_eq!(answered, (1, vec![MACS[0].to_owned()]));
    let answered = start.elapsed();
    eventually("all are announced in both forms", || {
        match speaker.sent("ipv4") - before {
            sent if sent < 2000 => Err(sent),
            _ => Ok(()),
        }
    });
    println!(
        "the last was answered after {answered:?}, all were announced after {:?}",
        start.elapsed()
    );
    assert!(start.elapsed() < Duration::from_secs(1));
    // The peer may miss some of so many, but not all of one address' burst.
    let seen: BTreeSet<Ipv4Addr> = frames().into_iter().map(|(_, frame)| frame.sender).collect();
    let missed: Vec<_> = all
        .iter()
        .filter(|(address, _)| !seen.contains(address))
        .collect();
    assert_eq!(missed, [] as [&(Ipv4Addr, i64); 0]);
    eventually("all bursts are complete", || {
        let sent = speaker.sent("ipv4") - before;
        if sent >= 10_000 { Ok(()) } else { Err(sent) }
    });
}

#[test]
fn what_the_interface_has_no_room_for_is_sent_later() {
    let wire = Wire::new();
    wire.speaker_tc("qdisc add dev eth0 root tbf rate 2mbit burst 2000 limit 4000");
    let speaker = Speaker::start(&wire);
    let all: Vec<(Ipv4Addr, i64)> = (0..300_u32)
        .map(|n| (Ipv4Addr::from(0x0a00_0000 + n), 1))
        .collect();
    let frames = listen(&wire, Duration::from_secs(4));
    speaker.apply(wanted(&wire, 0, &all));
    let mut count: BTreeMap<(Ipv4Addr, u8), usize> = BTreeMap::new();
    for (_, frame) in frames() {
        *count.entry((frame.sender, frame.operation as u8)).or_default() += 1;
    }
    assert!(speaker.unsent("ipv4") > 0, "the queue was long enough");
    assert_eq!(count.len(), 600, "every address in both forms");
    assert!(
        count.values().all(|count| *count >= 5),
        "with its whole burst: {count:?}"
    );
}

#[test]
fn an_interface_that_appears_late_is_served() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    let mut announced = wanted(&wire, 0, &[(VIP, 1)]);
    wire.speaker_ip("link del eth0");
    speaker.apply(announced.clone());
    wire.remake_first_cable();
    let index = wire.index("eth0");
    assert_ne!(announced["eth0"].index, index);
    announced.get_mut("eth0").unwrap().index = index;
    speaker.apply(announced.clone());
    until_answered(&wire);
    // Another MAC address: another socket, and the neighbours learn it.
    let changed = "02:00:00:00:01:55";
    wire.speaker_ip(&format!("link set eth0 address {changed}"));
    announced.get_mut("eth0").unwrap().mac = mac(changed);
    speaker.apply(announced);
    eventually("the kernel has learnt the new MAC address", || {
        wire.peer(&format!("ping -c 1 -W 1 {VIP}"));
        let seen = wire.peer_ip(&format!("neigh show {VIP} dev eth0"));
        if seen.contains(changed) { Ok(()) } else { Err(seen) }
    });
}

/// The kernel hands a frame of another VLAN to the interface below only for captures.
#[test]
fn a_request_in_a_vlan_is_not_answered_on_the_interface_below() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    speaker.apply(wanted(&wire, 0, &[(VIP, 1)]));
    until_answered(&wire);
    let client = Ipv4Addr::new(192, 0, 2, 2);
    let plain = Frame {
        sender: client,
        ..probe(mac(PEER_MACS[0]), VIP)
    };
    let mut tagged = plain.bytes().to_vec();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x0a]);
    let before = speaker.requests("ipv4", "answered");
    send(&wire, vec![tagged, plain.bytes().to_vec()]);
    eventually("the one without a tag is answered", || {
        match speaker.requests("ipv4", "answered") - before {
            0 => Err("no answer"),
            _ => Ok(()),
        }
    });
    assert_eq!(speaker.requests("ipv4", "answered") - before, 1);
}

#[test]
fn a_bridge_is_announced_on_and_its_ports_are_not_listed() {
    let wire = Wire::new();
    let speaker = Speaker::start(&wire);
    for command in [
        "link add br0 type bridge",
        "link set br0 address 02:00:00:00:01:99",
        "link set eth0 master br0",
        "link set br0 up",
    ] {
        wire.speaker_ip(command);
    }
    let (receiver, following) = follow(&wire);
    eventually("eth0 is a port of br0", || {
        let links = receiver.borrow().clone().unwrap_or_default();
        let port = links.get("eth0").and_then(|link| link.master);
        let listed = links::interfaces(&links);
        if port == Some(wire.index("br0")) && listed.contains_key("br0") && !listed.contains_key("eth0") {
            Ok(())
        } else {
            Err(links)
        }
    });
    drop(receiver);
    following.join().unwrap();
    speaker.apply(on_interface(&wire, "br0", "02:00:00:00:01:99", &[(VIP, 1)]));
    until_answered(&wire);
    let (_, macs) = wire.arping(&format!("-c 2 -w 2 -I eth0 {VIP}"));
    assert_eq!(macs, ["02:00:00:00:01:99"]);
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

/// Follows the speaker's interfaces until the receiver is dropped.
fn follow(wire: &Wire) -> (watch::Receiver<Option<Links>>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(None);
    let following = wire.on_speaker(async move || {
        tokio::select! {
            () = links::follow(sender.clone()) => {}
            () = sender.closed() => {}
        }
    });
    (receiver, following)
}

#[test]
fn links_are_followed() {
    let wire = Wire::new();
    let (receiver, following) = follow(&wire);
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
