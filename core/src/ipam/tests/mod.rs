mod external;
mod families;
mod keeping;
mod pools;
mod requests;
mod sharing;
mod simulation;
mod texts;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::config::{RawPool, Written, compile};
use crate::model::{AssignedRecord, ExternalRecord, Service, Wishes};
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
    Rules::new(compile(&Written::new(pools, &[])).config, DEFAULT)
}

/// `rules` with the addresses of a node.
fn with_node(rules: Rules, addresses: &[&str]) -> Rules {
    let never = addresses
        .iter()
        .map(|a| (IpRange::from(ip(a)), "an address of node n".to_owned()));
    rules.with_never(never)
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

fn wishing(address: &str, service: Service) -> Service {
    Service {
        requested: Some(address.into()),
        ..service
    }
}

fn from_pools(pools: &str, service: Service) -> Service {
    let wishes = Wishes {
        pools: Some(pools.into()),
        ..service.wishes.clone()
    };
    Service { wishes, ..service }
}

/// A ledger that has decided for these Services.
fn ledger_of(rules: Rules, services: &[Service]) -> Ledger {
    let mut ledger = Ledger::new(rules);
    for service in services {
        ledger.set(Arc::new(service.clone()), vec![]);
    }
    ledger.settle();
    ledger
}

fn plan_of(rules: Rules, services: &[Service]) -> BTreeMap<ServiceKey, Decision> {
    ledger_of(rules, services)
        .decisions()
        .map(|(key, decision)| (key.clone(), decision.clone()))
        .collect()
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

/// What is decided in a ledger, as `shown`.
fn told(ledger: &Ledger, name: &str) -> String {
    let key = ServiceKey::new("default", name);
    let decision = ledger.decision(&key).unwrap().clone();
    shown(&[(key, decision)].into(), name)
}

/// Every sentence of the decision.
fn message(plan: &BTreeMap<ServiceKey, Decision>, name: &str) -> String {
    let decision = &plan[&ServiceKey::new("default", name)];
    let mut messages: Vec<&str> = Vec::new();
    match &decision.ingress {
        Some(Outcome::Refused(refusal) | Outcome::LeftAlone(refusal)) => messages.push(&refusal.message),
        Some(Outcome::Assigned { note, lost, .. }) => {
            messages.extend(note.iter().chain(lost).map(|refusal| refusal.message.as_str()));
        }
        None => {}
    }
    let note = decision
        .external
        .iter()
        .filter_map(|external| external.note.as_ref());
    messages.extend(note.map(|refusal| refusal.message.as_str()));
    messages.join("; ")
}

/// The external IPs: `192.0.2.1/a`, `*` for an adopted one, and `!Reason` for a note.
fn external(plan: &BTreeMap<ServiceKey, Decision>, name: &str) -> String {
    let Some(external) = &plan[&ServiceKey::new("default", name)].external else {
        return "-".to_owned();
    };
    let one = |external: &ExternalAddress| {
        let mark = if external.adopted { "*" } else { "" };
        format!("{}/{}{mark}", external.address, external.pool)
    };
    let parts: Vec<String> = external.addresses.iter().map(one).collect();
    let note = external.note.as_ref().map(|note| format!("!{}", note.reason));
    parts.join("+") + &note.unwrap_or_default()
}

fn external_record(addresses: &[(&str, bool)], since: i64) -> Option<ExternalRecord> {
    let one = |(address, adopted): &(&str, bool)| ExternalAddress {
        address: ip(address),
        pool: "a".into(),
        adopted: *adopted,
    };
    Some(ExternalRecord {
        addresses: addresses.iter().map(one).collect(),
        since,
    })
}
