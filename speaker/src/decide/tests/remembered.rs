//! What is remembered of decisions never shows in the next one.

use fairlead_core::config::{RawBgpAdvertisement, RawPeer};
use fairlead_core::model::TrafficPolicy;
use proptest::prelude::*;

use super::*;

/// Something that changes between two decisions.
#[derive(Clone, Debug)]
enum Step {
    /// Service `a` or `b` is gone, or is there with these addresses, policy and label.
    Service(bool, Option<(Vec<u8>, bool, bool)>),
    /// A slice is gone, or is there for one of the two with its only endpoint here or elsewhere, ready or not.
    Slice(u8, Option<(bool, bool, bool)>),
    Cordoned(bool),
    Excluded(bool),
    NodeGone,
    PoolGone(bool),
    /// An L2Advertisement, or a BGPAdvertisement, for all or for labelled Services alone, or none.
    Advertised(bool, Option<bool>),
    Programmed(u8, bool),
    Proxy(bool),
    HealthPort(bool, Option<bool>),
    LinkUp(bool),
    Leaving(bool),
    /// A BGPPeer is gone, or there, disabled or not.
    Peer(Option<bool>),
    Established(bool),
    /// A second BGPAdvertisement is gone, or there, with an aggregate or with another MED.
    Second(Option<bool>),
    Departing(bool),
    /// The kernel answers for an address by itself.
    Ipvs(u8, bool),
    /// The node's label, which nothing asks for.
    Labelled(bool),
    /// Another node offers an address, or does not.
    Offered(u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let some = any::<bool>;
    prop_oneof![
        6 => (some(), proptest::option::weighted(0.8, (proptest::collection::vec(1_u8..4, 0..3), some(), some())))
            .prop_map(|(b, s)| Step::Service(b, s)),
        8 => (1_u8..4, proptest::option::weighted(0.8, (some(), some(), some()))).prop_map(|(n, s)| Step::Slice(n, s)),
        1 => some().prop_map(Step::Cordoned),
        1 => some().prop_map(Step::Excluded),
        1 => Just(Step::NodeGone),
        1 => some().prop_map(Step::PoolGone),
        2 => (some(), proptest::option::of(some())).prop_map(|(l2, all)| Step::Advertised(l2, all)),
        4 => (1_u8..4, some()).prop_map(|(n, on)| Step::Programmed(n, on)),
        2 => some().prop_map(Step::Proxy),
        4 => (some(), proptest::option::of(some())).prop_map(|(b, pass)| Step::HealthPort(b, pass)),
        1 => some().prop_map(Step::LinkUp),
        1 => some().prop_map(Step::Leaving),
        1 => proptest::option::weighted(0.8, proptest::bool::weighted(0.2)).prop_map(Step::Peer),
        2 => proptest::bool::weighted(0.8).prop_map(Step::Established),
        1 => proptest::option::of(some()).prop_map(Step::Second),
        1 => proptest::bool::weighted(0.2).prop_map(Step::Departing),
        1 => (1_u8..4, some()).prop_map(|(n, on)| Step::Ipvs(n, on)),
        1 => some().prop_map(Step::Labelled),
        1 => (1_u8..4, some()).prop_map(|(n, on)| Step::Offered(n, on)),
    ]
}

/// All that a decision is made from.
struct State {
    index: Index,
    run: Run,
    verdicts: Verdicts,
    links: Links,
    /// What another node offers.
    offered: BTreeSet<IpAddr>,
}

const NAMES: [&str; 2] = ["a", "b"];

fn port(second: bool) -> u16 {
    31000 + u16::from(second)
}

impl State {
    fn make(&mut self, step: Step) {
        let index = &mut self.index;
        let key = |second: bool| format!("default/{}", NAMES[usize::from(second)]);
        match step {
            Step::Service(second, made) => {
                let made = made.map(|(addresses, local, labelled)| {
                    let assigned = addresses.iter().map(|last| (vip(*last), "pool".to_owned()));
                    let mut service = Service {
                        ingress: addresses.iter().map(|last| vip(*last)).collect(),
                        assigned: Some(AssignedRecord {
                            addresses: assigned.collect(),
                            since: i64::from(second),
                        }),
                        wishes: Wishes {
                            sharing_key: Some("key".into()),
                            ..Wishes::default()
                        },
                        ..fairlead_core::testing::service(NAMES[usize::from(second)])
                    };
                    service.ports[0].port = 80 + u16::from(second);
                    if local {
                        service.policy = TrafficPolicy::Local;
                        service.health_check_node_port = Some(port(second));
                    }
                    if labelled {
                        service.labels.insert("app".into(), "web".into());
                    }
                    service
                });
                index.services.apply(&key(second), made);
            }
            Step::Slice(number, made) => {
                let made = made.map(|(second, here, ready)| {
                    let (node, flags) = (if here { "me" } else { "peer" }, if ready { "rs" } else { "" });
                    let mut slice =
                        fairlead_core::testing::slice(NAMES[usize::from(second)], Some(node), flags);
                    slice.endpoints[0].address = vip(100 + number);
                    slice
                });
                index.slices.table.apply(&format!("default/slice{number}"), made);
            }
            Step::Cordoned(cordoned) => self.change_node(|node| node.cordoned = cordoned),
            Step::Excluded(excluded) => self.change_node(|node| node.excluded = excluded),
            Step::NodeGone => drop(index.nodes.delete("me")),
            Step::PoolGone(gone) => {
                let pool = RawPool {
                    name: "pool".into(),
                    addresses: vec!["192.0.2.1-192.0.2.9".into()],
                    ..RawPool::default()
                };
                index.pools.apply("pool", (!gone).then_some(pool));
            }
            Step::Advertised(l2, made) => {
                let services = |all: bool| {
                    let web = fairlead_core::selector::Requirement::In("app".into(), vec!["web".into()]);
                    Ok(if all {
                        vec![]
                    } else {
                        vec![fairlead_core::selector::Selector(vec![web])]
                    })
                };
                if l2 {
                    let made = made.map(|all| RawAdvertisement {
                        name: "l2".into(),
                        services: services(all),
                        ..RawAdvertisement::default()
                    });
                    index.advertisements.apply("l2", made);
                } else {
                    let made = made.map(|all| RawBgpAdvertisement {
                        name: "bgp".into(),
                        services: services(all),
                        med: Some(1),
                        ..RawBgpAdvertisement::default()
                    });
                    index.bgp_advertisements.apply("bgp", made);
                }
            }
            Step::Programmed(last, true) => drop(self.run.programmed.insert(last)),
            Step::Programmed(last, false) => drop(self.run.programmed.remove(&last)),
            Step::Proxy(passes) => {
                self.verdicts
                    .insert(ProbeTarget::Proxy { address: vip(11) }, verdict(passes));
            }
            Step::HealthPort(second, answer) => {
                let target = ProbeTarget::Service {
                    service: ServiceKey::new("default", NAMES[usize::from(second)]),
                    address: vip(11),
                    port: port(second),
                };
                match answer {
                    Some(passes) => drop(self.verdicts.insert(target, verdict(passes))),
                    None => drop(self.verdicts.remove(&target)),
                }
            }
            Step::LinkUp(up) => self.links.values_mut().for_each(|link| link.up = up),
            Step::Leaving(leaving) => self.run.leaving = leaving,
            Step::Peer(made) => {
                let made = made.map(|disabled| RawPeer {
                    name: "tor".into(),
                    my_asn: 64500,
                    remote_asn: "64512".into(),
                    address: Some("192.0.2.254".into()),
                    disabled,
                    ..RawPeer::default()
                });
                index.bgp_peers.apply("tor", made);
            }
            Step::Established(true) => drop(self.run.established.insert("tor".into())),
            Step::Established(false) => self.run.established.clear(),
            Step::Second(made) => {
                let made = made.map(|aggregate| RawBgpAdvertisement {
                    name: "second".into(),
                    aggregation_v4: aggregate.then_some(24),
                    med: (!aggregate).then_some(7),
                    ..RawBgpAdvertisement::default()
                });
                index.bgp_advertisements.apply("second", made);
            }
            Step::Departing(departing) => self.run.departing = departing,
            Step::Ipvs(last, true) => drop(self.run.ipvs.insert(vip(last))),
            Step::Ipvs(last, false) => drop(self.run.ipvs.remove(&vip(last))),
            Step::Labelled(labelled) => self.change_node(|node| {
                node.labels.clear();
                node.labels.extend(labelled.then(|| ("rack".into(), "a".into())));
            }),
            Step::Offered(last, offered) => {
                if offered {
                    self.offered.insert(vip(last));
                } else {
                    self.offered.remove(&vip(last));
                }
            }
        }
    }

    fn change_node(&mut self, change: impl FnOnce(&mut Node)) {
        let mut node = fairlead_core::testing::node("me", "192.0.2.11");
        if let Some(known) = self.index.nodes.get("me") {
            node = known.clone();
        }
        change(&mut node);
        self.index.nodes.apply("me", Some(node));
    }

    /// Before the API server was heard, if it was not.
    fn decide(&mut self, listed: bool, remembered: &mut Remembered) -> Decision {
        let record = Record {
            routed: self.offered.clone(),
            ..Record::default()
        };
        let world = World {
            index: Index::default(),
            gossip: View {
                live: ["me".into(), "peer".into()].into(),
                records: [("peer".into(), record.into())].into(),
                ..View::default()
            },
        };
        let (index, verdicts, links) = (&mut self.index, &self.verdicts, &self.links);
        with_inputs(&world, &self.run, |inputs| {
            let inputs = Inputs {
                verdicts,
                links,
                ..*inputs
            };
            if listed {
                decide(index, remembered, &inputs)
            } else {
                go_on(&routed::snapshot(&[1, 2], 32), remembered, &inputs)
            }
        })
    }
}

fn verdict(passes: bool) -> Verdict {
    if passes {
        Verdict::Pass
    } else {
        Verdict::Fail("it says no".into())
    }
}

proptest! {
    #[test]
    fn a_decision_with_memory_is_the_same_as_one_without(
        steps in proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..40),
        unlisted in 0_usize..3,
    ) {
        let mut state = State {
            index: index().index,
            run: run(),
            verdicts: Verdicts::from([(ProbeTarget::Proxy { address: vip(11) }, Verdict::Pass)]),
            links: links(),
            offered: BTreeSet::new(),
        };
        for step in [Step::Advertised(false, Some(true)), Step::Peer(Some(false)), Step::Established(true)] {
            state.make(step);
        }
        let mut remembered = Remembered::default();
        for (number, round) in steps.into_iter().enumerate() {
            for step in round {
                state.make(step);
            }
            let listed = number >= unlisted;
            let with = state.decide(listed, &mut remembered);
            let without = state.decide(listed, &mut Remembered::default());
            prop_assert_eq!(with.evaluations, without.evaluations);
            prop_assert_eq!(with.refused, without.refused);
            prop_assert_eq!(&with.bgp, &without.bgp);
            state.run.draining.clone_from(&with.bgp.draining);
            state.run.uptime += Duration::from_secs(2);
        }
    }
}
