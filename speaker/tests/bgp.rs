//! Sessions with real routers: gobgpd driven by the speaker's code in one network namespace, FRR and BIRD in another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;
mod routers;

use std::time::{Duration, Instant};

use fairlead_core::announce::bgp::Attributes;
use fairlead_core::config::{GracefulRestart, RemoteAsn};
use fairlead_core::model::Family;
use fairlead_speaker::bgp::{DaemonState, OwnAddresses, Password, Refusal, State};
use netns::Wire;
use routers::{Bird, Engine, Frr, Gobgpd, add, eventually, peer, route};

const VIP: &str = "203.0.113.1/32";
const VIP6: &str = "2001:db8:ffff::1/128";

/// Both families of a neighbour in FRR's configuration.
fn activate(neighbour: &str) -> String {
    let family = |name: &str| {
        format!(" address-family {name} unicast\n  neighbor {neighbour} activate\n exit-address-family\n")
    };
    family("ipv4") + &family("ipv6")
}

fn plain() -> Attributes {
    Attributes::default()
}

#[test]
fn two_routers_get_each_what_is_for_it() {
    let wire = Wire::new();
    let frr = Frr::start(
        &wire,
        4_200_000_001,
        &format!(" neighbor 192.0.2.1 remote-as 64512\n{}", activate("192.0.2.1")),
        "",
    );
    let bird = Bird::start(
        &wire,
        "protocol bgp node { local 2001:db8:1::2 port 1790 as 64512; neighbor 2001:db8:1::1 as 64512; \
         ipv4 { import all; extended next hop; }; ipv6 { import all; }; }",
    );
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    let outside = Attributes {
        med: Some(50),
        prepend: 2,
        communities: [64512 << 16 | 1, 0xFFFF_FF02].into(),
        large_communities: [[64512, 1, 2]].into(),
        local_pref: Some(300),
    };
    let inside = Attributes {
        local_pref: Some(300),
        med: Some(0),
        prepend: 3,
        ..Attributes::default()
    };
    engine.change(|_, wanted| {
        add(
            wanted,
            peer("frr", 64512, RemoteAsn::Number(4_200_000_001), "192.0.2.2"),
        );
        let mut bird = peer("bird", 64512, RemoteAsn::Internal, "2001:db8:1::2");
        bird.port = 1790;
        add(wanted, bird);
        for vip in [VIP, VIP6] {
            route(wanted, vip, &[("frr", &outside), ("bird", &inside)]);
        }
        route(
            wanted,
            "203.0.113.2/32",
            &[(
                "bird",
                &Attributes {
                    local_pref: Some(0),
                    ..Attributes::default()
                },
            )],
        );
        route(
            wanted,
            "203.0.113.3/32",
            &[("frr", &plain()), ("nobody", &outside)],
        );
    });
    engine.established(&["frr", "bird"]);

    for (vip, hop) in [(VIP, "192.0.2.1"), (VIP6, "2001:db8::1")] {
        let seen = frr.expect(vip);
        assert_eq!(seen["aspath"]["string"], "64512 64512 64512", "{seen}");
        assert_eq!(seen["community"]["string"], "64512:1 no-advertise", "{seen}");
        assert_eq!(seen["largeCommunity"]["string"], "64512:1:2", "{seen}");
        assert_eq!(seen["metric"], 50, "{seen}");
        assert_eq!(seen["nexthops"][0]["ip"], hop, "{seen}");
    }
    let seen = frr.expect("203.0.113.3/32");
    assert_eq!(seen["aspath"]["string"], "64512", "{seen}");
    assert!(
        seen["largeCommunity"].is_null(),
        "the mark of the class stays here: {seen}"
    );
    assert!(
        frr.route("203.0.113.2/32").is_null(),
        "a route for the other router"
    );

    let seen = bird.expect(
        VIP,
        &["BGP.local_pref: 300", "BGP.med: 0", "BGP.next_hop: 192.0.2.1"],
    );
    assert!(
        !seen.contains("64512"),
        "no AS is prepended towards our own: {seen}"
    );
    assert!(!seen.contains("large"), "{seen}");
    bird.expect(VIP6, &["BGP.local_pref: 300", "BGP.next_hop: 2001:db8:1::1"]);
    bird.expect("203.0.113.2/32", &["BGP.local_pref: 0"]);
    assert!(
        !bird.ask("show route 203.0.113.3/32").contains("203.0.113.3"),
        "a route for the other router"
    );

    engine.wait("routes are counted", |observed| {
        let sent = |name: &str, family| observed.sessions[name].advertised.get(&family).copied();
        observed.sessions["frr"].families == [Family::V4, Family::V6]
            && sent("frr", Family::V4) == Some(2)
            && sent("frr", Family::V6) == Some(1)
            && sent("bird", Family::V4) == Some(2)
    });
    assert_eq!(engine.session("frr").remote_asn, Some(4_200_000_001));

    // Another treatment is a change of the route, and no session ends for it.
    engine.change(|_, wanted| {
        route(wanted, VIP, &[("frr", &plain())]);
        wanted.routes.remove(&VIP6.parse().unwrap());
    });
    bird.expect_gone(VIP);
    bird.expect_gone(VIP6);
    frr.expect_gone(VIP6);
    eventually("the route says the other thing", || {
        let seen = frr.route(VIP);
        if seen["aspath"]["string"] == "64512" {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    });
    assert_eq!((engine.times_up("frr"), engine.times_up("bird")), (1, 1));

    let mut worst = Duration::ZERO;
    for last in 10..20 {
        let vip = format!("203.0.113.{last}");
        let begun = Instant::now();
        engine.change(|_, wanted| route(wanted, &format!("{vip}/32"), &[("frr", &plain())]));
        while !wire.peer_ip(&format!("route show {vip}")).contains(&vip) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{vip} does not come");
        }
        worst = worst.max(begun.elapsed());
    }
    println!("one new route, until it is in the router's kernel: at most {worst:?} of 10");

    engine.change(|_, wanted| {
        wanted.sessions.remove("bird");
    });
    eventually("the session ends", || {
        let text = bird.ask("show protocols node");
        if text.contains("Established") {
            Err(text)
        } else {
            Ok(())
        }
    });
    assert_eq!(engine.times_up("frr"), 1);
}
