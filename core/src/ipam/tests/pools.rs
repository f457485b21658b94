//! Pools: whom they are for, how they are counted, and what becomes of addresses when they change.

use super::*;
use crate::config::{Access, Allocation, OnRemove};
use crate::model::Family;
use crate::selector::{Requirement, Selector};

fn priority(priority: u32, pool: RawPool) -> RawPool {
    let allocation = Allocation {
        priority,
        ..pool.allocation.clone().unwrap()
    };
    RawPool {
        allocation: Ok(allocation),
        ..pool
    }
}

fn for_namespaces(namespaces: &[&str], pool: RawPool) -> RawPool {
    let mut allocation = pool.allocation.clone().unwrap();
    allocation.access.namespaces = namespaces.iter().map(|n| (*n).to_owned()).collect();
    RawPool {
        allocation: Ok(allocation),
        ..pool
    }
}

fn label(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

#[test]
fn new_services_get_the_lowest_free_address_in_order_of_age_then_name() {
    let rules = rules(&[
        pool("b", &["192.0.2.0/31"]),
        pool("a", &["198.51.100.9", "198.51.100.3"]),
    ]);
    let aged = |name: &str, created| Service {
        created,
        ..service(name)
    };
    let services = [aged("young", 9), aged("z", 1), aged("y", 1), aged("last", 10)];
    let ledger = ledger_of(rules, &services);
    for (name, expected) in [
        ("y", "198.51.100.3/a"),
        ("z", "198.51.100.9/a"),
        ("young", "192.0.2.0/b"),
        ("last", "192.0.2.1/b"),
    ] {
        assert_eq!(told(&ledger, name), expected);
    }
    for name in ["a", "b"] {
        let usage = ledger.pool(name).v4.unwrap();
        assert_eq!(
            (usage.total, usage.assigned, usage.available),
            (2, 2, 0),
            "{name}"
        );
    }
}

#[test]
fn the_order_of_pools_is_priority_then_those_for_some_then_the_name() {
    let one = |name: &str, n: u8| pool(name, &[&format!("192.0.2.{n}/32")]);
    let some = |pool| for_namespaces(&["default"], pool);
    let rules = rules(&[
        priority(2, one("a", 1)),
        priority(1, one("b", 2)),
        priority(1, one("c", 3)),
        priority(1, some(one("d", 4))),
        priority(3, some(one("e", 5))),
        priority(0, for_namespaces(&["other"], one("f", 6))),
        priority(
            0,
            RawPool {
                auto_assign: false,
                ..one("g", 7)
            },
        ),
    ]);
    let services: Vec<Service> = (0..6).map(|n| service(&format!("s{n}"))).collect();
    let plan = plan_of(rules, &services);
    let all: Vec<String> = (0..6).map(|n| shown(&plan, &format!("s{n}"))).collect();
    let expected = [
        "192.0.2.4/d",
        "192.0.2.2/b",
        "192.0.2.3/c",
        "192.0.2.1/a",
        "192.0.2.5/e",
        "PoolExhausted",
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_pool_is_for_namespaces_and_services() {
    let selector = |key: &str, value: &str| {
        let requirement = Requirement::In(key.to_owned(), vec![value.to_owned()]);
        Some(Selector(vec![requirement]))
    };
    let with = |namespaces: &[&str], by_label: Option<Selector>, services: Option<Selector>| {
        let allocation = Allocation {
            access: Access {
                namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
                selector: by_label,
            },
            services,
            ..Allocation::default()
        };
        rules(&[RawPool {
            allocation: Ok(allocation),
            ..pool("a", &["192.0.2.0/24"])
        }])
        .with_namespaces([("default".to_owned(), label("team", "x"))].into())
    };
    let gold = || Service {
        labels: label("tier", "gold"),
        ..service("s")
    };
    for (rules, allowed) in [
        (with(&[], None, None), true),
        (with(&["default"], None, None), true),
        (with(&["other"], None, None), false),
        (with(&["other"], selector("team", "x"), None), true),
        (with(&[], selector("team", "y"), None), false),
        (with(&[], None, selector("tier", "gold")), true),
        (with(&["default"], None, selector("tier", "tin")), false),
        (with(&["other"], None, selector("tier", "gold")), false),
    ] {
        let expected = |word: &'static str| if allowed { "192.0.2.0/a" } else { word };
        let plan = plan_of(rules.clone(), &[gold()]);
        assert_eq!(shown(&plan, "s"), expected("NoPool"));
        let plan = plan_of(rules.clone(), &[from_pools("a", gold())]);
        assert_eq!(shown(&plan, "s"), expected("PoolNotAllowed"));
        let plan = plan_of(rules.clone(), &[wishing("192.0.2.0", gold())]);
        assert_eq!(shown(&plan, "s"), expected("PoolNotAllowed"));
        // Who has an address keeps it.
        let held = Service {
            labels: label("tier", "gold"),
            ..holding("s", &["192.0.2.0"], 1)
        };
        let note = if allowed { "" } else { "!PoolNotAllowed" };
        assert_eq!(shown(&plan_of(rules, &[held]), "s"), format!("192.0.2.0/a{note}"));
    }
}

#[test]
fn a_live_address_survives_its_pool_and_a_node_that_took_it() {
    let held = || holding("s", &["192.0.2.1"], 1);
    let elsewhere = || pool("b", &["198.51.100.0/24"]);
    let shrunk = |on_remove| RawPool {
        published: vec!["192.0.2.0/24".into()],
        on_remove,
        ..pool("a", &["192.0.2.128/25"])
    };
    let going = |on_remove| RawPool {
        deleting: true,
        ..shrunk(on_remove)
    };
    use OnRemove::{Keep, Reassign};
    for (pools, service, expected) in [
        (vec![elsewhere()], held(), "192.0.2.1/a!NotOwned"),
        (vec![], held(), "192.0.2.1/a!NotOwned"),
        // The wish can be met elsewhere, so it is.
        (
            vec![elsewhere()],
            wishing("198.51.100.7", held()),
            "198.51.100.7/b",
        ),
        // The pool has another name now; the record follows.
        (vec![pool("new", &["192.0.2.0/24"])], held(), "192.0.2.1/new"),
        (vec![shrunk(Keep)], held(), "192.0.2.1/a!Retained"),
        (vec![shrunk(Reassign)], held(), "192.0.2.128/a"),
        (vec![going(Keep), elsewhere()], held(), "192.0.2.1/a!Retained"),
        (vec![going(Reassign), elsewhere()], held(), "198.51.100.0/b"),
        (vec![going(Reassign)], held(), "192.0.2.1/a!NoPool"),
        (vec![going(Keep)], service("s"), "NoPool"),
        (vec![going(Keep)], from_pools("a", service("s")), "UnknownPool"),
        (
            vec![going(Keep)],
            wishing("192.0.2.1", service("s")),
            "AddressNotInPool",
        ),
    ] {
        let plan = plan_of(rules(&pools), std::slice::from_ref(&service));
        assert_eq!(shown(&plan, "s"), expected, "{pools:?}");
    }
    let taken = with_node(rules(&[pool("a", &["192.0.2.0/24"])]), &["192.0.2.1"]);
    assert_eq!(
        shown(&plan_of(taken, &[held()]), "s"),
        "192.0.2.1/a!AddressReserved"
    );
}

#[test]
fn a_pool_is_held_until_nobody_names_its_addresses() {
    let going = RawPool {
        deleting: true,
        on_remove: OnRemove::Reassign,
        published: vec!["192.0.2.0/29".into()],
        ..pool("a", &["192.0.2.0/29"])
    };
    let b = pool("b", &["198.51.100.0/24"]);
    let services: Vec<Service> = (0..7)
        .map(|n| holding(&format!("s{n}"), &[&format!("192.0.2.{n}")], 1))
        .collect();
    let mut ledger = ledger_of(rules(&[going, b]), &services);
    assert_eq!(told(&ledger, "s6"), "198.51.100.6/b");
    let state = ledger.pool("a");
    assert_eq!((state.retained.len(), state.holders.len()), (7, 5), "{state:?}");
    assert_eq!(state.holders[0], ServiceKey::new("default", "s0"));
    for n in 0..7 {
        let moved = holding(&format!("s{n}"), &[&format!("198.51.100.{n}")], 2);
        let before = ip(&format!("192.0.2.{n}"));
        ledger.set(Arc::new(moved.clone()), vec![before]);
        ledger.settle();
        assert!(
            ledger.pool("a").retained.contains(&before),
            "the write is not seen yet"
        );
        ledger.set(Arc::new(moved), vec![]);
        ledger.settle();
        assert_eq!(ledger.pool("a").retained.len(), 6 - n);
    }
    assert_eq!(ledger.pool("a"), PoolState::default());
    let usage = ledger.pool("b").v4.unwrap();
    assert_eq!((usage.assigned, usage.available), (7, 249));
}

#[test]
fn a_pool_that_was_set_aside_reserves_nothing() {
    let overlapping = RawPool {
        created: 9,
        reserved: vec!["192.0.2.0/30".into()],
        ..pool("b", &["192.0.2.0/24"])
    };
    let plan = plan_of(
        rules(&[pool("a", &["192.0.2.0/29"]), overlapping]),
        &[service("s")],
    );
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a");
}

#[test]
fn counts_saturate_and_huge_pools_cost_nothing() {
    let rules = rules(&[
        pool("everything", &["1.0.0.0/8"]),
        pool("six", &["2001:db8::/32"]),
    ]);
    let services: Vec<Service> = (0..5_000).map(|n| service(&format!("s{n:04}"))).collect();
    let ledger = ledger_of(rules, &services);
    assert_eq!(told(&ledger, "s4999"), "1.0.19.135/everything");
    let usage = ledger.pool("everything").v4.unwrap();
    assert_eq!((usage.total, usage.available), (1 << 24, (1 << 24) - 5_000));
    let usage = ledger.pool("six").v6.unwrap();
    assert_eq!((usage.total, usage.available), (i64::MAX as u64, i64::MAX as u64));
    assert_eq!(ledger.pool("six").v4, None);
}

#[test]
fn the_last_address_of_a_family_is_the_end() {
    let at_the_end = |address: &str| rules(&[pool("a", &[address])]);
    let six = Service {
        families: vec![Family::V6],
        ..service("s")
    };
    let plan = plan_of(at_the_end("223.255.255.255/32"), &[service("s"), service("t")]);
    assert_eq!(shown(&plan, "s"), "223.255.255.255/a");
    assert_eq!(shown(&plan, "t"), "PoolExhausted");
    let end = "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let plan = plan_of(at_the_end(end), &[six]);
    assert_eq!(shown(&plan, "s"), format!("{end}/a"));
}

#[test]
fn changed_rules_tell_every_decision_that_is_another_one() {
    let mut ledger = ledger_of(
        rules(&[pool("a", &["192.0.2.0/31"])]),
        &[
            holding("x", &["192.0.2.0"], 1),
            holding("y", &["192.0.2.1"], 1),
            service("z"),
        ],
    );
    let keys = |names: &[&str]| -> BTreeSet<ServiceKey> {
        names.iter().map(|n| ServiceKey::new("default", *n)).collect()
    };
    ledger.change_rules(rules(&[
        pool("a", &["192.0.2.0/31"]),
        pool("b", &["198.51.100.0/32"]),
    ]));
    assert_eq!(ledger.settle(), keys(&["z"]));
    ledger.change_rules(with_node(rules(&[pool("a", &["192.0.2.0/31"])]), &["192.0.2.1"]));
    assert_eq!(ledger.settle(), keys(&["y", "z"]));
    assert_eq!(told(&ledger, "y"), "192.0.2.1/a!AddressReserved");
    let usage = ledger.pool("a").v4.unwrap();
    assert_eq!((usage.total, usage.assigned, usage.available), (1, 2, 0));
    assert_eq!(ledger.pool("b"), PoolState::default());
    ledger.change_rules(with_node(rules(&[pool("a", &["192.0.2.0/31"])]), &["192.0.2.1"]));
    assert_eq!(ledger.settle(), keys(&[]));
}
