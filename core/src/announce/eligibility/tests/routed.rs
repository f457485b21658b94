//! BGP, beside layer 2 and without it.

use super::*;

fn route(name: &str) -> BgpAdvertisement {
    crate::testing::bgp_advertisement(name)
}

/// Announced by BGP alone.
fn routed(world: World) -> World {
    World {
        advertisements: vec![],
        routed: vec![route("bgp")],
        ..world
    }
}

fn both(world: World) -> World {
    World {
        routed: vec![route("bgp")],
        ..world
    }
}

impl World {
    fn evaluation(&self) -> Evaluation {
        self.evaluate().remove(&vip()).expect("the address is owned")
    }

    /// What is said of each way: `-` where the address is not meant to be announced, else `ok` or the reason.
    fn ways(&self) -> (String, String) {
        let evaluation = self.evaluation();
        let layer2 = match (&evaluation.outcome, evaluation.layer2_refusal()) {
            (Ok(_), _) => "ok".to_owned(),
            (_, Some(refusal)) => refusal.reason.to_string(),
            (_, None) => "-".to_owned(),
        };
        let bgp = match (&evaluation.bgp, evaluation.bgp_refusal()) {
            (None, _) => "-".to_owned(),
            (_, Some(refusal)) => refusal.reason.to_string(),
            (_, None) => "ok".to_owned(),
        };
        (layer2, bgp)
    }
}

fn selector(label: &str) -> Vec<Selector> {
    vec![Selector(vec![Requirement::Exists(label.into())])]
}

#[test]
fn by_bgp_alone_a_node_needs_no_interface_and_no_layer_2_advertisement() {
    let mut world = routed(world());
    world.interfaces.clear();
    assert_eq!(world.ways(), ("-".into(), "ok".into()));
    let evaluation = world.evaluation();
    assert_eq!(
        evaluation.bgp.unwrap().advertisements,
        BTreeSet::from(["bgp".to_owned()])
    );
    assert_eq!(
        evaluation.probes,
        BTreeSet::from([ProbeTarget::Proxy { address: own() }])
    );
    world.routed.clear();
    assert_eq!(world.ways(), ("NoAdvertisement".into(), "-".into()));
}

#[test]
fn what_has_to_do_with_serving_refuses_both_ways_and_interfaces_only_one() {
    type Spoil = fn(&mut World);
    let table: [(&str, &str, Spoil); 14] = [
        ("ok", "ok", |_| ()),
        ("Leaving", "Leaving", |w| w.leaving = true),
        ("NodeLeaving", "NodeLeaving", |w| w.node = None),
        ("NodeExcluded", "NodeExcluded", |w| {
            w.node.as_mut().unwrap().excluded = true;
        }),
        ("NodeLeaving", "NodeLeaving", |w| {
            w.node.as_mut().unwrap().autoscaler_taint = true;
        }),
        ("NetworkUnavailable", "NetworkUnavailable", |w| {
            w.node.as_mut().unwrap().network_unavailable = true;
        }),
        ("NoEndpoint", "NoEndpoint", |w| w.slices.clear()),
        ("DataPathNotProgrammed", "DataPathNotProgrammed", |w| {
            w.data_path.clear();
        }),
        ("ProbePending", "ProbePending", |w| w.verdicts.clear()),
        ("AddressNotOnLink", "ok", |w| w.interfaces.clear()),
        ("NoInterface", "ok", |w| {
            w.advertisements = vec![advertisement(&["eth7"])];
        }),
        ("NodeNotSelected", "ok", |w| {
            w.advertisements[0].nodes = Ok(selector("rack"));
        }),
        ("ok", "NodeNotSelected", |w| w.routed[0].nodes = selector("rack")),
        // The way that is open is looked at to the end, the other one keeps its own reason.
        ("AddressNotOnLink", "ProbePending", |w| {
            w.interfaces.clear();
            w.verdicts.clear();
        }),
    ];
    for (layer2, bgp, spoil) in table {
        let mut world = both(world());
        spoil(&mut world);
        assert_eq!(world.ways(), (layer2.into(), bgp.into()));
    }
}

#[test]
fn nothing_is_probed_that_no_way_is_open_for() {
    let mut world = both(world());
    world.interfaces.clear();
    assert!(!world.evaluation().probes.is_empty());
    world.routed[0].nodes = selector("rack");
    assert!(world.evaluation().probes.is_empty());
    let refusal = world.evaluation().bgp_refusal().cloned().unwrap();
    assert_eq!(
        refusal.message,
        "no BGPAdvertisement of AddressPool pool selects node node1"
    );
}

#[test]
fn advertisements_are_for_pools_services_and_nodes() {
    let names = |change: fn(&mut BgpAdvertisement), label: Option<&str>| {
        let mut world = routed(world());
        let mut other = route("other");
        change(&mut other);
        world.routed.push(other);
        if let Some(label) = label {
            world.service.labels.insert(label.into(), String::new());
        }
        let names: Vec<String> = world
            .evaluation()
            .bgp
            .unwrap()
            .advertisements
            .into_iter()
            .collect();
        names.join(" ")
    };
    assert_eq!(names(|_| (), None), "bgp other");
    assert_eq!(names(|a| a.pools = vec!["pool".into()], None), "bgp other");
    assert_eq!(names(|a| a.pools = vec!["another".into()], None), "bgp");
    assert_eq!(names(|a| a.services = selector("tier"), None), "bgp");
    assert_eq!(
        names(|a| a.services = selector("tier"), Some("tier")),
        "bgp other"
    );
    assert_eq!(names(|a| a.nodes = selector("rack"), None), "bgp");
    // One that selects no Service at the address is no advertisement for it at all.
    let mut none = routed(world());
    none.routed[0].services = selector("tier");
    assert_eq!(none.ways(), ("NoAdvertisement".into(), "-".into()));
}

#[test]
fn a_refused_member_is_known_to_its_advertisements() {
    let mut world = routed(local(world()));
    world.slices = vec![endpoint("node2", "rs")];
    let routed = world.evaluation().bgp.unwrap();
    assert_eq!(routed.advertisements.len(), 1);
    assert_eq!(routed.outcome.unwrap_err().reason, Reason::NoLocalEndpoint);
}

#[test]
fn cordon_is_a_mark_here_too() {
    let mut world = both(world());
    world.node.as_mut().unwrap().cordoned = true;
    let outcome = world.evaluation().bgp.unwrap().outcome;
    assert_eq!(outcome, Ok(BgpCandidate { cordoned: true }));
    assert!(world.candidate().cordoned);
}
