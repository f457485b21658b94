//! Several nodes that plan by what they know of each other, through random histories; and random configurations.

use proptest::prelude::*;

use super::*;

const ADDRESSES: [&str; 3] = ["203.0.113.0", "203.0.113.1", "203.0.113.4"];

#[derive(Clone, Debug)]
struct Node {
    world: World,
    name: NodeName,
    up: bool,
    /// Addresses for which it passes every filter.
    fit: BTreeSet<usize>,
    cordoned: bool,
    plan: Plan,
}

#[derive(Clone, Debug)]
enum Event {
    Fit(usize, usize, bool),
    Cordon(usize, bool),
    Depart(usize),
    Session(usize, bool),
    Crash(usize),
    Start(usize),
    /// The first hears what the second says now.
    Tell(usize, usize),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..4usize;
    prop_oneof![
        4 => (node.clone(), 0..ADDRESSES.len(), any::<bool>()).prop_map(|(n, a, yes)| Event::Fit(n, a, yes)),
        3 => (node.clone(), any::<bool>()).prop_map(|(n, yes)| Event::Cordon(n, yes)),
        1 => node.clone().prop_map(Event::Depart),
        2 => (node.clone(), any::<bool>()).prop_map(|(n, yes)| Event::Session(n, yes)),
        1 => node.clone().prop_map(Event::Crash),
        2 => node.clone().prop_map(Event::Start),
        6 => (node.clone(), node).prop_map(|(to, from)| Event::Tell(to, from)),
        4 => (0..8u64).prop_map(Event::Wait),
    ]
}

struct Cluster {
    nodes: Vec<Node>,
    now: u64,
}

impl Cluster {
    fn new(size: usize, aggregation: u8) -> Self {
        let advertisement = BgpAdvertisement {
            aggregation_v4: aggregation,
            ..advertisement("a")
        };
        let node = |n: usize| Node {
            world: world(std::slice::from_ref(&advertisement), &[]),
            name: NodeName(format!("node{n}")),
            up: true,
            fit: (0..ADDRESSES.len()).collect(),
            cordoned: false,
            plan: Plan::default(),
        };
        let mut cluster = Self {
            nodes: (0..size).map(node).collect(),
            now: 0,
        };
        cluster.settle();
        cluster
    }

    fn apply(&mut self, event: &Event) {
        let size = self.nodes.len();
        let node = |n: usize| n % size;
        match *event {
            Event::Fit(n, address, true) => _ = self.nodes[node(n)].fit.insert(address),
            Event::Fit(n, address, false) => _ = self.nodes[node(n)].fit.remove(&address),
            Event::Cordon(n, yes) => self.nodes[node(n)].cordoned = yes,
            Event::Depart(n) => self.nodes[node(n)].world.departing = true,
            Event::Session(n, yes) => {
                let peers = if yes { vec!["ext", "int"] } else { vec![] };
                let names = peers.into_iter().map(str::to_owned).collect();
                self.nodes[node(n)].world.established = names;
            }
            Event::Crash(n) => self.nodes[node(n)].up = false,
            Event::Start(n) => {
                let node = &mut self.nodes[node(n)];
                if !node.up {
                    node.up = true;
                    node.world.departing = false;
                    node.world.draining.clear();
                }
            }
            Event::Tell(to, from) => self.tell(node(to), node(from)),
            Event::Wait(seconds) => self.now += seconds,
        }
        self.plan();
    }

    fn tell(&mut self, to: usize, from: usize) {
        let from = &self.nodes[from];
        let (name, up) = (from.name.clone(), from.up);
        let record = Record {
            routed: from.plan.offers.clone(),
            ..Record::default()
        };
        let world = &mut self.nodes[to].world;
        if up {
            world.live.insert(name.clone());
            world.published.insert(name, record.into());
        } else {
            world.live.remove(&name);
        }
    }

    fn tell_all(&mut self) {
        for to in 0..self.nodes.len() {
            for from in 0..self.nodes.len() {
                self.tell(to, from);
            }
        }
        self.plan();
    }

    fn plan(&mut self) {
        for node in &mut self.nodes {
            for (n, address) in ADDRESSES.iter().enumerate() {
                let outcome = if node.fit.contains(&n) {
                    Ok(BgpCandidate {
                        cordoned: node.cordoned,
                    })
                } else {
                    Err(Refusal::new(Reason::NoLocalEndpoint, ""))
                };
                node.world.assign(address, &["a"], outcome);
            }
            node.plan = if node.up {
                node.world.planned_as(&node.name, self.now)
            } else {
                Plan::default()
            };
        }
    }

    /// All hear of all, and all drain times end.
    fn settle(&mut self) {
        self.tell_all();
        self.tell_all();
        self.now += DRAIN.as_secs();
        self.plan();
        self.tell_all();
    }

    /// What holds whatever the nodes know of each other.
    fn always(&self) -> Result<(), TestCaseError> {
        for node in self.nodes.iter().filter(|node| node.up) {
            let departing = node.world.departing;
            for (n, address) in ADDRESSES.iter().enumerate() {
                let address = ip(address);
                let covered = node
                    .plan
                    .wanted
                    .routes
                    .keys()
                    .any(|prefix| prefix.contains(&address));
                let fit = node.fit.contains(&n);
                prop_assert!(
                    fit || !covered,
                    "{}: a route for {}, which it is not fit for",
                    node.name,
                    address
                );
                let healthy = fit && !node.cordoned && !departing;
                prop_assert!(covered || !healthy, "{}: none for {}", node.name, address);
                let offered = node.plan.offers.contains(&address);
                let established = !node.world.established.is_empty();
                prop_assert_eq!(offered, healthy && established, "{}: {}", node.name, address);
                let others = node.world.published.iter().any(|(other, record)| {
                    *other != node.name && node.world.live.contains(other) && record.routed.contains(&address)
                });
                prop_assert!(
                    covered || !fit || others,
                    "{}: {} given up, nobody offers it",
                    node.name,
                    address
                );
            }
            // The plan is a function of what is known: once more is the same.
            let mut world = node.world.clone();
            prop_assert_eq!(&world.planned_as(&node.name, self.now), &node.plan);
        }
        Ok(())
    }

    /// What holds once all know of all.
    fn settled(&self) -> Result<(), TestCaseError> {
        for address in ADDRESSES.map(ip) {
            let n = ADDRESSES.iter().position(|text| ip(text) == address).unwrap();
            let able = |node: &&Node| node.up && node.fit.contains(&n) && !node.world.established.is_empty();
            let healthy = |node: &&Node| able(node) && !node.cordoned && !node.world.departing;
            let announces = |node: &&Node| node.plan.announced.contains_key(&address);
            let names = |filter: &dyn Fn(&&Node) -> bool| {
                let chosen = self.nodes.iter().filter(|node| filter(node));
                chosen.map(|node| node.name.clone()).collect::<Vec<_>>()
            };
            // All that are healthy; or if none is, all that could.
            let best = names(&healthy);
            let expected = if best.is_empty() { names(&able) } else { best };
            prop_assert_eq!(names(&announces), expected, "{}", address);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is told late or never: nothing goes out for what a node is not fit for, all healthy nodes announce, and
    /// who gives up has seen another one's offer. Once all is told, exactly the best announce.
    #[test]
    fn all_healthy_nodes_announce_and_the_last_one_stays(
        size in 1..4usize,
        aggregation in prop_oneof![Just(32u8), Just(31), Just(24)],
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut cluster = Cluster::new(size, aggregation);
        cluster.settled()?;
        for event in &events {
            cluster.apply(event);
            cluster.always()?;
        }
        cluster.settle();
        cluster.always()?;
        cluster.settled()?;
    }

    /// While what changes is told at once, no address is ever without an announcer that could have one.
    #[test]
    fn nobody_gives_up_an_address_that_nobody_takes(
        size in 1..4usize,
        aggregation in prop_oneof![Just(32u8), Just(24)],
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut cluster = Cluster::new(size, aggregation);
        for event in &events {
            cluster.apply(event);
            cluster.tell_all();
            cluster.tell_all();
            for (n, address) in ADDRESSES.iter().enumerate() {
                let able = |node: &&Node| node.up && node.fit.contains(&n) && !node.world.established.is_empty();
                let announced = cluster.nodes.iter().any(|node| node.plan.announced.contains_key(&ip(address)));
                prop_assert!(announced || !cluster.nodes.iter().any(|node| able(&node)), "{}", address);
            }
        }
    }

    /// Every candidate goes out by every advertisement once: in the aggregate if all that is assigned in it does.
    #[test]
    fn aggregates_stand_for_what_is_in_them(
        lengths in proptest::collection::vec(28..33u8, 1..4),
        assigned in proptest::collection::btree_map(0..32u8, (any::<bool>(), 1..8u8), 1..16),
    ) {
        let named: Vec<BgpAdvertisement> = lengths.iter().enumerate()
            .map(|(n, length)| BgpAdvertisement { aggregation_v4: *length, ..advertisement(&format!("a{n}")) })
            .collect();
        let mut world = world(&named, &[]);
        let of = |bits: u8| named.iter().enumerate().filter(move |(n, _)| bits >> n & 1 == 1).map(|(_, a)| a);
        for (last, (fit, bits)) in &assigned {
            let names: Vec<&str> = of(*bits).map(|a| a.name.as_str()).collect();
            let outcome = fit.then(BgpCandidate::default).ok_or_else(|| Refusal::new(Reason::ProbeFailed, ""));
            world.assign(&format!("203.0.113.{last}"), &names, outcome);
        }
        let mut expected = BTreeSet::new();
        for (n, advertisement) in named.iter().enumerate() {
            let own = || assigned.iter().filter(move |(_, (_, bits))| bits >> n & 1 == 1);
            for (last, _) in own().filter(|(_, (fit, _))| *fit) {
                let address = IpAddr::from([203, 0, 113, *last]);
                let prefix = IpNet::new(address, advertisement.aggregation_v4).unwrap().trunc();
                let whole = own().all(|(last, (fit, _))| *fit || !prefix.contains(&IpAddr::from([203, 0, 113, *last])));
                expected.insert(if whole { prefix } else { IpNet::from(address) });
            }
        }
        let routes: BTreeSet<IpNet> = world.plan().wanted.routes.into_keys().collect();
        prop_assert_eq!(routes, expected);
    }
}
