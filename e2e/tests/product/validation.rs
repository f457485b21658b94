//! What the schemas of our kinds accept and refuse, asked of the API server itself.

use serde_json::{Value, json};

use super::api_only::{ApiOnly, Table};

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Every row is a whole spec, with a piece of the message if it is refused.
fn specs(name: &str, kind: &str, rows: &[(Value, Option<&str>)]) {
    let test = ApiOnly::new(name);
    let mut table = Table::default();
    for (spec, refusal) in rows {
        let answer = test.cluster.create(&object(kind, "e2e-row", spec), true);
        table.row(
            &spec.to_string().chars().take(200).collect::<String>(),
            &answer,
            *refusal,
        );
    }
    table.finish();
}

#[test]
fn an_entry_of_addresses_is_a_cidr_a_range_or_an_address() {
    const FORM: &str = "is neither a CIDR";
    const MAPPED: &str = "is an IPv4-mapped IPv6 address; write it as IPv4";
    const HOST_BITS: &str = "has bits set outside its prefix";
    const REVERSED: &str = "ends before it begins";
    const NO_USE: &str = "is no use for Services";
    const LARGE: &str = "is too large: at the most a /8";
    let entries: &[(&str, Option<&str>)] = &[
        ("192.0.2.0/24", None),
        ("192.0.2.1/32", None),
        ("10.0.0.0/8", None),
        ("192.0.2.1", None),
        ("2001:db8::/64", None),
        ("fd00::/8", None),
        ("2001:DB8::1", None),
        ("192.0.2.1-192.0.2.9", None),
        ("192.0.2.1 - 192.0.2.9", None),
        ("192.0.2.1-192.0.2.1", None),
        ("192.0.2.255-192.0.3.0", None),
        ("9.255.255.255-10.0.0.0", None),
        ("100.0.0.1-200.0.0.1", None),
        ("2001:db8::1-2001:db8::2", None),
        ("2001:db8::ff-2001:db8::100", None),
        ("2001:db8:0:ffff::-2001:db8:1::", None),
        ("", Some("at least 1 chars long")),
        ("example.com", Some(FORM)),
        ("192.0.2.0/33", Some(FORM)),
        ("2001:db8::/129", Some(FORM)),
        ("192.0.2.01", Some(FORM)),
        ("192.0.2", Some(FORM)),
        (" 192.0.2.1", Some(FORM)),
        ("192.0.2.1-", Some(FORM)),
        ("-192.0.2.1", Some(FORM)),
        ("192.0.2.1-192.0.2.2-192.0.2.3", Some(FORM)),
        ("192.0.2.0/24-192.0.3.0/24", Some(FORM)),
        ("192.0.2.1,192.0.2.2", Some(FORM)),
        ("fe80::1%eth0", Some(FORM)),
        ("::ffff:192.0.2.1", Some(MAPPED)),
        ("0:0:0:0:0:ffff:c000:201", Some(MAPPED)),
        ("::ffff:192.0.2.0/120", Some(MAPPED)),
        ("::FFFF:192.0.2.1-::FFFF:192.0.2.2", Some(MAPPED)),
        ("192.0.2.1/24", Some(HOST_BITS)),
        ("2001:db8::1/64", Some(HOST_BITS)),
        ("192.0.2.9-192.0.2.1", Some(REVERSED)),
        ("192.0.3.0-192.0.2.255", Some(REVERSED)),
        ("200.0.0.1-100.0.0.1", Some(REVERSED)),
        ("2001:db8::100-2001:db8::ff", Some(REVERSED)),
        ("2001:db8:1::-2001:db8:0:ffff::", Some(REVERSED)),
        ("192.0.2.1-2001:db8::1", Some("mixes IPv4 and IPv6")),
        ("0.0.0.0/0", Some(LARGE)),
        ("::/0", Some(LARGE)),
        ("128.0.0.0/1", Some(LARGE)),
        ("0.0.0.0", Some(NO_USE)),
        ("127.0.0.0/8", Some(NO_USE)),
        ("169.254.1.0/24", Some(NO_USE)),
        ("224.0.0.1-224.0.0.9", Some(NO_USE)),
        ("255.255.255.255", Some(NO_USE)),
        ("::1", Some(NO_USE)),
        ("fe80::/64", Some(NO_USE)),
        ("ff02::1", Some(NO_USE)),
    ];
    let test = ApiOnly::new("entries");
    let mut table = Table::default();
    for (entry, refusal) in entries {
        // Second in the list, so that the place in the message can be seen to be right.
        for (field, spec) in [
            ("addresses", json!({"addresses": ["198.51.100.1", entry]})),
            (
                "reserved",
                json!({"addresses": ["198.51.100.1"], "reserved": ["198.51.100.1", entry]}),
            ),
        ] {
            let answer = test
                .cluster
                .create(&object("AddressPool", "e2e-row", &spec), true);
            table.row(&format!("{field} {entry:?}"), &answer, *refusal);
            if refusal.is_some() {
                let place = format!("spec.{field}[1]: Invalid value: \"{entry}\"");
                table.row(&format!("{field} {entry:?}: the place"), &answer, Some(&place));
            }
        }
    }
    table.finish();
}

pub fn largest_selector() -> Value {
    let labels: Vec<String> = (0..32).map(|n| format!("{n:0>63}")).collect();
    let requirement = |n: usize| json!({"key": format!("{}.example.com/k{n}", "a".repeat(60)), "operator": "In", "values": labels});
    json!({
        "matchLabels": (0..32).map(|n| (format!("label{n}"), json!("x".repeat(63)))).collect::<serde_json::Map<_, _>>(),
        "matchExpressions": (0..16).map(requirement).collect::<Vec<_>>(),
    })
}

#[test]
fn the_largest_pool_is_checked_within_the_api_servers_budget() {
    // The costliest entries: long texts whose ends differ in their last bits only.
    let long = |n: usize| {
        let address = |last: usize| format!("2001:0db8:ffff:ffff:ffff:ffff:ffff:{last:04x}");
        format!("{} - {}", address(8 * n), address(8 * n + 1))
    };
    let entries: Vec<String> = (0..256).map(long).collect();
    let names: Vec<String> = (0..256).map(|n| format!("{n:0>63}")).collect();
    let selector = largest_selector();
    let full = json!({
        "addresses": entries, "reserved": entries,
        "allocation": {"namespaces": names, "namespaceSelector": selector, "serviceSelector": selector},
        "externalIPs": {"policy": "Allow", "namespaces": names, "namespaceSelector": selector},
    });
    let mut more = full.clone();
    more["addresses"] = json!((0..257).map(long).collect::<Vec<_>>());
    let mut last_is_wrong = full.clone();
    last_is_wrong["reserved"][255] = json!("192.0.2.2-192.0.2.1");
    specs(
        "budget",
        "AddressPool",
        &[
            (full, None),
            (more, Some("must have at most 256 items")),
            (last_is_wrong, Some("spec.reserved[255]")),
        ],
    );
}

#[test]
fn the_largest_advertisement_is_checked_within_the_api_servers_budget() {
    let preference = |weight: i32| json!({"weight": weight, "preference": largest_selector()});
    // As many selectors as an object may be large.
    let full = json!({
        "nodeSelectors": vec![largest_selector(); 8],
        "serviceSelectors": vec![largest_selector(); 16],
        "preferredNodeSelectors": vec![preference(100); 16],
        "interfaces": vec!["!bond?.1*0-abcde"; 64],
        "preemptAfter": "23h59m59s999ms",
        "conflictPolicy": "Yield",
    });
    let mut last_is_wrong = full.clone();
    last_is_wrong["preferredNodeSelectors"][15] = preference(101);
    specs(
        "advertisement-budget",
        "L2Advertisement",
        &[
            (full, None),
            (last_is_wrong, Some("spec.preferredNodeSelectors[15].weight")),
        ],
    );
}

#[test]
fn pools() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"addresses": ["192.0.2.0/24"]});
        spec[field] = value;
        spec
    };
    let selector = |value: Value| with("allocation", json!({"namespaceSelector": value}));
    let requirement = |value: Value| selector(json!({"matchExpressions": [value]}));
    specs(
        "pools",
        "AddressPool",
        &[
            (with("autoAssign", json!(false)), None),
            (with("avoidBuggyIPs", json!(true)), None),
            (with("onRemove", json!("Reassign")), None),
            (with("allocation", json!({})), None),
            (
                with("allocation", json!({"priority": 0, "namespaces": ["a", "b-1"]})),
                None,
            ),
            (
                selector(json!({"matchLabels": {"example.com/team": "Blue_1.x", "empty": ""}})),
                None,
            ),
            (
                requirement(json!({"key": "zone", "operator": "In", "values": ["a", "b"]})),
                None,
            ),
            (
                requirement(json!({"key": "zone", "operator": "NotIn", "values": ["a"]})),
                None,
            ),
            (requirement(json!({"key": "zone", "operator": "Exists"})), None),
            (
                requirement(json!({"key": "zone", "operator": "DoesNotExist", "values": []})),
                None,
            ),
            (with("externalIPs", json!({})), None),
            (
                with("externalIPs", json!({"policy": "Deny", "namespaces": []})),
                None,
            ),
            (with("externalIPs", json!({"policy": "Allow"})), None),
            (
                with(
                    "externalIPs",
                    json!({"policy": "Allow", "namespaces": ["a"], "namespaceSelector": {}}),
                ),
                None,
            ),
            (json!({}), Some("spec.addresses: Required value")),
            (
                with("addresses", json!([])),
                Some("at least one address is needed"),
            ),
            (
                with("addresses", json!("192.0.2.0/24")),
                Some("must be of type array"),
            ),
            (
                with("addresses", json!(["x".repeat(101)])),
                Some("may not be more than 100 bytes"),
            ),
            (with("autoAssign", json!("yes")), Some("must be of type boolean")),
            (
                with("onRemove", json!("Drop")),
                Some("supported values: \"Keep\", \"Reassign\""),
            ),
            (
                with("allocation", json!({"priority": -1})),
                Some("should be greater than or equal to 0"),
            ),
            (
                with("allocation", json!({"priority": 1_000_001})),
                Some("should be less than or equal to 1000000"),
            ),
            (
                with("allocation", json!({"namespaces": ["Blue"]})),
                Some("\"Blue\" is not the name of a namespace"),
            ),
            (
                with("allocation", json!({"namespaces": ["a.b"]})),
                Some("\"a.b\" is not the name of a namespace"),
            ),
            (
                with("allocation", json!({"namespaces": ["x".repeat(64)]})),
                Some("may not be more than 63 bytes"),
            ),
            (
                selector(json!({"matchLabels": {"a": "-x"}})),
                Some("\"-x\" cannot be the value of a label"),
            ),
            (
                selector(json!({"matchLabels": {"a": 1}})),
                Some("must be of type string"),
            ),
            (
                requirement(json!({"key": "zone", "operator": "Is", "values": ["a"]})),
                Some("supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\""),
            ),
            (
                requirement(json!({"key": "zone", "operator": "In"})),
                Some("operator In of \"zone\" needs values"),
            ),
            (
                requirement(json!({"key": "zone", "operator": "NotIn", "values": []})),
                Some("operator NotIn of \"zone\" needs values"),
            ),
            (
                requirement(json!({"key": "zone", "operator": "Exists", "values": ["a"]})),
                Some("operator Exists of \"zone\" takes no values"),
            ),
            (
                requirement(json!({"key": "a b", "operator": "Exists"})),
                Some("\"a b\" cannot be the name of a label"),
            ),
            (
                requirement(json!({"key": "zone", "operator": "In", "values": ["a b"]})),
                Some("\"a b\" cannot be the value of a label"),
            ),
            (
                with(
                    "allocation",
                    json!({"serviceSelector": {"matchExpressions": [{"key": "zone", "operator": "In"}]}}),
                ),
                Some("spec.allocation.serviceSelector.matchExpressions[0]"),
            ),
            (
                with("externalIPs", json!({"policy": "allow"})),
                Some("supported values: \"Deny\", \"Allow\""),
            ),
            (
                with("externalIPs", json!({"namespaces": ["a"]})),
                Some("they need policy Allow"),
            ),
            (
                with("externalIPs", json!({"policy": "Deny", "namespaceSelector": {}})),
                Some("they need policy Allow"),
            ),
            (
                with("externalIPs", json!({"policy": "Allow", "namespaces": ["_"]})),
                Some("is not the name of a namespace"),
            ),
        ],
    );
    let test = ApiOnly::new("pool-names");
    let mut table = Table::default();
    for (name, refusal) in [
        ("blue-1.example", None),
        ("192.0.2.1", Some("must not be named like an address")),
        ("Blue", Some("RFC 1123 subdomain")),
    ] {
        let pool = object("AddressPool", name, &json!({"addresses": ["192.0.2.0/24"]}));
        table.row(name, &test.cluster.create(&pool, true), refusal);
    }
    table.finish();
}

#[test]
fn advertisements() {
    let nodes = |selector: Value| json!({"nodeSelectors": [{}, selector]});
    specs(
        "advertisements",
        "L2Advertisement",
        &[
            (json!({}), None),
            (
                json!({"addressPools": ["blue", "green.example"], "interfaces": ["eth0", "bond0.100"]}),
                None,
            ),
            (nodes(json!({"matchLabels": {"zone": "a"}})), None),
            (
                nodes(json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]})),
                None,
            ),
            (
                json!({"addressPools": ["Blue"]}),
                Some("\"Blue\" is not the name of an AddressPool"),
            ),
            (json!({"addressPools": [""]}), Some("at least 1 chars long")),
            (json!({"addressPools": "blue"}), Some("must be of type array")),
            (
                json!({"interfaces": ["a/b"]}),
                Some("\"a/b\" is neither the name of a network interface nor a pattern"),
            ),
            (
                json!({"interfaces": ["eth 0"]}),
                Some("\"eth 0\" is neither the name of a network interface nor a pattern"),
            ),
            (
                json!({"interfaces": [".."]}),
                Some("\"..\" is neither the name of a network interface nor a pattern"),
            ),
            (
                json!({"interfaces": ["sixteen-letters-"]}),
                Some("\"sixteen-letters-\" is neither the name of a network interface nor a pattern"),
            ),
            (
                json!({"interfaces": ["!sixteen-letters-"]}),
                Some("may not be more than 16 bytes"),
            ),
            (
                nodes(json!({"matchExpressions": [{"key": "zone", "operator": "In"}]})),
                Some("spec.nodeSelectors[1].matchExpressions[0]"),
            ),
            (
                nodes(json!({"matchLabels": {"zone": "a b"}})),
                Some("\"a b\" cannot be the value of a label"),
            ),
            (
                json!({"nodeSelectors": vec![json!({}); 65]}),
                Some("must have at most 64 items"),
            ),
        ],
    );
}

#[test]
fn preferences_patterns_and_policies_of_advertisements() {
    const PATTERN: &str = "is neither the name of a network interface nor a pattern";
    const DURATION: &str = "is not a duration like 300ms, 2s or 1m30s, nor Never";
    let rack = || json!({"matchLabels": {"rack": "a"}});
    // Second in the list, so that the place in the message can be seen to be right.
    let interface = |entry: &str| json!({"interfaces": ["eth0", entry]});
    let prefer = |weight: Value, preference: Value| {
        let first = json!({"weight": 1, "preference": {}});
        json!({"preferredNodeSelectors": [first, {"weight": weight, "preference": preference}]})
    };
    let after = |text: Value| json!({"preemptAfter": text});
    let mut rows: Vec<(Value, Option<&str>)> = vec![
        (prefer(json!(100), rack()), None),
        (prefer(json!(0), rack()), Some("greater than or equal to 1")),
        (prefer(json!(101), rack()), Some("less than or equal to 100")),
        (prefer(json!("5"), rack()), Some("must be of type integer")),
        (
            prefer(
                json!(5),
                json!({"matchExpressions": [{"key": "rack", "operator": "In"}]}),
            ),
            Some("spec.preferredNodeSelectors[1].preference.matchExpressions[0]"),
        ),
        (
            json!({"preferredNodeSelectors": [{"weight": 5}]}),
            Some("spec.preferredNodeSelectors[0].preference: Required value"),
        ),
        (
            json!({"preferredNodeSelectors": [{"preference": {}}]}),
            Some("spec.preferredNodeSelectors[0].weight: Required value"),
        ),
        (
            json!({"preferredNodeSelectors": vec![json!({"weight": 1, "preference": {}}); 17]}),
            Some("must have at most 16 items"),
        ),
        (json!({"serviceSelectors": [rack(), {}]}), None),
        (
            json!({"serviceSelectors": [{}, {"matchLabels": {"rack": "a b"}}]}),
            Some("spec.serviceSelectors[1].matchLabels[rack]"),
        ),
        (
            json!({"serviceSelectors": vec![json!({}); 17]}),
            Some("must have at most 16 items"),
        ),
        (json!({"conflictPolicy": "Defend"}), None),
        (json!({"conflictPolicy": "Yield"}), None),
        (
            json!({"conflictPolicy": "Ignore"}),
            Some("supported values: \"Defend\", \"Yield\""),
        ),
        (after(json!(5)), Some("must be of type string")),
        (after(json!("25h")), Some("\"25h\" is not between 0s and 24h")),
    ];
    for text in [
        "eth*",
        "bond?.10",
        "!eth1",
        "!veth*",
        "*",
        "!fifteen-letters",
        "eth0@if3",
    ] {
        rows.push((interface(text), None));
    }
    for text in [
        "!", "!!eth0", "!..", ".", "eth0:1", "eth[0-9]", "{eth0}", "a/*", "! eth0",
    ] {
        rows.push((interface(text), Some(PATTERN)));
    }
    for text in ["0s", "300ms", "5m", "1m30s", "24h", "Never"] {
        rows.push((after(json!(text)), None));
    }
    for text in ["", "5", "never", "-1s", "1.5m", "1 m", "1d", "soon"] {
        rows.push((after(json!(text)), Some(DURATION)));
    }
    specs("preferences", "L2Advertisement", &rows);
}

#[test]
fn the_health_of_pools() {
    let health = |value: Value| json!({"addresses": ["192.0.2.0/24"], "health": value});
    let both = |interval: &str, timeout: &str| health(json!({"interval": interval, "timeout": timeout}));
    let mut rows: Vec<(Value, Option<&str>)> = vec![
        (health(json!({})), None),
        (
            health(
                json!({"interval": "1s", "timeout": "400ms", "failureThreshold": 1, "successThreshold": 100}),
            ),
            None,
        ),
        (both("500ms", "500ms"), None),
        (both("1m", "60s"), None),
        (
            both("1s", "1001ms"),
            Some("timeout must not be longer than interval"),
        ),
        (both("soon", "1s"), Some("spec.health.interval")),
        (health(json!({"interval": 1})), Some("must be of type string")),
    ];
    for (text, piece) in [
        ("99ms", "\"99ms\" is not between 100ms and 60s"),
        ("61s", "\"61s\" is not between 100ms and 60s"),
        ("", "is not a duration like"),
        ("1", "\"1\" is not a duration like"),
        ("1.5s", "\"1.5s\" is not a duration like"),
        ("1 s", "\"1 s\" is not a duration like"),
    ] {
        rows.push((health(json!({"interval": text})), Some(piece)));
    }
    for (text, piece) in [
        ("50ms", None),
        ("49ms", Some("\"49ms\" is not between 50ms and 60s")),
        ("2m", Some("\"2m\" is not between 50ms and 60s")),
    ] {
        rows.push((health(json!({"timeout": text})), piece));
    }
    for field in ["failureThreshold", "successThreshold"] {
        for (count, piece) in [
            (json!(0), "greater than or equal to 1"),
            (json!(-1), "greater than or equal to 1"),
            (json!(101), "less than or equal to 100"),
            (json!("2"), "must be of type integer"),
        ] {
            let mut value = json!({});
            value[field] = count;
            rows.push((health(value), Some(piece)));
        }
    }
    specs("health", "AddressPool", &rows);
}

#[test]
fn node_states() {
    let test = ApiOnly::new("node-states");
    let path = "/apis/fairlead.dev/v1alpha1/nodestates/e2e-row";
    test.cluster
        .apply(&object("NodeState", "e2e-row", &json!({})))
        .unwrap();
    let mut table = Table::default();
    for (status, refusal) in [
        (
            json!({"subnets": ["192.0.2.0/24"], "gateways": ["192.0.2.1", "fe80::1"]}),
            None,
        ),
        (
            json!({"subnets": vec!["192.0.2.0/24"; 65]}),
            Some("must have at most 64 items"),
        ),
        (
            json!({"gateways": vec!["192.0.2.1"; 65]}),
            Some("must have at most 64 items"),
        ),
        (json!({"gateways": [1]}), Some("must be of type string")),
    ] {
        let answer = test
            .cluster
            .patch(&format!("{path}/status?dryRun=All"), &json!({"status": status}));
        table.row(&status.to_string(), &answer, refusal);
    }
    test.cluster.delete(path).unwrap();
    table.finish();
}
