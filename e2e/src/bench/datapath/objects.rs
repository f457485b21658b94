//! The objects that every contender serves: LoadBalancer Services that have their address already, and their
//! EndpointSlices.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::stage::{CONTENDERS, PODS};
use crate::bench::load::Connections;
use crate::error::{LabError, Result};

/// The pool of external addresses.
pub const POOL: &str = "198.18.0.0/16";
/// Every endpoint's address lies here.
pub const POD_ADDRESSES: &str = "10.128.0.0/9";
/// Port of each Service.
pub const PORT: u16 = 80;
/// Port of each endpoint.
pub const TARGET_PORT: u16 = 8080;
/// One of so many Services has policy Local …
const LOCAL_EVERY: usize = 10;
/// … among the first so many: each takes a health-check node port, and a cluster has 2768.
const LOCAL_AMONG: usize = 20_000;
/// Namespaces that the Services are spread over.
const NAMESPACES: usize = 10;
/// First address of endpoints that come by a change.
const NEWCOMERS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);

/// What is created.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    /// Endpoints of each Service.
    pub endpoints: usize,
}

impl Objects {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn prepare(&self, over: &Connections) -> Result<()> {
        let namespace = |client, index| async move {
            let namespace: Namespace = object(json!({"metadata": {"name": namespace(index)}}))?;
            let api: Api<Namespace> = Api::all(client);
            Ok(api.create(&PostParams::default(), &namespace).await.map(drop)?)
        };
        over.each(NAMESPACES, namespace).await.map(drop)
    }

    /// Creates Services `from` to `to` - 1 with status and endpoints.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn create(&self, over: &Connections, from: usize, to: usize) -> Result<()> {
        let create = |client: Client, index: usize| async move {
            let index = from + index;
            let services: Api<Service> = Api::namespaced(client.clone(), &namespace(index));
            let slices: Api<EndpointSlice> = Api::namespaced(client, &namespace(index));
            let post = PostParams::default();
            slices.create(&post, &object(self.slice(index))?).await?;
            services.create(&post, &object(service(index))?).await?;
            let patch = Patch::Merge(status(index));
            services
                .patch_status(&name(index), &PatchParams::default(), &patch)
                .await?;
            Ok(())
        };
        over.each(to.saturating_sub(from), create).await.map(drop)
    }

    fn slice(&self, index: usize) -> Value {
        json!({
            "metadata": {"name": name(index), "labels": {"kubernetes.io/service-name": name(index)}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
            "endpoints": self.endpoints_of(index, None),
        })
    }

    /// The endpoints of a Service; the last of them is `newcomer` if there is one.
    fn endpoints_of(&self, index: usize, newcomer: Option<Ipv4Addr>) -> Vec<Value> {
        let endpoint = |number: usize| {
            let replaced = newcomer.filter(|_| number + 1 == self.endpoints);
            let address = replaced
                .unwrap_or_else(|| nth(Ipv4Addr::new(10, 128, 0, 0), index * self.endpoints + number));
            // One on each contender's node, so that each has as many local ones; the others elsewhere.
            let node = CONTENDERS.get(number).copied().unwrap_or(PODS);
            json!({"addresses": [address], "nodeName": node.name(), "conditions": {"ready": true}})
        };
        (0..self.endpoints).map(endpoint).collect()
    }

    /// A merge patch by which `newcomer` takes the place of a Service's last endpoint.
    pub fn change(&self, index: usize, newcomer: Ipv4Addr) -> Value {
        json!({"endpoints": self.endpoints_of(index, Some(newcomer))})
    }
}

/// The EndpointSlices of a Service's namespace.
pub fn slices(client: Client, index: usize) -> Api<EndpointSlice> {
    Api::namespaced(client, &namespace(index))
}

/// A Service's name, and its slice's.
pub fn name(index: usize) -> String {
    format!("s{index}")
}

/// A Service's external address.
pub fn vip(index: usize) -> Ipv4Addr {
    nth(Ipv4Addr::new(198, 18, 0, 1), index)
}

/// The address of the `count`th endpoint that comes by a change.
pub fn newcomer(count: usize) -> Ipv4Addr {
    nth(NEWCOMERS, count)
}

/// Whether a Service has policy Local.
pub fn is_local(index: usize) -> bool {
    index % LOCAL_EVERY == LOCAL_EVERY - 1 && index < LOCAL_AMONG
}

fn nth(first: Ipv4Addr, index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + u32::try_from(index).unwrap_or_default())
}

fn namespace(index: usize) -> String {
    format!("bench-{}", index % NAMESPACES)
}

fn service(index: usize) -> Value {
    json!({
        "metadata": {"name": name(index)},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "externalTrafficPolicy": if is_local(index) { "Local" } else { "Cluster" },
            "ports": [{"name": "http", "port": PORT, "targetPort": TARGET_PORT, "protocol": "TCP"}],
        },
    })
}

/// What the controller would have written.
fn status(index: usize) -> Value {
    let address = vip(index);
    json!({"status": {
        "loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]},
        "conditions": [{
            "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned",
            "message": format!("{address} from pool bench"), "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }})
}

fn object<T: DeserializeOwned>(json: Value) -> Result<T> {
    serde_json::from_value(json).map_err(|source| LabError::Json {
        what: "an object of the load".to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_lie_where_they_should() {
        let pods: ipnet::Ipv4Net = POD_ADDRESSES.parse().unwrap();
        let pool: ipnet::Ipv4Net = POOL.parse().unwrap();
        let objects = Objects { endpoints: 10 };
        let last = objects.endpoints_of(29_999, None)[9]["addresses"][0].clone();
        let last: Ipv4Addr = serde_json::from_value(last).unwrap();
        assert!(pods.contains(&last) && last < newcomer(0));
        assert!(pods.contains(&newcomer(100_000)));
        assert!(pool.contains(&vip(0)) && pool.contains(&vip(29_999)));
        assert_eq!((0..30_000).filter(|i| is_local(*i)).count(), 2000);
    }

    #[test]
    fn a_change_replaces_one_endpoint() {
        let objects = Objects { endpoints: 4 };
        let (before, after) = (
            objects.endpoints_of(7, None),
            objects.endpoints_of(7, Some(newcomer(3))),
        );
        assert_eq!(before[..3], after[..3]);
        assert_eq!(after[3]["addresses"][0], "10.200.0.3");
        assert_eq!(before[3]["nodeName"], after[3]["nodeName"]);
    }
}
