//! The addresses of a node at which node ports are served.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::endpoints::address_fault;
use crate::model::{Family, Node};

/// Which addresses of a node serve node ports.
///
/// As text: nothing, for the InternalIPs of the Node object; `primary`, for the first InternalIP of each family; or
/// ranges, comma-separated: every address of the node inside one of them. A family of which no range is listed keeps
/// its InternalIPs. Addresses that mean nothing outside the node or its link are never served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The InternalIPs.
    #[default]
    Internal,
    /// The first InternalIP of each family.
    Primary,
    /// What lies in one of these.
    Ranges(Vec<IpNet>),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    /// # Errors
    /// A sentence that quotes the part that cannot be read.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        match parts[..] {
            [""] => return Ok(Self::Internal),
            ["primary"] => return Ok(Self::Primary),
            _ => {}
        }
        let range = |part: &&str| {
            if *part == "primary" {
                return Err("\"primary\" stands alone, without ranges beside it".to_owned());
            }
            let parsed: Result<IpNet, _> = part.parse();
            parsed
                .map(|range| range.trunc())
                .map_err(|_| format!("\"{part}\" is neither a range like 192.0.2.0/24 nor \"primary\""))
        };
        parts
            .iter()
            .map(range)
            .collect::<Result<_, _>>()
            .map(Self::Ranges)
    }
}

impl NodePortAddresses {
    /// The addresses of this node, sorted, each once. `on_links` are the addresses of the node's interfaces, and matter
    /// for ranges only; those that Services have (`kube-ipvs0` holds them) must not be among them.
    pub fn of(&self, node: &Node, on_links: &[IpAddr]) -> Vec<IpAddr> {
        let internal = || node.internal_ips.iter().copied();
        let chosen: BTreeSet<IpAddr> = match self {
            Self::Internal => internal().collect(),
            Self::Primary => [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|family| internal().find(|ip| Family::of(*ip) == family))
                .collect(),
            Self::Ranges(ranges) => {
                let listed = |family| ranges.iter().any(|range| Family::of(range.addr()) == family);
                let inside = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
                let own = node.addresses.iter().chain(on_links).copied().filter(inside);
                internal()
                    .filter(|ip| !listed(Family::of(*ip)))
                    .chain(own)
                    .collect()
            }
        };
        chosen
            .into_iter()
            .filter(|ip| address_fault(*ip, Family::of(*ip)).is_none())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    #[test]
    fn what_can_be_asked_for() {
        let me = {
            let ips: Vec<IpAddr> = ["192.0.2.11", "192.0.2.12", "2001:db8::11"]
                .map(|ip| ip.parse().unwrap())
                .to_vec();
            let mut addresses = ips.clone();
            addresses.push("198.51.100.11".parse().unwrap());
            Node {
                internal_ips: ips,
                addresses,
                ..node("n1", "192.0.2.11")
            }
        };
        let on_links: Vec<IpAddr> = [
            "192.0.2.11",
            "10.9.8.7",
            "127.0.0.1",
            "169.254.3.4",
            "fe80::1",
            "::1",
            "2001:db8:9::1",
        ]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
        for (text, expected) in [
            ("", "192.0.2.11 192.0.2.12 2001:db8::11"),
            (" ", "192.0.2.11 192.0.2.12 2001:db8::11"),
            ("primary", "192.0.2.11 2001:db8::11"),
            ("10.0.0.0/8", "10.9.8.7 2001:db8::11"),
            (
                " 10.1.2.3/8 , 198.51.100.0/24",
                "10.9.8.7 198.51.100.11 2001:db8::11",
            ),
            ("2001:db8:9::/48", "192.0.2.11 192.0.2.12 2001:db8:9::1"),
            ("10.0.0.0/8,fd00::/8", "10.9.8.7"),
            ("127.0.0.0/8,::/0", "2001:db8::11 2001:db8:9::1"),
            (
                "0.0.0.0/0",
                "10.9.8.7 192.0.2.11 192.0.2.12 198.51.100.11 2001:db8::11",
            ),
        ] {
            let parsed: NodePortAddresses = text.parse().unwrap();
            let shown: Vec<String> = parsed
                .of(&me, &on_links)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(shown.join(" "), expected, "{text:?}");
        }
    }

    #[test]
    fn what_cannot() {
        for (text, part) in [
            ("all", "\"all\""),
            ("192.0.2.1", "\"192.0.2.1\""),
            ("10.0.0.0/8,", "\"\""),
            ("10.0.0.0/8,primary", "\"primary\" stands alone"),
            ("primary,primary", "\"primary\" stands alone"),
        ] {
            let error = text.parse::<NodePortAddresses>().unwrap_err();
            assert!(error.starts_with(part), "{error}");
        }
    }
}
