//! BGP configurations that are wrong in every way that people find: the API server refuses them with a sentence; what an
//! older schema has let through is set aside with one; and no session of another peer notices.

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_e2e::product::api::{condition, path_of};
use fairlead_e2e::product::{Cluster, install, wait_for};
use fairlead_e2e::routers::{FRR_ASN, Frr, NODE_ASN, Nodes};
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::api_only::{ApiOnly, Table};
use super::fixture::{Fixture, SOON};
use super::validation::largest_selector;

const ROLLOUT: Duration = Duration::from_secs(120);
const FAIRLEAD: &str = "/apis/fairlead.dev/v1alpha1";

/// A wrong object.
struct Bad {
    kind: &'static str,
    spec: Value,
    /// In the refusal of the API server.
    refused: &'static str,
    /// The message of the condition begins with it.
    told: &'static str,
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A good peer with some fields set otherwise; null takes one away.
fn peer(change: &Value) -> Value {
    let mut spec = json!({"myASN": 64500, "remoteASN": 64999, "address": "198.51.100.1"});
    for (field, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(spec.as_object_mut().unwrap().remove(field)),
            value => spec[field] = value.clone(),
        }
    }
    spec
}

/// One mistake each.
fn bad() -> Vec<Bad> {
    const ASN: &str = "are reserved";
    const REMOTE: &str = "must be an autonomous system number";
    const ONE: &str = "exactly one of address and interface is needed";
    const FAR: &str = "bfd is for peers that are one hop away";
    const EACH: &str = "preferredNodes and asPathPrepend need each other";
    let peers: &[(Value, &str, &str)] = &[
        (
            json!({"myASN": 0}),
            "greater than or equal to 1",
            "spec.myASN: 0 is reserved",
        ),
        (json!({"myASN": 23456}), ASN, "spec.myASN: 23456 is reserved"),
        (json!({"myASN": 65535}), ASN, "spec.myASN: 65535 is reserved"),
        (
            json!({"myASN": 4294967295_u32}),
            "less than or equal to 4294967294",
            "spec.myASN: 4294967295 is reserved",
        ),
        (
            json!({"remoteASN": 23456}),
            REMOTE,
            "spec.remoteASN: 23456 is reserved",
        ),
        (
            json!({"remoteASN": "ours"}),
            REMOTE,
            "spec.remoteASN: \"ours\" is neither",
        ),
        (json!({"address": null}), ONE, "spec.address: exactly one"),
        (json!({"interface": "eth0"}), ONE, "spec.address: exactly one"),
        (
            json!({"address": "router.example"}),
            "\"router.example\" is not an IP address",
            "spec.address: \"router.example\" is not",
        ),
        (
            json!({"address": "0.0.0.0"}),
            "is no address of a router",
            "spec.address: 0.0.0.0 is the unspecified",
        ),
        (
            json!({"address": "127.0.0.1"}),
            "is no address of a router",
            "spec.address: 127.0.0.1 is a loopback",
        ),
        (
            json!({"address": "ff02::1"}),
            "is no address of a router",
            "spec.address: ff02::1 is a multicast",
        ),
        (
            json!({"address": "fe80::1"}),
            "is a link-local address",
            "spec.address: fe80::1 is a link-local",
        ),
        (
            json!({"address": null, "interface": "eth*"}),
            "\"eth*\" is not the name of a network interface",
            "spec.interface: \"eth*\"",
        ),
        (
            json!({"vrf": "a/b"}),
            "\"a/b\" is not the name of a network interface",
            "spec.vrf: \"a/b\"",
        ),
        (
            json!({"port": 65536}),
            "less than or equal to 65535",
            "spec.port: 65536",
        ),
        (
            json!({"sourceAddress": "2001:db8::1"}),
            "must be of the same family",
            "spec.sourceAddress: 2001:db8::1 and the address",
        ),
        (
            json!({"address": null, "interface": "eth0", "sourceAddress": "198.51.100.2"}),
            "sourceAddress needs address",
            "spec.sourceAddress: 198.51.100.2 is no use over an interface",
        ),
        (
            json!({"holdTime": "0s"}),
            "\"0s\" is not between 3s and 65535s",
            "spec.holdTime: \"0s\"",
        ),
        (
            json!({"holdTime": "2s"}),
            "\"2s\" is not between 3s and 65535s",
            "spec.holdTime: \"2s\"",
        ),
        (
            json!({"holdTime": "3500ms"}),
            "\"3500ms\" is not a number of whole seconds",
            "spec.holdTime: \"3500ms\" is not a number of whole seconds",
        ),
        (
            json!({"holdTime": "9s", "keepaliveTime": "9s"}),
            "keepaliveTime must be shorter than holdTime",
            "spec.keepaliveTime: 9s is not shorter",
        ),
        (
            json!({"connectRetryTime": "1s"}),
            "\"1s\" is not between 2s and",
            "spec.connectRetryTime: \"1s\"",
        ),
        (
            json!({"ebgpMultihop": 1}),
            "greater than or equal to 2",
            "spec.ebgpMultihop: 1",
        ),
        (
            json!({"ttlSecurity": 255}),
            "less than or equal to 254",
            "spec.ttlSecurity: 255",
        ),
        (
            json!({"ebgpMultihop": 2, "ttlSecurity": 1}),
            "ttlSecurity and ebgpMultihop exclude each other",
            "spec.ebgpMultihop: 2 and spec.ttlSecurity",
        ),
        (
            json!({"ebgpMultihop": 2, "remoteASN": "internal"}),
            "ebgpMultihop is for eBGP",
            "spec.ebgpMultihop: 2 is for eBGP",
        ),
        (
            json!({"bfd": {}, "ebgpMultihop": 2}),
            FAR,
            "spec.bfd: it is for routers that are one hop away",
        ),
        (
            json!({"bfd": {}, "ttlSecurity": 2}),
            FAR,
            "spec.bfd: it is for routers that are one hop away",
        ),
        (
            json!({"bfd": {"receiveInterval": "9ms"}}),
            "\"9ms\" is not between 10ms and 60s",
            "spec.bfd.receiveInterval: \"9ms\"",
        ),
        (
            json!({"bfd": {"detectMultiplier": 1}}),
            "greater than or equal to 2",
            "spec.bfd.detectMultiplier: 1",
        ),
        (
            json!({"gracefulRestart": {"restartTime": "4096s"}}),
            "\"4096s\" is not between 1s and 4095s",
            "spec.gracefulRestart.restartTime: \"4096s\"",
        ),
        (
            json!({"gracefulRestart": {"longLivedTime": "0s"}}),
            "\"0s\" is not between 1s and 16777215s",
            "spec.gracefulRestart.longLivedTime: \"0s\"",
        ),
        (
            json!({"passwordSecret": "A"}),
            "\"A\" is not the name of a Secret",
            "spec.passwordSecret: \"A\" is not the name of a Secret",
        ),
        (
            json!({"families": ["IPv5"]}),
            "supported values: \"IPv4\", \"IPv6\"",
            "spec.families[0]: \"IPv5\"",
        ),
        (
            json!({"nodeSelectors": [{"matchExpressions": [{"key": "zone", "operator": "In"}]}]}),
            "operator In of \"zone\" needs values",
            "spec.nodeSelectors: operator In",
        ),
    ];
    let advertisements: &[(Value, &str, &str)] = &[
        (
            json!({"aggregationLength": 0}),
            "greater than or equal to 1",
            "spec.aggregationLength: 0",
        ),
        (
            json!({"aggregationLength": 33}),
            "less than or equal to 32",
            "spec.aggregationLength: 33",
        ),
        (
            json!({"aggregationLengthV6": 129}),
            "less than or equal to 128",
            "spec.aggregationLengthV6: 129",
        ),
        (
            json!({"localPref": -1}),
            "greater than or equal to 0",
            "spec.localPref: -1",
        ),
        (
            json!({"med": 4294967296_u64}),
            "less than or equal to 4294967295",
            "spec.med: 4294967296",
        ),
        (
            json!({"asPathPrepend": 11, "preferredNodes": [{}]}),
            "less than or equal to 10",
            "spec.asPathPrepend: 11",
        ),
        (json!({"asPathPrepend": 1}), EACH, "spec.asPathPrepend: it is for"),
        (
            json!({"preferredNodes": [{}]}),
            EACH,
            "spec.preferredNodes: the other nodes",
        ),
        (
            json!({"communities": ["no-exports"]}),
            "\"no-exports\" is neither a community",
            "spec.communities[0]: \"no-exports\" is neither",
        ),
        (
            json!({"communities": ["65536:1"]}),
            "\"65536:1\" has a part of more than 65535",
            "spec.communities[0]: \"65536:1\" is neither",
        ),
        (
            json!({"communities": ["large:4294967296:1:1"]}),
            "has a part of more than 4294967295",
            "spec.communities[0]: \"large:4294967296:1:1\" is neither",
        ),
        (
            json!({"serviceSelectors": [{"matchExpressions": [{"key": "zone", "operator": "In"}]}]}),
            "operator In of \"zone\" needs values",
            "spec.serviceSelectors: operator In",
        ),
    ];
    let of_peer = |(change, refused, told): &(Value, &'static str, &'static str)| Bad {
        kind: "BGPPeer",
        spec: peer(change),
        refused,
        told,
    };
    let of_advertisement = |(spec, refused, told): &(Value, &'static str, &'static str)| Bad {
        kind: "BGPAdvertisement",
        spec: spec.clone(),
        refused,
        told,
    };
    let peers = peers.iter().map(of_peer);
    peers.chain(advertisements.iter().map(of_advertisement)).collect()
}

#[test]
fn the_api_server_refuses_wrong_bgp_objects_with_a_sentence() {
    let test = ApiOnly::new("bgp-schema");
    let mut table = Table::default();
    for bad in bad() {
        let answer = test.cluster.create(&object(bad.kind, "e2e-row", &bad.spec), true);
        table.row(&format!("{} {}", bad.kind, bad.spec), &answer, Some(bad.refused));
    }
    let good_peers = [
        peer(&json!({})),
        peer(&json!({"remoteASN": "external", "myASN": 4200000000_u32, "address": "2001:db8::1"})),
        peer(&json!({"remoteASN": "internal", "address": null, "interface": "eth0.100"})),
        peer(&json!({"address": "169.254.0.1", "ebgpMultihop": 255, "holdTime": "3s"})),
        peer(&json!({"bfd": {}, "gracefulRestart": {}, "ttlSecurity": 1, "families": ["IPv6", "IPv4"]})),
    ];
    for spec in good_peers {
        let answer = test.cluster.create(&object("BGPPeer", "e2e-row", &spec), true);
        table.row(&spec.to_string(), &answer, None);
    }
    for spec in [
        json!({}),
        json!({"communities": ["0:0", "65535:65535", "large:0:0:4294967295", "graceful-shutdown", "no-llgr"]}),
        json!({"aggregationLength": 1, "aggregationLengthV6": 1, "localPref": 4294967295_u32, "med": 0}),
        json!({"asPathPrepend": 10, "preferredNodes": [{"matchLabels": {"rack": "a"}}], "peers": ["tor-1.a"]}),
    ] {
        let answer = test
            .cluster
            .create(&object("BGPAdvertisement", "e2e-row", &spec), true);
        table.row(&spec.to_string(), &answer, None);
    }
    table.finish();
}

#[test]
fn the_largest_bgp_objects_are_checked_within_the_api_servers_budget() {
    let names = |count: usize| (0..count).map(|n| format!("{n:0>63}")).collect::<Vec<_>>();
    // As many selectors as an object may be large.
    let selectors = vec![largest_selector(); 12];
    let advertisement = json!({
        "addressPools": names(256), "peers": names(64),
        "nodeSelectors": selectors, "preferredNodes": selectors, "serviceSelectors": selectors,
        "communities": vec!["large:4294967295:4294967295:4294967295"; 32],
        "asPathPrepend": 10, "aggregationLength": 24, "aggregationLengthV6": 64, "localPref": 1, "med": 1,
    });
    let mut last_is_wrong = advertisement.clone();
    last_is_wrong["communities"][31] = json!("x");
    let full = peer(&json!({
        "address": "2001:0db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "sourceAddress": "2001:0db8:ffff:ffff:ffff:ffff:ffff:fffe",
        "nodeSelectors": vec![largest_selector(); 16], "ttlSecurity": 1, "families": ["IPv4", "IPv6"],
        "holdTime": "18h12m14s", "keepaliveTime": "6h4m4s", "connectRetryTime": "59m59s",
        "bfd": {"receiveInterval": "59s999ms", "transmitInterval": "59s999ms", "detectMultiplier": 255},
        "gracefulRestart": {"restartTime": "1h8m14s", "longLivedTime": "4659h59m59s"},
        "passwordSecret": format!("{}a", "a.".repeat(126)), "vrf": "fifteen-letters",
    }));
    let test = ApiOnly::new("bgp-budget");
    let mut table = Table::default();
    for (kind, spec, refusal) in [
        ("BGPAdvertisement", advertisement, None),
        ("BGPAdvertisement", last_is_wrong, Some("spec.communities[31]")),
        ("BGPPeer", full, None),
    ] {
        let answer = test.cluster.create(&object(kind, "e2e-row", &spec), true);
        table.row(&format!("the largest {kind}"), &answer, refusal);
    }
    table.finish();
}

/// BGP switched on in the chart, until this is dropped.
struct BgpOn<'a>(&'a Fixture);

impl<'a> BgpOn<'a> {
    fn new(f: &'a Fixture) -> Self {
        install::install_with(&f.lab, &["--set", install::BGP]).unwrap();
        let on = Self(f);
        install::wait_ready(&f.cluster, ROLLOUT).unwrap();
        on
    }
}

impl Drop for BgpOn<'_> {
    fn drop(&mut self) {
        let restored = install::install_chart(&self.0.lab, &[]);
        let ready = install::wait_ready(&self.0.cluster, ROLLOUT);
        if let Err(error) = restored.and(ready) {
            eprintln!("restoring the settings: {error}");
        }
    }
}

/// Schemas that let everything through, as that of an older version may, until this is dropped.
struct Loosened<'a> {
    cluster: &'a Cluster,
    before: BTreeMap<String, Value>,
}

impl<'a> Loosened<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut loosened = Self {
            cluster,
            before: BTreeMap::new(),
        };
        for (kind, plural) in [("BGPPeer", "bgppeers"), ("BGPAdvertisement", "bgpadvertisements")] {
            let path =
                format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.fairlead.dev");
            let before = cluster.get(&path).unwrap().unwrap()["spec"]["versions"].clone();
            let mut loose = before.clone();
            loose[0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            loosened.before.insert(path.clone(), before);
            cluster
                .patch(&path, &json!({"spec": {"versions": loose}}))
                .unwrap();
            wait_for(&format!("{kind} to be taken unchecked"), SOON, || {
                let wrong = object(kind, "e2e-row", &json!({"nodeSelectors": 1}));
                cluster
                    .create(&wrong, true)
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .unwrap();
        }
        loosened
    }
}

impl Drop for Loosened<'_> {
    fn drop(&mut self) {
        for (path, versions) in &self.before {
            if let Err(error) = self.cluster.patch(path, &json!({"spec": {"versions": versions}})) {
                eprintln!("restoring {path}: {error}");
            }
        }
    }
}

/// Each node's session with a peer: state, and since when.
fn sessions(f: &Fixture, peer: &str) -> BTreeMap<String, (String, String)> {
    let mut sessions = BTreeMap::new();
    for state in f.cluster.list(&format!("{FAIRLEAD}/nodestates")).unwrap() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for session in state["status"]["bgp"]["sessions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if session["peer"] == peer {
                let seen = (text(&session["state"]), text(&session["since"]));
                sessions.insert(text(&state["metadata"]["name"]), seen);
            }
        }
    }
    sessions
}

/// Waits until the condition `Accepted` of an object has a status and a reason; answers with its message.
fn wait_told(f: &Fixture, manifest: &Value, status: &str, reasons: &[&str]) -> String {
    let path = path_of(manifest).unwrap();
    wait_for(&format!("{path}: Accepted={status} {reasons:?}"), SOON, || {
        let object = f
            .cluster
            .get(&path)
            .map_err(|error| error.to_string())?
            .unwrap_or_default();
        match condition(&object, "Accepted") {
            Some((is, reason, message)) if is == status && reasons.contains(&reason.as_str()) => Ok(message),
            _ => Err(object.to_string()),
        }
    })
    .unwrap()
}

#[test]
fn wrong_bgp_objects_are_told_and_disturb_no_session() {
    let f = Fixture::new("bgp-config", &["172.30.0.100-172.30.0.109"]);
    let _frr = Frr::start(&f.lab, &Nodes::default()).unwrap();
    let _on = BgpOn::new(&f);
    let router = Place::Router.uplink().unwrap().v4.to_string();
    let name = |suffix: &str| format!("{}-{suffix}", f.name);
    let good = object(
        "BGPPeer",
        &name("good"),
        &json!({"myASN": NODE_ASN, "remoteASN": FRR_ASN, "address": router}),
    );
    f.cluster.apply(&good).unwrap();
    let nodes = f.lab.nodes().len();
    let up = wait_for("the sessions with the good peer", SOON, || {
        let sessions = sessions(&f, &name("good"));
        let established = sessions.values().filter(|(state, _)| state == "Established");
        if established.count() == nodes {
            Ok(sessions)
        } else {
            Err(format!("{sessions:?}"))
        }
    })
    .unwrap();
    wait_told(&f, &good, "True", &["Accepted"]);

    // What no schema can see.
    let fine = json!({"addressPools": [f.name], "peers": [name("good")]});
    f.cluster
        .apply(&object("BGPAdvertisement", &name("fine"), &fine))
        .unwrap();
    for (kind, suffix, spec, status, reason) in [
        ("BGPPeer", "same", good["spec"].clone(), "False", "DuplicatePeer"),
        (
            "BGPPeer",
            "off",
            peer(&json!({"disabled": true})),
            "True",
            "PeerDisabled",
        ),
        (
            "BGPPeer",
            "both",
            peer(
                &json!({"bfd": {}, "gracefulRestart": {}, "nodeSelectors": [{"matchLabels": {"e2e": "none"}}]}),
            ),
            "True",
            "GracefulRestartIneffective",
        ),
        (
            "BGPAdvertisement",
            "pool",
            json!({"addressPools": ["no-such-pool"]}),
            "False",
            "UnknownPool",
        ),
        (
            "BGPAdvertisement",
            "peer",
            json!({"peers": ["no-such-peer"]}),
            "False",
            "UnknownPeer",
        ),
    ] {
        let wrong = object(kind, &name(suffix), &spec);
        f.cluster.apply(&wrong).unwrap();
        wait_told(&f, &wrong, status, &[reason]);
    }

    // What a schema sees, from a time when there was none.
    let loosened = Loosened::new(&f.cluster);
    let wrong: Vec<(Value, Bad)> = bad()
        .into_iter()
        .enumerate()
        .map(|(n, bad)| (object(bad.kind, &name(&format!("bad{n}")), &bad.spec), bad))
        .collect();
    for (manifest, _) in &wrong {
        f.cluster.create(manifest, false).unwrap();
    }
    let mut odd = Vec::new();
    for (manifest, bad) in &wrong {
        let message = wait_told(&f, manifest, "False", &["InvalidField", "InvalidSelector"]);
        if !message.starts_with(bad.told) {
            odd.push(format!("{}: {message:?}, not {:?}", bad.spec, bad.told));
        }
    }
    assert!(odd.is_empty(), "{}", odd.join("\n"));
    drop(loosened);
    println!("{} wrong objects, each told", wrong.len());

    wait_told(&f, &good, "True", &["Accepted"]);
    assert_eq!(sessions(&f, &name("good")), up, "no session has ended");
    for (manifest, _) in &wrong {
        f.cluster.delete(&path_of(manifest).unwrap()).unwrap();
    }
}
