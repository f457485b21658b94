use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::announce::bgp::{Attributes, Wanted};
use fairlead_core::config::{GracefulRestart, Peer, PeerEndpoint, RemoteAsn};
use fairlead_core::model::Family;
use proptest::prelude::*;

use super::*;
use crate::bgp::session::{Surroundings, family_of, targets};

/// What a route says to a peer: the actions of the statement that let it through, and the next hop.
type Said = (api::Actions, IpAddr);

/// A daemon that does with steps what the real one does: routes are judged when they come, and all of them when a
/// session comes up; not when statements come and go.
#[derive(Default)]
struct Model {
    sets: BTreeMap<String, api::DefinedSet>,
    statements: Vec<api::Statement>,
    paths: BTreeMap<IpNet, Path>,
    peers: BTreeMap<String, BTreeMap<IpNet, Said>>,
}

impl Model {
    fn judge(&self, key: &str, prefix: IpNet, path: Path) -> Option<Said> {
        let communities = path.encode(prefix);
        let (_, path) = Path::decode(&communities).expect("ours");
        let address: IpAddr = key.split('%').next()?.parse().expect("an address");
        let host = IpNet::from(address).to_string();
        let marker = format!("{}:{}:{}", policy::MARKER, path.class.0[0], path.class.0[1]);
        let has = |set: &Option<api::MatchSet>, member: &String| {
            let set = set.as_ref().expect("a condition");
            self.sets
                .get(&set.name)
                .expect("the set is there")
                .list
                .contains(member)
        };
        let family = family_of(Family::of(prefix.addr()));
        let statement = self.statements.iter().find(|statement| {
            let conditions = statement.conditions.as_ref().expect("conditions");
            has(&conditions.neighbor_set, &host)
                && has(&conditions.large_community_set, &marker)
                && conditions.afi_safi_in.contains(&family)
        })?;
        let actions = statement.actions.clone().expect("actions");
        Some((actions, path.next_hop))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::DeletePeer(key) => assert!(self.peers.remove(&key).is_some(), "{key} is there"),
            Step::AddSet(set) => assert!(self.sets.insert(set.name.clone(), set).is_none()),
            Step::AddStatements(statements) => {
                for statement in statements {
                    assert!(self.statements.iter().all(|there| there.name != statement.name));
                    self.statements.push(statement);
                }
            }
            Step::Paths(paths) => {
                for (prefix, path) in paths {
                    match path {
                        Some(path) => self.paths.insert(prefix, path),
                        None => self.paths.remove(&prefix),
                    };
                    for key in self.peers.keys().cloned().collect::<Vec<_>>() {
                        let said = path.and_then(|path| self.judge(&key, prefix, path));
                        let table = self.peers.get_mut(&key).expect("the peer");
                        match said {
                            Some(said) => table.insert(prefix, said),
                            None => table.remove(&prefix),
                        };
                    }
                }
            }
            Step::AddPeer(peer) => {
                let key = peer.conf.expect("conf").neighbor_address;
                let judged = self
                    .paths
                    .iter()
                    .filter_map(|(prefix, path)| Some((*prefix, self.judge(&key, *prefix, *path)?)));
                let table = judged.collect();
                assert!(self.peers.insert(key, table).is_none());
            }
            Step::DeleteStatements(names) => {
                let count = self.statements.len();
                self.statements
                    .retain(|statement| !names.contains(&statement.name));
                assert_eq!(self.statements.len() + names.len(), count);
            }
            Step::DeleteSet(_, name) => {
                let used = |set: &Option<api::MatchSet>| set.as_ref().is_some_and(|set| set.name == name);
                for statement in &self.statements {
                    let conditions = statement.conditions.as_ref().expect("conditions");
                    assert!(!used(&conditions.neighbor_set) && !used(&conditions.large_community_set));
                }
                assert!(self.sets.remove(&name).is_some());
            }
        }
    }
}

fn peer(name: &str, address: IpAddr, families: Vec<Family>) -> Peer {
    Peer {
        name: name.to_owned(),
        my_asn: 64512,
        remote_asn: RemoteAsn::External,
        endpoint: PeerEndpoint::Address(address),
        port: 179,
        source_address: None,
        hold_time: Duration::from_secs(9),
        keepalive_time: Duration::from_secs(3),
        connect_retry_time: Duration::from_secs(2),
        ebgp_multihop: None,
        ttl_security: None,
        password_secret: None,
        bfd: None,
        graceful_restart: (name == "a").then_some(GracefulRestart {
            restart_time: Duration::from_secs(60),
            long_lived_time: None,
        }),
        vrf: None,
        families,
        nodes: vec![],
        disabled: false,
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn some_address() -> impl Strategy<Value = IpAddr> {
    (0..3u8, any::<bool>()).prop_map(|(last, six)| {
        let four = Ipv4Addr::new(192, 0, 2, last);
        if six {
            four.to_ipv6_mapped().segments_with_prefix()
        } else {
            four.into()
        }
    })
}

trait Documentation {
    fn segments_with_prefix(self) -> IpAddr;
}

impl Documentation for std::net::Ipv6Addr {
    fn segments_with_prefix(self) -> IpAddr {
        let [.., high, low] = self.segments();
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low).into()
    }
}

fn some_input() -> impl Strategy<Value = Input> {
    let families = prop_oneof![
        Just(vec![Family::V4, Family::V6]),
        Just(vec![Family::V4]),
        Just(vec![Family::V6])
    ];
    let sessions =
        prop::collection::btree_map(prop::sample::select(&NAMES[..]), (some_address(), families), 0..4);
    let attributes = (0..2u8, prop::option::of(0..2u32), prop::option::of(0..2u32)).prop_map(
        |(prepend, local_pref, med)| Attributes {
            prepend,
            local_pref,
            med,
            ..Attributes::default()
        },
    );
    let treatment = prop::collection::btree_map(prop::sample::select(&NAMES[..]), attributes, 0..4);
    let prefix = (0..4u8, any::<bool>()).prop_map(|(last, six)| {
        let address = Ipv4Addr::new(203, 0, 113, last);
        if six {
            IpNet::from(address.to_ipv6_mapped().segments_with_prefix())
        } else {
            IpAddr::from(address).into()
        }
    });
    let routes = prop::collection::btree_map(prefix, treatment, 0..6);
    (sessions, routes, any::<bool>(), any::<bool>()).prop_map(|(sessions, routes, v4, v6)| Input {
        wanted: Arc::new(Wanted {
            sessions: sessions
                .into_iter()
                .map(|(name, (address, families))| (name.to_owned(), peer(name, address, families)))
                .collect(),
            routes: routes
                .into_iter()
                .map(|(prefix, treatment)| {
                    let say = treatment.into_iter().map(|(name, say)| (name.to_owned(), say));
                    (prefix, Arc::new(say.collect()))
                })
                .collect(),
        }),
        passwords: BTreeMap::new(),
        addresses: OwnAddresses {
            v4: v4.then_some(Ipv4Addr::new(198, 51, 100, 1)),
            v6: v6.then(|| "2001:db8:9::1".parse().expect("an address")),
        },
    })
}

/// Does what is said to a peer say what is wanted?
fn says(said: &Said, wanted: &Attributes) -> bool {
    let (actions, _) = said;
    let local_pref = actions.local_pref.as_ref().map_or(0, |action| action.value);
    local_pref == wanted.local_pref.unwrap_or(100)
        && actions.med.as_ref().map(|action| action.value) == wanted.med.map(i64::from)
        && actions.as_prepend.as_ref().map_or(0, |action| action.repeat) == u32::from(wanted.prepend)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 4000 }))]

    /// From any input to any other: every peer ends up with the routes that are for it and no others, each as wanted,
    /// and nothing is left over.
    #[test]
    fn every_peer_gets_what_is_for_it(inputs in prop::collection::vec(some_input(), 1..5)) {
        let (mut model, mut held) = (Model::default(), Held::default());
        let mut holders = BTreeSet::new();
        for input in inputs {
            let around = Surroundings {
                input: &input,
                holders: &holders,
                neighbours: &BTreeMap::new(),
                has_interface: &|_| true,
            };
            let (targets, _) = targets(&around);
            let goal = goal(&input, &targets);
            for step in steps(&held, &goal) {
                model.step(step.clone());
                held.done(step);
            }
            prop_assert_eq!(steps(&held, &goal), vec![]);
            prop_assert_eq!(held.statements.len(), goal.policies.statements.len());
            prop_assert_eq!(model.sets.len(), goal.policies.sets.len());
            prop_assert_eq!(model.peers.len(), targets.len());
            for (name, target) in &targets {
                let table = &model.peers[&target.key];
                for (prefix, treatment) in &input.wanted.routes {
                    let family = Family::of(prefix.addr());
                    let has_hop = target.address.is_ipv6() || family == Family::V4 || input.addresses.v6.is_some();
                    let wanted = treatment.get(name).filter(|_| target.families.contains(&family) && has_hop);
                    match (table.get(prefix), wanted) {
                        (None, None) => {}
                        (Some(said), Some(wanted)) => {
                            prop_assert!(says(said, wanted), "{} to {}: {:?}, {:?}", prefix, name, said, wanted);
                            let own_hop = said.0.nexthop.is_some();
                            let same = Family::of(target.address) == family;
                            prop_assert!(own_hop || !said.1.is_unspecified(), "a next hop");
                            prop_assert!(own_hop == same || said.1.is_unspecified(), "the right one");
                        }
                        (said, wanted) => prop_assert!(false, "{} to {}: {:?}, {:?}", prefix, name, said, wanted),
                    }
                }
                prop_assert!(table.keys().all(|prefix| input.wanted.routes.contains_key(prefix)));
            }
            holders = targets.into_keys().collect();
        }
    }
}
