//! Addresses and advertisements → sessions and routes.
//!
//! | this node | then |
//! |---|---|
//! | has not passed every filter for an address | no route for it, at once |
//! | has | the route goes out to every peer of its advertisements that has a session here |
//! | has, but is cordoned or its speaker ends | at once as a less preferred one |
//! | … and for the drain time a live other node has offered the address | none any more |
//!
//! So a node which is the only one goes on, however long it is cordoned, and one that has withdrawn comes back as soon as
//! nobody else offers the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::attributes::unite;
use super::{Treatment, Wanted};
use crate::announce::eligibility::Evaluations;
use crate::announce::record::Records;
use crate::config::{BgpAdvertisement, Peer};
use crate::model::{Family, NodeName};
use crate::reason::{Reason, Refusal};
use crate::selector::any_matches;

/// What the plan is made of.
pub struct Input<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Labels of its Node object; empty if there is none.
    pub labels: &'a BTreeMap<String, String>,
    /// Does the speaker run with BGP at all?
    pub enabled: bool,
    /// The accepted peers.
    pub peers: &'a BTreeMap<String, Peer>,
    /// The accepted advertisements.
    pub advertisements: &'a BTreeMap<String, BgpAdvertisement>,
    /// What the filters said of every assigned address.
    pub evaluations: &'a Evaluations,
    /// All published records.
    pub published: &'a Records,
    /// The nodes that are alive.
    pub live: &'a BTreeSet<NodeName>,
    /// The peers with which this node has an established session now.
    pub established: &'a BTreeSet<String>,
    /// [`Plan::draining`] of the last plan.
    pub draining: &'a BTreeMap<IpAddr, Duration>,
    /// This speaker is shutting down.
    pub departing: bool,
    /// How long routes go out as less preferred ones before they are withdrawn.
    pub drain_time: Duration,
    /// Now, on any monotonic clock.
    pub now: Duration,
}

/// How an address goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// In which routes: its own, or aggregates.
    pub prefixes: BTreeSet<IpNet>,
    /// To which peers, of those with which the session is established; never empty.
    pub peers: Arc<BTreeSet<String>>,
    /// As less preferred.
    pub draining: bool,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sessions and routes. Routes go to peers also before their session is established.
    pub wanted: Wanted,
    /// The addresses that are announced on an established session.
    pub announced: BTreeMap<IpAddr, Announced>,
    /// The addresses that have passed every filter and are not announced, and why.
    pub refusals: BTreeMap<IpAddr, Refusal>,
    /// Addresses whose advertisements contradict each other. They go out nevertheless.
    pub conflicts: BTreeMap<IpAddr, Refusal>,
    /// The addresses that this node offers to announce for nodes that drain; goes into its record.
    pub offers: BTreeSet<IpAddr>,
    /// While this node drains: since when others have offered the address without a break; goes into the next plan.
    pub draining: BTreeMap<IpAddr, Duration>,
    /// Addresses that are still announced although others offer them, until the drain time is over.
    pub yielding: BTreeSet<IpAddr>,
    /// When to plan again although nothing changes.
    pub wake: Option<Duration>,
}

/// Decides for every assigned address.
pub fn plan(input: &Input) -> Plan {
    let mut plan = Plan::default();
    if input.enabled {
        plan.wanted.sessions = sessions(input);
    }
    let going = going(input, &mut plan);
    let routes = routes(input, &going);
    let mut kinds: BTreeMap<(&Vec<&str>, Family, bool), Kind> = BTreeMap::new();
    for (prefix, route) in &routes {
        let family = Family::of(prefix.addr());
        let sessions = &plan.wanted.sessions;
        let kind = kinds
            .entry((&route.advertisements, family, route.drains))
            .or_insert_with(|| Kind::of(input, sessions, route, family));
        for &address in &route.members {
            if let Some(conflict) = &kind.conflict {
                plan.conflicts.entry(address).or_insert_with(|| conflict.clone());
            }
            if !kind.established.is_empty() {
                let known = plan.announced.entry(address).or_insert_with(|| Announced {
                    prefixes: BTreeSet::new(),
                    peers: kind.established.clone(),
                    draining: route.drains,
                });
                known.prefixes.insert(*prefix);
                if !Arc::ptr_eq(&known.peers, &kind.established) {
                    Arc::make_mut(&mut known.peers).extend(kind.established.iter().cloned());
                }
            }
        }
        if !kind.treatment.is_empty() {
            plan.wanted.routes.insert(*prefix, kind.treatment.clone());
        }
    }
    for (&address, drains) in &going {
        if !plan.announced.contains_key(&address) {
            let refusal = silent(input, &plan, address);
            plan.refusals.insert(address, refusal);
        } else if !drains {
            plan.offers.insert(address);
        }
    }
    let announced = &plan.announced;
    plan.yielding.retain(|address| announced.contains_key(address));
    plan
}

/// What routes of the same advertisements and family have in common.
struct Kind {
    treatment: Arc<Treatment>,
    established: Arc<BTreeSet<String>>,
    conflict: Option<Refusal>,
}

impl Kind {
    fn of(input: &Input, sessions: &BTreeMap<String, Peer>, route: &Route, family: Family) -> Self {
        let named = route.advertisements.iter();
        let own: Vec<_> = named.filter_map(|name| input.advertisements.get(*name)).collect();
        let united = unite(&own, sessions, family, input.labels, route.drains);
        let established = united
            .treatment
            .keys()
            .filter(|peer| input.established.contains(*peer));
        Self {
            established: Arc::new(established.cloned().collect()),
            conflict: united
                .conflict
                .map(|message| Refusal::new(Reason::ConflictingAttributes, message)),
            treatment: Arc::new(united.treatment),
        }
    }
}

fn sessions(input: &Input) -> BTreeMap<String, Peer> {
    let here = |peer: &Peer| !peer.disabled && any_matches(&peer.nodes, input.labels);
    let own = input.peers.iter().filter(|(_, peer)| here(peer));
    own.map(|(name, peer)| (name.clone(), peer.clone())).collect()
}

/// The addresses that go out, and whether as less preferred ones.
fn going(input: &Input, plan: &mut Plan) -> BTreeMap<IpAddr, bool> {
    let mut going = BTreeMap::new();
    for (&address, evaluation) in input.evaluations {
        let Some(Ok(candidate)) = evaluation.bgp.as_ref().map(|routed| &routed.outcome) else {
            continue;
        };
        let drains = candidate.cordoned || input.departing;
        if drains && let Some(other) = other_offer(input, address) {
            let since = input.draining.get(&address).copied().unwrap_or(input.now);
            plan.draining.insert(address, since);
            let end = since.saturating_add(input.drain_time);
            if input.now >= end {
                let refusal = drained(input, other);
                plan.refusals.insert(address, refusal);
                continue;
            }
            plan.yielding.insert(address);
            plan.wake = Some(plan.wake.map_or(end, |wake| wake.min(end)));
        }
        going.insert(address, drains);
    }
    going
}

fn other_offer<'a>(input: &Input<'a>, address: IpAddr) -> Option<&'a NodeName> {
    let others = input
        .published
        .iter()
        .filter(|(node, _)| *node != input.me && input.live.contains(*node));
    let mut offers = others.filter(|(_, record)| record.routed.contains(&address));
    offers.next().map(|(node, _)| node)
}

fn drained(input: &Input, other: &NodeName) -> Refusal {
    let why = if input.departing {
        "the speaker of this node is shutting down".to_owned()
    } else {
        format!("node {} is cordoned", input.me)
    };
    Refusal::new(
        Reason::Draining,
        format!("{why}; node {other} announces the address"),
    )
}

/// Why an address that goes out to everybody who is there goes out to nobody.
fn silent(input: &Input, plan: &Plan, address: IpAddr) -> Refusal {
    if !input.enabled {
        let message = "the speaker runs without BGP (chart value speaker.bgp.enabled)";
        return Refusal::new(Reason::BgpNotEnabled, message);
    }
    let routed = input
        .evaluations
        .get(&address)
        .and_then(|evaluation| evaluation.bgp.as_ref());
    let names: BTreeSet<&String> = routed
        .into_iter()
        .flat_map(|routed| &routed.advertisements)
        .collect();
    let family = Family::of(address);
    let own = names.iter().filter_map(|name| input.advertisements.get(*name));
    let peers: BTreeSet<&str> = own
        .flat_map(|advertisement| {
            let wants = |name: &str| {
                advertisement.peers.is_empty() || advertisement.peers.iter().any(|peer| peer == name)
            };
            let carry = plan
                .wanted
                .sessions
                .values()
                .filter(|peer| peer.families.contains(&family));
            carry
                .map(|peer| peer.name.as_str())
                .filter(move |name| wants(name))
        })
        .collect();
    let list = |names: Vec<&str>| names.join(", ");
    let message = if peers.is_empty() {
        let names = list(names.iter().map(|name| name.as_str()).collect());
        format!(
            "no enabled BGPPeer of BGPAdvertisement {names} that carries {family} is for node {}",
            input.me
        )
    } else {
        let peers = list(peers.into_iter().collect());
        format!("no session of this node with BGPPeer {peers} is established")
    };
    Refusal::new(Reason::NoSession, message)
}

/// One route: of which advertisements, and which addresses go out by it.
#[derive(Debug, Default)]
struct Route<'a> {
    advertisements: Vec<&'a str>,
    members: Vec<IpAddr>,
    drains: bool,
}

impl<'a> Route<'a> {
    fn take(&mut self, advertisement: &'a str, address: IpAddr, drains: bool) {
        if let Err(place) = self.advertisements.binary_search(&advertisement) {
            self.advertisements.insert(place, advertisement);
        }
        self.members.push(address);
        self.drains |= drains;
    }
}

/// An aggregate stands for its addresses only while every assigned one in it goes out: it would draw the traffic of the
/// others to this node. Otherwise those that do go out by themselves.
fn routes<'a>(input: &Input<'a>, going: &BTreeMap<IpAddr, bool>) -> BTreeMap<IpNet, Route<'a>> {
    let mut aggregates: BTreeMap<(IpNet, &str), Vec<IpAddr>> = BTreeMap::new();
    let mut routes: BTreeMap<IpNet, Route> = BTreeMap::new();
    for (&address, evaluation) in input.evaluations {
        let routed = evaluation.bgp.as_ref();
        for name in routed.into_iter().flat_map(|routed| &routed.advertisements) {
            let Some(advertisement) = input.advertisements.get(name) else {
                continue;
            };
            let (host, prefix) = (IpNet::from(address), aggregate(address, advertisement));
            if prefix != host {
                aggregates.entry((prefix, name)).or_default().push(address);
            } else if let Some(drains) = going.get(&address) {
                routes.entry(host).or_default().take(name, address, *drains);
            }
        }
    }
    for ((prefix, name), members) in aggregates {
        let whole = members.iter().all(|address| going.contains_key(address));
        for address in members {
            if let Some(drains) = going.get(&address) {
                let prefix = if whole { prefix } else { IpNet::from(address) };
                routes.entry(prefix).or_default().take(name, address, *drains);
            }
        }
    }
    routes
}

fn aggregate(address: IpAddr, advertisement: &BgpAdvertisement) -> IpNet {
    let length = match Family::of(address) {
        Family::V4 => advertisement.aggregation_v4,
        Family::V6 => advertisement.aggregation_v6,
    };
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |prefix| prefix.trunc())
}
