//! What tests of address management ask of the API: which addresses a Service has and why, what a pool says of itself.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::time::Duration;

use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::install::run;
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::{manifests, wait_for};
use serde_json::{Value, json};

use super::fixture::{Fixture, SOON};

pub const ASSIGNED: &str = "fairlead.dev/Assigned";
pub const ANNOUNCED: &str = "fairlead.dev/Announced";
pub const ADDRESSES: &str = "fairlead.dev/load-balancer-ips";
pub const POOL: &str = "fairlead.dev/address-pool";
pub const SHARED: &str = "fairlead.dev/allow-shared-ip";

/// Time in which nothing that should not happen may happen.
const QUIET: Duration = Duration::from_secs(2);

/// `172.30.0.<last>`, of the nodes' segment.
pub fn v4(last: u8) -> String {
    Ipv4Addr::new(172, 30, 0, last).to_string()
}

/// `fd00:30::<last>`, of the nodes' segment.
pub fn v6(last: u16) -> String {
    format!("fd00:30::{last:x}")
}

/// A pool's path.
pub fn pool_path(name: impl Display) -> String {
    format!("/apis/fairlead.dev/v1alpha1/addresspools/{name}")
}

/// The IP families of a Service: `4`, `6`, `46`, `64`.
pub fn families(digits: &str) -> Value {
    let family = |digit| if digit == '4' { "IPv4" } else { "IPv6" };
    json!(digits.chars().map(family).collect::<Vec<_>>())
}

impl Fixture {
    /// Creates or changes a LoadBalancer Service; `patch` is merged into the usual one.
    pub fn make(&self, service: &str, patch: Value) {
        let (namespace, name) = service.split_once('/').unwrap_or((&self.name, service));
        let mut manifest = manifests::service(namespace, name, "Cluster");
        merge(&mut manifest, patch);
        self.cluster.apply(&manifest).unwrap();
    }

    /// The same with annotations.
    pub fn make_with(&self, service: &str, annotations: &[(&str, &str)]) {
        let annotations: Value = annotations.iter().map(|(k, v)| (*k, *v)).collect();
        self.make(service, json!({"metadata": {"annotations": annotations}}));
    }

    /// Merges a patch into a Service.
    pub fn edit(&self, service: &str, patch: &Value) {
        self.cluster.patch(&self.service_path(service), patch).unwrap();
    }

    /// Sets an annotation of a Service, or removes it.
    pub fn annotate(&self, service: &str, annotation: &str, text: Option<&str>) {
        self.edit(service, &json!({"metadata": {"annotations": {annotation: text}}}));
    }

    /// Merges a patch into the status of a Service, as only an administrator's hand or a restored backup does.
    pub fn edit_status(&self, service: &str, status: &Value) {
        let path = format!("{}/status", self.service_path(service));
        self.cluster.patch(&path, &json!({"status": status})).unwrap();
    }

    /// The addresses in the status of a Service, in their order.
    pub fn ingress(&self, service: &str) -> Vec<String> {
        let service = self.service(service);
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        let ips = ingress.into_iter().flatten().map(|entry| entry["ip"].as_str());
        ips.map(|ip| ip.unwrap_or_default().to_owned()).collect()
    }

    /// Waits until a Service has these addresses, in this order.
    pub fn wait_ingress(&self, service: &str, addresses: &[impl AsRef<str>]) {
        let wanted: Vec<&str> = addresses.iter().map(AsRef::as_ref).collect();
        wait_for(&format!("{service} to have {wanted:?}"), SOON, || {
            let ingress = self.ingress(service);
            (ingress == wanted)
                .then_some(())
                .ok_or_else(|| self.service(service)["status"].to_string())
        })
        .unwrap();
    }

    /// Waits until a Service is said to have addresses, with this reason; answers with the message.
    pub fn wait_kept(&self, service: &str, reason: &str) -> String {
        self.wait_condition(service, ASSIGNED, "True", reason)
    }

    /// Waits until a Service is refused for this reason, with an event; answers with the message. It has no address.
    pub fn wait_refused(&self, service: &str, reason: &str) -> String {
        let message = self.wait_condition(service, ASSIGNED, "False", reason);
        assert_eq!(self.ingress(service), [""; 0], "{service}: {message}");
        if !service.contains('/') {
            self.wait_event(service, reason);
        }
        message
    }

    /// Waits until an event about a Service has this reason and says this.
    pub fn wait_told(&self, service: &str, reason: &str, piece: &str) {
        wait_for(&format!("{service} to be told {reason} {piece}"), SOON, || {
            let events = self.cluster.events(&self.name, "Service", service);
            let events = events.map_err(|error| error.to_string())?;
            let told = |event: &String| event.starts_with(&format!("{reason}: ")) && event.contains(piece);
            events
                .iter()
                .any(told)
                .then_some(())
                .ok_or_else(|| format!("{events:?}"))
        })
        .unwrap();
    }

    /// Watches for two seconds that Services keep exactly these addresses.
    pub fn keeps(&self, services: &[(&str, &[String])]) {
        holds_for("nothing changes", QUIET, || {
            services.iter().try_for_each(|(service, addresses)| {
                let ingress = self.ingress(service);
                (ingress == *addresses)
                    .then_some(())
                    .ok_or_else(|| format!("{service}: {ingress:?}"))
            })
        })
        .unwrap();
    }

    /// Creates or changes a pool of the fixture's name and a suffix, and waits until the controller has seen it; `spec`
    /// is merged into its spec. It goes with the fixture.
    pub fn set_pool(&self, suffix: &str, addresses: &[&str], spec: Value) -> String {
        let name = format!("{}{suffix}", self.name);
        let mut pool = manifests::pool(&name, addresses);
        merge(&mut pool["spec"], spec);
        let generation = self.cluster.apply(&pool).unwrap()["metadata"]["generation"].clone();
        self.wait_pool(&name, &format!("seen as of {generation}"), |pool| {
            let conditions = pool["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["observedGeneration"] == generation)
        });
        name
    }

    /// A pool as it is; null if there is none.
    pub fn pool(&self, name: &str) -> Value {
        self.cluster.get(&pool_path(name)).unwrap().unwrap_or_default()
    }

    /// Waits until a pool is as `accept` wants it.
    pub fn wait_pool(&self, name: &str, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("pool {name}: {what}"), SOON, || {
            let pool = self.pool(name);
            if accept(&pool) {
                Ok(pool)
            } else {
                Err(format!("{} {}", pool["metadata"], pool["status"]))
            }
        })
        .unwrap()
    }

    /// Waits until a pool says `Accepted` with this status and reason; answers with the message.
    pub fn wait_accepted(&self, name: &str, status: &str, reason: &str) -> String {
        let verdict = |pool: &Value| condition(pool, "Accepted").unwrap_or_default();
        let pool = self.wait_pool(name, &format!("Accepted={status} {reason}"), |pool| {
            let (is, why, _) = verdict(pool);
            is == status && why == reason
        });
        verdict(&pool).2
    }

    /// The addresses that a pool says to retain.
    pub fn retained(pool: &Value) -> Vec<&str> {
        let list = pool["status"]["retained"].as_array();
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// What kubectl prints.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(&mut self.lab.kubectl(arguments).unwrap()).unwrap()
    }
}

/// Merges a patch into a value, as the API's merge patches do.
pub fn merge(value: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (name, field) in fields {
                merge(&mut value[name.as_str()], field);
            }
        }
        other => *value = other,
    }
}
