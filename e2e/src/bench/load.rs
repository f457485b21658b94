//! The load: Services created, written to and removed by several connections at once, as fast as the API server takes
//! them.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::cluster::{client, until};
use crate::error::{LabError, Result};
use crate::lab::Lab;

/// Label of all Services of a run, with the run's name as value.
pub const LABEL: &str = "fairlead.dev/bench";
/// Namespaces that the Services are spread over.
const NAMESPACES: usize = 10;
/// How long the removal of all namespaces may take.
const GONE: Duration = Duration::from_secs(300);

/// Connections to the API server. Each of them carries one request at a time.
pub struct Connections(Vec<Client>);

/// The Services of one run: `bench-RUN-0/s0` and so on.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Name of the run.
    pub run: &'static str,
    /// Number of Services.
    pub services: usize,
}

impl Connections {
    /// Opens so many. A client of its own for each: they share no pool.
    ///
    /// # Errors
    /// When the lab's kubeconfig cannot be used.
    pub async fn open(lab: &Lab, count: usize) -> Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(lab.kube().await?);
        }
        Ok(Self(clients))
    }

    /// Opens so many by a kubeconfig of one's own choice, such as one for use inside the control plane's network.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub(super) async fn by(kubeconfig: &Path, count: usize) -> Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(client(kubeconfig).await?);
        }
        Ok(Self(clients))
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<Client> {
        self.0.first().cloned()
    }

    /// Does `job` for 0 to `count`, each connection taking the next when it is free; the results in that order.
    pub(super) async fn each<T, F>(&self, count: usize, job: impl Fn(Client, usize) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let next = AtomicUsize::new(0);
        let (next, job) = (&next, &job);
        let workers = self.0.iter().map(|client| async move {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, LabError>(done);
                }
                done.push((index, job(client.clone(), index).await?));
            }
        });
        let mut results: Vec<(usize, T)> = try_join_all(workers).await?.into_iter().flatten().collect();
        results.sort_unstable_by_key(|(index, _)| *index);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

impl Load {
    fn namespace(&self, index: usize) -> String {
        format!("bench-{}-{}", self.run, index % NAMESPACES)
    }

    fn name(index: usize) -> String {
        format!("s{index}")
    }

    /// Makes the namespaces.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn prepare(&self, over: &Connections) -> Result<()> {
        let namespace = |client, index| async move {
            let namespace: Namespace = serde_json::from_value(json!({
                "metadata": {"name": self.namespace(index)},
            }))
            .map_err(json_error)?;
            let api: Api<Namespace> = Api::all(client);
            Ok(api.create(&PostParams::default(), &namespace).await.map(drop)?)
        };
        over.each(NAMESPACES, namespace).await.map(drop)
    }

    /// Creates all Services; `created` is told of each when the API server has answered.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn create(&self, over: &Connections, created: impl Fn(&Service)) -> Result<Vec<Service>> {
        let created = &created;
        let create = |client, index| async move {
            let api: Api<Service> = Api::namespaced(client, &self.namespace(index));
            let service = api.create(&PostParams::default(), &self.service(index)?).await?;
            created(&service);
            Ok(service)
        };
        over.each(self.services, create).await
    }

    /// A LoadBalancer Service as a user may write it, but for two things: 10 000 of them would need more node ports
    /// than a cluster has, so there are none; and it selects no pods, so that no other controller works on it.
    fn service(&self, index: usize) -> Result<Service> {
        serde_json::from_value(json!({
            "metadata": {"name": Self::name(index), "labels": {LABEL: self.run}},
            "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            },
        }))
        .map_err(json_error)
    }

    /// Writes an address and a condition to the status of each Service, as a controller would: a merge patch with the
    /// version as precondition. `round` makes every round's write a change. Answers with the Services as they are then.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn write_statuses(
        &self,
        over: &Connections,
        services: &[Service],
        round: u8,
    ) -> Result<Vec<Service>> {
        let write = |client, index: usize| async move {
            let service = &services[index];
            let address = address(round, index);
            let patch = json!({
                "metadata": {"resourceVersion": service.metadata.resource_version},
                "status": {
                    "loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]},
                    "conditions": [{
                        "type": "fairlead.dev/Assigned", "status": "True", "reason": "Assigned",
                        "message": format!("{address} from pool bench"), "observedGeneration": 1,
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }],
                },
            });
            let api: Api<Service> = Api::namespaced(client, &self.namespace(index));
            let name = service.name_any();
            Ok(api
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?)
        };
        over.each(services.len(), write).await
    }

    /// Removes all Services and their namespaces, and waits until nothing of them is left.
    ///
    /// # Errors
    /// What the API server refuses, and what is left when time is up.
    pub async fn remove(&self, over: &Connections) -> Result<()> {
        let parameters = DeleteParams::background();
        let delete = |client, index| {
            let parameters = &parameters;
            async move {
                let api: Api<Service> = Api::namespaced(client, &self.namespace(index));
                absent_is_fine(api.delete(&Self::name(index), parameters).await)
            }
        };
        over.each(self.services, delete).await?;
        let delete = |client, index| {
            let parameters = &parameters;
            async move {
                let api: Api<Namespace> = Api::all(client);
                absent_is_fine(api.delete(&self.namespace(index), parameters).await)
            }
        };
        over.each(NAMESPACES, delete).await?;
        let Some(client) = over.0.first() else {
            return Ok(());
        };
        until("the namespaces of the run to be gone", GONE, || async {
            let api: Api<Namespace> = Api::all(client.clone());
            let left = api
                .list(&kube::api::ListParams::default())
                .await
                .map_err(|error| error.to_string())?;
            let prefix = format!("bench-{}-", self.run);
            let mut left = left.iter().filter(|n| n.name_any().starts_with(&prefix));
            left.next()
                .map_or(Ok(()), |namespace| Err(format!("{:?}", namespace.status)))
        })
        .await
    }
}

/// An address for each Service that differs from round to round.
fn address(round: u8, index: usize) -> Ipv4Addr {
    let [.., high, low] = index.to_be_bytes();
    Ipv4Addr::new(10, round, high, low)
}

/// The address in a Service's status, if there is one.
pub fn assigned(service: &Service) -> Option<IpAddr> {
    let ingress = service
        .status
        .as_ref()?
        .load_balancer
        .as_ref()?
        .ingress
        .as_ref()?;
    ingress.first()?.ip.as_ref()?.parse().ok()
}

/// `namespace/name` of a Service.
pub fn key(service: &Service) -> String {
    format!(
        "{}/{}",
        service.namespace().unwrap_or_default(),
        service.name_any()
    )
}

fn absent_is_fine<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn json_error(source: serde_json::Error) -> LabError {
    LabError::Json {
        what: "an object of the load".to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_a_run_are_unique() {
        let load = Load {
            run: "x",
            services: 10_000,
        };
        let all = |f: &dyn Fn(usize) -> String| {
            (0..load.services)
                .map(f)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        assert_eq!(
            all(&|i| format!("{}/{}", load.namespace(i), Load::name(i))),
            load.services
        );
        assert_eq!(all(&|i| address(3, i).to_string()), load.services);
        assert_ne!(address(1, 7), address(2, 7));
    }

    #[test]
    fn the_service_is_as_described() {
        let load = Load {
            run: "x",
            services: 1,
        };
        let mut service = load.service(0).unwrap();
        let spec = service.spec.as_ref().unwrap();
        assert_eq!(spec.type_.as_deref(), Some("LoadBalancer"));
        assert_eq!(spec.allocate_load_balancer_node_ports, Some(false));
        assert_eq!(spec.selector, None);
        assert_eq!(assigned(&service), None);
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "198.18.0.1"}]}})).unwrap();
        assert_eq!(assigned(&service), Some(IpAddr::from([198, 18, 0, 1])));
    }
}
