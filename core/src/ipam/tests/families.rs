//! One address for each IP family.

use super::*;
use crate::model::{Family, FamilyPolicy};

fn of(policy: FamilyPolicy, families: &[Family], service: Service) -> Service {
    Service {
        families: families.to_vec(),
        family_policy: policy,
        ..service
    }
}

use Family::{V4, V6};
use FamilyPolicy::{PreferDualStack as Prefer, RequireDualStack as Require, SingleStack as Single};

#[test]
fn both_families_in_their_order_from_one_pool() {
    let rules = || {
        rules(&[
            pool("a", &["192.0.2.0/29"]),
            pool("b", &["198.51.100.0/29", "2001:db8::1-2001:db8::1"]),
        ])
    };
    let dual = |name: &str| of(Prefer, &[V6, V4], service(name));
    let plan = plan_of(rules(), &[dual("s"), dual("t")]);
    assert_eq!(shown(&plan, "s"), "2001:db8::1/b+198.51.100.0/b");
    assert_eq!(shown(&plan, "t"), "192.0.2.0/a!FamilyMissing");
    // The second one comes from where the first one is, whichever family that is.
    let grown = of(Require, &[V4, V6], holding("s", &["2001:db8::1"], 1));
    assert_eq!(
        shown(&plan_of(rules(), &[grown]), "s"),
        "198.51.100.0/b+2001:db8::1/b"
    );
    let asking = wishing("2001:db8::1", of(Require, &[V4, V6], service("s")));
    assert_eq!(
        shown(&plan_of(rules(), &[asking]), "s"),
        "198.51.100.0/b+2001:db8::1/b"
    );
    // If no pool has both, from two.
    let apart = super::rules(&[pool("a", &["192.0.2.0/29"]), pool("b", &["2001:db8::/64"])]);
    let plan = plan_of(apart, &[of(Require, &[V4, V6], service("s"))]);
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a+2001:db8::/b");
}

#[test]
fn what_a_missing_family_means() {
    let four = || pool("a", &["192.0.2.0/29"]);
    let empty = || pool("b", &["2001:db8::/128"]);
    let held = |addresses: &[&str]| holding("s", addresses, 1);
    let taker = of(Single, &[V6], holding("taker", &["2001:db8::"], 1));
    for (policy, before, pools, expected) in [
        (Prefer, service("s"), vec![four()], "192.0.2.0/a!FamilyMissing"),
        (
            Prefer,
            service("s"),
            vec![four(), empty()],
            "192.0.2.0/a!FamilyMissing",
        ),
        (Require, service("s"), vec![four()], "NoAddressOfFamily"),
        (Require, service("s"), vec![four(), empty()], "PoolExhausted"),
        (Prefer, service("s"), vec![], "NoPool"),
        // What is live is never dropped for what is missing.
        (
            Prefer,
            held(&["192.0.2.3"]),
            vec![four()],
            "192.0.2.3/a!FamilyMissing",
        ),
        (
            Require,
            held(&["192.0.2.3"]),
            vec![four()],
            "192.0.2.3/a!FamilyMissing",
        ),
        (
            Require,
            held(&["192.0.2.3"]),
            vec![four(), empty()],
            "192.0.2.3/a!FamilyMissing",
        ),
        (
            Require,
            held(&["192.0.2.3", "2001:db8:1::"]),
            vec![four()],
            "192.0.2.3/a+2001:db8:1::/a!NotOwned",
        ),
    ] {
        let plan = plan_of(rules(&pools), &[of(policy, &[V4, V6], before), taker.clone()]);
        assert_eq!(shown(&plan, "s"), expected, "{policy:?} {pools:?}");
    }
}

#[test]
fn families_come_and_go_with_the_spec() {
    let both = || rules(&[pool("a", &["192.0.2.0/29", "2001:db8::/64"])]);
    let held = || holding("s", &["192.0.2.1", "2001:db8::1"], 1);
    for (service, expected) in [
        (of(Single, &[V4], held()), "192.0.2.1/a"),
        (of(Single, &[V6], held()), "2001:db8::1/a"),
        (of(Require, &[V4, V6], held()), "192.0.2.1/a+2001:db8::1/a"),
        (of(Require, &[V6, V4], held()), "2001:db8::1/a+192.0.2.1/a"),
        (
            of(Prefer, &[V4, V6], holding("s", &["192.0.2.1"], 1)),
            "192.0.2.1/a+2001:db8::/a",
        ),
        // Nothing is changed in what is being deleted.
        (
            Service {
                deleting: true,
                ..of(Single, &[V4], held())
            },
            "192.0.2.1/a+2001:db8::1/a",
        ),
    ] {
        assert_eq!(shown(&plan_of(both(), &[service]), "s"), expected);
    }
}

#[test]
fn the_missing_family_comes_when_there_is_one() {
    let pools = |addresses: &[&str]| rules(&[pool("a", addresses)]);
    let mut ledger = ledger_of(
        pools(&["192.0.2.0/29"]),
        &[
            of(Prefer, &[V4, V6], service("prefers")),
            of(Require, &[V4, V6], service("requires")),
        ],
    );
    assert_eq!(told(&ledger, "prefers"), "192.0.2.0/a!FamilyMissing");
    assert_eq!(told(&ledger, "requires"), "NoAddressOfFamily");
    assert_eq!(
        ledger.pool("a").v4.unwrap().assigned,
        1,
        "who gets nothing keeps nothing back"
    );
    ledger.set(
        Arc::new(of(Prefer, &[V4, V6], holding("prefers", &["192.0.2.0"], 1))),
        vec![],
    );
    ledger.change_rules(pools(&["192.0.2.0/29", "2001:db8::/64"]));
    assert_eq!(ledger.settle().len(), 2);
    assert_eq!(told(&ledger, "prefers"), "192.0.2.0/a+2001:db8::/a");
    assert_eq!(told(&ledger, "requires"), "192.0.2.1/a+2001:db8::1/a");
}
