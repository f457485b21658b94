//! A key takes another's place while everybody goes on talking.

use super::*;

const NODES: [&str; 8] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];

/// All pairs, each with at most two tries.
fn all_can_talk(net: &mut Net, now: Duration, what: &str) {
    for from in NODES {
        for to in NODES.into_iter().filter(|to| *to != from) {
            assert!(net.tries(from, to, 2, now).is_some(), "{what}: {from} to {to}");
        }
    }
}

#[test]
fn watches_that_lag_open_no_gap() {
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let mut net = Net::new(&NODES);
        all_can_talk(&mut net, at(1), "before");
        let mut now = at(10);
        for key_number in 2..6u8 {
            let mut waiting: Vec<&str> = NODES.to_vec();
            while !waiting.is_empty() {
                // Some watches are minutes late, and some nodes say nothing in between.
                now += Duration::from_millis(dice.roll(60_000));
                let node = waiting.swap_remove(dice.roll(waiting.len() as u64) as usize);
                net.node(node).set_keys(vec![key(key_number)], now);
                if dice.roll(2) == 0 {
                    all_can_talk(
                        &mut net,
                        now,
                        &format!("seed {seed}, key {key_number}, without {waiting:?}"),
                    );
                }
            }
            all_can_talk(&mut net, now, "all have it");
            let last = net.recorded.last().unwrap().2.clone();
            assert_eq!(last[6..10], key(key_number).id().0, "the newest is in use");
            now += at(dice.roll(700));
            all_can_talk(&mut net, now, "later");
        }
    }
}

#[test]
fn a_node_that_missed_a_key_in_between_goes_on() {
    let mut net = Net::new(&["n0", "n1"]);
    net.tries("n0", "n1", 2, at(1)).unwrap();
    net.node("n0").set_keys(vec![key(2)], at(10));
    net.tries("n0", "n1", 1, at(11)).unwrap();
    // n1 sees only the third, n0 only the second.
    net.node("n1").set_keys(vec![key(3)], at(20));
    for (from, to) in [("n0", "n1"), ("n1", "n0")] {
        assert!(net.tries(from, to, 2, at(21)).is_some(), "{from} to {to}");
        assert_eq!(net.tries(from, to, 1, at(22)), Some(1), "{from} to {to}");
    }
}

#[test]
fn strangers_with_one_key_in_common_find_it() {
    // The newest keys differ; a Secret may hold several.
    for (one, other) in [
        (&[1u8, 2][..], &[2u8][..]),
        (&[3, 2], &[1, 2]),
        (&[1, 3, 2], &[2]),
    ] {
        let mut net = Net::new(&["n0", "n1"]);
        net.start("n0", NEWEST, one, at(0));
        net.start("n1", NEWEST, other, at(0));
        // Each try finds out about one key.
        for (from, to) in [("n0", "n1"), ("n1", "n0")] {
            let tries = net.tries(from, to, 4, at(1));
            assert!(tries.is_some(), "{one:?} and {other:?}, {from} to {to}");
            assert_eq!(net.tries(from, to, 1, at(1)), Some(1));
        }
    }
}

#[test]
fn a_peer_that_starts_anew_with_the_newest_key_only_is_reached() {
    let mut net = Net::new(&["n0", "n1"]);
    net.tries("n0", "n1", 2, at(1)).unwrap();
    net.node("n0").set_keys(vec![key(2)], at(2));
    // As far as n0 knows, n1 has the first key.
    net.start("n1", NEWEST, &[2], at(3));
    assert!(net.tries("n0", "n1", 3, at(4)).is_some());
    assert_eq!(net.tries("n1", "n0", 1, at(4)), Some(1));
}

#[test]
fn after_ten_minutes_the_old_key_is_nothing() {
    let mut net = Net::new(&["n0", "n1"]);
    net.tries("n0", "n1", 2, at(1)).unwrap();
    net.node("n1").set_keys(vec![key(2)], at(10));
    // n0 never hears of the new key.
    assert_eq!(net.tries("n0", "n1", 1, at(609)), Some(1));
    assert_eq!(net.tries("n1", "n0", 1, at(609)), Some(1));
    let datagram = net.seal("n0", "n1", &[b"x"], at(610)).remove(0);
    assert_eq!(
        net.node("n1").open(&datagram, at(610)).refused,
        Some(Refused::NoSuchKey)
    );
    assert_eq!(net.tries("n1", "n0", 3, at(611)), None);
}
