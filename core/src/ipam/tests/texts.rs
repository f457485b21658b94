//! Whatever users write, nothing panics, and what is read makes sense.

use super::*;
use crate::range::IpRange;
use proptest::prelude::*;

/// Texts near to what is meant, and any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[0-9a-f.:/, -]{0,40}",
        "(192\\.0\\.2\\.[0-9]{1,3}|2001:db8::[0-9a-f]{1,4})(/[0-9]{1,3}|-192\\.0\\.2\\.[0-9]{1,3}|, ?2001:db8::[0-9])?",
        "(::|0\\.0\\.0\\.0|::ffff:1\\.2\\.3\\.4|255\\.255\\.255\\.255)(/[0-9]{1,3})?",
    ]
}

proptest! {
    #[test]
    fn a_range_reads_back(text in text()) {
        if let Ok(range) = IpRange::parse(&text) {
            prop_assert!(range.first() <= range.last());
            prop_assert_eq!(IpRange::parse(&range.to_string()), Ok(range));
            let cidrs: Vec<IpRange> = range.cidrs().into_iter().map(IpRange::from).collect();
            let ends = cidrs.first().zip(cidrs.last()).map(|(first, last)| (first.first(), last.last()));
            prop_assert_eq!(ends, Some((range.first(), range.last())));
        }
    }

    #[test]
    fn any_pools_make_rules_that_give_only_what_is_in_a_spec(
        addresses in proptest::collection::vec(proptest::collection::vec(text(), 0..3), 0..4),
        reserved in proptest::collection::vec(text(), 0..2),
        status in proptest::collection::vec(text(), 0..3),
        wish in proptest::option::of(text()),
    ) {
        let pools: Vec<RawPool> = addresses
            .into_iter()
            .enumerate()
            .map(|(n, addresses)| RawPool {
                name: format!("p{n}"),
                addresses,
                reserved: reserved.clone(),
                published: status.clone(),
                retained: status.clone(),
                ..RawPool::default()
            })
            .collect();
        let config = compile(&Written::new(&pools, &[])).config;
        let ranges: Vec<&IpRange> = config.pools.values().flat_map(|pool| &pool.ranges).collect();
        for (n, range) in ranges.iter().enumerate() {
            prop_assert!(ranges[..n].iter().all(|other| !other.overlaps(range)), "{range}");
        }
        let asking = Service { requested: wish.clone(), external_wish: wish, ..service("s") };
        let ledger = ledger_of(Rules::new(config.clone(), DEFAULT), &[asking, service("t")]);
        for (_, decision) in ledger.decisions() {
            if let Some(Outcome::Assigned { addresses, .. }) = &decision.ingress {
                for (address, pool) in addresses {
                    prop_assert!(config.pools[pool].contains(*address), "{address}");
                }
            }
        }
    }
}
