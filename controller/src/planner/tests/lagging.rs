//! Writes that lag, get lost or are refused.

use super::*;

#[test]
fn a_write_that_no_watch_has_shown_yet_counts() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("young", 9, json!({}));
    let write = cluster.step().of("young").unwrap().clone();
    cluster.send(&write);
    // An older Service appears; by order of age alone it would get the address that was just written.
    cluster.service("old", 0, json!({}));
    let step = cluster.step();
    assert!(step.of("young").is_none());
    let old = step.of("old").unwrap().clone();
    assert_eq!(
        old.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"],
        "192.0.2.1"
    );
    cluster.send(&old);
    cluster.show(&object("young"));
    cluster.show(&object("old"));
    cluster.settle();
    assert_eq!(
        (cluster.address("young"), cluster.address("old")),
        (Some("192.0.2.0"), Some("192.0.2.1"))
    );
}

#[test]
fn a_write_without_an_answer_holds_its_address_and_so_does_a_refused_one_while_it_is_tried_again() {
    for ended in [Ended::Unknown, Ended::Refused("not allowed".into())] {
        let mut cluster = Cluster::new("192.0.2.0/31");
        cluster.service("young", 9, json!({}));
        let write = cluster.step().of("young").unwrap().clone();
        cluster.end(&write, &ended);
        cluster.service("old", 0, json!({}));
        let step = cluster.step();
        let old = step.of("old").unwrap();
        let ip = &old.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"];
        assert_eq!(ip, "192.0.2.1", "{ended:?}");
        assert!(step.wake.is_some(), "the write is tried again");
        cluster.send(&old.clone());
        cluster.show(&object("old"));
        assert!(cluster.step().of("young").is_none());
        assert!(cluster.after(500).step().of("young").is_some(), "{ended:?}");
    }
}

#[test]
fn a_given_up_address_is_free_only_when_the_watch_shows_it() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("a", 0, held("192.0.2.0"));
    cluster.settle();
    let mut wished = cluster.objects[&object("a")].clone();
    wished["spec"]["loadBalancerIP"] = json!("192.0.2.1");
    cluster.put(object("a"), wished);
    let write = cluster.step().of("a").unwrap().clone();
    cluster.send(&write);
    cluster.service("waiting", 1, json!({}));
    let waiting = |step: &Step| {
        step.of("waiting")?.change.patch["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .map(str::to_owned)
    };
    let step = cluster.step();
    assert_eq!(waiting(&step), None);
    cluster.send(&step.of("waiting").unwrap().clone());
    cluster.show(&object("waiting"));
    cluster.show(&object("a"));
    assert_eq!(waiting(&cluster.step()).as_deref(), Some("192.0.2.0"));
}

#[test]
fn a_stale_write_is_planned_again_from_the_newer_state() {
    let mut cluster = Cluster::new("192.0.2.0/31");
    cluster.service("a", 0, json!({}));
    let write = cluster.step().of("a").unwrap().clone();
    // Somebody else was faster, and the watch has not shown it yet.
    cluster.version += 1;
    let version = json!(cluster.version.to_string());
    cluster.objects.get_mut(&object("a")).unwrap()["metadata"]["resourceVersion"] = version;
    assert_eq!(cluster.send(&write), Ended::Stale);
    assert!(cluster.step().of("a").is_none());
    cluster.show(&object("a"));
    cluster.settle();
    assert_eq!(cluster.address("a"), Some("192.0.2.0"));
}

#[test]
fn services_appear_while_writes_lag_and_no_address_is_given_twice() {
    let mut cluster = Cluster::new("192.0.2.0-192.0.2.63");
    let mut unseen: Vec<Object> = vec![];
    for round in 0u8..50 {
        // Later ones are older, so that order alone would take addresses away from those before them.
        cluster.service(&format!("s{round:03}"), 59 - round, json!({}));
        let step = cluster.steps(2);
        for write in &step.writes {
            cluster.send(write);
            unseen.push(write.object.clone());
        }
        if round % 3 == 0 && !unseen.is_empty() {
            let object = unseen.remove(0);
            cluster.show(&object);
        }
        let mut seen = std::collections::BTreeSet::new();
        for (object, value) in cluster
            .objects
            .iter()
            .filter(|(object, _)| matches!(object, Object::Service(_)))
        {
            if let Some(ip) = value["status"]["loadBalancer"]["ingress"][0]["ip"].as_str() {
                assert!(
                    seen.insert(ip.to_owned()),
                    "{ip} was given twice, last to {object:?}"
                );
            }
        }
    }
    unseen.iter().for_each(|object| cluster.show(object));
    cluster.settle();
    let given = cluster
        .objects
        .values()
        .filter(|value| value["status"]["loadBalancer"]["ingress"].is_array())
        .count();
    assert_eq!(given, 50);
}

#[test]
fn an_earlier_write_that_may_still_happen_holds_its_address() {
    let mut cluster = Cluster::new("192.0.2.0/30");
    cluster.service("a", 0, json!({}));
    let first = cluster.step().of("a").unwrap().clone();
    cluster.end(&first, &Ended::Unknown);
    // Now `a` wants another address, which is written from the same version.
    let mut wished = cluster.objects[&object("a")].clone();
    wished["spec"]["loadBalancerIP"] = json!("192.0.2.3");
    cluster.objects.insert(object("a"), wished);
    cluster.show(&object("a"));
    let second = cluster.after(500).step().of("a").unwrap().clone();
    assert_eq!(second.base, first.base);
    cluster.service("b", 1, json!({}));
    let step = cluster.step();
    let of_b = &step.of("b").unwrap().change.patch["status"]["loadBalancer"]["ingress"][0]["ip"];
    assert_eq!(of_b, "192.0.2.1", "192.0.2.0 may still come to stand in `a`");
}
