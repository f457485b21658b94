//! What FRR's answers in JSON say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::super::{Family, Neighbor, Path};
use crate::error::{Doing, Result};

/// Well-known communities as FRR names them, with their numbers.
const WELL_KNOWN: [(&str, &str); 10] = [
    ("graceful-shutdown", "65535:0"),
    ("accept-own", "65535:1"),
    ("llgr-stale", "65535:6"),
    ("no-llgr", "65535:7"),
    ("blackhole", "65535:666"),
    ("no-export", "65535:65281"),
    ("no-advertise", "65535:65282"),
    ("local-AS", "65535:65283"),
    ("no-peer", "65535:65284"),
    ("internet", "0:0"),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NeighborText {
    bgp_state: String,
    remote_as: u32,
    #[serde(default)]
    address_family_info: BTreeMap<String, FamilyText>,
    last_reset_due_to: Option<String>,
    last_notification_reason: Option<String>,
    last_shutdown_description: Option<String>,
    peer_bfd_info: Option<BfdText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FamilyText {
    #[serde(default)]
    accepted_prefix_counter: u64,
}

#[derive(Deserialize)]
struct BfdText {
    status: String,
}

/// `show bgp neighbors ADDRESS json`: one object under the address, or a remark that there is none.
pub(super) fn neighbor(answer: Value) -> Result<Option<Neighbor>> {
    let Some(text) = answer
        .as_object()
        .and_then(|all| all.values().find(|value| value.get("bgpState").is_some()))
    else {
        return Ok(None);
    };
    let text: NeighborText = serde_json::from_value(text.clone()).doing("FRR's words on a neighbour")?;
    let received = [(Family::V4, "ipv4Unicast"), (Family::V6, "ipv6Unicast")]
        .into_iter()
        .filter_map(|(family, key)| {
            Some((family, text.address_family_info.get(key)?.accepted_prefix_counter))
        })
        .collect();
    let words = [
        text.last_reset_due_to,
        text.last_notification_reason,
        text.last_shutdown_description,
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    Ok(Some(Neighbor {
        state: text.bgp_state,
        asn: text.remote_as,
        received,
        last_error: (!words.is_empty()).then(|| words.join("; ")),
        bfd: text.peer_bfd_info.map(|bfd| bfd.status),
    }))
}

/// `show bgp FAMILY unicast statistics json`: under the family a list with one object, if there is a route.
pub(super) fn total_prefixes(answer: &Value) -> u64 {
    let families = answer.as_object().into_iter().flat_map(|all| all.values());
    families
        .filter_map(|tables| tables[0]["totalPrefixes"].as_u64())
        .sum()
}

#[derive(Deserialize)]
struct PathText {
    #[serde(default)]
    nexthops: Vec<HopText>,
    aspath: Option<AsPathText>,
    community: Option<StringText>,
    #[serde(rename = "largeCommunity")]
    large_community: Option<StringText>,
    #[serde(rename = "locPrf")]
    local_pref: Option<u32>,
    metric: Option<u32>,
    bestpath: Option<Value>,
    #[serde(default)]
    multipath: bool,
    #[serde(default)]
    stale: bool,
}

#[derive(Deserialize)]
struct HopText {
    ip: IpAddr,
}

#[derive(Deserialize)]
struct AsPathText {
    #[serde(default)]
    segments: Vec<SegmentText>,
}

#[derive(Deserialize)]
struct SegmentText {
    #[serde(default)]
    list: Vec<u32>,
}

#[derive(Deserialize)]
struct StringText {
    string: String,
}

/// `show bgp FAMILY unicast PREFIX json`: nothing, or an object with the paths.
pub(super) fn paths(mut answer: Value) -> Result<Vec<Path>> {
    let Some(texts) = answer.get_mut("paths").map(Value::take) else {
        return Ok(vec![]);
    };
    let texts: Vec<PathText> = serde_json::from_value(texts).doing("FRR's words on a route")?;
    Ok(texts.into_iter().map(path).collect())
}

fn path(text: PathText) -> Path {
    let words = |text: Option<StringText>| -> Vec<String> {
        let text = text.map(|text| text.string).unwrap_or_default();
        text.split_whitespace().map(number).collect()
    };
    let best = text.bestpath.is_some_and(|best| best["overall"] == true);
    Path {
        next_hops: text.nexthops.into_iter().map(|hop| hop.ip).collect(),
        as_path: text
            .aspath
            .into_iter()
            .flat_map(|path| path.segments)
            .flat_map(|segment| segment.list)
            .collect(),
        communities: words(text.community),
        large_communities: words(text.large_community),
        local_pref: text.local_pref,
        med: text.metric,
        best,
        used: best || text.multipath,
        stale: text.stale,
    }
}

/// A community in numbers.
fn number(word: &str) -> String {
    WELL_KNOWN
        .iter()
        .find(|(name, _)| *name == word)
        .map_or(word, |(_, number)| number)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::topology::Place;

    #[test]
    fn a_neighbour_that_is_there_and_one_that_is_not() {
        assert_eq!(neighbor(json!({"bgpNoSuchNeighbor": true})).unwrap(), None);
        let answer = json!({"172.30.0.11": {
            "remoteAs": 64500, "bgpState": "Established",
            "addressFamilyInfo": {"ipv4Unicast": {"acceptedPrefixCounter": 2, "sentPrefixCounter": 0}},
            "lastResetDueTo": "Peer closed the session",
            "peerBfdInfo": {"type": "single hop", "status": "Up"},
        }});
        let expected = Neighbor {
            state: "Established".into(),
            asn: 64500,
            received: BTreeMap::from([(Family::V4, 2)]),
            last_error: Some("Peer closed the session".into()),
            bfd: Some("Up".into()),
        };
        assert_eq!(neighbor(answer).unwrap(), Some(expected));
    }

    #[test]
    fn numbers_of_prefixes() {
        let answer = json!({"ipv4Unicast": [{"instance": "VRF default", "totalPrefixes": 10000}]});
        assert_eq!(total_prefixes(&answer), 10000);
        assert_eq!(total_prefixes(&json!({})), 0);
    }

    #[test]
    fn paths_with_all_that_they_carry() {
        assert!(paths(json!({})).unwrap().is_empty());
        let answer = json!({"prefix": "10.99.0.1/32", "paths": [{
            "aspath": {"string": "64500 64500", "segments": [{"type": "as-sequence", "list": [64500, 64500]}]},
            "metric": 7, "locPrf": 0, "valid": true, "multipath": true, "bestpath": {"overall": true},
            "community": {"string": "64500:1 graceful-shutdown", "list": ["64500:1", "gracefulShutdown"]},
            "largeCommunity": {"string": "64500:2:3", "list": ["64500:2:3"]},
            "nexthops": [{"ip": "fd00:30::13", "used": false}, {"ip": "fe80::fa:17ff:feea:300d", "used": true}],
        }]});
        let expected = Path {
            next_hops: vec![
                "fd00:30::13".parse().unwrap(),
                "fe80::fa:17ff:feea:300d".parse().unwrap(),
            ],
            as_path: vec![64500, 64500],
            communities: vec!["64500:1".into(), "65535:0".into()],
            large_communities: vec!["64500:2:3".into()],
            local_pref: Some(0),
            med: Some(7),
            best: true,
            used: true,
            stale: false,
        };
        assert_eq!(paths(answer).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(expected.leads_to(), Some(Place::Node(3)));
    }
}
