//! Sessions among a few nodes, with a network that the test plays.

mod hostile;
mod rotation;

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_core::model::NodeName;

use super::wire::{HEADER, MIN_DATAGRAM};
use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn key(n: u8) -> Key {
    Key::new(&[n; 32]).unwrap()
}

fn name(name: &str) -> NodeName {
    NodeName::from(name)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Numbers that look random (SplitMix64).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn random(mut self) -> Random {
        Box::new(move |bytes| {
            bytes.fill_with(|| self.roll(256) as u8);
            Ok(())
        })
    }
}

/// Nodes and the network between them.
struct Net {
    nodes: BTreeMap<String, Sessions>,
    names: Vec<NodeName>,
    /// Everything that was ever sent: from whom, to whom, what.
    recorded: Vec<(String, String, Vec<u8>)>,
    starts: u64,
}

impl Net {
    /// Nodes that all know key 1.
    fn new(names: &[&str]) -> Self {
        let mut net = Self {
            nodes: BTreeMap::new(),
            names: names.iter().map(|n| name(n)).collect(),
            recorded: Vec::new(),
            starts: 0,
        };
        for name in names {
            net.start(name, NEWEST, &[1], at(0));
        }
        net
    }

    /// A process starts on a node, after whatever was there.
    fn start(&mut self, node: &str, newest: u8, keys: &[u8], now: Duration) {
        self.starts += 1;
        let mut sessions = Sessions::new(&name(node), newest, Dice(self.starts).random()).unwrap();
        sessions.set_keys(keys.iter().map(|n| key(*n)).collect(), now);
        sessions.set_peers(&self.names);
        self.nodes.insert(node.to_owned(), sessions);
    }

    fn node(&mut self, node: &str) -> &mut Sessions {
        self.nodes.get_mut(node).unwrap()
    }

    fn seal(&mut self, from: &str, to: &str, messages: &[&[u8]], now: Duration) -> Vec<Vec<u8>> {
        let datagrams = self.node(from).seal(&name(to), messages, now).unwrap();
        for datagram in &datagrams {
            assert!(
                (MIN_DATAGRAM..=MAX_DATAGRAM).contains(&datagram.len()),
                "{}",
                datagram.len()
            );
            self.recorded
                .push((from.to_owned(), to.to_owned(), datagram.clone()));
        }
        datagrams
    }

    /// Delivers a datagram and all replies to it; answers what came of the datagram itself.
    fn deliver(&mut self, from: &str, to: &str, datagram: &[u8], now: Duration) -> Opened {
        let opened = self.node(to).open(datagram, now);
        let (mut sender, mut receiver) = (to.to_owned(), from.to_owned());
        let (mut reply, mut replies) = (opened.reply.clone(), 0);
        let mut length = datagram.len();
        while let Some(datagram) = reply {
            replies += 1;
            assert!(replies <= 3, "replies without end");
            assert!(
                datagram.len() <= length,
                "amplified: {} for {length}",
                datagram.len()
            );
            length = datagram.len();
            self.recorded
                .push((sender.clone(), receiver.clone(), datagram.clone()));
            reply = self.node(&receiver).open(&datagram, now).reply;
            std::mem::swap(&mut sender, &mut receiver);
        }
        opened
    }

    /// Sends once, and answers what arrived.
    fn once(&mut self, from: &str, to: &str, messages: &[&[u8]], now: Duration) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        for datagram in self.seal(from, to, messages, now) {
            let opened = self.deliver(from, to, &datagram, now);
            assert_eq!(opened.messages.is_empty(), opened.from.is_none());
            assert!(opened.from.is_none_or(|sender| sender == name(from)));
            arrived.extend(opened.messages);
        }
        arrived
    }

    /// Sends until it arrives; answers how often that was, if it did within `tries`.
    fn tries(&mut self, from: &str, to: &str, tries: usize, now: Duration) -> Option<usize> {
        (1..=tries).find(|_| !self.once(from, to, &[b"x"], now).is_empty())
    }
}

#[test]
fn two_strangers_come_together_in_one_and_a_half_round_trips() {
    let mut net = Net::new(&["a", "b"]);
    let now = at(1);
    let first = net.seal("a", "b", &[b"hello"], now).remove(0);
    let first = net.node("b").open(&first, now);
    assert_eq!((first.refused, first.answers), (Some(Refused::Unverified), true));
    let second = net.node("a").open(&first.reply.unwrap(), now);
    assert_eq!(
        (second.from, second.verified, second.answers),
        (Some(name("b")), true, true)
    );
    assert!(net.node("a").is_verified(&name("b")) && !net.node("b").is_verified(&name("a")));
    let third = net.node("b").open(&second.reply.unwrap(), now);
    assert_eq!(
        (third.from, third.verified, third.reply),
        (Some(name("a")), true, None)
    );
    assert!(net.node("b").is_verified(&name("a")));
    assert_eq!(net.once("a", "b", &[b"x"], now), [b"x"]);
    assert_eq!(net.once("b", "a", &[b"y"], now), [b"y"]);
}

#[test]
fn a_greeting_does_it_too_and_changes_nothing_later() {
    let mut net = Net::new(&["a", "b"]);
    for _ in 0..2 {
        let greeting = net.node("a").greet(&name("b"), at(1)).unwrap();
        net.deliver("a", "b", &greeting, at(1));
        assert_eq!(net.once("a", "b", &[b"x"], at(1)), [b"x"]);
        assert_eq!(net.once("b", "a", &[b"y"], at(1)), [b"y"]);
    }
}

#[test]
fn both_may_begin_at_once() {
    let mut net = Net::new(&["a", "b"]);
    let now = at(1);
    let from_a = net.seal("a", "b", &[b"1"], now).remove(0);
    let from_b = net.seal("b", "a", &[b"2"], now).remove(0);
    net.deliver("a", "b", &from_a, now);
    net.deliver("b", "a", &from_b, now);
    assert_eq!(net.once("a", "b", &[b"x"], now), [b"x"]);
    assert_eq!(net.once("b", "a", &[b"y"], now), [b"y"]);
}

#[test]
fn a_restart_on_either_side_costs_one_try() {
    let mut net = Net::new(&["a", "b"]);
    net.tries("a", "b", 2, at(1)).unwrap();
    for node in ["a", "b"] {
        net.start(node, NEWEST, &[1], at(2));
        assert_eq!(net.tries("a", "b", 2, at(3)), Some(2), "{node} restarted");
        assert_eq!(net.tries("b", "a", 2, at(3)), Some(1), "{node} restarted");
    }
}

#[test]
fn messages_are_packed_as_the_versions_allow() {
    let mut net = Net::new(&["a", "b"]);
    net.start("a", 1, &[1], at(0));
    let messages: Vec<Vec<u8>> = (1..=40u8).map(|n| vec![n; 100]).collect();
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    net.tries("a", "b", 2, at(1)).unwrap();
    for (from, to) in [("a", "b"), ("b", "a")] {
        assert_eq!(net.node(from).version(&name(to)), 1);
        assert_eq!(net.seal(from, to, &slices, at(1)).len(), 40, "one each");
        assert_eq!(net.once(from, to, &slices, at(1)), messages);
    }
    // An upgrade, and a downgrade.
    net.start("a", 2, &[1], at(2));
    net.tries("a", "b", 2, at(2)).unwrap();
    assert_eq!(net.node("b").version(&name("a")), 2);
    assert_eq!(net.seal("b", "a", &slices, at(2)).len(), 4, "twelve each");
    assert_eq!(net.once("b", "a", &slices, at(2)), messages);
    net.start("a", 1, &[1], at(3));
    net.tries("a", "b", 2, at(3)).unwrap();
    assert_eq!(net.once("b", "a", &slices, at(3)), messages);
    // Each of the greatest length, and none at all.
    let greatest = vec![7; MAX_MESSAGE];
    assert_eq!(net.once("a", "b", &[&greatest, &greatest], at(3)).len(), 2);
    assert_eq!(net.seal("a", "b", &[b"", b""], at(3)).len(), 0);
    let long = vec![7; MAX_MESSAGE + 1];
    let error = net.node("a").seal(&name("b"), &[b"x", &long], at(3));
    assert_eq!(error, Err(SealError::TooLong(MAX_MESSAGE + 1)));
}

#[test]
fn when_the_counters_of_an_epoch_end_the_next_one_begins() {
    let mut net = Net::new(&["a", "b"]);
    net.node("a").epoch_length = 10;
    let mut arrived = 0;
    for n in 0..100u64 {
        arrived += net.once("a", "b", &[b"x"], at(n)).len();
        assert!(net.nodes["b"].is_verified(&name("a")));
    }
    // One try of each epoch, of some eight, is lost.
    assert!(arrived >= 80, "{arrived} of 100");
    let epochs: std::collections::BTreeSet<&[u8]> = net
        .recorded
        .iter()
        .filter(|(from, ..)| from == "a")
        .map(|(.., datagram)| &datagram[10..HEADER])
        .collect();
    let sent = net.recorded.iter().filter(|(from, ..)| from == "a").count();
    assert_eq!(epochs.len(), sent, "no nonce is used twice");
}

#[test]
fn only_peers_have_sessions() {
    let mut net = Net::new(&NAMES);
    net.tries("a", "b", 2, at(1)).unwrap();
    net.tries("c", "b", 2, at(1)).unwrap();
    let of_c = net.seal("c", "b", &[b"x"], at(1)).remove(0);
    net.node("b").set_peers(&[name("a"), name("b")]);
    let opened = net.node("b").open(&of_c, at(1));
    assert_eq!((opened.refused, opened.reply), (Some(Refused::UnknownNode), None));
    let error = net.node("b").seal(&name("c"), &[b"x"], at(1));
    assert_eq!(error, Err(SealError::UnknownPeer(name("c"))));
    assert!(
        net.node("b").seal(&name("b"), &[b"x"], at(1)).is_err(),
        "not with itself"
    );
    assert_eq!(net.tries("a", "b", 1, at(1)), Some(1), "the others go on");
    // It comes back, and what it sent before is still old.
    net.node("b").set_peers(&[name("a"), name("c")]);
    assert_eq!(net.tries("c", "b", 2, at(1)), Some(2));
    assert_eq!(net.node("b").open(&of_c, at(1)).refused, Some(Refused::Replayed));
}

#[test]
fn without_a_key_nothing_is_sent_nor_taken() {
    let mut net = Net::new(&["a", "b"]);
    net.start("b", NEWEST, &[], at(0));
    assert_eq!(
        net.node("b").seal(&name("a"), &[b"x"], at(1)),
        Err(SealError::NoKey)
    );
    let datagram = net.seal("a", "b", &[b"x"], at(1)).remove(0);
    let opened = net.node("b").open(&datagram, at(1));
    assert_eq!((opened.refused, opened.reply), (Some(Refused::NoSuchKey), None));
}

/// `cargo test --release -p fairlead-speaker seal::tests::cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost() {
    let mut net = Net::new(&["a", "b"]);
    net.tries("a", "b", 2, at(1)).unwrap();
    for length in [50, 500, 1300] {
        let message = vec![1; length];
        let rounds = 100_000;
        let begun = std::time::Instant::now();
        for _ in 0..rounds {
            let datagram = net
                .nodes
                .get_mut("a")
                .unwrap()
                .seal(&name("b"), &[&message], at(1))
                .unwrap()
                .remove(0);
            assert_eq!(
                net.nodes
                    .get_mut("b")
                    .unwrap()
                    .open(&datagram, at(1))
                    .messages
                    .len(),
                1
            );
        }
        println!("{length} bytes: {:?} to seal and open", begun.elapsed() / rounds);
    }
}
