//! IPv4, IPv6 and both. Packets are of IPv4: IPv6 addresses are assigned and not announced yet.

use fairlead_e2e::topology::Place;
use serde_json::{Value, json};

use super::addressing::{ADDRESSES, ANNOUNCED, families, v4, v6};
use super::fixture::Fixture;

const BOTH: [&str; 2] = ["172.30.0.100-172.30.0.102", "fd00:30::100-fd00:30::10f"];

fn spec(policy: &str, digits: &str) -> Value {
    json!({"spec": {"ipFamilyPolicy": policy, "ipFamilies": families(digits)}})
}

#[test]
fn each_family_gets_an_address_in_the_order_of_the_service() {
    let f = Fixture::new("families", &BOTH);
    for (name, policy, digits, addresses) in [
        ("four", "SingleStack", "4", vec![v4(100)]),
        ("six", "SingleStack", "6", vec![v6(0x100)]),
        ("prefer", "PreferDualStack", "46", vec![v4(101), v6(0x101)]),
        ("require", "RequireDualStack", "64", vec![v6(0x102), v4(102)]),
    ] {
        f.make(name, spec(policy, digits));
        f.wait_ingress(name, &addresses);
        let from: Vec<String> = addresses
            .iter()
            .map(|address| format!("{address} from pool {}", f.name))
            .collect();
        assert_eq!(f.wait_kept(name, "Assigned"), from.join(", "));
    }
    // IPv4 is used up. Who prefers both takes one; who requires both gets none; who asks for IPv4 has to wait.
    f.make("rather", spec("PreferDualStack", "46"));
    f.wait_ingress("rather", &[v6(0x103)]);
    let message = f.wait_kept("rather", "FamilyMissing");
    assert!(message.contains("no IPv4 address"), "{message}");
    f.wait_event("rather", "FamilyMissing");
    f.cluster.delete(&f.service_path("four")).unwrap();
    f.wait_ingress("rather", &[v4(100), v6(0x103)]);
    f.wait_kept("rather", "Assigned");
    f.make("must", spec("RequireDualStack", "64"));
    f.wait_refused("must", "PoolExhausted");
    f.keeps(&[("must", &[]), ("rather", &[v4(100), v6(0x103)])]);
    f.cluster.delete(&f.service_path("require")).unwrap();
    f.wait_ingress("must", &[v6(0x102), v4(102)]);
}

#[test]
fn no_pool_of_a_family_is_said_and_mended() {
    let f = Fixture::new("family-pool", &["172.30.0.100-172.30.0.102"]);
    // Those made within one second are served in the order of their names.
    f.make("a", spec("SingleStack", "6"));
    let message = f.wait_refused("a", "NoAddressOfFamily");
    assert!(message.contains("IPv6"), "{message}");
    f.make("b", spec("PreferDualStack", "64"));
    f.wait_ingress("b", &[v4(100)]);
    f.wait_kept("b", "FamilyMissing");
    f.make("c", spec("RequireDualStack", "46"));
    f.wait_refused("c", "NoAddressOfFamily");
    f.set_pool("-six", &["fd00:30::100-fd00:30::10f"], json!({}));
    f.wait_ingress("a", &[v6(0x100)]);
    f.wait_ingress("b", &[v6(0x101), v4(100)]);
    f.wait_ingress("c", &[v4(101), v6(0x102)]);
}

#[test]
fn a_service_changes_its_families_and_keeps_what_it_can() {
    let f = Fixture::new("upgrade", &BOTH);
    let vip = f.web("web", "Cluster", &["node3"]);
    let announcer = f.wait_announcer(vip, |_| true);
    f.edit("web", &spec("PreferDualStack", "46"));
    f.wait_ingress("web", &[v4(100), v6(0x100)]);
    assert_eq!(f.announcers(vip), vec![announcer.clone()]);
    assert_eq!(f.curl(Place::Client, &format!("{vip}:80")).backend, "web-node3");
    f.edit("web", &spec("SingleStack", "4"));
    f.wait_ingress("web", &[v4(100)]);
    f.wait_pool(&f.name, "IPv6 given back", |pool| {
        pool["status"]["ipv6"]["usage"] == "0/16"
    });
    // Another address of the family that was given back is asked for with the next change.
    f.annotate("web", ADDRESSES, Some(&v6(0x10a)));
    f.wait_kept("web", "InvalidRequest");
    f.edit("web", &spec("RequireDualStack", "46"));
    f.wait_ingress("web", &[v4(100), v6(0x10a)]);
    f.wait_kept("web", "Assigned");
    f.annotate("web", ADDRESSES, None);
    f.keeps(&[("web", &[v4(100), v6(0x10a)])]);
    assert_eq!(f.announcers(vip), [announcer]);
    assert_eq!(
        f.curl(Place::LanClient, &format!("{vip}:80")).backend,
        "web-node3"
    );
    // Both are announced, and both are reached.
    f.wait_condition("web", ANNOUNCED, "True", "Announced");
    assert_eq!(
        f.curl(Place::Client, &format!("[{}]:80", v6(0x10a))).backend,
        "web-node3"
    );
}
