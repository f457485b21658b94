use std::net::IpAddr;

use fairlead_core::announce::Candidacy;
use proptest::prelude::*;

use super::super::wire::{Message, PARTED, ROUTED, encode_candidacy};
use super::*;

type Contents = BTreeMap<Key, Vec<u8>>;

fn contents(addresses: impl IntoIterator<Item = (u16, i64)>) -> Contents {
    let one = |(number, claim): (u16, i64)| {
        let [a, b] = number.to_be_bytes();
        let candidacy = Candidacy {
            claim: Some(claim),
            ..Candidacy::default()
        };
        (
            Key::address(IpAddr::from([192, 0, a, b])),
            encode_candidacy(&candidacy),
        )
    };
    addresses.into_iter().map(one).collect()
}

fn name(n: usize) -> NodeName {
    NodeName(format!("node{n}"))
}

/// Lets the second tell the first all that it lacks, as over a wire that loses nothing; answers how many pieces it took.
fn teach(replicas: &mut [Replica], learner: usize, teacher: usize) -> usize {
    let mut pieces = 0;
    for _ in 0..10_000 {
        let known: Vec<Known> = replicas[teacher].vector().collect();
        let lacking = replicas[learner].lacking(&known);
        let send: Vec<Delta> = lacking
            .into_iter()
            .flat_map(|known| replicas[teacher].answer(known))
            .collect();
        if send.is_empty() {
            return pieces;
        }
        for delta in send {
            pieces += 1;
            let wire = Message::Delta(delta).encode();
            assert!(wire.len() <= 1300, "{} bytes", wire.len());
            let Ok(Some(Message::Delta(delta))) = Message::decode(&wire) else {
                panic!("not read back")
            };
            replicas[learner].take(delta);
        }
    }
    panic!("never ends");
}

fn agree(a: &Replica, b: &Replica) {
    assert_eq!(a.digest(), b.digest());
    let show = |replica: &Replica| -> Vec<(NodeName, Record)> {
        replica
            .records()
            .map(|(node, record)| (node.clone(), record.as_ref().clone()))
            .collect()
    };
    assert_eq!(show(a), show(b));
}

#[test]
fn what_is_published_arrives_and_what_is_withdrawn_goes() {
    let mut all = [Replica::new(name(0), 1), Replica::new(name(1), 1)];
    let told = all[0].publish(&contents([(1, 1), (2, 1)]));
    assert_eq!(told.len(), 1);
    for delta in told {
        assert_eq!(
            all[1].take(delta),
            Taken {
                news: true,
                ..Taken::default()
            }
        );
    }
    assert!(
        all[0].publish(&contents([(1, 1), (2, 1)])).is_empty(),
        "nothing new"
    );
    let second = all[0].publish(&contents([(2, 3)]));
    for delta in second.clone() {
        assert!(all[1].take(delta).news);
    }
    for delta in second {
        assert_eq!(all[1].take(delta), Taken::default(), "twice is once");
    }
    let record = all[1]
        .records()
        .find(|(node, _)| **node == name(0))
        .unwrap()
        .1
        .clone();
    assert_eq!(record.candidacies.len(), 1);
    assert_eq!(record.candidacies[&IpAddr::from([192, 0, 0, 2])].claim, Some(3));
}

#[test]
fn a_missed_piece_is_asked_for() {
    let mut all = [Replica::new(name(0), 1), Replica::new(name(1), 1)];
    let _lost = all[0].publish(&contents([(1, 1)]));
    let second = all[0].publish(&contents([(1, 1), (2, 1)]));
    let taken = all[1].take(second[0].clone());
    let ask = taken.ask.unwrap();
    assert_eq!((taken.news, ask.head), (false, 0));
    for delta in all[0].answer(ask) {
        assert!(all[1].take(delta).news);
    }
    let (mine, theirs) = (
        all[0].vector().find(|known| known.origin == name_hash(&name(0))),
        all[1].vector().find(|known| known.origin == name_hash(&name(0))),
    );
    assert_eq!(mine, theirs);
}

#[test]
fn a_large_record_comes_in_bursts_and_any_node_can_give_it() {
    let mut all = [
        Replica::new(name(0), 1),
        Replica::new(name(1), 1),
        Replica::new(name(2), 1),
    ];
    all[0].publish(&contents((0..10_000).map(|n| (n, 1))));
    let pieces = teach(&mut all, 1, 0);
    assert!((100..400).contains(&pieces), "{pieces}");
    teach(&mut all, 2, 1);
    teach(&mut all, 0, 2);
    teach(&mut all, 1, 2);
    agree(&all[0], &all[1]);
    agree(&all[0], &all[2]);
}

#[test]
fn forgotten_removals_reach_those_who_missed_them() {
    let mut all = [Replica::new(name(0), 1), Replica::new(name(1), 1)];
    all[0].publish(&contents((0..6000).map(|n| (n, 1))));
    teach(&mut all, 1, 0);
    all[0].publish(&contents((0..6000).filter(|n| n % 3 == 0).map(|n| (n, 1))));
    all[0].publish(&contents([(3, 7)]));
    teach(&mut all, 1, 0);
    teach(&mut all, 0, 1);
    agree(&all[0], &all[1]);
    assert_eq!(
        all[1]
            .records()
            .find(|(node, _)| **node == name(0))
            .unwrap()
            .1
            .candidacies
            .len(),
        1
    );
}

#[test]
fn a_new_start_replaces_the_record_and_an_outdated_one_is_noticed() {
    let mut all = [Replica::new(name(0), 5), Replica::new(name(1), 1)];
    all[0].publish(&contents([(1, 1)]));
    teach(&mut all, 1, 0);
    // Its clock was set back: the others know a later start than its own.
    all[0] = Replica::new(name(0), 3);
    all[0].publish(&contents([(2, 1)]));
    let known: Vec<Known> = all[1].vector().collect();
    let send: Vec<Delta> = all[0]
        .lacking(&known)
        .into_iter()
        .flat_map(|known| all[1].answer(known))
        .collect();
    let outdated = send
        .into_iter()
        .map(|delta| all[0].take(delta))
        .find_map(|taken| taken.superseded);
    assert_eq!(outdated, Some(5));
    all[0].restart(6);
    all[0].publish(&contents([(2, 1)]));
    teach(&mut all, 1, 0);
    let record = all[1]
        .records()
        .find(|(node, _)| **node == name(0))
        .unwrap()
        .1
        .clone();
    assert_eq!(
        record.candidacies.keys().copied().collect::<Vec<_>>(),
        [IpAddr::from([192, 0, 0, 2])]
    );
}

#[test]
fn what_is_not_understood_is_passed_on() {
    let mut all = [
        Replica::new(name(0), 1),
        Replica::new(name(1), 1),
        Replica::new(name(2), 1),
    ];
    let future = Key([99, 1].into());
    all[0].publish(&BTreeMap::from([(future.clone(), vec![1, 2, 3])]));
    teach(&mut all, 1, 0);
    teach(&mut all, 2, 1);
    assert_eq!(
        all[2].copies[&name(0)].entries[&future].1.as_deref(),
        Some([1, 2, 3].as_slice())
    );
}

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, BTreeMap<u16, i64>),
    /// One of the pieces under way arrives at somebody, and stays under way.
    Arrive(usize, usize),
    Restart(usize),
    Compare(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0usize..4;
    prop_oneof![
        3 => (n.clone(), proptest::collection::btree_map(0u16..12, 0i64..3, 0..12)).prop_map(|(n, c)| Step::Publish(n, c)),
        6 => (n.clone(), any::<prop::sample::Index>()).prop_map(|(n, i)| Step::Arrive(n, i.index(1 << 20))),
        1 => n.clone().prop_map(Step::Restart),
        2 => (n.clone(), n).prop_map(|(a, b)| Step::Compare(a, b)),
    ]
}

proptest! {
    /// Pieces are lost, doubled, late and out of order. After everybody has compared with everybody, all know the same,
    /// and it is what was published last.
    #[test]
    fn all_come_to_the_same(steps in proptest::collection::vec(step(), 0..80)) {
        let mut all: Vec<Replica> = (0..4).map(|n| Replica::new(name(n), 1)).collect();
        let mut said: Vec<Contents> = vec![Contents::new(); 4];
        let mut wire: Vec<Delta> = vec![];
        for step in steps {
            match step {
                Step::Publish(n, addresses) => {
                    said[n] = contents(addresses);
                    wire.extend(all[n].publish(&said[n]));
                }
                Step::Arrive(to, which) => {
                    if !wire.is_empty() {
                        let delta = wire[which % wire.len()].clone();
                        if let Some(ask) = all[to].take(delta.clone()).ask {
                            let from = (0..4).find(|n| name(*n) == delta.origin).unwrap_or_default();
                            wire.extend(all[from].answer(ask));
                        }
                    }
                }
                Step::Restart(n) => {
                    let incarnation = all[n].incarnation() + 1;
                    all[n] = Replica::new(name(n), incarnation);
                    wire.extend(all[n].publish(&said[n]));
                }
                Step::Compare(a, b) => {
                    let known: Vec<Known> = all[b].vector().collect();
                    let lacking = all[a].lacking(&known);
                    wire.extend(lacking.into_iter().flat_map(|known| all[b].answer(known)));
                }
            }
        }
        for _ in 0..2 {
            for a in 0..4 {
                for b in 0..4 {
                    teach(&mut all, a, b);
                }
            }
        }
        for n in 0..4 {
            agree(&all[0], &all[n]);
            let known = &all[(n + 1) % 4].copies[&name(n)];
            let shown: Contents = known.entries.iter()
                .filter_map(|(key, (_, value))| Some((key.clone(), value.as_ref()?.to_vec()))).collect();
            prop_assert_eq!(&shown, &said[n]);
        }
    }
}

#[test]
fn offers_by_bgp_come_and_go_beside_candidacies() {
    let address = IpAddr::from([192, 0, 0, 2]);
    let mut wanted = contents([(2, 3)]);
    wanted.insert(Key::route(address), ROUTED.to_vec());
    let (mut writer, mut reader) = (Replica::new(name(0), 1), Replica::new(name(1), 1));
    let mut told = |wanted: &Contents| {
        for delta in writer.publish(wanted) {
            reader.take(delta);
        }
        let records: BTreeMap<_, _> = reader.records().collect();
        let record = records[&name(0)];
        (
            record.candidacies.len(),
            record.routed.iter().copied().collect::<Vec<_>>(),
        )
    };
    assert_eq!(told(&wanted), (1, vec![address]));
    wanted.remove(&Key::address(address));
    assert_eq!(told(&wanted), (0, vec![address]));
    wanted.clear();
    assert_eq!(told(&wanted), (0, vec![]));
    // A newer speaker may say more of it.
    wanted.insert(Key::route(address), vec![1, 7]);
    assert_eq!(told(&wanted), (0, vec![address]));
    wanted.insert(Key::route(address), PARTED.to_vec());
    assert_eq!(told(&wanted), (0, vec![]));
    let parted: Vec<_> = reader
        .records()
        .flat_map(|(_, record)| record.parted.iter())
        .collect();
    assert_eq!(parted, [&address]);
}
