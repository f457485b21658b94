use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config::{RawPool, compile};
use crate::model::{AssignedRecord, ServiceType};
use crate::ownership::CLASS;
use crate::testing::{node, service};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pools(pools: &[(&str, &[&str])]) -> Config {
    let raw: Vec<RawPool> = pools
        .iter()
        .map(|(name, addresses)| RawPool {
            name: (*name).to_owned(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            ..RawPool::default()
        })
        .collect();
    let compiled = compile(&raw, &[]);
    assert_eq!(
        compiled.config.pools.len(),
        pools.len(),
        "{:?}",
        compiled.verdicts
    );
    compiled.config
}

fn record(address: &str, since: i64) -> Option<AssignedRecord> {
    Some(AssignedRecord {
        addresses: vec![(ip(address), "a".into())],
        since,
    })
}

/// A Service that holds an address, recorded at `since`.
fn holding(name: &str, address: &str, since: i64) -> Service {
    Service {
        ingress: vec![ip(address)],
        assigned: record(address, since),
        ..service(name)
    }
}

fn wishing(address: &str, service: Service) -> Service {
    Service {
        requested: Some(address.into()),
        ..service
    }
}

const DEFAULT: ClassPolicy = ClassPolicy {
    serve_classless: true,
    metallb: false,
};

fn plan_of(config: &Config, nodes: &[Node], services: &[Service]) -> Plan {
    plan(&Snapshot {
        services: services.iter().collect(),
        config,
        class: DEFAULT,
        nodes: nodes.iter().collect(),
        held: vec![],
    })
}

/// `192.0.2.1/a`, with `!Reason` appended for a note; or the reason alone, in brackets if the status is left alone.
fn shown(plan: &Plan, name: &str) -> String {
    match plan.services.get(&ServiceKey::new("default", name)) {
        None => "-".to_owned(),
        Some(Outcome::Refused(refusal)) => refusal.reason.to_string(),
        Some(Outcome::LeftAlone(refusal)) => format!("[{}]", refusal.reason),
        Some(Outcome::Assigned { addresses, note }) => {
            let parts: Vec<String> = addresses.iter().map(|(a, pool)| format!("{a}/{pool}")).collect();
            let note = note.as_ref().map(|note| format!("!{}", note.reason));
            parts.join("+") + &note.unwrap_or_default()
        }
    }
}

fn message(plan: &Plan, name: &str) -> String {
    match &plan.services[&ServiceKey::new("default", name)] {
        Outcome::Refused(r) | Outcome::LeftAlone(r) | Outcome::Assigned { note: Some(r), .. } => {
            r.message.clone()
        }
        Outcome::Assigned { note: None, .. } => String::new(),
    }
}

#[test]
fn new_services_get_the_lowest_free_address_in_order_of_age_then_name() {
    let config = pools(&[("b", &["192.0.2.0/31"]), ("a", &["198.51.100.9", "198.51.100.3"])]);
    let aged = |name: &str, created| Service {
        created,
        ..service(name)
    };
    let plan = plan_of(
        &config,
        &[],
        &[aged("young", 9), aged("z", 1), aged("y", 1), aged("last", 10)],
    );
    assert_eq!(shown(&plan, "y"), "198.51.100.3/a");
    assert_eq!(shown(&plan, "z"), "198.51.100.9/a");
    assert_eq!(shown(&plan, "young"), "192.0.2.0/b");
    assert_eq!(shown(&plan, "last"), "192.0.2.1/b");
    let count = |assigned, available| PoolCount { assigned, available };
    assert_eq!((plan.pools["a"], plan.pools["b"]), (count(2, 0), count(2, 0)));
}

#[test]
fn what_is_held_is_kept_and_gaps_are_filled() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let services = [
        service("new"),
        holding("x", "192.0.2.0", 1),
        holding("y", "192.0.2.2", 1),
    ];
    let plan = plan_of(&config, &[node("n", "192.0.2.1")], &services);
    assert_eq!(shown(&plan, "x"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "y"), "192.0.2.2/a");
    assert_eq!(shown(&plan, "new"), "192.0.2.3/a", "192.0.2.1 is a node's");
    assert_eq!(
        plan.pools["a"],
        PoolCount {
            assigned: 3,
            available: 4
        }
    );
}

#[test]
fn every_refusal_has_its_reason() {
    let small = pools(&[("a", &["192.0.2.0/31"])]);
    let nodes = [node("n", "192.0.2.1")];
    let holder = holding("holder", "192.0.2.0", 1);
    let with = |config: &Config, service: Service| {
        let plan = plan_of(config, &nodes, &[holder.clone(), service]);
        (shown(&plan, "s"), message(&plan, "s"))
    };
    let six = Service {
        families: vec![Family::V6],
        ..service("s")
    };
    for (config, service, reason, says) in [
        (pools(&[]), service("s"), "NoPool", "no usable AddressPool"),
        (
            pools(&[("six", &["2001:db8::/64"])]),
            service("s"),
            "NoAddressOfFamily",
            "IPv4",
        ),
        (
            small.clone(),
            six,
            "NoAddressOfFamily",
            "IPv6 addresses are not assigned yet",
        ),
        (small.clone(), service("s"), "PoolExhausted", "in use (a)"),
        (
            small.clone(),
            wishing("blue", service("s")),
            "InvalidRequest",
            "blue",
        ),
        (
            small.clone(),
            wishing("2001:db8::1", service("s")),
            "InvalidRequest",
            "IPv6",
        ),
        (
            small.clone(),
            wishing("192.0.2.7", service("s")),
            "AddressNotInPool",
            "192.0.2.7",
        ),
        (
            small.clone(),
            wishing("192.0.2.0", service("s")),
            "AddressInUse",
            "default/holder",
        ),
        (
            small.clone(),
            wishing("192.0.2.1", service("s")),
            "AddressReserved",
            "node n",
        ),
    ] {
        let (shown, message) = with(&config, service);
        assert_eq!(shown, reason);
        assert!(message.contains(says), "{reason}: {message}");
    }
}

#[test]
fn a_request_gets_that_address_or_none() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let plan = plan_of(&config, &[], &[wishing(" 192.0.2.5 ", service("s"))]);
    assert_eq!(shown(&plan, "s"), "192.0.2.5/a");
}

#[test]
fn a_changed_request_renumbers_when_it_can_and_keeps_the_address_when_it_cannot() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let held = || holding("s", "192.0.2.1", 1);
    let other = holding("other", "192.0.2.2", 1);
    let plan = |wish| {
        plan_of(
            &config,
            &[],
            &[wishing(wish, held()), other.clone(), service("waiting")],
        )
    };
    assert_eq!(shown(&plan("192.0.2.1"), "s"), "192.0.2.1/a");
    assert_eq!(shown(&plan("192.0.2.2"), "s"), "192.0.2.1/a!AddressInUse");
    assert_eq!(shown(&plan("nonsense"), "s"), "192.0.2.1/a!InvalidRequest");
    assert_eq!(shown(&plan("192.0.2.0"), "s"), "192.0.2.0/a");
    // What is given up is free only when the status no longer names it.
    assert_eq!(shown(&plan("192.0.2.0"), "waiting"), "192.0.2.3/a");
}

#[test]
fn the_loser_of_a_double_assignment_gets_another_address_if_there_is_one() {
    let services = [holding("young", "192.0.2.0", 2), holding("old", "192.0.2.0", 1)];
    let plan = plan_of(&pools(&[("a", &["192.0.2.0/31"])]), &[], &services);
    assert_eq!(shown(&plan, "old"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "young"), "192.0.2.1/a");
    let plan = plan_of(&pools(&[("a", &["192.0.2.0/32"])]), &[], &services);
    assert_eq!(shown(&plan, "old"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "young"), "DoubleAssignment");
    assert!(
        message(&plan, "young").contains("default/old"),
        "{}",
        message(&plan, "young")
    );
}

#[test]
fn an_ingress_of_others_is_left_alone_without_a_class_and_corrected_with_ours() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
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
    let shown_for = |s: Service| shown(&plan_of(&config, &[], &[s]), "s");
    assert_eq!(shown_for(edited(None, "8.8.8.8", None)), "[ServedByAnother]");
    assert_eq!(
        shown_for(edited(None, "8.8.8.8", record("192.0.2.5", 1))),
        "[ServedByAnother]"
    );
    assert_eq!(shown_for(hostname.clone()), "[ServedByAnother]");
    assert_eq!(shown_for(edited(Some(CLASS), "8.8.8.8", None)), "192.0.2.0/a");
    assert_eq!(
        shown_for(edited(Some(CLASS), "8.8.8.8", record("192.0.2.5", 1))),
        "192.0.2.5/a"
    );
    assert_eq!(
        shown_for(Service {
            class: Some(CLASS.into()),
            ..hostname
        }),
        "192.0.2.0/a"
    );
    // An unrecorded address of our own pool: the recorded one comes back, or a new one is given.
    assert_eq!(
        shown_for(edited(None, "192.0.2.0", record("192.0.2.5", 1))),
        "192.0.2.5/a"
    );
    let plan = plan_of(&config, &[], &[edited(None, "192.0.2.0", None), service("new")]);
    assert_eq!(
        (shown(&plan, "new"), shown(&plan, "s")),
        ("192.0.2.1/a".into(), "192.0.2.2/a".into())
    );
}

#[test]
fn a_recorded_address_that_was_removed_from_the_status_comes_back_unless_somebody_has_it() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let wiped = Service {
        assigned: record("192.0.2.4", 1),
        ..service("s")
    };
    assert_eq!(
        shown(&plan_of(&config, &[], std::slice::from_ref(&wiped)), "s"),
        "192.0.2.4/a"
    );
    let plan = plan_of(&config, &[], &[wiped.clone(), holding("other", "192.0.2.4", 5)]);
    assert_eq!(shown(&plan, "other"), "192.0.2.4/a");
    assert_eq!(shown(&plan, "s"), "192.0.2.0/a");
    let younger = Service {
        assigned: record("192.0.2.4", 2),
        ..service("a-younger")
    };
    let plan = plan_of(&config, &[], &[younger, wiped]);
    assert_eq!(shown(&plan, "s"), "192.0.2.4/a");
    assert_eq!(shown(&plan, "a-younger"), "192.0.2.0/a");
}

#[test]
fn a_live_address_survives_its_pool_and_a_node_that_took_it() {
    let held = || holding("s", "192.0.2.1", 1);
    let elsewhere = pools(&[("b", &["198.51.100.0/24"])]);
    let plan = plan_of(&elsewhere, &[], &[held()]);
    assert_eq!(shown(&plan, "s"), "192.0.2.1/a!NotOwned");
    assert_eq!(plan.pools["b"].assigned, 0);
    assert_eq!(
        shown(&plan_of(&pools(&[]), &[], &[held()]), "s"),
        "192.0.2.1/a!NotOwned"
    );
    // The wish can be met elsewhere, so it is.
    let plan = plan_of(&elsewhere, &[], &[wishing("198.51.100.7", held())]);
    assert_eq!(shown(&plan, "s"), "198.51.100.7/b");
    // The pool has another name now; the record follows.
    assert_eq!(
        shown(
            &plan_of(&pools(&[("new", &["192.0.2.0/24"])]), &[], &[held()]),
            "s"
        ),
        "192.0.2.1/new"
    );
    let plan = plan_of(
        &pools(&[("a", &["192.0.2.0/24"])]),
        &[node("n", "192.0.2.1")],
        &[held()],
    );
    assert_eq!(shown(&plan, "s"), "192.0.2.1/a!AddressReserved");
}

#[test]
fn who_is_not_ours_or_going_gets_nothing_new_and_keeps_what_it_has() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let other_class = Service {
        class: Some("other.example/lb".into()),
        ..service("other")
    };
    let not_a_balancer = Service {
        kind: ServiceType::ClusterIp,
        assigned: record("192.0.2.0", 1),
        ..service("cluster-ip")
    };
    let going = |service| Service {
        deleting: true,
        ..service
    };
    let dual = Service {
        families: vec![Family::V6, Family::V4],
        ..service("z-dual")
    };
    let plan = plan_of(
        &config,
        &[],
        &[
            other_class,
            not_a_balancer,
            going(service("going-without")),
            going(holding("going-with", "192.0.2.3", 1)),
            dual,
        ],
    );
    assert_eq!(shown(&plan, "other"), "-");
    assert_eq!(shown(&plan, "cluster-ip"), "-");
    assert_eq!(shown(&plan, "going-without"), "-");
    assert_eq!(shown(&plan, "going-with"), "192.0.2.3/a");
    assert_eq!(
        shown(&plan, "z-dual"),
        "192.0.2.1/a",
        "192.0.2.0 is free only when the record is gone"
    );
}

#[test]
fn what_is_being_given_up_is_held() {
    let config = pools(&[("a", &["192.0.2.0/29"])]);
    let (new, old) = (service("new"), ServiceKey::new("default", "old"));
    let plan = plan(&Snapshot {
        services: vec![&new],
        config: &config,
        class: DEFAULT,
        nodes: vec![],
        held: vec![(ip("192.0.2.0"), &old)],
    });
    assert_eq!(shown(&plan, "new"), "192.0.2.1/a");
}

#[test]
fn counts_saturate_and_huge_pools_cost_nothing() {
    let config = pools(&[("everything", &["0.0.0.0/0"]), ("six", &["::/1"])]);
    let services: Vec<Service> = (0..20_000).map(|n| service(&format!("s{n:05}"))).collect();
    let plan = plan_of(&config, &[], &services);
    assert_eq!(shown(&plan, "s19999"), "0.0.78.31/everything");
    assert_eq!(plan.pools["everything"].available, (1 << 32) - 20_000);
    let space = Space::new(&config, Family::V6);
    assert_eq!(space.available(&config.pools["six"], Family::V6), i64::MAX as u64);
    assert_eq!(
        plan.pools["six"].available, 0,
        "IPv6 addresses are not assigned yet"
    );
}

#[test]
fn the_last_address_of_the_family_is_the_end() {
    let config = pools(&[("a", &["255.255.255.254/31"])]);
    let plan = plan_of(&config, &[], &[service("x"), service("y"), service("z")]);
    assert_eq!(shown(&plan, "y"), "255.255.255.255/a");
    assert_eq!(shown(&plan, "z"), "PoolExhausted");
}

// === properties ===

/// Carries a plan out, as the API server would show it afterwards.
fn applied(plan: &Plan, services: &[Service], now: i64) -> Vec<Service> {
    let mut services = services.to_vec();
    for service in &mut services {
        match plan.services.get(&service.key) {
            Some(Outcome::Assigned { addresses, .. }) => {
                service.foreign_ingress = false;
                service.ingress = addresses.iter().map(|(address, _)| *address).collect();
                let since = service
                    .assigned
                    .as_ref()
                    .filter(|record| service.ingress.iter().all(|address| record.names(*address)))
                    .map_or(now, |record| record.since);
                service.assigned = Some(AssignedRecord {
                    addresses: addresses.clone(),
                    since,
                });
            }
            Some(Outcome::Refused(_)) => {
                service.foreign_ingress = false;
                service.ingress = vec![];
                service.assigned = None;
            }
            Some(Outcome::LeftAlone(_)) => service.assigned = None,
            None => {
                if service.assigned.take().is_some() {
                    service.ingress = vec![];
                }
            }
        }
    }
    services
}

fn given(plan: &Plan) -> BTreeMap<&ServiceKey, Vec<IpAddr>> {
    let addresses = |outcome: &Outcome| match outcome {
        Outcome::Assigned { addresses, .. } => addresses.iter().map(|(address, _)| *address).collect(),
        _ => vec![],
    };
    plan.services
        .iter()
        .map(|(key, outcome)| (key, addresses(outcome)))
        .collect()
}

prop_compose! {
    /// Addresses around the pool 192.0.2.0/28: some of them outside of it.
    fn any_address()(last in 0u8..18) -> IpAddr { IpAddr::from([192, 0, 2, last]) }
}

prop_compose! {
    fn any_service(index: usize)(
        created in 0i64..4,
        deleting in proptest::bool::weighted(0.1),
        balancer in proptest::bool::weighted(0.9),
        class in prop_oneof![3 => Just(None), 2 => Just(Some(CLASS)), 1 => Just(Some("other.example/lb"))],
        families in prop_oneof![
            4 => Just(vec![Family::V4]), 1 => Just(vec![Family::V6]), 1 => Just(vec![Family::V6, Family::V4])
        ],
        requested in proptest::option::weighted(0.3, prop_oneof![
            9 => any_address().prop_map(|address| address.to_string()), 1 => Just("x".to_owned())
        ]),
        foreign_ingress in proptest::bool::weighted(0.05),
        ingress in proptest::collection::vec(any_address(), 0..2),
        recorded in proptest::option::weighted(0.7, (any_address(), proptest::bool::weighted(0.8), 0i64..4)),
    ) -> Service {
        let assigned = recorded.map(|(address, same, since)| AssignedRecord {
            addresses: vec![(ingress.first().copied().filter(|_| same).unwrap_or(address), "a".into())],
            since,
        });
        Service {
            created,
            deleting,
            kind: if balancer { ServiceType::LoadBalancer } else { ServiceType::ClusterIp },
            class: class.map(Into::into),
            families,
            requested,
            foreign_ingress,
            ingress: if balancer { ingress } else { vec![] },
            assigned,
            ..service(&format!("s{index:02}"))
        }
    }
}

fn any_services() -> impl Strategy<Value = Vec<Service>> {
    (0usize..24).prop_flat_map(|count| (0..count).map(any_service).collect::<Vec<_>>())
}

fn world() -> (Config, Vec<Node>) {
    let config = pools(&[
        ("a", &["192.0.2.4-192.0.2.15"]),
        ("b", &["192.0.2.2", "192.0.2.0"]),
    ]);
    (config, vec![node("n", "192.0.2.6")])
}

proptest! {
    #[test]
    fn no_address_is_given_twice_and_all_lie_in_pools(services in any_services()) {
        let (config, nodes) = world();
        let plan = plan_of(&config, &nodes, &services);
        let owners = resolve(services.iter(), &config, DEFAULT).owners;
        let mut seen = BTreeSet::new();
        for (key, outcome) in &plan.services {
            let Outcome::Assigned { addresses, note } = outcome else { continue };
            let service = services.iter().find(|service| service.key == *key).unwrap();
            for (address, pool) in addresses {
                if matches!(note, Some(note) if note.reason == Reason::NotOwned) || config.pool_of(*address).is_none() {
                    // Only what was live before its pool went away may lie outside.
                    prop_assert!(service.ingress.contains(address), "{key} {address}");
                    prop_assert!(service.assigned.as_ref().unwrap().names(*address));
                    continue;
                }
                prop_assert!(seen.insert(*address), "{address} was given twice");
                if !service.ingress.contains(address) {
                    let others = services.iter().filter(|o| o.key != *key && o.ingress.contains(address));
                    for other in others {
                        // Only a hand-edited ingress that is corrected by the same plan may name it.
                        prop_assert!(owners.get(address).is_none_or(|owner| owner.first().key != other.key));
                        let outcome = plan.services.get(&other.key);
                        prop_assert!(
                            matches!(outcome, Some(Outcome::Assigned { .. } | Outcome::Refused(_))),
                            "{address} was given to {key} and stays in the status of {}", other.key
                        );
                    }
                }
                prop_assert_eq!(&config.pool_of(*address).unwrap().name, pool);
                if nodes[0].addresses.contains(address) {
                    prop_assert!(service.ingress.contains(address), "a node's address was given to {}", key);
                }
            }
        }
    }

    #[test]
    fn what_was_carried_out_stays(services in any_services()) {
        let (config, nodes) = world();
        let mut services = services;
        // What is given up becomes free one step later, so things may settle in a few steps; then nothing moves.
        for step in 0..4 {
            let before = plan_of(&config, &nodes, &services);
            services = applied(&before, &services, 10 + step);
            let after = plan_of(&config, &nodes, &services);
            for (key, addresses) in given(&before) {
                let wish_came_true = services.iter().any(|s| s.key == *key && s.requested.is_some());
                if !addresses.is_empty() && !wish_came_true && config.pool_of(addresses[0]).is_some() {
                    prop_assert_eq!(&given(&after)[key], &addresses, "{} moved without need", key);
                }
            }
        }
        let last = plan_of(&config, &nodes, &services);
        let again = plan_of(&config, &nodes, &applied(&last, &services, 20));
        prop_assert_eq!(last, again);
    }

    #[test]
    fn a_valid_holder_is_never_moved(services in any_services()) {
        let (config, nodes) = world();
        let plan = plan_of(&config, &nodes, &services);
        let given = given(&plan);
        let owners = resolve(services.iter(), &config, DEFAULT).owners;
        for (address, owner) in owners {
            let service = owner.first();
            if service.requested.is_none() && service.families.contains(&Family::V4) {
                prop_assert!(given[&service.key].contains(&address), "{} lost {address}", service.key);
            }
        }
    }

    #[test]
    fn the_order_of_the_input_means_nothing(
        (services, shuffled) in any_services().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
    ) {
        let (config, nodes) = world();
        prop_assert_eq!(plan_of(&config, &nodes, &services), plan_of(&config, &nodes, &shuffled));
    }

    #[test]
    fn a_freed_address_goes_to_the_service_that_waits(freed in 0usize..12) {
        let config = pools(&[("a", &["192.0.2.4-192.0.2.15"])]);
        let mut services: Vec<Service> = (0..13).map(|n| service(&format!("s{n:02}"))).collect();
        let full = plan_of(&config, &[], &services);
        prop_assert_eq!(shown(&full, "s12"), "PoolExhausted");
        services = applied(&full, &services, 1);
        let gone = services.remove(freed);
        let plan = plan_of(&config, &[], &services);
        prop_assert_eq!(&given(&plan)[&services[11].key], &gone.ingress);
    }
}
