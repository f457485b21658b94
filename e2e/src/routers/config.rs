//! Configurations for routers that take any node as a neighbour.

use std::fmt::Write;

use crate::topology::{Place, Segment};

/// AS number of the router that runs FRR, in the ready-made configurations.
pub const FRR_ASN: u32 = 64512;
/// AS number of the router that runs BIRD, in the ready-made configurations.
pub const BIRD_ASN: u32 = 64513;
/// AS number of the nodes, in the ready-made configurations.
pub const NODE_ASN: u32 = 64500;

/// How a router treats the nodes: whoever connects from the node segment with the right AS number, over IPv4 or IPv6,
/// is a neighbour with both address families. It takes all routes, announces none, uses up to 64 equal paths at once,
/// and helps a neighbour that restarts gracefully.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    /// The nodes' AS number. That of the router itself makes the sessions internal.
    pub asn: u32,
    /// Password of the sessions (RFC 2385).
    pub password: Option<String>,
    /// Whether BFD watches the sessions, with 100 ms × 3.
    pub bfd: bool,
    /// Seconds after which a silent neighbour is given up, unless it asks for less.
    pub hold_seconds: u16,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            asn: NODE_ASN,
            password: None,
            bfd: false,
            hold_seconds: 90,
        }
    }
}

impl Nodes {
    /// For FRR of AS [`FRR_ASN`] in a place. The neighbours are in the peer groups `NODES4` and `NODES6`.
    pub fn frr(&self, place: Place) -> String {
        let mut text = String::from(
            "log stdout informational\n\
             bfd\n profile nodes\n  detect-multiplier 3\n  transmit-interval 100\n  receive-interval 100\n exit\nexit\n\
             route-map NOTHING deny 10\nexit\n",
        );
        // `write!` to a string cannot fail.
        let _ = write!(
            text,
            "router bgp {FRR_ASN}\n bgp router-id {}\n bgp log-neighbor-changes\n no bgp ebgp-requires-policy\n \
             no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n bgp listen limit 1000\n",
            router_id(place)
        );
        let (v4, v6) = Segment::Nodes.subnets();
        for (group, range) in [("NODES4", v4.to_string()), ("NODES6", v6.to_string())] {
            let keepalive = (self.hold_seconds / 3).max(1);
            let _ = write!(
                text,
                " neighbor {group} peer-group\n neighbor {group} remote-as {}\n neighbor {group} timers {keepalive} {}\n",
                self.asn, self.hold_seconds
            );
            if group == "NODES6" {
                text += " neighbor NODES6 capability extended-nexthop\n";
            }
            if self.bfd {
                let _ = writeln!(text, " neighbor {group} bfd profile nodes");
            }
            if let Some(password) = &self.password {
                let _ = writeln!(text, " neighbor {group} password {password}");
            }
            let _ = writeln!(text, " bgp listen range {range} peer-group {group}");
        }
        for family in ["ipv4", "ipv6"] {
            let _ = write!(
                text,
                " address-family {family} unicast\n  maximum-paths 64\n  maximum-paths ibgp 64\n"
            );
            for group in ["NODES4", "NODES6"] {
                let _ = write!(
                    text,
                    "  neighbor {group} activate\n  neighbor {group} route-map NOTHING out\n"
                );
            }
            text += " exit-address-family\n";
        }
        text + "exit\n"
    }

    /// For BIRD of AS [`BIRD_ASN`] in a place. The protocols are `nodes4` and `nodes6`, and `nodes4_1` and so on for
    /// each neighbour.
    pub fn bird(&self, place: Place) -> String {
        let mut text = format!(
            "log stderr {{ info, remote, warning, error, auth, fatal, bug }};\nrouter id {};\nprotocol device {{ }}\n",
            router_id(place)
        );
        for family in ["ipv4", "ipv6"] {
            let _ = writeln!(
                text,
                "protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; merge paths on limit 64; }}"
            );
        }
        text += "protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }\n";
        let _ = write!(
            text,
            "template bgp nodes {{\n  local as {BIRD_ASN};\n  hold time {};\n  error wait time 1, 2;\n  bfd {};\n",
            self.hold_seconds,
            if self.bfd { "on" } else { "off" }
        );
        if let Some(password) = &self.password {
            let _ = writeln!(text, "  password \"{password}\";");
        }
        for family in ["ipv4", "ipv6"] {
            let _ = writeln!(
                text,
                "  {family} {{ import all; export none; extended next hop on; }};"
            );
        }
        text += "}\n";
        let (v4, v6) = Segment::Nodes.subnets();
        for (name, range) in [("nodes4", v4.to_string()), ("nodes6", v6.to_string())] {
            let _ = writeln!(
                text,
                "protocol bgp {name} from nodes {{ neighbor range {range} as {}; dynamic name \"{name}_\"; }}",
                self.asn
            );
        }
        text
    }
}

fn router_id(place: Place) -> String {
    place
        .uplink()
        .map_or_else(|| "172.30.0.1".into(), |uplink| uplink.v4.to_string())
}
