use super::*;
use crate::config::{BgpAdvertisement, Preference, RawAdvertisement, RawHealth, RawPool, Written, compile};
use crate::model::{AssignedRecord, ExternalAddress, ExternalRecord, Wishes};
use crate::ownership::{ClassPolicy, resolve};
use crate::selector::{Requirement, Selector};
use crate::testing;

/// One node, one Service with one address, everything in order; each test spoils one thing.
struct World {
    service: Service,
    /// A second Service, if there is one.
    other: Option<Service>,
    slices: Vec<Slice>,
    node: Option<Node>,
    advertisements: Vec<RawAdvertisement>,
    routed: Vec<BgpAdvertisement>,
    health: RawHealth,
    interfaces: BTreeMap<String, Interface>,
    leaving: bool,
    data_path: BTreeMap<IpAddr, DataPath>,
    verdicts: BTreeMap<ProbeTarget, Verdict>,
}

fn vip() -> IpAddr {
    "192.0.2.100".parse().unwrap()
}

fn own() -> IpAddr {
    "192.0.2.11".parse().unwrap()
}

fn advertisement(interfaces: &[&str]) -> RawAdvertisement {
    RawAdvertisement {
        name: "l2".into(),
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        ..RawAdvertisement::default()
    }
}

fn interface(up: bool, subnet: &str) -> Interface {
    Interface {
        up,
        subnets: vec![subnet.parse().unwrap()],
    }
}

fn endpoint(node: &str, flags: &str) -> Slice {
    endpoint_of("web", node, flags)
}

fn endpoint_of(service: &str, node: &str, flags: &str) -> Slice {
    testing::slice(service, Some(node), flags)
}

fn world() -> World {
    World {
        service: Service {
            ingress: vec![vip()],
            assigned: Some(AssignedRecord {
                addresses: vec![(vip(), "pool".into())],
                since: 1,
            }),
            ..testing::service("web")
        },
        other: None,
        slices: vec![endpoint("node2", "rs")],
        node: Some(testing::node("node1", "192.0.2.11")),
        advertisements: vec![advertisement(&[])],
        routed: vec![],
        health: RawHealth::default(),
        interfaces: BTreeMap::from([
            ("eth0".into(), interface(true, "192.0.2.11/24")),
            ("eth1".into(), interface(true, "198.51.100.1/24")),
        ]),
        leaving: false,
        data_path: BTreeMap::from([(vip(), DataPath::Programmed)]),
        verdicts: BTreeMap::from([(ProbeTarget::Proxy { address: own() }, Verdict::Pass)]),
    }
}

fn local(mut world: World) -> World {
    world.service.policy = TrafficPolicy::Local;
    world.service.health_check_node_port = Some(31000);
    world.slices = vec![endpoint("node1", "rs")];
    world.verdicts = BTreeMap::from([(local_target(), Verdict::Pass)]);
    world
}

fn local_target() -> ProbeTarget {
    target_of("web", 31000)
}

fn target_of(service: &str, port: u16) -> ProbeTarget {
    ProbeTarget::Service {
        service: ServiceKey::new("default", service),
        address: own(),
        port,
    }
}

/// The same with the younger Service `api` at the same address, which has an endpoint on the same node.
fn shared(mut world: World) -> World {
    world.service.wishes = Wishes {
        sharing_key: Some("key".into()),
        ..Wishes::default()
    };
    let mut other = Service {
        key: ServiceKey::new("default", "api"),
        uid: "uid-api".into(),
        health_check_node_port: world.service.health_check_node_port.map(|port| port + 1),
        ..world.service.clone()
    };
    other.ports[0].port = 443;
    other.assigned.as_mut().unwrap().since = 2;
    if other.policy == TrafficPolicy::Local {
        world.verdicts.insert(target_of("api", 31001), Verdict::Pass);
    }
    world.slices.push(Slice {
        service: other.key.clone(),
        ..world.slices[0].clone()
    });
    world.other = Some(other);
    world
}

impl World {
    fn evaluate(&self) -> BTreeMap<IpAddr, Evaluation> {
        let pool = RawPool {
            name: "pool".into(),
            addresses: vec!["192.0.2.100-192.0.2.120".into(), "2001:db8::/120".into()],
            health: self.health.clone(),
            ..RawPool::default()
        };
        let mut config = compile(&Written::new(&[pool], &self.advertisements)).config;
        let routed = self.routed.iter().map(|one| (one.name.clone(), one.clone()));
        config.bgp_advertisements = routed.collect();
        let class = ClassPolicy {
            serve_classless: true,
            metallb: false,
        };
        let view = View {
            me: &"node1".into(),
            node: self.node.as_ref(),
            config: &config,
            ownership: &resolve([&self.service].into_iter().chain(&self.other), &config, class),
            slices: &|key| self.slices.iter().filter(|slice| slice.service == *key).collect(),
            interfaces: &self.interfaces,
            families: &[Family::V4],
            leaving: self.leaving,
            data_path: &self.data_path,
            verdicts: &self.verdicts,
        };
        let evaluations = Evaluator::default().evaluate(&view, &BTreeSet::new());
        evaluations
            .into_iter()
            .map(|(address, evaluation)| (address, (*evaluation).clone()))
            .collect()
    }

    fn refusal(&self) -> Refusal {
        let evaluation = self.evaluate().remove(&vip()).expect("the address is owned");
        evaluation.outcome.expect_err("a refusal")
    }

    fn candidate(&self) -> Candidate {
        let evaluation = self.evaluate().remove(&vip()).expect("the address is owned");
        evaluation.outcome.expect("a candidate")
    }
}

mod routed;

#[test]
fn a_node_in_order_is_a_candidate_under_both_policies() {
    let expected = Candidate {
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        preempt_after: Some(Duration::from_secs(300)),
        ..Candidate::default()
    };
    assert_eq!(world().candidate(), expected);
    assert_eq!(local(world()).candidate(), expected);
    let targets = |world: World| world.evaluate()[&vip()].probes.clone();
    assert_eq!(
        targets(world()),
        BTreeSet::from([ProbeTarget::Proxy { address: own() }])
    );
    assert_eq!(targets(local(world())), BTreeSet::from([local_target()]));
}

#[test]
fn what_is_not_owned_is_never_looked_at() {
    let mut foreign = world();
    foreign.service.ingress = vec!["8.8.8.8".parse().unwrap()];
    assert!(foreign.evaluate().is_empty());
    let mut unassigned = world();
    unassigned.service.assigned = None;
    assert!(unassigned.evaluate().is_empty());
}

#[test]
fn each_filter_has_its_reason() {
    type Spoil = fn(&mut World);
    let on_node = |f: fn(&mut Node)| {
        move |world: &mut World| f(world.node.as_mut().expect("the test world has a node"))
    };
    type Row = (Reason, &'static str, Box<dyn Fn(&mut World)>);
    let table: Vec<Row> = vec![
        (
            Reason::NoAdvertisement,
            "AddressPool pool",
            Box::new((|w| w.advertisements.clear()) as Spoil),
        ),
        (
            Reason::Leaving,
            "being removed",
            Box::new((|w| w.leaving = true) as Spoil),
        ),
        (
            Reason::NodeLeaving,
            "no Node object",
            Box::new((|w| w.node = None) as Spoil),
        ),
        (
            Reason::NodeNotSelected,
            "selects node node1",
            Box::new(
                (|w| {
                    let rack = Requirement::Exists("rack".into());
                    w.advertisements[0].nodes = Ok(vec![Selector(vec![rack])]);
                }) as Spoil,
            ),
        ),
        (
            Reason::AddressNotOnLink,
            "192.0.2.100",
            Box::new((|w| w.interfaces.clear()) as Spoil),
        ),
        (
            Reason::AddressNotOnLink,
            "no interface that is up",
            Box::new((|w| w.interfaces.get_mut("eth0").unwrap().up = false) as Spoil),
        ),
        (
            Reason::NoInterface,
            "named eth0 is up",
            Box::new(
                (|w| {
                    w.advertisements = vec![advertisement(&["eth0"])];
                    w.interfaces.get_mut("eth0").unwrap().up = false;
                }) as Spoil,
            ),
        ),
        (
            Reason::NoInterface,
            "none that is up has a subnet with 192.0.2.100",
            Box::new(
                (|w| {
                    w.advertisements.push(RawAdvertisement {
                        name: "by-name".into(),
                        ..advertisement(&["eth7"])
                    });
                    w.interfaces.clear();
                }) as Spoil,
            ),
        ),
        (
            Reason::NoInterface,
            "named eth7 is up",
            Box::new((|w| w.advertisements = vec![advertisement(&["eth7"])]) as Spoil),
        ),
        (
            Reason::NodeExcluded,
            "exclude-from",
            Box::new(on_node(|n| n.excluded = true)),
        ),
        (
            Reason::NodeLeaving,
            "being deleted",
            Box::new(on_node(|n| n.deleting = true)),
        ),
        (
            Reason::NodeLeaving,
            "ToBeDeleted",
            Box::new(on_node(|n| n.autoscaler_taint = true)),
        ),
        (
            Reason::NetworkUnavailable,
            "node1",
            Box::new(on_node(|n| n.network_unavailable = true)),
        ),
        (
            Reason::NoEndpoint,
            "default/web",
            Box::new((|w| w.slices.clear()) as Spoil),
        ),
        (
            Reason::NoEndpoint,
            "default/web",
            Box::new((|w| w.slices = vec![endpoint("node1", "t")]) as Spoil),
        ),
        (
            Reason::DataPathNotProgrammed,
            "agent",
            Box::new((|w| w.data_path.clear()) as Spoil),
        ),
        (
            Reason::DataPathStale,
            "old",
            Box::new((|w| w.data_path = BTreeMap::from([(vip(), DataPath::Stale("old".into()))])) as Spoil),
        ),
        (
            Reason::ProbeFailed,
            "InternalIP",
            Box::new(on_node(|n| n.internal_ips.clear())),
        ),
        (
            Reason::ProbePending,
            "default/web",
            Box::new((|w| w.verdicts.clear()) as Spoil),
        ),
        (
            Reason::ProbeFailed,
            "default/web: HTTP 503",
            Box::new(
                (|w| {
                    w.verdicts
                        .values_mut()
                        .for_each(|v| *v = Verdict::Fail("HTTP 503".into()));
                }) as Spoil,
            ),
        ),
    ];
    for (reason, part, spoil) in table {
        let mut world = world();
        spoil(&mut world);
        let refusal = world.refusal();
        assert_eq!(refusal.reason, reason, "{refusal:?}");
        assert!(
            refusal.message.contains(part),
            "{refusal:?} should contain {part:?}"
        );
    }
}

#[test]
fn the_first_filter_that_refuses_is_the_one_told() {
    // Everything at once is wrong; repaired one after the other, the reasons come in the order of the enum.
    let mut world = local(world());
    world.verdicts.clear();
    world.data_path.clear();
    world.slices.clear();
    let node = world.node.as_mut().unwrap();
    node.network_unavailable = true;
    node.excluded = true;
    let mut reasons = vec![];
    world.advertisements[0].interfaces = vec!["eth7".into()];
    reasons.push(world.refusal().reason);
    world.advertisements[0].interfaces.clear();
    let links = std::mem::take(&mut world.interfaces);
    reasons.push(world.refusal().reason);
    world.interfaces = links;
    reasons.push(world.refusal().reason);
    world.node.as_mut().unwrap().excluded = false;
    reasons.push(world.refusal().reason);
    world.node.as_mut().unwrap().network_unavailable = false;
    reasons.push(world.refusal().reason);
    world.slices = vec![endpoint("node1", "rs")];
    reasons.push(world.refusal().reason);
    world.data_path.insert(vip(), DataPath::Programmed);
    reasons.push(world.refusal().reason);
    let expected = [
        Reason::NoInterface,
        Reason::AddressNotOnLink,
        Reason::NodeExcluded,
        Reason::NetworkUnavailable,
        Reason::NoLocalEndpoint,
        Reason::DataPathNotProgrammed,
        Reason::ProbePending,
    ];
    assert_eq!(reasons, expected);
    assert!(
        reasons.is_sorted(),
        "the order of the enum tells which node was nearer"
    );
}

#[test]
fn under_local_only_ready_endpoints_of_this_node_count() {
    for (slice, reason) in [
        (endpoint("node2", "rs"), Reason::NoLocalEndpoint),
        (endpoint("node1", "st"), Reason::NoLocalEndpoint),
        (endpoint("node1", "t"), Reason::NoLocalEndpoint),
    ] {
        let world = World {
            slices: vec![slice],
            ..local(world())
        };
        assert_eq!(world.refusal().reason, reason);
    }
    // Under Cluster an endpoint that terminates while it serves is still usable.
    let draining = World {
        slices: vec![endpoint("node2", "st")],
        ..world()
    };
    draining.candidate();
    let mut no_port = local(world());
    no_port.service.health_check_node_port = None;
    assert_eq!(no_port.refusal().reason, Reason::ProbeFailed);
}

#[test]
fn a_probe_runs_as_soon_as_all_other_filters_are_passed_and_not_before() {
    let mut world = world();
    world.verdicts.clear();
    assert!(!world.evaluate()[&vip()].probes.is_empty());
    world.data_path.clear();
    assert!(world.evaluate()[&vip()].probes.is_empty());
}

#[test]
fn interfaces_of_all_matching_advertisements_add_up() {
    let mut world = world();
    world.advertisements = vec![
        RawAdvertisement {
            name: "by-name".into(),
            ..advertisement(&["eth1", "eth9"])
        },
        advertisement(&[]),
    ];
    let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
    assert_eq!(world.candidate().interfaces, both);
    world.interfaces.get_mut("eth0").unwrap().up = false;
    assert_eq!(world.candidate().interfaces, BTreeSet::from(["eth1".to_owned()]));
}

#[test]
fn cordon_is_no_filter_but_a_mark() {
    let mut world = world();
    world.node.as_mut().unwrap().cordoned = true;
    assert!(world.candidate().cordoned);
}

#[test]
fn a_family_that_cannot_be_announced_is_refused_in_words_and_does_not_disturb_the_other() {
    let v6: IpAddr = "2001:db8::7".parse().unwrap();
    let mut world = world();
    world.service.families = vec![Family::V6, Family::V4];
    world.service.ingress = vec![v6, vip()];
    world.service.assigned.as_mut().unwrap().addresses = vec![(v6, "pool".into()), (vip(), "pool".into())];
    world.data_path.insert(v6, DataPath::Programmed);
    let refused = world.evaluate().remove(&v6).unwrap();
    assert!(refused.probes.is_empty());
    let refusal = refused.outcome.unwrap_err();
    assert_eq!(refusal.reason, Reason::NoInterface);
    assert_eq!(refusal.message, "this version does not announce IPv6 addresses");
    assert_eq!(world.candidate().interfaces, BTreeSet::from(["eth0".to_owned()]));
}

#[test]
fn a_shared_address_needs_the_probes_of_all_its_services() {
    let keys = ["web", "api"].map(|name| ServiceKey::new("default", name));
    let evaluation = shared(world()).evaluate().remove(&vip()).unwrap();
    assert_eq!(evaluation.services, keys, "the senior one first");
    let proxy = ProbeTarget::Proxy { address: own() };
    assert_eq!(evaluation.probes, BTreeSet::from([proxy]), "one probe for both");
    assert!(evaluation.outcome.is_ok(), "{evaluation:?}");

    let (web, api) = (local_target(), target_of("api", 31001));
    let both = BTreeSet::from([web.clone(), api.clone()]);
    assert_eq!(shared(local(world())).evaluate()[&vip()].probes, both);
    shared(local(world())).candidate();
    let (pass, fail) = (Some(Verdict::Pass), Some(Verdict::Fail("HTTP 503".into())));
    let pending = Some(Verdict::Pending);
    let table = [
        (&pass, &fail, Reason::ProbeFailed, "default/api: HTTP 503"),
        (&fail, &pass, Reason::ProbeFailed, "default/web: HTTP 503"),
        (&fail, &fail, Reason::ProbeFailed, "default/web: HTTP 503"),
        (&None, &fail, Reason::ProbeFailed, "default/api: HTTP 503"),
        (&pass, &None, Reason::ProbePending, "for default/api have"),
        (&pending, &pass, Reason::ProbePending, "for default/web have"),
    ];
    for (of_web, of_api, reason, part) in table {
        let mut world = shared(local(world()));
        world.verdicts = [(&web, of_web), (&api, of_api)]
            .into_iter()
            .filter_map(|(target, verdict)| Some((target.clone(), verdict.clone()?)))
            .collect();
        let refusal = world.refusal();
        assert_eq!(refusal.reason, reason, "web {of_web:?}, api {of_api:?}");
        assert!(refusal.message.contains(part), "{refusal:?}");
        let probed = &world.evaluate()[&vip()].probes;
        assert_eq!(*probed, both, "probing goes on whatever it has found");
    }
}

#[test]
fn a_shared_address_follows_the_services_that_have_endpoints() {
    let with = |base: World, slices: &[Slice]| World {
        slices: slices.to_vec(),
        ..shared(base)
    };
    // One without a usable endpoint anywhere could be served by no node: it does not count, nor is it probed.
    let (web, api) = (endpoint("node1", "rs"), endpoint_of("api", "node1", "rs"));
    for alone in [&web, &api] {
        with(world(), std::slice::from_ref(alone)).candidate();
        let world = with(local(world()), std::slice::from_ref(alone));
        world.candidate();
        assert_eq!(world.evaluate()[&vip()].probes.len(), 1);
    }
    with(world(), &[web.clone(), endpoint_of("api", "node1", "t")]).candidate();
    // One that has endpoints elsewhere does count.
    let elsewhere = with(local(world()), &[web.clone(), endpoint_of("api", "node2", "rs")]);
    let refusal = elsewhere.refusal();
    assert_eq!(refusal.reason, Reason::NoLocalEndpoint);
    assert!(refusal.message.starts_with("default/api "), "{refusal:?}");
    let draining = with(local(world()), &[web, endpoint_of("api", "node2", "st")]);
    assert_eq!(draining.refusal().reason, Reason::NoLocalEndpoint);
    // None has any: the senior one is told.
    let refusal = with(world(), &[]).refusal();
    assert_eq!(refusal.reason, Reason::NoEndpoint);
    assert!(refusal.message.starts_with("default/web "), "{refusal:?}");
    assert_eq!(
        with(local(world()), &[]).refusal().reason,
        Reason::NoLocalEndpoint
    );
}

/// The same address, as an external IP of a Service of another type.
fn external(mut world: World, kind: ServiceType) -> World {
    world.service = Service {
        kind,
        ingress: vec![],
        assigned: None,
        health_check_node_port: None,
        external_ips: vec![vip()],
        external: Some(ExternalRecord {
            addresses: vec![ExternalAddress {
                address: vip(),
                pool: "pool".into(),
                adopted: false,
            }],
            since: 1,
        }),
        ..world.service
    };
    world
}

#[test]
fn external_ips_are_announced_like_any_address_and_answered_for_by_the_node_agent() {
    let agent = ProbeTarget::Agent {
        service: ServiceKey::new("default", "web"),
        family: Family::V4,
    };
    for kind in [ServiceType::ClusterIp, ServiceType::NodePort] {
        external(world(), kind).candidate();
        let mut local = external(local(world()), kind);
        assert_eq!(
            local.evaluate()[&vip()].probes,
            BTreeSet::from([agent.clone()]),
            "{kind:?}"
        );
        assert_eq!(local.refusal().reason, Reason::ProbePending);
        local.verdicts.insert(agent.clone(), Verdict::Pass);
        local.candidate();
        // What the EndpointSlices say counts as well, and at once.
        local.slices = vec![endpoint("node2", "rs")];
        assert_eq!(local.refusal().reason, Reason::NoLocalEndpoint, "{kind:?}");
    }
    // A load balancer's own port answers for its external IPs as well.
    let mut balancer = external(local(world()), ServiceType::LoadBalancer);
    balancer.service.health_check_node_port = Some(31000);
    assert_eq!(
        balancer.evaluate()[&vip()].probes,
        BTreeSet::from([local_target()])
    );
    balancer.candidate();
}

#[test]
fn interfaces_by_pattern_and_exclusion() {
    let choose = |lists: &[&[&str]]| {
        let mut world = world();
        world
            .interfaces
            .insert("bond0.10".into(), interface(true, "192.0.2.12/24"));
        let advertisements = lists.iter().enumerate().map(|(number, list)| RawAdvertisement {
            name: format!("l2-{number}"),
            ..advertisement(list)
        });
        world.advertisements = advertisements.collect();
        let evaluation = world.evaluate().remove(&vip()).unwrap();
        let chosen = evaluation.outcome.map(|candidate| candidate.interfaces);
        chosen.map(|names| names.into_iter().collect::<Vec<_>>().join(" "))
    };
    for (lists, expected) in [
        (&[&[][..]][..], "bond0.10 eth0"),
        (&[&["eth*"]], "eth0 eth1"),
        (&[&["bond?.10", "eth1"]], "bond0.10 eth1"),
        (&[&["*", "!eth*"]], "bond0.10"),
        (&[&["!bond*"]], "eth0"),
        (&[&["!eth1"]], "bond0.10 eth0"),
        (&[&["!*"], &["eth1"]], "eth1"),
        (&[&["!eth0"], &["eth0", "eth1", "!eth1"]], "bond0.10 eth0"),
    ] {
        assert_eq!(choose(lists).as_deref(), Ok(expected), "{lists:?}");
    }
    for (lists, reason, message) in [
        (
            &[&["!*"][..]][..],
            Reason::AddressNotOnLink,
            "no interface that is up has a subnet with 192.0.2.100 (not *)",
        ),
        (
            &[&["ens*", "!ens1"]],
            Reason::NoInterface,
            "no interface named ens*, but not ens1 is up",
        ),
        (
            &[&["ens1"], &["!*"]],
            Reason::NoInterface,
            "no interface named ens1 is up, and none that is up has a subnet with 192.0.2.100 (not *)",
        ),
    ] {
        assert_eq!(choose(lists), Err(Refusal::new(reason, message)));
    }
}

#[test]
fn advertisements_select_services_by_their_labels() {
    let selector = |value: &str| {
        let tier = Requirement::In("tier".into(), vec![value.to_owned()]);
        Selector(vec![tier])
    };
    let mut world = shared(world());
    world.advertisements[0].services = Ok(vec![selector("front"), selector("edge")]);
    let refusal = world.refusal();
    assert_eq!(refusal.reason, Reason::NoAdvertisement);
    assert!(
        refusal.message.ends_with("selects the labels of default/web"),
        "{refusal:?}"
    );
    // One Service at the address is enough.
    let labels = BTreeMap::from([("tier".to_owned(), "edge".to_owned())]);
    world.other.as_mut().unwrap().labels = labels;
    world.candidate();
    world.other = None;
    world.advertisements.push(RawAdvertisement {
        name: "all".into(),
        ..advertisement(&["eth1"])
    });
    let only: BTreeSet<String> = world.candidate().interfaces;
    assert_eq!(
        only,
        BTreeSet::from(["eth1".to_owned()]),
        "not those of the other advertisement"
    );
}

#[test]
fn the_advertisement_that_prefers_the_node_most_counts() {
    let with = |name: &str, weight: i32, after: &str| RawAdvertisement {
        name: name.into(),
        preferred: Ok(vec![Preference {
            weight,
            nodes: Selector::default(),
        }]),
        preempt_after: Some(after.into()),
        ..advertisement(&[])
    };
    let candidate = |advertisements: &[RawAdvertisement]| {
        let world = World {
            advertisements: advertisements.to_vec(),
            ..world()
        };
        let candidate = world.candidate();
        (candidate.weight, candidate.preempt_after, candidate.conflict)
    };
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    let (light, heavy) = (with("a", 10, "1m"), with("b", 20, "2m"));
    let (never, yielding) = (
        with("c", 20, "Never"),
        RawAdvertisement {
            conflict: ConflictPolicy::Yield,
            ..with("d", 1, "0s")
        },
    );
    let defend = ConflictPolicy::Defend;
    assert_eq!(candidate(&[advertisement(&[])]), (0, minutes(5), defend));
    assert_eq!(
        candidate(&[light.clone(), heavy.clone()]),
        (20, minutes(2), defend)
    );
    assert_eq!(candidate(&[light.clone(), never.clone()]), (20, None, defend));
    assert_eq!(candidate(&[heavy, never.clone()]), (20, minutes(2), defend));
    assert_eq!(candidate(&[never, yielding]), (20, None, ConflictPolicy::Yield));
    // One that does not select this node has no say.
    let elsewhere = RawAdvertisement {
        nodes: Ok(vec![Selector(vec![Requirement::Exists("rack".into())])]),
        ..light
    };
    assert_eq!(candidate(&[elsewhere, advertisement(&[])]).0, 0);
}

#[test]
fn the_pool_says_how_to_probe_whatever_the_outcome() {
    let mut world = world();
    world.health.failure = Some(7);
    assert_eq!(world.evaluate()[&vip()].health.failure, Some(7));
    world.advertisements.clear();
    assert_eq!(world.evaluate()[&vip()].health.failure, Some(7));
}
