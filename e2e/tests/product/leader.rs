//! One controller leads. What a Service notices when it ends, dies, stands still or is cut off.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairlead_e2e::product::install::{NAMESPACE, leader, leader_pod, wait_ready};
use fairlead_e2e::product::wait::holds_for;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::Value;

use super::fixture::{Fixture, SOON};

/// Lease duration and retry period with its jitter, as the chart has them, and something for a busy machine.
const DEATH: Duration = Duration::from_millis(15_000 + 2_400 + 1_600);
const ROLLOUT: Duration = Duration::from_secs(60);

/// The process of a controller's pod, and where it runs; no text or several lines if there is not just one.
pub fn process_of(f: &Fixture, pod: &Value) -> (Place, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place: Place = text(&pod["spec"]["nodeName"]).parse().unwrap();
    let name = text(&pod["metadata"]["name"]);
    let script = format!(
        "for pid in $(pgrep -f ^/usr/bin/fairlead-controller); do \
         tr '\\0' '\\n' < /proc/$pid/environ | grep -qx POD_NAME={name} && echo $pid; done; true"
    );
    let pid = f.run(place, &["sh", "-c", &script]).trim().to_owned();
    (place, pid)
}

/// A controller's process.
struct Controller {
    /// The identity that it takes part with.
    identity: String,
    pod: String,
    place: Place,
    address: String,
    pid: String,
}

impl Controller {
    /// The one that leads now.
    fn leader(f: &Fixture) -> Self {
        wait_ready(&f.cluster, ROLLOUT).unwrap();
        let identity = leader(&f.cluster).unwrap();
        let pod = leader_pod(&f.cluster).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&pod["metadata"]["name"]);
        let (place, pid) = process_of(f, &pod);
        assert!(
            !pid.is_empty() && !pid.contains(char::is_whitespace),
            "one process of {name}: {pid:?}"
        );
        Self {
            identity,
            pod: name,
            place,
            address: text(&pod["status"]["podIP"]),
            pid,
        }
    }

    fn kill(&self, f: &Fixture, signal: &str) {
        f.run(self.place, &["kill", signal, &self.pid]);
    }

    /// The sum of all series of a figure, or what is wrong.
    fn figure(&self, f: &Fixture, name: &str) -> Result<f64, String> {
        let url = format!("http://{}:7670/metrics", self.address);
        let output = f
            .lab
            .exec(self.place, ["curl", "-sS", "--max-time", "2", &url])
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        if values.is_empty() {
            return Err(format!("{name} is not in: {text}"));
        }
        Ok(values.iter().sum())
    }

    /// What it has sent: writes of a status.
    fn writes(&self, f: &Fixture) -> f64 {
        self.figure(f, "fairlead_controller_writes_total").unwrap()
    }

    fn leads(&self, f: &Fixture) -> bool {
        self.figure(f, "fairlead_controller_leader").unwrap() == 1.0
    }

    /// Waits until the Lease has another holder; answers with how long that took since `since`.
    fn wait_successor(&self, f: &Fixture, since: Instant, limit: Duration) -> (String, Duration) {
        wait_for(
            &format!("another leader than {}", self.identity),
            limit,
            || match leader(&f.cluster).map_err(|e| e.to_string())? {
                holder if holder.is_empty() || holder == self.identity => Err(format!("{holder:?}")),
                holder => Ok((holder, since.elapsed())),
            },
        )
        .unwrap()
    }
}

fn create(f: &Fixture, service: &str) {
    let manifest = manifests::service(&f.name, service, "Cluster");
    f.cluster.apply(&manifest).unwrap();
}

/// Versions of everything that a controller writes.
fn versions(f: &Fixture) -> Vec<(String, String)> {
    let paths = [
        format!("/api/v1/namespaces/{}/services", f.name),
        "/apis/fairlead.dev/v1alpha1/addresspools".to_owned(),
        "/apis/fairlead.dev/v1alpha1/l2advertisements".to_owned(),
    ];
    let items = paths.iter().flat_map(|path| f.cluster.list(path).unwrap());
    items
        .map(|item| {
            let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("resourceVersion"))
        })
        .collect()
}

/// Waits until the leader has nothing more to write: for longer than a condition waits to be told, nothing changes.
fn settled(f: &Fixture) {
    wait_for("everything to be written", SOON, || {
        let before = versions(f);
        let unchanged = || {
            (versions(f) == before)
                .then_some(())
                .ok_or("something changed".to_owned())
        };
        holds_for("nothing changes", Duration::from_millis(5500), unchanged).map_err(|e| e.to_string())
    })
    .unwrap();
}

/// A process that stands still until this is dropped.
struct Frozen<'a>(&'a Fixture, &'a Controller);

impl<'a> Frozen<'a> {
    fn new(f: &'a Fixture, controller: &'a Controller) -> Self {
        controller.kill(f, "-STOP");
        Self(f, controller)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.1.kill(self.0, "-CONT");
    }
}

/// The old leader goes on with what it knew. It must do nothing: neither it nor anybody else has anything to write.
fn assert_powerless(f: &Fixture, old: &Controller, writes: f64) {
    let before = versions(f);
    let what = format!("{} does not write", old.identity);
    holds_for(&what, Duration::from_secs(3), || {
        if old.figure(f, "fairlead_controller_leader")? != 0.0 {
            return Err("it says that it leads".into());
        }
        let now = old.figure(f, "fairlead_controller_writes_total")?;
        if now != writes {
            return Err(format!("{} writes", now - writes));
        }
        let now = versions(f);
        if now == before {
            Ok(())
        } else {
            Err(format!("{before:?} became {now:?}"))
        }
    })
    .unwrap();
}

#[test]
fn a_leader_that_ends_hands_over_within_two_seconds() {
    let f = Fixture::new("handover", &["172.30.0.100-172.30.0.179"]);
    let (mut addresses, mut took) = (vec![], vec![]);
    for trial in 0..3 {
        let old = Controller::leader(&f);
        // Work of which some is under way when the leader is asked to end.
        let names: Vec<String> = (0..20).map(|n| format!("web{trial}-{n}")).collect();
        let (before, after) = names.split_at(10);
        before.iter().for_each(|service| create(&f, service));
        let began = Instant::now();
        f.cluster
            .delete(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", old.pod))
            .unwrap();
        create(&f, &after[0]);
        let (new, led) = old.wait_successor(&f, began, SOON);
        f.wait_address(&after[0]);
        let served = began.elapsed();
        println!(
            "leader's pod deleted: another holds the Lease after {} ms, a Service that was created meanwhile has its \
             address after {} ms",
            led.as_millis(),
            served.as_millis()
        );
        assert_ne!(new, old.identity);
        // Far from the lease duration: it was given back.
        assert!(
            led < Duration::from_secs(5) && served < Duration::from_secs(6),
            "{led:?}, {served:?}"
        );
        took.push(led);
        after.iter().skip(1).for_each(|service| create(&f, service));
        addresses.extend(names.iter().map(|service| f.wait_address(service)));
    }
    // The machine may be busy once, with something else.
    took.sort();
    assert!(took[1] < Duration::from_secs(2), "the middle one of {took:?}");
    // None was given twice, and none has changed since.
    let unique: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(unique.len(), addresses.len(), "{addresses:?}");
    let services = (0..3).flat_map(|trial| (0..20).map(move |n| format!("web{trial}-{n}")));
    for (service, address) in services.zip(&addresses) {
        assert_eq!(f.address(&service), Some(*address), "{service}");
    }
}

#[test]
fn a_killed_leader_is_replaced_within_the_lease_duration() {
    let f = Fixture::new("killed", &["172.30.0.100-172.30.0.109"]);
    let old = Controller::leader(&f);
    let began = Instant::now();
    old.kill(&f, "-9");
    create(&f, "web");
    let (_, led) = old.wait_successor(&f, began, DEATH);
    f.wait_address("web");
    println!(
        "leader killed: another holds the Lease after {} ms, a Service has its address after {} ms",
        led.as_millis(),
        began.elapsed().as_millis()
    );
    assert!(
        led > Duration::from_secs(10),
        "a process that is silent may live: {led:?}"
    );
}

#[test]
fn a_frozen_leader_is_replaced_and_writes_nothing_when_it_goes_on() {
    let f = Fixture::new("frozen", &["172.30.0.100-172.30.0.109"]);
    create(&f, "before");
    f.wait_address("before");
    let old = Controller::leader(&f);
    assert!(old.leads(&f));
    settled(&f);
    let writes = old.writes(&f);
    let began = Instant::now();
    let frozen = Frozen::new(&f, &old);
    // It finds these in its sockets when it goes on, still without an address.
    create(&f, "a");
    create(&f, "b");
    let (_, led) = old.wait_successor(&f, began, DEATH);
    let (a, b) = (f.wait_address("a"), f.wait_address("b"));
    settled(&f);
    drop(frozen);
    println!(
        "leader frozen: another holds the Lease after {} ms",
        led.as_millis()
    );
    assert_powerless(&f, &old, writes);
    assert_eq!((f.wait_address("a"), f.wait_address("b")), (a, b));
    assert_ne!(a, b);
}

#[test]
fn a_leader_that_is_cut_off_stops_before_another_leads() {
    let f = Fixture::new("cutoff", &["172.30.0.100-172.30.0.109"]);
    create(&f, "before");
    f.wait_address("before");
    let old = Controller::leader(&f);
    let rules = format!(
        "table inet e2e {{
            chain forward {{
                type filter hook forward priority -300
                ip saddr {0} ip daddr 172.30.0.2 drop
                ip saddr 172.30.0.2 ip daddr {0} drop
            }}
        }}",
        old.address
    );
    let began = Instant::now();
    f.run(old.place, &["nft", &rules]);
    create(&f, "web");
    let stopped = wait_for("the old one to stop", DEATH, || {
        match old.figure(&f, "fairlead_controller_leader")? {
            0.0 => Ok(began.elapsed()),
            other => Err(other.to_string()),
        }
    })
    .unwrap();
    let writes = old.writes(&f);
    assert_eq!(leader(&f.cluster).unwrap(), old.identity, "nobody else leads yet");
    let (_, led) = old.wait_successor(&f, began, DEATH);
    f.wait_address("web");
    println!(
        "leader cut off from the API server: it stopped after {} ms, another holds the Lease after {} ms",
        stopped.as_millis(),
        led.as_millis()
    );
    settled(&f);
    f.run(old.place, &["nft", "delete", "table", "inet", "e2e"]);
    assert_powerless(&f, &old, writes);
    assert!(
        old.figure(&f, "fairlead_controller_lease_renew_failures_total")
            .unwrap()
            >= 1.0,
        "its failures are counted"
    );
    // It follows, and is ready to lead again.
    wait_ready(&f.cluster, ROLLOUT).unwrap();
}
