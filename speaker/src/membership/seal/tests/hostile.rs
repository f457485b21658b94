//! What is not fresh and from a peer is refused.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// `a` and `b` know each other, and a datagram from `a` to `b` is under way.
fn under_way() -> (Net, Vec<u8>) {
    let mut net = Net::new(&NAMES);
    net.tries("a", "b", 2, at(1)).unwrap();
    net.tries("c", "b", 2, at(1)).unwrap();
    let datagram = net.seal("a", "b", &[b"x"], at(1)).remove(0);
    (net, datagram)
}

fn changed(datagram: &[u8], place: usize) -> Vec<u8> {
    let mut datagram = datagram.to_vec();
    datagram[place] ^= 1;
    datagram
}

#[test]
fn each_refusal() {
    type Case = (&'static str, fn(&mut Net, &[u8]) -> Vec<u8>, Refused);
    let cases: [Case; 15] = [
        ("nothing", |_, _| Vec::new(), Refused::Malformed),
        (
            "half of it",
            |_, d| d[..MIN_DATAGRAM - 1].to_vec(),
            Refused::Malformed,
        ),
        (
            "too much",
            |_, d| [d, &[0; MAX_DATAGRAM]].concat(),
            Refused::Malformed,
        ),
        (
            "a kind that is none",
            |_, d| [&d[..1], &[9], &d[2..]].concat(),
            Refused::Malformed,
        ),
        ("version 0", |_, d| [&[0], &d[1..]].concat(), Refused::Version),
        ("version 3", |_, d| [&[3], &d[1..]].concat(), Refused::Version),
        ("another destination", |_, d| changed(d, 5), Refused::NotForUs),
        (
            "to c",
            |n, _| n.seal("a", "c", &[b"x"], at(1)).remove(0),
            Refused::NotForUs,
        ),
        ("another key's name", |_, d| changed(d, 9), Refused::NoSuchKey),
        ("another epoch", |_, d| changed(d, 25), Refused::Forged),
        ("another counter", |_, d| changed(d, 32), Refused::Forged),
        ("changed contents", |_, d| changed(d, HEADER + 1), Refused::Forged),
        ("a changed tag", |_, d| changed(d, d.len() - 1), Refused::Forged),
        (
            "repeated",
            |n, d| {
                assert_eq!(n.node("b").open(d, at(1)).messages, [b"x"]);
                d.to_vec()
            },
            Refused::Replayed,
        ),
        (
            "a restarted sender",
            |n, _| {
                n.start("a", NEWEST, &[1], at(1));
                n.seal("a", "b", &[b"x"], at(1)).remove(0)
            },
            Refused::Unverified,
        ),
    ];
    for (what, make, refused) in cases {
        let (mut net, datagram) = under_way();
        let made = make(&mut net, &datagram);
        let opened = net.node("b").open(&made, at(1));
        assert_eq!(opened.refused, Some(refused), "{what}");
        assert!(opened.from.is_none() && opened.messages.is_empty(), "{what}");
        let replies = [Refused::Unverified, Refused::NoSuchKey].contains(&refused);
        assert_eq!(opened.reply.is_some(), replies, "{what}");
        // The connection is none the worse for it.
        if refused != Refused::Replayed && refused != Refused::Unverified {
            assert_eq!(net.node("b").open(&datagram, at(1)).messages, [b"x"], "{what}");
        }
    }
    assert_eq!(
        Refused::ALL
            .map(Refused::as_str)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        8
    );
}

#[test]
fn the_destination_is_authenticated_beyond_its_short_form() {
    let (mut net, _) = under_way();
    let to_c = net.seal("a", "c", &[b"x"], at(1)).remove(0);
    let mut redirected = to_c;
    redirected[2..6].copy_from_slice(&wire::NodeId::of(&name("b")).short());
    assert_eq!(
        net.node("b").open(&redirected, at(1)).refused,
        Some(Refused::Forged)
    );
}

#[test]
fn nothing_that_was_ever_sent_is_taken_again() {
    let mut net = Net::new(&NAMES);
    let mut restarts = Dice(7);
    for round in 0..40u64 {
        let now = at(round * 3);
        if round % 4 == 3 {
            let node = NAMES[restarts.roll(3) as usize];
            net.start(node, NEWEST, &[1], now);
        }
        for from in NAMES {
            for to in NAMES.into_iter().filter(|to| *to != from) {
                net.tries(from, to, 2, now).unwrap();
            }
        }
        // Each of them to each node, the replies to where they claim to come from, with some of them lost.
        let recorded = net.recorded.clone();
        for (from, _, datagram) in &recorded[recorded.len().saturating_sub(300)..] {
            for to in NAMES.into_iter().filter(|to| to != from) {
                let opened = if restarts.roll(2) == 0 {
                    net.node(to).open(datagram, now)
                } else {
                    net.deliver(from, to, datagram, now)
                };
                assert_eq!(
                    (opened.from, opened.messages.len()),
                    (None, 0),
                    "{round}: {from} to {to}"
                );
            }
        }
        // The repeated ones cost replies, not the connection: as time goes on, all can talk.
        let later = now + at(2);
        for from in NAMES {
            for to in NAMES.into_iter().filter(|to| *to != from) {
                assert!(net.tries(from, to, 2, later).is_some(), "{round}: {from} to {to}");
            }
        }
    }
}

#[test]
fn an_answer_is_good_once_and_not_for_long() {
    let mut net = Net::new(&["a", "b"]);
    let hello = net.seal("a", "b", &[b"x"], at(100)).remove(0);
    let challenge = net.node("b").open(&hello, at(100)).reply.unwrap();
    let answer = net.node("a").open(&challenge, at(100)).reply.unwrap();
    // Held back for too long.
    assert_eq!(
        net.node("b").open(&answer, at(121)).refused,
        Some(Refused::Unverified)
    );
    // `a` starts anew and is verified; the old answer, even in time, brings the old epoch not back.
    let hello = net.seal("a", "b", &[b"x"], at(130)).remove(0);
    let challenge = net.node("b").open(&hello, at(130)).reply.unwrap();
    let answer = net.node("a").open(&challenge, at(130)).reply.unwrap();
    net.start("a", NEWEST, &[1], at(131));
    net.tries("a", "b", 2, at(131)).unwrap();
    assert_eq!(
        net.node("b").open(&answer, at(131)).refused,
        Some(Refused::Unverified)
    );
    assert_eq!(net.tries("a", "b", 1, at(131)), Some(1));
}

#[test]
fn replies_are_limited() {
    let mut net = Net::new(&["a", "b"]);
    net.tries("a", "b", 2, at(1)).unwrap();
    let old = net.seal("a", "b", &[b"x"], at(1)).remove(0);
    net.start("a", NEWEST, &[1], at(2));
    net.tries("a", "b", 2, at(2)).unwrap();
    let mut count = |datagram: &[u8], from: u64, to: u64| {
        let replies = (from..to).filter(|ms| {
            let reply = net.node("b").open(datagram, Duration::from_millis(*ms)).reply;
            reply.is_some_and(|reply| reply.len() <= datagram.len())
        });
        replies.count()
    };
    assert!(count(&old, 3000, 4000) <= 20, "repeating an old datagram");
    let mut unknown = old.clone();
    unknown[6..10].fill(9);
    assert!(count(&unknown, 3000, 4000) <= 70, "keys that nobody knows");
}

#[test]
fn a_wrong_key_never_gets_in() {
    let mut net = Net::new(&NAMES);
    net.start("c", NEWEST, &[2], at(0));
    net.tries("a", "b", 2, at(1)).unwrap();
    for n in 0..50 {
        for other in ["a", "b"] {
            assert!(net.once("c", other, &[b"x"], at(n)).is_empty());
            assert!(net.once(other, "c", &[b"x"], at(n)).is_empty());
        }
    }
    assert!(!net.node("a").is_verified(&name("c")) && !net.node("c").is_verified(&name("a")));
    assert_eq!(net.tries("a", "b", 1, at(51)), Some(1));
}

#[test]
fn a_refusal_of_a_key_that_names_no_datagram_of_ours_is_nothing() {
    let (mut net, datagram) = under_way();
    net.node("a").set_keys(vec![key(2)], at(1));
    let mut refusal = datagram[..HEADER].to_vec();
    refusal[1] = 3;
    for place in [9, 10, 32] {
        assert_eq!(
            net.node("a").open(&changed(&refusal, place), at(1)),
            Opened::default()
        );
        let next = net.seal("a", "b", &[b"x"], at(1)).remove(0);
        assert_eq!(next[6..10], datagram[6..10], "the key that b is known to have");
    }
    assert_eq!(net.node("a").open(&refusal, at(1)), Opened::default());
    let next = net.seal("a", "b", &[b"x"], at(1)).remove(0);
    assert_eq!(next[6..10], key(2).id().0, "another one that is accepted");
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        let (mut net, _) = under_way();
        let opened = net.node("b").open(&bytes, at(1));
        prop_assert!(opened.from.is_none() && opened.messages.is_empty() && !opened.verified);
        prop_assert!(opened.reply.is_none_or(|reply| reply.len() <= bytes.len()));
    }

    #[test]
    fn a_datagram_with_any_byte_changed_is_refused(place in 0usize..MIN_DATAGRAM, with in 1u8..) {
        let (mut net, mut datagram) = under_way();
        datagram[place] ^= with;
        let opened = net.node("b").open(&datagram, at(1));
        prop_assert!(opened.from.is_none() && opened.messages.is_empty());
    }

    /// Whatever the network does, and whoever starts anew: a message comes once at the most, to whom it was sent, from
    /// whom it was sent, and not into a later process.
    #[test]
    fn in_any_network_messages_come_once(seed: u64, steps in 50usize..300) {
        let mut dice = Dice(seed);
        let mut net = Net::new(&NAMES);
        let mut wire: Vec<(&str, &str, Vec<u8>)> = Vec::new();
        let (mut sent, mut arrived) = (0u64, BTreeSet::new());
        for step in 0..steps {
            let now = Duration::from_millis(100 * step as u64);
            let from = NAMES[dice.roll(3) as usize];
            let to = NAMES[(dice.roll(2) as usize + NAMES.iter().position(|n| *n == from).unwrap() + 1) % 3];
            match dice.roll(20) {
                0 => net.start(from, 1 + dice.roll(2) as u8, &[1], now),
                1..6 => {
                    sent += 1;
                    let message = format!("{sent} {from} {to} {}", net.starts);
                    for datagram in net.seal(from, to, &[message.as_bytes()], now) {
                        wire.push((from, to, datagram));
                    }
                }
                _ if wire.is_empty() => {}
                what => {
                    let place = dice.roll(wire.len() as u64) as usize;
                    let (from, to, datagram) = wire[place].clone();
                    // Some are lost, some come again.
                    if what < 19 { wire.swap_remove(place); }
                    if what < 8 { continue; }
                    let opened = net.node(to).open(&datagram, now);
                    for message in opened.messages {
                        let text = String::from_utf8(message).unwrap();
                        let words: Vec<&str> = text.split(' ').collect();
                        prop_assert_eq!((words[1], words[2]), (from, to));
                        prop_assert_eq!(opened.from.as_ref(), Some(&name(from)));
                        prop_assert!(arrived.insert(text.clone()), "{} came twice", text);
                    }
                    if let Some(reply) = opened.reply {
                        prop_assert!(reply.len() <= datagram.len());
                        wire.push((to, from, reply));
                    }
                }
            }
        }
        // When the network is sound again, all can talk once each has spoken.
        let now = |round: usize| at(1010 - round as u64);
        for round in [4, 2] {
            for from in NAMES {
                for to in NAMES.into_iter().filter(|to| *to != from) {
                    let tries = net.tries(from, to, round, now(round));
                    prop_assert!(round == 4 || tries.is_some(), "{} to {}", from, to);
                }
            }
        }
    }
}
