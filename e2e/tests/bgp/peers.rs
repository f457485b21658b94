//! Peers come, go and change while connections are opened.

use fairlead_e2e::bgp::{Peering, manifests as bgp};
use fairlead_e2e::product::install::run;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::routers::{FRR_ASN, Router};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::fixture::{Fixture, NAME, NODES, SESSION, SOON, node, v4};

/// The column of `kubectl get bgppeers`.
fn wait_column(f: &Fixture, peer: &str, sessions: &str) {
    wait_for(&format!("{peer} to have {sessions} sessions"), SOON, || {
        let said = run(&mut f
            .lab
            .kubectl(["get", "bgppeers", peer])
            .map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
        let right = said.split_whitespace().any(|word| word == sessions);
        right.then_some(()).ok_or(said)
    })
    .unwrap();
}

#[test]
fn a_second_router_comes_and_goes_under_load() {
    let f = Fixture::new();
    let web = f.web();
    let seen = f.load_during(Place::Client, web.addr(), || {
        for _ in 0..2 {
            let bird = f.bird();
            f.leads_to(&bird, web, &NODES);
            f.cluster.delete(&bgp::peer_path(&f.name("bird"))).unwrap();
            f.leads_to(&bird, web, &[]);
            // It was told so, and did not have to find out.
            let gone = bird.neighbor(v4(node("node1"))).unwrap();
            assert!(gone.is_none_or(|n| !n.is_established()));
        }
    });
    println!("a second router came and went twice: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
}

#[test]
fn selectors_and_the_disabled_flag_decide_who_has_a_session() {
    let f = Fixture::new();
    let (web, frr) = (f.web(), &f.stage.frr);
    wait_column(&f, NAME, "3/3");
    let router = v4(Place::Router).to_string();
    let set = |spec: Value| {
        let mut all = Peering::Bfd.spec();
        bgp::merge(&mut all, spec);
        f.apply(&bgp::peer(NAME, &router, FRR_ASN, all));
    };
    let before = f.sessions(NAME).unwrap();
    let seen = f.load_during(Place::Client, web.addr(), || {
        set(json!({"nodeSelectors": bgp::nodes(&["node1", "node2"])}));
        f.leads_to(frr, web, &["node1", "node2"]);
    });
    // The node withdraws before its session ends.
    println!("a session was taken from a node: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
    wait_column(&f, NAME, "2/2");
    let after = f.wait_sessions(NAME, 2);
    for name in ["node1", "node2"] {
        assert_eq!(
            after[name]["since"], before[name]["since"],
            "{name} kept its session"
        );
    }
    set(json!({"disabled": true}));
    f.leads_to(frr, web, &[]);
    f.wait_sessions(NAME, 0);
    wait_column(&f, NAME, "0/0");
    for name in NODES {
        frr.wait_down(v4(node(name)), SESSION).unwrap();
    }
    set(json!({}));
    f.leads_to(frr, web, &NODES);
    wait_column(&f, NAME, "3/3");
    // Each speaker counts its sessions.
    wait_for("the metric of the session", SOON, || {
        let text = f.metrics(node("node1"));
        let own: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("fairlead_bgp_"))
            .collect();
        let up = format!("fairlead_bgp_session_up{{peer=\"{NAME}\"}} 1");
        let routes = format!("fairlead_bgp_prefixes_advertised{{peer=\"{NAME}\"}} 1");
        let has = |wanted: &str| own.contains(&wanted);
        if has(&up) && has(&routes) && has("fairlead_bgp_routes 1") && has("fairlead_bgp_daemon_up 1") {
            Ok(())
        } else {
            Err(own.join("\n"))
        }
    })
    .unwrap();
}

/// Timers of a session are changed: it is made anew, and the routes with it.
#[test]
fn a_changed_session_is_made_anew() {
    let f = Fixture::new();
    let router = v4(Place::Router).to_string();
    f.apply(&bgp::peer(
        NAME,
        &router,
        FRR_ASN,
        json!({"holdTime": "30s", "keepaliveTime": "10s"}),
    ));
    let hold = |name: &str| {
        let address = v4(node(name)).to_string();
        let said = f
            .stage
            .frr
            .show(&format!("bgp neighbors {address}"))
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(said[&address]["bgpTimerHoldTimeMsecs"].clone())
    };
    for name in NODES {
        wait_for("the hold time to be agreed on anew", SESSION, || {
            match hold(name)? {
                value if value == 30_000 => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
    }
    f.leads_to(&f.stage.frr, f.web(), &NODES);
    f.load(Place::Client, f.web().addr());
}
