//! Objects about BGP that tests and benchmarks apply.

use serde_json::{Value, json};

/// ASN of the nodes.
pub const NODES_ASN: u32 = 64500;

/// A `BGPPeer`; `spec` is added to what every peer of the nodes has, and wins.
pub fn peer(name: &str, address: &str, remote_asn: u32, spec: Value) -> Value {
    let mut all = json!({
        "myASN": NODES_ASN, "remoteASN": remote_asn, "address": address,
        "holdTime": "9s", "keepaliveTime": "3s", "connectRetryTime": "2s",
    });
    merge(&mut all, spec);
    object("BGPPeer", name, all)
}

/// A `BGPAdvertisement` of one pool.
pub fn advertisement(name: &str, pool: &str, spec: Value) -> Value {
    let mut all = json!({"addressPools": [pool]});
    merge(&mut all, spec);
    object("BGPAdvertisement", name, all)
}

/// BFD as the lab's routers have it: 100 ms, three may be lost.
pub fn bfd() -> Value {
    json!({"receiveInterval": "100ms", "transmitInterval": "100ms", "detectMultiplier": 3})
}

/// Selectors of nodes by their names.
pub fn nodes(names: &[&str]) -> Value {
    json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]}])
}

/// The path of a `BGPPeer`.
pub fn peer_path(name: &str) -> String {
    format!("/apis/fairlead.dev/v1alpha1/bgppeers/{name}")
}

/// A cluster-wide object of Fairlead.
pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

/// Puts the entries of one JSON object into another; `null` takes one away.
pub fn merge(into: &mut Value, from: Value) {
    let (Value::Object(into), Value::Object(from)) = (into, from) else {
        return;
    };
    for (key, value) in from {
        if value.is_null() {
            into.remove(&key);
        } else {
            into.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins() {
        let made = peer(
            "a",
            "192.0.2.1",
            64512,
            json!({"holdTime": "3s", "address": null, "interface": "eth1"}),
        );
        assert_eq!(made["spec"]["holdTime"], "3s");
        assert_eq!(made["spec"]["myASN"], NODES_ASN);
        assert_eq!(
            (&made["spec"]["address"], &made["spec"]["interface"]),
            (&Value::Null, &json!("eth1"))
        );
    }
}
