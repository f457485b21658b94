//! Objects that tests apply.

use serde_json::{Value, json};

use crate::images::AGNHOST;

/// An `AddressPool`.
pub fn pool(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": name}, "spec": {"addresses": addresses},
    })
}

/// An `L2Advertisement` of one pool by all nodes.
pub fn advertisement(name: &str, pool: &str) -> Value {
    json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "L2Advertisement",
        "metadata": {"name": name}, "spec": {"addressPools": [pool]},
    })
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A LoadBalancer Service `namespace/name` on port 80 for pods with label `app: <name>`; `policy` is its
/// externalTrafficPolicy.
pub fn service(namespace: &str, name: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

/// A web server `<app>-<node>` on one node. When it is deleted it goes on answering for 3 s, as a server that ends
/// gracefully does.
pub fn web_pod(namespace: &str, app: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": format!("{app}-{node}"), "labels": {"app": app}},
        "spec": {
            "nodeName": node,
            // Without a token there is no volume to wait for: in a namespace that was just made, the cluster's
            // certificate may not be there yet, and kubelet takes its time before it looks again.
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 10,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "web", "image": AGNHOST,
                "args": ["netexec", "--http-port=8080", "--delay-shutdown=3"],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                // Its share of a busy machine: without any, it is the last to run, and stands still for seconds.
                "resources": {"requests": {"cpu": "100m"}},
            }],
        },
    })
}
