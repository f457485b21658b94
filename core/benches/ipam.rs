//! What address management costs: from nothing, and change by change.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot be set up panics, and criterion's macros document nothing"
)]

use std::net::IpAddr;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fairlead_core::config::{RawPool, Written, compile};
use fairlead_core::ipam::{Ledger, Rules};
use fairlead_core::model::{AssignedRecord, Family, FamilyPolicy, Service, ServiceKey};
use fairlead_core::ownership::ClassPolicy;

const SERVICES: u32 = 10_000;

fn rules(pools: &[(&str, &[&str])]) -> Rules {
    let raw: Vec<RawPool> = pools
        .iter()
        .map(|(name, addresses)| fairlead_core::testing::pool(name, addresses))
        .collect();
    let class = ClassPolicy {
        serve_classless: true,
        metallb: true,
    };
    Rules::new(compile(&Written::new(&raw, &[])).config, class)
}

fn three() -> Rules {
    rules(&[
        ("a", &["10.0.0.0/20", "2001:db8:a::/64"]),
        ("b", &["10.1.0.0/20", "2001:db8:b::/64"]),
        ("c", &["10.2.0.0/18", "2001:db8:c::/64"]),
    ])
}

fn service(n: u32, dual: bool) -> Service {
    let (families, family_policy) = if dual {
        (vec![Family::V4, Family::V6], FamilyPolicy::RequireDualStack)
    } else {
        (vec![Family::V4], FamilyPolicy::SingleStack)
    };
    let name = format!("service-{n:05}");
    Service {
        key: ServiceKey::new(format!("ns{}", n % 50), name.clone()),
        created: i64::from(n / 7),
        families,
        family_policy,
        ..fairlead_core::testing::service(&name)
    }
}

fn holding(addresses: &[IpAddr], pool: &str, service: Service) -> Service {
    Service {
        ingress: addresses.to_vec(),
        assigned: Some(AssignedRecord {
            addresses: addresses
                .iter()
                .map(|address| (*address, pool.to_owned()))
                .collect(),
            since: 1,
        }),
        ..service
    }
}

/// An address of pool `c`.
fn v4(n: u32) -> IpAddr {
    let [_, _, high, low] = n.to_be_bytes();
    IpAddr::from([10, 2, high, low])
}

fn v6(n: u32) -> IpAddr {
    let [high, low] = [n >> 16, n & 0xffff].map(|part| part as u16);
    IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, high, low])
}

/// So many Services, of which every second one, or each, has its addresses.
fn services(all: bool, dual: bool) -> Vec<Arc<Service>> {
    let one = |n: u32| {
        let service = service(n, dual);
        if !all && n % 2 == 1 {
            return service;
        }
        // In no order, as addresses are after a while.
        let n = n * 7919 % SERVICES;
        let addresses = if dual { vec![v4(n), v6(n)] } else { vec![v4(n)] };
        holding(&addresses, "c", service)
    };
    (0..SERVICES).map(|n| Arc::new(one(n))).collect()
}

fn fill(rules: Rules, services: &[Arc<Service>]) -> Ledger {
    let mut ledger = Ledger::new(rules);
    for service in services {
        ledger.set(Arc::clone(service), vec![]);
    }
    ledger.settle();
    ledger
}

fn cold(c: &mut Criterion) {
    let mut group = c.benchmark_group("cold, 10000 services");
    group.sample_size(20);
    for (name, all, dual) in [
        ("half with addresses", false, false),
        ("all with addresses", true, false),
        ("dual-stack, half with addresses", false, true),
        ("dual-stack, all with addresses", true, true),
    ] {
        let (rules, services) = (three(), services(all, dual));
        group.bench_function(name, |b| {
            b.iter_batched(
                || rules.clone(),
                |rules| fill(rules, &services),
                BatchSize::PerIteration,
            );
        });
    }
    let (rules, full) = (three(), fill(three(), &services(true, true)));
    group.bench_function("other rules, dual-stack", |b| {
        b.iter_batched_ref(
            || (full.clone(), Some(rules.clone())),
            |(ledger, rules)| {
                ledger.change_rules(rules.take().unwrap());
                ledger.settle()
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("one change");
    for dual in [false, true] {
        let mut ledger = fill(three(), &services(true, dual));
        let new = Arc::new(service(SERVICES, dual));
        let name = if dual {
            "a dual-stack service more at 10000"
        } else {
            "a service more at 10000"
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                ledger.set(Arc::clone(&new), vec![]);
                let changed = ledger.settle();
                ledger.remove(&new.key);
                ledger.settle();
                changed
            });
        });
    }
    let pools = || rules(&[("full", &["10.2.0.0/20"])]);
    let holders = (0..4096).map(|n| Arc::new(holding(&[v4(n)], "full", service(n, false))));
    let waiting = (5000..5100).map(|n| Arc::new(service(n, false)));
    let mut ledger = fill(pools(), &holders.chain(waiting).collect::<Vec<_>>());
    let holder = Arc::new(holding(&[v4(7)], "full", service(7, false)));
    group.bench_function("an address free with 100 waiting, and taken back", |b| {
        b.iter(|| {
            ledger.remove(&holder.key);
            let changed = ledger.settle();
            ledger.set(Arc::clone(&holder), vec![]);
            ledger.settle();
            changed
        });
    });
    group.finish();
}

fn size(c: &mut Criterion) {
    let mut group = c.benchmark_group("1000 services, by size of the pool");
    group.sample_size(20);
    for addresses in ["10.0.0.0/22", "10.0.0.0/8", "2001:db8::/118", "2001:db8::/64"] {
        let family = if addresses.contains(':') {
            Family::V6
        } else {
            Family::V4
        };
        let one = |n| Service {
            families: vec![family],
            ..service(n, false)
        };
        let services: Vec<Arc<Service>> = (0..1000).map(|n| Arc::new(one(n))).collect();
        let ranges = [addresses];
        group.bench_function(addresses, |b| {
            b.iter(|| fill(rules(&[("p", &ranges)]), &services));
        });
    }
    group.finish();
}

fn sharing(c: &mut Criterion) {
    let mut group = c.benchmark_group("100 services share one address");
    let one = |n: u32| {
        let mut service = service(n, false);
        service.wishes.sharing_key = Some("k".to_owned());
        service.ports[0].port = 1000 + n as u16;
        service
    };
    let new: Vec<Arc<Service>> = (0..100).map(|n| Arc::new(one(n))).collect();
    let held: Vec<Arc<Service>> = (0..100)
        .map(|n| Arc::new(holding(&[v4(0)], "c", one(n))))
        .collect();
    group.bench_function("new", |b| b.iter(|| fill(three(), &new)));
    group.bench_function("held", |b| b.iter(|| fill(three(), &held)));
    let mut ledger = fill(three(), &held);
    group.bench_function("one leaves and comes back", |b| {
        b.iter(|| {
            ledger.remove(&held[50].key);
            ledger.settle();
            ledger.set(Arc::clone(&held[50]), vec![]);
            ledger.settle()
        });
    });
    group.finish();
}

criterion_group!(benches, cold, one_change, size, sharing);
criterion_main!(benches);
