//! One path of the daemon's table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_core::model::Family;
use fairlead_gobgp::api::{self, attribute::Attr, nlri::Nlri};
use ipnet::IpNet;

use super::OwnAddresses;
use super::policy::{ClassId, MARKER};
use super::session::family_of;

/// All of a path but the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    pub class: ClassId,
    /// Ours, for sessions of the other family; unspecified if we have none. Within its own family a session says its
    /// own local address.
    pub next_hop: IpAddr,
}

impl Path {
    pub fn new(prefix: IpNet, class: ClassId, own: OwnAddresses) -> Self {
        let next_hop = match prefix {
            IpNet::V4(_) => own.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            IpNet::V6(_) => own.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        };
        Self { class, next_hop }
    }

    /// As the daemon is told of it.
    pub fn encode(self, prefix: IpNet) -> api::Path {
        let mut attributes = vec![
            Attr::Origin(api::OriginAttribute { origin: 0 }),
            next_hop(prefix, self.next_hop),
            // The least, for a statement cannot set it to 0.
            Attr::LocalPref(api::LocalPrefAttribute { local_pref: 0 }),
        ];
        let marker = api::LargeCommunity {
            global_admin: MARKER,
            local_data1: self.class.0[0],
            local_data2: self.class.0[1],
        };
        attributes.push(Attr::LargeCommunities(api::LargeCommunitiesAttribute {
            communities: vec![marker],
        }));
        path(prefix, attributes, false)
    }

    /// From what the daemon says of a path; nothing if it is not ours.
    pub fn decode(path: &api::Path) -> Option<(IpNet, Self)> {
        let prefix = prefix(path)?;
        let attributes = || path.pattrs.iter().filter_map(|attribute| attribute.attr.as_ref());
        let class = attributes().find_map(|attribute| match attribute {
            Attr::LargeCommunities(communities) => match communities.communities.as_slice() {
                [one] if one.global_admin == MARKER => Some(ClassId([one.local_data1, one.local_data2])),
                _ => None,
            },
            _ => None,
        })?;
        let next_hop = attributes().find_map(|attribute| match attribute {
            Attr::NextHop(next_hop) => next_hop.next_hop.parse().ok(),
            Attr::MpReach(reach) => reach.next_hops.first()?.parse().ok(),
            _ => None,
        })?;
        Some((prefix, Self { class, next_hop }))
    }
}

/// The prefix of a path.
pub(super) fn prefix(path: &api::Path) -> Option<IpNet> {
    let Some(Nlri::Prefix(prefix)) = path.nlri.as_ref()?.nlri.as_ref() else {
        return None;
    };
    let length = u8::try_from(prefix.prefix_len).ok()?;
    IpNet::new(prefix.prefix.parse().ok()?, length).ok()
}

/// Takes a path away.
pub(super) fn withdrawal(prefix: IpNet) -> api::Path {
    let unspecified = match prefix {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let attributes = vec![
        Attr::Origin(api::OriginAttribute { origin: 0 }),
        next_hop(prefix, unspecified),
    ];
    path(prefix, attributes, true)
}

fn path(prefix: IpNet, attributes: Vec<Attr>, is_withdraw: bool) -> api::Path {
    api::Path {
        nlri: Some(nlri(prefix)),
        pattrs: attributes
            .into_iter()
            .map(|attribute| api::Attribute {
                attr: Some(attribute),
            })
            .collect(),
        is_withdraw,
        family: Some(family_of(Family::of(prefix.addr()))),
        ..api::Path::default()
    }
}

fn next_hop(prefix: IpNet, address: IpAddr) -> Attr {
    match prefix {
        IpNet::V4(_) => Attr::NextHop(api::NextHopAttribute {
            next_hop: address.to_string(),
        }),
        IpNet::V6(_) => Attr::MpReach(api::MpReachNlriAttribute {
            family: Some(family_of(Family::V6)),
            next_hops: vec![address.to_string()],
            nlris: vec![nlri(prefix)],
        }),
    }
}

fn nlri(prefix: IpNet) -> api::Nlri {
    api::Nlri {
        nlri: Some(Nlri::Prefix(api::IpAddressPrefix {
            prefix_len: prefix.prefix_len().into(),
            prefix: prefix.network().to_string(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_was_written() {
        for (prefix, next_hop) in [("192.0.2.1/32", "198.51.100.1"), ("2001:db8::/64", "::")] {
            let prefix: IpNet = prefix.parse().unwrap();
            let path = Path {
                class: ClassId([7, u32::MAX]),
                next_hop: next_hop.parse().unwrap(),
            };
            assert_eq!(Path::decode(&path.encode(prefix)), Some((prefix, path)));
        }
    }

    #[test]
    fn a_path_of_somebody_else_is_none() {
        assert_eq!(Path::decode(&withdrawal("192.0.2.1/32".parse().unwrap())), None);
    }
}
