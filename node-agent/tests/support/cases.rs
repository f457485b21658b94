//! Kubernetes' rules for one packet to a Service address, as a table of cases: every policy, with and without endpoints
//! here and elsewhere, from every kind of source, to every kind of destination.
//!
//! What is expected is written down from those rules alone. Nothing of the program decides it.

use std::net::{IpAddr, SocketAddr};

use fairlead_core::model::{
    ExternalAddress, ExternalRecord, Protocol, Service, SliceEndpoint, TrafficPolicy,
};

use super::objects::{Cluster, service, slices};

/// Where endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// There is one, but it is not ready.
    Nowhere,
    /// One on another node.
    Elsewhere,
    /// One on this node.
    Here,
    /// Two on this node and one on another.
    Everywhere,
    /// A terminating one on this node, a ready one on another: the former is local, and none of those anywhere.
    LeavingHere,
}

impl Layout {
    pub const ALL: [Self; 5] = [
        Self::Nowhere,
        Self::Elsewhere,
        Self::Here,
        Self::Everywhere,
        Self::LeavingHere,
    ];

    /// Usable endpoints on this node.
    fn local(self) -> &'static [&'static str] {
        match self {
            Self::Nowhere | Self::Elsewhere => &[],
            Self::Here | Self::LeavingHere => &["pod1b"],
            Self::Everywhere => &["pod1a", "pod1b"],
        }
    }

    /// Usable endpoints anywhere.
    fn anywhere(self) -> &'static [&'static str] {
        match self {
            Self::Nowhere => &[],
            Self::Elsewhere | Self::LeavingHere => &["pod2"],
            Self::Here => &["pod1b"],
            Self::Everywhere => &["pod1a", "pod1b", "pod2"],
        }
    }
}

/// The source ranges of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    None,
    /// All sources of the table are in them.
    In,
    /// None is.
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Vip,
    ExternalIp,
    NodePort,
    /// A port of the VIP that no Service has.
    Unserved,
}

/// Namespaces of the topology.
pub const SOURCES: [&str; 5] = ["client", "pod1a", "node1", "node2", "pod2"];
pub const PLACES: [Place; 4] = [Place::Vip, Place::ExternalIp, Place::NodePort, Place::Unserved];
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];

/// One Service of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combination {
    pub number: u16,
    pub policy: TrafficPolicy,
    pub layout: Layout,
    pub affinity: bool,
    pub ranges: Ranges,
}

/// Every Service.
pub fn combinations() -> Vec<Combination> {
    let mut all = Vec::new();
    for policy in POLICIES {
        for layout in Layout::ALL {
            for affinity in [false, true] {
                for ranges in [Ranges::None, Ranges::In, Ranges::Out] {
                    all.push(Combination {
                        number: u16::try_from(all.len()).unwrap(),
                        policy,
                        layout,
                        affinity,
                        ranges,
                    });
                }
            }
        }
    }
    all
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub of: Combination,
    pub six: bool,
    pub protocol: Protocol,
    pub place: Place,
    pub from: &'static str,
}

/// Every packet.
pub fn cases(protocols: &[Protocol]) -> Vec<Case> {
    let mut all = Vec::new();
    for of in combinations() {
        for six in [false, true] {
            for &protocol in protocols {
                for place in PLACES {
                    all.extend(SOURCES.map(|from| Case {
                        of,
                        six,
                        protocol,
                        place,
                        from,
                    }));
                }
            }
        }
    }
    all
}

/// What endpoints see as the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Sender,
    ThisNode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any of these, each with what it sees.
    Forwarded(Vec<(&'static str, Seen)>),
    Refused,
    Dropped,
}

impl Case {
    /// The rules, in their order.
    pub fn expected(&self) -> Expected {
        let (local, anywhere) = (self.of.layout.local(), self.of.layout.anywhere());
        if self.place == Place::Unserved {
            return Expected::Refused;
        }
        // Ranges guard the load balancer's addresses only.
        if self.place == Place::Vip && self.of.ranges == Ranges::Out {
            return Expected::Dropped;
        }
        if local.is_empty() && anywhere.is_empty() {
            return Expected::Refused;
        }
        let (pods, seen) = match (self.of.policy, self.from) {
            (TrafficPolicy::Cluster, _) => (anywhere, Seen::ThisNode),
            // Traffic from inside is always treated as with policy Cluster, but for the address of pods.
            (TrafficPolicy::Local, "pod1a") => (anywhere, Seen::Sender),
            (TrafficPolicy::Local, "node1") => (anywhere, Seen::ThisNode),
            (TrafficPolicy::Local, _) if local.is_empty() => return Expected::Dropped,
            (TrafficPolicy::Local, _) => (local, Seen::Sender),
        };
        // Who is given himself would answer himself, past the node.
        let seen_by = |pod| if pod == self.from { Seen::ThisNode } else { seen };
        Expected::Forwarded(pods.iter().map(|pod| (*pod, seen_by(*pod))).collect())
    }

    /// Where the packet goes.
    pub fn to(&self) -> SocketAddr {
        let n = self.of.number;
        let port = match self.place {
            Place::Vip | Place::ExternalIp => 80,
            Place::Unserved => 81,
            Place::NodePort => node_port(n),
        };
        let address = match self.place {
            Place::Vip | Place::Unserved => vip(n, self.six),
            Place::ExternalIp => external(n, self.six),
            Place::NodePort => address_of("node1", self.six),
        };
        SocketAddr::new(address, port)
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        address_of(self.from, self.six)
    }
}

fn node_port(number: u16) -> u16 {
    30_000 + number
}

fn vip(number: u16, six: bool) -> IpAddr {
    text(
        six,
        format!("192.0.2.{}", 10 + number),
        format!("2001:db8::1:{number:x}"),
    )
}

fn external(number: u16, six: bool) -> IpAddr {
    text(
        six,
        format!("192.0.2.{}", 130 + number),
        format!("2001:db8::2:{number:x}"),
    )
}

fn text(six: bool, of4: String, of6: String) -> IpAddr {
    if six { of6 } else { of4 }.parse().unwrap()
}

/// The address of a namespace that its packets to Services come from.
pub fn address_of(name: &str, six: bool) -> IpAddr {
    let (of4, of6) = match name {
        "client" => ("198.51.100.2", "fd00:c::2"),
        "node1" => ("172.30.0.11", "fd00:30::11"),
        "node2" => ("172.30.0.12", "fd00:30::12"),
        "pod1a" => ("10.0.1.2", "fd00:1::2"),
        "pod1b" => ("10.0.1.3", "fd00:1::3"),
        "pod2" => ("10.0.2.2", "fd00:2::2"),
        other => panic!("no namespace {other}"),
    };
    text(six, of4.into(), of6.into())
}

/// All addresses of node1.
pub fn own() -> Vec<IpAddr> {
    let all = [
        "198.51.100.1",
        "172.30.0.11",
        "10.0.1.1",
        "fd00:c::1",
        "fd00:30::11",
        "fd00:1::1",
        "127.0.0.1",
        "::1",
    ];
    all.map(|address| address.parse().unwrap()).to_vec()
}

/// The cluster with all Services of the table.
pub fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    for of in combinations() {
        let service = service_of(&of);
        let mut all = slices(&service, &[]);
        for (slice, six) in all.iter_mut().zip([false, true]) {
            slice.endpoints = endpoints(of.layout, six);
        }
        cluster.slices.extend(all);
        cluster.services.push(service);
    }
    cluster
}

fn service_of(of: &Combination) -> Service {
    let n = of.number;
    let both = |address: fn(u16, bool) -> IpAddr| [address(n, false), address(n, true)];
    let vips = both(vip).map(|address| address.to_string());
    let ports = ["tcp", "udp", "sctp"].map(|protocol| format!("80/{protocol}@{}", node_port(n)));
    let ranges: Vec<String> = match of.ranges {
        Ranges::None => vec![],
        Ranges::In => {
            let all = SOURCES
                .iter()
                .flat_map(|name| [address_of(name, false), address_of(name, true)]);
            all.map(|a| format!("{a}/{}", if a.is_ipv4() { 32 } else { 128 }))
                .collect()
        }
        Ranges::Out => vec!["203.0.113.0/24".into(), "2001:db8:1::/48".into()],
    };
    let recorded = |address| ExternalAddress {
        address,
        pool: "p".into(),
        adopted: false,
    };
    let name = format!("s{n}");
    Service {
        affinity: of.affinity.then_some(10_800),
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        external_ips: both(external).to_vec(),
        external: Some(ExternalRecord {
            addresses: both(external).map(recorded).to_vec(),
            since: 1,
        }),
        ..service(
            &name,
            of.policy,
            &vips.each_ref().map(|v| &**v),
            &ports.each_ref().map(|p| &**p),
        )
    }
}

fn endpoints(layout: Layout, six: bool) -> Vec<SliceEndpoint> {
    let of = |name, ready, leaving| SliceEndpoint {
        address: address_of(name, six),
        node: Some(if name == "pod2" { "node2" } else { "node1" }.into()),
        ready,
        serving: ready || leaving,
        terminating: leaving,
        hints: None,
    };
    match layout {
        Layout::Nowhere => vec![of("pod1a", false, false)],
        Layout::Elsewhere => vec![of("pod2", true, false)],
        Layout::Here => vec![of("pod1b", true, false)],
        Layout::Everywhere => ["pod1a", "pod1b", "pod2"]
            .map(|name| of(name, true, false))
            .to_vec(),
        Layout::LeavingHere => vec![of("pod1b", false, true), of("pod2", true, false)],
    }
}
