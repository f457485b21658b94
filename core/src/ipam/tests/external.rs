//! External IPs: adopted, given, taken back.

use super::*;
use crate::config::Access;
use crate::model::{Family, ServiceType};

fn open(name: &str, addresses: &[&str]) -> RawPool {
    RawPool {
        external_ips: Ok(Some(Access::default())),
        ..pool(name, addresses)
    }
}

fn only_for(namespace: &str, pool: RawPool) -> RawPool {
    RawPool {
        external_ips: Ok(Some(Access {
            namespaces: vec![namespace.into()],
            selector: None,
        })),
        ..pool
    }
}

/// A Service of type ClusterIP.
fn plain(name: &str) -> Service {
    Service {
        kind: ServiceType::ClusterIp,
        ..service(name)
    }
}

fn by_hand(addresses: &[&str], service: Service) -> Service {
    Service {
        external_ips: addresses.iter().map(|a| ip(a)).collect(),
        ..service
    }
}

fn asking(wish: &str, service: Service) -> Service {
    Service {
        external_wish: Some(wish.into()),
        ..service
    }
}

/// The spec and the record say that it has this.
fn having(address: &str, adopted: bool, service: Service) -> Service {
    Service {
        external: external_record(&[(address, adopted)], 1),
        ..by_hand(&[address], service)
    }
}

fn sharing(port: u16, service: Service) -> Service {
    let mut service = Service {
        wishes: Wishes {
            sharing_key: Some("k".into()),
            ..Wishes::default()
        },
        ..service
    };
    service.ports[0].port = port;
    service
}

#[test]
fn what_is_written_by_hand_is_adopted_where_that_is_allowed() {
    let pools = || {
        rules(&[
            open("a", &["192.0.2.0/29", "2001:db8::/64"]),
            pool("closed", &["198.51.100.0/29"]),
            only_for("other", pool("others", &["203.0.113.0/29"])),
        ])
    };
    let headless = Service {
        headless: true,
        ..by_hand(&["192.0.2.5"], plain("s"))
    };
    for (service, expected) in [
        (by_hand(&["192.0.2.5"], plain("s")), "192.0.2.5/a*"),
        (by_hand(&["192.0.2.5"], service("s")), "192.0.2.5/a*"),
        // It is in no pool, and none of our business.
        (by_hand(&["8.8.8.8"], plain("s")), "-"),
        (by_hand(&["8.8.8.8", "192.0.2.5"], plain("s")), "192.0.2.5/a*"),
        (by_hand(&["198.51.100.1"], plain("s")), "!ExternalIPNotAllowed"),
        (
            by_hand(&["203.0.113.1", "192.0.2.5"], plain("s")),
            "192.0.2.5/a*!ExternalIPNotAllowed",
        ),
        (by_hand(&["2001:db8::5"], plain("s")), "!InvalidRequest"),
        (by_hand(&["192.0.2.1"], plain("s")), "!AddressReserved"),
        (by_hand(&["192.0.2.2"], plain("s")), "!AddressInUse"),
        (by_hand(&["192.0.2.2"], sharing(80, plain("s"))), "!AddressInUse"),
        (headless, "!InvalidRequest"),
    ] {
        let services = [holding("holder", &["192.0.2.2"], 1), service];
        let plan = plan_of(with_node(pools(), &["192.0.2.1"]), &services);
        assert_eq!(external(&plan, "s"), expected, "{:?}", services[1]);
    }
}

#[test]
fn two_that_write_one_address_by_hand() {
    let rules = || rules(&[open("a", &["192.0.2.0/29"])]);
    let plan = plan_of(
        rules(),
        &[
            by_hand(&["192.0.2.5"], plain("old")),
            Service {
                created: 5,
                ..by_hand(&["192.0.2.5"], plain("young"))
            },
        ],
    );
    assert_eq!(external(&plan, "old"), "192.0.2.5/a*");
    assert_eq!(external(&plan, "young"), "!AddressInUse");
    // Whoever has it already keeps it.
    let services = [
        by_hand(&["192.0.2.5"], plain("old")),
        having("192.0.2.5", true, plain("young")),
    ];
    let plan = plan_of(rules(), &services);
    assert_eq!(external(&plan, "old"), "!AddressInUse");
    assert_eq!(external(&plan, "young"), "192.0.2.5/a*");
    // Both ask to share it.
    let services = [
        by_hand(&["192.0.2.5"], sharing(80, plain("x"))),
        by_hand(&["192.0.2.5"], sharing(81, plain("y"))),
        by_hand(&["192.0.2.5"], sharing(81, plain("z"))),
    ];
    let plan = plan_of(rules(), &services);
    assert_eq!(external(&plan, "x"), "192.0.2.5/a*");
    assert_eq!(external(&plan, "y"), "192.0.2.5/a*");
    assert_eq!(external(&plan, "z"), "!SharingConflict");
    // An older record wins.
    let older = Service {
        external: external_record(&[("192.0.2.5", true)], 0),
        ..by_hand(&["192.0.2.5"], plain("b"))
    };
    let plan = plan_of(rules(), &[having("192.0.2.5", true, plain("a")), older]);
    assert_eq!(external(&plan, "a"), "!DoubleAssignment");
    assert_eq!(external(&plan, "b"), "192.0.2.5/a*");
}

#[test]
fn what_a_user_takes_out_again_stays_the_users_until_the_record_is_gone() {
    let taken_out = Service {
        external: external_record(&[("192.0.2.0", true)], 1),
        ..plain("s")
    };
    let mut ledger = ledger_of(
        rules(&[open("a", &["192.0.2.0/32"])]),
        &[taken_out, service("waiting")],
    );
    let decision = ledger.decision(&ServiceKey::new("default", "s")).unwrap();
    assert_eq!(decision.external, Some(External::default()));
    assert_eq!(told(&ledger, "waiting"), "PoolExhausted");
    ledger.set(Arc::new(plain("s")), vec![]);
    ledger.settle();
    assert_eq!(told(&ledger, "waiting"), "192.0.2.0/a");
}

#[test]
fn what_is_asked_for_is_given_from_pools_that_allow_it() {
    let pools = || {
        rules(&[
            open("a", &["192.0.2.0/31"]),
            pool("closed", &["198.51.100.0/29"]),
            open("six", &["2001:db8::/64"]),
            RawPool {
                allocation: Ok(crate::config::Allocation {
                    access: Access {
                        namespaces: vec!["other".into()],
                        selector: None,
                    },
                    ..Default::default()
                }),
                ..open("others", &["203.0.113.0/29"])
            },
        ])
    };
    let dual = |service| Service {
        families: vec![Family::V4, Family::V6],
        ..service
    };
    let none = Service {
        kind: ServiceType::ExternalName,
        ..asking("a", plain("s"))
    };
    for (service, expected) in [
        (asking("a", plain("s")), "192.0.2.1/a"),
        (asking("192.0.2.1", plain("s")), "192.0.2.1/a"),
        (asking("six", plain("s")), "!NoAddressOfFamily"),
        (asking("a,six", dual(plain("s"))), "192.0.2.1/a+2001:db8::/six"),
        (asking("a", dual(plain("s"))), "192.0.2.1/a!NoAddressOfFamily"),
        (
            asking("2001:db8::7,192.0.2.1", dual(plain("s"))),
            "2001:db8::7/six+192.0.2.1/a",
        ),
        (
            asking("2001:db8::7,192.0.2.1", plain("s")),
            "192.0.2.1/a!InvalidRequest",
        ),
        (asking("closed", plain("s")), "!ExternalIPNotAllowed"),
        (asking("closed,a", plain("s")), "192.0.2.1/a"),
        (asking("198.51.100.1", plain("s")), "!ExternalIPNotAllowed"),
        (asking("others", plain("s")), "!PoolNotAllowed"),
        (asking("nobody", plain("s")), "!UnknownPool"),
        (asking("8.8.8.8", plain("s")), "!AddressNotInPool"),
        (asking("192.0.2.0", plain("s")), "!AddressInUse"),
        (asking("a,192.0.2.1", plain("s")), "!InvalidRequest"),
        (none, "!InvalidRequest"),
    ] {
        let services = [holding("holder", &["192.0.2.0"], 1), service];
        let plan = plan_of(pools(), &services);
        assert_eq!(external(&plan, "s"), expected, "{:?}", services[1].external_wish);
    }
    // The load balancer address and the external IP are two.
    let plan = plan_of(pools(), &[asking("a", service("s")), asking("a", service("t"))]);
    assert_eq!(
        (shown(&plan, "s"), external(&plan, "s")),
        ("192.0.2.0/a".into(), "192.0.2.1/a".into())
    );
    assert_eq!(external(&plan, "t"), "!PoolExhausted");
    // So they are for one that shares.
    let plan = plan_of(pools(), &[asking("a", sharing(80, service("s")))]);
    assert_eq!(
        (shown(&plan, "s"), external(&plan, "s")),
        ("192.0.2.0/a".into(), "192.0.2.1/a".into())
    );
}

#[test]
fn what_was_given_stays_as_long_as_it_is_wished_and_allowed() {
    let given = || having("192.0.2.3", false, plain("s"));
    let adopted = || having("192.0.2.3", true, plain("s"));
    let a = || open("a", &["192.0.2.0/29"]);
    let deny = || pool("a", &["192.0.2.0/29"]);
    let b = || open("b", &["198.51.100.0/29"]);
    let left = || RawPool {
        published: vec!["192.0.2.0/29".into()],
        ..open("a", &["192.0.2.6/31"])
    };
    let renumbering = || RawPool {
        on_remove: crate::config::OnRemove::Reassign,
        ..left()
    };
    let going = || RawPool {
        deleting: true,
        published: vec!["192.0.2.0/29".into()],
        ..a()
    };
    let junk = || RawPool {
        addresses: vec!["junk".into()],
        published: vec!["192.0.2.0/29".into()],
        ..a()
    };
    let deleting = |service| Service {
        deleting: true,
        ..service
    };
    let six = |service| Service {
        families: vec![Family::V6],
        ..service
    };
    for (pools, service, expected) in [
        (vec![a()], asking("a", given()), "192.0.2.3/a"),
        (vec![a()], asking("192.0.2.3", given()), "192.0.2.3/a"),
        (vec![a()], given(), ""),
        (vec![a()], asking("192.0.2.4", given()), "192.0.2.4/a"),
        (vec![a()], asking(",", given()), "192.0.2.3/a!InvalidRequest"),
        (vec![a(), b()], asking("b", given()), "198.51.100.0/b"),
        (vec![a()], asking("b", given()), "192.0.2.3/a!UnknownPool"),
        (vec![deny()], asking("a", given()), "!ExternalIPNotAllowed"),
        (
            vec![deny()],
            asking("192.0.2.3", given()),
            "!ExternalIPNotAllowed",
        ),
        (vec![deny()], asking(",", given()), "!InvalidRequest"),
        (vec![deny()], adopted(), "!ExternalIPNotAllowed"),
        (vec![a()], adopted(), "192.0.2.3/a*"),
        (vec![a()], asking("192.0.2.3", adopted()), "192.0.2.3/a*"),
        (vec![a()], asking("a", adopted()), "192.0.2.3/a*+192.0.2.0/a"),
        (vec![a()], six(adopted()), "!InvalidRequest"),
        // Its pool shrinks, is set aside, is being deleted, or is gone.
        (vec![left()], asking("a", given()), "192.0.2.3/a!Retained"),
        (vec![left()], asking("192.0.2.3", given()), "192.0.2.3/a!Retained"),
        (vec![left()], adopted(), "192.0.2.3/a*!Retained"),
        (vec![renumbering()], asking("a", given()), "192.0.2.6/a"),
        (vec![renumbering()], adopted(), "192.0.2.3/a*!Retained"),
        (vec![junk()], asking("a", given()), "192.0.2.3/a!Retained"),
        (vec![going()], asking("a", given()), "192.0.2.3/a!Retained"),
        (
            vec![going()],
            asking("192.0.2.3", given()),
            "192.0.2.3/a!Retained",
        ),
        (vec![going()], adopted(), "192.0.2.3/a*!Retained"),
        (vec![], asking("a", given()), "192.0.2.3/a!NotOwned"),
        (vec![], adopted(), "192.0.2.3/a*!NotOwned"),
        // What is being deleted is left as it is.
        (vec![deny()], deleting(asking("a", given())), "192.0.2.3/a"),
        (vec![deny()], deleting(adopted()), "192.0.2.3/a*"),
        (vec![a()], deleting(asking("a", plain("s"))), "-"),
    ] {
        let plan = plan_of(rules(&pools), std::slice::from_ref(&service));
        assert_eq!(external(&plan, "s"), expected, "{pools:?} {service:?}");
    }
}

#[test]
fn what_was_taken_out_of_the_spec_by_hand_comes_back() {
    let taken_out = Service {
        external_ips: vec![],
        ..asking("a", having("192.0.2.3", false, plain("s")))
    };
    let plan = plan_of(rules(&[open("a", &["192.0.2.0/29"])]), &[taken_out, service("t")]);
    assert_eq!(external(&plan, "s"), "192.0.2.3/a");
    assert_eq!(shown(&plan, "t"), "192.0.2.0/a");
}

#[test]
fn the_own_load_balancer_address_is_not_adopted() {
    let own = by_hand(&["192.0.2.3"], holding("s", &["192.0.2.3"], 1));
    let ledger = ledger_of(rules(&[open("a", &["192.0.2.0/29"])]), &[own]);
    assert_eq!(told(&ledger, "s"), "192.0.2.3/a");
    let decision = ledger.decision(&ServiceKey::new("default", "s")).unwrap();
    assert_eq!(decision.external, None);
    assert_eq!(ledger.pool("a").v4.unwrap().assigned, 1);
}

#[test]
fn nobody_adopts_an_address_while_the_record_of_another_service_is_being_taken_away() {
    // The user wrote it into both; the first one had it, and may not have it any more.
    let before = having("192.0.2.3", true, plain("s"));
    let after = by_hand(&["192.0.2.3"], plain("s"));
    let other = Service {
        key: ServiceKey::new("other", "t"),
        ..by_hand(&["192.0.2.3"], plain("t"))
    };
    let pools = rules(&[only_for("other", pool("a", &["192.0.2.0/29"]))]);
    let mut ledger = ledger_of(pools, &[before, other.clone()]);
    let has = |ledger: &Ledger| {
        let external = ledger.decision(&other.key).unwrap().external.as_ref().unwrap();
        external.addresses.len()
    };
    assert_eq!(has(&ledger), 0);
    ledger.set(Arc::new(after.clone()), vec![ip("192.0.2.3")]);
    ledger.settle();
    assert_eq!(has(&ledger), 0, "the record may still be there");
    ledger.set(Arc::new(after), vec![]);
    ledger.settle();
    assert_eq!(has(&ledger), 1);
}
