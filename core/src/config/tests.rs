use super::*;

mod bgp;
use crate::selector::Selector;
use std::time::Duration;

fn pool(name: &str, created: i64, addresses: &[&str]) -> RawPool {
    RawPool {
        name: name.into(),
        created,
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        ..RawPool::default()
    }
}

fn advertisement(name: &str, pools: &[&str]) -> RawAdvertisement {
    RawAdvertisement {
        name: name.into(),
        pools: pools.iter().map(|p| (*p).to_owned()).collect(),
        ..RawAdvertisement::default()
    }
}

#[test]
fn the_older_of_two_overlapping_pools_stays_whatever_the_order() {
    let old = pool("z-old", 1, &["192.0.2.0/24"]);
    let new = pool("a-new", 2, &["192.0.2.128/25"]);
    let bad = pool("bad", 0, &["192.0.2.0/99"]);
    for order in [[&old, &new, &bad], [&bad, &new, &old], [&new, &old, &bad]] {
        let raw: Vec<RawPool> = order.into_iter().cloned().collect();
        let compiled = compile(&Written::new(&raw, &[]));
        assert_eq!(compiled.config.pools.keys().collect::<Vec<_>>(), ["z-old"]);
        let verdict = |name: &str| compiled.verdicts[&ConfigObject::Pool(name.into())].clone();
        assert_eq!(verdict("z-old").reason, Reason::Accepted);
        assert_eq!(verdict("bad").reason, Reason::InvalidAddress);
        assert_eq!(verdict("a-new").reason, Reason::OverlappingPool);
        assert!(
            verdict("a-new").message.contains("z-old"),
            "{:?}",
            verdict("a-new")
        );
    }
}

#[test]
fn an_advertisement_of_an_unknown_pool_is_reported_and_still_serves_its_others() {
    let compiled = compile(&Written::new(
        &[pool("a", 1, &["192.0.2.0/24"])],
        &[advertisement("x", &["a", "b"]), advertisement("y", &[])],
    ));
    let verdict = &compiled.verdicts[&ConfigObject::Advertisement("x".into())];
    assert_eq!(verdict.reason, Reason::UnknownPool);
    assert!(verdict.message.ends_with(" b"), "{verdict:?}");
    assert_eq!(compiled.config.advertisements_of("a").count(), 2);
    assert_eq!(
        compiled
            .config
            .pool_of("192.0.2.9".parse().unwrap())
            .unwrap()
            .name,
        "a"
    );
}

#[test]
fn an_unreadable_selector_sets_the_advertisement_aside() {
    let raw = RawAdvertisement {
        nodes: Err("operator \"Like\" is unknown".into()),
        ..advertisement("x", &[])
    };
    let compiled = compile(&Written::new(&[], &[raw]));
    assert!(compiled.config.advertisements.is_empty());
    assert_eq!(
        compiled.verdicts[&ConfigObject::Advertisement("x".into())].reason,
        Reason::InvalidSelector
    );
}

#[test]
fn an_advertisement_without_fields_has_the_defaults() {
    let compiled = compile(&Written::new(&[], &[advertisement("x", &[])]));
    let checked = &compiled.config.advertisements["x"];
    assert_eq!(checked.preempt_after, Some(Duration::from_secs(300)));
    assert_eq!(checked.conflict, ConflictPolicy::Defend);
    assert!(!checked.interfaces.is_explicit());
    assert_eq!(checked.weight(&BTreeMap::new()), 0);
}

#[test]
fn a_field_that_cannot_be_read_sets_the_advertisement_aside_and_no_other() {
    let base = || advertisement("bad", &[]);
    let preferring = |weight| {
        let nodes = Selector::default();
        Ok(vec![
            Preference {
                weight: 1,
                nodes: nodes.clone(),
            },
            Preference { weight, nodes },
        ])
    };
    let interfaces = |entry: &str| vec!["eth0".to_owned(), entry.to_owned()];
    let after = |text: &str| Some(text.to_owned());
    let table = [
        (
            RawAdvertisement {
                interfaces: interfaces("a/b"),
                ..base()
            },
            "spec.interfaces[1]: \"a/b\"",
        ),
        (
            RawAdvertisement {
                interfaces: interfaces("!"),
                ..base()
            },
            "spec.interfaces[1]: \"!\"",
        ),
        (
            RawAdvertisement {
                preempt_after: after("later"),
                ..base()
            },
            "spec.preemptAfter: \"later\"",
        ),
        (
            RawAdvertisement {
                preempt_after: after("never"),
                ..base()
            },
            "spec.preemptAfter: \"never\"",
        ),
        (
            RawAdvertisement {
                preempt_after: after("25h"),
                ..base()
            },
            "spec.preemptAfter: \"25h\"",
        ),
        (
            RawAdvertisement {
                preferred: preferring(0),
                ..base()
            },
            "spec.preferredNodeSelectors[1].weight: 0",
        ),
        (
            RawAdvertisement {
                preferred: preferring(101),
                ..base()
            },
            "spec.preferredNodeSelectors[1].weight: 101",
        ),
        (
            RawAdvertisement {
                preferred: Err("[0]: odd".into()),
                ..base()
            },
            "spec.preferredNodeSelectors: [0]: odd",
        ),
        (
            RawAdvertisement {
                services: Err("odd".into()),
                ..base()
            },
            "spec.serviceSelectors: odd",
        ),
    ];
    for (raw, expected) in table {
        let compiled = compile(&Written::new(&[], &[raw, advertisement("good", &[])]));
        assert_eq!(
            compiled.config.advertisements.keys().collect::<Vec<_>>(),
            ["good"]
        );
        let verdict = &compiled.verdicts[&ConfigObject::Advertisement("bad".into())];
        assert!([Reason::InvalidField, Reason::InvalidSelector].contains(&verdict.reason));
        assert!(verdict.message.starts_with(expected), "{verdict:?}");
    }
}

#[test]
fn matching_preferences_add_up() {
    use crate::selector::Requirement;
    let with = |weight, label: &str| Preference {
        weight,
        nodes: Selector(vec![Requirement::Exists(label.into())]),
    };
    let raw = RawAdvertisement {
        preferred: Ok(vec![with(10, "a"), with(100, "b"), with(7, "a")]),
        preempt_after: Some("Never".into()),
        ..advertisement("x", &[])
    };
    let checked = &compile(&Written::new(&[], &[raw])).config.advertisements["x"];
    let labels = |names: &[&str]| {
        names
            .iter()
            .map(|name| ((*name).to_owned(), String::new()))
            .collect()
    };
    assert_eq!(checked.weight(&labels(&["a"])), 17);
    assert_eq!(checked.weight(&labels(&["a", "b"])), 117);
    assert_eq!(checked.preempt_after, None);
    let endless = Advertisement {
        preferred: vec![with(i32::MAX, "a"), with(1, "a")],
        ..checked.clone()
    };
    assert_eq!(endless.weight(&labels(&["a"])), i32::MAX);
}

#[test]
fn a_pool_whose_health_cannot_be_read_is_set_aside() {
    let with = |interval: &str| RawPool {
        health: RawHealth {
            interval: Some(interval.into()),
            ..RawHealth::default()
        },
        ..pool("a", 1, &["192.0.2.0/24"])
    };
    let compiled = compile(&Written::new(&[with("1s")], &[]));
    assert_eq!(
        compiled.config.pools["a"].health.interval,
        Some(Duration::from_secs(1))
    );
    let compiled = compile(&Written::new(&[with("1ms")], &[]));
    assert!(compiled.config.pools.is_empty());
    let verdict = &compiled.verdicts[&ConfigObject::Pool("a".into())];
    assert_eq!(verdict.reason, Reason::InvalidField);
    assert!(
        verdict.message.starts_with("spec.health.interval: \"1ms\""),
        "{verdict:?}"
    );
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_the_status_retains_belongs_to_the_pool_and_is_not_given_away() {
    let shrunk = RawPool {
        published: vec!["192.0.2.0/24".into()],
        retained: vec!["198.51.100.7".into(), "unreadable".into()],
        ..pool("a", 1, &["192.0.2.0/25"])
    };
    let deleted = RawPool {
        deleting: true,
        retained: vec!["203.0.113.1".into()],
        ..pool("b", 2, &["203.0.113.0/24"])
    };
    let successor = pool("c", 3, &["203.0.113.0/29"]);
    let compiled = compile(&Written::new(
        &[shrunk, deleted, successor],
        &[advertisement("x", &["b"])],
    ));
    let pool_of = |text: &str| compiled.config.pool_of(ip(text)).map(|pool| pool.name.as_str());
    assert_eq!(pool_of("192.0.2.1"), Some("a"));
    assert_eq!(
        pool_of("192.0.2.200"),
        Some("a"),
        "published and not yet taken back"
    );
    assert_eq!(pool_of("198.51.100.7"), Some("a"));
    assert_eq!(
        pool_of("203.0.113.1"),
        Some("c"),
        "a spec comes before what is retained"
    );
    assert!(!compiled.config.pools["a"].contains(ip("192.0.2.200")));
    assert!(compiled.config.pools["b"].ranges.is_empty());
    let verdict = |object| compiled.verdicts[&object].reason;
    assert_eq!(verdict(ConfigObject::Pool("b".into())), Reason::InUse);
    assert_eq!(verdict(ConfigObject::Advertisement("x".into())), Reason::Accepted);
}

#[test]
fn a_deleted_pool_that_retains_nothing_is_gone() {
    let deleted = RawPool {
        deleting: true,
        ..pool("b", 2, &["203.0.113.0/24"])
    };
    let compiled = compile(&Written::new(&[deleted, pool("c", 3, &["203.0.113.0/29"])], &[]));
    assert_eq!(compiled.config.pools.keys().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn access_by_name_or_label() {
    use crate::selector::Requirement;
    let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
    let both = Access {
        namespaces: vec!["a".into()],
        selector: Some(Selector(vec![Requirement::Exists("team".into())])),
    };
    assert!(Access::default().allows("any", None));
    assert!(both.allows("a", None) && both.allows("b", Some(&labels)));
    assert!(!both.allows("b", None) && !both.allows("b", Some(&BTreeMap::new())));
}
