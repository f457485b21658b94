//! Which nodes a router sends to, and what the clients behind it get.

use std::net::IpAddr;

use fairlead_e2e::bgp::load::Seen;
use fairlead_e2e::bgp::manifests as bgp;
use fairlead_e2e::product::{manifests, wait_for, wire};
use fairlead_e2e::topology::Place;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::fixture::{Fixture, NAME, NODES, SOON};

/// Everyone has a fair share of the connections: ports decide, so it is not quite the same.
fn assert_shared(seen: &Seen, nodes: &[&str]) {
    let shares = seen.shares();
    let pods: Vec<&str> = shares.keys().map(String::as_str).collect();
    let wanted: Vec<String> = nodes.iter().map(|node| format!("web-{node}")).collect();
    assert_eq!(pods, wanted, "{seen}");
    let fair = 100.0 / nodes.len() as f64;
    assert!(
        shares
            .values()
            .all(|share| (fair / 2.0..fair * 1.6).contains(share)),
        "{seen}"
    );
}

#[test]
fn every_healthy_node_gets_its_share_of_both_routers() {
    let f = Fixture::new();
    let bird = f.bird();
    let web = f.web();
    f.leads_to(&bird, web, &NODES);
    for client in [Place::Client, Place::Client2] {
        let seen = f.load(client, web.addr());
        println!("ECMP over three nodes, {}: {seen}", client.name());
        assert_shared(&seen, &NODES);
    }
    // Under Local the client's address is kept; an endpoint that is not ready takes its node out, and no other.
    assert_eq!(f.curl(Place::Client2, web.addr()).client, "172.32.0.2");
    f.stage.scene.set_ready("web", "node2", false).unwrap();
    f.leads_to(&f.stage.frr, web, &["node1", "node3"]);
    f.leads_to(&bird, web, &["node1", "node3"]);
    let seen = f.load(Place::Client, web.addr());
    println!("ECMP over two nodes: {seen}");
    assert_shared(&seen, &["node1", "node3"]);
    f.stage.scene.set_ready("web", "node1", false).unwrap();
    f.stage.scene.set_ready("web", "node3", false).unwrap();
    f.leads_to(&f.stage.frr, web, &[]);
    for name in NODES {
        f.stage.scene.set_ready("web", name, true).unwrap();
    }
    f.leads_to(&f.stage.frr, web, &NODES);
    // A node that is excluded, for the same address.
    let label = |value: Value| json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}}});
    f.cluster.patch("/api/v1/nodes/node3", &label(json!(""))).unwrap();
    f.leads_to(&f.stage.frr, web, &["node1", "node2"]);
    f.cluster
        .patch("/api/v1/nodes/node3", &label(Value::Null))
        .unwrap();
    f.leads_to(&f.stage.frr, web, &NODES);
}

#[test]
fn cluster_and_both_families_reach_any_endpoint_by_any_node() {
    let f = Fixture::new();
    let pool = f.pool("dual", &["198.51.100.64/28", "fd00:b6b::/124"]);
    f.apply(&bgp::advertisement(&pool, &pool, json!({})));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
    f.service("dual", &pool, "Cluster", dual);
    let addresses = wait_for("two addresses", SOON, || {
        let service = f
            .cluster
            .get(&f.service_path("dual"))
            .map_err(|e| e.to_string())?;
        let ingress = service.unwrap_or_default()["status"]["loadBalancer"]["ingress"].clone();
        let all = ingress.as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = all.filter_map(|i| i["ip"].as_str()?.parse().ok()).collect();
        if addresses.len() == 2 {
            Ok(addresses)
        } else {
            Err(ingress.to_string())
        }
    })
    .unwrap();
    for address in addresses {
        // The sessions run over IPv4; routes of both families go through them.
        f.leads_to(&f.stage.frr, IpNet::from(address), &NODES);
        let seen = f.load(Place::Client, address);
        println!("Cluster, {address}: {seen}");
        assert_eq!(seen.backends.len(), 3, "{seen}");
    }
}

#[test]
fn an_aggregate_stands_for_its_members_while_all_are_well() {
    let f = Fixture::new();
    let pool = f.pool("aggregate", &["198.51.100.128/28"]);
    f.apply(&bgp::advertisement(
        &pool,
        &pool,
        json!({"aggregationLength": 28}),
    ));
    let net: IpNet = "198.51.100.128/28".parse().unwrap();
    let one = f.service("one", &pool, "Local", json!({}));
    let other = f.service("other", &pool, "Cluster", json!({}));
    f.leads_to(&f.stage.frr, net, &NODES);
    f.leads_to(&f.stage.frr, IpNet::from(one), &[]);
    f.leads_to(&f.stage.frr, IpNet::from(other), &[]);
    f.load(Place::Client, one);
    f.load(Place::Client, other);
    // A node that may not announce one of them announces the others by themselves.
    f.stage.scene.set_ready("web", "node1", false).unwrap();
    f.leads_to(&f.stage.frr, net, &["node2", "node3"]);
    f.leads_to(&f.stage.frr, IpNet::from(other), &["node1"]);
    f.leads_to(&f.stage.frr, IpNet::from(one), &[]);
    f.stage.scene.set_ready("web", "node1", true).unwrap();
    f.leads_to(&f.stage.frr, net, &NODES);
    f.leads_to(&f.stage.frr, IpNet::from(other), &[]);
    f.cluster.delete(&f.service_path("one")).unwrap();
    f.cluster.delete(&f.service_path("other")).unwrap();
    f.leads_to(&f.stage.frr, net, &[]);
}

#[test]
fn layer_2_and_bgp_work_side_by_side() {
    let f = Fixture::new();
    // One pool by both, one by layer 2 alone; that of the fixture by BGP alone.
    let (both, alone) = (
        f.pool("both", &["172.30.0.100-172.30.0.101"]),
        f.pool("l2", &["172.30.0.102-172.30.0.103"]),
    );
    f.apply(&bgp::advertisement(&both, &both, json!({})));
    for pool in [&both, &alone] {
        f.apply(&manifests::advertisement(pool, pool));
    }
    let at_both = f.service("both", &both, "Cluster", json!({}));
    let at_l2 = f.service("l2", &alone, "Cluster", json!({}));
    f.leads_to(&f.stage.frr, IpNet::from(at_both), &NODES);
    f.leads_to(&f.stage.frr, f.web(), &NODES);
    f.leads_to(&f.stage.frr, IpNet::from(at_l2), &[]);
    for address in [at_both, at_l2] {
        let IpAddr::V4(address) = address else {
            panic!("{address} is not of IPv4")
        };
        wait_for(&format!("one node to answer ARP for {address}"), SOON, || {
            let who = wire::announcers(f.lab, address).map_err(|e| e.to_string())?;
            if who.len() == 1 {
                Ok(())
            } else {
                Err(format!("{who:?}"))
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        f.curl(Place::LanClient, address.into());
        f.load(Place::Client, address.into());
    }
    // By BGP alone: nobody answers ARP.
    let IpAddr::V4(web) = f.web().addr() else {
        panic!("the Service is of IPv4")
    };
    assert_eq!(wire::announcers(f.lab, web).unwrap(), [""; 0]);
    // Without its BGP advertisement an address stays at layer 2, and the other way round.
    let own = "/apis/fairlead.dev/v1alpha1";
    f.cluster
        .delete(&format!("{own}/bgpadvertisements/{both}"))
        .unwrap();
    f.leads_to(&f.stage.frr, IpNet::from(at_both), &[]);
    f.curl(Place::Client, at_both);
    f.cluster
        .delete(&format!("{own}/bgpadvertisements/{NAME}"))
        .unwrap();
    f.leads_to(&f.stage.frr, f.web(), &[]);
    f.curl(Place::Client, at_l2);
}
