//! All pods of Fairlead are replaced while addresses are given and used.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fairlead_e2e::client::ClientOptions;
use fairlead_e2e::product::install::{pods_of, wait_ready};
use fairlead_e2e::product::manifests;
use fairlead_e2e::topology::Place;
use serde_json::json;

use super::churn::{ROLLED_OUT, Values, Witness, delete_all, key, ms, service};
use super::fixture::{Fixture, SOON};

/// A Service is created so often while pods are replaced.
const RHYTHM: Duration = Duration::from_millis(100);
/// Time before and after, in which the client must find everything good.
const CALM: Duration = Duration::from_secs(2);

/// UIDs of the pods of all components.
fn pods(f: &Fixture) -> BTreeSet<String> {
    let all =
        ["controller", "speaker", "node-agent"].map(|component| pods_of(&f.cluster, component).unwrap());
    let uids = all
        .iter()
        .flatten()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned());
    uids.collect()
}

#[test]
fn an_upgrade_under_load_disturbs_nothing() {
    let f = Fixture::new("upgrade", &["172.30.0.100", "198.18.0.0/22"]);
    // Speakers of the protocol before this one, so that both are mixed while pods are replaced.
    let former = Values::set(&f, &["--set=speaker.extraArgs={--gossip-protocol=1}"]);
    wait_ready(&f.cluster, ROLLED_OUT).unwrap();
    f.cluster
        .apply(&manifests::service(&f.name, "web", "Cluster"))
        .unwrap();
    for place in f.lab.nodes() {
        let mut pod = manifests::web_pod(&f.name, "web", &place.name());
        // A pod that asks for no CPU gets none on a busy node while programs of higher standing have work, as Fairlead's
        // have here. That would be seen as failed requests.
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m"}});
        f.cluster.apply(&pod).unwrap();
    }
    for place in f.lab.nodes() {
        f.wait_pod_ready(&format!("web-{}", place.name()));
    }
    let vip = f.wait_address("web");
    assert_eq!(vip.to_string(), "172.30.0.100");
    f.wait_announcer(vip, |_| true);
    let witness = Witness::new(&f);
    let options = ClientOptions::new(SocketAddr::from((vip, 80)));
    let client = f.lab.start_client(Place::Client, &options).unwrap();
    std::thread::sleep(CALM);
    let (before, done) = (pods(&f), AtomicBool::new(false));
    let began = Instant::now();
    let (values, created) = std::thread::scope(|scope| {
        /// Ends the creations, also when the test fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let creating = scope.spawn(|| {
            let mut names = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let name = format!("s{}", names.len());
                f.cluster.create(&service(&f, &name), false).unwrap();
                witness.timeline().created(&key(&f, &name), witness.clock());
                names.insert(key(&f, &name));
                std::thread::sleep(RHYTHM);
            }
            names
        });
        let stop = Stop(&done);
        // Every program has this in its environment.
        let values = Values::set(&f, &["--set=logs.format=json"]);
        wait_ready(&f.cluster, ROLLED_OUT).unwrap();
        println!("upgraded after {}", ms(began));
        drop(stop);
        (values, creating.join().unwrap())
    });
    assert!(before.is_disjoint(&pods(&f)), "every pod is another one");
    witness.wait_all(&f, &created, SOON);
    witness.assert_undisturbed(&BTreeSet::new());
    std::thread::sleep(CALM);
    let report = client.stop().unwrap();
    let slowest = witness.timeline().waits().into_iter().max().unwrap_or_default();
    println!(
        "upgrade: {} Services created, the slowest had its address after {} ms; {report}",
        created.len(),
        slowest.as_millis()
    );
    assert_eq!(f.address("web"), Some(vip));
    assert_eq!(report.failed, 0, "{report}");
    delete_all(&f);
    drop(values);
    drop(former);
}
