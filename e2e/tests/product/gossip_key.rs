//! The Secret with the key that speakers share.

use std::net::SocketAddr;
use std::time::Duration;

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::install::{NAMESPACE, RELEASE};
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::wait_for;
use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::fixture::{Fixture, SOON};

fn path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/secrets/{RELEASE}-gossip")
}

/// Waits for a Secret with a UID other than this.
fn wait_secret(f: &Fixture, other_than: &Value) -> Value {
    wait_for("the Secret of the gossip key", SOON, || {
        let secret = f
            .cluster
            .get(&path())
            .map_err(|e| e.to_string())?
            .unwrap_or_default();
        let uid = &secret["metadata"]["uid"];
        if uid.is_string() && uid != other_than {
            Ok(secret)
        } else {
            Err(secret["metadata"].to_string())
        }
    })
    .unwrap()
}

#[test]
fn the_controller_makes_a_key_when_there_is_none_and_changes_none_that_exists() {
    let f = Fixture::new("gossip-key", &["172.30.0.100-172.30.0.101"]);
    let first = wait_secret(&f, &Value::Null);
    assert_eq!(first["type"], "fairlead.dev/gossip-key");
    let key = first["data"]["key"].as_str().unwrap_or_default();
    assert_eq!(key.len(), 44, "32 bytes in base64");

    // Deleted, there is another one at once.
    f.cluster.delete(&path()).unwrap();
    let second = wait_secret(&f, &first["metadata"]["uid"]);
    assert_ne!(second["data"]["key"], first["data"]["key"]);

    // One that is no good is told of and left alone.
    let short = json!({"data": {"key": "c2hvcnQ="}});
    let patched = f.cluster.patch(&path(), &short).unwrap();
    wait_for("an event", SOON, || {
        let events = f
            .cluster
            .events(NAMESPACE, "Secret", &format!("{RELEASE}-gossip"))
            .map_err(|e| e.to_string())?;
        let told = events
            .iter()
            .any(|event| event.starts_with("InvalidGossipKey") && event.contains("5 bytes"));
        told.then_some(()).ok_or_else(|| format!("{events:?}"))
    })
    .unwrap();
    let unchanged = || {
        let secret = f
            .cluster
            .get(&path())
            .map_err(|e| e.to_string())?
            .unwrap_or_default();
        if secret["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"] {
            Ok(())
        } else {
            Err(secret["metadata"].to_string())
        }
    };
    holds_for("a Secret that stays as it is", Duration::from_secs(3), unchanged).unwrap();
    f.cluster.delete(&path()).unwrap();
    wait_secret(&f, &second["metadata"]["uid"]);
}

/// Nodes that hear all others, as their NodeStates say.
fn heard(f: &Fixture) -> Result<(), String> {
    let states = f
        .cluster
        .list("/apis/fairlead.dev/v1alpha1/nodestates")
        .map_err(|e| e.to_string())?;
    let others = f.lab.nodes().len() - 1;
    let gossip: Vec<&Value> = states.iter().map(|state| &state["status"]["gossip"]).collect();
    let well = |gossip: &&Value| gossip["alive"] == others && gossip["problem"].is_null();
    if gossip.len() == others + 1 && gossip.iter().all(well) {
        Ok(())
    } else {
        Err(format!("{gossip:?}"))
    }
}

/// Datagrams that a node's speaker has refused as none of a speaker's, of whatever kind.
fn refused(f: &Fixture, node: Place) -> u64 {
    let metrics = f.run(node, &["curl", "-s", "http://127.0.0.1:7671/metrics"]);
    let of = |reason: &str| {
        let prefix = format!("fairlead_speaker_gossip_refused_total{{reason=\"{reason}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    };
    ["malformed", "version", "forged", "no_such_key", "not_for_us"]
        .map(of)
        .iter()
        .sum()
}

#[test]
fn another_key_moves_nothing_and_fails_nothing() {
    let f = Fixture::new("rotation", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2", "node3"]);
    let owner = f.wait_announcer(vip, |_| true);
    wait_for("all speakers to hear each other", SOON, || heard(&f)).unwrap();
    let first = wait_secret(&f, &Value::Null);
    let client = f
        .lab
        .start_client(Place::Client, &ClientOptions::new(SocketAddr::from((vip, 80))))
        .unwrap();
    f.cluster.delete(&path()).unwrap();
    wait_secret(&f, &first["metadata"]["uid"]);
    holds_for(
        "the speakers go on hearing each other",
        Duration::from_secs(6),
        || heard(&f),
    )
    .unwrap();
    f.stays_with(&owner, vip);
    let report = client.stop().unwrap();
    println!("another gossip key: {report}");
    assert_eq!(report.failed, 0, "{report}");
    assert_eq!(f.wait_announcer(vip, |_| true), owner);
}

/// What nobody with the key has written is refused and counted, and disturbs nobody.
#[test]
fn what_does_not_come_from_a_speaker_is_refused_and_counted() {
    let f = Fixture::new("forgery", &["172.30.0.100-172.30.0.101"]);
    wait_for("all speakers to hear each other", SOON, || heard(&f)).unwrap();
    let node: Place = "node1".parse().unwrap();
    let before = refused(&f, node);
    let garbage = "head -c 300 /dev/urandom > /dev/udp/172.30.0.11/7673";
    f.run(Place::LanClient, &["bash", "-c", garbage]);
    wait_for("the datagram to be counted", SOON, || match refused(&f, node) {
        count if count > before => Ok(()),
        count => Err(format!("{count}")),
    })
    .unwrap();
    holds_for(
        "the speakers go on hearing each other",
        Duration::from_secs(3),
        || heard(&f),
    )
    .unwrap();
}

#[test]
fn each_account_has_rights_on_this_secret_only() {
    let f = Fixture::new("gossip-rights", &["172.30.0.100-172.30.0.101"]);
    let secret = format!("secrets/{RELEASE}-gossip");
    let rights = |account: &str, verb: &str, what: &str| {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-{account}");
        let arguments = ["auth", "can-i", verb, what, "-n", NAMESPACE, &who];
        let output = f.lab.kubectl(arguments).unwrap().output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    for (account, verb, what, answer) in [
        ("controller", "get", secret.as_str(), "yes"),
        ("controller", "delete", &secret, "yes"),
        ("controller", "create", "secrets", "yes"),
        ("controller", "patch", &secret, "no"),
        ("controller", "get", "secrets/another", "no"),
        ("controller", "list", "secrets", "no"),
        ("speaker", "watch", &secret, "yes"),
        ("speaker", "delete", &secret, "no"),
        ("speaker", "create", "secrets", "no"),
        ("speaker", "get", "secrets/another", "no"),
        ("node-agent", "get", &secret, "no"),
    ] {
        assert_eq!(rights(account, verb, what), answer, "{account} may {verb} {what}");
    }
}
