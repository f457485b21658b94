//! Routes: of a restarted speaker, at its end, and beside layer 2.

use fairlead_core::config::{BgpAdvertisement, Peer, PeerEndpoint, RemoteAsn};

use super::*;
use crate::snapshot::{Bgp, Identity};

fn peer() -> Peer {
    Peer {
        remote_asn: RemoteAsn::Number(64513),
        password_secret: Some("tor".into()),
        families: vec![Family::V4],
        ..fairlead_core::testing::bgp_peer("tor", PeerEndpoint::Address(vip(254)))
    }
}

fn advertisement(aggregation_v4: u8) -> BgpAdvertisement {
    BgpAdvertisement {
        aggregation_v4,
        ..fairlead_core::testing::bgp_advertisement("bgp")
    }
}

/// Before the restart these addresses were announced by BGP.
pub(super) fn snapshot(announced: &[u8], aggregation: u8) -> Snapshot {
    let route = |last: u8| Route {
        address: vip(last),
        advertisements: BTreeSet::from(["bgp".to_owned()]),
        announced: announced.contains(&last),
        services: vec![ServiceKey::new("default", format!("s{last}"))],
        probes: BTreeSet::from([ProbeTarget::Proxy { address: vip(11) }]),
        health: Health::default(),
    };
    Snapshot {
        bgp: Bgp {
            config: BgpConfig {
                labels: BTreeMap::new(),
                peers: BTreeMap::from([("tor".to_owned(), peer())]),
                advertisements: BTreeMap::from([("bgp".to_owned(), advertisement(aggregation))]),
            },
            cordoned: false,
            routes: vec![route(1), route(2)],
            passwords: BTreeMap::new(),
            identity: Identity::default(),
        },
        ..Snapshot::default()
    }
}

fn established() -> Run {
    Run {
        established: BTreeSet::from(["tor".to_owned()]),
        ..run()
    }
}

fn went_on(snapshot: &Snapshot, world: &World, run: &Run) -> Decision {
    with_inputs(world, run, |inputs| {
        go_on(snapshot, &mut Remembered::default(), inputs)
    })
}

fn prefixes(decision: &Decision) -> String {
    let routes = decision.bgp.wanted.routes.keys();
    let texts: Vec<String> = routes.map(ToString::to_string).collect();
    texts.join(" ")
}

/// Another node offers these addresses.
fn offered(world: &mut World, addresses: &[u8]) {
    let record = Record {
        routed: addresses.iter().map(|last| vip(*last)).collect(),
        ..Record::default()
    };
    world.gossip.records.insert("peer".into(), record.into());
}

#[test]
fn a_restarted_speaker_makes_the_same_sessions_and_routes_while_they_are_fit() {
    let world = index();
    let before = snapshot(&[1, 2], 32);
    let decision = went_on(&before, &world, &run());
    assert_eq!(prefixes(&decision), "192.0.2.1/32 192.0.2.2/32");
    assert_eq!(decision.bgp.wanted.sessions["tor"], peer());
    assert_eq!(decision.targets(Timing::default()).len(), 1, "it is probed");
    assert_eq!(decision.plan, Plan::default(), "nothing begins at layer 2");
    let failing = Run {
        verdict: Verdict::Fail("HTTP 503".into()),
        ..run()
    };
    let decision = went_on(&before, &world, &failing);
    assert_eq!(prefixes(&decision), "");
    assert_eq!(
        reasons(&decision),
        [(vip(1), Reason::ProbeFailed), (vip(2), Reason::ProbeFailed)]
    );
    // What was not announced is not begun, and keeps its aggregate back.
    assert_eq!(
        prefixes(&went_on(&snapshot(&[1, 2], 24), &world, &run())),
        "192.0.2.0/24"
    );
    assert_eq!(
        prefixes(&went_on(&snapshot(&[1], 24), &world, &run())),
        "192.0.2.1/32"
    );
}

#[test]
fn what_is_kept_for_the_next_process_gives_the_same_again() {
    let world = index();
    let before = snapshot(&[1], 24);
    let decision = went_on(&before, &world, &established());
    let passwords = BTreeMap::from([("tor".to_owned(), "secret".to_owned())]);
    let kept = Bgp::of(&decision, passwords.clone(), Identity::default());
    let expected = Bgp {
        passwords,
        ..before.bgp.clone()
    };
    assert_eq!(kept, expected);
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Bgp>(&text).unwrap(), kept);
    // Also what an ending process keeps, for which nobody announces anything any more.
    assert_eq!(
        Bgp::of(&decision.parting(), kept.passwords.clone(), Identity::default()),
        kept
    );
}

#[test]
fn what_is_announced_one_way_is_not_held_back() {
    let mut world = index();
    let claim = Claim {
        address: vip(1),
        claim: 3,
        cordoned: false,
        weight: 0,
        preempts: false,
        services: vec![ServiceKey::new("default", "s1")],
        interfaces: vec!["eth0".into()],
        probes: BTreeSet::from([ProbeTarget::Proxy { address: vip(11) }]),
        health: Health::default(),
    };
    let before = Snapshot {
        claims: vec![claim],
        ..snapshot(&[1], 32)
    };
    let holding = |run: Run| Run {
        held: BTreeMap::from([hold(1, 3)]),
        ..run
    };
    let decision = went_on(&before, &world, &holding(established()));
    assert_eq!((decision.announced().count(), decision.routed().count()), (1, 1));
    assert_eq!(reasons(&decision), [(vip(2), Reason::ProbePending)]);

    // Layer 2 has it, and no session is up; then BGP has it, and another node is elected; then neither.
    let decision = went_on(&before, &world, &holding(run()));
    assert_eq!(decision.bgp.refusals[&vip(1)].reason, Reason::NoSession);
    assert_eq!(reasons(&decision), [(vip(2), Reason::ProbePending)]);
    let elsewhere = Candidacy {
        claim: Some(9),
        ..Candidacy::default()
    };
    publish(&mut world, "me", &[(1, Candidacy::default())]);
    publish(&mut world, "peer", &[(1, elsewhere)]);
    let decision = went_on(&before, &world, &holding(established()));
    assert_eq!((decision.announced().count(), decision.routed().count()), (0, 1));
    assert_eq!(reasons(&decision), [(vip(2), Reason::ProbePending)]);
    let decision = went_on(&before, &world, &holding(run()));
    let told = (vip(1), Reason::NoSession);
    assert_eq!(reasons(&decision)[0], told, "a fault rather than an election");
}

#[test]
fn an_ending_speaker_leaves_the_routes_that_nobody_else_offers() {
    let mut world = index();
    offered(&mut world, &[2]);
    let ending = Run {
        departing: true,
        ..established()
    };
    let decision = went_on(&snapshot(&[1, 2], 32), &world, &ending);
    assert_eq!(prefixes(&decision), "192.0.2.1/32 192.0.2.2/32");
    assert!(decision.routed().all(|(_, _, announced)| announced.draining));
    assert_eq!(decision.bgp.yielding, BTreeSet::from([vip(2)]));
    assert!(decision.bgp.offers.is_empty());
    assert_eq!(decision.bgp.wake, Some(Duration::from_secs(6)));
    // When the time is over there is nothing to wait for.
    let later = Run {
        uptime: Duration::from_secs(6),
        draining: decision.bgp.draining.clone(),
        departing: true,
        ..established()
    };
    let decided = went_on(&snapshot(&[1, 2], 32), &world, &later);
    assert_eq!(
        (prefixes(&decided).as_str(), decided.bgp.yielding.len()),
        ("192.0.2.1/32", 0)
    );
    for decision in [decision, decided] {
        let parting = decision.parting();
        assert_eq!(prefixes(&parting), "192.0.2.1/32");
        assert!(parting.leaves_routes());
        assert_eq!(parting.routed().count(), 0);
        let ended = [(vip(1), Reason::Leaving), (vip(2), Reason::Leaving)];
        assert_eq!(reasons(&parting), ended);
    }
    // A session that is down for a moment takes no route with it.
    let down = Run {
        departing: true,
        ..run()
    };
    let parting = went_on(&snapshot(&[1], 32), &index(), &down).parting();
    assert_eq!(prefixes(&parting), "192.0.2.1/32");
    // With everything taken over, or the installation going, nothing is left.
    offered(&mut world, &[1, 2]);
    let parting = went_on(&snapshot(&[1, 2], 32), &world, &ending).parting();
    assert_eq!(
        (prefixes(&parting).as_str(), parting.leaves_routes()),
        ("", false)
    );
}
