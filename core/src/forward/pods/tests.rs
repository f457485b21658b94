use super::*;
use crate::testing::node;
use proptest::prelude::*;

fn link(index: u32, name: &str, kind: &str, addresses: &[&str]) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: (kind != "device").then(|| kind.to_owned()),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Link::default()
    }
}

fn lo() -> Link {
    Link {
        loopback: true,
        ..link(1, "lo", "device", &["127.0.0.1/8", "::1/128"])
    }
}

fn route(destination: &str, links: &[u32]) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        links: links.to_vec(),
    }
}

/// Node n1 at 192.0.2.11 with podCIDR 10.244.1.0/24.
fn me() -> Node {
    Node {
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        ..node("n1", "192.0.2.11")
    }
}

fn names(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn uplinks_of_nodes_as_they_are() {
    /// What it shows, the interfaces beside the loopback, the routes, the uplinks.
    type Case<'a> = (&'a str, Vec<Link>, Vec<Route>, &'a [&'a str]);
    let cases: Vec<Case> = vec![
        (
            "one device, a bridge of pods, an overlay",
            vec![
                link(2, "eth0", "device", &["192.0.2.11/24"]),
                link(3, "cni0", "bridge", &["10.244.1.1/24"]),
                Link {
                    master: Some(3),
                    ..link(4, "veth1", "veth", &[])
                },
                link(5, "flannel.1", "vxlan", &["10.244.1.0/32"]),
            ],
            vec![route("0.0.0.0/0", &[2]), route("10.244.2.0/24", &[5])],
            &["eth0", "flannel.1", "lo"],
        ),
        (
            "a node in a namespace: its uplinks are veths, and only addresses tell",
            vec![
                link(2, "eth0", "veth", &["192.0.2.11/24", "2001:db8::11/64"]),
                link(3, "lxc1", "veth", &[]),
            ],
            vec![],
            &["eth0", "lo"],
        ),
        (
            "the default route leaves by another interface than the InternalIP's, and by two",
            vec![
                link(2, "eth0", "veth", &["192.0.2.11/24"]),
                link(3, "eth1", "veth", &["198.51.100.11/24"]),
                link(4, "eth2", "veth", &[]),
                link(5, "cali1", "veth", &[]),
            ],
            vec![route("0.0.0.0/0", &[3]), route("::/0", &[3, 4])],
            &["eth0", "eth1", "eth2", "lo"],
        ),
        (
            "a bond under a VLAN under a bridge",
            vec![
                Link {
                    master: Some(4),
                    ..link(2, "eno1", "device", &[])
                },
                Link {
                    master: Some(4),
                    ..link(3, "eno2", "device", &[])
                },
                Link {
                    master: Some(6),
                    ..link(4, "bond0", "bond", &[])
                },
                link(6, "br0", "bridge", &["192.0.2.11/24"]),
                link(7, "cali1", "veth", &[]),
            ],
            vec![route("0.0.0.0/0", &[6])],
            &["bond0", "br0", "eno1", "eno2", "lo"],
        ),
        (
            "a second device without a default route serves clients too",
            vec![
                link(2, "eth0", "device", &["192.0.2.11/24"]),
                link(3, "eth1", "device", &["203.0.113.11/24"]),
                link(4, "cali1", "veth", &[]),
            ],
            vec![route("0.0.0.0/0", &[2])],
            &["eth0", "eth1", "lo"],
        ),
    ];
    for (name, mut links, routes, expected) in cases {
        links.insert(0, lo());
        assert_eq!(names(&uplinks(&me(), &links, &routes)), expected, "{name}");
        let pods = pods(&PodSources::Auto, Some(&me()), &links, &routes);
        assert_eq!(
            pods.links,
            PodLinks::AllBut(uplinks(&me(), &links, &routes)),
            "{name}"
        );
    }
}

#[test]
fn a_pod_is_told_by_range_or_by_interface() {
    let links = [
        lo(),
        link(2, "eth0", "device", &["192.0.2.11/24"]),
        link(3, "cali1", "veth", &[]),
    ];
    let routes = [route("0.0.0.0/0", &[2])];
    let (in_range, other) = ("10.244.1.5", "10.99.0.5");
    for (sources, source, back, expected) in [
        ("auto", in_range, "eth0", true),
        ("auto", in_range, "cali1", true),
        ("auto", other, "cali1", true),
        ("auto", other, "eth0", false),
        ("auto", other, "lo", false),
        ("cidrs", in_range, "eth0", true),
        ("cidrs", other, "cali1", false),
        ("interfacePrefixes=cali,lxc", in_range, "eth0", false),
        ("interfacePrefixes=cali,lxc", other, "cali1", true),
        ("interfacePrefixes=lxc", other, "cali1", false),
    ] {
        let pods = pods(&sources.parse().unwrap(), Some(&me()), &links, &routes);
        let source = source.parse().unwrap();
        assert_eq!(
            pods.contain(source, Some(back)),
            expected,
            "{sources} {source} by {back}"
        );
        assert_eq!(
            pods.contain(source, None),
            expected && source.to_string() == in_range && sources != "interfacePrefixes=cali,lxc"
        );
    }
}

#[test]
fn when_little_is_known_nobody_is_taken_for_a_pod() {
    // No way out is known: neither a route nor the interface of the node's address.
    let links = [lo(), link(3, "cali1", "veth", &[])];
    let known = pods(&PodSources::Auto, Some(&me()), &links, &[]);
    assert_eq!(known.links, PodLinks::None);
    assert_eq!(known.ranges.len(), 1);
    assert_eq!(
        pods(&PodSources::Auto, Some(&me()), &[], &[]).links,
        PodLinks::None
    );
    assert_eq!(pods(&PodSources::Auto, None, &links, &[]), Pods::default());
}

#[test]
fn ranges_that_cannot_be_true_are_left_out() {
    let ranges = |cidrs: &[&str]| {
        let node = Node {
            pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            ..node("n1", "192.0.2.11")
        };
        let ranges = pods(&PodSources::Cidrs, Some(&node), &[], &[]).ranges;
        ranges
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        ranges(&["10.244.1.7/25", "10.244.1.128/25", "fd00:1::/64"]),
        "10.244.1.0/24 fd00:1::/64"
    );
    assert_eq!(ranges(&["0.0.0.0/0", "192.0.0.0/8"]), "");
    assert_eq!(ranges(&[]), "");
}

#[test]
fn the_choice_in_words() {
    let ranges = || vec!["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    let names = |count| (10..10 + count).map(|number| format!("eth{number}"));
    for (ranges, links, words) in [
        (vec![], PodLinks::None, "none".to_owned()),
        (
            ranges(),
            PodLinks::None,
            "podCIDRs 10.0.1.0/24, fd00:1::/64".to_owned(),
        ),
        (
            ranges(),
            PodLinks::AllBut(names(2).collect()),
            "podCIDRs 10.0.1.0/24, fd00:1::/64; interfaces other than eth10, eth11".to_owned(),
        ),
        (
            vec![],
            PodLinks::AllBut(names(18).collect()),
            format!(
                "interfaces other than {} and 2 more",
                names(16).collect::<Vec<_>>().join(", ")
            ),
        ),
        (
            vec![],
            PodLinks::Prefixes(vec!["cali".into(), "lxc".into()]),
            "interfaces cali*, lxc*".to_owned(),
        ),
    ] {
        assert_eq!(Pods { ranges, links }.to_string(), words);
    }
}

#[test]
fn what_can_be_asked_for() {
    let prefixes = PodSources::Prefixes(vec!["cali".into(), "lxc".into()]);
    for (text, expected) in [
        ("auto", PodSources::Auto),
        ("cidrs", PodSources::Cidrs),
        ("interfacePrefixes=cali, lxc", prefixes),
    ] {
        assert_eq!(text.parse(), Ok(expected));
    }
    for text in [
        "",
        "Auto",
        "interfacePrefixes",
        "interfacePrefixes=",
        "interfacePrefixes=a,,b",
        "interfacePrefixes=a b",
        "interfacePrefixes=sixteen-letters-",
        "interfacePrefixes=cali*",
    ] {
        assert!(text.parse::<PodSources>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn what_leads_out_is_never_a_pod_s(
        shapes in prop::collection::vec((0u8..4, prop::option::of(2u32..8), any::<bool>()), 0..6),
        default in 2u32..8,
    ) {
        let kinds = ["device", "veth", "bridge", "vxlan"];
        let links: Vec<Link> = shapes.iter().zip(2..).map(|((kind, master, own), index)| Link {
            master: *master,
            ..link(index, &format!("l{index}"), kinds[usize::from(*kind)], if *own { &["192.0.2.11/24"] } else { &[] })
        }).collect();
        let pods = pods(&PodSources::Auto, Some(&me()), &links, &[route("0.0.0.0/0", &[default])]);
        for link in &links {
            let out = link.index == default || !["veth", "bridge"].contains(&link.kind.as_deref().unwrap_or_default()) || !link.addresses.is_empty();
            if out {
                prop_assert!(!pods.links.contains(&link.name), "{:?}", link);
            }
            let master = links.iter().find(|l| Some(l.index) == link.master);
            if let Some(master) = master.filter(|_| !pods.links.contains(&link.name)) {
                prop_assert!(!pods.links.contains(&master.name), "{:?}", master);
            }
        }
    }
}
