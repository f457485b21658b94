//! What Services ask for: addresses, and pools by name.

use super::*;
use crate::model::Family;
use crate::reason::Reason;

fn listing(addresses: &str, service: Service) -> Service {
    let wishes = Wishes {
        addresses: Some(addresses.into()),
        ..service.wishes.clone()
    };
    Service { wishes, ..service }
}

fn dual(service: Service) -> Service {
    Service {
        families: vec![Family::V4, Family::V6],
        ..service
    }
}

#[test]
fn every_refusal_has_its_reason() {
    let small = || with_node(rules(&[pool("a", &["192.0.2.0/31"])]), &["192.0.2.1"]);
    let none = || rules(&[]);
    let by_name_only = || {
        rules(&[RawPool {
            auto_assign: false,
            ..pool("a", &["192.0.2.0/24"])
        }])
    };
    let buggy = || {
        rules(&[RawPool {
            avoid_buggy: true,
            ..pool("a", &["192.0.2.0/24"])
        }])
    };
    let reserving = || {
        rules(&[RawPool {
            reserved: vec!["192.0.2.8/29".into()],
            ..pool("a", &["192.0.2.0/24"])
        }])
    };
    let six = Service {
        families: vec![Family::V6],
        ..service("s")
    };
    let familyless = Service {
        families: vec![],
        ..service("s")
    };
    for (rules, service, reason, says) in [
        (none(), service("s"), "NoPool", "no usable AddressPool"),
        (by_name_only(), service("s"), "NoPool", "by itself"),
        (
            rules(&[pool("six", &["2001:db8::/64"])]),
            service("s"),
            "NoAddressOfFamily",
            "IPv4",
        ),
        (small(), six, "NoAddressOfFamily", "IPv6"),
        (small(), familyless, "NoAddressOfFamily", "ipFamilies"),
        (small(), service("s"), "PoolExhausted", "in use (a)"),
        (small(), wishing("blue", service("s")), "InvalidRequest", "blue"),
        (
            small(),
            wishing("2001:db8::1", service("s")),
            "InvalidRequest",
            "IPv6",
        ),
        (
            small(),
            wishing("192.0.2.7", service("s")),
            "AddressNotInPool",
            "192.0.2.7",
        ),
        (
            small(),
            from_pools("b", wishing("192.0.2.1", service("s"))),
            "AddressNotInPool",
            "asks for b",
        ),
        (
            small(),
            wishing("192.0.2.0", service("s")),
            "AddressInUse",
            "default/holder",
        ),
        (
            small(),
            wishing("192.0.2.1", service("s")),
            "AddressReserved",
            "node n",
        ),
        (
            buggy(),
            wishing("192.0.2.255", service("s")),
            "AddressReserved",
            "avoids",
        ),
        (
            reserving(),
            wishing("192.0.2.9", service("s")),
            "AddressReserved",
            "reserved by AddressPool a",
        ),
        (small(), from_pools("blue", service("s")), "UnknownPool", "blue"),
        (small(), from_pools(",", service("s")), "InvalidRequest", "empty"),
    ] {
        let plan = plan_of(rules, &[holding("holder", &["192.0.2.0"], 1), service]);
        assert_eq!(shown(&plan, "s"), reason);
        assert!(
            message(&plan, "s").contains(says),
            "{reason}: {}",
            message(&plan, "s")
        );
    }
}

#[test]
fn addresses_that_no_host_can_have_are_reserved() {
    let everything = || rules(&[pool("a", &["0.0.0.0/0", "::/0"])]);
    for (address, what) in [
        ("0.0.0.1", "no address of a host"),
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::1", "no address of a host"),
        ("fe80::1", "link-local"),
        ("ff02::1", "multicast"),
    ] {
        let plan = plan_of(everything(), &[wishing(address, dual(service("s")))]);
        assert_eq!(shown(&plan, "s"), "AddressReserved", "{address}");
        assert!(message(&plan, "s").contains(what), "{}", message(&plan, "s"));
    }
}

#[test]
fn a_request_gets_that_address_or_none() {
    let rules = || rules(&[pool("a", &["192.0.2.0/29", "2001:db8::/64"])]);
    for (service, expected) in [
        (wishing(" 192.0.2.5 ", service("s")), "192.0.2.5/a"),
        (
            listing("192.0.2.5, 192.0.2.3", service("s")),
            "192.0.2.5/a+192.0.2.3/a",
        ),
        (listing("192.0.2.5,192.0.2.9", service("s")), "AddressNotInPool"),
        // The families' order comes first, then the order of the wish; a family that is not named gets any.
        (
            listing("2001:db8::7,192.0.2.5,2001:db8::6", dual(service("s"))),
            "192.0.2.5/a+2001:db8::7/a+2001:db8::6/a",
        ),
        (
            wishing("192.0.2.5", dual(service("s"))),
            "192.0.2.5/a+2001:db8::/a",
        ),
    ] {
        assert_eq!(
            shown(&plan_of(rules(), std::slice::from_ref(&service)), "s"),
            expected
        );
    }
}

#[test]
fn a_changed_request_renumbers_when_it_can_and_keeps_the_address_when_it_cannot() {
    let rules = || rules(&[pool("a", &["192.0.2.0/29"])]);
    let held = || holding("s", &["192.0.2.1"], 1);
    let services = |s: Service| [s, holding("other", &["192.0.2.2"], 1), service("waiting")];
    for (wish, expected) in [
        ("192.0.2.1", "192.0.2.1/a"),
        ("192.0.2.2", "192.0.2.1/a!AddressInUse"),
        ("nonsense", "192.0.2.1/a!InvalidRequest"),
        ("198.51.100.1", "192.0.2.1/a!AddressNotInPool"),
        ("0.0.0.0", "192.0.2.1/a!AddressNotInPool"),
        ("192.0.2.0", "192.0.2.0/a"),
    ] {
        let plan = plan_of(rules(), &services(wishing(wish, held())));
        assert_eq!(shown(&plan, "s"), expected, "{wish}");
        // What is given up is free only when the status no longer names it.
        let next = if wish == "192.0.2.0" {
            "192.0.2.3/a"
        } else {
            "192.0.2.0/a"
        };
        assert_eq!(shown(&plan, "waiting"), next, "{wish}");
    }
    // Of several addresses those stay that are still asked for; without a wish, the first.
    let two = || holding("s", &["192.0.2.5", "192.0.2.4"], 1);
    for (service, expected) in [
        (listing("192.0.2.4,192.0.2.5", two()), "192.0.2.4/a+192.0.2.5/a"),
        (listing("192.0.2.4", two()), "192.0.2.4/a"),
        (
            listing("192.0.2.4,192.0.2.2", two()),
            "192.0.2.5/a+192.0.2.4/a!AddressInUse",
        ),
        (two(), "192.0.2.5/a"),
    ] {
        assert_eq!(shown(&plan_of(rules(), &services(service)), "s"), expected);
    }
}

#[test]
fn a_pool_by_name_is_used_in_the_order_of_the_wish() {
    let named = |name: &str, addresses: &[&str]| RawPool {
        auto_assign: false,
        ..pool(name, addresses)
    };
    let rules = || {
        rules(&[
            named("b", &["192.0.2.0/32"]),
            named("c", &["198.51.100.0/32"]),
            pool("d", &["203.0.113.0/32"]),
        ])
    };
    let plan = plan_of(
        rules(),
        &[
            from_pools("c, b", service("s1")),
            from_pools("c,b", service("s2")),
            from_pools("x,c,b", service("s3")),
            service("s4"),
        ],
    );
    for (name, expected) in [
        ("s1", "198.51.100.0/c"),
        ("s2", "192.0.2.0/b"),
        ("s3", "PoolExhausted"),
        ("s4", "203.0.113.0/d"),
    ] {
        assert_eq!(shown(&plan, name), expected, "{name}");
    }
    // A changed wish moves the Service if it can; a wish that is gone moves nothing.
    let held = || holding("s", &["192.0.2.0"], 1);
    for (service, expected) in [
        (held(), "192.0.2.0/b"),
        (from_pools("b", held()), "192.0.2.0/b"),
        (from_pools("c", held()), "198.51.100.0/c"),
        (from_pools("x", held()), "192.0.2.0/b!UnknownPool"),
    ] {
        assert_eq!(shown(&plan_of(rules(), &[service]), "s"), expected);
    }
    let taken = holding("other", &["198.51.100.0"], 1);
    let plan = plan_of(rules(), &[from_pools("c", held()), taken]);
    assert_eq!(shown(&plan, "s"), "192.0.2.0/b!PoolExhausted");
}

#[test]
fn the_annotations_of_metallb_are_read_only_when_asked_to() {
    let service = Service {
        metallb: Wishes {
            addresses: Some("192.0.2.5".into()),
            ..Wishes::default()
        },
        ..service("s")
    };
    for (metallb, expected) in [(false, "192.0.2.0/a"), (true, "192.0.2.5/a")] {
        let class = ClassPolicy { metallb, ..DEFAULT };
        let config = compile(&Written::new(&[pool("a", &["192.0.2.0/29"])], &[])).config;
        let plan = plan_of(Rules::new(config, class), std::slice::from_ref(&service));
        assert_eq!(shown(&plan, "s"), expected);
    }
}

#[test]
fn what_is_asked_for_comes_when_it_becomes_free_and_the_reason_keeps_up() {
    let rules = rules(&[pool("a", &["192.0.2.0/29"])]);
    let asking = listing("192.0.2.5,192.0.2.9", service("s"));
    let mut ledger = ledger_of(rules, std::slice::from_ref(&asking));
    assert_eq!(told(&ledger, "s"), "AddressNotInPool");
    // The first address of the wish is taken now: that is the reason from now on.
    ledger.set(Arc::new(holding("other", &["192.0.2.5"], 1)), vec![]);
    ledger.settle();
    assert_eq!(told(&ledger, "s"), "AddressInUse");
    ledger.set(Arc::new(wishing("192.0.2.5", service("s"))), vec![]);
    ledger.settle();
    assert_eq!(told(&ledger, "s"), "AddressInUse");
    ledger.remove(&ServiceKey::new("default", "other"));
    assert_eq!(ledger.settle().len(), 1);
    assert_eq!(told(&ledger, "s"), "192.0.2.5/a");
}

#[test]
fn a_request_that_is_met_still_tells_what_is_wrong() {
    let held = || wishing("192.0.2.1", holding("s", &["192.0.2.1"], 1));
    let shrunk = |on_remove| RawPool {
        published: vec!["192.0.2.0/24".into()],
        on_remove,
        ..pool("a", &["192.0.2.128/25"])
    };
    use crate::config::OnRemove::{Keep, Reassign};
    for (rules, expected) in [
        (
            with_node(rules(&[pool("a", &["192.0.2.0/24"])]), &["192.0.2.1"]),
            Reason::AddressReserved,
        ),
        (rules(&[]), Reason::NotOwned),
        (rules(&[shrunk(Keep)]), Reason::Retained),
        // It asks for nothing but this address, so there is nowhere to go.
        (rules(&[shrunk(Reassign)]), Reason::AddressNotInPool),
    ] {
        let plan = plan_of(rules, &[held()]);
        assert_eq!(shown(&plan, "s"), format!("192.0.2.1/a!{expected}"));
    }
}
