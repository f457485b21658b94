//! BGP peers and advertisements: what is refused, with which words, and that nothing else is disturbed by it.

use super::*;
use crate::model::Family;
use crate::selector::Requirement;

fn peer(name: &str) -> RawPeer {
    RawPeer {
        name: name.into(),
        my_asn: 65_001,
        remote_asn: "65002".into(),
        address: Some("192.0.2.1".into()),
        ..RawPeer::default()
    }
}

/// A peer at another address than [`peer`].
fn good() -> RawPeer {
    RawPeer {
        address: Some("192.0.2.254".into()),
        ..peer("good")
    }
}

fn bgp(name: &str) -> RawBgpAdvertisement {
    RawBgpAdvertisement {
        name: name.into(),
        ..RawBgpAdvertisement::default()
    }
}

fn compiled(peers: &[RawPeer], advertisements: &[RawBgpAdvertisement]) -> Compiled {
    compile(&Written {
        peers,
        bgp_advertisements: advertisements,
        ..Written::default()
    })
}

fn rack(value: &str) -> Selector {
    Selector(vec![Requirement::In("rack".into(), vec![value.into()])])
}

fn text(text: &str) -> Option<String> {
    Some(text.into())
}

/// Changes of a good peer that make it a bad one, with what its verdict begins with.
fn bad_peers() -> Vec<(RawPeer, &'static str)> {
    let base = || peer("bad");
    let my_asn = |my_asn| RawPeer { my_asn, ..base() };
    let remote = |remote_asn: &str| RawPeer {
        remote_asn: remote_asn.into(),
        ..base()
    };
    let address = |address: &str| RawPeer {
        address: text(address),
        ..base()
    };
    let over = |interface: &str| RawPeer {
        address: None,
        interface: text(interface),
        ..base()
    };
    let source = |source: &str| RawPeer {
        source_address: text(source),
        ..base()
    };
    let times = |hold: Option<&str>, keepalive: Option<&str>| RawPeer {
        hold_time: hold.map(Into::into),
        keepalive_time: keepalive.map(Into::into),
        ..base()
    };
    let hops = |ebgp_multihop, ttl_security| RawPeer {
        ebgp_multihop,
        ttl_security,
        ..base()
    };
    let bfd = |receive: &str, transmit: &str, multiplier| RawPeer {
        bfd: Some(RawBfd {
            receive_interval: text(receive),
            transmit_interval: text(transmit),
            detect_multiplier: Some(multiplier),
        }),
        ..base()
    };
    let restart = |time: &str, long: &str| RawPeer {
        graceful_restart: Some(RawGracefulRestart {
            restart_time: text(time),
            long_lived_time: text(long),
        }),
        ..base()
    };
    let mut table = vec![
        (my_asn(0), "spec.myASN: 0 is reserved"),
        (my_asn(-1), "spec.myASN: -1 is not between"),
        (my_asn(23_456), "spec.myASN: 23456 is reserved"),
        (my_asn(65_535), "spec.myASN: 65535 is reserved"),
        (my_asn(4_294_967_295), "spec.myASN: 4294967295 is reserved"),
        (my_asn(4_294_967_296), "spec.myASN: 4294967296 is not between"),
        (remote(""), "spec.remoteASN: \"\" is neither"),
        (remote("Internal"), "spec.remoteASN: \"Internal\" is neither"),
        (remote("0"), "spec.remoteASN: 0 is reserved"),
        (remote("23456"), "spec.remoteASN: 23456 is reserved"),
        (remote("65535"), "spec.remoteASN: 65535 is reserved"),
        (remote("1.10"), "spec.remoteASN: \"1.10\" is neither"),
        (
            address("router.example"),
            "spec.address: \"router.example\" is not an IP address",
        ),
        (
            address("192.0.2.1/24"),
            "spec.address: \"192.0.2.1/24\" is not an IP address",
        ),
        (
            address("fe80::1%eth0"),
            "spec.address: \"fe80::1%eth0\" is not an IP address",
        ),
        (
            address("fe80::1"),
            "spec.address: fe80::1 is a link-local address: name the interface",
        ),
        (
            address("0.0.0.0"),
            "spec.address: 0.0.0.0 is the unspecified address",
        ),
        (
            address("127.0.0.1"),
            "spec.address: 127.0.0.1 is a loopback address",
        ),
        (address("::1"), "spec.address: ::1 is a loopback address"),
        (
            address("224.0.0.5"),
            "spec.address: 224.0.0.5 is a multicast address",
        ),
        (address("ff02::5"), "spec.address: ff02::5 is a multicast address"),
        (
            address("255.255.255.255"),
            "spec.address: 255.255.255.255 is the broadcast address",
        ),
        (
            address("::ffff:192.0.2.1"),
            "spec.address: ::ffff:192.0.2.1 is an IPv4-mapped",
        ),
        (
            RawPeer {
                address: None,
                ..base()
            },
            "spec.address: exactly one of address and interface is needed",
        ),
        (
            RawPeer {
                interface: text("eth0"),
                ..base()
            },
            "spec.address: exactly one of address and interface is needed",
        ),
        (over("eth*"), "spec.interface: \"eth*\" is not the name"),
        (
            over("sixteen-letters-"),
            "spec.interface: \"sixteen-letters-\" is not the name",
        ),
        (
            RawPeer {
                vrf: text("a/b"),
                ..base()
            },
            "spec.vrf: \"a/b\" is not the name",
        ),
        (
            RawPeer {
                port: Some(0),
                ..base()
            },
            "spec.port: 0 is not between 1 and 65535",
        ),
        (
            RawPeer {
                port: Some(65_536),
                ..base()
            },
            "spec.port: 65536 is not between",
        ),
        (
            source("2001:db8::1"),
            "spec.sourceAddress: 2001:db8::1 and the address of the peer, 192.0.2.1, are",
        ),
        (
            source("here"),
            "spec.sourceAddress: \"here\" is not an IP address",
        ),
        (
            RawPeer {
                source_address: text("192.0.2.9"),
                ..over("eth0")
            },
            "spec.sourceAddress: 192.0.2.9 is no use over an interface",
        ),
        (
            times(Some("soon"), None),
            "spec.holdTime: \"soon\" is not a duration",
        ),
        (
            times(Some("0s"), None),
            "spec.holdTime: \"0s\" is not between 3s and 65535s",
        ),
        (
            times(Some("2s"), None),
            "spec.holdTime: \"2s\" is not between 3s and 65535s",
        ),
        (
            times(Some("65536s"), None),
            "spec.holdTime: \"65536s\" is not between",
        ),
        (
            times(Some("3500ms"), None),
            "spec.holdTime: \"3500ms\" is not a number of whole seconds",
        ),
        (
            times(Some("9s"), Some("9s")),
            "spec.keepaliveTime: 9s is not shorter than the hold time, 9s",
        ),
        (
            times(None, Some("90s")),
            "spec.keepaliveTime: 90s is not shorter than the hold time, 90s",
        ),
        (
            times(None, Some("0s")),
            "spec.keepaliveTime: \"0s\" is not between",
        ),
        (
            RawPeer {
                connect_retry_time: text("1s"),
                ..base()
            },
            "spec.connectRetryTime: \"1s\" is not between 2s and 3600s",
        ),
        (
            hops(Some(1), None),
            "spec.ebgpMultihop: 1 is not between 2 and 255",
        ),
        (hops(Some(256), None), "spec.ebgpMultihop: 256 is not between"),
        (
            hops(None, Some(0)),
            "spec.ttlSecurity: 0 is not between 1 and 254",
        ),
        (hops(None, Some(255)), "spec.ttlSecurity: 255 is not between"),
        (
            hops(Some(2), Some(1)),
            "spec.ebgpMultihop: 2 and spec.ttlSecurity exclude",
        ),
        (
            RawPeer {
                remote_asn: "internal".into(),
                ..hops(Some(2), None)
            },
            "spec.ebgpMultihop: 2 is for eBGP",
        ),
        (
            RawPeer {
                remote_asn: "65001".into(),
                ..hops(Some(2), None)
            },
            "spec.ebgpMultihop: 2 is for eBGP",
        ),
        (
            RawPeer {
                ebgp_multihop: Some(2),
                ..over("eth0")
            },
            "spec.ebgpMultihop: 2 is for an address; what is found over eth0",
        ),
        (
            RawPeer {
                bfd: Some(RawBfd::default()),
                ..hops(Some(2), None)
            },
            "spec.bfd: it is for routers that are one hop away",
        ),
        (
            RawPeer {
                bfd: Some(RawBfd::default()),
                ..hops(None, Some(2))
            },
            "spec.bfd: it is for routers that are one hop away",
        ),
        (
            bfd("9ms", "1s", 3),
            "spec.bfd.receiveInterval: \"9ms\" is not between 10ms and 60s",
        ),
        (
            bfd("1s", "61s", 3),
            "spec.bfd.transmitInterval: \"61s\" is not between",
        ),
        (
            bfd("1s", "1s", 1),
            "spec.bfd.detectMultiplier: 1 is not between 2 and 255",
        ),
        (
            bfd("1s", "1s", 256),
            "spec.bfd.detectMultiplier: 256 is not between",
        ),
        (
            restart("4096s", "1s"),
            "spec.gracefulRestart.restartTime: \"4096s\" is not between 1s and 4095s",
        ),
        (
            restart("1s", "0s"),
            "spec.gracefulRestart.longLivedTime: \"0s\" is not between",
        ),
        (
            restart("1s", "1500ms"),
            "spec.gracefulRestart.longLivedTime: \"1500ms\" is not a number of whole seconds",
        ),
    ];
    for name in ["", "Tor", "-a", "a-", "a..b", "a_b"] {
        let bad = RawPeer {
            password_secret: text(name),
            ..base()
        };
        table.push((bad, "spec.passwordSecret: \""));
    }
    let families = RawPeer {
        families: vec!["IPv4".into(), "ipv6".into()],
        ..base()
    };
    table.push((families, "spec.families[1]: \"ipv6\" is neither IPv4 nor IPv6"));
    table
}

#[test]
fn a_bad_peer_is_set_aside_with_a_sentence_and_the_others_stay() {
    for (bad, expected) in bad_peers() {
        let compiled = compiled(&[bad.clone(), good()], &[]);
        assert_eq!(
            compiled.config.peers.keys().collect::<Vec<_>>(),
            ["good"],
            "{bad:?}"
        );
        let verdict = &compiled.verdicts[&ConfigObject::Peer("bad".into())];
        assert_eq!(verdict.reason, Reason::InvalidField);
        assert!(
            verdict.message.starts_with(expected),
            "{verdict:?}, not {expected:?}"
        );
        let other = &compiled.verdicts[&ConfigObject::Peer("good".into())];
        assert_eq!(other.reason, Reason::Accepted);
    }
    let bad = RawPeer {
        nodes: Err("operator \"Like\" is unknown".into()),
        ..peer("bad")
    };
    let compiled = compiled(&[bad, good()], &[]);
    let verdict = &compiled.verdicts[&ConfigObject::Peer("bad".into())];
    assert_eq!(
        (verdict.reason, verdict.message.as_str()),
        (
            Reason::InvalidSelector,
            "spec.nodeSelectors: operator \"Like\" is unknown"
        )
    );
    assert!(compiled.config.peers.contains_key("good"));
}

#[test]
fn a_peer_without_optional_fields_has_the_defaults() {
    let checked = &compiled(&[peer("a")], &[]).config.peers["a"];
    let expected = Peer {
        name: "a".into(),
        my_asn: 65_001,
        remote_asn: RemoteAsn::Number(65_002),
        endpoint: PeerEndpoint::Address(ip("192.0.2.1")),
        port: 179,
        source_address: None,
        hold_time: Duration::from_secs(90),
        keepalive_time: Duration::from_secs(30),
        connect_retry_time: Duration::from_secs(5),
        ebgp_multihop: None,
        ttl_security: None,
        password_secret: None,
        bfd: None,
        graceful_restart: None,
        vrf: None,
        families: vec![Family::V4, Family::V6],
        nodes: vec![],
        disabled: false,
    };
    assert_eq!(*checked, expected);
    let fast = RawPeer {
        hold_time: text("3s"),
        bfd: Some(RawBfd::default()),
        ..peer("a")
    };
    let checked = &compiled(&[fast], &[]).config.peers["a"];
    assert_eq!(checked.keepalive_time, Duration::from_secs(1));
    let interval = Duration::from_millis(300);
    assert_eq!(
        checked.bfd,
        Some(Bfd {
            receive_interval: interval,
            transmit_interval: interval,
            detect_multiplier: 3
        })
    );
}

#[test]
fn a_peer_with_all_fields() {
    let raw = RawPeer {
        my_asn: 4_200_000_000,
        remote_asn: "external".into(),
        address: text("2001:db8::1"),
        port: Some(1179),
        source_address: text("2001:db8::2"),
        hold_time: text("1m30s"),
        keepalive_time: text("89s"),
        connect_retry_time: text("2s"),
        ebgp_multihop: Some(255),
        password_secret: text("tor-1.passwords"),
        graceful_restart: Some(RawGracefulRestart {
            restart_time: None,
            long_lived_time: text("16777215s"),
        }),
        vrf: text("red"),
        families: vec!["IPv6".into(), "IPv6".into()],
        nodes: Ok(vec![rack("a")]),
        ..peer("a")
    };
    let checked = &compiled(&[raw], &[]).config.peers["a"];
    assert_eq!(
        (checked.my_asn, checked.remote_asn),
        (4_200_000_000, RemoteAsn::External)
    );
    assert_eq!(checked.source_address, Some(ip("2001:db8::2")));
    assert_eq!(checked.families, [Family::V6]);
    let restart = checked.graceful_restart.unwrap();
    assert_eq!(restart.restart_time, Duration::from_secs(120));
    assert_eq!(restart.long_lived_time, Some(Duration::from_secs(16_777_215)));
    assert_eq!((checked.ebgp_multihop, checked.port), (Some(255), 1179));
}

#[test]
fn of_two_peers_with_the_same_router_and_nodes_the_older_stays_whatever_the_order() {
    let old = RawPeer {
        created: 1,
        ..peer("z-old")
    };
    let new = RawPeer {
        created: 2,
        ..peer("a-new")
    };
    for order in [[&old, &new], [&new, &old]] {
        let compiled = compiled(&order.map(Clone::clone), &[]);
        assert_eq!(compiled.config.peers.keys().collect::<Vec<_>>(), ["z-old"]);
        let verdict = &compiled.verdicts[&ConfigObject::Peer("a-new".into())];
        assert_eq!(verdict.reason, Reason::DuplicatePeer);
        assert!(
            verdict
                .message
                .starts_with("BGPPeer z-old, which is older, is at 192.0.2.1"),
            "{verdict:?}"
        );
    }
    let fine: [RawPeer; 5] = [
        RawPeer {
            disabled: true,
            ..new.clone()
        },
        RawPeer {
            vrf: text("red"),
            ..new.clone()
        },
        RawPeer {
            address: text("192.0.2.2"),
            ..new.clone()
        },
        RawPeer {
            address: None,
            interface: text("eth0"),
            ..new.clone()
        },
        RawPeer {
            address: text("2001:db8::1"),
            ..new.clone()
        },
    ];
    for other in fine {
        let compiled = compiled(&[old.clone(), other.clone()], &[]);
        assert_eq!(compiled.config.peers.len(), 2, "{other:?}");
    }
    // A disabled one does not stand in the way of a younger one either.
    let off = RawPeer {
        disabled: true,
        ..old
    };
    let compiled = compiled(&[off, new], &[]);
    let verdict = |name: &str| compiled.verdicts[&ConfigObject::Peer(name.into())].reason;
    assert_eq!(
        (verdict("z-old"), verdict("a-new")),
        (Reason::PeerDisabled, Reason::Accepted)
    );
}

#[test]
fn peers_with_the_same_router_for_different_nodes_both_stay() {
    let on = |name: &str, created, nodes: &[&str]| RawPeer {
        created,
        nodes: Ok(nodes.iter().map(|value| rack(value)).collect()),
        ..peer(name)
    };
    let peers = [
        on("a", 1, &["a"]),
        on("b", 2, &["b"]),
        on("again", 3, &["b"]),
        on("everywhere", 9, &[]),
    ];
    let compiled = compiled(&peers, &[]);
    // The last one is for nodes that the others are not for.
    assert_eq!(
        compiled.config.peers.keys().collect::<Vec<_>>(),
        ["a", "b", "everywhere"]
    );
    let verdict = &compiled.verdicts[&ConfigObject::Peer("again".into())];
    assert_eq!(verdict.reason, Reason::DuplicatePeer);
}

#[test]
fn bfd_with_graceful_restart_is_obeyed_and_told() {
    let both = RawPeer {
        bfd: Some(RawBfd::default()),
        graceful_restart: Some(RawGracefulRestart::default()),
        ..peer("a")
    };
    let compiled = compiled(&[both], &[]);
    let verdict = &compiled.verdicts[&ConfigObject::Peer("a".into())];
    assert_eq!(verdict.reason, Reason::GracefulRestartIneffective);
    assert!(verdict.message.contains("RFC 5882"), "{verdict:?}");
    assert!(compiled.config.peers["a"].graceful_restart.is_some());
}

#[test]
fn a_bad_bgp_advertisement_is_set_aside_with_a_sentence_and_the_others_stay() {
    let base = || bgp("bad");
    let lengths = |aggregation_v4, aggregation_v6| RawBgpAdvertisement {
        aggregation_v4,
        aggregation_v6,
        ..base()
    };
    let with = |local_pref, med, prepend| RawBgpAdvertisement {
        local_pref,
        med,
        prepend,
        preferred: Ok(vec![rack("a")]),
        ..base()
    };
    let communities = |entry: &str| RawBgpAdvertisement {
        communities: vec!["65000:1".into(), entry.into()],
        ..base()
    };
    let odd = || Err("odd".to_owned());
    for (bad, reason, expected) in [
        (
            lengths(Some(0), None),
            Reason::InvalidField,
            "spec.aggregationLength: 0 is not between 1 and 32",
        ),
        (
            lengths(Some(33), None),
            Reason::InvalidField,
            "spec.aggregationLength: 33 is not",
        ),
        (
            lengths(None, Some(0)),
            Reason::InvalidField,
            "spec.aggregationLengthV6: 0 is not between 1 and 128",
        ),
        (
            lengths(None, Some(129)),
            Reason::InvalidField,
            "spec.aggregationLengthV6: 129 is not",
        ),
        (
            with(Some(-1), None, Some(1)),
            Reason::InvalidField,
            "spec.localPref: -1 is not between 0 and 4294967295",
        ),
        (
            with(Some(4_294_967_296), None, Some(1)),
            Reason::InvalidField,
            "spec.localPref: 4294967296 is not",
        ),
        (
            with(None, Some(-1), Some(1)),
            Reason::InvalidField,
            "spec.med: -1 is not",
        ),
        (
            with(None, Some(4_294_967_296), Some(1)),
            Reason::InvalidField,
            "spec.med: 4294967296 is not",
        ),
        (
            with(None, None, Some(-1)),
            Reason::InvalidField,
            "spec.asPathPrepend: -1 is not between 0 and 10",
        ),
        (
            with(None, None, Some(11)),
            Reason::InvalidField,
            "spec.asPathPrepend: 11 is not",
        ),
        (
            with(None, None, None),
            Reason::InvalidField,
            "spec.preferredNodes: the other nodes must differ",
        ),
        (
            RawBgpAdvertisement {
                prepend: Some(1),
                ..base()
            },
            Reason::InvalidField,
            "spec.asPathPrepend: it is for nodes that are less preferred",
        ),
        (
            communities("65536:1"),
            Reason::InvalidField,
            "spec.communities[1]: \"65536:1\" is neither",
        ),
        (
            communities("large:1:2"),
            Reason::InvalidField,
            "spec.communities[1]: \"large:1:2\" is neither",
        ),
        (
            communities("no-exports"),
            Reason::InvalidField,
            "spec.communities[1]: \"no-exports\" is neither",
        ),
        (
            RawBgpAdvertisement {
                nodes: odd(),
                ..base()
            },
            Reason::InvalidSelector,
            "spec.nodeSelectors: odd",
        ),
        (
            RawBgpAdvertisement {
                preferred: odd(),
                ..base()
            },
            Reason::InvalidSelector,
            "spec.preferredNodes: odd",
        ),
        (
            RawBgpAdvertisement {
                services: odd(),
                ..base()
            },
            Reason::InvalidSelector,
            "spec.serviceSelectors: odd",
        ),
    ] {
        let compiled = compiled(&[good()], &[bad.clone(), bgp("fine")]);
        let kept: Vec<_> = compiled.config.bgp_advertisements.keys().collect();
        assert_eq!(kept, ["fine"], "{bad:?}");
        let verdict = &compiled.verdicts[&ConfigObject::BgpAdvertisement("bad".into())];
        assert_eq!(verdict.reason, reason);
        assert!(
            verdict.message.starts_with(expected),
            "{verdict:?}, not {expected:?}"
        );
    }
}

#[test]
fn a_bgp_advertisement_without_fields_has_the_defaults_and_one_with_all_is_read() {
    let full = RawBgpAdvertisement {
        preferred: Ok(vec![rack("a")]),
        peers: vec!["good".into()],
        aggregation_v4: Some(24),
        aggregation_v6: Some(64),
        local_pref: Some(0),
        med: Some(4_294_967_295),
        prepend: Some(10),
        communities: ["65000:1", "no-export", "65535:65281", "large:1:2:3"]
            .map(Into::into)
            .into(),
        ..bgp("full")
    };
    let config = compiled(&[good()], &[bgp("plain"), full]).config;
    let plain = &config.bgp_advertisements["plain"];
    assert_eq!((plain.aggregation_v4, plain.aggregation_v6), (32, 128));
    assert_eq!((plain.local_pref, plain.med, plain.prepend), (None, None, 0));
    let full = &config.bgp_advertisements["full"];
    assert_eq!((full.aggregation_v4, full.aggregation_v6), (24, 64));
    assert_eq!(
        (full.local_pref, full.med, full.prepend),
        (Some(0), Some(u32::MAX), 10)
    );
    // One of them twice, by name and by number.
    assert_eq!(full.communities, [0xFDE8_0001, 0xFFFF_FF01].into());
    assert_eq!(full.large_communities, [[1, 2, 3]].into());
}

#[test]
fn an_advertisement_of_unknown_pools_and_peers_is_obeyed_for_the_others() {
    let naming = |name: &str, pools: &[&str], peers: &[&str]| RawBgpAdvertisement {
        pools: pools.iter().map(|p| (*p).to_owned()).collect(),
        peers: peers.iter().map(|p| (*p).to_owned()).collect(),
        ..bgp(name)
    };
    let bad = RawPeer {
        my_asn: 0,
        ..peer("bad")
    };
    let compiled = compile(&Written {
        pools: &[pool("blue", 1, &["192.0.2.0/24"])],
        advertisements: &[advertisement("l2", &["blue"])],
        peers: &[good(), bad],
        bgp_advertisements: &[
            naming("fine", &["blue"], &["good"]),
            naming("pools", &["blue", "red"], &[]),
            naming("peers", &[], &["good", "bad", "gone"]),
            naming("both", &["red"], &["gone"]),
        ],
    });
    let verdict = |name: &str| {
        let verdict = &compiled.verdicts[&ConfigObject::BgpAdvertisement(name.into())];
        (verdict.reason, verdict.message.as_str())
    };
    assert_eq!(verdict("fine"), (Reason::Accepted, "in use"));
    assert_eq!(
        verdict("pools"),
        (Reason::UnknownPool, "no usable AddressPool is named red")
    );
    assert_eq!(
        verdict("peers"),
        (Reason::UnknownPeer, "no usable BGPPeer is named bad, gone")
    );
    assert_eq!(
        verdict("both"),
        (
            Reason::UnknownPool,
            "no usable AddressPool is named red; no usable BGPPeer is named gone"
        )
    );
    assert_eq!(compiled.config.bgp_advertisements.len(), 4);
    assert_eq!(compiled.config.advertisements.len(), 1);
}

mod any {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    /// A good value, one near it, or anything.
    fn near(good: &'static str) -> impl Strategy<Value = String> {
        prop_oneof![3 => Just(good.to_owned()), 1 => "[0-9]{1,6}(ms|s|m|h)?", 1 => "\\PC{0,12}"]
    }

    fn number() -> impl Strategy<Value = Option<i64>> {
        option::of(prop_oneof![1..300i64, any::<i64>()])
    }

    prop_compose! {
        fn any_peer()(
            (my_asn, remote_asn) in (prop_oneof![Just(64_500), any::<i64>()], near("external")),
            (address, interface) in (option::weighted(0.8, near("192.0.2.1")), option::weighted(0.2, near("eth0"))),
            (source_address, vrf) in (option::of(near("192.0.2.2")), option::of(near("red"))),
            (hold_time, keepalive_time) in (option::of(near("9s")), option::of(near("3s"))),
            (connect_retry_time, password_secret) in (option::of(near("5s")), option::of(near("tor"))),
            (port, ebgp_multihop, ttl_security) in (number(), number(), number()),
            bfd in option::of((option::of(near("10ms")), number())),
            restart in option::of((option::of(near("1s")), option::of(near("1h")))),
            families in proptest::collection::vec(near("IPv6"), 0..3),
        ) -> RawPeer {
            RawPeer {
                my_asn, remote_asn, address, interface, source_address, vrf, hold_time, keepalive_time,
                connect_retry_time, password_secret, port, ebgp_multihop, ttl_security, families,
                bfd: bfd.map(|(receive_interval, detect_multiplier)| RawBfd {
                    receive_interval, detect_multiplier, ..RawBfd::default()
                }),
                graceful_restart: restart.map(|(restart_time, long_lived_time)| RawGracefulRestart {
                    restart_time, long_lived_time,
                }),
                ..peer("any")
            }
        }
    }

    proptest! {
        #[test]
        fn a_peer_that_is_accepted_is_within_its_bounds_and_disturbs_no_other(raw in any_peer()) {
            let compiled = compiled(&[raw, good()], &[]);
            let verdict = &compiled.verdicts[&ConfigObject::Peer("any".into())];
            prop_assert!(compiled.config.peers.contains_key("good"));
            let Some(peer) = compiled.config.peers.get("any") else {
                prop_assert!(verdict.message.starts_with("spec."), "{:?}", verdict);
                return Ok(());
            };
            prop_assert!(![0, 23_456, 65_535, u32::MAX].contains(&peer.my_asn));
            prop_assert!(Duration::from_secs(3) <= peer.hold_time && peer.hold_time <= Duration::from_secs(65_535));
            prop_assert!(peer.keepalive_time < peer.hold_time);
            let times = [peer.hold_time, peer.keepalive_time, peer.connect_retry_time];
            let restart = peer.graceful_restart.into_iter().flat_map(|g| [Some(g.restart_time), g.long_lived_time]);
            for time in times.into_iter().chain(restart.flatten()) {
                prop_assert!(time >= Duration::from_secs(1) && time.subsec_nanos() == 0, "{:?}", time);
            }
            prop_assert!(peer.port > 0 && !peer.families.is_empty());
            prop_assert!(peer.ebgp_multihop.is_none() || peer.ttl_security.is_none());
            if let (PeerEndpoint::Address(address), Some(source)) = (&peer.endpoint, peer.source_address) {
                prop_assert_eq!(Family::of(*address), Family::of(source));
            }
            let within = |bfd: Bfd| {
                let bounds = Duration::from_millis(10)..=Duration::from_secs(60);
                bounds.contains(&bfd.receive_interval) && bounds.contains(&bfd.transmit_interval) && bfd.detect_multiplier > 1
            };
            prop_assert!(peer.bfd.is_none_or(within));
        }
    }
}
