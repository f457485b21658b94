//! The routing table of the kernel that a router runs on.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::Family;
use crate::error::{Doing, LabError, Result};
use crate::machine::Machine;
use crate::net::{in_network, run};
use crate::topology::Place;

/// As `ip -j route` tells it: one gateway in the route itself, or several below.
#[derive(Debug, Deserialize)]
struct Route {
    gateway: Option<IpAddr>,
    via: Option<Via>,
    #[serde(default)]
    nexthops: Vec<Hop>,
}

#[derive(Debug, Deserialize)]
struct Hop {
    gateway: Option<IpAddr>,
    via: Option<Via>,
}

/// A gateway of the other family.
#[derive(Debug, Deserialize)]
struct Via {
    host: IpAddr,
}

/// The next hops of exactly this prefix, sorted; none when there is no such route.
pub(super) fn next_hops(machine: &Machine, prefix: IpNet) -> Result<Vec<IpAddr>> {
    let family = Family::of(prefix).option();
    let argv = ["ip", "-j", family, "route", "show", "exact", &prefix.to_string()];
    let what = format!("routes of {} to {prefix}", machine.place().name());
    parse(&run(in_network(machine, argv), &what)?).doing(what)
}

fn parse(text: &[u8]) -> serde_json::Result<Vec<IpAddr>> {
    let routes: Vec<Route> = match text.trim_ascii() {
        [] => vec![],
        text => serde_json::from_slice(text)?,
    };
    let mut hops: Vec<IpAddr> = routes
        .into_iter()
        .flat_map(|route| {
            let own = Hop {
                gateway: route.gateway,
                via: route.via,
            };
            std::iter::once(own).chain(route.nexthops)
        })
        .filter_map(|hop| hop.gateway.or(hop.via.map(|via| via.host)))
        .collect();
    hops.sort_unstable();
    Ok(hops)
}

/// How many prefixes of a family a routing daemon has put into the kernel.
pub(super) fn count(machine: &Machine, family: Family, protocol: &str) -> Result<u64> {
    let argv = ["ip", family.option(), "route", "show", "proto", protocol];
    let what = format!("routes of {}", machine.place().name());
    let text = run(in_network(machine, argv), &what)?;
    // A line for each prefix, and indented ones for its next hops if there are several.
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines
        .filter(|line| line.first().is_some_and(|first| !first.is_ascii_whitespace()))
        .count() as u64)
}

/// Whose these next hops are, sorted.
pub(super) fn places(hops: Vec<IpAddr>) -> Result<Vec<Place>> {
    let place = |hop| {
        Place::by_address(hop)
            .ok_or_else(|| LabError::Refused(format!("the next hop {hop} is nobody's in the lab")))
    };
    let mut places: Vec<Place> = hops.into_iter().map(place).collect::<Result<_>>()?;
    places.sort_unstable();
    Ok(places)
}

/// Takes away what routing daemons of this name have put into the kernel and left there, because they were killed.
pub(super) fn flush(machine: &Machine, protocol: &str) {
    // Best effort: mostly there is nothing, and `ip` says so by failing.
    for family in Family::ALL {
        let _ = in_network(
            machine,
            ["ip", family.option(), "route", "flush", "proto", protocol],
        )
        .output();
    }
}

/// The same for next hops that are objects of their own; zebra leaves some behind even when it ends properly. The
/// protocol is a number, since `ip nexthop` knows no names here.
pub(super) fn flush_next_hops(machine: &Machine, protocol: &str) {
    let _ = in_network(machine, ["ip", "nexthop", "flush", "proto", protocol]).output();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gateway_several_or_one_of_the_other_family() {
        let of = |text: &str| -> Vec<String> {
            let hops = parse(text.as_bytes()).unwrap();
            hops.iter().map(ToString::to_string).collect()
        };
        assert!(of("").is_empty() && of("[]\n").is_empty());
        assert_eq!(
            of(r#"[{"dst":"10.99.0.1","nhid":27,"gateway":"172.30.0.11","dev":"eth0","flags":[]}]"#),
            ["172.30.0.11"]
        );
        assert_eq!(
            of(
                r#"[{"dst":"10.99.0.1","protocol":"bird","metric":32,"flags":[],"nexthops":[
                {"gateway":"172.30.0.13","dev":"eth0","weight":1,"flags":[]},
                {"gateway":"172.30.0.11","dev":"eth0","weight":1,"flags":[]}]}]"#
            ),
            ["172.30.0.11", "172.30.0.13"]
        );
        assert_eq!(
            of(r#"[{"dst":"10.99.0.1","via":{"family":"inet6","host":"fd00:30::11"},"dev":"eth0"}]"#),
            ["fd00:30::11"]
        );
    }
}
