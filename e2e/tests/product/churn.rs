//! Services that come, go and are edited by several users at once, and a witness that sees all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairlead_e2e::bench::observe::Observer;
use fairlead_e2e::bench::timeline::{Move, Overlap, Timeline};
use fairlead_e2e::product::api::condition;
use fairlead_e2e::product::{install, manifests, wait_for};
pub use fairlead_e2e::random::Random;
use serde_json::{Value, json};

use super::fixture::Fixture;

/// Label of the Services that the witness watches; its value is the name of the fixture.
const LABEL: &str = "fairlead.dev/e2e";
/// Users at work at once.
const USERS: usize = 3;
/// What a user waits between two requests, so that on a busy machine faults are measured and not a queue.
const PAUSE: Duration = Duration::from_millis(60);
/// Services of one user, at the most.
const EACH: usize = 60;

/// Whether to do more than there is time for in every run: set FAIRLEAD_E2E_LONG.
pub fn long() -> bool {
    std::env::var_os("FAIRLEAD_E2E_LONG").is_some()
}

/// Sees every version of the Services that carry the test's label.
pub struct Witness {
    observer: Observer,
    // Dropped after the observer, which has a task in it.
    _runtime: tokio::runtime::Runtime,
}

impl Witness {
    pub fn new(f: &Fixture) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let observer = runtime
            .block_on(async { Observer::of(f.lab.kube().await?, &format!("{LABEL}={}", f.name)).await })
            .unwrap();
        Self {
            observer,
            _runtime: runtime,
        }
    }

    pub fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.observer.timeline()
    }

    pub fn clock(&self) -> Duration {
        self.observer.clock()
    }

    pub fn overlaps(&self) -> Vec<Overlap> {
        self.timeline().overlaps().to_vec()
    }

    pub fn moves(&self) -> Vec<Move> {
        self.timeline().moves().to_vec()
    }

    /// Waits until exactly these Services exist, each with an address of its own, as the watch and a list say.
    pub fn wait_all(&self, f: &Fixture, names: &BTreeSet<String>, limit: Duration) {
        wait_for("all Services to have addresses", limit, || {
            let timeline = self.timeline();
            let seen = timeline.existing();
            let without: Vec<&str> = seen
                .iter()
                .filter(|(_, address)| address.is_none())
                .map(|(name, _)| *name)
                .collect();
            let seen: BTreeSet<String> = seen.keys().map(|key| (*key).to_owned()).collect();
            let lost: Vec<_> = names.difference(&seen).collect();
            let unknown: Vec<_> = seen.difference(names).collect();
            let doubled: Vec<_> = timeline.overlaps().iter().filter(|o| o.ended.is_none()).collect();
            if without.is_empty() && lost.is_empty() && unknown.is_empty() && doubled.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "without an address: {without:?}; lost: {lost:?}; too many: {unknown:?}; doubled: {doubled:?}"
                ))
            }
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        let list = format!("/api/v1/namespaces/{}/services?labelSelector={LABEL}", f.name);
        let mut holders: BTreeMap<IpAddr, String> = BTreeMap::new();
        let all = f.cluster.list(&list).unwrap();
        assert_eq!(all.len(), names.len());
        for service in all {
            let name = service["metadata"]["name"].as_str().unwrap();
            let address = address(&service).unwrap();
            if let Some(other) = holders.insert(address, name.to_owned()) {
                panic!("{name} and {other} have {address}");
            }
            let assigned = condition(&service, "fairlead.dev/Assigned");
            let (status, reason, message) = assigned.unwrap();
            assert_eq!((status.as_str(), reason.as_str()), ("True", "Assigned"), "{name}");
            assert!(
                message.starts_with(&format!("{address} from pool ")),
                "{name}: {message}"
            );
        }
    }

    /// No address was in two Services at a time, and no Service but these lost or changed its address.
    pub fn assert_undisturbed(&self, but: &BTreeSet<String>) {
        let overlaps = self.overlaps();
        assert!(overlaps.is_empty(), "{overlaps:?}");
        let mut moves = self.moves();
        moves.retain(|moved| !but.contains(&moved.service));
        assert!(moves.is_empty(), "{moves:?}");
    }
}

/// The first external address of a Service.
pub fn address(service: &Value) -> Option<IpAddr> {
    service["status"]["loadBalancer"]["ingress"][0]["ip"]
        .as_str()?
        .parse()
        .ok()
}

/// A Service that the witness watches. Without pods and node ports, so that there is work for the controller alone.
pub fn service(f: &Fixture, name: &str) -> Value {
    let mut service = manifests::service(&f.name, name, "Cluster");
    service["metadata"]["labels"] = json!({LABEL: f.name});
    service["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    service["spec"].as_object_mut().unwrap().remove("selector");
    service
}

/// `namespace/name`, as the witness calls it.
pub fn key(f: &Fixture, name: &str) -> String {
    format!("{}/{name}", f.name)
}

/// What the users did.
#[derive(Debug, Default)]
pub struct Churned {
    /// The Services that exist in the end.
    pub exist: BTreeSet<String>,
    /// Those that were of another type for a while.
    pub retyped: BTreeSet<String>,
    /// Creations, edits and deletions.
    pub requests: [usize; 3],
}

/// Users create, edit and delete Services as long as `meanwhile` runs.
pub fn churn<T>(f: &Fixture, random: &mut Random, meanwhile: impl FnOnce(&mut Random) -> T) -> (Churned, T) {
    /// Ends the users, also when the test fails.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|user| {
                let (random, stop) = (random.fork(), &stop);
                scope.spawn(move || use_services(f, user, random, stop))
            })
            .collect();
        let ending = Stop(&stop);
        let result = meanwhile(random);
        drop(ending);
        let mut all = Churned::default();
        for user in users {
            let one = user.join().unwrap();
            all.exist.extend(one.exist);
            all.retyped.extend(one.retyped);
            for (sum, count) in all.requests.iter_mut().zip(one.requests) {
                *sum += count;
            }
        }
        let [created, edited, deleted] = all.requests;
        println!("{created} Services created, {edited} edited, {deleted} deleted meanwhile");
        (all, result)
    })
}

fn use_services(f: &Fixture, user: usize, mut random: Random, stop: &AtomicBool) -> Churned {
    let mut done = Churned::default();
    let mut names: Vec<String> = vec![];
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(PAUSE);
        let any = random.below(names.len());
        match random.below(8) {
            0..3 if names.len() < EACH => {
                let name = format!("c{user}-{}", done.requests[0]);
                f.cluster.create(&service(f, &name), false).unwrap();
                names.push(name);
                done.requests[0] += 1;
            }
            3..6 if !names.is_empty() => {
                let (name, number) = (names[any].clone(), done.requests[1]);
                edit(f, &name, number, &mut done.retyped, &mut random);
                done.requests[1] += 1;
            }
            _ if !names.is_empty() => {
                f.cluster
                    .delete(&f.service_path(&names.swap_remove(any)))
                    .unwrap();
                done.requests[2] += 1;
            }
            _ => {}
        }
    }
    done.exist = names.iter().map(|name| key(f, name)).collect();
    done
}

fn edit(f: &Fixture, name: &str, number: usize, retyped: &mut BTreeSet<String>, random: &mut Random) {
    let patch = |patch: Value| f.cluster.patch(&f.service_path(name), &patch).map(drop).unwrap();
    match random.below(4) {
        0 => patch(json!({"metadata": {"annotations": {"example.com/note": number.to_string()}}})),
        1 => patch(json!({"spec": {"ports": [{"port": 1 + number % 60_000, "protocol": "TCP"}]}})),
        2 => patch(json!({"metadata": {"labels": {"example.com/label": number.to_string()}}})),
        _ => {
            // It gives its address back, and gets one again.
            retyped.insert(key(f, name));
            patch(
                json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": null,
                "allocateLoadBalancerNodePorts": null}}),
            );
            patch(json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}}));
        }
    }
}

/// The chart with other values, until this is dropped.
pub struct Values<'a>(&'a Fixture);

/// For all pods to be replaced, on a busy machine.
pub const ROLLED_OUT: Duration = Duration::from_secs(120);

impl<'a> Values<'a> {
    pub fn set(f: &'a Fixture, values: &[&str]) -> Self {
        let guard = Self(f);
        install::install_chart(&f.lab, values).unwrap();
        guard
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        let back = install::install_chart(&self.0.lab, &[]);
        let back = back.and_then(|()| install::wait_ready(&self.0.cluster, ROLLED_OUT));
        if let Err(error) = back {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// Deletes all Services of the test at once.
pub fn delete_all(f: &Fixture) {
    f.cluster
        .delete(&format!("/api/v1/namespaces/{}/services", f.name))
        .unwrap();
}

/// The time since something began, as text.
pub fn ms(began: Instant) -> String {
    format!("{} ms", began.elapsed().as_millis())
}
