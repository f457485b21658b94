//! What a Service asks for, in lines: `spec.loadBalancerIP`, our annotations, MetalLB's, and that for external IPs.
#![no_main]

use fairlead_core::ipam::wish::{ExternalWish, external_wish, wish};
use fairlead_core::model::{Service, Wishes};
use fairlead_core::testing::service;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n').map(str::to_owned);
    let mut line = || lines.next().filter(|line| !line.is_empty());
    let service = Service {
        requested: line(),
        wishes: Wishes {
            addresses: line(),
            pools: line(),
            sharing_key: None,
        },
        metallb: Wishes {
            addresses: line(),
            pools: line(),
            sharing_key: None,
        },
        ..service("s")
    };
    for metallb in [false, true] {
        match wish(&service, metallb) {
            Ok(wish) => assert!(wish.addresses.len() <= 32 && wish.pools.len() <= 32),
            Err(refusal) => assert!(refusal.message.len() < 4000, "{}", refusal.message.len()),
        }
    }
    let text = line().unwrap_or_default();
    match external_wish(&text) {
        Ok(ExternalWish::Addresses(addresses)) => assert!((1..=32).contains(&addresses.len())),
        Ok(ExternalWish::Pools(pools)) => {
            assert!((1..=32).contains(&pools.len()) && pools.iter().all(|pool| !pool.is_empty()));
        }
        Err(refusal) => assert!(refusal.message.len() < 4000, "{}", refusal.message.len()),
    }
});
