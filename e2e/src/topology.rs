//! Who is in the lab, with which addresses: the same in every lab, since all of it lives in namespaces.
//!
//! ```text
//!   client  ── 172.31.0.0/24 ── router  ──┬─ switch ─┬─ control-plane   172.30.0.2
//!   172.31.0.2   fd00:31::/64   172.30.0.1│          ├─ node1 … node8   172.30.0.11 … .18
//!   client2 ── 172.32.0.0/24 ── router2 ──┘          └─ lan-client      172.30.0.200
//!   172.32.0.2   fd00:32::/64   172.30.0.3
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::LabError;

/// Most nodes a lab can have.
pub const MAX_NODES: u8 = 8;
/// Pods of all nodes, IPv4.
pub const POD_CIDR_V4: &str = "10.244.0.0/16";
/// Pods of all nodes, IPv6.
pub const POD_CIDR_V6: &str = "fd00:10:244::/56";
/// Cluster addresses of Services, IPv4.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";
/// Cluster addresses of Services, IPv6.
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";
/// External addresses that tests and the demo may use, IPv4: first and last.
pub const VIP_RANGE_V4: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(172, 30, 0, 100), Ipv4Addr::new(172, 30, 0, 149));
/// External addresses that tests and the demo may use, IPv6: first and last.
pub const VIP_RANGE_V6: (Ipv6Addr, Ipv6Addr) = (node_segment_v6(0x100), node_segment_v6(0x149));
/// External addresses that are on nobody's segment, IPv4: only a router that learned of them by BGP has a way there.
pub const ROUTED_CIDR_V4: &str = "172.33.0.0/16";
/// External addresses that are on nobody's segment, IPv6.
pub const ROUTED_CIDR_V6: &str = "fd00:33::/64";
/// The bridge inside the switch.
pub const BRIDGE: &str = "br0";

const fn node_segment_v6(host: u16) -> Ipv6Addr {
    Segment::Nodes.v6(host)
}

/// One place of the lab: a set of namespaces with its own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The Ethernet switch of the node segment: a bridge and nothing else.
    Switch,
    /// Gateway of the node segment and of the outside client's.
    Router,
    /// A second router, the gateway of the second outside client.
    Router2,
    /// etcd, API server, scheduler, controller manager, CoreDNS.
    ControlPlane,
    /// A node, 1 to [`MAX_NODES`].
    Node(u8),
    /// The client behind the router.
    Client,
    /// The client behind the second router.
    Client2,
    /// The client on the nodes' own segment.
    LanClient,
}

impl Place {
    /// All places of a lab with `nodes` nodes.
    pub fn all(nodes: u8) -> Vec<Self> {
        let mut places = vec![
            Self::Switch,
            Self::Router,
            Self::Router2,
            Self::ControlPlane,
            Self::Client,
            Self::Client2,
            Self::LanClient,
        ];
        places.extend((1..=nodes).map(Self::Node));
        places
    }

    /// The name, which is also the host name inside.
    pub fn name(self) -> String {
        match self {
            Self::Switch => "switch".into(),
            Self::Router => "router".into(),
            Self::Router2 => "router2".into(),
            Self::ControlPlane => "control-plane".into(),
            Self::Node(n) => format!("node{n}"),
            Self::Client => "client".into(),
            Self::Client2 => "client2".into(),
            Self::LanClient => "lan-client".into(),
        }
    }

    /// The interfaces it has, in order; the first carries the place's address.
    pub fn interfaces(self) -> Vec<Interface> {
        let eth0 = |segment, host| vec![Interface::new("eth0", segment, host)];
        let router = |host, behind| {
            vec![
                Interface::new("eth0", Segment::Nodes, host),
                Interface::new("eth1", behind, 1),
            ]
        };
        match self {
            Self::Switch => vec![],
            Self::Router => router(1, Segment::Outside),
            Self::Router2 => router(3, Segment::Outside2),
            Self::ControlPlane => eth0(Segment::Nodes, 2),
            Self::Node(n) => eth0(Segment::Nodes, 10 + n),
            Self::LanClient => eth0(Segment::Nodes, 200),
            Self::Client => eth0(Segment::Outside, 2),
            Self::Client2 => eth0(Segment::Outside2, 2),
        }
    }

    /// The interface that leads to the others, `None` for the switch.
    pub fn uplink(self) -> Option<Interface> {
        self.interfaces().into_iter().next()
    }

    /// Who has an address on a cable of the lab; also by the link-local address that an interface makes of its MAC.
    pub fn by_address(address: IpAddr) -> Option<Self> {
        Self::all(MAX_NODES).into_iter().find(|place| {
            place
                .interfaces()
                .iter()
                .any(|i| address == i.v4 || address == i.v6 || address == i.link_local())
        })
    }

    /// Whether it passes on packets that are not for itself.
    pub fn forwards(self) -> bool {
        self.is_router() || matches!(self, Self::Node(_))
    }

    /// Whether it is a router, with a client behind it.
    pub fn is_router(self) -> bool {
        matches!(self, Self::Router | Self::Router2)
    }
}

impl FromStr for Place {
    type Err = LabError;

    fn from_str(name: &str) -> Result<Self, LabError> {
        Self::all(MAX_NODES).into_iter().find(|p| p.name() == name).ok_or_else(|| {
            LabError::Refused(format!(
                "no such place in a lab: {name:?} (there are node1…node{MAX_NODES}, client, client2, lan-client, router, router2, control-plane, switch)"
            ))
        })
    }
}

/// One of the Ethernet segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// Where the nodes are, 172.30.0.0/24 and fd00:30::/64.
    Nodes,
    /// Where the outside client is, 172.31.0.0/24 and fd00:31::/64.
    Outside,
    /// Where the second outside client is, 172.32.0.0/24 and fd00:32::/64.
    Outside2,
}

impl Segment {
    /// The second number of its IPv4 addresses; read as hexadecimal, the second group of its IPv6 addresses.
    const fn number(self) -> (u8, u16) {
        match self {
            Self::Nodes => (30, 0x30),
            Self::Outside => (31, 0x31),
            Self::Outside2 => (32, 0x32),
        }
    }

    const fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, self.number().0, 0, host)
    }

    const fn v6(self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.number().1, 0, 0, 0, 0, 0, host)
    }

    /// Its subnets.
    pub fn subnets(self) -> (Ipv4Net, Ipv6Net) {
        (
            Ipv4Net::new_assert(self.v4(0), 24),
            Ipv6Net::new_assert(self.v6(0), 64),
        )
    }

    /// The router's addresses here, which everyone uses as gateway.
    pub fn gateway(self) -> (Ipv4Addr, Ipv6Addr) {
        (self.v4(1), self.v6(1))
    }
}

/// A network interface with its fixed addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name inside the place.
    pub name: &'static str,
    /// The segment it is plugged into.
    pub segment: Segment,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// MAC address, lower case with colons.
    pub mac: String,
}

impl Interface {
    /// The IPv6 link-local address that the kernel gives it (modified EUI-64, RFC 4291 appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let (segment, host) = (self.v4.octets()[1], self.v4.octets()[3]);
        // The MAC's bytes as they read: 02:fa:17 ff:fe ea:30:0b, with the bit of the first flipped.
        let segment = u16::from(segment / 10) << 4 | u16::from(segment % 10);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            0x00fa,
            0x17ff,
            0xfeea,
            segment << 8 | u16::from(host),
        )
    }

    fn new(name: &'static str, segment: Segment, host: u8) -> Self {
        // The decimal digits of the host part are reused as IPv6 digits, so that both read alike.
        let digits = u16::from(host / 100) << 8 | u16::from(host / 10 % 10) << 4 | u16::from(host % 10);
        Self {
            name,
            segment,
            v4: segment.v4(host),
            v6: segment.v6(digits),
            // Locally administered, and the last two bytes tell segment and host.
            mac: format!("02:fa:17:ea:{}:{host:02x}", segment.number().0),
        }
    }
}

/// The addresses of node `n`'s pods.
pub fn pod_cidrs(n: u8) -> (Ipv4Net, Ipv6Net) {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, n, 0), 24);
    let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(n), 0, 0, 0, 0), 64);
    (v4, v6)
}

/// Checks a lab's name: it becomes part of paths (a Unix socket path has room for 107 bytes) and of cgroup names.
///
/// # Errors
/// [`LabError::Refused`] unless it is 1 to 20 of `a-z`, `0-9`, `-`, beginning with a letter or digit.
pub fn check_name(name: &str) -> Result<(), LabError> {
    let fits = (1..=20).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-');
    if fits {
        return Ok(());
    }
    Err(LabError::Refused(format!(
        "a lab's name is 1 to 20 of a-z, 0-9 and -: {name:?} is not"
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_are_those_of_the_plan() {
        let node3 = Place::Node(3).uplink().unwrap();
        assert_eq!(node3.v4, Ipv4Addr::new(172, 30, 0, 13));
        assert_eq!(node3.v6.to_string(), "fd00:30::13");
        let lan = Place::LanClient.uplink().unwrap();
        assert_eq!(lan.v6.to_string(), "fd00:30::200");
        assert_eq!(Place::Client.uplink().unwrap().v6.to_string(), "fd00:31::2");
        let client2 = Place::Client2.uplink().unwrap();
        assert_eq!(client2.v4, Ipv4Addr::new(172, 32, 0, 2));
        assert_eq!(client2.mac, "02:fa:17:ea:32:02");
        assert_eq!(Segment::Outside2.subnets().1.to_string(), "fd00:32::/64");
        assert_eq!(pod_cidrs(2).1.to_string(), "fd00:10:244:2::/64");
        let all: Ipv6Net = POD_CIDR_V6.parse().unwrap();
        assert!((1..=MAX_NODES).all(|n| all.contains(&pod_cidrs(n).1)));
    }

    #[test]
    fn nobody_shares_an_address() {
        let interfaces: Vec<_> = Place::all(MAX_NODES)
            .into_iter()
            .flat_map(Place::interfaces)
            .collect();
        let macs: BTreeSet<_> = interfaces.iter().map(|i| i.mac.clone()).collect();
        let v6: BTreeSet<_> = interfaces.iter().map(|i| i.v6).collect();
        assert_eq!(macs.len(), interfaces.len());
        assert_eq!(v6.len(), interfaces.len());
    }

    #[test]
    fn places_are_found_by_their_addresses() {
        for (address, place) in [
            ("172.30.0.12", Some(Place::Node(2))),
            ("fd00:30::3", Some(Place::Router2)),
            ("172.32.0.1", Some(Place::Router2)),
            ("fe80::fa:17ff:feea:300b", Some(Place::Node(1))),
            ("fe80::fa:17ff:feea:3001", Some(Place::Router)),
            ("172.30.0.77", None),
        ] {
            assert_eq!(Place::by_address(address.parse().unwrap()), place, "{address}");
        }
    }

    #[test]
    fn names_go_there_and_back() {
        for place in Place::all(MAX_NODES) {
            assert_eq!(place.name().parse::<Place>().unwrap(), place);
            assert!(
                place.name().len() <= 15,
                "an interface of the switch has this name"
            );
        }
        assert!("node9".parse::<Place>().is_err());
        assert!(check_name("a-2").is_ok());
        assert!(check_name("A").is_err() && check_name("").is_err() && check_name("../x").is_err());
    }
}
