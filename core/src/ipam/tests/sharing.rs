//! Several Services with one address.

use super::*;
use crate::model::TrafficPolicy;

fn sharing(key: &str, port: u16, service: Service) -> Service {
    let mut service = Service {
        wishes: Wishes {
            sharing_key: Some(key.into()),
            ..service.wishes.clone()
        },
        ..service
    };
    service.ports[0].port = port;
    service
}

fn local(service: Service) -> Service {
    Service {
        policy: TrafficPolicy::Local,
        ..service
    }
}

fn wide() -> Rules {
    rules(&[pool("a", &["192.0.2.0/29"]), pool("b", &["198.51.100.0/29"])])
}

#[test]
fn services_join_those_with_their_key() {
    let mut same_backends = local(sharing("l", 81, service("local-2")));
    let plan = plan_of(
        wide(),
        &[
            sharing("k", 80, service("s1")),
            sharing("k", 81, service("s2")),
            sharing("k", 80, service("s3")),
            sharing("other", 82, service("s4")),
            service("s5"),
            local(sharing("k", 83, service("s6"))),
        ],
    );
    for (name, expected) in [
        ("s1", "192.0.2.0/a"),
        ("s2", "192.0.2.0/a"),
        // The port is taken there.
        ("s3", "192.0.2.1/a"),
        ("s4", "192.0.2.2/a"),
        ("s5", "192.0.2.3/a"),
        // Its backends are others.
        ("s6", "192.0.2.4/a"),
    ] {
        assert_eq!(shown(&plan, name), expected, "{name}");
    }
    let first = local(sharing("l", 80, service("local-1")));
    same_backends.selector = first.selector.clone();
    let plan = plan_of(wide(), &[first, same_backends]);
    assert_eq!(shown(&plan, "local-1"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "local-2"), "192.0.2.0/a");
}

#[test]
fn who_has_an_address_does_not_move_to_share_and_pools_are_obeyed() {
    let plan = plan_of(
        wide(),
        &[
            sharing("k", 80, holding("first", &["192.0.2.5"], 1)),
            sharing("k", 81, holding("second", &["192.0.2.2"], 1)),
            from_pools("b", sharing("k", 82, service("third"))),
            sharing("k", 83, service("fourth")),
        ],
    );
    assert_eq!(shown(&plan, "second"), "192.0.2.2/a");
    assert_eq!(shown(&plan, "third"), "198.51.100.0/b");
    assert_eq!(
        shown(&plan, "fourth"),
        "192.0.2.2/a",
        "the lowest of those with its key"
    );
}

#[test]
fn a_requested_address_is_shared_or_says_why_not() {
    let holder = || sharing("k", 80, holding("holder", &["192.0.2.5"], 1));
    for (service, expected, says) in [
        (sharing("k", 81, service("s")), "192.0.2.5/a", ""),
        (sharing("k", 80, service("s")), "SharingConflict", "80/tcp"),
        (sharing("x", 81, service("s")), "SharingConflict", "keys differ"),
        (
            local(sharing("k", 81, service("s"))),
            "SharingConflict",
            "backends",
        ),
        (service("s"), "AddressInUse", "default/holder"),
    ] {
        let plan = plan_of(wide(), &[holder(), wishing("192.0.2.5", service)]);
        assert_eq!(shown(&plan, "s"), expected);
        assert!(message(&plan, "s").contains(says), "{}", message(&plan, "s"));
    }
}

#[test]
fn when_ports_come_to_clash_the_younger_record_loses() {
    for (old, young) in [("x", "y"), ("y", "x")] {
        let services = [
            sharing("k", 80, holding(old, &["192.0.2.5"], 1)),
            sharing("k", 80, holding(young, &["192.0.2.5"], 2)),
            sharing("k", 81, holding("third", &["192.0.2.5"], 3)),
        ];
        let plan = plan_of(wide(), &services);
        assert_eq!(shown(&plan, old), "192.0.2.5/a");
        assert_eq!(shown(&plan, young), "192.0.2.0/a");
        assert_eq!(shown(&plan, "third"), "192.0.2.5/a");
        assert!(
            message(&plan, young).contains("80/tcp"),
            "{}",
            message(&plan, young)
        );
    }
}

#[test]
fn who_waits_shares_as_soon_as_it_may() {
    let tiny = rules(&[pool("a", &["192.0.2.5/32"])]);
    let holder = holding("holder", &["192.0.2.5"], 1);
    let waiting = sharing("k", 81, service("s"));
    let mut ledger = ledger_of(tiny, &[holder.clone(), waiting]);
    assert_eq!(told(&ledger, "s"), "PoolExhausted");
    // The key comes, with a port that clashes; then another port.
    for (port, expected) in [(81, "PoolExhausted"), (80, "192.0.2.5/a"), (81, "PoolExhausted")] {
        ledger.set(Arc::new(sharing("k", port, holder.clone())), vec![]);
        ledger.settle();
        assert_eq!(told(&ledger, "s"), expected, "{port}");
        assert_eq!(told(&ledger, "holder"), "192.0.2.5/a");
    }
    let usage = ledger.pool("a").v4.unwrap();
    assert_eq!((usage.assigned, usage.available), (1, 0));
}

#[test]
fn a_shared_address_is_free_when_the_last_one_has_left_and_counts_once() {
    let tiny = rules(&[pool("a", &["192.0.2.4/31"])]);
    let mut ledger = ledger_of(
        tiny,
        &[
            sharing("k", 80, service("a")),
            sharing("k", 81, service("b")),
            sharing("k", 82, service("c")),
        ],
    );
    let counts = |ledger: &Ledger| {
        let usage = ledger.pool("a").v4.unwrap();
        (usage.assigned, usage.available)
    };
    for (name, expected) in [("a", (1, 1)), ("c", (1, 1)), ("b", (0, 2))] {
        assert_eq!(counts(&ledger), (1, 1));
        ledger.remove(&ServiceKey::new("default", name));
        ledger.settle();
        assert_eq!(counts(&ledger), expected, "{name}");
    }
}
