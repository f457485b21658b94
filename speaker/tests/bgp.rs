//! Sessions with real routers: gobgpd driven by the speaker's code in one network namespace, FRR and BIRD in another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;
mod routers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fairlead_core::announce::bgp::Attributes;
use fairlead_core::config::RemoteAsn;
use fairlead_core::model::Family;
use fairlead_speaker::bgp::{OwnAddresses, Password, Refusal, State};
use netns::Wire;
use routers::{Bird, Engine, Frr, Gobgpd, VIP, VIP6, activate, add, eventually, peer, plain, route};

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

#[test]
fn a_password_is_changed_for_one_session_alone() {
    let wire = Wire::new();
    let bgp = format!(
        " neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 password first\n\
         {} neighbor 198.51.100.1 remote-as 64512\n neighbor 198.51.100.1 password second\n{}",
        activate("192.0.2.1"),
        activate("198.51.100.1"),
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|input, wanted| {
        for (name, address) in [("one", "192.0.2.2"), ("two", "198.51.100.2")] {
            let mut peer = peer(name, 64512, RemoteAsn::External, address);
            peer.password_secret = Some(name.to_owned());
            add(wanted, peer);
        }
        let mut third = peer("three", 64512, RemoteAsn::Number(64513), "192.0.2.3");
        third.password_secret = Some("unreadable".to_owned());
        add(wanted, third);
        route(wanted, VIP, &[("one", &plain()), ("two", &plain())]);
        input
            .passwords
            .insert("one".to_owned(), Ok(Password::new("first")));
        input
            .passwords
            .insert("two".to_owned(), Ok(Password::new("wrong")));
        input
            .passwords
            .insert("unreadable".to_owned(), Err("not allowed".to_owned()));
    });
    engine.established(&["one"]);
    // By its name it would be the first of the two.
    engine.change(|_, wanted| add(wanted, peer("four", 64512, RemoteAsn::Number(64513), "192.0.2.2")));
    engine.wait("the others are refused", |observed| {
        let reason = |name: &str| observed.sessions.get(name).and_then(|seen| seen.refusal.clone());
        reason("three") == Some(Refusal::PasswordMissing("not allowed".to_owned()))
            && reason("four") == Some(Refusal::DuplicatePeer("one".to_owned()))
    });
    frr.expect(VIP);
    assert_ne!(engine.session("two").state, State::Established);

    engine.change(|input, _| {
        input
            .passwords
            .insert("two".to_owned(), Ok(Password::new("second")));
    });
    engine.established(&["one", "two"]);
    assert_eq!(engine.times_up("one"), 1);

    // At the router, then here: the session is down in between, and the other is not.
    frr.configure(64513, "neighbor 198.51.100.1 password third");
    engine.wait("the session ends", |observed| {
        observed.sessions["two"].state != State::Established
    });
    engine.change(|input, _| {
        input
            .passwords
            .insert("two".to_owned(), Ok(Password::new("third")));
    });
    engine.established(&["one", "two"]);
    assert_eq!(engine.times_up("one"), 1);
    assert_eq!(engine.times_up("two"), 2);
    assert!(
        !format!("{:?}", engine.input.as_ref().unwrap().borrow()).contains("third"),
        "passwords are not shown"
    );
}

#[test]
fn a_node_without_ipv4_says_its_ipv6_address() {
    let wire = Wire::new();
    let bgp = format!(
        " neighbor 2001:db8::1 remote-as 64512\n neighbor 2001:db8::1 capability extended-nexthop\n{}",
        activate("2001:db8::1")
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|input, wanted| {
        input.addresses = OwnAddresses {
            v4: None,
            ..input.addresses
        };
        let mut router = peer("router", 64512, RemoteAsn::Number(64513), "2001:db8::2");
        // By the router's advertisements the node gets another address, which the kernel would prefer.
        router.source_address = Some("2001:db8::1".parse().unwrap());
        add(wanted, router);
        route(wanted, VIP, &[("router", &plain())]);
        route(wanted, VIP6, &[("router", &plain())]);
    });
    for vip in [VIP, VIP6] {
        let seen = frr.expect(vip);
        assert_eq!(seen["nexthops"][0]["ip"], "2001:db8::1", "{seen}");
    }
    eventually("the kernel has it", || {
        let text = wire.peer_ip(&format!("route show {}", VIP.trim_end_matches("/32")));
        if text.contains("via inet6") {
            Ok(())
        } else {
            Err(text)
        }
    });

    // The node gets an IPv4 address: its routes say it, and the session goes on.
    engine.change(|input, _| input.addresses.v4 = Some([192, 0, 2, 1].into()));
    eventually("the route says the address", || {
        let seen = frr.route(VIP);
        if seen["nexthops"][0]["ip"] == "192.0.2.1" {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    });
    assert_eq!(engine.times_up("router"), 1);
}

#[test]
fn a_router_without_an_address_is_found_on_its_interface() {
    let wire = Wire::new();
    let bgp = " neighbor eth0 interface remote-as external\n \
               address-family ipv4 unicast\n  neighbor eth0 activate\n exit-address-family\n \
               address-family ipv6 unicast\n  neighbor eth0 activate\n exit-address-family\n";
    let frr = Frr::start(
        &wire,
        64513,
        bgp,
        "interface eth0\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 3\nexit",
    );
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        add(wanted, peer("router", 64512, RemoteAsn::External, "eth0"));
        add(wanted, peer("nowhere", 64512, RemoteAsn::External, "eth7"));
        let mut vrf = peer("red", 64512, RemoteAsn::External, "192.0.2.77");
        vrf.vrf = Some("red".to_owned());
        add(wanted, vrf);
        route(wanted, VIP, &[("router", &plain())]);
        route(wanted, VIP6, &[("router", &plain())]);
    });
    engine.established(&["router"]);
    for vip in [VIP, VIP6] {
        let seen = frr.expect(vip);
        assert!(
            seen["nexthops"][0]["ip"].as_str().unwrap().starts_with("fe80::"),
            "{seen}"
        );
        assert_eq!(seen["valid"], true, "{seen}");
    }
    engine.wait("the others are refused", |observed| {
        observed.sessions["nowhere"].refusal == Some(Refusal::NoInterface("eth7".to_owned()))
            && observed.sessions["red"].refusal == Some(Refusal::NoVrf("red".to_owned()))
    });
}

#[test]
fn a_router_in_a_vrf_and_behind_a_ttl() {
    let wire = Wire::new();
    let add_vrf = wire
        .speaker_program("ip")
        .args(["link", "add", "red", "type", "vrf", "table", "10"])
        .status();
    let has_vrf = add_vrf.is_ok_and(|status| status.success());
    if has_vrf {
        wire.speaker_ip("link set red up");
        wire.speaker_ip("link set eth1 master red");
    } else {
        println!("this kernel has no VRF devices: the session goes without");
    }
    let bgp = format!(
        " neighbor 192.0.2.1 remote-as 4200000099\n neighbor 192.0.2.1 ttl-security hops 1\n\
         {} neighbor 198.51.100.1 remote-as 4200000099\n neighbor 198.51.100.1 ebgp-multihop 5\n{}",
        activate("192.0.2.1"),
        activate("198.51.100.1"),
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        let mut secured = peer("secured", 4_200_000_099, RemoteAsn::Number(64513), "192.0.2.2");
        secured.ttl_security = Some(1);
        secured.source_address = Some([192, 0, 2, 1].into());
        add(wanted, secured);
        let mut red = peer("red", 4_200_000_099, RemoteAsn::Number(64513), "198.51.100.2");
        red.vrf = has_vrf.then(|| "red".to_owned());
        red.ebgp_multihop = Some(5);
        add(wanted, red);
        route(wanted, VIP, &[("red", &plain())]);
        route(wanted, "203.0.113.2/32", &[("secured", &plain())]);
    });
    engine.established(&["secured", "red"]);
    assert_eq!(frr.expect(VIP)["nexthops"][0]["ip"], "198.51.100.1");
    assert_eq!(frr.expect("203.0.113.2/32")["nexthops"][0]["ip"], "192.0.2.1");
}

#[test]
fn ten_thousand_routes() {
    const COUNT: usize = 10_000;
    let wire = Wire::new();
    let bgp = format!(" neighbor 192.0.2.1 remote-as 64512\n{}", activate("192.0.2.1"));
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        let router = peer("router", 64512, RemoteAsn::Number(64513), "192.0.2.2");
        add(wanted, router);
    });
    engine.established(&["router"]);
    let vip = |number: usize| format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255);
    let begun = Instant::now();
    engine.change(|_, wanted| {
        for number in 0..COUNT {
            route(wanted, &vip(number), &[("router", &plain())]);
        }
    });
    eventually("all routes are there", || match frr.count("ipv4") {
        COUNT => Ok(()),
        count => Err(count.to_string()),
    });
    println!(
        "{COUNT} routes from wanted to the router's table: {:?}",
        begun.elapsed()
    );
    engine.wait("it is told", |observed| observed.routes == COUNT);
    println!(
        "of this the daemon took {:?}",
        engine.observed.borrow().apply_time
    );

    let begun = Instant::now();
    engine.change(|_, wanted| {
        wanted.routes.remove(&vip(77).parse().unwrap());
    });
    frr.expect_gone(&vip(77));
    println!("one of them withdrawn: {:?}", begun.elapsed());

    let begun = Instant::now();
    engine.change(|_, wanted| {
        let less = Attributes {
            prepend: 3,
            communities: [0xFFFF_0000].into(),
            ..plain()
        };
        for treatment in wanted.routes.values_mut() {
            Arc::make_mut(treatment).insert("router".to_owned(), less.clone());
        }
    });
    eventually("all are less preferred", || {
        let text = frr.ask("show bgp ipv4 unicast community graceful-shutdown json");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match value["routes"].as_object().map_or(0, serde_json::Map::len) {
            count if count == COUNT - 1 => Ok(()),
            count => Err(count.to_string()),
        }
    });
    println!("all treated otherwise: {:?}", begun.elapsed());
}
