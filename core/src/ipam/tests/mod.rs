mod simulation;

use super::*;
use crate::config::{RawPool, compile};
use crate::model::{AssignedRecord, Family};
use crate::ownership::ClassPolicy;
use crate::range::IpRange;
use crate::testing::{pool, service};

const DEFAULT: ClassPolicy = ClassPolicy {
    serve_classless: true,
    metallb: false,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rules(pools: &[RawPool]) -> Rules {
    Rules::new(compile(pools, &[]).config, DEFAULT)
}

fn record(addresses: &[&str], since: i64) -> Option<AssignedRecord> {
    Some(AssignedRecord {
        addresses: addresses.iter().map(|a| (ip(a), "a".into())).collect(),
        since,
    })
}

/// A Service that holds addresses, recorded at `since`.
fn holding(name: &str, addresses: &[&str], since: i64) -> Service {
    Service {
        ingress: addresses.iter().map(|a| ip(a)).collect(),
        assigned: record(addresses, since),
        ..service(name)
    }
}

fn plan_of(rules: Rules, services: &[Service]) -> BTreeMap<ServiceKey, Decision> {
    plan(rules, services.iter().cloned().map(Arc::new))
}

/// `192.0.2.1/a`, with `!Reason` appended for a note; or the reason alone, in brackets if the status is left alone.
fn shown(plan: &BTreeMap<ServiceKey, Decision>, name: &str) -> String {
    match &plan[&ServiceKey::new("default", name)].ingress {
        None => "-".to_owned(),
        Some(Outcome::Refused(refusal)) => refusal.reason.to_string(),
        Some(Outcome::LeftAlone(refusal)) => format!("[{}]", refusal.reason),
        Some(Outcome::Assigned { addresses, note, .. }) => {
            let parts: Vec<String> = addresses.iter().map(|(a, pool)| format!("{a}/{pool}")).collect();
            let note = note.as_ref().map(|note| format!("!{}", note.reason));
            parts.join("+") + &note.unwrap_or_default()
        }
    }
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
    let plan = plan_of(rules, &services);
    assert_eq!(shown(&plan, "y"), "198.51.100.3/a");
    assert_eq!(shown(&plan, "z"), "198.51.100.9/a");
    assert_eq!(shown(&plan, "young"), "192.0.2.0/b");
    assert_eq!(shown(&plan, "last"), "192.0.2.1/b");
}

#[test]
fn what_is_held_is_kept_and_gaps_are_filled() {
    let node = (IpRange::from(ip("192.0.2.1")), "an address of node n".to_owned());
    let rules = rules(&[pool("a", &["192.0.2.0/29"])]).with_never([node]);
    let services = [
        service("new"),
        holding("x", &["192.0.2.0"], 1),
        holding("y", &["192.0.2.2"], 1),
    ];
    let mut ledger = Ledger::new(rules);
    for service in services {
        ledger.set(Arc::new(service), vec![]);
    }
    ledger.settle();
    let plan: BTreeMap<ServiceKey, Decision> = ledger
        .decisions()
        .map(|(key, decision)| (key.clone(), decision.clone()))
        .collect();
    assert_eq!(shown(&plan, "x"), "192.0.2.0/a");
    assert_eq!(shown(&plan, "y"), "192.0.2.2/a");
    assert_eq!(shown(&plan, "new"), "192.0.2.3/a", "192.0.2.1 is a node's");
    let usage = Usage {
        total: 7,
        assigned: 3,
        available: 4,
    };
    assert_eq!(ledger.pool("a").v4, Some(usage));
    assert_eq!(ledger.claimed().len(), 3);
}

#[test]
fn both_families_in_their_order_from_one_pool() {
    let rules = rules(&[
        pool("a", &["192.0.2.0/29"]),
        pool("b", &["198.51.100.0/29", "2001:db8::1-2001:db8::1"]),
    ]);
    let dual = |name: &str| Service {
        families: vec![Family::V6, Family::V4],
        ..service(name)
    };
    let plan = plan_of(rules, &[dual("s"), dual("t")]);
    assert_eq!(shown(&plan, "s"), "2001:db8::1/b+198.51.100.0/b");
    assert_eq!(shown(&plan, "t"), "192.0.2.0/a!FamilyMissing");
}
