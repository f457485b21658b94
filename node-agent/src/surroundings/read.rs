//! One look at the links, addresses and default routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_core::forward::pods::{Link, Route};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::Surroundings;

/// Reads them all.
pub(super) async fn dump(handle: &Handle) -> Result<Surroundings, rtnetlink::Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut answers = handle.route().get(request).execute();
        // There may be very many routes: what is of no use is not kept.
        while let Some(message) = answers.try_next().await? {
            routes.extend(default_route(&message));
        }
    }
    Ok(Surroundings {
        links: assemble(&links, &addresses),
        routes,
    })
}

fn assemble(links: &[LinkMessage], addresses: &[AddressMessage]) -> Vec<Link> {
    let mut by_link: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for message in addresses {
        if let Some(address) = own_address(message) {
            by_link.entry(message.header.index).or_default().push(address);
        }
    }
    let link = |message: &LinkMessage| {
        let index = message.header.index;
        Some(Link {
            index,
            name: find(&message.attributes, |attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?,
            kind: find(&message.attributes, |attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => find(infos, |info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                }),
                _ => None,
            }),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            master: find(&message.attributes, |attribute| match attribute {
                LinkAttribute::Controller(index) => Some(*index),
                _ => None,
            }),
            addresses: by_link.remove(&index).unwrap_or_default(),
        })
    };
    links.iter().filter_map(link).collect()
}

/// The node's own address with the prefix of its subnet. Of a point-to-point address the kernel gives its own end as
/// `Local` and the other end as `Address`.
fn own_address(message: &AddressMessage) -> Option<IpNet> {
    let local = find(&message.attributes, |attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = || {
        find(&message.attributes, |attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    IpNet::new(local.or_else(address)?, message.header.prefix_len).ok()
}

/// The route, if it is a default route of the main table that leads anywhere.
fn default_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let table = find(&message.attributes, |attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main = table.unwrap_or(u32::from(header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !main || header.kind != RouteType::Unicast || header.destination_prefix_length != 0 {
        return None;
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let links = message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => vec![],
    });
    Some(Route {
        destination: IpNet::new(any, 0).ok()?,
        links: links.collect(),
    })
}

fn find<A, T>(attributes: &[A], wanted: impl FnMut(&A) -> Option<T>) -> Option<T> {
    attributes.iter().find_map(wanted)
}
