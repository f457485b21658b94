//! What becomes of sessions with real routers when something ends or is wrong: gobgpd driven by the speaker's code in one
//! network namespace, FRR and BIRD in another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod netns;
mod routers;

use std::time::{Duration, Instant};

use fairlead_core::config::{Bfd, GracefulRestart, RemoteAsn};
use fairlead_core::model::Family;
use fairlead_speaker::bgp::{DaemonState, State};
use netns::Wire;
use routers::{Bird, Engine, Frr, Gobgpd, VIP, VIP6, activate, add, eventually, peer, plain, route};

#[test]
fn routes_stay_while_the_daemon_is_started_again() {
    let wire = Wire::new();
    let bgp = format!(
        " neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 timers 3 9\n{}",
        activate("192.0.2.1")
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let mut daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        for (name, address) in [("router", "192.0.2.2"), ("dead", "192.0.2.99")] {
            let mut peer = peer(name, 64512, RemoteAsn::Number(64513), address);
            peer.graceful_restart = Some(GracefulRestart {
                restart_time: Duration::from_secs(60),
                long_lived_time: Some(Duration::from_secs(600)),
            });
            add(wanted, peer);
        }
        for vip in [VIP, VIP6, "203.0.113.9/32"] {
            route(wanted, vip, &[("router", &plain()), ("dead", &plain())]);
        }
    });
    engine.established(&["router"]);
    for vip in [VIP, VIP6, "203.0.113.9/32"] {
        frr.expect(vip);
    }

    daemon.kill();
    let killed = Instant::now();
    engine.wait("the death is noticed", |observed| {
        matches!(observed.daemon, DaemonState::Down(_))
    });
    println!("the daemon's death was noticed within {:?}", killed.elapsed());
    // What changes meanwhile comes with the rest.
    engine.change(|_, wanted| {
        wanted.routes.remove(&"203.0.113.9/32".parse().unwrap());
        route(wanted, "203.0.113.10/32", &[("router", &plain())]);
    });
    let there = || {
        for vip in ["203.0.113.1", "2001:db8:ffff::1"] {
            let text = wire.peer_ip(&format!(
                "{} route show {vip}",
                if vip.contains(':') { "-6" } else { "-4" }
            ));
            assert!(text.contains(vip), "{vip} has left the router's table");
        }
    };
    there();
    daemon.again(&wire);
    eventually("the session is back, and the routes as they are now", || {
        there();
        let gone = frr.route("203.0.113.9/32").is_null();
        let come = !frr.route("203.0.113.10/32").is_null();
        if gone && come && engine.times_up("router") == 2 {
            Ok(())
        } else {
            Err(frr.ask("show bgp ipv4 unicast"))
        }
    });
    println!(
        "the daemon was killed, started and at work again within {:?}",
        killed.elapsed()
    );
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        there();
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_speaker_that_starts_again_finds_all_as_it_was() {
    let wire = Wire::new();
    let bgp = format!(" neighbor 192.0.2.1 remote-as 64512\n{}", activate("192.0.2.1"));
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let ask = |engine: &mut Engine, vips: &[&str]| {
        engine.change(|_, wanted| {
            add(
                wanted,
                peer("router", 64512, RemoteAsn::Number(64513), "192.0.2.2"),
            );
            for vip in vips {
                route(wanted, vip, &[("router", &plain())]);
            }
        });
    };
    let mut engine = Engine::start(&wire, &daemon);
    ask(&mut engine, &[VIP, VIP6]);
    engine.established(&["router"]);
    frr.expect(VIP);
    drop(engine);

    let mut engine = Engine::start(&wire, &daemon);
    ask(&mut engine, &[VIP, VIP6]);
    engine.established(&["router"]);
    engine.wait("all is there", |observed| {
        observed.settled && observed.routes == 2
    });
    assert_eq!(engine.observed.borrow().applied, 0, "nothing was to be changed");
    drop(engine);

    let mut engine = Engine::start(&wire, &daemon);
    ask(&mut engine, &[VIP]);
    frr.expect_gone(VIP6);
    assert!(!frr.route(VIP).is_null());
    engine.established(&["router"]);
    let text = frr.ask("show bgp neighbors 192.0.2.1 json");
    assert!(
        text.contains("\"connectionsEstablished\":1"),
        "the session has gone on: {text}"
    );
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let wire = Wire::new();
    let bgp = format!(
        " neighbor 192.0.2.1 remote-as 64512\n{} neighbor 198.51.100.1 remote-as 64512\n{}",
        activate("192.0.2.1"),
        activate("198.51.100.1"),
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        add(
            wanted,
            peer("right", 64512, RemoteAsn::Number(64513), "192.0.2.2"),
        );
        add(
            wanted,
            peer("wrong", 64512, RemoteAsn::Number(64999), "198.51.100.2"),
        );
        add(wanted, peer("absent", 64512, RemoteAsn::External, "192.0.2.77"));
        add(
            wanted,
            peer("stranger", 64512, RemoteAsn::External, "2001:db8::2"),
        );
    });
    engine.established(&["right"]);
    engine.wait("the router's OPEN does not fit", |observed| {
        let attempts = observed.sessions["wrong"].attempts.clone();
        attempts.is_some_and(|words| words.contains("another ASN"))
    });
    engine.wait("nobody is there", |observed| {
        let attempts = observed.sessions["absent"].attempts.clone();
        attempts.is_some_and(|words| words.contains("no TCP connection"))
    });
    engine.wait("the router does not know us", |observed| {
        let attempts = observed.sessions["stranger"].attempts.clone();
        attempts.is_some_and(|words| words.contains("may not know this node"))
    });
    frr.configure(64513, "neighbor 192.0.2.1 shutdown message maintenance");
    engine.wait("the end is told", |observed| {
        let error = observed.sessions["right"].error.clone();
        error.is_some_and(|words| words.contains("the peer ended the session with a NOTIFICATION"))
    });
    println!("{:?}", engine.session("right").error);
    frr.configure(64513, "no neighbor 192.0.2.1 shutdown");
    engine.established(&["right"]);
    assert_eq!(engine.session("right").error, None);
}

#[test]
fn bfd_ends_a_session_whose_path_is_cut() {
    let wire = Wire::new();
    let bgp = format!(
        " neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 bfd 3 300 300\n{}",
        activate("192.0.2.1")
    );
    let frr = Frr::start(&wire, 64513, &bgp, "");
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        let mut peer = peer("router", 64512, RemoteAsn::Number(64513), "192.0.2.2");
        // Slower than one would choose: the tests share the machine.
        let interval = Duration::from_millis(300);
        peer.bfd = Some(Bfd {
            receive_interval: interval,
            transmit_interval: interval,
            detect_multiplier: 3,
        });
        add(wanted, peer);
        route(wanted, VIP, &[("router", &plain())]);
    });
    engine.established(&["router"]);
    frr.expect(VIP);
    engine.wait("BFD is up", |observed| {
        observed.sessions["router"].bfd == Some(true)
    });
    eventually("BFD is up at the router", || {
        let text = frr.ask("show bfd peers");
        if text.contains("Status: up") {
            Ok(())
        } else {
            Err(text)
        }
    });
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(engine.session("router").state, State::Established, "BFD holds");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(engine.times_up("router"), 1);
    // As when the node is powered off behind a switch: nothing comes or goes, and the router sees its carrier.
    let nft = |rules: &str| {
        let output = wire.speaker_program("nft").arg(rules).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    nft("add table inet cut; \
         add chain inet cut in { type filter hook input priority 0; policy drop; }; \
         add chain inet cut out { type filter hook output priority 0; policy drop; }");
    let cut = Instant::now();
    frr.expect_gone(VIP);
    println!("the router dropped the route {:?} after the cut", cut.elapsed());
    assert!(
        cut.elapsed() < Duration::from_secs(4),
        "by BFD, not by the hold time"
    );
    engine.wait("it is seen here too", |observed| {
        observed.sessions["router"]
            .error
            .as_ref()
            .is_some_and(|error| error.contains("BFD lost it"))
    });
    nft("delete table inet cut");
    engine.established(&["router"]);
    frr.expect(VIP);
}

#[test]
fn a_router_that_sends_too_much_is_cut_off_alone() {
    let wire = Wire::new();
    let routes: String = (0..50_100)
        .map(|number| {
            format!(
                "route 10.{}.{}.{}/32 blackhole; ",
                number >> 16,
                number >> 8 & 255,
                number & 255
            )
        })
        .collect();
    let bird = Bird::start(
        &wire,
        &format!(
            "protocol static {{ ipv4; {routes} }}
             protocol bgp loud {{ local 192.0.2.2 port 1790 as 64513; neighbor 192.0.2.1 as 64512; ipv4 {{ import all; export all; }}; }}
             protocol bgp quiet {{ local 198.51.100.2 port 1791 as 64514; neighbor 198.51.100.1 as 64512; ipv4 {{ import all; export none; }}; }}"
        ),
    );
    let daemon = Gobgpd::start(&wire);
    let mut engine = Engine::start(&wire, &daemon);
    engine.change(|_, wanted| {
        for (name, asn, address, port) in [
            ("loud", 64513, "192.0.2.2", 1790),
            ("quiet", 64514, "198.51.100.2", 1791),
        ] {
            let mut peer = peer(name, 64512, RemoteAsn::Number(asn), address);
            peer.port = port;
            peer.families = vec![Family::V4];
            add(wanted, peer);
        }
        route(wanted, VIP, &[("loud", &plain()), ("quiet", &plain())]);
    });
    engine.wait("too much is too much", |observed| {
        observed
            .sessions
            .get("loud")
            .and_then(|seen| seen.error.as_ref())
            .is_some_and(|error| error.contains("more than 50000 prefixes"))
    });
    engine.established(&["quiet"]);
    bird.expect(VIP, &["BGP.next_hop: 198.51.100.1"]);
}
