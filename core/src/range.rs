//! Inclusive address ranges and their textual forms.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
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

fn is_mapped(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn overlap_is_symmetric_and_by_family() {
        let range = |text: &str| IpRange::parse(text).unwrap();
        assert!(range("192.0.2.0/24").overlaps(&range("192.0.2.255-192.0.3.1")));
        assert!(range("192.0.2.255-192.0.3.1").overlaps(&range("192.0.2.0/24")));
        assert!(!range("192.0.2.0/24").overlaps(&range("192.0.3.0/24")));
        assert!(!range("0.0.0.0/0").overlaps(&range("::/0")));
    }
}
