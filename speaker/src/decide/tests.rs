use super::*;
use crate::l2::Sightings;
use crate::membership::wire::Meta;
use fairlead_core::announce::{Candidacy, Record, Verdict};
use fairlead_core::config::{Health, RawAdvertisement, RawPool};
use fairlead_core::model::{AssignedRecord, Node, Service, Wishes};
use fairlead_runtime::link::{AddressReport, AgentReport, AgentView};

use crate::links::Link;

mod remembered;
mod routed;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn vip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn service(name: &str, last: u8) -> Service {
    Service {
        ingress: vec![vip(last)],
        assigned: Some(AssignedRecord {
            addresses: vec![(vip(last), "pool".into())],
            since: 1,
        }),
        ..fairlead_core::testing::service(name)
    }
}

/// Everything is in order on node `me` for the Services `a` (.1) and `b` (.2).
fn index() -> World {
    let mut index = Index::default();
    for (name, last) in [("a", 1), ("b", 2)] {
        index
            .services
            .apply(&format!("default/{name}"), Some(service(name, last)));
        let slice = fairlead_core::testing::slice(name, None, "rs");
        index.slices.table.apply(&format!("default/{name}"), Some(slice));
    }
    let node = Node {
        name: "me".into(),
        uid: "uid".into(),
        labels: BTreeMap::new(),
        internal_ips: vec![vip(11)],
        addresses: vec![vip(11)],
        pod_cidrs: vec![],
        cordoned: false,
        deleting: false,
        excluded: false,
        autoscaler_taint: false,
        network_unavailable: false,
    };
    index.nodes.apply("me", Some(node));
    let pool = RawPool {
        name: "pool".into(),
        addresses: vec!["192.0.2.1-192.0.2.9".into()],
        ..RawPool::default()
    };
    index.pools.apply("pool", Some(pool));
    let advertisement = RawAdvertisement {
        name: "l2".into(),
        ..RawAdvertisement::default()
    };
    index.advertisements.apply("l2", Some(advertisement));
    let live = ["me".into(), "peer".into()].into();
    World {
        index,
        gossip: View {
            live,
            ..View::default()
        },
    }
}

/// What the API server says, and what the gossip says.
struct World {
    index: Index,
    gossip: View,
}

impl std::ops::Deref for World {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl std::ops::DerefMut for World {
    fn deref_mut(&mut self) -> &mut Index {
        &mut self.index
    }
}

fn publish(world: &mut World, node: &str, candidacies: &[(u8, Candidacy)]) {
    let record = Record {
        candidacies: candidacies.iter().map(|(last, c)| (vip(*last), *c)).collect(),
        ..Record::default()
    };
    world.gossip.records.insert(node.into(), record.into());
    world.gossip.metas.insert(
        node.into(),
        Meta {
            macs: vec![Mac([2, 0, 0, 0, 0, 9])],
        },
    );
}

fn links() -> Links {
    let link = Link {
        index: 2,
        mac: MAC,
        up: true,
        master: None,
        subnets: vec!["192.0.2.0/24".parse().unwrap()],
        gateways: Vec::new(),
    };
    Links::from([("eth0".into(), link)])
}

struct Run {
    ipvs: BTreeSet<IpAddr>,
    held: BTreeMap<IpAddr, Hold>,
    verdict: Verdict,
    programmed: BTreeSet<u8>,
    leaving: bool,
    departing: bool,
    sightings: Sightings,
    established: BTreeSet<String>,
    draining: BTreeMap<IpAddr, Duration>,
    uptime: Duration,
}

fn run() -> Run {
    Run {
        held: BTreeMap::new(),
        verdict: Verdict::Pass,
        programmed: [1, 2].into(),
        leaving: false,
        departing: false,
        sightings: Sightings::default(),
        ipvs: BTreeSet::new(),
        established: BTreeSet::new(),
        draining: BTreeMap::new(),
        uptime: Duration::from_secs(1),
    }
}

fn hold(last: u8, claim: i64) -> (IpAddr, Hold) {
    (vip(last), Hold { claim, losing: None })
}

fn decided(world: &World, run: &Run) -> Decision {
    let mut index = world.index.clone();
    with_inputs(world, run, |inputs| {
        decide(&mut index, &mut Remembered::default(), inputs)
    })
}

fn with_inputs(world: &World, run: &Run, decide: impl FnOnce(&Inputs) -> Decision) -> Decision {
    let now = Instant::now();
    let mut data_path = Memory::default();
    let programmed = AddressReport {
        plan: 1,
        unapplied_ms: None,
    };
    data_path.observe(&AgentView {
        last: Some(AgentReport {
            plan: 1,
            addresses: run
                .programmed
                .iter()
                .map(|last| (vip(*last), programmed.clone()))
                .collect(),
            ..AgentReport::default()
        }),
        connected: true,
        last_seen: Some(now),
    });
    decide(&Inputs {
        me: &"me".into(),
        class: ClassPolicy {
            serve_classless: true,
            metallb: false,
        },
        links: &links(),
        data_path: &data_path,
        verdicts: &Verdicts::from([(ProbeTarget::Proxy { address: vip(11) }, run.verdict.clone())]),
        gossip: &world.gossip,
        disputes: &disputes::Known {
            me: &"me".into(),
            sightings: &run.sightings,
            gossip: &world.gossip,
            lost: &BTreeMap::new(),
            ipvs: &run.ipvs,
            held: &run.held,
            now,
        },
        held: &run.held,
        offered: &[(vip(1), Duration::ZERO), (vip(2), Duration::ZERO)].into(),
        eligible_since: &BTreeMap::new(),
        routing: Routing {
            enabled: true,
            established: &run.established,
            draining: &run.draining,
            drain_time: Duration::from_secs(5),
        },
        leaving: run.leaving,
        departing: run.departing,
        now,
        uptime: run.uptime,
    })
}

fn reasons(decision: &Decision) -> Vec<(IpAddr, Reason)> {
    decision
        .held_back()
        .into_iter()
        .map(|(address, _, refusal)| (address, refusal.reason))
        .collect()
}

#[test]
fn nothing_is_announced_before_the_own_record_has_come_back() {
    let decision = decided(&index(), &run());
    assert_eq!(decision.plan.candidacies.len(), 2);
    assert!(decision.wanted(&links()).is_empty());
    assert_eq!(
        reasons(&decision),
        [(vip(1), Reason::NotElected), (vip(2), Reason::NotElected)]
    );
    assert_eq!(
        decision.targets(Timing::default()).len(),
        1,
        "both addresses share the probe of the proxy"
    );
}

#[test]
fn elected_addresses_are_announced_on_their_interface_and_the_rest_is_explained() {
    let mut index = index();
    let plain = Candidacy::default();
    let owner = Candidacy {
        claim: Some(4),
        ..plain
    };
    publish(&mut index, "me", &[(1, plain), (2, plain)]);
    publish(&mut index, "peer", &[(2, owner)]);
    let foreign = Service {
        ingress: vec!["8.8.8.8".parse().unwrap()],
        ..service("c", 3)
    };
    index.services.apply("default/c", Some(foreign));
    let decision = decided(&index, &run());
    let wanted = decision.wanted(&links());
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["eth0"]);
    let expected = Entry {
        claim: 1,
        yielding: false,
        policy: ConflictPolicy::Defend,
    };
    assert_eq!(
        wanted["eth0"].table.addresses,
        BTreeMap::from([("192.0.2.1".parse().unwrap(), expected)])
    );
    assert_eq!((wanted["eth0"].index, wanted["eth0"].mac), (2, MAC));
    assert_eq!(
        wanted["eth0"].table.speakers,
        [MAC, Mac([2, 0, 0, 0, 0, 9])].into()
    );
    assert_eq!(
        reasons(&decision),
        [
            (vip(2), Reason::NotElected),
            ("8.8.8.8".parse().unwrap(), Reason::NotOwned)
        ]
    );
    assert_eq!(decision.contested, BTreeSet::new());
}

#[test]
fn a_failing_probe_or_the_removal_of_the_installation_withdraws_at_once() {
    let mut index = index();
    let mine = Candidacy {
        claim: Some(1),
        ..Candidacy::default()
    };
    publish(&mut index, "me", &[(1, mine), (2, mine)]);
    let held = BTreeMap::from([hold(1, 1), hold(2, 1)]);
    let announced = |run: Run| {
        let decision = decided(&index, &run);
        (decision.announced().count(), decision.plan.candidacies.len())
    };
    assert_eq!(
        announced(Run {
            held: held.clone(),
            ..run()
        }),
        (2, 2)
    );
    let failing = Run {
        held: held.clone(),
        verdict: Verdict::Fail("HTTP 503".into()),
        ..run()
    };
    assert_eq!(announced(failing), (0, 0));
    let leaving = Run {
        held,
        leaving: true,
        ..run()
    };
    assert_eq!(announced(leaving), (0, 0));
}

#[test]
fn a_shared_address_is_announced_once_for_all_its_services() {
    let mut index = index();
    for (name, port) in [("a", 80), ("b", 443)] {
        let mut sharing = Service {
            wishes: Wishes {
                sharing_key: Some("key".into()),
                ..Wishes::default()
            },
            ..service(name, 1)
        };
        sharing.ports[0].port = port;
        index.services.apply(&format!("default/{name}"), Some(sharing));
    }
    let mine = Candidacy {
        claim: Some(1),
        ..Candidacy::default()
    };
    publish(&mut index, "me", &[(1, mine)]);
    let held = BTreeMap::from([hold(1, 1)]);
    let announced = |index: &World, verdict: Verdict| {
        let held = held.clone();
        let decision = decided(
            index,
            &Run {
                held,
                verdict,
                ..run()
            },
        );
        let announced: Vec<_> = decision
            .announced()
            .map(|(address, services, _)| (address, services.to_vec()))
            .collect();
        (
            announced,
            decision.held_back().len(),
            decision.targets(Timing::default()).len(),
        )
    };
    let both = ["a", "b"].map(|name| ServiceKey::new("default", name)).to_vec();
    let expected = (vec![(vip(1), both.clone())], 0, 1);
    assert_eq!(announced(&index, Verdict::Pass), expected);
    // Withdrawn for both together, and told once.
    assert_eq!(
        announced(&index, Verdict::Fail("HTTP 503".into())),
        (vec![], 1, 1)
    );
    // The one that loses its endpoints does not take the other's address away.
    index.slices.table.delete("default/a");
    assert_eq!(announced(&index, Verdict::Pass), expected);
}

#[test]
fn the_ipv4_address_of_a_dual_stack_service_does_not_wait_for_the_ipv6_one() {
    let mut index = index();
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let pool = RawPool {
        name: "pool".into(),
        addresses: vec!["192.0.2.1-192.0.2.9".into(), "2001:db8::/64".into()],
        ..RawPool::default()
    };
    index.pools.apply("pool", Some(pool));
    let dual = Service {
        families: vec![Family::V6, Family::V4],
        ingress: vec![v6, vip(1)],
        assigned: Some(AssignedRecord {
            addresses: vec![(v6, "pool".into()), (vip(1), "pool".into())],
            since: 1,
        }),
        ..service("a", 1)
    };
    index.services.apply("default/a", Some(dual));
    publish(&mut index, "me", &[(1, Candidacy::default())]);
    let decision = decided(&index, &run());
    let announced: Vec<IpAddr> = decision.announced().map(|(address, ..)| address).collect();
    assert_eq!(announced, [vip(1)]);
    assert!(!decision.plan.candidacies.contains_key(&v6));
    let held_back = decision.held_back();
    let (_, _, refusal) = held_back.iter().find(|(address, ..)| *address == v6).unwrap();
    assert_eq!(refusal.reason, Reason::AddressNotOnLink);
}

#[test]
fn addresses_of_both_families_are_announced_on_one_interface() {
    let mut index = index();
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let entry = Entry {
        claim: 7,
        yielding: false,
        policy: ConflictPolicy::Defend,
    };
    publish(&mut index, "me", &[(1, Candidacy::default())]);
    let mut decision = decided(&index, &run());
    let (evaluation, hold) = (
        decision.evaluations[&vip(1)].clone(),
        Hold {
            claim: 7,
            losing: None,
        },
    );
    decision.evaluations.insert(v6, evaluation);
    decision.plan.held.insert(v6, hold);
    decision.plan.standings.insert(v6, Standing::Owner { claim: 7 });
    let wanted = &decision.wanted(&links())["eth0"];
    assert_eq!(wanted.table.addresses.len(), 2);
    assert_eq!(wanted.table.addresses[&v6], entry);
}

#[test]
fn while_yielding_the_address_is_answered_for_but_not_announced_unasked() {
    let mut index = index();
    let cordoned = Candidacy {
        preempts: false,
        cordoned: true,
        claim: Some(1),
        ..Candidacy::default()
    };
    publish(&mut index, "me", &[(1, cordoned)]);
    publish(&mut index, "peer", &[(1, Candidacy::default())]);
    let held = BTreeMap::from([hold(1, 1)]);
    let decision = decided(&index, &Run { held, ..run() });
    let entry = decision.wanted(&links())["eth0"].table.addresses[&"192.0.2.1".parse().unwrap()];
    assert!(entry.yielding);
    assert_eq!(decision.contested, [vip(1)].into());
}

#[test]
fn what_a_speaker_leaves_behind() {
    let mut index = index();
    let mine = Candidacy {
        claim: Some(3),
        ..Candidacy::default()
    };
    publish(&mut index, "me", &[(1, mine), (2, mine)]);
    publish(&mut index, "peer", &[(2, Candidacy::default())]);
    let ending = Run {
        held: BTreeMap::from([hold(1, 3), hold(2, 3)]),
        departing: true,
        ..run()
    };
    let decision = decided(&index, &ending);
    assert!(
        decision
            .plan
            .candidacies
            .values()
            .all(|c| c.cordoned && c.weight < 0)
    );
    assert_eq!(decision.contested, [vip(2)].into());
    let parting = decision.parting();
    // Nobody else has the first: the next process goes on with its claim. The second is for the peer to take.
    assert_eq!(parting.plan.candidacies, BTreeMap::from([(vip(1), mine)]));
    assert_eq!(parting.announced().count(), 0);
    assert!(
        reasons(&parting)
            .iter()
            .all(|(_, reason)| *reason == Reason::Leaving)
    );
}

#[test]
fn targets_are_probed_as_their_pools_say_and_shared_ones_in_the_strictest_way() {
    let target = ProbeTarget::Proxy { address: vip(11) };
    let evaluation = |health| Evaluation {
        services: Vec::new(),
        outcome: Err(Refusal::new(Reason::ProbePending, "")),
        bgp: None,
        probes: BTreeSet::from([target.clone()]),
        health,
    };
    let quick = Health {
        interval: Some(Duration::from_millis(100)),
        ..Health::default()
    };
    let strict = Health {
        success: Some(5),
        ..Health::default()
    };
    let decision = Decision {
        evaluations: BTreeMap::from([
            (vip(1), evaluation(quick).into()),
            (vip(2), evaluation(strict).into()),
        ]),
        ..Decision::default()
    };
    let flags = Timing::default();
    let expected = flags.with(quick).strictest(flags.with(strict));
    assert_eq!(decision.targets(flags), BTreeMap::from([(target, expected)]));
    assert_eq!(
        (expected.interval, expected.thresholds.readmission),
        (Duration::from_millis(100), 5)
    );
}

#[test]
fn what_every_kernel_answers_for_is_not_announced_and_says_how_to_mend_it() {
    let mut index = index();
    let plain = Candidacy::default();
    publish(&mut index, "me", &[(1, plain), (2, plain)]);
    let bound = Run {
        ipvs: BTreeSet::from([vip(1)]),
        ..run()
    };
    let decision = decided(&index, &bound);
    let announced: Vec<IpAddr> = decision.announced().map(|(address, ..)| address).collect();
    assert_eq!(announced, [vip(2)]);
    let held_back = decision.held_back();
    let [(address, _, refusal)] = held_back.as_slice() else {
        panic!("{held_back:?}");
    };
    assert_eq!((*address, refusal.reason), (vip(1), Reason::StrictARPNeeded));
    assert!(refusal.message.contains("ipvs.strictARP"), "{}", refusal.message);
}
