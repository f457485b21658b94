//! Addresses that several Services share, external IPs, and addresses of both families, with real packets.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::io::Write;

use fairlead_core::model::TrafficPolicy::{Cluster as Anywhere, Local};
use support::objects::{Cluster, external, service, sharing};
use support::programmed::{program, with};
use support::topology::{CLIENT, NODE1, line};

const VIP: &str = "192.0.2.10";
const HERE: &str = "10.0.1.2@node1";
const THERE: &str = "10.0.2.2@node2";

fn at_vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

#[test]
fn two_services_at_one_address_are_reached_each_on_its_ports() {
    let web = sharing(service("web", Anywhere, &[VIP], &["80/tcp@30080"]));
    let mut api = sharing(service("api", Anywhere, &[VIP], &["443/tcp@30443", "80/udp"]));
    api.source_ranges = vec!["198.51.100.2/32".parse().unwrap()];
    let both = Cluster::new().with(web.clone(), &[HERE]).with(api, &[THERE]);
    let topology = with(&both);
    // (the masqueraded source is the node's address on the way to the endpoint)
    let (of_web, of_api) = ("pod1a 10.0.1.1".to_owned(), format!("pod2 {NODE1}"));
    assert_eq!(topology.ask("client", &at_vip(80)), of_web);
    assert_eq!(topology.ask("client", &at_vip(443)), of_api);
    assert_eq!(
        topology.ask_udp("client", &at_vip(80)),
        of_api,
        "the same number, another protocol"
    );
    for (port, expected) in [(30080, &of_web), (30443, &of_api)] {
        assert_eq!(topology.ask("client", &format!("{NODE1}:{port}")), *expected);
    }
    // Ports of neither are refused, and the address answers pings.
    assert_eq!(topology.ask("client", &at_vip(81)), "refused");
    assert_eq!(topology.ask_udp("client", &at_vip(443)), "refused");
    assert!(topology.ping("client", VIP));
    // The source ranges of the one are not the other's.
    assert_eq!(topology.ask_from("198.51.100.3", &at_vip(80)), of_web);
    assert_eq!(topology.ask_from("198.51.100.3", &at_vip(443)), "silence");

    // One of them leaves: the other goes on, with the connections that it has.
    let (mut stream, _) = topology.connect("client", &at_vip(80)).unwrap();
    program(&topology, &Cluster::new().with(web, &[HERE]));
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(line(&mut stream).unwrap(), "still here");
    assert_eq!(topology.ask("client", &at_vip(80)), of_web);
    assert_eq!(topology.ask("client", &at_vip(443)), "refused");
}

#[test]
fn a_service_without_endpoints_does_not_disturb_the_one_beside_it() {
    let topology = with(
        &Cluster::new()
            .with(sharing(service("web", Anywhere, &[VIP], &["80/tcp"])), &[HERE])
            .with(
                sharing(service("api", Anywhere, &[VIP], &["443/tcp"])),
                &["10.0.2.2@node2!"],
            ),
    );
    assert_eq!(topology.ask("client", &at_vip(80)), "pod1a 10.0.1.1");
    assert_eq!(topology.ask("client", &at_vip(443)), "refused");
}

#[test]
fn an_external_ip_of_a_cluster_ip_service_is_served_under_both_policies() {
    // The second address is not recorded, though of the pool; the third is none of ours at all.
    let addresses = [VIP, "192.0.2.11", "203.0.113.9"];
    let mut service = external("web", Local, &addresses, &["80/tcp", "53/udp"]);
    // They are for load balancers only.
    service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let topology = with(&Cluster::new().with(service, &[HERE, THERE]));
    let expected = format!("pod1a {CLIENT}");
    assert_eq!(topology.ask("client", &at_vip(80)), expected);
    assert_eq!(topology.ask_udp("client", &at_vip(53)), expected);
    assert_eq!(topology.ask("client", &at_vip(81)), "refused");
    assert!(topology.ask("node1", &at_vip(80)).starts_with("pod"));
    let table = topology.nft(&["list", "table", "inet", "fairlead"], "").unwrap();
    assert!(table.contains(VIP));
    for other in &addresses[1..] {
        assert!(!table.contains(other), "{other} is not ours:\n{table}");
    }

    let anywhere = external("web", Anywhere, &[VIP], &["80/tcp"]);
    program(&topology, &Cluster::new().with(anywhere, &[THERE]));
    assert_eq!(topology.ask("client", &at_vip(80)), format!("pod2 {NODE1}"));
}

#[test]
fn the_addresses_of_a_dual_stack_service_are_served_each_by_itself() {
    const VIP6: &str = "2001:db8::10";
    let dual = |policy| service("web", policy, &[VIP6, VIP], &["80/tcp"]);
    let topology = with(&Cluster::new().with(dual(Local), &[HERE]));
    topology.dual_stack();
    let at = |port: u16| format!("[{VIP6}]:{port}");
    // No IPv6 endpoint: IPv4 does not care.
    assert_eq!(topology.ask("client", &at_vip(80)), format!("pod1a {CLIENT}"));
    for port in [80, 81] {
        assert_eq!(topology.ask("client", &at(port)), "refused", "port {port}");
    }
    // Both families have one.
    for (policy, seen) in [(Local, "fd00:c::2"), (Anywhere, "fd00:1::1")] {
        let cluster = Cluster::new().with(dual(policy), &[HERE, "fd00:1::2@node1"]);
        program(&topology, &cluster);
        assert!(topology.ask("client", &at_vip(80)).starts_with("pod1a "));
        assert_eq!(topology.ask("client", &at(80)), format!("pod1a {seen}"));
        assert_eq!(topology.ask("client", &at(81)), "refused");
        assert!(topology.ask("node1", &at(80)).starts_with("pod1a "));
    }
    // The IPv6 endpoint is elsewhere.
    let elsewhere = Cluster::new().with(dual(Local), &[HERE, "fd00:2::2@node2"]);
    program(&topology, &elsewhere);
    assert_eq!(topology.ask("client", &at(80)), "silence");
    assert_eq!(topology.ask("client", &at_vip(80)), format!("pod1a {CLIENT}"));
}
