//! The lab's BGP routers: what they learn, what the kernel below them does with it, and what is left of them. The nodes
//! announce by an FRR of their own here. Needs a lab that is up, named by `FAIRLEAD_LAB`.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, with what it saw"
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::{Cluster, manifests, wait_for};
use fairlead_e2e::routers::{BIRD_ASN, Bird, FRR_ASN, Family, Frr, NODE_ASN, Nodes, Path, Router};
use fairlead_e2e::topology::Place;
use fairlead_e2e::{Lab, images::AGNHOST};
use ipnet::IpNet;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const VIP4: &str = "172.33.0.1/32";
const VIP6: &str = "fd00:33::1/128";
const NODE1: Place = Place::Node(1);

/// The tests share the routers: one at a time.
fn lab() -> (Lab, MutexGuard<'static, ()>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = std::env::var("FAIRLEAD_LAB").expect("FAIRLEAD_LAB names a lab: use `make e2e`");
    (Lab::open(&name).unwrap(), turn)
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn v4(place: Place) -> IpAddr {
    place.uplink().unwrap().v4.into()
}

fn v6(place: Place) -> IpAddr {
    place.uplink().unwrap().v6.into()
}

/// FRR on a node with a session to each router over IPv4, which announces both addresses with some attributes.
fn announce(lab: &Lab, node: Place, nodes: &Nodes) -> Frr {
    announce_over(lab, node, nodes, v4)
}

/// The same by way of the routers' addresses of one family.
fn announce_over(lab: &Lab, node: Place, nodes: &Nodes, address: fn(Place) -> IpAddr) -> Frr {
    let mut neighbors = String::new();
    let mut active = String::new();
    for (router, asn) in [(Place::Router, FRR_ASN), (Place::Router2, BIRD_ASN)] {
        let router = address(router);
        neighbors += &format!(
            " neighbor {router} remote-as {asn}\n neighbor {router} timers 1 3\n neighbor {router} timers connect 1\n"
        );
        if router.is_ipv6() {
            neighbors += &format!(" neighbor {router} capability extended-nexthop\n");
        }
        if nodes.bfd {
            neighbors += &format!(" neighbor {router} bfd profile fast\n");
        }
        if let Some(password) = &nodes.password {
            neighbors += &format!(" neighbor {router} password {password}\n");
        }
        active += &format!("  neighbor {router} activate\n  neighbor {router} route-map OUT out\n");
    }
    let config = format!(
        "bfd\n profile fast\n  detect-multiplier 3\n  transmit-interval 100\n  receive-interval 100\n exit\nexit\n\
         route-map OUT permit 10\n set community {NODE_ASN}:7 no-export\n set large-community {NODE_ASN}:1:2\n \
         set metric 50\n set as-path prepend {NODE_ASN}\n set local-preference 70\nexit\n\
         router bgp {asn}\n bgp router-id {id}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         no bgp default ipv4-unicast\n bgp graceful-restart-disable\n{neighbors} address-family ipv4 unicast\n  network {VIP4}\n{active} exit\n \
         address-family ipv6 unicast\n  network {VIP6}\n{active} exit\nexit\n",
        asn = nodes.asn,
        id = v4(node)
    );
    Frr::start_at(lab, node, &config).unwrap()
}

/// Addresses that the nodes themselves answer on, as long as it lives.
struct Held<'a>(&'a Lab);

impl<'a> Held<'a> {
    fn new(lab: &'a Lab) -> Self {
        let held = Self(lab);
        held.change("replace");
        held
    }

    fn change(&self, action: &str) {
        for node in self.0.nodes() {
            for address in [VIP4, VIP6] {
                let _ = self.0.exec(node, ["ip", "address", action, address, "dev", "lo"]);
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.change("del");
    }
}

#[test]
fn both_routers_learn_a_route_with_what_it_carries() {
    let (lab, _turn) = lab();
    let nodes = Nodes {
        password: Some("a secret".replace(' ', "-")),
        ..Nodes::default()
    };
    let frr = Frr::start(&lab, &nodes).unwrap();
    let bird = Bird::start(&lab, &nodes).unwrap();
    let node = announce(&lab, NODE1, &nodes);

    let right = |paths: &Vec<Path>| {
        let [path] = paths.as_slice() else { return false };
        path.leads_to() == Some(NODE1)
            && path.as_path == [NODE_ASN, NODE_ASN]
            && path.communities == ["64500:7", "65535:65281"]
            && path.large_communities == ["64500:1:2"]
            && path.med == Some(50)
            && path.best
            && path.used
            && !path.stale
    };
    for vip in [VIP4, VIP6].map(prefix) {
        frr.wait_paths(vip, LIMIT, right).unwrap();
        frr.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
        bird.wait_paths(vip, LIMIT, right).unwrap();
        bird.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
    }
    for session in [
        frr.wait_established(v4(NODE1), LIMIT).unwrap(),
        bird.wait_established(v4(NODE1), LIMIT).unwrap(),
    ] {
        assert_eq!(session.asn, NODE_ASN);
        assert_eq!(session.received, [(Family::V4, 1), (Family::V6, 1)].into());
    }
    for family in Family::ALL {
        assert_eq!((frr.count(family).unwrap(), bird.count(family).unwrap()), (1, 1));
    }
    assert_eq!(frr.neighbor(v6(NODE1)).unwrap(), None);
    assert_eq!(bird.neighbor(v6(NODE1)).unwrap(), None);

    // A router that is changed while it runs: another password, and the session does not come back.
    frr.configure(&format!(
        "router bgp {FRR_ASN}\n neighbor NODES4 password other\nexit"
    ))
    .unwrap();
    frr.command("clear bgp *").unwrap();
    frr.wait_leads_to(prefix(VIP4), &[], LIMIT).unwrap();
    bird.wait_leads_to(prefix(VIP4), &[NODE1], LIMIT).unwrap();
    assert!(
        frr.configure("router bgp 1\nexit").is_err(),
        "it has another number"
    );

    // A node that takes its leave properly is known no more at once.
    node.stop().unwrap();
    bird.wait_leads_to(prefix(VIP4), &[], Duration::from_secs(2))
        .unwrap();
    bird.wait_down(v4(NODE1), LIMIT).unwrap();
}

#[test]
fn an_internal_session_and_an_external_one_over_ipv6() {
    let (lab, _turn) = lab();
    // The nodes have the AS number of the one router, and not that of the other.
    let nodes = Nodes {
        asn: FRR_ASN,
        password: Some("other".into()),
        ..Nodes::default()
    };
    let frr = Frr::start(&lab, &nodes).unwrap();
    let bird = Bird::start(&lab, &nodes).unwrap();
    let _node = announce_over(&lab, NODE1, &nodes, v6);
    for vip in [VIP4, VIP6].map(prefix) {
        frr.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
        bird.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
        // Also the routes of IPv4 (RFC 8950).
        for hops in [frr.fib(vip).unwrap(), bird.fib(vip).unwrap()] {
            assert!(hops.iter().all(IpAddr::is_ipv6), "{hops:?}");
        }
        let [internal, external] = [frr.paths(vip), bird.paths(vip)].map(|paths| paths.unwrap().remove(0));
        for path in [&internal, &external] {
            assert_eq!(path.leads_to(), Some(NODE1), "{path:?}");
            assert!(path.used, "{path:?}");
        }
        assert_eq!(
            (internal.as_path, internal.local_pref),
            (vec![NODE_ASN], Some(70))
        );
        assert_eq!(external.as_path, [FRR_ASN, NODE_ASN]);
    }
    frr.wait_established(v6(NODE1), LIMIT).unwrap();
    bird.wait_established(v6(NODE1), LIMIT).unwrap();
    assert_eq!(frr.neighbor(v4(NODE1)).unwrap(), None);
}

#[test]
fn routers_spread_connections_over_all_next_hops() {
    let (lab, _turn) = lab();
    let cluster = Cluster::connect(&lab).unwrap();
    let namespace = format!("routers-{}", std::process::id());
    cluster.apply(&manifests::namespace(&namespace)).unwrap();
    for node in lab.nodes() {
        let mut pod = manifests::web_pod(&namespace, "web", &node.name());
        pod["spec"]["hostNetwork"] = json!(true);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
        pod["spec"]["containers"] = json!([{
            "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8090", "--udp-port=-1"],
        }]);
        cluster.apply(&pod).unwrap();
    }
    let _held = Held::new(&lab);
    let nodes = Nodes::default();
    let frr = Frr::start(&lab, &nodes).unwrap();
    let bird = Bird::start(&lab, &nodes).unwrap();
    let _announcers: Vec<Frr> = lab
        .nodes()
        .into_iter()
        .map(|node| announce(&lab, node, &nodes))
        .collect();

    for vip in [VIP4, VIP6].map(prefix) {
        frr.wait_leads_to(vip, &lab.nodes(), LIMIT).unwrap();
        bird.wait_leads_to(vip, &lab.nodes(), LIMIT).unwrap();
        let used = |paths: Vec<Path>| paths.iter().filter(|path| path.used).count();
        assert_eq!(used(frr.paths(vip).unwrap()), lab.nodes().len());
        assert_eq!(used(bird.paths(vip).unwrap()), lab.nodes().len());
        let target = SocketAddr::new(vip.addr(), 8090);
        for from in [Place::Client, Place::Client2] {
            let url = format!("http://{target}/hostname");
            // Until each of the web servers runs, some connections are refused.
            wait_for("ten answers in a row", LIMIT, || {
                for _ in 0..10 {
                    let output = lab
                        .exec(from, ["curl", "-sS", "-g", "-m", "2", &url])
                        .map_err(|e| e.to_string())?;
                    if !output.status.success() {
                        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                    }
                }
                Ok(())
            })
            .unwrap();
            let mut options = ClientOptions::new(target);
            options.interval = Duration::from_millis(5);
            options.duration = Some(Duration::from_secs(3));
            let report = lab.start_client(from, &options).unwrap().wait(LIMIT).unwrap();
            println!("{target} from {}: {:?}", from.name(), report.backends);
            assert_eq!(report.failed, 0, "{report}");
            assert_eq!(report.backends.len(), lab.nodes().len(), "{report}");
            // Of some 600 connections a third each: far from it, they are not spread by their ports.
            let (total, share) = (report.good, 1.0 / lab.nodes().len() as f64);
            for (backend, count) in &report.backends {
                let seen = *count as f64 / total as f64;
                assert!(
                    seen > share * 0.6 && seen < share * 1.4,
                    "{backend}: {seen:.2} of {total}"
                );
            }
        }
    }
    cluster
        .delete(&format!("/api/v1/namespaces/{namespace}"))
        .unwrap();
}

#[test]
fn with_bfd_a_dead_cable_is_noticed_within_a_second() {
    let (lab, _turn) = lab();
    let nodes = Nodes {
        bfd: true,
        ..Nodes::default()
    };
    let frr = Frr::start(&lab, &nodes).unwrap();
    let bird = Bird::start(&lab, &nodes).unwrap();
    let announcers = [NODE1, Place::Node(2)].map(|node| announce(&lab, node, &nodes));
    let [vip4, vip6] = [VIP4, VIP6].map(prefix);
    let both = [NODE1, Place::Node(2)];
    let settled = || {
        for vip in [vip4, vip6] {
            frr.wait_leads_to(vip, &both, LIMIT).unwrap();
            bird.wait_leads_to(vip, &both, LIMIT).unwrap();
        }
        for place in both {
            let watched = |session: Option<_>| {
                let bfd: Option<String> = session.and_then(|s: fairlead_e2e::routers::Neighbor| s.bfd);
                bfd.is_some_and(|state| state == "Up")
            };
            frr.wait_neighbor(v4(place), LIMIT, |seen| watched(seen.clone()))
                .unwrap();
            bird.wait_neighbor(v4(place), LIMIT, |seen| watched(seen.clone()))
                .unwrap();
        }
    };
    settled();
    let began = Instant::now();
    lab.cut(NODE1).unwrap();
    let mut gone = [None, None];
    while gone.contains(&None) {
        for (index, route) in [frr.leads_to(vip4), bird.leads_to(vip4)].into_iter().enumerate() {
            if route.unwrap() == [Place::Node(2)] && gone[index].is_none() {
                gone[index] = Some(began.elapsed());
            }
        }
        assert!(began.elapsed() < LIMIT, "{gone:?}");
    }
    println!("route gone after: FRR {:?}, BIRD {:?}", gone[0], gone[1]);
    lab.plug(NODE1).unwrap();
    for after in gone.into_iter().flatten() {
        // The hold time is 3 s.
        assert!(after < Duration::from_secs(2), "{gone:?}");
    }
    settled();
    drop(announcers);
}

#[test]
fn a_killed_router_leaves_routes_and_one_that_ended_leaves_nothing() {
    let (lab, _turn) = lab();
    let nodes = Nodes::default();
    let frr = Frr::start(&lab, &nodes).unwrap();
    let bird = Bird::start(&lab, &nodes).unwrap();
    let node = announce(&lab, NODE1, &nodes);
    let vip = prefix(VIP4);
    let settled = || {
        frr.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
        bird.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
    };
    settled();
    frr.kill().unwrap();
    bird.kill().unwrap();
    settled();
    frr.restart().unwrap();
    bird.restart().unwrap();
    frr.wait_established(v4(NODE1), LIMIT).unwrap();
    bird.wait_established(v4(NODE1), LIMIT).unwrap();
    settled();

    // What a test that was killed leaves behind does not disturb the next.
    frr.kill().unwrap();
    let frr = {
        let next = Frr::start(&lab, &nodes).unwrap();
        next.wait_established(v4(NODE1), LIMIT).unwrap();
        std::mem::forget(frr);
        next
    };
    frr.wait_leads_to(vip, &[NODE1], LIMIT).unwrap();
    drop((frr, bird, node));
    for place in [Place::Router, Place::Router2, NODE1] {
        let services = lab.services(place).unwrap();
        let left = services
            .iter()
            .find(|service| service.name.starts_with("frr") || service.name == "bird");
        assert_eq!(left, None);
        for family in ["-4", "-6"] {
            for protocol in ["bgp", "bird"] {
                let routes = lab
                    .exec(place, ["ip", family, "route", "show", "proto", protocol])
                    .unwrap();
                assert_eq!(String::from_utf8_lossy(&routes.stdout), "", "{}", place.name());
            }
        }
        let hops = lab.exec(place, ["ip", "nexthop", "show"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&hops.stdout), "", "{}", place.name());
    }
}
