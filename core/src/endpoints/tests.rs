use super::*;
use crate::model::{ServiceKey, SlicePort};
use proptest::prelude::*;

fn endpoint(address: &str, node: Option<&str>, flags: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: address.parse().unwrap(),
        node: node.map(NodeName::from),
        ready: flags.contains('r'),
        serving: flags.contains('s'),
        terminating: flags.contains('t'),
        hints: None,
    }
}

fn slice(port: u16, endpoints: Vec<SliceEndpoint>) -> Slice {
    Slice {
        service: ServiceKey::new("default", "a"),
        family: Family::V4,
        ports: vec![SlicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port,
        }],
        endpoints,
    }
}

fn http() -> ServicePort {
    ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
    }
}

/// A node that has none of the endpoints, and no zone.
fn elsewhere() -> Here<'static> {
    static NODE: std::sync::LazyLock<NodeName> = std::sync::LazyLock::new(|| NodeName::from("n0"));
    Here {
        node: &NODE,
        zone: None,
    }
}

fn shown(endpoints: &[&Endpoint]) -> Vec<String> {
    endpoints
        .iter()
        .map(|e| format!("{}:{}", e.address, e.port))
        .collect()
}

#[test]
fn ready_first_then_serving_terminating_and_never_mixed() {
    let (n1, n2) = (NodeName::from("n1"), NodeName::from("n2"));
    let joined = Endpoints::join(
        &[slice(
            8080,
            vec![
                endpoint("10.0.0.1", Some("n1"), "rs"),
                endpoint("10.0.0.2", Some("n2"), "st"),
                endpoint("10.0.0.3", Some("n2"), "t"),
            ],
        )],
        Family::V4,
    );
    assert_eq!(shown(&joined.cluster(&http(), elsewhere())), ["10.0.0.1:8080"]);
    assert_eq!(shown(&joined.local(&http(), &n1)), ["10.0.0.1:8080"]);
    // Local falls back by itself although the cluster has a ready endpoint.
    assert_eq!(shown(&joined.local(&http(), &n2)), ["10.0.0.2:8080"]);
    assert_eq!((joined.ready_on(&n1), joined.ready_on(&n2)), (1, 0));
    assert!(joined.any_usable());
}

#[test]
fn slices_with_different_target_ports_join() {
    let joined = Endpoints::join(
        &[
            slice(8080, vec![endpoint("10.0.0.1", Some("n1"), "rs")]),
            slice(9090, vec![endpoint("10.0.0.2", None, "rs")]),
            slice(0, vec![endpoint("10.0.0.9", None, "rs")]),
        ],
        Family::V4,
    );
    assert_eq!(
        shown(&joined.cluster(&http(), elsewhere())),
        ["10.0.0.1:8080", "10.0.0.2:9090"]
    );
    assert!(joined.local(&http(), &NodeName::from("n2")).is_empty());
    let other = ServicePort {
        name: "https".into(),
        ..http()
    };
    assert!(joined.cluster(&other, elsewhere()).is_empty());
}

#[test]
fn a_duplicate_counts_once_and_its_ready_copy_wins() {
    for flip in [false, true] {
        let mut slices = vec![
            slice(80, vec![endpoint("10.0.0.1", Some("n1"), "st")]),
            slice(80, vec![endpoint("10.0.0.1", Some("n1"), "rs")]),
        ];
        if flip {
            slices.reverse();
        }
        let joined = Endpoints::join(&slices, Family::V4);
        assert_eq!(shown(&joined.cluster(&http(), elsewhere())), ["10.0.0.1:80"]);
        assert_eq!(joined.ready_on(&NodeName::from("n1")), 1);
    }
}

#[test]
fn the_wrong_family_is_passed_over() {
    let joined = Endpoints::join(
        &[slice(80, vec![endpoint("2001:db8::1", None, "rs")])],
        Family::V4,
    );
    assert!(!joined.any_usable());
    let empty = Endpoints::join(&[slice(80, vec![endpoint("10.0.0.1", None, "rs")])], Family::V6);
    assert_eq!(empty, Endpoints::default());
}

/// `10.0.0.1@n1+rs zones nodes`: the zones and nodes of its hints, each list comma-separated, `-` for none.
fn hinted(text: &str) -> SliceEndpoint {
    let [place, zones, nodes] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let (address, rest) = place.split_once('@').unwrap();
    let (node, flags) = rest.split_once('+').unwrap();
    let list = |text: &str| -> Vec<String> {
        let names = text.split(',').filter(|name| *name != "-");
        names.map(str::to_owned).collect()
    };
    let hints = Hints {
        nodes: list(nodes).into_iter().map(NodeName).collect(),
        zones: list(zones),
    };
    SliceEndpoint {
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
        ..endpoint(address, Some(node), flags)
    }
}

#[test]
fn hints_hold_all_or_nothing() {
    const A: &str = "10.0.0.1@n1+rs a -";
    const B: &str = "10.0.0.2@n2+rs b -";
    const C: &str = "10.0.0.3@n3+rs a,b -";
    const N1: &str = "10.0.0.1@n1+rs a n1";
    const N2: &str = "10.0.0.2@n2+rs b n2,n3";
    /// What it shows, the endpoints, the node and its zone, the last bytes of the addresses that are left.
    type Case<'a> = (&'a str, &'a [&'a str], &'a str, Option<&'a str>, &'a [u8]);
    let cases: &[Case] = &[
        ("zones", &[A, B, C], "n1", Some("a"), &[1, 3]),
        ("zones", &[A, B, C], "n1", Some("b"), &[2, 3]),
        (
            "no endpoint for the zone",
            &[A, B, C],
            "n1",
            Some("c"),
            &[1, 2, 3],
        ),
        ("the node has no zone", &[A, B, C], "n1", None, &[1, 2, 3]),
        (
            "one lacks a hint",
            &[A, B, "10.0.0.3@n3+rs - -"],
            "n1",
            Some("a"),
            &[1, 2, 3],
        ),
        (
            "one that is not ready lacks a hint",
            &[A, B, "10.0.0.3@n3+ - -"],
            "n1",
            Some("a"),
            &[1],
        ),
        (
            "the only one of the zone is not ready",
            &["10.0.0.1@n1+st a -", B],
            "n1",
            Some("a"),
            &[2],
        ),
        (
            "terminating ones are for all",
            &["10.0.0.1@n1+st a -", "10.0.0.2@n2+st b -"],
            "n1",
            Some("a"),
            &[1, 2],
        ),
        ("nodes", &[N1, N2], "n1", Some("b"), &[1]),
        ("nodes", &[N1, N2], "n3", Some("a"), &[2]),
        ("nodes need no zone", &[N1, N2], "n1", None, &[1]),
        (
            "no endpoint for the node, so the zone counts",
            &[N1, N2],
            "n4",
            Some("a"),
            &[1],
        ),
        ("neither", &[N1, N2], "n4", Some("c"), &[1, 2]),
        (
            "one lacks nodes, so the zone counts",
            &[N1, B],
            "n1",
            Some("b"),
            &[2],
        ),
        (
            "one lacks zones, nodes count",
            &["10.0.0.1@n1+rs - n1", N2],
            "n1",
            Some("b"),
            &[1],
        ),
        (
            "one lacks nodes, the other zones",
            &["10.0.0.1@n1+rs - n1", B],
            "n1",
            Some("b"),
            &[1, 2],
        ),
    ];
    for (name, endpoints, node, zone, expected) in cases {
        let all = endpoints.iter().map(|text| hinted(text)).collect();
        let joined = Endpoints::join(&[slice(80, all)], Family::V4);
        let node = NodeName::from(*node);
        let here = Here {
            node: &node,
            zone: *zone,
        };
        let expected: Vec<String> = expected.iter().map(|n| format!("10.0.0.{n}:80")).collect();
        assert_eq!(shown(&joined.cluster(&http(), here)), expected, "{name}");
    }
}

#[test]
fn hints_do_not_touch_what_is_local_or_usable_at_all() {
    let joined = Endpoints::join(
        &[slice(
            80,
            vec![hinted("10.0.0.1@n1+rs b n2"), hinted("10.0.0.2@n2+rs b n2")],
        )],
        Family::V4,
    );
    let n1 = NodeName::from("n1");
    let here = Here {
        node: &n1,
        zone: Some("a"),
    };
    assert_eq!(shown(&joined.local(&http(), &n1)), ["10.0.0.1:80"]);
    assert_eq!(joined.cluster(&http(), here).len(), 2);
    assert!(joined.any_usable() && joined.ready_on(&n1) == 1);
}

#[test]
fn a_copy_that_knows_the_node_lends_it_to_one_that_does_not() {
    let (n1, n2) = (NodeName::from("n1"), NodeName::from("n2"));
    for flip in [false, true] {
        let mut slices = vec![
            slice(80, vec![endpoint("10.0.0.1", Some("n1"), "st")]),
            slice(80, vec![endpoint("10.0.0.1", None, "rs")]),
        ];
        if flip {
            slices.reverse();
        }
        let joined = Endpoints::join(&slices, Family::V4);
        assert_eq!(shown(&joined.local(&http(), &n1)), ["10.0.0.1:80"]);
        assert!(joined.local(&http(), &n1)[0].ready && joined.local(&http(), &n2).is_empty());
        assert_eq!(shown(&joined.cluster(&http(), elsewhere())), ["10.0.0.1:80"]);
    }
}

#[test]
fn copies_that_name_different_nodes_are_local_on_each_and_count_once() {
    let (n1, n2) = (NodeName::from("n1"), NodeName::from("n2"));
    let joined = Endpoints::join(
        &[
            slice(80, vec![endpoint("10.0.0.1", Some("n1"), "rs")]),
            slice(80, vec![endpoint("10.0.0.1", Some("n2"), "rs")]),
        ],
        Family::V4,
    );
    assert_eq!(shown(&joined.cluster(&http(), elsewhere())), ["10.0.0.1:80"]);
    for node in [&n1, &n2] {
        assert_eq!(shown(&joined.local(&http(), node)), ["10.0.0.1:80"]);
    }
}

#[test]
fn endpoints_of_nobody_are_used_everywhere_and_local_nowhere() {
    // Hand-written slices, of a Service without a selector, as a rule name no node; nor need the node exist.
    let joined = Endpoints::join(
        &[slice(
            80,
            vec![
                endpoint("203.0.113.7", None, "rs"),
                endpoint("203.0.113.8", Some("no-such-node"), "rs"),
            ],
        )],
        Family::V4,
    );
    assert_eq!(joined.cluster(&http(), elsewhere()).len(), 2);
    assert!(joined.local(&http(), elsewhere().node).is_empty());
    assert_eq!(joined.ready_on(elsewhere().node), 0);
}

#[test]
fn addresses_that_no_endpoint_can_have() {
    use AddressFault::*;
    for (address, family, expected) in [
        ("10.0.0.1", Family::V4, None),
        ("10.0.0.1", Family::V6, Some(WrongFamily)),
        ("2001:db8::1", Family::V4, Some(WrongFamily)),
        ("2001:db8::1", Family::V6, None),
        ("fd00::1", Family::V6, None),
        ("0.0.0.0", Family::V4, Some(Unspecified)),
        ("::", Family::V6, Some(Unspecified)),
        ("127.3.4.5", Family::V4, Some(Loopback)),
        ("::1", Family::V6, Some(Loopback)),
        ("169.254.20.10", Family::V4, Some(LinkLocal)),
        ("fe80::1", Family::V6, Some(LinkLocal)),
        ("224.0.0.251", Family::V4, Some(Multicast)),
        ("ff02::1", Family::V6, Some(Multicast)),
        ("255.255.255.255", Family::V4, Some(Multicast)),
        ("::ffff:10.0.0.1", Family::V6, Some(Mapped)),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(address_fault(address, family), expected, "{address}");
        let mut only = slice(80, vec![endpoint("10.0.0.1", Some("n1"), "rs")]);
        (only.family, only.endpoints[0].address) = (family, address);
        let joined = Endpoints::join(&[only], family);
        assert_eq!(joined.any_usable(), expected.is_none(), "{address}");
        assert_eq!(
            joined.ready_on(&NodeName::from("n1")),
            usize::from(expected.is_none())
        );
    }
}

#[test]
fn a_thousand_endpoints_in_ten_slices_and_again_in_one() {
    let all: Vec<SliceEndpoint> = (0..1000)
        .map(|n: u32| endpoint(&format!("10.0.{}.{}", n / 250, n % 250 + 1), Some("n1"), "rs"))
        .collect();
    let mut slices: Vec<Slice> = all.chunks(100).map(|part| slice(80, part.to_vec())).collect();
    slices.push(slice(80, all));
    let joined = Endpoints::join(&slices, Family::V4);
    assert_eq!(joined.cluster(&http(), elsewhere()).len(), 1000);
    assert_eq!(joined.ready_on(&NodeName::from("n1")), 1000);
}

/// Few addresses and nodes, so that copies and disagreements are frequent.
fn any_endpoint() -> impl Strategy<Value = SliceEndpoint> {
    let address =
        prop_oneof![8 => (1u8..4).prop_map(|n| format!("10.0.0.{n}")), 1 => Just("127.0.0.1".to_owned())];
    let node = prop::option::of((1u8..3).prop_map(|n| format!("n{n}")));
    let flags = prop::sample::select(vec!["rs", "rst", "st", "t", "", "s"]);
    let hints = prop::option::of((
        prop::collection::vec(0u8..3, 0..2),
        prop::collection::vec(1u8..3, 0..2),
    ));
    (address, node, flags, hints).prop_map(|(address, node, flags, hints)| SliceEndpoint {
        hints: hints.map(|(zones, nodes)| {
            Arc::new(Hints {
                nodes: nodes.iter().map(|n| NodeName(format!("n{n}"))).collect(),
                zones: zones.iter().map(|n| format!("z{n}")).collect(),
            })
        }),
        ..endpoint(&address, node.as_deref(), flags)
    })
}

proptest! {
    #[test]
    fn what_is_forwarded_to_is_sound(
        parts in prop::collection::vec(prop::collection::vec(any_endpoint(), 0..5), 0..4),
        zone in prop::option::of((0u8..3).prop_map(|n| format!("z{n}"))),
    ) {
        let slices: Vec<Slice> = parts.iter().map(|part| slice(80, part.clone())).collect();
        let n1 = NodeName::from("n1");
        let here = Here { node: &n1, zone: zone.as_deref() };
        let joined = Endpoints::join(&slices, Family::V4);
        let (cluster, local) = (joined.cluster(&http(), here), joined.local(&http(), &n1));
        // Hints never take the last endpoint away.
        prop_assert_eq!(joined.any_usable(), !cluster.is_empty());
        prop_assert!(local.is_empty() || !cluster.is_empty());
        for list in [&cluster, &local] {
            prop_assert!(list.windows(2).all(|w| (w[0].address, w[0].port) < (w[1].address, w[1].port)));
            prop_assert!(list.iter().all(|e| !e.address.is_loopback()));
            prop_assert!(list.iter().all(|e| e.ready) || list.iter().all(|e| !e.ready && e.serving_terminating));
        }
        prop_assert!(local.iter().all(|e| e.node.as_ref() == Some(&n1)));
        // Without hints the list is what every node has, and the hinted one is a part of it.
        let everywhere = joined.cluster(&http(), elsewhere());
        let bare: Vec<Slice> = slices.iter().cloned().map(|mut slice| {
            slice.endpoints.iter_mut().for_each(|e| e.hints = None);
            slice
        }).collect();
        let bare = shown(&Endpoints::join(&bare, Family::V4).cluster(&http(), here));
        prop_assert_eq!(shown(&everywhere), bare.clone());
        prop_assert!(shown(&cluster).iter().all(|e| bare.contains(e)));
    }

    #[test]
    fn the_order_of_slices_does_not_matter(
        parts in prop::collection::vec(prop::collection::vec(any_endpoint(), 0..5), 0..4),
    ) {
        let mut slices: Vec<Slice> = parts.iter().map(|part| slice(80, part.clone())).collect();
        let forward = Endpoints::join(&slices, Family::V4);
        slices.reverse();
        prop_assert_eq!(forward, Endpoints::join(&slices, Family::V4));
    }
}
