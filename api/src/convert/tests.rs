use super::*;
use fairlead_core::endpoints::AddressFault;
use fairlead_core::model::{Hints, Slice};
use ipnet::IpNet;
use serde_json::{Value, json};

fn service_of(value: Value) -> Service {
    service(&serde_json::from_value(value).unwrap()).unwrap()
}

#[test]
fn a_load_balancer_service() {
    let converted = service_of(json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "fairlead.dev/fairlead", "ipFamilies": ["IPv4", "IPv6"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "sessionAffinity": "ClientIP",
            "loadBalancerIP": "192.0.2.9", "loadBalancerSourceRanges": [" 198.51.100.0/24 ", "nonsense"],
            "ports": [{"port": 80, "nodePort": 30080}, {"name": "dns", "protocol": "UDP", "port": 53}],
        },
        "status": {
            "loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.10", "ipMode": "Proxy"}, {"hostname": "x.example"}]},
            "conditions": [{
                "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned",
                "message": "192.0.2.9 from pool blue", "lastTransitionTime": "1970-01-01T00:00:07Z",
            }],
        },
    }));
    assert_eq!(converted.key.to_string(), "shop/web");
    assert_eq!(converted.kind, ServiceType::LoadBalancer);
    assert_eq!(converted.families, [Family::V4, Family::V6]);
    assert_eq!(converted.policy, TrafficPolicy::Local);
    assert_eq!(converted.health_check_node_port, Some(31000));
    assert!(converted.foreign_ingress);
    assert_eq!(converted.affinity, Some(10_800));
    assert_eq!(converted.unread_ranges, ["nonsense"]);
    assert_eq!(converted.ingress, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    // IPv4 has its range; IPv6, for which none can be read, is closed.
    assert_eq!(
        converted.source_ranges,
        ["198.51.100.0/24", "::/128"].map(|range| range.parse::<IpNet>().unwrap())
    );
    assert_eq!(converted.ports[0].node_port, Some(30080));
    assert_eq!(
        (converted.ports[1].protocol, converted.ports[1].node_port),
        (Protocol::Udp, None)
    );
    let record = converted.assigned.unwrap();
    assert_eq!((record.since, record.addresses[0].1.as_str()), (7, "blue"));
}

#[test]
fn endpoint_conditions_have_their_defaults() {
    let object = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "none"}, {"name": "zero", "port": 0}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n1"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["2001:db8::1"]},
            {"addresses": ["not-an-address"]},
        ],
    }))
    .unwrap();
    let slice = slice(&object).unwrap();
    assert_eq!(slice.ports.len(), 1);
    assert_eq!(slice.endpoints.len(), 2);
    let first = &slice.endpoints[0];
    assert!(first.ready && first.serving && !first.terminating && first.node.is_some());
    let second = &slice.endpoints[1];
    assert!(!second.ready && second.serving && second.terminating && second.node.is_none());
}

#[test]
fn a_slice_without_family_or_service_is_absent() {
    let fqdn = json!({"metadata": {"namespace": "a", "name": "b", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "FQDN", "endpoints": []});
    assert_eq!(slice(&serde_json::from_value(fqdn).unwrap()), None);
    let orphan = json!({"metadata": {"namespace": "a", "name": "b"}, "addressType": "IPv4", "endpoints": []});
    assert_eq!(slice(&serde_json::from_value(orphan).unwrap()), None);
}

#[test]
fn the_exclusion_label_excludes_unless_it_parses_as_false() {
    for (value, excluded) in [
        ("true", true),
        ("", true),
        ("yes", true),
        ("1", true),
        ("false", false),
        ("F", false),
    ] {
        let object = json!({"metadata": {"name": "n", "labels": {EXCLUDE_LABEL: value}}});
        assert_eq!(
            node(&serde_json::from_value(object).unwrap()).unwrap().excluded,
            excluded,
            "{value:?}"
        );
    }
    assert!(
        !node(&serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap())
            .unwrap()
            .excluded
    );
}

#[test]
fn a_node() {
    let object = json!({
        "metadata": {"name": "n1", "uid": "u"},
        "spec": {"unschedulable": true, "podCIDRs": ["10.244.1.0/24"], "taints": [{"key": AUTOSCALER_TAINT, "effect": "NoSchedule"}]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "Hostname", "address": "n1"},
            ],
            "conditions": [{"type": "NetworkUnavailable", "status": "True"}],
        },
    });
    let node = node(&serde_json::from_value(object).unwrap()).unwrap();
    assert!(node.cordoned && node.autoscaler_taint && node.network_unavailable && !node.deleting);
    assert_eq!(
        (
            node.internal_ips.len(),
            node.addresses.len(),
            node.pod_cidrs.len()
        ),
        (1, 2, 1)
    );
}

#[test]
fn selectors() {
    let read = |value: Value| selector(&serde_json::from_value(value).unwrap());
    let labels = std::collections::BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let good = read(
        json!({"matchLabels": {"zone": "a"}, "matchExpressions": [{"key": "rack", "operator": "DoesNotExist"}]}),
    );
    assert!(good.unwrap().matches(&labels));
    let bad = read(json!({"matchExpressions": [{"key": "zone", "operator": "Like", "values": ["a"]}]}))
        .unwrap_err();
    assert!(bad.contains("\"Like\""), "{bad}");
    assert!(read(json!({"matchExpressions": [{"key": "zone", "operator": "In"}]})).is_err());
}

#[test]
fn an_advertisement() {
    let read = |spec: Value| {
        let object = json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "L2Advertisement",
            "metadata": {"name": "l2"}, "spec": spec});
        advertisement(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let plain = RawAdvertisement {
        name: "l2".into(),
        ..RawAdvertisement::default()
    };
    assert_eq!(read(json!({})), plain);
    let rack =
        |values: &[&str]| json!({"matchExpressions": [{"key": "rack", "operator": "In", "values": values}]});
    let full = read(json!({
        "addressPools": ["blue"], "interfaces": ["eth*", "!eth1"], "preemptAfter": "Never", "conflictPolicy": "Yield",
        "preferredNodeSelectors": [{"weight": 7, "preference": rack(&["a"])}], "serviceSelectors": [rack(&["b"])],
    }));
    let selector = |value: &str| Selector(vec![Requirement::In("rack".into(), vec![value.into()])]);
    let expected = RawAdvertisement {
        pools: vec!["blue".into()],
        preferred: Ok(vec![Preference {
            weight: 7,
            nodes: selector("a"),
        }]),
        services: Ok(vec![selector("b")]),
        interfaces: vec!["eth*".into(), "!eth1".into()],
        preempt_after: Some("Never".into()),
        conflict: ConflictPolicy::Yield,
        ..plain
    };
    assert_eq!(full, expected);
    let bad = read(json!({
        "preferredNodeSelectors": [{"weight": 7, "preference": rack(&[])}], "serviceSelectors": [rack(&[])],
    }));
    assert!(bad.preferred.is_err() && bad.services.is_err());
}

#[test]
fn the_health_of_a_pool() {
    let read = |spec: Value| {
        let object = json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "blue"}, "spec": spec});
        pool(&serde_json::from_value(object).unwrap()).unwrap().health
    };
    assert_eq!(read(json!({"addresses": []})), RawHealth::default());
    assert_eq!(read(json!({"addresses": [], "health": {}})), RawHealth::default());
    let full = json!({"interval": "1s", "timeout": "400ms", "failureThreshold": 3, "successThreshold": 4});
    let expected = RawHealth {
        interval: Some("1s".into()),
        timeout: Some("400ms".into()),
        failure: Some(3),
        success: Some(4),
    };
    assert_eq!(read(json!({"addresses": [], "health": full})), expected);
}

#[test]
fn affinity_has_a_time() {
    let read =
        |spec: Value| service_of(json!({"metadata": {"namespace": "a", "name": "b"}, "spec": spec})).affinity;
    let sticky = |seconds: Value| {
        read(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}),
        )
    };
    assert_eq!(read(json!({})), None);
    assert_eq!(read(json!({"sessionAffinity": "None"})), None);
    assert_eq!(read(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
    for (seconds, expected) in [
        (json!(null), 10_800),
        (json!(1), 1),
        (json!(300), 300),
        (json!(86_400), 86_400),
        (json!(0), 1),
        (json!(-5), 1),
        (json!(86_401), 86_400),
    ] {
        assert_eq!(sticky(seconds.clone()), Some(expected), "{seconds}");
    }
}

#[test]
fn source_ranges_may_stand_in_an_annotation() {
    let read = |annotation: &str, field: Value| {
        let converted = service_of(json!({
            "metadata": {"namespace": "a", "name": "b", "annotations": {SOURCE_RANGES: annotation}},
            "spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": field},
        }));
        let texts: Vec<String> = converted.source_ranges.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    assert_eq!(
        read("10.0.0.0/8, 2001:db8::/32", json!(null)),
        "10.0.0.0/8 2001:db8::/32"
    );
    assert_eq!(read("10.0.0.0/8", json!([])), "10.0.0.0/8");
    assert_eq!(read("10.0.0.0/8", json!(["192.0.2.0/24"])), "192.0.2.0/24");
}

fn slice_of(spec: Value) -> (Option<Slice>, Vec<Fault>) {
    let mut object =
        json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"}}});
    for (key, value) in spec.as_object().unwrap() {
        object[key] = value.clone();
    }
    slice_and_faults(&serde_json::from_value(object).unwrap())
}

#[test]
fn a_malformed_slice_keeps_what_is_sound_and_says_what_is_not() {
    let (slice, faults) = slice_of(json!({
        "addressType": "IPv6",
        "ports": [
            {"name": "http", "port": 8080}, {"name": "none"}, {"name": "zero", "port": 0}, {"name": "big", "port": 65536},
            {"name": "odd", "port": 1, "protocol": "ICMP"}, {"port": 53, "protocol": "UDP"},
        ],
        "endpoints": [
            {"addresses": ["2001:db8::1", "2001:db8::2"]},
            {"addresses": []},
            {"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]},
            {"addresses": ["web.example"]},
            {"addresses": ["::1"]},
            {"addresses": ["::"]},
            {"addresses": ["fe80::1"]},
            {"addresses": ["fe80::1%eth0"]},
            {"addresses": ["ff02::1"]},
            {"addresses": ["::ffff:10.0.0.1"]},
            {"addresses": ["2001:db8::3"], "nodeName": ""},
        ],
    }));
    let slice = slice.unwrap();
    let ports: Vec<(&str, u16)> = slice.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(ports, [("http", 8080), ("", 53)]);
    let addresses: Vec<String> = slice.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["2001:db8::1", "2001:db8::3"]);
    assert!(slice.endpoints.iter().all(|e| e.node.is_none()));
    let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "3 ports without a usable number (none)",
            "1 port of unknown protocol (ICMP)",
            "1 endpoint without an address",
            "2 endpoints with an unreadable address (\"web.example\")",
            "2 endpoints with an address that is not of the slice's addressType (10.0.0.1)",
            "1 endpoint with the unspecified address (::)",
            "1 endpoint with a loopback address (::1)",
            "1 endpoint with a link-local address (fe80::1)",
            "1 endpoint with a multicast or broadcast address (ff02::1)",
            "1 endpoint with an IPv4-mapped IPv6 address (::ffff:10.0.0.1)",
        ]
    );
    assert_eq!(faults[6].kind, FaultKind::Address(AddressFault::Loopback));
}

#[test]
fn sound_slices_have_no_fault_whoever_wrote_them() {
    for spec in [
        // A place-holder: the Service has no endpoints.
        json!({"addressType": "IPv4", "endpoints": [], "ports": []}),
        json!({"addressType": "IPv4", "endpoints": []}),
        json!({"addressType": "IPv4", "endpoints": [], "ports": null}),
        // Written by hand, for a Service without a selector.
        json!({
            "metadata": {"namespace": "shop", "name": "by-hand",
                "labels": {SERVICE_NAME_LABEL: "web", "endpointslice.kubernetes.io/managed-by": "a-person"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["203.0.113.7"]}],
        }),
    ] {
        let (slice, faults) = slice_of(spec.clone());
        assert!(slice.is_some() && faults.is_empty(), "{spec}: {faults:?}");
    }
    let (fqdn, faults) =
        slice_of(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}));
    assert_eq!(fqdn, None);
    assert_eq!(faults[0].to_string(), "the whole slice, of addressType \"FQDN\"");
    let many: Vec<Value> = (0..1000)
        .map(|n| json!({"addresses": [format!("127.0.{}.{}", n / 250, n % 250)]}))
        .collect();
    let (slice, faults) = slice_of(json!({"addressType": "IPv4", "endpoints": many}));
    assert!(slice.unwrap().endpoints.is_empty());
    assert_eq!((faults.len(), faults[0].count), (1, 1000));
}

#[test]
fn endpoints_that_are_published_although_not_ready_are_ready() {
    // What the EndpointSlice controller writes with publishNotReadyAddresses, for a pod that terminates too.
    let conditions = json!({"ready": true, "serving": false, "terminating": true});
    let (slice, _) = slice_of(json!({"addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": conditions}]}));
    let endpoint = &slice.unwrap().endpoints[0];
    assert!(endpoint.ready && !endpoint.serving);
}

#[test]
fn hints_are_read() {
    let read = |hints: Value| {
        let (slice, _) = slice_of(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "hints": hints}]}),
        );
        slice.unwrap().endpoints[0].hints.as_deref().cloned()
    };
    assert_eq!(read(json!(null)), None);
    assert_eq!(read(json!({})), None);
    assert_eq!(read(json!({"forZones": []})), None);
    let both = json!({"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]});
    let expected = Hints {
        nodes: vec!["n1".into()],
        zones: vec!["a".into(), "b".into()],
    };
    assert_eq!(read(both), Some(expected));
}

#[test]
fn a_bgp_peer() {
    use fairlead_core::config::{RawBfd, RawGracefulRestart};
    let read = |spec: Value| {
        let object = json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": "tor", "creationTimestamp": "1970-01-01T00:00:07Z"}, "spec": spec});
        peer(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let plain = read(json!({"myASN": 65001, "remoteASN": 4200000000_u32, "address": "192.0.2.1"}));
    assert_eq!((plain.name.as_str(), plain.created), ("tor", 7));
    assert_eq!(
        (plain.my_asn, plain.remote_asn.as_str(), plain.address.as_deref()),
        (65001, "4200000000", Some("192.0.2.1"))
    );
    assert!(plain.bfd.is_none() && plain.graceful_restart.is_none() && !plain.disabled);
    let full = read(json!({
        "myASN": 65001, "remoteASN": "external", "interface": "eth0", "port": 1179, "holdTime": "9s",
        "keepaliveTime": "3s", "connectRetryTime": "2s", "ttlSecurity": 1, "passwordSecret": "tor",
        "bfd": {"receiveInterval": "100ms", "detectMultiplier": 3}, "gracefulRestart": {"longLivedTime": "1h"},
        "vrf": "red", "families": ["IPv6"], "disabled": true,
        "nodeSelectors": [{"matchExpressions": [{"key": "rack", "operator": "Like"}]}],
    }));
    assert_eq!((full.remote_asn.as_str(), full.port), ("external", Some(1179)));
    assert_eq!(
        full.bfd,
        Some(RawBfd {
            receive_interval: Some("100ms".into()),
            transmit_interval: None,
            detect_multiplier: Some(3)
        })
    );
    assert_eq!(
        full.graceful_restart,
        Some(RawGracefulRestart {
            restart_time: None,
            long_lived_time: Some("1h".into())
        })
    );
    assert_eq!((full.vrf.as_deref(), full.families.len()), (Some("red"), 1));
    assert!(full.disabled && full.nodes.is_err());
}

#[test]
fn a_bgp_advertisement() {
    let read = |spec: Value| {
        let object = json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "BGPAdvertisement",
            "metadata": {"name": "bgp"}, "spec": spec});
        bgp_advertisement(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let plain = read(json!({}));
    assert_eq!((plain.name.as_str(), &plain.nodes), ("bgp", &Ok(vec![])));
    let full = read(json!({
        "addressPools": ["blue"], "peers": ["tor"], "aggregationLength": 24, "aggregationLengthV6": 64,
        "localPref": 4294967295_u32, "med": 0, "asPathPrepend": 3, "communities": ["no-export"],
        "preferredNodes": [{"matchLabels": {"rack": "a"}}],
        "serviceSelectors": [{"matchExpressions": [{"key": "rack", "operator": "Like"}]}],
    }));
    assert_eq!((full.aggregation_v4, full.aggregation_v6), (Some(24), Some(64)));
    assert_eq!(
        (full.local_pref, full.med, full.prepend),
        (Some(4_294_967_295), Some(0), Some(3))
    );
    assert_eq!(
        (full.pools.len(), full.peers.len(), full.communities.len()),
        (1, 1, 1)
    );
    assert!(full.preferred.is_ok_and(|list| list.len() == 1) && full.services.is_err());
}
