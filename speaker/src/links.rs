//! The node's network interfaces, followed by rtnetlink.
//!
//! Every notification about a link, an address or a route leads to a new dump of all of them: the dump is the truth, the
//! notification only says that there is a new one. Lost notifications (the kernel says so) are notifications too.

mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_core::announce::Interface;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::l2::Mac;

/// Notifications come in flocks; they are taken together within this time.
const COALESCE: Duration = Duration::from_millis(10);
/// Between two attempts when netlink fails.
const RETRY: Duration = Duration::from_secs(1);

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Administratively up, with carrier.
    pub up: bool,
    /// The number of the bond, bridge or team that it is a port of.
    pub master: Option<u32>,
    /// The subnets of its addresses.
    pub subnets: Vec<IpNet>,
    /// Next hops of the routes over it, those of default routes first.
    pub gateways: Vec<IpAddr>,
}

/// All Ethernet interfaces by name.
pub type Links = BTreeMap<String, Link>;

/// As the eligibility filter sees them: without the ports of bonds, bridges and teams, whose frames belong to these.
pub fn interfaces(links: &Links) -> BTreeMap<String, Interface> {
    let interface = |link: &Link| Interface {
        up: link.up,
        subnets: link.subnets.clone(),
    };
    links
        .iter()
        .filter(|(_, link)| link.master.is_none())
        .map(|(name, link)| (name.clone(), interface(link)))
        .collect()
}

/// Subnets that more than one machine can be in, on interfaces that work, in order; link-local ones are on every link.
pub fn on_link_subnets(links: &Links) -> BTreeSet<IpNet> {
    let shared = |subnet: &IpNet| subnet.prefix_len() < subnet.max_prefix_len() && !link_local(subnet.addr());
    let working = links.values().filter(|link| link.up);
    working
        .flat_map(|link| link.subnets.iter().copied())
        .filter(shared)
        .collect()
}

/// Gateways on interfaces that work, each once: first the first of each interface, so that the important ones come
/// first.
pub fn gateways(links: &Links) -> Vec<IpAddr> {
    let working: Vec<&Link> = links.values().filter(|link| link.up).collect();
    let most = working.iter().map(|link| link.gateways.len()).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|place| working.iter().filter_map(move |link| link.gateways.get(place)));
    let mut seen = BTreeSet::new();
    in_turn.copied().filter(|gateway| seen.insert(*gateway)).collect()
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Why the interfaces cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[from] std::io::Error),
    /// A dump failed.
    #[error("cannot list the network interfaces")]
    Dump(#[from] rtnetlink::Error),
    /// The netlink connection ended.
    #[error("the netlink connection ended")]
    Ended,
}

/// Follows the interfaces for ever. `None` until they have been listed once.
pub async fn follow(links: watch::Sender<Option<Links>>) {
    loop {
        let Err(error) = follow_once(&links).await;
        warn!(%error, "cannot follow the network interfaces; trying on with what is known");
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(links: &watch::Sender<Option<Links>>) -> Result<std::convert::Infallible, LinksError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    // Subscribed before the first dump, so that nothing falls between.
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    loop {
        let now = dump(&handle).await?;
        links.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&now);
            if changed {
                report(known.as_ref(), &now);
                *known = Some(now);
            }
            changed
        });
        if messages.next().await.is_none() || connection.0.is_finished() {
            return Err(LinksError::Ended);
        }
        tokio::time::sleep(COALESCE).await;
        while let Ok(message) = messages.try_recv() {
            debug!(payload = ?message.0.header, "netlink");
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn dump(handle: &Handle) -> Result<Links, rtnetlink::Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let answers: Vec<RouteMessage> = handle.route().get(request).execute().try_collect().await?;
        routes.extend(answers);
    }
    Ok(assemble(&links, &addresses, &routes))
}

fn assemble(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[RouteMessage]) -> Links {
    let mut gateways = routes::gateways(routes);
    let masters: BTreeSet<u32> = links
        .iter()
        .filter(|link| joins(link))
        .map(|link| link.header.index)
        .collect();
    let mut subnets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for address in addresses {
        if let Some(subnet) = subnet(address) {
            subnets.entry(address.header.index).or_default().push(subnet);
        }
    }
    links
        .iter()
        .filter_map(|link| {
            let flags = link.header.flags;
            if link.header.link_layer_type != LinkLayerType::Ether || flags.contains(LinkFlags::Noarp) {
                return None;
            }
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?;
            let mac = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Address(bytes) => Some(Mac(<[u8; 6]>::try_from(bytes.as_slice()).ok()?)),
                _ => None,
            })?;
            let link = Link {
                index: link.header.index,
                mac,
                up: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
                master: master(link).filter(|master| masters.contains(master)),
                subnets: subnets.remove(&link.header.index).unwrap_or_default(),
                gateways: gateways.remove(&link.header.index).unwrap_or_default(),
            };
            Some((name, link))
        })
        .collect()
}

/// Does it join its ports into one link? A VRF, which is their master too, does not.
fn joins(link: &LinkMessage) -> bool {
    let joins = |info: &LinkInfo| {
        matches!(
            info,
            LinkInfo::Kind(InfoKind::Bond | InfoKind::Bridge | InfoKind::Team)
        )
    };
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(joins),
        _ => false,
    })
}

fn master(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

/// The subnet of an address. Of a point-to-point address the kernel gives its own end as `Local` and the other end as
/// `Address`; the prefix belongs to the latter.
fn subnet(message: &AddressMessage) -> Option<IpNet> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let address = find(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let net = IpNet::new(address.or(local)?, message.header.prefix_len).ok()?;
    Some(net.trunc())
}

/// Logs what changed about interfaces that carry addresses; on a node those of pods come and go all the time.
fn report(before: Option<&Links>, now: &Links) {
    let Some(before) = before else {
        let up: Vec<&str> = now
            .iter()
            .filter(|(_, l)| l.up)
            .map(|(name, _)| name.as_str())
            .collect();
        info!(?up, "network interfaces listed");
        return;
    };
    for (name, link) in now {
        match before.get(name) {
            Some(old) if old.up != link.up => info!(interface = name, up = link.up, "interface changed"),
            Some(old) if old != link => debug!(interface = name, ?link, "interface changed"),
            None => debug!(interface = name, ?link, "interface appeared"),
            _ => {}
        }
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        debug!(interface = name, "interface gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, up: bool, subnets: &[&str], gateways: &[&str]) -> (String, Link) {
        let link = Link {
            index,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            up,
            master: None,
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
        };
        (format!("eth{index}"), link)
    }

    fn message(index: u32, kind: Option<InfoKind>, master: Option<u32>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName(format!("eth{index}")),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        ];
        let kind = kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        message.attributes.extend(kind);
        message.attributes.extend(master.map(LinkAttribute::Controller));
        message
    }

    #[test]
    fn ports_of_bonds_bridges_and_teams_are_told_from_members_of_a_vrf() {
        let kinds = [InfoKind::Bond, InfoKind::Bridge, InfoKind::Team, InfoKind::Vrf];
        let masters = (1..)
            .zip(kinds)
            .map(|(index, kind)| message(index, Some(kind), None));
        let ports = (1..=4).map(|master| message(10 + master, None, Some(master)));
        let mut all: Vec<LinkMessage> = masters.chain(ports).collect();
        all.push(message(20, Some(InfoKind::Vlan), None));
        // Its master is in another namespace.
        all.push(message(21, None, Some(99)));
        let links = assemble(&all, &[], &[]);
        let ports: Vec<_> = links
            .values()
            .filter_map(|link| link.master.zip(Some(link.index)))
            .collect();
        assert_eq!(ports, [(1, 11), (2, 12), (3, 13)]);
        let names: Vec<String> = interfaces(&links).into_keys().collect();
        assert_eq!(names, ["eth1", "eth14", "eth2", "eth20", "eth21", "eth3", "eth4"]);
    }

    fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        items.into_iter().map(|item| item.to_string()).collect()
    }

    #[test]
    fn only_what_is_shared_with_others_and_works() {
        let links = Links::from([
            link(
                0,
                true,
                &["192.0.2.0/24", "192.0.2.0/24", "fe80::/64", "2001:db8::/64"],
                &["192.0.2.1", "192.0.2.7"],
            ),
            link(
                1,
                true,
                &["203.0.113.9/32", "2001:db8::9/128", "169.254.0.0/16"],
                &[],
            ),
            link(2, false, &["198.51.100.0/24"], &["198.51.100.1"]),
            link(3, true, &["10.0.0.0/31"], &["10.0.0.1", "192.0.2.1"]),
        ]);
        assert_eq!(
            texts(on_link_subnets(&links)),
            ["10.0.0.0/31", "192.0.2.0/24", "2001:db8::/64"]
        );
        assert_eq!(texts(gateways(&links)), ["192.0.2.1", "10.0.0.1", "192.0.2.7"]);
    }
}
