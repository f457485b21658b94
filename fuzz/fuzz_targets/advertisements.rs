//! An advertisement and the health of a pool, one text line a field entry: whatever they say, what is accepted is within
//! its bounds, and what is refused disturbs nothing else.
#![no_main]

use std::time::Duration;

use fairlead_core::config::{RawAdvertisement, RawPool, Written, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let good = RawAdvertisement {
        name: "good".into(),
        ..RawAdvertisement::default()
    };
    let mut fuzzed = RawAdvertisement {
        name: "fuzzed".into(),
        ..RawAdvertisement::default()
    };
    let mut pool = RawPool {
        name: "pool".into(),
        addresses: vec!["192.0.2.0/24".into()],
        ..RawPool::default()
    };
    let mut names = Vec::new();
    for line in text.lines().take(80) {
        let Some((mark, rest)) = line.split_at_checked(1) else {
            continue;
        };
        let rest = rest.to_owned();
        match mark {
            "i" => fuzzed.interfaces.push(rest),
            "n" => names.push(rest),
            "p" => fuzzed.preempt_after = Some(rest),
            "h" => pool.health.interval = Some(rest),
            "t" => pool.health.timeout = Some(rest),
            "f" => pool.health.failure = rest.parse().ok(),
            _ => {}
        }
    }
    let config = compile(&Written::new(&[pool], &[fuzzed, good])).config;
    assert!(config.advertisements.contains_key("good"));
    if let Some(accepted) = config.advertisements.get("fuzzed") {
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(accepted.preempt_after.is_none_or(|after| after <= day));
        for name in &names {
            let _ = accepted.interfaces.allows(name);
        }
    }
    if let Some(pool) = config.pools.get("pool") {
        let (interval, timeout) = (pool.health.interval, pool.health.timeout);
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        assert!(interval.is_none_or(|interval| bounds.contains(&interval)));
        assert!(
            interval
                .zip(timeout)
                .is_none_or(|(interval, timeout)| timeout <= interval)
        );
        assert!(pool.health.failure.is_none_or(|count| (1..=100).contains(&count)));
    }
});
