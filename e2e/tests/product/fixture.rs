//! What every test starts from: the lab, Fairlead installed, nodes uncordoned, a namespace and a pool of its own.

use std::net::Ipv4Addr;
use std::sync::Once;
use std::time::Duration;

use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::wire::{self, Answer};
use fairlead_e2e::product::{Cluster, install, manifests, wait_for};
use fairlead_e2e::topology::Place;
use fairlead_e2e::{Lab, LabError};
use serde_json::Value;

/// Long enough for anything that should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// For pods that have to start.
pub const POD_START: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub lab: Lab,
    pub cluster: Cluster,
    /// The test's namespace; its pool and its advertisement have the same name.
    pub name: String,
}

impl Fixture {
    /// Everything is set up, with a pool of the given addresses.
    pub fn new(name: &str, addresses: &[&str]) -> Self {
        static INSTALL: Once = Once::new();
        let lab = std::env::var("FAIRLEAD_LAB")
            .map_err(|_| {
                LabError::Refused("FAIRLEAD_LAB names no lab: use `make e2e`, or `lab up` first".into())
            })
            .and_then(|lab| Lab::open(&lab))
            .unwrap();
        let cluster = Cluster::connect(&lab).unwrap();
        INSTALL.call_once(|| {
            install::install(&lab).unwrap();
            install::wait_ready(&cluster, Duration::from_secs(120)).unwrap();
        });
        let name = format!("e2e-{name}");
        let fixture = Self { lab, cluster, name };
        fixture.namespace("", &Value::Null);
        let cluster = &fixture.cluster;
        cluster.apply(&manifests::pool(&fixture.name, addresses)).unwrap();
        cluster
            .apply(&manifests::advertisement(&fixture.name, &fixture.name))
            .unwrap();
        fixture
    }

    /// A namespace with labels, of the fixture's name and a suffix; it goes with the fixture.
    pub fn namespace(&self, suffix: &str, labels: &Value) -> String {
        let name = format!("{}{suffix}", self.name);
        let mut manifest = manifests::namespace(&name);
        manifest["metadata"]["labels"] = labels.clone();
        // One of the same name may still be on its way out.
        wait_for(&format!("namespace {name}"), POD_START, || {
            let namespace = self.cluster.apply(&manifest).map_err(|e| e.to_string())?;
            if namespace["status"]["phase"] == "Terminating" {
                return Err("terminating".into());
            }
            Ok(())
        })
        .unwrap();
        name
    }

    /// A Service with web servers `<service>-<node>` on the given nodes, all ready, and its address assigned.
    pub fn web(&self, service: &str, policy: &str, nodes: &[&str]) -> Ipv4Addr {
        self.cluster
            .apply(&manifests::service(&self.name, service, policy))
            .unwrap();
        for node in nodes {
            self.cluster
                .apply(&manifests::web_pod(&self.name, service, node))
                .unwrap();
        }
        for node in nodes {
            self.wait_pod_ready(&format!("{service}-{node}"));
        }
        self.wait_address(service)
    }

    pub fn wait_pod_ready(&self, pod: &str) {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}", self.name);
        wait_for(&format!("pod {pod} to be ready"), POD_START, || {
            let pod = self
                .cluster
                .get(&path)
                .map_err(|e| e.to_string())?
                .unwrap_or_default();
            match condition(&pod, "Ready") {
                Some((status, _, _)) if status == "True" => Ok(()),
                _ => Err(pod["status"].to_string()),
            }
        })
        .unwrap();
    }

    /// The path of a Service: `name`, or `namespace/name` if it is not in the fixture's namespace.
    pub fn service_path(&self, service: &str) -> String {
        let (namespace, name) = service.split_once('/').unwrap_or((&self.name, service));
        format!("/api/v1/namespaces/{namespace}/services/{name}")
    }

    pub fn service(&self, service: &str) -> Value {
        self.cluster
            .get(&self.service_path(service))
            .unwrap()
            .unwrap_or_default()
    }

    pub fn address(&self, service: &str) -> Option<Ipv4Addr> {
        self.service(service)["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()?
            .parse()
            .ok()
    }

    pub fn wait_address(&self, service: &str) -> Ipv4Addr {
        wait_for(&format!("Service {service} to have an address"), SOON, || {
            self.address(service)
                .ok_or_else(|| self.service(service)["status"].to_string())
        })
        .unwrap()
    }

    /// Waits until a condition of a Service has a status and a reason; answers with its message.
    pub fn wait_condition(&self, service: &str, type_: &str, status: &str, reason: &str) -> String {
        wait_for(
            &format!("{service}: {type_}={status} {reason}"),
            SOON,
            || match condition(&self.service(service), type_) {
                Some((is, why, message)) if is == status && why == reason => Ok(message),
                other => Err(format!("{other:?}")),
            },
        )
        .unwrap()
    }

    /// Waits until an event with a reason is there about a Service; answers with its text.
    pub fn wait_event(&self, service: &str, reason: &str) -> String {
        wait_for(&format!("an event {reason} about {service}"), SOON, || {
            let events = self
                .cluster
                .events(&self.name, "Service", service)
                .map_err(|e| e.to_string())?;
            let found = events
                .iter()
                .rev()
                .find(|event| event.starts_with(&format!("{reason}: ")));
            found.cloned().ok_or_else(|| format!("{events:?}"))
        })
        .unwrap()
    }

    /// Who answers ARP for an address.
    pub fn announcers(&self, address: Ipv4Addr) -> Vec<String> {
        wire::announcers(&self.lab, address).unwrap()
    }

    /// Waits until exactly one node answers ARP for an address, and it is one that `accept` takes.
    pub fn wait_announcer(&self, address: Ipv4Addr, accept: impl Fn(&str) -> bool) -> String {
        wait_for(
            &format!("the right node to announce {address}"),
            SOON,
            || match self.announcers(address).as_slice() {
                [one] if accept(one) => Ok(one.clone()),
                other => Err(format!("{other:?}")),
            },
        )
        .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// Watches that nobody but this node answers ARP for an address, for a while.
    pub fn stays_with(&self, announcer: &str, address: Ipv4Addr) {
        holds_for(
            "one announcer and always the same",
            Duration::from_secs(3),
            || {
                let now = self.announcers(address);
                if now == [announcer] {
                    Ok(())
                } else {
                    Err(format!("{now:?} answer"))
                }
            },
        )
        .unwrap();
    }

    /// Waits until nobody answers ARP for an address.
    pub fn wait_silent(&self, address: Ipv4Addr) {
        wait_for(&format!("{address} to be silent"), SOON, || {
            match self.announcers(address).as_slice() {
                [] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()));
    }

    /// curls a target, trying again until it answers.
    pub fn curl(&self, from: Place, target: &str) -> Answer {
        wait_for(&format!("{target} to answer {}", from.name()), SOON, || {
            wire::curl(&self.lab, from, target, Duration::from_secs(2)).map_err(|e| e.to_string())?
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.explain()))
    }

    /// curls a target once and expects no answer; answers with what curl said.
    pub fn curl_fails(&self, from: Place, target: &str) -> String {
        let answer = wire::curl(&self.lab, from, target, Duration::from_secs(2)).unwrap();
        answer.expect_err(&format!("{target} answered {}", from.name()))
    }

    /// Runs a command in a place; it must succeed.
    pub fn run(&self, place: Place, argv: &[&str]) -> String {
        let output = self.lab.exec(place, argv).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{argv:?} in {}: {}",
            place.name(),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Our own table on a node, or nothing when there is none.
    pub fn rules(&self, place: Place) -> String {
        let output = self
            .lab
            .exec(place, ["nft", "list", "table", "inet", "fairlead"])
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What Fairlead says of itself, for the message of a failed test.
    pub fn explain(&self) -> String {
        let show = |path: &str| match self.cluster.list(path) {
            Ok(items) => items
                .iter()
                .map(|item| format!("  {}: {}\n", item["metadata"]["name"], item["status"]))
                .collect::<String>(),
            Err(error) => format!("  {error}\n"),
        };
        format!(
            "services:\n{}node states:\n{}",
            show(&format!("/api/v1/namespaces/{}/services", self.name)),
            show("/apis/fairlead.dev/v1alpha1/nodestates"),
        )
    }
}

impl Drop for Fixture {
    /// Leaves the cluster as it was found, also after a failed test.
    fn drop(&mut self) {
        for place in self.lab.nodes() {
            let _ = self.cluster.cordon(&place.name(), false);
            let _ = self.lab.exec(place, ["nft", "delete", "table", "inet", "e2e"]);
        }
        // Services first, so that the next test finds the addresses free. Pods may take their time.
        let own = |path: &str, prefix: &str| {
            let items = self.cluster.list(path).unwrap_or_default();
            let names = items
                .iter()
                .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned));
            names
                .filter(|name| name.starts_with(prefix))
                .map(|name| format!("{path}/{name}"))
                .collect::<Vec<_>>()
        };
        let namespaces = own("/api/v1/namespaces", &self.name);
        let mut paths: Vec<String> = namespaces
            .iter()
            .flat_map(|namespace| own(&format!("{namespace}/services"), ""))
            .collect();
        for kind in [
            "l2advertisements",
            "bgpadvertisements",
            "bgppeers",
            "addresspools",
        ] {
            paths.extend(own(&format!("/apis/fairlead.dev/v1alpha1/{kind}"), &self.name));
        }
        // All at once, then one by one until they are gone.
        for path in &paths {
            let _ = self.cluster.delete(path);
        }
        for path in paths {
            if let Err(error) = self.cluster.delete_and_wait(&path, SOON) {
                eprintln!("cleaning up: {error}");
            }
        }
        for path in namespaces {
            if let Err(error) = self.cluster.delete(&path) {
                eprintln!("cleaning up: {error}");
            }
        }
    }
}

/// A node by its name.
pub fn node(name: &str) -> Place {
    name.parse().unwrap()
}
