//! Sessions of every kind, each with a route that goes through it.

use std::net::IpAddr;
use std::process::Command;

use fairlead_e2e::bgp::manifests as bgp;
use fairlead_e2e::product::install::{self, run};
use fairlead_e2e::product::wait_for;
use fairlead_e2e::routers::{BIRD_ASN, Bird, FRR_ASN, Nodes, Path, Router};
use fairlead_e2e::topology::Place;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::fixture::{Fixture, NAME, NODES, SECRETS, SESSION, SOON, node, v4, v6};

/// The router's address that is not on the nodes' segment.
const FAR: &str = "10.255.0.1";

/// A Secret with the password of a session.
fn secret(name: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"name": name, "namespace": install::NAMESPACE},
        "stringData": {"username": "bgp", "password": password},
    })
}

/// An interface or address of the router's that goes away with the test.
struct Undone<'a>(&'a Fixture, Place, Vec<&'static str>);

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        let _ = self.0.lab.exec(self.1, &self.2);
    }
}

/// One kind of session: who has it, with whom, and how.
struct Kind {
    name: &'static str,
    node: &'static str,
    address: IpAddr,
    asn: u32,
    spec: Value,
    /// The family of the route that goes through it.
    family: &'static str,
    as_path: Vec<u32>,
}

/// FRR's side of a session with a node that is not like those of the group.
fn neighbor(address: IpAddr, asn: u32, lines: &[&str]) -> String {
    let mut text = format!(
        "router bgp {FRR_ASN}\n neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
         neighbor {address} capability extended-nexthop\n"
    );
    for line in lines {
        text += &format!(" neighbor {address} {line}\n");
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(
            " address-family {family} unicast\n  neighbor {address} activate\n  \
             neighbor {address} route-map NOTHING out\n exit-address-family\n"
        );
    }
    text + "exit\n"
}

fn kinds() -> Vec<Kind> {
    let kind = |name, node, address, asn, spec, family, as_path: &[u32]| Kind {
        name,
        node,
        address,
        asn,
        spec,
        family,
        as_path: as_path.to_vec(),
    };
    let (one, other) = (Place::Router, Place::Router2);
    let frr = FRR_ASN;
    vec![
        kind(
            "external",
            "node1",
            v4(one),
            frr,
            json!({"remoteASN": "external"}),
            "IPv4",
            &[64500],
        ),
        kind(
            "internal",
            "node2",
            v4(one),
            frr,
            json!({"myASN": frr, "remoteASN": "internal"}),
            "IPv4",
            &[],
        ),
        kind(
            "far",
            "node3",
            FAR.parse().unwrap(),
            frr,
            json!({"myASN": 4_200_000_001_u32, "ebgpMultihop": 3}),
            "IPv4",
            &[4_200_000_001],
        ),
        // IPv4 over IPv6.
        kind("over-v6", "node1", v6(one), frr, json!({}), "IPv4", &[64500]),
        kind(
            "near",
            "node2",
            v6(one),
            frr,
            json!({"ttlSecurity": 1}),
            "IPv6",
            &[64500],
        ),
        kind(
            "keyed",
            "node3",
            v6(one),
            frr,
            json!({"passwordSecret": SECRETS[0]}),
            "IPv6",
            &[64500],
        ),
        // IPv6 over IPv4.
        kind(
            "over-v4",
            "node1",
            v4(other),
            BIRD_ASN,
            json!({}),
            "IPv6",
            &[64500],
        ),
        kind(
            "v4-alone",
            "node2",
            v6(other),
            BIRD_ASN,
            json!({"families": ["IPv4"]}),
            "IPv4",
            &[64500],
        ),
        kind(
            "bfd",
            "node3",
            v4(other),
            BIRD_ASN,
            json!({"bfd": bgp::bfd()}),
            "IPv4",
            &[64500],
        ),
    ]
}

#[test]
fn sessions_of_every_kind_carry_routes() {
    let f = Fixture::without_peers();
    let frr = &f.stage.frr;
    f.run(
        Place::Router,
        &["ip", "addr", "replace", &format!("{FAR}/32"), "dev", "lo"],
    );
    let _address = Undone(
        &f,
        Place::Router,
        vec!["ip", "addr", "del", "10.255.0.1/32", "dev", "lo"],
    );
    let lines = [
        neighbor(v4(node("node2")), FRR_ASN, &[]),
        neighbor(
            v4(node("node3")),
            4_200_000_001,
            &["ebgp-multihop 3", &format!("update-source {FAR}")],
        ),
        neighbor(v6(node("node2")), 64500, &["ttl-security hops 1"]),
        neighbor(v6(node("node3")), 64500, &["password first"]),
    ];
    frr.configure(&lines.concat()).unwrap();
    let nodes = Nodes {
        bfd: true,
        ..Nodes::default()
    };
    let bird = Bird::start(f.lab, &nodes).unwrap();
    f.apply(&secret(SECRETS[0], "first"));
    let kinds = kinds();
    let mut routes = vec![];
    for (n, kind) in kinds.iter().enumerate() {
        let mut spec = kind.spec.clone();
        bgp::merge(&mut spec, json!({"nodeSelectors": bgp::nodes(&[kind.node])}));
        let peer = f.peer(kind.name, kind.address, kind.asn, spec);
        let pool = match kind.family {
            "IPv6" => format!("fd00:b6b::{:x}0/124", n + 16),
            _ => format!("198.51.100.{}/30", 128 + 4 * n),
        };
        f.pool(kind.name, &[&pool]);
        let only = json!({"peers": [peer], "localPref": 300});
        f.apply(&bgp::advertisement(&peer, &f.name(kind.name), only));
        let family = json!({"ipFamilies": [kind.family], "ipFamilyPolicy": "SingleStack"});
        routes.push(IpNet::from(f.service(
            kind.name,
            &f.name(kind.name),
            "Cluster",
            family,
        )));
    }
    for (kind, route) in kinds.iter().zip(&routes) {
        let sessions = f.wait_sessions(&f.name(kind.name), 1);
        let session = &sessions[kind.node];
        let right = |path: &Path| path.as_path == kind.as_path;
        let (path, seen_by) = if kind.asn == BIRD_ASN {
            (f.wait_path(&bird, *route, kind.node, right), Place::Client2)
        } else {
            (f.wait_path(frr, *route, kind.node, right), Place::Client)
        };
        if kind.name == "internal" {
            assert_eq!(path.local_pref, Some(300), "{path:?}");
        }
        if kind.name == "v4-alone" {
            assert_eq!(session["families"], json!(["IPv4"]), "{session}");
        }
        f.load(seen_by, route.addr());
        println!("{}: {session}", kind.name);
    }
    // Each says so for all who look: by the object, by the node, and by the router.
    wait_for("kubectl to show every session", SOON, || {
        let said = run(&mut f.lab.kubectl(["get", "bgppeers"]).map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
        let shown = |name: String| {
            let line = said.lines().find(|line| line.starts_with(&name));
            line.is_some_and(|line| line.contains(" 1/1 "))
        };
        if kinds.iter().all(|kind| shown(f.name(kind.name))) {
            Ok(())
        } else {
            Err(said)
        }
    })
    .unwrap();
    f.wait_neighbor(&bird, v4(node("node3")), |n| n.bfd.as_deref() == Some("Up"));
    wait_for("BFD to be up at the node", SOON, || {
        let sessions = f.sessions(&f.name("bfd"))?;
        let up = sessions.values().any(|session| session["bfd"] == "Up");
        up.then_some(()).ok_or_else(|| format!("{sessions:?}"))
    })
    .unwrap();
    // Each route went to its own peer alone.
    for (kind, route) in kinds.iter().zip(&routes) {
        let paths = if kind.asn == BIRD_ASN {
            frr.fib(*route).unwrap()
        } else {
            bird.fib(*route).unwrap()
        };
        assert!(paths.is_empty(), "{}: {paths:?}", kind.name);
    }
}

#[test]
fn a_password_is_rotated_and_no_other_session_notices() {
    let f = Fixture::new();
    let keyed = |password: &str| {
        let nodes = Nodes {
            password: Some(password.to_owned()),
            ..Nodes::default()
        };
        nodes.bird(Place::Router2)
    };
    let bird = Bird::start_at(f.lab, Place::Router2, &keyed("first")).unwrap();
    f.apply(&secret(SECRETS[1], "first"));
    let peer = f.peer(
        "bird",
        v4(Place::Router2),
        BIRD_ASN,
        json!({"passwordSecret": SECRETS[1]}),
    );
    f.apply(&bgp::advertisement(NAME, NAME, json!({"peers": [NAME, peer]})));
    f.wait_sessions(&peer, 3);
    f.leads_to(&bird, f.web(), &NODES);
    let others = || {
        let sessions = f.sessions(NAME).unwrap();
        let since = sessions.into_values().map(|s| s["since"].to_string());
        since.collect::<Vec<_>>()
    };
    let before = others();
    let seen = f.load_during(Place::Client, f.web().addr(), || {
        // The router is the first to change: the passwords differ, and the nodes say so.
        bird.configure(&keyed("second")).unwrap();
        f.wait_sessions(&peer, 0);
        f.leads_to(&bird, f.web(), &[]);
        let said = f.wait_event(&peer, "SessionDown", "node");
        println!("the router's password changed: {said}");
        wait_for("the nodes to say why", SESSION, || {
            let sessions = f.sessions(&peer)?;
            let told = sessions
                .values()
                .all(|session| session["lastError"].as_str().is_some_and(|text| !text.is_empty()));
            told.then_some(()).ok_or_else(|| format!("{sessions:?}"))
        })
        .unwrap();
        f.apply(&secret(SECRETS[1], "second"));
        f.wait_sessions(&peer, 3);
        f.leads_to(&bird, f.web(), &NODES);
        // Without the Secret there is no session, and that is told.
        let path = format!("/api/v1/namespaces/{}/secrets/{}", install::NAMESPACE, SECRETS[1]);
        f.cluster.delete(&path).unwrap();
        f.leads_to(&bird, f.web(), &[]);
        wait_for("PasswordMissing to be told", SESSION, || {
            let states = f
                .cluster
                .list("/apis/fairlead.dev/v1alpha1/nodestates")
                .map_err(|e| e.to_string())?;
            let all = states.iter().map(|state| state["status"]["bgp"].to_string());
            let all: Vec<String> = all.collect();
            let told = all.iter().all(|text| text.contains("PasswordMissing"));
            told.then_some(()).ok_or_else(|| format!("{all:?}"))
        })
        .unwrap();
    });
    println!("a password rotated at the other router: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
    assert_eq!(others(), before, "no other session was lost");
}

/// A cable of its own between a node and the router, on which both have nothing but link-local addresses.
fn link(f: &Fixture) -> Undone<'_> {
    let pid = |place| f.lab.machine(place).unwrap().id().pid.to_string();
    let (router, far) = (pid(Place::Router), pid(node("node1")));
    let ip = |pid: &str, line: &str| {
        let mut command = Command::new("nsenter");
        command.args(["-t", pid, "-n", "--", "ip"]).args(line.split(' '));
        run(&mut command).unwrap();
    };
    ip(
        &router,
        &format!("link add name link1 type veth peer name link1 netns {far}"),
    );
    let undone = Undone(f, Place::Router, vec!["ip", "link", "del", "link1"]);
    for (pid, address) in [(&router, "fe80::a/64"), (&far, "fe80::b/64")] {
        ip(pid, "link set link1 addrgenmode none");
        ip(pid, &format!("addr add {address} dev link1 nodad"));
        ip(pid, "link set link1 up");
    }
    // Answers take the other way, by the node's default route.
    f.run(
        node("node1"),
        &["sysctl", "-qw", "net.ipv4.conf.link1.rp_filter=0"],
    );
    undone
}

#[test]
fn an_unnumbered_session_carries_routes_of_both_families() {
    let f = Fixture::without_peers();
    let frr = &f.stage.frr;
    let _link = link(&f);
    // FRR takes such a session from who has shown himself by a router advertisement.
    let group = "activate\n  neighbor link1 route-map NOTHING out\n exit-address-family";
    frr.configure(&format!(
        "interface link1\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 2\nexit\n\
         router bgp {FRR_ASN}\n neighbor link1 interface remote-as external\n \
         address-family ipv4 unicast\n  neighbor link1 {group}\n \
         address-family ipv6 unicast\n  neighbor link1 {group}\nexit\n"
    ))
    .unwrap();
    let name = f.name("link");
    let spec = json!({
        "interface": "link1", "address": null, "nodeSelectors": bgp::nodes(&["node1"]),
    });
    f.apply(&bgp::peer(&name, "", FRR_ASN, spec));
    let pool = f.pool("link", &["198.51.100.96/28", "fd00:b6b::/124"]);
    f.apply(&bgp::advertisement(&pool, &pool, json!({"peers": [name]})));
    // Under Cluster: no route of the node leads over this link, so that what comes by it would count as its pods' under Local.
    let of = |family: &str| {
        let spec = json!({"ipFamilies": [family], "ipFamilyPolicy": "SingleStack"});
        IpNet::from(f.service(&format!("link-{}", family.to_lowercase()), &pool, "Cluster", spec))
    };
    let routes = [of("IPv4"), of("IPv6")];
    let sessions = f.wait_sessions(&name, 1);
    println!("unnumbered: {sessions:?}");
    for route in routes {
        wait_for("the router to send over the link", SESSION, || {
            let hops = frr.fib(route).map_err(|e| e.to_string())?;
            match hops.as_slice() {
                [one] if *one == "fe80::b".parse::<IpAddr>().unwrap() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        f.load(Place::Client, route.addr());
    }
}
