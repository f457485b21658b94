//! What is said on the wire, for both families, and what never is.

use std::net::IpAddr;
use std::time::Duration;

use fairlead_e2e::announcers::Witness;
use fairlead_e2e::product::{manifests, wait_for};
use fairlead_e2e::topology::Place;
use serde_json::json;

use super::addressing::{v4, v6};
use super::fixture::{Fixture, POD_START, SOON};

const BOTH: [&str; 2] = ["172.30.0.100-172.30.0.109", "fd00:30::100-fd00:30::10f"];
const ASK_EVERY: Duration = Duration::from_millis(50);
/// A node that announces is the only one for so long.
const SPAN: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A Service with both families and a web server on each node.
fn dual_stack(f: &Fixture, policy: &str) -> [IpAddr; 2] {
    let mut service = manifests::service(&f.name, "web", policy);
    service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    f.cluster.apply(&service).unwrap();
    for place in f.lab.nodes() {
        f.cluster
            .apply(&manifests::web_pod(&f.name, "web", &place.name()))
            .unwrap();
    }
    for place in f.lab.nodes() {
        f.wait_pod_ready(&format!("web-{}", place.name()));
    }
    f.wait_ingress("web", &[v4(100), v6(0x100)]);
    [ip(&v4(100)), ip(&v6(0x100))]
}

#[test]
fn both_families_are_announced_and_reached() {
    let f = Fixture::new("both", &BOTH);
    let addresses = dual_stack(&f, "Local");
    let witness = Witness::start(&f.lab, &addresses, ASK_EVERY).unwrap();
    for address in addresses {
        let one = witness
            .wait_settled(address, SPAN, SOON, |_| true)
            .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        let target = match address {
            IpAddr::V4(address) => format!("{address}:80"),
            IpAddr::V6(address) => format!("[{address}]:80"),
        };
        for (from, host) in [(Place::Client, "172.31.0.2"), (Place::LanClient, "172.30.0.200")] {
            let answer = f.curl(from, &target);
            assert_eq!(answer.backend, format!("web-{one}"), "{target}");
            if address.is_ipv4() {
                assert_eq!(answer.client, host, "Local keeps the client's address");
            }
        }
    }
    f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced");
}

#[test]
fn both_families_move_with_a_cordon() {
    let f = Fixture::new("both-move", &BOTH);
    let addresses = dual_stack(&f, "Cluster");
    let witness = Witness::start(&f.lab, &addresses, ASK_EVERY).unwrap();
    for address in addresses {
        let before = witness
            .wait_settled(address, SPAN, SOON, |_| true)
            .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        let from = witness.clock();
        f.cluster.cordon(&before, true).unwrap();
        witness
            .wait_settled(address, SPAN, SOON, |who| who != before)
            .unwrap_or_else(|error| panic!("{error}\n{}", f.explain()));
        f.cluster.cordon(&before, false).unwrap();
        let history = witness.history();
        let (silent, doubled) = (history.silent(address, from), history.doubled(address, from));
        let long = |span: &&fairlead_e2e::announcers::Span| span.length() > Duration::from_secs(1);
        assert!(silent.iter().filter(long).count() == 0, "{address}: {silent:?}");
        assert!(doubled.iter().filter(long).count() == 0, "{address}: {doubled:?}");
    }
}

#[test]
fn nobody_answers_for_what_nobody_announces() {
    let f = Fixture::new("silence", &BOTH);
    let [vip, vip6] = dual_stack(&f, "Local");
    // Without endpoints, in the pool and assigned to nobody, in no pool.
    f.cluster
        .apply(&manifests::service(&f.name, "empty", "Local"))
        .unwrap();
    let empty: IpAddr = f.wait_address("empty").into();
    let mut silent = vec![empty];
    silent.extend(
        [v4(109), v4(120), v6(0x10f), v6(0x120)]
            .iter()
            .map(|text| ip(text)),
    );
    let asked: Vec<IpAddr> = silent.iter().copied().chain([vip, vip6]).collect();
    let witness = Witness::start(&f.lab, &asked, ASK_EVERY).unwrap();
    for _ in 0..2 {
        let before = witness.wait_settled(vip, SPAN, SOON, |_| true).unwrap();
        f.cluster.cordon(&before, true).unwrap();
        witness
            .wait_settled(vip, SPAN, SOON, |who| who != before)
            .unwrap();
        f.cluster.cordon(&before, false).unwrap();
    }
    let history = witness.history();
    for address in silent {
        let ever = history.ever(address);
        assert!(ever.is_empty(), "{ever:?} answered for {address}");
    }
    let places: Vec<String> = f.lab.nodes().iter().map(|place| place.name()).collect();
    for address in [vip, vip6] {
        let ever = history.ever(address);
        assert!(ever.iter().all(|who| places.contains(who)), "{address}: {ever:?}");
    }
}

/// The sum of a node's metrics whose name has this in it.
fn metric(f: &Fixture, node: &str, name: &str) -> u64 {
    let place: Place = node.parse().unwrap();
    let address = place.uplink().unwrap().v4;
    let text = f.run(
        place,
        &[
            "curl",
            "-sS",
            "-m",
            "5",
            &format!("http://{address}:7671/metrics"),
        ],
    );
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

/// The address on the client of the nodes' segment, whose kernel then answers for it, until this is dropped.
struct Stranger<'a> {
    f: &'a Fixture,
    address: String,
}

impl<'a> Stranger<'a> {
    fn new(f: &'a Fixture, address: String) -> Self {
        let stranger = Self { f, address };
        f.run(
            Place::LanClient,
            &["ip", "addr", "add", &stranger.address, "dev", "eth0", "nodad"],
        );
        stranger
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        let argv = ["ip", "addr", "del", &self.address, "dev", "eth0"];
        let _ = self.f.lab.exec(Place::LanClient, argv);
    }
}

#[test]
fn a_stranger_that_uses_an_address_is_told_of_and_the_address_is_defended() {
    let f = Fixture::new("stranger", &["172.30.0.100-172.30.0.101"]);
    let vip = f.web("web", "Local", &["node1", "node2", "node3"]);
    let owner = f.wait_announcer(vip, |_| true);
    let before = metric(&f, &owner, "conflict");
    let frames = f
        .lab
        .capture(
            Place::Switch,
            &format!("arp and arp[14:4] = 0x{:08x}", u32::from(vip)),
        )
        .unwrap();
    let stranger = Stranger::new(&f, format!("{vip}/32"));
    let announce = [
        "arping",
        "-U",
        "-c",
        "3",
        "-w",
        "3",
        "-I",
        "eth0",
        &vip.to_string(),
    ];
    // Its exit status tells whether there was an answer, which is not what is asked here.
    f.lab.exec(Place::LanClient, announce).unwrap();
    wait_for("the speaker to count the conflict", SOON, || {
        match metric(&f, &owner, "conflict") {
            now if now > before => Ok(()),
            now => Err(format!("{before} before, {now} now")),
        }
    })
    .unwrap();
    let told = f.wait_event("web", "AddressConflict");
    let mac = Place::LanClient.uplink().unwrap().mac;
    assert!(told.contains(&mac) && told.contains(&owner), "{told}");
    let message = f.wait_condition("web", "fairlead.dev/Announced", "True", "Announced");
    assert!(message.contains(&mac), "{message}");
    drop(stranger);
    // Whatever the stranger said, the owner stays, and says so on the wire.
    f.wait_announcer(vip, |name| name == owner);
    let mac = owner.parse::<Place>().unwrap().uplink().unwrap().mac;
    wait_for("the owner to defend the address", POD_START, || {
        let lines = frames.lines().map_err(|e| e.to_string())?;
        let said = lines.iter().any(|line| line.contains(&mac));
        if said { Ok(()) } else { Err(format!("{lines:?}")) }
    })
    .unwrap();
}
