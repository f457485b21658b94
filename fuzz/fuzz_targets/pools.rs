//! Two pools, one text line a field entry: whatever they say, what is accepted does not overlap, and addresses are given
//! from the spec alone.
#![no_main]

use fairlead_core::config::{RawPool, Written, compile};
use fairlead_core::ipam::{Ledger, Outcome, Rules};
use fairlead_core::model::{Family, FamilyPolicy, Service};
use fairlead_core::ownership::ClassPolicy;
use fairlead_core::testing::service;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut pools = [RawPool::default(), RawPool::default()];
    for (n, pool) in pools.iter_mut().enumerate() {
        pool.name = format!("p{n}");
    }
    for line in text.lines().take(40) {
        let Some((mark, rest)) = line.split_at_checked(1) else {
            continue;
        };
        let rest = rest.to_owned();
        match mark {
            "a" => pools[0].addresses.push(rest),
            "A" => pools[1].addresses.push(rest),
            "r" => pools[0].reserved.push(rest),
            "R" => pools[1].reserved.push(rest),
            "p" => pools[0].published.push(rest),
            "P" => pools[1].published.push(rest),
            "k" => pools[0].retained.push(rest),
            "b" => pools[0].avoid_buggy = true,
            "d" => pools[1].deleting = true,
            _ => {}
        }
    }
    let config = compile(&Written::new(&pools, &[])).config;
    let ranges: Vec<_> = config.pools.values().flat_map(|pool| &pool.ranges).collect();
    for (n, range) in ranges.iter().enumerate() {
        assert!(
            ranges[..n].iter().all(|other| !other.overlaps(range)),
            "{range} overlaps"
        );
    }
    let class = ClassPolicy {
        serve_classless: true,
        metallb: false,
    };
    let mut ledger = Ledger::new(Rules::new(config.clone(), class));
    for name in ["s", "t", "u"] {
        let service = Service {
            families: vec![Family::V4, Family::V6],
            family_policy: FamilyPolicy::PreferDualStack,
            ..service(name)
        };
        ledger.set(service.into(), Vec::new());
    }
    ledger.settle();
    let mut seen = Vec::new();
    for decision in ["s", "t", "u"]
        .iter()
        .filter_map(|name| ledger.decision(&service(name).key))
    {
        if let Some(Outcome::Assigned { addresses, .. }) = &decision.ingress {
            for (address, pool) in addresses {
                assert!(
                    config.pools[pool].contains(*address),
                    "{address} is not in {pool}"
                );
                assert!(!seen.contains(address), "{address} is given twice");
                seen.push(*address);
            }
        }
    }
    for name in ["p0", "p1"] {
        let state = ledger.pool(name);
        for usage in [state.v4, state.v6].into_iter().flatten() {
            assert!(usage.available <= usage.total && usage.assigned <= 6);
        }
    }
});
