//! What a router sees of a route.

use fairlead_e2e::bgp::manifests as bgp;
use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;
use ipnet::IpNet;
use serde_json::json;

use super::fixture::{Fixture, NAME, NODES, SOON, node, v4};

#[test]
fn attributes_are_seen_at_the_router() {
    let f = Fixture::new();
    let pool = f.pool("attributes", &["198.51.100.32/28"]);
    let spec = json!({
        "communities": ["64500:100", "large:64500:1:2", "no-export"], "med": 77, "localPref": 300,
        "preferredNodes": bgp::nodes(&["node1"]), "asPathPrepend": 2,
    });
    f.apply(&bgp::advertisement(&pool, &pool, spec));
    let vip = IpNet::from(f.service("attributes", &pool, "Cluster", json!({})));
    // node1 is preferred, so that nothing goes to the others while it is there.
    f.leads_to(&f.stage.frr, vip, &["node1"]);
    for (by, as_path) in [("node1", vec![64500]), ("node2", vec![64500; 3])] {
        let path = f.wait_path(&f.stage.frr, vip, by, |path| path.as_path == as_path);
        let communities: Vec<&str> = path.communities.iter().map(String::as_str).collect();
        for wanted in ["64500:100", "65535:65281"] {
            assert!(communities.contains(&wanted), "{by}: {path:?}");
        }
        // The mark by which routes are treated is nobody else's business.
        assert_eq!(communities.len(), 2, "{path:?}");
        assert_eq!(path.large_communities, ["64500:1:2"], "{by}: {path:?}");
        assert_eq!(path.med, Some(77), "{by}: {path:?}");
        // Not for another AS.
        assert_eq!(path.local_pref.unwrap_or(100), 100, "{by}: {path:?}");
    }
    assert_eq!(f.load(Place::Client, vip.addr()).failed, 0);
    f.cluster.cordon("node1", true).unwrap();
    f.leads_to(&f.stage.frr, vip, &["node2", "node3"]);
    f.cluster.cordon("node1", false).unwrap();
    f.leads_to(&f.stage.frr, vip, &["node1"]);
}

/// What is changed of an advertisement changes the routes where they stand: no connection notices.
#[test]
fn an_advertisement_is_changed_under_load() {
    let f = Fixture::new();
    let web = f.web();
    let seen = f.load_during(Place::Client, web.addr(), || {
        for (spec, communities) in [
            (json!({"communities": ["64500:1"]}), vec!["64500:1"]),
            (
                json!({"communities": ["64500:1", "64500:2"]}),
                vec!["64500:1", "64500:2"],
            ),
            (json!({}), vec![]),
        ] {
            f.apply(&bgp::advertisement(NAME, NAME, spec));
            for by in NODES {
                f.wait_path(&f.stage.frr, web, by, |path| path.communities == communities);
            }
        }
    });
    println!("communities changed three times: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
}

#[test]
fn advertisements_that_differ_are_told_of_and_the_route_goes_out() {
    let f = Fixture::new();
    let pool = f.pool("conflict", &["198.51.100.48/28"]);
    let (first, second) = (f.name("conflict-a"), f.name("conflict-b"));
    f.apply(&bgp::advertisement(
        &first,
        &pool,
        json!({"med": 1, "communities": ["64500:1"]}),
    ));
    f.apply(&bgp::advertisement(
        &second,
        &pool,
        json!({"med": 2, "communities": ["64500:2"]}),
    ));
    let vip = IpNet::from(f.service("conflict", &pool, "Cluster", json!({})));
    f.leads_to(&f.stage.frr, vip, &NODES);
    // Communities are united, of the rest the first one's value counts.
    f.wait_path(&f.stage.frr, vip, "node1", |path| {
        path.med == Some(1) && path.communities == ["64500:1", "64500:2"]
    });
    f.load(Place::Client, vip.addr());
    wait_for("the conflict to be told of", SOON, || {
        let states = f
            .cluster
            .list("/apis/fairlead.dev/v1alpha1/nodestates")
            .map_err(|e| e.to_string())?;
        let told = states.iter().any(|state| {
            let text = state["status"].to_string();
            text.contains("ConflictingAttributes") && text.contains(&first) && text.contains(&second)
        });
        told.then_some(()).ok_or_else(|| format!("{states:?}"))
    })
    .unwrap();
}

/// Of three advertisements one is broken: the others go on.
#[test]
fn a_bad_object_disturbs_no_other() {
    let f = Fixture::new();
    let (bad, web) = (f.name("bad"), f.web());
    let since = |sessions: &std::collections::BTreeMap<String, serde_json::Value>| {
        let all = sessions.iter();
        all.map(|(node, session)| (node.clone(), session["since"].clone()))
            .collect::<Vec<_>>()
    };
    let before = since(&f.sessions(NAME).unwrap());
    let seen = f.load_during(Place::Client, web.addr(), || {
        // Two peers at one address: the younger one is set aside.
        let same = f.peer("same", v4(Place::Router), 64512, json!({}));
        wait_for("the second peer to be refused", SOON, || {
            let peer = f.cluster.get(&bgp::peer_path(&same)).map_err(|e| e.to_string())?;
            match condition(&peer.unwrap_or_default(), "Accepted") {
                Some((status, reason, _)) if status == "False" && reason == "DuplicatePeer" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap();
        // One that names what is not there, and one that the API server refuses.
        f.apply(&bgp::advertisement(&bad, "nowhere", json!({"peers": ["nobody"]})));
        let refused = bgp::advertisement(&bad, NAME, json!({"communities": ["a:b:c:d"]}));
        f.cluster.apply(&refused).unwrap_err();
    });
    assert_eq!(seen.failed, 0, "{seen}");
    assert_eq!(since(&f.sessions(NAME).unwrap()), before, "no session was lost");
    f.leads_to(&f.stage.frr, web, &NODES);
    assert!(
        f.wait_path(&f.stage.frr, web, "node2", |path| path.best || path.used)
            .used
    );
    assert_eq!(node("node2"), Place::Node(2));
}
