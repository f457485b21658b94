//! Which sources are pods of this node.
//!
//! Under policy Local a pod of this node reaches every endpoint, an outsider only those on this node. A pod is told by
//! its address, if that lies in the Node's podCIDRs, which some network plugins leave empty or fill with what they do
//! not use; or by the interface that the route back to it leaves by.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::model::Node;

/// The longest name the kernel gives an interface, in bytes.
const NAME_MOST: usize = 15;
/// Kinds of interfaces that pods of this node are behind. Behind a tunnel are pods of other nodes, or people.
const POD_KINDS: [&str; 3] = ["veth", "netkit", "bridge"];
/// So many ranges or interfaces are shown at the most.
const SHOWN_MOST: usize = 16;
/// Begins the text of [`PodSources::Prefixes`].
const PREFIXES: &str = "interfacePrefixes=";

/// How pods are told from other sources.
///
/// As text: `auto`, `cidrs`, or `interfacePrefixes=cali,lxc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodSources {
    /// By the podCIDRs and by interface: all but the uplinks lead to pods.
    #[default]
    Auto,
    /// By the podCIDRs alone.
    Cidrs,
    /// By interface alone: those whose names begin so lead to pods.
    Prefixes(Vec<String>),
}

impl FromStr for PodSources {
    type Err = String;

    /// # Errors
    /// A sentence that quotes what cannot be read.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cidrs" => return Ok(Self::Cidrs),
            _ => {}
        }
        let Some(list) = text.strip_prefix(PREFIXES) else {
            return Err(format!("\"{text}\" is none of auto, cidrs and {PREFIXES}NAME,…"));
        };
        let prefix = |part: &str| {
            let odd = |c: char| c.is_whitespace() || c.is_control() || "/:\"*".contains(c);
            if part.is_empty() || part.len() > NAME_MOST || part.contains(odd) {
                return Err(format!("\"{part}\" begins no name of a network interface"));
            }
            Ok(part.to_owned())
        };
        list.split(',')
            .map(str::trim)
            .map(prefix)
            .collect::<Result<_, _>>()
            .map(Self::Prefixes)
    }
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kernel's name for what it is (`veth`, `bridge`, `vlan`, …); `None` for a device and for the loopback.
    pub kind: Option<String>,
    /// The loopback interface.
    pub loopback: bool,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Its addresses, each with the prefix of its subnet.
    pub addresses: Vec<IpNet>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; prefix length 0 is the default route.
    pub destination: IpNet,
    /// Indices of the interfaces that it leaves by, several for a multipath route.
    pub links: Vec<u32>,
}

/// What tells a pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// Its address lies in one of these; aggregated.
    pub ranges: Vec<IpNet>,
    /// Or the route back to it leaves by one of these.
    pub links: PodLinks,
}

impl Pods {
    /// Is the source a pod, when the route back to it leaves by the interface of this name?
    pub fn contain(&self, source: IpAddr, route_back: Option<&str>) -> bool {
        self.ranges.iter().any(|range| range.contains(&source))
            || route_back.is_some_and(|name| self.links.contains(name))
    }
}

impl fmt::Display for Pods {
    /// `podCIDRs 10.0.1.0/24; interfaces other than eth0, lo`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.ranges.is_empty() {
            parts.push(format!("podCIDRs {}", some(&self.ranges, "")));
        }
        match &self.links {
            PodLinks::None => {}
            PodLinks::AllBut(uplinks) => parts.push(format!("interfaces other than {}", some(uplinks, ""))),
            PodLinks::Prefixes(prefixes) => parts.push(format!("interfaces {}", some(prefixes, "*"))),
        }
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// The first of these, each with an ending, and how many there are beyond.
fn some<T: fmt::Display>(all: impl IntoIterator<Item = T>, ending: &str) -> String {
    let all: Vec<String> = all.into_iter().map(|one| format!("{one}{ending}")).collect();
    let shown = all.len().min(SHOWN_MOST);
    let beyond = match all.len() - shown {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{beyond}", all[..shown].join(", "))
}

/// Interfaces that lead to pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodLinks {
    /// None.
    #[default]
    None,
    /// All but those named, which lead out of the node or, as the loopback, nowhere.
    AllBut(BTreeSet<String>),
    /// Those whose names begin like one of these.
    Prefixes(Vec<String>),
}

impl PodLinks {
    /// Does the interface of this name lead to pods?
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::AllBut(uplinks) => !uplinks.contains(name),
            Self::Prefixes(prefixes) => prefixes.iter().any(|prefix| name.starts_with(prefix)),
        }
    }
}

/// Decides what tells a pod of this node. Without a Node object nothing does, unless interfaces are named.
pub fn pods(sources: &PodSources, node: Option<&Node>, links: &[Link], routes: &[Route]) -> Pods {
    let ranges = || node.map(pod_ranges).unwrap_or_default();
    match sources {
        PodSources::Cidrs => Pods {
            ranges: ranges(),
            links: PodLinks::None,
        },
        PodSources::Prefixes(prefixes) => Pods {
            ranges: Vec::new(),
            links: PodLinks::Prefixes(prefixes.clone()),
        },
        PodSources::Auto => Pods {
            ranges: ranges(),
            links: node.map_or(PodLinks::None, |node| {
                let uplinks = uplinks(node, links, routes);
                // Not to know the way out would make everybody a pod.
                if links.iter().any(|l| !l.loopback && uplinks.contains(&l.name)) {
                    PodLinks::AllBut(uplinks)
                } else {
                    PodLinks::None
                }
            }),
        },
    }
}

/// The podCIDRs, less those that cannot be true: everything, or what holds an address of the node itself.
fn pod_ranges(node: &Node) -> Vec<IpNet> {
    let wrong = |range: &IpNet| range.prefix_len() == 0 || node.addresses.iter().any(|ip| range.contains(ip));
    let right: Vec<IpNet> = node
        .pod_cidrs
        .iter()
        .filter(|range| !wrong(range))
        .map(IpNet::trunc)
        .collect();
    IpNet::aggregate(&right)
}

/// The names of the interfaces that lead out of the node: those of default routes; those in a subnet of an address of the
/// Node object; all that are of no kind that pods are behind (devices, tunnels); and the bridges and bonds that any of
/// these is a port of. The loopback is among them, for it leads to no pod either.
pub fn uplinks(node: &Node, links: &[Link], routes: &[Route]) -> BTreeSet<String> {
    let carries = |link: &Link, ip: &IpAddr| link.addresses.iter().any(|subnet| subnet.contains(ip));
    let is_default = |route: &&Route| route.destination.prefix_len() == 0;
    let mut found: BTreeSet<u32> = routes
        .iter()
        .filter(is_default)
        .flat_map(|route| route.links.iter().copied())
        .collect();
    let leads_out = |link: &&Link| {
        let own = |ip: &IpAddr| carries(link, ip);
        let for_pods = link.kind.as_deref().is_some_and(|kind| POD_KINDS.contains(&kind));
        link.loopback || !for_pods || node.addresses.iter().any(own)
    };
    found.extend(links.iter().filter(leads_out).map(|link| link.index));
    // Ports of ports are rare, and never deep.
    loop {
        let masters: Vec<u32> = links
            .iter()
            .filter(|link| found.contains(&link.index))
            .filter_map(|link| link.master)
            .filter(|master| !found.contains(master))
            .collect();
        if masters.is_empty() {
            break;
        }
        found.extend(masters);
    }
    links
        .iter()
        .filter(|link| found.contains(&link.index))
        .map(|link| link.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
