//! Inclusive address ranges, their textual forms, and maps from disjoint ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use thiserror::Error;

use crate::model::Family;

/// An inclusive range of addresses of one family, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// Neither a CIDR, nor `first-last`, nor one address.
    #[error("{0:?} is neither a CIDR (192.0.2.0/24), nor a range (192.0.2.10-192.0.2.20), nor an address")]
    Unreadable(String),
    /// The two ends have different families.
    #[error("{0:?} mixes IPv4 and IPv6")]
    MixedFamilies(String),
    /// The last address is smaller than the first.
    #[error("{0:?} ends before it begins")]
    Reversed(String),
    /// IPv4-mapped IPv6 addresses are two names for one address.
    #[error("{0:?} is an IPv4-mapped IPv6 address; write it as IPv4")]
    Mapped(String),
}

impl IpRange {
    /// The range between two addresses, both included; `None` when families differ or it would be empty.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (Family::of(first) == Family::of(last) && first <= last).then_some(Self { first, last })
    }

    /// Reads `192.0.2.0/24`, `192.0.2.10-192.0.2.20` or a single address, of either family.
    ///
    /// # Errors
    /// [`RangeError`] says what is wrong, quoting the text.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let unreadable = || RangeError::Unreadable(text.to_owned());
        let trimmed = text.trim();
        let range = if let Some((first, last)) = trimmed.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| unreadable())?;
            let last: IpAddr = last.trim().parse().map_err(|_| unreadable())?;
            if Family::of(first) != Family::of(last) {
                return Err(RangeError::MixedFamilies(text.to_owned()));
            }
            Self::new(first, last).ok_or_else(|| RangeError::Reversed(text.to_owned()))?
        } else if trimmed.contains('/') {
            let net: IpNet = trimmed.parse().map_err(|_| unreadable())?;
            Self {
                first: net.network(),
                last: net.broadcast(),
            }
        } else {
            let address: IpAddr = trimmed.parse().map_err(|_| unreadable())?;
            Self {
                first: address,
                last: address,
            }
        };
        if [range.first, range.last].iter().any(is_mapped) {
            return Err(RangeError::Mapped(text.to_owned()));
        }
        Ok(range)
    }

    /// First address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Family of both ends.
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Is the address in the range?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family() == Family::of(address) && self.first <= address && address <= self.last
    }

    /// Do the two ranges share an address?
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses, saturating at 2^63−1.
    pub fn size(&self) -> u64 {
        const MOST: u128 = i64::MAX as u128;
        let width = bits(self.last) - bits(self.first);
        u64::try_from(width.saturating_add(1).min(MOST)).unwrap_or(i64::MAX as u64)
    }
}

impl IpRange {
    /// Addresses in ascending order, gathered into the fewest ranges there are.
    pub fn gather(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for address in addresses {
            match ranges.last_mut() {
                Some(range) if next(range.last) == Some(address) => range.last = address,
                _ => ranges.push(Self::from(address)),
            }
        }
        ranges
    }

    /// Its addresses, in ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let last = self.last;
        let following = move |address: &IpAddr| next(*address).filter(|next| *next <= last);
        std::iter::successors(Some(self.first), following)
    }

    /// The range as CIDRs, the fewest there are, in ascending order.
    pub fn cidrs(&self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl From<IpNet> for IpRange {
    fn from(net: IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }
}

impl From<IpAddr> for IpRange {
    fn from(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }
}

/// Values of disjoint ranges; a look-up is O(log n).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeMap<T> {
    /// By first address: last address and value.
    ranges: BTreeMap<IpAddr, (IpAddr, T)>,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self {
            ranges: BTreeMap::new(),
        }
    }
}

impl<T: Clone> RangeMap<T> {
    /// Gives a value to the parts of a range that have none yet.
    pub fn insert(&mut self, range: IpRange, value: &T) {
        let mut from = Some(range.first);
        for known in self
            .overlapping(range)
            .map(|(known, _)| known)
            .collect::<Vec<_>>()
        {
            if let Some(start) = from.filter(|start| *start < known.first)
                && let Some(end) = previous(known.first)
            {
                self.ranges.insert(start, (end, value.clone()));
            }
            from = next(known.last);
        }
        if let Some(start) = from.filter(|start| *start <= range.last) {
            self.ranges.insert(start, (range.last, value.clone()));
        }
    }

    /// The value at an address, and the range that has it.
    pub fn get(&self, address: IpAddr) -> Option<(IpRange, &T)> {
        let (&first, (last, value)) = self.ranges.range(..=address).next_back()?;
        let range = IpRange { first, last: *last };
        range.contains(address).then_some((range, value))
    }

    /// The ranges that share an address with this one, in ascending order.
    pub fn overlapping(&self, range: IpRange) -> impl Iterator<Item = (IpRange, &T)> {
        let start = self
            .get(range.first)
            .map_or(range.first, |(known, _)| known.first);
        self.ranges
            .range(start..=range.last)
            .map(|(&first, (last, value))| (IpRange { first, last: *last }, value))
    }

    /// The parts of a range that have no value, in ascending order.
    pub fn gaps(&self, range: IpRange) -> Vec<IpRange> {
        let mut gaps = Vec::new();
        let mut from = Some(range.first);
        for (known, _) in self.overlapping(range) {
            if let Some(gap) = from.and_then(|start| IpRange::new(start, previous(known.first)?)) {
                gaps.push(gap);
            }
            from = next(known.last);
        }
        gaps.extend(from.and_then(|start| IpRange::new(start, range.last)));
        gaps
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The address as a number.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address after this one in its family; `None` after the last one.
pub fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

/// The address before this one in its family; `None` before the first one.
pub fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

fn is_mapped(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_are_gathered_and_come_back(lasts in proptest::collection::btree_set(0u8..40, 0..30), v6: bool) {
            let address = |last: u8| -> IpAddr {
                if v6 { Ipv6Addr::from_bits(u128::from(last) + 1).into() } else { Ipv4Addr::new(192, 0, 2, last).into() }
            };
            let addresses: Vec<IpAddr> = lasts.iter().copied().map(address).collect();
            let ranges = IpRange::gather(addresses.iter().copied());
            let back: Vec<IpAddr> = ranges.iter().flat_map(IpRange::addresses).collect();
            prop_assert_eq!(back, addresses);
            for pair in ranges.windows(2) {
                prop_assert_ne!(next(pair[0].last()), Some(pair[1].first()));
            }
        }
    }

    #[test]
    fn the_ends_of_a_family_are_no_trouble() {
        let all = ["255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
            .map(|text| text.parse().unwrap());
        let ranges = IpRange::gather(all);
        assert_eq!(ranges.len(), 3);
        assert_eq!(
            ranges.iter().flat_map(IpRange::addresses).collect::<Vec<_>>(),
            all
        );
    }

    #[test]
    fn reads_the_three_forms() {
        for (text, shown, size) in [
            ("192.0.2.0/30", "192.0.2.0-192.0.2.3", 4),
            (" 192.0.2.1 - 192.0.2.3 ", "192.0.2.1-192.0.2.3", 3),
            ("192.0.2.7", "192.0.2.7", 1),
            ("2001:db8::/127", "2001:db8::-2001:db8::1", 2),
            ("10.0.0.0/8", "10.0.0.0-10.255.255.255", 1 << 24),
            (
                "2001:db8::/64",
                "2001:db8::-2001:db8::ffff:ffff:ffff:ffff",
                i64::MAX as u64,
            ),
            (
                "::/0",
                "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                i64::MAX as u64,
            ),
        ] {
            // ::/0 contains mapped addresses but does not begin or end with one.
            let range = IpRange::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (range.to_string().as_str(), range.size()),
                (shown, size),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        let case = |text: &str| IpRange::parse(text).unwrap_err();
        assert!(matches!(case("192.0.2"), RangeError::Unreadable(_)));
        assert!(matches!(case("192.0.2.0/33"), RangeError::Unreadable(_)));
        assert!(matches!(
            case("192.0.2.1-2001:db8::1"),
            RangeError::MixedFamilies(_)
        ));
        assert!(matches!(case("192.0.2.9-192.0.2.1"), RangeError::Reversed(_)));
        assert!(matches!(case("::ffff:192.0.2.1"), RangeError::Mapped(_)));
        assert!(matches!(case(""), RangeError::Unreadable(_)));
    }

    #[test]
    fn next_stops_at_the_end_of_the_family() {
        assert_eq!(
            next("192.0.2.255".parse().unwrap()),
            Some("192.0.3.0".parse().unwrap())
        );
        assert_eq!(next("255.255.255.255".parse().unwrap()), None);
        assert_eq!(
            next("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            None
        );
    }

    #[test]
    fn ranges_as_cidrs() {
        for (text, cidrs) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            (
                "192.0.2.1-192.0.2.6",
                "192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32",
            ),
            ("2001:db8::1-2001:db8::2", "2001:db8::1/128 2001:db8::2/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            let shown: Vec<String> = IpRange::parse(text)
                .unwrap()
                .cidrs()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(shown.join(" "), cidrs, "{text}");
        }
    }

    #[test]
    fn a_map_gives_values_to_uncovered_parts_only() {
        let range = |text: &str| IpRange::parse(text).unwrap();
        let mut map = RangeMap::default();
        map.insert(range("192.0.2.4-192.0.2.5"), &'a');
        map.insert(range("192.0.2.8-192.0.2.9"), &'b');
        map.insert(range("192.0.2.0/28"), &'c');
        map.insert(range("2001:db8::/64"), &'d');
        let value = |text: &str| map.get(text.parse().unwrap()).map(|(_, value)| *value);
        let row: String = (0..17)
            .map(|n| value(&format!("192.0.2.{n}")).unwrap_or('-'))
            .collect();
        assert_eq!(row, "ccccaaccbbcccccc-");
        assert_eq!(value("2001:db8::5"), Some('d'));
        assert_eq!(value("::1"), None);
        assert_eq!(
            map.gaps(range("192.0.2.14-192.0.2.20")),
            [range("192.0.2.16-192.0.2.20")]
        );
        assert_eq!(map.gaps(range("0.0.0.0-0.0.0.9")), [range("0.0.0.0-0.0.0.9")]);
        assert_eq!(map.gaps(range("192.0.2.0/29")), []);
    }

    #[test]
    fn overlap_is_symmetric_and_by_family() {
        let range = |text: &str| IpRange::parse(text).unwrap();
        assert!(range("192.0.2.0/24").overlaps(&range("192.0.2.255-192.0.3.1")));
        assert!(range("192.0.2.255-192.0.3.1").overlaps(&range("192.0.2.0/24")));
        assert!(!range("192.0.2.0/24").overlaps(&range("192.0.3.0/24")));
        assert!(!range("0.0.0.0/0").overlaps(&range("::/0")));
    }
}
