//! Plan → ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use fairlead_core::forward::{Backend, BackendKey, Forwarding, Outcome, Source, Target};
use fairlead_core::model::{Family, Protocol, TrafficPolicy};

use super::ruleset::{Action, Chain, Choice, FAMILIES, Key, Match, Rule, Ruleset, Set, Value};

/// Builds the table for a plan. `mark` is our bit of the conntrack mark.
pub fn build(plan: &Forwarding, mark: u32) -> Ruleset {
    let mut chains = fixed_chains(mark);
    let mut lists = BTreeMap::new();
    let mut elements = BTreeMap::new();
    for &vip in plan.addresses.keys() {
        let family = Family::of(vip);
        elements.insert((Set::Vips(family), Key::Address(vip)), Value::Member);
        if let Some(node) = plan.node_addresses.iter().find(|a| Family::of(**a) == family) {
            elements.insert((Set::Echo(family), Key::Address(vip)), Value::Address(*node));
        }
    }
    for range in &plan.pod_ranges {
        let set = Set::Pods(Family::of(range.addr()));
        elements.insert((set, Key::Range(*range)), Value::Member);
    }
    for address in hairpins(plan) {
        let set = Set::Hairpin(Family::of(address));
        elements.insert((set, Key::Pair(address, address)), Value::Member);
    }
    for (key, backend) in &plan.backends {
        chains.extend(backend_chains(key, backend, mark, &mut lists));
    }
    for (destination, target) in &plan.destinations {
        let Some(backend) = plan.backends.get(&target.backend) else {
            continue; // a plan always has them
        };
        let family = Family::of(destination.address);
        let (filter, ranges) = filter_target(target, backend);
        chains.extend(ranges);
        let key = Key::Destination(*destination);
        elements.insert((Set::Filter(family), key), Value::Goto(filter));
        if let Some(chain) = nat_target(&target.backend, backend) {
            elements.insert((Set::Nat(family), key), Value::Goto(chain));
        }
    }
    Ruleset {
        chains,
        lists,
        elements,
    }
}

/// Where the destinations of a backend go in the NAT chains; `None` when no packet of theirs gets past the filter.
fn nat_target(key: &BackendKey, backend: &Backend) -> Option<Chain> {
    match (backend.policy, backend.cluster.is_empty()) {
        (_, true) => None,
        (TrafficPolicy::Cluster, false) => Some(Chain::Cluster(key.clone())),
        (TrafficPolicy::Local, false) => Some(Chain::Local(key.clone())),
    }
}

/// Where a destination goes in the filter chains, and the chain of its source ranges if it has any.
fn filter_target(target: &Target, backend: &Backend) -> (Chain, Option<(Chain, Vec<Rule>)>) {
    let verdict = match (backend.outcome(Source::Outside), backend.outcome(Source::Pod)) {
        (Outcome::Forward { .. }, _) => Chain::Served,
        (_, Outcome::Forward { .. }) => Chain::Inside,
        _ => Chain::Refuse,
    };
    if target.source_ranges.is_empty() {
        return (verdict, None);
    }
    let chain = Chain::Ranges(target.backend.clone());
    let rules = vec![
        Rule::new(
            [Match::SourceOutside(target.source_ranges.clone())],
            [Action::Drop],
        ),
        Rule::new([], [Action::Goto(verdict)]),
    ];
    (chain.clone(), Some((chain, rules)))
}

/// The chains that choose an endpoint; what they choose from goes to `lists`.
fn backend_chains(
    key: &BackendKey,
    backend: &Backend,
    mark: u32,
    lists: &mut BTreeMap<Chain, Vec<SocketAddr>>,
) -> Vec<(Chain, Vec<Rule>)> {
    if backend.cluster.is_empty() {
        return Vec::new();
    }
    let mut choose = |chain: &Chain, endpoints: &[SocketAddr]| {
        lists.insert(chain.clone(), endpoints.to_vec());
        let choice = Choice {
            family: key.family,
            protocol: key.protocol,
            by_client: backend.affinity.is_some(),
            chain: chain.clone(),
            count: endpoints.len(),
        };
        Rule::new([Match::Protocol(key.protocol)], [Action::Dnat(choice)])
    };
    match backend.policy {
        TrafficPolicy::Cluster => {
            let chain = Chain::Cluster(key.clone());
            let any = choose(&chain, &backend.cluster);
            vec![(chain, vec![Rule::new([], [Action::Mark(mark)]), any])]
        }
        TrafficPolicy::Local => {
            let (chain, pick) = (Chain::Local(key.clone()), Chain::Pick(key.clone()));
            let mut rules = vec![
                Rule::new(
                    [Match::SourceIn(Set::Pods(key.family))],
                    [Action::Goto(pick.clone())],
                ),
                Rule::new(
                    [Match::SourceLocal],
                    [Action::Mark(mark), Action::Goto(pick.clone())],
                ),
            ];
            if !backend.local.is_empty() {
                rules.push(choose(&chain, &backend.local));
            }
            let any = choose(&pick, &backend.cluster);
            vec![(chain, rules), (pick, vec![any])]
        }
    }
}

/// Endpoints on this node that may be given a flow of their own, unmarked: the answer would go to the pod itself.
fn hairpins(plan: &Forwarding) -> BTreeSet<IpAddr> {
    plan.backends
        .values()
        .filter(|backend| backend.policy == TrafficPolicy::Local)
        .flat_map(|backend| &backend.cluster)
        .map(SocketAddr::ip)
        .filter(|address| plan.pod_ranges.iter().any(|range| range.contains(address)))
        .collect()
}

fn fixed_chains(mark: u32) -> BTreeMap<Chain, Vec<Rule>> {
    let by_family = |make: fn(Family) -> Rule| FAMILIES.map(make).to_vec();
    let to_vip = |family, chain| Rule::new([Match::DestinationIn(Set::Vips(family))], [Action::Goto(chain)]);
    let mut filter = vec![Rule::new([Match::KnownFlow], [Action::Accept])];
    filter.extend(FAMILIES.map(|family| Rule::new([], [Action::Lookup(Set::Filter(family))])));
    filter.extend(FAMILIES.map(|family| to_vip(family, Chain::Unserved)));
    let guard = FAMILIES.map(|family| to_vip(family, Chain::Refuse)).to_vec();
    // What is passed on to the owner before us is still addressed to the VIP, as it must be.
    let mut sent = vec![Rule::new([Match::Untracked], [Action::Accept])];
    sent.extend(guard.clone());
    let mut nat = by_family(|family| Rule::new([], [Action::Lookup(Set::Nat(family))]));
    nat.extend(by_family(|family| {
        Rule::new([Match::Echo(family)], [Action::DnatBy(Set::Echo(family))])
    }));
    let mut masquerade = vec![Rule::new([Match::Marked(mark)], [Action::Masquerade])];
    masquerade.extend(by_family(|family| {
        Rule::new([Match::Hairpin(Set::Hairpin(family))], [Action::Masquerade])
    }));
    let served = vec![
        // Out of its window or otherwise broken: resetting a flow that lives would be worse than silence.
        Rule::new([Match::Invalid], [Action::Drop]),
        Rule::new([Match::MidFlow], [Action::Reset]),
        Rule::new([], [Action::Accept]),
    ];
    let mut inside = by_family(|family| {
        Rule::new(
            [Match::SourceIn(Set::Pods(family))],
            [Action::Goto(Chain::Served)],
        )
    });
    inside.push(Rule::new([Match::SourceLocal], [Action::Goto(Chain::Served)]));
    inside.push(Rule::new([], [Action::Drop]));
    let refuse = vec![
        Rule::new([Match::Protocol(Protocol::Tcp)], [Action::Reset]),
        Rule::new([], [Action::Unreachable]),
    ];
    let mut unserved = by_family(|family| Rule::new([Match::Echo(family)], [Action::Accept]));
    unserved.push(Rule::new([Match::NeighbourDiscovery], [Action::Drop]));
    unserved.push(Rule::new([], [Action::Goto(Chain::Refuse)]));
    BTreeMap::from([
        (Chain::FilterPrerouting, filter.clone()),
        (Chain::FilterOutput, filter),
        (Chain::FilterForward, guard),
        (Chain::FilterSent, sent),
        (Chain::NatPrerouting, nat.clone()),
        (Chain::NatOutput, nat),
        (Chain::NatPostrouting, masquerade),
        (Chain::Served, served),
        (Chain::Inside, inside),
        (Chain::Refuse, refuse),
        (Chain::Unserved, unserved),
    ])
}
