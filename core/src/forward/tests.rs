use super::*;
use crate::config::{RawPool, Written, compile};
use crate::model::{
    AssignedRecord, ExternalAddress, ExternalRecord, Hints, ServiceType, SliceEndpoint, SlicePort, Wishes,
    ZONE_LABEL,
};
use crate::testing::{node, service};

const CLASS: ClassPolicy = ClassPolicy {
    serve_classless: true,
    metallb: false,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config() -> Config {
    let pool = RawPool {
        name: "p".into(),
        addresses: vec!["192.0.2.0/24".into(), "2001:db8::/64".into()],
        ..RawPool::default()
    };
    compile(&Written::new(&[pool], &[])).config
}

fn holding(name: &str, policy: TrafficPolicy, vips: &[&str]) -> Service {
    Service {
        policy,
        ingress: vips.iter().map(|vip| ip(vip)).collect(),
        assigned: Some(AssignedRecord {
            addresses: vips.iter().map(|vip| (ip(vip), "p".to_owned())).collect(),
            since: 1,
        }),
        ..service(name)
    }
}

/// Endpoints as `address@node+flags`: `r`eady, `s`erving, `t`erminating.
fn slice(name: &str, endpoints: &[&str]) -> Slice {
    let endpoints: Vec<SliceEndpoint> = endpoints
        .iter()
        .map(|text| {
            let (address, rest) = text.split_once('@').unwrap();
            let (node, flags) = rest.split_once('+').unwrap();
            SliceEndpoint {
                address: ip(address),
                node: Some(NodeName::from(node)),
                ready: flags.contains('r'),
                serving: flags.contains('s'),
                terminating: flags.contains('t'),
                hints: None,
            }
        })
        .collect();
    Slice {
        service: ServiceKey::new("default", name),
        family: endpoints.first().map_or(Family::V4, |e| Family::of(e.address)),
        ports: vec![SlicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints,
    }
}

fn planned(services: &[&Service], slices: &[&Slice]) -> Forwarding {
    let me = Node {
        pod_cidrs: vec!["10.0.1.0/24".parse().unwrap()],
        ..node("n1", "172.30.0.11")
    };
    let snapshot = Snapshot {
        services,
        slices,
        config: &config(),
        class: CLASS,
        node: Some(&me),
        local: &crate::forward::Local::of(Some(&me)),
    };
    plan(&snapshot, &me.name)
}

fn at(address: &str, port: u16) -> Destination {
    Destination {
        address: ip(address),
        protocol: Protocol::Tcp,
        port,
    }
}

/// `reject`, `drop`, or the endpoints' addresses with `+masquerade`.
fn shown(plan: &Forwarding, destination: Destination, source: Source) -> String {
    let backend = &plan.backends[&plan.destinations[&destination].backend];
    match backend.outcome(source) {
        Outcome::Reject => "reject".into(),
        Outcome::Drop => "drop".into(),
        Outcome::Forward {
            endpoints,
            masquerade,
        } => {
            let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            list.join(" ") + if masquerade { " masquerade" } else { "" }
        }
    }
}

#[test]
fn the_decision_table() {
    use Source::{Node, Outside, Pod};
    use TrafficPolicy::{Cluster, Local};
    const HERE: &str = "10.0.1.2@n1+rs";
    const THERE: &str = "10.0.2.2@n2+rs";
    const BOTH: &str = "10.0.1.2:8080 10.0.2.2:8080";
    let cases: &[(TrafficPolicy, Source, &[&str], String)] = &[
        (Cluster, Outside, &[HERE, THERE], format!("{BOTH} masquerade")),
        (Cluster, Pod, &[HERE, THERE], format!("{BOTH} masquerade")),
        (Cluster, Node, &[THERE], "10.0.2.2:8080 masquerade".into()),
        (Cluster, Outside, &[THERE], "10.0.2.2:8080 masquerade".into()),
        (Cluster, Outside, &[], "reject".into()),
        (Cluster, Pod, &[], "reject".into()),
        (Cluster, Node, &[], "reject".into()),
        (Local, Outside, &[HERE, THERE], "10.0.1.2:8080".into()),
        (Local, Outside, &[HERE], "10.0.1.2:8080".into()),
        (Local, Outside, &[THERE], "drop".into()),
        (Local, Outside, &[], "reject".into()),
        (Local, Pod, &[HERE, THERE], BOTH.into()),
        (Local, Pod, &[THERE], "10.0.2.2:8080".into()),
        (Local, Pod, &[], "reject".into()),
        (Local, Node, &[HERE, THERE], format!("{BOTH} masquerade")),
        (Local, Node, &[THERE], "10.0.2.2:8080 masquerade".into()),
        (Local, Node, &[], "reject".into()),
        // Endpoints that neither are ready nor serve do not exist; terminating ones stand in for absent ready ones.
        (Local, Outside, &["10.0.1.2@n1+t", THERE], "drop".into()),
        (Local, Outside, &["10.0.1.2@n1+t"], "reject".into()),
        (Local, Outside, &["10.0.1.2@n1+st", THERE], "10.0.1.2:8080".into()),
        (Local, Pod, &["10.0.1.2@n1+st", THERE], "10.0.2.2:8080".into()),
        (
            Cluster,
            Outside,
            &["10.0.1.2@n1+st"],
            "10.0.1.2:8080 masquerade".into(),
        ),
    ];
    for (policy, source, endpoints, expected) in cases {
        let service = holding("a", *policy, &["192.0.2.1"]);
        let plan = planned(&[&service], &[&slice("a", endpoints)]);
        // The VIP's port and the node port behave alike.
        for destination in [at("192.0.2.1", 80), at("172.30.0.11", 30080)] {
            assert_eq!(
                shown(&plan, destination, *source),
                *expected,
                "{policy:?} from {source:?} with {endpoints:?} to {destination:?}"
            );
        }
    }
}

#[test]
fn only_owned_addresses_are_served_and_their_node_ports_with_them() {
    let ours = holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]);
    let hand_edited = Service {
        ingress: vec![ip("192.0.2.7"), ip("8.8.8.8")],
        ports: vec![ServicePort {
            node_port: Some(30081),
            ..ours.ports[0].clone()
        }],
        ..service("b")
    };
    let plan = planned(&[&ours, &hand_edited], &[]);
    assert_eq!(plan.addresses.keys().collect::<Vec<_>>(), [&ip("192.0.2.1")]);
    assert_eq!(
        plan.destinations.keys().collect::<Vec<_>>(),
        [&at("172.30.0.11", 30080), &at("192.0.2.1", 80)]
    );
}

#[test]
fn a_vip_needs_no_node_port_and_no_node_object() {
    let mut service = holding("a", TrafficPolicy::Local, &["192.0.2.1"]);
    service.ports[0].node_port = None;
    let slice = slice("a", &["10.0.1.2@n1+rs"]);
    let plan = plan(
        &Snapshot {
            services: &[&service],
            slices: &[&slice],
            config: &config(),
            class: CLASS,
            node: None,
            local: &crate::forward::Local::of(None),
        },
        &NodeName::from("n1"),
    );
    assert_eq!(
        plan.destinations.keys().collect::<Vec<_>>(),
        [&at("192.0.2.1", 80)]
    );
    assert_eq!(
        shown(&plan, at("192.0.2.1", 80), Source::Outside),
        "10.0.1.2:8080"
    );
}

#[test]
fn an_address_of_this_node_is_never_served_as_a_vip() {
    let service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]);
    let me = node("n1", "192.0.2.1");
    let snapshot = Snapshot {
        services: &[&service],
        slices: &[],
        config: &config(),
        class: CLASS,
        node: Some(&me),
        local: &crate::forward::Local::of(Some(&me)),
    };
    let plan = plan(&snapshot, &me.name);
    assert!(
        plan.addresses.is_empty() && plan.destinations.is_empty(),
        "{plan:?}"
    );
    assert_eq!(plan.refused[0].2.reason, Reason::AddressReserved);
}

#[test]
fn source_ranges_guard_vips_of_their_family_only() {
    let mut service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1", "2001:db8::1"]);
    let ranges = |service: &Service, destination| {
        let shown: Vec<String> = planned(&[service], &[]).destinations[&destination]
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect();
        shown
    };
    service.source_ranges = ["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3/32", "198.51.100.7/24"]
        .map(|range| range.parse().unwrap())
        .to_vec();
    assert_eq!(
        ranges(&service, at("192.0.2.1", 80)),
        ["10.0.0.0/8", "198.51.100.0/24"]
    );
    assert!(ranges(&service, at("2001:db8::1", 80)).is_empty());
    assert!(ranges(&service, at("172.30.0.11", 30080)).is_empty());
    service.source_ranges.push("0.0.0.0/0".parse().unwrap());
    assert!(ranges(&service, at("192.0.2.1", 80)).is_empty());
}

#[test]
fn families_do_not_mix() {
    let service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1", "2001:db8::1"]);
    let (four, six) = (
        slice("a", &["10.0.1.2@n1+rs"]),
        slice("a", &["2001:db8:1::2@n1+rs"]),
    );
    let plan = planned(&[&service], &[&four, &six]);
    assert_eq!(
        shown(&plan, at("192.0.2.1", 80), Source::Node),
        "10.0.1.2:8080 masquerade"
    );
    assert_eq!(
        shown(&plan, at("2001:db8::1", 80), Source::Node),
        "[2001:db8:1::2]:8080 masquerade"
    );
}

#[test]
fn a_dual_stack_service_is_served_in_the_family_that_has_what_it_takes() {
    let service = holding("a", TrafficPolicy::Local, &["2001:db8::1", "192.0.2.1"]);
    let (four, six) = (
        slice("a", &["10.0.1.2@n1+rs"]),
        slice("a", &["2001:db8:1::2@n2+rs"]),
    );
    let plan = planned(&[&service], &[&four, &six]);
    assert_eq!(
        shown(&plan, at("192.0.2.1", 80), Source::Outside),
        "10.0.1.2:8080"
    );
    assert_eq!(shown(&plan, at("2001:db8::1", 80), Source::Outside), "drop");
    // The node has no IPv6 address of its own, and so no IPv6 node port.
    assert_eq!(
        plan.destinations.keys().collect::<Vec<_>>(),
        [
            &at("172.30.0.11", 30080),
            &at("192.0.2.1", 80),
            &at("2001:db8::1", 80)
        ]
    );
    let without = planned(&[&service], &[&four]);
    assert!(
        plan.same_for(&without, ip("192.0.2.1")),
        "IPv6 does not concern IPv4"
    );
    assert_eq!(shown(&without, at("2001:db8::1", 80), Source::Outside), "reject");
}

/// At the shared address 192.0.2.1 with one port.
fn sharing(name: &str, port: u16, node_port: u16) -> Service {
    let mut service = Service {
        wishes: Wishes {
            sharing_key: Some("key".into()),
            ..Wishes::default()
        },
        ..holding(name, TrafficPolicy::Cluster, &["192.0.2.1"])
    };
    (service.ports[0].port, service.ports[0].node_port) = (port, Some(node_port));
    service
}

#[test]
fn services_that_share_an_address_are_each_served_on_their_own_ports() {
    let (a, mut b) = (sharing("a", 80, 30080), sharing("b", 443, 30443));
    b.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let (of_a, of_b) = (slice("a", &["10.0.1.2@n1+rs"]), slice("b", &["10.0.2.2@n2+rs"]));
    let plan = planned(&[&a, &b], &[&of_a, &of_b]);
    assert_eq!(
        plan.addresses,
        BTreeMap::from([(ip("192.0.2.1"), BTreeSet::from([a.key.clone(), b.key.clone()]))])
    );
    for (destination, endpoint, ranges) in [
        (at("192.0.2.1", 80), "10.0.1.2:8080 masquerade", 0),
        (at("192.0.2.1", 443), "10.0.2.2:8080 masquerade", 1),
        (at("172.30.0.11", 30080), "10.0.1.2:8080 masquerade", 0),
        (at("172.30.0.11", 30443), "10.0.2.2:8080 masquerade", 0),
    ] {
        assert_eq!(shown(&plan, destination, Source::Outside), endpoint);
        let target = &plan.destinations[&destination];
        assert_eq!(target.source_ranges.len(), ranges, "{destination:?}");
    }
    assert_eq!(plan.destinations.len(), 4);
    // Whatever changes for one of them is a change at the address.
    assert!(!plan.same_for(&planned(&[&a, &b], &[&of_a]), ip("192.0.2.1")));
    let alone = planned(&[&a], &[&of_a, &of_b]);
    assert!(!plan.same_for(&alone, ip("192.0.2.1")));
    assert_eq!(
        alone.destinations.keys().collect::<Vec<_>>(),
        [&at("172.30.0.11", 30080), &at("192.0.2.1", 80)]
    );
}

#[test]
fn of_two_services_that_may_not_share_only_the_senior_one_is_served() {
    let (a, mut b) = (sharing("a", 80, 30080), sharing("b", 80, 30081));
    b.assigned.as_mut().unwrap().since = 0;
    let plan = planned(&[&a, &b], &[]);
    assert_eq!(plan.addresses[&ip("192.0.2.1")], BTreeSet::from([b.key.clone()]));
    assert_eq!(plan.destinations[&at("192.0.2.1", 80)].backend.service, b.key);
    assert!(!plan.destinations.contains_key(&at("172.30.0.11", 30080)));
}

/// With 192.0.2.9 as an external IP that the controller answers for, and 203.0.113.9, which is none of ours.
fn external(service: Service) -> Service {
    Service {
        external_ips: vec![ip("192.0.2.9"), ip("203.0.113.9")],
        external: Some(ExternalRecord {
            addresses: vec![ExternalAddress {
                address: ip("192.0.2.9"),
                pool: "p".into(),
                adopted: false,
            }],
            since: 1,
        }),
        ..service
    }
}

#[test]
fn external_ips_are_served_for_every_type_with_the_node_ports_there_are() {
    let of_type = |kind, node_port| {
        let mut service = external(Service { kind, ..service("a") });
        service.ports[0].node_port = node_port;
        planned(&[&service], &[&slice("a", &["10.0.1.2@n1+rs"])])
    };
    let internal = of_type(ServiceType::ClusterIp, None);
    assert_eq!(
        internal.destinations.keys().collect::<Vec<_>>(),
        [&at("192.0.2.9", 80)]
    );
    assert_eq!(
        shown(&internal, at("192.0.2.9", 80), Source::Outside),
        "10.0.1.2:8080 masquerade"
    );
    let with_node_port = of_type(ServiceType::NodePort, Some(30080));
    assert_eq!(
        with_node_port.destinations.keys().collect::<Vec<_>>(),
        [&at("172.30.0.11", 30080), &at("192.0.2.9", 80)]
    );
    let alias = of_type(ServiceType::ExternalName, None);
    assert!(alias.addresses.is_empty() && alias.destinations.is_empty());
}

#[test]
fn source_ranges_do_not_guard_external_ips() {
    let mut both = external(holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]));
    both.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let plan = planned(&[&both], &[]);
    let ranges = |destination| plan.destinations[&destination].source_ranges.len();
    assert_eq!(ranges(at("192.0.2.1", 80)), 1);
    assert_eq!(ranges(at("192.0.2.9", 80)), 0);
    assert_eq!(ranges(at("172.30.0.11", 30080)), 0);
}

#[test]
fn endpoints_that_cannot_be_reached_are_passed_over() {
    let service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]);
    let slice = slice(
        "a",
        &[
            "127.0.0.1@n1+rs",
            "0.0.0.0@n1+rs",
            "224.0.0.1@n1+rs",
            "10.0.1.2@n1+rs",
        ],
    );
    let plan = planned(&[&service], &[&slice, &slice]);
    assert_eq!(
        shown(&plan, at("192.0.2.1", 80), Source::Outside),
        "10.0.1.2:8080 masquerade"
    );
}

#[test]
fn a_change_is_seen_at_its_own_address_only() {
    let (a, b) = (
        holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]),
        holding("b", TrafficPolicy::Cluster, &["192.0.2.2"]),
    );
    let before = planned(&[&a, &b], &[]);
    let after = planned(&[&a, &b], &[&slice("b", &["10.0.1.2@n1+rs"])]);
    assert!(before.same_for(&after, ip("192.0.2.1")));
    assert!(!before.same_for(&after, ip("192.0.2.2")));
    let gone = planned(&[&a], &[]);
    assert!(!before.same_for(&gone, ip("192.0.2.2")));
}

#[test]
fn ready_endpoints_of_this_node_are_counted_by_service_and_family() {
    let local = holding("local", TrafficPolicy::Local, &["192.0.2.1", "2001:db8::1"]);
    let cluster = holding("cluster", TrafficPolicy::Cluster, &["192.0.2.2"]);
    let idle = holding("idle", TrafficPolicy::Local, &["192.0.2.3"]);
    let plan = planned(
        &[&local, &cluster, &idle],
        &[
            &slice("local", &["10.0.1.2@n1+rs", "10.0.1.3@n1+rs", "10.0.2.2@n2+rs"]),
            &slice("local", &["fd00::1@n2+rs"]),
            &slice("cluster", &["10.0.1.4@n1+rs"]),
            // It terminates: what comes is served on, but no more is to come.
            &slice("idle", &["10.0.1.5@n1+st"]),
        ],
    );
    let key = |name, family| (ServiceKey::new("default", name), family);
    let expected = BTreeMap::from([
        (key("local", Family::V4), 2),
        (key("local", Family::V6), 0),
        (key("idle", Family::V4), 0),
    ]);
    assert_eq!(plan.local_ready, expected);
}

#[test]
fn udp_endpoints_that_still_serve_keep_their_flows() {
    let mut service = holding("dns", TrafficPolicy::Cluster, &["192.0.2.1"]);
    let mut slice = slice("dns", &["10.0.1.2@n1+rs", "10.0.2.2@n2+st", "10.0.2.3@n2+t"]);
    for (protocol, lasting) in [(Protocol::Udp, &["10.0.2.2:8080"][..]), (Protocol::Tcp, &[])] {
        service.ports[0].protocol = protocol;
        slice.ports[0].protocol = protocol;
        let plan = planned(&[&service], &[&slice]);
        let backend = plan.backends.values().next().unwrap();
        let shown: Vec<String> = backend.lasting.iter().map(ToString::to_string).collect();
        assert_eq!(
            (backend.cluster.len(), shown),
            (1, lasting.iter().map(ToString::to_string).collect())
        );
    }
}

#[test]
fn a_service_of_another_proxy_is_served_at_the_addresses_that_are_ours() {
    // The label takes the ClusterIP from kube-proxy; the external path goes by the class and the record alone.
    let mut service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]);
    let label = "service.kubernetes.io/service-proxy-name";
    service.labels.insert(label.into(), "another".into());
    let mut of_another = service.clone();
    of_another.class = Some("example.com/another".into());
    let slice = slice("a", &["10.0.1.2@n1+rs"]);
    let plan = planned(&[&service], &[&slice]);
    for destination in [at("192.0.2.1", 80), at("172.30.0.11", 30080)] {
        assert_eq!(
            shown(&plan, destination, Source::Outside),
            "10.0.1.2:8080 masquerade"
        );
    }
    assert!(planned(&[&of_another], &[&slice]).destinations.is_empty());
}

#[test]
fn a_headless_service_is_not_served() {
    let headless = external(Service {
        headless: true,
        kind: ServiceType::ClusterIp,
        ..service("a")
    });
    let plan = planned(&[&headless], &[&slice("a", &["10.0.1.2@n1+rs"])]);
    assert!(plan.addresses.is_empty() && plan.destinations.is_empty());
}

#[test]
fn affinity_keeps_its_time() {
    let mut service = holding("a", TrafficPolicy::Cluster, &["192.0.2.1"]);
    for affinity in [None, Some(1), Some(86_400)] {
        service.affinity = affinity;
        let plan = planned(&[&service], &[]);
        assert!(plan.backends.values().all(|backend| backend.affinity == affinity));
    }
}

#[test]
fn hints_narrow_the_cluster_wide_list_and_not_the_local_one() {
    let mut slice = slice("a", &["10.0.1.2@n1+rs", "10.0.2.2@n2+rs"]);
    for (endpoint, zone) in slice.endpoints.iter_mut().zip(["east", "west"]) {
        endpoint.hints = Some(std::sync::Arc::new(Hints {
            nodes: vec![],
            zones: vec![zone.into()],
        }));
    }
    let in_zone = |zone: Option<&str>, policy, source| {
        let service = holding("a", policy, &["192.0.2.1"]);
        let mut me = node("n1", "172.30.0.11");
        me.labels
            .extend(zone.map(|zone| (ZONE_LABEL.to_owned(), zone.to_owned())));
        let snapshot = Snapshot {
            services: &[&service],
            slices: &[&slice],
            config: &config(),
            class: CLASS,
            node: Some(&me),
            local: &crate::forward::Local::of(Some(&me)),
        };
        shown(&plan(&snapshot, &me.name), at("192.0.2.1", 80), source)
    };
    use Source::{Outside, Pod};
    use TrafficPolicy::{Cluster, Local};
    for (zone, policy, source, expected) in [
        (Some("east"), Cluster, Outside, "10.0.1.2:8080 masquerade"),
        (Some("west"), Cluster, Outside, "10.0.2.2:8080 masquerade"),
        (Some("west"), Cluster, Pod, "10.0.2.2:8080 masquerade"),
        (
            Some("south"),
            Cluster,
            Outside,
            "10.0.1.2:8080 10.0.2.2:8080 masquerade",
        ),
        (None, Cluster, Outside, "10.0.1.2:8080 10.0.2.2:8080 masquerade"),
        (Some("west"), Local, Outside, "10.0.1.2:8080"),
        (Some("west"), Local, Pod, "10.0.2.2:8080"),
    ] {
        assert_eq!(
            in_zone(zone, policy, source),
            expected,
            "{zone:?} {policy:?} {source:?}"
        );
    }
}
