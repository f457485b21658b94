use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::announce::{BgpCandidate, Evaluation, Evaluations, Record, Records, Routed};
use crate::config::{BgpAdvertisement, PeerEndpoint, RemoteAsn};
use crate::model::{Family, NodeName};
use crate::reason::{Reason, Refusal};
use crate::selector::{Requirement, Selector};

mod cluster;

const DRAIN: Duration = Duration::from_secs(5);

fn peer(name: &str, remote: RemoteAsn) -> Peer {
    Peer {
        remote_asn: remote,
        ..crate::testing::bgp_peer(name, PeerEndpoint::Address(IpAddr::from([192, 0, 2, 254])))
    }
}

fn advertisement(name: &str) -> BgpAdvertisement {
    crate::testing::bgp_advertisement(name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn selector(label: &str) -> Selector {
    Selector(vec![Requirement::Exists(label.into())])
}

/// Node `me` with an eBGP peer `ext` and an iBGP peer `int`, both established; nobody else.
#[derive(Clone, Debug)]
struct World {
    labels: BTreeMap<String, String>,
    enabled: bool,
    peers: BTreeMap<String, Peer>,
    advertisements: BTreeMap<String, BgpAdvertisement>,
    evaluations: Evaluations,
    published: Records,
    live: BTreeSet<NodeName>,
    established: BTreeSet<String>,
    draining: BTreeMap<IpAddr, Duration>,
    departing: bool,
    now: Duration,
}

fn world(advertisements: &[BgpAdvertisement], addresses: &[&str]) -> World {
    let peers = [peer("ext", RemoteAsn::External), peer("int", RemoteAsn::Internal)];
    let mut world = World {
        labels: BTreeMap::new(),
        enabled: true,
        established: peers.iter().map(|peer| peer.name.clone()).collect(),
        peers: peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect(),
        advertisements: advertisements
            .iter()
            .map(|a| (a.name.clone(), a.clone()))
            .collect(),
        evaluations: BTreeMap::new(),
        published: Records::new(),
        live: BTreeSet::from(["me".into()]),
        draining: BTreeMap::new(),
        departing: false,
        now: Duration::ZERO,
    };
    for address in addresses {
        let names: Vec<&str> = advertisements.iter().map(|a| a.name.as_str()).collect();
        world.assign(address, &names, Ok(BgpCandidate::default()));
    }
    world
}

impl World {
    fn assign(&mut self, address: &str, advertisements: &[&str], outcome: Result<BgpCandidate, Refusal>) {
        let routed = Routed {
            advertisements: advertisements.iter().map(|name| (*name).to_owned()).collect(),
            outcome,
        };
        let evaluation = Evaluation {
            services: vec![],
            outcome: Err(Refusal::new(Reason::NoAdvertisement, "")),
            bgp: Some(routed),
            probes: BTreeSet::new(),
            health: Default::default(),
        };
        self.evaluations.insert(ip(address), evaluation.into());
    }

    fn cordon(&mut self, cordoned: bool) {
        for evaluation in self.evaluations.values_mut() {
            if let Ok(candidate) = &mut Arc::make_mut(evaluation).bgp.as_mut().unwrap().outcome {
                candidate.cordoned = cordoned;
            }
        }
    }

    fn spoil(&mut self, address: &str) {
        let evaluation = self.evaluations.get_mut(&ip(address)).unwrap();
        Arc::make_mut(evaluation).bgp.as_mut().unwrap().outcome = Err(Refusal::new(Reason::ProbeFailed, ""));
    }

    fn offered_by(&mut self, node: &str, addresses: &[&str]) {
        let record = Record {
            routed: addresses.iter().map(|address| ip(address)).collect(),
            ..Record::default()
        };
        self.published.insert(node.into(), Arc::new(record));
        self.live.insert(node.into());
    }

    fn plan(&mut self) -> Plan {
        self.plan_of(&"me".into())
    }

    fn planned_as(&mut self, me: &NodeName, second: u64) -> Plan {
        self.now = Duration::from_secs(second);
        self.plan_of(me)
    }

    fn plan_of(&mut self, me: &NodeName) -> Plan {
        let plan = plan(&Input {
            me,
            labels: &self.labels,
            enabled: self.enabled,
            peers: &self.peers,
            advertisements: &self.advertisements,
            evaluations: &self.evaluations,
            published: &self.published,
            live: &self.live,
            established: &self.established,
            draining: &self.draining,
            departing: self.departing,
            drain_time: DRAIN,
            now: self.now,
        });
        self.draining.clone_from(&plan.draining);
        plan
    }

    fn at(&mut self, second: u64) -> Plan {
        self.planned_as(&"me".into(), second)
    }

    /// The prefixes that go out, as text.
    fn prefixes(&mut self) -> String {
        prefixes(&self.plan())
    }
}

fn prefixes(plan: &Plan) -> String {
    let texts: Vec<String> = plan.wanted.routes.keys().map(ToString::to_string).collect();
    texts.join(" ")
}

const X: &str = "203.0.113.1";

#[test]
fn an_address_goes_to_every_peer_that_has_a_session_here_and_carries_its_family() {
    let mut world = world(&[advertisement("a")], &[X, "2001:db8::1"]);
    world.peers.get_mut("int").unwrap().families = vec![Family::V6];
    let plan = world.plan();
    let to = |prefix: &str| {
        plan.wanted.routes[&net(prefix)]
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(to("203.0.113.1/32"), ["ext"]);
    assert_eq!(to("2001:db8::1/128"), ["ext", "int"]);
    assert_eq!(plan.wanted.sessions, world.peers);
    assert_eq!(plan.offers, [ip(X), ip("2001:db8::1")].into());
    assert_eq!(
        plan.announced[&ip(X)].peers,
        BTreeSet::from(["ext".to_owned()]).into()
    );
    assert!(plan.refusals.is_empty() && plan.wake.is_none(), "{plan:?}");
}

#[test]
fn only_peers_for_this_node_that_are_not_disabled_have_a_session() {
    let sessions = |spoil: fn(&mut World)| {
        let mut world = world(&[advertisement("a")], &[X]);
        spoil(&mut world);
        let plan = world.plan();
        let names: Vec<String> = plan.wanted.sessions.keys().cloned().collect();
        (names.join(" "), plan.refusals.get(&ip(X)).cloned())
    };
    assert_eq!(sessions(|_| ()), ("ext int".into(), None));
    assert_eq!(
        sessions(|w| w.peers.get_mut("ext").unwrap().disabled = true),
        ("int".into(), None)
    );
    assert_eq!(
        sessions(|w| w.peers.get_mut("int").unwrap().nodes = vec![selector("rack")]),
        ("ext".into(), None)
    );
    let both = |w: &mut World| {
        w.labels.insert("rack".into(), "1".into());
        w.peers.get_mut("int").unwrap().nodes = vec![selector("rack")];
    };
    assert_eq!(sessions(both), ("ext int".into(), None));
    let none = "no enabled BGPPeer of BGPAdvertisement a that carries IPv4 is for node me";
    let refusal = |message: &str| Some(Refusal::new(Reason::NoSession, message));
    assert_eq!(sessions(|w| w.peers.clear()), ("".into(), refusal(none)));
    let elsewhere = |w: &mut World| w.advertisements.get_mut("a").unwrap().peers = vec!["other".into()];
    assert_eq!(sessions(elsewhere), ("ext int".into(), refusal(none)));
    let down = "no session of this node with BGPPeer ext, int is established";
    assert_eq!(
        sessions(|w| w.established.clear()),
        ("ext int".into(), refusal(down))
    );
    let (names, refused) = sessions(|w| w.enabled = false);
    assert_eq!(
        (names.as_str(), refused.unwrap().reason),
        ("", Reason::BgpNotEnabled)
    );
}

#[test]
fn a_route_is_wanted_before_its_session_is_up_and_offered_only_then() {
    let mut world = world(&[advertisement("a")], &[X]);
    world.established.clear();
    let plan = world.plan();
    assert_eq!(prefixes(&plan), "203.0.113.1/32");
    assert!(plan.offers.is_empty() && plan.announced.is_empty());
    world.established.insert("int".into());
    let plan = world.plan();
    assert_eq!(plan.offers, [ip(X)].into());
    assert_eq!(
        plan.announced[&ip(X)].peers,
        BTreeSet::from(["int".to_owned()]).into()
    );
}

#[test]
fn attributes_of_several_advertisements() {
    let a = BgpAdvertisement {
        local_pref: Some(200),
        med: Some(5),
        prepend: 2,
        preferred: vec![selector("near")],
        communities: [1].into(),
        ..advertisement("a")
    };
    let b = BgpAdvertisement {
        communities: [2].into(),
        large_communities: [[1, 2, 3]].into(),
        ..advertisement("b")
    };
    let of = |world: &mut World| {
        let plan = world.plan();
        let conflict = plan.conflicts.get(&ip(X)).map(|refusal| refusal.message.clone());
        (plan.wanted.routes[&net("203.0.113.1/32")].clone(), conflict)
    };
    let mut both = world(&[a.clone(), b.clone()], &[X]);
    let (routes, conflict) = of(&mut both);
    let ext = Attributes {
        local_pref: None,
        med: Some(5),
        prepend: 2,
        communities: [1, 2].into(),
        large_communities: [[1, 2, 3]].into(),
    };
    // What an AS keeps to itself does not leave it, and within it nothing is prepended.
    let int = Attributes {
        local_pref: Some(200),
        prepend: 0,
        ..ext.clone()
    };
    assert_eq!(
        routes,
        Treatment::from([("ext".to_owned(), ext.clone()), ("int".to_owned(), int)]).into()
    );
    assert_eq!(conflict, None, "b says nothing of these");
    both.labels.insert("near".into(), String::new());
    assert_eq!(
        of(&mut both).0["ext"],
        Attributes {
            prepend: 0,
            ..ext.clone()
        }
    );

    let differing = |b: BgpAdvertisement| of(&mut world(&[a.clone(), b], &[X]));
    let (routes, conflict) = differing(BgpAdvertisement {
        med: Some(6),
        ..b.clone()
    });
    assert_eq!(routes["ext"], ext, "that of the first stays");
    assert_eq!(
        conflict.unwrap(),
        "BGPAdvertisements a and b differ in med for BGPPeer ext; that of a is used"
    );
    let same = BgpAdvertisement {
        med: Some(5),
        local_pref: Some(200),
        prepend: 2,
        preferred: a.preferred.clone(),
        ..b.clone()
    };
    assert_eq!(differing(same).1, None);
    let preference = BgpAdvertisement {
        local_pref: Some(1),
        ..b.clone()
    };
    assert!(
        differing(preference.clone())
            .1
            .unwrap()
            .contains("localPref for BGPPeer int")
    );
    let prepended = BgpAdvertisement { prepend: 4, ..b };
    assert!(
        differing(prepended)
            .1
            .unwrap()
            .contains("asPathPrepend for BGPPeer ext")
    );
    let apart = BgpAdvertisement {
        peers: vec!["ext".into()],
        ..preference
    };
    assert_eq!(differing(apart).1, None, "to an eBGP peer it is not said");
}

#[test]
fn an_advertisement_reaches_its_own_peers() {
    let to = |name: &str, peer: &str, community: u32| BgpAdvertisement {
        peers: vec![peer.into()],
        communities: [community].into(),
        ..advertisement(name)
    };
    let plan = world(&[to("a", "ext", 1), to("b", "int", 2)], &[X]).plan();
    let route = &plan.wanted.routes[&net("203.0.113.1/32")];
    let communities = |peer: &str| route[peer].communities.iter().copied().collect::<Vec<_>>();
    assert_eq!((communities("ext"), communities("int")), (vec![1], vec![2]));
}

#[test]
fn an_aggregate_goes_out_while_every_assigned_member_does() {
    let aggregate = |name: &str| BgpAdvertisement {
        aggregation_v4: 24,
        aggregation_v6: 64,
        ..advertisement(name)
    };
    let all = [X, "203.0.113.2", "198.51.100.1", "2001:db8::1"];
    let mut some = world(&[aggregate("a")], &all);
    assert_eq!(some.prefixes(), "198.51.100.0/24 203.0.113.0/24 2001:db8::/64");
    let plan = some.plan();
    assert_eq!(plan.announced.len(), 4);
    assert_eq!(plan.announced[&ip(X)].prefixes, [net("203.0.113.0/24")].into());
    some.spoil("203.0.113.2");
    assert_eq!(some.prefixes(), "198.51.100.0/24 203.0.113.1/32 2001:db8::/64");
    some.spoil(X);
    assert_eq!(some.prefixes(), "198.51.100.0/24 2001:db8::/64");

    // What another advertisement has in the same prefix is no member; its own route goes beside the aggregate.
    let mut two = world(&[aggregate("a"), advertisement("b")], &[]);
    two.assign(X, &["a"], Ok(BgpCandidate::default()));
    two.assign("203.0.113.2", &["b"], Ok(BgpCandidate::default()));
    assert_eq!(two.prefixes(), "203.0.113.0/24 203.0.113.2/32");
    two.spoil("203.0.113.2");
    assert_eq!(two.prefixes(), "203.0.113.0/24");
    // An address in both goes out both ways.
    two.assign("203.0.113.2", &["a", "b"], Ok(BgpCandidate::default()));
    let plan = two.plan();
    assert_eq!(prefixes(&plan), "203.0.113.0/24 203.0.113.2/32");
    assert_eq!(plan.announced[&ip("203.0.113.2")].prefixes.len(), 2);
}

#[test]
fn a_cordoned_node_hands_over_in_two_steps_and_the_only_one_stays() {
    let mut world = world(&[advertisement("a")], &[X]);
    world.cordon(true);
    let plan = world.at(10);
    let route = &plan.wanted.routes[&net("203.0.113.1/32")];
    let (ext, int) = (&route["ext"], &route["int"]);
    let gone = [GRACEFUL_SHUTDOWN].into();
    assert_eq!((ext.prepend, ext.local_pref, &ext.communities), (3, None, &gone));
    assert_eq!(
        (int.prepend, int.local_pref, &int.communities),
        (0, Some(0), &gone)
    );
    assert!(plan.announced[&ip(X)].draining && plan.offers.is_empty());
    assert_eq!((plan.wake, plan.yielding.len()), (None, 0));
    assert_eq!(prefixes(&world.at(3600)), "203.0.113.1/32", "nobody else has it");

    // The time runs from when another offers it.
    world.offered_by("other", &[X]);
    let plan = world.at(4000);
    assert_eq!(prefixes(&plan), "203.0.113.1/32");
    assert_eq!(
        (plan.wake, plan.yielding),
        (Some(Duration::from_secs(4005)), [ip(X)].into())
    );
    assert_eq!(prefixes(&world.at(4004)), "203.0.113.1/32");
    let plan = world.at(4005);
    assert_eq!(prefixes(&plan), "");
    let refusal = &plan.refusals[&ip(X)];
    assert_eq!(refusal.reason, Reason::Draining);
    assert_eq!(
        refusal.message,
        "node me is cordoned; node other announces the address"
    );
    assert!(plan.yielding.is_empty() && plan.wake.is_none());
    assert_eq!(prefixes(&world.at(5000)), "");

    // It comes back when the other is gone, is told that it does not offer any more, or when it is uncordoned.
    world.live.remove(&NodeName::from("other"));
    assert!(world.at(5001).announced[&ip(X)].draining);
    world.live.insert("other".into());
    assert_eq!(prefixes(&world.at(5002)), "203.0.113.1/32", "it drains anew");
    assert_eq!(prefixes(&world.at(5007)), "");
    world.offered_by("other", &[]);
    assert_eq!(prefixes(&world.at(5008)), "203.0.113.1/32");
    world.offered_by("other", &[X]);
    world.at(5009);
    assert_eq!(prefixes(&world.at(5014)), "");
    world.cordon(false);
    let plan = world.at(5015);
    assert!(!plan.announced[&ip(X)].draining && plan.offers.contains(&ip(X)));
}

#[test]
fn a_departing_speaker_drains_as_well_and_a_failing_node_does_not_wait() {
    let mut world = world(&[advertisement("a")], &[X]);
    world.offered_by("other", &[X]);
    world.departing = true;
    assert!(world.at(1).announced[&ip(X)].draining);
    let plan = world.at(6);
    assert!(
        plan.refusals[&ip(X)]
            .message
            .starts_with("the speaker of this node is shutting down")
    );
    world.departing = false;
    assert_eq!(world.prefixes(), "203.0.113.1/32");
    world.spoil(X);
    let plan = world.plan();
    assert_eq!((prefixes(&plan).as_str(), plan.offers.len()), ("", 0));
    assert_eq!(plan.wanted.sessions.len(), 2, "the sessions stay");
}

#[test]
fn what_only_some_others_offer_leaves_the_aggregate_in_parts() {
    let a = BgpAdvertisement {
        aggregation_v4: 24,
        ..advertisement("a")
    };
    let mut world = world(&[a], &[X, "203.0.113.2"]);
    world.cordon(true);
    world.offered_by("other", &[X]);
    assert_eq!(prefixes(&world.at(1)), "203.0.113.0/24");
    assert_eq!(prefixes(&world.at(6)), "203.0.113.2/32");
}
