//! The gateways that routes lead to, by interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};

/// Next hops by number of the interface, those of default routes first, each once.
pub(super) fn gateways(routes: &[RouteMessage]) -> BTreeMap<u32, Vec<IpAddr>> {
    let unicast = |route: &&RouteMessage| route.header.kind == RouteType::Unicast;
    let mut routes: Vec<&RouteMessage> = routes.iter().filter(unicast).collect();
    // Stable, and the shorter prefix comes first.
    routes.sort_by_key(|route| route.header.destination_prefix_length != 0);
    let mut found: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for (interface, gateway) in routes.into_iter().flat_map(next_hops) {
        let known = found.entry(interface).or_default();
        if !known.contains(&gateway) {
            known.push(gateway);
        }
    }
    found
}

/// Interface and gateway of each next hop that has both: a route to what is on the link has no gateway.
fn next_hops(route: &RouteMessage) -> Vec<(u32, IpAddr)> {
    let own = interface(&route.attributes).zip(gateway(&route.attributes));
    let several = route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.as_slice(),
        _ => &[],
    });
    let several = several.filter_map(|hop| Some((hop.interface_index, gateway(&hop.attributes)?)));
    own.into_iter().chain(several).collect()
}

fn interface(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::{RouteHeader, RouteNextHop};

    fn route(prefix: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            destination_prefix_length: prefix,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes = attributes;
        route
    }

    fn via(gateway: &str) -> RouteAttribute {
        RouteAttribute::Gateway(gateway.parse::<IpAddr>().unwrap().into())
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn next_hops_of_all_kinds_default_routes_first() {
        let hop = |interface: u32, gateway: &str| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface;
            hop.attributes = vec![via(gateway)];
            hop
        };
        let mut blackhole = route(0, vec![via("192.0.2.99"), RouteAttribute::Oif(2)]);
        blackhole.header.kind = RouteType::BlackHole;
        let routes = [
            route(24, vec![RouteAttribute::Oif(2)]),
            route(24, vec![via("192.0.2.12"), RouteAttribute::Oif(2)]),
            route(24, vec![via("192.0.2.12"), RouteAttribute::Oif(2)]),
            route(0, vec![via("192.0.2.254"), RouteAttribute::Oif(2)]),
            route(0, vec![via("fe80::1"), RouteAttribute::Oif(3)]),
            route(
                16,
                vec![
                    RouteAttribute::Via(RouteVia::Inet6("2001:db8::1".parse().unwrap())),
                    RouteAttribute::Oif(3),
                ],
            ),
            route(
                0,
                vec![RouteAttribute::MultiPath(vec![
                    hop(2, "192.0.2.253"),
                    hop(4, "198.51.100.1"),
                ])],
            ),
            blackhole,
        ];
        let expected = BTreeMap::from([
            (2, addresses(&["192.0.2.254", "192.0.2.253", "192.0.2.12"])),
            (3, addresses(&["fe80::1", "2001:db8::1"])),
            (4, addresses(&["198.51.100.1"])),
        ]);
        assert_eq!(gateways(&routes), expected);
    }
}
