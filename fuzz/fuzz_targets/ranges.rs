//! A range of addresses: what can be read is a range, and reads back from its own text and from its CIDRs.
#![no_main]

use fairlead_core::range::IpRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(range) = IpRange::parse(text) else {
        return;
    };
    assert!(range.first() <= range.last() && range.contains(range.first()) && range.contains(range.last()));
    assert_eq!(IpRange::parse(&range.to_string()), Ok(range));
    let cidrs: Vec<IpRange> = range.cidrs().into_iter().map(IpRange::from).collect();
    assert!(cidrs.len() <= 254, "{} CIDRs", cidrs.len());
    assert_eq!(cidrs.first().map(IpRange::first), Some(range.first()));
    assert_eq!(cidrs.last().map(IpRange::last), Some(range.last()));
    assert!(cidrs.windows(2).all(|pair| !pair[0].overlaps(&pair[1])));
    let size = cidrs.iter().fold(0u64, |sum, cidr| {
        sum.saturating_add(cidr.size()).min(i64::MAX as u64)
    });
    assert_eq!(size, range.size());
});
