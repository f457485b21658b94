//! What a Service has, it keeps.

use super::*;
use crate::model::{Family, ServiceType};
use crate::ownership::CLASS;
use crate::reason::Reason;

#[test]
fn what_is_held_is_kept_and_gaps_are_filled() {
    let rules = with_node(rules(&[pool("a", &["192.0.2.0/29"])]), &["192.0.2.1"]);
    let services = [
        service("new"),
        holding("x", &["192.0.2.0"], 1),
        holding("y", &["192.0.2.2"], 1),
    ];
    let ledger = ledger_of(rules, &services);
    assert_eq!(told(&ledger, "x"), "192.0.2.0/a");
    assert_eq!(told(&ledger, "y"), "192.0.2.2/a");
    assert_eq!(told(&ledger, "new"), "192.0.2.3/a", "192.0.2.1 is a node's");
    let usage = Usage {
        total: 7,
        assigned: 3,
        available: 4,
    };
    assert_eq!(ledger.pool("a").v4, Some(usage));
    assert_eq!(ledger.claimed().len(), 3);
}

#[test]
fn the_loser_of_a_double_assignment_gets_another_address_if_there_is_one() {
    let services = [
        holding("young", &["192.0.2.0"], 2),
        holding("old", &["192.0.2.0"], 1),
    ];
    let plan = plan_of(rules(&[pool("a", &["192.0.2.0/31"])]), &services);
    assert_eq!(shown(&plan, "old"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "young"), "192.0.2.1/a");
    assert!(
        message(&plan, "young").contains("belongs to default/old"),
        "{}",
        message(&plan, "young")
    );
    let plan = plan_of(rules(&[pool("a", &["192.0.2.0/32"])]), &services);
    assert_eq!(shown(&plan, "old"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "young"), "DoubleAssignment");
    assert!(
        message(&plan, "young").contains("default/old"),
        "{}",
        message(&plan, "young")
    );
}

#[test]
fn why_an_address_is_lost_is_told_until_the_status_names_it_no_more() {
    let services = [
        holding("young", &["192.0.2.0"], 2),
        holding("old", &["192.0.2.0"], 1),
    ];
    let mut ledger = ledger_of(rules(&[pool("a", &["192.0.2.0/29"])]), &services);
    let lost = |ledger: &Ledger| match &ledger
        .decision(&ServiceKey::new("default", "young"))
        .unwrap()
        .ingress
    {
        Some(Outcome::Assigned { lost, .. }) => lost.as_ref().map(|lost| lost.reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(&ledger), Some(Reason::DoubleAssignment));
    // Something else changes before the write: the reason and the address stay.
    let labels = [("x".to_owned(), "y".to_owned())].into();
    ledger.set(
        Arc::new(Service {
            labels,
            ..services[0].clone()
        }),
        vec![],
    );
    ledger.settle();
    assert_eq!(
        (lost(&ledger), told(&ledger, "young")),
        (Some(Reason::DoubleAssignment), "192.0.2.1/a".into())
    );
    ledger.set(Arc::new(holding("young", &["192.0.2.1"], 3)), vec![]);
    ledger.settle();
    assert_eq!(lost(&ledger), None);
}

#[test]
fn one_family_lost_leaves_the_other() {
    let dual = Service {
        families: vec![Family::V4, Family::V6],
        ..holding("dual", &["192.0.2.0", "2001:db8::"], 2)
    };
    let services = [dual, holding("old", &["192.0.2.0"], 1)];
    let plan = plan_of(rules(&[pool("a", &["192.0.2.0/31", "2001:db8::/64"])]), &services);
    assert_eq!(shown(&plan, "dual"), "192.0.2.1/a+2001:db8::/a");
    assert!(
        message(&plan, "dual").contains("192.0.2.0"),
        "{}",
        message(&plan, "dual")
    );
}

#[test]
fn an_ingress_of_others_is_left_alone_without_a_class_and_corrected_with_ours() {
    let rules = rules(&[pool("a", &["192.0.2.0/29"])]);
    let edited = |class: Option<&str>, address: &str, assigned| Service {
        class: class.map(Into::into),
        ingress: vec![ip(address)],
        assigned,
        ..service("s")
    };
    let hostname = Service {
        foreign_ingress: true,
        ..service("s")
    };
    let of_us = |service: Service| Service {
        class: Some(CLASS.into()),
        ..service
    };
    let recorded = || record(&["192.0.2.5"], 1);
    for (service, expected) in [
        (edited(None, "8.8.8.8", None), "[ServedByAnother]"),
        (edited(None, "8.8.8.8", recorded()), "[ServedByAnother]"),
        (hostname.clone(), "[ServedByAnother]"),
        (edited(Some(CLASS), "8.8.8.8", None), "192.0.2.0/a"),
        (edited(Some(CLASS), "8.8.8.8", recorded()), "192.0.2.5/a"),
        (of_us(hostname), "192.0.2.0/a"),
        // An unrecorded address of our own pool: the recorded one comes back. Without any record, the Service gets the
        // one that it is known by, if it may have it.
        (edited(None, "192.0.2.0", recorded()), "192.0.2.5/a"),
        (edited(None, "192.0.2.4", None), "192.0.2.4/a"),
        (edited(Some(CLASS), "192.0.2.4", None), "192.0.2.4/a"),
    ] {
        let plan = plan_of(rules.clone(), std::slice::from_ref(&service));
        assert_eq!(shown(&plan, "s"), expected, "{service:?}");
    }
    // Nobody else gets what stands there, whoever is asked first; and two in which it stands both get others.
    let services = [edited(None, "192.0.2.0", None), service("new")];
    let plan = plan_of(rules.clone(), &services);
    assert_eq!(
        (shown(&plan, "new"), shown(&plan, "s")),
        ("192.0.2.1/a".into(), "192.0.2.0/a".into())
    );
    let twin = Service {
        ingress: vec![ip("192.0.2.0")],
        ..service("twin")
    };
    let plan = plan_of(rules, &[edited(None, "192.0.2.0", None), twin]);
    assert_eq!(
        (shown(&plan, "s"), shown(&plan, "twin")),
        ("192.0.2.1/a".into(), "192.0.2.2/a".into())
    );
}

#[test]
fn a_forged_record_gives_nothing_that_is_in_no_pool() {
    let forged = Service {
        class: Some(CLASS.into()),
        ..holding("s", &["8.8.8.8"], 1)
    };
    let ledger = ledger_of(rules(&[pool("a", &["192.0.2.0/29"])]), &[forged]);
    assert_eq!(told(&ledger, "s"), "8.8.8.8/a!NotOwned");
    let state = ledger.pool("a");
    assert!(state.retained.is_empty() && state.holders.is_empty(), "{state:?}");
    assert_eq!(state.v4.unwrap().assigned, 0);
}

#[test]
fn a_recorded_address_that_was_removed_from_the_status_comes_back_unless_somebody_has_it() {
    let rules = || rules(&[pool("a", &["192.0.2.0/29"])]);
    let wiped = Service {
        assigned: record(&["192.0.2.4"], 1),
        ..service("s")
    };
    let plan = plan_of(rules(), std::slice::from_ref(&wiped));
    assert_eq!(shown(&plan, "s"), "192.0.2.4/a");
    let plan = plan_of(rules(), &[wiped.clone(), holding("other", &["192.0.2.4"], 5)]);
    assert_eq!(shown(&plan, "other"), "192.0.2.4/a");
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a");
    let younger = Service {
        assigned: record(&["192.0.2.4"], 2),
        ..service("a-younger")
    };
    let plan = plan_of(rules(), &[younger, wiped.clone()]);
    assert_eq!(shown(&plan, "s"), "192.0.2.4/a");
    assert_eq!(shown(&plan, "a-younger"), "192.0.2.0/a");
    // It stands, unrecorded, in another Service; or a node has it by now.
    let standing = Service {
        ingress: vec![ip("192.0.2.4")],
        ..service("z")
    };
    let plan = plan_of(rules(), &[standing, wiped.clone()]);
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a");
    let plan = plan_of(with_node(rules(), &["192.0.2.4"]), &[wiped]);
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a");
}

#[test]
fn who_is_not_ours_or_going_gets_nothing_new_and_keeps_what_it_has() {
    let other_class = Service {
        class: Some("other.example/lb".into()),
        ..service("other")
    };
    let not_a_balancer = Service {
        kind: ServiceType::ClusterIp,
        assigned: record(&["192.0.2.0"], 1),
        ..service("cluster-ip")
    };
    let going = |service| Service {
        deleting: true,
        ..service
    };
    let services = [
        other_class,
        not_a_balancer,
        going(service("going-without")),
        going(holding("going-with", &["192.0.2.3"], 1)),
        service("z"),
    ];
    let plan = plan_of(rules(&[pool("a", &["192.0.2.0/29"])]), &services);
    for (name, expected) in [
        ("other", "-"),
        ("cluster-ip", "-"),
        ("going-without", "-"),
        ("going-with", "192.0.2.3/a"),
        // 192.0.2.0 is free only when the record is gone.
        ("z", "192.0.2.1/a"),
    ] {
        assert_eq!(shown(&plan, name), expected, "{name}");
    }
}

#[test]
fn a_service_of_another_class_or_type_gives_up_its_address_and_blocks_it_until_then() {
    let held = holding("s", &["192.0.2.0"], 1);
    let mut ledger = ledger_of(
        rules(&[pool("a", &["192.0.2.0/32"])]),
        &[held.clone(), service("z")],
    );
    assert_eq!(told(&ledger, "z"), "PoolExhausted");
    let other = Service {
        class: Some("other.example/lb".into()),
        ..held.clone()
    };
    ledger.set(Arc::new(other.clone()), vec![]);
    ledger.settle();
    assert_eq!(
        (told(&ledger, "s"), told(&ledger, "z")),
        ("-".into(), "PoolExhausted".into())
    );
    let written = Service {
        ingress: vec![],
        assigned: None,
        ..other
    };
    // The write is under way: what it takes away is still seen.
    ledger.set(Arc::new(written.clone()), vec![ip("192.0.2.0")]);
    ledger.settle();
    assert_eq!(told(&ledger, "z"), "PoolExhausted");
    ledger.set(Arc::new(written), vec![]);
    let changed = ledger.settle();
    assert_eq!(told(&ledger, "z"), "192.0.2.0/a");
    assert_eq!(
        changed.into_iter().collect::<Vec<_>>(),
        [ServiceKey::new("default", "z")]
    );
}

#[test]
fn what_is_decided_and_not_yet_written_is_nobody_elses() {
    let aged = |name: &str, created| Service {
        created,
        ..service(name)
    };
    let mut ledger = ledger_of(rules(&[pool("a", &["192.0.2.0/31"])]), &[aged("young", 9)]);
    ledger.set(Arc::new(aged("old", 1)), vec![]);
    ledger.settle();
    assert_eq!(told(&ledger, "young"), "192.0.2.0/a");
    assert_eq!(told(&ledger, "old"), "192.0.2.1/a");
    ledger.set(Arc::new(aged("oldest", 0)), vec![]);
    ledger.settle();
    assert_eq!(told(&ledger, "oldest"), "PoolExhausted");
    ledger.remove(&ServiceKey::new("default", "young"));
    ledger.settle();
    assert_eq!(told(&ledger, "oldest"), "192.0.2.0/a");
    assert!(ledger.decision(&ServiceKey::new("default", "young")).is_none());
}

#[test]
fn who_waits_is_served_by_age_whatever_else_comes() {
    let aged = |name: &str, created| Service {
        created,
        ..service(name)
    };
    let mut ledger = ledger_of(
        rules(&[pool("a", &["192.0.2.0/32"])]),
        &[holding("holder", &["192.0.2.0"], 1), aged("b", 5), aged("a", 6)],
    );
    ledger.set(Arc::new(aged("c", 7)), vec![]);
    ledger.remove(&ServiceKey::new("default", "holder"));
    ledger.settle();
    assert_eq!(told(&ledger, "b"), "192.0.2.0/a");
    assert_eq!(
        (told(&ledger, "a"), told(&ledger, "c")),
        ("PoolExhausted".into(), "PoolExhausted".into())
    );
}
