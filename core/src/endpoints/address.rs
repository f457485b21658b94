//! Addresses that no endpoint can have.

use std::fmt;
use std::net::IpAddr;

use crate::model::Family;

/// Why an address cannot be forwarded to. The API server refuses most of them, but a slice may have been stored before it
/// did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFault {
    /// The slice is for the other family.
    WrongFamily,
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// It would be each node's own.
    Loopback,
    /// It means something else on each link.
    LinkLocal,
    /// It is a group, not a machine; the broadcast address counts as one.
    Multicast,
    /// An IPv4 address written as an IPv6 one (`::ffff:10.0.0.1`), which never stands in a packet.
    Mapped,
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongFamily => "an address that is not of the slice's addressType",
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast or broadcast address",
            Self::Mapped => "an IPv4-mapped IPv6 address",
        })
    }
}

/// What is wrong with the address as that of an endpoint in a slice of this family; `None` if nothing is.
pub fn address_fault(address: IpAddr, family: Family) -> Option<AddressFault> {
    if Family::of(address) != family {
        return Some(AddressFault::WrongFamily);
    }
    let (link_local, mapped, broadcast) = match address {
        IpAddr::V4(ip) => (ip.is_link_local(), false, ip.is_broadcast()),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.to_ipv4_mapped().is_some(), false),
    };
    [
        (address.is_unspecified(), AddressFault::Unspecified),
        (address.is_loopback(), AddressFault::Loopback),
        (link_local, AddressFault::LinkLocal),
        (address.is_multicast() || broadcast, AddressFault::Multicast),
        (mapped, AddressFault::Mapped),
    ]
    .into_iter()
    .find_map(|(wrong, fault)| wrong.then_some(fault))
}
