//! What BIRD's answers say. They are made for people, and indented by what belongs together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use super::super::{Family, Neighbor, Path};

/// Finds the neighbour in `show protocols all`: a block for each protocol, divided by empty lines.
pub(super) fn neighbor(answer: &str, address: IpAddr) -> Option<Neighbor> {
    answer
        .split("\n\n")
        .find(|block| value(block, "Neighbor address").and_then(|a| a.parse().ok()) == Some(address))
        .map(|block| Neighbor {
            state: value(block, "BGP state").unwrap_or_default().to_owned(),
            asn: value(block, "Neighbor AS")
                .and_then(|asn| asn.parse().ok())
                .unwrap_or_default(),
            received: received(block),
            last_error: value(block, "Last error").map(str::to_owned),
            bfd: None,
        })
}

/// The value of the first line `KEY: VALUE`.
fn value<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    block
        .lines()
        .find_map(|line| Some(line.trim_start().strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// Below the line `Channel ipv4` there is one with the number of routes, if the channel is up.
fn received(block: &str) -> BTreeMap<Family, u64> {
    let mut received = BTreeMap::new();
    let mut channel = None;
    for line in block.lines() {
        let line = line.trim_start();
        channel = match line {
            "Channel ipv4" => Some(Family::V4),
            "Channel ipv6" => Some(Family::V6),
            _ => channel,
        };
        let routes = line.strip_prefix("Routes:").and_then(first_number);
        if let (Some(family), Some(routes)) = (channel, routes) {
            received.insert(family, routes);
        }
    }
    received
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The state in `show bfd sessions`: a table with the address first and the state third.
pub(super) fn bfd(answer: &str, address: IpAddr) -> Option<String> {
    answer.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.parse() == Ok(address)).then(|| words.nth(1).map(str::to_owned))?
    })
}

/// The protocols whose sessions are up, in `show protocols`: `nodes4_1  BGP  ---  up  01:23:41.120  Established`.
pub(super) fn established(answer: &str) -> Vec<&str> {
    answer
        .lines()
        .filter(|line| line.trim_end().ends_with(" Established"))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// The paths of one prefix in `show route PREFIX all`. Which of them are used, the kernel's next hops tell; one whose
/// protocol is not among the established is kept for a graceful restart.
pub(super) fn paths(answer: &str, used: &[IpAddr], established: &[&str]) -> Vec<Path> {
    let mut paths: Vec<Path> = vec![];
    for line in answer.lines() {
        // `10.99.0.1/32  unicast [nodes4_1 …] * (100) [AS64500i]`; the prefix stands at the first path only.
        if let Some((_, rest)) = line.split_once(" unicast [") {
            let protocol = rest.split_whitespace().next().unwrap_or_default();
            paths.push(Path {
                best: line.contains("] * ("),
                stale: !established.contains(&protocol),
                ..Path::default()
            });
            continue;
        }
        let Some(path) = paths.last_mut() else { continue };
        let Some((key, value)) = line.trim().split_once(": ") else {
            continue;
        };
        match key {
            "BGP.next_hop" => path.next_hops = words(value),
            "BGP.as_path" => path.as_path = words(value),
            "BGP.local_pref" => path.local_pref = value.parse().ok(),
            "BGP.med" => path.med = value.parse().ok(),
            "BGP.community" => path.communities = communities(value),
            "BGP.large_community" => path.large_communities = communities(value),
            _ => {}
        }
    }
    for path in &mut paths {
        path.used = path.next_hops.iter().any(|hop| used.contains(hop));
    }
    paths
}

/// Those words that are what is wanted; an AS path may also hold sets, in braces.
fn words<T: FromStr>(value: &str) -> Vec<T> {
    value
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// `(64500,1) (65535,0)` or `(64500, 2, 3)` as `64500:1` and so on.
fn communities(value: &str) -> Vec<String> {
    value
        .split(')')
        .map(|one| {
            one.trim()
                .trim_start_matches('(')
                .split(',')
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(":")
        })
        .filter(|one| !one.is_empty())
        .collect()
}

/// The number of networks in `show route count`: `6 of 6 routes for 2 networks in table master4`.
pub(super) fn count(answer: &str, family: Family) -> u64 {
    let table = match family {
        Family::V4 => "in table master4",
        Family::V6 => "in table master6",
    };
    answer
        .lines()
        .find(|line| line.trim_end().ends_with(table))
        .and_then(|line| first_number(line.split_once(" routes for ")?.1))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: &str = "\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     01:23:31.064  

nodes4     BGP        ---        start  01:23:31.064  Passive       
  BGP state:          Passive
    Neighbor range:   172.30.0.0/24

nodes4_1   BGP        ---        up     01:23:41.120  Established   
  BGP state:          Established
    Neighbor address: 172.30.0.12
    Neighbor AS:      64500
    Local AS:         64513
  Channel ipv4
    State:          UP
    Routes:         3 imported, 0 exported, 0 preferred
  Channel ipv6
    State:          DOWN

nodes4_3   BGP        ---        start  01:25:03.462  Active        Error: BFD session down
  BGP state:          Active
    Neighbor address: 172.30.0.11
    Neighbor AS:      64500
    Last error:       Error: BFD session down
";

    #[test]
    fn neighbours_that_are_there_were_there_and_never_were() {
        let of = |address: &str| neighbor(PROTOCOLS, address.parse().unwrap());
        let up = of("172.30.0.12").unwrap();
        assert!(up.is_established());
        assert_eq!((up.asn, up.received), (64500, BTreeMap::from([(Family::V4, 3)])));
        let down = of("172.30.0.11").unwrap();
        assert_eq!(down.state, "Active");
        assert_eq!(down.last_error.as_deref(), Some("Error: BFD session down"));
        assert_eq!(of("172.30.0.13"), None);
    }

    #[test]
    fn states_of_bfd() {
        let table = "bfd1:\nIP address   Interface  State  Since  Interval  Timeout\n\
                     172.30.0.12  eth0       Up     01:23:42.670    0.100    0.300\n";
        assert_eq!(bfd(table, "172.30.0.12".parse().unwrap()).as_deref(), Some("Up"));
        assert_eq!(bfd(table, "172.30.0.1".parse().unwrap()), None);
    }

    #[test]
    fn paths_with_all_that_they_carry() {
        let answer = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.99.0.1/32         unicast [nodes4_3 01:23:42.321] * (100) [AS64500i]\n\
            \tvia 172.30.0.11 on eth0\n\tType: BGP univ\n\tBGP.origin: IGP\n\tBGP.as_path: 64500 64500\n\
            \tBGP.next_hop: 172.30.0.11\n\tBGP.med: 7\n\tBGP.local_pref: 100\n\
            \tBGP.community: (64500,1) (65535,0)\n\tBGP.large_community: (64500, 2, 3)\n\
            \x20                    unicast [nodes4_1 01:23:42.321] (100) [AS64500i]\n\
            \tvia 172.30.0.12 on eth0\n\tBGP.next_hop: 172.30.0.12\n";
        let up = established(
            "nodes4_1   BGP  ---  start  01:23:41.120  Active\nnodes4_3   BGP  ---  up  01:23:41.120  Established   \n",
        );
        assert_eq!(up, ["nodes4_3"]);
        let [first, second] = paths(answer, &["172.30.0.11".parse().unwrap()], &up)
            .try_into()
            .unwrap();
        let expected = Path {
            next_hops: vec!["172.30.0.11".parse().unwrap()],
            as_path: vec![64500, 64500],
            communities: vec!["64500:1".into(), "65535:0".into()],
            large_communities: vec!["64500:2:3".into()],
            local_pref: Some(100),
            med: Some(7),
            best: true,
            used: true,
            stale: false,
        };
        assert_eq!(first, expected);
        assert!(!second.best && !second.used && second.stale);
    }

    #[test]
    fn numbers_of_networks() {
        let answer = "3 of 3 routes for 1 networks in table master4\n\
                      6 of 6 routes for 2 networks in table master6\nTotal: 9 of 9 routes for 3 networks in 2 tables\n";
        assert_eq!((count(answer, Family::V4), count(answer, Family::V6)), (1, 2));
        assert_eq!(count("", Family::V4), 0);
    }
}
