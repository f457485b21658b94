use super::*;
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
    assert!(converted.client_ip_affinity && converted.foreign_ingress);
    assert_eq!(converted.ingress, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(converted.source_ranges.len(), 1);
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
